"""Contexts: each a kernel of one language with a directory of its own. Knows nothing of HTTP."""

import asyncio
import os
import uuid

import jupyter
import workers
from execution import Execution, restarted

# Languages that are always there, and what else they are called.
LANGUAGES = ("python", "javascript", "typescript", "bash")
ALIASES = {"js": "javascript", "ts": "typescript"}
# Most seconds between interrupts of an execution that nobody waits for any more.
INTERRUPT_AGAIN = 5


class Refused(Exception):
    """What was asked cannot be done: a status of HTTP and a reason."""

    def __init__(self, status, reason):
        super().__init__(reason)
        self.status = status


class Context:
    """A kernel that is started when it is first needed, and again when it has ended."""

    def __init__(self, language, cwd):
        self.id = str(uuid.uuid4())
        self.language = language
        self.cwd = cwd
        self._kernel = None
        self._turn = asyncio.Lock()
        self._running = None

    def describe(self):
        """As clients see it."""
        return {"id": self.id, "language": self.language, "cwd": self.cwd}

    def start(self):
        """The kernel, started unless it is there."""
        if self._kernel is None or self._kernel.ended():
            os.makedirs(self.cwd, exist_ok=True)
            make = workers.kernel(self.language) or jupyter.kernel(self.language)
            self._kernel = make(self.cwd)
        return self._kernel

    def stop(self):
        """Ends the kernel, and what it runs."""
        if self._kernel is not None:
            self._kernel.close()
            self._kernel = None
        if self._running is not None:
            self._running.fail(restarted())
            self._running.finish()

    async def run(self, code, env):
        """The events of an execution, one execution at a time. Who stops listening interrupts it."""
        await self._turn.acquire()
        try:
            kernel = self.start()
            execution = self._running = Execution()
            execution.finished.add_done_callback(self._free)
        except BaseException:
            self._turn.release()
            raise
        kernel.run(execution, code, env)
        try:
            while (event := await execution.events.get()) is not None:
                yield event
        finally:
            if not execution.finished.done():
                asyncio.ensure_future(interrupt(kernel, execution))

    def _free(self, _finished):
        self._running = None
        self._turn.release()


async def interrupt(kernel, execution):
    """Interrupts an execution until it has ended: code may have caught the first one."""
    pause = INTERRUPT_AGAIN if kernel.hears_interrupts else 0.25
    while not execution.finished.done():
        kernel.interrupt()
        await asyncio.wait([execution.finished], timeout=pause)
        pause = min(INTERRUPT_AGAIN, 2 * pause)


class Registry:
    """All contexts, in the order of their creation, and which of them is a language's default."""

    def __init__(self, home=None):
        self.home = home or os.environ.get("HOME") or "/"
        self.contexts = {}
        self._defaults = {}

    def begin(self):
        """The contexts that are there without anybody asking; Python's kernel starts now, the other one when it is used."""
        self.default("python").start()
        self.default("javascript")

    def create(self, language, cwd):
        """A new context, its kernel started."""
        context = Context(known(language), cwd or self.home)
        try:
            context.start()
        except OSError as error:
            raise Refused(500, f"Failed to set working directory: {error}") from error
        self.contexts[context.id] = context
        return context

    def default(self, language):
        """The context of code that names a language or nothing."""
        language = known(language)
        context = self.contexts.get(self._defaults.get(language))
        if context is None:
            context = Context(language, self.home)
            self.contexts[context.id] = context
            self._defaults[language] = context.id
        return context

    def get(self, key):
        """The context of that id."""
        if key not in self.contexts:
            raise Refused(404, f"Context {key} not found")
        return self.contexts[key]

    def remove(self, key):
        """Ends a context."""
        self.get(key).stop()
        del self.contexts[key]

    def restart(self, key):
        """A new kernel for a context; its variables are gone."""
        context = self.get(key)
        context.stop()
        context.start()


def known(language):
    """The language's name, if there is a kernel for it."""
    asked = (language or "python").strip().lower()
    name = ALIASES.get(asked, asked)
    if name in LANGUAGES or jupyter.installed(name):
        return name
    others = sorted({speaks for _, speaks, _ in jupyter.every_installed()} - {*LANGUAGES})
    more = "; a Jupyter kernel that is installed in the sandbox adds its language"
    raise Refused(400, f"There is no kernel for `{asked}`. Languages: {', '.join([*LANGUAGES, *others])}{more}")
