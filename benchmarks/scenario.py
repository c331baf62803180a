"""What the scenarios share: each is a script that makes requests to a URL and prints as JSON what they took."""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING, Any

import uvloop

if TYPE_CHECKING:
    from collections.abc import Coroutine

DATA = b'{"text":"'.ljust(498, b"x") + b'"}'  # 500 bytes
TASKS = 50  # that send or publish at the same time


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The flags that every scenario takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--url", required=True, help="a receiver on loopback that answers 204")
    parser.add_argument("--count", type=int, default=20_000, help="how many requests the receiver gets")
    return parser


def measure(run: Coroutine[Any, Any, float], *, count: int) -> None:
    """Print the rate of *run*, which returns its seconds, and what CPU time this process spent on each request."""
    before = time.process_time()
    seconds = uvloop.run(run)
    cpu = time.process_time() - before
    print(json.dumps({"seconds": round(seconds, 3), "rate": round(count / seconds, 1), "cpu_us": round(cpu / count * 1e6, 1)}))
