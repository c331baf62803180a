"""A forward proxy on loopback, which leads every name to this machine, and refuses what a test says."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from ssl import SSLContext


class ForwardProxy:
    """What it was asked for, by request line, and with which credentials; with *refusal*, it answers with that."""

    opening = b"HTTP/1.1 200 Connection established\r\n\r\n"  # what it says of a tunnel

    def __init__(self, refusal: bytes = b"") -> None:
        self.asked: list[str] = []
        self.credentials: list[str | None] = []
        self.refusal = refusal
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Open a tunnel, or pass requests on in origin-form (RFC 9112, section 3.2)."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            line, _, rest = head.partition(b"\r\n")
            method, where, _ = line.split(b" ")
            self.asked.append(line.decode())
            fields = dict(each.split(": ", 1) for each in rest.decode().split("\r\n") if each)
            self.credentials.append(fields.get("Proxy-Authorization"))
            if self.refusal:
                writer.write(self.refusal)
                return
            url = urlsplit(b"//" + where if method == b"CONNECT" else where)
            there, back = await asyncio.open_connection("127.0.0.1", url.port or 80)
            if method == b"CONNECT":
                writer.write(self.opening)
            else:
                back.write(b"%b %b HTTP/1.1\r\n%b" % (method, url.path + (b"?" + url.query if url.query else b""), rest))
            async with asyncio.TaskGroup() as group:
                group.create_task(_pipe(reader, back))
                group.create_task(_pipe(there, writer))
        finally:
            writer.close()


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def forward_proxy(refusal: bytes = b"", *, port: int = 0, tls: SSLContext | None = None) -> AsyncIterator[ForwardProxy]:
    """A running one."""
    made = ForwardProxy(refusal)
    async with await asyncio.start_server(made.serve, "127.0.0.1", port, ssl=tls) as server:
        made.port = server.sockets[0].getsockname()[1]
        yield made
