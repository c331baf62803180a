"""Records to rows and back."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from zlib import crc32

import pytest
from msgspec import UNSET
from msgspec.structs import replace
from storage import DELIVERED, GONE, NO_ANSWER, NOW, SetClock, attempt, commit, database, draft, subscription

from hookengine import models
from hookengine.errors import StorageCorrupt
from hookengine.models import (
    Accepted,
    AttemptError,
    Broken,
    DeliveryState,
    ErrorCode,
    Health,
    Interrupted,
    Priority,
    Refused,
    Request,
    Response,
    Trigger,
)
from hookengine.store import registered, rows
from hookengine.store.commit import Commit
from hookengine.store.queries import sql
from hookengine.vault import Vault

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

CLOCK = SetClock()
VAULT = Vault([bytes(32)], CLOCK.new_bytes)
ERROR = AttemptError(code=ErrorCode.LOCAL_NETWORK, detail="no route")
REQUEST = Request(
    method="POST",
    url="https://receiver.example/hook",
    headers=(("Content-Type", "application/json"), ("X-Api-Key", "hunter2"), ("Authorization", "Basic aHVudGVyMg==")),
    body=b'{"n":1}',
    hidden=frozenset({"x-api-key", "authorization"}),
)


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    """An empty database of the present version."""
    with database() as db:
        yield db


def subscribe(db: sqlite3.Connection, *, seq: int) -> None:
    """A subscription, of which the rest is."""
    db.execute(sql.insert_subscription, registered.new_subscription_row(subscription(CLOCK, seq=seq), VAULT))


@pytest.mark.parametrize(
    "health",
    [
        Health(),
        Health(consecutive_failures=3, last_success_at=1, last_failure_at=2, failing_since=3, enabled_at=4),
    ],
    ids=["new", "counted"],
)
def test_health_comes_back_as_it_went(db: sqlite3.Connection, health: Health) -> None:
    """The counters survive, and are written over."""
    subscribe(db, seq=7)
    assert Health() == rows.health(db.execute(sql.subscriptions).fetchone())

    commit(db, "health", rows.health_row, 7, Health(consecutive_failures=1))
    commit(db, "health", rows.health_row, 7, health)

    assert health == rows.health(db.execute(sql.subscriptions).fetchone())


def test_delivery_comes_back_as_it_went(db: sqlite3.Connection) -> None:
    """A new delivery, and the same one settled, survive with their types."""
    new = models.Delivery(
        seq=3, id="dlv_3", event=1, subscription=2, priority=Priority.LOW, due_at=5, created_at=4, expires_at=9
    )
    made = Commit()
    rows.add_delivery(new, made)
    db.execute(sql.commit, made.values())
    back = rows.delivery(tuple(db.execute(sql.delivery, ("dlv_3", None, None)).fetchone()))
    assert new == back
    assert (DeliveryState.PENDING, Priority.LOW, Trigger.AUTO) == (back.state, back.priority, back.trigger)

    failed = replace(
        new, state=DeliveryState.FAILED, attempt_count=2, step=2, trigger=Trigger.MANUAL, finished_at=8, failed_label="no"
    )
    commit(db, "settled", rows.settled_row, new, failed)

    assert failed == rows.delivery(tuple(db.execute(sql.delivery, ("dlv_3", None, None)).fetchone()))


def test_event_comes_back_as_it_went(db: sqlite3.Connection) -> None:
    """The producer's bytes are kept as they are."""
    event = models.Event(
        seq=3,
        id="e",
        tenant="t",
        type="a.b",
        data=b'{ "x" : 1.0, "y": "\xf0\x9f\x98\x80" }',
        accepted_at=1,
        occurred_at=2,
        ordering_key="k",
    )
    commit(db, "events", rows.event_row, event, 4, draft(digest=b"digest"))

    assert event == rows.event(tuple(db.execute(sql.events_by_seq, ("[3]",)).fetchone()))
    view = rows.event_view(db.execute(sql.list_events, PAGE | {"type": None}).fetchone())
    assert ("e", "t", "a.b", 4, "k") == (view.id, view.tenant, view.type, view.deliveries, view.ordering_key)
    assert ("1970-01-01T00:00:00.001000+00:00", "1970-01-01T00:00:00.002000+00:00") == (
        view.accepted_at.isoformat(),
        view.occurred_at.isoformat(),
    )


PAGE: dict[str, Any] = {
    "first": 0,
    "before": 99,
    "tenant": None,
    "since": None,
    "until": None,
    "limit": 9,
    "state": None,
}


@pytest.mark.parametrize("label", [None, "expired"])
def test_delivery_is_shown_with_a_label_only_if_it_has_one(db: sqlite3.Connection, label: str | None) -> None:
    """A member that says nothing is left out."""
    subscribe(db, seq=2)
    event = models.Event(seq=1, id="e", tenant="t", type="a.b", data=b"1", accepted_at=1, occurred_at=2)
    commit(db, "events", rows.event_row, event, 1, draft())
    new = models.Delivery(seq=3, id="dlv_3", event=1, subscription=2, due_at=5, created_at=4)
    made = Commit()
    rows.add_delivery(new, made)
    db.execute(sql.commit, made.values())
    if label is not None:
        failed = replace(new, state=DeliveryState.FAILED, finished_at=8, failed_label=label)
        commit(db, "settled", rows.settled_row, new, failed)

    view = rows.delivery_view(db.execute(sql.list_deliveries, PAGE).fetchone())

    assert (label or UNSET) == view.failed_label
    assert ("e", "t", "a.b", "pending" if label is None else "failed") == (view.event, view.tenant, view.type, view.state)


@pytest.mark.parametrize(
    ("outcome", "shown"),
    [
        pytest.param(DELIVERED, ("accepted", 204, None, None), id="accepted"),
        pytest.param(GONE, ("refused", 410, "http_status", "410"), id="refused"),
        pytest.param(
            Refused(error=AttemptError(code=ErrorCode.MALFORMED_RESPONSE, detail="no status line")),
            ("refused", None, "malformed_response", "no status line"),
            id="refused, unreadable",
        ),
        pytest.param(NO_ANSWER, ("unreachable", None, "timeout_response", "no answer in 15 s"), id="unreachable"),
        pytest.param(Interrupted(), ("interrupted", None, None, None), id="interrupted by a stop"),
        pytest.param(
            Interrupted(error=ERROR), ("interrupted", None, "local_network", "no route"), id="interrupted by a fault"
        ),
        pytest.param(Broken(error=ERROR), ("interrupted", None, "local_network", "no route"), id="broken"),
    ],
)
def test_outcome_is_stored_as_it_is_shown(
    db: sqlite3.Connection, outcome: models.Outcome, shown: tuple[str, int | None, str | None, str | None]
) -> None:
    """Each way to end has its words, its status and its error."""
    stored = stored_attempt(db, attempt(outcome, at=5, number=2, duration=7), None)

    assert shown == (stored.outcome, stored.status_code, stored.error_code, stored.error_detail)
    assert (2, 5, 7, "auto") == (stored.number, stored.at, stored.duration, stored.trigger)
    assert (None, None, [], None, 0) == (stored.method, stored.url, stored.headers, stored.profile, stored.checksum)


def test_response_comes_back_as_it_went(db: sqlite3.Connection) -> None:
    """Headers that repeat, bytes of every value, and whether the body was cut are kept."""
    headers = (("Set-Cookie", "a"), ("set-cookie", "b"), ("x-latin", "\xff\x80"))
    response = Response(status=200, headers=headers, body=bytes(range(256)), truncated=True)

    stored = stored_attempt(db, attempt(Accepted(response=response)), None)

    assert (list(headers), bytes(range(256)), True) == (stored.response_headers, stored.body, stored.truncated)


def test_one_response_of_many_attempts(db: sqlite3.Connection) -> None:
    """Attempts of one commit that share a response are stored with it, each; those with an equal or another one as well."""
    shared = Response(status=200, headers=(("a", "b"),), body=b"ok", truncated=False)
    responses = [shared, replace(shared, body=b"no", headers=()), shared, replace(shared), shared]
    one = Commit()
    for number, response in enumerate(responses, 1):
        made = attempt(Accepted(response=response), number=number)
        one.attempts.add(*rows.attempt_row(1, made, rows.exchanged(made, None, one)))
    db.execute(sql.commit, one.values())
    stored = map(rows.stored_attempt, db.execute(sql.attempts_of_delivery, (1, 9)).fetchall())

    assert {each.number: (tuple(each.response_headers or ()), each.body) for each in stored} == {
        number: (response.headers, response.body) for number, response in enumerate(responses, 1)
    }
    assert 3 == len(one.responses)


def test_request_is_stored_without_its_credentials(db: sqlite3.Connection) -> None:
    """The values of hidden headers are not in the row, whatever the case of their names; the rest is."""
    stored = stored_attempt(db, attempt(DELIVERED, request=REQUEST), "standard")

    assert [("Content-Type", "application/json"), ("X-Api-Key", "***"), ("Authorization", "***")] == stored.headers
    assert ("POST", REQUEST.url, "standard", crc32(REQUEST.body)) == (
        stored.method,
        stored.url,
        stored.profile,
        stored.checksum,
    )
    everything = b"".join(
        value if isinstance(value, bytes) else str(value).encode() for value in db.execute("SELECT * FROM attempts").fetchone()
    )
    assert b"hunter2" not in everything
    assert b"aHVudGVyMg" not in everything


def test_request_without_credentials_is_stored_whole(db: sqlite3.Connection) -> None:
    """Where nothing is hidden, nothing is changed."""
    stored = stored_attempt(db, attempt(NO_ANSWER, request=replace(REQUEST, hidden=frozenset())), "svix")

    assert list(REQUEST.headers) == stored.headers
    assert (None, False, None) == (stored.response_headers, stored.truncated, stored.body)


def test_json_text_is_what_sqlite_reads(db: sqlite3.Connection) -> None:
    """Texts with quotes, controls and other alphabets reach `json_each` as they are."""
    values = ['"\\', "\x01\n", "ä\u2028😀", 5]

    assert values == [row["value"] for row in db.execute("SELECT value FROM json_each(?)", (rows.json_text(values),))]
    assert values == json.loads(rows.json_text(values))


def stored_attempt(db: sqlite3.Connection, made: models.Attempt, profile: str | None) -> rows.StoredAttempt:
    """An attempt as it comes back."""
    one = Commit()
    one.attempts.add(*rows.attempt_row(1, made, rows.exchanged(made, profile, one)))
    db.execute(sql.commit, one.values())
    return rows.stored_attempt(db.execute(sql.attempts_of_delivery, (1, 1)).fetchone())


@pytest.mark.parametrize("moment", [2**63 - 1, -(2**63), 10**15])
def test_event_of_no_time_cannot_be_read(moment: int) -> None:
    """A time that cannot be printed would fail whoever prints it: the row is named instead."""
    with pytest.raises(StorageCorrupt, match=r"event evt_1 \(row 1\) cannot be read"):
        rows.event((1, "evt_1", "acme", "a", b"1", NOW, moment, None))
