"""The loop: take what may go, send it, settle it, record it, give the slot back, tell the observers."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING, assert_never

from msgspec import Struct

from hookengine import health, profiles, retry
from hookengine.failpoints import failpoint
from hookengine.models import (
    Accepted,
    Attempt,
    AttemptError,
    Broken,
    Delivery,
    DeliveryState,
    ErrorCode,
    Event,
    Health,
    Interrupted,
    Outcome,
    Rank,
    Refused,
    Request,
    Rules,
    Standing,
    Subscription,
    SubscriptionState,
    Unreachable,
)
from hookengine.observers import (
    AttemptFinished,
    Committed,
    DeliveryOverruled,
    Fault,
    LocalTrouble,
    ReplayProgress,
    StorageTrouble,
    SubscriptionChanged,
)
from hookengine.scheduler import FROM_THE_START
from hookengine.store import Recorded, Result

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hookengine.clock import Clock
    from hookengine.observers import Happening
    from hookengine.profiles import Profile
    from hookengine.scheduler import Mark, Refill, Scheduler
    from hookengine.sender import Sender
    from hookengine.store import Store

_TURN = 64  # deliveries taken at once, whose payloads are read in one go
_LONGEST_SLEEP = 5.0  # s: a wall clock that jumps is noticed after this
_SHORTEST_PAUSE = 100  # ms without taking after a fault of this machine, doubling to the longest
_LONGEST_PAUSE = 5_000
_INTERRUPTED_EVERY = 1_000  # ms between two records of one delivery's interrupted attempts
_EVENT_OVERHEAD = 700  # bytes, about, that an event in memory takes beside its data

# These endings need no working network, so that they do not show that it works again.
_PROVES_NOTHING = frozenset(
    {
        ErrorCode.BLOCKED_ADDRESS,
        ErrorCode.SELF_CONNECTION,
        ErrorCode.INVALID_URL,
        ErrorCode.DNS_TEMPORARY,
        ErrorCode.AUTH_FAILED,
    }
)


class _Target(Struct, frozen=True):
    """A subscription as attempts use it."""

    subscription: Subscription
    profile: Profile
    rules: Rules


class Payloads:
    """Events that were just accepted, up to *limit* bytes, so that a fresh delivery reads nothing from the disk."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._events: dict[int, tuple[Event, int]] = {}  # with the number of deliveries that will ask

    def keep(self, event: Event) -> None:
        """Keep *event* for one delivery more; the oldest make room."""
        _, askers = self._events.get(event.seq, (event, 0))
        if not askers:
            self._size += _size(event)
        self._events[event.seq] = (event, askers + 1)
        while self._size > self._limit:
            oldest, _ = self._events.pop(next(iter(self._events)))
            self._size -= _size(oldest)

    def take(self, seq: int) -> Event | None:
        """The event for one of its deliveries; forgotten after the last."""
        kept = self._events.get(seq)
        if kept is None:
            return None
        event, askers = kept
        if askers > 1:
            self._events[seq] = (event, askers - 1)
        else:
            del self._events[seq]
            self._size -= _size(event)
        return event


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
        self._profiles = profiles
        self._observe = observe
        self._payloads = Payloads(payload_cache)
        self._store: Store  # given by load()
        self._targets: dict[int, _Target] = {}  # by subscription, made when first needed after a change
        self._overruled: dict[int, Delivery] = {}  # in flight, and changed by somebody else meanwhile
        self._interrupted_at: dict[int, int] = {}  # in trouble: when a delivery's interrupted attempt was last recorded
        self._attempts: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._drained = asyncio.Event()  # nothing is in flight any more, or what is may be cut
        self._patience: list[asyncio.TimerHandle] = []
        self._stopping = False
        self._storage_works = True
        self._paused_until = 0.0  # loop time
        self._pause = _SHORTEST_PAUSE

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
        return self._overruled.get(delivery.seq, delivery)

    def taken(self) -> list[int]:
        """The deliveries in flight."""
        return self._scheduler.taken()

    def committed(self, events: int, deliveries: int) -> None:
        """A commit, with so many new events and deliveries in it."""
        self._observe(Committed(events=events, deliveries=deliveries))

    def accepted(self, deliveries: Sequence[tuple[Delivery, Event | None]]) -> None:
        """New deliveries are committed; the event is None where it was not at hand, and is read when it is needed."""
        now = self._clock.now()
        for delivery, event in deliveries:
            if self._scheduler.push(delivery, now=now) and delivery.due_at <= now and event is not None:
                self._payloads.keep(event)
        self._wake.set()

    def recorded(self, results: list[Recorded]) -> None:
        """Results are committed: slots are given back, and retries take their places."""
        now = self._clock.now()
        for recorded in results:
            result, delivery = recorded.result, recorded.delivery
            self._release(recorded, now)
            self._overruled.pop(delivery.seq, None)  # the result was applied to it
            if delivery.state is DeliveryState.PENDING:
                self._scheduler.push(delivery, now=now)
            self._observe(
                AttemptFinished(
                    delivery=delivery,
                    attempt=result.attempt,
                    subscription=self._store.writer.index.get(delivery.subscription),
                )
            )
        self._wake.set()

    def unrecorded(self, result: Result, error: Exception) -> None:
        """A result cannot be stored: the delivery is left alone until the next start."""
        self._scheduler.release(result.before.seq, None, now=self._clock.now())
        self._overruled.pop(result.before.seq, None)
        self._observe(Fault(where=f"delivery {result.before.id}", error=repr(error)))
        self._wake.set()

    def unreadable(self, where: str, error: Exception) -> None:
        """A stored row cannot be read: it is left alone."""
        self._observe(Fault(where=where, error=repr(error)))

    def changed(self, before: Subscription | None, after: Subscription | None) -> None:
        """A subscription was made, changed, enabled, disabled or deleted."""
        known = after or before
        assert known is not None  # noqa: S101  # a change is of something
        self._targets.pop(known.seq, None)
        if after is None:
            self._sender.forget(known.seq)
        if after is None or after.state is SubscriptionState.DISABLED:
            self._scheduler.close(known.seq)
        elif before is None:
            self._serve(after, [None, None, None])
        elif before.state is SubscriptionState.DISABLED:
            self._serve(after, [FROM_THE_START] * 3)
        else:  # it has a lane, unless its profile was not there, and keeps the width that it has earned
            standing = self._scheduler.standing(after.seq)
            earned = standing is not None and standing.rank is Rank.TRUSTED
            self._serve(after, [FROM_THE_START] * 3, standing if earned else None)
        self._observe(SubscriptionChanged(before=before, after=after))
        self._wake.set()

    def overruled(self, before: Delivery, after: Delivery) -> None:
        """Somebody changed a delivery: it moves, or, if it is in flight, its attempt's end will find out."""
        if self._scheduler.is_in_flight(before.seq):
            self._overruled[before.seq] = after
        else:
            self._scheduler.discard(before)
            if after.state is DeliveryState.PENDING:
                self._scheduler.push(after, now=self._clock.now())
        self._observe(DeliveryOverruled(delivery=after))
        self._wake.set()

    def replaying(self, subscription: Subscription, count: int, *, finished: bool) -> None:
        """A replay has begun, or is finished."""
        self._observe(ReplayProgress(subscription=subscription, count=count, finished=finished))

    def refilled(self, refill: Refill, deliveries: list[Delivery], mark: Mark | None) -> None:
        """The answer to a refill."""
        self._scheduler.refilled(refill, deliveries, mark, now=self._clock.now())
        self._wake.set()

    def storage(self, error: Exception | None) -> None:
        """Nothing is sent while nothing can be recorded: it would only be sent again."""
        if self._storage_works or error is None:
            self._observe(StorageTrouble(error=None if error is None else str(error)))
        self._storage_works = error is None
        self._wake.set()

    # The loop.

    async def load(self, store: Store) -> None:
        """Open the lanes of *store*; nothing may be published before, or it would wait on disk for the next start."""
        self._store = store
        heads = await store.reader.heads()
        for subscription in store.writer.index:
            if subscription.state is SubscriptionState.ACTIVE:
                self._serve(subscription, heads.get(subscription.seq, [None, None, None]))

    async def run(self) -> None:
        """Send until `stop`; then wait for the attempts in flight, and cut those that outlast the drain."""
        try:
            while not self._stopping:
                self._wake.clear()
                now = self._clock.now()
                for refill in self._scheduler.refills(now):
                    self._store.writer.refill(refill)
                taken = self._scheduler.take(now, _TURN) if self._may_take() else []
                if taken:
                    await self._start(taken)
                    await asyncio.sleep(0)
                else:
                    await self._sleep(now)
            if self._attempts:
                await self._drained.wait()
        finally:
            await self._cut()

    def stop(self, drain: float) -> None:
        """Take nothing more, and cut what is in flight after *drain* seconds; again with less to cut it sooner."""
        self._stopping = True
        self._wake.set()
        self._patience.append(self._loop.call_later(drain, self._drained.set))

    def _serve(self, subscription: Subscription, marks: list[Mark | None], standing: Standing | None = None) -> None:
        """Open its lane; without the *standing* that it has, with the one that its counters give."""
        target = self._target(subscription.seq)
        if target is None:
            return
        standing = standing or health.standing(
            self._store.writer.health.get(subscription.seq, Health()),
            target.rules,
            max_concurrency=subscription.max_concurrency,
        )
        self._scheduler.open(
            subscription.seq,
            standing,
            max_concurrency=subscription.max_concurrency,
            marks=marks,
            now=self._clock.now(),
        )

    def _target(self, seq: int) -> _Target | None:
        """The subscription as it is now; None if it is deleted, disabled, or names a profile that is not there."""
        subscription = self._store.writer.index.get(seq)
        if subscription is None or subscription.state is SubscriptionState.DISABLED:
            return None
        target = self._targets.get(seq)
        if target is None:
            profile = self._profiles.get(subscription.profile)
            if profile is None:
                self._observe(Fault(where=f"subscription {subscription.id}", error=f"no profile {subscription.profile!r}"))
                return None
            target = _Target(subscription, profile, profiles.rules(profile, subscription))
            self._targets[seq] = target
        return target

    def _may_take(self) -> bool:
        return self._storage_works and self._loop.time() >= self._paused_until

    async def _sleep(self, now: int) -> None:
        due_at = self._scheduler.next_due()
        delay = _LONGEST_SLEEP if due_at is None else min(max(0, due_at - now) / 1000, _LONGEST_SLEEP)
        if self._loop.time() < self._paused_until:
            delay = self._paused_until - self._loop.time()
        timer = self._loop.call_later(delay, self._wake.set)
        await self._wake.wait()
        timer.cancel()

    async def _start(self, taken: list[Delivery]) -> None:
        """Begin an attempt for each; what is not in memory of their events is read in one statement."""
        events = {delivery.event: event for delivery in taken if (event := self._payloads.take(delivery.event)) is not None}
        missing = {delivery.event for delivery in taken} - events.keys()
        if missing:
            try:
                events |= await self._store.reader.events_by_seq(missing)
            except sqlite3.Error as error:
                self._observe(Fault(where="reading payloads", error=repr(error)))
                self._hold_off(str(error))
                for delivery in taken:
                    self._put_back(delivery)
                return
        for delivery in taken:
            task = self._loop.create_task(self._attempt(delivery, events.get(delivery.event)))
            self._attempts.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, attempt: asyncio.Task[None]) -> None:
        self._attempts.discard(attempt)
        if self._stopping and not self._attempts:
            self._drained.set()

    async def _cut(self) -> None:
        """End what is still in flight: as interrupted."""
        for timer in self._patience:
            timer.cancel()
        for attempt in self._attempts:
            attempt.cancel()
        if self._attempts:
            await asyncio.wait(self._attempts)
            failpoint("K26-cut")

    # One attempt.

    async def _attempt(self, delivery: Delivery, event: Event | None) -> None:
        target = self._target(delivery.subscription)
        # Since it was taken its subscription was closed, so that it stays on disk, or somebody changed it.
        if target is None or delivery.seq in self._overruled:
            self._put_back(delivery)
            return
        failpoint("K07-taken")
        result = await self._try(delivery, event, target)
        failpoint("K11-ended")
        attempt = result.attempt
        if attempt is not None and self._is_repetition(delivery, attempt):
            self._put_back(delivery)
        else:
            self._store.writer.record(result)

    async def _try(self, delivery: Delivery, event: Event | None, target: _Target) -> Result:
        started_at = self._clock.now()
        expired = retry.expire(delivery, now=started_at)
        if expired is not None:
            return Result(before=delivery, after=expired, attempt=None, rules=target.rules, event=event)
        begun = self._loop.time()
        request, outcome = await self._send(delivery, event, target, started_at)
        duration = round((self._loop.time() - begun) * 1000)
        attempt = Attempt(
            number=delivery.attempt_count + 1,
            at=started_at,
            duration=duration,
            trigger=delivery.trigger,
            outcome=outcome,
            request=request,
        )
        rand = 0.0 if isinstance(outcome, Accepted) else self._clock.random()  # there is nothing to place
        after = retry.settle(delivery, outcome, target.rules, now=started_at + duration, rand=rand)
        return Result(
            before=delivery, after=after, attempt=attempt, rules=target.rules, profile=target.profile.name, event=event
        )

    async def _send(
        self, delivery: Delivery, event: Event | None, target: _Target, now: int
    ) -> tuple[Request | None, Outcome]:
        """The request, and every way that sending it can end as a value: nothing escapes an attempt."""
        request = None
        try:
            if event is None:
                return None, _broken(f"the event of {delivery.id} is gone")
            request = profiles.build(
                target.profile,
                target.subscription,
                event,
                secrets=self._store.writer.secrets(target.subscription, of_tenant=target.profile.uses_tenants_secret),
                attempt=delivery.attempt_count + 1,
                retry=delivery.step,
                now=now,
                timeout=target.rules.timeout,
            )
            outcome = await self._sender.attempt(request, target.rules)
        except asyncio.CancelledError:
            return request, Interrupted()
        except Exception as error:  # noqa: BLE001  # promise 6
            self._observe(Fault(where=f"delivery {delivery.id}", error=repr(error)))
            return request, _broken(type(error).__name__)
        self._weigh(outcome)
        return request, outcome

    def _weigh(self, outcome: Outcome) -> None:
        """Whether this machine is able to send at all."""
        match outcome:
            case Interrupted(error=error) if error is not None:
                self._hold_off(f"{error.code}: {error.detail}")
            case Accepted() | Refused():
                self._pause = _SHORTEST_PAUSE
            case Unreachable(error=error) if error.code not in _PROVES_NOTHING:
                self._pause = _SHORTEST_PAUSE
            case Unreachable() | Broken() | Interrupted():
                pass
            case _:
                assert_never(outcome)

    def _hold_off(self, error: str) -> None:
        now = self._loop.time()
        if now < self._paused_until:
            return  # others of the same moment
        self._observe(LocalTrouble(error=error, pause=self._pause))
        self._paused_until = now + self._pause / 1000
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)

    def _is_repetition(self, delivery: Delivery, attempt: Attempt) -> bool:
        """Whether the same was recorded of *delivery* less than a second ago: trouble of ours must not fill the disk."""
        if not isinstance(attempt.outcome, Interrupted) or self._stopping:
            self._interrupted_at.pop(delivery.seq, None)
            return False
        last = self._interrupted_at.get(delivery.seq)
        if last is not None and 0 <= attempt.at - last < _INTERRUPTED_EVERY:
            return True
        self._interrupted_at[delivery.seq] = attempt.at
        return False

    def _put_back(self, delivery: Delivery) -> None:
        """Give the slot back without a trace."""
        now = self._clock.now()
        self._scheduler.release(delivery.seq, None, now=now)
        delivery = self._overruled.pop(delivery.seq, delivery)
        if delivery.state is DeliveryState.PENDING:
            self._scheduler.push(delivery, now=now)
        self._wake.set()

    def _release(self, recorded: Recorded, now: int) -> None:
        """Give the slot back, with what the subscription has earned."""
        result = recorded.result
        seq = result.after.subscription
        before, subscription = self._scheduler.standing(seq), self._store.writer.index.get(seq)
        standing = None
        if result.attempt is not None and before is not None and subscription is not None:
            standing = health.restand(
                before,
                recorded.health,
                result.attempt.outcome,
                result.rules,
                max_concurrency=subscription.max_concurrency,
            )
        self._scheduler.release(result.after.seq, standing, now=now)


def _size(event: Event) -> int:
    return len(event.data) + _EVENT_OVERHEAD


def _broken(detail: str) -> Broken:
    return Broken(error=AttemptError(code=ErrorCode.INTERNAL_ERROR, detail=detail))
