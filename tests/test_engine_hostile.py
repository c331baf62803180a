"""Hostile receivers as the engine meets them: one delivery each, beside a healthy endpoint, and what that costs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from c_parser import needs_c_parser
from engines import PATIENCE, Journal, engine, only
from hostile_rows import FLOODS, REDIRECT, ROWS, STATUS, all_receivers
from measures import Gaps, Memory, open_files
from msgspec import Struct

from hookengine.sender import REFUSALS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hostile_rows import Row

    from hookengine import views
    from hookengine.engine import Engine

pytestmark = [needs_c_parser, pytest.mark.asyncio(loop_scope="module")]

EVERY = [pytest.param(row, id=row.id) for row in (*ROWS, *FLOODS)]
LARGEST = 1 << 20  # bytes that a body may have over HTTP


class World(Struct):
    """An engine with one healthy endpoint, and all hostile ones in another process."""

    engine: Engine
    urls: dict[str, str]
    idle: int = 0  # descriptors that are open when nothing is under way

    async def healthy(self) -> None:
        """One event for the healthy endpoint, delivered at once."""
        event = await self.engine.publish("healthy", 1)
        [delivery] = await self.engine.wait(event.id, timeout=PATIENCE)
        assert ("delivered", 1) == (delivery.state, delivery.attempt_count)

    def files(self) -> int:
        """How many descriptors are open, but for the connections that are kept for the next request."""
        return open_files() - sum(map(len, self.engine._running.dispatcher._sender._pool._conns.values()))

    async def settled(self) -> None:
        """Return when all descriptors that attempts had are given back, within a second."""
        async with asyncio.timeout(1):
            while self.files() > self.idle:
                await self.engine.events(limit=1)

    async def held(self, row: Row, body: str = "") -> tuple[str, str]:
        """The ids of a subscription to the receiver of *row*, disabled, and of an event that is held for it."""
        made = await self.engine.subscribe(
            self.urls[row.id],
            event_types=["hostile"],
            timeout=f"{row.timeout}ms",
            retry_schedule=["1h"],
            state="disabled",
        )
        return made.id, (await self.engine.publish("hostile", body, subscriptions=[made.id])).id

    async def attempted(self, subscription: str, event: str) -> views.Delivery:
        """The delivery, enabled and once attempted; until then the healthy endpoint gets its own."""
        await self.engine.enable(subscription)
        async with asyncio.timeout(PATIENCE):
            while not (delivery := await only(self.engine, event=event)).attempt_count:
                await self.healthy()
        return delivery


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """One for all rows: whatever a row leaves behind would be found by the next."""
    with all_receivers() as urls:
        made = engine(tmp_path_factory.mktemp("hostile"), Journal())
        await made.start()
        try:
            await made.subscribe(urls["healthy"], event_types=["healthy"])
            found = World(made, urls)
            for _ in range(20):
                await found.healthy()
            # What the first large body costs, it costs with any receiver.
            large = await made.publish("healthy", "x" * (LARGEST - 100))
            await made.wait(large.id, timeout=PATIENCE)
            found.idle = found.files()
            yield found
        finally:
            await made.stop(drain=0)


@pytest.mark.parametrize("row", EVERY)
async def test_hostile_receiver(world: World, row: Row) -> None:
    """A receiver's misbehaviour is one recorded attempt with its name, and costs little time, memory and no descriptor."""
    subscription, event = await world.held(row, "x" * min(row.size, LARGEST - 100))
    gaps, memory = Gaps(), Memory()
    delivery: Any = await world.attempted(subscription, event)
    gap, grown = gaps.stop(), memory.grown()
    await world.engine.unsubscribe(subscription)

    kind = "accepted" if row.code is None else "refused" if row.code in REFUSALS else "unreachable"
    state = "delivered" if row.code is None else "pending"
    [attempt] = delivery.attempts
    assert (state, 1, 1) == (delivery.state, delivery.attempt_count, attempt.number)
    assert (kind, row.code) == (attempt.outcome, attempt.error and attempt.error.code)
    assert (attempt.response is None) == (row.code is not None and row.code not in {STATUS, REDIRECT})
    assert attempt.duration_ms < row.timeout + 1000
    assert gap <= 0.1
    assert grown <= 5
    await world.settled()


@pytest.mark.parametrize("row", [pytest.param(row, id=row.id) for row in FLOODS])
async def test_twenty_floods(world: World, row: Row) -> None:
    """Twenty that flood at once leave the loop to others, stay within a little memory, and give everything back."""
    twenty = [await world.held(row) for _ in range(20)]
    gaps, memory = Gaps(), Memory()
    await asyncio.gather(*(world.attempted(*each) for each in twenty))
    gap, grown = gaps.stop(), memory.grown()
    for subscription, _ in twenty:
        await world.engine.unsubscribe(subscription)

    assert gap <= 0.25
    assert grown <= 5
    await world.settled()
