"""Kernels of our own, for languages whose interpreters need no more: a process that takes code on one pipe and says on
another when it is done. Knows nothing of HTTP."""

import asyncio
import codecs
import contextlib
import json
import os
import shlex
import signal
import subprocess

from execution import counted, error, output, restarted, result
from jupyter import signal_group, when_ended

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "kernel")
PIECE = 65536


def kernel(language):
    """What starts a kernel of a language in a directory; None for languages of others."""
    if language == "bash":
        return Bash
    if language in ("javascript", "typescript"):
        return lambda cwd: JavaScript(cwd, language)
    return None


class Worker:
    """A process with pipes: its output and errors, what it says, and what it is told."""

    # One that comes between two of its steps may be lost.
    hears_interrupts = False
    # What else it has open.
    descriptors = ()

    def __init__(self, cwd):
        self._loop = asyncio.get_running_loop()
        self._count = 0
        self._execution = None
        self._told = b""
        tell, hear = os.pipe(), os.pipe()
        self._process = subprocess.Popen(
            self.command(tell[0], hear[1]),
            cwd=cwd,
            stdin=tell[0],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(tell[0], hear[1], *self.descriptors),
            start_new_session=True,
        )
        os.close(tell[0])
        os.close(hear[1])
        self._tell = os.fdopen(tell[1], "wb", buffering=0)
        self._hear = os.fdopen(hear[0], "rb", buffering=0)
        self._outputs = {
            "stdout": (self._process.stdout, codecs.getincrementaldecoder("utf-8")("replace")),
            "stderr": (self._process.stderr, codecs.getincrementaldecoder("utf-8")("replace")),
        }
        for stream, (pipe, _) in self._outputs.items():
            os.set_blocking(pipe.fileno(), False)
            self._loop.add_reader(pipe, self._read, stream)
        os.set_blocking(self._hear.fileno(), False)
        self._loop.add_reader(self._hear, self._listen)
        when_ended(self._process, self._end)

    def ended(self):
        """Whether the process is gone."""
        return self._process.poll() is not None

    def interrupt(self):
        """As Control-C would."""
        signal_group(self._process, signal.SIGINT)

    def close(self):
        """Ends the process and forgets it."""
        signal_group(self._process, signal.SIGKILL)
        self._forget()

    def run(self, execution, code, env):
        """Has code executed; what comes of it goes to the execution."""
        self._count += 1
        self._execution = execution
        execution.put(counted(self._count))
        self._send(self.request(code, env or {}))

    def _send(self, data):
        """Writes without waiting in this thread: the process may be slow to take it."""

        def write():
            try:
                self._tell.write(data)
            except OSError:
                pass  # it ended, which is heard elsewhere

        self._loop.run_in_executor(None, write)

    def _read(self, stream):
        """Passes on what was written; tells whether there was anything."""
        pipe, decoder = self._outputs[stream]
        try:
            data = os.read(pipe.fileno(), PIECE)
        except BlockingIOError:
            return False
        if not data:
            self._loop.remove_reader(pipe)
            return False
        text = decoder.decode(data)
        if text and self._execution is not None:
            self._execution.put(output(stream, text))
        return True

    def _listen(self):
        try:
            data = os.read(self._hear.fileno(), PIECE)
        except BlockingIOError:
            return
        *lines, self._told = (self._told + data).split(b"\n")
        for line in lines:
            self._drain()  # what was written before is told before
            if self._execution is not None:
                self.said(self._execution, line.decode("utf-8", "replace"))

    def _drain(self):
        for stream in self._outputs:
            while self._read(stream):
                pass

    def _end(self):
        """The process is gone, and its execution with it."""
        if self._hear.closed:
            return
        self._drain()
        if self._execution is not None:
            self._execution.fail(restarted())
            self._execution.finish()
        self._forget()

    def _forget(self):
        if self._hear.closed:
            return
        for pipe in (self._hear, self._process.stdout, self._process.stderr):
            self._loop.remove_reader(pipe)
            pipe.close()
        self._execution = None
        self._tell.close()


class Bash(Worker):
    """An interactive bash without a terminal: an interrupt brings it back to its prompt, to whatever line is next."""

    def command(self, _tell, hear):
        """How it is started. Its standard input is where it takes commands from; what it says of having no terminal
        is not for anybody."""
        start = f'exec {{err}}>&2 2>/dev/null; ATOLL_CODE="{hear} $err" exec bash --noediting --init-file {HERE}/bash.sh -i'
        return ["bash", "-c", start]

    def request(self, code, env):
        """The code has no standard input: that is where the next line comes from, which says the status."""
        variables = " ".join(shlex.quote(f"{name}={value}") for name, value in env.items())
        code = shlex.quote(code.replace("\0", ""))
        return f"__atoll_push {variables}\neval {code} </dev/null\n".encode() + self._last()

    def _last(self):
        return f"__atoll_pop {self._count}\n".encode()

    def interrupt(self):
        """At its prompt, it forgets the line that it was reading."""
        super().interrupt()
        self._send(self._last())

    def said(self, execution, line):
        """The number of an execution, and the status of its code. What was asked twice is told twice."""
        number, status = line.split()
        if number == str(self._count):
            if status != "0":
                execution.fail(error("ExitStatus", status, ""))
            execution.finish()


class JavaScript(Worker):
    """Node, which is told and says lines of JSON."""

    def __init__(self, cwd, language):
        self._language = language
        hear, self._interrupts = os.pipe()
        self.descriptors = (hear,)
        try:
            super().__init__(cwd)
        finally:
            os.close(hear)

    def command(self, tell, hear):
        """How it is started."""
        own = [str(number) for number in (tell, hear, *self.descriptors)]
        return ["node", f"{HERE}/javascript.js", self._language, *own]

    def request(self, code, env):
        """One line."""
        return json.dumps({"code": code, "env": env, "number": self._count}).encode() + b"\n"

    def interrupt(self):
        """A thread of its own signals it when it can be."""
        with contextlib.suppress(BrokenPipeError):  # it ended, which is heard elsewhere
            os.write(self._interrupts, b"%d\n" % self._count)

    def said(self, execution, line):
        """One event."""
        told = json.loads(line)
        if "bundle" in told:
            execution.put(result(told["bundle"], told["main"]))
        elif "error" in told:
            execution.fail(error(**told["error"]))
        else:
            execution.finish()

    def _forget(self):
        if not self._hear.closed:
            os.close(self._interrupts)
        super()._forget()
