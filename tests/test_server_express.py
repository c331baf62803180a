"""Single events, past aiohttp's handler: answered as the route would, also while the disk or the client keeps us waiting."""

from __future__ import annotations

import asyncio
import gc
import socket
import sqlite3
import threading
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, Self

import pytest
from api import JSON, SILENCE, Api, read_raw, serving
from hostile import on_both_loops
from patience import PATIENCE

from hookengine.config import Server
from hookengine.engine import DATABASE
from hookengine.server import listener
from hookengine.server.express import Express
from hookengine.service.events import EventOperations

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

EVENT = b'{"type": "order.created", "data": 1}'
LIVE = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"


def plain(body: bytes = EVENT, *more: str, path: str = "/v1/events", token: str = "{token}") -> bytes:
    """The bytes of a request that publishes *body*, and keeps its connection."""
    lines = ["Host: x", f"Authorization: Bearer {token}", *more, f"Content-Length: {len(body)}"]
    if not any(line.startswith("Content-Type:") for line in more):
        lines.append(f"Content-Type: {JSON}")
    return "\r\n".join([f"POST {path} HTTP/1.1", *lines, "", ""]).encode() + body


class Client:
    """A connection that is kept."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await self._api.dial()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    def send(self, *requests: bytes) -> None:
        """All of them in one segment."""
        self.writer.write(b"".join(requests).replace(b"{token}", self._api.token.encode()))

    async def answers(self, count: int) -> list[tuple[int, bytes]]:
        """Status and body of the next *count* answers."""
        found = []
        async with asyncio.timeout(PATIENCE):
            for _ in range(count):
                head = await self.reader.readuntil(b"\r\n\r\n")
                length = int(read_raw(head).headers["Content-Length"])
                found.append((read_raw(head).status, await self.reader.readexactly(length)))
        return found

    async def ended(self) -> bool:
        """Whether nothing more comes, because the server ended it, and not only as an idle one."""
        async with asyncio.timeout(PATIENCE / 3):
            return await self.reader.read() == b""


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """An API of its own."""
    async with serving(tmp_path) as served:
        yield served


@asynccontextmanager
async def held(folder: Path) -> AsyncIterator[None]:
    """No commit of the engine's goes through: another program has the database."""
    with closing(sqlite3.connect(folder / DATABASE, isolation_level=None, check_same_thread=False)) as db:
        await asyncio.to_thread(db.execute, "BEGIN IMMEDIATE")  # the engine may be about to commit something
        yield
        db.execute("ROLLBACK")


class Taken:
    """Of each request that the express was shown, whether it took it; and of which of these the head was known."""

    def __init__(self) -> None:
        self.found: list[bool] = []
        self.alike: list[int] = []
        self.one = asyncio.Event()

    async def first(self) -> None:
        """Return once one was taken."""
        async with asyncio.timeout(PATIENCE):
            await self.one.wait()


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Taken:
    """What the express takes."""
    noted, take, take_alike = Taken(), Express.take, Express.take_alike

    def note(*given: Any) -> Any:
        accepted = take(*given)
        noted.found.append(accepted is not None)
        if accepted is not None:
            noted.one.set()
        return accepted

    def note_alike(*given: Any) -> Any:
        accepted = take_alike(*given)
        if accepted is not None:  # else it is shown once more, when it is parsed
            noted.alike.append(len(noted.found))
            noted.found.append(True)
        return accepted

    monkeypatch.setattr(Express, "take", note)
    monkeypatch.setattr(Express, "take_alike", note_alike)
    return noted


@pytest.mark.parametrize("content_type", [JSON, f"{JSON}; charset=utf-8"])
async def test_answer_is_the_route_s(api: Api, taken: Taken, content_type: str) -> None:
    """What it answers has the status, the headers and the members of the route's answer."""
    async with Client(api) as client:
        client.send(plain(EVENT, f"Content-Type: {content_type}"), plain(EVENT, "Expect: 100-continue"))
        heads = []
        async with asyncio.timeout(PATIENCE):
            for _ in range(3):  # one of them says that the body may come
                heads.append(await client.reader.readuntil(b"\r\n\r\n"))
                length = int(read_raw(heads[-1]).headers.get("Content-Length", "0"))
                heads[-1] += await client.reader.readexactly(length)
        express, route = read_raw(heads[0]), read_raw(heads[2])

        assert [True, False] == taken.found
        assert (202, 202) == (express.status, route.status)
        assert sorted(express.headers) == sorted(route.headers)
        varying = {"Content-Length", "Date"}
        assert [express.headers[name] for name in route.headers if name not in varying] == [
            route.headers[name] for name in route.headers if name not in varying
        ]
        assert express.json.keys() == route.json.keys()
        assert [(express.json["id"],), (route.json["id"],)] == api.rows("SELECT id FROM events ORDER BY seq")


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(plain(EVENT, "Idempotency-Key: a"), id="key"),
        pytest.param(plain(EVENT, "Expect: 100-continue"), id="expectation"),
        pytest.param(plain(EVENT, "Content-Encoding: identity"), id="coding"),
        pytest.param(plain(EVENT, "Content-Type: text/plain"), id="media type"),
        pytest.param(plain(EVENT, "Connection: close"), id="last"),
        pytest.param(plain().replace(b"HTTP/1.1", b"HTTP/1.0"), id="version"),
        pytest.param(plain(path="/v1/events?a=b"), id="query"),
        pytest.param(plain(b"[%b]" % EVENT, path="/v1/events/batch"), id="batch"),
        pytest.param(plain(b""), id="empty"),
        pytest.param(plain(b"{oops"), id="syntax"),
        pytest.param(plain(b'{"type": "a"}'), id="mistake"),
        pytest.param(plain(b'{"type": "a", "data": 1, "data": 2}'), id="member twice"),
        pytest.param(plain(b'{"type": "a", "data": "' + b"x" * 70_000 + b'"}'), id="size"),
        pytest.param(plain(token="hkt_wrong"), id="token"),
        pytest.param(LIVE, id="another route"),
    ],
)
async def test_what_is_special_goes_by_the_route(tmp_path: Path, taken: Taken, request_: bytes) -> None:
    """It takes nothing that is not plain or not right, and the route answers that."""
    async with serving(tmp_path, server=Server(max_body=65536)) as api, Client(api) as client:
        client.send(request_)
        head = await client.reader.readuntil(b"\r\n\r\n")

    assert [False] == taken.found
    assert head.startswith(b"HTTP/1.")


async def test_order_of_pipelined_requests(api: Api, taken: Taken) -> None:
    """Requests that come together are answered one after the other, whoever answers them."""
    async with Client(api) as client:
        for n in range(0, 60, 3):
            events = [plain(b'{"type": "a", "data": 1, "id": "e-%d"}' % (n + i)) for i in range(3)]
            client.send(events[0], events[1], LIVE, plain(b"{oops"), events[2])
            answers = await client.answers(5)

            assert [202, 202, 200, 400, 202] == [status for status, _ in answers]
            assert [b'{"id":"e-%d"' % (n + i) for i in range(3)] == [answers[i][1].split(b",")[0] for i in (0, 1, 4)]
    assert 2 * 20 == taken.found.count(True)  # once the route has begun, it goes on with what is there


async def test_event_that_exists(api: Api, taken: Taken) -> None:
    """What only the disk can tell is a problem as well, after which the connection goes on; a repetition is none."""
    async with Client(api) as client:
        client.send(*(plain(b'{"type": "a", "id": "x", "data": %d}' % data) for data in (1, 2, 1)))
        answers = await client.answers(3)

        assert [202, 409, 202] == [status for status, _ in answers]
        assert b'"code":"event_exists"' in answers[1][1]
        assert [True] * 3 == taken.found


async def test_fault_of_its_own(api: Api, taken: Taken, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails here alone does not fail the request."""
    monkeypatch.setattr(EventOperations, "hand_in", None)
    async with Client(api) as client:
        client.send(plain())
        [(status, _)] = await client.answers(1)

    assert ([False], 202) == (taken.found, status)


async def test_storage_that_takes_nothing(api: Api, tmp_path: Path, taken: Taken) -> None:
    """Where the event cannot be stored, the client is told to come again, on another connection."""
    async with Client(api) as client:
        async with held(tmp_path):
            client.send(plain())
            [(status, body)] = await client.answers(1)

        assert ([True], 503) == (taken.found, status)
        assert b'"code":"storage_unavailable"' in body
        assert await client.ended()


async def test_stop_waits_for_the_answer(tmp_path: Path, taken: Taken) -> None:
    """An event that waits for the disk when the engine stops is answered before the connection ends."""
    async with serving(tmp_path) as api, Client(api) as client:
        async with held(tmp_path):
            client.send(plain(b'{"type": "a", "id": "last", "data": 1}'))
            await taken.first()
            stopping = asyncio.create_task(api.engine.stop())
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(asyncio.shield(stopping), SILENCE)
        [(status, body)] = await client.answers(1)
        await stopping

        assert (202, True) == (status, b'"id":"last"' in body)
        assert await client.ended()


async def test_client_that_is_gone(api: Api, tmp_path: Path, taken: Taken, caplog: pytest.LogCaptureFixture) -> None:
    """An event whose client did not wait is accepted all the same, and nobody hears of it."""
    async with Client(api) as client:
        async with held(tmp_path):
            client.send(plain(b'{"type": "a", "id": "orphan", "data": 1}'))
            await taken.first()
            client.writer.transport.abort()
            assert 200 == (await api("GET", "/livez")).status
        await api.publish()

        assert [("orphan",)] == api.rows("SELECT id FROM events ORDER BY seq LIMIT 1")
        assert [] == caplog.records


async def test_client_that_is_gone_when_storage_takes_nothing(
    api: Api, tmp_path: Path, taken: Taken, caplog: pytest.LogCaptureFixture
) -> None:
    """An event that cannot be stored, and whose client did not wait, is nobody's business: the log has no traceback of it."""
    async with Client(api) as client, Client(api) as other, held(tmp_path):
        client.send(plain())
        await taken.first()
        client.writer.transport.abort()
        assert 200 == (await api("GET", "/livez")).status
        other.send(plain())
        [(status, _)] = await other.answers(1)
    gc.collect()

    assert 503 == status
    assert [] == [record for record in caplog.records if record.name == "asyncio"]


async def test_waiting_is_not_idling(tmp_path: Path, taken: Taken, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection whose client waits for the disk is not idle: it is not ended, and the next request waits."""
    monkeypatch.setattr(listener, "_KEEP_ALIVE", SILENCE / 2)  # which begins with the connection
    async with serving(tmp_path) as api, AsyncExitStack() as stack:
        async with held(tmp_path):
            client = await stack.enter_async_context(Client(api))
            client.send(plain())
            await taken.first()
            client.send(LIVE)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.reader.read(), SILENCE)
        answers = await client.answers(2)

        assert [202, 200] == [status for status, _ in answers]
        assert await client.ended()


async def test_half_a_request_after_a_whole_one(api: Api, taken: Taken) -> None:
    """A request in pieces is answered as well: what is not all here is no matter for the express."""
    async with Client(api) as client:
        whole = plain()
        client.send(whole, whole[:-5])
        [first] = await client.answers(1)
        client.send(whole[-5:])
        [second] = await client.answers(1)

        assert [202, 202] == [first[0], second[0]]
        assert [True, False] == taken.found


def test_client_that_is_quicker_than_the_handler(tmp_path: Path, taken: Taken, monkeypatch: pytest.MonkeyPatch) -> None:
    """The route answers, and before it waits for more there is more: that is taken as well, and answered after it."""
    finish, sent = listener._Connection.finish_response, threading.Semaphore(0)

    async def linger(*given: Any) -> Any:
        finished = await finish(*given)
        sent.acquire(timeout=PATIENCE)  # by the client, who is in another thread
        return finished

    def ask(host: str, port: int, token: bytes) -> bytes:
        with closing(socket.create_connection((host, port), PATIENCE)) as sock:
            answers = b""
            for number, asked in enumerate([LIVE, plain(), LIVE, plain(), plain()], 1):
                sock.sendall(asked.replace(b"{token}", token))
                if number in {2, 4}:  # after an answer of the route's
                    sent.release()
                while answers.count(b"HTTP/1.1 ") < number or not answers.endswith(b"}"):
                    answers += sock.recv(65536)
            return answers

    async def scenario() -> None:
        async with serving(tmp_path) as api:
            assert api.engine.url is not None
            host, _, port = api.engine.url.removeprefix("http://").rpartition(":")
            answers = await asyncio.to_thread(ask, host, int(port), api.token.encode())

        assert [b"200", b"202", b"200", b"202", b"202"] == [part[:3] for part in answers.split(b"HTTP/1.1 ")[1:]]
        assert [False, True, False, True, True] == taken.found[-5:]

    monkeypatch.setattr(listener._Connection, "finish_response", linger)
    on_both_loops(scenario)  # uvloop looks at sockets before tasks go on


async def ids(api: Api) -> list[str]:
    """Of the events, in their order."""
    return [id_ for (id_,) in api.rows("SELECT id FROM events ORDER BY seq")]


def numbered(number: int, *more: str, size: int = 1, token: str = "{token}") -> bytes:
    """A request with an event of that number."""
    return plain(b'{"type": "a", "id": "e-%d", "data": "%b"}' % (number, b"x" * size), *more, token=token)


def test_head_that_is_known(tmp_path: Path, taken: Taken) -> None:
    """Of requests with the same head the first is parsed; whatever the length of their bodies, all are answered alike."""

    async def scenario() -> None:
        taken.found.clear()
        taken.alike.clear()
        async with serving(Path(mkdtemp(dir=tmp_path))) as api, Client(api) as client:
            heads = set()
            for number, size in enumerate((1, 1, 9, 90, 900, 9_000, 1)):
                client.send(numbered(number, size=size))
                async with asyncio.timeout(PATIENCE):
                    head = await client.reader.readuntil(b"\r\n\r\n")
                    body = await client.reader.readexactly(int(read_raw(head).headers["Content-Length"]))
                heads.add(tuple(name for name in read_raw(head).headers))
                assert (202, True) == (read_raw(head).status, b'"id":"e-%d"' % number in body)
            sizes = api.rows("SELECT length(data) - 2 FROM events ORDER BY seq DESC LIMIT 7")

        assert [(1,), (9_000,), (900,), (90,), (9,), (1,), (1,)] == sizes
        assert 1 == len(heads)
        assert ([True] * 7, [1, 2, 3, 4, 5, 6]) == (taken.found, taken.alike)

    on_both_loops(scenario)


@pytest.mark.parametrize(
    "between",
    [
        pytest.param([LIVE], id="another route"),
        pytest.param([numbered(9, "X-Trace: 1")], id="another head"),
        pytest.param([numbered(9, "Idempotency-Key: a")], id="key"),
        pytest.param([plain(b"[%b]" % EVENT, path="/v1/events/batch")], id="batch"),
        pytest.param([plain(b"{oops")], id="mistake"),
    ],
)
async def test_head_is_known_again(api: Api, taken: Taken, between: list[bytes]) -> None:
    """After another request that came alone a head is known once more, at the latest after one with it."""
    async with Client(api) as client:
        for request_ in [numbered(0), numbered(1), *between, numbered(2), numbered(3)]:
            client.send(request_)
            await client.answers(1)

    assert {1, len(taken.found) - 1} <= set(taken.alike)
    assert ["e-0", "e-1", "e-2", "e-3"] == [id_ for id_ in await ids(api) if id_ in {"e-0", "e-1", "e-2", "e-3"}]


PIECES = [
    pytest.param([b"GET /livez HTTP/1.1\r\nX: ", numbered(9)], id="in a field's value"),
    pytest.param([b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n", numbered(9)], id="in a body"),
    pytest.param(
        [b"POST /v1/events HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", numbered(9)],
        id="in place of a chunk",
    ),
    pytest.param([b"G", numbered(9)], id="in a method"),
    pytest.param([LIVE + b"POST /v1/eve", numbered(9)], id="in the target of the second of two"),
    pytest.param([LIVE + LIVE + b"GET /livez?", numbered(9)], id="in the target of the third of three"),
]


@pytest.mark.parametrize("pieces", PIECES)
async def test_what_looks_like_a_request_in_another_one(api: Api, taken: Taken, pieces: list[bytes]) -> None:
    """Where the parser is in the middle of something, what has a known head is a part of that."""
    async with Client(api) as client:
        for number in range(2):
            client.send(numbered(number))
            await client.answers(1)
        before, inner = pieces
        client.send(before)
        await client.answers(before.count(LIVE))
        assert 200 == (await api("GET", "/livez")).status  # by now it has come
        client.send(inner, b"\r\n\r\n")
        client.writer.write_eof()
        async with asyncio.timeout(PATIENCE):
            await client.reader.read()

    assert [1] == taken.alike
    assert ["e-0", "e-1"] == await ids(api)


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(numbered(9)[:-1], id="shorter"),
        pytest.param(numbered(9) + b" ", id="longer"),
        pytest.param(numbered(9).replace(b"Content-Length: ", b"Content-Length: +"), id="sign"),
        pytest.param(numbered(9).replace(b"Content-Length: ", b"Content-Length: 0x"), id="hexadecimal"),
        pytest.param(numbered(9).replace(b"Content-Length: ", b"Content-Length: 1, "), id="list"),
        pytest.param(numbered(9).replace(b"\r\n", b"\n"), id="line feeds"),
        pytest.param(numbered(9).replace(b"application/json", b"application/xson"), id="field behind the length"),
        pytest.param(numbered(9).replace(b"Host: x", b"Host: y"), id="field before the length"),
        pytest.param(plain(b""), id="empty"),
    ],
)
async def test_almost_a_known_head(api: Api, taken: Taken, request_: bytes) -> None:
    """What differs in more than the length of its body, and what is not all here, is for the parser."""
    async with Client(api) as client:
        for number in range(2):
            client.send(numbered(number))
            await client.answers(1)
        client.send(request_)
        client.writer.write_eof()
        async with asyncio.timeout(PATIENCE):
            await client.reader.read()

    assert [1] == taken.alike


async def test_known_head_of_a_token_that_is_gone(api: Api, taken: Taken) -> None:
    """A head opens what its token opens at that moment, and each head what its own token does."""
    made = (await api("POST", "/v1/tokens", {"user": "producer"})).json
    async with Client(api) as client:
        for number, token in enumerate([made["token"], made["token"], "{token}", made["token"]]):
            client.send(numbered(number, token=token))
            assert 202 == (await client.answers(1))[0][0]
        await api("DELETE", "/v1/tokens/producer")
        client.send(numbered(9, token=made["token"]))
        [(status, _)] = await client.answers(1)

    assert ([2], 401) == (taken.alike, status)  # the first that was shown made the token
    assert ["e-0", "e-1", "e-2", "e-3"] == await ids(api)


async def test_known_head_where_the_limit_is_reached(tmp_path: Path, taken: Taken) -> None:
    """Whoever publishes too fast is told so, whether the head is known or not."""
    async with serving(tmp_path, server=Server(events_per_second=3)) as api, Client(api) as client:
        statuses = []
        for number in range(4):
            client.send(numbered(number))
            statuses += [status for status, _ in await client.answers(1)]

    assert [202, 202, 202, 429] == statuses
    assert [1, 2] == taken.alike


async def test_request_to_change_the_protocol(api: Api, taken: Taken) -> None:
    """It is answered as if it did not ask for that, by the route, and so is what comes after it."""
    async with Client(api) as client:
        for request_ in (numbered(0), numbered(1, "Connection: Upgrade", "Upgrade: websocket"), numbered(2), numbered(3)):
            client.send(request_)
            assert 202 == (await client.answers(1))[0][0]

    assert ([True, False, True, True], []) == (taken.found, taken.alike)


async def test_long_head_is_not_kept(api: Api, taken: Taken) -> None:
    """What a connection remembers takes little memory: a head of many bytes is parsed each time."""
    async with Client(api) as client:
        for number in range(2):
            client.send(numbered(number, f"X: {'x' * 2048}"))
            assert 202 == (await client.answers(1))[0][0]

    assert ([True] * 2, []) == (taken.found, taken.alike)


async def test_known_head_above_too_large_a_body(tmp_path: Path, taken: Taken) -> None:
    """A body of more than the bytes that are taken is refused, whatever is above it."""
    async with serving(tmp_path, server=Server(max_body=1000)) as api, Client(api) as client:
        statuses = []
        for number, size in enumerate((1, 900, 1_000)):
            client.send(numbered(number, size=size))
            statuses += [status for status, _ in await client.answers(1)]

    assert ([202, 202, 413], [1]) == (statuses, taken.alike)


async def test_head_of_a_request_in_two_pieces(api: Api, taken: Taken) -> None:
    """What was parsed in two pieces, of which the second looks like a whole request, has not the head of that."""
    async with Client(api) as client:
        client.send(b"POST /v1/events HTTP/1.1\r\nX: ")
        assert 200 == (await api("GET", "/livez")).status  # by now it has come
        for number in range(3):
            client.send(numbered(number))
            assert 202 == (await client.answers(1))[0][0]

    assert ([True] * 3, []) == (taken.found[-3:], taken.alike)


async def test_head_of_another_request(api: Api, tmp_path: Path, taken: Taken) -> None:
    """The head that is remembered is of the very request that was taken, though another one has come since."""
    keyed = plain(EVENT, "Idempotency-Key: a")
    async with Client(api) as client:
        async with held(tmp_path):
            for request_ in (numbered(0), numbered(1), keyed):
                client.send(request_)
                assert 200 == (await api("GET", "/livez")).status  # by now it has come
        await client.answers(3)
        client.send(keyed)
        [(status, _)] = await client.answers(1)

    assert (202, []) == (status, taken.alike)
    assert 3 == len(await ids(api))


async def test_requests_that_come_together_are_parsed(api: Api, taken: Taken) -> None:
    """A known head is of use only to what comes alone; of two that come together both are answered, in their order."""
    async with Client(api) as client:
        client.send(numbered(0))
        await client.answers(1)
        client.send(numbered(1), numbered(2))
        answers = await client.answers(2)

    assert [b'{"id":"e-1"', b'{"id":"e-2"'] == [body.split(b",")[0] for _, body in answers]
    assert ([True] * 3, []) == (taken.found, taken.alike)
