"""Jupyter kernels: processes that are spoken to over ZeroMQ. Knows nothing of HTTP."""

import asyncio
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading

from execution import counted, error, output, restarted, result

# Python's own kernel, with what the results of this service need.
PYTHON = [sys.executable, os.path.join(os.path.dirname(os.path.abspath(__file__)), "kernel/python.py")]
# What whoever wants to see a kernel die looks for: where this service's clients come from, a server of Jupyter has the kernels.
KNOWN_AS = "jupyter-server"
# The channels of a kernel.
CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
# Seconds after which a kernel that has not said anything is asked again.
ASK_AGAIN = 0.2
# Seconds that a new kernel may take.
PATIENCE = 60


def every_installed():
    """The kernels that are installed: name, language and command line of each."""
    from jupyter_client.kernelspec import KernelSpecManager

    found = sorted(KernelSpecManager().get_all_specs().items())
    return [(name.lower(), it["spec"]["language"].lower(), it["spec"]["argv"]) for name, it in found]


def installed(language):
    """The command line of an installed kernel for a language, by the language's name or the kernel's."""
    return next((argv for name, speaks, argv in every_installed() if language in (name, speaks)), None)


def kernel(language):
    """What starts a kernel of a language in a directory."""
    if language == "python":
        return lambda cwd: Kernel([*PYTHON, "-f", "{connection_file}", KNOWN_AS], cwd, PythonEnv(), in_files)
    argv, env_code = installed(language), REnv() if language == "r" else None
    return lambda cwd: Kernel(argv, cwd, env_code, over_tcp)


def in_files(directory):
    """Where a kernel of our own listens: sockets of the file system."""
    places = {f"{channel}_port": number for number, channel in enumerate(CHANNELS, 1)}
    return {"transport": "ipc", "ip": os.path.join(directory, "kernel")} | places


def over_tcp(_directory):
    """Where other kernels listen, which do not agree on the names of such sockets: free ports."""
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in CHANNELS]
    places = {f"{channel}_port": it.getsockname()[1] for channel, it in zip(CHANNELS, taken)}
    for it in taken:
        it.close()
    return {"transport": "tcp", "ip": "127.0.0.1"} | places


class PythonEnv:
    """Code that sets variables for one execution, and takes them back."""

    def before(self, env):
        return f"__import__('atoll_display').push({env!r})"

    def after(self):
        return "__import__('atoll_display').pop()"


class REnv:
    """The same in R, whose strings are written as JSON's are. What variables were before is kept as an option."""

    def before(self, env):
        names = ", ".join(text(name) for name in env)
        pairs = ", ".join(f"{text(name)} = {text(value)}" for name, value in env.items())
        return f"options(atoll.env = Sys.getenv(c({names}), unset = NA, names = TRUE)); Sys.setenv({pairs})"

    def after(self):
        return (
            'local({ was <- getOption("atoll.env"); Sys.unsetenv(names(was)[is.na(was)]); '
            "was <- as.list(was[!is.na(was)]); if (length(was)) do.call(Sys.setenv, was); options(atoll.env = NULL) })"
        )


def text(it):
    """A string of R."""
    return json.dumps(it, ensure_ascii=False)


class Kernel:
    """A process and the connection to it. The process is started at once, the connection made when it is needed."""

    hears_interrupts = True

    def __init__(self, argv, cwd, env_code, place):
        self._env_code = env_code
        self._directory = tempfile.mkdtemp(prefix="atoll-code-")
        self._info = place(self._directory)
        self._info |= {"key": secrets.token_hex(16), "signature_scheme": "hmac-sha256"}
        file = os.path.join(self._directory, "connection.json")
        with open(file, "w", encoding="utf-8") as connection:
            json.dump(self._info, connection)
        argv = [part.format(connection_file=file) if "{" in part else part for part in argv]
        self._process = subprocess.Popen(  # its parent's end ends it
            argv,
            cwd=cwd,
            env=os.environ | {"JPY_PARENT_PID": str(os.getpid())},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._connected = None
        self._executions = {}
        self._tasks = []
        self._sockets = {}

    def ended(self):
        """Whether the process is gone."""
        return self._process.poll() is not None

    def interrupt(self):
        """As Control-C would."""
        signal_group(self._process, signal.SIGINT)

    def close(self):
        """Ends the process and forgets it."""
        signal_group(self._process, signal.SIGKILL)
        self._process.wait()
        for task in self._tasks:
            task.cancel()
        for sock in self._sockets.values():
            sock.close(linger=0)
        shutil.rmtree(self._directory, ignore_errors=True)

    def run(self, execution, code, env):
        """Has code executed; what comes of it goes to the execution."""
        if env and self._env_code is None:
            text = "this language takes no variables for one execution; set them in its code"
            execution.fail(error("ValueError", text, ""))
            execution.finish()
            return
        task = asyncio.ensure_future(self._run(execution, code, env))
        self._tasks.append(task)
        task.add_done_callback(self._tasks.remove)

    async def _run(self, execution, code, env):
        try:
            await self._connect()
        except ConnectionError as reason:
            execution.fail(error("KernelError", str(reason), ""))
            execution.finish()
            return
        if env:
            self._request(self._env_code.before(env), silent=True)
        asked = self._request(code, silent=False)
        self._executions[asked] = execution
        if env:
            self._request(self._env_code.after(), silent=True)
        execution.finished.add_done_callback(lambda _: self._executions.pop(asked, None))

    def _request(self, code, silent):
        """Sends code and returns the message's id. What comes after code that fails is executed all the same."""
        content = {
            "code": code,
            "silent": silent,
            "store_history": not silent,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": False,
        }
        message = self._session.send(self._sockets["shell"], "execute_request", content)
        return message["header"]["msg_id"]

    async def _connect(self):
        """Waits until the kernel answers and its outputs arrive: what is published before that is lost."""
        if self._connected is None:
            self._connected = asyncio.get_running_loop().create_future()
            self._open()
            self._tasks += [asyncio.ensure_future(work) for work in (self._listen(), self._drain())]
            when_ended(self._process, self._end)
        waited = 0
        while not self._connected.done():
            if waited > PATIENCE or self.ended():
                raise ConnectionError("the kernel did not start; its words are in the sandbox's log")
            self._session.send(self._sockets["shell"], "kernel_info_request", {})
            await asyncio.wait([self._connected], timeout=ASK_AGAIN)
            waited += ASK_AGAIN

    def _open(self):
        import zmq
        import zmq.asyncio
        from jupyter_client.session import Session

        self._session = Session(key=self._info["key"].encode(), signature_scheme="hmac-sha256")
        context = zmq.asyncio.Context.instance()
        for channel, kind in (("shell", zmq.DEALER), ("iopub", zmq.SUB)):
            sock = self._sockets[channel] = context.socket(kind)
            sock.reconnect_ivl = 5
            if kind == zmq.SUB:
                sock.subscribe(b"")
            sock.connect(self._address(channel))

    def _address(self, channel):
        """As ZeroMQ and Jupyter's own client write it."""
        transport, place, number = self._info["transport"], self._info["ip"], self._info[f"{channel}_port"]
        return f"{transport}://{place}{'-' if transport == 'ipc' else ':'}{number}"

    async def _drain(self):
        """Replies say nothing that the published messages do not, and must be taken."""
        while True:
            await self._sockets["shell"].recv_multipart()

    async def _listen(self):
        while True:
            parts = await self._sockets["iopub"].recv_multipart()
            if not self._connected.done():
                self._connected.set_result(None)
            try:
                _, parts = self._session.feed_identities(parts)
                message = self._session.deserialize(parts)
            except ValueError:
                continue  # not signed with the kernel's key: not the kernel's
            execution = self._executions.get(message["parent_header"].get("msg_id"))
            if execution is not None:
                take(execution, message["msg_type"], message["content"])

    def _end(self):
        """An execution ends with its kernel."""
        for execution in list(self._executions.values()):
            execution.fail(restarted())
            execution.finish()


def take(execution, kind, content):
    """What a message means for the execution that it belongs to."""
    if kind == "execute_input":
        execution.put(counted(content["execution_count"]))
    elif kind == "stream":
        execution.put(output(content["name"], content["text"]))
    elif kind in ("display_data", "execute_result"):
        execution.put(result(content["data"], kind == "execute_result"))
    elif kind == "error":
        execution.fail(error(content["ename"], content["evalue"], "\n".join(content["traceback"])))
    elif kind == "status" and content["execution_state"] == "idle":
        execution.finish()


def when_ended(process, then):
    """Calls back in the loop when a process is gone."""
    loop = asyncio.get_running_loop()

    def wait():
        process.wait()
        loop.call_soon_threadsafe(then)

    threading.Thread(target=wait, daemon=True).start()


def signal_group(process, number):
    """Sends a signal to a process and what it started, if it is there."""
    if process.poll() is None:
        os.killpg(process.pid, number)
