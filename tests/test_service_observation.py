"""What can be seen of an engine at work, by whom: its metrics, and the live stream."""

from __future__ import annotations

import asyncio
import math
import sqlite3
from collections import Counter
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest
from engines import Gate, Journal, edit, limit_pages, only, running
from patience import PATIENCE
from prometheus_client.parser import text_string_to_metric_families

from hookengine.access import OWNER, Principal, Scope
from hookengine.errors import Forbidden, Invalid, StorageUnavailable, SubscriptionNotFound
from hookengine.receiver import Receiver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from hookengine import views
    from hookengine.engine import Engine
    from hookengine.service import Stream

ACME = Principal(user="ann", scopes=frozenset({Scope.EVENTS_READ}), tenant="acme")


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[Engine]:
    """An engine at work."""
    async with running(tmp_path) as made:
        yield made


async def until(items: AsyncIterator[views.StreamItem], event: str) -> list[views.StreamItem]:
    """The items that come, up to the one of the event with this id."""
    found = []
    async with asyncio.timeout(PATIENCE):
        async for item in items:
            found.append(item)
            if item.delivery is not None and item.delivery.event == event:
                return found
    raise AssertionError("the stream ended")


async def first(stream: Stream) -> list[views.StreamItem]:
    """What comes first."""
    async with asyncio.timeout(PATIENCE):
        return await anext(aiter(stream))


def kinds(items: list[views.StreamItem]) -> list[str]:
    """What the items are about, each in a word or two."""
    return [item.subscription.change if item.subscription else item.kind for item in items]


def numbers(engine: Engine) -> dict[str, float]:
    """What a scraper reads, by name and labels."""
    text, _ = engine._service.metrics(OWNER, "")
    return {
        " ".join([sample.name.removeprefix("hookengine_"), *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


# Metrics.


@pytest.mark.parametrize("scope", [scope for scope in Scope if scope is not Scope.ADMIN])
async def test_metrics_are_for_the_admin(engine: Engine, scope: Scope) -> None:
    """The numbers of all tenants are for those only who may see all tenants."""
    with pytest.raises(Forbidden, match="admin"):
        engine._service.metrics(Principal(user="x", scopes=frozenset({scope})), "")


async def test_metrics_of_an_engine_at_work(tmp_path: Path) -> None:
    """What the engine does is counted where it happens, and what it holds is read off it."""
    gate = Gate()
    async with Receiver(gate) as receiver, running(tmp_path, queue_size=500) as engine:
        subscription = await engine.subscribe(receiver.url, max_concurrency=1)
        await engine.subscribe(receiver.url, state="disabled", tenant="other")
        await engine.publish("order.created", 1)
        later = await engine.publish("order.created", 2)
        await engine.publish("order.created", 3, tenant="nobody")
        await gate.arrived()
        during = numbers(engine)
        gate.open()
        await engine.wait(later.id, PATIENCE)
        await engine.disable(subscription.id)
        after = numbers(engine)

    assert (1, 1, 500) == tuple(during[n] for n in ("attempts_in_flight", "window_deliveries", "window_limit"))
    assert (1, 1, 0) == tuple(during[n] for n in ("subscriptions active", "subscriptions disabled", "paused"))
    assert (3, 2) == tuple(during[n] for n in ("events_accepted_total", "deliveries_created_total"))
    assert (2, 2) == tuple(after[n] for n in ("attempts_total  accepted", "deliveries_finished_total delivered"))
    assert (0, 2) == tuple(after[f"subscriptions {state}"] for state in ("active", "disabled"))
    assert 1 == after["subscriptions_disabled_total manual"]
    assert 1 <= after["commits_total"] <= 16


async def test_end_is_counted_once(tmp_path: Path) -> None:
    """A delivery that is cancelled in flight ended then, also where its subscription is deleted before the attempt ends."""
    gate = Gate()
    async with Receiver(gate) as receiver, running(tmp_path) as engine:
        subscription = await engine.subscribe(receiver.url)
        await engine.publish("order.created", 1)
        await gate.arrived()
        cancelled = await engine.cancel((await only(engine)).id)
        await engine.unsubscribe(subscription.id)
        gate.open()
        async with asyncio.timeout(PATIENCE):
            while engine._running.dispatcher.in_flight:
                await engine.events(limit=1)
        delivery, found = await only(engine), numbers(engine)

    assert 1 == found["deliveries_finished_total cancelled"]
    assert (1, cancelled.finished_at) == (delivery.attempt_count, delivery.finished_at)


async def test_metrics_of_a_full_disk(tmp_path: Path) -> None:
    """Commits that fail are seen in the metrics for as long as they do."""
    journal = Journal()
    async with running(tmp_path, journal) as engine:
        await limit_pages(engine, 0)
        with pytest.raises(StorageUnavailable):
            await engine.publish("order.created", "x" * 100_000)
        during = numbers(engine)
        await limit_pages(engine, None)
        await journal.until("storage_recovered")
        after = numbers(engine)

    names = ("storage_available", "paused", "storage_troubles_total")
    assert ((0, 1, 1), (1, 0, 1)) == (tuple(during[n] for n in names), tuple(after[n] for n in names))


async def test_metrics_of_a_disk_that_is_nearly_full(tmp_path: Path) -> None:
    """Refusals for want of room are seen in the metrics and the log while they last, and what was accepted is sent."""
    journal, gate = Journal(), Gate()
    async with running(tmp_path, journal) as engine, Receiver(gate) as receiver:
        space = engine._running.store._space
        await engine.subscribe(receiver.url)
        accepted = await engine.publish("order.created", 1)
        space._looked_at, space._lack = math.inf, "the disk is nearly full"
        with pytest.raises(StorageUnavailable):
            await engine.publish("order.created", 2)
        gate.open()
        assert ["delivered"] == [each.state for each in await engine.wait(accepted.id, PATIENCE)]
        during = numbers(engine)
        space._looked_at = 0.0
        await journal.until("storage_recovered")
        after = numbers(engine)

    names = ("storage_available", "paused", "storage_troubles_total", "faults_total")
    assert [(0, 0, 1, 0), (1, 0, 1, 0)] == [tuple(some[n] for n in names) for some in (during, after)]
    [line] = journal.all("storage_unavailable")
    assert "the storage takes no events: the disk is nearly full" == line["error"]


async def test_subscriptions_from_before_are_counted(tmp_path: Path) -> None:
    """A restart counts the subscriptions that there are."""
    async with running(tmp_path) as engine:
        await engine.subscribe("http://127.0.0.1:8099/", state="disabled")
    async with running(tmp_path) as engine:
        found = numbers(engine)

    assert (0, 1, 0) == (
        found["subscriptions active"],
        found["subscriptions disabled"],
        found["subscriptions_disabled_total manual"],
    )


# The stream.


async def test_stream_needs_a_scope(engine: Engine) -> None:
    """Who may not read events may not follow them."""
    with pytest.raises(Forbidden, match="events:read"):
        engine._service.stream(Principal(user="x", scopes=frozenset({Scope.EVENTS_WRITE})), {})


async def test_everything_that_happens_is_told(engine: Engine) -> None:
    """Attempts, deliveries and subscriptions come in the order in which they changed, with the names that users know."""
    items = engine.stream()
    async with Receiver([503, 200]) as receiver:
        subscription = await engine.subscribe(receiver.url, retry_schedule=["1d"], tenant="acme")
        event = await engine.publish("order.created", 1, tenant="acme")
        found = await until(items, event.id)
        [delivery] = (await engine.deliveries()).data
        await engine.retry(delivery.id)
        found += await until(items, event.id) + await until(items, event.id)
        await engine.update_subscription(subscription.id, name="x")
        await engine.disable(subscription.id)
        await engine.enable(subscription.id)
        await engine.unsubscribe(subscription.id)
        async with asyncio.timeout(PATIENCE):
            found += [await anext(items) for _ in range(4)]

    assert ["created", "attempt", "delivery", "attempt", "updated", "disabled", "enabled", "deleted"] == kinds(found)
    assert len(found) == len({item.id for item in found})
    tried, retried, delivered = (item.delivery for item in found[1:4])
    assert tried is not None
    assert delivered is not None
    assert (event.id, subscription.id, "acme", "order.created", "pending") == (
        tried.event,
        tried.subscription,
        tried.tenant,
        tried.type,
        tried.state,
    )
    assert found[1].attempt is not None
    assert (1, 503, "auto") == (found[1].attempt.number, found[1].attempt.status_code, found[1].attempt.trigger)
    assert [delivery] == [tried]
    assert retried is not None
    assert ("pending", "delivered") == (retried.state, delivered.state)


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        pytest.param(["order.*"], ["order.created", "order.paid"], id="pattern"),
        pytest.param(["order.paid", "user.new"], ["order.paid", "user.new"], id="two"),
        pytest.param(["*"], ["order.created", "order.paid", "user.new"], id="all"),
        pytest.param(None, [None, "order.created", "order.paid", "user.new"], id="none"),
    ],
)
async def test_types_choose(engine: Engine, types: list[str] | None, expected: list[str | None]) -> None:
    """With types, only what is about such events is told, and nothing that is about none."""
    items = engine.stream(types=types)
    everything = engine.stream()
    async with Receiver() as receiver:
        await engine.subscribe(receiver.url, max_concurrency=1)
        for type_ in ("order.created", "order.paid", "user.new"):
            event = await engine.publish(type_, 1)
            await engine.wait(event.id, PATIENCE)
        await until(everything, event.id)
        found: list[str | None] = []
        async with asyncio.timeout(PATIENCE):
            while len(found) < len(expected):
                item = await anext(items)
                found.append(item.delivery.type if item.delivery else None)

    assert expected == found


async def test_one_subscription_is_followed(engine: Engine) -> None:
    """With a subscription, only what is about it is told."""
    async with Receiver() as receiver:
        mine = await engine.subscribe(receiver.url)
        items = engine.stream(subscription=mine.id)
        other = await engine.subscribe(receiver.url)
        event = await engine.publish("a", 1)
        await engine.wait(event.id, PATIENCE)
        await engine.unsubscribe(other.id)
        await engine.unsubscribe(mine.id)
        async with asyncio.timeout(PATIENCE):
            found = [await anext(items), await anext(items)]

    assert ["attempt", "deleted"] == kinds(found)
    assert found[0].delivery is not None
    assert mine.id == found[0].delivery.subscription


async def test_token_sees_its_tenant(engine: Engine) -> None:
    """A token that is bound to a tenant hears of that tenant alone, and knows no other's subscription."""
    service = engine._service
    stream = service.stream(ACME, {})
    async with Receiver() as receiver:
        other = await engine.subscribe(receiver.url, tenant="other")
        await engine.wait((await engine.publish("a", 1, tenant="other")).id, PATIENCE)
        await engine.subscribe(receiver.url, tenant="acme")
        event = await engine.publish("a", 1, tenant="acme")
        found: list[views.StreamItem] = []
        async with asyncio.timeout(PATIENCE):
            async for items in stream:
                found += items
                if found and found[-1].delivery is not None:
                    break

    assert ["created", "attempt"] == kinds(found)
    assert found[-1].delivery is not None
    assert (event.id, "acme") == (found[-1].delivery.event, found[-1].delivery.tenant)
    with pytest.raises(SubscriptionNotFound):
        service.stream(ACME, {"subscription": other.id})


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"types": "a b"}, [("types", "invalid_value")]),
        ({"types": "a b", "limit": "1"}, [("limit", "unknown_parameter"), ("types", "invalid_value")]),
    ],
)
async def test_wrong_parameters(engine: Engine, query: dict[str, str], expected: list[tuple[str, str]]) -> None:
    """Every mistake is named before anything is followed."""
    with pytest.raises(Invalid) as refused:
        engine._service.stream(OWNER, query)

    assert expected == [(mistake.parameter, mistake.code) for mistake in refused.value.mistakes]


async def test_unknown_subscription(engine: Engine) -> None:
    """A subscription that is not there would be followed in vain."""
    with pytest.raises(SubscriptionNotFound):
        engine.stream(subscription="sub_none")


async def test_stream_goes_on_from_an_item(engine: Engine) -> None:
    """Who comes back with the id of the last item misses nothing, and gets nothing twice."""
    items = engine.stream()
    ids = [(await engine.subscribe("http://127.0.0.1:8099/")).id for _ in range(3)]
    async with asyncio.timeout(PATIENCE):
        seen = await anext(items)
    again = engine.stream(last_id=seen.id)
    async with asyncio.timeout(PATIENCE):
        found = [await anext(again), await anext(again)]

    assert ids == [item.subscription.id for item in [seen, *found] if item.subscription]


async def test_stream_begins_with_reset_after_a_restart(tmp_path: Path) -> None:
    """An id of an earlier start is told to be too old, and all that happened since the start follows."""
    async with running(tmp_path) as engine:
        items = engine.stream()
        await engine.subscribe("http://127.0.0.1:8099/")
        async with asyncio.timeout(PATIENCE):
            last = await anext(items)
    async with running(tmp_path) as engine:
        await engine.subscribe("http://127.0.0.1:8099/")
        again = engine.stream(last_id=last.id)
        async with asyncio.timeout(PATIENCE):
            found = [await anext(again), await anext(again)]
        [reset, item] = found
        once_more = engine.stream(last_id=reset.id)
        async with asyncio.timeout(PATIENCE):
            same = await anext(once_more)

    assert ["reset", "created"] == kinds(found)
    assert item == same


async def test_heartbeats_come_while_nothing_does(engine: Engine) -> None:
    """While nothing that is asked for happens there are heartbeats, whose place moves with what is passed over."""
    stream = engine._service.stream(OWNER, {"types": "order.*"}, heartbeat=0.01)
    before = stream.id
    await engine.subscribe("http://127.0.0.1:8099/")

    assert [] == await first(stream)
    assert before != stream.id


async def test_stream_ends_with_the_engine(tmp_path: Path) -> None:
    """Whoever iterates when the engine stops comes to the end, whether he waits for an item or for what it is called."""
    async with running(tmp_path) as engine:
        items = engine.stream()
        waiting = asyncio.create_task(anext(items, None))
        await asyncio.sleep(0)
        stream = engine._service.stream(OWNER, {})
    async with asyncio.timeout(PATIENCE):
        ended = await waiting
        rest = [items async for items in stream]

    assert (None, []) == (ended, rest)


async def test_stream_that_is_closed(engine: Engine) -> None:
    """A stream that its reader closes ends, and no other does."""
    stream = engine._service.stream(OWNER, {})
    async with aclosing(engine.stream()) as items:
        stream.close()
        await engine.subscribe("http://127.0.0.1:8099/")
        async with asyncio.timeout(PATIENCE):
            rest = [each async for each in stream]
            item = await anext(items)

    assert ([], "subscription") == (rest, item.kind)


async def test_names_that_cannot_be_read(engine: Engine) -> None:
    """A reader hears of a fault of the storage, unless it has left anyhow; other readers and the engine go on."""
    service = engine._service
    heard, left = service.stream(OWNER, {}), service.stream(OWNER, {})
    async with Receiver() as receiver:
        await engine.subscribe(receiver.url)
        await engine.wait((await engine.publish("a", 1)).id, PATIENCE)
    broken = engine._running.store.viewer._db.connection
    await broken._execute(broken._conn.close)  # type: ignore[no-untyped-call]  # its thread goes on: the end of one ends the engine
    with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
        await first(heard)
    names = left._names([1])
    left.close()

    assert {} == await names


async def test_pruned_deliveries_are_passed_over(engine: Engine, tmp_path: Path) -> None:
    """What can no longer be named, because retention took it, is not told."""
    items = engine.stream()
    async with Receiver() as receiver:
        subscription = await engine.subscribe(receiver.url)
        await engine.wait((await engine.publish("a", 1)).id, PATIENCE)
        await edit(tmp_path, "DELETE FROM attempts; DELETE FROM deliveries;")
        await engine.unsubscribe(subscription.id)
        async with asyncio.timeout(PATIENCE):
            found = [await anext(items), await anext(items)]

    assert ["created", "deleted"] == kinds(found)


async def test_items_are_made_once_for_all(engine: Engine) -> None:
    """However many follow, an item is made for the first, and each gets the same."""
    streams = [engine._service.stream(OWNER, {}) for _ in range(3)]
    await engine.subscribe("http://127.0.0.1:8099/")
    found: list[Any] = [await first(stream) for stream in streams]

    assert Counter({id(found[0][0]): 3}) == Counter(id(items[0]) for items in found)
