"""A disk that is full for a while, under a daemon at work."""

from __future__ import annotations

import asyncio
import errno
from typing import TYPE_CHECKING

import disk
import pytest
from daemon import Daemon
from load import EVENT, Producers, endpoint, judge
from patience import PATIENCE

if TYPE_CHECKING:
    from pathlib import Path

    from launcher import Launcher


@pytest.mark.row("F03", "F04")
async def test_full_disk(tmp_path: Path, disk_launcher: Launcher) -> None:
    """A full disk refuses events and pauses deliveries; with space again all goes on within 5 s, nothing lost or repeated."""
    control = disk.Control(tmp_path / "control")
    async with (
        Daemon(tmp_path, control.of_daemon(tmp_path), launcher=disk_launcher, concurrency=32) as daemon,
        endpoint(daemon) as arrivals,
    ):
        producers = Producers(daemon, pad=500)
        async with producers.running(4):
            await producers.until(100)
            control.fail_writes(errno.ENOSPC)
            async with asyncio.timeout(PATIENCE):
                while not await daemon.metric("hookengine_paused") or 503 not in producers.refused:
                    pass
            assert daemon._client is not None
            for method, path, body in (("POST", "/v1/events", EVENT), ("GET", "/readyz", None)):
                async with daemon._client.request(method, path, json=body) as answer:
                    assert 503 == answer.status
                    assert 1 <= int(answer.headers["Retry-After"]) <= 5
                    assert "storage_unavailable" in await answer.text()
            control.heal()
            healed_at = asyncio.get_running_loop().time()
            await producers.until(1)
            assert producers.accepted_at - healed_at < 5
            await producers.until(50)
        await daemon.idle()
        assert 0 == (await daemon.stop())[0]

    verdict = judge(producers, arrivals)
    assert (set(), set(), set()) == (verdict.lost, verdict.unexpected, verdict.altered)
    assert [0] == verdict.repeats


@pytest.mark.row("F07")
async def test_failed_sync_of_a_daemon(tmp_path: Path, disk_launcher: Launcher) -> None:
    """The daemon exits with 70, and its next start delivers what was accepted; only what was in flight comes again."""
    control = disk.Control(tmp_path / "control")
    async with (
        Daemon(tmp_path, control.of_daemon(tmp_path), launcher=disk_launcher, concurrency=32) as daemon,
        endpoint(daemon) as arrivals,
    ):
        producers = Producers(daemon, pad=500)
        async with producers.running(4):
            await producers.until(100)
            control.fail_syncs(errno.EIO, count=1)
            assert 70 == await daemon.ended()
            await arrivals.divide()
            await daemon.start()
            await producers.until(20)
        await daemon.idle()
        assert 0 == (await daemon.stop())[0]

    verdict = judge(producers, arrivals)
    assert (set(), set(), set()) == (verdict.lost, verdict.unexpected, verdict.altered)
    assert 0 == verdict.repeats[0]
    assert verdict.repeats[1] <= 32
