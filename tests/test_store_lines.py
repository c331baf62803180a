"""Lines in the store: of one ordering key the head alone is in the lane, in the order of acceptance, whatever happens."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from storage import DELIVERED, HOUR, NO_ANSWER, NOW, Opened, draft, drafts, opened, result, write

from hookengine.errors import DeliveryStateConflict
from hookengine.models import Delivery, Ordering, Place, Priority, Rules, SubscriptionState
from hookengine.scheduler import Refill
from hookengine.store import Replay, changes, replays, upkeep

if TYPE_CHECKING:
    from pathlib import Path

    from hookengine.models import Outcome, Subscription

FIFO = Ordering.FIFO
NO_RETRIES = Rules()


def leads(place: Opened) -> list[tuple[int, str]]:
    """Who is in the lanes, with its line."""
    return place.rows("SELECT seq, line FROM deliveries WHERE state = 'pending' AND place = 0 ORDER BY seq")


def promoted(place: Opened) -> list[int]:
    """Who was told to lead, in that order."""
    return [each.seq for each in place.listener.all("promoted")]


async def in_lane(place: Opened, of: Subscription) -> list[Delivery]:
    """What a refill brings."""
    return (await place.refill(Refill(of.seq, Priority.NORMAL, (0, 0), 100)))[0]


async def lined(place: Opened, count: int = 3) -> tuple[Subscription, list[Delivery]]:
    """A subscription that wants order, with *count* deliveries in one line."""
    made = await place.subscribe(ordering=FIFO)
    return made, await place.deliver(*drafts(count))


async def test_heads_alone_are_in_the_lane(tmp_path: Path) -> None:
    """Of each ordering key the first; events without a key share one line; other subscriptions have no lines."""
    async with opened(tmp_path) as place:
        made, plain = await place.subscribe(ordering=FIFO), await place.subscribe()
        keys = ["a", None, "b", "a", "", None, "b"]
        for key in keys:
            await place.publish(draft(ordering_key=key))

        mine = await in_lane(place, made)
        assert [("a", Place.LANE), ("", Place.LANE), ("b", Place.LANE)] == [(each.line, each.place) for each in mine]
        assert [None] * 7 == [each.line for each in await in_lane(place, plain)]
        told = [each for batch in place.listener.all("accepted") for each, _ in batch if each.subscription == made.seq]
        assert [0, 0, 0, 2, 2, 2, 2] == [each.place for each in told]


async def test_order_within_a_commit(tmp_path: Path) -> None:
    """Events that are committed together stand in the order of their array, also if the line was empty before."""
    async with opened(tmp_path) as place:
        made, [first, second, third] = await lined(place)

        assert [first] == await in_lane(place, made)
        await place.record(result(first, DELIVERED))
        assert [second.seq] == promoted(place)
        [told] = await in_lane(place, made)
        assert (second.seq, Place.LANE, second.due_at) == (told.seq, told.place, told.due_at)
        await place.record(result(told, NO_ANSWER, rules=NO_RETRIES))  # given up: the next one goes
        assert [second.seq, third.seq] == promoted(place)


async def test_waiting_head_blocks_its_line(tmp_path: Path) -> None:
    """A head that failed, or whose time has not come, is waited for; priority is nothing here."""
    async with opened(tmp_path) as place:
        made = await place.subscribe(ordering=FIFO)
        [late, early, high] = await place.deliver(draft(deliver_at=NOW + HOUR), draft(), draft(priority=Priority.HIGH))
        assert [late.seq] == [each.seq for each in await in_lane(place, made)]
        assert {Priority.NORMAL} == {each.priority for each in (late, early, high)}
        await place.record(result(late, NO_ANSWER))

        assert [] == promoted(place)
        assert [late.seq] == [each.seq for each in await in_lane(place, made)]


async def test_event_that_comes_with_the_end_of_the_head(tmp_path: Path) -> None:
    """An event that is committed together with the end of the only one before it leads at once, and is told to."""
    async with opened(tmp_path) as place:
        made, [head] = await lined(place, 1)
        place.store.writer.record(result(head, DELIVERED))  # both in one turn of the writer
        [receipt] = await place.publish()

        [after] = await in_lane(place, made)
        assert (receipt.event.seq, Place.LANE) == (after.event, after.place)
        assert [after.seq] == promoted(place)


@pytest.mark.parametrize("way", ["cancel", "expire"])
@pytest.mark.parametrize("leaver", [0, 1])
async def test_taken_out_of_the_line(tmp_path: Path, way: str, leaver: int) -> None:
    """When the head is cancelled or expires the next leads; when one behind is, nothing changes for the others."""
    async with opened(tmp_path) as place:
        made = await place.subscribe(ordering=FIFO)
        given = [draft(expires_at=NOW + 5 if n == leaver and way == "expire" else None) for n in range(3)]
        deliveries = await place.deliver(*given)
        if way == "cancel":
            await place.store.writer.change(changes.cancel_delivery(deliveries[leaver].id, "acme"))
        else:
            place.clock.time += 5
            await place.store.writer.change(upkeep.expire)

        rest = [each.seq for each in deliveries if each is not deliveries[leaver]]
        assert [rest[0]] == [each.seq for each in await in_lane(place, made)]
        assert ([rest[0]] if leaver == 0 else []) == promoted(place)


async def test_retry_by_hand(tmp_path: Path) -> None:
    """A waiting head is due now; one behind has to wait; one that has ended goes to the end of its line."""
    async with opened(tmp_path) as place:
        made, [first, second, third] = await lined(place)
        await place.record(result(first, NO_ANSWER))
        place.clock.time += 7
        await place.store.writer.change(changes.retry_delivery(first.id, "acme"))
        [head] = await in_lane(place, made)
        assert (first.seq, NOW + 7) == (head.seq, head.due_at)
        with pytest.raises(DeliveryStateConflict, match="waits for its turn"):
            await place.store.writer.change(changes.retry_delivery(second.id, "acme"))

        await place.record(result(head, NO_ANSWER, rules=NO_RETRIES))
        await place.store.writer.change(changes.retry_delivery(first.id, "acme"))
        order = []
        while waiting := await in_lane(place, made):
            [head] = waiting
            order.append(head.seq)
            await place.record(result(head, DELIVERED))
        assert [second.seq, third.seq, first.seq] == order


async def test_retried_head_stands_before_the_others(tmp_path: Path) -> None:
    """A waiting head that is retried by hand keeps its turn: those behind it wait for its end, and go in their order."""
    async with opened(tmp_path) as place:
        made, [first, second, third] = await lined(place)
        await place.record(result(first, NO_ANSWER))
        await place.store.writer.change(changes.retry_delivery(first.id, "acme"))
    async with opened(tmp_path) as place:
        [fourth] = await place.deliver()
        order = []
        while waiting := await in_lane(place, made):
            [head] = waiting
            order.append(head.seq)
            if head.seq == second.seq:  # it waits for another attempt, and is then the first of all
                [again] = await place.record(result(head, NO_ANSWER))
                await place.store.writer.change(changes.retry_delivery(again.delivery.id, "acme"))
                [head] = await in_lane(place, made)
                assert [(second.seq, 0), (third.seq, 2), (fourth.seq, 2)] == place.rows(
                    "SELECT seq, place FROM deliveries WHERE state = 'pending' ORDER BY turn"
                )
            await place.record(result(head, DELIVERED))

        assert [first.seq, second.seq, third.seq, fourth.seq] == order


async def test_success_of_one_that_is_the_last_by_now(tmp_path: Path) -> None:
    """Who was cancelled and retried while its request ran stands last: when that succeeds, who leads is not told to again."""
    async with opened(tmp_path) as place:
        made, [first, second, third] = await lined(place)
        for change in (changes.cancel_delivery, changes.retry_delivery):
            await place.store.writer.change(change(first.id, "acme"))
        _, (_, place.listener.changed_since[first.seq]) = place.listener.all("overruled")
        await place.record(result(first, DELIVERED))

        [leader] = await in_lane(place, made)
        assert [second.seq] == promoted(place) == [leader.seq]
        assert [(first.seq,)] == place.rows("SELECT seq FROM deliveries WHERE state = 'delivered'")
        await place.record(result(leader, DELIVERED))
        assert [second.seq, third.seq] == promoted(place)


async def test_retry_by_hand_in_an_empty_line(tmp_path: Path) -> None:
    """Where nobody stands any more, it leads; and who comes after it waits."""
    async with opened(tmp_path) as place:
        made, [only] = await lined(place, 1)
        await place.record(result(only, NO_ANSWER, rules=NO_RETRIES))
        await place.store.writer.change(changes.retry_delivery(only.id, "acme"))
        await place.publish()

        assert [only.seq] == [each.seq for each in await in_lane(place, made)]


async def test_retry_by_hand_before_a_restart(tmp_path: Path) -> None:
    """Whoever comes after a restart stands behind those that were retried before it."""
    async with opened(tmp_path) as place:
        made, [first, second] = await lined(place, 2)
        for each in (first, second):
            await place.store.writer.change(changes.cancel_delivery(each.id, "acme"))
        for each in (second, first):
            await place.store.writer.change(changes.retry_delivery(each.id, "acme"))
    async with opened(tmp_path) as place:
        [third] = await place.deliver()
        order = []
        while waiting := await in_lane(place, made):
            [head] = waiting
            order.append(head.seq)
            await place.record(result(head, DELIVERED))

    assert [second.seq, first.seq, third.seq] == order


async def test_replays_go_to_the_end(tmp_path: Path) -> None:
    """What is replayed stands behind what waits, in the line of its key, in the order of acceptance."""
    async with opened(tmp_path) as place:
        made = await place.subscribe(ordering=FIFO)
        receipts = await place.publish(draft(ordering_key="a"), draft(ordering_key="b"), draft(ordering_key="a"))
        for receipt in receipts[:2]:
            await place.store.writer.change(replays.replay_event(receipt.event.id, "acme"))

        assert [("a", 1), ("b", 2), ("a", 3), ("a", 4), ("b", 5)] == place.rows(
            "SELECT line, turn FROM deliveries ORDER BY turn"
        )
        assert [1, 2] == [each.seq for each in await in_lane(place, made)]


async def test_replay_of_a_subscription_keeps_the_order(tmp_path: Path) -> None:
    """A replay in steps makes lines, too."""
    async with opened(tmp_path) as place:
        made, deliveries = await lined(place, 4)
        for each in deliveries:
            await place.record(result(each, NO_ANSWER, rules=NO_RETRIES))
        wanted = Replay(subscription=made.seq, states=("failed",), newest=4)
        await place.store.writer.change(replays.add_replay(made.id, "acme", wanted, 4))
        while await place.store.writer.change(replays.replay_some):
            pass

        assert [(5, "")] == leads(place)
        assert [5, 6, 7, 8] == [
            seq for (seq,) in place.rows("SELECT seq FROM deliveries WHERE state = 'pending' ORDER BY turn")
        ]


async def test_lines_outlive_a_restart(tmp_path: Path) -> None:
    """Who leads is on disk, and so is who comes next."""
    async with opened(tmp_path) as place:
        made, [first, second, _] = await lined(place)
        await place.record(result(first, DELIVERED))
    async with opened(tmp_path) as place:
        assert {made.seq: [None, (NOW, second.seq), None]} == await place.store.reader.heads()
        await place.publish()
        assert [second.seq] == [each.seq for each in await in_lane(place, made)]


async def test_order_that_is_given_up(tmp_path: Path) -> None:
    """Without fifo new events go at once; what stood in line goes on in its order."""
    async with opened(tmp_path) as place:
        made, [first, second] = await lined(place, 2)
        await place.edit(made, ordering=Ordering.NONE)
        [third] = await place.deliver()

        assert [first.seq, third.seq] == [each.seq for each in await in_lane(place, made)]
        await place.record(result(first, DELIVERED))
        assert [second.seq] == promoted(place)


async def test_operational_events_have_their_order(tmp_path: Path) -> None:
    """What the engine itself tells stands in line, wherever it is made."""
    async with opened(tmp_path) as place:
        watcher = await place.subscribe(tenant="hookengine", ordering=FIFO, event_types=("hookengine.*",))
        made = await place.subscribe()
        for state in (SubscriptionState.DISABLED, SubscriptionState.ACTIVE, SubscriptionState.DISABLED):
            made = await place.edit(made, state=state)

        assert [(watcher.seq, 0), (watcher.seq, 2), (watcher.seq, 2)] == place.rows(
            "SELECT subscription, place FROM deliveries ORDER BY turn"
        )


async def test_operational_events_of_results_have_their_order(tmp_path: Path) -> None:
    """What is told of attempts' ends, in commits one after the other, stands in line as well."""
    async with opened(tmp_path) as place:
        watcher = await place.subscribe(tenant="hookengine", ordering=FIFO, event_types=("hookengine.*",))
        await place.subscribe()
        for each in await place.deliver(*drafts(3)):
            await place.record(result(each, NO_ANSWER, rules=NO_RETRIES))

        assert [(0,), (2,), (2,)] == place.rows(
            f"SELECT place FROM deliveries WHERE subscription = {watcher.seq} ORDER BY turn"
        )


@pytest.mark.parametrize("seed", range(8))
async def test_any_history_keeps_the_order(tmp_path: Path, seed: int) -> None:
    """Whatever is published, fails, is cancelled or retried, each line has one head, and it is the first of its turn."""
    rng = random.Random(seed)
    async with opened(tmp_path) as place:
        made = await place.subscribe(ordering=FIFO)
        for _ in range(40):
            match rng.choice(["publish", "publish", "end", "end", "cancel", "retry"]):
                case "publish":
                    await place.publish(*[draft(ordering_key=rng.choice("ab")) for _ in range(rng.randint(1, 3))])
                case "end" if waiting := await in_lane(place, made):
                    outcome: Outcome = DELIVERED if rng.random() < 0.5 else NO_ANSWER
                    place.store.writer.record(
                        result(rng.choice(waiting), outcome, rules=rng.choice([NO_RETRIES, Rules(retry_schedule=(1,))]))
                    )
                    if rng.random() < 0.5:
                        await place.publish(draft(ordering_key=rng.choice("ab")))
                case "cancel" if pending := place.rows("SELECT id FROM deliveries WHERE state = 'pending'"):
                    await place.store.writer.change(changes.cancel_delivery(rng.choice(pending)[0], "acme"))
                case "retry" if ended := place.rows("SELECT id FROM deliveries WHERE state IN ('failed', 'cancelled')"):
                    await place.store.writer.change(changes.retry_delivery(rng.choice(ended)[0], "acme"))
            await place.store.writer.change(_nothing)
            assert place.rows(
                "SELECT line, min(turn) FROM deliveries WHERE state = 'pending' GROUP BY line ORDER BY line"
            ) == place.rows("SELECT line, turn FROM deliveries WHERE state = 'pending' AND place = 0 ORDER BY line")


async def _nothing(_: Any) -> None:
    """A change that lets everything sent before it be done."""


@pytest.mark.parametrize("way", ["delivered", "cancelled"])
async def test_unreadable_row_behind_the_head(tmp_path: Path, way: str) -> None:
    """A head ends whatever stands behind it: where that cannot be read, it is given up, and the one behind it leads."""
    async with opened(tmp_path) as place:
        made, [head, _, _] = await lined(place)
        write(place.path, "UPDATE deliveries SET trigger = 'whim' WHERE seq = 2")
        if way == "delivered":
            await place.record(result(head, DELIVERED))
        else:
            await place.store.writer.change(changes.cancel_delivery(head.id, "acme"))
        await place.publish(draft(ordering_key="other"))

        [(where, _)] = await place.listener.until("unreadable")
        assert "(row 2)" in where
        assert [3] == promoted(place)
        assert [("", 3), ("other", 4)] == [(each.line, each.seq) for each in await in_lane(place, made)]
