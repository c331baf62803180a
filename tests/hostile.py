"""
Receivers that misbehave, each a coroutine over one raw connection, named by the rows of the hostile-receiver matrix.

Those that flood run in a process of their own, so that what they burn is not measured as the sender's.
"""

from __future__ import annotations

import asyncio
import gzip
import re
import socket
import struct
import subprocess
import sys
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING

from patience import PATIENCE
from yarl import URL

from hookengine.message import Target

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
    from ssl import SSLContext

    Behaviour = Callable[["Peer"], Awaitable[None]]

# Those that the engine may run on.
LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop]
if sys.platform != "win32":
    import uvloop

    LOOPS.append(uvloop.new_event_loop)

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_SLOW = 0.05  # s between the bytes of a slow one


class Peer:
    """One connection, seen from the receiver."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, receiver: Receiver) -> None:
        self._reader = reader
        self._writer = writer
        self._receiver = receiver
        self.number = receiver.connections  # counted from 1

    async def request(self) -> bytes:
        """The next request, whole and recorded."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = _LENGTH.search(head)
        request = head + await self._reader.readexactly(int(length[1]) if length else 0)
        self._receiver.note(request)
        return request

    async def send(self, data: bytes) -> None:
        """Write *data*, in one segment where it fits."""
        self._writer.write(data)
        await self._writer.drain()

    async def over(self) -> None:
        """Read nothing more until the test has its outcome."""
        await self._receiver.over.wait()

    async def gone(self) -> None:
        """Read and forget until the other side closes."""
        while await self._reader.read(1 << 16):
            pass

    async def gone_within(self, seconds: float) -> bool:
        """Whether the other side closes in the next *seconds*."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.gone()
            return True
        return False

    async def drip(self, data: bytes) -> None:
        """Write *data* byte by byte, slowly."""
        for start in range(len(data)):
            await self.send(data[start : start + 1])
            if await self.gone_within(_SLOW):
                return

    async def read_some(self) -> bytes:
        """What has come, at least a byte, or b"" at the end."""
        return await self._reader.read(1 << 16)

    async def read_slowly(self) -> None:
        """Take a few bytes at a time until the test has its outcome."""
        while not self._receiver.over.is_set():
            await self._reader.read(64)
            with suppress(TimeoutError):
                async with asyncio.timeout(_SLOW):
                    await self._receiver.over.wait()

    def reset(self) -> None:
        """Close with RST."""
        found = self._writer.get_extra_info("socket")
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def finish(self) -> None:
        """Close with FIN, after what is written."""
        self._writer.close()
        await self._writer.wait_closed()

    def half_close(self) -> None:
        """Write no more, and go on reading."""
        self._writer.write_eof()


class Receiver:
    """A server on loopback whose connections are each handed to one behaviour."""

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self.port = 0
        self.connections = 0
        self.requests: list[bytes] = []
        self.over = asyncio.Event()
        self.dropped = asyncio.Event()  # a connection has ended
        self._read = asyncio.Event()
        self._open = 0
        self._ended = asyncio.Event()
        self._ended.set()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}/hook"

    def note(self, request: bytes) -> None:
        """Record a request that was read."""
        self.requests.append(request)
        self._read.set()

    async def reached(self, requests: int) -> None:
        """Return when so many requests have been read."""
        while len(self.requests) < requests:
            self._read.clear()
            await self._read.wait()

    async def settled(self) -> None:
        """Return when every connection is closed, also by the other side."""
        self.over.set()
        async with asyncio.timeout(PATIENCE):
            await self._ended.wait()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """What asyncio.start_server calls."""
        self.connections += 1
        self._open += 1
        self._ended.clear()
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                peer = Peer(reader, writer, self)
                await self._behaviour(peer)
                await self.over.wait()
                await peer.gone()
        finally:
            writer.transport.abort()
            self.dropped.set()
            self._open -= 1
            if not self._open:
                self._ended.set()


@asynccontextmanager
async def receiver(
    behaviour: Behaviour, *, tls: SSLContext | None = None, small_window: bool = False
) -> AsyncIterator[Receiver]:
    """A running receiver."""
    listening = socket.socket()
    if small_window:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    listening.bind(("127.0.0.1", 0))
    made = Receiver(behaviour)
    made.port = listening.getsockname()[1]
    server = await asyncio.start_server(made.serve, sock=listening, backlog=512, limit=4096, ssl=tls)
    try:
        yield made
    finally:
        server.close()  # to wait for that is to wait for all connections, from Python 3.12 on
        with suppress(TimeoutError):
            await made.settled()


@contextmanager
def flooding(behaviour: Behaviour) -> Iterator[str]:
    """The URL of a receiver in another process."""
    command = [sys.executable, __file__, behaviour.__name__]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/hook"
        finally:
            process.kill()


def aim(url: str) -> Target:
    """Where *url*, of a receiver for instance, points; inside the running loop."""
    return Target(URL(url, encoded=True), asyncio.get_running_loop())


def on_both_loops(scenario: Callable[[], Coroutine[None, None, None]]) -> None:
    """Run *scenario* once on each event loop."""
    for new_loop in LOOPS:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            runner.run(scenario())


def answers(*parts: bytes) -> Behaviour:
    """Each request is answered by the next of *parts*, in a segment of its own."""

    async def behave(peer: Peer) -> None:
        for part in parts:
            await peer.request()
            await peer.send(part)

    return behave


def response(status: str, headers: str = "", body: bytes = b"") -> bytes:
    """The bytes of an answer, with the Content-Length that belongs to it."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *filter(None, headers.split("\n")), "", ""]
    return "\r\n".join(lines).encode() + body


OK = response("200 OK", body=b"ok")


async def healthy(peer: Peer) -> None:
    """Answer 200 to every request."""
    while True:
        await peer.request()
        await peer.send(OK)


async def silent(peer: Peer) -> None:
    """Read the request and never answer."""
    await peer.request()


async def unread(peer: Peer) -> None:
    """Read nothing, answer nothing."""
    await peer.over()


async def reads_slowly(peer: Peer) -> None:
    """Take about a kilobyte a second."""
    await peer.read_slowly()


async def slow_headers(peer: Peer) -> None:
    """Send the head byte by byte, without end."""
    await peer.request()
    await peer.drip(b"HTTP/1.1 200 OK\r\n" + b"X-Slow: yes\r\n" * 1000)


async def slow_body(peer: Peer) -> None:
    """Send the body byte by byte, without end."""
    await peer.request()
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    await peer.drip(b"x" * 100_000)


async def _forever(peer: Peer, head: bytes, piece: bytes) -> None:
    await peer.request()
    await peer.send(head)
    while True:
        await peer.send(piece)


async def endless_body(peer: Peer) -> None:
    """Answer 200 with a body until the connection closes."""
    await _forever(peer, b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b"x" * 65536)


async def endless_chunks(peer: Peer) -> None:
    """Answer 200 with chunks and no last one."""
    await _forever(peer, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b"x" * 65536 + b"\r\n")


async def tiny_chunks(peer: Peer) -> None:
    """Answer 200 with chunks of one byte, without end."""
    await _forever(peer, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 10_000)


async def endless_chunk_extension(peer: Peer) -> None:
    """Answer 200 with a chunk whose extension has no end."""
    await _forever(peer, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x" * 65536)


async def gzip_bomb(peer: Peer) -> None:
    """Answer 200 with a megabyte that unpacks to a gigabyte."""
    body = gzip.compress(bytes(1 << 20), 1) * 240
    await peer.request()
    await peer.send(response("200 OK", "Content-Encoding: gzip", body))


async def endless_headers(peer: Peer) -> None:
    """Send headers and no end of them."""
    await _forever(peer, b"HTTP/1.1 200 OK\r\n", b"X-Flood: yes\r\n" * 5000)


async def endless_status_line(peer: Peer) -> None:
    """Send a status line and no end of it."""
    await _forever(peer, b"HTTP/1.1 200 ", b"x" * 65536)


async def informational_flood(peer: Peer) -> None:
    """Send 100 Continue without end."""
    await _forever(peer, b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000)


async def response_flood(peer: Peer) -> None:
    """Answer a request with responses without end."""
    await _forever(peer, b"", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" * 5000)


async def reset_at_once(peer: Peer) -> None:
    """Read the request, then reset."""
    await peer.request()
    peer.reset()


async def reset_in_head(peer: Peer) -> None:
    """Send half a head, then reset."""
    await peer.request()
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Le")
    peer.reset()


async def reset_in_body(peer: Peer) -> None:
    """Send a head and half a body, then reset."""
    await peer.request()
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n" + b"x" * 50)
    if not await peer.gone_within(_SLOW):
        peer.reset()


async def finish_before_response(peer: Peer) -> None:
    """Read the request, then close."""
    await peer.request()
    await peer.finish()


async def finish_before_reading(peer: Peer) -> None:
    """Close at once."""
    await peer.finish()


async def half_close_after_response(peer: Peer) -> None:
    """Answer, then write no more."""
    await peer.request()
    await peer.send(OK)
    peer.half_close()


async def early_response(peer: Peer) -> None:
    """Answer without reading the request."""
    await peer.send(OK)
    await peer.over()


async def cut_body(peer: Peer) -> None:
    """Announce a longer body than is sent, then close."""
    await peer.request()
    await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort")
    await peer.finish()


async def cut_chunk(peer: Peer) -> None:
    """Close in the middle of a chunk."""
    await peer.request()
    await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nshort")
    await peer.finish()


async def bad_chunk_later(peer: Peer) -> None:
    """Send a good head, and in another segment a chunk that cannot be."""
    await peer.request()
    await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
    if not await peer.gone_within(_SLOW):
        await peer.send(b"zz\r\n")


async def until_close(peer: Peer) -> None:
    """Answer as HTTP/1.0: the body ends with the connection."""
    await peer.request()
    await peer.send(b"HTTP/1.0 200 OK\r\n\r\nhello")
    await peer.finish()


async def banner(peer: Peer) -> None:
    """Speak first, and not HTTP."""
    await peer.send(b"SSH-2.0-OpenSSH_9.2\r\n")


async def closes_when_idle(peer: Peer) -> None:
    """Answer one request, then close."""
    await peer.request()
    await peer.send(OK)
    await peer.finish()


async def resets_when_idle(peer: Peer) -> None:
    """Answer one request, then reset."""
    await peer.request()
    await peer.send(OK)
    if not await peer.gone_within(_SLOW):
        peer.reset()


async def finishes_on_second_request(peer: Peer) -> None:
    """On the first connection answer once, and close when the second request arrives; then behave."""
    await peer.request()
    await peer.send(OK)
    await peer.request()
    if peer.number == 1:
        await peer.finish()
    else:
        await peer.send(OK)


async def resets_on_second_request(peer: Peer) -> None:
    """As `finishes_on_second_request`, with RST."""
    await peer.request()
    await peer.send(OK)
    await peer.request()
    if peer.number == 1:
        peer.reset()
    else:
        await peer.send(OK)


async def never_twice(peer: Peer) -> None:
    """Answer once ever: close when any other request arrives."""
    await peer.request()
    if peer.number == 1:
        await peer.send(OK)
        await peer.request()
    await peer.finish()


async def half_answer_on_second_request(peer: Peer) -> None:
    """Answer once; to the second request send the beginning of an answer, then close."""
    await peer.request()
    await peer.send(OK)
    await peer.request()
    await peer.send(b"HTTP/1.1 2")
    await peer.finish()


async def speaks_when_idle(peer: Peer) -> None:
    """Answer 500 to every request, and send an unasked 200 after each answer."""
    while True:
        await peer.request()
        await peer.send(response("500 Oops"))
        if await peer.gone_within(_SLOW):
            return
        await peer.send(OK)


async def _main(behaviour: Behaviour) -> None:
    async with receiver(behaviour) as made:
        sys.stdout.write(f"{made.port}\n")
        sys.stdout.flush()
        await made.over.wait()


if __name__ == "__main__":
    asyncio.run(_main(globals()[sys.argv[1]]))
