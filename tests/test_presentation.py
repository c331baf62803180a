"""What is shown of records, and what never is."""

from __future__ import annotations

from zlib import crc32

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from hookengine import models, views
from hookengine.access import Principal, Scope, Token
from hookengine.models import BasicAuth, DisabledReason, Health, Secret, SigningSecret, SubscriptionState, WhileDisabled
from hookengine.presentation import (
    shown_attempt,
    shown_event,
    shown_secret,
    shown_subscription,
    shown_tenant,
    shown_tenant_secret,
    shown_token,
    shown_token_answer,
)
from hookengine.profiles import PROFILES
from hookengine.signing_keys import public_key
from hookengine.store import Receipt, StoredAttempt
from hookengine.views import moment

NOW = 1_790_000_000_000
EVENT = models.Event(
    seq=3, id="evt_1", tenant="acme", type="a.b", data=b'{"n":1.10}', accepted_at=NOW, occurred_at=NOW - 5, ordering_key="k"
)
SUBSCRIPTION = models.Subscription(
    seq=1,
    id="sub_1",
    tenant="acme",
    url="https://example.com/",
    event_types=("a.*", "b"),
    name="Name",
    profile="standard",
    method="PUT",
    headers=(("X-A", Secret("header-1")), ("X-B", Secret("header-2"))),
    auth=BasicAuth(username="ann", password=Secret("password-1")),
    secrets=(SigningSecret(value=Secret("whsec_1")),),
    timeout=90_000,
    retry_schedule=(500, 60_000),
    disable_after_failures=5,
    while_disabled=WhileDisabled.SKIP,
    max_concurrency=3,
    batch=None,
    target_id=7,
    key_values={"k": None},
    metadata={"a": 1},
    state=SubscriptionState.DISABLED,
    disabled_reason=DisabledReason.GONE,
    version=4,
    created_at=NOW - 10,
    updated_at=NOW,
)
ATTEMPT = StoredAttempt(
    number=2,
    at=NOW,
    duration=12,
    trigger="auto",
    outcome="refused",
    status_code=500,
    error_code="http_status",
    error_detail="the answer was 500",
    method="POST",
    url="https://example.com/",
    headers=[("X-A", "***")],
    profile="standard",
    checksum=crc32(PROFILES["standard"].envelope.make(EVENT, None)),
    response_headers=[("X-B", "b")],
    truncated=True,
    body=b"\xff<b>\x00",
)


def test_token_answer() -> None:
    """Of a token server's answer there are the status and names, where it is why there was no attempt."""
    error = models.AttemptError(code=models.ErrorCode.AUTH_FAILED, detail="x")
    answer = models.TokenAnswer(status_code=400, fields=("error",))

    assert views.TokenAnswer(status_code=400, fields=["error"]) == shown_token_answer(
        models.Unreachable(error=error, token_answer=answer)
    )
    assert shown_token_answer(models.Unreachable(error=error)) is None
    assert shown_token_answer(models.Interrupted()) is None


def test_events() -> None:
    """An accepted event is shown with the number of its deliveries, without its data."""
    shown = shown_event(Receipt(event=EVENT, deliveries=2))

    expected = views.Event(
        id="evt_1",
        type="a.b",
        tenant="acme",
        accepted_at=moment(NOW),
        occurred_at=moment(NOW - 5),
        ordering_key="k",
        deliveries=2,
    )
    assert expected == shown


def test_subscription() -> None:
    """Everything of a subscription is shown but its credentials."""
    health = Health(consecutive_failures=2, last_success_at=NOW - 2, last_failure_at=None)
    shown = shown_subscription(SUBSCRIPTION, health)

    expected = views.Subscription(
        id="sub_1",
        tenant="acme",
        name="Name",
        url="https://example.com/",
        event_types=["a.*", "b"],
        profile="standard",
        method="PUT",
        headers={"X-A": "***", "X-B": "***"},
        auth={"type": "basic", "username": "ann"},
        timeout="90s",
        retry_schedule=["500ms", "1m"],
        disable_after_failures=5,
        while_disabled="skip",
        max_concurrency=3,
        rate_limit=None,
        ordering="none",
        batch=None,
        target_id=7,
        key_values={"k": None},
        metadata={"a": 1},
        state="disabled",
        disabled_reason="gone",
        consecutive_failures=2,
        last_success_at=moment(NOW - 2),
        last_failure_at=None,
        created_at=moment(NOW - 10),
        updated_at=moment(NOW),
        version=4,
    )
    assert expected == shown
    assert shown.secret is UNSET


def test_least_subscription() -> None:
    """What is not set reads as null."""
    least = replace(
        SUBSCRIPTION,
        name=None,
        auth=None,
        headers=(),
        timeout=None,
        retry_schedule=None,
        state=SubscriptionState.ACTIVE,
        disabled_reason=None,
    )
    shown = shown_subscription(least, Health())

    assert (None, {}, None, None, None) == (
        shown.auth,
        shown.headers,
        shown.timeout,
        shown.retry_schedule,
        shown.disabled_reason,
    )


def test_secret() -> None:
    """The secret that signs is shown with those before it whose time is not over."""
    secrets = (
        SigningSecret(value=Secret("whsec_new")),
        SigningSecret(value=Secret("whsec_old"), expires_at=NOW + 1),
        SigningSecret(value=Secret("whsec_over"), expires_at=NOW),
    )

    shown = shown_secret(replace(SUBSCRIPTION, secrets=secrets), NOW)

    previous = [views.OldSecret(secret="whsec_old", expires_at=moment(NOW + 1))]
    assert views.SubscriptionSecret(secret="whsec_new", previous=previous) == shown
    assert type(shown.secret) is str  # a Secret would be written as what it is, too, but says nothing in a log


def test_no_secret() -> None:
    """Without a secret of its own there is none to show."""
    assert views.SubscriptionSecret(secret=None, previous=[]) == shown_secret(replace(SUBSCRIPTION, secrets=()), NOW)


def test_tenant_secret() -> None:
    """A tenant's secret is shown like a subscription's."""
    old = SigningSecret(value=Secret("old"), expires_at=NOW + 1)
    over = SigningSecret(value=Secret("over"), expires_at=NOW)

    shown = shown_tenant_secret((SigningSecret(value=Secret("new")), old, over), NOW)

    assert views.TenantSecret(secret="new", previous=[views.OldSecret(secret="old", expires_at=moment(NOW + 1))]) == shown
    assert type(shown.secret) is str


def test_tenant() -> None:
    """A tenant is shown with its limit and how much of it is used, and without its secrets."""
    tenant = models.Tenant(
        seq=1, name="acme", plan="gold", secrets=(SigningSecret(value=Secret("s")),), created_at=NOW - 5, updated_at=NOW
    )
    expected = views.Tenant(
        tenant="acme", plan="gold", subscriptions=2, max_subscriptions=3, created_at=moment(NOW - 5), updated_at=moment(NOW)
    )

    assert expected == shown_tenant(tenant, subscriptions=2, limit=3)


def test_token() -> None:
    """A token is shown by whom it is for, its scopes in the order of the documentation."""
    scopes = frozenset({Scope.SUBSCRIPTIONS_READ, Scope.EVENTS_READ, Scope.EVENTS_WRITE})
    principal = Principal(user="ann", scopes=scopes, tenant="acme", expires_at=NOW + 5)
    token = Token(seq=1, principal=principal, digest=b"d", created_at=NOW - 5, last_used_at=NOW - 4)
    expected = views.Token(
        user="ann",
        scopes=["events:read", "events:write", "subscriptions:read"],
        tenant="acme",
        created_at=moment(NOW - 5),
        expires_at=moment(NOW + 5),
        last_used_at=moment(NOW),
    )

    assert expected == shown_token(token, NOW)
    assert UNSET is expected.token


def test_public_key() -> None:
    """A private key is shown with the public key that receivers need."""
    private = "whsk_" + "A" * 43 + "="
    shown = shown_secret(replace(SUBSCRIPTION, secrets=(SigningSecret(value=Secret(private)),)), NOW)

    assert public_key(private) == shown.public_key


def test_attempt() -> None:
    """An attempt shows the request as it was sent and the answer, both safe to print."""
    expected = views.Attempt(
        number=2,
        at=moment(NOW),
        outcome="refused",
        duration_ms=12,
        trigger="auto",
        status_code=500,
        error=views.AttemptError(code="http_status", detail="the answer was 500"),
        request=views.AttemptRequest(
            method="POST",
            url="https://example.com/",
            headers=[("X-A", "***")],
            body='{"type":"a.b","timestamp":"2026-09-21T14:13:19.995Z","data":{"n":1.10}}',
        ),
        response=views.AttemptResponse(headers=[("X-B", "b")], body="\\xff<b>\x00", truncated=True),
    )
    assert expected == shown_attempt(ATTEMPT, [EVENT], SUBSCRIPTION, PROFILES)


def test_body_that_holds_what_is_the_subscriptions_own() -> None:
    """A body of the subscription's settings is shown while they are the same, and so is that there was none."""
    addressed = replace(SUBSCRIPTION, profile="clevertap")
    body = b'{"targetId":7,"key_values":{"k":null},"profiles":[{"n":1.10}]}'
    posted = replace(ATTEMPT, profile="clevertap", checksum=crc32(body))
    got = replace(posted, method="GET", checksum=crc32(b""))

    def shown(attempt: StoredAttempt, subscription: models.Subscription | None) -> str | None:
        request = shown_attempt(attempt, [EVENT], subscription, PROFILES).request
        assert isinstance(request, views.AttemptRequest)
        return request.body

    assert [body.decode(), None, None, ""] == [
        shown(posted, addressed),
        shown(posted, replace(addressed, target_id=8)),
        shown(posted, None),
        shown(got, None),
    ]


@pytest.mark.parametrize(
    ("attempt", "events"),
    [
        pytest.param(replace(ATTEMPT, checksum=1), [EVENT], id="another body"),
        pytest.param(replace(ATTEMPT, profile="gone"), [EVENT], id="unknown profile"),
        pytest.param(replace(ATTEMPT, profile=None), [EVENT], id="no profile"),
        pytest.param(ATTEMPT, [], id="pruned event"),
        pytest.param(ATTEMPT, [EVENT, EVENT], id="events that the profile cannot put together any more"),
    ],
)
def test_body_that_cannot_be_made_again(attempt: StoredAttempt, events: list[models.Event]) -> None:
    """A body that is not surely the one that was sent is not shown."""
    request = shown_attempt(attempt, events, SUBSCRIPTION, PROFILES).request

    assert isinstance(request, views.AttemptRequest)
    assert ("POST", None) == (request.method, request.body)


def test_attempt_without_request_and_answer() -> None:
    """What there was not is not shown."""
    bare = replace(ATTEMPT, method=None, url=None, response_headers=None, error_code=None, error_detail=None, status_code=None)

    shown = shown_attempt(bare, [EVENT], SUBSCRIPTION, PROFILES)

    assert (None, None, None, None) == (shown.request, shown.response, shown.error, shown.status_code)


def test_answer_and_error_without_words() -> None:
    """An answer without a body and an error without a detail read as empty."""
    shown = shown_attempt(replace(ATTEMPT, body=None, error_detail=None), [EVENT], SUBSCRIPTION, PROFILES)

    assert isinstance(shown.response, views.AttemptResponse)
    assert isinstance(shown.error, views.AttemptError)
    assert ("", "") == (shown.response.body, shown.error.detail)
