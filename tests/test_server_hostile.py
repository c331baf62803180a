"""Hostile clients beyond one request: storms, browsers that are led here, and what others stored."""

from __future__ import annotations

import asyncio
import logging
import random
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from api import SILENCE, Answer, Api, read_raw, request, serving
from engines import blocked_writer
from patience import PATIENCE
from storage import files

from hookengine.config import Plan, Server
from hookengine.receiver import Receiver, Reply
from hookengine.server import routes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SCRIPT = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&#x22;"
EVIL = "https://evil.example"


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """A server."""
    async with serving(tmp_path, plans={"free": Plan(max_subscriptions=3)}) as made:
        yield made


# Quantities.


@pytest.mark.row("I46")
async def test_many_subscriptions(api: Api) -> None:
    """An event for five hundred subscriptions is all there with the 202; a plan bounds how many there can be."""
    await asyncio.gather(*(api.subscribe(f"http://127.0.0.1:8099/{n}", state="disabled") for n in range(500)))
    await api("PUT", "/v1/tenants/small", {"plan": "free"})
    limited = await asyncio.gather(
        *(api("POST", "/v1/subscriptions", {"url": "http://127.0.0.1:8099/", "tenant": "small"}) for _ in range(20))
    )
    before = api.counts()["deliveries"]

    accepted = await api.publish()

    assert 500 == accepted["deliveries"] == api.counts()["deliveries"] - before
    assert [201] * 3 + [409] * 17 == sorted(answer.status for answer in limited)


@pytest.mark.row("I71")
async def test_flapping(api: Api) -> None:
    """However often a subscription is disabled and enabled, each of its waiting deliveries is made once."""
    async with Receiver() as receiver:
        sub = await api.subscribe(receiver.url, state="disabled", max_concurrency=50)
        for _ in range(2):
            await api.made("/v1/events/batch", [{"type": "a", "data": n} for n in range(1000)])

        async def flap(state: str) -> Answer:
            return await api("PATCH", f"/v1/subscriptions/{sub['id']}", {"state": state})

        for _ in range(15):
            answers = await asyncio.gather(flap("active"), flap("disabled"), flap("active"))
            assert {200} == {answer.status for answer in answers}
        await flap("active")
        await receiver.wait(2000, PATIENCE)
        async with asyncio.timeout(PATIENCE):
            while api.rows("SELECT count(*) FROM deliveries WHERE state = 'delivered'") != [(2000,)]:
                await api("GET", "/livez")

        assert 2000 == len({received.header("webhook-id") for received in receiver.requests}) == len(receiver.requests)
        assert [(2000,)] == api.rows("SELECT count(*) FROM attempts WHERE outcome = 'accepted'")


@pytest.mark.row("I85")
async def test_event_storm(api: Api) -> None:
    """More than can wait for the disk is refused with a time to come back, and every 202 is kept."""
    batch = [{"type": "a", "data": n} for n in range(1000)]

    async with blocked_writer(api.engine):
        storm = [asyncio.create_task(api("POST", "/v1/events/batch", batch)) for _ in range(30)]
        refused: set[asyncio.Task[Answer]] = set()
        async with asyncio.timeout(PATIENCE):
            while len(refused) < 10:
                refused, _ = await asyncio.wait(storm, return_when=asyncio.FIRST_COMPLETED)
                await api("GET", "/livez")
        answers = [task.result() for task in refused]
    accepted = [answer for answer in await asyncio.gather(*storm) if answer.status == 202]

    assert {(429, "overloaded", "1")} == {(a.status, a.json["code"], a.headers["Retry-After"]) for a in answers}
    assert 20 == len(accepted)
    assert 20_000 == api.counts()["events"]


@pytest.mark.row("I66")
async def test_ten_thousand_pipelined_requests(api: Api) -> None:
    """However many requests are sent at once, they are answered one by one, and others are answered meanwhile."""
    asked = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n" * 10_000
    reader, writer = await api.dial()
    writer.write(asked + request("GET", "/readyz"))
    flood = asyncio.create_task(reader.read())
    async with asyncio.timeout(PATIENCE):
        for _ in range(20):
            assert 200 == (await api("GET", "/readyz")).status
        answered = await flood
    writer.close()

    assert 10_001 == answered.count(b"HTTP/1.1 200 OK\r\n")


VALID = [
    request("POST", "/v1/events", b'{"type":"order.created","data":{"a":[1,2.5,null]}}', Idempotency_Key="k-1"),
    request("POST", "/v1/events/batch", b'[{"type":"a","data":1},{"type":"b","data":"x"}]'),
    request("POST", "/v1/subscriptions", b'{"url":"http://127.0.0.1:8099/","event_types":["a.*"],"timeout":"5s"}'),
    request("PATCH", "/v1/subscriptions/sub_x", b'{"headers":{"X-A":"b"}}', If_Match='"1"'),
    request("GET", "/v1/deliveries?limit=2&state=failed&since=2026-01-01T00:00:00Z"),
    request("POST", "/v1/events", b'{"type":"a","data":1}').replace(b"Connection: close\r\n", b"") + request("GET", "/livez"),
    request("POST", "/v1/events", b"", Content_Type="application/json", Transfer_Encoding="chunked") + b"2\r\n{}\r\n0\r\n\r\n",
]


def mutated(chance: random.Random) -> bytes:
    """A request of ours in which a few bytes are changed, left out, doubled or cut off."""
    text = bytearray(chance.choice(VALID))
    for _ in range(chance.randrange(1, 5)):
        start = chance.randrange(len(text) + 1)
        end = min(len(text), start + chance.choice((0, 1, 1, 2, 8, 40)))
        other = chance.choice(
            (b"", b"", bytes([chance.randrange(256)]), text[start:end] * 2, b"\r\n", b"9" * 30, b"\0", b"{[" * 40)
        )
        text[start:end] = other
    return bytes(text if chance.random() < 0.8 else text[: chance.randrange(len(text) + 1)])


@pytest.mark.row("I87")
@pytest.mark.parametrize("seed", range(3))
async def test_requests_that_are_nearly_right(api: Api, caplog: pytest.LogCaptureFixture, seed: int) -> None:
    """Whatever is changed in a request, no answer is a fault of ours, none shows a traceback, and every connection ends."""
    chance = random.Random(seed)
    cases = [mutated(chance) for _ in range(150)]
    before = connections(api)

    answers = await asyncio.gather(*(api.send(case, patience=SILENCE) for case in cases))

    assert [] == [case for case, answer in zip(cases, answers, strict=True) if re.match(rb"HTTP/1.. 5", answer)]
    assert [] == [case for case, answer in zip(cases, answers, strict=True) if b"Traceback" in answer]
    assert [] == [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    async with asyncio.timeout(PATIENCE):
        while connections(api) > before + 1:
            assert 200 == (await api("GET", "/livez")).status


def connections(api: Api) -> int:
    """How many the server holds."""
    server = api.engine._running.server
    assert server is not None
    assert server._runner.server is not None
    return len(server._runner.server.connections)


# Secrets.


@pytest.mark.row("I73")
async def test_no_answer_tells_a_secret(api: Api, tmp_path: Path) -> None:
    """A secret is told when it is made and where it is asked for, in no other answer, and by no byte of the files."""
    async with Receiver() as receiver:
        made = await api.subscribe(receiver.url, headers={"X-Key": "hidden-canary-value"})
        event = await api.publish()
        await receiver.wait(1, PATIENCE)
    secret = (await api("GET", f"/v1/subscriptions/{made['id']}/secret")).json["secret"]
    [delivery] = (await api("GET", f"/v1/deliveries?event={event['id']}")).json["data"]
    paths = [
        *("/v1/subscriptions", f"/v1/subscriptions/{made['id']}", f"/v1/subscriptions/{made['id']}/stats", "/v1/tenants"),
        *("/v1/events", f"/v1/events/{event['id']}", f"/v1/events/{event['id']}/explain", "/v1/tokens", "/metrics"),
        *("/v1/deliveries", f"/v1/deliveries/{delivery['id']}", "/v1/event-types", "/openapi.json"),
    ]
    told = [await api("GET", path) for path in paths]
    told.append(await api("PATCH", f"/v1/subscriptions/{made['id']}", {"name": "x"}))
    told.append(await api("POST", f"/v1/subscriptions/{made['id']}/disable"))

    assert {200} == {answer.status for answer in told}
    assert secret == made["secret"]
    for each in (secret, secret.removeprefix("whsec_"), "hidden-canary-value"):
        assert not [answer for answer in told if each.encode() in answer.body]
        assert each.encode() not in b"".join(files(tmp_path).values())


# Browsers.


async def stored_everywhere(api: Api) -> list[str]:
    """The paths that show a script, after it was put wherever a user may put a text."""
    async with Receiver(Reply(status=500, headers=(("Content-Type", "text/html"),), body=SCRIPT.encode())) as receiver:
        sub = await api.subscribe(receiver.url, name=SCRIPT, metadata={"m": SCRIPT}, retry_schedule=[])
        await api("PUT", "/v1/event-types/order.created", {"description": SCRIPT, "example": SCRIPT})
        event = await api.publish(data=SCRIPT)
        await api.engine.wait(event["id"], timeout=PATIENCE)
    [delivery] = (await api("GET", f"/v1/deliveries?event={event['id']}")).json["data"]
    return [
        *(f"/v1/subscriptions/{sub['id']}", "/v1/subscriptions", "/v1/event-types", "/v1/event-types/order.created"),
        *(f"/v1/events/{event['id']}", f"/v1/deliveries/{delivery['id']}"),
    ]


@pytest.mark.row("I79", "I84")
async def test_what_others_stored_is_never_a_page(api: Api) -> None:
    """Markup in whatever text of users or endpoints is shown as JSON that no browser takes for anything else."""
    for path in await stored_everywhere(api):
        for accept in ("text/html", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8", "image/svg+xml", "*/*"):
            answer = await api("GET", path, headers={"Accept": accept})

            assert (200, "application/json") == (answer.status, answer.headers["Content-Type"])
            assert ("nosniff", "no-store") == (answer.headers["X-Content-Type-Options"], answer.headers["Cache-Control"])
            assert "alert(1)" in str(answer.json)


ROUTES = [(route.method, re.sub(r"\{[a-z]+\}", "x", route.path), route.scope) for route in routes.ROUTES]


@pytest.mark.row("I80")
@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/x-www-form-urlencoded", b"type=a&data=1"),
        ("multipart/form-data; boundary=x", b'--x\r\nContent-Disposition: form-data; name="type"\r\n\r\na\r\n--x--'),
        ("text/plain", b'{"type":"a","data":1}'),
        ("application/json", b'{"type":"a","data":1}'),
        (None, b'{"type":"a","data":1}'),
    ],
)
async def test_page_elsewhere_changes_nothing(api: Api, content_type: str | None, body: bytes) -> None:
    """What a browser sends for another site opens nothing: there are no cookies, and no change by GET or by a form."""
    before = api.counts()
    browser = {"Origin": EVIL, "Sec-Fetch-Site": "cross-site", "Cookie": f"token={api.token}; session={api.token}"}
    for method, path, scope in ROUTES:
        if scope is not None and method in {"POST", "GET"} and path != "/v1/stream":
            sent = body if method == "POST" else None
            answer = await api(method, path, sent, headers=browser, content_type=content_type, token="x")
            assert 401 == answer.status
            assert "Set-Cookie" not in answer.headers
    if content_type != "application/json":
        answer = await api("POST", "/v1/events", body, headers=browser, content_type=content_type)
        assert 415 == answer.status
    assert before == api.counts()


@pytest.mark.row("I81")
@pytest.mark.parametrize("path", ["/docs", "/v1/events", "/livez", "/openapi.json", "/nothing"])
async def test_no_frame(api: Api, path: str) -> None:
    """No answer is shown in a frame of another site, and the only page says so in the newer way too."""
    answer = await api("GET", path)

    assert "DENY" == answer.headers["X-Frame-Options"]
    if path == "/docs":
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]


@pytest.mark.row("I82")
@pytest.mark.parametrize("host", ["evil.example", "evil.example:8700", "localhost.evil.example", "127.0.0.1.nip.io", ""])
async def test_name_that_leads_here(api: Api, host: str) -> None:
    """A page whose name was made to lead here reads what is public and nothing else: no browser has a token to send."""
    for method, path, scope in ROUTES:
        if method == "GET":
            head = f"GET {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nConnection: close\r\n\r\n"
            answer = read_raw(await api.send(head.encode()))
            assert (401 if scope is not None else 200) == answer.status, path
            assert "Set-Cookie" not in answer.headers
    for path in ("/docs",):
        page = read_raw(await api.send(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()))
        assert b"127.0.0.1" not in page.body


@pytest.mark.row("I83")
@pytest.mark.parametrize("origin", ["null", EVIL, "http://127.0.0.1:8700", "https://hookengine.example"])
async def test_no_other_origin_may_read(api: Api, origin: str) -> None:
    """No answer lets a page of another origin read it, to a request or to the question before one."""
    asked: dict[str, Any] = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    answers = [
        await api("OPTIONS", "/v1/events", headers={"Origin": origin, **asked}),
        await api("GET", "/v1/events", headers={"Origin": origin}),
        await api("POST", "/v1/events", {"type": "a", "data": 1}, headers={"Origin": origin}),
        await api("GET", "/livez", headers={"Origin": origin}),
        await api("GET", "/docs", headers={"Origin": origin}),
        await api("GET", "/v1/events", headers={"Origin": origin}, token="x"),
    ]

    assert [405, 200, 202, 200, 200, 401] == [answer.status for answer in answers]
    assert not [name for answer in answers for name in answer.headers if name.lower().startswith("access-control-")]


async def test_slow_storm_of_wrong_tokens_leaves_others_alone(tmp_path: Path) -> None:
    """While an address is refused for its wrong tokens, publishers there are served as before."""
    async with serving(tmp_path, server=Server(failed_auth_per_minute=10)) as api:
        storm = asyncio.gather(*(api("POST", "/v1/events", {"type": "a", "data": 1}, token="x") for _ in range(500)))
        accepted = await asyncio.gather(*(api("POST", "/v1/events", {"type": "a", "data": n}) for n in range(100)))

        assert {202} == {answer.status for answer in accepted}
        assert {401, 429} == {answer.status for answer in await storm}
        assert 100 == api.counts()["events"]


@pytest.mark.parametrize("path", ["/", "/nowhere", "/livez", "/docs", "/v1/events"])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_expectation_that_is_no_text(api: Api, caplog: pytest.LogCaptureFixture, method: str, path: str) -> None:
    """Without a token, with a route or without, it is no fault of ours."""
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\nExpect: ".encode()
    answer = await api.send(head + b"\xff\r\n\r\n")

    assert answer.split(b" ")[1] in {b"417", b"401"}
    assert [] == caplog.records


@pytest.mark.parametrize(
    "value", ["application/json; charset*=utf-16'en'utf-8", "application/json;0*1*", "application/json; x*0*=1"]
)
async def test_media_type_that_no_parser_takes(api: Api, caplog: pytest.LogCaptureFixture, value: str) -> None:
    """What Python's parser for mail stumbles over is another media type, not a fault of ours."""
    answer = await api("POST", "/v1/events", {"type": "a", "data": 1}, headers={"Content-Type": value})

    assert answer.status in {202, 415}
    assert [] == caplog.records


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/events"),
        ("POST", "/v1/events/batch"),
        ("GET", "/v1/events/evt_1"),
        ("POST", "/v1/events/evt_1/replay"),
        ("POST", "/v1/subscriptions"),
        ("PATCH", "/v1/subscriptions/sub_1"),
        ("POST", "/v1/subscriptions/sub_1/replay"),
        ("POST", "/v1/deliveries/dlv_1/retry"),
        ("PUT", "/v1/tenants/a"),
        ("DELETE", "/v1/tokens/a"),
    ],
)
async def test_unknown_parameter_is_told(api: Api, method: str, path: str) -> None:
    """A parameter that there is not, such as a dry run that would send, is a mistake wherever it stands."""
    before = api.counts()
    answer = await api(method, f"{path}?dry_run=true", {})

    assert (422, [("dry_run", "unknown_parameter")]) == (answer.status, answer.places)
    assert before == api.counts()


async def test_pipelined_heads_wait_on_the_wire(api: Api) -> None:
    """Who sends large requests and reads no answers is not read from, beyond what is under way; nothing of them stays."""
    head = b"GET /livez HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: %s\r\n" % (n, b"a" * 4000) for n in range(12)) + b"\r\n"
    page = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n"
    _, writer = await api.dial()
    server = api.engine._running.server
    assert server is not None
    handler = server._runner.server
    assert handler is not None
    while not handler.connections:  # noqa: ASYNC110  # it tells nobody
        await asyncio.sleep(0)
    connection = max(handler.connections, key=lambda each: each.transport is not None)
    writer.write(page * 6 + head * 400)
    for _ in range(2000):
        await asyncio.sleep(0)
        assert len(connection._messages) <= 16  # what came in one piece
    assert connection._buffer_paused
    writer.transport.abort()
    async with asyncio.timeout(PATIENCE):
        while connection.transport is not None:  # noqa: ASYNC110  # it tells nobody
            await asyncio.sleep(0)
    assert not connection._messages


async def test_pipelining_clients_that_reset(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever goes away with requests behind one that is being answered leaves nothing in the log."""
    plain = request("POST", "/v1/events", b'{"type":"a.b","data":1}', Connection="keep-alive")
    other = request("GET", "/livez", Connection="keep-alive")
    for _ in range(40):
        _, writer = await api.dial()
        writer.write(((plain + other) * 8).replace(b"{token}", api.token.encode()))
        await asyncio.sleep(0)
        writer.transport.abort()
    await api.publish()

    assert [] == [record for record in caplog.records if record.levelno >= logging.ERROR]


async def test_endless_head_is_cut(api: Api) -> None:
    """A head that does not end is not collected: headers that are each as long as they may be do not add up."""
    reader, writer = await api.dial()
    writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\n")
    for number in range(100):
        writer.write(b"X-%d: %s\r\n" % (number, b"a" * 8000))
    async with asyncio.timeout(PATIENCE):
        with suppress(ConnectionResetError):
            assert b"" == await reader.read()
    writer.close()


async def test_body_of_as_many_chunks_as_pause_its_reader(api: Api) -> None:
    """After a body in very many chunks the next request of the connection is read as ever."""
    count = 16_385  # one more than aiohttp lets wait
    body = b'{"type":"a.b","data":"' + b"x" * (count - 24) + b'"}'
    assert count == len(body)
    chunked = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    more = {"Content_Type": "application/json", "Transfer_Encoding": "chunked", "Connection": "keep-alive"}
    head = request("POST", "/v1/events", **more)
    plain = request("POST", "/v1/events", b'{"type":"a.b","data":1}', Content_Type="application/json", Connection="close")
    raw = await api.send((head + chunked + plain).replace(b"{token}", api.token.encode()))

    assert 2 == raw.count(b"HTTP/1.1 202")
