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

    __slots__ = ("_counter", "_head", "_last", "_tails")

    def __init__(self) -> None:
        self._last = 0  # ms of the newest id
        self._head = ""  # of ids with that time, up to the version
        self._counter = 0
        self._tails: list[str] = []  # of ids to come: the variant and 62 random bits

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
        if not self._tails:
            self._tails = self._new_tails()
        return f"{prefix}_{self._head}{self._counter:03x}-{self._tails.pop()}"

    def _start(self, ms: int) -> None:
        self._last, self._counter = ms, 0
        self._head = f"{ms >> 16:08x}-{ms & 0xFFFF:04x}-7"

    def random(self) -> float:
        """A number in [0, 1), for jitter."""
        return (int.from_bytes(self.new_bytes(8), "big") >> 11) * 2.0**-53

    def new_bytes(self, count: int) -> bytes:
        """*count* bytes fit for a secret."""
        return secrets.token_bytes(count)

    def _new_tails(self) -> list[str]:
        digits = self.new_bytes(_POOL).hex()
        groups = (digits[start : start + 16] for start in range(0, len(digits), 16))
        return [f"{_VARIANT[group[0]]}{group[1:4]}-{group[4:]}" for group in groups]
