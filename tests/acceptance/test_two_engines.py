"""One file has one daemon."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from daemon import Daemon, run
from patience import PATIENCE

from hookengine.receiver import Receiver

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.alone
@pytest.mark.row("F15")
@pytest.mark.parametrize("address", ["127.0.0.1:0", None], ids=["another address", "the same"])
async def test_second_daemon_is_refused(tmp_path: Path, address: str | None) -> None:
    """A second daemon on the same data ends soon with status 75 and the first one's pid; the first does not notice."""
    loop = asyncio.get_running_loop()
    async with Receiver() as receiver, Daemon(tmp_path) as first:
        await first.subscribe(receiver.url)
        listen = address or first.url.removeprefix("http://")
        begun = loop.time()
        second = await run("serve", "--data", str(first.data), "--config", str(tmp_path / "config.toml"), "--listen", listen)
        async with asyncio.timeout(PATIENCE):
            _, said = await second.communicate()
        seconds = loop.time() - begun
        await first.ask("POST", "/v1/events", {"type": "order.created", "data": 1})
        await receiver.wait(1, PATIENCE)

    assert 75 == second.returncode
    assert f"in use by pid {first.pid}" in said.decode()
    assert seconds < 5


@pytest.mark.row("F15")
async def test_killed_daemon_leaves_its_data_free(tmp_path: Path) -> None:
    """After a SIGKILL the next daemon starts at once."""
    async with Daemon(tmp_path) as daemon:
        for _ in range(2):
            await daemon.kill()
            await daemon.start()
        await daemon.ask("POST", "/v1/events", {"type": "order.created", "data": 1})


async def test_daemons_on_two_files(tmp_path: Path) -> None:
    """Two daemons with data of their own run side by side."""
    for name in "ab":
        (tmp_path / name).mkdir()
    async with Daemon(tmp_path / "a") as first, Daemon(tmp_path / "b") as second:
        await first.ask("POST", "/v1/events", {"type": "order.created", "data": 1})
        found = [(await daemon.ask("GET", "/v1/events"))["data"] for daemon in (first, second)]

    assert [1, 0] == [len(events) for events in found]
