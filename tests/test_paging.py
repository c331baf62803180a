"""Query parameters: read, or named with every mistake in them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from multidict import MultiDict

from hookengine.errors import Invalid
from hookengine.paging import Query, newest, page
from hookengine.store import BEFORE_ALL, Slice

if TYPE_CHECKING:
    from collections.abc import Mapping

KNOWN = {"state", "since", "until"}
TIME = 1_790_000_000_500
CURSOR = page([], 7).next_cursor


def refused(given: Mapping[str, Any]) -> list[tuple[str | None, str]]:
    """The parameters that are wrong, with the codes."""
    query = Query(given, KNOWN)
    query.choice("state", ["active", "disabled"])
    with pytest.raises(Invalid) as found:
        query.slice(None)
    assert {None} == {mistake.pointer for mistake in found.value.mistakes}
    return [(mistake.parameter, mistake.code) for mistake in found.value.mistakes]


def test_defaults() -> None:
    """Without parameters it is the first page of everything, and None is no parameter."""
    assert Slice(limit=50, before=BEFORE_ALL) == Query({}, set()).slice(None)
    assert Slice(limit=50, tenant="acme") == Query({"limit": None, "since": None, "other": None}, set()).slice("acme")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param({"limit": "1"}, Slice(limit=1), id="least"),
        pytest.param({"limit": "250"}, Slice(limit=250), id="most"),
        pytest.param({"limit": 7}, Slice(limit=7), id="Python's limit"),
        pytest.param({"limit": "007"}, Slice(limit=7), id="zeros"),
        pytest.param({"cursor": CURSOR}, Slice(limit=50, before=7), id="cursor"),
        pytest.param({"since": "2026-09-21T14:13:20.5Z"}, Slice(limit=50, since=TIME), id="since"),
        pytest.param({"until": "2026-09-21T16:13:20.5+02:00"}, Slice(limit=50, until=TIME), id="offset"),
        pytest.param(
            {
                "since": datetime.fromtimestamp(TIME / 1000, UTC),
                "until": datetime.fromtimestamp(TIME / 1000, timezone(timedelta(hours=-3))),
            },
            Slice(limit=50, since=TIME, until=TIME),
            id="datetimes",
        ),
    ],
)
def test_slices(given: dict[str, Any], expected: Slice) -> None:
    """What is right is read, as texts over HTTP and as values in Python."""
    assert expected == Query(given, KNOWN).slice(None)


@pytest.mark.parametrize(
    "limit",
    ["0", "251", "-1", "1.0", "", " 1", "1 ", "1_0", "0x1", "ten", "\N{ARABIC-INDIC DIGIT ONE}", "9" * 5000, 0, True, 1.0],
)
def test_wrong_limits(limit: object) -> None:
    """A limit is 1 to 250 in plain digits."""
    assert [("limit", "invalid_value")] == refused({"limit": limit})


@pytest.mark.parametrize("name", ["state", "since", "limit", "cursor"])
def test_half_a_character_is_wrong(name: str) -> None:
    """A str can hold half of a surrogate pair, which no stored text has: it is a mistake, and no error of the database."""
    assert (name, "invalid_value") in refused({name: "\ud800"})


@pytest.mark.parametrize(
    "cursor", ["", "x", "\u20ac", "YWJj", "Nw==", CURSOR + "====x" if CURSOR else "", "YmVmb3JlOi0x", "YmVmb3JlOjA="]
)
@pytest.mark.parametrize("number", [None, 0, -1, 2**63, 10**30, "7 "])
def test_wrong_cursors(cursor: str, number: object) -> None:
    """A cursor is one that we made."""
    given = cursor if number is None else page([], number).next_cursor  # type: ignore[arg-type]  # which we never make

    assert [("cursor", "invalid_value")] == refused({"cursor": given})


@pytest.mark.parametrize(
    "time",
    [
        pytest.param("9999-12-31T00:00:00Z", id="I76-9999"),
        pytest.param("-1", id="I76-negative"),
        pytest.param("NaN", id="I76-NaN"),
        pytest.param("0000-01-01T00:00:00Z", id="I76-year 0"),
        pytest.param("2026-06-30T23:59:60Z", id="I76-leap second"),
        pytest.param("2026-01-01T00:00:00", id="I76-no zone"),
        pytest.param(datetime(2026, 1, 1), id="I76-no zone in Python"),  # noqa: DTZ001  # that is the case
        pytest.param("", id="empty"),
        pytest.param(5, id="a number"),
        pytest.param("1" * 10_000, id="long"),
    ],
)
def test_wrong_times(time: object) -> None:
    """A time that cannot be is named, however it is wrong."""
    assert [("since", "invalid_value")] == refused({"since": time})


def test_every_mistake_at_once() -> None:
    """All that is wrong is in one error."""
    found = refused({"stat": "x", "state": "held", "limit": "x", "cursor": "x", "since": "x", "until": "x"})

    expected = ["stat", "state", "limit", "cursor", "since", "until"]
    assert sorted(expected) == sorted(str(name) for name, _ in found)
    assert ("stat", "unknown_parameter") in found


def test_repeated_parameters() -> None:
    """A parameter that is there twice says two things, and is a mistake even where they agree."""
    given = MultiDict([("state", "active"), ("state", "active"), ("x", "1"), ("x", "2"), ("limit", "1")])

    assert [("x", "unknown_parameter"), ("state", "invalid_value"), ("x", "invalid_value")] == refused(given)


def test_long_names_are_cut() -> None:
    """No more than 100 characters of a name come back."""
    assert [("x" * 100, "unknown_parameter")] == refused({"x" * 5000: "1"})


def test_choices() -> None:
    """A value that is known is returned, a missing one is None."""
    assert "active" == Query({"state": "active"}, KNOWN).choice("state", ["active"])
    assert Query({}, KNOWN).choice("state", ["active"]) is None


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param(None, None, id="none"),
        pytest.param("*", ("*",), id="one"),
        pytest.param("order.*, user.created", ("order.*", "user.created"), id="two"),
    ],
)
def test_patterns(given: str | None, expected: tuple[str, ...] | None) -> None:
    """Patterns of event types have commas between them."""
    query = Query({"types": given}, {"types"}, paged=False)

    assert expected == query.patterns("types")
    query.raise_if_any()


@pytest.mark.parametrize("given", ["", "a,", "a b", "order*", "*.created", "a" * 200])
def test_wrong_patterns(given: str) -> None:
    """What is no pattern of event types is a mistake of the parameter."""
    query = Query({"types": given}, {"types"}, paged=False)
    query.patterns("types")
    with pytest.raises(Invalid) as found:
        query.raise_if_any()

    assert [("types", "invalid_value")] == [(mistake.parameter, mistake.code) for mistake in found.value.mistakes]


@pytest.mark.parametrize("name", ["limit", "cursor"])
def test_what_is_not_paged_takes_no_page(name: str) -> None:
    """The parameters of lists are unknown where there is no list."""
    with pytest.raises(Invalid) as found:
        Query({name: "1"}, set(), paged=False).raise_if_any()

    assert [(name, "unknown_parameter")] == [(mistake.parameter, mistake.code) for mistake in found.value.mistakes]


@pytest.mark.parametrize("after", [1, 51, 2**62])
def test_pages_lead_to_each_other(after: int) -> None:
    """The cursor of a page is where the next one starts; the last has none."""
    first = page(["a"], after)

    assert (["a"], after) == (first.data, Query({"cursor": first.next_cursor}, KNOWN).slice(None).before)
    assert page([], None).next_cursor is None


class Item(NamedTuple):
    """Something that is kept in memory."""

    seq: int


def test_pages_of_what_is_in_memory() -> None:
    """The newest come first, whatever the order in memory, and each page leads to the next until the last."""
    items = [Item(seq) for seq in (3, 1, 5, 2, 4)]
    pages, before = [], BEFORE_ALL
    while before:
        found, after = newest(items, Slice(limit=2, before=before))
        pages.append([item.seq for item in found])
        before = after or 0

    assert [[5, 4], [3, 2], [1]] == pages
    assert ([], None) == newest([], Slice(limit=2))
