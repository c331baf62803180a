"""The sockets on which the API is served."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Any, cast

from aiohttp import web
from aiohttp.http import RawRequestMessage

from hookengine.errors import StartError
from hookengine.server import asked, routes
from hookengine.server.express import Express
from hookengine.server.heads import Head, alone, begins_behind, head_of
from hookengine.server.limits import InHand, Limit
from hookengine.server.problems import SAFE, problem_of, problem_of_status, tell_errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from hookengine.access import Principal
    from hookengine.config import Config
    from hookengine.service import Service
    from hookengine.store import Receipt

_KEEP_ALIVE = 30.0  # s that an idle connection is kept
_LINGER = 2.0  # s in which the rest of a refused upload is read
_PATIENCE = 1.0  # s for requests under way when the server closes; aiohttp waits it out for a connection that just came
_MOST_IN_HAND = 64 << 20  # bytes of bodies, of which four are of the largest batches
_LONGEST_HEAD = 2048  # bytes of one that a connection remembers
_LARGEST_HEAD = 64 << 10  # bytes of one that are waited for; of its headers alone aiohttp would take a MiB
_MOST_BEHIND = 4  # requests that wait behind one while its connection is still read
_MOST_CONNECTIONS = 512  # each costs a file descriptor, which deliveries need too


class _Connection(web.RequestHandler):
    """
    aiohttp's connection, which answers what never gets to the middleware in the same form, and without repeating it.

    It also ends where the client is too slow.
    """

    on_lost: Callable[[], None] | None = None  # of the request under way
    _wire: asyncio.WriteTransport | None = None  # aiohttp lets go of its own when it has asked for the end
    _taking: asyncio.TimerHandle | None = None

    def __init__(self, manager: web.Server, patience: asked.Patience, express: Express, **options: Any) -> None:
        super().__init__(manager, **options)
        self._patience = patience
        self._express = express
        self._msg_queue_resume_size = 1  # requests that may wait when reading goes on
        self._coming: deque[Any] = deque()  # requests that are kept from aiohttp's handler until it waits
        self._accepting: asyncio.Future[list[Receipt]] | None = None  # what the client waits for, of `express`
        self._is_between = True  # whether the parser is known to have nothing of the next request
        self._unfinished = 0  # bytes of a head that has not ended, or 1 where it began behind something else
        self._begun = 0.0  # when that began; loop time
        self._body: Any = None  # of the last request that was parsed
        self._was_paused = False  # whether the parser was, since it was last resumed
        self._last: tuple[RawRequestMessage, bytes] | None = None  # the last one that came alone, with its head
        self._head: Head | None = None  # of what `express` took last

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take *transport*, unless there are too many already."""
        super().connection_made(transport)
        self._wire = cast("asyncio.WriteTransport", transport)
        # So `pause_writing` is called whenever something has to wait, and not only from 64 KiB on.
        self._wire.set_write_buffer_limits(high=0)
        if self._manager is not None and len(self._manager.connections) > _MOST_CONNECTIONS:
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Tell whom it concerns: aiohttp itself lets a handler find out when it next writes."""
        super().connection_lost(exc)
        if self._taking is not None:
            self._taking.cancel()
        self._messages.clear()  # the connection and the traceback of its error keep each other, and all that it holds
        self._coming.clear()
        if self.on_lost is not None:
            self.on_lost()

    def data_received(self, data: bytes) -> None:
        """Take *data*; a head that begins without ending brings forward the time at which an idle connection ends."""
        if self._head is not None and self._is_between and self._is_idle() and self._begin_alike(self._head, data):
            return
        known, is_of_body = self._request_count, self._body is not None and not self._body.is_eof()
        fed = self._body.total_bytes if is_of_body else 0
        waiter, self._waiter = self._waiter, None  # aiohttp would go on with what came, and we may do so ourselves
        super().data_received(data)
        self._waiter = waiter
        is_new = self._request_count != known
        if data or is_new:  # else aiohttp has only asked whether something is left
            self._is_between = self._is_between and self._request_count == known + 1 and self._came_alone(data)
        if is_new:
            self._body = self._messages[-1][1]
            fed = 0
        before, added = self._unfinished, len(data)
        if data and (is_new or is_of_body):  # without, aiohttp goes on with what it has, of which nothing new is known
            before, added = 0, int(self._body.is_eof() and begins_behind(data, self._body.total_bytes - fed))
        if added and not before:
            self._begun = self._loop.time()
        self._unfinished = before + added
        if self._unfinished > _LARGEST_HEAD:
            self.force_close()
            return
        self._go_on()
        if len(self._messages) > _MOST_BEHIND and not self._buffer_paused and not self._is_idle():
            self._pause_reading_for_buffer()  # until all but one are taken: aiohttp would have 32 wait
        if self._unfinished:
            self._await_head()

    def _is_idle(self) -> bool:
        return self._waiter is not None and not self._waiter.done() and self._accepting is None

    def _go_on(self) -> None:
        """Begin with the next request, if there is one and nothing is under way."""
        if self._coming:
            self._coming += self._messages
            self._messages.clear()
        elif self._is_idle():
            self._begin()
        elif self._waiter is None and not self._request_in_progress and len(self._messages) == 1 and not self._buffer_paused:
            # The client was quicker than aiohttp's handler, which has answered, and in this pass comes to wait for more.
            self._coming.append(self._messages.popleft())
            self._loop.call_soon(self._come)

    def _come(self) -> None:
        """The handler waits by now, or what came waits for it."""
        self._messages.extendleft(reversed(self._coming))
        self._coming.clear()
        if self._is_idle():
            self._begin()

    def _came_alone(self, data: bytes) -> bool:
        """Whether *data* was the one request that was just parsed, and nothing else."""
        message, body = self._messages[-1]
        if not isinstance(message, RawRequestMessage) or message.upgrade or not body.is_eof():
            return False
        head = alone(data, body.total_bytes)
        if head is None:
            return False
        if len(head) <= _LONGEST_HEAD:
            self._last = (message, head)
        return True

    def _begin(self) -> None:
        if not self._messages or self.transport is None or self.transport.is_closing():
            return
        message, body = self._messages[0]
        accepting = None if self._paused else self._express.take(message, body, self._loop.time())
        if accepting is None:
            assert self._waiter is not None  # noqa: S101  # of one that is idle
            self._waiter.set_result(None)
            return
        self._messages.popleft()
        self._await(accepting)
        if self._last is not None and self._last[0] is message:
            self._head = head_of(self._last[1], message.headers.get("Authorization"))
            self._last = None
        # As aiohttp does once it has taken a request.
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()

    def _begin_alike(self, head: Head, data: bytes) -> bool:
        """Begin with the request that is all of *data*, if it has this *head*: it need not be parsed."""
        if self._paused or self._close or self._force_close:
            return False
        accepting = self._express.take_alike(head, data, self._loop.time())
        if accepting is None:
            return False
        self._await(accepting)
        return True

    def _await(self, accepting: asyncio.Future[list[Receipt]]) -> None:
        self._accepting = accepting
        self._request_in_progress = True
        accepting.add_done_callback(self._answer)

    def _answer(self, accepted: asyncio.Future[list[Receipt]]) -> None:
        """Tell the client of an event that `express` took, and do what aiohttp does between two requests."""
        self._accepting = None
        self._request_in_progress = False
        if self._handler_waiter is not None and not self._handler_waiter.done():
            self._handler_waiter.set_result(None)
        if accepted.cancelled():
            self.force_close()
        elif self.transport is None:
            accepted.exception()  # nobody is left to hear of it
        else:
            answer, last = self._express.answer(accepted)
            self.transport.write(answer)
            self._close = self._close or last
        if self._close:
            self.force_close()  # what was written goes out before
            return
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._is_idle():
            self._begin()

    def _process_keepalive(self) -> None:
        if self._accepting is not None:
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        elif self._unfinished and self._is_idle() and self._loop.time() >= self._head_until():
            self.force_close()
        super()._process_keepalive()
        if self._unfinished and not self._force_close:
            self._await_head()

    def _await_head(self) -> None:
        """Look whether the head that has begun is whole when its time is over; that begins only once nothing is under way."""
        at = self._head_until() if self._is_idle() else self._loop.time() + self._patience.head
        handle = cast("asyncio.TimerHandle | None", self._keepalive_handle)
        if handle is not None:
            if handle.when() <= at:
                return
            handle.cancel()
        self._keepalive_handle = self._loop.call_at(at, self._process_keepalive)

    def _head_until(self) -> float:
        waits_since = self._next_keepalive_close_time - self._keepalive_timeout
        return max(self._begun, waits_since) + self._patience.head

    def pause_reading(self) -> None:
        """Wait until what has come is taken."""
        super().pause_reading()
        self._was_paused = True

    def resume_reading(self, resume_parser: bool = True) -> None:
        """
        Go on where reading was paused; aiohttp calls this for every body that is read, paused or not.

        The end of a body takes back that it was, for the transport alone: the parser still waits for this.
        """
        if self._reading_paused or self._was_paused:
            self._was_paused = self._was_paused and not resume_parser
            super().resume_reading(resume_parser)

    def pause_writing(self) -> None:
        """Wait for the client, but not for ever: it may take nothing more, also of what is left when the connection ends."""
        super().pause_writing()
        assert self._wire is not None  # noqa: S101  # connection_made() set it
        self._taking = self._loop.call_later(self._patience.taking, self._wire.abort)

    def resume_writing(self) -> None:
        """It has taken everything."""
        super().resume_writing()
        if self._taking is not None:
            self._taking.cancel()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  # aiohttp's, with the client's bytes in it
    ) -> web.StreamResponse:
        """A problem of *status*, after which the connection is closed."""
        if isinstance(exc, UnicodeEncodeError) and "Expect" in request.headers:
            status = 417  # where there is no route aiohttp repeats the expectation, whatever its bytes
        if status >= 500:  # a fault of ours
            self.log_exception("request_failed", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer had begun")
        response = problem_of_status(status, SAFE)
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send *resp*, or a problem in place of what aiohttp raises outside the middleware."""
        if isinstance(resp, web.HTTPException):
            resp = problem_of(resp)
            resp.headers.update(SAFE)
        return await super().finish_response(request, resp, start_time)


class Door:
    """Sockets that are bound: their addresses are known before there is anything to serve, and nobody gets in yet."""

    def __init__(self) -> None:
        self.addresses: tuple[tuple[str, int], ...] = ()
        self._server: asyncio.Server | None = None
        self._protocol: Callable[[], asyncio.Protocol] | None = None

    async def bind(self, host: str, port: int) -> None:
        """Take the addresses of *host*."""
        loop = asyncio.get_running_loop()
        self._server = server = await loop.create_server(self._welcome, host, port, backlog=1024, start_serving=False)
        self.addresses = tuple((name.partition("%")[0], number) for name, number, *_ in map(_name_of, server.sockets))

    async def open(self, protocol: Callable[[], asyncio.Protocol]) -> None:
        """Let everybody in, each to a *protocol* of his own."""
        assert self._server is not None  # noqa: S101  # bind() made it
        self._protocol = protocol
        await self._server.start_serving()

    def close(self) -> None:
        """Let nobody in any more; twice does no harm."""
        if self._server is not None:
            self._server.close()

    def _welcome(self) -> asyncio.Protocol:
        assert self._protocol is not None  # noqa: S101  # open() set it
        return self._protocol()


def _name_of(listening: Any) -> Any:
    return listening.getsockname()


async def bind(listen: str) -> Door:
    """The sockets of *listen*, `HOST:PORT`; port 0 is any free one. Raises StartError."""
    host, _, port = listen.rpartition(":")
    door = Door()
    try:
        await door.bind(host.strip("[]"), int(port))
    except (OSError, OverflowError, ValueError) as error:
        raise StartError(f"cannot listen on {listen}: {getattr(error, 'strerror', None) or error}") from error
    return door


class Server:
    """The HTTP API of one engine, for one or more listening sockets."""

    def __init__(self, service: Service, *, tokens: dict[bytes, Principal], config: Config) -> None:
        app = web.Application(
            middlewares=[tell_errors, asked.make_room, routes.authenticate], logger=logging.getLogger("hookengine.server")
        )
        app[asked.SERVICE] = service
        app[asked.TOKENS] = tokens
        app[asked.STREAMING] = asked.Streaming()
        app[asked.PATIENCE] = self.patience = asked.Patience()
        app[asked.LIMITS] = (config.server.max_body, config.server.max_batch_body)
        app[asked.IN_HAND] = InHand(_MOST_IN_HAND)
        app[asked.PUBLISHING] = Limit(config.server.events_per_second, 1.0)
        app[asked.FAILED] = Limit(config.server.failed_auth_per_minute, 60.0)
        app.add_routes(routes.table())
        self._options: dict[str, Any] = {
            "keepalive_timeout": _KEEP_ALIVE,
            "lingering_time": _LINGER,
            "access_log": None,
            "auto_decompress": False,
        }
        self._express = Express(app)
        self._runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=_PATIENCE, **self._options)
        self._door: Door | None = None
        self.url = ""

    async def start(self, door: Door) -> None:
        """Serve behind *door*, and open it."""
        self._door = door
        await self._runner.setup()
        handler, loop = self._runner.server, asyncio.get_running_loop()
        assert handler is not None  # noqa: S101  # setup() made it
        options, express = self._options, self._express
        await door.open(lambda: _Connection(handler, self.patience, express, loop=loop, **options))
        name, number = door.addresses[0]
        self.url = f"http://[{name}]:{number}" if ":" in name else f"http://{name}:{number}"

    async def close(self) -> None:
        """Accept no more connections, end the streams, and let requests under way end."""
        if self._door is not None:
            self._door.close()
        for stream in self._runner.app[asked.STREAMING].open:
            stream.close()
        await self._runner.cleanup()
