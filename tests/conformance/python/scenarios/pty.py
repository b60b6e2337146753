"""Terminals."""
from harness import scenario


def size(rows, cols):
    from e2b import PtySize

    return PtySize(rows=rows, cols=cols)


class Terminal:
    """A terminal and what it has shown; the client's two forms tell that in two ways."""

    def __init__(self, t, sandbox):
        self.t, self.sandbox, self.shown, self.handle, self.waiting = t, sandbox, b"", None, None

    def take(self, data):
        self.shown += data

    async def open(self, **options):
        extra = {} if self.t.sync else {"on_data": self.take}
        self.handle = await self.sandbox.pty.create(size(24, 80), **extra, **options)
        return self

    async def join(self, pid):
        extra = {} if self.t.sync else {"on_data": self.take}
        self.handle = await self.sandbox.pty.connect(pid, **extra)
        return self

    async def type(self, text):
        await self.sandbox.pty.send_stdin(self.handle.pid, text.encode())

    async def end(self):
        """Waits for its end; gives the exit code."""
        try:
            done = await (self.handle.wait(on_pty=self.take) if self.t.sync else self.handle.wait())
            return done.exit_code
        except self.t.exception("CommandExitException") as error:
            return error.exit_code


@scenario("pty")
async def a_terminal_is_a_shell(t):
    terminal = await Terminal(t, await t.sandbox()).open()
    await terminal.type("tty; echo $((40 + 2)) $TERM; pwd\n")
    await terminal.type("exit\n")
    t.equal(await terminal.end(), 0, "its exit code")
    text = terminal.shown.decode()
    for part in ("/dev/pts/", "42 ", "/home/user"):
        t.contains(text, part, "what it showed")


@scenario("pty")
async def its_exit_code_comes_back(t):
    terminal = await Terminal(t, await t.sandbox()).open()
    await terminal.type("exit 5\n")
    t.equal(await terminal.end(), 5, "its exit code")


@scenario("pty")
async def it_has_user_directory_and_environment(t):
    sandbox = await t.sandbox(envs={"OUTER": "outside"})
    terminal = await Terminal(t, sandbox).open(user="root", cwd="/tmp", envs={"INNER": "within"})
    await terminal.type("echo \"<$(id -un) $(pwd) $INNER $OUTER>\"; exit\n")
    await terminal.end()
    t.contains(terminal.shown.decode(), "<root /tmp within outside>", "what it showed")


@scenario("pty")
async def it_has_the_size_that_was_asked(t):
    sandbox = await t.sandbox()
    terminal = await Terminal(t, sandbox).open()
    await sandbox.pty.resize(terminal.handle.pid, size(33, 111))
    await terminal.type("echo \"<$(stty size)>\"; exit\n")
    await terminal.end()
    t.contains(terminal.shown.decode(), "<33 111>", "what it showed")


@scenario("pty")
async def it_begins_with_the_size_that_was_asked(t):
    terminal = await Terminal(t, await t.sandbox()).open()
    await terminal.type("echo \"<$(stty size)>\"; exit\n")
    await terminal.end()
    t.contains(terminal.shown.decode(), "<24 80>", "what it showed")


@scenario("pty")
async def one_can_leave_and_come_back(t):
    sandbox = await t.sandbox()
    terminal = await Terminal(t, sandbox).open()
    await terminal.type("KEPT=secret-$((1+1))\n")
    pid = terminal.handle.pid
    await terminal.handle.disconnect()
    again = await Terminal(t, sandbox).join(pid)
    t.equal(again.handle.pid, pid, "the pid")
    await again.type("echo \"<$KEPT>\"; exit\n")
    await again.end()
    t.contains(again.shown.decode(), "<secret-2>", "what it showed")


@scenario("pty")
async def it_can_be_killed(t):
    sandbox = await t.sandbox()
    terminal = await Terminal(t, sandbox).open()
    t.equal(await sandbox.pty.kill(terminal.handle.pid), True, "the first kill")
    t.check(await terminal.end() != 0, "a code that is no success")
    t.equal(await sandbox.pty.kill(terminal.handle.pid), False, "the second kill")
    t.equal(await sandbox.pty.kill(999999), False, "killing what never was")
    other = await Terminal(t, sandbox).open()
    t.equal(await other.handle.kill(), True, "kill of the handle")


@scenario("pty")
async def interrupts_reach_what_runs_in_it(t):
    terminal = await Terminal(t, await t.sandbox()).open()
    await terminal.type("echo begun; sleep 100\n")
    if not t.sync:
        async def begun():
            return b"begun\r\n" in terminal.shown
        await t.eventually(begun, "the terminal shows what it does")

    async def sleeping():
        return any(each for each in (await terminal.sandbox.commands.run("pgrep -x sleep || true")).stdout.split())

    # Before the program has the terminal, an interrupt is the shell's, which then waits for the program.
    await t.eventually(sleeping, "the command in it runs")
    await terminal.type("\x03")
    await terminal.type("echo \"<$?>\"; exit 0\n")
    t.equal(await terminal.end(), 0, "its exit code")
    t.contains(terminal.shown.decode(), "<130>", "what it showed")


@scenario("pty", needs=("Pty.stream_input",))
async def keys_can_be_streamed(t):
    sandbox = await t.sandbox()
    terminal = await Terminal(t, sandbox).open()
    keys = ["echo ", "\"<", "漢字", ">\"\n", "exit\n"]
    if t.sync:
        await sandbox.pty.stream_input(terminal.handle.pid, iter(keys))
    else:
        into = await sandbox.pty.stream_input(terminal.handle.pid)
        for key in keys:
            await into.send(key)
        await into.close()
    await terminal.end()
    t.contains(terminal.shown.decode(), "<漢字>", "what it showed")


@scenario("pty")
async def what_is_gone_is_told(t):
    sandbox = await t.sandbox()
    await t.raises("NotFoundException", sandbox.pty.send_stdin(999999, b"x"))
    await t.raises("NotFoundException", sandbox.pty.resize(999999, size(1, 1)))
    await t.raises("NotFoundException", Terminal(t, sandbox).join(999999))
