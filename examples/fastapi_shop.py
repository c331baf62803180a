"""
A shop that tells its customers' systems about orders: FastAPI, with hookengine in the same process.

    pip install . fastapi uvicorn    # in the root of the repository
    uvicorn fastapi_shop:app --app-dir examples

Then say where to send, and order something:

    curl -X POST localhost:8000/webhooks -H 'Content-Type: application/json' -d '{"url": "https://example.com/hook"}'
    curl -X POST localhost:8000/orders -H 'Content-Type: application/json' -d '{"item": "tea", "count": 2}'
"""

from __future__ import annotations

import os

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel

from hookengine import Config, Engine, Invalid, NotFound

engine = Engine(os.environ.get("SHOP_DATABASE", "shop.db"), config=Config.load(environ=os.environ))
app = FastAPI(lifespan=engine.lifespan)  # the engine starts and stops with the application


class Order(BaseModel):
    """What a customer orders."""

    item: str
    count: int


class Webhook(BaseModel):
    """Where a customer's system wants to hear of orders."""

    url: str


@app.post("/webhooks", status_code=201)
async def add_webhook(webhook: Webhook) -> dict[str, object]:
    """The secret is shown this once: the receiver verifies with it."""
    try:
        subscription = await engine.subscribe(webhook.url, event_types=["order.*"])
    except Invalid as error:
        raise HTTPException(422, [mistake.detail for mistake in error.mistakes]) from error
    return {"id": subscription.id, "secret": subscription.secret}


@app.post("/orders", status_code=201)
async def order(order: Order) -> dict[str, object]:
    """Once `publish` has returned, the event is on disk: it will be delivered, whatever happens to this process."""
    event = await engine.publish("order.created", order.model_dump())
    return {"event": event.id}


@app.get("/orders/{event}/webhooks")
async def deliveries(event: str) -> list[dict[str, object]]:
    """What became of it."""
    try:
        found = await engine.event(event)
    except NotFound as error:
        raise HTTPException(404) from error
    return [{"id": delivery.id, "state": delivery.state} for delivery in found.deliveries]
