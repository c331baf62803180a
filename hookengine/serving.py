"""Which subscriptions are served, and how: their lanes are opened, changed and closed as they are."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from hookengine import health, profiles
from hookengine.attempting import Served
from hookengine.errors import AlreadyRunning, StartError, StorageCorrupt, StorageUnavailable
from hookengine.lanes import ALL_ON_DISK, NOTHING_ON_DISK
from hookengine.models import Accepted, Health, Priority, Rank, Standing, Subscription, SubscriptionState
from hookengine.observers import NotConfigured
from hookengine.store import clock_jumps
from hookengine.times import interval

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hookengine.clock import Clock
    from hookengine.gathering import Gathering
    from hookengine.lanes import Mark
    from hookengine.observers import Happening
    from hookengine.profiles import Profile
    from hookengine.scheduler import Scheduler
    from hookengine.store import Result, Store
    from hookengine.store.memory import Memory

# Names of their own: see `models`.
_DISABLED, _TRUSTED = SubscriptionState.DISABLED, Rank.TRUSTED


class Serving:
    """
    Owns which lanes of the *scheduler* are open, and what attempts need to know of each subscription.

    One that is disabled or deleted is not served, nor one to which no request can be made (see `hindrance`).
    """

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        gathering: Gathering,
        clock: Clock,
        profiles: Mapping[str, Profile],
        observe: Callable[[Happening], None],
    ) -> None:
        self._scheduler = scheduler
        self._gathering = gathering
        self._clock = clock
        self._profiles = profiles
        self._observe = observe
        self._store: Store  # given by open()
        self._served: dict[int, Served] = {}  # by subscription, made when first needed after a change

    async def open(self, store: Store) -> None:
        """Open the lanes of *store*, with what waits there."""
        self._store = store
        heads = await store.reader.heads()
        gatherers = await store.reader.gatherers()
        paces = await self._paces()
        started_at = self._clock.now()
        for subscription in store.memory.index:
            seq, kept = subscription.seq, paces.get(subscription.seq)
            # After an unclean stop nobody knows when its last request went; what is kept may be of another time.
            soonest = started_at + pace(subscription)
            next_at = soonest if kept is None else min(kept, soonest)
            if subscription.state is SubscriptionState.ACTIVE:
                marks = heads.get(seq, NOTHING_ON_DISK)
                self._serve(subscription, marks, gathered=seq in gatherers, next_at=next_at)
            if subscription.rate_limit is not None and self._scheduler.standing(seq) is None:
                self._scheduler.hold(seq, next_at)
            elif subscription.rate_limit is None and kept is not None:  # it may get one again
                self._scheduler.hold(seq, kept)

    def change(self, seq: int, before: Subscription | None, after: Subscription | None) -> None:
        """The subscription with this key was made, changed, enabled, disabled or deleted."""
        self._served.pop(seq, None)
        if after is None or after.state is _DISABLED:
            self._close(seq, for_good=after is None)
        elif before is None:
            self._serve(after, NOTHING_ON_DISK, gathered=False)
        elif before.state is _DISABLED:
            self._serve(after, ALL_ON_DISK, gathered=True)
        else:  # it has a lane, unless its profile was not there, and keeps the width that it has earned
            standing = self._scheduler.standing(after.seq)
            earned = standing is not None and standing.rank is Rank.TRUSTED
            self._serve(after, ALL_ON_DISK, standing if earned else None, gathered=True)

    def signed_anew(self, tenant: str) -> None:
        """The secrets of *tenant* have changed: what nobody could sign may go now."""
        for subscription in self._store.memory.index:
            if subscription.tenant != tenant or subscription.seq in self._served:
                continue
            profile = self._profiles.get(subscription.profile)
            if profile is not None and profile.uses_tenants_secret:
                self.change(subscription.seq, subscription, subscription)

    def open_anew(self) -> None:
        """Every lane forgets what it has of the disk, and reads it again: times there have changed."""
        for subscription in self._store.memory.index:
            standing = self._scheduler.standing(subscription.seq)
            if standing is not None:
                self._close(subscription.seq)
                self._serve(subscription, ALL_ON_DISK, standing, gathered=True)

    def served(self, seq: int) -> Served | None:
        """The subscription as it is now; None if it is not served."""
        subscription = self._store.memory.index.get(seq)
        if subscription is None or subscription.state is _DISABLED:
            return None
        served = self._served.get(seq)
        if served is None:
            why = hindrance(subscription, self._profiles, self._store.memory)
            if why is not None:
                self._observe(NotConfigured(where=f"subscription {subscription.id}", error=f"{why}: its deliveries wait"))
                return None
            profile = self._profiles[subscription.profile]
            served = Served(subscription, profile, profiles.rules(profile, subscription))
            self._served[seq] = served
        return served

    def room(self, seq: int) -> tuple[int, ...]:
        """
        How many more batches a lane should have: by priority, counting those of higher priorities too.

        As long as it has enough that could go no later, larger ones gather. Those that wait for a retry are not among these:
        new events do not wait for it. A priority of which none is there gets one, whatever those before it have: only in the
        lane it is counted how often that is overtaken.
        """
        subscription = self._store.memory.index.get(seq)
        if subscription is None:
            return (0,) * len(Priority)
        most, now = subscription.max_concurrency, self._clock.now()
        due = [self._scheduler.due(seq, priority, now) for priority in Priority]
        return tuple(max(most - each, int(each == before)) for before, each in pairwise([0, *due]))

    def earned(
        self, subscription: Subscription | None, result: Result, now: int, counted: Health | None = None
    ) -> Standing | None:
        """What *subscription* has earned with *result*, and *counted* with it; None where nothing changes."""
        if result.attempt is None or subscription is None or (before := self._scheduler.standing(subscription.seq)) is None:
            return None
        outcome, most = result.attempt.outcome, subscription.max_concurrency
        if isinstance(outcome, Accepted) and before.rank is _TRUSTED and before.width >= most and not before.resume_at:
            return None  # of nearly every delivery: it has all that there is
        counters = counted or self._store.memory.health_of(subscription.seq)
        return health.restand(before, counters, outcome, result.rules, max_concurrency=most, now=now)

    async def _paces(self) -> dict[int, float]:
        """When the pace of subscriptions that have one allows the next request, as the last stop left it."""
        if not await self._store.reader.has_paces():
            return {}
        try:
            return await self._store.writer.change(clock_jumps.take_paces)
        except StorageUnavailable as error:  # kept for a later start, they would be of another time
            raise StartError(error.detail, exit_status=AlreadyRunning.exit_status) from error

    def _serve(
        self,
        subscription: Subscription,
        marks: Sequence[Mark | None],
        standing: Standing | None = None,
        *,
        gathered: bool,
        next_at: float = 0.0,
    ) -> None:
        """
        Open its lane; without the *standing* that it has, with the one that its counters give.

        With *gathered*, deliveries may still wait for others from a time when it had batches; each of these goes by itself.
        """
        served = self.served(subscription.seq)
        if served is None:
            self._close(subscription.seq)
            return
        counters = self._store.memory.health_of(subscription.seq)
        standing = standing or health.standing(counters, served.rules, max_concurrency=subscription.max_concurrency)
        now = self._clock.now()
        self._scheduler.open(
            subscription.seq,
            health.at_present(standing, counters, now=now),
            max_concurrency=subscription.max_concurrency,
            pace=pace(subscription),
            next_at=next_at,
            marks=marks,
            now=now,
        )
        batching = profiles.batching(served.profile, subscription)
        if batching is not None or gathered:
            most, wait = batching or (1, 0)
            self._gathering.open(subscription.seq, most=most, wait=wait)

    def _close(self, seq: int, *, for_good: bool = False) -> None:
        self._scheduler.close(seq, for_good=for_good)
        self._gathering.close(seq)


def hindrance(subscription: Subscription, known: Mapping[str, Profile], memory: Memory) -> str | None:
    """Why no request to *subscription* can be made with the profiles that are *known*; None where it can."""
    profile = known.get(subscription.profile)
    if profile is None:
        return f"no profile {subscription.profile!r}"
    try:
        secrets = memory.secrets(subscription, of_tenant=profile.uses_tenants_secret)
    except StorageCorrupt as error:
        return error.detail
    return profiles.hindrance(profile, subscription, secrets)


def pace(subscription: Subscription) -> float:
    """
    The milliseconds from one request to the next; 0 where there is no limit.

    A little longer than the limit says: on the way to the endpoint two may come nearer to each other.
    """
    if subscription.rate_limit is None:
        return 0.0
    exact = interval(subscription.rate_limit)
    return exact + min(exact / 50, 20)
