"""Pruning of a real file that no store has."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import pytest
from storage import DAY, DELIVERED, NOW, SetClock, draft, drafts, limit_pages, opened, result, rows

from hookengine.errors import AlreadyRunning, StorageUnavailable
from hookengine.store import changes, pruning, upkeep
from hookengine.store.pruning import finished, prune
from hookengine.store.queries import sql

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from hookengine.store import Transaction


async def filled(folder: Path, *, count: int = 700) -> Path:
    """A file with *count* events delivered 40 days ago, one that waits since, and one delivered a day ago."""
    clock = SetClock(NOW - 40 * DAY)
    async with opened(folder, clock=clock) as place:
        await place.subscribe()
        old = await place.deliver(*drafts(count, data=b'"%s"' % (b"x" * 2000)))
        await place.record(*(result(each, DELIVERED, at=clock.time) for each in old))
        await place.publish(draft(data=b'"waits"'))
        clock.time = NOW - DAY
        [fresh] = await place.deliver(draft(data=b'"fresh"'))
        await place.record(result(fresh, DELIVERED, at=clock.time))
    return place.path


async def test_old_history_goes_and_the_file_shrinks(tmp_path: Path) -> None:
    """What ended before the retention goes in steps; work and newer history stay, and free pages are given back."""
    path = await filled(tmp_path)
    size, steps = path.stat().st_size, list[tuple[int, int]]()
    waiting = finished(path, NOW - 30 * DAY)
    done = await prune(
        path, retention=30 * DAY, clock=SetClock(), encryption_key=None, progress=lambda *step: steps.append(step)
    )

    assert (700, 700, 700) == (waiting, done.deliveries, done.events)
    (_, pages) = steps[-1]
    assert pages > 150
    assert [(500, 700), (700, 700), (pages, pages)] == steps
    assert [(b'"waits"', "pending"), (b'"fresh"', "delivered")] == rows(
        path, "SELECT data, state FROM events JOIN deliveries ON event = events.seq ORDER BY events.seq"
    )
    assert path.stat().st_size == size - done.freed < size / 4
    assert [(0,)] == rows(path, "PRAGMA freelist_count")


async def test_a_step_gives_back_many_pages(tmp_path: Path) -> None:
    """One commit gives back as many pages as it is asked for, or all that are free."""
    async with opened(tmp_path) as place:
        await place.publish(*drafts(100, data=b'"%s"' % (b"x" * 50_000)))
        place.clock.time += DAY
        change = place.store.writer.change
        while await change(upkeep.prune(0)):
            pass
        free = await change(pruning._free)
        assert 1000 < free < 2000

        assert 1000 == await change(partial(pruning._give_back, 1000))
        assert free - 1000 == await change(partial(pruning._give_back, 1000)) == free - 1000
        assert 0 == await change(partial(pruning._give_back, 1000))


@pytest.mark.parametrize("most", [25, 1, 0])
async def test_steps_are_as_small_as_the_disk_wants(tmp_path: Path, most: int) -> None:
    """A step for which there is no room is tried smaller; where there is none for the smallest, that is told."""
    tried = list[int]()

    def make(size: int) -> Callable[[Transaction], Awaitable[int]]:
        async def step(tx: Transaction) -> int:
            tried.append(size)
            if size > most:
                await tx.run("PRAGMA max_page_count = 1")
                await tx.run(sql.set_meta, ("x", bytes(1 << 20)))
            return 1

        return step

    async with opened(tmp_path) as place:
        await place.publish()
        if most:
            assert most == await pruning._step(place.store.writer, make, (1000, 25, 1))
        else:
            with pytest.raises(StorageUnavailable, match="full"):
                await pruning._step(place.store.writer, make, (1000, 25, 1))
        await limit_pages(place, None)

    assert [size for size in (1000, 25, 1) if size >= (most or 1)] == tried


async def test_wal_is_empty_between_steps(tmp_path: Path) -> None:
    """Before each step the WAL has given back what the one before has put in."""
    path, sizes = await filled(tmp_path), list[int]()
    wal = path.with_name("hooks.db-wal")
    await prune(path, retention=0, clock=SetClock(), encryption_key=None, progress=lambda *_: sizes.append(wal.stat().st_size))

    assert [0, 0, 0] == sizes


async def test_steps_wait_for_no_long_reader(tmp_path: Path) -> None:
    """Who reads for long keeps the WAL from being emptied, but not a step from its end; other locks are waited for."""
    async with opened(tmp_path) as place:
        await place.publish()
        with closing(sqlite3.connect(place.path, isolation_level=None)) as other:
            other.execute("BEGIN")
            other.execute("SELECT count(*) FROM events").fetchall()
            began = asyncio.get_running_loop().time()
            done = await pruning._step(place.store.writer, lambda _: pruning._free, (1000,))
            assert asyncio.get_running_loop().time() - began < 3

        assert 0 == done
        assert [(5_000,)] == [
            tuple(row) for row in await place.store.writer.change(lambda tx: tx.fetch("PRAGMA busy_timeout"))
        ]


async def test_pages_of_what_is_gone_are_used_again(tmp_path: Path) -> None:
    """A store that grows, forgets and grows again by as much is no larger than the first time, however often."""
    sizes = []
    async with opened(tmp_path, clock=SetClock(NOW)) as place:
        await place.subscribe()
        for _ in range(4):
            made = await place.deliver(*drafts(500, data=b'"%s"' % (b"x" * 2000)))
            await place.record(*(result(each, DELIVERED, at=place.clock.time) for each in made))
            await place.store.writer._fold()
            sizes.append(place.path.stat().st_size)
            place.clock.time += 31 * DAY
            while await place.store.writer.change(upkeep.prune(30 * DAY, at_least=25)):
                pass

    assert sizes[0] > 500 * 2000
    assert max(sizes[1:]) <= 1.02 * sizes[0]


async def test_what_is_deleted_is_not_written_once_more(tmp_path: Path) -> None:
    """The pages that retention frees take no room of the WAL, however much was in them."""
    async with opened(tmp_path, clock=SetClock(NOW)) as place:
        await place.subscribe()
        made = await place.deliver(*drafts(25, data=b'"%s"' % (b"x" * 200_000)))
        await place.record(*(result(each, DELIVERED, at=place.clock.time) for each in made))
        await place.store.writer._folding.empty()
        place.clock.time += 31 * DAY
        assert await place.store.writer.change(upkeep.prune(30 * DAY))

        assert place.path.with_name("hooks.db-wal").stat().st_size < 500_000


async def test_nothing_old_is_nothing_done(tmp_path: Path) -> None:
    """A second time there is nothing to delete and nothing to give back."""
    path = await filled(tmp_path, count=1)
    first, second = [
        await prune(path, retention=30 * DAY, clock=SetClock(), encryption_key=None, progress=lambda *_: None)
        for _ in range(2)
    ]

    assert (1, 0) == (first.deliveries, second.deliveries)
    assert (0, 0) == (second.events, second.freed)


async def test_rest_of_a_deleted_subscription_counts_from_its_end(tmp_path: Path) -> None:
    """Deliveries that a deletion cancelled go too, once that is long enough ago."""
    clock = SetClock(NOW - 40 * DAY)
    async with opened(tmp_path, clock=clock) as place:
        made = await place.subscribe()
        await place.publish(*drafts(3))
        await place.store.writer.change(changes.delete_subscription(made.id, None))
    done = await prune(place.path, retention=30 * DAY, clock=SetClock(), encryption_key=None, progress=lambda *_: None)

    assert (3, 3) == (done.deliveries, done.events)


async def test_file_in_use_is_left_alone(tmp_path: Path) -> None:
    """While a store has the file nothing is pruned."""
    async with opened(tmp_path) as place:
        with pytest.raises(AlreadyRunning):
            await prune(place.path, retention=0, clock=SetClock(), encryption_key=None, progress=lambda *_: None)


def test_nobody_hears_of_anything() -> None:
    """The listener of a store for pruning takes whatever a commit tells."""
    nobody = pruning._Nobody()

    assert [None] * 8 == [
        nobody.accepted([]),  # type: ignore[func-returns-value]  # that is what is proved
        nobody.recorded([]),  # type: ignore[func-returns-value]
        nobody.unrecorded(None, ValueError()),  # type: ignore[func-returns-value]
        nobody.unreadable("", ValueError()),  # type: ignore[func-returns-value]
        nobody.changed(None, None),  # type: ignore[func-returns-value]
        nobody.overruled(None, None),  # type: ignore[func-returns-value]
        nobody.refilled(None, [], None),  # type: ignore[func-returns-value]
        nobody.storage(None),  # type: ignore[func-returns-value]
    ]
