"""Git, which the clients run as commands."""
from harness import scenario

ME = {"author_name": "Ada Example", "author_email": "ada@example.com"}


async def repository(t, sandbox, path="repo"):
    """One with a first commit on `main`."""
    await sandbox.git.init(path, initial_branch="main")
    await sandbox.git.configure_user("Ada Example", "ada@example.com")
    await sandbox.files.write(f"{path}/one.txt", "one\n")
    await sandbox.git.add(path)
    await sandbox.git.commit(path, "First commit", **ME)
    return path


async def with_remote(t, sandbox):
    """A repository and a bare one that it knows as `origin`."""
    await sandbox.git.init("/home/user/remote.git", bare=True, initial_branch="main")
    path = await repository(t, sandbox, "/home/user/repo")
    await sandbox.git.remote_add(path, "origin", "/home/user/remote.git")
    return path


@scenario("git")
async def repositories_begin(t):
    sandbox = await t.sandbox()
    await sandbox.git.init("a", initial_branch="trunk")
    t.equal((await sandbox.git.status("a")).current_branch, "trunk", "the branch")
    await sandbox.git.init("b.git", bare=True)
    t.equal(await sandbox.files.exists("b.git/HEAD"), True, "a bare one")


@scenario("git")
async def status_tells_what_changed(t):
    sandbox = await t.sandbox()
    path = await repository(t, sandbox)
    clean = await sandbox.git.status(path)
    t.equal((clean.is_clean, clean.current_branch, clean.detached), (True, "main", False), "after a commit")
    await sandbox.files.write(f"{path}/one.txt", "changed\n")
    await sandbox.files.write(f"{path}/new ü.txt", "new\n")
    status = await sandbox.git.status(path)
    t.equal((status.total_count, status.untracked_count, status.has_staged), (2, 1, False), "two changes")
    await sandbox.git.add(path, files=["one.txt"])
    status = await sandbox.git.status(path)
    t.equal((status.staged_count, status.has_untracked), (1, True), "one staged")
    t.equal({each.name for each in status.file_status if each.staged}, {"one.txt"}, "which one")


@scenario("git")
async def commits_are_made(t):
    sandbox = await t.sandbox()
    path = await repository(t, sandbox)
    await sandbox.git.commit(path, "Empty, with 'quotes' and \"more\"", allow_empty=True, **ME)
    done = await sandbox.commands.run("git log --format='%an|%ae|%s'", cwd=path)
    t.equal(done.stdout.splitlines(), ["Ada Example|ada@example.com|Empty, with 'quotes' and \"more\"", "Ada Example|ada@example.com|First commit"], "the log")
    await t.raises("CommandExitException", sandbox.git.commit(path, "Nothing to commit", **ME))


@scenario("git")
async def branches_are_made_and_left(t):
    sandbox = await t.sandbox()
    path = await repository(t, sandbox)
    await sandbox.git.create_branch(path, "side")
    t.equal((await sandbox.git.branches(path)).current_branch, "side", "the new one")
    await sandbox.git.checkout_branch(path, "main")
    found = await sandbox.git.branches(path)
    t.equal((sorted(found.branches), found.current_branch), (["main", "side"], "main"), "both")
    await sandbox.git.delete_branch(path, "side")
    t.equal((await sandbox.git.branches(path)).branches, ["main"], "one deleted")
    await t.raises("CommandExitException", sandbox.git.checkout_branch(path, "no-such-branch"))
    await sandbox.git.create_branch(path, "unmerged")
    await sandbox.git.commit(path, "On it", allow_empty=True, **ME)
    await sandbox.git.checkout_branch(path, "main")
    await sandbox.git.delete_branch(path, "unmerged", force=True)


@scenario("git")
async def changes_are_taken_back(t):
    sandbox = await t.sandbox()
    path = await repository(t, sandbox)
    await sandbox.files.write(f"{path}/one.txt", "changed\n")
    await sandbox.git.add(path)
    await sandbox.git.restore(path, ["one.txt"], staged=True)
    t.equal((await sandbox.git.status(path)).has_staged, False, "unstaged")
    await sandbox.git.restore(path, ["one.txt"], worktree=True)
    t.equal(await sandbox.files.read(f"{path}/one.txt"), "one\n", "restored")
    await sandbox.git.commit(path, "Second", allow_empty=True, **ME)
    await sandbox.files.write(f"{path}/one.txt", "changed\n")
    await sandbox.git.reset(path, mode="hard", target="HEAD~1")
    t.equal(await sandbox.files.read(f"{path}/one.txt"), "one\n", "reset hard")
    await sandbox.git.add(path)
    await sandbox.git.reset(path, paths=["one.txt"])


@scenario("git")
async def remotes_are_pushed_to_and_pulled_from(t):
    sandbox = await t.sandbox()
    path = await with_remote(t, sandbox)
    t.equal(await sandbox.git.remote_get(path, "origin"), "/home/user/remote.git", "remote_get")
    t.equal(await sandbox.git.remote_get(path, "nowhere"), None, "a remote that is not there")
    await sandbox.git.push(path, remote="origin", branch="main")
    t.equal((await sandbox.git.status(path)).upstream, "origin/main", "the upstream")
    await sandbox.git.clone("/home/user/remote.git", "other", branch="main")
    t.equal(await sandbox.files.read("other/one.txt"), "one\n", "the clone")
    await sandbox.files.write("other/two.txt", "two\n")
    await sandbox.git.add("other")
    await sandbox.git.commit("other", "Second", **ME)
    t.equal((await sandbox.git.status("other")).ahead, 1, "ahead")
    await sandbox.git.push("other")
    await sandbox.git.pull(path)
    t.equal(await sandbox.files.read(f"{path}/two.txt"), "two\n", "what was pulled")
    await sandbox.git.remote_add(path, "origin", "/elsewhere.git", overwrite=True)
    t.equal(await sandbox.git.remote_get(path, "origin"), "/elsewhere.git", "after overwriting")


@scenario("git")
async def a_shallow_clone(t):
    sandbox = await t.sandbox()
    path = await with_remote(t, sandbox)
    await sandbox.git.commit(path, "Second", allow_empty=True, **ME)
    await sandbox.git.push(path, remote="origin", branch="main")
    await sandbox.git.clone("file:///home/user/remote.git", "shallow", depth=1)
    t.equal((await sandbox.commands.run("git rev-list --count HEAD", cwd="shallow")).stdout, "1\n", "commits")


@scenario("git")
async def a_missing_upstream_is_told(t):
    sandbox = await t.sandbox()
    path = await repository(t, sandbox)
    await t.raises("GitUpstreamException", sandbox.git.pull(path))


@scenario("git")
async def settings_are_kept(t):
    sandbox = await t.sandbox()
    path = await repository(t, sandbox)
    t.equal(await sandbox.git.get_config("user.name"), "Ada Example", "user.name")
    await sandbox.git.set_config("pull.rebase", "true", scope="local", path=path)
    t.equal(await sandbox.git.get_config("pull.rebase", scope="local", path=path), "true", "a local one")
    t.equal(await sandbox.git.get_config("no.such"), None, "one that is not there")
    await t.raises("InvalidArgumentException", sandbox.git.configure_user("", ""))
    await t.raises("InvalidArgumentException", sandbox.git.set_config("", "x"))


@scenario("git")
async def credentials_are_stored_and_refused(t):
    sandbox = await t.sandbox()
    await sandbox.git.dangerously_authenticate("ada", "s3cret", host="git.example.com")
    t.contains(await sandbox.files.read(".git-credentials"), "https://ada:s3cret@git.example.com", "the file")
    await t.raises("InvalidArgumentException", sandbox.git.dangerously_authenticate("ada", ""))
    await t.raises("InvalidArgumentException", sandbox.git.clone("https://git.example.com/x.git", password="without a name"))


@scenario("git")
async def a_path_that_is_no_repository_is_told(t):
    sandbox = await t.sandbox()
    await t.raises("CommandExitException", sandbox.git.status("/tmp"))
