"""Upkeep, each kind in small steps, of which one runs alone in its transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from hookengine import retry
from hookengine.failpoints import failpoint
from hookengine.models import Priority
from hookengine.statistics import hour_of
from hookengine.store import batches, lines, rows
from hookengine.store.answers import KEY_LIFETIME
from hookengine.store.changes import CANCELLING, ENABLING, give_up
from hookengine.store.commit import Commit
from hookengine.store.queries import sql

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hookengine.models import Delivery
    from hookengine.store.transaction import Transaction

STEP = 500  # rows of one commit: short enough that publishers do not notice
SPAN = 5_000  # keys whose times are known together: read in about 3 ms, and looked through in one


async def bring_forward(tx: Transaction) -> int:
    """
    Of the subscriptions that were enabled, let some retries go now, batches whole; how many, 0 when none is left.

    Which are left is in rows, so that a restart goes on where it was.
    """
    for seq, enabled_at in await tx.fetch(sql.enabling):
        for priority in Priority:
            found = await tx.fetch(sql.waiting_for_retry, (seq, priority, tx.now, enabled_at, STEP))
            if not found:
                continue
            waiting: list[Delivery] = []
            for head in tx.read(found):
                batch = [head, *await batches.followers(tx, head)]
                if waiting and len(waiting) + len(batch) > STEP:
                    break
                waiting += batch
            await tx.run_many(sql.bring_forward, [(tx.now, before.seq) for before in waiting])
            for before in waiting:
                tx.overrule(before, replace(before, due_at=tx.now))
            return len(waiting) or len(found)  # which are given up, if none can be read
        await tx.run(sql.drop_meta, (f"{ENABLING}{seq}",))
    return 0


async def cancel_rest(tx: Transaction) -> int:
    """Of the subscriptions that were deleted, write down that some deliveries are cancelled; how many, 0 when none is left."""
    for seq, deleted_at in await tx.fetch(sql.cancelling):
        if cancelled := await tx.run(sql.cancel_some, (deleted_at, seq, STEP)):
            return cancelled
        await tx.run(sql.drop_meta, (f"{CANCELLING}{seq}",))
    return 0


async def expire(tx: Transaction) -> int:
    """Give up some deliveries whose time is over, whether their lanes are served or not; how many, 0 when none is left."""
    alone, in_batches = map(rows.json_text, tx.listener.under_way())
    found = await tx.fetch(sql.expiring, {"now": tx.now, "taken": alone, "batches": in_batches, "limit": STEP})
    if not found:
        return 0
    commit = Commit()
    expired = tx.read(found)
    for before in expired:
        after = retry.expire(before, now=tx.now) or before
        commit.settled.add(*rows.settled_row(before, after))
        tx.overrule(before, after)
    await give_up(tx, commit, expired, retry.EXPIRED)
    await tx.write(commit)
    for before in expired:
        await batches.leave(tx, before)
        await lines.leave(tx, before)
    return len(found)


def prune(retention: int, *, at_least: int = STEP) -> Callable[[Transaction], Awaitable[int]]:
    """
    Delete some of what finished more than *retention* ms ago; how many rows, 0 when none is left.

    A step deletes as many deliveries as were made since the one before it, but *at_least* so many: so it keeps up.
    """
    last: int | None = None

    async def step(tx: Transaction) -> int:
        nonlocal last
        made = 0 if last is None else tx.last_key - last
        last = tx.last_key
        size = min(STEP, max(at_least, made))
        before = tx.now - retention
        found = await tx.fetch(sql.finished_before, (before, size))
        pruned = await _prune_deliveries(tx, found) if found else 0
        pruned += await tx.run(sql.prune_unwanted_events, (before, size))
        pruned += await tx.run(sql.prune_keys, (tx.now - KEY_LIFETIME, size))
        pruned += await tx.run(sql.prune_statistics, (hour_of(before), size))
        pruned += await _prune_subscriptions(tx, before, size)
        if pruned:
            await tx.run(sql.prune_spans)
        return pruned

    return step


async def _prune_subscriptions(tx: Transaction, before: int, size: int) -> int:
    """Delete what is left of subscriptions that were deleted before *before*: their settings, and what is sealed of these."""
    found = [seq for (seq,) in await tx.fetch(sql.forgotten, (before, size))]
    if not found:
        return 0
    subscriptions = rows.json_text(found)
    for statement in (sql.prune_health, sql.prune_access_tokens, sql.prune_subscriptions):
        await tx.run(statement, (subscriptions,))
    return len(found)


async def _prune_deliveries(tx: Transaction, found: list[Any]) -> int:
    """Delete the deliveries in the rows *found*, with their attempts, and their events if nobody else has these."""
    deliveries = rows.json_text([row[0] for row in found])
    shared = {exchange for (exchange,) in await tx.fetch(sql.exchanges_of, (deliveries,))}
    pruned = await tx.run(sql.prune_attempts, (deliveries,))
    if shared:
        pruned += await tx.run(sql.prune_exchanges, (rows.json_text(list(shared)),))
    pruned += await tx.run(sql.prune_deliveries, (deliveries,))
    failpoint("K22-half")
    return pruned + await tx.run(sql.prune_events, (rows.json_text([row[1] for row in found]),))


async def span(tx: Transaction) -> int:
    """Make spans of the next rows, for lists by time; how many, 0 where there are too few."""
    made = 0
    for kind, statement in (("events", sql.next_events_to_span), ("deliveries", sql.next_deliveries_to_span)):
        (found,) = await tx.fetch(statement, (SPAN,))
        if found[4] == SPAN:
            made += await tx.run(sql.insert_span, (kind, *found[:4]))
    return made
