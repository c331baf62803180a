"""
A pytest plugin for programs that send webhooks with hookengine, or receive them: a real engine and real receivers.

Installed with the package, it offers the fixtures `webhook_engine` and `webhook_receiver`, which need pytest-asyncio. Both
work on this machine only: the engine on a temporary file, with permission to call loopback over http.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

try:
    from pytest_asyncio import fixture
except ImportError:  # pytest itself tells whoever asks for an asynchronous fixture then
    from pytest import fixture  # type: ignore[no-redef]  # noqa: PT013

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from hookengine.engine import Engine
    from hookengine.receiver import Receiver

__all__ = ["webhook_engine", "webhook_receiver"]


@fixture
async def webhook_engine(tmp_path: Path) -> AsyncIterator[Engine]:
    """An engine at work; what is still in flight at the end of the test is cut."""
    # Imported here, because every run of pytest loads this module, whether it asks for anything or not.
    from hookengine.config import Config  # noqa: PLC0415
    from hookengine.engine import Engine  # noqa: PLC0415

    flags = {"security.allow_http": True, "security.allow_networks": ["127.0.0.0/8", "::1/128"]}
    engine = Engine(tmp_path / "webhooks.db", config=Config.load(flags=flags))
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop(drain=0)


@fixture
async def webhook_receiver() -> AsyncIterator[Callable[..., Awaitable[Receiver]]]:
    """
    Makes receivers, of `hookengine.receiver.Receiver`'s arguments, that run until the end of the test.

        receiver = await webhook_receiver([500, 200])  # fails once, then takes everything
        subscription = await webhook_engine.subscribe(receiver.url)
        receiver.secret = subscription.secret
        await webhook_engine.publish("order.created", {"id": 1})
        [failed, taken] = await receiver.wait(2, timeout=10)
        assert taken.verified
    """
    from hookengine.receiver import Receiver  # noqa: PLC0415

    async with AsyncExitStack() as stack:

        async def make(script: object = 200, **options: object) -> Receiver:
            return await stack.enter_async_context(Receiver(script, **options))  # type: ignore[arg-type]  # as the caller has them

        yield make
