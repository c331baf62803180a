"""The queue of what waits to be published: its order, its bounds, and how much of it goes into one commit."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from storage import draft, drafts

from hookengine.errors import PayloadTooLarge, Stopping, StorageUnavailable
from hookengine.store.publications import LARGEST, MOST_DELIVERIES, MOST_WAITING, Publication, Publications, fail, refuse

if TYPE_CHECKING:
    from hookengine.store import Draft

MIB = b"x" * (1 << 20)


def publication(*given: Draft) -> Publication:
    """What a publisher waits for."""
    return Publication(list(given or drafts(1)), None, None, asyncio.get_running_loop().create_future())


def waiting(*added: Publication) -> Publications:
    """A queue of *added*."""
    queue = Publications()
    for each in added:
        queue.add(each)
    return queue


def held(queue: Publications) -> tuple[bool, int, int]:
    """Whether something waits, and how many events and bytes."""
    return bool(queue), queue.count, queue.size


async def test_a_queue() -> None:
    """What came first goes first, and what goes is counted no more."""
    first, second = publication(*drafts(3)), publication(draft(data=MIB))
    queue = waiting(first, second)

    assert (True, 4, len(MIB) + 3 * len(draft().data)) == held(queue)
    assert [first, second] == queue.take()
    assert (False, 0, 0) == held(queue)
    assert [] == queue.take()


@pytest.mark.parametrize(
    ("events", "deliveries", "expected"),
    [
        pytest.param(0, 0, MOST_DELIVERIES, id="nothing known"),
        pytest.param(10, 0, MOST_DELIVERIES, id="without deliveries an event counts as one"),
        pytest.param(10, 40, MOST_DELIVERIES // 4, id="four of each"),
        pytest.param(2, 1_000, 1, id="at least one"),
    ],
)
async def test_a_commit_has_as_many_deliveries_as_the_last_lets_expect(events: int, deliveries: int, expected: int) -> None:
    """What waits is given out in commits of about as many deliveries."""
    queue = waiting(*(publication() for _ in range(MOST_DELIVERIES + 1)))
    queue.made(events, deliveries)

    assert expected == len(queue.take())


async def test_commits_without_events_teach_nothing() -> None:
    """A commit of results alone does not tell how many deliveries an event makes."""
    queue = waiting(*(publication() for _ in range(MOST_DELIVERIES)))
    queue.made(1, MOST_DELIVERIES // 2)
    queue.made(0, 0)

    assert 2 == len(queue.take())


async def test_a_commit_has_no_more_bytes_than_memory_can_spare() -> None:
    """Large events go in several commits, and one that is larger than a commit goes alone."""
    huge = publication(draft(data=MIB * 9))
    queue = waiting(huge, *(publication(draft(data=MIB)) for _ in range(10)))

    assert [1, 8, 2] == [len(queue.take()) for _ in range(3)]


async def test_what_is_put_back_goes_first() -> None:
    """What a commit has no room for is before all others in the next, in its order."""
    first, second, third, fourth = (publication() for _ in range(4))
    queue = waiting(first, second, third)
    taken = queue.take()
    queue.add(fourth)
    queue.put_back(taken[1:])

    assert (True, 3, 3 * len(draft().data)) == held(queue)
    assert [second, third, fourth] == queue.take()


async def test_a_queue_is_full() -> None:
    """Its bounds are events and bytes."""
    assert [False, True, False, True] == [
        waiting(*given).is_full
        for given in (
            [publication(*drafts(MOST_WAITING - 1))],
            [publication(*drafts(MOST_WAITING - 1)), publication()],
            [publication(*[draft(data=MIB)] * 63)],
            [publication(*[draft(data=MIB)] * 63), publication(draft(data=MIB))],
        )
    ]


async def test_what_no_commit_can_hold_is_too_large() -> None:
    """It is refused for good, for no time to come is better."""
    with pytest.raises(PayloadTooLarge, match=f"has {LARGEST + 2} bytes; together at most {LARGEST}"):
        publication(*[draft(data=bytes(LARGEST // 2 + 1))] * 2)


async def test_all_are_refused() -> None:
    """Whoever waits hears why, but for those who have heard something else, or wait no more; then the queue is empty."""
    waits, answered, gone = (publication() for _ in range(3))
    queue = waiting(waits, answered, gone)
    answer: list[Any] = []
    answered.done.set_result(answer)
    gone.done.cancel()
    queue.refuse(Stopping())

    assert (False, 0, 0) == held(queue)
    assert isinstance(waits.done.exception(), Stopping)
    assert (answer, True) == (answered.done.result(), gone.done.cancelled())


async def test_some_are_refused() -> None:
    """So are those that were taken, each once."""
    first, second = publication(), publication()
    refuse([first], StorageUnavailable())
    refuse([first, second], Stopping())
    fail(second.done, StorageUnavailable())

    assert [StorageUnavailable, Stopping] == [type(each.done.exception()) for each in (first, second)]
