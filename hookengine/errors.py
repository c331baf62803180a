"""
Every error that hookengine raises, as one tree.

HookEngineError
 ├─ RequestError                 what a caller asked for cannot be done
 │   ├─ Malformed                400
 │   ├─ Unauthorized             401
 │   ├─ Forbidden                403
 │   ├─ NotFound                 404
 │   │   ├─ EventNotFound
 │   │   ├─ SubscriptionNotFound
 │   │   ├─ DeliveryNotFound
 │   │   ├─ EventTypeNotFound
 │   │   ├─ TenantNotFound
 │   │   ├─ TenantSecretNotFound
 │   │   └─ TokenNotFound
 │   ├─ MethodNotAllowed         405
 │   ├─ Conflict                 409
 │   │   ├─ EventExists
 │   │   ├─ DeliveryStateConflict
 │   │   ├─ SubscriptionDisabled
 │   │   ├─ SubscriptionLimitReached
 │   │   └─ TokenExists
 │   ├─ PreconditionFailed       412
 │   ├─ PayloadTooLarge          413
 │   ├─ UnsupportedMediaType     415
 │   ├─ Invalid                  422
 │   ├─ EndpointVerificationFailed 422
 │   ├─ IdempotencyMismatch      422
 │   ├─ Overloaded               429
 │   ├─ RateLimited              429
 │   ├─ TooManyTests             429
 │   └─ Unavailable              503
 │       ├─ StorageUnavailable
 │       └─ Stopping
 ├─ StartError                   the engine cannot start; over a lock that may pass exit 75, else exit 78
 │   ├─ AlreadyRunning           exit 75
 │   ├─ ConfigInvalid            exit 78
 │   ├─ DatabaseTooNew           exit 78
 │   └─ KeyUnusable              exit 78
 ├─ StorageFailed                the engine cannot go on, exit 70
 ├─ StorageCorrupt               a stored row that cannot be read
 └─ VerificationError            a receiver's check of a signature
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """
    One thing wrong with an input.

    `pointer` is a JSON pointer into the body; `parameter` names a query parameter or header. One of the two is set.
    """

    code: str
    detail: str
    pointer: str | None = None
    parameter: str | None = None


class HookEngineError(Exception):
    """Something went wrong in hookengine."""

    code: ClassVar[str] = "error"

    def __init__(self, detail: str | None = None) -> None:
        self.detail = detail if detail is not None else (self.__doc__ or "").strip().partition("\n")[0]
        super().__init__(self.detail)

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own would call __init__ with `args`, which is not what every class here takes.
        return type(self).__new__, (type(self), *self.args), self.__dict__


class RequestError(HookEngineError):
    """The request cannot be done."""

    code = "request_error"
    status: ClassVar[int] = 400
    retry_after: ClassVar[int | None] = None  # seconds

    def __init__(self, detail: str | None = None, *, mistakes: tuple[Mistake, ...] = ()) -> None:
        super().__init__(detail)
        self.mistakes = mistakes


class Malformed(RequestError):
    """The request cannot be parsed."""

    code = "malformed"

    def __init__(self, detail: str | None = None, *, code: str | None = None, mistakes: tuple[Mistake, ...] = ()) -> None:
        super().__init__(detail, mistakes=mistakes)
        if code is not None:
            self.code = code  # type: ignore[misc]  # one class, several ways to be unreadable


class Unauthorized(RequestError):
    """A bearer token is needed."""

    code = "unauthorized"
    status = 401


class Forbidden(RequestError):
    """This token may not do that."""

    code = "forbidden"
    status = 403


class NotFound(RequestError):
    """There is nothing here."""

    code = "not_found"
    status = 404


class EventNotFound(NotFound):
    """No event has this id."""

    code = "event_not_found"


class SubscriptionNotFound(NotFound):
    """No subscription has this id."""

    code = "subscription_not_found"


class DeliveryNotFound(NotFound):
    """No delivery has this id."""

    code = "delivery_not_found"


class EventTypeNotFound(NotFound):
    """No event type of this name is declared."""

    code = "event_type_not_found"


class TenantNotFound(NotFound):
    """No tenant of this name is declared."""

    code = "tenant_not_found"


class TenantSecretNotFound(NotFound):
    """This tenant has no signing secret."""

    code = "tenant_secret_not_found"


class TokenNotFound(NotFound):
    """This user has no token."""

    code = "token_not_found"


class MethodNotAllowed(RequestError):
    """This path does not take this method."""

    code = "method_not_allowed"
    status = 405


class Conflict(RequestError):
    """The present state forbids this."""

    code = "conflict"
    status = 409


class EventExists(Conflict):
    """Another event with this id was accepted before."""

    code = "event_exists"


class DeliveryStateConflict(Conflict):
    """The delivery's state forbids this."""

    code = "delivery_state_conflict"


class SubscriptionDisabled(Conflict):
    """The subscription is disabled."""

    code = "subscription_disabled"


class SubscriptionLimitReached(Conflict):
    """The tenant has as many subscriptions as its plan lets it have."""

    code = "subscription_limit_reached"


class TokenExists(Conflict):
    """This user has a token already: delete it before another one is made."""

    code = "token_exists"


class PreconditionFailed(RequestError):
    """The subscription was changed meanwhile: its version is not the one in If-Match."""

    code = "precondition_failed"
    status = 412


class PayloadTooLarge(RequestError):
    """The request is larger than this server takes."""

    code = "payload_too_large"
    status = 413


class UnsupportedMediaType(RequestError):
    """The request's media type or content coding is not taken here."""

    code = "unsupported_media_type"
    status = 415


class Invalid(RequestError):
    """The request can be read but is not valid."""

    code = "invalid"
    status = 422

    def __str__(self) -> str:
        if not self.mistakes:
            return self.detail
        named = "; ".join(f"{m.pointer or m.parameter or '(whole)'}: {m.detail}" for m in self.mistakes)
        return f"{self.detail} {named}"


class EndpointVerificationFailed(RequestError):
    """
    The endpoint did not pass the test that its profile demands before a subscription is saved.

    `attempt` is that test and what the endpoint answered: a `views.Attempt`. Where a token server's answer is why the endpoint
    was not asked, `token_answer` is what may be told of it: a `views.TokenAnswer`.
    """

    code = "endpoint_verification_failed"
    status = 422

    def __init__(
        self,
        detail: str | None = None,
        *,
        attempt: Any = None,
        token_answer: Any = None,
        mistakes: tuple[Mistake, ...] = (),
    ) -> None:
        super().__init__(detail, mistakes=mistakes)
        self.attempt = attempt
        self.token_answer = token_answer


class IdempotencyMismatch(RequestError):
    """This Idempotency-Key was used before with other bytes."""

    code = "idempotency_mismatch"
    status = 422


class Overloaded(RequestError):
    """More is asked for at once than is taken: events that wait for the disk, bodies in hand, streams, or replays."""

    code = "overloaded"
    status = 429
    retry_after = 1


class RateLimited(RequestError):
    """Requests come faster than they are taken: wait as long as `Retry-After` says."""

    code = "rate_limited"
    status = 429

    retry_after = 1

    def __init__(
        self, detail: str | None = None, *, retry_after: int | None = None, mistakes: tuple[Mistake, ...] = ()
    ) -> None:
        super().__init__(detail, mistakes=mistakes)
        if retry_after is not None:
            self.retry_after = retry_after  # type: ignore[misc]  # of one class, and different each time


class TooManyTests(RequestError):
    """Too many tests of endpoints are under way: wait for one of them to end."""

    code = "too_many_tests"
    status = 429
    retry_after = 5


class Unavailable(RequestError):
    """The engine cannot take this now."""

    code = "unavailable"
    status = 503
    retry_after = 5


class StorageUnavailable(Unavailable):
    """The storage does not take writes at the moment."""

    code = "storage_unavailable"


class Stopping(Unavailable):
    """The engine is stopping."""

    code = "stopping"


class StartError(HookEngineError):
    """The engine cannot start."""

    code = "start_error"
    exit_status: ClassVar[int] = 78  # EX_CONFIG of sysexits.h

    def __init__(self, detail: str | None = None, *, exit_status: int | None = None) -> None:
        super().__init__(detail)
        if exit_status is not None:
            self.exit_status = exit_status  # type: ignore[misc]  # of one class, and as the cause is


class AlreadyRunning(StartError):
    """Another engine has this database open."""

    code = "already_running"
    exit_status = 75  # EX_TEMPFAIL

    def __init__(self, path: str, pid: int | None) -> None:
        owner = f"pid {pid}" if pid is not None else "another process"
        super().__init__(f"{path} is in use by {owner}")
        self.pid = pid


class ConfigInvalid(StartError):
    """The configuration is not valid."""

    code = "config_invalid"

    def __init__(self, detail: str | None = None, *, mistakes: tuple[Mistake, ...] = ()) -> None:
        super().__init__(detail)
        self.mistakes = mistakes


class DatabaseTooNew(StartError):
    """The database was written by a newer hookengine."""

    code = "database_too_new"

    def __init__(self, path: str, found: int, known: int) -> None:
        super().__init__(
            f"{path} has schema version {found}; this hookengine knows versions up to {known}: install a newer one"
        )
        self.found = found
        self.known = known


class KeyUnusable(StartError):
    """The encryption key is missing or does not open this database."""

    code = "key_unusable"


class StorageFailed(HookEngineError):
    """The storage failed in a way that cannot be retried: what was not acknowledged may or may not be on disk."""

    code = "storage_failed"
    exit_status: ClassVar[int] = 70  # EX_SOFTWARE


class StorageCorrupt(HookEngineError):
    """A stored row cannot be read."""

    code = "storage_corrupt"


class VerificationError(HookEngineError):
    """
    A signature does not verify.

    `reason` is stable: missing_header, repeated_header, unsigned_profile, invalid_secret, invalid_timestamp,
    timestamp_too_old, timestamp_too_new, no_match, malformed_signature, unknown_profile.
    """

    code = "verification_failed"

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
