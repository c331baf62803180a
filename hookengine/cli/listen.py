"""`hookengine listen`: a local receiver that says whether each signature verifies, and why not."""

from __future__ import annotations

import os
from math import isnan
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from hookengine.cli.api import Api, data_option, find_server
from hookengine.cli.arguments import duration, secrets
from hookengine.cli.output import printable
from hookengine.errors import VerificationError
from hookengine.schemes import SCHEMES
from hookengine.signing import verify

if TYPE_CHECKING:
    from pathlib import Path


class Known(NamedTuple):
    """What a subscription says of the requests that it gets."""

    url: str
    profile: str
    secrets: list[str]


def _statuses(_context: click.Context, _parameter: click.Parameter, value: str | None) -> list[int] | None:
    if value is None:
        return None
    found = [int(text) if text.strip().isdecimal() else 0 for text in value.split(",")]
    if not all(200 <= status <= 599 for status in found):
        raise click.BadParameter("expected statuses from 200 to 599, with commas between: 500,500,200")
    return found


def _part(_context: click.Context, _parameter: click.Parameter, value: float) -> float:
    if isnan(value):  # which no range leaves out
        raise click.BadParameter("expected a number from 0 to 1")
    return value


def _url(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    from urllib.parse import urlsplit  # noqa: PLC0415  # few calls need it

    try:
        parts = urlsplit(value or "http://none")
        valid = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0 and not parts.fragment
    except ValueError:
        valid = False
    if not valid:
        raise click.BadParameter("expected a URL such as http://127.0.0.1:3000/hook")
    return value


_EXAMPLES = """\b
hookengine listen
hookengine listen 9000 --subscription sub_… --forward-to http://127.0.0.1:3000/hook
hookengine listen 9000 --status 500,500,200 --delay 2s
"""


@click.command(epilog=_EXAMPLES)
@click.argument("port", type=click.IntRange(0, 65535), default=9000)
@click.option(
    "--secret", "given", metavar="VALUE|@FILE|-", multiple=True, help="The signing secret; several while it rotates."
)
@click.option("--subscription", metavar="ID", help="Take secret, profile and URL from it, by way of the daemon.")
@click.option("--profile", type=click.Choice(tuple(SCHEMES)), help="Whose signature.  [default: standard]")
@click.option(
    "--status", "statuses", metavar="N,…", callback=_statuses, help="The answers, in turn; the last repeats.  [default: 200]"
)
@click.option("--delay", metavar="DURATION", callback=duration, help="Let every answer wait.")
@click.option(
    "--fail-rate",
    type=click.FloatRange(0, 1),
    default=0.0,
    callback=_part,
    metavar="P",
    help="Answer 500 to this part of the requests.",
)
@click.option("--forward-to", metavar="URL", callback=_url, help="Pass requests on, and the answers back.")
@click.option("--url", "public_url", metavar="URL", callback=_url, help="The URL that the sender knows, where it is another.")
@click.option("--json", "as_json", is_flag=True, help="Show a JSON object for each request.")
@data_option
def listen(
    port: int,
    *,
    given: tuple[str, ...],
    subscription: str | None,
    profile: str | None,
    statuses: list[int] | None,
    delay: int | None,
    fail_rate: float,
    forward_to: str | None,
    public_url: str | None,
    as_json: bool,
    data: Path,
) -> None:
    """
    Receive requests on this machine, and say whether each signature verifies, and why not.

    Without a secret it makes one, for the subscription whose command it prints. PORT is 9000; 0 is any free one. It runs
    until Ctrl-C.
    """
    # Imported here, since it loads the server.
    from hookengine.cli.daemon import run_loop  # noqa: PLC0415
    from hookengine.cli.listening import Plan, run  # noqa: PLC0415

    if forward_to is not None and statuses is not None:
        raise click.UsageError("--status and --forward-to: the answer is either yours or the other server's")
    if subscription is not None and given:
        raise click.UsageError("--secret and --subscription: the secret is either yours or the subscription's")
    known = None if subscription is None else look_up(subscription, data)
    if profile is None and known is not None and known.profile not in SCHEMES:
        raise click.UsageError(
            f"the profile {printable(known.profile)} is one of the daemon's configuration: "
            "name with --profile the one that it extends, if their signatures are the same"
        )
    plan = Plan(
        port=port,
        profile=profile or (known.profile if known else "standard"),
        secrets=known.secrets if known else secrets(given),
        # What was typed, for the command to be copied: a file's name and not what is in it.
        typed=next((text for text in given if text != "-"), None),
        statuses=statuses or [200],
        delay=(delay or 0) / 1000,
        fail_rate=fail_rate,
        forward_to=forward_to,
        public_url=public_url or (known.url if known else None),
        subscription=subscription,
        as_json=as_json,
        data=data,
    )
    _check_secrets(plan.secrets, plan.profile)
    run_loop(run(plan))


def _check_secrets(secrets: list[str], profile: str) -> None:
    try:
        verify(b"", {}, secrets, profile=profile, url="")
    except VerificationError as error:
        if secrets and error.reason == "invalid_secret":
            raise click.UsageError(f"--secret: {error.detail}") from error


def look_up(id: str, data: Path) -> Known:
    """What the server says of the subscription: its URL, profile and secrets."""
    client = find_server(os.environ.get("HOOKENGINE_URL"), os.environ.get("HOOKENGINE_TOKEN"), data)
    api = Api(client, as_json=False)
    found = api.read(api.get(api.path("subscriptions", id)), "url", "profile", "tenant")
    held = api.read(api.get(api.path("subscriptions", id, "secret")), "secret", "previous")
    if held["secret"] is None:
        held = _of_tenant(api, found["tenant"])
    known = [] if held["secret"] is None else [held["secret"], *(each["secret"] for each in held["previous"])]
    return Known(found["url"], found["profile"], known)


def _of_tenant(api: Api, tenant: str) -> dict[str, Any]:
    """The secret of a profile that has one for a whole tenant; none where it signs nothing."""
    from hookengine.client import ApiError  # noqa: PLC0415  # the standard library's HTTP takes half of the start-up time

    try:
        return api.read(api.get(api.path("tenants", tenant, "secret")), "secret", "previous")
    except ApiError as error:
        if error.status != 404:
            raise
        return {"secret": None, "previous": []}
