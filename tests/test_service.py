"""The operations, asked by whoever may or may not: scopes, tenants, and Python's side of publishing and waiting."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from engines import Gate, running
from msgspec import UNSET, Raw
from patience import PATIENCE

from hookengine import views
from hookengine.access import OWNER, Principal, Scope
from hookengine.clock import Clock
from hookengine.engine import DATABASE, Engine
from hookengine.errors import (
    DeliveryNotFound,
    DeliveryStateConflict,
    EventNotFound,
    Forbidden,
    IdempotencyMismatch,
    Invalid,
    Malformed,
    NotFound,
    PreconditionFailed,
    Stopping,
    SubscriptionDisabled,
    SubscriptionNotFound,
    TenantSecretNotFound,
    TokenExists,
)
from hookengine.receiver import Receiver
from hookengine.service import RequestKey, Service, request_digest
from hookengine.store import Answer
from hookengine.times import format_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


pytestmark = pytest.mark.asyncio(loop_scope="module")

URL = "http://127.0.0.1:8099/hook"  # nobody listens there
LATER = format_time(Clock().now() + 86_400_000)
ACME = Principal(user="ann", scopes=frozenset(Scope) - {Scope.ADMIN}, tenant="acme")
OTHER = Principal(user="bob", scopes=frozenset(Scope) - {Scope.ADMIN}, tenant="other")

Operation = Callable[[Service, Principal], Awaitable[Any]]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Engine]:
    """One engine for all tests here."""
    async with running(tmp_path_factory.mktemp("service")) as made:
        yield made


@pytest.fixture
def service(engine: Engine) -> Service:
    """What every way in asks."""
    return engine._running.service


def event(**members: Any) -> dict[str, Any]:
    """An event in Python."""
    return {"type": "order.created", "data": {"n": 1}} | members


async def publish(service: Service, by: Principal = OWNER, **members: Any) -> views.Event:
    """One accepted event."""
    return await service.publish_value(by, event(**members))


async def subscribe(service: Service, by: Principal = OWNER, url: str = URL, **members: Any) -> views.Subscription:
    """One new subscription."""
    made = await service.subscribe(by, {"url": url} | members)
    assert isinstance(made, views.Subscription)
    return made


def places(error: Invalid) -> list[tuple[str | None, str]]:
    """Where the mistakes are, each with its code."""
    return [(mistake.pointer, mistake.code) for mistake in error.mistakes]


def key(body: bytes, name: str = "k", path: str = "/v1/events") -> RequestKey:
    """An Idempotency-Key of a request with *body*."""
    return RequestKey(method="POST", path=path, key=name, digest=request_digest(body))


# Who may.


OPERATIONS: dict[str, tuple[Scope, Operation]] = {
    "publish": (Scope.EVENTS_WRITE, lambda s, by: s.publish_values(by, [event()])),
    "publish_value": (Scope.EVENTS_WRITE, lambda s, by: s.publish_value(by, event())),
    "event": (Scope.EVENTS_READ, lambda s, by: s.event(by, "evt_none")),
    "events": (Scope.EVENTS_READ, lambda s, by: s.events(by, {})),
    "explain": (Scope.EVENTS_READ, lambda s, by: s.explain(by, "evt_none", {})),
    "replay_event": (Scope.EVENTS_WRITE, lambda s, by: s.replay_event(by, "evt_none", {})),
    "replay": (Scope.EVENTS_WRITE, lambda s, by: s.replay(by, "sub_none", {})),
    "wait": (Scope.EVENTS_READ, lambda s, by: s.wait(by, "evt_none", 1)),
    "subscribe": (Scope.SUBSCRIPTIONS_WRITE, lambda s, by: s.subscribe(by, {"url": URL})),
    "subscription": (Scope.SUBSCRIPTIONS_READ, lambda s, by: s.subscription(by, "sub_none")),
    "subscriptions": (Scope.SUBSCRIPTIONS_READ, lambda s, by: s.subscriptions(by, {})),
    "update_subscription": (Scope.SUBSCRIPTIONS_WRITE, lambda s, by: s.update_subscription(by, "sub_none", {})),
    "enable": (Scope.SUBSCRIPTIONS_WRITE, lambda s, by: s.enable(by, "sub_none")),
    "disable": (Scope.SUBSCRIPTIONS_WRITE, lambda s, by: s.disable(by, "sub_none")),
    "unsubscribe": (Scope.SUBSCRIPTIONS_WRITE, lambda s, by: s.unsubscribe(by, "sub_none")),
    "secret": (Scope.SUBSCRIPTIONS_WRITE, lambda s, by: s.secret(by, "sub_none")),
    "rotate_secret": (Scope.SUBSCRIPTIONS_WRITE, lambda s, by: s.rotate_secret(by, "sub_none", {})),
    "test": (Scope.SUBSCRIPTIONS_WRITE, lambda s, by: s.test(by, "sub_none", {})),
    "stats": (Scope.EVENTS_READ, lambda s, by: s.stats(by, "sub_none", {})),
    "delivery": (Scope.EVENTS_READ, lambda s, by: s.delivery(by, "dlv_none")),
    "deliveries": (Scope.EVENTS_READ, lambda s, by: s.deliveries(by, {})),
    "retry": (Scope.EVENTS_WRITE, lambda s, by: s.retry(by, "dlv_none")),
    "cancel": (Scope.EVENTS_WRITE, lambda s, by: s.cancel(by, "dlv_none")),
    "event_type": (Scope.EVENTS_READ, lambda s, by: s.event_type(by, "none")),
    "event_types": (Scope.EVENTS_READ, lambda s, by: s.event_types(by, {})),
    "set_event_type": (Scope.ADMIN, lambda s, by: s.set_event_type(by, "scopes", {"description": ""})),
    "delete_event_type": (Scope.ADMIN, lambda s, by: s.delete_event_type(by, "none")),
    "tenant": (Scope.ADMIN, lambda s, by: s.tenant(by, "none")),
    "tenants": (Scope.ADMIN, lambda s, by: s.tenants(by, {})),
    "set_tenant": (Scope.ADMIN, lambda s, by: s.set_tenant(by, "scopes", {})),
    "delete_tenant": (Scope.ADMIN, lambda s, by: s.delete_tenant(by, "none")),
    "tenant_secret": (Scope.SUBSCRIPTIONS_WRITE, lambda s, by: s.tenant_secret(by, "none")),
    "set_tenant_secret": (Scope.SUBSCRIPTIONS_WRITE, lambda s, by: s.set_tenant_secret(by, "scopes", {})),
    "delete_tenant_secret": (Scope.SUBSCRIPTIONS_WRITE, lambda s, by: s.delete_tenant_secret(by, "none")),
    "tokens": (Scope.ADMIN, lambda s, by: s.tokens(by, {})),
    "create_token": (Scope.ADMIN, lambda s, by: s.create_token(by, {"user": "scopes"})),
    "delete_token": (Scope.ADMIN, lambda s, by: s.delete_token(by, "none")),
}
QUESTIONS = {"secret", "tenant", "tenants", "tenant_secret", "tokens"}  # for which one needs a scope to change things
# For Python values.
VARIANTS = {"publish_values": "publish", "set_event_type_value": "set_event_type"}
OPERATION = pytest.mark.parametrize(("scope", "operation"), OPERATIONS.values(), ids=OPERATIONS)


@pytest.mark.row("I55")
@OPERATION
async def test_scopes(service: Service, scope: Scope, operation: Operation) -> None:
    """Each operation needs its scope, whatever other scopes there are, and admin opens them all."""
    with pytest.raises(Forbidden, match=scope):
        await operation(service, Principal(user="x", scopes=frozenset(Scope) - {scope, Scope.ADMIN}))
    for scopes in ({scope}, {Scope.ADMIN}):
        with suppress(NotFound, TokenExists):  # which only those hear who may ask
            await operation(service, Principal(user="x", scopes=frozenset(scopes)))


async def test_every_operation_is_guarded() -> None:
    """No operation is missing in the table of scopes."""
    members = inspect.getmembers(Service, asyncio.iscoroutinefunction)
    public = {name for name, _ in members if name[0] != "_"}

    assert public - VARIANTS.keys() == OPERATIONS.keys()


@OPERATION
async def test_refusing(tmp_path: Path, scope: Scope, operation: Operation) -> None:
    """While the engine stops, changes are refused and questions answered, but not to everybody."""
    async with running(tmp_path) as engine:
        service = engine._service
        service.refuse()
        assert Stopping.code == service.unready
        changes = not scope.endswith("read") and operation not in [OPERATIONS[name][1] for name in QUESTIONS]
        with pytest.raises(Forbidden):
            await operation(service, Principal(user="x", scopes=frozenset()))
        try:
            await operation(service, OWNER)
        except Stopping:
            assert changes
        except NotFound:
            assert not changes
        else:
            assert not changes


@pytest.mark.row("I55")
async def test_ids_of_another_tenant(service: Service) -> None:
    """What belongs to another tenant is not there."""
    made = await subscribe(service, ACME)
    accepted = await publish(service, ACME, deliver_at=LATER)
    [delivery] = (await service.deliveries(ACME, {"event": accepted.id})).data
    asked: list[tuple[type[NotFound], Awaitable[Any]]] = [
        (EventNotFound, service.event(OTHER, accepted.id)),
        (EventNotFound, service.wait(OTHER, accepted.id, 1)),
        (EventNotFound, service.explain(OTHER, accepted.id, {})),
        (EventNotFound, service.replay_event(OTHER, accepted.id, {})),
        (SubscriptionNotFound, service.replay(OTHER, made.id, {})),
        (SubscriptionNotFound, service.subscription(OTHER, made.id)),
        (SubscriptionNotFound, service.update_subscription(OTHER, made.id, {"name": "x"})),
        (SubscriptionNotFound, service.enable(OTHER, made.id)),
        (SubscriptionNotFound, service.disable(OTHER, made.id)),
        (SubscriptionNotFound, service.unsubscribe(OTHER, made.id)),
        (SubscriptionNotFound, service.secret(OTHER, made.id)),
        (SubscriptionNotFound, service.rotate_secret(OTHER, made.id, {})),
        (SubscriptionNotFound, service.test(OTHER, made.id, {})),
        (SubscriptionNotFound, service.stats(OTHER, made.id, {})),
        (DeliveryNotFound, service.delivery(OTHER, delivery.id)),
        (DeliveryNotFound, service.retry(OTHER, delivery.id)),
        (DeliveryNotFound, service.cancel(OTHER, delivery.id)),
        (TenantSecretNotFound, service.tenant_secret(OTHER, "acme")),
        (TenantSecretNotFound, service.set_tenant_secret(OTHER, "acme", {})),
        (TenantSecretNotFound, service.delete_tenant_secret(OTHER, "acme")),
    ]
    secret = await service.set_tenant_secret(ACME, "acme", {})

    for expected, operation in asked:
        with pytest.raises(expected):
            await operation
    assert [] == (await service.deliveries(OTHER, {"event": accepted.id})).data
    assert [] == (await service.deliveries(OTHER, {"subscription": made.id})).data
    assert made.id not in {each.id for each in (await service.subscriptions(OTHER, {})).data}
    with pytest.raises(Invalid) as refused:
        await publish(service, OTHER, subscriptions=[made.id])
    assert [("/subscriptions/0", "unknown_subscription")] == places(refused.value)
    assert made.version == (await service.subscription(ACME, made.id)).version
    assert "pending" == (await service.delivery(ACME, delivery.id)).state
    assert secret == await service.tenant_secret(ACME, "acme")


async def test_bound_tenant_is_the_default(service: Service) -> None:
    """Who is bound to a tenant need not name it."""
    assert "acme" == (await publish(service, ACME)).tenant == (await publish(service, ACME, tenant="acme")).tenant
    assert "acme" == (await subscribe(service, ACME)).tenant == (await subscribe(service, ACME, tenant="acme")).tenant
    assert "default" == (await publish(service)).tenant == (await subscribe(service)).tenant
    for page in (await service.events(ACME, {}), await service.subscriptions(ACME, {}), await service.deliveries(ACME, {})):
        assert {"acme"} >= {each.tenant for each in page.data}


@pytest.mark.parametrize(
    "operation",
    [
        pytest.param(lambda s: s.publish_values(ACME, [event(tenant="other")]), id="publish"),
        pytest.param(lambda s: s.publish_values(ACME, [event(), event(tenant="other")]), id="batch"),
        pytest.param(lambda s: s.subscribe(ACME, {"url": URL, "tenant": "other"}), id="subscribe"),
        pytest.param(lambda s: s.event(ACME, "x", tenant="other"), id="event"),
        pytest.param(lambda s: s.events(ACME, {"tenant": "other"}), id="events"),
        pytest.param(lambda s: s.subscriptions(ACME, {"tenant": "other"}), id="subscriptions"),
        pytest.param(lambda s: s.deliveries(ACME, {"tenant": "other"}), id="deliveries"),
    ],
)
async def test_naming_another_tenant(service: Service, operation: Callable[[Service], Awaitable[Any]]) -> None:
    """Who is bound to a tenant may name no other one."""
    before = len((await service.events(OTHER, {"limit": 250})).data)

    with pytest.raises(Forbidden, match="acme"):
        await operation(service)
    assert before == len((await service.events(OTHER, {"limit": 250})).data)


@pytest.mark.parametrize("name", [name for name, (scope, _) in OPERATIONS.items() if scope is Scope.ADMIN])
async def test_bound_admin_is_no_admin(service: Service, name: str) -> None:
    """Whoever is bound to a tenant rules over no other one, and could else free himself."""
    bound = Principal(user="x", scopes=frozenset(Scope), tenant="acme")

    with pytest.raises(Forbidden, match="bound to the tenant acme"):
        await OPERATIONS[name][1](service, bound)


@pytest.mark.row("I51")
async def test_keys_of_tenants_are_apart(service: Service) -> None:
    """The same Idempotency-Key of another tenant is another key."""
    answers = [
        await service.publish(by, [members()], single=single, key=key(b"x", f"tenants-{single}"), render=lambda _: b"first")
        for single in (True, False)
        for by in (ACME, OTHER, ACME)
    ]

    assert [False, False, True] * 2 == [isinstance(answer, Answer) for answer in answers]


# Publishing.


def members() -> dict[str, Any]:
    """An event as HTTP brings it."""
    return {"type": "a", "data": Raw(b"1")}


async def test_keys(service: Service) -> None:
    """A repetition gets what was rendered for the first, other bytes are a mismatch."""
    rendered: list[views.Event] = []

    def render(events: list[views.Event]) -> bytes:
        rendered.extend(events)
        return b"rendered"

    first = await service.publish(OWNER, [members()], key=key(b"x"), render=render)
    again = await service.publish(OWNER, [members()], key=key(b"x"), render=render)

    assert isinstance(first, list)
    assert Answer(status=202, body=b"rendered") == again
    assert rendered == first
    with pytest.raises(IdempotencyMismatch):
        await service.publish(OWNER, [members()], key=key(b"y"), render=render)


async def test_repetition_of_what_is_no_longer_valid(service: Service) -> None:
    """What was accepted once is answered so again, and what never was is not."""
    chosen = await subscribe(service)
    event = members() | {"subscriptions": [chosen.id]}
    await service.publish(OWNER, [event], key=key(b"x", "gone"), render=lambda _: b"first")
    await service.unsubscribe(OWNER, chosen.id)

    assert Answer(status=202, body=b"first") == await service.publish(OWNER, [event], key=key(b"x", "gone"))
    for other in (key(b"y", "gone"), key(b"x", "never"), None):
        with pytest.raises(Invalid):
            await service.publish(OWNER, [event], key=other)


async def test_repeated_id_of_what_is_no_longer_valid(service: Service) -> None:
    """The same ids with the same members are answered as before, though a subscription that they name is gone."""
    chosen = await subscribe(service)
    event = members() | {"id": "named-the-gone", "subscriptions": [chosen.id]}
    other = members() | {"id": "named-nobody"}
    [first, _] = await accept(service, event, other)
    await service.unsubscribe(OWNER, chosen.id)

    assert [first] == await accept(service, event)
    assert first == (await accept(service, other, event))[1]
    never = {"id": "never-seen", "data": Raw(b"2")}
    for wrong in ([event | never], [event | {"data": Raw(b"2")}], [event, members() | never], [event, {"id": "x"}]):
        with pytest.raises(Invalid) as raised:
            await accept(service, *wrong)
        assert raised.value.mistakes


async def accept(service: Service, *events: dict[str, Any]) -> list[views.Event]:
    """The events as they were accepted."""
    accepted = await service.publish(OWNER, events)
    assert isinstance(accepted, list)
    return accepted


async def test_subscription_with_a_key(service: Service) -> None:
    """A repetition gets what was rendered without the secret."""
    rendered: list[views.Subscription] = []

    def render(made: views.Subscription) -> bytes:
        rendered.append(made)
        return b"rendered"

    first = await service.subscribe(OWNER, {"url": URL}, key=key(b"x", path="/v1/subscriptions"), render=render)
    again = await service.subscribe(OWNER, {"url": URL}, key=key(b"x", path="/v1/subscriptions"), render=render)

    assert isinstance(first, views.Subscription)
    assert Answer(status=201, body=b"rendered") == again
    [made] = rendered
    assert (first.id, UNSET) == (made.id, made.secret)
    assert str(first.secret).startswith("whsec_")


async def test_too_many_events(service: Service) -> None:
    """Python's batches have the same bound."""
    with pytest.raises(Invalid) as refused:
        await service.publish_values(OWNER, [event()] * 1001)

    assert [("", "too_many_elements")] == places(refused.value)


async def test_mistakes_have_their_index(service: Service) -> None:
    """The places in a batch begin with the index, of a single event they do not."""
    wrong = event(type="a b", extra=1)
    with pytest.raises(Invalid) as batch:
        await service.publish_values(OWNER, [event(), wrong])
    with pytest.raises(Invalid) as single:
        await service.publish_value(OWNER, wrong)

    assert [("/1/type", "invalid_value"), ("/1/extra", "unknown_member")] == places(batch.value)
    assert [("/type", "invalid_value"), ("/extra", "unknown_member")] == places(single.value)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param({"n": 1.5, "t": "é"}, '{"n":1.5,"t":"é"}'.encode(), id="value"),
        pytest.param(None, b"null", id="none"),
        pytest.param(b'{ "a" : 1.10, "a":2 }', b'{ "a" : 1.10, "a":2 }', id="bytes"),
        pytest.param(bytearray(b"1e400"), b"1e400", id="bytearray"),
        pytest.param(memoryview(b"12345678901234567890123"), b"12345678901234567890123", id="memoryview"),
        pytest.param(datetime(2026, 1, 1, tzinfo=UTC), b'"2026-01-01T00:00:00+00:00"', id="datetime"),
    ],
)
async def test_values(service: Service, data: object, expected: bytes) -> None:
    """`data` as bytes is kept, anything else is printed."""
    accepted = await publish(service, data=data)

    assert expected == (await service.event(OWNER, accepted.id)).data


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(b"", "invalid_json", id="nothing"),
        pytest.param(b"{", "invalid_json", id="half"),
        pytest.param(b"NaN", "invalid_json", id="NaN"),
        pytest.param(b'1,"more":2', "invalid_json", id="two members"),
        pytest.param(b'1,"data":2', "invalid_json", id="itself twice"),
        pytest.param(b"1}{", "invalid_json", id="two texts"),
        pytest.param(b'"\xff"', "invalid_encoding", id="no UTF-8"),
        pytest.param(b'"\\ud800"', "invalid_json", id="lone surrogate"),
        pytest.param(b"[" * 70 + b"]" * 70, "json_too_deep", id="deep"),
    ],
)
async def test_data_that_is_no_json(service: Service, data: bytes, code: str) -> None:
    """Bytes are read by the rules that hold over HTTP."""
    with pytest.raises(Malformed) as refused:
        await publish(service, data=data)

    assert code == refused.value.code


async def test_deep_values(service: Service) -> None:
    """What is printed obeys them, too."""
    deep: list[Any] = []
    for _ in range(70):
        deep = [deep]

    with pytest.raises(Malformed, match="64"):
        await publish(service, data=deep)


async def test_event_without_data(service: Service) -> None:
    """An event of a batch without data is not valid."""
    with pytest.raises(Invalid) as refused:
        await service.publish_values(OWNER, [{"type": "a"}])

    assert [("/0/data", "missing_member")] == places(refused.value)


async def test_datetimes(service: Service) -> None:
    """Times may be datetimes, if they say where."""
    half_past = datetime(2026, 1, 1, 12, 30, tzinfo=timezone(timedelta(hours=2)))

    assert half_past == (await publish(service, occurred_at=half_past)).occurred_at
    with pytest.raises(Invalid):
        await publish(service, occurred_at=half_past.replace(tzinfo=None))


# Waiting.


async def test_wait(service: Service) -> None:
    """All deliveries are final when waiting ends, in the order they were made."""
    gate = Gate()
    async with Receiver(gate) as receiver:
        made = [await subscribe(service, url=receiver.url, tenant="wait") for _ in range(2)]
        accepted = await publish(service, tenant="wait")
        waiting = asyncio.create_task(service.wait(OWNER, accepted.id, PATIENCE))
        await gate.arrived(2)
        assert not waiting.done()
        gate.open(200)
        found = await waiting

    assert [(each.id, "delivered") for each in made] == [(each.subscription, each.state) for each in found]
    assert found == await service.wait(OWNER, accepted.id, PATIENCE)


async def test_wait_for_nothing(service: Service) -> None:
    """An event that nobody wants is done."""
    assert [] == await service.wait(OWNER, (await publish(service, tenant="nobody")).id, PATIENCE)


@pytest.mark.parametrize("state", ["pending", "held"])
async def test_wait_in_vain(service: Service, state: str) -> None:
    """What is held, and what takes longer, is waited for no more."""
    made = await subscribe(service, tenant=f"vain-{state}", state="disabled" if state == "held" else "active")
    accepted = await publish(service, tenant=made.tenant, deliver_at=LATER)

    with pytest.raises(TimeoutError, match="held" if state == "held" else None):
        await service.wait(OWNER, accepted.id, PATIENCE if state == "held" else 0.01)


async def test_wait_without_patience(service: Service) -> None:
    """However short the time, there is one look: what has ended, or has nothing to wait for, is returned."""
    async with Receiver() as receiver:
        await subscribe(service, url=receiver.url, tenant="hurry")
        accepted = await publish(service, tenant="hurry")
        found = await service.wait(OWNER, accepted.id, PATIENCE)
    waiting = await publish(service, tenant="hurry", deliver_at=LATER)

    assert found == await service.wait(OWNER, accepted.id, 0)
    assert [] == await service.wait(OWNER, (await publish(service, tenant="nobody")).id, 0)
    with pytest.raises(TimeoutError):
        await service.wait(OWNER, waiting.id, 0)


async def test_wait_for_the_unknown(service: Service) -> None:
    """An unknown id is not waited for."""
    with pytest.raises(EventNotFound):
        await service.wait(OWNER, "evt_none", PATIENCE)


# Subscriptions and deliveries.


async def test_versions(service: Service) -> None:
    """Every change of a subscription can be bound to its version."""
    made = await subscribe(service)
    old = frozenset({made.version + 1})
    for operation in (
        service.update_subscription(OWNER, made.id, {"name": "x"}, versions=old),
        service.enable(OWNER, made.id, versions=old),
        service.disable(OWNER, made.id, versions=old),
        service.rotate_secret(OWNER, made.id, {}, versions=old),
        service.unsubscribe(OWNER, made.id, versions=old),
    ):
        with pytest.raises(PreconditionFailed):
            await operation

    present = frozenset({made.version})
    assert 2 == (await service.disable(OWNER, made.id, versions=present)).version
    assert 3 == (await service.enable(OWNER, made.id)).version
    assert 4 == (await service.update_subscription(OWNER, made.id, {"name": "x"}, versions=frozenset({3}))).version


@pytest.mark.parametrize(
    ("patch", "expected"),
    [
        (
            {"tenant": "x", "secret": "y", "nam": 1},
            [("/tenant", "immutable_member"), ("/secret", "immutable_member"), ("/nam", "unknown_member")],
        ),
        ({"url": "http://169.254.169.254/"}, [("/url", "invalid_url")]),
        ({"url": None}, [("/url", "missing_member")]),
    ],
)
async def test_wrong_patches(service: Service, patch: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    """Every mistake of a patch is named, nothing changes, and the patch stays as it was given."""
    made = await subscribe(service)
    before = dict(patch)

    with pytest.raises(Invalid) as refused:
        await service.update_subscription(OWNER, made.id, patch)
    assert sorted(expected) == sorted((str(pointer), code) for pointer, code in places(refused.value))
    assert before == patch
    assert made.version == (await service.subscription(OWNER, made.id)).version


async def test_url_that_was_allowed(tmp_path: Path) -> None:
    """A subscription whose URL may no longer be called can still be changed in all else."""
    async with running(tmp_path) as engine:
        made = await engine.subscribe("http://127.0.0.1:9999/")
    async with Engine(tmp_path / DATABASE) as engine:
        assert "x" == (await engine.update_subscription(made.id, name="x")).name
        with pytest.raises(Invalid):
            await engine.update_subscription(made.id, url="http://127.0.0.1:9998/")


async def test_rotation(service: Service) -> None:
    """A secret may be given or made, and must be one that signs."""
    made = await subscribe(service)
    given = "whsec_" + "B" * 44

    rotated = await service.rotate_secret(OWNER, made.id, {"secret": given, "overlap": "1h"})
    fresh = await service.rotate_secret(OWNER, made.id, {})

    assert (given, [made.secret]) == (rotated.secret, [each.secret for each in rotated.previous])
    assert [given, made.secret] == [each.secret for each in fresh.previous]
    assert fresh == await service.secret(OWNER, made.id)
    with pytest.raises(Invalid) as refused:
        await service.rotate_secret(OWNER, made.id, {"secret": "x", "overlap": "x", "x": 1})
    assert {("/secret", "invalid_secret"), ("/overlap", "invalid_value"), ("/x", "unknown_member")} == set(
        places(refused.value)
    )


async def test_retry_and_cancel(service: Service) -> None:
    """A delivery by hand: given up, tried again, and neither where its state forbids it."""
    async with Receiver() as receiver:
        made = await subscribe(service, url=receiver.url, tenant="hand")
        accepted = await publish(service, tenant="hand", deliver_at=LATER)
        [waiting] = (await service.deliveries(OWNER, {"event": accepted.id})).data
        cancelled = await service.cancel(OWNER, waiting.id)
        with pytest.raises(DeliveryStateConflict):
            await service.cancel(OWNER, waiting.id)
        await service.disable(OWNER, made.id)
        with pytest.raises(SubscriptionDisabled):
            await service.retry(OWNER, waiting.id)
        await service.enable(OWNER, made.id)
        retried = await service.retry(OWNER, waiting.id)
        [delivered] = await service.wait(OWNER, accepted.id, PATIENCE)
        with pytest.raises(DeliveryStateConflict):
            await service.retry(OWNER, waiting.id)

    assert ["pending", "cancelled", "delivered"] == [each.state for each in (waiting, cancelled, delivered)]
    assert retried.state in {"pending", "delivered"}  # it goes at once
    attempts = (await service.delivery(OWNER, waiting.id)).attempts
    assert isinstance(attempts, list)
    assert ["manual"] == [attempt.trigger for attempt in attempts]


async def test_pages_of_subscriptions(service: Service) -> None:
    """Pages lead to each other, newest first, whatever the filter."""
    made = [await subscribe(service, tenant="pages", state=state) for state in ("active", "disabled", "active")]

    first = await service.subscriptions(OWNER, {"tenant": "pages", "limit": 2})
    second = await service.subscriptions(OWNER, {"tenant": "pages", "limit": 2, "cursor": first.next_cursor})
    active = await service.subscriptions(OWNER, {"tenant": "pages", "state": "active", "limit": 2})

    assert ([made[2].id, made[1].id], [made[0].id]) == ([s.id for s in first.data], [s.id for s in second.data])
    assert ([made[2].id, made[0].id], None, None) == ([s.id for s in active.data], active.next_cursor, second.next_cursor)


@pytest.mark.parametrize("by", [OWNER, ACME], ids=["owner", "bound"])
async def test_lists_of_deliveries(service: Service, by: Principal) -> None:
    """What is asked for is found, and what is not there is an empty page."""
    for query in ({"event": "evt_none"}, {"subscription": "sub_none"}, {"event": "evt_none", "state": "held"}):
        page = await service.deliveries(by, query)
        assert ([], None) == (page.data, page.next_cursor)
    made = await subscribe(service, by)
    accepted = await publish(service, by, deliver_at=LATER)
    [found] = (await service.deliveries(by, {"subscription": made.id})).data
    assert (accepted.id, made.id) == (found.event, found.subscription)
