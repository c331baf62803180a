"""Handlers of subscriptions: parse, ask the service, answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
from aiohttp import web

from hookengine.server import wire
from hookengine.server.asked import asker_of, id_of, query_of, read_action, read_nothing, read_text, service_of
from hookengine.server.wire import JSON, MERGE_PATCH, answer, repeated, tag
from hookengine.store import Answer

if TYPE_CHECKING:
    from hookengine import views


async def subscribe(request: web.Request) -> web.Response:
    """POST /v1/subscriptions."""
    body = await read_text(request)
    made = await service_of(request).subscribe(
        asker_of(request), wire.read_object(body), key=wire.read_key(request, body), render=wire.dump
    )
    if isinstance(made, Answer):
        response = repeated(made)
        first = orjson.loads(made.body)
        response.headers.update({"Location": f"/v1/subscriptions/{first['id']}", "ETag": f'"{first["version"]}"'})
        return response
    return answer(made, status=201, headers={"Location": f"/v1/subscriptions/{made.id}", **tag(made)})


async def list_subscriptions(request: web.Request) -> web.Response:
    """GET /v1/subscriptions."""
    return answer(await service_of(request).subscriptions(asker_of(request), query_of(request)))


async def show_subscription(request: web.Request) -> web.Response:
    """GET /v1/subscriptions/{id}."""
    return _subscription(await service_of(request).subscription(asker_of(request), id_of(request)))


async def update_subscription(request: web.Request) -> web.Response:
    """PATCH /v1/subscriptions/{id}."""
    body = await read_text(request, MERGE_PATCH, JSON)
    return _subscription(
        await service_of(request).update_subscription(
            asker_of(request), id_of(request), wire.read_object(body), versions=wire.read_versions(request)
        )
    )


async def unsubscribe(request: web.Request) -> web.Response:
    """DELETE /v1/subscriptions/{id}."""
    await service_of(request).unsubscribe(asker_of(request), id_of(request), versions=wire.read_versions(request))
    return web.Response(status=204)


async def enable(request: web.Request) -> web.Response:
    """POST /v1/subscriptions/{id}/enable."""
    await read_nothing(request)
    return _subscription(
        await service_of(request).enable(asker_of(request), id_of(request), versions=wire.read_versions(request))
    )


async def disable(request: web.Request) -> web.Response:
    """POST /v1/subscriptions/{id}/disable."""
    await read_nothing(request)
    return _subscription(
        await service_of(request).disable(asker_of(request), id_of(request), versions=wire.read_versions(request))
    )


async def show_secret(request: web.Request) -> web.Response:
    """GET /v1/subscriptions/{id}/secret."""
    return answer(await service_of(request).secret(asker_of(request), id_of(request)))


async def rotate_secret(request: web.Request) -> web.Response:
    """POST /v1/subscriptions/{id}/rotate-secret."""
    given = wire.read_object(await read_action(request), optional=True)
    return answer(
        await service_of(request).rotate_secret(asker_of(request), id_of(request), given, versions=wire.read_versions(request))
    )


async def test(request: web.Request) -> web.Response:
    """POST /v1/subscriptions/{id}/test."""
    given = wire.read_object(await read_action(request), optional=True)
    return answer(await service_of(request).test(asker_of(request), id_of(request), given))


async def show_stats(request: web.Request) -> web.Response:
    """GET /v1/subscriptions/{id}/stats."""
    return answer(await service_of(request).stats(asker_of(request), id_of(request), query_of(request)))


def _subscription(view: views.Subscription) -> web.Response:
    return answer(view, headers=tag(view))
