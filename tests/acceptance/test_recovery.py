"""An endpoint that was down and has a backlog: one probe, then a ramp."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import pytest
from engines import edit, running
from patience import PATIENCE

from hookengine.bench.backlog import HOUR, fill
from hookengine.clock import Clock
from hookengine.engine import DATABASE
from hookengine.receiver import Receiver, Reply

if TYPE_CHECKING:
    from pathlib import Path

    from hookengine.receiver import Received

WAITING = int(os.environ.get("RECOVERING", "2000"))
MOST = 32


class Recovered:
    """
    An endpoint that is well again; the receiver calls it for a request and `leave` for its answer.

    Whatever is here at a time beyond 1 and those that were answered before is an `excess`; `most` is the most at a time.
    """

    def __init__(self) -> None:
        self.excess = 0
        self.most = 0
        self.answered = 0
        self.alone = 0  # requests until a second one came beside another
        self._here = 0

    async def arrive(self, _: Received) -> Reply:
        """A step of a script."""
        self._here += 1
        self.most = max(self.most, self._here)
        self.excess = max(self.excess, self._here - 1 - self.answered)
        if self.most == 1:
            self.alone += 1
            return Reply(delay=0.2)  # so that a second one, which has to dial first, comes while this one is here
        return Reply(delay=0.005)

    def leave(self, _: Received, __: Reply) -> None:
        """An answer goes out."""
        self._here -= 1
        self.answered += 1


async def down(folder: Path, url: str, *, state: str, last: int | None = None) -> str:
    """A subscription whose endpoint was well and then down for an hour, with deliveries in *state*; its id."""
    async with running(folder) as engine:
        made = await engine.subscribe(url, max_concurrency=MOST)
    now = Clock().now()
    fill(folder / DATABASE, made.id, WAITING, due_at=now - HOUR, accepted_at=now - HOUR)
    final = "" if state == "pending" else f", finished_at = {now - HOUR}, failed_label = 'exhausted'"
    await edit(
        folder,
        f"UPDATE deliveries SET state = '{state}', attempt_count = 1, step = 1 {final};"
        f"UPDATE health SET consecutive_failures = 40, last_success_at = {now - HOUR},"
        f" last_failure_at = {now if last is None else last}, failing_since = {now - HOUR}",
    )
    return made.id


async def all_arrive(receiver: Receiver, endpoint: Recovered) -> None:
    """Wait for everything, and hold the endpoint's load against the ramp."""
    async with asyncio.timeout(PATIENCE + WAITING / 200):
        await receiver.wait(WAITING, PATIENCE + WAITING / 200)
    print(f"{endpoint.alone} alone, {endpoint.most} at a time at most")  # noqa: T201  # shown with -s
    assert 0 == endpoint.excess
    assert 1 <= endpoint.alone <= 3
    assert MOST // 2 < endpoint.most <= MOST


async def test_breaker_lets_a_probe_through_and_then_a_ramp(tmp_path: Path) -> None:
    """When the pause of the breaker is over one request goes; with each success one more may be there at a time."""
    endpoint = Recovered()
    async with Receiver(endpoint.arrive, on_request=endpoint.leave) as receiver:
        await down(tmp_path, receiver.url, state="pending", last=Clock().now() - HOUR // 12 + 500)
        async with running(tmp_path):
            await all_arrive(receiver, endpoint)


@pytest.mark.parametrize("state", ["pending", "failed"])
async def test_enabled_and_replayed_begin_with_one(tmp_path: Path, state: str) -> None:
    """After an enabling what was held goes the same way, and what is replayed to an endpoint that was failing too."""
    endpoint = Recovered()
    async with Receiver(endpoint.arrive, on_request=endpoint.leave) as receiver:
        id_ = await down(tmp_path, receiver.url, state=state)
        await edit(tmp_path, "UPDATE subscriptions SET state = 'disabled', disabled_reason = 'failures'")
        async with running(tmp_path) as engine:
            await engine.enable(id_)
            if state == "failed":
                filters: dict[str, Any] = {"states": ["failed"]}
                await engine.replay(id_, **filters)
            await all_arrive(receiver, endpoint)
