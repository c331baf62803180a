"""Order and pace in a real engine: fifo arrives as accepted, one at a time, and a rate limit is never passed."""

from __future__ import annotations

import asyncio
import random
import socket
import threading
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from engines import Gate, Journal, edit, in_flight, measured, numbers, only, running
from patience import PATIENCE

from hookengine.errors import DeliveryStateConflict
from hookengine.receiver import Received, Receiver, Reply

if TYPE_CHECKING:
    from pathlib import Path

    from hookengine import views
    from hookengine.engine import Engine

LATER = ["1h"]


async def publish(engine: Engine, count: int, *, key: str | None = None) -> list[views.Event]:
    """Events that are told apart by `n`, which goes on from call to call."""
    before = len((await engine.events(limit=250)).data)
    return await engine.publish_batch(
        [{"type": "order.changed", "ordering_key": key, "data": {"n": before + n}} for n in range(count)]
    )


async def delivered(engine: Engine, events: list[views.Event]) -> None:
    """Return once each is."""
    for event in events:
        assert {"delivered"} == {delivery.state for delivery in await engine.wait(event.id, PATIENCE)}


async def begun(engine: Engine, subscription: str | None = None) -> list[int]:
    """When each attempt began, in order: at an endpoint they may be nearer to each other, by what the way took."""
    page = await engine.deliveries(limit=250, subscription=subscription)
    deliveries = [await engine.delivery(each.id) for each in page.data]
    return sorted(round(each.at.timestamp() * 1000) for delivery in deliveries for each in delivery.attempts or [])


# Fifo.


@pytest.mark.parametrize("seed", range(4))
async def test_order_over_failures(running_engine: Engine, seed: int) -> None:
    """However often each fails, those of a key succeed in the order of acceptance, and never two at a time."""
    rng = random.Random(seed)
    arrived: defaultdict[str, list[int]] = defaultdict(list)
    present: defaultdict[str, int] = defaultdict(int)

    async def answer(request: Received) -> Reply:
        [n] = numbers([request])
        key = "abc"[n % 3]
        present[key] += 1
        assert 1 == present[key]
        for _ in range(rng.randrange(20)):
            await asyncio.sleep(0)
        present[key] -= 1
        if rng.random() < 0.4:
            return Reply(status=500)
        arrived[key].append(n)
        return Reply()

    async with Receiver(answer) as receiver:
        await running_engine.subscribe(receiver.url, ordering="fifo", retry_schedule=["2ms"] * 40)
        given = [{"type": "a", "data": {"n": n}, "ordering_key": "abc"[n % 3]} for n in range(90)]
        await delivered(running_engine, await running_engine.publish_batch(given))

    assert {key: list(range(start, 90, 3)) for start, key in enumerate("abc")} == arrived


async def test_failing_head_blocks_its_key_only(running_engine: Engine, journal: Journal) -> None:
    """What is behind one that waits for its retry waits; other keys go on; when it is given up, the next one goes."""

    def answer(request: Received) -> int:
        return 500 if numbers([request]) == [0] else 200

    async with Receiver(answer) as receiver:
        made = await running_engine.subscribe(receiver.url, ordering="fifo", retry_schedule=LATER)
        blocked = await publish(running_engine, 3, key="a")
        await journal.until("attempt_failed")
        await delivered(running_engine, await publish(running_engine, 2, key="b"))
        assert [0, 3, 4] == numbers(receiver.requests)
        states = [(await only(running_engine, event=event.id)).attempt_count for event in blocked]
        assert [1, 0, 0] == states
        await running_engine.cancel((await only(running_engine, event=blocked[0].id)).id)
        await delivered(running_engine, blocked[1:])

    assert [0, 3, 4, 1, 2] == numbers(receiver.requests)
    assert "active" == (await running_engine.subscription(made.id)).state


async def test_events_without_a_key_share_one_line(running_engine: Engine) -> None:
    """They go one at a time, whatever `max_concurrency` allows."""
    gate = Gate()
    async with Receiver(gate) as receiver:
        await running_engine.subscribe(receiver.url, ordering="fifo")
        events = await publish(running_engine, 5)
        gate.open()
        await delivered(running_engine, events)

    assert (1, [0, 1, 2, 3, 4]) == (gate.most, numbers(receiver.requests))


async def test_cancelled_head_is_waited_for_while_it_is_sent(running_engine: Engine) -> None:
    """A request that is on its way may still arrive: the next one goes when it has ended, not when it is cancelled."""
    gate = Gate()
    async with Receiver(gate) as receiver:
        await running_engine.subscribe(receiver.url, ordering="fifo")
        first, *rest = await publish(running_engine, 3)
        await gate.arrived()
        await running_engine.cancel((await only(running_engine, event=first.id)).id)
        await running_engine.events()
        gate.open()
        await delivered(running_engine, rest)

    assert (1, [0, 1, 2]) == (gate.most, numbers(receiver.requests))


async def test_event_that_comes_while_a_cancelled_head_is_sent(running_engine: Engine) -> None:
    """Also where nobody stood behind it."""
    gate = Gate()
    async with Receiver(gate) as receiver:
        await running_engine.subscribe(receiver.url, ordering="fifo")
        [first] = await publish(running_engine, 1)
        await gate.arrived()
        await running_engine.cancel((await only(running_engine, event=first.id)).id)
        rest = await publish(running_engine, 2)
        assert 1 == len(gate.waiting)
        gate.open()
        await delivered(running_engine, rest)

    assert (1, [0, 1, 2]) == (gate.most, numbers(receiver.requests))


async def test_guilty_result_of_a_cancelled_head(tmp_path: Path, running_engine: Engine, journal: Journal) -> None:
    """Where what became of a cancelled head cannot be stored, the one behind it goes all the same."""
    gate = Gate()
    async with Receiver(gate) as receiver:
        await running_engine.subscribe(receiver.url, ordering="fifo")
        first, second = await publish(running_engine, 2)
        await gate.arrived()
        await running_engine.cancel((await only(running_engine, event=first.id)).id)
        await edit(tmp_path, "CREATE TRIGGER guilty BEFORE INSERT ON attempts BEGIN SELECT RAISE(ABORT, 'not this'); END")
        gate.answer()
        await journal.until("fault")
        await gate.arrived()
        await edit(tmp_path, "DROP TRIGGER guilty")
        gate.answer()
        await running_engine.wait(second.id, PATIENCE)

    assert [0, 1] == numbers(receiver.requests)


async def test_retry_of_one_behind_is_refused(running_engine: Engine, journal: Journal) -> None:
    """Only the head may be retried by hand: it goes at once."""
    async with Receiver([500, 200]) as receiver:
        await running_engine.subscribe(receiver.url, ordering="fifo", retry_schedule=LATER)
        events = await publish(running_engine, 2)
        await journal.until("attempt_failed")
        head, behind = [await only(running_engine, event=event.id) for event in events]
        with pytest.raises(DeliveryStateConflict):
            await running_engine.retry(behind.id)
        await running_engine.retry(head.id)
        await delivered(running_engine, events)

    assert [0, 0, 1] == numbers(receiver.requests)


async def test_order_over_disabling_and_a_restart(tmp_path: Path, journal: Journal) -> None:
    """What was held goes in its order, and so does what a stop cut."""
    gate = Gate()
    async with Receiver([gate, 200]) as receiver:
        async with running(tmp_path, journal) as first:
            made = await first.subscribe(receiver.url, ordering="fifo", retry_schedule=["1ms"] * 9)
            events = await publish(first, 3)
            await gate.arrived()
            await first.disable(made.id)
            events += await publish(first, 2)
        async with running(tmp_path, journal) as second:
            await second.enable(made.id)
            await delivered(second, events)

    assert [0, 0, 1, 2, 3, 4] == numbers(receiver.requests)


async def test_order_of_a_backlog_beyond_the_window(tmp_path: Path, journal: Journal) -> None:
    """With more keys than the window has places, each key still goes in its order."""
    arrived: defaultdict[int, list[int]] = defaultdict(list)

    def answer(request: Received) -> int:
        [n] = numbers([request])
        arrived[n % 40].append(n)
        return 200

    async with Receiver(answer) as receiver, running(tmp_path, journal, queue_size=10, concurrency=4) as engine:
        await engine.subscribe(receiver.url, ordering="fifo", max_concurrency=4)
        given = [{"type": "a", "data": {"n": n}, "ordering_key": f"k{n % 40}"} for n in range(200)]
        await delivered(engine, await engine.publish_batch(given))

    assert {key: list(range(key, 200, 40)) for key in range(40)} == arrived


# Rate limits.


async def test_rate_limit_is_never_passed(running_engine: Engine) -> None:
    """Requests are evenly paced: in no second are there more than 25, and little time is wasted."""
    async with Receiver() as receiver:
        await running_engine.subscribe(receiver.url, rate_limit="25/s")
        await delivered(running_engine, await publish(running_engine, 30))

    at = await begun(running_engine)
    assert 30 == len(receiver.requests) == len(at)
    assert all(later - earlier > 1000 for earlier, later in zip(at, at[25:], strict=False))
    assert at[-1] - at[0] < 1.5 * 29 * 40


async def test_pace_is_kept_beside_others(running_engine: Engine) -> None:
    """Whatever else is sent, no two requests begin nearer to each other than the limit says."""
    async with Receiver() as receiver:
        limited = await running_engine.subscribe(receiver.url, rate_limit="50/s")
        for _ in range(19):
            await running_engine.subscribe(receiver.url)
        await delivered(running_engine, await publish(running_engine, 30))

    at = await begun(running_engine, subscription=limited.id)
    assert 30 == len(at)
    assert all(later - earlier >= 20 for earlier, later in pairwise(at))


async def test_others_do_not_wait(running_engine: Engine) -> None:
    """A subscription that may send one request an hour keeps nobody else, and spends no attempts by waiting."""
    async with Receiver() as limited, Receiver() as free:
        made = await running_engine.subscribe(limited.url, rate_limit="1/h", event_types=["order.*"])
        await running_engine.subscribe(free.url, event_types=["order.*"])
        events = await publish(running_engine, 20)
        await free.wait(20, PATIENCE)
        async with asyncio.timeout(PATIENCE):
            while (await running_engine.stats(made.id)).deliveries.delivered < 1:
                pass
        page = await running_engine.deliveries(state="pending", subscription=made.id)

    assert 1 == len(limited.requests)
    assert [0] * 19 == [each.attempt_count for each in page.data]
    assert 20 == len(events)


class Names:
    """What libc would answer, for every name; once it is asked to wait, not before `found` is set."""

    def __init__(self) -> None:
        self.found = threading.Event()
        self.found.set()
        self.asked = 0

    def __call__(self, _host: str, port: int, **_: Any) -> list[Any]:
        """As getaddrinfo."""
        self.asked += 1
        assert self.found.wait(PATIENCE)
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port))]

    @classmethod
    async def held_up(cls, engine: Engine, receiver: Receiver, **settings: Any) -> tuple[Names, views.Subscription]:
        """A limited subscription with four slots, from now on waiting for the address of its endpoint."""
        names, sender = cls(), engine._running.dispatcher._sender
        sender._resolver._lookup = names
        made = await engine.subscribe(receiver.url.replace("127.0.0.1", "hooks.acme.example"), rate_limit="8/s", **settings)
        await delivered(engine, await publish(engine, 4))  # it earns as many slots
        names.found.clear()
        sender._resolver._kept.clear()
        sender._pool.make_room()
        return names, made


@pytest.mark.alone
async def test_rate_limit_holds_for_those_who_waited_for_an_address(running_engine: Engine) -> None:
    """Requests that waited for the same name to be looked up go one after the other, as all others do."""
    with measured():  # a request that is held up, and the next one on time, would be too near
        async with Receiver() as receiver:
            names, _ = await Names.held_up(running_engine, receiver)
            events = await publish(running_engine, 6)
            await in_flight(running_engine, 4)
            names.found.set()
            await delivered(running_engine, events)
            times = [request.at for request in receiver.requests]

    assert (10, 2) == (len(times), names.asked)
    # 125 ms, but for how late a busy machine may tell of the first of two.
    assert min(later - earlier for earlier, later in pairwise(times)) >= 65


@pytest.mark.parametrize("change", ["cancel", "disable", "delete", "expire"])
async def test_what_changes_while_it_waits_for_its_turn_does_not_go(running_engine: Engine, change: str) -> None:
    """Nothing goes that was cancelled or has expired meanwhile, nor to a subscription that was disabled or deleted."""
    async with Receiver() as receiver:
        names, made = await Names.held_up(running_engine, receiver)
        soon = datetime.now(UTC) + timedelta(milliseconds=600 if change == "expire" else 600_000)
        event = await running_engine.publish("order.changed", {"n": 4}, expires_at=soon)
        await in_flight(running_engine, 1)
        [delivery] = (await running_engine.event(event.id)).deliveries
        match change:
            case "cancel":
                await running_engine.cancel(delivery.id)
            case "disable":
                await running_engine.disable(made.id)
            case "delete":
                await running_engine.unsubscribe(made.id)
            case _:
                async with asyncio.timeout(PATIENCE):
                    while datetime.now(UTC) <= soon:  # noqa: ASYNC110  # nobody tells
                        await asyncio.sleep(0)
        names.found.set()
        async with asyncio.timeout(PATIENCE):
            while running_engine._running.dispatcher.in_flight:  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0)
        if change == "expire":
            await running_engine.wait(event.id, PATIENCE)
        ended = await running_engine.delivery(delivery.id)

    states = {"cancel": "cancelled", "disable": "held", "delete": "cancelled", "expire": "failed"}
    assert (4, 0, states[change]) == (len(receiver.requests), ended.attempt_count, ended.state)


async def test_failed_attempts_count_too(running_engine: Engine, journal: Journal) -> None:
    """Retries keep the pace as well: what the endpoint gets is requests."""
    async with Receiver(500) as receiver:
        await running_engine.subscribe(receiver.url, rate_limit="20/s", retry_schedule=["1ms"] * 3)
        await publish(running_engine, 2)
        await journal.until("attempt_failed", 8)

    at = await begun(running_engine)
    assert 8 == len(receiver.requests) == len(at)
    assert all(later - earlier >= 50 for earlier, later in pairwise(at))


async def test_pace_outlives_a_stop(tmp_path: Path, journal: Journal) -> None:
    """After a stop the next request goes when it would have gone; a new limit holds from then on."""
    async with Receiver() as receiver:
        async with running(tmp_path, journal) as first:
            made = await first.subscribe(receiver.url, rate_limit="1/s")
            events = await publish(first, 2)
            await receiver.wait(1, PATIENCE)
            await first.wait(events[0].id, PATIENCE)
        async with running(tmp_path, journal) as second:
            await delivered(second, events)
            await second.update_subscription(made.id, rate_limit=None)
            await delivered(second, await publish(second, 20))
            at = await begun(second)

    assert 1_000 <= at[1] - at[0] < 1_900
    assert at[-1] - at[1] < 5_000  # without the limit


async def test_pace_of_a_disabled_subscription_outlives_a_stop(tmp_path: Path, journal: Journal) -> None:
    """Whoever is disabled over a stop, and enabled after it, gets its next request no sooner."""
    async with Receiver() as receiver:
        async with running(tmp_path, journal) as first:
            made = await first.subscribe(receiver.url, rate_limit="1/s")
            events = await publish(first, 2)
            await first.wait(events[0].id, PATIENCE)
            await first.disable(made.id)
        async with running(tmp_path, journal) as second:
            await second.enable(made.id)
            await delivered(second, events)

    at = [request.at for request in receiver.requests]
    assert 1_000 <= at[1] - at[0] < 1_600


async def test_tests_do_not_count(running_engine: Engine) -> None:
    """A test event is sent at once, and takes nothing from the limit."""
    async with Receiver() as receiver:
        made = await running_engine.subscribe(receiver.url, rate_limit="1/h")
        for _ in range(3):
            await running_engine.test(made.id)
        await delivered(running_engine, await publish(running_engine, 1))

    assert 4 == len(receiver.requests)
