"""The search for deliveries that nobody would come to, on a real store whose rows were edited."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from storage import Opened, drafts, opened, write

from hookengine.errors import SubscriptionNotFound
from hookengine.gathering import Compose
from hookengine.models import Batching, Ordering, Place
from hookengine.store import strays
from hookengine.store.strays import Search

if TYPE_CHECKING:
    from pathlib import Path

    from hookengine.store import Transaction


async def search(place: Opened) -> int:
    """How many a whole search looks at."""
    look, count = Search(), 0
    while did := await place.store.writer.change(look):
        count += did
    return count


def pending(place: Opened) -> list[tuple[int, ...]]:
    """Key and place of what waits."""
    return place.rows("SELECT seq, place FROM deliveries WHERE state = 'pending' ORDER BY seq")


async def test_all_is_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search looks at all that waits, in steps, and leaves lines, batches and what is gathered as they are; then again."""
    monkeypatch.setattr(strays, "LOOKED_AT", 4)
    async with opened(tmp_path, gathers=lambda one: one.batch is not None) as place:
        await place.subscribe()
        await place.subscribe(ordering=Ordering.FIFO)
        gathering = await place.subscribe(profile="clevertap", batch=Batching(max_events=3, max_wait=60_000))
        await place.publish(*drafts(4))
        await place.compose(Compose(subscription=gathering.seq, most=3, wait=60_000, limits=(9, 9, 9)))
        before = pending(place)
        again = Search()
        counts = [await place.store.writer.change(again) for _ in range(5)]

        assert [4, 4, 4, 0, 4] == counts
        assert before == pending(place)
        assert {Place.LANE, Place.GATHERING, Place.FOLLOWING} == {each for _, each in before}
        assert [] == place.listener.all("unreadable")


async def test_step_that_is_not_committed_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A search is as far as what it has committed."""
    monkeypatch.setattr(strays, "LOOKED_AT", 2)
    async with opened(tmp_path) as place:
        await place.subscribe()
        await place.publish(*drafts(3))
        look = Search()

        async def fail(tx: Transaction) -> None:
            await look(tx)
            raise SubscriptionNotFound

        with pytest.raises(SubscriptionNotFound):
            await place.store.writer.change(fail)

        assert [2, 1, 0] == [await place.store.writer.change(look) for _ in range(3)]


@pytest.mark.parametrize("edit", ["state = 'delivered'", "line = 'elsewhere'", "subscription = 1", "line = 7"])
async def test_line_without_a_head(tmp_path: Path, edit: str) -> None:
    """Where the head of a line was edited away, the next one leads, and the log names it."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        await place.subscribe(ordering=Ordering.FIFO)
        await place.publish(*drafts(3))
        (head, *rest) = [seq for (seq,) in place.rows("SELECT seq FROM deliveries WHERE line IS NOT NULL ORDER BY turn")]
        write(place.path, f"UPDATE deliveries SET {edit} WHERE seq = {head}")
        await search(place)

        assert [(rest[0], Place.LANE), (rest[1], Place.FOLLOWING)] == [each for each in pending(place) if each[0] in rest]
        assert rest[:1] == [delivery.seq for delivery in place.listener.all("promoted")]
        [(where, error)] = place.listener.all("unreadable")
        assert f"{where} followed nobody; now it leads" == str(error)
        assert f"(row {rest[0]})" in where


@pytest.mark.parametrize("turn", ["NULL", "-1", "x'ff'"])
@pytest.mark.parametrize("seq", [1, 2])
async def test_line_with_a_head_elsewhere(tmp_path: Path, seq: int, turn: str) -> None:
    """A head that does not stand first any more still leads: nobody else does beside it."""
    async with opened(tmp_path) as place:
        await place.subscribe(ordering=Ordering.FIFO)
        await place.publish(*drafts(3))
        write(place.path, f"UPDATE deliveries SET turn = {turn} WHERE seq = {seq}")
        await search(place)

        assert [(1, Place.LANE), (2, Place.FOLLOWING), (3, Place.FOLLOWING)] == pending(place)
        assert [] == place.listener.all("promoted") + place.listener.all("unreadable")


async def test_batch_without_a_head(tmp_path: Path) -> None:
    """So it is with a batch."""
    async with opened(tmp_path, gathers=lambda one: one.batch is not None) as place:
        made = await place.subscribe(profile="clevertap", batch=Batching(max_events=3, max_wait=60_000))
        await place.publish(*drafts(3))
        await place.compose(Compose(subscription=made.seq, most=3, wait=60_000, limits=(9, 9, 9)))
        write(place.path, "UPDATE deliveries SET batch = NULL WHERE seq = 1")
        await search(place)

        assert [(1, Place.LANE), (2, Place.LANE), (3, Place.FOLLOWING)] == pending(place)
        assert [2] == [delivery.seq for delivery in place.listener.all("promoted")]


@pytest.mark.parametrize(
    "edit",
    [
        "place = 3",
        "place = 'lane'",
        "priority = -1",
        "due_at = 'soon'",
        "due_at = 253402300800000",
        "subscription = 99",
        "place = 2",
        "place = 2, line = x'ff'",
        "place = 2, batch = 'oops'",
        "state = 'whim'",
        "seq = -2, place = 3",
        "seq = 9223372036854775807, place = 3",
    ],
)
async def test_nobody_comes(tmp_path: Path, edit: str) -> None:
    """What nobody would come to is given up, with its name in the log; the others stay."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        await place.publish(*drafts(3))
        write(place.path, f"PRAGMA foreign_keys = OFF; UPDATE deliveries SET {edit} WHERE seq = 2")
        await search(place)
        [(where, error)] = await place.listener.until("unreadable")

        assert [(1, Place.LANE), (3, Place.LANE)] == pending(place)
        [(seq,)] = place.rows("SELECT seq FROM deliveries WHERE state = 'failed'")
        assert where.endswith(f"(row {seq})")
        assert str(error).startswith(where)


async def test_given_up_once(tmp_path: Path) -> None:
    """What two have found is told of once."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        await place.publish(*drafts(2))
        write(place.path, "UPDATE deliveries SET place = 3 WHERE seq = 2")
        first, second = Search(), Search()
        await place.store.writer.change(first)
        await place.store.writer.change(second)
        await place.store.close()

        assert 1 == len(place.listener.all("unreadable"))


async def test_deleted_subscriptions(tmp_path: Path) -> None:
    """What a deleted subscription leaves behind is not looked into: it will be cancelled."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        await place.publish(*drafts(2))
        write(place.path, "UPDATE deliveries SET place = 3; UPDATE subscriptions SET deleted_at = 1")
        await search(place)

        assert 2 == len(pending(place))
        assert [] == place.listener.all("unreadable")
