"""Deleting finished history from a file that no engine has, and giving its space back."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from hookengine.errors import StorageUnavailable
from hookengine.store import upkeep
from hookengine.store.inspection import opened
from hookengine.store.intake import UnderWay
from hookengine.store.queries import sql
from hookengine.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from hookengine.clock import Clock
    from hookengine.store.transaction import Transaction
    from hookengine.store.writer import Writer

    _Step = Callable[[Transaction], Awaitable[int]]

# What one commit does, and what where the disk has no room for that: a full one is what this is for.
_DELIVERIES = (upkeep.STEP, 25, 1)  # deleted
_PAGES = (1000, 25, 1)  # given back


class Pruned(Struct, frozen=True, kw_only=True):
    """What was deleted, and the bytes by which the file is smaller."""

    deliveries: int
    events: int
    freed: int


class _Nobody:
    """The listener of a store whose commits nobody has to hear of."""

    def current(self, delivery: Any) -> Any:
        return delivery

    def under_way(self) -> UnderWay:
        return UnderWay([], [])

    def committed(self, events: int, deliveries: int) -> None: ...
    def accepted(self, deliveries: Any) -> None: ...
    def recorded(self, results: Any) -> None: ...
    def unrecorded(self, results: Any, error: Exception) -> None: ...
    def promoted(self, delivery: Any) -> None: ...
    def composed(self, asked: Any, composed: Any) -> None: ...
    def unreadable(self, where: str, error: Exception) -> None: ...
    def changed(self, before: Any, after: Any) -> None: ...
    def signed_anew(self, tenant: str) -> None: ...
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

    *progress* is called with what is done and what there is to do, in deliveries and then in pages of the file. Raises as
    `Store.open` does, such as AlreadyRunning, and StorageUnavailable.
    """
    size = _size(path)
    store = Store(path, clock=clock, encryption_key=encryption_key)
    await store.open(_Nobody())
    try:
        change = store.writer.change
        while await change(upkeep.cancel_rest):
            pass
        before = await change(_counts)
        total, done = await change(lambda tx: _finished(tx, retention)), 0
        while did := await _step(store.writer, lambda size: upkeep.prune(retention, at_least=size), _DELIVERIES):
            done += did
            progress(min(total, done), total)
        after = await change(_counts)
        total, done = await change(_free), 0
        while did := await _step(store.writer, lambda size: partial(_give_back, size), _PAGES):
            done += did
            progress(min(total, done), total)
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


async def _step(writer: Writer, make: Callable[[int], _Step], sizes: tuple[int, ...]) -> int:
    """Do the largest step that the disk has room for, and empty the WAL; of which size it was, 0 if it found nothing."""
    *larger, least = sizes
    for size in larger:
        with suppress(StorageUnavailable):
            return size if await _emptied(writer, make(size)) else 0
    return least if await _emptied(writer, make(least)) else 0


async def _emptied(writer: Writer, step: _Step) -> int:
    found = await writer.change(step)
    with suppress(StorageUnavailable):  # it is there for the next step to be tried with
        await writer.change(lambda tx: tx.empty_wal())
    return found


async def _free(tx: Transaction) -> int:
    ((pages,),) = await tx.fetch("PRAGMA freelist_count")
    return int(pages)


async def _give_back(size: int, tx: Transaction) -> int:
    """Take *size* free pages off the end of the file; how many, 0 when none is left or the file is not made for it."""
    before = await _free(tx)
    await tx.run_alone(f"PRAGMA incremental_vacuum({size})")
    return before - await _free(tx)
