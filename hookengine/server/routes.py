"""The route table, and who gets past it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from hookengine import access
from hookengine.server import deliveries, events, replays, subscriptions, wire
from hookengine.server.asked import PRINCIPAL, TOKENS, service_of
from hookengine.server.wire import answer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_PUBLIC = frozenset({"/livez", "/readyz"})


def table() -> list[web.RouteDef]:
    """Every route."""
    routes = [
        web.post("/v1/events", events.publish),
        web.post("/v1/events/batch", events.publish_batch),
        web.get("/v1/events", events.list_events),
        web.get("/v1/events/{id}", events.show_event),
        web.get("/v1/events/{id}/explain", replays.explain),
        web.post("/v1/events/{id}/replay", replays.replay_event),
        web.post("/v1/subscriptions", subscriptions.subscribe),
        web.get("/v1/subscriptions", subscriptions.list_subscriptions),
        web.get("/v1/subscriptions/{id}", subscriptions.show_subscription),
        web.patch("/v1/subscriptions/{id}", subscriptions.update_subscription),
        web.delete("/v1/subscriptions/{id}", subscriptions.unsubscribe),
        web.post("/v1/subscriptions/{id}/enable", subscriptions.enable),
        web.post("/v1/subscriptions/{id}/disable", subscriptions.disable),
        web.get("/v1/subscriptions/{id}/secret", subscriptions.show_secret),
        web.post("/v1/subscriptions/{id}/rotate-secret", subscriptions.rotate_secret),
        web.post("/v1/subscriptions/{id}/test", subscriptions.test),
        web.post("/v1/subscriptions/{id}/replay", replays.replay),
        web.get("/v1/subscriptions/{id}/stats", subscriptions.show_stats),
        web.get("/v1/deliveries", deliveries.list_deliveries),
        web.get("/v1/deliveries/{id}", deliveries.show_delivery),
        web.post("/v1/deliveries/{id}/retry", deliveries.retry),
        web.post("/v1/deliveries/{id}/cancel", deliveries.cancel),
        web.get("/livez", live),
        web.get("/readyz", ready),
    ]
    return [web.route(r.method, r.path, r.handler, expect_handler=wire.expect, **r.kwargs) for r in routes]


@web.middleware
async def authenticate(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Nobody unknown gets past here, except to the public paths."""
    if request.path not in _PUBLIC:
        request[PRINCIPAL] = access.authenticate(request.headers.get("Authorization"), request.app[TOKENS])
    return await handler(request)


async def live(_: web.Request) -> web.Response:
    """GET /livez: the process answers."""
    return answer({"status": "ok"})


async def ready(request: web.Request) -> web.Response:
    """GET /readyz: events are taken."""
    if service_of(request).accepting:
        return answer({"status": "ok"})
    return answer({"status": "unavailable", "reason": "stopping"}, status=503, headers={"Retry-After": "5"})
