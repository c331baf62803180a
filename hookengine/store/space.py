"""
Room on the disk: from when on events are refused, and a reserve for what must be written even then.

On a full disk nothing can be written, not even that a delivery was made, nor what makes room. So new events stop first, and a
file of no use is given up for the results of the attempts in flight.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_RESERVE = 4 << 20  # or a 64th of a small disk
_LOW = 256 << 20  # or a 20th of a small disk
_WAL = 128 << 20  # or an eighth of a small disk
_FULL = (errno.ENOSPC, errno.EDQUOT)
EVERY = 1.0  # s between two looks


def least(disk: int) -> int:
    """Of a disk of so many bytes those that must be left for new events to be accepted."""
    return min(_LOW, disk // 20)


class Space:
    """Watches over the disk of the database at *path*; the reserve is a file beside it, whose *new_bytes* do not compress."""

    def __init__(self, path: Path, new_bytes: Callable[[int], bytes]) -> None:
        self._reserve = path.with_name(path.name + ".reserve")
        self._folder = path.parent
        self._new_bytes = new_bytes
        self._looked_at = -EVERY  # loop time
        self._lack: str | None = None

    def lack(self, now: float) -> str | None:
        """Why there is no room for new events at *now* (s, of the loop); None while there is some."""
        if now >= self._looked_at + EVERY:
            self._looked_at = now
            self._lack = self._look()
        return self._lack

    def of_wal(self) -> int:
        """Bytes that the WAL may take of the disk."""
        return self._of_disk(_WAL, 8)

    def has_reserve(self) -> bool:
        """Whether the reserve is there, or can be taken now."""
        size = self._of_disk(_RESERVE, 64)
        try:
            if self._reserve.exists() and self._reserve.stat().st_size >= size:
                return True
            with open(self._reserve, "wb", opener=_private) as file:
                file.write(self._new_bytes(size))
        except OSError as error:
            if error.errno in _FULL:
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
        if not self.has_reserve():
            return "the disk is full"
        disk = os.statvfs(self._folder)
        low = least(disk.f_blocks * disk.f_frsize)
        if disk.f_bavail * disk.f_frsize < low:
            return f"the disk has less than {low >> 20} MiB left" if low >> 20 else "the disk is nearly full"
        return None

    def _of_disk(self, size: int, part: int) -> int:
        disk = os.statvfs(self._folder)
        return min(size, disk.f_blocks * disk.f_frsize // part)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
