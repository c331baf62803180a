"""
What may befall a process that the launcher starts: each function arranges for one thing, before the process does any work.

Some make a broken variant of the product: they prove that the harness sees what it is there to see.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import re
import signal
import sqlite3
import sys
from itertools import count
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from aiosqlite import core

from hookengine import failpoints
from hookengine.clock import Clock
from hookengine.dispatcher import Dispatcher
from hookengine.models import Accepted, Event, Response, Rules
from hookengine.sender import Begun, Sender
from hookengine.store import commit, database, writer
from hookengine.store.intake import Receipt
from hookengine.store.writer import Writer

if TYPE_CHECKING:
    import aiosqlite

    from hookengine.models import Outcome, Request
    from hookengine.store.intake import Draft, Recorded

_RULES = Rules()
_kept: set[asyncio.Task[Any]] = set()  # else the loop lets go of them


def at(name: str, passage: int = 1) -> None:
    """SIGKILL at a failpoint."""
    failpoints.arm(name, passage)


def at_statement(pattern: str, passage: int = 1, delay: float = 0.0) -> None:
    """SIGKILL when SQLite begins the *passage*-th statement that matches; or after *delay* seconds more, by SIGALRM."""
    left = passage

    def begin(statement: str) -> None:
        nonlocal left
        if re.match(pattern, statement) is None:
            return
        left -= 1
        if left == 0 and delay:
            signal.setitimer(signal.ITIMER_REAL, delay)
        elif left == 0:
            _die()

    connect = sqlite3.connect

    def traced(*arguments: Any, **options: Any) -> Any:
        db = connect(*arguments, **options)
        db.set_trace_callback(begin)
        return db

    sqlite3.connect = traced  # aiosqlite looks it up there


def at_row(table: str, passage: int = 1) -> None:
    """SIGKILL inside the statement that is a commit, before it inserts the *passage*-th row into *table*."""
    left = passage

    def row() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            _die()

    prepare = commit.prepare

    async def prepared(db: aiosqlite.Connection) -> None:
        await prepare(db)
        await db.create_function("before_row", 0, row)
        await db.execute(f"CREATE TEMP TRIGGER fault BEFORE INSERT ON main.{table} BEGIN SELECT before_row(); END")

    commit.prepare = prepared


def at_call(pattern: str, passage: int = 1) -> None:
    """SIGKILL before the *passage*-th call into the system with a matching name: an event of Python's audit table."""
    left = passage

    def call(event: str, _: tuple[Any, ...]) -> None:
        nonlocal left
        if re.fullmatch(pattern, event):
            left -= 1
            if left == 0:
                _die()

    sys.addaudithook(call)


def at_size() -> None:
    """Let the system end the process when a file grows beyond RLIMIT_FSIZE, which Python else turns into an error."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)


def watches(folder: str, log: str = "", control: str = "") -> None:
    """Let disk.c, which is preloaded, write down what befalls the files of *folder*, and obey *control*."""
    ctypes.CDLL(None).disk_watch(folder.encode(), log.encode(), control.encode())


def folds_often(rows: int) -> None:
    """Fold the WAL into the file after so many rows, so that a short run has many checkpoints."""
    writer.rows_in = lambda size: min(size, rows)  # type: ignore[attr-defined]  # where it is called


def never_syncs() -> None:
    """A broken variant: SQLite waits for no sync."""
    database._SYNCHRONOUS["full"] = 0


def answers_before_it_commits() -> None:
    """A broken variant: a publication is answered while its commit has still to come."""
    submit, now = Writer.submit, Clock().now

    def answer(self: Writer, drafts: list[Draft], **options: Any) -> asyncio.Future[Any]:
        submit(self, drafts, **options)
        answered: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        answered.set_result([Receipt(event=_event(draft, now()), deliveries=1) for draft in drafts])
        return answered

    Writer.submit = answer  # type: ignore[method-assign]  # which is what this is for


def marks_before_it_sends() -> None:
    """A broken variant: a delivery is committed as delivered, and then its request goes out."""
    attempt, recorded = Sender.attempt, Dispatcher.recorded
    unsent: list[Any] = []

    async def mark(self: Sender, request: Request, rules: Rules = _RULES, *, begun: Begun | None = None, **_: Any) -> Outcome:
        assert begun is None  # nothing is begun
        unsent.append(attempt(self, request, rules))
        return Accepted(response=Response(status=200, headers=(), body=b"", truncated=False))

    def send(self: Dispatcher, results: list[list[Recorded]]) -> None:
        recorded(self, results)
        while unsent:
            _keep(unsent.pop())

    Sender.attempt = mark  # type: ignore[method-assign]  # which is what this is for
    Sender.begin = lambda *_: None  # type: ignore[method-assign]
    Dispatcher.recorded = send  # type: ignore[method-assign]


def loses_thread(connection: int, orders: int) -> None:
    """The thread of the writing (0) or the reading (1) connection ends, without a word, after so many *orders*."""
    numbers = count()

    class Short(SimpleQueue[Any]):
        """A queue whose reader is gone after so many gets."""

        def get(self, block: bool = True, timeout: float | None = None) -> Any:
            nonlocal orders
            orders -= 1
            if orders < 0:
                raise SystemExit
            return super().get(block, timeout)

    core.SimpleQueue = lambda: Short() if next(numbers) == connection else SimpleQueue()  # type: ignore[attr-defined,assignment]


def _event(draft: Draft, now: int) -> Event:
    return Event(
        seq=0, id=str(draft.id), tenant=draft.tenant, type=draft.type, data=draft.data, accepted_at=now, occurred_at=now
    )


def _keep(work: Any) -> None:
    task = asyncio.ensure_future(work)
    _kept.add(task)
    task.add_done_callback(_kept.discard)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
