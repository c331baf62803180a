"""The matrix of hostile receivers (rows R01 to R68), over real sockets, on both event loops."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import suppress
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import hostile
import pytest
from c_parser import needs_c_parser
from hostile import answers, flooding, on_both_loops, receiver, response

from hookengine.models import Accepted, ErrorCode, Outcome, Refused, Request, Unreachable
from hookengine.netguard import Policy
from hookengine.sender import Sender

if TYPE_CHECKING:
    from hostile import Behaviour, Peer

pytestmark = needs_c_parser

LOOPBACK = Policy(allow_http=True, allow_networks=(ip_network("127.0.0.0/8"),))
MALFORMED, TOO_LARGE = ErrorCode.MALFORMED_RESPONSE, ErrorCode.RESPONSE_HEADER_TOO_LARGE
STATUS, REDIRECT = ErrorCode.HTTP_STATUS, ErrorCode.REDIRECT_NOT_FOLLOWED
NO_ANSWER, NOT_TAKEN = ErrorCode.TIMEOUT_RESPONSE, ErrorCode.TIMEOUT_SEND
RESET, GONE = ErrorCode.RESET, ErrorCode.DISCONNECTED


class Row(NamedTuple):
    """What a receiver does, and what must come of it."""

    id: str
    behaviour: Behaviour
    code: ErrorCode | None = None  # None: accepted
    answer: bytes | None = None  # the kept body, where there is an answer
    truncated: bool = False
    requests: int = 1  # that the receiver reads
    timeout: int = 5000
    size: int = 500  # of the request's body


def said(row_id: str, answer: bytes, code: ErrorCode | None = None, body: bytes | None = None) -> Row:
    """A row whose receiver reads one request and sends *answer* in one segment."""
    return Row(row_id, answers(answer), code, body)


def head(text: str) -> bytes:
    """Lines with the line ends of HTTP, and the empty line that ends a head."""
    return text.replace("\n", "\r\n").encode() + b"\r\n\r\n"


FINAL = response("200 OK")
BIG = 8 << 20

ROWS = [
    said("R01", hostile.OK, body=b"ok"),
    said("R02", head("HTTP/1.1 204 No Content"), body=b""),
    said("R02-length", head("HTTP/1.1 204 No Content\nContent-Length: 0"), body=b""),
    said("R03", head("HTTP/1.1 204 No Content") + b"body", MALFORMED),
    said("R04-304", head("HTTP/1.1 304 Not Modified"), STATUS, b""),
    said("R04-300", response("300 Multiple Choices"), STATUS, b""),
    said("R04-302", response("302 Found"), STATUS, b""),
    Row("R05", hostile.silent, NO_ANSWER, timeout=200),
    Row("R06", hostile.unread, NOT_TAKEN, requests=0, timeout=400, size=BIG),
    Row("R06-1MiB", hostile.unread, NOT_TAKEN, requests=0, timeout=400, size=1 << 20),
    Row("R08", hostile.slow_headers, NO_ANSWER, timeout=400),
    Row("R09", hostile.slow_body, None, truncated=True, timeout=600),
    said("R14", response("200 OK", "Content-Encoding: gzip", b"not gzip"), body=b"not gzip"),
    said("R15", response("200 OK", "Content-Encoding: x-own", b"data"), body=b"data"),
    said("R16", response("200 OK", "Content-Encoding: gzip, gzip, br", b"data"), body=b"data"),
    said("R17", head("HTTP/1.1 200 OK\nX-Long: " + "x" * 200_000), TOO_LARGE),
    said("R17-name", head("HTTP/1.1 200 OK\nX" + "x" * 10_000 + ": 1"), TOO_LARGE),
    said("R17-fits", response("200 OK", "X-Long: " + "x" * 8000), body=b""),
    said("R18", head("HTTP/1.1 200 OK\n" + "X-Many: 1\n" * 5000), TOO_LARGE),
    said("R18-fits", response("200 OK", "X-Many: 1\n" * 120), body=b""),
    said("R19-long", head("HTTP/1.1 200 OK" + ("\nX-Long: " + "x" * 8000) * 100), TOO_LARGE),
    said("R22-100", head("HTTP/1.1 100 Continue") + FINAL, body=b""),
    said("R22-103", head("HTTP/1.1 103 Early Hints\nLink: </a>; rel=preload") + FINAL, body=b""),
    said("R22-eight", head("HTTP/1.1 102 Processing") * 8 + FINAL, body=b""),
    said("R21-nine", head("HTTP/1.1 102 Processing") * 9 + FINAL, ErrorCode.TOO_MANY_INFORMATIONAL),
    said("R23", head("HTTP/1.1 101 Switching Protocols\nUpgrade: x\nConnection: upgrade"), STATUS, b""),
    Row("R24", hostile.reset_at_once, RESET),
    Row("R25", hostile.reset_in_head, RESET),
    Row("R26", hostile.reset_in_body, None, b"x" * 50, truncated=True),
    Row("R27", hostile.finish_before_response, GONE),
    Row("R29", hostile.half_close_after_response, None, b"ok"),
    Row("R30", hostile.early_response, None, b"ok", requests=0, size=BIG),
    Row("R32", hostile.cut_body, None, b"short", truncated=True),
    said("R33", head("HTTP/1.1 200 OK\nContent-Length: 2") + b"too much", MALFORMED),
    said("R34-negative", head("HTTP/1.1 200 OK\nContent-Length: -1"), MALFORMED),
    said("R34-huge", head("HTTP/1.1 200 OK\nContent-Length: " + "9" * 40), MALFORMED),
    said("R34-twice", head("HTTP/1.1 200 OK\nContent-Length: 2\nContent-Length: 3") + b"ok", MALFORMED),
    said("R34-chunked", head("HTTP/1.1 200 OK\nContent-Length: 2\nTransfer-Encoding: chunked") + b"ok", MALFORMED),
    said("R35-size", head("HTTP/1.1 200 OK\nTransfer-Encoding: chunked") + b"zz\r\nok\r\n0\r\n\r\n", MALFORMED),
    Row("R35-cut", hostile.cut_chunk, None, truncated=True),
    Row("R35-later", hostile.bad_chunk_later, None, b"ok", truncated=True, timeout=10_000),
    said("R36-302", response("302 Found", "Location: /again"), REDIRECT, b""),
    said("R36-307", response("307 Temporary Redirect", "Location: http://127.0.0.1:1/"), REDIRECT, b""),
    said("R36-bad", response("301 Moved Permanently", "Location: ::::"), REDIRECT, b""),
    Row("R37-banner", hostile.banner, MALFORMED, requests=0),
    said("R37-banner-late", b"SSH-2.0-OpenSSH_9.2\r\n", MALFORMED),
    said("R37-binary", bytes(range(256)) * 4, MALFORMED),
    said("R37-http09", b"<html>hello</html>", MALFORMED),
    said("R37-http2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", MALFORMED),
    Row("R38", hostile.until_close, None, b"hello"),
    said("R39-999", response("999 Odd"), STATUS, b""),
    said("R39-000", response("000 Odd"), STATUS, b""),
    said("R39-2000", response("2000 Odd"), MALFORMED),
    said("R40-reason", head("HTTP/1.1 200\nContent-Length: 2") + b"ok", body=b"ok"),
    said("R40-lf", b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", body=b"ok"),
    said("R41", head("HTTP/1.1 200 OK\nX-Nul: a\0b\nContent-Length: 0"), MALFORMED),
    said("R43", response("200 OK", "", b"\x1b]0;owned\x07\n[error] fake"), body=b"\x1b]0;owned\x07\n[error] fake"),
    said("R44-utf8", response("200 OK", "", b"\xff\xfe"), body=b"\xff\xfe"),
    said("R44-charset", response("200 OK", "Content-Type: text/html; charset=../../etc", b"ok"), body=b"ok"),
    said("R46-401", response("401 Unauthorized", 'WWW-Authenticate: Digest realm="x", nonce="y"'), STATUS, b""),
    said("R46-407", response("407 Proxy Authentication Required", "Proxy-Authenticate: Basic"), STATUS, b""),
    Row("R68", hostile.reads_slowly, NOT_TAKEN, requests=0, timeout=400, size=1 << 20),
]


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
            reusable = sum(map(len, sender._pool._conns.values())) - 1
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


class Gaps:
    """
    The longest time that the loop worked at something else, in seconds.

    It is CPU time: on a busy machine nobody is to blame for the rest.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._last = time.thread_time()
        self._longest = 0.0
        self._tick()

    def _tick(self) -> None:
        self._note()
        self._timer = self._loop.call_later(0.005, self._tick)

    def _note(self) -> None:
        now = time.thread_time()
        self._longest = max(self._longest, now - self._last)
        self._last = now

    def stop(self) -> float:
        """The longest gap, also the present one."""
        self._timer.cancel()
        self._note()
        return self._longest


class Memory:
    """How much more memory this process has held at a time than when this was made, in MiB; 0 where nobody tells."""

    def __init__(self) -> None:
        self._status = Path("/proc/self/status")
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        self._before = self._read("VmRSS")

    def grown(self) -> float:
        """The growth up to the peak since then."""
        return (self._read("VmHWM") - self._before) / 1024

    def _read(self, name: str) -> int:
        if not self._status.exists():
            return 0
        found = re.search(rf"{name}:\s+(\d+) kB", self._status.read_text())
        return int(found[1]) if found else 0


FLOODS = [
    pytest.param(hostile.endless_body, None, id="R10"),
    pytest.param(hostile.endless_chunks, None, id="R11"),
    pytest.param(hostile.tiny_chunks, None, id="R11-tiny"),
    pytest.param(hostile.endless_chunk_extension, None, id="R11-extension"),
    pytest.param(hostile.gzip_bomb, None, id="R13"),
    pytest.param(hostile.endless_headers, TOO_LARGE, id="R19"),
    pytest.param(hostile.endless_status_line, TOO_LARGE, id="R20"),
    pytest.param(hostile.informational_flood, ErrorCode.TOO_MANY_INFORMATIONAL, id="R21"),
    pytest.param(hostile.response_flood, None, id="R48-flood"),
]


@pytest.mark.parametrize(("peers", "longest_gap"), [pytest.param(1, 0.1, id="1"), pytest.param(20, 0.25, id="20")])
@pytest.mark.parametrize(("behaviour", "code"), FLOODS)
def test_flood(behaviour: Behaviour, code: ErrorCode | None, peers: int, longest_gap: float) -> None:
    """What floods us neither stops the loop nor fills the memory, one or twenty at a time."""

    async def scenario() -> None:
        sender = Sender(LOOPBACK)
        await sender.attempt(request(url, timeout=600))
        gaps, memory = Gaps(), Memory()
        outcomes = await asyncio.gather(*[sender.attempt(request(url, timeout=600)) for _ in range(peers)])
        gap, grown = gaps.stop(), memory.grown()
        await sender.close()

        assert {code} == set(map(code_of, outcomes))
        assert gap <= longest_gap
        assert grown <= 5

    with flooding(behaviour) as url:
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
            async with asyncio.timeout(2):
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
            [[(wire, _)]] = sender._pool._conns.values()
            async with asyncio.timeout(2):
                await asyncio.gather(*filter(None, [wire.closed]), return_exceptions=True)
            second = await sender.attempt(request(bad.url))
            await sender.close()

        assert [Accepted, Accepted] == [type(first), type(second)]
        assert (2, 2) == (bad.connections, len(bad.requests))

    on_both_loops(scenario)
