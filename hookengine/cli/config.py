"""`hookengine check-config`, and the configuration as flags change it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from hookengine.cli.arguments import FILE
from hookengine.cli.output import show_table

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from hookengine.config import Config


@click.command("check-config")
@click.argument("file", type=FILE, required=False)
@click.option("--config", "named", type=FILE, metavar="FILE", help="The same FILE, as `serve` takes it.")
def check_config(*, file: Path | None, named: Path | None) -> None:
    """
    Check the configuration.

    Names every mistake in FILE and in the environment, or else every value in force and where it comes from.
    """
    # Imported here, since it loads all types of options.
    from hookengine.config import OPTIONS, sources, written  # noqa: PLC0415

    if None not in (file, named):
        raise click.UsageError("give the file once")
    file = file or named
    config = load(file, environ=os.environ)
    places = sources(file, environ=os.environ, flags={})
    show_table(
        ("option", "value", "source"),
        [
            {
                "option": option.name,
                "value": "" if (value := getattr(getattr(config, option.section), option.key)) is None else written(value),
                "source": places[option.name],
            }
            for option in OPTIONS
        ],
    )


def load(file: Path | None, *, environ: Mapping[str, str], listen: str | None = None, dev: bool = False) -> Config:
    """The configuration of *file* and *environ*, as the flags of `serve` change it; raises ConfigInvalid."""
    from hookengine.config import Config, for_development  # noqa: PLC0415  # see above

    config = Config.load(file, environ=environ, flags={"server.listen": listen})
    return for_development(config) if dev else config
