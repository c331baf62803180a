"""A progress bar, on stderr, for work that turns out to take longer than a second."""

from __future__ import annotations

import sys
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from hookengine.cli.output import say
from hookengine.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SOON = 1_000  # ms without a bar
_PAUSE = 5_000  # ms between two lines where there is no terminal


@contextmanager
def progress(words: str, clock: Clock | None = None) -> Iterator[Callable[[int, int], None]]:
    """What the work calls with how much is done and how much there is in all, 0 where that is not known."""
    clock = clock or Clock()
    with ExitStack() as stack:
        shown = _bar(words, stack) if sys.stderr.isatty() else _lines(words, clock)
        begun = clock.now()

        def advance(done: int, total: int) -> None:
            if clock.now() - begun >= _SOON:
                shown(done, total)

        yield advance


def _bar(words: str, stack: ExitStack) -> Callable[[int, int], None]:
    def begin() -> Callable[[int, int], None]:
        # Imported here, since most work is done sooner.
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import Progress  # noqa: PLC0415

        bar = stack.enter_context(Progress(console=Console(stderr=True), transient=True))
        task = bar.add_task(words, total=None)
        return lambda done, total: bar.update(task, completed=done, total=total or None)

    update: Callable[[int, int], None] | None = None

    def show(done: int, total: int) -> None:
        nonlocal update
        update = update or begin()
        update(done, total)

    return show


def _lines(words: str, clock: Clock) -> Callable[[int, int], None]:
    due = 0

    def show(done: int, total: int) -> None:
        nonlocal due
        if clock.now() >= due:
            due = clock.now() + _PAUSE
            say(f"{words}: {100 * done // total} %" if total else f"{words} …")

    return show
