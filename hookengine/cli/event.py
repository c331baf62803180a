"""`hookengine event`: send events, and look at them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from hookengine.cli.api import Api, page_options, with_api
from hookengine.cli.arguments import key_header, read_bytes
from hookengine.cli.exits import Exit
from hookengine.cli.following import follow
from hookengine.cli.output import printable, say, show_bytes, show_record, show_table
from hookengine.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Mapping


@click.group()
def event() -> None:
    """Send events, and look at them."""


_EXAMPLES = """\b
hookengine event send order.created '{"id": 1}'
hookengine event send order.created @order.json --tenant acme --wait
"""


@event.command(epilog=_EXAMPLES)
@click.argument("type_", metavar="TYPE")
@click.argument("data_", metavar="[JSON|@FILE|-]", default="{}")
@click.option("--tenant", help="Whose event it is.")
@click.option("--id", help="Its id, so that sending it again does nothing.")
@click.option("--priority", type=click.Choice(["high", "normal", "low"]), help="Its place among a subscription's deliveries.")
@click.option("--at", metavar="TIME|DURATION", help="Deliver it then: 2030-01-31T12:00:00Z, or in 10m.")
@click.option("--idempotency-key", metavar="KEY", help="Sending the same again with this key does nothing.")
@click.option("--wait", is_flag=True, help="Follow its deliveries to the end; exit 1 unless each was delivered.")
@with_api
def send(
    api: Api, type_: str, data_: str, *, at: str | None, idempotency_key: str | None, wait: bool, **members: Any
) -> int | None:
    """Send an event of TYPE, whose data is the given JSON, a file's or standard input's."""
    headers = key_header(idempotency_key)
    members["deliver_at"] = None if at is None else deliver_at(at, now=Clock().now())
    answer = api.client.request(
        "POST",
        "/v1/events",
        body=event_body({"type": type_, **members}, read_bytes(data_)),
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
    delivered = accepted["deliveries"] == 0 or follow(api, accepted["id"], accepted["tenant"])
    if api.as_json:
        show_bytes(api.get(api.path("events", accepted["id"])).body)
    return Exit.OK if delivered else Exit.FAILED


@event.command("list")
@click.option("--type", metavar="TYPE", help="Only of this type.")
@click.option("--tenant", help="Only this tenant's.")
@click.option("--since", metavar="TIME", help="Accepted then or later.")
@click.option("--until", metavar="TIME", help="Accepted before.")
@page_options
@with_api
def list_events(api: Api, **query: str | int | None) -> None:
    """List events, newest first."""
    api.show_list(api.get("/v1/events", **query), ("id", "type", "tenant", "accepted_at", "deliveries"))


@event.command()
@click.argument("id_", metavar="ID")
@with_api
def show(api: Api, id_: str) -> None:
    """Show an event, its data and its deliveries."""
    answer = api.get(api.path("events", id_))
    if api.as_json:
        show_bytes(answer.body)
        return
    # Imported here, as only this verb needs it: it keeps the producer's digits, which `json` does not.
    from msgspec import Raw  # noqa: PLC0415
    from msgspec.json import decode  # noqa: PLC0415

    found = api.read(answer, "data", "deliveries")
    deliveries = found.pop("deliveries")
    data = bytes(decode(answer.body, type=dict[str, Raw])["data"]).decode()
    show_record(found | {"data": data})
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


def event_body(members: Mapping[str, Any], data: bytes) -> bytes:
    """The request that publishes *data*, which goes into it as it is; members that are None are left out."""
    _check_json(data)
    given = {name: value for name, value in members.items() if value is not None}
    return json.dumps(given).encode().removesuffix(b"}") + (b',"data":' if given else b'"data":') + data + b"}"


def deliver_at(text: str, *, now: int) -> str:
    """The time that *text* names: a duration counts from *now* (ms since the epoch); all else is for the server to read."""
    from hookengine.validation import format_time, parse_duration  # noqa: PLC0415  # it loads msgspec

    try:
        return format_time(now + parse_duration(text))
    except ValueError:
        return text


def _check_json(data: bytes) -> None:
    # Two values, or half of one, would become other members of the request. Numbers stay text: a long one is no mistake.
    try:
        json.loads(data.decode(), parse_int=str, parse_float=str, parse_constant=_refuse)
    except RecursionError as error:
        raise click.BadParameter("the data is nested too deeply", param_hint="JSON") from error
    except ValueError as error:
        raise click.BadParameter(f"the data is not JSON: {error}", param_hint="JSON") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON value")


def _count(deliveries: int) -> str:
    match deliveries:
        case 0:
            return "but no subscription wants it"
        case 1:
            return "1 delivery"
        case _:
            return f"{deliveries} deliveries"
