"""What can be seen of the engine at work: its metrics, and the live stream."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import TYPE_CHECKING, Any

from hookengine import stream, views
from hookengine.access import Principal, Scope
from hookengine.errors import Stopping, SubscriptionNotFound
from hookengine.matching import patterns
from hookengine.paging import Query
from hookengine.service.operations import Operations
from hookengine.views import moment

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from hookengine.clock import Clock
    from hookengine.store import Names, Store
    from hookengine.stream import Follower, Item

HEARTBEAT = 15.0  # s


class Observation(Operations):
    """Of the engine at work."""

    def metrics(self, by: Principal, accept: str) -> tuple[bytes, str]:
        """The numbers of the whole engine, as a scraper that accepts *accept* reads them, and the media type."""
        self._require(by, Scope.ADMIN)
        return self._metrics.text(accept)

    def stream(
        self, by: Principal, query: Mapping[str, Any], *, last_id: str | None = None, heartbeat: float = HEARTBEAT
    ) -> Stream:
        """What happens from now on, or from behind the item *last_id*; something comes every *heartbeat* s."""
        self._require(by, Scope.EVENTS_READ)
        asked = Query(query, {"types", "subscription"}, paged=False)
        types, subscription = asked.patterns("types"), asked.text("subscription")
        asked.raise_if_any()
        if subscription is not None:
            known = self._store.memory.index.by_id(subscription)
            if known is None or by.tenant not in (None, known.tenant):
                raise SubscriptionNotFound
        return Stream(
            self._ring.follow(last_id),
            self._store,
            clock=self._clock,
            tenant=by.tenant,
            types=None if types is None else frozenset(types),
            subscription=subscription,
            heartbeat=heartbeat,
        )


class Stream:
    """
    One following of what happens.

    Iterated, it gives the items that are asked for, in lists as they come; an empty one is a heartbeat. It ends with the
    engine.
    """

    def __init__(
        self,
        follower: Follower,
        store: Store,
        *,
        clock: Clock,
        tenant: str | None,
        types: frozenset[str] | None,
        subscription: str | None,
        heartbeat: float,
    ) -> None:
        self._follower = follower
        self._store = store
        self._clock = clock
        self._tenant = tenant
        self._types = types
        self._subscription = subscription
        self._heartbeat = heartbeat

    @property
    def id(self) -> str:
        """Where to go on from after what was given, and passed over."""
        return self._follower.id

    def close(self) -> None:
        """End it."""
        self._follower.close()

    async def __aiter__(self) -> AsyncIterator[list[views.StreamItem]]:
        loop = asyncio.get_running_loop()
        spoken = loop.time()
        while not self._follower.ended:
            wanted = []
            if self._follower.has_lost():
                wanted.append(views.StreamItem(id=self.id, kind="reset", at=moment(self._clock.now())))
            else:
                items = await self._follower.more(max(0.0, spoken + self._heartbeat - loop.time()))
                wanted = [item for item in await self._shown(items) if self._wants(item)]
            if wanted or (loop.time() >= spoken + self._heartbeat and not self._follower.ended):
                spoken = loop.time()
                yield wanted

    async def _shown(self, items: list[Item]) -> list[views.StreamItem]:
        """*items* as users see them, without those whose delivery was pruned meanwhile."""
        nameless = [item.delivery.seq for item in items if item.delivery is not None and item.shown is None]
        names = await self._names(nameless) if nameless else {}
        for item in items:
            if item.shown is None and (item.delivery is None or item.delivery.seq in names):
                name = None if item.delivery is None else names[item.delivery.seq]
                item.shown = stream.shown(item, self._follower.id_of(item), name)
        return [item.shown for item in items if item.shown is not None]

    async def _names(self, deliveries: list[int]) -> dict[int, Names]:
        try:
            return await self._store.viewer.names(deliveries)
        except (Stopping, sqlite3.Error):
            if self._follower.ended:
                return {}
            raise

    def _wants(self, item: views.StreamItem) -> bool:
        if item.delivery is None:
            change = item.subscription
            assert change is not None  # noqa: S101  # it is of one of the two
            subscription, tenant, type_ = change.id, change.tenant, None
        else:
            subscription, tenant, type_ = item.delivery.subscription, item.delivery.tenant, item.delivery.type
        return (
            self._tenant in (None, tenant)
            and self._subscription in (None, subscription)
            and (self._types is None or (type_ is not None and not self._types.isdisjoint(patterns(type_))))
        )
