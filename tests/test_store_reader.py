"""What can be asked of the file: pages, filters, details."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace
from storage import (
    DAY,
    DELIVERED,
    HOUR,
    INTERRUPTED,
    MINUTE,
    NO_ANSWER,
    NOW,
    Opened,
    draft,
    drafts,
    opened,
    result,
)

from hookengine.errors import IdempotencyMismatch
from hookengine.models import Accepted, DeliveryState, Priority, Request, Response, SubscriptionState
from hookengine.store import BEFORE_ALL, Answer, Key, Slice, changes
from hookengine.views import moment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from hookengine import views
    from hookengine.models import Outcome
    from hookengine.store import Result, Transaction

    Page = tuple[list[Any], int | None]

WHOLE = Slice(limit=1_000)
STATES = ("pending", "delivered", "failed", "cancelled", "held")


async def walk(page: Callable[[Slice], Awaitable[Page]], part: Slice) -> list[Any]:
    """All pages, one after the other."""
    found: list[Any] = []
    before: int | None = part.before
    while before is not None:
        some, before = await page(replace(part, before=before))
        assert len(some) == part.limit or before is None
        found += some
    return found


@asynccontextmanager
async def populated(folder: Path) -> AsyncIterator[Opened]:
    """A store with events of two tenants in several hours, and deliveries in every state."""
    chance = random.Random(1)
    async with opened(folder) as place:
        active = await place.subscribe()
        disabled = await place.subscribe(event_types=("order.*",))
        deleted = await place.subscribe(event_types=("*",))
        await place.subscribe(tenant="beta")
        made = []
        for hour in range(4):
            place.clock.time = NOW + hour * HOUR
            types = [(chance.choice(["order.created", "user.x"]), chance.choice(["acme", "beta"])) for _ in range(8)]
            made += await place.deliver(*(draft(type=type_, tenant=tenant) for type_, tenant in types))
        ended = chance.sample(made, len(made) // 2)
        outcomes: list[Outcome] = chance.choices([DELIVERED, NO_ANSWER], k=len(ended))
        results = [result(one, outcome) for one, outcome in zip(ended, outcomes, strict=True)]
        await place.record(*(each if n % 3 else given_up(each) for n, each in enumerate(results)))
        for one in chance.sample([d for d in made if d not in ended and d.subscription == active.seq], 2):
            await place.store.writer.change(changes.cancel_delivery(one.id, None))
        await place.edit(disabled, state=SubscriptionState.DISABLED)
        await place.store.writer.change(changes.delete_subscription(deleted.id, None))
        yield place


def given_up(one: Result) -> Result:
    """The same, as the last attempt of its schedule."""
    failed = replace(one.before, state=DeliveryState.FAILED, finished_at=NOW, attempt_count=1, failed_label="x")
    return replace(one, after=failed)


def truth(place: Opened) -> list[dict[str, Any]]:
    """Every delivery as it must read, newest first, worked out here and not in SQL."""
    subscriptions = {
        seq: (id_, state, deleted_at)
        for seq, id_, state, deleted_at in place.rows("SELECT seq, id, state, deleted_at FROM subscriptions")
    }
    events = {seq: (id_, tenant) for seq, id_, tenant in place.rows("SELECT seq, id, tenant FROM events")}
    found = []
    for seq, id_, event, subscription, state, created_at, due_at, finished_at in place.rows(
        "SELECT seq, id, event, subscription, state, created_at, due_at, finished_at FROM deliveries ORDER BY seq DESC"
    ):
        name, standing, deleted_at = subscriptions[subscription]
        reads = state
        if state == "pending":
            reads = "cancelled" if deleted_at is not None else "held" if standing == "disabled" else "pending"
        found.append(
            {
                "seq": seq,
                "id": id_,
                "event": events[event][0],
                "tenant": events[event][1],
                "subscription": name,
                "state": reads,
                "created_at": created_at,
                "next_attempt_at": due_at if reads == "pending" else None,
                "finished_at": deleted_at if finished_at is None and reads == "cancelled" else finished_at,
            }
        )
    return found


def plain(delivery: views.Delivery, names: Any) -> dict[str, Any]:
    """The members *names* of a shown delivery."""
    return {name: getattr(delivery, name) for name in names}


# Deliveries.


async def test_deliveries_read_as_they_stand(tmp_path: Path) -> None:
    """Pending rows of a disabled subscription read as held, of a deleted one as cancelled since then, without a next time."""
    async with populated(tmp_path) as place:
        found, after = await place.store.reader.deliveries(WHOLE)
        expected = truth(place)

        assert set(STATES) == {delivery.state for delivery in found}
        assert after is None
        names = ("id", "event", "tenant", "subscription", "state")
        assert [{name: row[name] for name in names} for row in expected] == [plain(delivery, names) for delivery in found]
        for row, delivery in zip(expected, found, strict=True):
            for name in ("created_at", "next_attempt_at", "finished_at"):
                assert (None if row[name] is None else moment(row[name])) == getattr(delivery, name)


@pytest.mark.parametrize("limit", [1, 3, 1_000])
@pytest.mark.parametrize("state", [None, *STATES, "unknown"])
@pytest.mark.parametrize("tenant", [None, "acme", "unknown"])
async def test_deliveries_by_state_and_tenant(tmp_path: Path, tenant: str | None, state: str | None, limit: int) -> None:
    """Pages of any size hold together what a search of all rows gives, alone, of a subscription and of an event."""
    async with populated(tmp_path) as place:
        expected = [row for row in truth(place) if tenant in (None, row["tenant"]) and state in (None, row["state"])]
        part = Slice(limit=limit, tenant=tenant)

        async def found(**more: Any) -> list[str]:
            pages = await walk(lambda part: place.store.reader.deliveries(part, state=state, **more), part)
            return [delivery.id for delivery in pages]

        assert [row["id"] for row in expected] == await found()
        subscriptions = place.rows("SELECT id, seq FROM subscriptions")
        for name, seq in subscriptions:
            assert [row["id"] for row in expected if row["subscription"] == name] == await found(subscription=seq)
        for id_, event in place.rows("SELECT id, seq FROM events LIMIT 5"):
            of_event = [row for row in expected if row["event"] == id_]
            assert [row["id"] for row in of_event] == await found(events=[event])
            for name, seq in subscriptions:
                of_both = [row["id"] for row in of_event if row["subscription"] == name]
                assert of_both == await found(events=[event], subscription=seq)


@pytest.mark.parametrize(
    ("since", "until"),
    [
        pytest.param(NOW + HOUR, None, id="since"),
        pytest.param(None, NOW + 2 * HOUR, id="until"),
        pytest.param(NOW + HOUR, NOW + 2 * HOUR, id="between"),
        pytest.param(NOW + HOUR + 1, NOW + 2 * HOUR, id="a gap"),
    ],
)
async def test_since_is_inclusive_and_until_exclusive(tmp_path: Path, since: int | None, until: int | None) -> None:
    """The bounds are on the time of creation, for deliveries in every list and for events."""
    async with populated(tmp_path) as place:
        part = Slice(limit=7, since=since, until=until)
        reader = place.store.reader

        def within(time: int) -> bool:
            return (since is None or time >= since) and (until is None or time < until)

        expected = [row for row in truth(place) if within(row["created_at"])]
        assert [row["id"] for row in expected] == [delivery.id for delivery in await walk(reader.deliveries, part)]
        found = [d.id for d in await walk(lambda part: reader.deliveries(part, subscription=1), part)]
        assert [row["id"] for row in expected if row["subscription"] == name_of(place, 1)] == found
        found = [d.id for d in await walk(lambda part: reader.deliveries(part, events=[9]), part)]
        ((event, accepted_at),) = place.rows("SELECT id, accepted_at FROM events WHERE seq = 9")
        assert ([row["id"] for row in expected if row["event"] == event] if within(accepted_at) else []) == found
        times = [time for (time,) in place.rows("SELECT accepted_at FROM events ORDER BY seq DESC") if within(time)]
        assert [moment(time) for time in times] == [event.accepted_at for event in await walk(reader.events, part)]


def name_of(place: Opened, subscription: int) -> str:
    """The id of the subscription with this key."""
    ((name,),) = place.rows("SELECT id FROM subscriptions WHERE seq = ?", subscription)
    assert isinstance(name, str)
    return name


async def test_deliveries_that_are_cancelled_meanwhile_stay_in_the_list(tmp_path: Path) -> None:
    """While upkeep rewrites a deleted subscription's rows, each of them is in every list of cancelled ones, and once."""
    async with opened(tmp_path) as place:
        one = await place.subscribe()
        made = await place.deliver(*drafts(60))
        await place.store.writer.change(changes.delete_subscription(one.id, None))
        for delivery in made:
            change = asyncio.create_task(place.store.writer.change(cancel(delivery.seq)))
            found, _ = await place.store.reader.deliveries(WHOLE, state="cancelled")
            assert [delivery.id for delivery in made[::-1]] == [delivery.id for delivery in found]
            await change


def cancel(seq: int) -> Callable[[Transaction], Awaitable[int]]:
    """What upkeep does to one row."""

    async def step(tx: Transaction) -> int:
        return await tx.run("UPDATE deliveries SET state = 'cancelled', finished_at = ? WHERE seq = ?", (tx.now, seq))

    return step


async def test_cursors_are_stable_under_inserts(tmp_path: Path) -> None:
    """What is made while somebody turns the pages neither repeats nor hides a row."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        made = await place.deliver(*drafts(10))
        for page, rows in (
            (place.store.reader.deliveries, [delivery.id for delivery in made]),
            (place.store.reader.events, [id_ for (id_,) in place.rows("SELECT id FROM events WHERE seq <= 10 ORDER BY seq")]),
        ):
            found: list[str] = []
            before: int | None = 11  # the first page begins at what is there now
            while before is not None:
                some, before = await page(Slice(limit=3, before=before))
                found += [row.id for row in some]
                await place.publish()

            assert rows[::-1] == found


async def test_last_page_says_so(tmp_path: Path) -> None:
    """A page that is exactly full and has no successor has no cursor."""
    async with opened(tmp_path) as place:
        await place.publish(*drafts(4))

        assert ([4, 3], 3) == await keys(place, Slice(limit=2))
        assert ([2, 1], None) == await keys(place, Slice(limit=2, before=3))
        assert ([], None) == await keys(place, Slice(limit=2, before=1))
        assert ([4, 3, 2, 1], None) == await keys(place, Slice(limit=5, before=BEFORE_ALL))


async def keys(place: Opened, part: Slice) -> tuple[list[int], int | None]:
    """The keys of a page of events, and its cursor."""
    found, after = await place.store.reader.events(part)
    return [place.rows("SELECT seq FROM events WHERE id = ?", event.id)[0][0] for event in found], after


async def test_delivery_is_found_by_its_id(tmp_path: Path) -> None:
    """One delivery with its keys; another tenant's and an unknown one are not there."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        await place.publish(draft(tenant="other"))
        (delivery,) = await place.deliver(draft(deliver_at=NOW + HOUR))
        found = await place.store.reader.delivery(delivery.id, "acme")

        assert found is not None
        assert (delivery.id, "pending", moment(NOW + HOUR)) == (found[0].id, found[0].state, found[0].next_attempt_at)
        assert (delivery.seq, delivery.event) == found[1:]
        assert found == await place.store.reader.delivery(delivery.id, None)
        assert await place.store.reader.delivery(delivery.id, "other") is None
        assert await place.store.reader.delivery("dlv_unknown", None) is None


async def test_attempts_come_in_their_order(tmp_path: Path) -> None:
    """Every attempt of one delivery, oldest first, and of no other."""
    request = Request(method="POST", url="https://r.example/", headers=(("a", "b"),), body=b"1")
    answer = Accepted(response=Response(status=200, headers=(("x", "y"),), body=b"ok", truncated=False))
    async with opened(tmp_path) as place:
        await place.subscribe()
        delivery, other = await place.deliver(*drafts(2))
        await place.record(result(other, NO_ANSWER))
        outcomes: list[Outcome] = [NO_ANSWER, NO_ANSWER, answer]
        for time, outcome in enumerate(outcomes):
            (recorded,) = await place.record(result(delivery, outcome, at=NOW + time, request=request))
            delivery = recorded.delivery
        found = await place.store.reader.attempts(delivery.seq)

        assert [(1, NOW), (2, NOW + 1), (3, NOW + 2)] == [(attempt.number, attempt.at) for attempt in found]
        assert ["unreachable", "unreachable", "accepted"] == [attempt.outcome for attempt in found]
        assert ("POST", [("a", "b")], b"ok", [("x", "y")]) == (
            found[2].method,
            found[2].headers,
            found[2].body,
            found[2].response_headers,
        )
        assert [] == await place.store.reader.attempts(99)


# Events.


@pytest.mark.parametrize("type_", [None, "order.created", "unknown"])
@pytest.mark.parametrize("tenant", [None, "acme", "unknown"])
async def test_events_by_type_and_tenant(tmp_path: Path, tenant: str | None, type_: str | None) -> None:
    """Pages hold together what a search of all rows gives, newest first."""
    async with populated(tmp_path) as place:
        expected = [
            id_
            for id_, its_tenant, its_type in place.rows("SELECT id, tenant, type FROM events ORDER BY seq DESC")
            if tenant in (None, its_tenant) and type_ in (None, its_type)
        ]
        part = Slice(limit=3, tenant=tenant)

        assert expected == [event.id for event in await walk(lambda part: place.store.reader.events(part, type=type_), part)]


async def test_event_is_shown_with_its_deliveries(tmp_path: Path) -> None:
    """One event with the producer's bytes, where it went, and as the engine sees it."""
    data = b'{ "n" : 1.0 }'
    async with opened(tmp_path) as place:
        first, second = await place.subscribe(), await place.subscribe()
        (receipt,) = await place.publish(draft(data=data, ordering_key="k", occurred_at=5))
        await place.edit(second, state=SubscriptionState.DISABLED)
        detail = await place.store.reader.event(receipt.event.id, None)
        [event] = (await place.store.reader.events_by_seq([receipt.event.seq]))[0].values()

        assert detail is not None
        assert receipt.event == event
        assert (data, "k", moment(5), moment(NOW)) == (
            detail.data,
            detail.ordering_key,
            detail.occurred_at,
            detail.accepted_at,
        )
        assert [(first.id, "pending"), (second.id, "held")] == [(d.subscription, d.state) for d in detail.deliveries]
        assert detail.deliveries[0].id == (await place.store.reader.deliveries_of(event.seq))[0].id


async def test_event_of_several_tenants(tmp_path: Path) -> None:
    """An id that two tenants use is each one's own; who may see both gets the newest."""
    async with opened(tmp_path) as place:
        await place.publish(draft(id="mine", digest=b"x", data=b"1"))
        await place.publish(draft(id="mine", digest=b"x", data=b"2", tenant="other"))
        reader = place.store.reader

        assert [1, 2, 2, None] == [await reader.event_key("mine", tenant) for tenant in ("acme", "other", None, "third")]
        assert [b"1", b"2", b"2"] == [
            found.data for tenant in ("acme", "other", None) if (found := await reader.event("mine", tenant)) is not None
        ]
        assert await reader.event("unknown", None) is None


async def test_events_by_key_come_together(tmp_path: Path) -> None:
    """The payloads of a turn are one read; what is gone is left out."""
    async with opened(tmp_path) as place:
        receipts = await place.publish(*(draft(data=b"%d" % n, priority=Priority.LOW) for n in range(5)))
        found, unreadable = await place.store.reader.events_by_seq({5, 1, 99})
        assert [] == unreadable

        assert {1: receipts[0].event, 5: receipts[4].event} == found
        assert ({}, []) == await place.store.reader.events_by_seq([])


async def test_deliveries_of_an_event(tmp_path: Path) -> None:
    """They come in the order they were made, as they read."""
    async with opened(tmp_path) as place:
        subscriptions = [await place.subscribe() for _ in range(3)]
        (receipt,) = await place.publish()
        await place.store.writer.change(changes.delete_subscription(subscriptions[1].id, None))
        found = await place.store.reader.deliveries_of(receipt.event.seq)

        assert [(s.id, state) for s, state in zip(subscriptions, ("pending", "cancelled", "pending"), strict=True)] == [
            (d.subscription, d.state) for d in found
        ]
        assert [] == await place.store.reader.deliveries_of(99)


async def test_subscription_is_found_after_its_end(tmp_path: Path) -> None:
    """History of a deleted subscription stays readable to its tenant."""
    async with opened(tmp_path) as place:
        one = await place.subscribe()
        await place.store.writer.change(changes.delete_subscription(one.id, None))
        reader = place.store.reader

        assert [1, 1, None] == [await reader.subscription_key(one.id, tenant) for tenant in (None, "acme", "other")]
        assert await reader.subscription_key("sub_unknown", None) is None


@pytest.mark.row("I52")
async def test_answer_to_a_key(tmp_path: Path) -> None:
    """A key brings what was answered to the same bytes, for a day."""
    key = Key(tenant="acme", method="POST", path="/v1/events", key="k", digest=b"d")
    async with opened(tmp_path) as place:
        await place.store.writer.publish([draft()], key=key, render=lambda _: b"first")
        reader = place.store.reader

        assert Answer(status=202, body=b"first") == await reader.answer(key, now=NOW + DAY - 1)
        for other, now in ((key, NOW + DAY), (replace(key, digest=b"o"), NOW), (replace(key, key="o"), NOW)):
            assert await reader.answer(other, now=now) is None
        assert Answer(status=202, body=b"first") == await reader.answered(key, now=NOW)
        with pytest.raises(IdempotencyMismatch):
            await reader.answered(replace(key, digest=b"other"), now=NOW)


# For the scheduler.


async def test_heads_are_the_first_of_each_lane(tmp_path: Path) -> None:
    """What a start reads is what a search of all rows would give: active subscriptions only."""
    chance = random.Random(4)
    async with opened(tmp_path) as place:
        subscriptions = [await place.subscribe(event_types=(f"s.n{n % 5}",)) for n in range(10)]
        many = [
            draft(
                type=f"s.n{chance.randrange(4)}", deliver_at=NOW + chance.randrange(20), priority=Priority(chance.randrange(3))
            )
            for _ in range(40)
        ]
        made = await place.deliver(*many)
        ended = chance.sample(made, len(made) // 2)
        outcomes: list[Outcome] = chance.choices([DELIVERED, NO_ANSWER, INTERRUPTED], k=len(ended))
        after = [r.delivery for r in await place.record(*map(result, ended, outcomes))]
        await place.edit(subscriptions[0], state=SubscriptionState.DISABLED)
        await place.store.writer.change(changes.delete_subscription(subscriptions[1].id, None))

        expected: dict[int, list[Any]] = {}
        now = {delivery.seq: delivery for delivery in made} | {delivery.seq: delivery for delivery in after}
        for d in sorted(now.values(), key=lambda d: (d.due_at, d.seq)):
            if d.state is DeliveryState.PENDING and d.subscription not in (subscriptions[0].seq, subscriptions[1].seq):
                marks = expected.setdefault(d.subscription, [None, None, None])
                marks[d.priority] = marks[d.priority] or (d.due_at, d.seq)
        assert expected == await place.store.reader.heads()
        assert len(expected) > 3


# Freshness.


@pytest.mark.row("F46")
async def test_reader_sees_what_was_told(tmp_path: Path) -> None:
    """What a publisher or a listener was told of is read at once, also after readers that were cut."""
    chance = random.Random(2)
    async with opened(tmp_path) as place:
        await place.subscribe()
        for n in range(1, 100):
            cut = [asyncio.create_task(place.store.reader.event_key(f"evt-{chance.randrange(n)}", None)) for _ in range(3)]
            for _ in range(chance.randrange(12)):
                await asyncio.sleep(0)
            for task in cut:
                task.cancel()
            await place.publish(draft(id=f"evt-{n}", digest=b"x", deliver_at=NOW + MINUTE))

            assert n == await place.store.reader.event_key(f"evt-{n}", None)
            await asyncio.gather(*cut, return_exceptions=True)


async def test_names_of_deliveries(tmp_path: Path) -> None:
    """A delivery's names are found by its key, also when its subscription is deleted; what is not there is left out."""
    async with opened(tmp_path) as place:
        subscription = await place.subscribe()
        (delivery,) = await place.deliver()
        await place.store.writer.change(changes.delete_subscription(subscription.id, None))
        names = await place.store.reader.names([delivery.seq, 99])

        assert [delivery.seq] == list(names)
        [(event,)] = place.rows("SELECT id FROM events")
        assert (event, subscription.id, "acme", "order.created") == tuple(
            getattr(names[delivery.seq], name) for name in ("event", "subscription", "tenant", "type")
        )
