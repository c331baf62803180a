"""The files of a data directory, as the verbs that work without the daemon see them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from hookengine.cli.exits import CliError, Exit
from hookengine.cli.output import printable

if TYPE_CHECKING:
    from pathlib import Path

# The names that the engine gives them, which takes half a second to load; the last is that of `daemon.announced`.
DATABASE, KEY, TOKEN, DAEMON = "hooks.db", "secret.key", "admin.token", "daemon.json"


def database(data: Path) -> Path:
    """The database in *data*, which must be there and readable."""
    path = data / DATABASE
    try:
        # Not opened: where an engine lives in this process, closing the file would take its locks away (fcntl(2)).
        path.stat()
        readable = os.access(path, os.R_OK)
    except FileNotFoundError:
        from hookengine.store.whereabouts import Files  # noqa: PLC0415  # it loads the store

        if (left := Files(path).left_behind()) is not None:
            raise CliError(printable(f"{path} {left}"), Exit.NOT_FOUND) from None
        raise CliError(
            f"{printable(str(data))} holds no database: `hookengine init` or `hookengine serve` makes one", Exit.NOT_FOUND
        ) from None
    except OSError:
        readable = False
    if not readable:
        raise CliError(f"{printable(str(path))} cannot be read by this user", Exit.NOT_ALLOWED)
    return path


def absolute(path: Path) -> Path:
    """*path* from the root on; raises CliError where it counts from a working directory that has been deleted."""
    try:
        return path.absolute()
    except FileNotFoundError as error:
        raise CliError("the working directory has been deleted: go to another one") from error


def size(count: int) -> str:
    """A number of bytes in a unit for people."""
    value, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"
