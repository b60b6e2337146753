// Commands and terminals.
async function outputComesBack(t) {
  const sandbox = await t.sandbox()
  const done = await sandbox.commands.run('echo out; echo err >&2')
  t.equal([done.stdout, done.stderr, done.exitCode, done.error ?? ''], ['out\n', 'err\n', 0, ''], 'the result')
  const error = await t.rejects('CommandExitError', sandbox.commands.run('echo o; echo e >&2; exit 7'))
  t.equal([error.exitCode, error.stdout, error.stderr], [7, 'o\n', 'e\n'], 'a failure')
}

async function textPassesUnchanged(t) {
  const sandbox = await t.sandbox()
  for (const text of ['two\nlines', '!@#$%^&*()_+{}', 'ünïcödé 漢字 🚀']) {
    await sandbox.files.write('said.txt', text)
    t.equal((await sandbox.commands.run('cat said.txt')).stdout, text, 'the output')
  }
  t.equal((await sandbox.commands.run("printf '\\xe6\\xbc'; sleep 0.3; printf '\\xa2'")).stdout, '漢', 'a character in two writes')
  const long = await sandbox.commands.run('seq 1 200000')
  t.check(long.stdout.endsWith('199999\n200000\n') && long.stdout.length === 1288895, `much output, got ${long.stdout.length}`)
}

async function whoWhereAndWithWhat(t) {
  const sandbox = await t.sandbox(undefined, { envs: { A: 'sandbox', B: 'sandbox' } })
  t.equal((await sandbox.commands.run('id -un; pwd; echo $A $B', { envs: { A: 'call' } })).stdout, 'user\n/home/user\ncall sandbox\n', 'as the user')
  t.equal((await sandbox.commands.run('id -u; pwd', { user: 'root', cwd: '/tmp' })).stdout, '0\n/tmp\n', 'as root elsewhere')
  await t.rejects('AuthenticationError', sandbox.commands.run('true', { user: 'nobody-there' }))
  await t.rejects('InvalidArgumentError', sandbox.commands.run('true', { cwd: '/not/there' }))
}

async function outputStreams(t) {
  const sandbox = await t.sandbox()
  const seen = []
  await sandbox.commands.run('echo first; sleep 1; echo second', { onStdout: (text) => { seen.push([Date.now(), text]) } })
  t.equal(seen.map(([, text]) => text), ['first\n', 'second\n'], 'what the callback saw')
  t.check(seen[1][0] - seen[0][0] > 500, 'the first before the second was written')
}

async function timeLimits(t) {
  const sandbox = await t.sandbox()
  await t.rejects('TimeoutError', sandbox.commands.run('sleep 300', { timeoutMs: 2000 }))
  t.equal((await sandbox.commands.run('sleep 2; echo done', { timeoutMs: 0 })).stdout, 'done\n', 'without a limit')
}

async function handles(t) {
  const sandbox = await t.sandbox()
  const handle = await sandbox.commands.run('echo out; echo err >&2; sleep 0.3; exit 3', { background: true })
  const error = await t.rejects('CommandExitError', handle.wait())
  t.equal([error.exitCode, handle.exitCode, handle.stdout, handle.stderr], [3, 3, 'out\n', 'err\n'], 'wait')
  t.check(handle.error !== null, 'error')
  const other = await sandbox.commands.run('sleep 100', { background: true })
  t.check((await sandbox.commands.list()).some((each) => each.pid === other.pid), 'it is listed')
  t.equal([await other.kill(), await sandbox.commands.kill(999999)], [true, false], 'kill')
  await t.rejects('CommandExitError', other.wait())
  t.equal(await sandbox.commands.kill(other.pid), false, 'kill of what is gone')
}

async function input(t) {
  const sandbox = await t.sandbox()
  const one = await sandbox.commands.run('cat', { background: true, stdin: true })
  await sandbox.commands.sendStdin(one.pid, 'Hello, ')
  await one.sendStdin(new TextEncoder().encode('漢字!'))
  await one.closeStdin()
  t.equal((await one.wait()).stdout, 'Hello, 漢字!', 'what came back')
  const two = await sandbox.commands.run('cat', { background: true, stdin: true })
  await sandbox.commands.closeStdin(two.pid)
  t.equal((await two.wait()).stdout, '', 'nothing')
  await t.rejects('NotFoundError', sandbox.commands.sendStdin(999999, 'x'))
}

async function reconnects(t) {
  const sandbox = await t.sandbox()
  const handle = await sandbox.commands.run('read go; echo went $go', { background: true, stdin: true })
  await handle.disconnect()
  const again = await sandbox.commands.connect(handle.pid)
  await sandbox.commands.sendStdin(handle.pid, 'there\n')
  t.equal((await again.wait()).stdout, 'went there\n', 'the result')
  await t.rejects('NotFoundError', sandbox.commands.connect(999999))
}

async function manyRunAtOnce(t) {
  const sandbox = await t.sandbox()
  const said = await Promise.all(Array.from({ length: 30 }, async (_, n) => (await sandbox.commands.run(`sleep 0.2; echo ${n}`)).stdout))
  t.equal(said, Array.from({ length: 30 }, (_, n) => `${n}\n`), 'thirty answers')
}

async function aKilledSandboxEndsThem(t) {
  const sandbox = await t.sandbox()
  const handle = await sandbox.commands.run('sleep 60', { background: true })
  await sandbox.kill()
  await t.rejects('SandboxError', handle.wait())
}

class Terminal {
  shown = ''
  options = { cols: 80, rows: 24, onData: (data) => { this.shown += new TextDecoder().decode(data) } }
  constructor(sandbox) {
    this.sandbox = sandbox
  }
  async open(more) {
    this.handle = await this.sandbox.pty.create({ ...this.options, ...more })
    return this
  }
  type(text) {
    return this.sandbox.pty.sendInput(this.handle.pid, new TextEncoder().encode(text))
  }
}

async function aTerminalIsAShell(t) {
  const terminal = await new Terminal(await t.sandbox()).open({ envs: { INNER: 'within' }, cwd: '/tmp', user: 'root' })
  await terminal.type('echo "<$(id -un) $(pwd) $INNER $(stty size)>"; exit\n')
  t.equal((await terminal.handle.wait()).exitCode, 0, 'its exit code')
  t.contains(terminal.shown, '<root /tmp within 24 80>', 'what it showed')
}

async function terminalsAreResizedLeftAndKilled(t) {
  const sandbox = await t.sandbox()
  const terminal = await new Terminal(sandbox).open()
  await sandbox.pty.resize(terminal.handle.pid, { cols: 111, rows: 33 })
  await terminal.handle.disconnect()
  const again = new Terminal(sandbox)
  again.handle = await sandbox.pty.connect(terminal.handle.pid, { onData: again.options.onData })
  await again.type('echo "<$(stty size)>"; exit\n')
  await again.handle.wait()
  t.contains(again.shown, '<33 111>', 'what it showed')
  const other = await new Terminal(sandbox).open()
  t.equal([await sandbox.pty.kill(other.handle.pid), await sandbox.pty.kill(999999)], [true, false], 'kill')
}

export function register(scenario) {
  for (const run of [outputComesBack, textPassesUnchanged, whoWhereAndWithWhat, outputStreams, timeLimits, handles, input, reconnects, manyRunAtOnce,
    aKilledSandboxEndsThem]) scenario('commands', run)
  for (const run of [aTerminalIsAShell, terminalsAreResizedLeftAndKilled]) scenario('pty', run)
}
