"""
A receiver that answers 204 to everything, and knows when requests for `latency` arrived. It ends with its standard input.

It prints its URL, and at the end as JSON, for each request with a member `at` in its body, the seconds since then.
"""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, cast

import uvloop

from hookengine.bench.framing import message_size
from hookengine.bench.scenario import command, environment
from hookengine.clock import elapsed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"
_AT = re.compile(rb'"at":([0-9.]+)')


class Answers(asyncio.Protocol):
    """One connection."""

    def __init__(self, seconds: list[float]) -> None:
        self._seconds = seconds  # all connections add to it
        self._received = b""
        self._began = 0.0  # when the first byte of the present request came

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep where to answer."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it

    def data_received(self, data: bytes) -> None:
        """Answer what is whole."""
        now = elapsed()
        if not self._received:
            self._began = now
        self._received += data
        while size := message_size(self._received):
            if at := _AT.search(self._received, 0, size):
                self._seconds.append(self._began - float(at[1]))
            self._received, self._began = self._received[size:], now
            self._transport.write(ANSWER)


async def serve() -> None:
    """Answer until standard input ends."""
    # Ctrl-C is for who started us, and closes our standard input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    seconds: list[float] = []
    loop = asyncio.get_running_loop()
    async with await loop.create_server(lambda: Answers(seconds), "127.0.0.1", 0, backlog=4096) as server:
        port = server.sockets[0].getsockname()[1]
        print(f"http://127.0.0.1:{port}/", flush=True)  # noqa: T201
        await loop.run_in_executor(None, sys.stdin.buffer.read)
    print(json.dumps(seconds))  # noqa: T201


class Endpoint:
    """Such a receiver as a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self.url = url
        self._process = process

    async def end(self) -> list[float]:
        """End it, and return the seconds that it noted, in the order of arrival."""
        out, _ = await self._process.communicate(b"")  # with None, Python 3.11 does not close its standard input
        seconds: list[float] = json.loads(out)
        return seconds


@asynccontextmanager
async def endpoint() -> AsyncIterator[Endpoint]:
    """Run one; it is gone at the end."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command("endpoint"), stdin=pipe, stdout=pipe, env=environment())
    stdout = cast("asyncio.StreamReader", process.stdout)  # asked for above
    try:
        url = (await stdout.readline()).decode().strip()
        if not url:
            raise RuntimeError("the receiver ended at once")
        yield Endpoint(process, url)
    finally:
        with suppress(ProcessLookupError):
            process.kill()  # nothing in it is worth a word of goodbye
        await process.wait()


if __name__ == "__main__":
    uvloop.run(serve())
