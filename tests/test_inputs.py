"""What users may send: each rule alone, as far as it needs no server."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw
from msgspec.structs import replace

from hookengine import inputs, models
from hookengine.errors import Malformed
from hookengine.inputs import EventInput, EventTypeInput, RotationInput, SubscriptionInput, TokenInput
from hookengine.jsontext import read_json
from hookengine.models import BasicAuth, OAuth2, Ordering, Priority, Secret, SigningSecret, SubscriptionState, WhileDisabled
from hookengine.netguard import Policy
from hookengine.profiles import PROFILES
from hookengine.validation import Problems, Time

if TYPE_CHECKING:
    from collections.abc import Callable

    from msgspec import Struct

NOW = 1_790_000_000_000
DAY = 86_400_000
URL = "https://example.com/hook"
SUBSCRIPTION = models.Subscription(
    seq=1,
    id="sub_1",
    tenant="acme",
    url=URL,
    event_types=("*",),
    profile="standard",
    secrets=(SigningSecret(value=Secret("whsec_" + "A" * 44)),),
    created_at=NOW,
    updated_at=NOW,
)


OAUTH2 = {
    "type": "oauth2",
    "grant": "client_credentials",
    "token_url": "https://auth.example/token",
    "client_id": "c",
    "client_secret": "hush-secret",
}


def mistakes(
    check: Callable[[Problems, Any], None], type_: type[Struct], given: dict[str, Any]
) -> list[tuple[str | None, str]]:
    """Where *given* is wrong, by its form and by *check*."""
    problems = Problems()
    check(problems, problems.convert(type_, given))
    return [(mistake.pointer, mistake.code) for mistake in problems.mistakes]


def event_mistakes(now: int = NOW, **members: Any) -> list[tuple[str | None, str]]:
    """Where an event with *members* is wrong at *now*."""
    given = {"type": "a", "data": Raw(b"1")} | members
    return mistakes(lambda problems, draft: inputs.check_event(problems, draft, "", now=now), EventInput, given)


def subscription_mistakes(**members: Any) -> list[tuple[str | None, str]]:
    """Where a subscription with *members* is wrong."""

    def check(problems: Problems, draft: Any) -> None:
        inputs.check_subscription(problems, draft, policy=Policy(), profiles=PROFILES, default_profile="standard")

    return mistakes(check, SubscriptionInput, {"url": URL} | members)


def event(**members: Any) -> EventInput:
    """A valid event."""
    problems = Problems()
    return problems.require(problems.convert(EventInput, {"type": "a", "data": Raw(b"1")} | members))


def subscription(**members: Any) -> SubscriptionInput:
    """A valid subscription."""
    problems = Problems()
    return problems.require(problems.convert(SubscriptionInput, {"url": URL} | members))


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


# Subscriptions.


@pytest.mark.parametrize("pattern", ["*", "a", "a.b", "a.*", "a.b.*", "a-b.*", "a" * 128 + ".*"])
def test_patterns(pattern: str) -> None:
    """A pattern is a type, the beginning of types, or everything."""
    assert [] == subscription_mistakes(event_types=[pattern])


@pytest.mark.parametrize("pattern", ["", "**", "*.a", "a*", "a.*.b", "a.**", ".*", "a.*\n", "(a+)+$", "a" * 131])
def test_no_patterns(pattern: str) -> None:
    """There are no other wildcards."""
    assert [("/event_types/0", "invalid_value")] == subscription_mistakes(event_types=[pattern])


@pytest.mark.parametrize("name", ["X-A", "x", "X_A.b~!#$%&'*+^`|0", "Authorization", "X" * 64, "Accept", "User-Agent"])
def test_header_names(name: str) -> None:
    """A header may have any name that HTTP admits and nobody owns."""
    assert [] == subscription_mistakes(headers={name: "x"})


@pytest.mark.parametrize(
    ("name", "code"),
    [
        *(
            (name, "invalid_header_name")
            for name in ("", " ", "X A", "X:A", "X-A\n", "\nX", "é", "X" * 65, "X(A)", "X/A", 'X"A', "X\0")
        ),
        *(
            (name, "reserved_header")
            for name in (
                "Host",
                "hOsT",
                "content-x",
                "Webhook-Id",
                "SEC-x",
                "proxy-",
                ":path",
                "Cookie",
                "Via",
                "X-Forwarded-",
            )
        ),
    ],
)
def test_wrong_header_names(name: str, code: str) -> None:
    """A name that HTTP does not admit (I39) or that others own (I42) is refused, in whatever letters."""
    [(_, found)] = subscription_mistakes(headers={name: "x"})

    assert code == found


def test_headers_of_the_signature() -> None:
    """What a profile sets itself is not set by a subscription that has it."""
    assert [("/headers/Svix-Signature", "reserved_header")] == subscription_mistakes(headers={"Svix-Signature": "x"})
    assert [] == subscription_mistakes(headers={"X-Signature": "x"}, profile="svix")


@pytest.mark.parametrize("value", ["", " ", "a\tb", "~!", "x" * 2048])
def test_header_values(value: str) -> None:
    """A value is visible ASCII, spaces and tabs."""
    assert [] == subscription_mistakes(headers={"X-A": value})


@pytest.mark.parametrize("value", ["\n", "a\r", "\0", "\x1b[0m", "\x7f", "é", "x" * 2049])
def test_wrong_header_values(value: str) -> None:
    """Nothing else is."""
    assert [("/headers/X-A", "invalid_header_value")] == subscription_mistakes(headers={"X-A": value})


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param({f"X-{n:02}": "x" for n in range(32)}, [], id="32"),
        pytest.param({f"X-{n:02}": "x" for n in range(33)}, [("/headers", "too_large")], id="33"),
        pytest.param({f"X-{n}": "x" * 2045 for n in range(4)}, [], id="8192 bytes"),
        pytest.param({f"X-{n}": "x" * (2045 + (n == 0)) for n in range(4)}, [("/headers", "too_large")], id="8193 bytes"),
        pytest.param(
            {"X-A": "1", "X-a": "1", "x-A": "1"},
            [("/headers/X-a", "duplicate_header"), ("/headers/x-A", "duplicate_header")],
            id="I43",
        ),
        pytest.param({"A": "***"}, [("/headers/A", "hidden_value")], id="hidden"),
        pytest.param({"A": " ***\t"}, [("/headers/A", "hidden_value")], id="hidden among blanks"),
        pytest.param({"A": "****"}, [], id="not hidden"),
    ],
)
def test_headers_together(headers: dict[str, str], expected: list[tuple[str, str]]) -> None:
    """Headers are bounded in number and size, and each is there once."""
    assert expected == subscription_mistakes(headers=headers)


def test_auth_and_header() -> None:
    """Authorization comes from one of the two places."""
    auth = {"type": "basic", "username": "a", "password": "b"}

    assert [("/headers/AUTHORIZATION", "conflicting_auth")] == subscription_mistakes(auth=auth, headers={"AUTHORIZATION": "x"})
    assert [] == subscription_mistakes(headers={"AUTHORIZATION": "x"})


@pytest.mark.parametrize(
    ("username", "password", "wrong"),
    [
        pytest.param("", "", [], id="empty"),
        pytest.param("u" * 1024, "p" * 1024, [], id="longest"),  # tokens of services that take them as a password are long
        pytest.param("u" * 1025, "p" * 1025, ["at most 1024 ", "at most 1024 "], id="longer"),
        pytest.param("u:", "p:", ["none of them a colon"], id="colon"),
        pytest.param("u\t", "p\x7f", ["a control character", "a control character"], id="control characters"),
    ],
)
def test_basic(username: str, password: str, wrong: list[str]) -> None:
    """User name and password hold what RFC 7617 allows, and what is wrong with one is told, its length too."""
    problems = Problems()
    problems.convert(SubscriptionInput, {"url": URL, "auth": {"type": "basic", "username": username, "password": password}})

    assert [True] * len(wrong) == [words in each.detail for words, each in zip(wrong, problems.mistakes, strict=True)]


@pytest.mark.parametrize(("timeout", "right"), [("99ms", False), ("100ms", True), ("5m", True), ("300001ms", False)])
def test_timeouts(timeout: str, *, right: bool) -> None:
    """An attempt has a tenth of a second to five minutes."""
    assert ([] if right else [("/timeout", "invalid_value")]) == subscription_mistakes(timeout=timeout)


def test_schedules() -> None:
    """A retry waits at most 30 days; none at all is a schedule, too."""
    assert [("/retry_schedule/1", "invalid_value")] == subscription_mistakes(retry_schedule=["30d", "721h", "0s"])
    assert [] == subscription_mistakes(retry_schedule=[])


def test_size_of_metadata() -> None:
    """Metadata has 16 KiB."""
    fits = {"a": "x" * (16384 - 8)}

    assert [] == subscription_mistakes(metadata=fits)
    assert [("/metadata", "too_large")] == subscription_mistakes(metadata={"a": fits["a"] + "x"})


@pytest.mark.parametrize("profile", ["standard", "svix", None])
def test_secrets(profile: str | None) -> None:
    """A secret must be one that the profile can sign with."""
    given = "whsec_" + base64.b64encode(bytes(24)).decode()

    assert [] == subscription_mistakes(profile=profile, secret=given)
    assert [("/secret", "invalid_secret")] == subscription_mistakes(profile=profile, secret="whsec_AAAA")


@pytest.mark.parametrize(("profile", "words"), [("clearfeed", "its tenant's secret"), ("clevertap", "signs nothing")])
def test_profiles_without_secrets_of_subscriptions(profile: str, words: str) -> None:
    """Where the tenant's secret signs, or none, a subscription is given none, and the reason is told."""
    problems = Problems()
    draft = problems.convert(SubscriptionInput, {"url": URL, "profile": profile, "secret": "whsec_" + "A" * 44})
    inputs.check_subscription(problems, draft, policy=Policy(), profiles=PROFILES, default_profile="standard")
    inputs.check_rotation(problems, Problems().convert(RotationInput, {}), PROFILES[profile])

    assert ["/secret", "/secret"] == [mistake.pointer for mistake in problems.mistakes]
    assert all(words in mistake.detail for mistake in problems.mistakes)


def test_rotation_asks_the_profile() -> None:
    """A new secret must be one that the profile signs with, and the profile must be there."""

    def rotation_mistakes(profile: str, secret: str | None) -> list[tuple[str | None, str]]:
        def check(problems: Problems, draft: Any) -> None:
            inputs.check_rotation(problems, draft, PROFILES.get(profile))

        return mistakes(check, RotationInput, {"secret": secret})

    assert [] == rotation_mistakes("standard", None)
    assert [] == rotation_mistakes("github", "anything")
    assert [("/secret", "invalid_secret")] == rotation_mistakes("standard", "anything")
    assert [("", "unknown_profile")] == rotation_mistakes("gone", "anything")


@pytest.mark.parametrize("profile", PROFILES)
def test_get_needs_an_envelope_without_a_body(profile: str) -> None:
    """GET is for the profile that has something to say in the URL; the other methods are for all."""
    refused = [] if profile == "clevertap" else [("/method", "invalid_value")]

    assert refused == subscription_mistakes(profile=profile, method="GET")
    for method in ("POST", "PUT", "DELETE", None):
        assert [] == subscription_mistakes(profile=profile, method=method)


@pytest.mark.parametrize("profile", PROFILES)
def test_addressing_needs_an_envelope_with_a_place_for_it(profile: str) -> None:
    """What would not be sent is refused; the defaults, which every subscription shows, are not."""
    refused = [] if profile == "clevertap" else [("/target_id", "unused_member"), ("/key_values", "unused_member")]

    assert refused == subscription_mistakes(profile=profile, target_id=1, key_values={"a": None})
    assert [] == subscription_mistakes(profile=profile, target_id=0, key_values={})


def test_size_of_key_values() -> None:
    """Key values fit into 16 KiB, and with GET into a URL."""
    assert [] == subscription_mistakes(profile="clevertap", key_values={"a": "x" * 16376})
    assert [("/key_values", "too_large")] == subscription_mistakes(profile="clevertap", key_values={"a": "x" * 16377})
    fits = {"a": "x" * (2048 - len(f"{URL}?a="))}
    assert [] == subscription_mistakes(profile="clevertap", method="GET", key_values=fits)
    assert [("/key_values", "too_large")] == subscription_mistakes(
        profile="clevertap", method="GET", key_values={"a": fits["a"] + "x"}
    )
    assert [("/url", "invalid_url")] == subscription_mistakes(
        profile="clevertap", method="GET", key_values=fits, url=URL + "x" * 2048
    )


@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, "5", 1.5])
def test_target_ids(value: object) -> None:
    """A target id is an integer that the store holds."""
    [(pointer, _)] = subscription_mistakes(profile="clevertap", target_id=value)

    assert "/target_id" == pointer


def test_secrets_of_another_profile() -> None:
    """A change of profile keeps the secrets, makes one where there is none that stays, and drops what signs no more."""
    kept, ending = SUBSCRIPTION.secrets[0], SigningSecret(value=Secret("whsec_old"), expires_at=NOW + 1)
    made = SigningSecret(value=Secret("fresh"))

    def after(profile: str, *secrets: SigningSecret) -> tuple[SigningSecret, ...]:
        return inputs.secrets_for(PROFILES[profile], replace(SUBSCRIPTION, secrets=secrets), "fresh")

    assert (kept, ending) == after("github", kept, ending)
    assert (made,) == after("standard")
    assert (made, ending) == after("standard", ending)
    assert () == after("clearfeed", kept, ending)
    assert () == after("clevertap", kept)


def test_unknown_profile() -> None:
    """An unknown profile is named with those that there are, and what depends on it is not judged."""
    problems = Problems()
    draft = problems.convert(SubscriptionInput, {"url": URL, "profile": "standart", "secret": "x", "headers": {"X-A": "x"}})
    inputs.check_subscription(problems, draft, policy=Policy(), profiles=PROFILES, default_profile="standard")

    [mistake] = problems.mistakes
    assert ("/profile", "unknown_profile") == (mistake.pointer, mistake.code)
    assert "did you mean 'standard'?" in mistake.detail


@pytest.mark.parametrize("url", ["http://example.com/", "https://127.0.0.1/", "https://localhost/", "x", ""])
def test_urls(url: str) -> None:
    """A URL must be one that may be called; one that was vetted before is not vetted again."""
    assert [("/url", "invalid_url")] == subscription_mistakes(url=url)

    problems = Problems()
    draft = problems.convert(SubscriptionInput, {"url": url})
    inputs.check_subscription(problems, draft, policy=Policy(), profiles=PROFILES, default_profile="standard", vet=False)
    assert [] == problems.mistakes


def test_wrong_members_are_not_judged_twice() -> None:
    """A member of the wrong form is one mistake."""
    wrong = {"url": 1, "profile": 1, "headers": 1, "timeout": 1, "retry_schedule": 1, "metadata": 1, "secret": 1, "tenant": 1}

    found = subscription_mistakes(**wrong)

    assert sorted(f"/{name}" for name in wrong) == sorted(str(pointer) for pointer, _ in found)


@pytest.mark.parametrize(
    ("secrets", "profile", "expected"),
    [
        pytest.param(["whsec_" + "A" * 44], "svix", [], id="fits"),
        pytest.param(["plain text"], "svix", ["/profile"], id="does not fit"),
        pytest.param(["whsec_" + "A" * 44, "plain", "text"], "svix", ["/profile"], id="an older one does not"),
        pytest.param(["plain text"], "standard", [], id="the same profile"),
        pytest.param(["plain text"], "unknown", [], id="unknown profile"),
        pytest.param(["plain text"], "clearfeed", [], id="signs with another secret"),
        pytest.param([], "svix", [], id="no secret"),
    ],
)
def test_kept_secrets(secrets: list[str], profile: str, expected: list[str]) -> None:
    """Another profile must be able to sign with the secrets that stay."""
    problems = Problems()
    kept = tuple(SigningSecret(value=Secret(each)) for each in secrets)
    inputs.check_kept_secrets(problems, PROFILES.get(profile), replace(SUBSCRIPTION, secrets=kept))

    assert expected == [mistake.pointer for mistake in problems.mistakes]
    assert not any("plain" in mistake.detail for mistake in problems.mistakes)


def test_default_settings() -> None:
    """What is not given has its default."""
    expected: dict[str, Any] = {
        "url": URL,
        "event_types": ("*",),
        "name": None,
        "profile": "standard",
        "method": None,
        "headers": (),
        "auth": None,
        "timeout": None,
        "retry_schedule": None,
        "disable_after_failures": None,
        "while_disabled": WhileDisabled.HOLD,
        "max_concurrency": 8,
        "rate_limit": None,
        "ordering": Ordering.NONE,
        "batch": None,
        "target_id": 0,
        "key_values": {},
        "metadata": {},
        "state": SubscriptionState.ACTIVE,
    }

    assert expected == inputs.settings(subscription(), default_profile="standard")
    nulls = subscription(**dict.fromkeys([name for name in expected if name != "url"]))
    assert expected == inputs.settings(nulls, default_profile="standard")


def test_settings_and_back() -> None:
    """What was given is what a patch is applied to, with its secrets; only repetitions and outer blanks are gone."""
    given = {
        "url": URL,
        "event_types": ["b", "a", "b"],
        "name": "Name",
        "tenant": "acme",
        "profile": "svix",
        "method": "DELETE",
        "headers": {"X-A": "\t value ", "X-B": ""},
        "auth": {"type": "basic", "username": "ann", "password": "open sesame"},
        "timeout": "90s",
        "retry_schedule": ["1h", "500ms"],
        "disable_after_failures": 3,
        "while_disabled": "skip",
        "max_concurrency": 1000,
        "rate_limit": "600/m",
        "ordering": "none",
        "batch": {"max_events": 7, "max_wait": "90s"},
        "target_id": -5,
        "key_values": {"k": {"l": [None, 1.5]}},
        "metadata": {"a": [None]},
        "state": "disabled",
    }

    made = replace(SUBSCRIPTION, **inputs.settings(subscription(**given), default_profile="standard"))

    assert given | {"event_types": ["b", "a"], "headers": {"X-A": "value", "X-B": ""}} == inputs.as_given(made)
    assert "sesame" not in repr(made)


# Patches.


@pytest.mark.parametrize(
    ("target", "patch", "expected"),
    [
        # RFC 7396, appendix A.
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge(target: Any, patch: Any, expected: Any) -> None:
    """A patch is applied as RFC 7396 has it, and changes neither of the two."""
    before = repr((target, patch))

    assert expected == inputs.merge(target, patch)
    assert before == repr((target, patch))


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param({"X-A": "***", "X-B": "new", "X-C": None}, {"X-B": "new", "X-C": None}, id="kept"),
        pytest.param({"x-a": "***", "X-D": "***"}, {"x-a": "***", "X-D": "***"}, id="nothing to keep"),
        pytest.param(None, None, id="null"),
        pytest.param("***", "***", id="no object"),
    ],
)
def test_hidden_values(headers: Any, expected: Any) -> None:
    """A hidden value is taken out of a patch where there is one to keep."""
    current = replace(SUBSCRIPTION, headers=(("X-A", Secret("a")), ("X-B", Secret("b"))))
    patch = {"headers": headers, "name": "x"}

    assert {"headers": expected, "name": "x"} == inputs.keep_hidden(patch, current)
    assert {"name": "x"} == inputs.keep_hidden({"name": "x"}, current)


def test_auth_of_another_type_replaces_the_one_before() -> None:
    """A patch to another type of `auth` is whole in itself; one of the same type is merged, and null removes it."""
    current = replace(SUBSCRIPTION, auth=BasicAuth(username="u", password=Secret("p")))
    given = inputs.as_given(current)

    def patched(auth: Any) -> Any:
        return inputs.merge(given, inputs.keep_hidden({"auth": auth}, current)).get("auth")

    assert OAUTH2 == patched(OAUTH2)
    assert {"type": "basic", "username": "u", "password": "q"} == patched({"password": "q"})
    assert patched(None) is None
    assert "x" == patched("x")


# OAuth 2.0.


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({}, [], id="least"),
        pytest.param({"grant": "password", "username": "u", "password": "ü"}, [], id="password"),
        pytest.param(
            {"client_auth": "bearer", "scopes": ["a:b"], "fields": {"expires_in": "ttl"}, "expires_in": "1s"}, [], id="all"
        ),
        pytest.param({"refresh_url": "https://a.example/refresh"}, [], id="refresh_url"),
        pytest.param({"token_url": "http://a.example"}, [("/auth/token_url", "invalid_url")], id="http"),
        pytest.param({"token_url": "https://10.0.0.1/"}, [("/auth/token_url", "invalid_url")], id="a private address"),
        pytest.param({"refresh_url": "https://u:p@a.example/"}, [("/auth/refresh_url", "invalid_url")], id="userinfo"),
        pytest.param(
            {"grant": "password"},
            [("/auth/username", "missing_member"), ("/auth/password", "missing_member")],
            id="password without a user",
        ),
        pytest.param(
            {"username": "u", "password": "p"},
            [("/auth/username", "unused_member"), ("/auth/password", "unused_member")],
            id="a user without password",
        ),
        pytest.param({"expires_in": "999ms"}, [("/auth/expires_in", "invalid_value")], id="short"),
        pytest.param({"expires_in": 3600}, [("/auth/expires_in", "invalid_type")], id="no duration"),
        pytest.param({"grant": "implicit"}, [("/auth/grant", "invalid_value")], id="grant"),
        pytest.param({"client_auth": "mtls"}, [("/auth/client_auth", "invalid_value")], id="client_auth"),
        pytest.param({"scopes": ["a b"]}, [("/auth/scopes/0", "invalid_value")], id="scope"),
        pytest.param(
            {"client_id": "", "client_secret": "\n"},
            [("/auth/client_id", "invalid_value"), ("/auth/client_secret", "invalid_value")],
            id="client",
        ),
        pytest.param({"fields": {"token": "x"}}, [("/auth/fields/token", "unknown_member")], id="fields"),
        pytest.param(
            {"grant": "password", "token_url": "http://10.0.0.1/", "client_id": 1, "username": "", "expires_in": "1ms"},
            [
                ("/auth/client_id", "invalid_type"),
                ("/auth/username", "invalid_value"),
                ("/auth/token_url", "invalid_url"),
                ("/auth/password", "missing_member"),
                ("/auth/expires_in", "invalid_value"),
            ],
            id="of form and of meaning",
        ),
        pytest.param(
            {"grant": 1, "refresh_url": "ftp://x", "password": "p"},
            [("/auth/grant", "invalid_type"), ("/auth/refresh_url", "invalid_url")],
            id="nothing belongs to no grant",
        ),
    ],
)
def test_oauth2(changes: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    """What gets access tokens is checked whole: forms, URLs, and what belongs to the grant."""
    assert expected == subscription_mistakes(auth=OAUTH2 | changes)


def test_oauth2_beside_a_header_of_ones_own() -> None:
    """Two Authorization headers would contradict each other."""
    assert [("/headers/Authorization", "conflicting_auth")] == subscription_mistakes(
        auth=OAUTH2, headers={"Authorization": "Bearer x"}
    )


def test_what_is_right_of_a_wrong_member_is_looked_at() -> None:
    """A mistake in the form of one header, delay or credential hides none in the meaning of those beside it."""
    assert [
        ("/auth/client_secret", "missing_member"),
        ("/headers/X-A", "invalid_type"),
        ("/retry_schedule/0", "invalid_value"),
        ("/headers/Host", "reserved_header"),
        ("/headers/Authorization", "conflicting_auth"),
        ("/retry_schedule/1", "invalid_value"),
    ] == subscription_mistakes(
        auth={name: value for name, value in OAUTH2.items() if name != "client_secret"},
        headers={"X-A": 1, "Host": "x", "Authorization": "y"},
        retry_schedule=["soon", "31d"],
    )


def test_kept_urls_are_not_vetted_again() -> None:
    """A policy that has become stricter does not lock the other settings of a subscription."""
    problems = Problems()
    given = OAUTH2 | {"token_url": "http://old.example", "refresh_url": "http://new.example"}
    draft = problems.convert(SubscriptionInput, {"url": URL, "auth": given})
    kept = OAuth2(grant="password", token_url="http://old.example", client_id="c", client_secret=Secret("s"))
    inputs.check_subscription(problems, draft, policy=Policy(), profiles=PROFILES, default_profile="standard", kept_auth=kept)

    assert ["/auth/refresh_url"] == [mistake.pointer for mistake in problems.mistakes]


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({}, id="least"),
        pytest.param({"grant": "password", "username": "u", "password": "hush-password"}, id="password"),
        pytest.param(
            {"refresh_url": "https://a.example/r", "scopes": ["a", "b"], "client_auth": "body", "expires_in": "90m"}, id="most"
        ),
        pytest.param({"fields": {"access_token": "jwt"}}, id="fields"),
    ],
)
def test_oauth2_comes_back_as_it_was_given(more: dict[str, Any]) -> None:
    """What is shown of it, with its secrets, makes the same again; and nothing of them is in a repr."""
    made = inputs.settings(subscription(auth=OAUTH2 | more), default_profile="standard")["auth"]
    given = inputs.as_given(replace(SUBSCRIPTION, auth=made))["auth"]

    assert made == inputs.settings(subscription(auth=given), default_profile="standard")["auth"]
    assert (OAUTH2 | more | {"fields": given["fields"]}).items() <= given.items()
    assert "hush" not in repr(made)


# Rotations.


@pytest.mark.parametrize(
    ("before", "overlap", "expected"),
    [
        pytest.param([("a", None)], 1000, [("new", None), ("a", NOW + 1000)], id="first"),
        pytest.param([("b", None), ("a", NOW + 5)], 1000, [("new", None), ("b", NOW + 1000), ("a", NOW + 5)], id="second"),
        pytest.param([("b", None), ("a", NOW)], 1000, [("new", None), ("b", NOW + 1000)], id="one is over"),
        pytest.param([("b", None), ("a", NOW + 5)], 0, [("new", None), ("a", NOW + 5)], id="no overlap"),
        pytest.param([], 1000, [("new", None)], id="none before"),
        pytest.param([("b", None), ("new", NOW + 5)], 1000, [("new", None), ("b", NOW + 1000)], id="back again"),
        pytest.param([("new", None)], 1000, [("new", None)], id="the same"),
    ],
)
def test_rotated(before: list[tuple[str, int | None]], overlap: int, expected: list[tuple[str, int | None]]) -> None:
    """The new secret signs first, the one before it for the overlap, and older ones keep their end."""
    secrets = tuple(SigningSecret(value=Secret(value), expires_at=expires_at) for value, expires_at in before)

    found = inputs.rotated(secrets, "new", overlap=overlap, now=NOW)

    assert expected == [(str(each.value), each.expires_at) for each in found]


def test_rotation() -> None:
    """Both members of a rotation may be left out."""
    problems = Problems()

    assert RotationInput() == problems.require(problems.convert(RotationInput, {}))


def test_auth_is_secret() -> None:
    """A password is not in the text of what holds it."""
    made = inputs.settings(
        subscription(auth={"type": "basic", "username": "u", "password": "open sesame"}), default_profile="standard"
    )

    assert BasicAuth(username="u", password=Secret("open sesame")) == made["auth"]
    assert "sesame" not in repr(made)


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
