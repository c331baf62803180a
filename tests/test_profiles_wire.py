"""
What a real receiver takes off the wire, judged by other people's code.

The providers' own libraries, the JavaScript that they publish, run by node, and formulas written down here from their
documentation.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import slack_sdk.signature
import standardwebhooks
import stripe
import svix.webhooks
from engines import Journal, running
from msgspec import UNSET
from node import Node

from hookengine.errors import Invalid, VerificationError
from hookengine.receiver import Receiver
from hookengine.schemes import SCHEMES
from hookengine.signing import verify
from hookengine.signing_keys import new_secret

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from hookengine import Engine, Subscription, views
    from hookengine.receiver import Received

# What JavaScript can hold.
PAYLOADS = [
    '{"id": 1}',
    "{}",
    '{ "nested" : {"a": [1, {"b": [[], {}, null, true]}]} , "x": {} }',
    '{"text": "Grüße, 世界, \\u00e9\\n\\"\\\\\\/\\u0000\\u001f\x7f"}',
    '{"emoji": "😀 \\ud83d\\ude00 👩‍👩‍👧"}',
    '{"separators": "\u2028\u2029 \\u2028", "ключ": "\u00a0"}',
    '{"floats": [1.0, 1e21, 1e-7, -0, -0.0, 1.10, 0.1, 5e-324, 1.7976931348623157e308, 1E2, 123e-9, 1.5e300, 1e20]}',
    '{"integers": [9007199254740991, 9007199254740992, 9007199254740994, -9007199254740992, 18446744073709551616]}',
    '{"b": 1, "10": 2, "9": 3, "a": 4, "4294967294": 5, "4294967295": 6, "01": 7, "-1": 8, "0": 9}',
    '{"twice": 1, "other": 2, "twice": {"1": 1, "0": 0, "1": 2}}',
    '{"__proto__": {"a": 1}, "toJSON": "x", "constructor": null}',
    '{"type": "mine", "id": [1], "sub_type": {}}',
]
BEYOND_JAVASCRIPT = [
    '{"integers": [9007199254740993, -9007199254740993, 123456789012345678901234567890]}',
    '{"numbers": [1e309, -1E400, 0.30000000000000004440892098500626]}',
]
EVERYTHING = PAYLOADS + BEYOND_JAVASCRIPT
OTHER_SECRET = new_secret(bytes(32))
TARGET = "/hook?a=%7e+b&b"


@asynccontextmanager
async def delivered(
    folder: Path, profile: str, payloads: list[str], *, rotate: bool = False, **settings: Any
) -> AsyncIterator[tuple[list[Received], list[str], str]]:
    """What arrives for a subscription with *profile*, in the order of *payloads*; its secrets, newest first, and its URL."""
    async with Receiver() as receiver, running(folder) as engine:
        url = receiver.url + TARGET
        made = await engine.subscribe(url, profile=profile, max_concurrency=1, **settings)
        tests = len(receiver.requests)  # of the save, where the profile has one
        secrets = [str(made.secret or (await engine.set_tenant_secret("default")).secret)]
        if rotate:
            rotated = await (engine.rotate_secret(made.id) if made.secret else engine.set_tenant_secret("default"))
            secrets.insert(0, str(rotated.secret))
        for payload in payloads:
            event = await engine.publish("order.created", payload.encode())
            await engine.wait(event.id, timeout=10)
        yield (await receiver.wait(tests + len(payloads)))[tests:], secrets, url


def lower(received: Received) -> dict[str, str]:
    """The headers, as frameworks hand them on."""
    return {name.lower(): value for name, value in received.headers}


@pytest.fixture(scope="module")
def run_node(find_program: Callable[[str], str]) -> Callable[[str], Node]:
    """What starts a script."""
    return lambda script: Node(find_program("node"), script)


@pytest.mark.parametrize(
    ("profile", "library"),
    [("standard", standardwebhooks.Webhook), ("svix", svix.webhooks.Webhook)],
    ids=["standard", "svix"],
)
async def test_standard_webhooks(tmp_path: Path, profile: str, library: Any) -> None:
    """The libraries of Standard Webhooks and of Svix accept every request, with the old secret and with the new one."""
    async with delivered(tmp_path, profile, EVERYTHING, rotate=True) as (requests, secrets, _):
        for request in requests:
            for secret in secrets:
                library(secret).verify(request.body, lower(request))


async def test_stripe(tmp_path: Path) -> None:
    """Stripe's library makes its event of every request, with the old secret and with the new one."""
    async with delivered(tmp_path, "stripe", EVERYTHING, rotate=True) as (requests, secrets, _):
        for request, payload in zip(requests, EVERYTHING, strict=True):
            for secret in secrets:
                stripe.Webhook.construct_event(request.body, lower(request)["stripe-signature"], secret)
            assert payload.encode() == request.body


async def test_slack(tmp_path: Path) -> None:
    """Slack's library accepts every request, signed with the new secret alone."""
    async with delivered(tmp_path, "slack", EVERYTHING, rotate=True) as (requests, (new, old), _):
        for request in requests:
            headers = dict(request.headers)
            assert slack_sdk.signature.SignatureVerifier(new).is_valid_request(request.body, headers)
            assert not slack_sdk.signature.SignatureVerifier(old).is_valid_request(request.body, headers)


async def test_github(tmp_path: Path) -> None:
    """The formula in GitHub's documentation gives the header of every request."""
    async with delivered(tmp_path, "github", EVERYTHING, rotate=True) as (requests, (new, _), _):
        for request in requests:
            expected = "sha256=" + hmac.new(new.encode("utf-8"), msg=request.body, digestmod=hashlib.sha256).hexdigest()
            headers = lower(request)
            assert expected == headers["x-hub-signature-256"]
            assert ("order.created", "evt_") == (headers["x-github-event"], headers["x-github-delivery"][:4])


async def test_shopify(tmp_path: Path) -> None:
    """The formula in Shopify's documentation gives the header of every request."""
    async with delivered(tmp_path, "shopify", EVERYTHING, rotate=True) as (requests, (new, _), _):
        for request in requests:
            digest = hmac.new(new.encode("utf-8"), request.body, digestmod=hashlib.sha256).digest()
            assert base64.b64encode(digest).decode() == lower(request)["x-shopify-hmac-sha256"]
            assert "order.created" == lower(request)["x-shopify-topic"]


async def test_clarife(tmp_path: Path, run_node: Callable[[str], Node]) -> None:
    """The JavaScript that Clarife publishes accepts every payload that JavaScript can hold, and no changed one."""
    async with delivered(tmp_path, "clarife", PAYLOADS, rotate=True) as (requests, (new, old), _):
        questions = [
            {"body": request.body.decode(), "signature": lower(request)["x-clarife-signature"], "secret": new}
            for request in requests
        ]
        with run_node("clarife.mjs") as node:
            assert [True] * len(PAYLOADS) == node.ask_all(questions)
            assert not node.ask(questions[0] | {"secret": old})
            assert not node.ask(questions[0] | {"body": questions[0]["body"].replace('{"id":1}', '{"id":2}')})
        for question in questions:
            members = json.loads(question["body"])
            assert ["id", "type", "created_at", "data"] == list(members)
            assert "evt_" == members["id"][:4]


async def test_clarife_of_what_javascript_cannot_hold(tmp_path: Path) -> None:
    """Numbers that no receiver in JavaScript could print again keep their digits, and the signature is over those bytes."""
    async with delivered(tmp_path, "clarife", BEYOND_JAVASCRIPT) as (requests, (secret,), _):
        for request in requests:
            verify(request.body, request.headers, secret, profile="clarife")
        assert b"[9007199254740993,-9007199254740993,123456789012345678901234567890]" in requests[0].body
        assert b"[1e309,-1E400,0.30000000000000004]" in requests[1].body


async def test_clearfeed(tmp_path: Path, run_node: Callable[[str], Node]) -> None:
    """The JavaScript that ClearFeed publishes accepts every request, as it came, with the URL as it was saved."""
    async with delivered(tmp_path, "clearfeed", EVERYTHING, rotate=True) as (requests, (new, old), url):
        questions = [
            {
                "secret": new,
                "verb": request.method,
                "url": url,
                "body": request.body.decode(),
                "timestamp": lower(request)["x-cf-timestamp"],
                "signature": lower(request)["x-cf-signature"],
            }
            for request in requests
        ]
        with run_node("clearfeed.mjs") as node:
            assert [True] * len(EVERYTHING) == node.ask_all(questions)
            assert False is node.ask(questions[0] | {"secret": old})
            assert False is node.ask(questions[0] | {"url": url.replace("%7e", "~")})
            assert None is node.ask(questions[0] | {"timestamp": str(int(questions[0]["timestamp"]) - 301)})


@pytest.mark.parametrize("profile", [name for name, schemes in SCHEMES.items() if schemes])
async def test_our_own_verify(tmp_path: Path, profile: str) -> None:
    """What we give to receivers accepts every request of every profile that signs, and refuses it with one byte changed."""
    async with delivered(tmp_path, profile, EVERYTHING) as (requests, (secret,), url):
        for request in requests:
            verify(request.body, request.headers, [OTHER_SECRET, secret], profile=profile, url=url)
            with pytest.raises(VerificationError) as refused:
                verify(request.body + b" ", request.headers, secret, profile=profile, url=url)
            assert "no_match" == refused.value.reason


async def test_tenant_without_a_secret(tmp_path: Path) -> None:
    """Unsigned until the tenant has a secret, and again without one: a workspace turns signing on, as ClearFeed has it."""
    async with Receiver() as receiver, running(tmp_path) as engine:
        await engine.subscribe(receiver.url, profile="clearfeed", tenant="acme", max_concurrency=1)
        await engine.set_tenant_secret("other")

        async def signed() -> bool:
            event = await engine.publish("order.created", {}, tenant="acme")
            await engine.wait(event.id, timeout=10)
            return "x-cf-signature" in lower(receiver.requests[-1])

        before = await signed()
        await engine.set_tenant_secret("acme")
        meanwhile = await signed()
        await engine.delete_tenant_secret("acme")

        assert (False, True, False) == (before, meanwhile, await signed())


# What is more than a signature.


async def test_clearfeed_counts_retries(tmp_path: Path) -> None:
    """Each retry has its number and the event's own time; a retry by hand begins at 0 again."""
    async with Receiver([200, 500, 500, 500, 200]) as receiver, running(tmp_path) as engine:
        await engine.subscribe(receiver.url, profile="clearfeed", retry_schedule=["0s", "1ms"])
        event = await engine.publish("request.created", {"a": 1}, occurred_at="2026-01-02T03:04:05.678Z")
        [failed] = await engine.wait(event.id, timeout=10)
        await engine.retry(failed.id)
        _test, *requests = await receiver.wait(5)

    assert "failed" == failed.state
    assert ["0", "1", "2", "0"] == [lower(request)["x-cf-retry-count"] for request in requests]
    assert {"1767323045"} == {lower(request)["x-cf-timestamp"] for request in requests}
    assert not any("x-cf-signature" in lower(request) for request in requests)
    assert 1 == len({request.body for request in requests})


async def sent(engine: Engine, delivery: views.Delivery) -> views.AttemptRequest:
    """The request of its one attempt, as the history shows it."""
    attempts = (await engine.delivery(delivery.id)).attempts
    assert isinstance(attempts, list)
    [attempt] = attempts
    assert attempt.request is not None
    return attempt.request


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_clevertap(tmp_path: Path, method: str) -> None:
    """The body holds the subscription's members and the event's data as one profile, and is shown in the history."""
    settings: dict[str, Any] = {"method": method, "target_id": 1234, "key_values": {"key": "välue"}}
    async with Receiver() as receiver, running(tmp_path) as engine:
        made = await engine.subscribe(receiver.url + TARGET, profile="clevertap", **settings)
        event = await engine.publish("user.left", b'{ "Identity" : "UserId" , "n": 1.10}')
        [delivery] = await engine.wait(event.id, timeout=10)
        shown = await sent(engine, delivery)
        await engine.update_subscription(made.id, target_id=5)
        later = await sent(engine, delivery)

    _test, request = receiver.requests
    body = '{"targetId":1234,"key_values":{"key":"välue"},"profiles":[{ "Identity" : "UserId" , "n": 1.10}]}'
    assert (method, TARGET, body) == (request.method, request.path, request.body.decode())
    assert (None, body, None) == (made.secret, shown.body, later.body)


async def test_clevertap_get(tmp_path: Path) -> None:
    """A GET has the key values behind the pairs that the URL has, and neither a body nor the type of one."""
    async with Receiver() as receiver, running(tmp_path) as engine:
        key_values = {"two words": "a b&c", "n": 1.5, "ü": None}
        await engine.subscribe(receiver.url + TARGET, profile="clevertap", method="GET", key_values=key_values)
        event = await engine.publish("user.left", {"Identity": "UserId"})
        [delivery] = await engine.wait(event.id, timeout=10)
        shown = await sent(engine, delivery)

    _test, request = receiver.requests
    path = f"{TARGET}&two%20words=a%20b%26c&n=1.5&%C3%BC=null"
    assert ("GET", path, b"") == (request.method, request.path, request.body)
    assert not {"content-type", "content-length"} & lower(request).keys()
    assert (receiver.url + path, "") == (shown.url, shown.body)


async def test_profile_of_the_configuration(tmp_path: Path) -> None:
    """A profile of the file is used by its name, with its own signature, headers and rules."""
    signature = {"header": "X-Acme", "value": "at {timestamp}/by {signature}", "signed": "{timestamp}{body}", "separator": "/"}
    acme = {
        "extends": "standard",
        "envelope": "data",
        "headers": {"X-Acme-Type": "{type} of {tenant}, {retry}"},
        "signatures": [signature | {"algorithm": "hmac-sha512"}],
        "retry_schedule": ["0s"],
        "success": [202],
        "failed_label": "Acme gave up",
    }
    async with Receiver([200, 500]) as receiver, running(tmp_path, profiles={"acme": acme}, default_profile="acme") as engine:
        made = await engine.subscribe(receiver.url)
        event = await engine.publish("order.created", b'{"a": 1}')
        [delivery] = await engine.wait(event.id, timeout=10)

    first, second = receiver.requests
    timestamp, given = lower(first)["x-acme"].removeprefix("at ").split("/by ")
    expected = hmac.new(str(made.secret).encode(), f'{timestamp}{{"a": 1}}'.encode(), hashlib.sha512).hexdigest()
    assert expected == given
    assert ["order.created of default, 0", "order.created of default, 1"] == [
        lower(request)["x-acme-type"] for request in (first, second)
    ]
    assert ("acme", "failed", "Acme gave up") == (made.profile, delivery.state, delivery.failed_label)


# Secrets follow the profile.


async def refusal(coroutine: Any) -> list[tuple[str | None, str]]:
    """Where a request is wrong, and why."""
    with pytest.raises(Invalid) as caught:
        await coroutine
    return [(mistake.pointer, mistake.detail) for mistake in caught.value.mistakes]


async def test_tenant_scope_has_no_secret_of_its_own(tmp_path: Path) -> None:
    """A subscription whose tenant's secret signs is given none, and cannot rotate one."""
    words = "the profile 'clearfeed' signs with its tenant's secret: a subscription has none of its own"
    async with Receiver() as receiver, running(tmp_path) as engine:
        made = await engine.subscribe(receiver.url, profile="clearfeed")
        given = await refusal(engine.subscribe("http://127.0.0.1:8099/", profile="clearfeed", secret="x"))
        rotated = await refusal(engine.rotate_secret(made.id))

        assert (None, None) == (made.secret, (await engine.secret(made.id)).secret)
    assert [("/secret", words)] == given == rotated


async def test_change_of_profile_changes_whose_secret_signs(tmp_path: Path) -> None:
    """A subscription that moves to a profile with a secret of its own gets one, and loses it when it moves away."""

    async def secret(engine: Engine, made: Subscription, profile: str) -> str | None:
        await engine.update_subscription(made.id, profile=profile)
        return (await engine.secret(made.id)).secret

    async with Receiver() as receiver, running(tmp_path) as engine:
        made = await engine.subscribe(receiver.url, profile="github", secret="chosen")
        kept = await secret(engine, made, "slack")
        gone = await secret(engine, made, "clearfeed")
        fresh = await secret(engine, made, "standard")
        await engine.publish("order.created", {"a": 1})
        _test, request = await receiver.wait(2)

    assert ("chosen", None) == (kept, gone)
    verify(request.body, request.headers, str(fresh))


async def test_scope_that_was_changed(tmp_path: Path) -> None:
    """A subscription's secret does not sign once its profile is configured to use the tenant's."""
    async with Receiver() as receiver:
        for scope in ("subscription", "tenant"):
            profiles = {"acme": {"extends": "github", "secret_scope": scope}}
            async with running(tmp_path, profiles=profiles, default_profile="acme") as engine:
                if scope == "subscription":
                    await engine.subscribe(receiver.url)
                event = await engine.publish("order.created", {"a": 1})
                await engine.wait(event.id, timeout=10)
        first, second = receiver.requests

    assert ["x-hub-signature-256"] == sorted(lower(first).keys() - lower(second).keys())


async def test_profile_that_is_gone(tmp_path: Path) -> None:
    """A subscription whose profile was taken out of the file is held and shown, and works again with another one."""
    journal = Journal()
    async with running(tmp_path, profiles={"acme": {"extends": "github"}}) as engine:
        made = await engine.subscribe("http://127.0.0.1:8099/", profile="acme", secret="s")
    async with Receiver() as receiver, running(tmp_path, journal) as engine:
        [line] = journal.all("not_configured")
        event = await engine.publish("order.created", {"a": 1})
        tried = await engine.test(made.id)
        rotated = await refusal(engine.rotate_secret(made.id))
        named = await refusal(engine.update_subscription(made.id, profile="acne"))
        await engine.update_subscription(made.id, url=receiver.url, rate_limit="10/s")
        await engine.update_subscription(made.id, state="disabled")
        [explained] = (await engine.explain(event.id)).subscriptions
        await engine.update_subscription(made.id, state="active", profile="github")
        [delivery] = await engine.wait(event.id, timeout=10)

    assert f"subscription {made.id}" == line["where"]
    assert "no profile 'acme': its deliveries wait" == (tried.error and tried.error.detail)
    assert (True, UNSET) == (explained.reason.endswith("; the delivery is held."), explained.hindrance)
    assert [("", "the profile of this subscription is not there any more: choose another one")] == rotated
    assert ["/profile"] == [pointer for pointer, _ in named]
    assert "delivered" == delivery.state
    verify(receiver.requests[0].body, receiver.requests[0].headers, "s", profile="github")


# A profile of one's own that changes while subscriptions have it.


async def pending(engine: Engine) -> list[str]:
    """What keeps the newest event from its subscriptions."""
    event = (await engine.events(limit=1)).data[0]
    explained = (await engine.explain(event.id)).subscriptions
    assert all(each.hindrance is not UNSET and each.reason.endswith(f"waits: {each.hindrance}.") for each in explained)
    return [each.reason.partition("; ")[2] for each in explained]


async def test_profile_that_begins_to_sign(tmp_path: Path) -> None:
    """Nothing goes unsigned where something should sign: it waits, which is told, until the subscription has a secret."""
    journal = Journal()
    async with Receiver() as receiver:
        async with running(tmp_path, profiles={"acme": {"extends": "github", "signatures": []}}) as engine:
            made = await engine.subscribe(receiver.url, profile="acme")
        async with running(tmp_path, journal, profiles={"acme": {"extends": "github"}}) as engine:
            event = await engine.publish("order.created", {"a": 1})
            named = await engine.update_subscription(made.id, name="a name")
            tried = await engine.test(made.id)
            assert (None, None) == (made.secret, (await engine.secret(named.id)).secret)
            assert ["the delivery is pending, and waits: it has no secret, rotate it."] == await pending(engine)
            rotated = await engine.rotate_secret(made.id)
            await engine.wait(event.id, timeout=10)

        assert "it has no secret, rotate it: its deliveries wait" == (tried.error and tried.error.detail)
        assert {f"subscription {made.id}"} == {line["where"] for line in journal.all("not_configured")}
        [request] = receiver.requests
        verify(request.body, request.headers, str(rotated.secret), profile="github")


async def test_secret_comes_with_the_profile_that_began_to_sign(tmp_path: Path) -> None:
    """Where there is no secret yet, it may come with the very profile that the subscription has."""
    async with Receiver() as receiver:
        async with running(tmp_path, profiles={"acme": {"extends": "github", "signatures": []}}) as engine:
            made = await engine.subscribe(receiver.url, profile="acme")
        async with running(tmp_path, profiles={"acme": {"extends": "github"}}) as engine:
            event = await engine.publish("order.created", {"a": 1})
            await engine.update_subscription(made.id, profile="acme", secret="brought")
            await engine.wait(event.id, timeout=10)

        verify(receiver.requests[0].body, receiver.requests[0].headers, "brought", profile="github")


@asynccontextmanager
async def misfit_of_tenant(folder: Path, receiver: Receiver) -> AsyncIterator[Engine]:
    """An engine with a profile that cannot sign for its subscription any more with the tenant's secret."""
    async with running(folder, profiles={"acme": {"extends": "github", "secret_scope": "tenant"}}) as engine:
        await engine.set_tenant_secret("default", secret="plain")
        await engine.subscribe(receiver.url, profile="acme")
    async with running(folder, profiles={"acme": {"extends": "standard", "secret_scope": "tenant"}}) as engine:
        yield engine


@pytest.mark.parametrize("forget", ["delete_tenant", "delete_tenant_secret"])
async def test_tenant_whose_secret_is_forgotten(tmp_path: Path, forget: str) -> None:
    """What waits for a secret that does not fit goes once the tenant has none, unsigned as of any tenant without."""
    async with Receiver() as receiver:
        async with misfit_of_tenant(tmp_path, receiver) as engine:
            event = await engine.publish("order.created", {"a": 1})
            await getattr(engine, forget)("default")
            await engine.wait(event.id, timeout=10)

        assert "webhook-signature" not in lower(receiver.requests[0])


async def test_replay_of_what_was_delivered_waits_too(tmp_path: Path) -> None:
    """Where one delivery of an event has come and another cannot go, both are told."""
    async with Receiver() as receiver:
        async with running(tmp_path, profiles={"acme": {"extends": "github"}}) as engine:
            await engine.subscribe(receiver.url, profile="acme")
            event = await engine.publish("order.created", {"a": 1})
            await engine.wait(event.id, timeout=10)
        async with running(tmp_path) as engine:
            await engine.replay_event(event.id)
            [told] = await pending(engine)

        assert "the delivery is delivered, another one is pending, and waits: no profile 'acme'." == told


async def test_secret_outlives_a_profile_that_needs_none_for_a_while(tmp_path: Path) -> None:
    """A table that is edited and put back leaves the secret, whatever else of the subscription was changed meanwhile."""
    tried = {"extends": "github", "secret_scope": "tenant"}
    async with Receiver() as receiver:
        async with running(tmp_path, profiles={"acme": {"extends": "github"}}) as engine:
            made = await engine.subscribe(receiver.url, profile="acme")
        async with running(tmp_path, profiles={"acme": tried}) as engine:
            await engine.update_subscription(made.id, name="a name")
        async with running(tmp_path, profiles={"acme": {"extends": "github"}}) as engine:
            await engine.update_subscription(made.id, name="another name")
            await engine.wait((await engine.publish("order.created", {"a": 1})).id, timeout=10)

        verify(receiver.requests[0].body, receiver.requests[0].headers, str(made.secret), profile="github")


@pytest.mark.parametrize(
    ("table", "settings", "why"),
    [
        pytest.param(
            {"extends": "standard"},
            {"secret": "plain"},
            "the profile 'acme' cannot sign, because the secret does not begin with whsec_ or whsk_",
            id="the form of the key",
        ),
        pytest.param(
            {"extends": "clevertap", "envelope": "standard"},
            {"method": "GET"},
            "the profile 'acme' sends a body, and GET carries none",
            id="the place of the data",
        ),
    ],
)
async def test_profile_that_does_not_fit_any_more(
    tmp_path: Path, table: dict[str, Any], settings: dict[str, Any], why: str
) -> None:
    """What was accepted is not given up over an edited table: it waits, and goes once the table is as it was."""
    before = {"extends": "clevertap", "verify_on_save": 0} if "method" in settings else {"extends": "github"}
    async with Receiver() as receiver:
        async with running(tmp_path, profiles={"acme": before}) as engine:
            made = await engine.subscribe(receiver.url, profile="acme", **settings)
            saved = len(receiver.requests)
        async with running(tmp_path, profiles={"acme": table}) as engine:
            event = await engine.publish("order.created", {"a": 1})
            assert [f"the delivery is pending, and waits: {why}."] == await pending(engine)
            await engine.update_subscription(made.id, name="a name")
        assert saved == len(receiver.requests)
        async with running(tmp_path, profiles={"acme": before}) as engine:
            assert ["delivered"] == [each.state for each in await engine.wait(event.id, timeout=10)]


async def test_tenants_secret_that_does_not_fit_any_more(tmp_path: Path) -> None:
    """What a tenant's secret cannot sign waits until the tenant has another one."""
    async with Receiver() as receiver:
        async with misfit_of_tenant(tmp_path, receiver) as engine:
            event = await engine.publish("order.created", {"a": 1})
            assert "cannot sign" in (await pending(engine))[0]
            fitting = (await engine.set_tenant_secret("default")).secret
            await engine.wait(event.id, timeout=10)

        # The one before is still valid, and cannot sign.
        verify(receiver.requests[0].body, receiver.requests[0].headers, fitting, profile="standard")
        assert 1 == len(lower(receiver.requests[0])["webhook-signature"].split())


async def test_moving_to_standard(tmp_path: Path) -> None:
    """The advice that comes with the refusal works: once the secret is rotated, the other profile can be had at once."""
    async with Receiver() as receiver, running(tmp_path) as engine:
        made = await engine.subscribe(receiver.url, profile="github", secret="plain")
        [(_, detail)] = await refusal(engine.update_subscription(made.id, profile="standard"))
        assert detail.startswith("rotate the secret first")
        rotated = await engine.rotate_secret(made.id)
        await engine.update_subscription(made.id, profile="standard")
        await engine.wait((await engine.publish("order.created", {"a": 1})).id, timeout=10)

        verify(receiver.requests[0].body, receiver.requests[0].headers, str(rotated.secret), profile="standard")


async def test_secret_comes_along_to_a_profile_that_tests(tmp_path: Path) -> None:
    """An endpoint that verifies can be moved to a profile that signs its test: with the change comes the first secret."""
    profiles = {"acme": {"extends": "clearfeed", "secret_scope": "subscription"}}

    def answer(request: Received) -> int:
        given = lower(request)["x-cf-signature"]
        made = f"POST{url}{request.body.decode()}{lower(request)['x-cf-timestamp']}"
        return 200 if given == hmac.new(b"brought along", made.encode(), hashlib.sha256).hexdigest() else 401

    async with Receiver() as quiet, Receiver(answer) as receiver, running(tmp_path, profiles=profiles) as engine:
        url = receiver.url
        made = await engine.subscribe(quiet.url, profile="clearfeed")
        await engine.update_subscription(made.id, profile="acme", url=url, secret="brought along")
        again = await refusal(engine.update_subscription(made.id, profile="github", secret="another"))

        assert "brought along" == (await engine.secret(made.id)).secret
        assert [("/secret", "rotate the secret instead")] == again


async def test_events_of_a_profile_that_is_gone_gather(tmp_path: Path) -> None:
    """What is accepted while a profile with batches is not there goes in full batches when it is; of another one by one."""
    batching = {"batched": {"extends": "clevertap"}, "plain": {"extends": "github"}}
    async with Receiver() as receiver:
        async with running(tmp_path, profiles=batching) as engine:
            await engine.subscribe(receiver.url + "/b", profile="batched", batch={"max_events": 3, "max_wait": "200ms"})
            await engine.subscribe(receiver.url + "/p", profile="plain")
            saved = len(receiver.requests)
        async with running(tmp_path) as engine:
            events = [await engine.publish("order.created", {"n": n}) for n in range(7)]
        async with running(tmp_path, profiles=batching) as engine:
            for event in events:
                await engine.wait(event.id, timeout=10)

        paths = sorted(request.path for request in receiver.requests[saved:])
        assert ["/b"] * 3 + ["/p"] * 7 == paths


async def test_profile_wins_over_a_header_that_was_there_first(tmp_path: Path) -> None:
    """A header that a profile gets later goes out once, with the profile's value."""
    async with Receiver() as receiver:
        async with running(tmp_path, profiles={"acme": {"extends": "github"}}) as engine:
            made = await engine.subscribe(receiver.url, profile="acme", headers={"X_Kind": "mine", "X-Other": "o"})
        table = {"extends": "github", "headers": {"x-kind": "{type}"}}
        async with running(tmp_path, profiles={"acme": table}) as engine:
            await engine.update_subscription(made.id, name="a name", headers={"X-Third": "t"})
            await engine.wait((await engine.publish("order.created", {"a": 1})).id, timeout=10)

        sent = [(name.lower(), value) for name, value in receiver.requests[0].headers if "kind" in name.lower()]
        assert [("x-kind", "order.created")] == sent
        assert "o" == lower(receiver.requests[0])["x-other"]


async def test_retry_count_is_of_the_schedule_that_holds(tmp_path: Path) -> None:
    """A delivery that has failed more often than the schedule has steps now is on the last of them."""
    script = iter([500, 500, 500, 200, 204])
    journal = Journal()
    async with Receiver(lambda _: next(script)) as receiver, running(tmp_path, journal) as engine:
        made = await engine.subscribe(receiver.url, profile="standard", retry_schedule=["0s", "0s", "1h", "1h"])
        event = await engine.publish("order.created", {"a": 1})
        await journal.until("attempt_failed", 3)
        await engine.update_subscription(made.id, profile="clearfeed", retry_schedule=["1s", "1s"])
        await engine.disable(made.id)
        await engine.enable(made.id)
        await engine.wait(event.id, timeout=10)

        assert "2" == lower(receiver.requests[-1])["x-cf-retry-count"]
