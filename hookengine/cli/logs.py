"""The daemon's log lines, and a stderr that it never waits for."""

from __future__ import annotations

import io
import logging
import os
import select
from collections import deque
from contextlib import contextmanager, suppress
from threading import Condition, Thread, current_thread
from typing import IO, TYPE_CHECKING, TextIO, cast

import orjson
import structlog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from structlog.typing import FilteringBoundLogger, Processor

_MOST_WAITING = 256 << 10  # bytes of lines that nobody has taken; later ones are dropped
_LAST_WORDS = 1.0  # s that an end waits for whoever reads them


class Outlet(io.RawIOBase):
    """
    Hands what is written to a thread of its own, which writes it to *descriptor*; drops what does not fit.

    A pipe that nobody reads, or a disk that hangs, keeps that thread waiting, and nobody else. `on_dropped` hears, in that
    thread and once writing works again, how many writes were dropped; what it writes itself is not, however full it is.
    """

    def __init__(self, descriptor: int) -> None:
        self.on_dropped: Callable[[int], None] = lambda _: None
        self._descriptor = descriptor
        self._changed = Condition()
        self._waiting: deque[bytes] = deque()
        self._size = 0  # bytes of them
        self._dropped = 0
        self._ending = False
        # A daemon: an interpreter that ends waits for every other thread, and this one may wait for ever.
        self._thread = Thread(target=self._run, name="hookengine-stderr", daemon=True)
        self._thread.start()

    def writable(self) -> bool:
        """It is there for that."""
        return True

    def write(self, data: bytes, /) -> int:  # type: ignore[override]  # bytes are what a TextIOWrapper writes
        """Take *data*, at once."""
        with self._changed:
            if self._size + len(data) <= _MOST_WAITING or current_thread() is self._thread:
                self._waiting.append(bytes(data))
                self._size += len(data)
                self._changed.notify()
            else:
                self._dropped += 1
        return len(data)

    def finish(self, patience: float) -> None:
        """Return when everything is written, or after *patience* seconds."""
        with self._changed:
            self._ending = True
            self._changed.notify()
        self._thread.join(patience)

    def _run(self) -> None:
        ahead = 0  # writes until drops are told again, so that what tells of them does not take the room of all else
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ending)
                if not self._waiting:
                    return
                data = self._waiting.popleft()
            with suppress(OSError):  # who read it has gone, or the disk is full: the work goes on
                self._write(data)
            with self._changed:
                self._size -= len(data)
                ahead -= 1
                dropped = 0
                if ahead <= 0:
                    dropped, self._dropped = self._dropped, 0
            if dropped:
                self.on_dropped(dropped)
                ahead = len(self._waiting)

    def _write(self, data: bytes) -> None:
        # Not through a file of Python's: its lock would be held at the end of the interpreter, which ends it with a crash.
        while data:
            with suppress(BlockingIOError):  # somebody who shares it has set it so
                data = data[os.write(self._descriptor, data) :]
                continue
            select.select([], [self._descriptor], [])


@contextmanager
def never_waiting(stream: TextIO) -> Iterator[tuple[TextIO, Outlet | None]]:
    """A stream that goes to *stream*, and whose writers never wait; itself, without an Outlet, if it has no descriptor."""
    try:
        outlet = Outlet(stream.fileno())
    except OSError:
        yield stream, None
        return
    try:
        yield io.TextIOWrapper(cast("IO[bytes]", outlet), "utf-8", "backslashreplace", write_through=True), outlet
    finally:
        outlet.finish(_LAST_WORDS)


def make_logger(level: str, form: str, stream: TextIO, *, colors: bool) -> FilteringBoundLogger:
    """
    A logger that writes what is of *level* or worse to *stream*, as `console` or `json` lines.

    It is configured by itself: nothing global changes.
    """
    # Not the default: with rich installed that prints every local variable, secrets too.
    plain = structlog.dev.plain_traceback
    renderers: list[Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_json)]
        if form == "json"
        # A text is shown as its repr: it may be a receiver's, and escapes in it must not reach the terminal.
        else [structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain, repr_native_str=True)]
    )
    logger = structlog.wrap_logger(
        structlog.WriteLogger(stream),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
    )
    return cast("FilteringBoundLogger", logger)


class _Relay(logging.Handler):
    """Passes what is logged into the standard library on to *logger*."""

    def __init__(self, logger: FilteringBoundLogger) -> None:
        super().__init__(logging.WARNING)
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        write = self._logger.error if record.levelno >= logging.ERROR else self._logger.warning
        # It may quote a client: no escape in it must reach a terminal.
        message = "".join(char if char.isprintable() else repr(char)[1:-1] for char in record.getMessage())
        write(message, logger=record.name, **({"exc_info": record.exc_info} if record.exc_info else {}))


@contextmanager
def relaying(logger: FilteringBoundLogger) -> Iterator[None]:
    """In the form of its own lines, *logger* writes what the server and libraries warn of in the standard library's way."""
    relay = _Relay(logger)
    logging.getLogger().addHandler(relay)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(relay)


def _json(line: object, **_: object) -> str:
    return orjson.dumps(line, default=str).decode()
