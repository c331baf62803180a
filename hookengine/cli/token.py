"""`hookengine token`: who may use the API."""

from __future__ import annotations

from typing import Any

import click

from hookengine.cli.api import Api, page_options, with_api, yes_option
from hookengine.cli.arguments import given, moment
from hookengine.cli.output import cell, say
from hookengine.clock import Clock

_SCOPES = ("events:read", "events:write", "subscriptions:read", "subscriptions:write", "admin")


@click.group()
def token() -> None:
    """Say who may use the API: a token for each user."""


_EXAMPLES = """\b
hookengine token create ann@example.com --expires-at 90d
hookengine token create shop --scope events:write --tenant acme
"""


@token.command(epilog=_EXAMPLES)
@click.argument("user", metavar="USER")
@click.option("--scope", "scopes", multiple=True, type=click.Choice(_SCOPES), help="What it opens.  [default: all but admin]")
@click.option("--tenant", help="Bind it to this tenant.")
@click.option("--expires-at", metavar="TIME|DURATION", help="Until then: 2030-01-31T12:00:00Z, or for 90d.")
@with_api
def create(api: Api, user: str, *, scopes: tuple[str, ...], tenant: str | None, expires_at: str | None) -> None:
    """Make a token for USER, and show it this once."""
    members: dict[str, Any] = {
        "user": user,
        "scopes": list(scopes) or None,
        "tenant": tenant,
        "expires_at": None if expires_at is None else moment(expires_at, now=Clock().now()),
    }
    api.show(api.send("POST", "/v1/tokens", given(members)))
    if not api.as_json:
        say("The token is shown this once: keep it like a password.")


@token.command("list")
@page_options
@with_api
def list_tokens(api: Api, **query: str | int | None) -> None:
    """List tokens, newest first; what they are is not known any more."""
    api.show_list(api.get("/v1/tokens", **query), ("user", "scopes", "tenant", "created_at", "expires_at", "last_used_at"))


@token.command()
@click.argument("user", metavar="USER")
@yes_option
@with_api
def delete(api: Api, user: str, *, yes: bool) -> int | None:
    """Delete USER's token: it opens nothing any more, and another one can be made."""
    user_ = cell(user)
    return api.delete(api.path("tokens", user), f"Delete the token of {user_}?", f"the token of {user_} is deleted", yes=yes)
