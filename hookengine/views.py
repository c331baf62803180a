"""
What users see: the shapes of CONTRACT.md, the same in Python and over HTTP.

Times are aware datetimes in UTC; durations are texts such as "15s".
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

from msgspec import UNSET, Meta, Struct, UnsetType

from hookengine.models import OUTCOME_NAMES, DeliveryState, DisabledReason, ErrorCode, SubscriptionState, Trigger

if TYPE_CHECKING:
    from enum import StrEnum

T = TypeVar("T")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@lru_cache(maxsize=1024)  # one commit's events have one time
def moment(ms: int) -> datetime:
    """The datetime of *ms* since the epoch; the epoch where a row holds no time: it must not spoil the list that it is in."""
    try:
        return _EPOCH + timedelta(milliseconds=ms)  # exact in every year; a float of seconds is not
    except (TypeError, OverflowError):
        return _EPOCH


def optional_moment(ms: int | None) -> datetime | None:
    """The same, of what may be missing."""
    return None if ms is None else moment(ms)


def _one_of(kind: type[StrEnum]) -> Meta:
    return Meta(extra_json_schema={"enum": [member.value for member in kind]})


Moment = Annotated[datetime, Meta(tz=True)]

# Texts in Python; /openapi.json names what they may be.
StateOfDelivery = Annotated[str, _one_of(DeliveryState)]
StateOfSubscription = Annotated[str, _one_of(SubscriptionState)]
ReasonOfDisabling = Annotated[str, _one_of(DisabledReason)]
OutcomeName = Annotated[str, Meta(extra_json_schema={"enum": sorted(set(OUTCOME_NAMES.values()))})]
ErrorName = Annotated[str, _one_of(ErrorCode)]
TriggerName = Annotated[str, _one_of(Trigger)]

Occurred = Annotated[Moment, Meta(description="When it happened, as the producer says; else when it was accepted.")]
_NEXT_ATTEMPT = Meta(
    description="The earliest time: it may lie in the past while a rest after failures, the rate limit or a lack of slots "
    "holds it back. null: it has ended, is held, or waits for others."
)
_AS_PROFILE = Meta(description="null: as the profile has it.")


class JsonText(bytes):
    """JSON that is put into an answer as it is."""

    __slots__ = ()


class Page(Struct, Generic[T], frozen=True, kw_only=True):
    """One page of a list, newest first; `next_cursor` is None on the last."""

    data: list[T]
    next_cursor: str | None


class Event(Struct, frozen=True, kw_only=True):
    """Something that happened, and how many deliveries it made."""

    id: str
    type: str
    tenant: str
    accepted_at: Moment
    occurred_at: Occurred
    ordering_key: str | None = None
    deliveries: int


class AcceptedEvent(Struct, frozen=True, kw_only=True):
    """What is answered to one that was published."""

    id: str
    type: str
    tenant: str
    accepted_at: Moment
    deliveries: int


class AcceptedInBatch(Struct, frozen=True, kw_only=True):
    """The same of one of many, in short."""

    id: str
    deliveries: int


class AcceptedBatch(Struct, frozen=True, kw_only=True):
    """What is answered to many, in their order."""

    events: list[AcceptedInBatch]


class EventDelivery(Struct, frozen=True, kw_only=True):
    """A delivery of an event, in short."""

    id: str
    subscription: str
    state: StateOfDelivery


class EventDetail(Struct, frozen=True, kw_only=True):
    """An event with what it carries: `data` is the producer's own JSON text."""

    id: str
    type: str
    tenant: str
    accepted_at: Moment
    occurred_at: Occurred
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
    method: Annotated[str | None, _AS_PROFILE]
    headers: dict[str, str]
    auth: dict[str, Any] | None
    timeout: Annotated[str | None, _AS_PROFILE]
    retry_schedule: Annotated[list[str] | None, _AS_PROFILE]
    disable_after_failures: Annotated[int | None, _AS_PROFILE]
    while_disabled: str
    max_concurrency: Annotated[int, Meta(description="The most attempts at a time.")]
    rate_limit: str | None
    ordering: str
    batch: Annotated[dict[str, Any] | None, _AS_PROFILE]
    target_id: int
    key_values: dict[str, Any]
    metadata: dict[str, Any]
    state: StateOfSubscription
    disabled_reason: ReasonOfDisabling | None
    consecutive_failures: int
    last_success_at: Moment | None
    last_failure_at: Moment | None
    created_at: Moment
    updated_at: Moment
    version: Annotated[int, Meta(description="Of its settings: what its ETag holds.")]
    secret: str | UnsetType | None = UNSET

    def __repr__(self) -> str:
        return f"Subscription(id={self.id!r}, tenant={self.tenant!r}, url={self.url!r}, state={self.state!r})"


class OldSecret(Struct, frozen=True, kw_only=True):
    """A secret that still signs beside the new one, until `expires_at`."""

    secret: str
    expires_at: Moment

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
    created_at: Moment
    updated_at: Moment


class Tenant(Struct, frozen=True, kw_only=True):
    """A customer, with the number of its subscriptions and how many its plan lets it have; None is no limit."""

    tenant: str
    plan: str | None
    subscriptions: int
    max_subscriptions: int | None
    created_at: Moment
    updated_at: Moment


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
    created_at: Moment
    expires_at: Moment | None
    last_used_at: Moment | None
    token: str | UnsetType = UNSET

    def __repr__(self) -> str:
        return f"Token(user={self.user!r}, scopes={self.scopes!r}, tenant={self.tenant!r})"


class AttemptError(Struct, frozen=True, kw_only=True):
    """Why an attempt did not succeed."""

    code: ErrorName
    detail: str


class TokenAnswer(Struct, frozen=True, kw_only=True):
    """What a token server answered that gave no token: of the members of its answer the names, and no values."""

    status_code: int
    fields: list[str]


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
    """One try to deliver; one that was `interrupted` does not count, and the next has the same `number`."""

    number: int
    at: Moment
    outcome: OutcomeName
    duration_ms: int
    trigger: TriggerName
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
    state: StateOfDelivery
    attempt_count: int
    next_attempt_at: Annotated[Moment | None, _NEXT_ATTEMPT]
    created_at: Moment
    finished_at: Moment | None
    failed_label: str | UnsetType = UNSET
    attempts: list[Attempt] | UnsetType = UNSET


class SubscriptionChange(Struct, frozen=True, kw_only=True):
    """What happened to a subscription: `change` is created, updated, enabled, disabled or deleted."""

    id: str
    tenant: str
    change: Annotated[str, Meta(extra_json_schema={"enum": ["created", "updated", "enabled", "disabled", "deleted"]})]
    disabled_reason: ReasonOfDisabling | None


class StreamItem(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    Something that just happened.

    `kind` is `attempt` (with `delivery` and `attempt`), `delivery` (a change of its state without an attempt), `subscription`,
    or `reset`: what came before this is no longer known. An attempt is without what was sent and answered. `id` is where to
    go on from.
    """

    id: str
    kind: Annotated[str, Meta(extra_json_schema={"enum": ["attempt", "delivery", "subscription", "reset"]})]
    at: Moment
    delivery: Delivery | None = None
    attempt: Attempt | None = None
    subscription: SubscriptionChange | None = None


class Explained(Struct, frozen=True, kw_only=True):
    """
    What an event did for one subscription of its tenant, and why.

    `delivered` says whether the endpoint has accepted it; `delivery` and `state` are those of the delivery that it accepted,
    or else of the newest, and are left out where none was made. `hindrance` says why one that is pending cannot go at all, and
    is left out where nothing is in its way but time.
    """

    subscription: str
    name: str | None
    url: str
    delivered: bool
    delivery: str | UnsetType = UNSET
    state: str | UnsetType = UNSET
    hindrance: str | UnsetType = UNSET
    reason: str


class Explanation(Struct, frozen=True, kw_only=True):
    """What an event did for each subscription of its tenant, the newest subscription first: one page of them."""

    event: str
    subscriptions: list[Explained]
    next_cursor: str | None


class Replay(Struct, frozen=True, kw_only=True):
    """How many deliveries a replay makes, or with `dry_run` would make."""

    count: int


class StatsDeliveries(Struct, frozen=True, kw_only=True):
    """
    How many deliveries ended in each state, and how many wait now.

    One that is retried by hand after it ended counts again. `pending` and `held` stop counting at 10,000; `failed_labels` says
    why deliveries were given up.
    """

    delivered: int
    failed: int
    cancelled: int
    pending: int
    held: int
    failed_labels: dict[str, int]


class StatsAttempts(Struct, frozen=True, kw_only=True):
    """How many attempts were made, and how many of them ended with each status code and each error code."""

    total: int
    status_codes: dict[str, int]
    error_codes: dict[str, int]


class StatsLatency(Struct, frozen=True, kw_only=True):
    """The ms within which half, 95 and 99 of a hundred attempts ended; None without attempts."""

    p50: int | None
    p95: int | None
    p99: int | None


class Stats(Struct, frozen=True, kw_only=True):
    """
    What became of a subscription's deliveries from the whole hour `since` on.

    The counters and times at the end are the subscription's, whatever the range. `resumes_at` is until when nothing of it is
    sent, because it rests after failures or by its rate limit; None where neither holds anything back now.
    """

    subscription: str
    since: Moment
    deliveries: StatsDeliveries
    attempts: StatsAttempts
    latency_ms: StatsLatency
    consecutive_failures: int
    last_success_at: Moment | None
    last_failure_at: Moment | None
    resumes_at: Moment | None
