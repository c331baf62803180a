"""What a machine can lack, and what its clock and scheduler can do, with the daemon as a process of its own."""

from __future__ import annotations

import asyncio
import resource
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import pytest
from daemon import Daemon
from patience import PATIENCE

from hookengine.receiver import Receiver

if TYPE_CHECKING:
    from launcher import Launcher

    from hookengine.receiver import Received

FEW = 64  # descriptors
CLIENTS = 100
EVENTS = 200


def descriptors(daemon: Daemon) -> int:
    """How many it has open."""
    return len(list(Path(f"/proc/{daemon.pid}/fd").iterdir()))


@pytest.mark.row("F31")
async def test_few_descriptors(tmp_path: Path, launcher: Launcher) -> None:
    """With 64 descriptors and 100 clients that hold theirs, nothing is lost, counted or flooded into the log."""
    async with Receiver() as receiver, Daemon(tmp_path, launcher=launcher) as daemon:
        subscriptions = [await daemon.subscribe(receiver.url, max_concurrency=100) for _ in range(4)]
        host, _, port = daemon.url.removeprefix("http://").rpartition(":")
        resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (FEW, FEW))
        loop = asyncio.get_running_loop()
        begun = loop.time()
        held = []
        for _ in range(CLIENTS):
            with suppress(OSError):
                held.append(await asyncio.open_connection(host, int(port)))
        open_files = descriptors(daemon)
        accepted = 0
        for n in range(EVENTS):
            with suppress(aiohttp.ClientError, TimeoutError):
                async with asyncio.timeout(PATIENCE if n == 0 else 2):
                    await daemon.ask("POST", "/v1/events", {"type": "a", "data": {"n": n}})
                    accepted += 1
        lasted = loop.time() - begun
        for _, writer in held:
            writer.close()
        await daemon.idle()
        shown = [await daemon.ask("GET", f"/v1/subscriptions/{each}") for each in subscriptions]
        failed = (await daemon.ask("GET", "/v1/deliveries?state=failed"))["data"]

    assert open_files >= FEW - 2
    assert accepted == EVENTS
    assert [] == failed
    assert accepted * 4 <= len(receiver.requests)
    assert [0] * 4 == [each["consecutive_failures"] for each in shown]
    assert len(daemon.said) <= 10 + 2 * lasted


@pytest.mark.row("F22")
async def test_suspended_process(tmp_path: Path, launcher: Launcher) -> None:
    """A process that was stopped for some seconds goes on where it was, and delivers everything once."""
    some = asyncio.Event()

    def count(request: Received) -> None:
        if request.number >= EVENTS // 10:
            some.set()

    async with Receiver(on_arrival=count) as receiver, Daemon(tmp_path, launcher=launcher) as daemon:
        await daemon.subscribe(receiver.url, timeout="10s")
        publishing = asyncio.gather(*(daemon.ask("POST", "/v1/events", {"type": "a", "data": n}) for n in range(EVENTS)))
        async with asyncio.timeout(PATIENCE):
            await some.wait()
        daemon.signal(signal.SIGSTOP)
        before = len(receiver.requests)
        resumed = asyncio.Event()
        asyncio.get_running_loop().call_later(3, resumed.set)
        await resumed.wait()
        stopped = len(receiver.requests)
        daemon.signal(signal.SIGCONT)
        await publishing
        await daemon.idle()

    assert before <= stopped < EVENTS
    ids = [request.header("webhook-id") for request in receiver.requests]
    assert (EVENTS, EVENTS) == (len(ids), len(set(ids)))


@pytest.mark.row("F41")
async def test_log_that_nobody_reads(tmp_path: Path, launcher: Launcher) -> None:
    """A pipe that is full of log lines keeps neither deliveries nor a stop."""
    async with Receiver() as receiver, Daemon(tmp_path, launcher=launcher, log="debug") as daemon:
        await daemon.subscribe(receiver.url, max_concurrency=100)
        daemon.heeded.clear()
        for _ in range(4):  # lines that fill the pipe, what reads it, and what may wait for it
            await daemon.ask("POST", "/v1/events/batch", [{"type": "a", "data": n} for n in range(750)])
        await daemon.idle()
        daemon.signal(signal.SIGTERM)
        ended = await daemon.ended_within(PATIENCE)
        daemon.heeded.set()
        assert (True, 0) == (ended, await daemon.ended())

    assert 3_000 == len(receiver.requests)
