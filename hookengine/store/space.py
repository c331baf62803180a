"""
Room on the disk: from when on events are refused, and a reserve for what must be written even then.

On a full disk nothing can be written, not even that a delivery was made, nor what makes room. So new events stop first, and a
file of no use is given up for the results of the attempts in flight.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hookengine.store.faults import is_want_of_room
from hookengine.store.whereabouts import Files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_RESERVE = 4 << 20  # or a 64th of a small disk
_LOW = 256 << 20  # or a 20th of a small disk
_WAL = 128 << 20  # or an eighth of a small disk
EVERY = 1.0  # s between two looks, unless much is written sooner


def least(disk: int) -> int:
    """Of a disk of so many bytes those that must be left for new events to be accepted."""
    return min(_LOW, disk // 20)


class Space:
    """Watches over the disk of the database at *path*; the reserve is a file beside it, whose *new_bytes* do not compress."""

    def __init__(self, path: Path, new_bytes: Callable[[int], bytes]) -> None:
        files = Files(path)
        self._reserve, self._wal = files.reserve, files.wal
        self._folder = files.db.parent
        self._new_bytes = new_bytes
        self._looked_at = -EVERY  # loop time
        self._lack: str | None = None
        self.is_low = False  # whether a look found the disk low since the WAL was last emptied
        self.is_full = False  # whether a write found no room since then
        self._spare = 0  # bytes of the file that held nothing then
        self._written = 0  # bytes of payload since the last look
        self._much = 0  # as many take a quarter of what is kept free

    def lack(self, now: float) -> str | None:
        """Why there is no room for new events at *now* (s, of the loop); None while there is some."""
        if now >= self._looked_at + EVERY or self._written > self._much:
            self._looked_at, self._written = now, 0
            self._lack = self._look()
        return self._lack

    def wrote(self, size: int) -> None:
        """So many bytes of payload are stored: a small disk is full in less than a second."""
        self._written += size

    @property
    def is_tight(self) -> bool:
        """Whether the WAL has to give its room back."""
        return self.is_full or self.is_low

    def ran_out(self) -> None:
        """A write has found no room."""
        self.is_full = True

    def emptied(self, spare: int) -> None:
        """The WAL has given its room back, as far as it can; *spare* bytes of the file hold nothing, which events can take."""
        self.is_full, self.is_low, self._spare = False, False, spare

    def of_wal(self) -> int:
        """Bytes that the WAL may take of the disk."""
        return self._of_disk(_WAL, 8)

    def keep_reserve(self) -> bool:
        """See that the reserve is there; False if the disk has no room for it."""
        size = self._of_disk(_RESERVE, 64)
        try:
            if self._reserve.exists() and self._reserve.stat().st_size >= size:
                return True
            with open(self._reserve, "wb", opener=_private) as file:
                file.write(self._new_bytes(size))
        except OSError as error:
            if is_want_of_room(error):
                self._reserve.unlink(missing_ok=True)
                return False
        return True  # or it cannot be known, for want of descriptors for instance

    def give_up(self) -> bool:
        """Make room of the reserve; False if there is none."""
        try:
            self._reserve.unlink()
        except OSError:
            return False
        self._lack = "the disk is full"
        return True

    def _look(self) -> str | None:
        if not self.keep_reserve():
            self.is_low = True
            return "the disk is full"
        disk = os.statvfs(self._folder)
        low = least(disk.f_blocks * disk.f_frsize)
        self._much = low // 4
        free = disk.f_bavail * disk.f_frsize - self._to_fold()
        self.is_low = free < low
        if free + self._spare < low:
            return f"the disk has less than {low >> 20} MiB left" if low >> 20 else "the disk is nearly full"
        return None

    def _to_fold(self) -> int:
        """Bytes that the file may grow by when the WAL is folded, which keeps its own until it is emptied."""
        try:
            return self._wal.stat().st_size
        except OSError:
            return 0

    def _of_disk(self, size: int, part: int) -> int:
        disk = os.statvfs(self._folder)
        return min(size, disk.f_blocks * disk.f_frsize // part)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
