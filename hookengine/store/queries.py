"""The SQL of the store, from `queries.sql` and `migrations/`."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from types import SimpleNamespace

CHUNKS = (128, 64, 32, 16, 8, 4, 2)  # rows that one statement can take at once

_ROW = re.compile(r"VALUES (\([^()]+\))")
_BLOCK = re.compile(r"^-- (?P<name>[a-z_]+)\n-- .+\n(?P<sql>(?:(?!^-- ).*\n?)+)", re.MULTILINE)


def _load() -> SimpleNamespace:
    text = (files(__package__) / "queries.sql").read_text(encoding="utf-8")
    return SimpleNamespace(**{found["name"]: found["sql"].strip().rstrip(";") for found in _BLOCK.finditer(text)})


@cache
def of_rows(statement: str, count: int) -> str | None:
    """*statement*, which takes the values of one row, for *count* rows at once; None if it has no VALUES."""
    row = _ROW.search(statement)
    return None if row is None else statement[: row.end()] + f", {row[1]}" * (count - 1) + statement[row.end() :]


def migrations() -> list[str]:
    """The scripts that lead from an empty file to the present schema; script number n makes version n."""
    folder = files(__package__) / "migrations"
    scripts = sorted((script for script in folder.iterdir() if script.name.endswith(".sql")), key=lambda script: script.name)
    return [script.read_text(encoding="utf-8") for script in scripts]


sql = _load()
