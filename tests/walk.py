"""
Walking through a page as its reader does: its commands are run, and what it shows of them is compared with what they print.

- A `console` block holds commands, each behind `$ `, and beneath each what it shows on a terminal: nothing means nothing.
- `hookengine serve` and receivers go on in terminals of their own until they are started again. Beneath them is what they
  print until they are ready. A `text` block is what the receiver has printed since; at the end nothing is left unshown.
- `cd` leads to the example's folder, where a walk is from the beginning.
- `…` stands for any text in a line, and alone in a line for any lines.
- An id, a secret or a token stands for that of the run: the same one in the page is the same one in the run, and no other.
- Times and milliseconds are those of the run; where a page says how long it is until the next attempt, that holds.
- Ports are free ones; runs of blanks count as one; a verb may say that it waits, where the machine is slow.
"""

from __future__ import annotations

import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from itertools import islice
from pathlib import Path
from random import sample
from typing import TYPE_CHECKING, NamedTuple

from patience import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ROOT = Path(__file__).parent.parent
PORTS = ("8700", "9000", "9443")  # the daemon's, and those of receivers
# Programs that go on until they are stopped: the page's daemon and its receiver.
GOING_ON = re.compile(r"\b(hookengine serve|node receiver\.mjs|python receiver\.py)\b")
READY = re.compile(r"^(Ready|Listening)\b")
WAITING = "Waiting for the endpoint …"
LATE = 3  # s that a busy machine may need to say when the next attempt is

FENCE = re.compile(r"^```(console|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
# What of a shown line is not meant to the letter: each kind with what it looks like, in the page and in the run.
KINDS = {
    "name": r"(?:sub|evt|dlv|test)_[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|whsec_[\w+/=]{44}|\b(?:hke|at|rt)_[\w-]{16,}",
    "wait": r"next try (?:in [\d.]+ (?:s|min)|now)",
    "time": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{3})?Z",
    "unix": r"\b1\d{9}\b",
    "lasted": r"\b\d+ ms\b",
}
LOOSE = re.compile("|".join([*(f"(?P<{kind}>{pattern})" for kind, pattern in KINDS.items()), "(?P<any>…)"]))
NAME = re.compile(KINDS["name"])


class Step(NamedTuple):
    """A command and what the page shows of it; without a command, what the receiver prints."""

    line: int  # of the page
    command: str
    shown: list[str]


def steps(page: str) -> Iterator[Step]:
    """What a page has its reader do and see, in order."""
    for block in FENCE.finditer(page):
        line = page.count("\n", 0, block.start()) + 2
        if block[1] == "text":
            yield Step(line, "", block[2].splitlines())
            continue
        for part in re.split(r"^(?=\$ )", block[2], flags=re.MULTILINE):
            if part:
                command, _, shown = re.sub(r"\\\n\s*", "", part).removeprefix("$ ").partition("\n")
                yield Step(line, command, shown.splitlines())
            line += part.count("\n")


class Names:
    """What the ids, secrets and tokens of a page are in the run."""

    def __init__(self) -> None:
        self._run: dict[str, str] = {}

    def of_run(self, text: str) -> str:
        """*text* of the page with those of the run."""
        return NAME.sub(lambda found: self._run.get(found[0], found[0]), text)

    def match(self, shown: list[str], printed: list[str]) -> bool:
        """Whether *printed* is what *shown* stands for; what the lines name is the same from then on."""
        lines = iter(printed)
        skipping = False
        for expected in shown:
            if expected == "…":
                skipping = True
            elif not any(self._match_line(expected, line) for line in (lines if skipping else islice(lines, 1))):
                return False
            else:
                skipping = False
        return skipping or next(lines, None) is None

    def _match_line(self, shown: str, printed: str) -> bool:
        shown, printed = plain(shown), plain(printed)
        loose = list(LOOSE.finditer(shown))
        pattern, at = "", 0
        for each in loose:
            pattern += f"{re.escape(shown[at : each.start()])}({KINDS.get(each.lastgroup or '', '.*?')})"
            at = each.end()
        found = re.fullmatch(pattern + re.escape(shown[at:]), printed)
        if found is None:
            return False
        pairs = [(each.lastgroup, each[0], real) for each, real in zip(loose, found.groups(), strict=True)]
        if not all(on_time(text, real) for kind, text, real in pairs if kind == "wait"):
            return False
        return self._learn({(text, real) for kind, text, real in pairs if kind == "name"})

    def _learn(self, named: set[tuple[str, str]]) -> bool:
        """Whether what is *named* agrees with what is known, which it adds to if so."""
        together = named | set(self._run.items())
        if not len(together) == len({text for text, _ in together}) == len({real for _, real in together}):
            return False
        self._run.update(named)
        return True


def plain(line: str) -> str:
    """*line* without what a terminal does for the eye."""
    return re.sub(r"[ \t]+", " ", ESCAPE.sub("", line)).strip()


def on_time(shown: str, printed: str) -> bool:
    """Whether a `next try in 10 s` says what the page says, as a busy machine may see it."""
    units = {"s": 1, "min": 60, "now": 0}

    def seconds(text: str) -> float:
        number = re.search(r"[\d.]+", text)
        return (float(number[0]) if number else 0) * units[text.rsplit(maxsplit=1)[-1]]

    return seconds(shown) - LATE <= seconds(printed) <= seconds(shown) + 1


class Terminal:
    """A program that goes on, and what it prints."""

    def __init__(self, command: str, folder: Path, environment: Mapping[str, str]) -> None:
        self._process = subprocess.Popen(
            ["bash", "-c", f"{command}"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._printed: list[str] = []
        self._told = 0  # of them, those that the page has shown
        self._ended = False
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def until_ready(self) -> list[str]:
        """What it prints until it says that it is."""
        return self._take(lambda: next((n for n, line in enumerate(self._printed, 1) if READY.match(line)), None))

    def next_lines(self, count: int) -> list[str]:
        """The next *count* lines, or those that come in time."""
        return self._take(lambda: self._told + count if self._told + count <= len(self._printed) else None)

    def stop(self) -> list[str]:
        """End it, and return what of its lines was not asked for."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
        self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return self._printed[self._told :]

    def _take(self, end: Callable[[], int | None]) -> list[str]:
        with self._news:
            self._news.wait_for(lambda: end() is not None or self._ended, PATIENCE)
            begun, self._told = self._told, end() or len(self._printed)
            return self._printed[begun : self._told]

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                with self._news:
                    self._printed.append(line.rstrip("\n"))
                    self._news.notify()
        with self._news:
            self._ended = True
            self._news.notify()


class Walk:
    """
    A copy of *example* in *folder*, in which its page is followed.

    The files are copied with the ports of the run.
    """

    def __init__(self, example: Path, folder: Path) -> None:
        self._ports = {name: str(free_port()) for name in PORTS}
        self._folder = folder
        for path in example.iterdir():
            if path.is_file():
                (folder / path.name).write_text(self._with_ports(path.read_text()))
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HOOKENGINE_")}
        self._environment = kept | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "HOOKENGINE_SERVER_LISTEN": f"127.0.0.1:{self._ports['8700']}",
            "NO_COLOR": "1",
            "TERM": "dumb",
        }
        self._names = Names()
        self._terminals: dict[str, Terminal] = {}

    def follow(self, page: str) -> Iterator[tuple[Step, list[str], bool]]:
        """Each step of *page* with what was printed, and whether it is what the page shows."""
        try:
            for step in steps(page):
                yield from self._take(step)
            for name in list(self._terminals):
                yield from self._close(name, step)
        finally:
            for terminal in self._terminals.values():
                terminal.stop()

    def _take(self, step: Step) -> Iterator[tuple[Step, list[str], bool]]:
        if step.command.startswith("cd "):
            return
        command = self._names.of_run(self._with_ports(step.command))
        going_on = GOING_ON.search(step.command)
        if not command:
            printed = self._terminals["receiver"].next_lines(len(step.shown))
        elif going_on:
            name = "daemon" if "hookengine" in going_on[0] else "receiver"
            yield from self._close(name, step)
            port = self._ports["9443" if "node" in command else "9000"]
            terminal = Terminal(command, self._folder, {**self._environment, "PORT": port})
            self._terminals[name] = terminal
            printed = terminal.until_ready()
        else:
            printed = self._run(command)
        printed = [self._without_ports(line) for line in printed]
        yield step, printed, self._names.match(step.shown, printed)

    def _close(self, name: str, step: Step) -> Iterator[tuple[Step, list[str], bool]]:
        terminal = self._terminals.pop(name, None)
        unshown = terminal.stop() if terminal is not None else []
        if name == "receiver" and unshown:
            yield Step(step.line, "(the receiver is stopped)", []), unshown, False

    def _run(self, command: str) -> list[str]:
        """What *command* shows on a terminal, and nothing else is typed there."""
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            ["bash", "-c", command],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        ) as child:
            os.close(theirs)
            overdue = threading.Timer(PATIENCE, child.kill)
            overdue.start()
            shown = b"".join(iter(lambda: read(ours), b""))
            overdue.cancel()
            os.close(ours)
        return [line for line in shown.decode().replace("\r\n", "\n").splitlines() if line != WAITING]

    def _with_ports(self, text: str) -> str:
        for name, port in self._ports.items():
            text = re.sub(rf":{name}\b", f":{port}", text)
        return text

    def _without_ports(self, text: str) -> str:
        for name, port in self._ports.items():
            text = re.sub(rf":{port}\b", f":{name}", text)
        return text


def read(terminal: int) -> bytes:
    """What is there, or nothing once the other side has left."""
    try:
        return os.read(terminal, 65536)
    except OSError:  # what Linux says then
        return b""


# Below those that systems give to outgoing connections, one of which might take a port before it is listened on.
_PORTS = iter(sample(range(20_000, 32_000), 12_000))


def free_port() -> int:
    """A port on which nobody listens at the moment, and another one each time."""
    for port in _PORTS:
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise OSError("no port is free")
