"""Whether the storage takes writes: a full disk, a lock of another program, and that this is over."""

from __future__ import annotations

import asyncio
import math
import sqlite3
from typing import TYPE_CHECKING

import pytest
from patience import PATIENCE
from storage import LARGE_ANSWER, NOW, Recorder, all_of, draft, io_error, limit_pages, opened, result

from hookengine.errors import StorageUnavailable
from hookengine.store.condition import Condition
from hookengine.store.space import Space

if TYPE_CHECKING:
    from pathlib import Path


FULL = "the storage does not take writes: database or disk is full"
BIG = b'"' + b"x" * 300_000 + b'"'


class Seen:
    """A condition at a `time` that a test sets, with its listener, and how often it wanted to be looked at again."""

    def __init__(self, folder: Path) -> None:
        self.time = 100.0
        self.looks = 0
        self.listener = Recorder()
        self.space = Space(folder / "hooks.db", bytes)
        self.it = Condition(self.space, listener=self.listener, now=lambda: self.time, look_again=self._look)

    def _look(self) -> None:
        self.looks += 1


async def test_rests_grow_and_end(tmp_path: Path) -> None:
    """From one failure to the next the rest doubles up to two seconds, at whose end one tries; what works ends it all."""
    seen = Seen(tmp_path)
    assert (0, None, False) == (seen.it.rest, seen.it.wake_at, seen.it.must_probe)
    for rest in (0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0):
        seen.it.failed(io_error("SQLITE_IOERR"))
        assert (rest, seen.time + rest, False) == (seen.it.rest, seen.it.wake_at, seen.it.must_probe)
        seen.time += rest
        assert seen.it.must_probe

    seen.it.worked()
    seen.it.worked()
    assert (0, None, False) == (seen.it.rest, seen.it.wake_at, seen.it.must_probe)
    assert [None] == seen.listener.all("storage")[7:]


async def test_nothing_is_well_without_a_reserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is small may be written on a full disk, too: it is told to work once there is room for the reserve."""
    seen = Seen(tmp_path)
    seen.it.failed(io_error("SQLITE_FULL"))
    assert seen.space.is_full
    seen.time += 1
    monkeypatch.setattr(seen.space, "keep_reserve", lambda: False)
    seen.it.worked()
    assert (0.1, seen.time + 0.1) == (seen.it.rest, seen.it.wake_at)
    assert 1 == len(seen.listener.all("storage"))

    monkeypatch.undo()
    seen.it.worked()
    assert [None] == seen.listener.all("storage")[1:]


@pytest.mark.parametrize("name", ["SQLITE_BUSY", "SQLITE_BUSY_SNAPSHOT", "SQLITE_PROTOCOL"])
async def test_lock_counts_for_one_turn(tmp_path: Path, name: str) -> None:
    """Who has waited in vain for another program's lock is known until the next turn; of no other error."""
    seen = Seen(tmp_path)
    seen.it.failed(io_error("SQLITE_FULL"))
    assert seen.it.lock is None
    error = io_error(name)
    seen.it.failed(error)
    assert seen.it.lock is error
    seen.it.new_turn()
    assert seen.it.lock is None


async def test_want_of_room_is_told_when_it_turns(tmp_path: Path) -> None:
    """However often somebody asks, the listener hears once that there is no room, and once that there is."""
    seen = Seen(tmp_path)
    assert seen.it.lack() is None
    assert (0, False) == (seen.looks, seen.it.is_short)
    seen.space._looked_at, seen.space._lack = math.inf, "nearly full"
    for _ in range(2):
        assert "the storage takes no events: nearly full" == str(seen.it.lack())
    assert (1, True, seen.time + 1.0) == (seen.looks, seen.it.is_short, seen.it.wake_at)
    seen.space._looked_at = 0.0
    for _ in range(2):
        assert seen.it.lack() is None
    assert (2, False, None) == (seen.looks, seen.it.is_short, seen.it.wake_at)
    assert [True, False] == [lack is not None for lack in seen.listener.all("room")]


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
        await place.store.writer._writing.db.execute("PRAGMA busy_timeout = 1")
        other = sqlite3.connect(place.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        published, changed = await all_of(place.publish(), place.subscribe())
        other.close()

        assert "the storage does not take writes: database is locked" == str(published)
        assert "the storage does not take writes: database is locked" == str(changed)
        assert isinstance(changed, StorageUnavailable)
        await place.publish()


@pytest.mark.row("F14")
@pytest.mark.parametrize("publishes", [True, False], ids=["publishing", "changing"])
async def test_recovery_is_noticed_whatever_comes(tmp_path: Path, publishes: bool) -> None:
    """Whoever finds the storage locked tells of it; that it works again shows also where nothing comes but changes."""
    async with opened(tmp_path) as place:
        await place.store.writer._writing.db.execute("PRAGMA busy_timeout = 1")
        other = sqlite3.connect(place.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        await all_of(place.publish() if publishes else place.subscribe())
        other.close()
        [error] = place.listener.all("storage")
        async with asyncio.timeout(PATIENCE):
            while place.listener.all("storage")[-1] is not None:
                await place.subscribe()

        assert isinstance(error, sqlite3.OperationalError)


async def test_full_disk_has_no_room(tmp_path: Path) -> None:
    """Whoever asks for room after a write has found none is told that there is none, until a write finds some."""
    async with opened(tmp_path) as place:
        assert place.store.writer.has_room
        await limit_pages(place, 8)
        await all_of(place.publish(draft(data=BIG)))
        assert not place.store.writer.has_room

        await limit_pages(place, None)
        while place.listener.all("storage")[-1] is not None:
            await place.listener.until("storage", len(place.listener.all("storage")) + 1)
        assert place.store.writer.has_room
