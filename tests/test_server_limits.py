"""Clients that ask too often, and those that are too slow."""

from __future__ import annotations

import asyncio
import re
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from api import read_raw, request, serving
from hostile import on_both_loops
from patience import PATIENCE

from hookengine.config import Server
from hookengine.errors import Overloaded
from hookengine.server import asked
from hookengine.server.limits import InHand, Limit, Room, site_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine
    from pathlib import Path

    from api import Api


# How often.


def test_limit_is_for_a_period() -> None:
    """So many may come at once, then one more for each part of it that goes by; nothing is saved up."""
    limit = Limit(10, 5.0)
    for _ in range(10):
        assert 0 == limit.wait("a", 100.0)
        limit.count("a", 100.0)

    assert limit.wait("a", 100.0) == pytest.approx(0.5, abs=0.01)
    assert 0 == limit.wait("a", 100.5)
    assert 0 == limit.wait("b", 100.0)
    for _ in range(10):
        assert 0 == limit.wait("a", 1000.0)
        limit.count("a", 1000.0)
    assert limit.wait("a", 1000.0) > 0


def test_more_than_were_left_is_waited_off() -> None:
    """Ten times as many in one go as there may be are waited off ten times as long."""
    limit = Limit(10, 1.0)
    limit.count("a", 0.0, 100)

    assert limit.wait("a", 0.0) == pytest.approx(9.1, abs=0.01)
    assert limit.wait("a", 9.0) > 0
    assert 0 == limit.wait("a", 9.1)


def taken(in_hand: InHand, size: int, tenant: str | None = None) -> Room:
    """Room for a body of *size* bytes."""
    room = Room(tenant)
    in_hand.take(room, size)
    return room


def test_bodies_in_hand_are_bounded() -> None:
    """There is room for so many bytes together, or for one body that is larger, until they are given back."""
    in_hand = InHand(100)
    first, second = taken(in_hand, 60), taken(in_hand, 40)
    with pytest.raises(Overloaded):
        taken(in_hand, 1)
    in_hand.give_back(second)
    second = taken(in_hand, 40)
    in_hand.give_back(second)
    in_hand.give_back(first)
    alone = taken(in_hand, 60)
    in_hand.take(alone, 1_000)  # it grows
    with pytest.raises(Overloaded):
        taken(in_hand, 1)
    in_hand.give_back(alone)
    taken(in_hand, 100)


def test_tenant_has_half_of_the_room() -> None:
    """Those who are bound to one tenant leave the other half to others; one larger body of theirs is taken alone."""
    in_hand = InHand(100)
    first = taken(in_hand, 30, "a")
    with pytest.raises(Overloaded):
        taken(in_hand, 21, "a")
    others = [taken(in_hand, 20, "a"), taken(in_hand, 25, "b"), taken(in_hand, 25)]
    for room in (first, *others):
        in_hand.give_back(room)
    taken(in_hand, 80, "a")
    with pytest.raises(Overloaded):
        taken(in_hand, 1, "a")
    taken(in_hand, 20, "b")


async def test_body_without_room_is_refused_unread(tmp_path: Path) -> None:
    """While bodies of others fill the room, one more is 429 with a time to come again; when they are done there is room."""
    async with serving(tmp_path, server=Server(max_batch_body=67_000_000)) as api:
        head = request("POST", "/v1/events/batch", Content_Type="application/json", Content_Length="67000000")
        _, writer = await api.dial()
        writer.write(head.replace(b"{token}", api.token.encode()))
        await writer.drain()
        events = [{"type": "a", "data": "x" * 200_000}] * 4
        async with asyncio.timeout(PATIENCE):
            while (refused := await api("POST", "/v1/events/batch", events)).status == 202:
                pass  # the other one is not there yet
        assert (429, "overloaded", "1") == (refused.status, refused.json["code"], refused.headers["Retry-After"])
        assert 202 == (await api("POST", "/v1/events", {"type": "a", "data": 1})).status
        writer.close()
        async with asyncio.timeout(PATIENCE):
            while (await api("POST", "/v1/events/batch", events)).status != 202:
                pass  # nor gone yet


async def test_body_of_untold_size_keeps_nobody_back(tmp_path: Path) -> None:
    """Room is taken as it comes: however many have begun to send one, others are heard."""
    async with serving(tmp_path) as api:
        head = request("POST", "/v1/events/batch", Content_Type="application/json", Transfer_Encoding="chunked")
        begun = [await api.dial() for _ in range(8)]
        for _, writer in begun:
            writer.write(head.replace(b"{token}", api.token.encode()))
            await writer.drain()
        answers = [await api("POST", "/v1/events/batch", [{"type": "a", "data": 1}]) for _ in range(8)]
        async with asyncio.timeout(PATIENCE):
            for reader, writer in begun:
                writer.write(b"19\r\n" + b'[{"type": "a", "data": 1}]'[:25] + b"\r\n1\r\n]\r\n0\r\n\r\n")
                assert b" 202 " in (await reader.readline())
                writer.close()

    assert {202} == {answer.status for answer in answers}


async def test_untold_size_is_bounded_as_it_comes(tmp_path: Path) -> None:
    """What comes in chunks beyond the room that there is, is 429 in the middle, and the room is there again."""
    async with serving(tmp_path, server=Server(max_batch_body=67_000_000)) as api:
        large = request("POST", "/v1/events/batch", Content_Type="application/json", Content_Length="67000000")
        _, writer = await api.dial()
        writer.write(large.replace(b"{token}", api.token.encode()))
        await writer.drain()
        head = request("POST", "/v1/events/batch", Content_Type="application/json", Transfer_Encoding="chunked")
        chunk = b"f4240\r\n" + b" " * 1_000_000 + b"\r\n"
        async with asyncio.timeout(PATIENCE):
            while (refused := read_raw(await api.send(head, chunk, b"0\r\n\r\n"))).status != 429:
                assert 400 == refused.status  # the other one is not there yet
        writer.close()
        assert "overloaded" == refused.json["code"]
        async with asyncio.timeout(PATIENCE):
            while (await api("POST", "/v1/events/batch", [{"type": "a", "data": 1}])).status != 202:
                pass


def test_no_limit() -> None:
    """With 0 nobody waits, and nobody is remembered."""
    limit = Limit(0, 1.0)
    limit.count("a", 0.0, 10**9)

    assert 0 == limit.wait("a", 0.0)
    assert {} == limit._even_at


def test_limit_remembers_the_latest() -> None:
    """Memory is bounded: of more clients than are known, the one that has done nothing for longest is forgotten."""
    limit = Limit(1, 60.0, known=3)
    for who in ("a", "b", "c", "a", "d"):
        limit.count(who, 0.0)

    assert {"c", "a", "d"} == limit._even_at.keys()
    for number in range(10_000):
        limit.count(str(number), 0.0)
    assert 3 == len(limit._even_at)


@pytest.mark.parametrize(
    ("address", "site"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::"),
        ("fe80::1%eth0", "fe80::"),
        ("", ""),
        (None, ""),
    ],
)
def test_site(address: str | None, site: str) -> None:
    """An IPv4 address is a place, and so is an IPv6 network that one client has all of."""
    assert site == site_of(address)


# Without a valid token.


@pytest.fixture
async def strict(tmp_path: Path) -> AsyncIterator[Api]:
    """A server that soon has enough."""
    async with serving(tmp_path, server=Server(failed_auth_per_minute=20, events_per_second=5)) as made:
        yield made


@pytest.mark.row("I57")
async def test_bad_tokens_are_limited(strict: Api) -> None:
    """Too many requests without a valid token are told to wait, at once and cheaply; valid ones from there are taken."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    answers = await asyncio.gather(*(strict("GET", "/v1/events", token=f"hke_{n}") for n in range(1000)))
    took = loop.time() - begun
    statuses = [answer.status for answer in answers]

    assert 20 <= statuses.count(401) <= 21 + took / 3
    assert 1000 == statuses.count(401) + statuses.count(429)
    refused = next(answer for answer in answers if answer.status == 429)
    assert "rate_limited" == refused.json["code"]
    assert 1 <= int(refused.headers["Retry-After"]) <= 3
    assert 200 == (await strict("GET", "/v1/events")).status
    assert 202 == (await strict("POST", "/v1/events", {"type": "a", "data": 1})).status


@pytest.mark.row("I58")
@pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Real-IP", "Forwarded", "True-Client-IP"])
async def test_address_is_that_of_the_connection(strict: Api, header: str) -> None:
    """A header that tells another address each time is no way around the limit, and no way to use up somebody else's."""
    told = [f"for=198.51.100.{n}" if header == "Forwarded" else f"198.51.100.{n}" for n in range(30)]

    statuses = [(await strict("GET", "/v1/events", token="x", headers={header: each})).status for each in told]

    assert [401] * 20 + [429] * 10 == statuses
    assert 1 == len(strict.engine._running.server._runner.app[asked.FAILED]._even_at)  # type: ignore[union-attr]  # it serves


async def test_default_lets_mistakes_pass(tmp_path: Path) -> None:
    """Without configuration some hundreds of wrong tokens a minute are told that they are wrong, and a flood is limited."""
    loop = asyncio.get_running_loop()
    async with serving(tmp_path) as api:
        begun = loop.time()
        statuses = [answer.status for answer in await asyncio.gather(*(api("GET", "/", token="x") for _ in range(400)))]
        took = loop.time() - begun

    assert 300 <= statuses.count(401) <= 301 + took * 5
    assert 400 == statuses.count(401) + statuses.count(429)


# Publishing.


async def test_token_that_publishes_too_fast(strict: Api) -> None:
    """Where it is configured, one token's flood is refused before anything is kept, and every 202 of it is kept."""
    other = (await strict.made("/v1/tokens", {"user": "other"}))["token"]
    event = {"type": "a", "data": 1}

    answers = [await strict("POST", "/v1/events", event) for _ in range(20)]
    accepted = [answer for answer in answers if answer.status == 202]
    refused = [answer for answer in answers if answer.status == 429]

    assert 20 == len(accepted) + len(refused)
    assert 5 <= len(accepted) < 20
    assert len(accepted) == strict.counts()["events"]
    assert {("rate_limited", "1")} == {(answer.json["code"], answer.headers["Retry-After"]) for answer in refused}
    assert 202 == (await strict("POST", "/v1/events", event, token=other)).status
    assert 200 == (await strict("GET", "/v1/events")).status


async def test_what_is_refused_does_not_count(strict: Api) -> None:
    """Events that are not accepted are not published: what is right comes through after a large batch that is not."""
    wrong = [{"type": "a", "data": 1}] * 999 + [{"type": "a b", "data": 1}]
    refused = [await strict("POST", "/v1/events/batch", wrong), await strict("POST", "/v1/events", wrong[-1])]

    assert [422, 422] == [answer.status for answer in refused]
    assert 202 == (await strict("POST", "/v1/events", wrong[0])).status


async def test_what_comes_at_once_counts_at_once(strict: Api) -> None:
    """Of two batches whose heads were there before either was counted, one is taken."""
    body = b"[" + b",".join([b'{"type":"a","data":1}'] * 50) + b"]"
    both = [await strict.dial() for _ in range(2)]
    sent = request("POST", "/v1/events/batch", body).replace(b"{token}", strict.token.encode())
    for _, writer in both:
        writer.write(sent.removesuffix(body))
        await writer.drain()
    assert 200 == (await strict("GET", "/v1/events")).status  # by now their heads are read
    for _, writer in both:
        writer.write(body)
    async with asyncio.timeout(PATIENCE):
        answers = [read_raw(await reader.read()) for reader, _ in both]
    for _, writer in both:
        writer.close()

    assert [202, 429] == sorted(answer.status for answer in answers)
    assert 50 == strict.counts()["events"]


async def test_batch_is_taken_whole_and_waited_off(strict: Api) -> None:
    """A batch counts as its events: it is taken all or none, and what comes after it waits accordingly."""
    batch = [{"type": "a", "data": n} for n in range(50)]

    first = await strict("POST", "/v1/events/batch", batch)
    second = await strict("POST", "/v1/events/batch", batch)

    assert [202, 429] == [first.status, second.status]
    assert 8 <= int(second.headers["Retry-After"]) <= 10
    assert 50 == strict.counts()["events"]


async def test_refused_before_its_body_is_read(strict: Api) -> None:
    """A client that asks first is not let to send what would be refused."""
    await strict("POST", "/v1/events/batch", [{"type": "a", "data": n} for n in range(50)])

    answer = await strict.send(request("POST", "/v1/events", b"{}", Expect="100-continue"))

    assert answer.startswith(b"HTTP/1.1 429 ")


# Slow clients.


def patience_of(api: Api) -> asked.Patience:
    """What the server of *api* has with its clients; it can be set."""
    server = api.engine._running.server
    assert server is not None
    return server.patience


def connections_of(api: Api) -> set[object]:
    """Those that the server of *api* holds."""
    server = api.engine._running.server
    assert server is not None
    assert server._runner.server is not None
    return set(server._runner.server.connections)


async def drip(answering: Coroutine[None, None, bytes], writer: asyncio.StreamWriter, text: bytes) -> bytes:
    """What *answering* reads while *text* is sent byte by byte, for as long as nothing is answered."""
    answered = asyncio.create_task(answering)
    try:
        for at in range(len(text)):
            writer.write(text[at : at + 1])
            done, _ = await asyncio.wait([answered], timeout=0.02)
            if done:
                break
        return await answered
    except ConnectionError:
        return b""
    finally:
        answered.cancel()
        writer.close()


@pytest.mark.row("I64")
@pytest.mark.parametrize("before", [b"", b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"], ids=["first", "second"])
def test_head_that_drips(tmp_path: Path, before: bytes) -> None:
    """A head that comes byte by byte ends its connection soon, however steadily it comes."""

    async def scenario() -> None:
        async with serving(tmp_path) as api, asyncio.timeout(PATIENCE):
            patience_of(api).head = 0.2
            reader, writer = await api.dial()
            writer.write(before)
            if before:
                assert b"200 OK" in await reader.readuntil(b"}")
            assert b"" == await drip(reader.read(), writer, b"GET /livez HTTP/1.1\r\nX: " + b"x" * 4000)

    on_both_loops(scenario)


LIVE = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
CHUNKED = b"POST /livez HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
SIZED = request("POST", "/livez", b"{}", Connection="keep-alive")
PUBLISHED = request("POST", "/v1/events", b'{"type": "a", "data": 1}', Connection="keep-alive")


@pytest.mark.row("I64")
@pytest.mark.parametrize(
    "before",
    [b"", LIVE, SIZED, CHUNKED, LIVE + SIZED, PUBLISHED, 70 * LIVE],
    ids=["first", "no body", "sized", "chunked", "two", "published", "more than aiohttp parses at once"],
)
def test_head_that_comes_with_something_else(tmp_path: Path, before: bytes) -> None:
    """Nor does one last that begins with the connection, or behind a whole request; a connection without one stays."""

    async def scenario() -> None:
        async with serving(tmp_path) as api, asyncio.timeout(PATIENCE / 2):
            patience_of(api).head = 0.2
            whole = before.replace(b"{token}", api.token.encode())
            async with at_once(api, whole or LIVE) as (idle, writer):
                await idle.readuntil(b"}")
                async with at_once(api, whole + b"GET /livez HTTP/1.1\r\nHo") as (reader, _):
                    assert before.count(b"HTTP/1.1") == (await reader.read()).count(b"HTTP/1.1")
                writer.write(request("GET", "/livez"))
                assert (await idle.read()).endswith(b'{"status":"ok"}')

    on_both_loops(scenario)


def test_head_that_waits_behind_a_request(tmp_path: Path) -> None:
    """While the request before it is under way, a head that has begun ends nothing."""

    async def scenario() -> None:
        async with serving(tmp_path) as api, asyncio.timeout(PATIENCE / 2):
            patience_of(api).head = 0.2
            stream = request("GET", "/v1/stream", Connection="keep-alive").replace(b"{token}", api.token.encode())
            async with at_once(api, stream + b"GET /livez HTTP/1.1\r\nHo") as (reader, _):
                assert b"200 OK" in await reader.readuntil(b": ")
                for _ in range(3):
                    async with at_once(api, b"GET /liv") as (other, _):
                        await other.read()
                await api.subscribe()
                await reader.readuntil(b"created")

    on_both_loops(scenario)


@asynccontextmanager
async def at_once(api: Api, sent: bytes) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection on which *sent* is there before the server takes it."""
    client = socket.create_connection(("127.0.0.1", int((api.engine.url or "").rpartition(":")[2])))
    client.sendall(sent)
    reader, writer = await asyncio.open_connection(sock=client)
    try:
        yield reader, writer
    finally:
        writer.close()


@pytest.mark.row("I64")
@pytest.mark.parametrize("path", ["/v1/events", "/v1/events/batch", "/v1/subscriptions", "/v1/subscriptions/x/enable"])
def test_body_that_drips(tmp_path: Path, path: str) -> None:
    """A body that comes byte by byte is told that it takes too long, and its connection ends."""

    async def scenario() -> None:
        async with serving(tmp_path) as api, asyncio.timeout(PATIENCE):
            patience_of(api).body = 0.2
            reader, writer = await api.dial()
            head = request("POST", path, Connection="keep-alive", Content_Type="application/json", Content_Length="5000")
            writer.write(head.replace(b"{token}", api.token.encode()))
            answered = read_raw(await drip(reader.readuntil(b"}"), writer, b" " * 4000))

            assert (408, "request_timeout") == (answered.status, answered.json["code"])

    on_both_loops(scenario)


@pytest.mark.row("I64")
@pytest.mark.parametrize(
    ("size", "times", "connection"),
    [
        pytest.param(50_000, 50, "keep-alive", id="many small"),
        pytest.param(8_000_000, 1, "keep-alive", id="one large"),
        pytest.param(8_000_000, 1, "close", id="the last"),
    ],
)
def test_answer_that_is_not_taken(tmp_path: Path, size: int, times: int, connection: str) -> None:
    """A client that asks and does not read loses its connection, also where the server has no more to do for it."""

    async def scenario() -> None:
        async with serving(tmp_path) as api, asyncio.timeout(PATIENCE):
            event = await api.engine.publish("a", "x" * size)
            patience_of(api).taking = 0.2
            await api("GET", "/livez")
            before = connections_of(api)  # the one that goes on to ask
            async with unread(api, request("GET", f"/v1/events/{event.id}", Connection=connection) * times):
                while connections_of(api) <= before:
                    await api("GET", "/livez")
                while not connections_of(api) <= before:
                    await api("GET", "/livez")

    on_both_loops(scenario)


@asynccontextmanager
async def unread(api: Api, sent: bytes) -> AsyncIterator[None]:
    """A connection on which *sent* was sent, and whose answers nobody reads."""
    loop = asyncio.get_running_loop()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.setblocking(False)
        await loop.sock_connect(client, ("127.0.0.1", int((api.engine.url or "").rpartition(":")[2])))
        await loop.sock_sendall(client, sent.replace(b"{token}", api.token.encode()))
        yield


@pytest.mark.row("I64")
async def test_slow_reader_that_goes_on_is_served(tmp_path: Path) -> None:
    """An answer larger than what the system holds for a client arrives whole, however slowly it begins to read."""
    async with serving(tmp_path) as api:
        event = await api.publish(data="x" * 900_000)
        reader, writer = await api.dial()
        writer.write(request("GET", f"/v1/events/{event['id']}").replace(b"{token}", api.token.encode()))
        answered = b""
        async with asyncio.timeout(PATIENCE):
            while piece := await reader.read(10_000):
                answered += piece
                await api("GET", "/livez")
        writer.close()

    assert 200 == read_raw(answered).status
    assert re.search(rb'"x{900000}"', answered)
