"""Which subscriptions get an event: the index by tenant and event type."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hookengine.models import SubscriptionState, WhileDisabled

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from hookengine.models import Subscription

EVERYTHING = "*"
_REMEMBERED = 10_000  # answers kept


def matches(pattern: str, event_type: str) -> bool:
    """Whether *pattern* (`order.created`, `order.*` or `*`) takes in *event_type*; `order.*` is what starts with `order.`."""
    if pattern == EVERYTHING:
        return True
    if pattern.endswith(".*"):
        return event_type.startswith(pattern[:-1])
    return pattern == event_type


class Index:
    """
    The subscriptions that are not deleted, found by key, by id, and by what they want.

    Changed by the writer alone, when a change commits.
    """

    def __init__(self, subscriptions: Iterable[Subscription] = ()) -> None:
        self._by_seq: dict[int, Subscription] = {}
        self._by_id: dict[str, Subscription] = {}
        self._by_tenant: dict[str, dict[int, Subscription]] = {}
        self._answers: dict[tuple[str, str], tuple[Subscription, ...]] = {}
        for subscription in subscriptions:
            self.put(subscription)

    def __len__(self) -> int:
        return len(self._by_seq)

    def __iter__(self) -> Iterator[Subscription]:
        return iter(self._by_seq.values())

    def put(self, subscription: Subscription) -> None:
        """Add *subscription*, or replace the one with its key."""
        self._answers.clear()
        self._by_seq[subscription.seq] = subscription
        self._by_id[subscription.id] = subscription
        self._by_tenant.setdefault(subscription.tenant, {})[subscription.seq] = subscription

    def remove(self, seq: int) -> None:
        """Forget the subscription with key *seq*."""
        self._answers.clear()
        subscription = self._by_seq.pop(seq)
        del self._by_id[subscription.id]
        tenants = self._by_tenant[subscription.tenant]
        del tenants[seq]
        if not tenants:
            del self._by_tenant[subscription.tenant]

    def get(self, seq: int) -> Subscription | None:
        """The subscription with key *seq*."""
        return self._by_seq.get(seq)

    def by_id(self, id: str) -> Subscription | None:  # noqa: A002  # the field's name
        """The subscription with this public id."""
        return self._by_id.get(id)

    def match(self, tenant: str, event_type: str, only: Collection[str] | None = None) -> tuple[Subscription, ...]:
        """
        Those of *tenant* that get an event of *event_type* now.

        With *only*, exactly those ids, whatever their types. Disabled ones are left out if they skip.
        """
        mine = self._by_tenant.get(tenant)
        if mine is None:
            return ()
        if only is not None:
            return tuple(s for s in mine.values() if s.id in only and _takes(s))
        found = self._answers.get((tenant, event_type))
        if found is None:
            found = tuple(s for s in mine.values() if _takes(s) and any(matches(p, event_type) for p in s.event_types))
            if len(self._answers) >= _REMEMBERED:
                self._answers.clear()
            self._answers[tenant, event_type] = found
        return found


def _takes(subscription: Subscription) -> bool:
    return subscription.state is SubscriptionState.ACTIVE or subscription.while_disabled is WhileDisabled.HOLD
