"""What is done with tenants: the plans that limit them, and the secrets that sign for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hookengine import inputs, subscribing, views
from hookengine.access import Principal, Scope
from hookengine.errors import TenantNotFound, TenantSecretNotFound
from hookengine.inputs import RotationInput, TenantInput
from hookengine.matching import OURS
from hookengine.paging import Query, newest, page
from hookengine.presentation import shown_tenant, shown_tenant_secret
from hookengine.service.operations import Operations
from hookengine.signing_keys import new_secret
from hookengine.store import registry
from hookengine.validation import Problems
from hookengine.wording import did_you_mean, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hookengine import models
    from hookengine.models import SigningSecret


class TenantOperations(Operations):
    """Of tenants; one that is not declared works like one without a plan and a secret."""

    async def tenant(self, by: Principal, tenant: str) -> views.Tenant:
        """One tenant that is declared."""
        self._require(by, Scope.ADMIN)
        found = self._store.memory.tenants.get(tenant)
        if found is None:
            raise TenantNotFound
        return self._shown_tenant(found)

    async def tenants(self, by: Principal, query: Mapping[str, Any]) -> views.Page[views.Tenant]:
        """A page of the tenants that are declared, newest first."""
        self._require(by, Scope.ADMIN)
        found, after = newest(self._store.memory.tenants.values(), Query(query, set()).slice(None))
        return page([self._shown_tenant(each) for each in found], after)

    async def set_tenant(self, by: Principal, tenant: str, given: Mapping[str, Any]) -> tuple[views.Tenant, bool]:
        """
        Put a tenant on a plan, or on none; with it comes whether it was made by this.

        A smaller plan removes nothing: there can be no more subscriptions until there are fewer.
        """
        self._require(by, Scope.ADMIN, changing=True)
        problems = Problems()
        inputs.check_named(problems, tenant=tenant)
        draft = problems.convert(TenantInput, given)
        plan, plans = draft.get("plan"), self._config.plans
        if plan is not None and plan not in plans:
            known = f"expected one of {', '.join(map(quoted, plans))}" if plans else "the configuration has no plans"
            problems.add("/plan", "unknown_plan", f"{known}{did_you_mean(plan, plans)}")
        wanted = problems.require(draft)
        saved, made = await self._store.writer.change(registry.set_tenant(tenant, wanted.plan))
        return self._shown_tenant(saved), made

    async def delete_tenant(self, by: Principal, tenant: str) -> None:
        """Forget its plan and its secrets; subscriptions, events, deliveries and tokens keep its name, and go on."""
        self._require(by, Scope.ADMIN, changing=True)
        await self._store.writer.change(registry.delete_tenant(tenant))

    async def tenant_secret(self, by: Principal, tenant: str) -> views.TenantSecret:
        """The secret that signs its deliveries, and those it replaced that are still valid."""
        self._require_own(by, tenant)
        self._check_ours(by, tenant)
        found = self._store.memory.tenants.get(tenant)
        if found is None or not found.secrets:
            raise TenantSecretNotFound
        return shown_tenant_secret(found.secrets, self._clock.now())

    async def set_tenant_secret(self, by: Principal, tenant: str, given: Mapping[str, Any]) -> views.TenantSecret:
        """Sign with a new secret, given or made; the one before stays valid for the overlap."""
        self._require_own(by, tenant, changing=True)
        problems = Problems()
        if tenant != OURS or not by.may_have_ours:
            inputs.check_named(problems, tenant=tenant)
        draft = problems.convert(RotationInput, given)
        inputs.check_tenant_secret(problems, draft.get("secret"), self._profiles)
        wanted = problems.require(draft)
        secret = wanted.secret or new_secret(self._clock.new_bytes(32))
        overlap = None if wanted.overlap is None else int(wanted.overlap)

        def renew(before: tuple[SigningSecret, ...], now: int) -> tuple[SigningSecret, ...]:
            return subscribing.rotated(before, secret, overlap=overlap, now=now)

        return shown_tenant_secret(
            await self._store.writer.change(registry.set_tenant_secrets(tenant, renew)), self._clock.now()
        )

    async def delete_tenant_secret(self, by: Principal, tenant: str) -> None:
        """Sign its deliveries no more, and forget the secret and those before it."""
        self._require_own(by, tenant, changing=True)
        self._check_ours(by, tenant)
        await self._store.writer.change(registry.delete_tenant_secrets(tenant))

    def _require_own(self, by: Principal, tenant: str, *, changing: bool = False) -> None:
        """Secrets are the business of whoever may change subscriptions; another tenant's are not there."""
        self._require(by, Scope.SUBSCRIPTIONS_WRITE, changing=changing)
        if by.tenant not in (None, tenant):
            raise TenantSecretNotFound

    def _shown_tenant(self, tenant: models.Tenant) -> views.Tenant:
        plan = None if tenant.plan is None else self._config.plans.get(tenant.plan)
        limit = None if plan is None else plan.max_subscriptions
        return shown_tenant(tenant, subscriptions=self._store.memory.index.count(tenant.name), limit=limit)
