"""`hookengine backup`: a copy of the database, while the daemon runs or not."""

from __future__ import annotations

import json
import signal
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hookengine.cli.api import data_option
from hookengine.cli.exits import CliError, Exit
from hookengine.cli.files import KEY, database, size
from hookengine.cli.output import printable, say
from hookengine.cli.progress import progress

if TYPE_CHECKING:
    from collections.abc import Iterator

_EXAMPLES = """\b
hookengine backup /backup/hooks-$(date +%F).db
"""


@click.command(epilog=_EXAMPLES)
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace OUT if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Show JSON.")
@data_option
def backup(out: Path, *, force: bool, as_json: bool, data: Path) -> None:
    """
    Copy the database to OUT, while the daemon runs or not.

    The copy is of one moment, and complete or not there at all. It holds no key: keep secret.key apart, and safe.
    """
    from hookengine.store.backup import TargetExists, copy  # noqa: PLC0415  # it loads the store

    source = database(data)
    try:
        with _heeding_signals(), progress("copying") as advance:
            copied = copy(source, out, replace=force, progress=advance)
    except TargetExists as error:
        again = "" if force or out.is_dir() else "; --force replaces a file"
        raise CliError(f"{printable(error.detail)}{again}", Exit.CONFLICT) from error
    if as_json:
        click.echo(json.dumps({"path": str(out), "size": copied}))
    else:
        say(f"{printable(str(out))} is made, {size(copied)}.")
    say(
        f"It does not hold the key. Without {printable(str(data / KEY))} (or HOOKENGINE_ENCRYPTION_KEY) it cannot be"
        " started: keep the key apart from the copy."
    )


@contextmanager
def _heeding_signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP end what is done meanwhile as Ctrl-C does, which tidies up; another does not disturb that."""
    is_main = threading.current_thread() is threading.main_thread()  # no other one may set how a signal is handled
    numbers = [
        number
        for number in (signal.SIGTERM, signal.SIGHUP)
        if is_main and signal.getsignal(number) is signal.SIG_DFL  # under nohup SIGHUP is ignored, and stays so
    ]

    def end(number: int, _: object) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise SystemExit(128 + number)  # as shells count

    for number in numbers:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
