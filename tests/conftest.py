"""Fixtures that several test files share."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from engines import Journal, running
from verbs import runner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from launcher import Launcher
    from verbs import Ended

    from hookengine.engine import Engine


@pytest.fixture(scope="session")
def find_program() -> Callable[[str], str]:
    """
    The path of a program that a test drives, such as nginx or node.

    Where it is missing the test is skipped; with HOOKENGINE_REQUIRE_TOOLS set, as in CI, it fails.
    """

    def find(name: str) -> str:
        path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")  # where nginx often is
        if path is not None:
            return path
        if os.environ.get("HOOKENGINE_REQUIRE_TOOLS"):
            pytest.fail(f"{name} is not installed, and HOOKENGINE_REQUIRE_TOOLS is set")
        pytest.skip(f"{name} is not installed")

    return find


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    """Starts daemons in a tenth of the time."""
    from launcher import Launcher  # noqa: PLC0415  # of the folder acceptance, whose tests alone use it

    with Launcher() as launching:
        yield launching


@pytest.fixture
def journal() -> Journal:
    """What the engine of the test logs."""
    return Journal()


@pytest.fixture
async def running_engine(tmp_path: Path, journal: Journal) -> AsyncIterator[Engine]:
    """An engine at work."""
    async with running(tmp_path, journal) as made:
        yield made


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs a verb in this process."""
    return runner(capsys)


def pytest_configure(config: pytest.Config) -> None:
    """Declare our marks."""
    config.addinivalue_line("markers", "alone: it measures how long or how much, so that no other test must run beside it")
    config.addinivalue_line("markers", "row(id, ...): the rows of tests/matrix.toml that the test is; they become its ids")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test that is marked as a row that row's id, where no case of a table has it."""
    rows = [id_ for mark in metafunc.definition.iter_markers("row") for id_ in mark.args]
    if rows:
        metafunc.fixturenames.append("_row")
        metafunc.parametrize("_row", [None], ids=["+".join(rows)])


@pytest.fixture(scope="session")
def disk_launcher(find_program: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launcher]:
    """Starts processes whose disk is recorded, and can be made to fail; needs a C compiler."""
    from disk import build  # noqa: PLC0415  # as above
    from launcher import Launcher  # noqa: PLC0415

    with Launcher(build(find_program("cc"), tmp_path_factory.mktemp("disk"))) as launching:
        yield launching


@pytest.fixture
def in_memory() -> Iterator[Path]:
    """A folder in memory, where the system has one: what is recorded of a sync is the same."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as made:
        yield Path(made)
