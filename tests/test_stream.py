"""The ring of what happened, those who follow it, and what they are shown."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from msgspec import UNSET
from msgspec.structs import replace
from patience import PATIENCE
from test_observers import ANSWER, DELIVERY, DISABLED, ERROR, SUBSCRIPTION, changed, finished

from hookengine import stream, views
from hookengine.clock import Clock
from hookengine.models import Accepted, Broken, DeliveryState, Interrupted, Outcome, Refused, Trigger, Unreachable
from hookengine.observers import AttemptsFinished, DeliveryOverruled, Fault, Finished, Happening, LocalTrouble, StorageTrouble
from hookengine.store import Names
from hookengine.stream import Follower, Item, Ring
from hookengine.views import moment

NAMES = {"event": "evt_2", "subscription": "sub_7", "tenant": "acme", "type": "order.created"}
EXPIRED = replace(DELIVERY, state=DeliveryState.FAILED, finished_at=5, failed_label="expired")
OVERRULED = DeliveryOverruled(subscription=SUBSCRIPTION, delivery=replace(DELIVERY, trigger=Trigger.MANUAL))


def fill(ring: Ring, count: int) -> None:
    """Let *count* things happen."""
    for _ in range(count):
        ring(OVERRULED)


async def read(follower: Follower) -> list[int]:
    """The numbers of the items that are there; `LOST`, once, where some are gone."""
    numbers = []
    async with asyncio.timeout(PATIENCE):
        while True:
            if follower.has_lost():
                numbers.append(LOST)
            items = await follower.more(0)
            if not items:
                return numbers
            numbers += [item.number for item in items]


LOST = 0


def kept(*happenings: Happening) -> list[Item]:
    """What a ring keeps of *happenings*."""
    ring = Ring(Clock())
    for happening in happenings:
        ring(happening)
    return ring.between(1, ring.next)


def shown(happening: Happening) -> views.StreamItem:
    """What is shown of *happening*."""
    [item] = kept(happening)
    return stream.shown(item, "here", Names(**NAMES) if item.delivery else None)


# Where one stands.


async def test_following_begins_now() -> None:
    """Who comes gets what happens from then on."""
    ring = Ring(Clock())
    fill(ring, 3)
    follower = ring.follow()
    before = await read(follower)
    fill(ring, 2)

    assert ([], [4, 5]) == (before, await read(follower))
    assert ring.id_of(5) == follower.id


async def test_following_goes_on() -> None:
    """Who comes back with the id of an item gets all that came after it, once."""
    ring = Ring(Clock())
    fill(ring, 5)

    assert [3, 4, 5] == await read(ring.follow(ring.id_of(2)))
    assert [1, 2, 3, 4, 5] == await read(ring.follow(ring.id_of(0)))
    assert [] == await read(ring.follow(ring.id_of(5)))


async def test_many_items_come_in_turns() -> None:
    """More than one turn's worth is read in order, without a gap."""
    ring = Ring(Clock())
    fill(ring, 1000)

    assert list(range(1, 1001)) == await read(ring.follow(ring.id_of(0)))


@pytest.mark.parametrize("size", [1, 4])
async def test_what_is_older_is_lost(size: int) -> None:
    """Only the last items are kept: who stands before them is told so, and goes on with the oldest."""
    ring = Ring(Clock(), size)
    follower = ring.follow()
    fill(ring, size)
    whole = await read(ring.follow(ring.id_of(0)))
    fill(ring, 1)

    assert list(range(1, size + 1)) == whole
    assert [LOST, *range(2, size + 2)] == await read(ring.follow(ring.id_of(0)))
    assert [LOST, *range(2, size + 2)] == await read(follower)
    assert list(range(2, size + 2)) == await read(ring.follow(ring.id_of(1)))


async def test_reader_that_falls_behind_between_two_turns() -> None:
    """Who reads too slowly loses what was overwritten, never gets one item for another, and is told each time."""
    ring = Ring(Clock(), 4)
    follower = ring.follow(ring.id_of(0))
    fill(ring, 2)
    first = await read(follower)
    fill(ring, 9)
    between = await follower.more(0)

    assert ([1, 2], []) == (first, between)
    assert [LOST, 8, 9, 10, 11] == await read(follower)
    assert [] == await read(follower)


@pytest.mark.parametrize(
    "id_",
    [
        pytest.param("", id="empty"),
        pytest.param("7", id="number alone"),
        pytest.param("{run}-3", id="to come"),
        pytest.param("{run}--1", id="negative"),
        pytest.param("{run}-1 ", id="space"),
        pytest.param("{run}-¹", id="no ASCII digit"),
        pytest.param("{run}-" + "9" * 1000, id="long"),
        pytest.param("000000000000-1", id="of an earlier start"),
    ],
)
async def test_ids_that_are_not_known(id_: str) -> None:
    """Whoever brings an id that is none of this start's is told, and gets all that is kept."""
    ring = Ring(Clock())
    fill(ring, 2)

    assert [LOST, 1, 2] == await read(ring.follow(id_.replace("{run}", ring.id_of(1)[:12])))


def test_ids_of_two_starts_differ() -> None:
    """The same number after a restart is another id."""
    assert Ring(Clock()).id_of(1) != Ring(Clock()).id_of(1)


# Waiting.


async def test_waiting_ends_with_the_next_item() -> None:
    """A follower sleeps until something happens, and any number of them hear of it."""
    ring = Ring(Clock())
    followers = [ring.follow() for _ in range(3)]
    async with asyncio.timeout(PATIENCE):
        waiting = [asyncio.create_task(follower.more(PATIENCE)) for follower in followers]
        await asyncio.sleep(0)  # it begins to wait
        fill(ring, 1)

        assert [[1]] * 3 == [[item.number for item in await each] for each in waiting]
    assert set() == ring.waiting


async def test_waiting_has_an_end() -> None:
    """Nothing comes of patience that runs out, or is cancelled, and nothing is left of it."""
    ring = Ring(Clock())
    assert [] == await ring.follow().more(0.001)
    task = asyncio.create_task(ring.follow().more(PATIENCE))
    await asyncio.sleep(0)  # it begins to wait
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert set() == ring.waiting


@pytest.mark.parametrize("whole", [True, False], ids=["ring", "follower"])
async def test_closing_ends_the_waiting(whole: bool) -> None:
    """A ring that is closed ends all following, a follower only its own."""
    ring = Ring(Clock())
    first, second = ring.follow(), ring.follow()
    async with asyncio.timeout(PATIENCE):
        waiting = asyncio.create_task(first.more(PATIENCE))
        await asyncio.sleep(0)  # it begins to wait
        (ring if whole else first).close()

        assert [] == await waiting
    fill(ring, 1)
    assert (True, whole) == (first.ended, second.ended)
    assert ([], [] if whole else [1]) == (await first.more(0), [item.number for item in await second.more(0)])


# What is kept.


def test_little_is_kept() -> None:
    """No body, header, URL or secret stays in memory because of it, and a ring is never larger than its size."""
    ring = Ring(Clock(), 3)
    for _ in range(10):
        ring(finished(Refused(error=ERROR, response=ANSWER)))
        ring(changed(SUBSCRIPTION, DISABLED))

    assert 3 == len(ring._items)
    assert "hush" not in repr(ring._items)


@pytest.mark.parametrize(
    "happening",
    [
        StorageTrouble(error=None),
        LocalTrouble(error="x", pause=1),
        Fault(where="x", error="y"),
        pytest.param(DeliveryOverruled(subscription=SUBSCRIPTION, delivery=DELIVERY), id="brought forward"),
    ],
)
def test_what_is_no_change_of_state_is_not_kept(happening: Happening) -> None:
    """The stream is about deliveries and subscriptions; a delivery that only moves in the queue is as it was."""
    assert [] == kept(happening)


# What is shown.


ATTEMPT: dict[str, Any] = {"number": 1, "at": moment(0), "duration_ms": 12, "trigger": "auto"}


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        pytest.param(Accepted(response=ANSWER), {"outcome": "accepted", "status_code": 500}, id="accepted"),
        pytest.param(
            Refused(error=ERROR, response=ANSWER),
            {"outcome": "refused", "status_code": 500, "error": views.AttemptError(code="http_status", detail="500")},
            id="refused",
        ),
        pytest.param(
            Refused(error=ERROR),
            {"outcome": "refused", "error": views.AttemptError(code="http_status", detail="500")},
            id="refused, unreadable",
        ),
        pytest.param(
            Unreachable(error=ERROR),
            {"outcome": "unreachable", "error": views.AttemptError(code="http_status", detail="500")},
            id="unreachable",
        ),
        pytest.param(Interrupted(), {"outcome": "interrupted"}, id="interrupted"),
        pytest.param(
            Broken(error=ERROR),
            {"outcome": "interrupted", "error": views.AttemptError(code="http_status", detail="500")},
            id="broken",
        ),
    ],
)
def test_attempts_are_shown(outcome: Outcome, expected: dict[str, Any]) -> None:
    """An attempt is what the delivery's own page says of it, without what was sent and answered."""
    item = shown(finished(outcome))

    assert ("here", "attempt", None) == (item.id, item.kind, item.subscription)
    assert views.Attempt(**ATTEMPT | expected) == item.attempt


@pytest.mark.parametrize(
    ("happening", "expected"),
    [
        pytest.param(
            finished(Refused(error=ERROR)),
            {"state": "pending", "next_attempt_at": moment(0), "finished_at": None},
            id="to be tried again",
        ),
        pytest.param(
            AttemptsFinished([replace(finished(Refused(error=ERROR)).finished[0], subscription=DISABLED)]),
            {"state": "held", "next_attempt_at": None, "finished_at": None},
            id="held",
        ),
        pytest.param(
            AttemptsFinished([Finished(EXPIRED, None, SUBSCRIPTION)]),
            {"state": "failed", "next_attempt_at": None, "finished_at": moment(5), "failed_label": "expired"},
            id="expired",
        ),
        pytest.param(OVERRULED, {"state": "pending", "next_attempt_at": moment(0), "finished_at": None}, id="retried by hand"),
        pytest.param(
            DeliveryOverruled(
                subscription=SUBSCRIPTION, delivery=replace(DELIVERY, state=DeliveryState.CANCELLED, finished_at=5)
            ),
            {"state": "cancelled", "next_attempt_at": None, "finished_at": moment(5)},
            id="cancelled by hand",
        ),
    ],
)
def test_deliveries_are_shown(happening: Happening, expected: dict[str, Any]) -> None:
    """A delivery is shown as a list of deliveries would show it."""
    item = shown(happening)
    constant: dict[str, Any] = {"id": "dlv_3", "attempt_count": 1, "created_at": moment(0), "failed_label": UNSET}

    assert views.Delivery(**NAMES | constant | expected) == item.delivery
    assert ("delivery" if item.attempt is None else "attempt") == item.kind


@pytest.mark.parametrize(
    ("happening", "change", "reason"),
    [
        pytest.param(changed(None, SUBSCRIPTION), "created", None, id="created"),
        pytest.param(changed(None, DISABLED), "created", "gone", id="created disabled"),
        pytest.param(changed(SUBSCRIPTION, SUBSCRIPTION), "updated", None, id="updated"),
        pytest.param(changed(SUBSCRIPTION, DISABLED), "disabled", "gone", id="disabled"),
        pytest.param(changed(DISABLED, SUBSCRIPTION), "enabled", None, id="enabled"),
        pytest.param(changed(DISABLED, None), "deleted", None, id="deleted"),
    ],
)
def test_subscriptions_are_shown(happening: Happening, change: str, reason: str | None) -> None:
    """Of a subscription the change is told and none of its settings: the scope that reads them is another one."""
    item = shown(happening)

    assert views.SubscriptionChange(id="sub_7", tenant="acme", change=change, disabled_reason=reason) == item.subscription
    assert ("subscription", None, None) == (item.kind, item.delivery, item.attempt)
