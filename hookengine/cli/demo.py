"""`hookengine demo`: a daemon, receivers that verify, and deliveries to watch."""

from __future__ import annotations

import click

from hookengine.cli.exits import Exit


@click.command()
@click.option("--keep", is_flag=True, help="Stay open until Ctrl-C.")
def demo(*, keep: bool) -> int:
    """
    Show deliveries at work.

    A daemon sends sample events to receivers that verify each signature; one of them fails at first, is tried again and
    recovers. All of it lives on loopback and in a temporary directory. Exit 0 when every delivery arrived and verified.
    """
    # Imported here, since it loads the engine.
    from hookengine.cli.daemon import run_loop  # noqa: PLC0415
    from hookengine.cli.demonstration import demonstrate  # noqa: PLC0415

    return Exit.OK if run_loop(demonstrate(keep=keep)) else Exit.FAILED
