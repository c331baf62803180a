"""What everything that is written works with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from hookengine.store.faults import raise_if_fatal

if TYPE_CHECKING:
    import aiosqlite

    from hookengine.clock import Clock
    from hookengine.store.batch import RowNumbers
    from hookengine.store.intake import Listener
    from hookengine.store.memory import Memory
    from hookengine.vault import Vault


class Writing(Struct, kw_only=True):
    """The connection that writes, the numbers of its rows, and what follows a commit: the memory, and the listener."""

    db: aiosqlite.Connection
    clock: Clock
    vault: Vault
    memory: Memory
    numbers: RowNumbers
    listener: Listener

    async def begin(self) -> None:
        """Begin a transaction, as the only one who writes; raises sqlite3.Error."""
        await self.db.execute("BEGIN IMMEDIATE")

    async def roll_back(self, error: Exception) -> None:
        """Undo what was begun, if anything; raises StorageFailed if nobody knows after *error* what is on disk."""
        raise_if_fatal(error)
        if self.db.in_transaction:
            await self.db.rollback()
