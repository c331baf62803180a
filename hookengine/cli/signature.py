"""`hookengine verify` and `hookengine sign`: explain a signature, and make one."""

from __future__ import annotations

import json
import re
import shlex
import sys
from math import inf
from typing import TYPE_CHECKING, Any

import click

from hookengine.cli.arguments import duration, read_bytes, read_text, secrets
from hookengine.cli.exits import Exit
from hookengine.cli.output import printable, say, show_mark
from hookengine.cli.verdict import advice
from hookengine.clock import Clock
from hookengine.errors import VerificationError
from hookengine.schemes import SCHEMES
from hookengine.signing import sign as make_headers
from hookengine.signing import verify as check
from hookengine.signing_keys import check_secret

if TYPE_CHECKING:
    from collections.abc import Callable

Headers = list[tuple[str, str]]

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")  # as `inputs.EventId` has it
_FIELD_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # what no field value holds: RFC 9110, 5.5
_LAST_SECOND = 253_402_300_799  # of the year 9999
_LONGEST_LITERAL = 100_000  # bytes: Linux takes 128 KiB in one argument of a command


def _header(_context: click.Context, _parameter: click.Parameter, value: tuple[str, ...]) -> Headers:
    # Pairs, since a header that is there twice is a thing to find out.
    return [_pair(text) for text in value]


def _pair(line: str) -> tuple[str, str]:
    name, mark, value = (part.strip() for part in line.partition(":"))
    if not mark or not _FIELD_NAME.fullmatch(name) or _CONTROL.search(value):
        raise click.BadParameter("expected NAME: VALUE, as a request can have it")
    return name, value


def _event_id(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not _ID.fullmatch(value):
        raise click.BadParameter("expected 1 to 64 letters, digits, _ and -")
    return value


def _header_file(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Headers:
    """The headers in a file: a line each, or in JSON as the API shows those of an attempt."""
    if value is None:
        return []
    if value == "-":
        raise click.BadParameter("standard input is for the body: give a file (@FILE)")
    text = read_text(value)
    if not text.lstrip().startswith(("[", "{")):
        return [_pair(line) for line in text.splitlines() if line.strip()]
    try:
        document: Any = json.loads(text)
        return [(str(name), str(held)) for name, held in (document.items() if isinstance(document, dict) else document)]
    except (ValueError, TypeError, RecursionError):
        raise click.BadParameter("expected lines of NAME: VALUE, or a JSON object or array of pairs") from None


def _tolerance(context: click.Context, parameter: click.Parameter, value: str) -> float:
    ms = None if value == "none" else duration(context, parameter, value)
    return inf if ms is None else ms / 1000


_COMMON = (
    click.option(
        "--secret", "given", metavar="VALUE|@FILE|-", multiple=True, required=True, help="The secret; several rotate."
    ),
    click.option(
        "--profile", type=click.Choice(tuple(SCHEMES)), default="standard", show_default=True, help="Whose signature."
    ),
    click.option("--url", metavar="URL", help="As the subscription has it, where the profile signs the URL."),
    click.option("--method", default="POST", show_default=True, help="Of the request, where the profile signs it."),
    click.option("--header", "headers", metavar="'NAME: VALUE'", multiple=True, callback=_header, help="A header."),
    click.option("--json", "as_json", is_flag=True, help="Show JSON."),
    click.argument("body", metavar="[BODY|@FILE|-]", default="-"),
)


def _common(verb: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_COMMON):
        verb = option(verb)
    return verb


_VERIFY_EXAMPLES = """\b
hookengine verify --secret @secret --headers @headers.txt @body.json
hookengine verify --secret @secret --profile github --header 'X-Hub-Signature-256: sha256=…' @body.json
"""


@click.command(epilog=_VERIFY_EXAMPLES)
@_common
@click.option("--headers", "more", metavar="@FILE", callback=_header_file, help="Headers, a line each or in JSON.")
@click.option(
    "--tolerance", metavar="DURATION|none", default="5m", show_default=True, callback=_tolerance, help="How old it may be."
)
def verify(
    given: tuple[str, ...],
    body: str,
    *,
    profile: str,
    url: str | None,
    method: str,
    headers: Headers,
    more: Headers,
    tolerance: float,
    as_json: bool,
) -> int:
    """
    Say whether a signature verifies, and if not, why.

    BODY is the request's body as it arrived, byte for byte; without it, standard input. Exit 0 if it verifies, else 1.
    """
    _check_url(profile, url)
    content, known = _body(body, given), secrets(given)
    refusal = None
    try:
        check(content, headers + more, known, profile=profile, method=method, url=url, tolerance=tolerance)
    except VerificationError as error:
        refusal = error
    if as_json:
        reason, detail = (None, None) if refusal is None else (refusal.reason, refusal.detail)
        click.echo(json.dumps({"verified": refusal is None, "reason": reason, "detail": detail}))
    elif refusal is None:
        show_mark(True, "verified")
    else:
        show_mark(False, f"not verified: {printable(refusal.detail)}")
        say(advice(refusal.reason))
    return Exit.OK if refusal is None else Exit.FAILED


_SIGN_EXAMPLES = """\b
hookengine sign --secret @secret '{"id": 1}'
hookengine sign --secret @secret @body.json --curl http://127.0.0.1:9000/hook | sh
"""


@click.command(epilog=_SIGN_EXAMPLES)
@_common
@click.option(
    "--id",
    "id_",
    metavar="ID",
    callback=_event_id,
    help="The event's id, where the profile sends one.  [default: a new one]",
)
@click.option("--timestamp", type=click.IntRange(0, _LAST_SECOND), metavar="SECONDS", help="Since the epoch.  [default: now]")
@click.option("--curl", "target", metavar="URL", help="Show the command that sends the signed request to URL.")
def sign(
    given: tuple[str, ...],
    body: str,
    *,
    profile: str,
    url: str | None,
    method: str,
    headers: Headers,
    id_: str | None,
    timestamp: int | None,
    target: str | None,
    as_json: bool,
) -> None:
    """
    Show the headers that sign a body.

    BODY is signed byte for byte; without it, standard input. With --curl, what is shown is a command to run.
    """
    _check_url(profile, url := url or target)
    content, known = _body(body, given), secrets(given)
    for secret in known:
        try:
            check_secret(profile, secret)
        except ValueError as error:
            raise click.UsageError(str(error)) from error
    clock = Clock()
    moment = clock.now() // 1000 if timestamp is None else timestamp
    made = [
        *make_headers(
            SCHEMES[profile],
            known,
            id=clock.new_id("evt") if id_ is None else id_,
            timestamp=moment,
            body=content,
            method=method,
            url=url or "",
            event_timestamp=moment,
        ),
        *headers,
    ]
    if as_json:
        click.echo(json.dumps(dict(made)))
    elif target is not None:
        click.echo(_curl(target, method, made, body, content).encode())  # as bytes: a text loses what drives terminals
    else:
        for name, value in made:
            click.echo(f"{name}: {value}".encode())


def _curl(target: str, method: str, headers: Headers, body: str, content: bytes) -> str:
    """The command that sends *content*, given as *body*, byte for byte."""
    if body.startswith("@"):
        data = ["--data-binary", body]
    else:
        try:
            text = content.decode()
        except UnicodeDecodeError:
            text = "\0"
        # As an argument, a text ends at its first NUL.
        if "\0" in text or len(content) > _LONGEST_LITERAL:
            raise click.UsageError("this body cannot stand in a command: give it in a file (@FILE)")
        data = ["--data-raw", text]
    own = {name.lower() for name, _ in headers}
    lines = headers if "content-type" in own else [("content-type", "application/json"), *headers]
    words = ["curl", "--request", method, *(word for name, value in lines for word in ("--header", f"{name}: {value}"))]
    return shlex.join([*words, *data, target])


def _check_url(profile: str, url: str | None) -> None:
    if url is None and any("{url}" in scheme.signed for scheme in SCHEMES[profile]):
        raise click.UsageError(f"the profile {profile} signs the URL: give it with --url, exactly as the subscription has it")


def _body(body: str, given: tuple[str, ...]) -> bytes:
    if body == "-" and "-" in given:
        raise click.UsageError("standard input holds one thing: give the body or the secret in a file (@FILE)")
    if body == "-" and sys.stdin.isatty():
        say("The body is what you type, up to Ctrl-D.")
    return read_bytes(body)
