"""The Python API of a running engine."""

from __future__ import annotations

import asyncio
import math
import threading
from collections import ChainMap, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest
from engines import Gate, only, running
from msgspec import UNSET
from msgspec.structs import replace
from patience import PATIENCE
from storage import io_error

from hookengine.config import Config, Plan
from hookengine.engine import Engine
from hookengine.errors import (
    EventNotFound,
    EventTypeNotFound,
    HookEngineError,
    Invalid,
    Malformed,
    PreconditionFailed,
    Stopping,
    SubscriptionLimitReached,
    SubscriptionNotFound,
    TenantNotFound,
    TenantSecretNotFound,
    TokenExists,
)
from hookengine.receiver import Receiver

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence
    from pathlib import Path


# Events in Python


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b'{"a": 1.10,  "a":\t2}', b'{"a": 1.10,  "a":\t2}', id="bytes are kept"),
        pytest.param(bytearray(b"[1e3]"), b"[1e3]", id="bytearray"),
        pytest.param(memoryview(b" null"), b"null", id="memoryview"),
        pytest.param({"b": 1, "a": [True, None]}, b'{"b":1,"a":[true,null]}', id="dict"),
        pytest.param("text", b'"text"', id="text"),
        pytest.param(None, b"null", id="none"),
        pytest.param({"at": datetime(2026, 1, 2, tzinfo=UTC)}, b'{"at":"2026-01-02T00:00:00+00:00"}', id="datetime"),
    ],
)
async def test_data_is_kept_or_printed(running_engine: Engine, data: object, expected: bytes) -> None:
    """JSON text is the producer's own; objects are printed."""
    event = await running_engine.publish("order.created", data)

    assert expected.strip() == (await running_engine.event(event.id)).data.strip()


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="cut"),
        pytest.param(b'{"a":1}}', id="more"),
        pytest.param(b'1},"type":"x"', id="another member"),
        pytest.param(b"\xff", id="no UTF-8"),
        pytest.param(b'"\\ud800"', id="lone surrogate"),
        pytest.param(b"[" * 65 + b"]" * 65, id="deep"),
        pytest.param(b"NaN", id="NaN"),
    ],
)
async def test_bytes_that_are_no_json_are_refused(running_engine: Engine, data: bytes) -> None:
    """They are the caller's mistake, as over HTTP, and nothing is stored."""
    with pytest.raises((Malformed, Invalid)):
        await running_engine.publish("order.created", data)

    assert [] == (await running_engine.events()).data


async def test_batch_says_which_is_no_json(running_engine: Engine) -> None:
    """Of several events the one whose data cannot be taken is named, and none is stored."""
    for data, reason in ((b"{", "line 1, column 2"), ({1, 2}, "cannot be printed as JSON")):
        with pytest.raises(Malformed, match=f"^/2/data: .*{reason}"):
            await running_engine.publish_batch([{"type": "a", "data": each} for each in (1, b"2", data)])

    assert [] == (await running_engine.events()).data


async def test_publish_takes_what_http_takes(running_engine: Engine) -> None:
    """Every member of an event can be given, times as datetimes or as texts."""
    async with Receiver() as receiver:
        sub = await running_engine.subscribe(receiver.url, tenant="acme", event_types=["other"])
        soon = datetime.now(UTC) + timedelta(hours=1)
        event = await running_engine.publish(
            "order.created",
            {"id": 1},
            tenant="acme",
            id="mine-1",
            occurred_at="2020-01-02T03:04:05+01:00",
            priority="high",
            ordering_key="k",
            deliver_at=soon,
            expires_at=soon + timedelta(hours=1),
            subscriptions=[sub.id],
        )

    assert ("mine-1", "acme", "k", 1) == (event.id, event.tenant, event.ordering_key, event.deliveries)
    assert datetime(2020, 1, 2, 2, 4, 5, tzinfo=UTC) == event.occurred_at
    delivery = await only(running_engine)
    assert delivery.next_attempt_at is not None
    assert abs(delivery.next_attempt_at - soon) <= timedelta(milliseconds=1)


async def test_text_is_no_list(running_engine: Engine) -> None:
    """A text where several are meant is a mistake, not its letters."""
    event = await running_engine.publish("order", {})
    made = await running_engine.subscribe("http://127.0.0.1:8080/", event_types=["never"])
    for asked in (
        running_engine.publish("order", {}, subscriptions="sub_1"),
        running_engine.replay_event(event.id, subscriptions=made.id),
        running_engine.subscribe("http://127.0.0.1:8080/", event_types="order"),
        running_engine.subscribe("http://127.0.0.1:8080/", retry_schedule=""),
        running_engine.subscribe("http://127.0.0.1:8080/", retry_schedule=5),  # type: ignore[arg-type]
        running_engine.replay(made.id, states="failed"),  # type: ignore[arg-type]
        running_engine.create_token("ann", scopes="admin"),
    ):
        with pytest.raises(Invalid, match="expected an array, got"):
            await asked

    sub = await running_engine.subscribe("http://127.0.0.1:8080/", event_types={"order": 1}.keys())  # type: ignore[arg-type]
    assert ["order"] == sub.event_types


async def test_batch_is_all_or_nothing(running_engine: Engine) -> None:
    """A batch is accepted in its order, or not at all, with a pointer to each mistake."""
    events = await running_engine.publish_batch([{"type": "a", "data": n} for n in range(3)])
    assert ["a"] * 3 == [event.type for event in events]
    with pytest.raises(Invalid) as refused:
        await running_engine.publish_batch([{"type": "a", "data": 1}, {"type": "a b", "data": 1}, {"data": 1}])

    assert ["/1/type", "/2/type"] == [mistake.pointer for mistake in refused.value.mistakes]
    stored = (await running_engine.events()).data
    assert [event.id for event in reversed(events)] == [event.id for event in stored]


async def test_lists_are_paged(running_engine: Engine) -> None:
    """A page leads to the next, newest first, and takes the filters of the API."""
    async with Receiver() as receiver:
        subs = [await running_engine.subscribe(receiver.url, tenant="acme") for _ in range(3)]
        for n in range(3):
            event = await running_engine.publish(f"type.{n}", n, tenant="acme")
            await running_engine.wait(event.id, PATIENCE)
        first = await running_engine.events(limit=2)
        second = await running_engine.events(limit=2, cursor=first.next_cursor)
        by_type = await running_engine.events(type="type.1", tenant="acme", until=datetime.now(UTC) + timedelta(hours=1))
        deliveries = await running_engine.deliveries(event=event.id, state="delivered", tenant="acme")
        subscriptions = await running_engine.subscriptions(tenant="acme", state="active", limit=2)

    assert [["type.2", "type.1"], ["type.0"]] == [[event.type for event in page.data] for page in (first, second)]
    assert (["type.1"], None) == ([event.type for event in by_type.data], second.next_cursor)
    assert {sub.id for sub in subs} == {delivery.subscription for delivery in deliveries.data}
    assert [subs[2].id, subs[1].id] == [sub.id for sub in subscriptions.data]


# Waiting for deliveries


async def test_wait_returns_when_all_are_final(running_engine: Engine) -> None:
    """One delivered, one failed and one cancelled delivery are what is waited for."""
    gate = Gate()
    async with Receiver() as good, Receiver(500) as bad, Receiver(gate) as slow:
        for receiver in (good, bad, slow):
            last = await running_engine.subscribe(receiver.url, retry_schedule=["5ms"])
        event = await running_engine.publish("order.created", {})
        waiting = asyncio.create_task(running_engine.wait(event.id, PATIENCE))
        await gate.arrived()
        await bad.wait(2)
        [pending] = (await running_engine.deliveries(subscription=last.id)).data
        assert not waiting.done()
        await running_engine.cancel(pending.id)
        deliveries = await waiting

    assert ["delivered", "failed", "cancelled"] == [delivery.state for delivery in deliveries]


async def test_wait_has_an_end(running_engine: Engine) -> None:
    """A delivery that takes longer than the timeout is a TimeoutError, and goes on."""
    gate = Gate()
    async with Receiver(gate) as receiver:
        await running_engine.subscribe(receiver.url)
        event = await running_engine.publish("order.created", {})
        with pytest.raises(TimeoutError):
            await running_engine.wait(event.id, 0.02)
        gate.open()

        assert ["delivered"] == [delivery.state for delivery in await running_engine.wait(event.id, PATIENCE)]


async def test_wait_ends_when_a_delivery_is_held(running_engine: Engine) -> None:
    """A held delivery is a TimeoutError at once, also if it comes to be held meanwhile."""
    gate = Gate()
    async with Receiver(gate) as receiver:
        sub = await running_engine.subscribe(receiver.url)
        event = await running_engine.publish("order.created", {})
        waiting = asyncio.create_task(running_engine.wait(event.id, PATIENCE))
        await gate.arrived()
        await running_engine.disable(sub.id)
        async with asyncio.timeout(2):
            for call in (waiting, running_engine.wait(event.id, PATIENCE)):
                with pytest.raises(TimeoutError, match="held"):
                    await call


async def test_wait_for_nothing(running_engine: Engine) -> None:
    """An event without deliveries is done at once; one that is not there is not found."""
    event = await running_engine.publish("order.created", {})

    assert [] == await running_engine.wait(event.id, PATIENCE)
    with pytest.raises(EventNotFound):
        await running_engine.wait("evt_unknown", PATIENCE)


class Lingering:
    """A writer's connection whose commits are on disk, or fail with *error*, before it says so: not until it `may_say`."""

    def __init__(self, engine: Engine, error: sqlite3.Error | None = None) -> None:
        self.committed = threading.Event()
        self.may_say = threading.Event()
        self._error = error
        self._db = engine._running.store.writer._writing.db
        engine._running.store.writer._writing.db = self  # type: ignore[assignment]  # it behaves as one

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    @property
    def _conn(self) -> Lingering:
        return self

    def execute(self, statement: str, values: Sequence[Any]) -> sqlite3.Cursor | None:
        """Execute *statement*, in the connection's thread."""
        done = None if self._error is not None else self._db._conn.execute(statement, values)
        self.committed.set()
        assert self.may_say.wait(PATIENCE)
        if self._error is not None:
            raise self._error
        return done


async def test_wait_is_over_when_what_follows_is_known(running_engine: Engine) -> None:
    """Who has waited sees what follows: the file, that another thread writes, may be ahead of what we know."""
    gate = Gate()
    async with Receiver(gate) as receiver:
        sub = await running_engine.subscribe(receiver.url, retry_schedule=[], disable_after_failures=1)
        event = await running_engine.publish("order.created", {})

        async def state_after() -> str:
            await running_engine.wait(event.id, PATIENCE)
            return (await running_engine.subscription(sub.id)).state

        await gate.arrived()
        connection = Lingering(running_engine)
        gate.open(500)
        assert await asyncio.to_thread(connection.committed.wait, PATIENCE)
        after = asyncio.create_task(state_after())
        for _ in range(2):  # in the order asked: when they are read, so is what `wait` looks at
            [found] = (await running_engine.deliveries(subscription=sub.id)).data
        connection.may_say.set()

        assert ("failed", "disabled") == (found.state, await after)


async def test_wait_does_not_depend_on_a_commit(running_engine: Engine) -> None:
    """What was cancelled is over, whether or not the end of its attempt can be recorded: that is waited for once."""
    gate = Gate()
    async with Receiver(gate) as receiver:
        sub = await running_engine.subscribe(receiver.url)
        event = await running_engine.publish("order.created", {})
        await gate.arrived()
        [pending] = (await running_engine.deliveries(subscription=sub.id)).data
        await running_engine.cancel(pending.id)
        connection = Lingering(running_engine, io_error("SQLITE_FULL"))
        gate.open()
        assert await asyncio.to_thread(connection.committed.wait, PATIENCE)
        waiting = asyncio.create_task(running_engine.wait(event.id, PATIENCE))
        for _ in range(2):  # as above
            await running_engine.deliveries(subscription=sub.id)
        assert not waiting.done()
        connection.may_say.set()

        assert ["cancelled"] == [delivery.state for delivery in await waiting]


@pytest.mark.parametrize("text", ["\ud800", "a\udfff"])
async def test_half_a_character_is_no_filter(running_engine: Engine, text: str) -> None:
    """Whoever asks for what no text can be hears so, and does not get everything."""
    await running_engine.subscribe("https://example.com/hook", event_types=["never"])
    event = await running_engine.publish("order.created", {})
    for asked in (
        running_engine.events(type=text),
        running_engine.events(tenant=text),
        running_engine.deliveries(subscription=text),
        running_engine.deliveries(event=text),
        running_engine.subscriptions(tenant=text),
        running_engine.explain(event.id, subscription=text),
    ):
        with pytest.raises(Invalid, match="a lone surrogate is no character"):
            await asked


# Subscriptions in Python


async def test_subscription_has_its_settings(running_engine: Engine) -> None:
    """Every setting can be given and is shown, but for credentials; the secret comes once."""
    given = {
        "event_types": ["order.*"],
        "name": "billing",
        "tenant": "acme",
        "profile": "svix",
        "method": "PUT",
        "timeout": "3s",
        "retry_schedule": ["1m", "90s"],
        "disable_after_failures": 7,
        "while_disabled": "skip",
        "max_concurrency": 3,
        "metadata": {"a": [1]},
        "state": "disabled",
    }
    made = await running_engine.subscribe(
        "http://127.0.0.1:8099/hook",
        headers={"X-Key": "k"},
        auth={"type": "basic", "username": "u", "password": "p"},
        **given,  # type: ignore[arg-type]  # as declared
    )
    shown = await running_engine.subscription(made.id)

    assert given == {name: getattr(shown, name) for name in given}
    assert ({"X-Key": "***"}, {"type": "basic", "username": "u"}) == (shown.headers, shown.auth)
    assert str(made.secret).startswith("whsec_")
    assert made.secret == (await running_engine.secret(made.id)).secret
    assert "secret" not in repr(shown)


async def test_addressing_is_a_setting(running_engine: Engine) -> None:
    """`target_id` and `key_values` are given, shown and changed like the others, where the profile sends them."""
    async with Receiver() as receiver:
        made = await running_engine.subscribe(
            receiver.url, profile="clevertap", target_id=5, key_values={"a": 1, "b": {"c": None}}
        )
    shown = await running_engine.subscription(made.id)
    changed = await running_engine.update_subscription(made.id, target_id=None, key_values={"a": None})

    assert (5, {"a": 1, "b": {"c": None}}) == (shown.target_id, shown.key_values)
    assert (0, {"b": {"c": None}}) == (changed.target_id, changed.key_values)


async def test_update_checks_the_version(running_engine: Engine) -> None:
    """A change on top of what was read goes through once, and None takes a setting back to its default."""
    made = await running_engine.subscribe("http://127.0.0.1:8099/hook", max_concurrency=3)
    changed = await running_engine.update_subscription(made.id, version=made.version, max_concurrency=None, name="n")

    assert (8, "n", made.version + 1) == (changed.max_concurrency, changed.name, changed.version)
    with pytest.raises(PreconditionFailed):
        await running_engine.update_subscription(made.id, version=made.version, name="other")


@pytest.mark.parametrize("version", ["3", 3.0, True, [3]], ids=repr)
async def test_version_is_a_number(running_engine: Engine, version: Any) -> None:
    """A version of another type is told as that, not as a change by somebody else."""
    made = await running_engine.subscribe("http://127.0.0.1:8099/hook")
    with pytest.raises(Invalid, match="expected an integer"):
        await running_engine.update_subscription(made.id, version=version, name="other")


async def test_update_takes_what_subscribe_takes(running_engine: Engine) -> None:
    """Whatever is a mapping is merged as a dict is, and whatever can be gone through is a list."""
    given: dict[str, Any] = {
        "headers": MappingProxyType({"X-A": "1"}),
        "metadata": ChainMap({"a": MappingProxyType({"b": 1})}),
        "auth": MappingProxyType({"type": "basic", "username": "u", "password": "p"}),
    }
    made = await running_engine.subscribe("http://127.0.0.1:8099/hook", event_types={"a": 1}.keys(), **given)  # type: ignore[arg-type]  # what must work
    changed = await running_engine.update_subscription(
        made.id,
        event_types=(each for each in ["b", "c.*"]),
        retry_schedule=deque(["1m", "2m"]),
        headers=MappingProxyType({"X-A": "***", "X-B": "2"}),
        metadata=ChainMap({"a": MappingProxyType({"c": 2}), "d": None}),
        auth=MappingProxyType({"username": "v"}),
    )

    assert ["a"] == made.event_types
    assert (["b", "c.*"], ["1m", "2m"]) == (changed.event_types, changed.retry_schedule)
    assert {"X-A": "***", "X-B": "***"} == changed.headers
    assert {"a": {"b": 1, "c": 2}} == changed.metadata
    assert {"type": "basic", "username": "v"} == changed.auth


async def test_rotated_secret_keeps_the_one_before(running_engine: Engine) -> None:
    """After a rotation both secrets are listed, the old one with its end."""
    made = await running_engine.subscribe("http://127.0.0.1:8099/hook")
    rotated = await running_engine.rotate_secret(made.id, overlap="1h")

    assert made.secret != rotated.secret
    assert [made.secret] == [old.secret for old in rotated.previous]


async def test_deleted_subscription_is_gone(running_engine: Engine) -> None:
    """It is not found any more, by nobody, and gets nothing."""
    made = await running_engine.subscribe("http://127.0.0.1:8099/hook")
    await running_engine.unsubscribe(made.id)

    for call in (running_engine.subscription, running_engine.unsubscribe, running_engine.enable):
        with pytest.raises(SubscriptionNotFound):
            await call(made.id)
    assert 0 == (await running_engine.publish("order.created", {})).deliveries


async def test_every_error_is_ours(running_engine: Engine) -> None:
    """What a caller does wrong is raised as one of the documented errors."""
    for call in (
        running_engine.publish("no type", 1),
        running_engine.subscribe("ftp://example.com"),
        running_engine.delivery("dlv_unknown"),
        running_engine.retry("dlv_unknown"),
        running_engine.events(limit=0),
    ):
        with pytest.raises(HookEngineError):
            await call


# Event types, tenants and tokens in Python


@pytest.mark.parametrize(
    ("example", "expected"),
    [
        pytest.param(None, None, id="none"),
        pytest.param(b'{ "n" : 1.10 }', b'{ "n" : 1.10 }', id="bytes are kept"),
        pytest.param({"n": 1}, b'{"n":1}', id="dict"),
        pytest.param(b"null", None, id="null"),
    ],
)
async def test_event_type_in_python(running_engine: Engine, example: object, expected: bytes | None) -> None:
    """A type is declared with an example as data is published, changed whole, listed and deleted."""
    made = await running_engine.set_event_type("order.created", description="An order", example=example, deprecated=True)
    assert ("order.created", "An order", expected, True) == (made.type, made.description, made.example, made.deprecated)
    assert made == await running_engine.event_type("order.created")
    assert [made] == (await running_engine.event_types(limit=1)).data
    again = await running_engine.set_event_type("order.created", description="Other")

    assert (None, False) == (again.example, again.deprecated)
    await running_engine.delete_event_type("order.created")
    with pytest.raises(EventTypeNotFound):
        await running_engine.event_type("order.created")


async def test_example_that_is_no_json(running_engine: Engine) -> None:
    """Bytes that are no JSON text are refused, as over HTTP."""
    with pytest.raises(Malformed):
        await running_engine.set_event_type("a", description="", example=b"{")


async def test_tenant_in_python(tmp_path: Path) -> None:
    """A tenant is put on a plan, which limits it, and taken off it."""
    config = Config(plans={"pro": Plan(max_subscriptions=1)})
    async with Engine(tmp_path / "hooks.db", config=config) as engine:
        made = await engine.set_tenant("acme", plan="pro")
        await engine.subscribe("https://example.com/", tenant="acme")
        with pytest.raises(SubscriptionLimitReached):
            await engine.subscribe("https://example.com/", tenant="acme")
        shown = await engine.tenant("acme")
        assert (0, 1, 1) == (made.subscriptions, shown.subscriptions, shown.max_subscriptions)
        assert [shown] == (await engine.tenants()).data
        assert None is (await engine.set_tenant("acme")).plan
        await engine.subscribe("https://example.com/", tenant="acme")
        await engine.delete_tenant("acme")

        with pytest.raises(TenantNotFound):
            await engine.tenant("acme")


async def test_tenant_secret_in_python(running_engine: Engine) -> None:
    """A tenant's secret is made, rotated, shown and deleted."""
    first = await running_engine.set_tenant_secret("acme")
    second = await running_engine.set_tenant_secret("acme", secret="mine", overlap="1h")

    assert ("mine", [first.secret]) == (second.secret, [old.secret for old in second.previous])
    assert second == await running_engine.tenant_secret("acme")
    await running_engine.delete_tenant_secret("acme")
    with pytest.raises(TenantSecretNotFound):
        await running_engine.tenant_secret("acme")


@pytest.mark.parametrize("as_text", [False, True], ids=["datetime", "text"])
async def test_token_in_python(running_engine: Engine, *, as_text: bool) -> None:
    """A token is made with what HTTP takes, shown once, listed without itself, and deleted."""
    later = datetime(2100, 1, 1, tzinfo=UTC)
    made = await running_engine.create_token(
        "ann", scopes=("events:read",), tenant="acme", expires_at=later.isoformat() if as_text else later
    )
    [shown] = (await running_engine.tokens()).data

    assert str(made.token).startswith("hke_")
    assert (["events:read"], "acme", later) == (made.scopes, made.tenant, made.expires_at)
    assert (replace(made, token=UNSET), UNSET) == (shown, shown.token)
    assert str(made.token) not in repr(made)
    with pytest.raises(TokenExists):
        await running_engine.create_token("ann")
    await running_engine.delete_token("ann")
    assert 4 == len((await running_engine.create_token("ann")).scopes)


# What became of them


async def test_explanations_replays_and_statistics(running_engine: Engine) -> None:
    """An event is explained, goes again by itself and with its subscription's others, and all of it is counted."""
    async with Receiver([500, 200]) as receiver:
        sub = await running_engine.subscribe(receiver.url, retry_schedule=[], tenant="acme")
        started = datetime.now(UTC)
        event = await running_engine.publish("order.created", {"n": 1}, tenant="acme")
        await running_engine.wait(event.id, PATIENCE)
        [before] = (await running_engine.explain(event.id, tenant="acme", subscription=sub.id)).subscriptions
        since = started - timedelta(hours=1)
        assert 1 == (await running_engine.replay(sub.id, since=since, until="2100-01-01T00:00:00Z", dry_run=True)).count
        again = await running_engine.replay_event(event.id, tenant="acme", subscriptions=[sub.id])
        await running_engine.wait(event.id, PATIENCE)
        [after] = (await running_engine.explain(event.id, limit=1)).subscriptions
        assert 0 == (await running_engine.replay(sub.id, states=["failed"])).count
        stats = await running_engine.stats(sub.id, since=since)

    assert (event.id, 1) == (again.id, again.deliveries)
    assert [(False, "failed"), (True, "delivered")] == [(each.delivered, each.state) for each in (before, after)]
    assert (1, 1, 2) == (stats.deliveries.delivered, stats.deliveries.failed, stats.attempts.total)


@pytest.mark.parametrize("events", [[1], [None], [[]]])
async def test_events_that_are_none(running_engine: Engine, events: Any) -> None:
    """What is no mapping is told as any other mistake, with its place."""
    with pytest.raises(Invalid) as raised:
        await running_engine.publish_batch(events)

    assert ("/0", "invalid_type") == (raised.value.mistakes[0].pointer, raised.value.mistakes[0].code)


class Odd(Enum):
    """What orjson prints as its value."""

    NONE = math.nan
    SEVERAL = (math.inf,)


@dataclass
class Measured:
    """What orjson prints as an object."""

    value: float


@dataclass
class Unset:
    """Of whose fields one has no value, beside one that orjson prints as null."""

    missing: int = field(init=False)
    value: float | None = None
    _own: int = 1


@dataclass(slots=True)
class Slotted(Unset):
    """The same without a dictionary."""

    other: int = field(init=False)


@pytest.mark.parametrize("kind", [Unset, dataclass(slots=True)(Unset), Slotted])
async def test_fields_without_a_value_are_left_out(running_engine: Engine, kind: type[Unset]) -> None:
    """A dataclass of which a field is not set yet is printed as what it has, and looked through for what is no number."""
    event = await running_engine.publish("order.created", [kind(), {"in": kind()}])
    with pytest.raises(Malformed, match="NaN"):
        await running_engine.publish("order.created", kind(value=math.nan))

    assert b'[{"value":null},{"in":{"value":null}}]' == bytes((await running_engine.event(event.id)).data)


@dataclass(slots=True)
class Order:
    """A dataclass whose fields are slots."""

    id: int
    total: int


class Refund(Order):
    """One of its kind that is not decorated itself, and has a dictionary beside the slots."""


@dataclass
class Return(Order):
    """One that is."""

    why: str = "broken"


async def test_fields_of_a_parent_are_printed(running_engine: Engine) -> None:
    """Whichever way a kind of dataclass keeps its fields, all of them are in the event, with what else it was given."""
    refund = Refund(7, 99)
    refund.note = "late"  # type: ignore[attr-defined]  # as programs do
    event = await running_engine.publish("order.refunded", [refund, Return(8, 1)])

    printed = b'[{"id":7,"total":99,"note":"late"},{"id":8,"total":1,"why":"broken"}]'
    assert printed == bytes((await running_engine.event(event.id)).data)


@pytest.mark.parametrize(
    "data",
    [
        *({1, 2}, 2**70, "\ud800", {"a": object()}),
        *(math.nan, -math.inf, {"a": [None, (1.0, math.inf)]}, Measured(math.nan), Measured, Odd.NONE, [Odd.SEVERAL]),
    ],
)
async def test_data_that_cannot_be_printed(running_engine: Engine, data: object) -> None:
    """What orjson cannot print is refused with its reason, as one of our own errors."""
    with pytest.raises(Malformed, match="cannot be printed as JSON"):
        await running_engine.publish("order.created", data)


async def test_answers_are_the_callers_own(running_engine: Engine) -> None:
    """Whatever a program does with what it was given changes nothing of the engine's."""
    made = await running_engine.subscribe("http://127.0.0.1:8080/", metadata={"m": {"n": 1}}, event_types=["never"])
    made.metadata["view"] = 1
    made.metadata["m"]["n"] = object()

    assert {"m": {"n": 1}} == (await running_engine.subscription(made.id)).metadata


@pytest.mark.parametrize("wrong", [5, None, ["x"], b"x", "\ud800"], ids=repr)
async def test_what_names_nothing_is_told(running_engine: Engine, wrong: Any) -> None:
    """An id of another type, such as the record in place of its id, or that no text can be, is a mistake of the caller's."""
    made = running_engine
    for asked in (
        made.event(wrong),
        made.wait(wrong, 1),
        made.explain(wrong),
        made.replay_event(wrong),
        made.subscription(wrong),
        made.update_subscription(wrong, name="x"),
        made.unsubscribe(wrong),
        made.enable(wrong),
        made.disable(wrong),
        made.secret(wrong),
        made.rotate_secret(wrong),
        made.test(wrong),
        made.replay(wrong),
        made.stats(wrong),
        made.delivery(wrong),
        made.retry(wrong),
        made.cancel(wrong),
        made.event_type(wrong),
        made.set_event_type(wrong, description="x"),
        made.delete_event_type(wrong),
        made.tenant(wrong),
        made.set_tenant(wrong),
        made.delete_tenant(wrong),
        made.tenant_secret(wrong),
        made.set_tenant_secret(wrong),
        made.delete_tenant_secret(wrong),
        made.delete_token(wrong),
    ):
        with pytest.raises(Invalid):
            await asked
    if wrong is not None:
        for listing in (made.deliveries(event=wrong), made.deliveries(subscription=wrong), made.events(tenant=wrong)):
            with pytest.raises(Invalid):
                await listing
        with pytest.raises(Invalid):
            made.stream(types=wrong, last_id=wrong)
        with pytest.raises(Invalid):
            await made.event("evt_1", tenant=wrong)


@pytest.mark.parametrize("wrong", ["10", float("nan"), [1], b"1"], ids=repr)
async def test_seconds_are_a_number(running_engine: Engine, wrong: Any) -> None:
    """Patience is told in seconds; what is no number of them stops nothing."""
    event = await running_engine.publish("a", 1)
    with pytest.raises(Invalid, match="expected a number of seconds"):
        await running_engine.wait(event.id, wrong)
    with pytest.raises(Invalid, match="expected a number of seconds"):
        await running_engine.stop(drain=wrong)

    assert [] == await running_engine.wait(event.id, 10**400)
    assert event.id == (await running_engine.event(event.id)).id


@pytest.mark.parametrize(
    "members",
    [
        {"method": "\ud800"},
        {"headers": {"X-A": "\ud800"}},
        {"headers": {"\ud800": "x"}},
        {"state": "\ud800"},
        {"ordering": "\ud800"},
        {"auth": {"type": "\ud800"}},
        {"auth": {"type": "basic", "username": "\ud800", "password": "x"}},
        {"batch": {"\ud800": 1}},
        {"metadata": {"a": ["\ud800"]}},
        {"max_concurrency": "\ud800"},
    ],
    ids=ascii,
)
async def test_half_a_surrogate_pair_is_a_mistake(running_engine: Engine, members: dict[str, Any]) -> None:
    """Wherever it stands it is told as any other mistake, and nothing is stored."""
    with pytest.raises(Invalid):
        await running_engine.subscribe("http://127.0.0.1:8080/", **members)

    assert [] == (await running_engine.subscriptions()).data


async def test_who_waits_or_reads_hears_of_the_stop(tmp_path: Path) -> None:
    """A stop ends waiting, and what is asked while it closes the file is answered or told that the engine stops."""
    async with running(tmp_path) as engine:
        sub = await engine.subscribe("http://127.0.0.1:8080/")
        event = await engine.publish("a", 1, deliver_at=datetime.now(UTC) + timedelta(hours=1))
        waiting = asyncio.create_task(engine.wait(event.id, 600))
        while not engine._running.service._waiters._waiting:  # noqa: ASYNC110  # it tells nobody
            await asyncio.sleep(0)
        stopping = asyncio.create_task(engine.stop(drain=0))
        told: list[Exception] = []
        while not stopping.done():
            try:
                await engine.deliveries(subscription=sub.id)
                await engine.event(event.id)
                await engine.explain(event.id)
            except (Stopping, RuntimeError) as error:
                told.append(error)
                await asyncio.sleep(0)
        await stopping
        with pytest.raises(Stopping):
            await waiting

    assert {Stopping, RuntimeError} >= {type(error) for error in told}
