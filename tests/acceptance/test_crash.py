"""What a SIGKILL leaves, under load."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from daemon import PATIENCE, Daemon
from load import Producers, endpoint

from hookengine.clock import Clock
from hookengine.receiver import Received, Receiver, Reply

if TYPE_CHECKING:
    from pathlib import Path

CONCURRENCY = 32


async def test_nothing_accepted_is_lost(tmp_path: Path) -> None:
    """Three SIGKILLs under load lose nothing, repeat at most what was in flight, byte for byte, and leave a whole file."""
    async with Daemon(tmp_path, concurrency=CONCURRENCY) as daemon, endpoint(daemon, delay=0.02) as arrivals:
        producers = Producers(daemon, pad=500)
        async with producers.running():
            for _ in range(3):
                await producers.until(400)
                await daemon.kill()
                arrivals.divide()
                await daemon.start()
            await producers.until(400)
        await arrivals.until(producers.accepted)
        assert 0 == (await daemon.stop())[0]

    repeats = arrivals.repeats()
    print(f"accepted {len(producers.accepted)}, repeats after each kill {repeats[1:]}")  # noqa: T201  # shown with -s
    assert producers.accepted <= arrivals.bodies.keys()
    assert 0 == repeats[0]
    assert all(count <= CONCURRENCY for count in repeats)
    assert {1} == {len(bodies) for bodies in arrivals.bodies.values()}
    with closing(sqlite3.connect(daemon.data / "hooks.db")) as db:
        assert [("ok",)] == db.execute("PRAGMA integrity_check").fetchall()
        assert [] == db.execute("PRAGMA foreign_key_check").fetchall()
        stored = {id_ for (id_,) in db.execute("SELECT id FROM events")}
        assert [("delivered", len(stored))] == db.execute("SELECT state, count(*) FROM deliveries GROUP BY state").fetchall()
    assert producers.accepted <= stored == arrivals.bodies.keys()


async def test_pause_of_a_breaker_outlives_a_kill(tmp_path: Path) -> None:
    """An endpoint whose breaker is open is left in peace by the next start, too, until the pause is over."""
    at: list[int] = []
    failed, again = asyncio.Event(), asyncio.Event()

    def answer(request: Received) -> Reply:
        at.append(request.at)
        if len(at) == 10:
            failed.set()
        if len(at) > 10:
            again.set()
        return Reply(status=200 if len(at) > 10 else 500)

    async with Daemon(tmp_path) as daemon, Receiver(answer) as receiver:
        id_ = await daemon.subscribe(receiver.url, retry_schedule=["1ms"] * 20)
        await daemon.ask("POST", "/v1/events", {"type": "order.created", "data": 1})
        async with asyncio.timeout(PATIENCE):
            await failed.wait()
            while (await daemon.ask("GET", f"/v1/subscriptions/{id_}"))["consecutive_failures"] < 10:
                pass
        await daemon.kill()
        await daemon.start()
        started = Clock().now()
        async with asyncio.timeout(PATIENCE):
            await again.wait()

    assert started < at[10]
    assert at[10] - at[9] >= 5_000
