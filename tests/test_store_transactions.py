"""What runs alone in its transaction."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest
from patience import PATIENCE
from storage import NOW, Faulty, all_of, io_error, opened, subscription

from hookengine.errors import EventExists, StorageFailed, StorageUnavailable
from hookengine.models import Health

if TYPE_CHECKING:
    from pathlib import Path

    from hookengine.store import Transaction


@pytest.mark.row("F14")
async def test_locked_database_holds_nobody_up_for_the_others(tmp_path: Path) -> None:
    """Whoever waits while another program holds the lock hears of it when the first does, and not one after the other."""
    async with opened(tmp_path) as place:
        await place.store.writer._writing.db.execute(f"PRAGMA busy_timeout = {PATIENCE * 1000 // 20}")
        other = sqlite3.connect(place.path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        async with asyncio.timeout(PATIENCE):
            refused = await all_of(*(place.publish() for _ in range(4_000)), *(place.subscribe() for _ in range(200)))
        other.close()

        assert {StorageUnavailable} == {type(error) for error in refused}
        assert 0 == place.store.writer.waiting
        await place.subscribe()


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
