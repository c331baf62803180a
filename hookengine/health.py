"""Failure counters, the breaker, the widths, and when a subscription is disabled."""

from __future__ import annotations

from typing import assert_never

from msgspec.structs import replace

from hookengine.models import (
    Accepted,
    Broken,
    DisabledReason,
    Health,
    Interrupted,
    Outcome,
    Rank,
    Refused,
    Rules,
    Standing,
    Unreachable,
)

FAILING_AFTER = 3  # failures running, from which on a subscription is not trusted with more than one slot
BREAKER_OPENS_AFTER = 10
BREAKER_FIRST_PAUSE = 5_000  # ms
BREAKER_LONGEST_PAUSE = 300_000
OWN_PAUSE = 5_000  # ms, for as long as a failed lookup is remembered

_FAILURES = (Refused, Unreachable)
_TRUSTED, _UNTRIED, _FAILING = Rank  # a name of its own: see `models`


def count(health: Health, outcome: Outcome, *, now: int) -> Health:
    """The counters after *outcome*; what is not the endpoint's doing moves none."""
    match outcome:
        case Accepted():
            return replace(health, consecutive_failures=0, last_success_at=now, failing_since=None)
        case Unreachable(is_the_proxys=True):
            return health
        case Refused() | Unreachable():
            return replace(
                health,
                consecutive_failures=health.consecutive_failures + 1,
                last_failure_at=now,
                failing_since=now if health.failing_since is None else health.failing_since,
            )
        case Interrupted() | Broken():
            return health
        case _:
            assert_never(outcome)


def enabled(health: Health, *, now: int) -> Health:
    """The counters of a subscription that is enabled again: a new run, and trust to be earned."""
    return replace(health, consecutive_failures=0, failing_since=None, enabled_at=now)


def turned_back(health: Health, *, now: int) -> Health:
    """
    The counters by a clock that has been set back to *now*: what seems to lie ahead has just been.

    What came before its subscription was enabled is still before that, so that trust is neither lost by this nor given.
    """
    enabled_at, success_at = health.enabled_at, health.last_success_at
    is_older = success_at is not None and enabled_at is not None and success_at < enabled_at
    return replace(
        health,
        last_success_at=_no_later(success_at, now - 1 if is_older else now),
        last_failure_at=_no_later(health.last_failure_at, now),
        failing_since=_no_later(health.failing_since, now),
        enabled_at=_no_later(enabled_at, now),
    )


def _no_later(moment: int | None, now: int) -> int | None:
    return None if moment is None else min(moment, now)


def skipped(health: Health, time: int, *, now: int) -> Health:
    """
    The counters after *time* (ms) by which a clock has jumped forward to *now*, or this machine has slept.

    No run has lasted for that; one that has begun since begins now.
    """
    return health if health.failing_since is None else replace(health, failing_since=min(health.failing_since + time, now))


def disables(health: Health, outcome: Outcome, rules: Rules, *, now: int) -> DisabledReason | None:
    """Whether *outcome*, already in the counters, disables the subscription, and why."""
    if not isinstance(outcome, _FAILURES) or (isinstance(outcome, Unreachable) and outcome.is_the_proxys):
        return None
    if isinstance(outcome, Refused) and outcome.response is not None and outcome.response.status in rules.gone:
        return DisabledReason.GONE
    if rules.disable_after_failures is not None and health.consecutive_failures >= rules.disable_after_failures:
        return DisabledReason.FAILURES
    run = 0 if health.failing_since is None else now - health.failing_since
    if rules.disable_after is not None and run >= rules.disable_after:
        return DisabledReason.FAILURES
    return None


def rank(health: Health) -> Rank:
    """How far a subscription with these counters is trusted: the same after a restart, because they are rows."""
    if health.consecutive_failures >= FAILING_AFTER:
        return _FAILING
    if health.last_success_at is not None and health.last_success_at >= (health.enabled_at or 0):
        return _TRUSTED
    return _FAILING if health.consecutive_failures else _UNTRIED


def standing(health: Health, rules: Rules, *, max_concurrency: int) -> Standing:
    """What the scheduler may give a subscription of which only the counters are known: after a start, or a change by hand."""
    earned = rank(health)
    width = max_concurrency if earned is _TRUSTED else 1
    return Standing(width=width, rank=earned, resume_at=_breaker(health, rules))


def at_present(standing: Standing, health: Health, *, now: int) -> Standing:
    """*standing*, which waits no longer than *health* has it, or who is kept back alone, also if the clock has gone back."""
    return replace(standing, resume_at=min(standing.resume_at, now + max(OWN_PAUSE, _pause(health))))


def restand(before: Standing, health: Health, outcome: Outcome, rules: Rules, *, max_concurrency: int, now: int) -> Standing:
    """
    What the scheduler may give after *outcome*, already in the counters.

    A success widens by one, a throttling answer halves, who is not trusted has one slot, and who is kept back alone waits.
    """
    if isinstance(outcome, Interrupted) and outcome.keeps_nobody_else:
        return replace(before, resume_at=max(before.resume_at, now + OWN_PAUSE))
    width, earned, resume_at = before.width, rank(health), _breaker(health, rules)
    match outcome:
        case Accepted():
            width = min(max_concurrency, width + 1)
        case Refused(response=response) if response is not None and response.status in rules.throttle:
            width = max(1, width // 2)
    if earned is not _TRUSTED:  # whose breaker is open is one of these
        width = 1
    return Standing(width=width, rank=earned, resume_at=resume_at)


def _breaker(health: Health, rules: Rules) -> int:
    """When the open breaker lets the next probe through; 0 while it is closed."""
    pause = _pause(health)
    return health.last_failure_at + pause if rules.breaker and pause and health.last_failure_at is not None else 0


def _pause(health: Health) -> int:
    """How long a breaker lets nothing through after so many failures in a row, in ms."""
    beyond = health.consecutive_failures - BREAKER_OPENS_AFTER
    # The exponent is bounded before the shift: a run of a million failures must not make a number of a million bits.
    return 0 if beyond < 0 else min(BREAKER_FIRST_PAUSE << min(beyond, 16), BREAKER_LONGEST_PAUSE)
