"""
The one task that writes: it groups what waits into commits, without a timer.

While one commit runs, the next batch gathers. A change of one's own runs alone in its transaction. The task is never
cancelled, because a cancelled statement still runs, and could leave a transaction open: it is ended by a flag.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from hookengine.errors import HookEngineError, Overloaded, Stopping, StorageFailed, StorageUnavailable
from hookengine.store import rows
from hookengine.store.commits import Commits
from hookengine.store.condition import Condition
from hookengine.store.faults import PASSING, raise_if_fatal, untaken
from hookengine.store.folding import Folding, rows_in
from hookengine.store.queries import sql
from hookengine.store.transactions import Transactions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hookengine.gathering import Compose
    from hookengine.scheduler import Refill
    from hookengine.store.intake import Answer, Draft, Key, Receipt, Result
    from hookengine.store.space import Space
    from hookengine.store.transaction import Transaction
    from hookengine.store.writing import Writing

T = TypeVar("T")

_REST = 0.1  # s after a refill that could not be read
_PROBE = ("probe", bytes(65_536))  # a value that needs new pages, so that a full disk does not take it


class Writer:
    """
    Owns the write connection, and what is kept in memory.

    Others send it work, by methods that append and wake. What it has committed it tells the listener itself.
    """

    def __init__(self, writing: Writing, space: Space) -> None:
        self._writing = writing
        self._space = space
        self._loop = asyncio.get_running_loop()
        self._work = asyncio.Event()
        self._folding = Folding(writing.db, every=rows_in(space.of_wal()))
        self._condition = Condition(space, listener=writing.listener, now=self._loop.time, look_again=self._work.set)
        self._transactions = Transactions(writing, self._condition, space)
        self._commits = Commits(writing, self._condition, space, self._transactions.park)
        self._refills: deque[Refill] = deque()
        self._closing = False
        self._failed: StorageFailed | None = None

    async def publish(
        self, drafts: list[Draft], *, key: Key | None = None, render: Callable[[list[Receipt]], bytes] | None = None
    ) -> list[Receipt] | Answer:
        """
        Accept *drafts*, all or none: returned once they are on disk, with their deliveries and *key*.

        A repetition with *key* gets the Answer whose body *render* made for the first. A cancelled caller may have been heard
        all the same. Raises EventExists, IdempotencyMismatch, PayloadTooLarge, Overloaded, StorageUnavailable, StorageFailed.
        """
        try:
            publication = self.submit(drafts, key=key, render=render)
        except (Overloaded, StorageUnavailable):
            await asyncio.sleep(0)  # whoever tries again without a pause must not keep the loop from making room
            raise
        accepted: list[Receipt] | Answer = await publication
        return accepted

    def submit(
        self, drafts: list[Draft], *, key: Key | None = None, render: Callable[[list[Receipt]], bytes] | None = None
    ) -> asyncio.Future[Any]:
        """The same, without waiting: what `publish` will return."""
        self._check()
        publication = self._commits.submit(drafts, key, render)
        self._work.set()
        return publication

    async def change(self, step: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run *step* alone in a transaction; what it put into `after` follows the commit at once."""
        self._check()
        done = self._transactions.add(step)
        self._work.set()
        return await done

    def record(self, *results: Result) -> None:
        """Store *results*, those of one request, in one commit, however long that takes."""
        self._commits.results.append(results)
        self._work.set()

    def refill(self, refill: Refill) -> None:
        """Read *refill*, after every result recorded before."""
        self._refills.append(refill)
        self._work.set()

    def park(self, unreadable: list[rows.Unreadable]) -> None:
        """Give up deliveries whose rows cannot be read, and then tell of each: the rest flows."""
        self._transactions.park(unreadable)
        self._work.set()

    async def followed(self, event: int) -> None:
        """Return once memory has what the file may have already of attempts at an event's deliveries (its seq)."""
        await self._commits.followed(event)

    def compose(self, asked: Compose) -> None:
        """Put what waits for that into batches, after every publication that waits now."""
        self._transactions.compose(asked)
        self._work.set()

    def close(self) -> None:
        """Let `run` end once everything that was sent is done."""
        self._closing = True
        self._commits.close()
        self._work.set()

    def fail(self, failed: StorageFailed) -> None:
        """Let `run` end as `close` does, and whoever asks for something hear of *failed*."""
        self._failed = failed
        self.close()

    async def run(self) -> None:
        """Work until closed; raises StorageFailed if the storage failed for good."""
        try:
            while not (self._closing and self._idle):
                if self._condition.must_probe and not self._commits:
                    await self._probe()
                elif self._idle:
                    await self._wait()
                else:
                    await self._turn()
                    if not self._commits.publications or self._condition.is_short:
                        # Whoever waited for this commit sends its next piece of work now: that belongs into the next commit,
                        # not into one after a commit of what else had gathered.
                        await asyncio.sleep(0)
                    if not self._commits:
                        self._commits.tell()
        except StorageFailed as failed:
            self._failed = failed
            raise
        except Exception as error:
            # A fault of ours, in a listener for instance: something is committed and not told, which only a new start reads.
            self._failed = StorageFailed(f"the writer failed: {error!r}")
            raise self._failed from error
        except (KeyboardInterrupt, SystemExit) as cut:  # it may be anywhere in a transaction
            self._failed = StorageFailed(f"the writer was cut by {cut!r}")
            raise
        finally:
            self._closing = True
            self._commits.end_recording()
            self._refuse_all(self._failed or Stopping())

    @property
    def has_room(self) -> bool:
        """Whether an event that comes now can be stored, as far as is known."""
        return not self._condition.rest and self._condition.lack() is None

    @property
    def waiting(self) -> int:
        """Events that wait for their commit, also for the one under way."""
        return self._commits.waiting

    def _check(self) -> None:
        if self._failed is not None:
            raise self._failed.with_traceback(None)  # else it would grow with every caller
        if self._closing:
            raise Stopping

    @property
    def _idle(self) -> bool:
        return not (self._commits or self._transactions or self._refills)

    async def _wait(self) -> None:
        """Wait for work, or for the time to probe, or to look if there is room again."""
        self._work.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._condition.wake_at):
                await self._work.wait()
        if self._condition.is_short and self._condition.lack() is not None and self._space.is_tight:
            await self._empty_wal()

    async def _turn(self) -> None:
        """
        Results and publications in one commit, then the changes, the batches, the refills.

        Batches and refills see the results sent before them: they wait while some of these are left for the next commit.
        """
        self._condition.new_turn()
        results, publications = self._commits.take()
        changes = self._transactions.take_changes()
        compositions, refills = [], []
        if not self._commits.results:
            compositions, refills = self._transactions.take_compositions(), list(self._refills)
            self._refills.clear()
        if results or publications:
            size = await self._commits.commit(results, publications)
            self._folding.wrote(size)
            self._space.wrote(size)
        if changes or compositions or refills or self._folding.is_due:
            self._commits.tell()
        if self._condition.lock is None:
            await self._transactions.change_all(changes)
        if self._condition.lock is not None:
            self._transactions.put_off(compositions)
        elif compositions:
            await self._transactions.compose_all(compositions)
        for refill in refills:
            await self._refill(refill)
        self._heed_lock()
        if self._folding.is_due:
            await self._fold()
        if self._space.is_tight:
            await self._empty_wal()

    async def _probe(self) -> None:
        """Try if commits work again, because those who heard that they fail send nothing that would show it."""
        if self._space.is_full:  # by the WAL, it may be
            await self._empty_wal()
        db = self._writing.db
        try:
            await self._writing.begin()
            await db.execute(sql.set_meta, _PROBE)
            await db.execute(sql.drop_meta, _PROBE[:1])
            await db.commit()
        except PASSING as error:
            await self._writing.roll_back(error)
            self._condition.failed(error)
            self._heed_lock()
        else:
            self._condition.worked()

    def _heed_lock(self) -> None:
        """Where another program's lock was waited for in vain, whoever waits would wait as long, one after the other."""
        if self._condition.lock is not None:
            self._refuse_all(untaken(self._condition.lock))

    async def _refill(self, refill: Refill) -> None:
        seq, priority, mark, limit = refill
        listener = self._writing.listener
        try:
            found = list(await self._writing.db.execute_fetchall(sql.refill, (seq, priority, *mark, limit + 1)))
        except (sqlite3.Error, MemoryError) as error:
            raise_if_fatal(error)
            await asyncio.sleep(_REST)  # it is asked again as soon as the lane looks again
            listener.refilled(refill, [], mark)
            return
        deliveries, unreadable = rows.deliveries(found[:limit])
        beyond = found[limit] if len(found) > limit else None
        if beyond is not None and not isinstance(beyond[6], int):  # nor is there a time in what comes after it
            unreadable += rows.deliveries([beyond])[1]
            beyond = None
        listener.refilled(refill, deliveries, None if beyond is None else (beyond[6], beyond[0]))
        self._transactions.park(unreadable)

    async def _fold(self) -> None:
        try:
            grown = await self._folding.fold()
        except (sqlite3.Error, MemoryError) as error:
            raise_if_fatal(error)
            self._writing.listener.unreadable("folding the WAL", error)  # it grows meanwhile
        else:
            if grown is not None:
                self._writing.listener.unreadable("folding the WAL", StorageUnavailable(grown))

    async def _empty_wal(self) -> None:
        self._commits.tell()
        spare = 0
        try:
            spare = await self._folding.empty()
        except (sqlite3.Error, MemoryError) as error:
            raise_if_fatal(error)  # else it is as full as it was
        self._space.emptied(spare)

    def _refuse_all(self, error: HookEngineError) -> None:
        """Whoever waits hears *error*: nobody waits for ever for a task that has ended, or for one another's lock."""
        self._commits.refuse(error)
        self._transactions.refuse(error)
