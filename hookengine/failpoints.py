"""
Named places at which a test ends the process, as a crash at the worst moment does.

Nothing outside the process arms one: neither configuration nor environment. While none is armed, passing one is a look at an
empty dict.
"""

from __future__ import annotations

import os
import signal

_armed: dict[str, int] = {}  # by name, the passages that are left; owned by the test that armed them, in a process of its own


def failpoint(name: str) -> None:
    """Pass the place *name*: the row of the crash matrix that it was made for, and what has just happened."""
    if _armed:
        _pass(name)


def arm(name: str, passage: int = 1) -> None:
    """End this process with SIGKILL when it comes to the place *name* for the *passage*-th time from now on."""
    _armed[name] = passage


def _pass(name: str) -> None:
    left = _armed.get(name)
    if left is None:
        return
    if left == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    _armed[name] = left - 1
