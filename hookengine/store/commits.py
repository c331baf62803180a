"""
What waits for a commit, results and publications, and how they are committed together.

The listener hears what became of the deliveries of a commit once the next one has begun.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from hookengine import retry
from hookengine.errors import HookEngineError, Overloaded, StorageUnavailable
from hookengine.failpoints import failpoint
from hookengine.store import answers, lines, rows
from hookengine.store.batch import Batch
from hookengine.store.database import begin
from hookengine.store.faults import PASSING, untaken
from hookengine.store.publications import MOST_DELIVERIES, Publication, Publications, fail, refuse
from hookengine.store.queries import sql

if TYPE_CHECKING:
    from collections.abc import Callable

    from hookengine.models import Delivery
    from hookengine.store.condition import Condition
    from hookengine.store.intake import Answer, Draft, Key, Receipt, Result
    from hookengine.store.space import Space
    from hookengine.store.writing import Writing

    _Answered = tuple[Publication, list[Receipt] | Answer | HookEngineError]

_MOST_RESULTS = 2_000  # of one commit, about, so that it takes some 50 ms: 256 slots with batches of 100 hold 25,600


class Commits:
    """
    A queue of publications, one of results, and the commit that is made of their first ones.

    Publications are refused where the storage does not take them. Results must not be lost: they wait for better times. *park*
    takes the rows that a commit has found unreadable.
    """

    def __init__(
        self, writing: Writing, condition: Condition, space: Space, park: Callable[[list[rows.Unreadable]], None]
    ) -> None:
        self.publications = Publications()
        self.results: deque[tuple[Result, ...]] = deque()  # those of one request together
        self._writing = writing
        self._condition = condition
        self._space = space
        self._park = park
        self._in_hand: list[Publication] = []  # those of the present turn
        self._recording: list[tuple[Result, ...]] = []  # those of the commit that is being made
        self._followed = asyncio.Event()  # set once memory has what follows from these, or their commit has failed
        self._untold: tuple[Batch, list[Delivery]] | None = None  # the last commit, and who leads its lines now
        self._is_closing = False

    def __bool__(self) -> bool:
        return bool(self.publications or self.results)

    @property
    def waiting(self) -> int:
        """Events that wait for a commit, the present one or a later one."""
        in_hand = [publication for publication in self._in_hand if not publication.done.done()]
        return self.publications.count + sum(len(publication.drafts) for publication in in_hand)

    def submit(
        self, drafts: list[Draft], key: Key | None, render: Callable[[list[Receipt]], bytes] | None
    ) -> asyncio.Future[Any]:
        """Let *drafts* wait; raises PayloadTooLarge, Overloaded and StorageUnavailable."""
        if self.publications.is_full:
            raise Overloaded
        if self._condition.rest and self.results:  # the next commit rests for these, and who comes now would have to, too
            raise StorageUnavailable("the storage does not take writes: results wait for it")
        publication = Publication(drafts, key, render, asyncio.get_running_loop().create_future())
        failpoint("K02-checked")
        self.publications.add(publication)
        return publication.done

    def close(self) -> None:
        """From now on results that cannot be stored are told of, and do not wait: there are no better times."""
        self._is_closing = True

    def take(self) -> tuple[list[tuple[Result, ...]], list[Publication]]:
        """What the next commit is made of."""
        results, publications = self._some_results(), self.publications.take()
        lack = self._condition.lack() if publications else None
        if lack is not None:  # they would take the last of the disk
            refuse(publications, lack)
            publications = []
        self._in_hand = publications  # the list itself: what the commit has no room for is taken out of it
        return results, publications

    def refuse(self, error: Exception) -> None:
        """Let whoever waits for a publication hear *error*."""
        refuse(self._in_hand, error)
        self.publications.refuse(error)

    async def followed(self, event: int) -> None:
        """Return once memory has what the file may have already of attempts at an event's deliveries (its seq)."""
        if any(result.before.event == event for group in self._recording for result in group):
            await self._followed.wait()

    async def commit(self, results: list[tuple[Result, ...]], publications: list[Publication]) -> int:
        """Commit what was taken; the bytes of payload that are stored with it."""
        size = await self._commit(results, publications) or 0
        if self._condition.lock is not None:
            self.refuse(untaken(self._condition.lock))
        self._in_hand = []
        return size

    def tell(self) -> None:
        """
        Tell what became of the deliveries of the last commit, unless that is done.

        Best once the next one has begun, for which SQLite has a core of its own; but before anything else is read or written.
        """
        if self._untold is None:
            return
        (batch, heads), self._untold = self._untold, None
        listener = self._writing.listener
        if batch.recorded:
            listener.recorded(batch.recorded)
        for head in heads:
            listener.promoted(head)
        if batch.accepted:
            listener.accepted(batch.accepted)

    def end_recording(self) -> None:
        """Nothing is being committed: whoever waits for that goes on."""
        self._recording = []
        self._followed.set()

    def _some_results(self) -> list[tuple[Result, ...]]:
        """Those that have waited longest: nearly always all, because each request holds a slot of the scheduler."""
        if sum(map(len, self.results)) <= _MOST_RESULTS:
            taken = list(self.results)
            self.results.clear()
            return taken
        taken = []
        count = 0
        while count < _MOST_RESULTS:
            taken.append(self.results.popleft())
            count += len(taken[-1])
        return taken

    async def _commit(self, results: list[tuple[Result, ...]], publications: list[Publication]) -> int | None:
        """As `commit`; None where nothing can be stored now."""
        self._recording = results
        self._followed.clear()
        writing = self._writing
        try:
            batch, answered = await self._stage(results, publications)
            failpoint("K03-staged")
            committed = begin(writing.db, sql.commit, batch.commit(writing.vault).values())
        except Exception as error:  # noqa: BLE001  # whatever it is: it must not stop the task
            return await self._not_committed(error, results, publications)
        self.tell()
        try:
            await committed
            failpoint("K13-committed")
        except Exception as error:  # noqa: BLE001  # also a row that SQLite refuses
            return await self._not_committed(error, results, publications)
        # Whatever happens from here on, nobody must hear that it was not.
        heads, unreadable = await lines.heads(writing.db, batch.advanced) if batch.advanced else ([], [])
        self._follow(batch, answered, heads)
        self._park(unreadable)
        return sum(publication.size for publication in publications)

    async def _not_committed(
        self, error: Exception, results: list[tuple[Result, ...]], publications: list[Publication]
    ) -> int | None:
        self.end_recording()
        self.tell()
        await self._writing.roll_back(error)
        if not isinstance(error, PASSING):
            return await self._one_by_one(results, publications, error)
        await self._pause(error, results, publications)
        return None

    async def _stage(
        self, results: list[tuple[Result, ...]], publications: list[Publication]
    ) -> tuple[Batch, list[_Answered]]:
        """What is to be written; *publications* that would make it too large are taken out, and wait for the next."""
        clock, memory, now = self._writing.clock, self._writing.memory, self._writing.clock.now()
        batch = Batch(now=now, clock=clock, numbers=self._writing.numbers, index=memory.index, health=memory.health)
        await self._look_up(batch, results, publications, now)  # first, because what results are told by stands in lines, too
        for group in results:
            batch.add_results([self._up_to_date(result) for result in group])
        answered: list[_Answered] = []
        events, announced = batch.event_count, len(batch.accepted)  # what the results are told by
        for position, publication in enumerate(publications):
            if len(batch.accepted) - announced >= MOST_DELIVERIES:
                self.publications.put_back(publications[position:])
                del publications[position:]
                break
            try:
                answer = batch.add_publication(publication.drafts, publication.key, publication.render)
            except HookEngineError as refused:
                answered.append((publication, refused))
            else:
                answered.append((publication, answer))
        self.publications.made(batch.event_count - events, len(batch.accepted) - announced)
        return batch, answered

    def _up_to_date(self, result: Result) -> Result:
        """*result* as it applies to the delivery as it is now: a change may have been committed since the attempt ended."""
        taken = result.before
        current = self._writing.listener.current(taken)
        if current is taken:
            return result
        return replace(result, before=current, after=retry.overruled(taken, result.after, current))

    async def _look_up(
        self, batch: Batch, results: list[tuple[Result, ...]], publications: list[Publication], now: int
    ) -> None:
        """
        Tell *batch* which keys and event ids are taken, and when the subscriptions of *results* were deleted that are gone.

        `executemany` would only say that some row of many was a duplicate; this says which.
        """
        db, index = self._writing.db, self._writing.memory.index
        keys = [publication.key for publication in publications if publication.key is not None]
        gone = {seq for group in results if index.get(seq := group[0].before.subscription) is None}
        chosen = [(d.id, d.tenant) for publication in publications for d in publication.drafts if d.id is not None]
        known: answers.Known = {}
        seen = {}
        deletions: dict[int, int] = {}
        if keys:
            known = answers.known(await db.execute_fetchall(sql.known_keys, answers.wanted(keys, now)))
        if chosen:
            found = await db.execute_fetchall(sql.known_events, (rows.json_text(chosen),))
            seen = dict(map(rows.receipt, found))
        if gone:
            deletions = {row[0]: row[1] for row in await db.execute_fetchall(sql.deletions, (rows.json_text(list(gone)),))}
        asked = lines.wanted((draft for publication in publications for draft in publication.drafts), index)
        batch.know(known, seen, await lines.standing(db, asked | index.our_lines), deletions)

    def _follow(self, batch: Batch, answered: list[_Answered], heads: list[Delivery]) -> None:
        """What a commit entails, before anybody else can run; for its deliveries there is time until `tell`."""
        memory, listener = self._writing.memory, self._writing.listener
        self._condition.worked()
        listener.committed(batch.event_count, len(batch.accepted))
        memory.health.update(batch.health)
        for subscription in batch.disabled.values():
            before = memory.index.get(subscription.seq)
            memory.index.put(subscription)
            listener.changed(before, subscription)
        self._untold = (batch, heads)
        self.end_recording()
        failpoint("K05-unanswered")
        for publication, answer in answered:
            if isinstance(answer, HookEngineError):
                fail(publication.done, answer)
            elif not publication.done.done():
                publication.done.set_result(answer)

    async def _one_by_one(self, results: list[tuple[Result, ...]], publications: list[Publication], error: Exception) -> int:
        """One of them is guilty: give each a transaction of its own, so that only the guilty one fails."""
        if len(results) + len(publications) == 1:
            for group in results:
                self._writing.listener.unrecorded(group, error)
            refuse(publications, StorageUnavailable(f"the event cannot be stored: {error}"))
            return 0
        size = 0
        self.results.extendleft(reversed(results))  # where one has to wait, those after it do
        for _ in results:
            if await self._commit([self.results.popleft()], []) is None:
                break
        for publication in publications:
            if self._condition.lock is not None:  # of which all hear
                break
            size += await self._commit([], [publication]) or 0
        return size

    async def _pause(self, error: Exception, results: list[tuple[Result, ...]], publications: list[Publication]) -> None:
        """Publishers hear of it at once; results must not be lost, so they wait for better times."""
        refuse(publications, untaken(error))
        self._condition.failed(error)
        self._set_aside(results, error)
        if results and not (self._is_closing or self._condition.lock or (self._space.is_full and self._space.give_up())):
            await asyncio.sleep(self._condition.rest)

    def _set_aside(self, results: list[tuple[Result, ...]], error: Exception) -> None:
        """Keep *results* for better times; where none come, these attempts are made again after the next start."""
        if self._is_closing:
            for group in results:
                self._writing.listener.unrecorded(group, error)
        else:
            self.results.extendleft(reversed(results))
