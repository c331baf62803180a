"""
At a steady pace, how long it takes from `publish()` to the first byte at the receiver: the median, and one in a hundred.

Beside it stands what no sender can do without: one request of `bare` and one durable commit, each the only thing in hand.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from itertools import repeat
from statistics import median, quantiles
from typing import TYPE_CHECKING

import aiohttp

from hookengine.bench.bare import post_all
from hookengine.bench.cases import Way
from hookengine.bench.embedded import WIDTH, local_engine, publish_all, recorded
from hookengine.bench.endpoint import endpoint
from hookengine.bench.loopback import HOSTS, site
from hookengine.bench.scenario import DATA, EVENT_TYPE, arguments, print_figures
from hookengine.clock import elapsed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from hookengine.engine import Engine

RATE = 200  # events a second
ALONE = 200  # requests, and commits, that are measured one by one
WARM = 50  # before anything counts: connections are made, and a new subscription has had successes


async def latency(count: int, directory: Path) -> dict[str, float]:
    """The milliseconds of *count* events, and of a request and a commit alone; the receiver is our own, which can tell."""
    async with endpoint(site(directory, HOSTS[:1])) as receiver:
        [url] = receiver.urls[Way.PLAIN]
        posts = await post_alone(url)
        commits = list(commit_alone(directory / "commits.db"))
        async with local_engine(directory) as engine:
            subscription = await engine.subscribe(url, max_concurrency=WIDTH)
            await publish_all(engine, repeat(EVENT_TYPE, WARM))
            await recorded(engine, subscription, WARM)
            await publish_paced(engine, count)
            await recorded(engine, subscription, WARM + count)
        seconds = await receiver.end()
    if len(seconds) != count:
        raise RuntimeError(f"the receiver saw {len(seconds)} of {count} events")
    return {
        "post_ms": median(posts) * 1000,
        "commit_ms": median(commits) * 1000,
        "p50_ms": median(seconds) * 1000,
        "p99_ms": quantiles(seconds, n=100, method="inclusive")[98] * 1000,
    }


async def post_alone(url: str) -> list[float]:
    """The seconds of each of some requests of `bare`, one after the other on one connection."""
    async with aiohttp.ClientSession() as session:
        found = []
        for number in range(WARM + ALONE):
            began = elapsed()
            await post_all(session, [url], iter([number]))
            found.append(elapsed() - began)
    return found[WARM:]


def commit_alone(database: Path) -> Iterator[float]:
    """The seconds of each of some commits of 500 bytes, synced to disk as the engine's are."""
    with closing(sqlite3.connect(database, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("CREATE TABLE events (data BLOB)")
        for _ in range(ALONE):
            began = elapsed()
            db.execute("INSERT INTO events VALUES (?)", (DATA,))
            yield elapsed() - began


async def publish_paced(engine: Engine, count: int) -> None:
    """Publish *count* events, each at its moment, whether or not those before it are accepted."""
    began = elapsed()
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            await asyncio.sleep(max(0.0, began + number / RATE - elapsed()))
            group.create_task(engine.publish(EVENT_TYPE, stamped(elapsed())))


def stamped(at: float) -> bytes:
    """The data of an event that says when it was handed in."""
    return b'{"at":%.6f,"text":"' % at + DATA[len(b'{"at":,"text":"') + len(b"%.6f" % at) :]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the scenario with the flags of *argv*, by default the process's own."""
    options = arguments(__doc__).parse_args(argv)
    print_figures(latency(options.count, options.directory))


if __name__ == "__main__":
    main()
