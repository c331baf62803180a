"""What SIGKILLs do to order and pace."""

from __future__ import annotations

import json
import random
from itertools import pairwise
from typing import TYPE_CHECKING

from daemon import Daemon
from load import Producers

from hookengine.receiver import Received, Receiver, Reply

if TYPE_CHECKING:
    from pathlib import Path


async def test_order_outlives_kills(tmp_path: Path) -> None:
    """Three SIGKILLs and failures at random: nothing is lost, and what arrives first is what was accepted first."""
    rng = random.Random(1)
    first_arrivals: list[str] = []

    def answer(request: Received) -> Reply:
        if rng.random() < 0.3:
            return Reply(status=500)
        id_ = json.loads(request.body)["data"]["id"]
        if id_ not in first_arrivals[-200:]:  # a kill repeats what was in flight
            first_arrivals.append(id_)
        return Reply()

    async with Daemon(tmp_path) as daemon, Receiver(answer) as receiver:
        id_ = await daemon.subscribe(receiver.url, ordering="fifo", retry_schedule=["5ms"] * 50)
        producers = Producers(daemon)
        async with producers.running(4):
            for _ in range(3):
                await producers.until(100)
                await daemon.kill()
                await daemon.start()
            await producers.until(100)
        while (await daemon.ask("GET", f"/v1/subscriptions/{id_}/stats"))["deliveries"]["pending"]:
            pass
        accepted = [event["id"] for event in await all_of(daemon, "/v1/events")]
        assert 0 == (await daemon.stop())[0]

    assert producers.accepted <= set(accepted)
    assert accepted[::-1] == first_arrivals


async def test_limit_outlives_a_kill(tmp_path: Path) -> None:
    """After a SIGKILL nobody knows when the last request went: the next one goes one interval after the start."""
    async with Daemon(tmp_path) as daemon, Receiver() as receiver:
        await daemon.subscribe(receiver.url, rate_limit="2/s")
        await daemon.ask("POST", "/v1/events/batch", [{"type": "a", "data": n} for n in range(5)])
        await receiver.wait(2)
        await daemon.kill()
        await daemon.start()
        at = [request.at for request in await receiver.wait(4)]

    on_the_way = 100  # ms by which two may come nearer to each other
    assert all(later - earlier >= 500 - on_the_way for earlier, later in pairwise(at))


async def all_of(daemon: Daemon, path: str) -> list[dict[str, str]]:
    """Every element of a list, newest first."""
    found, cursor = [], ""
    while True:
        page = await daemon.ask("GET", f"{path}?limit=250{cursor}")
        found += page["data"]
        if page["next_cursor"] is None:
            return found
        cursor = f"&cursor={page['next_cursor']}"
