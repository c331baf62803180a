"""What can befall the files of the database from outside: damage, loss, rights, other programs, other disks."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
from contextlib import closing, contextmanager, suppress
from random import Random
from typing import TYPE_CHECKING

import pytest
from engines import Gate, Journal, engine, rows, running
from patience import PATIENCE
from storage import files

from hookengine.engine import DATABASE
from hookengine.errors import StartError, StorageFailed
from hookengine.receiver import Receiver
from hookengine.store import whereabouts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PAGE = 4_096
LARGE = "x" * 1_000_000  # of a payload


def spoil_table(folder: Path, name: str) -> slice:
    """Write nonsense over the first page of a table or index; where that is in the file."""
    ((root,),) = rows(folder, "SELECT rootpage FROM sqlite_schema WHERE name = ?", name)
    content = bytearray((folder / DATABASE).read_bytes())
    where = slice(PAGE * (root - 1), PAGE * root)
    content[where] = b"\xff" * PAGE
    (folder / DATABASE).write_bytes(content)
    return where


# Damage.


@pytest.mark.row("F08")
@pytest.mark.parametrize("name", ["meta", "subscriptions", "deliveries", "deliveries_due"])
async def test_damage_that_the_start_meets(tmp_path: Path, name: str) -> None:
    """A start that needs a page that is no page ends with what to do, and repairs nothing."""
    async with Receiver([500]) as receiver, running(tmp_path) as made:
        await made.subscribe(receiver.url)
        await made.publish("order.created", {})
    spoiled = spoil_table(tmp_path, name)
    for _ in range(2):
        with pytest.raises(StartError, match=r"malformed.* restore a backup"):
            await engine(tmp_path).start()

    assert b"\xff" * PAGE == (tmp_path / DATABASE).read_bytes()[spoiled]


@pytest.mark.row("F08")
async def test_damage_that_the_work_meets(tmp_path: Path) -> None:
    """An engine that cannot read what it is to send, because of damage, ends with that; it does not stand still."""
    async with Receiver(Gate()) as receiver, running(tmp_path, concurrency=1) as made:
        await made.subscribe(receiver.url)
        for n in range(10):
            await made.publish("order.created", f"needle {n} " + "x" * 2_000)
    content = bytearray((tmp_path / DATABASE).read_bytes())
    begin = content.index(b"needle 3") // PAGE * PAGE
    content[begin : begin + 8] = b"\xff" * 8  # the header of a page
    (tmp_path / DATABASE).write_bytes(content)
    made = engine(tmp_path)
    await made.start()
    with pytest.raises(StorageFailed, match=r"malformed.* restore a backup"):
        async with asyncio.timeout(PATIENCE):
            await made.wait_stopped()


@pytest.mark.row("F09")
async def test_tail_of_the_wal_is_lost(tmp_path: Path) -> None:
    """Of a WAL that is cut off or spoiled somewhere, all that was committed before that place is there, and nothing half."""
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    ends = {}
    async with running(crashed) as made:
        wal = crashed / f"{DATABASE}-wal"
        for n in range(30):
            event = await made.publish("order.created", {"n": n})
            ends[event.id] = wal.stat().st_size
        shutil.copytree(crashed, tmp_path / "left")  # as a crash leaves it
    rng = Random(5)
    for run in range(20):
        folder = tmp_path / str(run)
        shutil.copytree(tmp_path / "left", folder)
        content = bytearray((folder / wal.name).read_bytes())
        place_of_it = rng.randrange(len(content))
        content[place_of_it:] = rng.randbytes(len(content) - place_of_it) if run % 2 else b""
        (folder / wal.name).write_bytes(content)
        async with running(folder) as made:
            found = {event.id for event in (await made.events(limit=250)).data}
            await made.publish("order.created", {})

        assert {id_ for id_, end in ends.items() if end <= place_of_it} <= found <= ends.keys()
        assert [("ok",)] == rows(folder, "PRAGMA integrity_check")


# Loss.


@pytest.mark.row("F11")
async def test_files_that_vanish_end_the_engine(tmp_path: Path) -> None:
    """An engine whose file was moved, replaced or deleted says which and ends, before much is written that nobody finds."""

    def replace(path: Path) -> None:
        shutil.copy(path, path.with_name("new"))
        path.with_name("new").replace(path)

    def move(path: Path) -> None:
        path.rename(path.with_name("elsewhere"))

    async def lose(folder: Path, name: str, change: Callable[[Path], object]) -> None:
        folder.mkdir()  # noqa: ASYNC240
        made = engine(folder)
        await made.start()
        await made.publish("order.created", {})
        change(folder / name)
        with pytest.raises(StorageFailed, match="moved, deleted or replaced") as caught:
            async with asyncio.timeout(PATIENCE):
                await made.wait_stopped()
        with pytest.raises(StorageFailed):
            await made.publish("order.created", {})
        assert str(caught.value).startswith(f"{folder / name} was ")

    await asyncio.gather(
        *(
            lose(tmp_path / f"{suffix}{number}", DATABASE + suffix, change)
            for suffix in ("", "-wal", "-shm", ".lock")
            for number, change in enumerate((replace, move, os.unlink))
            if suffix in ("", "-wal") or change is os.unlink
        )
    )


@pytest.mark.row("F11")
async def test_wal_without_its_database_is_kept(tmp_path: Path) -> None:
    """Where only the database was moved away a start makes no new one, over which SQLite would delete what the WAL holds."""
    async with running(tmp_path) as made:
        await made.publish("order.created", {})
        shutil.copytree(tmp_path, tmp_path / "left")
    left, wal = tmp_path / "left", tmp_path / "left" / f"{DATABASE}-wal"
    (left / DATABASE).rename(tmp_path / "moved")
    content = wal.read_bytes()
    for _ in range(2):
        with pytest.raises(StartError, match=f"there is {wal} and .*: put the database back"):
            await engine(left).start()
    assert content == wal.read_bytes()
    (tmp_path / "moved").rename(left / DATABASE)
    async with running(left) as made:
        assert 1 == len((await made.events()).data)


@pytest.mark.row("F11")
async def test_database_that_went_is_not_made_anew(tmp_path: Path) -> None:
    """After the file was moved away from a running engine no start makes an empty one; put back, it has what was accepted."""
    made, database = engine(tmp_path), tmp_path / DATABASE
    await made.start()
    await made.publish("order.created", {})
    database.rename(tmp_path / "moved")
    with pytest.raises(StorageFailed):
        async with asyncio.timeout(PATIENCE):
            await made.wait_stopped()
    for _ in range(2):
        with pytest.raises(StartError, match=f"{database} is not there, but there is {database}-wal"):
            await engine(tmp_path).start()
    (tmp_path / "moved").rename(database)
    async with running(tmp_path) as made:
        assert 1 == len((await made.events()).data)


# Rights.


@contextmanager
def bound_by_rights(folder: Path) -> Iterator[None]:
    """*folder* and its files belong to whom we are in the block: not root, whom no mode binds."""
    if os.geteuid() != 0:
        yield
        return
    for path in (folder, *folder.iterdir()):
        os.chown(path, 65_534, 65_534)
    folder.parent.chmod(0o711)
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.row("F12")
@pytest.mark.parametrize(
    ("name", "mode"),
    [
        pytest.param("", 0o500, id="folder without writing"),
        pytest.param("", 0o000, id="folder without anything"),
        pytest.param(DATABASE, 0o400, id="database without writing"),
        pytest.param(DATABASE, 0o000, id="database without reading"),
        pytest.param(f"{DATABASE}.lock", 0o400, id="lock without writing"),
        pytest.param("secret.key", 0o000, id="key without reading"),
        pytest.param("admin.token", 0o000, id="token without reading"),
    ],
)
async def test_rights_that_are_missing(in_memory: Path, name: str, mode: int) -> None:
    """A start that may not write, or read, says what and where, and the same start goes well with the rights."""
    folder = in_memory / "data"
    folder.mkdir()
    for _ in range(2):  # makes the files, and loads what a start on them needs, which then cannot be read
        async with engine(folder, serve="127.0.0.1:0"):
            pass
    spoiled = folder / name
    before = spoiled.stat().st_mode
    with bound_by_rights(folder):
        spoiled.chmod(mode)
        with pytest.raises(StartError, match=f"{folder}.*(Permission denied|readonly database)"):
            await engine(folder, serve="127.0.0.1:0").start()
        spoiled.chmod(before)
        made = engine(folder, serve="127.0.0.1:0")
        await made.start()
        await made.publish("order.created", {})
        await made.stop()


# Other disks.


async def test_database_that_is_a_link(tmp_path: Path, in_memory: Path) -> None:
    """All that belongs to a file on another disk lies there, made by the first start; an older reserve by the link is left."""
    (tmp_path / DATABASE).symlink_to(in_memory / "real.db")
    async with running(tmp_path) as made:
        await made.publish("order.created", {})
        there = set(files(in_memory))
    (tmp_path / f"{DATABASE}.reserve").write_bytes(b"x")
    async with running(tmp_path) as made:
        assert not made.is_new
        await made.publish("order.created", {})

    assert {"real.db", *(f"real.db{suffix}" for suffix in ("-wal", "-shm", ".lock", ".reserve"))} == there
    assert {DATABASE, "secret.key", f"{DATABASE}.reserve"} == set(files(tmp_path))


async def test_link_to_nothing_but_itself(tmp_path: Path) -> None:
    """A link that leads round in a circle is told as what cannot be used."""
    (tmp_path / DATABASE).symlink_to(tmp_path / DATABASE)
    with pytest.raises(StartError, match=r"hooks\.db cannot be used: .*symbolic links"):
        await engine(tmp_path).start()


@pytest.mark.row("F13")
async def test_disk_of_the_network_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database on a file system that several machines share works, and the log says that it should not be there."""
    for kind, told in (("ext4", 0), ("nfs4", 1)):
        mounts = tmp_path / "mountinfo"
        mounts.write_text(f"1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:9 / {tmp_path} rw,relatime shared:1 - {kind} a:/b rw\n")
        monkeypatch.setattr(whereabouts, "_MOUNTS", mounts)
        async with running(tmp_path, journal := Journal()) as made:
            await made.publish("order.created", {})
        assert told == len([line for line in journal.all("fault", where="start") if "is on nfs4" in line["error"]])


@pytest.mark.row("F13")
def test_mount_of_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of mounts within each other, and over each other, the last and innermost counts; names may have spaces."""
    (tmp_path / "a b" / "local").mkdir(parents=True)
    name = str(tmp_path).replace("\\", "\\134")
    (tmp_path / "mountinfo").write_text(
        f"1 0 8:1 / / rw - ext4 /dev/a rw\n"
        f"2 1 0:9 / {name}/a\\040b rw - ext4 /dev/b rw\n"
        f"3 1 0:9 / {name}/a\\040b rw shared:1 - fuse.sshfs a:/b rw\n"
        f"4 3 0:9 / {name}/a\\040b/local rw - tmpfs tmpfs rw\n"
    )
    assert whereabouts.shared_by(tmp_path) is None  # by the mounts that there are
    monkeypatch.setattr(whereabouts, "_MOUNTS", tmp_path / "mountinfo")

    assert "fuse.sshfs" == whereabouts.shared_by(tmp_path / "a b" / "hooks.db")
    assert whereabouts.shared_by(tmp_path / "a b" / "local" / "hooks.db") is None
    assert whereabouts.shared_by(tmp_path / "a bc") is None
    monkeypatch.setattr(whereabouts, "_MOUNTS", tmp_path / "none")
    assert whereabouts.shared_by(tmp_path / "a b") is None


# Other programs.


@pytest.mark.row("F27")
async def test_long_reader_is_told_of(in_memory: Path) -> None:
    """Another program that reads for long lets the WAL grow, which is told; once it has ended the WAL is small again."""
    wal = in_memory / f"{DATABASE}-wal"
    async with running(in_memory, journal := Journal()) as made:
        await made.publish("order.created", {})
        with closing(sqlite3.connect(in_memory / DATABASE, isolation_level=None)) as other:
            other.execute("BEGIN")
            other.execute("SELECT count(*) FROM events").fetchall()
            for _ in range(100):
                await made.publish("order.created", LARGE)
            (told,) = await journal.until("fault", where="folding the WAL")
            assert wal.stat().st_size > 64 << 20
            assert [(1,)] == other.execute("SELECT count(*) FROM events").fetchall()
        for _ in range(70):
            await made.publish("order.created", LARGE)

        assert "the WAL has " in told["error"]
        assert wal.stat().st_size <= 64 << 20
        assert [told] == journal.all("fault")


@pytest.mark.row("F28")
async def test_readers_do_not_keep_the_wal_from_being_folded(in_memory: Path) -> None:
    """However much is written while lists are asked for without a pause, the WAL stays small."""
    wal = in_memory / f"{DATABASE}-wal"
    async with running(in_memory) as made:
        largest = asked = 0
        for n in range(100):
            publishing = asyncio.create_task(made.publish("order.created", LARGE))
            while not publishing.done():
                await made.events(limit=250)
                asked += 1
            largest = max(largest, wal.stat().st_size)
            assert n < asked

    assert largest <= 64 << 20


@pytest.mark.parametrize("name", ["loop.db", f"{'x' * 300}.db"], ids=["a link to itself", "too long"])
def test_what_nobody_can_look_at_has_left_nothing(tmp_path: Path, name: str) -> None:
    """Where even the look is refused, nothing is known to be left: who opens it says what is wrong."""
    with suppress(OSError):
        (tmp_path / name).symlink_to(name)
    found = whereabouts.Files(tmp_path / name)

    assert (None, None) == (found.size(), found.left_behind())
