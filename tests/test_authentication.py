"""OAuth 2.0 from end to end: a real engine, a real authorization server, and endpoints that want its tokens."""

from __future__ import annotations

import asyncio
import json
import logging
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from api import serving
from authorization import CLIENT_SECRET, PASSWORD, TokenServer
from engines import Gate, Journal, in_flight, measured, only, rows, running
from patience import PATIENCE
from storage import files

from hookengine.errors import EndpointVerificationFailed, Invalid
from hookengine.receiver import Receiver, Reply

if TYPE_CHECKING:
    from pathlib import Path

    from hookengine.engine import Engine
    from hookengine.receiver import Received


async def delivered(engine: Engine, data: Any = None) -> Any:
    """The delivery of an event to everybody, once it ended."""
    event = await engine.publish("order.created", data)
    [delivery] = await engine.wait(event.id, timeout=15)
    return await engine.delivery(delivery.id)


async def kept(folder: Path, engine: Engine) -> list[tuple[Any, ...]]:
    """The sealed tokens in the file, after everything that the writer was sent."""
    await engine.set_event_type("writer.reached", description="")
    return rows(folder, "SELECT subscription, sealed FROM access_tokens")


async def test_two_hundred_deliveries_after_the_tokens_end_ask_once(tmp_path: Path) -> None:
    """The first delivery asks for a token, and of two hundred more, once that is revoked, one does."""
    async with TokenServer() as server, Receiver(server.guard) as endpoint, running(tmp_path) as engine:
        await engine.subscribe(endpoint.url, auth=server.auth(), max_concurrency=200)
        await delivered(engine)
        server.revoke()
        events = await engine.publish_batch([{"type": "order.created", "data": n} for n in range(200)])
        for event in events:
            [delivery] = await engine.wait(event.id, timeout=15)
            assert ("delivered", 1) == (delivery.state, delivery.attempt_count)

        assert 2 == len(server.requests)


async def test_renewal_and_repetition_are_one_attempt(tmp_path: Path) -> None:
    """A 401 costs no attempt: the token is renewed, the request repeated, and one attempt recorded."""
    async with TokenServer() as server, Receiver(server.guard) as endpoint, running(tmp_path) as engine:
        await engine.subscribe(endpoint.url, auth=server.auth(grant="password"))
        await delivered(engine)
        server.revoke()
        delivery = await delivered(engine)

        assert ("delivered", 1) == (delivery.state, delivery.attempt_count)
        [attempt] = delivery.attempts
        assert ("accepted", 204) == (attempt.outcome, attempt.status_code)
        assert ("authorization", "***") in attempt.request.headers
        assert ["password", "refresh_token"] == [form["grant_type"] for form in server.forms]
        assert 3 == len(endpoint.requests)


async def test_dead_token_server_is_counted_and_retried(tmp_path: Path) -> None:
    """Without a token the attempt is unreachable as auth_failed, moves the counters, and its retry delivers."""
    async with TokenServer() as server, Receiver(server.guard) as endpoint, running(tmp_path) as engine:
        server.fault = lambda _: Reply(status=503, body=b"hush-answer")
        made = await engine.subscribe(endpoint.url, auth=server.auth(), retry_schedule=["1ms", "1ms"])
        failed = await delivered(engine)
        health = await engine.subscription(made.id)
        server.fault = None
        after = await delivered(engine)

        assert ("failed", 3, 3) == (failed.state, failed.attempt_count, health.consecutive_failures)
        assert [("unreachable", "auth_failed")] * 3 == [(each.outcome, each.error.code) for each in failed.attempts]
        assert "delivered" == after.state
        assert 1 == len(endpoint.requests)


async def test_tokens_survive_a_restart_encrypted(tmp_path: Path) -> None:
    """The next engine on the file uses the token, and nothing in the file tells it."""
    async with TokenServer() as server, Receiver(server.guard) as endpoint:
        async with running(tmp_path) as engine:
            await engine.subscribe(endpoint.url, auth=server.auth(grant="password"))
            await delivered(engine)
            assert 1 == len(await kept(tmp_path, engine))
        found = b"".join(files(tmp_path).values())
        async with running(tmp_path) as engine:
            assert "delivered" == (await delivered(engine)).state

        assert 1 == len(server.requests)
    assert [] == [word for word in (b"hush-", b"ana@example") if word in found]


async def test_token_of_a_test_is_not_kept(tmp_path: Path) -> None:
    """What tests of a save were sent with is used for nothing else: deliveries have a token of their own, which is stored."""
    async with TokenServer() as server, Receiver(lambda request: 200 if server.guard(request) == 204 else 401) as endpoint:
        async with running(tmp_path) as engine:
            made = await engine.subscribe(endpoint.url, profile="clevertap", batch={"max_events": 1}, auth=server.auth())
            await engine.update_subscription(made.id, auth={"scopes": ["profile"]})
            assert 2 == len(server.requests)
            await delivered(engine)
            assert 1 == len(await kept(tmp_path, engine))
            with pytest.raises(EndpointVerificationFailed):
                await engine.update_subscription(made.id, auth={"client_secret": "wrong"})
            await delivered(engine)
        async with running(tmp_path) as engine:
            await delivered(engine)

        assert 2 + 1 + 1 == len(server.requests)  # the last test's was refused


async def test_unreadable_token_is_asked_for_again(tmp_path: Path) -> None:
    """A token that does not open is told once, and the endpoint gets its deliveries."""
    journal = Journal()
    async with TokenServer() as server, Receiver(server.guard) as endpoint:
        async with running(tmp_path) as engine:
            await engine.subscribe(endpoint.url, auth=server.auth())
            await delivered(engine)
            await kept(tmp_path, engine)
            db = engine._running.store.writer._writing.db
            await db.execute("UPDATE access_tokens SET sealed = x'00'")
        async with running(tmp_path, journal) as engine:
            assert "delivered" == (await delivered(engine)).state

        assert 2 == len(server.requests)
    assert ["access token"] == [word for line in journal.lines for word in ("access token",) if word in str(line)]


async def test_unreadable_token_goes_with_its_auth(tmp_path: Path) -> None:
    """What could not be read is not in memory, and is dropped all the same."""
    async with TokenServer() as server, Receiver(server.guard) as endpoint:
        async with running(tmp_path) as engine:
            made = await engine.subscribe(endpoint.url, auth=server.auth())
            await delivered(engine)
            await kept(tmp_path, engine)
            await engine._running.store.writer._writing.db.execute("UPDATE access_tokens SET sealed = x'00'")
        async with running(tmp_path) as engine:
            await engine.update_subscription(made.id, auth=None)

            assert [] == await kept(tmp_path, engine)


@pytest.mark.parametrize(
    ("patch", "dropped"),
    [
        pytest.param({"auth": {"scopes": ["profile"]}}, True, id="auth"),
        pytest.param({"auth": None}, True, id="no auth"),
        pytest.param({"auth": {"type": "basic", "username": "u", "password": "p"}}, True, id="another type"),
        pytest.param({"auth": {"client_auth": "header"}}, False, id="the same"),
        pytest.param({"name": "x", "timeout": "3s"}, False, id="other members"),
    ],
)
async def test_change_of_auth_drops_the_token(tmp_path: Path, patch: dict[str, Any], dropped: bool) -> None:
    """A token that was got with other credentials is forgotten, in memory and in the file; others stay."""
    async with TokenServer() as server, Receiver(server.guard) as endpoint, running(tmp_path) as engine:
        made = await engine.subscribe(endpoint.url, auth=server.auth(), retry_schedule=[])
        await delivered(engine)
        assert 1 == len(await kept(tmp_path, engine))
        await engine.update_subscription(made.id, **patch)

        assert (0 if dropped else 1) == len(await kept(tmp_path, engine))
        if not dropped:
            assert "delivered" == (await delivered(engine)).state
            assert 1 == len(server.requests)


@pytest.mark.parametrize("between", [None, {"client_secret": "another"}], ids=["none", "another"])
async def test_auth_that_is_taken_back_is_another(tmp_path: Path, between: dict[str, Any] | None) -> None:
    """Who changes `auth` and changes it back wants another token, also where no request went in between."""
    async with TokenServer() as server, Receiver(server.guard) as endpoint, running(tmp_path) as engine:
        made = await engine.subscribe(endpoint.url, auth=server.auth())
        await delivered(engine)
        await engine.update_subscription(made.id, auth=between)
        await engine.update_subscription(made.id, auth=server.auth())
        await delivered(engine)

        assert 2 == len(server.requests)


@pytest.mark.alone
async def test_rate_limit_holds_for_those_who_waited_for_a_token(tmp_path: Path) -> None:
    """Requests that waited for the same token, and repetitions after a 401, keep the pace as all others do."""
    gate = Gate()

    async def held(asked: Received) -> Any:
        await gate(asked)
        return server.create_token_response(asked)

    async with TokenServer() as server, Receiver(server.guard) as endpoint, running(tmp_path) as engine:
        await engine.subscribe(endpoint.url, auth=server.auth(), rate_limit="8/s")
        with measured():  # a request that is held up, and the next one on time, would be too near
            for _ in range(4):  # it earns as many slots
                await delivered(engine)
            server.revoke()
            server.fault = held
            events = [await engine.publish("order.created", n) for n in range(6)]
            await gate.arrived()
            await in_flight(engine, 4)
            gate.open()
            for event in events:
                await engine.wait(event.id, PATIENCE)
        times = [request.at for request in endpoint.requests]

    assert len(times) > 10  # some came twice
    # 125 ms, but for how late a busy machine may tell of the first of two.
    assert min(later - earlier for earlier, later in pairwise(times)) >= 65


async def test_deletion_drops_the_token(tmp_path: Path) -> None:
    """What is deleted leaves no token."""
    async with TokenServer() as server, Receiver(server.guard) as endpoint, running(tmp_path) as engine:
        made = await engine.subscribe(endpoint.url, auth=server.auth())
        await delivered(engine)
        await engine.unsubscribe(made.id)

        assert [] == await kept(tmp_path, engine)
        assert {} == engine._running.dispatcher._sender._bearers._sources


async def test_renewal_that_ends_after_the_change_keeps_nothing(tmp_path: Path) -> None:
    """A token that comes for the credentials before a PATCH is used by who waits for it, and not stored."""
    release = asyncio.Event()
    arrived = asyncio.Event()

    async def late(request: Any) -> Reply:
        arrived.set()
        await release.wait()
        reply: Reply = server.create_token_response(request)
        return reply

    async with TokenServer() as server, Receiver(server.guard) as endpoint, running(tmp_path) as engine:
        server.fault = late
        made = await engine.subscribe(endpoint.url, auth=server.auth())
        event = await engine.publish("order.created", None)
        await asyncio.wait_for(arrived.wait(), 15)
        await engine.update_subscription(made.id, auth={"scopes": ["profile"]})
        release.set()
        [delivery] = await engine.wait(event.id, timeout=15)

        assert ("delivered", []) == (delivery.state, await kept(tmp_path, engine))


async def test_nothing_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No token, password or client secret is in an answer of the API, in a log line, or in the file."""
    caplog.set_level(logging.DEBUG)
    secrets = ("hush-access", "hush-refresh", CLIENT_SECRET, PASSWORD, json.dumps(PASSWORD)[1:-1])
    async with TokenServer() as server, Receiver(server.guard) as endpoint, serving(tmp_path) as api:
        told = []
        made = await api.subscribe(endpoint.url, auth=server.auth(grant="password", client_auth="bearer"), retry_schedule=[])
        for fault in (None, None, Reply(status=400, body=b'{"error":"invalid_grant","hush-refresh":"hush-access"}')):
            server.fault = fault
            event = await api.publish()
            await api.engine.wait(event["id"], timeout=15)
            server.revoke()
        path = f"/v1/subscriptions/{made['id']}"
        told.append(await api("PATCH", path, {"name": "x"}))
        told.append(await api("POST", f"{path}/test", {}))
        told += [await api("GET", each) for each in ("/v1/subscriptions", path, f"{path}/stats", "/v1/deliveries", "/metrics")]
        for delivery in (await api.engine.deliveries()).data:
            told.append(await api("GET", f"/v1/deliveries/{delivery.id}"))
        shown = json.dumps(made) + "".join(answer.body.decode() for answer in told)
        found = b"".join(files(tmp_path).values())

        assert [200] * len(told) == [answer.status for answer in told]
    assert "auth_failed" in shown
    logged = "".join(record.getMessage() for record in caplog.records if not record.name.startswith(("authlib", "aiohttp")))
    assert [] == [secret for secret in secrets if secret in shown + logged or secret.encode() in found]
    assert {"type", "grant", "token_url", "client_id", "username", "scopes", "client_auth", "fields"} == made["auth"].keys()


async def test_test_event_needs_a_token_too(tmp_path: Path) -> None:
    """A test event goes the way of a delivery, token and all; where none comes about the attempt says so."""
    async with TokenServer() as server, Receiver(server.guard) as endpoint, running(tmp_path) as engine:
        made = await engine.subscribe(endpoint.url, auth=server.auth())
        assert "accepted" == (await engine.test(made.id)).outcome
        await engine.update_subscription(made.id, auth={"client_secret": "other"})
        attempt = await engine.test(made.id)

        assert attempt.error is not None
        assert ("unreachable", "auth_failed") == (attempt.outcome, attempt.error.code)
        assert 1 == len(endpoint.requests)


async def test_settings_are_shown_as_they_were_given(tmp_path: Path) -> None:
    """What is shown, with the secrets, makes the same subscription again; the token's URL is vetted when it is saved."""
    async with TokenServer() as server, running(tmp_path) as engine:
        given = server.auth(
            grant="password",
            refresh_url=server.url + "/refresh",
            scopes=["a", "b"],
            client_auth="bearer",
            fields={"access_token": "jwt"},
            expires_in="90m",
        )
        shown = (await engine.subscribe(server.url, auth=given)).auth
        with pytest.raises(Invalid) as refused:
            await engine.subscribe(
                server.url, auth={**given, "token_url": "http://10.0.0.1/", "refresh_url": "ftp://x.example"}
            )

        fields = {"access_token": "jwt", "refresh_token": "refresh_token", "expires_in": "expires_in"}
        hidden = {"client_secret": given["client_secret"], "password": given["password"]}
        assert shown is not None
        assert {**given, "fields": fields} == shown | hidden
        assert ["/auth/token_url", "/auth/refresh_url"] == [each.pointer for each in refused.value.mistakes]


async def test_interrupted_by_a_stop(tmp_path: Path) -> None:
    """A delivery whose token is under way when the engine stops is delivered by the next one."""
    gate = Gate()
    async with TokenServer() as server, Receiver(server.guard) as endpoint:
        server.fault = gate
        async with running(tmp_path) as engine:
            await engine.subscribe(endpoint.url, auth=server.auth())
            event = await engine.publish("order.created", None)
            await gate.arrived()
        server.fault = None
        async with running(tmp_path) as engine:
            [delivery] = await engine.wait(event.id, timeout=15)
            found = await only(engine)

        assert ("delivered", 1) == (delivery.state, found.attempt_count)
