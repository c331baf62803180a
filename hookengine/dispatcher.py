"""The loop: take what may go, send it, settle it, record it, give the slot back, tell the observers."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import suppress
from functools import partial
from math import inf
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING

from hookengine import profiles
from hookengine.attempting import Attempting
from hookengine.errors import StorageCorrupt, StorageFailed, Unavailable
from hookengine.failpoints import failpoint
from hookengine.flights import Flights
from hookengine.gathering import Gathering
from hookengine.models import Accepted, Attempt, Delivery, DeliveryState, Event, Interrupted, Place, Subscription
from hookengine.observers import (
    AttemptsFinished,
    Committed,
    DeliveryOverruled,
    Fault,
    Finished,
    ReplayProgress,
    StorageTrouble,
    SubscriptionChanged,
)
from hookengine.outage import Interruptions, Outage
from hookengine.payloads import Payloads
from hookengine.serving import Serving
from hookengine.store import Recorded, Result, batches, clock_jumps, raise_if_fatal
from hookengine.store.intake import UnderWay

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
    from typing import Any

    from hookengine.attempting import Member, Ready
    from hookengine.clock import Clock
    from hookengine.gathering import Compose, Composed
    from hookengine.lanes import Mark
    from hookengine.models import Standing
    from hookengine.observers import Happening
    from hookengine.profiles import Profile
    from hookengine.scheduler import Refill, Scheduler
    from hookengine.sender import Sender
    from hookengine.store import Store


_TURN = 64  # deliveries taken at once, whose payloads are read in one go
_LONGEST_SLEEP = 5.0  # s: a wall clock that jumps is noticed after this
_JUMP = 5_000  # ms by which it goes, if it is set; less makes nothing late that would be noticed

# Names of their own: see `models`.
_PENDING, _LANE, _GATHERING = DeliveryState.PENDING, Place.LANE, Place.GATHERING

# What they do is done by the interpreter itself, without a frame for each delivery.
_DELIVERY = itemgetter(0)  # of a member
_SEQ = attrgetter("delivery.seq")  # of what is recorded


class Dispatcher:
    """
    Owns the scheduler, and the tasks of the attempts in flight.

    It is the store's listener: a commit is followed up here before the next one begins.
    """

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        sender: Sender,
        clock: Clock,
        profiles: Mapping[str, Profile],
        observe: Callable[[Happening], None],
        payload_cache: int,
    ) -> None:
        # Kept, because asking for it costs a system call on Python 3.11, several times an attempt.
        self._loop = asyncio.get_running_loop()
        self._scheduler = scheduler
        self._sender = sender
        self._clock = clock
        self._observe = observe
        self._payloads = Payloads(payload_cache)
        self._gathering = Gathering()
        self._flights = Flights()
        self._store: Store  # given by load()
        self._serving = Serving(
            scheduler=scheduler, gathering=self._gathering, clock=clock, profiles=profiles, observe=observe
        )
        self._interruptions = Interruptions()
        self._attempts: set[asyncio.Future[Any]] = set()  # tasks, and answers for which no task waits
        self._wake = asyncio.Event()
        self._drained = asyncio.Event()  # nothing is in flight any more, or what is may be cut
        self._draining = False  # nothing begins any more
        self._cutting = False
        self._patience: list[asyncio.TimerHandle] = []
        self._stopping = False
        self._storage_works = True
        self._has_room = True  # for new events
        self._offset = 0.0  # ms from loop time to the wall clock
        self._has_gone_back = False  # since the last stop, which is still to be dealt with
        self._outage = Outage(observe)
        self._attempting = Attempting(sender, clock=clock, observe=observe, outage=self._outage)

    @property
    def in_flight(self) -> int:
        """Deliveries that hold a slot: their attempt runs, or its result is being committed."""
        return self._scheduler.in_flight

    @property
    def paused(self) -> bool:
        """Whether nothing is taken at the moment, because it could not be sent or recorded."""
        return not self._may_take()

    # What the store tells.

    def current(self, delivery: Delivery) -> Delivery:
        """A delivery in flight as it is now: as it was taken, unless somebody else has changed it."""
        return self._flights.current(delivery)

    def under_way(self) -> UnderWay:
        """What is in flight."""
        return UnderWay(self._flights.alone, self._flights.batches)

    def committed(self, events: int, deliveries: int) -> None:
        """A commit, with so many new events and deliveries in it."""
        self._observe(Committed(events=events, deliveries=deliveries))

    def accepted(self, deliveries: Sequence[tuple[Delivery, Event | None]]) -> None:
        """New deliveries are committed; the event is None where it was not at hand, and is read when it is needed."""
        now = self._clock.now()
        for delivery, event in deliveries:
            if delivery.place is _GATHERING:
                self._gathering.add(delivery, now=now)
            elif delivery.place is _LANE and delivery.line is not None:
                self._lead(delivery)
            elif (
                delivery.place is _LANE
                and self._scheduler.push(delivery, now=now)
                and delivery.due_at <= now
                and event is not None
            ):
                self._payloads.keep(event)
        self._wake.set()

    def recorded(self, results: list[list[Recorded]]) -> None:
        """Results are committed: slots are given back, and retries take their places."""
        now = self._clock.now()
        finished: list[Finished] = []
        for group in results:
            taken = group[0].result.head or group[0].result.before
            subscription = self._store.memory.index.get(taken.subscription)
            back = self._land(taken, set(map(_SEQ, group)), self._earned(group, subscription, now))
            for recorded in group:
                delivery, attempt, counted = recorded.delivery, recorded.result.attempt, recorded.counted
                if delivery.state is _PENDING and delivery.place is _LANE:
                    self._lead(delivery)
                if attempt is not None or delivery.state is not _PENDING:
                    had_ended = recorded.result.before.finished_at is not None
                    finished.append(Finished(delivery, attempt, subscription, counted, had_ended))
            for delivery in back:
                self._lead(delivery)
        if finished:
            self._observe(AttemptsFinished(finished))
        self._wake.set()

    def unrecorded(self, results: Sequence[Result], error: Exception) -> None:
        """A result, or those of a batch, cannot be stored: the deliveries are left alone until the next start."""
        taken = results[0].head or results[0].before
        for delivery in self._land(taken, {result.before.seq for result in results}):
            self._lead(delivery)
        self._observe(Fault(where=f"delivery {taken.id}", error=repr(error)))
        self._wake.set()

    def unreadable(self, where: str, error: Exception) -> None:
        """A stored row cannot be read."""
        self._observe(Fault(where=where, error=str(error) if isinstance(error, StorageCorrupt) else repr(error)))

    def changed(self, before: Subscription | None, after: Subscription | None) -> None:
        """A subscription was made, changed, enabled, disabled or deleted."""
        known = after or before
        assert known is not None  # noqa: S101  # a change is of something
        if after is None or (before is not None and before.auth != after.auth):
            self._sender.forget(known.seq)
        self._serving.change(known.seq, before, after)
        self._observe(SubscriptionChanged(before=before, after=after))
        self._wake.set()

    def signed_anew(self, tenant: str) -> None:
        """The secrets of *tenant* have changed: what nobody could sign may go now."""
        self._serving.signed_anew(tenant)
        self._wake.set()

    def overruled(self, before: Delivery, after: Delivery) -> None:
        """Somebody changed a delivery: it moves, or, if it is in flight, its attempt's end will find out."""
        if not self._flights.change(before, after):
            if before.place is _LANE:
                self._scheduler.discard(before)
                self._gathering.resume(before.subscription)
            if after.state is _PENDING and after.place is _LANE:
                self._lead(after)
        self._observe(DeliveryOverruled(delivery=after, subscription=self._store.memory.index.get(after.subscription)))
        self._wake.set()

    def promoted(self, delivery: Delivery) -> None:
        """Another delivery leads its batch or its line."""
        self._lead(delivery)
        self._wake.set()

    def _lead(self, delivery: Delivery) -> None:
        """Let it wait in its lane, or, while its batch or line is in flight, for the end of that."""
        if not self._flights.promote(delivery):
            self._scheduler.discard(delivery)  # somebody may have edited a row that waits here
            self._scheduler.push(delivery, now=self._clock.now())

    def composed(self, asked: Compose, composed: Composed | None) -> None:
        """Batches are made, or cannot be made now."""
        now = self._clock.now()
        for head in composed.heads if composed is not None else ():
            self._scheduler.push(head, now=now)
        self._gathering.composed(asked, composed, now=now)
        self._wake.set()

    def replaying(self, subscription: Subscription, count: int, *, finished: bool) -> None:
        """A replay has begun, or is finished."""
        self._observe(ReplayProgress(subscription=subscription, count=count, finished=finished))

    def refilled(self, refill: Refill, deliveries: list[Delivery], mark: Mark | None) -> None:
        """The answer to a refill."""
        # Of a batch or a line in flight somebody else may be the head by now.
        rows = [each for each in deliveries if not self._flights.is_busy(each)]
        self._scheduler.refilled(refill, rows, mark, now=self._clock.now())
        self._wake.set()

    def storage(self, error: Exception | None) -> None:
        """Nothing is sent while nothing can be recorded: it would only be sent again."""
        if self._storage_works or error is None:
            self._tell_trouble(error, over=self._has_room)
        self._storage_works = error is None
        self._wake.set()

    def room(self, lack: Exception | None) -> None:
        """New events are refused or taken again; what was accepted is sent and recorded meanwhile."""
        self._tell_trouble(lack, over=self._storage_works)
        self._has_room = lack is None

    def _tell_trouble(self, error: Exception | None, *, over: bool) -> None:
        """Tell that a trouble of the storage begins, or, unless there is another one, that it is *over*."""
        if error is not None:
            self._observe(StorageTrouble(error=str(error)))
        elif over:
            self._observe(StorageTrouble(error=None))

    # The loop.

    async def load(self, store: Store) -> None:
        """Open the lanes of *store*; nothing may be published before, or it would wait on disk for the next start."""
        self._store = store
        if await store.reader.newest_moment() > self._clock.now() + _JUMP:
            try:
                await store.writer.change(clock_jumps.turn_back)
            except Unavailable:  # a start needs no lock: the loop does it as soon as it can
                self._has_gone_back = True
        await self._serving.open(store)

    async def run(self) -> None:
        """Send until `stop`; then wait for the attempts in flight, and cut those that outlast the drain."""
        self._offset = inf if self._has_gone_back else self._clock.now() - self._loop.time() * 1000
        try:
            while not self._stopping:
                self._wake.clear()
                now = self._clock.now()
                await self._watch_clock(now)
                for refill in self._scheduler.refills(now):
                    self._store.writer.refill(refill)
                for ask in self._gathering.asks(now, self._serving.room):
                    self._store.writer.compose(ask)
                taken = self._scheduler.take(now, _TURN) if self._may_take() else []
                if taken:
                    await self._start(taken)
                else:
                    await self._sleep(now)
                # Publishers that the same commit woke go first: what they publish next is then written while this sends.
                await asyncio.sleep(0)
            await self._drain()
        finally:
            await self._cut()
        if paces := self._scheduler.paces():
            with suppress(Unavailable, StorageFailed):  # then the next start waits for one interval
                await self._store.writer.change(clock_jumps.keep_paces(paces))

    async def _watch_clock(self, now: int) -> None:
        """A wall clock that was set back must make nothing wait longer; one set forward, no run of failures seem longer."""
        before, self._offset = self._offset, now - self._loop.time() * 1000
        jump = self._offset - before
        if abs(jump) < _JUMP:
            return
        try:
            await self._store.writer.change(clock_jumps.turn_back if jump < 0 else clock_jumps.skip(int(jump)))
        except (Unavailable, StorageFailed):
            self._offset = before  # with the next turn of the loop; storage that fails wakes it
            return
        if jump < 0:
            self._scheduler.turn_back(now)
            self._serving.open_anew()

    def stop(self, drain: float) -> None:
        """Take nothing more, and cut what is in flight after *drain* seconds; again with less to cut it sooner."""
        self._stopping = True
        self._wake.set()
        self._patience.append(self._loop.call_later(drain, self._drained.set))

    def _may_take(self) -> bool:
        return self._storage_works and not self._outage.left

    async def _sleep(self, now: int) -> None:
        times = (self._scheduler.next_due(now), self._gathering.next_due())
        due_at = min((time for time in times if time is not None), default=None)
        delay = _LONGEST_SLEEP if due_at is None else min(max(0, due_at - now) / 1000, _LONGEST_SLEEP)
        delay = self._outage.left or delay
        timer = self._loop.call_later(delay, self._wake.set)
        await self._wake.wait()
        timer.cancel()

    async def _start(self, taken: list[Delivery]) -> None:
        """Begin an attempt for each."""
        begun: list[Delivery] = []
        for delivery in taken:
            self._gathering.resume(delivery.subscription)
            if self._flights.begin(delivery):
                begun.append(delivery)
            else:
                self._scheduler.release(delivery.seq)
        try:
            groups = await self._read(begun)
        except (sqlite3.Error, MemoryError) as error:
            raise_if_fatal(error)
            self._observe(Fault(where="reading payloads", error=repr(error)))
            self._outage.begin(str(error))
            for delivery in begun:
                self._put_back(delivery)
            return
        # All are prepared before the first goes: what prepares them finds itself in the processor's caches.
        prepared = [
            ready
            for delivery, members in zip(begun, groups, strict=True)
            if (ready := self._prepare(delivery, members)) is not None
        ]
        for ready in prepared:
            self._send(ready)

    async def _read(self, taken: list[Delivery]) -> list[list[Member]]:
        """What goes with each of *taken*, itself if it is alone; batches and events are read in one statement each."""
        events = {delivery.event: event for delivery in taken if (event := self._payloads.take(delivery.event)) is not None}
        batches = await self._members(taken)
        members = [each for batch in batches.values() for each in batch]
        missing = {delivery.event for delivery in (*taken, *members)} - events.keys()
        if missing:
            found, unreadable = await self._store.reader.events_by_seq(missing)
            events |= found
            for each in unreadable:  # its deliveries fail in their turn
                self.unreadable("reading payloads", each)
        return [
            [(delivery, events.get(delivery.event))]
            if delivery.batch is None
            else [(each, events.get(each.event)) for each in batches.get(delivery.batch, ())]
            for delivery in taken
        ]

    def _send(self, ready: Ready) -> None:
        seq, is_limited = ready.taken.seq, ready.is_limited
        # What does not go at once asks for its turn when it could: see `_put_off`.
        may_go = not is_limited or self._scheduler.may_send(seq, now=self._clock.now())
        answer = self._attempting.begin(ready) if may_go else None
        if answer is None:
            self._spawn(self._attempt(ready))
        else:
            if is_limited:
                self._scheduler.sent(seq, now=self._clock.now())
            self._attempts.add(answer)
            answer.add_done_callback(partial(self._answered, ready))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._attempts.add(task)
        task.add_done_callback(self._leave)

    def _leave(self, attempt: asyncio.Future[Any]) -> None:
        self._attempts.discard(attempt)
        if self._draining and not self._attempts:
            self._drained.set()

    async def _members(self, taken: list[Delivery]) -> Mapping[int, list[Delivery]]:
        """What goes with those of *taken* that lead a batch."""
        heads = [delivery for delivery in taken if delivery.batch is not None]
        if not heads:
            return {}
        members, unreadable = await self._store.reader.members([head.batch for head in heads if head.batch is not None])
        self._store.writer.park(unreadable)
        endpoints = {head.batch: head.subscription for head in heads}  # to which nothing of others goes, whatever rows say
        return {batch: [each for each in group if each.subscription == endpoints[batch]] for batch, group in members.items()}

    async def _drain(self) -> None:
        """Wait for the attempts in flight, or until their patience is over."""
        self._draining = True
        if self._attempts:
            await self._drained.wait()

    async def _cut(self) -> None:
        """End what is still in flight: as interrupted."""
        for timer in self._patience:
            timer.cancel()
        if not self._attempts:
            return
        self._cutting = True
        await asyncio.sleep(0)  # a task that is cancelled before its first step would end without a word
        for attempt in self._attempts:
            attempt.cancel()
        if self._attempts:
            await asyncio.wait(self._attempts)
        failpoint("K26-cut")

    # One attempt.

    def _prepare(self, taken: Delivery, members: list[Member]) -> Ready | None:
        """One request for the delivery that was taken, or for those of the batch that it leads; None if nothing is to go."""
        served = self._serving.served(taken.subscription)
        # Since it was taken its subscription was closed, so that it stays on disk, or somebody changed it.
        if served is None or self._flights.are_changed(map(_DELIVERY, members)):
            self._put_back(taken)
            return None
        if not members:  # they have left, or cannot be read
            self._put_back(taken, again=False)
            return None
        if taken.batch is not None and profiles.batching(served.profile, served.subscription) is None:
            self._spawn(self._dissolve(taken, taken.batch))
            return None
        failpoint("K07-taken")
        secrets = partial(self._store.memory.secrets, served.subscription, of_tenant=served.profile.uses_tenants_secret)
        ready = self._attempting.prepare(taken, members, served, secrets=secrets)
        if ready.is_limited:
            self._pace(ready)
        return ready

    def _pace(self, ready: Ready) -> None:
        """The next one is taken an interval after this one begins, if that is known by now: a token may come much later."""
        seq = ready.taken.seq
        if not ready.going:
            self._scheduler.spare(seq)
        elif ready.request is None or ready.request.authorization is None:
            self._scheduler.begun(seq, now=ready.now)

    async def _attempt(self, ready: Ready) -> None:
        turn = partial(self._put_off, ready) if ready.is_limited else None
        self._ended(ready.taken, await self._attempting.run(ready, turn=turn))

    def _put_off(self, ready: Ready, left: float) -> float | None:
        """How long it has to wait for its turn; None where that is too late, or it is not to go any more: it is taken anew."""
        taken = ready.taken
        if self._serving.served(taken.subscription) is None or self._flights.are_changed(map(_DELIVERY, ready.going)):
            return None
        now = self._clock.now()
        expires_at = min((each.expires_at for each, _ in ready.going if each.expires_at is not None), default=inf)
        return self._scheduler.put_off(taken.seq, min(left, expires_at - now), now=now)

    def _answered(self, ready: Ready, answer: asyncio.Future[Any]) -> None:
        try:
            results = self._attempting.end(ready)
            if results is None and self._cutting:
                results = self._attempting.abandon(ready)
            if results is None:  # it was no whole answer
                self._spawn(self._attempt(ready))
            else:
                self._ended(ready.taken, results)
        finally:
            self._leave(answer)

    def _ended(self, taken: Delivery, results: list[Result]) -> None:
        failpoint("K11-ended")
        attempt = results[-1].attempt
        if attempt is not None and self._is_repetition(taken, attempt):
            self._put_back(taken, after=results[-1])
            return
        if attempt is not None and isinstance(attempt.outcome, Accepted):
            self._scheduler.went_well(taken.seq)
            self._wake.set()
        self._store.writer.record(*results)

    async def _dissolve(self, taken: Delivery, batch: int) -> None:
        """What was put together when its subscription had batches goes one by one, in place of *taken*."""
        try:
            await self._store.writer.change(batches.dissolve(batch))
        except (Unavailable, StorageFailed) as error:
            self._outage.begin(str(error))
        self._put_back(taken)

    def _is_repetition(self, delivery: Delivery, attempt: Attempt) -> bool:
        """Whether the same was recorded of *delivery* less than a second ago: trouble of ours must not fill the disk."""
        if not isinstance(attempt.outcome, Interrupted) or self._stopping:
            self._interruptions.forget(delivery.seq)
            return False
        return self._interruptions.is_repetition(delivery.seq, attempt.at)

    def _put_back(self, taken: Delivery, *, again: bool = True, after: Result | None = None) -> None:
        """Give the slot back without a trace; what was taken waits *again*, unless somebody has changed that."""
        standing = None
        if after is not None:
            standing = self._serving.earned(self._store.memory.index.get(taken.subscription), after, self._clock.now())
        else:
            self._scheduler.spare(taken.seq)
        for delivery in self._land(taken, (), standing):
            if again or delivery != taken:
                self._lead(delivery)
        self._wake.set()

    def _land(self, taken: Delivery, recorded: Collection[int], standing: Standing | None = None) -> list[Delivery]:
        """What was taken is in flight no more, and its slot is free; the deliveries to put back: all but those *recorded*."""
        self._scheduler.release(taken.seq, standing)
        return self._flights.end(taken, recorded)

    def _earned(self, group: list[Recorded], subscription: Subscription | None, now: int) -> Standing | None:
        """What the subscription has earned with a result, or with those of a batch."""
        recorded = group[0]
        if len(group) > 1:  # those that went stand behind those that could not
            recorded = next((each for each in group[::-1] if each.counted and each.result.attempt is not None), recorded)
        return self._serving.earned(subscription, recorded.result, now, recorded.health)
