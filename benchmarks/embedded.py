"""Embedded, end to end: `publish()` in 50 tasks until every delivery is recorded as delivered."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from hookengine import Config, Engine
from scenario import DATA, TASKS, arguments, measure

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

# On the disk of the checkout: a temporary directory may be in memory, where a sync costs nothing.
RESULTS = Path(__file__).parent / "results"
CONFIG = """
[security]
allow_http = true
allow_networks = ["127.0.0.0/8"]
"""
POLL = 0.02  # seconds between two questions whether all is recorded


def config(directory: Path) -> Config:
    """What an engine needs to call loopback over http; the names are those of the configuration file."""
    file = directory / "config.toml"
    file.write_text(CONFIG)
    return Config.load(file, environ={}, flags={})


@asynccontextmanager
async def subscribed(url: str, *, serve: str | None = None) -> AsyncIterator[Engine]:
    """An engine on a new database, with one subscription of *url* to everything."""
    RESULTS.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=RESULTS) as name:
        directory = Path(name)
        async with Engine(directory / "hooks.db", config=config(directory), serve=serve) as engine:
            await engine.subscribe(url, event_types=["*"], max_concurrency=100)
            yield engine


async def recorded(engine: Engine) -> None:
    """Return once no delivery is pending; asks for one row at a time, so that asking costs next to nothing."""
    while (await engine.deliveries(state="pending", limit=1)).data:  # noqa: ASYNC110  # a public query, as users have it
        await asyncio.sleep(POLL)


async def check_delivered(engine: Engine, count: int) -> None:
    """Raise RuntimeError unless the store has *count* deliveries as delivered."""
    page = await engine.deliveries(state="delivered", limit=250)
    delivered = len(page.data)
    while page.next_cursor is not None:
        page = await engine.deliveries(state="delivered", limit=250, cursor=page.next_cursor)
        delivered += len(page.data)
    if delivered != count:
        raise RuntimeError(f"{delivered} of {count} deliveries are recorded as delivered")


async def publish_all(engine: Engine, numbers: Iterator[int]) -> None:
    """Publish one event for each of *numbers*, one after the other."""
    for _ in numbers:
        await engine.publish("order.created", DATA)


async def embedded(url: str, count: int) -> float:
    """The seconds from the first `publish()` to the last recorded delivery."""
    numbers = iter(range(count))
    async with subscribed(url) as engine:
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(TASKS):
                group.create_task(publish_all(engine, numbers))
        await recorded(engine)
        seconds = time.perf_counter() - started
        await check_delivered(engine, count)
    return seconds


if __name__ == "__main__":
    options = arguments(__doc__).parse_args()
    measure(embedded(options.url, options.count), count=options.count)
