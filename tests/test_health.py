"""Failure counters, the breaker, the widths, and when a subscription is disabled."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from hookengine.health import at_present, count, disables, enabled, rank, restand, skipped, standing, turned_back
from hookengine.models import (
    Accepted,
    AttemptError,
    Broken,
    DisabledReason,
    ErrorCode,
    Health,
    Interrupted,
    Outcome,
    Rank,
    Refused,
    Response,
    Rules,
    Standing,
    Unreachable,
)

NOW = 1_700_000_000_000
DAY = 86_400_000
ERROR = AttemptError(code=ErrorCode.HTTP_STATUS, detail="")
STANDARD = Rules(gone=frozenset({410}), throttle=frozenset({429, 502, 503, 504}), breaker=True, disable_after=5 * DAY)


def refused(status: int) -> Refused:
    """The outcome of an answer that is no success."""
    return Refused(error=ERROR, response=Response(status=status, headers=(), body=b"", truncated=False))


ACCEPTED = Accepted(response=Response(status=200, headers=(), body=b"", truncated=False))
UNREACHABLE = Unreachable(error=ERROR)
NOT_HTTP = Refused(error=ERROR)
FAILURES = [
    pytest.param(refused(500), id="refused"),
    pytest.param(NOT_HTTP, id="not-http"),
    pytest.param(UNREACHABLE, id="unreachable"),
]
NOT_THE_ENDPOINTS = [
    pytest.param(Interrupted(), id="stopped"),
    pytest.param(Interrupted(error=ERROR), id="local"),
    pytest.param(Broken(error=ERROR), id="internal-error"),
]
HEALTHY = Health(last_success_at=NOW - DAY)
FAILING = Health(
    consecutive_failures=4, last_success_at=NOW - 3 * DAY, last_failure_at=NOW - 1, failing_since=NOW - DAY, enabled_at=1
)


def failing(times: int, *, last_failure_at: int = NOW) -> Health:
    """The counters after so many failures in a row, of which the first is long ago."""
    return replace(HEALTHY, consecutive_failures=times, last_failure_at=last_failure_at, failing_since=NOW - DAY)


# Counters.


@pytest.mark.parametrize("outcome", FAILURES)
def test_first_failure_begins_a_run(outcome: Outcome) -> None:
    """A failure after a success is the first of its run."""
    expected = replace(HEALTHY, consecutive_failures=1, last_failure_at=NOW, failing_since=NOW)
    assert expected == count(HEALTHY, outcome, now=NOW)


@pytest.mark.parametrize("outcome", FAILURES)
def test_further_failure_goes_on_with_the_run(outcome: Outcome) -> None:
    """The beginning of a run stays where it was."""
    assert replace(FAILING, consecutive_failures=5, last_failure_at=NOW) == count(FAILING, outcome, now=NOW)


@pytest.mark.parametrize(("breaker", "resume_at"), [(0, NOW + 5_000), (NOW + 60_000, NOW + 60_000)])
def test_name_that_nobody_resolves_waits(breaker: int, resume_at: int) -> None:
    """Where no name server answers a subscription waits before it asks again, and loses none of its standing."""
    before = Standing(width=7, rank=Rank.TRUSTED, resume_at=breaker)
    error = AttemptError(code=ErrorCode.LOCAL_NETWORK, detail="")
    outcome = Interrupted(error=error, keeps_nobody_else=True)

    assert replace(before, resume_at=resume_at) == restand(before, Health(), outcome, STANDARD, max_concurrency=8, now=NOW)


def test_success_ends_the_run() -> None:
    """A success leaves of a run only when its last failure was."""
    assert replace(FAILING, consecutive_failures=0, last_success_at=NOW, failing_since=None) == count(
        FAILING, ACCEPTED, now=NOW
    )


@pytest.mark.parametrize("outcome", NOT_THE_ENDPOINTS)
def test_our_own_faults_move_no_counter(outcome: Outcome) -> None:
    """What is not the endpoint's doing leaves the very same counters, disables nothing and keeps the width."""
    before = standing(FAILING, STANDARD, max_concurrency=8)

    assert count(FAILING, outcome, now=NOW) is FAILING
    assert disables(FAILING, outcome, Rules(disable_after_failures=1, disable_after=1), now=NOW) is None
    assert before == restand(before, FAILING, outcome, STANDARD, max_concurrency=8, now=NOW)


def test_enabling_begins_anew() -> None:
    """Enabling resets the run and remembers when, and what was before stays on record."""
    assert replace(FAILING, consecutive_failures=0, failing_since=None, enabled_at=NOW) == enabled(FAILING, now=NOW)


# Automatic disable.


@pytest.mark.parametrize(
    ("outcome", "rules", "expected"),
    [
        pytest.param(refused(410), STANDARD, DisabledReason.GONE, id="R72"),
        pytest.param(refused(410), Rules(), None, id="410-like-any-failure"),
        pytest.param(refused(404), STANDARD, None, id="404"),
        pytest.param(refused(404), Rules(gone=frozenset({404, 410})), DisabledReason.GONE, id="404-of-a-profile"),
        pytest.param(NOT_HTTP, STANDARD, None, id="not-http"),
        pytest.param(UNREACHABLE, STANDARD, None, id="unreachable"),
        pytest.param(Accepted(response=refused(410).response or ACCEPTED.response), STANDARD, None, id="410-as-success"),
    ],
)
def test_gone_disables_at_once(outcome: Outcome, rules: Rules, expected: DisabledReason | None) -> None:
    """One answer with a code of the profile's `gone` is enough."""
    assert expected == disables(count(HEALTHY, outcome, now=NOW), outcome, rules, now=NOW)


def test_gone_is_the_reason_shown() -> None:
    """Where a 410 is also one failure too many, the 410 is the reason."""
    rules = replace(STANDARD, disable_after_failures=1)

    assert DisabledReason.GONE is disables(failing(1), refused(410), rules, now=NOW)


@pytest.mark.parametrize("outcome", FAILURES)
def test_disabled_after_so_many_failures(outcome: Outcome) -> None:
    """The tenth failure in a row disables, over any deliveries; the ninth does not."""
    rules, health, reasons = Rules(disable_after_failures=10), HEALTHY, []
    for _ in range(10):
        health = count(health, outcome, now=NOW)
        reasons.append(disables(health, outcome, rules, now=NOW))

    assert [None] * 9 + [DisabledReason.FAILURES] == reasons


def test_a_success_between_counts_from_zero() -> None:
    """Nine failures, a success and nine failures disable nothing."""
    health = failing(9)
    outcomes: list[Outcome] = [ACCEPTED, *[UNREACHABLE] * 9]
    for outcome in outcomes:
        health = count(health, outcome, now=NOW)

        assert disables(health, outcome, Rules(disable_after_failures=10), now=NOW) is None


def test_enabled_subscription_has_its_failures_again() -> None:
    """After enabling, the whole number of failures is needed once more."""
    health = enabled(failing(10), now=NOW)

    assert disables(count(health, UNREACHABLE, now=NOW), UNREACHABLE, Rules(disable_after_failures=2), now=NOW) is None


@pytest.mark.parametrize(
    ("health", "expected"),
    [
        pytest.param(Health(last_success_at=5, enabled_at=3), Health(last_success_at=5, enabled_at=3), id="all past"),
        pytest.param(Health(last_success_at=50, enabled_at=30), Health(last_success_at=10, enabled_at=10), id="trusted"),
        pytest.param(Health(last_success_at=30, enabled_at=50), Health(last_success_at=9, enabled_at=10), id="not yet"),
        pytest.param(Health(last_success_at=30, enabled_at=30), Health(last_success_at=10, enabled_at=10), id="at once"),
        pytest.param(Health(last_success_at=5, enabled_at=50), Health(last_success_at=5, enabled_at=10), id="not since"),
        pytest.param(
            Health(consecutive_failures=3, last_failure_at=40, failing_since=20),
            Health(consecutive_failures=3, last_failure_at=10, failing_since=10),
            id="failing",
        ),
        pytest.param(Health(), Health(), id="new"),
    ],
)
def test_clock_that_goes_back(health: Health, expected: Health) -> None:
    """Nothing lies ahead any more, and who is trusted, and who is not, stays that."""
    after = turned_back(health, now=10)

    assert expected == after
    assert rank(health) is rank(after)


def test_jump_of_the_clock_is_no_run() -> None:
    """A run has not lasted for what the clock has skipped, or this machine has slept."""
    health = skipped(count(HEALTHY, UNREACHABLE, now=NOW), 50 * DAY, now=NOW + 50 * DAY)
    later = count(health, UNREACHABLE, now=NOW + 50 * DAY + 1)

    assert disables(later, UNREACHABLE, STANDARD, now=NOW + 50 * DAY + 1) is None
    assert HEALTHY == skipped(HEALTHY, 50 * DAY, now=NOW)
    begun = count(HEALTHY, UNREACHABLE, now=NOW)  # after the jump, which is noticed later
    assert NOW + 5 == skipped(begun, 50 * DAY, now=NOW + 5).failing_since


def test_proxy_disables_nobody() -> None:
    """However long ago a run began, a proxy that fails meanwhile is no reason to end it."""
    health = count(HEALTHY, UNREACHABLE, now=NOW)
    proxys = Unreachable(error=AttemptError(code=ErrorCode.PROXY_ERROR, detail="no"))

    assert disables(count(health, proxys, now=NOW + 9 * DAY), proxys, STANDARD, now=NOW + 9 * DAY) is None


@pytest.mark.parametrize(
    ("lasted", "expected"),
    [
        pytest.param(5 * DAY - 1, None, id="not-yet"),
        pytest.param(5 * DAY, DisabledReason.FAILURES, id="just-now"),
        pytest.param(50 * DAY, DisabledReason.FAILURES, id="held-long"),
    ],
)
def test_disabled_after_a_long_run(lasted: int, expected: DisabledReason | None) -> None:
    """An unbroken run of failures disables when it has lasted five days from its first failure."""
    health = count(count(HEALTHY, UNREACHABLE, now=NOW), UNREACHABLE, now=NOW + lasted)

    assert expected == disables(health, UNREACHABLE, STANDARD, now=NOW + lasted)


def test_first_failure_after_a_long_silence_disables_nothing() -> None:
    """The run counts, not the time since the last success."""
    health = count(Health(last_success_at=NOW - 50 * DAY), UNREACHABLE, now=NOW)

    assert disables(health, UNREACHABLE, STANDARD, now=NOW) is None


@pytest.mark.parametrize("outcome", FAILURES)
def test_never_disabled_without_a_rule(outcome: Outcome) -> None:
    """A profile that names no rule disables nothing, however long it fails."""
    health = replace(FAILING, consecutive_failures=10**6, failing_since=0)

    assert disables(health, outcome, Rules(), now=NOW) is None


# Trust.


@pytest.mark.parametrize(
    ("health", "expected"),
    [
        pytest.param(Health(), Rank.UNTRIED, id="new"),
        pytest.param(Health(consecutive_failures=1, last_failure_at=NOW), Rank.FAILING, id="new-failed-once"),
        pytest.param(HEALTHY, Rank.TRUSTED, id="succeeded"),
        pytest.param(failing(1), Rank.TRUSTED, id="failed-once"),
        pytest.param(failing(2), Rank.TRUSTED, id="failed-twice"),
        pytest.param(failing(3), Rank.FAILING, id="failed-thrice"),
        pytest.param(enabled(failing(12), now=NOW), Rank.UNTRIED, id="enabled"),
        pytest.param(replace(HEALTHY, enabled_at=NOW - DAY - 1), Rank.TRUSTED, id="enabled-before-its-success"),
        pytest.param(count(enabled(failing(12), now=NOW), UNREACHABLE, now=NOW + 1), Rank.FAILING, id="enabled-failed"),
        pytest.param(count(enabled(failing(12), now=NOW), ACCEPTED, now=NOW + 1), Rank.TRUSTED, id="enabled-succeeded"),
    ],
)
def test_rank(health: Health, expected: Rank) -> None:
    """Trust needs a success since the last enabling, and fewer than three failures running."""
    assert expected is rank(health)


@pytest.mark.parametrize(
    ("health", "expected"),
    [
        pytest.param(Health(), Standing(width=1, rank=Rank.UNTRIED), id="new"),
        pytest.param(HEALTHY, Standing(width=8, rank=Rank.TRUSTED), id="trusted"),
        pytest.param(failing(2), Standing(width=8, rank=Rank.TRUSTED), id="failed-twice"),
        pytest.param(failing(3), Standing(width=1, rank=Rank.FAILING), id="failing"),
        pytest.param(failing(10), Standing(width=1, rank=Rank.FAILING, resume_at=NOW + 5_000), id="breaker"),
    ],
)
def test_standing_after_a_restart(health: Health, expected: Standing) -> None:
    """What rows tell is enough to begin with: all its slots for a trusted subscription, one for any other."""
    assert expected == standing(health, STANDARD, max_concurrency=8)


# Widths.


def stand_after(
    outcome: Outcome, *, width: int, health: Health = HEALTHY, rules: Rules = STANDARD, max_concurrency: int = 8
) -> Standing:
    """The standing after one more outcome."""
    before = Standing(width=width, rank=rank(health))
    return restand(before, count(health, outcome, now=NOW), outcome, rules, max_concurrency=max_concurrency, now=NOW)


@pytest.mark.parametrize(
    ("outcome", "width", "expected"),
    [
        pytest.param(ACCEPTED, 1, 2, id="success-adds-one"),
        pytest.param(ACCEPTED, 7, 8, id="success-up-to-the-limit"),
        pytest.param(ACCEPTED, 8, 8, id="success-not-beyond"),
        pytest.param(refused(429), 8, 4, id="R69"),
        pytest.param(refused(503), 4, 2, id="R70"),
        pytest.param(refused(502), 7, 3, id="R71-502"),
        pytest.param(refused(504), 3, 1, id="R71-504"),
        pytest.param(refused(429), 1, 1, id="never-below-one"),
        pytest.param(refused(500), 8, 8, id="500"),
        pytest.param(NOT_HTTP, 8, 8, id="not-http"),
        pytest.param(UNREACHABLE, 8, 8, id="unreachable"),
        pytest.param(Interrupted(error=ERROR), 5, 5, id="interrupted"),
        pytest.param(Broken(error=ERROR), 5, 5, id="internal-error"),
    ],
)
def test_width(outcome: Outcome, width: int, expected: int) -> None:
    """A success widens a trusted subscription by one, a throttling answer halves it, and nothing else moves it."""
    assert Standing(width=expected, rank=Rank.TRUSTED) == stand_after(outcome, width=width)


def test_width_shrinks_with_the_limit() -> None:
    """A success after the limit was lowered leaves no more than the limit."""
    assert 3 == stand_after(ACCEPTED, width=8, max_concurrency=3).width


def test_no_throttle_without_a_rule() -> None:
    """A profile without throttle codes keeps its width through a 429."""
    assert 8 == stand_after(refused(429), width=8, rules=Rules()).width


def test_third_failure_takes_the_width() -> None:
    """The first two failures running leave the width, the third leaves one slot."""
    assert Standing(width=8, rank=Rank.TRUSTED) == stand_after(UNREACHABLE, width=8, health=failing(1))
    assert Standing(width=1, rank=Rank.FAILING) == stand_after(UNREACHABLE, width=8, health=failing(2))


def test_first_failure_of_an_untried_one() -> None:
    """A subscription that never succeeded stands behind the untried after one failure."""
    assert Standing(width=1, rank=Rank.FAILING) == stand_after(UNREACHABLE, width=1, health=Health())


@pytest.mark.parametrize("health", [Health(), failing(3), failing(30), enabled(failing(30), now=NOW - 1)])
def test_width_is_earned_again(health: Health) -> None:
    """From one slot each success gives one more, up to the limit."""
    stands, widths = standing(health, STANDARD, max_concurrency=4), []
    for _ in range(5):
        health = count(health, ACCEPTED, now=NOW)
        stands = restand(stands, health, ACCEPTED, STANDARD, max_concurrency=4, now=NOW)
        widths.append(stands.width)

    assert [2, 3, 4, 4, 4] == widths
    assert Standing(width=4, rank=Rank.TRUSTED) == stands


# The breaker.


@pytest.mark.parametrize(
    ("failures", "pause"),
    [
        pytest.param(0, 0, id="0"),
        pytest.param(9, 0, id="9"),
        pytest.param(10, 5_000, id="10"),
        pytest.param(11, 10_000, id="11"),
        pytest.param(12, 20_000, id="12"),
        pytest.param(13, 40_000, id="13"),
        pytest.param(14, 80_000, id="14"),
        pytest.param(15, 160_000, id="15"),
        pytest.param(16, 300_000, id="16"),
        pytest.param(17, 300_000, id="17"),
        pytest.param(10**9, 300_000, id="a-billion"),
    ],
)
def test_breaker_pauses(failures: int, pause: int) -> None:
    """From ten failures running on, the next probe waits 5 s after the last failure, doubling to 5 min."""
    health = failing(failures, last_failure_at=NOW - 1)
    expected = NOW - 1 + pause if pause else 0

    assert expected == standing(health, STANDARD, max_concurrency=8).resume_at
    assert (
        expected
        == restand(Standing(width=1, rank=Rank.FAILING), health, UNREACHABLE, STANDARD, max_concurrency=8, now=NOW).resume_at
    )


def test_breaker_opens_with_the_tenth_failure() -> None:
    """Nine failures pause nothing; the tenth leaves one slot, after a pause."""
    assert 0 == stand_after(UNREACHABLE, width=1, health=failing(8)).resume_at
    assert Standing(width=1, rank=Rank.FAILING, resume_at=NOW + 5_000) == stand_after(refused(500), width=1, health=failing(9))


def test_success_closes_the_breaker() -> None:
    """The first success ends the pauses, and the width grows from one."""
    assert Standing(width=2, rank=Rank.TRUSTED) == stand_after(ACCEPTED, width=1, health=failing(20))


def test_enabling_closes_the_breaker() -> None:
    """An enabled subscription waits for no probe of its former life."""
    assert Standing(width=1, rank=Rank.UNTRIED) == standing(enabled(failing(20), now=NOW), STANDARD, max_concurrency=8)


def test_interruption_leaves_the_breaker() -> None:
    """A probe that we cut ourselves neither closes the breaker nor lengthens its pause."""
    assert NOW - 7 + 10_000 == stand_after(Interrupted(), width=1, health=failing(11, last_failure_at=NOW - 7)).resume_at


def test_no_breaker_without_a_rule() -> None:
    """A profile without a breaker never pauses."""
    assert 0 == standing(failing(50), Rules(), max_concurrency=8).resume_at


@pytest.mark.parametrize("status", [pytest.param(status, id=f"R73-{status}") for status in (400, 404, 405, 415, 422)])
def test_refusals_that_a_deployment_mends(status: int) -> None:
    """What looks like a mistake of ours is retried on the schedule for days, and disables no sooner than any failure."""
    health, at = HEALTHY, NOW
    while at < NOW + 5 * DAY:
        health = count(health, refused(status), now=at)
        assert disables(health, refused(status), STANDARD, now=at) is None
        at += DAY // 4

    assert DisabledReason.FAILURES == disables(count(health, refused(status), now=at), refused(status), STANDARD, now=at)


@pytest.mark.row("R75")
def test_flapping_endpoint_opens_no_breaker() -> None:
    """An endpoint that fails every other time keeps its trust and is never paused."""
    health, stands = HEALTHY, standing(HEALTHY, STANDARD, max_concurrency=8)
    for turn in range(100):
        outcome = ACCEPTED if turn % 2 else refused(500)
        health = count(health, outcome, now=NOW + turn)
        stands = restand(stands, health, outcome, STANDARD, max_concurrency=8, now=NOW)

        assert Standing(width=8, rank=Rank.TRUSTED) == stands


@pytest.mark.parametrize(
    ("failures", "pause"), [(0, 5_000), (9, 5_000), (10, 5_000), (11, 10_000), (16, 300_000), (10**6, 300_000)]
)
def test_breaker_waits_no_longer_than_its_pause(failures: int, pause: int) -> None:
    """After a clock that was set back it is the pause of so many failures that is waited for, from now on."""
    standing = Standing(width=1, rank=Rank.FAILING, resume_at=10**13)

    assert NOW + pause == at_present(standing, Health(consecutive_failures=failures), now=NOW).resume_at
    assert NOW - 1 == at_present(replace(standing, resume_at=NOW - 1), Health(), now=NOW).resume_at
