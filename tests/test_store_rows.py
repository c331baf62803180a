"""Records to rows and back."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from inspect import signature
from typing import TYPE_CHECKING, Any
from zlib import crc32

import msgspec
import pytest
from msgspec import UNSET
from msgspec.structs import asdict, replace
from storage import DELIVERED, GONE, NO_ANSWER, NOW, SetClock, attempt, draft, subscription

from hookengine import models
from hookengine.errors import StorageCorrupt
from hookengine.models import (
    Accepted,
    AccessToken,
    AttemptError,
    BasicAuth,
    Batching,
    Broken,
    DeliveryState,
    DisabledReason,
    ErrorCode,
    Health,
    Interrupted,
    OAuth2,
    Ordering,
    Priority,
    Refused,
    Request,
    Response,
    Secret,
    SigningSecret,
    SubscriptionState,
    TokenFields,
    Trigger,
    WhileDisabled,
)
from hookengine.store import rows
from hookengine.store.commit import SCRIPT, Commit, Rows
from hookengine.store.queries import migrations, sql
from hookengine.vault import Vault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
    """An empty database of the present version, in which foreign keys are not checked."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        for script in migrations():
            db.executescript(script)
        db.executescript(SCRIPT)
        db.row_factory = sqlite3.Row
        yield db


def commit(db: sqlite3.Connection, table: str, form: Callable[..., Any], *values: Any) -> None:
    """Write the one row that *form* makes of *values* into *table*."""
    one = Commit()
    made = form(*values, one) if "commit" in signature(form).parameters else form(*values)
    rows_of = getattr(one, table)
    rows_of.add(*made) if isinstance(rows_of, Rows) else rows_of.append(made)
    db.execute(sql.commit, one.values())


def through(db: sqlite3.Connection, one: models.Subscription) -> models.Subscription:
    """A subscription as it comes back."""
    db.execute(sql.insert_subscription, rows.new_subscription_row(one, VAULT))
    return rows.subscription(db.execute(sql.subscriptions).fetchone(), VAULT)


FULL = subscription(
    CLOCK,
    seq=7,
    event_types=("order.*", "käse"),
    name="N",
    method="PUT",
    headers=(("X-Api-Key", Secret("hunter2")), ("x-ä", Secret("ö"))),
    auth=BasicAuth(username="u", password=Secret("pass word")),
    secrets=(SigningSecret(value=Secret("whsec_new")), SigningSecret(value=Secret("whsec_old"), expires_at=NOW)),
    timeout=1,
    retry_schedule=(1, 2**40),
    disable_after_failures=3,
    rate_limit="10/s",
    ordering=Ordering.FIFO,
    batch=Batching(max_events=7),
    while_disabled=WhileDisabled.SKIP,
    max_concurrency=1,
    target_id=-(2**63),
    key_values={"b": [True, {"c": None}]},
    metadata={"a": [1, 2.5, None, {"b": "\x00ü"}]},
    state=SubscriptionState.DISABLED,
    disabled_reason=DisabledReason.GONE,
    version=5,
)


@pytest.mark.parametrize("one", [subscription(CLOCK, seq=1), FULL], ids=["defaults", "everything set"])
def test_subscription_comes_back_as_it_went(db: sqlite3.Connection, one: models.Subscription) -> None:
    """Every setting and every secret survives, with its type."""
    back = through(db, one)

    assert one == back
    assert all(type(value) is Secret for _, value in back.headers)
    assert all(type(secret.value) is Secret for secret in back.secrets)
    assert back.auth is None or (isinstance(back.auth, BasicAuth) and type(back.auth.password) is Secret)


def test_oauth2_comes_back_as_it_went(db: sqlite3.Connection) -> None:
    """How access tokens are got survives, and so do the types of its secrets."""
    given = OAuth2(
        grant="password",
        token_url="https://auth.example/token",
        client_id="c",
        client_secret=Secret("hunter2-secret"),
        username="u",
        password=Secret("hunter2-password"),
        scopes=("a", "b"),
        client_auth="bearer",
        fields=TokenFields(access_token="jwt"),
        expires_in=1000,
    )
    back = through(db, subscription(CLOCK, seq=7, auth=given)).auth

    assert given == back
    assert isinstance(back, OAuth2)
    assert (Secret, Secret) == (type(back.client_secret), type(back.password))


def test_auth_from_before_there_were_types_is_basic(db: sqlite3.Connection) -> None:
    """Rows of earlier versions do not say what type of `auth` they hold."""
    through(db, FULL)
    sealed = msgspec.json.decode(VAULT.open(db.execute(sql.subscriptions).fetchone()["sealed"], FULL.id))
    assert "basic" == sealed["auth"].pop("type")
    db.execute("UPDATE subscriptions SET sealed = ?", (VAULT.seal(msgspec.json.encode(sealed), FULL.id),))

    assert FULL == rows.subscription(db.execute(sql.subscriptions).fetchone(), VAULT)


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(AccessToken(value=Secret("a")), id="least"),
        pytest.param(AccessToken(value=Secret("a"), refresh_token=Secret("r"), renew_at=NOW), id="whole"),
    ],
)
def test_access_token_comes_back_as_it_went(db: sqlite3.Connection, token: AccessToken) -> None:
    """A token survives with the types of its secrets, for the one subscription that it was got for."""
    one = through(db, FULL)
    db.execute(sql.save_access_token, rows.access_token_row(one, AccessToken(value=Secret("before")), VAULT))
    db.execute(sql.save_access_token, rows.access_token_row(one, token, VAULT))
    [row] = db.execute(sql.access_tokens).fetchall()
    back = rows.access_token(row, one, VAULT)

    assert token == back
    assert Secret is type(back.value)
    with pytest.raises(StorageCorrupt, match=r"the access token of sub_other cannot be read"):
        rows.access_token(row, replace(one, id="sub_other"), VAULT)


def test_every_setting_is_stored(db: sqlite3.Connection) -> None:
    """A setting that differs from its default is not lost: none is forgotten in the columns."""
    plain = subscription(CLOCK, seq=7)

    assert {name for name, value in asdict(FULL).items() if value == getattr(plain, name)} == {
        *("seq", "tenant", "url", "profile", "created_at", "updated_at")
    }
    assert FULL == through(db, FULL)


def test_updated_subscription_comes_back(db: sqlite3.Connection) -> None:
    """What an edit changes is written over what was there."""
    through(db, subscription(CLOCK, seq=7))
    after = replace(FULL, id=db.execute("SELECT id FROM subscriptions").fetchone()["id"])
    commit(db, "changed", rows.changed_subscription_row, after, VAULT)

    assert after == rows.subscription(db.execute(sql.subscriptions).fetchone(), VAULT)


def test_secrets_are_only_in_the_sealed_column(db: sqlite3.Connection) -> None:
    """Header values, passwords and signing secrets cannot be read without the key."""
    through(db, FULL)
    columns = tuple(db.execute("SELECT * FROM subscriptions").fetchone())
    readable = b"".join(value if isinstance(value, bytes) else str(value).encode() for value in columns)

    assert not [secret for secret in (b"hunter2", b"pass word", b"whsec_new", b"whsec_old") if secret in readable]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param("settings = '{'", "", id="cut JSON"),
        pytest.param("settings = x'22ff22'", "", id="not UTF-8"),
        pytest.param("settings = '[[1]]'", "", id="not an object, pairs that are none"),
        pytest.param("settings = '\"ab\"'", "", id="not an object, but a text"),
        pytest.param("settings = '5'", "", id="a number"),
        pytest.param("settings = json_remove(settings, '$.url')", "missing required field `url`", id="no URL"),
        pytest.param("settings = json_set(settings, '$.url', NULL)", "url", id="null URL"),
        pytest.param("settings = json_set(settings, '$.while_disabled', 'later')", "later", id="unknown enum"),
        pytest.param("settings = json_set(settings, '$.timeout', 'soon')", "timeout", id="another type"),
        pytest.param("sealed = x''", "sealed with another key", id="no secrets"),
        pytest.param("sealed = 5", "", id="sealed is a number"),
        pytest.param("sealed = 'text'", "", id="sealed is a text"),
        pytest.param("sealed = substr(sealed, 1, 9)", "", id="sealed is cut in its nonce"),
        pytest.param("sealed = substr(sealed, 1, 20)", "do not open", id="sealed is cut"),
        pytest.param("sealed = CAST(x'02' || substr(sealed, 2) AS BLOB)", "", id="another version"),
        pytest.param("id = 'sub_other'", "do not open", id="moved to another row"),
    ],
)
def test_row_that_cannot_be_read_is_named(db: sqlite3.Connection, change: str, said: str) -> None:
    """Whatever is wrong with a row, the error says which row it is, and is one that a start can step over."""
    through(db, subscription(CLOCK, seq=7))
    db.execute(f"UPDATE subscriptions SET {change}")
    row = db.execute(sql.subscriptions).fetchone()

    with pytest.raises(StorageCorrupt, match=rf"subscription {row['id']} \(row 7\) cannot be read: .*{said}"):
        rows.subscription(row, VAULT)


def test_row_of_another_key_is_named(db: sqlite3.Connection) -> None:
    """What was sealed with a key that is not here is not guessed at."""
    through(db, subscription(CLOCK, seq=7))
    other = Vault([b"x" * 32], CLOCK.new_bytes)

    with pytest.raises(StorageCorrupt, match="sealed with another key"):
        rows.subscription(db.execute(sql.subscriptions).fetchone(), other)


def test_secret_of_another_type_is_named(db: sqlite3.Connection) -> None:
    """A value that opens but is no text is not taken for a secret."""
    one = subscription(CLOCK, seq=7)
    through(db, one)
    sealed = VAULT.seal(b'{"headers": [["a", 5]], "auth": null, "secrets": []}', one.id)
    db.execute("UPDATE subscriptions SET sealed = ?", (sealed,))

    with pytest.raises(StorageCorrupt, match=rf"subscription {one.id} \(row 7\) cannot be read"):
        rows.subscription(db.execute(sql.subscriptions).fetchone(), VAULT)


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
    through(db, subscription(CLOCK, seq=7))
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
    through(db, subscription(CLOCK, seq=2))
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
