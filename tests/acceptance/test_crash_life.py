"""A crash while the engine starts or stops, of the program around it, and of a thread in it: rows K25 to K28 of the matrix."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING

import pytest
from daemon import Daemon
from launcher import Launcher, finish
from load import EVENT, Arrivals, Producers, endpoint, judge, left_by, tried
from patience import PATIENCE
from places import at, at_call, at_statement

from hookengine.receiver import Receiver

if TYPE_CHECKING:
    from pathlib import Path

FILES = r"open|os\.(link|mkdir|remove|rename|truncate)"


@pytest.mark.row("K25")
async def test_first_start(tmp_path: Path, launcher: Launcher) -> None:
    """First starts that crash before a file is made, opened, named or removed, ever later, hinder none that follows."""
    daemon = Daemon(tmp_path, launcher=launcher)
    crashes = 0
    await daemon.launch(at_call(FILES))
    while not await daemon.gets_ready():
        crashes += 1
        await daemon.launch(at_call(FILES, 2 * crashes + 1))
    await daemon.kill()
    async with daemon, endpoint(daemon) as arrivals:
        await daemon.ask("POST", "/v1/events", EVENT)
        await arrivals.until({"event-1"})

    assert crashes > 8


@pytest.mark.row("K25")
async def test_five_crashes_in_a_row(tmp_path: Path, launcher: Launcher) -> None:
    """Starts that crash, one after the other and wherever they are, lose nothing and repeat nothing."""
    events = [{"type": "order.created", "id": f"event-{n}", "data": n} for n in range(50)]
    places = (at("K25-opened"), at("K25-migrated"), at_statement("SELECT", 5), at("K25-built"), at("K07-taken"))
    arrivals = Arrivals()
    async with Receiver(arrivals) as receiver, Daemon(tmp_path, at("K05-unanswered"), launcher=launcher) as daemon:
        await daemon.subscribe(receiver.url)
        await tried(daemon, "POST", "/v1/events/batch", events)
        assert -signal.SIGKILL == await daemon.ended()
        for place in places:
            await daemon.launch(place)
            assert -signal.SIGKILL == await daemon.ended()
            with left_by(daemon):
                pass
        await daemon.start()
        await daemon.idle()

    assert {each["id"]: 1 for each in events} == arrivals.eras[0]


@pytest.mark.row("K26")
@pytest.mark.parametrize("place", ["K26-stopping", "K26-cut", "K26-drained"])
async def test_crash_while_stopping(place: str, tmp_path: Path, launcher: Launcher) -> None:
    """A crash while the daemon drains loses nothing, and repeats at most what was in flight."""
    async with (
        Daemon(tmp_path, at(place), launcher=launcher, concurrency=8, drain="50ms") as daemon,
        endpoint(daemon, delay=PATIENCE) as arrivals,
    ):
        producers = Producers(daemon)
        async with producers.running(4):
            await producers.until(20)
            daemon.signal(signal.SIGTERM)
            assert -signal.SIGKILL == await daemon.ended()
            await arrivals.divide()
            with left_by(daemon):
                pass
            arrivals.delay = 0.0
            await daemon.start()
        await daemon.idle()

    verdict = judge(producers, arrivals)
    assert (set(), set(), set()) == verdict[:3]
    assert 0 < verdict.repeats[1] <= 8


@pytest.mark.parametrize(
    ("way", "status"),
    [
        pytest.param("exits", 3, id="K27 os._exit"),
        pytest.param("raises", 1, id="K27 exception"),
        pytest.param("stops the loop", 1, id="K27 loop.stop"),
    ],
)
async def test_crash_of_the_host(way: str, status: int, tmp_path: Path, launcher: Launcher) -> None:
    """A program that the engine lives in loses nothing that was published, however it ends."""
    arrivals = Arrivals(delay=0.01)
    async with Receiver(arrivals) as receiver:
        host = await launcher.launch(str(tmp_path), receiver.url, way, program="host")
        said = (await host.stderr.read()).decode()
        accepted = {line.split()[1] for line in said.splitlines() if line.startswith("accepted ")}
        assert status == await finish(host), said
        await arrivals.divide()
        host = await launcher.launch(str(tmp_path), receiver.url, "waits", program="host")
        assert b"" == await host.stderr.read()
        assert 0 == await finish(host)

    assert len(accepted) >= 20
    assert accepted <= arrivals.bodies.keys()
    assert arrivals.repeats()[1] <= 8


@pytest.mark.alone
@pytest.mark.parametrize("connection", [0, 2], ids=["K28 writer", "K28 viewer"])
async def test_dead_thread(connection: int, tmp_path: Path, launcher: Launcher) -> None:
    """A daemon that loses a thread of SQLite's answers 503 and ends with 70 within three seconds; nothing is lost."""
    fault = {"kind": "loses_thread", "connection": connection, "orders": 150 if connection == 0 else 40}
    loop = asyncio.get_running_loop()
    async with Daemon(tmp_path, fault, launcher=launcher) as daemon, endpoint(daemon) as arrivals:
        producers = Producers(daemon)
        async with producers.running(4):
            while await tried(daemon, "GET", "/v1/deliveries?limit=1"):
                pass
            assert 70 == await daemon.ended(), daemon.said
            seconds = loop.time() - producers.accepted_at
            await daemon.start()
        await daemon.idle()

    verdict = judge(producers, arrivals)
    assert (set(), set(), set()) == verdict[:3]
    assert producers.refused == {503} or (connection == 2 and not producers.refused)
    assert seconds < 3
