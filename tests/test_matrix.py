"""The matrices of reliability and security, held: every row of theirs is the id of a test."""

from __future__ import annotations

import importlib
import re
import sys
import tomllib
from pathlib import Path
from types import FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

TESTS = Path(__file__).parent
FAMILIES: dict[str, dict[str, str]] = tomllib.loads((TESTS / "matrix.toml").read_text())
ROWS = {row for rows in FAMILIES.values() for row in rows}
ROW = re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(FAMILIES)})[0-9]{{2,3}}(?![A-Za-z0-9])")


def parameter_ids(module: ModuleType) -> Iterator[str]:
    """The ids that the cases of a module's tests have: given with a case or as `ids`, or by the mark `row`."""
    for test in vars(module).values():
        if isinstance(test, FunctionType) and test.__name__.startswith("test_") and test.__module__ == module.__name__:
            for mark in getattr(test, "pytestmark", ()):
                yield from map(str, mark.args) if mark.name == "row" else ids_of(mark)


def ids_of(mark: Any) -> Iterator[str]:
    """Those of one `parametrize`."""
    if mark.name == "parametrize":
        cases = list(mark.args[1])
        yield from (str(case.id) for case in cases if getattr(case, "id", None))
        ids = mark.kwargs.get("ids") or ()
        yield from (str(each) for each in (map(ids, cases) if callable(ids) else ids))


def rows_with_tests() -> set[str]:
    """The rows that are ids, of all test files that speak of any."""
    found = set()
    for path in sorted(TESTS.rglob("test_*.py")):
        if path != Path(__file__) and ROW.search(path.read_text()):
            if str(path.parent) not in sys.path:  # as pytest itself does it
                sys.path.insert(0, str(path.parent))
            for id_ in parameter_ids(importlib.import_module(path.stem)):
                found |= set(ROW.findall(id_))
    return found


def test_every_row_has_a_test() -> None:
    """No row of a matrix is without a test that has its id, and no test has the id of a row that there is not."""
    found = rows_with_tests()

    assert [] == sorted(ROWS - found)
    assert [] == sorted(found - ROWS)


def test_rows_are_told() -> None:
    """Each row says in a line what happens in it, and has an id of its family."""
    for family, rows in FAMILIES.items():
        for row, told in rows.items():
            assert re.fullmatch(rf"{family}[0-9]{{2,3}}", row)
            assert told.strip()
            assert "\n" not in told
