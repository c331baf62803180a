"""`hookengine check-config`, and the configuration as flags change it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hookengine.config import Config


@click.command("check-config")
@click.argument("file", type=click.Path(path_type=Path), required=False)
def check_config(*, file: Path | None) -> None:
    """
    Check the configuration.

    Names every mistake in FILE and in the environment, or else every value in force and where it comes from.
    """


def load(
    file: Path | None, *, listen: str | None = None, dev: bool = False, environ: Mapping[str, str] = os.environ
) -> Config:
    raise NotImplementedError
