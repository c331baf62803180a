"""A subscription as users give it: what must hold between its members, what they come to, and how they read back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, get_args

import orjson

from hookengine.envelopes import with_query
from hookengine.extensions import BatchInput
from hookengine.inputs import AuthInput, BasicAuthInput, OAuthInput, SubscriptionInput
from hookengine.matching import OURS
from hookengine.models import (
    HIDDEN,
    BasicAuth,
    OAuth2,
    Ordering,
    Secret,
    SigningSecret,
    SubscriptionState,
    TokenFields,
    WhileDisabled,
)
from hookengine.netguard import LONGEST_URL, Policy, UrlRefused, vet_url
from hookengine.profiles import HEADER_NAME, Profile, as_received, header_names, lasting
from hookengine.signing_keys import misfit
from hookengine.times import format_duration
from hookengine.wording import did_you_mean, pointer, quoted

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from hookengine import models
    from hookengine.inputs import RotationInput
    from hookengine.validation import Draft, Problems

_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]{0,2048}")
_MOST_HEADERS = 32
_HEADER_BYTES = 8192

# Names that HTTP, the request's way, or we own. Such a header could smuggle a second request, keep the body from being sent,
# or speak for somebody else.
_RESERVED_NAMES = frozenset({
    "accept-encoding", "connection", "content-encoding", "content-language", "content-length", "content-location",
    "content-range", "content-type", "cookie", "date", "expect", "forwarded", "host", "http2-settings", "keep-alive",
    "metadata", "metadata-flavor", "range", "te", "trailer", "trailers", "transfer-encoding", "upgrade", "via",
    "x-http-method-override", "x-metadata-token", "x-real-ip",
})  # fmt: skip
_RESERVED_PREFIXES = (":", "proxy-", "sec-", "webhook-", "svix-", "x-forwarded-", "x-aws-ec2-", "x-hookengine-", "content-")


# What a profile's envelope and method have a place for, or not.
_ADDRESSING = frozenset({"profile", "method", "url", "batch", "ordering", "target_id", "key_values"})


def profile_name(given: str | None, default: str) -> str:
    """The *given* one, which may be any text, or else the server's *default*."""
    return default if given is None else given


def check_subscription(
    problems: Problems,
    draft: Draft[SubscriptionInput],
    *,
    policy: Policy,
    profiles: Mapping[str, Profile],
    default_profile: str,
    ours: bool = False,
    kept: models.Subscription | None = None,
    changed: Collection[str] = (),
) -> None:
    """
    What a subscription must hold beside the forms of its members.

    Of one that is *kept* that is asked of the members that are *changed*: what was saved when something else was admitted does
    not lock the rest. With *ours*, it may be of the engine's own tenant.
    """
    new = SETTINGS if kept is None else frozenset(changed)
    url = draft.get("url")
    if "url" in new and isinstance(url, str):
        _vet(problems, "/url", url, policy)
    oauth2 = draft.nested("auth", OAuthInput)
    if oauth2 is not None:
        _check_oauth2(problems, oauth2, policy, None if kept is None else kept.auth)
    name = profile_name(draft.get("profile"), default_profile)
    profile = profiles.get(name)
    if profile is not None:
        _check_secret(problems, draft.get("secret"), profile)
        if not _ADDRESSING.isdisjoint(new):
            _check_addressing(problems, draft, profile, new)
    elif "profile" in new:
        known = ", ".join(map(quoted, profiles))
        problems.add("/profile", "unknown_profile", f"expected one of {known}{did_you_mean(name, profiles)}")
    if not ours and draft.get("tenant") == OURS:
        detail = f"the tenant '{OURS}' is the engine's own: its events take a token with admin"
        problems.add("/tenant", "reserved_tenant", detail)
    headers = () if kept is None or "profile" in new else kept.headers
    _check_headers(problems, draft, profile, frozenset(name for name, _ in headers))
    timeout = draft.get("timeout")
    if timeout is not None and not 100 <= timeout <= 300_000:  # ms
        problems.add("/timeout", "invalid_value", "expected 100ms to 5m")
    for position, delay in draft.items("retry_schedule"):
        if delay > 30 * 86_400_000:  # ms
            problems.add(pointer("retry_schedule", position), "invalid_value", "expected at most 30d")
    for member in ("metadata", "key_values"):
        value = draft.get(member)
        if value is not None and len(orjson.dumps(value)) > 16384:  # bytes
            problems.add(f"/{member}", "too_large", "expected at most 16 KiB of JSON")


def _vet(problems: Problems, at: str, url: str, policy: Policy) -> None:
    try:
        vet_url(url, policy)
    except UrlRefused as refused:
        problems.add(at, "invalid_url", refused.detail)


def _check_oauth2(problems: Problems, given: Any, policy: Policy, kept: models.Auth | None) -> None:
    known = {kept.token_url, kept.refresh_url} if isinstance(kept, OAuth2) else set()
    for member in ("token_url", "refresh_url"):
        url = getattr(given, member)
        if url is not None and url not in known:
            _vet(problems, f"/auth/{member}", url, policy)
    for member in ("username", "password"):
        at, there = f"/auth/{member}", getattr(given, member) is not None
        if given.grant == "password" and not there and not problems.has(at):
            problems.add(at, "missing_member", f"'{member}' is missing: it belongs to the grant 'password'")
        elif given.grant not in (None, "password") and there:
            problems.add(at, "unused_member", f"only the grant 'password' has a {member}")
    if given.expires_in is not None and given.expires_in < 1000:  # ms
        problems.add("/auth/expires_in", "invalid_value", "expected at least 1s")


def check_rotation(problems: Problems, draft: Draft[RotationInput], profile: Profile | None) -> None:
    """Whether the profile of a subscription, None where it is not there any more, signs with such a secret."""
    if profile is None:
        problems.add("", "unknown_profile", "the profile of this subscription is not there any more: choose another one")
    elif profile.has_own_secrets:
        _check_secret(problems, draft.get("secret"), profile)
    else:
        problems.add("/secret", "invalid_secret", _without_secret(profile))


def check_kept_secrets(
    problems: Problems, profile: Profile, *, own: Sequence[SigningSecret], tenants: Sequence[SigningSecret]
) -> None:
    """Whether *profile* can sign with what it finds: the subscription's *own* secrets, or its *tenant*'s."""
    if not profile.schemes:
        return
    found, advice = (own, "rotate the secret first") if profile.has_own_secrets else (tenants, "set the tenant another secret")
    secret = lasting(found)  # what it has replaced signs where it fits
    if secret is not None and (why := misfit(profile.schemes, secret)) is not None:
        problems.add("/profile", "unusable_secret", f"{advice}, because here {why}")


def _check_secret(problems: Problems, secret: str | None, profile: Profile) -> None:
    if secret is None:
        return
    if not profile.has_own_secrets:
        problems.add("/secret", "invalid_secret", _without_secret(profile))
    elif (why := misfit(profile.schemes, secret)) is not None:
        problems.add("/secret", "invalid_secret", why)


def _without_secret(profile: Profile) -> str:
    if profile.schemes:
        return f"the profile {quoted(profile.name)} signs with its tenant's secret: a subscription has none of its own"
    return f"the profile {quoted(profile.name)} signs nothing, so that it takes no secret"


def _check_addressing(problems: Problems, draft: Draft[SubscriptionInput], profile: Profile, new: frozenset[str]) -> None:
    """What the envelope has a place for: a body with the method, several events, `target_id` and `key_values` at all."""
    judged = SETTINGS if "profile" in new else new
    if draft.get("batch") is not None and profile.envelope.make_batch is None and "batch" in judged:
        detail = f"the profile {quoted(profile.name)} sends each event in a request of its own"
        problems.add("/batch", "unused_member", detail)
    elif draft.get("ordering") == "fifo" and (draft.get("batch") or BatchInput()).max_events not in (None, 1):
        problems.add(
            "/batch/max_events", "conflicting_ordering", "with fifo each event has a request of its own: 1, or nothing"
        )
    is_get = (draft.get("method") or profile.method) == "GET"
    if not profile.envelope.addressed:
        if is_get and "method" in judged:
            detail = f"GET carries no body, and the profile {quoted(profile.name)} sends one: use POST, PUT or DELETE"
            problems.add("/method", "invalid_value", detail)
        for member in ("target_id", "key_values"):
            if member in judged and draft.get(member):  # 0 and {} are what every subscription has
                detail = f"the profile {quoted(profile.name)} has no place for it in what it sends"
                problems.add(f"/{member}", "unused_member", detail)
        return
    url, key_values = draft.get("url"), draft.get("key_values") or {}
    if is_get and isinstance(url, str) and len(url) <= LONGEST_URL < _longest(url, key_values, profile):
        at, added = ("/key_values", "them") if key_values else ("/url", "the mark of a test")
        problems.add(at, "too_large", f"with {added} the URL is longer than {LONGEST_URL} characters")


def _longest(url: str, key_values: Mapping[str, Any], profile: Profile) -> int:
    """The characters of *url* with *key_values*, in a delivery or in a test, whichever has more."""
    envelopes = (profile.envelope, profile.envelope.for_tests or profile.envelope)
    return max(len(with_query(url, {**key_values, **envelope.mark})) for envelope in envelopes)


def _check_headers(
    problems: Problems, draft: Draft[SubscriptionInput], profile: Profile | None, known: frozenset[str]
) -> None:
    headers: dict[str, str] = dict(draft.items("headers"))
    if not headers:
        return
    has_auth = any(draft.nested("auth", kind) is not None for kind in get_args(AuthInput))
    if len(headers) > _MOST_HEADERS or sum(len(n) + len(v) for n, v in headers.items()) > _HEADER_BYTES:
        problems.add("/headers", "too_large", f"expected at most {_MOST_HEADERS} headers of together {_HEADER_BYTES} bytes")
    signing = frozenset() if profile is None else header_names(profile.headers, profile.schemes)
    seen: set[str] = set()
    for name, value in headers.items():
        at, lower, received = pointer("headers", name), name.lower(), as_received(name)
        if name not in known and _is_reserved(received, signing):
            why = "" if _is_reserved(lower, signing) else ": many receivers read _ as -"
            problems.add(at, "reserved_header", f"{quoted(name)} is set by hookengine or by HTTP itself{why}")
        elif not HEADER_NAME.fullmatch(name):
            problems.add(at, "invalid_header_name", "expected 1 to 64 characters of a header name (RFC 9110, 5.6.2)")
        elif lower == "authorization" and has_auth:
            problems.add(at, "conflicting_auth", "give either auth or a header of your own")
        elif lower in seen:
            problems.add(at, "duplicate_header", f"{quoted(name)} is there twice, in other letters")
        seen.add(lower)
        if not _HEADER_VALUE.fullmatch(value):
            problems.add(at, "invalid_header_value", "expected at most 2048 visible ASCII characters, spaces and tabs")
        elif value.strip(" \t") == HIDDEN:  # from an answer of ours: saved, it would be sent
            problems.add(at, "hidden_value", f"'{HIDDEN}' only stands for a value: give the value itself")


def _is_reserved(name: str, signing: frozenset[str]) -> bool:
    return name in _RESERVED_NAMES or name.startswith(_RESERVED_PREFIXES) or name in signing


def settings(given: SubscriptionInput, *, default_profile: str) -> dict[str, Any]:
    """The fields of models.Subscription that *given* sets, with their defaults."""
    return {
        "url": given.url,
        "event_types": tuple(dict.fromkeys(given.event_types or ["*"])),
        "name": given.name,
        "profile": profile_name(given.profile, default_profile),
        "method": given.method,
        "headers": tuple((name, Secret(value.strip(" \t"))) for name, value in (given.headers or {}).items()),
        "auth": None if given.auth is None else _auth(given.auth),
        "timeout": None if given.timeout is None else int(given.timeout),
        "retry_schedule": None if given.retry_schedule is None else tuple(int(delay) for delay in given.retry_schedule),
        "disable_after_failures": given.disable_after_failures,
        "while_disabled": WhileDisabled(given.while_disabled or "hold"),
        "max_concurrency": 8 if given.max_concurrency is None else given.max_concurrency,
        "rate_limit": None if given.rate_limit is None else str(given.rate_limit),
        "ordering": Ordering(given.ordering or "none"),
        "batch": None if given.batch is None else given.batch.batching(),
        "target_id": given.target_id or 0,
        "key_values": given.key_values or {},
        "metadata": given.metadata or {},
        "state": SubscriptionState(given.state or "active"),
    }


def _auth(given: AuthInput) -> models.Auth:
    if isinstance(given, BasicAuthInput):
        return BasicAuth(username=given.username, password=Secret(given.password))
    names = {} if given.fields is None else {name: getattr(given.fields, name) for name in TokenFields.__struct_fields__}
    return OAuth2(
        grant=given.grant,
        token_url=given.token_url,
        refresh_url=given.refresh_url,
        client_id=given.client_id,
        client_secret=Secret(given.client_secret),
        username=given.username,
        password=None if given.password is None else Secret(given.password),
        scopes=tuple(dict.fromkeys(given.scopes or ())),
        client_auth=given.client_auth or "header",
        fields=TokenFields(**{name: value for name, value in names.items() if value is not None}),
        expires_in=None if given.expires_in is None else int(given.expires_in),
    )


def _auth_as_given(auth: models.Auth | None) -> dict[str, Any] | None:
    if auth is None:
        return None
    if isinstance(auth, BasicAuth):
        return {"type": "basic", "username": auth.username, "password": str(auth.password)}
    given = {
        "type": "oauth2",
        "grant": auth.grant,
        "token_url": auth.token_url,
        "refresh_url": auth.refresh_url,
        "client_id": auth.client_id,
        "client_secret": str(auth.client_secret),
        "username": auth.username,
        "password": None if auth.password is None else str(auth.password),
        "scopes": list(auth.scopes),
        "client_auth": auth.client_auth,
        "fields": {name: getattr(auth.fields, name) for name in TokenFields.__struct_fields__},
        "expires_in": None if auth.expires_in is None else format_duration(auth.expires_in),
    }
    return {name: value for name, value in given.items() if value is not None}


def _batch_as_given(batch: models.Batching | None) -> dict[str, Any] | None:
    if batch is None:
        return None
    given: dict[str, Any] = {} if batch.max_events is None else {"max_events": batch.max_events}
    return given if batch.max_wait is None else given | {"max_wait": format_duration(batch.max_wait)}


def as_given(subscription: models.Subscription) -> dict[str, Any]:
    """The input that would make *subscription*, secrets and all: what a merge patch is applied to."""
    return {
        "url": subscription.url,
        "event_types": list(subscription.event_types),
        "name": subscription.name,
        "tenant": subscription.tenant,
        "profile": subscription.profile,
        "method": subscription.method,
        "headers": {name: str(value) for name, value in subscription.headers},
        "auth": _auth_as_given(subscription.auth),
        "timeout": None if subscription.timeout is None else format_duration(subscription.timeout),
        "retry_schedule": None
        if subscription.retry_schedule is None
        else [format_duration(delay) for delay in subscription.retry_schedule],
        "disable_after_failures": subscription.disable_after_failures,
        "while_disabled": subscription.while_disabled.value,
        "max_concurrency": subscription.max_concurrency,
        "rate_limit": subscription.rate_limit,
        "ordering": subscription.ordering.value,
        "batch": _batch_as_given(subscription.batch),
        "target_id": subscription.target_id,
        "key_values": subscription.key_values,
        "metadata": subscription.metadata,
        "state": subscription.state.value,
    }


def merge(target: Any, patch: Any) -> Any:
    """*patch* applied to *target* (RFC 7396, section 2)."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge(merged.get(name), value)
    return merged


def keep_hidden(patch: dict[str, Any], subscription: models.Subscription) -> dict[str, Any]:
    """
    *patch* without the header values that read `***`: whoever sends back what was shown keeps what is there.

    An `auth` of another type takes the place of the one before whole: members of the two have nothing to do with each other.
    """
    auth, before = patch.get("auth"), _auth_as_given(subscription.auth)
    if isinstance(auth, Mapping) and before is not None and auth.get("type", before["type"]) != before["type"]:
        patch = {**patch, "auth": {**dict.fromkeys(before), **auth}}
    headers = patch.get("headers")
    if not isinstance(headers, Mapping):
        return patch
    known = {name for name, _ in subscription.headers}
    kept = {name: value for name, value in headers.items() if value != HIDDEN or name not in known}
    return {**patch, "headers": kept}


SETTINGS = frozenset(SubscriptionInput.__struct_fields__)

MOST_PREVIOUS = 10  # secrets that sign beside the newest: each makes headers longer, of which servers take 8 KiB


DEFAULT_OVERLAP = 24 * 3_600_000  # ms that a secret signs beside the one that replaced it


def rotated(secrets: tuple[SigningSecret, ...], secret: str, *, overlap: int | None, now: int) -> tuple[SigningSecret, ...]:
    """
    *secrets* after a rotation: the new one signs from now on, the one before it for a while more, and others up to ten.

    An *overlap* that was asked for (ms) is the most that any of them has left.
    """
    end = now + (DEFAULT_OVERLAP if overlap is None else overlap)
    valid = []
    for each in secrets:
        ends = end if each.expires_at is None else each.expires_at if overlap is None else min(each.expires_at, end)
        if ends > now and each.value != secret:
            valid.append(SigningSecret(value=each.value, expires_at=ends))
    return (SigningSecret(value=Secret(secret)), *valid[:MOST_PREVIOUS])


def secrets_for(profile: Profile, kept: tuple[SigningSecret, ...], fresh: str) -> tuple[SigningSecret, ...]:
    """The secrets of a subscription that changes to *profile*: none where it has none of its own, else one that has no end."""
    if not profile.has_own_secrets:
        return ()
    return kept if lasting(kept) is not None else (SigningSecret(value=Secret(fresh)), *kept)
