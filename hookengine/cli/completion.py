"""`hookengine completion`: the script by which a shell completes our verbs and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command(epilog='\b\neval "$(hookengine completion bash)"    # in ~/.bashrc')
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell."""
    script = get_completion_class(shell)
    assert script is not None  # noqa: S101  # click has one for each of the three
    click.echo(script(context.find_root().command, {}, "hookengine", "_HOOKENGINE_COMPLETE").source())
