"""Running a verb in this process."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from hookengine.cli import main

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

ROOT = Path(__file__).parent.parent


class Ended(NamedTuple):
    """How a verb ended, and what it said."""

    status: int
    out: str
    err: str


class Terminal(io.StringIO):
    """A text stream that is a terminal."""

    def isatty(self) -> bool:
        """It is."""
        return True


def alone(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Verbs run in *folder*, without variables of ours; children find the package without an installation."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in [name for name in os.environ if name.startswith("HOOKENGINE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(folder)


def runner(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """What runs a verb, and returns how it ended."""

    def run(*argv: str) -> Ended:
        status = main(argv)
        return Ended(status, *capsys.readouterr())

    return run


def typed(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Put *content* on standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
