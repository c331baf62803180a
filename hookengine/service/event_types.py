"""What is done with event types: a catalogue for people, and with `strict_event_types` for the engine too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hookengine import inputs
from hookengine.access import Principal, Scope
from hookengine.errors import EventTypeNotFound
from hookengine.inputs import EventTypeInput
from hookengine.paging import Query, page
from hookengine.service.operations import Operations, json_text
from hookengine.store import registry
from hookengine.validation import Problems

if TYPE_CHECKING:
    from collections.abc import Mapping

    from msgspec import Raw

    from hookengine import views

_LONGEST_EXAMPLE = 65_536  # bytes: a page of a list has up to 250 of them


class EventTypeOperations(Operations):
    """Of event types, which are the same for all tenants."""

    async def event_type(self, by: Principal, type: str) -> views.EventType:
        """One event type."""
        self._require(by, Scope.EVENTS_READ)
        found = await self._store.viewer.event_type(type)
        if found is None:
            raise EventTypeNotFound
        return found

    async def event_types(self, by: Principal, query: Mapping[str, Any]) -> views.Page[views.EventType]:
        """A page of event types, newest first."""
        self._require(by, Scope.EVENTS_READ)
        return page(*await self._store.viewer.event_types(Query(query, set()).slice(None)))

    async def set_event_type(self, by: Principal, type: str, given: Mapping[str, Any]) -> tuple[views.EventType, bool]:
        """Declare a type, or describe it anew, whole; with it comes whether it was made by this."""
        self._require(by, Scope.ADMIN, changing=True)
        problems = Problems()
        inputs.check_named(problems, type=type)
        draft = problems.convert(EventTypeInput, given)
        example = _example(draft.get("example"))
        if example is not None and len(example) > _LONGEST_EXAMPLE:
            problems.add("/example", "too_large", "expected at most 64 KiB of JSON")
        wanted = problems.require(draft)
        step = registry.set_event_type(type, wanted.description, example, deprecated=bool(wanted.deprecated))
        made = await self._store.writer.change(step)
        return await self.event_type(by, type), made

    async def set_event_type_value(self, by: Principal, type: str, given: Mapping[str, Any]) -> tuple[views.EventType, bool]:
        """The same for Python values: `example` as bytes is JSON text, anything else but None is printed."""
        example = given.get("example")
        members = {**given, "example": None if example is None else json_text(example)}
        return await self.set_event_type(by, type, members)

    async def delete_event_type(self, by: Principal, type: str) -> None:
        """Declare it no more; its events, and the subscriptions to it, stay."""
        self._require(by, Scope.ADMIN, changing=True)
        await self._store.writer.change(registry.delete_event_type(type))


def _example(given: Raw | None) -> bytes | None:
    """The JSON text; null is none, as for every member."""
    text = None if given is None else bytes(given).strip()
    return None if text == b"null" else text
