"""When the WAL is folded, and what becomes of a failure of that."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tracemalloc
from contextlib import closing
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from storage import Opened, draft, drafts, io_error, opened

from hookengine.errors import StorageFailed, StorageUnavailable
from hookengine.store.folding import Folding, rows_in, write_anew
from hookengine.store.space import Space

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

FOLD = "PRAGMA wal_checkpoint(PASSIVE)"


class Unfoldable:
    """A write connection whose checkpoints fail with *error*: a real disk cannot be made to."""

    def __init__(self, place: Opened, error: sqlite3.OperationalError) -> None:
        self.folds = 0
        self._error = error
        self._db = place.store.writer._writing.db
        place.store.writer._folding = Folding(self, every=1)  # type: ignore[arg-type]  # it behaves as one

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    async def execute_fetchall(self, statement: str) -> Iterable[sqlite3.Row]:
        """Fail, or execute *statement*."""
        if statement != FOLD:
            return await self._db.execute_fetchall(statement)
        self.folds += 1
        raise self._error


async def test_rows_make_it_due(tmp_path: Path) -> None:
    """The WAL is due after so many rows, and again after as many more; folded, its pages are in the file."""
    async with opened(tmp_path) as place:
        folding = Folding(place.store.writer._writing.db, every=100)
        await folding.fold()
        size = place.path.stat().st_size
        await place.publish(*drafts(20))
        assert not folding.is_due
        await place.publish(*drafts(200, data=b'"' + b"x" * 1_000 + b'"'))
        assert folding.is_due
        await folding.fold()

        assert not folding.is_due
        assert size + 200_000 < place.path.stat().st_size


async def test_payload_makes_it_due(tmp_path: Path) -> None:
    """Few rows with much in them are as many as its pages."""
    async with opened(tmp_path) as place:
        folding = Folding(place.store.writer._writing.db, every=1_000)
        await folding.fold()
        folding.wrote(4_096 * 1_000 - 1)
        assert not folding.is_due
        folding.wrote(1)
        assert folding.is_due


async def test_emptying_waits_for_no_long_reader(tmp_path: Path) -> None:
    """Somebody who reads for long keeps the WAL from being emptied, but not the writer from its work."""
    async with opened(tmp_path) as place:
        await place.publish()
        with closing(sqlite3.connect(place.path, isolation_level=None)) as other:
            other.execute("BEGIN")
            other.execute("SELECT count(*) FROM events").fetchall()
            await place.publish()
            began = asyncio.get_running_loop().time()
            await place.store.writer._folding.empty()
            assert asyncio.get_running_loop().time() - began < 3
        await place.store.writer._folding.empty()

        assert 0 == place.path.with_name("hooks.db-wal").stat().st_size
        assert [(5_000,)] == list(map(tuple, await place.store.writer._writing.db.execute_fetchall("PRAGMA busy_timeout")))


@pytest.mark.row("F28")
async def test_writer_folds_by_itself(tmp_path: Path) -> None:
    """A WAL is used again from its start, however much goes through it."""
    async with opened(tmp_path) as place:
        for _ in range(40):
            await place.publish(*drafts(1_000, data=b'"' + b"x" * 1_000 + b'"'))

        wal = place.path.with_name("hooks.db-wal").stat().st_size
        assert wal < place.path.stat().st_size / 2


@pytest.mark.parametrize("name", ["SQLITE_IOERR_FSYNC", "SQLITE_CORRUPT"])
async def test_failed_sync_ends_everything(tmp_path: Path, name: str) -> None:
    """A sync that fails while the WAL is folded ends the writer, though nobody waited for it."""
    async with opened(tmp_path) as place:
        Unfoldable(place, io_error(name))
        await place.publish()
        with pytest.raises(StorageFailed):
            await place.store.failed()
        with pytest.raises(StorageFailed):
            await place.publish()


async def test_full_disk_does_not_end_it(tmp_path: Path) -> None:
    """Where there is no room to fold into that is told, and what is committed goes on."""
    async with opened(tmp_path) as place:
        unfoldable = Unfoldable(place, sqlite3.OperationalError("database or disk is full"))
        await place.publish()
        await place.publish()
        (where, error), *_ = await place.listener.until("unreadable", 2)

        assert ("folding the WAL", "database or disk is full") == (where, str(error))
        assert 2 <= unfoldable.folds


async def test_failure_over_the_end_is_told(tmp_path: Path) -> None:
    """A writer whose storage fails over what it was last sent makes the close fail, if nobody has heard of it before."""
    async with opened(tmp_path) as place:
        Unfoldable(place, io_error("SQLITE_IOERR_FSYNC"))
        publishing = asyncio.create_task(place.publish())
        await asyncio.sleep(0)
        with pytest.raises(StorageFailed):
            await place.store.close()
        assert publishing.done()
    async with opened(tmp_path) as place:
        assert [(1,)] == place.rows("SELECT count(*) FROM events")


def test_wal_is_written_anew(tmp_path: Path) -> None:
    """What a WAL holds stays as it is, written and synced once more; where there is none nothing is made."""
    wal = tmp_path / "hooks.db-wal"
    write_anew(wal)
    assert not wal.exists()
    wal.write_bytes(os.urandom(2_500_000))
    content = wal.read_bytes()
    os.utime(wal, (0, 0))
    write_anew(wal)

    assert content == wal.read_bytes()
    assert 0 < wal.stat().st_mtime


def test_large_wal_is_written_anew_in_little_memory(tmp_path: Path) -> None:
    """However large a WAL is, a few MiB of memory are enough to write it once more."""
    wal = tmp_path / "hooks.db-wal"
    wal.touch()
    os.truncate(wal, 32 << 20)
    tracemalloc.start()
    write_anew(wal)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert most < 4 << 20
    assert 32 << 20 == wal.stat().st_size


async def test_wal_gives_its_room_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the disk has no room for events, the WAL gives its own back, and events are taken again."""
    async with opened(tmp_path) as place:
        wal = tmp_path / "hooks.db-wal"
        await place.subscribe()
        await place.publish(*drafts(100))
        held = wal.stat().st_size
        space = place.store._space

        def lack(_: float) -> str | None:
            space.is_low = wal.stat().st_size >= held
            return "full" if space.is_low else None

        monkeypatch.setattr(space, "lack", lack)
        with pytest.raises(StorageUnavailable):
            await place.publish()
        await place.publish()

        assert 0 < wal.stat().st_size < held


async def test_large_events_do_not_fill_a_small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A WAL stays within its part of the disk also where few events have much in them."""
    disk = SimpleNamespace(f_bavail=1 << 20, f_blocks=(32 << 20) >> 12, f_frsize=1 << 12)
    monkeypatch.setattr(os, "statvfs", lambda _: disk)
    async with opened(tmp_path) as place:
        for _ in range(80):
            await place.publish(draft(data=b'"%s"' % (b"x" * 100_000)))

        assert 32 << 20 >> 3 >= (tmp_path / "hooks.db-wal").stat().st_size


@pytest.mark.parametrize(
    ("disk", "rows"), [(6 << 20, 69), (32 << 20, 372), (512 << 20, 5957), (1 << 30, 7_500), (1 << 40, 7_500)]
)
def test_small_disks_have_small_wals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: int, rows: int) -> None:
    """The WAL takes an eighth of the disk at most, and on large disks what is quickest."""
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_blocks=disk >> 12, f_frsize=1 << 12))
    space = Space(tmp_path / "hooks.db", bytes)

    assert rows == rows_in(space.of_wal())
    assert space.of_wal() <= disk // 8
