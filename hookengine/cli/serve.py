"""`hookengine serve`: the daemon."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import redirect_stderr
from typing import TYPE_CHECKING

import click

from hookengine import __version__
from hookengine.cli.api import data_option, naming
from hookengine.cli.arguments import FILE
from hookengine.cli.config import load
from hookengine.cli.exits import Exit, report
from hookengine.cli.files import DATABASE, TOKEN
from hookengine.cli.output import plain, say, shell_word
from hookengine.errors import HookEngineError, StartError

if TYPE_CHECKING:
    from pathlib import Path


@click.command()
@click.option("--config", "file", type=FILE, help="A TOML file; without it none is read.")
@data_option
@click.option("--listen", metavar="HOST:PORT", help="Where to serve the API.  [default: 127.0.0.1:8700]")
@click.option("--dev", is_flag=True, help="Allow receivers on http and on loopback.")
def serve(*, file: Path | None, data: Path, listen: str | None, dev: bool) -> int:
    """
    Run the daemon.

    SIGTERM or Ctrl-C stops it as soon as the attempts in flight have ended. A second signal does not wait for them: they
    are made again after the next start.
    """
    # Imported here, since all other verbs do without the engine.
    from hookengine.cli.daemon import run_daemon, run_loop  # noqa: PLC0415
    from hookengine.cli.logs import make_logger, never_waiting, relaying  # noqa: PLC0415
    from hookengine.engine import Engine  # noqa: PLC0415
    from hookengine.interpreter import tune  # noqa: PLC0415

    config = load(file, environ=os.environ, listen=listen, dev=dev)
    colors = sys.stderr.isatty() and not plain()

    def greet() -> None:
        say(greeting(str(engine.url), data, fresh=engine.is_new, dev=dev, pid=os.getpid()))

    with never_waiting(sys.stderr) as (stderr, outlet), redirect_stderr(stderr):
        logger = make_logger(config.log.level, config.log.format, stderr, colors=colors)
        if outlet is not None:
            outlet.on_dropped = lambda count: logger.warning("log_dropped", lines=count)
        try:
            engine = Engine.from_file(config, data=data, logger=logger)
            tune()
            with relaying(logger):
                run_loop(run_daemon(engine, data, greet))
        except StartError as error:
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.EADDRINUSE:
                return report(error)
            say(f"Error: {config.server.listen} is in use: give another with --listen, or 127.0.0.1:0 for any free port")
            return error.exit_status
        except HookEngineError as error:
            return report(error)
    return Exit.OK


def greeting(url: str, data: Path, *, fresh: bool, dev: bool, pid: int) -> str:
    """What the daemon says when it is ready: where it is, and lines to try."""
    option = naming(data)
    first = f"hookengine subscription add https://example.com/hook{option}"
    if dev:
        first = "hookengine listen 9000    (in another terminal: a receiver, which prints how to subscribe it)"
    token = shell_word(str(data / TOKEN))
    lines = [
        f"hookengine {__version__}  ·  data {data / DATABASE}{' (new)' if fresh else ''}  ·  pid {pid}",
        f"├─ API   {url}/v1",
        f"└─ Docs  {url}/docs",
        "Try it:",
        f"  {first}",
        f"""  hookengine event send order.created '{{"id": 1}}' --wait{option}""",
        f"""  curl -H "Authorization: Bearer $(cat {token})" {url}/v1/events""",
        *(["note: receivers on http and on loopback are allowed (--dev)"] if dev else []),
        "Ready. Ctrl-C drains and stops.",
    ]
    return "\n".join(lines)
