"""
The command `hookengine`: verbs, grouped by the noun that they act on.

A verb imports what it needs when it runs, so that `--help` and completion are quick.
"""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import TYPE_CHECKING

import click

from hookengine import __version__
from hookengine.cli.arguments import require_text
from hookengine.cli.backup import backup
from hookengine.cli.bench import bench
from hookengine.cli.completion import completion
from hookengine.cli.config import check_config
from hookengine.cli.db import db
from hookengine.cli.delivery import delivery
from hookengine.cli.demo import demo
from hookengine.cli.doctor import doctor
from hookengine.cli.event import event
from hookengine.cli.event_type import event_type
from hookengine.cli.exits import Exit, report
from hookengine.cli.init import init
from hookengine.cli.listen import listen
from hookengine.cli.openapi import openapi
from hookengine.cli.output import plain, say
from hookengine.cli.replay import replay
from hookengine.cli.serve import serve
from hookengine.cli.signature import sign, verify
from hookengine.cli.subscription import subscription
from hookengine.cli.tail import tail
from hookengine.cli.tenant import tenant
from hookengine.cli.token import token
from hookengine.errors import HookEngineError

if TYPE_CHECKING:
    from collections.abc import Sequence

_NOT_WRITTEN = {errno.ENOSPC, errno.EIO, errno.EDQUOT}  # what a full disk or a broken one says to who prints


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.pass_context
def hookengine(context: click.Context) -> None:
    """Send webhooks that arrive: one process, one SQLite file."""
    if plain():
        context.color = False  # click itself does not know the variables


for _verb in (
    *(serve, demo, event, subscription, delivery, replay, tail),
    *(event_type, tenant, token, openapi, check_config),
    *(listen, verify, sign),
    *(init, doctor, backup, db, bench, completion),
):
    hookengine.add_command(_verb)
require_text(hookengine)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb with *argv*, by default the process's own, and return the exit status."""
    _open_what_is_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal without Unicode shows an escape in place of a tick; it does not break the verb.
            stream.reconfigure(errors="backslashreplace")
    try:
        # A verb returns its exit status, or nothing.
        return int(hookengine.main(args=argv, prog_name="hookengine", standalone_mode=False) or Exit.OK)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return Exit.INTERRUPTED
    except HookEngineError as error:
        return report(error)
    except OSError as error:
        if error.filename is not None or error.errno not in _NOT_WRITTEN:
            raise
        say(f"the output cannot be written: {error.strerror}")
        return Exit.FAILED


def _open_what_is_closed() -> None:
    """Let no file of ours get the descriptor of a standard stream that whoever started us has closed."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest number that is free
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115  # a descriptor, for as long as we live
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  # as above
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115  # as above
