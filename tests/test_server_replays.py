"""Explanations and replays over HTTP: what is told of an event, and what goes out again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from api import Api, serving
from engines import blocked_writer, rows, running
from patience import PATIENCE

from hookengine.clock import Clock
from hookengine.receiver import Receiver
from hookengine.times import format_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from hookengine.engine import Engine

pytestmark = pytest.mark.asyncio(loop_scope="module")

LATER = format_time(Clock().now() + 86_400_000)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """One server for all tests here: each uses a tenant of its own."""
    async with serving(tmp_path_factory.mktemp("replays")) as made:
        yield made


async def explained(api: Api, event: Any, query: str = "") -> Any:
    """What is told of an event."""
    answer = await api("GET", f"/v1/events/{event['id']}/explain{query}")
    assert 200 == answer.status, answer.body
    return answer.json


async def fail(api: Api, receiver: Receiver, tenant: str, count: int) -> Any:
    """A subscription of *tenant* with *count* failed deliveries."""
    made = await api.subscribe(receiver.url, tenant=tenant, retry_schedule=[])
    for n in range(count):
        event = await api.publish(data={"n": n}, tenant=tenant)
        await api.engine.wait(event["id"], PATIENCE)
    return made


async def delivered(engine: Engine, tenant: str, count: int) -> None:
    """Return once *count* deliveries of *tenant* are delivered; the engine is kept at work until then."""
    async with asyncio.timeout(PATIENCE):
        while len((await engine.deliveries(tenant=tenant, state="delivered", limit=250)).data) < count:
            pass


# Explanations.


async def test_reasons(api: Api) -> None:
    """Each subscription of the tenant is told of, the newest first, with what was made for it and why."""
    async with Receiver() as receiver:
        takes = await api.subscribe(receiver.url, tenant="why", name="Orders", event_types=["user.*", "order.*"])
        other = await api.subscribe(tenant="why", event_types=["user.*"])
        deleted = await api.subscribe(tenant="why", while_disabled="hold", state="disabled")
        skips = await api.subscribe(tenant="why", while_disabled="skip", state="disabled")
        await api.subscribe(tenant="elsewhere")
        event = await api.publish(tenant="why")
        await api("DELETE", f"/v1/subscriptions/{deleted['id']}")
        late = await api.subscribe(tenant="why")
        await api.engine.wait(event["id"], PATIENCE)
    deliveries = {each.subscription: each.id for each in (await api.engine.deliveries(event=event["id"])).data}
    told = await explained(api, event)

    assert (event["id"], None) == (told["event"], told["next_cursor"])
    assert [
        (late["id"], False, "It was made after the event."),
        (skips["id"], False, "It is disabled and skips events meanwhile."),
        (deleted["id"], False, "The event made a delivery for it, and it was deleted since; the delivery is cancelled."),
        (other["id"], False, "None of its event types (user.*) takes in order.created."),
        (takes["id"], True, "Its event type order.* takes in order.created; the delivery is delivered."),
    ] == [(each["subscription"], each["delivered"], each["reason"]) for each in told["subscriptions"]]
    assert [None, None, "cancelled", None, "delivered"] == [each.get("state") for each in told["subscriptions"]]
    assert [deliveries.get(each["subscription"]) for each in told["subscriptions"]] == [
        each.get("delivery") for each in told["subscriptions"]
    ]
    assert ("Orders", receiver.url) == (told["subscriptions"][-1]["name"], told["subscriptions"][-1]["url"])


async def test_named_and_replayed(api: Api) -> None:
    """Whom the event named, whom it did not, and whom only a replay sent it to, is told apart."""
    named, replayed, neither = [await api.subscribe(tenant="named") for _ in range(3)]
    event = await api.publish(tenant="named", subscriptions=[named["id"]], deliver_at=LATER)
    await api("POST", f"/v1/subscriptions/{replayed['id']}/disable")
    await api.made(f"/v1/events/{event['id']}/replay", {"subscriptions": [replayed["id"]]})

    assert {
        named["id"]: ("pending", "The event named it; the delivery is pending."),
        replayed["id"]: ("held", "A replay sent it there; the delivery is held."),
        neither["id"]: (None, "The event named others."),
    } == {each["subscription"]: (each.get("state"), each["reason"]) for each in (await explained(api, event))["subscriptions"]}


async def test_subscription_that_waited_behind_an_event(api: Api) -> None:
    """One that was asked for before an event, and committed after it, was made after the event."""
    async with asyncio.TaskGroup() as group, blocked_writer(api.engine):
        asked = group.create_task(api.engine.subscribe("http://127.0.0.1:8099/", tenant="behind"))
        await asyncio.sleep(0)
        published = group.create_task(api.engine.publish("order.created", {}, tenant="behind"))
        await asyncio.sleep(0)
    [told] = (await explained(api, {"id": published.result().id}))["subscriptions"]
    kept = await api("GET", f"/v1/subscriptions/{asked.result().id}")

    assert "It was made after the event." == told["reason"]
    assert published.result().accepted_at <= asked.result().created_at
    assert format_time(int(asked.result().created_at.timestamp() * 1000)) == kept.json["created_at"]


async def test_delivery_that_came_through_is_shown(api: Api) -> None:
    """Of several deliveries to one subscription the one that the endpoint accepted is told of, else the newest."""
    async with Receiver([500, 500, 200, 500]) as receiver:
        await fail(api, receiver, "several", 1)
        [event] = (await api.engine.events(tenant="several")).data
        states = []
        for _ in range(3):
            await api.engine.replay_event(event.id)
            await api.engine.wait(event.id, PATIENCE)
            [told] = (await explained(api, {"id": event.id}))["subscriptions"]
            states.append((told["delivered"], told["state"]))

    assert [(False, "failed"), (True, "delivered"), (True, "delivered")] == states


async def test_pages_of_explanations(api: Api) -> None:
    """However many subscriptions there are, deleted ones too, pages lead through all of them; one can be asked for alone."""
    made = [await api.subscribe(tenant="pages", state="disabled") for _ in range(5)]
    event = await api.publish(tenant="pages")
    for each in (made[1], made[4]):
        await api("DELETE", f"/v1/subscriptions/{each['id']}")
    seen, query = [], "?limit=2"
    while True:
        told = await explained(api, event, query)
        seen.append([each["subscription"] for each in told["subscriptions"]])
        if told["next_cursor"] is None:
            break
        query = f"?limit=2&cursor={told['next_cursor']}"

    ids = [each["id"] for each in reversed(made)]
    assert [ids[:2], ids[2:4], ids[4:]] == seen
    for one in (ids[0], ids[2]):
        told = await explained(api, event, f"?subscription={one}&limit=1")
        assert ([one], None) == ([each["subscription"] for each in told["subscriptions"]], told["next_cursor"])
    assert [] == (await explained(api, event, "?subscription=sub_none"))["subscriptions"]


async def test_other_tenant_is_a_reason(api: Api) -> None:
    """Whoever asks about a subscription of another tenant hears just that, if he may know of both."""
    event, other = await api.publish(tenant="mine"), await api.subscribe(tenant="yours")
    query = f"?subscription={other['id']}"
    [told] = (await explained(api, event, query))["subscriptions"]
    bound = (await api.made("/v1/tokens", {"user": "mine", "scopes": ["events:read"], "tenant": "mine"}))["token"]
    hidden = await api("GET", f"/v1/events/{event['id']}/explain{query}", token=bound)

    assert (False, "It belongs to the tenant yours, and the event to mine.") == (told["delivered"], told["reason"])
    assert [] == hidden.json["subscriptions"]


async def test_explanation_of_nothing(api: Api) -> None:
    """An unknown event is 404, also where another tenant is asked for, and unknown parameters are refused."""
    event = await api.publish(tenant="mine")

    assert [] == (await explained(api, event, "?tenant=mine"))["subscriptions"]
    for path in ("evt_none/explain", f"{event['id']}/explain?tenant=other"):
        assert 404 == (await api("GET", f"/v1/events/{path}")).status
    wrong = await api("GET", f"/v1/events/{event['id']}/explain?state=failed")
    assert (422, [("state", "unknown_parameter")]) == (wrong.status, wrong.places)


# One event.


async def test_event_is_replayed(api: Api) -> None:
    """A replay sends the same event id and the same bytes to those that match now, and is told in the attempt."""
    async with Receiver() as receiver:
        await api.subscribe(receiver.url, tenant="again")
        event = await api.publish(tenant="again", data={"n": 1})
        await api.engine.wait(event["id"], PATIENCE)
        answer = await api("POST", f"/v1/events/{event['id']}/replay")
        await api.engine.wait(event["id"], PATIENCE)

    assert (202, event) == (answer.status, answer.json)
    first, second = receiver.requests
    assert (first.header("webhook-id"), first.body) == (second.header("webhook-id"), second.body)
    [newest, _] = (await api.engine.deliveries(event=event["id"])).data
    attempts = (await api.engine.delivery(newest.id)).attempts
    assert isinstance(attempts, list)
    assert ["replay"] == [attempt.trigger for attempt in attempts]


async def test_event_is_replayed_to_some(api: Api) -> None:
    """Named subscriptions get it, whatever their types; one that is none of the tenant's is 422, and then nobody does."""
    made = await api.subscribe(tenant="some", event_types=["other"])
    foreign = await api.subscribe(tenant="somebody")
    event = await api.publish(tenant="some")
    path = f"/v1/events/{event['id']}/replay"
    wrong = await api("POST", path, {"subscriptions": [made["id"], foreign["id"], "sub_none"], "more": 1})

    assert (0, 1, 0) == (
        event["deliveries"],
        (await api.made(path, {"subscriptions": [made["id"]]}))["deliveries"],
        (await api.made(f"{path}?tenant=some", {}))["deliveries"],
    )
    assert 422 == wrong.status
    assert {
        ("/subscriptions/1", "unknown_subscription"),
        ("/subscriptions/2", "unknown_subscription"),
        ("/more", "unknown_member"),
    } == set(wrong.places)
    assert 1 == len((await api.engine.deliveries(tenant="some")).data)
    for unknown in ("/v1/events/evt_none/replay", f"{path}?tenant=other"):
        assert 404 == (await api("POST", unknown)).status


@pytest.mark.parametrize("of", ["event", "subscription"])
async def test_replay_with_a_key(api: Api, of: str) -> None:
    """The same bytes with the same key get the first answer, also many at once, and other bytes a mismatch."""
    tenant = f"key-{of}"
    async with Receiver([500, 200]) as receiver:
        made = await fail(api, receiver, tenant, 1)
        [event] = (await api.engine.events(tenant=tenant)).data
        path = f"/v1/events/{event.id}/replay" if of == "event" else f"/v1/subscriptions/{made['id']}/replay"
        headers = {"Idempotency-Key": "k"}
        answers = await asyncio.gather(*(api("POST", path, {}, headers=headers) for _ in range(5)))
        await delivered(api.engine, tenant, 1)
        later = await api("POST", path, {}, headers=headers)
        mismatch = await api("POST", path, {"subscriptions": []} if of == "event" else {"states": ["failed"]}, headers=headers)

    assert [(202, answers[0].body)] * 6 == [(answer.status, answer.body) for answer in (*answers, later)]
    assert 5 == [answer.headers.get("Idempotent-Replayed") for answer in (*answers, later)].count("true")
    assert (422, "idempotency_mismatch") == (mismatch.status, mismatch.json["code"])
    assert 2 == len((await api.engine.deliveries(tenant=tenant)).data) == len(receiver.requests)


@pytest.mark.parametrize("of", ["event", "subscription"])
async def test_replay_with_a_key_that_was_heard(api: Api, of: str) -> None:
    """Whoever asks again with a key has the first answer, even if what it was about can be replayed no more."""
    made = await api.subscribe(tenant=f"heard-{of}", state="disabled")
    event = await api.publish(tenant=f"heard-{of}")
    path = f"/v1/events/{event['id']}/replay" if of == "event" else f"/v1/subscriptions/{made['id']}/replay"
    asked = {"subscriptions": [made["id"]]} if of == "event" else {}
    first = await api("POST", path, asked, headers={"Idempotency-Key": "k"})
    await api("DELETE", f"/v1/subscriptions/{made['id']}")
    again = await api("POST", path, asked, headers={"Idempotency-Key": "k"})

    assert (202, None) == (first.status, first.headers.get("Idempotent-Replayed"))
    assert (202, first.body, "true") == (again.status, again.body, again.headers.get("Idempotent-Replayed"))
    assert (422 if of == "event" else 404) == (await api("POST", path, asked, headers={"Idempotency-Key": "other"})).status


# A subscription.


async def test_subscription_is_replayed(api: Api) -> None:
    """What failed is delivered again as often as was said, and is then no more to be replayed."""
    async with Receiver([500, 500, 500, 200]) as receiver:
        made = await fail(api, receiver, "all", 3)
        path = f"/v1/subscriptions/{made['id']}/replay"
        counted = await api("POST", path, {"dry_run": True}, headers={"Idempotency-Key": "k"})
        begun = await api("POST", path, headers={"Idempotency-Key": "k"})
        await delivered(api.engine, "all", 3)
        again = await api("POST", path, {"states": ["failed"]})

    assert [(200, {"count": 3}), (202, {"count": 3}), (202, {"count": 0})] == [
        (answer.status, answer.json) for answer in (counted, begun, again)
    ]
    ids = [request.header("webhook-id") for request in receiver.requests]
    assert (6, set(ids[:3])) == (len(ids), set(ids[3:]))


async def test_dry_run_makes_nothing(api: Api) -> None:
    """With filters as without, a dry run only counts."""
    async with Receiver([500, 200]) as receiver:
        made = await fail(api, receiver, "dry", 3)
    path = f"/v1/subscriptions/{made['id']}/replay"
    before = api.counts()

    for filters, count in (
        ({}, 1),
        ({"states": ["delivered"]}, 2),
        ({"states": ["failed", "failed", "delivered"]}, 3),
        ({"since": LATER}, 0),
        ({"until": LATER}, 1),
    ):
        assert {"count": count} == await api.made(path, {"dry_run": True} | filters)
    assert (before, []) == (api.counts(), api.rows("SELECT * FROM replays"))


@pytest.mark.parametrize(
    ("wrong", "places"),
    [
        ({"states": []}, [("/states", "invalid_value")]),
        ({"states": ["pending"]}, [("/states/0", "invalid_value")]),
        ({"states": "failed"}, [("/states", "invalid_type")]),
        ({"since": "x", "dry_run": 1}, [("/since", "invalid_value"), ("/dry_run", "invalid_type")]),
        ({"since": LATER, "until": LATER}, [("/until", "invalid_value")]),
        ({"state": "failed"}, [("/state", "unknown_member")]),
    ],
)
async def test_wrong_replays(api: Api, wrong: Any, places: list[tuple[str, str]]) -> None:
    """Every mistake is named, and nothing is begun."""
    made = await api.subscribe(tenant="wrong")
    answer = await api("POST", f"/v1/subscriptions/{made['id']}/replay", wrong)

    assert (422, places) == (answer.status, answer.places)
    assert 404 == (await api("POST", "/v1/subscriptions/sub_none/replay")).status


async def test_replay_survives_a_restart(tmp_path: Path) -> None:
    """A replay of many goes on after a stop in the middle, and in the end each event has come once more."""
    count = 1_700
    async with Receiver() as receiver, running(tmp_path, concurrency=64) as engine:
        made = await engine.subscribe(receiver.url, max_concurrency=64)
        for start in range(0, count, 850):
            await engine.publish_batch([{"type": "a", "data": n} for n in range(start, start + 850)])
        await delivered_all(engine, count)
        assert count == (await engine.replay(made.id, states=["delivered"])).count
        await engine.stop(drain=0)
        assert [(1,)] == rows(tmp_path, "SELECT count(*) FROM replays")
        async with running(tmp_path, concurrency=64) as restarted:
            await delivered_all(restarted, 2 * count)

    ids = [request.header("webhook-id") for request in receiver.requests]
    # What a stop cuts may have come through: it is sent once more, with the same id.
    assert count == len(set(ids))
    assert 2 * count <= len(ids) <= 2 * count + 64


async def delivered_all(engine: Engine, count: int) -> None:
    """Return once *count* deliveries are delivered, and no more are on their way."""
    [made] = (await engine.subscriptions()).data
    async with asyncio.timeout(PATIENCE):
        while (await engine.stats(made.id)).deliveries.delivered < count:
            pass
    assert [] == (await engine.deliveries(state="pending")).data


async def test_key_of_a_replay_is_its_tenants(api: Api) -> None:
    """Where two tenants use an event's id, a key that replays the one does not stand for the other."""
    for tenant in ("keyed-a", "keyed-b"):
        await api.subscribe(tenant=tenant, state="disabled")
        await api.publish(tenant=tenant, id="keyed")
    paths = [f"/v1/events/keyed/replay?tenant={tenant}" for tenant in ("keyed-a", "keyed-b", "keyed-a")]
    answers = [await api("POST", path, headers={"Idempotency-Key": "same"}) for path in paths]

    assert ["keyed-a", "keyed-b", "keyed-a"] == [answer.json["tenant"] for answer in answers]
    assert [None, None, "true"] == [answer.headers.get("Idempotent-Replayed") for answer in answers]


async def test_key_of_the_owner_is_nobody_elses(api: Api) -> None:
    """What somebody who is bound to no tenant replays is no answer for a token that is bound to one, whichever that is."""
    token = (await api.made("/v1/tokens", {"user": "keyed", "tenant": "default", "scopes": ["events:write"]}))["token"]
    for tenant in ("default", "keyed-c"):  # the newest is what the owner means
        await api.subscribe(tenant=tenant, state="disabled")
        await api.publish(tenant=tenant, id="twice")
    other = await api.subscribe(tenant="keyed-c", state="disabled")
    headers = {"Idempotency-Key": "owner"}
    events = [await api("POST", "/v1/events/twice/replay", headers=headers, token=each) for each in (None, token, None)]
    path = f"/v1/subscriptions/{other['id']}/replay"
    whole = [await api("POST", path, {"states": ["failed"]}, headers=headers, token=each) for each in (None, token, None)]

    assert ["keyed-c", "default", "keyed-c"] == [answer.json["tenant"] for answer in events]
    assert [202, 404, 202] == [answer.status for answer in whole]
    assert [None, None, "true"] * 2 == [answer.headers.get("Idempotent-Replayed") for answer in (*events, *whole)]
