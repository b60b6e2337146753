"""Forks: running copies of a sandbox."""
from harness import scenario


@scenario("fork", patience=120)
async def a_fork_has_the_files_and_is_its_own(t):
    sandbox = await t.sandbox(envs={"FROM": "source"}, metadata={"run": t.mark})
    await sandbox.files.write("state.txt", "before")
    forks = await sandbox.fork()
    t.equal(len(forks), 1, "how many")
    fork = t.later(forks[0])
    t.check(fork.sandbox_id != sandbox.sandbox_id, "an id of its own")
    t.equal((await sandbox.is_running(), await fork.is_running()), (True, True), "both run")
    t.equal(await fork.files.read("state.txt"), "before", "its file")
    await fork.files.write("state.txt", "in the fork")
    t.equal(await sandbox.files.read("state.txt"), "before", "the source's file")
    known = (await fork.commands.run("echo $FROM $E2B_SANDBOX_ID")).stdout.split()
    t.equal(known, ["source", fork.sandbox_id], "its environment, which knows which one it is")
    t.equal((await fork.get_info()).metadata, {"run": t.mark}, "its metadata")


@scenario("fork", patience=120)
async def several_forks_at_once(t):
    sandbox = await t.sandbox()
    forks = [t.later(each) for each in await sandbox.fork(count=3, timeout=60)]
    ids = {each.sandbox_id for each in forks}
    t.equal(len(ids - {sandbox.sandbox_id}), 3, "three ids")
    for fork in forks:
        t.equal((await fork.commands.run("echo here")).stdout, "here\n", "a command in it")
        info = await fork.get_info()
        seconds = (info.end_at - info.started_at).total_seconds()
        t.check(50 <= seconds <= 70, f"60 s to live, got {seconds}")


@scenario("fork", patience=120)
async def a_fork_by_id(t):
    sandbox = await t.sandbox()
    forks = await t.Sandbox.fork(sandbox.sandbox_id)
    t.equal(await t.later(forks[0]).is_running(), True, "is_running")


@scenario("fork")
async def what_is_gone_cannot_be_forked(t):
    sandbox = await t.sandbox()
    await sandbox.kill()
    await t.raises("SandboxNotFoundException", sandbox.fork())


@scenario("fork")
async def none_is_no_number_of_forks(t):
    sandbox = await t.sandbox()
    await t.raises("InvalidArgumentException", sandbox.fork(count=0))


@scenario("fork", patience=120)
async def processes_of_a_fork(t):
    sandbox = await t.sandbox()
    await sandbox.commands.run("sleep 98766", background=True, timeout=0)
    fork = t.later((await sandbox.fork())[0])
    if (await fork.commands.run("pgrep -f 'sleep 9876[6]' || true")).stdout == "":
        t.skip("a fork copies files; processes and memory would need a kernel of the sandbox's own")
