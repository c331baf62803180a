"""Ctrl-C in a program that runs its event loop itself: where it lands, and how often it is raised."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from patience import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Coroutine


async def interrupt(name: str) -> None:
    """Let it land in the task that runs the coroutine *name*, as soon as that has something to wait for."""
    [task] = [each for each in asyncio.all_tasks() if getattr(each.get_coro(), "__qualname__", None) == name]
    # It has no public name, and tells nobody.
    while (waiter := task._fut_waiter) is None or waiter.done():  # type: ignore[attr-defined]  # noqa: ASYNC110
        await asyncio.sleep(0)
    waiter.set_exception(KeyboardInterrupt())


def run(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any]) -> tuple[int, Any]:
    """How often it comes out of *loop* until *work* is done, and what that gives or raises."""

    async def soon() -> Any:
        async with asyncio.timeout(PATIENCE):
            return await work

    task = loop.create_task(soon())
    task.add_done_callback(lambda _: loop.stop())
    cuts = 0
    while not task.done():
        try:
            loop.run_forever()
        except KeyboardInterrupt:
            cuts += 1
    return cuts, task.exception() or task.result()
