"""One attempt over the client pool: whatever happens to it ends as an outcome, here and nowhere else."""

from __future__ import annotations

import asyncio
import errno
import re
import socket
import ssl
import traceback
from functools import lru_cache, partial
from pathlib import PurePath
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from msgspec import Struct

from hookengine.auth import bearing, conceal
from hookengine.bearers import Bearers
from hookengine.clock import Clock
from hookengine.deadline import Deadlines
from hookengine.exchange import Exchange, Phase, Pool, let_go
from hookengine.message import Proxy, Target, Unsendable, compose
from hookengine.models import (
    Accepted,
    AccessToken,
    AttemptError,
    Broken,
    ErrorCode,
    Interrupted,
    Refused,
    Rules,
    SecretBytes,
    Unreachable,
)
from hookengine.netguard import AddressBlocked, Policy, UrlRefused, admit, socket_factory, vet_url
from hookengine.resolver import WAITING, LookupFailed, Resolver
from hookengine.wire import HeadTooLarge, TooManyInformational

if TYPE_CHECKING:
    from collections.abc import Callable

    from hookengine.bearers import Load, Save
    from hookengine.deadline import Deadline
    from hookengine.models import Authorization, Outcome, Request, Response
    from hookengine.wire import Answer

_KNOWN_URLS = 4096

# While no lookup of any name gets an answer, that is our trouble, which has its own name after a while; after a day it is the
# names'.
_DNS_OUTAGE = 30.0  # s
_LONGEST_DNS_OUTAGE = 24 * 3600.0

_PREVIEW = 100  # characters of what could not be parsed
_DEFAULT_RULES = Rules()
_TEST_NET = ("192.0.2.1", 9)  # RFC 5737: nobody's

# How aiohttp's parser begins the message of an error about a size.
_OVERSIZE = ("Got more than", "Too many headers")

REFUSALS = frozenset({
    ErrorCode.HTTP_STATUS,
    ErrorCode.REDIRECT_NOT_FOLLOWED,
    ErrorCode.MALFORMED_RESPONSE,
    ErrorCode.RESPONSE_HEADER_TOO_LARGE,
    ErrorCode.TOO_MANY_INFORMATIONAL,
})  # fmt: skip

_TIMEOUTS = {
    Phase.CONNECT: ErrorCode.TIMEOUT_CONNECT,
    Phase.SEND: ErrorCode.TIMEOUT_SEND,
    Phase.ANSWER: ErrorCode.TIMEOUT_RESPONSE,
}

# What a proxy that is asked for a tunnel may do in place of answering 200. The rest of what befalls a connection is of TLS.
_OF_THE_WAY = {
    *REFUSALS,
    *(ErrorCode.TIMEOUT_CONNECT, ErrorCode.CONNECT_REFUSED, ErrorCode.RESET, ErrorCode.DISCONNECTED),
}

# Surely this machine's. What a firewall or a router says of one destination (EACCES, EPERM, EHOSTUNREACH) is not: one URL
# could then hold up everybody's deliveries.
_LOCAL_ERRNOS = {
    errno.EMFILE: ErrorCode.LOCAL_RESOURCES,
    errno.ENFILE: ErrorCode.LOCAL_RESOURCES,
    errno.ENOBUFS: ErrorCode.LOCAL_RESOURCES,
    errno.ENOMEM: ErrorCode.LOCAL_RESOURCES,
    errno.EADDRNOTAVAIL: ErrorCode.LOCAL_RESOURCES,  # all local ports are taken
    errno.ENETUNREACH: ErrorCode.LOCAL_NETWORK,
    errno.ENETDOWN: ErrorCode.LOCAL_NETWORK,
}
OURS = frozenset(_LOCAL_ERRNOS.values())
_ERRNOS = {
    errno.ECONNRESET: ErrorCode.RESET,
    errno.ECONNABORTED: ErrorCode.RESET,
    errno.EPIPE: ErrorCode.DISCONNECTED,
    errno.ENOTCONN: ErrorCode.DISCONNECTED,
    errno.ESHUTDOWN: ErrorCode.DISCONNECTED,
    **_LOCAL_ERRNOS,
}
# How aiohappyeyeballs tells of several addresses that failed in different ways.
_ERRNO_IN_TEXT = re.compile(r"\[Errno (\d+)\]")

# X509_V_ERR_* of OpenSSL; all others are about whom to trust.
_VERIFY_CODES = {
    9: ErrorCode.TLS_NOT_YET_VALID,
    10: ErrorCode.TLS_EXPIRED,
    62: ErrorCode.TLS_HOSTNAME,
    64: ErrorCode.TLS_HOSTNAME,  # an address in place of a name
}

# The first match counts. From the fourth on they are never raised on our way, but belong to aiohttp's family.
_KINDS: tuple[tuple[type[Exception], ErrorCode], ...] = (
    (TooManyInformational, ErrorCode.TOO_MANY_INFORMATIONAL),
    (HeadTooLarge, ErrorCode.RESPONSE_HEADER_TOO_LARGE),
    (MemoryError, ErrorCode.LOCAL_RESOURCES),
    (aiohttp.ServerFingerprintMismatch, ErrorCode.TLS_UNTRUSTED),
    (aiohttp.ClientHttpProxyError, ErrorCode.PROXY_ERROR),
    (aiohttp.TooManyRedirects, ErrorCode.REDIRECT_NOT_FOLLOWED),
    (aiohttp.RedirectClientError, ErrorCode.REDIRECT_NOT_FOLLOWED),
    (aiohttp.ClientResponseError, ErrorCode.MALFORMED_RESPONSE),
    (aiohttp.ClientPayloadError, ErrorCode.MALFORMED_RESPONSE),
    (aiohttp.InvalidURL, ErrorCode.INVALID_URL),
    (aiohttp.NonHttpUrlClientError, ErrorCode.INVALID_URL),
    (aiohttp.ClientError, ErrorCode.DISCONNECTED),
    (Exception, ErrorCode.INTERNAL_ERROR),
)

SENTENCES = {
    ErrorCode.TIMEOUT_CONNECT: "No connection to {host} came about in time.",
    ErrorCode.TIMEOUT_SEND: "{host} did not take the whole request in time.",
    ErrorCode.TIMEOUT_RESPONSE: "{host} did not answer in time.",
    ErrorCode.CONNECT_REFUSED: "{host} refuses connections or is out of reach.",
    ErrorCode.RESET: "{host} reset the connection before it answered.",
    ErrorCode.DISCONNECTED: "{host} closed the connection before it answered.",
    ErrorCode.TLS_EXPIRED: "The certificate of {host} has expired.",
    ErrorCode.TLS_NOT_YET_VALID: "The certificate of {host} is not valid yet.",
    ErrorCode.TLS_HOSTNAME: "The certificate of {host} is made out to another name.",
    ErrorCode.TLS_UNTRUSTED: "The certificate of {host} is not trusted.",
    ErrorCode.TLS_PROTOCOL: "No TLS connection with {host} came about.",
    ErrorCode.PROXY_ERROR: "The proxy did not let the request through.",
    ErrorCode.DNS_TEMPORARY: "{host} could not be looked up now.",
    ErrorCode.INVALID_URL: "The URL cannot be called.",
    ErrorCode.REDIRECT_NOT_FOLLOWED: "{host} redirects, which is not followed.",
    ErrorCode.MALFORMED_RESPONSE: "The answer cannot be read as HTTP/1.1.",
    ErrorCode.RESPONSE_HEADER_TOO_LARGE: "The answer has a header over 8190 bytes, more than 128 of them, or no end of them.",
    ErrorCode.TOO_MANY_INFORMATIONAL: "More than 8 interim (1xx) responses came before the answer.",
    ErrorCode.LOCAL_NETWORK: "This machine has no network, or no name server that answers.",
    ErrorCode.LOCAL_RESOURCES: "This machine is short of file descriptors, ports or memory.",
}
# aiohttp's parser takes what follows an answer for the next one.
_SURPLUS = "(or more came than the answer announced: a body on 204, a Content-Length too small)"
_UNPRINTABLE = re.compile(r"[^ -~]")
_HINTS = {
    "WRONG_VERSION_NUMBER": "it seems to speak plain HTTP on this port",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it demands a client certificate",
    "UNSUPPORTED_PROTOCOL": "it offers nothing newer than TLS 1.1",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it offers nothing newer than TLS 1.1",
}


class Begun(Struct, kw_only=True):
    """A request that is on its way, for whose answer no task waits; owned by the attempt."""

    request: Request
    rules: Rules
    target: Target
    exchange: Exchange
    answer: asyncio.Future[Answer]  # done when there is something to be looked at, also when the time is over
    deadline: Deadline


class Sender:
    """
    The client pool and the attempts that use it.

    To be made inside the running loop, and closed there. With a *proxy* no address is dialled but its own, so the policy is
    held to the URL alone. *tls* is what every https connection is made with; *routed* says whether this machine has a network
    at all. *load* and *save* keep the access tokens of endpoints, as `Bearers` says.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        proxy: Proxy | None = None,
        resolver: Resolver | None = None,
        tls: ssl.SSLContext | None = None,
        routed: Callable[[], bool] | None = None,
        clock: Clock | None = None,
        load: Load | None = None,
        save: Save | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._has_proxy = proxy is not None
        self._resolver = resolver or Resolver(_admit_any if proxy else partial(admit, policy=policy))
        dial = None if proxy else socket_factory(policy)
        self._pool = Pool(ssl=tls or tls_context(), resolver=self._resolver, socket_factory=dial)
        self._deadlines = Deadlines()
        self._routed = routed or has_ipv4_route
        self._started_at = self._loop.time()
        # The verdict on a URL is always the same, and takes as long as the rest of an attempt.
        self._target = lru_cache(_KNOWN_URLS)(partial(_aim, policy=policy, loop=self._loop, proxy=proxy))
        self._bearers = Bearers(self.attempt, now=(clock or Clock()).now, load=load, save=save)

    def begin(self, request: Request, rules: Rules) -> Begun | None:
        """
        Send *request* without a task, if a connection rests over which it can go; None, and nothing is done, if not.

        A task and the coroutines in it are a twentieth of what a delivery costs (docs/performance.md). May raise what keeps a
        request from being sent, and then it is not.
        """
        if request.authorization is not None:
            return None
        target = self._target(request.url)
        if not self._pool.rests(target):
            return None
        exchange, deadline = Exchange(), self._deadlines.after(request.timeout / 1000)
        answer = exchange.begin(self._pool, target, compose(request.method, target, request.headers, request.body))
        if answer is None:
            return None
        deadline.watch(answer)
        return Begun(request=request, rules=rules, target=target, exchange=exchange, answer=answer, deadline=deadline)

    def end(self, begun: Begun) -> Outcome | None:
        """What became of *begun*, whose answer is done; None where that is for `attempt` to find out."""
        begun.deadline.leave()
        response = begun.exchange.end(self._pool, begun.target)
        return None if response is None else _as_shown(self._judge(response, begun.rules), begun.request)

    def abandon(self, begun: Begun) -> Interrupted:
        """Let go of *begun*, whose answer nobody waits for any more."""
        begun.deadline.leave()
        begun.exchange.abandon(self._pool, begun.target)
        return Interrupted()

    async def attempt(self, request: Request, rules: Rules = _DEFAULT_RULES, *, begun: Begun | None = None) -> Outcome:
        """
        Send *request* once, unless it is *begun*, and say how it ended.

        Raises nothing but CancelledError.
        """
        if request.authorization is not None:
            return await self._attempt_with_token(request, request.authorization, rules)
        exchange = Exchange(private=isinstance(request.body, SecretBytes)) if begun is None else begun.exchange
        try:
            target = self._target(request.url)
            message = compose(request.method, target, request.headers, request.body)
            with self._deadlines.after(request.timeout / 1000) if begun is None else begun.deadline as deadline:
                response = await exchange.run(self._pool, target, message, deadline)
        except Exception as error:  # noqa: BLE001  # nothing escapes the attempt
            answered = exchange.response
            outcome = self._judge(answered, rules) if answered else await self._failure(error, exchange.phase, request.url)
            let_go(error)
        else:
            outcome = self._judge(response, rules)
        return _as_shown(outcome, request)

    def forget(self, subscription: int) -> None:
        """Let go of what is known of a subscription (its seq), because it was deleted."""
        self._bearers.forget(subscription)

    async def close(self) -> None:
        """Close all connections; attempts still running end as Interrupted."""
        await self._bearers.close()
        await self._pool.close()
        await self._resolver.close()
        self._deadlines.close()

    async def _attempt_with_token(self, request: Request, authorization: Authorization, rules: Rules) -> Outcome:
        """
        The same with an access token, all within the time for one attempt.

        An endpoint that answers 401 gets the request once more, with another token.
        """
        until = self._loop.time() + request.timeout / 1000
        source = self._bearers.source(authorization)
        refused: AccessToken | None = None
        while True:
            token = await self._bearers.token(source, refused=refused, within=request.timeout, until=until)
            if not isinstance(token, AccessToken):
                return token
            left = max(1, round((until - self._loop.time()) * 1000))
            outcome = await self.attempt(bearing(request, token, timeout=left), rules)
            if refused is not None or not _is_unauthorized(outcome):
                return outcome
            refused = token

    def _judge(self, response: Response, rules: Rules) -> Outcome:
        if self._has_proxy and response.status == 407:  # no receiver's to answer: RFC 9110, section 15.5.8
            return Unreachable(error=AttemptError(code=ErrorCode.PROXY_ERROR, detail=SENTENCES[ErrorCode.PROXY_ERROR]))
        return verdict(response, rules)

    async def _failure(self, error: Exception, phase: Phase, url: str) -> Outcome:
        if self._pool.closed:
            return Interrupted()
        code = error_code(error, phase, tls=url.lower().startswith("https:"))
        if self._has_proxy and _concerns_the_proxy(error, code):
            return Interrupted(error=AttemptError(code=ErrorCode.PROXY_ERROR, detail="The proxy is out of reach."))
        if self._has_proxy and phase is Phase.CONNECT and code in _OF_THE_WAY:
            code = ErrorCode.PROXY_ERROR
        host = url.partition("//")[2].partition("/")[0].partition("?")[0]
        unresolved = code is ErrorCode.DNS_TEMPORARY and await self._is_name_outage(host)
        if unresolved and self._silence >= _DNS_OUTAGE:
            code = ErrorCode.LOCAL_NETWORK
        elif code is ErrorCode.LOCAL_NETWORK and self._routed():
            # An address of a network that this machine is not part of, such as IPv6: out of reach, but not an outage.
            code = ErrorCode.CONNECT_REFUSED
        reason = AttemptError(code=code, detail=_detail(code, error, host))
        if code in REFUSALS:
            return Refused(error=reason)
        if unresolved or code in OURS:
            return Interrupted(error=reason, unresolved=unresolved)
        if code is ErrorCode.INTERNAL_ERROR:
            return Broken(error=reason)
        return Unreachable(error=reason)

    async def _is_name_outage(self, host: str) -> bool:
        """Whether no name gets an answer, so that *host*, which got none, is not to blame."""
        return self._silence <= _LONGEST_DNS_OUTAGE and not await self._resolver.answers(host.partition(":")[0])

    @property
    def _silence(self) -> float:
        """The seconds for which no lookup of any name has got an answer."""
        return self._loop.time() - (self._resolver.last_answer_at or self._started_at)


def verdict(response: Response, rules: Rules) -> Accepted | Refused:
    """What an answer means: its status decides alone (Standard Webhooks 1.0.0, delivery)."""
    status = response.status
    if 200 <= status <= 599 and rules.succeeds(status):
        return Accepted(response=response)
    code, detail = ErrorCode.HTTP_STATUS, f"The endpoint answered {status}."
    if 300 <= status <= 399 and response.header("location"):
        code, detail = ErrorCode.REDIRECT_NOT_FOLLOWED, f"The endpoint answered {status}; redirects are not followed."
    return Refused(error=AttemptError(code=code, detail=detail), response=response)


def _as_shown(outcome: Outcome, request: Request) -> Outcome:
    """Without what is hidden. What a token server says is not shown, but read: a new token may begin as the old one does."""
    return conceal(outcome, request) if request.hidden and not isinstance(request.body, SecretBytes) else outcome


def _is_unauthorized(outcome: Outcome) -> bool:
    return isinstance(outcome, Refused) and outcome.response is not None and outcome.response.status == 401


def error_code(error: Exception, phase: Phase, *, tls: bool) -> ErrorCode:
    """What *error*, in an attempt that had come to *phase*, is called."""
    if isinstance(error, UrlRefused | AddressBlocked | LookupFailed):
        return error.error
    cause = _cause(error)
    match cause:
        case ssl.SSLCertVerificationError():
            code = _VERIFY_CODES.get(getattr(cause, "verify_code", 0), ErrorCode.TLS_UNTRUSTED)
        case ssl.SSLError():
            code = ErrorCode.TLS_PROTOCOL
        case HttpProcessingError():
            oversize = cause.message.startswith(_OVERSIZE)
            code = ErrorCode.RESPONSE_HEADER_TOO_LARGE if oversize else ErrorCode.MALFORMED_RESPONSE
        case TimeoutError():
            waited_for_lookup = WAITING in getattr(cause.__cause__, "__notes__", ())
            code = ErrorCode.DNS_TEMPORARY if waited_for_lookup else _TIMEOUTS[phase]
        case aiohttp.ClientProxyConnectionError():
            code = ErrorCode.PROXY_ERROR
        case aiohttp.ClientConnectorDNSError():
            code = ErrorCode.DNS_TEMPORARY
        case OSError():
            code = _errno_code(cause, phase, tls=tls)
        case _:
            code = next(code for kind, code in _KINDS if isinstance(cause, kind))
    return code


def tls_context() -> ssl.SSLContext:
    """Verify against the system's authorities; TLS 1.2 or newer."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.hostname_checks_common_name = False  # RFC 9525, section 2: a subject's name is no server's
    context.set_alpn_protocols(["http/1.1"])
    return context


def has_ipv4_route() -> bool:
    """Whether this machine has an IPv4 network: a datagram socket's connect asks the routing table and sends nothing."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(_TEST_NET)
    except OSError:
        return False
    return True


def _aim(url: str, policy: Policy, loop: asyncio.AbstractEventLoop, proxy: Proxy | None) -> Target:
    return Target(vet_url(url, policy), loop, proxy)


def _concerns_the_proxy(error: Exception, code: ErrorCode) -> bool:
    """Whether what is the only host to be looked up and dialled where there is a proxy could not be."""
    return code is ErrorCode.DNS_TEMPORARY or isinstance(error, LookupFailed | aiohttp.ClientProxyConnectionError)


def _admit_any(_address: str, _port: int) -> None:
    """The operator has chosen the proxy."""


def _cause(error: Exception) -> Exception:
    """What aiohttp wrapped because it happened on the way to a connection."""
    kept = aiohttp.ClientConnectorDNSError | aiohttp.ClientProxyConnectionError
    return error.os_error if isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, kept) else error


def _errno_code(error: OSError, phase: Phase, *, tls: bool) -> ErrorCode:
    connecting = phase is Phase.CONNECT
    unknown = ErrorCode.CONNECT_REFUSED if connecting else ErrorCode.RESET
    if isinstance(error, ConnectionResetError | ConnectionAbortedError):
        numbers = [errno.ECONNRESET]  # asyncio raises them without a number
    else:
        numbers = [error.errno] if error.errno else [int(number) for number in _ERRNO_IN_TEXT.findall(str(error))]
    codes = [_TIMEOUTS[phase] if number == errno.ETIMEDOUT else _ERRNOS.get(number, unknown) for number in numbers]
    # Of several addresses one that was tried says more than one that this machine has no way to.
    code = next((code for code in codes if code not in OURS), codes[0] if codes else unknown)
    # Before a connection stands nothing but TLS exchanges bytes that could be cut off.
    lost = code in {ErrorCode.RESET, ErrorCode.DISCONNECTED}
    return ErrorCode.TLS_PROTOCOL if tls and connecting and lost else code


def _detail(code: ErrorCode, error: Exception, host: str) -> str:
    """A sentence for users; it never holds an address that a name stands for, nor a value of ours."""
    cause = _cause(error)
    match cause:
        case UrlRefused():
            return cause.detail
        case AddressBlocked() | LookupFailed() if code is cause.error:
            return f"{host}: {cause.detail}"
        case Unsendable():
            return f"The request cannot be sent: {cause}"
        case ssl.SSLCertVerificationError() if code is ErrorCode.TLS_UNTRUSTED:
            reason = getattr(cause, "verify_message", "")
        case ssl.SSLError() if code is ErrorCode.TLS_PROTOCOL:
            known = getattr(cause, "reason", None) or "the handshake failed"  # set by OpenSSL's own errors only
            reason = _HINTS.get(known, known.lower().replace("_", " "))
        case HttpProcessingError() if code is ErrorCode.MALFORMED_RESPONSE:
            reason = _UNPRINTABLE.sub("?", " ".join(cause.message.split())[:_PREVIEW].removesuffix(" ^"))
            if "Expected HTTP/" in reason:
                reason += f" {_SURPLUS}"
        case _:
            reason = ""
    if code is ErrorCode.INTERNAL_ERROR:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} in {PurePath(frame.filename).name}, line {frame.lineno}"
    sentence = SENTENCES[code].format(host=host)
    return f"{sentence.removesuffix('.')}: {reason}." if reason else sentence
