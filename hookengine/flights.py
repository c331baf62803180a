"""What is in flight, and what others have made of it meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct, field

from hookengine.models import Delivery, DeliveryState, Place

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

# Names of their own: see `models`.
_PENDING, _LANE = DeliveryState.PENDING, Place.LANE


class _Batch(Struct):
    """A batch in flight."""

    head: Delivery  # that leads it now
    changed: set[int] = field(default_factory=set)  # those of its deliveries that somebody has changed
    waiting: list[Delivery] = field(default_factory=list)  # heads beside it, of rows that somebody has edited


class Flights:
    """
    Deliveries whose attempts run or whose results are being committed, each from its taking on.

    Somebody else may change one of them meanwhile: its attempt's end is applied to what it is then. Of a batch any delivery
    may be changed, also one that was not read yet; those that left it go their own way when it ends.
    """

    def __init__(self) -> None:
        self._alone: dict[int, Delivery] = {}  # as they were taken
        self._batches: dict[int, _Batch] = {}
        self._changed: dict[int, Delivery] = {}  # those in flight, also in a batch that they have left since
        self._lines: dict[tuple[int, str], Delivery | None] = {}  # whose heads are in flight: who leads them next

    @property
    def alone(self) -> list[int]:
        """The deliveries that are in flight by themselves."""
        return list(self._alone)

    @property
    def batches(self) -> list[int]:
        """The batches in flight."""
        return list(self._batches)

    def begin(self, head: Delivery) -> bool:
        """
        A delivery, or the batch that it leads, is taken.

        False, and it does not go now, if its batch or line is in flight already: that takes rows that somebody has edited.
        """
        if head.batch is not None:
            if head.batch in self._batches:
                self._batches[head.batch].waiting.append(head)
                return False
            self._batches[head.batch] = _Batch(head)
            return True
        if head.line is not None:
            line = (head.subscription, head.line)
            if line in self._lines:
                self._lines[line] = head
                return False
            self._lines[line] = None
        self._alone[head.seq] = head
        return True

    def holds(self, delivery: Delivery) -> bool:
        """Whether it is in flight: by itself, or in a batch, even if it has left that since."""
        seq, batch = delivery.seq, delivery.batch
        return seq in self._alone or seq in self._changed or (batch is not None and batch in self._batches)

    def change(self, before: Delivery, after: Delivery) -> bool:
        """Somebody changed a delivery; False if it is not in flight, nor the next to lead a line that is."""
        line = None if before.line is None else (before.subscription, before.line)
        heir = None if line is None else self._lines.get(line)
        if line is not None and heir is not None and heir.seq == before.seq:
            self._lines[line] = after if after.state is _PENDING else None
            return True
        if not self.holds(before):
            return False
        if before.batch in self._batches:
            self._batches[before.batch].changed.add(before.seq)
        self._changed[before.seq] = after
        return True

    def is_busy(self, delivery: Delivery) -> bool:
        """Whether it, its batch or its line is in flight, so that it must not go now."""
        if delivery.seq in self._changed:
            return True
        if delivery.line is not None:
            return (delivery.subscription, delivery.line) in self._lines
        return delivery.batch is not None and delivery.batch in self._batches

    def promote(self, head: Delivery) -> bool:
        """Another delivery leads its batch or its line now; False if neither that nor the delivery is in flight."""
        is_changed = head.seq in self._changed
        if is_changed:
            self._changed[head.seq] = head
        elif head.seq in self._alone:  # somebody has edited its row: its own end says what becomes of it
            return True
        if head.line is not None:
            line = (head.subscription, head.line)
            if line in self._lines and not is_changed:  # else its own end lets it go
                self._lines[line] = head
            return line in self._lines or is_changed
        batch = self._batches.get(head.batch or 0)
        if batch is not None and batch.head.subscription == head.subscription:
            batch.head = head
        elif batch is not None:
            batch.waiting.append(head)
        return batch is not None or is_changed

    def are_changed(self, deliveries: Iterable[Delivery]) -> bool:
        """Whether somebody has changed one of them since they were taken."""
        return bool(self._changed) and any(delivery.seq in self._changed for delivery in deliveries)

    def current(self, delivery: Delivery) -> Delivery:
        """A delivery in flight as it is now: as it was taken, unless somebody has changed it."""
        return self._changed.get(delivery.seq, delivery)

    def end(self, head: Delivery, recorded: Collection[int] = ()) -> list[Delivery]:
        """
        What was taken with *head* is in flight no more; the deliveries that go back to their lanes.

        Those *recorded* do not: their results say where they go.
        """
        if head.batch is None:
            head = self._alone.pop(head.seq)
            heir = None if head.line is None else self._lines.pop((head.subscription, head.line))
            head = self._changed.pop(head.seq, head)
            back = [head] if head.state is _PENDING and head.place is _LANE and head.seq not in recorded else []
            return back if heir is None else [*back, heir]
        batch = self._batches.pop(head.batch)
        left = {} if recorded else {batch.head.seq: batch.head}
        left |= {other.seq: other for other in batch.waiting if other.seq not in recorded}
        for seq in batch.changed:
            after = self._changed.pop(seq)
            if seq not in recorded and (seq in left or after.batch is None):
                left[seq] = after
        return [each for each in left.values() if each.state is _PENDING and each.place is _LANE]
