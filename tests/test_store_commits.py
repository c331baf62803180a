"""What waits for a commit, and what each commit holds, entails and leaves when it fails."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
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
    NO_ANSWER,
    NOW,
    RULES,
    FailingInTurn,
    Faulty,
    Opened,
    all_of,
    draft,
    drafts,
    io_error,
    limit_pages,
    opened,
    refuse,
    result,
    traced,
)

from hookengine.clock import elapsed
from hookengine.errors import EventExists, IdempotencyMismatch, StorageFailed, StorageUnavailable, SubscriptionNotFound
from hookengine.gathering import Compose
from hookengine.models import (
    AttemptError,
    Broken,
    DeliveryState,
    DisabledReason,
    ErrorCode,
    Priority,
    SubscriptionState,
    WhileDisabled,
)
from hookengine.scheduler import Refill
from hookengine.store import Answer, Draft, Key, Receipt, changes, upkeep
from hookengine.store.publications import MOST_DELIVERIES

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from pathlib import Path

    from hookengine.models import Outcome
    from hookengine.store import Recorded, Result, Transaction


def keyed(place: Opened, one: Draft, *, key: str = "k", digest: bytes = b"d", **scope: str) -> Awaitable[Any]:
    """Publish *one* with an Idempotency-Key; the answer is the id of the event that it made."""
    whole = Key(**({"tenant": "acme", "method": "POST", "path": "/v1/events"} | scope), key=key, digest=digest)
    return place.store.writer.publish([one], key=whole, render=lambda receipts: receipts[0].event.id.encode())


def commits(statements: list[str]) -> int:
    """How many commits of results and publications there are, each of them a transaction in itself."""
    assert not [each for each in statements if each.startswith(("BEGIN", "COMMIT"))]
    # SQLite tells of each step of a trigger with the statement that fired it.
    return len({each for each in statements if each.startswith("INSERT INTO commits")})


async def all_recorded(place: Opened, count: int) -> list[Recorded]:
    """Wait until *count* results are recorded; all of them, oldest first."""
    while len(recorded := [each for batch in place.listener.all("recorded") for each in batch]) < count:
        await place.listener.until("recorded", len(place.listener.all("recorded")) + 1)
    return recorded


async def nothing(_: Transaction) -> None:
    """A change that follows what was sent before it."""


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


async def test_events_of_the_commit_under_way_are_waiting(tmp_path: Path) -> None:
    """Until it is made they are counted, each once, also those that a commit had no room for."""
    seen: list[int] = []
    async with opened(tmp_path) as place:
        for types in (("one",), *[("all",)] * MOST_DELIVERIES):
            await place.subscribe(event_types=types)
        place.listener.look = lambda _: seen.append(place.store.writer.waiting)
        await place.publish(draft(type="one"))  # of which is told while the next commit is under way
        await all_of(*[place.store.writer.submit([draft(type="all")]) for _ in range(3)])
        await place.listener.until("accepted", 4)

        assert [3, 2, 1, 0] == seen


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
        place.listener.look = lambda name: order.append((name, place.store.writer._commits.publications.count))
        for _ in range(2):
            await place.publish()
            order.append(("publisher", place.store.writer._commits.publications.count))
        await place.listener.until("accepted", 2)

    assert [("publisher", 0), ("accepted", 0), ("publisher", 0), ("accepted", 0)] == order


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
        assert (0, 0) == (place.store.writer._commits.publications.count, place.store.writer._commits.publications.size)


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
        assert (0, 0) == (place.store.writer._commits.publications.count, place.store.writer._commits.publications.size)


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
    """The attempt is recorded and the delivery stays cancelled since then as others do, even if it succeeded."""
    shown = "SELECT state, finished_at FROM deliveries_shown ORDER BY seq"
    async with opened(tmp_path) as place:
        gone = await place.subscribe()
        one, other, waiting = await place.deliver(*drafts(3))
        place.clock.time += 5
        await place.store.writer.change(changes.delete_subscription(gone.id, None))
        assert [("cancelled", NOW + 5)] * 3 == place.rows(shown)
        place.clock.time += HOUR
        (recorded,) = await place.record(result(one, DELIVERED))
        assert 2 == await place.store.writer.change(upkeep.cancel_rest)
        await place.record(result(other, NO_ANSWER))

        assert (DeliveryState.CANCELLED, NOW + 5) == (recorded.delivery.state, recorded.delivery.finished_at)
        assert [("cancelled", NOW + 5)] * 3 == place.rows(shown)
        assert [(one.seq, 1), (other.seq, 1), (waiting.seq, 0)] == place.rows("SELECT seq, attempt_count FROM deliveries")
        assert [("accepted",), ("unreachable",)] == place.rows("SELECT outcome FROM attempts ORDER BY seq")
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


@pytest.mark.row("F14")
@pytest.mark.parametrize("results", [0, 2])
async def test_who_was_refused_is_not_stored(tmp_path: Path, results: int) -> None:
    """Where a lock comes over what a commit of many had to be taken apart for, whoever hears of it has nothing on disk."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        made = await place.deliver(*drafts(2))
        FailingInTurn(place, sqlite3.IntegrityError("some row"), io_error("SQLITE_BUSY"))

        async def record() -> None:
            for each in made[:results]:
                place.store.writer.record(result(each, DELIVERED))

        _, *refused = await all_of(record(), *(place.publish() for _ in range(3)))
        await place.subscribe()  # after what is done by itself

        assert [StorageUnavailable] * 3 == [type(error) for error in refused]
        assert [(2,)] == place.rows("SELECT count(*) FROM events")
        assert [(results,)] == place.rows("SELECT count(*) FROM deliveries WHERE state = 'delivered'")


async def test_results_that_wait_keep_their_order(tmp_path: Path) -> None:
    """Results wait for space in the order in which they came, before what comes meanwhile: the last one counts as the last."""
    async with opened(tmp_path) as place:
        made = await place.subscribe()
        first, second, third = await place.deliver(*drafts(3))
        await limit_pages(place, 4)

        def end_another(name: str) -> None:
            if name == "storage" and not others:
                others.append(result(third, NO_ANSWER))
                place.store.writer.record(*others)

        others: list[Result] = []
        place.listener.look = end_another
        for each, outcome in ((first, NO_ANSWER), (second, LARGE_ANSWER)):
            place.store.writer.record(result(each, outcome))
        await place.listener.until("storage", 2)
        await limit_pages(place, None)
        recorded = await all_recorded(place, 3)

        assert [first.seq, second.seq, third.seq] == [each.delivery.seq for each in recorded]
        assert 1 == place.store.memory.health[made.seq].consecutive_failures


async def until_committed(place: Opened, begun: list[str]) -> None:
    """Wait until the commit that follows *begun* is on disk, without a turn of the loop that the writer could use after it."""
    async with asyncio.timeout(PATIENCE):
        while not commits(begun):  # noqa: ASYNC110  # SQLite's thread tells nobody else
            await asyncio.sleep(0)
    since = elapsed()
    while [] == place.rows("SELECT * FROM attempts") and elapsed() < since + PATIENCE:
        pass


async def test_memory_follows_the_file(tmp_path: Path) -> None:
    """Whoever finds an attempt's end on disk and waits for what follows from it finds its subscription as that left it."""
    async with opened(tmp_path) as place:
        made = await place.subscribe()
        (delivery,) = await place.deliver()
        async with traced(place) as statements:
            place.store.writer.record(result(delivery, GONE, rules=replace(RULES, gone=frozenset({410}))))
            await until_committed(place, statements)
            assert place.store.memory.index.get(made.seq) == made
            async with asyncio.timeout(PATIENCE):
                await place.store.writer.followed(delivery.event)
            after = place.store.memory.index.get(made.seq)

        assert after is not None
        assert (SubscriptionState.DISABLED, DisabledReason.GONE) == (after.state, after.disabled_reason)


async def test_nothing_that_follows_is_waited_for_in_vain(tmp_path: Path) -> None:
    """Where a commit is over, has failed until it is tried again, or is of others, nobody waits for what follows."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        one, other = await place.deliver(*drafts(2))
        async with asyncio.timeout(PATIENCE):
            await place.record(result(one, DELIVERED))
            await place.store.writer.followed(one.event)
            await limit_pages(place, 4)
            place.store.writer.record(result(other, LARGE_ANSWER))
            await place.listener.until("storage", 2)
            for event in (other.event, one.event):
                await place.store.writer.followed(event)
            assert [] == place.rows("SELECT * FROM deliveries WHERE seq = ? AND state <> 'pending'", other.seq)
            await limit_pages(place, None)


async def test_what_follows_is_not_waited_for_when_the_writer_has_ended(tmp_path: Path) -> None:
    """A fault between a commit and what follows from it ends the writer, and the wait of whoever asked for that."""

    def broken(name: str) -> None:
        if name == "changed":
            raise KeyError(name)

    async with opened(tmp_path) as place:
        await place.subscribe()
        (delivery,) = await place.deliver()
        place.listener.look = broken
        async with traced(place) as statements:
            place.store.writer.record(result(delivery, GONE, rules=replace(RULES, gone=frozenset({410}))))
            await until_committed(place, statements)
            async with asyncio.timeout(PATIENCE):
                await place.store.writer.followed(delivery.event)
        with pytest.raises(StorageFailed):
            await place.store.failed()


@pytest.mark.row("F14")
async def test_lock_over_a_commit_is_waited_for_once(tmp_path: Path) -> None:
    """Changes and batches of the turn whose commit waited for a lock hear of it with the publishers, and are not done."""
    async with opened(tmp_path) as place:
        made = await place.subscribe()
        faulty = Faulty(place)
        faulty.error = io_error("SQLITE_BUSY")

        def unlock(name: str) -> None:
            if name == "storage":
                faulty.error = None

        async def compose() -> None:
            place.store.writer.compose(asked)

        asked = Compose(made.seq, 10, 0, (1, 1, 1))
        place.listener.look = unlock
        _, *refused = await all_of(compose(), place.publish(), place.subscribe(), place.subscribe())
        [(told, composed)] = await place.listener.until("composed")
        await place.store.writer.change(nothing)

        assert [StorageUnavailable] * 3 == [type(error) for error in refused]
        assert (asked, None) == (told, composed)
        assert [(1, 0)] == place.rows("SELECT (SELECT count(*) FROM subscriptions), (SELECT count(*) FROM events)")
        assert composed != await place.compose(asked)


@pytest.mark.row("F14")
async def test_result_that_waited_for_a_lock_is_recorded_once(tmp_path: Path) -> None:
    """Of results that are recorded one by one, a lock keeps the one it comes over and those after it for later, in order."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        made = await place.deliver(*drafts(3))
        FailingInTurn(place, sqlite3.IntegrityError("some row"), None, io_error("SQLITE_BUSY"))
        for each in made:
            place.store.writer.record(result(each, DELIVERED))
        recorded = await all_recorded(place, 3)
        await place.store.writer.change(nothing)

        assert [each.seq for each in made] == [each.delivery.seq for each in recorded]
        assert recorded == await all_recorded(place, 3)
        assert [(3,)] == place.rows("SELECT count(*) FROM attempts")


@pytest.mark.row("F14")
async def test_results_that_waited_for_a_lock_do_not_rest(tmp_path: Path) -> None:
    """A lock that was waited for in vain is waited for again at once: no pause, as on a full disk, comes on top."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        (delivery,) = await place.deliver()
        faulty = Faulty(place)
        faulty.error = io_error("SQLITE_BUSY")
        place.store.writer.record(result(delivery, DELIVERED))
        async with asyncio.timeout(PATIENCE):
            await place.listener.until("storage", 30)  # with pauses of up to 2 s they would take a minute
        faulty.error = None

        assert [delivery.seq] == [each.delivery.seq for each in await all_recorded(place, 1)]
