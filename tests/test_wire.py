"""A connection's answers: what is parsed, what was given before, what is refused."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING

import aiohttp
import hostile
import pytest
from exchanges import Client
from hostile import answers, on_both_loops, receiver, response
from patience import PATIENCE

from hookengine.models import Response
from hookengine.wire import Answers, TooManyInformational, Wire

if TYPE_CHECKING:
    from hookengine.wire import Answer

_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
_NO_BODY = b"HTTP/1.1 204 No Content\r\nDate: Thu, 26 Nov 2026 20:00:00 GMT\r\n\r\n"
_OK = Response(status=200, headers=(), body=b"ok", truncated=False)
_REFUSAL = response("503 Service Unavailable", "Retry-After: 7", b"later")


async def given(answer: asyncio.Future[Answer]) -> Answer:
    """The answer, which is there, or a failure in place of a test that hangs."""
    async with asyncio.timeout(PATIENCE):
        return await answer


@pytest.mark.parametrize(
    ("said", "is_known"),
    [
        pytest.param(hostile.OK, True, id="body"),
        pytest.param(_NO_BODY, True, id="no body"),
        pytest.param(_REFUSAL, True, id="no success"),
        pytest.param(_CHUNKED, False, id="chunked"),
        pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" + hostile.OK, False, id="1xx before it"),
        pytest.param(hostile.OK + b"H", False, id="a byte behind it"),
        pytest.param(hostile.OK + hostile.OK, False, id="another behind it"),
        pytest.param(response("200 OK", "Connection: close", b"ok"), False, id="close"),
        pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", False, id="HTTP/1.0"),
        pytest.param(response("200 OK", f"Long: {'x' * 2048}", b"ok"), False, id="long"),
    ],
)
def test_known_answers(said: bytes, *, is_known: bool) -> None:
    """Only a whole and short answer with nothing behind it is known when it comes again."""

    async def scenario() -> None:
        client = Client()
        async with receiver(answers(said, said)) as good:
            first, second = [await client.send(good.url) for _ in range(2)]
            await client.close()
            await good.settled()

        assert first == second
        assert is_known is (first is second)

    on_both_loops(scenario)


def test_known_answers_change_nothing() -> None:
    """In any order, known or not, answers mean on a busy connection what each means to somebody who knows none."""
    said = [hostile.OK, _NO_BODY, hostile.OK, _CHUNKED, _REFUSAL, _NO_BODY, _REFUSAL, hostile.OK + b"HTTP/1.1 2", hostile.OK]

    async def scenario() -> None:
        client = Client()
        async with receiver(answers(*said)) as good:
            together = [await client.send(good.url) for _ in said]
            await client.close()
            await good.settled()
        assert 1 == good.connections

        alone = []
        for each in said:
            stranger = Client()
            async with receiver(answers(each)) as good:
                alone.append(await stranger.send(good.url))
                await stranger.close()
                await good.settled()
        assert alone == together

    on_both_loops(scenario)


@pytest.mark.parametrize(("behind", "reusable"), [(b"", True), (b"H", False), (hostile.OK, False), (b"\r\n", False)])
async def test_bytes_behind_a_known_answer(behind: bytes, *, reusable: bool) -> None:
    """A connection that says more than the known answer carries no other request."""
    known = Answers()
    known.keep(hostile.OK, _OK)
    loop = asyncio.get_running_loop()
    ours, theirs = socket.socketpair()
    transport, wire = await loop.create_connection(lambda: Wire(loop, known), sock=ours)
    answer = wire.begin()
    wire.data_received(hostile.OK)
    if behind:
        wire.data_received(behind)
    head, _ = await given(answer)

    assert _OK is head
    assert reusable is wire.reusable
    transport.close()
    theirs.close()


async def test_known_answer_that_comes_in_pieces() -> None:
    """What comes in pieces is parsed, also if the pieces together are known."""
    known = Answers()
    known.keep(hostile.OK, _OK)
    wire = Wire(asyncio.get_running_loop(), known)
    answer = wire.begin()
    wire.data_received(hostile.OK[:20])
    wire.data_received(hostile.OK[20:])
    head, payload = await given(answer)

    assert not isinstance(head, Response)
    assert (200, b"ok") == (head.code, await payload.read())


@pytest.mark.parametrize("cut", [20, hostile.OK.index(b"\r\n\r\n") + 4, len(hostile.OK) - 1])
async def test_first_piece_of_an_answer_is_none(cut: int) -> None:
    """Where an answer came in pieces, its first piece is not taken for all of it when it comes again."""
    known = Answers()
    wire = Wire(asyncio.get_running_loop(), known)
    for _ in range(2):
        answer = wire.begin()
        wire.data_received(hostile.OK[:cut])
        wire.data_received(hostile.OK[cut:])
        head, payload = await given(answer)

        assert not isinstance(head, Response)
        assert b"ok" == await payload.read()
        wire.rest(_OK)


async def test_unknown_answer_after_a_known_one() -> None:
    """A connection whose last answer was known parses the next, also if that comes in pieces."""
    known = Answers()
    known.keep(hostile.OK, _OK)
    wire = Wire(asyncio.get_running_loop(), known)
    for said in (hostile.OK, _CHUNKED, hostile.OK, _CHUNKED):
        answer = wire.begin()
        for part in (said,) if said is hostile.OK else (said[:30], said[30:]):
            wire.data_received(part)
        head, payload = await given(answer)

        assert (said is hostile.OK) is isinstance(head, Response)
        if not isinstance(head, Response):
            assert (200, b"ok") == (head.code, await payload.read())
        wire.rest(_OK)


async def test_answer_before_it_was_asked_for() -> None:
    """What a new connection says before its first request is the answer to that, known or not."""
    known = Answers()
    known.keep(_REFUSAL, _OK)
    wire = Wire(asyncio.get_running_loop(), known)
    wire.data_received(_REFUSAL)
    head, _ = await given(wire.begin())

    assert _OK is head


async def test_connection_lost_before_it_was_used() -> None:
    """A connection that ends between the dial and the request tells so whoever begins to use it."""
    wire = Wire(asyncio.get_running_loop(), Answers())
    wire.connection_lost(ConnectionResetError())

    with pytest.raises(aiohttp.ClientOSError):
        await given(wire.begin())


def test_known_answers_are_bounded() -> None:
    """Of a thousand answers not more than 256 are kept, the last one among them."""
    known = Answers()
    for number in range(1000):
        known.keep(b"%d" % number, _OK)

    assert 256 >= sum(known.get(b"%d" % number) is not None for number in range(1000))
    assert _OK is known.get(b"999")


async def test_what_may_come_before_most_is_content() -> None:
    """A KiB of a body may be chunk sizes and the like; what goes on in that manner is not parsed, however much comes."""
    wire = Wire(asyncio.get_running_loop(), Answers())
    answer = wire.begin()
    wire.data_received(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    _, payload = await given(answer)
    wire.data_received(b"1\r\nx\r\n" * 169 + b"5\r\nxxxxx\r\n")
    assert (False, 174) == (wire.overfull, payload.total_bytes)
    wire.data_received(b"1\r\nx\r\n")
    wire.data_received(b"1\r\nx\r\n" * 20_000)

    assert (True, 175) == (wire.overfull, payload.total_bytes)


async def test_answer_after_a_refusal_is_none() -> None:
    """Once an answer is refused, what follows in the same bytes does not become one, read late or not."""
    wire = Wire(asyncio.get_running_loop(), Answers())
    wire.data_received(b"HTTP/1.1 100 Go\r\n\r\n" * 9 + hostile.OK)
    answer = wire.begin()

    with pytest.raises(TooManyInformational):
        await given(answer)


async def test_alert_of_tls_is_kept() -> None:
    """What TLS said when it broke reaches the waiting exchange as it is."""
    wire = Wire(asyncio.get_running_loop(), Answers())
    answer = wire.begin()
    wire.connection_lost(ssl.SSLError(1, "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED]"))

    with pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED"):
        await given(answer)
    assert not wire.unsent


async def test_socket_that_is_gone_has_nothing_unsent() -> None:
    """A connection whose socket is closed already tells nothing of what the other side took."""
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    transport, wire = await loop.create_connection(lambda: Wire(loop, Answers()), sock=ours)
    transport.close()
    await asyncio.sleep(0)
    theirs.close()

    assert not wire.unsent
