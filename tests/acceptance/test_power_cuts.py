"""What a loss of power leaves."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from random import Random
from typing import TYPE_CHECKING

import disk
import pytest
from host import CONFIG
from recording import recorded

from hookengine.engine import DATABASE, Engine

if TYPE_CHECKING:
    from pathlib import Path

    from launcher import Launcher

CUTS = int(os.environ.get("CUTS", "10000"))  # `make soak` has more
SEED = int(os.environ.get("SEED", "1"))
_PROCESSES = 2
_RECORDING = 2_500  # cuts of one recorded run: each run is another

NEVER_SYNCS = {"kind": "never_syncs"}


def cut(log: Path, count: int, seed: int) -> disk.Found:
    """Lose power *count* times, in several processes."""
    each = count // _PROCESSES
    seeds = [seed * _PROCESSES + number for number in range(_PROCESSES)]
    with ProcessPoolExecutor(_PROCESSES, mp_context=get_context("spawn")) as pool:
        return sum(pool.map(disk.cut, [log] * _PROCESSES, [each] * _PROCESSES, seeds), disk.Found())


@pytest.mark.parametrize("run", range(-(-CUTS // _RECORDING)))
@pytest.mark.row("F01")
async def test_power_cut(run: int, in_memory: Path, disk_launcher: Launcher) -> None:
    """Whatever of what was not synced the disk has kept, the file is whole and has all that had been answered."""
    count = min(_RECORDING, CUTS - run * _RECORDING)
    log = await recorded(disk_launcher, in_memory)
    found = cut(log, count, SEED * 1_000 + run)

    assert (count, 0, 0, "") == found


async def test_normal_loses_the_last_moments(in_memory: Path, disk_launcher: Launcher) -> None:
    """With `synchronous = "normal"` the recorder finds losses, and whole files."""
    found = cut(await recorded(disk_launcher, in_memory, synchronous="normal"), 300, SEED)

    assert 0 < found.lost
    assert 0 == found.corrupt


async def test_recorder_has_teeth(in_memory: Path, disk_launcher: Launcher) -> None:
    """An engine that syncs nothing loses events and breaks its file, and the recorder says so."""
    found = cut(await recorded(disk_launcher, in_memory, NEVER_SYNCS), 300, SEED)

    assert 0 < found.lost
    assert 0 < found.corrupt


@pytest.mark.row("F02")
async def test_power_cut_in_the_first_start(in_memory: Path, disk_launcher: Launcher) -> None:
    """What a loss of power leaves of a first start, the next start takes: it works, with what had been answered."""
    lines = disk.read(await recorded(disk_launcher, in_memory))
    rng = Random(SEED)
    image = in_memory / "image"
    image.mkdir()
    answered = next(number for number, line in enumerate(lines) if line.kind == "m")
    before, done = disk.Disk(rng), 0
    for position in sorted(rng.randint(1, answered + 50) for _ in range(30)):
        for line in lines[done:position]:
            before.follow(line)
        done = position
        disk.lay(before.lose_power(rng), image)
        async with Engine(image / DATABASE, config=CONFIG) as engine:
            await engine.publish("order.created", {"n": 1}, id="after")

        assert disk.Found(1) == disk.look(image, [*before.marks, "event after"], where=f"line {position}")
