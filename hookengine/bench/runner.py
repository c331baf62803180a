"""All cases in one run, in turns, each in a process of its own, beside one receiver."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import signal
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from hookengine.bench.cases import cases, in_turns
from hookengine.bench.endpoint import endpoint
from hookengine.bench.nginx import NginxError, nginx
from hookengine.bench.scenario import command, environment
from hookengine.errors import HookEngineError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from hookengine.bench.cases import Case, Plan


class ScenarioFailed(HookEngineError):
    """A scenario ended without a result."""

    code = "scenario_failed"


@asynccontextmanager
async def receiver(directory: Path, name: str = "nginx") -> AsyncIterator[tuple[str, str]]:
    """The name and the URL of a receiver that answers 204: nginx, found as *name*, or our own where that does not start."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(dir=directory)))
        try:
            called, url = name, await stack.enter_async_context(nginx(folder, name))
        except NginxError as problem:
            own = await stack.enter_async_context(endpoint())
            called, url = f"our own ({problem})", own.url
        yield called, url


async def run(plan: Plan, url: str, directory: Path, advance: Callable[[int, int], None]) -> dict[str, list[dict[str, float]]]:
    """
    The figures of each round, by the name of the case, of what *plan* asks for.

    All files are in *directory*; *advance* is called with the cases done and all cases. Raises ScenarioFailed. Whenever it
    ends, all processes that it started have ended.
    """
    found = cases(plan)
    runs: dict[str, list[dict[str, float]]] = {case.name: [] for case in found}
    turns = in_turns(found, plan.rounds)
    for done, case in enumerate(turns):
        advance(done, len(turns))
        with TemporaryDirectory(dir=directory) as folder:
            runs[case.name].append(await measured(case, url, folder))
    return runs


async def measured(case: Case, url: str, folder: str) -> dict[str, float]:
    """What one run of a case printed. It leads a process group, so that it never ends without those that it started."""
    module, *flags = case.arguments
    process = await asyncio.create_subprocess_exec(
        *command(module, "--url", url, "--count", str(case.requests), "--directory", folder, *flags),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(),
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(case.limit):
            out, err = await process.communicate()
    except TimeoutError:
        raise ScenarioFailed(f"{case.name} did not end within {case.limit:.0f} s") from None
    finally:
        with suppress(ProcessLookupError, PermissionError):  # nobody is left; macOS says the second
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    if process.returncode:
        raise ScenarioFailed(f"{case.name} failed: {err.decode(errors='replace').strip()}")
    figures: dict[str, float] = json.loads(out)
    return figures


def machine() -> dict[str, Any]:
    """What the numbers depend on besides our code."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "processors": os.cpu_count(),
        "packages": {name: version(name) for name in ("aiohttp", "aiosqlite", "msgspec", "orjson", "uvloop")},
    }
