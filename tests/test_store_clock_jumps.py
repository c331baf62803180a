"""What the clock's jumps mean for what is stored, and what of the paces outlives a stop."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace
from storage import (
    DAY,
    HOUR,
    MINUTE,
    NO_ANSWER,
    NOW,
    RULES,
    draft,
    opened,
    result,
)

from hookengine.store import clock_jumps

if TYPE_CHECKING:
    from pathlib import Path


async def test_paces_are_taken_once(tmp_path: Path) -> None:
    """What a clean stop has kept of paces holds for the next start only: after an unclean one nobody knows them."""
    async with opened(tmp_path) as place:
        await place.store.writer.change(clock_jumps.keep_paces({1: NOW + 0.5, 7: NOW}))
    async with opened(tmp_path) as place:
        assert {1: NOW + 0.5, 7: NOW} == await place.store.writer.change(clock_jumps.take_paces)
    async with opened(tmp_path) as place:
        assert {} == await place.store.writer.change(clock_jumps.take_paces)


@pytest.mark.parametrize("steps", [[-DAY], [-DAY, -DAY], [-HOUR, -10_000], [-DAY, 0, 0], [-DAY, -DAY, -DAY]], ids=str)
@pytest.mark.parametrize("pause", [MINUTE, 2 * DAY], ids=["a minute", "two days"])
async def test_clock_that_goes_back_again(tmp_path: Path, steps: list[int], pause: int) -> None:
    """However often a clock is set back, what is due is due, and a retry keeps the wait that it has."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        waits, retried = await place.deliver(draft(), draft())
        [recorded] = await place.record(result(retried, NO_ANSWER, rules=replace(RULES, retry_schedule=(pause,))))
        wait = recorded.delivery.due_at - NOW
        assert wait >= pause
        for step in steps:
            place.clock.time += step
            await place.store.writer.change(clock_jumps.turn_back)

        now = place.clock.time
        assert now < NOW
        assert [(waits.id, now), (retried.id, now + wait)] == place.rows("SELECT id, due_at FROM deliveries ORDER BY seq")
        place.clock.time += wait - 1
        await place.store.writer.change(clock_jumps.turn_back)  # as the next start does, however far the clock has come
        assert [(now + wait,)] == place.rows("SELECT due_at FROM deliveries WHERE seq = ?", retried.seq)
