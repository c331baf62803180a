"""The one task that writes: group commit, faults, and its end."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace
from patience import PATIENCE
from storage import (
    DAY,
    DELIVERED,
    GONE,
    HOUR,
    INTERRUPTED,
    LARGE_ANSWER,
    MINUTE,
    NO_ANSWER,
    NOW,
    RULES,
    Faulty,
    Opened,
    draft,
    drafts,
    io_error,
    limit_pages,
    opened,
    result,
    subscription,
    traced,
    write,
)

from hookengine.errors import (
    EventExists,
    IdempotencyMismatch,
    Overloaded,
    PayloadTooLarge,
    RequestError,
    Stopping,
    StorageFailed,
    StorageUnavailable,
    SubscriptionNotFound,
)
from hookengine.gathering import Compose
from hookengine.models import (
    AttemptError,
    Broken,
    DeliveryState,
    DisabledReason,
    ErrorCode,
    Health,
    Priority,
    SubscriptionState,
    WhileDisabled,
)
from hookengine.scheduler import FROM_THE_START, Refill
from hookengine.store import Answer, Draft, Key, Receipt, changes, publications

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from hookengine.lanes import Mark
    from hookengine.models import Delivery, Outcome
    from hookengine.store import Transaction

FULL = "the storage does not take writes: database or disk is full"
BIG = b'"' + b"x" * 300_000 + b'"'


async def all_of(*jobs: Awaitable[Any]) -> list[Any]:
    """What became of each, errors too; none may hang."""
    async with asyncio.timeout(PATIENCE):
        return await asyncio.gather(*jobs, return_exceptions=True)


def keyed(place: Opened, one: Draft, *, key: str = "k", digest: bytes = b"d", **scope: str) -> Awaitable[Any]:
    """Publish *one* with an Idempotency-Key; the answer is the id of the event that it made."""
    whole = Key(**({"tenant": "acme", "method": "POST", "path": "/v1/events"} | scope), key=key, digest=digest)
    return place.store.writer.publish([one], key=whole, render=lambda receipts: receipts[0].event.id.encode())


def commits(statements: list[str]) -> int:
    """How many commits of results and publications there are, each of them a transaction in itself."""
    assert not [each for each in statements if each.startswith(("BEGIN", "COMMIT"))]
    # SQLite tells of each step of a trigger with the statement that fired it.
    return len({each for each in statements if each.startswith("INSERT INTO commits")})


async def refuse(_: Transaction) -> None:
    """A change that cannot be done."""
    raise SubscriptionNotFound


# Publishing.


async def test_publication_is_one_transaction(tmp_path: Path) -> None:
    """Event, deliveries and idempotency key are committed together, before the publisher goes on."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        await place.subscribe()
        async with traced(place) as statements:
            (receipt,) = await keyed(place, draft())

        assert 1 == commits(statements)
        assert [(receipt.event.id, 2)] == place.rows("SELECT id, deliveries FROM events")
        assert [(1, 1, "pending"), (1, 2, "pending")] == place.rows("SELECT event, subscription, state FROM deliveries")
        assert [("k", 202, receipt.event.id.encode())] == place.rows("SELECT key, status, answer FROM idempotency_keys")


async def test_commits_are_told(tmp_path: Path) -> None:
    """The listener hears of every commit, and how many events and deliveries are new in it; what was refused is in none."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        place.listener.commits.clear()
        await place.store.writer.publish([draft(id="a"), draft(id="b", type="order.paid")])
        await place.store.writer.publish([draft(id="a")])
        with pytest.raises(SubscriptionNotFound):
            await place.store.writer.change(refuse)
        await place.subscribe()

        assert [(2, 2), (0, 0), (0, 0)] == place.listener.commits


async def test_waiting_events_are_counted(tmp_path: Path) -> None:
    """Events wait for their commit from the moment that they are published."""
    async with opened(tmp_path) as place:
        task = asyncio.create_task(place.store.writer.publish([draft(), draft()]))
        await asyncio.sleep(0)
        waiting = place.store.writer.waiting
        await task

        assert (2, 0) == (waiting, place.store.writer.waiting)


async def test_order_of_telling(tmp_path: Path) -> None:
    """Once the rows of a commit are visible to others publishers go on, and then the listener hears of its deliveries."""
    order: list[tuple[str, int]] = []
    async with opened(tmp_path) as place:
        await place.subscribe()
        (delivery,) = await place.deliver()
        place.listener.look = lambda name: order.append((name, place.rows("SELECT count(*) FROM events")[0][0]))

        async def publisher() -> None:
            await place.publish()
            order.append(("publisher", 2))

        task = asyncio.create_task(publisher())
        await place.record(result(delivery, DELIVERED))
        await task

    assert [("publisher", 2), ("recorded", 2), ("accepted", 2)] == order


async def test_deliveries_are_told_while_sqlite_does_the_next_commit(tmp_path: Path) -> None:
    """A publisher that goes on at once has its next event on the way to the disk before his last one's delivery is told."""
    order: list[tuple[str, int]] = []
    async with opened(tmp_path) as place:
        await place.subscribe()
        place.listener.look = lambda name: order.append((name, place.store.writer.waiting))
        for _ in range(2):
            await place.publish()
            order.append(("publisher", place.store.writer.waiting))
        await place.listener.until("accepted", 2)

    assert [("publisher", 0), ("accepted", 0), ("publisher", 0), ("accepted", 0)] == order


@pytest.mark.parametrize(
    ("name", "begin"),
    [
        pytest.param("changed", lambda place: place.subscribe(), id="change"),
        pytest.param("refilled", lambda place: place.refill(Refill(1, Priority.NORMAL, (0, 0), 10)), id="refill"),
        pytest.param("composed", lambda place: place.compose(Compose(1, 10, 0, (1, 1, 1))), id="batch"),
    ],
)
async def test_deliveries_are_told_before_anything_else(
    tmp_path: Path, name: str, begin: Callable[[Opened], Awaitable[Any]]
) -> None:
    """Whoever changes or reads rows in the wake of a commit finds what the listener knows."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        place.listener.told.clear()
        await all_of(place.publish(), begin(place))

        assert ["accepted", name] == [told for told, _ in place.listener.told]


async def test_deliveries_are_told_before_the_next_commit_fails(tmp_path: Path) -> None:
    """A commit that cannot even begin does not keep what the one before it entails."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        (delivery,) = await place.deliver()
        place.listener.told.clear()
        await place.publish()
        one = result(delivery, DELIVERED)
        assert one.attempt is not None
        place.store.writer.record(replace(one, attempt=replace(one.attempt, number=1 << 64)))
        await place.listener.until("unrecorded")

        assert ["accepted", "unrecorded"] == [told for told, _ in place.listener.told]


async def test_results_and_publications_share_a_commit(tmp_path: Path) -> None:
    """What waits together is committed together, and the results are told first."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        (delivery,) = await place.deliver()
        place.listener.told.clear()
        async with traced(place) as statements:
            place.store.writer.record(result(delivery, DELIVERED))
            await place.publish()

        assert 1 == commits(statements)
        assert ["recorded", "accepted"] == [name for name, _ in place.listener.told]


async def test_commits_are_grouped(tmp_path: Path) -> None:
    """A thousand publishers at once need few commits, each as large as it may be, and each gets its own receipt."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        async with traced(place) as statements:
            receipts = await all_of(*(place.publish() for _ in range(1_000)))

        assert [128] * 7 + [104] == [len(batch) for batch in place.listener.all("accepted")]
        assert 8 == commits(statements)
        assert 1_000 == len({receipt.event.id for (receipt,) in receipts})
        assert [(1_000,)] == place.rows("SELECT count(*) FROM deliveries")


async def test_many_results_are_spread_over_commits(tmp_path: Path) -> None:
    """What large batches bring at once waits for the next commit, with the reads that must not come before it."""
    async with opened(tmp_path) as place:
        made = await place.subscribe()
        waiting = await place.deliver(*drafts(2_801))
        place.listener.told.clear()
        for first in range(0, 2_700, 900):
            batch = waiting[first : first + 900]
            place.store.writer.record(*(replace(result(each, DELIVERED), head=batch[0], shares=True) for each in batch))
        for each in waiting[2_700:]:
            place.store.writer.record(result(each, DELIVERED))
        place.store.writer.compose(Compose(made.seq, 10, 0, (1, 1, 1)))

        assert ([], None) == await place.refill(Refill(made.seq, Priority.NORMAL, (0, 0), 10))
        assert [2_700, 101] == [len(each) for each in place.listener.all("recorded")]
        assert ["recorded", "recorded", "composed", "refilled"] == [told for told, _ in place.listener.told]


async def test_keys_are_in_the_order_of_commits(tmp_path: Path) -> None:
    """Rows are numbered as they are committed: in the order of asking, within an array in its order."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        arrays = [[draft(type=f"t.n{array}.n{item}") for item in range(3)] for array in range(50)]
        receipts = await all_of(*(place.publish(*array) for array in arrays))

        types = [one.type for array in arrays for one in array]
        assert types == [receipt.event.type for array in receipts for receipt in array]
        assert list(range(1, 151)) == [receipt.event.seq for array in receipts for receipt in array]
        assert [(name,) for name in types] == place.rows("SELECT type FROM events ORDER BY seq")
        told = [pair for batch in place.listener.all("accepted") for pair in batch]
        assert [(n, n) for n in range(1, 151)] == [(delivery.seq, event.seq) for delivery, event in told]


@pytest.mark.parametrize("error", [io_error("SQLITE_IOERR_WRITE"), MemoryError("no memory")], ids=["disk", "memory"])
async def test_failed_commit_leaves_nothing(tmp_path: Path, error: Exception) -> None:
    """What could not be committed is nowhere: not in the file, not with the listener, not with the publisher."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        faulty = Faulty(place)
        faulty.error = error

        with pytest.raises(StorageUnavailable, match=f"the storage does not take writes: {error}"):
            await keyed(place, draft())

        faulty.error = None
        assert [(0, 0, 0)] == place.rows(
            "SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM deliveries), (SELECT count(*) FROM idempotency_keys)"
        )
        assert [] == place.listener.all("accepted")
        (receipt,) = await keyed(place, draft())
        assert [(receipt.event.id,)] == place.rows("SELECT id FROM events")


async def test_cancelled_publisher_is_heard(tmp_path: Path) -> None:
    """An event whose publisher went away after sending it is stored and handed on."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        task = asyncio.create_task(place.publish())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

        ((told,),) = await place.listener.until("accepted")
        assert [(told[0].id,)] == place.rows("SELECT id FROM deliveries")


async def test_held_and_skipped(tmp_path: Path) -> None:
    """A subscription that is disabled gets what it holds, and nothing that it skips."""
    async with opened(tmp_path) as place:
        hold = await place.subscribe()
        skip = await place.subscribe(while_disabled=WhileDisabled.SKIP)
        for one in (hold, skip):
            await place.edit(one, state=SubscriptionState.DISABLED)

        assert [hold.seq] == [delivery.subscription for delivery in await place.deliver()]
        for one in (hold, skip):
            await place.edit(one, state=SubscriptionState.ACTIVE)
        assert [hold.seq, skip.seq] == [delivery.subscription for delivery in await place.deliver()]


async def test_chosen_subscriptions_and_times(tmp_path: Path) -> None:
    """`only`, `deliver_at`, `expires_at` and the priority are in the rows."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        chosen = await place.subscribe(event_types=("user.*",))
        await place.publish(
            draft(only=frozenset({chosen.id}), deliver_at=NOW + HOUR, expires_at=NOW + DAY, priority=Priority.LOW)
        )

        assert [(chosen.seq, NOW + HOUR, NOW + DAY, 2)] == place.rows(
            "SELECT subscription, due_at, expires_at, priority FROM deliveries"
        )


async def test_large_fan_out_is_spread_over_commits(tmp_path: Path) -> None:
    """Publications that make many deliveries wait for the next commit, in their order, so that none is too large."""
    async with opened(tmp_path) as place:
        for _ in range(20):
            await place.subscribe()
        async with traced(place) as statements:
            receipts = await all_of(*(place.publish(*drafts(3)) for _ in range(10)))

        assert [20] * 30 == [receipt.deliveries for array in receipts for receipt in array]
        assert list(range(1, 31)) == [receipt.event.seq for array in receipts for receipt in array]
        assert [180, 180, 180, 60] == [len(batch) for batch in place.listener.all("accepted")]
        assert 4 == commits(statements)
        assert (0, 0) == (place.store.writer._publications.count, place.store.writer._publications.size)


async def test_large_events_are_spread_over_commits(tmp_path: Path) -> None:
    """Events that are large together wait for the next commit, in their order, so that memory stays bounded."""
    large = b'"' + b"x" * (1 << 20) + b'"'
    async with opened(tmp_path) as place:
        await place.subscribe()
        before = len(place.listener.commits)
        receipts = await all_of(*(place.publish(draft(data=large)) for _ in range(20)))

        assert list(range(1, 21)) == [receipt.event.seq for (receipt,) in receipts]
        assert [8, 8, 4] == [len(batch) for batch in place.listener.all("accepted")]
        assert 3 == len(place.listener.commits) - before
        assert (0, 0) == (place.store.writer._publications.count, place.store.writer._publications.size)


async def test_refusal_lets_others_run(tmp_path: Path) -> None:
    """Whoever is refused and tries again at once, without a pause, does not keep the loop from what makes room."""
    async with opened(tmp_path) as place:
        place.store.writer._publications.count = publications.MOST_WAITING
        ran: list[bool] = []
        asyncio.get_running_loop().call_soon(ran.append, True)
        with pytest.raises(Overloaded):
            await place.publish()

        assert ran
        place.store.writer._publications.count = 0


async def test_what_is_too_large_for_ever_is_not_unavailable(tmp_path: Path) -> None:
    """Whoever publishes more than SQLite has room for hears it at once, and others go on."""
    async with opened(tmp_path) as place:
        with pytest.raises(PayloadTooLarge):
            await place.publish(draft(data=bytes(900_000_001)))  # of zeros, that nobody looks at

        assert 1 == len(await place.publish())


async def test_guilty_event_in_a_large_fan_out_fails_alone(tmp_path: Path) -> None:
    """What was left to the next commit is not stored twice when the present one fails."""
    async with opened(tmp_path) as place:
        for _ in range(20):
            await place.subscribe()
        arrays = [drafts(100), drafts(100, expires_at=1 << 64), *(drafts(100) for _ in range(4))]
        ended = await all_of(*(place.publish(*array) for array in arrays))

        assert [list, StorageUnavailable, list, list, list, list] == [type(receipts) for receipts in ended]
        await place.publish()  # after it nothing waits any more
        assert [(501, 10_020)] == place.rows("SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM deliveries)")


# Ids and keys.


@pytest.mark.parametrize("together", [True, False], ids=["in one commit", "one after the other"])
async def test_repeated_id(tmp_path: Path, *, together: bool) -> None:
    """An id brings its first receipt for the same digest, EventExists for another, and one row in all."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        jobs = [place.publish(draft(id="mine", digest=digest)) for digest in (b"x", b"x", b"y")]
        first, again, other = await all_of(*jobs) if together else [(await all_of(job))[0] for job in jobs]

        assert [(first[0].event.id, 1)] == [(receipt.event.id, receipt.deliveries) for receipt in again]
        assert first[0].event.accepted_at == again[0].event.accepted_at
        assert isinstance(other, EventExists)
        assert [(1,)] == place.rows("SELECT count(*) FROM events")


async def test_array_with_a_taken_id_is_refused_whole(tmp_path: Path) -> None:
    """All or nothing: the other events of the array are not stored, those of other publishers are."""
    async with opened(tmp_path) as place:
        await place.publish(draft(id="mine", digest=b"x"))
        bad, good = await all_of(
            place.publish(draft(id="new", digest=b"n"), draft(id="mine", digest=b"y")),
            place.publish(draft(id="good", digest=b"g")),
        )

        assert isinstance(bad, EventExists)
        assert "good" == good[0].event.id
        assert [("mine",), ("good",)] == place.rows("SELECT id FROM events ORDER BY seq")


async def test_repeated_key(tmp_path: Path) -> None:
    """A key brings the first answer for the same bytes, IdempotencyMismatch for others, and one event in all."""
    async with opened(tmp_path) as place:
        (receipt,) = await keyed(place, draft())

        assert Answer(status=202, body=receipt.event.id.encode()) == await keyed(place, draft())
        with pytest.raises(IdempotencyMismatch):
            await keyed(place, draft(), digest=b"other")
        assert [(1,)] == place.rows("SELECT count(*) FROM events")


async def test_hundred_at_once_with_one_key(tmp_path: Path) -> None:
    """Of many requests with one key one makes the event, and all others get its answer."""
    async with opened(tmp_path) as place:
        answers = await all_of(*(keyed(place, draft()) for _ in range(100)))

        ((id_,),) = place.rows("SELECT id FROM events")
        assert {Answer(status=202, body=id_.encode()): 99} == Counter(a for a in answers if isinstance(a, Answer))
        assert [id_] == [answer[0].event.id for answer in answers if isinstance(answer, list)]


@pytest.mark.parametrize(("age", "repeated"), [(DAY - 1, True), (DAY, False)], ids=["a day but 1 ms", "a day"])
async def test_key_is_kept_for_a_day(tmp_path: Path, age: int, *, repeated: bool) -> None:
    """After 24 hours a key is as good as new, also with other bytes, and begins another day."""
    async with opened(tmp_path) as place:
        await keyed(place, draft())
        place.clock.time += age
        second = await keyed(place, draft(), digest=b"d" if repeated else b"other")

        assert repeated is isinstance(second, Answer)
        if not repeated:
            assert [(NOW + DAY,)] == place.rows("SELECT created_at FROM idempotency_keys")
            assert isinstance(await keyed(place, draft(), digest=b"other"), Answer)


@pytest.mark.parametrize("scope", ["tenant", "method", "path"])
async def test_keys_of_other_scopes_are_independent(tmp_path: Path, scope: str) -> None:
    """The same key of another tenant, method or path is another key."""
    async with opened(tmp_path) as place:
        answers = await all_of(keyed(place, draft()), keyed(place, draft(), digest=b"o", **{scope: "other"}))
        again = await all_of(keyed(place, draft()), keyed(place, draft(), digest=b"o", **{scope: "other"}))

        assert [list, list, Answer, Answer] == [type(answer) for answer in answers + again]


async def test_key_and_id_survive_a_restart(tmp_path: Path) -> None:
    """Deduplication is in rows."""
    async with opened(tmp_path) as place:
        (receipt,) = await keyed(place, draft(id="mine", digest=b"x"))
    async with opened(tmp_path) as place:
        assert Answer(status=202, body=b"mine") == await keyed(place, draft(id="mine", digest=b"x"))
        (again,) = await place.publish(draft(id="mine", digest=b"x"))

    assert (receipt.event.id, receipt.event.accepted_at) == (again.event.id, again.event.accepted_at)


# Results.


async def test_result_is_stored(tmp_path: Path) -> None:
    """A success finishes its delivery, and is an attempt and a count."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        (delivery,) = await place.deliver()
        (recorded,) = await place.record(result(delivery, DELIVERED))

        assert DeliveryState.DELIVERED is recorded.delivery.state
        assert [("delivered", 1, NOW + 20)] == place.rows("SELECT state, attempt_count, finished_at FROM deliveries")
        assert [(1, 1, "accepted", 204)] == place.rows("SELECT delivery, number, outcome, status_code FROM attempts")
        assert [(0, NOW + 20)] == place.rows("SELECT consecutive_failures, last_success_at FROM health")
        assert recorded.health == place.store.memory.health[1]


@pytest.mark.parametrize(
    ("by_hand", "state", "due_at"),
    [
        pytest.param("retry", "pending", NOW + 5, id="retried"),
        pytest.param("cancel", "cancelled", NOW, id="cancelled"),
    ],
)
async def test_result_gives_way_to_what_was_done_by_hand(tmp_path: Path, by_hand: str, state: str, due_at: int) -> None:
    """A result applies only to the row as the attempt knew it; the attempt is recorded all the same."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        (delivery,) = await place.deliver()
        place.clock.time += 5
        step = changes.retry_delivery if by_hand == "retry" else changes.cancel_delivery
        await place.store.writer.change(step(delivery.id, None))
        await place.record(result(delivery, NO_ANSWER))

        assert [(state, due_at, 0)] == place.rows("SELECT state, due_at, step FROM deliveries")
        assert [("unreachable",)] == place.rows("SELECT outcome FROM attempts")


async def test_result_after_the_subscription_is_deleted(tmp_path: Path) -> None:
    """The attempt is recorded and the delivery stays cancelled, even if it succeeded."""
    async with opened(tmp_path) as place:
        gone = await place.subscribe()
        (delivery,) = await place.deliver()
        await place.store.writer.change(changes.delete_subscription(gone.id, None))
        (recorded,) = await place.record(result(delivery, DELIVERED))

        assert DeliveryState.CANCELLED is recorded.delivery.state
        assert [("cancelled",)] == place.rows("SELECT state FROM deliveries")
        assert [("accepted",)] == place.rows("SELECT outcome FROM attempts")
        assert [(0, None)] == place.rows("SELECT consecutive_failures, last_success_at FROM health")


async def test_consecutive_interrupted_attempts_are_one_row(tmp_path: Path) -> None:
    """Trouble of this machine does not fill the disk, nor take the place of what the endpoint did or a fault in our code."""
    parked = Broken(error=AttemptError(code=ErrorCode.INTERNAL_ERROR, detail="KeyError"))
    outcomes: list[Outcome] = [NO_ANSWER, INTERRUPTED, INTERRUPTED, NO_ANSWER, INTERRUPTED, parked, INTERRUPTED]
    async with opened(tmp_path) as place:
        await place.subscribe()
        (delivery,) = await place.deliver()
        for time, outcome in enumerate(outcomes):
            (recorded,) = await place.record(result(replace(delivery, step=0), outcome, at=NOW + time))
            delivery = recorded.delivery

        assert [
            (0, "unreachable"),
            (2, "interrupted"),
            (3, "unreachable"),
            (4, "interrupted"),
            (5, "interrupted"),
            (6, "interrupted"),
        ] == [(at - NOW, outcome) for at, outcome in place.rows("SELECT at, outcome FROM attempts ORDER BY seq")]


@pytest.mark.parametrize(
    ("rules", "outcome", "reason"),
    [
        (replace(RULES, disable_after_failures=1), NO_ANSWER, DisabledReason.FAILURES),
        (replace(RULES, gone=frozenset({410})), GONE, DisabledReason.GONE),
    ],
    ids=["failures", "gone"],
)
async def test_disabling_is_one_transaction_with_its_cause(
    tmp_path: Path, rules: Any, outcome: Any, reason: DisabledReason
) -> None:
    """Attempt, counters and state of the subscription change together, and whoever is told finds them so."""
    async with opened(tmp_path) as place:
        one = await place.subscribe(version=4)
        (delivery,) = await place.deliver()
        seen: list[Any] = []
        place.listener.look = lambda name: seen.append(
            (name, place.rows("SELECT state, disabled_reason, version FROM subscriptions")[0])
        )
        async with traced(place) as statements:
            (recorded,) = await place.record(result(delivery, outcome, rules=rules))

        assert 1 == commits(statements)
        assert reason is recorded.disabled
        assert [("changed", ("disabled", reason, 5)), ("recorded", ("disabled", reason, 5))] == seen
        assert (one, place.store.memory.index.get(one.seq)) == place.listener.all("changed")[-1]
        assert [(1,)] == place.rows("SELECT consecutive_failures FROM health")


async def test_counters_survive_a_restart(tmp_path: Path) -> None:
    """Health is rows."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        for delivery in await place.deliver(*drafts(3)):
            await place.record(result(delivery, NO_ANSWER))
        before = dict(place.store.memory.health)
    async with opened(tmp_path) as place:
        assert before == place.store.memory.health
        assert 3 == before[1].consecutive_failures


# Refills.


async def walk(place: Opened, priority: Priority, limit: int) -> list[Delivery]:
    """A lane's rows of one priority, fetched by *limit*, from mark to mark."""
    found: list[Delivery] = []
    mark: Mark | None = FROM_THE_START
    while mark is not None:
        deliveries, mark = await place.refill(Refill(1, priority, mark, limit))
        assert limit == len(deliveries) or mark is None
        found += deliveries
    return found


@pytest.mark.parametrize("limit", [1, 7, 60, 61])
async def test_refills_walk_the_lane(tmp_path: Path, limit: int) -> None:
    """From mark to mark every pending row of the lane and priority comes once, by due time and then by key."""
    chance = random.Random(limit)
    async with opened(tmp_path) as place:
        await place.subscribe()
        await place.subscribe()
        many = [draft(deliver_at=NOW + chance.randrange(9), priority=Priority(chance.randrange(3))) for _ in range(180)]
        made = [delivery for delivery in await place.deliver(*many) if delivery.subscription == 1]
        gone = chance.sample(made, 30)
        await place.record(*(result(delivery, DELIVERED) for delivery in gone))

        for priority in Priority:
            waiting = [d for d in made if d not in gone and d.priority == priority]
            assert sorted(waiting, key=lambda d: (d.due_at, d.seq)) == await walk(place, priority, limit)


async def test_refill_begins_at_its_mark(tmp_path: Path) -> None:
    """The mark itself is the first row, and the next mark is the row after the last."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        made = await place.deliver(*(draft(deliver_at=NOW + 10 * n) for n in range(1, 6)))
        deliveries, mark = await place.refill(Refill(1, Priority.NORMAL, (made[1].due_at, made[1].seq), 2))

        assert made[1:3] == deliveries
        assert (made[3].due_at, made[3].seq) == mark
        assert ([], None) == await place.refill(Refill(1, Priority.HIGH, FROM_THE_START, 2))
        assert ([], None) == await place.refill(Refill(9, Priority.NORMAL, FROM_THE_START, 2))


@pytest.mark.row("F37")
async def test_poison_row_is_given_up(tmp_path: Path) -> None:
    """A row that cannot be read is named and fails, and the rest of its lane flows."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        made = await place.deliver(*(draft(deliver_at=NOW + 10 * n) for n in range(1, 4)))
        write(place.path, f"UPDATE deliveries SET trigger = 'nonsense' WHERE seq = {made[1].seq}")
        deliveries, mark = await place.refill(Refill(1, Priority.NORMAL, FROM_THE_START, 10))

        assert ([made[0], made[2]], None) == (deliveries, mark)
        ((where, _),) = await place.listener.until("unreadable")
        assert made[1].id in where
        assert [("failed", "internal error")] == place.rows("SELECT state, failed_label FROM deliveries WHERE seq = 2")


async def test_refill_sees_every_result_before_it(tmp_path: Path) -> None:
    """A row whose result was sent before the refill does not come again, however many results wait."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        made = await place.deliver(*drafts(1_500))
        for delivery in made[:-1]:
            place.store.writer.record(result(delivery, DELIVERED if delivery.seq % 2 else NO_ANSWER))
        deliveries, mark = await place.refill(Refill(1, Priority.NORMAL, FROM_THE_START, 5))

        assert made[-1] == deliveries[0]
        assert [NOW + 20 + 10 * MINUTE] * 4 == [delivery.due_at for delivery in deliveries[1:]]
        assert mark is not None


# Faults.


@pytest.mark.parametrize(
    "guilty",
    [
        pytest.param({"expires_at": 1 << 64}, id="a number beyond 64 bit"),
        pytest.param({"type": "\ud800"}, id="a surrogate"),
        pytest.param({"id": "\ud800", "digest": b"x"}, id="a surrogate as id"),
    ],
)
async def test_guilty_event_fails_alone(tmp_path: Path, guilty: dict[str, Any]) -> None:
    """A row that SQLite does not take costs its own publisher, not the others of the commit, nor their results."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        (delivery,) = await place.deliver()
        place.store.writer.record(result(delivery, DELIVERED))
        good, bad, also_good = await all_of(
            place.publish(draft(id="a", digest=b"a")),
            place.publish(draft(**guilty)),
            place.publish(draft(id="b", digest=b"b")),
        )

        assert isinstance(bad, StorageUnavailable)
        assert "the event cannot be stored" in str(bad)
        assert ["a", "b"] == [receipts[0].event.id for receipts in (good, also_good)]
        assert [("a",), ("b",)] == place.rows("SELECT id FROM events WHERE seq > 1 ORDER BY seq")
        assert [("delivered",), ("pending",), ("pending",)] == place.rows("SELECT state FROM deliveries ORDER BY seq")
        assert [] == place.listener.all("storage")


async def test_guilty_result_fails_alone(tmp_path: Path) -> None:
    """A result that cannot be stored is told as such, and those beside it are stored."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        made = await place.deliver(*drafts(3))
        results = [result(delivery, DELIVERED) for delivery in made]
        assert results[1].attempt is not None
        results[1] = replace(results[1], attempt=replace(results[1].attempt, number=1 << 64))
        for one in results:
            place.store.writer.record(one)
        ((told, error),) = await place.listener.until("unrecorded")

        assert results[1] is told
        assert isinstance(error, TypeError)
        await place.listener.until("recorded", 2)
        assert [("delivered",), ("pending",), ("delivered",)] == place.rows("SELECT state FROM deliveries ORDER BY seq")


async def test_render_that_fails_costs_its_own_publisher(tmp_path: Path) -> None:
    """A fault in what makes the answer is nobody else's."""

    def render(_: list[Receipt]) -> bytes:
        raise KeyError("x")

    key = Key(tenant="acme", method="POST", path="/", key="k", digest=b"")
    async with opened(tmp_path) as place:
        bad, good = await all_of(place.store.writer.publish([draft()], key=key, render=render), place.publish())

        assert isinstance(bad, StorageUnavailable)
        assert isinstance(good, list)
        assert [(1,)] == place.rows("SELECT count(*) FROM events")


async def test_full_disk_refuses_publishers_and_recovers(tmp_path: Path) -> None:
    """Publishers hear of a full disk, as does the listener, who hears again once there is space, though nobody asked."""
    async with opened(tmp_path) as place:
        await limit_pages(place, 8)
        with pytest.raises(StorageUnavailable, match=FULL):
            await place.publish(draft(data=BIG))
        (error,) = place.listener.all("storage")
        assert isinstance(error, sqlite3.OperationalError)

        await limit_pages(place, None)
        told = await place.listener.until("storage", 2)
        while told[-1] is not None:
            told = await place.listener.until("storage", len(told) + 1)
        await place.publish(draft(data=BIG))
        assert [(1,)] == place.rows("SELECT count(*) FROM events")


async def test_full_disk_is_looked_at_again_and_again(tmp_path: Path) -> None:
    """While the disk is full the writer tries by itself, and what it tries with is not left behind."""
    async with opened(tmp_path) as place:
        await limit_pages(place, 8)
        await all_of(place.publish(draft(data=BIG)))

        assert all(error is not None for error in await place.listener.until("storage", 3))
        await limit_pages(place, None)
        while (await place.listener.until("storage", len(place.listener.all("storage")) + 1))[-1] is not None:
            pass
        assert ["vault_check"] == [name for (name,) in place.rows("SELECT name FROM meta")]


async def test_full_disk_keeps_results(tmp_path: Path) -> None:
    """A result waits for space and is stored then; publishers meanwhile are refused."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        (delivery,) = await place.deliver()
        await limit_pages(place, 4)
        place.store.writer.record(result(delivery, LARGE_ANSWER))
        await place.listener.until("storage")

        assert [StorageUnavailable] == [type(error) for error in await all_of(place.publish())]
        assert [("pending",)] == place.rows("SELECT state FROM deliveries")
        assert [] == place.listener.all("recorded")
        await limit_pages(place, None)
        await place.listener.until("recorded")
        assert [("delivered",)] == place.rows("SELECT state FROM deliveries")
        assert place.listener.all("storage")[-1] is None


async def test_closing_does_not_wait_for_space(tmp_path: Path) -> None:
    """A stop on a full disk ends: what cannot be recorded is told, and is made again at the next start."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        (delivery,) = await place.deliver()
        await limit_pages(place, 4)
        one = result(delivery, LARGE_ANSWER)
        place.store.writer.record(one)
        await place.listener.until("storage")
        async with asyncio.timeout(PATIENCE):
            await place.store.close()

        assert [one] == [told for told, _ in place.listener.all("unrecorded")]
    async with opened(tmp_path) as place:
        assert {1: [None, (NOW, 1), None]} == await place.store.reader.heads()


@pytest.mark.row("F14")
async def test_locked_database_is_unavailable(tmp_path: Path) -> None:
    """While another program holds the lock, publishers are told so; after it, all goes on."""
    async with opened(tmp_path) as place:
        await place.store.writer._db.execute("PRAGMA busy_timeout = 1")
        other = sqlite3.connect(place.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        published, changed = await all_of(place.publish(), place.subscribe())
        other.close()

        assert "the storage does not take writes: database is locked" == str(published)
        assert "the storage does not take writes: database is locked" == str(changed)
        assert isinstance(changed, StorageUnavailable)
        await place.publish()


@pytest.mark.row("F14")
async def test_locked_database_holds_nobody_up_for_the_others(tmp_path: Path) -> None:
    """Whoever waits while another program holds the lock hears of it when the first does, and not one after the other."""
    async with opened(tmp_path) as place:
        await place.store.writer._db.execute(f"PRAGMA busy_timeout = {PATIENCE * 1000 // 20}")
        other = sqlite3.connect(place.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        async with asyncio.timeout(PATIENCE):
            refused = await all_of(*(place.publish() for _ in range(4_000)), *(place.subscribe() for _ in range(200)))
        other.close()

        assert {StorageUnavailable} == {type(error) for error in refused}
        assert 0 == place.store.writer.waiting
        await place.subscribe()


@pytest.mark.row("F14")
async def test_start_does_not_need_the_lock(tmp_path: Path) -> None:
    """A store that another program has locked opens, as one that is open outlives it."""
    async with opened(tmp_path) as place:
        await place.subscribe()
    with closing(sqlite3.connect(place.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with opened(tmp_path) as place:
            other.execute("ROLLBACK")
            assert 1 == len(await place.deliver())


@pytest.mark.row("F14")
@pytest.mark.parametrize("results", [0, 2])
async def test_who_was_refused_is_not_stored(tmp_path: Path, results: int) -> None:
    """Where a lock comes over what a commit of many had to be taken apart for, whoever hears of it has nothing on disk."""

    class Twice(Faulty):
        @property
        def error(self) -> Exception | None:
            return errors.pop(0) if errors else None

        @error.setter
        def error(self, _: Exception | None) -> None:
            pass

    errors: list[Exception] = [sqlite3.IntegrityError("some row"), io_error("SQLITE_BUSY")]
    async with opened(tmp_path) as place:
        await place.subscribe()
        made = await place.deliver(*drafts(2))
        Twice(place)

        async def record() -> None:
            for each in made[:results]:
                place.store.writer.record(result(each, DELIVERED))

        _, *refused = await all_of(record(), *(place.publish() for _ in range(3)))
        await place.subscribe()  # after what is done by itself

        assert [StorageUnavailable] * 3 == [type(error) for error in refused]
        assert [(2,)] == place.rows("SELECT count(*) FROM events")
        assert [(results,)] == place.rows("SELECT count(*) FROM deliveries WHERE state = 'delivered'")


@pytest.mark.row("F14")
@pytest.mark.parametrize("publishes", [True, False], ids=["publishing", "changing"])
async def test_recovery_is_noticed_whatever_comes(tmp_path: Path, publishes: bool) -> None:
    """Whoever finds the storage locked tells of it; that it works again shows also where nothing comes but changes."""
    async with opened(tmp_path) as place:
        await place.store.writer._db.execute("PRAGMA busy_timeout = 1")
        other = sqlite3.connect(place.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        await all_of(place.publish() if publishes else place.subscribe())
        other.close()
        [error] = place.listener.all("storage")
        async with asyncio.timeout(PATIENCE):
            while place.listener.all("storage")[-1] is not None:
                await place.subscribe()

        assert isinstance(error, sqlite3.OperationalError)


@pytest.mark.parametrize(
    "name",
    ["SQLITE_IOERR_FSYNC", "SQLITE_IOERR_DIR_FSYNC", "SQLITE_CORRUPT", "SQLITE_CORRUPT_INDEX", "SQLITE_NOTADB"],
)
async def test_storage_that_fails_ends_everything(tmp_path: Path, name: str) -> None:
    """After a sync that failed nobody knows what is on disk: all who wait or come later are told so."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        watching = asyncio.create_task(place.store.failed())
        faulty = Faulty(place)
        faulty.error = io_error(name)
        many = [*(place.publish() for _ in range(50)), place.store.writer.change(refuse), place.subscribe()]
        ended = await all_of(*many)
        faulty.error = None

        assert {StorageFailed} == {type(error) for error in ended}
        assert {"the storage failed: disk I/O error"} == {str(error).partition(";")[0] for error in ended}
        for _ in range(2):
            with pytest.raises(StorageFailed):
                await place.publish()
            with pytest.raises(StorageFailed):
                await place.subscribe()
        with pytest.raises(StorageFailed):
            await watching
        assert [] == place.listener.all("accepted")
    async with opened(tmp_path) as place:  # the lock is free
        assert [(0,)] == place.rows("SELECT count(*) FROM events")


async def test_refused_callers_do_not_pile_up_in_the_error(tmp_path: Path) -> None:
    """A program that goes on publishing after the end does not make the error grow."""
    async with opened(tmp_path) as place:
        faulty = Faulty(place)
        faulty.error = io_error("SQLITE_IOERR_FSYNC")
        await all_of(place.publish())
        lengths = []
        for _ in range(5):
            (error,) = await all_of(place.publish())
            traceback, length = error.__traceback__, 0
            while traceback is not None:
                traceback, length = traceback.tb_next, length + 1
            lengths.append(length)

        assert 1 == len(set(lengths))
        with pytest.raises(StorageFailed):
            await place.store.failed()


async def test_storage_that_fails_in_a_change_ends_everything(tmp_path: Path) -> None:
    """The same for a change that runs alone, and for those who wait behind it."""
    async with opened(tmp_path) as place:
        faulty = Faulty(place)
        faulty.error = io_error("SQLITE_IOERR_FSYNC")
        ended = await all_of(place.subscribe(), place.subscribe())

        assert [StorageFailed] * 2 == [type(error) for error in ended]
        assert 0 == len(place.store.memory.index)
        with pytest.raises(StorageFailed):
            await place.store.failed()


async def test_unreadable_refill_is_asked_again(tmp_path: Path) -> None:
    """A read that fails brings nothing and leaves the mark where it was, so that the lane asks again."""

    class Unreadable(Faulty):
        async def execute_fetchall(self, *_: Any) -> Any:
            raise sqlite3.OperationalError("disk I/O error")

    async with opened(tmp_path) as place:
        Unreadable(place)

        assert ([], (5, 6)) == await place.refill(Refill(1, Priority.NORMAL, (5, 6), 2))


async def test_fault_in_a_listener_ends_the_writer(tmp_path: Path) -> None:
    """What was told wrongly is not lived with: all who come hear it, nobody hangs, and a new start reads what is on disk."""

    def broken(name: str) -> None:
        if name == "accepted":
            raise KeyError(name)

    async with opened(tmp_path) as place:
        await place.subscribe()
        place.listener.look = broken
        first, second = await all_of(place.publish(), place.subscribe())

        assert [list, StorageFailed] == [type(each) for each in (first, second)]  # the event is on disk
        with pytest.raises(StorageFailed, match="the writer failed: KeyError"):
            await place.publish()
        with pytest.raises(StorageFailed):
            await place.store.failed()
    async with opened(tmp_path) as place:
        assert {1: [None, (NOW, 1), None]} == await place.store.reader.heads()


# Changes.


async def test_changes_do_not_hold_publishers_up(tmp_path: Path) -> None:
    """An event that comes while many changes wait, each with a sync of its own, is committed after eight of them."""
    async with opened(tmp_path) as place:
        publishing: list[asyncio.Task[Any]] = []

        def publish(name: str) -> None:
            if name == "changed" and not publishing:
                publishing.append(asyncio.create_task(place.publish()))

        place.listener.look = publish
        await all_of(*(place.subscribe() for _ in range(20)))
        await all_of(*publishing)

        assert ["changed"] * 8 + ["accepted"] + ["changed"] * 12 == [name for name, _ in place.listener.told]


async def test_change_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """A change that raises is undone whole, and what it had prepared for after its commit is forgotten."""

    async def step(tx: Transaction) -> None:
        one = subscription(place.clock, seq=tx.new_subscription())
        await tx.run("INSERT INTO meta VALUES ('a', 1)")
        tx.put(one, Health())
        tx.drop(one)
        raise EventExists

    async with opened(tmp_path) as place:
        with pytest.raises(EventExists):
            await place.store.writer.change(step)

        assert 0 == len(place.store.memory.index)
        assert [] == place.listener.told
        assert [("vault_check",)] == place.rows("SELECT name FROM meta")
        assert 2 == (await place.subscribe()).seq  # the gap is left


async def test_change_can_run_fetch_and_run_many(tmp_path: Path) -> None:
    """A change sees its own rows, and is told how many a statement changed."""

    async def step(tx: Transaction) -> tuple[int, list[Any]]:
        await tx.run_many("INSERT INTO meta VALUES (?, ?)", [("a", 1), ("b", 2)])
        changed = await tx.run("UPDATE meta SET value = :value WHERE name IN ('a', 'b')", {"value": tx.now})
        return changed, await tx.fetch("SELECT name, value FROM meta WHERE name < ? ORDER BY name", ["c"])

    async with opened(tmp_path) as place:
        assert (2, [("a", NOW), ("b", NOW)]) == await place.store.writer.change(step)


async def test_cancelled_change_is_done(tmp_path: Path) -> None:
    """A change whose caller went away is committed, and the index follows."""
    async with opened(tmp_path) as place:
        task = asyncio.create_task(place.subscribe())
        await asyncio.sleep(0)
        task.cancel()
        await place.listener.until("changed")

        assert 1 == len(place.store.memory.index)
        assert [(1,)] == place.rows("SELECT count(*) FROM subscriptions")


async def test_change_sees_what_was_sent_before_it(tmp_path: Path) -> None:
    """Results and events that were sent first are committed first."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        (delivery,) = await place.deliver()

        async def count(tx: Transaction) -> list[Any]:
            return await tx.fetch("SELECT state FROM deliveries ORDER BY seq")

        place.store.writer.record(result(delivery, DELIVERED))
        publishing = asyncio.create_task(place.publish())
        await asyncio.sleep(0)

        assert [("delivered",), ("pending",)] == await place.store.writer.change(count)
        await publishing


# Bounds and the end.


@pytest.mark.parametrize(
    ("accepted", "array"),
    [
        pytest.param(publications.MOST_WAITING // 1_000, drafts(1_000), id="events"),
        pytest.param(publications.MOST_WAITING_BYTES // (1 << 22), [draft(data=bytes(1 << 22))], id="bytes"),
    ],
)
@pytest.mark.row("I85")
async def test_more_than_can_wait_is_refused(tmp_path: Path, accepted: int, array: list[Draft]) -> None:
    """Beyond the bound publishers are told to come later; those before them are stored, and there is room again."""
    async with opened(tmp_path) as place:
        ended = await all_of(*(place.publish(*array) for _ in range(accepted + 3)))

        assert [list] * accepted + [Overloaded] * 3 == [type(receipts) for receipts in ended]
        assert [(accepted * len(array),)] == place.rows("SELECT count(*) FROM events")
        await place.publish(*array)
        assert (0, 0) == (place.store.writer._publications.count, place.store.writer._publications.size)


async def test_closing_finishes_what_was_sent(tmp_path: Path) -> None:
    """What was sent before the close is done, each part of it; what comes later is refused."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        (delivery,) = await place.deliver()
        place.store.writer.record(result(delivery, DELIVERED))
        jobs = [asyncio.create_task(place.publish(*drafts(100))) for _ in range(30)]
        changing = asyncio.create_task(place.subscribe(event_types=("user.*",)))
        await asyncio.sleep(0)
        await place.store.close()

        assert all(job.done() for job in jobs)
        assert 3_000 == sum(len(job.result()) for job in jobs)
        assert 2 == changing.result().seq
        assert [(3_001, 1)] == place.rows("SELECT count(*), sum(state = 'delivered') FROM deliveries")
        with pytest.raises(Stopping):
            await place.publish()
        with pytest.raises(Stopping):
            await place.subscribe()


async def test_idle_writer_ends_when_closed(tmp_path: Path) -> None:
    """A writer that waits for work hears of the end, and `failed` returns."""
    async with opened(tmp_path) as place:
        watching = asyncio.create_task(place.store.failed())
        await place.publish()
        async with asyncio.timeout(PATIENCE):
            await place.store.close()
            await watching


async def test_writer_that_is_cancelled_refuses_all(tmp_path: Path) -> None:
    """A loop that cancels every task leaves nobody waiting, and the store can be closed."""
    async with opened(tmp_path) as place:
        jobs = [asyncio.create_task(place.publish()) for _ in range(3)]
        await asyncio.sleep(0)
        assert place.store._task is not None
        place.store._task.cancel()

        assert [Stopping] * 3 == [type(error) for error in await all_of(*jobs)]
        with pytest.raises(Stopping):
            await place.publish()
    async with opened(tmp_path) as place:
        await place.publish()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.row("F46")
async def test_cancelling_at_random(tmp_path: Path, seed: int) -> None:
    """Whoever is cancelled whenever leaves no half transaction, and the writer goes on."""
    chance = random.Random(seed)

    async def cut(job: Awaitable[Any], turns: int) -> Any:
        task = asyncio.ensure_future(job)
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        try:
            return await task
        except (asyncio.CancelledError, RequestError) as error:
            return error

    async with opened(tmp_path) as place:
        await place.subscribe()
        jobs: list[Awaitable[Any]] = []
        for n in range(200):
            pair = [draft(id=f"{n}-{half}", digest=b"x") for half in "ab"]
            job = place.publish(*pair) if n % 5 else place.subscribe(event_types=("user.*",))
            jobs.append(cut(job, chance.randrange(60)))
        await all_of(*jobs)
        await place.deliver(draft(id="last", digest=b"x"))

        stored = Counter(id_.split("-")[0] for (id_,) in place.rows("SELECT id FROM events WHERE id <> 'last'"))
        assert {2} == set(stored.values())
        told = [event.id for batch in place.listener.all("accepted") for _, event in batch]
        assert sorted(told) == sorted(id_ for (id_,) in place.rows("SELECT id FROM events"))
        assert [(len(told),)] == place.rows("SELECT count(*) FROM deliveries")
        assert [(len(place.store.memory.index),)] == place.rows("SELECT count(*) FROM subscriptions")
        assert [("ok",)] == place.rows("PRAGMA integrity_check")
        assert [] == place.rows("PRAGMA foreign_key_check")
