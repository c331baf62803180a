"""Profiles from the configuration: what they take over, what they change, and every mistake in them."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from msgspec.structs import fields, replace

from hookengine.envelopes import ENVELOPES
from hookengine.extensions import Profiles, ProfileTable, SignatureTable, read
from hookengine.models import Batching, Rules
from hookengine.profiles import PROFILES, Profile
from hookengine.schemes import SCHEMES, Scheme
from hookengine.validation import Problems

HMAC = {"header": "X-A", "value": "{signature}", "signed": "{body}"}


def reading(**tables: Any) -> tuple[Profiles, list[tuple[str | None, str, str]]]:
    """The profiles of *tables*, and the mistakes in them: where, which, in what words."""
    problems = Problems()
    profiles = read(problems, tables, "/profiles")
    return profiles, [(mistake.pointer, mistake.code, mistake.detail) for mistake in problems.mistakes]


def extended(extends: str = "standard", **keys: Any) -> Profile:
    """The profile of a table without mistakes."""
    profiles, mistakes = reading(acme={"extends": extends} | keys)
    assert [] == mistakes
    return profiles["acme"]


def wrong(extends: str = "standard", **keys: Any) -> list[tuple[str, str]]:
    """Where the table is wrong, and how."""
    profiles, mistakes = reading(acme={"extends": extends} | keys)
    assert list(PROFILES) == list(profiles)
    return [((pointer or "").removeprefix("/profiles/acme/"), code) for pointer, code, _ in mistakes]


def words(**tables: Any) -> str:
    """The sentence about the one mistake."""
    [(_, _, detail)] = reading(**tables)[1]
    return detail


@pytest.mark.parametrize("base", PROFILES)
def test_nothing_changed_is_the_same(base: str) -> None:
    """A table that says nothing is the profile that it extends, under its own name."""
    assert replace(PROFILES[base], name="acme") == extended(base)


@pytest.mark.parametrize(
    ("key", "value", "field", "expected"),
    [
        ("method", "PUT", "method", "PUT"),
        ("content_type", "text/plain; charset=utf-8", "content_type", "text/plain; charset=utf-8"),
        ("envelope", "data", "envelope", ENVELOPES["data"]),
        ("headers", {"X-B": "{retry}", "X-A": "a{id}"}, "headers", (("X-B", "{retry}"), ("X-A", "a{id}"))),
        ("headers", {}, "headers", ()),
        ("verify_on_save", 204, "verify_on_save", 204),
        ("verify_on_save", 0, "verify_on_save", None),
        ("secret_scope", "tenant", "secret_scope", "tenant"),
        ("signatures", [], "schemes", ()),
        ("signatures", [HMAC], "schemes", (Scheme(header="X-A", value="{signature}", signed="{body}"),)),
    ],
)
def test_field(key: str, value: Any, field: str, expected: Any) -> None:
    """A key replaces that field of the profile, the whole of it, and no other."""
    base = PROFILES["standard"]

    assert replace(base, name="acme", **{field: expected}) == extended(**{key: value})


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("success", "2xx", None),
        ("success", [200, 410], frozenset({200, 410})),
        ("timeout", "100ms", 100),
        ("timeout", "5m", 300_000),
        ("retry_schedule", ["0s", "30d"], (0, 2_592_000_000)),
        ("retry_schedule", [], ()),
        ("jitter", 1, 1.0),
        ("jitter", 0, 0.0),
        ("gone", [404, 404], frozenset({404})),
        ("gone", [], frozenset()),
        ("throttle", [500], frozenset({500})),
        ("retry_after", [], frozenset()),
        ("breaker", False, False),
        ("disable_after_failures", 3, 3),
        ("disable_after_failures", 0, None),
        ("disable_after", "1d", 86_400_000),
        ("disable_after", "0s", None),
        ("failed_label", "Oh nö", "Oh nö"),
        ("failed_label", "", None),
    ],
)
def test_rule(key: str, value: Any, expected: Any) -> None:
    """A key replaces that rule and no other; zero and the empty text take one back."""
    full = extended(success=[201], disable_after_failures=7, failed_label="x").rules
    profiles, mistakes = reading(
        base={"extends": "standard", "success": [201], "disable_after_failures": 7, "failed_label": "x"},
        acme={"extends": "base", key: value},
    )

    assert [] == mistakes
    assert replace(full, **{key: expected}) == profiles["acme"].rules


def test_all_keys_have_their_field() -> None:
    """Every field of a profile and of its rules can be set, and every field of a scheme."""
    of_profile = {field.name for field in fields(Profile)} - {"name", "rules", "schemes"} | {"signatures", "extends"}
    of_rules = {field.name for field in fields(Rules)}
    of_scheme = {field.name for field in dataclasses.fields(Scheme) if field.init}

    assert of_profile | of_rules == set(ProfileTable.__struct_fields__)
    assert of_scheme == set(SignatureTable.__struct_fields__)


@pytest.mark.parametrize("scheme", [scheme for schemes in SCHEMES.values() for scheme in schemes], ids=lambda s: s.header)
def test_schemes_can_be_written_down(scheme: Scheme) -> None:
    """Every scheme of ours could have come from a table."""
    written = {field.name: getattr(scheme, field.name) for field in dataclasses.fields(Scheme) if field.init}

    assert scheme == SignatureTable(**written).scheme()


def test_profiles_build_on_each_other_in_any_order() -> None:
    """A profile may extend one that stands further down."""
    profiles, mistakes = reading(
        c={"extends": "b", "timeout": "3s"},
        a={"extends": "github", "method": "PUT", "timeout": "1s"},
        b={"extends": "a", "timeout": "2s", "jitter": 0.5},
    )

    assert [] == mistakes
    assert [*PROFILES, "c", "a", "b"] == list(profiles)
    assert ("c", "PUT", 3_000, 0.5) == (
        profiles["c"].name,
        profiles["c"].method,
        profiles["c"].rules.timeout,
        profiles["c"].rules.jitter,
    )
    assert SCHEMES["github"] == profiles["c"].schemes


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"timeuot": "5s"}, ["timeuot"]),
        ({"method": "PATCH"}, ["method"]),
        ({"method": "post"}, ["method"]),
        ({"content_type": "json"}, ["content_type"]),
        ({"content_type": "text/plain\r\nX: y"}, ["content_type"]),
        ({"content_type": "text/plain "}, ["content_type"]),
        ({"envelope": "standrad"}, ["envelope"]),
        ({"envelope": 5}, ["envelope"]),
        ({"headers": {"X Y": "1", "TE": "x", "": "", "HOST": "h"}}, ["headers/X Y", "headers/TE", "headers/", "headers/HOST"]),
        ({"headers": {"X-A": "{body}", "X-B": "{id", "X-C": "}{"}}, ["headers/X-A", "headers/X-B", "headers/X-C"]),
        ({"headers": {"Authorization": "Bearer x", "cookie": "a=b"}}, ["headers/Authorization", "headers/cookie"]),
        ({"headers": {"X-A": "{}", "X-B": "é", "X-C": "a\nb"}}, ["headers/X-A", "headers/X-B", "headers/X-C"]),
        ({"headers": {"x-a": "1", "X-A": "2"}}, ["headers"]),
        ({"headers": {"Webhook-ID": "1"}}, ["headers"]),
        ({"success": "3xx"}, ["success"]),
        ({"success": []}, ["success"]),
        ({"success": [200, 600]}, ["success"]),
        ({"success": 200}, ["success"]),
        ({"timeout": "99ms"}, ["timeout"]),
        ({"timeout": "301s"}, ["timeout"]),
        ({"timeout": 5}, ["timeout"]),
        ({"retry_schedule": ["5", "31d", "1s"]}, ["retry_schedule/0", "retry_schedule/1"]),
        ({"retry_schedule": ["1s"] * 51}, ["retry_schedule"]),
        ({"jitter": -0.1}, ["jitter"]),
        ({"jitter": 1.5}, ["jitter"]),
        ({"jitter": float("nan")}, ["jitter"]),
        ({"gone": [99, "x"]}, ["gone/0", "gone/1"]),
        ({"throttle": 429}, ["throttle"]),
        ({"retry_after": [True]}, ["retry_after/0"]),
        ({"breaker": 1}, ["breaker"]),
        ({"verify_on_save": 600}, ["verify_on_save"]),
        ({"disable_after_failures": -1}, ["disable_after_failures"]),
        ({"disable_after": "soon"}, ["disable_after"]),
        ({"secret_scope": "global"}, ["secret_scope"]),
        ({"batch": "yes"}, ["batch"]),
        ({"batch": {"max_events": 0, "max_wait": "2h", "most": 1}}, ["batch/max_events", "batch/max_wait", "batch/most"]),
        ({"failed_label": "two\nlines"}, ["failed_label"]),
        ({"signatures": HMAC}, ["signatures"]),
        ({"signatures": [HMAC | {"header": "X A"}, HMAC | {"x": 1}]}, ["signatures/0/header", "signatures/1/x"]),
        ({"signatures": [{"header": "X-B"}]}, ["signatures/0/value", "signatures/0/signed"]),
        ({"signatures": [HMAC | {"value": "none"}]}, ["signatures/0"]),
        ({"signatures": [HMAC | {"signed": "{id}.{body}"}]}, ["signatures/0"]),
        ({"signatures": [HMAC | {"signed": "{tenant}{body}"}]}, ["signatures/0"]),
        ({"signatures": [HMAC | {"algorithm": "md5", "key": "raw"}]}, ["signatures/0/algorithm", "signatures/0/key"]),
        ({"signatures": [HMAC | {"encoding": "HEX"}]}, ["signatures/0/encoding"]),
        ({"signatures": [HMAC | {"timestamp": "now"}]}, ["signatures/0/timestamp"]),
        ({"signatures": [HMAC | {"algorithm": "ed25519"}]}, ["signatures/0"]),
        ({"signatures": [HMAC | {"value": "é{signature}"}]}, ["signatures/0/value"]),
        ({"signatures": [HMAC | {"prefix": "sk_"}]}, ["signatures"]),
        ({"signatures": [HMAC | {"key": "base64"}]}, ["signatures"]),
        ({"signatures": [HMAC, HMAC | {"header": "x-a"}]}, ["signatures"]),
        ({"signatures": [HMAC | {"id_header": "X-A"}]}, ["signatures"]),
        ({"signatures": [HMAC], "headers": {"x-a": ""}}, ["headers"]),
    ],
)  # fmt: skip
def test_wrong_keys(keys: dict[str, Any], expected: list[str]) -> None:
    """Each key that is wrong is named, and the profile is left out."""
    assert expected == [pointer for pointer, _ in wrong(**keys)]


def test_signatures_side_by_side() -> None:
    """Two signatures share a header where each can be told apart: as Standard Webhooks does it."""
    first = HMAC | {"value": "v1={signature}", "separator": ",", "several": True}
    second = first | {"value": "v2={signature}", "algorithm": "hmac-sha512"}

    assert 2 == len(extended(signatures=[first, second]).schemes)
    for change in ({"separator": ";"}, {"several": False}, {"value": "t={timestamp},v2={signature}"}):
        assert [("signatures", "invalid_value")] == wrong(signatures=[first, second | change])


def test_method_and_envelope_must_fit() -> None:
    """GET is for an envelope without a body, wherever the two come from."""
    assert "GET" == extended("clevertap", method="GET").method
    assert [("method", "invalid_value")] == wrong(method="GET")
    assert [("method", "invalid_value")] == wrong("clevertap", method="GET", envelope="data")
    profiles, mistakes = reading(base={"extends": "clevertap", "method": "GET"}, acme={"extends": "base", "envelope": "data"})
    assert ["/profiles/acme/envelope"] == [pointer for pointer, _, _ in mistakes]
    assert "base" in profiles


def test_batches_need_an_envelope_for_them() -> None:
    """Only an envelope that holds several events lets a request have several; with another one, what was said of it goes."""
    limits = {"max_events": 7, "max_wait": "5s"}
    assert [("batch", "invalid_value")] == wrong(batch=limits)
    assert [("batch", "invalid_value")] == wrong("clevertap", envelope="data", batch=limits)
    assert extended("clevertap", envelope="data").batch is None
    assert Batching() == extended("clevertap").batch
    assert Batching(max_events=7, max_wait=5000) == extended("clevertap", batch=limits).batch


def test_what_is_extended_must_be_there() -> None:
    """A base that is not known is named with those that are, and one that is missing with where it would be."""
    assert "did you mean 'github'?" in words(acme={"extends": "githbu"})
    assert "did you mean 'acme'?" in words(acme={"extends": "svix"}, beta={"extends": "acne"})
    assert [("/profiles/acme/extends", "missing_member", "'extends' is missing")] == reading(acme={})[1]


def test_circles_are_named_once() -> None:
    """Profiles that build on each other in a circle are one mistake, and so is each that builds on itself."""
    profiles, mistakes = reading(
        d={"extends": "a"},
        a={"extends": "b"},
        b={"extends": "c"},
        c={"extends": "a"},
        e={"extends": "e"},
        f={"extends": "svix"},
    )

    assert [
        ("/profiles/c/extends", "circular_profile", "a profile cannot build on itself: a extends b extends c extends a"),
        ("/profiles/e/extends", "circular_profile", "a profile cannot build on itself: e extends e"),
    ] == mistakes
    assert [*PROFILES, "f"] == list(profiles)


def test_mistakes_are_named_where_they_are_only() -> None:
    """What extends a wrong profile is no mistake, but its own mistakes are."""
    profiles, mistakes = reading(
        a={"extends": "b", "jitter": 2}, b={"extends": "svix", "timeout": "1"}, c={"extends": "b"}, d={"extends": "svix"}
    )

    assert ["/profiles/a/jitter", "/profiles/b/timeout"] == [pointer for pointer, _, _ in mistakes]
    assert [*PROFILES, "d"] == list(profiles)


@pytest.mark.parametrize("name", ["a b", "", "x" * 65, "ä", "a\n"])
def test_names(name: str) -> None:
    """A name has letters, digits, _ and -."""
    _, mistakes = reading(**{name: {"extends": "svix"}})

    assert ["invalid_value"] == [code for _, code, _ in mistakes]
    assert "expected a name of letters, digits, _ and -" == mistakes[0][2]


def test_ours_cannot_be_replaced() -> None:
    """A table with the name of one of hookengine's profiles is refused, and what extends that name gets neither."""
    profiles, mistakes = reading(standard={"extends": "svix"}, acme={"extends": "standard"})

    assert [("/profiles/standard", "reserved_profile")] == [(pointer, code) for pointer, code, _ in mistakes]
    assert PROFILES == profiles


@pytest.mark.parametrize("tables", [5, "x", [{"extends": "svix"}], None])
def test_no_tables(tables: Any) -> None:
    """What is no table is one mistake."""
    problems = Problems()

    assert PROFILES == read(problems, tables, "/profiles")
    assert [("/profiles", "invalid_type")] == [(mistake.pointer, mistake.code) for mistake in problems.mistakes]


def test_known_profiles() -> None:
    """All are found by name, ours first, and nothing can be added."""
    acme = replace(PROFILES["svix"], name="acme")
    known = Profiles({"acme": acme})

    assert ([*PROFILES, "acme"], 10) == (list(known), len(known))
    assert (acme, None) == (known["acme"], known.get("gone"))
    assert Profiles() == Profiles({})
    assert known != Profiles()
    assert "<Profiles standard " == repr(known)[:19]
    assert not hasattr(known, "__setitem__")
