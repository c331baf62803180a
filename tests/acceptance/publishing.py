"""An engine at work, which tells the recorder of disk.c of everything that it was answered."""

from __future__ import annotations

import asyncio
import ctypes
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from host import CONFIG
from msgspec.structs import replace

from hookengine.config import Store
from hookengine.engine import DATABASE, Engine
from hookengine.errors import EventExists, StorageFailed, StorageUnavailable
from hookengine.receiver import Receiver, Reply

if TYPE_CHECKING:
    from collections.abc import Iterator


def main() -> None:
    """The whole program: so many events into the engine in a folder, by so many tasks, started so many times."""
    folder, synchronous, *numbers = sys.argv[1:]
    try:
        asyncio.run(_work(Path(folder), synchronous, *map(int, numbers)))
    except StorageFailed as failed:
        sys.exit(failed.exit_status)


async def _work(folder: Path, synchronous: str, events: int, tasks: int, starts: int) -> None:
    config = replace(CONFIG, store=Store(synchronous=synchronous))  # type: ignore[arg-type]  # given as a text
    async with Receiver(lambda request: Reply(status=503 if request.number % 10 == 0 else 200)) as receiver:
        for start in range(starts):
            numbers = iter(range(events * start, events * (start + 1)))
            async with Engine(folder / DATABASE, config=config) as engine:
                if start == 0:
                    made = await engine.subscribe(receiver.url, max_concurrency=10, retry_schedule=["1ms"] * 5)
                    _mark(f"subscription {made.id}")
                await asyncio.gather(*(_publish(engine, numbers) for _ in range(tasks)))


async def _publish(engine: Engine, numbers: Iterator[int]) -> None:
    for number in numbers:
        size = 6_000 if number % 25 == 0 else 100
        while not await _accepted(engine, f"event-{number}", {"n": number, "pad": "x" * size}):
            pass
        _mark(f"event event-{number}")


async def _accepted(engine: Engine, id_: str, data: object) -> bool:
    try:
        await engine.publish("order.created", data, id=id_)
    except StorageUnavailable:
        return False
    except EventExists:  # what was refused may be there all the same
        pass
    return True


def _mark(text: str) -> None:
    ctypes.CDLL(None).disk_mark(text.encode())
