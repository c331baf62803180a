"""What a handler finds in a request: who asks, what for, and the service to ask."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, Any, Protocol, cast

from aiohttp import web

from hookengine import access
from hookengine.errors import RateLimited
from hookengine.paging import Query
from hookengine.server import wire
from hookengine.server.limits import InHand, Limit, Room, site_of
from hookengine.server.wire import JSON, read_body
from hookengine.service import HEARTBEAT, Service

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from hookengine.access import Principal
    from hookengine.service import Stream


class Streaming:
    """The live streams that are open, and how they are treated."""

    def __init__(self) -> None:
        self.heartbeat = HEARTBEAT
        self.patience = 30.0  # s for a reader to take what was sent
        self.most = 100  # each holds a connection; of tokens that are bound to one tenant half as many
        self.open: dict[Stream, str | None] = {}  # with the tenant that who asked is bound to

    def count(self, tenant: str) -> int:
        """How many are open for tokens that are bound to *tenant*."""
        return list(self.open.values()).count(tenant)


class Patience:
    """The seconds that a client has."""

    def __init__(self) -> None:
        self.head = 10.0  # to send a head that it has begun
        self.body = 30.0  # to send a body
        self.taking = 30.0  # to take what it is sent


class Leaving(Protocol):
    """A connection that tells when it is lost."""

    on_lost: Callable[[], None] | None


SERVICE: web.AppKey[Service] = web.AppKey("service", Service)
TOKENS = web.AppKey("tokens", dict[bytes, access.Principal])
LIMITS: web.AppKey[tuple[int, int]] = web.AppKey("limits", tuple)  # bytes of a body, and of a batch
IN_HAND: web.AppKey[InHand] = web.AppKey("in_hand", InHand)
PUBLISHING: web.AppKey[Limit] = web.AppKey("publishing", Limit)  # events, by user
FAILED: web.AppKey[Limit] = web.AppKey("failed", Limit)  # requests without a valid token, by site
PATIENCE: web.AppKey[Patience] = web.AppKey("patience", Patience)
STREAMING: web.AppKey[Streaming] = web.AppKey("streaming", Streaming)
ROOM = web.RequestKey("room", Room)  # what was taken for its body
PRINCIPAL = web.RequestKey("principal", access.Principal)


def service_of(request: web.Request) -> Service:
    """The operations."""
    return request.app[SERVICE]


def asker_of(request: web.Request) -> Principal:
    """Who asks."""
    return request[PRINCIPAL]


def identify(request: web.Request) -> Principal:
    """Who asks, by the token that came; raises Unauthorized where it opens nothing, or nothing any more."""
    tokens = request.app[TOKENS]
    return service_of(request).identify(request.headers.get("Authorization"), tokens)


def id_of(request: web.Request) -> str:
    """The id in the path."""
    return request.match_info["id"]


def name_of(request: web.Request, kind: str) -> str:
    """The name in the path, of a *kind* of things that are named by users."""
    return request.match_info[kind]


def query_of(request: web.Request) -> Mapping[str, Any]:
    """The parameters."""
    return request.query


def tenant_of(request: web.Request) -> str | None:
    """The one parameter of what an id of several tenants may mean; raises Invalid for others."""
    asked = Query(request.query, {"tenant"}, paged=False)
    asked.raise_if_any()
    return asked.text("tenant")


def check_rate(request: web.Request) -> None:
    """Raise RateLimited where who asks has published too much: before a body is read, and so before anything is kept."""
    wait = request.app[PUBLISHING].wait(asker_of(request).user, asyncio.get_running_loop().time())
    if wait:
        raise RateLimited("events come faster than this token may publish", retry_after=ceil(wait))


@contextmanager
def counting(request: web.Request, events: int) -> Iterator[None]:
    """
    Count the *events* that are published within it, unless that is refused.

    Raises RateLimited: since `check_rate` others may have come, whose bodies were read at the same time.
    """
    check_rate(request)
    publishing, user, now = request.app[PUBLISHING], asker_of(request).user, asyncio.get_running_loop().time()
    publishing.count(user, now, events)
    try:
        yield
    except Exception:
        publishing.count(user, now, -events)
        raise


def count_failure(request: web.Request) -> None:
    """
    Note a request without a valid token; raises RateLimited where there were too many from the same place.

    That is the address of the connection: what a header says of it can be made up.
    """
    failed, site, now = request.app[FAILED], site_of(request.remote), asyncio.get_running_loop().time()
    wait = failed.wait(site, now)
    if wait:
        raise RateLimited("too many requests without a valid token", retry_after=ceil(wait))
    failed.count(site, now)


async def read_text(request: web.Request, *media_types: str, batch: bool = False) -> bytes:
    """The body of a single thing, or of a *batch*."""
    return await _read(request, *(media_types or (JSON,)), limit=request.app[LIMITS][batch])


async def read_action(request: web.Request) -> bytes:
    """The body of an action, which may be left out."""
    return await _read(request, JSON, limit=request.app[LIMITS][0], required=False)


async def _read(request: web.Request, *media_types: str, limit: int, required: bool = True) -> bytes:
    """
    The body, once there is room for it, which `make_room` gives back.

    Where its size is not told, room is taken as it comes: whoever says nothing of it must not keep others from being heard.
    """
    room, in_hand, announced = Room(asker_of(request).tenant), request.app[IN_HAND], request.content_length
    request[ROOM] = room
    if announced is not None:
        in_hand.take(room, min(announced, limit))
    return await read_body(
        request,
        *media_types,
        limit=limit,
        patience=request.app[PATIENCE].body,
        required=required,
        coming=None if announced is not None else partial(in_hand.take, room),
    )


@web.middleware
async def make_room(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Once there is an answer, the body takes no room any more."""
    try:
        return await handler(request)
    finally:
        if (room := request.get(ROOM)) is not None:
            request.app[IN_HAND].give_back(room)


async def read_nothing(request: web.Request) -> None:
    """The body of an action that takes no members."""
    wire.read_nothing(await read_action(request))


def on_lost(request: web.Request, told: Callable[[], None] | None) -> None:
    """Have *told* called if the client goes away during this request."""
    cast("Leaving", request.protocol).on_lost = told
