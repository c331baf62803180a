"""Upkeep on a real store: what it finishes, when it looks, and what it survives."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from patience import PATIENCE
from storage import (
    DAY,
    DELIVERED,
    NO_ANSWER,
    NOW,
    Opened,
    SetClock,
    draft,
    drafts,
    opened,
    result,
    subscription,
    traced,
)

from hookengine import maintenance
from hookengine.access import DEFAULT_SCOPES, Principal, Token
from hookengine.errors import StorageUnavailable
from hookengine.maintenance import Maintenance
from hookengine.models import DisabledReason, SubscriptionState
from hookengine.observers import DeliveryOverruled, Fault, Happening, ReplayProgress, SubscriptionChanged
from hookengine.store import Replay, changes, registry, replays

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from hookengine.models import Subscription
    from hookengine.store import Transaction

    Step = Callable[[Transaction], Awaitable[int]]

ACTIVE = subscription(SetClock())
DISABLED = subscription(SetClock(), state=SubscriptionState.DISABLED, disabled_reason=DisabledReason.MANUAL)


def upkeep(place: Opened, heard: list[Happening] | None = None, *steps: Step) -> Maintenance:
    """Upkeep of *place*, with other *steps* where a test needs them, told of changes as the engine would."""
    made = Maintenance(place.store, retention=30 * DAY, observe=(heard if heard is not None else []).append)
    if steps:
        made._following, made._regular = steps, ()

    def tell(name: str) -> None:
        if name == "changed":
            before, after = place.listener.all("changed")[-1]
            made(SubscriptionChanged(before=before, after=after))

    place.listener.look = tell
    return made


@asynccontextmanager
async def running(upkeep: Maintenance) -> AsyncIterator[None]:
    """*upkeep* at work; stopped at the end, which must be soon."""
    task = asyncio.create_task(upkeep.run())
    try:
        async with asyncio.timeout(PATIENCE):
            yield
    finally:
        upkeep.stop()
        async with asyncio.timeout(PATIENCE):
            await task


async def until(place: Opened, expected: object, statement: str) -> None:
    """Ask again, through the writer's queue and thus behind upkeep's steps, until *statement* gives *expected*."""

    async def ask(tx: Transaction) -> object:
        return (await tx.fetch(statement))[0][0]

    while await place.store.writer.change(ask) != expected:
        pass


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Opened]:
    """An open store."""
    async with opened(tmp_path) as place:
        yield place


# What it finishes.


async def test_enabling_brings_retries_forward(place: Opened) -> None:
    """What waited for a retry goes as soon as its subscription is enabled, without waiting for the next round."""
    wanted = await place.subscribe()
    waiting = await place.deliver(*drafts(3))
    recorded = await place.record(*(result(each, NO_ANSWER) for each in waiting))
    assert all(each.delivery.due_at > NOW for each in recorded)
    async with running(upkeep(place)):
        await place.edit(wanted, state=SubscriptionState.DISABLED)
        place.clock.time += 1_000
        await place.edit(place.store.memory.index.by_id(wanted.id) or wanted, state=SubscriptionState.ACTIVE)
        told = await place.listener.until("overruled", 3)

    assert [(each.seq, NOW + 1_000) for each in waiting] == [(after.seq, after.due_at) for _, after in told]


async def test_deleting_cancels_the_rest(place: Opened) -> None:
    """All that a deleted subscription leaves is written down as cancelled, also where that takes several commits."""
    wanted = await place.subscribe()
    await place.publish(*drafts(600), *drafts(600))
    async with running(upkeep(place)):
        await place.store.writer.change(changes.delete_subscription(wanted.id, None))
        await until(place, 1_200, "SELECT count(*) FROM deliveries WHERE state = 'cancelled'")


async def test_old_work_is_pruned_and_unfinished_work_is_not(place: Opened) -> None:
    """What finished before the retention goes with its attempts and events; what waits stays, however old it is."""
    await place.subscribe()
    done, waiting = await place.deliver(draft(), draft())
    await place.record(result(done, DELIVERED), result(waiting, NO_ANSWER))
    place.clock.time += 31 * DAY
    async with running(upkeep(place)):
        await until(place, 1, "SELECT count(*) FROM events")

    assert [(waiting.seq, "pending")] == place.rows("SELECT seq, state FROM deliveries")
    assert [(waiting.seq,)] == place.rows("SELECT delivery FROM attempts")


async def test_held_work_expires(place: Opened) -> None:
    """A delivery of a disabled subscription is given up at its end, although nothing is sent for it."""
    wanted = await place.subscribe()
    await place.publish(draft(expires_at=NOW + 10))
    await place.edit(wanted, state=SubscriptionState.DISABLED)
    place.clock.time += 10
    async with running(upkeep(place)):
        await until(place, "expired", "SELECT failed_label FROM deliveries")

    assert [("failed", NOW + 10)] == place.rows("SELECT state, finished_at FROM deliveries")


async def test_replays_go_on_until_all_is_made(place: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a replay takes is made in as many rounds as it needs, one after the other at their pace."""
    monkeypatch.setattr(maintenance, "PACE", 0.001)
    wanted = await place.subscribe()
    made = await place.deliver(*drafts(1000), *drafts(300))
    await place.record(*(result(each, DELIVERED) for each in made))
    replay = Replay(subscription=wanted.seq, states=("delivered",), newest=1300)
    await place.store.writer.change(replays.add_replay(wanted.id, None, replay, 1300))
    async with running(upkeep(place)):
        told = await place.listener.until("replaying", 2)

    assert [(wanted.seq, 1300, False), (wanted.seq, 1300, True)] == told
    assert [(1300, 1300)] == place.rows("SELECT count(*), count(DISTINCT event) FROM deliveries WHERE replay = 1")


async def test_replay_holds_no_upkeep_up(place: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two steps of a replay there is room for a round of upkeep, which does not wait for the replay's end."""
    monkeypatch.setattr(maintenance, "PACE", PATIENCE)
    wanted = await place.subscribe()
    made = await place.deliver(*drafts(1000))
    await place.record(*(result(each, DELIVERED) for each in made))
    replay = Replay(subscription=wanted.seq, states=("delivered",), newest=1000)
    await place.store.writer.change(replays.add_replay(wanted.id, None, replay, 1000))
    seen: list[int] = []
    looked = asyncio.Event()

    async def step(tx: Transaction) -> int:
        ((count,),) = await tx.fetch("SELECT count(*) FROM deliveries WHERE replay = 1")
        seen.append(count)
        looked.set()
        return 0

    working = upkeep(place, None, step)
    async with running(working):
        for steps in (1, 2):
            await place.listener.until("accepted", 1 + steps)
            looked.clear()
            working._wake.set()
            await looked.wait()
            working(ReplayProgress(subscription=wanted, count=1000, finished=False))
        await place.listener.until("replaying", 2)

    assert [0, 500, 1000] == seen


async def test_no_kind_of_upkeep_waits_for_another(place: Opened) -> None:
    """While one kind has work without end, the others and replays get their turns, also for what comes meanwhile."""
    wanted = await place.subscribe()
    [made] = await place.deliver()
    await place.record(result(made, DELIVERED))
    turns: list[str] = []

    async def endless(_: Transaction) -> int:
        turns.append("endless")
        return 1

    async def other(_: Transaction) -> int:
        turns.append("other")
        if len(turns) == 6:
            thrice.set()
        return 0

    thrice = asyncio.Event()
    async with running(upkeep(place, None, endless, other)):
        replay = Replay(subscription=wanted.seq, states=("delivered",), newest=1)
        await place.store.writer.change(replays.add_replay(wanted.id, None, replay, 1))
        await thrice.wait()
        await place.listener.until("replaying", 2)

    assert ["endless", "other"] * 3 == turns[:6]


async def test_upkeep_rests(place: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a step that found something comes a rest in proportion to it, which a stop ends."""
    monkeypatch.setattr(maintenance, "RESTS", 1e9)
    monkeypatch.setattr(maintenance, "LONGEST_REST", PATIENCE)
    begun = asyncio.Event()
    count = 0

    async def endless(_: Transaction) -> int:
        nonlocal count
        count += 1
        begun.set()
        return 1

    async with running(upkeep(place, None, endless)):
        await begun.wait()
        await place.publish(*drafts(10))

    assert 1 == count


async def test_spans_are_noted_at_their_pace(place: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """All keys get their spans, without a turn of the other kinds, and rest between two steps takes its time."""
    monkeypatch.setattr("hookengine.store.upkeep.SPAN", 10)
    monkeypatch.setattr(maintenance, "SPANS", 0.02)
    await place.subscribe()
    await place.deliver(*drafts(95))
    loop, rounds = asyncio.get_running_loop(), 0

    async def step(_: Transaction) -> int:
        nonlocal rounds
        rounds += 1
        return 0

    began = loop.time()
    async with running(upkeep(place, None, step)):
        await until(place, 9, "SELECT count(*) FROM spans WHERE kind = 'deliveries'")

    assert [("deliveries", 9), ("events", 9)] == place.rows("SELECT kind, count(*) FROM spans GROUP BY kind ORDER BY kind")
    assert 1 == rounds
    assert loop.time() - began > 8 * 0.02


@pytest.mark.parametrize("error", [StorageUnavailable("locked"), KeyError("a fault of ours")])
async def test_step_that_the_storage_does_not_take_is_tried_again(
    place: Opened, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """What the storage kept from its work has not found that nothing is left; a step that fails itself waits for its time."""
    monkeypatch.setattr(maintenance, "AGAIN", 0.01)
    made, tries = upkeep(place, None), 0
    tried = asyncio.Event()

    async def step(_: Transaction) -> int:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise error
        tried.set()
        return 0

    pacing = asyncio.create_task(made._at_pace(step, 0.01, 3600))
    if isinstance(error, StorageUnavailable):
        async with asyncio.timeout(PATIENCE):
            await tried.wait()
    else:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(tried.wait(), 0.3)
    made.stop()
    await pacing


# When it looks.


@pytest.mark.parametrize(
    ("before", "after", "looks"),
    [
        pytest.param(None, ACTIVE, False, id="made"),
        pytest.param(ACTIVE, ACTIVE, True, id="changed, maybe enabled while it failed"),
        pytest.param(ACTIVE, DISABLED, False, id="disabled"),
        pytest.param(DISABLED, ACTIVE, True, id="enabled"),
        pytest.param(ACTIVE, None, True, id="deleted"),
        pytest.param(DISABLED, None, True, id="deleted while disabled"),
    ],
)
async def test_it_looks_at_once_where_a_change_leaves_work(
    place: Opened, before: Subscription | None, after: Subscription | None, looks: bool
) -> None:
    """Deleting wakes it, and what may be an enabling; nothing else does."""
    asleep = upkeep(place)
    asleep(SubscriptionChanged(before=before, after=after))

    assert looks is asleep._wake.is_set() is asleep._wake_replays.is_set()


@pytest.mark.parametrize("finished", [False, True])
async def test_it_looks_at_once_where_a_replay_begins(place: Opened, finished: bool) -> None:
    """A replay that was asked for wakes it, its end does not."""
    asleep = upkeep(place)
    asleep(ReplayProgress(subscription=ACTIVE, count=1, finished=finished))

    assert finished is not asleep._wake_replays.is_set()


async def test_other_news_do_not_wake_it(place: Opened) -> None:
    """What happens to deliveries is none of its business."""
    await place.subscribe()
    [delivery] = await place.deliver()
    asleep = upkeep(place)
    asleep(DeliveryOverruled(delivery=delivery, subscription=None))

    assert not asleep._wake.is_set()


async def test_a_change_wakes_only_what_follows_from_it(place: Opened) -> None:
    """What comes in rounds anyhow does not take its time of the writer whenever a subscription is changed."""
    order: asyncio.Queue[str] = asyncio.Queue()

    def step(name: str) -> Step:
        async def run(_: Transaction) -> int:
            order.put_nowait(name)
            return 0

        return run

    working = upkeep(place)
    working._following, working._regular = (step("following"),), (step("regular"),)
    async with running(working):
        assert {"following", "regular"} == {await order.get() for _ in range(2)}
        for _ in range(2):
            working(SubscriptionChanged(before=DISABLED, after=ACTIVE))
            assert "following" == await order.get()

    assert order.empty()


async def test_it_looks_again_by_itself(place: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds come without anybody asking."""
    monkeypatch.setattr(maintenance, "EVERY", 0.001)
    rounds = 0
    thrice = asyncio.Event()

    async def step(_: Transaction) -> int:
        nonlocal rounds
        rounds += 1
        if rounds == 3:
            thrice.set()
        return 0

    async with running(upkeep(place, None, step)):
        await thrice.wait()


TOKEN = Token(seq=0, principal=Principal(user="ann", scopes=DEFAULT_SCOPES), digest=b"d", created_at=NOW)


async def test_uses_of_tokens_are_written_in_a_round(place: Opened) -> None:
    """When a token was used is on disk after the next round, without a request that waits for it."""
    await place.store.writer.change(registry.add_token(TOKEN))
    place.store.memory.tokens.use(TOKEN.principal, NOW + 5)
    async with running(upkeep(place)):
        await until(place, NOW + 5, "SELECT last_used_at FROM tokens")


async def test_uses_of_tokens_outlast_a_stop(place: Opened) -> None:
    """What no round comes for any more is written at the end, but where there is nothing to write nothing is."""
    await place.store.writer.change(registry.add_token(TOKEN))
    for used in (True, False):
        stopped = upkeep(place)
        stopped.stop()
        async with traced(place) as statements:
            if used:
                place.store.memory.tokens.use(TOKEN.principal, NOW + 5)
            await stopped.run()
        assert used == bool(statements)

    assert [(NOW + 5,)] == place.rows("SELECT last_used_at FROM tokens")


# How it stops, and what it survives.


async def test_stop_ends_it_between_two_steps(place: Opened) -> None:
    """With endless work left, the step that runs is the last one, and the next kind of upkeep does not begin."""
    turns: list[str] = []

    async def endless(_: Transaction) -> int:
        turns.append("endless")
        if len(turns) == 5:
            working.stop()
        return 1

    async def next_one(_: Transaction) -> int:
        turns.append("next")
        return 1

    heard: list[Happening] = []
    working = upkeep(place, heard, endless, next_one)
    async with asyncio.timeout(PATIENCE):
        await working.run()

    assert (["endless", "next", "endless", "next", "endless"], []) == (turns, heard)


async def test_stop_wakes_it(place: Opened) -> None:
    """Stopped while it sleeps, or before it began, it ends at once and not at the next round."""
    slept = asyncio.Event()

    async def step(_: Transaction) -> int:
        slept.set()
        return 0

    sleeping, unborn = upkeep(place, None, step), upkeep(place)
    unborn.stop()
    async with asyncio.timeout(PATIENCE):
        await unborn.run()
        task = asyncio.create_task(sleeping.run())
        await slept.wait()
        sleeping.stop()
        await task


@pytest.mark.parametrize(
    ("error", "told"),
    [
        pytest.param(sqlite3.OperationalError("database or disk is full"), [], id="storage unavailable"),
        pytest.param(
            sqlite3.IntegrityError("CHECK failed"),
            [Fault(where="upkeep", error="IntegrityError('CHECK failed')")],
            id="row refused",
        ),
        pytest.param(
            ValueError("7 is not a Priority"),
            [Fault(where="upkeep", error="ValueError('7 is not a Priority')")],
            id="poison row",
        ),
    ],
)
async def test_a_step_that_fails_is_tried_in_the_next_round(place: Opened, error: Exception, told: list[Happening]) -> None:
    """An error keeps neither other steps from their work nor this one from another try; the writer tells of its own itself."""
    heard: list[Happening] = []
    order: asyncio.Queue[str] = asyncio.Queue()
    failures = iter([error])

    async def failing(_: Transaction) -> int:
        order.put_nowait("failing")
        for failure in failures:
            raise failure
        return 0

    async def other(_: Transaction) -> int:
        order.put_nowait("other")
        return 0

    working = upkeep(place, heard, failing, other)
    async with running(working):
        assert ["failing", "other"] == [await order.get() for _ in range(2)]
        working(SubscriptionChanged(before=DISABLED, after=ACTIVE))
        assert ["failing", "other"] == [await order.get() for _ in range(2)]

    assert told == heard


async def test_it_survives_a_store_that_stops(tmp_path: Path) -> None:
    """Once the writer refuses work, upkeep waits quietly for its own stop."""
    heard: list[Happening] = []
    async with opened(tmp_path) as place:
        working = upkeep(place, heard)
    async with running(working):
        await asyncio.sleep(0)

    assert [] == heard
