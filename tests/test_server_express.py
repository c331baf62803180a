"""Single events, past aiohttp's handler: answered as the route would, also while the disk or the client keeps us waiting."""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import threading
from contextlib import asynccontextmanager, closing
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
    from pathlib import Path

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
    """Of each request that the express was shown, whether it took it."""

    def __init__(self) -> None:
        self.found: list[bool] = []
        self.one = asyncio.Event()


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Taken:
    """What the express takes."""
    noted, take = Taken(), Express.take

    def note(*given: Any) -> Any:
        accepted = take(*given)
        noted.found.append(accepted is not None)
        if accepted is not None:
            noted.one.set()
        return accepted

    monkeypatch.setattr(Express, "take", note)
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
            await taken.one.wait()
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
            await taken.one.wait()
            client.writer.transport.abort()
            assert 200 == (await api("GET", "/livez")).status
        await api.publish()

        assert [("orphan",)] == api.rows("SELECT id FROM events ORDER BY seq LIMIT 1")
        assert [] == caplog.records


async def test_waiting_is_not_idling(tmp_path: Path, taken: Taken, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection whose client waits for the disk is not idle: it is not ended, and the next request waits."""
    monkeypatch.setattr(listener, "_KEEP_ALIVE", 0.05)
    async with serving(tmp_path) as api, Client(api) as client:
        async with held(tmp_path):
            client.send(plain())
            await taken.one.wait()
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
