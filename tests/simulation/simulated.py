"""The engine in simulated surroundings: its lives on one disk, one after the other, and how they end."""

from __future__ import annotations

import asyncio
import random
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import aiohttp.connector
import aiosqlite
import pytest
import structlog
from internet import Internet
from virtual import SimulatedClock, Threads, VirtualLoop, connection

from hookengine import dispatcher, maintenance
from hookengine.config import Config, Delivery, Security
from hookengine.engine import DATABASE, Engine
from hookengine.netguard import Policy, admit
from hookengine.resolver import Resolver
from hookengine.sender import Sender, tls_context
from hookengine.store import database, store

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    from hookengine.clock import Clock

# The loops that look around now and then do so less often: a day of nothing would be 100,000 rounds. And nobody waits for a
# thread to begin, where there are none.
TIMES = {
    (dispatcher, "_LONGEST_SLEEP"): 3_600.0,
    (maintenance, "EVERY"): 21_600.0,
    (store, "_PULSE"): 86_400.0,
    (database, "_BEGINNING"): 0.0,
}
CONCURRENCY = 6

_TLS = tls_context()  # nothing here speaks TLS, and to read the system's authorities takes longer than a seed


class SimulatedEngine(Engine):
    """An engine whose time and network are the world's."""

    def __init__(self, world: World, path: Path, **given: Any) -> None:
        super().__init__(path, **given)
        self._world = world

    def _make_clock(self) -> Clock:
        return SimulatedClock(lambda: self._world.ahead, self._world.rng_of("engine"))

    def _make_sender(self, policy: Policy, **given: Any) -> Sender:
        internet = self._world.internet
        resolver = Resolver(partial(admit, policy=policy), lookup=internet.lookup)
        resolver._threads = resolver._probing = Threads(internet.lookup_time)  # type: ignore[assignment]  # what it uses of them
        return Sender(policy, resolver=resolver, tls=_TLS, routed=lambda: True, **given)


class World:
    """
    Everything around the engine: time, disk, internet, and when the process dies.

    What is random comes from the seed, by what it is for, so that one does not disturb the other.
    """

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed = seed
        self.folder = folder
        self.now = 1000.0  # s, by the loop's time, between two lives
        self.ahead = 0.0  # s that the wall clock is ahead of what it should be
        self.life = 0
        self.internet = Internet(self.rng_of("internet"))
        self.lines: list[tuple[float, int, dict[str, Any]]] = []  # what the engine logs: when, in which life, what
        self.steps = 0  # until the process ends; 0: it lives on
        self.ending = "kill"  # how: at once, or, with "cancel", by the cancelling of all tasks, as asyncio.run does it
        self.dead = False
        self.loop: VirtualLoop
        self.engine: SimulatedEngine
        self._disk = self.rng_of("disk")
        self._pause = 0.0

    def rng_of(self, purpose: str) -> random.Random:
        """The random numbers of this life for *purpose*."""
        return random.Random(f"{self.seed}/{self.life}/{purpose}")

    def wall(self) -> float:
        """Milliseconds since the epoch, as the engine's clock has it."""
        return self.engine._running.store._clock.now()

    def step(self, *_: object) -> None:
        """Something has happened: perhaps it was the last thing."""
        if self.steps:
            self.steps -= 1
            if not self.steps:
                self.dead = True
                self.loop.stop()

    @contextmanager
    def alive(self) -> Iterator[None]:
        """One life of a process, with a loop of its own; within it `run` runs."""
        self.life += 1
        self.steps, self.dead = 0, False
        self.internet.life = self.life
        self.internet.rng = self.rng_of("internet")
        self._disk = self.rng_of("disk")
        self.loop = loop = VirtualLoop(self.internet, self.now)
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(aiosqlite, "Connection", connection(self._disk_time, self.step))
                patch.setattr(aiohttp.connector, "monotonic", loop.time)
                for (module, name), value in TIMES.items():
                    patch.setattr(module, name, value)
                yield
                self._bury()
        finally:
            self.now = loop.time()
            loop.close()

    def run(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start the engine and let *work* go on, until that is done or the process has died."""
        config = Config(
            security=Security(allow_http=True),
            delivery=Delivery(concurrency=CONCURRENCY, queue_size=20),
        )

        async def main() -> None:
            self.engine = SimulatedEngine(self, self.folder / DATABASE, config=config, logger=self._logger())
            await self.engine.start()
            await work()

        asyncio.set_event_loop(self.loop)
        task = self.loop.create_task(main())
        task.add_done_callback(self._done)
        self.loop.run_forever()
        task.remove_done_callback(self._done)
        if task.done():
            task.result()
        elif not self.dead:
            raise AssertionError("the loop has ended, and nobody knows why")

    def _done(self, _: object) -> None:
        self.loop.stop()

    def _bury(self) -> None:
        """Of a process that was killed, leave nothing but its disk as it was at that moment."""
        if not self.dead:
            return
        if self.ending == "cancel":
            self._cancel()
            self.internet.cut()
            return
        files = [self.folder / name for name in (DATABASE, f"{DATABASE}-wal")]
        kept = {path: path.read_bytes() for path in files if path.exists()}
        self.internet.cut()
        log, self.lines = self.lines, []  # what it does now it does only to be over
        self._cancel()
        self.lines = log
        for path in files:
            path.unlink(missing_ok=True)
        for path, content in kept.items():
            path.write_bytes(content)

    def _cancel(self) -> None:
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        while tasks := asyncio.all_tasks(self.loop):
            self.loop.run_until_complete(asyncio.wait(tasks))

    def _disk_time(self) -> float:
        chance = self._disk.random()
        return 0.0 if chance < 0.8 else 0.002 * self._disk.random() if chance < 0.99 else 0.3 * self._disk.random()

    def _logger(self) -> structlog.typing.FilteringBoundLogger:
        def keep(_logger: object, _method: str, fields: Any) -> Any:
            self.lines.append((self.loop.time(), self.life, dict(fields)))
            raise structlog.DropEvent

        logger: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
            None, processors=[keep], wrapper_class=structlog.make_filtering_bound_logger(0)
        )
        return logger
