"""The file: its owner, its pragmas, its schema."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import sqlite3
import stat
import threading
from contextlib import asynccontextmanager, closing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from patience import PATIENCE
from storage import have_ended, rows, write

from hookengine.errors import AlreadyRunning, DatabaseTooNew, StartError
from hookengine.store.database import Lock, begin, check_ours, close, make_file, migrate, open_reader, open_writer
from hookengine.store.queries import migrations

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine

    import aiosqlite

INCREMENTAL = 2


@asynccontextmanager
async def writer(path: Path, synchronous: str = "full") -> AsyncIterator[aiosqlite.Connection]:
    """The write connection of a file that may be new."""
    make_file(path)
    db = await open_writer(path, synchronous=synchronous)
    try:
        yield db
    finally:
        await close(db)


@asynccontextmanager
async def reader(path: Path) -> AsyncIterator[aiosqlite.Connection]:
    """A connection that cannot write."""
    db = await open_reader(path)
    try:
        yield db
    finally:
        await close(db)


async def pragma(db: aiosqlite.Connection, name: str) -> Any:
    """The value of a pragma on this very connection."""
    ((value,),) = await db.execute_fetchall(f"PRAGMA {name}")
    return value


def modes(folder: Path) -> dict[str, int]:
    """Who may read and write the files in *folder*."""
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("journal_mode", "wal"),
        ("synchronous", 2),
        ("foreign_keys", 1),
        ("auto_vacuum", INCREMENTAL),
        ("temp_store", 1),  # until the schema is there
        ("mmap_size", 0),
        ("cell_size_check", 1),
        ("journal_size_limit", 64 << 20),
        ("wal_autocheckpoint", 0),
        ("busy_timeout", 5000),
        ("query_only", 0),
    ],
)
async def test_writer_runs_with_its_pragmas(tmp_path: Path, name: str, expected: object) -> None:
    """What was asked of SQLite is in force on the connection that writes."""
    async with writer(tmp_path / "hooks.db") as db:
        assert expected == await pragma(db, name)


@pytest.mark.parametrize(("synchronous", "level"), [("normal", 1), ("full", 2)])
async def test_synchronous_is_what_was_asked_for(tmp_path: Path, synchronous: str, level: int) -> None:
    """The durability is the caller's choice."""
    async with writer(tmp_path / "hooks.db", synchronous) as db:
        assert level == await pragma(db, "synchronous")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("query_only", 1), ("journal_mode", "wal"), ("temp_store", 2), ("mmap_size", 0), ("wal_autocheckpoint", 0)],
)
@pytest.mark.row("F45")
async def test_reader_runs_with_its_pragmas(tmp_path: Path, name: str, expected: object) -> None:
    """What was asked of SQLite is in force on the connection that reads."""
    async with writer(tmp_path / "hooks.db"), reader(tmp_path / "hooks.db") as db:
        assert expected == await pragma(db, name)


@pytest.mark.row("F45")
async def test_reader_cannot_write(tmp_path: Path) -> None:
    """A statement that writes is refused on the reader's connection."""
    async with writer(tmp_path / "hooks.db") as db:
        await migrate(db, tmp_path / "hooks.db")
        async with reader(tmp_path / "hooks.db") as reading:
            with pytest.raises(sqlite3.OperationalError, match="readonly"):
                await reading.execute("DELETE FROM meta")


async def test_auto_vacuum_is_in_the_file(tmp_path: Path) -> None:
    """Space can be given back step by step, because the file was made for it before its first page."""
    path = tmp_path / "hooks.db"
    async with writer(path) as db:
        await migrate(db, path)

    assert [(INCREMENTAL,)] == rows(path, "PRAGMA auto_vacuum")


async def test_durability_that_sqlite_does_not_give_is_refused() -> None:
    """A file that cannot have a write-ahead log is not started, because a commit would not be what it promises."""
    with pytest.raises(StartError, match=r"journal_mode, synchronous = \('memory', 2\), not with \('wal', 2\)"):
        await open_writer(Path(":memory:"), synchronous="full")


async def test_a_file_that_is_no_database_is_let_go(tmp_path: Path) -> None:
    """A file of something else is left as it is, and no thread is left behind."""
    path = tmp_path / "hooks.db"
    path.write_bytes(b"this is no database" * 100)
    threads = set(threading.enumerate())

    with pytest.raises(sqlite3.DatabaseError, match="not a database"):
        await open_writer(path, synchronous="full")

    assert b"this is no database" * 100 == path.read_bytes()
    assert have_ended(set(threading.enumerate()) - threads)


@pytest.mark.parametrize("turns", range(8))
@pytest.mark.parametrize("open_one", [partial(open_writer, synchronous="full"), open_reader], ids=["writer", "reader"])
async def test_opening_can_be_cut(
    tmp_path: Path, open_one: Callable[[Path], Coroutine[Any, Any, aiosqlite.Connection]], turns: int
) -> None:
    """A start that is cancelled at any of its steps leaves no thread behind, which would keep the process alive."""
    before = set(threading.enumerate())
    task = asyncio.create_task(open_one(tmp_path / "hooks.db"))
    await asyncio.sleep(0)
    (thread,) = set(threading.enumerate()) - before
    for _ in range(turns):
        await asyncio.wait([task], timeout=0.0005)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await (await task).close()

    assert have_ended({thread})


async def test_files_are_the_owners_alone(tmp_path: Path) -> None:
    """The database, its log, its index and the lock are 0600 whatever the umask says."""
    path = tmp_path / "hooks.db"
    before = os.umask(0)
    lock = Lock(path)
    try:
        lock.acquire()
        async with writer(path) as db:
            await migrate(db, path)

            assert {"hooks.db": 0o600, "hooks.db-shm": 0o600, "hooks.db-wal": 0o600, "hooks.db.lock": 0o600} == modes(tmp_path)
    finally:
        os.umask(before)
        lock.release()


def test_make_file_tells_what_it_found(tmp_path: Path) -> None:
    """A file is new until something is in it."""
    path = tmp_path / "hooks.db"

    assert make_file(path)
    assert make_file(path)
    path.write_bytes(b"x")
    assert not make_file(path)
    assert b"x" == path.read_bytes()


async def test_migration_builds_the_schema(tmp_path: Path) -> None:
    """An empty file gets every table and the number of the last step."""
    path = tmp_path / "hooks.db"
    async with writer(path) as db:
        await migrate(db, path)

        assert len(migrations()) == await pragma(db, "user_version")
        assert not db.in_transaction
    tables = {name for (name,) in rows(path, "SELECT name FROM sqlite_master WHERE type = 'table'")}

    assert {
        *("meta", "subscriptions", "health", "events", "deliveries", "attempts", "idempotency_keys"),
        *("tenants", "tokens", "event_types", "replays", "statistics", "access_tokens", "exchanges", "spans"),
    } == tables


async def test_statement_that_begins_at_once(tmp_path: Path) -> None:
    """It does what it says in the thread of the connection, or raises what SQLite does; and on a closed one as others do."""
    path = tmp_path / "hooks.db"
    threads: list[int] = []
    async with writer(path) as db:
        await migrate(db, path)
        await db.create_function("noted", 0, lambda: threads.append(threading.get_ident()))
        await begin(db, "INSERT INTO meta SELECT ?, ? WHERE noted() IS NULL", ("a", 1))
        with pytest.raises(sqlite3.IntegrityError):
            await begin(db, "INSERT INTO meta VALUES (?, ?)", ("a", 2))
        await begin(db, "INSERT INTO meta VALUES (?, ?)", ("b", 3))
    with pytest.raises(ValueError, match="no active connection"):
        await begin(db, "INSERT INTO meta VALUES (?, ?)", ("c", 4))

    assert [("a", 1), ("b", 3)] == rows(path, "SELECT * FROM meta")
    assert [threading.get_ident()] != threads
    assert 1 == len(threads)


class Slow(logging.Handler):
    """Lets the threads of connections linger after each thing that they did."""

    def emit(self, _: logging.LogRecord) -> None:
        """Take a while, beside the event loop."""
        if threading.current_thread() is not threading.main_thread():
            threading.Event().wait(0.05)


@pytest.mark.parametrize("ticks", [0, 1, 2, None], ids=["cancelled", "after a tick", "after two", "closed"])
async def test_closing_leaves_no_thread(tmp_path: Path, caplog: pytest.LogCaptureFixture, ticks: int | None) -> None:
    """Who has closed a connection, or was cancelled while it opened, finds no thread of it, however slow that is to end."""
    caplog.set_level(logging.DEBUG, "aiosqlite")
    logger, slow, before = logging.getLogger("aiosqlite"), Slow(), set(threading.enumerate())
    logger.addHandler(slow)
    try:
        opening = asyncio.create_task(open_writer(tmp_path / "hooks.db", synchronous="normal"))
        if ticks is None:
            await close(await opening)
        else:
            await asyncio.sleep(0)
            for _ in range(ticks):
                await asyncio.sleep(0)
            opening.cancel()
            with pytest.raises(asyncio.CancelledError):
                await opening
    finally:
        logger.removeHandler(slow)

    assert set() == set(threading.enumerate()) - before


class Done(logging.Handler):
    """Lets somebody wait for what the threads of connections do, one thing after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.things = threading.Semaphore(0)

    def emit(self, record: logging.LogRecord) -> None:
        """Count what is done, beside the event loop."""
        if "completed" in record.msg:
            self.things.release()


@pytest.mark.parametrize(
    ("open_one", "things"),
    [pytest.param(partial(open_writer, synchronous="normal"), 13, id="writer"), pytest.param(open_reader, 6, id="reader")],
)
async def test_opening_that_is_cut_leaves_no_lock(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    open_one: Callable[[Path], Coroutine[Any, Any, aiosqlite.Connection]],
    things: int,
) -> None:
    """Whenever who opens a file is cancelled, nothing of the file stays locked, though somebody keeps the error."""
    path, errors = tmp_path / "hooks.db", []
    await close(await open_writer(path, synchronous="normal"))
    caplog.set_level(logging.DEBUG, "aiosqlite")
    for number in range(things + 1):
        done = Done()
        logging.getLogger("aiosqlite").addHandler(done)
        opening = asyncio.create_task(open_one(path))
        for _ in range(number):
            await asyncio.sleep(0)  # it asks for something
            assert done.things.acquire(timeout=PATIENCE)  # which is done while the loop stands still
            await asyncio.sleep(0)  # and is answered
        opening.cancel()
        with pytest.raises(asyncio.CancelledError) as cut:
            await opening
        errors.append(cut.value)
        logging.getLogger("aiosqlite").removeHandler(done)
        with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as other:
            other.execute("PRAGMA locking_mode = EXCLUSIVE")
            other.execute("BEGIN IMMEDIATE")
            other.execute("COMMIT")


@pytest.mark.parametrize("version", range(len(migrations()) + 1))
async def test_file_of_every_version_is_ours(tmp_path: Path, version: int) -> None:
    """Whatever step a file has come to, also none, it is known as one of ours."""
    path = tmp_path / "hooks.db"
    write(path, "".join(migrations()[:version]) + f"PRAGMA user_version = {version};")
    await check_ours(path)


async def test_migration_runs_once(tmp_path: Path) -> None:
    """A file of this version is left as it is."""
    path = tmp_path / "hooks.db"
    async with writer(path) as db:
        await migrate(db, path)
        await db.execute("INSERT INTO meta VALUES ('kept', 1)")
        await migrate(db, path)

    assert [("kept", 1)] == rows(path, "SELECT * FROM meta")


@pytest.mark.row("F43")
async def test_newer_file_is_refused_with_both_numbers(tmp_path: Path) -> None:
    """An older program says which version it found and which it knows, and touches nothing."""
    path = tmp_path / "hooks.db"
    write(path, "CREATE TABLE of_the_future (x); PRAGMA user_version = 99;")
    async with writer(path) as db:
        with pytest.raises(DatabaseTooNew) as caught:
            await migrate(db, path)

    assert (99, len(migrations())) == (caught.value.found, caught.value.known)
    assert str(caught.value).startswith(
        f"{path} has schema version 99; this hookengine knows versions up to {len(migrations())}"
    )
    assert [("of_the_future",)] == rows(path, "SELECT name FROM sqlite_master")


async def test_failing_migration_leaves_the_old_version(tmp_path: Path) -> None:
    """A step that fails half-way is undone whole, and says which it was."""
    path = tmp_path / "hooks.db"
    write(path, "CREATE TABLE attempts (in_the_way);")  # the first step makes four tables before this one
    async with writer(path) as db:
        with pytest.raises(StartError, match=f"{path}: the step to schema version 1 failed: table attempts already exists"):
            await migrate(db, path)

        assert 0 == await pragma(db, "user_version")
        assert not db.in_transaction
    assert [("attempts",)] == rows(path, "SELECT name FROM sqlite_master")


@pytest.mark.parametrize(
    ("row", "named"),
    [
        pytest.param("'pending', 5", "CHECK", id="pending, but finished"),
        pytest.param("'delivered', NULL", "CHECK", id="delivered, but not finished"),
        pytest.param("'held', NULL", "CHECK", id="held is not stored"),
    ],
)
async def test_database_refuses_nonsense(tmp_path: Path, row: str, named: str) -> None:
    """States and times of a delivery agree, whoever writes it."""
    path = tmp_path / "hooks.db"
    async with writer(path) as db:
        await migrate(db, path)
        with pytest.raises(sqlite3.IntegrityError, match=named):
            await db.execute(
                "INSERT INTO deliveries (seq, id, event, subscription, priority, due_at, created_at, state, finished_at)"
                f" VALUES (1, 'dlv_1', 1, 1, 1, 1, 1, {row})"
            )


def test_lock_has_one_owner(tmp_path: Path) -> None:
    """A second owner in the same process is refused with the pid of the first, and let in after it."""
    path = tmp_path / "hooks.db"
    first, second = Lock(path), Lock(path)
    first.acquire()

    with pytest.raises(AlreadyRunning, match=f"{path} is in use by pid {os.getpid()}") as caught:
        second.acquire()

    assert os.getpid() == caught.value.pid
    first.release()
    first.release()
    second.acquire()
    second.release()


def test_lock_is_looked_at_without_being_taken(tmp_path: Path) -> None:
    """A look tells of an owner, and neither makes a file nor keeps anybody out."""
    path = tmp_path / "hooks.db"
    first, second = Lock(path), Lock(path)
    first.check()
    assert [] == list(tmp_path.iterdir())
    first.acquire()
    with pytest.raises(AlreadyRunning):
        second.check()
    first.release()
    (tmp_path / "hooks.db.lock").write_bytes(b"4711\n")  # of one that was killed
    second.check()
    first.acquire()
    first.release()


def test_lock_without_a_pid(tmp_path: Path) -> None:
    """An owner that has not written its pid yet is an owner all the same."""
    path = tmp_path / "hooks.db"
    first = Lock(path)
    first.acquire()
    (tmp_path / "hooks.db.lock").write_bytes(b"")

    with pytest.raises(AlreadyRunning, match="in use by another process") as caught:
        Lock(path).acquire()

    assert caught.value.pid is None
    first.release()


def test_lock_follows_links(tmp_path: Path) -> None:
    """Two names of one file have one lock."""
    path = tmp_path / "hooks.db"
    path.touch()
    (tmp_path / "folder").symlink_to(tmp_path)
    (tmp_path / "other.db").symlink_to(path)
    first = Lock(path)
    first.acquire()

    for name in ("other.db", "folder/hooks.db"):
        with pytest.raises(AlreadyRunning):
            Lock(tmp_path / name).acquire()
    first.release()


def test_lock_forgets_a_dead_owner(tmp_path: Path) -> None:
    """A pid that a killed owner left behind, longer than ours, is not read as ours."""
    path = tmp_path / "hooks.db"
    (tmp_path / "hooks.db.lock").write_text("99999999999\n")
    lock = Lock(path)
    lock.acquire()

    assert f"{os.getpid()}\n" == (tmp_path / "hooks.db.lock").read_text()
    lock.release()
    assert "" == (tmp_path / "hooks.db.lock").read_text()


def test_lock_that_fails_is_let_go(tmp_path: Path) -> None:
    """Where the pid cannot be written the lock is not kept, so that a later start finds it free."""
    path = tmp_path / "hooks.db"
    pipe = tmp_path / "hooks.db.lock"
    os.mkfifo(pipe)  # can be locked, but not truncated
    lock, other = Lock(path), os.open(pipe, os.O_RDWR)

    with pytest.raises(OSError, match="Invalid argument"):
        lock.acquire()

    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)


@pytest.mark.row("F43")
async def test_file_of_the_first_version_keeps_what_it_has(tmp_path: Path) -> None:
    """Events and deliveries from before replays read as made by the event, for those that matched."""
    path = tmp_path / "hooks.db"
    first = migrations()[0]
    write(
        path,
        f"{first}; PRAGMA user_version = 1;"
        "INSERT INTO subscriptions VALUES (1, 's', 't', x'00', x'01', 'active', NULL, 1, 2, 3, NULL);"
        "INSERT INTO events VALUES (1, 'e', 't', 'a', x'31', 5, 6, NULL, 1, NULL);"
        "INSERT INTO deliveries (seq, id, event, subscription, state, priority, due_at, created_at, finished_at)"
        " VALUES (1, 'd', 1, 1, 'failed', 1, 7, 5, 8);",
    )
    async with writer(path) as db:
        await migrate(db, path)

    assert [("e", 0)] == rows(path, "SELECT id, chosen FROM events")
    given_up = "FROM deliveries INDEXED BY deliveries_given_up WHERE subscription = 1 AND state IN ('failed', 'cancelled')"
    assert [("d", "failed", 0)] == rows(path, f"SELECT id, state, replay {given_up}")
    assert [("ok",)] == rows(path, "PRAGMA integrity_check")


async def test_closing_ends_a_transaction_that_was_cut(tmp_path: Path) -> None:
    """Also where a cursor of it is still known, as in the traceback of what has cut it, nothing stays locked."""
    path = tmp_path / "hooks.db"
    db = await open_writer(path, synchronous="full")
    await db.execute("CREATE TABLE numbers (n INTEGER)")
    await db.execute("BEGIN IMMEDIATE")
    known = await db.execute("INSERT INTO numbers VALUES (1), (2) RETURNING n")
    await close(db)

    with closing(sqlite3.connect(path, timeout=0)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert [] == other.execute("SELECT n FROM numbers").fetchall()
    assert known is not None
