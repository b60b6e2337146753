// Making, finding, keeping and ending sandboxes; what they use; snapshots and forks.
const STRANGER = `i${'0'.repeat(19)}`

async function needsNoOptions(t) {
  const sandbox = t.later(await t.Sandbox.create())
  t.check(/^i[a-z0-9]+$/.test(sandbox.sandboxId), `an id, got ${sandbox.sandboxId}`)
  t.equal(await sandbox.isRunning(), true, 'isRunning')
  t.equal((await sandbox.commands.run('echo hi')).stdout, 'hi\n', 'echo')
  const info = await sandbox.getInfo()
  const seconds = (info.endAt - info.startedAt) / 1000
  t.check(seconds > 290 && seconds < 310, `300 s to live unless asked, got ${seconds}`)
}

async function infoIsComplete(t) {
  const sandbox = await t.sandbox(undefined, { metadata: { mark: t.mark, who: 'ada' }, timeoutMs: 200_000 })
  const info = await sandbox.getInfo()
  t.equal(info.sandboxId, sandbox.sandboxId, 'sandboxId')
  t.equal(info.metadata, { mark: t.mark, who: 'ada' }, 'metadata')
  t.equal(info.state, 'running', 'state')
  t.check(info.templateId && info.cpuCount >= 1 && info.memoryMB >= 64, `template, cpu and memory, got ${t.short(info)}`)
  t.check(info.startedAt instanceof Date && info.endAt > info.startedAt, 'times')
  t.equal((await t.Sandbox.getInfo(sandbox.sandboxId)).sandboxId, sandbox.sandboxId, 'getInfo of the class')
  t.equal((await t.Sandbox.getFullInfo(sandbox.sandboxId)).sandboxId, sandbox.sandboxId, 'getFullInfo')
}

async function wrongThingsAreTold(t) {
  await t.rejects('SandboxError', t.Sandbox.create(`no-such-template-${t.mark}`), `no-such-template-${t.mark}`)
  await t.rejects('AuthenticationError', t.Sandbox.create({ apiKey: `e2b_${'0'.repeat(40)}` }))
  await t.rejects('SandboxNotFoundError', t.Sandbox.getInfo(STRANGER))
  await t.rejects('SandboxNotFoundError', t.Sandbox.connect(STRANGER))
  await t.rejects('SandboxNotFoundError', t.Sandbox.setTimeout(STRANGER, 1000))
}

async function killTells(t) {
  const sandbox = await t.sandbox()
  t.equal([await sandbox.kill(), await sandbox.kill(), await t.Sandbox.kill(STRANGER)], [true, false, false], 'kill')
  t.equal(await sandbox.isRunning(), false, 'isRunning')
  await t.rejects('SandboxNotFoundError', sandbox.getInfo())
  await t.rejects('SandboxNotFoundError', sandbox.commands.run('true'))
  await t.rejects('SandboxError', sandbox.files.read('/etc/passwd'))
  t.equal(await t.Sandbox.kill((await t.sandbox()).sandboxId), true, 'kill by id')
}

async function timeoutsAreSet(t) {
  const sandbox = await t.sandbox(undefined, { timeoutMs: 60_000 })
  const before = (await sandbox.getInfo()).endAt
  await sandbox.setTimeout(600_000)
  const longer = (await sandbox.getInfo()).endAt - before
  t.check(longer > 500_000 && longer < 580_000, `longer by 540 s, got ${longer} ms`)
  await t.Sandbox.setTimeout(sandbox.sandboxId, 1000)
  await t.eventually(async () => !(await sandbox.isRunning()), 'it ends at its deadline', 15)
}

async function connectLeadsThere(t) {
  const sandbox = await t.sandbox(undefined, { timeoutMs: 300_000 })
  await sandbox.files.write('where.txt', 'here')
  const before = (await sandbox.getInfo()).endAt
  const again = await t.Sandbox.connect(sandbox.sandboxId, { timeoutMs: 10_000 })
  t.equal(await again.files.read('where.txt'), 'here', 'a file through the second handle')
  t.equal((await sandbox.getInfo()).endAt, before, 'connect never shortens')
  t.equal((await sandbox.connect()).sandboxId, sandbox.sandboxId, 'connect of the object')
}

async function pauseKeepsProcesses(t) {
  const sandbox = await t.sandbox()
  const handle = await sandbox.commands.run('sleep 1000', { background: true, timeoutMs: 0 })
  t.equal(await sandbox.pause(), true, 'the first pause')
  t.equal([await sandbox.isRunning(), await sandbox.pause()], [false, false], 'isRunning, and a second pause')
  t.equal((await sandbox.getInfo()).state, 'paused', 'state')
  const again = await sandbox.connect()
  t.equal(await again.isRunning(), true, 'isRunning after connect')
  t.check((await again.commands.list()).some((each) => each.pid === handle.pid), 'the process is there')
  t.equal(await t.Sandbox.pause(sandbox.sandboxId), true, 'pause by id')
  await t.Sandbox.connect(sandbox.sandboxId)
  t.equal(await again.betaPause(), true, 'betaPause')
  await t.Sandbox.connect(sandbox.sandboxId)
  t.equal(await t.Sandbox.betaPause(sandbox.sandboxId), true, 'betaPause by id')
}

async function pauseOfFilesAlone(t) {
  t.needs('cold-pauses', "a pause keeps processes, too, where only a pod has the sandbox's files: they would go with it")
  const sandbox = await t.sandbox()
  await sandbox.files.write('kept.txt', 'kept')
  await sandbox.commands.run('sleep 1000', { background: true, timeoutMs: 0 })
  await sandbox.pause({ keepMemory: false })
  const again = await sandbox.connect()
  t.equal(await again.files.read('kept.txt'), 'kept', 'the file')
  t.equal((await again.commands.list()).filter((each) => each.args.join(' ').includes('sleep')), [], 'processes of before')
}

async function deadlinesCanPause(t) {
  const sandbox = await t.sandbox(undefined, { lifecycle: { onTimeout: 'pause', autoResume: true } })
  const info = await sandbox.getInfo()
  if (info.lifecycle) t.equal(info.lifecycle, { onTimeout: 'pause', autoResume: true }, 'lifecycle')
  await sandbox.setTimeout(1000)
  await t.eventually(async () => (await sandbox.getInfo()).state === 'paused', 'paused at the deadline')
  t.equal((await sandbox.commands.run('echo awake')).stdout, 'awake\n', 'a request wakes it')
}

async function listsFilterAndPage(t) {
  const metadata = { run: t.mark, odd: 'a b&c=d/é' }
  const ids = []
  for (let n = 0; n < 3; n++) ids.unshift((await t.sandbox(undefined, { metadata })).sandboxId)
  const pages = t.Sandbox.list({ query: { metadata }, limit: 1 })
  const seen = []
  while (pages.hasNext) seen.push(...(await pages.nextItems()).map((each) => each.sandboxId))
  t.equal(seen, ids, 'newest first, one a page')
  t.equal(pages.nextToken, undefined, 'the token in the end')
  t.equal(await t.Sandbox.list({ query: { metadata: { run: `${t.mark}x` } } }).nextItems(), [], 'none')
  await t.Sandbox.pause(ids[0])
  const paused = await t.Sandbox.list({ query: { metadata, state: ['paused'] } }).nextItems()
  t.equal(paused.map((each) => [each.sandboxId, each.state]), [[ids[0], 'paused']], 'by state')
}

async function addressesAreBuilt(t) {
  const sandbox = await t.sandbox()
  t.check(sandbox.getHost(3000).startsWith(`3000-${sandbox.sandboxId}.`), `port and id in ${sandbox.getHost(3000)}`)
  t.contains(sandbox.getMcpUrl(), sandbox.sandboxId, 'getMcpUrl')
  await sandbox.files.write('/etc/mcp-gateway/.token', 'secret', { user: 'root' })
  t.equal(await sandbox.getMcpToken(), 'secret', 'getMcpToken')
}

async function aClientObjectBindsItsKey(t) {
  const client = new t.client.E2B({ apiKey: process.env.E2B_API_KEY })
  const sandbox = t.later(await client.Sandbox.create({ timeoutMs: 60_000 }))
  t.equal((await sandbox.commands.run('echo bound')).stdout, 'bound\n', 'a command through it')
}

async function manyAtOnce(t) {
  const said = await Promise.all(Array.from({ length: 8 }, async () => (await (await t.sandbox()).commands.run('echo $((6 * 7))')).stdout))
  t.equal(said, Array(8).fill('42\n'), 'what eight said')
}

async function useIsMeasured(t) {
  const sandbox = await t.sandbox()
  await sandbox.commands.run('seq 1 1000000 | tail -1')
  const points = await t.eventually(async () => (await sandbox.getMetrics()).length && sandbox.getMetrics(), 'a point', 30)
  const last = points.at(-1)
  t.check(last.cpuCount >= 1 && last.cpuUsedPct >= 0 && last.memUsed > 0 && last.memUsed <= last.memTotal && last.diskTotal > 0, `the fields, got ${t.short(last)}`)
  t.check(last.timestamp instanceof Date, 'a timestamp')
  t.check((await t.Sandbox.getMetrics(sandbox.sandboxId)).length >= 1, 'by id')
  const day = 86_400_000
  t.equal(await sandbox.getMetrics({ start: new Date(Date.now() - 2 * day), end: new Date(Date.now() - day) }), [], 'points of yesterday')
}

async function snapshotsKeepFiles(t) {
  const sandbox = await t.sandbox()
  await sandbox.files.write('kept.txt', 'kept')
  const snapshot = await sandbox.createSnapshot()
  t.undo(() => t.Sandbox.deleteSnapshot(snapshot.snapshotId))
  await sandbox.files.write('kept.txt', 'changed')
  t.equal(await (await t.sandbox(snapshot.snapshotId)).files.read('kept.txt'), 'kept', 'the file')
  const named = await t.Sandbox.createSnapshot(sandbox.sandboxId, { name: `snap-${t.mark}` })
  t.undo(() => t.Sandbox.deleteSnapshot(named.snapshotId))
  t.check(named.names.some((each) => each.includes(`snap-${t.mark}`)), `the name among ${named.names}`)
  const pages = sandbox.listSnapshots({ limit: 1 })
  const seen = []
  while (pages.hasNext) seen.push(...(await pages.nextItems()).map((each) => each.snapshotId))
  t.equal(new Set(seen), new Set([snapshot.snapshotId, named.snapshotId]), 'listSnapshots')
  t.check((await t.Sandbox.listSnapshots({ sandboxId: sandbox.sandboxId }).nextItems()).length === 2, 'listSnapshots of the class')
  t.equal([await t.Sandbox.deleteSnapshot(named.snapshotId), await t.Sandbox.deleteSnapshot(named.snapshotId)], [true, false], 'deleteSnapshot')
}

async function forksAreTheirOwn(t) {
  const sandbox = await t.sandbox()
  await sandbox.files.write('state.txt', 'before')
  const forks = await sandbox.fork({ count: 2, timeoutMs: 60_000 })
  forks.forEach((each) => t.later(each))
  t.equal(new Set([sandbox.sandboxId, ...forks.map((each) => each.sandboxId)]).size, 3, 'three ids')
  for (const fork of forks) {
    t.equal(await fork.files.read('state.txt'), 'before', 'its file')
    await fork.files.write('state.txt', 'in the fork')
  }
  t.equal(await sandbox.files.read('state.txt'), 'before', "the source's file")
  t.later((await t.Sandbox.fork(sandbox.sandboxId))[0])
  await sandbox.kill()
  await t.rejects('SandboxNotFoundError', sandbox.fork())
}

export function register(scenario) {
  for (const run of [needsNoOptions, infoIsComplete, wrongThingsAreTold, killTells, timeoutsAreSet, connectLeadsThere, pauseKeepsProcesses,
    pauseOfFilesAlone, deadlinesCanPause, listsFilterAndPage, addressesAreBuilt, aClientObjectBindsItsKey, manyAtOnce]) scenario('sandbox', run)
  scenario('metrics', useIsMeasured)
  scenario('snapshots', snapshotsKeepFiles, { patience: 180_000 })
  scenario('fork', forksAreTheirOwn, { patience: 180_000 })
}
