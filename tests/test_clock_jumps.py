"""Clocks that jump while an engine runs and between its starts."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from engines import Gate, Journal, rows, running
from msgspec import UNSET
from patience import PATIENCE
from storage import DAY, HOUR

from hookengine.clock import Clock
from hookengine.engine import Engine
from hookengine.receiver import Receiver, Reply

if TYPE_CHECKING:
    from pathlib import Path


class ShiftedClock(Clock):
    """The wall clock, as far off as a test has set it; for all engines of a test."""

    shift = 0  # ms

    def now(self) -> int:
        """The time, shifted."""
        return super().now() + self.shift


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> type[ShiftedClock]:
    """What the engines of the test go by."""
    monkeypatch.setattr(ShiftedClock, "shift", 0)
    monkeypatch.setattr(Engine, "_make_clock", ShiftedClock)
    return ShiftedClock


async def noticed(engine: Engine) -> None:
    """Let the loop look at the clock now, and not after the seconds that it may sleep."""
    engine._running.dispatcher._wake.set()
    await asyncio.sleep(0)


async def deliver(engine: Engine, count: int = 1, **members: Any) -> list[str]:
    """Publish *count* events; the states of their deliveries, once they are final."""
    events = [await engine.publish("a", {"n": n}, **members) for n in range(count)]
    return [each.state for event in events for each in await engine.wait(event.id, PATIENCE)]


@pytest.mark.parametrize("shift", [-DAY, -10 * 365 * DAY, DAY], ids=["a day back", "ten years back", "a day forward"])
@pytest.mark.parametrize("restart", [False, True], ids=["running", "at the start"])
@pytest.mark.row("F18", "F19")
async def test_retries_wait_no_longer(tmp_path: Path, clock: type[ShiftedClock], *, shift: int, restart: bool) -> None:
    """A retry that was to come in moments comes in moments, wherever the clock is set; new events are delivered too."""
    journal = Journal()
    async with Receiver([500, 200]) as receiver:
        async with running(tmp_path, journal) as engine:
            await engine.subscribe(receiver.url, retry_schedule=["1s"])
            event = await engine.publish("a", {"n": 0})
            await journal.until("attempt_failed")
            if not restart:
                clock.shift = shift
                await noticed(engine)
                [delivery] = await engine.wait(event.id, PATIENCE)
                assert ["delivered"] == await deliver(engine)
        if restart:
            clock.shift = shift
            async with running(tmp_path, journal) as engine:
                [delivery] = await engine.wait(event.id, PATIENCE)
                assert ["delivered"] == await deliver(engine)

    assert ("delivered", 2) == (delivery.state, delivery.attempt_count)
    assert 3 == len(receiver.requests)
    if shift < 0:  # it has its wait all the same: no storm
        assert receiver.requests[1].at - receiver.requests[0].at >= 900


@pytest.mark.row("F19")
async def test_fresh_events_do_not_wait_for_lost_time(tmp_path: Path, clock: type[ShiftedClock]) -> None:
    """What a clock that was ahead accepted goes on when that is set right, in batches and lines too."""
    gate = Gate()
    async with Receiver(gate) as receiver, Receiver() as other, running(tmp_path, concurrency=1) as engine:
        clock.shift = DAY
        await noticed(engine)
        await engine.subscribe(receiver.url)
        await engine.subscribe(receiver.url, ordering="fifo")
        await engine.subscribe(other.url, profile="clevertap", batch={"max_events": 2, "max_wait": "1s"})
        events = [await engine.publish("a", {"n": n}) for n in range(4)]
        await gate.arrived()
        clock.shift = 0
        await noticed(engine)
        gate.open()
        states = [each.state for event in events for each in await engine.wait(event.id, PATIENCE)]

    assert ["delivered"] * 12 == states


async def test_what_is_past_the_retention(tmp_path: Path, clock: type[ShiftedClock]) -> None:
    """A delivery that is not there, as the subscription is now, is past the retention only if the event is older than that."""
    async with running(tmp_path) as engine:
        made = await engine.subscribe("http://127.0.0.1:8099/", event_types=["user.*"])
        clock.shift = HOUR
        await noticed(engine)
        event = await engine.publish("order.created", {})
        clock.shift = 0
        await noticed(engine)
        await engine.update_subscription(made.id, event_types=["*"])
        [within] = (await engine.explain(event.id)).subscriptions
        clock.shift = 31 * DAY
        [older] = (await engine.explain(event.id)).subscriptions

    assert within.reason.endswith("or the clock was set back meanwhile.")
    assert "Its delivery is past the retention." == older.reason


async def test_chosen_times_stay(tmp_path: Path, clock: type[ShiftedClock]) -> None:
    """A `deliver_at` is a time of the calendar: it is not moved with the clock."""
    async with Receiver() as receiver, running(tmp_path) as engine:
        await engine.subscribe(receiver.url)
        event = await engine.publish("a", {}, deliver_at=datetime.now(UTC) + timedelta(hours=1))
        [before] = rows(tmp_path, "SELECT due_at FROM deliveries")
        clock.shift = -DAY
        await noticed(engine)
        assert ["delivered"] == await deliver(engine)

        assert [before] == rows(tmp_path, "SELECT due_at FROM deliveries ORDER BY seq LIMIT 1")
        assert "pending" == (await engine.deliveries(event=event.id)).data[0].state


@pytest.mark.row("F19")
async def test_paces_and_breakers_do_not_wait_for_lost_time(tmp_path: Path, clock: type[ShiftedClock]) -> None:
    """A rate limit holds for one interval and a breaker for its pause, counted from the clock as it is now."""
    async with Receiver() as receiver:
        async with running(tmp_path) as engine:
            await engine.subscribe(receiver.url, rate_limit="10/s")
            assert ["delivered"] * 3 == await deliver(engine, 3)
            clock.shift = -DAY
            await noticed(engine)
            assert ["delivered"] * 3 == await deliver(engine, 3)
        clock.shift = -2 * DAY
        async with running(tmp_path) as engine:
            assert ["delivered"] * 3 == await deliver(engine, 3)


@pytest.mark.parametrize("restart", [False, True], ids=["running", "at the start"])
@pytest.mark.row("F19")
async def test_enabled_before_the_clock_went_back(tmp_path: Path, clock: type[ShiftedClock], *, restart: bool) -> None:
    """Who was enabled by a clock that was ahead earns its slots as ever."""
    gate = Gate()
    async with Receiver([204, 204, gate]) as receiver:
        async with running(tmp_path) as engine:
            made = await engine.subscribe(receiver.url, max_concurrency=4)
            assert ["delivered"] == await deliver(engine)
            clock.shift = DAY
            await noticed(engine)
            await engine.disable(made.id)
            await engine.enable(made.id)
            clock.shift = 0
            if not restart:
                await noticed(engine)
                await together(engine, gate)
        if restart:
            async with running(tmp_path) as engine:
                await together(engine, gate)


async def together(engine: Engine, gate: Gate) -> None:
    """One delivery that earns trust, and then two that go at once."""
    assert ["delivered"] == await deliver(engine)
    events = [await engine.publish("a", {"n": n}) for n in range(2)]
    await gate.arrived(2)
    gate.open()
    for event in events:
        await engine.wait(event.id, PATIENCE)


@pytest.mark.row("F19")
async def test_failure_that_outlasts_the_step_lies_not_ahead(tmp_path: Path, clock: type[ShiftedClock]) -> None:
    """An attempt under way when the clock is set back ends by the new time, or its endpoint would be kept back for long."""
    gate = Gate()
    async with Receiver(gate) as receiver, running(tmp_path) as engine:
        made = await engine.subscribe(receiver.url, retry_schedule=[])
        event = await engine.publish("a", {"n": 0})
        await gate.arrived()
        clock.shift = -DAY
        await noticed(engine)
        gate.open(500)
        [delivery] = await engine.wait(event.id, PATIENCE)
        failed_at = (await engine.subscription(made.id)).last_failure_at
        attempts = (await engine.delivery(delivery.id)).attempts

    day_ago = datetime.now(UTC) - timedelta(days=1)
    assert failed_at is not None
    assert failed_at <= day_ago
    assert attempts is not UNSET
    assert [True] == [attempt.at <= day_ago for attempt in attempts]


@pytest.mark.row("F18")
async def test_jump_forward_ends_no_run(tmp_path: Path, clock: type[ShiftedClock]) -> None:
    """Two failures with a jump of the clock between them, as at a boot without a clock of its own, disable nobody."""
    clock.shift = -40 * 365 * DAY
    async with Receiver([500, 500, 204]) as receiver, running(tmp_path) as engine:
        made = await engine.subscribe(receiver.url, retry_schedule=[])
        assert ["failed"] == await deliver(engine)
        clock.shift = 0
        await noticed(engine)
        assert ["failed", "delivered"] == await deliver(engine, 2)

        assert "active" == (await engine.subscription(made.id)).state


@pytest.mark.row("F18")
async def test_jump_forward_is_no_storm(tmp_path: Path, clock: type[ShiftedClock]) -> None:
    """When all retries are due at once the caps hold, and none is lost."""
    gate = Gate()
    async with Receiver([Reply(status=500)] * 8 + [gate]) as receiver, running(tmp_path) as engine:
        await engine.subscribe(receiver.url, retry_schedule=["1d"], max_concurrency=4)
        events = [await engine.publish("a", {"n": n}) for n in range(8)]
        async with asyncio.timeout(PATIENCE):
            while len(rows(tmp_path, "SELECT 1 FROM attempts")) < 8:
                await engine.events(limit=1)
        clock.shift = 2 * DAY
        await noticed(engine)
        await gate.arrived()
        gate.open()
        states = [each.state for event in events for each in await engine.wait(event.id, PATIENCE)]

    assert ["delivered"] * 8 == states
    assert gate.most <= 4


@pytest.mark.row("F21")
async def test_time_zone_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are UTC wherever the machine is and whatever its clocks on the wall do: retries wait no longer."""
    shown = []
    try:
        for zone in ("America/St_Johns", "Pacific/Kiritimati", "right/Europe/Berlin"):
            monkeypatch.setenv("TZ", zone)
            time.tzset()
            async with Receiver([500, 200]) as receiver, running(tmp_path) as engine:
                made = await engine.subscribe(receiver.url, retry_schedule=["5ms"])
                event = await engine.publish("order.created", {}, occurred_at="2026-10-25T00:30:00Z")
                [delivery] = await engine.wait(event.id, PATIENCE)
                shown.append(((await engine.event(event.id)).occurred_at, delivery.state))
                assert abs(event.accepted_at.timestamp() - time.time()) < PATIENCE
                await engine.unsubscribe(made.id)
    finally:
        monkeypatch.undo()
        time.tzset()

    assert 3 * [(datetime(2026, 10, 25, 0, 30, tzinfo=UTC), "delivered")] == shown


@pytest.mark.row("F20")
async def test_clock_at_the_epoch(tmp_path: Path, clock: type[ShiftedClock]) -> None:
    """A machine without a clock, at 1970, starts, accepts and delivers, and goes on when the clock is set."""
    clock.shift = -Clock().now() + 1_000
    async with Receiver() as receiver, running(tmp_path) as engine:
        await engine.subscribe(receiver.url)
        assert ["delivered"] * 3 == await deliver(engine, 3)
        clock.shift = 0
        await noticed(engine)
        assert ["delivered"] * 3 == await deliver(engine, 3)

    ids = [id_ for (id_,) in rows(tmp_path, "SELECT id FROM events ORDER BY seq")]
    assert sorted(ids) == ids
