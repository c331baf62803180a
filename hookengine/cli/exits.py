"""How a verb ends: the exit statuses, and the words for every error."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import click

from hookengine.cli.output import describe_attempt, printable, say
from hookengine.errors import ConfigInvalid, StartError, StorageFailed

if TYPE_CHECKING:
    from hookengine.errors import HookEngineError


class Exit(IntEnum):
    """The exit statuses of CONTRACT.md that are no `StartError`'s or `StorageFailed`'s own."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_REACHED = 3
    NOT_ALLOWED = 4
    NOT_FOUND = 5
    CONFLICT = 6
    INTERRUPTED = 130  # by Ctrl-C: 128 and the signal's number, as shells count


class CliError(click.ClickException):
    """The verb cannot go on; says why, and ends with *status*."""

    def __init__(self, message: str, status: Exit = Exit.FAILED) -> None:
        super().__init__(message)
        self.exit_code = status  # type: ignore[misc]  # click reads it off the instance


_OF_HTTP = {
    401: Exit.NOT_ALLOWED,
    403: Exit.NOT_ALLOWED,
    404: Exit.NOT_FOUND,
    409: Exit.CONFLICT,
    412: Exit.CONFLICT,
}


def report(error: HookEngineError) -> int:
    """Say what is wrong, each mistake on a line of its own, and return the exit status."""
    if isinstance(error, ConfigInvalid) and error.mistakes:
        # Its detail is those lines, in columns.
        for line in error.detail.splitlines():
            say(printable(line))
        say(f"Error: the configuration has {len(error.mistakes)} mistake{'s' if len(error.mistakes) > 1 else ''}")
        return error.exit_status
    say(f"Error: {printable(error.detail)}")
    for mistake in getattr(error, "mistakes", ()):
        where = mistake.pointer if mistake.pointer is not None else mistake.parameter
        say(f"  {printable(where or '(whole)')}: {printable(mistake.detail)}")
    for advice in getattr(error, "__notes__", ()):
        say(f"  {advice}")
    return _status(error)


def _status(error: HookEngineError) -> int:
    from hookengine.client import ApiError, ServerNotReached  # noqa: PLC0415  # only now is it worth its time

    match error:
        case ApiError():
            if isinstance(attempt := error.problem.get("attempt"), dict):
                say(f"  the endpoint: {describe_attempt(attempt)}")
            return _OF_HTTP.get(error.status, Exit.FAILED)
        case ServerNotReached():
            return Exit.NOT_REACHED
        case StartError() | StorageFailed():
            return error.exit_status
        case _:
            return Exit.FAILED
