"""Arguments whose value is given in place, in a file or on standard input."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click


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


def duration(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    """The milliseconds of an option's value such as `2s`."""
    from hookengine.validation import parse_duration  # noqa: PLC0415  # it loads msgspec

    try:
        return None if value is None else parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def secrets(arguments: tuple[str, ...]) -> list[str]:
    """The secrets that *arguments* stand for, each in place, in a file or on standard input."""
    if arguments.count("-") > 1:
        raise click.UsageError("standard input holds one thing: give the other in a file (@FILE)")
    return [read_text(argument) for argument in arguments]
