"""What an attempt does to its delivery: `settle` is the only place where that is decided."""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import assert_never

from msgspec.structs import replace

from hookengine.models import (
    Accepted,
    Broken,
    Delivery,
    DeliveryState,
    Interrupted,
    Outcome,
    Refused,
    Response,
    Rules,
    Trigger,
    Unreachable,
)

EXPIRED = "expired"
INTERNAL_ERROR = "internal error"

# Names of their own: see `models`.
_DELIVERED, _FAILED, _AUTO = DeliveryState.DELIVERED, DeliveryState.FAILED, Trigger.AUTO

_LONGEST_HINT = 40  # characters: no date has more than 33, and no number that anyone means; two dates have more


def settle(delivery: Delivery, outcome: Outcome, rules: Rules, *, now: int, rand: float) -> Delivery:
    """
    The delivery after *outcome*.

    *rand* in [0, 1) places the retry within the jitter.
    """
    match outcome:
        case Accepted():
            return _finished(delivery, _DELIVERED, now=now, tried=1)
        case Interrupted():
            return delivery
        case Broken():
            return _finished(delivery, _FAILED, now=now, tried=0, label=INTERNAL_ERROR)
        case Refused(response=response):
            return _failed_once(delivery, rules, now=now, rand=rand, hint=_hint(response, rules, now))
        case Unreachable():
            return _failed_once(delivery, rules, now=now, rand=rand, hint=0)
        case _:
            assert_never(outcome)


def overruled(taken: Delivery, settled: Delivery, current: Delivery) -> Delivery:
    """
    What an attempt does to its delivery where somebody else has changed that since it was *taken*.

    *settled* is what the attempt alone would make of it, *current* what the other made of it. What came through has come
    through, unless it was cancelled; else it stays as the other wants it. In either case there was an attempt.
    """
    tried = settled.attempt_count - taken.attempt_count
    if current.state is DeliveryState.PENDING and settled.state is _DELIVERED and settled.finished_at is not None:
        return _finished(current, _DELIVERED, now=settled.finished_at, tried=tried)
    return replace(current, attempt_count=current.attempt_count + tried) if tried else current


def expire(delivery: Delivery, *, now: int) -> Delivery | None:
    """The delivery given up because its `expires_at` has come, or None while it has not."""
    if delivery.expires_at is None or now < delivery.expires_at:
        return None
    return _finished(delivery, _FAILED, now=now, tried=0, label=EXPIRED)


def retry_after(values: list[str], *, now: int) -> int | None:
    """
    The milliseconds that a `Retry-After` header asks for (RFC 9110, 10.2.3), or None if it says nothing usable.

    Two headers contradict each other and say nothing.
    """
    if len(values) != 1 or len(values[0]) > _LONGEST_HINT:
        return None
    text = values[0].strip(" \t")
    if text.isascii() and text.isdigit():
        return int(text) * 1000
    try:
        date = parsedate_to_datetime(text)
        if date.tzinfo is None:  # "-0000" and asctime: UTC by RFC 9110, 5.6.7
            date = date.replace(tzinfo=UTC)
        return max(0, int(date.timestamp() * 1000) - now)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None


def _hint(response: Response | None, rules: Rules, now: int) -> int:
    if response is None or response.status not in rules.retry_after:
        return 0
    return retry_after(response.header("retry-after"), now=now) or 0


def _failed_once(delivery: Delivery, rules: Rules, *, now: int, rand: float, hint: int) -> Delivery:
    if delivery.step >= len(rules.retry_schedule):
        return _finished(delivery, _FAILED, now=now, tried=1, label=rules.failed_label)
    delay = int(rules.retry_schedule[delivery.step] * (1 + rules.jitter * rand))
    due_at = now + max(delay, min(hint, max(rules.retry_schedule)))
    if delivery.expires_at is not None:
        due_at = min(due_at, delivery.expires_at)  # it is taken then, and found expired
    return replace(
        delivery,
        due_at=due_at,
        attempt_count=delivery.attempt_count + 1,
        step=delivery.step + 1,
        trigger=_AUTO,
    )


def _finished(delivery: Delivery, state: DeliveryState, *, now: int, tried: int, label: str | None = None) -> Delivery:
    return replace(
        delivery,
        state=state,
        finished_at=now,
        failed_label=label,
        attempt_count=delivery.attempt_count + tried,
        step=delivery.step + tried,
        trigger=_AUTO,
    )
