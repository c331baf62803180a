"""What a SIGTERM leaves, under load and with endpoints that hang."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

from daemon import Daemon, silent
from load import Producers, endpoint

if TYPE_CHECKING:
    from pathlib import Path


async def test_clean_stop_repeats_nothing(tmp_path: Path) -> None:
    """Stopped under load, the daemon ends with 0 within its drain, and after the next start every event arrives once."""
    async with Daemon(tmp_path, concurrency=32, drain="3s") as daemon, endpoint(daemon, delay=0.02) as arrivals:
        producers = Producers(daemon, pad=500)
        async with producers.running():
            for _ in range(2):
                await producers.until(300)
                status, seconds = await daemon.stop()
                assert 0 == status
                assert seconds < 5
                await arrivals.divide()
                await daemon.start()
            await producers.until(100)
        await arrivals.until(producers.accepted)

    assert [0, 0, 0] == arrivals.repeats()
    assert producers.accepted <= arrivals.bodies.keys()


async def test_drain_does_not_wait_for_ever(tmp_path: Path) -> None:
    """With a hundred endpoints that never answer the daemon ends when its drain is over, and tries them again later."""
    async with silent() as url, Daemon(tmp_path, drain="1s") as daemon:
        for n in range(100):
            await daemon.subscribe(f"{url}/{n}")
        await daemon.ask("POST", "/v1/events", {"type": "order.created", "data": 1})
        status, seconds = await daemon.stop()
        assert 0 == status
        assert 1 <= seconds < 3
        await daemon.start()
        pending = await daemon.ask("GET", "/v1/deliveries?state=pending&limit=250")

    assert 100 == len(pending["data"])
    assert {0} == {delivery["attempt_count"] for delivery in pending["data"]}


async def test_second_signal_ends_the_drain(tmp_path: Path) -> None:
    """A second SIGTERM, or a SIGINT, does not wait for endpoints that hang; nothing is lost."""
    async with silent() as url, Daemon(tmp_path, drain="25s") as daemon:
        await daemon.subscribe(url)
        await daemon.ask("POST", "/v1/events", {"type": "order.created", "data": 1})
        for second in (signal.SIGTERM, signal.SIGINT):
            loop = asyncio.get_running_loop()
            daemon.signal(signal.SIGTERM)
            await daemon.says("Stopping")
            begun = loop.time()
            daemon.signal(second)
            assert 0 == await daemon.ended()
            assert loop.time() - begun < 2
            await daemon.start()
        pending = await daemon.ask("GET", "/v1/deliveries?state=pending")

    assert 1 == len(pending["data"])
