"""The changes of what an operator declares, each alone in its transaction: tenants, their secrets, tokens, event types."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from hookengine.errors import EventTypeNotFound, TenantNotFound, TenantSecretNotFound, TokenExists, TokenNotFound
from hookengine.models import Tenant
from hookengine.store import registered
from hookengine.store.queries import sql

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from hookengine.access import Token
    from hookengine.models import SigningSecret
    from hookengine.store.transaction import Transaction

_Secrets = tuple["SigningSecret", ...]


def set_tenant(name: str, plan: str | None) -> Callable[[Transaction], Awaitable[tuple[Tenant, bool]]]:
    """Put the tenant on *plan*, or on none; with it comes whether it was made by this."""

    async def step(tx: Transaction) -> tuple[Tenant, bool]:
        before = tx.memory.tenants.get(name)
        if before is not None and before.plan == plan:
            return before, False
        tenant = replace(before or _new_tenant(name, tx.now), plan=plan, updated_at=tx.now)
        return await _saved(tx, tenant, sql.save_tenant, plan), before is None

    return step


def delete_tenant(name: str) -> Callable[[Transaction], Awaitable[None]]:
    """Forget its plan and its secrets; subscriptions, events and tokens keep its name."""

    async def step(tx: Transaction) -> None:
        if name not in tx.memory.tenants:
            raise TenantNotFound
        await tx.run(sql.delete_tenant, (name,))

        def follow() -> None:
            del tx.memory.tenants[name]
            tx.listener.signed_anew(name)

        tx.after.append(follow)

    return step


def set_tenant_secrets(name: str, renew: Callable[[_Secrets, int], _Secrets]) -> Callable[[Transaction], Awaitable[_Secrets]]:
    """Let *renew* replace the tenant's secrets as they are now; the tenant is made if need be."""

    async def step(tx: Transaction) -> _Secrets:
        before = tx.memory.tenants.get(name) or _new_tenant(name, tx.now)
        secrets = renew(before.secrets, tx.now)
        if secrets != before.secrets:
            tenant = replace(before, secrets=secrets, readable=True, updated_at=tx.now)
            await _saved(tx, tenant, sql.save_tenant_secrets, registered.sealed_secrets(tenant, tx.vault))
            tx.after.append(partial(tx.listener.signed_anew, name))
        return secrets

    return step


def delete_tenant_secrets(name: str) -> Callable[[Transaction], Awaitable[None]]:
    """Sign nothing of the tenant's any more, not even with what was replaced."""

    async def step(tx: Transaction) -> None:
        before = tx.memory.tenants.get(name)
        if before is None or (before.readable and not before.secrets):
            raise TenantSecretNotFound
        tenant = replace(before, secrets=(), readable=True, updated_at=tx.now)
        await _saved(tx, tenant, sql.save_tenant_secrets, None)
        tx.after.append(partial(tx.listener.signed_anew, name))

    return step


def add_token(token: Token) -> Callable[[Transaction], Awaitable[Token]]:
    """Let *token* open what it opens; raises TokenExists where its user has one, expired or not."""

    async def step(tx: Transaction) -> Token:
        if tx.memory.tokens.of(token.principal.user) is not None:
            raise TokenExists
        ((seq,),) = await tx.fetch(sql.insert_token, registered.token_row(token))
        new = replace(token, seq=seq)
        tx.after.append(lambda: tx.memory.tokens.put(new))
        return new

    return step


def delete_token(user: str) -> Callable[[Transaction], Awaitable[None]]:
    """From the commit on it opens nothing."""

    async def step(tx: Transaction) -> None:
        if tx.memory.tokens.of(user) is None:
            raise TokenNotFound
        await tx.run(sql.delete_token, (user,))
        tx.after.append(lambda: tx.memory.tokens.remove(user))

    return step


def note_uses(every: int) -> Callable[[Transaction], Awaitable[int]]:
    """Store when tokens were used, where the stored time is *every* ms older or more; how many, 0 when none is left."""

    async def step(tx: Transaction) -> int:
        used = tx.memory.tokens.unwritten(every)
        if used:
            await tx.run_many(sql.use_token, [(at, user) for user, at in used])
            tx.after.append(lambda: tx.memory.tokens.written(used))
        return len(used)

    return step


def set_event_type(
    type: str, description: str, example: bytes | None, *, deprecated: bool
) -> Callable[[Transaction], Awaitable[bool]]:
    """Declare *type*, or describe it anew; whether it was made by this."""

    async def step(tx: Transaction) -> bool:
        await tx.run(sql.save_event_type, (type, description, example, deprecated, tx.now, tx.now))
        tx.after.append(lambda: tx.memory.event_types.add(type))
        return type not in tx.memory.event_types

    return step


def delete_event_type(type: str) -> Callable[[Transaction], Awaitable[None]]:
    """Declare *type* no more; its events stay, and so do subscriptions to it."""

    async def step(tx: Transaction) -> None:
        if type not in tx.memory.event_types:
            raise EventTypeNotFound
        await tx.run(sql.delete_event_type, (type,))
        tx.after.append(lambda: tx.memory.event_types.remove(type))

    return step


def _new_tenant(name: str, now: int) -> Tenant:
    return Tenant(seq=0, name=name, created_at=now, updated_at=now)


async def _saved(tx: Transaction, tenant: Tenant, statement: str, value: object) -> Tenant:
    """*tenant* with its key, once *statement* has stored *value*, which is what has changed; kept in memory once committed."""
    ((seq,),) = await tx.fetch(statement, (tenant.name, value, tenant.created_at, tenant.updated_at))
    saved = replace(tenant, seq=seq)

    def follow() -> None:
        tx.memory.tenants[saved.name] = saved

    tx.after.append(follow)
    return saved
