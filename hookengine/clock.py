"""Wall time, new ids and what measurements read: the only reader of `time` and `secrets`."""

from __future__ import annotations

import secrets
import time

_POOL = 4096  # random bytes fetched at once: a system call for each id took a tenth of an id's time
# The first digit behind the version with its two upper bits set to the variant (RFC 9562, 4.1).
_VARIANT = {digit: "89ab"[int(digit, 16) & 3] for digit in "0123456789abcdef"}


def elapsed() -> float:
    """Seconds of a clock that never goes back and that all processes of this machine share; its zero means nothing."""
    return time.monotonic()


def cpu_time() -> float:
    """Seconds that processors have worked for this process."""
    return time.process_time()


class Clock:
    """
    The wall clock, and ids that sort in the order of their making.

    One per engine; not for use from several threads.
    """

    __slots__ = ("_counter", "_head", "_last", "_pool", "_used")

    def __init__(self) -> None:
        self._last = 0  # ms of the newest id
        self._head = ""  # of ids with that time, up to the version
        self._counter = 0
        self._pool = ""
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
            self._start(now)
        elif self._counter == 0xFFF:
            self._start(self._last + 1)
        else:
            self._counter += 1
        tail = self._random_digits()
        return f"{prefix}_{self._head}{self._counter:03x}-{_VARIANT[tail[0]]}{tail[1:4]}-{tail[4:]}"

    def _start(self, ms: int) -> None:
        self._last, self._counter = ms, 0
        self._head = f"{ms >> 16:08x}-{ms & 0xFFFF:04x}-7"

    def random(self) -> float:
        """A number in [0, 1), for jitter."""
        return (int(self._random_digits(), 16) >> 11) * 2.0**-53

    def new_bytes(self, count: int) -> bytes:
        """*count* bytes fit for a secret."""
        return secrets.token_bytes(count)

    def _random_digits(self) -> str:
        """64 random bits in hexadecimal, none used twice."""
        if self._used >= len(self._pool):
            self._pool, self._used = secrets.token_hex(_POOL), 0
        self._used += 16
        return self._pool[self._used - 16 : self._used]
