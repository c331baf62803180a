"""Runs of `publishing` whose disk is recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher import Launcher, finish

if TYPE_CHECKING:
    from pathlib import Path

    from disk import Control


async def run(
    launcher: Launcher,
    folder: Path,
    *faults: dict[str, Any],
    synchronous: str = "full",
    events: int = 60,
    starts: int = 1,
    control: Control | None = None,
) -> int:
    """The exit status of an engine at work on the data in *folder*, with a checkpoint every few commits; its log grows."""
    data, log = folder / "data", folder / "log"
    data.mkdir(exist_ok=True)
    watched = {"kind": "watches", "folder": str(data), "log": str(log), "control": str(control.path) if control else ""}
    launched = await launcher.launch(
        *(str(data), synchronous, str(events), "4", str(starts)),
        program="publishing",
        faults=(watched, {"kind": "folds_often", "rows": 50}, *faults),
    )
    return await finish(launched)


async def recorded(launcher: Launcher, folder: Path, *faults: dict[str, Any], synchronous: str = "full") -> Path:
    """The log of an engine that is started twice on a new database, and suffers *faults*."""
    assert 0 == await run(launcher, folder, *faults, synchronous=synchronous, starts=2)
    return folder / "log"
