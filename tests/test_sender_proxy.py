"""Attempts through a proxy: who is asked for what, and whose fault a refusal is."""

from __future__ import annotations

import socket
from base64 import b64encode
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, NoReturn

import hostile
import pytest
from certificates import Authority, server_context
from engines import LOOPBACK as ALLOWED
from engines import Journal
from hostile import on_both_loops, receiver
from msgspec.structs import replace
from patience import PATIENCE
from proxies import forward_proxy

from hookengine.config import Config
from hookengine.engine import DATABASE, Engine
from hookengine.message import Proxy
from hookengine.models import (
    Accepted,
    AttemptError,
    Authorization,
    Broken,
    ErrorCode,
    Interrupted,
    OAuth2,
    Refused,
    Request,
    Secret,
    Unreachable,
)
from hookengine.netguard import Policy
from hookengine.receiver import Receiver
from hookengine.resolver import Resolver
from hookengine.sender import Sender, tls_context

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from hookengine.models import Outcome

HOST = "hooks.acme.com"
OPEN = Policy(allow_http=True)
UNAUTHORIZED = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 2\r\n\r\nno"
REFUSALS = [
    pytest.param(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", id="403"),
    pytest.param(UNAUTHORIZED, id="407"),
    pytest.param(b"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\n\r\n", id="502"),
    pytest.param(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n", id="redirect"),
    pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n", id="204"),
    pytest.param(b"garbage\r\n\r\n", id="no HTTP"),
    pytest.param(b"HTTP/1.1 200", id="closes"),
    pytest.param(b"HTTP/1.1 100 Continue\r\n\r\n" * 100, id="1xx"),
    pytest.param(b"HTTP/1.1 200 OK\r\nX: %b\r\n\r\n" % (b"x" * 10_000), id="header too large"),
]

pytestmark = pytest.mark.row("SR26")


def request(port: int, *, scheme: str = "http", host: str = HOST) -> Request:
    """A delivery."""
    return Request(method="POST", url=f"{scheme}://{host}:{port}/hook?a=1", headers=(("X-A", "b"),), body=b"{}", timeout=5000)


@asynccontextmanager
async def sending(port: int, *, credentials: str = "", authority: Authority | None = None) -> AsyncIterator[Sender]:
    """A sender whose proxy listens at *port*."""
    tls = tls_context()
    if authority is not None:
        tls.load_verify_locations(cadata=authority.pem)
    sender = Sender(OPEN, proxy=Proxy.of(f"http://{credentials}127.0.0.1:{port}"), tls=tls)
    try:
        yield sender
    finally:
        await sender.close()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Whom the sender trusts."""
    return Authority(tmp_path_factory.mktemp("certificates"))


async def test_plain_requests_are_passed_on() -> None:
    """A request without TLS has the whole URL in its first line, and the receiver gets it as ever; connections are kept."""
    async with receiver(hostile.healthy) as good, forward_proxy() as proxy, sending(proxy.port) as sender:
        outcomes = [await sender.attempt(request(good.port)) for _ in range(2)]

    assert [Accepted, Accepted] == [type(outcome) for outcome in outcomes]
    assert [f"POST http://{HOST}:{good.port}/hook?a=1 HTTP/1.1"] == proxy.asked
    assert 1 == good.connections
    assert b"POST /hook?a=1 HTTP/1.1" == good.requests[0].partition(b"\r\n")[0]
    assert b"Host: %b:%d\r\n" % (HOST.encode(), good.port) in good.requests[0]


async def test_tls_goes_through_a_tunnel(authority: Authority) -> None:
    """What has TLS is between us and the receiver, whose certificate is verified; the tunnel is kept for the next request."""
    tls = server_context(authority.issue(HOST))
    async with receiver(hostile.healthy, tls=tls) as good, forward_proxy() as proxy:
        async with sending(proxy.port, authority=authority) as sender:
            outcomes = [await sender.attempt(request(good.port, scheme="https")) for _ in range(2)]
        async with sending(proxy.port) as sender:
            stranger = await sender.attempt(request(good.port, scheme="https"))

    assert [Accepted, Accepted] == [type(outcome) for outcome in outcomes]
    assert [f"CONNECT {HOST}:{good.port} HTTP/1.1"] * 2 == proxy.asked
    assert isinstance(stranger, Unreachable)
    assert ErrorCode.TLS_UNTRUSTED == stranger.error.code


async def test_endpoint_does_not_speak_for_the_proxy(authority: Authority) -> None:
    """A tunnel is opened by what the proxy says of it, also where an endpoint has said the same bytes before."""
    said = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    tls = server_context(authority.issue(HOST))
    async with (
        receiver(hostile.answers(said, said)) as plain,
        receiver(hostile.healthy, tls=tls) as secure,
        forward_proxy() as proxy,
        sending(proxy.port, authority=authority) as sender,
    ):
        proxy.opening = said
        outcomes = [await sender.attempt(request(plain.port)) for _ in range(2)]
        outcomes.append(await sender.attempt(request(secure.port, scheme="https")))

    assert [Accepted] * 3 == [type(outcome) for outcome in outcomes]


def test_proxy_with_tls(authority: Authority) -> None:
    """The way to the proxy may have TLS of its own, around that to the receiver, on both event loops."""
    tls = tls_context()
    tls.load_verify_locations(cadata=authority.pem)
    outcomes: list[Outcome] = []

    async def scenario() -> None:
        async with (
            receiver(hostile.healthy) as plain,
            receiver(hostile.healthy, tls=server_context(authority.issue(HOST))) as secure,
            forward_proxy(tls=server_context(authority.issue("127.0.0.1"))) as proxy,
        ):
            sender = Sender(OPEN, proxy=Proxy.of(f"https://127.0.0.1:{proxy.port}"), tls=tls)
            outcomes.append(await sender.attempt(request(plain.port)))
            outcomes.append(await sender.attempt(request(secure.port, scheme="https")))
            await sender.close()

    on_both_loops(scenario)

    assert [Accepted] * 4 == [type(outcome) for outcome in outcomes]


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_credentials_are_the_proxys(scheme: str, authority: Authority) -> None:
    """User and password go to the proxy alone: with the request for a tunnel, or with each that is passed on."""
    tls = server_context(authority.issue(HOST)) if scheme == "https" else None
    async with (
        receiver(hostile.healthy, tls=tls) as good,
        forward_proxy() as proxy,
        sending(proxy.port, credentials="me:p%40ss@", authority=authority) as sender,
    ):
        outcome = await sender.attempt(request(good.port, scheme=scheme))

    assert isinstance(outcome, Accepted)
    assert ["Basic bWU6cEBzcw=="] == proxy.credentials
    assert scheme == "http" or b"Authorization" not in good.requests[0]


async def test_repeated_credentials_of_the_proxy_are_concealed() -> None:
    """A page that repeats the request, as proxies make them, tells nobody what the operator's credentials are."""
    page = b"Proxy-Authorization: Basic " + b64encode(b"corp:proxy-password-1234")
    refusal = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: %d\r\n\r\n%b" % (len(page), page)
    credentials = "corp:proxy-password-1234@"
    async with forward_proxy(refusal) as proxy, sending(proxy.port, credentials=credentials) as sender:
        outcome = await sender.attempt(request(8000))

    assert isinstance(outcome, Refused)
    assert outcome.response is not None
    assert b"Proxy-Authorization: ***" == outcome.response.body


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_no_tunnel_is_the_proxys_refusal(refusal: bytes) -> None:
    """Whatever else than 200 it answers, nothing goes to the receiver, and the attempt says who refused."""
    async with receiver(hostile.healthy) as good, forward_proxy(refusal) as proxy, sending(proxy.port) as sender:
        outcome = await sender.attempt(request(good.port, scheme="https"))

    assert isinstance(outcome, Unreachable)
    assert ErrorCode.PROXY_ERROR == outcome.error.code
    assert 0 == good.connections


async def test_proxy_that_wants_credentials() -> None:
    """407 is the proxy's, also where it passes requests on."""
    async with receiver(hostile.healthy) as good, forward_proxy(UNAUTHORIZED) as proxy, sending(proxy.port) as sender:
        outcome = await sender.attempt(request(good.port))

    assert isinstance(outcome, Unreachable)
    assert ErrorCode.PROXY_ERROR == outcome.error.code


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_dead_proxy_is_our_trouble(scheme: str) -> None:
    """Where nothing goes out at all no attempt is spent."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with sending(port) as sender:
        outcome = await sender.attempt(request(8099, scheme=scheme))

    assert outcome == Interrupted(error=AttemptError(code=ErrorCode.PROXY_ERROR, detail="The proxy is out of reach."))


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("name", ["127.0.0.1", "another.example", None], ids=["untrusted", "name", "expired"])
async def test_proxy_that_does_not_show_who_it_is(scheme: str, name: str | None, authority: Authority) -> None:
    """A proxy with TLS whose certificate is of no use is this machine's trouble, and no endpoint's."""
    tls = tls_context()
    if name != "127.0.0.1":
        tls.load_verify_locations(cadata=authority.pem)
    past = authority.issue("127.0.0.1", begins=timedelta(days=-9), ends=timedelta(days=-2)) if name is None else None
    certificate = server_context(past or authority.issue(name or ""))
    async with forward_proxy(tls=certificate) as proxy:
        sender = Sender(OPEN, proxy=Proxy.of(f"https://127.0.0.1:{proxy.port}"), tls=tls)
        outcome = await sender.attempt(request(8099, scheme=scheme))
        await sender.close()

    assert outcome == Interrupted(error=AttemptError(code=ErrorCode.PROXY_ERROR, detail="The proxy is out of reach."))


@pytest.mark.parametrize("behaviour", [hostile.reset_at_once, hostile.finish_before_reading, hostile.reset_in_head])
async def test_proxy_that_drops_connections(behaviour: hostile.Behaviour) -> None:
    """A tunnel that does not come about is the proxy's doing, however it says so."""
    async with receiver(behaviour) as proxy, sending(proxy.port) as sender:
        outcome = await sender.attempt(request(8099, scheme="https"))

    assert isinstance(outcome, Unreachable)
    assert ErrorCode.PROXY_ERROR == outcome.error.code


async def test_endpoint_that_answers_as_a_proxy_would(authority: Authority) -> None:
    """In a tunnel a 407 is the endpoint's own answer: it cannot hide its failures as the proxy's."""
    tls = server_context(authority.issue(HOST))
    async with (
        receiver(hostile.answers(UNAUTHORIZED), tls=tls) as bad,
        forward_proxy() as proxy,
        sending(proxy.port, authority=authority) as sender,
    ):
        outcome = await sender.attempt(request(bad.port, scheme="https"))

    assert isinstance(outcome, Refused)
    assert ErrorCode.HTTP_STATUS == outcome.error.code


async def test_token_that_the_proxy_refuses() -> None:
    """What keeps a request for a token from going out is the proxy's, as it is of a delivery."""
    oauth2 = OAuth2(grant="client_credentials", token_url=f"http://{HOST}:8098/", client_id="c", client_secret=Secret("s"))
    asking = replace(request(8099), authorization=Authorization(subscription=1, oauth2=oauth2))
    async with forward_proxy(UNAUTHORIZED) as proxy, sending(proxy.port) as sender:
        outcome = await sender.attempt(asking)

    assert isinstance(outcome, Unreachable)
    assert ErrorCode.PROXY_ERROR == outcome.error.code


@pytest.mark.parametrize(
    ("user", "sent"),
    [("me:p%40ss@", b"me:p@ss"), (":hush@", b":hush"), ("me@", b"me:"), ("", None)],
)
def test_credentials_leave_the_url(user: str, sent: bytes | None) -> None:
    """Whatever of them is there goes into the header, and nothing into what is shown."""
    proxy = Proxy.of(f"http://{user}proxy.internal:3128")
    expected = () if sent is None else (("Proxy-Authorization", f"Basic {b64encode(sent).decode()}"),)

    assert ("http://proxy.internal:3128", expected) == (
        str(proxy.url),
        tuple((str(name), value) for name, value in proxy.headers),
    )


@pytest.mark.parametrize("error", [socket.EAI_NONAME, socket.EAI_AGAIN])
async def test_proxy_that_cannot_be_found_is_our_trouble(error: int) -> None:
    """Its name is the only one that is looked up here."""
    asked: list[str] = []

    def lookup(host: str, *_: object, **__: object) -> NoReturn:
        asked.append(host)
        raise socket.gaierror(error, "so says libc")

    resolver = Resolver(lambda *_: None, lookup=lookup)
    sender = Sender(OPEN, proxy=Proxy.of("http://proxy.internal:3128"), resolver=resolver)
    outcome = await sender.attempt(request(8099))
    await sender.close()

    assert outcome == Interrupted(error=AttemptError(code=ErrorCode.PROXY_ERROR, detail="The proxy is out of reach."))
    assert ["proxy.internal"] == asked


@pytest.mark.parametrize("url", ["http://10.0.0.1/", "http://169.254.169.254/", "http://localhost/", "http://127.0.0.1/"])
async def test_urls_are_vetted_as_ever(url: str) -> None:
    """The proxy is not asked for what the text of a URL forbids."""
    async with forward_proxy() as proxy, sending(proxy.port) as sender:
        outcome = await sender.attempt(replace(request(1), url=url))

    assert isinstance(outcome, Unreachable)
    assert ErrorCode.PROXY_ERROR is not outcome.error.code
    assert [] == proxy.asked


async def test_faults_of_ours_are_not_the_proxys() -> None:
    """What keeps a request from being written is told as that, and not held against the proxy."""
    async with forward_proxy() as proxy, sending(proxy.port) as sender:
        outcome = await sender.attempt(replace(request(8000), headers=(("X-A", "b\r\nc"),)))

    assert isinstance(outcome, Broken)
    assert [] == proxy.asked


async def test_engine_with_a_proxy(tmp_path: Path) -> None:
    """Deliveries go through it, the start warns of it without its password, and its refusals are not the endpoints'."""
    journal = Journal()
    async with Receiver() as good, forward_proxy() as proxy:
        security = replace(ALLOWED, proxy=Secret(f"http://me:hush@127.0.0.1:{proxy.port}"))
        async with Engine(tmp_path / DATABASE, config=Config(security=security), logger=journal.logger) as engine:
            port = int(good.url.rpartition(":")[2])
            await engine.subscribe(f"http://{HOST}:{port}/", event_types=["a"])
            tunnelled = await engine.subscribe(f"https://{HOST}:8099/", event_types=["b"], retry_schedule=[])
            event = await engine.publish("a", {"n": 1})
            assert ["delivered"] == [each.state for each in await engine.wait(event.id, PATIENCE)]
            proxy.refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"
            [refused] = await engine.wait((await engine.publish("b", 1)).id, PATIENCE)
            attempts = (await engine.delivery(refused.id)).attempts or []
            counters = await engine.subscription(tunnelled.id)

    assert [b'{"n":1}'] == [each.body.rpartition(b'"data":')[2][:-1] for each in good.requests]
    assert ("failed", 1, 0) == (refused.state, refused.attempt_count, counters.consecutive_failures)
    assert ["proxy_error"] == [each.error.code for each in attempts if each.error is not None]
    assert [f"http://127.0.0.1:{proxy.port}"] == [line["url"] for line in journal.all("proxy_in_use")]


async def test_proxy_that_comes_back(tmp_path: Path) -> None:
    """While the proxy is away deliveries wait, without an attempt, and go when it is there again."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    security = replace(ALLOWED, proxy=Secret(f"http://127.0.0.1:{port}"))
    journal = Journal()
    async with (
        Receiver() as good,
        Engine(tmp_path / DATABASE, config=Config(security=security), logger=journal.logger) as engine,
    ):
        await engine.subscribe(f"http://{HOST}:{good.url.rpartition(':')[2]}/")
        event = await engine.publish("a", 1)
        await journal.until("local_trouble")
        async with forward_proxy(port=port):
            [delivery] = await engine.wait(event.id, PATIENCE)

    assert ("delivered", 1) == (delivery.state, delivery.attempt_count)
