// Files, folders, watches, and signed URLs.
import { createHash, randomBytes } from 'node:crypto'

const HOME = '/home/user'
const NAMES = ['plain.txt', 'with space.txt', '漢字/深い/ファイル.txt', '🚀.bin', 'a+b&c=d%20e?f#g.txt', `quote'and"more.txt`]

async function everyNameWorks(t) {
  const sandbox = await t.sandbox()
  for (const name of NAMES) {
    const info = await sandbox.files.write(`names/${name}`, `in ${name}`)
    t.equal(info.path, `${HOME}/names/${name}`, 'the path that is told')
    t.equal(await sandbox.files.read(`names/${name}`), `in ${name}`, name)
  }
  const found = (await sandbox.files.list('names', { depth: 5 })).filter((each) => each.type === 'file').map((each) => each.path)
  t.equal(new Set(found), new Set(NAMES.map((name) => `${HOME}/names/${name}`)), 'the list')
}

async function everyFormOfData(t) {
  const sandbox = await t.sandbox()
  const bytes = new Uint8Array(randomBytes(100_000))
  const forms = { buffer: bytes.buffer, blob: new Blob([bytes]), stream: new Blob([bytes]).stream() }
  for (const [name, data] of Object.entries(forms)) {
    await sandbox.files.write(name, data)
    t.equal(Buffer.compare(Buffer.from(await sandbox.files.read(name, { format: 'bytes' })), Buffer.from(bytes)), 0, name)
  }
  t.equal((await (await sandbox.files.read('blob', { format: 'blob' })).arrayBuffer()).byteLength, bytes.length, 'read as a blob')
  let length = 0
  for await (const piece of await sandbox.files.read('blob', { format: 'stream' })) length += piece.length
  t.equal(length, bytes.length, 'read as a stream')
  await sandbox.files.write('empty', '')
  t.equal(await sandbox.files.read('empty'), '', 'an empty file')
}

async function waysOfUploading(t) {
  const sandbox = await t.sandbox()
  for (const options of [{}, { gzip: true }, { useOctetStream: true }, { useOctetStream: false }, { gzip: true, useOctetStream: true }]) {
    await sandbox.files.write('way.txt', `way ${JSON.stringify(options)}`, options)
    t.equal(await sandbox.files.read('way.txt', { gzip: Boolean(options.gzip) }), `way ${JSON.stringify(options)}`, JSON.stringify(options))
  }
  // A form tells quotation marks in another way, and nobody can tell that from a name which is written like that.
  const names = NAMES.filter((name) => !name.includes('"'))
  const infos = await sandbox.files.writeFiles(names.map((path) => ({ path, data: path })), { metadata: { a: 'b' } })
  t.equal(infos.map((each) => [each.path, each.metadata]), names.map((path) => [`${HOME}/${path}`, { a: 'b' }]), 'several at once')
  t.equal(await sandbox.files.writeFiles([]), [], 'none')
  t.equal((await sandbox.files.write([{ path: 'one', data: '1' }, { path: 'two', data: '2' }])).length, 2, 'write of several')
}

async function largeFiles(t) {
  const sandbox = await t.sandbox()
  const data = randomBytes(24 << 20)
  await sandbox.files.write('large.bin', new Blob([data]), { requestTimeoutMs: 100_000 })
  const sum = createHash('sha256').update(data).digest('hex')
  t.equal((await sandbox.commands.run('sha256sum large.bin')).stdout.split(' ')[0], sum, 'the sum inside')
  const got = createHash('sha256')
  for await (const piece of await sandbox.files.read('large.bin', { format: 'stream', requestTimeoutMs: 100_000 })) got.update(piece)
  t.equal(got.digest('hex'), sum, 'the sum of what came back')
}

async function foldersAndInfo(t) {
  const sandbox = await t.sandbox()
  t.equal([await sandbox.files.makeDir('d/e'), await sandbox.files.makeDir('d/e')], [true, false], 'makeDir')
  await sandbox.files.write('d/file.txt', '12345', { metadata: { author: 'ada' } })
  const info = await sandbox.files.getInfo('d/file.txt')
  t.equal([info.name, info.path, info.type, info.size, info.mode, info.permissions, info.owner, info.group],
    ['file.txt', `${HOME}/d/file.txt`, 'file', 5, 0o644, '-rw-r--r--', 'user', 'user'], 'getInfo')
  t.check(info.modifiedTime instanceof Date && Math.abs(Date.now() - info.modifiedTime) < 120_000, `a time, got ${info.modifiedTime}`)
  t.equal(info.metadata, { author: 'ada' }, 'metadata')
  t.equal((await sandbox.files.list('d')).map((each) => [each.name, each.type]), [['e', 'dir'], ['file.txt', 'file']], 'list')
  t.equal((await sandbox.files.rename('d/file.txt', 'd/moved.txt')).path, `${HOME}/d/moved.txt`, 'rename')
  t.equal([await sandbox.files.exists('d/file.txt'), await sandbox.files.exists('d/moved.txt')], [false, true], 'exists')
  await sandbox.files.remove('d')
  t.equal(await sandbox.files.exists('d'), false, 'after remove')
  await sandbox.commands.run('ln -s /etc/passwd link')
  t.equal((await sandbox.files.getInfo('link')).symlinkTarget, '/etc/passwd', 'symlinkTarget')
}

async function whatIsNotThereIsTold(t) {
  const sandbox = await t.sandbox()
  for (const ask of [sandbox.files.read('nope'), sandbox.files.getInfo('nope'), sandbox.files.list('nope'), sandbox.files.rename('nope', 'x'),
    sandbox.files.watchDir('nope', () => {})]) await t.rejects('FileNotFoundError', ask)
  await sandbox.files.write('file', 'x')
  await t.rejects('SandboxError', sandbox.files.makeDir('file'))
  await t.rejects('InvalidArgumentError', sandbox.files.list('.', { depth: 0 }))
  await t.rejects('SandboxError', sandbox.files.watchDir('file', () => {}))
  await t.rejects('AuthenticationError', sandbox.files.write('x', 'x', { user: 'nobody-there' }))
}

async function changesAreTold(t) {
  const sandbox = await t.sandbox()
  await sandbox.files.makeDir('w/deep')
  const seen = new Set()
  const ended = []
  const watch = await sandbox.files.watchDir('w', (event) => { seen.add(`${event.type} ${event.name}`) }, { recursive: true, onExit: (error) => { ended.push(error) } })
  await sandbox.files.write('w/deep/ü.txt', 'x')
  await t.eventually(() => seen.has('create deep/ü.txt') && seen.has('write deep/ü.txt'), 'create and write')
  await sandbox.files.rename('w/deep/ü.txt', 'w/top.txt')
  await t.eventually(() => seen.has('create top.txt') && seen.has('rename deep/ü.txt'), 'rename')
  await sandbox.files.remove('w/top.txt')
  await t.eventually(() => seen.has('remove top.txt'), 'remove')
  await watch.stop()
  await t.eventually(() => ended.length === 1, 'onExit')
  const flat = new Set()
  const other = await sandbox.files.watchDir('w', (event) => { flat.add(event.name) })
  await sandbox.files.write('w/deep/x', 'x')
  await sandbox.files.write('w/last', 'x')
  await t.eventually(() => flat.has('last'), 'a flat watch')
  t.check(!flat.has('deep/x') && !flat.has('x'), 'the flat watch saw what is below')
  await other.stop()
}

function signed(t, sandbox, url, options = {}) {
  const routed = process.env.E2B_SANDBOX_URL ? { 'E2b-Sandbox-Id': sandbox.sandboxId, 'E2b-Sandbox-Port': '49983' } : {}
  return fetch(url, { ...options, headers: { ...options.headers, ...routed } })
}

async function signedUrls(t) {
  const sandbox = await t.sandbox(undefined, { secure: true })
  await sandbox.files.write('ü file.txt', 'signed content')
  for (const options of [undefined, { user: 'user' }, { useSignatureExpiration: 120_000 }]) {
    const answer = await signed(t, sandbox, await sandbox.downloadUrl('ü file.txt', options))
    t.equal([answer.status, await answer.text()], [200, 'signed content'], JSON.stringify(options))
  }
  const form = new FormData()
  form.append('file', new Blob(['from outside']), 'x.txt')
  t.equal((await signed(t, sandbox, await sandbox.uploadUrl('up.txt'), { method: 'POST', body: form })).status, 200, 'upload')
  t.equal(await sandbox.files.read('up.txt'), 'from outside', 'what was uploaded')
  const forged = new URL(await sandbox.downloadUrl('ü file.txt'))
  forged.searchParams.set('path', '/etc/shadow')
  t.equal((await signed(t, sandbox, forged)).status, 401, 'a forged one')
}

export function register(scenario) {
  for (const run of [everyNameWorks, everyFormOfData, waysOfUploading, foldersAndInfo, whatIsNotThereIsTold, signedUrls]) scenario('files', run)
  scenario('files', largeFiles, { patience: 240_000 })
  scenario('watch', changesAreTold)
}
