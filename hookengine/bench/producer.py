"""
Posts events to the API over 64 connections and prints when it began, by the clock that all processes read.

It writes ready-made requests and reads only what it must of the answers: what it spends is missing to the server beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
from typing import TYPE_CHECKING, cast
from urllib.parse import urlsplit

import uvloop

from hookengine.bench.framing import message_size
from hookengine.bench.scenario import DATA
from hookengine.clock import elapsed

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECTIONS = 64


class Connection(asyncio.Protocol):
    """One connection: the next request goes out when the answer to the last is there."""

    def __init__(self, requests: Iterator[bytes], done: asyncio.Future[None]) -> None:
        self._requests = requests
        self._done = done
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it
        self._send()

    def data_received(self, data: bytes) -> None:
        """Go on once the answer is whole."""
        self._received += data
        if message_size(self._received) is None:
            return
        if not self._received.startswith(b"HTTP/1.1 202 "):
            self._end(RuntimeError(f"the server answered {self._received[:500]!r}"))
            return
        self._received = b""
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        """An answer is missing, unless all is done."""
        self._end(exc or RuntimeError("the server closed the connection"))

    def _send(self) -> None:
        request = next(self._requests, None)
        if request is None:
            self._end(None)
        else:
            self._transport.write(request)

    def _end(self, problem: Exception | None) -> None:
        if self._done.done():
            return
        if problem is None:
            self._done.set_result(None)
        else:
            self._done.set_exception(problem)
        self._transport.close()


def requests(host: str, token: str, count: int, batch: int) -> Iterator[bytes]:
    """The bytes of as many requests as carry *count* events, *batch* in each."""
    event = b'{"type":"order.created","data":%b}' % DATA
    left = count
    while left > 0:
        size = min(batch, left)
        left -= size
        path, body = ("/v1/events", event) if batch == 1 else ("/v1/events/batch", b"[%b]" % b",".join([event] * size))
        head = (
            f"POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        yield head.encode() + body


async def produce(url: str, token: str, count: int, batch: int) -> float:
    """Post everything; the time of the first request."""
    server = urlsplit(url)
    loop = asyncio.get_running_loop()
    waiting = requests(server.netloc, token, count, batch)
    began = elapsed()
    async with asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(post_all(loop, server.hostname or "", server.port or 80, waiting))
    return began


async def post_all(loop: asyncio.AbstractEventLoop, host: str, port: int, waiting: Iterator[bytes]) -> None:
    """Post what is waiting over one connection until nothing is."""
    done = loop.create_future()
    await loop.create_connection(lambda: Connection(waiting, done), host, port)
    await done


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True, help="of the API; the token is in HOOKENGINE_TOKEN")
    parser.add_argument("--count", type=int, required=True, help="how many events")
    parser.add_argument("--batch", type=int, default=1, help="events in one request")
    options = parser.parse_args()
    print(uvloop.run(produce(options.url, os.environ["HOOKENGINE_TOKEN"], options.count, options.batch)))  # noqa: T201
