"""
What users see: the shapes of CONTRACT.md, the same in Python and over HTTP.

Times are aware datetimes in UTC; durations are texts such as "15s".
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Generic, TypeVar

from msgspec import UNSET, Struct, UnsetType

T = TypeVar("T")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@lru_cache(maxsize=1024)  # one commit's events have one time
def moment(ms: int) -> datetime:
    """The datetime of *ms* since the epoch."""
    return _EPOCH + timedelta(milliseconds=ms)  # exact in every year; a float of seconds is not


def optional_moment(ms: int | None) -> datetime | None:
    """The same, of what may be missing."""
    return None if ms is None else moment(ms)


class Page(Struct, Generic[T], frozen=True, kw_only=True):
    """One page of a list, newest first; `next_cursor` is None on the last."""

    data: list[T]
    next_cursor: str | None


class Event(Struct, frozen=True, kw_only=True):
    """Something that happened, and how many deliveries it made."""

    id: str
    type: str
    tenant: str
    accepted_at: datetime
    occurred_at: datetime
    ordering_key: str | None = None
    deliveries: int


class EventDelivery(Struct, frozen=True, kw_only=True):
    """A delivery of an event, in short."""

    id: str
    subscription: str
    state: str


class EventDetail(Struct, frozen=True, kw_only=True):
    """An event with what it carries: `data` is the producer's own JSON text."""

    id: str
    type: str
    tenant: str
    accepted_at: datetime
    occurred_at: datetime
    ordering_key: str | None = None
    data: bytes
    deliveries: list[EventDelivery]


class Subscription(Struct, frozen=True, kw_only=True):
    """
    Who wants which events, where and how.

    `secret` is set only in the answer that made it; None where the profile needs none of its own. Header values read `***`.
    """

    id: str
    tenant: str
    name: str | None
    url: str
    event_types: list[str]
    profile: str
    method: str | None
    headers: dict[str, str]
    auth: dict[str, Any] | None
    timeout: str | None
    retry_schedule: list[str] | None
    disable_after_failures: int | None
    while_disabled: str
    max_concurrency: int
    target_id: int
    key_values: dict[str, Any]
    metadata: dict[str, Any]
    state: str
    disabled_reason: str | None
    consecutive_failures: int
    last_success_at: datetime | None
    last_failure_at: datetime | None
    created_at: datetime
    updated_at: datetime
    version: int
    secret: str | UnsetType | None = UNSET

    def __repr__(self) -> str:
        return f"Subscription(id={self.id!r}, tenant={self.tenant!r}, url={self.url!r}, state={self.state!r})"


class OldSecret(Struct, frozen=True, kw_only=True):
    """A secret that still signs beside the new one, until `expires_at`."""

    secret: str
    expires_at: datetime

    def __repr__(self) -> str:
        return f"OldSecret(expires_at={self.expires_at!r})"


class SubscriptionSecret(Struct, frozen=True, kw_only=True):
    """The signing secret of a subscription, those it replaced, and the public key where signatures are Ed25519."""

    secret: str | None
    previous: list[OldSecret]
    public_key: str | UnsetType = UNSET

    def __repr__(self) -> str:
        return f"SubscriptionSecret(previous={len(self.previous)})"


class EventType(Struct, frozen=True, kw_only=True):
    """A type of events that is declared: `example` is the producer's own JSON text."""

    type: str
    description: str
    example: bytes | None
    deprecated: bool
    created_at: datetime
    updated_at: datetime


class Tenant(Struct, frozen=True, kw_only=True):
    """A customer, with the number of its subscriptions and how many its plan lets it have; None is no limit."""

    tenant: str
    plan: str | None
    subscriptions: int
    max_subscriptions: int | None
    created_at: datetime
    updated_at: datetime


class TenantSecret(Struct, frozen=True, kw_only=True):
    """The secret with which a tenant's deliveries are signed, and those it replaced."""

    secret: str
    previous: list[OldSecret]

    def __repr__(self) -> str:
        return f"TenantSecret(previous={len(self.previous)})"


class Token(Struct, frozen=True, kw_only=True):
    """A token of the API, by whom it is for; `token`, what to send, is set only in the answer that made it."""

    user: str
    scopes: list[str]
    tenant: str | None
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    token: str | UnsetType = UNSET

    def __repr__(self) -> str:
        return f"Token(user={self.user!r}, scopes={self.scopes!r}, tenant={self.tenant!r})"


class AttemptError(Struct, frozen=True, kw_only=True):
    """Why an attempt did not succeed."""

    code: str
    detail: str


class AttemptRequest(Struct, frozen=True, kw_only=True):
    """What was sent; credentials read `***`. `body` is None where the sent bytes can no longer be shown."""

    method: str
    url: str
    headers: list[tuple[str, str]]
    body: str | None


class AttemptResponse(Struct, frozen=True, kw_only=True):
    """What was answered, the body escaped and up to 16 KiB."""

    headers: list[tuple[str, str]]
    body: str
    truncated: bool


class Attempt(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One try to deliver."""

    number: int
    at: datetime
    outcome: str
    duration_ms: int
    trigger: str
    status_code: int | None = None
    error: AttemptError | None = None
    request: AttemptRequest | None = None
    response: AttemptResponse | None = None


class Delivery(Struct, frozen=True, kw_only=True):
    """One event for one subscription; `attempts` is set only where a single delivery is asked for."""

    id: str
    event: str
    subscription: str
    tenant: str
    type: str
    state: str
    attempt_count: int
    next_attempt_at: datetime | None
    created_at: datetime
    finished_at: datetime | None
    failed_label: str | UnsetType = UNSET
    attempts: list[Attempt] | UnsetType = UNSET
