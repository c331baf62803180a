"""The benchmarks' receiver, yardstick and producer do what they say, so that their numbers mean something."""

from __future__ import annotations

import asyncio
import hmac
import json
from base64 import b64decode
from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from bare import KEY, bare
from nginx import NginxError, nginx
from producer import produce
from run import in_turns, summary, table
from scenario import DATA

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp.typedefs import Handler


def serving(handler: Handler) -> TestServer:
    """A server that answers every POST with *handler*."""
    app = web.Application()
    app.router.add_post("/{path:.*}", handler)
    return TestServer(app)


def test_nginx_answers_and_ends(find_program: Callable[[str], str]) -> None:
    """The private nginx answers 204 on loopback, and nobody listens there afterwards."""
    with nginx(find_program("nginx")) as url, urlopen(url, data=DATA) as response:
        answer = response.status, response.read()

    assert (204, b"") == answer
    assert url.startswith("http://127.0.0.1:")
    with pytest.raises(URLError, match="refused"):
        urlopen(url)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        pytest.param("nginx-that-nobody-has", "nginx-that-nobody-has is not installed", id="missing"),
        pytest.param("false", "nginx ended at once", id="broken"),
    ],
)
def test_nginx_that_does_not_start_is_explained(program: str, reason: str) -> None:
    """Where there is no nginx to run, the error says so."""
    with pytest.raises(NginxError, match=reason), nginx(program):
        pass


async def test_bare_signs_every_request() -> None:
    """The yardstick posts each request once, 500 bytes long and with a signature of its own that verifies."""
    signatures = {}

    async def receive(request: web.Request) -> web.Response:
        body = await request.read()
        event_id = request.headers["webhook-id"]
        signed = f"{event_id}.{request.headers['webhook-timestamp']}.".encode() + body
        given = b64decode(request.headers["webhook-signature"].removeprefix("v1,"))
        signatures[event_id] = len(body), hmac.compare_digest(given, hmac.digest(KEY, signed, "sha256"))
        return web.Response(status=204)

    async with serving(receive) as server, asyncio.timeout(20):
        seconds = await bare(str(server.make_url("/")), 120)

    assert seconds > 0
    assert [(500, True)] * 120 == list(signatures.values())


async def test_bare_does_not_count_refusals() -> None:
    """A receiver that does not answer 204 ends the measurement."""

    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=500)

    async with serving(refuse) as server, asyncio.timeout(20):
        with pytest.raises(ExceptionGroup, match="unhandled") as caught:
            await bare(str(server.make_url("/")), 10)

    assert caught.group_contains(RuntimeError, match="answered 500")


@pytest.mark.parametrize(("batch", "path", "sizes"), [(1, "/v1/events", {1}), (100, "/v1/events/batch", {100, 50})])
async def test_producer_posts_every_event(batch: int, path: str, sizes: set[int]) -> None:
    """The producer posts exactly the events asked for, with its token, the last batch being what is left."""
    received = []

    async def accept(request: web.Request) -> web.Response:
        document = await request.json()
        received.append((request.path, request.headers["authorization"], document if batch > 1 else [document]))
        return web.json_response({"events": []}, status=202)

    async with serving(accept) as server, asyncio.timeout(20):
        await produce(str(server.make_url("/")), "hook_token", 250, batch)

    assert {(path, "Bearer hook_token")} == {(path, authorization) for path, authorization, _ in received}
    assert sizes == {len(events) for *_, events in received}
    assert [{"type": "order.created", "data": json.loads(DATA)}] * 250 == [each for *_, events in received for each in events]


async def test_producer_stops_at_a_refusal() -> None:
    """An answer other than 202 ends the producer with what the server said."""

    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=401, text="who are you?")

    async with serving(refuse) as server, asyncio.timeout(20):
        with pytest.raises(ExceptionGroup, match="unhandled") as caught:
            await produce(str(server.make_url("/")), "hook_token", 64, 1)

    assert caught.group_contains(RuntimeError, match="who are you")


def test_scenarios_take_turns() -> None:
    """Every round has every scenario once and begins with another one."""
    assert ["a", "b", "c", "b", "c", "a", "c", "a", "b", "a", "b", "c"] == in_turns(["a", "b", "c"], 4)


def test_summary_compares_with_bare() -> None:
    """Medians, extremes and the ratio to the yardstick come from the rounds of one run."""
    bares = [{"rate": rate, "cpu_us": 140.0} for rate in (4000.0, 5000.0, 1000.0)]
    ours = [{"rate": rate, "cpu_us": cpu} for rate, cpu in ((3000.0, 90.0), (9000.0, 70.0), (2000.0, 80.0))]

    found = summary({"bare": bares, "embedded": ours})

    assert {"rate": 3000.0, "slowest": 2000.0, "fastest": 9000.0, "of_bare": 0.75, "cpu_us": 80.0} == found["embedded"]
    assert 1.0 == found["bare"]["of_bare"]
    assert "embedded           3,000     2,000     9,000     0.75       80" in table(found)
