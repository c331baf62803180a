"""The test that saving a subscription takes, over HTTP and in Python: what is sent, what is told, and that nothing stays."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

import orjson
import pytest
import pytest_asyncio
from api import Answer, Api, serving
from authorization import JSON, TokenServer
from engines import LOOPBACK, Gate, engine, running
from msgspec.structs import replace
from patience import PATIENCE

from hookengine import verify
from hookengine.config import Config, Plan
from hookengine.engine import DATABASE, Engine
from hookengine.errors import EndpointVerificationFailed, Invalid, Stopping
from hookengine.receiver import Receiver, Reply
from hookengine.service.trials import MOST_OF_TENANT, MOST_TESTS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.asyncio(loop_scope="module")

# What CleverTap's documentation shows, with `targetId` and `key_values` of the subscription.
CLEVERTAP = {
    "is_test": True,
    "targetId": 1234,
    "key_values": {"key": "value"},
    "profiles": [{"Identity": "UserId", "Email": "[email protected]", "push_token": "Token"}] * 5,
}
ADDRESSED: dict[str, Any] = {"target_id": 1234, "key_values": {"key": "value"}}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """One server for all tests here: each uses endpoints of its own."""
    async with serving(tmp_path_factory.mktemp("verification")) as made:
        yield made


async def save(api: Api, url: str, profile: str = "clearfeed", key: str | None = None, **members: Any) -> Answer:
    """The answer to a subscription that is to be made."""
    headers = None if key is None else {"Idempotency-Key": key}
    return await api("POST", "/v1/subscriptions", {"url": url, "profile": profile, **members}, headers=headers)


async def change(api: Api, made: Any, version: int | None = None, **members: Any) -> Answer:
    """The answer to a subscription that is to be changed."""
    sent = None if version is None else {"If-Match": f'"{version}"'}
    return await api("PATCH", f"/v1/subscriptions/{made['id']}", members, headers=sent)


def stored(api: Api) -> Any:
    """All that a test could leave in the file."""
    tables = ("subscriptions", "health", "statistics", "events", "deliveries", "attempts", "idempotency_keys", "tenants")
    return [api.rows(f"SELECT * FROM {table}") for table in tables]


async def test_ping(api: Api) -> None:
    """ClearFeed's ping has a fresh id in hex and the retry count 0, and is unsigned while its tenant has no secret."""
    async with Receiver() as receiver:
        assert 201 == (await save(api, receiver.url, tenant="unsigned")).status
    [ping] = receiver.requests
    body = json.loads(ping.body)

    assert ["id", "type", "sub_type"] == list(body)
    assert ("ping", "test", "POST", "/") == (body["type"], body["sub_type"], ping.method, ping.path)
    assert re.fullmatch("[0-9a-f]{32}", body["id"])
    assert ("0", None) == (ping.header("x-cf-retry-count"), ping.header("x-cf-signature"))
    assert abs(int(ping.header("x-cf-timestamp") or 0) - ping.at // 1000) <= 1


async def test_ping_is_signed(api: Api) -> None:
    """Where the tenant has a secret, the ping is signed like every request."""
    async with Receiver() as receiver:
        secret = (await api("PUT", "/v1/tenants/signed/secret", {})).json["secret"]
        assert 201 == (await save(api, receiver.url, tenant="signed", headers={"X-Key": "k"})).status
    [ping] = receiver.requests

    verify(ping.body, dict(ping.headers), secret, profile="clearfeed", url=receiver.url)
    assert "k" == ping.header("x-key")


@pytest.mark.parametrize("method", [None, "POST", "PUT", "DELETE"])
async def test_clevertap(api: Api, method: str | None) -> None:
    """CleverTap's test says first that it is one, and is that of its documentation, with basic authentication if given."""
    auth = {"type": "basic", "username": "u", "password": "p"}
    async with Receiver() as receiver:
        answer = await save(api, receiver.url, "clevertap", method=method, auth=auth, **ADDRESSED)
    [sent] = receiver.requests

    assert (201, method or "POST") == (answer.status, sent.method)
    assert (list(CLEVERTAP), CLEVERTAP) == (list(json.loads(sent.body)), json.loads(sent.body))
    assert "Basic dTpw" == sent.header("authorization")


async def test_clevertap_get(api: Api) -> None:
    """With GET `is_test=true` is added to the query, and there is no body; deliveries do not have it."""
    async with Receiver() as receiver:
        made = await save(api, f"{receiver.url}?a=%7e", "clevertap", method="GET", tenant="get", key_values={"k": "v w"})
        event = await api.publish(tenant="get")
        await api.engine.wait(event["id"], PATIENCE)
    test, delivery = receiver.requests

    assert (201, "GET", "/?a=%7e&k=v%20w&is_test=true", b"") == (made.status, test.method, test.path, test.body)
    assert "/?a=%7e&k=v%20w" == delivery.path


@pytest.mark.parametrize("status", [201, 204, 202, 299, 301, 400, 410, 500])
@pytest.mark.parametrize("profile", ["clearfeed", "clevertap"])
async def test_only_200_saves(api: Api, profile: str, status: int) -> None:
    """Every other answer refuses the save, says what came back, is asked for once, and leaves nothing behind."""
    before = stored(api)
    async with Receiver(Reply(status=status, body=b"" if status == 204 else b"no")) as receiver:
        answer = await save(api, receiver.url, profile, key=f"{profile} {status}".replace(" ", "-"))
    [sent] = receiver.requests
    attempt = answer.json["attempt"]

    assert (422, "endpoint_verification_failed") == (answer.status, answer.json["code"])
    assert f"answers 200, and this one answered {status}" in answer.json["detail"]
    assert ("refused", status, "test", 1) == tuple(attempt[n] for n in ("outcome", "status_code", "trigger", "number"))
    assert ("POST", receiver.url, sent.body.decode()) == tuple(attempt["request"][n] for n in ("method", "url", "body"))
    assert ("" if status == 204 else "no") == attempt["response"]["body"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", attempt["at"])
    assert "id" not in attempt
    assert before == stored(api)


async def test_nobody_there(api: Api) -> None:
    """An endpoint that cannot be reached refuses the save with the reason; credentials are hidden in what is told."""
    async with Receiver() as receiver:
        pass
    answer = await save(api, receiver.url, headers={"X-Key": "confidential"})

    assert (422, "connect_refused") == (answer.status, answer.json["attempt"]["error"]["code"])
    assert "response" not in answer.json["attempt"]
    assert b"confidential" not in answer.body


async def test_with_oauth2(api: Api) -> None:
    """The test carries an access token of the subscription's token server."""
    async with TokenServer() as server, Receiver(lambda request: 200 if server.guard(request) == 204 else 401) as receiver:
        answer = await save(api, receiver.url, "clevertap", auth=server.auth(grant="password"))

    assert (201, 1, 1) == (answer.status, len(server.requests), len(receiver.requests))
    assert b"hush-" not in answer.body


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        pytest.param(
            Reply(status=400, headers=JSON, body=b'{"error":"invalid_grant","hint":"hush-answer"}'),
            {"status_code": 400, "fields": ["error", "hint"]},
            id="refused",
        ),
        pytest.param(Reply(status=302, headers=(("Location", "/x"),)), {"status_code": 302, "fields": []}, id="redirect"),
        pytest.param(
            Reply(status=200, headers=JSON, body=b'{"token":"hush-answer"}'),
            {"status_code": 200, "fields": ["token"]},
            id="other",
        ),
    ],
)
async def test_without_a_token(api: Api, reply: Reply, told: Any) -> None:
    """Where the token server gives none, the endpoint is not asked, and of the answer only the names are told."""
    async with TokenServer() as server, Receiver() as receiver:
        server.fault = reply
        answer = await save(api, receiver.url, "clevertap", auth=server.auth())

    assert (422, "endpoint_verification_failed") == (answer.status, answer.json["code"])
    assert ("unreachable", "auth_failed") == (answer.json["attempt"]["outcome"], answer.json["attempt"]["error"]["code"])
    assert (told, []) == (answer.json["token_answer"], receiver.requests)
    assert b"hush-" not in answer.body


async def test_no_token_answer_where_none_came(api: Api) -> None:
    """An endpoint that refuses has no token answer told, nor has a token server that is not there."""
    async with TokenServer() as gone:
        auth = gone.auth()
    async with Receiver(500) as receiver:
        refused = await save(api, receiver.url, "clevertap")
        unreachable = await save(api, receiver.url, "clevertap", auth=auth)

    assert (422, 422) == (refused.status, unreachable.status)
    assert [] == [each for each in (refused, unreachable) if "token_answer" in each.json]
    assert 1 == len(receiver.requests)


async def test_it_takes_no_longer_than_the_profile_lets_it(tmp_path: Path) -> None:
    """A hanging endpoint is waited for as long as the profile says, even where the subscription would wait longer."""
    gate = Gate()
    hasty = {"extends": "clearfeed", "timeout": "100ms"}
    async with Receiver(gate) as receiver, running(tmp_path, profiles={"hasty": hasty}) as made:
        with pytest.raises(EndpointVerificationFailed) as refused:
            await made.subscribe(receiver.url, profile="hasty", timeout="5m")
        gate.open()

    assert "timeout_response" == refused.value.attempt.error.code
    assert 100 <= refused.value.attempt.duration_ms < 5000


async def test_validation_comes_first(api: Api) -> None:
    """What is not valid is not tested."""
    async with Receiver() as receiver:
        answer = await save(api, receiver.url, tipes=1, secret="x")

    assert (422, "invalid", []) == (answer.status, answer.json["code"], receiver.requests)


@pytest.mark.parametrize("profile", ["clearfeed", "clarife", "clevertap", "standard"])
async def test_https_is_required(tmp_path: Path, profile: str) -> None:
    """Without `allow_http` a URL must begin with https, for every profile."""
    config = Config(security=replace(LOOPBACK, allow_http=False))
    async with Receiver() as receiver, Engine(tmp_path / DATABASE, config=config) as made:
        with pytest.raises(Invalid) as refused:
            await made.subscribe(receiver.url, profile=profile)

    [mistake] = refused.value.mistakes
    assert ("/url", "invalid_url", []) == (mistake.pointer, mistake.code, receiver.requests)
    assert "https" in mistake.detail


async def test_guards_are_those_of_a_delivery(api: Api) -> None:
    """The test goes no way that a delivery may not go: a redirect is an answer, whatever is behind it."""
    async with Receiver() as behind, Receiver(Reply(status=307, headers=(("Location", behind.url),))) as receiver:
        answer = await save(api, receiver.url)

    assert (422, "redirect_not_followed") == (answer.status, answer.json["attempt"]["error"]["code"])
    assert [] == behind.requests


async def test_other_profiles_are_not_tested(api: Api) -> None:
    """A profile without the rule saves what nobody answers for."""
    async with Receiver() as receiver:
        for profile in ("standard", "clarife", "github"):
            assert 201 == (await save(api, receiver.url, profile)).status

    assert [] == receiver.requests


async def test_rule_of_a_profile_of_ones_own(tmp_path: Path) -> None:
    """A profile of the configuration names another code; its test is a test event, signed, with a secret that is kept."""
    profiles = {"acme": {"extends": "standard", "verify_on_save": 204}, "lax": {"extends": "clearfeed", "verify_on_save": 0}}
    async with Receiver([200, 204]) as receiver, running(tmp_path, profiles=profiles) as made:
        with pytest.raises(EndpointVerificationFailed, match="answers 204, and this one answered 200"):
            await made.subscribe(receiver.url, profile="acme")
        subscription = await made.subscribe(receiver.url, profile="acme")
        await made.subscribe(receiver.url, profile="lax")
    _, sent = receiver.requests

    verify(sent.body, dict(sent.headers), str(subscription.secret))
    assert ("hookengine.test", True) == (
        orjson.loads(sent.body)["type"],
        (sent.header("webhook-id") or "").startswith("test_"),
    )


# Changes.


@pytest.mark.parametrize(
    "members",
    [
        {"url": "?other"},
        {"method": "PUT"},
        {"headers": {"X-Key": "k"}},
        {"auth": {"type": "basic", "username": "u", "password": "p"}},
    ],
    ids=lambda members: next(iter(members)),
)
async def test_what_is_tested_again(api: Api, members: dict[str, Any]) -> None:
    """A change of how the endpoint is reached needs a test of its own, without which all stays as it was."""
    async with Receiver([200, 204, 200]) as receiver:
        made = (await save(api, receiver.url, "clearfeed")).json
        if "url" in members:
            members = {"url": receiver.url + members["url"]}
        before = stored(api)
        refused = await change(api, made, **members)
        assert before == stored(api)
        changed = await change(api, made, **members)
        again = await change(api, made, **members)

    assert (422, 204) == (refused.status, refused.json["attempt"]["status_code"])
    assert (200, 200, 3) == (changed.status, again.status, len(receiver.requests))


async def test_what_is_not_tested_again(api: Api) -> None:
    """Other settings, and the same ones again, are saved without a test, as are enabling and disabling."""
    async with Receiver([200, 500]) as receiver:
        made = (await save(api, receiver.url, headers={"X-Key": "k"})).json
        same = {"url": receiver.url, "headers": {"X-Key": "***"}, "profile": "clearfeed"}
        for members in (same, {"name": "n"}, {"timeout": "1s"}, {"event_types": ["a"]}, {"state": "disabled"}):
            assert 200 == (await change(api, made, **members)).status
        assert 200 == (await api("POST", f"/v1/subscriptions/{made['id']}/enable")).status

    assert 1 == len(receiver.requests)


async def test_profile_that_demands_a_test(api: Api) -> None:
    """Moving to a profile with the rule needs the test, moving away does not."""
    async with Receiver([500, 200]) as receiver:
        made = (await save(api, receiver.url, "standard")).json
        answers = [await change(api, made, profile=profile) for profile in ("clearfeed", "clearfeed", "standard")]

    assert [422, 200, 200] == [answer.status for answer in answers]
    assert 2 == len(receiver.requests)


async def test_secret_of_the_test_is_the_one_that_is_kept(tmp_path: Path) -> None:
    """A move to a profile with a secret of its own and a test signs the test with the secret that it then has."""
    acme = {"extends": "standard", "verify_on_save": 200}
    async with Receiver() as receiver, running(tmp_path, profiles={"acme": acme}) as made:
        subscription = await made.subscribe(receiver.url, profile="clearfeed")
        await made.update_subscription(subscription.id, profile="acme")
        secret = (await made.secret(subscription.id)).secret
    _, sent = receiver.requests

    verify(sent.body, dict(sent.headers), str(secret))


async def test_version_is_checked_before_and_after(api: Api) -> None:
    """An If-Match that does not fit sends no test, and one that stops to fit meanwhile saves nothing."""
    gate = Gate()
    async with Receiver([200, gate]) as receiver, asyncio.TaskGroup() as group:
        made = (await save(api, receiver.url)).json
        stale = await change(api, made, 7, method="PUT")
        fits = group.create_task(change(api, made, 1, method="PUT"))
        await gate.arrived()
        assert 200 == (await change(api, made, name="n")).status
        gate.answer(200)
        late = await fits
        shown = (await api("GET", f"/v1/subscriptions/{made['id']}")).json

    assert (412, 412, 2, None) == (stale.status, late.status, len(receiver.requests), shown["method"])


async def test_change_meanwhile_is_tested_with_it(api: Api) -> None:
    """What somebody else changed during a test is not saved untested together with what was tested."""
    gate = Gate()
    async with Receiver(gate) as receiver, asyncio.TaskGroup() as group:
        making = group.create_task(save(api, receiver.url))
        await gate.arrived()
        gate.answer(200)
        made = (await making).json
        first = group.create_task(change(api, made, method="PUT"))
        await gate.arrived()
        second = group.create_task(change(api, made, headers={"X-Key": "k"}))
        await gate.arrived(2)
        gate.answer(200)
        assert 200 == (await first).status
        gate.answer(200)
        await receiver.wait(4)  # the second once more, now with the first one's method
        gate.open()
        shown = (await second).json

    assert [("POST", None), ("PUT", None), ("POST", "k"), ("PUT", "k")] == [
        (request.method, request.header("x-key")) for request in receiver.requests
    ]
    assert ("PUT", {"X-Key": "***"}) == (shown["method"], shown["headers"])


# Repetitions, limits, and the end.


async def test_repetition_is_not_tested(api: Api) -> None:
    """With an Idempotency-Key the endpoint is asked once, also by many at once, and other bytes are refused without asking."""
    gate = Gate()
    async with Receiver(gate) as receiver, asyncio.TaskGroup() as group:
        asking = [group.create_task(save(api, receiver.url, key="once")) for _ in range(5)]
        await gate.arrived()
        gate.open()
        answers = [await each for each in asking] + [await save(api, receiver.url, key="once")]
        other = await save(api, receiver.url, key="once", name="other")

    assert [201] * 6 == [answer.status for answer in answers]
    assert 1 == len({answer.json["id"] for answer in answers})
    assert (422, "idempotency_mismatch", 1) == (other.status, other.json["code"], len(receiver.requests))
    assert {} == api.engine._service._keys_in_use


async def test_failure_is_not_kept_for_repetitions(api: Api) -> None:
    """After a test that failed, the same request with the same key is a new try."""
    async with Receiver([500, 200]) as receiver:
        answers = [await save(api, receiver.url, key="again") for _ in range(3)]

    assert [422, 201, 201] == [answer.status for answer in answers]
    assert 2 == len(receiver.requests)


async def test_plan_is_checked_before_and_after(tmp_path: Path) -> None:
    """A full plan sends no test; of two at once for the last place both are tested, and one is saved."""
    gate = Gate()
    async with serving(tmp_path, plans={"one": Plan(max_subscriptions=1)}) as api, Receiver(gate) as receiver:
        await api("PUT", "/v1/tenants/acme", {"plan": "one"})
        async with asyncio.TaskGroup() as group:
            both = [group.create_task(save(api, receiver.url, tenant="acme")) for _ in range(2)]
            await gate.arrived(2)
            gate.open()
        third = await save(api, receiver.url, tenant="acme")

    assert [201, 409] == sorted(each.result().status for each in both)
    assert (409, "subscription_limit_reached", 2) == (third.status, third.json["code"], len(receiver.requests))


async def test_number_at_once_is_bounded(api: Api) -> None:
    """Too many tests at once, of one URL, one tenant and in all, are refused, and those under way are not disturbed."""
    gate = Gate()
    async with Receiver(gate) as receiver, asyncio.TaskGroup() as group:
        half, under_way = MOST_OF_TENANT // 2, []
        for place, (tenant, query) in enumerate([("a", "?1"), ("a", "?2"), ("b", "?1"), ("b", "?2")]):
            url = receiver.url + query
            under_way += [group.create_task(save(api, url, tenant=tenant)) for _ in range(half)]
            await gate.arrived((place + 1) * half)
            if place == 0:
                one = await save(api, url, tenant=tenant)
            elif place == 1:
                whole = await save(api, receiver.url + "?3", tenant=tenant)
        many = await save(api, receiver.url + "?3")
        gate.open()

    for answer in (one, whole, many):
        assert (429, "too_many_tests", "5") == (answer.status, answer.json["code"], answer.headers["Retry-After"])
    assert [201] * MOST_TESTS == [task.result().status for task in under_way]


async def test_stop_ends_a_test(tmp_path: Path) -> None:
    """A test that the engine's stop cuts saves nothing and is no failure of the endpoint; after that none begins."""
    gate = Gate()
    made = engine(tmp_path)
    await made.start()
    async with Receiver(gate) as receiver:
        under_way = asyncio.create_task(made.subscribe(receiver.url, profile="clearfeed"))
        await gate.arrived()
        made._service.refuse()
        with pytest.raises(Stopping):
            await made.subscribe(receiver.url, profile="clearfeed")
        await made.stop(drain=0)
        with pytest.raises(Stopping):
            await under_way
        gate.open()

    assert 1 == len(receiver.requests)


async def test_stop_answers_who_waits_for_a_test(tmp_path: Path) -> None:
    """Over HTTP too: the save is refused like any change at a stop, and a test event shows that it was cut."""
    gate = Gate()
    async with serving(tmp_path) as api, Receiver(gate) as receiver:
        made = await api.subscribe(receiver.url)
        saved = asyncio.create_task(save(api, receiver.url))
        tested = asyncio.create_task(api("POST", f"/v1/subscriptions/{made['id']}/test"))
        await gate.arrived(2)
        await api.engine.stop(drain=0)
        refused, shown = await saved, await tested
        gate.open()

    assert (503, "stopping", "5") == (refused.status, refused.json["code"], refused.headers["Retry-After"])
    assert (200, "interrupted") == (shown.status, shown.json["outcome"])


async def test_subscription_is_as_old_as_its_save(tmp_path: Path) -> None:
    """What is published while the endpoint is tested came before the subscription, and is explained so."""
    gate = Gate()
    async with Receiver(gate) as receiver, running(tmp_path) as made:
        under_way = asyncio.create_task(made.subscribe(receiver.url, profile="clearfeed"))
        await gate.arrived()
        event = await made.publish("order.created", {})
        gate.open()
        await under_way
        [explained] = (await made.explain(event.id)).subscriptions

    assert "It was made after the event." == explained.reason


async def test_python(tmp_path: Path) -> None:
    """In Python the error carries the attempt."""
    async with running(tmp_path) as made, Receiver(204) as receiver:
        with pytest.raises(EndpointVerificationFailed) as refused:
            await made.subscribe(receiver.url, profile="clearfeed")
        assert 204 == refused.value.attempt.status_code
        assert [] == (await made.subscriptions()).data
