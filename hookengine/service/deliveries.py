"""What is done with deliveries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from hookengine.access import Principal, Scope
from hookengine.errors import DeliveryNotFound
from hookengine.models import DeliveryState
from hookengine.paging import Query, page
from hookengine.presentation import shown_attempt
from hookengine.service.operations import Operations
from hookengine.store import changes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hookengine import views


_MOST_BODIES = 1 << 20  # characters of requests' bodies that one answer shows, beside the one that it ends with


class DeliveryOperations(Operations):
    """Of deliveries."""

    async def delivery(self, by: Principal, id: str) -> views.Delivery:
        """
        One delivery with its attempts, the last 250 of them.

        Their requests' bodies are there as far as they have together one MiB, those of the last attempts first.
        """
        self._require(by, Scope.EVENTS_READ)
        found = await self._store.viewer.delivery(id, by.tenant)
        if found is None:
            raise DeliveryNotFound
        delivery, seq, event_seq = found
        own = (await self._store.viewer.events_by_seq([event_seq]))[0].values()
        attempts = await self._store.viewer.attempts(seq)
        subscription = self._store.memory.index.by_id(delivery.subscription)
        shown: list[views.Attempt] = []
        room = _MOST_BODIES
        for each in reversed(attempts):
            events = []  # what is gone cannot be shown: so it is with what there is no room for
            if room > 0:
                events = [*own] if each.exchange is None else await self._store.viewer.events_of(each.exchange)
            made = shown_attempt(each, events, subscription, self._profiles)
            sent = None if made.request is None else made.request.body
            room -= sum(len(event.data) for event in events) if sent is None else len(sent)  # read in vain
            shown.append(made)
        return replace(delivery, attempts=shown[::-1])

    async def deliveries(self, by: Principal, query: Mapping[str, Any]) -> views.Page[views.Delivery]:
        """A page of deliveries, newest first."""
        self._require(by, Scope.EVENTS_READ)
        asked = Query(query, {"subscription", "event", "tenant", "state", "since", "until"})
        state = asked.choice("state", [state.value for state in DeliveryState])
        part = asked.slice(self._tenant(by, asked.text("tenant")))
        subscription = events = None
        if (id_ := asked.text("subscription")) is not None:
            subscription = await self._store.viewer.subscription_key(id_, part.tenant)
            if subscription is None:
                return page([], None)
        if (id_ := asked.text("event")) is not None:
            events = await self._store.viewer.event_keys(id_, part.tenant)
        found, after = await self._store.viewer.deliveries(part, state=state, subscription=subscription, events=events)
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

    async def _brief(self, id: str) -> views.Delivery:
        found = await self._store.viewer.delivery(id, None)
        if found is None:
            raise DeliveryNotFound
        return found[0]
