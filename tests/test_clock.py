"""Ids that sort in the order of their making, whatever the clock does."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from datetime import UTC, datetime
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hookengine.clock import Clock, cpu_time, elapsed

NOW = 1_700_000_000_000


class SetClock(Clock):
    """A clock that shows what it is set to."""

    __slots__ = ("at",)

    def __init__(self, at: int = NOW) -> None:
        super().__init__()
        self.at = at

    def now(self) -> int:
        """What it was set to."""
        return self.at


def fields(made: str) -> tuple[int, int]:
    """The millisecond and the counter of an id."""
    whole = UUID(made.partition("_")[2]).int
    return whole >> 80, (whole >> 64) & 0xFFF


def test_now_is_the_wall_clock_in_milliseconds() -> None:
    """The clock shows what the system's clock shows."""
    before = time.time()
    shown = Clock().now()
    after = time.time()

    assert int(before * 1000) <= shown <= after * 1000
    assert datetime.now(UTC).year == datetime.fromtimestamp(shown / 1000, UTC).year


@pytest.mark.parametrize("prefix", ["evt", "dlv", "sub"])
def test_id_is_a_prefix_and_a_uuid(prefix: str) -> None:
    """An id is its prefix, an underscore and a UUID in lower case: 40 characters that need no quoting anywhere."""
    made = Clock().new_id(prefix)

    assert re.fullmatch(prefix + r"_[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", made)


@pytest.mark.parametrize("at", [1, NOW, 2**48 - 2], ids=["first", "now", "last"])
def test_id_is_a_uuid_of_version_7(at: int) -> None:
    """The id has the fields of RFC 9562, 5.7: 48 bits of milliseconds, version 7, the variant of the RFC."""
    made = SetClock(at).new_id("evt")
    uuid = UUID(made.removeprefix("evt_"))

    assert (7, RFC_4122, (at, 0)) == (uuid.version, uuid.variant, fields(made))


def test_counter_begins_anew_with_each_millisecond() -> None:
    """The 12 bits beside the version count what was made in one millisecond."""
    clock = SetClock()
    first = [fields(clock.new_id("evt")) for _ in range(3)]
    clock.at += 1

    assert [(NOW, 0), (NOW, 1), (NOW, 2)] == first
    assert (NOW + 1, 0) == fields(clock.new_id("evt"))


def test_5000_ids_of_one_millisecond_are_in_order() -> None:
    """More ids than the counter holds borrow from the next millisecond, and stay unique and sorted."""
    clock = SetClock()
    made = [clock.new_id("evt") for _ in range(5_000)]

    assert sorted(set(made)) == made
    assert [(NOW, 4095), (NOW + 1, 0)] == [fields(each) for each in made[4095:4097]]


def test_what_was_borrowed_is_paid_back() -> None:
    """Once the clock has passed the borrowed milliseconds, ids show it again."""
    clock = SetClock()
    borrowed = [clock.new_id("evt") for _ in range(4_097)][-1]
    clock.at += 1
    meanwhile = clock.new_id("evt")
    clock.at += 1
    later = clock.new_id("evt")

    assert [borrowed, meanwhile, later] == sorted([borrowed, meanwhile, later])
    assert [(NOW + 1, 0), (NOW + 1, 1), (NOW + 2, 0)] == [fields(each) for each in (borrowed, meanwhile, later)]


@given(st.lists(st.integers(1, 2**45), min_size=1, max_size=50))
def test_ids_are_in_order_whatever_the_clock_does(times: list[int]) -> None:
    """A clock that stands still, jumps or goes back does not break the order of ids."""
    clock = SetClock()
    clock._last = 0
    made = []
    for at in times:
        clock.at = at
        made.append(clock.new_id("evt"))

    assert sorted(set(made)) == made
    assert [max(times[: count + 1]) for count in range(len(times))] == [fields(each)[0] for each in made]


def test_ids_of_two_clocks_differ() -> None:
    """62 bits of an id are random, so that two engines in one millisecond make different ones."""
    assert 200 == len({SetClock().new_id("evt") for _ in range(200)})


def test_random_is_at_least_0_and_below_1() -> None:
    """The numbers for jitter fill the half-open interval."""
    clock = Clock()
    drawn = [clock.random() for _ in range(2_000)]

    assert all(0 <= each < 1 for each in drawn)
    assert len(drawn) == len(set(drawn))
    assert min(drawn) < 0.05
    assert max(drawn) > 0.95


@pytest.mark.parametrize("count", [0, 12, 32])
def test_new_bytes_are_as_many_as_asked_for(count: int) -> None:
    """Bytes for secrets come in the asked number."""
    assert count == len(Clock().new_bytes(count))


def test_new_bytes_differ() -> None:
    """No two secrets are alike."""
    clock = Clock()

    assert 200 == len({clock.new_bytes(16) for _ in range(200)})


def test_processes_share_the_elapsed_time() -> None:
    """What one process reads stands between two readings of another."""
    before = elapsed()
    script = "from hookengine.clock import elapsed; print(elapsed())"
    between = float(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)

    assert before < between < elapsed()


def test_cpu_time_is_of_work() -> None:
    """CPU time goes on while this process works, and stands still while it waits for another."""
    began, cpu = elapsed(), cpu_time()
    subprocess.run([sys.executable, "-c", ""], check=True)
    waited, spent = elapsed() - began, cpu_time() - cpu
    sum(range(1_000_000))

    assert spent < waited
    assert cpu_time() - cpu > spent
