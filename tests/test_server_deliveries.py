"""Deliveries over HTTP: how they read in each state, and what can be done to them there."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from api import Api, serving
from engines import Gate
from patience import PATIENCE

from hookengine.clock import Clock
from hookengine.receiver import Receiver, Reply
from hookengine.store import reader
from hookengine.times import format_time, parse_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.asyncio(loop_scope="module")

STATES = ["pending", "held", "delivered", "failed", "cancelled", "deleted"]
LATER = format_time(Clock().now() + 86_400_000)
MEMBERS = [
    "id",
    "event",
    "subscription",
    "tenant",
    "type",
    "state",
    "attempt_count",
    "next_attempt_at",
    "created_at",
    "finished_at",
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """One server for all tests here: each uses a tenant of its own."""
    async with serving(tmp_path_factory.mktemp("deliveries")) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def receiver() -> AsyncIterator[Receiver]:
    """An endpoint whose paths say what it answers."""
    async with Receiver(lambda request: int(request.path[1:4])) as made:
        yield made


async def delivery_in(api: Api, receiver: Receiver, state: str, tenant: str) -> Any:
    """A delivery that reads as *state*; `deleted` is cancelled with its subscription."""
    status = 200 if state == "delivered" else 500
    waits = state not in {"delivered", "failed"}
    made = await api.subscribe(f"{receiver.url}/{status}", tenant=tenant, retry_schedule=[])
    event = await api.publish(tenant=tenant, deliver_at=LATER if waits else None, subscriptions=[made["id"]])
    path = f"/v1/subscriptions/{made['id']}"
    [found] = (await api("GET", f"/v1/deliveries?event={event['id']}")).json["data"]
    if not waits:
        await api.engine.wait(event["id"], PATIENCE)
    elif state == "held":
        await api("POST", f"{path}/disable")
    elif state == "cancelled":
        await api("POST", f"/v1/deliveries/{found['id']}/cancel")
    elif state == "deleted":
        await api("DELETE", path)
    return await shown(api, found["id"])


async def shown(api: Api, id_: str) -> Any:
    """A delivery as it reads."""
    return (await api("GET", f"/v1/deliveries/{id_}")).json


# How they read.


@pytest.mark.parametrize("state", STATES)
async def test_states(api: Api, receiver: Receiver, state: str) -> None:
    """A delivery has the same members in every state, and tells when it is next tried only while it is."""
    delivery = await delivery_in(api, receiver, state, f"state-{state}")

    assert ("cancelled" if state == "deleted" else state) == delivery["state"]
    assert MEMBERS == [name for name in delivery if name not in {"failed_label", "attempts"}]
    assert (state == "pending") == (delivery["next_attempt_at"] is not None)
    assert (state in {"pending", "held"}) == (delivery["finished_at"] is None)
    assert (state in {"delivered", "failed"}) == (delivery["attempt_count"] == 1) == (len(delivery["attempts"]) == 1)
    listed = (await api("GET", f"/v1/deliveries?tenant=state-{state}")).json["data"]
    assert [{name: value for name, value in delivery.items() if name != "attempts"}] == listed


async def test_attempt(api: Api) -> None:
    """An attempt shows what was sent and what was answered, and no credentials."""
    busy = Reply(status=503, headers=(("X-Odd", "é"),), body=b"\xff<b>" + b"x" * 20_000)
    async with Receiver([busy, 200]) as receiver:
        auth = {"type": "basic", "username": "ann", "password": "word-1"}
        await api.subscribe(
            f"{receiver.url}/hook?a=b", tenant="attempt", retry_schedule=["10ms"], headers={"X-Key": "key-1"}, auth=auth
        )
        event = await api.publish(tenant="attempt", data={"n": "é"})
        await api.engine.wait(event["id"], PATIENCE)
        [found] = (await api("GET", f"/v1/deliveries?event={event['id']}")).json["data"]
        answer = await api("GET", f"/v1/deliveries/{found['id']}")
    first, second = answer.json["attempts"]

    assert ["number", "at", "outcome", "duration_ms", "trigger", "status_code", "error", "request", "response"] == list(first)
    assert (1, "refused", "auto", 503, "http_status") == (
        *(first[name] for name in ("number", "outcome", "trigger", "status_code")),
        first["error"]["code"],
    )
    assert (2, "accepted", 200, False) == (second["number"], second["outcome"], second["status_code"], "error" in second)
    assert ("POST", f"{receiver.url}/hook?a=b") == (first["request"]["method"], first["request"]["url"])
    assert receiver.requests[0].body.decode() == first["request"]["body"]
    sent = {name.lower(): value for name, value in first["request"]["headers"]}
    assert ("***", "***") == (sent["x-key"], sent["authorization"])
    assert event["id"] == sent["webhook-id"]
    assert (True, 16_384) == (first["response"]["truncated"], len(first["response"]["body"].replace("\\xff", "?")))
    assert first["response"]["body"].startswith("\\xff<b>xxx")
    assert [] == [secret for secret in (b"word-1", b"key-1", b"YW5uOndvcmQtMQ") if secret in answer.body]


async def test_large_bodies_of_many_attempts_are_not_repeated(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one answer shows of sent bodies has a bound, the last attempts first, and so has the number of attempts."""
    async with Receiver(500) as receiver:
        await api.subscribe(receiver.url, tenant="large", retry_schedule=["0ms"] * 5)
        event = await api.publish(tenant="large", data="x" * 600_000)
        await api.engine.wait(event["id"], PATIENCE)
        [found] = (await api("GET", f"/v1/deliveries?event={event['id']}")).json["data"]
        attempts = (await api("GET", f"/v1/deliveries/{found['id']}")).json["attempts"]
        monkeypatch.setattr(reader, "_MOST_ATTEMPTS", 4)
        last = (await api("GET", f"/v1/deliveries/{found['id']}")).json["attempts"]

    assert [1, 2, 3, 4, 5, 6] == [each["number"] for each in attempts]
    assert [True] * 4 + [False] * 2 == [each["request"]["body"] is None for each in attempts]
    assert [3, 4, 5, 6] == [each["number"] for each in last]


async def test_large_batches_of_many_attempts_are_not_read(api: Api) -> None:
    """Of what attempts shared with others only that is read which there is room for, one request after the other."""
    batch = {"max_events": 2, "max_wait": "1h"}
    async with Receiver([200, 500]) as receiver:
        await api.subscribe(receiver.url, tenant="shared", profile="clevertap", batch=batch, retry_schedule=["0ms"] * 3)
        event, _ = [await api.publish(tenant="shared", data={"text": "x" * 400_000}) for _ in range(2)]
        await api.engine.wait(event["id"], PATIENCE)
        [found] = (await api("GET", f"/v1/deliveries?event={event['id']}")).json["data"]
        statements: list[str] = []
        viewing = api.engine._running.store.viewer._db.connection
        await viewing.set_trace_callback(statements.append)
        attempts = (await api("GET", f"/v1/deliveries/{found['id']}")).json["attempts"]
        await viewing.set_trace_callback(None)  # type: ignore[arg-type]  # sqlite3 takes None, aiosqlite's hint does not

    assert [True, True, False, False] == [each["request"]["body"] is None for each in attempts]
    assert 2 == len([each for each in statements if "attempts_of_exchange" in each])


@pytest.mark.parametrize("path", ["", "/retry", "/cancel"])
async def test_unknown_delivery(api: Api, path: str) -> None:
    """What is not there cannot be read, retried or cancelled."""
    answer = await api("POST" if path else "GET", f"/v1/deliveries/dlv_none{path}")

    assert (404, "delivery_not_found") == (answer.status, answer.json["code"])


# Retry and cancel.


@pytest.mark.parametrize(
    ("state", "status", "code"),
    [
        ("pending", 202, None),
        ("failed", 202, None),
        ("cancelled", 202, None),
        ("delivered", 409, "delivery_state_conflict"),
        ("held", 409, "subscription_disabled"),
        ("deleted", 409, "delivery_state_conflict"),
    ],
)
async def test_retry(api: Api, receiver: Receiver, state: str, status: int, code: str | None) -> None:
    """What is not delivered can be tried again now, with its whole schedule, while its subscription is there and active."""
    tenant = f"retry-{state}"
    before = await delivery_in(api, receiver, state, tenant)

    answer = await api("POST", f"/v1/deliveries/{before['id']}/retry")

    assert (status, code) == (answer.status, answer.json.get("code"))
    if status == 409:
        assert before == await shown(api, before["id"])
        return
    if answer.json["attempt_count"] == before["attempt_count"]:  # else it has been tried by now
        assert ("pending", None) == (answer.json["state"], answer.json["finished_at"])
    assert "attempts" not in answer.json
    await api.engine.wait(before["event"], PATIENCE)
    after = await shown(api, before["id"])
    assert ("failed", before["attempt_count"] + 1) == (after["state"], after["attempt_count"])
    assert "manual" == after["attempts"][-1]["trigger"]


@pytest.mark.parametrize("state", ["failed", "cancelled"])
async def test_retry_while_disabled(api: Api, receiver: Receiver, state: str) -> None:
    """Nothing of a disabled subscription can be retried, whatever its state."""
    before = await delivery_in(api, receiver, state, f"retry-disabled-{state}")
    await api("POST", f"/v1/subscriptions/{before['subscription']}/disable")

    answer = await api("POST", f"/v1/deliveries/{before['id']}/retry")

    assert (409, "subscription_disabled") == (answer.status, answer.json["code"])


async def test_retry_of_what_is_expired(api: Api, receiver: Receiver) -> None:
    """A retry by hand is made although the time of the event is over."""
    await api.subscribe(f"{receiver.url}/200", tenant="retry-expired")
    event = await api.publish(tenant="retry-expired", expires_at="2020-01-01T00:00:00Z")
    await api.engine.wait(event["id"], PATIENCE)
    [before] = (await api("GET", "/v1/deliveries?tenant=retry-expired")).json["data"]
    await api("POST", f"/v1/deliveries/{before['id']}/retry")
    await api.engine.wait(event["id"], PATIENCE)
    after = await shown(api, before["id"])

    assert ("failed", "expired") == (before["state"], before["failed_label"])
    assert ("delivered", False) == (after["state"], "failed_label" in after)


@pytest.mark.parametrize(
    ("state", "status"),
    [("pending", 202), ("held", 202), ("failed", 409), ("cancelled", 409), ("delivered", 409), ("deleted", 409)],
)
async def test_cancel(api: Api, receiver: Receiver, state: str, status: int) -> None:
    """What waits or is held can be given up, nothing else."""
    before = await delivery_in(api, receiver, state, f"cancel-{state}")

    answer = await api("POST", f"/v1/deliveries/{before['id']}/cancel")

    after = await shown(api, before["id"])
    if status == 409:
        assert (409, "delivery_state_conflict", before) == (answer.status, answer.json["code"], after)
    else:
        assert (202, "cancelled", None) == (answer.status, answer.json["state"], answer.json["next_attempt_at"])
        assert {name: value for name, value in after.items() if name != "attempts"} == answer.json
        assert parse_time(after["finished_at"]) >= parse_time(before["created_at"])


async def test_cancelled_is_not_sent(api: Api) -> None:
    """What is cancelled while an attempt runs stays so, and is not tried again."""
    gate = Gate()
    async with Receiver(gate) as receiver:
        await api.subscribe(receiver.url, tenant="in-flight", retry_schedule=["10ms"])
        event = await api.publish(tenant="in-flight")
        await gate.arrived()
        [found] = (await api("GET", "/v1/deliveries?tenant=in-flight")).json["data"]
        answer = await api("POST", f"/v1/deliveries/{found['id']}/cancel")
        gate.open(500)
        async with asyncio.timeout(PATIENCE):
            while not (after := await shown(api, found["id"]))["attempts"]:
                pass
        await api.engine.wait(event["id"], PATIENCE)

    assert (202, "cancelled") == (answer.status, answer.json["state"])
    assert ("cancelled", 1) == (after["state"], len(receiver.requests))


@pytest.mark.parametrize("action", ["retry", "cancel"])
@pytest.mark.parametrize(("body", "status"), [(b"{}", 202), (b"", 202), (b'{"now":1}', 422), (b"null", 422), (b"{", 400)])
async def test_body_of_an_action(api: Api, receiver: Receiver, action: str, body: bytes, status: int) -> None:
    """A body is not needed, and takes no members."""
    before = await delivery_in(api, receiver, "pending", "body")

    answer = await api("POST", f"/v1/deliveries/{before['id']}/{action}", body)

    assert status == answer.status
    if b"now" in body:
        assert [("/now", "unknown_member")] == answer.places


@pytest.mark.parametrize("action", ["retry", "cancel"])
async def test_key_where_none_is_kept(api: Api, receiver: Receiver, action: str) -> None:
    """An Idempotency-Key is refused here, and nothing happens."""
    before = await delivery_in(api, receiver, "pending", "key")

    answer = await api("POST", f"/v1/deliveries/{before['id']}/{action}", headers={"Idempotency-Key": "x"})

    assert (400, "idempotency_key_not_supported") == (answer.status, answer.json["code"])
    assert before == await shown(api, before["id"])


# Lists.


@pytest.mark.parametrize("state", ["pending", "held", "delivered", "failed", "cancelled"])
async def test_list_by_state(api: Api, receiver: Receiver, state: str) -> None:
    """Each state finds what reads so, whatever it is stored as, newest first and a page at a time."""
    tenant = f"by-{state}"
    made = {each: [await delivery_in(api, receiver, each, tenant + each) for _ in range(2)] for each in STATES}
    wanted = made[state] if state != "cancelled" else made["cancelled"] + made["deleted"]
    ids = [delivery["id"] for delivery in wanted]

    for path in (f"/v1/deliveries?state={state}&limit=250", f"/v1/deliveries?state={state}&limit=1"):
        found, cursor = [], ""
        while cursor is not None:
            page = (await api("GET", path + (f"&cursor={cursor}" if cursor else ""))).json
            found += [delivery for delivery in page["data"] if delivery["tenant"].startswith(tenant)]
            assert {state} >= {delivery["state"] for delivery in page["data"]}
            cursor = page["next_cursor"]
        assert ids[::-1] == [delivery["id"] for delivery in found]
    one = (await api("GET", f"/v1/deliveries?state={state}&tenant={tenant}{state}")).json["data"]
    assert [delivery["id"] for delivery in made[state]][::-1] == [delivery["id"] for delivery in one]


async def test_list_by_all_else(api: Api) -> None:
    """Deliveries are found by event, subscription, tenant and time, alone and together."""
    first, second = [await api.subscribe(tenant="else") for _ in range(2)]
    events = [await api.publish(tenant="else", deliver_at=LATER) for _ in range(2)]
    since = events[1]["accepted_at"]

    async def found(query: str) -> set[tuple[int, int]]:
        data = (await api("GET", f"/v1/deliveries?{query}")).json["data"]
        subscriptions, ids = [first["id"], second["id"]], [event["id"] for event in events]
        return {(ids.index(each["event"]), subscriptions.index(each["subscription"])) for each in data}

    assert {(0, 0), (0, 1), (1, 0), (1, 1)} == await found("tenant=else")
    assert {(0, 0), (0, 1)} == await found(f"event={events[0]['id']}")
    assert {(0, 1), (1, 1)} == await found(f"subscription={second['id']}")
    assert {(0, 1)} == await found(f"subscription={second['id']}&event={events[0]['id']}")
    assert {(0, 1)} == await found(f"subscription={second['id']}&event={events[0]['id']}&state=pending&tenant=else")
    assert set() == await found(f"subscription={second['id']}&state=held")
    assert {(1, 0), (1, 1)} <= await found(f"tenant=else&since={since}")
    assert set() == await found(f"tenant=else&until={events[0]['accepted_at']}")
    assert {(1, 0), (1, 1)} <= await found(f"tenant=else&state=pending&since={since}")
    assert set() == await found(f"tenant=other&event={events[0]['id']}")
    assert set() == await found(f"tenant=other&subscription={first['id']}")


@pytest.mark.parametrize(
    ("query", "places"),
    [
        ("state=waiting", ["state"]),
        ("state=active", ["state"]),
        ("state=", ["state"]),
        ("type=a", ["type"]),
        ("state=x&since=x&until=x&limit=x&cursor=x&y=x", ["state", "since", "until", "limit", "cursor", "y"]),
    ],
)
async def test_wrong_parameters(api: Api, query: str, places: list[str]) -> None:
    """Every mistake in a query is named by its parameter."""
    answer = await api("GET", f"/v1/deliveries?{query}")

    assert (422, sorted(places)) == (answer.status, sorted(place for place, _ in answer.places))


async def test_deliveries_of_an_id_that_tenants_share(api: Api, receiver: Receiver) -> None:
    """An event's id is its tenant's: without a tenant the list has the deliveries of all events with it."""
    subs = {tenant: await api.subscribe(f"{receiver.url}/200", tenant=tenant) for tenant in ("sharing-a", "sharing-b")}
    for tenant in subs:
        await api.publish(tenant=tenant, id="shared")
    await api.publish(tenant="sharing-c", id="shared")  # nobody wants it

    async def tenants(**query: str) -> list[str]:
        asked = "&".join(f"{name}={value}" for name, value in query.items())
        return [each["tenant"] for each in (await api("GET", f"/v1/deliveries?event=shared&{asked}")).json["data"]]

    assert ["sharing-b", "sharing-a"] == await tenants()
    assert ["sharing-a"] == await tenants(subscription=subs["sharing-a"]["id"]) == await tenants(tenant="sharing-a")
    assert [] == await tenants(tenant="sharing-c")
    first = (await api("GET", "/v1/deliveries?event=shared&limit=1")).json
    assert ["sharing-a"] == await tenants(cursor=first["next_cursor"])
