"""What runs alone in its transaction: changes, and the putting together of batches."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from hookengine.store import batches, changes
from hookengine.store.faults import PASSING, is_want_of_room, untaken
from hookengine.store.publications import fail
from hookengine.store.transaction import Transaction

if TYPE_CHECKING:
    from hookengine.gathering import Compose, Composed
    from hookengine.store.condition import Condition
    from hookengine.store.rows import Unreadable
    from hookengine.store.space import Space
    from hookengine.store.writing import Writing

T = TypeVar("T")

Step = Callable[[Transaction], Awaitable[T]]
Change = tuple[Step[Any], "asyncio.Future[Any]"]  # what is to be done, and who waits for it

_MOST_CHANGES = 8  # between two commits: each has a sync of its own, for which publishers wait


class Transactions:
    """Those that wait for their turn, and how each of them runs."""

    def __init__(self, writing: Writing, condition: Condition, space: Space) -> None:
        self._writing = writing
        self._condition = condition
        self._space = space
        self._changes: deque[Change] = deque()
        self._compositions: deque[Compose] = deque()
        self._in_hand: list[Change] = []  # those of the present turn

    def __bool__(self) -> bool:
        return bool(self._changes or self._compositions)

    def add(self, step: Step[T]) -> asyncio.Future[T]:
        """Let *step* wait; what it will return."""
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._changes.append((step, done))
        return done

    def compose(self, asked: Compose) -> None:
        """Let *asked* wait."""
        self._compositions.append(asked)

    def park(self, unreadable: list[Unreadable]) -> None:
        """Let it wait that deliveries whose rows cannot be read are given up; each is told of then."""

        def tell(done: asyncio.Future[set[int]]) -> None:
            unwritten = done.exception() is not None  # then they are found again
            for each in unreadable:
                if unwritten or each.seq in done.result():  # or another one has found it before
                    self._writing.listener.unreadable(each.where, each.error)

        if unreadable:
            self.add(changes.park([each.seq for each in unreadable])).add_done_callback(tell)

    def take_changes(self) -> list[Change]:
        """Those whose turn it is."""
        self._in_hand = [self._changes.popleft() for _ in range(min(_MOST_CHANGES, len(self._changes)))]
        return self._in_hand

    def take_compositions(self) -> list[Compose]:
        """All that are asked for."""
        taken = list(self._compositions)
        self._compositions.clear()
        return taken

    def refuse(self, error: Exception) -> None:
        """Let whoever waits for a change hear *error*."""
        for _, done in (*self._in_hand, *self._changes):
            fail(done, error)
        self._changes.clear()

    async def change_all(self, taken: list[Change]) -> None:
        """Each in a transaction of its own; where one cannot begin, the rest need not wait for that as well."""
        for position, (step, done) in enumerate(taken):
            try:
                await self._writing.begin()
            except PASSING as error:
                await self._writing.roll_back(error)
                self._condition.failed(error)
                for _, waiting in taken[position:]:
                    fail(waiting, untaken(error))
                break
            except Exception as error:  # noqa: BLE001  # a fault of ours: the task goes on
                await self._writing.roll_back(error)
                fail(done, error)
            else:
                await self._change(step, done)
        self._in_hand = []

    async def _change(self, step: Step[T], done: asyncio.Future[T]) -> None:
        """Do *step* in the transaction that has begun, and commit it."""
        transaction = Transaction(self._writing)
        try:
            await transaction.find_standing(self._writing.memory.index.our_lines)
            value = await step(transaction)
            await self._writing.db.commit()
        except PASSING as error:
            await self._writing.roll_back(error)
            if is_want_of_room(error):  # before it is tried again, the WAL's room and the reserve's are given back
                self._space.ran_out()
                self._space.give_up()
            fail(done, untaken(error))
        except Exception as error:  # noqa: BLE001  # the caller's, whatever it is: the task goes on
            await self._writing.roll_back(error)
            fail(done, error)
        else:
            made = len(transaction.announced) + transaction.replayed
            self._writing.listener.committed(transaction.announcer.event_count, made)
            for follow in transaction.after:
                follow()
            if transaction.announced:
                self._writing.listener.accepted(transaction.announced)
            self.park(transaction.unreadable)
            if not done.done():
                done.set_result(value)

    async def compose_all(self, asked: list[Compose]) -> None:
        """As many as one transaction should do, the others next; what cannot be stored now is asked for again."""
        writing = self._writing
        transaction = Transaction(writing)
        composed: list[Composed] = []
        most = writing.db.total_changes + batches.MOST_ROWS
        try:
            await writing.begin()
            for each in asked:
                composed.append(await batches.compose(transaction, each))
                if writing.db.total_changes >= most:
                    break
            await writing.db.commit()
        except Exception as error:  # noqa: BLE001  # whatever it is: the task goes on
            await writing.roll_back(error)
            if isinstance(error, PASSING):
                self._condition.failed(error)
            else:
                writing.listener.unreadable("what waits for a batch", error)
            self.put_off(asked)
        else:
            self._compositions.extendleft(reversed(asked[len(composed) :]))
            for each, made in zip(asked, composed, strict=False):
                writing.listener.composed(each, made)
            self.park(transaction.unreadable)

    def put_off(self, asked: list[Compose]) -> None:
        """Tell that *asked* cannot be stored now."""
        for each in asked:
            self._writing.listener.composed(each, None)
