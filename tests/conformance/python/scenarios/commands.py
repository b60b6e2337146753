"""Commands: what they print, how they end, what they are given."""
import asyncio
import time

from harness import scenario

REPLACED = "\ufffd"


@scenario("commands")
async def output_and_exit_code_come_back(t):
    sandbox = await t.sandbox()
    done = await sandbox.commands.run("echo out; echo err >&2")
    t.equal((done.stdout, done.stderr, done.exit_code, done.error), ("out\n", "err\n", 0, done.error), "the result")
    t.check(not done.error, f"no error, got {done.error}")


@scenario("commands")
async def a_failure_carries_everything(t):
    sandbox = await t.sandbox()
    for code in (1, 7, 127, 255):
        error = await t.raises("CommandExitException", sandbox.commands.run(f"echo o; echo e >&2; exit {code}"))
        t.equal((error.exit_code, error.stdout, error.stderr), (code, "o\n", "e\n"), f"exit {code}")
    error = await t.raises("CommandExitException", sandbox.commands.run("no-such-program-at-all"))
    t.equal(error.exit_code, 127, "a program that is not there")


@scenario("commands")
async def a_signal_is_told(t):
    sandbox = await t.sandbox()
    error = await t.raises("CommandExitException", sandbox.commands.run("kill -9 $$"))
    t.check(error.exit_code != 0, f"a code that is no success, got {error.exit_code}")


@scenario("commands")
async def text_passes_unchanged(t):
    sandbox = await t.sandbox()
    for text in ("line one\nline two", "!@#%^&*()_+{}|:<>?", "ünïcödé 漢字 🚀", "tab\there", "'single' and `back`"):
        await sandbox.files.write("said.txt", text)
        t.equal((await sandbox.commands.run("cat said.txt")).stdout, text, "the output")
    t.equal((await sandbox.commands.run("echo 'two\nlines'")).stdout, "two\nlines\n", "a command of two lines")


@scenario("commands")
async def broken_utf8_is_replaced(t):
    sandbox = await t.sandbox()
    done = await sandbox.commands.run("printf '%8191s' | tr ' ' a; printf '\\xe2'")
    t.equal(done.stdout, "a" * 8191 + REPLACED, "the output")


@scenario("commands")
async def characters_are_whole_across_pieces(t):
    sandbox = await t.sandbox()
    done = await sandbox.commands.run("printf '\\xe6\\xbc'; sleep 0.3; printf '\\xa2 ok'")
    t.equal(done.stdout, "漢 ok", "a character in two writes")


@scenario("commands")
async def much_output_is_complete(t):
    sandbox = await t.sandbox()
    done = await sandbox.commands.run("seq 1 300000", timeout=60)
    t.equal(len(done.stdout), sum(len(str(n)) + 1 for n in range(1, 300001)), "the length of the output")
    t.check(done.stdout.endswith("299999\n300000\n"), "its end")


@scenario("commands")
async def output_streams_while_it_runs(t):
    sandbox, seen = await t.sandbox(), []
    done = await sandbox.commands.run(
        "echo first; sleep 1; echo second; echo wrong >&2",
        on_stdout=lambda text: seen.append((time.monotonic(), text)), on_stderr=lambda text: seen.append((0, text)))
    t.equal(done.stdout, "first\nsecond\n", "stdout")
    t.equal([text for _, text in seen], ["first\n", "second\n", "wrong\n"], "what the callbacks saw")
    t.check(seen[1][0] - seen[0][0] > 0.5, "the first line before the second was written")


@scenario("commands")
async def it_runs_as_the_user_in_their_home(t):
    sandbox = await t.sandbox()
    done = await sandbox.commands.run("id -un; pwd; echo $HOME $USER $LOGNAME; umask")
    t.equal(done.stdout.splitlines()[:3], ["user", "/home/user", "/home/user user user"], "who and where")
    t.contains((await sandbox.commands.run("echo $PATH")).stdout, "/usr/bin", "PATH")
    t.equal((await sandbox.commands.run("id -u; cd; pwd", user="root")).stdout, "0\n/root\n", "as root")


@scenario("commands")
async def sudo_needs_no_password(t):
    sandbox = await t.sandbox()
    t.equal((await sandbox.commands.run("sudo id -u")).stdout, "0\n", "sudo id")
    await sandbox.commands.run("sudo sh -c 'echo x > /etc/written'")
    t.equal(await sandbox.files.read("/etc/written"), "x\n", "a file of root's")


@scenario("commands")
async def an_unknown_user_is_refused(t):
    sandbox = await t.sandbox()
    await t.raises("AuthenticationException", sandbox.commands.run("true", user="nobody-there"), "nobody-there")


@scenario("commands")
async def a_directory_can_be_named(t):
    sandbox = await t.sandbox()
    await sandbox.files.make_dir("in there/deep")
    t.equal((await sandbox.commands.run("pwd", cwd="/tmp")).stdout, "/tmp\n", "an absolute one")
    t.equal((await sandbox.commands.run("pwd", cwd="in there/deep")).stdout, "/home/user/in there/deep\n", "a relative one")
    await t.raises("InvalidArgumentException", sandbox.commands.run("pwd", cwd="/not/there"), "/not/there")


@scenario("commands")
async def commands_know_where_they_run(t):
    sandbox = await t.sandbox()
    read = "echo $E2B_SANDBOX $E2B_SANDBOX_ID $E2B_TEMPLATE_ID"
    known = (await sandbox.commands.run(read)).stdout.split()
    t.equal(known[:2], ["true", sandbox.sandbox_id], "what the environment says")
    t.check(known[2:], "a template")
    left = (await sandbox.commands.run("cd /run/e2b && for name in .E2B_SANDBOX .E2B_SANDBOX_ID; do cat $name; echo; done")).stdout.split()
    t.equal(left, ["true", sandbox.sandbox_id], "what is left for programs with another environment")


@scenario("commands")
async def the_calls_environment_wins(t):
    sandbox = await t.sandbox(envs={"A": "sandbox", "B": "sandbox"})
    done = await sandbox.commands.run("echo $A $B $HOME", envs={"A": "call", "HOME": "/elsewhere"})
    t.equal(done.stdout, "call sandbox /elsewhere\n", "the call's before the sandbox's before the user's")
    t.equal((await sandbox.commands.run("echo $A")).stdout, "sandbox\n", "and it is forgotten afterwards")
    t.equal((await sandbox.commands.run("sudo env | grep -c '^A=' || true", envs={"A": "call"})).stdout, "0\n", "nor does sudo pass it on")


@scenario("commands")
async def a_time_limit_ends_the_command(t):
    sandbox = await t.sandbox()
    before = time.monotonic()
    await t.raises("TimeoutException", sandbox.commands.run("echo $$ > pid.txt; sleep 300", timeout=2))
    t.check(time.monotonic() - before < 20, "not much later than asked")
    pid = (await sandbox.files.read("pid.txt")).strip()

    async def gone():
        return (await sandbox.commands.run(f"test -d /proc/{pid} && echo there || echo gone")).stdout == "gone\n"

    await t.eventually(gone, "the process is gone, too")
    t.equal((await sandbox.commands.run("echo still", timeout=10)).stdout, "still\n", "the sandbox goes on")


@scenario("commands", patience=120)
async def no_time_limit_means_none(t):
    sandbox = await t.sandbox()
    t.equal((await sandbox.commands.run("sleep 3; echo done", timeout=0)).stdout, "done\n", "with timeout=0")


@scenario("commands")
async def a_background_command_is_waited_for(t):
    sandbox = await t.sandbox()
    handle = await sandbox.commands.run("sleep 0.5; echo late; exit 0", background=True)
    t.check(handle.pid > 0, f"a pid, got {handle.pid}")
    done = await handle.wait()
    t.equal((done.stdout, done.exit_code), ("late\n", 0), "the result")
    failing = await sandbox.commands.run("echo half; exit 3", background=True)
    t.equal((await t.raises("CommandExitException", failing.wait())).exit_code, 3, "a failing one")


@scenario("commands")
async def a_handle_tells_what_it_has(t):
    sandbox = await t.sandbox()
    handle = await sandbox.commands.run("echo out; echo err >&2; sleep 0.2", background=True)
    if t.sync:
        pieces = list(t.real(handle))
        t.equal([piece for piece in pieces if piece[0]][0][0], "out\n", "a piece of stdout")
        t.check(any(piece[1] == "err\n" for piece in pieces), "a piece of stderr")
        return
    await handle.wait()
    t.equal((handle.stdout, handle.stderr, handle.exit_code), ("out\n", "err\n", 0), "its properties")
    t.check(not handle.error, f"no error, got {handle.error}")


@scenario("commands")
async def running_commands_are_listed(t):
    sandbox = await t.sandbox()
    one = await sandbox.commands.run("sleep 100", background=True, envs={"NAMED": "yes"}, cwd="/tmp")
    two = await sandbox.commands.run("sleep 101", background=True)
    running = {each.pid: each for each in await sandbox.commands.list()}
    t.check(one.pid in running and two.pid in running, f"both pids of {sorted(running)}")
    t.contains(" ".join([running[one.pid].cmd, *running[one.pid].args]), "sleep 100", "its command line")
    t.equal(running[one.pid].cwd, "/tmp", "its directory")
    t.equal(running[one.pid].envs.get("NAMED"), "yes", "its environment")
    await one.kill()

    async def left():
        return one.pid not in {each.pid for each in await sandbox.commands.list()}

    await t.eventually(left, "the killed one is not listed any more")


@scenario("commands")
async def kill_ends_a_command(t):
    sandbox = await t.sandbox()
    handle = await sandbox.commands.run("trap '' TERM; sleep 100", background=True)
    t.equal(await sandbox.commands.kill(handle.pid), True, "the first kill")
    error = await t.raises("CommandExitException", handle.wait())
    t.check(error.exit_code != 0, f"a code that is no success, got {error.exit_code}")
    t.equal(await sandbox.commands.kill(handle.pid), False, "the second kill")
    t.equal(await sandbox.commands.kill(999999), False, "killing what never was")
    other = await sandbox.commands.run("sleep 100", background=True)
    t.equal(await other.kill(), True, "kill of the handle")


@scenario("commands")
async def input_reaches_a_command(t):
    sandbox = await t.sandbox()
    for text in ("Hello, World!\n", "", "!@#$%^&*()_+\n", "two\nlines\n", "漢字\n"):
        handle = await sandbox.commands.run("head -c 1000", background=True, stdin=True)
        await sandbox.commands.send_stdin(handle.pid, text)
        await sandbox.commands.close_stdin(handle.pid)
        t.equal((await handle.wait()).stdout, text, "what came back")


@scenario("commands")
async def input_through_the_handle(t):
    sandbox = await t.sandbox()
    handle = await sandbox.commands.run("read line; echo got $line; cat", background=True, stdin=True)
    await handle.send_stdin("one\n")
    await handle.send_stdin(b"\xff\xfe rest")
    await handle.close_stdin()
    t.equal((await handle.wait()).stdout, f"got one\n{REPLACED}{REPLACED} rest", "what came back")


@scenario("commands")
async def input_to_what_is_gone_is_told(t):
    sandbox = await t.sandbox()
    await t.raises("NotFoundException", sandbox.commands.send_stdin(999999, "x"))
    await t.raises("NotFoundException", sandbox.commands.close_stdin(999999))
    await t.raises("NotFoundException", sandbox.commands.connect(999999))


@scenario("commands")
async def a_command_without_input_sees_its_end(t):
    sandbox = await t.sandbox()
    t.equal((await sandbox.commands.run("cat; echo end", timeout=10, stdin=False)).stdout, "end\n", "cat of nothing")


@scenario("commands", needs=("Commands.stream_input",))
async def input_can_be_streamed(t):
    sandbox = await t.sandbox()
    handle = await sandbox.commands.run("cat", background=True, stdin=True)
    lines = [f"line {n}\n" for n in range(200)]
    if t.sync:
        await sandbox.commands.stream_input(handle.pid, iter(lines))
    else:
        into = await sandbox.commands.stream_input(handle.pid)
        for line in lines:
            await into.send(line)
        await into.close()
    await handle.close_stdin()
    t.equal((await handle.wait()).stdout, "".join(lines), "everything, in order")


@scenario("commands", needs=("Commands.stream_input",))
async def streamed_input_to_what_is_gone_is_told(t):
    sandbox = await t.sandbox()

    async def send():
        if t.sync:
            return await sandbox.commands.stream_input(999999, iter(["x"]))
        into = await sandbox.commands.stream_input(999999)
        await into.close()

    await t.raises("NotFoundException", send())


@scenario("commands")
async def one_can_connect_to_a_running_command(t):
    sandbox = await t.sandbox()
    handle = await sandbox.commands.run("read go; echo went $go; exit 4", background=True, stdin=True)
    pid = handle.pid
    await handle.disconnect()
    again = await sandbox.commands.connect(pid)
    t.equal(again.pid, pid, "the pid")
    await sandbox.commands.send_stdin(pid, "there\n")
    error = await t.raises("CommandExitException", again.wait())
    t.equal((error.exit_code, error.stdout), (4, "went there\n"), "the result")


@scenario("commands")
async def a_disconnected_command_runs_on(t):
    sandbox = await t.sandbox()
    handle = await sandbox.commands.run("sleep 1; echo finished > end.txt; sleep 100", background=True)
    await handle.disconnect()
    await t.eventually(lambda: sandbox.files.exists("end.txt"), "the command goes on")
    t.check(any(each.pid == handle.pid for each in await sandbox.commands.list()), "it is still listed")


@scenario("commands")
async def two_can_watch_one_command(t):
    sandbox = await t.sandbox()
    handle = await sandbox.commands.run("sleep 1; echo shared", background=True)
    other = await sandbox.commands.connect(handle.pid)
    t.equal((await other.wait()).stdout, "shared\n", "the second")
    t.equal((await handle.wait()).stdout, "shared\n", "the first")


@scenario("commands")
async def many_run_at_once(t):
    sandbox = await t.sandbox()

    def work(number):
        async def run():
            return (await sandbox.commands.run(f"sleep 0.2; echo {number}")).stdout

        return run

    beside = [t.beside(work(number)) for number in range(30)]
    t.equal([await each.join() for each in beside], [f"{number}\n" for number in range(30)], "thirty answers")


@scenario("commands")
async def a_killed_sandbox_ends_its_commands(t):
    sandbox = await t.sandbox()
    handle = await sandbox.commands.run("sleep 60", background=True)
    await sandbox.kill()
    error = await t.raises("SandboxException", handle.wait())
    t.check(any(word in str(error) for word in ("killed", "not found", "timeout")), f"a text that says why, got {error}")


@scenario("commands")
async def children_left_behind_do_not_hold_the_answer(t):
    sandbox = await t.sandbox()
    before = time.monotonic()
    done = await sandbox.commands.run("setsid sleep 50 >/dev/null 2>&1 </dev/null & echo started", timeout=30)
    t.equal(done.stdout, "started\n", "the output")
    t.check(time.monotonic() - before < 20, "the answer did not wait for the child")


@scenario("commands")
async def a_login_shell_runs_it(t):
    sandbox = await t.sandbox()
    await sandbox.files.write(".profile", "export FROM_PROFILE=yes\n")
    t.equal((await sandbox.commands.run("echo $FROM_PROFILE; shopt -q login_shell && echo login")).stdout, "yes\nlogin\n", "what bash -l does")


@scenario("commands")
async def programs_can_be_installed(t):
    sandbox = await t.sandbox()
    done = await sandbox.commands.run("command -v apt-get && command -v dpkg && sudo dpkg --configure -a; echo $?")
    t.equal(done.stdout.splitlines()[-1], "0", "dpkg as root")


@scenario("commands")
async def python_and_other_tools_are_there(t):
    sandbox = await t.sandbox()
    lacking = (await sandbox.commands.run("for p in python3 git curl bash sudo tar gzip ss; do command -v $p >/dev/null || echo $p; done")).stdout.split()
    t.equal(lacking, [], "programs that the base template lacks")
    done = await sandbox.commands.run("python3 -c \"import os; print(os.environ['X'])\"", envs={"X": "from python"})
    t.equal(done.stdout, "from python\n", "Python's environment")


@scenario("commands")
async def a_request_limit_is_held(t):
    sandbox = await t.sandbox()
    t.equal((await sandbox.commands.run("echo quick", request_timeout=20)).stdout, "quick\n", "with a limit for the request")
    await asyncio.sleep(0)
