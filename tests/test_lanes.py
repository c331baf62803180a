"""The lanes of the scheduler by themselves: the order within one, and among those that wait for the same."""

from __future__ import annotations

import pytest

from hookengine.lanes import Entry, Lane, LaneGroup
from hookengine.models import Delivery, Priority, Rank, Standing
from hookengine.pace import Pace

NOW = 1_000_000
HIGH, NORMAL, LOW = Priority


def entry(seq: int, due_at: int, priority: Priority = NORMAL) -> Entry:
    """What a queue holds of a delivery."""
    made = Delivery(seq=seq, id=f"dlv_{seq}", event=seq, subscription=1, priority=priority, due_at=due_at, created_at=0)
    return due_at, seq, made


def lane_of(*entries: tuple[int, Priority], subscription: int = 1) -> Lane:
    """A lane with an entry for each (due_at, priority), in the order of their keys."""
    lane = Lane(subscription)
    for seq, (due_at, priority) in enumerate(entries, 1):
        lane.queues[priority].append(entry(seq, due_at, priority))
        lane.size += 1
    return lane


def goes(lane: Lane, overtaking: int, now: int = NOW) -> int | None:
    """The key of what goes now, which is taken out."""
    queue = lane.next_queue(now, overtaking)
    return None if queue is None else queue.popleft()[1]


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        pytest.param([], None, id="nothing"),
        pytest.param([(NOW, NORMAL)], 1, id="due"),
        pytest.param([(NOW + 1, NORMAL)], None, id="not due"),
        pytest.param([(NOW - 9, LOW), (NOW, HIGH)], 2, id="priority before time"),
        pytest.param([(NOW + 1, HIGH), (NOW, LOW)], 2, id="what is not due yields"),
    ],
)
def test_the_first_that_is_due(entries: list[tuple[int, Priority]], expected: int | None) -> None:
    """Of what is due the smaller priority goes first."""
    assert expected == goes(lane_of(*entries), 100)


def test_who_is_overtaken_often_enough_goes() -> None:
    """What is due and was overtaken so many times goes next, once, and then is counted anew."""
    lane = lane_of(*[(NOW, HIGH)] * 5, *[(NOW, LOW)] * 2)

    assert [1, 2, 6, 3, 4, 7, 5, None] == [goes(lane, 2) for _ in range(8)]


def test_of_two_that_were_overtaken_the_higher_goes_first() -> None:
    """Where normal and low ones have been overtaken as often, a normal one goes, and the next is a low one."""
    lane = lane_of(*[(NOW, HIGH)] * 4, *[(NOW, NORMAL)] * 2, *[(NOW, LOW)] * 2)

    assert [1, 2, 5, 7, 3, 6, 8, 4] == [goes(lane, 2) for _ in range(8)]


def test_what_is_on_disk_is_overtaken_too() -> None:
    """Rows from a mark on count as waiting from their time on, so that their turn comes when they are read."""
    lane = lane_of(*[(NOW, HIGH)] * 4)
    lane.marks[LOW] = (NOW, 9)
    lane.marks[NORMAL] = (NOW + 1, 8)

    assert [1, 2, 3] == [goes(lane, 2) for _ in range(3)]
    assert [LOW] == lane.tired(2)


@pytest.mark.parametrize(
    ("resume_at", "pace", "next_at", "expected"),
    [
        pytest.param(0, 0.0, 0.0, NOW + 3, id="its time"),
        pytest.param(NOW + 7, 0.0, 0.0, NOW + 7, id="breaker"),
        pytest.param(0, 100.0, NOW + 5.9, NOW + 5, id="pace"),
        pytest.param(NOW + 9, 100.0, NOW + 5.0, NOW + 9, id="both"),
    ],
)
def test_when_the_first_may_go(resume_at: int, pace: float, next_at: float, expected: int) -> None:
    """Neither before its time nor before breaker and pace allow it, whatever its priority."""
    for entries in ([(NOW + 3, NORMAL)], [(NOW + 8, HIGH), (NOW + 3, LOW)]):
        lane = lane_of(*entries)
        lane.standing = Standing(width=1, rank=Rank.UNTRIED, resume_at=resume_at)
        lane.pace = Pace(pace, next_at) if pace else None

        assert expected == lane.ready_at()


def test_how_many_go_before_a_row() -> None:
    """Those of its priority and the smaller ones that are due by its time."""
    lane = lane_of((NOW, HIGH), (NOW + 1, HIGH), (NOW, NORMAL), (NOW + 1, NORMAL), (NOW, LOW))

    assert [1, 2, 4, 5] == [
        lane.due_before(priority, time) for priority, time in ((HIGH, NOW), (NORMAL, NOW), (NORMAL, NOW + 1), (LOW, NOW + 1))
    ]


@pytest.mark.parametrize(
    ("entries", "overtaken", "expected"),
    [
        pytest.param([(NOW, LOW), (NOW + 1, HIGH)], [], HIGH, id="a waiting one before a due one"),
        pytest.param([(NOW, HIGH), (NOW, LOW)], [], LOW, id="the lowest"),
        pytest.param([(NOW, HIGH), (NOW, LOW)], [LOW], HIGH, id="not the last of those whose turn it is"),
        pytest.param([(NOW, HIGH), (NOW, LOW), (NOW, LOW)], [LOW], LOW, id="the second of these"),
    ],
)
def test_what_can_be_spared(entries: list[tuple[int, Priority]], overtaken: list[Priority], expected: Priority) -> None:
    """Where the window is too small, what would go last is left to the disk."""
    lane = lane_of(*entries)
    for priority in overtaken:
        lane.overtaken[priority] = 2

    assert expected == lane.spare_priority(NOW, 2)


def test_lanes_stand_in_turn() -> None:
    """First those with the fewest in flight, of these the one that came first; and so from behind."""
    lanes = LaneGroup()
    assert (None, None, []) == (lanes.first(), lanes.last(), list(lanes))
    for subscription, in_flight in ((1, 2), (2, 0), (3, 2), (4, 0)):
        lane = lane_of(subscription=subscription)
        lane.in_flight, lane.turn = in_flight, (in_flight, subscription)
        lanes.add(lane)

    order = []
    while (first := lanes.first()) is not None:
        assert lanes.length == len(list(lanes))
        order.append((first.subscription, (lanes.last() or first).subscription))
        lanes.remove(first)
    assert [(2, 3), (4, 3), (1, 3), (3, 3)] == order


def test_a_lane_leaves_where_it_came_in() -> None:
    """What it has in flight may have changed since: its turn says where it stands."""
    lanes, lane = LaneGroup(), lane_of()
    lane.turn = (0, 1)
    lanes.add(lane)
    lane.in_flight = 5
    lanes.remove(lane)

    assert (0, None, []) == (lanes.length, lanes.first(), list(lanes))
