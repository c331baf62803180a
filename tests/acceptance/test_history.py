"""What finished deliveries cost those who ask for pages beside them: nothing, however they ask."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import AsyncExitStack, closing
from typing import TYPE_CHECKING

import pytest
from daemon import Daemon
from patience import PATIENCE

from hookengine.clock import Clock
from hookengine.engine import DATABASE
from hookengine.receiver import Receiver

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.alone

HISTORY = int(os.environ.get("HISTORY", "100000"))  # deliveries; `make soak` has more
FRESH = 1_000
TURNS = 11
AS_FAST = 2  # the goal is 1 / 0.9; a walk through all rows takes ten times as long and more
DAY = 86_400_000
RARE = 1_000  # one in so many is of another tenant, type and subscription, and failed

_FILL = """
WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < :count)
INSERT INTO events (seq, id, tenant, type, data, accepted_at, occurred_at, deliveries)
SELECT :seq + n, 'evt-' || n, iif(n % :rare, 'default', 'rare'), iif(n % :rare, 'order.created', 'rare'),
       CAST(printf('{"text":"%0100d"}', n) AS BLOB), :from + n * :span / :count, :from, 1
FROM n;

WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < :count)
INSERT INTO deliveries (seq, id, event, subscription, state, priority, due_at, attempt_count, created_at, finished_at)
SELECT :seq + n, 'dlv-' || n, :seq + n, iif(n % :rare, 1, 2), iif(n % :rare, 'delivered', 'failed'), 1, :from, 1,
       :from + n * :span / :count, :from + n * :span / :count
FROM n;

WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < :count)
INSERT INTO attempts (delivery, number, at, duration, trigger, outcome, status_code)
SELECT :seq + n, 1, :from, 9, 'auto', 'accepted', 200 FROM n
"""


def fill(database: Path, count: int) -> None:
    """Put *count* deliveries that have finished in the last 20 days into a database that no engine has open."""
    now = Clock().now()
    with closing(sqlite3.connect(database)) as db, db:
        (seq,) = db.execute("SELECT max(seq) FROM events").fetchone()
        for statement in _FILL.split(";\n"):
            values = {"count": count, "seq": seq, "from": now - 20 * DAY, "span": 19 * DAY, "rare": RARE * count // HISTORY}
            db.execute(statement, {name: each for name, each in values.items() if f":{name}" in statement})


async def test_history_slows_no_list_down(tmp_path: Path) -> None:
    """Every filter gives its page as fast as with a hundredth of the history, and so are metrics."""
    async with AsyncExitStack() as stack:
        receiver = await stack.enter_async_context(Receiver())
        both = []
        for count in (FRESH, HISTORY):
            (folder := tmp_path / str(count)).mkdir()
            daemon = await stack.enter_async_context(Daemon(folder))
            await daemon.subscribe(receiver.url, event_types=["order.created"])
            rare = await daemon.subscribe(receiver.url, tenant="rare")
            await daemon.ask("POST", "/v1/events", {"type": "order.created", "data": 1})
            await daemon.idle()
            await daemon.stop()
            fill(daemon.data / DATABASE, count)
            await daemon.start()
            both.append((daemon, rare))
        await spanned(both[1][0])
        slower = {}
        for path in paths():
            found: list[list[float]] = [[], []]
            for _ in range(TURNS):
                for (daemon, rare), times in zip(both, found, strict=True):
                    times.append(await seconds(daemon, path.replace("RARE", rare)))
            slower[path] = min(found[1]) / min(found[0])  # what is longer, others have made so

    print(", ".join(f"{path} {ratio:.2f}" for path, ratio in slower.items()))  # noqa: T201  # shown with -s
    assert {} == {path: ratio for path, ratio in slower.items() if ratio > AS_FAST}


def paths() -> list[str]:
    """What is asked for."""
    now = Clock().now()
    times = ("", f"&until={stamp(now - 15 * DAY)}", f"&since={stamp(now - 15 * DAY)}&until={stamp(now - 14 * DAY)}")
    deliveries = ("", "&state=failed", "&state=pending", "&tenant=rare", "&tenant=nobody", "&subscription=RARE")
    events = ("", "&type=rare", "&type=none", "&tenant=rare", "&tenant=nobody")
    return [
        "/metrics",
        *(f"/v1/deliveries?limit=3{filters}{time}" for filters in deliveries for time in times),
        *(f"/v1/events?limit=3{filters}{time}" for filters in events for time in times),
    ]


def stamp(time: int) -> str:
    """A time as a query has it."""
    with closing(sqlite3.connect(":memory:")) as db:
        found: str = db.execute("SELECT strftime('%Y-%m-%dT%H:%M:%SZ', ? / 1000, 'unixepoch')", (time,)).fetchone()[0]
        return found


async def seconds(daemon: Daemon, path: str) -> float:
    """How long an answer takes."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    if path == "/metrics":
        await daemon.metric("hookengine_paused")
    else:
        await daemon.ask("GET", path)
    return loop.time() - begun


async def spanned(daemon: Daemon) -> None:
    """Wait until upkeep has looked at all rows."""
    async with asyncio.timeout(PATIENCE + HISTORY / 1_000):
        with closing(sqlite3.connect(daemon.data / DATABASE)) as db:
            while db.execute("SELECT count(*) FROM spans").fetchone()[0] < 2 * (HISTORY // 5_000):
                await daemon.ask("GET", "/v1/events?limit=1")
