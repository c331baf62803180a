"""Which subscriptions get an event: the index by tenant and event type."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from functools import lru_cache
from typing import TYPE_CHECKING

from hookengine.models import Ordering, SubscriptionState, WhileDisabled

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from hookengine.models import Event, Subscription

EVERYTHING = "*"
OURS = "hookengine"  # the tenant, and the first word of the event types, that are the engine's own

_MADE_LATER = "it was made after the event"
_MOST_SHOWN = 5  # event types in an explanation
_MOST_REMEMBERED = 100_000  # subscriptions in matches: types are few, but a producer may make them up


def matches(pattern: str, event_type: str) -> bool:
    """Whether *pattern* (`order.created`, `order.*` or `*`) takes in *event_type*; `order.*` is what starts with `order.`."""
    if pattern == EVERYTHING:
        return True
    if pattern.endswith(".*"):
        return event_type.startswith(pattern[:-1])
    return pattern == event_type


@lru_cache(maxsize=4096)
def patterns(event_type: str) -> tuple[str, ...]:
    """Every pattern that takes in *event_type*."""
    dots = [place for place, char in enumerate(event_type) if char == "."]
    return (EVERYTHING, *(f"{event_type[:dot]}.*" for dot in dots), event_type)


class Way(StrEnum):
    """How an event came to make a delivery for a subscription."""

    EVENT = "event"
    REPLAY = "replay"


def explain(subscription: Subscription, event: Event, *, chosen: bool, way: Way | None, kept_since: int) -> str:
    """
    Why *event* made a delivery for *subscription* in this *way*, or why (without one) it made none: a clause without an end.

    With *chosen*, the event named its subscriptions itself. What ended before *kept_since* may be deleted.
    """
    if subscription.tenant != event.tenant:
        return f"it belongs to the tenant {subscription.tenant}, and the event to {event.tenant}"
    pattern = next((each for each in subscription.event_types if matches(each, event.type)), None)
    if way is Way.REPLAY:
        return "a replay sent it there"
    if way is Way.EVENT:
        if chosen:
            return "the event named it"
        if pattern is None:
            return f"its event types took in {event.type} then, and were changed since"
        return f"its event type {pattern} takes in {event.type}"
    return _absence(subscription, event, chosen=chosen, pattern=pattern, kept_since=kept_since)


def _absence(subscription: Subscription, event: Event, *, chosen: bool, pattern: str | None, kept_since: int) -> str:
    if subscription.created_at > event.accepted_at:
        return _MADE_LATER
    if chosen:
        return "the event named others"
    if pattern is None:
        return f"none of its event types ({_some(subscription.event_types)}) takes in {event.type}"
    if not _takes(subscription):
        return "it is disabled and skips events meanwhile"
    return _history(subscription, event, kept_since=kept_since)


def _history(subscription: Subscription, event: Event, *, kept_since: int) -> str:
    # What is of the same millisecond came after the event: else that would have made a delivery.
    if subscription.created_at >= event.accepted_at:
        return _MADE_LATER
    if subscription.updated_at >= event.accepted_at:
        return f"it takes in {event.type} now, but was changed after the event, or was disabled and skipped it"
    if event.accepted_at < kept_since:
        return "its delivery is past the retention"
    return "its delivery was deleted before the retention was over, or the clock was set back meanwhile"


def _some(event_types: tuple[str, ...]) -> str:
    shown = ", ".join(event_types[:_MOST_SHOWN])
    more = len(event_types) - _MOST_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


class Index:
    """
    The subscriptions that are not deleted, found by key, by id, and by what they want.

    Changed by the writer alone, when a change commits. What a match costs grows with what it finds, not with what there is.
    *gathers* tells whether the deliveries of a subscription are put into batches.
    """

    def __init__(
        self, subscriptions: Iterable[Subscription] = (), *, gathers: Callable[[Subscription], bool] = lambda _: False
    ) -> None:
        self.gathering: set[int] = set()  # the keys of those whose deliveries are put into batches
        self.fifo: set[int] = set()  # the keys of those that want order
        self.our_lines: set[tuple[int, str]] = set()  # that operational events may stand in: keys, without ordering keys
        self._gathers = gathers
        self._by_seq: dict[int, Subscription] = {}
        self.get = self._by_seq.get  # the subscription with a key, or None; asked several times for every delivery
        self._by_id: dict[str, Subscription] = {}
        self._wanting: dict[tuple[str, str], dict[int, Subscription]] = {}  # by tenant and pattern
        self._counts: Counter[str] = Counter()  # by tenant
        self._matched: dict[tuple[str, str], tuple[Subscription, ...]] = {}  # by tenant and type, since the last change
        self._remembered = 0  # subscriptions in `_matched`, and one more for each
        for subscription in subscriptions:
            self.put(subscription)

    def __len__(self) -> int:
        return len(self._by_seq)

    def __iter__(self) -> Iterator[Subscription]:
        return iter(self._by_seq.values())

    def put(self, subscription: Subscription) -> None:
        """Add *subscription*, or replace the one with its key."""
        self._forget_matches()
        before = self._by_seq.get(subscription.seq)
        if before is not None:
            self._forget(before)
        self._by_seq[subscription.seq] = subscription
        self._by_id[subscription.id] = subscription
        self._counts[subscription.tenant] += 1
        for pattern in subscription.event_types:
            self._wanting.setdefault((subscription.tenant, pattern), {})[subscription.seq] = subscription
        if self._gathers(subscription):
            self.gathering.add(subscription.seq)
        if subscription.ordering is Ordering.FIFO:
            self.fifo.add(subscription.seq)
            if subscription.tenant == OURS:
                self.our_lines.add((subscription.seq, ""))

    def remove(self, seq: int) -> None:
        """Forget the subscription with key *seq*."""
        self._forget_matches()
        self._forget(self._by_seq.pop(seq))

    def by_id(self, id: str) -> Subscription | None:  # the field's name
        """The subscription with this public id."""
        return self._by_id.get(id)

    def count(self, tenant: str) -> int:
        """How many *tenant* has, disabled ones too."""
        return self._counts[tenant]

    def match(self, tenant: str, event_type: str, only: Collection[str] | None = None) -> tuple[Subscription, ...]:
        """
        Those of *tenant* that get an event of *event_type* now, in the order of their making.

        With *only*, exactly those ids, whatever their types. Disabled ones are left out if they skip.
        """
        if only is not None:
            asked = (self._by_id.get(each) for each in only)
            return _takers({s.seq: s for s in asked if s is not None and s.tenant == tenant})
        name = (tenant, event_type)
        matched = self._matched.get(name)
        if matched is None:
            found: dict[int, Subscription] = {}
            for pattern in patterns(event_type):
                found |= self._wanting.get((tenant, pattern), {})
            matched = _takers(found)
            self._remember(name, matched)
        return matched

    def _remember(self, name: tuple[str, str], matched: tuple[Subscription, ...]) -> None:
        if self._remembered > _MOST_REMEMBERED:
            self._forget_matches()
        self._matched[name] = matched
        self._remembered += len(matched) + 1

    def _forget_matches(self) -> None:
        self._matched.clear()
        self._remembered = 0

    def _forget(self, subscription: Subscription) -> None:
        del self._by_id[subscription.id]
        self.gathering.discard(subscription.seq)
        self.fifo.discard(subscription.seq)
        self.our_lines.discard((subscription.seq, ""))
        self._counts[subscription.tenant] -= 1
        if not self._counts[subscription.tenant]:
            del self._counts[subscription.tenant]
        for pattern in set(subscription.event_types):
            wanting = self._wanting[subscription.tenant, pattern]
            del wanting[subscription.seq]
            if not wanting:
                del self._wanting[subscription.tenant, pattern]


def _takers(found: Mapping[int, Subscription]) -> tuple[Subscription, ...]:
    return tuple(found[seq] for seq in sorted(found) if _takes(found[seq]))


def _takes(subscription: Subscription) -> bool:
    return subscription.state is SubscriptionState.ACTIVE or subscription.while_disabled is WhileDisabled.HOLD
