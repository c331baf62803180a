"""The simulated internet: names, endpoints that answer as their mood is, and what arrives at them."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from aiohttp.client_proto import ResponseHandler

PRIVATE = "10.1.2.3"  # what a name may lead to, and where nothing may ever arrive


@dataclass(eq=False)
class Arrival:
    """A request that came to an endpoint, whole."""

    at: float  # s, by the loop's time
    life: int  # of the engine's lives, the one that sent it
    endpoint: Endpoint
    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes
    status: int | None = None  # of the answer that reached the sender
    ended_at: float | None = None  # when it was answered, or the connection ended
    alive: list[Arrival] = field(default_factory=list)  # at the same endpoint, in flight when it came


@dataclass(frozen=True)
class Reply:
    """What an endpoint does with a request: answer, close the connection (0), or neither (None)."""

    status: int | None
    after: float = 0.0  # s
    headers: str = ""


class Endpoint:
    """One receiver, by its address: how it is now, and what it does then."""

    MOODS = ("well", "well", "flaky", "refusing", "silent", "broken", "gone", "throttling", "slow", "rude")

    def __init__(self, number: int, rng: random.Random) -> None:
        self.number = number
        self.address = f"93.184.{216 + number // 250}.{1 + number % 250}"
        self.mood = "well"
        self.latency = rng.uniform(0.001, 0.08)  # s one way
        self.keeps = rng.choice((1.5, 4.0, 75.0))  # s that it keeps an idle connection
        self.open: dict[Arrival, None] = {}

    def reply(self, rng: random.Random) -> Reply:
        """What becomes of a request in the present mood."""
        after = rng.uniform(0.0, 0.2)
        match self.mood:
            case "saving":  # what profiles with a test on save demand
                reply = Reply(200, after)
            case "flaky":
                reply = Reply(rng.choice((200, 202, 204, 400, 500, 503, 0, None)), after)
            case "silent":
                reply = Reply(None)
            case "broken":
                reply = Reply(rng.choice((500, 502, 404, 301)), after)
            case "gone":
                reply = Reply(410, after)
            case "throttling" if rng.random() < 0.5:
                reply = Reply(429, after, f"Retry-After: {rng.choice((1, 30, 600, 86_400))}\r\n")
            case "slow":
                reply = Reply(200, rng.uniform(1.0, 25.0))
            case "rude":
                reply = Reply(rng.choice((0, 200)), after)
            case _:
                reply = Reply(rng.choice((200, 200, 200, 201, 204)), after)
        return reply


class Internet:
    """Where requests go; owned by the simulation, and outlives the engine's lives."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.life = 0
        self.endpoints: dict[str, Endpoint] = {}  # by address
        self.names: dict[str, list[str]] = {}
        self.arrivals: list[Arrival] = []
        self.trespasses: list[str] = []  # connections to where none may go
        self.heard: Callable[[Arrival], None]  # told by the simulation
        self._connected: dict[socket.socket, Endpoint] = {}  # without a protocol yet
        self._lines: dict[_Line, None] = {}

    def build(self) -> Endpoint:
        """A new endpoint."""
        endpoint = Endpoint(len(self.endpoints), self.rng)
        self.endpoints[endpoint.address] = endpoint
        return endpoint

    def lookup(self, host: str, port: int, **_: Any) -> list[Any]:
        """As getaddrinfo answers."""
        addresses = self.names.get(host)
        if addresses is None:
            raise socket.gaierror(socket.EAI_AGAIN, "no answer")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    def lookup_time(self) -> float:
        """Seconds that a lookup takes: sometimes longer than anybody waits."""
        return self.rng.choice((0.001, 0.01, 0.01, 0.2)) if self.rng.random() < 0.98 else 10.0

    async def connect(self, sock: socket.socket, address: tuple[str, int]) -> None:
        """Return once an endpoint has taken the connection; raises as a socket does."""
        loop = asyncio.get_running_loop()
        endpoint = self.endpoints.get(address[0])
        if endpoint is None:
            self.trespasses.append(address[0])
            raise ConnectionRefusedError(111, "Connection refused")
        done = loop.create_future()
        timer = loop.call_later(2 * endpoint.latency, _settle, done)
        try:
            if endpoint.mood == "refusing" and self.rng.random() < 0.3:
                await loop.create_future()  # as behind a firewall
            await done
        finally:
            timer.cancel()
        if endpoint.mood == "refusing":
            raise ConnectionRefusedError(111, "Connection refused")
        self._connected[sock] = endpoint

    def attach(self, protocol: ResponseHandler, sock: socket.socket) -> tuple[_Line, ResponseHandler]:
        """The connection that was just made."""
        line = _Line(self, self._connected.pop(sock), protocol, sock)
        self._lines[line] = None
        protocol.connection_made(line)
        return line, protocol

    def cut(self) -> None:
        """The engine has died: all its connections end, and endpoints notice."""
        for line in list(self._lines):
            line.abort()
        self._lines.clear()
        self._connected.clear()

    def forget(self, line: _Line) -> None:
        """A connection has ended."""
        self._lines.pop(line, None)


def _settle(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)


class _Line(asyncio.Transport):
    """A connection, both of its ends: the sender writes here, the endpoint's answers go into the sender's protocol."""

    def __init__(self, internet: Internet, endpoint: Endpoint, protocol: ResponseHandler, sock: socket.socket) -> None:
        super().__init__({"socket": sock})
        self._loop = asyncio.get_running_loop()
        self._internet = internet
        self._endpoint = endpoint
        self._protocol = protocol
        self._sock = sock
        self._buffer = b""
        self._request: Arrival | None = None
        self._closed = False
        self._closed_there = False
        self._idle: asyncio.TimerHandle | None = None

    # The sender's end.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """On its way to the endpoint."""
        if not self._closed:
            self._loop.call_later(self._endpoint.latency, self._arrive, bytes(data))

    def close(self) -> None:
        """End it."""
        if not self._closed:
            self._closed = True
            self._internet.forget(self)
            self._end(None)
            self._sock.close()
            self._loop.call_soon(self._protocol.connection_lost, None)

    abort = close

    def is_closing(self) -> bool:
        """Whether it has ended."""
        return self._closed

    def get_write_buffer_size(self) -> int:
        """Nothing waits on the sender's side."""
        return 0

    def pause_reading(self) -> None:
        """Answers here are short."""

    def resume_reading(self) -> None:
        """As above."""

    # The endpoint's end.

    def _arrive(self, data: bytes) -> None:
        if self._closed or self._closed_there:
            return
        if self._idle is not None:
            self._idle.cancel()
        self._buffer += data
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        if not end or len(rest) < int(headers.get("content-length", 0)):
            return
        self._buffer = b""
        method, path, _ = first.split(" ")
        endpoint = self._endpoint
        arrival = Arrival(self._loop.time(), self._internet.life, endpoint, method, path, headers, rest)
        arrival.alive = list(endpoint.open)
        endpoint.open[arrival] = None
        self._request = arrival
        reply = endpoint.reply(self._internet.rng)
        self._internet.arrivals.append(arrival)
        self._internet.heard(arrival)
        if reply.status == 0:
            self._loop.call_later(reply.after, self._hang_up)
        elif reply.status is not None:
            self._loop.call_later(reply.after + endpoint.latency, partial(self._answer, reply))

    def _answer(self, reply: Reply) -> None:
        """It reaches the sender."""
        if self._closed:
            return
        body = "" if reply.status == 204 else "ok"
        length = "" if reply.status == 204 else "Content-Length: 2\r\n"
        self._end(reply.status)
        self._idle = self._loop.call_later(self._endpoint.keeps, self._hang_up)
        self._protocol.data_received(f"HTTP/1.1 {reply.status} So\r\n{length}{reply.headers}\r\n{body}".encode())

    def _hang_up(self) -> None:
        """The endpoint closes; the sender hears of it after the way."""
        self._closed_there = True
        self._loop.call_later(self._endpoint.latency, self.close)

    def _end(self, status: int | None) -> None:
        """The request is over, for both."""
        if self._request is not None:
            self._request.status = status
            self._request.ended_at = self._loop.time()
            del self._endpoint.open[self._request]
            self._request = None
