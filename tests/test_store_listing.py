"""Pages out of many rows: what is asked for is found without a walk through the others, and times by their spans."""

from __future__ import annotations

from contextlib import asynccontextmanager
from itertools import cycle, product
from typing import TYPE_CHECKING, Any

import pytest
from storage import DAY, DELIVERED, HOUR, NO_ANSWER, NOW, Opened, SetClock, drafts, opened, result

from hookengine.models import SubscriptionState
from hookengine.store import BEFORE_ALL, Slice, changes, listing, upkeep

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from hookengine.models import Outcome
    from hookengine.store import Transaction

ROWS = 20_000
INSTRUCTIONS = 60_000  # of SQLite's machine, which a walk through all rows takes three times

_EVENTS = """
WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < :rows)
INSERT INTO events (seq, id, tenant, type, data, accepted_at, occurred_at, deliveries)
SELECT n, 'evt_' || n, iif(n % 5000 = 7, 'small', 'large'), iif(n % 5000 = 9, 'rare', 'type.' || n % 7), '{}',
       :since + n * 1000, :since, 1
FROM n
"""
_DELIVERIES = """
WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < :rows)
INSERT INTO deliveries (seq, id, event, subscription, state, priority, due_at, created_at, finished_at)
SELECT n, 'dlv_' || n, n, iif(n % 5000 = 7, 2, iif(n % 5000 < 11, 3, 1)),
       iif(n % 5000 = 10, 'pending', iif(n % 5000 = 3, 'failed', 'delivered')),
       1, :since, :since + n * 1000, iif(n % 5000 = 10, NULL, :since)
FROM n
"""


@asynccontextmanager
async def full(folder: Path) -> AsyncIterator[Opened]:
    """A store with many events and deliveries, most of one tenant, one subscription, and delivered; put into spans."""

    async def fill(tx: Transaction) -> None:
        for statement in (_EVENTS, _DELIVERIES):
            await tx.run(statement, {"rows": ROWS, "since": NOW - DAY})

    async with opened(folder, clock=SetClock(NOW)) as place:
        for tenant in ("large", "small", "large"):
            await place.subscribe(tenant=tenant)
        await place.store.writer.change(fill)
        while await place.store.writer.change(upkeep.span):
            pass
        yield place


TIMES: tuple[dict[str, int], ...] = (
    {},
    {"until": NOW - DAY + 100_000},
    {"since": NOW},
    {"since": NOW - DAY + 3_000_000, "until": NOW - DAY + 3_000_000 + 60_000},
)
STATES = (None, "pending", "delivered", "failed", "cancelled", "held")
OF: tuple[dict[str, Any], ...] = ({}, {"tenant": "small"}, {"tenant": "none"}, {"subscription": 3})
OF_DELIVERIES = [{"state": state, **of} for state, of in product(STATES, OF)]
OF_EVENTS: list[dict[str, Any]] = [
    {"tenant": "small"},
    {"tenant": "none"},
    {"type": "rare"},
    {"type": "none"},
    {"tenant": "small", "type": "rare"},
]


def named(filters: dict[str, Any]) -> str:
    """What a test is called."""
    return ",".join(f"{name}={value}" for name, value in filters.items()) or "all"


async def cost(place: Opened, kind: str, part: dict[str, Any], more: dict[str, Any]) -> tuple[int, list[Any]]:
    """What a page takes, in instructions of SQLite's machine, and the page."""
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    db = place.store.reader._db.connection
    await db.set_progress_handler(count, 100)
    found, _ = await getattr(place.store.reader, kind)(Slice(limit=50, **part), **more)
    await db.set_progress_handler(None, 0)  # type: ignore[arg-type]  # sqlite3 takes None
    return steps * 100, found


async def test_no_list_walks_through_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a page is filtered by, and however few rows there are of that, it costs no more than some of the rows."""
    monkeypatch.setattr(upkeep, "SPAN", 500)
    costs: dict[str, int] = {}
    async with full(tmp_path) as place:
        for times in TIMES:
            for filters in OF_DELIVERIES:
                part = {name: filters[name] for name in filters.keys() & {"tenant"}}
                more = {name: filters[name] for name in filters.keys() - {"tenant"}}
                costs[f"deliveries {named(filters | times)}"], _ = await cost(place, "deliveries", part | times, more)
            for filters in OF_EVENTS:
                part = {name: filters[name] for name in filters.keys() & {"tenant"}}
                more = {name: filters[name] for name in filters.keys() - {"tenant"}}
                costs[f"events {named(filters | times)}"], _ = await cost(place, "events", part | times, more)
        monkeypatch.setattr(listing, "NEWEST", ROWS)
        walk, _ = await cost(place, "deliveries", {"tenant": "none"}, {})

    assert {} == {name: steps for name, steps in costs.items() if steps > INSTRUCTIONS}
    assert walk > 3 * INSTRUCTIONS


@pytest.mark.parametrize("times", TIMES, ids=named)
async def test_filtered_pages_hold_what_there_is(tmp_path: Path, times: dict[str, int]) -> None:
    """By tenant, type, state and time, alone and together, pages hold the rows that a look at all of them finds."""
    since, until = times.get("since", 0), times.get("until", BEFORE_ALL)
    async with full(tmp_path) as place:
        for tenant, type_ in (("small", None), (None, "rare"), ("large", "rare"), ("small", "type.0"), ("large", "type.3")):
            found, _ = await place.store.reader.events(Slice(limit=50, tenant=tenant, **times), type=type_)
            expected = place.rows(
                "SELECT id FROM events WHERE tenant = ifnull(?, tenant) AND type = ifnull(?, type)"
                " AND accepted_at >= ? AND accepted_at < ? ORDER BY seq DESC LIMIT 50",
                *(tenant, type_, since, until),
            )
            assert expected == [(event.id,) for event in found]
        for tenant, subscription, state in product((None, "small", "large"), (None, 3), STATES[:4]):
            went, _ = await place.store.reader.deliveries(
                Slice(limit=50, tenant=tenant, **times), state=state, subscription=subscription
            )
            expected = place.rows(
                "SELECT d.id FROM deliveries AS d JOIN events AS e ON e.seq = d.event WHERE e.tenant = ifnull(?, e.tenant)"
                " AND d.state = ifnull(?, d.state) AND d.subscription = ifnull(?, d.subscription)"
                " AND d.created_at >= ? AND d.created_at < ? ORDER BY d.seq DESC LIMIT 50",
                *(tenant, state, subscription, since, until),
            )
            assert expected == [(delivery.id,) for delivery in went]


async def test_many_that_wait_are_not_sorted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a subscription with a backlog the newest are read as they stand, and the pages are the same."""
    async with opened(tmp_path) as place:
        made = await place.subscribe()
        waiting = [each.id for each in await place.deliver(*drafts(30))][::-1]
        for most in (listing.MANY, 10):
            monkeypatch.setattr(listing, "MANY", most)
            for state in ("pending", "held"):
                found, _ = await place.store.reader.deliveries(Slice(limit=50), state=state, subscription=made.seq)
                assert (waiting if state == "pending" else []) == [each.id for each in found]
        await place.edit(made, state=SubscriptionState.DISABLED)
        found, _ = await place.store.reader.deliveries(Slice(limit=50), state="held", subscription=made.seq)
        assert waiting == [each.id for each in found]


OUTCOMES: tuple[Outcome, ...] = (DELIVERED, NO_ANSWER)


@pytest.mark.parametrize("many", [listing.MANY, 20])
@pytest.mark.parametrize("piece", [listing.PIECE, 7, 1])
async def test_pieces_of_a_walk_make_the_same_pages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int, many: int
) -> None:
    """However a list is walked through, it has what reads as what was asked for, newest first, once."""
    monkeypatch.setattr(listing, "PIECE", piece)
    monkeypatch.setattr(listing, "MANY", many)
    async with opened(tmp_path) as place:
        made = [await place.subscribe() for _ in range(5)]
        for _ in range(3):
            _, *rest = await place.deliver(*drafts(3))
            await place.record(*(result(each, outcome) for each, outcome in zip(rest, cycle(OUTCOMES), strict=False)))
        for disabled in made[1:3]:
            await place.edit(disabled, state=SubscriptionState.DISABLED)
        for deleted in made[3:5]:
            await place.store.writer.change(changes.delete_subscription(deleted.id, None))
        for state, limit in product(STATES, (1, 4, 50)):
            pages: list[Any] = []
            before: int | None = BEFORE_ALL
            while before is not None:
                found, before = await place.store.viewer.deliveries(Slice(limit=limit, before=before), state=state)
                pages += found
            expected = place.rows("SELECT id FROM deliveries_shown WHERE state = ifnull(?, state) ORDER BY seq DESC", state)
            assert expected == [(each.id,) for each in pages]
            assert expected or state == "failed"


# Spans.


async def test_spans_hold_where_the_clock_went_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where later rows have earlier times, those of a time are found all the same, in spans and behind them."""
    monkeypatch.setattr(upkeep, "SPAN", 4)
    async with opened(tmp_path) as place:
        await place.subscribe()
        for minutes in (0, 10, 20, 30, 5, 15, 25, 0, 40, 12):
            place.clock.time = NOW + minutes * 60_000
            await place.publish(*drafts(3))
        while await place.store.writer.change(upkeep.span):
            pass
        assert [("deliveries", 28), ("events", 28)] == place.rows("SELECT kind, max(last) FROM spans GROUP BY 1 ORDER BY 1")
        for since, until in product([None, *range(0, 45, 5)], repeat=2):
            times = {
                name: NOW + minutes * 60_000 for name, minutes in (("since", since), ("until", until)) if minutes is not None
            }
            expected = place.rows(
                "SELECT id FROM events WHERE accepted_at >= ? AND accepted_at < ? ORDER BY seq DESC",
                *(times.get("since", 0), times.get("until", BEFORE_ALL)),
            )
            found, _ = await place.store.reader.events(Slice(limit=50, **times))
            assert expected == [(event.id,) for event in found]
            went, _ = await place.store.reader.deliveries(Slice(limit=50, **times))
            assert [id_ for (id_,) in expected] == [delivery.event for delivery in went]


async def test_pruned_keys_leave_no_span(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that are free again after a restart are not known by the times of rows that are gone."""
    monkeypatch.setattr(upkeep, "SPAN", 2)
    async with opened(tmp_path) as place:  # nobody wants these events, so they go by themselves
        await place.publish(*drafts(6))
        assert 1 == await place.store.writer.change(upkeep.span)
        place.clock.time += 2 * HOUR
        while await place.store.writer.change(upkeep.prune(HOUR)):
            pass
        assert [] == place.rows("SELECT * FROM spans")
    async with opened(tmp_path, clock=SetClock(NOW + DAY)) as place:
        await place.publish(*drafts(3))
        assert [(1,), (2,), (3,)] == place.rows("SELECT seq FROM events")
        assert 1 == await place.store.writer.change(upkeep.span)
        found, _ = await place.store.reader.events(Slice(limit=50, since=NOW + DAY))
        assert 3 == len(found)
