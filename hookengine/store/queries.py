"""The SQL of the store, from `queries.sql` and `migrations/`."""

from __future__ import annotations

import re
from importlib.resources import files
from types import SimpleNamespace

from hookengine.models import Delivery

_BLOCK = re.compile(r"^-- (?P<name>[a-z_]+)\n-- .+\n(?P<sql>(?:(?!^-- ).*\n?)+)", re.MULTILINE)

# What stands for the columns of a delivery, in the order in which `rows.delivery` reads them.
_DELIVERY = re.compile(r"\{(d\.)?delivery\}")


def _columns(found: re.Match[str]) -> str:
    return ", ".join(f"{found[1] or ''}{name}" for name in Delivery.__struct_fields__)


def _load() -> SimpleNamespace:
    text = _DELIVERY.sub(_columns, (files(__package__) / "queries.sql").read_text(encoding="utf-8"))
    return SimpleNamespace(**{found["name"]: found["sql"].strip().rstrip(";") for found in _BLOCK.finditer(text)})


def migrations() -> list[str]:
    """The scripts that lead from an empty file to the present schema; script number n makes version n."""
    folder = files(__package__) / "migrations"
    scripts = sorted((script for script in folder.iterdir() if script.name.endswith(".sql")), key=lambda script: script.name)
    return [script.read_text(encoding="utf-8") for script in scripts]


sql = _load()
