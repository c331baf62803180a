"""Lines: with fifo, the deliveries of one subscription and ordering key, of which the head alone is in the lane."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hookengine.store import rows
from hookengine.store.intake import line_of
from hookengine.store.queries import sql

if TYPE_CHECKING:
    from collections.abc import Iterable

    import aiosqlite

    from hookengine.matching import Index
    from hookengine.models import Delivery
    from hookengine.store.intake import Draft, Line
    from hookengine.store.transaction import Transaction


def wanted(drafts: Iterable[Draft], index: Index) -> set[Line]:
    """The lines that the deliveries of *drafts* will stand in."""
    if not index.fifo:
        return set()
    found = {
        line_of(subscription.seq, draft.ordering_key, index)
        for draft in drafts
        for subscription in index.match(draft.tenant, draft.type, draft.only)
    }
    return {line for line in found if line is not None}


async def standing(db: aiosqlite.Connection, lines: Iterable[Line]) -> set[Line]:
    """Those of *lines* in which somebody stands."""
    asked = list(lines)
    if not asked:
        return set()
    found: Any = await db.execute_fetchall(sql.standing_lines, (rows.json_text(asked),))
    return {(row[0], row[1]) for row in found}


async def heads(db: aiosqlite.Connection, lines: Iterable[Line]) -> tuple[list[Delivery], list[rows.Unreadable]]:
    """Who leads each of *lines*, nobody where all have gone; and who would, but cannot be read."""
    found: Any = await db.execute_fetchall(sql.heads_of_lines, (rows.json_text(list(lines)),))
    return rows.deliveries(found)


async def leave(tx: Transaction, before: Delivery) -> None:
    """A delivery was taken out of its line: if it led it, the next one does."""
    if before.line is None:
        return
    tx.promote(await tx.fetch(sql.next_in_line, (before.subscription, before.line)))
