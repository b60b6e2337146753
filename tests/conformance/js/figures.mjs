// Times what users of the JavaScript client wait for, so many times, and prints a line of JSON for each figure.

import assert from 'node:assert'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join } from 'node:path'

const modules = process.env.CONFORMANCE_MODULES
const { Sandbox } = createRequire(join(modules, '_'))('e2b')
const { version } = JSON.parse(readFileSync(join(modules, 'e2b/package.json')))

async function timed(work) {
  const begun = performance.now()
  const result = await work()
  return [result, performance.now() - begun]
}

async function createAndRun() {
  const sandbox = await Sandbox.create()
  assert.equal((await sandbox.commands.run('echo hi')).stdout, 'hi\n')
  return sandbox
}

await (await createAndRun()).kill() // what is cached afterwards
const [both, run] = [[], []]
for (let sample = 0; sample < Number(process.argv[2]); sample++) {
  const [sandbox, took] = await timed(createAndRun)
  both.push(took)
  run.push((await timed(() => sandbox.commands.run('echo hi')))[1])
  await sandbox.kill()
}
console.log(JSON.stringify({ figure: `JavaScript e2b ${version}: create -> commands.run`, ms: both }))
console.log(JSON.stringify({ figure: `JavaScript e2b ${version}: commands.run`, ms: run }))
