"""Attempts and their outcomes; the hostile receivers are in test_sender_hostile.py and test_sender_tls.py."""

from __future__ import annotations

import asyncio
import errno
import gc
import socket
import sys
import threading
from contextlib import AsyncExitStack, ExitStack, contextmanager
from functools import partial
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

import hostile
import pytest
from c_parser import needs_c_parser
from certificates import Authority, server_context
from hostile import answers, on_both_loops, receiver, response
from hostile_rows import ROWS, Row
from msgspec.structs import replace
from patience import PATIENCE

from hookengine.clock import Clock
from hookengine.models import (
    Accepted,
    Broken,
    ErrorCode,
    Interrupted,
    Outcome,
    Refused,
    Request,
    Rules,
    Secret,
    SecretBytes,
    Unreachable,
)
from hookengine.netguard import Policy, admit
from hookengine.receiver import Receiver
from hookengine.resolver import Resolver
from hookengine.schemes import SCHEMES
from hookengine.sender import Sender, has_ipv4_route
from hookengine.signing import sign

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hostile import Behaviour, Peer

LOOPBACK = Policy(allow_http=True, allow_networks=(ip_network("127.0.0.0/8"), ip_network("::1/128")))


def request(url: str, *, timeout: int = 5000) -> Request:
    """A delivery."""
    return Request(method="POST", url=url, headers=(), body=b"{}", timeout=timeout)


def ending(outcome: Outcome) -> tuple[type[Outcome], ErrorCode | None]:
    """The kind of an outcome and its error code."""
    error = None if isinstance(outcome, Accepted) else outcome.error
    return type(outcome), error.code if error else None


def looking_up(found: Callable[[str], list[str]]) -> Resolver:
    """A resolver for which *found* answers in place of libc."""

    def lookup(host: str, port: int, **_: Any) -> list[tuple[int, int, int, str, tuple[Any, ...]]]:
        kinds = [(socket.AF_INET6 if ":" in address else socket.AF_INET, address) for address in found(host)]
        return [(kind, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port)) for kind, address in kinds]

    return Resolver(partial(admit, policy=LOOPBACK), lookup=lookup)


def failing_with(number: int, *, but: str | None = None) -> Resolver:
    """A resolver for which libc answers with an error for every name *but* one."""

    def fail(host: str) -> list[str]:
        if host.removesuffix(".") == but:
            return ["127.0.0.1"]
        raise socket.gaierror(number, "so says libc")

    return looking_up(fail)


@pytest.mark.row("R65")
async def test_nobody_listens() -> None:
    """A closed port refuses."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    sender = Sender(LOOPBACK)
    outcome = await sender.attempt(request(f"http://127.0.0.1:{port}/"))
    await sender.close()

    assert (Unreachable, ErrorCode.CONNECT_REFUSED) == ending(outcome)


@contextmanager
def unanswered() -> Iterator[int]:
    """A port that answers no connect: its backlog is full."""
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = listening.getsockname()[1]
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", port))
        yield port


@pytest.mark.row("R66")
def test_full_backlog() -> None:
    """A connect that nobody answers ends with the attempt's own time."""

    async def scenario() -> None:
        sender = Sender(LOOPBACK)
        outcome = await sender.attempt(request(f"http://127.0.0.1:{port}/", timeout=300))
        await sender.close()

        assert (Unreachable, ErrorCode.TIMEOUT_CONNECT) == ending(outcome)

    with unanswered() as port:
        on_both_loops(scenario)


@pytest.mark.parametrize(
    ("url", "code"),
    [
        pytest.param("http://hooks..acme.example/", ErrorCode.INVALID_URL, id="R64-empty"),
        pytest.param(f"http://{'a' * 64}.example/", ErrorCode.INVALID_URL, id="R64-long"),
        pytest.param("http://user:s3cret@hooks.acme.example/", ErrorCode.INVALID_URL, id="credentials"),
        pytest.param("ftp://hooks.acme.example/", ErrorCode.INVALID_URL, id="scheme"),
        pytest.param("", ErrorCode.INVALID_URL, id="empty"),
        pytest.param("http://169.254.169.254/latest", ErrorCode.BLOCKED_ADDRESS, id="metadata"),
        pytest.param("http://10.0.0.1/", ErrorCode.BLOCKED_ADDRESS, id="private"),
    ],
)
async def test_url_is_vetted_at_every_attempt(url: str, code: ErrorCode) -> None:
    """A URL that must not be called ends the attempt before anything is dialled, each time anew."""
    sender = Sender(LOOPBACK)
    outcomes = [await sender.attempt(request(url)) for _ in range(2)]
    await sender.close()

    assert [(Unreachable, code)] * 2 == list(map(ending, outcomes))
    assert "s3cret" not in repr(outcomes)


@pytest.mark.parametrize(
    ("addresses", "code"),
    [
        pytest.param(["10.0.0.1"], ErrorCode.BLOCKED_ADDRESS, id="private"),
        pytest.param(["127.0.0.1", "169.254.169.254"], ErrorCode.BLOCKED_ADDRESS, id="one of two"),
        pytest.param([], ErrorCode.DNS_NO_ADDRESS, id="none"),
    ],
)
async def test_addresses_of_a_name(addresses: list[str], code: ErrorCode) -> None:
    """A name that leads where no request may go is named in the outcome, and the address is not."""
    sender = Sender(LOOPBACK, resolver=looking_up(lambda _host: addresses))
    outcome = await sender.attempt(request("http://hooks.acme.example:8080/path?token=s3cret"))
    await sender.close()

    assert (Unreachable, code) == ending(outcome)
    assert isinstance(outcome, Unreachable)
    assert outcome.error.detail.startswith("hooks.acme.example:8080: ")
    assert not [part for part in (*addresses, "s3cret") if part in outcome.error.detail]


async def test_own_listener_is_not_called() -> None:
    """A URL that leads back to this server is refused as what it is."""
    async with receiver(hostile.healthy) as own:
        policy = Policy(allow_http=True, allow_networks=LOOPBACK.allow_networks, own_addresses=(("0.0.0.0", own.port),))
        sender = Sender(policy)
        outcome = await sender.attempt(request(own.url))
        await sender.close()

    assert (Unreachable, ErrorCode.SELF_CONNECTION) == ending(outcome)
    assert 0 == own.connections


@pytest.mark.parametrize(
    "behaviour", [None, answers(b"garbage\r\n\r\n"), hostile.reset_in_head, hostile.endless_headers, hostile.healthy]
)
async def test_attempt_lets_go_of_its_request(behaviour: hostile.Behaviour | None) -> None:
    """However it ends, nothing of it waits for the collector: bodies are large, and may be many."""
    body = b"x" * 1000
    async with AsyncExitStack() as stack:
        if behaviour is None:
            with socket.create_server(("127.0.0.1", 0)) as taken:
                url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        else:
            url = (await stack.enter_async_context(receiver(behaviour))).url
        sender = Sender(LOOPBACK)
        gc.collect()
        gc.disable()
        try:
            before = sys.getrefcount(body)
            await sender.attempt(replace(request(url), body=body))
            after = sys.getrefcount(body)
        finally:
            gc.enable()
        await sender.close()

    assert before == after


async def test_answer_to_a_secret_is_not_remembered() -> None:
    """What a token server says holds tokens: unlike other answers, the pool does not keep it beyond its attempt."""
    async with receiver(hostile.healthy) as good:
        sender = Sender(LOOPBACK)
        await sender.attempt(replace(request(good.url), body=SecretBytes(b"grant_type=password")))
        after_a_secret = len(sender._pool._answers._known)
        await sender.attempt(request(good.url))
        after_another = len(sender._pool._answers._known)
        await sender.close()

    assert (0, 1, 0) == (after_a_secret, after_another, len(sender._pool._answers._known))


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(socket.EAI_NONAME, ErrorCode.DNS_NXDOMAIN, id="R61"),
        pytest.param(socket.EAI_AGAIN, ErrorCode.DNS_TEMPORARY, id="R62"),
        pytest.param(socket.EAI_FAIL, ErrorCode.DNS_TEMPORARY, id="R62-failure"),
    ],
)
async def test_lookup_fails(number: int, code: ErrorCode) -> None:
    """A lookup's failure has its own name, and is the endpoint's where another name is answered."""
    resolver = failing_with(number, but="alive.example")
    sender = Sender(LOOPBACK, resolver=resolver)
    await resolver.resolve("alive.example")
    outcome = await sender.attempt(request("http://hooks.acme.example/"))
    await sender.close()

    assert (Unreachable, code) == ending(outcome)


@pytest.mark.parametrize(
    ("silent_for", "expected"),
    [
        pytest.param(0, (Interrupted, ErrorCode.DNS_TEMPORARY), id="never"),
        pytest.param(29, (Interrupted, ErrorCode.DNS_TEMPORARY), id="29 s"),
        pytest.param(31, (Interrupted, ErrorCode.LOCAL_NETWORK), id="31 s"),
        pytest.param(24 * 3600 - 5, (Interrupted, ErrorCode.LOCAL_NETWORK), id="a day"),
        pytest.param(24 * 3600 + 5, (Unreachable, ErrorCode.DNS_TEMPORARY), id="over a day"),
    ],
)
@pytest.mark.row("F39")
async def test_dns_outage_is_ours(silent_for: float, expected: tuple[type[Outcome], ErrorCode]) -> None:
    """While no name gets an answer, for a day at most, a failed lookup is no endpoint's fault; after 30 s it says so."""
    resolver = failing_with(socket.EAI_AGAIN)
    sender = Sender(LOOPBACK, resolver=resolver)
    if silent_for:
        resolver._found = [("hooks.acme.example.", 80, 0), ("other.acme.example.", 80, 0)]
        resolver.last_answer_at = asyncio.get_running_loop().time() - silent_for
    outcome = await sender.attempt(request("http://hooks.acme.example/"))
    await sender.close()

    assert expected == ending(outcome)
    assert isinstance(outcome, Unreachable) or (isinstance(outcome, Interrupted) and outcome.keeps_nobody_else)


@pytest.mark.row("F39")
async def test_dns_outage_ends_with_the_first_answer() -> None:
    """Also after a long silence a name is to blame where another one gets an answer."""
    resolver = failing_with(socket.EAI_AGAIN, but="alive.example")
    sender = Sender(LOOPBACK, resolver=resolver)
    await resolver.resolve("alive.example")
    resolver.last_answer_at = asyncio.get_running_loop().time() - 31
    outcome = await sender.attempt(request("http://hooks.acme.example/"))
    await sender.close()

    assert (Unreachable, ErrorCode.DNS_TEMPORARY) == ending(outcome)


async def test_connect_is_no_lookup() -> None:
    """A connect that hangs is told as that, also while somebody else waits for a lookup of the same name."""
    released = threading.Event()
    asked: list[str] = []

    def found(host: str) -> list[str]:
        asked.append(host)
        if len(asked) > 1:
            released.wait(10)
        return ["127.0.0.1"]

    resolver = looking_up(found)
    sender = Sender(LOOPBACK, resolver=resolver)
    with unanswered() as port:
        url = f"http://hooks.acme.example:{port}/"
        await resolver.resolve("hooks.acme.example", port, socket.AF_UNSPEC)
        first = asyncio.create_task(sender.attempt(request(url, timeout=400)))
        await asyncio.sleep(0)  # it has what is remembered
        resolver._kept.clear()
        second = asyncio.create_task(sender.attempt(request(url, timeout=300)))
        outcomes = await asyncio.gather(first, second)
    released.set()
    await sender.close()

    assert [ErrorCode.TIMEOUT_CONNECT, ErrorCode.DNS_TEMPORARY] == [ending(outcome)[1] for outcome in outcomes]


@pytest.mark.row("F39")
async def test_dns_outage_is_ours_with_little_time() -> None:
    """So it is where the time for the attempt is over before the lookup is given up."""
    released = threading.Event()

    def hang(_host: str) -> list[str]:
        released.wait(10)
        return []

    resolver = looking_up(hang)
    sender = Sender(LOOPBACK, resolver=resolver)
    resolver.last_answer_at = asyncio.get_running_loop().time() - 31
    outcome = await sender.attempt(request("http://Hooks.acme.example:8080/", timeout=100))
    released.set()
    await sender.close()

    assert (Interrupted, ErrorCode.LOCAL_NETWORK) == ending(outcome)


@pytest.mark.alone
@pytest.mark.row("R63")
@pytest.mark.row("F39")
async def test_hanging_lookups_delay_nobody_else() -> None:
    """Names whose lookup hangs leave healthy names their speed."""
    released = threading.Event()

    def found(host: str) -> list[str]:
        if host.startswith("dead"):
            released.wait(10)
        return ["127.0.0.1"]

    loop = asyncio.get_running_loop()
    sender = Sender(LOOPBACK, resolver=looking_up(found))
    async with receiver(hostile.healthy) as good:
        dead = [
            asyncio.create_task(sender.attempt(request(f"http://dead{number}.example/", timeout=500))) for number in range(18)
        ]
        await asyncio.sleep(0)
        begun = loop.time()
        outcome = await sender.attempt(request(f"http://alive.example:{good.port}/"))
        took = loop.time() - begun
        ended = await asyncio.gather(*dead)
        released.set()
        await sender.close()

    assert isinstance(outcome, Accepted)
    assert took < 0.4
    assert {(Unreachable, ErrorCode.DNS_TEMPORARY)} == set(map(ending, ended))


@pytest.mark.parametrize(
    ("number", "routed", "expected"),
    [
        pytest.param(errno.ENETUNREACH, False, (Interrupted, ErrorCode.LOCAL_NETWORK), id="R67-no network"),
        pytest.param(errno.ENETUNREACH, True, (Unreachable, ErrorCode.CONNECT_REFUSED), id="R67-no IPv6"),
        pytest.param(errno.EHOSTUNREACH, False, (Unreachable, ErrorCode.CONNECT_REFUSED), id="R67-host"),
        pytest.param(errno.EMFILE, True, (Interrupted, ErrorCode.LOCAL_RESOURCES), id="descriptors"),
        pytest.param(errno.EADDRNOTAVAIL, True, (Interrupted, ErrorCode.LOCAL_RESOURCES), id="ports"),
    ],
)
async def test_fault_of_this_machine(number: int, routed: bool, expected: tuple[type[Outcome], ErrorCode]) -> None:
    """What this machine lacks is no attempt; an address that this machine has no way to, while it has others, is one."""

    def no_socket(_address: object) -> socket.socket:
        raise OSError(number, "so says the kernel")

    sender = Sender(LOOPBACK, routed=lambda: routed)
    sender._pool._socket_factory = no_socket
    outcome = await sender.attempt(request("http://127.0.0.1:9999/"))
    await sender.close()

    assert expected == ending(outcome)


def test_route_is_asked_of_the_kernel() -> None:
    """Whether there is a network is a question that the kernel answers, without a packet and without an error."""
    assert has_ipv4_route() in {True, False}


@pytest.mark.parametrize(
    ("method", "headers", "body", "words"),
    [
        pytest.param("POST", {"X-A": "s3cret\r\nX-B: 2"}, b"", "a line break", id="line break"),
        pytest.param("POST", {"X-A": "s3cret\0"}, b"", "NUL", id="NUL"),
        pytest.param("POST", {"X-A": "s3cret\u20ac"}, b"", "outside Latin-1", id="beyond Latin-1"),
        pytest.param("POST", {"X A": "1"}, b"", "not a token", id="name"),
        pytest.param("PO ST", {}, b"", "not a token", id="method"),
        pytest.param("POST", {"Transfer-Encoding": "chunked"}, b"", "transfer-encoding", id="framing"),
        pytest.param("GET", {}, b"x", "no body", id="GET with body"),
    ],
)
async def test_unsendable_request(method: str, headers: dict[str, str], body: bytes, words: str) -> None:
    """A request that would be read in two ways is a fault of ours, is not sent, and is told without its values."""
    async with receiver(hostile.healthy) as good:
        sender = Sender(LOOPBACK)
        outcome = await sender.attempt(Request(method=method, url=good.url, headers=tuple(headers.items()), body=body))
        await sender.close()

    assert isinstance(outcome, Broken)
    assert ErrorCode.INTERNAL_ERROR is outcome.error.code
    assert words in outcome.error.detail
    assert "s3cret" not in outcome.error.detail
    assert 0 == good.connections


async def test_fault_of_ours() -> None:
    """Any other exception parks the delivery, and says where it happened but not what it held."""

    def broken(_address: object) -> socket.socket:
        raise KeyError("s3cret")

    sender = Sender(LOOPBACK)
    sender._pool._socket_factory = broken
    outcome = await sender.attempt(request("http://127.0.0.1:9999/"))
    await sender.close()

    assert isinstance(outcome, Broken)
    assert (ErrorCode.INTERNAL_ERROR, True, False) == (
        outcome.error.code,
        outcome.error.detail.startswith("KeyError in test_sender.py, line "),
        "s3cret" in outcome.error.detail,
    )


async def test_request_on_the_wire() -> None:
    """The request has our own headers, then the delivery's in their order, then exactly the bytes of the body."""
    async with receiver(hostile.healthy) as good:
        sender = Sender(LOOPBACK)
        sent = Request(
            method="PUT",
            url=f"http://127.0.0.1:{good.port}/a%2Fb?x=%20&y=+",
            headers=(("content-type", "application/json"), ("X-%s", "1"), ("Authorization", Secret("Basic s3cret"))),
            body=b'{"a": 1}',
        )
        outcome = await sender.attempt(sent)
        await sender.close()

    assert isinstance(outcome, Accepted)
    lines = good.requests[0].split(b"\r\n")
    assert lines[2].startswith(b"User-Agent: hookengine/")
    del lines[2]
    assert [
        b"PUT /a%2Fb?x=%20&y=+ HTTP/1.1",
        b"Host: 127.0.0.1:" + str(good.port).encode(),
        b"Accept-Encoding: identity",
        b"content-type: application/json",
        b"X-%s: 1",
        b"Authorization: Basic s3cret",
        b"Content-Length: 8",
        b"",
        b'{"a": 1}',
    ] == lines


@pytest.mark.parametrize("target", ["/a?", "/?", "/a??", "/a?b&", "?"])
async def test_target_is_what_was_signed(target: str) -> None:
    """A URL is asked for as it is written, also with a query that is empty."""
    async with Receiver(secret="shh", profile="clearfeed") as server:
        url, now = server.url + target, Clock().now() // 1000
        headers = sign(
            SCHEMES["clearfeed"], ["shh"], id="", timestamp=now, body=b"{}", method="POST", url=url, event_timestamp=now
        )
        sender = Sender(LOOPBACK)
        await sender.attempt(replace(request(url), headers=headers))
        await sender.close()

    [received] = server.requests
    assert ("/" * (not target.startswith("/")) + target, True) == (received.path, received.verified)


@pytest.mark.row("SR25")
async def test_environment_is_ignored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Proxies of the environment are not asked, and nobody's password file is looked into."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login ana password hush\ndefault login ana password hush\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("NO_PROXY", "")
    async with receiver(hostile.healthy) as good, receiver(hostile.healthy) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        sender = Sender(LOOPBACK)
        outcome = await sender.attempt(request(good.url))
        await sender.close()

    assert isinstance(outcome, Accepted)
    assert (1, 0) == (good.connections, proxy.connections)
    assert b"authorization" not in good.requests[0].lower()


async def test_connection_is_kept() -> None:
    """Requests that follow each other share a connection, also to other paths of the origin."""
    async with receiver(hostile.healthy) as good:
        sender = Sender(LOOPBACK)
        outcomes = [await sender.attempt(request(good.url + path)) for path in ("", "/b", "?c")]
        await sender.close()
        await good.settled()

    assert [Accepted] * 3 == list(map(type, outcomes))
    assert (1, 3) == (good.connections, len(good.requests))


async def test_no_limit_on_connections() -> None:
    """Hung receivers do not hold the pool: a healthy request passes two hundred waiting ones."""
    async with receiver(hostile.silent) as hung, receiver(hostile.healthy) as good:
        sender = Sender(LOOPBACK)
        waiting = [asyncio.create_task(sender.attempt(request(hung.url, timeout=60_000))) for _ in range(200)]
        async with asyncio.timeout(PATIENCE):
            await hung.reached(200)
            outcome = await sender.attempt(request(good.url, timeout=60_000))
        held = sum(not each.done() for each in waiting)
        await sender.close()
        ended = await asyncio.gather(*waiting)

    assert isinstance(outcome, Accepted)
    assert 200 == held == ended.count(Interrupted())


def test_cancellation_passes() -> None:
    """An attempt that is cancelled is the canceller's to name, and closes its connection."""

    async def scenario() -> None:
        async with receiver(hostile.silent) as bad:
            sender = Sender(LOOPBACK)
            attempt = asyncio.create_task(sender.attempt(request(bad.url)))
            async with asyncio.timeout(PATIENCE):
                await bad.reached(1)
            attempt.cancel()
            with pytest.raises(asyncio.CancelledError):
                await attempt
            await bad.settled()
            await sender.close()

    on_both_loops(scenario)


def test_closing_interrupts() -> None:
    """What is under way when the sender closes is interrupted, whatever it was waiting for."""

    async def scenario() -> None:
        async with receiver(hostile.silent) as bad:
            sender = Sender(LOOPBACK)
            attempt = asyncio.create_task(sender.attempt(request(bad.url)))
            async with asyncio.timeout(PATIENCE):
                await bad.reached(1)
            await sender.close()

            assert Interrupted() == await attempt
            assert Interrupted() == await sender.attempt(request(bad.url))
            await bad.settled()

    on_both_loops(scenario)


@pytest.mark.alone
@pytest.mark.row("R09")
async def test_body_is_waited_for_briefly() -> None:
    """With time to spare, a body that drips is cut two seconds after the verdict."""
    loop = asyncio.get_running_loop()
    async with receiver(hostile.slow_body) as bad:
        sender = Sender(LOOPBACK)
        begun = loop.time()
        outcome = await sender.attempt(request(bad.url, timeout=15_000))
        took = loop.time() - begun
        await sender.close()

    assert isinstance(outcome, Accepted)
    assert outcome.response.truncated
    assert set(b"x") == set(outcome.response.body)
    assert 1.9 < took < 3


@pytest.mark.parametrize(
    ("size", "kept", "truncated", "connections"),
    [
        pytest.param(16_384, 16_384, False, 1, id="just kept"),
        pytest.param(16_385, 16_384, True, 1, id="read but not kept"),
        pytest.param(200_000, 16_384, True, 2, id="not read to its end"),
    ],
)
async def test_body_is_evidence(size: int, kept: int, truncated: bool, connections: int) -> None:
    """16 KiB of a body are kept; one that is read to its end leaves the connection usable."""
    big = response("200 OK", "", b"x" * size)
    async with receiver(answers(big, big)) as bad:
        sender = Sender(LOOPBACK)
        outcomes = [await sender.attempt(request(bad.url)) for _ in range(2)]
        await sender.close()

    for outcome in outcomes:
        assert isinstance(outcome, Accepted)
        assert (kept, truncated) == (len(outcome.response.body), outcome.response.truncated)
    assert connections == bad.connections


@needs_c_parser
@pytest.mark.parametrize(
    ("said", "words"),
    [
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n\x1b]0;owned\x07" + b"x" * 500, "SSH-2.0-OpenSSH_9.2", id="R37"),
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\nbody", "a body on 204", id="R03"),
    ],
)
async def test_malformed_answer_is_quoted(said: bytes, words: str) -> None:
    """A sentence about what is not HTTP quotes its beginning in printable characters, and not much of it."""
    async with receiver(answers(said)) as bad:
        sender = Sender(LOOPBACK)
        outcome = await sender.attempt(request(bad.url))
        await sender.close()

    assert isinstance(outcome, Refused)
    assert words in outcome.error.detail
    assert outcome.error.detail.isprintable()
    assert len(outcome.error.detail) < 300


@pytest.mark.parametrize(
    ("context", "code", "words"),
    [
        pytest.param(None, ErrorCode.TLS_PROTOCOL, "it seems to speak plain HTTP on this port", id="R56"),
        pytest.param("stranger", ErrorCode.TLS_UNTRUSTED, "unable to get local issuer certificate", id="R53"),
    ],
)
async def test_tls_fault_is_explained(context: str | None, code: ErrorCode, words: str, tmp_path: Path) -> None:
    """A sentence about TLS says what TLS said."""
    tls = server_context(Authority(tmp_path).issue("127.0.0.1")) if context else None

    async def plain(peer: hostile.Peer) -> None:
        await peer.read_some()
        await peer.send(response("400 Bad Request"))

    async with receiver(plain, tls=tls) as bad:
        sender = Sender(LOOPBACK)
        outcome = await sender.attempt(request(bad.url.replace("http:", "HTTPS:")))
        await sender.close()

    assert (Unreachable, code) == ending(outcome)
    assert isinstance(outcome, Unreachable)
    assert words in outcome.error.detail


def after_one(behaviour: Behaviour) -> Behaviour:
    """Answer the first request there is, and then behave."""

    async def behave(peer: Peer) -> None:
        if peer.number == 1:
            await peer.request()
            await peer.send(hostile.OK)
        await behaviour(peer)

    return behave


async def attempt_without_task(sender: Sender, sent: Request) -> Outcome:
    """As the dispatcher makes an attempt: no task waits while none is needed."""
    begun = sender.begin(sent, Rules())
    if begun is None:
        return await sender.attempt(sent)
    await asyncio.wait([begun.answer])
    return sender.end(begun) or await sender.attempt(sent, begun=begun)


# Of those that read a request: what speaks before it, on a kept connection, closes that.
READERS = [row for row in ROWS if row.requests]


@needs_c_parser
@pytest.mark.parametrize("row", READERS, ids=[row.id for row in READERS])
def test_outcome_without_a_task(row: Row) -> None:
    """Whatever a receiver does on a kept connection ends in the same way, whether a task waits from the start or not."""

    async def scenario() -> None:
        seen = []
        for attempt in (Sender.attempt, attempt_without_task):
            sender = Sender(LOOPBACK)
            async with receiver(after_one(row.behaviour)) as bad:
                sent = replace(request(bad.url, timeout=row.timeout), body=b"b" * row.size)
                first = await sender.attempt(sent)
                outcome = await attempt(sender, sent)
                await sender.close()
            assert isinstance(first, Accepted)
            answered = getattr(outcome, "response", None)
            if answered is not None and answered.truncated:  # how much of it has come by then may differ
                answered = replace(answered, body=b"")
            seen.append((*ending(outcome), answered))

        assert seen[0] == seen[1]
        assert row.code is seen[1][1]

    on_both_loops(scenario)


async def test_request_that_needs_no_task() -> None:
    """What goes over a connection that rests is answered without a task; the first to an endpoint is nothing to begin."""
    sender = Sender(LOOPBACK)
    async with receiver(hostile.healthy) as good:
        sent = request(good.url)
        assert sender.begin(sent, Rules()) is None
        await sender.attempt(sent)
        seen = []
        for _ in range(3):
            begun = sender.begin(sent, Rules())
            assert begun is not None
            await asyncio.wait([begun.answer])
            seen.append(sender.end(begun))
        await sender.close()

    assert [Accepted] * 3 == [type(outcome) for outcome in seen]
    assert (1, 4) == (good.connections, len(good.requests))


async def test_time_is_over_without_a_task() -> None:
    """A receiver that is silent on a kept connection is cut at its time, in the phase that it was in."""
    loop = asyncio.get_running_loop()
    sender = Sender(LOOPBACK)
    async with receiver(after_one(hostile.silent)) as bad:
        sent = request(bad.url, timeout=300)
        await sender.attempt(sent)
        began = loop.time()
        outcome = await attempt_without_task(sender, sent)
        took = loop.time() - began
        await sender.close()

    assert (Unreachable, ErrorCode.TIMEOUT_RESPONSE) == ending(outcome)
    assert 0.29 < took < PATIENCE
    assert (1, 2) == (bad.connections, len(bad.requests))


async def test_cancelled_without_a_task() -> None:
    """An answer that nobody wants any more ends as a cancellation, and its connection is closed."""
    sender = Sender(LOOPBACK)
    async with receiver(after_one(hostile.silent)) as bad:
        sent = request(bad.url)
        await sender.attempt(sent)
        begun = sender.begin(sent, Rules())
        assert begun is not None
        begun.answer.cancel()
        assert sender.end(begun) is None
        with pytest.raises(asyncio.CancelledError):
            await sender.attempt(sent, begun=begun)
        await bad.settled()
        await sender.close()

    assert 1 == bad.connections


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        pytest.param("127.0.0.1", (Interrupted, ErrorCode.LOCAL_RESOURCES), id="no port left"),
        pytest.param("[::1]", (Unreachable, ErrorCode.CONNECT_REFUSED), id="IPv6 is switched off"),
    ],
)
async def test_address_without_a_local_one_keeps_nobody_else(host: str, expected: tuple[type[Outcome], ErrorCode]) -> None:
    """Ports are used up towards one address, and IPv6 may be switched off: others go on."""

    def no_socket(_address: object) -> socket.socket:
        raise OSError(errno.EADDRNOTAVAIL, "so says the kernel")

    policy = Policy(allow_http=True, allow_networks=(ip_network("127.0.0.0/8"), ip_network("::1/128")))
    sender = Sender(policy, routed=lambda: True)
    sender._pool._socket_factory = no_socket
    outcome = await sender.attempt(request(f"http://{host}:9999/"))
    await sender.close()

    assert expected == ending(outcome)
    assert not isinstance(outcome, Interrupted) or outcome.keeps_nobody_else
