"""What a handler finds in a request: who asks, what for, and the service to ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from hookengine import access
from hookengine.server import wire
from hookengine.server.wire import JSON, read_body
from hookengine.service import Service

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hookengine.access import Principal

SERVICE: web.AppKey[Service] = web.AppKey("service", Service)
TOKENS: web.AppKey[Any] = web.AppKey("tokens", object)
LIMITS: web.AppKey[tuple[int, int]] = web.AppKey("limits", tuple)  # bytes of a body, and of a batch
PRINCIPAL = web.RequestKey("principal", access.Principal)


def service_of(request: web.Request) -> Service:
    """The operations."""
    return request.app[SERVICE]


def asker_of(request: web.Request) -> Principal:
    """Who asks."""
    return request[PRINCIPAL]


def id_of(request: web.Request) -> str:
    """The id in the path."""
    return request.match_info["id"]


def query_of(request: web.Request) -> Mapping[str, Any]:
    """The parameters."""
    return request.query


async def read_text(request: web.Request, *media_types: str) -> bytes:
    """The body of a single thing."""
    return await read_body(request, *(media_types or (JSON,)), limit=request.app[LIMITS][0])


async def read_action(request: web.Request) -> bytes:
    """The body of an action, which may be left out."""
    wire.refuse_key(request)
    return await read_body(request, JSON, limit=request.app[LIMITS][0], required=False)


async def read_repeatable(request: web.Request) -> bytes:
    """The body of an action that takes an Idempotency-Key; it may be left out."""
    return await read_body(request, JSON, limit=request.app[LIMITS][0], required=False)


async def read_nothing(request: web.Request) -> None:
    """The body of an action that takes no members."""
    wire.read_nothing(await read_action(request))
