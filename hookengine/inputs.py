"""What users may send: the members of all that they may, and what must hold between those of events, tokens and the like."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, Any, Literal

import orjson
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from hookengine.access import Scope
from hookengine.errors import Mistake
from hookengine.extensions import BatchInput  # noqa: TC001  # msgspec reads the hints
from hookengine.matching import OURS
from hookengine.models import Priority
from hookengine.signing_keys import misfit
from hookengine.times import Duration, Rate, Time
from hookengine.validation import Draft, Problems, decoder
from hookengine.wording import did_you_mean, quoted

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from hookengine.profiles import Profile

DEFAULT_TENANT = "default"

LATEST_DELIVERY = 365 * 86_400_000  # ms ahead
MOST_EVENTS = 1_000  # published by one request

_OUR_TYPE = re.compile(rf"{OURS}(?![A-Za-z0-9_])")
_MOST_SUGGESTIONS = 10  # of one request
_MOST_SUGGESTED = 1000  # event types that are looked through for one


def _form(pattern: str, longest: int, expected: str) -> Meta:
    return Meta(pattern=f"^(?:{pattern})\\Z", max_length=longest, description=expected, extra={"expected": expected})


def _said(description: str) -> Meta:
    """What /openapi.json says of a member; nothing is checked by it."""
    return Meta(description=description)


EventType = Annotated[
    str,
    _form(
        r"[A-Za-z0-9_]+([.:/-][A-Za-z0-9_]+)*",
        128,
        "an event type such as 'order.created': at most 128 characters, words of letters, digits and _ joined by . : / or -",
    ),
]
TypePattern = Annotated[
    str,
    _form(
        r"\*|[A-Za-z0-9_]+([.:/-][A-Za-z0-9_]+)*(\.\*)?",
        130,
        "an event type, such as 'order.created', all that start with some words, such as 'order.*', or '*'",
    ),
]
Tenant = Annotated[str, _form(r"[A-Za-z0-9_][A-Za-z0-9_.:@-]*", 64, "at most 64 letters, digits and _ . : @ -")]
EventId = Annotated[str, _form(r"[A-Za-z0-9_-]+", 64, "1 to 64 letters, digits, _ and -")]
Line = Annotated[str, _form(r"[^\x00-\x1f\x7f]*", 200, "at most 200 characters, none of them a control character")]
Prose = Annotated[
    str, _form(r"[^\x00-\x08\x0b-\x1f\x7f]*", 1000, "at most 1000 characters, none of them a control character but line ends")
]
User = Annotated[str, _form(r"[A-Za-z0-9_][A-Za-z0-9_.:@+-]*", 128, "at most 128 letters, digits and _ . : @ + -")]
OrderingKey = Annotated[str, _form(r"[^\x00-\x1f\x7f]+", 200, "1 to 200 characters, none of them a control character")]
AnyText = Annotated[str, Meta(max_length=4096)]
# As RFC 6749 has them, appendix A, but for the lengths.
ClientText = Annotated[str, _form(r"[ -~]+", 2048, "1 to 2048 visible ASCII characters and spaces")]
PersonText = Annotated[str, _form(r"[^\x00-\x1f\x7f]+", 1024, "1 to 1024 characters, none of them a control character")]
ScopeText = Annotated[str, _form(r"[!#-\[\]-~]+", 256, "1 to 256 visible ASCII characters but quotes and backslashes")]
FieldName = Annotated[str, _form(r"[^\x00-\x1f\x7f]+", 100, "1 to 100 characters, none of them a control character")]
Timeout = Duration


class EventInput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An event to accept."""

    type: EventType
    data: Raw
    tenant: Annotated[Tenant | None, _said("Whose event it is; the token's tenant unless given, else default.")] = None
    id: Annotated[
        EventId | None,
        _said("An id of the producer's own, with which the same event is accepted once; a new one unless given."),
    ] = None
    occurred_at: Annotated[
        Time | None, _said("When it happened, which receivers are told; the time of its acceptance unless given.")
    ] = None
    priority: Annotated[
        Literal["high", "normal", "low"] | None,
        _said("Its place among the deliveries of a subscription; normal unless given."),
    ] = None
    ordering_key: Annotated[
        OrderingKey | None,
        _said("Subscriptions with fifo get the events of one key in their order; those without a key share one line."),
    ] = None
    deliver_at: Annotated[
        Time | None, _said("Not to be delivered before; at most 365 days ahead, and at once if it has passed.")
    ] = None
    expires_at: Annotated[Time | None, _said("Given up as expired unless it is delivered by then.")] = None
    subscriptions: Annotated[
        Annotated[list[AnyText], Meta(max_length=1000)] | None,
        _said("The ids of the subscriptions that get it, whatever their types; all that take its type in unless given."),
    ] = None


EVENT_DECODER = decoder(EventInput)


class BasicAuthInput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="basic", tag_field="type"):
    """User name and password for the endpoint."""

    username: Annotated[
        str, _form(r"[^:\x00-\x1f\x7f]*", 1024, "at most 1024 characters, none of them a colon or a control character")
    ]
    password: Annotated[str, _form(r"[^\x00-\x1f\x7f]*", 1024, "at most 1024 characters, none of them a control character")]


class TokenFieldsInput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the members of the token server's answer are called, where that is not as in RFC 6749."""

    access_token: FieldName | None = None
    refresh_token: FieldName | None = None
    expires_in: FieldName | None = None


class OAuthInput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="oauth2", tag_field="type"):
    """
    How access tokens for the endpoint are got.

    `refresh_url` is the `token_url` unless given; `username` and `password` belong to the grant `password`; `expires_in` is
    for answers that do not say how long a token is valid.
    """

    grant: Literal["client_credentials", "password"]
    token_url: AnyText
    client_id: ClientText
    client_secret: ClientText
    refresh_url: AnyText | None = None
    username: PersonText | None = None
    password: PersonText | None = None
    scopes: Annotated[list[ScopeText], Meta(max_length=100)] | None = None
    client_auth: Literal["header", "body", "bearer"] | None = None
    fields: TokenFieldsInput | None = None
    expires_in: Duration | None = None


AuthInput = BasicAuthInput | OAuthInput


class SubscriptionInput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A subscription to make."""

    url: Annotated[AnyText, _said("Where requests go.")]
    event_types: Annotated[
        Annotated[list[TypePattern], Meta(min_length=1, max_length=100)] | None,
        _said("Which events it gets; all of its tenant unless given."),
    ] = None
    name: Annotated[Line | None, _said("A name for people.")] = None
    tenant: Annotated[Tenant | None, _said("Whose events it gets; the token's tenant unless given, else default.")] = None
    profile: Annotated[AnyText | None, _said("How requests look and are judged; [delivery] default_profile unless given.")] = (
        None
    )
    secret: Annotated[AnyText | None, _said("The signing secret; a new one unless given.")] = None
    method: Annotated[Literal["POST", "PUT", "DELETE", "GET"] | None, _said("The profile's unless given.")] = None
    headers: Annotated[dict[str, str] | None, _said("Further headers, whose values are shown as ***.")] = None
    auth: Annotated[AuthInput | None, _said("How requests authenticate themselves, beside their signature.")] = None
    timeout: Annotated[Duration | None, _said("For one attempt, 100ms to 5m; the profile's unless given.")] = None
    retry_schedule: Annotated[
        Annotated[list[Duration], Meta(max_length=50)] | None,
        _said("The delays between attempts, each at most 30d; the profile's unless given."),
    ] = None
    disable_after_failures: Annotated[
        Annotated[int, Meta(ge=1, le=1_000_000)] | None,
        _said("So many failures running disable it; the profile's number unless given."),
    ] = None
    while_disabled: Annotated[
        Literal["hold", "skip"] | None,
        _said("Whether events that come while it is disabled are held for it, or make no deliveries; hold unless given."),
    ] = None
    max_concurrency: Annotated[
        Annotated[int, Meta(ge=1, le=1000)] | None, _said("The most attempts at a time; 8 unless given.")
    ] = None
    rate_limit: Annotated[Rate | None, _said("The most requests in a time, evenly paced; no limit unless given.")] = None
    ordering: Annotated[
        Literal["none", "fifo"] | None,
        _said(
            "With fifo the events of one ordering_key go one at a time, in the order of their acceptance; none unless given."
        ),
    ] = None
    batch: Annotated[
        BatchInput | None,
        _said("When a request with several events goes, where the profile has such; the profile's unless given."),
    ] = None
    target_id: Annotated[
        Annotated[int, Meta(ge=-(1 << 63), le=(1 << 63) - 1)] | None,
        _said("The targetId of clevertap's requests; 0 unless given."),
    ] = None
    key_values: Annotated[dict[str, Any] | None, _said("The key_values of clevertap's requests, up to 16 KiB.")] = None
    metadata: Annotated[dict[str, Any] | None, _said("Labels of yours, up to 16 KiB; nothing goes by them.")] = None
    state: Annotated[
        Literal["active", "disabled"] | None,
        _said("Whether it gets events: a state that changes acts as enable or disable; active unless given."),
    ] = None


class RotationInput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new secret, and for how long the one before signs beside it."""

    secret: AnyText | None = None
    overlap: Duration | None = None


class EventTypeInput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is said of an event type; `example` is the producer's own JSON text."""

    description: Prose
    example: Raw | None = None
    deprecated: bool | None = None


class TenantInput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is declared of a tenant."""

    plan: AnyText | None = None


class TokenInput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A token to make."""

    user: User
    scopes: (
        Annotated[
            list[Literal["events:read", "events:write", "subscriptions:read", "subscriptions:write", "admin"]],
            Meta(min_length=1, max_length=100),
        ]
        | None
    ) = None
    tenant: Tenant | None = None
    expires_at: Time | None = None


class _Named(Struct, frozen=True, kw_only=True):
    """What a path names, where something is to be made of that name."""

    type: EventType | None = None
    tenant: Tenant | None = None


def check_named(problems: Problems, **names: str) -> None:
    """Whether what *names* says, a `type` or a `tenant` in a path, may be the name of something of the user's."""
    found = Problems()
    draft = found.convert(_Named, names)
    _check_not_ours(found, draft.fields.type, draft.fields.tenant, "")
    for mistake in found.mistakes:
        problems.mistakes.append(Mistake(parameter=(mistake.pointer or "")[1:], code=mistake.code, detail=mistake.detail))


def check_listed(problems: Problems, type: str | None, at: str, listed: Collection[str]) -> None:
    """Whether an event type is among those that are *listed*; the engine's own always are."""
    if type is None or type in listed or _OUR_TYPE.match(type):
        return
    # A suggestion costs up to 10 ms: the first mistakes have one, and a batch cannot hold up the engine.
    known = listed if len(problems.mistakes) < _MOST_SUGGESTIONS and len(listed) <= _MOST_SUGGESTED else ()
    problems.add(at, "unknown_event_type", f"no event type {quoted(type)} is declared{did_you_mean(type, known)}")


def check_token(problems: Problems, draft: Draft[TokenInput], *, now: int) -> None:
    """What a token must hold beside the forms of its members."""
    tenant, scopes, expires_at = draft.get("tenant"), draft.get("scopes"), draft.get("expires_at")
    if tenant == OURS:
        problems.add("/tenant", "reserved_tenant", f"the tenant '{OURS}' is the engine's own")
    if tenant is not None and Scope.ADMIN in (scopes or ()):
        problems.add("/scopes", "unbound_scope", "admin is of all tenants: leave it out, or leave the token unbound")
    if expires_at is not None and expires_at <= now:
        problems.add("/expires_at", "invalid_value", "expires_at has passed")


def check_tenant_secret(problems: Problems, secret: str | None, profiles: Mapping[str, Profile]) -> None:
    """Whether *secret* can sign a tenant's deliveries, by each of *profiles* that does so."""
    for profile in profiles.values():
        if secret is None or not profile.uses_tenants_secret or not profile.schemes:
            continue
        if (why := misfit(profile.schemes, secret)) is not None:
            problems.add("/secret", "invalid_secret", f"the profile {quoted(profile.name)} cannot sign with it: {why}")
            return


class EventReplayInput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """To whom an event is delivered again: those that match now, if none is named."""

    subscriptions: Annotated[list[AnyText], Meta(max_length=1000)] | None = None


class ReplayInput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which of a subscription's deliveries are made again."""

    states: Annotated[list[Literal["delivered", "failed", "cancelled"]], Meta(min_length=1)] | None = None
    since: Time | None = None
    until: Time | None = None
    dry_run: bool | None = None


class TrialInput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a test event is made of; nothing of it is stored."""

    type: EventType | None = None
    data: Raw | UnsetType = UNSET


def check_event(problems: Problems, draft: Draft[EventInput], at: str, *, now: int) -> None:
    """What an event must hold beside the forms of its members."""
    event = draft.fields
    _check_not_ours(problems, event.type, event.tenant, at)
    deliver_at, expires_at = event.deliver_at, event.expires_at
    if deliver_at is not None and deliver_at > now + LATEST_DELIVERY:
        problems.add(at + "/deliver_at", "too_late", "an event can be delivered at most 365 days from now")
    # One that has passed is no mistake: the event is accepted, and shown as expired.
    if expires_at is not None and deliver_at is not None and expires_at <= deliver_at:
        problems.add(at + "/expires_at", "invalid_value", "expires_at must lie after deliver_at")


def _check_not_ours(problems: Problems, type: str | None, tenant: str | None, at: str) -> None:
    if type is not None and _OUR_TYPE.match(type):
        problems.add(at + "/type", "reserved_type", f"types whose first word is '{OURS}' are the engine's own")
    if tenant == OURS:
        problems.add(at + "/tenant", "reserved_tenant", f"the tenant '{OURS}' is the engine's own")


def event_digest(event: EventInput, tenant: str) -> bytes:
    """What tells two requests with the same event id apart."""
    members = (
        tenant,
        event.type,
        event.occurred_at,
        event.priority,
        event.ordering_key,
        event.deliver_at,
        event.expires_at,
        event.subscriptions,
    )
    return sha256(orjson.dumps([None if m is None else _plain(m) for m in members]) + bytes(event.data)).digest()


def priority_of(event: EventInput) -> Priority:
    """Its priority as the scheduler has it."""
    return Priority.NORMAL if event.priority is None else Priority[event.priority.upper()]


def _plain(member: Any) -> Any:
    return int(member) if isinstance(member, int) else member
