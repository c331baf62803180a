"""The one statement that a commit is."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import aiosqlite
import pytest

from hookengine.store import commit
from hookengine.store.commit import Commit
from hookengine.store.queries import migrations, sql

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    """An empty database of the present version with foreign keys, and one subscription."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        db.execute("PRAGMA foreign_keys = ON")
        for script in migrations():
            db.executescript(script)
        db.executescript(commit.SCRIPT)
        db.execute("INSERT INTO subscriptions VALUES (1, 's', 't', x'00', x'01', 'active', NULL, 1, 2, 3, NULL)")
        yield db


def add_event(made: Commit, seq: int, data: bytes = b"{}", digest: bytes | None = None) -> None:
    """An event of that number."""
    made.events.add((seq, f"evt_{seq}", made.place(data)), ("t", "a.b", 5, 6, None, 1, made.place(digest), 0))


def add_delivery(made: Commit, seq: int, event: int = 1) -> None:
    """A delivery of that number."""
    made.deliveries.add((seq, f"dlv_{seq}", event, 1), (1, 7, "auto", 8, None, 0))


def settle(made: Commit, *deliveries: int, label: str | None = None) -> None:
    """What was due at 7 is delivered."""
    for seq in deliveries:
        made.settled.add((seq, 7, 7, 9), ("delivered", 1, 1, "auto", label, 0, 0))


def write(db: sqlite3.Connection, made: Commit) -> None:
    """Write *made* as the writer does."""
    db.execute(sql.commit, made.values())


def some(db: sqlite3.Connection, count: int = 3) -> None:
    """Events 1 to *count*, each with a delivery of its number."""
    made = Commit()
    for seq in range(1, count + 1):
        add_event(made, seq)
        add_delivery(made, seq, seq)
    write(db, made)


@pytest.mark.parametrize("count", [1, 2, 1000])
def test_every_row_is_written(db: sqlite3.Connection, count: int) -> None:
    """However many rows a table has, all are there, each with its own bytes."""
    made = Commit()
    for seq in range(1, count + 1):
        add_event(made, seq, b'{"n":%d}' % seq, b"" if seq % 2 else None)
        add_delivery(made, seq, seq)
    write(db, made)

    assert [(seq, b'{"n":%d}' % seq, b"" if seq % 2 else None) for seq in range(1, count + 1)] == db.execute(
        "SELECT seq, data, digest FROM events ORDER BY seq"
    ).fetchall()
    assert [(count, count)] == db.execute("SELECT count(*), max(event) FROM deliveries WHERE state = 'pending'").fetchall()
    assert not db.in_transaction


def test_what_rows_have_alike(db: sqlite3.Connection) -> None:
    """It stands once for all of them, and each row has what belongs to it, in whatever order they come."""
    made = Commit()
    for seq in range(1, 301):
        add_event(made, seq, digest=b"%d" % (seq % 7) if seq % 7 else None)
        made.deliveries.add((seq, f"dlv_{seq}", seq, 1), (seq % 3, seq % 5, "auto", 8, seq % 2 or None, 0))
    write(db, made)
    assert (300, 30) == (len(made.deliveries.rows), len(made.deliveries.kinds))
    made = Commit()
    for seq in range(300, 0, -1):
        made.settled.add((seq, seq % 5, seq + 1, seq + 2), ("delivered", seq % 4, 1, "auto", f"{seq % 4}", 0, 0))
        made.attempts.add((seq, seq, seq, None), (seq % 4, "auto", "accepted", 200 + seq % 4, None, None, None, None, None))
    write(db, made)
    assert (4, 4) == (len(made.settled.kinds), len(made.attempts.kinds))

    assert [(seq, seq % 3, seq % 2 or None, seq + 1, seq + 2, seq % 4, f"{seq % 4}") for seq in range(1, 301)] == db.execute(
        "SELECT seq, priority, expires_at, due_at, finished_at, attempt_count, failed_label FROM deliveries ORDER BY seq"
    ).fetchall()
    assert [(seq, seq, seq, seq % 4, 200 + seq % 4) for seq in range(300, 0, -1)] == db.execute(
        "SELECT delivery, at, duration, number, status_code FROM attempts ORDER BY seq"
    ).fetchall()
    assert [(i, sum(s % 7 == i for s in range(1, 301))) for i in range(7)] == db.execute(
        "SELECT CAST(coalesce(CAST(digest AS TEXT), '0') AS INTEGER), count(*) FROM events GROUP BY 1"
    ).fetchall()


def test_nothing_is_written_for_nothing(db: sqlite3.Connection) -> None:
    """A commit without rows is none."""
    write(db, Commit())

    assert [(0, 0)] == db.execute("SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM attempts)").fetchall()


@pytest.mark.parametrize("data", [b"", bytes(range(256)), "ä\u2028😀".encode(), b"\0" * 5])
def test_bytes_are_kept(db: sqlite3.Connection, data: bytes) -> None:
    """Bytes of every value come out as they went in, beside others."""
    made = Commit()
    for seq, content in enumerate((b"before", data, b"after"), 1):
        add_event(made, seq, content)
    write(db, made)

    assert [(b"before",), (data,), (b"after",)] == db.execute("SELECT data FROM events ORDER BY seq").fetchall()
    assert [b"before", data, b"after"] == [made.bytes_at(row[2]) for row in made.events.rows]


@pytest.mark.parametrize("text", ['"\\/', "\x01\n\u007f", "ä\u2028😀", "'; --", "null", "[1]", "12"])
def test_texts_are_kept(db: sqlite3.Connection, text: str) -> None:
    """Texts that look like something else stay texts."""
    made = Commit()
    made.events.add((1, text, made.place(b"1")), (text, text, 5, 6, text, 0, None, 0))
    write(db, made)

    assert [(text,) * 4] == db.execute("SELECT id, tenant, type, ordering_key FROM events").fetchall()


def test_numbers_are_kept(db: sqlite3.Connection) -> None:
    """Times and counts of 64 bits are stored as the integers they are."""
    made = Commit()
    made.events.add((1, "e", made.place(b"1")), ("t", "a", -(2**63), 2**63 - 1, None, 0, None, 0))
    write(db, made)

    assert [(-(2**63), 2**63 - 1, "integer")] == db.execute(
        "SELECT accepted_at, occurred_at, typeof(occurred_at) FROM events"
    ).fetchall()


@pytest.mark.parametrize("wrong", ["\ud800", 2**64])
@pytest.mark.parametrize("is_own", [False, True])
def test_what_json_does_not_hold_is_refused(wrong: Any, is_own: bool) -> None:
    """A row that would be stored as something else is not stored."""
    made = Commit()
    made.events.add((1, wrong if is_own else 2), (3 if is_own else wrong,))

    with pytest.raises(TypeError):
        made.values()


def test_row_that_breaks_a_rule_takes_back_all(db: sqlite3.Connection) -> None:
    """A commit is whole or nothing, whichever of its rows is wrong."""
    some(db)
    made = Commit()
    settle(made, 1)
    made.health.append((1, 5, None, None, None, None))
    add_event(made, 4)
    add_delivery(made, 4, 99)

    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        write(db, made)

    assert not db.in_transaction
    assert [("pending", 3, 0)] == db.execute(
        "SELECT state, (SELECT count(*) FROM events), (SELECT count(*) FROM health) FROM deliveries WHERE seq = 1"
    ).fetchall()


@pytest.mark.parametrize(
    ("state", "due_at", "step", "expected"),
    [
        pytest.param("pending", 7, 0, "delivered", id="as it was"),
        pytest.param("pending", 8, 0, "pending", id="rescheduled"),
        pytest.param("pending", 7, 1, "pending", id="with a schedule that began anew"),
        pytest.param("cancelled", 7, 0, "cancelled", id="cancelled"),
    ],
)
def test_settling_expects_what_was_taken(db: sqlite3.Connection, state: str, due_at: int, step: int, expected: str) -> None:
    """What somebody else made of a delivery stays, and its neighbours are settled all the same."""
    some(db)
    finished_at = None if state == "pending" else 1
    db.execute(
        "UPDATE deliveries SET state = ?, due_at = ?, step = ?, finished_at = ? WHERE seq = 2",
        (state, due_at, step, finished_at),
    )
    made = Commit()
    settle(made, 1, 2, 3, label="label")
    write(db, made)

    assert [("delivered",), (expected,), ("delivered",)] == db.execute("SELECT state FROM deliveries ORDER BY seq").fetchall()
    assert [(7, 1, 1, "auto", 9, "label")] == db.execute(
        "SELECT due_at, attempt_count, step, trigger, finished_at, failed_label FROM deliveries WHERE seq = 3"
    ).fetchall()


def attempt(made: Commit, delivery: int, outcome: str, error_code: str | None = None) -> None:
    """The first attempt of a delivery."""
    request = made.place(b'["POST","https://x.example",[["a","b"]],"standard",7]')
    answered = (made.place(b'[[["c","d"]],false]'), made.place(b"body"))
    made.attempts.add((delivery, 2, 3, request), (1, "auto", outcome, None, error_code, None, *answered, None))


@pytest.mark.parametrize(
    ("before", "error_code", "left"),
    [
        ("interrupted", "local_network", 1),
        ("interrupted", "internal_error", 2),
        ("interrupted", None, 1),
        ("refused", None, 2),
    ],
)
def test_interrupted_attempts_run_together(db: sqlite3.Connection, before: str, error_code: str | None, left: int) -> None:
    """Only an interrupted attempt right before makes room, and not one that was our own fault."""
    some(db)
    made = Commit()
    attempt(made, 1, before, error_code)
    attempt(made, 2, "interrupted")
    write(db, made)
    made = Commit()
    made.interrupted.append(1)
    attempt(made, 1, "interrupted")
    write(db, made)

    assert [(left, 1)] == db.execute("SELECT sum(delivery = 1), sum(delivery = 2) FROM attempts").fetchall()
    assert [('["POST","https://x.example",[["a","b"]],"standard",7]', '[[["c","d"]],false]', b"body")] == db.execute(
        "SELECT request, response, body FROM attempts WHERE delivery = 2"
    ).fetchall()


def test_changed_subscription_is_replaced_and_a_deleted_one_stays(db: sqlite3.Connection) -> None:
    """Settings, secrets, state and version are the new ones, unless the subscription is gone."""
    db.execute("INSERT INTO subscriptions VALUES (2, 's2', 't', x'00', x'', 'active', NULL, 1, 2, 3, 4)")
    made = Commit()
    made.changed += [(seq, made.place(b"settings"), made.place(b"sealed"), "disabled", "gone", 2, 9) for seq in (1, 2)]
    write(db, made)

    assert [(b"settings", b"sealed", "disabled", "gone", 2, 9), (b"\0", b"", "active", None, 1, 3)] == db.execute(
        "SELECT settings, sealed, state, disabled_reason, version, updated_at FROM subscriptions ORDER BY seq"
    ).fetchall()


def test_counters_are_put_in_or_replaced(db: sqlite3.Connection) -> None:
    """A subscription has one row of counters, the newest."""
    for count in (1, 2):
        made = Commit()
        made.health.append((1, count, 3, 4, 5, 6))
        write(db, made)

    assert [(1, 2, 3, 4, 5, 6)] == db.execute("SELECT * FROM health").fetchall()


def test_spent_key_makes_room(db: sqlite3.Connection) -> None:
    """Of the keys that are used again, those whose time is over go; others stay and are in the way."""
    scope = ("t", "POST", "/v1/events")
    for key, at in (("old", 10), ("young", 20), ("other", 10)):
        made = Commit()
        made.keys.append((*scope, key, made.place(b"d"), 202, made.place(b"first"), at))
        write(db, made)
    made = Commit()
    made.spent_keys += [(*scope, "old", 15), (*scope, "young", 15)]
    made.keys.append((*scope, "old", made.place(b"e"), 202, made.place(b"second"), 30))
    write(db, made)

    assert [("old", b"e", b"second", 30), ("other", b"d", b"first", 10), ("young", b"d", b"first", 20)] == db.execute(
        "SELECT key, digest, answer, created_at FROM idempotency_keys ORDER BY key"
    ).fetchall()


def test_counts_add_up(db: sqlite3.Connection) -> None:
    """What ended alike in the same hour is one row, whose count grows; what differs in any column is another."""
    alike = (1, 3_600_000, "delivered", "", 200, "", 7)
    others = [(1, 7_200_000, *alike[2:]), (1, 3_600_000, "failed", "gone", 410, "http_status", 7), (*alike[:6], 8)]
    for count in (2, 3):
        made = Commit()
        made.statistics += [(*each, count) for each in (alike, *others)]
        write(db, made)

    assert (
        sorted((*each, 5) for each in (alike, *others))
        == db.execute("SELECT * FROM statistics ORDER BY 1, 2, 3, 7").fetchall()
    )


def test_commit_reads_no_whole_table(db: sqlite3.Connection) -> None:
    """Each step of the trigger finds its rows by a key."""
    body = commit.SCRIPT.partition("\nBEGIN\n")[2].partition("\nEND;")[0]
    steps = [re.sub(r"\bnew\.[a-z_]+", "'[]'", step) for step in body.split(";\n") if step.strip()]
    plans = [[row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {step}")] for step in steps]

    assert 14 == len(plans)
    tables = ("deliveries", "attempts", "exchanges", "subscriptions", "idempotency_keys", "events", "health", "statistics")
    assert [] == [step for plan in plans for step in plan if step.startswith("SCAN ") and step.split()[1] in tables]
    assert "SEARCH deliveries USING INTEGER PRIMARY KEY (rowid=?)" in plans[0]
    assert "SEARCH idempotency_keys USING PRIMARY KEY (tenant=? AND method=? AND path=? AND key=?)" in plans[11]


async def test_connection_is_prepared() -> None:
    """What `prepare` does lets the statement run, is of this connection alone, and has no file."""
    async with aiosqlite.connect(":memory:", isolation_level=None) as db:
        for script in migrations():
            await db.executescript(script)
        await commit.prepare(db)
        await db.execute(sql.commit, Commit().values())

        assert [] == list(await db.execute_fetchall("SELECT name FROM main.sqlite_schema WHERE name LIKE '%commit%'"))
        assert [(2,)] == list(await db.execute_fetchall("PRAGMA temp_store"))
