"""Folders that are watched."""
import asyncio

from harness import scenario


class Watch:
    """A watch and what it has seen; the blocking client asks for events, the other is told them."""

    def __init__(self, t, sandbox):
        self.t, self.sandbox, self.seen, self.ended, self.handle = t, sandbox, [], [], None

    async def begin(self, path, **options):
        if self.t.sync:
            self.handle = await self.sandbox.files.watch_dir(path, **options)
        else:
            self.handle = await self.sandbox.files.watch_dir(path, on_event=self.seen.append, on_exit=self.ended.append, **options)
        return self

    async def until(self, *wanted):
        """Waits until all of (kind, name) were seen."""

        async def complete():
            if self.t.sync:
                self.seen += await self.handle.get_new_events()
            return set(wanted) <= {(each.type.value, each.name) for each in self.seen}

        try:
            await self.t.eventually(complete, "events", 15)
        except AssertionError:
            told = sorted({(each.type.value, each.name) for each in self.seen})
            raise AssertionError(f"events: wanted {wanted}, got {told}") from None

    async def stop(self):
        await self.handle.stop()


@scenario("watch")
async def changes_are_told(t):
    sandbox = await t.sandbox()
    await sandbox.files.make_dir("w")
    await sandbox.files.write("w/old.txt", "x")
    watch = await Watch(t, sandbox).begin("w")
    await sandbox.files.write("w/new ü.txt", "x")
    await watch.until(("create", "new ü.txt"), ("write", "new ü.txt"))
    await sandbox.files.write("w/old.txt", "y")
    await watch.until(("write", "old.txt"))
    await sandbox.commands.run("chmod 600 w/old.txt")
    await watch.until(("chmod", "old.txt"))
    await sandbox.files.rename("w/old.txt", "w/older.txt")
    await watch.until(("rename", "old.txt"), ("create", "older.txt"))
    await sandbox.files.remove("w/older.txt")
    await watch.until(("remove", "older.txt"))
    await watch.stop()


@scenario("watch")
async def below_only_when_asked(t):
    sandbox = await t.sandbox()
    await sandbox.files.make_dir("w/deep")
    flat = await Watch(t, sandbox).begin("w")
    whole = await Watch(t, sandbox).begin("w", recursive=True)
    await sandbox.files.write("w/deep/file.txt", "x")
    await sandbox.files.write("w/top.txt", "x")
    await whole.until(("create", "deep/file.txt"), ("write", "deep/file.txt"), ("create", "top.txt"))
    await flat.until(("create", "top.txt"))
    t.check(not any("file.txt" in each.name for each in flat.seen), "the flat watch saw what is below")
    await flat.stop()
    await whole.stop()


@scenario("watch")
async def folders_that_come_later_are_watched(t):
    sandbox = await t.sandbox()
    await sandbox.files.make_dir("w")
    watch = await Watch(t, sandbox).begin("w", recursive=True)
    await sandbox.files.make_dir("w/later")
    await watch.until(("create", "later"))
    await sandbox.files.write("w/later/file.txt", "x")
    await watch.until(("write", "later/file.txt"))
    await watch.stop()


@scenario("watch")
async def nothing_after_stop(t):
    sandbox = await t.sandbox()
    await sandbox.files.make_dir("w")
    watch = await Watch(t, sandbox).begin("w")
    await asyncio.sleep(0.2)
    await watch.stop()
    await sandbox.files.write("w/file.txt", "x")
    if t.sync:
        await t.raises(Exception, watch.handle.get_new_events())
        return
    await asyncio.sleep(0.5)
    t.equal(watch.seen, [], "events after stop")
    t.equal(watch.ended, [None], "on_exit")


@scenario("watch")
async def what_cannot_be_watched_is_told(t):
    sandbox = await t.sandbox()
    await t.raises("FileNotFoundException", Watch(t, sandbox).begin("not-there"))
    await sandbox.files.write("file.txt", "x")
    await t.raises("SandboxException", Watch(t, sandbox).begin("file.txt"))


@scenario("watch")
async def entries_come_with_events(t):
    sandbox = await t.sandbox()
    await sandbox.files.make_dir("w")
    watch = await Watch(t, sandbox).begin("w", include_entry=True)
    await sandbox.files.write("w/file.txt", "12345")
    await watch.until(("write", "file.txt"))
    entries = [each.entry for each in watch.seen if each.entry is not None]
    t.check(entries, "an event with its entry")
    t.equal((entries[-1].name, entries[-1].path, entries[-1].type.value), ("file.txt", "/home/user/w/file.txt", "file"), "the entry")
    await watch.stop()


@scenario("watch")
async def an_absolute_path_and_another_user(t):
    sandbox = await t.sandbox()
    watch = await Watch(t, sandbox).begin("/root", user="root")
    await sandbox.files.write("/root/file.txt", "x", user="root")
    await watch.until(("create", "file.txt"))
    await watch.stop()


@scenario("watch")
async def a_storm_of_changes_is_told(t):
    sandbox = await t.sandbox()
    await sandbox.files.make_dir("w")
    watch = await Watch(t, sandbox).begin("w")
    await sandbox.commands.run("for n in $(seq 1 200); do echo $n > w/$n.txt; done")
    await watch.until(*[("create", f"{n}.txt") for n in range(1, 201)])
    await watch.stop()


@scenario("watch")
async def network_mounts_may_be_allowed(t):
    sandbox = await t.sandbox()
    await sandbox.files.make_dir("w")
    try:
        watch = await Watch(t, sandbox).begin("w", allow_network_mounts=True)
    except TypeError as error:
        t.skip(f"this client does not know the option: {error}")
    await sandbox.files.write("w/file.txt", "x")
    await watch.until(("create", "file.txt"))
    await watch.stop()
