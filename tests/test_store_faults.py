"""What an error of SQLite means: told by the names that SQLite's own documentation lists."""

from __future__ import annotations

import errno
import os
import sqlite3

import pytest
from storage import io_error

from hookengine.errors import StorageFailed, StorageUnavailable
from hookengine.store.faults import PASSING, is_damage, is_lock, is_want_of_room, raise_if_fatal, unstarted, untaken

# By the extended result code (sqlite.org/rescode.html): whether it is damage, a lock, want of room, and the end of everything.
CODES = {
    "SQLITE_BUSY": (False, True, False, False),
    "SQLITE_BUSY_SNAPSHOT": (False, True, False, False),
    "SQLITE_BUSY_RECOVERY": (False, True, False, False),
    "SQLITE_PROTOCOL": (False, True, False, False),
    "SQLITE_FULL": (False, False, True, False),
    "SQLITE_IOERR_SHMSIZE": (False, False, True, False),
    "SQLITE_IOERR_WRITE": (False, False, False, False),
    "SQLITE_IOERR_READ": (False, False, False, False),
    "SQLITE_CANTOPEN": (False, False, False, False),
    "SQLITE_CONSTRAINT_UNIQUE": (False, False, False, False),
    "SQLITE_IOERR_FSYNC": (False, False, False, True),
    "SQLITE_IOERR_DIR_FSYNC": (False, False, False, True),
    "SQLITE_CORRUPT": (True, False, False, True),
    "SQLITE_CORRUPT_VTAB": (True, False, False, True),
    "SQLITE_CORRUPT_INDEX": (True, False, False, True),
    "SQLITE_NOTADB": (True, False, False, True),
}


def is_fatal(error: Exception) -> bool:
    """Whether it ends everything."""
    try:
        raise_if_fatal(error)
    except StorageFailed:
        return True
    return False


@pytest.mark.parametrize("name", CODES)
def test_codes(name: str) -> None:
    """Each result code means one thing."""
    error = io_error(name)

    assert CODES[name] == (is_damage(error), is_lock(error), is_want_of_room(error), is_fatal(error))


@pytest.mark.parametrize(("name", "status"), [("SQLITE_BUSY", 75), ("SQLITE_IOERR_READ", 78), ("SQLITE_CORRUPT", 78)])
def test_how_a_start_ends(name: str, status: int) -> None:
    """With what is said of it, and as something that passes by itself where it is a lock."""
    ended = unstarted("the file cannot be used", io_error(name))

    assert ("the file cannot be used", status) == (str(ended), ended.exit_status)


def test_files_want_room_too() -> None:
    """A full disk, or a quota that is used up, is told by the system's own number where no database is concerned."""
    numbers = (errno.ENOSPC, errno.EDQUOT, errno.EIO)

    assert [True, True, False] == [is_want_of_room(OSError(number, os.strerror(number))) for number in numbers]


@pytest.mark.parametrize("error", [MemoryError("no memory"), sqlite3.ProgrammingError("closed"), ValueError("ours")])
def test_what_has_no_code(error: Exception) -> None:
    """An error without a code of SQLite's is none of these."""
    assert [False] * 4 == [is_damage(error), is_lock(error), is_want_of_room(error), is_fatal(error)]


@pytest.mark.parametrize(
    ("name", "advice"), [("SQLITE_CORRUPT", True), ("SQLITE_NOTADB", True), ("SQLITE_IOERR_FSYNC", False)]
)
def test_damage_comes_with_advice(name: str, *, advice: bool) -> None:
    """What ends everything keeps its cause; where the file is damaged, it says what to do."""
    error = io_error(name)
    with pytest.raises(StorageFailed, match=r"^the storage failed: disk I/O error") as caught:
        raise_if_fatal(error)

    assert error is caught.value.__cause__
    assert advice is ("docs/backup.md" in str(caught.value))


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        pytest.param(io_error("SQLITE_BUSY"), True, id="lock"),
        pytest.param(MemoryError(), True, id="memory"),
        pytest.param(sqlite3.IntegrityError("some row"), False, id="a row"),
        pytest.param(TypeError("ours"), False, id="a value"),
    ],
)
def test_what_may_pass(error: Exception, *, passes: bool) -> None:
    """Better times mend what is the machine's, not what is a row's."""
    assert passes is isinstance(error, PASSING)


def test_what_the_publisher_hears() -> None:
    """That it may be tried again, and why it was not taken."""
    told = untaken(io_error("SQLITE_FULL"))

    assert isinstance(told, StorageUnavailable)
    assert "the storage does not take writes: disk I/O error" == str(told)
