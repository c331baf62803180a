"""The providers' examples: whoever follows their pages sees what they show, of a real daemon and a real receiver."""

from __future__ import annotations

import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from walk import ROOT, Names, Step, Walk, steps

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

EXAMPLES = ROOT / "examples"
ORACLES = ROOT / "tests" / "oracles"

# Each example with the programs that its page needs beside hookengine.
PAGES = {"clearfeed": ("node", "openssl", "curl"), "clarife": ("node", "openssl"), "clevertap": ("curl",)}


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[list[str]]]]:
    """What is wrong with each page whose programs are here; the walks go side by side, since most of their time is waiting."""
    with ThreadPoolExecutor() as pool:
        yield {
            page: pool.submit(walked, Walk(EXAMPLES / page, tmp_path_factory.mktemp(page)), EXAMPLES / page / "README.md")
            for page, programs in PAGES.items()
            if all(map(shutil.which, programs))
        }


def walked(walk: Walk, page: Path) -> list[str]:
    """What *page* shows otherwise than it is."""
    return [
        "\n".join([f"{page}:{step.line}: {step.command or 'the receiver'}", *step.shown, "--- but it printed", *printed])
        for step, printed, right in walk.follow(page.read_text())
        if not right
    ]


@pytest.mark.parametrize("page", PAGES)
def test_page_shows_what_happens(page: str, walks: dict[str, Future[list[str]]], find_program: Callable[[str], str]) -> None:
    """Every command of the page prints what stands beneath it, and the receiver shows what the page says that it shows."""
    for program in PAGES[page]:
        find_program(program)

    found = walks[page].result()

    assert not found, "\n\n".join(found)


@pytest.mark.parametrize("page", ["publishing.md", "receiving.md"])
def test_document_shows_what_happens(page: str, tmp_path: Path, find_program: Callable[[str], str]) -> None:
    """A document that shows answers of the API shows those that come."""
    find_program("curl")
    (tmp_path / "nothing").mkdir()
    (tmp_path / "run").mkdir()

    assert not walked(Walk(tmp_path / "nothing", tmp_path / "run"), ROOT / "docs" / page)


def test_every_page_is_walked() -> None:
    """No example with a page is left out."""
    assert sorted(PAGES) == sorted(path.parent.name for path in EXAMPLES.glob("*/README.md"))


def published(oracle: str) -> str:
    """The code that a provider publishes, as the oracles have it."""
    return (ORACLES / oracle).read_text().split("// ---- published ----\n")[1]


def test_clarife_is_verified_by_the_published_code() -> None:
    """The receiver has Clarife's function word for word."""
    function = published("clarife.mjs").partition("\n\n")[2]

    assert function in (EXAMPLES / "clarife" / "receiver.mjs").read_text()


def test_clearfeed_is_verified_by_the_published_code() -> None:
    """The receiver has ClearFeed's function with the corrections that its page tells of, and no other."""
    corrected = published("clearfeed.mjs").replace("webhookSecret", "signingSecret")
    corrected = corrected.replace("signature === calculatedSignature", "equalInConstantTime(signature, calculatedSignature)")
    receiver = (EXAMPLES / "clearfeed" / "receiver.mjs").read_text()

    assert corrected in "".join(line for line in receiver.splitlines(keepends=True) if "// Corrected:" not in line)


# The walk itself: a page that does not tell the truth is found.

A, B, C = (f"sub_01a2157e-0b9a-7000-bbd5-{number:012d}" for number in range(3))


@pytest.mark.parametrize(
    ("shown", "printed", "right"),
    [
        pytest.param(["a  b"], ["a\t b  "], True, id="blanks"),
        pytest.param(["a"], ["b"], False, id="other text"),
        pytest.param([], ["a"], False, id="more than nothing"),
        pytest.param(["a"], [], False, id="nothing"),
        pytest.param(["a"], ["a", "b"], False, id="more lines"),
        pytest.param(["a", "b"], ["a"], False, id="fewer lines"),
        pytest.param(["…"], ["a", "b"], True, id="any lines"),
        pytest.param(["…", "b"], ["a", "a", "b"], True, id="any lines before"),
        pytest.param(["a", "…", "b", "…"], ["a", "b"], True, id="any lines may be none"),
        pytest.param(["…", "b"], ["a", "b", "c"], False, id="more lines after"),
        pytest.param(["…", "b", "a"], ["a", "b"], False, id="order"),
        pytest.param(["a … d"], ["a b c d"], True, id="any text"),
        pytest.param(["a … d"], ["a b c"], False, id="any text, then another"),
        pytest.param(["a.c"], ["abc"], False, id="no pattern"),
        pytest.param([f"{A} {B}"], [f"{B} {A}"], True, id="ids"),
        pytest.param([A, A], [B, B], True, id="the same id"),
        pytest.param([A, A], [B, C], False, id="two ids for one"),
        pytest.param([f"{A} {B}"], [f"{C} {C}"], False, id="one id for two"),
        pytest.param(["200 in 3 ms"], ["200 in 41 ms"], True, id="milliseconds"),
        pytest.param(["200 in 3 ms"], ["201 in 3 ms"], False, id="status"),
        pytest.param(["at 2026-11-26T01:35:24Z"], ["at 2030-01-31T12:00:00Z"], True, id="time"),
        pytest.param(["at 2026-11-26T01:35:24Z"], ["at 2030-01-31T12:00:00.000Z"], True, id="time with milliseconds"),
        pytest.param(["t=1795656679"], ["t=1895656679"], True, id="Unix seconds"),
        pytest.param(["500, next try in 10 s"], ["500, next try in 8 s"], True, id="wait, on a busy machine"),
        pytest.param(["500, next try in 1.0 s"], ["500, next try now"], True, id="wait that is over"),
        pytest.param(["500, next try in 10 s"], ["500, next try in 60 s"], False, id="longer wait"),
        pytest.param(["500, next try in 5 min"], ["500, next try in 5 s"], False, id="shorter wait"),
    ],
)
def test_shown_is_compared_with_printed(shown: list[str], printed: list[str], right: bool) -> None:
    """What is shown stands for what was printed by the rules of walk.py, and for nothing else."""
    assert right == Names().match(shown, printed)


def test_names_hold_over_a_page() -> None:
    """An id of the page is that of the run from its first appearance on, in commands too."""
    names = Names()

    assert names.match([A], [B])
    assert f"show {B} {C}" == names.of_run(f"show {A} {C}")
    assert [True, False, False] == [names.match([A], [B]), names.match([A], [C]), names.match([C], [B])]


def test_page_is_read_as_steps() -> None:
    """Commands are joined over their lines, have what is beneath them, and other blocks are none."""
    page = "Text\n\n```console\n$ a \\\n    b\nsaid\n\n$ c\n```\n\n```sh\n$ no\n```\n\n```text\nseen\n```\n"

    assert [Step(4, "a b", ["said", ""]), Step(8, "c", []), Step(16, "", ["seen"])] == list(steps(page))


RECEIVER = """\
import os, signal, sys
print("Listening on :" + os.environ["PORT"] + "\\none\\ntwo", flush=True)
"end" in sys.argv or signal.pause()
"""
START = "```console\n$ python receiver.py\nListening on :9000\n```\n"


@pytest.mark.parametrize(
    ("page", "found"),
    [
        pytest.param("```console\n$ cat note.txt\nat :9000\n```\n", [], id="true"),
        pytest.param("```console\n$ cat note.txt\nat :9001\n```\n", [["at :9000"]], id="lie"),
        pytest.param("```console\n$ cat note.txt\n```\n", [["at :9000"]], id="silence"),
        pytest.param("```console\n$ cd examples/x\n$ test -t 1 && echo seen >&2\nseen\n```\n", [], id="terminal"),
        pytest.param(START + "```text\none\ntwo\n```\n", [], id="receiver, true"),
        pytest.param(START + "```text\none\n2\n```\n", [["one", "two"]], id="receiver, lie"),
        pytest.param(START + "```text\none\n```\n", [["two"]], id="receiver, silence"),
        pytest.param(START + "```text\none\n```\n" + START, [["two"], ["one", "two"]], id="receiver, silence before another"),
        pytest.param(
            START.replace(".py", ".py end") + "```text\none\ntwo\n3\n```\n", [["one", "two"]], id="receiver, too much"
        ),
        pytest.param(
            START.replace(":9000", ":9001"), [["Listening on :9000"], ["one", "two"]], id="receiver, lie at its start"
        ),
    ],
)
def test_lies_are_found(tmp_path: Path, page: str, found: list[list[str]]) -> None:
    """A walk runs what the page says, on a terminal and with ports of its own, and tells where the page is wrong."""
    (tmp_path / "example").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "example" / "note.txt").write_text("at :9000\n")
    (tmp_path / "example" / "receiver.py").write_text(RECEIVER)

    walk = Walk(tmp_path / "example", tmp_path / "run")

    assert found == [printed for _, printed, right in walk.follow(page) if not right]
