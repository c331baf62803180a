"""A disk that loses what was not synced: the recorder of disk.c, and what a loss of power can leave of what it recorded."""

from __future__ import annotations

import mmap
import os
import sqlite3
import struct
import subprocess
from contextlib import closing
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import NamedTuple

# What `publishing` says was answered; and an event that has not all that was committed with it.
_STORED = "SELECT 'event ' || id FROM events UNION ALL SELECT 'subscription ' || id FROM subscriptions"
_HALF = "SELECT 1 FROM events WHERE deliveries != (SELECT count(*) FROM deliveries WHERE event = events.seq)"

_LINE = struct.Struct("=Iiqq")
_CONTROL = (
    "writes",
    "syncs",
    "failing_write",
    "failing_sync",
    "write_failures",
    "sync_failures",
    "write_error",
    "sync_error",
    "sync_delay",
)
FOR_EVER = 2**62  # failures in a row


def build(compiler: str, folder: Path) -> Path:
    """The recorder, for LD_PRELOAD."""
    library = folder / "disk.so"
    source = Path(__file__).with_name("disk.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", library, source, "-ldl"], check=True)
    return library


class Control:
    """
    What of the disk of a process is to fail, from now on; the file at *path* is what the two share.

    Counted are the writes and syncs of the database's files.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.write_bytes(bytes(8 * (len(_CONTROL) + 1)))
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), 0)

    def of_daemon(self, directory: Path) -> dict[str, str]:
        """The fault that puts the disk of a `Daemon` in *directory* under this control."""
        return {"kind": "watches", "folder": str(directory / "data"), "control": str(self.path)}

    def fail_writes(self, error: int, *, after: int = 0, count: int = FOR_EVER) -> None:
        """Let *count* writes fail with *error*, when *after* more have succeeded."""
        self._set("write_error", error)
        self._set("write_failures", count)
        self._set("failing_write", self._get("writes") + after + 1)

    def fail_syncs(self, error: int, *, after: int = 0, count: int = FOR_EVER) -> None:
        """Let *count* syncs fail with *error*, or with 0 the process be killed over them, when *after* more have succeeded."""
        self._set("sync_error", error)
        self._set("sync_failures", count)
        self._set("failing_sync", self._get("syncs") + after + 1)

    def slow_down(self, seconds: float) -> None:
        """Let each sync take so much longer."""
        self._set("sync_delay", round(seconds * 1_000_000))

    def heal(self) -> None:
        """Let nothing fail any more."""
        self._set("failing_write", 0)
        self._set("failing_sync", 0)

    @property
    def writes(self) -> int:
        """How many there were, with truncations."""
        return self._get("writes")

    @property
    def syncs(self) -> int:
        """How many there were."""
        return self._get("syncs")

    @property
    def failed(self) -> int:
        """How many calls have failed."""
        return int(struct.unpack_from("=q", self._shared, 8 * len(_CONTROL))[0])

    def _get(self, name: str) -> int:
        return int(struct.unpack_from("=q", self._shared, 8 * _CONTROL.index(name))[0])

    def _set(self, name: str, value: int) -> None:
        struct.pack_into("=q", self._shared, 8 * _CONTROL.index(name), value)


class Line(NamedTuple):
    """One line of the recorder's log, as disk.c has it."""

    kind: str
    descriptor: int
    offset: int
    content: bytes


def read(log: Path) -> list[Line]:
    """What was recorded."""
    found, raw, at = [], log.read_bytes(), 0
    while at < len(raw):
        kind, descriptor, offset, length = _LINE.unpack_from(raw, at)
        at += _LINE.size
        found.append(Line(chr(kind), descriptor, offset, raw[at : at + length]))
        at += length
    return found


class _File:
    """What is surely on disk of a file, and the writes and truncations (without content) since."""

    def __init__(self) -> None:
        self.synced = bytearray()
        self.since: list[tuple[int, bytes | None]] = []

    def sync(self) -> None:
        for change in self.since:
            _apply(self.synced, *change)
        self.since.clear()

    def fail(self, rng: Random) -> None:
        """A sync that fails: what it has not written the system believes to be written, so that no later one writes it."""
        self.synced = _left(self, rng, keep=rng.random())
        self.since.clear()


class Disk:
    """
    The files of one folder on a disk that keeps what was synced, and of the rest anything: any sector of any write, or none.

    A file's content is kept by a sync of the file, its name by one of the folder.
    """

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._names: dict[str, _File] = {}  # as the process sees them
        self._kept: dict[str, _File] = {}  # as the disk has them
        self._since: list[tuple[str, str, _File | None]] = []  # changes of names: gone, new, the file
        self._open: dict[int, _File | None] = {}  # None is the folder
        self.marks: list[str] = []  # what the process had told us

    def follow(self, line: Line) -> None:
        """Let one thing happen."""
        match line.kind:
            case "o":
                self._opened(line.descriptor, line.content.decode(), made=bool(line.offset))
            case "w" | "t":
                if (file := self._open[line.descriptor]) is not None:
                    file.since.append((line.offset, line.content if line.kind == "w" else None))
            case "s":
                self._sync(self._open[line.descriptor])
            case "f":
                if (file := self._open[line.descriptor]) is not None:
                    file.fail(self._rng)
            case "u":
                name = line.content.decode()
                del self._names[name]
                self._since.append((name, "", None))
            case "r":
                old, new = line.content.decode().split("\0")
                self._names[new] = file = self._names.pop(old)
                self._since.append((old, new, file))
            case "m":
                self.marks.append(line.content.decode())
            case unknown:
                raise AssertionError(unknown)

    def lose_power(self, rng: Random) -> dict[str, bytearray]:
        """The files that may be found when the power is back."""
        keep = rng.choice((0.0, 1.0, rng.random(), rng.random()))
        names = dict(self._kept)
        for change in self._since:
            if rng.random() < keep:
                _rename(names, *change)
        left = {name: _left(file, rng, keep) for name, file in names.items()}
        for name in left.keys() & {"hooks.db-shm"}:  # changed through a mapping, so that nobody knows
            left[name][:] = rng.randbytes(len(left[name]))
        return left

    def _opened(self, descriptor: int, name: str, *, made: bool) -> None:
        if name and made:
            self._names[name] = _File()
            self._since.append(("", name, self._names[name]))
        self._open[descriptor] = self._names[name] if name else None

    def _sync(self, file: _File | None) -> None:
        if file is not None:
            file.sync()
            return
        for change in self._since:
            _rename(self._kept, *change)
        self._since.clear()


def _rename(names: dict[str, _File], old: str, new: str, file: _File | None) -> None:
    names.pop(old, None)
    if file is not None:
        names[new] = file


def _apply(content: bytearray, offset: int, written: bytes | None) -> None:
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    if written is None:
        del content[offset:]
    else:
        content[offset : offset + len(written)] = written


def _left(file: _File, rng: Random, keep: float) -> bytearray:
    """What of *file* may be found: of what was not synced each sector with the probability *keep*, one in 50 of them torn."""
    content = bytearray(file.synced)
    sector = rng.choice((512, 4096))
    for offset, written in file.since:
        if written is None:
            if rng.random() < keep:
                _apply(content, offset, None)
            continue
        begin = 0
        while begin < len(written):
            end = min(begin + sector - (offset + begin) % sector, len(written))
            if rng.random() < keep:
                torn = keep < 1 and rng.random() < 0.02
                _apply(content, offset + begin, written[begin : rng.randrange(begin, end) if torn else end])
            begin = end
    return content


class Found(NamedTuple):
    """Of so many cuts, those that lost something that had been answered, and those that left a broken file; one of them."""

    cuts: int = 0
    lost: int = 0
    corrupt: int = 0
    example: str = ""

    def __add__(self, other: Found) -> Found:  # type: ignore[override]  # a sum, not a longer tuple
        sums = (self.cuts + other.cuts, self.lost + other.lost, self.corrupt + other.corrupt)
        return Found(*sums, self.example or other.example)


def cut(log: Path, count: int, seed: int, since: int = 1) -> Found:
    """Lose power *count* times, after random lines of *log* from number *since* on, and look at what is left."""
    lines, rng, found = read(log), Random(seed), Found()
    disk, done = Disk(rng), 0
    with TemporaryDirectory(dir=log.parent) as folder:
        for position in sorted(rng.randint(since, len(lines)) for _ in range(count)):
            for line in lines[done:position]:
                disk.follow(line)
            done = position
            lay(disk.lose_power(rng), Path(folder))
            found += look(Path(folder), disk.marks, where=f"seed {seed}, {count} cuts, after line {position}")
    return found


def look(folder: Path, marks: list[str], *, where: str) -> Found:
    """Whether the database in *folder* is whole, and has what *marks* say was answered."""
    try:
        with closing(sqlite3.connect(folder / "hooks.db", isolation_level=None)) as db:
            broken = db.execute("PRAGMA integrity_check(1)").fetchall() != [("ok",)]
            stored: set[str] = set()
            if db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'meta'").fetchone():  # the first start's first step
                stored = {text for (text,) in db.execute(_STORED)}
                locked = db.execute("SELECT 1 FROM meta WHERE name = 'vault_check'").fetchone()
                broken |= bool(db.execute(_HALF).fetchone()) or bool(locked and not (folder / "secret.key").stat().st_size)
    except sqlite3.DatabaseError as error:
        return Found(1, 0, 1, f"{where}: {error}")
    missing = not stored.issuperset(marks)
    return Found(1, int(missing), int(broken), where if missing or broken else "")


def lay(files: dict[str, bytearray], folder: Path) -> None:
    """Write *files* into *folder*, and nothing else."""
    for path in folder.iterdir():
        if path.name not in files:
            path.unlink()
    for name, content in files.items():
        descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.write(descriptor, content)
        os.close(descriptor)
