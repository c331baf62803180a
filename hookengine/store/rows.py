"""Records to rows and back: the only place that knows the columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from zlib import crc32

import msgspec
import orjson

from hookengine import models, views
from hookengine.errors import StorageCorrupt
from hookengine.models import OUTCOME_NAMES, Accepted, Broken, Interrupted, Priority, Secret, Trigger, Unreachable
from hookengine.views import moment, optional_moment

if TYPE_CHECKING:
    from collections.abc import Sequence
    from sqlite3 import Row

    from hookengine.vault import Vault

_SEALED = ("headers", "auth", "secrets")
_COLUMNS = ("seq", "id", "tenant", "state", "disabled_reason", "version", "created_at", "updated_at")
_OPEN = tuple(n for n in models.Subscription.__struct_fields__ if n not in _SEALED and n not in _COLUMNS)

HIDDEN = "***"


def json_text(value: object) -> str:
    """What SQLite's `json_each` takes."""
    return orjson.dumps(value).decode()


def delivery(row: Sequence[Any]) -> models.Delivery:
    """A delivery from the columns of `refill` and `delivery`."""
    return models.Delivery(
        seq=row[0],
        id=row[1],
        event=row[2],
        subscription=row[3],
        state=models.DeliveryState(row[4]),
        priority=Priority(row[5]),
        due_at=row[6],
        attempt_count=row[7],
        step=row[8],
        trigger=Trigger(row[9]),
        created_at=row[10],
        expires_at=row[11],
        finished_at=row[12],
        failed_label=row[13],
    )


def new_delivery_row(d: models.Delivery) -> tuple[Any, ...]:
    """The values of `insert_delivery`."""
    return (d.seq, d.id, d.event, d.subscription, int(d.priority), d.due_at, d.trigger, d.created_at, d.expires_at)


def settled_row(before: models.Delivery, d: models.Delivery) -> tuple[Any, ...]:
    """The values of `settle_delivery`."""
    changed = (d.state, d.due_at, d.attempt_count, d.step, d.trigger, d.finished_at, d.failed_label)
    return (*changed, d.seq, before.due_at, before.step)


def event(row: Sequence[Any]) -> models.Event:
    """An event from the columns of `events_by_seq`."""
    seq, id_, tenant, type_, data, accepted_at, occurred_at, ordering_key = row
    return models.Event(
        seq=seq,
        id=id_,
        tenant=tenant,
        type=type_,
        data=data,
        accepted_at=accepted_at,
        occurred_at=occurred_at,
        ordering_key=ordering_key,
    )


def event_row(e: models.Event, deliveries: int, digest: bytes | None) -> tuple[Any, ...]:
    """The values of `insert_event`."""
    return (e.seq, e.id, e.tenant, e.type, e.data, e.accepted_at, e.occurred_at, e.ordering_key, deliveries, digest)


def attempt_row(delivery_seq: int, attempt: models.Attempt, profile: str | None) -> tuple[Any, ...]:
    """The values of `insert_attempt`; credentials do not get into them."""
    outcome = attempt.outcome
    response = None if isinstance(outcome, Interrupted | Unreachable | Broken) else outcome.response
    error = None if isinstance(outcome, Accepted) else outcome.error
    request = attempt.request
    return (
        delivery_seq,
        attempt.number,
        attempt.at,
        attempt.duration,
        attempt.trigger,
        OUTCOME_NAMES[type(outcome)],
        None if response is None else response.status,
        None if error is None else error.code,
        None if error is None else error.detail,
        None if request is None else _request(request, profile),
        None if response is None else orjson.dumps((response.headers, response.truncated)),
        None if response is None else response.body,
    )


def _request(request: models.Request, profile: str | None) -> bytes:
    hidden = request.hidden
    headers = request.headers
    if hidden:
        headers = tuple((name, HIDDEN if name.lower() in hidden else value) for name, value in headers)
    return orjson.dumps((request.method, request.url, headers, profile, crc32(request.body)))


class StoredAttempt(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt as it was recorded: the request's body is made again when shown, and `checksum` tells if it is the same."""

    number: int
    at: int
    duration: int
    trigger: str
    outcome: str
    status_code: int | None
    error_code: str | None
    error_detail: str | None
    method: str | None
    url: str | None
    headers: list[tuple[str, str]]
    profile: str | None
    checksum: int
    response_headers: list[tuple[str, str]] | None
    truncated: bool
    body: bytes | None


def stored_attempt(row: Row) -> StoredAttempt:
    """An attempt from the columns of `attempts_of_delivery`."""
    method, url, headers, profile, checksum = orjson.loads(row["request"]) if row["request"] else (None, None, [], None, 0)
    response_headers, truncated = orjson.loads(row["response"]) if row["response"] else (None, False)
    return StoredAttempt(
        number=row["number"],
        at=row["at"],
        duration=row["duration"],
        trigger=row["trigger"],
        outcome=row["outcome"],
        status_code=row["status_code"],
        error_code=row["error_code"],
        error_detail=row["error_detail"],
        method=method,
        url=url,
        headers=[(name, value) for name, value in headers],
        profile=profile,
        checksum=checksum,
        response_headers=None if response_headers is None else [(name, value) for name, value in response_headers],
        truncated=truncated,
        body=row["body"],
    )


def subscription_row(s: models.Subscription, vault: Vault) -> tuple[bytes, bytes, str, str | None, int, int]:
    """Settings, sealed, state, reason, version and updated_at: the values that `update_subscription` begins with."""
    settings = msgspec.json.encode({name: getattr(s, name) for name in _OPEN})
    sealed = vault.seal(msgspec.json.encode({name: getattr(s, name) for name in _SEALED}, enc_hook=str), s.id)
    return (settings, sealed, s.state, s.disabled_reason, s.version, s.updated_at)


def new_subscription_row(s: models.Subscription, vault: Vault) -> tuple[Any, ...]:
    """The values of `insert_subscription`."""
    settings, sealed, state, reason, version, updated_at = subscription_row(s, vault)
    return (s.seq, s.id, s.tenant, settings, sealed, state, reason, version, s.created_at, updated_at)


def subscription(row: Row, vault: Vault) -> models.Subscription:
    """A subscription from the columns of `subscriptions`; raises StorageCorrupt, naming the row."""
    try:
        fields: dict[str, Any] = {name: row[name] for name in _COLUMNS}
        fields |= msgspec.json.decode(row["settings"])
        fields |= msgspec.json.decode(vault.open(row["sealed"], row["id"]))
        return msgspec.convert(fields, models.Subscription, dec_hook=_secret)
    except (msgspec.MsgspecError, TypeError, ValueError, StorageCorrupt) as error:
        raise StorageCorrupt(f"subscription {row['id']} (row {row['seq']}) cannot be read: {error}") from error


def health(row: Row) -> models.Health:
    """The counters from the columns of `subscriptions`."""
    return models.Health(
        consecutive_failures=row["consecutive_failures"] or 0,
        last_success_at=row["last_success_at"],
        last_failure_at=row["last_failure_at"],
        failing_since=row["failing_since"],
        enabled_at=row["enabled_at"],
    )


def health_row(seq: int, h: models.Health) -> tuple[Any, ...]:
    """The values of `save_health`."""
    return (seq, h.consecutive_failures, h.last_success_at, h.last_failure_at, h.failing_since, h.enabled_at)


def _secret(wanted: type, value: Any) -> Any:
    if wanted is Secret and isinstance(value, str):
        return Secret(value)
    raise TypeError


def event_view(row: Row) -> views.Event:
    """An event from the columns of `list_events`."""
    return views.Event(
        id=row["id"],
        type=row["type"],
        tenant=row["tenant"],
        accepted_at=moment(row["accepted_at"]),
        occurred_at=moment(row["occurred_at"]),
        ordering_key=row["ordering_key"],
        deliveries=row["deliveries"],
    )


def delivery_view(row: Row) -> views.Delivery:
    """A delivery from the columns of the view `deliveries_shown`."""
    return views.Delivery(
        id=row["id"],
        event=row["event"],
        subscription=row["subscription"],
        tenant=row["tenant"],
        type=row["type"],
        state=row["state"],
        attempt_count=row["attempt_count"],
        next_attempt_at=optional_moment(row["next_attempt_at"]),
        created_at=moment(row["created_at"]),
        finished_at=optional_moment(row["finished_at"]),
        failed_label=msgspec.UNSET if row["failed_label"] is None else row["failed_label"],
    )
