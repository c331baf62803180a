"""What of the file is kept in memory: read at the start, as far as it can be read."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from storage import ACCESS_TOKEN, DELIVERED, NOW, OAUTH2, OTHER_OAUTH2, Opened, opened, result, write

from hookengine.access import DEFAULT_SCOPES, Principal, Token, digest
from hookengine.errors import StorageCorrupt
from hookengine.models import Health, Secret, SigningSecret, Tenant
from hookengine.store import changes, registry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SECRET = SigningSecret(value=Secret("hush"))
ANN = Token(
    seq=0, principal=Principal(user="ann", scopes=DEFAULT_SCOPES, tenant="acme"), digest=digest("hke_ann"), created_at=NOW
)


@asynccontextmanager
async def reopened(folder: Path, script: str = "") -> AsyncIterator[Opened]:
    """A store that has one of everything, closed, changed by *script*, and opened again."""
    async with opened(folder) as place:
        made = await place.subscribe(auth=OAUTH2)
        [delivery] = await place.deliver()
        await place.record(result(delivery, DELIVERED))
        for step in (
            changes.keep_access_token(made.seq, OAUTH2, ACCESS_TOKEN),
            registry.set_tenant("acme", "free"),
            registry.set_tenant_secrets("acme", lambda _before, _now: (SECRET,)),
            registry.add_token(ANN),
            registry.set_event_type("order.created", "An order", None, deprecated=False),
        ):
            await place.store.writer.change(step)
    write(folder / "hooks.db", script)
    async with opened(folder) as place:
        yield place


async def test_everything_is_read_at_the_start(tmp_path: Path) -> None:
    """What was stored is in memory after a start, with nothing to complain of."""
    async with reopened(tmp_path) as place:
        memory = place.store.memory
        [subscription] = memory.index

        assert [] == place.store.unreadable
        assert (OAUTH2, ACCESS_TOKEN) == (subscription.auth, memory.access_token(subscription.seq, OAUTH2))
        assert 0 == memory.health[subscription.seq].consecutive_failures
        assert memory.health[subscription.seq].last_success_at is not None
        assert (["acme"], "free") == (list(memory.tenants), memory.tenants["acme"].plan)
        assert (SECRET,) == memory.tenant_secrets("acme")
        assert [ANN.digest] == list(memory.tokens.principals)
        assert {"order.created"} == memory.event_types


@pytest.mark.parametrize(
    ("script", "named"),
    [
        pytest.param("UPDATE subscriptions SET settings = '{'", "subscription sub_", id="subscription"),
        pytest.param("UPDATE health SET last_success_at = 'x'", "counters", id="counters"),
        pytest.param("UPDATE tenants SET sealed = x'00'", "tenant acme", id="tenant"),
        pytest.param("UPDATE tokens SET scopes = '{'", "token", id="token"),
        pytest.param("UPDATE access_tokens SET sealed = x'00'", "access token", id="access token"),
    ],
)
async def test_what_cannot_be_read_is_named(tmp_path: Path, script: str, named: str) -> None:
    """Each row that somebody has spoiled is told of, and all the others are there."""
    async with reopened(tmp_path, script) as place:
        memory = place.store.memory
        told = [str(error) for error in place.store.unreadable]

        assert [True] == [named in error for error in told]
        assert (0 if "subscriptions" in script else 1) == len(list(memory.index))
        assert (0 if "tokens SET scopes" in script else 1) == len(memory.tokens.principals)
        assert (["acme"], {"order.created"}) == (list(memory.tenants), memory.event_types)


async def test_counters_that_cannot_be_read_begin_anew(tmp_path: Path) -> None:
    """Their subscription is served as one that is not known yet."""
    async with reopened(tmp_path, "UPDATE health SET last_success_at = 'x'") as place:
        assert [Health()] == list(place.store.memory.health.values())


async def test_tenant_that_cannot_be_read_signs_nothing(tmp_path: Path) -> None:
    """Its plan holds all the same, and whoever asks for its secrets hears that they are gone: nothing goes out unsigned."""
    async with reopened(tmp_path, "UPDATE tenants SET sealed = x'00'") as place:
        memory = place.store.memory
        [subscription] = memory.index

        assert ("free", False) == (memory.tenants["acme"].plan, memory.tenants["acme"].readable)
        with pytest.raises(StorageCorrupt, match="the secrets of the tenant acme cannot be read: set a new one"):
            memory.secrets(subscription, of_tenant=True)
        assert subscription.secrets == memory.secrets(subscription, of_tenant=False)


async def test_whose_secrets_sign(tmp_path: Path) -> None:
    """A subscription's own, or its tenant's; a tenant that nobody knows, or without a secret, has none."""
    async with opened(tmp_path) as place:
        memory, made = place.store.memory, await place.subscribe(secrets=(SigningSecret(value=Secret("own")),))
        assert (made.secrets, ()) == tuple(memory.secrets(made, of_tenant=of_tenant) for of_tenant in (False, True))
        await place.store.writer.change(registry.set_tenant("acme", None))
        assert isinstance(memory.tenants["acme"], Tenant)
        assert () == memory.secrets(made, of_tenant=True)
        await place.store.writer.change(registry.set_tenant_secrets("acme", lambda _before, _now: (SECRET,)))

        assert (SECRET,) == memory.secrets(made, of_tenant=True)


async def test_access_token_is_of_one_auth(tmp_path: Path) -> None:
    """A token is kept for the `auth` that a subscription has, over a restart, and given for no other."""
    async with opened(tmp_path) as place:
        made = await place.subscribe(auth=OAUTH2)
        await place.store.writer.change(changes.keep_access_token(made.seq, OTHER_OAUTH2, ACCESS_TOKEN))
        assert place.store.memory.access_token(made.seq, OAUTH2) is None

        await place.store.writer.change(changes.keep_access_token(made.seq, OAUTH2, ACCESS_TOKEN))
        assert ACCESS_TOKEN == place.store.memory.access_token(made.seq, OAUTH2)
    async with opened(tmp_path) as place:
        assert ACCESS_TOKEN == place.store.memory.access_token(made.seq, OAUTH2)
        assert place.store.memory.access_token(made.seq, OTHER_OAUTH2) is None
        assert place.store.memory.access_token(99, OAUTH2) is None
