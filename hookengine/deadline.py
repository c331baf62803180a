"""Deadlines of many attempts on one timer of the event loop."""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from types import TracebackType

# When the timer itself comes this late, the loop stood still, and so did every attempt: what has arrived meanwhile is looked
# at before an attempt is cut.
_STALL = 0.05  # s

# What an end entails (a result, the next attempt) takes about a third of a millisecond: a hundred endpoints that began to hang
# together must not hold up everything else when they end.
_AT_ONCE = 4


class Deadlines:
    """
    `asyncio.timeout` for many short blocks at once, in one event loop.

    A timer for each would be a quarter of what a request costs under uvloop. Here one timer stands for the block that ends
    first; when it rings, all open blocks are looked through, and some of those whose time is over are cut: the others as soon
    as the loop has looked at what else there is.
    """

    __slots__ = ("_loop", "_open", "_rings_at", "_timer")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._open: dict[Deadline, None] = {}  # ordered: those of one moment are cut in the order in which they began
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = inf

    def after(self, delay: float) -> Deadline:
        """A block to be entered with `with`, which is cut after *delay* seconds; inside a task, as TimeoutError."""
        return Deadline(self, self._loop.time() + delay)

    def close(self) -> None:
        """Let go of the timer; no block is cut any more."""
        self._open.clear()
        self._ring()

    def _watch(self, deadline: Deadline) -> None:
        self._open[deadline] = None
        if deadline.when < self._rings_at:
            self._set_timer(deadline.when)

    def _forget(self, deadline: Deadline) -> None:
        self._open.pop(deadline, None)

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at = when
        self._timer = None if when == inf else self._loop.call_at(when, self._ring)

    def _ring(self) -> None:
        now = self._loop.time()
        stalled = now - self._rings_at > _STALL
        passed = []
        for deadline in self._open:
            if deadline.when > now:
                continue
            if stalled and not deadline.spared:
                deadline.spared = True
                deadline.when = now + _STALL
            else:
                passed.append(deadline)
        for deadline in passed[:_AT_ONCE]:
            del self._open[deadline]
            deadline.cut()
        self._set_timer(min((each.when for each in self._open), default=inf) if len(passed) <= _AT_ONCE else now)


class Deadline:
    """
    The deadline of one block.

    Before that is entered, it may be that of a future whose end the block would wait for: see `watch`.
    """

    __slots__ = ("_cancelling", "_owner", "_passed", "_task", "_what", "spared", "when")

    def __init__(self, owner: Deadlines, when: float) -> None:
        self._owner = owner
        self.when = when  # by the loop's clock
        self.spared = False  # whether it was put off once, after a stall
        self._passed = False

    @property
    def left(self) -> float:
        """The seconds until then."""
        return self.when - self._owner._loop.time()  # noqa: SLF001  # the two are one thing

    def watch(self, what: asyncio.Future[Any]) -> None:
        """Cancel *what* when the time is over; a block that then waits for it is cut as if it had waited all the time."""
        self._what = what
        self._owner._watch(self)  # noqa: SLF001  # the two are one thing

    def leave(self) -> None:
        """What was to be watched is over, in time."""
        self._owner._forget(self)  # noqa: SLF001

    def __enter__(self) -> Self:
        task = asyncio.current_task(self._owner._loop)  # noqa: SLF001  # without a loop it asks the system for our pid first
        if task is None:
            raise RuntimeError("a deadline is for a task")
        self._what = self._task = task
        self._cancelling = task.cancelling()
        if not self._passed:
            self._owner._watch(self)  # noqa: SLF001
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._owner._forget(self)  # noqa: SLF001
        # As asyncio.Timeout does it: a cancellation that somebody else asked for as well is theirs.
        if self._passed and self._task.uncancel() <= self._cancelling and isinstance(error, asyncio.CancelledError):
            raise TimeoutError from error

    def no_later_than(self, delay: float) -> None:
        """Move the deadline nearer, to *delay* seconds from now, if it is further away."""
        when = self._owner._loop.time() + delay  # noqa: SLF001  # as above
        if when < self.when and not self._passed:
            self.when = when
            self._owner._watch(self)  # noqa: SLF001

    def cut(self) -> None:
        """Cancel what is watched, or what the block waits for."""
        self._passed = self._what.cancel()  # not what has ended in the same moment: who goes on with that is cut in his turn
