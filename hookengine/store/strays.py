"""Strays: pending deliveries to which nobody would come, because somebody edited their rows or those they follow."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from hookengine.errors import StorageCorrupt
from hookengine.store import changes, rows
from hookengine.store.queries import sql

if TYPE_CHECKING:
    from hookengine.store.transaction import Transaction

LOOKED_AT = 625  # deliveries of one step, in two or three milliseconds

_BEFORE_ALL = -(1 << 63)
_NEVER = 100 * 365 * 86_400_000  # ms from now, which nobody can choose; not even a clock that begins in 1970 is so far off


class Search:
    """
    Looks at what is pending, some of it in each step, and begins anew once it is through.

    Owns nothing but how far it is. Nothing else would find them: a row is read when its turn comes, and theirs never does.
    """

    def __init__(self) -> None:
        self._after = _BEFORE_ALL

    async def __call__(self, tx: Transaction) -> int:
        """Give up those that cannot be read, and let those that follow nobody lead; how many it looked at, 0 at the end."""
        if self._after == _BEFORE_ALL:
            tx.read(await tx.fetch(sql.stateless))
        keys = [seq for (seq,) in await tx.fetch(sql.pending_after, (self._after, LOOKED_AT))]
        tx.after.append(partial(self._come_to, keys[-1] if keys else _BEFORE_ALL))
        found = await tx.fetch(sql.strays, {"keys": rows.json_text(keys), "never": tx.now + _NEVER}) if keys else []
        nowhere = {row[0] for row in found if row[-1]}
        for each in tx.read(found):
            where = rows.where(each)
            if each.seq in nowhere:
                error = StorageCorrupt(f"{where} is nowhere that anybody would come to it")
                tx.unreadable.append(rows.Unreadable(seq=each.seq, where=where, error=error))
            else:
                await changes.lead(tx, each.subscription, each.batch, each.line)
                error = StorageCorrupt(f"{where} followed nobody; now it leads")
                tx.after.append(partial(tx.listener.unreadable, where, error))
        return len(keys)

    def _come_to(self, seq: int) -> None:
        self._after = seq
