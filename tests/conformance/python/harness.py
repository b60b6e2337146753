"""Runs scenarios through one installed Python client and tells, as lines of JSON, what came of each.

A scenario is one coroutine function, written once. With `--mode async` it meets the client's asyncio classes; with `--mode
sync` the blocking ones, in a thread of its own. What a scenario holds are stand-ins for the client's own objects: they make
every call awaitable, and note it, so that in the end `every_method` can say which public methods nobody called.

This file knows nothing of what is checked; the scenarios know nothing of which of the two they speak to, except by `t.sync`.
"""
import argparse
import asyncio
import concurrent.futures
import fnmatch
import importlib
import inspect
import json
import os
import re
import sys
import threading
import time
import traceback
import uuid

SCENARIOS = []
# A scenario that needs longer says so.
PATIENCE = 90


class Skip(Exception):
    """What is tried is not there; the text says why."""


# Areas of which the target may say that it does not have them (501); of any other, and without this, that is a failure. And
# `cold-pauses`, which it cannot say of itself.
LACKS = os.environ.get("CONFORMANCE_LACKS", "").split()


def lacked(area, error):
    """What the target says that it lacks, where it may."""
    found = re.search(r"501: (.*?)('$|', |$)", str(error), re.MULTILINE)
    return found.group(1) if found and area in LACKS else None


def scenario(area, package="e2b", needs=(), patience=PATIENCE):
    """Registers a scenario. `needs`: methods ("Commands.stream_input") without which this client is too old for it."""

    def register(function):
        SCENARIOS.append((area, package, tuple(needs), patience, function))
        return function

    return register


# What a client offers: (class in blocking form, class in asyncio form), with the module that has it. Absent in older ones.
SURFACE = {
    "e2b": [
        ("e2b", "Sandbox", "AsyncSandbox"),
        ("e2b.sandbox_{}.commands.command", "Commands", "Commands"),
        ("e2b.sandbox_{}.commands.pty", "Pty", "Pty"),
        ("e2b.sandbox_{}.filesystem.filesystem", "Filesystem", "Filesystem"),
        ("e2b.sandbox_{}.git", "Git", "Git"),
        ("e2b", "CommandHandle", "AsyncCommandHandle"),
        ("e2b", None, "AsyncCommandInputHandle"),
        ("e2b", "WatchHandle", "AsyncWatchHandle"),
        ("e2b", "SandboxPaginator", "AsyncSandboxPaginator"),
        ("e2b", "SnapshotPaginator", "AsyncSnapshotPaginator"),
        ("e2b", "Template", "AsyncTemplate"),
        ("e2b.template.main", "TemplateBuilder", "TemplateBuilder"),
        ("e2b.template.main", "TemplateFinal", "TemplateFinal"),
        ("e2b", "Volume", "AsyncVolume"),
        ("e2b", "Secret", "AsyncSecret"),
        ("e2b", "SecretPaginator", "AsyncSecretPaginator"),
    ],
    "e2b_code_interpreter": [("e2b_code_interpreter", "Sandbox", "AsyncSandbox")],
    "e2b_desktop": [("e2b_desktop", "Sandbox", None), ("e2b_desktop.main", "_VNCServer", None)],
}
# These only describe; nothing is sent when they are called, so scenarios need not wait for them.
DESCRIBES = ("Template", "AsyncTemplate", "TemplateBuilder", "TemplateFinal")


def find_class(module, name, sync):
    """The class, or None where this client has none of that name."""
    if name is None:
        return None
    try:
        return getattr(importlib.import_module(module.format("sync" if sync else "async")), name, None)
    except ImportError:
        return None


def surface(package, sync):
    """The classes of a package whose methods must be called."""
    found = [find_class(module, blocking if sync else awaited, sync) for module, blocking, awaited in SURFACE[package]]
    return [each for each in found if each is not None]


def public_methods(cls, package):
    """Names of its methods and properties; in packages on top of `e2b`, only what they add to it."""
    names = []
    for name in dir(cls):
        if name.startswith("_"):
            continue
        owner = next(base for base in cls.__mro__ if name in vars(base))
        if package != "e2b" and not owner.__module__.startswith(package):
            continue
        attribute = inspect.getattr_static(cls, name)
        if callable(attribute) or hasattr(type(attribute), "__get__"):
            names.append(name)
    return names


class Stand:
    """Stands for an object or a class of the client."""

    def __init__(self, real, kit):
        self.__dict__.update(_real=real, _kit=kit)

    def _class(self):
        return self._real if isinstance(self._real, type) else type(self._real)

    def __call__(self, *args, **kwargs):
        return self._kit.stand(self._real(*self._kit.real(args), **self._kit.real(kwargs)))

    def __getattr__(self, name):
        kit, attribute = self._kit, getattr(self._real, name)
        if kit.known(attribute) or not callable(attribute):
            kit.note(self._class(), name)
            return kit.stand(attribute)

        def described(*args, **kwargs):
            kit.note(self._class(), name)
            return kit.stand(attribute(*kit.real(args), **kit.real(kwargs)))

        async def called(*args, **kwargs):
            kit.note(self._class(), name)
            result = attribute(*kit.real(args), **kit.real(kwargs))
            return kit.stand(await result if inspect.isawaitable(result) else result)

        plain = not isinstance(self._real, type) and self._class().__name__ in DESCRIBES
        return described if plain else called

    def __iter__(self):
        return iter(self._real)

    async def __aenter__(self):
        enter = getattr(self._real, "__aenter__", None)
        self._kit.stand(await enter() if enter else self._real.__enter__())
        return self

    async def __aexit__(self, *reason):
        leave = getattr(self._real, "__aexit__", None)
        return await leave(*reason) if leave else self._real.__exit__(*reason)


class Beside:
    """Something that goes on beside the scenario; `join` waits for its result, or raises what it raised."""

    def __init__(self, kit, function):
        self._task = self._future = None
        if not kit.sync:
            self._task = asyncio.ensure_future(function())
            self._task.add_done_callback(lambda task: task.cancelled() or task.exception())  # told to whoever joins, if anybody
            return
        self._future = concurrent.futures.Future()

        def work():
            try:
                self._future.set_result(asyncio.run(function()))
            except BaseException as error:  # whatever it is, the one who joins is told
                self._future.set_exception(error)

        threading.Thread(target=work, daemon=True).start()

    async def join(self):
        return await self._task if self._task else self._future.result(timeout=PATIENCE)


class Kit:
    """What a scenario works with: the client's classes, a sandbox of its own, and checks."""

    def __init__(self, run):
        self.run, self.sync, self.package = run, run.sync, run.package
        self.mark = uuid.uuid4().hex[:12]
        self._undo = []
        for module, blocking, awaited in SURFACE["e2b"] + SURFACE[run.package]:
            cls = find_class(module, blocking if self.sync else awaited, self.sync)
            if cls is not None and blocking is not None:
                setattr(self, blocking, Stand(cls, self))

    # What stands for what.
    def known(self, value):
        return isinstance(value, self.run.classes) or (isinstance(value, type) and issubclass(value, self.run.classes))

    def stand(self, value):
        if isinstance(value, (list, tuple)) and any(self.known(each) for each in value):
            return [self.stand(each) for each in value]
        return Stand(value, self) if self.known(value) else value

    def real(self, value):
        """The client's own object, also deep inside what is passed."""
        if isinstance(value, Stand):
            return value._real
        if type(value) in (list, tuple):
            return type(value)(self.real(each) for each in value)
        return {key: self.real(each) for key, each in value.items()} if type(value) is dict else value

    def note(self, cls, name):
        self.run.called.add(f"{cls.__name__}.{name}")

    # Things.
    async def sandbox(self, template=None, **options):
        """A sandbox that goes with the scenario."""
        options.setdefault("timeout", 120)
        options.setdefault("metadata", {"conformance": self.mark})
        made = await self.Sandbox.create(template, **options)
        return self.later(made)

    def later(self, sandbox):
        """Kills the sandbox in the end."""
        self._undo.append(lambda: sandbox.kill())
        return sandbox

    def undo(self, function):
        """Calls an async function in the end; that it fails then is no matter."""
        self._undo.append(function)

    async def clean(self):
        for function in reversed(self._undo):
            try:
                await function()
            except Exception:  # what is gone already
                pass

    def beside(self, function):
        return Beside(self, function)

    async def each(self, stream):
        """Takes what comes, whichever kind of iterator it is."""
        if hasattr(stream, "__aiter__"):
            async for piece in stream:
                yield piece
        else:
            for piece in stream:
                yield piece

    def pieces(self, chunks):
        """The chunks as this client wants to be given a stream."""
        if self.sync:
            return iter(chunks)

        async def give():
            for chunk in chunks:
                yield chunk

        return give()

    def port_request(self, sandbox, port, path="/", method="GET", headers=None, body=None, timeout=20):
        """Asks a port of a sandbox from outside, as a program would; status, headers and body."""
        import httpx

        base = os.environ.get("E2B_SANDBOX_URL")
        sent = dict(headers or {})
        if base:
            sent |= {"E2b-Sandbox-Id": self.real(sandbox).sandbox_id, "E2b-Sandbox-Port": str(port)}
        else:
            base = f"https://{self.real(sandbox).get_host(port)}"
        answer = httpx.request(method, base + path, headers=sent, content=body, timeout=timeout)
        return answer.status_code, answer.headers, answer.text

    # Checks.
    def skip(self, reason):
        raise Skip(reason)

    def needs(self, thing, reason):
        """Skips for that reason where the target lacks the thing."""
        if thing in LACKS:
            raise Skip(reason)

    def check(self, holds, what):
        if not holds:
            raise AssertionError(what)

    def equal(self, got, wanted, what="the answer"):
        if got != wanted:
            raise AssertionError(f"{what}: wanted {short(wanted)}, got {short(got)}")

    def contains(self, whole, part, what="the answer"):
        if part not in whole:
            raise AssertionError(f"{what}: wanted something with {short(part)}, got {short(whole)}")

    async def raises(self, kind, awaitable, saying=None):
        """The awaitable must raise that; `kind` may be the name of an exception of the client's."""
        kinds = tuple(self.exception(each) if isinstance(each, str) else each for each in (kind if isinstance(kind, tuple) else (kind,)))
        try:
            result = await awaitable
        except kinds as error:
            if saying is not None:
                self.contains(str(error), saying, f"the text of {type(error).__name__}")
            return error
        except Exception as error:
            wanted = " or ".join(each.__name__ for each in kinds)
            raise AssertionError(f"wanted {wanted}, got {type(error).__name__}: {error}") from error
        raise AssertionError(f"wanted {' or '.join(each.__name__ for each in kinds)}, got the result {short(result)}")

    def exception(self, name):
        """An exception of the client; older ones know only the more general."""
        module = importlib.import_module("e2b.exceptions")
        older = {"SandboxNotFoundException": "NotFoundException", "FileNotFoundException": "NotFoundException",
                 "SandboxNotRunningException": "TimeoutException", "SandboxUnreachableException": "TimeoutException"}
        if name == "CommandExitException":
            return importlib.import_module("e2b").CommandExitException
        return getattr(module, name, None) or getattr(module, older[name])

    async def eventually(self, ask, what, seconds=20):
        """The async function must give something true before the time is up; gives that."""
        end = time.monotonic() + seconds
        while True:
            result = await ask()
            if result:
                return result
            if time.monotonic() > end:
                raise AssertionError(f"not within {seconds} s: {what}")
            await asyncio.sleep(0.1)


def short(value, limit=300):
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"


class Run:
    """One client in one mode."""

    def __init__(self, options):
        self.sync = options.mode == "sync"
        self.package, self.label = options.package, options.label
        self.classes = tuple(dict.fromkeys(surface("e2b", self.sync) + surface(options.package, self.sync)))
        self.called = set()
        self.ran = False
        self.lock = threading.Lock()
        self.offered = {f"{cls.__name__}.{name}" for cls in surface(self.package, self.sync)
                        for name in public_methods(cls, self.package)}
        self.all = {f"{cls.__name__}.{name}" for cls in self.classes for name in public_methods(cls, "e2b")}

    def tell(self, area, name, status, reason="", seconds=0.0):
        line = {"client": self.label, "area": area, "name": name, "status": status, "reason": reason, "seconds": round(seconds, 2)}
        with self.lock:
            self.ran = self.ran or status != "skipped"
            print(json.dumps(line), flush=True)

    def lacks(self, needs):
        """What this client does not have of what a scenario needs."""
        have = self.all | {each.removeprefix("Async") for each in self.all}
        return [each for each in needs if each not in have]

    async def one(self, area, needs, function):
        start, kit, status, reason = time.monotonic(), None, "passed", ""
        try:
            lacking = self.lacks(needs)
            if lacking:
                raise Skip(f"this client has no {', '.join(lacking)}")
            kit = Kit(self)
            await function(kit)
        except Skip as skip:
            status, reason = "skipped", str(skip)
        except Exception as error:
            reason = lacked(area, error)
            status, reason = ("skipped", f"the server says: {reason}") if reason else ("failed", describe(error))
        finally:
            if kit:
                await kit.clean()
        return area, function.__name__, status, reason, time.monotonic() - start

    def in_thread(self, entry):
        area, _, needs, patience, function = entry
        result = []
        worker = threading.Thread(target=lambda: result.append(asyncio.run(self.one(area, needs, function))), daemon=True)
        worker.start()
        worker.join(patience)
        self.tell(*(result[0] if result else (area, function.__name__, "failed", f"still at it after {patience} s", patience)))

    def blocking(self, chosen, jobs):
        with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
            list(pool.map(self.in_thread, chosen))

    async def awaited(self, chosen, jobs):
        gate = asyncio.Semaphore(jobs)

        async def guarded(entry):
            area, _, needs, patience, function = entry
            async with gate:
                try:
                    result = await asyncio.wait_for(self.one(area, needs, function), patience)
                except (TimeoutError, asyncio.TimeoutError):
                    result = (area, function.__name__, "failed", f"still at it after {patience} s", patience)
            self.tell(*result)

        await asyncio.gather(*(guarded(each) for each in chosen))

    def every_method(self):
        """Fails when the client has a public method that no scenario called and that is not listed with a reason."""
        from cannot import METHODS

        if not self.ran:
            self.tell("methods", "every_method", "skipped", "no scenario of this client could run")
            return
        missing = sorted(name for name in self.offered - self.called if name.removeprefix("Async") not in METHODS)
        why = f"without {', '.join(LACKS)}, " if LACKS else ""
        reason = f"{why}never called: {', '.join(missing)}" if missing else ""
        status = "skipped" if LACKS else "failed"
        self.tell("methods", "every_method", status if missing else "passed", reason)
        for name in sorted(self.offered - self.called):
            if name.removeprefix("Async") in METHODS:
                self.tell("methods", name, "skipped", METHODS[name.removeprefix("Async")])


def describe(error):
    """The error and the line of the scenario that it came to."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "/scenarios/" in frame.filename]
    where = f" ({os.path.basename(frames[-1].filename)}:{frames[-1].lineno})" if frames else ""
    text = str(error) or repr(error)
    return f"{'' if isinstance(error, AssertionError) else type(error).__name__ + ': '}{text[:600]}{where}"


def load_scenarios():
    here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "scenarios")
    for file in sorted(os.listdir(here)):
        if file.endswith(".py"):
            importlib.import_module(f"scenarios.{file[:-3]}")


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--label", required=True, help="what the client is called in the results")
    options.add_argument("--mode", choices=("sync", "async"), required=True)
    options.add_argument("--package", choices=tuple(SURFACE), default="e2b")
    options.add_argument("--only", default="*", help="names of scenarios, or areas, as a shell pattern")
    options.add_argument("--jobs", type=int, default=4)
    options = options.parse_args()
    sys.modules["harness"] = sys.modules["__main__"]
    load_scenarios()
    run = Run(options)
    chosen = [each for each in SCENARIOS if each[1] == options.package
              and (fnmatch.fnmatch(each[4].__name__, options.only) or fnmatch.fnmatch(each[0], options.only))]
    if run.sync:
        run.blocking(chosen, options.jobs)
    else:
        asyncio.run(run.awaited(chosen, options.jobs))
    if options.only == "*":
        run.every_method()
    sys.stdout.flush()
    os._exit(0)  # threads that never come back do not hold it


if __name__ == "__main__":
    main()
