"""When batches are asked for: once there are enough events, or the first has waited long enough, and the lane has room."""

from __future__ import annotations

from functools import partial

from hookengine.gathering import AGAIN, Compose, Composed, Gathering
from hookengine.models import Delivery, Priority

ROOM, NO_ROOM = (5, 5, 5), (0, 0, 0)
NOTHING = Composed(heads=[], due=(0, 0, 0), look_at=(None,) * 3)


def delivery(seq: int, due_at: int = 0, *, subscription: int = 1, priority: Priority = Priority.NORMAL) -> Delivery:
    """One that waits for others."""
    return Delivery(
        seq=seq, id=f"dlv_{seq}", event=seq, subscription=subscription, due_at=due_at, priority=priority, created_at=0
    )


def gathering(now: int = 0, *, most: int = 3, wait: int = 100) -> Gathering:
    """Open for subscription 1, and told that nothing waits on disk."""
    made = Gathering()
    made.open(1, most=most, wait=wait)
    answer(made, now)
    return made


def answer(made: Gathering, now: int, composed: Composed | None = NOTHING) -> list[Compose]:
    """What *made* asks for at *now*, each answered with *composed*."""
    asks = made.asks(now, lambda _: ROOM)
    for ask in asks:
        made.composed(ask, composed, now=now)
    return asks


def test_what_is_on_disk_is_asked_for_first() -> None:
    """Of a subscription that is opened nobody knows what waits: the store does."""
    made = Gathering()
    made.open(1, most=3, wait=100)

    assert [Compose(1, 3, 100, ROOM)] == made.asks(0, lambda _: ROOM)
    assert [] == made.asks(0, lambda _: ROOM)  # not again before the answer


def test_enough_events_go_at_once() -> None:
    """With the last event that a batch may have, it is asked for."""
    made = gathering()
    for seq in (1, 2):
        made.add(delivery(seq), now=0)
    assert [] == answer(made, 0)

    made.add(delivery(3), now=0)
    assert [Compose(1, 3, 100, ROOM)] == answer(made, 0)


def test_priorities_are_counted_apart() -> None:
    """A batch holds one priority: three events of three priorities are no three events."""
    made = gathering()
    for priority in Priority:
        made.add(delivery(1 + priority, priority=priority), now=0)

    assert [] == answer(made, 0)


def test_first_event_waits_no_longer_than_that() -> None:
    """Whoever came first decides when a batch goes that has not enough events."""
    made = gathering(1_000)
    made.add(delivery(1, 1_000), now=1_000)
    made.add(delivery(2, 1_050), now=1_050)

    assert 1_100 == made.next_due()
    assert [] == answer(made, 1_099)
    assert [Compose(1, 3, 100, ROOM)] == answer(made, 1_100)


def test_scheduled_event_is_looked_at_in_its_time() -> None:
    """What is not due yet is not counted; when it is due, the store knows how many are."""
    made = gathering()
    for seq in range(5):
        made.add(delivery(seq, 500), now=0)

    assert 500 == made.next_due()
    assert [] == answer(made, 499)
    assert 1 == len(answer(made, 500))


def test_lane_that_has_enough_waits() -> None:
    """While a lane has batches enough, events gather for larger ones; it is asked for when the lane has less."""
    made = gathering()
    for seq in range(3):
        made.add(delivery(seq), now=0)
    assert [] == made.asks(0, lambda _: NO_ROOM)
    assert [] == made.asks(0, lambda _: ROOM)  # nobody said that it has less

    made.resume(1)
    assert [Compose(1, 3, 100, ROOM)] == made.asks(0, lambda _: ROOM)


def test_higher_priority_has_room_where_lower_ones_wait() -> None:
    """Batches of lower priority that fill a lane keep no batch of a higher one from being made; those below it wait on."""
    made = gathering(most=2)
    low, high = (partial(delivery, priority=each) for each in (Priority.LOW, Priority.HIGH))
    made.add(low(1), now=0)
    made.add(low(2), now=0)
    room = (5, 5, 0)
    assert [] == made.asks(0, lambda _: room)
    made.add(high(3), now=0)
    made.add(low(4), now=0)  # of which there are enough already
    assert [] == made.asks(0, lambda _: room)

    made.add(high(5), now=0)
    [ask] = made.asks(0, lambda _: room)
    assert Compose(1, 2, 100, room) == ask
    made.composed(ask, Composed(heads=[], due=(1, 0, 3), look_at=(100, None, 0)), now=0)
    assert [] == made.asks(0, lambda _: room)

    made.resume(1)
    assert [Compose(1, 2, 100, ROOM)] == made.asks(0, lambda _: ROOM)


def test_lane_that_may_have_more() -> None:
    """Other limits are looked at with the room that there is then."""
    made = gathering()
    for seq in range(3):
        made.add(delivery(seq), now=0)
    assert [] == made.asks(0, lambda _: NO_ROOM)
    made.open(1, most=3, wait=100)

    assert [Compose(1, 3, 100, ROOM)] == made.asks(0, lambda _: ROOM)


def test_answer_tells_what_is_left() -> None:
    """The counts of the answer take the place of those before, and its time is when to ask again."""
    made = gathering()
    for seq in range(3):
        made.add(delivery(seq), now=0)
    answer(made, 0, Composed(heads=[], due=(0, 2, 0), look_at=(None, 70, None)))

    assert 70 == made.next_due()
    made.add(delivery(4), now=0)
    assert 1 == len(answer(made, 0))


def test_more_than_was_asked_for_is_asked_again() -> None:
    """Where more may be made than was asked for, it is asked for at once."""
    made = gathering()
    for seq in range(3):
        made.add(delivery(seq), now=0)
    answer(made, 0, Composed(heads=[], due=(0, 3, 0), look_at=(None, 0, None)))

    assert 1 == len(answer(made, 0))
    assert [] == answer(made, 0)


def test_what_cannot_be_stored_is_asked_for_again() -> None:
    """A disk that takes no writes is not asked without end."""
    made = gathering()
    for seq in range(3):
        made.add(delivery(seq), now=0)
    answer(made, 0, None)

    assert [] == answer(made, AGAIN - 1)
    assert 1 == len(answer(made, AGAIN))


def test_other_limits_hold_at_once() -> None:
    """Whoever changes the limits while an answer is on its way has them looked at with the answer."""
    made = gathering()
    made.add(delivery(1), now=0)
    [ask] = answer(made, 100, NOTHING)
    made.open(1, most=3, wait=100)
    [ask] = made.asks(100, lambda _: ROOM)
    made.open(1, most=1, wait=0)
    assert [] == made.asks(100, lambda _: ROOM)
    made.composed(ask, Composed(heads=[], due=(0, 1, 0), look_at=(None, 200, None)), now=100)

    assert [Compose(1, 1, 0, ROOM)] == made.asks(100, lambda _: ROOM)


def test_closed_subscription_is_left_alone() -> None:
    """What waits for one that is disabled or deleted stays on disk, and answers on their way change nothing."""
    made = gathering()
    made.add(delivery(1), now=0)
    made.add(delivery(2, subscription=9), now=0)  # of one that was never opened
    made.open(1, most=3, wait=100)
    [ask] = made.asks(0, lambda _: ROOM)
    made.close(1)
    made.composed(ask, Composed(heads=[], due=(0, 1, 0), look_at=(None, 0, None)), now=0)
    made.resume(1)

    assert [] == answer(made, 10_000)
    assert made.next_due() is None


def test_closed_while_its_lane_had_enough() -> None:
    """One that is closed while it waits for its lane is not asked for once there is room, whether it is ready or not."""
    made = gathering()
    for seq in range(3):
        made.add(delivery(seq), now=0)
    assert [] == made.asks(0, lambda _: NO_ROOM)
    made.close(1)
    made.resume(1)
    assert [] == made.asks(0, lambda _: ROOM)

    made.open(1, most=3, wait=100)
    made.close(1)
    assert [] == made.asks(0, lambda _: ROOM)


def test_timers_do_not_pile_up() -> None:
    """A subscription that gathers for years has one timer, not one for each batch."""
    made = gathering(wait=1_000_000)
    for now in range(2_000):
        made.add(delivery(1, now + 1_000_000 - 3 * now), now=0)

    assert len(made._timers) <= 200
