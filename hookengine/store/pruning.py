"""Deleting finished history from a file that no engine has, and giving its space back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct

from hookengine.store import upkeep
from hookengine.store.inspection import opened
from hookengine.store.queries import sql
from hookengine.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hookengine.clock import Clock
    from hookengine.store.transaction import Transaction

_PAGES = 1000  # given back in one commit


class Pruned(Struct, frozen=True, kw_only=True):
    """What was deleted, and the bytes by which the file is smaller."""

    deliveries: int
    events: int
    freed: int


class _Nobody:
    """The listener of a store whose commits nobody has to hear of."""

    def current(self, delivery: Any) -> Any:
        return delivery

    def taken(self) -> tuple[list[int], list[int]]:
        return [], []

    def committed(self, events: int, deliveries: int) -> None: ...
    def accepted(self, deliveries: Any) -> None: ...
    def recorded(self, results: Any) -> None: ...
    def unrecorded(self, results: Any, error: Exception) -> None: ...
    def promoted(self, delivery: Any) -> None: ...
    def composed(self, asked: Any, composed: Any) -> None: ...
    def unreadable(self, where: str, error: Exception) -> None: ...
    def changed(self, before: Any, after: Any) -> None: ...
    def overruled(self, before: Any, after: Any) -> None: ...
    def replaying(self, subscription: Any, count: int, *, finished: bool) -> None: ...
    def refilled(self, refill: Any, deliveries: Any, mark: Any) -> None: ...
    def storage(self, error: Exception | None) -> None: ...
    def room(self, lack: Exception | None) -> None: ...


def finished(path: Path, before: int) -> int:
    """How many deliveries of the file ended before *before* (ms since the epoch)."""
    with opened(path) as db:
        count: int = db.execute(sql.count_finished, (before,)).fetchone()[0]
        return count


async def prune(
    path: Path, *, retention: int, clock: Clock, encryption_key: str | None, progress: Callable[[int, int], None]
) -> Pruned:
    """
    Delete what finished more than *retention* ms ago, by the steps of maintenance, and make the file smaller.

    *progress* is called with what is done and what there is to do, in deliveries. Raises as `Store.open` does, such as
    AlreadyRunning.
    """
    size = _size(path)
    store = Store(path, clock=clock, encryption_key=encryption_key)
    await store.open(_Nobody())
    try:
        change = store.writer.change
        while await change(upkeep.cancel_rest):
            pass
        before = await change(_counts)
        total, steps = await change(lambda tx: _finished(tx, retention)), 0
        while await change(upkeep.prune(retention)):
            steps += 1
            progress(min(total, steps * upkeep.STEP), total)
        after = await change(_counts)
        while await change(_give_back):
            pass
    finally:
        await store.close()  # which shortens the file
    return Pruned(deliveries=before[0] - after[0], events=before[1] - after[1], freed=max(0, size - _size(path)))


def _size(path: Path) -> int:
    return path.stat().st_size


async def _counts(tx: Transaction) -> tuple[int, int]:
    ((deliveries, events),) = await tx.fetch(sql.count_history)
    return deliveries, events


async def _finished(tx: Transaction, retention: int) -> int:
    ((count,),) = await tx.fetch(sql.count_finished, (tx.now - retention,))
    return int(count)


async def _give_back(tx: Transaction) -> int:
    """Take some free pages off the end of the file; how many, 0 when none is left or the file is not made for it."""
    ((before,),) = await tx.fetch("PRAGMA freelist_count")
    await tx.fetch(f"PRAGMA incremental_vacuum({_PAGES})")
    ((after,),) = await tx.fetch("PRAGMA freelist_count")
    return int(before - after)
