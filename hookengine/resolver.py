"""The DNS lookups of the client pool: in threads of their own, with a deadline, shared and cached."""

from __future__ import annotations

import asyncio
import errno
import socket
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any

from aiohttp.abc import AbstractResolver, ResolveResult

from hookengine.errors import HookEngineError
from hookengine.models import ErrorCode

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    _Lookup = Callable[..., Sequence[tuple[int, int, int, str, tuple[Any, ...]]]]
    _Key = tuple[str, int, int]  # host in lower case, port, family
    _Answer = tuple[ResolveResult, ...] | BaseException
    _Flight = tuple[asyncio.Future[_Answer], asyncio.TimerHandle]

WAITING = "waiting for a lookup"  # what it says of a cancellation that it got it then

_THREADS = 32  # as many names can hang without delaying the others
DEADLINE = 3.0  # seconds; getaddrinfo cannot be cancelled, so only the wait for it ends
_MOST_ADDRESSES = 16  # of one answer
_KEEP_ADDRESSES = 30.0  # seconds
_KEEP_FAILURE = 5.0  # seconds
_MOST_KEPT = 1024  # answers

_SENTENCES = {
    ErrorCode.DNS_NXDOMAIN: "The host name does not exist.",
    ErrorCode.DNS_NO_ADDRESS: "The host name has no address.",
    ErrorCode.DNS_TEMPORARY: "The host name could not be looked up now.",
    ErrorCode.INVALID_URL: "The host name cannot be looked up: it is not one.",
    ErrorCode.LOCAL_RESOURCES: "This machine lacks the resources for a lookup.",
}
# What getaddrinfo(3) says; not every platform has every constant. All else is taken to pass.
_BY_EAI = {
    getattr(socket, name): error
    for name, error in (
        ("EAI_NONAME", ErrorCode.DNS_NXDOMAIN),
        ("EAI_NODATA", ErrorCode.DNS_NXDOMAIN),
        ("EAI_ADDRFAMILY", ErrorCode.DNS_NO_ADDRESS),
        ("EAI_MEMORY", ErrorCode.LOCAL_RESOURCES),
    )
    if hasattr(socket, name)
}
# Only these are surely ours: a malformed answer, too, can come out of libc as a system error, and must not stop the engine.
_LOCAL_ERRORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_NO_ANSWER = frozenset({ErrorCode.DNS_TEMPORARY, ErrorCode.INVALID_URL, ErrorCode.LOCAL_RESOURCES})


class LookupFailed(HookEngineError):
    """A host name gave no address; `error` is what an attempt reports."""

    code = "lookup_failed"

    def __init__(self, error: ErrorCode) -> None:
        super().__init__(_SENTENCES[error])
        self.error = error


class _Threads:
    """
    At most *most* threads that work, and start when they are needed.

    Unlike those of an executor they are daemons: the interpreter does not wait at its exit for one that hangs in a lookup.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._started = 0  # touched in the event loop only, as is the next
        self._closed = False
        self._work: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._lock = Lock()
        self._idle = 0  # threads that wait for work, less what waits for a thread

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Let a thread do *work*; raises RuntimeError where there is none to be had."""
        if self._closed:
            raise RuntimeError("closed")
        with self._lock:
            self._idle -= 1
            is_short = self._idle < 0
        done: Future[Any] = Future()
        if is_short and self._started < self._most:
            try:
                Thread(target=self._run, name=f"{self._name}-{self._started}", daemon=True).start()
            except RuntimeError:
                if not self._started:
                    self._became_idle()
                    raise
            else:
                self._started += 1
        self._work.put((done, partial(work, *arguments)))
        return done

    def close(self) -> None:
        """Begin with nothing more; what a thread has begun goes on."""
        self._closed = True
        for _ in range(self._started):
            self._work.put(None)

    def _became_idle(self) -> None:
        with self._lock:
            self._idle += 1

    def _run(self) -> None:
        self._became_idle()
        while (found := self._work.get()) is not None and not self._closed:
            done, work = found
            if done.set_running_or_notify_cancel():
                try:
                    done.set_result(work())
                except BaseException as error:  # noqa: BLE001  # it is the asker's
                    done.set_exception(error)
            self._became_idle()


class Resolver(AbstractResolver):
    """
    Resolves names for one TCPConnector, in one event loop.

    `admit(address, port)` raises for an address that must not be called: one such address refuses the whole answer. Give it
    to the connector by name, with `use_dns_cache=False`; without, aiohttp picks its own resolver. A thread that hangs in a
    lookup outlives `close`.
    """

    def __init__(self, admit: Callable[[str, int], None], *, lookup: _Lookup = socket.getaddrinfo) -> None:
        self._admit = admit
        self._lookup = lookup
        self._threads = _Threads(_THREADS, "hookengine-lookup")
        self._probing = _Threads(1, "hookengine-probe")  # not behind lookups that hang
        # All below is touched in the event loop only.
        self._running: dict[_Key, Future[tuple[ResolveResult, ...]]] = {}  # until the thread is back, however late
        self._flights: dict[_Key, _Flight] = {}  # what callers wait for: until the answer or the deadline
        self._kept: dict[_Key, tuple[float, _Answer]] = {}  # until when, and what; oldest first
        self.last_answer_at: float | None = None  # loop time at which a lookup of any name was last answered, also with "no"
        self._found: list[_Key] = []  # the last two names that had addresses, to ask for them once more

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        """
        The addresses of *host*, up to 16, each of which may be called.

        Raises LookupFailed, and what `admit` raises. Callers of the same lookup share it; one that is cancelled leaves it to
        the others, and the cancellation has the note WAITING.
        """
        loop = asyncio.get_running_loop()
        key = (host.lower(), port, int(family))
        until, answer = self._kept.get(key, (0.0, ()))
        if loop.time() >= until:
            shared, _ = self._flights.get(key) or self._take_off(key, loop, self._threads)
            try:
                answer = await asyncio.shield(shared)
            except asyncio.CancelledError as cut:
                cut.add_note(WAITING)
                raise
        if isinstance(answer, BaseException):
            # One object for many callers: without this its traceback grows with each of them.
            raise answer.with_traceback(None)
        return list(answer)

    async def answers(self, host: str) -> bool:
        """
        Whether name servers answer at all, which *host* got nothing from.

        Another name, the last one that had addresses, is looked up anew, and waited for as long as any. False also where
        there is none.
        """
        others = [key for key in self._found if key[0] != _absolute(host)]
        if not others:
            return False
        loop = asyncio.get_running_loop()
        shared, _ = self._flights.get(others[-1]) or self._take_off(others[-1], loop, self._probing)
        answer = await asyncio.shield(shared)
        return not isinstance(answer, LookupFailed) or answer.error not in _NO_ANSWER

    async def close(self) -> None:
        """Let nobody wait any longer; to be called last, after the connector."""
        self._threads.close()
        self._probing.close()
        self._running.clear()
        for key in tuple(self._flights):
            self._settle(key, LookupFailed(ErrorCode.LOCAL_RESOURCES))

    def _take_off(self, key: _Key, loop: asyncio.AbstractEventLoop, threads: _Threads) -> _Flight:
        flight = (loop.create_future(), loop.call_later(DEADLINE, self._give_up, key, loop))
        self._flights[key] = flight
        try:
            # A lookup that still hangs is joined, not repeated: one name holds one thread.
            if key not in self._running:
                self._running[key] = threads.submit(self._ask, key)
                self._running[key].add_done_callback(partial(self._report, loop, key))
        except RuntimeError:
            # No thread to be had, or closed.
            self._settle(key, LookupFailed(ErrorCode.LOCAL_RESOURCES))
        return flight

    def _ask(self, key: _Key) -> tuple[ResolveResult, ...]:
        """The answer of libc, in a thread."""
        host, port, family = key
        try:
            found = self._lookup(host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        except socket.gaierror as error:
            raise LookupFailed(_BY_EAI.get(error.errno, ErrorCode.DNS_TEMPORARY)) from error
        except OSError as error:
            local = error.errno in _LOCAL_ERRORS
            raise LookupFailed(ErrorCode.LOCAL_RESOURCES if local else ErrorCode.DNS_TEMPORARY) from error
        except ValueError as error:
            # UnicodeError, for a label that is empty or too long, is one of these.
            raise LookupFailed(ErrorCode.INVALID_URL) from error
        # As dict keys, because a hosts file can name an address twice. A Python without IPv6 gives its addresses as bytes.
        addresses = {peer[0]: kind for kind, _, _, _, peer in found if isinstance(peer[0], str)}
        if not addresses:
            raise LookupFailed(ErrorCode.DNS_NO_ADDRESS)
        # All are judged, also those beyond the 16: servers rotate their answers, and the verdict must not rotate with them.
        for address in addresses:
            self._admit(address, port)
        return tuple(
            ResolveResult(hostname=host, host=address, port=port, family=kind, proto=0, flags=socket.AI_NUMERICHOST)
            for address, kind in tuple(addresses.items())[:_MOST_ADDRESSES]
        )

    def _report(self, loop: asyncio.AbstractEventLoop, key: _Key, running: Future[tuple[ResolveResult, ...]]) -> None:
        """Hand the thread's result to the event loop."""
        if not running.cancelled():
            with suppress(RuntimeError):  # the loop is closed, nobody waits any more
                loop.call_soon_threadsafe(self._land, loop, key, running)

    def _land(self, loop: asyncio.AbstractEventLoop, key: _Key, running: Future[tuple[ResolveResult, ...]]) -> None:
        self._running.pop(key, None)
        failure = running.exception()
        error = failure.error if isinstance(failure, LookupFailed) else None
        if error not in _NO_ANSWER:
            self.last_answer_at = loop.time()
        if failure is None:
            found = (_absolute(key[0]), *key[1:])
            self._found = [*(known for known in self._found if known[0] != found[0]), found][-2:]
        if error is not ErrorCode.LOCAL_RESOURCES:
            self._keep(key, failure or running.result(), loop.time())
        self._settle(key, failure or running.result())

    def _give_up(self, key: _Key, loop: asyncio.AbstractEventLoop) -> None:
        answer: _Answer = LookupFailed(ErrorCode.DNS_TEMPORARY)
        # One that has not begun need not begin: the queue behind 32 hanging lookups holds no names that nobody waits for.
        if self._running[key].cancel():
            del self._running[key]
            _, known = self._kept.get(key, (0.0, ()))
            if known and not isinstance(known, BaseException):
                answer = known  # it has waited for a thread, and not for its name servers: it stays where it was
        self._keep(key, answer, loop.time())
        self._settle(key, answer)

    def _settle(self, key: _Key, answer: _Answer) -> None:
        flight = self._flights.pop(key, None)
        if flight is not None:
            shared, timer = flight
            timer.cancel()
            shared.set_result(answer)

    def _keep(self, key: _Key, answer: _Answer, now: float) -> None:
        self._kept.pop(key, None)
        if len(self._kept) >= _MOST_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[key] = (now + (_KEEP_FAILURE if isinstance(answer, BaseException) else _KEEP_ADDRESSES), answer)


def _absolute(host: str) -> str:
    """
    *host* as it is asked for once more.

    The dot at its end keeps what is known of the name itself, and has name servers asked also for what stands in a file here.
    """
    return f"{host.lower().removesuffix('.')}."
