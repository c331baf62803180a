"""Subscriptions as users give them: what is wrong with them, what they come to, how they read back."""

from __future__ import annotations

import base64
from types import MappingProxyType
from typing import Any

import pytest
from judging import NOW, URL, mistakes, subscription_mistakes
from msgspec.structs import replace

from hookengine import models, subscribing
from hookengine.inputs import RotationInput, SubscriptionInput
from hookengine.models import BasicAuth, OAuth2, Ordering, Secret, SigningSecret, SubscriptionState, WhileDisabled
from hookengine.netguard import Policy
from hookengine.profiles import PROFILES
from hookengine.validation import Problems

DAY = 86_400_000

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


def subscription(**members: Any) -> SubscriptionInput:
    """A valid subscription."""
    problems = Problems()
    return problems.require(problems.convert(SubscriptionInput, {"url": URL} | members))


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
                "X_Forwarded_For",
                "Transfer_Encoding",
                "webhook_id",
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
    for name in ("X-Hub-Signature-256", "x_hub_signature_256", "X_GitHub_Event"):
        found = subscription_mistakes(headers={name: "x"}, profile="github")
        assert [(f"/headers/{name}", "reserved_header")] == found
    assert [("/headers/Svix-Signature", "reserved_header")] == subscription_mistakes(headers={"Svix-Signature": "x"})
    assert [] == subscription_mistakes(headers={"X-Signature": "x"}, profile="svix")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("X-Forwarded-For", "'X-Forwarded-For' is set by hookengine or by HTTP itself"),
        ("X_Forwarded_For", "'X_Forwarded_For' is set by hookengine or by HTTP itself: many receivers read _ as -"),
        ("Content-A_B", "'Content-A_B' is set by hookengine or by HTTP itself"),
    ],
)
def test_underscore_that_a_name_is_refused_for(name: str, words: str) -> None:
    """Where a name is another's only once _ is read as -, that is said."""
    problems = Problems()
    draft = problems.convert(SubscriptionInput, {"url": URL, "headers": {name: "x"}})
    subscribing.check_subscription(problems, draft, policy=Policy(), profiles=PROFILES, default_profile="standard")

    assert [words] == [mistake.detail for mistake in problems.mistakes]


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
    subscribing.check_subscription(problems, draft, policy=Policy(), profiles=PROFILES, default_profile="standard")
    subscribing.check_rotation(problems, Problems().convert(RotationInput, {}), PROFILES[profile])

    assert ["/secret", "/secret"] == [mistake.pointer for mistake in problems.mistakes]
    assert all(words in mistake.detail for mistake in problems.mistakes)


def test_rotation_asks_the_profile() -> None:
    """A new secret must be one that the profile signs with, and the profile must be there."""

    def rotation_mistakes(profile: str, secret: str | None) -> list[tuple[str | None, str]]:
        def check(problems: Problems, draft: Any) -> None:
            subscribing.check_rotation(problems, draft, PROFILES.get(profile))

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
    fits = {"a": "x" * (2048 - len(f"{URL}?a=&is_test=true"))}  # tests are marked
    assert [] == subscription_mistakes(profile="clevertap", method="GET", key_values=fits)
    assert [("/key_values", "too_large")] == subscription_mistakes(
        profile="clevertap", method="GET", key_values={"a": fits["a"] + "x"}
    )
    assert [("/url", "invalid_url")] == subscription_mistakes(
        profile="clevertap", method="GET", key_values=fits, url=URL + "x" * 2048
    )
    longest = URL + "x" * (2048 - len(f"{URL}?is_test=true"))
    assert [] == subscription_mistakes(profile="clevertap", method="GET", url=longest)
    assert [("/url", "too_large")] == subscription_mistakes(profile="clevertap", method="GET", url=longest + "x")
    assert [] == subscription_mistakes(profile="clevertap", url=longest + "x")


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
        return subscribing.secrets_for(PROFILES[profile], secrets, "fresh")

    assert (kept, ending) == after("github", kept, ending)
    assert (made,) == after("standard")
    assert (made, ending) == after("standard", ending)
    assert () == after("clearfeed", kept, ending)
    assert () == after("clevertap", kept)


def test_unknown_profile() -> None:
    """An unknown profile is named with those that there are, and what depends on it is not judged."""
    problems = Problems()
    draft = problems.convert(SubscriptionInput, {"url": URL, "profile": "standart", "secret": "x", "headers": {"X-A": "x"}})
    subscribing.check_subscription(problems, draft, policy=Policy(), profiles=PROFILES, default_profile="standard")

    [mistake] = problems.mistakes
    assert ("/profile", "unknown_profile") == (mistake.pointer, mistake.code)
    assert "did you mean 'standard'?" in mistake.detail


@pytest.mark.parametrize("url", ["http://example.com/", "https://127.0.0.1/", "https://localhost/", "x", ""])
def test_urls(url: str) -> None:
    """A URL must be one that may be called; one that was vetted before is not vetted again."""
    assert [("/url", "invalid_url")] == subscription_mistakes(url=url)

    problems = Problems()
    draft = problems.convert(SubscriptionInput, {"url": url})
    kept = replace(SUBSCRIPTION, url=url)
    subscribing.check_subscription(problems, draft, policy=Policy(), profiles=PROFILES, default_profile="standard", kept=kept)
    assert [] == problems.mistakes


@pytest.mark.parametrize(
    ("members", "changed", "expected"),
    [
        pytest.param({"method": "GET"}, [], [], id="method"),
        pytest.param({"method": "GET"}, ["name"], [], id="name"),
        pytest.param({"method": "GET"}, ["method"], ["/method"], id="method, changed"),
        pytest.param({"batch": {"max_events": 2}, "target_id": 5}, [], [], id="no place for it"),
        pytest.param({"batch": {"max_events": 2}, "target_id": 5}, ["ordering", "url"], [], id="something else"),
        pytest.param({"batch": {"max_events": 2}, "target_id": 5}, ["target_id"], ["/target_id"], id="one of two"),
        pytest.param({"batch": {"max_events": 2}, "target_id": 5}, ["profile"], ["/batch", "/target_id"], id="all anew"),
        pytest.param({"headers": {"X_Real_IP": "x", "Webhook-Id": "x"}}, [], [], id="headers"),
        pytest.param({"headers": {"X_Real_IP": "x", "Date": "x"}}, ["headers"], ["/headers/Date"], id="another header"),
        pytest.param({"headers": {"X_Real_IP": "x"}}, ["profile"], ["/headers/X_Real_IP"], id="another profile"),
        pytest.param({"profile": "gone", "method": "GET", "batch": {}}, ["name"], [], id="a profile that is gone"),
        pytest.param({"profile": "gone"}, ["profile"], ["/profile"], id="a profile that is not there"),
    ],
)
def test_what_is_kept_locks_nothing(members: dict[str, Any], changed: list[str], expected: list[str]) -> None:
    """What was saved when the profile was another, or more was admitted, is judged only where it changes."""
    problems = Problems()
    draft = problems.convert(SubscriptionInput, {"url": URL, "profile": "standard"} | members)
    kept = replace(SUBSCRIPTION, headers=(("X_Real_IP", Secret("x")), ("Webhook-Id", Secret("x"))))
    subscribing.check_subscription(
        problems, draft, policy=Policy(), profiles=PROFILES, default_profile="standard", kept=kept, changed=changed
    )

    assert expected == [mistake.pointer for mistake in problems.mistakes]


def test_wrong_members_are_not_judged_twice() -> None:
    """A member of the wrong form is one mistake."""
    wrong = {"url": 1, "profile": 1, "headers": 1, "timeout": 1, "retry_schedule": 1, "metadata": 1, "secret": 1, "tenant": 1}

    found = subscription_mistakes(**wrong)

    assert sorted(f"/{name}" for name in wrong) == sorted(str(pointer) for pointer, _ in found)


@pytest.mark.parametrize(
    ("own", "tenants", "profile", "expected"),
    [
        pytest.param(["whsec_" + "A" * 44], [], "svix", [], id="fits"),
        pytest.param(["plain text"], [], "svix", ["/profile"], id="does not fit"),
        pytest.param(["whsec_" + "A" * 44, "replaced, plain"], [], "svix", [], id="an older one does not"),
        pytest.param(["plain text"], ["whsec_" + "A" * 44], "clearfeed", [], id="signs with the tenant's"),
        pytest.param(["whsec_" + "A" * 44], ["plain\n"], "clearfeed", ["/profile"], id="cannot sign with the tenant's"),
        pytest.param(["plain text"], ["plain text"], "clevertap", [], id="signs nothing"),
        pytest.param([], [], "svix", [], id="no secret"),
    ],
)
def test_kept_secrets(own: list[str], tenants: list[str], profile: str, expected: list[str]) -> None:
    """A profile must be able to sign with the secret that is there; what it replaced signs where it can."""
    problems = Problems()
    kept, shared = (
        [SigningSecret(value=Secret(each), expires_at=NOW if each.startswith("replaced") else None) for each in secrets]
        for secrets in (own, tenants)
    )
    subscribing.check_kept_secrets(problems, PROFILES[profile], own=kept, tenants=shared)

    assert expected == [mistake.pointer for mistake in problems.mistakes]
    assert not any("plain" in mistake.detail for mistake in problems.mistakes)


def test_rotations_keep_ten_secrets_before() -> None:
    """However often a secret is rotated, a request is signed by the newest and ten before it."""
    secrets: tuple[SigningSecret, ...] = ()
    for number in range(20):
        secrets = subscribing.rotated(secrets, f"secret {number}", overlap=1000, now=NOW)

    assert [f"secret {number}" for number in range(19, 8, -1)] == [each.value for each in secrets]


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

    assert expected == subscribing.settings(subscription(), default_profile="standard")
    nulls = subscription(**dict.fromkeys([name for name in expected if name != "url"]))
    assert expected == subscribing.settings(nulls, default_profile="standard")


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

    made = replace(SUBSCRIPTION, **subscribing.settings(subscription(**given), default_profile="standard"))

    assert given | {"event_types": ["b", "a"], "headers": {"X-A": "value", "X-B": ""}} == subscribing.as_given(made)
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
        # Mappings that are no dict, as a Python program may give.
        ({"a": {"b": 1}}, MappingProxyType({"a": MappingProxyType({"c": 2})}), {"a": {"b": 1, "c": 2}}),
        (MappingProxyType({"a": 1}), {"b": 2}, {"a": 1, "b": 2}),
    ],
)
def test_merge(target: Any, patch: Any, expected: Any) -> None:
    """A patch is applied as RFC 7396 has it, and changes neither of the two."""
    before = repr((target, patch))

    assert expected == subscribing.merge(target, patch)
    assert before == repr((target, patch))


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param({"X-A": "***", "X-B": "new", "X-C": None}, {"X-B": "new", "X-C": None}, id="kept"),
        pytest.param({"x-a": "***", "X-D": "***"}, {"x-a": "***", "X-D": "***"}, id="nothing to keep"),
        pytest.param(MappingProxyType({"X-A": "***", "X-C": "3"}), {"X-C": "3"}, id="mapping"),
        pytest.param(None, None, id="null"),
        pytest.param("***", "***", id="no object"),
    ],
)
def test_hidden_values(headers: Any, expected: Any) -> None:
    """A hidden value is taken out of a patch where there is one to keep."""
    current = replace(SUBSCRIPTION, headers=(("X-A", Secret("a")), ("X-B", Secret("b"))))
    patch = {"headers": headers, "name": "x"}

    assert {"headers": expected, "name": "x"} == subscribing.keep_hidden(patch, current)
    assert {"name": "x"} == subscribing.keep_hidden({"name": "x"}, current)


def test_auth_of_another_type_replaces_the_one_before() -> None:
    """A patch to another type of `auth` is whole in itself; one of the same type is merged, and null removes it."""
    current = replace(SUBSCRIPTION, auth=BasicAuth(username="u", password=Secret("p")))
    given = subscribing.as_given(current)

    def patched(auth: Any) -> Any:
        return subscribing.merge(given, subscribing.keep_hidden({"auth": auth}, current)).get("auth")

    assert OAUTH2 == patched(OAUTH2) == patched(MappingProxyType(OAUTH2))
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
    subscribing.check_subscription(
        problems, draft, policy=Policy(), profiles=PROFILES, default_profile="standard", kept=replace(SUBSCRIPTION, auth=kept)
    )

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
    made = subscribing.settings(subscription(auth=OAUTH2 | more), default_profile="standard")["auth"]
    given = subscribing.as_given(replace(SUBSCRIPTION, auth=made))["auth"]

    assert made == subscribing.settings(subscription(auth=given), default_profile="standard")["auth"]
    assert (OAUTH2 | more | {"fields": given["fields"]}).items() <= given.items()
    assert "hush" not in repr(made)


# Rotations.


@pytest.mark.parametrize(
    ("before", "overlap", "expected"),
    [
        pytest.param([("a", None)], 1000, [("new", None), ("a", NOW + 1000)], id="first"),
        pytest.param([("a", None)], None, [("new", None), ("a", NOW + DAY)], id="a day by default"),
        pytest.param([("b", None), ("a", NOW + 5)], 1000, [("new", None), ("b", NOW + 1000), ("a", NOW + 5)], id="second"),
        pytest.param([("b", None), ("a", NOW + 5)], 4, [("new", None), ("b", NOW + 4), ("a", NOW + 4)], id="shorter"),
        pytest.param(
            [("b", None), ("a", NOW + 9 * DAY)], None, [("new", None), ("b", NOW + DAY), ("a", NOW + 9 * DAY)], id="kept"
        ),
        pytest.param([("b", None), ("a", NOW)], 1000, [("new", None), ("b", NOW + 1000)], id="one is over"),
        pytest.param([("b", None), ("a", NOW + 5)], 0, [("new", None)], id="no overlap"),
        pytest.param([], 1000, [("new", None)], id="none before"),
        pytest.param([("b", None), ("new", NOW + 5)], 1000, [("new", None), ("b", NOW + 1000)], id="back again"),
        pytest.param([("new", None)], 1000, [("new", None)], id="the same"),
        pytest.param([("new", None), ("a", NOW + 5)], 0, [("new", None)], id="the same alone"),
    ],
)
def test_rotated(before: list[tuple[str, int | None]], overlap: int | None, expected: list[tuple[str, int | None]]) -> None:
    """The new secret signs first, and none that it or another replaced for longer than the overlap that is asked for."""
    secrets = tuple(SigningSecret(value=Secret(value), expires_at=expires_at) for value, expires_at in before)

    found = subscribing.rotated(secrets, "new", overlap=overlap, now=NOW)

    assert expected == [(str(each.value), each.expires_at) for each in found]


def test_rotation() -> None:
    """Both members of a rotation may be left out."""
    problems = Problems()

    assert RotationInput() == problems.require(problems.convert(RotationInput, {}))


def test_auth_is_secret() -> None:
    """A password is not in the text of what holds it."""
    made = subscribing.settings(
        subscription(auth={"type": "basic", "username": "u", "password": "open sesame"}), default_profile="standard"
    )

    assert BasicAuth(username="u", password=Secret("open sesame")) == made["auth"]
    assert "sesame" not in repr(made)
