"""The example programs, run as they are: each sends a signed event to a receiver."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from patience import PATIENCE
from walk import free_port

from hookengine.receiver import Receiver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

EXAMPLES = Path(__file__).parent.parent / "examples"
LOOPBACK = {"HOOKENGINE_SECURITY_ALLOW_HTTP": "true", "HOOKENGINE_SECURITY_ALLOW_NETWORKS": "127.0.0.0/8"}
SHOPS = {
    "fastapi": ["-m", "uvicorn", "fastapi_shop:app", "--app-dir", str(EXAMPLES), "--port", "{port}"],
    "aiohttp": [str(EXAMPLES / "aiohttp_shop.py")],
}


@asynccontextmanager
async def open_shop(command: list[str], database: Path) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """A shop in a process of its own, once it answers, and where."""
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *(part.format(port=port) for part in command),
        env={**os.environ, **LOOPBACK, "SHOP_DATABASE": str(database), "PORT": str(port)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        await listening(process, port)
        yield f"http://127.0.0.1:{port}", process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def listening(process: asyncio.subprocess.Process, port: int) -> None:
    """Return once *process* says that it serves."""
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        while (line := await process.stdout.readline()) and str(port).encode() not in line:
            pass


@pytest.mark.parametrize(
    ("path", "body"),
    [
        *[("/webhooks", body) for body in (b"{", b"\xff", b"[]", b"{}", b'{"url": 1}', b'{"url": "ftp://example.com"}')],
        *[("/orders", body) for body in (b"", b"{", b"\xff", b"NaN")],
    ],
)
async def test_mistakes_of_customers_are_no_faults_of_the_shop(path: str, body: bytes, tmp_path: Path) -> None:
    """A body that is no webhook or no order is answered with what is wrong with it."""
    async with (
        open_shop(SHOPS["aiohttp"], tmp_path / "shop.db") as (url, _),
        aiohttp.ClientSession() as http,
        http.post(url + path, data=body) as response,
    ):
        assert response.status in {400, 422}
        assert (await response.json())["detail"]


@pytest.mark.parametrize("command", SHOPS.values(), ids=SHOPS)
async def test_shop(command: list[str], tmp_path: Path) -> None:
    """What is ordered reaches the customer's system, verified; a wrong URL is explained; the shop closes in order."""
    async with (
        open_shop(command, tmp_path / "shop.db") as (url, process),
        Receiver() as receiver,
        aiohttp.ClientSession() as http,
    ):

        async def post(path: str, members: Any) -> tuple[int, Any]:
            async with http.post(url + path, json=members) as response:
                return response.status, await response.json()

        status, refused = await post("/webhooks", {"url": "ftp://example.com"})
        assert (422, True) == (status, bool(refused["detail"]))
        status, made = await post("/webhooks", {"url": receiver.url})
        receiver.secret = made["secret"]
        status, ordered = await post("/orders", {"item": "tea", "count": 2})
        [received] = await receiver.wait(1, timeout=PATIENCE)
        async with http.get(f"{url}/orders/{ordered['event']}/webhooks") as response:
            [delivery] = await response.json()
        process.terminate()
        async with asyncio.timeout(PATIENCE):
            code = await process.wait()

    assert (201, True, ordered["event"]) == (status, received.verified, received.header("webhook-id"))
    assert delivery["state"] in {"pending", "delivered"}
    assert code in {0, -15}, "uvicorn ends with the signal that it was sent"
