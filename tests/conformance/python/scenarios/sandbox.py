"""Making, finding, keeping and ending sandboxes."""
import asyncio
import os
import re
from datetime import datetime, timedelta, timezone

from harness import scenario

ID = re.compile(r"^i[a-z0-9]{5,40}$")
STRANGER = "i" + "0" * 19


def wanted_seconds(info):
    return (info.end_at - info.started_at).total_seconds()


@scenario("sandbox")
async def a_sandbox_needs_no_options(t):
    sandbox = t.later(await t.Sandbox.create())
    t.check(ID.match(sandbox.sandbox_id), f"an id of {ID.pattern}, got {sandbox.sandbox_id}")
    t.equal(await sandbox.is_running(), True, "is_running")
    info = await sandbox.get_info()
    t.check(290 <= wanted_seconds(info) <= 310, f"300 s to live unless asked, got {wanted_seconds(info)}")
    t.equal((await sandbox.commands.run("echo hi")).stdout, "hi\n", "echo")


@scenario("sandbox")
async def its_info_is_complete(t):
    sandbox = await t.sandbox(timeout=200, metadata={"mark": t.mark, "who": "ada"})
    info = await sandbox.get_info()
    t.equal(info.sandbox_id, sandbox.sandbox_id, "sandbox_id")
    t.equal(info.metadata, {"mark": t.mark, "who": "ada"}, "metadata")
    t.equal(info.state.value, "running", "state")
    t.check(info.template_id, "a template_id")
    t.check(info.cpu_count >= 1 and info.memory_mb >= 64, f"cpu and memory, got {info.cpu_count} and {info.memory_mb}")
    t.check(abs(datetime.now(timezone.utc) - info.started_at) < timedelta(minutes=2), f"started now, got {info.started_at}")
    t.check(190 <= wanted_seconds(info) <= 210, f"200 s to live, got {wanted_seconds(info)}")
    version = [int(part) for part in info.envd_version.split(".")]
    t.check(version >= [0, 6, 4], f"an envd version that newer features ask for, got {info.envd_version}")
    by_id = await t.Sandbox.get_info(sandbox.sandbox_id)
    t.equal((by_id.sandbox_id, by_id.end_at), (info.sandbox_id, info.end_at), "get_info of the class")


@scenario("sandbox")
async def info_tells_the_lifecycle(t):
    killed = await (await t.sandbox()).get_info()
    paused = await (await t.sandbox(lifecycle={"on_timeout": "pause", "auto_resume": True})).get_info()
    if killed.lifecycle is None:
        t.skip("this client shows no lifecycle")
    t.equal(killed.lifecycle, {"on_timeout": "kill", "auto_resume": False}, "lifecycle unless asked")
    t.equal(paused.lifecycle, {"on_timeout": "pause", "auto_resume": True}, "lifecycle that was asked for")


@scenario("sandbox")
async def an_unknown_template_is_told(t):
    error = await t.raises("SandboxException", t.Sandbox.create(f"no-such-template-{t.mark}"))
    t.contains(str(error), f"no-such-template-{t.mark}", "the message")


@scenario("sandbox")
async def a_timeout_out_of_range_is_refused(t):
    await t.raises("SandboxException", t.Sandbox.create(timeout=-5))


@scenario("sandbox")
async def a_wrong_key_is_refused(t):
    await t.raises("AuthenticationException", t.Sandbox.create(api_key="e2b_" + "0" * 40))
    await t.raises("AuthenticationException", t.Sandbox.get_info(STRANGER, api_key="e2b_" + "0" * 40))


@scenario("sandbox")
async def another_tenants_key_finds_nothing(t):
    other = os.environ.get("E2B_OTHER_API_KEY") or t.skip("the target gives no key of a second tenant")
    sandbox = await t.sandbox()
    await t.raises("SandboxNotFoundException", t.Sandbox.get_info(sandbox.sandbox_id, api_key=other))
    await t.raises("SandboxNotFoundException", t.Sandbox.connect(sandbox.sandbox_id, api_key=other))
    t.equal(await t.Sandbox.kill(sandbox.sandbox_id, api_key=other), False, "another tenant's kill")
    pages = await t.Sandbox.list(api_key=other)
    t.check(all(each.sandbox_id != sandbox.sandbox_id for each in await pages.next_items()), "not in another tenant's list")
    t.equal(await sandbox.is_running(), True, "is_running afterwards")


@scenario("sandbox")
async def kill_tells_whether_it_was_there(t):
    sandbox = await t.sandbox()
    t.equal(await sandbox.kill(), True, "the first kill")
    t.equal(await sandbox.kill(), False, "the second kill")
    t.equal(await t.Sandbox.kill(STRANGER), False, "killing what never was")
    other = await t.sandbox()
    t.equal(await t.Sandbox.kill(other.sandbox_id), True, "kill by id")


@scenario("sandbox")
async def a_killed_sandbox_is_nowhere(t):
    sandbox = await t.sandbox()
    await sandbox.kill()
    t.equal(await sandbox.is_running(), False, "is_running")
    await t.raises("SandboxNotFoundException", sandbox.get_info())
    await t.raises("SandboxNotFoundException", sandbox.set_timeout(30))
    await t.raises("SandboxNotFoundException", sandbox.pause())
    await t.raises("SandboxNotFoundException", sandbox.connect())
    await t.raises("SandboxNotRunningException", sandbox.commands.run("true"))
    await t.raises("SandboxNotRunningException", sandbox.files.read("/etc/passwd"))
    await t.raises("SandboxNotRunningException", sandbox.files.list("/"))
    pages = await t.Sandbox.list()
    t.check(all(each.sandbox_id != sandbox.sandbox_id for each in await pages.next_items()), "a killed sandbox in the list")


@scenario("sandbox")
async def ids_that_never_were_are_not_found(t):
    for ask in (t.Sandbox.get_info(STRANGER), t.Sandbox.connect(STRANGER), t.Sandbox.set_timeout(STRANGER, 10), t.Sandbox.pause(STRANGER)):
        await t.raises("SandboxNotFoundException", ask)


@scenario("sandbox")
async def a_timeout_can_be_set(t):
    sandbox = await t.sandbox(timeout=60)
    before = (await sandbox.get_info()).end_at
    await sandbox.set_timeout(600)
    longer = (await sandbox.get_info()).end_at
    t.check(timedelta(seconds=500) < longer - before < timedelta(seconds=580), f"longer by 540 s, got {longer - before}")
    await t.Sandbox.set_timeout(sandbox.sandbox_id, 30)
    t.check((await sandbox.get_info()).end_at < before, "shorter, by id")


@scenario("sandbox")
async def a_sandbox_ends_at_its_deadline(t):
    sandbox = await t.sandbox(timeout=300)
    await sandbox.set_timeout(1)

    async def ended():
        return not await sandbox.is_running()

    await t.eventually(ended, "the sandbox ends", 15)
    await t.raises("SandboxNotFoundException", sandbox.get_info())


@scenario("sandbox")
async def connect_leads_to_the_same_sandbox(t):
    sandbox = await t.sandbox()
    await sandbox.files.write("where.txt", "here")
    again = await t.Sandbox.connect(sandbox.sandbox_id)
    t.equal(again.sandbox_id, sandbox.sandbox_id, "sandbox_id")
    t.equal(await again.files.read("where.txt"), "here", "a file through the second handle")
    once_more = await sandbox.connect()
    t.equal((await once_more.commands.run("cat where.txt")).stdout, "here", "a command through the third handle")


@scenario("sandbox")
async def connect_never_shortens(t):
    sandbox = await t.sandbox(timeout=300)
    before = (await sandbox.get_info()).end_at
    await t.Sandbox.connect(sandbox.sandbox_id, timeout=10)
    t.equal((await sandbox.get_info()).end_at, before, "end_at after connect with less")
    await sandbox.connect(timeout=900)
    t.check((await sandbox.get_info()).end_at > before + timedelta(seconds=500), "end_at after connect with more")


@scenario("sandbox")
async def pause_keeps_processes_and_memory(t):
    sandbox = await t.sandbox()
    # By a rename: whoever reads while it is written gets a whole number.
    count = "for n in $(seq 1 100000); do echo $n > new.txt; mv new.txt n.txt; sleep 0.05; done"
    counting = await sandbox.commands.run(count, background=True, timeout=0)
    await t.eventually(lambda: sandbox.files.exists("n.txt"), "the counter begins")
    t.equal(await sandbox.pause(), True, "the first pause")
    t.equal(await sandbox.is_running(), False, "is_running while paused")
    t.equal(await sandbox.pause(), False, "a second pause")
    t.equal((await sandbox.get_info()).state.value, "paused", "state")
    again = await sandbox.connect()
    t.equal(await again.is_running(), True, "is_running after connect")
    t.equal((await again.get_info()).state.value, "running", "state after connect")
    t.check(any(each.pid == counting.pid for each in await again.commands.list()), "the same process is there")
    first = int(await again.files.read("n.txt"))

    async def counts_on():
        return int(await again.files.read("n.txt")) > first

    await t.eventually(counts_on, "the counter goes on")


@scenario("sandbox")
async def pause_and_connect_by_id(t):
    sandbox = await t.sandbox()
    t.equal(await t.Sandbox.pause(sandbox.sandbox_id), True, "pause by id")
    t.equal(await sandbox.is_running(), False, "is_running")
    again = await t.Sandbox.connect(sandbox.sandbox_id, timeout=60)
    t.equal(await again.is_running(), True, "is_running after connect")
    t.equal(await again.beta_pause(), True, "beta_pause")
    t.equal(await t.Sandbox.kill(sandbox.sandbox_id), True, "killing a paused sandbox")
    t.equal(await t.Sandbox.kill(sandbox.sandbox_id), False, "killing it again")


@scenario("sandbox")
async def commands_for_a_paused_sandbox_say_so(t):
    sandbox = await t.sandbox()
    await sandbox.pause()
    await t.raises("SandboxNotRunningException", sandbox.commands.run("true"))
    await t.raises("SandboxNotRunningException", sandbox.files.read("/etc/hostname"))
    t.equal((await sandbox.get_info()).state.value, "paused", "state afterwards: asking did not wake it")


@scenario("sandbox")
async def pause_of_files_alone_starts_anew(t):
    t.needs("cold-pauses", "a pause keeps processes, too, where only a pod has the sandbox's files: they would go with it")
    sandbox = await t.sandbox()
    await sandbox.files.write("kept.txt", "kept")
    await sandbox.commands.run("sleep 1000", background=True, timeout=0)
    t.equal(await sandbox.pause(keep_memory=False), True, "pause without memory")
    t.equal(await sandbox.is_running(), False, "is_running")
    again = await sandbox.connect()
    t.equal(again.sandbox_id, sandbox.sandbox_id, "sandbox_id")
    t.equal(await again.files.read("kept.txt"), "kept", "the file")
    t.check(not any("sleep" in " ".join([each.cmd, *each.args]) for each in await again.commands.list()), "no process of before")


@scenario("sandbox")
async def the_boot_id_changes_when_memory_was_not_kept(t):
    sandbox = await t.sandbox()
    before = (await sandbox.files.read("/proc/sys/kernel/random/boot_id")).strip()
    await sandbox.pause(keep_memory=False)
    again = await sandbox.connect()
    after = (await again.files.read("/proc/sys/kernel/random/boot_id")).strip()
    if before == after:
        t.skip("sandboxes share the kernel of their machine, and with it its boot id")


@scenario("sandbox")
async def a_deadline_can_keep_the_files_alone(t):
    sandbox = await t.sandbox(timeout=300, lifecycle={"on_timeout": {"action": "pause", "keep_memory": False}})
    await sandbox.files.write("kept.txt", "kept")
    before = await sandbox.files.read("/proc/sys/kernel/random/boot_id")
    await sandbox.set_timeout(1)

    async def paused():
        return (await sandbox.get_info()).state.value == "paused"

    await t.eventually(paused, "paused at the deadline", 20)
    await t.raises("SandboxException", sandbox.set_timeout(60))
    again = await sandbox.connect()
    t.equal(await again.files.read("kept.txt"), "kept", "the file")
    t.check(await again.files.read("/proc/sys/kernel/random/boot_id") != before, "however soon that is, it begins anew")


@scenario("sandbox")
async def a_deadline_can_pause_and_a_request_wake(t):
    sandbox = await t.sandbox(timeout=300, lifecycle={"on_timeout": "pause", "auto_resume": True})
    await sandbox.files.write("kept.txt", "kept")
    await sandbox.set_timeout(1)

    async def paused():
        return (await sandbox.get_info()).state.value == "paused"

    await t.eventually(paused, "paused at the deadline", 20)
    t.equal(await sandbox.files.read("kept.txt"), "kept", "a request wakes it")
    t.equal((await sandbox.get_info()).state.value, "running", "state after the request")


@scenario("sandbox")
async def a_deadline_can_pause_without_waking(t):
    sandbox = await t.sandbox(timeout=300, lifecycle={"on_timeout": "pause", "auto_resume": False})
    await sandbox.set_timeout(1)

    async def paused():
        return (await sandbox.get_info()).state.value == "paused"

    await t.eventually(paused, "paused at the deadline", 20)
    t.equal(await sandbox.is_running(), False, "is_running")
    t.equal((await sandbox.get_info()).state.value, "paused", "state after asking")
    again = await sandbox.connect()
    t.equal(await again.is_running(), True, "is_running after connect")


def query(**fields):
    from e2b import SandboxQuery

    return SandboxQuery(**fields)


def states(*names):
    from e2b import SandboxState

    return [getattr(SandboxState, name) for name in names]


async def listed(t, **fields):
    found, pages = [], await t.Sandbox.list(query=query(**fields))
    while pages.has_next:
        found += await pages.next_items()
    return found


@scenario("sandbox")
async def lists_filter_by_metadata(t):
    one = await t.sandbox(metadata={"run": t.mark, "kind": "a b&c=d/é"})
    two = await t.sandbox(metadata={"run": t.mark, "kind": "other"})
    t.equal({each.sandbox_id for each in await listed(t, metadata={"run": t.mark})}, {one.sandbox_id, two.sandbox_id}, "both")
    found = await listed(t, metadata={"run": t.mark, "kind": "a b&c=d/é"})
    t.equal([each.sandbox_id for each in found], [one.sandbox_id], "one of them, by all of its metadata")
    t.equal(found[0].metadata, {"run": t.mark, "kind": "a b&c=d/é"}, "metadata in the list")
    t.equal(await listed(t, metadata={"run": t.mark + "x"}), [], "none")
    t.check(found[0].cpu_count and found[0].memory_mb and found[0].end_at > found[0].started_at, "the other fields of the list")


@scenario("sandbox")
async def lists_filter_by_state(t):
    running, resting = await t.sandbox(metadata={"run": t.mark}), await t.sandbox(metadata={"run": t.mark})
    await resting.pause()
    for names, wanted in ((["RUNNING"], {running.sandbox_id}), (["PAUSED"], {resting.sandbox_id}),
                          (["RUNNING", "PAUSED"], {running.sandbox_id, resting.sandbox_id})):
        found = await listed(t, metadata={"run": t.mark}, state=states(*names))
        t.equal({each.sandbox_id for each in found}, wanted, f"state {names}")
    t.equal({each.state.value for each in await listed(t, metadata={"run": t.mark})}, {"running", "paused"}, "states unless asked")


@scenario("sandbox")
async def lists_come_in_pages_newest_first(t):
    made = []
    for _ in range(3):
        made.append(await t.sandbox(metadata={"run": t.mark}))
        await asyncio.sleep(0.02)
    await made[1].pause()
    pages, seen = await t.Sandbox.list(query=query(metadata={"run": t.mark}), limit=1), []
    while pages.has_next:
        page = await pages.next_items()
        t.equal(len(page), 1, "the length of a page")
        seen.append(page[0].sandbox_id)
        t.equal(pages.next_token is not None, pages.has_next, "a token while there is more")
    t.equal(seen, [each.sandbox_id for each in reversed(made)], "newest first")
    await t.raises(Exception, pages.next_items())
    first = await t.Sandbox.list(query=query(metadata={"run": t.mark}), limit=2)
    await first.next_items()
    rest = await t.Sandbox.list(query=query(metadata={"run": t.mark}), limit=2, next_token=first.next_token)
    t.equal([each.sandbox_id for each in await rest.next_items()], [made[0].sandbox_id], "from a token on")


@scenario("sandbox")
async def lists_can_begin_with_the_oldest(t):
    made = []
    for _ in range(2):
        made.append((await t.sandbox(metadata={"run": t.mark})).sandbox_id)
        await asyncio.sleep(0.02)
    pages = await t.Sandbox.list(query=query(metadata={"run": t.mark}), order="asc")
    t.equal([each.sandbox_id for each in await pages.next_items()], made, "oldest first")


@scenario("sandbox")
async def a_context_kills_in_the_end(t):
    async with await t.Sandbox.create(timeout=60) as sandbox:
        t.equal(await sandbox.is_running(), True, "is_running inside")
    t.equal(await sandbox.is_running(), False, "is_running afterwards")


@scenario("sandbox")
async def addresses_are_built_from_id_and_port(t):
    sandbox = await t.sandbox()
    host = await sandbox.get_host(3000)
    t.check(host.startswith(f"3000-{sandbox.sandbox_id}."), f"port and id in the host, got {host}")
    t.check(sandbox.sandbox_domain, "a sandbox_domain")
    t.contains(host, sandbox.sandbox_domain, "the host")
    for url in (sandbox.envd_api_url, sandbox.envd_direct_url):
        t.check(url.startswith("http"), f"a URL, got {url}")
    t.check(sandbox.connection_config.api_key, "a connection_config with the key")
    t.contains(await sandbox.get_mcp_url(), sandbox.sandbox_id, "get_mcp_url")
    t.check(sandbox.traffic_access_token is None or isinstance(sandbox.traffic_access_token, str), "traffic_access_token")


@scenario("sandbox")
async def the_token_of_mcp_is_read_from_its_file(t):
    sandbox = await t.sandbox()
    await sandbox.files.write("/etc/mcp-gateway/.token", "secret-of-mcp", user="root")
    t.equal(await sandbox.get_mcp_token(), "secret-of-mcp", "get_mcp_token")


@scenario("sandbox")
async def environment_of_the_sandbox_reaches_commands(t):
    sandbox = await t.sandbox(envs={"COLOUR": "grün", "EMPTY": "", "SPACED": "a  b'c\"d"})
    t.equal((await sandbox.commands.run('printf "%s|%s|%s" "$COLOUR" "$EMPTY" "$SPACED"')).stdout, "grün||a  b'c\"d", "the values")


@scenario("sandbox")
async def a_client_object_binds_its_key(t):
    import e2b

    client = e2b.E2B(api_key=os.environ["E2B_API_KEY"])
    made = client.Sandbox.create(timeout=60) if t.sync else await client.AsyncSandbox.create(timeout=60)
    t.later(t.stand(made))
    done = made.commands.run("echo bound") if t.sync else await made.commands.run("echo bound")
    t.equal(done.stdout, "bound\n", "a command through it")


@scenario("sandbox")
async def the_same_idempotency_key_gives_the_same_sandbox(t):
    import inspect

    real = t.real(t.Sandbox).create
    if "idempotency_key" not in inspect.signature(real).parameters:
        t.skip("this client sends no idempotency key")
    one = t.later(await t.Sandbox.create(timeout=60, idempotency_key=f"conf-{t.mark}"))
    two = t.later(await t.Sandbox.create(timeout=60, idempotency_key=f"conf-{t.mark}"))
    t.equal(two.sandbox_id, one.sandbox_id, "the second id")


@scenario("sandbox")
async def many_are_made_at_once(t):
    async def make():
        sandbox = await t.sandbox()
        return (await sandbox.commands.run("echo $((6 * 7))")).stdout

    beside = [t.beside(make) for _ in range(8)]
    t.equal([await each.join() for each in beside], ["42\n"] * 8, "what eight said")
