"""The file itself: who owns it, how it is opened, and which schema it has."""

from __future__ import annotations

import asyncio
import fcntl
import os
import sqlite3
from contextlib import suppress
from threading import Lock as Latch
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakSet

import aiosqlite

from hookengine.errors import AlreadyRunning, DatabaseTooNew, StartError, StorageFailed
from hookengine.store.faults import unstarted
from hookengine.store.queries import migrations, sql
from hookengine.store.whereabouts import Files

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_ENDING = 1.0  # s that a thread may take to end, at most, once it has nothing more to do; it takes less than a millisecond
_CHUNK = 64  # rows that a cursor fetches at a time: aiosqlite's own number
_BUSY = 5  # s that another program's lock is waited for
_BEGINNING = 0.001  # s that a thread may take to begin with a statement, at most; it mostly takes a tenth of that

_SYNCHRONOUS = {"normal": 1, "full": 2}

# Beside each setting the reason; section 7.3 of the research has the measurements.
_WRITER = (
    "PRAGMA foreign_keys = ON",
    "PRAGMA temp_store = FILE",  # an index that a step of the schema makes is sorted there, by the number of rows
    "PRAGMA mmap_size = 0",  # mapped I/O turns a disk error into SIGBUS
    "PRAGMA cell_size_check = ON",
    "PRAGMA secure_delete = FAST",  # ON, with which some are built, writes every page that is freed into the WAL once more
    "PRAGMA journal_size_limit = 67108864",  # what a long reader made the WAL grow to is given back
    "PRAGMA wal_autocheckpoint = 0",  # `folding` does it, on this connection only: the WAL-reset bug needs two
)
_READER = (
    "PRAGMA query_only = ON",
    "PRAGMA temp_store = MEMORY",
    "PRAGMA mmap_size = 0",
    "PRAGMA wal_autocheckpoint = 0",
)


class Lock:
    """
    The right to be the one engine on a database file: a lock on a file beside it, held for life, with our pid inside.

    The system gives it back when the process ends, however that happens. A fork of it has no part in that.
    """

    _held: ClassVar[WeakSet[Lock]] = WeakSet()  # by this process

    def __init__(self, path: Path) -> None:
        self._database = path
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Raises AlreadyRunning with the owner's pid."""
        # A symbolic link is the same file, so it has the same lock.
        descriptor = os.open(Files(self._database).lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError:
            pid = os.read(descriptor, 20).strip()
            os.close(descriptor)
            raise AlreadyRunning(str(self._database), int(pid) if pid.isdigit() else None) from None
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        self._held.add(self)

    def check(self) -> None:
        """Raises AlreadyRunning as `acquire` does, and takes nothing."""
        # Where nobody has it the file is empty: to take it for a moment would turn away who takes it just now.
        file = Files(self._database).lock
        if file.exists() and file.stat().st_size:
            self.acquire()
            self.release()

    def release(self) -> None:
        """Let the next engine in; twice does no harm."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            self.drop()

    def drop(self) -> None:
        """Close the file that is locked: no more than that, in a fork of the owner."""
        assert self._descriptor is not None  # noqa: S101  # of one that is held
        os.close(self._descriptor)
        self._descriptor = None
        self._held.discard(self)

    @classmethod
    def forked(cls) -> None:
        """We are the child: what it has of the lock would keep it when the parent is done, or killed."""
        for lock in tuple(cls._held):
            lock.drop()


os.register_at_fork(after_in_child=Lock.forked)


def check_path(path: Path) -> None:
    """Raises StartError for what cannot be a database's file, before anything is made for it."""
    if path.name == ":memory:":
        raise StartError("':memory:' is no file, and nothing is durable without: name one, for tests in a temporary directory")
    if path.is_dir():
        raise StartError(f"{path} is a directory: name a file, such as {path / 'hooks.db'}")


async def check_ours(path: Path) -> None:
    """Raises StartError where *path* is the database of another program, of which nothing is changed."""
    real = Files(path).db
    # What may not be read and written tells so when it is opened for that: here a WAL would be made with rights as few.
    is_usable = os.access(real, os.R_OK | os.W_OK, effective_ids=os.access in os.supports_effective_ids)
    if not is_usable or real.stat().st_size == 0:
        return
    try:
        is_ours = await _is_ours(real, "ro")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorname != "SQLITE_READONLY_ROLLBACK":
            raise
        # A transaction without a WAL was cut. Whoever reads the file has to take it back first.
        is_ours = await _is_ours(real, "rw")
    if not is_ours:
        raise StartError(f"{path} is no database of hookengine: it is left as it was")


async def _is_ours(real: Path, mode: str) -> bool:
    # With mode=ro the WAL of another program is not folded in when this is closed.
    db = await _connect(f"{real.as_uri()}?mode={mode}", uri=True)
    try:
        return bool(await _value(db, sql.is_ours))
    finally:
        await close(db)


def make_file(path: Path) -> bool:
    """Make the database file (0600) and its name durable; False if it exists and is not empty."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fresh = os.fstat(descriptor).st_size == 0
    finally:
        os.close(descriptor)
    if fresh:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # else a power cut may take the name away, with everything that was accepted
        finally:
            os.close(folder)
    return fresh


async def open_writer(path: Path, *, synchronous: str) -> aiosqlite.Connection:
    """The one connection that writes; refuses to start if SQLite does not take the durability that was asked for."""
    db = await _connect(path)
    try:
        if await _value(db, "PRAGMA page_count") == 0:  # in other files it has no effect, but takes the lock
            await _value(db, "PRAGMA auto_vacuum = INCREMENTAL")
        await _value(db, "PRAGMA journal_mode = WAL")
        level = _SYNCHRONOUS[synchronous]
        await _value(db, f"PRAGMA synchronous = {level}")
        for pragma in _WRITER:
            await _value(db, pragma)
        await _check_durability(db, path, level)
    except BaseException:
        await close(db)
        raise
    return db


async def _check_durability(db: aiosqlite.Connection, path: Path, level: int) -> None:
    taken = (await _value(db, "PRAGMA journal_mode"), await _value(db, "PRAGMA synchronous"))
    if taken != ("wal", level):
        raise StartError(f"{path}: SQLite runs with journal_mode, synchronous = {taken}, not with ('wal', {level})")


async def open_reader(path: Path) -> aiosqlite.Connection:
    """A connection that cannot write."""
    db = await _connect(path)
    try:
        for pragma in _READER:
            await _value(db, pragma)
        await _value(db, "PRAGMA user_version")  # opens its files, for which there may be no descriptor later
    except BaseException:
        await close(db)
        raise
    db.row_factory = sqlite3.Row
    return db


async def migrate(db: aiosqlite.Connection, path: Path) -> None:
    """Bring the schema up to date, each step in a transaction of its own; raises DatabaseTooNew for a newer file."""
    scripts = migrations()
    version = await _value(db, "PRAGMA user_version")
    if version > len(scripts):
        raise DatabaseTooNew(str(path), version, len(scripts))
    for number, script in enumerate(scripts[version:], version + 1):
        try:
            await db.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;")
        except sqlite3.Error as error:
            await db.rollback()
            raise unstarted(f"{path}: the step to schema version {number} failed: {error}", error) from error


async def _connect(path: Path | str, *, uri: bool = False) -> aiosqlite.Connection:
    made: list[sqlite3.Connection] = []

    def connect() -> sqlite3.Connection:
        # No implicit transactions; patience with the lock of another program, such as a shell; closed here if its thread dies.
        made.append(sqlite3.connect(path, isolation_level=None, timeout=_BUSY, check_same_thread=False, uri=uri))
        return made[0]

    connecting = aiosqlite.Connection(connect, iter_chunk_size=_CHUNK)
    # An interpreter that ends without a stop waits for every other thread, for ever.
    connecting._thread.daemon = True  # noqa: SLF001  # aiosqlite has no public name for it; a test of the engine holds it
    try:
        db = await connecting
    except BaseException:
        _join(connecting)
        for connection in made:  # aiosqlite does not know it yet, where the waiting for it was cancelled
            connection.close()
        raise
    db.text_factory = _text
    return db


def _text(stored: bytes) -> str:
    """A text column's value; one that is no UTF-8 must not fail the whole statement, and with it the rows beside it."""
    return stored.decode("utf-8", "replace")


def begin(db: aiosqlite.Connection, statement: str, parameters: Sequence[Any]) -> asyncio.Future[None]:
    """
    What will be once *statement* is executed, which has begun by now.

    To begin, its thread needs the interpreter's lock, which an event loop with much to do gives away after 5 ms; what comes
    then needs none. So the loop stands still for the tenth of a millisecond that it takes, and then both work.
    """
    begun = Latch()
    begun.acquire()
    connection = db._conn  # noqa: SLF001  # as above

    def work() -> None:
        begun.release()
        connection.execute(statement, parameters)

    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    db._tx.put_nowait((done, work))  # noqa: SLF001  # as above
    begun.acquire(timeout=_BEGINNING)
    return done


def works(db: aiosqlite.Connection) -> bool:
    """Whether the thread that runs its statements is there; without it every statement would be waited for, for ever."""
    return db._thread.is_alive()  # noqa: SLF001  # as above


async def close(db: aiosqlite.Connection) -> None:
    """Close *db*; in this thread, if its own has ended, and then whoever still waits for it hears StorageFailed."""
    if works(db):
        try:
            # Where the end of the event loop has cut a transaction, a cursor that somebody still knows would keep its lock.
            with suppress(sqlite3.Error):
                await db.rollback()
        finally:
            await db.close()
            _join(db)
    elif db._connection is not None:  # noqa: SLF001  # aiosqlite would leave all this to the thread
        db._connection.close()  # noqa: SLF001
        db._connection = None  # noqa: SLF001
        while not db._tx.empty():  # noqa: SLF001
            waiting, _ = db._tx.get_nowait()  # noqa: SLF001
            if waiting is not None and not waiting.done():
                waiting.set_exception(StorageFailed("a thread of the database has ended"))


def _join(db: aiosqlite.Connection) -> None:
    """Wait for the end of its thread, which goes on for a moment after it has said that all is done."""
    db._thread.join(_ENDING)  # noqa: SLF001  # as above


async def _value(db: aiosqlite.Connection, statement: str) -> Any:
    # Not with a cursor: who is cancelled meanwhile keeps it in his traceback, and with it the lock of the closed connection.
    rows = list(await db.execute_fetchall(statement))
    return rows[0][0] if rows else None
