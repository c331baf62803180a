"""A real engine on a temporary file, a journal of what it logs, and endpoints that answer when a test says so."""

from __future__ import annotations

import asyncio
import gc
import threading
from contextlib import asynccontextmanager, contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import storage
import structlog
from patience import PATIENCE

from hookengine.clock import Clock
from hookengine.config import Config, Delivery, Security
from hookengine.engine import DATABASE, Engine

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator
    from pathlib import Path

    from hookengine import views
    from hookengine.receiver import Received
    from hookengine.store import Transaction

LOOPBACK = Security(allow_http=True, allow_networks=("127.0.0.0/8", "::1/128"))  # type: ignore[arg-type]  # given as texts


class Journal:
    """What an engine logs, in order, as one mapping a line with the name of what happened under `event`."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        self.logger: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
            None, processors=[self._keep], wrapper_class=structlog.make_filtering_bound_logger(0)
        )
        self._more = asyncio.Event()

    def all(self, name: str, **fields: Any) -> list[dict[str, Any]]:
        """The lines called *name* that have *fields*."""
        return [line for line in self.lines if line["event"] == name and fields.items() <= line.items()]

    async def until(self, name: str, count: int = 1, **fields: Any) -> list[dict[str, Any]]:
        """The same, once there are *count*."""
        async with asyncio.timeout(PATIENCE):
            while len(found := self.all(name, **fields)) < count:
                self._more.clear()
                await self._more.wait()
        return found

    def _keep(self, _logger: object, _method: str, fields: Any) -> Any:
        self.lines.append(dict(fields))
        self._more.set()
        raise structlog.DropEvent


class Gate:
    """
    A step of a receiver's script that answers when it is told to, in the order of arrival.

    `most` is the largest number of requests that were here at the same time.
    """

    def __init__(self) -> None:
        self.waiting: list[Received] = []  # arrived, and not answered
        self.most = 0
        self._answers: dict[int, asyncio.Future[int]] = {}
        self._arrived = asyncio.Event()
        self._open_with: int | None = None

    async def __call__(self, request: Received) -> int:
        """The status that this request is answered with."""
        self.waiting.append(request)
        self.most = max(self.most, len(self.waiting))
        self._arrived.set()
        try:
            if self._open_with is not None:
                return self._open_with
            self._answers[request.number] = asyncio.get_running_loop().create_future()
            return await self._answers[request.number]
        finally:
            self.waiting.remove(request)
            self._answers.pop(request.number, None)

    async def arrived(self, count: int = 1) -> list[Received]:
        """Those that wait for an answer, once there are *count*."""
        async with asyncio.timeout(PATIENCE):
            while len(self.waiting) < count:
                self._arrived.clear()
                await self._arrived.wait()
        return list(self.waiting)

    def answer(self, status: int = 200) -> None:
        """Answer the one that waits longest."""
        self._answers.pop(min(self._answers)).set_result(status)

    def open(self, status: int = 200) -> None:
        """Answer all that wait, and all that come."""
        self._open_with = status
        while self._answers:
            self.answer(status)


def engine(
    folder: Path,
    journal: Journal | None = None,
    *,
    serve: str | None = None,
    profiles: Any = MappingProxyType({}),
    **delivery: Any,
) -> Engine:
    """An engine in *folder* that may call loopback, with settings of `[delivery]` and tables of `[profiles]`; not started."""
    config = Config(security=LOOPBACK, delivery=Delivery(**delivery), profiles=profiles)
    return Engine(folder / DATABASE, config=config, serve=serve, logger=(journal or Journal()).logger)


@asynccontextmanager
async def running(folder: Path, journal: Journal | None = None, **delivery: Any) -> AsyncIterator[Engine]:
    """The same, started; at the end attempts in flight are cut."""
    made = engine(folder, journal, **delivery)
    await made.start()
    try:
        yield made
    finally:
        await made.stop(drain=0)


async def only(engine: Engine, **query: Any) -> views.Delivery:
    """The one delivery that *query* finds, with its attempts."""
    [found] = (await engine.deliveries(**query)).data
    return await engine.delivery(found.id)


async def past(engine: Engine, moment: int) -> None:
    """Return when the clock shows more than *moment* (ms since the epoch); the engine is kept at work until then."""
    clock = Clock()
    async with asyncio.timeout(PATIENCE):
        while clock.now() <= moment:
            await engine.events(limit=1)


@asynccontextmanager
async def blocked_writer(engine: Engine, *behind: Coroutine[Any, Any, Any]) -> AsyncIterator[None]:
    """
    Hold the writer in a transaction while the block lasts.

    What *behind* asks of it is in the same turn: it is done at the end of the block, before all that is sent meanwhile.
    """
    inside, released = asyncio.Event(), asyncio.Event()

    async def hold(_: Transaction) -> None:
        inside.set()
        await released.wait()

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        group.create_task(engine._running.store.writer.change(hold))
        for each in behind:
            group.create_task(each)
        await inside.wait()
        try:
            yield
        finally:
            released.set()


@asynccontextmanager
async def blocked_reader(engine: Engine, name: Literal["reader", "viewer"] = "reader") -> AsyncIterator[None]:
    """Let this reader read nothing while the block lasts."""
    released = threading.Event()
    db = getattr(engine._running.store, name)._db
    db = getattr(db, "connection", db)  # a reader has one within
    held = asyncio.create_task(db._execute(released.wait, PATIENCE))  # aiosqlite's way to its thread
    await asyncio.sleep(0)
    try:
        yield
    finally:
        released.set()
        await held


async def taken(engine: Engine) -> None:
    """Return when a delivery holds a slot; the writer is kept at work until then."""

    async def nothing(_: Transaction) -> None:
        pass

    async with asyncio.timeout(PATIENCE):
        while not engine._running.dispatcher.in_flight:
            await engine._running.store.writer.change(nothing)


async def in_flight(engine: Engine, count: int) -> None:
    """Return when so many deliveries hold a slot."""
    async with asyncio.timeout(PATIENCE):
        while engine._running.dispatcher.in_flight < count:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0)


@contextmanager
def measured() -> Iterator[None]:
    """Spare what is timed in the block a collection of all that the tests before it have left."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def attempts_ended(engine: Engine) -> None:
    """Return when every attempt in flight has ended: its result is sent to the writer."""
    await asyncio.wait(engine._running.dispatcher._attempts, timeout=PATIENCE)


async def limit_pages(engine: Engine, pages: int | None) -> None:
    """Let the database grow by *pages* at most; None lifts the limit."""
    db = engine._running.store.writer._writing.db
    ((used,),) = await db.execute_fetchall("PRAGMA page_count")
    await db.execute_fetchall(f"PRAGMA max_page_count = {2**30 if pages is None else used + pages}")


def rows(folder: Path, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """What *statement* gives on a connection of its own: only what is committed."""
    return storage.rows(folder / DATABASE, statement, *values)


async def edit(folder: Path, script: str) -> None:
    """Change the file behind the engine's back; in a thread, because it may have to wait for the engine's lock."""
    await asyncio.to_thread(storage.write, folder / DATABASE, script)


def numbers(requests: Iterable[Received]) -> list[int]:
    """The `n` of the data of *requests* to subscriptions of the standard profile."""
    return [int(request.body.rpartition(b'"n":')[2].rstrip(b"}")) for request in requests]
