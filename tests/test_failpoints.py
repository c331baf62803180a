"""The places at which a test ends the process."""

from __future__ import annotations

import signal
import subprocess
import sys
import timeit

import pytest

from hookengine.failpoints import failpoint

# A process that arms a place and passes some, saying so each time.
PROGRAM = """
import sys
from hookengine.failpoints import arm, failpoint

if sys.argv[1]:
    arm(sys.argv[1], int(sys.argv[2]))
for name in sys.argv[3:]:
    failpoint(name)
    print(name, flush=True)
"""


@pytest.mark.parametrize(
    ("armed", "passage", "passed", "status"),
    [
        pytest.param("", 1, ["a", "b"], 0, id="none armed"),
        pytest.param("c", 1, ["a", "b"], 0, id="never reached"),
        pytest.param("b", 1, ["a"], -signal.SIGKILL, id="first passage"),
        pytest.param("a", 2, ["a", "b"], -signal.SIGKILL, id="second passage"),
    ],
)
def test_ends_at_the_passage(armed: str, passage: int, passed: list[str], status: int) -> None:
    """The process ends by SIGKILL at the named place and passage, and at no other."""
    command = [sys.executable, "-c", PROGRAM, armed, str(passage), "a", "b", *(["a"] if status else [])]

    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    assert (status, passed) == (ended.returncode, ended.stdout.split())


@pytest.mark.alone
def test_costs_nothing_when_off() -> None:
    """Passing a place takes less than a microsecond while none is armed, where a delivery takes some hundred."""
    assert min(timeit.repeat(lambda: failpoint("a"), number=1_000, repeat=20)) / 1_000 < 1e-6
