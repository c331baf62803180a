"""`hookengine init`: a configuration to edit, and a data directory."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import click

from hookengine.cli.api import DEFAULT_DATA, naming
from hookengine.cli.exits import CliError, Exit
from hookengine.cli.files import DATABASE, KEY
from hookengine.cli.output import printable, say

_CONFIG = "config.toml"


@click.command()
@click.argument("folder", metavar="[DIR]", type=click.Path(file_okay=False, path_type=Path), default=Path())
def init(folder: Path) -> None:
    """
    Write a commented config.toml into DIR, and make the data directory beside it, with its key and token.

    DIR is the present directory by default. Nothing that exists is changed.
    """
    # Imported here, since it loads the engine.
    from hookengine.cli.daemon import run_loop  # noqa: PLC0415
    from hookengine.config import example  # noqa: PLC0415

    config, data = folder / _CONFIG, folder / DEFAULT_DATA
    for path in (config, data / DATABASE):
        if os.path.lexists(path):
            raise CliError(f"{printable(str(path))} exists, and nothing was changed", Exit.CONFLICT)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Private, since a proxy's password may come into it.
        with os.fdopen(os.open(config, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(example())
    except OSError as error:
        raise CliError(f"{printable(str(config))} cannot be made: {error.strerror}") from error
    try:
        run_loop(_make(data))
    except BaseException:
        config.unlink()  # so that it may be tried again
        raise
    for line in greeting(config, data):
        say(line)


def greeting(config: Path, data: Path) -> list[str]:
    """What was made, and what comes next."""
    options = f"--config {shlex.quote(str(config))}{naming(data)}"
    key = "Keep a copy of secret.key in a safe place: without it the database cannot be used."
    return [
        f"{printable(str(config))}: every option with its default, to be edited",
        f"{printable(str(data))}: the database, the key to the secrets in it, and admin.token, which opens the API",
        "Next:",
        f"  hookengine serve {options}",
        f"  hookengine doctor {options}",
        # It may be in the environment.
        *([key] if (data / KEY).exists() else []),
    ]


async def _make(data: Path) -> None:
    """What the first start of a daemon makes, by such a start."""
    from hookengine.cli.config import load  # noqa: PLC0415  # with what is above
    from hookengine.cli.logs import make_logger  # noqa: PLC0415
    from hookengine.engine import Engine  # noqa: PLC0415

    config = load(None, environ={}, listen="127.0.0.1:0")
    engine = Engine.from_file(config, data=data, logger=make_logger("error", "console", sys.stderr, colors=False))
    await engine.start()
    await engine.stop(drain=0)
