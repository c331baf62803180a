"""What waits to be published: bounded, so that memory is, and given out in commits' worth."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from hookengine.errors import PayloadTooLarge

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterable

    from hookengine.store.intake import Answer, Draft, Key, Receipt

MOST_WAITING = 20_000  # events waiting for a commit; more are refused, so that memory stays bounded
MOST_WAITING_BYTES = 64 << 20
LARGEST = 900_000_000  # bytes of events published together: SQLite takes values of at most 1,000,000,000

# Once a commit has so many deliveries, events without any, or bytes of events, further publications wait for the next. No more
# deliveries than the loop sends while SQLite writes as many: with larger commits results wait longer, and with them the slots
# that they hold (docs/performance.md).
MOST_DELIVERIES = 128
_MOST_BYTES = 8 << 20


class Publication:
    """Events that are published together, and who waits for that; raises PayloadTooLarge for what no commit could hold."""

    __slots__ = ("done", "drafts", "key", "render", "size")

    def __init__(
        self,
        drafts: list[Draft],
        key: Key | None,
        render: Callable[[list[Receipt]], bytes] | None,
        done: asyncio.Future[list[Receipt] | Answer],
    ) -> None:
        self.drafts = drafts
        self.key = key
        self.render = render
        self.size = 0
        for draft in drafts:
            self.size += len(draft.data)
        if self.size > LARGEST:
            raise PayloadTooLarge(f"the data has {self.size} bytes; together at most {LARGEST} are taken")
        self.done = done


class Publications:
    """A queue of publications, whose turn comes in the order of `add`."""

    __slots__ = ("_fan_out", "_waiting", "count", "size")

    def __init__(self) -> None:
        self._waiting: deque[Publication] = deque()
        self.count = 0  # events in it
        self.size = 0  # bytes of these
        self._fan_out = 1.0  # deliveries for each event in the last commit that had any, at least 1

    def __bool__(self) -> bool:
        return bool(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether nothing more is to be added now."""
        return self.count >= MOST_WAITING or self.size >= MOST_WAITING_BYTES

    def add(self, publication: Publication) -> None:
        """Let *publication* wait."""
        self._waiting.append(publication)
        self.count += len(publication.drafts)
        self.size += publication.size

    def take(self) -> list[Publication]:
        """As many as a commit will hold if their events fan out as those of the last one did; at least one, if one waits."""
        taken: list[Publication] = []
        events = size = 0
        while self._waiting and events * self._fan_out < MOST_DELIVERIES and size < _MOST_BYTES:
            publication = self._waiting.popleft()
            events += len(publication.drafts)
            size += publication.size
            taken.append(publication)
        self.count -= events
        self.size -= size
        return taken

    def made(self, events: int, deliveries: int) -> None:
        """A commit of so many new *events* has so many *deliveries*."""
        if events:
            self._fan_out = max(1.0, deliveries / events)

    def put_back(self, publications: list[Publication]) -> None:
        """Let *publications*, which were taken, wait for the next commit, before all others."""
        self._waiting.extendleft(reversed(publications))
        self.count += sum(len(publication.drafts) for publication in publications)
        self.size += sum(publication.size for publication in publications)

    def refuse(self, error: Exception) -> None:
        """Let whoever waits hear *error*."""
        refuse(self._waiting, error)
        self._waiting.clear()
        self.count = self.size = 0


def refuse(publications: Iterable[Publication], error: Exception) -> None:
    """Let whoever waits for *publications* hear *error*."""
    for publication in publications:
        fail(publication.done, error)


def fail(done: asyncio.Future[Any], error: Exception) -> None:
    """Let whoever waits for *done* hear *error*, unless it is done."""
    if not done.done():
        done.set_exception(error)
