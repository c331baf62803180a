"""Sixty endpoints that hang, and every hostile receiver of the matrix, beside a healthy one."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from itertools import cycle
from statistics import median, quantiles
from typing import TYPE_CHECKING

import pytest
from daemon import Daemon
from hostile_rows import FLOODS, ROWS, Row, all_receivers
from patience import PATIENCE

from hookengine.receiver import Received, Receiver

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.alone

ENDPOINTS = 60
WAITING = 50  # deliveries for each of them
SAMPLES = 600
SAMPLES_OF_A_ROW = 9
FEWEST, MOST = 100, 1000  # samples of a kind of rows


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


@pytest.mark.row("R76")
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


def kinds() -> dict[str, list[Row]]:
    """The hostile receivers by what comes of them; those that flood are a kind of their own."""
    found: dict[str, list[Row]] = {"flood": list(FLOODS)}
    for row in ROWS:
        found.setdefault("accepted" if row.code is None else row.code.value, []).append(row)
    return found


async def test_hostile_receivers_do_no_harm(tmp_path: Path) -> None:
    """Beside hostile receivers of each kind, with deliveries under way, a healthy endpoint is served as it is alone."""
    tails = {}
    async with AsyncExitStack() as stack:
        urls = stack.enter_context(all_receivers())
        both = []
        for name in ("alone", "beside"):
            (tmp_path / name).mkdir()
            daemon = await stack.enter_async_context(Daemon(tmp_path / name))
            both.append((daemon, healthy := Healthy(daemon)))
            receiver = await stack.enter_async_context(Receiver(healthy))
            await daemon.subscribe(receiver.url, event_types=["healthy"])
        for _ in range(100):  # the first to get warm
            for _, healthy in both:
                await healthy.latency()
        for kind, hostile in kinds().items():
            found: list[list[float]] = [[], []]
            slower: dict[str, list[float]] = {}
            for row in cycle(hostile):
                here = await sampled(both, urls[row.id])
                slower.setdefault(row.id, []).append(median(here[1]) / median(here[0]))
                for pooled, latencies in zip(found, here, strict=True):
                    pooled.extend(latencies)
                count = len(found[0])
                tails[kind] = [quantiles(each, n=100)[98] for each in found]
                # Of a hundred samples one decides, be it the machine's: then more of them do.
                if len(slower) == len(hostile) and count >= (FEWEST if within(tails[kind]) else MOST):
                    break
            assert {} == {id_: ratios for id_, ratios in slower.items() if median(ratios) > 3}  # of few samples

    for kind, (alone, beside) in tails.items():
        print(f"{kind}: p99 {alone * 1000:.2f} ms alone, {beside * 1000:.2f} ms beside them")  # noqa: T201  # shown with -s
    assert {} == {kind: tail for kind, tail in tails.items() if not within(tail)}


def within(tails: list[float]) -> bool:
    """Whether the second is at most twice the first."""
    return tails[1] <= 2 * tails[0]


async def sampled(both: list[tuple[Daemon, Healthy]], url: str) -> list[list[float]]:
    """Latencies of the healthy endpoint of each daemon, in turns, while the second one has twenty events for *url*."""
    daemon = both[1][0]
    id_ = await daemon.subscribe(url, event_types=["other"], timeout="1s", retry_schedule=["1h"], max_concurrency=20)
    await daemon.ask("POST", "/v1/events/batch", [{"type": "other", "data": n} for n in range(20)])
    latencies: list[list[float]] = [[], []]
    for _ in range(SAMPLES_OF_A_ROW):
        for (_, healthy), found in zip(both, latencies, strict=True):
            found.append(await healthy.latency())
    await daemon.ask("DELETE", f"/v1/subscriptions/{id_}")
    return latencies
