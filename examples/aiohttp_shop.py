"""
The same shop with aiohttp's server.

    pip install .    # in the root of the repository
    python examples/aiohttp_shop.py
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from aiohttp import web

from hookengine import Config, Engine
from hookengine.errors import RequestError

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

ENGINE = web.AppKey("engine", Engine)


@web.middleware
async def tell_mistakes(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What a customer got wrong is no fault of the shop's: each error of a request has its status."""
    try:
        return await handler(request)
    except RequestError as error:
        detail = [mistake.detail for mistake in error.mistakes] or [error.detail]
        return web.json_response({"detail": detail}, status=error.status)


async def add_webhook(request: web.Request) -> web.Response:
    """The secret is shown this once: the receiver verifies with it."""
    try:
        url = (await request.json())["url"]
    except (ValueError, TypeError, KeyError):
        return web.json_response({"detail": ["expected a JSON object with a url"]}, status=422)
    subscription = await request.app[ENGINE].subscribe(url, event_types=["order.*"])
    return web.json_response({"id": subscription.id, "secret": subscription.secret}, status=201)


async def order(request: web.Request) -> web.Response:
    """`data` as bytes is JSON text, and reaches the receivers byte for byte."""
    event = await request.app[ENGINE].publish("order.created", await request.read())
    return web.json_response({"event": event.id}, status=201)


async def deliveries(request: web.Request) -> web.Response:
    """What became of it."""
    found = await request.app[ENGINE].deliveries(event=request.match_info["event"])
    return web.json_response([{"id": d.id, "state": d.state, "attempts": d.attempt_count} for d in found.data])


def application() -> web.Application:
    """The engine starts and stops with the application."""
    engine = Engine(os.environ.get("SHOP_DATABASE", "shop.db"), config=Config.load(environ=os.environ))
    app = web.Application(middlewares=[tell_mistakes])
    app[ENGINE] = engine
    app.cleanup_ctx.append(engine.cleanup_ctx)
    app.router.add_post("/webhooks", add_webhook)
    app.router.add_post("/orders", order)
    app.router.add_get("/orders/{event}/webhooks", deliveries)
    return app


if __name__ == "__main__":
    web.run_app(application(), host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))
