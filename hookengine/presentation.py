"""Records to views: what is shown of them, and what never is."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING
from zlib import crc32

from msgspec import UNSET

from hookengine import models, subscribing, views
from hookengine.access import Scope
from hookengine.matching import Way, explain
from hookengine.models import DeliveryState
from hookengine.profiles import Profile, body
from hookengine.signing_keys import public_key
from hookengine.views import moment, optional_moment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hookengine.access import Token
    from hookengine.models import Health, SigningSecret
    from hookengine.statistics import Summary
    from hookengine.store import Receipt, Receiver, StoredAttempt, Went


_CREDENTIALS = ("password", "client_secret")  # members of `auth`


def shown_event(receipt: Receipt) -> views.Event:
    """An accepted event."""
    event = receipt.event
    return views.Event(
        id=event.id,
        type=event.type,
        tenant=event.tenant,
        accepted_at=moment(event.accepted_at),
        occurred_at=moment(event.occurred_at),
        ordering_key=event.ordering_key,
        deliveries=receipt.deliveries,
    )


def shown_subscription(s: models.Subscription, health: Health) -> views.Subscription:
    """A subscription, without its credentials."""
    given = subscribing.as_given(s)
    return views.Subscription(
        id=s.id,
        tenant=s.tenant,
        name=s.name,
        url=s.url,
        event_types=given["event_types"],
        profile=s.profile,
        method=s.method,
        headers={name: models.HIDDEN for name, _ in s.headers},
        auth=None if s.auth is None else {name: value for name, value in given["auth"].items() if name not in _CREDENTIALS},
        timeout=given["timeout"],
        retry_schedule=given["retry_schedule"],
        disable_after_failures=s.disable_after_failures,
        while_disabled=s.while_disabled.value,
        max_concurrency=s.max_concurrency,
        rate_limit=s.rate_limit,
        ordering=s.ordering.value,
        batch=given["batch"],
        target_id=s.target_id,
        key_values=deepcopy(s.key_values),  # in Python it is the caller's
        metadata=deepcopy(s.metadata),
        state=s.state.value,
        disabled_reason=None if s.disabled_reason is None else s.disabled_reason.value,
        consecutive_failures=health.consecutive_failures,
        last_success_at=optional_moment(health.last_success_at),
        last_failure_at=optional_moment(health.last_failure_at),
        created_at=moment(s.created_at),
        updated_at=moment(s.updated_at),
        version=s.version,
    )


def shown_tenant(t: models.Tenant, *, subscriptions: int, limit: int | None) -> views.Tenant:
    """A tenant, without its secrets."""
    return views.Tenant(
        tenant=t.name,
        plan=t.plan,
        subscriptions=subscriptions,
        max_subscriptions=limit,
        created_at=moment(t.created_at),
        updated_at=moment(t.updated_at),
    )


def shown_tenant_secret(secrets: tuple[SigningSecret, ...], now: int) -> views.TenantSecret:
    """The first of *secrets*, with which a tenant's deliveries are signed, and those that it replaced."""
    return views.TenantSecret(secret=str(secrets[0].value), previous=_previous(secrets, now))


def shown_token(t: Token, last_used_at: int | None) -> views.Token:
    """A token by whom it is for: of itself there is nothing to show."""
    by = t.principal
    return views.Token(
        user=by.user,
        scopes=[scope.value for scope in Scope if scope in by.scopes],
        tenant=by.tenant,
        created_at=moment(t.created_at),
        expires_at=optional_moment(by.expires_at),
        last_used_at=optional_moment(last_used_at),
    )


def shown_secret(s: models.Subscription, now: int) -> views.SubscriptionSecret:
    """The secret that signs, and those that still sign beside it."""
    newest = next((str(each.value) for each in s.secrets if each.expires_at is None), None)
    public = None if newest is None else public_key(newest)
    return views.SubscriptionSecret(
        secret=newest,
        previous=_previous(s.secrets, now),
        public_key=UNSET if public is None else public,
    )


def _previous(secrets: tuple[SigningSecret, ...], now: int) -> list[views.OldSecret]:
    return [
        views.OldSecret(secret=str(each.value), expires_at=moment(each.expires_at))
        for each in secrets
        if each.expires_at is not None and each.expires_at > now
    ]


def shown_attempt(
    a: StoredAttempt,
    events: Sequence[models.Event],
    subscription: models.Subscription | None,
    profiles: Mapping[str, Profile],
) -> views.Attempt:
    """
    An attempt, with what was sent of *events*, and what was answered.

    The *subscription* is as it is now, None if it is gone; there are no events where they are gone.
    """
    request = response = error = None
    if a.method is not None and a.url is not None:
        request = views.AttemptRequest(
            method=a.method, url=a.url, headers=a.headers, body=_sent_body(a, events, subscription, profiles)
        )
    if a.response_headers is not None:
        response = views.AttemptResponse(
            headers=a.response_headers,
            body=(a.body or b"").decode("utf-8", "backslashreplace"),
            truncated=a.truncated,
        )
    if a.error_code is not None:
        error = views.AttemptError(code=a.error_code, detail=a.error_detail or "")
    return views.Attempt(
        number=a.number,
        at=moment(a.at),
        outcome=a.outcome,
        duration_ms=a.duration,
        trigger=a.trigger,
        status_code=a.status_code,
        error=error,
        request=request,
        response=response,
    )


def shown_token_answer(outcome: models.Outcome) -> views.TokenAnswer | None:
    """What a token server answered, where that is why there was no attempt at the endpoint."""
    answer = outcome.token_answer if isinstance(outcome, models.Unreachable) else None
    return None if answer is None else views.TokenAnswer(status_code=answer.status_code, fields=list(answer.fields))


def shown_explained(
    to: models.Subscription | Receiver,
    event: models.Event,
    went: list[Went],
    *,
    chosen: bool,
    hindrance: str | None = None,
    kept_since: int,
) -> views.Explained:
    """What *event* did for one subscription: *went* are its deliveries there, newest first, which wait for a *hindrance*."""
    accepted = next((each for each in went if each.state == DeliveryState.DELIVERED), None)
    shown = accepted or (went[0] if went else None)
    if isinstance(to, models.Subscription):
        original = any(not each.replay for each in went)
        way = None if shown is None else Way.EVENT if original else Way.REPLAY
        reason = explain(to, event, chosen=chosen, way=way, kept_since=kept_since)
    else:
        reason = "the event made a delivery for it, and it was deleted since"
    if all(each.state != DeliveryState.PENDING for each in went):
        hindrance = None  # nothing is hindered
    if shown is not None:
        reason += f"; the delivery is {shown.state}"
        if hindrance is not None:
            another = "" if shown.state == DeliveryState.PENDING else ", another one is pending"
            reason += f"{another}, and waits: {hindrance}"
    return views.Explained(
        subscription=to.id,
        name=to.name,
        url=to.url,
        delivered=accepted is not None,
        delivery=UNSET if shown is None else shown.id,
        state=UNSET if shown is None else shown.state,
        hindrance=UNSET if hindrance is None else hindrance,
        reason=f"{reason[0].upper()}{reason[1:]}.",
    )


def shown_stats(
    s: models.Subscription,
    health: Health,
    summary: Summary,
    *,
    since: int,
    pending: int,
    held: int,
    resumes_at: int | None,
) -> views.Stats:
    """What the statistics of a subscription since an hour come to, and how it stands now."""
    return views.Stats(
        subscription=s.id,
        since=moment(since),
        deliveries=views.StatsDeliveries(**summary.states, pending=pending, held=held, failed_labels=summary.labels),
        attempts=views.StatsAttempts(
            total=summary.attempts,
            status_codes=dict(sorted(summary.status_codes.items())),
            error_codes=dict(sorted(summary.error_codes.items())),
        ),
        latency_ms=views.StatsLatency(p50=summary.percentile(0.5), p95=summary.percentile(0.95), p99=summary.percentile(0.99)),
        consecutive_failures=health.consecutive_failures,
        last_success_at=optional_moment(health.last_success_at),
        last_failure_at=optional_moment(health.last_failure_at),
        resumes_at=optional_moment(resumes_at),
    )


def _sent_body(
    a: StoredAttempt,
    events: Sequence[models.Event],
    subscription: models.Subscription | None,
    profiles: Mapping[str, Profile],
) -> str | None:
    """The body as it was sent: made again from the events, and shown only if it is the same."""
    profile = profiles.get(a.profile or "")
    if profile is None or not events or (len(events) > 1 and profile.envelope.make_batch is None):
        return None
    made = body(profile, subscription, events, method=a.method or "")
    return made.decode("utf-8", "backslashreplace") if crc32(made) == a.checksum else None
