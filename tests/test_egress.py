"""Where no request may go, it goes by none of the ways that a running engine has: rows of S and SR, from save to replay."""

from __future__ import annotations

import ast
import asyncio
import socket
import time
import tomllib
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import ip_address
from itertools import product
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

import hostile
import pytest
from engines import Gate, Journal, edit, only
from hostile import answers, receiver, response
from hypothesis import given
from hypothesis import strategies as st
from patience import PATIENCE
from proxies import forward_proxy

from hookengine import netguard
from hookengine.config import Config, Security
from hookengine.engine import DATABASE, Engine
from hookengine.envelopes import with_query
from hookengine.errors import EndpointVerificationFailed, Invalid
from hookengine.receiver import Receiver, Reply
from hookengine.resolver import Resolver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

    from hookengine.views import Attempt, Delivery, Subscription

    Scenario = Callable[[], Awaitable[None]]
    Way = Callable[[Engine, str], Awaitable[list[str | None]]]

PUBLIC = "1.1.1.1"
METADATA = "169.254.169.254"
LOOPBACK = ("127.0.0.0/8",)
BLOCKED, UNKNOWN = "blocked_address", "dns_nxdomain"

URLS = {
    row: text.rpartition(": ") for row, text in tomllib.loads((Path(__file__).parent / "matrix.toml").read_text())["S"].items()
}
REFUSED = {row: url for row, (url, _, verdict) in URLS.items() if verdict == "refused"}


class WatchedLoop(asyncio.SelectorEventLoop):
    """
    An event loop that writes down every dial and makes only those of this machine.

    So no test here can reach anybody, whatever a broken guard lets pass.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dials: list[tuple[str, int]] = []

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        """Refuse *address*, unless it is loopback."""
        self.dials.append(address[:2])
        if not ip_address(address[0]).is_loopback:
            raise ConnectionRefusedError("refused by the test")
        await super().sock_connect(sock, address)


def watched(scenario: Scenario) -> list[tuple[str, int]]:
    """Run *scenario* where dials are watched, and return them."""
    loop = WatchedLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(asyncio.wait_for(scenario(), 4 * PATIENCE))
    return loop.dials


class Names:
    """What libc would answer: the addresses of each name, or its error; a name that is not here does not exist."""

    def __init__(self) -> None:
        self.answers: dict[str, Sequence[str] | OSError] = {}
        self.asked: list[str] = []

    def __call__(self, host: str, port: int, **_: Any) -> list[tuple[int, int, int, str, tuple[Any, ...]]]:
        """As getaddrinfo."""
        self.asked.append(host)
        found = self.answers.get(host, socket.gaierror(socket.EAI_NONAME, "unknown"))
        if isinstance(found, OSError):
            raise found
        kinds = [(socket.AF_INET6 if ":" in address else socket.AF_INET, address) for address in found]
        return [(kind, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port)) for kind, address in kinds]


class Canary:
    """A listener to which nobody may come."""

    def __init__(self) -> None:
        self.visits = 0
        self.port = 0
        self._server: asyncio.Server

    async def __aenter__(self) -> Self:
        async def visited(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.visits += 1
            writer.close()

        self._server = await asyncio.start_server(visited, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()
        assert 0 == self.visits


@asynccontextmanager
async def running(
    folder: Path, names: Names, *, networks: tuple[str, ...] = (), serve: str | None = None
) -> AsyncIterator[Engine]:
    """An engine for which *names* stands in for the DNS of this machine; the rest of its resolver is the real one."""
    config = Config(security=Security(allow_http=True, allow_networks=networks))  # type: ignore[arg-type]  # as texts
    engine = Engine(folder / DATABASE, config=config, serve=serve, logger=Journal().logger)
    await engine.start()
    engine._running.dispatcher._sender._resolver._lookup = names
    try:
        yield engine
    finally:
        await engine.stop(drain=0)


def resolver_of(engine: Engine) -> Resolver:
    """What looks names up."""
    return engine._running.dispatcher._sender._resolver


def forget_names(engine: Engine) -> None:
    """Let the answers that are kept grow old."""
    resolver_of(engine)._kept.clear()


def oauth2(token_url: str, **more: Any) -> dict[str, Any]:
    """Credentials for a token server."""
    return {
        "type": "oauth2",
        "grant": "client_credentials",
        "token_url": token_url,
        "client_id": "a",
        "client_secret": "b",
    } | more


# The ways, each from a URL to the codes of the attempts that were made with it.


async def codes(engine: Engine, sub: Subscription) -> list[str | None]:
    """How the attempts of a subscription ended, the oldest first."""
    page = await engine.deliveries(subscription=sub.id)
    found = [attempt for each in page.data for attempt in attempts_of(await engine.delivery(each.id))]
    return [code_of(attempt) for attempt in sorted(found, key=lambda each: each.at)]


def attempts_of(delivery: Delivery) -> list[Attempt]:
    """Those of a delivery that was asked for alone."""
    assert isinstance(delivery.attempts, list)
    return delivery.attempts


def code_of(attempt: Attempt) -> str | None:
    """What its error is called."""
    return None if attempt.error is None else attempt.error.code


async def sent_to(engine: Engine, sub: Subscription) -> str:
    """The id of an event of which *sub* has got, or not got, its delivery."""
    event = await engine.publish("order.created", 1, subscriptions=[sub.id])
    await engine.wait(event.id, timeout=PATIENCE)
    return event.id


async def by_delivery(engine: Engine, url: str) -> list[str | None]:
    """An event."""
    sub = await engine.subscribe(url, retry_schedule=[])
    await sent_to(engine, sub)
    return await codes(engine, sub)


async def by_retry(engine: Engine, url: str) -> list[str | None]:
    """A retry on the schedule, and one by hand."""
    sub = await engine.subscribe(url, retry_schedule=["1ms"])
    event = await sent_to(engine, sub)
    [delivery] = (await engine.deliveries(event=event)).data
    await engine.update_subscription(sub.id, retry_schedule=[])
    await engine.retry(delivery.id)
    await engine.wait(event, timeout=PATIENCE)
    return await codes(engine, sub)


async def by_replay_of_an_event(engine: Engine, url: str) -> list[str | None]:
    """An event again."""
    sub = await engine.subscribe(url, retry_schedule=[])
    event = await sent_to(engine, sub)
    await engine.replay_event(event, subscriptions=[sub.id])
    await engine.wait(event, timeout=PATIENCE)
    return await codes(engine, sub)


async def by_replay_of_a_subscription(engine: Engine, url: str) -> list[str | None]:
    """What failed again."""
    sub = await engine.subscribe(url, retry_schedule=[])
    event = await sent_to(engine, sub)
    assert 1 == (await engine.replay(sub.id)).count
    async with asyncio.timeout(PATIENCE):
        while len(await engine.wait(event, timeout=PATIENCE)) < 2:
            pass
    return await codes(engine, sub)


async def by_change(engine: Engine, url: str) -> list[str | None]:
    """A subscription that had another URL."""
    sub = await engine.subscribe("http://elsewhere.example/", retry_schedule=[])
    await engine.update_subscription(sub.id, url=url)
    await sent_to(engine, sub)
    return await codes(engine, sub)


async def by_test(engine: Engine, url: str) -> list[str | None]:
    """A test event."""
    sub = await engine.subscribe(url)
    attempt = await engine.test(sub.id)
    return [code_of(attempt)]


async def by_test_on_save(engine: Engine, url: str) -> list[str | None]:
    """The test that saving takes."""
    with pytest.raises(EndpointVerificationFailed) as refused:
        await engine.subscribe(url, profile="clearfeed")
    attempt = refused.value.attempt
    assert attempt is not None
    assert [] == (await engine.subscriptions()).data
    return [code_of(attempt)]


async def by_token(engine: Engine, url: str) -> list[str | None]:
    """The request for a token: the attempt that needs it fails, and says in words why."""
    sub = await engine.subscribe("http://elsewhere.example/", retry_schedule=[], auth=oauth2(url))
    event = await sent_to(engine, sub)
    [attempt] = attempts_of(await only(engine, event=event))
    assert attempt.error is not None
    assert "auth_failed" == attempt.error.code
    return [BLOCKED if "must not be called" in attempt.error.detail else attempt.error.detail]


WAYS = [
    by_delivery,
    by_retry,
    by_replay_of_an_event,
    by_replay_of_a_subscription,
    by_change,
    by_test,
    by_test_on_save,
    by_token,
]

KINDS = {
    "SR01-loopback": ["127.0.0.1"],
    "SR02-metadata": [METADATA],
    "SR03-loopback": ["::1"],
    "SR03-mapped": ["::ffff:127.0.0.1"],
    "SR03-nat64": ["64:ff9b::7f00:1"],
    "SR04-public first": [PUBLIC, "127.0.0.1"],
    "SR05-public last": ["127.0.0.1", PUBLIC],
    "SR14-what an alias leads to": [METADATA, "fd00:ec2::254"],
    "SR17-one family": ["::1", PUBLIC],
    "this host": ["0.0.0.0"],
    "private": ["10.1.2.3"],
    "unique local": ["fd00::1"],
    "6to4": ["2002:7f00:1::1"],
    "multicast": ["224.0.0.1"],
}


@pytest.mark.row("SR14", "SR34")
@pytest.mark.parametrize("way", WAYS, ids=[way.__name__ for way in WAYS])
def test_no_way_leads_to_a_forbidden_address(
    tmp_path: Path, way: Callable[[Engine, str], Awaitable[list[str | None]]]
) -> None:
    """A name with any forbidden address is blocked on every way alike, and nothing at all is dialled."""

    async def scenario() -> None:
        names = Names()
        async with Canary() as canary, running(tmp_path, names) as engine:
            for number, addresses in enumerate(KINDS.values()):
                host = f"hooks-{number}.acme.com"
                names.answers[host] = addresses

                assert {BLOCKED} == set(await way(engine, f"http://{host}:{canary.port}/")), addresses

            assert {f"hooks-{number}.acme.com" for number in range(len(KINDS))} == set(names.asked) - {"elsewhere.example"}

    assert [] == watched(scenario)


@pytest.mark.row("SR35")
def test_rows_edited_by_hand_are_vetted_when_they_are_used(tmp_path: Path) -> None:
    """Every URL of the matrix that is refused is refused by the attempt too, without a look-up, if it got into the file."""
    names = Names()

    async def scenario() -> None:
        async with running(tmp_path, names) as engine:
            made = [await engine.subscribe("http://elsewhere.example/", state="disabled", retry_schedule=[]) for _ in REFUSED]
        for sub, url in zip(made, REFUSED.values(), strict=True):
            quoted = url.replace("'", "''")
            await edit(
                tmp_path,
                f"UPDATE subscriptions SET settings = CAST(json_set(settings, '$.url', '{quoted}') AS BLOB), state = 'active',"
                f" disabled_reason = NULL WHERE id = '{sub.id}'",
            )
        async with running(tmp_path, names) as engine:
            event = await engine.publish("order.created", 1)
            assert len(REFUSED) == event.deliveries
            await engine.wait(event.id, timeout=PATIENCE)
            for sub, url in zip(made, REFUSED.values(), strict=True):
                assert [await codes(engine, sub)] in ([[BLOCKED]], [["invalid_url"]]), url

    assert [] == watched(scenario)
    assert [] == names.asked


def test_every_url_of_the_matrix_when_it_is_saved(tmp_path: Path) -> None:
    """What is refused is refused by whatever saves it, with its place, and what may pass is saved without a look-up."""
    names = Names()

    async def refused(saving: Awaitable[Any]) -> list[str | None]:
        with pytest.raises(Invalid) as caught:
            await saving
        assert {"invalid_url"} == {mistake.code for mistake in caught.value.mistakes}
        return [mistake.pointer for mistake in caught.value.mistakes]

    async def scenario() -> None:
        async with running(tmp_path, names) as engine:
            before = await engine.subscribe("https://elsewhere.example/", auth=oauth2("https://elsewhere.example/"))
            for row, (url, _, verdict) in URLS.items():
                auth = oauth2(url, refresh_url=url)
                if verdict == "refused":
                    assert ["/url"] == await refused(engine.subscribe(url)), row
                    assert ["/url"] == await refused(engine.update_subscription(before.id, url=url)), row
                    both = ["/auth/token_url", "/auth/refresh_url"]
                    assert both == await refused(engine.subscribe("https://elsewhere.example/", auth=auth)), row
                    assert both == await refused(engine.update_subscription(before.id, auth=auth)), row
                else:
                    await engine.unsubscribe((await engine.subscribe(url, auth=auth)).id)
            assert [before.id] == [each.id for each in (await engine.subscriptions()).data]

    assert [] == watched(scenario)
    assert [] == names.asked


@pytest.mark.row("SR08")
def test_name_that_changes_between_two_attempts(tmp_path: Path) -> None:
    """The first attempt reaches the endpoint, and the second is blocked, where the name meanwhile leads elsewhere."""

    async def scenario() -> None:
        names = Names()
        names.answers["hooks.acme.com"] = ["127.0.0.1"]
        async with receiver(answers(response("503 Wait", "Connection: close"))) as endpoint:
            async with running(tmp_path, names, networks=LOOPBACK) as engine:
                sub = await engine.subscribe(f"http://hooks.acme.com:{endpoint.port}/", retry_schedule=[])
                event = await sent_to(engine, sub)
                for addresses in ([METADATA], ["127.0.0.1", METADATA], ["10.0.0.1"]):
                    names.answers["hooks.acme.com"] = addresses
                    forget_names(engine)
                    [delivery] = (await engine.deliveries(event=event)).data
                    await engine.retry(delivery.id)
                    await engine.wait(event, timeout=PATIENCE)

                assert ["http_status", BLOCKED, BLOCKED, BLOCKED] == await codes(engine, sub)
            assert 1 == endpoint.connections

    assert ["127.0.0.1"] == [host for host, _ in watched(scenario)]


@pytest.mark.row("SR09")
def test_name_that_changes_while_its_connection_is_kept(tmp_path: Path) -> None:
    """A kept connection leads to who was vetted, and may be used; the next that is made is vetted anew."""

    async def twice(peer: hostile.Peer) -> None:
        for _ in range(2):
            await peer.request()
            await peer.send(hostile.OK)
        await peer.finish()

    async def scenario() -> None:
        names = Names()
        names.answers["hooks.acme.com"] = ["127.0.0.1"]
        async with receiver(twice) as endpoint, running(tmp_path, names, networks=LOOPBACK) as engine:
            sub = await engine.subscribe(f"http://hooks.acme.com:{endpoint.port}/", retry_schedule=[])
            await sent_to(engine, sub)
            names.answers["hooks.acme.com"] = [METADATA]
            forget_names(engine)
            await sent_to(engine, sub)
            await endpoint.settled()
            await sent_to(engine, sub)

            assert [None, None, BLOCKED] == await codes(engine, sub)
            assert 1 == endpoint.connections

    assert ["127.0.0.1"] == [host for host, _ in watched(scenario)]


@pytest.mark.row("SR10", "SR11")
@pytest.mark.parametrize(
    ("error", "code"),
    [
        pytest.param(socket.gaierror(socket.EAI_NONAME, "x"), "dns_nxdomain", id="no such name"),
        pytest.param(socket.gaierror(socket.EAI_AGAIN, "x"), "dns_temporary", id="server failure"),
        pytest.param(socket.gaierror(socket.EAI_FAIL, "x"), "dns_temporary", id="failure"),
        pytest.param(TimeoutError(), "dns_temporary", id="timeout"),
    ],
)
def test_failing_lookup_opens_nothing(tmp_path: Path, error: OSError, code: str) -> None:
    """A name that cannot be looked up is saved, never dialled, and vetted as any when it can be."""

    async def scenario() -> None:
        names = Names()
        names.answers |= {"hooks.acme.com": error, "alive.acme.com": ["1.1.1.1"], "alive.acme.com.": ["1.1.1.1"]}
        async with Canary() as canary, running(tmp_path, names) as engine:
            sub = await engine.subscribe(f"http://hooks.acme.com:{canary.port}/", retry_schedule=[])
            assert [] == names.asked
            await resolver_of(engine).resolve("alive.acme.com")  # without it the outage would be ours
            await sent_to(engine, sub)
            names.answers["hooks.acme.com"] = ["127.0.0.1"]
            forget_names(engine)
            await sent_to(engine, sub)

            assert [code, BLOCKED] == await codes(engine, sub)

    assert [] == watched(scenario)


@pytest.mark.row("SR16")
async def test_name_of_the_hosts_file() -> None:
    """What the machine itself says of a name is judged like any answer; every machine knows this one."""
    found: list[str] = []

    def note(address: str, _port: int) -> None:
        found.append(address)
        netguard.admit(address, 80, netguard.Policy())

    resolver = Resolver(note)
    with pytest.raises(netguard.AddressBlocked):
        await resolver.resolve("localhost", 80)
    await resolver.close()

    assert ip_address(found[0]).is_loopback


@pytest.mark.row("SR20", "SR21", "SR22")
@pytest.mark.parametrize("way", [by_delivery, by_test, by_test_on_save, by_token], ids=lambda way: way.__name__)
def test_no_redirect_is_followed(tmp_path: Path, way: Way) -> None:
    """Wherever an endpoint or a token server redirects to, also to itself, one request is made and none goes there."""
    ports = set()

    async def scenario() -> None:
        reply = Reply()
        async with AsyncExitStack() as stack:
            canary = await stack.enter_async_context(Canary())
            endpoint = await stack.enter_async_context(Receiver(lambda _: reply))
            engine = await stack.enter_async_context(running(tmp_path, Names(), networks=LOOPBACK))
            places = [f"http://127.0.0.1:{canary.port}/", "/again", f"{endpoint.url}/", "//elsewhere.example/", "http://[::1"]
            for number, (status, place) in enumerate(product((301, 302, 303, 307, 308), places), 1):
                reply = Reply(status=status, headers=(("Location", place),))

                [code] = await way(engine, f"{endpoint.url}/")

                assert "redirect" in str(code), (status, place)
                assert number == len(endpoint.requests), (status, place)
            ports.add(int(endpoint.url.rpartition(":")[2]))

    assert ports == {port for _, port in watched(scenario)}


HINTS = [
    "Refresh: 0; url=http://127.0.0.1:{port}/",
    'Alt-Svc: h2="127.0.0.1:{port}"; ma=86400',
    "Link: <http://127.0.0.1:{port}/>; rel=preload",
    "Content-Location: http://127.0.0.1:{port}/",
    "Location: http://127.0.0.1:{port}/",
    'Report-To: {{"endpoints":[{{"url":"http://127.0.0.1:{port}/"}}]}}',
    "Strict-Transport-Security: max-age=31536000",
]


@pytest.mark.row("SR24")
def test_hints_are_not_taken(tmp_path: Path) -> None:
    """What a 200 says in headers or in its page of where else to go is nothing to us, now or with the next request."""
    ports = set()

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            canary = await stack.enter_async_context(Canary())
            page = b'<meta http-equiv="refresh" content="0; url=http://127.0.0.1:%d/"><img src="http://127.0.0.1:%d/x">'
            body = page % (canary.port, canary.port)
            said = [response("200 OK", hint.format(port=canary.port), body) for hint in HINTS]
            endpoint = await stack.enter_async_context(receiver(answers(*said, hostile.OK)))
            engine = await stack.enter_async_context(running(tmp_path, Names(), networks=LOOPBACK))
            sub = await engine.subscribe(endpoint.url, retry_schedule=[])
            for _ in range(len(said) + 1):
                await sent_to(engine, sub)

            assert [None] * (len(said) + 1) == await codes(engine, sub)
            assert (1, len(said) + 1) == (endpoint.connections, len(endpoint.requests))
            ports.add(endpoint.port)

    assert ports == {port for _, port in watched(scenario)}


@pytest.mark.row("SR26")
@pytest.mark.parametrize("way", WAYS, ids=[way.__name__ for way in WAYS])
def test_proxy_is_not_passed_over(tmp_path: Path, way: Way) -> None:
    """With a proxy nothing else is dialled, whatever a request goes out for, and no name is looked up."""
    names = Names()

    async def scenario() -> None:
        async with forward_proxy(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n") as proxy:
            ports.append(proxy.port)
            config = Config(security=Security(allow_http=True, proxy=f"http://127.0.0.1:{proxy.port}"))  # type: ignore[arg-type]  # as text
            async with Engine(tmp_path / DATABASE, config=config) as engine:
                resolver_of(engine)._lookup = names
                await way(engine, "http://hooks.acme.com:8099/")
            assert proxy.asked

    ports: list[int] = []
    dials = set(watched(scenario))

    assert {("127.0.0.1", port) for port in ports} == dials
    assert [] == names.asked


@pytest.mark.row("SR28", "SR31")
@pytest.mark.parametrize(
    "address", [METADATA, f"::ffff:{METADATA}", "fd00:ec2::254", "fe80::1", "168.63.129.16", "100.100.100.200"]
)
def test_allowed_networks_open_no_metadata(tmp_path: Path, address: str) -> None:
    """Where private networks are allowed a private name may be called, until it leads to where credentials are given out."""

    async def scenario() -> None:
        names = Names()
        names.answers["internal.acme.com"] = ["127.0.0.1"]
        async with receiver(hostile.healthy) as endpoint:
            networks = (*LOOPBACK, "10.0.0.0/8", "100.64.0.0/10", "fd00::/8")
            async with running(tmp_path, names, networks=networks) as engine:
                sub = await engine.subscribe(f"http://internal.acme.com:{endpoint.port}/", retry_schedule=[])
                await sent_to(engine, sub)
                names.answers["internal.acme.com"] = [address]
                forget_names(engine)
                await sent_to(engine, await engine.subscribe("http://internal.acme.com:8099/", retry_schedule=[]))
                other = (await engine.subscriptions()).data[0]

                assert [None] == await codes(engine, sub)
                assert [BLOCKED] == await codes(engine, other)

    assert ["127.0.0.1"] == [host for host, _ in watched(scenario)]


@pytest.mark.row("SR32", "SR33")
def test_own_listener_is_not_called(tmp_path: Path) -> None:
    """An event does not come back to the engine that sends it, neither by its address nor by a name for it."""

    async def scenario() -> None:
        names = Names()
        names.answers["me.acme.com"] = ["127.0.0.1"]
        async with running(tmp_path, names, networks=LOOPBACK, serve="127.0.0.1:0") as engine:
            port = urlsplit(engine.url or "").port
            with pytest.raises(Invalid, match="leads back"):
                await engine.subscribe(f"http://127.0.0.1:{port}/v1/events")
            found = [await way(engine, f"http://me.acme.com:{port}/v1/events") for way in (by_delivery, by_test)]

            assert [["self_connection"]] * 2 == found
            assert 1 == len((await engine.events()).data)

    assert [] == watched(scenario)


@pytest.mark.row("SR33")
@pytest.mark.parametrize("profile", ["standard", "github"])
def test_event_does_not_go_round(tmp_path: Path, profile: str) -> None:
    """Two engines that send to each other's API do not keep an event going: what comes out is not what goes in."""

    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            engines = []
            for name in ("a", "b"):
                (tmp_path / name).mkdir()
                engine = await stack.enter_async_context(
                    running(tmp_path / name, Names(), networks=LOOPBACK, serve="127.0.0.1:0")
                )
                engines.append((engine, (tmp_path / name / "admin.token").read_text().strip()))
            subs = []
            for (engine, _), (other, token) in zip(engines, reversed(engines), strict=True):
                headers = {"Authorization": f"Bearer {token}"}
                url = f"{other.url}/v1/events"
                subs.append(await engine.subscribe(url, profile=profile, headers=headers, retry_schedule=[]))
            [(first, _), (second, _)] = engines
            # Event in event: as deep as somebody makes it, it goes round, and no further.
            await first.publish("a", {"type": "b", "data": {"type": "c", "data": 1}})
            async with asyncio.timeout(PATIENCE):
                while "http_status" not in await codes(first, subs[0]) + await codes(second, subs[1]):
                    pass

            counts = [len((await engine.events()).data) for engine in (first, second)]
            assert counts == ([1, 0] if profile == "standard" else [2, 1])

    watched(scenario)


@pytest.mark.row("SR36")
def test_url_that_changes_while_an_attempt_is_under_way(tmp_path: Path) -> None:
    """The attempt ends with whom it began; the next goes by the URL as it is then, and is vetted anew."""

    async def scenario() -> None:
        names, gate = Names(), Gate()
        names.answers["hooks.acme.com"] = ["10.0.0.1"]
        async with Receiver(gate) as endpoint, running(tmp_path, names, networks=LOOPBACK) as engine:
            sub = await engine.subscribe(endpoint.url, retry_schedule=[])
            event = await engine.publish("order.created", 1)
            await gate.arrived()
            await engine.update_subscription(sub.id, url="http://hooks.acme.com/")
            gate.open(503)
            [delivery] = await engine.wait(event.id, timeout=PATIENCE)
            await engine.retry(delivery.id)
            await engine.wait(event.id, timeout=PATIENCE)

            assert ["http_status", BLOCKED] == await codes(engine, sub)
            assert 1 == len(endpoint.requests)

    assert ["127.0.0.1"] == [host for host, _ in watched(scenario)]


DOORS = [
    *("Host", "host", "Metadata-Flavor", "X-aws-ec2-metadata-token", "X-aws-ec2-metadata-token-ttl-seconds"),
    *("X-Metadata-Token", "X-Forwarded-Host", "X-Forwarded-For", "Proxy-Authorization", "X-HTTP-Method-Override"),
]


@pytest.mark.row("SR37")
def test_header_that_opens_doors(tmp_path: Path) -> None:
    """No subscription sends a header that a metadata service asks for, or that tells another host than the URL does."""

    async def scenario() -> None:
        async with running(tmp_path, Names()) as engine:
            made = await engine.subscribe("http://elsewhere.example/")
            for name in DOORS:
                for saving in (
                    engine.subscribe("http://elsewhere.example/", headers={name: METADATA}),
                    engine.update_subscription(made.id, headers={name: METADATA}),
                ):
                    with pytest.raises(Invalid) as caught:
                        await saving
                    assert [(f"/headers/{name}", "reserved_header")] == [(m.pointer, m.code) for m in caught.value.mistakes]

    assert [] == watched(scenario)


@pytest.mark.row("SR38")
@given(
    key_values=st.dictionaries(
        st.text(max_size=10), st.text(max_size=20) | st.integers(-(2**63), 2**64 - 1) | st.none(), max_size=4
    )
)
def test_what_is_put_into_a_url_leaves_its_host(key_values: dict[str, Any]) -> None:
    """Values that a URL is completed with go into its query, whatever they are: it is dialled and vetted as before."""
    url = "https://hooks.acme.com:8443/a%2Fb?x=1"
    try:
        completed = with_query(url, key_values)
    except UnicodeEncodeError:
        return  # a lone surrogate, which is refused when it is saved

    vetted = netguard.vet_url(completed, netguard.Policy())
    assert ("hooks.acme.com", 8443, "/a%2Fb") == (vetted.raw_host, vetted.port, vetted.raw_path)
    assert completed.startswith(url)


@pytest.mark.alone
@pytest.mark.row("SR39")
def test_blocked_ports_tell_nothing(tmp_path: Path) -> None:
    """Whether anybody listens on a forbidden address can be told neither from the answer nor from the time it takes."""

    async def scenario() -> None:
        names = Names()
        names.answers["open.acme.com"] = names.answers["shut.acme.com"] = ["127.0.0.1"]
        names.answers["far.acme.com"] = ["10.255.255.1"]
        with socket.create_server(("127.0.0.1", 0)) as shut:
            free = shut.getsockname()[1]
        async with Canary() as canary, running(tmp_path, names) as engine:
            found: dict[str, list[float]] = {}
            told = set()
            ports = {"open": canary.port, "shut": free, "far": 8099}
            subs = {name: await engine.subscribe(f"http://{name}.acme.com:{port}/") for name, port in ports.items()}
            for _ in range(20):
                forget_names(engine)
                for name, sub in subs.items():
                    begun = time.thread_time()
                    attempt = await engine.test(sub.id)
                    found.setdefault(name, []).append(time.thread_time() - begun)
                    assert attempt.error is not None
                    told.add((attempt.error.code, attempt.error.detail.replace(f"{name}.acme.com:{ports[name]}", "")))

        assert 1 == len(told)
        medians = [median(each) for each in found.values()]
        assert max(medians) - min(medians) < 0.005

    assert [] == watched(scenario)


@pytest.mark.row("SR41")
def test_socket_of_this_machine(tmp_path: Path) -> None:
    """A socket in the file system is no endpoint, however it is written."""

    async def scenario() -> None:
        async with running(tmp_path, Names(), networks=LOOPBACK) as engine:
            for url in ("http+unix://%2Frun%2Fx.sock/", "unix:/run/x.sock", "http://%2Frun%2Fx.sock/", "http://\0x/"):
                with pytest.raises(Invalid):
                    await engine.subscribe(url)

    assert [] == watched(scenario)


@pytest.mark.row("SR46")
def test_verdicts_are_those_of_our_table() -> None:
    """The guard asks nothing of Python's own ideas of what is private or global, which change from version to version."""
    tree = ast.parse(Path(netguard.__file__).read_text())
    asked = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr.startswith("is_")}

    assert {"is_unspecified"} >= asked
