"""What the daemon asks of the interpreter."""

from __future__ import annotations

import gc
import sys
from typing import TYPE_CHECKING

from engines import running

from hookengine.interpreter import tune

if TYPE_CHECKING:
    from pathlib import Path


def test_tune() -> None:
    """The collector waits for more containers than a commit brings, and a thread no longer than a commit; modules stay."""
    before = gc.get_threshold(), sys.getswitchinterval()
    try:
        tune()

        assert gc.get_threshold()[0] > 10_000
        assert gc.isenabled()
        assert len(gc.get_objects()) < gc.get_freeze_count()
        assert sys.getswitchinterval() < 0.002
    finally:
        gc.unfreeze()
        gc.set_threshold(*before[0])
        sys.setswitchinterval(before[1])


async def test_embedded_engine_leaves_it_alone(tmp_path: Path) -> None:
    """An engine inside another program changes nothing of what is that program's."""
    before = gc.get_threshold(), sys.getswitchinterval()
    async with running(tmp_path):
        assert before == (gc.get_threshold(), sys.getswitchinterval())
