"""Times, durations and rates: as users write them, and as the engine has them, in milliseconds."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from hookengine.wording import quoted

LONGEST_DURATION = 36_500 * 86_400_000  # ms

_DURATION = re.compile(r"0*([0-9]{1,13})(ms|s|m|h|d)")
_UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}  # largest first
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:([0-9]{2})(?:\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})?")
_RATE = re.compile(r"([1-9][0-9]{0,5})/(s|m|h|d)")
_LONGEST_TIME = 64  # characters
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_YEAR = 9998  # an overlap or an offset may be added to a time without leaving what datetime can hold
_END_OF_TIME = (datetime(_LAST_YEAR + 1, 1, 1, tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)


def parse_duration(text: str) -> int:
    """The milliseconds of `<whole number><ms|s|m|h|d>`, at most 36500 days; a ValueError says what is wrong."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"expected a duration such as '500ms', '15s' or '24h', got {quoted(text)}")
    duration = int(match[1]) * _UNITS[match[2]]
    if duration > LONGEST_DURATION:
        raise ValueError(f"a duration is at most {format_duration(LONGEST_DURATION)}, got {quoted(text)}")
    return duration


def format_duration(ms: int) -> str:
    """*ms* in the largest unit that is whole; nothing at all in seconds."""
    if not ms:
        return "0s"
    unit = next(unit for unit, size in _UNITS.items() if ms % size == 0)
    return f"{ms // _UNITS[unit]}{unit}"


def parse_time(text: str) -> int:
    """
    The milliseconds since the epoch of an RFC 3339 time, in the years 1970 to 9998; what is finer is cut off.

    A ValueError says what is wrong.
    """
    match = _TIME.fullmatch(text) if len(text) <= _LONGEST_TIME else None
    if match is None:
        raise ValueError(f"expected a time such as '2026-11-22T02:10:00Z', got {quoted(text)}")
    if match[2] is None:
        raise ValueError("the time needs a zone: Z, or an offset such as +02:00")
    if match[1] == "60":
        raise ValueError("leap seconds cannot be represented: give second 59 or the next minute")
    try:
        time = datetime.fromisoformat(text.upper())
    except ValueError:
        raise ValueError(f"there is no such time as {quoted(text)}") from None
    ms = (time - _EPOCH) // timedelta(milliseconds=1)
    if not 0 <= ms < _END_OF_TIME:
        raise ValueError(f"the time must be in the years 1970 to {_LAST_YEAR}")
    return ms


@lru_cache(maxsize=1024)
def format_time(ms: int) -> str:
    """*ms* since the epoch as RFC 3339 in UTC, with milliseconds; remembered, because what a commit accepts has one time."""
    second, rest = divmod(ms, 1000)
    return f"{(_EPOCH + timedelta(seconds=second)).isoformat()[:19]}.{rest:03d}Z"


class Duration(int):
    """Milliseconds, written as a duration."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Duration:
        """As `parse_duration`."""
        return cls(parse_duration(text))


class Rate(str):
    """So many in a time, such as `10/s`."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Rate:
        """*text* as it is; raises ValueError for what is no rate."""
        interval(text)
        return cls(text)


def interval(rate: str) -> float:
    """The milliseconds from one to the next at *rate*, `<whole number>/<s|m|h|d>`."""
    found = _RATE.fullmatch(rate)
    if found is None:
        raise ValueError(f"expected a rate such as '10/s' or '600/m', got {quoted(rate)}")
    return _UNITS[found[2]] / int(found[1])


class Time(int):
    """Milliseconds since the epoch, written as an RFC 3339 time."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Time:
        """As `parse_time`."""
        return cls(parse_time(text))
