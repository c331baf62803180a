"""Faults of this machine: how long nothing is taken after one, and how often an attempt that it cut is recorded."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import TYPE_CHECKING, assert_never

from hookengine import health
from hookengine.models import Accepted, Broken, ErrorCode, Interrupted, Outcome, Refused, Unreachable
from hookengine.observers import LocalTrouble

if TYPE_CHECKING:
    from collections.abc import Callable

    from hookengine.observers import Happening

_SHORTEST_PAUSE = 100  # ms without taking after a fault of this machine, doubling to the longest
_LONGEST_PAUSE = 5_000
_INTERRUPTED_EVERY = 1_000  # ms between two records of one delivery's interrupted attempts

# These endings need no working network, so that they do not show that it works again.
_PROVES_NOTHING = frozenset(
    {
        ErrorCode.BLOCKED_ADDRESS,
        ErrorCode.SELF_CONNECTION,
        ErrorCode.INVALID_URL,
        ErrorCode.DNS_TEMPORARY,
        ErrorCode.AUTH_FAILED,
    }
)


class Outage:
    """
    Faults of this machine, which are no endpoint's: after one nothing is taken for a while.

    The next one makes it twice as long, until a request has got out.
    """

    def __init__(self, observe: Callable[[Happening], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._observe = observe
        self._until = 0.0  # loop time
        self._told_until = 0.0  # loop time: when what keeps back some is news again
        self._pause = _SHORTEST_PAUSE

    @property
    def left(self) -> float:
        """The seconds that nothing is to be taken for; 0 where all is well."""
        return max(0.0, self._until - self._loop.time())

    def weigh(self, outcome: Outcome) -> None:
        """What *outcome* says of this machine: that something goes out, that nothing does, or neither."""
        match outcome:
            case Accepted() | Refused():
                self._pause = _SHORTEST_PAUSE
            case Interrupted(error=error, keeps_nobody_else=True) if error is not None:
                self._tell(f"{error.code}: {error.detail}")
            case Interrupted(error=error) if error is not None:
                self.begin(f"{error.code}: {error.detail}")
            case Unreachable(error=error) if error.code not in _PROVES_NOTHING:
                self._pause = _SHORTEST_PAUSE
            case Unreachable() | Broken() | Interrupted():
                pass
            case _:
                assert_never(outcome)

    def _tell(self, error: str) -> None:
        """Those whom it concerns wait, each for itself (`health.restand`); all others go on."""
        now = self._loop.time()
        if now >= self._told_until:
            self._told_until = now + health.OWN_PAUSE / 1000
            self._observe(LocalTrouble(error=error, pause=health.OWN_PAUSE))

    def begin(self, error: str) -> None:
        """Nothing goes out, because of *error*: wait, twice as long as the last time."""
        now = self._loop.time()
        if now < self._until:
            return  # others of the same moment
        self._observe(LocalTrouble(error=error, pause=self._pause))
        self._until = now + self._pause / 1000
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)


class Interruptions:
    """When an interrupted attempt of each delivery was last recorded; forgotten once that is a second ago."""

    def __init__(self) -> None:
        self._recorded_at: dict[int, int] = {}  # ms, in this order

    def is_repetition(self, seq: int, at: int) -> bool:
        """Whether one of this delivery was recorded less than a second before *at*; else this one is."""
        # Each call drops two of the oldest if their second is over, so that no more stay than come in a second.
        for known in {seq, *islice(self._recorded_at, 2)} & self._recorded_at.keys():
            if not 0 <= at - self._recorded_at[known] < _INTERRUPTED_EVERY:
                del self._recorded_at[known]
        if seq in self._recorded_at:
            return True
        self._recorded_at[seq] = at
        return False

    def forget(self, seq: int) -> None:
        """An attempt of this delivery has ended otherwise."""
        self._recorded_at.pop(seq, None)
