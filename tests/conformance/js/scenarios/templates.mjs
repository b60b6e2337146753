// Templates, volumes and secrets.
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'

const patience = 240_000

async function everyStepIsDescribed(t) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'conformance-'))
  fs.writeFileSync(path.join(folder, 'a.txt'), 'a')
  const template = t.Template({ fileContextPath: folder }).fromBaseImage()
    .copy('a.txt', '/app/').copyItems([{ src: 'a.txt', dest: '/b/' }]).runCmd('echo one').setWorkdir('/app').setUser('user').setEnvs({ A: '1' })
    .makeDir('/d').makeSymlink('/d', '/l').rename('/d', '/e').remove('/e').aptInstall(['curl']).pipInstall('six').npmInstall('x').bunInstall('x')
    .gitClone('https://example.com/x.git').skipCache().setStartCmd('sleep 1000', t.client.waitForTimeout(1000))
  t.contains(t.run.stand(t.client.waitForURL('http://localhost:1/x')).getCmd(), 'http://localhost:1/x', 'getCmd')
  const told = JSON.parse(await t.Template.toJSON(template))
  t.check(told.steps.length >= 14 && told.startCmd === 'sleep 1000', `its steps, got ${told.steps.length}`)
  t.contains(t.Template.toDockerfile(t.Template().fromImage('debian:12').runCmd('true').setReadyCmd('true')), 'FROM debian:12', 'toDockerfile')
}

async function everyBaseIsDescribed(t) {
  const image = async (template) => JSON.parse(await t.Template.toJSON(template))
  for (const name of ['Debian', 'Ubuntu', 'Fedora', 'Alpine', 'Arch', 'Python', 'Node', 'Bun']) {
    const template = t.Template()
    if (`from${name}Image` in template) t.check((await image(template[`from${name}Image`]())).fromImage, name)
  }
  t.equal((await image(t.Template().fromTemplate('base'))).fromTemplate, 'base', 'fromTemplate')
  t.equal((await image(t.Template().fromDockerfile('FROM debian:12\nRUN true\n'))).fromImage, 'debian:12', 'fromDockerfile')
  t.equal((await image(t.Template().fromAWSRegistry('x', { accessKeyId: 'k', secretAccessKey: 's', region: 'r' }))).fromImageRegistry.type, 'aws', 'fromAWSRegistry')
  t.equal((await image(t.Template().fromGCPRegistry('x', { serviceAccountJSON: { a: 'b' } }))).fromImageRegistry.type, 'gcp', 'fromGCPRegistry')
  t.contains(await t.Template.toJSON(t.Template().fromTemplate('mcp-gateway').addMcpServer('exa')), 'exa', 'addMcpServer')
  t.contains(await t.Template.toJSON(t.Template().fromTemplate('devcontainer').betaDevContainerPrebuild('/c').betaSetDevContainerStart('/c')), 'devcontainer', 'a devcontainer')
}

async function stepsAreRunAndKept(t) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'conformance-'))
  fs.writeFileSync(path.join(folder, 'ü.txt'), 'copied')
  const template = t.Template({ fileContextPath: folder }).fromBaseImage().copy('ü.txt', '/srv/').setEnvs({ BUILT: 'yes' }).setWorkdir('/srv')
    .runCmd('echo $BUILT > built.txt', { user: 'root' }).runCmd('echo to the log')
  const logs = []
  const name = `conf-js-${t.mark}`
  t.equal(await t.Template.exists(name), false, 'exists before')
  const info = await t.Template.build(template, `${name}:v1`, { cpuCount: 1, memoryMB: 512, onBuildLogs: (entry) => { logs.push(entry.message) } })
  t.check(info.templateId && info.buildId, 'ids')
  t.check(logs.some((each) => each.includes('to the log')), 'the log')
  t.equal([await t.Template.exists(name), await t.Template.aliasExists(name)], [true, true], 'exists afterwards')
  const sandbox = await t.sandbox(`${name}:v1`)
  t.equal((await sandbox.commands.run('pwd; cat built.txt ü.txt; echo $BUILT')).stdout, '/srv\nyes\ncopiedyes\n', 'what the steps left')
  const tags = await t.Template.assignTags(`${name}:v1`, ['stable', 'old'])
  t.equal(tags.buildId, info.buildId, 'assignTags')
  await t.Template.removeTags(name, 'old')
  t.equal((await t.Template.getTags(name)).map((each) => each.tag).filter((each) => ['stable', 'old'].includes(each)), ['stable'], 'getTags')
}

async function failuresAndBackground(t) {
  const failing = t.Template().fromBaseImage().runCmd('echo here; exit 42')
  await t.rejects('BuildError', t.Template.build(failing, `fails-js-${t.mark}`), '42')
  const info = await t.Template.buildInBackground(t.Template().fromBaseImage().skipCache().runCmd('sleep 2'), `back-js-${t.mark}`)
  t.check(['building', 'waiting'].includes((await t.Template.getBuildStatus(info)).status), 'it goes on')
  await t.eventually(async () => (await t.Template.getBuildStatus(info, { logsOffset: 0 })).status === 'ready', 'its end', 120)
}

/** The result of the first call; skips where the server has no such thing at all. */
async function offered(t, promise) {
  try {
    return await promise
  } catch (error) {
    if (/404|not found|501/i.test(error.message)) t.skip(`the server has none: ${error.message.slice(0, 120)}`)
    throw error
  }
}

async function volumesComeAndGo(t) {
  const volume = await offered(t, t.Volume.create(`vol-js-${t.mark}`))
  t.undo(() => t.Volume.destroy(volume.volumeId))
  t.equal((await t.Volume.getInfo(volume.volumeId)).name, volume.name, 'getInfo')
  t.check((await t.Volume.list()).some((each) => each.volumeId === volume.volumeId), 'list')
  const again = await t.Volume.connect(volume.volumeId)
  await again.writeFile('/ü.txt', 'content')
  t.equal(await again.readFile('/ü.txt'), 'content', 'readFile')
  await again.makeDir('/d')
  t.equal((await again.list('/')).map((each) => each.name).sort(), ['d', 'ü.txt'], 'list of files')
  t.equal((await again.updateMetadata('/ü.txt', { mode: 0o600 })).mode & 0o777, 0o600, 'updateMetadata')
  await again.remove('/ü.txt')
  t.equal(await again.exists('/ü.txt'), false, 'exists')
  t.equal([await t.Volume.destroy(volume.volumeId), await t.Volume.destroy(volume.volumeId)], [true, false], 'destroy')
}

async function secretsComeAndGo(t) {
  t.equal(t.Secret.fill('x'), '${e2b.secrets.x}', 'fill')
  t.check(t.Secret.iamToken({ audience: 'a', tokenType: 'JWT-SVID' }), 'iamToken')
  const made = await offered(t, t.Secret.create(`key-js-${t.mark}`, 'v1'))
  t.undo(() => t.Secret.destroy(made.secretId))
  t.equal((await t.Secret.update(made.secretId, 'v2')).version, 2, 'update')
  t.equal((await t.Secret.getInfo(made.name)).secretId, made.secretId, 'getInfo')
  const pages = t.Secret.list({ limit: 100 })
  t.check((await pages.nextItems()).some((each) => each.name === made.name), 'list')
  t.equal([await t.Secret.exists(made.name), await t.Secret.destroy(made.name), await t.Secret.exists(made.name)], [true, true, false], 'exists and destroy')
}

export function register(scenario) {
  for (const run of [everyStepIsDescribed, everyBaseIsDescribed, stepsAreRunAndKept, failuresAndBackground]) scenario('templates', run, { patience })
  scenario('volumes', volumesComeAndGo)
  scenario('secrets', secretsComeAndGo)
}
