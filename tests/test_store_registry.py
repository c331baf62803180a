"""Changes of what an operator declares: tenants and their secrets, tokens, event types, on a real file."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace
from storage import HOUR, MINUTE, NOW, Opened, SetClock, files, limit_pages, opened, rows, subscription, write

from hookengine.access import DEFAULT_SCOPES, Principal, Scope, Token, digest
from hookengine.errors import (
    EventTypeNotFound,
    StorageCorrupt,
    StorageUnavailable,
    SubscriptionLimitReached,
    TenantNotFound,
    TenantSecretNotFound,
    TokenExists,
    TokenNotFound,
)
from hookengine.models import Secret, SigningSecret, Subscription, Tenant
from hookengine.store import Slice, changes, registry
from hookengine.store.queries import migrations

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

FIRST = SigningSecret(value=Secret("first-secret"))
SECOND = SigningSecret(value=Secret("second-secret"))
ANN = Token(
    seq=0,
    principal=Principal(user="ann", scopes=DEFAULT_SCOPES, tenant="acme", expires_at=NOW + HOUR),
    digest=digest("hke_ann"),
    created_at=NOW,
)
EVE = Token(seq=0, principal=Principal(user="eve", scopes=frozenset({Scope.ADMIN})), digest=digest("hke_eve"), created_at=NOW)


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Opened]:
    """An open store."""
    async with opened(tmp_path) as place:
        yield place


async def change(place: Opened, step: Any) -> Any:
    """What a change gives."""
    return await place.store.writer.change(step)


async def set_secrets(place: Opened, *secrets: SigningSecret, tenant: str = "acme") -> Any:
    """Give a tenant these secrets."""
    return await change(place, registry.set_tenant_secrets(tenant, lambda _before, _now: secrets))


# Tenants.


async def test_tenant_is_kept(tmp_path: Path) -> None:
    """A plan is on disk and in memory once the change is committed, and the time of its making stays."""
    async with opened(tmp_path) as place:
        made = await change(place, registry.set_tenant("acme", None))
        place.clock.time += 5
        changed = await change(place, registry.set_tenant("acme", "gold"))
        again = await change(place, registry.set_tenant("acme", "gold"))
        other = await change(place, registry.set_tenant("other", None))

    acme = Tenant(seq=1, name="acme", plan="gold", created_at=NOW, updated_at=NOW + 5)
    assert (replace(acme, plan=None, updated_at=NOW), True) == made
    assert ((acme, False), (acme, False)) == (changed, again)
    assert (2, True) == (other[0].seq, other[1])
    async with opened(tmp_path) as place:
        assert {"acme": acme, "other": other[0]} == place.store.memory.tenants


async def test_deleted_tenant_is_forgotten(tmp_path: Path) -> None:
    """Its plan and its secrets go; its subscriptions stay, and so does the history."""
    async with opened(tmp_path) as place:
        made = await place.subscribe(tenant="acme")
        await change(place, registry.set_tenant("acme", "gold"))
        await set_secrets(place, FIRST)
        await change(place, registry.delete_tenant("acme"))
        with pytest.raises(TenantNotFound):
            await change(place, registry.delete_tenant("acme"))

        assert ({}, ()) == (place.store.memory.tenants, place.store.memory.tenant_secrets("acme"))
        assert made == place.store.memory.index.get(made.seq)
    async with opened(tmp_path) as place:
        assert ({}, [made]) == (place.store.memory.tenants, list(place.store.memory.index))


async def test_secrets_are_kept_sealed(tmp_path: Path) -> None:
    """A tenant's secrets are found again after a restart, sign nobody else's, and are not readable in the file."""
    old = replace(FIRST, expires_at=NOW + HOUR)
    async with opened(tmp_path) as place:
        assert () == place.store.memory.tenant_secrets("acme")
        assert (SECOND, old) == await set_secrets(place, SECOND, old)
        assert [SECOND, old] == list(place.store.memory.tenant_secrets("acme"))
        assert () == place.store.memory.tenant_secrets("other")
        found = [name for name, content in files(tmp_path).items() if b"first-secret" in content or b"second-s" in content]
        assert [] == found
    async with opened(tmp_path) as place:
        assert (SECOND, old) == place.store.memory.tenant_secrets("acme")
        assert "second-secret" not in repr(place.store.memory.tenants)


async def test_secrets_and_plan_are_apart(place: Opened) -> None:
    """Neither a new plan nor a new secret touches the other, and each makes the tenant if need be."""
    await set_secrets(place, FIRST)
    await change(place, registry.set_tenant("acme", "gold"))
    await set_secrets(place, SECOND)
    tenant = place.store.memory.tenants["acme"]

    assert (1, "gold", (SECOND,)) == (tenant.seq, tenant.plan, tenant.secrets)
    assert [("acme", "gold", 1)] == place.rows("SELECT name, plan, sealed IS NOT NULL FROM tenants")


async def test_renewing_sees_the_secrets_as_they_are(place: Opened) -> None:
    """Two rotations at once follow each other; one that changes nothing writes nothing."""
    await set_secrets(place, FIRST)

    def push(new: SigningSecret) -> Any:
        return registry.set_tenant_secrets("acme", lambda before, now: (new, *(replace(b, expires_at=now) for b in before)))

    await asyncio.gather(change(place, push(SECOND)), change(place, push(replace(FIRST, value=Secret("third")))))
    place.clock.time += 5
    same = await change(place, registry.set_tenant_secrets("acme", lambda before, _: before))

    assert ["third", "second-secret", "first-secret"] == [str(each.value) for each in same]
    assert NOW == place.store.memory.tenants["acme"].updated_at


async def test_deleted_secrets_sign_no_more(place: Opened) -> None:
    """The secret goes from disk and memory, the plan stays, and without a secret there is none to delete."""
    await change(place, registry.set_tenant("acme", "gold"))
    for name in ("acme", "unknown"):
        with pytest.raises(TenantSecretNotFound):
            await change(place, registry.delete_tenant_secrets(name))
    await set_secrets(place, FIRST)
    await change(place, registry.delete_tenant_secrets("acme"))

    assert () == place.store.memory.tenant_secrets("acme")
    assert [("gold", None)] == place.rows("SELECT plan, sealed FROM tenants")


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param("sealed = x'00'", id="sealed"),
        pytest.param("sealed = (SELECT sealed FROM tenants WHERE name = 'other')", id="another tenant's"),
    ],
)
async def test_secrets_that_cannot_be_read(tmp_path: Path, damage: str) -> None:
    """Nothing is signed with them, and nothing goes out unsigned; the plan holds, and a new secret mends it."""
    async with opened(tmp_path) as place:
        await set_secrets(place, FIRST)
        await set_secrets(place, FIRST, tenant="other")
        await change(place, registry.set_tenant("acme", "gold"))
    write(tmp_path / "hooks.db", f"UPDATE tenants SET {damage} WHERE name = 'acme'")
    async with opened(tmp_path) as place:
        [unreadable] = place.store.unreadable
        assert "the secrets of the tenant acme cannot be read" in unreadable.detail
        await change(place, registry.set_tenant("acme", "free"))
        with pytest.raises(StorageCorrupt, match="acme"):
            place.store.memory.tenant_secrets("acme")
        assert ("free", (FIRST,)) == (place.store.memory.tenants["acme"].plan, place.store.memory.tenant_secrets("other"))
    async with opened(tmp_path) as place:
        with pytest.raises(StorageCorrupt, match="acme"):
            place.store.memory.tenant_secrets("acme")
        await set_secrets(place, SECOND)
        assert (SECOND,) == place.store.memory.tenant_secrets("acme")
    async with opened(tmp_path) as place:
        assert ((SECOND,), []) == (place.store.memory.tenant_secrets("acme"), place.store.unreadable)


async def test_secrets_that_cannot_be_read_can_be_deleted(tmp_path: Path) -> None:
    """Whoever wants them gone says so, and then nothing is signed."""
    async with opened(tmp_path) as place:
        await set_secrets(place, FIRST)
    write(tmp_path / "hooks.db", "UPDATE tenants SET sealed = x'00'")
    async with opened(tmp_path) as place:
        await change(place, registry.delete_tenant_secrets("acme"))

        assert () == place.store.memory.tenant_secrets("acme")


# Plans.


@pytest.mark.parametrize(("limit", "words"), [(0, "0 subscriptions"), (1, "1 subscription")])
async def test_limit_is_told_in_words(place: Opened, limit: int, words: str) -> None:
    """One subscription is not many."""
    await change(place, registry.set_tenant("acme", "gold"))
    add = changes.add_subscription(subscription(place.clock), limits={"gold": limit})
    for _ in range(limit):
        await change(place, add)
    with pytest.raises(SubscriptionLimitReached) as caught:
        await change(place, add)

    assert f"the plan 'gold' lets the tenant acme have {words}" == caught.value.detail


async def test_limit_holds_for_many_at_once(place: Opened) -> None:
    """Of many subscriptions that are made together, only as many pass as the plan allows."""
    await change(place, registry.set_tenant("acme", "gold"))
    steps = [changes.add_subscription(subscription(place.clock), limits={"gold": 3}) for _ in range(20)]
    made = await asyncio.gather(*(change(place, step) for step in steps), return_exceptions=True)

    assert 3 == sum(isinstance(each, Subscription) for each in made)
    assert {"the plan 'gold' lets the tenant acme have 3 subscriptions"} == {
        each.detail for each in made if isinstance(each, SubscriptionLimitReached)
    }
    assert (3, [(3,)]) == (len(place.store.memory.index), place.rows("SELECT count(*) FROM subscriptions"))


@pytest.mark.parametrize(
    ("plan", "limits", "fits"),
    [
        pytest.param(None, {"gold": 0}, True, id="no plan"),
        pytest.param("gold", {"gold": None}, True, id="a plan without a limit"),
        pytest.param("gold", {"free": 0}, True, id="a plan that is configured no more"),
        pytest.param("gold", None, True, id="no limits"),
        pytest.param("gold", {"gold": 1}, False, id="full"),
        pytest.param("gold", {"gold": 0}, False, id="fuller than full"),
        pytest.param("gold", {"gold": 2}, True, id="room"),
    ],
)
async def test_limits(place: Opened, plan: str | None, limits: dict[str, int | None] | None, *, fits: bool) -> None:
    """What counts is the plan that the tenant is on now, and what the tenant has now, whatever others have."""
    await place.subscribe(tenant="acme")
    await place.subscribe(tenant="other")
    await change(place, registry.set_tenant("acme", plan))
    step = changes.add_subscription(subscription(place.clock), limits=limits)

    if fits:
        assert isinstance(await change(place, step), Subscription)
    else:
        with pytest.raises(SubscriptionLimitReached):
            await change(place, step)


async def test_deleting_a_subscription_makes_room(place: Opened) -> None:
    """Only what is deleted does not count."""
    await change(place, registry.set_tenant("acme", "gold"))
    made = await change(place, changes.add_subscription(subscription(place.clock), limits={"gold": 1}))
    await change(place, changes.delete_subscription(made.id, None))

    assert isinstance(
        await change(place, changes.add_subscription(subscription(place.clock), limits={"gold": 1})), Subscription
    )


# Tokens.


async def test_token_is_kept_by_its_digest(tmp_path: Path) -> None:
    """A token opens from the commit on, also after a restart, and its text is nowhere."""
    async with opened(tmp_path) as place:
        ann, eve = await change(place, registry.add_token(ANN)), await change(place, registry.add_token(EVE))
        assert {ANN.digest: ANN.principal, EVE.digest: EVE.principal} == place.store.memory.tokens.principals
        assert [] == [name for name, content in files(tmp_path).items() if b"hke_ann" in content]

    assert [replace(ANN, seq=1), replace(EVE, seq=2)] == [ann, eve]
    async with opened(tmp_path) as place:
        assert [ann, eve] == list(place.store.memory.tokens)


async def test_one_token_each(place: Opened) -> None:
    """A user who has a token gets no second one, not even two that ask at once; after a deletion there is room."""
    other = replace(ANN, digest=digest("hke_other"))
    made = await asyncio.gather(
        change(place, registry.add_token(ANN)), change(place, registry.add_token(other)), return_exceptions=True
    )
    assert [Token, TokenExists] == [type(each) for each in made]
    await change(place, registry.delete_token("ann"))
    assert {} == place.store.memory.tokens.principals
    with pytest.raises(TokenNotFound):
        await change(place, registry.delete_token("ann"))
    await change(place, registry.add_token(other))

    assert {other.digest: other.principal} == place.store.memory.tokens.principals
    assert [(other.digest,)] == place.rows("SELECT digest FROM tokens")


async def test_token_that_cannot_be_read_opens_nothing(tmp_path: Path) -> None:
    """It is told of at the start, and a new one takes its place."""
    async with opened(tmp_path) as place:
        await change(place, registry.add_token(ANN))
    write(tmp_path / "hooks.db", """UPDATE tokens SET scopes = '["everything"]'""")
    async with opened(tmp_path) as place:
        assert ["the token of ann"] == [error.detail[:16] for error in place.store.unreadable]
        assert {} == place.store.memory.tokens.principals
        await change(place, registry.add_token(replace(ANN, digest=digest("hke_new"))))
    async with opened(tmp_path) as place:
        assert {digest("hke_new"): ANN.principal} == place.store.memory.tokens.principals


async def test_uses_are_stored_now_and_then(tmp_path: Path) -> None:
    """The first use is stored at once, a later one when the stored time is old enough, and none twice."""
    async with opened(tmp_path) as place:
        await change(place, registry.add_token(ANN))
        tokens = place.store.memory.tokens
        stored = []
        for passed in (0, 0, 30_000, 30_000, 0):
            place.clock.time += passed
            tokens.use(ANN.principal, place.clock.time)
            wrote = await change(place, registry.note_uses(MINUTE))
            stored.append((wrote, place.rows("SELECT last_used_at FROM tokens")[0][0] - NOW))
            assert place.clock.time == tokens.last_used_at("ann")

    assert [(1, 0), (0, 0), (0, 0), (1, 60_000), (0, 60_000)] == stored
    async with opened(tmp_path) as place:
        assert NOW + 60_000 == place.store.memory.tokens.last_used_at("ann")


# Event types.


async def test_event_type_is_kept(tmp_path: Path) -> None:
    """What is said of a type is on disk, the example byte for byte, and its name is in memory."""
    async with opened(tmp_path) as place:
        made = await change(place, registry.set_event_type("order.created", "An order", b'{ "n": 1.10 }', deprecated=False))
        await change(place, registry.set_event_type("a", "", None, deprecated=True))
        place.clock.time += 5
        again = await change(place, registry.set_event_type("order.created", "An order", b"1", deprecated=False))
        before = place.rows("SELECT * FROM event_types")
        place.clock.time += 5
        await change(place, registry.set_event_type("order.created", "An order", b"1", deprecated=False))

        assert ((True, False), before) == ((made, again), place.rows("SELECT * FROM event_types"))
    async with opened(tmp_path) as place:
        assert {"order.created", "a"} == place.store.memory.event_types
        found, after = await place.store.reader.event_types(Slice(limit=1))
        rest, end = await place.store.reader.event_types(Slice(limit=1, before=after or 0))
        assert (["a"], ["order.created"], None) == ([e.type for e in found], [e.type for e in rest], end)
        assert (None, True) == (found[0].example, found[0].deprecated)
        assert rest[0] == await place.store.reader.event_type("order.created")
        assert (b"1", False, 5_000) == (
            rest[0].example,
            rest[0].deprecated,
            (rest[0].updated_at - rest[0].created_at).microseconds,
        )


async def test_deleted_event_type_is_forgotten(place: Opened) -> None:
    """It is declared no more, on disk and in memory."""
    await change(place, registry.set_event_type("a", "", None, deprecated=False))
    await change(place, registry.delete_event_type("a"))

    assert (set(), [], None) == (
        place.store.memory.event_types,
        place.rows("SELECT * FROM event_types"),
        await place.store.reader.event_type("a"),
    )
    with pytest.raises(EventTypeNotFound):
        await change(place, registry.delete_event_type("a"))


# All of them.


async def test_memory_follows_the_commit(place: Opened) -> None:
    """Where nothing can be stored, nothing is in force."""
    await change(place, registry.add_token(EVE))
    await limit_pages(place, 0)
    memory = place.store.memory
    for step in (
        registry.set_tenant("a" * 60_000, None),
        registry.set_tenant_secrets("b", lambda _before, _now: (replace(FIRST, value=Secret("x" * 60_000)),)),
        registry.add_token(replace(ANN, principal=replace(ANN.principal, user="u" * 60_000))),
        registry.set_event_type("t", "d" * 60_000, None, deprecated=False),
    ):
        with pytest.raises(StorageUnavailable):
            await change(place, step)

    assert [{}, set(), [EVE.digest]] == [memory.tenants, memory.event_types, list(memory.tokens.principals)]


async def test_file_of_the_first_schema(tmp_path: Path) -> None:
    """A file that an earlier version wrote is opened with everything in it, and takes what is new."""
    (tmp_path / "new").mkdir()
    async with opened(tmp_path / "new") as place:
        made = await place.subscribe(secrets=(FIRST,))
        [receipt] = await place.publish()
    (tmp_path / "old").mkdir()
    old = tmp_path / "old" / "hooks.db"
    (tmp_path / "old" / "secret.key").write_bytes((tmp_path / "new" / "secret.key").read_bytes())
    tables = ("meta", "subscriptions", "health", "events", "deliveries")
    write(old, f"{migrations()[0]} PRAGMA user_version = 1;")
    columns = {table: ", ".join(name for _, name, *_ in rows(old, f"PRAGMA table_info({table})")) for table in tables}
    copies = "".join(f"INSERT INTO {table} SELECT {columns[table]} FROM new.{table};" for table in tables)
    write(old, f"ATTACH '{tmp_path}/new/hooks.db' AS new; {copies}")

    async with opened(tmp_path / "old", clock=SetClock(NOW + HOUR)) as place:
        assert [(len(migrations()),)] == place.rows("PRAGMA user_version")
        assert [made] == list(place.store.memory.index)
        found = await place.store.reader.event(receipt.event.id, "acme")
        assert found is not None
        assert (b'{"n":1}', 1) == (found.data, len(found.deliveries))
        await change(place, registry.set_tenant("acme", "gold"))
        await change(place, registry.add_token(ANN))
        await change(place, registry.set_event_type("a", "", None, deprecated=False))
        assert 1 == len(await place.deliver())
