"""
Processes that start in a tenth of the time: a launcher has imported everything, and forks for each.

What runs in them is `hookengine` with arguments as from a shell, or another program of this folder; what `faults` are to
befall it is told along.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, Self

from patience import PATIENCE

HERE = Path(__file__).parent


class Launched:
    """A process that the launcher has forked, as far as asyncio's own `Process` is used here."""

    def __init__(self, pid: int, status: asyncio.StreamReader, stderr: asyncio.StreamReader) -> None:
        self.pid = pid
        self.stderr = stderr
        self.returncode: int | None = None
        self._status = status

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def wait(self) -> int:
        """Its exit status, negative for the signal that ended it, once it has ended."""
        if self.returncode is None:
            self.returncode = int(await self._status.readline())
        await self._status.read()  # to its end, which closes it
        return self.returncode


class Launcher:
    """The process that forks, with the library *preload* between it and the system; left, it ends."""

    def __init__(self, preload: Path | None = None) -> None:
        self._preload = {} if preload is None else {"LD_PRELOAD": str(preload)}
        self._control: socket.socket
        self._process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        self._control, theirs = socket.socketpair()
        with theirs:
            environment = {name: value for name, value in os.environ.items() if not name.startswith("HOOKENGINE_")}
            paths = os.pathsep.join(map(str, (HERE.parent.parent, HERE.parent, HERE)))
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=environment | self._preload | {"PYTHONPATH": paths},
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._control.close()
        self._process.wait()

    async def launch(self, *arguments: str, program: str = "", faults: tuple[dict[str, Any], ...] = ()) -> Launched:
        """Start `hookengine` with *arguments*, or the `main` of module *program* of this folder; *faults* come first."""
        order = {"program": program, "arguments": arguments, "faults": faults}
        status, their_status = os.pipe()
        stderr, their_stderr = os.pipe()
        socket.send_fds(self._control, [json.dumps(order).encode()], [their_status, their_stderr])
        os.close(their_status)
        os.close(their_stderr)
        told = await _reader(status)
        return Launched(int(await told.readline()), told, await _reader(stderr))


async def finish(launched: Launched) -> int:
    """The exit status of a process, once it has ended."""
    async with asyncio.timeout(PATIENCE):
        await launched.stderr.read()
        return await launched.wait()


async def _reader(descriptor: int) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    pipe = os.fdopen(descriptor, "rb", buffering=0)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    return reader


def serve(control: socket.socket) -> None:
    """Fork for each order, until nobody can give one any more."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        order, descriptors, *_ = socket.recv_fds(control, 65_536, 2)
        if not order:
            return
        if os.fork() == 0:
            control.close()
            _watch(json.loads(order), *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _watch(order: dict[str, Any], status: int, stderr: int) -> None:
    """Fork once more, and tell how that process ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        os.close(status)
        os.dup2(stderr, 2)
        os.close(stderr)
        sys.stderr = os.fdopen(2, "w", buffering=1)  # the one of the launcher may believe that it can seek
        _become(order)
    os.close(stderr)
    os.write(status, b"%d\n" % pid)
    _, code = os.waitpid(pid, 0)
    os.write(status, b"%d\n" % os.waitstatus_to_exitcode(code))
    os._exit(0)


def _become(order: dict[str, Any]) -> NoReturn:
    """Run what was ordered; the interpreter ends as always, with what this raises."""
    faults = importlib.import_module("faults")
    sys.argv = [order["program"] or "hookengine", *order["arguments"]]
    for fault in order["faults"]:
        getattr(faults, fault.pop("kind"))(**fault)
    sys.exit(importlib.import_module(order["program"] or "hookengine.cli").main())


if __name__ == "__main__":
    for module in (
        "hookengine.cli",
        "hookengine.cli.daemon",
        "hookengine.engine",
        "hookengine.store.backup",
        "uvloop",
        "faults",
    ):
        importlib.import_module(module)
    gc.freeze()  # what was imported is never collected: a fork ends in a third of the time
    serve(socket.socket(fileno=int(sys.argv[1])))
