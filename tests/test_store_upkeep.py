"""Upkeep in steps, on a real store: what is brought forward, cancelled, given up and deleted, and what is spared."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from msgspec.structs import replace
from storage import DAY, DELIVERED, HOUR, MINUTE, NOW, Opened, draft, drafts, opened, result, subscription, write
from test_store_changes import KEY, add, fail

from hookengine.models import DeliveryState, Priority, SubscriptionState
from hookengine.statistics import hour_of
from hookengine.store import changes, upkeep
from hookengine.store.upkeep import STEP

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from hookengine.store import Transaction

RETENTION = 30 * DAY
ACTIVE, DISABLED = SubscriptionState.ACTIVE, SubscriptionState.DISABLED


async def finish(place: Opened, step: Callable[[Transaction], Awaitable[int]]) -> list[int]:
    """Repeat *step* as maintenance does; what it did each time."""
    counts = [await place.store.writer.change(step)]
    while counts[-1]:
        counts.append(await place.store.writer.change(step))
    return counts


async def test_retries_are_brought_forward_in_steps(tmp_path: Path) -> None:
    """After an enabling what waited for a retry becomes due at once, 500 to a commit, and each is told."""
    async with opened(tmp_path) as place:
        one = await place.subscribe()
        made = await place.deliver(*drafts(700), *drafts(400, priority=Priority.LOW))
        waiting = await fail(place, made)
        disabled = await place.edit(one, state=DISABLED)
        assert [0] == await finish(place, upkeep.bring_forward)
        place.clock.time += MINUTE
        await place.edit(disabled, state=ACTIVE)

        assert [STEP, 200, 400, 0] == await finish(place, upkeep.bring_forward)
        assert {NOW + MINUTE} == {due_at for (due_at,) in place.rows("SELECT due_at FROM deliveries")}
        expected = [(before, replace(before, due_at=NOW + MINUTE)) for before in waiting]
        assert expected == place.listener.all("overruled")
        assert [0] == await finish(place, upkeep.bring_forward)
        assert ["vault_check"] == [name for (name,) in place.rows("SELECT name FROM meta")]


async def test_bringing_forward_goes_on_after_a_restart(tmp_path: Path) -> None:
    """What was left when the engine stopped is brought forward by the next one."""
    async with opened(tmp_path) as place:
        one = await place.subscribe()
        await fail(place, await place.deliver(*drafts(600)))
        place.clock.time += MINUTE
        await place.edit(await place.edit(one, state=DISABLED), state=ACTIVE)
        assert STEP == await place.store.writer.change(upkeep.bring_forward)
    async with opened(tmp_path, clock=place.clock) as place:
        assert [100, 0] == await finish(place, upkeep.bring_forward)
        assert [(NOW + MINUTE, 600)] == place.rows("SELECT due_at, count(*) FROM deliveries GROUP BY due_at")


async def test_only_what_waited_for_a_retry_is_brought_forward(tmp_path: Path) -> None:
    """A time that was asked for stays, as does what was tried since the enabling, and other subscriptions' work."""
    async with opened(tmp_path) as place:
        one = await place.subscribe()
        another = await place.subscribe(event_types=("user.*",))
        due, later, tried = await place.deliver(draft(), draft(deliver_at=NOW + HOUR), draft())
        (other,) = await place.deliver(draft(only=frozenset({another.id})))
        await fail(place, [due, other])
        place.clock.time += MINUTE
        await place.edit(await place.edit(one, state=DISABLED), state=ACTIVE)
        await fail(place, [tried], at=NOW + MINUTE)

        assert [1, 0] == await finish(place, upkeep.bring_forward)
        assert [("overruled", due.seq)] == [(name, what[0].seq) for name, what in place.listener.told if name == "overruled"]
        retry_at = NOW + 20 + 10 * MINUTE
        assert [
            (due.seq, NOW + MINUTE),
            (later.seq, NOW + HOUR),
            (tried.seq, retry_at + MINUTE),
            (other.seq, retry_at),
        ] == place.rows("SELECT seq, due_at FROM deliveries ORDER BY seq")


async def test_deleting_ends_the_bringing_forward(tmp_path: Path) -> None:
    """Of a subscription that was enabled and then deleted nothing is brought forward any more."""
    async with opened(tmp_path) as place:
        one = await place.subscribe()
        await fail(place, await place.deliver())
        place.clock.time += MINUTE
        await place.edit(await place.edit(one, state=DISABLED), state=ACTIVE)
        await place.store.writer.change(changes.delete_subscription(one.id, None))

        assert [0] == await finish(place, upkeep.bring_forward)
        assert [] == place.listener.all("overruled")


async def test_rest_of_deleted_subscriptions_is_cancelled_in_steps(tmp_path: Path) -> None:
    """Their pending rows become what they read as, with the time of the deleting; what ended before keeps its end."""
    async with opened(tmp_path) as place:
        first, second = await place.subscribe(), await place.subscribe()
        await place.subscribe()
        made = await place.deliver(*drafts(600))
        await place.record(result(made[0], DELIVERED))
        for one in (first, second):
            place.clock.time += 1
            await place.store.writer.change(changes.delete_subscription(one.id, None))
        before = place.rows("SELECT seq, state, finished_at FROM deliveries_shown")
        place.clock.time += HOUR

        assert [STEP, 99, STEP, 100, 0] == await finish(place, upkeep.cancel_rest)
        assert before == place.rows("SELECT seq, state, finished_at FROM deliveries_shown")
        assert [
            (1, "cancelled", NOW + 1, 599),
            (1, "delivered", NOW + 20, 1),
            (2, "cancelled", NOW + 2, 600),
            (3, "pending", None, 600),
        ] == place.rows("SELECT subscription, state, finished_at, count(*) FROM deliveries GROUP BY 1, 2, 3")


async def test_nothing_is_asked_of_subscriptions_without_a_rest(tmp_path: Path) -> None:
    """A deleted subscription is noted until nothing of it is pending, also one that had nothing, and over a restart."""
    noted = "SELECT name, value FROM meta WHERE name LIKE 'cancelling:%'"
    async with opened(tmp_path) as place:
        one, two = await place.subscribe(), await place.subscribe(event_types=("nothing",))
        await place.deliver(*drafts(3))
        for each in (one, two):
            await place.store.writer.change(changes.delete_subscription(each.id, None))
    async with opened(tmp_path) as place:
        assert [(f"cancelling:{each.seq}", NOW) for each in (one, two)] == place.rows(noted)
        assert [3, 0] == await finish(place, upkeep.cancel_rest)
        assert [] == place.rows(noted)


async def test_rest_from_before_it_was_noted_is_cancelled(tmp_path: Path) -> None:
    """What subscriptions left behind that an earlier version deleted is cancelled, with the time of the deleting."""
    async with opened(tmp_path) as place:
        one, two = await place.subscribe(), await place.subscribe(event_types=("nothing",))
        await place.deliver(*drafts(3))
        for each in (one, two):
            await place.store.writer.change(changes.delete_subscription(each.id, None))
    write(place.path, "DELETE FROM meta WHERE name LIKE 'cancelling:%'; PRAGMA user_version = 8;")
    async with opened(tmp_path) as place:
        place.clock.time += HOUR
        assert [(f"cancelling:{one.seq}",)] == place.rows("SELECT name FROM meta WHERE name LIKE 'cancelling:%'")
        assert [3, 0] == await finish(place, upkeep.cancel_rest)
        assert [("cancelled", NOW, 3)] == place.rows("SELECT state, finished_at, count(*) FROM deliveries GROUP BY 1, 2")


async def test_deliveries_expire_in_steps(tmp_path: Path) -> None:
    """What waits past its time, held or served, fails as expired without an attempt, and is told; in flight it does not."""
    async with opened(tmp_path) as place:
        held = await place.subscribe()
        served = await place.subscribe()
        deleted = await place.subscribe()
        made = await place.deliver(*drafts(600, expires_at=NOW + HOUR), draft(expires_at=NOW + HOUR + 1), draft())
        running = next(delivery for delivery in made if delivery.subscription == served.seq)
        place.listener.in_flight = [running.seq]
        await place.edit(held, state=DISABLED)
        await place.edit(deleted, state=DISABLED)
        await place.store.writer.change(changes.delete_subscription(deleted.id, None))
        place.clock.time += HOUR - 1
        assert [0] == await finish(place, upkeep.expire)
        place.clock.time += 1

        place.listener.told.clear()
        assert [STEP, STEP, 199, 0] == await finish(place, upkeep.expire)
        assert [(held.seq, NOW + HOUR, "expired", 600), (served.seq, NOW + HOUR, "expired", 599)] == place.rows(
            "SELECT subscription, finished_at, failed_label, count(*) FROM deliveries WHERE state = 'failed' GROUP BY 1, 2, 3"
        )
        assert [("pending",)] == place.rows("SELECT state FROM deliveries WHERE seq = ?", running.seq)
        assert [
            (seq, hour_of(NOW + HOUR), "failed", "expired", 0, "", -1, count)
            for seq, count in ((held.seq, 600), (served.seq, 599))
        ] == place.rows("SELECT * FROM statistics ORDER BY subscription")
        assert 1199 == len(place.listener.all("overruled"))
        assert {DeliveryState.FAILED} == {after.state for _, after in place.listener.all("overruled")}


async def test_pruning_spares_unfinished_work(tmp_path: Path) -> None:
    """What ended longer ago than the retention goes, with its attempts; the rest stays however old it is."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        old, waiting, retrying, later = await place.deliver(*drafts(4))
        await fail(place, [retrying])
        await place.record(result(old, DELIVERED))
        await place.record(result(later, DELIVERED, at=NOW + 1))
        place.clock.time += 20 + RETENTION
        assert [0] == await finish(place, upkeep.prune(RETENTION))
        place.clock.time += 1

        assert [3, 0] == await finish(place, upkeep.prune(RETENTION))  # a delivery, its attempt, its event
        assert [(d.seq,) for d in (waiting, retrying, later)] == place.rows("SELECT seq FROM deliveries ORDER BY seq")
        assert [(d.event,) for d in (waiting, retrying, later)] == place.rows("SELECT seq FROM events ORDER BY seq")
        assert [(retrying.seq,), (later.seq,)] == place.rows("SELECT delivery FROM attempts ORDER BY delivery")
        place.clock.time += 99 * 365 * DAY
        await finish(place, upkeep.prune(RETENTION))
        assert [(waiting.seq,), (retrying.seq,)] == place.rows("SELECT seq FROM deliveries ORDER BY seq")


async def test_deleted_subscription_goes_with_the_last_of_its_history(tmp_path: Path) -> None:
    """What was set of a deleted subscription is not kept for longer than what it got; its key is not given again."""
    async with opened(tmp_path) as place:
        one, two, new = [await place.subscribe() for _ in range(3)]
        delivery, *_ = await place.deliver()
        await place.record(result(delivery, DELIVERED))
        for deleted in (one, two, new):
            await place.store.writer.change(changes.delete_subscription(deleted.id, None))
        place.clock.time += RETENTION + 21
        await finish(place, upkeep.cancel_rest)
        await finish(place, upkeep.prune(RETENTION))
        # Of one there are statistics still, of two nothing.
        assert [(one.seq,), (new.seq,)] == place.rows("SELECT seq FROM subscriptions ORDER BY seq")
        place.clock.time += RETENTION + 2 * HOUR
        await finish(place, upkeep.prune(RETENTION))

        assert [(new.seq,)] == place.rows("SELECT seq FROM subscriptions")
        assert [] == place.rows("SELECT * FROM health WHERE subscription < ?", new.seq)
        assert [(0, 0)] == place.rows("SELECT (SELECT count(*) FROM deliveries), (SELECT count(*) FROM statistics)")
    async with opened(tmp_path) as place:
        assert new.seq + 1 == (await place.subscribe()).seq


async def test_event_is_kept_while_a_delivery_needs_it(tmp_path: Path) -> None:
    """An event goes with the last of its deliveries."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        await place.subscribe()
        first, second = await place.deliver()
        await place.record(result(first, DELIVERED))
        place.clock.time += RETENTION + 21

        assert [2, 0] == await finish(place, upkeep.prune(RETENTION))
        assert [(1,)] == place.rows("SELECT count(*) FROM events")
        await place.record(result(second, DELIVERED, at=place.clock.time))
        place.clock.time += RETENTION + 21
        assert [4, 0] == await finish(place, upkeep.prune(RETENTION))  # and the statistics of the first one's hour
        assert [(0,)] == place.rows("SELECT count(*) FROM events")


async def test_event_that_nobody_wanted_is_pruned_by_its_age(tmp_path: Path) -> None:
    """Without deliveries retention counts from the acceptance, unless the event was replayed since."""
    async with opened(tmp_path) as place:
        await place.publish(*drafts(3))
        place.clock.time += 1
        await place.publish()
        await place.subscribe()
        await place.store.writer._writing.db.execute(
            "INSERT INTO deliveries (seq, id, event, subscription, state, priority, due_at, trigger, created_at)"
            " VALUES (1, 'dlv_1', 2, 1, 'pending', 1, 1, 'replay', 1)"
        )
        place.clock.time = NOW + RETENTION
        assert [0] == await finish(place, upkeep.prune(RETENTION))
        place.clock.time += 1

        assert [2, 0] == await finish(place, upkeep.prune(RETENTION))
        assert [(2,), (4,)] == place.rows("SELECT seq FROM events ORDER BY seq")


async def test_keys_are_pruned_after_a_day(tmp_path: Path) -> None:
    """Idempotency keys go when their time is over, not before."""
    async with opened(tmp_path) as place:
        await add(place, subscription(place.clock))
        place.clock.time += DAY - 1
        await add(place, subscription(place.clock), replace(KEY, key="young"))
        assert [0] == await finish(place, upkeep.prune(RETENTION))
        place.clock.time += 1

        assert [1, 0] == await finish(place, upkeep.prune(RETENTION))
        assert [("young",)] == place.rows("SELECT key FROM idempotency_keys")


async def test_statistics_are_pruned_by_the_hour(tmp_path: Path) -> None:
    """The counts of an hour go once all of it is past the retention."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        hour = hour_of(NOW)
        for at in (NOW, NOW + HOUR):
            place.clock.time = at
            [made] = await place.deliver()
            await place.store.writer.change(changes.cancel_delivery(made.id, None))
        place.clock.time = hour + HOUR + RETENTION - 1
        await finish(place, upkeep.prune(RETENTION))
        assert [(hour,), (hour + HOUR,)] == place.rows("SELECT hour FROM statistics ORDER BY hour")
        place.clock.time += 1
        await finish(place, upkeep.prune(RETENTION))

        assert [(hour + HOUR,)] == place.rows("SELECT hour FROM statistics")


async def test_pruning_goes_in_steps(tmp_path: Path) -> None:
    """However much is over, a commit takes 500 deliveries, 500 events and 500 keys."""
    async with opened(tmp_path) as place:
        await place.publish(*drafts(600))
        await place.subscribe()
        made = await place.deliver(*drafts(700))
        await place.record(*(result(delivery, DELIVERED) for delivery in made))
        place.clock.time += RETENTION + HOUR

        # And one row of statistics, for all of them ended alike.
        assert [4 * STEP + 1, 3 * 200 + 100, 0] == await finish(place, upkeep.prune(RETENTION))
        assert [(0, 0, 0)] == place.rows(
            "SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM deliveries), (SELECT count(*) FROM attempts)"
        )
        assert [] == place.rows("PRAGMA foreign_key_check")


async def test_pruning_keeps_up_with_what_is_made(tmp_path: Path) -> None:
    """A step deletes as many as were made since the one before, at least what it is told, and never more than 500."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        old = await place.deliver(*drafts(1_000))
        await place.record(*(result(delivery, DELIVERED) for delivery in old))
        place.clock.time += RETENTION + HOUR
        step, left = upkeep.prune(RETENTION, at_least=10), []
        for made in (0, 5, 200, 0, 600):
            if made:
                await place.publish(*drafts(made))
            await place.store.writer.change(step)
            left += place.rows("SELECT count(*) FROM deliveries WHERE state = 'delivered'")

        assert [10, 10, 200, 10, STEP] == [
            before - after for before, after in pairwise([1_000, *(count for (count,) in left)])
        ]
