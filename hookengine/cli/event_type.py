"""`hookengine event-type`: the catalogue of what happens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from hookengine.cli.api import Api, page_options, text_of, with_api, yes_option
from hookengine.cli.arguments import document, read_bytes
from hookengine.cli.output import cell, show_bytes, show_record

if TYPE_CHECKING:
    from hookengine.client import Answer


@click.group("event-type")
def event_type() -> None:
    """Declare the types of events that there are."""


@event_type.command("list")
@page_options
@with_api
def list_event_types(api: Api, **query: str | int | None) -> None:
    """List event types, newest first."""
    api.show_list(api.get("/v1/event-types", **query), ("type", "deprecated", "description"))


@event_type.command()
@click.argument("type_", metavar="TYPE")
@with_api
def show(api: Api, type_: str) -> None:
    """Show an event type and its example."""
    _show(api, api.get(api.path("event-types", type_)))


_EXAMPLES = """\b
hookengine event-type set order.created --description 'An order was placed' --example '{"id": 1}'
hookengine event-type set order.paid --description 'Use order.settled' --deprecated
"""


@event_type.command("set", epilog=_EXAMPLES)
@click.argument("type_", metavar="TYPE")
@click.option("--description", required=True, help="What it means, for people.")
@click.option("--example", metavar="JSON|@FILE|-", default="null", help="What its data looks like.  [default: none]")
@click.option("--deprecated", is_flag=True, help="It should not be used any more.")
@with_api
def set_event_type(api: Api, type_: str, *, description: str, example: str, deprecated: bool) -> None:
    """Declare a type, or describe it anew: what is not given is not kept."""
    body = document({"description": description, "deprecated": deprecated}, "example", read_bytes(example))
    _show(api, api.client.request("PUT", api.path("event-types", type_), body=body))


@event_type.command()
@click.argument("type_", metavar="TYPE")
@yes_option
@with_api
def delete(api: Api, type_: str, *, yes: bool) -> int | None:
    """Declare a type no more; its events, and the subscriptions to it, stay."""
    shown = cell(type_)
    return api.delete(api.path("event-types", type_), f"Delete the type {shown}?", f"{shown} is declared no more", yes=yes)


def _show(api: Api, answer: Answer) -> None:
    if api.as_json:
        show_bytes(answer.body)
    else:
        show_record(api.read(answer, "example") | {"example": text_of(answer, "example")})
