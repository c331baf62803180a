"""What a loss of power leaves: rows F01 and F02 of the fault matrix."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import disk
import pytest
from host import CONFIG
from launcher import Launcher, finish

from hookengine.engine import DATABASE, Engine

if TYPE_CHECKING:
    from collections.abc import Iterator

CUTS = int(os.environ.get("CUTS", "10000"))  # `make soak` has more
SEED = int(os.environ.get("SEED", "1"))
_PROCESSES = 2
_RECORDING = 2_500  # cuts of one recorded run: each run is another

NEVER_SYNCS = {"kind": "never_syncs"}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory where there is one: a recorded sync need not reach a disk."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as made:
        yield Path(made)


async def record(launcher: Launcher, folder: Path, *faults: dict[str, Any], synchronous: str = "full") -> Path:
    """The log of an engine at work in *folder*, started twice, with some 20 checkpoints, which suffers *faults*."""
    data, log = folder / "data", folder / "log"
    data.mkdir()
    watched = {"kind": "watches", "folder": str(data), "log": str(log)}
    arguments = (str(data), synchronous, "60", "4", "2")
    launched = await launcher.launch(
        *arguments, program="publishing", faults=(watched, {"kind": "checkpoints_often", "pages": 30}, *faults)
    )
    assert 0 == await finish(launched)
    return log


def cut(log: Path, count: int, seed: int) -> disk.Found:
    """Lose power *count* times, in several processes."""
    each = count // _PROCESSES
    seeds = [seed * _PROCESSES + number for number in range(_PROCESSES)]
    with ProcessPoolExecutor(_PROCESSES, mp_context=get_context("spawn")) as pool:
        return sum(pool.map(disk.cut, [log] * _PROCESSES, [each] * _PROCESSES, seeds), disk.Found())


@pytest.mark.parametrize("run", range(-(-CUTS // _RECORDING)))
async def test_power_cut(run: int, folder: Path, disk_launcher: Launcher) -> None:
    """F01: whatever of what was not synced the disk has kept, the file is whole and has all that had been answered."""
    count = min(_RECORDING, CUTS - run * _RECORDING)
    log = await record(disk_launcher, folder)
    found = cut(log, count, SEED * 1_000 + run)

    assert (count, 0, 0, "") == found


async def test_normal_loses_the_last_moments(folder: Path, disk_launcher: Launcher) -> None:
    """With `synchronous = "normal"` the recorder finds losses, and whole files."""
    found = cut(await record(disk_launcher, folder, synchronous="normal"), 300, SEED)

    assert 0 < found.lost
    assert 0 == found.corrupt


async def test_recorder_has_teeth(folder: Path, disk_launcher: Launcher) -> None:
    """An engine that syncs nothing loses events and breaks its file, and the recorder says so."""
    found = cut(await record(disk_launcher, folder, NEVER_SYNCS), 300, SEED)

    assert 0 < found.lost
    assert 0 < found.corrupt


async def test_power_cut_in_the_first_start(folder: Path, disk_launcher: Launcher) -> None:
    """F02: what a loss of power leaves of a first start, the next start takes: it works, with what had been answered."""
    lines = disk.read(await record(disk_launcher, folder))
    rng = Random(SEED)
    image = folder / "image"
    image.mkdir()
    answered = next(number for number, line in enumerate(lines) if line.kind == "m")
    recorded, done = disk.Disk(rng), 0
    for position in sorted(rng.randint(1, answered + 50) for _ in range(30)):
        for line in lines[done:position]:
            recorded.follow(line)
        done = position
        disk.lay(recorded.lose_power(rng), image)
        async with Engine(image / DATABASE, config=CONFIG) as engine:
            await engine.publish("order.created", {"n": 1}, id="after")

        assert disk.Found(1) == disk.look(image, [*recorded.marks, "event after"], where=f"line {position}")
