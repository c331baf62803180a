"""Handlers of tokens: parse, ask the service, answer."""

from __future__ import annotations

from aiohttp import web

from hookengine.server import wire
from hookengine.server.asked import asker_of, name_of, query_of, read_text, service_of
from hookengine.server.wire import answer


async def list_tokens(request: web.Request) -> web.Response:
    """GET /v1/tokens."""
    return answer(await service_of(request).tokens(asker_of(request), query_of(request)))


async def create_token(request: web.Request) -> web.Response:
    """POST /v1/tokens."""
    given = wire.read_object(await read_text(request))
    return answer(await service_of(request).create_token(asker_of(request), given), status=201)


async def delete_token(request: web.Request) -> web.Response:
    """DELETE /v1/tokens/{user}."""
    await service_of(request).delete_token(asker_of(request), name_of(request, "user"))
    return web.Response(status=204)
