"""What the clock's jumps mean for what is stored, and what of the paces outlives a stop."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec

from hookengine import health as counters
from hookengine.store import rows
from hookengine.store.changes import ENABLING
from hookengine.store.commit import Commit
from hookengine.store.queries import sql

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from hookengine.models import Health
    from hookengine.store.transaction import Transaction

PACES = "paces"  # the name of what a clean stop keeps
_TURNED_BACK = "turned_back"  # when the clock was last found to have gone back, ms since the epoch
_TURNED_BACK_AT = "turned_back_at"  # the key of the newest attempt then


def keep_paces(paces: Mapping[int, float]) -> Callable[[Transaction], Awaitable[None]]:
    """Keep until the next start when the pace of subscriptions allows the next request."""

    async def step(tx: Transaction) -> None:
        await tx.run(sql.set_meta, (PACES, rows.json_text({str(seq): next_at for seq, next_at in paces.items()})))

    return step


async def take_paces(tx: Transaction) -> dict[int, float]:
    """What was kept; only once, because it does not hold for the start after this one."""
    found = await tx.fetch(sql.meta, (PACES,))
    if not found:
        return {}
    await tx.run(sql.drop_meta, (PACES,))
    try:
        return msgspec.json.decode(found[0][0], type=dict[int, float])
    except (msgspec.MsgspecError, TypeError):  # as after a stop that was not clean
        return {}


async def turn_back(tx: Transaction) -> int:
    """
    The clock has gone back: let what waits by the old time wait no longer than it would have. Returns how many deliveries.

    What was due at its creation, or is tried once more by hand, is due. A retry waits from its last attempt on, or, where that
    was before an earlier turn, from this. What is in flight is left to its end, and what is in memory must be read anew.

    Counters have nothing that lies ahead any more, and nothing is brought forward that was tried after its subscription was
    enabled.
    """
    alone, in_batches = map(rows.json_text, tx.listener.under_way())
    before, known = [(await tx.fetch(sql.meta, (name,)) or [(None,)])[0][0] for name in (_TURNED_BACK, _TURNED_BACK_AT)]
    ((newest,),) = await tx.fetch(sql.newest_attempt)
    await tx.run(sql.set_meta, (_TURNED_BACK, tx.now))
    await tx.run(sql.set_meta, (_TURNED_BACK_AT, newest))
    await tx.run(sql.turn_back_enabling, (tx.now, f"{ENABLING}*"))
    await _count_anew(tx, partial(counters.turned_back, now=tx.now))
    values = {"now": tx.now, "before": before, "known": known, "taken": alone, "batches": in_batches}
    return await tx.run(sql.turn_back, values)


def skip(time: int) -> Callable[[Transaction], Awaitable[None]]:
    """The clock has jumped forward by *time* (ms): no run of failures has lasted for that."""

    async def step(tx: Transaction) -> None:
        await _count_anew(tx, partial(counters.skipped, time=time, now=tx.now))

    return step


async def _count_anew(tx: Transaction, counted: Callable[[Health], Health]) -> None:
    changed = {seq: after for seq, before in tx.memory.health.items() if (after := counted(before)) != before}
    commit = Commit()
    commit.health = [rows.health_row(seq, health) for seq, health in changed.items()]
    await tx.write(commit)
    tx.after.append(partial(tx.memory.health.update, changed))
