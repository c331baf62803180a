"""Times, durations and rates, as users write them."""

from __future__ import annotations

import string
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hookengine.times import (
    LONGEST_DURATION,
    Duration,
    Rate,
    Time,
    format_duration,
    format_time,
    interval,
    parse_duration,
    parse_time,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST = 253370764799999  # ms: the end of the year 9998


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0ms", 0),
        ("500ms", 500),
        ("1s", 1000),
        ("15s", 15_000),
        ("5m", 300_000),
        ("24h", 86_400_000),
        ("30d", 2_592_000_000),
        ("007s", 7000),
        ("36500d", LONGEST_DURATION),
    ],
)
def test_durations(text: str, expected: int) -> None:
    """A duration is read in its unit."""
    assert expected == parse_duration(text)
    assert expected == Duration.parse(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "s",
        "15",
        "-1s",
        "+1s",
        "1.5s",
        "1 s",
        " 1s",
        "1s ",
        "1s\n",
        "1S",
        "1w",
        "1h30m",
        "\u0661s",
        "1e3s",
        "36501d",
        "99999d",
        "9" * 400,
    ],
)
def test_bad_durations(text: str) -> None:
    """What is no duration, or a longer one than anybody means, is refused with a short sentence."""
    with pytest.raises(ValueError, match="duration") as caught:
        parse_duration(text)

    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("ms", "expected"),
    [
        (0, "0s"),
        (1, "1ms"),
        (999, "999ms"),
        (1000, "1s"),
        (1500, "1500ms"),
        (90_000, "90s"),
        (3_600_000, "1h"),
        (172_800_000, "2d"),
    ],
)
def test_durations_are_printed_in_the_largest_whole_unit(ms: int, expected: str) -> None:
    """The unit is the largest in which the number is whole."""
    assert expected == format_duration(ms)


@given(st.integers(0, LONGEST_DURATION))
def test_durations_go_round(ms: int) -> None:
    """What is printed is read as it was."""
    assert ms == parse_duration(format_duration(ms))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-11-22T02:10:00.123Z", 1795313400123),
        ("2026-11-22t02:10:00.123z", 1795313400123),
        ("2026-11-22T04:10:00.123+02:00", 1795313400123),
        ("2026-11-21T20:40:00.1239999-05:30", 1795313400123),
        ("2026-11-22T02:10:00.123456789012Z", 1795313400123),
        ("2026-11-22T02:10:00.1Z", 1795313400100),
        ("1970-01-01T00:30:00+00:30", 0),
        ("2024-02-29T00:00:00-00:00", 1709164800000),
        ("9998-12-31T23:59:59.999Z", LAST),
    ],
)
def test_times(text: str, expected: int) -> None:
    """An RFC 3339 time is read with its offset; what is finer than a millisecond is cut off."""
    assert expected == parse_time(text)
    assert expected == Time.parse(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("9999-12-31", "expected a time", id="I76-date"),
        pytest.param("9999-12-31T23:59:59Z", "years", id="I76-last-year"),
        pytest.param("9999-12-31T23:59:59-23:59", "years", id="I76-beyond-datetime"),
        pytest.param("-1", "expected a time", id="I76-number"),
        pytest.param("NaN", "expected a time", id="I76-nan"),
        pytest.param("0000-01-01T00:00:00Z", "no such time", id="I76-year-0"),
        pytest.param("0001-01-01T00:00:00+23:59", "years", id="I76-before-datetime"),
        pytest.param("2016-12-31T23:59:60Z", "leap seconds", id="I76-leap"),
        pytest.param("2026-11-22T02:10:00", "zone", id="I76-no-zone"),
        pytest.param("1969-12-31T23:59:59.999Z", "years", id="before-the-epoch"),
        pytest.param("2026-02-29T00:00:00Z", "no such time", id="no-leap-year"),
        pytest.param("2026-11-22T24:00:00Z", "no such time", id="hour-24"),
        pytest.param("2026-11-22T00:00:00+24:00", "no such time", id="offset-24"),
        pytest.param("2026-11-22 02:10:00Z", "expected a time", id="space"),
        pytest.param("20261122T021000Z", "expected a time", id="basic-form"),
        pytest.param("2026-W47-7T02:10:00Z", "expected a time", id="week"),
        pytest.param("2026-11-22T02:10Z", "expected a time", id="no-seconds"),
        pytest.param("2026-11-22T02:10:00,5Z", "expected a time", id="comma"),
        pytest.param("2026-11-22T02:10:00.Z", "expected a time", id="no-fraction"),
        pytest.param("2026-11-22T02:10:00Z\n", "expected a time", id="newline"),
        pytest.param("\uff12026-11-22T02:10:00Z", "expected a time", id="wide-digit"),
        pytest.param("2026-11-22T02:10:00." + "0" * 9999 + "Z", "expected a time", id="long"),
        pytest.param("", "expected a time", id="empty"),
    ],
)
def test_bad_times(text: str, reason: str) -> None:
    """What is no time in reach is refused with a sentence, never with another error."""
    with pytest.raises(ValueError, match=reason) as caught:
        parse_time(text)

    assert ValueError is caught.type
    assert len(str(caught.value)) < 200


@given(st.text(alphabet=string.digits + "TZ:+-. ", max_size=32))
def test_any_text_is_a_time_or_refused(text: str) -> None:
    """Whatever the text, a time within bounds or a ValueError comes out."""
    try:
        assert 0 <= parse_time(text) <= LAST
    except ValueError as error:
        assert ValueError is type(error)  # noqa: PT017  # either ending is right


@given(st.integers(0, LAST), st.integers(-1439, 1439))
def test_times_go_round(ms: int, offset: int) -> None:
    """Times are printed in UTC with milliseconds, and read again in any offset."""
    text = format_time(ms)
    local = (EPOCH + timedelta(milliseconds=ms)).astimezone(timezone(timedelta(minutes=offset)))

    assert (24, "Z") == (len(text), text[-1])
    assert ms == parse_time(text)
    assert ms == parse_time(local.isoformat())


def test_time_is_printed() -> None:
    """The form is that of the contract."""
    assert "2026-11-22T02:10:00.003Z" == format_time(1795313400003)
    assert "1969-12-31T23:59:59.999Z" == format_time(-1)


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        ("1/s", 1000.0),
        ("10/s", 100.0),
        ("600/m", 100.0),
        ("3/h", 1_200_000.0),
        ("1/d", 86_400_000.0),
        ("999999/s", 1000 / 999_999),
    ],
)
def test_rates(rate: str, expected: float) -> None:
    """A rate is so many in a unit of time, and keeps its spelling."""
    assert expected == pytest.approx(interval(rate))
    assert rate == Rate.parse(rate)


@pytest.mark.parametrize(
    "rate",
    [
        "",
        "10",
        "/s",
        "0/s",
        "-1/s",
        "1.5/s",
        "1000000/s",
        "1/ms",
        "1/S",
        "1 / s",
        "01/s",
        "1/s\n",
        "\N{ARABIC-INDIC DIGIT ONE}/s",
    ],
)
def test_bad_rates(rate: str) -> None:
    """What is no rate is named."""
    with pytest.raises(ValueError, match="expected a rate such as '10/s'"):
        Rate.parse(rate)
