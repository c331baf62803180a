"""What an attempt does to its delivery."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from hookengine.models import (
    Accepted,
    AttemptError,
    Broken,
    Delivery,
    DeliveryState,
    ErrorCode,
    Interrupted,
    Outcome,
    Priority,
    Refused,
    Response,
    Rules,
    Trigger,
    Unreachable,
)
from hookengine.retry import EXPIRED, INTERNAL_ERROR, expire, overruled, retry_after, settle

NOW = 1_700_000_000_000  # Tue, 14 Nov 2023 22:13:20 GMT
SECOND = 1_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

STANDARD = Rules(
    retry_schedule=(5 * SECOND, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, DAY),
    jitter=0.1,
    gone=frozenset({410}),
    throttle=frozenset({429, 502, 503, 504}),
    retry_after=frozenset({429, 503}),
)
PENDING = Delivery(
    seq=7,
    id="dlv_7",
    event=3,
    subscription=2,
    priority=Priority.HIGH,
    due_at=NOW - 40,
    attempt_count=2,
    step=2,
    trigger=Trigger.MANUAL,
    created_at=NOW - HOUR,
)
ERROR = AttemptError(code=ErrorCode.HTTP_STATUS, detail="")


def response(status: int, *retry_after: str) -> Response:
    """An answer, with its `Retry-After` headers."""
    headers = tuple(("Retry-After", value) for value in retry_after)
    return Response(status=status, headers=(("Date", "now"), *headers), body=b"", truncated=False)


def refused(status: int, *retry_after: str) -> Refused:
    """The outcome of an answer that is no success."""
    return Refused(error=ERROR, response=response(status, *retry_after))


FAILURES = [
    *(pytest.param(refused(status), id=f"R73-{status}") for status in (400, 404, 405, 415, 422)),
    pytest.param(refused(500), id="500"),
    pytest.param(refused(410), id="410"),
    pytest.param(refused(302), id="redirect"),
    pytest.param(Refused(error=ERROR), id="not-http"),
    pytest.param(Unreachable(error=ERROR), id="unreachable"),
]


def delay(outcome: Outcome, *, step: int = 0, rules: Rules = STANDARD, rand: float = 0.0) -> int:
    """The ms to the next attempt."""
    return settle(replace(PENDING, step=step), outcome, rules, now=NOW, rand=rand).due_at - NOW


def test_success_delivers() -> None:
    """An accepted delivery is finished, and its attempt counted."""
    after = settle(PENDING, Accepted(response=response(204)), STANDARD, now=NOW, rand=0.5)

    expected = replace(PENDING, state=DeliveryState.DELIVERED, finished_at=NOW, attempt_count=3, step=3, trigger=Trigger.AUTO)
    assert expected == after


@pytest.mark.parametrize("outcome", FAILURES)
def test_failure_waits_for_the_next_attempt(outcome: Outcome) -> None:
    """A failed attempt is counted, and the delivery stays pending until the schedule's next step."""
    after = settle(PENDING, outcome, STANDARD, now=NOW, rand=0.0)

    assert replace(PENDING, due_at=NOW + 30 * MINUTE, attempt_count=3, step=3, trigger=Trigger.AUTO) == after


@pytest.mark.parametrize("error", [None, AttemptError(code=ErrorCode.LOCAL_RESOURCES, detail="no file descriptors")])
def test_interruption_changes_nothing(error: AttemptError | None) -> None:
    """An attempt that we cut ourselves leaves the very same delivery, which is how the store knows."""
    assert settle(PENDING, Interrupted(error=error), STANDARD, now=NOW, rand=0.5) is PENDING


def test_interruption_spends_no_last_attempt() -> None:
    """An interrupted attempt after the last step gives nothing up."""
    last = replace(PENDING, step=9, attempt_count=9)

    assert settle(last, Interrupted(), STANDARD, now=NOW, rand=0.5) is last


def test_internal_error_parks_the_delivery() -> None:
    """A fault of ours ends the delivery at once, and is no attempt of the endpoint's."""
    broken = Broken(error=AttemptError(code=ErrorCode.INTERNAL_ERROR, detail="poison"))

    after = settle(PENDING, broken, STANDARD, now=NOW, rand=0.5)

    parked = replace(PENDING, state=DeliveryState.FAILED, finished_at=NOW, failed_label=INTERNAL_ERROR, trigger=Trigger.AUTO)
    assert parked == after
    assert "internal error" == INTERNAL_ERROR


@pytest.mark.parametrize("label", [None, "Webhook Dispatch Failed"])
@pytest.mark.parametrize("outcome", FAILURES)
def test_exhausted_schedule_fails(outcome: Outcome, label: str | None) -> None:
    """The attempt after the last step gives the delivery up, in the profile's words."""
    last = replace(PENDING, step=2, attempt_count=5)

    after = settle(last, outcome, Rules(retry_schedule=(1, 2), failed_label=label), now=NOW, rand=0.5)

    failed = replace(
        last,
        state=DeliveryState.FAILED,
        finished_at=NOW,
        failed_label=label,
        attempt_count=6,
        step=3,
        trigger=Trigger.AUTO,
    )
    assert failed == after


def test_empty_schedule_allows_one_attempt() -> None:
    """Without a schedule the first failure is the last."""
    after = settle(replace(PENDING, step=0), refused(503, "1"), Rules(retry_after=frozenset({503})), now=NOW, rand=0.0)

    assert DeliveryState.FAILED is after.state


def test_success_after_the_last_step_delivers() -> None:
    """The last attempt counts as much as the first."""
    after = settle(replace(PENDING, step=9), Accepted(response=response(200)), STANDARD, now=NOW, rand=0.0)

    assert DeliveryState.DELIVERED is after.state


def test_whole_schedule() -> None:
    """A delivery that always fails is tried once and once more for each step, at the step's distance."""
    delivery, now, delays = replace(PENDING, step=0, attempt_count=0), NOW, []
    while delivery.state is DeliveryState.PENDING:
        delivery = settle(delivery, refused(500), STANDARD, now=now, rand=0.0)
        if delivery.state is DeliveryState.PENDING:
            delays.append(delivery.due_at - now)
            now = delivery.due_at

    assert list(STANDARD.retry_schedule) == delays
    assert (10, 10, now) == (delivery.attempt_count, delivery.step, delivery.finished_at)


@pytest.mark.parametrize(
    ("rand", "expected"),
    [
        pytest.param(0.0, 300_000, id="none"),
        pytest.param(0.5, 315_000, id="half"),
        pytest.param(1 - 2**-53, 330_000, id="most"),
    ],
)
def test_jitter_grows_the_delay(rand: float, expected: int) -> None:
    """A delay grows by up to the profile's tenth."""
    assert expected == delay(refused(500), step=1, rand=rand)


@given(
    schedule=st.lists(st.integers(0, 365 * DAY), min_size=1, max_size=5).map(tuple),
    jitter=st.floats(0, 1),
    rand=st.floats(0, 1, exclude_max=True),
    data=st.data(),
)
def test_jitter_is_never_earlier(schedule: tuple[int, ...], jitter: float, rand: float, data: st.DataObject) -> None:
    """Whatever the jitter, no attempt comes before its time, nor later than the whole fraction allows."""
    step = data.draw(st.integers(0, len(schedule) - 1))

    waits = delay(refused(500), step=step, rules=Rules(retry_schedule=schedule, jitter=jitter), rand=rand)

    assert schedule[step] <= waits <= schedule[step] * (1 + jitter)


CAP = DAY  # the longest step of `standard`
RETRY_AFTER = [
    pytest.param(["120"], 120 * SECOND, id="RA01"),
    pytest.param(["0"], 5 * SECOND, id="RA02"),
    pytest.param(["-5"], 5 * SECOND, id="RA03"),
    pytest.param(["+5000"], 5 * SECOND, id="RA03-plus"),
    pytest.param([" 7 "], 7 * SECOND, id="RA05"),
    pytest.param(["\t7\t"], 7 * SECOND, id="RA05-tabs"),
    pytest.param(["1e9"], 5 * SECOND, id="RA06-1e9"),
    pytest.param(["nan"], 5 * SECOND, id="RA06-nan"),
    pytest.param(["inf"], 5 * SECOND, id="RA06-inf"),
    pytest.param(["3600.5"], 5 * SECOND, id="RA06-fraction"),
    pytest.param(["1_000"], 5 * SECOND, id="RA06-underscore"),
    pytest.param(["0x1000"], 5 * SECOND, id="RA06-hex"),
    pytest.param(["٣٣"], 5 * SECOND, id="RA06-arabic-digits"),
    pytest.param(["³³"], 5 * SECOND, id="RA06-superscripts"),
    pytest.param(["99999999999999999999"], CAP, id="RA07"),
    pytest.param(["9" * 40], CAP, id="RA07-40-digits"),
    pytest.param(["00000000000000000120"], 120 * SECOND, id="RA07-leading-zeros"),
    pytest.param(["86399"], CAP - SECOND, id="RA07-below-cap"),
    pytest.param(["86401"], CAP, id="RA07-above-cap"),
    pytest.param(["Wed, 21 Oct 2037 07:28:00 GMT"], CAP, id="RA08"),
    pytest.param(["Tue, 14 Nov 2023 22:15:20 GMT"], 2 * MINUTE, id="RA08-imf-fixdate"),
    pytest.param(["Tuesday, 14-Nov-23 22:15:20 GMT"], 2 * MINUTE, id="RA08-rfc850"),
    pytest.param(["Tue Nov 14 22:15:20 2023"], 2 * MINUTE, id="RA08-asctime"),
    pytest.param(["Wed, 21 Oct 2015 07:28:00 GMT"], 5 * SECOND, id="RA09"),
    pytest.param(["Tue, 14 Nov 2023 22:13:20 GMT"], 5 * SECOND, id="RA09-now"),
    pytest.param(["Fri, 31 Dec 9999 23:59:59 GMT"], CAP, id="RA10"),
    pytest.param(["Fri, 31 Dec 9999 23:59:59 -2359"], CAP, id="RA10-beyond-the-calendar"),
    pytest.param(["Mon, 01 Jan 0001 00:00:00 +2359"], 5 * SECOND, id="RA10-before-the-calendar"),
    pytest.param(["Tue, 14 Nov 2023 22:15:20 -0000"], 2 * MINUTE, id="RA12"),
    pytest.param(["Tue, 14 Nov 2023 22:15:20 +9999"], 5 * SECOND, id="RA13-zone"),
    pytest.param(["Wed, 32 Oct 2037 07:28:00 GMT"], 5 * SECOND, id="RA13-32-oct"),
    pytest.param(["soon"], 5 * SECOND, id="RA13-soon"),
    pytest.param([""], 5 * SECOND, id="RA13-empty"),
    pytest.param(["   "], 5 * SECOND, id="RA13-blank"),
    pytest.param(["120, 240"], 5 * SECOND, id="RA14"),
    pytest.param(["120", "240"], 5 * SECOND, id="RA14-two-headers"),
    pytest.param(["Wed, 21 Oct 2037 07:28:00 GMT, Wed, 21 Oct 2038 07:28:00 GMT"], 5 * SECOND, id="RA14-two-dates"),
    pytest.param(["Wed, 15 Nov 2023 22:13:20 GMT"], CAP, id="RA16-a-day-ahead"),
    pytest.param(["Mon, 13 Nov 2023 22:13:20 GMT"], 5 * SECOND, id="RA16-a-day-behind"),
    pytest.param(["1" * 8192], 5 * SECOND, id="RA17"),
    pytest.param([], 5 * SECOND, id="none"),
]


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(("values", "expected"), RETRY_AFTER)
def test_retry_after_delays_the_next_attempt(values: list[str], expected: int, status: int) -> None:
    """A usable hint delays beyond the schedule, up to its longest step; any other is as if it were not there."""
    assert expected == delay(refused(status, *values))


@pytest.mark.parametrize("status", [200, 301, 404, 500, 502, 504], ids=lambda status: f"RA15-{status}")
def test_retry_after_counts_on_the_profiles_codes_only(status: int) -> None:
    """An answer with another code asks for nothing."""
    assert 5 * SECOND == delay(refused(status, "3600"))


def test_retry_after_is_obeyed_where_the_profile_says_so() -> None:
    """A profile without such codes ignores the header."""
    assert 5 * SECOND == delay(refused(503, "3600"), rules=replace(STANDARD, retry_after=frozenset()))


def test_retry_after_never_shortens_the_schedule() -> None:
    """The later of schedule, with its jitter, and hint decides."""
    assert 330_000 == delay(refused(429, "310"), step=1, rand=1 - 2**-53)
    assert 310_000 == delay(refused(429, "310"), step=1, rand=0.0)


def test_jitter_may_pass_the_cap() -> None:
    """The longest step caps the hint, not the schedule itself."""
    assert DAY * 1.05 == delay(refused(429, "999999"), step=8, rand=0.5)


@given(st.text() | st.text(alphabet="0123456789 ,:-+GMTUTCWedJanOct\t", max_size=40))
def test_retry_after_survives_any_text(text: str) -> None:
    """Whatever a receiver writes is a delay, or nothing."""
    hint = retry_after([text], now=NOW)

    assert hint is None or hint >= 0


@given(st.datetimes(), st.sampled_from(["GMT", "-0000", "+0000", "+2359", "-2359", "EST", "Z", "+99999999"]))
def test_retry_after_survives_any_date(date: object, zone: str) -> None:
    """No date of the calendar, in no zone, raises or goes back in time."""
    hint = retry_after([f"{date:%a, %d %b} {date:%Y} {date:%H:%M:%S} {zone}"], now=NOW)

    assert hint is None or hint >= 0


@pytest.mark.parametrize(
    ("expires_at", "expired"),
    [
        pytest.param(None, False, id="never"),
        pytest.param(NOW + 1, False, id="not-yet"),
        pytest.param(NOW, True, id="now"),
        pytest.param(NOW - DAY, True, id="long-ago"),
    ],
)
def test_expiry(expires_at: int | None, expired: bool) -> None:
    """From its `expires_at` on a delivery is given up without an attempt."""
    delivery = replace(PENDING, expires_at=expires_at)

    after = expire(delivery, now=NOW)

    given_up = replace(delivery, state=DeliveryState.FAILED, finished_at=NOW, failed_label="expired", trigger=Trigger.AUTO)
    assert (given_up if expired else None) == after
    assert "expired" == EXPIRED


@pytest.mark.parametrize(
    ("expires_in", "expected"),
    [
        pytest.param(MINUTE, MINUTE, id="before-the-next-attempt"),
        pytest.param(HOUR, 30 * MINUTE, id="after-the-next-attempt"),
        pytest.param(-1, -1, id="during-the-attempt"),
    ],
)
def test_a_retry_does_not_outlast_the_expiry(expires_in: int, expected: int) -> None:
    """A delivery that expires before its next attempt is looked at when it expires, so that it ends in time."""
    after = settle(replace(PENDING, expires_at=NOW + expires_in), refused(429, "0"), STANDARD, now=NOW, rand=0.0)

    assert (DeliveryState.PENDING, NOW + expected) == (after.state, after.due_at)


@pytest.mark.parametrize(
    ("current", "outcome", "expected"),
    [
        pytest.param({}, "accepted", ("delivered", 3, 1), id="retried by hand, and came through"),
        pytest.param({}, "refused", ("pending", 3, 0), id="retried by hand: the whole schedule is left"),
        pytest.param({}, "interrupted", ("pending", 2, 0), id="retried by hand, and interrupted"),
        pytest.param({"state": "cancelled"}, "accepted", ("cancelled", 3, 0), id="cancelled"),
        pytest.param({"state": "cancelled"}, "refused", ("cancelled", 3, 0), id="cancelled, and refused"),
        pytest.param({"state": "failed"}, "accepted", ("failed", 3, 0), id="expired"),
        pytest.param({"state": "cancelled"}, "interrupted", ("cancelled", 2, 0), id="cancelled, and interrupted"),
    ],
)
def test_what_others_made_of_a_delivery_stands(current: dict[str, str], outcome: str, expected: tuple[str, int, int]) -> None:
    """An attempt counts whatever was done meanwhile; only what came through changes a state, and only of what waits."""
    taken = replace(PENDING, attempt_count=2, step=2)
    finished_at = 5 if current else None
    state = DeliveryState(current.get("state", "pending"))
    other = replace(taken, state=state, step=0, due_at=9, trigger=Trigger.MANUAL, finished_at=finished_at)
    accepted = Accepted(response=response(200))
    outcomes: dict[str, Outcome] = {"accepted": accepted, "refused": refused(500), "interrupted": Interrupted()}
    settled = settle(taken, outcomes[outcome], STANDARD, now=NOW, rand=0.0)

    after = overruled(taken, settled, other)

    assert expected == (after.state, after.attempt_count, after.step)
    assert (after is other) == (outcome == "interrupted")
