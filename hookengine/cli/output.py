"""What a verb shows: data on stdout, words on stderr; tables on a terminal, tab-separated lines elsewhere."""

from __future__ import annotations

import json
import os
import shlex
import sys
from contextlib import contextmanager, suppress
from threading import Timer
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

# Wider than any row: a terminal wraps what is too long, while an id that a table folded could not be copied.
_WIDTH = 10_000
_STYLES = {
    "active": "green",
    "delivered": "green",
    "accepted": "green",
    "pending": "yellow",
    "held": "yellow",
    "interrupted": "yellow",
    "disabled": "red",
    "failed": "red",
    "refused": "red",
    "unreachable": "red",
}


def say(words: str) -> None:
    """Say *words* to the person, on stderr."""
    # A person who has closed the terminal still wants the work done, and the daemon to stop when told.
    with suppress(OSError):
        click.echo(words, err=True)


@contextmanager
def working(words: str, *, after: float = 1.0) -> Iterator[None]:
    """Say *words* to a person who has waited for *after* seconds for what is done inside."""
    timer = Timer(after, say, [f"{words} …"])
    timer.daemon = True
    if sys.stderr.isatty():
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def plain() -> bool:
    """Whether the person wants no colours, or the terminal shows none."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


def printable(text: str) -> str:
    """*text* from elsewhere, with escapes for whatever could drive the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shell_word(text: str) -> str:
    """*text* as one word of a command to be copied, with the shell's own escapes for whatever could drive the terminal."""
    if text.isprintable():
        return shlex.quote(text)
    escaped = (c if c.isprintable() and c not in "'\\" else "".join(f"\\x{b:02x}" for b in os.fsencode(c)) for c in text)
    return f"$'{''.join(escaped)}'"


def show_bytes(document: bytes) -> None:
    """Show a JSON document as the server sent it; on a terminal with JSON's escapes for whatever could drive that."""
    document = document.removesuffix(b"\n")
    if not sys.stdout.isatty():
        click.echo(document)
        return
    text = document.decode("utf-8", "replace")
    click.echo("".join(char if char.isprintable() or char in "\t\r\n" else json.dumps(char)[1:-1] for char in text))


def show_record(record: Mapping[str, Any]) -> None:
    """Show one thing, a member to a line."""
    _show(None, [(name, cell(value)) for name, value in record.items()])


def show_table(headings: Sequence[str], records: Sequence[Mapping[str, Any]]) -> None:
    """Show a record to a line. A heading is a member's name."""
    if records:
        _show(headings, [tuple(cell(record.get(name)) for name in headings) for record in records])
    elif sys.stdout.isatty():
        say("none")


def show_mark(good: bool, words: str, *, err: bool = False) -> None:
    """Show a line that went well or did not."""
    mark = click.style("✓", fg="green") if good else click.style("✗", fg="red")
    click.echo(f"{mark} {words}", err=err)


def cell(value: Any) -> str:
    """A value of the API in one line of text."""
    match value:
        case None:
            return ""
        case str():
            return printable(value)
        case list() if all(isinstance(item, str) for item in value):
            return printable(",".join(value))
        case _:
            return printable(json.dumps(value, ensure_ascii=False))


def describe_attempt(attempt: Mapping[str, Any]) -> str:
    """An attempt in a few words: `200 in 41 ms`, `timeout_connect in 15000 ms (…)`."""
    error = attempt.get("error") or {}
    ending = attempt.get("status_code") or error.get("code") or attempt.get("outcome")
    words = f"{ending} in {attempt.get('duration_ms')} ms"
    if not attempt.get("status_code") and error.get("detail"):
        words += f" ({error['detail']})"
    return printable(words)


def _show(headings: Sequence[str] | None, rows: Sequence[Sequence[str]]) -> None:
    if not sys.stdout.isatty():
        for row in rows:
            click.echo("\t".join(row))
        return
    # Imported here, since it takes longer than all else that a verb does.
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    table = Table(box=None, pad_edge=False, show_header=headings is not None, header_style="bold")
    for heading in headings or ("member", "value"):
        table.add_column(heading.replace("_", " ").upper(), no_wrap=True)
    for row in rows:
        table.add_row(*(Text(text, _STYLES.get(text, "")) for text in row))
    # With a width alone, rich takes a terminal that says it is dumb for one of 80 columns.
    Console(width=_WIDTH, height=len(rows) + 1).print(table)
