"""`hookengine event-type`: the catalogue of what happens."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

import click

from hookengine.cli.api import Api, page_options, text_of, with_api, yes_option
from hookengine.cli.arguments import document, read_bytes
from hookengine.cli.exits import Exit, report
from hookengine.cli.output import cell, say, show_bytes, show_record, show_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hookengine.client import Answer

_COLUMNS = ("type", "deprecated", "description")


@click.group("event-type")
def event_type() -> None:
    """Declare the types of events that there are."""


@event_type.command("list")
@page_options
@with_api
def list_event_types(api: Api, **query: str | int | None) -> None:
    """List event types, newest first."""
    api.show_list(api.get("/v1/event-types", **query), _COLUMNS)


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


@event_type.command(
    "import",
    epilog="""\b
{"order.created": {"description": "An order was placed", "example": {"id": 1}},
 "order.paid": {"description": "Use order.settled", "deprecated": true}}
""",
)
@click.argument("file", type=click.File("rb"))
@with_api
def import_event_types(api: Api, file: IO[bytes]) -> int | None:
    """
    Declare the types of FILE, a JSON object; `-` is standard input.

    Each is declared or described anew, as by `set`; one that is not in FILE stays as it is. Where the server refuses some,
    each of these is named with its mistakes, and the others are declared.
    """
    from hookengine.client import ApiError  # noqa: PLC0415  # see `find_server`

    declared: list[dict[str, Any]] = []
    refused = 0
    for type_, definition in _catalogue(file.read()).items():
        try:
            answer = api.client.request("PUT", api.path("event-types", type_), body=definition)
        except ApiError as error:
            say(f"{cell(type_)} is not declared:")
            report(error)
            refused += 1
            continue
        declared.append(api.read(answer, *_COLUMNS))
        if api.as_json:
            show_bytes(answer.body)
    if not api.as_json:
        show_table(_COLUMNS, declared)
    return Exit.FAILED if refused else None


def _catalogue(text: bytes) -> Mapping[str, bytes]:
    """The JSON text of each type's definition."""
    from msgspec import DecodeError, Raw  # noqa: PLC0415  # few verbs need it
    from msgspec.json import decode  # noqa: PLC0415

    try:
        return {type_: bytes(definition) for type_, definition in decode(text, type=dict[str, Raw]).items()}
    except (DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"it is no JSON object of event types: {error}", param_hint="FILE") from error


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
