"""Test events over HTTP and in Python: what is sent, what is told, and that nothing stays."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson
import pytest
import pytest_asyncio
from api import Api, serving
from engines import Gate, running
from msgspec.structs import replace
from patience import PATIENCE

from hookengine import verify
from hookengine.clock import Clock
from hookengine.envelopes import TEST_DATA
from hookengine.errors import Malformed, Stopping
from hookengine.models import Secret, SigningSecret
from hookengine.receiver import Receiver, Reply
from hookengine.service.trials import MOST_OF_ONE, MOST_OF_TENANT, MOST_TESTS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """One server for all tests here: each uses subscriptions of its own."""
    async with serving(tmp_path_factory.mktemp("trials"), concurrency=4) as made:
        yield made


async def send(api: Api, subscription: Any, body: Any = None) -> Any:
    """The attempt that a test of *subscription* answers."""
    answer = await api("POST", f"/v1/subscriptions/{subscription['id']}/test", body)
    assert 200 == answer.status, answer.body
    return answer.json


async def tried(api: Api, subscription: Any, body: Any = None) -> Any:
    """The same, after which nothing of it is in the store."""

    def stored() -> Any:
        return api.counts(), api.rows("SELECT * FROM health"), api.rows("SELECT * FROM statistics")

    before = stored()
    attempt = await send(api, subscription, body)
    assert before == stored()
    return attempt


async def test_test_event(api: Api) -> None:
    """It is a signed request like any, says what it is in id, type and data, and the answer is the attempt."""
    async with Receiver(Reply(status=202, body=b"thanks")) as receiver:
        made = await api.subscribe(receiver.url, headers={"X-Key": "secret"})
        attempt = await tried(api, made)
    [request] = receiver.requests
    id_ = request.header("webhook-id")

    verify(request.body, dict(request.headers), made["secret"])
    assert id_ is not None
    assert (True, "1", "secret") == (id_.startswith("test_"), request.header("webhook-attempt"), request.header("x-key"))
    sent = orjson.loads(request.body)
    assert ("hookengine.test", orjson.loads(TEST_DATA), True) == (sent["type"], sent["data"], sent["data"]["test"])
    assert {"number": 1, "outcome": "accepted", "trigger": "test", "status_code": 202} == {
        name: attempt[name] for name in ("number", "outcome", "trigger", "status_code")
    }
    assert ("POST", receiver.url, request.body.decode()) == tuple(
        attempt["request"][name] for name in ("method", "url", "body")
    )
    assert ["X-Key", "***"] in attempt["request"]["headers"]
    assert ("thanks", False) == (attempt["response"]["body"], attempt["response"]["truncated"])
    assert 0 <= attempt["duration_ms"] <= PATIENCE * 1000
    assert "error" not in attempt


async def test_type_and_data_are_the_askers(api: Api) -> None:
    """A given type is sent, and given data byte for byte, whatever the subscription takes in."""
    async with Receiver() as receiver:
        made = await api.subscribe(receiver.url, event_types=["nothing"], profile="svix")
        await tried(api, made, b'{"type": "order.created", "data": { "n" : 1.10 }}')
        await tried(api, made, {"data": None})

    assert [b'{ "n" : 1.10 }', b"null"] == [request.body for request in receiver.requests]


async def test_data_is_the_example_of_the_type(api: Api) -> None:
    """A declared type's example is sent byte for byte; given data goes before it, and without one it is the word of a test."""
    await api("PUT", "/v1/event-types/trial.full", b'{"description": "a", "example": { "n" : 1.10 }}')
    await api("PUT", "/v1/event-types/trial.bare", {"description": "a"})
    async with Receiver() as receiver:
        made = await api.subscribe(receiver.url, profile="github")
        await tried(api, made, {"type": "trial.full"})
        await tried(api, made, {"type": "trial.full", "data": 1})
        await tried(api, made, {"type": "trial.bare"})
        await tried(api, made, {"type": "trial.none"})

    assert [b'{ "n" : 1.10 }', b"1", TEST_DATA, TEST_DATA] == [request.body for request in receiver.requests]
    assert ["trial.full", "trial.full", "trial.bare", "trial.none"] == [r.header("x-github-event") for r in receiver.requests]
    assert all((request.header("x-github-delivery") or "").startswith("test_") for request in receiver.requests)


@pytest.mark.parametrize(
    ("profile", "marks"),
    [
        ("clarife", {"type": "hookengine.test", "data": orjson.loads(TEST_DATA)}),
        ("clearfeed", {"type": "hookengine", "sub_type": "test", **orjson.loads(TEST_DATA)}),
        ("clevertap", {"is_test": True, "profiles": [orjson.loads(TEST_DATA)]}),
    ],
)
async def test_marked_in_the_words_of_the_profile(api: Api, profile: str, marks: dict[str, Any]) -> None:
    """The body says that it is a test, has an id that does where the profile sends one, and is shown as it was sent."""
    async with Receiver() as receiver:
        made = await api.subscribe(receiver.url, profile=profile)
        attempt = await tried(api, made)
    body = orjson.loads(receiver.requests[-1].body)

    assert marks == {name: body[name] for name in marks}
    assert "test_" == body.get("id", "test_")[:5]
    assert receiver.requests[-1].body.decode() == attempt["request"]["body"]


async def test_marked_whatever_the_example_says(api: Api) -> None:
    """The example of a type cannot make a test look like an event, not even in clearfeed, where data may bring an id."""
    example = {"id": "f86719a97f3c9e4b4d03c47b5a95b01d", "type": "request", "sub_type": "created", "request": {"id": 352}}
    await api("PUT", "/v1/event-types/request.created", {"description": "Request Created", "example": example})
    async with Receiver() as receiver:
        made = await api.subscribe(receiver.url, profile="clearfeed")
        await tried(api, made, {"type": "request.created"})
    body = orjson.loads(receiver.requests[-1].body)

    assert list(example) == list(body)
    assert ("test_", example | {"id": ""}) == (body["id"][:5], body | {"id": ""})


async def test_marked_where_there_is_no_body(api: Api) -> None:
    """With GET the mark stands in the query, whatever the key values say."""
    async with Receiver() as receiver:
        made = await api.subscribe(receiver.url, profile="clevertap", method="GET", key_values={"is_test": False, "k": "v"})
        await tried(api, made)

    assert "/?is_test=true&k=v" == receiver.requests[-1].path


@pytest.mark.parametrize("status", [500, 410, 301])
async def test_failure_moves_nothing(api: Api, status: int) -> None:
    """Whatever the endpoint says is told with 200, is not retried, and neither disables nor counts."""
    async with Receiver(status) as receiver:
        made = await api.subscribe(receiver.url, disable_after_failures=1)
        attempt = await tried(api, made)

    assert ("refused", status, "http_status") == (attempt["outcome"], attempt["status_code"], attempt["error"]["code"])
    shown = (await api("GET", f"/v1/subscriptions/{made['id']}")).json
    assert ("active", 0, 1) == (shown["state"], shown["consecutive_failures"], len(receiver.requests))


async def test_nobody_there(api: Api) -> None:
    """An endpoint that is out of reach is an answer too, also of a disabled subscription."""
    async with Receiver() as receiver:
        made = await api.subscribe(receiver.url, state="disabled")
    attempt = await tried(api, made)

    assert ("unreachable", "connect_refused") == (attempt["outcome"], attempt["error"]["code"])
    assert {"response", "status_code"}.isdisjoint(attempt)


async def test_it_takes_no_longer_than_an_attempt(api: Api) -> None:
    """A hanging endpoint is waited for as long as the subscription's timeout."""
    gate = Gate()
    async with Receiver(gate) as receiver:
        attempt = await tried(api, await api.subscribe(receiver.url, timeout="100ms"))
        gate.open()

    assert ("unreachable", "timeout_response") == (attempt["outcome"], attempt["error"]["code"])


@pytest.mark.parametrize(
    ("wrong", "places"),
    [
        ({"type": "a b"}, [("/type", "invalid_value")]),
        ({"tipe": "a"}, [("/tipe", "unknown_member")]),
        ([], [("", "invalid_type")]),
    ],
)
async def test_wrong_tests(api: Api, wrong: Any, places: list[tuple[str, str]]) -> None:
    """Every mistake is named, and nothing is sent."""
    async with Receiver() as receiver:
        made = await api.subscribe(receiver.url)
        answer = await api("POST", f"/v1/subscriptions/{made['id']}/test", wrong)

    assert (422, places, []) == (answer.status, answer.places, receiver.requests)


async def test_key_is_refused(api: Api) -> None:
    """A repetition would be sent again, so that a key has no place here."""
    answer = await api("POST", "/v1/subscriptions/x/test", {}, headers={"Idempotency-Key": "k"})

    assert (400, "idempotency_key_not_supported") == (answer.status, answer.json["code"])


async def test_number_at_once_is_bounded(api: Api) -> None:
    """Too many tests at once, of one subscription, one tenant and in all, are refused, and deliveries go on meanwhile."""
    gate = Gate()
    async with Receiver(gate) as hanging, Receiver() as healthy, asyncio.TaskGroup() as group:
        subscriptions = MOST_OF_TENANT // MOST_OF_ONE
        made = [await api.subscribe(hanging.url, tenant="hang") for _ in range(subscriptions + 1)]
        rest = [await api.subscribe(hanging.url, tenant="hang-too") for _ in range(subscriptions)]
        other = await api.subscribe(healthy.url, tenant="healthy")
        under_way = [group.create_task(send(api, made[0])) for _ in range(MOST_OF_ONE)]
        await gate.arrived(MOST_OF_ONE)
        one = await api("POST", f"/v1/subscriptions/{made[0]['id']}/test")
        under_way += [group.create_task(send(api, each)) for each in made[1:-1] for _ in range(MOST_OF_ONE)]
        await gate.arrived(MOST_OF_TENANT)
        whole = await api("POST", f"/v1/subscriptions/{made[-1]['id']}/test")
        assert "accepted" == (await send(api, other))["outcome"]
        under_way += [group.create_task(send(api, each)) for each in rest for _ in range(MOST_OF_ONE)]
        await gate.arrived(MOST_TESTS)
        many = await api("POST", f"/v1/subscriptions/{other['id']}/test")
        event = await api.publish(tenant="healthy")
        [delivery] = await api.engine.wait(event["id"], PATIENCE)
        gate.open(204)
        await asyncio.wait(under_way)
        freed = await send(api, other)

    for answer in (one, whole, many):
        assert (429, "too_many_tests", "5") == (answer.status, answer.json["code"], answer.headers["Retry-After"])
    assert ("delivered", "accepted") == (delivery.state, freed["outcome"])
    assert [204] * MOST_TESTS == [task.result()["status_code"] for task in under_way]


# In Python.


async def test_test_in_python(tmp_path: Path) -> None:
    """The same, with data as in `publish`."""
    before = datetime.fromtimestamp(Clock().now() / 1000, UTC)
    async with running(tmp_path) as engine, Receiver() as receiver:
        made = await engine.subscribe(receiver.url, profile="svix")
        for data in (b'{"a": 1.0}', {"a": [1]}, None):
            attempt = await engine.test(made.id, type="x.y", data=data)
            assert ("accepted", "test") == (attempt.outcome, attempt.trigger)
        assert before <= (await engine.test(made.id)).at
        with pytest.raises(Malformed):
            await engine.test(made.id, data=b"{")

    assert [b'{"a": 1.0}', b'{"a":[1]}', b"null", TEST_DATA] == [request.body for request in receiver.requests]


async def test_stop_ends_a_test(tmp_path: Path) -> None:
    """A test under way when the engine stops ends as interrupted; after that none begins."""
    gate = Gate()
    async with running(tmp_path) as engine, Receiver(gate) as receiver:
        made = await engine.subscribe(receiver.url)
        under_way = asyncio.create_task(engine.test(made.id))
        await gate.arrived()
        engine._service.refuse()
        with pytest.raises(Stopping):
            await engine.test(made.id)
        await engine.stop(drain=0)

        assert "interrupted" == (await under_way).outcome
        gate.open()


async def test_secret_that_holds_no_key(tmp_path: Path) -> None:
    """What keeps a request from being made is how the attempt ended."""
    async with running(tmp_path) as engine:
        made = await engine.subscribe("http://127.0.0.1:9999/")
        index = engine._running.store.memory.index
        subscription = index.by_id(made.id)
        assert subscription is not None
        index.put(replace(subscription, secrets=(SigningSecret(value=Secret("whsec_!")),)))
        attempt = await engine.test(made.id)

    assert ("interrupted", None) == (attempt.outcome, attempt.request)
    assert attempt.error is not None
    assert "internal_error" == attempt.error.code
