"""Handlers of event types: parse, ask the service, answer."""

from __future__ import annotations

from aiohttp import web

from hookengine.server import wire
from hookengine.server.asked import asker_of, name_of, query_of, read_text, service_of
from hookengine.server.wire import answer

_KEPT = frozenset({"example"})


async def list_event_types(request: web.Request) -> web.Response:
    """GET /v1/event-types."""
    return answer(await service_of(request).event_types(asker_of(request), query_of(request)))


async def show_event_type(request: web.Request) -> web.Response:
    """GET /v1/event-types/{type}."""
    return answer(await service_of(request).event_type(asker_of(request), name_of(request, "type")))


async def set_event_type(request: web.Request) -> web.Response:
    """PUT /v1/event-types/{type}."""
    given = wire.read_object(await read_text(request), kept=_KEPT)
    view, made = await service_of(request).set_event_type(asker_of(request), name_of(request, "type"), given)
    return answer(view, status=201 if made else 200)


async def delete_event_type(request: web.Request) -> web.Response:
    """DELETE /v1/event-types/{type}."""
    await service_of(request).delete_event_type(asker_of(request), name_of(request, "type"))
    return web.Response(status=204)
