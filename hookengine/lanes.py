"""The lanes of the scheduler: what waits for one subscription, and in which order lanes stand that wait for the same."""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

from hookengine.models import Delivery, Priority, Rank, Standing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hookengine.pace import Pace

Mark = tuple[int, int]  # (due_at, seq): every row before it is in memory or in flight
Entry = tuple[int, int, Delivery]  # (due_at, seq, delivery); `seq` is unique, so deliveries are never compared

# The marks of a lane, by priority: with nothing on disk only, and with all of it. Lists, as a lane's own, to be compared with.
FROM_THE_START: Mark = (0, 0)
NOTHING_ON_DISK: Sequence[Mark | None] = [None, None, None]
ALL_ON_DISK: Sequence[Mark | None] = [FROM_THE_START] * 3
PRIORITIES = tuple(Priority)
# A name of its own: see `models`.
_NORMAL = Priority.NORMAL


class Lane:
    """The queue of one subscription, which the scheduler owns and changes."""

    __slots__ = (
        "asked",
        "in_flight",
        "marks",
        "max_concurrency",
        "open",
        "overtaken",
        "pace",
        "place",
        "queues",
        "size",
        "slots",
        "standing",
        "subscription",
        "timer",
        "turn",
        "unrecorded",
    )

    def __init__(self, subscription: int) -> None:
        self.subscription = subscription
        self.queues: tuple[deque[Entry], ...] = (deque(), deque(), deque())  # by priority
        self.marks = list(NOTHING_ON_DISK)
        self.asked = [False, False, False]  # a refill is on its way
        self.overtaken = [0, 0, 0]  # by priority: how many went before it, since one of it went, while some of it was due
        self.size = 0
        self.in_flight = 0
        self.unrecorded = 0  # that went well, and are not released
        self.standing = Standing(width=1, rank=Rank.UNTRIED)
        self.max_concurrency = 1
        self.slots = 1  # the smaller of its width and `max_concurrency`
        self.pace: Pace | None = None
        self.open = False
        self.place: LaneGroup | None = None  # where it stands; nowhere without entries
        self.turn = (0, 0)  # (in flight, number) when it came to its place
        self.timer: int | None = None  # the time at which it looks again

    @property
    def full(self) -> bool:
        """Whether it holds all the slots that it may have."""
        return self.in_flight >= self.slots

    def next_queue(self, now: int, overtaking: int) -> deque[Entry] | None:
        """The queue whose head goes now: of those due the first, or behind it the first that was overtaken so often."""
        high, normal, low = self.queues
        if normal and not high and not low and self.marks == NOTHING_ON_DISK:  # as it mostly is
            if normal[0][0] > now:
                return None
            self.overtaken[_NORMAL] = 0
            return normal
        chosen: int | None = None
        for priority, queue in enumerate(self.queues):
            in_memory = queue and queue[0][0] <= now
            if in_memory and (chosen is None or self.overtaken[priority] >= overtaking > self.overtaken[chosen]):
                chosen = priority
            elif chosen is not None and (in_memory or ((mark := self.marks[priority]) is not None and mark[0] <= now)):
                self.overtaken[priority] += 1
        if chosen is None:
            return None
        self.overtaken[chosen] = 0
        return self.queues[chosen]

    def ready_at(self) -> int:
        """When the first of its entries may go; it has some."""
        high, normal, low = self.queues
        if normal and not high and not low:  # as it mostly is
            return max(self.resume_at, normal[0][0])
        return max(self.resume_at, min([queue[0][0] for queue in self.queues if queue]))

    def tired(self, overtaking: int) -> list[int]:
        """The priorities that were overtaken *overtaking* times, so that one of each goes before the others."""
        return [priority for priority in PRIORITIES if self.overtaken[priority] >= overtaking]

    @property
    def resume_at(self) -> int:
        """Before this nothing of it may go, by its breaker or its pace."""
        resume_at = self.standing.resume_at
        return resume_at if self.pace is None else max(resume_at, int(self.pace.next_at))

    def due_before(self, priority: Priority, time: int) -> int:
        """How many of its entries go before a row of *priority* that is due at *time*."""
        return sum([bisect_left(queue, (time + 1,)) for queue in self.queues[: priority + 1] if queue])

    def spare_priority(self, now: int, overtaking: int) -> int:
        """
        The priority whose tail can best be spared: a waiting one before a due one, then the lowest, then the latest.

        What was overtaken *overtaking* times keeps one entry as long as there are others.
        """
        return max(
            (priority for priority in PRIORITIES if self.queues[priority]),
            key=lambda p: (self.queues[p][-1][0] > now, len(self.queues[p]) > 1 or self.overtaken[p] < overtaking, p),
        )


class LaneGroup:
    """Those that stand for the same reason: first those with the fewest in flight, of these the one that came first."""

    __slots__ = ("_lanes", "length")

    def __init__(self) -> None:
        self._lanes: dict[int, OrderedDict[int, Lane]] = {}  # by in flight; never empty ones
        self.length = 0

    def __iter__(self) -> Iterator[Lane]:
        return (lane for lanes in self._lanes.values() for lane in lanes.values())

    def add(self, lane: Lane) -> None:
        """Let *lane* stand here, as the last of those with as many in flight."""
        lanes = self._lanes.get(lane.in_flight)
        if lanes is None:
            lanes = self._lanes[lane.in_flight] = OrderedDict()
        lanes[lane.subscription] = lane
        self.length += 1

    def remove(self, lane: Lane) -> None:
        """Let *lane* go, which stands where its `turn` says."""
        lanes = self._lanes[lane.turn[0]]
        del lanes[lane.subscription]
        if not lanes:
            del self._lanes[lane.turn[0]]
        self.length -= 1

    def first(self) -> Lane | None:
        """The one whose turn it is."""
        return next(iter(self._lanes[min(self._lanes)].values())) if self.length else None

    def last(self) -> Lane | None:
        """The one whose turn comes last."""
        return next(reversed(self._lanes[max(self._lanes)].values())) if self.length else None
