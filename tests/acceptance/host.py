"""A program that an engine lives in: it publishes, says what was accepted, and ends in the way that it is told."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import NoReturn

from hookengine.config import Config, Delivery, Security
from hookengine.engine import DATABASE, Engine

CONFIG = Config(
    security=Security(allow_http=True, allow_networks=("127.0.0.0/8",)),  # type: ignore[arg-type]  # given as texts
    delivery=Delivery(concurrency=8),
)


def main() -> None:
    """The whole program."""
    folder, url, way = sys.argv[1:]
    engine = Engine(Path(folder) / DATABASE, config=CONFIG)
    asyncio.run(_wait(engine) if way == "waits" else _publish(engine, url, way))


async def _publish(engine: Engine, url: str, way: str) -> NoReturn:
    await engine.start()
    await engine.subscribe(url, max_concurrency=100)
    loop = asyncio.get_running_loop()
    for number in range(1_000_000):
        event = await engine.publish("order.created", {"n": number})
        os.write(2, f"accepted {event.id}\n".encode())
        if number == 30:
            match way:
                case "exits":
                    os._exit(3)
                case "raises":
                    raise RuntimeError("a fault of the host")
                case _:
                    loop.stop()
    raise AssertionError


async def _wait(engine: Engine) -> None:
    async with engine:
        while (await engine.deliveries(state="pending", limit=1)).data:
            pass
