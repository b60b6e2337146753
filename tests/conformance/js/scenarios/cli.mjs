// The command line, `e2b`.
import { spawn } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'

const options = { packages: ['@e2b/cli'], patience: 240_000 }

/** Runs `e2b` with the arguments; what it printed, and how it ended. */
function e2b(args, { input, cwd, seconds = 60 } = {}) {
  const program = path.join(process.env.CONFORMANCE_MODULES, '@e2b/cli/dist/index.js')
  const home = fs.mkdtempSync(path.join(os.tmpdir(), 'conformance-home-'))
  const child = spawn(process.execPath, [program, ...args], { cwd, env: { ...process.env, HOME: home, NO_COLOR: '1', E2B_DISABLE_UPDATE_CHECK: '1' } })
  let text = ''
  child.stdout.on('data', (data) => (text += data))
  child.stderr.on('data', (data) => (text += data))
  child.stdin.end(input ?? '')
  const timer = setTimeout(() => child.kill('SIGKILL'), seconds * 1000)
  return new Promise((resolve) => child.on('close', (code) => {
    clearTimeout(timer)
    resolve({ code, text })
  }))
}

async function must(t, args, more) {
  const done = await e2b(args, more)
  t.equal(done.code, 0, `e2b ${args.join(' ')}: ${done.text.slice(-300)}; its exit code`)
  return done.text
}

/** A sandbox made by the command line, detached. */
async function made(t, ...more) {
  const text = await must(t, ['sandbox', 'create', ...more, '--detach'])
  const id = text.match(/\bi[a-z0-9]{10,}\b/)?.[0]
  t.check(id, `an id in ${text}`)
  t.undo(() => e2b(['sandbox', 'kill', id]))
  return id
}

async function aSandboxesLife(t) {
  const id = await made(t, 'base')
  t.contains(await must(t, ['sandbox', 'list']), id, 'list')
  t.contains(await must(t, ['sandbox', 'info', id]), id, 'info')
  t.contains(await must(t, ['sandbox', 'list', '--format', 'json']), `"${id}"`, 'list as JSON')
  await must(t, ['sandbox', 'pause', id])
  t.contains(await must(t, ['sandbox', 'list', '--state', 'paused']), id, 'list of paused ones')
  await must(t, ['sandbox', 'resume', id])
  await must(t, ['sandbox', 'kill', id])
  t.check(!(await must(t, ['sandbox', 'list'])).includes(id), 'it is gone')
}

async function commandsAreRun(t) {
  const id = await made(t, 'base')
  t.contains(await must(t, ['sandbox', 'exec', id, 'echo', 'from-inside']), 'from-inside', 'exec')
  t.equal((await e2b(['sandbox', 'exec', id, 'echo here; exit 3'])).code, 3, 'its exit code')
}

async function metricsAndLogs(t) {
  const id = await made(t, 'base')
  await t.sleep(2000)
  await must(t, ['sandbox', 'metrics', id])
  await must(t, ['sandbox', 'logs', id])
}

async function templatesAreBuilt(t) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'conformance-'))
  const name = `conf-cli-${t.mark}`
  fs.writeFileSync(path.join(folder, 'e2b.Dockerfile'), 'FROM e2bdev/base\nRUN echo from-cli > /tmp/cli.txt\n')
  await must(t, ['template', 'create', name], { cwd: folder, seconds: 200 })
  t.contains(await must(t, ['template', 'list']), name, 'list')
  const id = await made(t, name)
  t.contains(await must(t, ['sandbox', 'exec', id, 'cat', '/tmp/cli.txt']), 'from-cli', 'a sandbox of it')
  await must(t, ['template', 'delete', name, '--yes'])
}

export function register(scenario) {
  for (const run of [aSandboxesLife, commandsAreRun, metricsAndLogs, templatesAreBuilt]) scenario('cli', run, options)
}
