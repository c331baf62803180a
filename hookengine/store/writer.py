"""
The one task that writes: it groups what waits into commits, without a timer.

While one commit runs, the next batch gathers, and the listener hears what became of the deliveries of the one before. A change
of one's own runs alone in its transaction. The task is never cancelled, because a cancelled statement still runs, and could
leave a transaction open: it is ended by a flag.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec.structs import replace

from hookengine import retry
from hookengine.errors import HookEngineError, Overloaded, Stopping, StorageFailed, StorageUnavailable
from hookengine.failpoints import failpoint
from hookengine.store import batches, changes, lines, rows
from hookengine.store.batch import Batch, Keys
from hookengine.store.database import begin
from hookengine.store.faults import PASSING, is_lock, is_want_of_room, raise_if_fatal, untaken
from hookengine.store.folding import Folding, rows_in
from hookengine.store.intake import KEY_LIFETIME, Answer, Draft, Key, Listener, Receipt, Result
from hookengine.store.publications import MOST_DELIVERIES, Publication, Publications, fail, refuse
from hookengine.store.queries import sql
from hookengine.store.space import EVERY
from hookengine.store.transaction import Transaction

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import aiosqlite

    from hookengine.clock import Clock
    from hookengine.gathering import Compose, Composed
    from hookengine.models import Delivery
    from hookengine.scheduler import Refill
    from hookengine.store.memory import Memory
    from hookengine.store.space import Space
    from hookengine.vault import Vault

    _Change = tuple[Callable[[Transaction], Awaitable[Any]], asyncio.Future[Any]]  # what is to be done, and who waits for it

T = TypeVar("T")

_MOST_CHANGES = 8  # between two commits: each has a sync of its own, for which publishers wait
_MOST_RESULTS = 2_000  # of one commit, about, so that it takes some 50 ms: 256 slots with batches of 100 hold 25,600
_SHORTEST_REST = 0.1  # s after a failed commit, doubling to the longest
_LONGEST_REST = 2.0  # so that work goes on within 5 s of there being space

_PROBE = ("probe", bytes(65_536))  # a value that needs new pages, so that a full disk does not take it


class Writer:
    """
    Owns the write connection, and what is kept in memory.

    Others send it work, by methods that append and wake. What it has committed it tells the listener itself.
    """

    def __init__(
        self,
        db: aiosqlite.Connection,
        *,
        clock: Clock,
        vault: Vault,
        memory: Memory,
        keys: Keys,
        listener: Listener,
        space: Space,
    ) -> None:
        self.vault = vault
        self.memory = memory  # changed here only, by what is run here
        self._db = db
        self._clock = clock
        self._keys = keys
        self._folding = Folding(db, every=rows_in(space.of_wal()))
        self._space = space
        self._is_short = False  # of that, as was last told
        self._is_cramped = False  # whether a write has found no room since the WAL was last emptied
        self.listener = listener
        self._loop = asyncio.get_running_loop()
        self._publications = Publications()
        self._results: deque[tuple[Result, ...]] = deque()
        self._changes: deque[_Change] = deque()
        self._refills: deque[Refill] = deque()
        self._compositions: deque[Compose] = deque()
        self._recording: list[tuple[Result, ...]] = []  # those of the commit that is being made
        self._followed = asyncio.Event()  # set once memory has what follows from these, or their commit has failed
        self._untold: tuple[Batch, list[Delivery]] | None = None  # the last commit, and who leads its lines now
        self._in_hand: list[asyncio.Future[Any]] = []  # who waits for the present turn
        self._work = asyncio.Event()
        self._closing = False
        self._failed: StorageFailed | None = None
        self._rest = 0.0  # s to wait before the next commit is tried; above 0 while commits fail
        self._probe_at = 0.0  # loop time: when one is tried without a need, while commits fail
        self._locked: Exception | None = None  # another program's lock, for which the present turn has waited in vain

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
        if self._publications.is_full:
            raise Overloaded
        if self._rest and self._results:  # for which the writer waits, and whoever comes now would have to wait too
            raise StorageUnavailable("the storage does not take writes: results wait for it")
        publication = Publication(drafts, key, render, self._loop.create_future())
        failpoint("K02-checked")
        self._publications.add(publication)
        self._work.set()
        return publication.done

    async def change(self, step: Callable[[Transaction], Awaitable[T]]) -> T:
        """Run *step* alone in a transaction; what it put into `after` follows the commit at once."""
        self._check()
        done: asyncio.Future[T] = self._loop.create_future()
        self._changes.append((step, done))
        self._work.set()
        return await done

    def record(self, *results: Result) -> None:
        """Store *results*, those of one request, in one commit, however long that takes."""
        self._results.append(results)
        self._work.set()

    def refill(self, refill: Refill) -> None:
        """Read *refill*, after every result recorded before."""
        self._refills.append(refill)
        self._work.set()

    def park(self, unreadable: list[rows.Unreadable]) -> None:
        """Give up deliveries whose rows cannot be read, and then tell of each: the rest flows."""

        def tell(done: asyncio.Future[set[int]]) -> None:
            unwritten = done.exception() is not None  # then they are found again
            for each in unreadable:
                if unwritten or each.seq in done.result():  # or another one has found it before
                    self.listener.unreadable(each.where, each.error)

        if unreadable:
            done: asyncio.Future[set[int]] = self._loop.create_future()
            done.add_done_callback(tell)
            self._changes.append((changes.park([each.seq for each in unreadable]), done))
            self._work.set()

    async def followed(self, event: int) -> None:
        """Return once memory has what the file may have already of attempts at an event's deliveries (its seq)."""
        if any(result.before.event == event for group in self._recording for result in group):
            await self._followed.wait()

    def compose(self, asked: Compose) -> None:
        """Put what waits for that into batches, after every publication that waits now."""
        self._compositions.append(asked)
        self._work.set()

    def close(self) -> None:
        """Let `run` end once everything that was sent is done."""
        self._closing = True
        self._work.set()

    def fail(self, failed: StorageFailed) -> None:
        """Let `run` end as `close` does, and whoever asks for something hear of *failed*."""
        self._failed = failed
        self.close()

    async def run(self) -> None:
        """Work until closed; raises StorageFailed if the storage failed for good."""
        try:
            while not (self._closing and self._idle()):
                if self._must_probe():
                    await self._probe()
                elif self._idle():
                    await self._wait()
                else:
                    await self._turn()
                    if not self._publications or self._is_short:
                        # Whoever waited for this commit sends its next piece of work now: that belongs into the next commit,
                        # not into one after a commit of what else had gathered.
                        await asyncio.sleep(0)
                    if not (self._publications or self._results):
                        self._tell()
        except StorageFailed as failed:
            self._failed = failed
            raise
        except Exception as error:
            # A fault of ours, in a listener for instance: something is committed and not told, which only a new start reads.
            self._failed = StorageFailed(f"the writer failed: {error!r}")
            raise self._failed from error
        finally:
            self._closing = True
            self._end_recording()
            self._refuse_all(self._failed or Stopping())

    @property
    def has_room(self) -> bool:
        """Whether an event that comes now can be stored, as far as is known."""
        return not self._rest and self._lack() is None

    @property
    def waiting(self) -> int:
        """Events that wait for their commit."""
        return self._publications.count

    def _check(self) -> None:
        if self._failed is not None:
            raise self._failed.with_traceback(None)  # else it would grow with every caller
        if self._closing:
            raise Stopping

    def _idle(self) -> bool:
        return not (self._publications or self._results or self._changes or self._refills or self._compositions)

    async def _wait(self) -> None:
        """Wait for work, or for the time to probe, or to look if there is room again."""
        self._work.clear()
        look_at = self._loop.time() + EVERY if self._is_short else None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._probe_at if self._rest else look_at):
                await self._work.wait()
        if self._is_short and self._lack() is not None and self._wants_room:
            await self._empty_wal()

    def _must_probe(self) -> bool:
        """Whether to try if commits work again, because those who heard that they fail send nothing that would show it."""
        return self._rest > 0 and not (self._publications or self._results) and self._loop.time() >= self._probe_at

    async def _turn(self) -> None:
        """
        Results and publications in one commit, then the changes, the batches, the refills.

        Batches and refills see the results sent before them: they wait while some of these are left for the next commit.
        """
        results = self._some_results()
        publications = self._with_room(self._publications.take())
        changes = [self._changes.popleft() for _ in range(min(_MOST_CHANGES, len(self._changes)))]
        compositions = [] if self._results else _all(self._compositions)
        refills = [] if self._results else _all(self._refills)
        self._in_hand = [publication.done for publication in publications] + [done for _, done in changes]
        self._locked = None
        if results or publications:
            await self._commit(results, publications)
        if changes or compositions or refills or self._folding.is_due:
            self._tell()
        if self._locked is None:  # else they have heard of it
            await self._change_all(changes)
        if self._locked is not None:
            for each in compositions:
                self.listener.composed(each, None)
        elif compositions:
            await self._compose(compositions)
        for refill in refills:
            await self._refill(refill)
        self._in_hand = []
        if self._folding.is_due:
            await self._fold()
        if self._wants_room:
            await self._empty_wal()

    def _some_results(self) -> list[tuple[Result, ...]]:
        """Those that have waited longest: nearly always all, because each request holds a slot of the scheduler."""
        if sum(map(len, self._results)) <= _MOST_RESULTS:
            return _all(self._results)
        taken: list[tuple[Result, ...]] = []
        count = 0
        while count < _MOST_RESULTS:
            taken.append(self._results.popleft())
            count += len(taken[-1])
        return taken

    @property
    def _wants_room(self) -> bool:
        """Whether the WAL has to give its room back: a write has found none, or a look at the disk little."""
        return self._is_cramped or self._space.is_low

    def _with_room(self, publications: list[Publication]) -> list[Publication]:
        """*publications*; none, and who waits for them hears why, where they would take the last of the disk."""
        if not publications:
            return []
        lack = self._lack()
        if lack is None:
            return publications
        refuse(publications, lack)
        return []

    def _lack(self) -> StorageUnavailable | None:
        """What an event that comes now is refused with for want of room; the listener hears when that begins and ends."""
        found = self._space.lack(self._loop.time())
        lack = None if found is None else StorageUnavailable(f"the storage takes no events: {found}")
        if self._is_short != (lack is not None):
            self._is_short = lack is not None
            self._work.set()  # it looks again by itself
            self.listener.room(lack)
        return lack

    async def _commit(self, results: list[tuple[Result, ...]], publications: list[Publication]) -> None:
        self._recording = results
        self._followed.clear()
        try:
            batch, answers = await self._stage(results, publications)
            failpoint("K03-staged")
            committed = begin(self._db, sql.commit, batch.commit(self.vault).values())
        except Exception as error:  # noqa: BLE001  # whatever it is: it must not stop the task
            await self._not_committed(error, results, publications)
            return
        self._tell()
        try:
            await committed
            failpoint("K13-committed")
        except Exception as error:  # noqa: BLE001  # also a row that SQLite refuses
            await self._not_committed(error, results, publications)
            return
        # Whatever happens from here on, nobody must hear that it was not.
        size = sum(publication.size for publication in publications)
        self._folding.wrote(size)
        self._space.wrote(size)
        heads, unreadable = await lines.heads(self._db, batch.advanced) if batch.advanced else ([], [])
        self._follow(batch, answers, heads)
        self.park(unreadable)

    async def _not_committed(
        self, error: Exception, results: list[tuple[Result, ...]], publications: list[Publication]
    ) -> None:
        self._end_recording()
        self._tell()
        await self._roll_back(error)
        if isinstance(error, PASSING):
            await self._pause(error, results, publications)
        else:
            await self._one_by_one(results, publications, error)

    async def _stage(
        self, results: list[tuple[Result, ...]], publications: list[Publication]
    ) -> tuple[Batch, list[tuple[Publication, list[Receipt] | Answer | HookEngineError]]]:
        now = self._clock.now()
        batch = Batch(now=now, clock=self._clock, keys=self._keys, index=self.memory.index, health=self.memory.health)
        await self._look_up(batch, publications, now)  # first, because what results are told by stands in lines, too
        for group in results:
            batch.add_results([self._up_to_date(result) for result in group])
        answers: list[tuple[Publication, list[Receipt] | Answer | HookEngineError]] = []
        events, announced = batch.event_count, len(batch.accepted)  # what the results are told by
        for position, publication in enumerate(publications):
            if len(batch.accepted) - announced >= MOST_DELIVERIES:
                self._publications.put_back(publications[position:])
                del publications[position:]
                break
            try:
                answer = batch.add_publication(publication.drafts, publication.key, publication.render)
            except HookEngineError as refused:
                answers.append((publication, refused))
            else:
                answers.append((publication, answer))
        self._publications.made(batch.event_count - events, len(batch.accepted) - announced)
        return batch, answers

    def _up_to_date(self, result: Result) -> Result:
        """*result* as it applies to the delivery as it is now: a change may have been committed since the attempt ended."""
        taken = result.before
        current = self.listener.current(taken)
        if current is taken:
            return result
        return replace(result, before=current, after=retry.overruled(taken, result.after, current))

    async def _look_up(self, batch: Batch, publications: list[Publication], now: int) -> None:
        """
        Tell *batch* which keys and event ids are taken.

        `executemany` would only say that some row of many was a duplicate; this says which.
        """
        keys = [publication.key for publication in publications if publication.key is not None]
        chosen = [(d.id, d.tenant) for publication in publications for d in publication.drafts if d.id is not None]
        answers, seen = {}, {}
        if keys:
            kept_since = now - KEY_LIFETIME
            found = await self._db.execute_fetchall(sql.known_keys, (rows.json_text([key.scope for key in keys]), kept_since))
            answers = {tuple(row[:4]): (row[4], Answer(status=row[5], body=row[6])) for row in found}
        if chosen:
            found = await self._db.execute_fetchall(sql.known_events, (rows.json_text(chosen),))
            seen = dict(map(rows.receipt, found))
        asked = lines.wanted((draft for publication in publications for draft in publication.drafts), self.memory.index)
        batch.know(answers, seen, await lines.standing(self._db, asked | self.memory.index.our_lines))

    def _follow(
        self,
        batch: Batch,
        answers: list[tuple[Publication, list[Receipt] | Answer | HookEngineError]],
        heads: list[Delivery],
    ) -> None:
        """What a commit entails, before anybody else can run; for its deliveries there is time until `_tell`."""
        self._works()
        self.listener.committed(batch.event_count, len(batch.accepted))
        self.memory.health.update(batch.health)
        for subscription in batch.disabled.values():
            before = self.memory.index.get(subscription.seq)
            self.memory.index.put(subscription)
            self.listener.changed(before, subscription)
        self._untold = (batch, heads)
        self._end_recording()
        failpoint("K05-unanswered")
        for publication, answer in answers:
            if isinstance(answer, HookEngineError):
                fail(publication.done, answer)
            elif not publication.done.done():
                publication.done.set_result(answer)

    def _end_recording(self) -> None:
        self._recording = []
        self._followed.set()

    def _tell(self) -> None:
        """
        Tell what became of the deliveries of the last commit, unless that is done.

        Best once the next one has begun, for which SQLite has a core of its own; but before anything else is read or written.
        """
        if self._untold is None:
            return
        (batch, heads), self._untold = self._untold, None
        if batch.recorded:
            self.listener.recorded(batch.recorded)
        for head in heads:
            self.listener.promoted(head)
        if batch.accepted:
            self.listener.accepted(batch.accepted)

    async def _one_by_one(self, results: list[tuple[Result, ...]], publications: list[Publication], error: Exception) -> None:
        """One of them is guilty: give each a transaction of its own, so that only the guilty one fails."""
        if len(results) + len(publications) > 1:
            for position, group in enumerate(results):
                await self._commit([group], [])
                if self._locked is not None:
                    self._set_aside(results[position + 1 :], self._locked)
                    return
            for publication in publications:
                await self._commit([], [publication])
                if self._locked is not None:  # of which the others have heard
                    return
            return
        for group in results:
            self.listener.unrecorded(group, error)
        refuse(publications, StorageUnavailable(f"the event cannot be stored: {error}"))

    async def _pause(self, error: Exception, results: list[tuple[Result, ...]], publications: list[Publication]) -> None:
        """Publishers hear of it at once; results must not be lost, so they wait for better times."""
        refuse(publications, untaken(error))
        self._fails(error)
        self._set_aside(results, error)
        if results and not (self._closing or self._locked or (self._is_cramped and self._space.give_up())):
            await asyncio.sleep(self._rest)

    def _set_aside(self, results: list[tuple[Result, ...]], error: Exception) -> None:
        """Keep *results* for better times; where none come, these attempts are made again after the next start."""
        if self._closing:
            for group in results:
                self.listener.unrecorded(group, error)
        else:
            self._results.extendleft(reversed(results))

    async def _probe(self) -> None:
        self._probe_at = self._loop.time() + self._rest
        if self._is_cramped:  # by the WAL, it may be
            await self._empty_wal()
        try:
            await self._db.execute("BEGIN IMMEDIATE")
            await self._db.execute(sql.set_meta, _PROBE)
            await self._db.execute(sql.drop_meta, _PROBE[:1])
            await self._db.commit()
        except PASSING as error:
            await self._roll_back(error)
            self._fails(error)
        else:
            self._works()

    def _fails(self, error: Exception) -> None:
        self.listener.storage(error)
        self._is_cramped = is_want_of_room(error)
        self._rest = min(max(self._rest * 2, _SHORTEST_REST), _LONGEST_REST)
        self._probe_at = self._loop.time() + self._rest
        if is_lock(error):  # for which whoever waits would wait as long, one after the other
            self._locked = error
            self._refuse_all(untaken(error))

    def _works(self) -> None:
        if self._rest and self._space.has_reserve():
            self._rest = 0.0
            self.listener.storage(None)

    async def _change_all(self, changes: list[_Change]) -> None:
        """Each of *changes* in a transaction of its own; where one cannot begin, the rest need not wait for that as well."""
        for position, (step, done) in enumerate(changes):
            try:
                await self._db.execute("BEGIN IMMEDIATE")
            except PASSING as error:
                await self._roll_back(error)
                self._fails(error)
                for _, waiting in changes[position:]:
                    fail(waiting, untaken(error))
                return
            except Exception as error:  # noqa: BLE001  # a fault of ours: the task goes on
                await self._roll_back(error)
                fail(done, error)
            else:
                await self._change(step, done)

    async def _change(self, step: Callable[[Transaction], Awaitable[T]], done: asyncio.Future[T]) -> None:
        """Do *step* in the transaction that has begun, and commit it."""
        transaction = Transaction(self, self._db, self._keys, self._clock)
        try:
            await transaction.stand(self.memory.index.our_lines)
            value = await step(transaction)
            await self._db.commit()
        except PASSING as error:
            await self._roll_back(error)
            if is_want_of_room(error):  # before it is tried again, the WAL's room and the reserve's are given back
                self._is_cramped = True
                self._space.give_up()
            fail(done, untaken(error))
        except Exception as error:  # noqa: BLE001  # the caller's, whatever it is: the task goes on
            await self._roll_back(error)
            fail(done, error)
        else:
            made = len(transaction.announced) + transaction.replayed
            self.listener.committed(transaction.announcer.event_count, made)
            for follow in transaction.after:
                follow()
            if transaction.announced:
                self.listener.accepted(transaction.announced)
            self.park(transaction.unreadable)
            if not done.done():
                done.set_result(value)

    async def _compose(self, asked: list[Compose]) -> None:
        """As many of *asked* as one transaction should do, the others next; what cannot be stored now is asked for again."""
        transaction = Transaction(self, self._db, self._keys, self._clock)
        composed: list[Composed] = []
        most = self._db.total_changes + batches.MOST_ROWS
        try:
            await self._db.execute("BEGIN IMMEDIATE")
            for each in asked:
                composed.append(await batches.compose(transaction, each))
                if self._db.total_changes >= most:
                    break
            await self._db.commit()
        except Exception as error:  # noqa: BLE001  # whatever it is: the task goes on
            await self._roll_back(error)
            if isinstance(error, PASSING):
                self._fails(error)
            else:
                self.listener.unreadable("what waits for a batch", error)
            for each in asked:
                self.listener.composed(each, None)
        else:
            self._compositions.extendleft(reversed(asked[len(composed) :]))
            for each, made in zip(asked, composed, strict=False):
                self.listener.composed(each, made)
            self.park(transaction.unreadable)

    async def _refill(self, refill: Refill) -> None:
        seq, priority, mark, limit = refill
        try:
            found = list(await self._db.execute_fetchall(sql.refill, (seq, priority, *mark, limit + 1)))
        except (sqlite3.Error, MemoryError) as error:
            raise_if_fatal(error)
            await asyncio.sleep(_SHORTEST_REST)  # it is asked again as soon as the lane looks again
            self.listener.refilled(refill, [], mark)
            return
        deliveries, unreadable = rows.deliveries(found[:limit])
        beyond = found[limit] if len(found) > limit else None
        if beyond is not None and not isinstance(beyond[6], int):  # nor is there a time in what comes after it
            unreadable += rows.deliveries([beyond])[1]
            beyond = None
        self.listener.refilled(refill, deliveries, None if beyond is None else (beyond[6], beyond[0]))
        self.park(unreadable)

    async def _fold(self) -> None:
        try:
            grown = await self._folding.fold()
        except (sqlite3.Error, MemoryError) as error:
            raise_if_fatal(error)
            self.listener.unreadable("folding the WAL", error)  # it grows meanwhile
        else:
            if grown is not None:
                self.listener.unreadable("folding the WAL", StorageUnavailable(grown))

    async def _empty_wal(self) -> None:
        self._tell()
        self._is_cramped = False
        spare = 0
        try:
            spare = await self._folding.empty()
        except (sqlite3.Error, MemoryError) as error:
            raise_if_fatal(error)  # else it is as full as it was
        self._space.emptied(spare)

    async def _roll_back(self, error: Exception) -> None:
        raise_if_fatal(error)
        if self._db.in_transaction:
            await self._db.rollback()

    def _refuse_all(self, error: HookEngineError) -> None:
        """Whoever waits hears *error*: nobody waits for ever for a task that has ended, or for one another's lock."""
        self._publications.refuse(error)
        for done in (*self._in_hand, *(done for _, done in self._changes)):
            fail(done, error)
        self._changes.clear()


def _all(queue: deque[T]) -> list[T]:
    taken = list(queue)
    queue.clear()
    return taken
