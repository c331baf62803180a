"""`hookengine tenant`: customers, the plans that limit them, and the secrets that sign for them."""

from __future__ import annotations

import click

from hookengine.cli.api import Api, page_options, with_api, yes_option
from hookengine.cli.arguments import given, secret_text
from hookengine.cli.output import cell


@click.group()
def tenant() -> None:
    """Put tenants on plans, and keep their signing secrets. A tenant need not be declared."""


@tenant.command("list")
@page_options
@with_api
def list_tenants(api: Api, **query: str | int | None) -> None:
    """List the tenants that are declared, newest first."""
    api.show_list(api.get("/v1/tenants", **query), ("tenant", "plan", "subscriptions", "max_subscriptions"))


@tenant.command()
@click.argument("name", metavar="TENANT")
@with_api
def show(api: Api, name: str) -> None:
    """Show a tenant."""
    api.show(api.get(api.path("tenants", name)))


@tenant.command("set")
@click.argument("name", metavar="TENANT")
@click.option("--plan", help="A plan of the configuration.  [default: none, and no limit]")
@with_api
def set_tenant(api: Api, name: str, *, plan: str | None) -> None:
    """Declare a tenant, and put it on a plan or, without --plan, on none."""
    api.show(api.send("PUT", api.path("tenants", name), given({"plan": plan})))


@tenant.command()
@click.argument("name", metavar="TENANT")
@yes_option
@with_api
def delete(api: Api, name: str, *, yes: bool) -> int | None:
    """Forget a tenant's plan and signing secret; its subscriptions and tokens stay."""
    question = f"Forget the plan and the signing secret of {cell(name)}?"
    return api.delete(api.path("tenants", name), question, f"{cell(name)} is forgotten", yes=yes)


@tenant.group()
def secret() -> None:
    """Keep the secret with which a tenant's deliveries are signed, where the profile uses one."""


@secret.command("show")
@click.argument("name", metavar="TENANT")
@with_api
def show_secret(api: Api, name: str) -> None:
    """Show the secret that receivers verify with."""
    api.show(api.get(api.path("tenants", name, "secret")))


@secret.command("set")
@click.argument("name", metavar="TENANT")
@click.option("--secret", metavar="VALUE|@FILE|-", callback=secret_text, help="The new secret, in place of a made one.")
@click.option("--overlap", metavar="DURATION", help="How long the old one stays valid.  [default: 24h]")
@with_api
def set_secret(api: Api, name: str, *, secret: str | None, overlap: str | None) -> None:
    """Sign with a new secret from now on."""
    api.show(api.send("PUT", api.path("tenants", name, "secret"), given({"secret": secret, "overlap": overlap})))


@secret.command("delete")
@click.argument("name", metavar="TENANT")
@yes_option
@with_api
def delete_secret(api: Api, name: str, *, yes: bool) -> int | None:
    """Delete a tenant's secret: its deliveries are signed no more."""
    question = f"Delete the secret of {cell(name)}, whose deliveries then go out unsigned?"
    return api.delete(api.path("tenants", name, "secret"), question, f"the secret of {cell(name)} is deleted", yes=yes)
