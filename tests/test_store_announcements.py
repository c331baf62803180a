"""Operational events: what the engine itself publishes, to whom, in which transaction, and that it cannot go on for ever."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import pytest
from api import serving
from engines import Journal, running
from msgspec.structs import replace
from patience import PATIENCE
from storage import NO_ANSWER, NOW, RULES, SetClock, draft, opened, result, subscription

from hookengine import verify
from hookengine.matching import Index
from hookengine.models import Delivery
from hookengine.receiver import Receiver
from hookengine.store import commits, upkeep
from hookengine.store.announcements import DELIVERY_FAILED, SUBSCRIPTION_DISABLED, SUBSCRIPTION_ENABLED
from hookengine.store.batch import Batch, RowNumbers
from hookengine.vault import Vault

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hookengine.engine import Engine
    from hookengine.receiver import Received

VAULT = Vault([bytes(32)], bytes)
ONCE: dict[str, Any] = {"retry_schedule": []}  # no retries


def told(requests: Sequence[Received]) -> list[tuple[str, Any]]:
    """Type and data of the events that arrived."""
    bodies = [orjson.loads(request.body) for request in requests]
    return [(body["type"], body["data"]) for body in bodies]


async def test_disabled_by_failures(tmp_path: Path) -> None:
    """What disabled a subscription is told with its reason and counters, as a signed event like any."""
    async with Receiver(500) as failing, Receiver() as ours, running(tmp_path) as made:
        watcher = await made.subscribe(ours.url, tenant="hookengine", event_types=[SUBSCRIPTION_DISABLED])
        broken = await made.subscribe(failing.url, tenant="acme", name="shop", disable_after_failures=1)
        await made.publish("order.created", {}, tenant="acme")
        [request] = await ours.wait(1)
        shown = await made.subscription(broken.id)
        [event] = (await made.events(tenant="hookengine")).data

    verify(request.body, dict(request.headers), str(watcher.secret))
    [(type_, data)] = told([request])
    moments = {name: data.pop(name) for name in ("failing_since", "last_failure_at")}
    assert SUBSCRIPTION_DISABLED == type_
    assert {
        "subscription": broken.id,
        "tenant": "acme",
        "name": "shop",
        "reason": "failures",
        "consecutive_failures": 1,
        "last_success_at": None,
    } == data
    assert all(moment.endswith("Z") for moment in moments.values())
    assert ("disabled", "failures") == (shown.state, shown.disabled_reason)
    assert (event.id, 1) == (request.header("webhook-id"), event.deliveries)


@pytest.mark.parametrize("by", ["action", "patch"])
async def test_disabled_and_enabled_by_hand(tmp_path: Path, by: str) -> None:
    """Changes by hand are told too, each once; what changes nothing is not."""
    async with Receiver() as ours, running(tmp_path) as made:
        await made.subscribe(ours.url, tenant="hookengine", event_types=["hookengine.*"], max_concurrency=1)
        one = await made.subscribe("http://127.0.0.1:8099/", tenant="acme")
        for _ in range(2):
            await (made.disable(one.id) if by == "action" else made.update_subscription(one.id, state="disabled"))
        for _ in range(2):
            await (made.enable(one.id) if by == "action" else made.update_subscription(one.id, state="active"))
        await made.update_subscription(one.id, name="n")
        await made.disable(one.id)
        requests = await ours.wait(3)
        events = (await made.events(tenant="hookengine")).data

    assert [SUBSCRIPTION_DISABLED, SUBSCRIPTION_ENABLED, SUBSCRIPTION_DISABLED] == [type_ for type_, _ in told(requests)]
    assert 3 == len(events)
    (_, disabled), (_, enabled), _ = told(requests)
    assert ("manual", 0) == (disabled["reason"], disabled["consecutive_failures"])
    assert {"subscription": one.id, "tenant": "acme", "name": None} == enabled


async def test_delivery_failed(tmp_path: Path) -> None:
    """A delivery that is given up is told with its event and how it ended, once, and not before its last attempt."""
    async with Receiver([503, 500]) as failing, Receiver() as ours, running(tmp_path) as made:
        await made.subscribe(ours.url, tenant="hookengine", event_types=[DELIVERY_FAILED])
        one = await made.subscribe(failing.url, tenant="acme", retry_schedule=["0s"])
        event = await made.publish("order.created", {"secret": 1}, tenant="acme")
        [failed] = await made.wait(event.id, timeout=PATIENCE)
        requests = await ours.wait(1)

    assert [
        (
            DELIVERY_FAILED,
            {
                "delivery": failed.id,
                "event": event.id,
                "event_type": "order.created",
                "subscription": one.id,
                "tenant": "acme",
                "attempt_count": 2,
                "failed_label": None,
                "status_code": 500,
                "error": "http_status",
            },
        )
    ] == told(requests)


async def test_our_type_is_seen_where_an_envelope_has_data_go_first(tmp_path: Path) -> None:
    """The profile clearfeed lets members of the data take the place of its own: none of ours is named so."""
    async with Receiver(500) as failing, Receiver() as ours, running(tmp_path) as made:
        await made.subscribe(ours.url, tenant="hookengine", profile="clearfeed", event_types=["hookengine.*"])
        await made.subscribe(failing.url, tenant="acme", disable_after_failures=1, **ONCE)
        await made.publish("order.created", {}, tenant="acme")
        _, *requests = await ours.wait(3)

    bodies = [orjson.loads(request.body) for request in requests]
    assert {("hookengine", "delivery.failed"), ("hookengine", "subscription.disabled")} == {
        (body["type"], body["sub_type"]) for body in bodies
    }


async def test_delivery_expired(tmp_path: Path) -> None:
    """One that expires is told too, without an attempt: while it waits, and while it is held."""
    async with Receiver() as ours, running(tmp_path) as made:
        await made.subscribe(ours.url, tenant="hookengine", event_types=[DELIVERY_FAILED])
        served = await made.subscribe("http://127.0.0.1:8099/", tenant="served")
        held = await made.subscribe("http://127.0.0.1:8099/", tenant="held", state="disabled")
        expires_at = "2020-01-01T00:00:00Z"
        first = await made.publish("order.created", {}, tenant="served", expires_at=expires_at)
        second = await made.publish("order.paid", {}, tenant="held", expires_at=expires_at)
        await made._running.store.writer.change(upkeep.expire)  # as the next round of upkeep does
        requests = await ours.wait(2)

    found = {data["subscription"]: data for _, data in told(requests)}
    assert {served.id: (first.id, "order.created"), held.id: (second.id, "order.paid")} == {
        name: (data["event"], data["event_type"]) for name, data in found.items()
    }
    assert {("expired", 0, None, None)} == {
        (data["failed_label"], data["attempt_count"], data["status_code"], data["error"]) for data in found.values()
    }


async def test_nobody_asks(tmp_path: Path) -> None:
    """Without a subscription that takes them in, none is made: not for one of another type, nor of another tenant."""
    async with Receiver(500) as failing, Receiver() as ours, running(tmp_path) as made:
        await made.subscribe(ours.url, tenant="hookengine", event_types=[SUBSCRIPTION_ENABLED])
        await made.subscribe(ours.url, tenant="other", event_types=["*"])
        one = await made.subscribe(failing.url, tenant="acme", disable_after_failures=1, **ONCE)
        event = await made.publish("order.created", {}, tenant="acme")
        await made.wait(event.id, timeout=PATIENCE)
        assert "disabled" == (await made.subscription(one.id)).state
        events = (await made.events()).data

    assert ([event.id], []) == ([each.id for each in events], ours.requests)


async def test_no_loop(tmp_path: Path, journal: Journal) -> None:
    """An operational event whose own delivery fails, and disables its subscription, makes no further event."""
    async with Receiver(500) as failing, Receiver(500) as ours, running(tmp_path, journal) as made:
        watcher = await made.subscribe(ours.url, tenant="hookengine", disable_after_failures=1, **ONCE)
        await made.subscribe(failing.url, tenant="acme", **ONCE)
        event = await made.publish("order.created", {}, tenant="acme")
        await made.wait(event.id, timeout=PATIENCE)
        await journal.until("subscription_disabled", subscription=watcher.id)
        await made.enable(watcher.id)
        await made.disable(watcher.id)
        [own] = (await made.events(tenant="hookengine")).data
        [delivery] = (await made.deliveries(tenant="hookengine")).data

    assert (DELIVERY_FAILED, own.id, "failed", 1) == (own.type, delivery.event, delivery.state, len(ours.requests))


async def test_restart(tmp_path: Path) -> None:
    """An operational event is stored like any: it is delivered by the next start, too."""
    async with Receiver() as ours:
        async with running(tmp_path) as made:
            watcher = await made.subscribe(ours.url, tenant="hookengine", state="disabled")
            await made.disable((await made.subscribe("http://127.0.0.1:8099/")).id)
        async with running(tmp_path) as made:
            await made.enable(watcher.id)
            assert [SUBSCRIPTION_DISABLED] == [type_ for type_, _ in told(await ours.wait(1))]


def test_same_commit() -> None:
    """Cause and event are rows of one commit, and of a cause that is not committed nothing is told."""
    clock = SetClock()
    watcher = subscription(clock, seq=2, tenant="hookengine", event_types=("*",))
    index = Index([subscription(clock, seq=1), watcher])
    made = Batch(now=NOW, clock=clock, numbers=RowNumbers(2, 100, 200, 300), index=index, health={})
    rules = replace(RULES, disable_after_failures=1, retry_schedule=())
    before = Delivery(seq=5, id="dlv_5", event=1, subscription=1, due_at=1, created_at=1)
    made.add_results([result(before, NO_ANSWER, rules=rules)])
    commit = made.commit(VAULT)

    events, deliveries = commit.events.rows, commit.deliveries.rows
    assert (1, 1, 2, 2) == tuple(map(len, (commit.settled.rows, commit.changed, events, deliveries)))
    assert [2, 2] == [delivery.subscription for delivery, _ in made.accepted]
    assert [101, 102] == [event.seq for _, event in made.accepted]


# Who may ask for them.


async def test_unbound_admin_may_ask(tmp_path: Path) -> None:
    """The engine's own tenant is open to unbound tokens with admin alone, in new subscriptions and in changes."""
    async with serving(tmp_path) as api:
        plain = (await api.made("/v1/tokens", {"user": "plain"}))["token"]
        admin = (await api.made("/v1/tokens", {"user": "boss", "scopes": ["subscriptions:write", "admin"]}))["token"]
        bound = (await api.made("/v1/tokens", {"user": "bound", "tenant": "acme"}))["token"]
        wanted = {"url": "http://127.0.0.1:8099/", "tenant": "hookengine", "event_types": ["hookengine.*"]}
        made = [await api("POST", "/v1/subscriptions", wanted, token=token) for token in (plain, bound, admin)]
        path = f"/v1/subscriptions/{made[2].json['id']}"
        changed = [await api("PATCH", path, {"name": "n"}, token=token) for token in (plain, bound, admin)]
        published = await api("POST", "/v1/events", {"type": "a", "data": 1, "tenant": "hookengine"})

    assert [422, 403, 201] == [answer.status for answer in made]
    assert [422, 404, 200] == [answer.status for answer in changed]
    assert [("/tenant", "reserved_tenant")] == made[0].places == changed[0].places == published.places


async def test_strict_event_types(tmp_path: Path) -> None:
    """Where types must be declared, the engine's own need not be."""
    async with running(tmp_path, strict_event_types=True) as made:
        one = await made.subscribe("http://127.0.0.1:8099/", tenant="hookengine", event_types=[DELIVERY_FAILED])
        changed = await made.update_subscription(one.id, event_types=[SUBSCRIPTION_ENABLED])

    assert [SUBSCRIPTION_ENABLED] == changed.event_types


# Automatic disabling, in Clarife's words.


async def fail(made: Engine, count: int) -> None:
    """Publish *count* events."""
    for _ in range(count):
        await made.publish("document.updated", {}, tenant="clarife")


async def test_clarife_disables_after_ten_failures(tmp_path: Path, journal: Journal) -> None:
    """Ten failed attempts running, of ten deliveries with one each, disable a subscription, and it says why."""
    async with Receiver(500) as failing, running(tmp_path, journal) as made:
        one = await made.subscribe(failing.url, profile="clarife", tenant="clarife")
        await fail(made, 12)
        await journal.until("subscription_disabled", subscription=one.id, reason="failures")
        shown = await made.subscription(one.id)
        states = {each.state for each in (await made.deliveries(subscription=one.id)).data}

    assert ("disabled", "failures", 10) == (shown.state, shown.disabled_reason, shown.consecutive_failures)
    assert ({"held"}, 10) == (states, len(failing.requests))


async def test_clarife_counts_retries_and_other_deliveries_alike(tmp_path: Path, journal: Journal) -> None:
    """Retries of one event count like first attempts of others: three deliveries with four attempts are enough."""
    async with Receiver(500) as failing, running(tmp_path, journal) as made:
        schedule = ["0s", "0s", "0s"]
        one = await made.subscribe(failing.url, profile="clarife", tenant="clarife", retry_schedule=schedule)
        await fail(made, 3)
        await journal.until("subscription_disabled", subscription=one.id, reason="failures")
        counts = sorted(each.attempt_count for each in (await made.deliveries(subscription=one.id)).data)

    assert (10, 10) == (sum(counts), len(failing.requests))


async def test_clarife_success_starts_the_count_again(tmp_path: Path, journal: Journal) -> None:
    """Nine failures, a success and nine more leave it active; the tenth disables it."""
    async with Receiver([*[500] * 9, 200, *[500] * 10]) as failing, running(tmp_path, journal) as made:
        one = await made.subscribe(failing.url, profile="clarife", tenant="clarife", max_concurrency=1, **ONCE)
        await fail(made, 19)
        await journal.until("attempt_failed", 18)
        between = await made.subscription(one.id)
        await fail(made, 1)
        await journal.until("subscription_disabled", subscription=one.id)

    assert ("active", 9, 20) == (between.state, between.consecutive_failures, len(failing.requests))


async def test_clarife_enabling_starts_the_count_again(tmp_path: Path, journal: Journal) -> None:
    """Switched on again it has ten failures more, and says no longer why it was off."""
    async with Receiver(500) as failing, running(tmp_path, journal) as made:
        one = await made.subscribe(failing.url, profile="clarife", tenant="clarife", max_concurrency=1, **ONCE)
        await fail(made, 10)
        await journal.until("subscription_disabled")
        enabled = await made.enable(one.id)
        await fail(made, 9)
        await journal.until("attempt_failed", 19)
        between = await made.subscription(one.id)
        await fail(made, 1)
        await journal.until("subscription_disabled", 2)

    assert ("active", None, 0) == (enabled.state, enabled.disabled_reason, enabled.consecutive_failures)
    assert ("active", 9, 20) == (between.state, between.consecutive_failures, len(failing.requests))


async def test_announcements_keep_no_publication_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many deliveries tell of the results in a commit, the events that come with them are in it too."""
    monkeypatch.setattr(commits, "MOST_DELIVERIES", 2)
    async with opened(tmp_path) as place:
        failing = await place.subscribe(tenant="acme", event_types=("order",))
        for _ in range(3):
            await place.subscribe(tenant="hookengine", event_types=("hookengine.*",))
        [delivery] = await place.deliver(draft(tenant="acme", type="order"))
        gone = result(delivery, NO_ANSWER, rules=replace(RULES, retry_schedule=()))
        place.store.writer.record(gone)
        await place.publish(draft(tenant="acme", type="other"))

        assert (failing.seq, (2, 3)) == (delivery.subscription, place.listener.commits[-1])
