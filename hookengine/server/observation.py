"""Handlers of what can be seen of the engine at work: probes, metrics, the live stream."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web
from msgspec import Struct

from hookengine.errors import Overloaded, Unauthorized
from hookengine.server.asked import STREAMING, asker_of, identify, on_lost, query_of, service_of
from hookengine.server.problems import BEGUN, SAFE
from hookengine.server.wire import EVENT_STREAM, answer, dump

if TYPE_CHECKING:
    from hookengine.service import Stream
    from hookengine.views import StreamItem


class Probe(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whether something is well, and if not, why."""

    status: str
    reason: str | None = None


async def live(_: web.Request) -> web.Response:
    """GET /livez: the process answers."""
    return answer(Probe(status="ok"))


async def ready(request: web.Request) -> web.Response:
    """GET /readyz: events are taken."""
    reason = service_of(request).unready
    if reason is None:
        return answer(Probe(status="ok"))
    return answer(Probe(status="unavailable", reason=reason), status=503, headers={"Retry-After": "5"})


async def metrics(request: web.Request) -> web.Response:
    """GET /metrics."""
    body, media_type = service_of(request).metrics(asker_of(request), request.headers.get("Accept", ""))
    return web.Response(body=body, headers={"Content-Type": media_type})


async def stream(request: web.Request) -> web.StreamResponse:
    """
    GET /v1/stream: as server-sent events (HTML Living Standard, 9.2).

    It ends when the client goes, when its token opens nothing any more, and when the engine stops.
    """
    streams = request.app[STREAMING]
    tenant = asker_of(request).tenant
    if len(streams.open) >= streams.most or (tenant is not None and streams.count(tenant) >= streams.most // 2):
        raise Overloaded("too many streams are open")
    followed = service_of(request).stream(
        asker_of(request), query_of(request), last_id=request.headers.get("Last-Event-ID"), heartbeat=streams.heartbeat
    )
    response = web.StreamResponse(headers={**SAFE, "Content-Type": EVENT_STREAM, "X-Accel-Buffering": "no"})
    streams.open[followed] = tenant
    on_lost(request, followed.close)
    try:
        request[BEGUN] = True
        await response.prepare(request)
        await _send(request, response, followed, streams.patience)
    except TimeoutError:
        # What it has not taken is dropped with the connection: waiting for it to be sent could take for ever.
        if request.transport is not None:
            request.transport.abort()
    except ConnectionError:
        pass  # the client has gone
    except Unauthorized:
        pass  # its token was deleted or has expired: who comes back with it is told
    finally:
        on_lost(request, None)
        del streams.open[followed]
    return response


async def _send(request: web.Request, response: web.StreamResponse, followed: Stream, patience: float) -> None:
    """
    Raises TimeoutError for a reader that takes nothing for *patience* s, or that has fallen behind what is kept.

    Raises Unauthorized from when its token opens nothing any more.
    """
    begun = False
    # Who is cut off before anything came goes on from here; who has come back has an id, and may have a reset to be told.
    place = b"" if "Last-Event-ID" in request.headers else b"id: %b\n" % followed.id.encode()
    await response.write(b": hookengine\n%b\n" % place)
    async for items in followed:
        identify(request)
        # Whoever comes back with its last id is told what it has lost, before anything else.
        if begun and items and items[0].kind == "reset":
            raise TimeoutError
        begun = True
        # A comment that moves the place to go on from: else a filter that lets nothing through would make it too old.
        chunk = b"".join(map(_event, items)) or b": heartbeat\nid: %b\n\n" % followed.id.encode()
        async with asyncio.timeout(patience):
            await response.write(chunk)


def _event(item: StreamItem) -> bytes:
    return b"id: %b\nevent: %b\ndata: %b\n\n" % (item.id.encode(), item.kind.encode(), dump(item))
