"""Signals that end a verb: it tidies up, and its exit status tells which one it was."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from asyncio import Task
    from collections.abc import Iterator

_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")  # the last is not there everywhere


def ending() -> list[signal.Signals]:
    """What ends this process; under nohup SIGHUP is ignored, and stays so, as SIGINT is where a shell starts it with &."""
    numbers = [signal.Signals[name] for name in _NAMES if hasattr(signal, name)]
    return [number for number in numbers if signal.getsignal(number) not in {signal.SIG_IGN, None}]


@contextmanager
def heeding_signals(task: Task[Any] | None = None) -> Iterator[None]:
    """
    Let the first SIGTERM or SIGHUP end what is done meanwhile as Ctrl-C does, which tidies up; another does not disturb that.

    A coroutine gives its *task*, which is cancelled: an exception out of nowhere would hit what runs beside it.
    """
    is_main = threading.current_thread() is threading.main_thread()  # no other one may set how a signal is handled
    before = {number: signal.getsignal(number) for number in ending()} if is_main else {}
    told = 0

    def end(number: int, _: object) -> None:
        nonlocal told
        if told:
            return
        told = number
        if task is None:
            raise KeyboardInterrupt
        task.get_loop().call_soon_threadsafe(task.cancel)

    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if told:
            raise click.exceptions.Exit(128 + told)  # as shells count
