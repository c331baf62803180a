"""Simulated time: an event loop that jumps to its next timer, SQLite on it without threads, and a clock."""

from __future__ import annotations

import asyncio
import selectors
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import aiosqlite.core

from hookengine.clock import Clock

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Coroutine
    from contextvars import Context

    from internet import Internet

EPOCH = 1_700_000_000.0  # s: the wall clock's time when the loop's is 0


class Stuck(AssertionError):
    """Nothing is ready, no timer is set, and somebody still waits."""


class _Numbered(asyncio.Task[Any]):
    """A task whose place in a set is the same in every run."""

    def __init__(self, coro: Coroutine[Any, Any, Any], number: int, **given: Any) -> None:
        self._number = number
        super().__init__(coro, **given)

    def __hash__(self) -> int:
        return self._number


class _Leap(selectors.SelectSelector):
    """Where the loop would wait for sockets, of which there are none, its time goes on instead."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Nothing came, and *timeout* seconds have passed."""
        if timeout is None:
            raise Stuck
        if timeout > 0:
            self.now += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in simulated time, whose connections lead into the simulated *internet*."""

    def __init__(self, internet: Internet, start: float) -> None:
        self._leap = _Leap()
        self._leap.now = start
        self._internet = internet
        self._tasks = 0
        super().__init__(self._leap)
        self.set_task_factory(self._task)  # type: ignore[arg-type]  # typeshed asks for more than the loop does

    def time(self) -> float:
        """Seconds, as simulated."""
        return self._leap.now

    def call_soon_threadsafe(self, callback: Callable[..., Any], *args: Any, context: Context | None = None) -> asyncio.Handle:  # type: ignore[override]
        """There is one thread."""
        return self.call_soon(callback, *args, context=context)

    async def sock_connect(self, sock: Any, address: Any) -> None:
        """Connect to an address of the internet."""
        await self._internet.connect(sock, address)

    async def create_connection(self, protocol_factory: Callable[[], Any], *_: Any, sock: Any, **__: Any) -> Any:  # type: ignore[override]
        """What `sock_connect` has connected, with a protocol."""
        return self._internet.attach(protocol_factory(), sock)

    async def passing(self, seconds: float) -> None:
        """Let time pass."""
        done = self.create_future()
        timer = self.call_later(seconds, done.set_result, None)
        try:
            await done
        finally:
            timer.cancel()

    def _task(self, _: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], **given: Any) -> asyncio.Task[Any]:
        self._tasks += 1
        return _Numbered(coro, self._tasks, loop=self, **given)


class SimulatedClock(Clock):
    """The loop's time as wall time, *ahead()* seconds ahead of what it should be, and random bits of a seed."""

    def __init__(self, ahead: Callable[[], float], rng: random.Random) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._ahead = ahead
        self._rng = rng

    def now(self) -> int:
        """Milliseconds since the epoch."""
        return int((EPOCH + self._loop.time() + self._ahead()) * 1000)

    def new_bytes(self, count: int) -> bytes:
        """*count* bytes that the seed gives."""
        return self._rng.randbytes(count)


class _Thread:
    """
    What aiosqlite takes for the thread of a connection and for the queue of its work.

    The work is done in the loop's own thread, in the order in which it was asked for, after as long as the disk takes.
    """

    daemon = True

    def __init__(self, delay: Callable[[], float], done: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._delay = delay
        self._done = done
        self._queue: deque[tuple[asyncio.Future[Any] | None, Callable[[], Any]]] = deque()
        self._busy = False
        self._ended = False

    def start(self) -> None:
        """It runs from the first."""

    def is_alive(self) -> bool:
        """Until it was told to stop."""
        return not self._ended

    def join(self, timeout: float) -> None:  # noqa: ARG002  # as `Thread.join`
        """Do what it was asked for until now, as the thread would before its end."""
        while self._queue:
            self._work()

    def empty(self) -> bool:
        """Whether no work waits."""
        return not self._queue

    def get_nowait(self) -> tuple[asyncio.Future[Any] | None, Callable[[], Any]]:
        """Work that will not be done."""
        return self._queue.popleft()

    def put_nowait(self, work: tuple[asyncio.Future[Any] | None, Callable[[], Any]]) -> None:
        """Do *work* after what was asked for before."""
        self._queue.append(work)
        if not self._busy:
            self._busy = True
            self._later()

    def _later(self) -> None:
        delay = self._delay()
        if delay:
            self._loop.call_later(delay, self._work)
        else:
            self._loop.call_soon(self._work)

    def _work(self) -> None:
        if not self._queue:
            return  # somebody has waited for the end
        future, function = self._queue.popleft()
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001  # as aiosqlite's thread does it
            if future is not None and not future.done():
                future.set_exception(error)
        else:
            self._ended = result is aiosqlite.core._STOP_RUNNING_SENTINEL
            if future is not None and not future.done():
                future.set_result(result)
        self._done()
        self._busy = bool(self._queue)
        if self._busy:
            self._later()


_Connection = aiosqlite.Connection


def connection(delay: Callable[[], float], done: Callable[[], None]) -> Callable[..., aiosqlite.Connection]:
    """What takes the place of `aiosqlite.Connection`: each piece of work takes *delay()* seconds, and then calls *done*."""

    def make(*args: Any, **given: Any) -> aiosqlite.Connection:
        made = _Connection(*args, **given)
        thread: Any = _Thread(delay, done)
        made._thread = made._tx = thread
        return made

    return make


class Threads:
    """What the resolver takes for its threads: lookups take as long as the internet says, in the loop's own thread."""

    def __init__(self, delay: Callable[[], float]) -> None:
        self._loop = asyncio.get_running_loop()
        self._delay = delay

    def submit(self, function: Callable[..., Any], *args: Any) -> Future[Any]:
        """Call *function*, later: there is always a thread for it, which begins at once."""
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        self._loop.call_later(self._delay(), self._run, future, function, args)
        return future

    def close(self) -> None:
        """There is nothing to end."""

    @staticmethod
    def _run(future: Future[Any], function: Callable[..., Any], args: Any) -> None:
        try:
            future.set_result(function(*args))
        except Exception as error:  # noqa: BLE001  # as a thread pool does it
            future.set_exception(error)
