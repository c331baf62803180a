"""What a Python program gives, checked where types do not hold it, and as JSON would have brought it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from math import inf
from typing import Any

from hookengine.errors import Invalid, Mistake
from hookengine.wording import LONE_SURROGATE, SURROGATE

Moment = datetime | str  # an aware datetime, or RFC 3339


def text(parameter: str, value: object) -> str:
    """What names something; raises Invalid for what no name can be."""
    if not isinstance(value, str):
        raise _wrong(parameter, "invalid_type", f"expected a string, got {type(value).__name__}")
    if SURROGATE.search(value):
        raise _wrong(parameter, "invalid_value", LONE_SURROGATE)
    return value


def optional_text(parameter: str, value: object) -> str | None:
    """The same, or nothing."""
    return None if value is None else text(parameter, value)


def integer(parameter: str, value: object) -> int:
    """A whole number; raises Invalid for what is none."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong(parameter, "invalid_type", f"expected an integer, got {type(value).__name__}")
    return value


def seconds(parameter: str, value: object) -> float:
    """A time in seconds, none below 0; infinity is for ever. Raises Invalid for what is no number."""
    if not isinstance(value, int | float) or value != value:  # noqa: PLR0124  # NaN
        raise _wrong(parameter, "invalid_type", "expected a number of seconds")
    try:
        return max(0.0, float(value))
    except OverflowError:
        return inf


def several(parameter: str, value: object, what: str) -> list[Any]:
    """The elements of what holds several; raises Invalid for what holds none, or is a text, whose letters nobody means."""
    elements = array(value)
    if not isinstance(elements, list):
        raise _wrong(parameter, "invalid_type", f"expected several {what}")
    return elements


def array(value: object) -> object:
    """*value* as an array of JSON; a text and whatever else is none is left to be refused with all other mistakes."""
    if value is None or isinstance(value, str) or not isinstance(value, Iterable):
        return value
    return list(value)


def moment(value: Moment | None) -> str | None:
    """A time as JSON has it."""
    return value.isoformat() if isinstance(value, datetime) else value


def _wrong(parameter: str, code: str, detail: str) -> Invalid:
    return Invalid(mistakes=(Mistake(parameter=parameter, code=code, detail=detail),))
