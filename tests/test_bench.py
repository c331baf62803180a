"""The benchmarks' receivers, yardstick and scenarios do what they say, so that their numbers mean something."""

from __future__ import annotations

import asyncio
import hmac
import json
import os
import signal
import ssl
import sys
from base64 import b64decode
from contextlib import AsyncExitStack, suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from aiohttp import ClientConnectorCertificateError, web
from aiohttp.test_utils import TestServer
from certificates import server_context
from patience import PATIENCE

from hookengine.bench import backlog
from hookengine.bench.bare import KEY, bare
from hookengine.bench.cases import Case, Plan, Way, cases, point
from hookengine.bench.embedded import local_engine, recorded
from hookengine.bench.endpoint import Answers, endpoint
from hookengine.bench.framing import message_size
from hookengine.bench.latency import stamped
from hookengine.bench.loopback import HOSTS, Destination, destinations, site
from hookengine.bench.nginx import NginxError, nginx
from hookengine.bench.producer import produce
from hookengine.bench.runner import ScenarioFailed, left_out, measured, receiver, run
from hookengine.bench.scenario import DATA, environment, figures
from hookengine.clock import cpu_time, elapsed
from hookengine.receiver import Receiver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from aiohttp.typedefs import Handler

    from hookengine.bench.loopback import Site


def serving(handler: Handler) -> TestServer:
    """A server that answers every POST with *handler*."""
    app = web.Application()
    app.router.add_post("/{path:.*}", handler)
    return TestServer(app)


async def asked(url: str, body: bytes = DATA, trusting: Path | None = None) -> tuple[int, bytes]:
    """The status and the body of what *url* answers to who trusts the system's authorities, and *trusting*."""

    def post() -> tuple[int, bytes]:
        context = ssl.create_default_context(cafile=trusting)
        with urlopen(url, data=body, context=context) as response:
            return response.status, response.read()

    return await asyncio.to_thread(post)


async def test_nginx_answers_and_ends(find_program: Callable[[str], str], tmp_path: Path) -> None:
    """The private nginx answers 204 on loopback, at each of its URLs, and nobody listens there afterwards."""
    place = site(tmp_path)
    async with nginx(place, find_program("nginx")) as urls:
        answers = await answers_of(urls, place)

    assert [(204, b"")] * 102 == answers
    for each in urls.values():
        with pytest.raises(URLError, match="refused"):
            await asked(each[-1])


async def answers_of(urls: Mapping[Way, Sequence[str]], place: Site) -> list[tuple[int, bytes]]:
    """What each URL answers, having found them as they should be."""
    [plain], [tls], spread = urls[Way.PLAIN], urls[Way.TLS], urls[Way.HOSTS]
    assert plain == spread[0]
    assert [("http", host) for host in HOSTS] == [(urlsplit(url).scheme, urlsplit(url).hostname) for url in spread]
    assert ("https", "127.0.0.1") == (urlsplit(tls).scheme, urlsplit(tls).hostname)
    with pytest.raises(URLError, match="CERTIFICATE_VERIFY_FAILED"):
        await asked(tls)
    return [await asked(url, trusting=place.certificate.authority) for url in (plain, tls, *spread)]


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        pytest.param("nginx-that-nobody-has", "nginx-that-nobody-has is not installed", id="missing"),
        pytest.param("false", "nginx ended at once", id="broken"),
    ],
)
async def test_nginx_that_does_not_start_is_explained(program: str, reason: str, tmp_path: Path) -> None:
    """Where there is no nginx to run, the error says so."""
    with pytest.raises(NginxError, match=reason):
        async with nginx(site(tmp_path), program):
            pass


def test_message_ends_with_its_length() -> None:
    """A message is whole with its last byte, and what follows it is not part of it."""
    message = b"POST / HTTP/1.1\r\ncontent-LENGTH: 3\r\n\r\nabc"

    assert [None] * len(message) == [message_size(message[:size]) for size in range(len(message))]
    assert len(message) == message_size(message + b"POST")
    assert 27 == message_size(b"HTTP/1.1 204 No Content\r\n\r\ncontent-length: 9")


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
        found = await bare([str(server.make_url("/"))], 120)

    assert 120 / found["seconds"] == found["rate"]
    assert [(500, True)] * 120 == list(signatures.values())


async def test_bare_does_not_count_refusals() -> None:
    """A receiver that does not answer 204 ends the measurement."""

    async def refuse(_: web.Request) -> web.Response:
        return web.Response(status=500)

    async with serving(refuse) as server, asyncio.timeout(20):
        with pytest.raises(ExceptionGroup, match="unhandled") as caught:
            await bare([str(server.make_url("/"))], 10)

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


async def test_own_receiver_answers_and_tells(tmp_path: Path) -> None:
    """Our own receiver answers 204 at each URL, notes the seconds since what a body says, and ends when it is told to."""
    place = site(tmp_path)
    async with endpoint(place) as own, asyncio.timeout(20):
        answers = await answers_of(own.urls, place)
        [url] = own.urls[Way.TLS]
        found = await bare(own.urls[Way.HOSTS], 5)
        before = elapsed()
        answers.append(await asked(url, stamped(before), place.certificate.authority))
        noted = await own.end()

    assert [(204, b"")] * 103 == answers
    assert pytest.approx(5) == found["rate"] * found["seconds"]
    assert 1 == len(noted)
    assert 0 < noted[0] < elapsed() - before
    with pytest.raises(URLError, match="refused"):
        await asked(url)


class Written(asyncio.Transport):
    """A connection whose other side is a list."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def write(self, data: Any) -> None:
        """Keep it."""
        self.pieces.append(data)


def test_first_byte_is_what_counts() -> None:
    """A request that comes in pieces is answered once, with the time of its first."""
    seconds: list[float] = []
    written, answers = Written(), Answers(seconds)
    answers.connection_made(written)

    answers.data_received(b"POST / HTTP/1.1\r\ncontent-length: 500\r\n\r\n")
    between = stamped(elapsed())
    answers.data_received(between[:100])
    answers.data_received(between[100:])

    assert len(DATA) == len(between)
    assert [b"HTTP/1.1 204 No Content\r\n\r\n"] == written.pieces
    [since] = seconds
    assert since < 0


def flags(case: Case, folder: Path, *urls: str) -> list[str]:
    """What a scenario is started with."""
    return ["--url", *urls, "--count", str(case.requests), "--directory", str(folder), *case.arguments[1:]]


RATES = {"seconds", "rate", "cpu_us"}


@pytest.mark.parametrize(
    ("name", "deliveries", "expected"),
    [
        ("bare", 60, RATES),
        (point("bare", 4), 60, RATES),
        ("embedded", 60, RATES),
        (point("embedded", 4), 60, RATES),
        ("http", 60, RATES),
        ("http-batch", 60, RATES),
        ("fan-out", 60, RATES),
        ("latency", 0, {"post_ms", "commit_ms", "p50_ms", "p99_ms"}),  # it has a receiver of its own
    ],
)
async def test_scenario_delivers_and_prints_figures(
    name: str, deliveries: int, expected: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Started as a run starts it, a scenario makes exactly its requests, each once, and prints its figures."""
    [case] = [case for case in cases(Plan(60, 1, (), 300, plot=True)) if case.name == name]
    scenario = import_module(f"hookengine.bench.{case.arguments[0]}")
    async with Receiver(204) as receiver, asyncio.timeout(30):
        await asyncio.to_thread(scenario.main, flags(case, tmp_path, receiver.url))

    found = json.loads(capsys.readouterr().out)
    assert expected == found.keys()
    assert min(found.values()) > 0
    assert deliveries == len(receiver.requests)
    again = 10 if name == "fan-out" else 1
    assert deliveries == again * len({request.header("webhook-id") for request in receiver.requests})
    if "rate" in found:
        assert pytest.approx(60, rel=0.05) == found["rate"] * found["seconds"]  # both are rounded


@pytest.mark.parametrize("name", ["bare-hosts", "hosts"])
async def test_hosts_get_equal_shares(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each of several hosts gets the same number of requests, from the yardstick and from the engine."""
    [case] = [case for case in cases(Plan(60, 1, (name,), 300, plot=False)) if case.name == name]
    scenario = import_module(f"hookengine.bench.{case.arguments[0]}")
    async with AsyncExitStack() as stack, asyncio.timeout(30):
        receivers = [await stack.enter_async_context(Receiver(204, host=host)) for host in HOSTS[:20]]
        await asyncio.to_thread(scenario.main, flags(case, tmp_path, *(each.url for each in receivers)))

    assert RATES == json.loads(capsys.readouterr().out).keys()
    assert [3] * 20 == [len(receiver.requests) for receiver in receivers]
    assert 60 == len({request.header("webhook-id") for receiver in receivers for request in receiver.requests})


@pytest.fixture
async def encrypted(tmp_path: Path) -> AsyncIterator[Encrypted]:
    """A receiver with TLS whose authority only those know who are told."""
    received: list[tuple[str, str]] = []

    async def receive(request: web.Request) -> web.Response:
        received.append((request.scheme, request.headers["webhook-id"]))
        return web.Response(status=204)

    place = site(tmp_path)
    server = serving(receive)
    await server.start_server(ssl=server_context((place.certificate.shown, place.certificate.key)))
    async with server, asyncio.timeout(PATIENCE):
        urls: dict[Way, list[str]] = {Way.PLAIN: [], Way.TLS: [str(server.make_url("/"))], Way.HOSTS: []}
        yield Encrypted(destinations(place, urls)[Way.TLS], received)


class Encrypted(NamedTuple):
    """How it is called, and scheme and id of what arrived."""

    destination: Destination
    received: list[tuple[str, str]]


@pytest.mark.parametrize("name", ["bare-tls", "tls"])
async def test_tls_scenario_trusts_the_authority(name: str, encrypted: Encrypted, tmp_path: Path) -> None:
    """Over https, started as a run starts it, a scenario makes exactly its requests, each once."""
    [case] = [case for case in cases(Plan(60, 1, (name,), 300, plot=False)) if case.name == name]
    found = await measured(case, encrypted.destination, str(tmp_path))

    assert RATES == found.keys()
    assert 60 == len(encrypted.received) == len(set(encrypted.received))
    assert {"https"} == {scheme for scheme, _ in encrypted.received}


async def test_tls_is_verified(encrypted: Encrypted, tmp_path: Path) -> None:
    """A process that was not told of the authority gets nothing through, neither with the yardstick nor with the engine."""
    [url] = encrypted.destination.urls
    with pytest.raises(ExceptionGroup) as caught:
        await bare([url], 1)
    async with local_engine(tmp_path) as engine:
        subscription = await engine.subscribe(url, retry_schedule=[])
        await engine.publish("order.created", DATA)
        with pytest.raises(RuntimeError, match="of 1 deliveries 0 arrived and 1 failed"):
            await recorded(engine, subscription, 1)
        [delivery] = (await engine.deliveries()).data
        [attempt] = (await engine.delivery(delivery.id)).attempts or []

    assert caught.group_contains(ClientConnectorCertificateError)
    assert attempt.error is not None
    assert "tls_untrusted" == attempt.error.code
    assert [] == encrypted.received


async def test_failed_delivery_is_no_result(tmp_path: Path) -> None:
    """A delivery that failed ends the measurement, in place of a wait for ever."""
    async with Receiver(500) as receiver, local_engine(tmp_path) as engine, asyncio.timeout(20):
        subscription = await engine.subscribe(receiver.url, retry_schedule=[])
        await engine.publish("order.created", DATA)

        with pytest.raises(RuntimeError, match="of 1 deliveries 0 arrived and 1 failed"):
            await recorded(engine, subscription, 1)


async def test_backlog_waits_while_others_are_delivered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The backlog is still there, on its own subscription, when the deliveries beside it are done."""
    [case] = cases(Plan(30, 1, ("backlog",), 300, plot=False))[1:]
    async with Receiver(204) as receiver, asyncio.timeout(30):
        await asyncio.to_thread(backlog.main, flags(case, tmp_path, receiver.url))
        async with local_engine(tmp_path) as engine:
            up, down = reversed((await engine.subscriptions()).data)
            waiting = (await engine.stats(down.id)).deliveries
            done = (await engine.stats(up.id)).deliveries
            [newest] = (await engine.deliveries(subscription=down.id, state="pending", limit=1)).data
            event = await engine.event(newest.event)

    assert RATES | {"empty_rate", "empty_ms", "ready_ms"} == json.loads(capsys.readouterr().out).keys()
    assert (300, 0) == (waiting.pending, waiting.delivered)
    assert (0, backlog.WARM + 30 + 30) == (done.pending, done.delivered)
    assert len(receiver.requests) == done.delivered
    assert len(DATA) == len(bytes(event.data))


def test_scenarios_know_no_settings_of_a_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the shell says to a daemon is not said to scenarios, which find the packages that we find."""
    monkeypatch.setenv("HOOKENGINE_ENCRYPTION_KEY", "short")
    monkeypatch.setenv("LANG", "C")

    found = environment(HOOKENGINE_TOKEN="t")

    assert ("t", "C") == (found["HOOKENGINE_TOKEN"], found["LANG"])
    assert "HOOKENGINE_ENCRYPTION_KEY" not in found
    assert [str(Path(each).absolute()) for each in sys.path] == found["PYTHONPATH"].split(os.pathsep)


def test_rate_and_cpu_are_of_the_time_since() -> None:
    """A rate divides by the time gone by, CPU time by the requests."""
    found = figures(100, elapsed() - 2, cpu_time() - 1)

    assert pytest.approx(2, abs=0.1) == found["seconds"]
    assert pytest.approx(50, abs=3) == found["rate"]
    assert pytest.approx(10_000, abs=500) == found["cpu_us"]


class Process(NamedTuple):
    """A live process, as /proc has it."""

    id: int
    session: int
    command: str


def processes() -> list[Process]:
    """All that live."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended since
            state, _, _, session, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
            if state not in "ZX":
                found.append(Process(int(folder.name), int(session), (folder / "cmdline").read_text().replace("\0", " ")))
    return found


linux = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are looked up in /proc")


@linux
async def test_interrupted_scenario_leaves_no_process(tmp_path: Path) -> None:
    """Cancelled in the midst of its work, a scenario is gone, and so is the producer that it had started."""
    async with Receiver(204) as receiver, asyncio.timeout(30):
        case = Case("http", ("ingest",), 1_000_000, 60)
        work = asyncio.create_task(measured(case, Destination([receiver.url]), str(tmp_path)))
        await receiver.wait(1, 20)
        [session] = {each.session for each in processes() if str(tmp_path) in each.command}
        started = [each for each in processes() if each.session == session]
        [producer] = [each for each in started if "bench.producer" in each.command]
        os.kill(producer.id, signal.SIGSTOP)  # so that it does not notice that the engine has gone
        try:
            work.cancel()
            await asyncio.wait([work], timeout=10)
            async with asyncio.timeout(10):
                while [each for each in processes() if each.session == session]:  # noqa: ASYNC110  # nobody tells us
                    await asyncio.sleep(0)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(session, signal.SIGKILL)

    assert (True, 2) == (work.cancelled(), len(started))


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        pytest.param(Case("bare", ("bare", "--speed"), 10, 60), "bare failed: .*unrecognized arguments: --speed", id="fails"),
        pytest.param(Case("bare", ("bare",), 10**9, 0.1), "bare did not end within 0 s", id="hangs"),
    ],
)
async def test_scenario_without_a_result_is_an_error(case: Case, reason: str, tmp_path: Path) -> None:
    """A scenario that fails or hangs is named, with what it said."""
    with pytest.raises(ScenarioFailed, match=f"(?s){reason}"):
        await measured(case, Destination(["http://127.0.0.1:9/"]), str(tmp_path))


async def test_own_receiver_stands_in_for_nginx(tmp_path: Path) -> None:
    """Where there is no nginx, our own receiver answers, and its name says why."""
    async with receiver(tmp_path, "nginx-that-nobody-has") as reached:
        answer = await asked(reached.destinations[Way.HOSTS].urls[-1])

    assert ("our own (nginx-that-nobody-has is not installed)", (204, b"")) == (reached.name, answer)


async def test_run_measures_and_leaves_nothing(tmp_path: Path) -> None:
    """A run gives the figures of each case, tells how far it is, and leaves no file."""
    told: list[tuple[int, int]] = []
    async with receiver(tmp_path) as reached, asyncio.timeout(30):
        found = await run(Plan(10, 1, ("bare",), 1, plot=False), reached, tmp_path, lambda *each: told.append(each))

    assert reached.name == "nginx" or reached.name.startswith("our own (nginx is not installed")
    assert [(0, 1)] == told
    assert [RATES] == [figure.keys() for figure in found.pop("bare")]
    assert ({}, []) == (found, os.listdir(tmp_path))  # noqa: PTH208  # the other one is not for async code


@pytest.mark.parametrize("program", ["nginx", "nginx-that-nobody-has"])
async def test_hosts_that_are_not_there_are_left_out(program: str, tmp_path: Path) -> None:
    """Where loopback has one address, the scenarios that want more are left out with the reason, and the others run."""
    plan = Plan(10, 1, ("bare-hosts", "bare-tls"), 1, plot=False)
    async with receiver(tmp_path, program, ("127.0.0.1", "192.0.2.1")) as reached, asyncio.timeout(30):
        without = left_out(plan, reached)
        found = await run(plan, reached, tmp_path, lambda *_: None)

    assert ["bare-hosts"] == list(without)
    assert without["bare-hosts"].startswith("this machine has no 192.0.2.1: ")
    assert {"bare", "bare-tls"} == found.keys()
