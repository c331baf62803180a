"""One connection of the pool, with bounds on what the other side may make us do, and the answers that it was given before."""

from __future__ import annotations

import sys
from ssl import SSLError
from typing import TYPE_CHECKING

from aiohttp import ClientPayloadError
from aiohttp.client_proto import ResponseHandler
from aiohttp.helpers import _EXC_SENTINEL, set_exception
from aiohttp.http_exceptions import BadStatusLine
from aiohttp.http_writer import HttpVersion10, HttpVersion11
from aiohttp.streams import EMPTY_PAYLOAD

if sys.platform != "win32":
    import fcntl
    import termios

if TYPE_CHECKING:
    import asyncio

    from aiohttp.connector import Connection
    from aiohttp.http import RawResponseMessage
    from aiohttp.streams import StreamReader

    from hookengine.models import Response

    Answer = tuple[RawResponseMessage | Response, StreamReader]

_VERSIONS = (HttpVersion10, HttpVersion11)

MAX_LINE = 8190  # bytes of the status line, and of one header
MAX_HEADERS = 128
MAX_INFORMATIONAL = 8
MAX_ANSWER = 128 * 1024  # bytes of one answer that are parsed at all
KEPT_BODY = 16 * 1024
MAX_FRAMING = 1024  # bytes that may come of a body before most of it has to be content

# The parser cannot be interrupted. In the smaller part it finds no more than some thirty answers or two hundred chunks,
# a fifth of a millisecond; what has been content so far may go on in larger ones.
_SMALLEST_PART = 1024
_LARGEST_PART = 16 * 1024

_MOST_KNOWN = 256  # answers
_LONGEST_KNOWN = 2048  # bytes of one


class TooManyInformational(Exception):
    """More than eight 1xx responses came before the answer."""


class HeadTooLarge(Exception):
    """The answer was still without its status line and complete headers after 128 KiB."""


class Answers:
    """
    Whole answers that were parsed before, by their bytes: the same bytes mean the same.

    A busy endpoint says the same to all requests of one second, and not to parse that saves a tenth of a delivery's time
    (docs/performance.md). One for all connections of a pool; what holds secrets does not get into it.
    """

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, Response] = {}

    def get(self, said: bytes) -> Response | None:
        """What *said* means, if that is known."""
        return self._known.get(said) if len(said) <= _LONGEST_KNOWN else None

    def keep(self, said: bytes, response: Response) -> None:
        """*said* is one whole answer with nothing behind it, after which the connection stays open."""
        if len(said) > _LONGEST_KNOWN:
            return
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()  # most are of a second that has passed
        self._known[said] = response

    def clear(self) -> None:
        """Forget all."""
        self._known.clear()


class Wire(ResponseHandler):
    """
    One connection of the pool, as aiohttp's protocol, with bounds on what the other side may make us do.

    Owned by the exchange that took it from the pool; nobody's while it is idle. An answer is what the parser makes of it, or,
    where *answers* knows its bytes, the response that they meant before.
    """

    connection: Connection  # what aiohttp's pool gave us this in

    def __init__(self, loop: asyncio.AbstractEventLoop, answers: Answers) -> None:
        super().__init__(loop)
        self._answers = answers
        self.served = 0  # exchanges that ended cleanly
        self.idle = False
        self.received = 0  # bytes of the present answer
        self.overfull = False  # whether more came than one answer of MAX_ANSWER
        self._answer: asyncio.Future[Answer] | None = None  # of the exchange that has us
        self._informational = 0
        self._answered = False
        self._body_at = 0  # where, in what was received, the body may begin
        self._first = b""  # what came of the present answer in one piece at its beginning
        self._clean = False  # whether the parser is known to stand before the next answer
        self._recognised = False  # whether the present answer was known, so that the parser has not seen it

    def begin(self) -> asyncio.Future[Answer]:
        """
        Expect one answer from here on; the future is done when it is there.

        In place of aiohttp's `read`, which takes a coroutine and a queue for that.
        """
        self._answer = answer = self._loop.create_future()
        self.idle = self.overfull = self._answered = self._recognised = False
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
        if self._exception is not None and not answer.done():
            answer.set_exception(self._exception)
        return answer

    def rest(self, response: Response | None) -> None:
        """Be ready for another exchange, after a whole answer, which meant *response*; None where that is not to be kept."""
        self.served += 1
        self.idle = True
        self._answer = None
        if self._recognised:
            self._clean = True
            return
        # The parser does not tell whether it has begun to read another one, of which the next would be the end.
        size = 0 if self._payload is None else self._payload.total_bytes
        self._clean = self.received == self._first.find(b"\r\n\r\n") + 4 + size
        if self._clean and response is not None and self.received == len(self._first):
            self._answers.keep(self._first, response)
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
            # What comes before it was asked for waits for `begin`, and what a proxy says of a tunnel is for aiohttp to read.
            if self._answer is not None and (response := self._answers.get(data)) is not None:
                self._recognised = True
                self.received = len(data)
                self._give((response, EMPTY_PAYLOAD))
                return
            self._first = data
        elif self._recognised:  # it was whole
            self._take_no_more()
            return
        room = MAX_ANSWER - self.received
        overflow = len(data) > room
        if self._parse(data[:room] if overflow else data) or overflow:
            self._refuse_more()
        # aiohttp tells the reader of the head when the parser gives up, and leaves the reader of the body alone.
        if self._exception is not None and self._payload is not None and not self._payload.is_eof():
            self._payload.set_exception(self._exception)

    def _give(self, answer: Answer) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)

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
        """Give the answer to who waits for it; count what comes before it, and drop what comes after it."""
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
            if self._answer is None:  # aiohttp itself asks a proxy for a tunnel, and reads
                super().feed_data(data, size)
            else:
                self._give(data)

    def set_exception(self, exc: BaseException, exc_cause: BaseException = _EXC_SENTINEL) -> None:
        """Tell who waits for the answer, as aiohttp does it."""
        super().set_exception(exc, exc_cause)
        if self._answer is not None and not self._answer.done():
            set_exception(self._answer, exc, exc_cause)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Keep what TLS said, which aiohttp would reduce to an error number."""
        if isinstance(exc, SSLError):
            self.set_exception(exc)
        super().connection_lost(exc)
        self._answer = None  # else we and the traceback of its error would keep each other

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
        # What the parser has not seen has left nothing in it that aiohttp would have to look for.
        is_over = self._should_close if self._recognised else self.should_close
        return transport is not None and not is_over and transport.get_write_buffer_size() == 0


def _unacknowledged(transport: asyncio.Transport) -> int:
    """How many bytes the other side's kernel has not taken yet, as far as this platform tells."""
    if sys.platform == "win32":
        return 0
    connected = transport.get_extra_info("socket")
    if connected is None:  # TLS over a connection that is gone
        return 0
    try:
        count = fcntl.ioctl(connected.fileno(), termios.TIOCOUTQ, bytes(4))
    except (OSError, ValueError):
        return 0
    return int.from_bytes(count, sys.byteorder)
