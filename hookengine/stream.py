"""
The live stream: the last things that happened, and where each of those who follow them stands.

While nobody follows, an item costs one small record. What its ids are is looked up, and what users see of it is made, when
somebody reads it, once for all of them. Nothing that is large is kept: no bodies, no headers.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

from msgspec import UNSET, Struct

from hookengine import views
from hookengine.models import OUTCOME_NAMES, DeliveryState, SubscriptionState, Trigger
from hookengine.observers import AttemptsFinished, DeliveryOverruled, Kinds, SubscriptionChanged
from hookengine.views import moment, optional_moment

if TYPE_CHECKING:
    from hookengine.clock import Clock
    from hookengine.models import Attempt, AttemptError, Delivery, Subscription
    from hookengine.observers import Happening
    from hookengine.store import Names

KEPT = 10_000  # items
_TURN = 256  # items read at once

_DISABLED = SubscriptionState.DISABLED  # a name of its own: see `models`

_ID = re.compile(r"([0-9a-f]{12})-([0-9]{1,18})")


class Ending(Struct, frozen=True, gc=False):
    """What is kept of an attempt."""

    number: int
    at: int
    duration: int
    trigger: Trigger
    outcome: str
    status: int | None
    error: AttemptError | None


class Item(Struct, gc=False):
    """Something that happened: to a delivery, by an attempt or without one, or to a subscription."""

    number: int
    at: int
    delivery: Delivery | None = None
    ending: Ending | None = None
    held: bool = False  # the delivery's subscription is disabled
    change: views.SubscriptionChange | None = None
    shown: views.StreamItem | None = None  # made when first read


class Ring:
    """The observer that keeps the last items; those who wait for more of them are woken."""

    hears: Kinds = (AttemptsFinished, DeliveryOverruled, SubscriptionChanged)

    def __init__(self, clock: Clock, size: int = KEPT) -> None:
        self._clock = clock
        self._items: list[Item | None] = [None] * size  # item n is at n modulo the size
        self._run = clock.new_bytes(6).hex()  # in every id, so that none of an earlier start is taken for one of this
        self.next = 1  # number of the next item
        self.closed = False
        self.waiting: set[Follower] = set()

    def __call__(self, happening: Happening) -> None:
        """Keep it, if it is something to follow."""
        match happening:
            case AttemptsFinished(finished=finished):
                now = self._clock.now()
                for each in finished:
                    ending = None if each.attempt is None else _ending(each.attempt)
                    held = each.subscription is not None and each.subscription.state is _DISABLED
                    self._keep(Item(self.next, now, each.delivery, ending, held))
            case DeliveryOverruled(delivery=delivery):
                # One brought forward, because its subscription was enabled, has not changed its state; they may be many.
                if delivery.state is not DeliveryState.PENDING or delivery.trigger is Trigger.MANUAL:
                    self._keep(Item(self.next, self._clock.now(), delivery))
            case SubscriptionChanged(before=before, after=after):
                # Shown at once: the subscriptions themselves hold secrets, and may be large.
                self._keep(Item(self.next, self._clock.now(), change=_shown_change(before, after)))

    def follow(self, last_id: str | None = None) -> Follower:
        """From now on, or from behind the item with *last_id*, if that is still known."""
        if last_id is None:
            return Follower(self, self.next, lost=False)
        found = _ID.fullmatch(last_id)
        if found is None or found[1] != self._run or int(found[2]) >= self.next:
            return Follower(self, self.oldest, lost=True)
        return Follower(self, int(found[2]) + 1, lost=False)

    def close(self) -> None:
        """Let everybody's following end."""
        self.closed = True
        self._wake()

    @property
    def oldest(self) -> int:
        """The number of the oldest item that is kept."""
        return max(1, self.next - len(self._items))

    def id_of(self, number: int) -> str:
        """Where to go on from, behind the item with this number."""
        return f"{self._run}-{number}"

    def between(self, first: int, end: int) -> list[Item]:
        """The items from *first* to before *end*, which are all kept."""
        size = len(self._items)
        return [item for number in range(first, end) if (item := self._items[number % size]) is not None]

    def _keep(self, item: Item) -> None:
        self._items[self.next % len(self._items)] = item
        self.next += 1
        if self.waiting:
            self._wake()

    def _wake(self) -> None:
        for follower in self.waiting:
            follower.wake.set()


class Follower:
    """One who reads along, at a pace of his own: a place in the ring, and nothing that grows."""

    def __init__(self, ring: Ring, position: int, *, lost: bool) -> None:
        self._ring = ring
        self._position = position  # the next item to read
        self._lost = lost
        self._left = False
        self.wake = asyncio.Event()

    @property
    def ended(self) -> bool:
        """Whether nothing more comes."""
        return self._left or self._ring.closed

    @property
    def id(self) -> str:
        """Where to go on from after what was read."""
        return self._ring.id_of(self._position - 1)

    def id_of(self, item: Item) -> str:
        """Where to go on from behind *item*."""
        return self._ring.id_of(item.number)

    def close(self) -> None:
        """Let the following end."""
        self._left = True
        self.wake.set()

    def has_lost(self) -> bool:
        """Whether items before the next one are gone, unread; asked once, it is told."""
        if self._position < self._ring.oldest:
            self._position = self._ring.oldest
            self._lost = True
        lost, self._lost = self._lost, False
        return lost

    async def more(self, patience: float) -> list[Item]:
        """What came, as soon as there is something; nothing after *patience* s, and when it has ended."""
        if self._position >= self._ring.next and not self.ended:
            self.wake.clear()
            self._ring.waiting.add(self)
            try:
                async with asyncio.timeout(patience):
                    await self.wake.wait()
            except TimeoutError:
                pass
            finally:
                self._ring.waiting.discard(self)
        if self.ended or self._position < self._ring.oldest:
            return []
        end = min(self._ring.next, self._position + _TURN)
        items = self._ring.between(self._position, end)
        self._position = end
        return items


def shown(item: Item, id: str, names: Names | None) -> views.StreamItem:
    """What users see of *item*; *names* is what its delivery is called by."""
    if item.delivery is None or names is None:
        return views.StreamItem(id=id, kind="subscription", at=moment(item.at), subscription=item.change)
    return views.StreamItem(
        id=id,
        kind="delivery" if item.ending is None else "attempt",
        at=moment(item.at),
        delivery=_shown_delivery(item.delivery, names, held=item.held),
        attempt=None if item.ending is None else _shown_ending(item.ending),
    )


def _ending(attempt: Attempt) -> Ending:
    outcome = attempt.outcome
    response = outcome.response
    return Ending(
        attempt.number,
        attempt.at,
        attempt.duration,
        attempt.trigger,
        OUTCOME_NAMES[type(outcome)],
        None if response is None else response.status,
        outcome.error,
    )


def _shown_ending(ending: Ending) -> views.Attempt:
    error = ending.error
    return views.Attempt(
        number=ending.number,
        at=moment(ending.at),
        outcome=ending.outcome,
        duration_ms=ending.duration,
        trigger=ending.trigger.value,
        status_code=ending.status,
        error=None if error is None else views.AttemptError(code=error.code.value, detail=error.detail),
    )


def _shown_delivery(d: Delivery, names: Names, *, held: bool) -> views.Delivery:
    pending = d.state is DeliveryState.PENDING
    return views.Delivery(
        id=d.id,
        event=names.event,
        subscription=names.subscription,
        tenant=names.tenant,
        type=names.type,
        state=DeliveryState.HELD.value if pending and held else d.state.value,
        attempt_count=d.attempt_count,
        next_attempt_at=moment(d.due_at) if pending and not held else None,
        created_at=moment(d.created_at),
        finished_at=optional_moment(d.finished_at),
        failed_label=UNSET if d.failed_label is None else d.failed_label,
    )


def _shown_change(before: Subscription | None, after: Subscription | None) -> views.SubscriptionChange:
    known = after or before
    assert known is not None  # noqa: S101  # a change is of something
    if before is None:
        change = "created"
    elif after is None:
        change = "deleted"
    elif before.state is after.state:
        change = "updated"
    else:
        change = "enabled" if after.state is SubscriptionState.ACTIVE else "disabled"
    reason = None if after is None else after.disabled_reason
    return views.SubscriptionChange(
        id=known.id, tenant=known.tenant, change=change, disabled_reason=None if reason is None else reason.value
    )
