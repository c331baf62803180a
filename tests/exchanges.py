"""A client pool of a test's own, and what is known of its last exchange."""

from __future__ import annotations

import socket
import ssl
from typing import TYPE_CHECKING

from aiohttp.resolver import ThreadedResolver
from hostile import aim

from hookengine.deadline import Deadlines
from hookengine.exchange import Exchange, Pool
from hookengine.message import compose

if TYPE_CHECKING:
    import aiohttp

    from hookengine.exchange import Turn
    from hookengine.models import Response


def any_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket for every address: the guard is netguard's."""
    return socket.socket(address[0], address[1], address[2])


class Client:
    """A pool and what an exchange needs beside it."""

    def __init__(self, **settings: int) -> None:
        tls = ssl.create_default_context()
        self.pool = Pool(ssl=tls, resolver=ThreadedResolver(), socket_factory=any_socket, **settings)
        self.deadlines = Deadlines()
        self.exchange = Exchange()

    async def send(
        self, url: str, *, seconds: float = 5, body: bytes = b"{}", private: bool = False, turn: Turn | None = None
    ) -> Response:
        """One request; `exchange` is what is known of it."""
        self.exchange = Exchange(private=private)
        target = aim(url)
        with self.deadlines.after(seconds) as deadline:
            return await self.exchange.run(self.pool, target, compose("POST", target, (), body), deadline, turn=turn)

    async def close(self) -> None:
        """End all connections."""
        await self.pool.close()
        self.deadlines.close()
