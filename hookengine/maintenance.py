"""Upkeep in small steps between other work: what was enabled, deleted, has expired, is past its retention, or was used."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from hookengine.errors import StorageFailed, Unavailable
from hookengine.models import SubscriptionState
from hookengine.observers import Fault, Happening, Kinds, ReplayProgress, SubscriptionChanged
from hookengine.store import registry, replays, upkeep
from hookengine.store.strays import Search

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hookengine.store import Store, Transaction

    _Step = Callable[[Transaction], Awaitable[int]]

EVERY = 30.0  # s between rounds that nothing asked for
BETWEEN_USES = 60_000  # ms between two writes of when a token was used
PRUNED = 25  # deliveries of one step, in some 5 ms, most of which is its commit's sync: publishers do not notice
RESTS = 6  # times as long as a step took: a seventh of the writer's time goes into each of these two, if that is enough
LONGEST_REST = 0.05  # s: what comes quicker than small steps delete is deleted in larger ones
SEARCH = (0.25, 3600.0)  # s between two steps of the search for strays, of some 6 ms; between two searches
SPANS = 0.25  # s between two steps of spans, of some 6 ms: 20,000 keys a second
AGAIN = 2.0  # s until a step is tried again that the storage kept from its work
PACE = 0.25  # s between two steps of replays, 2,000 deliveries a second: quicker ones double what publishing takes


class Maintenance:
    """
    Runs what follows from changes of subscriptions, and in rounds the other kinds of upkeep, in turns, a step to a commit and
    a rest after it, until nothing is left.

    Beside that it makes replays and spans and searches for strays, a step at a time, each at a pace of its own.
    """

    hears: Kinds = (ReplayProgress, SubscriptionChanged)

    def __init__(self, store: Store, *, retention: int, observe: Callable[[Happening], None]) -> None:
        self._store = store
        self._observe = observe
        # Apart, because a step that finds nothing to do takes its time of the writer as well.
        self._following: tuple[_Step, ...] = (upkeep.bring_forward, upkeep.cancel_rest)
        self._regular: tuple[_Step, ...] = (
            upkeep.expire,
            upkeep.prune(retention, at_least=PRUNED),
            registry.note_uses(BETWEEN_USES),
        )
        self._wake = asyncio.Event()
        self._wake_replays = asyncio.Event()
        self._stopping = asyncio.Event()

    def __call__(self, happening: Happening) -> None:
        """Look at once when a subscription was deleted, or may have been enabled, or a replay was asked for."""
        if isinstance(happening, ReplayProgress) and not happening.finished:
            self._wake_replays.set()
        if not isinstance(happening, SubscriptionChanged) or happening.before is None:
            return
        if happening.after is None or happening.after.state is SubscriptionState.ACTIVE:
            self._wake.set()
            self._wake_replays.set()

    async def run(self) -> None:
        """Work until `stop`; at last, write down what must not wait for a round that does not come."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._follow())
                group.create_task(self._keep_up())
                group.create_task(self._replay())
                group.create_task(self._at_pace(upkeep.span, SPANS, EVERY))
                group.create_task(self._at_pace(Search(), *SEARCH))
        except (KeyboardInterrupt, SystemExit) as cut:  # in a task of the group: from there the event loop has raised it
            raise RuntimeError(f"upkeep was cut by {cut!r}") from cut
        if self._store.memory.tokens.unwritten(0):
            await self._once(registry.note_uses(0))

    def stop(self) -> None:
        """Begin no further step."""
        for event in (self._stopping, self._wake, self._wake_replays):
            event.set()

    async def _follow(self) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            await self._work_off(self._following)
            await _within(EVERY, self._wake)

    async def _keep_up(self) -> None:
        while not self._stopping.is_set():
            await self._work_off(self._regular)
            await _within(EVERY, self._stopping)

    async def _work_off(self, steps: tuple[_Step, ...]) -> None:
        while await self._turn(steps):
            pass

    async def _turn(self, steps: tuple[_Step, ...]) -> bool:
        """One step of each kind: none of them waits until another has nothing left. Whether any found something."""
        found = False
        for step in steps:
            if self._stopping.is_set():
                return False
            did, took = await self._once(step)
            if did:
                found = True
                await _within(min(RESTS * took, LONGEST_REST), self._stopping)
        return found

    async def _once(self, step: _Step) -> tuple[int | None, float]:
        """What *step* did, and in how many seconds; None if the storage kept it from its work."""
        loop = asyncio.get_running_loop()
        began = loop.time()

        async def timed(tx: Transaction) -> int:
            nonlocal began
            began = loop.time()  # until now it has waited for the writer
            return await step(tx)

        did: int | None = None
        try:
            did = await self._store.writer.change(timed)
        except (Unavailable, StorageFailed):
            pass  # the writer tells of it
        except Exception as error:  # noqa: BLE001  # a row that cannot be read must end neither upkeep nor the engine
            self._observe(Fault(where="upkeep", error=repr(error)))
            did = 0  # it would fail again
        return did, loop.time() - began

    async def _replay(self) -> None:
        while not self._stopping.is_set():
            self._wake_replays.clear()
            did, _ = await self._once(replays.replay_some)
            await _within(_rest(did, PACE, EVERY), self._wake_replays)

    async def _at_pace(self, step: _Step, pace: float, between: float) -> None:
        """Every *pace* seconds a step until one finds nothing, and all that anew *between* seconds later."""
        while not self._stopping.is_set():
            did, _ = await self._once(step)
            await _within(_rest(did, pace, between), self._stopping)


def _rest(did: int | None, pace: float, between: float) -> float:
    """The seconds until the next step: *pace* where the last one *did* something, *between* where nothing was left."""
    return AGAIN if did is None else pace if did else between


async def _within(seconds: float, event: asyncio.Event) -> None:
    """Wait for *event*, but not longer."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
