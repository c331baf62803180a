"""The events of fresh deliveries, kept in memory up to a limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hookengine.models import Event

_EVENT_OVERHEAD = 700  # bytes, about, that an event in memory takes beside its data


class Payloads:
    """Events that were just accepted, up to *limit* bytes, so that a fresh delivery reads nothing from the disk."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._events: dict[int, tuple[Event, int]] = {}  # with the number of deliveries that will ask

    def keep(self, event: Event) -> None:
        """Keep *event* for one delivery more; the oldest make room."""
        _, askers = self._events.get(event.seq, (event, 0))
        if not askers:
            self._size += _size(event)
        self._events[event.seq] = (event, askers + 1)
        while self._size > self._limit:
            oldest, _ = self._events.pop(next(iter(self._events)))
            self._size -= _size(oldest)

    def take(self, seq: int) -> Event | None:
        """The event for one of its deliveries; forgotten after the last."""
        kept = self._events.get(seq)
        if kept is None:
            return None
        event, askers = kept
        if askers > 1:
            self._events[seq] = (event, askers - 1)
        else:
            del self._events[seq]
            self._size -= _size(event)
        return event


def _size(event: Event) -> int:
    return len(event.data) + _EVENT_OVERHEAD
