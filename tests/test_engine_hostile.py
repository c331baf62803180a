"""Hostile receivers as the engine meets them: one delivery each, beside a healthy endpoint, and what that costs."""

from __future__ import annotations

import asyncio
import random
import re
import socket
from base64 import b64encode
from collections import Counter
from functools import partial
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

import hostile
import pytest
import pytest_asyncio
from c_parser import needs_c_parser
from engines import Gate, Journal, engine, only, running
from hostile import OK, on_both_loops, receiver
from hostile_rows import FLOODS, REDIRECT, ROWS, STATUS, all_receivers
from measures import Gaps, Memory, open_files
from msgspec import Struct
from patience import PATIENCE
from storage import files

from hookengine.exchange import KEEP_ALIVE
from hookengine.models import Accepted, Request
from hookengine.netguard import Policy, admit
from hookengine.receiver import Receiver, Reply
from hookengine.resolver import Resolver
from hookengine.sender import Sender
from hookengine.verdicts import REFUSALS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from hostile import Peer
    from hostile_rows import Row

    from hookengine import views
    from hookengine.engine import Engine
    from hookengine.models import Outcome
    from hookengine.receiver import Received

pytestmark = [needs_c_parser, pytest.mark.alone]

EVERY = [pytest.param(row, id=row.id) for row in (*ROWS, *FLOODS)]
LARGEST = 1 << 20  # bytes that a body may have over HTTP


class World(Struct):
    """An engine with one healthy endpoint, and all hostile ones in another process."""

    engine: Engine
    urls: dict[str, str]
    idle: int = 0  # descriptors that are open when nothing is under way

    async def healthy(self) -> None:
        """One event for the healthy endpoint, delivered at once."""
        event = await self.engine.publish("healthy", 1)
        [delivery] = await self.engine.wait(event.id, timeout=PATIENCE)
        assert ("delivered", 1) == (delivery.state, delivery.attempt_count)

    def files(self) -> int:
        """How many descriptors are open, but for the connections that are kept for the next request."""
        return open_files() - sum(map(len, self.engine._running.dispatcher._sender._pool._resting.values()))

    async def settled(self) -> None:
        """Return when all descriptors that attempts had are given back."""
        async with asyncio.timeout(PATIENCE):
            while self.files() > self.idle:
                await self.engine.events(limit=1)

    async def held(self, row: Row, body: str = "") -> tuple[str, str]:
        """The ids of a subscription to the receiver of *row*, disabled, and of an event that is held for it."""
        made = await self.engine.subscribe(
            self.urls[row.id],
            event_types=["hostile"],
            timeout=f"{row.timeout}ms",
            retry_schedule=["1h"],
            state="disabled",
        )
        return made.id, (await self.engine.publish("hostile", body, subscriptions=[made.id])).id

    async def attempted(self, subscription: str, event: str) -> views.Delivery:
        """The delivery, enabled and once attempted; until then the healthy endpoint gets its own."""
        await self.engine.enable(subscription)
        async with asyncio.timeout(PATIENCE):
            while not (delivery := await only(self.engine, event=event)).attempt_count:
                await self.healthy()
        return delivery


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """One for all rows: whatever a row leaves behind would be found by the next."""
    with all_receivers() as urls:
        made = engine(tmp_path_factory.mktemp("hostile"), Journal())
        await made.start()
        try:
            await made.subscribe(urls["healthy"], event_types=["healthy"])
            found = World(made, urls)
            for _ in range(20):
                await found.healthy()
            # What the first large body costs, it costs with any receiver.
            large = await made.publish("healthy", "x" * (LARGEST - 100))
            await made.wait(large.id, timeout=PATIENCE)
            found.idle = found.files()
            yield found
        finally:
            await made.stop(drain=0)


@pytest.mark.parametrize("row", EVERY)
@pytest.mark.asyncio(loop_scope="module")
async def test_hostile_receiver(world: World, row: Row) -> None:
    """A receiver's misbehaviour is one recorded attempt with its name, and costs little time, memory and no descriptor."""
    subscription, event = await world.held(row, "x" * min(row.size, LARGEST - 100))
    gaps, memory = Gaps(), Memory()
    delivery: Any = await world.attempted(subscription, event)
    gap, grown = gaps.stop(), memory.grown()
    await world.engine.unsubscribe(subscription)

    kind = "accepted" if row.code is None else "refused" if row.code in REFUSALS else "unreachable"
    state = "delivered" if row.code is None else "pending"
    [attempt] = delivery.attempts
    assert (state, 1, 1) == (delivery.state, delivery.attempt_count, attempt.number)
    assert (kind, row.code) == (attempt.outcome, attempt.error and attempt.error.code)
    assert (attempt.response is None) == (row.code is not None and row.code not in {STATUS, REDIRECT})
    assert attempt.duration_ms < row.timeout + 1000
    assert gap <= 0.1
    assert grown <= 5
    await world.settled()


@pytest.mark.parametrize("row", [pytest.param(row, id=row.id) for row in FLOODS])
@pytest.mark.asyncio(loop_scope="module")
async def test_twenty_floods(world: World, row: Row) -> None:
    """Twenty that flood at once leave the loop to others, stay within a little memory, and give everything back."""
    twenty = [await world.held(row) for _ in range(20)]
    gaps, memory = Gaps(), Memory()
    await asyncio.gather(*(world.attempted(*each) for each in twenty))
    gap, grown = gaps.stop(), memory.grown()
    for subscription, _ in twenty:
        await world.engine.unsubscribe(subscription)

    assert gap <= 0.25
    assert grown <= 5
    await world.settled()


# Receivers that are no trouble at once, but over several requests.


@pytest.mark.row("R52")
def test_connection_that_ends_at_any_moment() -> None:
    """A receiver that ends kept connections whenever it likes costs no delivery: none of hundreds is counted as failed."""
    chance = random.Random(52)

    async def whenever(peer: Peer) -> None:
        end: asyncio.TimerHandle | None = None
        while True:
            await peer.request()
            await peer.send(OK)
            if end is None and chance.random() < 0.7:
                end = asyncio.get_running_loop().call_later(chance.random() / 300, peer._writer.close)

    async def scenario() -> None:
        sender = Sender(Policy(allow_http=True, allow_networks=(ip_network("127.0.0.0/8"),)))
        async with receiver(whenever) as endpoint, asyncio.timeout(PATIENCE):
            request = Request(method="POST", url=endpoint.url, headers=(), body=b"{}")
            outcomes: list[Outcome] = []
            while len(outcomes) < 500 or endpoint.connections <= 50:
                outcomes.append(await sender.attempt(request))
                for _ in range(chance.randrange(40)):
                    await asyncio.sleep(0)
            await sender.close()

        assert {Accepted} == set(map(type, outcomes))

    on_both_loops(scenario)
    assert KEEP_ALIVE < 5  # the shortest that servers have: uvicorn's, and Node's


@pytest.mark.row("R74")
async def test_endpoint_that_takes_some(tmp_path: Path) -> None:
    """An endpoint that refuses some events gets all others at once, stays enabled and unpaused."""
    odd = re.compile(rb'"data":\d*[13579]}')
    async with Receiver(lambda request: 500 if odd.search(request.body) else 200) as endpoint, running(tmp_path) as made:
        sub = await made.subscribe(endpoint.url, retry_schedule=["1h"])
        await made.publish_batch([{"type": "a", "data": n} for n in range(60)])
        await endpoint.wait(60, PATIENCE)
        async with asyncio.timeout(PATIENCE):
            done: list[views.Delivery] = []
            while len(done) < 60:
                done = [each for each in (await made.deliveries(limit=250)).data if each.attempt_count]
        ended = Counter((each.state, each.attempt_count) for each in done)

        assert {("delivered", 1): 30, ("pending", 1): 30} == ended
        assert "active" == (await made.subscription(sub.id)).state
        assert 60 == len(endpoint.requests)


@pytest.mark.row("R76")
async def test_a_thousand_slow_endpoints(tmp_path: Path) -> None:
    """A thousand endpoints that take as long as they may leave a healthy one its speed, and all get theirs in the end."""
    gate = Gate()
    async with Receiver(gate) as slow, Receiver() as healthy, running(tmp_path) as made:
        slow_ones = (made.subscribe(f"{slow.url}/{n}", event_types=["slow"], timeout="60s") for n in range(1000))
        await asyncio.gather(*slow_ones)
        await made.subscribe(healthy.url, event_types=["healthy"])
        known = await made.publish("healthy", 0)  # one that has never succeeded shares the slots of the others
        await made.wait(known.id, timeout=PATIENCE)
        event = await made.publish("slow", 1)
        await gate.arrived(100)
        async with asyncio.timeout(PATIENCE):
            for _ in range(50):
                quick = await made.publish("healthy", 1)
                [delivery] = await made.wait(quick.id, timeout=1)
                assert ("delivered", 1) == (delivery.state, delivery.attempt_count)
        held = len(gate.waiting)
        gate.open()
        deliveries = await made.wait(event.id, timeout=PATIENCE)

    assert 100 <= held <= 128  # half of the slots
    assert [("delivered", 1)] * 1000 == [(each.state, each.attempt_count) for each in deliveries]


@pytest.mark.row("R77")
async def test_endpoint_that_goes_away_and_comes_back(tmp_path: Path) -> None:
    """What an endpoint that took one event does not take while nobody listens, it gets when it is there again."""
    async with running(tmp_path) as made:
        async with Receiver() as endpoint:
            port = int(endpoint.url.rpartition(":")[2])
            sub = await made.subscribe(endpoint.url, retry_schedule=["1h"])
            first = await made.publish("a", 0)
            await made.wait(first.id, timeout=PATIENCE)
        events = await made.publish_batch([{"type": "a", "data": n} for n in range(5)])
        async with asyncio.timeout(PATIENCE):
            while 5 != sum(each.attempt_count for each in (await made.deliveries(state="pending")).data):
                pass
        async with Receiver(port=port) as endpoint:
            await made.disable(sub.id)
            await made.enable(sub.id)
            for event in events:
                [delivery] = await made.wait(event.id, timeout=PATIENCE)
                assert ("delivered", 2) == (delivery.state, delivery.attempt_count)
                assert ["connect_refused", None] == [each.error and each.error.code for each in await attempts(made, event)]


async def attempts(engine: Engine, event: views.Event) -> list[views.Attempt]:
    """Those of an event's one delivery."""
    found = (await only(engine, event=event.id)).attempts
    assert isinstance(found, list)
    return found


@pytest.mark.row("R78")
async def test_endpoint_that_repeats_what_it_was_sent(tmp_path: Path) -> None:
    """An endpoint that echoes our credentials does not bring them into the API, the log or the file."""

    def echo(request: Received) -> Reply:
        told = "; ".join(f"{name}={value}" for name, value in request.headers)
        return Reply(status=500, headers=(("X-Echo", told),), body=told.encode())

    journal = Journal()
    async with Receiver(echo) as endpoint, running(tmp_path, journal) as made:
        await made.subscribe(endpoint.url, headers={"X-Api-Key": "canary-in-a-header"}, retry_schedule=["1h"])
        auth = {"type": "basic", "username": "u", "password": "canary-in-a-password"}
        sub = await made.subscribe(endpoint.url, auth=auth, retry_schedule=["1h"])
        await made.publish("a", 1)
        async with asyncio.timeout(PATIENCE):
            while sum(each.attempt_count for each in (await made.deliveries()).data) < 2:
                pass
        shown = [await made.delivery(each.id) for each in (await made.deliveries()).data]
        tested = await made.test(sub.id)
        told = f"{shown} {tested} {journal.lines}"
    stored = b"".join(files(tmp_path).values())

    canaries = ["canary-in-a-header", "canary-in-a-password", b64encode(b"u:canary-in-a-password").decode()]
    assert 3 == len(endpoint.requests)
    assert told.count("=***") >= 6
    for canary in canaries:
        assert canary not in told
        assert canary.encode() not in stored


@pytest.mark.row("R79")
def test_hosts_that_share_an_address() -> None:
    """Two names of one address never share a connection: each request goes to the host that it names."""

    def lookup(_host: str, port: int, **_: object) -> list[tuple[int, int, int, str, tuple[Any, ...]]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port))]

    async def scenario() -> None:
        policy = Policy(allow_http=True, allow_networks=(ip_network("127.0.0.0/8"),))
        sender = Sender(policy, resolver=Resolver(partial(admit, policy=policy), lookup=lookup))
        async with receiver(hostile.healthy) as endpoint:
            for host in ("a.example", "b.example", "a.example", "b.example"):
                url = f"http://{host}:{endpoint.port}/"
                await sender.attempt(Request(method="POST", url=url, headers=(), body=b"{}"))
            await sender.close()

        assert 2 == endpoint.connections
        hosts = [re.findall(rb"\r\nHost: ([ab].example):", request) for request in endpoint.requests]
        assert [[b"a.example"], [b"b.example"], [b"a.example"], [b"b.example"]] == hosts

    on_both_loops(scenario)
