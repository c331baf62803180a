"""Handlers of deliveries: parse, ask the service, answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hookengine.server.asked import asker_of, id_of, query_of, read_nothing, service_of
from hookengine.server.wire import answer

if TYPE_CHECKING:
    from aiohttp import web


async def list_deliveries(request: web.Request) -> web.Response:
    """GET /v1/deliveries."""
    return answer(await service_of(request).deliveries(asker_of(request), query_of(request)))


async def show_delivery(request: web.Request) -> web.Response:
    """GET /v1/deliveries/{id}."""
    return answer(await service_of(request).delivery(asker_of(request), id_of(request)))


async def retry(request: web.Request) -> web.Response:
    """POST /v1/deliveries/{id}/retry."""
    await read_nothing(request)
    return answer(await service_of(request).retry(asker_of(request), id_of(request)), status=202)


async def cancel(request: web.Request) -> web.Response:
    """POST /v1/deliveries/{id}/cancel."""
    await read_nothing(request)
    return answer(await service_of(request).cancel(asker_of(request), id_of(request)), status=202)
