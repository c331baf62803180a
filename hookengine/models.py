"""
The records that move through the engine: frozen, slotted, keyword-only.

They are msgspec Structs, not dataclasses: one is made in 0.3 µs where a frozen dataclass takes 2.6, and `replace` in 0.2
where it takes 4.8, several times a delivery. Only objects of ours are in them, never cycles, so the collector may skip them.
Where each delivery passes, the enums' members have names of their own (`_PENDING`): to look one up in its class takes Python
3.11 a tenth of a microsecond, more than what is then done with it.

Times are milliseconds since the epoch and end in `_at`, durations are milliseconds. `seq` is a row's key in the store, given
in the order of commits; it never leaves the engine. What users see is in `views`.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Any, ClassVar, Literal

from msgspec import Struct, field


class DeliveryState(StrEnum):
    """Where a delivery stands. The values are what the store and the API hold."""

    PENDING = "pending"  # waits for its time, first or retry
    DELIVERED = "delivered"
    FAILED = "failed"  # given up: the dead letters
    CANCELLED = "cancelled"
    HELD = "held"  # how a pending delivery reads while its subscription is disabled; never stored


FINAL_STATES = (DeliveryState.DELIVERED, DeliveryState.FAILED, DeliveryState.CANCELLED)


class SubscriptionState(StrEnum):
    """Whether a subscription gets deliveries."""

    ACTIVE = "active"
    DISABLED = "disabled"


class DisabledReason(StrEnum):
    """Who or what disabled a subscription."""

    MANUAL = "manual"
    FAILURES = "failures"
    GONE = "gone"  # the endpoint answered 410


class WhileDisabled(StrEnum):
    """What happens to events that a disabled subscription would have got."""

    HOLD = "hold"
    SKIP = "skip"


class Ordering(StrEnum):
    """In which order events arrive."""

    NONE = "none"
    FIFO = "fifo"  # as they were accepted, for each ordering key


class Priority(IntEnum):
    """The order of taking within a subscription: smaller goes first."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


class Place(IntEnum):
    """How a pending delivery comes to its request. The values are what the store holds."""

    LANE = 0  # in its lane, as an entry of its own or at the head of its batch
    GATHERING = 1  # waits to be put into a batch
    FOLLOWING = 2  # goes with the head of its batch, or waits behind the head of its line


class Trigger(StrEnum):
    """Why an attempt was made."""

    AUTO = "auto"
    MANUAL = "manual"
    REPLAY = "replay"
    TEST = "test"


class ErrorCode(StrEnum):
    """Why an attempt did not succeed: a documented list, shown to users."""

    TIMEOUT_CONNECT = "timeout_connect"
    TIMEOUT_SEND = "timeout_send"
    TIMEOUT_RESPONSE = "timeout_response"
    CONNECT_REFUSED = "connect_refused"
    RESET = "reset"
    DISCONNECTED = "disconnected"
    DNS_NXDOMAIN = "dns_nxdomain"
    DNS_TEMPORARY = "dns_temporary"
    DNS_NO_ADDRESS = "dns_no_address"
    TLS_EXPIRED = "tls_expired"
    TLS_NOT_YET_VALID = "tls_not_yet_valid"
    TLS_HOSTNAME = "tls_hostname"
    TLS_UNTRUSTED = "tls_untrusted"
    TLS_PROTOCOL = "tls_protocol"
    BLOCKED_ADDRESS = "blocked_address"
    SELF_CONNECTION = "self_connection"
    INVALID_URL = "invalid_url"
    AUTH_FAILED = "auth_failed"
    PROXY_ERROR = "proxy_error"
    HTTP_STATUS = "http_status"
    REDIRECT_NOT_FOLLOWED = "redirect_not_followed"
    MALFORMED_RESPONSE = "malformed_response"
    RESPONSE_HEADER_TOO_LARGE = "response_header_too_large"
    TOO_MANY_INFORMATIONAL = "too_many_informational"
    LOCAL_NETWORK = "local_network"
    LOCAL_RESOURCES = "local_resources"
    INTERNAL_ERROR = "internal_error"


HIDDEN = "***"  # what stands for a credential wherever one could be shown


class Secret(str):
    """A text that does not show itself: its repr, and that of every record that holds it, reads `***`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


class SecretBytes(bytes):
    """The same for bytes, such as the body of a request for a token."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "b'***'"


class AttemptError(Struct, frozen=True, kw_only=True, gc=False):
    """Why an attempt did not succeed."""

    code: ErrorCode
    detail: str


class TokenAnswer(Struct, frozen=True, kw_only=True, gc=False):
    """What may be told of a token server's answer: of its members the names only."""

    status_code: int
    fields: tuple[str, ...]


class Response(Struct, frozen=True, kw_only=True, gc=False):
    """What an endpoint answered: the status line and headers whole, the body up to the kept size."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    truncated: bool

    def header(self, name: str) -> list[str]:
        """All values of header *name*, which is given in lower case."""
        return [value for key, value in self.headers if key.lower() == name]


class Accepted(Struct, frozen=True, kw_only=True, gc=False):
    """The endpoint took it."""

    error: ClassVar[None] = None  # as of all outcomes, so that whoever wants it need not ask for the kind
    response: Response


class Refused(Struct, frozen=True, kw_only=True, gc=False):
    """The endpoint answered, but not with success; without `response` the answer could not be read as HTTP."""

    error: AttemptError
    response: Response | None = None


class Unreachable(Struct, frozen=True, kw_only=True, gc=False):
    """No answer came; `token_answer` is set where a token server's answer is why the endpoint was not asked."""

    response: ClassVar[None] = None
    error: AttemptError
    token_answer: TokenAnswer | None = None

    @property
    def is_the_proxys(self) -> bool:
        """Whether the proxy has failed, and with it every endpoint that is reached through it."""
        return self.error.code is ErrorCode.PROXY_ERROR


class Interrupted(Struct, frozen=True, kw_only=True, gc=False):
    """The attempt was cut by us, by a stop or by a fault of this machine: it is not the endpoint's and spends nothing."""

    response: ClassVar[None] = None
    error: AttemptError | None = None
    keeps_nobody_else: bool = False  # but its name gets no answer, or its address no port of ours


class Broken(Struct, frozen=True, kw_only=True, gc=False):
    """A fault in our own code or in a stored row: the delivery is parked. Shown to users as `interrupted`."""

    response: ClassVar[None] = None
    error: AttemptError


Outcome = Accepted | Refused | Unreachable | Interrupted | Broken

OUTCOME_NAMES: dict[type, str] = {
    Accepted: "accepted",
    Refused: "refused",
    Unreachable: "unreachable",
    Interrupted: "interrupted",
    Broken: "interrupted",
}


class Rules(Struct, frozen=True, kw_only=True, gc=False):
    """What `retry` and `health` need to know of a subscription and its profile."""

    success: frozenset[int] | None = None  # None: every 2xx
    timeout: int = 15_000  # ms for the whole attempt
    retry_schedule: tuple[int, ...] = ()  # ms between attempts
    jitter: float = 0.0  # a delay grows by up to this fraction, never shrinks
    gone: frozenset[int] = frozenset()  # statuses that disable the subscription
    throttle: frozenset[int] = frozenset()  # statuses that halve its width
    retry_after: frozenset[int] = frozenset()  # statuses whose Retry-After is heeded
    breaker: bool = False  # whether a run of failures lets only one probe through
    disable_after_failures: int | None = None
    disable_after: int | None = None  # ms of one unbroken run of failures
    failed_label: str | None = None

    def succeeds(self, status: int) -> bool:
        """Whether an answer with *status* counts as delivered."""
        return 200 <= status <= 299 if self.success is None else status in self.success


class Health(Struct, frozen=True, kw_only=True, gc=False):
    """The failure counters of a subscription, as its row keeps them."""

    consecutive_failures: int = 0
    last_success_at: int | None = None
    last_failure_at: int | None = None
    failing_since: int | None = None  # the first failure of the present run
    enabled_at: int | None = None  # the last time it was enabled again


class Rank(IntEnum):
    """How far the scheduler trusts a subscription with slots."""

    TRUSTED = 0
    UNTRIED = 1  # no success yet, or none since it was enabled, and no failure either
    FAILING = 2


class Standing(Struct, frozen=True, kw_only=True, gc=False):
    """What a subscription's health lets the scheduler give it."""

    width: int  # attempts at a time, at most
    rank: Rank
    resume_at: int = 0  # an open breaker: nothing before this


class SigningSecret(Struct, frozen=True, kw_only=True, gc=False):
    """A secret and until when it signs; the newest has no end."""

    value: Secret
    expires_at: int | None = None


class BasicAuth(Struct, frozen=True, kw_only=True, gc=False, tag="basic", tag_field="type"):
    """User name and password for an endpoint."""

    username: str
    password: Secret


class TokenFields(Struct, frozen=True, kw_only=True, gc=False):
    """What the members of a token server's answer are called."""

    access_token: str = "access_token"  # noqa: S105  # names, here and below
    refresh_token: str = "refresh_token"  # noqa: S105
    expires_in: str = "expires_in"


class OAuth2(Struct, frozen=True, kw_only=True, gc=False, tag="oauth2", tag_field="type"):
    """How the access tokens for an endpoint are got (RFC 6749)."""

    grant: Literal["client_credentials", "password"]
    token_url: str
    refresh_url: str | None = None  # None: the token URL
    client_id: str
    client_secret: Secret
    username: str | None = None  # this and the password with the grant of that name
    password: Secret | None = None
    scopes: tuple[str, ...] = ()
    client_auth: Literal["header", "body", "bearer"] = "header"
    fields: TokenFields = TokenFields()
    expires_in: int | None = None  # ms, where the answer does not say


Auth = BasicAuth | OAuth2


class Batching(Struct, frozen=True, kw_only=True, gc=False):
    """When a request with several events goes: what is None is decided elsewhere, by the profile or by default."""

    max_events: int | None = None
    max_wait: int | None = None  # ms that the oldest has waited


class Authorization(Struct, frozen=True, kw_only=True, gc=False):
    """Whose access token a request needs, and how that is got."""

    subscription: int  # its seq; 0 for one that is not stored
    oauth2: OAuth2


class AccessToken(Struct, frozen=True, kw_only=True, gc=False):
    """A bearer token for an endpoint (RFC 6750), and what gets the next one."""

    value: Secret
    refresh_token: Secret | None = None
    renew_at: int | None = None  # shortly before it expires; None where nobody says when that is


class Subscription(Struct, frozen=True, kw_only=True, gc=False):
    """Who wants which events, where and how."""

    seq: int
    id: str
    tenant: str
    url: str
    event_types: tuple[str, ...]
    name: str | None = None
    profile: str
    method: str | None = None
    headers: tuple[tuple[str, Secret], ...] = ()
    auth: Auth | None = None
    secrets: tuple[SigningSecret, ...] = ()  # newest first
    timeout: int | None = None
    retry_schedule: tuple[int, ...] | None = None
    disable_after_failures: int | None = None
    while_disabled: WhileDisabled = WhileDisabled.HOLD
    max_concurrency: int = 8
    rate_limit: str | None = None  # requests in a time, such as "10/s"
    ordering: Ordering = Ordering.NONE
    batch: Batching | None = None
    target_id: int = 0
    key_values: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    state: SubscriptionState = SubscriptionState.ACTIVE
    disabled_reason: DisabledReason | None = None
    version: int = 1  # of the settings; what ETag shows
    created_at: int
    updated_at: int


class Tenant(Struct, frozen=True, kw_only=True, gc=False):
    """What is kept of a customer; one of whom nothing is kept needs none."""

    seq: int
    name: str
    plan: str | None = None
    secrets: tuple[SigningSecret, ...] = ()  # newest first
    readable: bool = True  # its secrets; where they are not, nothing must go out unsigned
    created_at: int
    updated_at: int


class Event(Struct, frozen=True, kw_only=True, gc=False):
    """Something that happened."""

    seq: int
    id: str
    tenant: str
    type: str
    data: bytes  # the producer's own JSON text
    accepted_at: int
    occurred_at: int
    ordering_key: str | None = None


class Delivery(Struct, frozen=True, kw_only=True, gc=False):
    """One event for one subscription."""

    seq: int
    id: str
    event: int  # the event's seq
    subscription: int  # the subscription's seq
    state: DeliveryState = DeliveryState.PENDING
    priority: Priority = Priority.NORMAL
    due_at: int
    attempt_count: int = 0
    step: int = 0  # attempts since the schedule began; a retry by hand begins it anew
    trigger: Trigger = Trigger.AUTO  # of its next attempt
    created_at: int
    expires_at: int | None = None
    finished_at: int | None = None
    failed_label: str | None = None
    place: Place = Place.LANE
    batch: int | None = None  # the request that it shares: the seq of the first that was put into it
    line: str | None = None  # with fifo, its ordering key: those of one line go one after the other


class Request(Struct, frozen=True, kw_only=True, gc=False):
    """What goes on the wire, once."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    timeout: int = 15_000  # ms over everything: lookup, connect, send, answer
    hidden: frozenset[str] = frozenset()  # header names, in lower case, whose values are credentials
    authorization: Authorization | None = None  # an access token is to be put into the header of that name


class Attempt(Struct, frozen=True, kw_only=True, gc=False):
    """One try to deliver, as it is recorded."""

    number: int
    at: int
    duration: int  # ms
    trigger: Trigger
    outcome: Outcome
    request: Request | None  # None where it could not be built
