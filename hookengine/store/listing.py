"""
Pages of events and deliveries out of millions.

What is asked for is mostly among the newest, so these are looked through first. A filter that few of them pass is answered by
an index of what it names; a time by the spans that upkeep has made (see `changes.span`), which bound the keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec import Struct

from hookengine.store import rows
from hookengine.store.queries import sql

if TYPE_CHECKING:
    from sqlite3 import Row

    import aiosqlite

BEFORE_ALL = (1 << 63) - 1  # a key above every row's: the first page starts there
NEWEST = 200  # rows that are looked through before an index of what is asked for, in a third of a millisecond
MANY = 5_000  # pending deliveries of a subscription that are not sorted: its newest rows are mostly among them

Found = tuple[list["Row"], int | None]  # a page, and the key to go on from

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


async def events(db: aiosqlite.Connection, part: Slice, *, type: str | None) -> Found:
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
    db: aiosqlite.Connection, part: Slice, *, state: str | None, subscription: int | None, event: int | None
) -> Found:
    """A page of deliveries; *subscription* and *event* are keys."""
    if event is not None:
        values = {"tenant": part.tenant, "state": state, "event": event, "subscription": subscription}
        return cut(await _rows(db, sql.list_deliveries_of_event, _values(part, _Range(0, part.before, 0)) | values), part)
    keys = await _range(db, sql.range_of_deliveries, part)
    values = _values(part, keys) | {"state": state}
    if subscription is not None:
        return await _of_subscriptions(db, part, values, [subscription])
    if part.tenant is not None:
        found = await _rows(db, sql.list_deliveries, values | {"first": max(keys.first, keys.newest - NEWEST)})
        if len(found) > part.limit:
            return cut(found, part)
        theirs = await _rows(db, sql.subscriptions_of_tenant, {"tenant": part.tenant})
        return await _of_subscriptions(db, part, values, [row["seq"] for row in theirs])
    if state is None or state == "delivered":  # most rows are
        return cut(await _rows(db, sql.list_deliveries, values), part)
    stored = _STORED.get(state, ())
    return await _merged(db, part, [(sql.list_deliveries_in_state, values | {"stored": each}) for each in stored])


async def _of_subscriptions(db: aiosqlite.Connection, part: Slice, values: dict[str, Any], subscriptions: list[int]) -> Found:
    wanted = values | {"subscriptions": rows.json_text(subscriptions)}
    asked = []
    for stored in _STORED.get(values["state"], ()):
        if stored in ("failed", "cancelled"):
            statement = sql.list_deliveries_given_up
        elif stored == "pending" and not await _are_many(db, subscriptions):
            statement = sql.list_deliveries_waiting
        else:
            statement = sql.list_deliveries_of_subscriptions
        asked.append((statement, wanted | {"stored": stored}))
    return await _merged(db, part, asked)


async def _merged(db: aiosqlite.Connection, part: Slice, asked: list[tuple[str, dict[str, Any]]]) -> Found:
    found: dict[int, Row] = {}  # by key: one that is cancelled between two reads comes twice
    for statement, values in asked:
        found |= {row["seq"]: row for row in await _rows(db, statement, values)}
    return cut([found[seq] for seq in sorted(found, reverse=True)], part)


async def _are_many(db: aiosqlite.Connection, subscriptions: list[int]) -> bool:
    """Whether one subscription, if it is one, has so many pending deliveries that they are better not sorted."""
    if len(subscriptions) != 1:
        return False
    (row,) = await _rows(db, sql.count_pending, (*subscriptions, MANY))
    return bool(row["count"] >= MANY)


async def _kinds(db: aiosqlite.Connection, tenant: str | None, type: str | None) -> list[tuple[str, str]]:
    """The tenants and types of the events that are asked for; of each there may be some."""
    if tenant is None:
        found = [(row["tenant"], str(type)) for row in await _rows(db, sql.tenants_with_events, {})]
    elif type is None:
        found = [(tenant, row["type"]) for row in await _rows(db, sql.types_of_tenant, {"tenant": tenant})]
    else:
        found = [(tenant, type)]
    return [kind for kind in found if all(isinstance(each, str) for each in kind)]  # nobody asks for what is none


async def _range(db: aiosqlite.Connection, statement: str, part: Slice) -> _Range:
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


async def _rows(db: aiosqlite.Connection, statement: str, values: Any) -> list[Row]:
    return list(await db.execute_fetchall(statement, values))


def cut(found: list[Row], part: Slice) -> Found:
    """The page of *found*, which has one row more where there is a next page."""
    return found[: part.limit], found[part.limit - 1]["seq"] if len(found) > part.limit else None
