"""How providers speak: one row of data each, and the request that an attempt sends."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import orjson
from msgspec import Struct
from msgspec.structs import replace

from hookengine import auth
from hookengine.models import Event, Request, Rules, Subscription
from hookengine.signing import SCHEMES, Scheme, sign
from hookengine.validation import format_time

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000


class Profile(Struct, frozen=True, kw_only=True):
    """
    How one provider speaks.

    `headers` are templates of `{attempt}` (from 1), sent beside those of the signature.
    """

    name: str
    envelope: Callable[[Event], bytes]
    schemes: tuple[Scheme, ...]
    rules: Rules
    headers: tuple[tuple[str, str], ...] = ()
    method: str = "POST"
    content_type: str = "application/json"

    @property
    def signs(self) -> bool:
        """Whether its requests carry a signature, so that a subscription has a secret."""
        return bool(self.schemes)


def standard_envelope(event: Event) -> bytes:
    """The body of Standard Webhooks; `data` is spliced in as the producer wrote it."""
    occurred_at = format_time(event.occurred_at)
    return b'{"type":%b,"timestamp":"%b","data":%b}' % (orjson.dumps(event.type), occurred_at.encode(), event.data)


def data_alone(event: Event) -> bytes:
    """The producer's data and nothing around it."""
    return event.data


_STANDARD_RULES = Rules(
    timeout=15 * SECOND,
    retry_schedule=(
        5 * SECOND,
        5 * MINUTE,
        30 * MINUTE,
        2 * HOUR,
        5 * HOUR,
        10 * HOUR,
        14 * HOUR,
        20 * HOUR,
        24 * HOUR,
    ),
    jitter=0.1,
    gone=frozenset({410}),
    throttle=frozenset({429, 502, 503, 504}),
    retry_after=frozenset({429, 503}),
    breaker=True,
    disable_after=5 * DAY,
)

PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            Profile(
                name="standard",
                envelope=standard_envelope,
                schemes=SCHEMES["standard"],
                rules=_STANDARD_RULES,
                headers=(("webhook-attempt", "{attempt}"),),
            ),
            Profile(name="svix", envelope=data_alone, schemes=SCHEMES["svix"], rules=_STANDARD_RULES),
        )
    }
)


def rules(profile: Profile, subscription: Subscription) -> Rules:
    """The profile's rules with what the subscription overrides."""
    changes = {
        name: value
        for name in ("timeout", "retry_schedule", "disable_after_failures")
        if (value := getattr(subscription, name)) is not None
    }
    return replace(profile.rules, **changes) if changes else profile.rules


def build(profile: Profile, subscription: Subscription, event: Event, *, attempt: int, now: int, timeout: int) -> Request:
    """The request of attempt number *attempt* (from 1) at *now*; raises ValueError for a secret that holds no key."""
    body = profile.envelope(event)
    method = subscription.method or profile.method
    headers = [("content-type", profile.content_type)]
    if profile.schemes:
        headers += sign(
            profile.schemes,
            [secret.value for secret in subscription.secrets if secret.expires_at is None or secret.expires_at > now],
            id=event.id,
            timestamp=now // 1000,
            body=body,
            method=method,
            url=subscription.url,
            event_timestamp=event.occurred_at // 1000,
        )
    headers += [(name, template.replace("{attempt}", str(attempt))) for name, template in profile.headers]
    hidden: frozenset[str] = frozenset()
    if subscription.headers or subscription.auth is not None:
        own: list[tuple[str, str]] = [*subscription.headers]
        if subscription.auth is not None:
            own.append(auth.basic(subscription.auth))
        headers += own
        hidden = frozenset(name.lower() for name, _ in own)
    return Request(method=method, url=subscription.url, headers=tuple(headers), body=body, timeout=timeout, hidden=hidden)
