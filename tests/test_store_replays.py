"""Replays in the store: of one event at once, of a subscription in steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace
from storage import DAY, DELIVERED, HOUR, NO_ANSWER, NOW, Opened, SetClock, draft, drafts, opened, result, rows, write

from hookengine.errors import EventNotFound, IdempotencyMismatch, Overloaded, SubscriptionNotFound
from hookengine.models import Delivery, DeliveryState, Priority, Rules, SubscriptionState, Trigger, WhileDisabled
from hookengine.scheduler import Refill
from hookengine.store import Answer, Key, Replay, changes, replays, upkeep
from hookengine.store.upkeep import STEP

if TYPE_CHECKING:
    from pathlib import Path

    from hookengine.models import Subscription
    from hookengine.store import Receipt

KEY = Key(tenant="acme", method="POST", path="/x", key="k", digest=b"d")
NO_RETRIES = Rules()
WAITING = "SELECT subscription, count(*), sum(cursor) FROM replays GROUP BY subscription"


async def again(place: Opened, *, tenant: str | None = "acme", **more: Any) -> Receipt | Answer:
    """Replay the newest event of *place*."""
    [(id_,)] = place.rows("SELECT id FROM events ORDER BY seq DESC LIMIT 1")
    return await place.store.writer.change(replays.replay_event(id_, tenant, **more))


async def end(place: Opened, *made: Delivery, well: bool = False) -> None:
    """Let the only attempt of each end."""
    await place.record(*(result(each, DELIVERED if well else NO_ANSWER, rules=NO_RETRIES) for each in made))


async def begin(place: Opened, of: Subscription, **filters: Any) -> Replay:
    """A replay of the failed deliveries of a subscription, or of those that *filters* name."""
    newest = await place.store.reader.newest_delivery()
    given: dict[str, Any] = {"subscription": of.seq, "states": ("failed",), "newest": newest}
    wanted = Replay(**(given | filters))
    count = await place.store.reader.count_replayable(wanted)
    assert count == await place.store.writer.change(replays.add_replay(of.id, "acme", wanted, count))
    return wanted


async def finish(place: Opened) -> int:
    """Make what is to be replayed; how many steps that took."""
    steps = 0
    while await place.store.writer.change(replays.replay_some):
        steps += 1
    return steps


async def test_deliveries_after_a_restart_are_none_of_before(tmp_path: Path) -> None:
    """A replay that waits takes none that was made after it, though what it was to take is gone and the engine was started."""
    clock = SetClock()
    async with opened(tmp_path, clock=clock) as place:
        of = await place.subscribe()
        await end(place, *await place.deliver(*drafts(20)))
        of = await place.edit(of, state=SubscriptionState.DISABLED)
        wanted = await begin(place, of)
        clock.time += 31 * DAY
        while await place.store.writer.change(upkeep.prune(30 * DAY)):
            pass
    async with opened(tmp_path, clock=clock) as place:
        await place.edit(of, state=SubscriptionState.ACTIVE)
        new = await place.deliver(*drafts(5))
        await end(place, *new)
        await finish(place)

        assert wanted.newest < min(each.seq for each in new)
        assert 5 == len(made(place))


def made(place: Opened, since: int = 0) -> list[Delivery]:
    """The deliveries that the listener was told of, from the number *since* on."""
    return [delivery for batch in place.listener.all("accepted") for delivery, _ in batch][since:]


# One event.


async def test_event_goes_to_those_that_match_now(tmp_path: Path) -> None:
    """A replay makes a delivery, due now, for each subscription that takes the event in as they are now."""
    async with opened(tmp_path) as place:
        first = await place.subscribe()
        await place.publish(draft(priority=Priority.HIGH))
        await place.edit(first, event_types=("user.*",))
        second = await place.subscribe(event_types=("order.*",))
        await place.edit(await place.subscribe(while_disabled=WhileDisabled.SKIP), state=SubscriptionState.DISABLED)
        await place.subscribe(tenant="other")
        place.clock.time += 5
        receipt = await again(place)
        [replayed] = made(place, 1)

        assert not isinstance(receipt, Answer)
        assert 1 == receipt.deliveries
        assert (second.seq, receipt.event.seq, NOW + 5, NOW + 5, Trigger.REPLAY, Priority.NORMAL, 0) == (
            replayed.subscription,
            replayed.event,
            replayed.due_at,
            replayed.created_at,
            replayed.trigger,
            replayed.priority,
            replayed.attempt_count,
        )
        assert receipt.event == place.listener.all("accepted")[-1][0][1]
        assert (0, 1) == place.listener.commits[-1]
        assert [(1, 0), (2, 1)] == place.rows("SELECT seq, replay FROM deliveries")
        assert ([replayed], None) == await place.refill(Refill(second.seq, Priority.NORMAL, (0, 0), 10))
        assert [(1,)] == place.rows("SELECT deliveries FROM events")


async def test_event_goes_to_those_that_are_named(tmp_path: Path) -> None:
    """With names a replay reaches exactly these, whatever their types, and with none nobody."""
    async with opened(tmp_path) as place:
        named = await place.subscribe(event_types=("nothing",))
        await place.subscribe()
        await place.publish()
        await again(place, only={named.id})
        await again(place, only=set())

        assert [named.seq] == [each.subscription for each in made(place, 1)]


@pytest.mark.parametrize("tenant", ["other", "acme"])
async def test_unknown_event(tmp_path: Path, tenant: str) -> None:
    """Another tenant's event is as unknown as none."""
    async with opened(tmp_path) as place:
        await place.publish(draft(id="mine", digest=b"d"))
        id_ = "mine" if tenant == "other" else "yours"

        with pytest.raises(EventNotFound):
            await place.store.writer.change(replays.replay_event(id_, tenant))


async def test_event_is_replayed_once_with_a_key(tmp_path: Path) -> None:
    """The key is stored with the deliveries: a repetition gets the first answer, other bytes are refused."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        await place.publish()
        asked: dict[str, Any] = {"key": KEY, "render": lambda receipt: b"%d" % receipt.deliveries}
        first = await again(place, **asked)

        assert not isinstance(first, Answer)
        assert Answer(status=202, body=b"1") == await again(place, **asked)
        with pytest.raises(IdempotencyMismatch):
            await again(place, **asked | {"key": replace(KEY, digest=b"e")})
        assert [(2,)] == place.rows("SELECT count(*) FROM deliveries")
        place.clock.time += DAY
        assert not isinstance(await again(place, **asked), Answer)


# A subscription.


@pytest.mark.parametrize(
    ("states", "expected"),
    [
        (("failed",), [2, 6]),
        (("cancelled",), [3]),
        (("delivered",), [1]),
        (("failed", "cancelled"), [2, 3, 6]),
        (("delivered", "failed", "cancelled"), [1, 2, 3, 6]),
    ],
)
async def test_states(tmp_path: Path, states: tuple[str, ...], expected: list[int]) -> None:
    """What ended in the asked states is made again, with low priority; what waits is not, nor is another's."""
    async with opened(tmp_path) as place:
        wanted = await place.subscribe()
        delivered, failed, cancelled, _, _, last = await place.deliver(*drafts(6))
        other = await place.subscribe()
        await end(place, delivered, well=True)
        await end(place, failed, last)
        await place.store.writer.change(changes.cancel_delivery(cancelled.id, None))
        [_, theirs] = await place.deliver()
        await end(place, theirs)
        await begin(place, wanted, states=states)
        assert 1 == await finish(place)

        assert expected == [each.event for each in made(place, 8)]
        assert {(wanted.seq, Priority.LOW, Trigger.REPLAY, DeliveryState.PENDING)} == {
            (each.subscription, each.priority, each.trigger, each.state) for each in made(place, 8)
        }
        assert [] == place.rows("SELECT * FROM replays")
        assert [(wanted.seq, len(expected), False), (wanted.seq, len(expected), True)] == place.listener.all("replaying")
        assert other.seq == theirs.subscription


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, [1, 2, 3]),
        ({"since": NOW + HOUR}, [2, 3]),
        ({"until": NOW + HOUR}, [1]),
        ({"since": NOW + 1, "until": NOW + HOUR + 1}, [2]),
        ({"states": ("delivered", "failed"), "since": NOW + 2 * HOUR}, [3]),
    ],
)
async def test_range(tmp_path: Path, filters: dict[str, Any], expected: list[int]) -> None:
    """The range begins with `since` and ends before `until`, and is about when the event was accepted, also after a replay."""
    async with opened(tmp_path) as place:
        wanted = await place.subscribe()
        for hour in range(3):
            place.clock.time = NOW + hour * HOUR
            await end(place, *await place.deliver())
        place.clock.time = NOW + DAY
        await begin(place, wanted)
        await finish(place)
        await end(place, *made(place, 3))
        await begin(place, wanted, **filters)
        await finish(place)

        assert expected == [each.event for each in made(place, 6)]


async def test_newest_delivery_of_an_event_counts(tmp_path: Path) -> None:
    """What was replayed since is not replayed again unless that failed too, and then once, not for every time it failed."""
    async with opened(tmp_path) as place:
        wanted = await place.subscribe()
        await end(place, *await place.deliver(*drafts(3)))
        await begin(place, wanted)
        await finish(place)
        came, failed, waits = made(place, 3)
        await end(place, came, well=True)
        await end(place, failed)
        await begin(place, wanted)
        await begin(place, wanted)
        await finish(place)

        assert [failed.event] == [each.event for each in made(place, 6)]
        assert DeliveryState.PENDING == waits.state


async def test_steps(tmp_path: Path) -> None:
    """A step looks at 500 deliveries and begins where the one before ended; what comes meanwhile is not looked at."""
    async with opened(tmp_path) as place:
        wanted = await place.subscribe()
        await end(place, *await place.deliver(*drafts(1000), *drafts(234)))
        replay = await begin(place, wanted)
        assert 1 == await place.store.writer.change(replays.replay_some)
        assert [(STEP, STEP, NOW)] == place.rows("SELECT cursor, made, moved_at FROM replays")
        await end(place, *await place.deliver())
        assert 2 == await finish(place)

        assert 1234 == replay.newest
        assert [*range(1, 1235)] == [each.event for each in made(place, 1234) if each.trigger is Trigger.REPLAY]


async def test_restart_resumes(tmp_path: Path) -> None:
    """After a stop in the middle the rest is made, each delivery once."""
    async with opened(tmp_path) as place:
        wanted = await place.subscribe()
        await end(place, *await place.deliver(*drafts(1000), *drafts(234)))
        await begin(place, wanted)
        await place.store.writer.change(replays.replay_some)
    async with opened(tmp_path) as place:
        assert 2 == await finish(place)

        assert [(1234, 1234)] == place.rows("SELECT count(*), count(DISTINCT event) FROM deliveries WHERE replay = 1")
        assert [(wanted.seq, 1234, True)] == place.listener.all("replaying")


async def test_turns_are_fair(tmp_path: Path) -> None:
    """Replays take turns: a short one does not wait for the end of a long one."""
    async with opened(tmp_path) as place:
        long = await place.subscribe()
        await end(place, *await place.deliver(*drafts(1000), *drafts(500)))
        short = await place.subscribe()
        await end(place, (await place.deliver())[1])
        await begin(place, long)
        await begin(place, short)
        for _ in range(2):
            place.clock.time += 1
            await place.store.writer.change(replays.replay_some)

        assert [(short.seq, 1, True)] == place.listener.all("replaying")[2:]


async def test_many_replays_of_one_subscription_have_one_turn(tmp_path: Path) -> None:
    """Subscriptions take turns, whether the replays that had theirs are finished or go on."""
    async with opened(tmp_path) as place:
        greedy = await place.subscribe()
        await end(place, *await place.deliver(*drafts(1000), *drafts(500)))
        other = await place.subscribe()
        await end(place, *await place.deliver(*drafts(600)))
        for newest in (1, 1500, 1, 1500):
            await begin(place, greedy, newest=newest)
        await begin(place, other)
        turns = []
        for _ in range(5):
            place.clock.time += 1
            before = set(place.rows(WAITING))
            await place.store.writer.change(replays.replay_some)
            turns += [subscription for subscription, *_ in before - set(place.rows(WAITING))]

        assert [greedy.seq, other.seq, greedy.seq, other.seq, greedy.seq] == turns


async def test_replays_of_one_subscription_take_turns(tmp_path: Path) -> None:
    """Of one subscription, too, a short replay, of events that went again meanwhile, does not wait for a longer one."""
    async with opened(tmp_path) as place:
        of = await place.subscribe()
        await end(place, *await place.deliver(*drafts(1000), *drafts(500)))
        await begin(place, of)
        for _ in range(2):
            place.clock.time += 1
            await place.store.writer.change(replays.replay_some)
        await begin(place, of, newest=7)
        place.clock.time += 1
        await place.store.writer.change(replays.replay_some)

        assert (of.seq, 0, True) == place.listener.all("replaying")[-1]


async def test_unfinished_replays_are_bounded(tmp_path: Path) -> None:
    """A hundred replays of a subscription wait at most; there is room for more as soon as one is finished, and for others'."""
    async with opened(tmp_path) as place:
        full, other = await place.subscribe(), await place.subscribe()
        for _ in range(100):
            await begin(place, full)
        with pytest.raises(Overloaded, match="100 replays of this subscription have not finished"):
            await begin(place, full)
        await begin(place, other)
        await place.store.writer.change(replays.replay_some)
        await begin(place, full)

        assert [(100,)] == place.rows(f"SELECT count(*) FROM replays WHERE subscription = {full.seq}")


async def test_replay_of_a_disabled_subscription_waits(tmp_path: Path) -> None:
    """Nothing is made while the subscription is disabled; enabled, the replay goes on."""
    async with opened(tmp_path) as place:
        wanted = await place.subscribe()
        await end(place, *await place.deliver(*drafts(3)))
        await place.edit(wanted, state=SubscriptionState.DISABLED)
        await begin(place, wanted)
        assert 0 == await finish(place)
        await place.edit(place.store.memory.index.by_id(wanted.id) or wanted, state=SubscriptionState.ACTIVE)
        await finish(place)

        assert [1, 2, 3] == [each.event for each in made(place, 3)]


async def test_deleted_subscription_ends_its_replay(tmp_path: Path) -> None:
    """A replay ends with its subscription, and none begins after that."""
    async with opened(tmp_path) as place:
        wanted = await place.subscribe()
        await end(place, *await place.deliver(*drafts(1000)))
        replay = await begin(place, wanted)
        await place.store.writer.change(replays.replay_some)
        await place.store.writer.change(changes.delete_subscription(wanted.id, None))

        assert 0 == await finish(place)
        assert [] == place.rows("SELECT * FROM replays")
        with pytest.raises(SubscriptionNotFound):
            await place.store.writer.change(replays.add_replay(wanted.id, None, replay, 1))


async def test_replay_of_an_unreadable_subscription(tmp_path: Path) -> None:
    """What is made for a subscription that cannot be read waits on disk like all else that it has."""
    async with opened(tmp_path) as place:
        wanted = await place.subscribe()
        await end(place, *await place.deliver(*drafts(3)))
        await begin(place, wanted)
    write(tmp_path / "hooks.db", "UPDATE subscriptions SET settings = x'00'")
    async with opened(tmp_path) as place:
        await finish(place)

        assert [] == place.listener.all("replaying")
    assert [(3,)] == rows(tmp_path / "hooks.db", "SELECT count(*) FROM deliveries WHERE state = 'pending'")


async def test_replay_begins_once_with_a_key(tmp_path: Path) -> None:
    """The key is stored with the replay: a repetition gets the first answer, other bytes are refused."""
    async with opened(tmp_path) as place:
        wanted = await place.subscribe()
        replay = Replay(subscription=wanted.seq, states=("failed",), newest=0)

        async def ask(key: Key) -> int | Answer:
            step = replays.add_replay(wanted.id, None, replay, 7, key=key, render=lambda count: b"%d" % count)
            return await place.store.writer.change(step)

        assert 7 == await ask(KEY)
        assert Answer(status=202, body=b"7") == await ask(KEY)
        with pytest.raises(IdempotencyMismatch):
            await ask(replace(KEY, digest=b"e"))
        assert [(1,)] == place.rows("SELECT count(*) FROM replays")


async def test_count_of_many(tmp_path: Path) -> None:
    """However many pages are counted, the sum is right."""
    async with opened(tmp_path) as place:
        wanted = await place.subscribe()
        for _ in range(5):
            await end(place, *await place.deliver(*drafts(1000)))
        newest = await place.store.reader.newest_delivery()
        failed = Replay(subscription=wanted.seq, states=("failed",), newest=newest)

        for states, newest_, expected in ((("failed",), newest, 5000), (("delivered",), newest, 0), (("failed",), 4000, 4000)):
            assert expected == await place.store.reader.count_replayable(replace(failed, states=states, newest=newest_))
