"""What a change may do: alone in its transaction, with what follows its commit."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from hookengine.failpoints import failpoint
from hookengine.models import Delivery, Event, Place, Trigger
from hookengine.store import rows
from hookengine.store.announcements import Announcer
from hookengine.store.folding import truncate
from hookengine.store.intake import lined_up
from hookengine.store.lines import standing
from hookengine.store.queries import sql

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from hookengine.models import Health, Priority, Subscription
    from hookengine.store.commit import Commit
    from hookengine.store.intake import Line
    from hookengine.store.writing import Writing


class Transaction:
    """What a change may do: statements, a new key, and what follows once it is committed."""

    def __init__(self, writing: Writing) -> None:
        self.now = writing.clock.now()
        self.memory = writing.memory
        self.vault = writing.vault
        self.listener = writing.listener
        self.after: list[Callable[[], None]] = []
        self.unreadable: list[rows.Unreadable] = []  # what was found on the way
        self.lines: set[Line] = set()  # those, of the ones that were asked for, in which somebody stands
        self.announcer = Announcer(
            now=self.now, clock=writing.clock, numbers=writing.numbers, index=self.memory.index, lines=self.lines
        )
        self.announced: list[tuple[Delivery, Event]] = []  # what follows `after`
        self.replayed = 0  # deliveries that were made of earlier events
        self._db = writing.db
        self._numbers = writing.numbers
        self._clock = writing.clock

    async def find_standing(self, asked: Iterable[Line]) -> None:
        """Find out in which of the lines *asked* for somebody stands."""
        self.lines |= await standing(self._db, asked)

    async def run(self, statement: str, values: Iterable[Any] | dict[str, Any] = ()) -> int:
        """Execute *statement*; the number of rows that it changed."""
        # Its cursor is not closed, for which SQLite's thread would be asked, and waited for, once more.
        return (await self._db.execute(statement, values if isinstance(values, dict) else tuple(values))).rowcount

    async def write(self, commit: Commit) -> None:
        """Write the rows of *commit*."""
        await self._db.execute(sql.commit, commit.values())

    async def run_many(self, statement: str, values: list[tuple[Any, ...]]) -> None:
        """Execute *statement* for each of *values*."""
        await self._db.executemany(statement, values)

    async def run_alone(self, statement: str) -> None:
        """End this transaction, and execute *statement*, which gives no rows, to its end in one of its own."""
        await self._db.executescript(statement)  # `execute` takes one step only of what gives rows without columns

    async def empty_wal(self) -> None:
        """End this transaction, and give the room of the WAL back to the disk, if nobody reads for long."""
        await self._db.commit()
        await truncate(self._db)

    async def fetch(self, statement: str, values: Iterable[Any] | dict[str, Any] = ()) -> list[Any]:
        """The rows that *statement* gives."""
        return list(await self._db.execute_fetchall(statement, values if isinstance(values, dict) else tuple(values)))

    def announce(self, commit: Commit, type: str, data: Mapping[str, Any]) -> None:
        """Put an operational event that is wanted into *commit*."""
        self.announced += self.announcer.announce(commit, type, data)

    def new_subscription(self) -> int:
        """The key of a new subscription."""
        self._numbers.subscriptions += 1
        return self._numbers.subscriptions

    @property
    def last_key(self) -> int:
        """The greatest key of an event or a delivery."""
        return max(self._numbers.events, self._numbers.deliveries)

    def promote(self, found: list[Any]) -> None:
        """Tell who leads a batch or a line, of whom the row is *found*, once this is committed."""
        for delivery in self.read(found):
            self.after.append(partial(self.listener.promoted, delivery))

    def read(self, found: list[Any]) -> list[Delivery]:
        """The deliveries of the rows *found*; those that cannot be read are parked in a transaction after this one."""
        readable, unreadable = rows.deliveries(found)
        self.unreadable += unreadable
        return readable

    def new_turn(self) -> int:
        """The last turn of any line."""
        self._numbers.deliveries += 1
        return self._numbers.deliveries

    def new_replay(self, event: int, subscription: int, priority: Priority, line: Line | None) -> Delivery:
        """A delivery, due now, of an event that was accepted before; where it has a *line*, at the end of that."""
        self.replayed += 1
        made = Delivery(
            seq=self.new_turn(),
            id=self._clock.new_id("dlv"),
            event=event,
            subscription=subscription,
            priority=priority,
            due_at=self.now,
            trigger=Trigger.REPLAY,
            created_at=self.now,
            place=Place.GATHERING if subscription in self.memory.index.gathering else Place.LANE,
        )
        return made if line is None else lined_up(made, line, self.lines)

    def put(self, subscription: Subscription, health: Health) -> None:
        """Let the index and the counters follow once this is committed."""

        def follow() -> None:
            failpoint("K19-committed")
            before = self.memory.index.get(subscription.seq)
            self.memory.index.put(subscription)
            self.memory.health[subscription.seq] = health
            self.listener.changed(before, subscription)

        failpoint("K19-written")
        self.after.append(follow)

    def drop(self, subscription: Subscription) -> None:
        """Take *subscription* out of the index once this is committed."""

        def follow() -> None:
            failpoint("K19-committed")
            self.memory.index.remove(subscription.seq)
            self.memory.health.pop(subscription.seq, None)
            self.listener.changed(subscription, None)

        failpoint("K19-written")
        self.after.append(follow)

    def overrule(self, before: Delivery, after: Delivery) -> None:
        """Tell of a changed delivery once this is committed."""
        self.after.append(lambda: self.listener.overruled(before, after))
