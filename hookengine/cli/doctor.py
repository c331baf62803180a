"""`hookengine doctor`: whether the machine, the set-up and a subscription are as they should be."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

from hookengine.cli.api import data_option
from hookengine.cli.arguments import FILE
from hookengine.cli.exits import Exit
from hookengine.cli.output import printable, show_mark

if TYPE_CHECKING:
    from pathlib import Path

_EXAMPLES = """\b
hookengine doctor --config config.toml
hookengine doctor sub_…
"""


@click.command(epilog=_EXAMPLES)
@click.argument("subscription", required=False)
@click.option("--config", "file", type=FILE, help="The daemon's TOML file.")
@click.option("--dev", is_flag=True, help="The daemon runs with --dev.")
@click.option("--url", envvar="HOOKENGINE_URL", show_envvar=True, help="The server, in place of the local daemon.")
@click.option("--token", envvar="HOOKENGINE_TOKEN", show_envvar=True, help="A token for it.")
@click.option("--json", "as_json", is_flag=True, help="Show JSON.")
@data_option
def doctor(
    subscription: str | None, *, file: Path | None, dev: bool, url: str | None, token: str | None, as_json: bool, data: Path
) -> int:
    """
    Check this machine, the set-up and the daemon; and a subscription, if one is named.

    Nothing is changed, and nothing is sent but to the daemon. With --url the files of a daemon on this machine are left out.
    Exit 1 if something is wrong.
    """
    from hookengine.cli.examination import Asked, examine  # noqa: PLC0415  # it loads much

    found = []
    for check in examine(Asked(file, data, url, token, subscription, dev)):
        found.append(check)
        if not as_json:
            show_mark(check.ok, printable(f"{check.name}: {check.detail}"))
            if check.advice:
                click.echo(f"  {printable(check.advice)}")
    if as_json:
        click.echo(json.dumps([check._asdict() for check in found]))
    return Exit.OK if all(check.ok for check in found) else Exit.FAILED
