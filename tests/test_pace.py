"""How requests are spaced."""

from __future__ import annotations

import random

import pytest

from hookengine.pace import Pace

NOW = 1_700_000_000_000


def test_each_goes_one_interval_after_the_one_before() -> None:
    """Who is taken in time has the next turn; who is taken late begins anew, without turns that were saved up."""
    pace = Pace(100, NOW)
    pace.take(1, NOW)
    assert NOW + 100 == pace.next_at
    pace.take(2, NOW + 99)
    assert NOW + 200 == pace.next_at
    pace.take(3, NOW + 1_000)
    assert NOW + 1_100 == pace.next_at


def test_beginning_late_moves_the_next() -> None:
    """What follows a request is spaced from when it goes, and no closer than from when it was taken."""
    pace = Pace(100, NOW)
    pace.take(1, NOW)
    pace.begin(NOW)
    assert NOW + 100 == pace.next_at
    pace.begin(NOW + 90)
    assert NOW + 190 == pace.next_at


@pytest.mark.parametrize(("interval", "next_at"), [(3_000, NOW + 3_000), (100, NOW + 100), (20, NOW + 100)])
def test_change_counts_from_the_last(interval: int, next_at: int) -> None:
    """A longer interval holds since the last request; a shorter one shortens nothing, for which there is `bound`."""
    pace = Pace(100, NOW)
    pace.take(1, NOW)
    pace.change(interval)
    assert next_at == pace.next_at
    pace.change(interval, NOW + 5_000)
    assert NOW + 5_000 == pace.next_at


def test_only_the_last_gives_its_turn_back() -> None:
    """What turns out not to go undoes its own turn, and nothing of what was taken since."""
    pace = Pace(100, NOW)
    pace.take(1, NOW)
    pace.take(2, NOW + 100)
    assert not pace.spare(1)
    assert NOW + 200 == pace.next_at
    assert pace.spare(2)
    assert NOW + 100 == pace.next_at


def test_those_that_were_held_up_are_spaced() -> None:
    """Who waited for the same thing goes one after the other, or hears that it would wait too long and takes no turn."""
    pace = Pace(100)
    assert [0, None, 100, 200, None] == [pace.put_off(within, NOW) for within in (1, 100, 101, 1_000, 300)]
    assert NOW + 300 == pace.next_at


def test_those_that_were_held_up_are_spaced_from_others() -> None:
    """Who was held up goes an interval after who went at once meanwhile."""
    pace = Pace(100)
    pace.send(NOW)
    assert 60 == pace.put_off(1_000, NOW + 40)
    assert NOW + 200 == pace.next_at


@pytest.mark.parametrize(("now", "next_at"), [(NOW, NOW + 100), (NOW + 1, NOW + 100), (NOW - 1_000, NOW - 900)])
def test_nothing_waits_longer_than_an_interval(now: int, next_at: int) -> None:
    """After the clock has gone back, or a limit was raised, one interval from now is enough."""
    pace = Pace(100, NOW)
    pace.take(1, NOW)
    pace.bound(now)
    assert next_at == pace.next_at


def test_turning_back_forgets_what_was_held_up() -> None:
    """A request that went at a time that has not come yet makes no other wait for that."""
    pace = Pace(100)
    pace.put_off(1, NOW)
    pace.turn_back(NOW - 5_000)
    assert NOW - 4_900 == pace.next_at
    assert 100 == pace.put_off(101, NOW - 5_000)


@pytest.mark.parametrize("interval", [0.4, 1.02, 33.4, 102.0])
def test_no_window_holds_more(interval: float) -> None:
    """Whenever somebody asks, and however late a request goes, no stretch of time holds more of them than the limit."""
    rng = random.Random(interval)
    pace = Pace(interval, NOW)
    now = NOW
    sent: list[int] = []
    while len(sent) < 1_000:
        now += rng.choice([0, 1, 1, round(interval), round(5 * interval)])
        if int(pace.next_at) <= now:
            pace.take(len(sent), now)
            now += rng.choice([0, 0, 0, round(interval / 2)])
            pace.begin(now)
            sent.append(now)

    for count in (1, 2, 10, 100):
        shortest = min(later - earlier for earlier, later in zip(sent, sent[count:], strict=False))
        assert shortest > count * interval - 1  # times are whole milliseconds
