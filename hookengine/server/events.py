"""Handlers of events: parse, ask the service, answer."""

from __future__ import annotations

import msgspec
from aiohttp import web

from hookengine import views
from hookengine.server import wire
from hookengine.server.asked import asker_of, check_rate, counting, id_of, query_of, read_text, service_of, tenant_of
from hookengine.server.wire import JSON, NDJSON, answer, repeated
from hookengine.store import Answer


async def publish(request: web.Request) -> web.Response:
    """POST /v1/events."""
    check_rate(request)
    body = await read_text(request)
    with counting(request, 1):
        accepted = await service_of(request).publish(
            asker_of(request),
            [wire.read_event(body)],
            single=True,
            key=wire.read_key(request, body),
            render=lambda events: accepted_event(events[0]),
        )
    if isinstance(accepted, Answer):
        return repeated(accepted)
    return web.Response(body=accepted_event(accepted[0]), status=202, content_type=JSON)


async def publish_batch(request: web.Request) -> web.Response:
    """POST /v1/events/batch."""
    check_rate(request)
    body = await read_text(request, JSON, NDJSON, batch=True)
    events = wire.read_events(body, ndjson=request.content_type == NDJSON)
    with counting(request, len(events)):
        accepted = await service_of(request).publish(
            asker_of(request),
            events,
            key=wire.read_key(request, body),
            render=_accepted_batch,
        )
    if isinstance(accepted, Answer):
        return repeated(accepted)
    return web.Response(body=_accepted_batch(accepted), status=202, content_type=JSON)


async def list_events(request: web.Request) -> web.Response:
    """GET /v1/events."""
    return answer(await service_of(request).events(asker_of(request), query_of(request)))


async def show_event(request: web.Request) -> web.Response:
    """GET /v1/events/{id}."""
    return answer(await service_of(request).event(asker_of(request), id_of(request), tenant=tenant_of(request)))


def accepted_event(event: views.Event) -> bytes:
    """The answer to who published or replayed *event*."""
    return wire.dump(
        views.AcceptedEvent(
            id=event.id,
            type=event.type,
            tenant=event.tenant,
            accepted_at=event.accepted_at,
            deliveries=event.deliveries,
        )
    )


def _accepted_batch(events: list[views.Event]) -> bytes:
    short = [views.AcceptedInBatch(id=event.id, deliveries=event.deliveries) for event in events]
    return msgspec.json.encode(views.AcceptedBatch(events=short))  # twice as fast as `dump`, and no times are in it
