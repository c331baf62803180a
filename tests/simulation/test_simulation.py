"""Days of an engine's life in simulated time, drawn from seeds, and what must hold of each."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from mutants import MUTANTS
from story import Story
from verdicts import judge

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).parent
MEMORY = Path("/dev/shm")
SEEDS = int(os.environ.get("SEEDS", "500"))
AT_A_TIME = 10
ONE = os.environ.get("SEED")  # the only one to run, and to tell
MOST_FOR_A_MUTANT = 80  # seeds


def told(seed: int) -> Story:
    """The story of a seed, on a disk of its own that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="hookengine-simulation-", dir=MEMORY if MEMORY.is_dir() else None) as folder:
        story = Story(seed, Path(folder))
        try:
            story.tell()
        except BaseException as error:
            error.add_note(again(seed))
            raise
    return story


def again(seed: int) -> str:
    """How to run it once more."""
    return f"seed {seed}; once more, with all that happened: SEED={seed} pytest -s -k promised tests/simulation"


@pytest.mark.parametrize("first", [int(ONE)] if ONE else range(0, SEEDS, AT_A_TIME))
def test_what_is_promised_holds(first: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Over lives that end in every way nothing is lost, no limit is passed, and each delivery ends for a reason."""
    for seed in range(first, first + (1 if ONE else AT_A_TIME)):
        story = told(seed)
        if ONE:
            with capsys.disabled():
                print(story)  # noqa: T201  # what was asked for
        assert [] == judge(story), again(seed)


@pytest.mark.parametrize("seed", [10, 27, 55])
def test_a_seed_tells_the_same_story_again(seed: int) -> None:
    """The same seed gives the same requests at the same times, also in another process that hashes texts differently."""
    script = f"from test_simulation import told; print(told({seed}).digest())"
    path = os.pathsep.join(map(str, (HERE, HERE.parent, HERE.parent.parent)))
    environ = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": str(seed)}
    other = subprocess.run([sys.executable, "-c", script], env=environ, check=True, capture_output=True, text=True)

    assert {told(seed).digest(), told(seed).digest()} == {other.stdout.strip()}


@pytest.mark.parametrize("mutate", MUTANTS)
def test_a_broken_engine_is_found_out(mutate: Callable[[pytest.MonkeyPatch], None]) -> None:
    """The verdict finds what it is there to find."""
    with pytest.MonkeyPatch.context() as patch:
        mutate(patch)

        assert any(_is_bad(seed) for seed in range(MOST_FOR_A_MUTANT))


def _is_bad(seed: int) -> bool:
    return bool(judge(told(seed)))
