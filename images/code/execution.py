"""One execution of code: its events on the way from a kernel to whoever asked. Knows neither kernels nor HTTP."""

import asyncio
import time

# Where each kind of content of a result belongs among the fields that clients know; all others go into `extra`.
FIELDS = {
    "text/plain": "text",
    "text/html": "html",
    "text/markdown": "markdown",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "application/pdf": "pdf",
    "text/latex": "latex",
    "application/json": "json",
    "application/javascript": "javascript",
    "e2b/data": "data",
    "e2b/chart": "chart",
}


class Execution:
    """Events in order, ended by None. `finished` is done when the kernel is free again."""

    def __init__(self):
        self.events = asyncio.Queue()
        self.finished = asyncio.get_running_loop().create_future()
        self.failed = False

    def put(self, event):
        """Passes an event on."""
        if not self.finished.done():
            self.events.put_nowait(event)

    def fail(self, event):
        """Passes an error on; of several only the first is told."""
        if not self.failed:
            self.failed = True
            self.put(event)

    def finish(self):
        """The kernel is free again."""
        if not self.finished.done():
            self.events.put_nowait(None)
            self.finished.set_result(None)


def counted(number):
    """The number of the execution in its context."""
    return {"type": "number_of_executions", "execution_count": number}


def output(stream, text):
    """What was written to `stdout` or `stderr`; the time in nanoseconds since 1970."""
    return {"type": stream, "text": text, "timestamp": time.time_ns()}


def error(name, value, traceback):
    """An exception."""
    return {"type": "error", "name": name, "value": value, "traceback": traceback}


def restarted():
    """The context ended below the execution."""
    return error("ContextRestarting", "Context was restarted", "")


def result(bundle, main):
    """A result, from its content by media type. `main` tells the value of the last line from what was displayed."""
    event = {"type": "result", "is_main_result": main}
    extra = {}
    for kind, content in bundle.items():
        if kind in FIELDS:
            event[FIELDS[kind]] = content
        else:
            extra[kind] = content
    text = event.get("text")
    if isinstance(text, str) and len(text) > 1 and text[0] == text[-1] == "'":
        event["text"] = text[1:-1]
    if extra:
        event["extra"] = extra
    return event
