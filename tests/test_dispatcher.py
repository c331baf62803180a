"""The loop between scheduler, sender and store, in a real engine, with real endpoints."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import struct
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ServerDisconnectedError
from engines import (
    Gate,
    Journal,
    attempts_ended,
    blocked_reader,
    blocked_writer,
    edit,
    engine,
    in_flight,
    limit_pages,
    numbers,
    only,
    past,
    rows,
    running,
    taken,
)
from patience import PATIENCE
from storage import edit as edit_stored

from hookengine.clock import Clock
from hookengine.errors import DeliveryStateConflict, StorageUnavailable
from hookengine.models import (
    Secret,
    SigningSecret,
)
from hookengine.receiver import Received, Receiver, Reply

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hookengine.engine import Engine

SOON = ["5ms"] * 3  # a retry schedule
LATER = ["1h", "2h"]
IP_LOCAL_PORT_RANGE = 51  # ip(7), Linux 6.3; Python has no name for it


def seconds_until(moment: datetime | None) -> float:
    """How far *moment* lies ahead."""
    assert moment is not None
    return (moment - datetime.now(UTC)).total_seconds()


async def trust(engine: Engine, receiver: Receiver, count: int = 1) -> None:
    """Let subscriptions have their first success, so that they get more than one slot."""
    before = len(receiver.requests)
    event = await engine.publish("trust", {"n": 0})
    await engine.wait(event.id, PATIENCE)
    assert before + count == len(receiver.requests)


# An attempt and what follows from it


async def test_accepted_event_is_delivered(running_engine: Engine) -> None:
    """One signed request arrives, and the delivery reads as delivered, with the attempt."""
    async with Receiver() as receiver:
        made = await running_engine.subscribe(receiver.url + "/hook")
        receiver.secret = str(made.secret)
        event = await running_engine.publish("order.created", b'{"id":  1.10}')
        [delivery] = await running_engine.wait(event.id, PATIENCE)

    [request] = receiver.requests
    assert request.verified
    assert b'"data":{"id":  1.10}' in request.body
    assert ("delivered", 1, None) == (delivery.state, delivery.attempt_count, delivery.next_attempt_at)
    [attempt] = (await only(running_engine)).attempts or []
    assert (1, "accepted", 200, "auto") == (attempt.number, attempt.outcome, attempt.status_code, attempt.trigger)


async def test_failures_are_retried_on_schedule(running_engine: Engine) -> None:
    """Each retry comes after its step of the schedule, with the same id and body, a number and a signature of its own."""
    async with Receiver([500, 503, 200]) as receiver:
        made = await running_engine.subscribe(receiver.url, retry_schedule=["30ms", "60ms", "1h"])
        receiver.secret = str(made.secret)
        event = await running_engine.publish("order.created", {"n": 1})
        [delivery] = await running_engine.wait(event.id, PATIENCE)

    first, second, third = receiver.requests
    assert ["1", "2", "3"] == [request.header("webhook-attempt") for request in receiver.requests]
    assert {(event.id, first.body)} == {(request.header("webhook-id"), request.body) for request in receiver.requests}
    assert all(request.verified for request in receiver.requests)
    assert second.at - first.at >= 30
    assert third.at - second.at >= 60
    assert ("delivered", 3) == (delivery.state, delivery.attempt_count)
    attempts = (await only(running_engine)).attempts or []
    assert [(1, "refused", 500), (2, "refused", 503), (3, "accepted", 200)] == [
        (attempt.number, attempt.outcome, attempt.status_code) for attempt in attempts
    ]


async def test_exhausted_schedule_ends_as_failed(running_engine: Engine) -> None:
    """After the last retry a delivery is given up, and nothing more is sent."""
    async with Receiver(500) as receiver:
        await running_engine.subscribe(receiver.url, retry_schedule=SOON)
        event = await running_engine.publish("order.created", {"n": 1})
        [delivery] = await running_engine.wait(event.id, PATIENCE)

    assert ("failed", 4, None) == (delivery.state, delivery.attempt_count, delivery.next_attempt_at)
    assert delivery.finished_at is not None
    assert 4 == len(receiver.requests)


@pytest.mark.parametrize(
    ("status", "hint", "expected"),
    [
        pytest.param(503, "60", 60, id="obeyed"),
        pytest.param(429, "1", 30, id="shorter than the schedule"),
        pytest.param(503, "99999999", 7200, id="capped by the longest step"),
        pytest.param(500, "60", 30, id="not for this status"),
        pytest.param(503, "soon", 30, id="nonsense"),
    ],
)
async def test_retry_after(running_engine: Engine, journal: Journal, status: int, hint: str, expected: int) -> None:
    """The endpoint's hint delays a retry, within the schedule's bounds."""
    async with Receiver(Reply(status=status, headers=(("retry-after", hint),))) as receiver:
        await running_engine.subscribe(receiver.url, retry_schedule=["30s", "2h"])
        await running_engine.publish("order.created", {"n": 1})
        await journal.until("attempt_failed")

    delay = seconds_until((await only(running_engine)).next_attempt_at)
    assert expected - 2 < delay <= expected * 1.1


async def test_gone_disables_and_holds(running_engine: Engine, journal: Journal) -> None:
    """A 410 disables the subscription at once: what waits for it is held, and nothing more is sent."""
    gate = Gate()
    async with Receiver(gate) as receiver:
        made = await running_engine.subscribe(receiver.url, retry_schedule=SOON)
        events = [await running_engine.publish("order.created", {"n": n}) for n in range(3)]
        await gate.arrived()
        gate.open(410)
        await journal.until("attempt_failed")
        after = await running_engine.subscription(made.id)
        states = [(await only(running_engine, event=event.id)).state for event in events]

    assert ("disabled", "gone") == (after.state, after.disabled_reason)
    assert ["held"] * 3 == states
    assert 1 == len(receiver.requests)


async def test_many_failures_disable(running_engine: Engine, journal: Journal) -> None:
    """After `disable_after_failures` failed attempts running the subscription is disabled."""
    async with Receiver(500) as receiver:
        made = await running_engine.subscribe(receiver.url, retry_schedule=SOON, disable_after_failures=3)
        await running_engine.publish("order.created", {"n": 1})
        await journal.until("subscription_disabled")
        after = await running_engine.subscription(made.id)

    assert ("disabled", "failures", 3) == (after.state, after.disabled_reason, after.consecutive_failures)
    assert ("held", 3) == ((await only(running_engine)).state, len(receiver.requests))


async def test_expired_event_is_not_sent(running_engine: Engine, journal: Journal) -> None:
    """What could not be delivered by its `expires_at` fails as expired, without an attempt."""
    gate = Gate()
    async with Receiver(gate) as receiver:
        await running_engine.subscribe(receiver.url)
        await running_engine.publish("order.created", {"n": 1})
        await gate.arrived()
        expires_at = datetime.now(UTC) + timedelta(milliseconds=100)
        late = await running_engine.publish("order.created", {"n": 2}, expires_at=expires_at)
        await past(running_engine, int(expires_at.timestamp() * 1000) + 1)
        gate.open()
        await journal.until("delivery_expired")

    delivery = await only(running_engine, event=late.id)
    assert ("failed", "expired", 0, []) == (delivery.state, delivery.failed_label, delivery.attempt_count, delivery.attempts)
    assert 1 == len(receiver.requests)


async def test_retry_that_would_come_too_late_expires(running_engine: Engine, journal: Journal) -> None:
    """A delivery whose next step lies beyond `expires_at` fails as expired at that time."""
    async with Receiver(500) as receiver:
        await running_engine.subscribe(receiver.url, retry_schedule=LATER)
        expires_at = datetime.now(UTC) + timedelta(seconds=1.5)  # time for the first attempt on a busy machine
        await running_engine.publish("order.created", {"n": 1}, expires_at=expires_at)
        await journal.until("delivery_expired")

    delivery = await only(running_engine)
    assert ("failed", "expired", 1) == (delivery.state, delivery.failed_label, delivery.attempt_count)
    assert delivery.finished_at is not None
    assert delivery.finished_at >= expires_at - timedelta(milliseconds=1)


async def test_deliver_at_is_waited_for(running_engine: Engine) -> None:
    """An event with a `deliver_at` is sent then, and not before."""
    async with Receiver() as receiver:
        await running_engine.subscribe(receiver.url)
        deliver_at = datetime.now(UTC) + timedelta(milliseconds=200)
        event = await running_engine.publish("order.created", {"n": 1}, deliver_at=deliver_at)
        await running_engine.wait(event.id, PATIENCE)

    [request] = receiver.requests
    assert request.at >= int(deliver_at.timestamp() * 1000)


async def test_smaller_priority_goes_first(running_engine: Engine) -> None:
    """Within a subscription the more urgent event is sent first, however late it came."""
    gate = Gate()
    async with Receiver(gate) as receiver:
        await running_engine.subscribe(receiver.url, max_concurrency=1)
        await running_engine.publish("order.created", {"n": 0})
        await gate.arrived()
        for n, priority in enumerate(("low", "normal", "high", "low", "high"), 1):
            last = await running_engine.publish("order.created", {"n": n}, priority=priority)  # type: ignore[arg-type]  # one of three
        gate.open()
        await running_engine.wait(last.id, PATIENCE)
        await receiver.wait(6)

    assert [0, 3, 5, 2, 1, 4] == numbers(receiver.requests)


# Who changes something meanwhile


async def test_next_attempt_uses_the_changed_settings(running_engine: Engine, journal: Journal) -> None:
    """A URL and a secret changed between two attempts are what the second uses."""
    async with Receiver(500) as before, Receiver() as after:
        made = await running_engine.subscribe(before.url, retry_schedule=LATER)
        event = await running_engine.publish("order.created", {"n": 1})
        await journal.until("attempt_failed")
        await running_engine.update_subscription(made.id, url=after.url + "/new")
        rotated = await running_engine.rotate_secret(made.id, overlap="0ms")
        after.secret = str(rotated.secret)
        await running_engine.retry((await only(running_engine)).id)
        await running_engine.wait(event.id, PATIENCE)

    [request] = after.requests
    assert ("/new", True, "2") == (request.path, request.verified, request.header("webhook-attempt"))
    assert 1 == len(before.requests)


async def test_changed_settings_do_not_wait_for_a_lane(running_engine: Engine, journal: Journal) -> None:
    """What waits for its retry still goes in time after an unrelated change of its subscription."""
    async with Receiver([500, 200]) as receiver:
        made = await running_engine.subscribe(receiver.url, retry_schedule=["150ms"])
        event = await running_engine.publish("order.created", {"n": 1})
        await journal.until("attempt_failed")
        await running_engine.update_subscription(made.id, name="renamed", max_concurrency=3)
        [delivery] = await running_engine.wait(event.id, PATIENCE)

    assert ("delivered", 2) == (delivery.state, len(receiver.requests))


@pytest.mark.parametrize(("status", "state", "events"), [(200, "delivered", 1), (500, "held", 1)], ids=["success", "failure"])
async def test_disabled_while_in_flight(
    running_engine: Engine, journal: Journal, status: int, state: str, events: int
) -> None:
    """An attempt that runs while its subscription is disabled ends and counts; a retry that it would make is held."""
    gate = Gate()
    async with Receiver(gate) as receiver:
        made = await running_engine.subscribe(receiver.url, retry_schedule=SOON)
        await running_engine.publish("order.created", {"n": 1})
        await gate.arrived()
        await running_engine.disable(made.id)
        gate.open(status)
        await journal.until("attempt_accepted" if status == 200 else "attempt_failed")
        delivery = await only(running_engine)

    assert (state, 1, events) == (delivery.state, delivery.attempt_count, len(receiver.requests))


async def test_enabled_again_while_in_flight(running_engine: Engine) -> None:
    """A subscription that is disabled and enabled during an attempt sends nothing twice and loses nothing."""
    gate = Gate()
    async with Receiver(gate) as receiver:
        made = await running_engine.subscribe(receiver.url, retry_schedule=SOON)
        events = [await running_engine.publish("order.created", {"n": n}) for n in range(4)]
        await gate.arrived()
        await running_engine.disable(made.id)
        await running_engine.enable(made.id)
        events += [await running_engine.publish("order.created", {"n": n}) for n in range(4, 6)]
        gate.open()
        for event in events:
            await running_engine.wait(event.id, PATIENCE)

    assert list(range(6)) == sorted(numbers(receiver.requests))


async def test_failure_after_enabling_is_retried(running_engine: Engine) -> None:
    """An attempt that began before a disable and fails after the enable is retried on schedule."""
    gate = Gate()
    async with Receiver(gate) as receiver:
        made = await running_engine.subscribe(receiver.url, retry_schedule=SOON)
        event = await running_engine.publish("order.created", {"n": 1})
        await gate.arrived()
        await running_engine.disable(made.id)
        await running_engine.enable(made.id)
        gate.answer(500)
        await receiver.wait(2, PATIENCE)
        gate.open()
        [delivery] = await running_engine.wait(event.id, PATIENCE)

    assert ("delivered", 2) == (delivery.state, delivery.attempt_count)


async def test_hold_and_skip(running_engine: Engine, journal: Journal) -> None:
    """While disabled, `hold` makes deliveries that go after the enable, and `skip` makes none."""
    async with Receiver() as holding, Receiver() as skipping:
        holder = await running_engine.subscribe(holding.url)
        skipper = await running_engine.subscribe(skipping.url, while_disabled="skip")
        for each in (holder, skipper):
            await running_engine.disable(each.id)
        event = await running_engine.publish("order.created", {"n": 1})
        held = await only(running_engine)
        for each in (holder, skipper):
            await running_engine.enable(each.id)
        await running_engine.wait(event.id, PATIENCE)
        await trust(running_engine, skipping)

    assert ("held", holder.id) == (held.state, held.subscription)
    assert [1, 0] == numbers(holding.requests)
    assert [0] == numbers(skipping.requests)
    assert 2 == len(journal.all("subscription_enabled"))


@pytest.mark.parametrize("end", ["disable", "unsubscribe"])
async def test_held_work_takes_no_memory(running_engine: Engine, end: str) -> None:
    """What waits for a subscription that is disabled or deleted is not in the queue any more, but for what is in flight."""
    gate = Gate()
    async with Receiver(gate) as receiver:
        made = await running_engine.subscribe(receiver.url)
        await running_engine.publish_batch([{"type": "order.created", "data": {"n": n}} for n in range(5)])
        await gate.arrived()
        scheduler = running_engine._running.dispatcher._scheduler
        assert (1, 4) == (scheduler.in_flight, scheduler.size)
        await getattr(running_engine, end)(made.id)

        assert (1, 0) == (scheduler.in_flight, scheduler.size)


async def test_held_stays_held_over_a_restart(tmp_path: Path) -> None:
    """What a disabled subscription holds is not sent by the next start, and goes after an enable."""
    async with Receiver() as receiver:
        async with running(tmp_path) as engine:
            holder = await engine.subscribe(receiver.url)
            other = await engine.subscribe(receiver.url + "/other")
            await engine.disable(holder.id)
            event = await engine.publish("order.created", {"n": 1})
            await receiver.wait(1)
        async with running(tmp_path) as engine:
            more = await engine.publish("order.created", {"n": 2}, subscriptions=[other.id])
            await engine.wait(more.id, PATIENCE)
            assert "held" == (await only(engine, event=event.id, subscription=holder.id)).state
            await engine.enable(holder.id)
            await engine.wait(event.id, PATIENCE)

    assert [("/other", 1), ("/other", 2), ("/", 1)] == [
        (request.path, n) for request, n in zip(receiver.requests, numbers(receiver.requests), strict=True)
    ]


async def test_held_work_is_flushed_gently(running_engine: Engine) -> None:
    """After an enable there is one request at a time, and with each success one more, up to `max_concurrency`."""
    succeeded, seen = 0, []
    gate = Gate()

    async def answer(request: Received) -> int:
        nonlocal succeeded
        seen.append((len(gate.waiting) + 1, succeeded))
        status = await gate(request)
        succeeded += 1
        return status

    async with Receiver(answer) as receiver:
        made = await running_engine.subscribe(receiver.url, max_concurrency=4)
        await running_engine.disable(made.id)
        events = [await running_engine.publish("order.created", {"n": n}) for n in range(20)]
        await running_engine.enable(made.id)
        for width in (1, 2, 3, 4):
            await gate.arrived(width)
            gate.answer()
        gate.open()
        for event in events:
            await running_engine.wait(event.id, PATIENCE)

    assert all(here <= successes + 1 for here, successes in seen)
    assert 4 == max(here for here, _ in seen)
    assert 20 == len(receiver.requests)


async def test_enable_brings_retries_forward_but_not_a_deliver_at(running_engine: Engine, journal: Journal) -> None:
    """What waited for a retry goes at once after an enable; what its producer wants later stays."""
    async with Receiver([500, 200]) as receiver:
        made = await running_engine.subscribe(receiver.url, retry_schedule=LATER)
        waiting = await running_engine.publish("order.created", {"n": 1})
        await journal.until("attempt_failed")
        future = datetime.now(UTC) + timedelta(hours=1)
        later = await running_engine.publish("order.created", {"n": 2}, deliver_at=future)
        await running_engine.disable(made.id)
        await running_engine.enable(made.id)
        [delivery] = await running_engine.wait(waiting.id, PATIENCE)
        still = await only(running_engine, event=later.id)

    assert ("delivered", 2) == (delivery.state, delivery.attempt_count)
    assert "pending" == still.state
    assert seconds_until(still.next_attempt_at) > 3_500
    assert [1, 1] == numbers(receiver.requests)


@pytest.mark.parametrize("status", [200, 500])
async def test_cancelled_while_in_flight(running_engine: Engine, journal: Journal, tmp_path: Path, status: int) -> None:
    """The attempt ends and is recorded, the state stays cancelled, and nothing more is sent."""
    gate = Gate()
    async with Receiver(gate) as receiver:
        await running_engine.subscribe(receiver.url, retry_schedule=SOON)
        event = await running_engine.publish("order.created", {"n": 1})
        await gate.arrived()
        cancelled = await running_engine.cancel((await only(running_engine)).id)
        gate.open(status)
        await journal.until("attempt_accepted" if status == 200 else "attempt_failed")
        [delivery] = await running_engine.wait(event.id, PATIENCE)
        other = await running_engine.publish("order.created", {"n": 2})
        await running_engine.wait(other.id, PATIENCE)

    assert "cancelled" == cancelled.state == delivery.state
    assert (0, 1) == (cancelled.attempt_count, delivery.attempt_count)
    assert 1 == len((await only(running_engine, event=event.id)).attempts or [])
    assert 1 == numbers(receiver.requests).count(1)


@pytest.mark.parametrize("status", [200, 500])
async def test_cancelled_between_end_and_commit(running_engine: Engine, journal: Journal, status: int) -> None:
    """A cancel that is committed before the result wins: the attempt is recorded and the state stays cancelled."""
    gate = Gate()
    async with Receiver(gate) as receiver:
        await running_engine.subscribe(receiver.url, retry_schedule=SOON)
        await running_engine.publish("order.created", {"n": 1})
        await gate.arrived()
        id_ = (await only(running_engine)).id
        async with blocked_writer(running_engine, running_engine.cancel(id_)):
            gate.answer(status)
            await attempts_ended(running_engine)
        await journal.until("attempt_accepted" if status == 200 else "attempt_failed")
        delivery = await only(running_engine)

        stats = await running_engine.stats(delivery.subscription)

    assert ("cancelled", 1, 1) == (delivery.state, delivery.attempt_count, len(delivery.attempts or []))
    assert (0, 1) == (stats.deliveries.delivered, stats.deliveries.cancelled)
    assert 1 == len(receiver.requests)
    assert 1 == (await running_engine.retry(id_)).attempt_count
    await journal.until("attempt_failed", 1 if status == 200 else 2)
    assert [1, 2] == [attempt.number for attempt in (await only(running_engine)).attempts or []][:2]


async def test_retried_between_end_and_commit(running_engine: Engine) -> None:
    """What the endpoint took before a retry by hand was committed has come through, and is not sent again."""
    gate = Gate()
    async with Receiver(gate) as receiver:
        await running_engine.subscribe(receiver.url, retry_schedule=SOON)
        event = await running_engine.publish("order.created", {"n": 1})
        await gate.arrived()
        id_ = (await only(running_engine)).id
        async with blocked_writer(running_engine, running_engine.retry(id_)):
            gate.answer(200)
            await attempts_ended(running_engine)
        [delivery] = await running_engine.wait(event.id, PATIENCE)
        stats = await running_engine.stats(delivery.subscription)

    assert ("delivered", 1) == (delivery.state, delivery.attempt_count)
    assert (1, 1) == (stats.deliveries.delivered, stats.attempts.total)
    assert 1 == len(receiver.requests)


async def test_expires_while_in_flight(running_engine: Engine, journal: Journal) -> None:
    """An attempt that runs when the time is over decides, also where its subscription was disabled meanwhile."""
    gate = Gate()
    async with Receiver(gate) as receiver:
        made = await running_engine.subscribe(receiver.url)
        soon = datetime.now(UTC) + timedelta(seconds=0.5)
        event = await running_engine.publish("order.created", {"n": 1}, expires_at=soon)
        await gate.arrived()
        await running_engine.disable(made.id)
        await past(running_engine, int(soon.timestamp() * 1000) + 100)
        await running_engine.unsubscribe((await running_engine.subscribe(receiver.url)).id)  # which wakes upkeep
        await running_engine.events()
        gate.open(200)
        await journal.until("attempt_accepted")
        [delivery] = await running_engine.wait(event.id, PATIENCE)
        stats = await running_engine.stats(made.id)

    assert ("delivered", 1) == (delivery.state, delivery.attempt_count)
    assert (1, 0) == (stats.deliveries.delivered, stats.deliveries.failed)


async def test_cancelled_too_late(running_engine: Engine) -> None:
    """A cancel that comes after the result is refused, even if neither was committed when it was asked for."""
    gate = Gate()
    async with Receiver(gate) as receiver:
        await running_engine.subscribe(receiver.url)
        await running_engine.publish("order.created", {"n": 1})
        await gate.arrived()
        id_ = (await only(running_engine)).id
        async with blocked_writer(running_engine):
            gate.answer(200)
            await attempts_ended(running_engine)
            cancelling = asyncio.create_task(running_engine.cancel(id_))
        with pytest.raises(DeliveryStateConflict, match="delivered"):
            await cancelling

    assert "delivered" == (await only(running_engine)).state


async def test_retried_by_hand_while_in_flight(running_engine: Engine, journal: Journal) -> None:
    """An attempt that fails after a retry by hand is followed by another at once, with the whole schedule again."""
    gate = Gate()
    async with Receiver(gate) as receiver:
        await running_engine.subscribe(receiver.url, retry_schedule=["1h"])
        event = await running_engine.publish("order.created", {"n": 1})
        await gate.arrived()
        await running_engine.retry((await only(running_engine)).id)
        gate.answer(500)
        await receiver.wait(2, PATIENCE)
        gate.answer(500)
        await journal.until("attempt_failed", 2)
        waiting = await only(running_engine, event=event.id)

    assert ("pending", 2) == (waiting.state, waiting.attempt_count)
    assert seconds_until(waiting.next_attempt_at) > 3_500
    assert [(1, "auto"), (2, "manual")] == [(attempt.number, attempt.trigger) for attempt in waiting.attempts or []]


async def test_success_after_a_retry_by_hand_is_enough(running_engine: Engine) -> None:
    """An attempt that succeeds after a retry by hand has delivered it: nothing is sent twice."""
    gate = Gate()
    async with Receiver(gate) as receiver:
        await running_engine.subscribe(receiver.url)
        event = await running_engine.publish("order.created", {"n": 1})
        await gate.arrived()
        await running_engine.retry((await only(running_engine)).id)
        gate.open()
        [delivery] = await running_engine.wait(event.id, PATIENCE)
        await trust(running_engine, receiver)

    assert ("delivered", 1) == (delivery.state, delivery.attempt_count)
    assert [1, 0] == numbers(receiver.requests)


async def test_retried_by_hand_between_end_and_commit(running_engine: Engine) -> None:
    """A retry that is committed before a failure takes effect: the delivery goes again at once."""
    gate = Gate()
    async with Receiver(gate) as receiver:
        await running_engine.subscribe(receiver.url, retry_schedule=["1h"])
        event = await running_engine.publish("order.created", {"n": 1})
        await gate.arrived()
        await past(running_engine, receiver.requests[0].at)
        id_ = (await only(running_engine)).id
        async with blocked_writer(running_engine, running_engine.retry(id_)):
            gate.answer(500)
            await attempts_ended(running_engine)
        gate.open()
        [delivery] = await running_engine.wait(event.id, PATIENCE)

    assert ("delivered", 2) == (delivery.state, len(receiver.requests))
    assert ["refused", "accepted"] == [attempt.outcome for attempt in (await only(running_engine)).attempts or []]


@pytest.mark.parametrize("end", ["failed", "cancelled"])
async def test_ended_delivery_is_retried_by_hand(running_engine: Engine, journal: Journal, end: str) -> None:
    """A failed or cancelled delivery goes again at once, with its whole schedule, and its attempts count on."""
    async with Receiver([500, 500, 500, 200]) as receiver:
        await running_engine.subscribe(receiver.url, retry_schedule=["5ms"] if end == "failed" else LATER)
        event = await running_engine.publish("order.created", {"n": 1})
        await journal.until("attempt_failed", 2 if end == "failed" else 1)
        id_ = (await only(running_engine)).id
        if end == "cancelled":
            await running_engine.cancel(id_)
            await running_engine.retry(id_)
            await journal.until("attempt_failed", 2)
        [delivery] = (await running_engine.deliveries(event=event.id)).data
        assert ("failed" if end == "failed" else "pending") == delivery.state
        await running_engine.retry(id_)
        await journal.until("attempt_failed", 3)
        if end == "cancelled":
            await running_engine.retry(id_)
        [delivery] = await running_engine.wait(event.id, PATIENCE)

    assert ("delivered", 4) == (delivery.state, delivery.attempt_count)
    assert [1, 2, 3, 4] == [attempt.number for attempt in (await only(running_engine)).attempts or []]


async def test_cancelled_before_it_began(tmp_path: Path, journal: Journal) -> None:
    """A delivery that is cancelled while its payload is read is not sent, and gives its slot back."""
    async with running(tmp_path, journal, payload_cache=0) as engine, Receiver() as receiver:
        await engine.subscribe(receiver.url, max_concurrency=1)
        await trust(engine, receiver)
        event = await engine.publish("order.created", {"n": 1}, deliver_at=datetime.now(UTC) + timedelta(seconds=1))
        delivery = await only(engine, event=event.id)
        async with blocked_reader(engine):
            await taken(engine)
            cancelling = asyncio.create_task(engine.cancel(delivery.id))
            await journal.until("delivery_overruled")
        assert "cancelled" == (await cancelling).state
        other = await engine.publish("order.created", {"n": 2})
        await engine.wait(other.id, PATIENCE)

        assert [0, 2] == numbers(receiver.requests)


async def test_who_looks_at_lists_holds_nothing_up(tmp_path: Path) -> None:
    """While a list is read that takes long, events are accepted, known by their ids, and delivered, also from the disk."""
    async with running(tmp_path, payload_cache=0) as engine, Receiver() as receiver:
        await engine.subscribe(receiver.url)
        async with blocked_reader(engine, "viewer"):
            for n in (1, 1, 2):
                await engine.publish("order.created", {"n": n}, id=f"evt_{n}")
            await receiver.wait(2, PATIENCE)

        assert [1, 2] == numbers(receiver.requests)


async def test_disabled_before_it_began(tmp_path: Path, journal: Journal) -> None:
    """A delivery whose subscription is disabled while its payload is read is held, and goes after the enable."""
    async with running(tmp_path, journal, payload_cache=0) as engine, Receiver() as receiver:
        made = await engine.subscribe(receiver.url, max_concurrency=1)
        async with blocked_reader(engine):
            publishing = asyncio.create_task(engine.publish("order.created", {"n": 1}))
            await taken(engine)
            await engine.disable(made.id)
        event = await publishing
        assert "held" == (await only(engine)).state
        assert 0 == len(receiver.requests)
        await engine.enable(made.id)
        await engine.wait(event.id, PATIENCE)

        assert [1] == numbers(receiver.requests)


@pytest.mark.parametrize("status", [200, 500])
async def test_deleted_while_in_flight(running_engine: Engine, journal: Journal, status: int) -> None:
    """The attempt ends and is recorded; its delivery, and what waited, read as cancelled since the deleting."""
    gate = Gate()
    async with Receiver(gate) as receiver:
        made = await running_engine.subscribe(receiver.url, retry_schedule=SOON)
        first = await running_engine.publish("order.created", {"n": 1})
        second = await running_engine.publish("order.created", {"n": 2})
        await gate.arrived()
        await running_engine.unsubscribe(made.id)
        deleted_at = (await only(running_engine, event=first.id)).finished_at
        assert deleted_at is not None
        await past(running_engine, int(deleted_at.timestamp() * 1000))
        gate.open(status)
        await journal.until("attempt_accepted" if status == 200 else "attempt_failed", subscription=None)
        ended, waiting = [(await running_engine.wait(event.id, PATIENCE))[0] for event in (first, second)]

    assert "cancelled" == ended.state == waiting.state
    assert deleted_at == ended.finished_at == waiting.finished_at
    assert (1, 0) == (ended.attempt_count, waiting.attempt_count)
    assert [1, 0] == [len((await only(running_engine, event=each.id)).attempts or []) for each in (first, second)]
    assert 1 == len(receiver.requests)


# Rows that are not as they should be


async def test_missing_event_fails_alone(tmp_path: Path, running_engine: Engine) -> None:
    """A delivery whose event is gone from the file fails as an internal error; the others of its turn are delivered."""
    async with Receiver() as receiver:
        made = await running_engine.subscribe(receiver.url)
        await running_engine.disable(made.id)
        lost = await running_engine.publish("order.created", {"n": 1})
        event = await running_engine.publish("order.created", {"n": 2})
        id_ = (await only(running_engine, event=lost.id)).id
        await edit(tmp_path, f"DELETE FROM events WHERE id = '{lost.id}'")
        await running_engine.enable(made.id)
        await running_engine.wait(event.id, PATIENCE)

        assert [("failed", "internal error", 0)] == rows(
            tmp_path, "SELECT state, failed_label, attempt_count FROM deliveries WHERE id = ?", id_
        )
        assert [2] == numbers(receiver.requests)
        assert 0 == (await running_engine.subscription(made.id)).consecutive_failures


async def test_who_cannot_sign_waits_alone(running_engine: Engine, journal: Journal) -> None:
    """What the subscription's secret cannot sign waits for another one, which is told; other subscriptions are served."""
    async with Receiver() as receiver:
        broken = await running_engine.subscribe(receiver.url + "/broken", event_types=["a"])
        await running_engine.subscribe(receiver.url + "/sound", event_types=["a"])
        store = running_engine._running.store
        stored = store.memory.index.by_id(broken.id)
        assert stored is not None
        await running_engine.disable(broken.id)
        await edit_stored(store, stored, secrets=(SigningSecret(value=Secret("whsec_?")),))
        await running_engine.enable(broken.id)
        event = await running_engine.publish("a", {"n": 1})
        await receiver.wait(1)
        tried = await running_engine.test(broken.id)
        explained = await running_engine.explain(event.id, subscription=broken.id)
        assert ["/sound"] == [request.path for request in receiver.requests]
        await running_engine.rotate_secret(broken.id)
        assert ["delivered"] * 2 == [each.state for each in await running_engine.wait(event.id, PATIENCE)]

    why = "the profile 'standard' cannot sign, because what follows the secret's prefix is not base64"
    assert tried.error is not None
    assert tried.error.detail.startswith(why)
    assert f"the delivery is pending, and waits: {explained.subscriptions[0].hindrance}." in explained.subscriptions[0].reason
    assert str(explained.subscriptions[0].hindrance).startswith(why)
    assert {f"subscription {broken.id}"} == {told["where"] for told in journal.all("not_configured")}
    assert [] == journal.all("fault")


async def test_unknown_profile_is_told_and_left_alone(tmp_path: Path) -> None:
    """A subscription with a profile that is not there is not served, does not keep others from it, and can be mended."""
    async with Receiver() as receiver:
        async with running(tmp_path) as engine:
            strange = await engine.subscribe(receiver.url + "/strange")
            await engine.subscribe(receiver.url + "/sound")
            await engine.disable(strange.id)
            first = await engine.publish("order.created", {"n": 1})
            await receiver.wait(1)
        await edit(
            tmp_path,
            "UPDATE subscriptions SET state = 'active', disabled_reason = NULL,"
            " settings = CAST(json_set(CAST(settings AS TEXT), '$.profile', 'acme') AS BLOB)"
            f" WHERE id = '{strange.id}'",
        )
        journal = Journal()
        async with running(tmp_path, journal) as engine:
            assert [f"subscription {strange.id}"] == [line["where"] for line in journal.all("not_configured")]
            second = await engine.publish("order.created", {"n": 2})
            await receiver.wait(2)
            await engine.update_subscription(strange.id, profile="standard")
            await engine.wait(first.id, PATIENCE)
            await engine.wait(second.id, PATIENCE)

    assert ["/sound", "/sound", "/strange", "/strange"] == [request.path for request in receiver.requests]
    assert [1, 2, 1, 2] == numbers(receiver.requests)


async def test_result_that_cannot_be_stored_waits_for_the_next_start(tmp_path: Path, journal: Journal) -> None:
    """Such a delivery is told as a fault, gives its slot back, and is sent again after the next start."""
    async with Receiver() as receiver:
        async with running(tmp_path, journal) as engine:
            await engine.subscribe(receiver.url, max_concurrency=1)
            await edit(tmp_path, "CREATE TRIGGER guilty BEFORE INSERT ON attempts BEGIN SELECT RAISE(ABORT, 'not this'); END")
            event = await engine.publish("order.created", {"n": 1})
            [fault] = await journal.until("fault")
            assert (await only(engine, event=event.id)).id in fault["where"]
            assert "not this" in fault["error"]
            await edit(tmp_path, "DROP TRIGGER guilty")
            other = await engine.publish("order.created", {"n": 2})
            await engine.wait(other.id, PATIENCE)
            assert "pending" == (await only(engine, event=event.id)).state
        async with running(tmp_path) as engine:
            [delivery] = await engine.wait(event.id, PATIENCE)

    assert ("delivered", [1, 2, 1]) == (delivery.state, numbers(receiver.requests))


# Faults of this machine


@contextmanager
def no_descriptors() -> Iterator[None]:
    """This process cannot open anything."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(int(each.name) for each in Path("/proc/self/fd").iterdir()) + 1, hard))
    held = []
    try:
        with suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.row("F31")
async def test_want_of_descriptors_is_not_the_endpoints_fault(running_engine: Engine, journal: Journal) -> None:
    """Nothing counts against the endpoint, the engine pauses longer and longer, records little, and recovers by itself."""
    async with Receiver() as receiver:
        made = await running_engine.subscribe(receiver.url)
        with no_descriptors():
            event = await running_engine.publish("order.created", {"n": 1})
            await journal.until("local_trouble", 4)
            recorded = len(journal.all("attempt_interrupted"))
            meanwhile = await only(running_engine)
            counters = await running_engine.subscription(made.id)
        [delivery] = await running_engine.wait(event.id, PATIENCE)

    assert [100, 200, 400, 800] == [line["pause_ms"] for line in journal.all("local_trouble")][:4]
    assert all("local_resources" in line["error"] for line in journal.all("local_trouble"))
    assert 1 == recorded
    assert ("pending", 0, 0) == (meanwhile.state, meanwhile.attempt_count, counters.consecutive_failures)
    assert ["interrupted"] == [attempt.outcome for attempt in meanwhile.attempts or []]
    assert ("delivered", 1, 1) == (delivery.state, delivery.attempt_count, len(receiver.requests))


def two_free_ports() -> int:
    """The first of two ports that follow each other, and nobody has."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as one, suppress(OSError):
            first: int = one.getsockname()[1]
            with socket.create_server(("127.0.0.1", first + 1)):
                return first


@pytest.mark.row("F32")
async def test_want_of_ports_is_not_the_endpoints_fault(running_engine: Engine, journal: Journal) -> None:
    """Where two local ports are all there are, and taken, the others wait without a mark, and go once one is free."""
    gate = Gate()
    pool = running_engine._running.dispatcher._attempting._sender._pool
    make: Any = pool._socket_factory
    first = two_free_ports()

    def of_two_ports(address: Any) -> socket.socket:
        made: socket.socket = make(address)
        made.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, struct.pack("=HH", first, first + 1))
        return made

    with socket.socket() as any_socket:
        try:
            any_socket.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, 0)
        except OSError:
            pytest.skip("this kernel has no IP_LOCAL_PORT_RANGE")

    pool._socket_factory = of_two_ports
    async with Receiver(gate) as receiver:
        made = [await running_engine.subscribe(f"{receiver.url}/{n}") for n in range(5)]
        await running_engine.publish("order.created", {})
        await gate.arrived(2)
        troubles = await journal.until("local_trouble", 3)
        waiting = [each for each in (await running_engine.deliveries(state="pending")).data if each.attempt_count]
        gate.open()
        await receiver.wait(5, PATIENCE)
        counters = [(await running_engine.subscription(each.id)).consecutive_failures for each in made]

    assert all("local_resources" in line["error"] for line in troubles)
    assert ([], [0] * 5) == (waiting, counters)
    assert 2 == gate.most
    assert 5 == len(receiver.requests)


@pytest.mark.row("F34")
async def test_want_of_memory_is_not_the_endpoints_fault(running_engine: Engine, journal: Journal) -> None:
    """An attempt for which there is no memory counts for nothing, and is made again."""
    sender: Any = running_engine._running.dispatcher._attempting._sender
    attempt = sender.attempt

    async def once(*_: Any, **__: Any) -> Any:
        sender.attempt = attempt
        raise MemoryError

    async with Receiver() as receiver:
        made = await running_engine.subscribe(receiver.url)
        sender.attempt = once
        event = await running_engine.publish("order.created", {"n": 1})
        [delivery] = await running_engine.wait(event.id, PATIENCE)
        counters = await running_engine.subscription(made.id)

    assert ("delivered", 1, 0) == (delivery.state, delivery.attempt_count, counters.consecutive_failures)
    assert "local_resources" in journal.all("local_trouble")[0]["error"]
    assert 1 == len(receiver.requests)


async def test_pause_starts_anew_after_a_request_got_out(running_engine: Engine, journal: Journal) -> None:
    """Trouble that comes after a success begins with the shortest pause again, and several at a time are one."""
    async with Receiver(Reply(headers=(("connection", "close"),))) as receiver:
        for n in range(3):
            await running_engine.subscribe(f"{receiver.url}/{n}")
        for _ in range(2):
            before = len(journal.all("local_trouble"))
            with no_descriptors():
                event = await running_engine.publish("order.created", {"n": 1})
                lines = await journal.until("local_trouble", before + 2)
            await running_engine.wait(event.id, PATIENCE)

            assert [100, 200] == [line["pause_ms"] for line in lines[before:]]


async def test_unreadable_payloads_are_read_again(tmp_path: Path, journal: Journal) -> None:
    """While payloads cannot be read nothing is sent and no attempt is spent; once they can, everything goes."""
    async with running(tmp_path, journal, payload_cache=0) as engine, Receiver() as receiver:
        await engine.subscribe(receiver.url)
        moment = datetime.now(UTC) + timedelta(seconds=1)  # time enough for the change below
        event = await engine.publish("order.created", {"n": 1}, deliver_at=moment)
        await edit(tmp_path, "ALTER TABLE events RENAME TO elsewhere")
        await journal.until("fault", where="reading payloads")
        await journal.until("local_trouble")
        await edit(tmp_path, "ALTER TABLE elsewhere RENAME TO events")
        [delivery] = await engine.wait(event.id, PATIENCE)

        assert ("delivered", 1, 1) == (delivery.state, delivery.attempt_count, len(receiver.requests))


@pytest.mark.row("F03")
async def test_full_disk_pauses_sending(tmp_path: Path, journal: Journal) -> None:
    """While results cannot be stored nothing is taken; with room again they are stored, and nothing is sent twice."""
    gate = Gate()

    async def answer(request: Received) -> Reply:
        return Reply(status=await gate(request), body=bytes(16_384))

    async with running(tmp_path, journal) as engine, Receiver(answer) as receiver:
        await engine.subscribe(receiver.url)
        trusted = await engine.publish("order.created", {"n": 0})  # after its success there is more than one slot
        await gate.arrived()
        gate.answer()
        await engine.wait(trusted.id, PATIENCE)
        first = await engine.publish("order.created", {"n": 1})
        await gate.arrived()
        moment = datetime.now(UTC) + timedelta(seconds=1)
        second = await engine.publish("order.created", {"n": 2}, deliver_at=moment)
        await limit_pages(engine, 0)
        with pytest.raises(StorageUnavailable):
            await engine.publish("order.created", {"n": 3, "ballast": "x" * 100_000})
        gate.open()
        await past(engine, int(moment.timestamp() * 1000) + 100)
        assert ["pending", "pending"] == [(await only(engine, event=each.id)).state for each in (first, second)]
        assert [0, 1] == numbers(receiver.requests)
        await limit_pages(engine, None)
        await journal.until("storage_recovered")
        deliveries = [(await engine.wait(each.id, PATIENCE))[0] for each in (first, second)]

        assert ["delivered"] * 2 == [each.state for each in deliveries]
        assert [0, 1, 2] == numbers(receiver.requests)
        assert 1 == len(journal.all("storage_unavailable"))


@pytest.mark.parametrize("ends", [("storage", "room"), ("room", "storage")])
async def test_storage_is_well_once_nothing_ails_it(tmp_path: Path, journal: Journal, ends: tuple[str, str]) -> None:
    """Where commits fail and new events find no room, both begin with a line, and that it is over is one when both are."""
    async with running(tmp_path, journal) as engine:
        dispatcher = engine._running.dispatcher
        dispatcher.room(StorageUnavailable("no room"))
        assert not dispatcher.paused
        dispatcher.storage(StorageUnavailable("no commits"))
        assert dispatcher.paused
        getattr(dispatcher, ends[0])(None)
        assert [] == journal.all("storage_recovered")
        getattr(dispatcher, ends[1])(None)

        assert ["no room", "no commits"] == [line["error"] for line in journal.all("storage_unavailable")]
        assert 1 == len(journal.all("storage_recovered"))
        assert not dispatcher.paused


# How many at a time


class Crowd:
    """Counts the requests that are being answered, by path and in all; `gather` keeps them until there are some."""

    def __init__(self) -> None:
        self.most: dict[str, int] = {}
        self._here: dict[str, int] = {}
        self._wanted = 0
        self._together = asyncio.Event()
        self._together.set()

    def gather(self, count: int) -> None:
        """Answer nobody from now on until *count* are here."""
        self._wanted = count
        self._together.clear()

    async def arrive(self, request: Received) -> Reply:
        """A step of a script that takes a while."""
        for name in (request.path, "all"):
            self._here[name] = self._here.get(name, 0) + 1
            self.most[name] = max(self.most.get(name, 0), self._here[name])
        if self._here["all"] >= self._wanted:
            self._together.set()
        await self._together.wait()
        return Reply(delay=0.005)

    def leave(self, request: Received, _: Reply) -> None:
        """The answer goes out."""
        for name in (request.path, "all"):
            self._here[name] -= 1


@pytest.mark.parametrize(
    ("concurrency", "subscriptions", "expected"),
    [
        pytest.param(4, {f"/{n}": 8 for n in range(6)}, {"all": 4}, id="all"),
        pytest.param(64, {"/one": 1, "/two": 2, "/ten": 10}, {"/one": 1, "/two": 2, "/ten": 10, "all": 13}, id="each"),
    ],
)
async def test_caps_hold_at_the_receiver(
    tmp_path: Path, concurrency: int, subscriptions: dict[str, int], expected: dict[str, int]
) -> None:
    """There are as many requests at a time as `concurrency` and `max_concurrency` allow, and never more."""
    crowd = Crowd()
    async with (
        running(tmp_path, concurrency=concurrency) as engine,
        Receiver(crowd.arrive, on_request=crowd.leave) as receiver,
    ):
        for path, limit in subscriptions.items():
            await engine.subscribe(receiver.url + path, max_concurrency=limit)
        for gathered in (0, expected["all"]):  # widths grow with successes
            crowd.gather(gathered)
            published = await engine.publish_batch([{"type": "a", "data": {"n": n}} for n in range(20)])
            for event in published:
                await engine.wait(event.id, PATIENCE)

    assert expected == {name: crowd.most[name] for name in expected}
    assert 40 * len(subscriptions) == len(receiver.requests)


async def test_open_breaker_lets_one_probe_through(tmp_path: Path) -> None:
    """After ten failures running there is one attempt when the pause is over; its failure opens the next, longer one."""
    gate = Gate()
    async with Receiver(gate) as receiver:
        async with running(tmp_path) as engine:
            made = await engine.subscribe(receiver.url, retry_schedule=LATER)
            await engine.disable(made.id)
            events = [await engine.publish("order.created", {"n": n}) for n in range(20)]
        failed_at = Clock().now() - 4_700  # the first pause has 300 ms to go
        await edit(
            tmp_path,
            "UPDATE subscriptions SET state = 'active', disabled_reason = NULL;"
            f"UPDATE health SET consecutive_failures = 10, last_failure_at = {failed_at}, failing_since = {failed_at}",
        )
        async with running(tmp_path, journal := Journal()) as engine:
            await gate.arrived()
            assert receiver.requests[0].at >= failed_at + 5_000
            gate.open(500)
            await journal.until("attempt_failed")
            states = {(await only(engine, event=each.id)).attempt_count for each in events}
            resume_at = engine._running.dispatcher._scheduler.standing(1)

    assert 1 == len(receiver.requests)
    assert {0, 1} == states
    assert resume_at is not None
    assert 9_000 < resume_at.resume_at - Clock().now() <= 10_000


async def test_success_of_a_probe_closes_the_breaker(tmp_path: Path) -> None:
    """After a probe's success the rest is sent."""
    async with Receiver() as receiver:
        async with running(tmp_path) as engine:
            made = await engine.subscribe(receiver.url)
            await engine.disable(made.id)
            events = [await engine.publish("order.created", {"n": n}) for n in range(20)]
        failed_at = Clock().now() - 4_900
        await edit(
            tmp_path,
            "UPDATE subscriptions SET state = 'active', disabled_reason = NULL;"
            f"UPDATE health SET consecutive_failures = 10, last_failure_at = {failed_at}, failing_since = {failed_at}",
        )
        async with running(tmp_path) as engine:
            for event in events:
                await engine.wait(event.id, PATIENCE)

    assert 20 == len(receiver.requests)


async def test_enable_closes_the_breaker_of_an_active_subscription(tmp_path: Path) -> None:
    """Whoever mended the endpoint need not wait for the pause, nor disable first: the counters start anew, and all goes."""
    async with Receiver() as receiver:
        async with running(tmp_path) as engine:
            made = await engine.subscribe(receiver.url)
            await engine.disable(made.id)
            events = [await engine.publish("order.created", {"n": n}) for n in range(20)]
        failed_at = Clock().now()
        await edit(
            tmp_path,
            "UPDATE subscriptions SET state = 'active', disabled_reason = NULL;"
            f"UPDATE health SET consecutive_failures = 10, last_failure_at = {failed_at}, failing_since = {failed_at}",
        )
        async with running(tmp_path) as engine:
            before = await engine.subscription(made.id)
            enabled = await engine.enable(made.id)
            again = await engine.enable(made.id)
            for event in events:
                await engine.wait(event.id, PATIENCE / 5)

    assert (10, 0) == (before.consecutive_failures, enabled.consecutive_failures)
    assert (before.version + 1, enabled.version) == (enabled.version, again.version)
    assert 20 == len(receiver.requests)


# The end

# The attempt that a stop meets goes over a new connection, where a task waits for it, or over one that rested, without a task.
KEPT = pytest.mark.parametrize("before", [0, 1], ids=["new connection", "kept connection"])


async def deliver(engine: Engine, count: int) -> None:
    """So many deliveries, one after the other, and all recorded."""
    for _ in range(count):
        event = await engine.publish("order.created", {"n": 0})
        await engine.wait(event.id, PATIENCE)


async def started(folder: Path, receiver: Receiver, before: int, **settings: Any) -> Engine:
    """A running engine, whose one subscription has had so many deliveries *before*."""
    made = engine(folder)
    await made.start()
    await made.subscribe(receiver.url, **settings)
    await deliver(made, before)
    return made


@KEPT
async def test_cut_attempt_is_made_again(tmp_path: Path, before: int) -> None:
    """What the drain does not wait for is recorded as interrupted, spends nothing, and goes again with the same bytes."""
    gate = Gate()
    async with Receiver([*[200] * before, gate]) as receiver:
        async with running(tmp_path) as engine:
            await engine.subscribe(receiver.url)
            await deliver(engine, before)
            event = await engine.publish("order.created", {"n": 1})
            await gate.arrived()
        gate.open()
        async with running(tmp_path) as engine:
            [delivery] = await engine.wait(event.id, PATIENCE)
            attempts = (await engine.delivery(delivery.id)).attempts or []

    first, second = receiver.requests[before:]
    assert (event.id, first.body) == (second.header("webhook-id"), second.body)
    assert ("delivered", 1) == (delivery.state, delivery.attempt_count)
    assert ["interrupted", "accepted"] == [attempt.outcome for attempt in attempts]


@KEPT
async def test_drain_waits_for_answers(tmp_path: Path, before: int) -> None:
    """A stop takes nothing more, and records the attempts that end within the drain."""
    gate = Gate()
    async with Receiver([*[200] * before, gate]) as receiver:
        made = await started(tmp_path, receiver, before, max_concurrency=1)
        first = await made.publish("order.created", {"n": 1})
        await made.publish("order.created", {"n": 2})
        await gate.arrived()
        stopping = asyncio.create_task(made.stop(drain=PATIENCE))
        await asyncio.sleep(0)
        gate.open()
        async with asyncio.timeout(PATIENCE / 2):  # it does not wait for longer than they take
            await stopping

    states = [("delivered",)] * before + [("delivered",), ("pending",)]
    assert states == rows(tmp_path, "SELECT state FROM deliveries ORDER BY seq")
    assert [1] == numbers(receiver.requests[before:])
    assert first.deliveries == 1


@KEPT
async def test_stop_after_a_fault_of_ours(tmp_path: Path, before: int) -> None:
    """An attempt whose end raised, through a fault in our own code, is none that a stop waits for."""
    async with Receiver() as receiver:
        made = await started(tmp_path, receiver, before)
        scheduler: Any = made._running.dispatcher._scheduler
        raised = asyncio.Event()

        def fail(_: int) -> None:
            raised.set()
            raise RuntimeError("a fault of ours")

        scheduler.went_well = fail
        await made.publish("order.created", {"n": 1})
        async with asyncio.timeout(PATIENCE / 2):
            await raised.wait()
            await made.stop(drain=PATIENCE)

    assert 1 + before == len(receiver.requests)


@pytest.mark.parametrize("cut_first", [False, True])
@pytest.mark.parametrize("what", ["head", "end"])
async def test_cut_as_an_answer_comes(tmp_path: Path, what: str, *, cut_first: bool) -> None:
    """Where half an answer, or a connection's end, comes as the drain ends, the attempt is interrupted, and not sent again."""
    gate = Gate()
    async with Receiver([200, gate]) as receiver:
        made = await started(tmp_path, receiver, 1)
        await made.publish("order.created", {"n": 1})
        await gate.arrived()
        dispatcher = made._running.dispatcher
        pool: Any = dispatcher._attempting._sender._pool
        [wire] = [each for each in pool._acquired if not each.idle]

        def come() -> None:
            if what == "head":
                wire.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n")
            else:
                wire.transport.abort()
                wire.set_exception(ServerDisconnectedError())

        stopping = asyncio.create_task(made.stop(drain=PATIENCE))
        while not dispatcher._draining:  # noqa: ASYNC110  # there is no event for it
            await asyncio.sleep(0)
        for step in (dispatcher._drained.set, come) if cut_first else (come, dispatcher._drained.set):
            step()
        async with asyncio.timeout(PATIENCE / 2):
            await stopping

    assert [("accepted",), ("interrupted",)] == rows(tmp_path, "SELECT outcome FROM attempts ORDER BY seq")
    assert (2, 0) == (len(receiver.requests), dispatcher.in_flight)


async def test_drain_of_what_a_stop_found_being_read(tmp_path: Path) -> None:
    """What was taken before a stop, and goes once its payload is read, has the drain too, even where nothing was left."""
    first, second = Gate(), Gate()
    async with Receiver([200, first, second]) as receiver:
        made = await started(tmp_path, receiver, 1)
        await made.publish("order.created", {"n": 1})
        await first.arrived()
        dispatcher: Any = made._running.dispatcher
        dispatcher._payloads.take = lambda _: None  # as of what waited on the disk
        async with blocked_reader(made):
            await made.publish("order.created", {"n": 2})
            await in_flight(made, 2)
            stopping = asyncio.create_task(made.stop(drain=PATIENCE))
            first.answer()
            while dispatcher._attempts:  # noqa: ASYNC110  # there is no event for it
                await asyncio.sleep(0)
        await second.arrived()
        second.answer()
        async with asyncio.timeout(PATIENCE / 2):
            await stopping

    assert [("accepted",)] * 3 == rows(tmp_path, "SELECT outcome FROM attempts ORDER BY seq")


@KEPT
@pytest.mark.parametrize("ticks", [0, 2])
async def test_second_stop_ends_the_drain(tmp_path: Path, ticks: int, before: int) -> None:
    """A stop with less drain cuts what an earlier one waits for; one with more does not prolong it."""
    gate = Gate()
    async with Receiver([*[200] * before, gate]) as receiver:
        made = await started(tmp_path, receiver, before)
        await made.publish("order.created", {"n": 1})
        await gate.arrived()
        stopping = asyncio.create_task(made.stop())
        for _ in range(ticks):
            await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(stopping, made.stop(drain=0.05), made.stop(drain=PATIENCE))

    outcomes = [("accepted",)] * before + [("interrupted",)]
    assert outcomes == rows(tmp_path, "SELECT outcome FROM attempts ORDER BY seq")


async def test_idle_engine_stops_at_once(tmp_path: Path) -> None:
    """Without attempts in flight nothing waits for the drain."""
    made = engine(tmp_path)
    await made.start()

    async with asyncio.timeout(PATIENCE):
        await made.stop(drain=PATIENCE)
