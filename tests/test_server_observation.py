"""Metrics and the live stream over HTTP."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from api import serving
from engines import Gate, blocked_reader, blocked_writer, limit_pages
from patience import PATIENCE
from prometheus_client.parser import text_string_to_metric_families

from hookengine import stream
from hookengine.access import OWNER, Principal, Scope, digest
from hookengine.cli.tail import events
from hookengine.clock import Clock
from hookengine.config import Config
from hookengine.observers import SubscriptionChanged
from hookengine.receiver import Receiver
from hookengine.server import asked, listener, problems
from hookengine.times import format_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from api import Api


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """A server."""
    async with serving(tmp_path) as made:
        yield made


BOUND = "hke_bound"  # opens a `second` server for one tenant


class Reading:
    """A connection of one's own that reads a stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.head = b""
        self.place: str | None = None  # to go on from, before anything has come
        self._buffer = b""

    async def block(self) -> tuple[str | None, Any]:
        """Id and data of the next event or comment."""
        async with asyncio.timeout(PATIENCE):
            while b"\n\n" not in self._buffer:
                size = int(await self.reader.readline(), 16)
                self._buffer += (await self.reader.readexactly(size + 2))[:-2]
                if not size:
                    raise EOFError
        block, _, self._buffer = self._buffer.partition(b"\n\n")
        [(id_, data)] = events([*block.split(b"\n"), b""])
        return id_, None if data is None else orjson.loads(data)

    async def item(self) -> Any:
        """The next item."""
        while True:
            _, data = await self.block()
            if data is not None:
                return data


@asynccontextmanager
async def following(api: Api, path: str = "/v1/stream", *, port: int | None = None, **headers: str) -> AsyncIterator[Reading]:
    """A stream whose first bytes have come."""
    assert api.engine.url is not None
    number = port or int(api.engine.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", number)
    lines = {"Host": "x", "Authorization": f"Bearer {api.token}"} | {n.replace("_", "-"): v for n, v in headers.items()}
    writer.write(f"GET {path} HTTP/1.1\r\n".encode() + b"".join(f"{n}: {v}\r\n".encode() for n, v in lines.items()) + b"\r\n")
    read = Reading(reader, writer)
    try:
        async with asyncio.timeout(PATIENCE):
            read.head = await reader.readuntil(b"\r\n\r\n")
        assert read.head.startswith(b"HTTP/1.1 200 ")
        read.place, nothing = await read.block()
        assert nothing is None
        yield read
    finally:
        writer.close()


@asynccontextmanager
async def second(api: Api, **settings: Any) -> AsyncIterator[tuple[listener.Server, int]]:
    """A further server of the same engine, with other settings of its streams, and its port."""
    tokens = {digest(api.token): OWNER, digest(BOUND): Principal(user="b", tenant="b", scopes=frozenset(Scope))}
    server = listener.Server(api.engine._service, tokens=tokens, config=Config())
    for name, value in settings.items():
        setattr(server._runner.app[asked.STREAMING], name, value)
    await server.start(await listener.bind("127.0.0.1:0"))
    try:
        yield server, int(server.url.rpartition(":")[2])
    finally:
        await server.close()


def streams(server: listener.Server) -> int:
    """How many streams are open."""
    return len(server._runner.app[asked.STREAMING].open)


async def test_metrics(api: Api) -> None:
    """A scraper with a token of the admin's gets the numbers, in the format that it asks for."""
    await api.publish()
    answer = await api("GET", "/metrics")
    newer = await api("GET", "/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"})

    assert (200, "text/plain; version=0.0.4; charset=utf-8") == (answer.status, answer.headers["Content-Type"])
    found = {sample.name: sample.value for f in text_string_to_metric_families(answer.body.decode()) for sample in f.samples}
    assert (1, 1) == (found["hookengine_events_accepted_total"], found["hookengine_storage_available"])
    assert newer.headers["Content-Type"].startswith("application/openmetrics-text;")
    assert newer.body.endswith(b"# EOF\n")
    assert problems.SAFE.items() <= answer.headers.items()


@pytest.mark.row("F42")
async def test_metrics_read_nothing(api: Api) -> None:
    """A scrape asks neither the readers nor the writer of the database: it is answered while all are held up."""
    async with blocked_writer(api.engine), blocked_reader(api.engine), blocked_reader(api.engine, "viewer"):
        for _ in range(100):
            assert 200 == (await api("GET", "/metrics")).status


async def test_stream(api: Api) -> None:
    """What happens comes as server-sent events, with ids to go on from, and each is what Python gets."""
    items = api.engine.stream()
    async with following(api) as read, Receiver() as receiver:
        subscription = await api.subscribe(receiver.url, tenant="acme")
        event = await api.publish(tenant="acme")
        made = await read.item()
        id_, attempt = await read.block()
        async with following(api, Last_Event_ID=made["id"]) as again:
            same = await again.item()
        python = [await anext(items), await anext(items)]

    assert [made["id"], attempt["id"]] == [item.id for item in python]
    assert (attempt["id"], attempt) == (id_, same)
    change = {"id": subscription["id"], "tenant": "acme", "change": "created", "disabled_reason": None}
    assert ("subscription", change) == (made["kind"], made["subscription"])
    assert ("attempt", event["id"], "delivered") == (
        attempt["kind"],
        attempt["delivery"]["event"],
        attempt["delivery"]["state"],
    )
    assert {"number", "at", "outcome", "duration_ms", "trigger", "status_code"} == attempt["attempt"].keys()
    assert b"Content-Type: text/event-stream\r\n" in read.head
    for name, value in problems.SAFE.items():
        assert f"{name}: {value}\r\n".encode() in read.head


async def test_stream_resumes_with_reset(api: Api) -> None:
    """An id of another start brings `reset` before anything else, whose own id can be gone on from."""
    await api.subscribe()
    async with following(api, Last_Event_ID="0123456789ab-1") as read:
        reset, item = await read.item(), await read.item()
    async with following(api, Last_Event_ID=reset["id"]) as read:
        again = await read.item()

    assert ("reset", "subscription") == (reset["kind"], item["kind"])
    assert item == again


async def test_stream_that_is_cut_before_anything_came_resumes(api: Api) -> None:
    """What happens after a connection is cut at its beginning is told to whoever comes back, and a reset is not lost so."""
    await api.subscribe()
    async with following(api) as read:
        read.writer.transport.abort()
    subscription = await api.subscribe()
    assert read.place is not None
    async with following(api, Last_Event_ID=read.place) as again:
        again.writer.transport.abort()
    async with following(api, Last_Event_ID=again.place or read.place) as again:
        missed = await again.item()
    async with following(api, Last_Event_ID="0123456789ab-1") as read:
        read.writer.transport.abort()

    assert subscription["id"] == missed["subscription"]["id"]
    assert read.place is None


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        pytest.param("/v1/stream?types=a%20b", 422, "invalid", id="type"),
        pytest.param("/v1/stream?limit=1", 422, "invalid", id="unknown parameter"),
        pytest.param("/v1/stream?subscription=sub_x", 404, "subscription_not_found", id="subscription"),
    ],
)
async def test_wrong_streams(api: Api, path: str, status: int, code: str) -> None:
    """What cannot be followed is a problem before the stream begins."""
    answer = await api("GET", path)

    assert (status, code) == (answer.status, answer.json["code"])


async def test_head_of_a_stream(api: Api) -> None:
    """A HEAD that would never end is refused."""
    assert 405 == (await api("HEAD", "/v1/stream")).status


async def test_heartbeats(api: Api) -> None:
    """While nothing happens a comment comes now and then, with the place to go on from."""
    async with second(api, heartbeat=0.01) as (_, port), following(api, "/v1/stream?types=x", port=port) as read:
        before, nothing = await read.block()
        await api.subscribe()
        while (later := (await read.block())[0]) == before:
            pass

    assert nothing is None
    assert before is not None
    assert later is not None
    assert int(before.partition("-")[2]) + 1 == int(later.partition("-")[2])


async def test_streams_are_bounded(api: Api) -> None:
    """More streams than there are connections to spare are refused, until one ends."""
    async with second(api, most=1) as (server, port):
        headers = {"Authorization": f"Bearer {api.token}"}
        async with (
            following(api, port=port),
            api._session.get(f"http://127.0.0.1:{port}/v1/stream", headers=headers) as refused,
        ):
            assert (429, "1") == (refused.status, refused.headers["Retry-After"])
        await gone(server)
        async with following(api, port=port):
            assert 1 == streams(server)


async def test_tenant_has_half_of_the_streams(api: Api) -> None:
    """Tokens that are bound to one tenant leave the other half to others."""
    async with second(api, most=2) as (_, port):
        bound = {"Authorization": f"Bearer {BOUND}"}
        async with (
            following(api, port=port, **bound),
            api._session.get(f"http://127.0.0.1:{port}/v1/stream", headers=bound) as refused,
            following(api, port=port),
        ):
            assert 429 == refused.status


async def gone(server: listener.Server) -> None:
    """Return when no stream is open."""
    async with asyncio.timeout(PATIENCE):
        while streams(server):  # noqa: ASYNC110  # the handler ends by itself, and tells nobody
            await asyncio.sleep(0)


async def test_client_that_leaves(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    """A client that goes away is noticed at once, though nothing happens, and nothing is logged."""
    async with second(api) as (server, port):
        async with following(api, port=port) as read:
            read.writer.transport.abort()
        await gone(server)

    assert [] == caplog.records


@pytest.mark.alone
async def test_stream_ends_with_the_server(tmp_path: Path) -> None:
    """A stop ends every stream at once, whole, and is not held up by it."""
    async with serving(tmp_path) as api, following(api) as read:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        stopping = asyncio.create_task(api.engine.stop())
        with pytest.raises(EOFError):
            await read.block()
        ended = loop.time() - begun
        read.writer.close()
        await stopping

        assert ended < 1


async def test_stream_ends_with_its_own_server(api: Api) -> None:
    """A server that closes alone ends its streams, and those of others go on."""
    async with following(api) as other:
        async with second(api) as (server, port):
            async with following(api, port=port) as read:
                closing = asyncio.create_task(server.close())
                with pytest.raises(EOFError):
                    await read.block()
            await closing
        await api.subscribe()

        assert "subscription" == (await other.item())["kind"]


async def test_drain_is_still_told(tmp_path: Path) -> None:
    """What ends while a stop waits for other attempts is in the stream."""
    gate = Gate()
    async with serving(tmp_path) as api, Receiver(gate) as receiver, following(api, "/v1/stream?types=*") as read:
        for tenant in ("a", "b"):
            await api.subscribe(receiver.url, tenant=tenant)
            await api.publish(tenant=tenant)
        await gate.arrived(2)
        stopping = asyncio.create_task(api.engine.stop(drain=PATIENCE))
        await asyncio.sleep(0)
        gate.answer()
        item = await read.item()
        gate.answer()
        read.writer.close()
        await stopping

    assert "delivered" == item["delivery"]["state"]


async def test_slow_reader_is_cut_off(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    """A reader that takes nothing loses its connection, and what it has not taken is not kept."""
    async with second(api, patience=0.05) as (server, port), following(api, port=port) as read:
        read.reader._transport.pause_reading()  # type: ignore[attr-defined]  # so that the kernel's buffers fill
        ring = api.engine._service._ring
        change = api.engine._running.store.memory.index
        subscription = await api.subscribe()
        known = change.by_id(subscription["id"])
        async with asyncio.timeout(PATIENCE):
            while streams(server):
                for _ in range(stream.KEPT // 10):
                    ring(SubscriptionChanged(before=known, after=known))
                await asyncio.sleep(0)

    assert [] == caplog.records


async def test_reader_that_has_fallen_behind_is_cut_off(api: Api) -> None:
    """Who is behind what is kept loses its connection, and is told of it when it comes back."""
    async with second(api) as (server, port), following(api, port=port) as read:
        subscription = await api.subscribe()
        first = await read.item()
        known = api.engine._running.store.memory.index.by_id(subscription["id"])
        for _ in range(stream.KEPT + 1):  # without a pause, so that it cannot read between
            api.engine._service._ring(SubscriptionChanged(before=known, after=known))
        await gone(server)
        async with following(api, port=port, Last_Event_ID=first["id"]) as again:
            assert "reset" == (await again.item())["kind"]


async def test_fault_within_a_stream(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    """A fault while a stream goes on is logged, and ends the connection without a second answer in it."""
    async with second(api) as (server, port), following(api, "/v1/stream?types=*", port=port) as read, Receiver() as receiver:
        await api.subscribe(receiver.url)
        broken = api.engine._running.store.viewer._db.connection
        await broken._execute(broken._conn.close)  # type: ignore[no-untyped-call]  # its thread goes on
        await api.publish()
        async with asyncio.timeout(PATIENCE):
            rest = await read.reader.read()
        await gone(server)

    assert b"HTTP/1.1" not in rest
    assert "closed database" in caplog.text


async def test_bound_token_over_http(api: Api) -> None:
    """A token sees the stream of its tenant, if it may read events at all."""
    reads = Principal(user="a", scopes=frozenset({Scope.EVENTS_READ}), tenant="acme")
    writes = Principal(user="b", scopes=frozenset({Scope.EVENTS_WRITE}))
    tokens = {digest("reads"): reads, digest("writes"): writes}
    server = listener.Server(api.engine._service, tokens=tokens, config=Config())
    await server.start(await listener.bind("127.0.0.1:0"))
    try:
        refused = [
            (await api._session.get(server.url + path, headers={"Authorization": f"Bearer {token}"})).status
            for path, token in (("/v1/stream", "writes"), ("/metrics", "reads"), ("/metrics", "writes"))
        ]
        async with following(api, port=int(server.url.rpartition(":")[2]), Authorization="Bearer reads") as read:
            await api.subscribe(tenant="other")
            await api.subscribe(tenant="acme")
            item = await read.item()
    finally:
        await server.close()

    assert ([403] * 3, "acme") == (refused, item["subscription"]["tenant"])


async def test_stream_ends_with_its_token(api: Api) -> None:
    """What happens after a token was deleted, or after it has expired, is told to nobody who began a stream with it."""
    soon = Clock().now() + 500
    deleted = await api.made("/v1/tokens", {"user": "deleted"})
    expired = await api.made("/v1/tokens", {"user": "expired", "expires_at": format_time(soon)})
    async with (
        following(api, Authorization=f"Bearer {deleted['token']}") as one,
        following(api, Authorization=f"Bearer {expired['token']}") as other,
    ):
        made = await api.subscribe()
        items = [await read.item() for read in (one, other)]
        await api("DELETE", "/v1/tokens/deleted")
        while Clock().now() < soon:
            await api("GET", "/v1/tokens")
        await api("POST", f"/v1/subscriptions/{made['id']}/disable")
        for read in (one, other):
            with pytest.raises(EOFError):
                await read.item()

    assert ["created", "created"] == [item["subscription"]["change"] for item in items]


async def test_probe_while_the_disk_is_full(api: Api) -> None:
    """The engine answers while it cannot write."""
    await limit_pages(api.engine, 0)

    assert 200 == (await api("GET", "/metrics")).status
