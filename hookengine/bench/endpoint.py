"""
A receiver that answers 204 to everything, and knows when requests for `latency` arrived. It ends with its standard input.

It prints JSON: its URLs, and at the end, for each request with a member `at` in its body, the seconds since then.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import signal
import ssl
import sys
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import uvloop

from hookengine.bench.cases import Way
from hookengine.bench.framing import message_size
from hookengine.bench.scenario import command, environment
from hookengine.clock import elapsed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from socket import socket

    from hookengine.bench.loopback import Site

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


async def serve(hosts: Sequence[str], certificate: Path, key: Path) -> None:
    """Answer at *hosts*, with TLS at the first, until standard input ends."""
    # Ctrl-C is for who started us, and closes our standard input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    seconds: list[float] = []
    loop = asyncio.get_running_loop()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    listen = partial(loop.create_server, lambda: Answers(seconds), port=0, backlog=4096)
    async with await listen(host=hosts) as plain, await listen(host=hosts[0], ssl=tls) as encrypted:
        spread = [f"http://{_address(each)}/" for each in plain.sockets]
        urls = {Way.PLAIN: spread[:1], Way.TLS: [f"https://{_address(encrypted.sockets[0])}/"], Way.HOSTS: spread}
        print(json.dumps(urls), flush=True)  # noqa: T201
        await loop.run_in_executor(None, sys.stdin.buffer.read)
    print(json.dumps(seconds))  # noqa: T201


def _address(listener: socket) -> str:
    host, port = listener.getsockname()
    return f"{host}:{port}"


class Endpoint:
    """Such a receiver as a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process, urls: dict[Way, list[str]]) -> None:
        self.urls = urls
        self._process = process

    async def end(self) -> list[float]:
        """End it, and return the seconds that it noted, in the order of arrival."""
        out, _ = await self._process.communicate(b"")  # with None, Python 3.11 does not close its standard input
        seconds: list[float] = json.loads(out)
        return seconds


@asynccontextmanager
async def endpoint(site: Site) -> AsyncIterator[Endpoint]:
    """Run one at *site*; it is gone at the end."""
    pipe, shown = asyncio.subprocess.PIPE, site.certificate
    flags = ("--hosts", *site.hosts, "--certificate", str(shown.shown), "--key", str(shown.key))
    process = await asyncio.create_subprocess_exec(*command("endpoint", *flags), stdin=pipe, stdout=pipe, env=environment())
    stdout = cast("asyncio.StreamReader", process.stdout)  # asked for above
    try:
        said = await stdout.readline()
        if not said:
            raise RuntimeError("the receiver ended at once")
        yield Endpoint(process, {Way(way): urls for way, urls in json.loads(said).items()})
    finally:
        with suppress(ProcessLookupError):
            process.kill()  # nothing in it is worth a word of goodbye
        await process.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hosts", nargs="+", required=True, help="addresses of loopback")
    parser.add_argument("--certificate", type=Path, required=True, help="for the first of them, in PEM")
    parser.add_argument("--key", type=Path, required=True, help="of the certificate")
    options = parser.parse_args()
    uvloop.run(serve(options.hosts, options.certificate, options.key))
