"""What a process that does little but deliver asks of the interpreter, for all of itself: nothing for a library to do."""

from __future__ import annotations

import gc
import sys

_SWITCH_INTERVAL = 0.0001  # s
_GC_THRESHOLDS = (20_000, 10, 10)


def tune() -> None:
    """
    Set what Python leaves at values for small programs (docs/performance.md, "In your own program").

    Between two commits more than Python's 700 new containers are alive, and none of them is garbage: each time the collector
    walked through them for nothing. What is imported by now stays, and now and then it walked through that as well, for 20 ms
    in which the event loop stood still. And SQLite's thread, whose commit is through, waited 5 ms for a busy event loop.
    """
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    sys.setswitchinterval(_SWITCH_INTERVAL)
