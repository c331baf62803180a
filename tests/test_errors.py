"""The tree of errors: what it says of itself, what programs may rely on, and what users read."""

from __future__ import annotations

import ast
import copy
import pickle
import re
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hookengine import errors, signing
from hookengine.errors import (
    AlreadyRunning,
    ConfigInvalid,
    DatabaseTooNew,
    HookEngineError,
    Invalid,
    KeyUnusable,
    Malformed,
    Mistake,
    RequestError,
    StartError,
    StorageFailed,
    VerificationError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

# Codes and statuses are a contract: programs are written against them.
STABLE = {
    "HookEngineError": ("error", None),
    "RequestError": ("request_error", 400),
    "Malformed": ("malformed", 400),
    "Unauthorized": ("unauthorized", 401),
    "Forbidden": ("forbidden", 403),
    "NotFound": ("not_found", 404),
    "EventNotFound": ("event_not_found", 404),
    "SubscriptionNotFound": ("subscription_not_found", 404),
    "DeliveryNotFound": ("delivery_not_found", 404),
    "EventTypeNotFound": ("event_type_not_found", 404),
    "TenantNotFound": ("tenant_not_found", 404),
    "TenantSecretNotFound": ("tenant_secret_not_found", 404),
    "TokenNotFound": ("token_not_found", 404),
    "MethodNotAllowed": ("method_not_allowed", 405),
    "Conflict": ("conflict", 409),
    "EventExists": ("event_exists", 409),
    "DeliveryStateConflict": ("delivery_state_conflict", 409),
    "SubscriptionDisabled": ("subscription_disabled", 409),
    "SubscriptionLimitReached": ("subscription_limit_reached", 409),
    "TokenExists": ("token_exists", 409),
    "PreconditionFailed": ("precondition_failed", 412),
    "PayloadTooLarge": ("payload_too_large", 413),
    "UnsupportedMediaType": ("unsupported_media_type", 415),
    "Invalid": ("invalid", 422),
    "EndpointVerificationFailed": ("endpoint_verification_failed", 422),
    "IdempotencyMismatch": ("idempotency_mismatch", 422),
    "Overloaded": ("overloaded", 429),
    "RateLimited": ("rate_limited", 429),
    "TooManyTests": ("too_many_tests", 429),
    "Unavailable": ("unavailable", 503),
    "StorageUnavailable": ("storage_unavailable", 503),
    "Stopping": ("stopping", 503),
    "StartError": ("start_error", None),
    "AlreadyRunning": ("already_running", None),
    "ConfigInvalid": ("config_invalid", None),
    "DatabaseTooNew": ("database_too_new", None),
    "KeyUnusable": ("key_unusable", None),
    "StorageFailed": ("storage_failed", None),
    "StorageCorrupt": ("storage_corrupt", None),
    "VerificationError": ("verification_failed", None),
}


def family(root: type[HookEngineError]) -> Iterator[type[HookEngineError]]:
    """*root* and all below it, those of our own package."""
    if root.__module__ == errors.__name__:
        yield root
    for child in root.__subclasses__():
        yield from family(child)


CLASSES = {each.__name__: each for each in family(HookEngineError)}
DRAWN = re.compile(r"^(?P<indent>[ │]*(?:[├└]─ )?)(?P<name>[A-Z]\w+)(?: .*?)?(?:(?P<exit>exit )?(?P<number>[0-9]+))?$")


def drawn() -> Iterator[tuple[str, str | None, re.Match[str]]]:
    """Name, parent and line of each class in the module's docstring."""
    above: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").partition("\n\n")[2].splitlines():
        if match := DRAWN.match(line):
            depth = len(match["indent"])
            above = [(indent, name) for indent, name in above if indent < depth]
            yield match["name"], above[-1][1] if above else None, match
            above.append((depth, match["name"]))


def an_error_of(kind: type[HookEngineError]) -> HookEngineError:
    """An instance of *kind*, made with what its class takes."""
    if issubclass(kind, AlreadyRunning):
        return kind("hooks.db", 7)
    if issubclass(kind, DatabaseTooNew):
        return kind("hooks.db", 9, 2)
    if issubclass(kind, VerificationError):
        return kind("no_match", "no signature fits")
    if issubclass(kind, RequestError | ConfigInvalid):
        return kind("words", mistakes=(Mistake(code="unknown", detail="unknown member", pointer="/urll"),))
    return kind("words")


def test_tree_is_as_drawn() -> None:
    """The classes and their parents are those of the module's docstring."""
    parents = {name: kind.__base__.__name__ for name, kind in CLASSES.items() if kind.__base__ and name != "HookEngineError"}

    assert {"HookEngineError": None} | parents == {name: parent for name, parent, _ in drawn()}


@pytest.mark.parametrize(("name", "line"), [(name, line) for name, _, line in drawn() if line["number"]])
def test_drawn_numbers_are_true(name: str, line: re.Match[str]) -> None:
    """The statuses and exit statuses in the drawing are those of the classes."""
    assert int(line["number"]) == getattr(CLASSES[name], "exit_status" if line["exit"] else "status")


def test_codes_and_statuses_are_stable() -> None:
    """What programs read of an error never changes."""
    assert STABLE == {name: (kind.code, getattr(kind, "status", None)) for name, kind in CLASSES.items()}


def test_exit_statuses_are_stable() -> None:
    """What scripts read of a start that failed never changes."""
    exits = {name: kind.exit_status for name, kind in CLASSES.items() if issubclass(kind, StartError | StorageFailed)}
    others = dict.fromkeys(["StartError", "ConfigInvalid", "DatabaseTooNew", "KeyUnusable"], 78)

    assert {"AlreadyRunning": 75, "StorageFailed": 70} | others == exits


def test_codes_are_unique() -> None:
    """A code names one class, so that a program can tell them apart."""
    codes = [kind.code for kind in CLASSES.values()]

    assert sorted(set(codes)) == sorted(codes)


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES.keys())
def test_status_of_a_branch_is_inherited(kind: type[HookEngineError]) -> None:
    """Whoever catches an error by its parent can answer with the parent's status."""
    parent = kind.__base__
    if parent is not None and issubclass(parent, RequestError) and parent is not RequestError:
        assert parent.status == getattr(kind, "status", None)


@pytest.mark.parametrize(
    ("name", "seconds"),
    [
        ("Unavailable", 5),
        ("StorageUnavailable", 5),
        ("Stopping", 5),
        ("Overloaded", 1),
        ("RateLimited", 1),
        ("Conflict", None),
    ],
)
def test_what_passes_says_when_to_come_again(name: str, seconds: int | None) -> None:
    """Errors that go away by themselves carry the seconds of `Retry-After`, others none."""
    assert seconds == getattr(CLASSES[name], "retry_after", None)


@pytest.mark.parametrize(
    "kind", [k for k in CLASSES.values() if not issubclass(k, AlreadyRunning | DatabaseTooNew | VerificationError)]
)
def test_docstring_is_the_default_message(kind: type[HookEngineError]) -> None:
    """Without words of its own an error says the first sentence of its docstring."""
    error = kind()

    assert (kind.__doc__ or "").strip().splitlines()[0] == error.detail == str(error)
    assert error.detail.endswith(".")


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES.keys())
def test_own_words_win(kind: type[HookEngineError]) -> None:
    """What is said when an error is raised is what the user reads."""
    error = an_error_of(kind)

    assert error.detail == error.args[0]
    assert str(error).startswith(error.detail)


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES.keys())
def test_errors_travel_between_processes(kind: type[HookEngineError]) -> None:
    """A pickled error arrives whole, so that a worker pool which verifies signatures does not break over one."""
    error = an_error_of(kind)

    for arrived in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (type(error), str(error), vars(error)) == (type(arrived), str(arrived), vars(arrived))


def test_malformed_can_be_so_in_several_ways() -> None:
    """A code given to one Malformed is that error's alone."""
    error = Malformed("the member 'type' is there twice", code="duplicate_key")

    assert ("duplicate_key", 400) == (error.code, error.status)
    assert "malformed" == Malformed.code == Malformed("no JSON").code


def test_invalid_names_every_mistake() -> None:
    """The text of an Invalid names each mistake with its place."""
    error = Invalid(
        "The event is not valid.",
        mistakes=(
            Mistake(code="missing", detail="is missing", pointer="/type"),
            Mistake(code="invalid_value", detail="expected 1 to 250", parameter="limit"),
            Mistake(code="invalid_type", detail="expected an object", pointer=""),
        ),
    )

    expected = "The event is not valid. /type: is missing; limit: expected 1 to 250; (whole): expected an object"
    assert expected == str(error)


def test_invalid_without_mistakes_is_its_detail() -> None:
    """With nothing to name, the text ends after the sentence."""
    assert "no such plan" == str(Invalid("no such plan"))


@pytest.mark.parametrize(
    ("pid", "text"),
    [
        pytest.param(4711, "hooks.db is in use by pid 4711", id="known"),
        pytest.param(None, "hooks.db is in use by another process", id="unknown"),
    ],
)
def test_already_running_names_the_owner(pid: int | None, text: str) -> None:
    """Who finds the file taken reads by whom, as far as that is known."""
    error = AlreadyRunning("hooks.db", pid)

    assert (text, pid, 75) == (str(error), error.pid, error.exit_status)


def test_start_that_may_go_well_later_says_so() -> None:
    """A start can end with another status than its class has, and that of the class stays."""
    assert [75, 78] == [StartError("locked", exit_status=75).exit_status, StartError("locked").exit_status]


def test_too_new_names_both_versions() -> None:
    """Who has too old a program reads what the file has and what the program knows."""
    error = DatabaseTooNew("hooks.db", found=9, known=2)

    assert (9, 2, 78) == (error.found, error.known, error.exit_status)
    assert "version 9" in str(error)
    assert "up to 2" in str(error)


def test_config_carries_its_mistakes() -> None:
    """A wrong configuration hands every mistake on, and a wrong key ends the start with the same status."""
    mistake = Mistake(code="unknown", detail="unknown option", pointer="/server/lisen")

    assert (mistake,) == ConfigInvalid("config.toml", mistakes=(mistake,)).mistakes
    assert 78 == ConfigInvalid.exit_status == KeyUnusable.exit_status


def test_mistake_is_frozen() -> None:
    """A mistake does not change once it was found."""
    mistake = Mistake(code="missing", detail="is missing", pointer="/type")

    with pytest.raises(FrozenInstanceError):
        mistake.code = "other"  # type: ignore[misc]  # what must fail


def test_reasons_of_verification_are_documented() -> None:
    """The reasons that `verify` gives are those listed at VerificationError."""
    tree = ast.parse(Path(signing.__file__).read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "VerificationError"]
    given = {str(node.value) for call in calls for node in ast.walk(call.args[0]) if isinstance(node, ast.Constant)}
    listed = (VerificationError.__doc__ or "").partition("`reason` is stable:")[2]

    assert sorted(given) == sorted(re.findall(r"[a-z_]+", listed))
