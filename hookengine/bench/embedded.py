"""Embedded, end to end: `publish()` in many tasks until every delivery is recorded as delivered."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import cycle, islice
from typing import TYPE_CHECKING

from hookengine.bench.scenario import DATA, EVENT_TYPE, TASKS, arguments, figures, print_figures
from hookengine.clock import cpu_time, elapsed
from hookengine.config import Config
from hookengine.engine import DATABASE, Engine

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
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


async def publish_all(engine: Engine, event_types: Iterator[str]) -> None:
    """Publish one event of each of *event_types*, one after the other."""
    for event_type in event_types:
        await engine.publish(event_type, DATA)


async def deliver(
    engine: Engine, routes: Mapping[str, Sequence[Subscription]], events: int, tasks: int, *, before: int = 0
) -> dict[str, float]:
    """
    What the deliveries of *events* take, from the first `publish()` to the last record.

    Their types are those of *routes* in turn, and each goes to all subscriptions of its type, which have had *before*
    deliveries.
    """
    event_types = list(islice(cycle(routes), events))
    shares = Counter(event_types)
    deliveries = sum(share * len(routes[event_type]) for event_type, share in shares.items())
    waiting = iter(event_types)
    began, cpu = elapsed(), cpu_time()
    async with asyncio.TaskGroup() as group:
        for _ in range(tasks):
            group.create_task(publish_all(engine, waiting))
    for event_type, subscriptions in routes.items():
        for subscription in subscriptions:
            await recorded(engine, subscription, before + shares[event_type])
    return figures(deliveries, began, cpu)


async def embedded(
    urls: Sequence[str], count: int, directory: Path, *, tasks: int = TASKS, subscriptions: int = 1
) -> dict[str, float]:
    """What *count* deliveries to *urls* take: each has an event type of its own, and *subscriptions* that get all of it."""
    routes: dict[str, list[Subscription]] = {}
    async with local_engine(directory) as engine:
        for number, url in enumerate(urls):
            wanted = f"{EVENT_TYPE}.{number}"
            routes[wanted] = [
                await engine.subscribe(url, event_types=[wanted], max_concurrency=WIDTH) for _ in range(subscriptions)
            ]
        return await deliver(engine, routes, max(1, count // subscriptions), tasks)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the scenario with the flags of *argv*, by default the process's own."""
    parser = arguments(__doc__, urls="+")
    parser.add_argument("--tasks", type=int, default=TASKS, help="that publish at the same time")
    parser.add_argument("--subscriptions", type=int, default=1, help="of each URL; --count is of deliveries")
    options = parser.parse_args(argv)
    flags = {"tasks": options.tasks, "subscriptions": options.subscriptions}
    print_figures(embedded(options.url, options.count, options.directory, **flags))


if __name__ == "__main__":
    main()
