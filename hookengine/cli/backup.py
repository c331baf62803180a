"""`hookengine backup`: a copy of the database, while the daemon runs or not."""

from __future__ import annotations

import json
from pathlib import Path

import click

from hookengine.cli.api import data_option
from hookengine.cli.exits import CliError, Exit
from hookengine.cli.files import KEY, database, size
from hookengine.cli.output import printable, say
from hookengine.cli.progress import progress
from hookengine.cli.signals import heeding_signals

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
        with heeding_signals(), progress("copying") as advance:
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
