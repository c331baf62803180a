"""Event types over HTTP: the catalogue, and what strictness makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from api import Api, serving

from hookengine.clock import Clock
from hookengine.times import parse_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.asyncio(loop_scope="module")

URL = "http://127.0.0.1:8099/hook"  # nobody listens there


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """One server for all tests here that takes events of any type: each uses types of its own."""
    async with serving(tmp_path_factory.mktemp("event-types")) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def strict(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """One that takes those alone that are declared: `order.created` and `order.paid`."""
    async with serving(tmp_path_factory.mktemp("strict"), strict_event_types=True) as made:
        for type_ in ("order.created", "order.paid"):
            await declare(made, type_)
        yield made


async def declare(api: Api, type: str, **members: Any) -> Any:
    """An event type, as it was answered."""
    answer = await api("PUT", f"/v1/event-types/{type}", {"description": "An event", **members})
    assert answer.status in {200, 201}, answer.body
    return answer.json


# The catalogue.


async def test_least_event_type(api: Api) -> None:
    """A description is enough; the first PUT answers 201, and all else has its default."""
    before = Clock().now()
    answer = await api("PUT", "/v1/event-types/least.type", {"description": "Least"})
    made = answer.json

    assert 201 == answer.status
    expected = {"type": "least.type", "description": "Least", "example": None, "deprecated": False}
    assert expected | {"created_at": made["created_at"], "updated_at": made["created_at"]} == made
    assert before <= parse_time(made["created_at"]) <= Clock().now()
    assert made == (await api("GET", "/v1/event-types/least.type")).json
    assert made in (await api("GET", "/v1/event-types?limit=250")).json["data"]


async def test_put_replaces_the_whole(api: Api) -> None:
    """What a second PUT does not name has its default again; the same one again changes nothing."""
    first = await declare(api, "whole.type", example={"n": 1}, deprecated=True)
    answer = await api("PUT", "/v1/event-types/whole.type", {"description": "Other"})
    again = await api("PUT", "/v1/event-types/whole.type", {"description": "Other"})

    assert (200, "Other", None, False) == (
        answer.status,
        *(answer.json[name] for name in ("description", "example", "deprecated")),
    )
    assert first["created_at"] == answer.json["created_at"]
    assert answer.json == again.json


@pytest.mark.parametrize(
    "example",
    [
        pytest.param(b'{"a": 1.10, "b":1e400, "a":"\\u00e9" }', id="object"),
        pytest.param(b"[12345678901234567890123]", id="long number"),
        pytest.param(b'"text"', id="text"),
        pytest.param(b"false", id="false"),
    ],
)
async def test_example_is_the_producers(api: Api, example: bytes) -> None:
    """An example is kept byte for byte: its numbers, its blanks, its names that are there twice."""
    answer = await api("PUT", "/v1/event-types/example.type", b'{"description":"a","example":%b}' % example)

    assert b'"example":' + example + b"," in answer.body
    assert answer.body == (await api("GET", "/v1/event-types/example.type")).body


async def test_names_in_paths(api: Api) -> None:
    """Every mark that a type may have can be in a path, as it is or percent-encoded."""
    for path in ("a/b", "c:d", "e-f", "g.h"):
        quoted = path.replace("/", "%2F")
        assert path == (await declare(api, quoted))["type"]
        assert path == (await api("GET", f"/v1/event-types/{quoted.replace('.', '%2E').replace(':', '%3A')}")).json["type"]
        assert 204 == (await api("DELETE", f"/v1/event-types/{quoted}")).status


async def test_deleted_event_type(api: Api) -> None:
    """It is gone, twice is 404, and its events and subscriptions stay."""
    await declare(api, "gone.type")
    made = await api.subscribe(event_types=["gone.type"], tenant="gone")
    accepted = await api.publish("gone.type", tenant="gone")

    assert [204, 404] == [(await api("DELETE", "/v1/event-types/gone.type")).status for _ in range(2)]
    answer = await api("GET", "/v1/event-types/gone.type")
    assert (404, "event_type_not_found") == (answer.status, answer.json["code"])
    assert ["gone.type"] == (await api("GET", f"/v1/subscriptions/{made['id']}")).json["event_types"]
    assert "gone.type" == (await api("GET", f"/v1/events/{accepted['id']}?tenant=gone")).json["type"]
    assert 1 == (await api.publish("gone.type", tenant="gone"))["deliveries"]


async def test_pages(api: Api) -> None:
    """Pages lead to each other, newest first."""
    for number in range(3):
        await declare(api, f"page.n{number}")
    first = (await api("GET", "/v1/event-types?limit=2")).json
    second = (await api("GET", f"/v1/event-types?limit=1&cursor={first['next_cursor']}")).json

    assert ["page.n2", "page.n1", "page.n0"] == [each["type"] for each in first["data"] + second["data"]]
    wrong = await api("GET", "/v1/event-types?limit=0&tenant=x")
    assert (422, [("tenant", "unknown_parameter"), ("limit", "invalid_value")]) == (wrong.status, wrong.places)


@pytest.mark.parametrize(
    ("type_", "body", "expected"),
    [
        pytest.param("a", {}, [("/description", "missing_member")], id="nothing"),
        pytest.param("a", [], [("", "invalid_type")], id="array"),
        pytest.param("a", {"description": "a", "example": "x" * 65_536}, [("/example", "too_large")], id="large example"),
        pytest.param("a", {"description": "a", "exmaple": 1}, [("/exmaple", "unknown_member")], id="unknown member"),
        pytest.param("order.*", {"description": "a"}, [("type", "invalid_value")], id="pattern"),
        pytest.param("hookengine.x", {"description": "a"}, [("type", "reserved_type")], id="ours"),
        pytest.param(
            "a%00b", {"x": 1}, [("type", "invalid_value"), ("/x", "unknown_member"), ("/description", "missing_member")]
        ),
        pytest.param("%F0%9F%92%A9", {"description": "a"}, [("type", "invalid_value")], id="not of our letters"),
        pytest.param("%ff", {"description": "a"}, [("type", "invalid_value")], id="no UTF-8"),
        pytest.param("a" * 129, {"description": "a"}, [("type", "invalid_value")], id="long"),
    ],
)
async def test_mistakes(api: Api, type_: str, body: Any, expected: list[tuple[str, str]]) -> None:
    """Every mistake is named, in the path too, and nothing is stored."""
    before = api.rows("SELECT * FROM event_types")
    answer = await api("PUT", f"/v1/event-types/{type_}", body)

    assert (422, expected) == (answer.status, answer.places)
    assert before == api.rows("SELECT * FROM event_types")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        pytest.param(b"", 415, "unsupported_media_type", id="none"),
        pytest.param(b'{"description":"a","description":"b"}', 400, "duplicate_key", id="twice"),
        pytest.param(b'{"description":"a","example":{]}', 400, "invalid_json", id="broken"),
        pytest.param(b'{"description":"a","example":%b}' % (b"[" * 70 + b"]" * 70), 400, "json_too_deep", id="deep"),
    ],
)
async def test_bodies(api: Api, body: bytes, status: int, code: str) -> None:
    """An object of ours is read as strictly as everywhere."""
    answer = await api("PUT", "/v1/event-types/a", body, content_type=None if body == b"" else "application/json")

    assert (status, code) == (answer.status, answer.json["code"])


async def test_scopes(api: Api) -> None:
    """Whoever reads events reads the catalogue, also when bound to a tenant; the operator alone changes it."""
    made = await api.made("/v1/tokens", {"user": "event-types", "tenant": "acme"})
    await declare(api, "scoped.type")

    answers = [
        (await api(method, path, body, token=made["token"])).status
        for method, path, body in (
            ("GET", "/v1/event-types", None),
            ("GET", "/v1/event-types/scoped.type", None),
            ("PUT", "/v1/event-types/scoped.type", {"description": "mine"}),
            ("DELETE", "/v1/event-types/scoped.type", None),
        )
    ]

    assert [200, 200, 403, 403] == answers


# Strictness.


async def test_unlisted_type_is_refused(strict: Api) -> None:
    """An event of a type that is not declared is a mistake, with what was meant; nothing of its batch is stored."""
    await strict.publish("order.created")
    before = strict.counts()
    single = await strict("POST", "/v1/events", {"type": "order.craeted", "data": 1})
    batch = await strict(
        "POST",
        "/v1/events/batch",
        [{"type": type_, "data": 1} for type_ in ("order.paid", "invoice.paid", "a b", "order.paid")],
    )

    assert (422, [("/type", "unknown_event_type")]) == (single.status, single.places)
    assert "did you mean 'order.created'?" in single.json["errors"][0]["detail"]
    assert (422, [("/1/type", "unknown_event_type"), ("/2/type", "invalid_value")]) == (batch.status, batch.places)
    assert before == strict.counts()


async def test_declaring_takes_effect_at_once(strict: Api) -> None:
    """A type is taken from the answer that declares it to the one that deletes it, and without a look at the disk."""
    statuses = []
    for method, body in (("DELETE", None), ("PUT", {"description": ""}), ("DELETE", None)):
        await strict(method, "/v1/event-types/at.once", body)
        statuses.append((await strict("POST", "/v1/events", {"type": "at.once", "data": 1})).status)

    assert [422, 202, 422] == statuses


async def test_declared_types_outlast_a_restart(tmp_path: Path) -> None:
    """The catalogue is there again after a restart, before the first event."""
    async with serving(tmp_path, strict_event_types=True) as api:
        await declare(api, "order.created")
    async with serving(tmp_path, strict_event_types=True) as api:
        await api.publish("order.created")
        assert 422 == (await api("POST", "/v1/events", {"type": "other", "data": 1})).status


async def test_repetition_of_a_type_that_is_gone(strict: Api) -> None:
    """What was accepted once is answered so again, though its type is declared no more."""
    await declare(strict, "brief.type")
    body, key = {"type": "brief.type", "data": 1}, {"Idempotency-Key": "brief"}
    first = await strict("POST", "/v1/events", body, headers=key)
    await strict("DELETE", "/v1/event-types/brief.type")

    assert first.body == (await strict("POST", "/v1/events", body, headers=key)).body


async def test_subscription_to_an_unlisted_type(strict: Api) -> None:
    """An exact type that is not declared is a mistake; patterns are for types to come, and the engine's own are known."""
    wanted = ["order.paid", "invoice.*", "*", "hookengine.subscription.disabled", "order.payed", "x"]
    answer = await strict("POST", "/v1/subscriptions", {"url": URL, "event_types": wanted})

    assert (422, [(f"/event_types/{place}", "unknown_event_type") for place in (4, 5)]) == (answer.status, answer.places)
    assert wanted[:4] == (await strict.subscribe(event_types=wanted[:4]))["event_types"]
    assert ["*"] == (await strict.subscribe())["event_types"]


async def test_subscription_keeps_a_type_that_is_gone(strict: Api) -> None:
    """A type that was deleted does not keep a subscription to it from being changed; a new slip is one."""
    await declare(strict, "kept.type")
    made = await strict.subscribe(event_types=["kept.type"])
    await strict("DELETE", "/v1/event-types/kept.type")
    path = f"/v1/subscriptions/{made['id']}"

    assert 200 == (await strict("PATCH", path, {"name": "new"})).status
    assert 200 == (await strict("PATCH", path, {"event_types": ["kept.type", "order.paid"]})).status
    answer = await strict("PATCH", path, {"event_types": ["kept.type", "order.payd"]})
    assert (422, [("/event_types/1", "unknown_event_type")]) == (answer.status, answer.places)
