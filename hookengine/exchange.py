"""
One HTTP/1.1 request and its answer, over a connection of aiohttp's connector and through aiohttp's parser.

`ClientSession` does the same for twice the CPU (docs/performance.md). What it guards is guarded here, and what it
does not guard as well: floods of interim responses, answers without end, and bytes that arrive before anything was asked.
"""

from __future__ import annotations

import asyncio
import sys
from collections import defaultdict, deque
from enum import Enum
from functools import partial
from itertools import chain
from ssl import SSLError
from typing import TYPE_CHECKING, cast

from aiohttp import ClientConnectionError, ClientPayloadError, ClientTimeout, TCPConnector
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import BadStatusLine
from aiohttp.http_writer import HttpVersion10, HttpVersion11

from hookengine.failpoints import failpoint
from hookengine.models import Response

if sys.platform != "win32":
    import fcntl
    import termios

if TYPE_CHECKING:
    import ssl

    from aiohttp.abc import AbstractResolver
    from aiohttp.client_reqrep import ConnectionKey
    from aiohttp.connector import Connection, SocketFactoryType
    from aiohttp.http import RawResponseMessage
    from aiohttp.streams import StreamReader

    from hookengine.deadline import Deadline
    from hookengine.message import Target

_VERSIONS = (HttpVersion10, HttpVersion11)

CONNECT_BUDGET = 5.0  # s for lookup, TCP and TLS together
KEEP_ALIVE = 4.0  # s; many servers close an idle connection after 5
BODY_GRACE = 2.0  # s for the body once the verdict is known
MAX_LINE = 8190  # bytes of the status line, and of one header
MAX_HEADERS = 128
MAX_INFORMATIONAL = 8
MAX_ANSWER = 128 * 1024  # bytes of one answer that are parsed at all
MAX_BODY = 64 * 1024  # bytes of a body that are waited for
KEPT_BODY = 16 * 1024
MAX_FRAMING = 1024  # bytes that may come of a body before most of it has to be content

# The parser cannot be interrupted. In the smaller part it finds no more than some thirty answers or two hundred chunks,
# a fifth of a millisecond; what has been content so far may go on in larger ones.
_SMALLEST_PART = 1024
_LARGEST_PART = 16 * 1024

_CONNECTING = ClientTimeout(total=None, connect=CONNECT_BUDGET)


class TooManyInformational(Exception):
    """More than eight 1xx responses came before the answer."""


class HeadTooLarge(Exception):
    """The answer was still without its status line and complete headers after 128 KiB."""


class Phase(Enum):
    """What an exchange was waiting for when it ended."""

    CONNECT = "connect"
    SEND = "send"  # the receiver had not taken the whole request
    ANSWER = "answer"


class Wire(ResponseHandler):
    """
    One connection of the pool, as aiohttp's protocol, with bounds on what the other side may make us do.

    Owned by the exchange that took it from the pool; nobody's while it is idle.
    """

    connection: Connection  # what aiohttp's pool gave us this in

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.served = 0  # exchanges that ended cleanly
        self.idle = False
        self.received = 0  # bytes of the present answer
        self.overfull = False  # whether more came than one answer of MAX_ANSWER
        self._informational = 0
        self._answered = False
        self._body_at = 0  # where, in what was received, the body may begin
        self._first = b""  # what came of the present answer in one piece at its beginning
        self._clean = False  # whether the parser is known to stand before the next answer

    def begin(self) -> None:
        """Expect one answer from here on."""
        self.idle = self.overfull = self._answered = False
        self.received = self._informational = 0
        if not self._clean:  # a new parser costs 10 µs where caches are cold
            self.set_response_params(
                read_until_eof=True,
                auto_decompress=False,
                read_bufsize=KEPT_BODY,
                max_line_size=MAX_LINE,
                max_field_size=MAX_LINE,
                max_headers=MAX_HEADERS,
            )

    def rest(self) -> None:
        """Be ready for another exchange, after a whole answer."""
        self.served += 1
        self.idle = True
        # The parser does not tell whether it has begun to read another one, of which the next would be the end.
        size = 0 if self._payload is None else self._payload.total_bytes
        self._clean = self.received == self._first.find(b"\r\n\r\n") + 4 + size
        self._first = b""

    def data_received(self, data: bytes) -> None:
        """Parse what came, as far as it can be an answer."""
        if self.idle:
            # Without this the pool would hand these bytes out as the answer to the next request (aiohttp issue 13656).
            if data:
                self.close()
            return
        if self.overfull:
            return
        if not self.received:
            self._first = data
        room = MAX_ANSWER - self.received
        overflow = len(data) > room
        if self._parse(data[:room] if overflow else data) or overflow:
            self._refuse_more()
        # aiohttp tells the reader of the head when the parser gives up, and leaves the reader of the body alone.
        if self._exception is not None and self._payload is not None and not self._payload.is_eof():
            self._payload.set_exception(self._exception)

    def _parse(self, data: bytes) -> bool:
        """
        Parse *data*, and return True where most of the body is chunk sizes and the like, after which nothing more is parsed.

        A byte of these costs a hundred times what a byte of content does, and a receiver can send as much of it as it likes.
        """
        start = 0
        while True:  # also for no data: so aiohttp has the parser go on after a pause
            part = data[start : start + min(max(self._content, _SMALLEST_PART), _LARGEST_PART)]
            start += len(part)
            self.received += len(part)
            super().data_received(part)
            body = self.received - self._body_at
            if self._answered and body > MAX_FRAMING and body > 2 * self._content:
                return True
            if self.overfull or self._exception is not None or start == len(data):
                return False

    @property
    def _content(self) -> int:
        """Bytes of the body without its framing."""
        return self._payload.total_bytes if self._answered and self._payload is not None else 0

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Go on where reading was paused; aiohttp calls this for every piece that is read, paused or not."""
        if self._reading_paused and not self.overfull:
            super().resume_reading(resume_parser)

    def _take_no_more(self) -> None:
        self.overfull = True
        self.force_close()
        self._pause_transport_reading()

    def _refuse_more(self) -> None:
        self._take_no_more()
        if not self._answered:
            self.set_exception(HeadTooLarge())
        elif self._payload is not None and not self._payload.total_bytes:
            self._payload.set_exception(ClientPayloadError())  # who waits for the body need not wait for more of this

    def feed_data(self, data: tuple[RawResponseMessage, StreamReader], size: int = 0) -> None:
        """Queue the answer; count what comes before it, and drop what comes after it."""
        code = data[0].code
        if self._answered or self._exception is not None:
            self._take_no_more()
        elif data[0].version not in _VERSIONS:  # the parser takes others too, of which nobody knows what they mean
            self.set_exception(BadStatusLine("", error="Neither HTTP/1.1 nor HTTP/1.0"))
        elif 100 <= code <= 199 and code != 101:
            self._informational += 1
            if self._informational == MAX_INFORMATIONAL + 1:
                self.set_exception(TooManyInformational())
        else:
            self._answered = True
            self._body_at = self.received
            super().feed_data(data, size)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Keep what TLS said, which aiohttp would reduce to an error number."""
        if isinstance(exc, SSLError):
            self.set_exception(exc)
        super().connection_lost(exc)

    def close(self) -> None:
        """Close without waiting for the other side: for it to take the rest of the request, or to end TLS."""
        self.abort()

    @property
    def unsent(self) -> bool:
        """Whether a part of the request is still on our side."""
        transport = self.transport
        return transport is not None and (transport.get_write_buffer_size() > 0 or _unacknowledged(transport) > 0)

    @property
    def reusable(self) -> bool:
        """Whether request and answer are both through, whole and alone."""
        transport = self.transport
        return transport is not None and not self.should_close and transport.get_write_buffer_size() == 0


class Pool(TCPConnector):
    """
    aiohttp's connection pool, with our protocol in its connections.

    To be made inside the running loop that uses it. Between two exchanges a connection rests here, without aiohttp's
    bookkeeping (docs/performance.md).
    """

    def __init__(
        self,
        *,
        ssl: ssl.SSLContext,
        resolver: AbstractResolver,
        socket_factory: SocketFactoryType | None,
    ) -> None:
        # No limit: how many requests go out at once, and to whom, is the scheduler's to say.
        super().__init__(
            limit=0,
            ssl=ssl,
            resolver=resolver,
            use_dns_cache=False,  # the resolver remembers by itself
            socket_factory=socket_factory,
        )
        self._factory = cast("partial[ResponseHandler]", partial(Wire, loop=self._loop))
        # By origin, since when each rests by the loop's clock; the last used at the end.
        self._resting: defaultdict[ConnectionKey, deque[tuple[Wire, float]]] = defaultdict(deque)
        self._sweeping: asyncio.TimerHandle | None = None

    async def take(self, target: Target) -> Wire:
        """A connection, idle or new; of idle ones the last used, so that those that are not needed grow old."""
        resting = self._resting.get(target.key)
        while resting:
            wire, since = resting.pop()
            transport = wire.transport
            if transport is not None and not transport.is_closing() and self._loop.time() - since <= KEEP_ALIVE:
                return wire
            wire.connection.close()
        connection = await self.connect(target.origin, [], _CONNECTING)
        wire = cast("Wire", connection.protocol)
        wire.connection = connection
        return wire

    def give_back(self, wire: Wire, target: Target) -> None:
        """Keep a connection, whose exchange is over, for the next request to the same origin."""
        if self.closed:
            wire.connection.close()
            return
        wire.rest()
        self._resting[target.key].append((wire, self._loop.time()))
        if self._sweeping is None:
            self._sweeping = self._loop.call_later(KEEP_ALIVE, self._sweep)

    async def close(self, *, abort_ssl: bool = False) -> None:
        """Close all connections, also those in use."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        for wire, _ in chain.from_iterable(self._resting.values()):
            wire.connection.close()
        self._resting.clear()
        await super().close(abort_ssl=abort_ssl)

    def _sweep(self) -> None:
        """Close those that have rested for too long."""
        oldest = self._loop.time() - KEEP_ALIVE
        for key, resting in tuple(self._resting.items()):
            while resting and resting[0][1] <= oldest:
                resting.popleft()[0].connection.close()
            if not resting:
                del self._resting[key]
        self._sweeping = self._loop.call_later(KEEP_ALIVE, self._sweep) if self._resting else None

    async def take_new(self, target: Target) -> Wire:
        """A connection that has carried nothing yet; idle ones to the same origin are closed."""
        while (wire := await self.take(target)).served:
            wire.connection.close()
        return wire


class Exchange:
    """
    One request and its answer; what is known so far stays readable when it is cut short.

    Owned by the attempt that made it.
    """

    __slots__ = ("_body", "_head", "_truncated", "phase")

    def __init__(self) -> None:
        self.phase = Phase.CONNECT
        self._head: RawResponseMessage | None = None
        self._body = b""
        self._truncated = True

    @property
    def response(self) -> Response | None:
        """The answer, once its head is complete."""
        return None if self._head is None else self._response(self._head)

    async def run(self, pool: Pool, target: Target, request: bytes, deadline: Deadline) -> Response:
        """
        Send *request*, wait for the head of the answer and for a reasonable part of its body.

        *deadline* is moved nearer once the head is there. Raises what aiohttp and the event loop raise; from the moment that
        there is a `response`, nothing but what ends the waiting.
        """
        wire = await pool.take(target)
        if wire.served:
            try:
                return await self._converse(pool, target, wire, request, deadline)
            except (ClientConnectionError, OSError):
                # The other side closed the idle connection while we took it (RFC 9112, section 9.3.1): not its refusal.
                if wire.received:
                    raise
            self.phase = Phase.CONNECT
            wire = await pool.take_new(target)
        return await self._converse(pool, target, wire, request, deadline)

    async def _converse(self, pool: Pool, target: Target, wire: Wire, request: bytes, deadline: Deadline) -> Response:
        self.phase = Phase.ANSWER
        reusable = False
        try:
            wire.begin()
            failpoint("K08-connected")
            if wire.transport is not None:
                wire.transport.write(request)
            failpoint("K09-written")
            self._head, payload = await wire.read()
            if payload.at_eof():
                self._truncated = False
            else:
                await self._read_body(wire, payload, deadline)
            reusable = wire.reusable
        finally:
            if reusable:
                pool.give_back(wire, target)
            else:
                if wire.unsent:
                    self.phase = Phase.SEND
                wire.connection.close()
        return self._response(self._head)

    def _response(self, head: RawResponseMessage) -> Response:
        return Response(
            status=head.code,
            headers=tuple([(name.decode("latin-1"), value.decode("latin-1")) for name, value in head.raw_headers]),
            body=self._body[:KEPT_BODY],
            truncated=self._truncated or len(self._body) > KEPT_BODY,
        )

    async def _read_body(self, wire: Wire, payload: StreamReader, deadline: Deadline) -> None:
        deadline.no_later_than(BODY_GRACE)
        try:
            while True:
                self._body += await payload.readany()
                if payload.at_eof():
                    self._truncated = False
                    return
                if len(self._body) >= MAX_BODY or wire.overfull:
                    return
                # What is in the buffers is read without waiting, and that may be much in small pieces.
                await asyncio.sleep(0)
        except Exception:  # noqa: BLE001  # whatever befalls the body, the verdict stands
            return


def _unacknowledged(transport: asyncio.Transport) -> int:
    """How many bytes the other side's kernel has not taken yet, as far as this platform tells."""
    if sys.platform == "win32":
        return 0
    try:
        count = fcntl.ioctl(transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
    except (OSError, ValueError):
        return 0
    return int.from_bytes(count, sys.byteorder)
