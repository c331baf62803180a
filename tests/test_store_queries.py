"""The SQL: all of it is found, used, and answered from an index."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hookengine.store import queries
from hookengine.store.commit import SCRIPT
from hookengine.store.queries import migrations, sql

if TYPE_CHECKING:
    from collections.abc import Iterator

STORE = Path(queries.__file__).parent
TEXT = (STORE / "queries.sql").read_text()
NAMES = sorted(vars(sql))

# These walk a table in the order of its key and stop when the page is full; they filter what they pass.
WALKS = {"list_events", "list_deliveries"}
# These put together what an index has of each subscription, tenant or type; what they sort is a page of each.
MERGES = {
    "list_events_of_kinds",
    "list_deliveries_of_subscriptions",
    "list_deliveries_given_up",
    "list_deliveries_waiting",
}
# Read once, at the start, or as few as the subscriptions, the replays, the tenants that use one event id, or the hours.
SMALL = {
    "subscriptions",
    "last_keys",
    "cancelling",
    "enabling",
    "show_event",
    "newest_event",
    "event_to_replay",
    "next_replay",
    "statistics_of",
}
# What `hookengine db` counts for a person who waits for it.
COUNTS = {"count_deliveries", "count_subscriptions", "count_history"}
LARGE = re.compile(r"SCAN (deliveries|events|attempts|idempotency_keys|d|e|k)\b")
NAMED = re.compile(r":([a-z_]+)")


@pytest.fixture(scope="module")
def schema() -> Iterator[sqlite3.Connection]:
    """An empty database of the present version."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        for script in migrations():
            db.executescript(script)
        db.executescript(SCRIPT)
        yield db


def values(statement: str) -> Any:
    """Something for each parameter of *statement*: a plan does not depend on it."""
    names = NAMED.findall(statement)
    return dict.fromkeys(names, 1) if names else ("[1]",) * statement.count("?")


def plan(db: sqlite3.Connection, name: str) -> list[str]:
    """How SQLite would run the statement *name*; whether an index covers all columns depends on the version."""
    statement = getattr(sql, name)
    return [row[3].replace("COVERING ", "") for row in db.execute(f"EXPLAIN QUERY PLAN {statement}", values(statement))]


def test_every_statement_is_found() -> None:
    """No block of the file is passed over, and none has another's text."""
    assert sorted(re.findall(r"^-- ([a-z_]+)$", TEXT, re.MULTILINE)) == NAMES
    assert TEXT.count(";\n") == len(NAMES)
    assert not [name for name in NAMES if ";" in getattr(sql, name) or "--" in getattr(sql, name)]


def test_every_statement_is_used() -> None:
    """What the store asks for is there, and nothing else is."""
    asked = {name for path in STORE.glob("*.py") for name in re.findall(r"\bsql\.([a-z_]+)", path.read_text())}

    assert NAMES == sorted(asked - {"read_text"})


@pytest.mark.parametrize("name", NAMES)
def test_statement_fits_the_schema(schema: sqlite3.Connection, name: str) -> None:
    """Every statement names tables, columns and indexes that exist."""
    assert isinstance(plan(schema, name), list)


@pytest.mark.parametrize("name", sorted(set(NAMES) - WALKS - MERGES - SMALL - COUNTS))
def test_no_statement_reads_a_whole_table(schema: sqlite3.Connection, name: str) -> None:
    """Events, deliveries, attempts and keys are found by an index and come in its order, however many there are."""
    steps = plan(schema, name)

    assert [] == [step for step in steps if LARGE.match(step) or "TEMP B-TREE" in step or "AUTOMATIC" in step]


@pytest.mark.parametrize("name", sorted(MERGES))
def test_merges_read_no_whole_table(schema: sqlite3.Connection, name: str) -> None:
    """Whatever is put together, it comes from an index."""
    assert [] == [step for step in plan(schema, name) if LARGE.match(step) or "AUTOMATIC" in step]


@pytest.mark.parametrize("name", sorted(WALKS))
def test_lists_walk_down_the_key(schema: sqlite3.Connection, name: str) -> None:
    """A page starts at its cursor and needs no sorting."""
    steps = plan(schema, name)

    assert re.match(r"SEARCH (d|events) USING INTEGER PRIMARY KEY \(rowid>\? AND rowid<\?\)", steps[0])
    assert [] == [step for step in steps if LARGE.match(step) or "TEMP B-TREE" in step]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("refill", "SEARCH deliveries USING INDEX deliveries_due (subscription=? AND place=? AND priority=? AND due_at>?)"),
        (
            "waiting_for_retry",
            "SEARCH deliveries USING INDEX deliveries_due (subscription=? AND place=? AND priority=? AND due_at>?)",
        ),
        ("heads", "SEARCH deliveries USING INDEX deliveries_due (subscription=? AND place=? AND priority=?)"),
        ("known_events", "SEARCH e USING INDEX sqlite_autoindex_events_1 (id=? AND tenant=?)"),
        ("known_keys", "SEARCH k USING PRIMARY KEY (tenant=? AND method=? AND path=? AND key=?)"),
        ("list_deliveries_of_event", "SEARCH d USING INDEX deliveries_of_event (event=? AND rowid<?)"),
        (
            "list_deliveries_of_subscriptions",
            "SEARCH d USING INDEX deliveries_of_subscription (subscription=? AND seq>? AND seq<?)",
        ),
        ("list_deliveries_given_up", "SEARCH d USING INDEX deliveries_given_up (subscription=? AND seq>? AND seq<?)"),
        ("list_deliveries_waiting", "SEARCH d USING INDEX deliveries_due (subscription=?)"),
        ("list_deliveries_in_state", "SEARCH d USING INDEX deliveries_in_state (state=? AND seq>? AND seq<?)"),
        ("list_events_of_kinds", "SEARCH events USING INDEX events_of_type (tenant=? AND type=? AND rowid>? AND rowid<?)"),
        ("subscriptions_of_tenant", "SEARCH subscriptions USING INDEX subscriptions_of_tenant (tenant=?)"),
        ("finished_before", "SEARCH deliveries USING INDEX deliveries_finished (finished_at<?)"),
        ("prune_attempts", "SEARCH attempts USING INDEX attempts_of_delivery (delivery=?)"),
        ("prune_unwanted_events", "SEARCH e USING INDEX events_unwanted (accepted_at<?)"),
        ("prune_keys", "SEARCH idempotency_keys USING INDEX idempotency_keys_by_age (created_at<?)"),
        ("replayable", "SEARCH d USING INDEX deliveries_of_subscription (subscription=? AND seq>? AND seq<?)"),
        ("replayable", "SEARCH later USING INDEX deliveries_replayed (event=? AND subscription=? AND seq>?)"),
        ("replayable_given_up", "SEARCH d USING INDEX deliveries_given_up (subscription=? AND seq>? AND seq<?)"),
        ("deliveries_to", "SEARCH d USING INDEX deliveries_of_event (event=?)"),
        ("deleted_receivers", "SEARCH deliveries USING INDEX deliveries_of_event (event=?)"),
        ("prune_statistics", "SEARCH statistics USING INDEX statistics_by_hour (hour<?)"),
        ("statistics_of", "SEARCH statistics USING PRIMARY KEY (subscription=? AND hour>? AND hour<?)"),
        ("count_pending", "SEARCH d USING INDEX deliveries_due (subscription=?)"),
        ("subscriptions_that_wait", "SEARCH deliveries USING INDEX deliveries_due (subscription=?)"),
        ("expiring", "SEARCH d USING INDEX deliveries_expiring (expires_at<?)"),
        ("count_finished", "SEARCH deliveries USING INDEX deliveries_finished (finished_at<?)"),
        ("oldest_pending", "SEARCH d USING INDEX deliveries_in_state (state=?)"),
        ("turn_back", "SEARCH d USING INDEX deliveries_in_state (state=?)"),
        ("cancel_some", "SEARCH deliveries USING INDEX deliveries_due (subscription=?)"),
    ],
)
def test_statement_uses_its_index(schema: sqlite3.Connection, name: str, expected: str) -> None:
    """The statements that run while work waits seek in the index that was made for them."""
    assert expected in plan(schema, name)


def test_migrations_are_numbered() -> None:
    """The scripts are taken in the order of their names, which count from 1."""
    names = sorted(path.name for path in (STORE / "migrations").glob("*.sql"))

    assert list(range(1, len(names) + 1)) == [int(name[:4]) for name in names]
    assert [(STORE / "migrations" / name).read_text() for name in names] == migrations()
