"""What is sent, to rows and back: events, deliveries, attempts and what is counted. `registered` has who it is sent to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from zlib import crc32

import msgspec
import orjson

from hookengine import models, views
from hookengine.errors import StorageCorrupt
from hookengine.models import OUTCOME_NAMES
from hookengine.statistics import NO_ATTEMPT, Tally
from hookengine.store.commit import Commit
from hookengine.store.intake import Receipt, Replay
from hookengine.times import format_time
from hookengine.views import moment, optional_moment

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from sqlite3 import Row

    from hookengine.store.commit import Parts, Values
    from hookengine.store.intake import Draft

_HEALTH = models.Health.__struct_fields__

_DELIVERY = models.Delivery.__struct_fields__  # in the order of the columns
_EVENT = models.Event.__struct_fields__
_JSON = msgspec.json.Decoder(msgspec.Raw)  # only passes over it, which takes a third of a microsecond for a KiB

# What reading a value that somebody edited may raise: of another type, no UTF-8, nested too deep, sealed for another row.
SPOILED = (msgspec.MsgspecError, OverflowError, RecursionError, StorageCorrupt, TypeError, ValueError)


def json_text(value: object) -> str:
    """What SQLite's `json_each` takes."""
    return orjson.dumps(value).decode()


class Unreadable(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery whose row cannot be read; `where` names it."""

    seq: int
    where: str
    error: StorageCorrupt


def delivery(row: Sequence[Any]) -> models.Delivery:
    """A delivery from the columns of `refill` and `delivery`; raises StorageCorrupt, naming the row."""
    try:
        # Checked, because the scheduler must be able to compare it; and in a third of the time that its enums take alone.
        d = msgspec.convert(dict(zip(_DELIVERY, row, strict=False)), models.Delivery)
    except msgspec.ValidationError as error:
        raise StorageCorrupt(f"{_where(row)} cannot be read: {error}") from None
    if d.line is not None and (d.batch is not None or d.place is models.Place.GATHERING):
        raise StorageCorrupt(f"{_where(row)} cannot be read: it stands both in a line and in a batch")
    return d


def deliveries(found: Iterable[Sequence[Any]]) -> tuple[list[models.Delivery], list[Unreadable]]:
    """Those of *found* that can be read, and those that cannot."""
    readable: list[models.Delivery] = []
    unreadable: list[Unreadable] = []
    for row in found:
        try:
            readable.append(delivery(row))
        except StorageCorrupt as error:
            unreadable.append(Unreadable(seq=row[0], where=_where(row), error=error))
    return readable, unreadable


def parked(row: Sequence[Any], now: int) -> models.Delivery:
    """A delivery from the columns of `park`, as it was before, in so far as they can be read: enough to tell of it."""
    subscription, batch, line, seq, id_, *others = row
    numbers = [each if isinstance(each, int) else 0 for each in (subscription, *others)]
    return models.Delivery(
        seq=seq,
        id=str(id_, "utf-8", "replace") if isinstance(id_, bytes) else str(id_),
        event=numbers[1],
        subscription=numbers[0],
        due_at=now,
        attempt_count=numbers[2],
        created_at=numbers[3],
        batch=batch if isinstance(batch, int) else None,
        line=line if isinstance(line, str) else None,
    )


def where(d: models.Delivery) -> str:
    """What names the row of *d*."""
    return _where((d.seq, d.id))


def _where(row: Sequence[Any]) -> str:
    return f"delivery {row[1]} (row {row[0]})"


def add_delivery(d: models.Delivery, commit: Commit) -> None:
    """Put a new delivery into *commit*."""
    alike = (d.priority, d.due_at, d.trigger, d.created_at, d.expires_at, d.place)
    commit.deliveries.add((d.seq, d.id, d.event, d.subscription), alike)
    if d.line is not None:
        commit.lined.append(turn_row(d))


def turn_row(d: models.Delivery) -> Values:
    """A row of `Commit.lined` and of `line_up`: whoever comes last stands last."""
    return (d.seq, d.line, d.seq)


def replay_row(d: models.Delivery) -> Values:
    """A row of `insert_replays`."""
    return (d.seq, d.id, d.event, d.subscription, d.priority, d.due_at, d.trigger, d.created_at, d.place)


def replay(row: Sequence[Any]) -> Replay:
    """A replay from the columns of `next_replay`; raises StorageCorrupt, naming the row."""
    try:
        states = msgspec.json.decode(row[2], type=tuple[models.DeliveryState, ...])
        seq, subscription, _, since, until, newest, cursor, made = row
        fields = {"since": since, "until": until, "newest": newest, "cursor": cursor, "made": made}
        return msgspec.convert(fields | {"seq": seq, "subscription": subscription, "states": states}, Replay)
    except SPOILED as error:
        raise StorageCorrupt(f"the replay in row {row[0]} cannot be read: {error}") from None


def replay_values(r: Replay) -> dict[str, Any]:
    """What a replay takes, as parameters of `insert_replay` and `replayable`."""
    return {
        "subscription": r.subscription,
        "states": json_text(r.states),
        "since": r.since,
        "until": r.until,
        "newest": r.newest,
    }


def settled_row(before: models.Delivery, d: models.Delivery) -> Parts:
    """A row of `Commit.settled`: *d* as it is now, and what it must still be on disk."""
    alike = (d.state, d.attempt_count, d.step, d.trigger, d.failed_label, d.place, before.step)
    return (d.seq, before.due_at, d.due_at, d.finished_at), alike


def event(row: Sequence[Any]) -> models.Event:
    """An event from the columns of `events_by_seq`; raises StorageCorrupt, naming the row."""
    try:
        event = msgspec.convert(dict(zip(_EVENT, row, strict=False)), models.Event, builtin_types=(bytes,))
        _check(event.data)  # it was checked when it was accepted, but is put into a body as it is
        format_time(event.occurred_at)  # so is this
    except SPOILED as error:
        raise StorageCorrupt(f"event {row[1]} (row {row[0]}) cannot be read: {error}") from None
    return event


def receipt(row: Sequence[Any]) -> tuple[tuple[str, str], tuple[bytes | None, Receipt]]:
    """Id and tenant of an event accepted before, the digest of its request and what was answered, from `known_events`."""
    id_, tenant, type_, accepted_at, occurred_at, ordering_key, deliveries, digest = row
    event = models.Event(
        seq=0,
        id=id_,
        tenant=tenant,
        type=type_,
        data=b"",
        accepted_at=accepted_at,
        occurred_at=occurred_at,
        ordering_key=ordering_key,
    )
    return (id_, tenant), (digest, Receipt(event=event, deliveries=deliveries))


def event_row(e: models.Event, deliveries: int, draft: Draft, commit: Commit) -> Parts:
    """A row of `Commit.events`: *e* as *draft* brought it."""
    digest, chosen = commit.place(draft.digest), 0 if draft.only is None else 1
    alike = (e.tenant, e.type, e.accepted_at, e.occurred_at, e.ordering_key, deliveries, digest, chosen)
    return (e.seq, e.id, commit.place(e.data)), alike


def attempt_row(delivery_seq: int, attempt: models.Attempt, content: Values, exchange: int | None = None) -> Parts:
    """
    A row of `Commit.attempts`.

    *content* is `exchanged`, or without anything where that is kept under the number *exchange*.
    """
    outcome = attempt.outcome
    response, error = outcome.response, outcome.error
    sent, *answered = content
    alike = (
        attempt.number,
        attempt.trigger,
        OUTCOME_NAMES[type(outcome)],
        None if response is None else response.status,
        None if error is None else error.code,
        None if error is None else error.detail,
        *answered,
        exchange,
    )
    return (delivery_seq, attempt.at, attempt.duration, sent), alike


def exchanged(attempt: models.Attempt, profile: str | None, commit: Commit) -> Values:
    """
    What was sent and what was answered; credentials do not get into it.

    Both as JSON that is printed here: SQLite would read and print it twice, in a quarter of a commit's time.
    """
    request, response = attempt.request, attempt.outcome.response
    sent = None if request is None else commit.place(orjson.dumps(_request(request, profile)))
    if response is None:
        return (sent, None, None)
    known = commit.responses.get(id(response))  # many attempts have one and the same, see `wire.Answers`
    if known is None:
        head = commit.place(orjson.dumps((response.headers, response.truncated)))
        known = commit.responses[id(response)] = (response, head, commit.place(response.body))
    return (sent, *known[1:])


def _request(request: models.Request, profile: str | None) -> Values:
    hidden = request.hidden
    headers = request.headers
    if hidden:
        headers = tuple((name, models.HIDDEN if name.lower() in hidden else value) for name, value in headers)
    return (request.method, request.url, headers, profile, crc32(request.body))


# As `_request` and `exchanged` write them.
_REQUEST = tuple[str, str, list[tuple[str, str]], str | None, int]
_RESPONSE = tuple[list[tuple[str, str]], bool]


class Receiver(msgspec.Struct, frozen=True, kw_only=True):
    """A subscription that an event made a delivery for, and that was deleted since."""

    seq: int
    id: str
    name: str | None
    url: str


class Went(msgspec.Struct, frozen=True, kw_only=True):
    """A delivery of an event, in short."""

    id: str
    state: str
    replay: bool


class Names(msgspec.Struct, frozen=True, kw_only=True):
    """What a delivery is called by."""

    event: str
    subscription: str
    tenant: str
    type: str


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
    exchange: int | None = None  # set where others share it: deliveries of one batch


def stored_attempt(row: Sequence[Any]) -> StoredAttempt:
    """An attempt from the columns of `attempts_of_delivery`."""
    *columns, request, response, body = tuple(row)
    number, at, duration, trigger, outcome, status_code, error_code, error_detail, exchange = columns
    method, url, headers, profile, checksum = _as(_REQUEST, request) or (None, None, [], None, 0)
    response_headers, truncated = _as(_RESPONSE, response) or (None, False)
    return StoredAttempt(
        number=number,
        at=at,
        duration=duration,
        trigger=trigger,
        outcome=outcome,
        status_code=status_code,
        error_code=error_code,
        error_detail=error_detail,
        method=method,
        url=url,
        headers=[(name, value) for name, value in headers],
        profile=profile,
        checksum=checksum,
        response_headers=None if response_headers is None else [(name, value) for name, value in response_headers],
        truncated=truncated,
        body=body if isinstance(body, bytes) else None,
        exchange=exchange,
    )


def _as(kind: Any, text: Any) -> Any:
    """What JSON *text* holds; None where there is none, or none that can be read: what else is known is shown."""
    try:
        return None if text is None else msgspec.json.decode(text, type=kind)
    except SPOILED:
        return None


def as_stored(attempt: models.Attempt, profile: str | None) -> StoredAttempt:
    """An attempt as it would be recorded: what is shown of one that is not stored is the same."""
    commit = Commit()
    (_, at, duration, sent), alike = attempt_row(0, attempt, exchanged(attempt, profile, commit))
    number, *outcome, head, body, exchange = alike
    return stored_attempt((number, at, duration, *outcome, exchange, *map(commit.bytes_at, (sent, head, body))))


def health(row: Row) -> models.Health:
    """The counters from the columns of `subscriptions`; raises StorageCorrupt, naming the row."""
    fields = {name: row[name] for name in _HEALTH}
    try:
        return msgspec.convert(fields | {"consecutive_failures": row["consecutive_failures"] or 0}, models.Health)
    except msgspec.ValidationError as error:
        raise StorageCorrupt(f"the counters of {row['id']} (row {row['seq']}) cannot be read: {error}") from None


def health_row(seq: int, h: models.Health) -> Values:
    """A row of `Commit.health`."""
    return (seq, h.consecutive_failures, h.last_success_at, h.last_failure_at, h.failing_since, h.enabled_at)


def ended_row(subscription: int, hour: int, count: int, state: models.DeliveryState, label: str = "") -> Values:
    """A row of `Commit.statistics`: deliveries that came to a final *state* without an attempt."""
    return (subscription, hour, state, label, 0, "", NO_ATTEMPT, count)


def tally(row: Row) -> Tally:
    """A count from the columns of `statistics_of`; raises StorageCorrupt, naming the subscription."""
    fields = dict(row)
    try:
        return msgspec.convert(fields, Tally)
    except msgspec.ValidationError as error:
        raise StorageCorrupt(f"the statistics of subscription {fields['subscription']} cannot be read: {error}") from None


def _check(text: Any) -> None:
    """Raise one of SPOILED unless *text* is JSON."""
    _JSON.decode(text)
    if not isinstance(text, str):
        str(text, "utf-8")  # the decoder passes over what is in texts


def json_or_null(text: Any) -> views.JsonText | None:
    """JSON *text* that is put into an answer as it is; `null` in place of what is none, which would spoil the whole answer."""
    if text is None:
        return None
    try:
        _check(text)
        return views.JsonText(text.encode() if isinstance(text, str) else text)
    except SPOILED:
        return views.JsonText(b"null")


def event_type_view(row: Row) -> views.EventType:
    """An event type from the columns of `list_event_types`."""
    return views.EventType(
        type=row["type"],
        description=row["description"],
        example=json_or_null(row["example"]),
        deprecated=bool(row["deprecated"]),
        created_at=moment(row["created_at"]),
        updated_at=moment(row["updated_at"]),
    )


def receiver(row: Row) -> Receiver:
    """A subscription that is deleted, from the columns of `deleted_receivers`."""
    settings = _as(dict[str, Any], row["settings"]) or {}
    return Receiver(seq=row["seq"], id=row["id"], name=settings.get("name"), url=settings.get("url", ""))


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
