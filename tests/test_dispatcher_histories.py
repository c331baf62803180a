"""Histories of a real engine, drawn at random: whatever comes together, each delivery ends, once, and in its order."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter, defaultdict
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from engines import Journal, blocked_reader, engine, limit_pages, rows
from patience import PATIENCE

from hookengine.errors import HookEngineError
from hookengine.receiver import Received, Receiver
from hookengine.store import changes, upkeep

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

STEPS = 80
KEYS = 3
SUBSCRIPTIONS: dict[str, dict[str, Any]] = {
    "batches": {"profile": "clevertap", "batch": {"max_events": 3, "max_wait": "5ms"}, "max_concurrency": 2},
    "fifo": {"ordering": "fifo", "max_concurrency": 3},
    "changing": {"profile": "clevertap", "max_concurrency": 2},
}
EDITS: tuple[dict[str, Any], ...] = (
    {"batch": {"max_events": 2, "max_wait": "0ms"}, "ordering": "none"},
    {"batch": {"max_events": 4, "max_wait": "20ms"}, "ordering": "none"},
    {"batch": {"max_events": 1}, "ordering": "none"},
    {"batch": {"max_events": 1}, "ordering": "fifo"},
    {"rate_limit": "100/s"},
    {"rate_limit": None},
    {"max_concurrency": 1},
    {"max_concurrency": 3},
)
BY_HAND = (
    (changes.cancel_delivery,),
    (changes.retry_delivery,),
    (changes.cancel_delivery, changes.retry_delivery),
    (changes.retry_delivery, changes.cancel_delivery),
    (changes.cancel_delivery, changes.retry_delivery) * 2,
)

# What is wrong with the rows, at whatever moment: who leads a batch and a line, and who nobody would ever come to.
BATCHES_WITHOUT_ONE_HEAD = """
    SELECT batch, sum(place = 0), count(*) FROM deliveries WHERE state = 'pending' AND batch IS NOT NULL
    GROUP BY batch HAVING sum(place = 0) <> 1 OR sum(place = 1) <> 0"""
LINES_NOT_LED_BY_THEIR_FIRST = """
    SELECT subscription, line, seq, place FROM (
        SELECT *, min(turn) OVER (PARTITION BY subscription, line) AS first FROM deliveries
        WHERE state = 'pending' AND line IS NOT NULL)
    WHERE (turn = first) <> (place = 0)"""
FORGOTTEN = "SELECT seq FROM deliveries WHERE state = 'pending' AND place = 2 AND batch IS NULL AND line IS NULL"

# By subscription: deliveries that came through, with the number of attempts that did, and the events of these attempts.
CAME_THROUGH = """
    SELECT d.id, count(a.seq) FROM deliveries AS d JOIN subscriptions AS s ON s.seq = d.subscription
    LEFT JOIN attempts AS a ON a.delivery = d.seq AND a.outcome = 'accepted'
    WHERE s.id = ? AND (d.state = 'delivered' OR a.seq IS NOT NULL) GROUP BY d.seq"""
ACCEPTED = """
    SELECT json_extract(CAST(e.data AS TEXT), '$.n'), count(*) FROM attempts AS a
    JOIN deliveries AS d ON d.seq = a.delivery JOIN events AS e ON e.seq = d.event
    JOIN subscriptions AS s ON s.seq = d.subscription WHERE s.id = ? AND a.outcome = 'accepted' GROUP BY 1"""
MADE_ONCE = """
    SELECT json_extract(CAST(e.data AS TEXT), '$.n'), min(d.id) FROM deliveries AS d JOIN events AS e ON e.seq = d.event
    JOIN subscriptions AS s ON s.seq = d.subscription WHERE s.id = ? GROUP BY d.event HAVING count(*) = 1"""


class Endpoint:
    """What the requests of one subscription meet."""

    def __init__(self, rng: random.Random) -> None:
        self.arrived: list[int] = []  # the `n` of the events, in the order of their requests
        self.accepted: Counter[int] = Counter()  # of those that were answered 200
        self.together = False  # whether two requests of one ordering key were here at a time
        self.fails = True  # now and then
        self.forget()
        self._rng = rng

    def forget(self) -> None:
        """What is here was cut: nobody waits for it."""
        self._present: Counter[int] = Counter()

    async def __call__(self, request: Received) -> int:
        """The status that this request is answered with, some time later."""
        found, present = numbers(request), self._present
        self.arrived += found
        for n in found:
            present[n % KEYS] += 1
            self.together = self.together or present[n % KEYS] > 1
        try:
            for _ in range(self._rng.choice((0, 1, 5, 20, 80, 200))):
                await asyncio.sleep(0)
            if found and self.fails and self._rng.random() < 0.35:
                return 500
            self.accepted.update(found)
            return 200
        finally:
            present.subtract(n % KEYS for n in found)


def numbers(request: Received) -> list[int]:
    """The `n` of the events in a request; none in a save-time test."""
    body = json.loads(request.body)
    if "profiles" not in body:
        return [body["data"]["n"]]
    return [each["n"] for each in body["profiles"] if "n" in each]


class History:
    """An engine with a small window, and what befalls it."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.folder = folder
        self.journal = Journal()
        self.endpoints = {name: Endpoint(self.rng) for name in SUBSCRIPTIONS}
        self.subscriptions: dict[str, str] = {}  # their ids
        self.by_hand: set[str] = set()  # deliveries that were cancelled or retried
        self.cut = False
        self._count = 0
        self._steps: dict[Callable[[], Awaitable[object]], int] = {
            self.publish: 14,
            self.change_one: 12,
            self.flap: 3,
            self.edit: 3,
            self.replay_event: 2,
            self.replay: 1,
            self.upkeep: 3,
            self.restart: 1,
            self.block_reader: 3,
            self.fill_disk: 1,
        }

    async def start(self) -> None:
        """With a small window, and few slots."""
        self.engine = engine(self.folder, self.journal, queue_size=10, concurrency=6)
        await self.engine.start()

    async def step(self) -> None:
        """Let something happen, and some time pass."""
        [act] = self.rng.choices(list(self._steps), list(self._steps.values()))
        with suppress(HookEngineError):
            await act()
        for _ in range(self.rng.choice((0, 0, 1, 5, 30))):
            await asyncio.sleep(0)
        self.check_rows()

    async def publish(self) -> None:
        """Some events, some of them for later, or only for a while."""
        now = datetime.now(UTC)
        await self.engine.publish_batch([self._event(now) for _ in range(self.rng.randint(1, 6))])

    def _event(self, now: datetime) -> dict[str, Any]:
        n, self._count = self._count, self._count + 1
        event: dict[str, Any] = {"type": "a", "data": {"n": n}, "ordering_key": str(n % KEYS)}
        if self.rng.random() < 0.2:
            event["priority"] = self.rng.choice(("high", "low"))
        if self.rng.random() < 0.15:
            event["deliver_at"] = (now + timedelta(milliseconds=self.rng.randint(1, 40))).isoformat()
        if self.rng.random() < 0.15:
            event["expires_at"] = (now + timedelta(milliseconds=self.rng.randint(45, 90))).isoformat()
        return event

    async def change_one(self) -> None:
        """Somebody cancels or retries a delivery, or both, in flight or not."""
        which = self.rng.choice(("'pending' AND place = 0", "'pending' AND place <> 0", "'failed'", "'cancelled'"))
        found = rows(self.folder, f"SELECT id FROM deliveries WHERE state = {which} ORDER BY seq LIMIT 20")  # ours
        if not found:
            return
        [id_] = self.rng.choice(found)
        self.by_hand.add(id_)
        for change in self.rng.choice(BY_HAND):
            with suppress(HookEngineError):
                await self.engine._running.store.writer.change(change(id_, None))

    async def flap(self) -> None:
        """A subscription is disabled and enabled."""
        id_ = self.rng.choice(list(self.subscriptions.values()))
        await self.engine.disable(id_)
        for _ in range(self.rng.choice((0, 3))):
            await self.publish()
        await self.engine.enable(id_)

    async def edit(self) -> None:
        """Other settings."""
        await self.engine.update_subscription(self.subscriptions["changing"], **self.rng.choice(EDITS))

    async def replay_event(self) -> None:
        """One event again."""
        if found := rows(self.folder, "SELECT id FROM events ORDER BY seq DESC LIMIT 10"):
            await self.engine.replay_event(self.rng.choice(found)[0])

    async def replay(self) -> None:
        """What was given up again."""
        await self.engine.replay(self.rng.choice(list(self.subscriptions.values())), states=["failed", "cancelled"])

    async def upkeep(self) -> None:
        """Its steps, out of turn."""
        for change in (upkeep.expire, upkeep.bring_forward):
            await self.engine._running.store.writer.change(change)

    async def restart(self) -> None:
        """A stop that waits for nothing, and a start."""
        self.cut = True
        await self.engine.stop(drain=0)
        for endpoint in self.endpoints.values():
            endpoint.forget()
        await self.start()

    async def block_reader(self) -> None:
        """Between taking and reading somebody changes something."""
        async with blocked_reader(self.engine):
            for _ in range(3):
                await self.publish()
                await self.change_one()

    async def fill_disk(self) -> None:
        """For a moment nothing can be stored."""
        await limit_pages(self.engine, 0)
        for _ in range(3):
            with suppress(HookEngineError):
                await self.publish()
        await limit_pages(self.engine, None)

    def check_rows(self) -> None:
        """Of what waits, somebody leads, and the right one."""
        for statement in (BATCHES_WITHOUT_ONE_HEAD, LINES_NOT_LED_BY_THEIR_FIRST, FORGOTTEN):
            assert [] == rows(self.folder, statement)

    async def end(self) -> None:
        """Let everything come to its end, where nothing stands in its way any more."""
        for name, id_ in self.subscriptions.items():
            self.endpoints[name].fails = False
            await self.engine.enable(id_)
        await self.engine.update_subscription(self.subscriptions["changing"], rate_limit=None)
        async with asyncio.timeout(PATIENCE):
            while rows(self.folder, "SELECT 1 FROM deliveries WHERE state = 'pending' LIMIT 1"):
                await self.upkeep()
            while self.engine._running.dispatcher.in_flight:
                await self.upkeep()

    def check_subscription(self, name: str) -> None:
        """What was recorded is what arrived, and nothing came through twice unless somebody wanted it."""
        id_, endpoint = self.subscriptions[name], self.endpoints[name]
        for delivery, times in rows(self.folder, CAME_THROUGH, id_):
            assert times == 1 or (times > 1 and delivery in self.by_hand)
        recorded = Counter(dict(rows(self.folder, ACCEPTED, id_)))
        assert recorded == endpoint.accepted if not self.cut else recorded <= endpoint.accepted

    def check_order(self) -> None:
        """One at a time, and at first in the order of acceptance, but for what was changed by hand or replayed."""
        endpoint = self.endpoints["fifo"]
        plain = {n for n, id_ in rows(self.folder, MADE_ONCE, self.subscriptions["fifo"]) if id_ not in self.by_hand}
        lines: defaultdict[int, list[int]] = defaultdict(list)
        for n in dict.fromkeys(endpoint.arrived):
            if n in plain:
                lines[n % KEYS].append(n)

        assert not endpoint.together
        assert {key: sorted(line) for key, line in lines.items()} == lines


@pytest.mark.parametrize("seed", [0, 5, 6, 10])  # each found something once
async def test_history(tmp_path: Path, seed: int) -> None:
    """Whatever users, endpoints, disks and stops do to each other, nothing is lost, doubled or out of order."""
    history = History(tmp_path, seed)
    async with AsyncExitStack() as stack:
        await history.start()
        for name, settings in SUBSCRIPTIONS.items():
            receiver = await stack.enter_async_context(Receiver(history.endpoints[name]))
            made = await history.engine.subscribe(receiver.url, retry_schedule=["3ms", "10ms", "30ms"], **settings)
            history.subscriptions[name] = made.id
        try:
            for _ in range(STEPS):
                await history.step()
            await history.end()
        finally:
            await history.engine.stop(drain=0)

    history.check_rows()
    for name in SUBSCRIPTIONS:
        history.check_subscription(name)
    history.check_order()
    assert [] == history.journal.all("fault")
