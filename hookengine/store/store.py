"""The store as a whole: opened in order, closed in reverse."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from typing import TYPE_CHECKING

from hookengine.errors import StartError, StorageCorrupt, StorageFailed
from hookengine.failpoints import failpoint
from hookengine.matching import Index
from hookengine.store import commit
from hookengine.store.batch import RowNumbers
from hookengine.store.database import (
    Lock,
    check_ours,
    check_path,
    close,
    make_file,
    migrate,
    open_reader,
    open_writer,
    works,
)
from hookengine.store.faults import RESTORE, is_damage, is_want_of_room, raise_if_fatal, unstarted
from hookengine.store.folding import write_anew
from hookengine.store.memory import Memory
from hookengine.store.queries import sql
from hookengine.store.reader import Reader, Reading
from hookengine.store.resealing import reseal
from hookengine.store.space import Space
from hookengine.store.whereabouts import Files, Whereabouts, shared_by
from hookengine.store.writer import Writer
from hookengine.store.writing import Writing
from hookengine.vault import Vault, find_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import aiosqlite

    from hookengine.clock import Clock
    from hookengine.models import Subscription
    from hookengine.store.intake import Listener

_PULSE = 1.0  # s between two looks at whether the threads of the connections are there
CHECK_VALUE = "vault_check"  # the name of what tells whether a key is the right one


class Store:
    """
    One SQLite file, with the one writer, two readers, and the key that opens its secrets.

    *gathers* tells whether the deliveries of a subscription are put into batches.
    """

    def __init__(
        self,
        path: Path,
        *,
        clock: Clock,
        synchronous: str = "full",
        encryption_key: str | None = None,
        gathers: Callable[[Subscription], bool] = lambda _: False,
    ) -> None:
        self.path = path
        self.is_new = False
        self.unreadable: list[StorageCorrupt] = []  # rows that a start could not read, and left alone
        self.doubts: list[str] = []  # what a start found that may end badly
        self.resealed = 0  # values that a start found sealed with another key than the first
        self._clock = clock
        self._synchronous = synchronous
        self._encryption_key = encryption_key
        self._gathers = gathers
        self._lock = Lock(path)
        self._space: Space
        self._connections: list[aiosqlite.Connection] = []
        self._whereabouts: Whereabouts
        self._task: asyncio.Task[None] | None = None
        self._has_told = False  # whether `failed` has raised StorageFailed
        self.memory: Memory
        self.writer: Writer
        self.reader: Reader  # of what deliveries and publications wait for
        self.viewer: Reader  # of what people look at, which may be much

    async def open(self, listener: Listener) -> None:
        """Take the file; raises AlreadyRunning, DatabaseTooNew, KeyUnusable or StartError, and leaves nothing open then."""
        try:
            with self.starting():
                check_path(self.path)
                self._space = Space(self.path, self._clock.new_bytes)
                try:
                    await self._take(listener)
                except (OSError, sqlite3.Error) as error:
                    if not (is_want_of_room(error) and self._space.give_up()):
                        raise
                    await self._let_go()
                    await self._take(listener)
        except BaseException:
            await self._let_go()
            raise

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Raises StartError for what a start finds that it cannot use."""
        try:
            yield
        except UnicodeDecodeError as error:  # from SQLite's own words, which repeat a schema that was damaged
            raise StartError(f"{self.path} cannot be used: its schema is damaged{RESTORE}") from error
        except (OSError, sqlite3.Error) as error:
            why = "the disk is full" if is_want_of_room(error) else error
            advice = RESTORE if is_damage(error) else ""
            raise unstarted(f"{self.path} cannot be used: {why}{advice}", error) from error

    async def _take(self, listener: Listener) -> None:
        await check_ours(self.path)
        self._lock.acquire()
        await self._open(listener)

    async def _open(self, listener: Listener) -> None:
        files = Files(self.path)
        if (left := files.left_behind()) is not None:
            raise StartError(f"{self.path} {left}")
        fresh = make_file(files.db)
        write_anew(files.wal)
        db = await open_writer(files.db, synchronous=self._synchronous)
        self._connections.append(db)
        failpoint("K25-opened")
        await migrate(db, self.path)
        await commit.prepare(db)
        failpoint("K25-migrated")
        vault = await self._unlock(db, fresh=fresh)
        self.resealed = await reseal(db, vault)
        reading = await open_reader(files.db)
        self._connections.append(reading)
        viewing = await open_reader(files.db)
        self._connections.append(viewing)
        self.memory = Memory(Index(gathers=self._gathers))
        self.unreadable += await self.memory.load(reading, vault)
        (last,) = await reading.execute_fetchall(sql.last_keys)
        self.is_new = fresh
        self._whereabouts = Whereabouts(self.path)
        if (kind := shared_by(self.path)) is not None:
            self.doubts.append(f"{self.path} is on {kind}, whose locks and syncs may not hold: move it to a local disk")
        self.reader, self.viewer = Reader(Reading(reading)), Reader(Reading(viewing))
        numbers = RowNumbers(**dict(last))
        writing = Writing(db=db, clock=self._clock, vault=vault, memory=self.memory, numbers=numbers, listener=listener)
        self.writer = Writer(writing, self._space)
        # Not in a TaskGroup: a sibling's failure would cancel it in the middle of a transaction.
        self._task = asyncio.create_task(self.writer.run(), name="hookengine-writer")

    async def failed(self) -> None:
        """Return when the writer has ended; raises what ended it, or StorageFailed where a file or thread of it is gone."""
        assert self._task is not None  # noqa: S101  # open() made it
        try:
            await self._watch(self._task)
            await self._task
        except StorageFailed:
            self._has_told = True
            raise

    async def close(self) -> None:
        """
        Let the writer finish what it was sent, fold the WAL back into the file, and let the next engine in.

        Raises StorageFailed where the storage fails over that, and `failed` has not told of it.
        """
        try:
            if self._task is not None:
                self.writer.close()
                await self._finish(self._task)
        finally:
            self._task = None
            await self._let_go()

    async def _finish(self, writing: asyncio.Task[None]) -> None:
        try:
            await self._watch(writing)
            if not writing.cancelled():
                writing.result()
        except StorageFailed:
            if not self._has_told:
                raise
            return
        failpoint("K26-drained")
        if not writing.cancelled():
            await self._fold()

    async def _fold(self) -> None:
        """Raises StorageFailed if that is what this shows."""
        try:
            await self._connections[0].execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:  # the WAL stays, and is read at the next start
            raise_if_fatal(error)
        failpoint("K23-folded")

    async def _watch(self, writing: asyncio.Task[None]) -> None:
        """Return when the writer has ended; raises StorageFailed then, if it was cut or what it works with is gone first."""
        while not writing.done():
            await asyncio.wait([writing], timeout=_PULSE)
            gone = self._whereabouts.lost() or (
                None if all(works(db) for db in self._connections) else "a thread of the database has ended"
            )
            if gone is not None and not writing.done():
                failed = StorageFailed(gone)
                self.writer.fail(failed)
                if not works(self._connections[0]):
                    writing.cancel()  # it waits for ever: there is nothing in it that could be cut
                await asyncio.wait([writing])
                raise failed
        cut = None if writing.cancelled() else writing.exception()
        if cut is not None and not isinstance(cut, Exception):  # the event loop has raised it: once is enough
            raise StorageFailed(f"the writer was cut by {cut!r}")

    async def _unlock(self, db: aiosqlite.Connection, *, fresh: bool) -> Vault:
        """
        The vault, once its key has opened the check value.

        A start that was cut between the key's making and the check value's has stored nothing yet: it may begin again.
        """
        found = list(await db.execute_fetchall(sql.meta, (CHECK_VALUE,)))
        keys = find_keys(
            self.path.with_name("secret.key"),
            self._encryption_key,
            may_create=fresh or not found,
            new_bytes=self._clock.new_bytes,
        )
        vault = Vault(keys, self._clock.new_bytes)
        if found:
            vault.check(found[0][0])
        else:
            await db.execute(sql.set_meta, (CHECK_VALUE, vault.check_value()))
        return vault

    async def _let_go(self) -> None:
        """Close what is open, then let the next engine in: whatever comes between, as the end of the event loop may."""
        async with contextlib.AsyncExitStack() as stack:
            stack.callback(self._lock.release)
            while self._connections:
                stack.push_async_callback(close, self._connections.pop(0))
