"""Imports point down: the layers of the design, held."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hookengine"

# Lowest first. A package counts as one module; what is inside it may import each other.
LAYERS = (
    ("errors", "clock", "models", "deadline", "failpoints", "interpreter", "pace", "wording"),
    ("message", "wire", "lanes", "concealing", "schemes", "times", "arguments"),
    ("signing_keys",),
    (
        *("signing", "retry", "health", "scheduler", "matching", "access", "vault", "netguard", "resolver", "exchange"),
        *("auth", "metrics", "client", "validation", "views", "javascript", "statistics", "gathering", "flights", "payloads"),
    ),
    ("envelopes", "jsontext", "sources", "bearers", "verdicts"),
    ("profiles",),
    ("extensions",),
    ("config", "sender", "store", "inputs"),
    ("subscribing",),
    ("observers", "paging", "presentation"),
    ("outage",),
    ("attempting",),
    ("serving",),
    ("dispatcher", "maintenance", "stream"),
    ("service",),
    ("server", "api"),
    ("engine",),
    ("receiver", "bench"),
    ("cli", "testing"),
    ("__main__",),
)
LAYER_OF = {module: number for number, layer in enumerate(LAYERS) for module in layer}

# (importer, imported) within one layer, each with its reason.
SIDEWAYS: set[tuple[str, str]] = set()

# Modules that a receiver or a script imports alone, and what they may load when it is first used.
STANDARD_LIBRARY_ONLY: dict[str, frozenset[str]] = {
    "__init__": frozenset(),
    "__main__": frozenset(),
    "errors": frozenset(),
    "clock": frozenset(),
    "schemes": frozenset(),
    "signing": frozenset(),
    "signing_keys": frozenset({"cryptography"}),  # Ed25519
    "client": frozenset(),
}

# No await, no clock, no log, no file.
PURE = {
    *("errors", "models", "signing", "retry", "health", "scheduler", "matching", "access", "auth", "metrics", "validation"),
    *("views", "profiles", "javascript", "envelopes", "extensions", "statistics", "gathering", "flights", "payloads"),
    *("lanes", "pace", "concealing", "schemes", "signing_keys", "times", "wording", "arguments"),
}
IMPURE_IMPORTS = {"aiohttp", "aiosqlite", "asyncio", "io", "logging", "os", "pathlib", "socket", "sqlite3", "structlog"}
ASYNC = (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await)


class Import(NamedTuple):
    """One imported name, dotted and absolute; `late` ones happen only when a function runs, or only for type checkers."""

    name: str
    line: int
    late: bool


def imports(tree: ast.AST, package: str, *, late: bool = False) -> Iterator[Import]:
    """Every import below *tree*, which stands in a module of *package*; also `import_module` with a constant."""
    for node in ast.iter_child_nodes(tree):
        match node:
            case ast.Import():
                yield from (Import(alias.name, node.lineno, late) for alias in node.names)
            case ast.ImportFrom():
                ancestors = package.split(".")
                above = ".".join(ancestors[: len(ancestors) + 1 - node.level]) if node.level else ""
                home = ".".join(filter(None, (above, node.module)))
                yield from (Import(f"{home}.{alias.name}", node.lineno, late) for alias in node.names)
            case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called), args=[ast.Constant(value=str(name)), *_]) if (
                called in {"import_module", "__import__"}
            ):
                yield Import(name, node.lineno, late)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                yield from imports(node, package, late=True)
            case ast.If(test=ast.Name(id="TYPE_CHECKING") | ast.Attribute(attr="TYPE_CHECKING")):
                yield from imports(ast.Module(node.body, []), package, late=True)
                yield from imports(ast.Module(node.orelse, []), package, late=late)
            case _:
                yield from imports(node, package, late=late)


def foreign_mistake(module: str, found: Import) -> str | None:
    """Why *module* may not import this from outside hookengine, if so."""
    root = found.name.partition(".")[0]
    admitted = STANDARD_LIBRARY_ONLY.get(module)
    if admitted is None or root in sys.stdlib_module_names or (found.late and root in admitted):
        return None
    return "this module is standard library only"


def own_mistake(module: str, found: Import) -> str | None:
    """Why *module* may not import this from hookengine, if so."""
    _, target, *_ = f"{found.name}.".split(".")
    if target in {module, "__version__"}:
        return None
    if module == "__init__":
        return None if found.late else "the package loads its modules lazily"
    if target not in LAYER_OF:
        return "not a module of the list of layers"
    if LAYER_OF[target] < LAYER_OF[module] or (module, target) in SIDEWAYS:
        return None
    return f"layer {LAYER_OF[module]} imports only from below, and {target} is in layer {LAYER_OF[target]}"


def module_of(path: str) -> str:
    """The name in the list of layers, of a file below hookengine/."""
    return path.partition("/")[0].removesuffix(".py")


def package_of(path: str) -> str:
    """The dotted name of the package that a file below hookengine/ stands in."""
    return ".".join(["hookengine", *path.split("/")[:-1]])


def mistakes(path: str, source: str) -> list[str]:
    """What is wrong with the imports of a module, given by its path below hookengine/."""
    module = module_of(path)
    if module != "__init__" and module not in LAYER_OF:
        return [f"{path}: {module} is not in the list of layers"]
    found = []
    for each in imports(ast.parse(source), package_of(path)):
        judge = own_mistake if each.name.partition(".")[0] == "hookengine" else foreign_mistake
        if why := judge(module, each):
            found.append(f"{path}:{each.line} imports {each.name}: {why}")
    return found


def impurities(path: str, source: str) -> list[str]:
    """Where a pure module awaits, or imports what touches the world."""
    tree = ast.parse(source)
    awaits = [f"{path}:{node.lineno} awaits" for node in ast.walk(tree) if isinstance(node, ASYNC)]
    touching = [each for each in imports(tree, "hookengine") if each.name.partition(".")[0] in IMPURE_IMPORTS]
    return awaits + [f"{path}:{each.line} imports {each.name}" for each in touching]


SOURCES = [path.relative_to(PACKAGE).as_posix() for path in sorted(PACKAGE.rglob("*.py"))]


@pytest.mark.parametrize("path", SOURCES)
def test_imports_point_down(path: str) -> None:
    """A module imports only from layers below its own, also inside functions and for type checkers."""
    assert [] == mistakes(path, (PACKAGE / path).read_text())


@pytest.mark.parametrize("path", [path for path in SOURCES if path.removesuffix(".py") in PURE])
def test_pure_modules_touch_nothing(path: str) -> None:
    """A module that decides neither awaits nor imports what reads or writes the world."""
    assert [] == impurities(path, (PACKAGE / path).read_text())


@pytest.mark.parametrize("module", [name for name in STANDARD_LIBRARY_ONLY if f"{name}.py" in SOURCES and name != "__main__"])
def test_alone_without_site_packages(module: str) -> None:
    """What promises to need the standard library only is imported by a Python that has nothing else."""
    name = "hookengine" if module == "__init__" else f"hookengine.{module}"
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, sys.argv[1]); import {name}", str(ROOT)]

    ended = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)

    assert (0, "") == (ended.returncode, ended.stderr)


def test_every_sideways_import_is_needed() -> None:
    """An exception within a layer that no module uses any more is struck from the list."""
    used = {
        (module_of(path), found.name.split(".")[1])
        for path in SOURCES
        for found in imports(ast.parse((PACKAGE / path).read_text()), package_of(path))
        if found.name.startswith("hookengine.")
    }

    assert set() == SIDEWAYS - used


def test_every_module_has_one_layer() -> None:
    """No module stands twice in the list of layers."""
    assert sum(map(len, LAYERS)) == len(LAYER_OF)
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert there - {"__init__"} == LAYER_OF.keys()


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        pytest.param("retry.py", "import hookengine.sender", "retry.py:1 imports hookengine.sender: ", id="up"),
        pytest.param("retry.py", "from hookengine.health import x", "imports hookengine.health.x: layer 3 ", id="beside"),
        pytest.param("validation.py", "import hookengine.views", "imports hookengine.views: ", id="beside, wrong way round"),
        pytest.param("retry.py", "from hookengine import sender", "imports hookengine.sender: ", id="from the package"),
        pytest.param("retry.py", "from hookengine import Engine", "imports hookengine.Engine: not a module", id="facade"),
        pytest.param("retry.py", "import hookengine", "imports hookengine: not a module", id="whole package"),
        pytest.param("retry.py", "from . import sender", "imports hookengine.sender: ", id="relative"),
        pytest.param("store/reader.py", "from ..engine import x", "imports hookengine.engine.x: ", id="relative, two up"),
        pytest.param("store/__init__.py", "from .. import engine", "imports hookengine.engine: ", id="relative, package"),
        pytest.param("retry.py", "def f():\n import hookengine.store.rows", "retry.py:2 imports ", id="in a function"),
        pytest.param(
            "retry.py", "if TYPE_CHECKING:\n import hookengine.engine", "retry.py:2 imports ", id="for type checkers"
        ),
        pytest.param("retry.py", "import_module('hookengine.engine')", "imports hookengine.engine: ", id="dynamic"),
        pytest.param("retry.py", "try:\n import hookengine.engine\nexcept E: ...", "imports hook", id="in a try"),
        pytest.param("shiny.py", "", "shiny is not in the list of layers", id="unknown module"),
        pytest.param("shiny/__init__.py", "", "shiny is not in the list of layers", id="unknown package"),
        pytest.param("retry.py", "import hookengine.shiny", "not a module of the list", id="unknown target"),
        pytest.param("signing.py", "import msgspec", "imports msgspec: this module is standard", id="third party"),
        pytest.param("signing_keys.py", "from cryptography.x import y", "imports cryptography.x.y: ", id="third party, early"),
        pytest.param("client.py", "def f():\n import aiohttp", "imports aiohttp: this module", id="third party, late"),
        pytest.param("__init__.py", "from hookengine.engine import Engine", "loads its modules lazily", id="eager package"),
        pytest.param("__init__.py", "import aiohttp", "imports aiohttp: this module", id="package with third party"),
    ],
)
def test_wrong_imports_are_named(path: str, source: str, expected: str) -> None:
    """The checker names the guilty module, its line and the import."""
    [found] = mistakes(path, source)

    assert expected in found


@pytest.mark.parametrize(
    ("path", "source"),
    [
        pytest.param("sender.py", "import asyncio, aiohttp, hookengine.netguard", id="down"),
        pytest.param("store/writer.py", "from hookengine.store.rows import x\nfrom . import rows", id="in one package"),
        pytest.param("store/__init__.py", "from .writer import Writer", id="package and its module"),
        pytest.param("exchange.py", "from hookengine import __version__", id="version"),
        pytest.param("signing_keys.py", "import hmac\ndef f():\n from cryptography.x import y", id="late and admitted"),
        pytest.param("__init__.py", "if TYPE_CHECKING:\n from hookengine.engine import Engine", id="lazy package"),
    ],
)
def test_right_imports_pass(path: str, source: str) -> None:
    """The checker has nothing against an import that points down."""
    assert [] == mistakes(path, source)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        pytest.param("async def f(): ...", "retry.py:1 awaits", id="async function"),
        pytest.param("def f():\n import os", "retry.py:2 imports os", id="late import"),
        pytest.param("from logging import getLogger", "retry.py:1 imports logging.getLogger", id="log"),
    ],
)
def test_impurities_are_named(source: str, expected: str) -> None:
    """The checker of pure modules names the line and what is on it."""
    assert [expected] == impurities("retry.py", source)
