"""The documents: what derives from the code is up to date, what they show runs, and what they point at is there."""

from __future__ import annotations

import ast
import asyncio
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import pytest
from engines import LOOPBACK
from patience import PATIENCE
from walk import free_port

from hookengine import Config, Engine, views
from hookengine.receiver import Receiver
from hookengine.signing import sign
from hookengine.signing_keys import new_secret

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from types import ModuleType

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*/README.md"))  # tests/test_example_pages.py walks through them
FENCE = re.compile(r"^```([a-z]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)(?:#([^)]+))?\)")

# Commands that CI itself is made of, or that set a machine up.
ELSEWHERE = ("make ", "python3.11 -m venv", ".venv/bin/")
# Commands that go on until they are stopped.
ENDLESS = ("hookengine serve", "hookengine listen", "hookengine tail", "curl -N")


def load_generator() -> ModuleType:
    """docs/generate.py."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATE = load_generator()


@pytest.mark.parametrize("name", GENERATE.FILES)
def test_generated_documents_are_up_to_date(name: str) -> None:
    """What is in the repository is what `make docs` writes."""
    assert GENERATE.FILES[name]() == (ROOT / name).read_text()


def mistake_codes(tree: ast.AST) -> Iterator[str]:
    """The codes that a module gives to mistakes in a request."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func).rpartition(".")[2]
        given = [keyword.value for keyword in node.keywords if keyword.arg == "code"] if called == "Mistake" else []
        if called == "add" and len(node.args) == 3:
            given = [node.args[1]]
        yield from (each.value for each in given if isinstance(each, ast.Constant) and isinstance(each.value, str))


def test_every_mistake_is_documented() -> None:
    """Each code that a mistake can have is in docs/errors.md, and none that it cannot have."""
    sources = (path.read_text() for path in (ROOT / "hookengine").rglob("*.py"))
    found = {code for source in sources for code in mistake_codes(ast.parse(source))}

    assert sorted(found) == sorted(GENERATE.MISTAKES)


@pytest.mark.parametrize("page", PAGES + EXAMPLES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    """Every file and every heading that a page points at exists."""
    for target, heading in LINK.findall(page.read_text()):
        assert (page.parent / target).exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", (page.parent / target).read_text(), re.MULTILINE)
            assert heading in {re.sub(r"[^a-z0-9 -]", "", each.lower()).replace(" ", "-") for each in headings}


class Block(NamedTuple):
    """A piece of code in a page."""

    page: Path
    number: int
    language: str
    text: str


BLOCKS = [
    Block(page, number, language, text)
    for page in PAGES
    for number, (language, text) in enumerate(FENCE.findall(page.read_text()), 1)
]
PYTHON = [block for block in BLOCKS if block.language == "python"]
SESSIONS = sorted({block.page for block in BLOCKS if block.language == "console"})


class Allowed(Engine):
    """The engine of the examples, which name a public receiver, with leave to call the one on this machine."""

    def __init__(self, path: str) -> None:
        super().__init__(path, config=Config(security=LOOPBACK))


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: f"{block.page.name}-{block.number}")
async def test_python_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An example in Python does what it says, but for the address of the receiver."""
    monkeypatch.chdir(tmp_path)
    async with Receiver() as receiver:
        source = block.text.replace("https://example.com/hook", receiver.url)
        source = source.replace("from hookengine import Engine\n", "")
        names: dict[str, Any] = {"Engine": Allowed, **signed_request()}
        if "engine.stream" in source:  # of an engine at work
            await follow(source, names, receiver)
        else:
            await run(source, names)

        if "deliveries" in names:
            assert ["delivered"] == [delivery.state for delivery in names["deliveries"]]
            assert 1 == len(receiver.requests)


def signed_request() -> dict[str, Any]:
    """What a receiver has at hand."""
    secret, body = new_secret(bytes(32)), b"{}"
    signed = sign(
        _standard(), [secret], id="e", timestamp=int(time.time()), body=body, method="POST", url="", event_timestamp=0
    )
    return {"secret": secret, "body": body, "headers": dict(signed)}


def _standard() -> Any:
    from hookengine.schemes import SCHEMES  # noqa: PLC0415

    return SCHEMES["standard"]


async def run(source: str, names: dict[str, Any]) -> None:
    """Execute *source*, which may await at its top, with *names*."""
    code = compile(source, "<example>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    waiting = eval(code, names)  # our own documents
    if waiting is not None:
        await waiting


async def follow(source: str, names: dict[str, Any], receiver: Receiver) -> None:
    """Execute *source*, which follows an engine's stream, until it has shown the end of a delivery."""
    shown: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()
    async with Allowed("stream.db") as engine:
        await engine.subscribe(receiver.url)
        following = asyncio.create_task(run(source, names | {"engine": engine, "print": lambda *each: shown.put_nowait(each)}))
        await asyncio.sleep(0)
        await engine.publish("order.created", {"id": 1})
        async with asyncio.timeout(PATIENCE):
            assert ("attempt", "delivered") == await shown.get()
        following.cancel()
        await asyncio.wait([following])


@asynccontextmanager
async def node_receiver(program: str, folder: Path, secret: str) -> AsyncIterator[tuple[str, asyncio.StreamReader]]:
    """The receiver of docs/receiving.md in a process of its own, once it listens: where it does, and what it prints."""
    [script] = [block.text for block in BLOCKS if block.page.name == "receiving.md" and block.language == "js"]
    (folder / "receiver.mjs").write_text(script)
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        program,
        str(folder / "receiver.mjs"),
        env={**os.environ, "WEBHOOK_SECRET": secret, "PORT": str(port)},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE):
            assert await process.stdout.readline() == f"Listening on {port}\n".encode()
        yield f"http://127.0.0.1:{port}/", process.stdout
    finally:
        process.kill()
        await process.communicate()


async def test_node_receives(find_program: Callable[[str], str], tmp_path: Path) -> None:
    """The receiver in JavaScript takes a delivery, knows it again, and refuses what is signed otherwise, changed or old."""
    secret, other = new_secret(bytes(32)), new_secret(bytes([1] * 32))
    async with (
        node_receiver(find_program("node"), tmp_path, secret) as (url, printed),
        Allowed(str(tmp_path / "hooks.db")) as engine,
        aiohttp.ClientSession() as http,
    ):
        made = await engine.subscribe(url, secret=secret)
        event = await engine.publish("order.created", {"id": 1})
        await engine.wait(event.id, PATIENCE)
        await engine.replay_event(event.id)
        deliveries = await engine.wait(event.id, PATIENCE)
        await engine.rotate_secret(made.id, secret=other)
        next_event = await engine.publish("order.paid", {"id": 1})
        rotated = await engine.wait(next_event.id, PATIENCE)

        async def status(headers: dict[str, str], body: bytes = b"{}") -> int:
            async with http.post(url, data=body, headers=headers) as response:
                return response.status

        def signed(age: int, key: str = secret) -> dict[str, str]:
            at = int(time.time()) - age
            return dict(sign(_standard(), [key], id="e", timestamp=at, body=b"{}", method="POST", url="", event_timestamp=0))

        refused = [
            await status(signed(0, other)),
            await status(signed(0), b"{ }"),
            await status(signed(400)),
            await status(signed(-400)),
            await status(signed(0) | {"webhook-signature": "v1,"}),
            await status(signed(0) | {"webhook-signature": signed(0)["webhook-signature"].removeprefix("v1,")}),
            *[await status({name: value for name, value in signed(0).items() if name != left}) for left in signed(0)],
        ]
        last = await status(signed(0))

        assert ["delivered"] * 3 == [delivery.state for delivery in (*deliveries, *rotated)]
        assert {401} == set(refused)
        assert 204 == last
        async with asyncio.timeout(PATIENCE):
            lines = [await printed.readline() for _ in range(3)]
        assert [f"new: {event.id} order.created\n", f"new: {next_event.id} order.paid\n"] == [
            line.decode() for line in lines[:2]
        ]
        assert b"new: e undefined\n" == lines[2]


class Session:
    """A directory in which the commands of a page are run, beside a daemon; what goes on is stopped at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = {name: free_port() for name in ("8700", "9000", "3000")}
        self._running: list[subprocess.Popen[bytes]] = []
        self._environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "NO_COLOR": "1",
            "HOOKENGINE_SERVER_LISTEN": f"127.0.0.1:{self._ports['8700']}",
        }
        self._environment.pop("HOOKENGINE_DATA", None)
        for name in ("backup", "safe"):
            (folder / name).mkdir()

    def run(self, command: str) -> str:
        """What *command* prints; an endless one is left running once it has said something."""
        command = self._here(command)
        if command.startswith("hookengine serve") or "db prune" in command:
            self.stop()
        if command.startswith(ENDLESS):
            self._start(command)
            return ""
        ended = subprocess.run(
            ["bash", "-c", command],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert 0 == ended.returncode, f"{command}: {ended.stdout}{ended.stderr}"
        return ended.stdout

    def serve(self) -> None:
        """The daemon that a page takes for granted."""
        (self._folder / "hookengine.toml").write_text("[plans.pro]\nmax_subscriptions = 3\n")
        shown = re.search(
            r"^\$ cat auth\.json\n(\{\n.*?^\}\n)", (ROOT / "docs" / "authentication.md").read_text(), re.MULTILINE | re.DOTALL
        )
        assert shown is not None
        (self._folder / "auth.json").write_text(shown[1])
        self._start("hookengine serve --dev --config hookengine.toml")
        shutil.copy(self._folder / "hookengine-data" / "secret.key", self._folder / "safe" / "secret.key")

    def stop(self) -> None:
        """End what goes on."""
        for process in reversed(self._running):
            process.terminate()
        for process in self._running:
            process.communicate(timeout=PATIENCE)
        self._running.clear()

    def _start(self, command: str) -> None:
        process = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=self._folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._running.append(process)
        assert process.stdout is not None
        expected = b"Ready" if "serve" in command else b"Listening" if "listen" in command else b""
        while expected and expected not in (line := process.stdout.readline()):
            assert line, f"{command} ended"

    def _here(self, command: str) -> str:
        for name, port in self._ports.items():
            command = re.sub(rf"(:|listen ){name}\b", rf"\g<1>{port}", command)
        for name in ("backup", "safe", "restored"):
            command = command.replace(f"/{name}", f"{self._folder}/{name}")
        return command.partition("  # ")[0]


def commands(text: str) -> list[str]:
    """The commands of a console session, without what they print."""
    joined = text.replace("\\\n", "")
    return [line[2:] for line in joined.splitlines() if line.startswith("$ ")]


@pytest.mark.parametrize("page", SESSIONS, ids=lambda page: page.name)
def test_commands_run(page: Path, tmp_path: Path) -> None:
    """The commands of a page work one after the other, as a reader types them."""
    typed = [each for block in BLOCKS if block.page == page and block.language == "console" for each in commands(block.text)]
    here = [each for each in typed if not each.startswith(ELSEWHERE)]
    assert typed
    session = Session(tmp_path)
    try:
        if here and not here[0].startswith("hookengine serve"):
            session.serve()
        for command in here:
            session.run(command)
    finally:
        session.stop()


def test_views_are_named_in_the_stream() -> None:
    """The names that the examples use are those of the views."""
    assert {"kind", "delivery"} <= set(views.StreamItem.__struct_fields__)
