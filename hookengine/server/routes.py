"""The route table, and what each route does: parse, ask the service, answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
from aiohttp import web

from hookengine import access
from hookengine.server import wire
from hookengine.server.wire import JSON, MERGE_PATCH, NDJSON, answer, read_body, repeated, tag
from hookengine.service import Service
from hookengine.store import Answer
from hookengine.validation import format_time

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from typing import Any

    from hookengine import views
    from hookengine.access import Principal

SERVICE: web.AppKey[Service] = web.AppKey("service", Service)
TOKENS: web.AppKey[Any] = web.AppKey("tokens", object)
LIMITS: web.AppKey[tuple[int, int]] = web.AppKey("limits", tuple)  # bytes of a body, and of a batch
PRINCIPAL = web.RequestKey("principal", access.Principal)

_PUBLIC = frozenset({"/livez", "/readyz"})


def table() -> list[web.RouteDef]:
    """Every route."""
    routes = [
        web.post("/v1/events", publish),
        web.post("/v1/events/batch", publish_batch),
        web.get("/v1/events", list_events),
        web.get("/v1/events/{id}", show_event),
        web.post("/v1/subscriptions", subscribe),
        web.get("/v1/subscriptions", list_subscriptions),
        web.get("/v1/subscriptions/{id}", show_subscription),
        web.patch("/v1/subscriptions/{id}", update_subscription),
        web.delete("/v1/subscriptions/{id}", unsubscribe),
        web.post("/v1/subscriptions/{id}/enable", enable),
        web.post("/v1/subscriptions/{id}/disable", disable),
        web.get("/v1/subscriptions/{id}/secret", show_secret),
        web.post("/v1/subscriptions/{id}/rotate-secret", rotate_secret),
        web.get("/v1/deliveries", list_deliveries),
        web.get("/v1/deliveries/{id}", show_delivery),
        web.post("/v1/deliveries/{id}/retry", retry),
        web.post("/v1/deliveries/{id}/cancel", cancel),
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


async def publish(request: web.Request) -> web.Response:
    """POST /v1/events."""
    body = await read_body(request, JSON, limit=request.app[LIMITS][0])
    accepted = await _service(request).publish(
        _by(request),
        [wire.read_object(body)],
        single=True,
        key=wire.read_key(request, body),
        render=lambda events: _accepted(events[0]),
    )
    if isinstance(accepted, Answer):
        return repeated(accepted)
    return web.Response(body=_accepted(accepted[0]), status=202, content_type=JSON)


async def publish_batch(request: web.Request) -> web.Response:
    """POST /v1/events/batch."""
    body = await read_body(request, JSON, NDJSON, limit=request.app[LIMITS][1])
    accepted = await _service(request).publish(
        _by(request),
        wire.read_array(body, ndjson=request.content_type == NDJSON),
        key=wire.read_key(request, body),
        render=_accepted_batch,
    )
    if isinstance(accepted, Answer):
        return repeated(accepted)
    return web.Response(body=_accepted_batch(accepted), status=202, content_type=JSON)


async def list_events(request: web.Request) -> web.Response:
    """GET /v1/events."""
    return answer(await _service(request).events(_by(request), _query(request)))


async def show_event(request: web.Request) -> web.Response:
    """GET /v1/events/{id}."""
    return answer(await _service(request).event(_by(request), _id(request), tenant=request.query.get("tenant")))


async def subscribe(request: web.Request) -> web.Response:
    """POST /v1/subscriptions."""
    body = await read_body(request, JSON, limit=request.app[LIMITS][0])
    made = await _service(request).subscribe(
        _by(request), wire.read_object(body), key=wire.read_key(request, body), render=wire.dump
    )
    if isinstance(made, Answer):
        response = repeated(made)
        made_id = orjson.loads(made.body)["id"]
        response.headers["Location"] = f"/v1/subscriptions/{made_id}"
        return response
    return answer(made, status=201, headers={"Location": f"/v1/subscriptions/{made.id}", **tag(made)})


async def list_subscriptions(request: web.Request) -> web.Response:
    """GET /v1/subscriptions."""
    return answer(await _service(request).subscriptions(_by(request), _query(request)))


async def show_subscription(request: web.Request) -> web.Response:
    """GET /v1/subscriptions/{id}."""
    return _subscription(await _service(request).subscription(_by(request), _id(request)))


async def update_subscription(request: web.Request) -> web.Response:
    """PATCH /v1/subscriptions/{id}."""
    body = await read_body(request, MERGE_PATCH, JSON, limit=request.app[LIMITS][0])
    return _subscription(
        await _service(request).update_subscription(
            _by(request), _id(request), wire.read_object(body), versions=wire.read_versions(request)
        )
    )


async def unsubscribe(request: web.Request) -> web.Response:
    """DELETE /v1/subscriptions/{id}."""
    await _service(request).unsubscribe(_by(request), _id(request), versions=wire.read_versions(request))
    return web.Response(status=204)


async def enable(request: web.Request) -> web.Response:
    """POST /v1/subscriptions/{id}/enable."""
    await _read_nothing(request)
    return _subscription(await _service(request).enable(_by(request), _id(request), versions=wire.read_versions(request)))


async def disable(request: web.Request) -> web.Response:
    """POST /v1/subscriptions/{id}/disable."""
    await _read_nothing(request)
    return _subscription(await _service(request).disable(_by(request), _id(request), versions=wire.read_versions(request)))


async def show_secret(request: web.Request) -> web.Response:
    """GET /v1/subscriptions/{id}/secret."""
    return answer(await _service(request).secret(_by(request), _id(request)))


async def rotate_secret(request: web.Request) -> web.Response:
    """POST /v1/subscriptions/{id}/rotate-secret."""
    given = wire.read_object(await _read_action(request), optional=True)
    return answer(
        await _service(request).rotate_secret(_by(request), _id(request), given, versions=wire.read_versions(request))
    )


async def list_deliveries(request: web.Request) -> web.Response:
    """GET /v1/deliveries."""
    return answer(await _service(request).deliveries(_by(request), _query(request)))


async def show_delivery(request: web.Request) -> web.Response:
    """GET /v1/deliveries/{id}."""
    return answer(await _service(request).delivery(_by(request), _id(request)))


async def retry(request: web.Request) -> web.Response:
    """POST /v1/deliveries/{id}/retry."""
    await _read_nothing(request)
    return answer(await _service(request).retry(_by(request), _id(request)), status=202)


async def cancel(request: web.Request) -> web.Response:
    """POST /v1/deliveries/{id}/cancel."""
    await _read_nothing(request)
    return answer(await _service(request).cancel(_by(request), _id(request)), status=202)


async def live(_: web.Request) -> web.Response:
    """GET /livez: the process answers."""
    return answer({"status": "ok"})


async def ready(request: web.Request) -> web.Response:
    """GET /readyz: events are taken."""
    if _service(request).accepting:
        return answer({"status": "ok"})
    return answer({"status": "unavailable", "reason": "stopping"}, status=503, headers={"Retry-After": "5"})


def _service(request: web.Request) -> Service:
    return request.app[SERVICE]


def _by(request: web.Request) -> Principal:
    return request[PRINCIPAL]


def _id(request: web.Request) -> str:
    return request.match_info["id"]


def _query(request: web.Request) -> Mapping[str, Any]:
    return request.query


async def _read_action(request: web.Request) -> bytes:
    """The body of an action, which may be left out."""
    wire.refuse_key(request)
    return await read_body(request, JSON, limit=request.app[LIMITS][0], required=False)


async def _read_nothing(request: web.Request) -> None:
    """The body of an action that takes no members."""
    wire.read_nothing(await _read_action(request))


def _subscription(view: views.Subscription) -> web.Response:
    return answer(view, headers=tag(view))


def _accepted(event: views.Event) -> bytes:
    return orjson.dumps(
        {
            "id": event.id,
            "type": event.type,
            "tenant": event.tenant,
            "accepted_at": format_time(round(event.accepted_at.timestamp() * 1000)),
            "deliveries": event.deliveries,
        }
    )


def _accepted_batch(events: list[views.Event]) -> bytes:
    return orjson.dumps({"events": [{"id": event.id, "deliveries": event.deliveries} for event in events]})
