"""What a piece of work costs this process: time of its loop, memory, descriptors."""

from __future__ import annotations

import asyncio
import re
import time
from contextlib import suppress
from pathlib import Path


class Gaps:
    """
    The longest time that the loop worked at something else, in seconds.

    It is CPU time: on a busy machine nobody is to blame for the rest.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._last = time.thread_time()
        self._longest = 0.0
        self._tick()

    def _tick(self) -> None:
        self._note()
        self._timer = self._loop.call_later(0.005, self._tick)

    def _note(self) -> None:
        now = time.thread_time()
        self._longest = max(self._longest, now - self._last)
        self._last = now

    def stop(self) -> float:
        """The longest gap, also the present one."""
        self._timer.cancel()
        self._note()
        return self._longest


class Memory:
    """How much more memory this process has held at a time than when this was made, in MiB; 0 where nobody tells."""

    def __init__(self) -> None:
        self._status = Path("/proc/self/status")
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        self._before = self._read("VmRSS")

    def grown(self) -> float:
        """The growth up to the peak since then."""
        return (self._read("VmHWM") - self._before) / 1024

    def _read(self, name: str) -> int:
        if not self._status.exists():
            return 0
        found = re.search(rf"{name}:\s+(\d+) kB", self._status.read_text())
        return int(found[1]) if found else 0


def open_files() -> int:
    """How many file descriptors this process has, where the platform tells."""
    files = Path("/proc/self/fd")
    return len(list(files.iterdir())) if files.exists() else 0
