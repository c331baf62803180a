"""What users may send: each rule alone, as far as it needs no server."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judging import DAY, NOW, event_mistakes, mistakes, subscription_mistakes
from msgspec import Raw

from hookengine import inputs
from hookengine.errors import Malformed
from hookengine.inputs import EventInput, EventTypeInput, TokenInput
from hookengine.jsontext import read_json
from hookengine.models import Priority
from hookengine.profiles import PROFILES
from hookengine.times import Time
from hookengine.validation import Problems


def event(**members: Any) -> EventInput:
    """A valid event."""
    problems = Problems()
    return problems.require(problems.convert(EventInput, {"type": "a", "data": Raw(b"1")} | members))


# Events.


@pytest.mark.parametrize(
    "type_",
    [
        "a",
        "order.created",
        "a.b.c",
        "a-b",
        "a/b",
        "a:b",
        "_",
        "0",
        "A_b.9",
        "hookengines.x",
        "hookengine_x",
        "a.hookengine.b",
        "a" * 128,
    ],
)
def test_types(type_: str) -> None:
    """Words of letters, digits and underscores, joined by single marks, are a type."""
    assert [] == event_mistakes(type=type_)


@pytest.mark.parametrize(
    "type_",
    [
        "",
        ".",
        ".a",
        "a.",
        "a..b",
        "a.-b",
        "*",
        "a.*",
        "a b",
        "a\n",
        "\na",
        "é",
        "a\0",
        "a" * 129,
        "../x",
        "a\r\nX: 1",
        "\N{SUPERSCRIPT TWO}",
    ],
)
def test_no_types(type_: str) -> None:
    """Anything else is none."""
    assert [("/type", "invalid_value")] == event_mistakes(type=type_)


@pytest.mark.parametrize("type_", ["hookengine", "hookengine.x", "hookengine-x", "hookengine/x", "hookengine:x"])
def test_types_of_ours(type_: str) -> None:
    """Types whose first word is ours are not published by others."""
    assert [("/type", "reserved_type")] == event_mistakes(type=type_)


@pytest.mark.parametrize("id_", ["a", "-", "_", "A-9_", "a" * 64])
def test_ids(id_: str) -> None:
    """An id is what goes into a header and a URL as it is."""
    assert [] == event_mistakes(id=id_)


@pytest.mark.parametrize("id_", ["", "a" * 65, "a.b", "a/b", "a b", "é", "a\n", "%2e", "a\0"])
def test_no_ids(id_: str) -> None:
    """Anything else is none."""
    assert [("/id", "invalid_value")] == event_mistakes(id=id_)


@pytest.mark.parametrize("tenant", ["a", "acme", "a.b", "user@example.com", "a:b-c", "0", "a" * 64])
def test_tenants(tenant: str) -> None:
    """A tenant is a short label, such as a domain or an address."""
    assert [] == event_mistakes(tenant=tenant) == subscription_mistakes(tenant=tenant)


@pytest.mark.parametrize("tenant", ["", ".a", "-a", "a b", "a/b", "a\n", "é", "a" * 65])
def test_no_tenants(tenant: str) -> None:
    """Anything else is none."""
    assert [("/tenant", "invalid_value")] == event_mistakes(tenant=tenant) == subscription_mistakes(tenant=tenant)


def test_tenant_of_ours() -> None:
    """The tenant that is ours is nobody else's."""
    assert (
        [("/tenant", "reserved_tenant")] == event_mistakes(tenant="hookengine") == subscription_mistakes(tenant="hookengine")
    )


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        pytest.param({"deliver_at": NOW - DAY}, [], id="past"),
        pytest.param({"deliver_at": NOW + 365 * DAY}, [], id="I77-a year"),
        pytest.param({"deliver_at": NOW + 365 * DAY + 1}, ["/deliver_at"], id="I77-more"),
        pytest.param({"expires_at": NOW - 1}, [], id="expired"),
        pytest.param({"deliver_at": NOW + 5, "expires_at": NOW + 6}, [], id="expires later"),
        pytest.param({"deliver_at": NOW + 5, "expires_at": NOW + 5}, ["/expires_at"], id="expires at once"),
        pytest.param({"deliver_at": NOW - 5, "expires_at": NOW - 6}, ["/expires_at"], id="expires before"),
        pytest.param({"deliver_at": NOW + 400 * DAY, "expires_at": NOW}, ["/deliver_at", "/expires_at"], id="both"),
    ],
)
def test_times_of_an_event(members: dict[str, int], expected: list[str]) -> None:
    """An event is delivered within a year, and expires after that."""
    found = event_mistakes(**{name: Time(value) for name, value in members.items()})

    assert expected == [pointer for pointer, _ in found]


ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, True, 0, 1.5, "", "a b", "\ud800", "\u00e9", ["\ud800"], [1], {}, "x" * 200, 2**70]
)
MEMBERS = {
    "tenant": "acme",
    "id": "evt-1",
    "occurred_at": "2026-01-01T00:00:00Z",
    "priority": "high",
    "ordering_key": "k\u00e9",
    "deliver_at": "2026-01-01T00:00:00Z",
    "subscriptions": ["sub_1"],
}


@st.composite
def events(draw: st.DrawFn) -> dict[str, Any]:
    """The members of an event, of which one may be odd, missing, or unknown."""
    some = draw(st.lists(st.sampled_from(sorted(MEMBERS)), unique=True))
    made: dict[str, Any] = {"type": "order.created", "data": {"n": [1]}} | {name: MEMBERS[name] for name in some}
    name = draw(st.sampled_from([None, *made, "unknown"]))
    if name is not None:
        made[name] = draw(ODD)
    if draw(st.integers(0, 5)) == 0:
        del made[draw(st.sampled_from(sorted(made)))]
    return made


@given(events(), st.booleans(), st.sampled_from(["", ',"type":"twice"', ',"\\u0069d":"i"']))
def test_event_is_decoded_as_it_is_converted(members: dict[str, Any], ascii_only: bool, more: str) -> None:
    """An event that is decoded at once is the one that its members make, and one that is wrong is left to them."""
    text = (json.dumps(members, ensure_ascii=ascii_only)[:-1] + (more if members else "") + "}").encode(
        "utf-8", "surrogatepass"
    )

    def read(**how: Any) -> Any:
        try:
            return read_json(text, **how)
        except Malformed as error:
            return error.code

    plain, decoded = read(), read(decoder=inputs.EVENT_DECODER)
    if isinstance(plain, str):
        assert plain == decoded
        return
    whole = Problems().convert(EventInput, plain).whole
    if whole is None:
        assert plain == decoded
    else:
        assert whole == decoded
        assert bytes(whole.data) == bytes(decoded.data)


def test_place_of_an_event() -> None:
    """The places of mistakes begin where the event is."""
    problems = Problems()
    given = {"type": "hookengine.x", "data": Raw(b"1"), "tenant": "hookengine"}
    inputs.check_event(problems, problems.convert(EventInput, given, "/7"), "/7", now=NOW)

    assert ["/7/type", "/7/tenant"] == [mistake.pointer for mistake in problems.mistakes]


@pytest.mark.parametrize(
    "members",
    [
        {"type": "b"},
        {"data": Raw(b"1.0")},
        {"occurred_at": "2026-01-01T00:00:00Z"},
        {"priority": "high"},
        {"ordering_key": "k"},
        {"deliver_at": "2026-01-01T00:00:00Z"},
        {"expires_at": "2026-01-01T00:00:00Z"},
        {"subscriptions": []},
        {"subscriptions": ["a"]},
    ],
    ids=lambda members: next(iter(members)),
)
def test_digest(members: dict[str, Any]) -> None:
    """Events that differ in anything have different digests, the same has the same."""
    assert inputs.event_digest(event(**members), "t") == inputs.event_digest(event(**members), "t")
    assert inputs.event_digest(event(**members), "t") != inputs.event_digest(event(), "t")
    assert inputs.event_digest(event(**members), "t") != inputs.event_digest(event(**members), "u")


@pytest.mark.parametrize(
    ("given", "expected"),
    [(None, Priority.NORMAL), ("high", Priority.HIGH), ("normal", Priority.NORMAL), ("low", Priority.LOW)],
)
def test_priorities(given: str | None, expected: Priority) -> None:
    """The words are those of the scheduler."""
    assert expected is inputs.priority_of(event(priority=given))


# What an operator declares.


def named_mistakes(**names: str) -> list[tuple[str | None, str]]:
    """Where the names in a path are wrong."""
    problems = Problems()
    inputs.check_named(problems, **names)
    assert {None} >= {mistake.pointer for mistake in problems.mistakes}
    return [(mistake.parameter, mistake.code) for mistake in problems.mistakes]


@pytest.mark.parametrize(
    ("names", "code"),
    [
        pytest.param({"type": "order.created"}, None, id="type"),
        pytest.param({"type": "order/created:v1"}, None, id="type with other marks"),
        pytest.param({"type": "order.*"}, "invalid_value", id="pattern"),
        pytest.param({"type": "a" * 129}, "invalid_value", id="long type"),
        pytest.param({"type": "hookengine.x"}, "reserved_type", id="our type"),
        pytest.param({"tenant": "acme-1@x"}, None, id="tenant"),
        pytest.param({"tenant": "."}, "invalid_value", id="dot"),
        pytest.param({"tenant": "a b"}, "invalid_value", id="blank"),
        pytest.param({"tenant": ""}, "invalid_value", id="empty"),
        pytest.param({"tenant": "hookengine"}, "reserved_tenant", id="our tenant"),
    ],
)
def test_names_in_paths(names: dict[str, str], code: str | None) -> None:
    """What is made of a path's name must be named as everywhere else, and a mistake names the part of the path."""
    assert ([] if code is None else [(next(iter(names)), code)]) == named_mistakes(**names)


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        pytest.param({"user": "ann@example.com"}, [], id="least"),
        pytest.param({"user": "a+b", "scopes": ["admin"], "expires_at": "2030-01-01T00:00:00Z"}, [], id="most"),
        pytest.param({}, [("/user", "missing_member")], id="nobody"),
        pytest.param({"user": ".."}, [("/user", "invalid_value")], id="user that a path would swallow"),
        pytest.param({"user": "a/b"}, [("/user", "invalid_value")], id="slash"),
        pytest.param({"user": "a" * 129}, [("/user", "invalid_value")], id="long user"),
        pytest.param({"user": "a", "scopes": []}, [("/scopes", "invalid_value")], id="no scope"),
        pytest.param({"user": "a", "scopes": ["events:write", "all"]}, [("/scopes/1", "invalid_value")], id="unknown scope"),
        pytest.param({"user": "a", "tenant": "hookengine"}, [("/tenant", "reserved_tenant")], id="our tenant"),
        pytest.param({"user": "a", "tenant": "b", "scopes": ["admin"]}, [("/scopes", "unbound_scope")], id="bound admin"),
        pytest.param({"user": "a", "expires_at": "2020-01-01T00:00:00Z"}, [("/expires_at", "invalid_value")], id="over"),
        pytest.param({"user": "a", "token": "mine"}, [("/token", "unknown_member")], id="token of one's own"),
    ],
)
def test_tokens(members: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    """A token is for somebody who can be named in a path, opens something, and has not expired before it is made."""
    assert expected == mistakes(lambda problems, draft: inputs.check_token(problems, draft, now=NOW), TokenInput, members)


@pytest.mark.parametrize(
    ("secret", "expected"),
    [
        (None, []),
        ("whsec_" + "A" * 44, []),
        ("any text that can be printed", []),
        ("", ["/secret"]),
        (" a", ["/secret"]),
        ("a\nb", ["/secret"]),
        ("a" * 4096, ["/secret"]),
    ],
)
def test_tenant_secrets(secret: str | None, expected: list[str]) -> None:
    """A tenant's secret is the text that receivers put into their code."""
    problems = Problems()
    inputs.check_tenant_secret(problems, secret, PROFILES)

    assert expected == [mistake.pointer for mistake in problems.mistakes]


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        pytest.param({"description": ""}, [], id="least"),
        pytest.param({"description": "Two\nlines\t", "example": Raw(b"[1]"), "deprecated": True}, [], id="most"),
        pytest.param({"description": "a", "example": None, "deprecated": None}, [], id="nulls"),
        pytest.param({}, [("/description", "missing_member")], id="nothing"),
        pytest.param({"description": "a\0b"}, [("/description", "invalid_value")], id="NUL"),
        pytest.param({"description": "a" * 1001}, [("/description", "invalid_value")], id="long"),
        pytest.param({"description": "a", "deprecated": 1}, [("/deprecated", "invalid_type")], id="number for a truth"),
        pytest.param({"description": "a", "schema": {}}, [("/schema", "unknown_member")], id="more"),
    ],
)
def test_event_types(members: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    """A type is described in words, and may have an example."""
    assert expected == mistakes(lambda _problems, _draft: None, EventTypeInput, members)


def test_unlisted_type_has_a_suggestion() -> None:
    """A slip of the pen is told with what was meant; our own types need no list, and what is no type is told elsewhere."""
    problems = Problems()
    for type_ in ("order.created", "hookengine.subscription.disabled", None):
        inputs.check_listed(problems, type_, "/type", {"order.created"})
    assert [] == problems.mistakes
    inputs.check_listed(problems, "order.craeted", "/type", {"order.created"})
    [mistake] = problems.mistakes

    assert ("/type", "unknown_event_type") == (mistake.pointer, mistake.code)
    assert "no event type 'order.craeted' is declared - did you mean 'order.created'?" == mistake.detail


def test_suggestions_have_an_end() -> None:
    """A batch of mistakes, or a huge catalogue, costs no time for suggestions that nobody reads."""
    problems = Problems()
    for number in range(12):
        inputs.check_listed(problems, "order.craeted", f"/{number}/type", {"order.created"})
    inputs.check_listed(huge := Problems(), "order.craeted", "/type", {"order.created", *map(str, range(1000))})

    assert [True] * 10 + [False] * 2 == ["did you mean" in mistake.detail for mistake in problems.mistakes]
    assert ["no event type 'order.craeted' is declared"] == [mistake.detail for mistake in huge.mistakes]
