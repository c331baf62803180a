"""
What waits to be put into batches: when to ask the store to make them.

The deliveries themselves stay on disk: of each subscription this knows how many are due, and when the first of them has waited
long enough.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, NamedTuple

from hookengine.models import Delivery, Priority

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

AGAIN = 1_000  # ms until what could not be stored is asked for again


class Compose(NamedTuple):
    """
    A request to the store: batches of a subscription, of `most` events or whose first has waited.

    Of each priority and those before it, together, at most as many as `limits` says.
    """

    subscription: int
    most: int
    wait: int  # ms
    limits: tuple[int, ...]


class Composed(NamedTuple):
    """The answer: the heads of the batches, and by priority how much is left and due, and when something may be made of it."""

    heads: list[Delivery]
    due: tuple[int, ...]
    look_at: tuple[int | None, ...]


class _Gathered:
    """What waits for one subscription."""

    __slots__ = ("asked", "due", "look_at", "most", "ready", "subscription", "wait")

    def __init__(self, subscription: int) -> None:
        self.subscription = subscription
        self.most = 1
        self.wait = 0
        self.due = [0] * len(Priority)  # by priority; up to `most`, more need not be known
        self.ready = [True] * len(Priority)  # by priority: there may be a batch to make
        self.look_at: int | None = None  # when its timer rings
        self.asked = False


class Gathering:
    """
    When to ask for batches, for the subscriptions that are served.

    Never awaits. What is on disk is the truth: every answer takes the place of what was counted before.
    """

    def __init__(self) -> None:
        self._gathered: dict[int, _Gathered] = {}
        self._ready: dict[int, _Gathered] = {}
        self._stalled: dict[int, _Gathered] = {}  # ready, but its lane has enough
        self._timers: list[tuple[int, int]] = []  # (time, subscription)

    def open(self, subscription: int, *, most: int, wait: int) -> None:
        """Begin to serve *subscription*, or with other limits: what it has on disk is asked for at once."""
        gathered = self._gathered.get(subscription)
        if gathered is None:
            gathered = self._gathered[subscription] = _Gathered(subscription)
        gathered.most, gathered.wait = most, wait
        self._make_ready(gathered, Priority)

    def close(self, subscription: int) -> None:
        """Forget what waits for *subscription*: it stays on disk."""
        self._gathered.pop(subscription, None)
        self._ready.pop(subscription, None)
        self._stalled.pop(subscription, None)

    def add(self, delivery: Delivery, *, now: int) -> None:
        """A delivery was committed that waits for others."""
        gathered = self._gathered.get(delivery.subscription)
        if gathered is None:
            return
        if delivery.due_at > now:
            self._look(gathered, delivery.due_at)
            return
        gathered.due[delivery.priority] += 1
        if gathered.due[delivery.priority] >= gathered.most:
            self._make_ready(gathered, (delivery.priority,))
        else:
            self._look(gathered, delivery.due_at + gathered.wait)

    def asks(self, now: int, room: Callable[[int], tuple[int, ...]]) -> list[Compose]:
        """
        What to ask the store for; each is answered by `composed`.

        *room* tells how many batches more a subscription's lane should have, of each priority and those before it: where that
        is none for what waits, it waits for `resume`.
        """
        while self._timers and self._timers[0][0] <= now:
            time, subscription = heappop(self._timers)
            gathered = self._gathered.get(subscription)
            if gathered is not None and gathered.look_at == time:
                gathered.look_at = None
                self._make_ready(gathered, Priority)
        asks = []
        ready, self._ready = self._ready, {}
        for subscription, gathered in ready.items():
            if gathered.asked:
                continue  # the answer comes after all that was added until now, and tells when to look again
            limits = room(subscription)
            if any(limit > 0 for limit, is_ready in zip(limits, gathered.ready, strict=True) if is_ready):
                gathered.asked, gathered.ready = True, [False] * len(Priority)
                asks.append(Compose(subscription, gathered.most, gathered.wait, limits))
            else:
                self._stalled[subscription] = gathered
        return asks

    def resume(self, subscription: int) -> None:
        """The lane of *subscription* has less than before."""
        if subscription in self._stalled:
            self._ready[subscription] = self._stalled.pop(subscription)

    def composed(self, asked: Compose, composed: Composed | None, *, now: int) -> None:
        """The answer to *asked*, None where nothing can be stored now; given before any later commit is added."""
        gathered = self._gathered.get(asked.subscription)
        if gathered is None:
            return
        gathered.asked = False
        look_at: tuple[int | None, ...] = (now + AGAIN,)
        if composed is not None:
            gathered.due = list(composed.due)
            look_at = composed.look_at
        gathered.look_at = None
        if (asked.most, asked.wait) != (gathered.most, gathered.wait):
            self._make_ready(gathered, Priority)
            return
        for priority, time in zip(Priority, look_at, strict=False):
            if time is not None and time <= now:
                self._make_ready(gathered, (priority,))
            elif time is not None:
                self._look(gathered, time)

    def next_due(self) -> int | None:
        """When to ask again if nothing happens before."""
        return self._timers[0][0] if self._timers else None

    def _make_ready(self, gathered: _Gathered, priorities: Iterable[Priority]) -> None:
        for priority in priorities:
            gathered.ready[priority] = True
        self._stalled.pop(gathered.subscription, None)
        self._ready[gathered.subscription] = gathered

    def _look(self, gathered: _Gathered, time: int) -> None:
        """See to it that *gathered* is looked at by *time*."""
        if gathered.look_at is not None and gathered.look_at <= time:
            return
        if len(self._timers) > 2 * len(self._gathered) + 100:  # most of them are of earlier times that did not last
            self._timers = [each for each in self._timers if self._is_current(*each)]
            heapify(self._timers)
        gathered.look_at = time
        heappush(self._timers, (time, gathered.subscription))

    def _is_current(self, time: int, subscription: int) -> bool:
        gathered = self._gathered.get(subscription)
        return gathered is not None and gathered.look_at == time
