"""What the service answers over HTTP. Knows nothing of kernels."""

import asyncio
import json

import tornado.web
from contexts import Refused
from tornado.httpserver import HTTPServer
from tornado.iostream import StreamClosedError

# Bytes of code that one request may have.
LARGEST_BODY = 64 << 20


class Handler(tornado.web.RequestHandler):
    """What all answers have in common: errors are plain text."""

    @property
    def registry(self):
        """The contexts."""
        return self.application.settings["registry"]

    def write_error(self, status_code, **kwargs):
        """The reason, where there is one for whoever asked."""
        reason = kwargs.get("exc_info", (None, None))[1]
        if isinstance(reason, Refused):
            status_code = reason.status
        self.set_status(status_code)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(str(reason) if isinstance(reason, Refused) else f"{status_code}: {self._reason}")

    def log_exception(self, kind, value, trace):
        """What was refused is no failure of ours."""
        if kind is not Refused:
            super().log_exception(kind, value, trace)

    def answer(self, value):
        """JSON."""
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(value))

    def asked(self, **fields):
        """The fields of the request's body, which may be left out or null, with their types checked."""
        try:
            body = json.loads(self.request.body or b"{}")
        except ValueError as error:
            raise Refused(400, f"The body is not JSON: {error}") from error
        if not isinstance(body, dict):
            raise Refused(400, "The body is not a JSON object")
        values = []
        for name, kind in fields.items():
            value = body.get(name)
            if value is not None and not isinstance(value, kind):
                raise Refused(400, f"`{name}` is not of type {kind.__name__}")
            values.append(value)
        return values


class Nothing(Handler):
    """Every other path."""

    def prepare(self):
        """Says so."""
        raise Refused(404, f"There is nothing at {self.request.path}")


class Health(Handler):
    """Whether the service is there."""

    def get(self):
        self.answer("OK")


class Execute(Handler):
    """Code in, events out, one line of JSON each, as they come."""

    async def post(self):
        """Executes code. When whoever asked goes away, it is interrupted."""
        code, key, language, env = self.asked(code=str, context_id=str, language=str, env_vars=dict)
        if code is None:
            raise Refused(400, "`code` is missing")
        if key and language:
            raise Refused(400, "Only one of context_id or language can be provided")
        if not all(may_be_set(*pair) for pair in (env or {}).items()):
            raise Refused(400, "`env_vars` is not an object of names and strings")
        context = self.registry.get(key) if key else self.registry.default(language)
        self.set_header("Content-Type", "application/json")
        self._work = asyncio.ensure_future(self._stream(context.run(code, env)))
        try:
            await self._work
        except (asyncio.CancelledError, StreamClosedError):
            return
        self.finish()

    def on_connection_close(self):
        """Nobody listens any more."""
        if getattr(self, "_work", None) is not None:
            self._work.cancel()

    async def _stream(self, events):
        try:
            async for event in events:
                await self._line(event)
            await self._line({"type": "end_of_execution"})
        finally:
            await events.aclose()

    async def _line(self, event):
        self.write(json.dumps(event) + "\n")
        await self.flush()


def may_be_set(name, value):
    """Whether a variable of the environment can be called that, and have that value."""
    return bool(name) and isinstance(value, str) and "=" not in name and "\0" not in name + value


class Contexts(Handler):
    """All contexts."""

    def get(self):
        """Those that there are."""
        self.answer([context.describe() for context in self.registry.contexts.values()])

    async def post(self):
        """A new one."""
        language, cwd = self.asked(language=str, cwd=str)
        self.answer(self.registry.create(language, cwd).describe())


class OneContext(Handler):
    """One context."""

    async def delete(self, key):
        """Ends it."""
        self.registry.remove(key)
        self.answer(None)


class Restart(Handler):
    """One context, begun anew."""

    async def post(self, key):
        """Its variables are gone."""
        self.registry.restart(key)
        self.answer(None)


def serve(sock, registry):
    """Answers until the process ends."""

    async def run():
        routes = [
            (r"/health", Health),
            (r"/execute", Execute),
            (r"/contexts", Contexts),
            (r"/contexts/([^/]+)", OneContext),
            (r"/contexts/([^/]+)/restart", Restart),
        ]
        settings = {"default_handler_class": Nothing, "log_function": lambda handler: None}
        application = tornado.web.Application(routes, registry=registry, **settings)
        server = HTTPServer(application, max_buffer_size=LARGEST_BODY, max_body_size=LARGEST_BODY)
        server.add_socket(sock)
        await asyncio.Event().wait()

    asyncio.run(run())
