"""Wall time and new ids: the only reader of `time` and `secrets`."""

from __future__ import annotations

import secrets
import time

_POOL = 4096  # random bytes fetched at once: a system call for each id took a tenth of an id's time


class Clock:
    """
    The wall clock, and ids that sort in the order of their making.

    One per engine; not for use from several threads.
    """

    __slots__ = ("_counter", "_last", "_pool", "_used")

    def __init__(self) -> None:
        self._last = 0  # ms of the newest id
        self._counter = 0
        self._pool = b""
        self._used = 0

    def now(self) -> int:
        """Milliseconds since the epoch."""
        return time.time_ns() // 1_000_000

    def new_id(self, prefix: str) -> str:
        """
        *prefix*, an underscore and a UUIDv7 (RFC 9562, 5.7) greater than all before it.

        The 12 bits beside the version count within a millisecond (RFC 9562, 6.2, method 1); a clock that stands still or goes
        back does not break the order.
        """
        now = self.now()
        if now > self._last:
            self._last, self._counter = now, 0
        else:
            self._counter += 1
            if self._counter > 0xFFF:
                self._last, self._counter = self._last + 1, 0
        ms, tail = self._last, self._random_bits() >> 2 | 0x8000_0000_0000_0000
        return (
            f"{prefix}_{ms >> 16:08x}-{ms & 0xFFFF:04x}-7{self._counter:03x}-{tail >> 48:04x}-{tail & 0xFFFF_FFFF_FFFF:012x}"
        )

    def random(self) -> float:
        """A number in [0, 1), for jitter."""
        return (self._random_bits() >> 11) * 2.0**-53

    def new_bytes(self, count: int) -> bytes:
        """*count* bytes fit for a secret."""
        return secrets.token_bytes(count)

    def _random_bits(self) -> int:
        """64 random bits, none used twice."""
        if self._used >= len(self._pool):
            self._pool, self._used = secrets.token_bytes(_POOL), 0
        self._used += 8
        return int.from_bytes(self._pool[self._used - 8 : self._used], "big")
