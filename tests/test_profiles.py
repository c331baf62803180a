"""Providers as data: the bytes of their requests, checked against the providers' own libraries."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks
import svix.webhooks
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from hookengine.clock import Clock
from hookengine.envelopes import ENVELOPES
from hookengine.errors import VerificationError
from hookengine.models import BasicAuth, Event, Request, Rules, Secret, SigningSecret, Subscription
from hookengine.profiles import PROFILES, VARIABLES, Profile, body, build, check_template, for_tests, rules
from hookengine.schemes import SCHEMES
from hookengine.signing import verify
from hookengine.signing_keys import public_key
from hookengine.times import format_duration

STANDARD, SVIX = PROFILES["standard"], PROFILES["svix"]
NOW = 1_700_000_000_987
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NEWER_SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()
ED25519_SECRET = "whsk_" + base64.b64encode(bytes(range(32))).decode()
BRANDS = {"standard": "webhook", "svix": "svix"}

EVENT = Event(
    seq=1,
    id="evt_018bcfe5-687b-7000-8000-000000000001",
    tenant="acme",
    type="order.created",
    data=b'{ "id": 1 }',
    accepted_at=1_699_999_999_000,
    occurred_at=1_699_999_000_123,
)
STANDARD_BODY = b'{"type":"order.created","timestamp":"2023-11-14T21:56:40.123Z","data":{ "id": 1 }}'


def subscription(*secrets: str | SigningSecret, **settings: Any) -> Subscription:
    """A subscription with *secrets*, newest first."""
    given: dict[str, Any] = {
        "seq": 1,
        "id": "sub_1",
        "tenant": "acme",
        "url": "https://example.com/hook?a=1",
        "event_types": ("*",),
        "profile": "standard",
        "secrets": tuple(each if isinstance(each, SigningSecret) else SigningSecret(value=Secret(each)) for each in secrets),
        "created_at": 0,
        "updated_at": 0,
    }
    return Subscription(**(given | settings))


def old(secret: str, expires_at: int) -> SigningSecret:
    """A secret that was replaced."""
    return SigningSecret(value=Secret(secret), expires_at=expires_at)


def request(
    profile: Profile,
    *secrets: str | SigningSecret,
    event: Event = EVENT,
    attempt: int = 1,
    retry: int = 0,
    now: int = NOW,
    **settings: Any,
) -> Request:
    """The request of an attempt."""
    made = subscription(*secrets, **settings)
    return build(profile, made, [event], secrets=made.secrets, attempt=attempt, retry=retry, now=now, timeout=15_000)


def signature(secret: str, event: Event, now: int, body: bytes) -> str:
    """A signature of Standard Webhooks 1.0.0, written down apart from the module under test."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{event.id}.{now // 1000}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


# The bytes.


def test_standard_is_these_bytes() -> None:
    """A request of the profile standard is Standard Webhooks 1.0.0 to the byte, headers in this order."""
    expected = Request(
        method="POST",
        url="https://example.com/hook?a=1",
        headers=(
            ("content-type", "application/json"),
            ("webhook-id", "evt_018bcfe5-687b-7000-8000-000000000001"),
            ("webhook-timestamp", "1700000000"),
            ("webhook-signature", signature(SECRET, EVENT, NOW, STANDARD_BODY)),
            ("webhook-attempt", "3"),
        ),
        body=STANDARD_BODY,
        timeout=15_000,
        hidden=frozenset(),
    )

    assert expected == request(STANDARD, SECRET, attempt=3)


def test_svix_is_these_bytes() -> None:
    """A request of the profile svix is the data alone, with the headers that Svix has."""
    expected = Request(
        method="POST",
        url="https://example.com/hook?a=1",
        headers=(
            ("content-type", "application/json"),
            ("svix-id", "evt_018bcfe5-687b-7000-8000-000000000001"),
            ("svix-timestamp", "1700000000"),
            ("svix-signature", signature(SECRET, EVENT, NOW, EVENT.data)),
        ),
        body=b'{ "id": 1 }',
    )

    assert expected == request(SVIX, SECRET, attempt=3)


def hexed(message: str | bytes, secret: str = "s3cret") -> str:
    """HMAC-SHA256 with the secret's characters as the key."""
    return hmac.new(secret.encode(), message.encode() if isinstance(message, str) else message, hashlib.sha256).hexdigest()


URL, JSON, AT, OCCURRED = "https://example.com/hook?a=1", ("content-type", "application/json"), 1_700_000_000, 1_699_999_000
CLEARFEED_BODY = '{"id":"018bcfe5687b70008000000000000001","type":"order","sub_type":"created","n": 1.10 }'
CLARIFE_BODY = (
    '{"id":"evt_018bcfe5-687b-7000-8000-000000000001","type":"order.created","created_at":"2023-11-14T21:56:40Z",'
    '"data":{"n":1.1}}'
)


@pytest.mark.parametrize(
    ("name", "body_", "headers"),
    [
        pytest.param(
            "clearfeed",
            CLEARFEED_BODY,
            [
                ("X-CF-Timestamp", str(OCCURRED)),
                ("X-CF-Signature", hexed(f"POST{URL}{CLEARFEED_BODY}{OCCURRED}")),
                ("X-CF-Retry-Count", "2"),
            ],
            id="clearfeed",
        ),
        pytest.param("clarife", CLARIFE_BODY, [("X-Clarife-Signature", f"t={AT},v1={hexed(CLARIFE_BODY)}")], id="clarife"),
        pytest.param("clevertap", '{"targetId":0,"key_values":{},"profiles":[{"n": 1.10 }]}', [], id="clevertap"),
        pytest.param(
            "github",
            '{"n": 1.10 }',
            [
                ("X-Hub-Signature-256", "sha256=" + hexed('{"n": 1.10 }')),
                ("X-GitHub-Event", "order.created"),
                ("X-GitHub-Delivery", EVENT.id),
            ],
            id="github",
        ),
        pytest.param(
            "stripe",
            '{"n": 1.10 }',
            [("Stripe-Signature", f"t={AT},v1=" + hexed(f'{AT}.{{"n": 1.10 }}'))],
            id="stripe",
        ),
        pytest.param(
            "slack",
            '{"n": 1.10 }',
            [("X-Slack-Request-Timestamp", str(AT)), ("X-Slack-Signature", "v0=" + hexed(f'v0:{AT}:{{"n": 1.10 }}'))],
            id="slack",
        ),
        pytest.param(
            "shopify",
            '{"n": 1.10 }',
            [
                ("X-Shopify-Hmac-Sha256", base64.b64encode(bytes.fromhex(hexed('{"n": 1.10 }'))).decode()),
                ("X-Shopify-Topic", "order.created"),
            ],
            id="shopify",
        ),
    ],
)
def test_provider_is_these_bytes(name: str, body_: str, headers: list[tuple[str, str]]) -> None:
    """A request is what its provider documents, to the byte."""
    made = request(PROFILES[name], "s3cret", event=replace(EVENT, data=b'{"n": 1.10 }'), attempt=7, retry=2)

    assert (body_, (JSON, *headers)) == (made.body.decode(), made.headers)
    assert ("POST", URL, frozenset()) == (made.method, made.url, made.hidden)


@pytest.mark.parametrize("name", ["clearfeed", "clarife", "github", "stripe", "slack", "shopify"])
def test_new_secret_signs_alone_where_a_header_holds_one(name: str) -> None:
    """While a secret rotates both sign where the header holds several signatures, else the new one does."""
    made = request(PROFILES[name], "new", old("old", NOW + 1))
    several = PROFILES[name].schemes[0].several

    for secret in ("new", ["other", "new"]):
        verify(made.body, made.headers, secret, profile=name, url=URL, now=AT, tolerance=1_000)
    assert ("stripe" == name) == several
    if several:
        verify(made.body, made.headers, "old", profile=name, now=NOW / 1000)
        assert [b"t", b"v1", b"v1"] == [
            item.partition(b"=")[0] for item in dict(made.headers)["Stripe-Signature"].encode().split(b",")
        ]
    else:
        with pytest.raises(VerificationError):
            verify(made.body, made.headers, "old", profile=name, url=URL, now=AT, tolerance=1_000)


def test_event_time_stays_on_a_retry() -> None:
    """Clearfeed's timestamp is the event's on every retry, whose number its header counts from 0."""
    first = request(PROFILES["clearfeed"], "s3cret")
    third = request(PROFILES["clearfeed"], "s3cret", attempt=3, retry=2, now=NOW + 70_000)

    assert {"X-CF-Retry-Count"} == {n for n, v in dict(first.headers).items() if v != dict(third.headers)[n]}
    assert ("0", "2") == (dict(first.headers)["X-CF-Retry-Count"], dict(third.headers)["X-CF-Retry-Count"])


def test_get_has_its_key_values_in_the_url() -> None:
    """A GET carries no body and no type of one; the others carry what is the subscription's own in theirs."""
    settings: dict[str, Any] = {"target_id": 5, "key_values": {"a b": "c d", "n": 1}, "headers": (("X-K", Secret("k")),)}
    got = request(PROFILES["clevertap"], method="GET", **settings)
    deleted = request(PROFILES["clevertap"], method="DELETE", **settings)

    assert ("GET", f"{URL}&a%20b=c%20d&n=1", b"", (("X-K", "k"),)) == (got.method, got.url, got.body, got.headers)
    assert ("DELETE", URL) == (deleted.method, deleted.url)
    assert b'{"targetId":5,"key_values":{"a b":"c d","n":1},"profiles":[{ "id": 1 }]}' == deleted.body
    assert b"" == body(PROFILES["clevertap"], None, [EVENT], method="GET")
    assert f"{got.url}&is_test=true" == request(for_tests(PROFILES["clevertap"]), method="GET", **settings).url
    assert PROFILES["standard"] is for_tests(PROFILES["standard"])
    assert b'{ "id": 1 }' == body(SVIX, None, [EVENT], method="GET")


def test_templates_have_every_variable() -> None:
    """A header of a profile is filled with what is known of the attempt."""
    template = "|".join(f"{{{name}}}" for name in VARIABLES)
    profile = replace(SVIX, headers=(("X-All", template), ("X-None", "100%"), ("X-Twice", "{id}{id}")))
    check_template(template)
    headers = dict(request(profile, attempt=4, retry=1, method="PUT").headers)

    assert f"{EVENT.id}|order.created|{AT}|4|1|PUT|{URL}|acme" == headers["X-All"]
    assert ("100%", EVENT.id * 2) == (headers["X-None"], headers["X-Twice"])


@pytest.mark.parametrize("template", ["{body}", "{ID}", "{", "}", "{}", "{{id}}", "{id!r}", "{id.x}", "{0}", "{id}}"])
def test_wrong_templates(template: str) -> None:
    """A template with other braces is refused, with what there is."""
    with pytest.raises(ValueError, match=r"expected no braces but those of \{id\}, "):
        check_template(template)


def test_secrets_are_the_callers_choice() -> None:
    """Whose secrets sign is decided by the caller: those of the subscription are not looked at."""
    made = build(
        PROFILES["github"],
        subscription("own"),
        [EVENT],
        secrets=[SigningSecret(value=Secret("other"))],
        attempt=1,
        retry=0,
        now=NOW,
        timeout=1,
    )

    verify(made.body, made.headers, "other", profile="github")


def test_known_signature_comes_out() -> None:
    """The vector of the Standard Webhooks specification's libraries, built as a request, has its signature."""
    event = replace(EVENT, id="msg_p5jXN8AQM9LWM0D4loKWxJek", data=b'{"test": 2432232314}')
    headers = dict(request(SVIX, SECRET, event=event, now=1_614_265_330_999).headers)

    assert "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" == headers["svix-signature"]


@pytest.mark.parametrize(
    ("name", "library"), [("standard", standardwebhooks.Webhook), ("svix", svix.webhooks.Webhook)], ids=["standard", "svix"]
)
@pytest.mark.parametrize("data", [b'{"id":1}', b'{ "n" : 1e400 }', '"Grüße 😀"'.encode(), b"null", b'"\\ud83d\\ude00"'])
def test_libraries_of_the_providers_verify(name: str, library: Any, data: bytes) -> None:
    """What the providers give their customers accepts our requests, also while a secret rotates."""
    made = request(PROFILES[name], NEWER_SECRET, old(SECRET, NOW * 2), event=replace(EVENT, data=data), now=Clock().now())

    for secret in (SECRET, NEWER_SECRET):
        library(secret).verify(made.body, dict(made.headers))


space = st.sampled_from(["", "", " ", "\n\t", "\r\n  "])
literals = st.sampled_from(
    [
        *("null", "true", "-0", "0.10", "1E+2", "-1.5e-300", "1e999", "123456789012345678901234567890", "0.30000000000000004"),
        *('""', '"\\u00e9\\/"', '"\\ud83d\\ude00"', '"é😀"', '"\\\\\\""', '"</script>"', '"a\\u0000b"', '"\u2028"'),
    ]
)
strings = st.one_of(st.sampled_from(['"id"', '"id"', '"\\u0069d"', '""', '"type"', '"data"']), st.text().map(json.dumps))


def _array(items: list[tuple[str, str, str]]) -> str:
    return "[" + ",".join("".join(item) for item in items) + "]"


def _object(members: list[tuple[str, str, str, str]]) -> str:
    return "{" + ",".join(f"{before}{name}{after}:{value}" for before, name, after, value in members) + "}"


texts = st.recursive(
    literals | strings,
    lambda inner: (
        st.lists(st.tuples(space, inner, space), max_size=3).map(_array)
        | st.lists(st.tuples(space, strings, space, inner), max_size=4).map(_object)
    ),
    max_leaves=12,
)


@given(st.tuples(space, texts, space).map("".join))
def test_data_is_the_producers_own_bytes(text: str) -> None:
    """Spacing, duplicate keys, escapes and numbers beyond doubles arrive as they were written."""
    event = replace(EVENT, data=text.encode())
    standard, svix_ = request(STANDARD, SECRET, event=event), request(SVIX, SECRET, event=event)

    assert b'{"type":"order.created","timestamp":"2023-11-14T21:56:40.123Z","data":' + event.data + b"}" == standard.body
    assert event.data == svix_.body
    assert repr(json.loads(text)) == repr(json.loads(standard.body)["data"])
    for name, made in (("standard", standard), ("svix", svix_)):
        verify(made.body, made.headers, SECRET, profile=name, now=NOW / 1000)


# Signing.


@pytest.mark.parametrize("name", BRANDS)
@pytest.mark.parametrize(
    ("secrets", "signing"),
    [
        pytest.param([SECRET], [SECRET], id="one"),
        pytest.param([NEWER_SECRET, old(SECRET, NOW + 1)], [NEWER_SECRET, SECRET], id="rotating"),
        pytest.param([NEWER_SECRET, old(SECRET, NOW)], [NEWER_SECRET], id="ends now"),
        pytest.param([NEWER_SECRET, old(SECRET, NOW - 1)], [NEWER_SECRET], id="ended"),
        pytest.param([NEWER_SECRET, old(NEWER_SECRET, 1), old(SECRET, NOW + 9)], [NEWER_SECRET, SECRET], id="rotated twice"),
        pytest.param([old(NEWER_SECRET, 1), old(SECRET, 2)], [], id="all ended"),
        pytest.param([], [], id="none"),
    ],
)
def test_secrets_that_have_not_ended_sign(name: str, secrets: list[str | SigningSecret], signing: list[str]) -> None:
    """Every secret signs until its end and not at it, the newest first, and no other does."""
    made = request(PROFILES[name], *secrets)
    headers = dict(made.headers)
    expected = " ".join(signature(each, EVENT, NOW, made.body) for each in signing)

    assert (expected or None) == headers.get(f"{BRANDS[name]}-signature")
    for secret in (SECRET, NEWER_SECRET):
        if secret in signing:
            verify(made.body, made.headers, secret, profile=name, now=NOW / 1000)
        else:
            with pytest.raises(VerificationError):
                verify(made.body, made.headers, secret, profile=name, now=NOW / 1000)


@pytest.mark.parametrize("name", BRANDS)
def test_without_secrets_a_request_goes_unsigned(name: str) -> None:
    """No secret leaves the signature out, and nothing else."""
    signed, unsigned = request(PROFILES[name], SECRET), request(PROFILES[name])
    without = tuple(pair for pair in signed.headers if pair[0] != f"{BRANDS[name]}-signature")

    assert (without, signed.body) == (unsigned.headers, unsigned.body)


@pytest.mark.parametrize("name", BRANDS)
def test_ed25519_verifies_with_the_public_key(name: str) -> None:
    """While a subscription moves from HMAC to Ed25519 its requests carry both, and each receiver finds its own."""
    made = request(PROFILES[name], ED25519_SECRET, old(SECRET, NOW + 1))
    public = public_key(ED25519_SECRET)
    assert public is not None

    for secret in (public, SECRET):
        verify(made.body, made.headers, secret, profile=name, now=NOW / 1000)
    assert ["v1", "v1a"] == sorted(
        each.partition(",")[0] for each in dict(made.headers)[f"{BRANDS[name]}-signature"].split(" ")
    )


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_!!!!", "whsec_" + base64.b64encode(bytes(23)).decode(), "hunter2"])
def test_secret_that_holds_no_key_is_an_error(secret: str) -> None:
    """A stored secret that cannot sign never becomes a request without a signature, and the error does not repeat it."""
    with pytest.raises(ValueError) as raised:  # noqa: PT011  # its words are signing's
        request(STANDARD, secret)

    assert not secret or secret not in str(raised.value)


def test_retries_differ_in_attempt_and_time_only() -> None:
    """Every retry has the same id and body, its own number, and a timestamp and signature of its own."""
    first, second = request(STANDARD, SECRET), request(STANDARD, SECRET, attempt=2, now=NOW + 5_000)
    before, after = dict(first.headers), dict(second.headers)

    assert first.body == second.body
    assert {"webhook-timestamp", "webhook-signature", "webhook-attempt"} == {n for n in before if before[n] != after[n]}
    assert ("1", "2") == (before["webhook-attempt"], after["webhook-attempt"])
    assert ("1700000000", "1700000005") == (before["webhook-timestamp"], after["webhook-timestamp"])


# What a subscription adds and overrides.


def test_own_headers_and_basic_auth_are_sent_and_hidden() -> None:
    """Credentials of the subscription go on the wire, are named as hidden, and do not show in the request's repr."""
    made = request(
        STANDARD,
        SECRET,
        headers=(("X-Api-Key", Secret("hush-key")), ("X-Trace", Secret("hush-trace"))),
        auth=BasicAuth(username="Aladdin", password=Secret("open sesame")),
    )
    expected = (("X-Api-Key", "hush-key"), ("X-Trace", "hush-trace"), ("authorization", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="))

    assert expected == made.headers[-3:]
    assert frozenset({"x-api-key", "x-trace", "authorization"}) == made.hidden
    assert not any(text in repr(made) for text in ("hush", "QWxhZGRpbjpvcGVuIHNlc2FtZQ", "sesame"))
    assert "webhook-signature" in repr(made)


@pytest.mark.parametrize(
    ("settings", "hidden"),
    [
        pytest.param({}, set(), id="neither"),
        pytest.param({"headers": (("X-Api-Key", Secret("k")),)}, {"x-api-key"}, id="headers"),
        pytest.param({"auth": BasicAuth(username="u", password=Secret("p"))}, {"authorization"}, id="basic"),
    ],
)
def test_only_own_headers_are_hidden(settings: dict[str, Any], hidden: set[str]) -> None:
    """What the profile sends can be seen in the history; what the user gave cannot."""
    made = request(STANDARD, SECRET, **settings)

    assert hidden == made.hidden
    assert hidden <= {name.lower() for name, _ in made.headers}


def test_method_is_the_subscriptions_before_the_profiles() -> None:
    """A subscription may choose the method; without a choice the profile's holds."""
    putting = replace(STANDARD, method="PUT")

    assert ["PATCH", "PUT", "POST"] == [
        request(putting, method="PATCH").method,
        request(putting).method,
        request(STANDARD).method,
    ]


def test_timeout_is_the_callers() -> None:
    """The request carries the budget that it is given."""
    made = build(STANDARD, subscription(), [EVENT], secrets=(), attempt=1, retry=0, now=NOW, timeout=1_234)

    assert 1_234 == made.timeout


def test_profile_without_schemes_sends_neither_signature_nor_id() -> None:
    """A profile that signs nothing sends its own headers only, also where the subscription has a secret."""
    plain = Profile(name="plain", envelope=ENVELOPES["data"], headers=(("X-Try", "no. {attempt}"),))
    made = request(plain, SECRET, attempt=4)

    assert (("content-type", "application/json"), ("X-Try", "no. 4")) == made.headers


# The table.


@pytest.mark.parametrize("name", [*BRANDS, "github", "stripe", "slack", "shopify"])
def test_rules_are_those_of_the_documentation(name: str) -> None:
    """The schedule, the codes and the limits of standard hold for its relatives too."""
    found = PROFILES[name].rules

    assert ["5s", "5m", "30m", "2h", "5h", "10h", "14h", "20h", "1d"] == [format_duration(d) for d in found.retry_schedule]
    assert replace(found, retry_schedule=()) == Rules(
        success=None,
        timeout=15_000,
        jitter=0.1,
        gone=frozenset({410}),
        throttle=frozenset({429, 502, 503, 504}),
        retry_after=frozenset({429, 503}),
        breaker=True,
        disable_after=432_000_000,
    )


@pytest.mark.parametrize(
    ("name", "schedule", "rest"),
    [
        ("clearfeed", ["10s", "1m", "3m"], Rules(timeout=15_000)),
        ("clarife", ["1s", "10s", "1m"], Rules(timeout=10_000, disable_after_failures=10)),
        ("clevertap", ["5s", "30s"], Rules(timeout=5_000, failed_label="Webhook Dispatch Failed")),
    ],
)
def test_rules_of_the_providers(name: str, schedule: list[str], rest: Rules) -> None:
    """The three providers retry as they document, without jitter, breaker, throttle or `Retry-After`."""
    found = PROFILES[name].rules

    assert schedule == [format_duration(delay) for delay in found.retry_schedule]
    assert rest == replace(found, retry_schedule=())


def test_saving_and_secrets_of_the_providers() -> None:
    """Who wants a test before a subscription is saved, whose secret signs, and who takes several events at once."""
    assert {"clearfeed": 200, "clevertap": 200} == {n: p.verify_on_save for n, p in PROFILES.items() if p.verify_on_save}
    assert ["clearfeed"] == [n for n, p in PROFILES.items() if p.secret_scope == "tenant"]
    assert ["clearfeed", "clevertap"] == [n for n, p in PROFILES.items() if not p.has_own_secrets]
    assert ["clevertap"] == [n for n, p in PROFILES.items() if p.batch]


def test_profiles_are_known_by_their_names() -> None:
    """Every row stands under its own name, and signs with the schemes that receivers verify with."""
    assert list(SCHEMES) == list(PROFILES)
    for name, profile in PROFILES.items():
        assert (name, SCHEMES[name], "POST") == (profile.name, profile.schemes, profile.method)
        assert "application/json" == profile.content_type


def test_every_profile_is_documented() -> None:
    """Each profile has a section in docs/profiles.md, and there are no others."""
    text = (Path(__file__).parent.parent / "docs" / "profiles.md").read_text()

    assert set(PROFILES) == {line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")}


def test_table_cannot_be_changed() -> None:
    """One engine in a process cannot change the profiles of another."""
    with pytest.raises(TypeError):
        PROFILES["standard"] = SVIX  # type: ignore[index]  # what must fail
    with pytest.raises(AttributeError):
        STANDARD.method = "PUT"  # type: ignore[misc]  # what must fail


@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        pytest.param({}, {}, id="none"),
        pytest.param({"timeout": 5_000}, {"timeout": 5_000}, id="timeout"),
        pytest.param({"retry_schedule": (1_000, 2_000)}, {"retry_schedule": (1_000, 2_000)}, id="schedule"),
        pytest.param({"retry_schedule": ()}, {"retry_schedule": ()}, id="no retries"),
        pytest.param({"disable_after_failures": 10}, {"disable_after_failures": 10}, id="disable after"),
        pytest.param(
            {"timeout": 1, "retry_schedule": (9,), "disable_after_failures": 1},
            {"timeout": 1, "retry_schedule": (9,), "disable_after_failures": 1},
            id="all",
        ),
        pytest.param({"max_concurrency": 2, "method": "PUT"}, {}, id="others are no rules"),
    ],
)
def test_subscription_overrides_single_rules(settings: dict[str, Any], changes: dict[str, Any]) -> None:
    """What a subscription sets replaces that rule and no other, and the profile stays as it is."""
    before = STANDARD.rules

    assert replace(before, **changes) == rules(STANDARD, subscription(**settings))
    assert before is STANDARD.rules
