"""Name servers that do not answer: whoever needs none does not notice, and all others wait without harm."""

from __future__ import annotations

import asyncio
import socket
from statistics import median
from typing import TYPE_CHECKING, Any

import pytest
from engines import Journal, running
from patience import PATIENCE

from hookengine.receiver import Received, Receiver

if TYPE_CHECKING:
    from pathlib import Path

    from hookengine.engine import Engine

NAMES = 20


class NameServer:
    """What stands in for libc's `getaddrinfo`, as it behaves while its servers are dead, or alive."""

    def __init__(self) -> None:
        self.answers = False

    def __call__(self, _host: str, port: int, **_: Any) -> list[Any]:
        """An address, or what libc says after its own patience."""
        if not self.answers:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]


async def silence(engine: Engine, seconds: int | None) -> NameServer:
    """Let name servers not answer *engine* now; that they did was so many *seconds* ago, or never."""
    resolver = engine._running.dispatcher._attempting._sender._resolver
    resolver._lookup = server = NameServer()
    if seconds is not None:
        server.answers = True
        await resolver.resolve("other.example")
        server.answers = False
        resolver.last_answer_at = asyncio.get_running_loop().time() - seconds
    return server


@pytest.mark.alone
@pytest.mark.row("F39")
@pytest.mark.parametrize("seconds", [None, 1, 31])  # from 30 on it has another name
async def test_dead_resolver(tmp_path: Path, seconds: int | None) -> None:
    """Beside twenty names that nobody resolves an address is served as ever; they lose nothing, and go on by themselves."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Queue[float] = asyncio.Queue()

    def note(request: Received) -> int:
        if request.path == "/healthy":
            arrived.put_nowait(loop.time())
        return 200

    async def latency() -> float:
        begun = loop.time()
        await made.publish("healthy", {})
        async with asyncio.timeout(PATIENCE):
            return await arrived.get() - begun

    async with Receiver(note) as receiver, running(tmp_path, journal := Journal()) as made:
        await made.subscribe(f"{receiver.url}/healthy", event_types=["healthy"])
        before = [await latency() for _ in range(60)]
        server = await silence(made, seconds)
        port = receiver.url.rpartition(":")[2]
        ids = [(await made.subscribe(f"http://dead{n}.example:{port}/", event_types=["named"])).id for n in range(NAMES)]
        for _ in range(10):
            await made.publish("named", {})
        await journal.until("local_trouble")
        during = [await latency() for _ in range(60)]
        pending = [each for each in (await made.deliveries(state="pending", limit=250)).data if each.subscription in ids]
        failures = [(await made.subscription(id_)).consecutive_failures for id_ in ids]
        server.answers = True
        async with asyncio.timeout(PATIENCE):
            await receiver.wait(120 + NAMES * 10, PATIENCE)

    print(f"median {median(before) * 1000:.1f} ms before, {median(during) * 1000:.1f} ms during")  # noqa: T201  # shown with -s
    assert NAMES * 10 == len(pending)
    assert {0} == {each.attempt_count for each in pending}
    assert [0] * NAMES == failures
    assert median(during) <= 2 * median(before)
    assert 120 + NAMES * 10 == len(receiver.requests)
