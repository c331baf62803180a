"""What a machine can lack, and what its clock and scheduler can do, with the daemon as a process of its own."""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import sqlite3
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import aiohttp
import pytest
import unplugged
from daemon import Daemon, silent
from load import Producers, endpoint, judge
from patience import PATIENCE

from hookengine.receiver import Receiver

if TYPE_CHECKING:
    from pathlib import Path

    from launcher import Launcher

    from hookengine.receiver import Received

FEW = 64  # descriptors, or events
CLIENTS = 100
EVENTS = 200


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
        open_files = daemon.descriptors()
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


@pytest.mark.row("F05")
async def test_no_room_to_fold_into(tmp_path: Path, launcher: Launcher) -> None:
    """A database that cannot grow while its WAL can takes and delivers events, says so, and is folded once it can."""
    often = {"kind": "folds_often", "rows": 50}
    async with Daemon(tmp_path, often, launcher=launcher) as daemon, endpoint(daemon) as arrivals:
        producers = Producers(daemon, pad=6_000)
        database, wal = daemon.data / "hooks.db", daemon.data / "hooks.db-wal"
        async with producers.running(2):
            await producers.until(400)
            while database.stat().st_size < 2 * wal.stat().st_size:
                await producers.until(20)
            resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (database.stat().st_size, resource.RLIM_INFINITY))
            await daemon.says("folding the WAL")
            await producers.until(20)
            resource.prlimit(daemon.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            await producers.until(50)
        await daemon.idle()
        assert 0 == (await daemon.stop())[0]
        assert not wal.exists()

    verdict = judge(producers, arrivals)
    assert (set(), set(), set()) == (verdict.lost, verdict.unexpected, verdict.altered)
    assert [0] == verdict.repeats
    assert set() == producers.refused


@pytest.mark.row("F14")
async def test_database_is_locked_by_another_program(tmp_path: Path, launcher: Launcher) -> None:
    """While a shell holds the lock events are refused and nothing is sent; once it lets go all goes on, nothing lost."""
    async with Daemon(tmp_path, launcher=launcher, concurrency=32) as daemon, endpoint(daemon) as arrivals:
        producers = Producers(daemon)
        async with producers.running(4):
            await producers.until(100)
            with closing(sqlite3.connect(daemon.data / "hooks.db", isolation_level=None, timeout=PATIENCE)) as other:
                other.execute("BEGIN IMMEDIATE")
                async with asyncio.timeout(PATIENCE):
                    while not await daemon.metric("hookengine_paused") or 503 not in producers.refused:
                        pass
                sent = sum(map(len, arrivals.eras))
                accepted = len(producers.accepted)
                assert 503 == (await daemon.answer("GET", "/readyz"))[0]
                assert (sent, accepted) == (sum(map(len, arrivals.eras)), len(producers.accepted))
            begun = asyncio.get_running_loop().time()
            await producers.until(1)
            assert producers.accepted_at - begun < 5
            await producers.until(50)
        await daemon.idle()
        assert any("storage_unavailable" in line for line in daemon.said)

    verdict = judge(producers, arrivals)
    assert (set(), set(), set()) == (verdict.lost, verdict.unexpected, verdict.altered)
    assert [0] == verdict.repeats


@pytest.mark.row("F36")
async def test_little_of_the_processor(tmp_path: Path, launcher: Launcher) -> None:
    """With a twentieth of a processor no endpoint is blamed for what the machine lacks, and nothing comes twice."""
    async with Receiver() as receiver, Daemon(tmp_path, launcher=launcher) as daemon:
        await daemon.subscribe(receiver.url, timeout="10s", max_concurrency=100)

        async def starve() -> None:
            while len(receiver.requests) < FEW:
                daemon.signal(signal.SIGSTOP)
                await daemon.ended_within(0.095)
                daemon.signal(signal.SIGCONT)
                assert not await daemon.ended_within(0.005)

        async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
            group.create_task(starve())
            await daemon.ask("POST", "/v1/events/batch", [{"type": "a", "data": n} for n in range(FEW)])
        await daemon.idle()
        attempts = await daemon.metric('hookengine_attempts_total{error="",outcome="accepted"}')

    assert (FEW, FEW) == (attempts, len(receiver.requests))


@pytest.mark.alone
@pytest.mark.row("F33")
async def test_large_payloads_wait_on_disk(tmp_path: Path, launcher: Launcher) -> None:
    """However many large events wait, their payloads are not in memory, be it when they come or after a restart."""
    async with silent() as url, Daemon(tmp_path, launcher=launcher) as daemon:
        await daemon.subscribe(url, max_concurrency=8)
        before = daemon.memory()
        for n in range(120):
            await daemon.ask("POST", "/v1/events", {"type": "a", "data": f"{n}" + "x" * 1_000_000})
        waiting = daemon.memory()
        await daemon.kill()
        await daemon.start()
        async with asyncio.timeout(PATIENCE):
            while await daemon.metric("hookengine_attempts_in_flight") == 0:
                pass
        restarted = daemon.memory()

    print(f"{before >> 20} MiB, {waiting >> 20} with 120 MB waiting, {restarted >> 20} after a restart")  # noqa: T201
    assert waiting - before <= 80 << 20
    assert restarted - before <= 40 << 20


async def limit_memory(daemon: Daemon, size: int) -> None:
    """Let it have so many bytes of addresses, after a new start where it has ended for want of them."""
    if await daemon.ended_within(0.01):
        # By a signal where uvloop or the interpreter had no memory to tell that there was none.
        assert await daemon.ended() in {70, -signal.SIGSEGV, -signal.SIGABRT}, daemon.said
        await daemon.start()
    with suppress(ProcessLookupError):  # it ends in this moment
        resource.prlimit(daemon.pid, resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))


@pytest.mark.row("F34")
async def test_little_memory(tmp_path: Path, launcher: Launcher) -> None:
    """Where there is no more memory requests fail, or the daemon ends; what it had accepted arrives."""
    accepted: set[str | None] = set()
    refused = 0

    async def publish(id_: str, size: int = 700_000) -> None:
        nonlocal refused
        try:
            async with asyncio.timeout(PATIENCE):
                await daemon.ask("POST", "/v1/events", {"type": "a", "id": id_, "data": "x" * size})
            accepted.add(id_)
        except (aiohttp.ClientError, ConnectionError):
            refused += 1

    async with Receiver() as receiver, Daemon(tmp_path, launcher=launcher) as daemon:
        await daemon.subscribe(receiver.url)
        size = daemon.memory("VmSize")
        for spare in (2, 16, 32):  # MiB
            await limit_memory(daemon, size + (spare << 20))
            await asyncio.gather(*(publish(f"e-{spare}-{n}") for n in range(12)))
        async with asyncio.timeout(PATIENCE):
            while "e-last" not in accepted:  # where storage had failed, it is tried again after a rest
                await limit_memory(daemon, resource.RLIM_INFINITY)
                await publish("e-last", size=1)
        await daemon.idle()
        failed = (await daemon.ask("GET", "/v1/deliveries?state=failed"))["data"]

    arrived = {request.header("webhook-id") for request in receiver.requests}
    print(f"{len(accepted)} accepted, {refused} refused")  # noqa: T201  # shown with -s
    assert [] == failed
    assert accepted <= arrived
    assert refused


@pytest.mark.row("F40")
async def test_network_is_gone_for_a_while(tmp_path: Path, launcher: Launcher) -> None:
    """Without a network no attempt is spent and no endpoint blamed; with it again everything goes out, once."""
    launched = await launcher.launch(str(tmp_path), program="unplugged")
    async with asyncio.timeout(PATIENCE):
        said = (await launched.stderr.read()).decode()
        status = await launched.wait()
    if status == unplugged.NOT_ALLOWED:
        pytest.skip("this system gives no process a network of its own")
    assert 0 == status, said
    waiting = unplugged.ENDPOINTS * unplugged.EVENTS
    assert {
        "troubles": ["local_network"],
        "pending": waiting,
        "attempts": 0,
        "failures": 0,
        "states": ["active"],
        "arrived": waiting + unplugged.ENDPOINTS,
        "requests": waiting + unplugged.ENDPOINTS,
    } == json.loads(said.splitlines()[-1])
