"""The operations of the API, once, for HTTP and Python alike."""

from __future__ import annotations

import asyncio
from datetime import date
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import orjson
from msgspec import UNSET, Raw, Struct
from msgspec.structs import replace

from hookengine import inputs, models, validation, views
from hookengine.access import Principal, Scope
from hookengine.errors import (
    DeliveryNotFound,
    EventNotFound,
    Forbidden,
    Stopping,
    SubscriptionNotFound,
)
from hookengine.inputs import DEFAULT_TENANT, EventInput, RotationInput, SubscriptionInput
from hookengine.jsontext import check_json
from hookengine.models import DeliveryState, Health, Secret, SigningSecret, SubscriptionState
from hookengine.paging import Query, page
from hookengine.presentation import shown_attempt, shown_events, shown_secret, shown_subscription
from hookengine.signing import new_secret
from hookengine.store import Answer, Draft, Key, changes
from hookengine.validation import Problems

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hookengine.clock import Clock
    from hookengine.config import Config
    from hookengine.netguard import Policy
    from hookengine.observers import Waiters
    from hookengine.store import Store

MOST_EVENTS = 1_000  # of one batch
DEFAULT_OVERLAP = 24 * 3_600_000

_FINAL = {DeliveryState.DELIVERED, DeliveryState.FAILED, DeliveryState.CANCELLED}


class RequestKey(Struct, frozen=True, kw_only=True):
    """An Idempotency-Key as a request brings it; `digest` is of the request's bytes."""

    method: str
    path: str
    key: str
    digest: bytes


class Service:
    """
    What can be asked of a running engine, by whom.

    Inputs are mappings of member names to values, as JSON has them; every mistake in them is raised at once, as Invalid.
    """

    def __init__(self, store: Store, *, waiters: Waiters, clock: Clock, config: Config, policy: Policy) -> None:
        self._store = store
        self._waiters = waiters
        self._clock = clock
        self._config = config
        self._policy = policy
        self._profiles = config.profiles
        self._refusing = False

    @property
    def accepting(self) -> bool:
        """Whether events are taken."""
        return not self._refusing

    def refuse(self) -> None:
        """Take no events and changes any more; questions are still answered."""
        self._refusing = True

    # Events.

    async def publish(
        self,
        by: Principal,
        events: Sequence[Mapping[str, Any]],
        *,
        single: bool = False,
        key: RequestKey | None = None,
        render: Callable[[list[views.Event]], bytes] | None = None,
    ) -> list[views.Event] | Answer:
        """
        Accept *events*, all or none: returned once they are on disk with their deliveries.

        With *single* the pointers of mistakes do not start with an index. A repetition with *key* gets the Answer whose body
        *render* made for the first.
        """
        self._require(by, Scope.EVENTS_WRITE, changing=True)
        problems = Problems()
        read = self._read(by, events, problems, single=single)
        keyed = None if key is None else self._key(by, key, read[0][1] if single else None)
        if keyed is not None and problems.mistakes:
            # It may have been right when it was accepted, as with a subscription that is gone since.
            answer = await self._store.reader.answer(keyed, now=self._clock.now())
            if answer is not None:
                return answer
        drafts = [self._draft(problems.require(draft), tenant) for draft, tenant in read]
        made = await self._store.writer.publish(
            drafts, key=keyed, render=None if render is None else lambda receipts: render(shown_events(receipts))
        )
        return made if isinstance(made, Answer) else shown_events(made)

    async def publish_values(
        self, by: Principal, events: Sequence[Mapping[str, Any]], *, single: bool = False
    ) -> list[views.Event]:
        """The same for Python values: `data` as bytes is JSON text, anything else is printed; times may be datetimes."""
        accepted = await self.publish(by, [_as_json(event) for event in events], single=single)
        assert not isinstance(accepted, Answer)  # noqa: S101  # there was no key
        return accepted

    async def event(self, by: Principal, id: str, *, tenant: str | None = None) -> views.EventDetail:
        """One event, with what it carries and where it went."""
        self._require(by, Scope.EVENTS_READ)
        found = await self._store.reader.event(id, self._tenant(by, tenant))
        if found is None:
            raise EventNotFound
        return found

    async def events(self, by: Principal, query: Mapping[str, Any]) -> views.Page[views.Event]:
        """A page of events, newest first."""
        self._require(by, Scope.EVENTS_READ)
        asked = Query(query, {"type", "tenant", "since", "until"})
        part = asked.slice(self._tenant(by, asked.text("tenant")))
        found, after = await self._store.reader.events(part, type=asked.text("type"))
        return page(found, after)

    async def wait(self, by: Principal, id: str, timeout: float) -> list[views.Delivery]:  # noqa: ASYNC109
        """The deliveries of an event once each is final; TimeoutError after *timeout* s, and as soon as one is held."""
        self._require(by, Scope.EVENTS_READ)
        seq = await self._store.reader.event_key(id, by.tenant)
        if seq is None:
            raise EventNotFound
        with self._waiters.watch(seq) as changed:
            async with asyncio.timeout(timeout):
                while True:
                    changed.clear()
                    deliveries = await self._store.reader.deliveries_of(seq)
                    if all(delivery.state in _FINAL for delivery in deliveries):
                        return deliveries
                    if any(delivery.state == DeliveryState.HELD for delivery in deliveries):
                        raise TimeoutError("a delivery is held until its subscription is enabled")
                    await changed.wait()

    # Subscriptions.

    async def subscribe(
        self,
        by: Principal,
        given: Mapping[str, Any],
        *,
        key: RequestKey | None = None,
        render: Callable[[views.Subscription], bytes] | None = None,
    ) -> views.Subscription | Answer:
        """A new subscription with its secret, this once; a repetition with *key* gets what *render* made, without it."""
        self._require(by, Scope.SUBSCRIPTIONS_WRITE, changing=True)
        problems = Problems()
        draft = problems.convert(SubscriptionInput, given)
        tenant = self._own_tenant(by, draft.get("tenant"))
        default_profile = self._config.delivery.default_profile
        inputs.check_subscription(
            problems, draft, policy=self._policy, profiles=self._profiles, default_profile=default_profile
        )
        wanted = problems.require(draft)
        now = self._clock.now()
        settings = inputs.settings(wanted, default_profile=default_profile)
        secret = self._first_secret(wanted.secret, settings["profile"])
        disabled = settings["state"] is SubscriptionState.DISABLED
        subscription = models.Subscription(
            seq=0,
            id=self._clock.new_id("sub"),
            tenant=tenant,
            secrets=() if secret is None else (SigningSecret(value=Secret(secret)),),
            disabled_reason=models.DisabledReason.MANUAL if disabled else None,
            created_at=now,
            updated_at=now,
            **settings,
        )
        step = changes.add_subscription(
            subscription,
            None if key is None else self._key(by, key, tenant),
            None if render is None else lambda made: render(self._view(made)),
        )
        made = await self._store.writer.change(step)
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
        found = sorted(
            (
                s
                for s in self._store.writer.index
                if s.seq < part.before and part.tenant in (None, s.tenant) and state in (None, s.state)
            ),
            key=lambda s: -s.seq,
        )[: part.limit + 1]
        after = found[part.limit - 1].seq if len(found) > part.limit else None
        return page([self._view(s) for s in found[: part.limit]], after)

    async def update_subscription(
        self,
        by: Principal,
        id: str,
        patch: Mapping[str, Any],
        *,
        versions: frozenset[int] | None = None,
    ) -> views.Subscription:
        """Apply a merge patch (RFC 7396) to a subscription's settings; `***` as a header's value keeps it."""
        self._require(by, Scope.SUBSCRIPTIONS_WRITE, changing=True)

        def edit(current: models.Subscription, _: int) -> models.Subscription:
            return self._patched(current, dict(patch))

        return self._view(await self._edit(by, id, edit, versions))

    async def enable(self, by: Principal, id: str, *, versions: frozenset[int] | None = None) -> views.Subscription:
        """Let it get deliveries again: counters start anew, and what was held goes."""
        return await self._set_state(by, id, SubscriptionState.ACTIVE, versions)

    async def disable(self, by: Principal, id: str, *, versions: frozenset[int] | None = None) -> views.Subscription:
        """Keep it from getting deliveries."""
        return await self._set_state(by, id, SubscriptionState.DISABLED, versions)

    async def unsubscribe(self, by: Principal, id: str, *, versions: frozenset[int] | None = None) -> None:
        """Delete it: what waits is cancelled, history stays readable."""
        self._require(by, Scope.SUBSCRIPTIONS_WRITE, changing=True)
        await self._store.writer.change(changes.delete_subscription(id, by.tenant, versions=versions))

    async def secret(self, by: Principal, id: str) -> views.SubscriptionSecret:
        """Its signing secret, and those it replaced that are still valid."""
        self._require(by, Scope.SUBSCRIPTIONS_WRITE)
        return shown_secret(self._subscription(by, id), self._clock.now())

    async def rotate_secret(
        self,
        by: Principal,
        id: str,
        given: Mapping[str, Any],
        *,
        versions: frozenset[int] | None = None,
    ) -> views.SubscriptionSecret:
        """Sign with a new secret, given or made; the one before signs beside it for the overlap."""
        self._require(by, Scope.SUBSCRIPTIONS_WRITE, changing=True)
        problems = Problems()
        draft = problems.convert(RotationInput, given)
        inputs.check_rotation(problems, draft, self._profiles.get(self._subscription(by, id).profile))
        wanted = problems.require(draft)
        secret = wanted.secret or new_secret(self._clock.new_bytes(32))
        overlap = DEFAULT_OVERLAP if wanted.overlap is None else int(wanted.overlap)

        def edit(current: models.Subscription, now: int) -> models.Subscription:
            return replace(current, secrets=inputs.rotated(current, secret, overlap=overlap, now=now))

        return shown_secret(await self._edit(by, id, edit, versions), self._clock.now())

    # Deliveries.

    async def delivery(self, by: Principal, id: str) -> views.Delivery:
        """One delivery with its attempts."""
        self._require(by, Scope.EVENTS_READ)
        found = await self._store.reader.delivery(id, by.tenant)
        if found is None:
            raise DeliveryNotFound
        delivery, seq, event_seq = found
        event = (await self._store.reader.events_by_seq([event_seq])).get(event_seq)
        attempts = await self._store.reader.attempts(seq)
        subscription = self._store.writer.index.by_id(delivery.subscription)
        shown = [shown_attempt(attempt, event, subscription, self._profiles) for attempt in attempts]
        return replace(delivery, attempts=shown)

    async def deliveries(self, by: Principal, query: Mapping[str, Any]) -> views.Page[views.Delivery]:
        """A page of deliveries, newest first."""
        self._require(by, Scope.EVENTS_READ)
        asked = Query(query, {"subscription", "event", "tenant", "state", "since", "until"})
        state = asked.choice("state", [state.value for state in DeliveryState])
        part = asked.slice(self._tenant(by, asked.text("tenant")))
        subscription = event = None
        if (id_ := asked.text("subscription")) is not None:
            subscription = await self._store.reader.subscription_key(id_, part.tenant)
            if subscription is None:
                return page([], None)
        if (id_ := asked.text("event")) is not None:
            event = await self._store.reader.event_key(id_, part.tenant)
            if event is None:
                return page([], None)
        found, after = await self._store.reader.deliveries(part, state=state, subscription=subscription, event=event)
        return page(found, after)

    async def retry(self, by: Principal, id: str) -> views.Delivery:
        """Make it due now, with its whole schedule again."""
        self._require(by, Scope.EVENTS_WRITE, changing=True)
        await self._store.writer.change(changes.retry_delivery(id, by.tenant))
        return await self._brief(id)

    async def cancel(self, by: Principal, id: str) -> views.Delivery:
        """Give it up."""
        self._require(by, Scope.EVENTS_WRITE, changing=True)
        await self._store.writer.change(changes.cancel_delivery(id, by.tenant))
        return await self._brief(id)

    # Who may.

    def _require(self, by: Principal, scope: Scope, *, changing: bool = False) -> None:
        by.require(scope)
        if changing and self._refusing:
            raise Stopping

    def _tenant(self, by: Principal, asked: str | None) -> str | None:
        """Whose rows are read: a bound token's tenant, whatever is asked for."""
        if by.tenant is not None and asked not in (None, by.tenant):
            raise Forbidden(f"this token is bound to the tenant {by.tenant}")
        return by.tenant or asked

    def _own_tenant(self, by: Principal, given: str | None) -> str:
        return self._tenant(by, given) or DEFAULT_TENANT

    def _key(self, by: Principal, key: RequestKey, tenant: str | None) -> Key:
        scope = tenant or by.tenant or DEFAULT_TENANT
        return Key(tenant=scope, method=key.method, path=key.path, key=key.key, digest=key.digest)

    # Inner steps.

    def _read(
        self, by: Principal, events: Sequence[Mapping[str, Any]], problems: Problems, *, single: bool
    ) -> list[tuple[validation.Draft[EventInput], str]]:
        """Each event as far as it is valid, with its tenant."""
        if len(events) > MOST_EVENTS:
            problems.add("", "too_many_elements", f"expected at most {MOST_EVENTS} elements")
            problems.raise_if_any()
        now = self._clock.now()
        read = []
        for position, members in enumerate(events):
            at = "" if single else f"/{position}"
            draft = problems.convert(EventInput, members, at)
            inputs.check_event(problems, draft, at, now=now)
            tenant = self._own_tenant(by, draft.get("tenant"))
            self._check_chosen(problems, draft.get("subscriptions"), tenant, at)
            read.append((draft, tenant))
        return read

    def _check_chosen(self, problems: Problems, chosen: list[str] | None, tenant: str, at: str) -> None:
        for position, id_ in enumerate(chosen or ()):
            subscription = self._store.writer.index.by_id(id_)
            if subscription is None or subscription.tenant != tenant:
                problems.add(
                    f"{at}/subscriptions/{position}", "unknown_subscription", "no subscription of the tenant has this id"
                )

    def _draft(self, event: EventInput, tenant: str) -> Draft:
        return Draft(
            id=event.id,
            tenant=tenant,
            type=event.type,
            data=bytes(event.data),
            occurred_at=_optional_int(event.occurred_at),
            priority=inputs.priority_of(event),
            ordering_key=event.ordering_key,
            deliver_at=_optional_int(event.deliver_at),
            expires_at=_optional_int(event.expires_at),
            only=None if event.subscriptions is None else frozenset(event.subscriptions),
            digest=None if event.id is None else inputs.event_digest(event, tenant),
        )

    def _first_secret(self, given: str | None, profile: str) -> str | None:
        if not self._profiles[profile].has_own_secrets:
            return None
        return given or new_secret(self._clock.new_bytes(32))

    def _subscription(self, by: Principal, id: str) -> models.Subscription:
        subscription = self._store.writer.index.by_id(id)
        if subscription is None or by.tenant not in (None, subscription.tenant):
            raise SubscriptionNotFound
        return subscription

    async def _edit(
        self,
        by: Principal,
        id: str,
        edit: Callable[[models.Subscription, int], models.Subscription],
        versions: frozenset[int] | None,
    ) -> models.Subscription:
        return await self._store.writer.change(changes.edit_subscription(id, by.tenant, edit, versions=versions))

    async def _set_state(
        self,
        by: Principal,
        id: str,
        state: SubscriptionState,
        versions: frozenset[int] | None,
    ) -> views.Subscription:
        self._require(by, Scope.SUBSCRIPTIONS_WRITE, changing=True)
        return self._view(await self._edit(by, id, lambda current, _: replace(current, state=state), versions))

    def _patched(self, current: models.Subscription, patch: dict[str, Any]) -> models.Subscription:
        problems = Problems()
        for name in ("tenant", "secret"):
            if name in patch and patch[name] != getattr(current, name, UNSET):
                problems.add(
                    f"/{name}", "immutable_member", "rotate the secret instead" if name == "secret" else "cannot change"
                )
                del patch[name]
        merged = inputs.merge(inputs.as_given(current), inputs.keep_hidden(patch, current))
        draft = problems.convert(SubscriptionInput, merged)
        default_profile = self._config.delivery.default_profile
        inputs.check_subscription(
            problems,
            draft,
            policy=self._policy,
            profiles=self._profiles,
            default_profile=default_profile,
            vet=draft.get("url") != current.url,
        )
        inputs.check_kept_secrets(problems, self._profiles.get(draft.get("profile") or default_profile), current)
        settings = inputs.settings(problems.require(draft), default_profile=default_profile)
        fresh = new_secret(self._clock.new_bytes(32))
        secrets = inputs.secrets_for(self._profiles[settings["profile"]], current, fresh)
        return replace(current, secrets=secrets, **settings)

    def _view(self, subscription: models.Subscription) -> views.Subscription:
        return shown_subscription(subscription, self._store.writer.health.get(subscription.seq, Health()))

    async def _brief(self, id: str) -> views.Delivery:
        found = await self._store.reader.delivery(id, None)
        if found is None:
            raise DeliveryNotFound
        return found[0]


def _as_json(event: Mapping[str, Any]) -> dict[str, Any]:
    """A published Python event as HTTP would have brought it."""
    members = {name: value.isoformat() if isinstance(value, date) else value for name, value in event.items()}
    if "data" in members:
        given = event["data"]
        data = bytes(given) if isinstance(given, bytes | bytearray | memoryview) else orjson.dumps(given)
        check_json(data)
        members["data"] = Raw(data)
    return members


def _optional_int(value: int | None) -> int | None:
    return None if value is None else int(value)


def request_digest(body: bytes) -> bytes:
    """What tells two requests with the same Idempotency-Key apart."""
    return sha256(body).digest()
