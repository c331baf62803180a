"""A local endpoint with a script of answers: it records what arrives and says whether each signature verifies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from inspect import isawaitable
from typing import TYPE_CHECKING, Self

from aiohttp import web
from msgspec import Struct
from multidict import CIMultiDict

from hookengine.clock import Clock
from hookengine.errors import VerificationError
from hookengine.signing import verify

if TYPE_CHECKING:
    from types import TracebackType

    from hookengine.schemes import Scheme


# What is no HTTP is answered, and nobody's program is told by a traceback on its terminal.
_LOG = logging.getLogger("hookengine.receiver")
_LOG.addHandler(logging.NullHandler())


class Reply(Struct, frozen=True, kw_only=True):
    """What the receiver answers, *delay* seconds after the request was read."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    delay: float = 0.0


class Received(Struct, frozen=True, kw_only=True):
    """
    One request as it arrived.

    `reason` says why it is not verified: a reason of `VerificationError`, or `no_secret` where the receiver knows none.
    """

    number: int  # from 1, over all requests of this receiver
    at: int  # ms since the epoch
    method: str
    path: str  # the request target, with its query, as it was sent
    headers: tuple[tuple[str, str], ...]
    body: bytes
    verified: bool
    reason: str | None = None
    detail: str | None = None

    def header(self, name: str) -> str | None:
        """The first value of header *name*, in whatever case."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


Step = int | Reply | Callable[[Received], int | Reply | Awaitable[int | Reply]]
Script = Step | Sequence[Step]


class Receiver:
    """
    A real HTTP server on this machine, for as long as `async with` lasts.

    A step of *script* is a status, a `Reply`, or a function of the request that returns one, maybe awaited. A sequence is
    answered in turn and its last step repeats. `requests` holds what arrived, in order, complete with its body: all of it,
    or the newest *keep*. `secret` may be set after the start, when the sender has made it. *public_url* is the URL that the
    sender knows, where it is not this one.

    *on_arrival* is called with each request once it was read; then *on_request*, with its reply, just before that goes out,
    or *on_gone* if nobody waits for a reply any more.
    """

    def __init__(
        self,
        script: Script = 200,
        *,
        secret: str | list[str] | None = None,
        profile: str | Sequence[Scheme] = "standard",
        host: str = "127.0.0.1",
        port: int = 0,
        public_url: str | None = None,
        keep: int | None = None,
        on_arrival: Callable[[Received], None] | None = None,
        on_request: Callable[[Received, Reply], None] | None = None,
        on_gone: Callable[[Received], None] | None = None,
    ) -> None:
        steps = tuple(script) if isinstance(script, Sequence) else (script,)
        if not steps:
            raise ValueError("a script has at least one step")
        if keep is not None and keep < 1:
            raise ValueError("a receiver keeps at least one request")
        self.secret = secret
        self.profile = profile
        self.requests: list[Received] = []  # changed by the handlers, nobody else writes
        self._steps = steps
        self._host = host
        self._port = port
        self._public_url = public_url
        self._keep = keep
        self._count = 0  # of requests that arrived
        self._on_arrival = on_arrival
        self._on_request = on_request
        self._on_gone = on_gone
        self._clock = Clock()
        self._arrived = asyncio.Event()
        self._runner: web.AppRunner | None = None

    def __repr__(self) -> str:
        return f"<Receiver {self._host}:{self._port} requests={self._count}>"

    @property
    def url(self) -> str:
        """The address to send to, without a path."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    async def __aenter__(self) -> Self:
        # No limit on the body, and no decoding: what arrives is kept as it is.
        app = web.Application(client_max_size=0)
        app.router.add_route("*", r"/{path:[\s\S]*}", self._handle)  # a path may hold the end of a line, percent-encoded
        # Whoever leaves the `async with` does not wait for answers that a script delays.
        self._runner = web.AppRunner(
            app, access_log=None, logger=_LOG, auto_decompress=False, handler_cancellation=True, shutdown_timeout=0.05
        )
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self._host, self._port).start()
        except BaseException:
            await self._runner.cleanup()
            raise
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def wait(self, count: int, timeout: float = 5.0) -> list[Received]:  # noqa: ASYNC109  # reads as what it is
        """The first *count* of the kept requests, once so many arrived; raises `TimeoutError` after *timeout* seconds."""
        async with asyncio.timeout(timeout):
            while self._count < count:
                self._arrived.clear()
                await self._arrived.wait()
        return self.requests[:count]

    async def _handle(self, request: web.Request) -> web.Response:
        received = self._judge(request, await request.read())
        self._count = received.number
        self.requests.append(received)
        if self._keep is not None:
            del self.requests[: -self._keep]
        self._arrived.set()
        if self._on_arrival is not None:
            self._on_arrival(received)
        try:
            reply = await self._reply(received)
            await asyncio.sleep(reply.delay)
        except asyncio.CancelledError:
            if self._on_gone is not None:
                self._on_gone(received)
            raise
        if self._on_request is not None:
            self._on_request(received, reply)
        return web.Response(status=reply.status, headers=CIMultiDict(reply.headers), body=reply.body)

    def _judge(self, request: web.Request, body: bytes) -> Received:
        reason = detail = None
        if self.secret is None:
            reason, detail = "no_secret", "the receiver has no secret to verify with"
        else:
            for url in self._urls(request):
                try:
                    verify(body, request.headers, self.secret, profile=self.profile, method=request.method, url=url)
                except VerificationError as error:
                    reason, detail = error.reason, error.detail
                else:
                    reason = detail = None
                    break
        return Received(
            number=self._count + 1,
            at=self._clock.now(),
            method=request.method,
            path=_target(request),
            headers=tuple(request.headers.items()),
            body=body,
            verified=reason is None,
            reason=reason,
            detail=detail,
        )

    def _urls(self, request: web.Request) -> list[str]:
        """What the sender may know the URL as, the likeliest last: one without a path is asked for with `/`."""
        if self._public_url is not None:
            return [self._public_url]
        origin, target = f"http://{request.host}", _target(request)
        pathless = [origin + target[1:]] if target[:2] in {"/", "/?"} else []
        return [*pathless, origin + target]

    async def _reply(self, received: Received) -> Reply:
        step = self._steps[min(received.number, len(self._steps)) - 1]
        if callable(step):
            made = step(received)
            step = await made if isawaitable(made) else made
        return Reply(status=step) if isinstance(step, int) else step


def _target(request: web.Request) -> str:
    """Path and query, as they came; a request may also name the whole URL (RFC 9112, section 3.2.2)."""
    return request.raw_path if request.raw_path.startswith("/") else request.rel_url.raw_path_qs
