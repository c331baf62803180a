"""`hookengine event`: send events, and look at them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hookengine.cli.api import Api, page_options, text_of, with_api
from hookengine.cli.arguments import document, in_time, key_header, moment, past, piped_bytes, read_bytes, words
from hookengine.cli.exits import CliError, Exit
from hookengine.cli.following import follow
from hookengine.cli.output import printable, say, show_bytes, show_record, show_table
from hookengine.cli.signals import heeding_signals
from hookengine.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Mapping


@click.group()
def event() -> None:
    """Send events, and look at them."""


_EXAMPLES = """\b
hookengine event send order.created '{"id": 1}'
hookengine event send order.created @order.json --tenant acme --wait
jq .order today.json | hookengine event send order.created
"""


@event.command(epilog=_EXAMPLES)
@click.argument("type_", metavar="TYPE")
@click.argument("data_", metavar="[JSON|@FILE|-]", required=False)
@click.option("--tenant", help="Whose event it is.")
@click.option("--id", help="Its id, so that sending it again does nothing.")
@click.option("--priority", type=click.Choice(["high", "normal", "low"]), help="Its place among a subscription's deliveries.")
@click.option("--ordering-key", metavar="KEY", help="In a fifo subscription it waits for those with the same key.")
@click.option("--to", "subscriptions", metavar="ID,…", callback=words, help="To these, not to all that match.")
@click.option(
    "--at", "--deliver-at", "deliver_at", metavar="TIME|DURATION", help="Deliver it then: 2030-01-31T12:00:00Z, or in 10m."
)
@click.option("--expires-at", metavar="TIME|DURATION", help="Give up what is not delivered by then, or in 1h.")
@click.option("--occurred-at", metavar="TIME|DURATION", help="When it happened, or how long ago: 5m.")
@click.option("--idempotency-key", metavar="KEY", help="Sending the same again with this key does nothing.")
@click.option("--wait", is_flag=True, help="Follow its deliveries to the end; exit 1 unless each was delivered.")
@with_api
def send(api: Api, type_: str, data_: str | None, *, idempotency_key: str | None, wait: bool, **members: Any) -> int | None:
    """
    Send an event of TYPE, whose data is the given JSON, a file's or standard input's.

    Where none is given it is what is piped in, else {}.
    """
    headers = key_header(idempotency_key)
    now = Clock().now()
    for name in ("deliver_at", "expires_at"):
        members[name] = None if members[name] is None else moment(members[name], now=now)
    members["occurred_at"] = past(members["occurred_at"], now=now)
    answer = api.client.request(
        "POST",
        "/v1/events",
        body=document({"type": type_, **members}, "data", piped_bytes() or b"{}" if data_ is None else read_bytes(data_)),
        headers=headers,
    )
    accepted = api.read(answer, "id", "tenant", "deliveries")
    if not api.as_json:
        click.echo(printable(accepted["id"]))
        say(f"accepted, {_count(accepted['deliveries'])}")
    elif not wait:
        show_bytes(answer.body)
    if not wait:
        return None
    shown = answer  # what is known of it, whatever comes in between
    with heeding_signals():
        try:
            delivered = accepted["deliveries"] == 0 or _followed(api, accepted)
            shown = api.get(api.path("events", accepted["id"]), tenant=accepted["tenant"]) if api.as_json else answer
        finally:
            if api.as_json:
                show_bytes(shown.body)
    return Exit.OK if delivered else Exit.FAILED


def _followed(api: Api, accepted: Mapping[str, Any]) -> bool:
    from hookengine.client import ApiError  # noqa: PLC0415  # see `find_server`

    try:
        return follow(api, accepted["id"], accepted["tenant"])
    except ApiError as error:
        if error.status != 403:  # of HTTP
            raise
        words = f"{accepted['id']} is accepted, but to follow it takes a token with events:read"
        raise CliError(words, Exit.NOT_ALLOWED) from None


def _exact(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and "*" in value:
        raise click.BadParameter("a whole type is meant: no event's type has a * in it")
    return value


@event.command("list")
@click.option("--type", metavar="TYPE", callback=_exact, help="Only of exactly this type.")
@click.option("--tenant", help="Only this tenant's.")
@click.option("--since", metavar="TIME|DURATION", help="Accepted then or later: 2030-01-31T12:00:00Z, or in the last 6h.")
@click.option("--until", metavar="TIME|DURATION", help="Accepted before.")
@page_options
@with_api
def list_events(api: Api, **query: str | int | None) -> None:
    """List events, newest first."""
    api.show_list(api.get("/v1/events", **in_time(query)), ("id", "type", "tenant", "accepted_at", "deliveries"))


@event.command()
@click.argument("id_", metavar="ID")
@click.option("--tenant", help="Whose event it is, where several tenants use the id.")
@with_api
def show(api: Api, id_: str, *, tenant: str | None) -> None:
    """Show an event, its data and its deliveries."""
    answer = api.get(api.path("events", id_), tenant=tenant)
    if api.as_json:
        show_bytes(answer.body)
        return
    found = api.read(answer, "data", "deliveries")
    deliveries = found.pop("deliveries")
    show_record(found | {"data": text_of(answer, "data")})
    show_table(("id", "subscription", "state"), deliveries)


@event.command()
@click.argument("id_", metavar="ID")
@click.option("--subscription", metavar="ID", help="Only for this subscription.")
@click.option("--tenant", help="Whose event it is, where several tenants use the id.")
@page_options
@with_api
def explain(api: Api, id_: str, **query: str | int | None) -> None:
    """Say for each subscription whether an event was delivered, and why."""
    answer = api.get(api.path("events", id_, "explain"), **query)
    if api.as_json:
        show_bytes(answer.body)
        return
    found = api.read(answer, "subscriptions", "next_cursor")
    show_table(("subscription", "delivered", "state", "reason"), found["subscriptions"])
    if cursor := found["next_cursor"]:
        say(f"There are more: --cursor {cursor}")


def _count(deliveries: int) -> str:
    match deliveries:
        case 0:
            return "but no subscription wants it"
        case 1:
            return "1 delivery"
        case _:
            return f"{deliveries} deliveries"
