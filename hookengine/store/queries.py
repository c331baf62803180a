"""The SQL of the store, from `queries.sql` and `migrations/`."""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from types import SimpleNamespace

CHUNK = 50  # rows of an INSERT of `in_chunks`

_ROW = re.compile(r"(?<= VALUES )\(.+\)\Z|(?<=\nVALUES )\(.+\)\Z", re.DOTALL)
_BLOCK = re.compile(r"^-- (?P<name>[a-z_]+)\n-- .+\n(?P<sql>(?:(?!^-- ).*\n?)+)", re.MULTILINE)


def _load() -> SimpleNamespace:
    text = (files(__package__) / "queries.sql").read_text(encoding="utf-8")
    return SimpleNamespace(**{found["name"]: found["sql"].strip().rstrip(";") for found in _BLOCK.finditer(text)})


@cache
def in_chunks(insert: str) -> str | None:
    """*insert* with CHUNK rows at once; None if it is not a plain INSERT of one row."""
    row = _ROW.search(insert)
    return None if row is None else insert[: row.start()] + ", ".join([row[0]] * CHUNK)


def migrations() -> list[str]:
    """The scripts that lead from an empty file to the present schema; script number n makes version n."""
    folder = files(__package__) / "migrations"
    scripts = sorted((script for script in folder.iterdir() if script.name.endswith(".sql")), key=lambda script: script.name)
    return [script.read_text(encoding="utf-8") for script in scripts]


sql = _load()
