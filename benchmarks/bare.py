"""The yardstick: signed requests over an aiohttp ClientSession, without a store and without a queue."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import time
from typing import TYPE_CHECKING

import aiohttp

from scenario import DATA, TASKS, arguments, measure

if TYPE_CHECKING:
    from collections.abc import Iterator

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


async def post_all(session: aiohttp.ClientSession, url: str, numbers: Iterator[int]) -> None:
    """Post one request for each of *numbers*, one after the other."""
    for number in numbers:
        headers = signed(f"evt_{number:032x}", str(int(time.time())), DATA)
        async with session.post(url, data=DATA, headers=headers) as response:
            await response.read()
            if response.status != 204:
                raise RuntimeError(f"the receiver answered {response.status}")


async def bare(url: str, count: int) -> float:
    """The seconds that *count* requests take in 50 tasks."""
    numbers = iter(range(count))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(TASKS):
                group.create_task(post_all(session, url, numbers))
        return time.perf_counter() - started


if __name__ == "__main__":
    options = arguments(__doc__).parse_args()
    measure(bare(options.url, options.count), count=options.count)
