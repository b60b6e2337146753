// Git, which the client runs as commands.
const ME = { authorName: 'Ada Example', authorEmail: 'ada@example.com' }

async function aWholeDayWithGit(t) {
  const sandbox = await t.sandbox()
  const { git, files } = sandbox
  const path = `${HOME}/repo`
  await git.init(`${HOME}/remote.git`, { bare: true, initialBranch: 'main' })
  await git.init(path, { initialBranch: 'main' })
  await git.configureUser('Ada Example', 'ada@example.com')
  await files.write(`${path}/one.txt`, 'one\n')
  t.equal((await git.status(path)).hasUntracked, true, 'status')
  await git.add(path)
  t.equal((await git.status(path)).stagedCount, 1, 'add')
  await git.commit(path, "First 'commit'", ME)
  t.equal((await git.status(path)).isClean, true, 'commit')
  await git.remoteAdd(path, 'origin', `${HOME}/remote.git`)
  t.equal([await git.remoteGet(path, 'origin'), await git.remoteGet(path, 'nowhere')], [`${HOME}/remote.git`, undefined], 'remoteGet')
  await git.push(path, { remote: 'origin', branch: 'main' })
  await git.clone(`${HOME}/remote.git`, { path: `${HOME}/other`, branch: 'main' })
  await files.write(`${HOME}/other/two.txt`, 'two\n')
  await git.add(`${HOME}/other`, { files: ['two.txt'] })
  await git.commit(`${HOME}/other`, 'Second', ME)
  await git.push(`${HOME}/other`)
  await git.pull(path)
  t.equal(await files.read(`${path}/two.txt`), 'two\n', 'pull')
}

async function branchesAndWaysBack(t) {
  const { git, files } = await t.sandbox()
  const path = `${HOME}/repo`
  await git.init(path, { initialBranch: 'main' })
  await git.configureUser('Ada Example', 'ada@example.com')
  await files.write(`${path}/one.txt`, 'one\n')
  await git.add(path)
  await git.commit(path, 'First', ME)
  await git.createBranch(path, 'side')
  t.equal((await git.branches(path)).currentBranch, 'side', 'createBranch')
  await git.checkoutBranch(path, 'main')
  await git.deleteBranch(path, 'side')
  t.equal((await git.branches(path)).branches, ['main'], 'deleteBranch')
  await files.write(`${path}/one.txt`, 'changed\n')
  await git.add(path)
  await git.restore(path, { paths: ['one.txt'], staged: true })
  t.equal((await git.status(path)).hasStaged, false, 'restore')
  await git.reset(path, { mode: 'hard' })
  t.equal(await files.read(`${path}/one.txt`), 'one\n', 'reset')
  await git.setConfig('pull.rebase', 'true', { scope: 'local', path })
  t.equal([await git.getConfig('pull.rebase', { scope: 'local', path }), await git.getConfig('no.such')], ['true', undefined], 'getConfig')
  await git.dangerouslyAuthenticate({ username: 'ada', password: 's3cret', host: 'git.example.com' })
  t.contains(await files.read('.git-credentials'), 'ada:s3cret@git.example.com', 'credentials')
  await t.rejects('GitUpstreamError', git.pull(path))
  await t.rejects('CommandExitError', git.status('/tmp'))
}

const HOME = '/home/user'

export function register(scenario) {
  for (const run of [aWholeDayWithGit, branchesAndWaysBack]) scenario('git', run)
}
