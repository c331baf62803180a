"""Publishing and reading events over HTTP: what is refused and how, and that `data` arrives byte for byte."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson
import pytest
import pytest_asyncio
from api import Answer, Api, request, serving
from engines import blocked_writer, limit_pages
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from patience import PATIENCE

from hookengine.clock import Clock
from hookengine.receiver import Receiver
from hookengine.times import format_time, parse_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

pytestmark = pytest.mark.asyncio(loop_scope="module")

DAY = 86_400_000
NDJSON = "application/x-ndjson"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """One server for all tests here: each that stores something uses a tenant of its own."""
    async with serving(tmp_path_factory.mktemp("events")) as made:
        yield made


def event(**members: Any) -> dict[str, Any]:
    """An event as it is sent."""
    return {"type": "order.created", "data": {"n": 1}} | members


def later(ms: int) -> str:
    """The time that is *ms* ahead."""
    return format_time(Clock().now() + ms)


async def refused(api: Api, path: str, body: Any, **more: Any) -> Answer:
    """The answer to what must not be accepted, after which nothing is left in the store."""
    before = api.counts()
    answer = await api("POST", path, body, **more)
    assert 400 <= answer.status <= 499, answer.body
    assert before == api.counts()
    return answer


# Accepting.


@pytest.mark.row("I01")
async def test_accepted_event(api: Api) -> None:
    """A valid event is told with what became of it, and can be read at once."""
    before = Clock().now()
    subscription = await api.subscribe(tenant="i01")

    answer = await api("POST", "/v1/events", event(tenant="i01"))

    assert (202, "application/json") == (answer.status, answer.headers["Content-Type"])
    assert ["id", "type", "tenant", "accepted_at", "deliveries"] == list(answer.json)
    assert ("order.created", "i01", 1) == tuple(answer.json[name] for name in ("type", "tenant", "deliveries"))
    assert before <= parse_time(answer.json["accepted_at"]) <= Clock().now()
    shown = (await api("GET", f"/v1/events/{answer.json['id']}")).json
    assert [subscription["id"]] == [delivery["subscription"] for delivery in shown["deliveries"]]
    assert {"id", "subscription", "state"} == shown["deliveries"][0].keys()
    assert ({"n": 1}, shown["accepted_at"]) == (shown["data"], shown["occurred_at"])


async def test_every_member(api: Api) -> None:
    """All members of an event are taken together."""
    first, second = [(await api.subscribe(tenant="all", event_types=["x"]))["id"] for _ in range(2)]
    members = {
        "tenant": "all",
        "id": "my-id_1",
        "occurred_at": "2026-11-22T02:10:00.5+02:00",
        "priority": "high",
        "ordering_key": "customer 1",
        "deliver_at": later(60_000),
        "expires_at": later(120_000),
        "subscriptions": [first],
    }

    accepted = await api.made("/v1/events", event(**members))
    shown = (await api("GET", "/v1/events/my-id_1?tenant=all")).json

    assert ("my-id_1", 1) == (accepted["id"], accepted["deliveries"])
    assert ("2026-11-22T00:10:00.500Z", "customer 1") == (shown["occurred_at"], shown["ordering_key"])
    assert [first] == [delivery["subscription"] for delivery in shown["deliveries"]]
    assert second != first
    [delivery] = (await api("GET", "/v1/deliveries?event=my-id_1&tenant=all")).json["data"]
    assert members["deliver_at"] == delivery["next_attempt_at"]
    assert "pending" == delivery["state"]


async def test_no_match(api: Api) -> None:
    """An event that nobody wants is stored and shown like any."""
    accepted = await api.publish(tenant="nobody")

    assert 0 == accepted["deliveries"]
    assert [] == (await api("GET", f"/v1/events/{accepted['id']}")).json["deliveries"]


@pytest.mark.parametrize("data", [None, True, 0, -1.5, "text", "", [], {}, [1, [2]], {"data": {"data": 1}}])
async def test_data_of_every_kind(api: Api, data: Any) -> None:
    """`data` may be any JSON value, null too."""
    accepted = await api.publish(data=data, tenant="kinds")

    assert data == (await api("GET", f"/v1/events/{accepted['id']}")).json["data"]


# Refusing.


@pytest.mark.parametrize(
    ("body", "code"),
    [
        pytest.param(b'{"a":', "invalid_json", id="I03"),
        pytest.param(b'{"type":"a","data":1,}', "invalid_json", id="I04-comma"),
        pytest.param(b'{"type":"a","data":1} // x', "invalid_json", id="I04-comment"),
        pytest.param(b"{'type':'a','data':1}", "invalid_json", id="I04-quotes"),
        pytest.param(b'{"type":"a","data":1}{}', "invalid_json", id="I04-two"),
        pytest.param(b'{"type":"a","data":NaN}', "invalid_json", id="I05-NaN"),
        pytest.param(b'{"type":"a","data":-Infinity}', "invalid_json", id="I05-Infinity"),
        pytest.param(b'{"type":"a","data":"\\ud800"}', "invalid_json", id="I13-data"),
        pytest.param(b'{"type":"\\ud800","data":1}', "invalid_json", id="I13-type"),
        pytest.param(b'{"type":"a","data":"\xff"}', "invalid_encoding", id="I14-invalid"),
        pytest.param(b'{"type":"a","data":"\xc0\xaf"}', "invalid_encoding", id="I14-overlong"),
        pytest.param('{"type":"a","data":1}'.encode("utf-16"), "invalid_encoding", id="I14-UTF-16"),
        pytest.param(b'\xef\xbb\xbf{"type":"a","data":1}', "invalid_encoding", id="I14-BOM"),
        pytest.param(b'{"type":"a","data":"\x00"}', "invalid_json", id="I16-NUL"),
        pytest.param(b'{"type":"a","data":"\n"}', "invalid_json", id="I16-newline"),
        pytest.param(b'{"type":"a","data":' + b"[" * 65 + b"]" * 65 + b"}", "json_too_deep", id="I17"),
        pytest.param(b'{"type":"a","data":' + b"[" * 1024 + b"]" * 1024 + b"}", "json_too_deep", id="I18"),
        pytest.param(b"[" * 100_000, "json_too_deep", id="I18-open"),
        pytest.param(b'{"type":"a","type":"b","data":1}', "duplicate_key", id="duplicate"),
        pytest.param(b'{"data":1,"type":"a","data":2}', "duplicate_key", id="data twice"),
        pytest.param(b'{"type":"a","data":1,"ty\\u0070e":"b"}', "duplicate_key", id="duplicate, escaped"),
    ],
)
@pytest.mark.parametrize("form", ["single", "batch", "lines"])
async def test_malformed(api: Api, form: str, body: bytes, code: str) -> None:
    """What cannot be parsed is 400 with the reason, alone or among others."""
    path = "/v1/events" if form == "single" else "/v1/events/batch"
    around = {"single": b"%b", "batch": b'[{"type":"a","data":1},%b]', "lines": b'{"type":"a","data":1}\n%b'}[form]
    sent = body if body.startswith((b"\xef", b"\xff\xfe")) else around % body

    answer = await refused(api, path, sent, content_type=NDJSON if form == "lines" else "application/json")

    if form == "lines" and b"\n" in body:
        code = "invalid_json"
    assert (400, code) == (answer.status, answer.json["code"])
    assert len(answer.json["detail"]) < 200


@pytest.mark.parametrize("body", [b"", b" ", b"\n"])
@pytest.mark.parametrize("path", ["/v1/events", "/v1/events/batch", "/v1/subscriptions"])
@pytest.mark.row("I02")
async def test_empty_body(api: Api, path: str, body: bytes) -> None:
    """Nothing is no JSON."""
    answer = await refused(api, path, body)

    assert (400, "invalid_json") == (answer.status, answer.json["code"])


@pytest.mark.row("I03")
async def test_place_of_a_syntax_error(api: Api) -> None:
    """Line and column tell where to look."""
    answer = await refused(api, "/v1/events", b'{"type": "a",\n  "data": tru}')

    assert "line 2, column " in answer.json["detail"]


@pytest.mark.parametrize("body", [b'"text"', b"1", b"null", b"true", b"[]", b'[{"type":"a","data":1}]'])
@pytest.mark.row("I20")
async def test_event_must_be_an_object(api: Api, body: bytes) -> None:
    """Any other JSON value is not valid."""
    answer = await refused(api, "/v1/events", body)

    assert (422, [("", "invalid_type")]) == (answer.status, answer.places)


LONG_TYPE = "a" * 129
WRONG = [
    pytest.param({"type": 5}, [("/type", "invalid_type")], id="I34-type"),
    pytest.param({"type": None}, [("/type", "invalid_type")], id="I34-null"),
    pytest.param({"tenant": 1}, [("/tenant", "invalid_type")], id="I34-tenant"),
    pytest.param({"occurred_at": True}, [("/occurred_at", "invalid_type")], id="I34-true"),
    pytest.param({"subscriptions": "sub_1"}, [("/subscriptions", "invalid_type")], id="I34-text for a list"),
    pytest.param({"subscriptions": [1]}, [("/subscriptions/0", "invalid_type")], id="I34-in a list"),
    pytest.param({"extra": 1}, [("/extra", "unknown_member")], id="I35"),
    pytest.param({"a/b~c": 1}, [("/a~1b~0c", "unknown_member")], id="I35-RFC 6901"),
    *(
        pytest.param({"type": wrong}, [("/type", "invalid_value")], id=f"I37-{name}")
        for name, wrong in {
            "CRLF": "a\r\nX: 1",
            "newline": "order\n",
            "path": "../x",
            "long": LONG_TYPE,
            "emoji": "\N{PILE OF POO}",
            "star": "*",
            "pattern": "order.*",
            "leading dot": ".order",
            "trailing dot": "order.",
            "two dots": "a..b",
            "empty": "",
            "space": "a b",
            "other digits": "a\N{ARABIC-INDIC DIGIT ONE}",
            "NUL": "a\0b",
        }.items()
    ),
    *(
        pytest.param({"id": wrong}, [("/id", "invalid_value")], id=f"I38-{name}")
        for name, wrong in {
            "path": "../../etc",
            "escaped": "%2e%2e%2f",
            "NUL": "a\0",
            "CRLF": "a\r\nb",
            "long": "a" * 65,
            "10 KB": "a" * 10_240,
            "empty": "",
            "dot": "a.b",
        }.items()
    ),
    pytest.param({"tenant": "a\0b"}, [("/tenant", "invalid_value")], id="I15-tenant"),
    pytest.param({"ordering_key": "a\0b"}, [("/ordering_key", "invalid_value")], id="I15-key"),
    pytest.param({"ordering_key": ""}, [("/ordering_key", "invalid_value")], id="empty key"),
    *(
        pytest.param({name: wrong}, [(f"/{name}", "invalid_value")], id=f"I76-{name}-{wrong}")
        for name in ("occurred_at", "deliver_at", "expires_at")
        for wrong in (
            "9999-12-31T23:59:59Z",
            "-1",
            "NaN",
            "0000-01-01T00:00:00Z",
            "2026-12-31T23:59:60Z",
            "2026-12-31T23:59:59",
            "2026-02-30T00:00:00Z",
            "1969-12-31T23:59:59Z",
        )
    ),
    pytest.param({"deliver_at": 1_700_000_000}, [("/deliver_at", "invalid_type")], id="I76-number"),
    pytest.param({"deliver_at": "2126-01-01T00:00:00Z"}, [("/deliver_at", "too_late")], id="I77-100 years"),
    pytest.param({"priority": 2**63}, [("/priority", "invalid_type")], id="I78-2^63"),
    pytest.param({"priority": -1}, [("/priority", "invalid_type")], id="I78-negative"),
    pytest.param({"priority": 1.5}, [("/priority", "invalid_type")], id="I78-fraction"),
    pytest.param({"priority": True}, [("/priority", "invalid_type")], id="I78-true"),
    pytest.param({"priority": "urgent"}, [("/priority", "invalid_value")], id="I78-unknown"),
    pytest.param({"type": "hookengine.x"}, [("/type", "reserved_type")], id="our types"),
    pytest.param({"type": "hookengine"}, [("/type", "reserved_type")], id="our first word"),
    pytest.param({"tenant": "hookengine"}, [("/tenant", "reserved_tenant")], id="our tenant"),
    pytest.param({"subscriptions": ["sub_none"]}, [("/subscriptions/0", "unknown_subscription")], id="unknown subscription"),
    pytest.param(
        {"deliver_at": "2020-01-02T00:00:00Z", "expires_at": "2020-01-01T00:00:00Z"},
        [("/expires_at", "invalid_value")],
        id="expires before it is delivered",
    ),
    pytest.param(
        {"type": "a b", "tenant": 1, "typ": 2, "deliver_at": "soon", "subscriptions": ["no"], "priority": "High"},
        [
            ("/type", "invalid_value"),
            ("/tenant", "invalid_type"),
            ("/typ", "unknown_member"),
            ("/deliver_at", "invalid_value"),
            ("/priority", "invalid_value"),
            ("/subscriptions/0", "unknown_subscription"),
        ],
        id="all at once",
    ),
]


@pytest.mark.parametrize(("members", "places"), WRONG)
async def test_invalid(api: Api, members: dict[str, Any], places: list[tuple[str, str]]) -> None:
    """Every mistake is named with its place; in a batch and in lines the place begins with the index."""
    single = await refused(api, "/v1/events", event(**members))
    batch = await refused(api, "/v1/events/batch", [event(), event(**members)])
    lines = orjson.dumps(event()) + b"\n" + orjson.dumps(event(**members)) + b"\n"
    ndjson = await refused(api, "/v1/events/batch", lines, content_type=NDJSON)

    assert (422, sorted(places)) == (single.status, sorted(single.places))
    below = sorted((f"/1{pointer}", code) for pointer, code in places)
    assert (422, below) == (batch.status, sorted(batch.places))
    assert (422, below) == (ndjson.status, sorted(ndjson.places))


@pytest.mark.row("I36")
async def test_missing_members(api: Api) -> None:
    """A missing member's place is where it would be."""
    answer = await refused(api, "/v1/events", {})

    assert [("/type", "missing_member"), ("/data", "missing_member")] == answer.places


@pytest.mark.parametrize(
    "name", ["type", "id", "tenant", "priority", "ordering_key", "deliver_at", "unknown", "subscriptions"]
)
async def test_input_is_not_repeated(api: Api, name: str) -> None:
    """However long a wrong value or name is, at most 100 characters of it come back."""
    long = "<" + "x" * 5000

    wrong_value = await refused(api, "/v1/events", event(**{name: [long] if name == "subscriptions" else long}))
    wrong_name = await refused(api, "/v1/events", event(**{long: 1}))

    assert b"x" * 100 not in wrong_value.body
    assert b"x" * 100 not in wrong_name.body


async def test_reserved_is_a_word(api: Api) -> None:
    """Only the word itself is ours, not what merely begins like it."""
    assert "hookengines.x" == (await api.publish("hookengines.x", tenant="hookengine2"))["type"]


async def test_subscriptions_of_another_tenant(api: Api) -> None:
    """Another tenant's subscription is as unknown as one that is not there, and so is a deleted one."""
    own, other, gone = [(await api.subscribe(tenant=tenant))["id"] for tenant in ("own", "other", "own")]
    await api("DELETE", f"/v1/subscriptions/{gone}")

    answer = await refused(api, "/v1/events", event(tenant="own", subscriptions=[own, other, gone]))

    assert [("/subscriptions/1", "unknown_subscription"), ("/subscriptions/2", "unknown_subscription")] == answer.places
    assert 1 == (await api.publish("any.type", tenant="own", subscriptions=[own, own]))["deliveries"]
    assert 0 == (await api.publish("any.type", tenant="own", subscriptions=[]))["deliveries"]


@pytest.mark.parametrize(
    ("ahead", "status"),
    [
        pytest.param(-DAY, 202, id="past"),
        pytest.param(365 * DAY - 60_000, 202, id="I77-a year"),
        pytest.param(365 * DAY + 60_000, 422, id="I77-more"),
    ],
)
async def test_deliver_at(api: Api, ahead: int, status: int) -> None:
    """A time that has passed means now; later than in a year is a mistake."""
    answer = await api("POST", "/v1/events", event(deliver_at=later(ahead), tenant="later"))

    assert status == answer.status


async def test_expired_event(api: Api) -> None:
    """An event whose time is over is accepted, and fails without an attempt."""
    await api.subscribe(tenant="expired")
    accepted = await api.publish(tenant="expired", expires_at=later(-1000))

    await api.engine.wait(accepted["id"], PATIENCE)

    [found] = (await api("GET", f"/v1/deliveries?event={accepted['id']}")).json["data"]
    delivery = (await api("GET", f"/v1/deliveries/{found['id']}")).json
    assert ("failed", "expired", []) == (delivery["state"], delivery["failed_label"], delivery["attempts"])


# Batches.


async def test_batch(api: Api) -> None:
    """The events of a batch are told in its order."""
    await api.subscribe(tenant="batch", event_types=["b"])

    answer = await api("POST", "/v1/events/batch", [event(tenant="batch", type=type_) for type_ in "abc"])

    assert (202, ["events"], [0, 1, 0]) == (
        answer.status,
        list(answer.json),
        [each["deliveries"] for each in answer.json["events"]],
    )
    assert [["id", "deliveries"]] * 3 == [list(each) for each in answer.json["events"]]
    assert list("cba") == [each["type"] for each in (await api("GET", "/v1/events?tenant=batch")).json["data"]]


@pytest.mark.parametrize(
    ("text", "count"),
    [
        pytest.param(b"%b\n%b\n", 2, id="last newline"),
        pytest.param(b"%b\n%b", 2, id="no last newline"),
        pytest.param(b"%b\r\n%b\r\n", 2, id="CRLF"),
        pytest.param(b"%b\n%b\n\n \n", 2, id="blank lines at the end"),
        pytest.param(b" %b \n\t%b", 2, id="blanks around"),
    ],
)
async def test_lines(api: Api, text: bytes, count: int) -> None:
    """A batch may come as lines."""
    one = orjson.dumps(event(tenant="lines"))

    accepted = await api.made("/v1/events/batch", text % (one, one), content_type=NDJSON)

    assert count == len(accepted["events"])


async def test_size_of_a_batch(api: Api) -> None:
    """1,000 events are taken, 1,001 are not, in either form."""
    one = orjson.dumps(event(tenant="thousand"))

    for most, more, content_type in (
        (b"[%b]" % b",".join([one] * 1000), b"[%b]" % b",".join([one] * 1001), "application/json"),
        (b"\n".join([one] * 1000), b"\n".join([one] * 1001), NDJSON),
    ):
        answer = await refused(api, "/v1/events/batch", more, content_type=content_type)
        assert (422, [("", "too_many_elements")]) == (answer.status, answer.places)
        assert 1000 == len((await api.made("/v1/events/batch", most, content_type=content_type))["events"])


@pytest.mark.parametrize("body", [b"{}", b"1", b'"x"', b"null"])
async def test_batch_must_be_an_array(api: Api, body: bytes) -> None:
    """Any other JSON value is not valid."""
    answer = await refused(api, "/v1/events/batch", body)

    assert (422, [("", "invalid_type")]) == (answer.status, answer.places)


async def test_empty_batch(api: Api) -> None:
    """No events are no mistake."""
    assert {"events": []} == await api.made("/v1/events/batch", [])
    assert {"events": []} == await api.made("/v1/events/batch", b"", content_type=NDJSON)


@pytest.mark.parametrize("element", [1, None, "x", [], [event()]])
async def test_elements_must_be_objects(api: Api, element: Any) -> None:
    """An element that is no object is named by its index."""
    answer = await refused(api, "/v1/events/batch", [event(), element])

    assert [("/1", "invalid_type")] == answer.places


async def test_all_mistakes_of_a_batch(api: Api) -> None:
    """Every mistake of every element is in one answer."""
    answer = await refused(api, "/v1/events/batch", [{"type": "a"}, event(), {"data": 1, "x": 2}])

    assert [("/0/data", "missing_member"), ("/2/x", "unknown_member"), ("/2/type", "missing_member")] == answer.places


async def test_subscriptions_that_are_no_ids_hide_none_that_are_unknown(api: Api) -> None:
    """Of an array in which something is wrong the rest is looked at too."""
    answer = await refused(api, "/v1/events", event(subscriptions=["sub_nope", 3, "sub_none"]))

    assert [
        ("/subscriptions/1", "invalid_type"),
        ("/subscriptions/0", "unknown_subscription"),
        ("/subscriptions/2", "unknown_subscription"),
    ] == answer.places


async def test_batch_is_all_or_nothing(api: Api) -> None:
    """An event id that is taken with other content keeps the whole batch out."""
    await api.publish(tenant="whole", id="taken")

    answer = await refused(api, "/v1/events/batch", [event(tenant="whole"), event(tenant="whole", id="taken", data=2)])

    assert (409, "event_exists") == (answer.status, answer.json["code"])


async def test_storm(tmp_path: Path) -> None:
    """What cannot be stored fast enough is refused with a time to come back, and all that was accepted is there."""
    async with serving(tmp_path) as api:
        thousand = [event()] * 1000
        async with asyncio.TaskGroup() as group, blocked_writer(api.engine):
            before = [group.create_task(api("POST", "/v1/events/batch", thousand)) for _ in range(20)]
            while api.engine._running.store.writer._commits.publications.count < 20_000:
                await api("GET", "/livez")
            late = await api("POST", "/v1/events", event())
            assert [] == [task for task in before if task.done()]
        assert (429, "overloaded", "1") == (late.status, late.json["code"], late.headers["Retry-After"])
        assert [202] * 20 == [task.result().status for task in before]
        assert 20_000 == api.counts()["events"]


@pytest.mark.row("I86")
async def test_full_disk(tmp_path: Path) -> None:
    """Without space on the disk an event is not accepted, and later it is."""
    async with serving(tmp_path) as api:
        await limit_pages(api.engine, 0)
        answer = await api("POST", "/v1/events", event(data="x" * 100_000))
        await limit_pages(api.engine, None)

        assert (503, "storage_unavailable") == (answer.status, answer.json["code"])
        assert "Retry-After" in answer.headers
        assert 0 == api.counts()["events"]
        assert 202 == (await api("POST", "/v1/events", event())).status


# Event ids and idempotency keys.


async def test_same_id_again(api: Api) -> None:
    """The same event with its id again is the first one, other content is a conflict, another tenant is another event."""
    first = await api.publish(tenant="ids", id="e-1", data={"n": 1})
    again = await api.publish(tenant="ids", id="e-1", data={"n": 1})
    elsewhere = await api.publish(tenant="ids2", id="e-1", data={"n": 2})
    conflicts = [
        await refused(api, "/v1/events", event(**({"tenant": "ids", "id": "e-1"} | members)))
        for members in ({"type": "x"}, {"data": {"n": 2}}, {"priority": "low"}, {"ordering_key": "k"})
    ]

    assert first == again
    assert elsewhere["tenant"] == "ids2"
    assert {(409, "event_exists")} == {(answer.status, answer.json["code"]) for answer in conflicts}


async def test_same_id_in_one_batch(api: Api) -> None:
    """Within a batch the rule is the same."""
    twice = await api.made("/v1/events/batch", [event(tenant="twice", id="x")] * 2)
    other = await refused(api, "/v1/events/batch", [event(tenant="twice", id="y"), event(tenant="twice", id="y", data=2)])

    assert ["x", "x"] == [each["id"] for each in twice["events"]]
    assert 1 == len((await api("GET", "/v1/events?tenant=twice")).json["data"])
    assert 409 == other.status


@pytest.mark.row("I47", "I48")
@pytest.mark.parametrize("path", ["/v1/events", "/v1/events/batch"])
async def test_idempotency_key(api: Api, path: str) -> None:
    """A repetition with the same bytes gets the first answer, other bytes are a mismatch."""
    tenant = path.replace("/", "-")[1:]
    body = event(tenant=tenant) if path == "/v1/events" else [event(tenant=tenant)] * 2
    key = {"Idempotency-Key": "key-1"}

    first = await api("POST", path, body, headers=key)
    stored = api.counts()
    again = await api("POST", path, body, headers=key)
    other = await api("POST", path, orjson.dumps(body) + b" ", headers=key)

    assert (202, None) == (first.status, first.headers.get("Idempotent-Replayed"))
    assert (202, "true", first.body) == (again.status, again.headers["Idempotent-Replayed"], again.body)
    assert first.headers["Content-Type"] == again.headers["Content-Type"]
    assert (422, "idempotency_mismatch") == (other.status, other.json["code"])
    assert stored == api.counts()


@pytest.mark.row("I49")
async def test_idempotency_key_at_the_same_time(api: Api) -> None:
    """A hundred requests with one key are one event, and all hear of it."""
    body = event(tenant="hundred")

    answers = await asyncio.gather(*(api("POST", "/v1/events", body, headers={"Idempotency-Key": "one"}) for _ in range(100)))

    assert {202} == {answer.status for answer in answers}
    assert 1 == len({answer.body for answer in answers})
    assert 99 == sum(answer.headers.get("Idempotent-Replayed") == "true" for answer in answers)
    assert 1 == len((await api("GET", "/v1/events?tenant=hundred")).json["data"])


@pytest.mark.row("I51")
async def test_scope_of_an_idempotency_key(api: Api) -> None:
    """Another tenant, or another path, is another key."""
    key = {"Idempotency-Key": "shared"}
    answers = [
        await api("POST", "/v1/events", event(tenant="scope-a"), headers=key),
        await api("POST", "/v1/events", event(tenant="scope-b"), headers=key),
        await api("POST", "/v1/events/batch", [event(tenant="scope-a")], headers=key),
        await api("POST", "/v1/subscriptions", {"url": "https://example.com/", "tenant": "scope-a"}, headers=key),
    ]

    assert [202, 202, 202, 201] == [answer.status for answer in answers]
    assert not any("Idempotent-Replayed" in answer.headers for answer in answers)


@pytest.mark.row("I53")
async def test_key_of_a_refused_request(api: Api) -> None:
    """Only what was accepted keeps its key."""
    key = {"Idempotency-Key": "refused"}

    assert 422 == (await refused(api, "/v1/events", event(tenant="again", type="a b"), headers=key)).status
    assert 202 == (await api("POST", "/v1/events", event(tenant="again"), headers=key)).status


async def test_repetition_of_what_is_no_longer_valid(api: Api) -> None:
    """What was accepted once is answered so again, also when its subscription is gone; other bytes are judged anew."""
    chosen = (await api.subscribe(tenant="gone"))["id"]
    key = {"Idempotency-Key": "gone"}
    body = event(tenant="gone", subscriptions=[chosen])
    first = await api("POST", "/v1/events", body, headers=key)
    await api("DELETE", f"/v1/subscriptions/{chosen}")

    again = await api("POST", "/v1/events", body, headers=key)
    other = await refused(api, "/v1/events", event(tenant="gone", subscriptions=[chosen], data=2), headers=key)
    keyless = await refused(api, "/v1/events", body)

    assert (202, "true", first.body) == (again.status, again.headers["Idempotent-Replayed"], again.body)
    assert [("/subscriptions/0", "unknown_subscription")] == other.places == keyless.places


@pytest.mark.parametrize(
    "key",
    [
        pytest.param("", id="I50-empty"),
        pytest.param("a" * 256, id="I50-256"),
        pytest.param("a" * 8000, id="I50-8 KB"),
        pytest.param("a b", id="I50-space"),
        pytest.param("a\tb", id="I50-control"),
        pytest.param("ä", id="I50-no ASCII"),
    ],
)
async def test_keys_that_are_none(api: Api, key: str) -> None:
    """A key is 1 to 255 visible ASCII characters."""
    answer = await refused(api, "/v1/events", event(), headers={"Idempotency-Key": key})

    assert (400, [("Idempotency-Key", "invalid_value")]) == (answer.status, answer.places)


async def test_longest_key(api: Api) -> None:
    """255 characters are a key."""
    longest = "!" + "~" * 254

    assert 202 == (await api("POST", "/v1/events", event(tenant="longest"), headers={"Idempotency-Key": longest})).status


@pytest.mark.row("I68")
async def test_clients_that_hang_up_are_heard(api: Api) -> None:
    """An event whose client left before the answer stays accepted."""
    _, writer = await api.dial()
    writer.write(request("POST", "/v1/events", orjson.dumps(event(tenant="left"))).replace(b"{token}", api.token.encode()))
    await writer.drain()
    writer.close()
    async with asyncio.timeout(PATIENCE):
        while not (await api("GET", "/v1/events?tenant=left")).json["data"]:
            pass


# Bytes.


EXACT = {
    "I06": b"1e400",
    "I08": b"18446744073709551616",
    "I09": b"9007199254740993",
    "long integer": b"12345678901234567890123",
    "I10": b"9" * 4000,
    "trailing zero": b"1.10",
    "exponent": b"-1.0E+02",
    "negative zero": b"[-0,-0.0,0e0]",
    "I11": b'{"a":1,"a":2,"b":3}',
    "I15": b'"a\\u0000b"',
    "escape": b'"\\u00e9"',
    "raw": '"\u00e9\U0001f4a9"'.encode(),
    "escaped pair": b'"\\ud83d\\ude00\\/"',
    "U+2028": '"\u2028\u2029"'.encode(),
    "U+2028 escaped": b'"\\u2028"',
    "DEL": b'"\x7f"',
    "spacing": b'{ "a" :\t[ 1 ,\r\n2 ] }',
    "our words": b'{"type":"x","data":"y","data":"z"}',
    "html": b'"</script><!--"',
    "depth": b"[" * 60 + b"]" * 60,
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def exact(api: Api) -> AsyncIterator[Callable[[bytes], Any]]:
    """Sends `data` by HTTP and returns the bytes that a receiver got for it."""
    async with Receiver() as receiver:
        made = await api.subscribe(receiver.url, tenant="exact", max_concurrency=1)
        receiver.secret = made["secret"]

        async def send(data: bytes, path: str = "/v1/events") -> bytes:
            body = b'{"type":"a","tenant":"exact","data":%b}' % data
            number = len(receiver.requests) + 1
            accepted = await api("POST", path, b"[%b]" % body if path.endswith("batch") else body)
            assert 202 == accepted.status, accepted.body
            request = (await receiver.wait(number, PATIENCE))[-1]
            assert request.verified, request.reason
            head, tail = request.body.split(b'"data":', 1)
            assert head.startswith(b'{"type":"a","timestamp":"')
            assert tail.endswith(b"}")
            return tail[:-1]

        yield send


@pytest.mark.parametrize("data", [pytest.param(data, id=name) for name, data in EXACT.items()])
async def test_data_arrives_byte_for_byte(api: Api, exact: Callable[..., Any], data: bytes) -> None:
    """What a producer writes is what its receiver gets, alone or in a batch, and what is shown."""
    assert data == await exact(data)
    assert data == await exact(data, "/v1/events/batch")
    [latest] = (await api("GET", "/v1/events?tenant=exact&limit=1")).json["data"]
    assert data in (await api("GET", f"/v1/events/{latest['id']}")).body


JSON_TEXTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(value=JSON_TEXTS, indent=st.sampled_from([None, 0, 3]), ascii_only=st.booleans())
@settings(max_examples=150, deadline=None, phases=(Phase.generate,), suppress_health_check=list(HealthCheck))
async def test_any_data_arrives_byte_for_byte(
    exact: Callable[..., Any], value: Any, indent: int | None, *, ascii_only: bool
) -> None:
    """So does every other JSON text, however it is spaced and escaped."""
    data = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode()

    assert data == await exact(data)


# Lists.


async def pages(api: Api, path: str, between: Callable[[], Any] | None = None) -> list[list[Any]]:
    """The pages of a list, from the first to the last; *between* is awaited after each."""
    found, cursor = [], ""
    while cursor is not None:
        page = (await api("GET", path + (f"&cursor={cursor}" if cursor else ""))).json
        assert ["data", "next_cursor"] == list(page)
        found.append(page["data"])
        cursor = page["next_cursor"]
        if between is not None:
            await between()
    return found


async def test_pages_are_stable(api: Api) -> None:
    """While events come in, the pages of those before show each once, newest first."""
    ids = [(await api.publish(tenant="pages"))["id"] for _ in range(7)]

    found = await pages(api, "/v1/events?tenant=pages&limit=3", lambda: api.publish(tenant="pages"))

    assert [3, 3, 1] == [len(page) for page in found]
    assert ids[::-1] == [each["id"] for page in found for each in page]


async def test_full_last_page(api: Api) -> None:
    """A page that ends with the list has no next one."""
    for _ in range(2):
        await api.publish(tenant="two")

    assert [2] == [len(page) for page in await pages(api, "/v1/events?tenant=two&limit=2")]


async def test_filters(api: Api) -> None:
    """Events are found by type, tenant and time: since is inclusive, until is not."""
    made = []
    for type_ in ("a", "b", "a"):
        made.append(await api.publish(type_, tenant="filters"))
        before = Clock().now()
        while Clock().now() == before:  # the next one gets another millisecond
            await api("GET", "/livez")
    middle = made[1]["accepted_at"]

    async def found(query: str) -> list[int]:
        data = (await api("GET", f"/v1/events?tenant=filters&{query}")).json["data"]
        return [[each["id"] for each in made].index(each["id"]) for each in data]

    assert [2, 0] == await found("type=a")
    assert [] == await found("type=c")
    assert [2, 1] == await found(f"since={middle}")
    assert [0] == await found(f"until={middle}")
    assert [1] == await found(f"since={middle}&until={made[2]['accepted_at']}")
    assert [2, 1] == await found(f"since={middle.replace('Z', '%2B00:00')}")


async def test_newest_of_an_id(api: Api) -> None:
    """An id that several tenants use is the newest one's, unless the tenant is named."""
    for tenant in ("id-a", "id-b"):
        await api.publish(tenant=tenant, id="shared-id")

    assert "id-b" == (await api("GET", "/v1/events/shared-id")).json["tenant"]
    assert "id-a" == (await api("GET", "/v1/events/shared-id?tenant=id-a")).json["tenant"]
    assert 404 == (await api("GET", "/v1/events/shared-id?tenant=id-c")).status


@pytest.mark.parametrize("path", ["/v1/events", "/v1/deliveries", "/v1/subscriptions"])
@pytest.mark.parametrize("limit", [1, 50, 250])
async def test_limits(api: Api, path: str, limit: int) -> None:
    """A page has 1 to 250 rows, by default 50."""
    for _ in range(0 if path != "/v1/events" or limit != 50 else 51):
        await api.publish(tenant="fifty")

    assert limit >= len((await api("GET", f"{path}?limit={limit}")).json["data"])
    assert 50 >= len((await api("GET", path)).json["data"])


@pytest.mark.parametrize(
    ("query", "places"),
    [
        pytest.param("limit=0", ["limit"], id="limit 0"),
        pytest.param("limit=251", ["limit"], id="limit 251"),
        pytest.param("limit=-1", ["limit"], id="limit negative"),
        pytest.param("limit=ten", ["limit"], id="limit in words"),
        pytest.param("limit=", ["limit"], id="limit empty"),
        pytest.param("limit=1_0", ["limit"], id="limit in Python"),
        pytest.param("limit=%D9%A1", ["limit"], id="limit in other digits"),
        pytest.param("limit=1&limit=2", ["limit"], id="limit twice"),
        pytest.param("cursor=", ["cursor"], id="cursor empty"),
        pytest.param("cursor=x", ["cursor"], id="cursor no base64"),
        pytest.param("cursor=%E2%82%AC", ["cursor"], id="cursor no ASCII"),
        pytest.param("cursor=YWJj", ["cursor"], id="cursor of others"),
        pytest.param("cursor=YmVmb3JlOjA=", ["cursor"], id="cursor 0"),
        pytest.param("cursor=YmVmb3JlOjk5OTk5OTk5OTk5OTk5OTk5OTk5", ["cursor"], id="cursor too large"),
        pytest.param("since=yesterday", ["since"], id="I76-word"),
        pytest.param("since=-1", ["since"], id="I76-negative"),
        pytest.param("since=9999-12-31T00:00:00Z", ["since"], id="I76-9999"),
        pytest.param("until=2026-01-01", ["until"], id="I76-day"),
        pytest.param("until=NaN", ["until"], id="I76-NaN"),
        pytest.param("state=pending", ["state"], id="parameter of another list"),
        pytest.param("page=2&typ=a", ["page", "typ"], id="unknown"),
        pytest.param("x=1&limit=0&cursor=x&since=x&until=x", ["x", "limit", "cursor", "since", "until"], id="all at once"),
    ],
)
async def test_wrong_parameters(api: Api, query: str, places: list[str]) -> None:
    """Every mistake in a query is named by its parameter."""
    answer = await api("GET", f"/v1/events?{query}")

    assert (422, sorted(places)) == (answer.status, sorted(place for place, _ in answer.places))
    assert all("parameter" in error for error in answer.json["errors"])


@pytest.mark.row("I75")
@pytest.mark.parametrize("value", ["'; DROP TABLE events; --", '" OR 1=1', "%", "_", "\0", "*", "order.*"])
async def test_filters_are_values(api: Api, value: str) -> None:
    """What looks like SQL or a pattern is compared as it is."""
    event_id = (await api.publish(tenant="sql"))["id"]
    query = quote(value, safe="")

    assert [] == (await api("GET", f"/v1/events?type={query}")).json["data"]
    assert [] == (await api("GET", f"/v1/events?tenant={query}")).json["data"]
    assert [] == (await api("GET", f"/v1/deliveries?subscription={query}")).json["data"]
    assert [] == (await api("GET", f"/v1/deliveries?event={query}")).json["data"]
    assert 200 == (await api("GET", f"/v1/events/{event_id}")).status
