"""Sixty endpoints that hang, beside a healthy one."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from statistics import median, quantiles
from typing import TYPE_CHECKING

from daemon import PATIENCE, Daemon

from hookengine.receiver import Received, Receiver

if TYPE_CHECKING:
    from pathlib import Path

ENDPOINTS = 60
WAITING = 50  # deliveries for each of them
SAMPLES = 600


class Healthy:
    """Publishes one event after another, and knows how long each took to arrive; a step of a receiver's script."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._arrivals: dict[bytes, asyncio.Future[float]] = {}

    def __call__(self, request: Received) -> int:
        """Note when the request is here."""
        number = request.body.rpartition(b'"data":')[2].rstrip(b"}")
        self._arrivals[number].set_result(asyncio.get_running_loop().time())
        return 200

    async def latency(self) -> float:
        """The seconds of one event, from before the request that publishes it."""
        loop = asyncio.get_running_loop()
        number = len(self._arrivals)
        arrival = self._arrivals[b"%d" % number] = loop.create_future()
        begun = loop.time()
        async with asyncio.timeout(PATIENCE):
            await self._daemon.ask("POST", "/v1/events", {"type": "healthy", "data": number})
            arrived: float = await arrival
        return arrived - begun


class Hanging:
    """Answers, until it is told to hang; a step of a receiver's script."""

    def __init__(self) -> None:
        self.hangs = False

    async def __call__(self, _: Received) -> int:
        """Success, or nothing at all."""
        if self.hangs:
            await asyncio.Event().wait()
        return 200


async def occupy(daemon: Daemon, stack: AsyncExitStack) -> Receiver:
    """
    Let endpoints hang, each with a backlog.

    Half of them were trusted with all their slots before, which are more than there are.
    """
    others = await stack.enter_async_context(Receiver(hanging := Hanging()))
    for n in range(ENDPOINTS):
        types = ["hung", "known"] if n % 2 else ["hung"]
        await daemon.subscribe(f"{others.url}/{n}", event_types=types, timeout="60s", max_concurrency=20)
    await daemon.ask("POST", "/v1/events/batch", [{"type": "known", "data": n} for n in range(20)])
    await others.wait(20 * ENDPOINTS // 2, PATIENCE)
    others.requests.clear()
    hanging.hangs = True
    await daemon.ask("POST", "/v1/events/batch", [{"type": "hung", "data": n} for n in range(WAITING)])
    await others.wait(2 * ENDPOINTS, PATIENCE)
    return others


async def test_healthy_endpoint_does_not_notice(tmp_path: Path) -> None:
    """Beside sixty endpoints that hang, each with a backlog, a healthy one is served as fast as alone."""
    # Two daemons, one with those and one without, take turns event by event: what else this machine does weighs on both.
    found: list[list[float]] = [[], []]
    async with AsyncExitStack() as stack:
        both = []
        for name in ("alone", "beside"):
            (tmp_path / name).mkdir()
            daemon = await stack.enter_async_context(Daemon(tmp_path / name))
            both.append(healthy := Healthy(daemon))
            receiver = await stack.enter_async_context(Receiver(healthy))
            await daemon.subscribe(receiver.url, event_types=["healthy"])
        others = await occupy(daemon, stack)
        for sample in range(-100, SAMPLES):  # the first to get warm
            for healthy, latencies in zip(both, found, strict=True):
                latency = await healthy.latency()
                if sample >= 0:
                    latencies.append(latency)
        held = len(others.requests)

    medians = [median(each) for each in found]
    tails = [quantiles(each, n=100)[98] for each in found]
    print(  # noqa: T201  # shown with -s
        f"median {medians[0] * 1000:.2f} ms alone, {medians[1] * 1000:.2f} ms beside them;"
        f" p99 {tails[0] * 1000:.2f} ms and {tails[1] * 1000:.2f} ms; {held} attempts hung"
    )
    assert 2 * ENDPOINTS <= held < 256
    assert medians[1] <= 1.25 * medians[0]
    assert tails[1] <= 2 * tails[0]
