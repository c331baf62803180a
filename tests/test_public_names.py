"""What `import hookengine` gives, and what it does not load."""

from __future__ import annotations

import ast
import sys
import tomllib
from importlib import import_module

import pytest
from interpreters import ROOT, fresh

import hookengine

PACKAGE = ROOT / "hookengine"

PUBLIC = """
    AlreadyRunning Attempt Config ConfigInvalid Conflict Delivery DeliveryNotFound Engine Event EventExists
    EventNotFound Forbidden HookEngineError Invalid Malformed Mistake NotFound Page PreconditionFailed StorageFailed
    Subscription SubscriptionNotFound VerificationError verify
"""


def loaded_after(statements: str) -> set[str]:
    """The top-level modules, and those of our own package, that *statements* load in a fresh interpreter."""
    names = set(fresh(f"before = set(sys.modules); {statements}; print(*(sys.modules.keys() - before))").split())
    return {name.partition(".")[0] for name in names} | {name for name in names if name.startswith("hookengine.")}


def test_names_are_sorted_and_complete() -> None:
    """The list of public names is in order, is the one that programs rely on, and each name has a home."""
    assert sorted(hookengine.__all__) == hookengine.__all__ == PUBLIC.split()
    assert hookengine.__all__ == list(hookengine._HOMES)


def test_type_checkers_see_the_same_names() -> None:
    """What type checkers read as imported comes from where it is loaded from."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    seen = {
        alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    assert {name: f"hookengine.{home}" for name, home in hookengine._HOMES.items()} == seen


@pytest.mark.parametrize("name", hookengine.__all__)
def test_name_is_what_its_home_has(name: str) -> None:
    """Each public name is loaded from its home when it is asked for, and is defined there."""
    public = getattr(hookengine, name)

    assert public is getattr(import_module(f"hookengine.{hookengine._HOMES[name]}"), name)
    assert f"hookengine.{hookengine._HOMES[name]}" == public.__module__


def test_star_gives_the_public_names() -> None:
    """`from hookengine import *` gives the public names and no other."""
    given: dict[str, object] = {}
    exec("from hookengine import *", given)  # the statement is not allowed inside a function
    del given["__builtins__"]

    assert set(hookengine.__all__) == set(given)


def test_dir_shows_the_public_names() -> None:
    """Completion in a prompt shows what there is before it was loaded."""
    assert sorted([*hookengine.__all__, "__version__"]) == dir(hookengine)


def test_unknown_name_is_an_attribute_error() -> None:
    """A misspelt name fails as it does with any module."""
    with pytest.raises(AttributeError, match="module 'hookengine' has no attribute 'engin'"):
        _ = hookengine.engin


@pytest.mark.parametrize(
    "statements",
    [
        pytest.param("import hookengine", id="package"),
        pytest.param("import hookengine; hookengine.__all__; dir(hookengine); hookengine.__version__", id="a look at it"),
        pytest.param("from hookengine import verify", id="verify"),
        pytest.param("from hookengine import verify, VerificationError, HookEngineError", id="verify and its errors"),
    ],
)
def test_receivers_load_the_standard_library_only(statements: str) -> None:
    """Who verifies signatures loads no web framework, no event loop and nothing else that needs installing."""
    loaded = loaded_after(statements)
    ours = {name for name in loaded if name.startswith("hookengine.")}

    assert {"hookengine"} == loaded - ours - sys.stdlib_module_names
    assert set() == loaded & {"asyncio", "sqlite3", "ssl"}
    assert ours <= {f"hookengine.{name}" for name in ("errors", "schemes", "signing", "signing_keys")}


def test_engine_is_loaded_when_asked_for() -> None:
    """The check above can fail: the engine itself does load what it runs on."""
    assert {"aiohttp", "asyncio", "msgspec", "hookengine.engine"} <= loaded_after("from hookengine import Engine")


def test_version_is_that_of_the_package() -> None:
    """The version is written in two places that agree."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert project["version"] == hookengine.__version__


def test_package_is_typed() -> None:
    """Type checkers of programs that use the package read its annotations."""
    assert (PACKAGE / "py.typed").exists()
