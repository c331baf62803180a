"""Producers that repeat what was not answered, and an endpoint that counts what arrives."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections import Counter
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
from patience import PATIENCE

from hookengine.clock import Clock
from hookengine.receiver import Receiver, Reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from daemon import Daemon

    from hookengine.receiver import Received


EVENT = {"type": "order.created", "id": "event-1", "data": {"id": 1}}
LATER = (datetime.now(UTC) + timedelta(days=1)).isoformat()


class Arrivals:
    """
    What an endpoint got, by event id, divided into eras; a step of a receiver's script.

    It gives *answers* in turn, the last one from then on; and of every *refuses*-th event it refuses the first request.
    """

    def __init__(self, *, delay: float = 0.0, answers: Sequence[int] = (200,), refuses: int = 0) -> None:
        self.bodies: dict[str, set[bytes]] = {}
        self.eras: list[Counter[str]] = [Counter()]  # the requests since the last call of `divide` that were not refused
        self.delay = delay  # s until each answer
        self._answers = answers
        self._refuses = refuses
        self._more = asyncio.Event()

    def __call__(self, request: Received) -> Reply:
        """Note the request, and answer after a while."""
        id_ = str(request.header("webhook-id"))
        if id_ not in self.bodies and self._refuses and len(self.bodies) % self._refuses == 0:
            self.bodies[id_] = {request.body}
            return Reply(status=503, delay=self.delay)
        self.bodies.setdefault(id_, set()).add(request.body)
        self.eras[-1][id_] += 1
        self._more.set()
        return Reply(status=self._answers[min(request.number, len(self._answers)) - 1], delay=self.delay)

    async def divide(self) -> None:
        """Begin a new era, once everything is read that a process that has ended had sent."""
        for _ in range(20):
            await asyncio.sleep(0)
        self.eras.append(Counter())

    def repeats(self) -> list[int]:
        """For each era the requests in it whose event had arrived before."""
        before: set[str] = set()
        found = []
        for era in self.eras:
            found.append(sum(count - (id_ not in before) for id_, count in era.items()))
            before |= era.keys()
        return found

    async def until(self, ids: set[str]) -> None:
        """Wait until all of *ids* have arrived."""
        async with asyncio.timeout(PATIENCE):
            while not ids <= self.bodies.keys():
                self._more.clear()
                await self._more.wait()


class Producers:
    """Tasks that publish events with ids of their own, each one again and again until it is accepted."""

    def __init__(self, daemon: Daemon, *, pad: int = 0) -> None:
        self.accepted: set[str] = set()
        self.published: set[str] = set()  # asked for, whether or not anybody has answered
        self.recovered: set[str] = set()  # stored by a request that got no answer, and told so when asked again
        self.refused: set[int] = set()  # statuses
        self.accepted_at = 0.0  # the last one, in the time of the loop
        self._daemon = daemon
        self._data = "x" * pad
        self._clock = Clock()
        self._next = 0
        self._stopping = False
        self._more = asyncio.Event()

    @asynccontextmanager
    async def running(self, count: int = 16) -> AsyncIterator[None]:
        """*count* of them at work; at the end each is let to finish what it has begun."""
        async with asyncio.TaskGroup() as group:
            for _ in range(count):
                group.create_task(self._produce())
            try:
                yield
            finally:
                self._stopping = True

    async def until(self, count: int) -> None:
        """Wait until *count* more events are accepted."""
        wanted = len(self.accepted) + count
        async with asyncio.timeout(PATIENCE):
            while len(self.accepted) < wanted:
                self._more.clear()
                await self._more.wait()

    async def _produce(self) -> None:
        while not self._stopping:
            self._next += 1
            id_ = f"event-{self._next}"
            self.published.add(id_)
            while not await self._publish(id_):
                await self._daemon.up.wait()
            self.accepted.add(id_)
            self._more.set()

    async def _publish(self, id_: str) -> bool:
        event = {"type": "order.created", "id": id_, "data": {"id": id_, "pad": self._data}}
        asked_at = self._clock.now()
        try:
            answer = await self._daemon.ask("POST", "/v1/events", event)
        except aiohttp.ClientResponseError as refused:
            self.refused.add(refused.status)
            return False
        except (aiohttp.ClientError, ConnectionError):
            return False
        self.accepted_at = asyncio.get_running_loop().time()
        if datetime.fromisoformat(answer["accepted_at"]).timestamp() * 1000 < asked_at:
            self.recovered.add(id_)
        return True


class Verdict(NamedTuple):
    """What became of what was accepted."""

    lost: set[str]  # accepted, and never arrived
    unexpected: set[str]  # arrived, and nobody published it
    altered: set[str]  # arrived again with other bytes
    repeats: list[int]  # in each era the requests whose event had arrived before
    recovered: set[str]


def judge(producers: Producers, arrivals: Arrivals) -> Verdict:
    """The verdict once all has arrived that will."""
    return Verdict(
        lost=producers.accepted.difference(*arrivals.eras),
        unexpected=arrivals.bodies.keys() - producers.published,
        altered={id_ for id_, bodies in arrivals.bodies.items() if len(bodies) > 1},
        repeats=arrivals.repeats(),
        recovered=producers.recovered,
    )


async def tried(daemon: Daemon, method: str, path: str, body: Any = None, *, key: str | None = None) -> Any:
    """The answer, or None where the daemon ends without one."""
    try:
        return await daemon.ask(method, path, body, key=key)
    except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError):
        return None


@contextmanager
def left_by(daemon: Daemon) -> Iterator[sqlite3.Connection]:
    """
    The database of a daemon that was killed, which is found to be whole.

    It is a copy: whoever opens the file itself would do the recovery that is the next start's.
    """
    database = daemon.data / "hooks.db"
    with TemporaryDirectory(dir=daemon.data) as folder:
        copies = [shutil.copy(file, folder) for file in (database, Path(f"{database}-wal")) if file.exists()]
        with closing(sqlite3.connect(copies[0])) as db:
            assert [("ok",)] == db.execute("PRAGMA integrity_check").fetchall()
            assert [] == db.execute("PRAGMA foreign_key_check").fetchall()
            yield db


@asynccontextmanager
async def endpoint(daemon: Daemon, *, delay: float = 0.0, refuses: int = 0) -> AsyncIterator[Arrivals]:
    """An endpoint with a subscription of *daemon* to everything."""
    arrivals = Arrivals(delay=delay, refuses=refuses)
    async with Receiver(arrivals) as receiver:
        await daemon.subscribe(receiver.url, max_concurrency=100, retry_schedule=["1ms"] * 5)
        yield arrivals
