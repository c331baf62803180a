"""
The priority queue: what may go now, and when to ask again.

It is a window on the store. Per subscription there is a lane, per lane and priority a queue in the order (`due_at`, `seq`) and
a mark: every pending row before the mark is in the queue or in flight, every row from the mark on is on disk only, if it is
not in flight. Without a mark nothing is on disk only.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from heapq import heapify, heappop, heappush
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from hookengine.lanes import NOTHING_ON_DISK, PRIORITIES, Entry, Lane, LaneGroup, Mark
from hookengine.models import Delivery, Priority, Rank, Standing
from hookengine.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

CHUNK = 500  # rows of one refill
PREFETCH = 1_000  # ms: rows due within this are fetched ahead of their time
OVERTAKING = 100  # times that what is due is overtaken by higher priorities, before one of it goes
# Names of their own: see `models`.
_TRUSTED, _UNTRIED, _FAILING = Rank


class Refill(NamedTuple):
    """A request to the store: up to `limit` rows of one lane and priority, from `mark` on."""

    subscription: int
    priority: Priority
    mark: Mark
    limit: int


class Scheduler:
    """
    A window of at most *queue_size* deliveries, beside at most *concurrency* in flight.

    Never awaits. Between subscriptions turns are fair whatever the priority of their events: who has fewest in flight goes
    first, then who has stood longest. Within one, the smaller priority goes first, then the earlier due; but of what is due
    and was overtaken *overtaking* times by smaller priorities, one goes. Subscriptions that are not trusted hold together at
    most half of the slots; none gets a further slot unless those it has are fewer than half of the free ones. *queue_size* is
    at least *concurrency*.
    """

    def __init__(self, *, concurrency: int, queue_size: int, overtaking: int = OVERTAKING) -> None:
        self._concurrency = concurrency
        self._queue_size = queue_size
        self._overtaking = overtaking
        self._lanes: dict[int, Lane] = {}
        self._in_flight: dict[int, Lane] = {}  # by delivery: all that are taken and not released
        self._unrecorded: set[int] = set()  # those of them that went well: they hold no slot of their lane any more
        self._doubtful = 0  # in flight for subscriptions that are not trusted
        self._size = 0  # entries in all queues
        self._turn = 0
        # A lane with entries is in one place: in the line of its rank, or it has no slot left, or nothing of it may go yet.
        self._lines = tuple(LaneGroup() for _ in Rank)
        self._blocked = LaneGroup()
        self._waiting = LaneGroup()
        # Lanes whose place may not be theirs any more. They are looked at before that matters, once for all that happened to
        # them, and not at each push, success and release: a twentieth of a delivery's bytecodes (docs/performance.md).
        self._touched: dict[int, Lane] = {}
        self._timers: list[tuple[int, int, Lane]] = []  # (time, number, lane)
        self._hungry: dict[Rank, OrderedDict[int, Lane]] = {rank: OrderedDict() for rank in Rank}  # may want a refill
        self._coming = 0  # rows asked for
        self._paced: dict[int, Pace] = {}  # of those that have no pace now, or are not served: as it was last

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

    def open(
        self,
        subscription: int,
        standing: Standing,
        *,
        max_concurrency: int,
        pace: float = 0.0,
        next_at: float = 0.0,
        marks: Sequence[Mark | None] = NOTHING_ON_DISK,
        now: int,
    ) -> None:
        """
        Begin to serve *subscription*, whose rows from *marks* on are on disk; of an open lane only the limits change.

        *pace* is the milliseconds from one taking to the next, at least; 0 for none. Nothing of it is taken before *next_at*,
        nor before its pace allows it, also if it was closed since.
        """
        lane = self._lanes.get(subscription)
        if lane is None:
            lane = self._lanes[subscription] = Lane(subscription)
        if not lane.open:
            lane.open = True
            lane.marks = list(marks)
        lane.max_concurrency = max_concurrency
        if pace:
            lane.pace = self._paced.pop(subscription, None) or lane.pace or Pace(pace)
            lane.pace.change(pace, next_at)
        elif lane.pace is not None:
            self._paced[subscription] = lane.pace  # it may get one again
            lane.pace = None
        self._stand(lane, standing)
        self._look(lane, now)

    def hold(self, subscription: int, next_at: float) -> None:
        """Of *subscription*, which has no pace or is not served, nothing is taken before *next_at* once it has one and is."""
        self._paced[subscription] = Pace(inf, next_at)  # of which interval that is, is not known: another one adds nothing

    def close(self, subscription: int, *, for_good: bool = False) -> None:
        """Forget what waits for *subscription*, which may be opened again unless *for_good*; what is in flight goes on."""
        if for_good:
            self._paced.pop(subscription, None)
        lane = self._lanes.get(subscription)
        if lane is None:
            return
        if lane.open and lane.pace is not None and not for_good:
            self._paced[subscription] = lane.pace  # what is in flight has a part in it
        lane.open = False
        lane.marks = list(NOTHING_ON_DISK)
        lane.overtaken = [0, 0, 0]
        for queue in lane.queues:
            queue.clear()
        self._size -= lane.size
        lane.size = 0
        lane.timer = None
        self._move(lane, None)
        self._hungry[lane.standing.rank].pop(subscription, None)
        self._drop_idle(lane)

    def turn_back(self, now: int) -> None:
        """The clock has gone back to *now*: no pace holds anything up for longer than one interval."""
        for lane in self._lanes.values():
            if lane.pace is not None:
                lane.pace.turn_back(now)
        for pace in self._paced.values():  # who was not served has waited for long enough
            pace.turn_back(now)
            pace.next_at = min(pace.next_at, now)

    def push(self, delivery: Delivery, *, now: int) -> bool:
        """
        Take in a committed pending delivery; False if it stays on disk, to be fetched when its lane gets there.

        What was in flight is released first.
        """
        lane = self._lanes.get(delivery.subscription)
        if lane is None or not lane.open:
            return False
        priority, entry = delivery.priority, (delivery.due_at, delivery.seq, delivery)
        mark = lane.marks[priority]
        if mark is not None and entry[:2] >= mark:
            return False
        queue = lane.queues[priority]
        if not queue or queue[-1] < entry:
            queue.append(entry)
        else:
            insort(queue, entry)
        lane.size += 1
        self._size += 1
        if queue[0] is entry:
            self._touched[lane.subscription] = lane
        if self._size <= self._queue_size:
            return True
        self._make_room(lane, now)
        mark = lane.marks[priority]
        return mark is None or entry[:2] < mark

    def discard(self, delivery: Delivery) -> None:
        """Forget one waiting delivery, given as it was pushed."""
        lane = self._lanes.get(delivery.subscription)
        if lane is None:
            return
        queue = lane.queues[delivery.priority]
        at = bisect_left(queue, (delivery.due_at, delivery.seq))
        if at < len(queue) and queue[at][1] == delivery.seq:
            del queue[at]
            lane.size -= 1
            self._size -= 1
            if not lane.size:
                self._move(lane, None)
            if lane.marks != NOTHING_ON_DISK:
                self._hungry[lane.standing.rank][lane.subscription] = lane

    def take(self, now: int, limit: int) -> list[Delivery]:
        """What may go now, at most *limit*: each holds a slot until it is released."""
        self._look_around(now)
        taken: list[Delivery] = []
        while len(taken) < limit and (lane := self._next_in_line()) is not None:
            is_alone = self._is_one_alone
            while lane.resume_at <= now and (queue := lane.next_queue(now, self._overtaking)) is not None:
                taken.append(self._start(lane, queue.popleft()))
                if lane.pace is not None:
                    lane.pace.take(taken[-1].seq, now)
                if not is_alone or len(taken) == limit or lane.full or not self._is_entitled(lane):
                    break
            self._look(lane, now)
        return taken

    def begun(self, seq: int, *, now: int) -> None:
        """The request of delivery *seq*, which was taken, begins: the pace counts from here."""
        pace = self._in_flight[seq].pace
        if pace is not None:
            pace.begin(now)

    def may_send(self, seq: int, *, now: int) -> bool:
        """Whether the request of delivery *seq*, which was taken, may go at once."""
        pace = self._in_flight[seq].pace
        return pace is None or pace.is_free(now)

    def sent(self, seq: int, *, now: int) -> None:
        """The request of delivery *seq*, which was taken, goes at once."""
        pace = self._in_flight[seq].pace
        if pace is not None:
            pace.send(now)

    def put_off(self, seq: int, within: float, *, now: int) -> float | None:
        """
        The request of delivery *seq*, which was taken, goes only now: the ms that it has to wait for the pace.

        None, and it takes no turn, unless these are fewer than *within*. Others may have been taken meanwhile that wait for
        the same; no two of them go together.
        """
        pace = self._in_flight[seq].pace
        if pace is None:
            return 0.0 if within > 0 else None
        return pace.put_off(within, now)

    def spare(self, seq: int) -> None:
        """For delivery *seq*, which was taken, nothing was sent: the next does not have to wait for it."""
        lane = self._in_flight[seq]
        if lane.pace is not None and lane.pace.spare(seq):
            self._touched[lane.subscription] = lane

    def went_well(self, seq: int) -> None:
        """
        The request of delivery *seq*, which was taken, had success: its subscription may have the next one under way.

        Among those of all subscriptions it counts until it is released. Of a subscription that is not trusted the next has to
        wait for what this one's end entails, so that there is one probe and then a ramp.
        """
        lane = self._in_flight[seq]
        if lane.standing.rank is _TRUSTED:
            self._give_back(lane)
            self._unrecorded.add(seq)
            lane.unrecorded += 1
            self._touched[lane.subscription] = lane

    def release(self, seq: int, standing: Standing | None = None) -> None:
        """Give back the slot of delivery *seq*; *standing* is what its subscription has earned, None if nothing changed."""
        lane = self._in_flight.pop(seq)
        if seq in self._unrecorded:
            self._unrecorded.remove(seq)
            lane.unrecorded -= 1
            if standing is None and lane.open and lane.marks == NOTHING_ON_DISK:
                return  # its place has not changed since `went_well`, and what waits for its time has a timer
        else:
            self._give_back(lane)
        if standing is not None:
            self._stand(lane, standing)
        self._touched[lane.subscription] = lane
        self._drop_idle(lane)

    def paces(self) -> dict[int, float]:
        """When the next of each subscription that has a pace may be taken, also of those that are not served now."""
        served = {lane.subscription: lane.pace for lane in self._lanes.values() if lane.open and lane.pace is not None}
        return {subscription: pace.next_at for subscription, pace in (self._paced | served).items()}

    def standing(self, subscription: int) -> Standing | None:
        """What *subscription* may have now; None if it has no lane."""
        lane = self._lanes.get(subscription)
        return None if lane is None else lane.standing

    def resume_at(self, subscription: int) -> int:
        """Before this nothing of *subscription* may go, by its breaker or its pace; 0 if it is not served."""
        lane = self._lanes.get(subscription)
        return 0 if lane is None or not lane.open else lane.resume_at

    def due(self, subscription: int, priority: Priority, now: int) -> int:
        """How many deliveries of *subscription* are due, wait in memory, and go no later than one of *priority*."""
        lane = self._lanes.get(subscription)
        return 0 if lane is None else lane.due_before(priority, now)

    def refills(self, now: int) -> list[Refill]:
        """What to fetch from the store; each is asked for once and answered by `refilled`."""
        self._look_around(now)
        wanted = []
        share = self._share(more=sum(map(len, self._hungry.values())))
        ahead = 0  # lanes that are not displaced by one of this rank
        for rank, hungry in self._hungry.items():
            ahead += self._lines[rank].length
            while hungry and self._coming < self._queue_size - ahead:
                _, lane = hungry.popitem(last=False)
                for priority in PRIORITIES:
                    mark = lane.marks[priority]
                    if mark is not None and (limit := self._appetite(lane, priority, mark, share, now)):
                        lane.asked[priority] = True
                        self._coming += limit
                        wanted.append(Refill(lane.subscription, priority, mark, limit))
        return wanted

    def refilled(self, refill: Refill, rows: Iterable[Delivery], mark: Mark | None, *, now: int) -> None:
        """
        The answer to *refill*: its rows, and the first row after them.

        Must be given before any later commit is pushed. A row in flight is skipped: its result is not committed yet.
        """
        self._coming -= refill.limit
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
        self._touched[lane.subscription] = lane

    def next_due(self, now: int) -> int | None:
        """When to call `take` and `refills` again if nothing happens before. None: not before a push, answer or release."""
        self._look_at_touched(now)
        return self._timers[0][0] if self._timers else None

    def _look_around(self, now: int) -> None:
        """Look at those whose time has come, and at those to which something has happened."""
        while self._timers and self._timers[0][0] <= now:
            time, _, lane = heappop(self._timers)
            if lane.timer == time:
                lane.timer = None
                self._look(lane, now)
        self._look_at_touched(now)

    def _look_at_touched(self, now: int) -> None:
        if self._touched:
            touched, self._touched = self._touched, {}
            for lane in touched.values():
                self._look(lane, now)

    def _look(self, lane: Lane, now: int) -> None:
        """Put *lane* where its state says: to its place, on a timer, in want of a refill."""
        if not lane.open:
            return
        if lane.pace is not None:
            lane.pace.bound(now)
        place = wake_at = None
        if lane.size:
            if lane.full:
                place = self._blocked
            elif (ready_at := lane.ready_at()) <= now:
                place = self._lines[lane.standing.rank]
            else:
                place, wake_at = self._waiting, ready_at
        if place is not lane.place or (place is not None and lane.turn[0] != lane.in_flight):
            self._move(lane, place)
        if lane.marks != NOTHING_ON_DISK:
            wake_at = self._look_at_disk(lane, wake_at, now)
        if wake_at is not None and (lane.timer is None or wake_at < lane.timer):
            self._set_timer(lane, wake_at)

    def _look_at_disk(self, lane: Lane, wake_at: int | None, now: int) -> int | None:
        """Note that *lane* may want a refill; when to look again, which is not after *wake_at*."""
        resume_at = lane.resume_at
        for priority, mark in enumerate(lane.marks):
            if mark is None or lane.asked[priority]:
                continue
            look_at = max(mark[0], resume_at)
            if look_at - PREFETCH <= now:
                self._hungry[lane.standing.rank][lane.subscription] = lane
            else:
                look_at -= PREFETCH
            if look_at > now and (wake_at is None or look_at < wake_at):
                wake_at = look_at
        return wake_at

    def _move(self, lane: Lane, place: LaneGroup | None) -> None:
        if lane.place is not None:
            lane.place.remove(lane)
        lane.place = place
        if place is not None:
            self._turn += 1
            lane.turn = (lane.in_flight, self._turn)
            place.add(lane)

    def _next_in_line(self) -> Lane | None:
        """The lane that is entitled to the next slot."""
        trusted, untried, failing = self._lines
        lane = trusted.first()
        if (untried.length or failing.length) and self._doubtful < max(1, self._concurrency // 2):
            doubtful = untried.first() or failing.first()
            if doubtful is not None and (lane is None or doubtful.turn < lane.turn):
                lane = doubtful
        # Nobody in line has fewer in flight, so if it is not entitled, none is.
        return lane if lane is not None and self._is_entitled(lane) else None

    def _is_entitled(self, lane: Lane) -> bool:
        """Whether *lane* may have one of the slots that are free."""
        free = self._concurrency - len(self._in_flight)
        return free > 0 and not (lane.in_flight and lane.in_flight * 2 >= free)

    @property
    def _is_one_alone(self) -> bool:
        """Whether only one lane stands in line, and is trusted: there are no turns to be taken."""
        trusted, untried, failing = self._lines
        return trusted.length == 1 and not untried.length and not failing.length

    def _give_back(self, lane: Lane) -> None:
        lane.in_flight -= 1
        if lane.standing.rank is not _TRUSTED:
            self._doubtful -= 1

    def _start(self, lane: Lane, entry: Entry) -> Delivery:
        lane.size -= 1
        self._size -= 1
        lane.in_flight += 1
        self._in_flight[entry[1]] = lane
        if lane.standing.rank is not _TRUSTED:
            self._doubtful += 1
        return entry[2]

    def _stand(self, lane: Lane, standing: Standing) -> None:
        was, is_now = lane.standing.rank, standing.rank
        lane.standing = standing
        lane.slots = min(standing.width, lane.max_concurrency)
        if was is not is_now:
            self._doubtful += lane.in_flight * ((is_now is not _TRUSTED) - (was is not _TRUSTED))
            self._hungry[was].pop(lane.subscription, None)  # it is looked at next

    def _share(self, *, more: int = 0) -> int:
        """The entries that each lane with due ones may have, and *more* lanes; 0 where there are more lanes than entries."""
        lanes = self._blocked.length + sum([line.length for line in self._lines]) + more
        return self._queue_size // max(1, lanes)

    def _appetite(self, lane: Lane, priority: Priority, mark: Mark, share: int, now: int) -> int:
        """How many rows of *priority* to fetch now: a chunk, if the lane's share has room beside what goes before them."""
        ready_at = max(mark[0], lane.resume_at)
        if lane.asked[priority] or ready_at - PREFETCH > now:
            return 0
        chunk = min(CHUNK, max(1, share // 2))
        tired = lane.tired(self._overtaking)
        in_memory = [each for each in tired if lane.queues[each]]
        if priority in tired and not in_memory:
            chunk = 1  # whose turn it is, whatever is before it
        elif lane.due_before(priority, max(ready_at, now)) + len(in_memory) + chunk > max(1, share):
            return 0
        if ready_at <= now and not lane.full:
            return chunk
        # What may not go at once would be the first to be evicted, and be asked for again: only free room is for it.
        return max(0, min(chunk, self._queue_size - self._size - self._coming))

    def _make_room(self, lane: Lane, now: int) -> None:
        """
        Bring the window back to its size after a push to *lane*.

        Lanes that wait for their time give way first, then those with more than their share. Where due lanes are more than
        the window has entries, those without a slot give way, then the last in line.
        """
        self._look_at_touched(now)
        while self._size > self._queue_size:
            share = self._share()
            if lane.place is self._waiting or (not self._waiting.length and lane.size > max(1, share)):
                victim = lane
            elif self._waiting.length or not share:
                places = (self._waiting, self._blocked, *reversed(self._lines))
                victim = next(last for place in places if (last := place.last()) is not None)
            else:
                self._trim(max(1, share * 7 // 8), now)
                return
            self._evict(victim, now)
            self._look(victim, now)

    def _trim(self, share: int, now: int) -> None:
        """Bring all lanes down to *share*: an eighth of the window at once, because it looks at every lane."""
        for lane in [lane for place in (self._blocked, *self._lines) for lane in place if lane.size > share]:
            while lane.size > share:
                self._evict(lane, now)
            self._look(lane, now)

    def _evict(self, lane: Lane, now: int) -> None:
        priority = lane.spare_priority(now, self._overtaking)
        entry = lane.queues[priority].pop()
        lane.marks[priority] = entry[:2]
        lane.size -= 1
        self._size -= 1

    def _set_timer(self, lane: Lane, time: int) -> None:
        if len(self._timers) > 2 * len(self._lanes) + 100:  # most of them are of times that did not last, or of closed lanes
            self._timers = [each for each in self._timers if each[2].timer == each[0]]
            heapify(self._timers)
        self._turn += 1
        lane.timer = time
        heappush(self._timers, (time, self._turn, lane))

    def _drop_idle(self, lane: Lane) -> None:
        """A closed lane is forgotten, but for its pace, once nothing of it is in flight."""
        if not lane.open and not lane.in_flight and not lane.unrecorded:
            self._lanes.pop(lane.subscription, None)
