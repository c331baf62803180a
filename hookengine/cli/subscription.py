"""`hookengine subscription`: who wants which events, where and how."""

from __future__ import annotations

import json
from functools import wraps
from typing import TYPE_CHECKING, Any

import click

from hookengine.cli.api import Api, page_options, with_api, yes_option
from hookengine.cli.arguments import document, given, in_time, json_value, pairs, read_bytes, read_text, secret_text, words
from hookengine.cli.exits import Exit
from hookengine.cli.output import cell, describe_attempt, say, show_bytes, show_mark, show_record, working
from hookengine.cli.remedies import ALLOWANCE, is_allowable

if TYPE_CHECKING:
    from collections.abc import Callable

    from hookengine.client import Answer

_LONGEST_TEST = 330.0  # s: the longest timeout of an attempt, and some more


@click.group()
def subscription() -> None:
    """Say who wants which events, where and how."""


def _headers(_context: click.Context, _parameter: click.Parameter, value: tuple[str, ...]) -> dict[str, str] | None:
    return {name: text.strip() for name, text in pairs(value, ":").items()} or None


def _metadata(_context: click.Context, _parameter: click.Parameter, value: tuple[str, ...]) -> dict[str, str] | None:
    return pairs(value, "=") or None


def _object(context: click.Context, parameter: click.Parameter, value: str | None) -> Any:
    if value is None:
        return None
    given = json_value(read_text(value))
    if given is None:  # which would be as if the option were not there
        takes_back = any(each.name == "unset" for each in context.command.params)
        back = f", or take back what is set with --unset {parameter.name}" if takes_back else ""
        raise click.BadParameter(f"null sets nothing: leave the option out{back}")
    return given


def _basic(_context: click.Context, _parameter: click.Parameter, value: str | None) -> dict[str, str] | None:
    if value is None:
        return None
    username, mark, password = read_text(value).partition(":")
    if not mark:
        raise click.BadParameter("expected USER:PASSWORD")
    return {"type": "basic", "username": username, "password": password}


def _auth(context: click.Context, parameter: click.Parameter, value: str | None) -> dict[str, Any] | None:
    given = _object(context, parameter, value)
    if given is not None and not isinstance(given, dict):
        raise click.BadParameter("expected a JSON object")
    return given


# Each is named as the API's member, so that what was given is the document to send.
_SETTINGS = (
    click.option(
        "--types", "event_types", metavar="TYPE,…", callback=words, help="Exact, order.*, or * (a new one's default)."
    ),
    click.option("--name", help="A name for people."),
    click.option("--profile", help="How the endpoint is spoken to.  [default of a new one: the server's]"),
    click.option("--header", "headers", metavar="'NAME: VALUE'", multiple=True, callback=_headers, help="A further header."),
    click.option("--basic", metavar="USER:PASSWORD|@FILE|-", callback=_basic, help="Basic authentication."),
    click.option("--auth", metavar="JSON|@FILE|-", callback=_auth, help="The API's auth: for OAuth 2.0."),
    click.option("--method", type=click.Choice(["POST", "PUT", "DELETE", "GET"]), help="In place of the profile's."),
    click.option("--timeout", metavar="DURATION", help="For one attempt: 15s."),
    click.option("--retry-schedule", metavar="DURATION,…", callback=words, help="Delays between attempts: 5s,5m."),
    click.option("--max-concurrency", type=int, help="Attempts at the same time."),
    click.option("--disable-after", "disable_after_failures", type=int, metavar="N", help="Disable after N failures running."),
    click.option("--while-disabled", type=click.Choice(["hold", "skip"]), help="Hold or skip events while it is disabled."),
    click.option("--rate-limit", metavar="N/s|m|h|d", help="Requests in a time, evenly paced: 10/s."),
    click.option("--ordering", type=click.Choice(["none", "fifo"]), help="fifo: in the order of acceptance, one at a time."),
    click.option("--batch", metavar="JSON|@FILE|-", callback=_object, help="Several events a request: the API's batch."),
    click.option("--target-id", type=int, metavar="N", help="clevertap's targetId."),
    click.option("--key-values", metavar="JSON|@FILE|-", callback=_object, help="clevertap's key_values."),
    click.option("--metadata", metavar="KEY=VALUE", multiple=True, callback=_metadata, help="A label of yours."),
)
_OPTIONAL = (
    "name",
    "headers",
    "auth",
    "method",
    "timeout",
    "retry_schedule",
    "disable_after_failures",
    "while_disabled",
    "max_concurrency",
    "rate_limit",
    "ordering",
    "batch",
    "target_id",
    "key_values",
    "metadata",
)


def _settings(verb: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(verb)
    def settled(*args: Any, basic: dict[str, str] | None, auth: dict[str, Any] | None, **members: Any) -> Any:
        if basic is not None and auth is not None:
            raise click.UsageError("give either --basic or --auth")
        return verb(*args, auth=basic or auth, **members)

    for option in reversed(_SETTINGS):
        settled = option(settled)
    return settled


def _save(api: Api, method: str, path: str, document: dict[str, Any]) -> Answer:
    """Send what is to be saved; where the daemon of this machine refuses the URL, with what would let it pass."""
    from hookengine.client import ApiError  # noqa: PLC0415  # see `find_server`

    try:
        with working("Waiting for the endpoint"):
            return api.send(method, path, document, timeout=_LONGEST_TEST)
    except ApiError as error:
        refused = any((mistake.pointer, mistake.code) == ("/url", "invalid_url") for mistake in error.mistakes)
        if refused and api.is_local and is_allowable(document.get("url", "")):
            error.add_note(ALLOWANCE)
        raise


_EXAMPLES = """\b
hookengine subscription add https://example.com/hook --types 'order.*'
hookengine subscription add https://example.com/hook --tenant acme --retry-schedule 5s,5m,1h
"""


@subscription.command(epilog=_EXAMPLES)
@click.argument("endpoint", metavar="URL")
@click.option("--tenant", help="Whose events it gets.")
@click.option("--secret", metavar="VALUE|@FILE|-", callback=secret_text, help="The signing secret, in place of a new one.")
@_settings
@with_api
def add(api: Api, endpoint: str, **members: Any) -> None:
    """Subscribe URL, and show the secret that its receiver verifies with."""
    answer = _save(api, "POST", "/v1/subscriptions", {"url": endpoint} | given(members))
    api.show(answer)
    if not api.as_json and (made := api.read(answer, "id")).get("secret"):
        say(f"Its receiver verifies with the secret; `hookengine subscription secret {cell(made['id'])}` shows it again.")


@subscription.command("list")
@click.option("--tenant", help="Only this tenant's.")
@click.option("--state", type=click.Choice(["active", "disabled"]), help="Only in this state.")
@page_options
@with_api
def list_subscriptions(api: Api, **query: str | int | None) -> None:
    """List subscriptions, newest first."""
    members = ("id", "state", "tenant", "name", "url", "event_types", "profile", "consecutive_failures")
    api.show_list(api.get("/v1/subscriptions", **query), members)


@subscription.command()
@click.argument("id_", metavar="ID")
@with_api
def show(api: Api, id_: str) -> None:
    """Show a subscription."""
    api.show(api.get(api.path("subscriptions", id_)))


@subscription.command()
@click.argument("id_", metavar="ID")
@click.option("--endpoint", "new_url", metavar="URL", help="Send to this URL from now on.")
@_settings
@click.option(
    "--unset", metavar="SETTING", multiple=True, type=click.Choice(_OPTIONAL), help="Back to the default: headers, timeout, …"
)
@with_api
def edit(api: Api, id_: str, *, new_url: str | None, unset: tuple[str, ...], **members: Any) -> None:
    """
    Change what is given, and nothing else.

    Another URL for the endpoint is given with --endpoint: --url is that of the server which is asked.
    """
    changes = given({"url": new_url, **members})
    if both := sorted(changes.keys() & set(unset)):
        raise click.UsageError(f"set and unset at once: {', '.join(both)}")
    patch = changes | dict.fromkeys(unset)
    if not patch:
        raise click.UsageError("nothing to change: name at least one option (--endpoint for the URL; --url is the server's)")
    api.show(_save(api, "PATCH", api.path("subscriptions", id_), patch))


@subscription.command()
@click.argument("id_", metavar="ID")
@with_api
def enable(api: Api, id_: str) -> None:
    """Enable a subscription, reset its failure counters and send what was held."""
    api.show(api.send("POST", api.path("subscriptions", id_, "enable")))


@subscription.command()
@click.argument("id_", metavar="ID")
@with_api
def disable(api: Api, id_: str) -> None:
    """Disable a subscription."""
    api.show(api.send("POST", api.path("subscriptions", id_, "disable")))


@subscription.command()
@click.argument("id_", metavar="ID")
@yes_option
@with_api
def delete(api: Api, id_: str, *, yes: bool) -> int | None:
    """Delete a subscription and cancel its pending deliveries."""
    question = f"Delete {cell(id_)} and cancel its pending deliveries?"
    return api.delete(api.path("subscriptions", id_), question, f"{cell(id_)} is deleted", yes=yes)


@subscription.command()
@click.argument("id_", metavar="ID")
@with_api
def secret(api: Api, id_: str) -> None:
    """Show the secret that the receiver verifies with."""
    api.show(api.get(api.path("subscriptions", id_, "secret")))


@subscription.command()
@click.argument("id_", metavar="ID")
@click.option("--secret", metavar="VALUE|@FILE|-", callback=secret_text, help="The new secret, in place of a made one.")
@click.option("--overlap", metavar="DURATION", help="How long the old one signs too.  [default: 24h]")
@with_api
def rotate_secret(api: Api, id_: str, **members: Any) -> None:
    """Replace the secret; for a while the old one signs too."""
    api.show(api.send("POST", api.path("subscriptions", id_, "rotate-secret"), given(members)))


@subscription.command()
@click.argument("id_", metavar="ID")
@click.argument("data_", metavar="[JSON|@FILE|-]", required=False)
@click.option("--type", metavar="TYPE", help="The event's type.  [default: hookengine.test]")
@with_api
def test(api: Api, id_: str, *, data_: str | None, **members: Any) -> int | None:
    """Send a test event now, once, and show how the endpoint answered; exit 1 unless it accepted."""
    body = json.dumps(given(members)).encode() if data_ is None else document(members, "data", read_bytes(data_))
    with working("Waiting for the endpoint"):
        answer = api.client.request("POST", api.path("subscriptions", id_, "test"), body=body, timeout=_LONGEST_TEST)
    attempt = api.read(answer, "outcome", "duration_ms")
    accepted = attempt["outcome"] == "accepted"
    if api.as_json:
        show_bytes(answer.body)
    else:
        show_mark(accepted, describe_attempt(attempt))
        if content := (attempt.get("response") or {}).get("body"):
            click.echo(cell(content))
    return None if accepted else Exit.FAILED


@subscription.command()
@click.argument("id_", metavar="ID")
@click.option("--since", metavar="TIME|DURATION", help="Since then: 2030-01-31T12:00:00Z, or for the last 7d.  [default: 24h]")
@click.option("--until", metavar="TIME|DURATION", help="Before then.")
@with_api
def stats(api: Api, id_: str, *, since: str | None, until: str | None) -> None:
    """Show what became of a subscription's deliveries."""
    answer = api.get(api.path("subscriptions", id_, "stats"), **in_time({"since": since, "until": until}))
    if api.as_json:
        show_bytes(answer.body)
        return
    found = api.read(answer, "deliveries", "attempts", "latency_ms")
    deliveries, attempts, latency = (found.pop(name) for name in ("deliveries", "attempts", "latency_ms"))
    counts = {"attempts": attempts.pop("total", None)} | attempts
    show_record(found | deliveries | counts | {f"{name}_ms": value for name, value in latency.items()})
