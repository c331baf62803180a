"""The habits of the house that no linter knows, held."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Function = ast.FunctionDef | ast.AsyncFunctionDef

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hookengine"
TESTS = ROOT / "tests"

# Readers of the clock or of randomness beside clock.py, each with its reason.
CLOCK_READERS = {
    "signing.py",  # `verify` runs at a receiver, who has no Clock to give
}
CLOCK_MODULES = {"time", "secrets", "random", "uuid"}
CLOCK_CALLS = {"datetime.now", "datetime.utcnow", "datetime.today", "date.today"}

SLEEPS = {"asyncio.sleep", "time.sleep"}
MOCKS = {"mock", "unittest.mock", "pytest_mock"}
SECOND_SENTENCE = re.compile(r"[\w`)\"'][.!?]\s+[A-Z`]")
UNDOCUMENTED_BY_RULE = {"overload", "override", "setter", "deleter"}


def members(tree: ast.Module | ast.ClassDef) -> Iterator[tuple[str, Function | ast.ClassDef]]:
    """The functions and classes of a module with their dotted names, and those of its classes."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            yield node.name, node
            yield from ((f"{node.name}.{name}", member) for name, member in members(node))


def last_name(node: ast.expr) -> str:
    """`setter` of `@x.setter`, `overload` of `@typing.overload`."""
    return ast.unparse(node).rpartition(".")[2]


def imported(tree: ast.AST) -> Iterator[tuple[int, str, str]]:
    """Line, local name and full dotted name of all that is imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.asname or alias.name, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, alias.asname or alias.name, f"{node.module}.{alias.name}") for alias in node.names)


def called(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call with the full dotted name of what it calls, as far as imports tell."""
    full_names = {local: full for _, local, full in imported(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, dot, rest = ast.unparse(node.func).partition(".")
            yield full_names.get(first, first) + dot + rest, node


def wordless_tests(tree: ast.Module) -> list[str]:
    """Tests whose docstring is not one sentence."""
    found = []
    for name, node in members(tree):
        if isinstance(node, ast.ClassDef) or not node.name.startswith("test_"):
            continue
        sentence = ast.get_docstring(node) or ""
        if not sentence.endswith(".") or "\n\n" in sentence or SECOND_SENTENCE.search(sentence):
            found.append(f"{node.lineno}: {name} does not say in one sentence what it proves")
    return found


def undocumented(tree: ast.Module) -> list[str]:
    """The module and the public classes, functions and methods in it that have no docstring."""
    found = [] if ast.get_docstring(tree) else ["1: the module has no docstring"]
    for name, node in members(tree):
        decorators = {last_name(each) for each in node.decorator_list}
        if not any(part.startswith("_") for part in name.split(".")) and not decorators & UNDOCUMENTED_BY_RULE:
            found += [] if ast.get_docstring(node) else [f"{node.lineno}: {name} has no docstring"]
    return found


def sleeps(tree: ast.Module) -> list[str]:
    """Waits for a time in place of an event; `asyncio.sleep(0)` lets others run, and passes."""
    return [
        f"{call.lineno}: {name} waits for a time"
        for name, call in called(tree)
        if name in SLEEPS and not (call.args and isinstance(call.args[0], ast.Constant) and call.args[0].value == 0)
    ]


def mocks(tree: ast.Module) -> list[str]:
    """Imports of a mocking library, and its fixture."""
    full_names = [(line, full) for line, _, full in imported(tree)]
    asked = [(node.lineno, node.arg) for node in ast.walk(tree) if isinstance(node, ast.arg) and node.arg == "mocker"]
    return [f"{line}: {name} mocks" for line, name in full_names + asked if name == "mocker" or within(name, MOCKS)]


def clock_reads(tree: ast.Module) -> list[str]:
    """Readings of the clock or of randomness that are no argument."""
    full_names = [(line, full) for line, _, full in imported(tree) if within(full, CLOCK_MODULES)]
    calls = [(call.lineno, name) for name, call in called(tree) if ".".join(name.split(".")[-2:]) in CLOCK_CALLS]
    return [f"{line}: {name} belongs to clock.py" for line, name in full_names + calls]


def within(name: str, modules: set[str]) -> bool:
    """Whether a dotted name is one of *modules* or something in it."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def missing_tests(sources: list[str], tests: list[str]) -> list[str]:
    """Modules without their test file; a package needs at least one that begins with its name."""
    found = []
    for module in sorted({source.partition("/")[0] for source in sources} - {"__init__.py", "__main__.py"}):
        wanted = f"test_{module}" if module.endswith(".py") else f"test_{module}*.py"
        if not any(Path(test).match(wanted) for test in tests):
            found.append(f"hookengine/{module} has no tests/{wanted}")
    return found


SOURCES = [path.relative_to(PACKAGE).as_posix() for path in sorted(PACKAGE.rglob("*.py"))]
TEST_FILES = [path.relative_to(TESTS).as_posix() for path in sorted(TESTS.rglob("*.py"))]


@pytest.mark.parametrize("path", TEST_FILES)
@pytest.mark.parametrize("check", [wordless_tests, sleeps, mocks])
def test_tests_keep_the_habits(path: str, check: Callable[[ast.Module], list[str]]) -> None:
    """Every test says in one sentence what it proves, and no test file sleeps or mocks."""
    assert [] == check(ast.parse((TESTS / path).read_text()))


@pytest.mark.parametrize("path", SOURCES)
def test_public_names_are_documented(path: str) -> None:
    """Every module, public class, function and method has a docstring."""
    assert [] == undocumented(ast.parse((PACKAGE / path).read_text()))


@pytest.mark.parametrize("path", [path for path in SOURCES if path != "clock.py" and path not in CLOCK_READERS])
def test_only_the_clock_reads_the_clock(path: str) -> None:
    """Time and randomness come in as arguments."""
    assert [] == clock_reads(ast.parse((PACKAGE / path).read_text()))


def test_every_clock_reader_is_needed() -> None:
    """An exception that no module uses any more is struck from the list."""
    assert [] == [path for path in CLOCK_READERS if not clock_reads(ast.parse((PACKAGE / path).read_text()))]


def test_every_module_has_its_tests() -> None:
    """Tests mirror modules."""
    assert [] == missing_tests(SOURCES, TEST_FILES)


@pytest.mark.parametrize(
    ("check", "source", "expected"),
    [
        pytest.param(wordless_tests, "def test_x(): ...", ["1: test_x "], id="test without docstring"),
        pytest.param(wordless_tests, "async def test_x():\n 'It holds'", ["1: test_x "], id="no full stop"),
        pytest.param(wordless_tests, "def test_x():\n 'A is. B is.'", ["1: test_x "], id="two sentences"),
        pytest.param(wordless_tests, "def test_x():\n '''A.\n\n B.'''", ["1: test_x "], id="two paragraphs"),
        pytest.param(wordless_tests, "class T:\n def test_x(self): ...", ["2: T.test_x "], id="test in a class"),
        pytest.param(wordless_tests, "def test_x():\n '''Row 4.1 of RFC 9110,\n 5.6.1 holds.'''", [], id="numbers"),
        pytest.param(wordless_tests, "def make(): ...", [], id="no test"),
        pytest.param(undocumented, "x = 1", ["1: the module "], id="bare module"),
        pytest.param(undocumented, "'M.'\ndef f(): ...\ndef _g(): ...", ["2: f "], id="bare function"),
        pytest.param(undocumented, "'M.'\nclass A:\n def f(self): ...", ["2: A ", "3: A.f "], id="bare class, method"),
        pytest.param(undocumented, "'M.'\nclass _A:\n def f(self): ...", [], id="private class"),
        pytest.param(undocumented, "'M.'\nclass A:\n 'A.'\n def __len__(self): ...", [], id="magic method"),
        pytest.param(undocumented, "'M.'\nclass A:\n 'A.'\n @x.setter\n def x(self, to): ...", [], id="setter"),
        pytest.param(sleeps, "import time\ntime.sleep(1)", ["2: time.sleep "], id="sleep"),
        pytest.param(sleeps, "from asyncio import sleep as nap\nnap(0.1)", ["2: asyncio.sleep "], id="sleep, renamed"),
        pytest.param(sleeps, "import asyncio as a\na.sleep(delay)", ["2: asyncio.sleep "], id="sleep, computed"),
        pytest.param(sleeps, "import asyncio\nasyncio.sleep(delay=1)", ["2: asyncio.sleep "], id="sleep, keyword"),
        pytest.param(sleeps, "import asyncio\nasyncio.sleep(0)", [], id="sleep of nothing"),
        pytest.param(mocks, "from unittest.mock import patch", ["1: unittest.mock.patch "], id="mock"),
        pytest.param(mocks, "from unittest import mock", ["1: unittest.mock "], id="mock, as a module"),
        pytest.param(mocks, "def test_x(mocker): ...", ["1: mocker "], id="mock, as a fixture"),
        pytest.param(mocks, "import mockingbird", [], id="no mock"),
        pytest.param(clock_reads, "def f():\n import time", ["2: time "], id="clock"),
        pytest.param(clock_reads, "from secrets import token_hex", ["1: secrets.token_hex "], id="randomness"),
        pytest.param(
            clock_reads,
            "import datetime as dt\nfrom datetime import date\ndt.datetime.now()\ndate.today()",
            ["3: datetime.datetime.now ", "4: datetime.date.today "],
            id="calendar",
        ),
        pytest.param(clock_reads, "import timeit, hookengine.clock\nclock.now()\nloop.time()", [], id="no clock"),
    ],
)
def test_checks_name_the_guilty(check: Callable[[ast.Module], list[str]], source: str, expected: list[str]) -> None:
    """Each check finds what it is for, with its line, and nothing else."""
    found = check(ast.parse(source))

    assert expected == [text[: len(start)] for text, start in zip(found, expected, strict=True)]


def test_missing_tests_are_named() -> None:
    """A module without its test file is found, and so is a package without any."""
    sources = ["__init__.py", "clock.py", "retry.py", "server/__init__.py", "store/reader.py", "store/writer.py"]

    found = missing_tests(sources, ["test_clock.py", "test_store_writer.py"])

    assert ["hookengine/retry.py has no tests/test_retry.py", "hookengine/server has no tests/test_server*.py"] == found
