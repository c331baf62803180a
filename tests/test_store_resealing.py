"""A change of the encryption key, on a real file with everything in it that is sealed."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest
from storage import Opened, opened, write

from hookengine.errors import KeyUnusable, StartError
from hookengine.models import AccessToken, BasicAuth, OAuth2, Secret, SigningSecret
from hookengine.store import changes, registry
from hookengine.vault import Vault

if TYPE_CHECKING:
    from pathlib import Path

OLD, NEW, OTHER = b"o" * 32, b"n" * 32, b"x" * 32
SECRETS = (SigningSecret(value=Secret("whsec_of_acme")),)
BASIC = BasicAuth(username="ana", password=Secret("password"))
OAUTH2 = OAuth2(grant="client_credentials", token_url="https://a.example", client_id="me", client_secret=Secret("client"))
TOKEN = AccessToken(value=Secret("access"), refresh_token=Secret("refresh"))
EVERYTHING = """
SELECT sealed FROM subscriptions UNION ALL SELECT sealed FROM tenants UNION ALL SELECT sealed FROM access_tokens
UNION ALL SELECT value FROM meta WHERE name = 'vault_check'
"""


def given(*keys: bytes) -> str:
    """*keys* as an operator gives them."""
    return ",".join(base64.b64encode(key).decode() for key in keys)


def head(key: bytes) -> bytes:
    """How begins what *key* has sealed."""
    return Vault([key], bytes).head


async def fill(place: Opened) -> None:
    """Store one of everything that is sealed."""
    await place.subscribe(id="sub_1", auth=BASIC, headers=(("x-key", Secret("header")),), secrets=SECRETS)
    two = await place.subscribe(id="sub_2", auth=OAUTH2)
    await place.store.writer.change(registry.set_tenant_secrets("acme", lambda _, __: SECRETS))
    await place.store.writer.change(changes.keep_access_token(two.seq, OAUTH2, TOKEN))


async def test_everything_is_sealed_with_the_new_key(tmp_path: Path) -> None:
    """One start with the new key before the old one leaves nothing that needs the old one, and no secret is changed."""
    async with opened(tmp_path, encryption_key=given(OLD)) as place:
        await fill(place)
    async with opened(tmp_path, encryption_key=given(NEW, OLD)) as place:
        assert 5 == place.store.resealed
        assert {head(NEW)} == {sealed[:5] for (sealed,) in place.rows(EVERYTHING)}

    async with opened(tmp_path, encryption_key=given(NEW)) as place:
        assert (0, []) == (place.store.resealed, place.store.unreadable)
        one, two = place.store.memory.index
        assert (BASIC, SECRETS, "header") == (one.auth, one.secrets, one.headers[0][1])
        assert TOKEN == place.store.memory.access_token(two.seq, OAUTH2)
        assert SECRETS == place.store.memory.tenant_secrets("acme")
    with pytest.raises(KeyUnusable, match="does not open this database"):
        async with opened(tmp_path, encryption_key=given(OLD)):
            pass


async def test_old_key_first_changes_nothing(tmp_path: Path) -> None:
    """A key that only stands behind the present one is there to open, and not to seal."""
    async with opened(tmp_path, encryption_key=given(OLD)) as place:
        await fill(place)
        before = place.rows(EVERYTHING)
    async with opened(tmp_path, encryption_key=given(OLD, NEW)) as place:
        assert (0, before) == (place.store.resealed, place.rows(EVERYTHING))


async def test_what_does_not_open_stays_as_it_is(tmp_path: Path) -> None:
    """A row that no key opens does not keep the others from the new key, is not touched, and is named as before."""
    broken = Vault([OTHER], bytes).seal(b"{}", "sub_1")
    async with opened(tmp_path, encryption_key=given(OLD)) as place:
        await fill(place)
    write(place.path, f"UPDATE subscriptions SET sealed = x'{broken.hex()}' WHERE id = 'sub_1'")
    write(place.path, "UPDATE tenants SET sealed = 'no bytes'")
    async with opened(tmp_path, encryption_key=given(NEW, OLD)) as place:
        assert 3 == place.store.resealed
        assert [(broken,)] == place.rows("SELECT sealed FROM subscriptions WHERE id = 'sub_1'")
        assert ["sub_1", "acme"] == [
            name for error in place.store.unreadable for name in ("sub_1", "acme") if name in error.detail
        ]


async def test_all_or_nothing(tmp_path: Path) -> None:
    """A start that cannot write it all leaves it all as it was, for the next one."""
    async with opened(tmp_path, encryption_key=given(OLD)) as place:
        await fill(place)
        before = place.rows(EVERYTHING)
    refuse = "CREATE TRIGGER t BEFORE UPDATE OF sealed ON access_tokens BEGIN SELECT raise(ABORT, 'no'); END"
    write(place.path, refuse)
    with pytest.raises(StartError):
        async with opened(tmp_path, encryption_key=given(NEW, OLD)):
            pass
    write(place.path, "DROP TRIGGER t")

    assert before == place.rows(EVERYTHING)
    async with opened(tmp_path, encryption_key=given(NEW, OLD)) as place:
        assert 5 == place.store.resealed
