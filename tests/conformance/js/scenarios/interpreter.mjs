// The code interpreter.
const options = { packages: ['@e2b/code-interpreter'], patience: 150_000 }
// Of a cluster, whose images come from registries alone.
const NO_IMAGE = 'the cluster allows no image of it: servers on one machine make it of packages, and whoever has a registry can push it there'

async function interpreter(t, more = {}) {
  try {
    return await t.sandbox(process.env.CONFORMANCE_CODE_TEMPLATE, { timeoutMs: 280_000, ...more })
  } catch (error) {
    if (/does not exist/.test(error.message)) t.skip(`the server has no such template: ${error.message}`)
    if (/is not one of this tenant's/.test(error.message)) t.skip(NO_IMAGE)
    throw error
  }
}

async function resultsAndState(t) {
  const sandbox = await interpreter(t)
  const done = await sandbox.runCode('x = 1; x + 41')
  t.equal([done.text, done.error, done.executionCount], ['42', undefined, 1], 'the execution')
  t.equal((await sandbox.runCode('x')).text, '1', 'state is kept')
  t.check(done.toJSON(), 'toJSON')
  t.equal([[...done.results[0].formats()], done.results[0].toJSON().text], [[], '42'], 'formats of a result, beside its text')
}

async function outputAndErrors(t) {
  const sandbox = await interpreter(t)
  const seen = []
  const done = await sandbox.runCode("import sys\nprint('out')\nprint('err', file=sys.stderr)\n1/0", {
    onStdout: (message) => { seen.push(message.line) }, onStderr: (message) => { seen.push(message.line) }, onError: (error) => { seen.push(error.name) } })
  t.equal([done.logs.stdout.join(''), done.logs.stderr.join('')], ['out\n', 'err\n'], 'the logs')
  t.equal(new Set(seen), new Set(['out\n', 'err\n', 'ZeroDivisionError']), 'the callbacks')
  t.equal([done.error.name, done.error.value], ['ZeroDivisionError', 'division by zero'], 'the error')
}

async function chartsAndTables(t) {
  const sandbox = await interpreter(t)
  const done = await sandbox.runCode("import matplotlib.pyplot as plt\nplt.bar(['a', 'b'], [1, 2]); plt.title('T')\nplt.show()")
  t.check(done.results[0].png, 'a png')
  t.equal([done.results[0].chart.type, done.results[0].chart.title], ['bar', 'T'], 'the chart')
  const table = await sandbox.runCode("import pandas as pd\npd.DataFrame({'a': [1, 2]})")
  t.equal(table.results[0].data, { a: [1, 2] }, 'data')
}

async function contextsAreApart(t) {
  const sandbox = await interpreter(t)
  const context = await sandbox.createCodeContext({ cwd: '/tmp', language: 'python' })
  t.equal((await sandbox.runCode('import os; os.getcwd()', { context })).text, '/tmp', 'its directory')
  t.check((await sandbox.listCodeContexts()).some((each) => each.id === context.id), 'it is listed')
  await sandbox.runCode('kept = 1', { context })
  await sandbox.restartCodeContext(context)
  t.equal((await sandbox.runCode('kept', { context })).error.name, 'NameError', 'after a restart')
  await sandbox.removeCodeContext(context.id)
  t.check(!(await sandbox.listCodeContexts()).some((each) => each.id === context.id), 'it is gone')
}

async function environmentAndLimits(t) {
  const sandbox = await interpreter(t, { envs: { OUTER: 'one' } })
  t.equal((await sandbox.runCode("import os; os.environ['OUTER'] + os.environ['INNER']", { envs: { INNER: 'two' } })).text, 'onetwo', 'both')
  await t.rejects('TimeoutError', sandbox.runCode('import time; time.sleep(100)', { timeoutMs: 3000 }))
}

export function register(scenario) {
  for (const run of [resultsAndState, outputAndErrors, chartsAndTables, contextsAreApart, environmentAndLimits]) scenario('code-interpreter', run, options)
}
