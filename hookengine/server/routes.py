"""The route table, and who gets past it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Annotated, Literal

from aiohttp import web
from msgspec import Meta

from hookengine import views
from hookengine.access import Scope
from hookengine.errors import (
    DeliveryNotFound,
    DeliveryStateConflict,
    EndpointVerificationFailed,
    EventExists,
    EventNotFound,
    EventTypeNotFound,
    Overloaded,
    SubscriptionDisabled,
    SubscriptionLimitReached,
    SubscriptionNotFound,
    TenantNotFound,
    TenantSecretNotFound,
    TokenExists,
    TokenNotFound,
    TooManyTests,
    Unauthorized,
)
from hookengine.inputs import (
    MOST_EVENTS,
    EventInput,
    EventReplayInput,
    EventTypeInput,
    ReplayInput,
    RotationInput,
    SubscriptionInput,
    TenantInput,
    TokenInput,
    TrialInput,
)
from hookengine.paging import Query
from hookengine.server import (
    deliveries,
    docs,
    event_types,
    events,
    observation,
    openapi,
    replays,
    subscriptions,
    tenants,
    tokens,
    wire,
)
from hookengine.server.asked import PRINCIPAL, count_failure, identify
from hookengine.server.route import PAGED, Body, Route
from hookengine.server.wire import EVENT_STREAM, JSON, MERGE_PATCH, NDJSON, Nothing
from hookengine.times import Time

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

READ, WRITE, ADMIN = Scope.EVENTS_READ, Scope.EVENTS_WRITE, Scope.ADMIN
SUBS_READ, SUBS_WRITE = Scope.SUBSCRIPTIONS_READ, Scope.SUBSCRIPTIONS_WRITE

EVENTS = Annotated[list[EventInput], Meta(max_length=MOST_EVENTS)]
NOTHING = Body(Nothing, optional=True)
PERIOD = {"since": Time, "until": Time}
STATE_OF_SUBSCRIPTION = Literal["active", "disabled"]
STATE_OF_DELIVERY = Literal["pending", "delivered", "failed", "cancelled", "held"]

Sub, Subs, Dlv, Dlvs = views.Subscription, views.Page[views.Subscription], views.Delivery, views.Page[views.Delivery]
NO_SUB, NO_DLV = (SubscriptionNotFound,), (DeliveryNotFound,)
UNTESTED = (EndpointVerificationFailed, TooManyTests)


async def show_openapi(request: web.Request) -> web.Response:
    """GET /openapi.json."""
    return docs.asset(request, document())


# fmt: off
ROUTES = (
    Route("POST", "/v1/events", events.publish, "publish", "Publish an event", WRITE,
          body=Body(EventInput), status=202, answer=views.AcceptedEvent, errors=(EventExists, Overloaded), keyed=True),
    Route("POST", "/v1/events/batch", events.publish_batch, "publish_batch", "Publish up to 1,000 events, all or none", WRITE,
          body=Body(EVENTS, (JSON, NDJSON)), status=202, answer=views.AcceptedBatch, errors=(EventExists, Overloaded),
          keyed=True),
    Route("GET", "/v1/events", events.list_events, "events", "List events, newest first", READ,
          query={"type": str, "tenant": str, **PERIOD}, answer=views.Page[views.Event]),
    Route("GET", "/v1/events/{id}", events.show_event, "event", "Show an event, its data and where it went", READ,
          query={"tenant": str}, answer=views.EventDetail, errors=(EventNotFound,)),
    Route("GET", "/v1/events/{id}/explain", replays.explain, "explain", "Explain to whom an event went, and why", READ,
          query={"tenant": str, "subscription": str, **PAGED}, answer=views.Explanation, errors=(EventNotFound,)),
    Route("POST", "/v1/events/{id}/replay", replays.replay_event, "replay_event", "Deliver an event again", WRITE,
          body=Body(EventReplayInput, optional=True), query={"tenant": str}, status=202, answer=views.AcceptedEvent,
          errors=(EventNotFound, Overloaded), keyed=True),

    Route("POST", "/v1/subscriptions", subscriptions.subscribe, "subscribe", "Subscribe a URL", SUBS_WRITE,
          body=Body(SubscriptionInput), status=201, answer=Sub, errors=(SubscriptionLimitReached, *UNTESTED), keyed=True),
    Route("GET", "/v1/subscriptions", subscriptions.list_subscriptions, "subscriptions", "List subscriptions, newest first",
          SUBS_READ, query={"tenant": str, "state": STATE_OF_SUBSCRIPTION}, answer=Subs),
    Route("GET", "/v1/subscriptions/{id}", subscriptions.show_subscription, "subscription", "Show a subscription", SUBS_READ,
          answer=Sub, errors=NO_SUB),
    Route("PATCH", "/v1/subscriptions/{id}", subscriptions.update_subscription, "update_subscription",
          "Change what is given (RFC 7396); null takes a setting back to its default", SUBS_WRITE,
          body=Body(SubscriptionInput, (MERGE_PATCH, JSON), partial=True), answer=Sub, errors=(*NO_SUB, *UNTESTED),
          versioned=True),
    Route("DELETE", "/v1/subscriptions/{id}", subscriptions.unsubscribe, "unsubscribe",
          "Delete a subscription and cancel its pending deliveries", SUBS_WRITE, status=204, errors=NO_SUB, versioned=True),
    Route("POST", "/v1/subscriptions/{id}/enable", subscriptions.enable, "enable", "Enable it and send what was held",
          SUBS_WRITE, body=NOTHING, answer=Sub, errors=NO_SUB, versioned=True),
    Route("POST", "/v1/subscriptions/{id}/disable", subscriptions.disable, "disable", "Disable it", SUBS_WRITE,
          body=NOTHING, answer=Sub, errors=NO_SUB, versioned=True),
    Route("GET", "/v1/subscriptions/{id}/secret", subscriptions.show_secret, "secret", "Show its signing secrets", SUBS_WRITE,
          answer=views.SubscriptionSecret, errors=NO_SUB),
    Route("POST", "/v1/subscriptions/{id}/rotate-secret", subscriptions.rotate_secret, "rotate_secret",
          "Sign with a new secret; the one before signs beside it for a while", SUBS_WRITE,
          body=Body(RotationInput, optional=True), answer=views.SubscriptionSecret, errors=NO_SUB, versioned=True),
    Route("POST", "/v1/subscriptions/{id}/test", subscriptions.test, "test", "Send a test event now, and show the attempt",
          SUBS_WRITE, body=Body(TrialInput, optional=True), answer=views.Attempt, errors=(*NO_SUB, Overloaded)),
    Route("POST", "/v1/subscriptions/{id}/replay", replays.replay, "replay", "Make failed deliveries again, paced", WRITE,
          body=Body(ReplayInput, optional=True), status=202, answer=views.Replay, others={200: views.Replay},
          errors=(*NO_SUB, Overloaded), keyed=True),
    Route("GET", "/v1/subscriptions/{id}/stats", subscriptions.show_stats, "stats", "Show what became of its deliveries", READ,
          query=PERIOD, answer=views.Stats, errors=NO_SUB),

    Route("GET", "/v1/deliveries", deliveries.list_deliveries, "deliveries", "List deliveries, newest first", READ,
          query={"subscription": str, "event": str, "tenant": str, "state": STATE_OF_DELIVERY, **PERIOD}, answer=Dlvs),
    Route("GET", "/v1/deliveries/{id}", deliveries.show_delivery, "delivery", "Show a delivery and its attempts", READ,
          answer=Dlv, errors=NO_DLV),
    Route("POST", "/v1/deliveries/{id}/retry", deliveries.retry, "retry", "Make it due now, with its whole schedule again",
          WRITE, body=NOTHING, status=202, answer=Dlv, errors=(*NO_DLV, DeliveryStateConflict, SubscriptionDisabled)),
    Route("POST", "/v1/deliveries/{id}/cancel", deliveries.cancel, "cancel", "Give it up", WRITE,
          body=NOTHING, status=202, answer=Dlv, errors=(*NO_DLV, DeliveryStateConflict)),

    Route("GET", "/v1/event-types", event_types.list_event_types, "event_types", "List event types, newest first", READ,
          answer=views.Page[views.EventType]),
    Route("GET", "/v1/event-types/{type}", event_types.show_event_type, "event_type", "Show an event type", READ,
          answer=views.EventType, errors=(EventTypeNotFound,)),
    Route("PUT", "/v1/event-types/{type}", event_types.set_event_type, "set_event_type",
          "Declare an event type, or describe it anew", ADMIN, body=Body(EventTypeInput), answer=views.EventType,
          others={201: views.EventType}),
    Route("DELETE", "/v1/event-types/{type}", event_types.delete_event_type, "delete_event_type",
          "Withdraw an event type", ADMIN, status=204, errors=(EventTypeNotFound,)),

    Route("GET", "/v1/tenants", tenants.list_tenants, "tenants", "List the tenants that are declared, newest first", ADMIN,
          answer=views.Page[views.Tenant]),
    Route("GET", "/v1/tenants/{tenant}", tenants.show_tenant, "tenant", "Show a tenant", ADMIN,
          answer=views.Tenant, errors=(TenantNotFound,)),
    Route("PUT", "/v1/tenants/{tenant}", tenants.set_tenant, "set_tenant", "Put a tenant on a plan, or take it off", ADMIN,
          body=Body(TenantInput, optional=True), answer=views.Tenant, others={201: views.Tenant}),
    Route("DELETE", "/v1/tenants/{tenant}", tenants.delete_tenant, "delete_tenant", "Forget a tenant's plan and secret", ADMIN,
          status=204, errors=(TenantNotFound,)),
    Route("GET", "/v1/tenants/{tenant}/secret", tenants.show_secret, "tenant_secret", "Show a tenant's signing secrets",
          SUBS_WRITE, answer=views.TenantSecret, errors=(TenantSecretNotFound,)),
    Route("PUT", "/v1/tenants/{tenant}/secret", tenants.set_secret, "set_tenant_secret",
          "Sign a tenant's deliveries with a new secret", SUBS_WRITE, body=Body(RotationInput, optional=True),
          answer=views.TenantSecret),
    Route("DELETE", "/v1/tenants/{tenant}/secret", tenants.delete_secret, "delete_tenant_secret",
          "Delete a tenant's signing secret", SUBS_WRITE, status=204, errors=(TenantSecretNotFound,)),

    Route("POST", "/v1/tokens", tokens.create_token, "create_token", "Make a token for a user; it is shown this once", ADMIN,
          body=Body(TokenInput), status=201, answer=views.Token, errors=(TokenExists,)),
    Route("GET", "/v1/tokens", tokens.list_tokens, "tokens", "List tokens, newest first", ADMIN,
          answer=views.Page[views.Token]),
    Route("DELETE", "/v1/tokens/{user}", tokens.delete_token, "delete_token", "Revoke a user's token", ADMIN,
          status=204, errors=(TokenNotFound,)),

    Route("GET", "/v1/stream", observation.stream, "stream", "Follow every attempt and change of state as they happen", READ,
          query={"types": str, "subscription": str}, answer=views.StreamItem, media_type=EVENT_STREAM,
          errors=(*NO_SUB, Overloaded)),
    Route("GET", "/metrics", observation.metrics, "metrics", "Read the engine's numbers, for Prometheus", ADMIN,
          answer=str, media_type="text/plain"),
    Route("GET", "/livez", observation.live, "live", "Ask whether the process answers", None, answer=observation.Probe),
    Route("GET", "/readyz", observation.ready, "ready", "Ask whether events are taken", None, answer=observation.Probe,
          others={503: observation.Probe}),
    Route("GET", "/openapi.json", show_openapi, "openapi", "Read this document", None, answer=dict),
)
# fmt: on


ROUTE_OF = {(route.method, route.path): route for route in ROUTES}
PUBLIC = frozenset({route.path for route in ROUTES if route.scope is None} | docs.FILES.keys())


def table() -> list[web.RouteDef]:
    """Every route."""
    return [*(route.served() for route in ROUTES), *docs.table()]


@cache
def document() -> docs.Asset:
    """What the API is, in the words of OpenAPI 3.1."""
    return docs.Asset(openapi.printed(ROUTES), JSON)


@web.middleware
async def authenticate(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Nobody unknown gets past here, except to the public paths."""
    if request.path not in PUBLIC and not request.path.startswith("/docs/"):
        try:
            request[PRINCIPAL] = by = identify(request)
        except Unauthorized:
            count_failure(request)
            raise
        resource = request.match_info.route.resource
        route = None if resource is None else ROUTE_OF.get((request.method, resource.canonical))
        if route is not None and route.scope is not None:
            by.require(route.scope)  # before a body is read; the service asks again, for Python too
            if request.query_string and route.refuses_parameters:
                Query(request.query, set(), paged=False).raise_if_any()
            if request.method == "POST" and not route.keyed:  # the other methods are idempotent by themselves
                wire.refuse_key(request)
    return await handler(request)
