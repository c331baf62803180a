"""One source of tokens for each subscription, asked by many at once, over the sender's own pool."""

from __future__ import annotations

import asyncio
import sys
import threading
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, Any

import hostile
import pytest
from authorization import JSON, TokenServer
from engines import Gate
from interrupts import run
from msgspec.structs import replace
from patience import PATIENCE
from storage import NOW, OAUTH2, SetClock, all_of
from test_sender import LOOPBACK, ending, looking_up

from hookengine import auth
from hookengine.bearers import Bearers, _answer
from hookengine.errors import Stopping, StorageUnavailable
from hookengine.models import (
    Accepted,
    AccessToken,
    AttemptError,
    Authorization,
    Broken,
    ErrorCode,
    Interrupted,
    OAuth2,
    Outcome,
    Refused,
    Request,
    Response,
    Rules,
    Secret,
    Unreachable,
)
from hookengine.receiver import Receiver, Reply
from hookengine.sender import Begun, Sender

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

MINUTE = 60_000
DEFAULT_RULES = Rules()


class Keeper:
    """Where tokens are kept, as the store does it; *error* is raised instead."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.kept: dict[int, tuple[OAuth2, AccessToken]] = {}
        self.asked: list[tuple[int, OAuth2]] = []
        self._more = asyncio.Event()

    def load(self, subscription: int, oauth2: OAuth2) -> AccessToken | None:
        """What is kept, if it was got in this way."""
        self.asked.append((subscription, oauth2))
        known, token = self.kept.get(subscription, (None, None))
        return token if known == oauth2 else None

    async def save(self, subscription: int, oauth2: OAuth2, token: AccessToken) -> None:
        """Keep it."""
        self._more.set()
        if self.error is not None:
            raise self.error
        self.kept[subscription] = (oauth2, token)

    async def saved(self) -> None:
        """Return once something was to be kept."""
        async with asyncio.timeout(PATIENCE):
            await self._more.wait()


class Place:
    """A sender with a clock of its own, a token server, and an endpoint that wants its tokens."""

    def __init__(self, server: TokenServer, endpoint: Receiver, sender: Sender, clock: SetClock) -> None:
        self.server = server
        self.endpoint = endpoint
        self.sender = sender
        self.clock = clock

    def request(self, subscription: int = 1, *, timeout: int = 5000, **settings: Any) -> Request:
        """A delivery that needs a token."""
        return Request(
            method="POST",
            url=self.endpoint.url,
            headers=(auth.UNSET_TOKEN,),
            body=b"{}",
            timeout=timeout,
            authorization=Authorization(subscription=subscription, oauth2=self.server.oauth2(**settings)),
        )

    async def attempt(self, subscription: int = 1, **settings: Any) -> Outcome:
        """How it ends."""
        return await self.sender.attempt(self.request(subscription, **settings))

    async def together(self, count: int, subscription: int = 1, **settings: Any) -> list[Outcome]:
        """How *count* of them end that begin at the same time."""
        return await asyncio.gather(*(self.attempt(subscription, **settings) for _ in range(count)))


@asynccontextmanager
async def placed(server: TokenServer | None = None, keeper: Keeper | None = None) -> AsyncIterator[Place]:
    """All of that, running."""
    clock = SetClock()
    keeper = keeper or Keeper()
    async with server or TokenServer() as running, Receiver(running.guard) as endpoint:
        sender = Sender(LOOPBACK, clock=clock, load=keeper.load, save=keeper.save)
        try:
            yield Place(running, endpoint, sender, clock)
        finally:
            await sender.close()


async def test_many_at_once_ask_once() -> None:
    """A hundred attempts that begin without a token, and a hundred whose token was ended, make one request each time."""
    async with placed() as place:
        first = await place.together(100)
        place.server.revoke()
        second = await place.together(100)

        assert 2 == len(place.server.requests)
    assert {Accepted} == {type(outcome) for outcome in first + second}


async def test_expired_token_is_renewed_once_before_it_is_used() -> None:
    """Two hundred attempts after the token's time make one request, and the endpoint sees none with the old one."""
    async with placed(TokenServer(expires_in=3600)) as place:
        await place.attempt(grant="password")
        place.clock.time = NOW + 60 * MINUTE - 30_001
        await place.attempt(grant="password")
        place.clock.time += 1
        place.server.revoke()
        outcomes = await place.together(200, grant="password")

        assert ["password", "refresh_token"] == [form["grant_type"] for form in place.server.forms]
        assert 202 == len(place.endpoint.requests)
    assert {Accepted} == {type(outcome) for outcome in outcomes}


async def test_expired_refresh_token_falls_back_to_the_grant() -> None:
    """Where the refresh token is not accepted, the grant gives a new one in the same attempt."""
    async with placed() as place:
        await place.attempt(grant="password")
        place.server.revoke()
        place.server.revoke_refresh_tokens()
        outcome = await place.attempt(grant="password")

        assert ["password", "refresh_token", "password"] == [form["grant_type"] for form in place.server.forms]
    assert isinstance(outcome, Accepted)


@pytest.mark.parametrize("client_auth", ["header", "body", "bearer"])
@pytest.mark.parametrize("grant", ["client_credentials", "password"])
async def test_every_way_is_understood_by_a_server(grant: str, client_auth: str) -> None:
    """Grants, refresh, scopes and the ways of client authentication are what authlib's server takes them for."""
    async with placed() as place:
        outcomes = []
        for _ in range(2):
            outcomes.append(await place.attempt(grant=grant, client_auth=client_auth, scopes=("hooks:write",)))
            place.server.revoke()

        assert [(Accepted, None)] * 2 == [ending(outcome) for outcome in outcomes]
        assert {"hooks:write"} == {issued.scope for issued in place.server.issued}
        again = "refresh_token" if grant == "password" else grant
        assert [grant, again] == [form["grant_type"] for form in place.server.forms]


async def test_cancelled_waiter_leaves_the_renewal_to_the_others() -> None:
    """Whoever began a renewal may go: who waits for it gets the token, and so does who comes later."""
    gate = Gate()
    async with placed() as place:
        place.server.fault = gate
        first = asyncio.create_task(place.attempt())
        await gate.arrived()
        second = asyncio.create_task(place.attempt())
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        place.server.fault = None
        gate.open(500)
        ended = await second
        later = await place.attempt()

        assert (True, ErrorCode.AUTH_FAILED, Accepted) == (first.cancelled(), ending(ended)[1], type(later))
        assert 2 == len(place.server.requests)


async def test_cancelled_waiter_does_not_lose_the_token() -> None:
    """A renewal that nobody waits for any more still gives its token to those who come."""
    keeper = Keeper()
    arrived, release = asyncio.Event(), asyncio.Event()

    async def late(request: Any) -> Reply:
        arrived.set()
        await release.wait()
        reply: Reply = place.server.create_token_response(request)
        return reply

    async with placed(keeper=keeper) as place:
        place.server.fault = late
        alone = asyncio.create_task(place.attempt())
        async with asyncio.timeout(PATIENCE):
            await arrived.wait()
        alone.cancel()
        await asyncio.wait([alone])
        release.set()
        await keeper.saved()

        assert isinstance(await place.attempt(), Accepted)
        assert 1 == len(place.server.requests)


async def test_endpoint_that_answers_401_gets_the_request_twice() -> None:
    """One renewal and one repetition; then the 401 is how the attempt ends."""
    async with placed() as place, Receiver(401) as endpoint:
        place.endpoint = endpoint
        outcome = await place.attempt()

        assert (2, 2) == (len(endpoint.requests), len(place.server.requests))
        assert len({request.header("authorization") for request in endpoint.requests}) == 2
        assert len({request.body for request in endpoint.requests}) == 1
    assert isinstance(outcome, Refused)
    assert (ErrorCode.HTTP_STATUS, 401) == (outcome.error.code, outcome.response.status if outcome.response else None)


async def test_401_that_counts_as_success_is_one() -> None:
    """Where 401 is what the rules ask for, nothing is renewed."""
    async with placed() as place, Receiver(401) as endpoint:
        place.endpoint = endpoint
        outcome = await place.sender.attempt(place.request(), Rules(success=frozenset({401})))

        assert (Accepted, 1) == (type(outcome), len(endpoint.requests))


@pytest.mark.parametrize("status", [403, 407, 500])
async def test_other_refusals_renew_nothing(status: int) -> None:
    """Only 401 says that a token is not good any more (RFC 6750, 3.1)."""
    async with placed() as place, Receiver(status) as endpoint:
        place.endpoint = endpoint
        await place.attempt()

        assert (1, 1) == (len(endpoint.requests), len(place.server.requests))


@pytest.mark.parametrize(
    ("fault", "status", "fields"),
    [
        pytest.param(Reply(status=503, body=b"hush"), 503, (), id="503"),
        pytest.param(Reply(body=b"<html>hush"), 200, (), id="no JSON"),
        pytest.param(Reply(body=b'{"jwt":"hush"}', headers=JSON), 200, ("jwt",), id="another field"),
        pytest.param(Reply(body=b'{"access_token":"hush","token_type":"mac"}'), 200, ("access_token", "token_type"), id="mac"),
        pytest.param(Reply(status=302, headers=(("location", "http://127.0.0.1:9/hush"),)), 302, (), id="redirect"),
        pytest.param(Reply(body=b'{"access_token":"' + b"h" * (1 << 20) + b'"}'), 200, (), id="huge"),
    ],
)
async def test_answers_without_a_token(fault: Reply, status: int, fields: tuple[str, ...]) -> None:
    """The attempt ends as auth_failed, the endpoint sees nothing, and of the answer no value is told."""
    async with placed() as place:
        place.server.fault = fault
        outcome = await place.attempt()

        assert (Unreachable, ErrorCode.AUTH_FAILED) == ending(outcome)
        assert isinstance(outcome, Unreachable)
        assert outcome.token_answer is not None
        assert (status, fields) == (outcome.token_answer.status_code, outcome.token_answer.fields)
        assert "hush" not in repr(outcome)
        assert [] == place.endpoint.requests
        place.server.fault = None
        assert isinstance(await place.attempt(), Accepted)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        pytest.param({"client_secret": "other"}, "client's id and secret", id="invalid_client"),
        pytest.param({"client_id": "other"}, "client's id and secret", id="unknown client"),
        pytest.param({"grant": "password", "password": "other"}, "user name and the password", id="invalid_grant"),
        pytest.param({"scopes": ("unknown",)}, "scopes", id="invalid_scope"),
    ],
)
async def test_refusals_of_a_real_server(settings: dict[str, Any], words: str) -> None:
    """What authlib's server refuses is told in words of ours."""
    async with placed() as place:
        outcome = await place.attempt(**settings)

        assert isinstance(outcome, Unreachable)
        assert (ErrorCode.AUTH_FAILED, True) == (outcome.error.code, words in outcome.error.detail)
        assert [] == place.endpoint.requests


@pytest.mark.parametrize(
    ("url", "detail"),
    [
        pytest.param("http://127.0.0.1:{free}/", "refuses connections", id="nobody there"),
        pytest.param("http://10.0.0.1/token", "not a public one", id="a private address"),
        pytest.param("http://token.localhost.example.invalid/", "", id="no such name"),
        pytest.param("ftp://example.com/", "must start with https://", id="no URL of ours"),
    ],
)
async def test_token_server_out_of_reach(url: str, detail: str) -> None:
    """The token's URL meets the guards of every request, and what they say is told."""
    async with Receiver() as closed:
        free = closed.url.rpartition(":")[2]
    async with placed() as place:
        outcome = await place.attempt(token_url=url.format(free=free))

        assert (Unreachable, ErrorCode.AUTH_FAILED) == ending(outcome)
        assert isinstance(outcome, Unreachable)
        assert outcome.error.detail.startswith("No access token came about. ")
        assert (True, None) == (detail in outcome.error.detail, outcome.token_answer)


@pytest.mark.parametrize(
    "behaviour",
    [
        pytest.param(hostile.answers(b"HTTP/1.1 200 OK\r\nhush hush\r\n\r\n"), id="malformed"),
        pytest.param(hostile.answers(b"hush\r\n\r\n"), id="no HTTP"),
        pytest.param(hostile.endless_headers, id="endless headers"),
        pytest.param(hostile.informational_flood, id="1xx flood"),
        pytest.param(hostile.reset_at_once, id="reset"),
        pytest.param(hostile.gzip_bomb, id="gzip bomb"),
        pytest.param(hostile.endless_body, id="endless body"),
    ],
)
async def test_hostile_token_server(behaviour: hostile.Behaviour) -> None:
    """What no server should answer is no token, and nothing of it is repeated."""
    async with placed() as place, hostile.receiver(behaviour) as server:
        outcome = await place.attempt(token_url=server.url)

        assert (Unreachable, ErrorCode.AUTH_FAILED) == ending(outcome)
        assert "hush" not in repr(outcome)
        assert [] == place.endpoint.requests


@pytest.mark.alone
async def test_attempt_with_its_token_stays_within_its_time() -> None:
    """A token server that hangs takes no more than the attempt's time, also from who joins the wait; nothing is sent then."""
    gate = Gate()
    async with placed() as place:
        place.server.fault = gate
        loop = asyncio.get_running_loop()
        begun = loop.time()
        outcomes = await asyncio.gather(place.attempt(timeout=300), place.attempt(timeout=100))

        assert loop.time() - begun < 2
        assert [(Unreachable, ErrorCode.AUTH_FAILED)] * 2 == [ending(outcome) for outcome in outcomes]
        assert (1, []) == (len(place.server.requests), place.endpoint.requests)


async def test_renewal_after_a_late_401_takes_no_longer_than_the_attempt() -> None:
    """What is left of an attempt when its token is refused is all that the next token may take; then nothing is sent."""
    gate, refused = Gate(), Gate()
    async with placed() as place, Receiver(refused) as endpoint:
        assert isinstance(await place.attempt(), Accepted)
        place.endpoint, place.server.fault = endpoint, gate
        loop = asyncio.get_running_loop()
        begun = loop.time()
        attempt = asyncio.create_task(place.attempt(timeout=1000))
        await refused.arrived()
        refused.open(401)
        outcome = await attempt

        assert loop.time() - begun < 2.5
        assert (Unreachable, ErrorCode.AUTH_FAILED) == ending(outcome)
        assert 1 == len(endpoint.requests)


async def test_token_that_comes_too_late_sends_nothing() -> None:
    """An endpoint is not asked for an answer in no time at all, and not blamed for giving none."""
    async with placed() as place:
        place.server.fault = lambda asked: replace(place.server.create_token_response(asked), delay=0.3)
        outcome = await place.attempt(timeout=100)

        assert (Unreachable, ErrorCode.AUTH_FAILED) == ending(outcome)
        assert [] == place.endpoint.requests


async def test_refused_token_is_not_given_again_while_nobody_refreshes() -> None:
    """Whose 401 was for the token that is being renewed waits for the new one, also where its refresh token is dropped."""
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    asked: list[Request] = []

    async def send(request: Request) -> Outcome:
        asked.append(request)
        if len(asked) > 1:  # after the refresh, that nobody answers, the grant
            await over.wait()
        return Unreachable(error=AttemptError(code=ErrorCode.CONNECT_REFUSED, detail=""))

    bearers = Bearers(send, now=lambda: NOW, load=None, save=None)
    source = bearers.source(Authorization(subscription=1, oauth2=OAUTH2))
    source.token = refused = AccessToken(value=Secret("a"), refresh_token=Secret("r"))
    waiting = [
        asyncio.create_task(bearers.token(source, refused=refused, within=5_000, until=loop.time() + 5)) for _ in range(2)
    ]
    async with asyncio.timeout(PATIENCE):
        while len(asked) < 2:  # noqa: ASYNC110  # nobody tells
            await asyncio.sleep(0)
    assert source.token is not refused
    waiting.append(asyncio.create_task(bearers.token(source, refused=refused, within=5_000, until=loop.time() + 5)))
    await asyncio.wait(waiting, timeout=0.05)  # what is at hand would have been given by now

    assert [False] * 3 == [each.done() for each in waiting]
    over.set()
    assert {Unreachable} == {type(await each) for each in waiting}
    await bearers.close()


@pytest.mark.parametrize("hangs", [False, True])
async def test_nobody_refreshes(*, hangs: bool) -> None:
    """Where nobody answers at the URL for refreshes the grant is used: at once, or by the next if that took all the time."""
    gate = Gate()
    async with placed() as place, Receiver(gate) as refreshing:
        url = refreshing.url if hangs else "http://127.0.0.1:1/"
        first = await place.attempt(grant="password", refresh_url=url)
        place.clock.time += 60 * MINUTE
        seen = [await place.attempt(grant="password", refresh_url=url, timeout=300 if hangs else 5000) for _ in range(2)]

        assert isinstance(first, Accepted)
        assert isinstance(seen[1], Accepted)
        assert isinstance(seen[0], Unreachable if hangs else Accepted)
        assert {"password"} == {form["grant_type"] for form in place.server.forms}


async def test_who_joins_a_renewal_waits_as_long_as_their_own_attempt_lasts() -> None:
    """A renewal that has more time than somebody who waits for it goes on without them."""
    gate = Gate()
    async with placed() as place:
        place.server.fault = gate
        first = asyncio.create_task(place.attempt(timeout=60_000))
        await gate.arrived()
        async with asyncio.timeout(PATIENCE):
            outcome = await place.attempt(timeout=100)

        assert (Unreachable, ErrorCode.AUTH_FAILED) == ending(outcome)
        assert (False, 1) == (first.done(), len(place.server.requests))
        first.cancel()
        await asyncio.wait([first])


class Noting(Sender):
    """A sender that notes how much time each request has, in ms."""

    def __init__(self) -> None:
        super().__init__(LOOPBACK)
        self.times: list[int] = []

    async def attempt(
        self,
        request: Request,
        rules: Rules = DEFAULT_RULES,
        *,
        begun: Begun | None = None,
        turn: Callable[[float], float | None] | None = None,
    ) -> Outcome:
        """Note it, and send."""
        self.times.append(request.timeout)
        return await super().attempt(request, rules, begun=begun, turn=turn)


async def test_each_request_has_the_time_that_those_before_left() -> None:
    """The token, the delivery, the renewal after a 401 and the repetition share the time of one attempt."""

    def slowly(request: Any) -> Reply:
        answered: Reply = server.create_token_response(request)
        return replace(answered, delay=0.1)

    async with TokenServer() as server, Receiver(401) as endpoint:
        server.fault = slowly
        sender = Noting()
        authorization = Authorization(subscription=1, oauth2=server.oauth2())
        request = Request(method="POST", url=endpoint.url, headers=(), body=b"", timeout=5000, authorization=authorization)
        try:
            await sender.attempt(request)
        finally:
            await sender.close()

        whole, token, first, renewal, second = sender.times
        assert (5000, True, True) == (whole, token <= 5000, renewal <= 5000)
        assert (True, True) == (first <= 4900, second <= 4800)


@pytest.mark.parametrize(("turns", "ends", "requests"), [([None], Interrupted, 0), ([0.0, None], Refused, 1)])
async def test_what_is_out_of_turn_is_not_sent(turns: list[float | None], ends: type[Outcome], requests: int) -> None:
    """A request whose turn comes too late spends no attempt; of a repetition after a 401 the first answer counts."""
    left = iter(turns)
    async with TokenServer() as server, Receiver(401) as endpoint:
        sender = Sender(LOOPBACK)
        authorization = Authorization(subscription=1, oauth2=server.oauth2())
        request = Request(method="POST", url=endpoint.url, headers=(), body=b"", timeout=5000, authorization=authorization)
        try:
            outcome = await sender.attempt(request, turn=lambda _: next(left))
        finally:
            await sender.close()

        assert (ends, requests) == (type(outcome), len(endpoint.requests))


def test_answer_of_a_token_server_does_not_show_itself() -> None:
    """The body that holds a token is absent from the repr of what is read."""
    answer = _answer(Accepted(response=Response(status=200, headers=(), body=b"hush", truncated=False)))

    assert answer is not None
    assert (b"hush", False) == (answer.body, "hush" in repr(answer))


@pytest.mark.alone
async def test_endpoint_has_the_time_that_the_token_left() -> None:
    """The endpoint's part of an attempt ends when the whole does."""
    hang = Gate()
    async with placed() as place, Receiver(hang) as endpoint:
        place.endpoint = endpoint
        loop = asyncio.get_running_loop()
        begun = loop.time()
        outcome = await place.attempt(timeout=300)

        assert loop.time() - begun < 2
        assert (Unreachable, ErrorCode.TIMEOUT_RESPONSE) == ending(outcome)


async def test_subscriptions_have_tokens_of_their_own() -> None:
    """Two subscriptions with the same credentials do not share a token, nor does one that is not stored keep one."""
    keeper = Keeper()
    async with placed(keeper=keeper) as place:
        for subscription in (1, 2, 1, 2, 0, 0):
            assert isinstance(await place.attempt(subscription), Accepted)

        assert 4 == len(place.server.requests)
    assert {1, 2} == keeper.kept.keys()


async def test_other_credentials_begin_anew() -> None:
    """A token that was got with other settings is not used, and neither is one of a subscription that was deleted."""
    keeper = Keeper()
    async with placed(keeper=keeper) as place:
        await place.attempt()
        await place.attempt(scopes=("profile",))
        keeper.kept.clear()
        place.sender.forget(1)
        place.sender.forget(7)

        assert isinstance(await place.attempt(scopes=("profile",)), Accepted)
        assert ["", "profile", "profile"] == [form.get("scope", "") for form in place.server.forms]


async def test_kept_token_is_used() -> None:
    """What was kept is asked for once, and spares the request; what is renewed is kept in its place."""
    keeper = Keeper()
    async with placed(keeper=keeper) as place:
        await place.attempt()
        await keeper.saved()
        _, kept = keeper.kept[1]
        again = Sender(LOOPBACK, clock=place.clock, load=keeper.load, save=keeper.save)
        try:
            for _ in range(2):
                assert isinstance(await again.attempt(place.request()), Accepted)
        finally:
            await again.close()

        assert (1, 2) == (len(place.server.requests), len(keeper.asked))
        assert (place.server.issued[0].access_token, NOW + 60 * MINUTE - 30_000) == (kept.value, kept.renew_at)


@pytest.mark.parametrize("error", [StorageUnavailable(), Stopping()])
async def test_token_that_cannot_be_kept_is_used(error: Exception) -> None:
    """Trouble of the store costs a request after the next start, and no delivery."""
    keeper = Keeper(error)
    async with placed(keeper=keeper) as place:
        assert isinstance(await place.attempt(), Accepted)
        await keeper.saved()
        assert isinstance(await place.attempt(), Accepted)

        assert 1 == len(place.server.requests)


async def test_close_interrupts_who_waits() -> None:
    """A stop is not the token server's fault."""
    gate = Gate()
    async with placed() as place:
        place.server.fault = gate
        waiting = asyncio.create_task(place.attempt())
        await gate.arrived()
        await place.sender.close()

        assert Interrupted() == await waiting


@pytest.mark.parametrize(
    "ended",
    [
        pytest.param(Interrupted(), id="a stop"),
        pytest.param(Interrupted(error=AttemptError(code=ErrorCode.LOCAL_NETWORK, detail="x")), id="no network"),
        pytest.param(Broken(error=AttemptError(code=ErrorCode.INTERNAL_ERROR, detail="x")), id="a bug"),
    ],
)
async def test_faults_of_this_machine_stay_that(ended: Outcome) -> None:
    """Without a network nothing is the token server's fault."""

    async def send(_: Request) -> Outcome:
        return ended

    bearers = Bearers(send, now=lambda: NOW, load=None, save=None)
    async with TokenServer() as server:
        source = bearers.source(Authorization(subscription=1, oauth2=server.oauth2()))
        until = asyncio.get_running_loop().time() + PATIENCE

        assert ended == await bearers.token(source, refused=None, within=1000, until=until)


@pytest.mark.row("F39")
async def test_dead_name_servers_are_not_the_token_servers_fault() -> None:
    """Also where there was less time for the attempt than a lookup has."""
    released = threading.Event()

    def hang(_host: str) -> list[str]:
        released.wait(10)
        return []

    async with TokenServer() as server:
        sender = Sender(LOOPBACK, resolver=looking_up(hang))
        oauth2 = replace(server.oauth2(), token_url="http://tokens.acme.example/")
        outcome = await sender.attempt(
            Request(
                method="POST",
                url="http://127.0.0.1:9/",
                headers=(auth.UNSET_TOKEN,),
                body=b"{}",
                timeout=100,
                authorization=Authorization(subscription=1, oauth2=oauth2),
            )
        )
        released.set()
        await sender.close()

    assert (Interrupted, ErrorCode.DNS_TEMPORARY) == ending(outcome)


async def test_fault_in_a_renewal_is_the_end_of_the_attempt_only() -> None:
    """What nobody thought of ends who waits, as our own fault, and the next attempt asks again."""

    async def send(_: Request) -> Outcome:
        raise KeyError(Secret("hush"))

    bearers = Bearers(send, now=lambda: NOW, load=None, save=None)
    async with TokenServer() as server:
        source = bearers.source(Authorization(subscription=1, oauth2=server.oauth2()))
        until = asyncio.get_running_loop().time() + PATIENCE
        outcome = await bearers.token(source, refused=None, within=1000, until=until)

    assert isinstance(outcome, Broken)
    assert "KeyError in a renewal" == outcome.error.detail
    assert source.renewal is None


def test_interrupt_in_a_renewal_is_raised_once() -> None:
    """Ctrl-C that lands there is not raised again by everyone who waits: their attempts are interrupted."""

    async def send(_: Request) -> Outcome:
        raise KeyboardInterrupt

    async def wait() -> list[Any]:
        bearers = Bearers(send, now=lambda: NOW, load=None, save=None)
        source = bearers.source(Authorization(subscription=1, oauth2=OAUTH2))
        until = asyncio.get_running_loop().time() + PATIENCE
        return await all_of(*(bearers.token(source, refused=None, within=1000, until=until) for _ in range(3)))

    with closing(asyncio.new_event_loop()) as loop:
        assert (1, [Interrupted()] * 3) == run(loop, wait())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="its tasks are never eager")
async def test_renewal_that_waits_for_nothing_is_over() -> None:
    """Where the host's tasks are eager a renewal may end before anybody knows of it: the next attempt begins another."""
    asked: list[Request] = []

    async def send(request: Request) -> Outcome:
        asked.append(request)
        return Interrupted()

    bearers = Bearers(send, now=lambda: NOW, load=None, save=None)
    source = bearers.source(Authorization(subscription=1, oauth2=OAUTH2))
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined,unused-ignore]  # as above
    for _ in range(2):
        await bearers.token(source, refused=None, within=1000, until=loop.time() + PATIENCE)
    loop.set_task_factory(None)

    assert 2 == len(asked)
    assert source.renewal is None
