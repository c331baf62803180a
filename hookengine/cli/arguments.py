"""Arguments whose value is given in place, in a file or on standard input."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import click

_KEY = re.compile(r"[\x21-\x7e]{1,255}")


def read_bytes(argument: str) -> bytes:
    """What *argument* stands for: itself, the content of `@FILE`, or with `-` all of standard input."""
    if argument == "-":
        return sys.stdin.buffer.read()
    if not argument.startswith("@"):
        return os.fsencode(argument)
    try:
        return Path(argument[1:]).read_bytes()
    except OSError as error:
        raise click.BadParameter(f"{argument[1:]} cannot be read: {error.strerror}") from error


def read_text(argument: str) -> str:
    """The same as one line of text, without the line end that files have."""
    try:
        text = read_bytes(argument).decode().rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise click.BadParameter("it is not UTF-8") from error
    if not text:
        raise click.BadParameter("it is empty")
    return text


def words(_context: click.Context, _parameter: click.Parameter, value: str | None) -> list[str] | None:
    """The words of a list such as `a,b`, as an option's callback."""
    return None if value is None else [text.strip() for text in value.split(",") if text.strip()]


def past(text: str | None, *, now: int) -> str | None:
    """The time that *text* names: a duration counts back from *now* (ms since the epoch), all else is the server's to read."""
    from hookengine.validation import format_time, parse_duration  # noqa: PLC0415  # it loads msgspec

    try:
        return None if text is None else format_time(now - parse_duration(text))
    except ValueError:
        return text


def key_header(key: str | None) -> dict[str, str] | None:
    """The header of an Idempotency-Key."""
    if key is None:
        return None
    if not _KEY.fullmatch(key):
        raise click.BadParameter("1 to 255 visible ASCII characters", param_hint="--idempotency-key")
    return {"Idempotency-Key": key}


def pairs(arguments: tuple[str, ...], separator: str) -> dict[str, str]:
    """The members that *arguments* such as `name: value` or `key=value` name."""
    found: dict[str, str] = {}
    for argument in arguments:
        name, mark, value = argument.partition(separator)
        name = name.strip()
        if not mark or not name:
            raise click.BadParameter(f"expected NAME{separator}VALUE")
        if name in found:
            raise click.BadParameter(f"{name} is given twice")
        found[name] = value
    return found
