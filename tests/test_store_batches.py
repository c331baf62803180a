"""Batches in the store: composed by a commit, kept together by the rows, left by whoever is taken out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace
from storage import (
    DELIVERED,
    GONE,
    HOUR,
    INTERRUPTED,
    NO_ANSWER,
    NOW,
    RULES,
    Opened,
    draft,
    drafts,
    opened,
    result,
    traced,
    write,
)

from hookengine import retry
from hookengine.gathering import Compose, Composed
from hookengine.models import Batching, DeliveryState, Place, Priority, Rules, SubscriptionState
from hookengine.scheduler import Refill
from hookengine.store import Recorded, Result, batches, changes, replays, upkeep

if TYPE_CHECKING:
    from pathlib import Path

    from hookengine.models import Delivery, Outcome, Subscription

SECOND = 1_000
BATCH = Batching(max_events=3)


def gathers(subscription: Subscription) -> bool:
    """As the engine decides it for clevertap."""
    return subscription.batch is not None


def asked(of: Subscription, *, most: int = 3, wait: int = SECOND, limit: int = 8) -> Compose:
    """All the batches of a subscription."""
    return Compose(of.seq, most, wait, (limit,) * 3)


def seqs(found: Any) -> list[int]:
    """The keys of deliveries."""
    return [each.seq for each in found]


def places(place: Opened) -> list[tuple[int, int, int | None]]:
    """Where each pending delivery stands, with its batch."""
    return place.rows("SELECT seq, place, batch FROM deliveries WHERE state = 'pending' ORDER BY seq")


async def members(place: Opened, batch: int) -> list[Delivery]:
    """What still goes with a batch."""
    found, unreadable = await place.store.reader.members([batch])
    assert [] == unreadable
    return found.get(batch, [])


def results(head: Delivery, group: list[Delivery], outcome: Outcome, rules: Rules = RULES, *, at: int = NOW) -> list[Result]:
    """What the request of a batch does to each of its deliveries."""
    return [replace(result(each, outcome, at=at, rules=rules), head=head, shares=True) for each in group]


async def record(place: Opened, made: list[Result]) -> list[Recorded]:
    """Record the results of one batch."""
    before = len(place.listener.all("recorded"))
    place.store.writer.record(*made)
    recorded: list[Recorded] = (await place.listener.until("recorded", before + 1))[-1]
    return recorded


async def composed(place: Opened, count: int = 3) -> tuple[Subscription, Delivery, list[Delivery]]:
    """A subscription with one batch of *count* events: its head, and all of it."""
    made = await place.subscribe(batch=BATCH)
    await place.publish(*drafts(count))
    [head] = (await place.compose(asked(made, most=count))).heads
    return made, head, await members(place, head.seq)


# Composing.


async def test_deliveries_of_batches_wait_beside_the_lanes(tmp_path: Path) -> None:
    """Until they are put into a batch no lane holds them, whoever made them; those of others go as ever."""
    async with opened(tmp_path, gathers=gathers) as place:
        batched, plain = await place.subscribe(batch=BATCH), await place.subscribe()
        first, second = await place.deliver()

        assert [(batched.seq, Place.GATHERING), (plain.seq, Place.LANE)] == [
            (each.subscription, each.place) for each in (first, second)
        ]
        assert {plain.seq: [None, (NOW, 2), None]} == await place.store.reader.heads()
        assert {batched.seq} == await place.store.reader.gatherers()
        assert ([], None) == await place.refill(Refill(batched.seq, Priority.NORMAL, (0, 0), 10))


async def test_batch_goes_once_it_is_full(tmp_path: Path) -> None:
    """Three of seven and three more are batches of three at once; the seventh waits until its time is over."""
    async with opened(tmp_path, gathers=gathers) as place:
        made = await place.subscribe(batch=BATCH)
        await place.publish(*drafts(7))

        answer = await place.compose(asked(made))
        assert [(1, 1, Place.LANE), (4, 4, Place.LANE)] == [(each.seq, each.batch, each.place) for each in answer.heads]
        assert ((0, 1, 0), (None, NOW + SECOND, None)) == (answer.due, answer.look_at)
        assert [[1, 2, 3], [4, 5, 6]] == [seqs(await members(place, batch)) for batch in (1, 4)]

        place.clock.time += SECOND - 1
        assert [] == (await place.compose(asked(made))).heads
        place.clock.time += 1
        [alone] = (await place.compose(asked(made))).heads
        assert (7, None, Place.LANE) == (alone.seq, alone.batch, alone.place)
        assert Composed(heads=[], due=(0, 0, 0), look_at=(None, None, None)) == await place.compose(asked(made))


async def test_lanes_hold_the_heads(tmp_path: Path) -> None:
    """A refill brings the head of a batch, once, with its batch."""
    async with opened(tmp_path, gathers=gathers) as place:
        made, head, _ = await composed(place)

        assert ([head], None) == await place.refill(Refill(made.seq, Priority.NORMAL, (0, 0), 10))
        assert {made.seq: [None, (NOW, 1), None]} == await place.store.reader.heads()


async def test_no_more_batches_than_asked_for(tmp_path: Path) -> None:
    """Where the lane has room for one, one is made, of the highest priority; and the answer says that there is more."""
    async with opened(tmp_path, gathers=gathers) as place:
        made = await place.subscribe(batch=BATCH)
        await place.publish(*drafts(4), *drafts(4, priority=Priority.HIGH))

        answer = await place.compose(asked(made, limit=1))

        assert [Priority.HIGH] == [each.priority for each in answer.heads]
        assert ((1, 3, 0), (NOW + SECOND, NOW, None)) == (answer.due, answer.look_at)


async def test_much_that_waits_is_spread_over_commits(tmp_path: Path) -> None:
    """However many batches a lane may have, and of however many subscriptions, a commit makes as many as have its rows."""
    async with opened(tmp_path, gathers=gathers) as place:
        both = [await place.subscribe(batch=BATCH) for _ in range(2)]
        await place.publish(*drafts(2 * batches.MOST_ROWS + 10))
        answer = await place.compose(asked(both[0], most=500, limit=200))
        assert (batches.MOST_ROWS, (0, 500, 0), NOW) == (500 * len(answer.heads), answer.due, answer.look_at[1])

        async with traced(place) as statements:
            for each in both:
                place.store.writer.compose(asked(each, most=500, limit=200))
            await place.listener.until("composed", 3)
        made = [(of.subscription, len(answer.heads)) for of, answer in place.listener.all("composed")[1:]]
        assert [(each.seq, batches.MOST_ROWS // 500) for each in both] == made
        assert 2 == statements.count("COMMIT")


async def test_batch_holds_one_priority_of_one_subscription(tmp_path: Path) -> None:
    """Whatever comes between, the deliveries of a batch are alike."""
    async with opened(tmp_path, gathers=gathers) as place:
        both = [await place.subscribe(batch=BATCH) for _ in range(2)]
        for priority in [*Priority] * 3:
            await place.publish(draft(priority=priority))
        heads = [head for each in both for head in (await place.compose(asked(each))).heads]

        assert 6 == len(heads)
        for head in heads:
            group = await members(place, head.seq)
            assert (3, {(head.subscription, head.priority)}) == (
                len(group),
                {(each.subscription, each.priority) for each in group},
            )


async def test_scheduled_events_wait_for_their_time(tmp_path: Path) -> None:
    """An event with a time of its own is in no batch before."""
    async with opened(tmp_path, gathers=gathers) as place:
        made = await place.subscribe(batch=BATCH)
        await place.publish(*drafts(2), *drafts(2, deliver_at=NOW + HOUR))

        answer = await place.compose(asked(made))
        assert ([], (0, 2, 0), (None, NOW + SECOND, None)) == (answer.heads, answer.due, answer.look_at)
        place.clock.time += SECOND
        answer = await place.compose(asked(made))
        assert ([1], (None, NOW + HOUR, None)) == (seqs(answer.heads), answer.look_at)
        place.clock.time = NOW + HOUR
        answer = await place.compose(asked(made))
        assert ([], (0, 2, 0)) == (answer.heads, answer.due)


async def test_large_events_share_a_request_as_far_as_it_goes(tmp_path: Path) -> None:
    """A batch that would be larger than a megabyte goes as several; an event that is larger goes alone."""
    big = b'"%s"' % (b"x" * (batches.MOST_BYTES * 2 // 5))
    huge = b'"%s"' % (b"x" * batches.MOST_BYTES)
    async with opened(tmp_path, gathers=gathers) as place:
        made = await place.subscribe(batch=BATCH)
        await place.publish(*[draft(data=big)] * 3, draft(data=huge), *drafts(2))

        assert [(1, 1)] == [(each.seq, each.batch) for each in (await place.compose(asked(made, most=6))).heads]
        place.clock.time += SECOND
        answer = await place.compose(asked(made, most=6))
        assert [(3, None), (4, None), (5, 5)] == [(each.seq, each.batch) for each in answer.heads]


async def test_replayed_events_are_gathered_too(tmp_path: Path) -> None:
    """A replay of a thousand events is ten requests of a hundred, not a thousand."""
    async with opened(tmp_path, gathers=gathers) as place:
        made = await place.subscribe(batch=BATCH)
        receipts = await place.publish(*drafts(3))
        for each in receipts:
            await place.store.writer.change(replays.replay_event(each.event.id, "acme"))

        assert [Place.GATHERING] * 6 == [row[1] for row in places(place)]
        assert [1, 4] == seqs((await place.compose(asked(made))).heads)


async def test_disk_that_takes_nothing_is_told(tmp_path: Path) -> None:
    """Where the batches cannot be stored the answer says so, and nothing has changed."""
    async with opened(tmp_path, gathers=gathers) as place:
        made = await place.subscribe(batch=BATCH)
        await place.publish(*drafts(3))
        await place.store.writer._writing.db.execute_fetchall("PRAGMA query_only = on")
        place.store.writer.compose(asked(made))
        [(_, answer)] = await place.listener.until("composed")
        await place.store.writer._writing.db.execute_fetchall("PRAGMA query_only = off")

        assert answer is None
        assert [Place.GATHERING] * 3 == [row[1] for row in places(place)]
        assert [1] == seqs((await place.compose(asked(made))).heads)


async def test_composition_outlives_a_restart(tmp_path: Path) -> None:
    """What was put together is together after the next start, in the same order, whatever came meanwhile."""
    async with opened(tmp_path, gathers=gathers) as place:
        made, _, _ = await composed(place)
        await place.publish(*drafts(2))

    async with opened(tmp_path, gathers=gathers) as place:
        assert [1, 2, 3] == seqs(await members(place, 1))
        assert {made.seq: [None, (NOW, 1), None]} == await place.store.reader.heads()
        place.clock.time += SECOND
        assert [4] == seqs((await place.compose(asked(made))).heads)


# What a request does.


async def test_one_attempt_of_all(tmp_path: Path) -> None:
    """Each delivery has the attempt; the subscription counts one, and what was sent and answered is kept once."""
    async with opened(tmp_path, gathers=gathers) as place:
        made, head, group = await composed(place)
        recorded = await record(place, results(head, group, GONE))

        assert [(each.seq, 1, 1) for each in group] == [
            (each.delivery.seq, each.delivery.attempt_count, each.result.attempt.number if each.result.attempt else 0)
            for each in recorded
        ]
        assert [True, False, False] == [each.counted for each in recorded]
        assert 1 == place.store.memory.health[made.seq].consecutive_failures
        assert [(3, 3, 0)] == place.rows("SELECT count(*), count(exchange), count(body) FROM attempts")
        assert [(b"bye",)] == place.rows("SELECT body FROM exchanges")
        assert [(410, 1)] == place.rows("SELECT status_code, sum(count) FROM statistics GROUP BY 1")
        for each in group:
            [stored] = await place.store.reader.attempts(each.seq)
            assert (410, b"bye") == (stored.status_code, stored.body)
            assert stored.exchange is not None
            events = await place.store.reader.events_of(stored.exchange)
            assert [member.event for member in group] == [event.seq for event in events]


async def test_failed_batch_waits_as_one(tmp_path: Path) -> None:
    """All of it has the same time and step, and the head alone is in the lane."""
    async with opened(tmp_path, gathers=gathers) as place:
        made, head, group = await composed(place)
        recorded = await record(place, results(head, group, NO_ANSWER))

        assert {(recorded[0].delivery.due_at, 1)} == {(each.delivery.due_at, each.delivery.step) for each in recorded}
        assert [(1, Place.LANE, 1), (2, Place.FOLLOWING, 1), (3, Place.FOLLOWING, 1)] == places(place)
        waiting, _ = await place.refill(Refill(made.seq, Priority.NORMAL, (0, 0), 10))
        assert [recorded[0].delivery] == waiting
        assert [each.delivery for each in recorded] == await members(place, 1)


async def test_batch_that_is_given_up(tmp_path: Path) -> None:
    """All fail together, each counted under the label; a success counts each as delivered."""
    rules = Rules(failed_label="Webhook Dispatch Failed")
    async with opened(tmp_path, gathers=gathers) as place:
        made, head, group = await composed(place)
        await record(place, results(head, group, NO_ANSWER, rules))
        await place.publish(*drafts(3))
        [head] = (await place.compose(asked(made))).heads
        await record(place, results(head, await members(place, head.seq), DELIVERED))

        assert [("failed", "Webhook Dispatch Failed", 3), ("delivered", None, 3)] == place.rows(
            "SELECT state, failed_label, count(*) FROM deliveries GROUP BY 1, 2 ORDER BY min(seq)"
        )
        assert [("delivered", 3), ("failed", 3)] == place.rows(
            "SELECT state, sum(count) FROM statistics WHERE state <> '' GROUP BY 1 ORDER BY 1"
        )
        assert [(2,)] == place.rows("SELECT sum(count) FROM statistics WHERE bucket >= 0")


async def test_interrupted_batch_stays_as_it_is(tmp_path: Path) -> None:
    """An attempt that was cut changes nothing; of many in a row one stays, for each delivery and for what they share."""
    async with opened(tmp_path, gathers=gathers) as place:
        _, head, group = await composed(place)
        before = places(place)
        for _ in range(3):
            await record(place, results(head, group, INTERRUPTED))

        assert before == places(place)
        assert [(3, 1)] == place.rows("SELECT count(*), count(DISTINCT exchange) FROM attempts")
        assert [(1,)] == place.rows("SELECT count(*) FROM exchanges")
        assert [] == place.rows("SELECT * FROM statistics")


async def test_interrupted_one_that_left_takes_nothing_along(tmp_path: Path) -> None:
    """When one that left its batch is interrupted again, by itself, the others keep what they shared with it."""
    async with opened(tmp_path, gathers=gathers) as place:
        _, head, group = await composed(place)
        await record(place, results(head, group, INTERRUPTED))
        await place.store.writer.change(changes.retry_delivery(head.id, "acme"))
        _, alone = place.listener.all("overruled")[-1]
        await place.record(result(alone, INTERRUPTED))
        dangling = "SELECT delivery FROM attempts WHERE exchange NOT IN (SELECT seq FROM exchanges)"
        assert [(2,), (3,)] == place.rows("SELECT delivery FROM attempts WHERE exchange IS NOT NULL")
        assert [] == place.rows(dangling)

        await record(place, results(group[1], group[1:], INTERRUPTED))
        assert [] == place.rows(dangling)
        assert [(1,)] == place.rows("SELECT count(*) FROM exchanges")


async def test_interrupted_with_the_rest_again(tmp_path: Path) -> None:
    """Whoever left its batch and was answered since keeps what that shared, though it is interrupted along with the others."""
    async with opened(tmp_path, gathers=gathers) as place:
        _, head, group = await composed(place)
        await record(place, results(head, group, INTERRUPTED))
        await place.store.writer.change(changes.retry_delivery(head.id, "acme"))
        _, alone = place.listener.all("overruled")[-1]
        [answered] = await place.record(result(alone, NO_ANSWER))
        place.store.writer.record(result(answered.delivery, INTERRUPTED))  # both in one commit
        await record(place, results(group[1], group[1:], INTERRUPTED))

        assert [(1, 1), (1, None), (1, None), (2, 2), (3, 2)] == place.rows(
            "SELECT delivery, exchange FROM attempts ORDER BY delivery, seq"
        )
        assert [(1,), (2,)] == place.rows("SELECT seq FROM exchanges")


async def test_number_of_what_is_shared_is_given_once(tmp_path: Path) -> None:
    """After a restart no attempt shows what a later one shares, even where what it shared itself is gone."""
    async with opened(tmp_path, gathers=gathers) as place:
        _, head, group = await composed(place)
        await record(place, results(head, group, GONE))
    write(tmp_path / "hooks.db", "DELETE FROM exchanges")
    async with opened(tmp_path, gathers=gathers) as place:
        _, other, others = await composed(place)
        await record(place, results(other, others, GONE))

        assert [(2,)] == place.rows("SELECT seq FROM exchanges")
        [attempt] = await place.store.reader.attempts(head.seq)
        assert attempt.body is None


async def test_guilty_batch_fails_whole(tmp_path: Path) -> None:
    """Results that SQLite refuses leave all of their batch as it was, and the others are stored."""
    async with opened(tmp_path, gathers=gathers) as place:
        made, head, group = await composed(place)
        await place.publish(*drafts(3))
        [other] = (await place.compose(asked(made))).heads
        bad = results(head, group, DELIVERED)
        bad[1] = replace(bad[1], after=replace(bad[1].after, finished_at=None))  # a CHECK forbids it
        good = results(other, await members(place, other.seq), DELIVERED)
        place.store.writer.record(*bad)  # both in one commit
        place.store.writer.record(*good)
        [told] = await place.listener.until("unrecorded")

        assert [1, 2, 3] == [each.before.seq for each in told[:-1]]
        assert [(1, Place.LANE, 1), (2, Place.FOLLOWING, 1), (3, Place.FOLLOWING, 1)] == [
            row for row in places(place) if row[0] <= 3
        ]
        await place.listener.until("recorded")
        assert [("delivered", 3)] == place.rows("SELECT state, count(*) FROM deliveries WHERE seq > 3 GROUP BY 1")


# Leaving.


@pytest.mark.parametrize("way", ["cancelled", "retried"])
@pytest.mark.parametrize("leaver", [1, 2])
async def test_taken_out_by_hand(tmp_path: Path, way: str, leaver: int) -> None:
    """Whoever is cancelled or retried by hand leaves its batch; the next one leads it if it was the head."""
    async with opened(tmp_path, gathers=gathers) as place:
        made, _, group = await composed(place)
        left = group[leaver - 1]
        change = changes.cancel_delivery if way == "cancelled" else changes.retry_delivery
        await place.store.writer.change(change(left.id, "acme"))

        rest = [each.seq for each in group if each is not left]
        assert rest == seqs(await members(place, 1))
        head, _ = await place.refill(Refill(made.seq, Priority.NORMAL, (0, 0), 10))
        assert sorted([rest[0]] + ([leaver] if way == "retried" else [])) == sorted(seqs(head))
        assert ([rest[0]] if leaver == 1 else []) == seqs(place.listener.all("promoted"))
        [(before, after)] = place.listener.all("overruled")
        assert left == before
        if way == "retried":
            assert (Place.LANE, None, 0) == (after.place, after.batch, after.step)


async def test_head_that_left_may_be_retried_by_hand(tmp_path: Path) -> None:
    """Whoever led a batch, was cancelled, and is retried goes by itself; who leads since is not told to once more."""
    async with opened(tmp_path, gathers=gathers) as place:
        _, head, _ = await composed(place)
        await place.store.writer.change(changes.cancel_delivery(head.id, "acme"))
        await place.store.writer.change(changes.retry_delivery(head.id, "acme"))

        assert [2] == seqs(place.listener.all("promoted"))
        assert [(1, Place.LANE, None), (2, Place.LANE, 1), (3, Place.FOLLOWING, 1)] == places(place)


async def test_one_that_waits_may_be_retried_by_hand(tmp_path: Path) -> None:
    """It goes at once, and does not wait for a batch."""
    async with opened(tmp_path, gathers=gathers) as place:
        made = await place.subscribe(batch=BATCH)
        first, _ = await place.deliver(*drafts(2))
        await place.store.writer.change(changes.retry_delivery(first.id, "acme"))

        [alone], _ = await place.refill(Refill(made.seq, Priority.NORMAL, (0, 0), 10))
        assert (first.seq, Place.LANE, None) == (alone.seq, alone.place, alone.batch)
        place.clock.time += SECOND
        assert [2] == seqs((await place.compose(asked(made))).heads)


async def test_expired_ones_leave(tmp_path: Path) -> None:
    """Upkeep gives up whose time is over, and the rest goes on; what is in flight is left to its attempt."""
    async with opened(tmp_path, gathers=gathers) as place:
        made = await place.subscribe(batch=BATCH)
        await place.publish(*drafts(2, expires_at=NOW + 5), draft(), draft(expires_at=NOW + 5))
        await place.compose(asked(made))
        place.clock.time += 5
        place.listener.batches_in_flight = [1]
        assert 1 == await place.store.writer.change(upkeep.expire)
        place.listener.batches_in_flight = []
        assert 2 == await place.store.writer.change(upkeep.expire)

        assert [(3, Place.LANE, 1)] == places(place)
        assert [3] == seqs(place.listener.all("promoted"))


async def test_head_that_expires_in_its_attempt_is_followed(tmp_path: Path) -> None:
    """Where the head has ended and the others go on, the next of them leads, whoever left meanwhile."""
    async with opened(tmp_path, gathers=gathers) as place:
        _, head, group = await composed(place)
        late = retry.expire(replace(group[0], expires_at=NOW), now=NOW)
        assert late is not None
        made = results(head, group, INTERRUPTED)
        made[0] = Result(before=group[0], after=late, attempt=None, rules=RULES, head=head)
        place.listener.changed_since[2] = replace(group[1], state=DeliveryState.CANCELLED, finished_at=NOW)
        await place.store.writer.change(changes.cancel_delivery(group[1].id, "acme"))
        await record(place, made)

        assert [(3, Place.LANE, 1)] == places(place)
        assert [3] == seqs(await members(place, 1))


async def test_enabling_brings_batches_forward_whole(tmp_path: Path) -> None:
    """The retry of a batch that waited while its subscription was disabled goes at once, as the same batch."""
    async with opened(tmp_path, gathers=gathers) as place:
        made, head, group = await composed(place)
        await record(place, results(head, group, NO_ANSWER))
        made = await place.edit(made, state=SubscriptionState.DISABLED)
        place.clock.time += 7
        await place.edit(made, state=SubscriptionState.ACTIVE)
        while await place.store.writer.change(upkeep.bring_forward):
            pass

        assert {NOW + 7} == {each.due_at for each in await members(place, 1)}
        assert [1, 2, 3] == sorted(before.seq for before, _ in place.listener.all("overruled"))


async def test_enabling_brings_large_batches_forward_in_steps(tmp_path: Path) -> None:
    """As many batches as have the rows of a step are one commit, or a single one that has more."""
    async with opened(tmp_path, gathers=gathers) as place:
        made = await place.subscribe(batch=BATCH)
        await place.publish(*drafts(1_200))
        for size in (600, 200):
            for head in (await place.compose(asked(made, most=size, limit=600 // size))).heads:
                await record(place, results(head, await members(place, head.seq), NO_ANSWER))
        made = await place.edit(made, state=SubscriptionState.DISABLED)
        place.clock.time += 7
        await place.edit(made, state=SubscriptionState.ACTIVE)

        assert [600, 400, 200, 0] == [await place.store.writer.change(upkeep.bring_forward) for _ in range(4)]
        assert [(NOW + 7, 1_200)] == place.rows("SELECT due_at, count(*) FROM deliveries GROUP BY 1")


async def test_deleting_cancels_what_waits_for_a_batch(tmp_path: Path) -> None:
    """Nothing of a deleted subscription waits for ever, wherever it stands."""
    async with opened(tmp_path, gathers=gathers) as place:
        made, _, _ = await composed(place)
        await place.publish()
        await place.store.writer.change(changes.delete_subscription(made.id, "acme"))
        while await place.store.writer.change(upkeep.cancel_rest):
            pass

        assert [("cancelled", 4)] == place.rows("SELECT state, count(*) FROM deliveries GROUP BY 1")


async def test_what_is_shared_goes_with_the_last(tmp_path: Path) -> None:
    """Retention deletes what attempts share once none of them is left."""
    async with opened(tmp_path, gathers=gathers) as place:
        _, head, group = await composed(place)
        await record(place, results(head, group, NO_ANSWER))
        await place.store.writer.change(changes.cancel_delivery(group[0].id, "acme"))
        place.clock.time += HOUR
        group = await members(place, 1)
        await record(place, results(group[0], group, DELIVERED, at=place.clock.time))
        while await place.store.writer.change(upkeep.prune(HOUR - SECOND)):
            pass
        assert [(2, 4)] == place.rows("SELECT (SELECT count(*) FROM exchanges), (SELECT count(*) FROM attempts)")
        place.clock.time += HOUR
        while await place.store.writer.change(upkeep.prune(HOUR - SECOND)):
            pass

        assert [(0, 0)] == place.rows("SELECT (SELECT count(*) FROM exchanges), (SELECT count(*) FROM deliveries)")


async def test_unreadable_member_is_told_and_left_alone(tmp_path: Path) -> None:
    """A row that cannot be read does not keep the others of its batch."""
    async with opened(tmp_path, gathers=gathers) as place:
        await composed(place)
    write(tmp_path / "hooks.db", "UPDATE deliveries SET trigger = 'whim' WHERE seq = 2")
    async with opened(tmp_path, gathers=gathers) as place:
        found, [unreadable] = await place.store.reader.members([1])

        assert [1, 3] == seqs(found[1])
        assert (2, True) == (unreadable.seq, "(row 2)" in unreadable.where)


async def test_unreadable_row_keeps_nobody_from_a_batch(tmp_path: Path) -> None:
    """What cannot be read is given up, told once, and batches are made of the others."""
    async with opened(tmp_path, gathers=gathers) as place:
        made, _ = await place.subscribe(batch=BATCH), await place.publish(*drafts(4))
        write(place.path, "UPDATE deliveries SET trigger = 'whim' WHERE seq = 2")
        assert [1] == seqs((await place.compose(asked(made))).heads)

        [(where, _)] = await place.listener.until("unreadable")
        assert [(1, Place.LANE, 1), (3, Place.FOLLOWING, 1), (4, Place.FOLLOWING, 1)] == places(place)
        assert "(row 2)" in where


async def test_unreadable_row_keeps_nobody_in_a_batch(tmp_path: Path) -> None:
    """A head leaves whatever stands behind it, and enabling brings forward what can be read."""
    async with opened(tmp_path, gathers=gathers) as place:
        made, head, group = await composed(place)
        await record(place, results(head, group, NO_ANSWER))
        write(place.path, "UPDATE deliveries SET trigger = 'whim' WHERE seq = 2")
        place.clock.time += 10
        for state in (SubscriptionState.DISABLED, SubscriptionState.ACTIVE):
            made = await place.edit(made, state=state)
        assert 2 == await place.store.writer.change(upkeep.bring_forward)
        assert [(1, NOW + 10), (3, NOW + 10)] == place.rows("SELECT seq, due_at FROM deliveries WHERE seq <> 2 ORDER BY seq")

        await place.store.writer.change(changes.cancel_delivery(head.id, "acme"))
        assert [3] == seqs(place.listener.all("promoted"))
        [(where, _)] = await place.listener.until("unreadable")
        assert "(row 2)" in where
