"""Producers that are faster than the disk: they are told to come again, and memory stays bounded."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections import Counter
from contextlib import closing
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import disk
import pytest
from daemon import Daemon
from patience import PATIENCE

from hookengine.engine import DATABASE

if TYPE_CHECKING:
    from launcher import Launcher

pytestmark = pytest.mark.alone

SINGLE, BATCHES = 100, 50  # producers
LONG = 1.0  # s
ALLOWANCE = 400 << 20  # bytes of memory; without a bound it would be much more


class Flood:
    """Producers that publish again as soon as they are answered, or told to come again."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.answers: Counter[int] = Counter()
        self.accepted = 0
        self.cut = 0
        self.impolite = 0  # refusals without a time
        self._session = session
        self._until = asyncio.get_running_loop().time() + LONG

    @property
    def _goes_on(self) -> bool:
        return asyncio.get_running_loop().time() < self._until

    async def produce(self, path: str, body: bytes, events: int) -> None:
        """One of them."""
        while self._goes_on:
            try:
                async with self._session.post(path, data=BytesIO(body)) as answer:
                    await answer.read()
            except aiohttp.ClientOSError:  # refused, and the connection closed before all of the body was sent
                self.cut += 1
                continue
            self.answers[answer.status] += 1
            if answer.status == 202:
                self.accepted += events
            else:
                self.impolite += "Retry-After" not in answer.headers


def peak(pid: int) -> int:
    """The most bytes of memory that a process has occupied (VmHWM)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


async def test_producers_faster_than_the_disk(tmp_path: Path, disk_launcher: Launcher) -> None:
    """With syncs of 200 ms, single events and batches of a thousand are accepted or refused with a time; none is shed."""
    control = disk.Control(tmp_path / "control")
    event = b'{"type":"order.created","data":"%s"}' % (b"x" * 12_000)
    batch = b"[%s]" % b",".join([event] * 1_000)
    async with Daemon(tmp_path, control.of_daemon(tmp_path), launcher=disk_launcher) as daemon:
        await daemon.ask("POST", "/v1/events", {"type": "order.created", "data": 1})
        control.slow_down(0.2)
        before = peak(daemon.pid)
        token = (daemon.data / "admin.token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        async with aiohttp.ClientSession(
            daemon.url,
            headers=headers,
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=PATIENCE),
        ) as session:
            flood = Flood(session)
            async with asyncio.TaskGroup() as group:
                for _ in range(SINGLE):
                    group.create_task(flood.produce("/v1/events", event, 1))
                for _ in range(BATCHES):
                    group.create_task(flood.produce("/v1/events/batch", batch, 1_000))
            more = peak(daemon.pid) - before
        control.slow_down(0)
        await daemon.kill()
        with closing(sqlite3.connect(daemon.data / DATABASE)) as db:
            (stored,) = db.execute("SELECT count(*) FROM events").fetchone()

    print(f"{dict(flood.answers)}, {flood.cut} cut, {flood.accepted} events accepted, {more >> 20} MiB more")  # noqa: T201  # shown with -s
    assert {202, 429} == flood.answers.keys() - {503}
    assert 0 == flood.impolite
    assert flood.accepted <= stored - 1
    assert more <= ALLOWANCE
