"""What of the file is kept in memory, from the start on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hookengine.access import Tokens
from hookengine.errors import StorageCorrupt
from hookengine.models import Health, Tenant
from hookengine.store import registered, rows
from hookengine.store.queries import sql

if TYPE_CHECKING:
    import aiosqlite

    from hookengine.matching import Index
    from hookengine.models import AccessToken, OAuth2, SigningSecret, Subscription
    from hookengine.vault import Vault


class Memory:
    """
    The index of subscriptions, their failure counters, tenants, tokens, event types, and the access tokens of endpoints.

    Everybody reads it. It is the writer's: what changes it is committed first, but for when tokens were last used.
    """

    def __init__(self, index: Index) -> None:
        self.index = index
        self.health: dict[int, Health] = {}  # by subscription
        self.tenants: dict[str, Tenant] = {}  # by name
        self.tokens = Tokens()
        self.event_types: set[str] = set()
        self.access_tokens: dict[int, AccessToken] = {}  # by subscription, each given for the `auth` that it has

    async def load(self, db: aiosqlite.Connection, vault: Vault) -> list[StorageCorrupt]:
        """Read all of it; what cannot be read is left alone, and returned."""
        self.event_types |= {row["type"] for row in await db.execute_fetchall(sql.event_type_names)}
        return [
            *await self._load_subscriptions(db, vault),
            *await self._load_tenants(db, vault),
            *await self._load_tokens(db),
            *await self._load_access_tokens(db, vault),
        ]

    def health_of(self, subscription: int) -> Health:
        """The counters of a subscription (its seq); those of one that nothing was sent to where it has none."""
        return self.health.get(subscription) or Health()

    def tenant_secrets(self, tenant: str) -> tuple[SigningSecret, ...]:
        """
        What signs *tenant*'s deliveries where that is the tenant's business, newest first; nothing unless it has a secret.

        Raises StorageCorrupt where it has one that cannot be read.
        """
        known = self.tenants.get(tenant)
        if known is not None and not known.readable:
            raise StorageCorrupt(f"the secrets of the tenant {tenant} cannot be read: set a new one")
        return () if known is None else known.secrets

    def secrets(self, subscription: Subscription, *, of_tenant: bool) -> tuple[SigningSecret, ...]:
        """What signs a request to *subscription*: its own secrets, or with *of_tenant* as `tenant_secrets`."""
        return self.tenant_secrets(subscription.tenant) if of_tenant else subscription.secrets

    def access_token(self, subscription: int, auth: OAuth2) -> AccessToken | None:
        """The access token that was kept for a subscription (its seq); None unless it has this very *auth*."""
        current = self.index.get(subscription)
        return self.access_tokens.get(subscription) if current is not None and current.auth == auth else None

    async def _load_subscriptions(self, db: aiosqlite.Connection, vault: Vault) -> list[StorageCorrupt]:
        unreadable = []
        for row in await db.execute_fetchall(sql.subscriptions):
            try:
                self.index.put(registered.subscription(row, vault))
            except StorageCorrupt as error:
                unreadable.append(error)
                continue
            try:
                self.health[row["seq"]] = rows.health(row)
            except StorageCorrupt as error:  # it is served as one that is not known yet
                unreadable.append(error)
                self.health[row["seq"]] = Health()
        return unreadable

    async def _load_tenants(self, db: aiosqlite.Connection, vault: Vault) -> list[StorageCorrupt]:
        unreadable = []
        for row in await db.execute_fetchall(sql.tenants):
            try:
                self.tenants[row["name"]] = registered.tenant(row, vault)
            except StorageCorrupt as error:
                # Its plan still holds, and nothing of it goes out unsigned.
                unreadable.append(error)
                known = {name: row[name] for name in ("seq", "name", "plan", "created_at", "updated_at")}
                self.tenants[row["name"]] = Tenant(**known, readable=False)
        return unreadable

    async def _load_tokens(self, db: aiosqlite.Connection) -> list[StorageCorrupt]:
        unreadable = []
        for row in await db.execute_fetchall(sql.tokens):
            try:
                self.tokens.put(registered.token(row))
            except StorageCorrupt as error:
                unreadable.append(error)
        return unreadable

    async def _load_access_tokens(self, db: aiosqlite.Connection, vault: Vault) -> list[StorageCorrupt]:
        unreadable = []
        for row in await db.execute_fetchall(sql.access_tokens):
            subscription = self.index.get(row["subscription"])
            if subscription is None:  # it cannot be read itself
                continue
            try:
                self.access_tokens[subscription.seq] = registered.access_token(row, subscription, vault)
            except StorageCorrupt as error:  # the endpoint's deliveries ask for a new one
                unreadable.append(error)
        return unreadable
