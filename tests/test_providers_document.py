"""docs/providers.md: each statement of the providers' documents has tests that exist, and names what there is."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import click
import orjson
import pytest

from hookengine.cli import hookengine
from hookengine.server import routes

ROOT = Path(__file__).parent.parent
DOCUMENT = (ROOT / "docs" / "providers.md").read_text()
PROVIDERS = ["ClearFeed", "Clarife", "CleverTap"]
TEST = re.compile(r"\[`(test_\w+)`\]\(\.\./(tests/[\w/]+\.py)\)")
CELLS = re.compile(r"(?<!\\)\|")
ROUTE = re.compile(r"`(GET|POST|PUT|PATCH|DELETE) (/[^`? ]*)")
VERB = re.compile(r"`hookengine ([a-z-]+)((?: [a-z-]+(?:\\\|[a-z-]+)*)?)")


class Row(NamedTuple):
    """A row of a table."""

    statement: str
    how: str
    tests: list[tuple[str, str]]  # name and file
    text: str


def section(provider: str) -> str:
    """What is said of a provider."""
    found = re.search(rf"^## {provider}\n(.*?)(?=^## |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def rows(provider: str) -> list[Row]:
    """The rows of its table, without the heading."""
    lines = [line for line in section(provider).splitlines() if line.startswith("|")]
    found = []
    for line in lines[2:]:
        _, statement, how, tests, _ = CELLS.split(line)
        rest = TEST.sub("", tests).strip(", ")
        assert not rest, f"no test: {rest}"
        found.append(Row(statement.strip(), how.strip(), TEST.findall(tests), line))
    return found


@cache
def defined_in(path: str) -> set[str]:
    """The tests in a file."""
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_statement_is_held_by_tests_that_exist(provider: str) -> None:
    """Each row quotes a statement, says how it is done, and names tests that are where it says."""
    found = rows(provider)
    assert found
    for row in found:
        assert re.fullmatch("“.+”", row.statement)
        assert row.how
        assert row.tests, row.statement
        missing = [name for name, path in row.tests if name not in defined_in(path)]
        assert not missing, row.statement


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_table_is_followed_by_its_gaps(provider: str) -> None:
    """Below each table stands where the document is silent or contradicts itself."""
    _, _, below = section(provider).rpartition("|\n")

    assert re.search(r"^- \*\*", below, re.MULTILINE)


def test_no_statement_stands_twice() -> None:
    """A statement has one row."""
    quoted = [(provider, row.statement) for provider in PROVIDERS for row in rows(provider)]

    assert sorted(set(quoted)) == sorted(quoted)


def test_every_route_that_is_named_is_there() -> None:
    """Method and path are those of the API's own document."""
    paths = orjson.loads(routes.document().content)["paths"]
    there = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    named = set(ROUTE.findall(DOCUMENT))

    assert named
    assert named <= there


def test_every_verb_that_is_named_is_there() -> None:
    """Verbs are those of the command line."""
    named = VERB.findall(DOCUMENT)
    assert named
    for name, actions in named:
        verb = hookengine.commands[name]
        for action in actions.split("\\|"):
            assert not isinstance(verb, click.Group) or action.strip() in verb.commands, (name, action)
