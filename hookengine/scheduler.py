"""
The priority queue: what may go now, and when to ask again.

It is a window on the store. Per subscription there is a lane, per lane and priority a queue in the order (`due_at`, `seq`) and
a mark: every pending row before the mark is in the queue or in flight, every row from the mark on is on disk only. Without a
mark nothing is on disk only.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from heapq import heappop, heappush
from typing import TYPE_CHECKING, NamedTuple

from hookengine.models import Delivery, Priority, Rank, Standing

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Mark = tuple[int, int]  # (due_at, seq) of the first row that is on disk only

CHUNK = 500  # rows of one refill
PREFETCH = 1_000  # ms: rows due within this are fetched ahead of their time
FROM_THE_START: Mark = (0, 0)
_PRIORITIES = tuple(Priority)
_NOTHING_ON_DISK: list[Mark | None] = [None, None, None]


class Refill(NamedTuple):
    """A request to the store: up to `limit` rows of one lane and priority, from `mark` on."""

    subscription: int
    priority: Priority
    mark: Mark
    limit: int


class _Entry(NamedTuple):
    due_at: int
    seq: int
    delivery: Delivery  # never compared: `seq` is unique


class _Lane:
    """The queue of one subscription."""

    __slots__ = (
        "asked",
        "in_flight",
        "marks",
        "max_concurrency",
        "open",
        "queues",
        "size",
        "standing",
        "subscription",
        "timer",
        "turn",
    )

    def __init__(self, subscription: int) -> None:
        self.subscription = subscription
        self.queues: tuple[deque[_Entry], ...] = (deque(), deque(), deque())  # by priority
        self.marks: list[Mark | None] = [None, None, None]
        self.asked = [False, False, False]  # a refill is on its way
        self.size = 0
        self.in_flight = 0
        self.standing = Standing(width=1, rank=Rank.UNTRIED)
        self.max_concurrency = 1
        self.open = False
        self.turn = 0  # its place in line; 0 while it does not stand in one
        self.timer: int | None = None  # the time at which it looks again

    @property
    def full(self) -> bool:
        """Whether it holds all the slots that it may have."""
        return self.in_flight >= min(self.standing.width, self.max_concurrency)

    def ready_queue(self, now: int) -> deque[_Entry] | None:
        """The queue whose head goes next, or None if none is due."""
        for queue in self.queues:
            if queue and queue[0].due_at <= now:
                return queue
        return None

    def next_time(self) -> int | None:
        """When the first of its entries is due."""
        return min((queue[0].due_at for queue in self.queues if queue), default=None)

    def due_before(self, priority: Priority, time: int) -> int:
        """How many of its entries of *priority* or a smaller one are due before *time*."""
        return sum(bisect_left(queue, (time,)) for queue in self.queues[: priority + 1])

    def last_queue(self, now: int) -> int:
        """The priority whose tail can best be spared: a waiting one before a due one, then the lowest, then the latest."""
        return max(
            (priority for priority in _PRIORITIES if self.queues[priority]),
            key=lambda p: (self.queues[p][-1].due_at > now, p),
        )


class Scheduler:
    """
    A window of at most *queue_size* deliveries, of which at most *concurrency* are in flight.

    Never awaits. Turns between subscriptions are fair whatever the priority of their events; within one, the smaller priority
    goes first, then the earlier due. Subscriptions that are not trusted hold together at most half of the slots; none gets a
    further slot unless those it has are fewer than half of the free ones.
    """

    def __init__(self, *, concurrency: int, queue_size: int) -> None:
        self._concurrency = concurrency
        self._queue_size = queue_size
        self._lanes: dict[int, _Lane] = {}
        self._in_flight: dict[int, _Lane] = {}  # by delivery
        self._doubtful = 0  # in flight for subscriptions that are not trusted
        self._size = 0  # entries in all queues
        self._filled = 0  # lanes with entries
        self._turn = 0
        self._lines: dict[Rank, deque[tuple[int, _Lane]]] = {rank: deque() for rank in Rank}  # (turn, lane)
        self._timers: list[tuple[int, int, _Lane]] = []
        self._hungry: dict[int, _Lane] = {}  # lanes that may want a refill

    def __repr__(self) -> str:
        return (
            f"<Scheduler window={self._size}/{self._queue_size} in_flight={len(self._in_flight)}/{self._concurrency} "
            f"lanes={sum(lane.open for lane in self._lanes.values())}>"
        )

    @property
    def in_flight(self) -> int:
        """How many deliveries are taken and not released."""
        return len(self._in_flight)

    @property
    def size(self) -> int:
        """How many deliveries wait in memory."""
        return self._size

    def is_in_flight(self, seq: int) -> bool:
        """Whether delivery *seq* is taken and not released."""
        return seq in self._in_flight

    def open(
        self,
        subscription: int,
        standing: Standing,
        *,
        max_concurrency: int,
        marks: Sequence[Mark | None] = (None, None, None),
        now: int,
    ) -> None:
        """Begin to serve *subscription*, whose rows from *marks* on are on disk; of an open lane only the limits change."""
        lane = self._lanes.get(subscription)
        if lane is None:
            lane = self._lanes[subscription] = _Lane(subscription)
        lane.max_concurrency = max_concurrency
        self._stand(lane, standing)
        if not lane.open:
            lane.open = True
            lane.marks = list(marks)
        self._look(lane, now)

    def close(self, subscription: int) -> None:
        """Forget what waits for *subscription*; what is in flight ends as it will."""
        lane = self._lanes.get(subscription)
        if lane is None:
            return
        self._resize(lane, -lane.size)
        lane.open = False
        lane.turn = 0
        lane.marks = [None, None, None]
        for queue in lane.queues:
            queue.clear()
        self._hungry.pop(subscription, None)
        self._drop_idle(lane)

    def push(self, delivery: Delivery, *, now: int) -> bool:
        """Take in a committed pending delivery; False if it stays on disk, to be fetched when its lane gets there."""
        lane = self._lanes.get(delivery.subscription)
        if lane is None or not lane.open:
            return False
        entry = _Entry(delivery.due_at, delivery.seq, delivery)
        mark = lane.marks[delivery.priority]
        if mark is not None and entry[:2] >= mark:
            self._look(lane, now)
            return False
        queue = lane.queues[delivery.priority]
        if not queue or queue[-1] < entry:
            queue.append(entry)
        else:
            insort(queue, entry)
        self._resize(lane, 1)
        if self._size > self._queue_size:
            self._make_room(lane, now)
        self._look(lane, now)
        return True

    def discard(self, delivery: Delivery) -> None:
        """Forget one waiting delivery, given as it was pushed."""
        lane = self._lanes.get(delivery.subscription)
        if lane is None:
            return
        queue = lane.queues[delivery.priority]
        at = bisect_left(queue, (delivery.due_at, delivery.seq))
        if at < len(queue) and queue[at].seq == delivery.seq:
            del queue[at]
            self._resize(lane, -1)

    def take(self, now: int, limit: int) -> list[Delivery]:
        """What may go now, at most *limit*: each holds a slot until it is released."""
        self._ring_timers(now)
        taken: list[Delivery] = []
        passed_over: list[tuple[int, _Lane]] = []  # runnable, but not entitled to one more slot
        while len(taken) < limit and (free := self._concurrency - len(self._in_flight)) > 0:
            place = self._next_in_line()
            if place is None:
                break
            _, lane = place
            queue = self._runnable(lane, now)
            if queue is None:
                self._look(lane, now)
            elif lane.in_flight and lane.in_flight * 2 >= free:
                passed_over.append(place)
            else:
                taken.append(self._start(lane, queue.popleft()))
                self._look(lane, now)
        for turn, lane in reversed(passed_over):  # they keep their places
            lane.turn = turn
            self._lines[lane.standing.rank].appendleft((turn, lane))
        return taken

    def release(self, seq: int, standing: Standing | None, *, now: int) -> None:
        """Give back the slot of delivery *seq*; *standing* is what its subscription has earned, None if nothing changed."""
        lane = self._in_flight.pop(seq)
        lane.in_flight -= 1
        if lane.standing.rank is not Rank.TRUSTED:
            self._doubtful -= 1
        if standing is not None:
            self._stand(lane, standing)
        self._look(lane, now)
        self._drop_idle(lane)

    def standing(self, subscription: int) -> Standing | None:
        """What *subscription* may have now; None if it has no lane."""
        lane = self._lanes.get(subscription)
        return None if lane is None else lane.standing

    def refills(self, now: int) -> list[Refill]:
        """What to fetch from the store; each is asked for once and answered by `refilled`."""
        wanted = []
        for subscription, lane in list(self._hungry.items()):
            del self._hungry[subscription]
            for priority in _PRIORITIES:
                mark = lane.marks[priority]
                if mark is not None and (limit := self._appetite(lane, priority, mark, now)):
                    lane.asked[priority] = True
                    wanted.append(Refill(subscription, priority, mark, limit))
        return wanted

    def refilled(self, refill: Refill, rows: Iterable[Delivery], mark: Mark | None, *, now: int) -> None:
        """
        The answer to *refill*: its rows, and the first row after them.

        Must be given before any later commit is pushed. A row in flight is skipped: its result is not committed yet.
        """
        lane = self._lanes.get(refill.subscription)
        if lane is None:
            return
        lane.asked[refill.priority] = False
        # An eviction meanwhile moved the mark back, or the lane was closed: rows between would be lost, so ask again.
        if lane.open and lane.marks[refill.priority] == refill.mark:
            lane.marks[refill.priority] = mark
            for delivery in rows:
                if delivery.seq not in self._in_flight:
                    self.push(delivery, now=now)
        self._look(lane, now)

    def next_due(self) -> int | None:
        """When to ask again if nothing happens before; None if only a push or a release can change the answer."""
        return self._timers[0][0] if self._timers else None

    def _runnable(self, lane: _Lane, now: int) -> deque[_Entry] | None:
        if not lane.open or lane.full or lane.standing.resume_at > now:
            return None
        return lane.ready_queue(now)

    def _look(self, lane: _Lane, now: int) -> None:
        """Put *lane* where its state says: in line, on a timer, in want of a refill, or none of these."""
        if not lane.open:
            return
        next_time: int | None = None
        if lane.size and not lane.full:
            if self._runnable(lane, now) is not None:
                if not lane.turn:
                    self._line_up(lane)
            else:
                due_at = lane.next_time()
                next_time = None if due_at is None else max(due_at, lane.standing.resume_at)
        if lane.marks != _NOTHING_ON_DISK:
            for priority in _PRIORITIES:
                mark = lane.marks[priority]
                if mark is None or lane.asked[priority]:
                    continue
                if mark[0] - PREFETCH > now:
                    next_time = min(mark[0] - PREFETCH, next_time or mark[0])
                elif self._appetite(lane, priority, mark, now):
                    self._hungry[lane.subscription] = lane
        if next_time is not None and (lane.timer is None or next_time < lane.timer):
            lane.timer = next_time
            heappush(self._timers, (next_time, lane.subscription, lane))

    def _line_up(self, lane: _Lane) -> None:
        self._turn += 1
        lane.turn = self._turn
        self._lines[lane.standing.rank].append((lane.turn, lane))

    def _next_in_line(self) -> tuple[int, _Lane] | None:
        """The lane whose turn it is, with its turn, taken out of its line."""
        best = self._head(Rank.TRUSTED)
        if self._doubtful < max(1, self._concurrency // 2):
            doubtful = self._head(Rank.UNTRIED) or self._head(Rank.FAILING)
            if doubtful is not None and (best is None or doubtful[0] < best[0]):
                best = doubtful
        if best is not None:
            lane = best[1]
            self._lines[lane.standing.rank].popleft()
            lane.turn = 0
        return best

    def _head(self, rank: Rank) -> tuple[int, _Lane] | None:
        line = self._lines[rank]
        while line:
            turn, lane = line[0]
            if lane.turn == turn:
                return line[0]
            line.popleft()  # it stands elsewhere since, or nowhere
        return None

    def _start(self, lane: _Lane, entry: _Entry) -> Delivery:
        self._resize(lane, -1)
        lane.in_flight += 1
        self._in_flight[entry.seq] = lane
        if lane.standing.rank is not Rank.TRUSTED:
            self._doubtful += 1
        return entry.delivery

    def _stand(self, lane: _Lane, standing: Standing) -> None:
        was, is_now = lane.standing.rank, standing.rank
        lane.standing = standing
        if was is is_now:
            return
        self._doubtful += lane.in_flight * ((is_now is not Rank.TRUSTED) - (was is not Rank.TRUSTED))
        if lane.turn:
            self._line_up(lane)  # the place in its old line is passed over

    def _resize(self, lane: _Lane, by: int) -> None:
        before = lane.size
        lane.size += by
        self._size += by
        self._filled += (lane.size > 0) - (before > 0)

    def _share(self) -> int:
        return max(1, self._queue_size // max(1, self._filled))

    def _appetite(self, lane: _Lane, priority: Priority, mark: Mark, now: int) -> int:
        """How many rows of *priority* to fetch now: a chunk, if the lane's share has room beside what goes before them."""
        soon = now + PREFETCH
        if not lane.open or lane.asked[priority] or mark[0] > soon:
            return 0
        share = self._share()
        chunk = min(CHUNK, max(1, share // 2))
        return chunk if lane.due_before(priority, soon + 1) + chunk <= share else 0

    def _make_room(self, lane: _Lane, now: int) -> None:
        """Bring the window back to its size, at the cost of those who hold more than their share."""
        share = self._share()
        if lane.size > share:
            self._evict(lane, now)
            return
        for other in self._lanes.values():
            while other.size > share:
                self._evict(other, now)
        if self._size > self._queue_size:
            self._evict(lane, now)

    def _evict(self, lane: _Lane, now: int) -> None:
        priority = lane.last_queue(now)
        entry = lane.queues[priority].pop()
        lane.marks[priority] = entry[:2]
        self._resize(lane, -1)

    def _ring_timers(self, now: int) -> None:
        while self._timers and self._timers[0][0] <= now:
            at, _, lane = heappop(self._timers)
            if lane.timer == at:
                lane.timer = None
                self._look(lane, now)

    def _drop_idle(self, lane: _Lane) -> None:
        """A closed lane is forgotten once nothing of it is in flight."""
        if not lane.open and not lane.in_flight:
            self._lanes.pop(lane.subscription, None)
