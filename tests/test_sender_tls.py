"""The TLS rows of the hostile-receiver matrix (R53 to R58), over real handshakes, on both event loops."""

from __future__ import annotations

import asyncio
import socket
import ssl
import warnings
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from ipaddress import ip_network
from threading import Thread
from typing import TYPE_CHECKING, Any

import hostile
import pytest
from certificates import Authority, server_context
from hostile import LOOPS, on_both_loops, receiver, response
from measures import Memory, open_files

from hookengine.models import Accepted, ErrorCode, Outcome, Refused, Request
from hookengine.netguard import Policy, admit
from hookengine.resolver import Resolver
from hookengine.sender import Sender, tls_context

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from hostile import Behaviour

HOST = "hooks.acme.example"
LOOPBACK = Policy(allow_http=True, allow_networks=(ip_network("127.0.0.0/8"),))
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Whom the sender trusts."""
    return Authority(tmp_path_factory.mktemp("certificates"))


def lookup(_host: str, port: int, **_: Any) -> list[tuple[int, int, int, str, tuple[Any, ...]]]:
    """Every name is this machine."""
    return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port))]


def trusting(authority: Authority) -> Sender:
    """A sender for which *authority* is one of the system's, and every name leads to this machine."""
    context = tls_context()
    context.load_verify_locations(cadata=authority.pem)
    return Sender(LOOPBACK, resolver=Resolver(partial(admit, policy=LOOPBACK), lookup=lookup), tls=context)


def request(port: int, *, scheme: str = "https", host: str = HOST, timeout: int = 5000) -> Request:
    """A delivery."""
    return Request(method="POST", url=f"{scheme}://{host}:{port}/hook", headers=(), body=b"{}", timeout=timeout)


def ending(outcome: Outcome) -> tuple[ErrorCode | None, str]:
    """The error code and its sentence, None for a success."""
    if isinstance(outcome, Accepted) or outcome.error is None:
        return None, ""
    return outcome.error.code, outcome.error.detail


CERTIFICATES = [
    pytest.param([HOST], {}, None, id="R53-good"),
    pytest.param(["*.acme.example"], {}, None, id="R53-good-wildcard"),
    pytest.param([HOST], {"begins": -2 * DAY, "ends": -DAY}, ErrorCode.TLS_EXPIRED, id="R53-expired"),
    pytest.param([HOST], {"begins": DAY, "ends": 2 * DAY}, ErrorCode.TLS_NOT_YET_VALID, id="R53-not-yet"),
    pytest.param(["other.example"], {}, ErrorCode.TLS_HOSTNAME, id="R53-host"),
    pytest.param(["127.0.0.1"], {}, ErrorCode.TLS_HOSTNAME, id="R53-address"),
    pytest.param(["*"], {}, ErrorCode.TLS_HOSTNAME, id="R53-wildcard"),
    pytest.param([], {"common": HOST}, ErrorCode.TLS_HOSTNAME, id="R53-no-alternative-name"),
    pytest.param([HOST], {"self_signed": True}, ErrorCode.TLS_UNTRUSTED, id="R53-self-signed"),
]


@pytest.mark.parametrize(("names", "options", "code"), CERTIFICATES)
@pytest.mark.row("SR42")
def test_certificate(authority: Authority, names: list[str], options: dict[str, Any], code: ErrorCode | None) -> None:
    """A certificate's fault has its own name, and nothing is sent to who shows it."""
    certificate = authority.issue(*names, **options)

    async def scenario() -> None:
        async with receiver(hostile.healthy, tls=server_context(certificate)) as bad:
            sender = trusting(authority)
            outcome = await sender.attempt(request(bad.port))
            await sender.close()
            await bad.settled()

        assert code is ending(outcome)[0]
        assert (1 if code is None else 0) == len(bad.requests)

    on_both_loops(scenario)


@pytest.mark.row("R53")
def test_unknown_authority(authority: Authority, tmp_path: Path) -> None:
    """A certificate of an authority that the system does not know is not trusted, and the sentence says why."""
    stranger = Authority(tmp_path, "Stranger").issue(HOST)

    async def scenario() -> None:
        async with receiver(hostile.healthy, tls=server_context(stranger)) as bad:
            sender = trusting(authority)
            code, detail = ending(await sender.attempt(request(bad.port)))
            await sender.close()

        assert ErrorCode.TLS_UNTRUSTED is code
        assert "unable to get local issuer certificate" in detail

    on_both_loops(scenario)


@pytest.mark.row("R53")
def test_address_in_place_of_a_name(authority: Authority) -> None:
    """A certificate for a name does not do for an address."""
    certificate = authority.issue(HOST)

    async def scenario() -> None:
        async with receiver(hostile.healthy, tls=server_context(certificate)) as bad:
            sender = trusting(authority)
            outcome = await sender.attempt(request(bad.port, host="127.0.0.1"))
            await sender.close()

        assert ErrorCode.TLS_HOSTNAME is ending(outcome)[0]

    on_both_loops(scenario)


def only_old(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    """A server that stopped at TLS 1.1."""
    context = server_context(certificate)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that is what makes it hostile
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    return context


def wants_client(certificate: tuple[Path, Path], *, newest: ssl.TLSVersion) -> ssl.SSLContext:
    """A server that demands a certificate of its client."""
    context = server_context(certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    context.maximum_version = newest
    return context


@contextmanager
def blocking_server(context: ssl.SSLContext) -> Iterator[int]:
    """The port of a server that lets OpenSSL itself write alerts, which asyncio's servers keep to themselves."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listening, suppress(OSError):
            for _ in LOOPS:
                connection, _ = listening.accept()
                connection.settimeout(5)
                with context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False) as wrapped:
                    with suppress(ssl.SSLError):
                        wrapped.do_handshake()
                    while socket.socket.recv(wrapped, 4096):  # what is unread at the close would turn the alert into a reset
                        pass

    thread = Thread(target=serve)
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        thread.join(5)


@pytest.mark.parametrize(
    ("make", "hint"),
    [
        pytest.param(only_old, "it offers nothing newer than TLS 1.1", id="R54"),
        pytest.param(partial(wants_client, newest=ssl.TLSVersion.TLSv1_2), "handshake failure", id="R55-TLS1.2"),
        pytest.param(partial(wants_client, newest=ssl.TLSVersion.TLSv1_3), "it demands a client certificate", id="R55"),
    ],
)
def test_no_common_tls(authority: Authority, make: Callable[[tuple[Path, Path]], ssl.SSLContext], hint: str) -> None:
    """A server with which no TLS connection comes about is `tls_protocol`, with the reason that its alert gives."""
    context = make(authority.issue(HOST))

    async def scenario() -> None:
        sender = trusting(authority)
        outcome = await sender.attempt(request(port))
        await sender.close()

        code, detail = ending(outcome)
        assert (ErrorCode.TLS_PROTOCOL, True) == (code, hint in detail), outcome

    with blocking_server(context) as port:
        on_both_loops(scenario)


@pytest.mark.row("R56")
def test_plain_http_to_a_tls_port(authority: Authority) -> None:
    """Http to a port that speaks TLS is cut off."""
    certificate = authority.issue(HOST)

    async def scenario() -> None:
        async with receiver(hostile.healthy, tls=server_context(certificate)) as bad:
            sender = trusting(authority)
            outcome = await sender.attempt(request(bad.port, scheme="http"))
            await sender.close()

        assert ending(outcome)[0] in {ErrorCode.DISCONNECTED, ErrorCode.RESET, ErrorCode.MALFORMED_RESPONSE}, outcome

    on_both_loops(scenario)


async def finish_in_handshake(peer: hostile.Peer) -> None:
    """Close where the answer to the first message of TLS should come."""
    await peer.read_some()
    await peer.finish()


async def reset_in_handshake(peer: hostile.Peer) -> None:
    """Reset where the answer to the first message of TLS should come."""
    await peer.read_some()
    peer.reset()


async def speaks_http(peer: hostile.Peer) -> None:
    """Answer the first message of TLS with HTTP."""
    await peer.read_some()
    await peer.send(response("400 Bad Request"))


@pytest.mark.parametrize(
    ("behaviour", "code", "hint"),
    [
        pytest.param(speaks_http, ErrorCode.TLS_PROTOCOL, "plain HTTP", id="R56-HTTP"),
        pytest.param(hostile.unread, ErrorCode.TIMEOUT_CONNECT, "", id="R57-silent"),
        pytest.param(finish_in_handshake, ErrorCode.TLS_PROTOCOL, "", id="R57-FIN"),
        pytest.param(reset_in_handshake, ErrorCode.TLS_PROTOCOL, "", id="R57-RST"),
    ],
)
def test_broken_handshake(authority: Authority, behaviour: Behaviour, code: ErrorCode, hint: str) -> None:
    """A handshake that does not end well is named and leaves no socket open."""

    async def scenario() -> None:
        sender = trusting(authority)
        async with receiver(behaviour) as bad:
            before = open_files()
            outcome = await sender.attempt(request(bad.port, timeout=500))
            await bad.settled()
            after = open_files()
            await sender.close()

        assert (code, True) == (ending(outcome)[0], hint in ending(outcome)[1]), outcome
        assert after <= before + 1

    on_both_loops(scenario)


@pytest.mark.alone
@pytest.mark.row("R59")
@pytest.mark.parametrize("kilobytes", [20, 90, 400])
def test_long_chain(authority: Authority, tmp_path: Path, kilobytes: int) -> None:
    """However many certificates a receiver shows, the attempt ends in its time, with success or a name, and costs little."""
    leaf, key = authority.issue(HOST)
    stuffing = authority.issue("other.example")[0].read_text()
    chain = tmp_path / "chain.pem"
    chain.write_text(leaf.read_text() + stuffing * (kilobytes * 1024 // len(stuffing) * 4 // 3))

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with receiver(hostile.healthy, tls=server_context((chain, key))) as bad:
            sender = trusting(authority)
            begun, memory = loop.time(), Memory()
            code, _ = ending(await sender.attempt(request(bad.port, timeout=3000)))
            took, grown = loop.time() - begun, memory.grown()
            await sender.close()

        assert code in ({None} if kilobytes < 50 else {None, ErrorCode.TLS_PROTOCOL, ErrorCode.TIMEOUT_CONNECT})
        assert took < 4
        assert grown <= 5

    on_both_loops(scenario)


@pytest.mark.row("R58", "R60")
def test_certificate_changes(authority: Authority) -> None:
    """A certificate that was good yesterday does not vouch for today's."""
    good, bad_one = authority.issue(HOST), authority.issue(HOST, self_signed=True)

    async def scenario() -> None:
        context = server_context(good)
        async with receiver(hostile.answers(response("200 OK", "Connection: close")), tls=context) as changing:
            sender = trusting(authority)
            first = await sender.attempt(request(changing.port))
            context.load_cert_chain(*bad_one)
            second = await sender.attempt(request(changing.port))
            await sender.close()

        assert [None, ErrorCode.TLS_UNTRUSTED] == [ending(first)[0], ending(second)[0]]

    on_both_loops(scenario)


@pytest.mark.alone
def test_unclosed_tls_does_not_linger(authority: Authority) -> None:
    """A receiver that flushes no end of TLS holds neither the sender nor its sockets."""
    certificate = authority.issue(HOST)

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        async with receiver(hostile.slow_body, tls=server_context(certificate)) as bad:
            sender = trusting(authority)
            outcome = await sender.attempt(request(bad.port, timeout=300))
            begun = loop.time()
            await bad.settled()
            await sender.close()

        assert isinstance(outcome, Accepted)
        assert loop.time() - begun < 1

    on_both_loops(scenario)


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"\x00garbage\r\n\r\n", id="R33"),
        pytest.param(b"HTTP/1.1 204 No Content\r\n\r\n{}", id="R37-body of a 204"),
        pytest.param(response("200 OK", body=b"ok") + b"more", id="R37-more than it says"),
    ],
)
@pytest.mark.parametrize("used", [False, True], ids=["new", "kept"])
def test_malformed_answer_before_the_end_of_tls(authority: Authority, answer: bytes, used: bool) -> None:
    """What is no HTTP, from an endpoint that closes at once, is the endpoint's fault over TLS too, and leaves nothing open."""
    certificate = authority.issue(HOST)

    async def behave(peer: hostile.Peer) -> None:
        if used:
            await peer.request()
            await peer.send(response("200 OK"))
        await peer.request()
        await peer.send(answer)

    async def scenario() -> None:
        async with receiver(behave, tls=server_context(certificate)) as bad:
            sender = trusting(authority)
            if used:
                assert isinstance(await sender.attempt(request(bad.port)), Accepted)
            outcome = await sender.attempt(request(bad.port))
            left = sender._pool._acquired
            await sender.close()

        assert isinstance(outcome, Accepted | Refused), outcome
        assert not left
        if answer.startswith(b"\x00"):
            assert ErrorCode.MALFORMED_RESPONSE is ending(outcome)[0]

    on_both_loops(scenario)
