"""Copies of a real file, while a store writes to it and when none has it."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from storage import drafts, opened, rows

from hookengine.errors import HookEngineError, KeyUnusable, StorageCorrupt
from hookengine.store.backup import TargetExists, copy
from hookengine.store.inspection import examine


def names(folder: Path) -> list[str]:
    """What is in *folder*."""
    return sorted(path.name for path in folder.iterdir())


def silent(_done: int, _total: int) -> None:
    """Progress that nobody sees."""


@pytest.mark.row("F44")
async def test_copy_is_of_one_moment_while_the_store_writes(tmp_path: Path) -> None:
    """Commits between two steps of the copy are not in it, and do not start it again; it is one file all the time."""
    target, steps, beside = tmp_path / "copy.db", list[tuple[int, int]](), set[str]()
    loop = asyncio.get_running_loop()
    async with opened(tmp_path) as place:
        await place.subscribe()
        await place.publish(*drafts(100, data=b'"%s"' % (b"x" * 150_000)))  # 15 MB: some steps

        def publish(done: int, total: int) -> None:
            steps.append((done, total))
            beside.update(path.name for path in tmp_path.glob("copy.db*"))
            asyncio.run_coroutine_threadsafe(place.publish(*drafts(1)), loop).result(20)

        await asyncio.to_thread(copy, place.path, target, replace=False, progress=publish)
        [(now,)] = place.rows("SELECT count(*) FROM events")

    assert [(100,)] == rows(target, "SELECT count(*) FROM events")
    assert now == 100 + len(steps)
    assert len(steps) > 2
    assert sorted(steps) == steps
    assert steps[-1] == (steps[0][1], steps[0][1])
    assert {f"copy.db.{os.getpid()}.new"} == beside


async def test_copy_of_a_closed_file_is_whole_and_private(tmp_path: Path) -> None:
    """Only its owner can read the copy, nothing else is left beside it, and its size is told."""
    async with opened(tmp_path) as place:
        await place.publish(*drafts(3))
    folder = tmp_path / "copies"
    folder.mkdir()
    target = folder / "hooks.db"
    size = copy(place.path, target, replace=False, progress=silent)

    assert ["hooks.db"] == names(folder)
    assert (0o600, size) == (stat.S_IMODE(target.stat().st_mode), target.stat().st_size)
    assert ["key"] == [each.check for each in examine(target, encryption_key=None, tick=lambda: None) if each.problems]
    assert [(3,)] == rows(target, "SELECT count(*) FROM events")


async def test_copy_opens_with_the_key_and_not_without(tmp_path: Path) -> None:
    """A store on the copy needs the key of the original."""
    async with opened(tmp_path) as place:
        made = await place.subscribe()
    restored = tmp_path / "restored"
    restored.mkdir()
    copy(place.path, restored / "hooks.db", replace=False, progress=silent)
    with pytest.raises(KeyUnusable, match="missing"):
        async with opened(restored):
            pytest.fail("it opens")
    (restored / "secret.key").write_bytes((tmp_path / "secret.key").read_bytes())

    async with opened(restored) as again:
        assert [made.id] == [each.id for each in again.store.memory.index]


@pytest.mark.parametrize("name", ["file:copy.db", "file:copy.db?mode=memory", "-copy.db"])
async def test_target_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A path is a path, also one that SQLite could take for a URI: the copy is in that file, and ours alone."""
    async with opened(tmp_path) as place:
        await place.publish()
    folder = tmp_path / "copies"
    folder.mkdir()
    monkeypatch.chdir(folder)
    size = copy(place.path, Path(name), replace=False, progress=silent)
    made = (folder / name).stat()

    assert [name] == names(folder)
    assert (size, 0o600) == (made.st_size, stat.S_IMODE(made.st_mode))
    assert [(1,)] == rows(folder / name, "SELECT count(*) FROM events")


async def test_nothing_is_replaced_unless_asked(tmp_path: Path) -> None:
    """What is there stays as it is, and gives way when it may."""
    async with opened(tmp_path) as place:
        pass
    target = tmp_path / "copy.db"
    target.write_bytes(b"precious")
    with pytest.raises(TargetExists, match=r"copy\.db exists"):
        copy(place.path, target, replace=False, progress=silent)

    assert b"precious" == target.read_bytes()
    copy(place.path, target, replace=True, progress=silent)
    assert target.read_bytes().startswith(b"SQLite format 3")


async def test_file_that_came_meanwhile_stays(tmp_path: Path) -> None:
    """Somebody who makes the same name while the copy is made wins."""
    async with opened(tmp_path) as place:
        pass
    target = tmp_path / "copy.db"

    def be_faster(_done: int, _total: int) -> None:
        target.write_bytes(b"faster")

    before = names(tmp_path)
    with pytest.raises(TargetExists):
        copy(place.path, target, replace=False, progress=be_faster)

    assert b"faster" == target.read_bytes()
    assert sorted([*before, "copy.db"]) == names(tmp_path)


@pytest.mark.parametrize("name", ["itself", "link", "folder", "in use"])
async def test_databases_and_directories_are_never_replaced(tmp_path: Path, name: str) -> None:
    """The database itself, also by another name, a directory, and another database in use are refused in any case."""
    async with opened(tmp_path) as place:
        pass
    (tmp_path / "link.db").symlink_to(place.path)
    (tmp_path / "other.db").touch()
    (tmp_path / "other.db-wal").write_bytes(b"x")
    targets = {"itself": place.path, "link": tmp_path / "link.db", "folder": tmp_path, "in use": tmp_path / "other.db"}

    with pytest.raises(TargetExists):
        copy(place.path, targets[name], replace=True, progress=silent)
    assert not [name for name in names(tmp_path) if name.endswith(".new")]


async def test_database_in_use_is_not_replaced(tmp_path: Path) -> None:
    """One whose WAL is empty is known by its lock, and what belongs to it by its name, also where a link leads to it."""
    for name in ("mine", "real", "data"):
        (tmp_path / name).mkdir()
    async with opened(tmp_path / "mine") as place:
        await place.publish()
    real = tmp_path / "real" / "real.db"
    (tmp_path / "data" / "hooks.db").symlink_to(real)
    async with opened(tmp_path / "data") as other:
        await other.store.writer._folding.empty()
        beside = [real.with_name(f"real.db{suffix}") for suffix in ("-wal", "-shm", "-journal", ".lock")]
        for target in (real, *beside, tmp_path / "data" / "hooks.db.reserve", tmp_path / "data" / "secret.key"):
            with pytest.raises(TargetExists):
                copy(place.path, target, replace=True, progress=silent)
        with pytest.raises(TargetExists, match=r"real\.db is in use by pid \d+"):
            copy(place.path, real, replace=True, progress=silent)
        await other.publish()
    copy(place.path, real, replace=True, progress=silent)
    copy(place.path, tmp_path / ".lock", replace=False, progress=silent)

    assert [(1,)] == rows(real, "SELECT count(*) FROM events") == rows(tmp_path / ".lock", "SELECT count(*) FROM events")


async def test_copy_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """A folder that is not there, a file that is no database and a full disk each have their words, and no half copy stays."""
    async with opened(tmp_path) as place:
        await place.publish(*drafts(1000))
    with pytest.raises(HookEngineError, match="cannot be written: No such file"):
        copy(place.path, tmp_path / "none" / "copy.db", replace=False, progress=silent)
    (tmp_path / "text.db").write_bytes(b"x" * 4096)
    with pytest.raises(StorageCorrupt):
        copy(tmp_path / "text.db", tmp_path / "copy.db", replace=False, progress=silent)
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, limits[1]))  # as near to a full disk as a test may come
    try:
        with pytest.raises(HookEngineError, match="the copy cannot be made"):
            copy(place.path, tmp_path / "copy.db", replace=False, progress=silent)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)

    assert not [name for name in names(tmp_path) if name.startswith("copy.db")]


async def test_copy_is_compact_enough_to_read_alone(tmp_path: Path) -> None:
    """The copy needs no WAL: it is one file."""
    async with opened(tmp_path) as place:
        await place.publish(*drafts(10))
        copy(place.path, tmp_path / "copy.db", replace=False, progress=silent)

    with closing(sqlite3.connect(f"file:{tmp_path / 'copy.db'}?immutable=1", uri=True)) as db:
        assert [(10,)] == db.execute("SELECT count(*) FROM events").fetchall()


# A copy in a process to which its system says that there are no links, as some file systems do.
WITHOUT_LINKS = """
import errno, sys
from pathlib import Path
from hookengine.store.backup import TargetExists, copy

def refuse(event, _):
    if event == "os.link":
        raise OSError(errno.EPERM, "no links")

sys.addaudithook(refuse)
source, target = map(Path, sys.argv[1:])
copy(source, target, replace=False, progress=lambda *_: None)
try:
    copy(source, target, replace=False, progress=lambda *_: None)
except TargetExists:
    print("refused")
"""


async def test_copy_needs_no_links(tmp_path: Path) -> None:
    """On a file system without links a copy is made all the same, and none is replaced."""
    async with opened(tmp_path) as place:
        await place.publish(*drafts(3))
    target = tmp_path / "copy.db"
    command = [sys.executable, "-c", WITHOUT_LINKS, str(place.path), str(target)]

    ended = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=30, check=False)

    assert ("refused\n", "") == (ended.stdout, ended.stderr)
    assert [(3,)] == rows(target, "SELECT count(*) FROM events")
