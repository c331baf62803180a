"""`hookengine db`: look into the database, check it, and make it smaller."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import click

from hookengine.cli.api import data_option, yes_option
from hookengine.cli.arguments import FILE, duration
from hookengine.cli.config import load
from hookengine.cli.exits import Exit
from hookengine.cli.files import database, size
from hookengine.cli.output import printable, say, show_mark, show_record, show_table
from hookengine.cli.progress import progress
from hookengine.times import format_duration, format_time

if TYPE_CHECKING:
    from pathlib import Path

_KEY = "HOOKENGINE_ENCRYPTION_KEY"


@click.group()
def db() -> None:
    """Look into the database, check it, and make it smaller."""


@db.command()
@click.option("--json", "as_json", is_flag=True, help="Show JSON.")
@data_option
def info(*, as_json: bool, data: Path) -> None:
    """Show what is in the database, while the daemon runs or not."""
    # Imported here, since it loads the store.
    from msgspec.structs import asdict  # noqa: PLC0415

    from hookengine.store.inspection import summary  # noqa: PLC0415

    path = database(data)
    found = summary(path)
    times = {
        name: None if (moment := getattr(found, name)) is None else format_time(moment)
        for name in ("oldest_pending", "newest")
    }
    record = {"path": str(path)} | asdict(found) | {"oldest_pending": times["oldest_pending"], "newest_event": times["newest"]}
    del record["newest"]
    if as_json:
        click.echo(json.dumps(record))
        return
    counts = {name: record.pop(name) for name in ("rows", "deliveries", "subscriptions")}
    show_record(record | {name: size(record[name]) for name in ("size", "wal_size", "free")})
    show_table(
        ("what", "state", "count"),
        [
            *({"what": name, "state": "", "count": count} for name, count in counts["rows"].items()),
            *(
                {"what": name, "state": state, "count": count}
                for name in ("deliveries", "subscriptions")
                for state, count in counts[name].items()
            ),
        ],
    )


@db.command()
@click.option("--json", "as_json", is_flag=True, help="Show JSON.")
@data_option
def check(*, as_json: bool, data: Path) -> int:
    """
    Check that the database is whole and that the key opens it, while the daemon runs or not.

    Exit 1 if something is wrong.
    """
    # Imported here, since it loads the store.
    from msgspec.structs import asdict  # noqa: PLC0415

    from hookengine.store.inspection import examine  # noqa: PLC0415

    path = database(data)
    with progress("checking") as advance:
        findings = examine(path, encryption_key=os.environ.get(_KEY), tick=lambda: advance(0, 0))
    if as_json:
        click.echo(json.dumps([asdict(each) for each in findings]))
    else:
        for each in findings:
            show_mark(not each.problems, f"{each.check} {each.note}".rstrip())
            for problem in each.problems:
                click.echo(f"  {printable(problem)}")
    return Exit.FAILED if any(each.problems for each in findings) else Exit.OK


@db.command()
@click.option(
    "--older-than", metavar="DURATION", callback=duration, help="Finished longer ago than that.  [default: store.retention]"
)
@click.option("--config", "file", type=FILE, help="The daemon's TOML file, for its retention: without it you are asked.")
@yes_option
@click.option("--json", "as_json", is_flag=True, help="Show JSON.")
@data_option
def prune(*, older_than: int | None, file: Path | None, yes: bool, as_json: bool, data: Path) -> int | None:
    """
    Delete finished history and give its space back, while no daemon runs.

    A daemon does it by itself, but leaves free space in the file for what comes. What is not finished stays.
    """
    # Imported here, since it loads the store.
    from hookengine.cli.daemon import run_loop  # noqa: PLC0415
    from hookengine.clock import Clock  # noqa: PLC0415
    from hookengine.store import pruning  # noqa: PLC0415

    retention = load(file, environ=os.environ).store.retention if older_than is None else older_than
    path, clock = database(data), Clock()
    is_guess = older_than is None and file is None and _is_default("store.retention")
    if not yes and (is_guess or (older_than is not None and sys.stdin.isatty())):
        count = pruning.finished(path, clock.now() - retention)
        what = f"{count} deliveries that ended more than {format_duration(retention)} ago"
        if is_guess:
            what += ", which is the default of store.retention: --config names the daemon's file"
        if not sys.stdin.isatty():
            raise click.UsageError(f"--yes is needed to delete {what}")
        if not click.confirm(f"Delete {what}?", err=True):
            return Exit.FAILED
    with progress("pruning") as advance:
        done = run_loop(
            pruning.prune(path, retention=retention, clock=clock, encryption_key=os.environ.get(_KEY), progress=advance)
        )
    if as_json:
        click.echo(json.dumps({"deliveries": done.deliveries, "events": done.events, "freed": done.freed}))
    else:
        say(f"{done.deliveries} deliveries and {done.events} events are deleted; the file is {size(done.freed)} smaller.")
    return None


def _is_default(option: str) -> bool:
    """Whether nothing in the environment sets *option*."""
    from hookengine.config import sources  # noqa: PLC0415  # it loads all types of options

    return sources(None, environ=os.environ, flags={})[option] == "default"
