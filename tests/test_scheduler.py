"""The scheduler: a window on the store that says what may go now, and when to ask again."""

from __future__ import annotations

import random
from collections import Counter, deque
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test
from msgspec.structs import replace

from hookengine.lanes import ALL_ON_DISK, FROM_THE_START
from hookengine.models import Delivery, Priority, Rank, Standing
from hookengine.scheduler import CHUNK, OVERTAKING, PREFETCH, Refill, Scheduler

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hookengine.lanes import Mark

NOW = 1_000_000
TRUSTED = Standing(width=8, rank=Rank.TRUSTED)
UNTRIED = Standing(width=1, rank=Rank.UNTRIED)
FAILING = Standing(width=1, rank=Rank.FAILING)
HIGH, NORMAL, LOW = Priority


def make(seq: int, subscription: int = 1, *, due_at: int = NOW, priority: Priority = NORMAL) -> Delivery:
    """A pending delivery."""
    return Delivery(
        seq=seq, id=f"dlv_{seq}", event=seq, subscription=subscription, priority=priority, due_at=due_at, created_at=0
    )


def key(row: Delivery) -> Mark:
    """Its place in the order of its lane and priority."""
    return (row.due_at, row.seq)


def serving(
    *subscriptions: int,
    standing: Standing = TRUSTED,
    concurrency: int = 256,
    queue_size: int = 10_000,
    max_concurrency: int = 8,
    marks: Sequence[Mark | None] = (None, None, None),
    overtaking: int = OVERTAKING,
) -> Scheduler:
    """A scheduler that serves *subscriptions*."""
    scheduler = Scheduler(concurrency=concurrency, queue_size=queue_size, overtaking=overtaking)
    for subscription in subscriptions:
        scheduler.open(subscription, standing, max_concurrency=max_concurrency, marks=marks, now=NOW)
    return scheduler


def push(scheduler: Scheduler, *rows: Delivery, now: int = NOW) -> list[int]:
    """Push *rows*; those that came into memory."""
    return [row.seq for row in rows if scheduler.push(row, now=now)]


def take(scheduler: Scheduler, limit: int = 1_000, *, now: int = NOW) -> list[int]:
    """What may go, by seq."""
    return [row.seq for row in scheduler.take(now, limit)]


def served(scheduler: Scheduler, limit: int = 1_000) -> list[int]:
    """What may go, by subscription."""
    return [row.subscription for row in scheduler.take(NOW, limit)]


# The window.


def test_due_order() -> None:
    """Within a priority the earlier due goes first, and of those due together the older row."""
    scheduler = serving(1)
    push(scheduler, make(4, due_at=NOW), make(3, due_at=NOW - 5), make(2, due_at=NOW), make(1, due_at=NOW - 9))

    assert [1, 3, 2, 4] == take(scheduler)


def test_high_overtakes() -> None:
    """Within a subscription what is due goes by priority, whenever it came."""
    scheduler = serving(1)
    push(scheduler, make(1, priority=LOW), make(2), make(3, priority=HIGH), make(4, due_at=NOW - 1), make(5, priority=HIGH))

    assert [3, 5, 4, 2, 1] == take(scheduler)


def test_waiting_high_holds_up_nobody() -> None:
    """A delivery whose time has not come is passed by those of lower priority that are due."""
    scheduler = serving(1)
    push(scheduler, make(1, priority=HIGH, due_at=NOW + 1), make(2, priority=LOW))

    assert [2] == take(scheduler)
    assert [1] == take(scheduler, now=NOW + 1)


def test_the_window_is_bounded() -> None:
    """Memory holds `queue_size` deliveries; what is in flight is beside it."""
    scheduler = serving(1, 2, queue_size=4)
    push(scheduler, *(make(seq, 1 + seq % 2) for seq in range(20)))
    take(scheduler, 2)
    push(scheduler, *(make(seq, 1 + seq % 2, due_at=NOW - 1) for seq in range(20, 40)))

    assert (4, 2) == (scheduler.size, scheduler.in_flight)
    assert "<Scheduler window=4/4 in_flight=2/256 lanes=2>" == repr(scheduler)


def test_low_is_overtaken_a_hundred_times() -> None:
    """However many of higher priority come, what is due and was overtaken by a hundred of them goes, one at a time."""
    scheduler = serving(1, max_concurrency=1)
    push(scheduler, make(1, priority=LOW), make(2, priority=LOW), *(make(seq, priority=HIGH) for seq in range(3, 400)))
    order = []
    for _ in range(203):
        [seq] = take(scheduler)
        order.append(seq)
        scheduler.release(seq)

    assert [*range(3, 103), 1, *range(103, 203), 2, 203] == order


def test_each_lower_priority_is_overtaken_as_often() -> None:
    """With three priorities waiting the two lower ones get a turn each, one after the other."""
    scheduler = serving(1, max_concurrency=1, overtaking=2)
    push(scheduler, *(make(10 * priority + n, priority=priority) for priority in Priority for n in range(9)))
    order = []
    for _ in range(9):
        [seq] = take(scheduler)
        order.append(seq)
        scheduler.release(seq)

    assert [0, 1, 10, 20, 2, 11, 21, 3, 12] == order


def test_nothing_is_overtaken_before_its_time() -> None:
    """What waits for its time is not overtaken by what goes meanwhile."""
    scheduler = serving(1, max_concurrency=1, overtaking=2)
    push(scheduler, make(1, priority=LOW, due_at=NOW + 1), *(make(seq) for seq in range(2, 9)))
    for seq in range(2, 6):
        assert [seq] == take(scheduler)
        scheduler.release(seq)

    assert [6] == take(scheduler, now=NOW + 1)


@pytest.mark.parametrize(
    ("rows", "evicted"),
    [
        pytest.param([make(1), make(2), make(3)], 3, id="the-latest"),
        pytest.param([make(1, due_at=NOW + 9_000), make(2, due_at=NOW - 9), make(3)], 1, id="the-latest-by-due-time"),
        pytest.param([make(1, priority=LOW), make(2), make(3, priority=HIGH)], 1, id="the-lowest-priority"),
        pytest.param([make(1, priority=LOW), make(2, priority=LOW), make(3, priority=HIGH)], 2, id="the-latest-of-the-lowest"),
        pytest.param([make(1, priority=HIGH, due_at=NOW + 1), make(2, priority=LOW), make(3)], 1, id="waiting-before-due"),
        pytest.param(
            [make(1, priority=HIGH, due_at=NOW + 1), make(2, priority=LOW, due_at=NOW + 9), make(3)],
            2,
            id="the-lowest-of-those-that-wait",
        ),
        pytest.param(
            [make(1, due_at=NOW + 1), make(2, priority=HIGH, due_at=NOW + 9), make(3, priority=LOW)],
            1,
            id="the-lowest-though-earlier",
        ),
    ],
)
def test_eviction(rows: list[Delivery], evicted: int) -> None:
    """A full lane gives up its last: one that waits before one that is due, then the lowest priority, then the latest."""
    scheduler = serving(1, queue_size=2)
    push(scheduler, *rows)
    mark = scheduler._lanes[1].marks[rows[evicted - 1].priority]

    assert (rows[evicted - 1].due_at, evicted) == mark
    assert sorted({1, 2, 3} - {evicted}) == sorted(take(scheduler, now=NOW + 9_000))


def test_push_tells_what_stays_on_disk() -> None:
    """A push is refused where the row would be the one to evict, and where its place is past the mark."""
    scheduler = serving(1, queue_size=2)

    assert [1, 2] == push(scheduler, make(1), make(2), make(3))
    assert [] == push(scheduler, make(4), make(5, due_at=NOW + 9_000))
    assert [0] == push(scheduler, make(0, due_at=NOW - 1))
    assert [6] == push(scheduler, make(6, priority=HIGH))


def test_push_without_a_lane() -> None:
    """Rows of a subscription that is not served stay on disk."""
    scheduler = serving(1)
    scheduler.close(1)

    assert [] == push(scheduler, make(1), make(2, 2))
    assert [] == take(scheduler)


def test_eviction_moves_the_mark_back() -> None:
    """What is evicted again moves the mark to before it, so that the next refill begins there."""
    scheduler = serving(1, queue_size=2, max_concurrency=2)
    push(scheduler, *(make(seq) for seq in (4, 5, 6)), make(3), make(2))
    take(scheduler)

    assert [Refill(1, NORMAL, (NOW, 4), 1)] == scheduler.refills(NOW)


def test_one_backlog_leaves_the_others_in_memory() -> None:
    """Whoever pushes more than its share evicts its own, and gives way to whoever has less."""
    scheduler = serving(1, 2, 3, queue_size=9)
    push(scheduler, *(make(seq, 1) for seq in range(100)))
    assert [100, 101, 102] == push(scheduler, *(make(seq, 2) for seq in range(100, 103)))
    assert [200, 201, 202] == push(scheduler, *(make(seq, 3) for seq in range(200, 203)))

    assert [] == push(scheduler, *(make(seq, 1) for seq in range(300, 400)))
    assert {100, 101, 102, 200, 201, 202} < set(take(scheduler))


def test_due_ones_push_out_those_that_wait() -> None:
    """However many lanes hold deliveries for later, the window goes to those that are due."""
    scheduler = serving(*range(1, 12), queue_size=10)
    push(scheduler, *(make(seq, seq, due_at=NOW + 60_000) for seq in range(1, 11)))

    assert list(range(100, 108)) == push(scheduler, *(make(seq, 11) for seq in range(100, 108)))
    assert list(range(100, 108)) == take(scheduler)
    assert 2 == scheduler.size


def test_those_that_wait_push_out_nobody() -> None:
    """A delivery for later that finds the window full stays on disk."""
    scheduler = serving(1, 2, 3, queue_size=4)
    push(scheduler, *(make(seq, 1) for seq in range(1, 4)), make(4, 2, due_at=NOW + 9_000))

    assert [] == push(scheduler, make(5, 3, due_at=NOW + 5_000))
    assert NOW + 5_000 - PREFETCH == scheduler.next_due(NOW)


def test_a_waiting_lane_gives_up_its_own() -> None:
    """Of lanes that all wait for their time, the one that gets more than the window holds keeps its earlier ones."""
    scheduler = serving(1, 2, queue_size=2)
    push(scheduler, make(1, 1, due_at=NOW + 9_000), make(2, 2, due_at=NOW + 9_000))

    assert [3] == push(scheduler, make(3, 1, due_at=NOW + 8_000))
    assert [3, 2] == take(scheduler, now=NOW + 9_000)


def test_waiting_lanes_give_way_before_large_ones() -> None:
    """A lane with more than its share loses nothing while others hold deliveries for later."""
    scheduler = serving(1, 2, 3, queue_size=4)
    push(scheduler, make(1, 1), make(2, 2, due_at=NOW + 9_000))

    assert [3, 4, 5] == push(scheduler, make(3, 3), make(4, 3), make(5, 3))
    assert [6] == push(scheduler, make(6, 3, priority=HIGH))
    assert [1, 6, 3, 4] == take(scheduler)


def test_giving_way_makes_room_for_more() -> None:
    """Lanes beyond their share give up an eighth of the window at once, because finding them takes a look at every lane."""
    scheduler = serving(1, 2, queue_size=80)
    push(scheduler, *(make(seq) for seq in range(80)), make(100, 2))

    assert 36 == scheduler.size


def test_lane_that_gave_way_remembers_what_comes_first() -> None:
    """A waiting delivery of high priority that gave way is fetched again, though its lane stands in line with another."""
    scheduler = serving(1, 2, queue_size=4)
    high = [make(seq, priority=HIGH, due_at=NOW + 500) for seq in (1, 2, 3)]
    push(scheduler, make(4), *high, make(5, 2))
    assert 2 == scheduler.size

    (refill,) = scheduler.refills(NOW)
    answer(scheduler, refill, high)
    assert 1 == take(scheduler, 1, now=NOW + 500)[0]


def test_most_in_flight_gives_way_first() -> None:
    """Where lanes without a free slot fill the window, the one with the most attempts in flight gives way."""
    scheduler = serving(3, queue_size=2)
    scheduler.open(2, Standing(width=2, rank=Rank.TRUSTED), max_concurrency=8, now=NOW)
    scheduler.open(1, Standing(width=1, rank=Rank.TRUSTED), max_concurrency=8, now=NOW)
    for row in [make(1, 2), make(2, 2), make(3, 1)]:
        push(scheduler, row)
        take(scheduler)
    push(scheduler, make(4, 2), make(5, 1), make(6, 3))

    assert {1, 3} == {subscription for subscription, lane in scheduler._lanes.items() if lane.size}


# Refills.


def answer(scheduler: Scheduler, refill: Refill, disk: Iterable[Delivery], *, now: int = NOW) -> None:
    """What the store answers when *disk* is all it has."""
    rows = sorted(
        (
            row
            for row in disk
            if (row.subscription, row.priority) == (refill.subscription, refill.priority) and key(row) >= refill.mark
        ),
        key=key,
    )
    beyond = key(rows[refill.limit]) if len(rows) > refill.limit else None
    scheduler.refilled(refill, rows[: refill.limit], beyond, now=now)


def test_refill_reads_past_the_mark() -> None:
    """A lane that opens at a mark asks for what is from there on, once, and goes on where the answer ended."""
    scheduler = serving(1, marks=(None, (NOW, 5), None))
    disk = [make(seq) for seq in range(5, 5 + CHUNK + 2)]

    (refill,) = scheduler.refills(NOW)
    assert Refill(1, NORMAL, (NOW, 5), CHUNK) == refill
    assert [] == scheduler.refills(NOW)

    answer(scheduler, refill, disk)
    assert [Refill(1, NORMAL, (NOW, 5 + CHUNK), CHUNK)] == scheduler.refills(NOW)
    assert [5, 6, 7] == take(scheduler, 3)


def test_refill_by_priority() -> None:
    """Each priority has its mark, and is fetched by itself."""
    scheduler = serving(1, marks=[FROM_THE_START] * 3)
    refills = scheduler.refills(NOW)
    for refill in refills:
        answer(scheduler, refill, [make(1, priority=LOW), make(2, priority=HIGH)])

    assert [(priority, FROM_THE_START) for priority in Priority] == [(refill.priority, refill.mark) for refill in refills]
    assert [2, 1] == take(scheduler)
    assert [] == scheduler.refills(NOW)


def test_refilled_lane_takes_pushes_again() -> None:
    """Once an answer says that nothing is past it, what is committed comes into memory."""
    scheduler = serving(1, marks=(None, (NOW, 1), None))
    (refill,) = scheduler.refills(NOW)
    assert [] == push(scheduler, make(2))

    answer(scheduler, refill, [make(1), make(2)])

    assert [3] == push(scheduler, make(3))
    assert [1, 2, 3] == take(scheduler)


def test_refill_skips_what_is_in_flight() -> None:
    """A row whose attempt runs is on disk as it was before, and is not taken twice."""
    scheduler = serving(1, marks=(None, FROM_THE_START, None))
    answer(scheduler, scheduler.refills(NOW)[0], [make(1), make(2)])
    assert [1] == take(scheduler, 1)
    scheduler.close(1)
    scheduler.open(1, TRUSTED, max_concurrency=8, marks=[FROM_THE_START] * 3, now=NOW)
    for refill in scheduler.refills(NOW):
        answer(scheduler, refill, [make(1), make(2)])

    assert 1 in scheduler._in_flight
    assert [2] == take(scheduler)

    scheduler.release(1)
    assert 1 not in scheduler._in_flight
    assert [1] == push(scheduler, make(1))
    assert [1] == take(scheduler)


def test_refill_is_ignored_when_the_mark_moved() -> None:
    """An eviction after the asking makes the answer leave a gap, so it is dropped and asked for again."""
    scheduler = serving(1, queue_size=4)
    push(scheduler, *(make(seq) for seq in range(10, 16)))
    take(scheduler)
    (refill,) = scheduler.refills(NOW)
    push(scheduler, *(make(seq) for seq in range(1, 6)))

    answer(scheduler, refill, [make(5), make(14), make(15)])

    assert (NOW, 14) == refill.mark
    assert [1, 2, 3, 4] == take(scheduler)
    assert [Refill(1, NORMAL, (NOW, 5), 2)] == scheduler.refills(NOW)


@pytest.mark.parametrize("in_flight", [0, 1], ids=["forgotten", "ending"])
@pytest.mark.parametrize("reopened", [False, True], ids=["closed", "reopened"])
def test_refill_is_ignored_when_the_lane_was_closed(*, reopened: bool, in_flight: int) -> None:
    """An answer to a former life of the lane brings nothing in, and keeps the new one from asking no longer."""
    scheduler = serving(1, marks=(None, (NOW, 5), None))
    push(scheduler, make(1))
    take(scheduler, in_flight)
    (refill,) = scheduler.refills(NOW)
    scheduler.close(1)
    if reopened:
        scheduler.open(1, TRUSTED, max_concurrency=8, marks=(None, FROM_THE_START, None), now=NOW)

    answer(scheduler, refill, [make(5)])

    assert [] == take(scheduler)
    assert [FROM_THE_START] * reopened == [each.mark for each in scheduler.refills(NOW)]


def test_failed_refill_is_asked_for_again() -> None:
    """An answer that brings nothing and leaves the mark is as if nobody had asked."""
    scheduler = serving(1, marks=(None, (NOW, 5), None))
    (refill,) = scheduler.refills(NOW)

    scheduler.refilled(refill, [], refill.mark, now=NOW)

    assert [refill] == scheduler.refills(NOW)


def test_rows_are_fetched_ahead_of_their_time() -> None:
    """A row is asked for one second before it is due, and not earlier."""
    scheduler = serving(1, marks=(None, (NOW + 5_000, 7), None))
    soon = NOW + 5_000 - PREFETCH

    assert [] == scheduler.refills(soon - 1)
    assert soon == scheduler.next_due(NOW)

    (refill,) = scheduler.refills(soon)
    answer(scheduler, refill, [make(7, due_at=NOW + 5_000)], now=soon)
    assert NOW + 5_000 == scheduler.next_due(NOW)
    assert [] == take(scheduler, now=NOW + 4_999)
    assert [7] == take(scheduler, now=NOW + 5_000)


def test_fetching_ahead_needs_free_room() -> None:
    """What is not due yet is not fetched into a full window, which would evict it again for ever, but when it is due."""
    scheduler = serving(1, queue_size=4, max_concurrency=1)
    push(scheduler, make(1))
    take(scheduler)
    push(scheduler, *(make(seq) for seq in range(2, 8)))
    high = make(9, priority=HIGH, due_at=NOW + 500)

    assert [] == push(scheduler, high)
    assert [] == scheduler.refills(NOW)
    assert NOW + 500 == scheduler.next_due(NOW)

    scheduler.release(1)
    (refill,) = scheduler.refills(NOW + 500)
    answer(scheduler, refill, [high], now=NOW + 500)
    assert [9] == take(scheduler, now=NOW + 500)


def test_fetching_ahead_counts_what_is_coming() -> None:
    """Free room is promised once."""
    scheduler = serving(1, queue_size=4, marks=[(NOW + 500, 1)] * 3)

    assert [2, 2] == [refill.limit for refill in scheduler.refills(NOW)]


def test_paused_lane_fetches_when_it_resumes() -> None:
    """Nothing is fetched for a lane behind an open breaker until a second before its probe."""
    scheduler = Scheduler(concurrency=8, queue_size=100)
    paused = replace(FAILING, resume_at=NOW + 300_000)
    scheduler.open(1, paused, max_concurrency=8, marks=(None, (NOW, 1), None), now=NOW)

    assert [] == scheduler.refills(NOW + 300_000 - PREFETCH - 1)
    assert NOW + 300_000 - PREFETCH == scheduler.next_due(NOW)
    assert [Refill(1, NORMAL, (NOW, 1), 50)] == scheduler.refills(NOW + 300_000 - PREFETCH)


def test_lane_of_several_priorities_fetches_what_goes_first() -> None:
    """Rows of lower priority that fill a lane's share do not keep those of a higher one on disk."""
    scheduler = serving(1, queue_size=4, max_concurrency=1)
    high = [make(seq, priority=HIGH) for seq in range(1, 20)]
    push(scheduler, *high, *(make(seq, priority=LOW) for seq in range(20, 30)))
    done = []
    for _ in range(19):
        for refill in scheduler.refills(NOW):
            answer(scheduler, refill, [row for row in high if row.seq not in done])
        done += take(scheduler)
        scheduler.release(done[-1])

    assert [row.seq for row in high] == done


def test_fetched_rows_of_lower_priority_wait_for_what_is_due() -> None:
    """Rows of higher priority that are not due yet do not keep those of a lower one on disk."""
    scheduler = serving(1, queue_size=4)
    low = make(9, priority=LOW)
    scheduler.close(1)
    scheduler.open(1, TRUSTED, max_concurrency=8, marks=(None, None, key(low)), now=NOW)
    push(scheduler, *(make(seq, priority=HIGH, due_at=NOW + 500) for seq in range(1, 5)))

    for refill in scheduler.refills(NOW):
        answer(scheduler, refill, [low])

    assert [9] == take(scheduler)


# More lanes than the window has entries.


def test_start_asks_for_no_more_than_the_window() -> None:
    """However many lanes have a backlog at the start, the rows asked for fit into the window."""
    scheduler = serving(*range(1, 2_001), queue_size=100, concurrency=50, marks=[FROM_THE_START] * 3)

    refills = scheduler.refills(NOW)

    assert 100 <= sum(refill.limit for refill in refills) < 103
    assert [] == scheduler.refills(NOW)


def test_few_lanes_share_the_window_at_the_start() -> None:
    """A few lanes with a backlog fetch by the chunk, each within its share."""
    scheduler = serving(1, 2, 3, 4, queue_size=10_000, marks=(None, (NOW, 1), None))

    assert [CHUNK] * 4 == [refill.limit for refill in scheduler.refills(NOW)]


def test_broadcast_to_more_lanes_than_the_window() -> None:
    """An event for many more subscriptions than the window holds reaches all of them, and each lane is asked about once."""
    world = World(queue_size=20, concurrency=10, max_concurrency=1, subscriptions=range(300))
    for subscription in range(300):
        world.commit(subscription, NORMAL, [0])
    refills, order = 0, []
    while world.disk:
        world.ask()
        refills += len(world.asked)
        while world.asked:
            world.answer()
        order += [row.subscription for row in world.take(10)]
        for seq in list(world.in_flight):
            world.record(seq, retry_in=None, standing=None)

    assert list(range(300)) == sorted(order)
    assert refills <= 300 * len(Priority)


@pytest.mark.parametrize("standing", [TRUSTED, UNTRIED, FAILING], ids=["trusted", "untried", "failing"])
def test_hung_lanes_do_not_fill_the_window(standing: Standing) -> None:
    """A healthy lane gets in and goes at once, however many lanes hang with more work behind them."""
    scheduler = serving(*range(1, 41), standing=standing, queue_size=20, concurrency=100, max_concurrency=1)
    for subscription in range(1, 41):
        push(scheduler, *(make(subscription * 10 + n, subscription) for n in range(3)))
        take(scheduler)
    scheduler.open(99, TRUSTED, max_concurrency=8, now=NOW)

    assert [1] == push(scheduler, make(1, 99))
    assert [] == scheduler.refills(NOW)
    assert [1] == take(scheduler)


def test_lanes_without_trust_give_way_in_a_full_window() -> None:
    """Where due lanes fill the window, those without trust leave it for a trusted one, the failing first."""
    scheduler = serving(*range(1, 5), standing=UNTRIED, queue_size=6, concurrency=4)
    for subscription in (5, 6):
        scheduler.open(subscription, FAILING, max_concurrency=8, now=NOW)
    for subscription in (7, 8, 9):
        scheduler.open(subscription, TRUSTED, max_concurrency=8, now=NOW)
    push(scheduler, *(make(seq, seq) for seq in range(1, 7)))

    assert [7, 8, 9] == push(scheduler, *(make(seq, seq) for seq in range(7, 10)))
    assert {1, 2, 3, 7, 8, 9} == {subscription for subscription, lane in scheduler._lanes.items() if lane.size}


def test_trusted_lane_fetches_before_those_without_trust() -> None:
    """Where rows are asked for and room is short, trusted lanes come first whatever the order of their asking."""
    scheduler = serving(1, 2, 3, standing=FAILING, queue_size=2, concurrency=2, marks=(None, FROM_THE_START, None))
    for subscription in (4, 5):
        scheduler.open(subscription, TRUSTED, max_concurrency=8, marks=(None, FROM_THE_START, None), now=NOW)
    scheduler.open(2, TRUSTED, max_concurrency=8, now=NOW)
    scheduler.open(4, FAILING, max_concurrency=8, now=NOW)

    assert [5, 2] == [refill.subscription for refill in scheduler.refills(NOW)]


# Slots.


@pytest.mark.parametrize(
    ("concurrency", "width", "max_concurrency", "expected"),
    [
        pytest.param(100, 8, 5, 5, id="max_concurrency"),
        pytest.param(100, 3, 8, 3, id="width"),
        pytest.param(1, 8, 8, 1, id="concurrency-1"),
        pytest.param(2, 8, 8, 1, id="concurrency-2"),
        pytest.param(3, 8, 8, 1, id="concurrency-3"),
        pytest.param(4, 8, 8, 2, id="concurrency-4"),
        pytest.param(10, 8, 8, 4, id="concurrency-10"),
    ],
)
def test_caps_of_one_lane(concurrency: int, width: int, max_concurrency: int, expected: int) -> None:
    """A lane holds at most its width and `max_concurrency`, and a further slot only while it has under half of the free."""
    standing = Standing(width=width, rank=Rank.TRUSTED)
    scheduler = serving(1, standing=standing, concurrency=concurrency, max_concurrency=max_concurrency)
    push(scheduler, *(make(seq) for seq in range(20)))

    assert expected == len(take(scheduler))
    assert [] == take(scheduler)


def test_concurrency_is_a_hard_cap() -> None:
    """All lanes together hold `concurrency` slots, and each release gives back one."""
    scheduler = serving(*range(1, 9), concurrency=5)
    push(scheduler, *(make(seq, 1 + seq % 8) for seq in range(80)))

    first = take(scheduler)
    assert (5, 5) == (len(first), scheduler.in_flight)
    assert [] == take(scheduler)

    scheduler.release(first[0])
    assert 1 == len(take(scheduler))


def test_success_frees_the_slot_of_its_subscription() -> None:
    """After a success the next of its subscription may go before that is recorded."""
    scheduler = serving(1)
    scheduler.open(1, TRUSTED, max_concurrency=2, now=NOW)
    push(scheduler, *(make(seq) for seq in range(1, 20)))
    assert [1, 2] == take(scheduler)

    for seq in (1, 2, 3, 4):
        scheduler.went_well(seq)
        assert [seq + 2] == take(scheduler)
    assert 6 == scheduler.in_flight
    for seq in (1, 2, 3, 4):
        scheduler.release(seq)
    assert [] == take(scheduler)


def test_what_is_not_recorded_counts_among_all() -> None:
    """Of all subscriptions together no more is in flight or not recorded than there are slots."""
    scheduler = serving(1, concurrency=4)
    push(scheduler, *(make(seq) for seq in range(1, 20)))
    assert [1, 2] == take(scheduler)

    for seq in (1, 2):
        scheduler.went_well(seq)
    assert [3] == take(scheduler)
    scheduler.went_well(3)
    assert [4] == take(scheduler)
    scheduler.went_well(4)
    assert ([], 4) == (take(scheduler), scheduler.in_flight)
    scheduler.release(1)
    assert [5] == take(scheduler)


@pytest.mark.parametrize("standing", [UNTRIED, FAILING], ids=["untried", "failing"])
def test_success_of_a_probe_has_to_be_recorded(standing: Standing) -> None:
    """A subscription that is not trusted has its next only when what the success entails is known."""
    scheduler = serving(1, standing=standing)
    push(scheduler, make(1), make(2))
    assert [1] == take(scheduler)

    scheduler.went_well(1)
    assert [] == take(scheduler)
    scheduler.release(1, TRUSTED)
    assert [2] == take(scheduler)


def test_closed_lane_waits_for_records() -> None:
    """What went well and is not recorded is no row to be fetched again, and its end still counts for the lane."""
    scheduler = serving(1)
    push(scheduler, make(1))
    take(scheduler)
    scheduler.went_well(1)
    scheduler.close(1)
    scheduler.open(1, TRUSTED, max_concurrency=8, marks=[None, FROM_THE_START, None], now=NOW)
    [refill] = scheduler.refills(NOW)
    scheduler.refilled(refill, [make(1)], None, now=NOW)

    assert [] == take(scheduler)
    scheduler.release(1, FAILING)
    assert FAILING == scheduler.standing(1)


def test_limit_of_a_take() -> None:
    """No more is taken than was asked for."""
    scheduler = serving(1, 2)
    push(scheduler, *(make(seq, 1 + seq % 2) for seq in range(10)))

    assert 3 == len(take(scheduler, 3))
    assert [] == take(scheduler, 0)


def test_lowered_width_holds_at_once() -> None:
    """After a width shrank nothing goes until the attempts in flight are fewer than it."""
    scheduler = serving(1)
    push(scheduler, *(make(seq) for seq in range(20)))
    first = take(scheduler)
    assert 8 == len(first)

    for seq in first[:6]:
        scheduler.release(seq, Standing(width=3, rank=Rank.TRUSTED))
    assert [8] == take(scheduler)
    assert 3 == scheduler.in_flight


def test_width_grows_by_releases() -> None:
    """Each success that widens a lane lets one more go."""
    scheduler = serving(1, standing=UNTRIED)
    push(scheduler, *(make(seq) for seq in range(20)))
    counts = []
    for width in (2, 3, 4):
        (first, *_) = taken = take(scheduler)
        counts.append(len(taken))
        scheduler.release(first, Standing(width=width, rank=Rank.TRUSTED))

    assert [1, 2, 2] == counts
    assert 2 == len(take(scheduler))
    assert 4 == scheduler.in_flight


@pytest.mark.parametrize(("concurrency", "expected"), [(1, 1), (2, 1), (3, 1), (4, 2), (9, 4), (256, 128)], ids=str)
@pytest.mark.parametrize("standing", [UNTRIED, FAILING], ids=["untried", "failing"])
def test_doubtful_lanes_hold_half(standing: Standing, concurrency: int, expected: int) -> None:
    """Subscriptions that are not trusted hold together at most half of the slots, and at least one."""
    scheduler = serving(*range(1, 301), standing=standing, concurrency=concurrency)
    push(scheduler, *(make(seq, seq) for seq in range(1, 301)))

    assert expected == len(take(scheduler))


def test_lost_trust_counts_at_once() -> None:
    """Attempts in flight of a subscription that loses its trust count among the doubtful, until it is trusted again."""
    scheduler = serving(1, concurrency=8)
    scheduler.open(2, UNTRIED, max_concurrency=8, now=NOW)
    push(scheduler, *(make(seq) for seq in range(1, 20)))
    assert [1, 2, 3] == take(scheduler)
    scheduler.release(1, FAILING)
    push(scheduler, *(make(100 + seq, 2) for seq in range(9)))
    scheduler.open(3, UNTRIED, max_concurrency=8, now=NOW)
    scheduler.open(4, UNTRIED, max_concurrency=8, now=NOW)
    push(scheduler, make(200, 3), make(300, 4))

    assert [100, 200] == take(scheduler)
    scheduler.release(2, TRUSTED)
    assert [300, 4] == take(scheduler)


def test_untried_go_before_failing() -> None:
    """Of the half for the doubtful, those that have not failed yet come first."""
    scheduler = Scheduler(concurrency=6, queue_size=100)
    for subscription in range(1, 9):
        scheduler.open(subscription, FAILING if subscription <= 4 else UNTRIED, max_concurrency=8, now=NOW)
        push(scheduler, make(subscription, subscription))

    assert [5, 6, 7] == take(scheduler)
    scheduler.release(5, UNTRIED)
    assert [8] == take(scheduler)
    scheduler.release(6, UNTRIED)
    assert [1] == take(scheduler)


def test_doubtful_lanes_do_not_hold_up_trusted_ones() -> None:
    """With their half in use, doubtful lanes are passed by whoever is trusted."""
    scheduler = serving(1, 2, 3, standing=UNTRIED, concurrency=2)
    scheduler.open(4, TRUSTED, max_concurrency=8, now=NOW)
    push(scheduler, *(make(seq, seq) for seq in (1, 2, 3, 4)))

    assert [1, 4] == take(scheduler)


def test_untried_lanes_that_hang_leave_half() -> None:
    """Sixty untried lanes that hang leave a trusted one all that it may have."""
    scheduler = serving(*range(1, 61), standing=UNTRIED, concurrency=100)
    push(scheduler, *(make(seq, seq) for seq in range(1, 61)))
    assert 50 == len(take(scheduler))
    scheduler.open(99, TRUSTED, max_concurrency=8, now=NOW)
    push(scheduler, *(make(100 + seq, 99) for seq in range(20)))

    assert [99] * 8 == served(scheduler)


def test_trusted_lanes_that_hang_leave_a_slot() -> None:
    """Thirty-two trusted lanes of eight that start to hang together do not fill 256 slots."""
    scheduler = serving(*range(1, 33))
    push(scheduler, *(make(subscription * 100 + n, subscription) for n in range(20) for subscription in range(1, 33)))
    assert 200 < len(take(scheduler)) < 256
    assert [] == take(scheduler)
    scheduler.open(99, TRUSTED, max_concurrency=8, now=NOW)
    push(scheduler, make(1, 99), make(2, 99))

    assert 99 in served(scheduler)


def test_further_slot_needs_twice_as_many_free() -> None:
    """With k in flight a lane gets one more while more than 2k slots are free, its first while one is."""
    scheduler = serving(1, 2, 3, 4, 5, concurrency=7)
    push(scheduler, *(make(seq, 1) for seq in range(1, 9)))
    assert [1, 2, 3] == take(scheduler)

    push(scheduler, *(make(seq, 2) for seq in range(11, 19)))
    assert [11, 12] == take(scheduler)

    push(scheduler, make(21, 3), make(31, 4), make(41, 5))
    assert [21, 31] == take(scheduler)


# Turns.


def test_turns_are_fair() -> None:
    """Lanes take turns, however much each has."""
    scheduler = serving(1, 2, 3)
    push(scheduler, *(make(seq, 1) for seq in range(20)), *(make(seq, 2) for seq in range(20, 23)), make(30, 3))

    assert [1, 2, 3, 1, 2, 1, 2, 1] == served(scheduler, 8)


def test_turns_do_not_know_priorities() -> None:
    """A lane full of high priority gets no more turns than one of low."""
    scheduler = serving(1, 2)
    push(scheduler, *(make(seq, 1, priority=LOW) for seq in range(8)), *(make(seq, 2, priority=HIGH) for seq in range(8, 16)))

    assert [1, 2] * 4 == served(scheduler, 8)


def test_turns_are_fair_over_releases() -> None:
    """An endpoint that answers at once does not run ahead of the others."""
    scheduler = serving(1, 2, 3, concurrency=1)
    push(scheduler, *(make(seq, 1 + seq % 3) for seq in range(30)))
    order = []
    for _ in range(9):
        (row,) = scheduler.take(NOW, 1)
        order.append(row.subscription)
        scheduler.release(row.seq)

    assert [1, 2, 3] * 3 == order


def test_doubtful_lanes_take_turns_with_trusted_ones() -> None:
    """Within their half, doubtful lanes stand in the same line as all others."""
    scheduler = Scheduler(concurrency=100, queue_size=100)
    for subscription, standing in enumerate([TRUSTED, FAILING, TRUSTED, UNTRIED], start=1):
        scheduler.open(subscription, standing, max_concurrency=8, now=NOW)
        push(scheduler, make(subscription, subscription))

    assert {1, 2, 3, 4} == set(take(scheduler))


def test_busy_lane_lets_an_idle_one_first() -> None:
    """A lane without an attempt in flight comes before those that have some."""
    scheduler = serving(1, 2)
    push(scheduler, *(make(seq, 1) for seq in range(1, 9)))
    take(scheduler, 3)
    push(scheduler, *(make(seq, 2) for seq in range(11, 19)))

    assert [2, 2, 2, 1, 2] == served(scheduler, 5)


def test_further_slots_go_round() -> None:
    """A further slot that comes free goes to the lane that has waited longest for one."""
    scheduler = serving(1, 2, 3, concurrency=6)
    push(scheduler, *(make(10 * n + subscription, subscription) for n in range(5) for subscription in (1, 2, 3)))
    assert [1, 2, 3, 11] == take(scheduler)

    order = [11]
    for _ in range(5):
        scheduler.release(order[-1])
        order += take(scheduler)
    assert [11, 12, 13, 21, 22, 23] == order


# When to ask again.


def test_nothing_to_wait_for() -> None:
    """Without a delivery that waits for its time, only a push or a release can change anything."""
    scheduler = serving(1, max_concurrency=1)
    assert scheduler.next_due(NOW) is None

    push(scheduler, make(1), make(2))
    take(scheduler)
    assert scheduler.next_due(NOW) is None


def test_next_due_is_the_earliest() -> None:
    """Of all deliveries that wait in memory the earliest says when to ask again, also when it came last."""
    scheduler = serving(1, 2)
    push(scheduler, make(1, due_at=NOW + 900), make(2, 2, due_at=NOW + 700), make(3, due_at=NOW + 500))

    assert NOW + 500 == scheduler.next_due(NOW)
    assert [] == take(scheduler, now=NOW + 499)
    assert [3] == take(scheduler, now=NOW + 500)
    assert NOW + 700 == scheduler.next_due(NOW)
    assert [2, 1] == take(scheduler, now=NOW + 900)
    assert scheduler.next_due(NOW) is None


def test_refills_alone_keep_the_time() -> None:
    """While nothing is taken, asking for refills is enough for `next_due` to stay ahead."""
    scheduler = serving(1, 2, marks=(None, (NOW + 5_000, 1), None))
    push(scheduler, make(1, due_at=NOW + 100))

    scheduler.refills(NOW + 100)
    due_at = scheduler.next_due(NOW)

    assert due_at is not None
    assert due_at > NOW + 100


# The pace.


def paced(pace: float, *, max_concurrency: int = 8) -> Scheduler:
    """A scheduler that serves subscription 1 at a pace, and 2 without one."""
    scheduler = serving(2)
    scheduler.open(1, TRUSTED, max_concurrency=max_concurrency, pace=pace, now=NOW)
    return scheduler


def test_paced_lane_lets_one_go_after_the_other() -> None:
    """However many wait and however many slots are free, each goes one pace after the one before; other lanes do not wait."""
    scheduler = paced(100)
    push(scheduler, *(make(seq) for seq in range(5)), *(make(seq, 2) for seq in range(10, 13)))

    assert [0, 10, 11, 12] == sorted(take(scheduler))
    assert NOW + 100 == scheduler.next_due(NOW)
    assert [] == take(scheduler, now=NOW + 99)
    assert [1] == take(scheduler, now=NOW + 100)
    assert [2] == take(scheduler, now=NOW + 1_000)  # what was not used is not made up for
    assert [] == take(scheduler, now=NOW + 1_099)


def test_pace_is_kept_over_what_does_not_go() -> None:
    """A pace counts what was taken, and outlives a lane that is closed and opened again."""
    scheduler = paced(100)
    push(scheduler, make(1), make(2))
    take(scheduler)
    scheduler.release(1)
    scheduler.close(1)
    assert {1: NOW + 100} == scheduler.paces()
    scheduler.open(1, TRUSTED, max_concurrency=8, pace=100, now=NOW)
    push(scheduler, make(1), make(2))

    assert [] == take(scheduler, now=NOW + 99)
    assert [1] == take(scheduler, now=NOW + 100)
    assert {1: NOW + 200} == scheduler.paces()
    scheduler.close(1, for_good=True)
    assert {} == scheduler.paces()


def test_pace_counts_from_the_request() -> None:
    """What began late, because it had to be read for instance, is not followed any sooner."""
    scheduler = paced(100)
    push(scheduler, make(1), make(2))
    take(scheduler)
    scheduler.begun(1, now=NOW + 90)

    assert [] == take(scheduler, now=NOW + 189)
    assert [2] == take(scheduler, now=NOW + 190)


def test_what_is_not_sent_takes_no_turn() -> None:
    """Of which nothing went to the endpoint, as of one that has expired, the next does not wait for the pace."""
    scheduler = paced(100)
    push(scheduler, make(1), make(2), make(3))
    assert [1] == take(scheduler)
    scheduler.spare(1)
    scheduler.release(1)
    assert [2] == take(scheduler)
    scheduler.spare(2)
    scheduler.release(2)

    assert [3] == take(scheduler)
    assert {1: NOW + 100} == scheduler.paces()


def test_what_is_not_sent_gives_no_other_turn_back() -> None:
    """One that turns out late not to go undoes nothing of what was taken since."""
    scheduler = paced(100)
    push(scheduler, make(1), make(2), make(3))
    take(scheduler)
    assert [2] == take(scheduler, now=NOW + 100)
    scheduler.begun(2, now=NOW + 100)
    scheduler.spare(1)

    assert [] == take(scheduler, now=NOW + 199)
    assert [3] == take(scheduler, now=NOW + 200)


def test_lowered_limit_counts_from_the_last_request() -> None:
    """A longer pace is that from the last one to the next, also when it is set in between."""
    scheduler = paced(20)
    push(scheduler, make(1), make(2))
    assert [1] == take(scheduler)
    scheduler.open(1, TRUSTED, max_concurrency=8, pace=3_000, now=NOW + 10)

    assert [] == take(scheduler, now=NOW + 2_999)
    assert [2] == take(scheduler, now=NOW + 3_000)


def test_nothing_is_put_off_without_a_limit() -> None:
    """Who waited for something goes at once where there is no pace, unless there is no time left at all."""
    scheduler = paced(100)
    push(scheduler, make(1, subscription=2))
    assert [1] == take(scheduler)

    assert [0, None] == [scheduler.put_off(1, within, now=NOW) for within in (1, 0)]


def test_request_that_was_held_up_keeps_away_from_others() -> None:
    """It goes an interval after one that was taken later and went at once."""
    scheduler = paced(100)
    push(scheduler, make(1), make(2), make(3))
    assert [[1], [2]] == [take(scheduler, now=NOW + ms) for ms in (0, 100)]
    assert scheduler.may_send(2, now=NOW + 100)
    scheduler.sent(2, now=NOW + 100)

    assert 60 == scheduler.put_off(1, 1_000, now=NOW + 140)
    assert [[], [3]] == [take(scheduler, now=NOW + ms) for ms in (299, 300)]


def test_request_that_could_go_at_once_waits_for_one_that_was_held_up() -> None:
    """What was taken before that one had its turn is not sent beside it."""
    scheduler = paced(100)
    push(scheduler, make(1), make(2))
    assert [[1], [2]] == [take(scheduler, now=NOW + ms) for ms in (0, 100)]
    assert 0 == scheduler.put_off(1, 1_000, now=NOW + 100)

    assert [False, True] == [scheduler.may_send(2, now=NOW + ms) for ms in (198, 200)]


def test_requests_that_were_held_up_do_not_go_together() -> None:
    """Those that waited for the same thing go one interval after the other, and the next one after them."""
    scheduler = paced(1_000)
    push(scheduler, make(1), make(2), make(3), make(4))
    for number in range(3):
        assert [number + 1] == take(scheduler, now=NOW + 1_000 * number)
    waits = [scheduler.put_off(seq, within, now=NOW + 2_500) for seq, within in ((1, 1), (2, 1_000), (2, 1_001), (3, 9_000))]

    assert [0, None, 1_000, 2_000] == waits
    assert [] == take(scheduler, now=NOW + 5_499)
    assert [4] == take(scheduler, now=NOW + 5_500)
    scheduler.turn_back(NOW - 86_400_000)
    assert scheduler.put_off(4, 1_001, now=NOW - 86_400_000) is not None


@pytest.mark.parametrize(("pace", "moment"), [(3_600_000, NOW - 10_000), (100, NOW)])
def test_pace_keeps_nobody_longer_than_itself(pace: float, moment: int) -> None:
    """A clock that goes back, or a limit that is raised, makes a lane wait for one interval from then on, at most."""
    scheduler = paced(3_600_000)
    push(scheduler, make(1))
    take(scheduler)
    scheduler.open(1, TRUSTED, max_concurrency=8, pace=pace, now=moment)
    push(scheduler, make(2, due_at=moment), now=moment)

    assert [] == take(scheduler, now=moment + int(pace) - 1)
    assert [2] == take(scheduler, now=moment + int(pace))


def test_pace_of_one_that_is_not_served() -> None:
    """What a start knows of a disabled subscription holds once it is enabled, and outlives another stop."""
    scheduler = Scheduler(concurrency=10, queue_size=10)
    scheduler.hold(1, NOW + 50)
    assert {1: NOW + 50} == scheduler.paces()
    scheduler.open(1, TRUSTED, max_concurrency=8, pace=100, now=NOW)
    push(scheduler, make(1))

    assert [] == take(scheduler, now=NOW + 49)
    assert [1] == take(scheduler, now=NOW + 50)


@pytest.mark.parametrize("released", [True, False])
def test_pace_of_one_that_is_closed_while_a_request_waits(*, released: bool) -> None:
    """A request that is held up until after its lane is closed is followed one interval after it went, as any other."""
    scheduler = paced(100)
    push(scheduler, make(1))
    take(scheduler)
    scheduler.close(1)
    assert 0 == scheduler.put_off(1, 9_000, now=NOW + 5_000)
    assert {1: NOW + 5_100} == scheduler.paces()
    if released:
        scheduler.release(1)
    assert {1: NOW + 5_100} == scheduler.paces()
    scheduler.open(1, TRUSTED, max_concurrency=8, pace=100, now=NOW + 5_001)
    push(scheduler, make(2))

    assert [[], [2]] == [take(scheduler, now=NOW + later) for later in (5_099, 5_100)]


@pytest.mark.parametrize("released", [True, False])
def test_turn_that_is_given_back_after_a_lane_is_closed(*, released: bool) -> None:
    """Where nothing was sent of what was in flight when its lane was closed, the next does not wait for it."""
    scheduler = paced(100)
    push(scheduler, make(1))
    take(scheduler)
    scheduler.close(1)
    scheduler.spare(1)
    if released:
        scheduler.release(1)
    scheduler.open(1, TRUSTED, max_concurrency=8, pace=100, now=NOW)
    push(scheduler, make(2))

    assert [2] == take(scheduler)


def test_pace_of_one_that_is_closed_for_good_is_forgotten() -> None:
    """Of a lane that never opens again nothing is left when what was in flight has ended."""
    scheduler = paced(100)
    push(scheduler, make(1))
    take(scheduler)
    scheduler.close(1)
    scheduler.close(1, for_good=True)
    assert {} == scheduler.paces()
    scheduler.put_off(1, 9_000, now=NOW + 5_000)
    scheduler.release(1)

    assert {} == scheduler.paces()


def test_limit_that_is_taken_off_and_set_again() -> None:
    """The last request by the limit counts, also where there was none for a while; meanwhile nothing waits."""
    scheduler = paced(1_000)
    push(scheduler, make(1), make(2), make(3))
    assert [1] == take(scheduler)
    scheduler.open(1, TRUSTED, max_concurrency=1, now=NOW)
    scheduler.release(1)
    scheduler.open(1, TRUSTED, max_concurrency=1, now=NOW)
    assert [2] == take(scheduler)
    scheduler.open(1, TRUSTED, max_concurrency=8, pace=1_000, now=NOW)

    assert [] == take(scheduler, now=NOW + 999)
    assert [3] == take(scheduler, now=NOW + 1_000)


def test_limit_that_is_lowered_while_closed() -> None:
    """A longer pace is that from the last request on, also where it is set while nothing is served."""
    scheduler = paced(100)
    push(scheduler, make(1))
    assert [1] == take(scheduler)
    scheduler.close(1)
    scheduler.open(1, TRUSTED, max_concurrency=8, pace=3_000, marks=ALL_ON_DISK, now=NOW + 10)

    assert {1: NOW + 3_000} == scheduler.paces()


@pytest.mark.parametrize("closed", [True, False])
def test_what_was_held_up_before_the_clock_went_back_holds_nothing_up(*, closed: bool) -> None:
    """Also of a lane that is closed, or has no pace, when the clock goes back, a request that waits for a token goes then."""
    scheduler = paced(1_000)
    push(scheduler, make(1))
    assert [1] == take(scheduler)
    assert 0 == scheduler.put_off(1, 30_000, now=NOW)
    scheduler.release(1)
    if closed:
        scheduler.close(1)
    else:
        scheduler.open(1, TRUSTED, max_concurrency=8, now=NOW)
    earlier = NOW - 500_000
    scheduler.turn_back(earlier)
    scheduler.open(1, TRUSTED, max_concurrency=8, pace=1_000, now=earlier)
    push(scheduler, make(2, due_at=earlier))
    [seq] = take(scheduler, now=earlier + 1_000)

    assert 0 == scheduler.put_off(seq, 30_000, now=earlier + 1_000)


def test_pace_from_before_a_start() -> None:
    """What a start knows of the last request holds."""
    scheduler = serving()
    scheduler.open(1, TRUSTED, max_concurrency=8, pace=100, next_at=NOW + 70, now=NOW)
    push(scheduler, make(1))

    assert [[], [1]] == [take(scheduler, now=NOW + later) for later in (69, 70)]


def test_it_is_known_when_a_lane_goes_on() -> None:
    """The later of breaker and pace counts; who is not served waits for no time."""
    scheduler = serving(1, standing=replace(FAILING, resume_at=NOW + 50))
    known = [scheduler.resume_at(1), scheduler.resume_at(2)]
    scheduler.open(1, replace(FAILING, resume_at=NOW + 50), max_concurrency=8, pace=100, next_at=NOW + 70, now=NOW)
    known.append(scheduler.resume_at(1))
    push(scheduler, make(1))
    assert [1] == take(scheduler, now=NOW + 70)
    known.append(scheduler.resume_at(1))
    scheduler.close(1)

    assert [NOW + 50, 0, NOW + 70, NOW + 170, 0] == [*known, scheduler.resume_at(1)]


def test_paced_lane_fetches_what_is_next() -> None:
    """Rows on disk are fetched in time for their turn, and not before."""
    scheduler = serving()
    scheduler.open(1, TRUSTED, max_concurrency=8, pace=60_000, marks=[None, (NOW, 1), None], now=NOW)
    [refill] = scheduler.refills(NOW)
    scheduler.refilled(refill, [make(1)], (NOW, 2), now=NOW)
    assert [1] == take(scheduler)

    assert [] == scheduler.refills(NOW + 60_000 - PREFETCH - 1)
    assert [Refill(1, NORMAL, (NOW, 2), CHUNK)] == scheduler.refills(NOW + 60_000 - PREFETCH)


@pytest.mark.parametrize("pace", [0.4, 1.02, 33.4, 102.0])
def test_no_window_holds_more_than_the_limit(pace: float) -> None:
    """Whenever somebody asks, in no stretch of time are there more than the pace allows."""
    rng = random.Random(pace)
    scheduler = paced(pace, max_concurrency=100_000)
    push(scheduler, *(make(seq) for seq in range(2_000)))
    now = NOW
    times: list[int] = []
    while len(times) < 500:
        for seq in take(scheduler, rng.choice([1, 7, 64]), now=now):
            times.append(now)
            scheduler.release(seq)
        now += rng.choice([0, 1, 1, round(pace), round(5 * pace)])

    for count in (1, 10, 100):
        shortest = min(later - earlier for earlier, later in zip(times, times[count:], strict=False))
        assert shortest > count * pace - 1  # times are whole milliseconds


def test_open_breaker_holds_a_lane() -> None:
    """Nothing goes before `resume_at`, which is when to ask again; then one probe goes."""
    scheduler = Scheduler(concurrency=8, queue_size=100)
    scheduler.open(1, replace(FAILING, resume_at=NOW + 5_000), max_concurrency=8, now=NOW)
    push(scheduler, make(1), make(2))

    assert [] == take(scheduler, now=NOW + 4_999)
    assert NOW + 5_000 == scheduler.next_due(NOW)
    assert [1] == take(scheduler, now=NOW + 5_000)

    scheduler.release(1, replace(FAILING, resume_at=NOW + 15_000))
    assert [] == take(scheduler, now=NOW + 14_999)
    assert NOW + 15_000 == scheduler.next_due(NOW)
    assert [2] == take(scheduler, now=NOW + 15_000)


def test_breaker_opens_for_a_lane_in_line() -> None:
    """A lane that stands in line when its breaker opens waits for its probe like any other."""
    scheduler = serving(1)
    push(scheduler, *(make(seq) for seq in range(1, 5)))
    take(scheduler, 1)
    scheduler.release(1, replace(FAILING, resume_at=NOW + 5_000))

    assert [] == take(scheduler)
    assert NOW + 5_000 == scheduler.next_due(NOW)


def test_closed_breaker_lets_go_at_once() -> None:
    """A lane whose pause is lifted by hand does not wait for its end."""
    scheduler = Scheduler(concurrency=8, queue_size=100)
    scheduler.open(1, replace(FAILING, resume_at=NOW + 5_000), max_concurrency=8, now=NOW)
    push(scheduler, make(1))
    scheduler.open(1, UNTRIED, max_concurrency=8, now=NOW)

    assert [1] == take(scheduler)


def test_a_clock_that_goes_back() -> None:
    """What was due and is not any more waits for its time again."""
    scheduler = serving(1)
    push(scheduler, make(1))

    assert [] == take(scheduler, now=NOW - 10)
    assert NOW == scheduler.next_due(NOW)
    assert [1] == take(scheduler, now=NOW)


def test_timers_are_bounded() -> None:
    """Deliveries that each come before all others do not leave a timer each, and cost no other lane its own."""
    scheduler = serving(1, 2, queue_size=20_000, max_concurrency=1)
    push(scheduler, make(1, 2, due_at=NOW + 30_000_000))
    for n in range(2, 10_000):
        scheduler.push(make(n, due_at=NOW + 20_000_000 - n), now=NOW)

    assert len(scheduler._timers) < 200
    assert NOW + 20_000_000 - 9_999 == scheduler.next_due(NOW)
    assert [9_999, 1] == take(scheduler, now=NOW + 30_000_000)


# Opening and closing.


def test_closed_lanes_leave_no_timers() -> None:
    """What waited for lanes that are closed by now, also with something in flight, is not kept until its time."""
    scheduler = serving(1, concurrency=2_000)
    for n in range(2, 1_000):
        scheduler.open(n, TRUSTED, max_concurrency=8, now=NOW)
        push(scheduler, make(n, n, due_at=NOW + 20_000_000), make(n + 1_000, n))
        assert [n + 1_000] == take(scheduler)
        scheduler.close(n, for_good=bool(n % 2))
        if n % 3:
            scheduler.release(n + 1_000)

    assert {None} == {lane.timer for _, _, lane in scheduler._timers}
    for n in range(3, 1_000, 3):
        scheduler.release(n + 1_000)
    push(scheduler, make(1, due_at=NOW + 500))
    scheduler.next_due(NOW)
    assert len(scheduler._timers) < 200


def test_new_lane_has_nothing_on_disk() -> None:
    """A new subscription asks for nothing and takes every push."""
    scheduler = serving(1)

    assert [] == scheduler.refills(NOW)
    assert [1] == push(scheduler, make(1))


def test_opening_again_changes_limits_only() -> None:
    """Of a lane that is open a second opening moves no mark and loses no entry."""
    scheduler = serving(1, standing=UNTRIED)
    push(scheduler, make(1), make(2), make(3))
    scheduler.open(1, Standing(width=2, rank=Rank.TRUSTED), max_concurrency=8, marks=[FROM_THE_START] * 3, now=NOW)

    assert Standing(width=2, rank=Rank.TRUSTED) == scheduler.standing(1)
    assert [] == scheduler.refills(NOW)
    assert [1, 2] == take(scheduler)


def test_closed_lane_is_silent() -> None:
    """What waits for a closed lane is forgotten, with its refills and its timers."""
    scheduler = serving(1, marks=(FROM_THE_START, None, None))
    push(scheduler, make(1), make(2, due_at=NOW + 900))
    scheduler.close(1)
    scheduler.close(2)

    assert [] == take(scheduler, now=NOW + 1_000)
    assert [] == scheduler.refills(NOW + 1_000)
    assert 0 == scheduler.size
    assert scheduler.next_due(NOW) is None
    assert scheduler.standing(1) is None


def test_closed_lane_ends_what_is_in_flight() -> None:
    """An attempt that runs while its lane is closed keeps its slot until it is released."""
    scheduler = serving(1, standing=UNTRIED, concurrency=2)
    push(scheduler, make(1), make(2))
    take(scheduler)
    scheduler.close(1)
    scheduler.open(2, UNTRIED, max_concurrency=8, now=NOW)
    push(scheduler, make(3, 2))

    assert UNTRIED == scheduler.standing(1)
    assert [] == take(scheduler)

    scheduler.release(1)
    assert [] == push(scheduler, make(1))
    assert [3] == take(scheduler)
    assert scheduler.standing(1) is None


def test_reopened_lane_counts_what_is_in_flight() -> None:
    """Closing and opening gives no lane more slots than it may have."""
    scheduler = serving(1, standing=UNTRIED)
    push(scheduler, make(1), make(2))
    take(scheduler)
    scheduler.close(1)
    scheduler.open(1, UNTRIED, max_concurrency=8, now=NOW)
    push(scheduler, make(2))

    assert [] == take(scheduler)
    scheduler.release(1)
    assert [2] == take(scheduler)


def test_lane_may_open_and_close_at_any_rate() -> None:
    """Timers of former lives of a lane disturb no later one."""
    scheduler = serving(1)
    for _ in range(3):
        push(scheduler, make(1, due_at=NOW + 500))
        scheduler.close(1)
        scheduler.open(1, TRUSTED, max_concurrency=8, now=NOW)
    push(scheduler, make(1, due_at=NOW + 500))

    assert [1] == take(scheduler, now=NOW + 500)


# Discarding.


def test_discarded_delivery_does_not_go() -> None:
    """A delivery that was cancelled is forgotten, and no other."""
    scheduler = serving(1)
    push(scheduler, make(1), make(2), make(3))
    scheduler.discard(make(2))

    assert 2 == scheduler.size
    assert [1, 3] == take(scheduler)


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(make(1, 2), id="another-lane"),
        pytest.param(make(9), id="on-disk-only"),
        pytest.param(make(1, priority=HIGH), id="another-priority"),
        pytest.param(make(0, due_at=NOW - 1), id="before-the-one-that-is"),
    ],
)
def test_discarding_what_is_not_there(row: Delivery) -> None:
    """Discarding a delivery that is not in memory as it is given changes nothing."""
    scheduler = serving(1)
    push(scheduler, make(1))
    scheduler.discard(row)

    assert [1] == take(scheduler)


def test_row_at_the_mark_is_taken_once() -> None:
    """The first row that is on disk only, told of again, stays there until the refill brings it."""
    scheduler = serving(1, marks=(None, (NOW, 1), None))
    assert [] == push(scheduler, make(1))
    (refill,) = scheduler.refills(NOW)
    answer(scheduler, refill, [make(1)])

    assert [1] == take(scheduler)


def test_discarding_the_last_entry_uncovers_the_disk() -> None:
    """Where all that a lane had in memory is cancelled, it asks for what follows on disk."""
    scheduler = serving(1, 2, queue_size=1, concurrency=1)
    push(scheduler, make(1), make(2))
    assert [] == scheduler.refills(NOW)
    scheduler.discard(make(1))

    (refill,) = scheduler.refills(NOW)
    answer(scheduler, refill, [make(2)])
    assert [2] == take(scheduler)


def test_discarded_lanes_make_room() -> None:
    """Lanes whose entries were all cancelled are no victims of an eviction."""
    scheduler = serving(1, 2, 3, queue_size=2)
    push(scheduler, make(1, due_at=NOW + 9_000), make(2, 2, due_at=NOW + 9_000))
    scheduler.discard(make(2, 2, due_at=NOW + 9_000))
    push(scheduler, make(3, 3), make(4, 3))

    assert [3, 4] == take(scheduler)
    assert 0 == scheduler.size


def test_retry_by_hand_moves_a_delivery() -> None:
    """Discarded at its old time and pushed at its new one, a delivery goes at the new one, once."""
    scheduler = serving(1)
    push(scheduler, make(1, due_at=NOW + 60_000))
    scheduler.discard(make(1, due_at=NOW + 60_000))
    push(scheduler, make(1))

    assert [1] == take(scheduler)
    assert [] == take(scheduler, now=NOW + 60_000)


# Properties, against a model that is slow and obvious.

SUBSCRIPTIONS = (1, 2, 3, 4, 5)
DELAYS = (0, 0, 0, 0, 1, 400, 999, 1_000, 1_001, 1_500, 5_000, 100_000)
STEPS = (1, 100, 500, 999, 1_000, 1_001, 5_000, 60_000)


def best(rows: Iterable[Delivery], now: int) -> Delivery | None:
    """What goes first of *rows*; None if nothing is due."""
    return min((row for row in rows if row.due_at <= now), key=lambda row: (row.priority, *key(row)), default=None)


class World:
    """
    The scheduler beside a dict of all pending rows, which is the disk: it answers refills, and says what is right.

    What the writer task does is one method each, because nothing can come between a commit and what it entails.
    """

    def __init__(
        self,
        *,
        queue_size: int,
        concurrency: int,
        max_concurrency: int,
        overtaking: int = OVERTAKING,
        subscriptions: Sequence[int] = SUBSCRIPTIONS,
    ) -> None:
        self.queue_size = queue_size
        self.concurrency = concurrency
        self.subscriptions = subscriptions
        self.now = NOW
        self.last_seq = 0
        self.disk: dict[int, Delivery] = {}
        self.enabled: set[int] = set()
        self.max_concurrency = dict.fromkeys(self.subscriptions, max_concurrency)
        self.standing = dict.fromkeys(self.subscriptions, Standing(width=max_concurrency, rank=Rank.TRUSTED))
        self.in_flight: dict[int, Delivery] = {}  # as they were taken
        self.gone_well: set[int] = set()  # of them, those whose requests had success
        self.unrecorded: set[int] = set()  # of these, those that hold no slot of their subscription any more
        self.asked: deque[Refill] = deque()
        self.overtaking = overtaking
        # By subscription and priority, since one of it went: how many others have gone, and how many while it was overtaken.
        self.others: Counter[tuple[int, Priority]] = Counter()
        self.overtaken: Counter[tuple[int, Priority]] = Counter()
        self.scheduler = Scheduler(concurrency=concurrency, queue_size=queue_size, overtaking=overtaking)
        for subscription in self.subscriptions:
            self.enable(subscription)

    def commit(self, subscription: int, priority: Priority, delays: list[int]) -> None:
        """Events are accepted: a row for each of *delays*."""
        fresh = []
        for delay in delays:
            self.last_seq += 1
            row = make(self.last_seq, subscription, due_at=self.now + delay, priority=priority)
            self.disk[row.seq] = row
            fresh.append(row)
        for row in fresh:
            self.push(row)

    def push(self, row: Delivery) -> None:
        """Hand a committed row to the scheduler, which says rightly whether it is in memory."""
        in_memory = self.scheduler.push(row, now=self.now)
        assert in_memory == (row in self.window(row.subscription))

    def go_well(self, seq: int) -> None:
        """A request has had success, which is not recorded yet."""
        self.gone_well.add(seq)
        if self.standing[self.in_flight[seq].subscription].rank is Rank.TRUSTED:
            self.unrecorded.add(seq)
        self.scheduler.went_well(seq)

    def record(self, seq: int, *, retry_in: int | None, standing: Standing | None) -> None:
        """An attempt has ended: delivered, or to be repeated; nothing where somebody else changed the row meanwhile."""
        taken = self.in_flight[seq]
        if self.disk.get(seq) is taken:
            if retry_in is None:
                del self.disk[seq]
            else:
                self.disk[seq] = replace(taken, due_at=self.now + retry_in)
        self.release(seq, standing)

    def release(self, seq: int, standing: Standing | None) -> None:
        """Without a record before it, the attempt was interrupted."""
        taken = self.in_flight.pop(seq)
        self.gone_well.discard(seq)
        self.unrecorded.discard(seq)
        if standing is not None:
            self.standing[taken.subscription] = standing
        self.scheduler.release(seq, standing)
        if seq in self.disk:
            self.push(self.disk[seq])

    def cancel(self, seq: int) -> None:
        """By hand."""
        row = self.disk.pop(seq)
        if seq not in self.scheduler._in_flight:
            self.scheduler.discard(row)

    def retry_by_hand(self, seq: int) -> None:
        """By hand: due now; an attempt that runs will end without effect on the row."""
        before = self.disk[seq]
        self.disk[seq] = replace(before, due_at=self.now, step=before.step + 1)
        if seq not in self.scheduler._in_flight:
            self.scheduler.discard(before)
            self.push(self.disk[seq])

    def disable(self, subscription: int) -> None:
        """Its rows stay on disk."""
        self.enabled.discard(subscription)
        self.scheduler.close(subscription)
        for priority in Priority:
            del self.overtaken[subscription, priority]

    def enable(self, subscription: int, standing: Standing | None = None) -> None:
        """What it has on disk, nobody knows."""
        if subscription not in self.enabled:
            self.enabled.add(subscription)
            self.standing[subscription] = standing or self.standing[subscription]
            self.open(subscription, [FROM_THE_START] * 3)

    def change_limits(self, subscription: int, standing: Standing, max_concurrency: int) -> None:
        """What an edit or an attempt of another of its deliveries entails."""
        if subscription in self.enabled:
            self.standing[subscription] = standing
            self.max_concurrency[subscription] = max_concurrency
            self.open(subscription, [None] * 3)

    def open(self, subscription: int, marks: list[Mark | None]) -> None:
        """Open its lane, or change its limits."""
        self.scheduler.open(
            subscription,
            self.standing[subscription],
            max_concurrency=self.max_concurrency[subscription],
            marks=marks,
            now=self.now,
        )

    def restart(self) -> None:
        """Begin anew with what is on disk."""
        self.scheduler = Scheduler(concurrency=self.concurrency, queue_size=self.queue_size, overtaking=self.overtaking)
        self.overtaken.clear()
        self.in_flight.clear()
        self.gone_well.clear()
        self.unrecorded.clear()
        self.asked.clear()
        for subscription in sorted(self.enabled):
            rows = self.rows(subscription)
            self.open(subscription, [min((key(r) for r in rows if r.priority is p), default=None) for p in Priority])

    def ask(self) -> None:
        """The dispatcher sends its refills to the writer."""
        self.asked.extend(self.scheduler.refills(self.now))

    def answer(self) -> None:
        """The writer reads one, and hands over what it found."""
        refill = self.asked.popleft()
        rows = sorted(
            (r for r in self.rows(refill.subscription) if r.priority is refill.priority and key(r) >= refill.mark), key=key
        )
        beyond = key(rows[refill.limit]) if len(rows) > refill.limit else None
        self.scheduler.refilled(refill, rows[: refill.limit], beyond, now=self.now)

    def answer_all(self) -> None:
        """Until nothing is asked any more."""
        for _ in range(100):
            self.ask()
            if not self.asked:
                return
            while self.asked:
                self.answer()
        pytest.fail("it asks for ever")

    def take(self, limit: int, waiting: dict[int, list[Delivery]] | None = None) -> list[Delivery]:
        """Take, and hold each delivery taken against the rules: of what is in memory, and of what is *waiting* anywhere."""
        windows = {subscription: self.window(subscription) for subscription in self.subscriptions}
        taken = self.scheduler.take(self.now, limit)
        for row in taken:
            assert row.seq not in self.in_flight
            assert row is self.disk.get(row.seq)
            assert self.may_go(row.subscription)
            self.goes_in_turn(row, windows[row.subscription])
            if waiting is not None:
                self.goes_in_turn(row, waiting[row.subscription])
            if self.standing[row.subscription].rank is Rank.FAILING:
                untried = {s for s in self.enabled if self.standing[s].rank is Rank.UNTRIED and self.may_go(s)}
                assert set() == {s for s in untried if best(windows[s], self.now)}
            windows[row.subscription].remove(row)
            self.in_flight[row.seq] = row
            self.count_overtaken(row)
        return taken

    def goes_in_turn(self, row: Delivery, waiting: list[Delivery]) -> None:
        """Of what is *waiting* for a subscription the best goes, or what was overtaken too often, and then that first."""
        assert row is best((other for other in waiting if other.priority is row.priority), self.now)
        first = best(waiting, self.now)
        assert first is not None
        tired = {
            other.priority
            for other in waiting
            if other.due_at <= self.now
            and other.priority > first.priority
            and self.overtaken[other.subscription, other.priority] >= self.overtaking
        }
        if tired or row.priority is not first.priority:  # of several that were overtaken too often, each has its turn
            assert self.others[row.subscription, row.priority] >= self.overtaking

    def count_overtaken(self, row: Delivery) -> None:
        """*row* goes before what of its subscription is due, wherever that is."""
        subscription = row.subscription
        due = {row.priority} | {
            other.priority for other in self.rows(subscription) if other.due_at <= self.now and other.seq not in self.in_flight
        }
        for priority in Priority:
            self.others[subscription, priority] += 1
            if priority in due and priority > row.priority:
                self.overtaken[subscription, priority] += 1
        self.others[subscription, row.priority] = self.overtaken[subscription, row.priority] = 0

    def settle(self) -> None:
        """Once all refills are answered, what should go goes, best first, and nothing sleeps beyond `next_due`."""
        self.answer_all()
        waiting = {s: [row for row in self.rows(s) if row.seq not in self.in_flight] for s in self.enabled}
        able = {s for s in self.enabled if self.may_go(s) and best(waiting[s], self.now)}
        crowded = sum(best(rows, self.now) is not None for rows in waiting.values()) >= self.queue_size
        taken = self.take(1, None if crowded else waiting)
        assert bool(able) == bool(taken)
        if not able:
            entitled = [s for s in self.enabled if waiting[s] and self.may_go(s, when_resumed=True)]
            times = [max(min(row.due_at for row in waiting[s]), self.standing[s].resume_at) for s in entitled]
            if times:
                due_at = self.scheduler.next_due(self.now)
                assert due_at is not None
                assert self.now < due_at <= min(times)

    def drain(self) -> None:
        """Whatever happened: in the end every row is delivered, and once."""
        for subscription in self.subscriptions:
            self.enable(subscription)
        for _ in range(3_000):
            if not self.disk and not self.in_flight:  # one that was overruled in flight is on disk no more
                break
            self.settle()
            self.take(5)
            if self.in_flight:
                for seq in list(self.in_flight):
                    self.disk.pop(seq, None)
                    self.release(seq, None)
            else:
                due_at = self.scheduler.next_due(self.now)
                assert due_at is not None
                self.now = due_at
            self.check()

        assert {} == self.disk
        assert (0, 0) == (self.scheduler.size, self.scheduler.in_flight)

    def check(self) -> None:
        """The window and the slots are bounded; each waiting row is in memory, or from its mark on, and never in both."""
        assert self.scheduler.size <= self.queue_size
        assert self.scheduler.in_flight == len(self.in_flight) <= self.concurrency
        for subscription in self.subscriptions:
            expected = []
            if subscription in self.enabled:
                marks = self.scheduler._lanes[subscription].marks
                waiting = [row for row in self.rows(subscription) if row.seq not in self.in_flight]
                before_mark = [row for row in waiting if (mark := marks[row.priority]) is None or key(row) < mark]
                expected = sorted(before_mark, key=lambda row: (row.priority, *key(row)))
            assert expected == self.window(subscription)
        assert self.scheduler.size == sum(len(self.window(subscription)) for subscription in self.subscriptions)

    def rows(self, subscription: int) -> list[Delivery]:
        """Its pending rows."""
        return [row for row in self.disk.values() if row.subscription == subscription]

    def window(self, subscription: int) -> list[Delivery]:
        """Its deliveries that wait in memory."""
        lane = self.scheduler._lanes.get(subscription)
        return [] if lane is None else [row for queue in lane.queues for _, _, row in queue]

    def may_go(self, subscription: int, *, when_resumed: bool = False) -> bool:
        """Whether the rules entitle *subscription* to one more slot."""
        under_way = [row for seq, row in self.in_flight.items() if seq not in self.unrecorded]
        mine = sum(row.subscription == subscription for row in under_way)
        doubtful = sum(self.standing[row.subscription].rank is not Rank.TRUSTED for row in under_way)
        free = self.concurrency - len(self.in_flight)
        standing = self.standing[subscription]
        return (
            subscription in self.enabled
            and free > 0
            and mine < min(standing.width, self.max_concurrency[subscription])
            and (not mine or mine * 2 < free)
            and (standing.rank is Rank.TRUSTED or doubtful < max(1, self.concurrency // 2))
            and (when_resumed or standing.resume_at <= self.now)
        )


def any_standing(world: World, rng: random.Random) -> Standing:
    """What a subscription may have earned."""
    rank = rng.choice([Rank.TRUSTED, Rank.TRUSTED, Rank.UNTRIED, Rank.FAILING])
    width = rng.randint(1, 4) if rank is Rank.TRUSTED else 1
    return Standing(width=width, rank=rank, resume_at=world.now + rng.choice([0, 0, 0, 300, 1_300, 5_000]))


def something_is_committed(world: World, rng: random.Random) -> None:
    """One thing happens in the store, whatever it is."""
    subscription = rng.choice(world.subscriptions)
    row = rng.choice(sorted(world.disk)) if world.disk else 0
    match rng.choices(range(8), [10, 3, 4, 2, 1, 3, 2, 1])[0]:
        case 0:
            world.commit(subscription, rng.choice(list(Priority)), rng.choices(DELAYS, k=rng.randint(1, 3)))
        case 1:
            world.commit(subscription, rng.choice(list(Priority)), [rng.choice(DELAYS)] * rng.randint(4, 12))
        case 2 if row:
            world.cancel(row)
        case 3 if row:
            world.retry_by_hand(row)
        case 4:
            world.disable(subscription)
        case 5:
            for disabled in set(world.subscriptions) - world.enabled:
                world.enable(disabled, any_standing(world, rng))
        case 6:
            world.change_limits(subscription, any_standing(world, rng), rng.randint(1, 4))
        case _ if rng.random() < 0.1:
            world.restart()
        case _:
            world.disable(subscription)
            world.enable(subscription)


def something_goes_on(world: World, rng: random.Random) -> None:
    """One thing happens between store, scheduler and endpoints, whatever it is."""
    taken = rng.choice(sorted(world.in_flight)) if world.in_flight else 0
    match rng.choices(range(6), [12, 3, 10, 14, 12, 6])[0]:
        case 0 if taken:
            standing = rng.choice([None, any_standing(world, rng)])
            world.record(taken, retry_in=rng.choice([None, None, 0, 300, 999, 5_000]), standing=standing)
        case 1 if taken:
            world.release(taken, None)
        case 2:
            world.now += rng.choice(STEPS)
        case 3 if world.asked:
            world.answer()
        case 3:
            world.ask()
        case 5 if taken and taken not in world.gone_well:
            world.go_well(taken)
        case _:
            world.take(rng.randint(1, 5))


def test_low_on_disk_is_not_overtaken_for_ever() -> None:
    """Where a backlog of higher priority fills a lane's share of the window, one of lower priority is fetched for its turn."""
    world = World(queue_size=4, concurrency=1, max_concurrency=1, overtaking=2, subscriptions=SUBSCRIPTIONS[:1])
    world.commit(1, LOW, [0] * 3)
    world.commit(1, HIGH, [0] * 30)
    order = []
    for _ in range(9):
        world.answer_all()
        [row] = world.take(1)
        world.check()
        world.record(row.seq, retry_in=None, standing=None)
        order.append(row.priority)

    assert [HIGH, HIGH, LOW] * 3 == order


@pytest.mark.parametrize("seed", range(60))
def test_random_walks(seed: int) -> None:
    """Nothing that happens, in whatever order, makes the scheduler lose, repeat, disorder or oversleep a delivery."""
    rng = random.Random(seed)
    queue_size = rng.randint(2, 8)
    world = World(
        queue_size=queue_size,
        concurrency=rng.randint(1, queue_size),
        max_concurrency=rng.randint(1, 4),
        overtaking=rng.choice([1, 2, 5, OVERTAKING]),
    )
    for _ in range(300):
        rng.choice([something_is_committed, something_goes_on, something_goes_on])(world, rng)
        world.check()
        if rng.random() < 0.1:
            world.settle()

    world.drain()


STANDINGS = st.sampled_from([TRUSTED, Standing(width=2, rank=Rank.TRUSTED), UNTRIED, FAILING])
DUE = st.lists(st.sampled_from(DELAYS), min_size=1, max_size=6)


class _Machine(RuleBasedStateMachine):
    """What hypothesis may do to a world; it finds short ways to a failure, the random walks find long ones."""

    world: World

    @initialize(
        queue_size=st.integers(2, 5),
        slots=st.integers(1, 4),
        max_concurrency=st.integers(1, 3),
        overtaking=st.sampled_from([1, 2, OVERTAKING]),
    )
    def start(self, queue_size: int, slots: int, max_concurrency: int, overtaking: int) -> None:
        self.world = World(
            queue_size=queue_size,
            concurrency=min(slots, queue_size),
            max_concurrency=max_concurrency,
            overtaking=overtaking,
            subscriptions=SUBSCRIPTIONS[:3],
        )

    @rule(subscription=st.integers(1, 3), priority=st.sampled_from(Priority), delays=DUE)
    def commit(self, subscription: int, priority: Priority, delays: list[int]) -> None:
        self.world.commit(subscription, priority, delays)

    @rule(limit=st.integers(1, 3))
    def take(self, limit: int) -> None:
        self.world.take(limit)

    @precondition(lambda self: self.world.in_flight)
    @rule(data=st.data(), retry_in=st.none() | st.sampled_from(DELAYS), standing=st.none() | STANDINGS)
    def record(self, data: st.DataObject, retry_in: int | None, standing: Standing | None) -> None:
        self.world.record(data.draw(st.sampled_from(list(self.world.in_flight))), retry_in=retry_in, standing=standing)

    @precondition(lambda self: self.world.in_flight.keys() - self.world.gone_well)
    @rule(data=st.data())
    def go_well(self, data: st.DataObject) -> None:
        self.world.go_well(data.draw(st.sampled_from(sorted(self.world.in_flight.keys() - self.world.gone_well))))

    @precondition(lambda self: self.world.in_flight)
    @rule(data=st.data())
    def interrupt(self, data: st.DataObject) -> None:
        self.world.release(data.draw(st.sampled_from(list(self.world.in_flight))), None)

    @precondition(lambda self: self.world.disk)
    @rule(data=st.data(), again=st.booleans())
    def overrule(self, data: st.DataObject, *, again: bool) -> None:
        seq = data.draw(st.sampled_from(list(self.world.disk)))
        if again:
            self.world.retry_by_hand(seq)
        else:
            self.world.cancel(seq)

    @rule(subscription=st.integers(1, 3), standing=STANDINGS, max_concurrency=st.integers(1, 3))
    def change(self, subscription: int, standing: Standing, max_concurrency: int) -> None:
        if subscription in self.world.enabled:
            self.world.change_limits(subscription, standing, max_concurrency)
        else:
            self.world.enable(subscription, standing)

    @rule(subscription=st.integers(1, 3))
    def disable(self, subscription: int) -> None:
        self.world.disable(subscription)

    @rule()
    def restart(self) -> None:
        self.world.restart()

    @rule(by=st.sampled_from(STEPS))
    def pass_time(self, by: int) -> None:
        self.world.now += by

    @rule()
    def ask(self) -> None:
        self.world.ask()

    @precondition(lambda self: self.world.asked)
    @rule()
    def answer(self) -> None:
        self.world.answer()

    @rule()
    def settle(self) -> None:
        self.world.settle()

    @invariant()
    def check(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world"):
            self.world.drain()


def test_any_sequence() -> None:
    """No sequence of commits, attempts, changes, restarts and refills breaks what `World` checks."""
    slow_is_fine = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    run_state_machine_as_test(
        _Machine,
        settings=settings(max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=slow_is_fine),
    )
