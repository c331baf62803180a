"""`hookengine init`: a configuration to edit, and a data directory."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import click

from hookengine.cli.api import DEFAULT_DATA, naming
from hookengine.cli.exits import CliError, Exit
from hookengine.cli.files import DATABASE, KEY
from hookengine.cli.output import printable, say, shell_word
from hookengine.cli.signals import heeding_signals
from hookengine.errors import AlreadyRunning

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

    config, data = folder / _CONFIG, folder / DEFAULT_DATA
    for path in (config, data / DATABASE):
        if os.path.lexists(path):
            _refuse(path)
    run_loop(_make(config, data))
    for line in greeting(config, data):
        say(line)


def greeting(config: Path, data: Path) -> list[str]:
    """What was made, and what comes next."""
    options = f"--config {shell_word(str(config))}{naming(data)}"
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


def _refuse(path: Path) -> NoReturn:
    raise CliError(f"{printable(str(path))} exists, and nothing was changed", Exit.CONFLICT)


async def _make(config: Path, data: Path) -> None:
    """Make *data*, then *config*; whatever ends it before takes away what it has made, so that it may be tried again."""
    import asyncio  # noqa: PLC0415  # with what is above

    with heeding_signals(asyncio.current_task()):
        absent, others, made = _absent(data), _content(data), list[Path]()
        try:
            if not await _start_once(data):
                others = _content(data)  # they belong to who was quicker
                _refuse(data / DATABASE)
            _write(config)
            made.append(config)
            await asyncio.sleep(0)  # a signal that came meanwhile ends it, too
        except AlreadyRunning:
            raise  # what is there belongs to who runs
        except BaseException:
            for path in (*made, *(_content(data) - others)):
                path.unlink()
            for path in absent:
                with suppress(OSError):  # it is not there, or holds what is not ours
                    path.rmdir()
            raise


def _absent(data: Path) -> list[Path]:
    """What is not there of *data* and the directories above it, the innermost first."""
    return [path for path in (data, *data.parents) if not os.path.lexists(path)]


def _content(data: Path) -> set[Path]:
    try:
        return set(data.iterdir())
    except OSError:
        return set()


async def _start_once(data: Path) -> bool:
    """What the first start of a daemon makes, by such a start; whether it was the first."""
    from hookengine.cli.config import load  # noqa: PLC0415  # with what is above
    from hookengine.cli.logs import make_logger  # noqa: PLC0415
    from hookengine.engine import Engine  # noqa: PLC0415

    config = load(None, environ={}, listen="127.0.0.1:0")
    engine = Engine.from_file(config, data=data, logger=make_logger("error", "console", sys.stderr, colors=False))
    try:
        await engine.start()
        is_new = engine.is_new
        await engine.stop(drain=0)
    finally:
        await engine.stop(drain=0)  # to the end, where a signal has cut it short
    return is_new


def _write(config: Path) -> None:
    from hookengine.config import example  # noqa: PLC0415  # with what is above

    try:
        # Private, since a proxy's password may come into it.
        with os.fdopen(os.open(config, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(example())
    except FileExistsError:
        _refuse(config)
    except OSError as error:
        with suppress(OSError):
            config.unlink()
        raise CliError(f"{printable(str(config))} cannot be made: {error.strerror}") from error
