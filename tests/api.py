"""A running engine with its HTTP API, and a client that asks it: in whole requests, or in raw bytes."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import orjson
from engines import LOOPBACK, rows
from msgspec import Struct
from multidict import CIMultiDict
from patience import PATIENCE

from hookengine.config import Config, Delivery, Plan, Server
from hookengine.engine import DATABASE, TOKEN_FILE, Engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

JSON = "application/json"
SILENCE = 0.3  # s in which nothing comes from a server that waits for more


class Answer(Struct, frozen=True, kw_only=True):
    """What the API answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body's value."""
        return orjson.loads(self.body)

    @property
    def places(self) -> list[tuple[str, str]]:
        """Where the mistakes are that a problem names (pointer or parameter), each with its code."""
        return [(error.get("pointer", error.get("parameter")), error["code"]) for error in self.json.get("errors", [])]


class Api:
    """A client with the owner's token."""

    def __init__(self, engine: Engine, folder: Path, session: aiohttp.ClientSession) -> None:
        self.engine = engine
        self.folder = folder
        self.token = (folder / TOKEN_FILE).read_text().strip()
        self._session = session

    async def __call__(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Mapping[str, str] | None = None,
        content_type: str | None = JSON,
        token: str | None = None,
    ) -> Answer:
        """The answer to a request; *body* as bytes goes as it is, else it is printed."""
        sent = {"Authorization": f"Bearer {self.token if token is None else token}", **(headers or {})}
        if body is not None and content_type is not None:
            sent["Content-Type"] = content_type
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        url = f"{self.engine.url}{path}"
        skipped = {"Content-Type"} if content_type is None else ()
        async with self._session.request(
            method, url, data=data, headers=sent, skip_auto_headers=skipped, allow_redirects=False
        ) as response:
            return Answer(status=response.status, headers=response.headers, body=await response.read())

    async def made(self, path: str, body: Any, **more: Any) -> Any:
        """The value of a 2xx answer to a POST."""
        answer = await self("POST", path, body, **more)
        assert 200 <= answer.status <= 299, answer.body
        return answer.json

    async def subscribe(self, url: str = "http://127.0.0.1:8099/hook", **members: Any) -> Any:
        """A new subscription, as it was answered."""
        return await self.made("/v1/subscriptions", {"url": url, **members})

    async def publish(self, type: str = "order.created", data: Any = None, **members: Any) -> Any:  # the member's name
        """An accepted event, as it was answered."""
        return await self.made("/v1/events", {"type": type, "data": data, **members})

    def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """What *statement* finds in the file."""
        return rows(self.folder, statement, *values)

    def counts(self) -> dict[str, int]:
        """How many rows there are in each table that requests fill; not attempts, which retries make meanwhile."""
        tables = ("events", "deliveries", "subscriptions", "idempotency_keys")
        return {table: self.rows(f"SELECT count(*) FROM {table}")[0][0] for table in tables}

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection of one's own."""
        assert self.engine.url is not None
        host, _, port = self.engine.url.removeprefix("http://").rpartition(":")
        return await asyncio.open_connection(host, int(port))

    async def send(self, *parts: bytes, patience: float = PATIENCE) -> bytes:
        """
        What is answered until the server closes, to raw bytes sent in *parts*; `{token}` in them is the owner's.

        Empty where it sends nothing within *patience* seconds.
        """
        reader, writer = await self.dial()
        answered = b""
        try:
            for part in parts:
                writer.write(part.replace(b"{token}", self.token.encode()))
                await writer.drain()
            async with asyncio.timeout(patience):
                while chunk := await reader.read(65536):
                    answered += chunk
        except (TimeoutError, ConnectionError):
            pass
        finally:
            writer.close()
        return answered


def request(method: str, path: str, body: bytes | None = None, /, **headers: str) -> bytes:
    """The bytes of an HTTP/1.1 request of the owner's, after which the server closes; `_` in a header's name is `-`."""
    lines = {"Host": "x", "Authorization": "Bearer {token}", "Connection": "close"}
    if body is not None:
        lines |= {"Content-Type": JSON, "Content-Length": str(len(body))}
    lines |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + (body or b"")


def read_raw(answer: bytes) -> Answer:
    """The first answer in raw bytes."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("latin-1").split("\r\n")
    headers = CIMultiDict((name, value) for name, _, value in (line.partition(": ") for line in lines))
    length = int(headers.get("Content-Length", "0"))
    return Answer(status=int(status_line.split(" ")[1]), headers=headers, body=body[:length])


@asynccontextmanager
async def serving(
    folder: Path, *, server: Server | None = None, plans: dict[str, Plan] | None = None, **delivery: Any
) -> AsyncIterator[Api]:
    """An engine on a file in *folder* that serves its API on loopback and may call loopback, with a client."""
    config = Config(security=LOOPBACK, server=server or Server(), delivery=Delivery(**delivery), plans=plans or {})
    engine = Engine(folder / DATABASE, config=config, serve="127.0.0.1:0")
    await engine.start()
    try:
        async with aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=PATIENCE), cookie_jar=aiohttp.DummyCookieJar()
        ) as session:
            yield Api(engine, folder, session)
    finally:
        await engine.stop(drain=0)
