"""Arguments whose value is given in place, in a file or on standard input, and what becomes of them."""

from __future__ import annotations

import json
import os
import re
import stat
import sys
from collections import Counter
from math import isinf
from pathlib import Path
from select import select
from typing import TYPE_CHECKING, Any

import click

from hookengine.cli.output import say, working
from hookengine.clock import Clock
from hookengine.times import format_time, parse_duration
from hookengine.wording import LONE_SURROGATE, SURROGATE, quoted

if TYPE_CHECKING:
    from collections.abc import Mapping

FILE = click.Path(readable=False, path_type=Path)  # whether it can be read is said by who reads it, with a status of its own

_PATIENCE = 1.0  # s

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_LIKE_A_DURATION = re.compile(r"-?[0-9.]+ ?[A-Za-z]+")


class _Text(click.types.StringParamType):
    """A text; Python stands in for bytes that are no UTF-8 with surrogates."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        text = super().convert(value, param, ctx)
        if SURROGATE.search(text):
            self.fail("it is not UTF-8", param, ctx)
        return text


def require_text(command: click.Command) -> None:
    """Let *command*, and those below it, refuse what is no text; names of files may be of any bytes, and contents are read."""
    for parameter in command.params:
        if parameter.type is click.STRING and "@FILE" not in (parameter.metavar or ""):
            parameter.type = _Text()
    for each in getattr(command, "commands", {}).values():
        require_text(each)


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


def piped_bytes() -> bytes:
    """
    All of standard input where it is a file or a pipe; nothing where it is a terminal or the null device.

    Nor of a pipe that says nothing for a while: many programs leave one open, and mean nothing by it.
    """
    mode = os.fstat(0).st_mode
    if not (stat.S_ISFIFO(mode) or stat.S_ISREG(mode)):
        return b""
    if not select([0], [], [], _PATIENCE)[0]:
        say(f"Standard input says nothing for {_PATIENCE:g} s: going on without. Give - to wait for it.")
        return b""
    with working("Reading standard input"):
        return read_bytes("-")


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


def secret_text(_context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    """A secret that is given as an option, whose callback this is."""
    return None if value is None else read_text(value)


def given(members: Mapping[str, Any]) -> dict[str, Any]:
    """The *members* that are not None."""
    return {name: value for name, value in members.items() if value is not None}


def document(members: Mapping[str, Any], name: str, text: bytes) -> bytes:
    """A request of the given *members* and, as member *name*, a JSON *text*, which goes into it as it is."""
    _check_json(name, text)
    others = given(members)
    return json.dumps(others).encode().removesuffix(b"}") + f'{"," if others else ""}"{name}":'.encode() + text + b"}"


def moment(text: str, *, now: int) -> str:
    """The time that *text* names: a duration counts from *now* (ms since the epoch); the server reads what is like none."""
    return _moment(text, now, 1)


def past(text: str | None, *, now: int) -> str | None:
    """The same of a time gone by: a duration counts back from *now*."""
    return None if text is None else _moment(text, now, -1)


def in_time(query: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a list, where `since` and `until` may be durations that count back from now."""
    now = Clock().now()
    return query | {name: past(query[name], now=now) for name in ("since", "until") if name in query}


def _moment(text: str, now: int, direction: int) -> str:
    try:
        return format_time(now + direction * parse_duration(text))
    except ValueError as error:
        if _LIKE_A_DURATION.fullmatch(text):
            raise click.BadParameter(str(error)) from error
        return text


def json_value(text: str) -> Any:
    """The value of a JSON *text*; refuses what would be another value, or none, once it is printed again."""
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite, object_pairs_hook=_members)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise click.BadParameter("it is nested too deeply") from error
    except UnicodeEncodeError as error:
        raise click.BadParameter(f"it is not JSON: {LONE_SURROGATE}") from error
    except ValueError as error:
        raise click.BadParameter(f"it is not JSON: {error}") from error
    return value


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"the member {quoted(twice)} is there twice")
    return members


def _finite(number: str) -> float:
    if isinf(value := float(number)):
        raise ValueError(f"{number} is beyond what a number holds")
    return value


def _check_json(name: str, text: bytes) -> None:
    # Two values, or half of one, would become other members of the request. Numbers stay text: a long one is no mistake.
    try:
        json.loads(text.decode(), parse_int=str, parse_float=str, parse_constant=_refuse)
    except RecursionError as error:
        raise click.BadParameter(f"the {name} is nested too deeply", param_hint="JSON") from error
    except UnicodeDecodeError as error:
        raise click.BadParameter(f"the {name} is not UTF-8", param_hint="JSON") from error
    except ValueError as error:
        raise click.BadParameter(f"the {name} is not JSON: {error}", param_hint="JSON") from error


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON value")


def duration(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    """The milliseconds of an option's value such as `2s`."""
    try:
        return None if value is None else parse_duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def secrets(arguments: tuple[str, ...]) -> list[str]:
    """The secrets that *arguments* stand for, each in place, in a file or on standard input."""
    if arguments.count("-") > 1:
        raise click.UsageError("standard input holds one thing: give the other in a file (@FILE)")
    return [read_text(argument) for argument in arguments]
