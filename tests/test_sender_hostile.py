"""The matrix of hostile receivers (rows R01 to R68), over real sockets, on both event loops."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network
from typing import TYPE_CHECKING

import hostile
import pytest
from c_parser import needs_c_parser
from hostile import answers, flooding, on_both_loops, receiver, response
from hostile_rows import FLOODS, GONE, MALFORMED, NOT_TAKEN, REDIRECT, RESET, ROWS, STATUS, TOO_LARGE, Row
from measures import Gaps, Memory
from patience import PATIENCE

from hookengine.models import Accepted, ErrorCode, Outcome, Refused, Request, Unreachable
from hookengine.netguard import Policy
from hookengine.sender import Sender

if TYPE_CHECKING:
    from hostile import Behaviour, Peer

pytestmark = [needs_c_parser, pytest.mark.alone]

LOOPBACK = Policy(allow_http=True, allow_networks=(ip_network("127.0.0.0/8"),))


def request(url: str, *, timeout: int = 5000, size: int = 500) -> Request:
    """A delivery."""
    return Request(method="POST", url=url, headers=(("Content-Type", "text/plain"),), body=b"b" * size, timeout=timeout)


def code_of(outcome: Outcome) -> ErrorCode | None:
    """The error code of an outcome, None for a success."""
    return None if isinstance(outcome, Accepted) or outcome.error is None else outcome.error.code


@pytest.mark.parametrize("row", ROWS, ids=[row.id for row in ROWS])
def test_hostile_receiver(row: Row) -> None:
    """A receiver's misbehaviour is named, ends in time, costs one request and leaves no connection behind."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        sender = Sender(LOOPBACK)
        async with receiver(row.behaviour) as bad, receiver(hostile.healthy) as good:
            begun = loop.time()
            outcome = await sender.attempt(request(bad.url, timeout=row.timeout, size=row.size))
            took = loop.time() - begun
            afterwards = await sender.attempt(request(good.url))
            reusable = sum(map(len, sender._pool._resting.values())) - 1
            await sender.close()
            await bad.settled()

        refused = row.code in {STATUS, REDIRECT, MALFORMED, TOO_LARGE, ErrorCode.TOO_MANY_INFORMATIONAL}
        kind = Accepted if row.code is None else Refused if refused else Unreachable
        assert (kind, row.code) == (type(outcome), code_of(outcome)), (loop, outcome)
        assert took < row.timeout / 1000 + 1
        assert row.requests == len(bad.requests)
        assert 1 == bad.connections
        assert 0 <= reusable <= 1
        assert isinstance(afterwards, Accepted)
        if row.answer is not None:
            assert isinstance(outcome, Accepted | Refused)
            assert outcome.response is not None
            assert (row.answer, row.truncated) == (outcome.response.body, outcome.response.truncated)
        elif isinstance(outcome, Refused):
            assert outcome.response is None

    on_both_loops(scenario)


@pytest.mark.row("R28")
def test_receiver_that_closes_at_once() -> None:
    """FIN right after the accept is `disconnected`, or `reset` where our bytes met the closed socket first."""

    async def scenario() -> None:
        sender = Sender(LOOPBACK)
        async with receiver(hostile.finish_before_reading) as bad:
            outcome = await sender.attempt(request(bad.url))
            await sender.close()
            await bad.settled()

        assert code_of(outcome) in {GONE, RESET}
        assert (1, []) == (bad.connections, bad.requests)

    on_both_loops(scenario)


@pytest.mark.row("R07")
def test_zero_window() -> None:
    """A receiver whose window stays shut has not taken the request."""

    async def scenario() -> None:
        sender = Sender(LOOPBACK)
        async with receiver(hostile.unread, small_window=True) as bad:
            outcome = await sender.attempt(request(bad.url, timeout=400, size=100_000))
            await sender.close()
            await bad.settled()

        assert NOT_TAKEN == code_of(outcome)

    on_both_loops(scenario)


@pytest.mark.parametrize(("peers", "longest_gap"), [pytest.param(1, 0.1, id="1"), pytest.param(20, 0.25, id="20")])
@pytest.mark.parametrize("flood", FLOODS, ids=[flood.id for flood in FLOODS])
def test_flood(flood: Row, peers: int, longest_gap: float) -> None:
    """What floods us neither stops the loop nor fills the memory, one or twenty at a time."""

    async def scenario() -> None:
        sender = Sender(LOOPBACK)
        await sender.attempt(request(url, timeout=flood.timeout))
        gaps, memory = Gaps(), Memory()
        outcomes = await asyncio.gather(*[sender.attempt(request(url, timeout=flood.timeout)) for _ in range(peers)])
        gap, grown = gaps.stop(), memory.grown()
        await sender.close()

        assert {flood.code} == set(map(code_of, outcomes))
        assert gap <= longest_gap
        assert grown <= 5

    with flooding(flood.behaviour) as url:
        on_both_loops(scenario)


@pytest.mark.row("R45")
async def test_set_cookie_is_not_kept() -> None:
    """A hundred cookies are recorded, and none comes back."""
    cookies = "\n".join(f"Set-Cookie: name{number}=value" for number in range(100))
    async with receiver(answers(response("200 OK", cookies), hostile.OK)) as bad:
        sender = Sender(LOOPBACK)
        first = await sender.attempt(request(bad.url))
        await sender.attempt(request(bad.url))
        await sender.close()

    assert isinstance(first, Accepted)
    assert 100 == len(first.response.header("set-cookie"))
    assert 1 == bad.connections
    assert b"cookie" not in bad.requests[1].lower()


@pytest.mark.row("R48")
async def test_pipelined_response_is_nobodys() -> None:
    """A second response in the same segment is dropped with its connection, and never taken for the next answer."""

    async def two_for_one(peer: Peer) -> None:
        await peer.request()
        await peer.send(response("200 OK", "", b"%d" % peer.number) + response("500 No", "", b"swapped"))

    async with receiver(two_for_one) as bad:
        sender = Sender(LOOPBACK)
        outcomes = [await sender.attempt(request(bad.url)) for _ in range(2)]
        await sender.close()

    assert [Accepted] * 2 == list(map(type, outcomes))
    assert [b"1", b"2"] == [outcome.response.body for outcome in outcomes if isinstance(outcome, Accepted)]
    assert 2 == bad.connections


def test_bytes_while_idle_drop_the_connection() -> None:
    """What a receiver sends unasked is not the answer to the next request (aiohttp issue 13656)."""

    async def scenario() -> None:
        async with receiver(hostile.speaks_when_idle) as bad:
            sender = Sender(LOOPBACK)
            first = await sender.attempt(request(bad.url))
            async with asyncio.timeout(PATIENCE):
                await bad.dropped.wait()
            second = await sender.attempt(request(bad.url))
            await sender.close()

        assert [STATUS, STATUS] == [code_of(first), code_of(second)]
        assert (2, 2) == (bad.connections, len(bad.requests))

    on_both_loops(scenario)


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(hostile.finishes_on_second_request, id="R51-FIN"),
        pytest.param(hostile.resets_on_second_request, id="R51-RST"),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "GET"])
def test_stale_connection(behaviour: Behaviour, method: str) -> None:
    """A kept connection that breaks as the request arrives costs one more request on a new one, whatever the method."""

    async def scenario() -> None:
        async with receiver(behaviour) as bad:
            sender = Sender(LOOPBACK)
            again = Request(method=method, url=bad.url, headers=(), body=b"", timeout=5000)
            outcomes = [await sender.attempt(request(bad.url)), await sender.attempt(again)]
            await sender.close()

        assert [Accepted] * 2 == list(map(type, outcomes))
        assert (2, 3) == (bad.connections, len(bad.requests))
        assert bad.requests[1] == bad.requests[2]

    on_both_loops(scenario)


@pytest.mark.parametrize(
    ("behaviour", "connections", "requests"),
    [
        pytest.param(hostile.never_twice, 2, 3, id="new connection breaks too"),
        pytest.param(hostile.half_answer_on_second_request, 1, 2, id="a part of an answer came"),
    ],
)
def test_one_more_request_is_the_last(behaviour: Behaviour, connections: int, requests: int) -> None:
    """There is no third request, and no second one once the answer has begun."""

    async def scenario() -> None:
        async with receiver(behaviour) as bad:
            sender = Sender(LOOPBACK)
            outcomes = [await sender.attempt(request(bad.url)) for _ in range(2)]
            await sender.close()

        assert [None, GONE] == list(map(code_of, outcomes))
        assert (connections, requests) == (bad.connections, len(bad.requests))

    on_both_loops(scenario)


@pytest.mark.parametrize(
    "behaviour", [pytest.param(hostile.closes_when_idle, id="R50-FIN"), pytest.param(hostile.resets_when_idle, id="R50-RST")]
)
def test_connection_closed_while_idle(behaviour: Behaviour) -> None:
    """A connection that its receiver closes between two requests is not used for the second."""

    async def scenario() -> None:
        async with receiver(behaviour) as bad:
            sender = Sender(LOOPBACK)
            first = await sender.attempt(request(bad.url))
            [[(wire, _)]] = sender._pool._resting.values()
            async with asyncio.timeout(PATIENCE):
                await asyncio.gather(*filter(None, [wire.closed]), return_exceptions=True)
            second = await sender.attempt(request(bad.url))
            await sender.close()

        assert [Accepted, Accepted] == [type(first), type(second)]
        assert (2, 2) == (bad.connections, len(bad.requests))

    on_both_loops(scenario)


@pytest.mark.row("R11")
@pytest.mark.parametrize(
    ("sizes", "kept", "whole"),
    [
        pytest.param([1] * 150, 150, True, id="some tiny ones"),
        pytest.param([1] * 20_000, None, False, id="tiny ones without end"),
        pytest.param([16] * 1000, 16_000, True, id="small ones"),
        pytest.param([8192] + [1] * 1000, 9192, True, id="a large one first"),
        pytest.param([1] * 150 + [12_000], 12_150, True, id="a large one last"),
    ],
)
def test_chunks_that_are_mostly_framing(sizes: list[int], kept: int | None, whole: bool) -> None:
    """A body of chunks is read however they are cut, until most of it is their sizes; the verdict stands in any case."""
    body = b"".join(b"%x\r\n%b\r\n" % (size, b"x" * size) for size in sizes) + b"0\r\n\r\n"
    said = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body

    async def scenario() -> None:
        async with receiver(answers(said)) as bad:
            sender = Sender(LOOPBACK)
            outcome = await sender.attempt(request(bad.url))
            await sender.close()
            await bad.settled()

        assert isinstance(outcome, Accepted)
        assert whole is not outcome.response.truncated
        if kept is None:
            assert 0 < len(outcome.response.body) < 4000
        else:
            assert kept == len(outcome.response.body)

    on_both_loops(scenario)
