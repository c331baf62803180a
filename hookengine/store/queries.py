"""The SQL of the store, from `queries.sql` and `migrations/`."""

from __future__ import annotations

import re
from importlib.resources import files
from types import SimpleNamespace

_BLOCK = re.compile(r"^-- (?P<name>[a-z_]+)\n-- .+\n(?P<sql>(?:(?!^-- ).*\n?)+)", re.MULTILINE)


def _load() -> SimpleNamespace:
    text = (files(__package__) / "queries.sql").read_text(encoding="utf-8")
    return SimpleNamespace(**{found["name"]: found["sql"].strip().rstrip(";") for found in _BLOCK.finditer(text)})


def migrations() -> list[str]:
    """The scripts that lead from an empty file to the present schema; script number n makes version n."""
    folder = files(__package__) / "migrations"
    scripts = sorted((script for script in folder.iterdir() if script.name.endswith(".sql")), key=lambda script: script.name)
    return [script.read_text(encoding="utf-8") for script in scripts]


sql = _load()
