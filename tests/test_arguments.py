"""What a Python program gives, where its types do not hold it."""

from __future__ import annotations

from datetime import UTC, datetime
from math import inf
from typing import Any

import pytest

from hookengine import arguments
from hookengine.errors import Invalid


class Named(str):
    """A text with a class of its own."""

    __slots__ = ()


@pytest.mark.parametrize("name", ["a", "", "ü\U0001f600", Named("x")])
def test_names(name: str) -> None:
    """A text is one, whatever its class; nothing is one only where that may be."""
    assert name == arguments.text("id", name) == arguments.optional_text("id", name)
    assert arguments.optional_text("id", None) is None


@pytest.mark.parametrize("wrong", [None, 5, b"x", ["x"], "\ud800", "a\udfffb"], ids=ascii)
def test_what_no_name_can_be(wrong: object) -> None:
    """Another type, and what cannot be written as UTF-8, is a mistake in the parameter."""
    with pytest.raises(Invalid) as raised:
        arguments.text("id", wrong)

    [mistake] = raised.value.mistakes
    assert ("id", "invalid_value" if isinstance(wrong, str) else "invalid_type") == (mistake.parameter, mistake.code)


@pytest.mark.parametrize("wrong", ["3", 3.0, True, None, [3]], ids=repr)
def test_what_is_no_integer(wrong: object) -> None:
    """A whole number is one, and nothing else is, however it looks."""
    assert 3 == arguments.integer("version", 3)
    with pytest.raises(Invalid, match="expected an integer"):
        arguments.integer("version", wrong)


@pytest.mark.parametrize(("given", "meant"), [(1, 1.0), (0.5, 0.5), (-3, 0.0), (inf, inf), (10**400, inf), (True, 1.0)])
def test_seconds(given: float, meant: float) -> None:
    """A number of any size; what has passed is now."""
    assert meant == arguments.seconds("timeout", given)


@pytest.mark.parametrize("wrong", ["10", float("nan"), [1], b"1", None], ids=repr)
def test_what_are_no_seconds(wrong: object) -> None:
    """No number, or the one that is none, is a mistake."""
    with pytest.raises(Invalid, match="expected a number of seconds"):
        arguments.seconds("timeout", wrong)


@pytest.mark.parametrize(
    ("given", "meant"), [(("a",), ["a"]), ({"a": 1}, ["a"]), (iter([1, 2]), [1, 2]), ("ab", "ab"), (5, 5), (None, None)]
)
def test_arrays(given: Any, meant: object) -> None:
    """What holds several is an array; the letters of a text are not what was meant, and it stays to be refused."""
    assert meant == arguments.array(given)


@pytest.mark.parametrize("wrong", ["ab", 5, None, object()])
def test_what_holds_none(wrong: object) -> None:
    """Where several are needed, what holds none is a mistake that says what was expected."""
    assert [1] == arguments.several("events", (1,), "events")
    with pytest.raises(Invalid, match="expected several events"):
        arguments.several("events", wrong, "events")


def test_moments() -> None:
    """A datetime is printed, a text is what HTTP takes as well."""
    assert "2026-11-27T15:00:00+00:00" == arguments.moment(datetime(2026, 11, 27, 15, tzinfo=UTC))
    assert "2026-11-27" == arguments.moment("2026-11-27")
    assert arguments.moment(None) is None
