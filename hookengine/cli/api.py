"""Finding the server, and asking it: the options that every verb of the API takes."""

from __future__ import annotations

import functools
import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from hookengine.cli.exits import CliError, Exit
from hookengine.cli.files import DAEMON, DATABASE, TOKEN, absolute
from hookengine.cli.output import printable, say, shell_word, show_bytes, show_record, show_table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hookengine.client import Answer, Client

DEFAULT_DATA = Path("hookengine-data")

data_option = click.option(
    "--data",
    type=click.Path(file_okay=False, readable=False, path_type=Path),
    envvar="HOOKENGINE_DATA",
    show_envvar=True,
    default=DEFAULT_DATA,
    show_default=True,
    help="The daemon's data directory.",
)


class Api:
    """The server's API, as a verb asks it and shows what it answers."""

    def __init__(self, client: Client, *, as_json: bool, is_local: bool = False) -> None:
        self.client = client
        self.as_json = as_json
        self.is_local = is_local  # it is the daemon of this machine, found by its directory

    def path(self, *segments: str) -> str:
        """The path of what *segments* name, which may hold anything."""
        return "/".join(["/v1", *(quote(segment, safe="") for segment in segments)])

    def get(self, path: str, **query: str | int | None) -> Answer:
        """Read *path*."""
        return self.client.request("GET", path, query=query)

    def send(self, method: str, path: str, document: Any = None, *, timeout: float | None = None) -> Answer:
        """Write *document*, or nothing, to *path*; with *timeout* in place of the client's."""
        body = None if document is None else json.dumps(document).encode()
        return self.client.request(method, path, body=body, timeout=timeout)

    def delete(self, path: str, question: str, done: str, *, yes: bool) -> int | None:
        """Delete what is at *path*, unless a person answers *question* with no, and say that it is *done*; the exit status."""
        if not yes and sys.stdin.isatty() and not click.confirm(question, err=True):
            return Exit.FAILED
        self.send("DELETE", path)
        if not self.as_json:
            say(done)
        return None

    def read(self, answer: Answer, *members: str) -> dict[str, Any]:
        """The answer's object, which has *members*."""
        document = answer.json()
        if not isinstance(document, dict) or not document.keys() >= set(members):
            raise CliError(f"{self.client.url} does not answer as a hookengine does", Exit.NOT_REACHED)
        return document

    def show(self, answer: Answer) -> None:
        """Show one thing."""
        if self.as_json:
            show_bytes(answer.body)
        else:
            show_record(self.read(answer))

    def show_list(self, answer: Answer, members: Sequence[str]) -> None:
        """Show one page of a list, with *members* as columns, and how to get the next."""
        if self.as_json:
            show_bytes(answer.body)
            return
        page = self.read(answer, "data", "next_cursor")
        show_table(members, page["data"])
        if cursor := page["next_cursor"]:
            say(f"There are more: --cursor {cursor}")


def text_of(answer: Answer, member: str) -> str:
    """The JSON text of a member, with the producer's digits, which `json` would not keep."""
    from msgspec import Raw  # noqa: PLC0415  # few verbs need it
    from msgspec.json import decode  # noqa: PLC0415

    return bytes(decode(answer.body, type=dict[str, Raw])[member]).decode()


def naming(data: Path) -> str:
    """What names *data* to another command, behind what is there of it; nothing where that needs no name."""
    return "" if data == DEFAULT_DATA else f" --data {shell_word(str(data))}"


def with_api(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Give *verb* the options that find the server, `--json`, and an `Api` as its first argument."""

    @click.option("--url", envvar="HOOKENGINE_URL", show_envvar=True, help="The server, in place of the local daemon.")
    @click.option("--token", envvar="HOOKENGINE_TOKEN", show_envvar=True, help="A token for it.")
    @data_option
    @click.option("--json", "as_json", is_flag=True, help="Show the API's JSON.")
    @functools.wraps(verb)
    def run(*args: Any, url: str | None, token: str | None, data: Path, as_json: bool, **options: Any) -> Any:
        return verb(Api(find_server(url, token, data), as_json=as_json, is_local=url is None), *args, **options)

    return run


def page_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Give *verb* the options of a list."""
    verb = click.option("--cursor", help="Go on where the page before ended.")(verb)
    return click.option("--limit", type=click.IntRange(1, 250), help="At most so many.  [default: 50]")(verb)


yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


def find_server(url: str | None, token: str | None, data: Path) -> Client:
    """
    The server at *url*, else the daemon that runs on the directory *data*.

    The owner's token goes to that daemon only: a *url* of one's own comes with a token of one's own.
    """
    from hookengine.client import Client  # noqa: PLC0415  # the standard library's HTTP takes half of the start-up time

    if url is None:
        url = _daemon_url(data)
        token = _owner_token(data) if token is None else token
    try:
        return Client(url.rstrip("/").removesuffix("/v1"), token)  # the daemon says where its API is, with that
    except ValueError as error:
        raise click.UsageError(str(error)) from error


def _daemon_url(data: Path) -> str:
    path = data / DAEMON
    try:
        found = json.loads(path.read_bytes())
        url, pid = str(found["url"]), int(found["pid"])
        runs = _runs(data, pid)
    except FileNotFoundError:
        place = printable(str(absolute(data)))
        reason = (
            f"the daemon on {place} is stopped: start it"
            if data.is_dir()
            else f"there is no directory {place}: name that of a daemon with --data, start one here"
        )
        raise CliError(
            f"{reason} with `hookengine serve{naming(data)}`, or name a server with --url", Exit.NOT_REACHED
        ) from None
    except PermissionError as error:
        raise CliError(f"{error.filename} cannot be read: {error.strerror}", Exit.NOT_ALLOWED) from error
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CliError(f"{path} is not what a daemon writes: name the server with --url", Exit.NOT_REACHED) from error
    if not runs:
        # Whoever has the port now is not to see the owner's token.
        words = f"the daemon on {data} (pid {pid}) runs no more: start it with `hookengine serve{naming(data)}`"
        raise CliError(words, Exit.NOT_REACHED)
    return url


def _owner_token(data: Path) -> str:
    path = data / TOKEN
    try:
        return path.read_text("ascii", "replace").strip()
    except OSError as error:
        raise CliError(f"{path} cannot be read ({error.strerror}): give a token with --token", Exit.NOT_ALLOWED) from error


def _runs(data: Path, pid: int) -> bool:
    """
    Whether process *pid* is the one that has the database in *data*.

    Its lock tells: the number of a dead process can be another's by now. Not by `store.database.Lock`, which takes as long to
    load as all else that a verb needs.
    """
    if os.name != "posix":
        return True  # there is no such lock, and signal 0 would end it
    import fcntl  # noqa: PLC0415  # not there elsewhere

    with Path(f"{os.path.realpath(data / DATABASE)}.lock").open("rb") as lock:
        if lock.read(20).strip() != str(pid).encode():
            return False  # somebody else has it, maybe who has just started, and has no server yet
        try:
            with suppress(PermissionError):
                os.kill(pid, 0)  # if it is dead, to try the lock could turn away who takes it just now
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except (ProcessLookupError, OverflowError):
            return False
        except BlockingIOError:
            return True
    return False
