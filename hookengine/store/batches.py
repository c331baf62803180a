"""Batches: deliveries that share a request, put together by a committed write before it first goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from hookengine.gathering import AGAIN, Composed
from hookengine.models import Place, Priority
from hookengine.store import rows
from hookengine.store.queries import sql

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hookengine.gathering import Compose
    from hookengine.models import Delivery
    from hookengine.store.transaction import Transaction

MOST_ROWS = 2_000  # put into batches by one commit, about, of each priority: 50 ms for which publishers wait
MOST_BYTES = 1 << 20  # of events in a batch that has more than one: memory in flight is bounded as it is for single events


async def compose(tx: Transaction, asked: Compose) -> Composed:
    """
    Make the batches that may be made now, and tell when to ask again.

    A batch is made once it has its number of events, or its oldest has waited long enough; one event goes by itself. What is
    too much for one commit is to be asked for again at once.
    """
    heads: list[Delivery] = []
    changed: list[tuple[int, int, int | None]] = []
    due: list[int] = []
    look_at: list[int | None] = []
    for priority in Priority:
        room = max(0, min(asked.limits[priority] - len(heads), max(1, MOST_ROWS // asked.most)))
        found = await _gathered(tx, asked, priority, room)
        while found and room and _is_ready(found, asked, tx.now):
            room -= 1
            size = _fitting(found[: asked.most])
            members = sorted((delivery for delivery, _ in found[:size]), key=lambda delivery: delivery.seq)
            del found[:size]
            batch = members[0].seq if size > 1 else None
            heads.append(replace(members[0], place=Place.LANE, batch=batch))
            changed += [(each.seq, Place.FOLLOWING, batch) for each in members[1:]]
            changed.append((members[0].seq, Place.LANE, batch))
        due.append(len(found))
        times = await _next(tx, asked, priority, found)
        if tx.unreadable:  # they may have stood in the way of others
            times.append(tx.now + AGAIN)
        look_at.append(min(times, default=None))
    if changed:
        await tx.run(sql.compose, (rows.json_text(changed),))
    return Composed(heads=heads, due=tuple(due), look_at=tuple(look_at))


def dissolve(batch: int) -> Callable[[Transaction], Awaitable[None]]:
    """Let those that still go with *batch* go by themselves: their subscription sends no batches any more."""

    async def step(tx: Transaction) -> None:
        members = tx.read(await tx.fetch(sql.members, (rows.json_text([batch]),)))
        await tx.run(sql.compose, (rows.json_text([(each.seq, Place.LANE, None) for each in members]),))
        for each in members:
            tx.overrule(each, replace(each, place=Place.LANE, batch=None))

    return step


async def leave(tx: Transaction, before: Delivery) -> None:
    """A delivery has left its batch, or has ended: if it was the head, another one leads."""
    if before.batch is None or before.place is not Place.LANE:
        return
    tx.promote(await tx.fetch(sql.promote, {"batch": before.batch, "subscription": before.subscription}))


async def followers(tx: Transaction, head: Delivery) -> list[Delivery]:
    """What goes with *head*, if that leads a batch."""
    if head.batch is None:
        return []
    found = tx.read(await tx.fetch(sql.members, (rows.json_text([head.batch]),)))
    return [each for each in found if each.seq != head.seq]


async def _gathered(tx: Transaction, asked: Compose, priority: Priority, room: int) -> list[tuple[Delivery, int]]:
    """What waits and is due, with its bytes: as much as there is room for, and one batch more that is counted."""
    limit = asked.most * (room + 1)
    found: list[Any] = await tx.fetch(sql.gathered, (asked.subscription, priority, tx.now, limit))
    sizes = {row[0]: row[-1] for row in found}  # `size` comes last
    return [(delivery, sizes[delivery.seq]) for delivery in tx.read(found)]


async def _next(tx: Transaction, asked: Compose, priority: Priority, left: list[tuple[Delivery, int]]) -> list[int]:
    """When something may be made of what is left, or becomes due."""
    times = [row[0] for row in await tx.fetch(sql.next_gathered, (asked.subscription, priority, tx.now))]
    if left:
        times.append(tx.now if _is_ready(left, asked, tx.now) else left[0][0].due_at + asked.wait)
    return times


def _is_ready(found: list[tuple[Delivery, int]], asked: Compose, now: int) -> bool:
    return len(found) >= asked.most or found[0][0].due_at + asked.wait <= now


def _fitting(found: list[tuple[Delivery, int]]) -> int:
    """How many of *found* fit into one request; one always does."""
    total = 0
    for number, (_, size) in enumerate(found):
        total += size
        if total > MOST_BYTES and number:
            return number
    return len(found)
