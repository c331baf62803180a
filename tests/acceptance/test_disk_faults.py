"""A disk that fails or is full: writes and syncs that do not succeed."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, NamedTuple

import disk
import pytest
from recording import run

if TYPE_CHECKING:
    from pathlib import Path

    from launcher import Launcher

EVENTS = 40


def accepted(log: Path) -> list[str]:
    """What was answered."""
    return [line.content.decode() for line in disk.read(log) if line.kind == "m"]


class Calls(NamedTuple):
    """How many writes and syncs of the database there were until the first answer, and in all."""

    first_write: int
    first_sync: int
    writes: int
    syncs: int


async def calls(launcher: Launcher, folder: Path) -> Calls:
    """Those of a run in which nothing fails."""
    control = place(folder)
    assert 0 == await run(launcher, folder, events=EVENTS, control=control)
    names: dict[int, str] = {}
    writes = syncs = 0
    for line in disk.read(folder / "log"):
        if line.kind == "m":
            break
        if line.kind == "o":
            names[line.descriptor] = line.content.decode()
        name = names.get(line.descriptor, "")
        if name.startswith("hooks.db") and not name.endswith(".lock"):
            writes += line.kind in "wt"
            syncs += line.kind == "s"
    return Calls(writes, syncs, control.writes, control.syncs)


def place(folder: Path) -> disk.Control:
    """The control of the disk of a process that works in *folder*."""
    folder.mkdir()
    return disk.Control(folder / "control")


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
@pytest.mark.row("F06")
async def test_write_fails_once(error: int, in_memory: Path, disk_launcher: Launcher) -> None:
    """One write that fails, whichever it is, refuses what it was for; the next goes well, nothing accepted is lost."""
    whole = await calls(disk_launcher, in_memory / "whole")
    for after in range(whole.first_write, whole.writes - 20, (whole.writes - whole.first_write) // 8):
        folder = in_memory / str(after)
        control = place(folder)
        control.fail_writes(error, after=after, count=1)

        assert 0 == await run(disk_launcher, folder, events=EVENTS, control=control)
        marks = accepted(folder / "log")
        assert EVENTS + 1 == len(marks)
        assert disk.Found(1) == disk.look(folder / "data", marks, where=f"write {after}")


@pytest.mark.row("F07")
async def test_sync_fails(in_memory: Path, disk_launcher: Launcher) -> None:
    """A sync that fails, whosever it is, ends the engine, and is not tried again; what was accepted is in the file."""
    whole = await calls(disk_launcher, in_memory / "whole")
    statuses = []
    for after in range(whole.first_sync, whole.syncs, (whole.syncs - whole.first_sync) // 10):
        folder = in_memory / str(after)
        control = place(folder)
        control.fail_syncs(errno.EIO, after=after, count=1)
        statuses.append(await run(disk_launcher, folder, events=EVENTS, control=control))
        assert (70 if control.failed else 0) == statuses[-1]
        marks = accepted(folder / "log")
        assert disk.Found(1) == disk.look(folder / "data", marks, where=f"sync {after}")
        assert 0 == await run(disk_launcher, folder, events=EVENTS)
        assert disk.Found(50) == disk.cut(folder / "log", 50, seed=after)
    assert 8 <= statuses.count(70)


async def test_power_cut_after_a_failed_sync(in_memory: Path, disk_launcher: Launcher) -> None:
    """What a failed sync has left in memory alone is not built upon by the next start: a loss of power takes nothing."""
    whole = await calls(disk_launcher, in_memory / "whole")
    for after in range(whole.first_sync + 3, whole.syncs - 3, (whole.syncs - whole.first_sync) // 6):
        folder = in_memory / str(after)
        control = place(folder)
        control.fail_syncs(0, after=after, count=1)
        assert -9 == await run(disk_launcher, folder, events=EVENTS, control=control)
        begun = len(disk.read(folder / "log"))
        assert 0 == await run(disk_launcher, folder, events=EVENTS)

        assert disk.Found(150) == disk.cut(folder / "log", 150, seed=after, since=begun)
