"""The engine as a process: signals, and the file that tells other verbs where it is."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from hookengine.cli.files import DAEMON
from hookengine.cli.output import say

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

    from hookengine.engine import Engine

T = TypeVar("T")

_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
_IGNORED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)  # else each would end the process without a word


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run *main* on an event loop of its own: uvloop's where the platform has it."""
    try:
        from uvloop import run  # noqa: PLC0415  # missing on some platforms
    except ImportError:
        return asyncio.run(main)
    return run(main)


async def run_daemon(engine: Engine, data: Path, greet: Callable[[], None]) -> None:
    """
    Run *engine* until it is told to stop, or fails; *greet* is called when it is ready.

    The first SIGTERM, SIGINT or SIGQUIT drains, the next ends the drain at once. SIGHUP, which a closing terminal sends, does
    nothing, nor do SIGUSR1 and SIGUSR2, by which other daemons are told to open their log files anew.
    Raises what the engine's `start` and `wait_stopped` raise.
    """
    loop = asyncio.get_running_loop()
    started = asyncio.Event()
    stops: list[asyncio.Task[None]] = []  # one for each signal

    async def stop(drain: float | None) -> None:
        await started.wait()
        await engine.stop(drain=drain)

    def on_signal() -> None:
        stops.append(loop.create_task(stop(0 if stops else None)))
        say("Stopping: attempts in flight may end; once more stops at once." if len(stops) == 1 else "Stopping at once.")

    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    for number in _STOPS:
        loop.add_signal_handler(number, on_signal)
    await engine.start()
    with announced(data, str(engine.url)):
        greet()
        started.set()
        try:
            await engine.wait_stopped()
        finally:
            # They raise what `wait_stopped` raises.
            await asyncio.gather(*stops, return_exceptions=True)


@contextmanager
def announced(data: Path, url: str) -> Iterator[None]:
    """For as long as it lasts, a file in *data* says where this process's server is; on a full disk it does without."""
    path, fresh = data / DAEMON, data / f"{DAEMON}.{os.getpid()}"
    try:
        fresh.unlink(missing_ok=True)
        fresh.touch(mode=0o600)  # to the URL in it goes the owner's token
        fresh.write_text(json.dumps({"url": url, "pid": os.getpid()}) + "\n")
        fresh.replace(path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        say(f"{path} cannot be written ({error.strerror}): give other verbs --url {url}")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
