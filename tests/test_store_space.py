"""When events are refused for want of room, and the reserve."""

from __future__ import annotations

import asyncio
import errno
import math
import os
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from storage import DAY, LARGE_ANSWER, draft, drafts, limit_pages, opened, result

from hookengine.errors import StartError, StorageUnavailable
from hookengine.models import Accepted, Response
from hookengine.store import upkeep
from hookengine.store.queries import sql
from hookengine.store.space import Space

if TYPE_CHECKING:
    from pathlib import Path

    from hookengine.store import Transaction

GIB = 1 << 30


async def nothing(_: Transaction) -> None:
    """A change that follows what the writer did in its turn before."""


def small(free: int, size: int = 100 * GIB) -> SimpleNamespace:
    """What the system says of a disk."""
    return SimpleNamespace(f_bavail=free // 4096, f_blocks=size // 4096, f_frsize=4096)


@pytest.mark.parametrize(
    ("free", "size", "lack"),
    [
        (300 << 20, 100 * GIB, None),
        (200 << 20, 100 * GIB, "the disk has less than 256 MiB left"),
        (2 << 20, 32 << 20, None),  # a small disk: a twentieth of it
        (1 << 20, 32 << 20, "the disk has less than 1 MiB left"),
        (200_000, 6 << 20, "the disk is nearly full"),
    ],
)
@pytest.mark.row("F04")
def test_low_water(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, size: int, lack: str | None) -> None:
    """Events are refused from a mark on that is in proportion to the disk; it is looked at once a second."""
    space = Space(tmp_path / "hooks.db", os.urandom)
    monkeypatch.setattr(os, "statvfs", lambda _: small(free, size))

    assert lack == space.lack(10.0)
    monkeypatch.setattr(os, "statvfs", lambda _: small(size - 1, size))
    assert lack == space.lack(10.9)
    assert space.lack(11.0) is None


def test_much_that_is_written_is_looked_at_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small disk that is filled in less than a second is looked at in time."""
    space = Space(tmp_path / "hooks.db", os.urandom)
    monkeypatch.setattr(os, "statvfs", lambda _: small(2 << 20, 20 << 20))
    assert space.lack(10.0) is None
    monkeypatch.setattr(os, "statvfs", lambda _: small(1 << 19, 20 << 20))
    space.wrote(1 << 18)
    assert space.lack(10.1) is None
    space.wrote(1)

    assert "the disk has less than 1 MiB left" == space.lack(10.2)


def test_wal_and_what_the_file_has_free_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the WAL is wanted once more when it is folded; what the file has free in itself is room for events."""
    space = Space(tmp_path / "hooks.db", os.urandom)
    monkeypatch.setattr(os, "statvfs", lambda _: small(2 << 20, 32 << 20))
    assert space.lack(0.0) is None
    assert not space.is_low
    (tmp_path / "hooks.db-wal").write_bytes(bytes(1 << 20))
    assert "the disk has less than 1 MiB left" == space.lack(1.0)
    assert space.is_low
    space.emptied(1 << 20)
    assert not space.is_low

    assert space.lack(2.0) is None
    assert space.is_low


def test_disk_is_that_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the database is a link, its WAL grows beside the file: that disk is looked at, and has the reserve."""
    (tmp_path / "disk").mkdir()
    link, file = tmp_path / "hooks.db", tmp_path / "disk" / "real.db"
    link.symlink_to(file)
    asked = []

    def statvfs(path: Path) -> SimpleNamespace:
        asked.append(path)
        return small(GIB)

    monkeypatch.setattr(os, "statvfs", statvfs)
    space = Space(link, os.urandom)

    assert space.lack(1.0) is None
    assert {file.parent} == set(asked)
    assert ["real.db.reserve"] == [path.name for path in file.parent.iterdir()]


def test_reserve(tmp_path: Path) -> None:
    """The reserve is taken when first asked for, and given up once; until it is taken again there is no room for events."""
    space = Space(tmp_path / "hooks.db", os.urandom)
    assert not space.give_up()
    assert space.keep_reserve()
    assert [4 << 20] == [path.stat().st_size for path in tmp_path.iterdir()]
    assert space.lack(1.0) is None

    assert space.give_up()
    assert [] == list(tmp_path.iterdir())
    assert "the disk is full" == space.lack(1.5)
    assert space.lack(2.0) is None
    assert space.keep_reserve()


@pytest.mark.parametrize("left", [0, (4 << 20) - 1])
def test_torn_reserve_is_none(tmp_path: Path, left: int) -> None:
    """A reserve that a stop has left half written is written anew: what is counted on is there."""
    reserve = tmp_path / "hooks.db.reserve"
    reserve.write_bytes(bytes(left))

    assert Space(tmp_path / "hooks.db", os.urandom).lack(0.0) is None
    assert 4 << 20 == reserve.stat().st_size


async def test_small_disk_that_fills_within_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Events that take the last of a small disk in less than a second are refused in time, not at the next look."""
    monkeypatch.setattr(os, "statvfs", lambda _: small(16 << 20, 20 << 20))
    async with opened(tmp_path) as place:
        await place.publish()
        monkeypatch.setattr(os, "statvfs", lambda _: small(0, 20 << 20))
        await place.publish(draft(data=b'"%s"' % (b"x" * 500_000)))

        with pytest.raises(StorageUnavailable):
            await place.publish()


async def test_low_disk_refuses_events_and_records_results(tmp_path: Path) -> None:
    """Below the mark publishers are refused, which is told once, and results are recorded; that it is over is told unasked."""
    done = Accepted(response=Response(status=200, headers=(), body=b"", truncated=False))
    async with opened(tmp_path) as place:
        await place.subscribe()
        (delivery,) = await place.deliver()
        space = place.store._space
        space._looked_at, space._lack = math.inf, "nearly full"
        for _ in range(2):
            with pytest.raises(StorageUnavailable, match="takes no events: nearly full"):
                await place.publish()
        assert not place.store.writer.has_room
        await place.record(result(delivery, done))
        assert ["the storage takes no events: nearly full"] == list(map(str, place.listener.all("room")))
        space._looked_at = 0.0
        assert (await place.listener.until("room", 2))[1] is None
        await place.publish()
        assert [] == place.listener.all("storage") + place.listener.all("unreadable")


async def test_low_disk_that_a_question_finds(tmp_path: Path) -> None:
    """Whoever only asks if there is room lets it be told that there is none, and that there is again."""
    async with opened(tmp_path) as place:
        space = place.store._space
        space._looked_at, space._lack = math.inf, "nearly full"
        assert not place.store.writer.has_room
        assert 1 == len(place.listener.all("room"))
        space._looked_at = 0.0
        assert (await place.listener.until("room", 2))[1] is None
        assert place.store.writer.has_room


async def test_every_look_empties_the_wal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look that finds the disk low gives the WAL's room back, not only the first."""
    async with opened(tmp_path) as place:
        wal = tmp_path / "hooks.db-wal"
        await place.subscribe()
        made = await place.deliver(*drafts(2))
        monkeypatch.setattr(os, "statvfs", lambda _: small(0))
        for delivery in made:
            await place.record(result(delivery, LARGE_ANSWER))
            assert 100_000 < wal.stat().st_size
            place.store._space._looked_at = -math.inf
            with pytest.raises(StorageUnavailable):
                await place.publish()
            await place.store.writer.change(nothing)
            assert 0 == wal.stat().st_size


async def test_events_take_what_pruning_has_freed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a low disk events go into the pages of the file that hold nothing, and are refused once these are few."""
    async with opened(tmp_path) as place:
        space = place.store._space
        await place.publish(*drafts(20, data=b'"%s"' % (b"x" * 100_000)))
        monkeypatch.setattr(os, "statvfs", lambda _: small(500_000, 20 << 20))
        for _ in range(2):
            space._looked_at = -math.inf
            with pytest.raises(StorageUnavailable):
                await place.publish()
        place.clock.time += DAY
        assert await place.store.writer.change(upkeep.prune(0))
        space._looked_at = -math.inf
        with pytest.raises(StorageUnavailable):
            await place.publish()
        space._looked_at = -math.inf
        await place.publish(*drafts(20, data=b'"%s"' % (b"x" * 100_000)))
        for _ in range(2):
            space._looked_at = -math.inf
            with pytest.raises(StorageUnavailable):
                await place.publish()


async def test_change_without_room_makes_some(tmp_path: Path) -> None:
    """A change that finds the disk full fails, and gives up the reserve and the WAL's room for the next one."""
    reserve, wal = tmp_path / "hooks.db.reserve", tmp_path / "hooks.db-wal"

    async def grow(tx: Transaction) -> None:
        await tx.run(sql.set_meta, ("x", bytes(100_000)))

    async with opened(tmp_path) as place:
        await place.publish()
        assert reserve.exists()
        await limit_pages(place, 4)
        with pytest.raises(StorageUnavailable):
            await place.store.writer.change(grow)
        await place.store.writer.change(nothing)

        assert (False, 0) == (reserve.exists(), wal.stat().st_size)


@pytest.mark.parametrize("has_reserve", [True, False])
async def test_start_on_a_full_disk_takes_the_reserve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_reserve: bool
) -> None:
    """A start that finds no room gives up the reserve and tries once more; without one it says that the disk is full."""
    reserve = tmp_path / "hooks.db.reserve"
    async with opened(tmp_path) as place:
        await place.publish()
    if not has_reserve:
        reserve.unlink()
    write = os.pwrite

    def pwrite(descriptor: int, content: bytes, offset: int) -> int:
        if reserve.exists() or not has_reserve:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, content, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    if has_reserve:
        async with opened(tmp_path):
            assert not reserve.exists()
    else:
        with pytest.raises(StartError, match="the disk is full"):
            async with opened(tmp_path):
                pass


@pytest.mark.row("F04")
async def test_full_disk_spends_the_reserve(tmp_path: Path) -> None:
    """A result that finds no room is tried again at once in that of the reserve, which is taken again when there is room."""
    reserve = tmp_path / "hooks.db.reserve"
    async with opened(tmp_path) as place:
        await place.subscribe()
        (delivery,) = await place.deliver(draft())
        assert reserve.exists()
        await limit_pages(place, 4)
        place.store.writer.record(result(delivery, LARGE_ANSWER))
        await place.listener.until("storage")
        await asyncio.sleep(0)
        await place.listener.until("storage", 2)
        assert not reserve.exists()
        await limit_pages(place, None)
        await place.listener.until("recorded")
        while place.listener.all("storage")[-1] is not None:
            await place.listener.until("storage", len(place.listener.all("storage")) + 1)

        assert reserve.exists()


async def test_refusals_do_not_wait(tmp_path: Path) -> None:
    """While a result waits for room whoever publishes hears at once that there is none, not when it is next tried."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        (delivery,) = await place.deliver()
        await limit_pages(place, 4)
        place.store.writer.record(result(delivery, LARGE_ANSWER))
        tried = len(await place.listener.until("storage", 3))
        for _ in range(20):
            with pytest.raises(StorageUnavailable):
                await place.publish()

        assert len(place.listener.all("storage")) <= tried + 2
        await limit_pages(place, None)
        await place.listener.until("recorded")
