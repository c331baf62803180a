"""How providers speak: one row of data each, and the request that an attempt sends."""

from __future__ import annotations

import re
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from msgspec import Struct
from msgspec.structs import replace

from hookengine import auth
from hookengine.envelopes import ENVELOPES, Envelope, with_query
from hookengine.models import (
    Authorization,
    BasicAuth,
    Batching,
    Event,
    OAuth2,
    Ordering,
    Request,
    Rules,
    Secret,
    SigningSecret,
    Subscription,
)
from hookengine.schemes import SCHEMES, Scheme
from hookengine.signing import sign
from hookengine.signing_keys import misfit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000

MOST_EVENTS = 100  # of a batch, unless its subscription or profile says otherwise
LONGEST_WAIT = 1 * SECOND  # of an event for others to share its request

# Of the templates of headers. `timestamp` is the attempt's, in Unix seconds; `attempt` counts all attempts of the delivery,
# from 1, and `retry` those after the first since its schedule began.
VARIABLES = ("id", "type", "timestamp", "attempt", "retry", "method", "url", "tenant")

HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")  # a token of RFC 9110, 5.6.2

_VARIABLE = re.compile(r"\{([a-z]+)\}")


class Profile(Struct, frozen=True, kw_only=True):
    """
    How one provider speaks.

    `headers` are templates of VARIABLES, sent beside those of the signatures.
    """

    name: str
    envelope: Envelope
    schemes: tuple[Scheme, ...] = ()
    rules: Rules = Rules()
    headers: tuple[tuple[str, str], ...] = ()
    method: str = "POST"
    content_type: str = "application/json"
    verify_on_save: int | None = None  # the one answer with which a test request lets a subscription be saved
    secret_scope: Literal["subscription", "tenant"] = "subscription"  # noqa: S105  # whose it is, not what it is
    batch: Batching | None = None  # more than one event per request

    @property
    def uses_tenants_secret(self) -> bool:
        """Whether a tenant's subscriptions share its secret."""
        return self.secret_scope == "tenant"  # noqa: S105  # whose it is, not what it is

    @property
    def has_own_secrets(self) -> bool:
        """Whether each subscription has a secret of its own: not where nothing is signed, nor where its tenant has one."""
        return bool(self.schemes) and not self.uses_tenants_secret


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
                envelope=ENVELOPES["standard"],
                schemes=SCHEMES["standard"],
                rules=_STANDARD_RULES,
                headers=(("webhook-attempt", "{attempt}"),),
            ),
            Profile(name="svix", envelope=ENVELOPES["data"], schemes=SCHEMES["svix"], rules=_STANDARD_RULES),
            Profile(
                name="clearfeed",
                envelope=ENVELOPES["clearfeed"],
                schemes=SCHEMES["clearfeed"],
                # Receivers refuse what happened more than five minutes ago: all retries fall inside them.
                rules=Rules(retry_schedule=(10 * SECOND, 60 * SECOND, 180 * SECOND)),
                headers=(("X-CF-Retry-Count", "{retry}"),),
                verify_on_save=200,
                secret_scope="tenant",  # noqa: S106  # as above
            ),
            Profile(
                name="clarife",
                envelope=ENVELOPES["clarife"],
                schemes=SCHEMES["clarife"],
                rules=Rules(
                    timeout=10 * SECOND, retry_schedule=(1 * SECOND, 10 * SECOND, 60 * SECOND), disable_after_failures=10
                ),
            ),
            Profile(
                name="clevertap",
                envelope=ENVELOPES["clevertap"],
                rules=Rules(
                    timeout=5 * SECOND, retry_schedule=(5 * SECOND, 30 * SECOND), failed_label="Webhook Dispatch Failed"
                ),
                verify_on_save=200,
                batch=Batching(),
            ),
            Profile(
                name="github",
                envelope=ENVELOPES["data"],
                schemes=SCHEMES["github"],
                rules=_STANDARD_RULES,
                headers=(("X-GitHub-Event", "{type}"), ("X-GitHub-Delivery", "{id}")),
            ),
            Profile(name="stripe", envelope=ENVELOPES["data"], schemes=SCHEMES["stripe"], rules=_STANDARD_RULES),
            Profile(name="slack", envelope=ENVELOPES["data"], schemes=SCHEMES["slack"], rules=_STANDARD_RULES),
            Profile(
                name="shopify",
                envelope=ENVELOPES["data"],
                schemes=SCHEMES["shopify"],
                rules=_STANDARD_RULES,
                headers=(("X-Shopify-Topic", "{type}"),),
            ),
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


def batching(profile: Profile, subscription: Subscription) -> tuple[int, int] | None:
    """The most events of a request, and the ms that the oldest waits for others; None where each has a request of its own."""
    if profile.envelope.make_batch is None or (subscription.method or profile.method) == "GET":
        return None
    if subscription.ordering is Ordering.FIFO:
        return None
    if profile.batch is None and subscription.batch is None:
        return None
    chosen = [each for each in (subscription.batch, profile.batch) if each is not None]
    most = next((each.max_events for each in chosen if each.max_events is not None), MOST_EVENTS)
    wait = next((each.max_wait for each in chosen if each.max_wait is not None), LONGEST_WAIT)
    return None if most == 1 else (most, wait)


def for_tests(profile: Profile) -> Profile:
    """The profile as its tests speak: where the envelope has a mark for them, they bear it."""
    envelope = profile.envelope.for_tests
    return profile if envelope is None else replace(profile, envelope=envelope)


def check_template(template: str) -> None:
    """Raise ValueError, with a sentence for the user, unless *template* has no braces but those of VARIABLES."""
    names = _VARIABLE.findall(template)
    if not set(VARIABLES).issuperset(names) or not len(names) == template.count("{") == template.count("}"):
        raise ValueError(f"expected no braces but those of {', '.join(f'{{{name}}}' for name in VARIABLES)}")


@lru_cache(maxsize=1024)
def header_names(headers: tuple[tuple[str, str], ...], schemes: tuple[Scheme, ...]) -> frozenset[str]:
    """The names that a profile with these *headers* and *schemes* sets itself, as `as_received` has them."""
    names = [name for name, _ in headers]
    for scheme in schemes:
        names += [name for name in (scheme.header, scheme.id_header, scheme.timestamp_header) if name is not None]
    return frozenset(map(as_received, names))


def as_received(name: str) -> str:
    """A header's name as who is behind CGI or WSGI takes it (RFC 3875, 4.1.18): letters have no case there, and - is _."""
    return name.lower().replace("_", "-")


@lru_cache(maxsize=1024)
def _fills(headers: tuple[tuple[str, str], ...]) -> tuple[tuple[str, Callable[..., str]], ...]:
    """Each header with what makes its value of those of VARIABLES."""
    places = {name: str(place) for place, name in enumerate(VARIABLES)}
    return tuple((name, _VARIABLE.sub(lambda found: f"{{{places[found[1]]}}}", text).format) for name, text in headers)


def body(profile: Profile, subscription: Subscription | None, events: Sequence[Event], *, method: str) -> bytes:
    """
    What is sent of *events*, which are several only where the envelope can hold several.

    Where the subscription is gone, what would be sent for one with the default settings.
    """
    envelope = profile.envelope
    if method == "GET" and envelope.addressed:
        return b""
    if len(events) > 1:
        if envelope.make_batch is None:
            raise ValueError(f"the envelope {envelope.name!r} holds one event")
        return envelope.make_batch(events, subscription)
    return envelope.make(events[0], subscription)


def hindrance(profile: Profile, subscription: Subscription, secrets: Sequence[SigningSecret]) -> str | None:
    """
    Why no request of *profile* to *subscription* can be made; None where it can.

    *secrets* are as in `build`. What is saved fits; the profile may have changed since.
    """
    if (subscription.method or profile.method) == "GET" and not profile.envelope.addressed:
        return f"the profile {profile.name!r} sends a body, and GET carries none"
    if not profile.schemes:
        return None
    newest = lasting(secrets)
    if newest is None:
        return "it has no secret, rotate it" if profile.has_own_secrets else None
    why = misfit(profile.schemes, newest)
    return None if why is None else f"the profile {profile.name!r} cannot sign, because {why}"


def lasting(secrets: Sequence[SigningSecret]) -> Secret | None:
    """The one of *secrets* that signs until it is replaced."""
    return next((secret.value for secret in secrets if secret.expires_at is None), None)


def build(
    profile: Profile,
    subscription: Subscription,
    events: Sequence[Event],
    *,
    secrets: Sequence[SigningSecret],
    attempt: int,
    retry: int,
    now: int,
    timeout: int,
) -> Request:
    """
    The request of attempt number *attempt* (from 1) at *now*, retry number *retry* (from 0) of its schedule.

    A batch has the id, type and time of the first of its *events* where the profile carries them.

    *secrets*, newest first, are those of whom the profile's `secret_scope` names; without any that has not ended the request
    goes unsigned. Raises UnusableSecret where the newest does not fit; older ones that do not are left out. An access token is
    put in by whoever sends it.
    """
    method, url = subscription.method or profile.method, subscription.url
    event, content = events[0], body(profile, subscription, events, method=method)
    if method == "GET":
        mark = profile.envelope.mark
        url = with_query(url, {**subscription.key_values, **mark} if mark else subscription.key_values)
        headers = []
    else:
        headers = [("content-type", profile.content_type)]
    if profile.schemes:
        valid = [each.value for each in secrets if each.expires_at is None or each.expires_at > now]
        if len(valid) > 1:  # what the newest has replaced may be of a time when other schemes signed
            valid[1:] = [each for each in valid[1:] if misfit(profile.schemes, each) is None]
        headers += sign(
            profile.schemes,
            valid,
            id=event.id,
            timestamp=now // 1000,
            body=content,
            method=method,
            url=url,
            event_timestamp=event.occurred_at // 1000,
        )
    if profile.headers:
        values = (event.id, event.type, now // 1000, attempt, retry, method, url, event.tenant)
        headers += [(name, fill(*values)) for name, fill in _fills(profile.headers)]
    hidden: frozenset[str] = frozenset()
    authorization = None
    if subscription.headers or subscription.auth is not None:
        own, authorization = _own_headers(subscription)
        taken = header_names(profile.headers, profile.schemes)
        own = [each for each in own if as_received(each[0]) not in taken]  # the profile has got it since the other was saved
        headers += own
        hidden = frozenset(name.lower() for name, _ in own)
    return Request(
        method=method,
        url=url,
        headers=tuple(headers),
        body=content,
        timeout=timeout,
        hidden=hidden,
        authorization=authorization,
    )


def _own_headers(subscription: Subscription) -> tuple[list[tuple[str, str]], Authorization | None]:
    """A subscription's headers, all of which may be credentials, and where its access token comes from, if it has any."""
    own: list[tuple[str, str]] = [*subscription.headers]
    match subscription.auth:
        case BasicAuth():
            own.append(auth.basic(subscription.auth))
        case OAuth2():
            own.append(auth.UNSET_TOKEN)
            return own, Authorization(subscription=subscription.seq, oauth2=subscription.auth)
    return own, None
