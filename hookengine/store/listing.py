"""
Pages of events and deliveries out of millions.

What is asked for is mostly among the newest, so these are looked through first. A filter that few of them pass is answered by
an index of what it names; a time by the spans that upkeep has made (see `upkeep.span`), which bound the keys. What has to
walk through all rows does so in pieces, so that others are read between them.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec import Struct

from hookengine.store import rows
from hookengine.store.queries import sql

if TYPE_CHECKING:
    from sqlite3 import Row

    from hookengine.store.reader import Reading

BEFORE_ALL = (1 << 63) - 1  # a key above every row's: the first page starts there
NEWEST = 200  # rows that are looked through before an index of what is asked for, in a third of a millisecond
MANY = 5_000  # pending deliveries of subscriptions that are not sorted: the newest rows are mostly among them
PIECE = 10_000  # keys that a walk goes through at once, at least: in some 10 ms where it has to look at each
QUICK = 0.005  # s

Found = tuple[list["Row"], int | None]  # a page, and the key to go on from
_Asked = tuple[str, dict[str, Any]]  # a statement and its values
_WALKS = (sql.list_deliveries_in_state, sql.list_deliveries_of_subscriptions)

# How a state that is shown may be stored; see the view.
_STORED: dict[str | None, tuple[str | None, ...]] = {
    None: (None,),
    "delivered": ("delivered",),
    "pending": ("pending",),
    "held": ("pending",),
    "failed": ("failed",),
    "cancelled": ("pending", "cancelled"),
}


class Slice(Struct, frozen=True, kw_only=True, gc=False):
    """Which part of a list: from the newest row before `before` on, `limit` of them; times are creation times."""

    limit: int
    before: int = BEFORE_ALL
    tenant: str | None = None
    since: int | None = None
    until: int | None = None


class _Range(NamedTuple):
    """The keys among which is what was asked for, and the newest row of them."""

    first: int
    before: int
    newest: int


async def events(db: Reading, part: Slice, *, type: str | None) -> Found:
    """A page of events."""
    keys = await _range(db, sql.range_of_events, part)
    values = _values(part, keys) | {"type": type}
    if type is None and part.tenant is None:
        return cut(await _rows(db, sql.list_events, values), part)
    newest = values | {"first": max(keys.first, keys.newest - NEWEST)}
    found = await _rows(db, sql.list_events, newest)
    if len(found) <= part.limit:
        kinds = await _kinds(db, part.tenant, type)
        found = await _rows(db, sql.list_events_of_kinds, values | {"kinds": rows.json_text(kinds)})
    return cut(found, part)


async def deliveries(
    db: Reading, part: Slice, *, state: str | None, subscription: int | None, events: list[int] | None
) -> Found:
    """A page of deliveries; *subscription* and *events* are keys."""
    if events is not None:
        values = _values(part, _Range(0, part.before, 0)) | {"state": state, "subscription": subscription}
        return await _merged(db, part, [(sql.list_deliveries_of_event, values | {"event": event}) for event in events])
    keys = await _range(db, sql.range_of_deliveries, part)
    values = _values(part, keys) | {"state": state, "before": min(keys.before, keys.newest + 1)}
    if subscription is not None:
        return await _of_subscriptions(db, part, values, [subscription])
    if part.tenant is not None:
        found = await _rows(db, sql.list_deliveries, values | {"first": max(keys.first, keys.newest - NEWEST)})
        if len(found) > part.limit:
            return cut(found, part)
        theirs = await _rows(db, sql.subscriptions_of_tenant, {"tenant": part.tenant})
        return await _of_subscriptions(db, part, values, [row["seq"] for row in theirs])
    if state is None or state == "delivered":  # most rows are
        return cut(await _walk(db, sql.list_deliveries, values), part)
    asked = []
    for stored in _STORED.get(state, ()):
        if stored == "pending" and state != stored:
            asked += await _of_those_that_wait(db, values)
        else:
            asked.append((sql.list_deliveries_in_state, values | {"stored": stored}))
    return await _merged(db, part, asked)


async def _of_subscriptions(db: Reading, part: Slice, values: dict[str, Any], subscriptions: list[int]) -> Found:
    wanted = values | {"subscriptions": rows.json_text(subscriptions)}
    asked = []
    for stored in _STORED.get(values["state"], ()):
        if stored in ("failed", "cancelled"):
            statement = sql.list_deliveries_given_up
        elif stored == "pending" and await _pending(db, wanted) < MANY:
            statement = sql.list_deliveries_waiting
        else:
            statement = sql.list_deliveries_of_subscriptions
        asked.append((statement, wanted | {"stored": stored}))
    return await _merged(db, part, asked)


async def _of_those_that_wait(db: Reading, values: dict[str, Any]) -> list[_Asked]:
    """Of what waits, and reads as held or cancelled: few subscriptions are disabled, or just deleted."""
    found = await _rows(db, sql.subscriptions_that_wait, {"deleted": values["state"] == "cancelled"})
    wanted = values | {"subscriptions": rows.json_text([row["seq"] for row in found])}
    count = await _pending(db, wanted)
    if count == 0:
        return []
    if count < MANY:
        return [(sql.list_deliveries_waiting, wanted)]
    return [(sql.list_deliveries_in_state, values | {"stored": "pending"})]


async def _merged(db: Reading, part: Slice, asked: list[_Asked]) -> Found:
    found: dict[int, Row] = {}  # by key: one that is cancelled between two reads comes twice
    for statement, values in asked:
        # By its index each of the others touches little more than it finds.
        is_walk = statement in _WALKS and values["stored"] is not None
        look = _walk if is_walk else _rows
        found |= {row["seq"]: row for row in await look(db, statement, values)}
    return cut([found[seq] for seq in sorted(found, reverse=True)], part)


async def _walk(db: Reading, statement: str, values: dict[str, Any]) -> list[Row]:
    """What *statement* finds, newest first, in pieces one after the other: larger ones where there is little in them."""
    loop = asyncio.get_running_loop()
    found: list[Row] = []
    before, size = values["before"], PIECE
    while True:
        first, began = max(values["first"], before - size), loop.time()
        piece = {"first": first, "before": before, "limit": values["limit"] - len(found)}
        found += await _rows(db, statement, values | piece)
        if len(found) >= values["limit"] or first <= values["first"]:
            return found
        before = first
        size = size * 2 if loop.time() - began < QUICK else max(PIECE, size // 2)


async def _pending(db: Reading, wanted: dict[str, Any]) -> int:
    """How many deliveries of these subscriptions wait; MANY stands for that and more."""
    (row,) = await _rows(db, sql.count_pending, {"subscriptions": wanted["subscriptions"], "most": MANY})
    return int(row["count"])


async def _kinds(db: Reading, tenant: str | None, type: str | None) -> list[tuple[str, str]]:
    """The tenants and types of the events that are asked for; of each there may be some."""
    if tenant is None:
        found = [(row["tenant"], str(type)) for row in await _rows(db, sql.tenants_with_events, {})]
    elif type is None:
        found = [(tenant, row["type"]) for row in await _rows(db, sql.types_of_tenant, {"tenant": tenant})]
    else:
        found = [(tenant, type)]
    # Nobody asks for what is no text, and nothing has a NUL in it, where a text would end in SQLite's JSON.
    return [kind for kind in found if all(isinstance(each, str) and "\0" not in each for each in kind)]


async def _range(db: Reading, statement: str, part: Slice) -> _Range:
    (row,) = await _rows(db, statement, {"before": part.before, "since": part.since, "until": part.until})
    return _Range(*row)


def _values(part: Slice, keys: _Range) -> dict[str, Any]:
    return {
        "first": keys.first,
        "before": keys.before,
        "tenant": part.tenant,
        "since": part.since,
        "until": part.until,
        "limit": part.limit + 1,  # one more tells whether there is a next page
    }


async def _rows(db: Reading, statement: str, values: Any) -> list[Row]:
    return list(await db.execute_fetchall(statement, values))


def cut(found: list[Row], part: Slice) -> Found:
    """The page of *found*, which has one row more where there is a next page."""
    return found[: part.limit], found[part.limit - 1]["seq"] if len(found) > part.limit else None
