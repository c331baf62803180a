"""The one task that writes: what comes in which order, its bounds, faults and its end."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from interrupts import run
from patience import PATIENCE
from storage import DELIVERED, MINUTE, NO_ANSWER, NOW, Faulty, Opened, all_of, draft, drafts, io_error, opened, result, write

from hookengine.errors import Overloaded, PayloadTooLarge, RequestError, Stopping, StorageFailed, SubscriptionNotFound
from hookengine.gathering import Compose
from hookengine.lanes import FROM_THE_START
from hookengine.models import Priority
from hookengine.scheduler import Refill
from hookengine.store import Draft, publications

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from hookengine.lanes import Mark
    from hookengine.models import Delivery
    from hookengine.store import Transaction

FULL = "the storage does not take writes: database or disk is full"
BIG = b'"' + b"x" * 300_000 + b'"'


async def refuse(_: Transaction) -> None:
    """A change that cannot be done."""
    raise SubscriptionNotFound


# Order.


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


async def test_refusal_lets_others_run(tmp_path: Path) -> None:
    """Whoever is refused and tries again at once, without a pause, does not keep the loop from what makes room."""
    async with opened(tmp_path) as place:
        place.store.writer._commits.publications.count = publications.MOST_WAITING
        ran: list[bool] = []
        asyncio.get_running_loop().call_soon(ran.append, True)
        with pytest.raises(Overloaded):
            await place.publish()

        assert ran
        place.store.writer._commits.publications.count = 0


async def test_what_is_too_large_for_ever_is_not_unavailable(tmp_path: Path) -> None:
    """Whoever publishes more than SQLite has room for hears it at once, and others go on."""
    async with opened(tmp_path) as place:
        with pytest.raises(PayloadTooLarge):
            await place.publish(draft(data=bytes(900_000_001)))  # of zeros, that nobody looks at

        assert 1 == len(await place.publish())


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


@pytest.mark.row("F37")
async def test_poison_row_behind_a_refill_is_given_up(tmp_path: Path) -> None:
    """A row without a time, next after what a refill brings, is no mark to go on from: it is named and fails."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        made = await place.deliver(*drafts(3))
        write(place.path, f"UPDATE deliveries SET due_at = 'soon' WHERE seq = {made[1].seq}")

        assert ([made[0], made[2]], None) == await place.refill(Refill(1, Priority.NORMAL, FROM_THE_START, 2))
        ((where, _),) = await place.listener.until("unreadable")
        assert made[1].id in where
        await place.listener.until("overruled")
        assert [("failed",)] == place.rows("SELECT state FROM deliveries WHERE seq = ?", made[1].seq)


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


# Bounds and the end.


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
        assert (0, 0) == (place.store.writer._commits.publications.count, place.store.writer._commits.publications.size)


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


def test_writer_that_is_cut_tells_all(tmp_path: Path) -> None:
    """Ctrl-C in a transaction is raised once; whoever waits for the writer, or comes later, hears of it as StorageFailed."""

    async def work() -> list[Any]:
        async with opened(tmp_path) as place:

            async def cut(_: Transaction) -> None:
                jobs.extend(asyncio.create_task(place.publish()) for _ in range(3))
                await asyncio.sleep(0)
                raise KeyboardInterrupt

            jobs: list[asyncio.Task[Any]] = [asyncio.create_task(place.store.failed())]
            told = await all_of(place.store.writer.change(cut))
            return told + await all_of(*jobs, place.publish())

    async def again() -> None:
        async with opened(tmp_path) as place:
            await place.publish()

    with closing(asyncio.new_event_loop()) as loop:
        cuts, told = run(loop, work())
        assert (0, None) == run(loop, again())

    assert 1 == cuts
    assert [repr(StorageFailed("the writer was cut by KeyboardInterrupt()"))] * 6 == [repr(each) for each in told]


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
