"""What waiting deliveries cost the others: how long the engine takes to start, and what it delivers then."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from importlib.resources import files
from typing import TYPE_CHECKING

from hookengine.bench.embedded import WIDTH, deliver, local_engine
from hookengine.bench.scenario import EVENT_TYPE, TASKS, arguments, print_figures
from hookengine.clock import Clock, elapsed
from hookengine.engine import DATABASE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

HOUR = 3_600_000  # ms
STARTS = 3  # of which the quickest counts: others use the machine, too
WARM = 200  # deliveries before anything counts: what is loaded late is there, and the subscription has had successes
_STATEMENTS = (files(__package__) / "backlog.sql").read_text(encoding="utf-8").split(";\n")


def fill(database: Path, subscription: str, count: int, *, due_at: int, accepted_at: int) -> None:
    """
    Put *count* events of 500 bytes, with a delivery each, into a database that no engine has open.

    They are due from *due_at* on, one each millisecond (ms since the epoch).
    """
    values = {"count": count, "subscription": subscription, "due_at": due_at, "accepted_at": accepted_at}
    with closing(sqlite3.connect(database)) as db, db:
        events, deliveries = (
            db.execute(f"SELECT coalesce(max(seq), 0) FROM {t}").fetchone()[0] for t in ("events", "deliveries")
        )
        for statement in _STATEMENTS:
            db.execute(statement, values | {"events": events, "deliveries": deliveries})


async def start_seconds(directory: Path) -> float:
    """How long an engine takes to be ready."""
    found = []
    for _ in range(STARTS):
        engine = local_engine(directory)
        began = elapsed()
        await engine.start()
        found.append(elapsed() - began)
        await engine.stop()
    return min(found)


async def backlog(url: str, count: int, directory: Path, *, waiting: int) -> dict[str, float]:
    """What a start, and *count* deliveries, take without a backlog and then beside *waiting* ones of another subscription."""
    async with local_engine(directory) as engine:
        up = await engine.subscribe(url, max_concurrency=WIDTH)
        down = await engine.subscribe(url, event_types=["backlog.*"])
        await deliver(engine, {EVENT_TYPE: [up]}, WARM, TASKS)
    empty_start = await start_seconds(directory)
    async with local_engine(directory) as engine:
        empty = await deliver(engine, {EVENT_TYPE: [up]}, count, TASKS, before=WARM)
    if waiting:
        now = Clock().now()
        fill(directory / DATABASE, down.id, waiting, due_at=now + HOUR, accepted_at=now - HOUR)
    start = await start_seconds(directory)
    async with local_engine(directory) as engine:
        full = await deliver(engine, {EVENT_TYPE: [up]}, count, TASKS, before=WARM + count)
    return full | {"empty_rate": empty["rate"], "empty_ms": empty_start * 1000, "ready_ms": start * 1000}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the scenario with the flags of *argv*, by default the process's own."""
    parser = arguments(__doc__)
    parser.add_argument("--waiting", type=int, default=200_000, help="deliveries that wait")
    options = parser.parse_args(argv)
    [url] = options.url
    print_figures(backlog(url, options.count, options.directory, waiting=options.waiting))


if __name__ == "__main__":
    main()
