"""A daemon that works for long: nothing grows, nothing slows down."""

from __future__ import annotations

import asyncio
import os
from statistics import median
from typing import TYPE_CHECKING

import pytest
from daemon import Daemon
from patience import PATIENCE

from hookengine.receiver import Received, Receiver

if TYPE_CHECKING:
    from pathlib import Path

    from launcher import Launcher

pytestmark = pytest.mark.alone

SECONDS = int(os.environ.get("SOAK", "6"))  # `make soak` has an hour, a release a day
RATE, TICKS = 200, 10  # events, and times that some are sent, a second
MIB = 1 << 20


class Delays:
    """How long the last of those sent together took to arrive at one endpoint; a step of a receiver's script."""

    def __init__(self) -> None:
        self.found: dict[float, float] = {}  # by when they were sent
        self._sent: dict[bytes, float] = {}
        self._loop = asyncio.get_running_loop()
        self._none_waits = asyncio.Event()

    def __call__(self, request: Received) -> int:
        """Success, but for one path."""
        if request.path == "/0":
            sent_at = self._sent.pop(request.body.rpartition(b":")[2].rstrip(b"}"))
            self.found[sent_at] = self._loop.time() - sent_at
            if not self._sent:
                self._none_waits.set()
        return 500 if request.path == "/failing" else 200

    def sends(self, numbers: range) -> None:
        """Events with these *numbers* go now."""
        now = self._loop.time()
        self._sent |= {b"%d" % number: now for number in numbers}
        self._none_waits.clear()

    async def all_arrived(self) -> None:
        """Return when none is under way."""
        async with asyncio.timeout(PATIENCE):
            await self._none_waits.wait()


@pytest.mark.row("F50")
async def test_soak(tmp_path: Path, launcher: Launcher) -> None:
    """At 200 events a second, with one endpoint of five failing, memory, descriptors and delays stay as they were."""
    loop = asyncio.get_running_loop()
    delays = Delays()
    found = []
    async with Receiver(delays) as receiver, Daemon(tmp_path, launcher=launcher) as daemon:
        for path in ("0", "1", "2", "3", "failing"):
            await daemon.subscribe(f"{receiver.url}/{path}", retry_schedule=["1h"])
        ticks = SECONDS * TICKS // 3
        for part in range(3):  # the first to get warm
            delays.found.clear()
            begun = loop.time()
            for tick in range(ticks):
                first = (part * ticks + tick) * RATE // TICKS
                numbers = range(first, first + RATE // TICKS)
                delays.sends(numbers)
                await daemon.ask("POST", "/v1/events/batch", [{"type": "a", "data": number} for number in numbers])
                receiver.requests.clear()  # nothing is kept of a long run
                assert not await daemon.ended_within(begun + (tick + 1) / TICKS - loop.time())
            await delays.all_arrived()
            # The median, because a machine that stands still for a moment is not a daemon that slows down.
            found.append((daemon.memory(), daemon.descriptors(), median(delays.found.values())))

    _, (memory, files, before), (more_memory, more_files, after) = found
    print(  # noqa: T201  # shown with -s
        f"{(more_memory - memory) / MIB:.1f} MiB more; {before * 1000:.1f} and {after * 1000:.1f} ms"
    )
    assert more_memory - memory <= 8 * MIB + MIB * SECONDS / 3_600
    assert more_files <= files + 2
    assert after <= 2 * before
