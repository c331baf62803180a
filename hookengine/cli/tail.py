"""`hookengine tail`: what happens, as it happens."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from hookengine.cli.api import Api, with_api
from hookengine.cli.exits import CliError, Exit
from hookengine.cli.output import cell, describe_attempt, printable, say, show_bytes, show_mark

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_GOOD = {"created", "updated", "enabled"}


@click.command()
@click.option("--types", metavar="TYPE,…", help="Only of events of these types: exact, order.*, or *.")
@click.option("--subscription", metavar="ID", help="Only of this subscription.")
@with_api
def tail(api: Api, **query: str | None) -> None:
    """
    Follow every attempt and change of state, until Ctrl-C.

    With --json, each is a line of JSON. Where the connection breaks it goes on from there, and says if something was missed;
    where there is no server any more it ends.
    """
    from hookengine.client import ServerNotReached  # noqa: PLC0415  # see `find_server`

    last: str | None = None
    while True:
        headers = {"Accept": "text/event-stream"} | ({} if last is None else {"Last-Event-ID": last})
        came = False
        try:
            for id_, data in events(api.client.stream("/v1/stream", query=query, headers=headers)):
                last, came = id_ or last, True
                if data is not None:
                    _show(api, data)
        except ServerNotReached:
            if not came:
                raise
        if not came:
            raise CliError(f"{api.client.url} sends nothing", Exit.NOT_REACHED)
        say("the stream has ended; trying to go on")


def events(lines: Iterable[bytes]) -> Iterator[tuple[str | None, bytes | None]]:
    """Id and data of each event in *lines* (HTML Living Standard, 9.2.6); a comment has no data."""
    id_: str | None = None
    data: list[bytes] = []
    for line in lines:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if not line:
            yield id_, b"\n".join(data) if data else None
            id_, data = None, []
        elif name == b"id":
            id_ = value.decode("ascii", "replace")
        elif name == b"data":
            data.append(value)


def _show(api: Api, data: bytes) -> None:
    if api.as_json:
        show_bytes(data)
        return
    try:
        item = json.loads(data)
        good, words = describe(item)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CliError(f"{api.client.url} does not answer as a hookengine does", Exit.NOT_REACHED) from error
    show_mark(good, words)


def describe(item: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether *item* of the stream is good news, and it in a line."""
    time = cell(item["at"])[11:19]
    if item["kind"] == "reset":
        return False, f"{time} what happened before this was missed"
    if item["kind"] == "subscription":
        change = item["subscription"]
        reason = change["disabled_reason"]
        words = f"{time} subscription {change['id']} {change['change']}" + (f": {reason}" if reason else "")
        return change["change"] in _GOOD and not reason, printable(words)
    delivery, attempt = item["delivery"], item.get("attempt")
    words = f"{time} {delivery['type']} {delivery['id']} → {delivery['subscription']}  "
    words += f"{describe_attempt(attempt)}, {delivery['state']}" if attempt else delivery["state"]
    return delivery["state"] in {"delivered", "pending"} and (not attempt or attempt["outcome"] == "accepted"), printable(
        words
    )
