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
        assert made.are_changed([ALONE])
        assert change(ALONE) == made.current(ALONE)

    assert back == made.end(ALONE)
    assert not made.are_changed([ALONE])
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
    assert not made.are_changed([THIRD])


def test_batch_on_the_ground_has_no_head() -> None:
    """Whoever leads one that is not in flight belongs into its lane."""
    assert not flights(ALONE).promote(SECOND)


# Lines.

FIRST = delivery(11, line="k")
NEXT = delivery(12, line="k")
LAST = delivery(13, line="k", place=Place.FOLLOWING)


def test_line_waits_for_its_head() -> None:
    """While the head of a line is in flight nobody else of it goes; others do."""
    made = flights(FIRST)

    assert [True, False, False] == [made.is_busy(each) for each in (NEXT, delivery(14, line="l"), ALONE)]
    assert not made.holds(NEXT)  # it is not in flight itself
    assert made.promote(NEXT)
    assert [FIRST, NEXT] == made.end(FIRST)
    assert not made.is_busy(NEXT)


def test_next_in_line_goes_once_the_head_is_recorded() -> None:
    """Who was promoted while the head was in flight goes when that has ended, whatever became of it."""
    made = flights(FIRST)
    made.change(FIRST, cancelled(FIRST))
    made.promote(NEXT)

    assert [NEXT] == made.end(FIRST, {11})


def test_next_in_line_that_ends_does_not_go() -> None:
    """Whoever is cancelled while it waits for the head's end does not go; the one promoted after it does."""
    made = flights(FIRST)
    made.promote(NEXT)
    assert made.change(NEXT, cancelled(NEXT))
    assert [] == made.end(FIRST, {11})

    made = flights(FIRST)
    made.promote(NEXT)
    made.change(NEXT, cancelled(NEXT))
    made.promote(replace(LAST, place=Place.LANE))
    assert [replace(LAST, place=Place.LANE)] == made.end(FIRST, {11})


def test_next_in_line_goes_as_it_is_then() -> None:
    """Whoever is brought forward while it waits for the head's end goes in its new time."""
    made = flights(FIRST)
    made.promote(NEXT)
    assert made.change(NEXT, replace(NEXT, due_at=LATER))

    assert [replace(NEXT, due_at=LATER)] == made.end(FIRST, {11})


def test_one_behind_is_not_in_flight() -> None:
    """What is done to those behind the head is none of its flight's business."""
    made = flights(FIRST)

    assert not made.change(LAST, cancelled(LAST))
    assert not flights(ALONE).promote(FIRST)


# Changed again.


def lined(before: Delivery) -> Delivery:
    """As it is once it was cancelled, and then retried by hand: at the end of its line."""
    return replace(before, due_at=LATER, place=Place.FOLLOWING)


def test_one_at_the_end_of_its_line_does_not_go_back() -> None:
    """A head that was cancelled and retried before its attempt began waits behind who leads now."""
    made = flights(FIRST)
    made.change(FIRST, cancelled(FIRST))
    made.promote(NEXT)
    made.change(cancelled(FIRST), lined(FIRST))

    assert [NEXT] == made.end(FIRST)


def test_one_at_the_end_of_its_line_that_leads_again() -> None:
    """If all between leave before its attempt has ended, that applies to a head, which is not sent beside its own attempt."""
    made = flights(FIRST)
    made.change(FIRST, cancelled(FIRST))
    made.promote(NEXT)
    made.change(cancelled(FIRST), lined(FIRST))
    made.change(NEXT, cancelled(NEXT))
    leads = replace(lined(FIRST), place=Place.LANE)
    assert made.promote(leads)

    assert leads == made.current(FIRST)
    assert [] == made.end(FIRST, {11})
    assert not made.are_changed([FIRST])


@pytest.mark.parametrize(("taken", "line"), [(FIRST, None), (delivery(11), "k"), (FIRST, "l")])
def test_line_that_changes_in_flight(taken: Delivery, line: str | None) -> None:
    """Who is cancelled, and retried once its subscription wants order, or none any more, ends the flight it began."""
    made = flights(taken)
    made.change(taken, cancelled(taken))
    after = replace(taken, line=line)
    made.change(cancelled(taken), after)

    assert [after] == made.end(after)
    assert not any(made.is_busy(delivery(20, line=each)) for each in "kl")


@pytest.mark.parametrize("leaver", [HEAD, SECOND])
def test_who_left_is_in_flight_until_its_request_ends(leaver: Delivery) -> None:
    """A delivery that left its batch in flight can be changed again, and is not fetched anew."""
    made = flights(HEAD)
    assert made.change(leaver, retried(leaver))
    assert made.is_busy(retried(leaver))
    assert made.change(retried(leaver), cancelled(retried(leaver)))

    assert [] == made.end(HEAD, {3})
    assert not made.is_busy(leaver)


def test_member_that_is_brought_forward_and_leads() -> None:
    """What was changed for all of a batch holds for the one who leads it since."""
    made = flights(HEAD)
    for each in (HEAD, SECOND):
        made.change(each, replace(each, due_at=LATER))
    made.change(HEAD, cancelled(HEAD))
    leads = replace(SECOND, due_at=LATER, place=Place.LANE)
    made.promote(leads)

    assert [leads] == made.end(HEAD)


def test_second_head_of_a_line_waits_for_the_first() -> None:
    """Of two that lead one line, as only edited rows have it, the second goes when the first has ended."""
    made = Flights()
    first, second = delivery(1, line="a"), delivery(2, line="a")

    assert [True, False] == [made.begin(first), made.begin(second)]
    assert [second] == made.end(first, {1})


def test_second_head_of_a_batch_goes_with_the_first() -> None:
    """Of two that lead one batch the second goes with the first, or after it where it was none of it."""
    made = Flights()

    assert [True, False] == [made.begin(delivery(1, batch=1)), made.begin(delivery(2, batch=1))]
    assert [] == made.end(delivery(1, batch=1), {1, 2})
    made.begin(HEAD)
    made.begin(stranger := delivery(2, batch=1))
    assert [stranger] == made.end(HEAD, {1})


def test_head_that_is_no_part_of_its_batch_goes_after_it() -> None:
    """One of another subscription that leads a batch in flight, as only edited rows have it, goes when that ends."""
    made = flights(HEAD)
    stranger = replace(delivery(9, batch=1), subscription=2)

    assert made.promote(stranger)
    assert [HEAD, stranger] == made.end(HEAD)

    made = flights(HEAD)
    made.promote(stranger)
    assert [stranger] == made.end(HEAD, {1, 2, 3})


def test_one_in_flight_whose_row_leads_anew() -> None:
    """One that is told to lead while its own attempt runs, as only edited rows have it, does not go a second time."""
    made = flights(ALONE)

    assert made.promote(replace(ALONE, line="k"))
    assert [] == made.end(ALONE, {7})
    assert made.begin(FIRST)
