"""What the scenarios share: each makes requests to a URL and prints as JSON what they took."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from hookengine.clock import cpu_time, elapsed
from hookengine.interpreter import tune

if TYPE_CHECKING:
    from collections.abc import Coroutine

DATA = b'{"text":"'.ljust(498, b"x") + b'"}'  # 500 bytes
EVENT_TYPE = "order.created"
TASKS = 50  # that send or publish at the same time


def arguments(description: str | None, *, urls: int | str = 1) -> argparse.ArgumentParser:
    """The flags that every scenario takes; it calls so many *urls*, in the words of argparse."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--url", nargs=urls, required=True, help="a receiver on loopback that answers 204")
    parser.add_argument("--count", type=int, default=3_000, help="how many requests the receiver gets")
    parser.add_argument("--directory", type=Path, default=Path(), help="an empty one, for databases")
    return parser


def print_figures(scenario: Coroutine[Any, Any, dict[str, float]]) -> None:
    """Run *scenario*, in an interpreter that is tuned as the daemon's, and print the figures that it returns."""
    tune()
    print(json.dumps({name: round(value, 3) for name, value in uvloop.run(scenario).items()}))  # noqa: T201  # its result


def figures(count: int, began: float, cpu: float) -> dict[str, float]:
    """The rate of *count* requests up to now, from the `elapsed` and the `cpu_time` at their start."""
    seconds = elapsed() - began
    return {"seconds": seconds, "rate": count / seconds, "cpu_us": (cpu_time() - cpu) / count * 1e6}


def command(module: str, *flags: str) -> list[str]:
    """What runs a module of this package as a process; without the working directory, where others' modules may lie."""
    return [sys.executable, "-P", "-m", f"{__package__}.{module}", *flags]


def environment(**variables: str) -> dict[str, str]:
    """The variables with which such a process finds the same packages as this one, and none of a daemon's settings."""
    path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
    others = {name: value for name, value in os.environ.items() if not name.startswith("HOOKENGINE_")}
    return {**others, "PYTHONPATH": path, **variables}
