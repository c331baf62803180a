"""`hookengine openapi`: what the API is, for programs that read OpenAPI."""

from __future__ import annotations

import click

from hookengine.cli.output import show_bytes


@click.command()
def openapi() -> None:
    """Print the document of the HTTP API (OpenAPI 3.1); no server is asked."""
    # Imported here, since it loads the server.
    from hookengine.server.routes import document  # noqa: PLC0415

    show_bytes(document().content)
