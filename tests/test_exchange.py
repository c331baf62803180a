"""One exchange over a real connection of the pool."""

from __future__ import annotations

import asyncio
import gc
from contextlib import suppress

import aiohttp
import hostile
import pytest
from aiohttp.http_exceptions import HttpProcessingError
from c_parser import needs_c_parser
from exchanges import Client
from hostile import aim, answers, on_both_loops, receiver, response
from patience import PATIENCE

from hookengine import exchange
from hookengine.exchange import OutOfTurn, Phase, let_go
from hookengine.models import Response
from hookengine.wire import HeadTooLarge, TooManyInformational, Wire

_NOTHING = Response(status=204, headers=(), body=b"", truncated=False)


def test_exchange() -> None:
    """An answer has its status, its headers in order and its body; the connection is kept."""

    async def scenario() -> None:
        client = Client()
        said = b"HTTP/1.1 201 Made\r\nB: 2\r\na: \xe9\r\nB: 1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"
        async with receiver(answers(said, hostile.OK)) as good:
            first = await client.send(good.url)
            second = await client.send(good.url)
            await client.close()
            await good.settled()

        assert (201, b"hi", False) == (first.status, first.body, first.truncated)
        assert (("B", "2"), ("a", "\xe9"), ("B", "1"), ("Transfer-Encoding", "chunked")) == first.headers
        assert b"ok" == second.body
        assert (1, 2) == (good.connections, len(good.requests))

    on_both_loops(scenario)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        pytest.param(b"HTTP/1.1 100 Go\r\n\r\n" * 9 + hostile.OK, TooManyInformational, id="nine 1xx"),
        pytest.param(b"HTTP/1.1 100 Go\r\n\r\n" * 20_000, TooManyInformational, id="1xx in many slices"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"X: " + b"x" * 9000 + b"\r\n\r\n", HttpProcessingError, id="long line"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 129 + b"\r\n", HttpProcessingError, id="129 headers"),
        pytest.param(
            (b"HTTP/1.1 200 OK\r\n" + b"X: " + b"x" * 8000 + b"\r\n") * 18,
            HttpProcessingError,
            id="bad line",
            marks=needs_c_parser,
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + (b"X: " + b"x" * 8000 + b"\r\n") * 18, HeadTooLarge, id="128 KiB of head"),
        pytest.param(b"nonsense", HttpProcessingError, id="not HTTP", marks=needs_c_parser),
    ],
)
def test_answer_that_is_none(said: bytes, error: type[Exception]) -> None:
    """What is too much or not HTTP raises, leaves no answer and closes the connection."""

    async def scenario() -> None:
        client = Client()
        async with receiver(answers(said)) as bad:
            with pytest.raises(error):
                await client.send(bad.url)
            await bad.settled()
            await client.close()

        assert client.exchange.response is None
        assert Phase.CONNECT is not client.exchange.phase

    on_both_loops(scenario)


@pytest.mark.parametrize(
    ("behaviour", "size", "phase"),
    [
        pytest.param(hostile.silent, 2, Phase.ANSWER, id="silent"),
        pytest.param(hostile.unread, 1 << 20, Phase.SEND, id="in the kernel's buffer"),
        pytest.param(hostile.unread, 16 << 20, Phase.SEND, id="in ours"),
    ],
)
def test_phase(behaviour: hostile.Behaviour, size: int, phase: Phase) -> None:
    """A deadline that passes finds the exchange in the phase that it was in, and nothing stays open."""

    async def scenario() -> None:
        client = Client()
        async with receiver(behaviour) as bad:
            with pytest.raises(TimeoutError):
                await client.send(bad.url, seconds=0.3, body=b"x" * size)
            await bad.settled()
            await client.close()

        assert phase is client.exchange.phase

    on_both_loops(scenario)


@pytest.mark.parametrize(
    ("behaviour", "body"),
    [
        pytest.param(hostile.cut_body, b"short", id="cut"),
        pytest.param(hostile.bad_chunk_later, b"ok", id="bad chunk"),
        pytest.param(hostile.reset_in_body, b"x" * 50, id="reset"),
    ],
)
def test_broken_body(behaviour: hostile.Behaviour, body: bytes) -> None:
    """A body that breaks is cut at once, and the answer stands."""

    async def scenario() -> None:
        client = Client()
        async with receiver(behaviour) as bad:
            answer = await client.send(bad.url, seconds=60)
            await bad.settled()
            await client.close()

        assert (200, body, True) == (answer.status, answer.body, answer.truncated)

    on_both_loops(scenario)


def test_body_without_end() -> None:
    """Of a body without end the beginning is kept, what was parsed is bounded, and the rest is never read."""

    async def scenario() -> None:
        client = Client()
        async with receiver(hostile.endless_body) as bad:
            answer = await client.send(bad.url)
            await bad.settled()
            await client.close()

        assert (b"x" * 16_384, True) == (answer.body, answer.truncated)

    on_both_loops(scenario)


async def test_deadline_in_the_body() -> None:
    """Time that runs out in the body leaves the answer with what had come."""
    client = Client()
    async with receiver(hostile.slow_body) as bad:
        with pytest.raises(TimeoutError):
            await client.send(bad.url, seconds=0.3)
        await bad.settled()
        await client.close()

    answer = client.exchange.response
    assert answer is not None
    assert (200, True) == (answer.status, answer.truncated)
    assert set(b"x") == set(answer.body)


def test_bytes_while_idle() -> None:
    """A connection that speaks unasked is closed at once."""

    async def scenario() -> None:
        client = Client()
        async with receiver(hostile.speaks_when_idle) as bad:
            await client.send(bad.url)
            async with asyncio.timeout(PATIENCE):
                await bad.dropped.wait()
            answer = await client.send(bad.url)
            await client.close()

        assert 500 == answer.status
        assert 2 == bad.connections

    on_both_loops(scenario)


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(hostile.OK + hostile.OK, id="two answers"),
        pytest.param(hostile.OK + b"HTTP/1.1 100 Continue\r\n\r\n", id="1xx after it"),
        pytest.param(hostile.OK * 10_000, id="many"),
        pytest.param(response("200 OK", "Connection: close", b"ok"), id="close"),
        pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", id="HTTP/1.0"),
        pytest.param(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", id="101", marks=needs_c_parser),
    ],
)
def test_connection_that_is_not_kept(said: bytes) -> None:
    """After an answer with anything behind it, or that ends the connection, the next request has a new one."""

    async def scenario() -> None:
        client = Client()
        async with receiver(answers(said)) as bad:
            seen = [await client.send(bad.url) for _ in range(2)]
            await bad.settled()
            await client.close()

        assert 2 == bad.connections
        assert seen[0] == seen[1]

    on_both_loops(scenario)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        pytest.param(hostile.OK, True, id="body"),
        pytest.param(b"HTTP/1.1 204 No Content\r\nServer: s\r\n\r\n", True, id="no body"),
        pytest.param(hostile.OK + b"H", False, id="one byte more, as of another answer"),
        pytest.param(response("200 OK", body=b"HH") + b"H", False, id="the body's own byte once more"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" + hostile.OK, False, id="1xx before it"),
    ],
)
def test_parser_is_kept(said: bytes, *, kept: bool) -> None:
    """The parser reads the next answer only if it has begun with nothing that could be a part of that."""

    async def scenario() -> None:
        client = Client()
        async with receiver(answers(said, hostile.OK, hostile.OK)) as good:
            await client.send(good.url)
            [[(wire, _)]] = client.pool._resting.values()
            parser = wire._parser
            seen = [await client.send(good.url) for _ in range(2)]
            is_kept = wire._parser is parser
            await client.close()
            await good.settled()

        assert [b"ok", b"ok"] == [answer.body for answer in seen]
        assert kept == is_kept
        assert 1 == good.connections

    on_both_loops(scenario)


@pytest.mark.parametrize("behaviour", [hostile.finishes_on_second_request, hostile.resets_on_second_request])
def test_stale_connection(behaviour: hostile.Behaviour) -> None:
    """A kept connection that ends as the request arrives costs the same request once more, on a new one."""

    async def scenario() -> None:
        client = Client()
        async with receiver(behaviour) as bad:
            seen = [await client.send(bad.url) for _ in range(2)]
            await client.close()

        assert [b"ok", b"ok"] == [answer.body for answer in seen]
        assert (2, 3) == (bad.connections, len(bad.requests))

    on_both_loops(scenario)


def test_turn() -> None:
    """Each request waits for its turn, if there is time once more on a new connection; one that cannot wait is not sent."""
    left: list[float] = []
    waits = [0.0, 30.0, 10.0, 0.0, 20.0, None, None]

    def turn(ms: float) -> float | None:
        left.append(ms)
        return waits[len(left) - 1]

    async def scenario() -> None:
        left.clear()
        client = Client()
        async with receiver(hostile.finishes_on_second_request) as bad:
            first = await client.send(bad.url, turn=turn)
            began = asyncio.get_running_loop().time()
            second = await client.send(bad.url, turn=turn)
            took = asyncio.get_running_loop().time() - began
            await client.close()
        async with receiver(hostile.finishes_on_second_request) as bad:
            client = Client()
            seen = [await client.send(bad.url, turn=turn) for _ in range(2)]  # the second has no time for another turn
            await client.close()
        async with receiver(hostile.healthy) as good:
            client = Client()
            with pytest.raises(OutOfTurn):
                await client.send(good.url, turn=turn)
            await good.settled()
            await client.close()

        assert [b"ok"] * 4 == [answer.body for answer in (first, second, *seen)]
        assert took >= 0.04
        assert (7, True) == (len(left), all(0 < ms <= 5000 for ms in left))
        assert (2, 3) == (bad.connections, len(bad.requests))
        assert (1, 0) == (good.connections, len(good.requests))

    on_both_loops(scenario)


def test_connection_that_ends_before_its_turn() -> None:
    """The other side need not wait as long: the request asks once more for its turn, to go over another connection."""
    peers: list[hostile.Peer] = []
    waits: list[float] = []

    def turn(_: float) -> float:
        waits.append(0.0 if waits else 200.0)
        return waits[-1]

    async def impatient(peer: hostile.Peer) -> None:
        peers.append(peer)
        if len(peers) == 1:
            await peer.finish()
        else:
            await hostile.healthy(peer)

    async def scenario() -> None:
        peers.clear()
        waits.clear()
        client = Client()
        async with receiver(impatient) as bad:
            answer = await client.send(bad.url, turn=turn)
            await client.close()

        assert (b"ok", [200.0, 0.0]) == (answer.body, waits)
        assert (2, 1) == (bad.connections, len(bad.requests))

    on_both_loops(scenario)


@pytest.mark.parametrize(
    "behaviour",
    [
        hostile.finishes_on_second_request,
        hostile.resets_on_second_request,
        hostile.cut_body,
        hostile.half_answer_on_second_request,
    ],
)
def test_connection_that_broke_is_let_go(behaviour: hostile.Behaviour) -> None:
    """Of connections that have broken, whatever followed, nothing waits for the collector, nor does the request."""

    async def scenario() -> None:
        client = Client()
        async with receiver(behaviour) as bad:
            gc.collect()
            gc.disable()
            try:
                for _ in range(3):
                    try:
                        await client.send(bad.url)
                    except aiohttp.ClientConnectionError as error:
                        let_go(error)  # as the attempt does with it
                await client.close()
                await asyncio.sleep(0)
                kept = [each for each in gc.get_objects() if isinstance(each, Wire)]
            finally:
                gc.enable()
        assert [] == kept

    on_both_loops(scenario)


@pytest.mark.parametrize(("private", "seen"), [(True, (b"ok", False)), (False, (b"", True))])
async def test_patience_with_a_body(monkeypatch: pytest.MonkeyPatch, seen: tuple[bytes, bool], *, private: bool) -> None:
    """Once the verdict is known a body is waited for no longer than the grace; where it is what was asked for, it is."""
    rest = asyncio.Event()

    async def in_two(peer: hostile.Peer) -> None:
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
        await rest.wait()
        await peer.send(b"ok")

    monkeypatch.setattr(exchange, "BODY_GRACE", 0)
    client = Client()
    async with receiver(in_two) as good:
        sending = asyncio.create_task(client.send(good.url, private=private))
        async with asyncio.timeout(PATIENCE):
            while client.exchange.response is None:  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0)
        await asyncio.wait([sending], timeout=0.1)  # a grace that has passed would have cut it by now
        rest.set()
        with suppress(TimeoutError):  # then what is known is judged
            await sending
        response = client.exchange.response
        await client.close()

    assert response is not None
    assert seen == (response.body, response.truncated)


async def test_resting_connections_are_bounded() -> None:
    """Of more than may rest, of any origin, the one that has rested longest is closed; all are where room is needed."""
    client = Client(most_resting=2)
    async with receiver(hostile.healthy) as one, receiver(hostile.healthy) as other:
        first, second, third = [await client.pool.dial(aim(url)) for url in (one.url, other.url, one.url)]
        for wire, url in ((first, one.url), (second, other.url), (third, one.url)):
            client.pool.give_back(wire, aim(url), _NOTHING)
        assert [True, False, False] == [wire.connection.closed for wire in (first, second, third)]
        assert second is client.pool.idle(aim(other.url))
        client.pool.give_back(second, aim(other.url), _NOTHING)
        client.pool.make_room()
        assert second.connection.closed
        assert third.connection.closed
        assert client.pool.idle(aim(one.url)) is None
        await client.close()
        await one.settled()
        await other.settled()


async def test_connections_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection used last carries the next request; those that have rested for too long are closed, then or in time."""
    client = Client()
    async with receiver(hostile.healthy) as good:
        first, second = [await client.pool.dial(aim(good.url)) for _ in range(2)]
        client.pool.give_back(first, aim(good.url), _NOTHING)
        client.pool.give_back(second, aim(good.url), _NOTHING)
        assert second is client.pool.idle(aim(good.url))
        client.pool.give_back(second, aim(good.url), _NOTHING)
        monkeypatch.setattr(exchange, "KEEP_ALIVE", 0)
        assert client.pool.idle(aim(good.url)) is None
        third = await client.pool.dial(aim(good.url))
        assert (first.connection.closed, second.connection.closed, third.served) == (True, True, 0)
        client.pool.give_back(third, aim(good.url), _NOTHING)
        client.pool._sweep()
        assert (third.connection.closed, {}, None) == (True, client.pool._resting, client.pool._sweeping)
        await client.close()
        await good.settled()


async def test_connection_given_back_late() -> None:
    """An exchange that ends after the pool has been closed leaves nothing behind."""
    client = Client()
    async with receiver(hostile.healthy) as good:
        wire = await client.pool.dial(aim(good.url))
        await client.close()
        client.pool.give_back(wire, aim(good.url), _NOTHING)
        await good.settled()

    assert wire.connection.closed
    assert not client.pool._resting


async def test_only_new_connections() -> None:
    """`dial_anew` closes what is idle to that origin and returns a connection that has carried nothing."""
    client = Client()
    async with receiver(hostile.healthy) as good:
        await client.send(good.url)
        wire = await client.pool.dial_anew(aim(good.url))
        wire.connection.close()
        await client.close()
        await good.settled()

    assert (0, 2) == (wire.served, good.connections)


def test_answer_begun_is_not_asked_for_again() -> None:
    """A kept connection that breaks within an answer has taken the request: it is not sent twice."""

    async def scenario() -> None:
        client = Client()
        async with receiver(hostile.half_answer_on_second_request) as bad:
            await client.send(bad.url)
            with pytest.raises(aiohttp.ClientConnectionError):
                await client.send(bad.url)
            await client.close()

        assert (1, 2) == (bad.connections, len(bad.requests))

    on_both_loops(scenario)


def test_pool_makes_our_wires() -> None:
    """The pool's connections are ours, and its settings are those that the guards rest on."""

    async def scenario() -> None:
        client = Client()
        async with receiver(hostile.healthy) as good:
            wire = await client.pool.dial(aim(good.url))
            assert isinstance(wire, Wire)
            wire.connection.close()
            await client.close()
            await good.settled()

        assert (0, 0, False) == (client.pool.limit, client.pool.limit_per_host, client.pool.use_dns_cache)

    on_both_loops(scenario)
