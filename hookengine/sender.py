"""One attempt over the client pool: whatever happens to it ends as an outcome, here and nowhere else."""

from __future__ import annotations

import asyncio
import socket
import ssl
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import aiohttp
from msgspec import Struct

from hookengine.auth import bearing
from hookengine.bearers import TOO_LATE, Bearers
from hookengine.clock import Clock
from hookengine.concealing import Concealer
from hookengine.deadline import Deadlines
from hookengine.exchange import Exchange, OutOfTurn, Phase, Pool, let_go
from hookengine.message import Proxy, Target, compose
from hookengine.models import (
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
from hookengine.netguard import Policy, admit, socket_factory, vet_url
from hookengine.resolver import LookupFailed, Resolver
from hookengine.verdicts import OURS, REFUSALS, SENTENCES, error_code, lacks_ports, sentence, verdict

if TYPE_CHECKING:
    from collections.abc import Callable

    from hookengine.bearers import Load, Save
    from hookengine.deadline import Deadline
    from hookengine.exchange import Turn
    from hookengine.models import Authorization, Outcome, Request, Response
    from hookengine.wire import Answer

_KNOWN_URLS = 4096

# A name that gets no answer is our trouble, and not the endpoint's, while no lookup of any name gets one: for 30 s called
# `dns_temporary`, then `local_network`. After a day it is the endpoint's.
_DNS_OUTAGE = 30.0  # s
_LONGEST_DNS_OUTAGE = 24 * 3600.0

_DEFAULT_RULES = Rules()
_OUT_OF_TURN = Interrupted()  # nothing was sent, and none of its attempts is spent
_TEST_NET = ("192.0.2.1", 9)  # RFC 5737: nobody's

# How asking a proxy for a tunnel may fail. What else may befall a connection before its request is TLS, inside the tunnel.
_TUNNEL_FAILURES = {
    *REFUSALS,
    *(ErrorCode.TIMEOUT_CONNECT, ErrorCode.CONNECT_REFUSED, ErrorCode.RESET, ErrorCode.DISCONNECTED),
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
    held to the URL alone. *tls* is what every https connection is made with; of connections without a request *most_resting*
    stay open; *routed* says whether this machine has a network at all. *load* and *save* keep the access tokens of endpoints,
    as `Bearers` says.
    """

    def __init__(
        self,
        policy: Policy,
        *,
        proxy: Proxy | None = None,
        resolver: Resolver | None = None,
        tls: ssl.SSLContext | None = None,
        most_resting: int = 256,
        routed: Callable[[], bool] | None = None,
        clock: Clock | None = None,
        load: Load | None = None,
        save: Save | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._proxy = proxy
        self._resolver = resolver or Resolver(_admit_any if proxy else partial(admit, policy=policy))
        dial = None if proxy else socket_factory(policy)
        self._pool = Pool(ssl=tls or tls_context(), resolver=self._resolver, socket_factory=dial, most_resting=most_resting)
        self._deadlines = Deadlines()
        self._routed = routed or has_ipv4_route
        self._started_at = self._loop.time()
        # The verdict on a URL is always the same, and takes as long as the rest of an attempt.
        self._target = lru_cache(_KNOWN_URLS)(partial(_aim, policy=policy, loop=self._loop, proxy=proxy))
        self._concealer = Concealer()
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
        if response is None:
            return None
        return self._as_shown(self._judge(response, begun.request, begun.rules), begun.request, begun.target)

    def abandon(self, begun: Begun) -> Interrupted:
        """Let go of *begun*, whose answer nobody waits for any more."""
        begun.deadline.leave()
        begun.exchange.abandon(self._pool, begun.target)
        return Interrupted()

    async def attempt(
        self,
        request: Request,
        rules: Rules = _DEFAULT_RULES,
        *,
        begun: Begun | None = None,
        turn: Turn | None = None,
    ) -> Outcome:
        """
        Send *request* once, unless it is *begun*, and say how it ended.

        *turn* is asked each time that it could go, with the ms that it has left: for how many of these it has to wait; None if
        for more. Raises nothing but CancelledError.
        """
        if request.authorization is not None:
            return await self._attempt_with_token(request, request.authorization, rules, turn)
        exchange = Exchange(private=isinstance(request.body, SecretBytes)) if begun is None else begun.exchange
        target = None
        try:
            target = self._target(request.url)
            message = compose(request.method, target, request.headers, request.body)
            with self._deadlines.after(request.timeout / 1000) if begun is None else begun.deadline as deadline:
                response = await exchange.run(self._pool, target, message, deadline, turn=turn)
        except OutOfTurn:
            return _OUT_OF_TURN
        except Exception as error:  # noqa: BLE001  # nothing escapes the attempt
            answered = exchange.response
            if answered is None:
                outcome = await self._failure(error, exchange.phase, request.url)
            else:
                outcome = self._judge(answered, request, rules)
            let_go(error)
        else:
            outcome = self._judge(response, request, rules)
        return self._as_shown(outcome, request, target)

    def forget(self, subscription: int) -> None:
        """Let go of the access token of a subscription (its seq), because that or its `auth` is no more."""
        self._bearers.forget(subscription)

    async def close(self) -> None:
        """Close all connections; attempts still running end as Interrupted."""
        await self._bearers.close()
        await self._pool.close()
        await self._resolver.close()
        self._deadlines.close()

    async def _attempt_with_token(
        self,
        request: Request,
        authorization: Authorization,
        rules: Rules,
        turn: Turn | None,
    ) -> Outcome:
        """
        The same with an access token, all within the time for one attempt.

        An endpoint that answers 401 gets the request once more, with another token, if there is time for that.
        """
        until = self._loop.time() + request.timeout / 1000
        source = self._bearers.source(authorization)
        refused: AccessToken | None = None
        outcome: Outcome = TOO_LATE
        while True:
            token = await self._bearers.token(source, refused=refused, within=request.timeout, until=until)
            if not isinstance(token, AccessToken):
                return token
            if (left := round((until - self._loop.time()) * 1000)) <= 0:
                return outcome
            latest = await self.attempt(bearing(request, token, timeout=left), rules, turn=turn)
            if refused is not None and latest is _OUT_OF_TURN:
                return outcome
            outcome = latest
            if refused is not None or not _is_unauthorized(outcome):
                return outcome
            refused = token

    def _as_shown(self, outcome: Outcome, request: Request, target: Target | None) -> Outcome:
        """*outcome* without credentials; a token server's stays whole, for it is read and not shown: tokens may be alike."""
        proxys = () if target is None else target.headers
        if not (request.hidden or proxys) or isinstance(request.body, SecretBytes):
            return outcome
        return self._concealer.conceal(outcome, request, beside=proxys)

    def _judge(self, response: Response, request: Request, rules: Rules) -> Outcome:
        # Of what the proxy passes on it is no receiver's to answer (RFC 9110, section 15.5.8); in a tunnel nobody else speaks.
        if self._proxy is not None and response.status == 407 and not _is_secure(request.url):
            return Unreachable(error=AttemptError(code=ErrorCode.PROXY_ERROR, detail=SENTENCES[ErrorCode.PROXY_ERROR]))
        return verdict(response, rules)

    async def _failure(self, error: Exception, phase: Phase, url: str) -> Outcome:
        if self._pool.closed:
            return Interrupted()
        # In a tunnel aiohttp raises this one; what befalls the request for a tunnel has nothing to do with TLS.
        in_tunnel = self._proxy is None or isinstance(error, aiohttp.ClientConnectorError)
        code = error_code(error, phase, tls=_is_secure(url) and in_tunnel)
        if self._proxy is not None:
            if code is ErrorCode.DNS_TEMPORARY or _concerns(self._proxy, error):
                return Interrupted(error=AttemptError(code=ErrorCode.PROXY_ERROR, detail="The proxy is out of reach."))
            if phase is Phase.CONNECT and code in _TUNNEL_FAILURES:
                code = ErrorCode.PROXY_ERROR
        if code is ErrorCode.LOCAL_RESOURCES:
            self._pool.make_room()
        host = url.partition("//")[2].partition("/")[0].partition("?")[0]
        unresolved = code is ErrorCode.DNS_TEMPORARY and await self._is_name_outage(host)
        portless = lacks_ports(error)
        if unresolved and self._silence >= _DNS_OUTAGE:
            code = ErrorCode.LOCAL_NETWORK
        elif (code is ErrorCode.LOCAL_NETWORK or (portless and host.startswith("["))) and self._routed():
            # An address of a network that this machine is not part of, such as IPv6: out of reach, but not an outage.
            code = ErrorCode.CONNECT_REFUSED
        reason = AttemptError(code=code, detail=sentence(code, error, host))
        if code in REFUSALS:
            return Refused(error=reason)
        if unresolved or code in OURS:
            return Interrupted(error=reason, keeps_nobody_else=unresolved or portless)
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


def _is_unauthorized(outcome: Outcome) -> bool:
    return isinstance(outcome, Refused) and outcome.response is not None and outcome.response.status == 401


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
    target = Target(vet_url(url, policy), loop, proxy)
    if url.endswith("?") and not target.path.endswith("?"):  # which yarl leaves out, but is signed and shown
        target.path += "?"
    return target


def _concerns(proxy: Proxy, error: Exception) -> bool:
    """Whether *proxy*, the only host that is looked up and dialled, could not be, or does not show who it is."""
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ClientConnectorCertificateError):
        return (error.host, error.port) == (proxy.url.host, proxy.url.port)
    return isinstance(error, LookupFailed | aiohttp.ClientProxyConnectionError)


def _is_secure(url: str) -> bool:
    return url.lower().startswith("https:")


def _admit_any(_address: str, _port: int) -> None:
    """The operator has chosen the proxy."""
