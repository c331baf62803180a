"""What is in flight and was changed meanwhile: nothing of it is sent twice, nor forgotten."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from hookengine.flights import Flights
from hookengine.models import Delivery, DeliveryState, Place

LATER = 9_000


def delivery(seq: int, **fields: Any) -> Delivery:
    """One by itself, unless *fields* put it into a batch."""
    return Delivery(seq=seq, id=f"dlv_{seq}", event=seq, subscription=1, due_at=0, created_at=0, **fields)


ALONE = delivery(7)
HEAD = delivery(1, batch=1)
SECOND, THIRD = (delivery(seq, batch=1, place=Place.FOLLOWING) for seq in (2, 3))


def cancelled(before: Delivery) -> Delivery:
    """As it is once it is cancelled by hand."""
    return replace(before, state=DeliveryState.CANCELLED, finished_at=5)


def retried(before: Delivery) -> Delivery:
    """As it is once it is retried by hand."""
    return replace(before, due_at=LATER, place=Place.LANE, batch=None)


def flights(*heads: Delivery) -> Flights:
    """With *heads* in flight."""
    made = Flights()
    for head in heads:
        made.begin(head)
    return made


def test_what_is_in_flight() -> None:
    """By themselves or in a batch: the rest of a batch flies with its head."""
    made = flights(ALONE, HEAD)

    assert ([7], [1]) == (made.alone, made.batches)
    assert [True, True, True, False] == [made.holds(each) for each in (ALONE, HEAD, THIRD, delivery(8))]
    assert not made.change(delivery(8), cancelled(delivery(8)))
    made.end(ALONE)
    made.end(HEAD)
    assert [False, False] == [made.holds(each) for each in (ALONE, THIRD)]
    assert ([], []) == (made.alone, made.batches)


@pytest.mark.parametrize(("change", "back"), [(cancelled, []), (retried, [retried(ALONE)]), (None, [ALONE])])
def test_end_of_one_by_itself(change: Any, back: list[Delivery]) -> None:
    """What was not recorded goes back as it is now, unless it has ended."""
    made = flights(ALONE)
    if change is not None:
        assert made.change(ALONE, change(ALONE))
        assert made.is_changed(ALONE)
        assert change(ALONE) == made.current(ALONE)

    assert back == made.end(ALONE)
    assert not made.is_changed(ALONE)
    assert ALONE == made.current(ALONE)


def test_recorded_ones_do_not_go_back() -> None:
    """Where a result says what becomes of it, nothing else does."""
    assert [] == flights(ALONE).end(ALONE, {7})
    assert [] == flights(HEAD).end(HEAD, {1, 2, 3})


def test_batch_goes_back_by_its_head() -> None:
    """One that cannot be sent now waits as before."""
    assert [HEAD] == flights(HEAD).end(HEAD)


def test_another_head_leads_the_rest() -> None:
    """When the head has left, the batch goes back by the one that leads it now."""
    made = flights(HEAD)
    assert made.change(HEAD, cancelled(HEAD))
    assert made.promote(replace(SECOND, place=Place.LANE))

    assert [replace(SECOND, place=Place.LANE)] == made.end(HEAD)


def test_head_that_is_retried_goes_beside_its_batch() -> None:
    """One that was retried by hand goes its own way, and the rest too."""
    made = flights(HEAD)
    made.change(HEAD, retried(HEAD))
    made.promote(replace(SECOND, place=Place.LANE))

    assert {1: None, 2: 1} == {each.seq: each.batch for each in made.end(HEAD)}


def test_last_of_a_batch_that_leaves() -> None:
    """A batch that nobody is left of does not go back."""
    made = flights(HEAD)
    made.change(HEAD, cancelled(HEAD))
    assert [] == made.end(HEAD)

    made = flights(HEAD)
    made.change(HEAD, retried(HEAD))
    assert [retried(HEAD)] == made.end(HEAD)


def test_member_that_is_brought_forward() -> None:
    """What changes for all of a batch does not take them apart."""
    made = flights(HEAD)
    for each in (HEAD, SECOND):
        made.change(each, replace(each, due_at=LATER))

    assert [replace(HEAD, due_at=LATER)] == made.end(HEAD)


def test_those_who_left_before_they_were_read_are_not_forgotten() -> None:
    """A result does not know who left the batch before it was read: whoever is retried by hand goes all the same."""
    made = flights(HEAD)
    made.change(SECOND, retried(SECOND))
    made.change(THIRD, cancelled(THIRD))

    assert [retried(SECOND)] == made.end(HEAD, {1})
    assert not made.is_changed(THIRD)


def test_batch_on_the_ground_has_no_head() -> None:
    """Whoever leads one that is not in flight belongs into its lane."""
    assert not flights(ALONE).promote(SECOND)
