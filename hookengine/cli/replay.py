"""`hookengine replay`: deliver an event, or what a subscription missed, again."""

from __future__ import annotations

import json
from typing import Any

import click

from hookengine.cli.api import Api, with_api
from hookengine.cli.arguments import in_time, key_header, words
from hookengine.cli.output import say, show_bytes, working

_OF_AN_EVENT = ("subscriptions", "tenant")
_OF_A_SUBSCRIPTION = ("states", "since", "until", "dry_run")
_LONGEST_COUNT = 300.0  # s: with millions of deliveries it takes a while

_EXAMPLES = """\b
hookengine replay evt_0192…
hookengine replay --subscription sub_0192… --since 6h --dry-run
"""


@click.command(epilog=_EXAMPLES)
@click.argument("event", metavar="[EVENT]", required=False)
@click.option("--to", "subscriptions", metavar="ID,…", callback=words, help="The event to these, not to all that match now.")
@click.option("--tenant", help="Whose event it is, where several tenants use the id.")
@click.option("--subscription", metavar="ID", help="In place of an event: what this subscription did not get.")
@click.option("--states", metavar="STATE,…", callback=words, help="What is failed, cancelled, delivered.  [default: failed]")
@click.option("--since", metavar="TIME|DURATION", help="Accepted then or later: 2030-01-31T12:00:00Z, or in the last 6h.")
@click.option("--until", metavar="TIME|DURATION", help="Accepted before.")
@click.option("--dry-run", is_flag=True, default=None, help="Count, and send nothing.")
@click.option("--idempotency-key", metavar="KEY", help="Asking for the same again with this key does nothing.")
@with_api
def replay(
    api: Api, event: str | None, *, subscription: str | None, idempotency_key: str | None, tenant: str | None, **members: Any
) -> None:
    """
    Deliver again: EVENT, or what a subscription did not get.

    The number of new deliveries is on stdout.
    """
    given = in_time({name: value for name, value in members.items() if value is not None})
    _check(event, subscription, given | ({} if tenant is None else {"tenant": tenant}))
    path = _path(api, event, subscription)
    with working("Counting"):
        answer = api.client.request(
            "POST",
            path,
            query={"tenant": tenant},
            body=json.dumps(given).encode(),
            headers=key_header(idempotency_key),
            timeout=_LONGEST_COUNT,
        )
    if api.as_json:
        show_bytes(answer.body)
        return
    member = "deliveries" if subscription is None else "count"
    click.echo(api.read(answer, member)[member])
    say("would be delivered again" if given.get("dry_run") else "to be delivered again")


def _path(api: Api, event: str | None, subscription: str | None) -> str:
    return (
        api.path("events", str(event), "replay") if subscription is None else api.path("subscriptions", subscription, "replay")
    )


def _check(event: str | None, subscription: str | None, given: dict[str, Any]) -> None:
    if (event is None) == (subscription is None):
        raise click.UsageError("name either an event or a --subscription")
    foreign = _OF_AN_EVENT if event is None else _OF_A_SUBSCRIPTION
    wrong = [{"subscriptions": "--to", "dry_run": "--dry-run"}.get(name, f"--{name}") for name in given if name in foreign]
    if wrong:
        raise click.UsageError(f"not for {'a subscription' if event is None else 'an event'}: {', '.join(wrong)}")
