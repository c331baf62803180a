"""
When and how the WAL is folded back into the file.

By our own hand: SQLite does it too, in a commit's wake, but keeps to itself that a sync of it has failed, and tries again.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import aiosqlite

# Some 3,000 pages where commits are large, some 20,000 (80 MiB) where each has one event. Nothing is committed meanwhile, and
# to fold a third as much takes two thirds of the time.
_ROWS = 7_500
_BYTES_OF_A_ROW = 11 << 10  # that it takes in a WAL of small commits
_PAGE = 4_096
_PIECE = 1 << 20  # bytes of a WAL that are in memory while it is written anew: it may have grown large
_SHORTLY = 100  # ms that readers are waited for where the WAL is emptied: results wait too, and it is tried every second
_LARGE = 16_384  # pages of the WAL that wait to be folded, 64 MiB, when it is time that somebody hears of it


def rows_in(size: int) -> int:
    """How many rows a WAL of *size* bytes may hold before it has to be folded; no more than is good on a large disk."""
    return min(_ROWS, size // _BYTES_OF_A_ROW)


class Folding:
    """What the writer's connection has written since its WAL was last folded, in rows; a page of payload counts as one."""

    def __init__(self, db: aiosqlite.Connection, *, every: int) -> None:
        self._db = db
        self._every = every
        self._folded = 0  # rows of the connection
        self._bytes = 0
        self._told_from = _LARGE

    def wrote(self, size: int) -> None:
        """So many bytes of payload are in the WAL."""
        self._bytes += size

    @property
    def is_due(self) -> bool:
        """Whether there is enough to fold."""
        return self._db.total_changes - self._folded + self._bytes // _PAGE >= self._every

    async def empty(self) -> int:
        """
        Copy all of the WAL into the file, and give its room back to the disk, if nobody reads for long.

        How many bytes of the file hold nothing then. Raises sqlite3.Error.
        """
        self._folded, self._bytes = self._db.total_changes, 0
        await truncate(self._db)
        ((pages,),) = await self._db.execute_fetchall("PRAGMA freelist_count")
        return int(pages) * _PAGE

    async def fold(self) -> str | None:
        """
        Copy into the file what no reader needs any more; the WAL is used again from its start once all of it is copied.

        What keeps it from that, if the WAL has grown large, and then whenever it is twice as large; it is due again only after
        as much more. Raises sqlite3.Error.
        """
        self._folded, self._bytes = self._db.total_changes, 0
        ((_, pages, copied),) = await self._db.execute_fetchall("PRAGMA wal_checkpoint(PASSIVE)")
        left = pages - copied
        if left < self._told_from:
            self._told_from = _LARGE if left < _LARGE else self._told_from
            return None
        self._told_from = 2 * left
        return f"a program that reads for long keeps it from that: the WAL has {left * _PAGE >> 20} MiB"


async def truncate(db: aiosqlite.Connection) -> None:
    """Copy all of the WAL into the file, and give its room to the disk, if nobody reads for long; raises sqlite3.Error."""
    ((patience,),) = await db.execute_fetchall("PRAGMA busy_timeout")
    await db.execute_fetchall(f"PRAGMA busy_timeout = {min(patience, _SHORTLY)}")
    try:
        await db.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
    finally:
        await db.execute_fetchall(f"PRAGMA busy_timeout = {patience}")


def write_anew(wal: Path) -> None:
    """
    Write the WAL that an unclean stop has left once more, and sync it.

    If that stop was over a sync that failed, some of it is in memory only, where no sync finds it any more: it could be read
    now, and be gone after a loss of power, with everything behind it.
    """
    try:
        descriptor = os.open(wal, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    with os.fdopen(descriptor, "r+b") as file:
        while piece := file.read(_PIECE):
            file.seek(-len(piece), os.SEEK_CUR)
            file.write(piece)
        file.flush()
        os.fsync(descriptor)
