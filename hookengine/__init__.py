"""Send webhooks that arrive: one asyncio process, one SQLite file."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hookengine.config import Config
    from hookengine.engine import Engine
    from hookengine.errors import (
        AlreadyRunning,
        ConfigInvalid,
        Conflict,
        DeliveryNotFound,
        EventExists,
        EventNotFound,
        Forbidden,
        HookEngineError,
        Invalid,
        Malformed,
        Mistake,
        NotFound,
        PreconditionFailed,
        StorageFailed,
        SubscriptionNotFound,
        VerificationError,
    )
    from hookengine.signing import verify
    from hookengine.views import Attempt, Delivery, Event, Page, Subscription

__version__ = "0.1.0"

# Loaded when first asked for, so that `verify` and `--help` import no aiohttp.
_HOMES = {
    "AlreadyRunning": "errors",
    "Attempt": "views",
    "Config": "config",
    "ConfigInvalid": "errors",
    "Conflict": "errors",
    "Delivery": "views",
    "DeliveryNotFound": "errors",
    "Engine": "engine",
    "Event": "views",
    "EventExists": "errors",
    "EventNotFound": "errors",
    "Forbidden": "errors",
    "HookEngineError": "errors",
    "Invalid": "errors",
    "Malformed": "errors",
    "Mistake": "errors",
    "NotFound": "errors",
    "Page": "views",
    "PreconditionFailed": "errors",
    "StorageFailed": "errors",
    "Subscription": "views",
    "SubscriptionNotFound": "errors",
    "VerificationError": "errors",
    "verify": "signing",
}

__all__ = [
    "AlreadyRunning",
    "Attempt",
    "Config",
    "ConfigInvalid",
    "Conflict",
    "Delivery",
    "DeliveryNotFound",
    "Engine",
    "Event",
    "EventExists",
    "EventNotFound",
    "Forbidden",
    "HookEngineError",
    "Invalid",
    "Malformed",
    "Mistake",
    "NotFound",
    "Page",
    "PreconditionFailed",
    "StorageFailed",
    "Subscription",
    "SubscriptionNotFound",
    "VerificationError",
    "verify",
]


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'hookengine' has no attribute {name!r}") from None
    return getattr(import_module(f"hookengine.{home}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
