"""`hookengine delivery`: look at deliveries, and act on one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from hookengine.cli.api import Api, page_options, with_api
from hookengine.cli.arguments import in_time
from hookengine.cli.output import cell, describe_attempt, say, show_bytes, show_record, show_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SHOWN = 400  # characters of a body: some lines


@click.group()
def delivery() -> None:
    """Look at deliveries, and act on one."""


@delivery.command("list")
@click.option("--subscription", metavar="ID", help="Only this subscription's.")
@click.option("--event", metavar="ID", help="Only this event's.")
@click.option("--tenant", help="Only this tenant's.")
@click.option(
    "--state",
    type=click.Choice(["pending", "delivered", "failed", "cancelled", "held"]),
    help="Only in this state.",
)
@click.option("--since", metavar="TIME|DURATION", help="Made then or later: 2030-01-31T12:00:00Z, or in the last 6h.")
@click.option("--until", metavar="TIME|DURATION", help="Made before.")
@page_options
@with_api
def list_deliveries(api: Api, **query: str | int | None) -> None:
    """List deliveries, newest first."""
    members = ("id", "state", "attempt_count", "next_attempt_at", "type", "event", "subscription")
    api.show_list(api.get("/v1/deliveries", **in_time(query)), members)


@delivery.command()
@click.argument("id_", metavar="ID")
@with_api
def show(api: Api, id_: str) -> None:
    """Show a delivery, its attempts, and how the bodies that were sent and answered begin; with --json all that is kept."""
    answer = api.get(api.path("deliveries", id_))
    if api.as_json:
        show_bytes(answer.body)
        return
    found = api.read(answer, "attempts")
    attempts = found.pop("attempts")
    show_record(found)
    show_table(("number", "at", "trigger", "outcome", "answer"), [_row(attempt) for attempt in attempts])
    if bodies := [body for attempt in attempts for body in _bodies(attempt)]:
        show_table(("number", "of", "body"), bodies)


@delivery.command()
@click.argument("id_", metavar="ID")
@with_api
def retry(api: Api, id_: str) -> None:
    """Make a delivery due now, with its whole schedule again."""
    _act(api, id_, "retry", "due now")


@delivery.command()
@click.argument("id_", metavar="ID")
@with_api
def cancel(api: Api, id_: str) -> None:
    """Cancel a delivery that is pending or held."""
    _act(api, id_, "cancel", "cancelled")


def _act(api: Api, id_: str, action: str, done: str) -> None:
    answer = api.send("POST", api.path("deliveries", id_, action))
    if api.as_json:
        show_bytes(answer.body)
    else:
        say(f"{cell(id_)} is {done}")


def _bodies(attempt: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for side in ("request", "response"):
        if body := (attempt.get(side) or {}).get("body"):
            shown = body if len(body) <= _SHOWN else f"{body[:_SHOWN]} …"
            yield {"number": attempt["number"], "of": side, "body": shown}


def _row(attempt: dict[str, Any]) -> dict[str, Any]:
    return attempt | {"answer": describe_attempt(attempt)}
