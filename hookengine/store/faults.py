"""What an error of SQLite means for what was to be stored."""

from __future__ import annotations

import errno
import sqlite3

from hookengine.errors import AlreadyRunning, StartError, StorageFailed, StorageUnavailable

# What better times may mend; the second is what SQLite's own want of memory is raised as.
PASSING = (sqlite3.OperationalError, MemoryError)

RESTORE = "; nothing is repaired: look with `hookengine db check`, and restore a backup as docs/backup.md says"

# After these nobody knows what is on disk, and a second fsync may claim success for pages that are lost: never go on.
_FATAL = ("SQLITE_IOERR_FSYNC", "SQLITE_IOERR_DIR_FSYNC")
_DAMAGE = ("SQLITE_CORRUPT", "SQLITE_NOTADB")  # CORRUPT has longer names

# What another program's lock is called, which was waited for in vain.
_LOCKED = ("SQLITE_BUSY", "SQLITE_PROTOCOL")

# What a full disk is called, and a quota that is used up.
_NO_ROOM = ("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE", errno.ENOSPC, errno.EDQUOT)


def raise_if_fatal(error: Exception) -> None:
    """Raises StorageFailed if nobody knows after *error* what is on disk."""
    if is_damage(error):
        raise StorageFailed(f"the storage failed: {error}{RESTORE}") from error
    if _name(error).startswith(_FATAL):
        raise StorageFailed(f"the storage failed: {error}") from error


def unstarted(detail: str, error: Exception) -> StartError:
    """What a start ends with over *error*; where that is another program's lock, a later start may go well."""
    return StartError(detail, exit_status=AlreadyRunning.exit_status if is_lock(error) else None)


def is_damage(error: Exception) -> bool:
    """Whether SQLite says that the file is no whole database."""
    return _name(error).startswith(_DAMAGE)


def is_lock(error: Exception) -> bool:
    """Whether another program has the database."""
    return _name(error).startswith(_LOCKED)


def is_want_of_room(error: Exception) -> bool:
    """Whether the disk is full."""
    return (_name(error) or getattr(error, "errno", None)) in _NO_ROOM


def untaken(error: Exception) -> StorageUnavailable:
    """What whoever waits for a write hears of *error*, which may pass."""
    return StorageUnavailable(f"the storage does not take writes: {error}")


def _name(error: Exception) -> str:
    return getattr(error, "sqlite_errorname", "")
