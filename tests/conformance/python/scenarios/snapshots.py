"""Snapshots, and sandboxes made from them."""
from harness import scenario


def dropped(t, snapshot):
    """Deletes it in the end."""
    t.undo(lambda: t.Sandbox.delete_snapshot(snapshot.snapshot_id))
    return snapshot


@scenario("snapshots", patience=180)
async def files_are_kept_in_a_snapshot(t):
    sandbox = await t.sandbox()
    await sandbox.files.write("app/config.json", '{"env": "test"}')
    await sandbox.commands.run("sudo sh -c 'echo system > /etc/mine'; chmod 700 app")
    snapshot = dropped(t, await sandbox.create_snapshot())
    t.check(snapshot.snapshot_id, "an id")
    t.equal(await sandbox.is_running(), True, "the source runs on")
    await sandbox.files.write("app/config.json", "changed later")
    for _ in range(2):
        made = await t.sandbox(snapshot.snapshot_id)
        t.check(made.sandbox_id != sandbox.sandbox_id, "an id of its own")
        t.equal(await made.files.read("app/config.json"), '{"env": "test"}', "a file of the user's")
        t.equal(await made.files.read("/etc/mine"), "system\n", "a file of root's")
        t.equal((await made.files.get_info("app")).mode, 0o700, "a mode")
        await made.files.write("app/config.json", "changed in the copy")
    t.equal(await sandbox.files.read("app/config.json"), "changed later", "the source's file")


@scenario("snapshots", patience=120)
async def a_snapshot_outlives_its_source(t):
    sandbox = await t.sandbox()
    await sandbox.files.write("kept.txt", "kept")
    snapshot = dropped(t, await t.Sandbox.create_snapshot(sandbox.sandbox_id))
    await sandbox.kill()
    made = await t.sandbox(snapshot.snapshot_id)
    t.equal(await made.files.read("kept.txt"), "kept", "the file")


@scenario("snapshots", patience=120)
async def a_paused_sandbox_can_be_kept(t):
    sandbox = await t.sandbox()
    await sandbox.files.write("kept.txt", "kept")
    await sandbox.pause()
    snapshot = dropped(t, await sandbox.create_snapshot())
    t.equal(await (await t.sandbox(snapshot.snapshot_id)).files.read("kept.txt"), "kept", "the file")


@scenario("snapshots", patience=120)
async def snapshots_have_names(t):
    sandbox, name = await t.sandbox(), f"snap-{t.mark}"
    await sandbox.files.write("v.txt", "1")
    snapshot = dropped(t, await sandbox.create_snapshot(name=name))
    t.check(any(name in each for each in snapshot.names), f"the name among {snapshot.names}")
    made = await t.sandbox(name)
    t.equal(await made.files.read("v.txt"), "1", "a sandbox made by the name")


@scenario("snapshots", patience=120)
async def snapshots_are_listed(t):
    sandbox = await t.sandbox()
    one = dropped(t, await sandbox.create_snapshot())
    two = dropped(t, await sandbox.create_snapshot())
    found, pages = [], await sandbox.list_snapshots()
    while pages.has_next:
        found += [each.snapshot_id for each in await pages.next_items()]
    t.equal(set(found), {one.snapshot_id, two.snapshot_id}, "those of the sandbox")
    by_id = await t.Sandbox.list_snapshots(sandbox_id=sandbox.sandbox_id, limit=1)
    first = await by_id.next_items()
    t.equal((len(first), by_id.has_next, by_id.next_token is not None), (1, True, True), "the first page")
    second = await by_id.next_items()
    t.equal({each.snapshot_id for each in first + second}, {one.snapshot_id, two.snapshot_id}, "both pages")
    t.equal(by_id.has_next, False, "no more")
    every = await t.Sandbox.list_snapshots(limit=100)
    t.check(one.snapshot_id in [each.snapshot_id for each in await every.next_items()], "among all")


@scenario("snapshots", patience=120)
async def snapshots_are_found_by_name(t):
    import inspect

    if "name" not in inspect.signature(t.real(t.Sandbox)._cls_list_snapshots).parameters:
        t.skip("this client does not filter by name")
    sandbox, name = await t.sandbox(), f"find-{t.mark}"
    snapshot = dropped(t, await sandbox.create_snapshot(name=name))
    found = await (await t.Sandbox.list_snapshots(name=name)).next_items()
    t.check(snapshot.snapshot_id in [each.snapshot_id for each in found], f"the snapshot among {found}")
    t.equal(await (await t.Sandbox.list_snapshots(name=f"{name}-not")).next_items(), [], "of another name")


@scenario("snapshots", patience=120)
async def snapshots_can_be_deleted(t):
    sandbox = await t.sandbox()
    snapshot = await sandbox.create_snapshot()
    t.equal(await t.Sandbox.delete_snapshot(snapshot.snapshot_id), True, "the first time")
    t.equal(await t.Sandbox.delete_snapshot(snapshot.snapshot_id), False, "the second time")
    await t.raises("SandboxException", t.Sandbox.create(snapshot.snapshot_id))


@scenario("snapshots")
async def what_is_gone_has_no_snapshot(t):
    sandbox = await t.sandbox()
    await sandbox.kill()
    await t.raises("SandboxNotFoundException", sandbox.create_snapshot())


@scenario("snapshots", patience=120)
async def processes_of_a_snapshot(t):
    sandbox = await t.sandbox()
    await sandbox.commands.run("sleep 98765", background=True, timeout=0)
    snapshot = dropped(t, await sandbox.create_snapshot())
    made = await t.sandbox(snapshot.snapshot_id)
    if (await made.commands.run("pgrep -f 'sleep 9876[5]' || true")).stdout == "":
        t.skip("a snapshot keeps files; processes and memory would need a kernel of the sandbox's own")
