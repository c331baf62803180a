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
from typing import TYPE_CHECKING, Any, NamedTuple

from hookengine.bench.cases import cases, in_turns
from hookengine.bench.endpoint import endpoint
from hookengine.bench.loopback import HOSTS, destinations, site
from hookengine.bench.nginx import NginxError, nginx
from hookengine.bench.scenario import command, environment
from hookengine.errors import HookEngineError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from hookengine.bench.cases import Case, Plan, Way
    from hookengine.bench.loopback import Destination


class ScenarioFailed(HookEngineError):
    """A scenario ended without a result."""

    code = "scenario_failed"


class Reached(NamedTuple):
    """A receiver that runs, and the ways to it."""

    name: str
    destinations: Mapping[Way, Destination]
    missing: Mapping[Way, str]  # those that this machine does not have, each with the reason


@asynccontextmanager
async def receiver(directory: Path, name: str = "nginx", hosts: tuple[str, ...] = HOSTS) -> AsyncIterator[Reached]:
    """A receiver on *hosts* that answers 204: nginx, found as *name*, or our own where that does not start."""
    async with AsyncExitStack() as stack:
        place = site(Path(stack.enter_context(TemporaryDirectory(dir=directory))), hosts)
        try:
            called, urls = name, await stack.enter_async_context(nginx(place, name))
        except NginxError as problem:
            own = await stack.enter_async_context(endpoint(place))
            called, urls = f"our own ({problem})", own.urls
        yield Reached(called, destinations(place, urls), place.missing)


def left_out(plan: Plan, reached: Reached) -> dict[str, str]:
    """The scenarios of *plan* that cannot run, each with the reason."""
    return {case.name: reached.missing[case.way] for case in cases(plan) if case.way in reached.missing}


async def run(
    plan: Plan, reached: Reached, directory: Path, advance: Callable[[int, int], None]
) -> dict[str, list[dict[str, float]]]:
    """
    The figures of each round, by the name of the case, of what *plan* asks for and there is a way to.

    All files are in *directory*; *advance* is called with the cases done and all cases. Raises ScenarioFailed. Whenever it
    ends, all processes that it started have ended.
    """
    found = [case for case in cases(plan) if case.way in reached.destinations]
    runs: dict[str, list[dict[str, float]]] = {case.name: [] for case in found}
    turns = in_turns(found, plan.rounds)
    for done, case in enumerate(turns):
        advance(done, len(turns))
        with TemporaryDirectory(dir=directory) as folder:
            runs[case.name].append(await measured(case, reached.destinations[case.way], folder))
    return runs


async def measured(case: Case, to: Destination, folder: str) -> dict[str, float]:
    """What one run of a case printed. It leads a process group, so that it never ends without those that it started."""
    module, *flags = case.arguments
    process = await asyncio.create_subprocess_exec(
        *command(module, "--url", *to.urls, "--count", str(case.requests), "--directory", folder, *flags),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment(**to.variables),
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
