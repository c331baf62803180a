"""What we sign others verify, what others sign we verify, and nothing else passes."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import subprocess
import time
from datetime import UTC, datetime
from email.message import Message
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import standardwebhooks
import svix.webhooks
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreters import fresh
from slack_sdk.signature import SignatureVerifier
from stripe import WebhookSignature
from vectors import (
    AT,
    BODY,
    ED_PUBLIC,
    ED_SECRET,
    ED_SEED,
    ED_SIGNATURE,
    GITHUB_SECRET,
    ID,
    KEY,
    OTHER_SECRET,
    SECRET,
    SIGNATURE,
    SIGNING_PROFILES,
    SLACK_BODY,
    SLACK_SECRET,
    scheme,
)

from hookengine.errors import VerificationError
from hookengine.signing import SCHEMES, Scheme, sign, verify
from hookengine.signing_keys import UnusableSecret

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent
URL = "https://example.com/hooks/7?a=1&b=%20"

keys = st.binary(min_size=24, max_size=64)
ids = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
texts = st.text(st.characters(codec="utf-8"), max_size=300)
printable = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=80)
quick = settings(max_examples=60, deadline=None, database=None)


def signed(
    profile: str | tuple[Scheme, ...],
    *secrets: str,
    body: bytes = BODY,
    event_id: str = ID,
    at: int = AT,
    event_at: int | None = None,
) -> dict[str, str]:
    """The headers of a request of *profile*."""
    schemes = SCHEMES[profile] if isinstance(profile, str) else profile
    event_timestamp = at if event_at is None else event_at
    headers = sign(
        schemes, secrets, id=event_id, timestamp=at, body=body, method="POST", url=URL, event_timestamp=event_timestamp
    )
    assert len(headers) == len(dict(headers))
    return dict(headers)


def refusal(
    headers: Any,
    *,
    secret: Any = SECRET,
    body: bytes = BODY,
    profile: Any = "standard",
    now: float = AT,
    tolerance: float = 300,
) -> tuple[str, str]:
    """Reason and detail with which a request is refused."""
    with pytest.raises(VerificationError) as caught:
        verify(body, headers, secret, profile=profile, url=URL, now=now, tolerance=tolerance)
    return caught.value.reason, caught.value.detail


def moment(at: int) -> datetime:
    return datetime.fromtimestamp(at, UTC)


# What we sign.


@pytest.mark.parametrize(
    ("profile", "secret", "body", "at", "expected"),
    [
        pytest.param(
            "standard",
            SECRET,
            BODY,
            AT,
            {"webhook-id": ID, "webhook-timestamp": str(AT), "webhook-signature": SIGNATURE},
            id="standard",
        ),
        pytest.param(
            "standard",
            ED_SECRET,
            BODY,
            AT,
            {"webhook-id": ID, "webhook-timestamp": str(AT), "webhook-signature": ED_SIGNATURE},
            id="standard, ed25519",
        ),
        pytest.param(
            "standard",
            ED_SEED,
            BODY,
            AT,
            {"webhook-id": ID, "webhook-timestamp": str(AT), "webhook-signature": ED_SIGNATURE},
            id="standard, ed25519 of the seed alone",
        ),
        pytest.param(
            "svix",
            SECRET,
            BODY,
            AT,
            {"svix-id": ID, "svix-timestamp": str(AT), "svix-signature": SIGNATURE},
            id="svix",
        ),
        pytest.param(
            "github",
            GITHUB_SECRET,
            b"Hello, World!",
            AT,
            {"X-Hub-Signature-256": "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"},
            id="github",
        ),
        pytest.param(
            "slack",
            SLACK_SECRET,
            SLACK_BODY,
            1531420618,
            {
                "X-Slack-Signature": "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503",
                "X-Slack-Request-Timestamp": "1531420618",
            },
            id="slack",
        ),
        pytest.param("clevertap", SECRET, BODY, AT, {}, id="clevertap"),
    ],
)
def test_published_vectors(profile: str, secret: str, body: bytes, at: int, expected: dict[str, str]) -> None:
    """The headers are exactly those that the providers' own documents and tests show."""
    assert expected == signed(profile, secret, body=body, at=at)


def test_shopify() -> None:
    """Shopify's header is the base64 of HMAC-SHA256 over the body."""
    expected = base64.b64encode(hmac.digest(b"shh", BODY, "sha256")).decode()

    assert {"X-Shopify-Hmac-Sha256": expected} == signed("shopify", "shh")


def test_clearfeed() -> None:
    """Clearfeed's signature covers method, URL, body and the time of the event, and the header carries that time."""
    message = b"POST" + URL.encode() + BODY + str(AT - 60).encode()
    expected = hmac.new(b"shh", message, hashlib.sha256).hexdigest()

    headers = signed("clearfeed", "shh", event_at=AT - 60)

    assert {"X-CF-Signature": expected, "X-CF-Timestamp": str(AT - 60)} == headers


def test_clarife() -> None:
    """Clarife's header has the time of the attempt and one signature, over the body alone."""
    expected = hmac.new(b"new", BODY, hashlib.sha256).hexdigest()

    headers = signed("clarife", "new", "old", event_at=AT - 60)

    assert {"X-Clarife-Signature": f"t={AT},v1={expected}"} == headers


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        pytest.param("standard", {"webhook-id": ID, "webhook-timestamp": str(AT)}, id="standard"),
        pytest.param("clearfeed", {"X-CF-Timestamp": str(AT)}, id="clearfeed"),
        pytest.param("stripe", {}, id="stripe"),
    ],
)
def test_no_secret_no_signature(profile: str, expected: dict[str, str]) -> None:
    """Without a secret the request goes unsigned, with its id and timestamp."""
    assert expected == signed(profile)


@pytest.mark.parametrize(
    ("profile", "secrets", "items"),
    [
        pytest.param("standard", [OTHER_SECRET, SECRET], [None, SIGNATURE], id="standard"),
        pytest.param("svix", [SECRET, OTHER_SECRET], [SIGNATURE, None], id="svix"),
        pytest.param("standard", [ED_SECRET, SECRET], [SIGNATURE, ED_SIGNATURE], id="two kinds"),
    ],
)
def test_rotation_signs_with_each_secret(profile: str, secrets: list[str], items: list[str | None]) -> None:
    """While a secret rotates the header lists a signature by each, and a receiver may know either."""
    headers = signed(profile, *secrets)

    value = headers["svix-signature" if profile == "svix" else "webhook-signature"]
    assert len(items) == len(value.split(" "))
    assert all(expected in {None, item} for expected, item in zip(items, value.split(" "), strict=True))
    for secret in secrets:
        verify(BODY, headers, secret, profile=profile, now=AT)


@pytest.mark.parametrize("profile", ["clarife", "clearfeed", "github", "slack", "shopify"])
def test_rotation_signs_with_the_newest(profile: str) -> None:
    """Where the header holds one signature it is by the newest secret."""
    headers = signed(profile, "new", "old")

    assert signed(profile, "new") == headers
    assert "no_match" == refusal(headers, secret="old", profile=profile)[0]
    verify(BODY, headers, ["old", "new"], profile=profile, url=URL, now=AT)


def test_unusable_secret_is_not_signed_with() -> None:
    """A secret that no scheme of the profile takes, or a public key, is an error, not a request with one signature less."""
    for secret in ("plain", ED_PUBLIC, "whsec_"):
        with pytest.raises(UnusableSecret, match=r"secret|public key"):
            signed("standard", SECRET, secret)


# Against the providers' own libraries.


@quick
@given(key=keys, event_id=ids, text=texts)
def test_others_verify_what_we_sign(key: bytes, event_id: str, text: str) -> None:
    """The libraries of Standard Webhooks and Svix accept any body, id and secret of ours."""
    secret, at = "whsec_" + base64.b64encode(key).decode(), int(time.time())

    for profile in ("standard", "svix"):
        headers = signed(profile, OTHER_SECRET, secret, body=text.encode(), event_id=event_id, at=at)
        svix.webhooks.Webhook(secret).verify(text, headers)
        if profile == "standard":
            standardwebhooks.Webhook(secret).verify(text, headers, json_parse=False)


@quick
@given(key=keys, event_id=ids, text=texts)
def test_we_verify_what_others_sign(key: bytes, event_id: str, text: str) -> None:
    """What the libraries of Standard Webhooks and Svix sign passes here, and not with another body."""
    secret = "whsec_" + base64.b64encode(key).decode()
    for made, profile, brand in (
        (standardwebhooks.Webhook(secret).sign(event_id, moment(AT), text), "standard", "webhook"),
        (svix.webhooks.Webhook(secret).sign(event_id, moment(AT), text), "svix", "svix"),
    ):
        headers = {f"{brand}-id": event_id, f"{brand}-timestamp": str(AT), f"{brand}-signature": made}

        verify(text.encode(), headers, secret, profile=profile, now=AT)
        assert "no_match" == refusal(headers, secret=secret, body=text.encode() + b"x", profile=profile)[0]


@quick
@given(secret=printable, old=printable, text=texts)
def test_stripe_agrees(secret: str, old: str, text: str) -> None:
    """Stripe's library accepts our header with either secret of a rotation, and we accept its header."""
    at = int(time.time())
    header = signed("stripe", secret, old, body=text.encode(), at=at)["Stripe-Signature"]

    for each in (secret, old):
        assert WebhookSignature.verify_header(text, header, each, 300)
    theirs = WebhookSignature.generate_signature_header(text, secret, at)
    verify(text.encode(), {"stripe-signature": theirs}, secret, profile="stripe", now=at)


@quick
@given(secret=printable, text=texts)
def test_slack_agrees(secret: str, text: str) -> None:
    """Slack's library accepts our headers, and we accept its signature."""
    at = int(time.time())
    verifier = SignatureVerifier(secret)

    assert verifier.is_valid_request(text, signed("slack", secret, body=text.encode(), at=at))
    theirs = verifier.generate_signature(timestamp=str(at), body=text) or ""
    headers = {"X-Slack-Request-Timestamp": str(at), "X-Slack-Signature": theirs}
    verify(text.encode(), headers, secret, profile="slack", now=at)


SEED_VERIFIERS = """
const crypto = require('crypto');
function clarife(payload, signature, secret, now) {
  const [tPart, v1Part] = signature.split(",");
  const timestamp = tPart.replace("t=", "");
  const receivedHmac = v1Part.replace("v1=", "");
  if (now - parseInt(timestamp) > 300) return false;
  const expectedHmac = crypto.createHmac("sha256", secret).update(JSON.stringify(payload)).digest("hex");
  return crypto.timingSafeEqual(Buffer.from(receivedHmac, "hex"), Buffer.from(expectedHmac, "hex"));
}
function clearfeed(signingSecret, verb, url, body, timestamp, signature, now) {
  if (now - timestamp > 60 * 5) return false;
  return signature === crypto.createHmac('sha256', signingSecret).update(verb + url + body + timestamp).digest('hex');
}
const r = JSON.parse(require('fs').readFileSync(0));
console.log(JSON.stringify([
  clarife(JSON.parse(r.body), r.clarife['X-Clarife-Signature'], r.secret, r.now),
  clearfeed(r.secret, 'POST', r.url, r.body, r.clearfeed['X-CF-Timestamp'], r.clearfeed['X-CF-Signature'], r.now),
]));
"""


def test_the_documents_of_clarife_and_clearfeed_agree(find_program: Callable[[str], str]) -> None:
    """The receivers that both documents print accept what we sign."""
    body = '{"id":"evt_1","data":{"name":"Zoë","n":[1,2.5]}}'
    request = {"body": body, "secret": OTHER_SECRET, "url": URL, "now": AT + 300}
    headers = {name: signed(name, OTHER_SECRET, body=body.encode()) for name in ("clarife", "clearfeed")}

    ended = subprocess.run(
        [find_program("node"), "-e", SEED_VERIFIERS],
        input=json.dumps({**request, **headers}),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )

    assert [True, True] == json.loads(ended.stdout)


# What we verify.


@pytest.mark.parametrize("profile", SIGNING_PROFILES)
def test_own_signatures_verify(profile: str) -> None:
    """Every profile's requests verify with their secret, and not with another, nor with another body."""
    headers = signed(profile, SECRET)

    verify(BODY, headers, SECRET, profile=profile, url=URL, now=AT)
    assert "no_match" == refusal(headers, secret=OTHER_SECRET, profile=profile)[0]
    assert "no_match" == refusal(headers, body=BODY + b" ", profile=profile)[0]
    assert "no_match" == refusal(headers, body=b"", profile=profile)[0]


@pytest.mark.parametrize("secret", [ED_SECRET, ED_SEED, ED_PUBLIC, [SECRET, ED_PUBLIC]])
def test_ed25519_verifies_with_either_half(secret: str | list[str]) -> None:
    """An Ed25519 signature is verified with the public key, or with the secret in both its forms."""
    headers = {"webhook-id": ID, "webhook-timestamp": str(AT), "webhook-signature": ED_SIGNATURE}

    verify(BODY, headers, secret, now=AT)
    assert "no_match" == refusal(headers, secret=secret, body=BODY + b" ")[0]


@pytest.mark.parametrize("changed", [{"webhook-id": "other"}, {"webhook-timestamp": str(AT + 1)}], ids=["id", "timestamp"])
def test_signed_headers_count(changed: dict[str, str]) -> None:
    """Where a header is signed, another value of it is refused."""
    assert "no_match" == refusal({**signed("standard", SECRET), **changed})[0]


@pytest.mark.parametrize("other", ["a\udcff", "a"])
def test_no_two_ids_are_signed_alike(other: str) -> None:
    """A signature for one id is none for another, even for one that no text encoding can hold."""
    assert "no_match" == refusal({**signed("standard", SECRET, event_id="a?"), "webhook-id": other})[0]


@pytest.mark.parametrize(("method", "url"), [("PUT", URL), ("post", URL), ("POST", URL + "&c=2"), ("POST", "\udcff")])
def test_signed_method_and_url_count(method: str, url: str) -> None:
    """Where method and URL are signed, others are refused."""
    with pytest.raises(VerificationError, match="no signature fits"):
        verify(BODY, signed("clearfeed", "shh"), "shh", profile="clearfeed", method=method, url=url, now=AT)


@pytest.mark.parametrize("profile", ["standard", "svix", "stripe", "slack", "clarife", "clearfeed"])
@pytest.mark.parametrize(
    ("age", "expected"),
    [(300, None), (300.5, "timestamp_too_old"), (301, "timestamp_too_old"), (-300, None), (-301, "timestamp_too_new")],
)
def test_tolerance_has_two_sides(profile: str, age: float, expected: str | None) -> None:
    """A request may be 300 seconds old or ahead, and no more, whether its timestamp is signed or not."""
    headers = signed(profile, SECRET)

    if expected is None:
        verify(BODY, headers, SECRET, profile=profile, url=URL, now=AT + age)
    else:
        assert expected == refusal(headers, profile=profile, now=AT + age)[0]


def test_tolerance_can_be_set() -> None:
    """A tolerance of nothing wants the very second, a wide one admits a year."""
    headers = signed("standard", SECRET)

    verify(BODY, headers, SECRET, now=AT, tolerance=0)
    assert "timestamp_too_old" == refusal(headers, now=AT + 1, tolerance=0)[0]
    verify(BODY, headers, SECRET, now=AT + 31_536_000, tolerance=31_536_000)


def test_now_is_the_wall_clock() -> None:
    """Without `now` a request of this moment passes and one of the vector's year does not."""
    verify(BODY, signed("standard", SECRET, at=int(time.time())), SECRET)
    with pytest.raises(VerificationError, match=r"the timestamp is \d+ days .*old"):
        verify(BODY, signed("standard", SECRET), SECRET)


@pytest.mark.parametrize("profile", ["github", "shopify"])
def test_profiles_without_timestamp_have_no_age(profile: str) -> None:
    """A signature without a timestamp verifies at any time."""
    verify(BODY, signed(profile, "shh"), "shh", profile=profile, now=AT + 10**9)


STANDARD = {"webhook-id": ID, "webhook-timestamp": str(AT), "webhook-signature": SIGNATURE}


def http_server_headers() -> Message:
    message = Message()
    for name, value in STANDARD.items():
        message[name] = value
    return message


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({name.title(): value for name, value in STANDARD.items()}, id="title case"),
        pytest.param({name.upper(): value for name, value in STANDARD.items()}, id="upper case"),
        pytest.param(list(STANDARD.items()), id="pairs"),
        pytest.param(iter(STANDARD.items()), id="iterator of pairs"),
        pytest.param([(name.encode(), value.encode()) for name, value in STANDARD.items()], id="ASGI"),
        pytest.param(http_server_headers(), id="http.server"),
        pytest.param([*STANDARD.items(), *STANDARD.items()], id="each twice, the same"),
        pytest.param([*STANDARD.items(), ("x-none", None), (7, "x"), ("date", "")], id="others beside"),
        pytest.param({name: f"\t {value} " for name, value in STANDARD.items()}, id="white space around"),
        pytest.param({**STANDARD, "webhook-signature": f"v1,AAAA {SIGNATURE}"}, id="second fits"),
        pytest.param({**STANDARD, "webhook-signature": f"v2,x {SIGNATURE} v1a,x"}, id="unknown versions"),
        pytest.param({**STANDARD, "webhook-signature": f"  garbage {SIGNATURE} "}, id="garbage beside"),
        pytest.param({**STANDARD, "webhook-signature": " ".join([*["v1,AAAA"] * 99, SIGNATURE])}, id="the hundredth fits"),
    ],
)
def test_headers_that_pass(headers: Any) -> None:
    """Headers are found in any case and container, and one fitting signature among others is enough."""
    verify(BODY, headers, SECRET, now=AT)


def without(name: str) -> dict[str, str]:
    return {key: value for key, value in STANDARD.items() if key != name}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param({}, "missing_header", id="none"),
        pytest.param(without("webhook-id"), "missing_header", id="no id"),
        pytest.param(without("webhook-timestamp"), "missing_header", id="no timestamp"),
        pytest.param(without("webhook-signature"), "missing_header", id="no signature"),
        pytest.param({**STANDARD, "webhook-id": ""}, "missing_header", id="empty id"),
        pytest.param({**STANDARD, "webhook-timestamp": " "}, "missing_header", id="blank timestamp"),
        pytest.param({**STANDARD, "webhook-signature": ""}, "missing_header", id="empty signature"),
        pytest.param({**STANDARD, "webhook-signature": None}, "missing_header", id="None"),
        pytest.param({**STANDARD, "webhook-id": [ID]}, "missing_header", id="list"),
        pytest.param([*STANDARD.items(), ("Webhook-Id", "x")], "repeated_header", id="two ids"),
        pytest.param([*STANDARD.items(), (b"webhook-timestamp", b"1")], "repeated_header", id="two timestamps"),
        pytest.param([*STANDARD.items(), ("webhook-signature", "v1,x")], "repeated_header", id="two signatures"),
        pytest.param({**STANDARD, "webhook-timestamp": f"+{AT}"}, "invalid_timestamp", id="sign"),
        pytest.param({**STANDARD, "webhook-timestamp": f"-{AT}"}, "invalid_timestamp", id="minus"),
        pytest.param({**STANDARD, "webhook-timestamp": f"{AT}.0"}, "invalid_timestamp", id="fraction"),
        pytest.param({**STANDARD, "webhook-timestamp": "1_614_265_330"}, "invalid_timestamp", id="underscores"),
        pytest.param({**STANDARD, "webhook-timestamp": "1e9"}, "invalid_timestamp", id="exponent"),
        pytest.param({**STANDARD, "webhook-timestamp": "١٦١٤٢٦٥٣٣٠"}, "invalid_timestamp", id="other digits"),
        pytest.param({**STANDARD, "webhook-timestamp": "²"}, "invalid_timestamp", id="superscript"),
        pytest.param({**STANDARD, "webhook-timestamp": "nan"}, "invalid_timestamp", id="nan"),
        pytest.param({**STANDARD, "webhook-timestamp": "9" * 5000}, "invalid_timestamp", id="5000 digits"),
        pytest.param({**STANDARD, "webhook-timestamp": "2021-02-25T15:02:10Z"}, "invalid_timestamp", id="RFC 3339"),
        pytest.param({**STANDARD, "webhook-timestamp": f"{AT}000"}, "timestamp_too_new", id="milliseconds"),
        pytest.param({**STANDARD, "webhook-timestamp": "0"}, "timestamp_too_old", id="epoch"),
        pytest.param({**STANDARD, "webhook-timestamp": f"0{AT}"}, "no_match", id="leading zero"),
        pytest.param({**STANDARD, "webhook-signature": SIGNATURE[3:]}, "malformed_signature", id="no version"),
        pytest.param({**STANDARD, "webhook-signature": SIGNATURE.replace(",", "=")}, "malformed_signature", id="equals"),
        pytest.param({**STANDARD, "webhook-signature": SIGNATURE.upper()}, "malformed_signature", id="V1"),
        pytest.param({**STANDARD, "webhook-signature": f"v2,{SIGNATURE[3:]}"}, "malformed_signature", id="v2"),
        pytest.param({**STANDARD, "webhook-signature": "\ud800 \x00"}, "malformed_signature", id="no text at all"),
        pytest.param({**STANDARD, "webhook-signature": "v1,"}, "no_match", id="nothing after version"),
        pytest.param({**STANDARD, "webhook-signature": SIGNATURE[:-1]}, "no_match", id="one shorter"),
        pytest.param({**STANDARD, "webhook-signature": SIGNATURE[:4]}, "no_match", id="prefix of it"),
        pytest.param({**STANDARD, "webhook-signature": f"{SIGNATURE}A"}, "no_match", id="one longer"),
        pytest.param({**STANDARD, "webhook-signature": f"{SIGNATURE},"}, "no_match", id="comma behind"),
        pytest.param({**STANDARD, "webhook-signature": "v1,\udcff"}, "no_match", id="surrogate"),
        pytest.param({**STANDARD, "webhook-signature": "v1,é"}, "no_match", id="not ASCII"),
        pytest.param({**STANDARD, "webhook-signature": f"v1a,{SIGNATURE[3:]}"}, "no_match", id="other kind"),
        pytest.param({**STANDARD, "webhook-signature": "v1,x " * 101}, "malformed_signature", id="more than 100"),
        pytest.param({**STANDARD, "webhook-signature": "v1,x" + "y" * 10**6}, "no_match", id="a megabyte"),
        pytest.param({**STANDARD, "webhook-id": "\ud800"}, "no_match", id="lone surrogate as id"),
        pytest.param({**STANDARD, "webhook-id": f"{ID}\udcff"}, "no_match", id="bytes that are no UTF-8 in id"),
    ],
)
def test_hostile_headers(headers: Any, expected: str) -> None:
    """Whatever the headers hold, the request is refused with a reason, and with nothing else."""
    assert expected == refusal(headers)[0]


@pytest.mark.parametrize(
    ("profile", "headers", "expected"),
    [
        pytest.param("stripe", {"Stripe-Signature": "x"}, "malformed_signature", id="stripe, garbage"),
        pytest.param("stripe", {"Stripe-Signature": "v1=00"}, "malformed_signature", id="stripe, no timestamp"),
        pytest.param("stripe", {"Stripe-Signature": f"t={AT},v0=00"}, "malformed_signature", id="stripe, no v1"),
        pytest.param("stripe", {"Stripe-Signature": f"t={AT},t=1,v1=00"}, "malformed_signature", id="stripe, two timestamps"),
        pytest.param("stripe", {"Stripe-Signature": "t=,v1=00"}, "invalid_timestamp", id="stripe, empty timestamp"),
        pytest.param("stripe", {"Stripe-Signature": f"t={AT},v1=00"}, "no_match", id="stripe, other signature"),
        pytest.param("github", {"X-Hub-Signature-256": "sha1=00"}, "malformed_signature", id="github, sha1"),
        pytest.param("shopify", {"X-Shopify-Hmac-Sha256": "AAAA"}, "no_match", id="shopify"),
        pytest.param("slack", {"X-Slack-Signature": "v0=00"}, "missing_header", id="slack, no timestamp"),
        pytest.param("clevertap", {"authorization": "Basic x"}, "unsigned_profile", id="clevertap"),
        pytest.param("acme", STANDARD, "unknown_profile", id="unknown"),
    ],
)
def test_hostile_headers_of_other_profiles(profile: str, headers: dict[str, str], expected: str) -> None:
    """Each profile's headers are read by their own form, and a profile that signs nothing verifies nothing."""
    assert expected == refusal(headers, profile=profile)[0]


@pytest.mark.parametrize("signature", ["v1a,", "v1a,AAAA", "v1a,!", "v1a,\udcff", ED_SIGNATURE[:-2], "v1a," + "A" * 88])
def test_hostile_ed25519_signatures(signature: str) -> None:
    """An Ed25519 signature that is no base64 or no signature is refused like one that does not fit."""
    headers = {**STANDARD, "webhook-signature": signature}

    assert "no_match" == refusal(headers, secret=ED_PUBLIC)[0]
    verify(BODY, {**STANDARD, "webhook-signature": f"{signature} {ED_SIGNATURE}"}, ED_PUBLIC, now=AT)


@quick
@given(
    headers=st.lists(
        st.tuples(
            st.sampled_from(
                [*STANDARD, "stripe-signature", "x-slack-signature", "x-slack-request-timestamp", "x-cf-signature"]
            ),
            st.one_of(st.text(), st.binary(), st.sampled_from(["v1,", "v1a,", "t=1,v1=", "v0=", str(AT)])),
        )
    ),
    body=st.binary(),
    profile=st.sampled_from(SIGNING_PROFILES),
)
def test_any_headers_are_refused(headers: list[tuple[str, str | bytes]], body: bytes, profile: str) -> None:
    """No headers and no body raise anything but VerificationError."""
    assert "" != refusal(headers, body=body, profile=profile)[1]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param(b'{"a":[1,"\xc3\xa9"]}\n', "without its final newline", id="newline added"),
        pytest.param(b'{"a":[1,"\xc3\xa9"]}\r\n', "without its final newline", id="CRLF added"),
        pytest.param(b'{"a": [1, "\xc3\xa9"]}', "in compact form", id="printed with spaces"),
        pytest.param(b'{"a": [1, "\\u00e9"]}', "in compact form", id="printed by json.dumps"),
        pytest.param(b'{"a":[2,"\xc3\xa9"]}', "no signature fits", id="another body"),
        pytest.param(b'{"a":' * 12_000, "no signature fits", id="deep nesting"),
        pytest.param(b"[" + b"9" * 5000 + b"]", "no signature fits", id="huge number"),
        pytest.param(b'"\\ud800"', "no signature fits", id="lone surrogate"),
        pytest.param(b"\xff\xfe\x00", "no signature fits", id="no text"),
        pytest.param(b'{"a": [1, "\xc3\xa9"]}' + b" " * 65_536, "no signature fits", id="too large to look"),
    ],
)
def test_hints_for_a_changed_body(body: bytes, expected: str) -> None:
    """A body that was only printed anew is named as such, and bodies made to hurt that search do not."""
    headers = signed("standard", SECRET, body=b'{"a":[1,"\xc3\xa9"]}')

    reason, detail = refusal(headers, body=body)

    assert "no_match" == reason
    assert expected in detail


def test_hint_for_a_newline_that_was_cut() -> None:
    """A body that lost its final newline is named as such."""
    assert (
        "with a final newline" in refusal(signed("github", "shh", body=b"{}\n"), secret="shh", body=b"{}", profile="github")[1]
    )


@pytest.mark.parametrize(
    ("headers", "arguments", "expected"),
    [
        pytest.param(
            STANDARD,
            {"now": AT + 420},
            ("timestamp_too_old", "the timestamp is 7 minutes old; 5 minutes are allowed"),
            id="old",
        ),
        pytest.param(
            STANDARD,
            {"now": AT - 301, "tolerance": 0},
            ("timestamp_too_new", "the timestamp is 5 minutes 1 second ahead of this clock; 0 seconds are allowed"),
            id="ahead",
        ),
        pytest.param(
            {"svix-signature": "x"},
            {},
            ("missing_header", "the header webhook-signature is missing; there is one of the profile svix"),
            id="other profile's headers",
        ),
        pytest.param(
            {"webhook-signature": SIGNATURE},
            {},
            ("missing_header", "the header webhook-timestamp is missing or empty"),
            id="half of the headers",
        ),
        pytest.param(
            STANDARD,
            {"secret": ED_PUBLIC},
            ("no_match", "the signatures in webhook-signature are of another kind than the secret"),
            id="other kind of secret",
        ),
        pytest.param(
            {**STANDARD, "webhook-signature": "x"},
            {},
            ("malformed_signature", "webhook-signature holds no signature of the form v1,{signature}"),
            id="no signature",
        ),
    ],
)
def test_details_help(headers: dict[str, str], arguments: dict[str, Any], expected: tuple[str, str]) -> None:
    """The detail says what is wrong in words that a newcomer understands."""
    assert expected == refusal(headers, **arguments)


@pytest.mark.parametrize(
    "secret",
    [
        "",
        [],
        None,
        [SECRET, ""],
        "plain",
        SECRET[6:],
        "whsec_",
        "whsec_!!!!",
        "whsec_" + KEY.rstrip("="),
        SECRET + "\n",
        "whpk_AAAA",
        "whsk_AAAA",
        "whsec_\udcff",
    ],
)
def test_unusable_secrets_are_refused(secret: Any) -> None:
    """A secret that cannot be one, and none at all, verifies nothing."""
    assert "invalid_secret" == refusal(STANDARD, secret=secret)[0]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param({"body": BODY.decode()}, "bytes that arrived", id="text body"),
        pytest.param({"body": {"test": 1}}, "bytes that arrived", id="parsed body"),
        pytest.param({"secret": b"shh"}, "a secret is text", id="secret in bytes"),
        pytest.param({"secret": ["shh", 1]}, "a secret is text", id="number as secret"),
        pytest.param({"headers": None}, "headers are a mapping", id="no headers"),
        pytest.param({"headers": "x: y"}, "headers are a mapping", id="text headers"),
        pytest.param({"headers": [("a", "b", "c")]}, "headers are a mapping", id="triples"),
        pytest.param({"profile": "clearfeed", "url": None}, "pass url", id="no URL where it is signed"),
    ],
)
def test_misuse_is_a_value_error(arguments: dict[str, Any], expected: str) -> None:
    """Arguments that no request could make right are the programmer's mistake, not a request's."""
    given_ = {"body": BODY, "headers": STANDARD, "secret": SECRET, "now": AT, **arguments}

    with pytest.raises(ValueError, match=expected):
        verify(given_.pop("body"), given_.pop("headers"), given_.pop("secret"), **given_)


# Schemes as data.


def hex_of(message: bytes) -> str:
    return hmac.digest(b"shh", message, "sha256").hex()


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        pytest.param(scheme(algorithm="hmac-sha1"), hmac.digest(b"shh", BODY, "sha1").hex(), id="sha1"),
        pytest.param(scheme(algorithm="hmac-sha512"), hmac.digest(b"shh", BODY, "sha512").hex(), id="sha512"),
        pytest.param(
            scheme(value="s={signature};at={timestamp};x", separator=";", signed="{method} {url}|{body}%s|{timestamp}"),
            f"s={hex_of(b'POST ' + URL.encode() + b'|' + BODY + b'%s|' + str(AT).encode())};at={AT};x",
            id="signature first",
        ),
        pytest.param(
            scheme(value='k="{signature}"', separator="", signed="{id}{body}", id_header="X-Id"),
            f'k="{hex_of(ID.encode() + BODY)}"',
            id="text around",
        ),
        pytest.param(
            scheme(value="v1={signature}", separator=",", several=True),
            ",".join(f"v1={hmac.digest(key, BODY, 'sha256').hex()}" for key in (b"shh", b"old")),
            id="list",
        ),
        pytest.param(
            scheme(value="t{timestamp}.{signature}", separator=".", timestamp="event"),
            f"t{AT - 5}.{hex_of(BODY)}",
            id="time of the event",
        ),
    ],
)
def test_a_scheme_is_data(row: Scheme, expected: str) -> None:
    """A scheme made of other parts signs and verifies without code of its own."""
    headers = signed((row,), "shh", "old", event_at=AT - 5)

    assert expected == headers["X-Sig"]
    verify(BODY, headers, "shh", profile=(row,), url=URL, now=AT)
    assert "no_match" == refusal(headers, body=b"x", secret="shh", profile=(row,))[0]


def test_ed25519_in_hex() -> None:
    """Ed25519 signatures may be written in hex, with prefixes of the provider's own."""
    row = scheme(algorithm="ed25519", key="base64", prefix="sk_", public_prefix="pk_")
    secret, public = f"sk_{ED_SEED[5:]}", f"pk_{ED_PUBLIC[5:]}"

    headers = signed((row,), secret)

    assert 128 == len(headers["X-Sig"])
    verify(BODY, headers, public, profile=(row,), now=AT)
    for signature in ("zz", "é" * 128, headers["X-Sig"][:-2]):
        assert "no_match" == refusal({"X-Sig": signature}, secret=public, profile=(row,))[0]


def test_ed25519_without_public_prefix() -> None:
    """Where a scheme knows no public keys its signatures verify with the secret."""
    row = scheme(algorithm="ed25519", key="base64", prefix="sk_")
    secret = f"sk_{ED_SEED[5:]}"

    verify(BODY, signed((row,), secret), secret, profile=(row,), now=AT)


def test_two_headers_are_two_chances() -> None:
    """Of a profile with two signature headers a receiver needs one that is there and fits."""
    rows = (scheme(header="X-Sha1", algorithm="hmac-sha1"), scheme(header="X-Sha256"))
    headers = signed(rows, "shh")

    assert ["X-Sha1", "X-Sha256"] == list(headers)
    verify(BODY, {"x-sha256": headers["X-Sha256"]}, "shh", profile=rows, now=AT)
    verify(BODY, {**headers, "X-Sha1": "00"}, "shh", profile=rows, now=AT)
    assert "no_match" == refusal({"X-Sha1": "00", "X-Sha256": "00"}, secret="shh", profile=rows)[0]
    assert "missing_header" == refusal({}, secret="shh", profile=rows)[0]


# Alone.


def test_standard_library_only() -> None:
    """Importing, signing and verifying by HMAC loads nothing from outside the standard library."""
    code = f"""
before = set(sys.modules)
from hookengine.schemes import SCHEMES
from hookengine.signing import sign, verify
headers = sign(SCHEMES["standard"], [{SECRET!r}], id="i", timestamp=1, body=b"", method="", url="", event_timestamp=1)
verify(b"", headers, {SECRET!r}, now=1)
print(sorted({{name.partition(".")[0] for name in set(sys.modules) - before}} - sys.stdlib_module_names))
"""
    assert "['hookengine']" == fresh(code)


@pytest.mark.parametrize(
    "wrong",
    [
        {"tolerance": None},
        {"tolerance": "300"},
        {"tolerance": -1},
        {"tolerance": float("nan")},
        {"now": "1"},
        {"now": float("inf")},
        {"now": float("nan")},
        {"secret": 5},
        {"profile": 5},
        {"profile": b"standard"},
        {"profile": SCHEMES["standard"][0]},
        {"profile": ["standard"]},
        {"method": None},
        {"method": b"POST"},
        {"url": b"https://example.com/"},
    ],
    ids=repr,
)
def test_arguments_that_nobody_could_mean(wrong: dict[str, Any]) -> None:
    """A receiver that is set up wrongly hears of that, and takes no request for a forged one."""
    given: dict[str, Any] = {"secret": SECRET, "now": AT} | wrong
    with pytest.raises(ValueError, match=r"is (a number|text|the name)"):
        verify(BODY, signed("standard", SECRET), **given)

    verify(BODY, signed("standard", SECRET), SECRET, tolerance=float("inf"), now=AT + 10**9)


def test_schemes_may_be_any_iterable() -> None:
    """Schemes that can be gone through once verify as those in a list do."""
    verify(BODY, signed("standard", SECRET), SECRET, profile=(each for each in SCHEMES["standard"]), now=AT)
