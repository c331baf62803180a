"""What the engine itself publishes: operational events, in the transaction of what they tell of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from hookengine.matching import OURS
from hookengine.store import rows
from hookengine.store.intake import Draft, accept
from hookengine.times import format_time

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hookengine.clock import Clock
    from hookengine.matching import Index
    from hookengine.models import Attempt, Delivery, Event, Health, Subscription
    from hookengine.store.batch import RowNumbers
    from hookengine.store.commit import Commit
    from hookengine.store.intake import Line

SUBSCRIPTION_DISABLED = f"{OURS}.subscription.disabled"
SUBSCRIPTION_ENABLED = f"{OURS}.subscription.enabled"
DELIVERY_FAILED = f"{OURS}.delivery.failed"


class Announcer:
    """Makes operational events of one moment, for the subscriptions of the engine's own tenant."""

    def __init__(self, *, now: int, clock: Clock, numbers: RowNumbers, index: Index, lines: set[Line]) -> None:
        self.event_count = 0
        self._lines = lines  # those in which somebody stands
        self._now = now
        self._clock = clock
        self._numbers = numbers
        self._index = index

    def wanted(self, type: str, about: Subscription) -> bool:
        """
        Whether there is somebody to be told.

        Of what befalls the subscriptions of the engine's own tenant nothing is told: it could go on without end.
        """
        return about.tenant != OURS and bool(self._index.match(OURS, type))

    def announce(self, commit: Commit, type: str, data: Mapping[str, Any]) -> list[tuple[Delivery, Event]]:
        """Put an event that is wanted into *commit*, with its deliveries, which are returned."""
        self.event_count += 1
        draft = Draft(tenant=OURS, type=type, data=orjson.dumps(data))
        event, deliveries = accept(
            draft, index=self._index, numbers=self._numbers, clock=self._clock, now=self._now, lines=self._lines
        )
        commit.events.add(*rows.event_row(event, len(deliveries), draft, commit))
        for delivery in deliveries:
            rows.add_delivery(delivery, commit)
        return [(delivery, event) for delivery in deliveries]


def of_enabled(subscription: Subscription) -> dict[str, Any]:
    """What is told of a subscription that was enabled."""
    return {"subscription": subscription.id, "tenant": subscription.tenant, "name": subscription.name}


def of_disabled(subscription: Subscription, health: Health) -> dict[str, Any]:
    """What is told of a subscription that was disabled."""
    return of_enabled(subscription) | {
        "reason": subscription.disabled_reason,
        "consecutive_failures": health.consecutive_failures,
        "failing_since": _time(health.failing_since),
        "last_success_at": _time(health.last_success_at),
        "last_failure_at": _time(health.last_failure_at),
    }


def of_failed(
    delivery: str,
    subscription: Subscription,
    event: Event | None,
    *,
    attempt_count: int,
    label: str | None,
    attempt: Attempt | None = None,
) -> dict[str, Any]:
    """What is told of the delivery with this id, which was given up after *attempt*; the event is None where it is gone."""
    response, error = (None, None) if attempt is None else (attempt.outcome.response, attempt.outcome.error)
    return {
        "delivery": delivery,
        "event": None if event is None else event.id,
        "event_type": None if event is None else event.type,  # `type` would take the place of our own in some envelopes
        "subscription": subscription.id,
        "tenant": subscription.tenant,
        "attempt_count": attempt_count,
        "failed_label": label,
        "status_code": None if response is None else response.status,
        "error": None if error is None else error.code,
    }


def _time(moment: int | None) -> str | None:
    return None if moment is None else format_time(moment)
