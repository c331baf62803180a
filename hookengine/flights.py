"""What is in flight, and what others have made of it meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct, field

from hookengine.models import Delivery, DeliveryState

if TYPE_CHECKING:
    from collections.abc import Collection

_PENDING = DeliveryState.PENDING  # a name of its own, because looking up a member of an enum takes longer than all else


class _Batch(Struct):
    """A batch in flight."""

    head: Delivery  # that leads it now
    changed: set[int] = field(default_factory=set)  # those of its deliveries that somebody has changed


class Flights:
    """
    Deliveries whose attempts run or whose results are being committed, each from its taking on.

    Somebody else may change one of them meanwhile: its attempt's end is applied to what it is then. Of a batch any delivery
    may be changed, also one that was not read yet; those that left it go their own way when it ends.
    """

    def __init__(self) -> None:
        self._alone: set[int] = set()
        self._batches: dict[int, _Batch] = {}
        self._changed: dict[int, Delivery] = {}

    @property
    def alone(self) -> list[int]:
        """The deliveries that are in flight by themselves."""
        return list(self._alone)

    @property
    def batches(self) -> list[int]:
        """The batches in flight."""
        return list(self._batches)

    def begin(self, head: Delivery) -> None:
        """A delivery, or the batch that it leads, is taken."""
        if head.batch is None:
            self._alone.add(head.seq)
        else:
            self._batches[head.batch] = _Batch(head)

    def holds(self, delivery: Delivery) -> bool:
        """Whether it is in flight, by itself or in a batch."""
        return delivery.seq in self._alone or (delivery.batch is not None and delivery.batch in self._batches)

    def change(self, before: Delivery, after: Delivery) -> bool:
        """Somebody changed a delivery; False if it is not in flight."""
        if not self.holds(before):
            return False
        if before.batch in self._batches:
            self._batches[before.batch].changed.add(before.seq)
        self._changed[before.seq] = after
        return True

    def promote(self, head: Delivery) -> bool:
        """Another delivery leads its batch now; False if that is not in flight."""
        batch = self._batches.get(head.batch or 0)
        if batch is None:
            return False
        batch.head = head
        return True

    def is_changed(self, delivery: Delivery) -> bool:
        """Whether somebody has changed it since it was taken."""
        return bool(self._changed) and delivery.seq in self._changed

    def current(self, delivery: Delivery) -> Delivery:
        """A delivery in flight as it is now: as it was taken, unless somebody has changed it."""
        return self._changed.get(delivery.seq, delivery)

    def end(self, head: Delivery, recorded: Collection[int] = ()) -> list[Delivery]:
        """
        What was taken with *head* is in flight no more; the deliveries that go back to their lanes.

        Those *recorded* do not: their results say where they go.
        """
        if head.batch is None:
            self._alone.discard(head.seq)
            head = self._changed.pop(head.seq, head)
            return [head] if head.state is _PENDING and head.seq not in recorded else []
        batch = self._batches.pop(head.batch)
        back = {} if recorded else {batch.head.seq: batch.head}
        for seq in batch.changed:
            after = self._changed.pop(seq)
            if seq not in recorded and (seq in back or after.batch is None):
                back[seq] = after
        return [each for each in back.values() if each.state is _PENDING]
