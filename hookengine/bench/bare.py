"""The yardstick: signed requests over an aiohttp ClientSession, without a store and without a queue."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
from typing import TYPE_CHECKING

import aiohttp

from hookengine.bench.scenario import DATA, TASKS, arguments, figures, print_figures
from hookengine.clock import Clock, cpu_time, elapsed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

KEY = b"k" * 32


def signed(event_id: str, timestamp: str, body: bytes) -> dict[str, str]:
    """The headers of Standard Webhooks."""
    digest = hmac.digest(KEY, f"{event_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return {
        "content-type": "application/json",
        "webhook-id": event_id,
        "webhook-timestamp": timestamp,
        "webhook-signature": "v1," + base64.b64encode(digest).decode(),
    }


async def post_all(session: aiohttp.ClientSession, urls: Sequence[str], numbers: Iterator[int]) -> None:
    """Post one request for each of *numbers*, one after the other, to *urls* in turn."""
    clock = Clock()
    for number in numbers:
        headers = signed(f"evt_{number:032x}", str(clock.now() // 1000), DATA)
        async with session.post(urls[number % len(urls)], data=DATA, headers=headers) as response:
            await response.read()
            if response.status != 204:
                raise RuntimeError(f"the receiver answered {response.status}")


async def bare(urls: Sequence[str], count: int, *, tasks: int = TASKS) -> dict[str, float]:
    """What *count* requests to *urls* take in *tasks* tasks."""
    numbers = iter(range(count))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        began, cpu = elapsed(), cpu_time()
        async with asyncio.TaskGroup() as group:
            for _ in range(tasks):
                group.create_task(post_all(session, urls, numbers))
        return figures(count, began, cpu)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the scenario with the flags of *argv*, by default the process's own."""
    parser = arguments(__doc__, urls="+")
    parser.add_argument("--tasks", type=int, default=TASKS, help="that post at the same time")
    options = parser.parse_args(argv)
    print_figures(bare(options.url, options.count, tasks=options.tasks))


if __name__ == "__main__":
    main()
