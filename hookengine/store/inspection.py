"""Looking at a database file from outside, also while an engine has it: sizes, counts, and whether it is whole."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from msgspec import Struct

from hookengine.clock import Clock
from hookengine.errors import DatabaseTooNew, KeyUnusable, StorageCorrupt, StorageUnavailable
from hookengine.store import registered
from hookengine.store.faults import is_want_of_room
from hookengine.store.queries import migrations, sql
from hookengine.store.store import CHECK_VALUE
from hookengine.store.whereabouts import Files
from hookengine.vault import Vault, find_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

_TICK = 10_000  # steps of SQLite's machine: a millisecond or so

_NOTHING_YET = "holds nothing yet: its first start was cut, and the next one ends it"

# What it is called where SQLite may not make the files beside the database.
_NO_FILES = ("SQLITE_CANTOPEN", "SQLITE_READONLY_DIRECTORY")


class Summary(Struct, frozen=True, kw_only=True):
    """What is in a file. Sizes are bytes; `oldest_pending` is ms since the epoch, of work that nothing holds back."""

    schema_version: int
    size: int
    wal_size: int
    free: int
    rows: dict[str, int]  # by table
    deliveries: dict[str, int]  # by state as it reads
    subscriptions: dict[str, int]  # by state, deleted ones too
    oldest_pending: int | None
    newest: int | None  # ms since the epoch: when the last event was accepted


class Finding(Struct, frozen=True, kw_only=True):
    """What one check found wrong: nothing, if all is well."""

    check: str
    problems: list[str]
    note: str = ""  # what there is to say of it all the same


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The file, for reading only; raises StorageCorrupt if it is none of ours, DatabaseTooNew, and StorageUnavailable."""
    files = Files(path)
    real = files.db
    if (left := files.left_behind()) is not None:
        raise StorageUnavailable(f"{path} {left}")
    if files.size() == 0:  # SQLite would delete a journal that is beside it
        raise StorageUnavailable(f"{path} {_NOTHING_YET}")
    is_writable = os.access(real.parent, os.W_OK)
    mode = _mode(files, is_writable=is_writable and os.access(real, os.W_OK))
    try:
        with closing(sqlite3.connect(f"{real.as_uri()}?{mode}", uri=True, isolation_level=None, timeout=5)) as db:
            db.execute("PRAGMA query_only = ON")
            db.row_factory = sqlite3.Row
            known = len(migrations())
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > known:
                raise DatabaseTooNew(str(path), version, known)
            if version == 0 and db.execute(sql.is_ours).fetchone()[0]:
                raise StorageUnavailable(f"{path} {_NOTHING_YET}")
            if version == 0:
                raise StorageCorrupt(f"{path} is no database of hookengine")
            yield db
    except sqlite3.Error as error:
        if is_want_of_room(error):  # of which a reader takes some too, for the index of the WAL
            raise StorageUnavailable(f"{path} cannot be read: the disk is full") from error
        if not is_writable and getattr(error, "sqlite_errorname", "") in _NO_FILES:
            why = f"to read its WAL, files have to be made in {real.parent}, which cannot be written"
            raise StorageUnavailable(f"{path} cannot be read: {why}") from error
        raise StorageCorrupt(f"{path} cannot be read: {error}") from error


def _mode(files: Files, *, is_writable: bool) -> str:
    if wal_size(files.db):
        return "mode=ro"  # the WAL that a crash has left is not folded in when this is closed: the next start reads it
    if is_writable:
        return "mode=rw"  # whoever is the last to close it takes the files away that SQLite makes beside it for reading
    if files.shm.exists():
        return "mode=ro"  # they are there, maybe because a daemon works with them
    return "mode=ro&immutable=1"  # they are neither there nor can be made, and without that SQLite does not do without


def wal_size(path: Path) -> int:
    """How many bytes the WAL of the file has."""
    try:
        return Files(path).wal.stat().st_size
    except FileNotFoundError:
        return 0


def summary(path: Path) -> Summary:
    """What is in the file; raises as `opened` does."""
    with opened(path) as db:
        db.execute("BEGIN")  # all numbers are of one moment
        (page_size,), (free,), (version,) = (
            db.execute(f"PRAGMA {name}").fetchone() for name in ("page_size", "freelist_count", "user_version")
        )
        tables = sorted(name for (name,) in db.execute(sql.tables))
        oldest = db.execute(sql.oldest_pending).fetchone()
        return Summary(
            schema_version=version,
            size=path.stat().st_size,
            wal_size=wal_size(path),
            free=free * page_size,
            # A name cannot be a parameter; these are the schema's own.
            rows={name: db.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in tables},
            deliveries=dict(db.execute(sql.count_deliveries).fetchall()),
            subscriptions=dict(db.execute(sql.count_subscriptions).fetchall()),
            oldest_pending=oldest and oldest[0],
            newest=newest_event(db),
        )


def examine(path: Path, *, encryption_key: str | None, tick: Callable[[], None]) -> list[Finding]:
    """
    Every check of the file and of the key beside it; what the schema of an older file does not have yet is left out.

    *tick* is called now and then while SQLite works. Raises as `opened` does.
    """
    with opened(path) as db:
        db.set_progress_handler(tick, _TICK)
        version = db.execute("PRAGMA user_version").fetchone()[0]
        findings = [
            *_age(version),
            Finding(check="integrity", problems=_found(_integrity, db)),
            Finding(check="references", problems=_found(_references, db)),
        ]
        try:
            vault = unlock(db, path, encryption_key)
        except (KeyUnusable, sqlite3.Error) as error:
            return [*findings, Finding(check="key", problems=[str(error)])]
        findings.append(Finding(check="key", problems=[]))
        with _as_made(version) as made:
            if _has(made, sql.subscriptions):
                has_tokens = _has(made, sql.access_tokens)
                problems = _found(lambda db: _subscriptions(db, vault, has_tokens=has_tokens), db)
                findings.append(Finding(check="subscriptions", problems=problems))
            if _has(made, sql.tenants):
                findings.append(Finding(check="tenants", problems=_found(lambda db: _tenants(db, vault), db)))
        return findings


def unlock(db: sqlite3.Connection, path: Path, encryption_key: str | None) -> Vault:
    """The vault, once its key has opened the check value; raises KeyUnusable."""
    keys = find_keys(path.with_name("secret.key"), encryption_key, may_create=False, new_bytes=Clock().new_bytes)
    found = db.execute(sql.meta, (CHECK_VALUE,)).fetchone()
    if found is None:
        raise KeyUnusable("the database has no check value: its first start was cut, and the next one ends it")
    vault = Vault(keys, Clock().new_bytes)
    vault.check(found[0])
    return vault


def newest_event(db: sqlite3.Connection) -> int | None:
    """When the last event was accepted, in ms since the epoch."""
    found = db.execute(sql.newest_event).fetchone()
    return None if found is None else found[0]


def _age(version: int) -> list[Finding]:
    if version == len(migrations()):
        return []
    return [Finding(check="schema", problems=[], note=f"version {version}, brought up to date at the next start")]


@contextmanager
def _as_made(version: int) -> Iterator[sqlite3.Connection]:
    """An empty database of schema *version*."""
    with closing(sqlite3.connect(":memory:")) as db:
        for script in migrations()[:version]:
            db.executescript(script)
        yield db


def _has(db: sqlite3.Connection, statement: str) -> bool:
    """Whether *db* has the tables and columns that *statement* asks for."""
    try:
        db.execute(f"EXPLAIN {statement}")
    except sqlite3.OperationalError:
        return False
    return True


def _found(check: Callable[[sqlite3.Connection], list[str]], db: sqlite3.Connection) -> list[str]:
    """What *check* finds; a file that is damaged may not let it come to an end."""
    try:
        return check(db)
    except sqlite3.Error as error:
        return [str(error)]


def _integrity(db: sqlite3.Connection) -> list[str]:
    return [line for (line,) in db.execute("PRAGMA integrity_check") if line != "ok"]


def _references(db: sqlite3.Connection) -> list[str]:
    counts = Counter((table, parent) for table, _, parent, _ in db.execute("PRAGMA foreign_key_check"))
    return [f"{count} rows of {table} name rows of {parent} that are not there" for (table, parent), count in counts.items()]


def _subscriptions(db: sqlite3.Connection, vault: Vault, *, has_tokens: bool) -> list[str]:
    """What of them cannot be read, or of the access tokens that are kept for them."""
    readable = {}

    def read(row: sqlite3.Row) -> None:
        readable[row["seq"]] = registered.subscription(row, vault)

    def read_token(row: sqlite3.Row) -> None:
        if (of := readable.get(row["subscription"])) is not None:
            registered.access_token(row, of, vault)

    problems = _unreadable(db.execute(sql.subscriptions), read)
    return [*problems, *_unreadable(db.execute(sql.access_tokens), read_token)] if has_tokens else problems


def _tenants(db: sqlite3.Connection, vault: Vault) -> list[str]:
    return _unreadable(db.execute(sql.tenants), lambda row: registered.tenant(row, vault))


def _unreadable(rows: Iterable[sqlite3.Row], read: Callable[[sqlite3.Row], object]) -> list[str]:
    problems = []
    for row in rows:
        try:
            read(row)
        except StorageCorrupt as error:
            problems.append(error.detail)
    return problems
