"""A copy of a database file at one moment, whether or not an engine has it."""

from __future__ import annotations

import os
import sqlite3
import stat
from contextlib import closing, suppress
from typing import TYPE_CHECKING

from hookengine.errors import AlreadyRunning, HookEngineError
from hookengine.failpoints import failpoint
from hookengine.store.database import Lock
from hookengine.store.inspection import opened
from hookengine.store.whereabouts import BESIDE

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_PAGES = 1024  # of one step: 4 MiB
_OURS = ("admin.token", "daemon.json", "secret.key")  # beside a database; behind its name
_SUFFIXES = (*BESIDE, "-journal")


class TargetExists(HookEngineError):
    """There is something under this name already."""

    code = "target_exists"


def copy(source: Path, target: Path, *, replace: bool, progress: Callable[[int, int], None]) -> int:
    """
    Copy the database *source* to *target* (0600), whole or not at all, synced to disk; the size of the copy in bytes.

    *progress* is called with the pages done and all pages. Raises TargetExists unless it may *replace* what is there, and
    HookEngineError where the copy cannot be read or written.
    """
    draft = target.parent / f"{target.name}.{os.getpid()}.new"
    try:
        _check_target(source, target, replace=replace)
        with opened(source) as db:
            os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            _copy(db, draft, progress)
        size = _sync(draft)
        failpoint("K24-copied")
        _name(draft, target, replace=replace)
        failpoint("K24-named")
        _sync(target.parent)
    except FileExistsError:
        raise TargetExists(f"{target} exists") from None
    except OSError as error:
        raise HookEngineError(f"{target} cannot be written: {error.strerror}") from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
    return size


def _check_target(source: Path, target: Path, *, replace: bool) -> None:
    if target.is_dir():
        raise TargetExists(f"{target} is a directory: name a file in it")
    if os.path.lexists(target):
        if target.exists() and target.samefile(source):
            raise TargetExists(f"{target} is the database itself")
        if not replace:
            raise TargetExists(f"{target} exists")
        if not stat.S_ISREG(target.lstat().st_mode):
            raise TargetExists(f"{target} is no file: a link or a device is not replaced")
    if target.name in _OURS or any(_belongs(target, suffix) for suffix in _SUFFIXES):
        raise TargetExists(f"{target} is where the engine keeps something else")
    for suffix in ("-wal", "-journal"):
        log = target.with_name(target.name + suffix)
        # SQLite would take it for the new file's own, and play it into it.
        if log.exists() and log.stat().st_size:
            raise TargetExists(f"{log} exists: {target} is a database in use, or was not closed")
    if target.exists():  # also while all of its WAL is folded into it
        try:
            Lock(target).check()
        except AlreadyRunning as error:
            raise TargetExists(error.detail) from None


def _belongs(target: Path, suffix: str) -> bool:
    """Whether *target* is the name of what a database has beside it under *suffix*."""
    database = target.name.removesuffix(suffix)
    return database not in {"", target.name} and target.with_name(database).exists()


def _copy(db: sqlite3.Connection, draft: Path, progress: Callable[[int, int], None]) -> None:
    # Within one read transaction the copy is of one moment; without, every commit meanwhile would start it again.
    db.execute("BEGIN")
    db.execute("PRAGMA schema_version").fetchone()
    try:
        with closing(sqlite3.connect(draft.resolve(), isolation_level=None)) as copied:
            copied.execute("PRAGMA synchronous = OFF")  # it is synced once, as a whole
            copied.execute("PRAGMA journal_mode = OFF")  # and deleted as a whole where it is cut
            db.backup(copied, pages=_PAGES, progress=lambda _, left, total: progress(total - left, total))
    except sqlite3.Error as error:
        raise HookEngineError(f"the copy cannot be made: {error}") from error


def _name(draft: Path, target: Path, *, replace: bool) -> None:
    """Let *draft* be *target*, or raise FileExistsError where that is there and may not be replaced."""
    if not replace:
        try:
            os.link(draft, target)  # a rename would not notice that somebody else was faster
        except FileExistsError:
            raise
        except OSError:  # not every file system has links: for a moment the name is there without its content
            os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        else:
            return
    draft.replace(target)


def _sync(path: Path) -> int:
    """Sync a file or directory to disk; its size in bytes."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)
