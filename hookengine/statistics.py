"""How attempts are counted: by the hour, by the way they ended, and by the time they took."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from msgspec import Struct

from hookengine.models import FINAL_STATES

if TYPE_CHECKING:
    from collections.abc import Iterable

HOUR = 3_600_000  # ms

# The longest time of each bucket in ms; what takes longer is in one more. A bucket is a third to a half of its bounds wide, so
# a percentile is about that exact. Attempts that are cut after 5, 10, 15, 30 or 60 s lie at the upper ends of theirs.
BOUNDS = (
    *(1, 2, 3, 5, 7, 10, 14, 20, 30, 40, 50, 70, 100, 140, 200, 300, 400, 500, 700, 1_000, 1_400, 2_000, 3_000, 4_000, 5_100),
    *(7_000, 10_200, 15_300, 20_000, 30_600, 61_000, 300_000),
)
NO_ATTEMPT = -1  # the bucket of a delivery that ended without one


class Tally(Struct, frozen=True, kw_only=True, gc=False):
    """How many ended alike; '' and 0 stand for nothing."""

    state: str
    label: str
    status_code: int
    error_code: str
    bucket: int
    count: int


class Summary:
    """What tallies come to, each kind of count by itself."""

    def __init__(self, tallies: Iterable[Tally]) -> None:
        self.states: dict[str, int] = dict.fromkeys(FINAL_STATES, 0)
        self.labels: dict[str, int] = {}
        self.attempts = 0
        self.status_codes: dict[str, int] = {}
        self.error_codes: dict[str, int] = {}
        self._took = [0] * (len(BOUNDS) + 1)
        for tally in tallies:
            self._add(tally)

    def percentile(self, share: float) -> int | None:
        """
        The ms within which *share* of the attempts ended, None without any.

        Those in a bucket are taken to lie evenly in it.
        """
        wanted = share * self.attempts
        passed = 0
        for number, count in enumerate(self._took):
            if count and passed + count >= wanted:
                low = BOUNDS[number - 1] if number else 0
                high = BOUNDS[min(number, len(BOUNDS) - 1)]
                return round(low + (high - low) * (wanted - passed) / count)
            passed += count
        return None

    def _add(self, tally: Tally) -> None:
        for counts, name in (
            (self.states, tally.state),
            (self.labels, tally.label),
            (self.status_codes, str(tally.status_code or "")),
            (self.error_codes, tally.error_code),
        ):
            if name:
                counts[name] = counts.get(name, 0) + tally.count
        if tally.bucket != NO_ATTEMPT:
            self.attempts += tally.count
            self._took[tally.bucket] += tally.count


def hour_of(time: int) -> int:
    """The beginning of the hour that *time* is in."""
    return time - time % HOUR


def bucket_of(duration: int) -> int:
    """The bucket of an attempt that took *duration* ms."""
    return bisect_left(BOUNDS, duration)
