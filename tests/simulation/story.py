"""One seed's story: lives of the engine with what is done in them, their ends, and a last one in which all comes to rest."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from actions import Actions
from simulated import World

from hookengine.engine import DATABASE

if TYPE_CHECKING:
    from pathlib import Path

    from internet import Arrival

KINDS = [
    *(["publish"] * 9 + ["publish_batch"] * 3 + ["mood"] * 6 + ["subscribe", "enable", "cancel", "retry"] * 2),
    *("repeat", "disable", "edit", "rotate", "delete", "replay_event", "replay", "name", "jump"),
]
REST = 21_600.0  # s between two looks whether all has come to rest
LONGEST = (
    5 * 86_400.0
)  # s until all has come to rest: a `deliver_at` ahead, a lookup that fails, and the longest delays after it


@dataclass(frozen=True)
class End:
    """How a life ended."""

    life: int
    kind: str  # stop, kill, cancel
    at: float


class Story:
    """What one seed tells."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed = seed
        self.world = World(seed, folder)
        self.actions = Actions(self.world)
        self.ends: list[End] = []
        self.rested = False
        self.deliveries: list[dict[str, Any]] = []
        self.attempts: list[dict[str, Any]] = []
        self.events: set[int] = set()  # the numbers of those that are in the file
        self.intact: list[str] = []  # what SQLite says of the file
        self._rng = self.world.rng_of("story")
        self._started = False
        self.world.internet.heard = self.world.step

    @property
    def arrivals(self) -> list[Arrival]:
        """Every request that came to an endpoint."""
        return self.world.internet.arrivals

    def digest(self) -> str:
        """Of all requests with their times, and all that was logged: the same in every run of the seed."""
        told = [
            (repr(each.at), each.life, each.endpoint.address, each.method, each.path, each.headers, each.body, each.status)
            for each in self.arrivals
        ]
        return hashlib.sha256(repr((told, self.world.lines)).encode()).hexdigest()

    def __str__(self) -> str:
        """All that happened, in order."""
        told = [(each.at, f"      {each.endpoint.address} gets {each.body.decode()}: {each.status}") for each in self.arrivals]
        told += [
            (at, f"  {line.pop('event')} {line}") for at, _, line in [(at, n, dict(line)) for at, n, line in self.world.lines]
        ]
        told += [(at, f"{what}") for at, what in self.actions.done]
        told += [(end.at, f"the end of life {end.life}: {end.kind}") for end in self.ends]
        return "\n".join(f"{at:14.3f} {what}" for at, what in sorted(told, key=lambda each: each[0]))

    def tell(self) -> None:
        """Live all lives."""
        for _ in range(self._rng.choice((0, 1, 1, 2, 2))):
            self._live(self._rng.choice(("stop", "stop", "kill", "kill", "cancel")))
        self._live("stop", last=True)
        self._read()

    def _live(self, kind: str, *, last: bool = False) -> None:
        world, rng = self.world, self._rng
        count, steps = rng.randint(4, 10), 0
        if kind != "stop":
            steps = rng.randint(1, 60) if rng.random() < 0.1 else rng.randint(40, 900)

        async def work() -> None:
            if not self._started:
                for _ in range(rng.randint(2, 4)):
                    await self.actions.subscribe()
                self._started = True
            await self.actions.resume()
            await self.actions.some(count, KINDS)
            if last:
                await self._rest()
                await self.actions.look()
            elif kind != "stop":  # it has not ended yet: so it does amid the next things
                world.steps = rng.randint(1, 60)
                await self.actions.publish_batch()
                await self.actions.publish()
                await world.loop.passing(rng.choice((1.0, 100.0, 10_000.0)))
            else:
                await self.actions.look()
            await world.engine.stop(drain=0 if rng.random() < 0.2 else rng.uniform(0.0, 25.0))

        with world.alive():
            world.steps, world.ending = steps, kind
            world.run(work)
            self.ends.append(End(world.life, kind if world.dead else "stop", world.loop.time()))
        world.now += rng.choice((0.1, 30.0, 3_600.0, 40_000.0))

    async def _rest(self) -> None:
        await self.actions.heal()
        for _ in range(int(LONGEST / REST)):  # also where the wall clock was set back
            await self.world.loop.passing(REST)
            await self.actions.heal()  # those that failed in flight while everything was healed
            if not (await self.world.engine.deliveries(state="pending", limit=1)).data and not await self._held():
                self.rested = True
                return

    async def _held(self) -> list[Any]:
        return (await self.world.engine.deliveries(state="held", limit=1)).data

    def _read(self) -> None:
        with closing(sqlite3.connect(self.world.folder / DATABASE)) as db:
            db.row_factory = sqlite3.Row
            self.deliveries = [dict(row) for row in db.execute(_DELIVERIES)]
            self.attempts = [dict(row) for row in db.execute(_ATTEMPTS)]
            self.events = {row[0] for row in db.execute("SELECT json_extract(CAST(data AS TEXT), '$.n') FROM events")}
            self.intact = [row[0] for row in db.execute("PRAGMA integrity_check")]


_DELIVERIES = """
SELECT d.seq, d.id, s.id AS sub, json_extract(CAST(e.data AS TEXT), '$.n') AS n, d.state, d.attempt_count, d.created_at,
       d.finished_at, d.expires_at, d.failed_label
FROM deliveries AS d JOIN events AS e ON e.seq = d.event JOIN subscriptions AS s ON s.seq = d.subscription ORDER BY d.seq
"""
_ATTEMPTS = "SELECT seq, delivery, number, at, duration, trigger, outcome, status_code, error_code FROM attempts ORDER BY seq"
