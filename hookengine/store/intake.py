"""What goes into the writer, and what it tells of its commits."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from msgspec import Struct
from msgspec.structs import replace

from hookengine.models import Attempt, Delivery, DisabledReason, Event, Health, Place, Priority, Rules, Subscription

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hookengine.clock import Clock
    from hookengine.gathering import Compose, Composed
    from hookengine.lanes import Mark
    from hookengine.matching import Index
    from hookengine.scheduler import Refill
    from hookengine.store.batch import RowNumbers

# Names of their own: see `models`.
_LANE, _GATHERING = Place.LANE, Place.GATHERING

Line = tuple[int, str]  # subscription and ordering key: its deliveries go one after the other


class Draft(Struct, frozen=True, kw_only=True, gc=False):
    """An event that a producer wants accepted; `digest` is of its request, where the producer chose the id."""

    id: str | None = None
    tenant: str
    type: str
    data: bytes
    occurred_at: int | None = None
    priority: Priority = Priority.NORMAL
    ordering_key: str | None = None
    deliver_at: int | None = None
    expires_at: int | None = None
    only: frozenset[str] | None = None
    digest: bytes | None = None


def accept(
    draft: Draft, *, index: Index, numbers: RowNumbers, clock: Clock, now: int, lines: set[Line]
) -> tuple[Event, list[Delivery]]:
    """
    The event that *draft* becomes, and its deliveries to the subscriptions that match.

    *lines* are those in which somebody stands; where nobody does, the new delivery leads its line.
    """
    numbers.events += 1
    event = Event(
        seq=numbers.events,
        id=draft.id or clock.new_id("evt"),
        tenant=draft.tenant,
        type=draft.type,
        data=draft.data,
        accepted_at=now,
        occurred_at=now if draft.occurred_at is None else draft.occurred_at,
        ordering_key=draft.ordering_key,
    )
    due_at = now if draft.deliver_at is None else max(now, draft.deliver_at)
    deliveries = []
    for subscription in index.match(draft.tenant, draft.type, draft.only):
        numbers.deliveries += 1
        delivery = Delivery(
            seq=numbers.deliveries,
            id=clock.new_id("dlv"),
            event=event.seq,
            subscription=subscription.seq,
            priority=draft.priority,
            due_at=due_at,
            created_at=now,
            expires_at=draft.expires_at,
            place=_GATHERING if subscription.seq in index.gathering else _LANE,
        )
        if index.fifo and (line := line_of(subscription.seq, draft.ordering_key, index)) is not None:
            delivery = lined_up(delivery, line, lines)
        deliveries.append(delivery)
    return event, deliveries


def line_of(subscription: int, ordering_key: str | None, index: Index) -> Line | None:
    """Where an event's delivery stands; None unless its subscription wants order. Events without a key share one line."""
    return (subscription, ordering_key or "") if subscription in index.fifo else None


def lined_up(delivery: Delivery, line: Line, lines: set[Line]) -> Delivery:
    """*delivery* in its line, which it leads unless the line is among *lines*, those in which somebody stands."""
    place = Place.FOLLOWING if line in lines else _LANE
    lines.add(line)
    return replace(delivery, line=line[1], place=place, priority=Priority.NORMAL)


class Key(Struct, frozen=True, kw_only=True, gc=False):
    """An Idempotency-Key with its scope, and the digest of the request's bytes."""

    tenant: str
    method: str
    path: str
    key: str
    digest: bytes

    @property
    def scope(self) -> tuple[str, str, str, str]:
        """What must be the same for the key to be the same."""
        return (self.tenant, self.method, self.path, self.key)


class Answer(Struct, frozen=True, kw_only=True, gc=False):
    """What was answered to the first request with an Idempotency-Key."""

    status: int
    body: bytes


class Receipt(Struct, frozen=True, kw_only=True, gc=False):
    """An accepted event, and how many deliveries it made."""

    event: Event
    deliveries: int


class Replay(Struct, frozen=True, kw_only=True, gc=False):
    """
    Which deliveries of a subscription are made again, and how far that has come.

    Of an event's deliveries to the subscription the newest counts, with its state; the times are those of events' acceptance.
    """

    seq: int = 0
    subscription: int
    states: tuple[str, ...]
    since: int | None = None
    until: int | None = None
    newest: int  # the last that it looks at: there when it was asked for
    cursor: int = 0  # the last that it has looked at
    made: int = 0


class Result(Struct, frozen=True, kw_only=True, gc=False):
    """
    What became of a delivery: without an attempt, it expired.

    Of a batch each delivery has one, and they are recorded together. The first of them that `shares` its attempt with the
    others is the one that counts for its subscription.
    """

    before: Delivery
    after: Delivery
    attempt: Attempt | None
    rules: Rules
    profile: str | None = None
    event: Event | None = None  # None where it is gone
    head: Delivery | None = None  # of a batch: the one that was taken, and holds the slot
    shares: bool = False


class Recorded(Struct, frozen=True, kw_only=True, gc=False):
    """
    A committed result, with the counters after it and the reason if it disabled the subscription.

    It is `counted` unless its attempt was counted with another delivery of its batch.
    """

    result: Result
    delivery: Delivery
    health: Health
    disabled: DisabledReason | None = None
    counted: bool = True


class UnderWay(NamedTuple):
    """The deliveries that go alone, and the batches."""

    alone: list[int]
    batches: list[int]


class Listener(Protocol):
    """Who is told of commits, and knows what is in flight; called between two of them, and must not wait."""

    def current(self, delivery: Delivery) -> Delivery:
        """A delivery in flight as it is now: as it was taken, unless somebody else has changed it."""

    def under_way(self) -> UnderWay:
        """What is in flight, and its end still to be recorded."""

    def committed(self, events: int, deliveries: int) -> None:
        """A commit, with so many new events and deliveries in it."""

    def accepted(self, deliveries: Sequence[tuple[Delivery, Event | None]]) -> None:
        """New deliveries are committed; the event is None where it was not at hand."""

    def recorded(self, results: list[list[Recorded]]) -> None:
        """Results are committed, in the order of their attempts' ends, those of a batch together."""

    def promoted(self, delivery: Delivery) -> None:
        """The head of a batch or a line has left it, and *delivery* leads it now."""

    def composed(self, asked: Compose, composed: Composed | None) -> None:
        """What became of the batches that were *asked* for; None where they cannot be stored now."""

    def unrecorded(self, results: Sequence[Result], error: Exception) -> None:
        """A result, or those of a batch, cannot be stored; the deliveries stay as they were on disk."""

    def unreadable(self, where: str, error: Exception) -> None:
        """A stored row cannot be read; *where* names it."""

    def changed(self, before: Subscription | None, after: Subscription | None) -> None:
        """A subscription was made, changed, enabled, disabled or deleted."""

    def signed_anew(self, tenant: str) -> None:
        """The secrets of *tenant* have changed."""

    def overruled(self, before: Delivery, after: Delivery) -> None:
        """Somebody else than its attempt has changed a delivery."""

    def replaying(self, subscription: Subscription, count: int, *, finished: bool) -> None:
        """A replay will make *count* deliveries, or has made them."""

    def refilled(self, refill: Refill, deliveries: list[Delivery], mark: Mark | None) -> None:
        """The answer to a refill."""

    def storage(self, error: Exception | None) -> None:
        """Commits fail with *error*, or work again."""

    def room(self, lack: Exception | None) -> None:
        """New events are refused with *lack*, because there is no room for them, or find some again; all else goes on."""
