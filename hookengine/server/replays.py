"""Handlers of explanations and replays: parse, ask the service, answer."""

from __future__ import annotations

from aiohttp import web

from hookengine.server import wire
from hookengine.server.asked import asker_of, id_of, query_of, read_action, service_of, tenant_of
from hookengine.server.events import accepted_event
from hookengine.server.wire import JSON, answer, repeated
from hookengine.store import Answer


async def explain(request: web.Request) -> web.Response:
    """GET /v1/events/{id}/explain."""
    return answer(await service_of(request).explain(asker_of(request), id_of(request), query_of(request)))


async def replay_event(request: web.Request) -> web.Response:
    """POST /v1/events/{id}/replay."""
    tenant = tenant_of(request)
    body = await read_action(request)
    made = await service_of(request).replay_event(
        asker_of(request),
        id_of(request),
        wire.read_object(body, optional=True),
        tenant=tenant,
        key=wire.read_key(request, body),
        render=accepted_event,
    )
    if isinstance(made, Answer):
        return repeated(made)
    return web.Response(body=accepted_event(made), status=202, content_type=JSON)


async def replay(request: web.Request) -> web.Response:
    """POST /v1/subscriptions/{id}/replay."""
    body = await read_action(request)
    given = wire.read_object(body, optional=True)
    made = await service_of(request).replay(
        asker_of(request), id_of(request), given, key=wire.read_key(request, body), render=wire.dump
    )
    if isinstance(made, Answer):
        return repeated(made)
    return answer(made, status=200 if given.get("dry_run") else 202)
