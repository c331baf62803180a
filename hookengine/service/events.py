"""What is done with events: publish them, look at them, wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import date
from itertools import starmap
from typing import TYPE_CHECKING, Any

from hookengine import inputs, validation, views
from hookengine.access import Principal, Scope
from hookengine.errors import EventNotFound, HookEngineError, Malformed, Stopping
from hookengine.inputs import EventInput
from hookengine.models import FINAL_STATES, DeliveryState
from hookengine.paging import Query, page
from hookengine.presentation import shown_event
from hookengine.service.operations import Operations, RequestKey, json_text
from hookengine.store import Answer, Draft, Key, Receipt
from hookengine.validation import Problems

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_TIMES = {"occurred_at", "deliver_at", "expires_at"}


Given = Mapping[str, Any] | EventInput  # an event as it came: its members, or what the decoder made of them, if it could


class EventOperations(Operations):
    """Of events."""

    async def publish(
        self,
        by: Principal,
        events: Sequence[Given],
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
        keyed = None if key is None else self._key(key, read[0][1] if single else self._own_tenant(by, None))
        if problems.mistakes and (before := await self._accepted_before(read, keyed)) is not None:
            return before if isinstance(before, Answer) else _shown(before)
        drafts = [self._draft(problems.require(draft), tenant) for draft, tenant in read]
        made = await self._store.writer.publish(
            drafts, key=keyed, render=None if render is None else lambda receipts: render(_shown(receipts))
        )
        return made if isinstance(made, Answer) else _shown(made)

    def hand_in(self, by: Principal, event: Given) -> asyncio.Future[list[Receipt]]:
        """
        Accept one event as `publish` does, without waiting for the disk.

        Raises what `publish` would, where that shows without the disk, and has done nothing then. Ask `publish` again: it also
        finds that the same event was accepted before, when it was still right.
        """
        self._require(by, Scope.EVENTS_WRITE, changing=True)
        problems = Problems()
        draft, tenant = self._read_one(by, event, problems, "", now=self._clock.now())
        return self._store.writer.submit([self._draft(problems.require(draft), tenant)])

    async def publish_value(self, by: Principal, event: Mapping[str, Any]) -> views.Event:
        """`publish` for one event of Python values: `data` as bytes is JSON text, or else printed; times may be datetimes."""
        given = _as_json(event)
        try:
            accepted = self.hand_in(by, given)
        except HookEngineError:
            return (await self._publish_values(by, [given], single=True))[0]
        [receipt] = await accepted
        return shown_event(receipt)

    async def publish_values(self, by: Principal, events: Sequence[Mapping[str, Any]]) -> list[views.Event]:
        """The same for several events, all or none."""
        return await self._publish_values(by, list(starmap(_element_as_json, enumerate(events))))

    async def _publish_values(
        self, by: Principal, events: Sequence[Mapping[str, Any]], *, single: bool = False
    ) -> list[views.Event]:
        accepted = await self.publish(by, events, single=single)
        assert not isinstance(accepted, Answer)  # noqa: S101  # there was no key
        return accepted

    async def event(self, by: Principal, id: str, *, tenant: str | None = None) -> views.EventDetail:
        """One event, with what it carries and where it went."""
        self._require(by, Scope.EVENTS_READ)
        found = await self._store.viewer.event(id, self._tenant(by, tenant))
        if found is None:
            raise EventNotFound
        return found

    async def events(self, by: Principal, query: Mapping[str, Any]) -> views.Page[views.Event]:
        """A page of events, newest first."""
        self._require(by, Scope.EVENTS_READ)
        asked = Query(query, {"type", "tenant", "since", "until"})
        part = asked.slice(self._tenant(by, asked.text("tenant")))
        found, after = await self._store.viewer.events(part, type=asked.text("type"))
        return page(found, after)

    async def wait(
        self,
        by: Principal,
        id: str,
        timeout: float | None,  # noqa: ASYNC109
        *,
        tenant: str | None = None,
    ) -> list[views.Delivery]:
        """The deliveries of an event once each is final; TimeoutError after *timeout* s, and as soon as one is held."""
        self._require(by, Scope.EVENTS_READ)
        seq = await self._store.viewer.event_key(id, self._tenant(by, tenant))
        if seq is None:
            raise EventNotFound
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        with self._waiters.watch(seq) as changed:
            while True:
                changed.clear()
                deliveries = await self._store.viewer.deliveries_of(seq)
                if all(delivery.state in FINAL_STATES for delivery in deliveries):
                    break
                if any(delivery.state == DeliveryState.HELD for delivery in deliveries):
                    raise TimeoutError("a delivery is held until its subscription is enabled")
                if self._waiters.closed:
                    raise Stopping
                try:
                    async with asyncio.timeout_at(deadline):  # not around the look, of which there is always one
                        await changed.wait()
                except TimeoutError:
                    left = sum(delivery.state not in FINAL_STATES for delivery in deliveries)
                    raise TimeoutError(f"of {len(deliveries)} deliveries {left} are still pending") from None
        # Who goes on from here asks what follows from the last attempt, such as whether its subscription is disabled now.
        await self._store.writer.followed(seq)
        return deliveries

    def _read(
        self, by: Principal, events: Sequence[Given], problems: Problems, *, single: bool
    ) -> list[tuple[validation.Draft[EventInput], str]]:
        """Each event as far as it is valid, with its tenant."""
        if len(events) > inputs.MOST_EVENTS:
            problems.add("", "too_many_elements", f"expected at most {inputs.MOST_EVENTS} elements")
            problems.raise_if_any()
        now = self._clock.now()
        return [
            self._read_one(by, event, problems, "" if single else f"/{position}", now=now)
            for position, event in enumerate(events)
        ]

    def _read_one(
        self, by: Principal, event: Given, problems: Problems, at: str, *, now: int
    ) -> tuple[validation.Draft[EventInput], str]:
        if isinstance(event, EventInput):
            draft = validation.Draft(EventInput, event)
        else:
            draft = problems.convert(EventInput, event, at)
        known = draft.fields
        inputs.check_event(problems, draft, at, now=now)
        if self._config.delivery.strict_event_types:
            inputs.check_listed(problems, known.type, at + "/type", self._store.memory.event_types)
        tenant = self._own_tenant(by, known.tenant)
        if known.subscriptions or draft.whole is None:
            self._check_chosen(problems, draft, tenant, at)
        return draft, tenant

    async def _accepted_before(
        self, read: list[tuple[validation.Draft[EventInput], str]], key: Key | None
    ) -> list[Receipt] | Answer | None:
        """
        What the same request was answered before.

        It may have been right then, and be no more: a subscription that it names is gone since.
        """
        if key is not None and (answer := await self._store.reader.answer(key, now=self._clock.now())) is not None:
            return answer
        events = [(draft.whole, tenant) for draft, tenant in read]
        asked = [(event.id, tenant, inputs.event_digest(event, tenant)) for event, tenant in events if event and event.id]
        if len(asked) < len(events):
            return None
        known = await self._store.reader.receipts([(id_, tenant) for id_, tenant, _ in asked])
        found = [known.get((id_, tenant), (None, None)) for id_, tenant, _ in asked]
        same = [before for (digest, before), (*_, wanted) in zip(found, asked, strict=True) if before and digest == wanted]
        return same if len(same) == len(events) else None

    def _draft(self, event: EventInput, tenant: str) -> Draft:
        occurred_at, deliver_at, expires_at = event.occurred_at, event.deliver_at, event.expires_at
        return Draft(
            id=event.id,
            tenant=tenant,
            type=event.type,
            data=bytes(event.data),
            occurred_at=None if occurred_at is None else int(occurred_at),
            priority=inputs.priority_of(event),
            ordering_key=event.ordering_key,
            deliver_at=None if deliver_at is None else int(deliver_at),
            expires_at=None if expires_at is None else int(expires_at),
            only=None if event.subscriptions is None else frozenset(event.subscriptions),
            digest=None if event.id is None else inputs.event_digest(event, tenant),
        )


def _shown(receipts: list[Receipt]) -> list[views.Event]:
    return [shown_event(receipt) for receipt in receipts]


def _as_json(event: Mapping[str, Any]) -> Mapping[str, Any]:
    """A published Python event as HTTP would have brought it; None is what was not given."""
    if type(event) is not dict and not isinstance(event, Mapping):
        return event  # which is told as a mistake with all others
    members = {name: value for name, value in event.items() if value is not None}
    for name in _TIMES & members.keys():
        if isinstance(members[name], date):
            members[name] = members[name].isoformat()
    if "data" in event:
        members["data"] = json_text(event["data"])
    return members


def _element_as_json(position: int, event: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        return _as_json(event)
    except Malformed as error:
        raise Malformed(f"/{position}/data: {error.detail}", code=error.code) from error
