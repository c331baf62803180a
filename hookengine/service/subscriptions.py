"""What is done with subscriptions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import UNSET
from msgspec.structs import replace

from hookengine import inputs, models, subscribing, views
from hookengine.access import Principal, Scope
from hookengine.inputs import RotationInput, SubscriptionInput
from hookengine.models import Secret, SigningSecret, SubscriptionState
from hookengine.paging import Query, newest, page
from hookengine.presentation import shown_secret, shown_subscription
from hookengine.profiles import lasting
from hookengine.service.verification import Verification
from hookengine.signing_keys import new_secret
from hookengine.store import Answer, changes
from hookengine.validation import Problems

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hookengine.service.operations import RequestKey
    from hookengine.store import Key
    from hookengine.validation import Draft


class _TestNeeded(Exception):  # not an error: it takes a change back, so that its endpoint can be tested
    def __init__(self, subscription: models.Subscription) -> None:
        super().__init__()
        self.subscription = subscription


class SubscriptionOperations(Verification):
    """Of subscriptions."""

    async def subscribe(
        self,
        by: Principal,
        given: Mapping[str, Any],
        *,
        key: RequestKey | None = None,
        render: Callable[[views.Subscription], bytes] | None = None,
    ) -> views.Subscription | Answer:
        """
        A new subscription with its secret, this once; a repetition with *key* gets what *render* made, without it.

        Raises SubscriptionLimitReached, and EndpointVerificationFailed where the profile demands a test.
        """
        self._require(by, Scope.SUBSCRIPTIONS_WRITE, changing=True)
        problems = Problems()
        draft = problems.convert(SubscriptionInput, given)
        tenant = self._own_tenant(by, draft.get("tenant"))
        default_profile = self._config.delivery.default_profile
        subscribing.check_subscription(
            problems,
            draft,
            policy=self._policy,
            profiles=self._profiles,
            default_profile=default_profile,
            ours=by.may_have_ours,
        )
        self._check_kept_secrets(problems, draft, tenant)
        self._check_types(problems, draft.get("event_types"), kept=())
        wanted = problems.require(draft)
        settings = subscribing.settings(wanted, default_profile=default_profile)
        secret = self._first_secret(wanted.secret, settings["profile"])
        disabled = settings["state"] is SubscriptionState.DISABLED
        subscription = models.Subscription(
            seq=0,
            id=self._clock.new_id("sub"),
            tenant=tenant,
            secrets=() if secret is None else (SigningSecret(value=Secret(secret)),),
            disabled_reason=models.DisabledReason.MANUAL if disabled else None,
            created_at=0,  # this and the next, as `seq`, are given with its commit
            updated_at=0,
            **settings,
        )
        made = await self._add(
            subscription,
            None if key is None else self._key(key, tenant),
            None if render is None else lambda made: render(self._view(made)),
        )
        return made if isinstance(made, Answer) else replace(self._view(made), secret=secret)

    async def subscription(self, by: Principal, id: str) -> views.Subscription:
        """One subscription."""
        self._require(by, Scope.SUBSCRIPTIONS_READ)
        return self._view(self._subscription(by, id))

    async def subscriptions(self, by: Principal, query: Mapping[str, Any]) -> views.Page[views.Subscription]:
        """A page of subscriptions, newest first."""
        self._require(by, Scope.SUBSCRIPTIONS_READ)
        asked = Query(query, {"tenant", "state"})
        state = asked.choice("state", [state.value for state in SubscriptionState])
        part = asked.slice(self._tenant(by, asked.text("tenant")))
        wanted = (s for s in self._store.memory.index if part.tenant in (None, s.tenant) and state in (None, s.state))
        found, after = newest(wanted, part)
        return page([self._view(s) for s in found], after)

    async def update_subscription(
        self,
        by: Principal,
        id: str,
        patch: Mapping[str, Any],
        *,
        versions: frozenset[int] | None = None,
    ) -> views.Subscription:
        """
        Apply a merge patch (RFC 7396) to a subscription's settings; `***` as a header's value keeps it.

        Raises EndpointVerificationFailed where the profile demands a test and what it tests changes.
        """
        self._require(by, Scope.SUBSCRIPTIONS_WRITE, changing=True)
        fresh = new_secret(self._clock.new_bytes(32))
        passed: list[object] = []  # what tests have shown to work

        def edit(current: models.Subscription, _: int) -> models.Subscription:
            patched = self._patched(by, current, dict(patch), fresh)
            if self._tested(patched) not in (None, self._tested(current), *passed):
                # Credentials that may be refused get a token of their own, and deliveries keep theirs.
                raise _TestNeeded(patched if patched.auth == current.auth else replace(patched, seq=0))
            return patched

        while True:
            try:
                return self._view(await self._edit(by, id, edit, versions))
            except _TestNeeded as needed:  # again, if somebody else changed the subscription during the test
                await self._verify(needed.subscription)
                passed.append(self._tested(needed.subscription))

    async def enable(self, by: Principal, id: str, *, versions: frozenset[int] | None = None) -> views.Subscription:
        """Let it get deliveries again: counters start anew, and what was held, or waited for a retry, goes."""
        return await self._set_state(by, id, SubscriptionState.ACTIVE, versions)

    async def disable(self, by: Principal, id: str, *, versions: frozenset[int] | None = None) -> views.Subscription:
        """Keep it from getting deliveries."""
        return await self._set_state(by, id, SubscriptionState.DISABLED, versions)

    async def unsubscribe(self, by: Principal, id: str, *, versions: frozenset[int] | None = None) -> None:
        """Delete it: what waits is cancelled, history stays readable."""
        self._changeable(by, id)
        await self._store.writer.change(changes.delete_subscription(id, by.tenant, versions=versions))

    async def secret(self, by: Principal, id: str) -> views.SubscriptionSecret:
        """Its signing secret, and those it replaced that are still valid."""
        return shown_secret(self._changeable(by, id, changing=False), self._clock.now())

    async def rotate_secret(
        self,
        by: Principal,
        id: str,
        given: Mapping[str, Any],
        *,
        versions: frozenset[int] | None = None,
    ) -> views.SubscriptionSecret:
        """Sign with a new secret, given or made; the one before signs beside it for the overlap."""
        subscription = self._changeable(by, id)
        problems = Problems()
        draft = problems.convert(RotationInput, given)
        subscribing.check_rotation(problems, draft, self._profiles.get(subscription.profile))
        wanted = problems.require(draft)
        secret = wanted.secret or new_secret(self._clock.new_bytes(32))
        overlap = None if wanted.overlap is None else int(wanted.overlap)

        def edit(current: models.Subscription, now: int) -> models.Subscription:
            return replace(current, secrets=subscribing.rotated(current.secrets, secret, overlap=overlap, now=now))

        return shown_secret(await self._edit(by, id, edit, versions), self._clock.now())

    async def _add(
        self, subscription: models.Subscription, key: Key | None, render: Callable[[models.Subscription], bytes] | None
    ) -> models.Subscription | Answer:
        limits = {name: plan.max_subscriptions for name, plan in self._config.plans.items()}
        if self._tested(subscription) is None:
            return await self._store.writer.change(changes.add_subscription(subscription, key, render, limits=limits))
        async with self._in_turn(key):
            first = None if key is None else await self._store.reader.answered(key, now=self._clock.now())
            if first is not None:
                return first
            changes.check_limit(self._store.memory, subscription.tenant, limits)
            await self._verify(subscription)
            return await self._store.writer.change(changes.add_subscription(subscription, key, render, limits=limits))

    def _first_secret(self, given: str | None, profile: str) -> str | None:
        if not self._profiles[profile].has_own_secrets:
            return None
        return given or new_secret(self._clock.new_bytes(32))

    async def _edit(
        self,
        by: Principal,
        id: str,
        edit: Callable[[models.Subscription, int], models.Subscription],
        versions: frozenset[int] | None,
        *,
        enable: bool = False,
    ) -> models.Subscription:
        change = changes.edit_subscription(id, by.tenant, edit, versions=versions, enable=enable)
        return await self._store.writer.change(change)

    async def _set_state(
        self,
        by: Principal,
        id: str,
        state: SubscriptionState,
        versions: frozenset[int] | None,
    ) -> views.Subscription:
        self._changeable(by, id)
        enable = state is SubscriptionState.ACTIVE
        return self._view(await self._edit(by, id, lambda current, _: replace(current, state=state), versions, enable=enable))

    def _changeable(self, by: Principal, id: str, *, changing: bool = True) -> models.Subscription:
        """The subscription, if *by* may change it, or, if it is not *changing*, have its secrets."""
        self._require(by, Scope.SUBSCRIPTIONS_WRITE, changing=changing)
        subscription = self._subscription(by, id)
        self._check_ours(by, subscription.tenant)
        return subscription

    def _patched(self, by: Principal, current: models.Subscription, patch: dict[str, Any], fresh: str) -> models.Subscription:
        problems = Problems()
        for name in ("tenant", "secret"):
            if name not in patch or patch[name] == getattr(current, name, UNSET) or self._is_first(patch, name, current):
                continue
            problems.add(f"/{name}", "immutable_member", "rotate the secret instead" if name == "secret" else "cannot change")
            del patch[name]
        given = subscribing.as_given(current)
        merged = subscribing.merge(given, subscribing.keep_hidden(patch, current))
        merged |= dict.fromkeys(patch.keys() - subscribing.SETTINGS)  # to be told of, also where they are null
        draft = problems.convert(SubscriptionInput, merged)
        default_profile = self._config.delivery.default_profile
        subscribing.check_subscription(
            problems,
            draft,
            policy=self._policy,
            profiles=self._profiles,
            default_profile=default_profile,
            ours=by.may_have_ours,
            kept=current,
            changed=[name for name in subscribing.SETTINGS if merged.get(name) != given.get(name)],
        )
        self._check_types(problems, draft.get("event_types"), kept=current.event_types)
        self._check_kept_secrets(problems, draft, current.tenant, current)
        wanted = problems.require(draft)
        settings = subscribing.settings(wanted, default_profile=default_profile)
        secrets = current.secrets
        if settings["profile"] != current.profile or wanted.secret is not None:
            secrets = subscribing.secrets_for(self._profiles[settings["profile"]], secrets, wanted.secret or fresh)
        return replace(current, secrets=secrets, **settings)

    def _is_first(self, patch: Mapping[str, Any], name: str, current: models.Subscription) -> bool:
        """Whether *patch* brings along the secret that its profile needs, and the one before did not."""
        if name != "secret" or "profile" not in patch or lasting(current.secrets) is not None:
            return False
        wanted: object = subscribing.profile_name(patch["profile"], self._config.delivery.default_profile)
        profile = self._profiles.get(wanted) if isinstance(wanted, str) else None
        return profile is not None and profile.has_own_secrets

    def _check_kept_secrets(
        self,
        problems: Problems,
        draft: Draft[SubscriptionInput],
        tenant: str,
        current: models.Subscription | None = None,
    ) -> None:
        """Whether a profile that is new to a subscription can sign with the secrets that it finds."""
        profile = self._profiles.get(subscribing.profile_name(draft.get("profile"), self._config.delivery.default_profile))
        if profile is None or (current is not None and profile.name == current.profile):
            return
        known = self._store.memory.tenants.get(tenant)
        if known is not None and not known.readable and profile.uses_tenants_secret:
            problems.add("/profile", "unusable_secret", "set the tenant another secret: the one that it has cannot be read")
        own = () if current is None else current.secrets
        tenants = () if known is None else known.secrets
        subscribing.check_kept_secrets(problems, profile, own=own, tenants=tenants)

    def _check_types(self, problems: Problems, wanted: list[str] | None, *, kept: tuple[str, ...]) -> None:
        """
        Where types must be declared, a subscription to one that is not would wait for ever: a slip of the pen.

        A pattern is for types to come. Those in *kept* it has already: a type that was deleted does not lock its settings.
        """
        if not self._config.delivery.strict_event_types:
            return
        for position, type_ in enumerate(wanted or ()):
            if not type_.endswith("*") and type_ not in kept:
                inputs.check_listed(problems, type_, f"/event_types/{position}", self._store.memory.event_types)

    def _view(self, subscription: models.Subscription) -> views.Subscription:
        return shown_subscription(subscription, self._store.memory.health_of(subscription.seq))
