"""Many deadlines on one timer."""

from __future__ import annotations

import asyncio
import threading

import pytest
from patience import PATIENCE

from hookengine.deadline import Deadlines


async def test_block_in_time_is_left_alone() -> None:
    """What ends before its deadline does not notice it."""
    deadlines = Deadlines()
    with deadlines.after(60):
        await asyncio.sleep(0)
    deadlines.close()

    assert 0 == asyncio.current_task().cancelling()  # type: ignore[union-attr]  # there is one


@pytest.mark.alone
async def test_late_block_is_cut() -> None:
    """What does not end ends with TimeoutError at its time, and the task goes on uncancelled."""
    loop = asyncio.get_running_loop()
    deadlines = Deadlines()
    begun = loop.time()
    with pytest.raises(TimeoutError), deadlines.after(0.05):
        await asyncio.Event().wait()
    took = loop.time() - begun
    deadlines.close()

    assert 0.04 < took < 0.5
    assert 0 == asyncio.current_task().cancelling()  # type: ignore[union-attr]  # there is one


async def test_each_block_has_its_own_time() -> None:
    """Blocks that begin and end in any order are cut in the order of their deadlines."""
    deadlines = Deadlines()
    order: list[float] = []

    async def hang(delay: float) -> None:
        with pytest.raises(TimeoutError), deadlines.after(delay):
            await asyncio.Event().wait()
        order.append(delay)

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        for delay in (0.15, 0.05, 0.1, 0.2):
            group.create_task(hang(delay))
    deadlines.close()

    assert [0.05, 0.1, 0.15, 0.2] == order


async def test_blocks_of_one_moment_are_cut_in_their_order() -> None:
    """What began first is cut first, so that the same run is the same again."""
    deadlines = Deadlines()
    order: list[int] = []

    async def hang(number: int) -> None:
        with pytest.raises(TimeoutError), deadlines.after(60):
            await asyncio.Event().wait()
        order.append(number)

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        for number in range(30):
            group.create_task(hang(number))
        await asyncio.sleep(0)
        for deadline in deadlines._open:
            deadline.when = asyncio.get_running_loop().time()
        deadlines._ring()
    deadlines.close()

    assert list(range(30)) == order


async def test_those_that_end_together_leave_room_for_others() -> None:
    """Of forty blocks whose time is over at once a few are cut at a time, and the loop gets to other things between."""
    deadlines = Deadlines()
    cut: list[int] = []
    moment = asyncio.get_running_loop().time() + 0.02

    async def block(number: int) -> None:
        deadline = deadlines.after(1)
        deadline.when = moment
        with pytest.raises(TimeoutError), deadline:
            await asyncio.Event().wait()
        cut.append(number)

    blocks = [asyncio.create_task(block(number)) for number in range(40)]
    steps = []
    async with asyncio.timeout(PATIENCE):
        while len(cut) < 40:
            before = len(cut)
            await asyncio.sleep(0)
            steps.append(len(cut) - before)
    await asyncio.gather(*blocks)

    assert list(range(40)) == cut
    assert max(steps) <= 8  # of one ring, and perhaps of the next


async def test_future_is_cut_in_place_of_a_block() -> None:
    """A future that is watched is cancelled at its time, and a block that then waits for it ends with TimeoutError."""
    loop = asyncio.get_running_loop()
    deadlines = Deadlines()
    late, other = loop.create_future(), loop.create_future()
    deadline = deadlines.after(0.02)
    deadline.watch(late)
    deadlines.after(PATIENCE).watch(other)
    await asyncio.wait([late], timeout=PATIENCE)
    with pytest.raises(TimeoutError), deadline:
        await late

    assert (True, False) == (late.cancelled(), other.done())
    assert 0 == asyncio.current_task().cancelling()  # type: ignore[union-attr]  # there is one
    deadlines.close()


async def test_block_goes_on_with_what_was_watched() -> None:
    """A block that is entered while its future is watched has what is left of the time, and is cut itself."""
    loop = asyncio.get_running_loop()
    deadlines = Deadlines()
    watched = loop.create_future()
    deadline = deadlines.after(0.05)
    deadline.watch(watched)
    deadline.leave()
    with pytest.raises(TimeoutError), deadline:
        await asyncio.Event().wait()
    deadlines.close()

    assert not watched.done()


async def test_time_is_over_as_the_future_ends() -> None:
    """A future that has just got its result keeps it, and a block that goes on with it is cut all the same."""
    loop = asyncio.get_running_loop()
    deadlines = Deadlines()
    watched: asyncio.Future[str] = loop.create_future()
    deadline = deadlines.after(0)
    deadline.watch(watched)
    watched.set_result("head")
    began = loop.time()
    deadlines._ring()
    with pytest.raises(TimeoutError), deadline:
        await asyncio.wait({asyncio.create_task(asyncio.Event().wait())}, timeout=1)
    deadlines.close()

    assert "head" == watched.result()
    assert loop.time() - began < 1


async def test_one_timer_for_all() -> None:
    """A later deadline sets no timer of its own, an earlier one moves it."""
    deadlines = Deadlines()
    with deadlines.after(60):
        first = deadlines._timer
        with deadlines.after(61):
            assert first is deadlines._timer
        with deadlines.after(59):
            assert first is not deadlines._timer
            assert first is not None
            assert first.cancelled()
    deadlines.close()

    assert deadlines._timer is None


@pytest.mark.alone
async def test_deadline_moves_nearer_only() -> None:
    """A deadline can be brought forward and not put off."""
    loop = asyncio.get_running_loop()
    deadlines = Deadlines()
    begun = loop.time()

    async def hang() -> None:
        with deadlines.after(10) as deadline:
            deadline.no_later_than(0.05)
            deadline.no_later_than(20)
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await hang()
    deadlines.close()

    assert loop.time() - begun < 1


async def test_cancellation_from_outside_wins() -> None:
    """A task that somebody cancels as its deadline passes is cancelled, not timed out."""
    deadlines = Deadlines()
    entered = asyncio.Event()

    async def hang() -> None:
        with deadlines.after(60) as deadline:
            entered.set()
            try:
                await asyncio.Event().wait()
            finally:
                deadline.cut()

    task = asyncio.create_task(hang())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    deadlines.close()

    assert task.cancelled()


async def test_error_of_the_block_wins() -> None:
    """What the block raises by itself when it is cut is what comes out."""
    deadlines = Deadlines()

    async def fail() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise KeyError

    with pytest.raises(KeyError), deadlines.after(0.01):
        await fail()
    deadlines.close()

    assert 0 == asyncio.current_task().cancelling()  # type: ignore[union-attr]  # there is one


@pytest.mark.row("F35")
async def test_stalled_loop_cuts_nothing_that_has_ended() -> None:
    """After the loop stood still, what arrived meanwhile counts before deadlines do, once."""
    loop = asyncio.get_running_loop()
    deadlines = Deadlines()
    arrived = loop.create_future()
    with deadlines.after(0.02) as deadline:
        loop.call_later(0.01, stall)
        loop.call_later(0.01, loop.call_soon, arrived.set_result, "answer")
        assert "answer" == await arrived
    loop.call_later(0.01, stall)
    with pytest.raises(TimeoutError), deadlines.after(0.02):
        await asyncio.Event().wait()
    deadlines.close()

    assert deadline.spared


async def test_loop_that_stalls_again_cuts() -> None:
    """A deadline is put off once: a loop that stands still again and again cuts all the same."""
    loop = asyncio.get_running_loop()
    deadlines = Deadlines()

    async def late() -> None:
        with deadlines.after(60) as deadline:
            for is_spared in (False, True):
                assert deadline.spared is is_spared
                deadlines._rings_at = deadline.when = loop.time() - 1
                deadlines._ring()
            await asyncio.sleep(0)

    with pytest.raises(TimeoutError):
        await late()
    deadlines.close()


def stall() -> None:
    """Hold up the event loop."""
    threading.Event().wait(0.2)


def test_outside_a_task() -> None:
    """A deadline needs a task to cut."""

    def enter() -> None:
        with pytest.raises(RuntimeError), deadlines.after(1):
            pass
        loop.stop()

    loop = asyncio.new_event_loop()

    async def make() -> Deadlines:
        return Deadlines()

    deadlines = loop.run_until_complete(make())
    loop.call_soon(enter)
    loop.run_forever()
    loop.close()
