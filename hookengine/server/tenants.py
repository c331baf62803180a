"""Handlers of tenants and their secrets: parse, ask the service, answer."""

from __future__ import annotations

from aiohttp import web

from hookengine.server import wire
from hookengine.server.asked import asker_of, name_of, query_of, read_action, service_of
from hookengine.server.wire import answer


async def list_tenants(request: web.Request) -> web.Response:
    """GET /v1/tenants."""
    return answer(await service_of(request).tenants(asker_of(request), query_of(request)))


async def show_tenant(request: web.Request) -> web.Response:
    """GET /v1/tenants/{tenant}."""
    return answer(await service_of(request).tenant(asker_of(request), name_of(request, "tenant")))


async def set_tenant(request: web.Request) -> web.Response:
    """PUT /v1/tenants/{tenant}."""
    given = wire.read_object(await read_action(request), optional=True)
    view, made = await service_of(request).set_tenant(asker_of(request), name_of(request, "tenant"), given)
    return answer(view, status=201 if made else 200)


async def delete_tenant(request: web.Request) -> web.Response:
    """DELETE /v1/tenants/{tenant}."""
    await service_of(request).delete_tenant(asker_of(request), name_of(request, "tenant"))
    return web.Response(status=204)


async def show_secret(request: web.Request) -> web.Response:
    """GET /v1/tenants/{tenant}/secret."""
    return answer(await service_of(request).tenant_secret(asker_of(request), name_of(request, "tenant")))


async def set_secret(request: web.Request) -> web.Response:
    """PUT /v1/tenants/{tenant}/secret."""
    wire.refuse_key(request)  # without a body each repetition would make another secret
    given = wire.read_object(await read_action(request), optional=True)
    return answer(await service_of(request).set_tenant_secret(asker_of(request), name_of(request, "tenant"), given))


async def delete_secret(request: web.Request) -> web.Response:
    """DELETE /v1/tenants/{tenant}/secret."""
    await service_of(request).delete_tenant_secret(asker_of(request), name_of(request, "tenant"))
    return web.Response(status=204)
