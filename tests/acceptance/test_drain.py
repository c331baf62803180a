"""What a SIGTERM does to requests that are under way."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Any

import pytest
from daemon import Daemon, silent
from load import Producers, endpoint, judge, left_by

if TYPE_CHECKING:
    from pathlib import Path

    from launcher import Launcher

# Deliveries whose last attempt was cut.
INTERRUPTED = """
SELECT count(*) FROM deliveries AS d
WHERE (SELECT outcome FROM attempts WHERE delivery = d.seq ORDER BY seq DESC LIMIT 1) = 'interrupted'
"""
EVENT = {"type": "order.created", "id": "event-1", "data": 1}


async def attempts(daemon: Daemon) -> list[tuple[Any, ...]]:
    """State, count, and outcomes of the attempts of each delivery."""
    found = [
        await daemon.ask("GET", f"/v1/deliveries/{each['id']}")
        for each in (await daemon.ask("GET", "/v1/deliveries?limit=250"))["data"]
    ]
    return [(each["state"], each["attempt_count"], [one["outcome"] for one in each["attempts"]]) for each in found]


@pytest.mark.alone
@pytest.mark.row("F23")
async def test_clean_stop_repeats_nothing(tmp_path: Path, launcher: Launcher) -> None:
    """Stopped under load, the daemon ends with 0 within its drain, and after the next start every event arrives once."""
    async with (
        Daemon(tmp_path, launcher=launcher, concurrency=32, drain="3s") as daemon,
        endpoint(daemon, delay=0.02) as arrivals,
    ):
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


@pytest.mark.alone
@pytest.mark.row("F24")
async def test_drain_does_not_wait_for_ever(tmp_path: Path, launcher: Launcher) -> None:
    """Of a hundred endpoints that hang and one that answers within the drain, only the hundred are tried again."""
    async with (
        silent() as url,
        Daemon(tmp_path, launcher=launcher, drain="1s") as daemon,
        endpoint(daemon, delay=0.5) as arrivals,
    ):
        for n in range(100):
            await daemon.subscribe(f"{url}/{n}")
        await daemon.ask("POST", "/v1/events", EVENT)
        await arrivals.until({"event-1"})
        status, seconds = await daemon.stop()
        assert 0 == status
        assert 1 <= seconds < 3
        await arrivals.divide()
        await daemon.start()
        found = await attempts(daemon)
        await daemon.kill()

    assert 1 == found.count(("delivered", 1, ["accepted"]))
    assert 100 == found.count(("pending", 0, ["interrupted"]))
    assert [0, 0] == arrivals.repeats()


@pytest.mark.alone
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.row("F25")
async def test_second_signal_ends_the_drain(second: signal.Signals, tmp_path: Path, launcher: Launcher) -> None:
    """A second signal does not wait for endpoints that hang: attempts are recorded as interrupted, and made again."""
    async with silent() as url, Daemon(tmp_path, launcher=launcher, drain="25s") as daemon:
        await daemon.subscribe(url)
        await daemon.ask("POST", "/v1/events", EVENT)
        for _ in range(2):
            loop = asyncio.get_running_loop()
            daemon.signal(signal.SIGTERM)
            await daemon.says("Stopping")
            begun = loop.time()
            daemon.signal(second)
            assert 0 == await daemon.ended()
            assert loop.time() - begun < 2
            await daemon.start()
        found = await attempts(daemon)

    assert [("pending", 0, ["interrupted"])] == found


@pytest.mark.row("F25")
async def test_second_signal_under_load(tmp_path: Path, launcher: Launcher) -> None:
    """Two signals under load lose nothing, and what is repeated after them is recorded as interrupted."""
    interrupted = [0]
    async with Daemon(tmp_path, launcher=launcher, concurrency=16) as daemon, endpoint(daemon, delay=0.05) as arrivals:
        producers = Producers(daemon)
        async with producers.running():
            for _ in range(3):
                await producers.until(50)
                daemon.signal(signal.SIGTERM)
                await daemon.says("Stopping")
                daemon.signal(signal.SIGTERM)
                assert 0 == await daemon.ended()
                await arrivals.divide()
                with left_by(daemon) as db:
                    interrupted += db.execute(INTERRUPTED).fetchone()
                await daemon.start()
        await daemon.idle()

    verdict = judge(producers, arrivals)
    assert (set(), set(), set()) == verdict[:3]
    assert all(repeated <= most for repeated, most in zip(verdict.repeats, interrupted, strict=True))
