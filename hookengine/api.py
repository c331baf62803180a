"""The Python API: every operation as its owner asks for it, with the names of HTTP as keywords."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar

from msgspec import UNSET

from hookengine.access import OWNER
from hookengine.arguments import array, integer, moment, optional_text, seconds, several, text
from hookengine.service.operations import json_text
from hookengine.store import Answer

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from hookengine.arguments import Moment
    from hookengine.service import Service, Stream
    from hookengine.views import (
        Attempt,
        Delivery,
        Event,
        EventDetail,
        EventType,
        Explanation,
        Page,
        Replay,
        Stats,
        StreamItem,
        Subscription,
        SubscriptionSecret,
        Tenant,
        TenantSecret,
        Token,
    )

T = TypeVar("T")


class Api:
    """
    What a running engine can be asked.

    The methods raise the errors of `hookengine.errors`, and RuntimeError while the engine does not run.
    """

    @property
    def _service(self) -> Service:
        """The operations of the running engine."""
        raise NotImplementedError

    # Events.

    async def publish(
        self,
        type: str,
        data: object,
        *,
        tenant: str | None = None,
        id: str | None = None,
        occurred_at: Moment | None = None,
        priority: Literal["high", "normal", "low"] | None = None,
        ordering_key: str | None = None,
        deliver_at: Moment | None = None,
        expires_at: Moment | None = None,
        subscriptions: Sequence[str] | None = None,
    ) -> Event:
        """
        Accept an event: returned once it is on disk with its deliveries.

        *data* as bytes is JSON text and kept as it is, else it is printed by orjson. The rest as in `POST /v1/events`.
        """
        event = {
            "type": type,
            "data": data,
            "tenant": tenant,
            "id": id,
            "occurred_at": occurred_at,
            "priority": priority,
            "ordering_key": ordering_key,
            "deliver_at": deliver_at,
            "expires_at": expires_at,
            "subscriptions": array(subscriptions),
        }
        return await self._service.publish_value(OWNER, event)

    async def publish_batch(self, events: Sequence[Mapping[str, Any]]) -> list[Event]:
        """Accept up to 1,000 events, all or none; each is a mapping of `publish`'s parameters."""
        return await self._service.publish_values(OWNER, several("events", events, "events"))

    async def event(self, id: str, *, tenant: str | None = None) -> EventDetail:
        """One event with its data and where it went; without a *tenant*, the newest of that id, which each tenant may have."""
        return await self._service.event(OWNER, text("id", id), tenant=optional_text("tenant", tenant))

    async def events(
        self,
        *,
        type: str | None = None,
        tenant: str | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Event]:
        """A page of events, newest first."""
        query = {"type": type, "tenant": tenant, "since": since, "until": until, "limit": limit, "cursor": cursor}
        return await self._service.events(OWNER, query)

    async def wait(
        self,
        event_id: str,
        timeout: float | None,  # noqa: ASYNC109  # CONTRACT.md's name
        *,
        tenant: str | None = None,
    ) -> list[Delivery]:
        """
        The deliveries of an event, found as by `event`, once each is delivered, failed or cancelled.

        Raises TimeoutError after *timeout* seconds, and as soon as one is held; EventNotFound for an unknown id.
        """
        patience = None if timeout is None else seconds("timeout", timeout)
        return await self._service.wait(OWNER, text("event_id", event_id), patience, tenant=optional_text("tenant", tenant))

    async def explain(
        self,
        id: str,
        *,
        tenant: str | None = None,
        subscription: str | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Explanation:
        """Why an event went to each subscription of its tenant, or to the one that is named, or did not: one page."""
        query = {"tenant": tenant, "subscription": subscription, "limit": limit, "cursor": cursor}
        return await self._service.explain(OWNER, text("id", id), query)

    async def replay_event(self, id: str, *, tenant: str | None = None, subscriptions: Sequence[str] | None = None) -> Event:
        """
        Deliver an event again, to those that match now or to *subscriptions*; `deliveries` counts the new ones.

        They carry the event's own id.
        """
        given = {"subscriptions": array(subscriptions)}
        return _made(await self._service.replay_event(OWNER, text("id", id), given, tenant=optional_text("tenant", tenant)))

    # Subscriptions.

    async def subscribe(
        self,
        url: str,
        *,
        event_types: Sequence[str] | None = None,
        name: str | None = None,
        tenant: str | None = None,
        profile: str | None = None,
        secret: str | None = None,
        method: Literal["POST", "PUT", "DELETE", "GET"] | None = None,
        headers: Mapping[str, str] | None = None,
        auth: Mapping[str, Any] | None = None,
        timeout: str | None = None,  # noqa: ASYNC109  # of its attempts
        retry_schedule: Sequence[str] | None = None,
        disable_after_failures: int | None = None,
        while_disabled: Literal["hold", "skip"] | None = None,
        max_concurrency: int | None = None,
        rate_limit: str | None = None,
        ordering: Literal["none", "fifo"] | None = None,
        batch: Mapping[str, Any] | None = None,
        target_id: int | None = None,
        key_values: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        state: Literal["active", "disabled"] | None = None,
    ) -> Subscription:
        """A new subscription, with its `secret` this once; durations are texts such as "15s"."""
        given = {
            "url": url,
            "event_types": array(event_types),
            "name": name,
            "tenant": tenant,
            "profile": profile,
            "secret": secret,
            "method": method,
            "headers": headers,
            "auth": auth,
            "timeout": timeout,
            "retry_schedule": array(retry_schedule),
            "disable_after_failures": disable_after_failures,
            "while_disabled": while_disabled,
            "max_concurrency": max_concurrency,
            "rate_limit": rate_limit,
            "ordering": ordering,
            "batch": batch,
            "target_id": target_id,
            "key_values": key_values,
            "metadata": metadata,
            "state": state,
        }
        return _made(await self._service.subscribe(OWNER, given))

    async def subscription(self, id: str) -> Subscription:
        """One subscription."""
        return await self._service.subscription(OWNER, text("id", id))

    async def subscriptions(
        self,
        *,
        tenant: str | None = None,
        state: Literal["active", "disabled"] | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Subscription]:
        """A page of subscriptions, newest first."""
        return await self._service.subscriptions(OWNER, {"tenant": tenant, "state": state, "limit": limit, "cursor": cursor})

    async def update_subscription(self, id: str, *, version: int | None = None, **changes: Any) -> Subscription:
        """
        Change settings, named as in `subscribe`; None takes one back to its default.

        With *version*, raises PreconditionFailed if the settings have another.
        """
        versions = None if version is None else frozenset({integer("version", version)})
        changes |= {name: array(changes[name]) for name in ("event_types", "retry_schedule") if name in changes}
        return await self._service.update_subscription(OWNER, text("id", id), changes, versions=versions)

    async def unsubscribe(self, id: str) -> None:
        """Delete a subscription: what waits for it is cancelled, its history stays readable."""
        await self._service.unsubscribe(OWNER, text("id", id))

    async def enable(self, id: str) -> Subscription:
        """Let a subscription get deliveries again, held ones first."""
        return await self._service.enable(OWNER, text("id", id))

    async def disable(self, id: str) -> Subscription:
        """Keep a subscription from getting deliveries until it is enabled."""
        return await self._service.disable(OWNER, text("id", id))

    async def secret(self, id: str) -> SubscriptionSecret:
        """The signing secret, and those it replaced that still sign."""
        return await self._service.secret(OWNER, text("id", id))

    async def rotate_secret(self, id: str, *, secret: str | None = None, overlap: str | None = None) -> SubscriptionSecret:
        """Sign with a new secret; the one before signs as well for *overlap*, by default "24h"."""
        return await self._service.rotate_secret(OWNER, text("id", id), {"secret": secret, "overlap": overlap})

    async def test(self, id: str, *, type: str | None = None, data: object = UNSET) -> Attempt:
        """
        Send a test event to a subscription's endpoint, once; the attempt, however it ended.

        Nothing is stored and no counter moves. *data* as in `publish`; without one it says that it is a test.
        """
        given = {"type": type, "data": UNSET if data is UNSET else json_text(data)}
        return await self._service.test(OWNER, text("id", id), given)

    async def replay(
        self,
        id: str,
        *,
        states: Sequence[Literal["delivered", "failed", "cancelled"]] | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        dry_run: bool | None = None,
    ) -> Replay:
        """
        Make a subscription's deliveries again, by default those that failed; with *dry_run* only count them.

        They are made in the background, also over a restart.
        """
        given = {
            "states": array(states),
            "since": moment(since),
            "until": moment(until),
            "dry_run": dry_run,
        }
        return _made(await self._service.replay(OWNER, text("id", id), given))

    async def stats(self, id: str, *, since: Moment | None = None, until: Moment | None = None) -> Stats:
        """What became of a subscription's deliveries since a time, which counts as its whole hour; by default a day ago."""
        return await self._service.stats(OWNER, text("id", id), {"since": since, "until": until})

    # Deliveries.

    async def delivery(self, id: str) -> Delivery:
        """One delivery with its attempts."""
        return await self._service.delivery(OWNER, text("id", id))

    async def deliveries(
        self,
        *,
        subscription: str | None = None,
        event: str | None = None,
        tenant: str | None = None,
        state: Literal["pending", "delivered", "failed", "cancelled", "held"] | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        limit: int = 50,
        cursor: str | None = None,
    ) -> Page[Delivery]:
        """A page of deliveries, newest first."""
        query = {
            "subscription": subscription,
            "event": event,
            "tenant": tenant,
            "state": state,
            "since": since,
            "until": until,
            "limit": limit,
            "cursor": cursor,
        }
        return await self._service.deliveries(OWNER, query)

    async def retry(self, id: str) -> Delivery:
        """Make a delivery due now, with its whole schedule again."""
        return await self._service.retry(OWNER, text("id", id))

    async def cancel(self, id: str) -> Delivery:
        """Give up a delivery that waits."""
        return await self._service.cancel(OWNER, text("id", id))

    # Event types.

    async def event_type(self, type: str) -> EventType:
        """One event type that is declared."""
        return await self._service.event_type(OWNER, text("type", type))

    async def event_types(self, *, limit: int = 50, cursor: str | None = None) -> Page[EventType]:
        """A page of event types, newest first."""
        return await self._service.event_types(OWNER, {"limit": limit, "cursor": cursor})

    async def set_event_type(
        self, type: str, *, description: str, example: object = None, deprecated: bool | None = None
    ) -> EventType:
        """Declare an event type, or describe it anew, whole; *example* is data as `publish` takes it, None for none."""
        given = {"description": description, "example": example, "deprecated": deprecated}
        view, _ = await self._service.set_event_type_value(OWNER, text("type", type), given)
        return view

    async def delete_event_type(self, type: str) -> None:
        """Withdraw an event type; its events, and the subscriptions to it, stay."""
        await self._service.delete_event_type(OWNER, text("type", type))

    # Tenants.

    async def tenant(self, tenant: str) -> Tenant:
        """One tenant that is declared."""
        return await self._service.tenant(OWNER, text("tenant", tenant))

    async def tenants(self, *, limit: int = 50, cursor: str | None = None) -> Page[Tenant]:
        """A page of the tenants that are declared, newest first."""
        return await self._service.tenants(OWNER, {"limit": limit, "cursor": cursor})

    async def set_tenant(self, tenant: str, *, plan: str | None = None) -> Tenant:
        """Put a tenant on a plan of the configuration; None takes it off its plan, and with it every limit."""
        view, _ = await self._service.set_tenant(OWNER, text("tenant", tenant), {"plan": plan})
        return view

    async def delete_tenant(self, tenant: str) -> None:
        """Forget a tenant's plan and secret; its subscriptions, events and tokens stay."""
        await self._service.delete_tenant(OWNER, text("tenant", tenant))

    async def tenant_secret(self, tenant: str) -> TenantSecret:
        """The secret that signs a tenant's deliveries where the profile uses one, and those it replaced."""
        return await self._service.tenant_secret(OWNER, text("tenant", tenant))

    async def set_tenant_secret(self, tenant: str, *, secret: str | None = None, overlap: str | None = None) -> TenantSecret:
        """Sign a tenant's deliveries with a new secret; the one before stays valid for *overlap*, by default "24h"."""
        return await self._service.set_tenant_secret(OWNER, text("tenant", tenant), {"secret": secret, "overlap": overlap})

    async def delete_tenant_secret(self, tenant: str) -> None:
        """Forget a tenant's secret: what only that would sign goes out unsigned from now on."""
        await self._service.delete_tenant_secret(OWNER, text("tenant", tenant))

    # Tokens.

    async def tokens(self, *, limit: int = 50, cursor: str | None = None) -> Page[Token]:
        """A page of tokens, newest first; never what to send."""
        return await self._service.tokens(OWNER, {"limit": limit, "cursor": cursor})

    async def create_token(
        self,
        user: str,
        *,
        scopes: Sequence[str] | None = None,
        tenant: str | None = None,
        expires_at: Moment | None = None,
    ) -> Token:
        """A token for a user who has none, with its `token` this once; without *scopes*, all but "admin"."""
        given = {
            "user": user,
            "scopes": array(scopes),
            "tenant": tenant,
            "expires_at": moment(expires_at),
        }
        return await self._service.create_token(OWNER, given)

    async def delete_token(self, user: str) -> None:
        """Revoke a user's token."""
        await self._service.delete_token(OWNER, text("user", user))

    # The engine at work.

    def stream(
        self, *, types: Sequence[str] | None = None, subscription: str | None = None, last_id: str | None = None
    ) -> AsyncGenerator[StreamItem, None]:
        """
        Every attempt and change of state from now on, or from behind the item *last_id*; ends when the engine stops.

        With *types*, only what is about events of these types, written as in `subscribe`. Who reads too slowly gets an item of
        the kind `reset` in place of what was lost.
        """
        listed = [] if types is None else several("types", types, "event types")
        wanted = None if types is None else ",".join([text("types", each) for each in listed])
        asked = {"types": wanted, "subscription": subscription}
        return _each(self._service.stream(OWNER, asked, last_id=optional_text("last_id", last_id)))


def _made(answer: T | Answer) -> T:
    """What was made: nobody here gives an Idempotency-Key, so it is no earlier request's Answer."""
    assert not isinstance(answer, Answer)  # noqa: S101
    return answer


async def _each(stream: Stream) -> AsyncGenerator[StreamItem, None]:
    async for items in stream:
        for item in items:
            yield item
