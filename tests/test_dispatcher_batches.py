"""Batches in a real engine: several events in one request, with one outcome, and always the same."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from engines import Gate, Journal, blocked_reader, only, rows, running
from patience import PATIENCE
from storage import write

from hookengine.models import Rank, Standing
from hookengine.receiver import Received, Receiver
from hookengine.store import changes

if TYPE_CHECKING:
    from pathlib import Path

    from hookengine import views
    from hookengine.engine import Engine

SOON = ["5ms"] * 3
LATER = ["1h", "2h"]
FULL = {"max_events": 3, "max_wait": "1h"}  # goes when it is full, and only then


async def subscribe(engine: Engine, receiver: Receiver, **settings: Any) -> views.Subscription:
    """One that gets several events a request; its save-time test is forgotten."""
    made = await engine.subscribe(receiver.url, **({"profile": "clevertap", "batch": FULL} | settings))
    receiver.requests.clear()
    return made


async def publish(engine: Engine, count: int, **fields: Any) -> list[views.Event]:
    """Events that are told apart by `n`."""
    before = len((await engine.events(limit=250)).data)
    return await engine.publish_batch([{"type": "campaign.sent", "data": {"n": before + n}} | fields for n in range(count)])


async def ends(engine: Engine, events: list[views.Event]) -> list[views.Delivery]:
    """The one delivery of each, once it has ended."""
    return [(await engine.wait(event.id, PATIENCE))[0] for event in events]


def profiles(requests: list[Received]) -> list[list[int]]:
    """The `n` of the events of each request."""
    return [[each["n"] for each in json.loads(request.body)["profiles"]] for request in requests]


async def test_full_batch_goes_at_once(running_engine: Engine) -> None:
    """Two times three events are two requests, of one subscription each, in the order of acceptance; the rest waits."""
    async with Receiver() as receiver, Receiver() as other:
        await subscribe(running_engine, receiver)
        await subscribe(running_engine, other, event_types=["other"])
        events = await publish(running_engine, 7)
        done = await ends(running_engine, events[:6])

    assert [[0, 1, 2], [3, 4, 5]] == sorted(profiles(receiver.requests))
    assert {("delivered", 1)} == {(each.state, each.attempt_count) for each in done}
    assert [] == other.requests
    assert "pending" == (await only(running_engine, event=events[6].id)).state


async def test_high_batch_overtakes_those_that_wait(running_engine: Engine) -> None:
    """Batches of lower priority that are made and wait for a slot are overtaken by one that is made later."""
    gate = Gate()
    async with Receiver([200, gate]) as receiver:
        await subscribe(running_engine, receiver, max_concurrency=1)
        await publish(running_engine, 9, priority="low")
        await gate.arrived()
        high = await publish(running_engine, 3, priority="high")
        async with asyncio.timeout(PATIENCE):
            while None in {each.next_attempt_at for each in (await running_engine.deliveries(limit=3)).data}:
                pass  # they are not in a batch yet
        gate.answer()
        await gate.arrived()
        gate.open()
        await ends(running_engine, high)

    assert [[0, 1, 2], [9, 10, 11]] == profiles(receiver.requests)[:2]


async def test_no_priority_waits_for_ever(running_engine: Engine) -> None:
    """Of what a flow of `high` overtakes one batch goes after a hundred, and the next priority's after that."""
    async with Receiver() as receiver:
        await subscribe(running_engine, receiver, batch={"max_events": 2, "max_wait": "1h"}, max_concurrency=1)
        high = [{"type": "campaign.sent", "data": {"n": n}, "priority": "high"} for n in range(300)]
        later = [{"type": "campaign.sent", "data": {"n": -1}, "priority": each} for each in ["normal", "low"] * 2]
        await ends(running_engine, await running_engine.publish_batch([*high, *later]))

    late = [each for each, batch in enumerate(profiles(receiver.requests)) if batch == [-1, -1]]
    assert (152, 2) == (len(receiver.requests), len(late))
    assert max(late) < 110  # a hundred, and the few that went before both were made


async def test_first_event_waits_no_longer_than_max_wait(running_engine: Engine) -> None:
    """A batch that is not full goes when its first event has waited for `max_wait`, and not earlier."""
    async with Receiver() as receiver:
        await subscribe(running_engine, receiver, batch={"max_events": 100, "max_wait": "150ms"})
        [first] = await publish(running_engine, 1)
        events = [first, *await publish(running_engine, 2)]
        await ends(running_engine, events)

    [request] = receiver.requests
    assert [[0, 1, 2]] == profiles([request])
    assert 150 <= request.at - round(first.accepted_at.timestamp() * 1000) < 1_000


async def test_event_that_is_no_batch_goes_by_itself(running_engine: Engine) -> None:
    """GET and `max_events` 1 send each event in a request of its own, without waiting."""
    async with Receiver() as receiver:
        await subscribe(running_engine, receiver, batch={"max_events": 1})
        await ends(running_engine, await publish(running_engine, 3))
        assert [[0], [1], [2]] == sorted(profiles(receiver.requests))
        receiver.requests.clear()
        [made] = (await running_engine.subscriptions()).data
        await running_engine.update_subscription(made.id, method="GET", batch=FULL)
        receiver.requests.clear()
        await ends(running_engine, await publish(running_engine, 2))

    assert ["GET", "GET"] == [request.method for request in receiver.requests]


async def test_failed_batch_is_retried_as_it_was(running_engine: Engine) -> None:
    """Each retry has the same events and the same bytes, whatever was accepted meanwhile; all share its end."""
    async with Receiver([200, 500, 503, 200]) as receiver:
        await subscribe(running_engine, receiver, retry_schedule=["20ms", "40ms"])
        events = await publish(running_engine, 3)
        await publish(running_engine, 2)
        done = await ends(running_engine, events)
        shown = [(await running_engine.delivery(each.id)).attempts or [] for each in done]
        stats = await running_engine.stats((await running_engine.subscriptions()).data[0].id)

    assert 3 == len(receiver.requests)
    assert 1 == len({request.body for request in receiver.requests})
    assert [("delivered", 3)] * 3 == [(each.state, each.attempt_count) for each in done]
    for attempts in shown:
        assert [(1, 500), (2, 503), (3, 200)] == [(each.number, each.status_code) for each in attempts]
        assert {receiver.requests[0].body.decode()} == {each.request.body for each in attempts if each.request is not None}
    assert (3, {"200": 1, "500": 1, "503": 1}) == (stats.attempts.total, stats.attempts.status_codes)
    assert (3, 0) == (stats.deliveries.delivered, stats.consecutive_failures)


async def test_batch_is_one_attempt_for_health(running_engine: Engine, journal: Journal) -> None:
    """A failed request of three events counts as one failure, and holds one slot."""
    gate = Gate()
    async with Receiver([200, gate]) as receiver:
        made = await subscribe(running_engine, receiver, retry_schedule=LATER)
        await publish(running_engine, 3)
        await gate.arrived()
        assert 1 == running_engine._running.dispatcher.in_flight
        gate.open(500)
        await journal.until("attempt_failed", 3)
        after = await running_engine.subscription(made.id)

    assert 1 == after.consecutive_failures
    assert 0 == running_engine._running.dispatcher.in_flight


async def test_given_up_together(running_engine: Engine) -> None:
    """A batch whose schedule is over fails whole, under the profile's label, each event counted."""
    async with Receiver([200, 500]) as receiver:
        made = await subscribe(running_engine, receiver, retry_schedule=[])
        done = await ends(running_engine, await publish(running_engine, 3))
        stats = await running_engine.stats(made.id)

    assert [("failed", "Webhook Dispatch Failed")] * 3 == [(each.state, each.failed_label) for each in done]
    assert {"Webhook Dispatch Failed": 3} == stats.deliveries.failed_labels
    assert 1 == stats.attempts.total


@pytest.mark.parametrize("leaver", [0, 1])
async def test_cancelled_one_is_left_out_of_the_retry(running_engine: Engine, journal: Journal, leaver: int) -> None:
    """Whoever is cancelled between two requests is not in the second; the others are, in their order."""
    async with Receiver([200, 500, 200]) as receiver:
        await subscribe(running_engine, receiver, retry_schedule=LATER)
        events = await publish(running_engine, 3)
        await journal.until("attempt_failed", 3)
        deliveries = [await only(running_engine, event=event.id) for event in events]
        await running_engine.cancel(deliveries[leaver].id)
        rest = [events[n] for n in range(3) if n != leaver]
        await running_engine.disable((await running_engine.subscriptions()).data[0].id)
        await running_engine.enable((await running_engine.subscriptions()).data[0].id)
        await ends(running_engine, rest)

    assert [[0, 1, 2], [n for n in range(3) if n != leaver]] == profiles(receiver.requests)


@pytest.mark.parametrize("chosen", [0, 2])
async def test_retried_one_goes_by_itself(running_engine: Engine, journal: Journal, chosen: int) -> None:
    """A retry by hand goes at once and alone; the rest of its batch keeps its time."""
    async with Receiver([200, 500, 200]) as receiver:
        await subscribe(running_engine, receiver, retry_schedule=LATER)
        events = await publish(running_engine, 3)
        await journal.until("attempt_failed", 3)
        delivery = await only(running_engine, event=events[chosen].id)
        await running_engine.retry(delivery.id)
        [done] = await running_engine.wait(events[chosen].id, PATIENCE)
        others = [await only(running_engine, event=event.id) for event in events if event is not events[chosen]]

    assert ("delivered", 2) == (done.state, done.attempt_count)
    assert [[0, 1, 2], [chosen]] == profiles(receiver.requests)
    assert [("pending", 1)] * 2 == [(each.state, each.attempt_count) for each in others]


@pytest.mark.parametrize("leaver", [0, 1])
@pytest.mark.parametrize("status", [200, 500])
async def test_changed_while_it_is_sent(running_engine: Engine, journal: Journal, status: int, leaver: int) -> None:
    """Who is cancelled while its batch is in flight stays cancelled, and the rest goes on without it."""
    gate = Gate()
    async with Receiver([200, gate, 200]) as receiver:
        made = await subscribe(running_engine, receiver, retry_schedule=["1h"])
        events = await publish(running_engine, 3)
        await gate.arrived()
        delivery = await only(running_engine, event=events[leaver].id)
        await running_engine.cancel(delivery.id)
        gate.answer(status)
        rest = [event for event in events if event is not events[leaver]]
        if status == 500:
            await journal.until("attempt_failed", 3)
            await running_engine.disable(made.id)
            await running_engine.enable(made.id)
        done = await ends(running_engine, rest)

    after = await only(running_engine, event=events[leaver].id)
    assert ("cancelled", 1) == (after.state, after.attempt_count)
    assert {"delivered"} == {each.state for each in done}
    without = [n for n in range(3) if n != leaver]
    assert ([[0, 1, 2]] if status == 200 else [[0, 1, 2], without]) == profiles(receiver.requests)


@pytest.mark.parametrize("chosen", [0, 2])
async def test_retried_while_it_is_sent(running_engine: Engine, chosen: int) -> None:
    """A retry by hand of one that is in flight in a batch goes by itself when that has failed."""
    gate = Gate()
    async with Receiver([200, gate, 200]) as receiver:
        await subscribe(running_engine, receiver, retry_schedule=LATER)
        events = await publish(running_engine, 3)
        await gate.arrived()
        await running_engine.retry((await only(running_engine, event=events[chosen].id)).id)
        gate.answer(500)
        [done] = await running_engine.wait(events[chosen].id, PATIENCE)

    assert ("delivered", 2) == (done.state, done.attempt_count)
    assert [[0, 1, 2], [chosen]] == profiles(receiver.requests)


@pytest.mark.parametrize("way", ["cancel", "retry"])
@pytest.mark.parametrize("leaver", [0, 1, 2])
async def test_changed_before_it_is_read(running_engine: Engine, way: str, leaver: int) -> None:
    """Between the taking of a batch and the reading of its deliveries one leaves: it is not sent with the others, nor lost."""
    async with Receiver() as receiver:
        await subscribe(running_engine, receiver)
        events = await publish(running_engine, 2)
        chosen = [await only(running_engine, event=event.id) for event in events]
        async with blocked_reader(running_engine):
            last = await running_engine.publish("campaign.sent", {"n": 2})
            async with asyncio.timeout(PATIENCE):
                while not running_engine._running.dispatcher.in_flight:
                    await running_engine.publish("nobody", 1, tenant="other")
            store = running_engine._running.store
            id_ = chosen[leaver].id if leaver < 2 else rows(store.path.parent, "SELECT max(id) FROM deliveries")[0][0]
            change = changes.cancel_delivery if way == "cancel" else changes.retry_delivery
            acting = asyncio.create_task(store.writer.change(change(id_, None)))
            async with asyncio.timeout(PATIENCE):
                while rows(store.path.parent, "SELECT count(*) FROM deliveries WHERE batch IS NOT NULL")[0][0] != (
                    3 if way == "cancel" else 2
                ) or (way == "cancel" and not rows(store.path.parent, "SELECT 1 FROM deliveries WHERE state = 'cancelled'")):
                    await running_engine.publish("nobody", 1, tenant="other")
        await acting
        done = await ends(running_engine, [*events, last])

    without = [n for n in range(3) if n != leaver]
    sent = sorted(profiles(receiver.requests), key=len)
    assert ([without] if way == "cancel" else [[leaver], without]) == sent
    assert "cancelled" == done[leaver].state if way == "cancel" else {"delivered"} == {each.state for each in done}


async def test_expired_one_is_left_out(running_engine: Engine, journal: Journal) -> None:
    """What could not be sent by its time fails as expired, and the others go without it."""
    gate = Gate()
    async with Receiver([200, gate, 200]) as receiver:
        await subscribe(running_engine, receiver, retry_schedule=["3s"])
        now = (await running_engine.publish("nobody", 1, tenant="other")).accepted_at.timestamp()
        brief = await publish(running_engine, 1, expires_at=_time(now + 2))
        lasting = await publish(running_engine, 2)
        await gate.arrived()
        gate.answer(500)
        [expired] = await ends(running_engine, brief)
        done = await ends(running_engine, lasting)

    assert ("failed", "expired", 1) == (expired.state, expired.failed_label, expired.attempt_count)
    assert [("delivered", 2)] * 2 == [(each.state, each.attempt_count) for each in done]
    first, second = receiver.requests
    assert [3, 2] == list(map(len, profiles([first, second])))
    assert second.at - first.at >= 600


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


async def test_disabled_subscription_gathers_meanwhile(running_engine: Engine) -> None:
    """What is held is not composed one by one: enabled again, full batches go."""
    async with Receiver() as receiver:
        made = await subscribe(running_engine, receiver, batch={"max_events": 3, "max_wait": "10ms"})
        await running_engine.disable(made.id)
        events = [event for _ in range(6) for event in await publish(running_engine, 1)]
        assert {"held"} == {(await only(running_engine, event=event.id)).state for event in events}
        await running_engine.enable(made.id)
        await ends(running_engine, events)

    assert [[0, 1, 2], [3, 4, 5]] == profiles(receiver.requests)


async def test_slow_endpoint_gets_larger_batches(running_engine: Engine) -> None:
    """While its slots are taken and its lane is full, events gather, so that one request takes what would have been ten."""
    gate = Gate()
    async with Receiver([200, gate]) as receiver:
        await subscribe(running_engine, receiver, batch={"max_events": 50, "max_wait": "0ms"}, max_concurrency=1)
        first = await publish(running_engine, 1)
        await gate.arrived()
        events = [event for _ in range(20) for event in await publish(running_engine, 1)]
        gate.open()
        await ends(running_engine, [*first, *events])

    sent = profiles(receiver.requests)
    assert [*range(21)] == [n for each in sent for n in each]
    assert 3 == len(sent)  # the first, one that stood in the lane, and all that gathered meanwhile


async def test_retries_do_not_hold_up_new_events(running_engine: Engine, journal: Journal) -> None:
    """However many batches wait for their retry, what comes then goes at once."""
    async with Receiver([200, 500, 200]) as receiver:
        await subscribe(running_engine, receiver, retry_schedule=LATER, max_concurrency=1)
        await publish(running_engine, 3)
        await journal.until("attempt_failed", 3)
        await ends(running_engine, await publish(running_engine, 3))

    assert [[0, 1, 2], [3, 4, 5]] == profiles(receiver.requests)


async def test_cancelled_batch_makes_room(running_engine: Engine, tmp_path: Path) -> None:
    """Events that gather because the lane is full make a batch when what filled it is cancelled, also if nothing may go."""
    async with Receiver() as receiver:
        await subscribe(running_engine, receiver, rate_limit="1/h", max_concurrency=1)
        await ends(running_engine, await publish(running_engine, 3))
        await publish(running_engine, 3)
        await composed(running_engine, 6)
        await publish(running_engine, 3)
        for (id_,) in rows(tmp_path, "SELECT id FROM deliveries WHERE batch = 4"):
            await running_engine.cancel(id_)
        await composed(running_engine, 9)

    assert [[0, 1, 2]] == profiles(receiver.requests)


async def composed(engine: Engine, count: int) -> None:
    """Return once *count* deliveries are in batches; the engine is kept at work until then."""
    async with asyncio.timeout(PATIENCE):
        while rows(engine.path.parent, "SELECT count(*) FROM deliveries WHERE batch IS NOT NULL") != [(count,)]:
            await engine.publish("nobody", 1, tenant="other")


async def test_changed_limits_hold_for_what_waits(running_engine: Engine) -> None:
    """Whoever turns batches off gets what waited for one, each event by itself."""
    async with Receiver() as receiver:
        made = await subscribe(running_engine, receiver)
        events = await publish(running_engine, 2)
        await running_engine.update_subscription(made.id, batch={"max_events": 1})
        await ends(running_engine, events)

    assert [[0], [1]] == sorted(profiles(receiver.requests))


@pytest.mark.parametrize(
    "change",
    [{"profile": "standard"}, {"method": "GET"}, {"batch": {"max_events": 1}}, {"ordering": "fifo"}],
    ids=lambda change: next(iter(change)),
)
async def test_batch_of_who_sends_none_any_more(running_engine: Engine, journal: Journal, change: Any) -> None:
    """A batch that waits for its retry goes one by one where its subscription has no batches by then, and counts go on."""
    async with Receiver([200, 500, 200]) as receiver:
        made = await subscribe(running_engine, receiver, retry_schedule=["1h", "1h"])
        events = await publish(running_engine, 3)
        await journal.until("attempt_failed", 3)
        change = {"batch": None} | change
        await running_engine.update_subscription(made.id, **change)
        receiver.requests.clear()
        await running_engine.disable(made.id)
        await running_engine.enable(made.id)
        done = await ends(running_engine, events)

    assert [("delivered", 2)] * 3 == [(each.state, each.attempt_count) for each in done]
    assert 3 == len(receiver.requests)


async def test_composition_outlives_a_restart(tmp_path: Path, journal: Journal) -> None:
    """A batch that was in flight when the engine was cut goes again with the same bytes, and what came later does not join."""
    gate = Gate()
    async with Receiver([200, gate, 200]) as receiver:
        async with running(tmp_path, journal) as first:
            await subscribe(first, receiver, retry_schedule=SOON)
            events = await publish(first, 3)
            await gate.arrived()
            late = await publish(first, 2)
        async with running(tmp_path, journal) as second:
            await ends(second, events)
            third = await second.publish("campaign.sent", {"n": 9})
            await ends(second, [*late, third])

    first_request, again, other = receiver.requests
    assert first_request.body == again.body
    assert [[0, 1, 2], [3, 4, 9]] == profiles([again, other])


@pytest.mark.parametrize("others", [1, 2])
async def test_poison_event_is_parked_and_the_rest_goes(tmp_path: Path, journal: Journal, others: int) -> None:
    """A delivery whose event is gone fails as an internal error; the others of its batch arrive, and earn what they do."""
    async with Receiver() as receiver:
        async with running(tmp_path, journal) as first:
            made = await subscribe(first, receiver, batch={"max_events": 1 + others, "max_wait": "1h"})
            await first.disable(made.id)
            events = await publish(first, 1 + others)
        write(tmp_path / "hooks.db", "PRAGMA foreign_keys = off; DELETE FROM events WHERE seq = 1;")
        async with running(tmp_path, journal) as second:
            await second.enable(made.id)
            await ends(second, events[1:])
            standing = second._running.dispatcher._scheduler.standing(1)
            states = rows(tmp_path, "SELECT state FROM deliveries ORDER BY seq")

    assert [[*range(1, 1 + others)]] == profiles(receiver.requests)
    assert [("failed",), *[("delivered",)] * others] == states
    assert Standing(width=2, rank=Rank.TRUSTED) == standing
