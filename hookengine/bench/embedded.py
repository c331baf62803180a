"""Embedded, end to end: `publish()` in many tasks until every delivery is recorded as delivered."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hookengine.bench.scenario import DATA, TASKS, arguments, figures, print_figures
from hookengine.clock import cpu_time, elapsed
from hookengine.config import Config
from hookengine.engine import DATABASE, Engine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from hookengine.views import Subscription

WIDTH = 100  # requests at the same time that the endpoint admits
POLL = 0.02  # seconds between two questions whether all is recorded


def local_engine(directory: Path, *, serve: str | None = None) -> Engine:
    """An engine, not started, with its database in *directory*, that may call loopback over http."""
    flags = {"security.allow_http": True, "security.allow_networks": ["127.0.0.0/8"]}
    return Engine(directory / DATABASE, config=Config.load(environ={}, flags=flags), serve=serve)


async def recorded(engine: Engine, subscription: Subscription, count: int) -> None:
    """
    Return once *count* deliveries of *subscription* are recorded as delivered; raises RuntimeError if one failed.

    What is asked for is counted by the transaction that records a delivery: the answer is exact, and costs next to nothing.
    """
    while True:
        deliveries = (await engine.stats(subscription.id)).deliveries
        if deliveries.failed or deliveries.delivered > count:
            raise RuntimeError(f"of {count} deliveries {deliveries.delivered} arrived and {deliveries.failed} failed")
        if deliveries.delivered == count:
            return
        await asyncio.sleep(POLL)


async def publish_all(engine: Engine, numbers: Iterator[int]) -> None:
    """Publish one event for each of *numbers*, one after the other."""
    for _ in numbers:
        await engine.publish("order.created", DATA)


async def deliver(
    engine: Engine, subscriptions: Sequence[Subscription], events: int, tasks: int, *, before: int = 0
) -> dict[str, float]:
    """
    What the deliveries of *events* to each of *subscriptions* take, from the first `publish()` to the last record.

    Each subscription has had *before* deliveries.
    """
    numbers = iter(range(events))
    began, cpu = elapsed(), cpu_time()
    async with asyncio.TaskGroup() as group:
        for _ in range(tasks):
            group.create_task(publish_all(engine, numbers))
    for subscription in subscriptions:
        await recorded(engine, subscription, before + events)
    return figures(events * len(subscriptions), began, cpu)


async def embedded(url: str, count: int, directory: Path, *, tasks: int = TASKS, subscriptions: int = 1) -> dict[str, float]:
    """What *count* deliveries take, spread over *subscriptions*, each of which gets every event."""
    async with local_engine(directory) as engine:
        made = [await engine.subscribe(url, max_concurrency=WIDTH) for _ in range(subscriptions)]
        return await deliver(engine, made, max(1, count // subscriptions), tasks)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the scenario with the flags of *argv*, by default the process's own."""
    parser = arguments(__doc__)
    parser.add_argument("--tasks", type=int, default=TASKS, help="that publish at the same time")
    parser.add_argument("--subscriptions", type=int, default=1, help="that get every event; --count is of deliveries")
    options = parser.parse_args(argv)
    flags = {"tasks": options.tasks, "subscriptions": options.subscriptions}
    print_figures(embedded(options.url, options.count, options.directory, **flags))


if __name__ == "__main__":
    main()
