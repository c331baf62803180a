"""Upkeep in small steps between other work: what was enabled, deleted, has expired, is past its retention, or was used."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from hookengine.errors import StorageFailed, Unavailable
from hookengine.models import SubscriptionState
from hookengine.observers import Fault, Happening, Kinds, ReplayProgress, SubscriptionChanged
from hookengine.store import changes, registry, replays

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hookengine.store import Store, Transaction

    _Step = Callable[[Transaction], Awaitable[int]]

EVERY = 30.0  # s between rounds that nothing asked for
BETWEEN_USES = 60_000  # ms between two writes of when a token was used
PACE = 0.25  # s between two steps of replays, 2,000 deliveries a second: quicker ones double what publishing takes


class Maintenance:
    """
    Runs each kind of upkeep, a step to a commit, until nothing is left; then sleeps until a change or the next round.

    Between two rounds it makes replays, a step at a time at their pace: they never hold upkeep up, nor those who publish.
    """

    hears: Kinds = (ReplayProgress, SubscriptionChanged)

    def __init__(self, store: Store, *, retention: int, observe: Callable[[Happening], None]) -> None:
        self._store = store
        self._observe = observe
        self._steps: tuple[_Step, ...] = (
            changes.bring_forward,
            changes.cancel_rest,
            changes.expire,
            changes.prune(retention),
            changes.span,
            registry.note_uses(BETWEEN_USES),
        )
        self._wake = asyncio.Event()
        self._stopping = False

    def __call__(self, happening: Happening) -> None:
        """Look at once when a subscription was deleted, or may have been enabled, or a replay was asked for."""
        if isinstance(happening, ReplayProgress) and not happening.finished:
            self._wake.set()
        if not isinstance(happening, SubscriptionChanged) or happening.before is None:
            return
        if happening.after is None or happening.after.state is SubscriptionState.ACTIVE:
            self._wake.set()

    async def run(self) -> None:
        """Work until `stop`; at last, write down what must not wait for a round that does not come."""
        while not self._stopping:
            self._wake.clear()
            for step in self._steps:
                await self._finish(step)
            await self._replay()
        if self._store.writer.tokens.unwritten(0):
            await self._once(registry.note_uses(0))

    def stop(self) -> None:
        """Begin no further step."""
        self._stopping = True
        self._wake.set()

    async def _finish(self, step: _Step) -> None:
        """Repeat *step* until it finds nothing."""
        while not self._stopping and await self._once(step):
            pass

    async def _once(self, step: _Step) -> int:
        """What *step* did; 0 if something kept it from its work, which is tried again in the next round."""
        try:
            return await self._store.writer.change(step)
        except (Unavailable, StorageFailed):
            pass  # the writer tells of it
        except Exception as error:  # noqa: BLE001  # a row that cannot be read must end neither upkeep nor the engine
            self._observe(Fault(where="upkeep", error=repr(error)))
        return 0

    async def _replay(self) -> None:
        """Until the next round: make what is to be replayed, then sleep."""
        timer = asyncio.get_running_loop().call_later(EVERY, self._wake.set)
        while not self._wake.is_set() and await self._once(replays.replay_some):
            with suppress(TimeoutError):
                async with asyncio.timeout(PACE):
                    await self._wake.wait()
        await self._wake.wait()
        timer.cancel()
