"""`hookengine.cli`: verbs against a real server on loopback whose answers each test writes."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
import socket
import struct
import subprocess
import sys
import threading
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import parse_qsl, urlsplit

import pytest
from patience import PATIENCE

from hookengine import __version__, errors
from hookengine.cli import main
from hookengine.cli.arguments import document, moment, past
from hookengine.cli.exits import report
from hookengine.cli.following import Line, news
from hookengine.cli.output import cell, describe_attempt, printable, shell_word, show_bytes, show_table, working
from hookengine.cli.tail import describe, events
from hookengine.clock import Clock
from hookengine.inputs import EventInput
from hookengine.receiver import Received, Receiver, Reply
from hookengine.server import routes
from hookengine.store.database import Lock
from hookengine.times import parse_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parent.parent
EVENT = "evt_0193f5a0-0000-7000-8000-000000000001"
SUB = "sub_0193f5a0-0000-7000-8000-000000000002"
DLV = "dlv_0193f5a0-0000-7000-8000-000000000003"
NOON = 1_900_000_000_000  # 2030-03-17T17:46:40Z
NOON_TEXT = "2030-03-17T17:46:40.000Z"

ATTEMPT: dict[str, Any] = {
    "number": 1,
    "at": "2030-03-17T17:46:40.000Z",
    "outcome": "accepted",
    "status_code": 200,
    "duration_ms": 41,
    "trigger": "auto",
}
REFUSED = ATTEMPT | {
    "outcome": "refused",
    "status_code": 503,
    "duration_ms": 12,
    "error": {"code": "http_status", "detail": ""},
}
DELIVERY: dict[str, Any] = {
    "id": DLV,
    "event": EVENT,
    "subscription": SUB,
    "tenant": "default",
    "type": "order.created",
    "state": "delivered",
    "attempt_count": 1,
    "next_attempt_at": None,
    "created_at": "2030-03-17T17:46:40.000Z",
    "finished_at": "2030-03-17T17:46:40.041Z",
}
SUBSCRIPTION: dict[str, Any] = {
    "id": SUB,
    "tenant": "default",
    "name": None,
    "url": "https://example.com/hook",
    "event_types": ["order.*", "user.created"],
    "profile": "standard",
    "headers": {"X-Key": "***"},
    "state": "active",
    "consecutive_failures": 0,
}
NO_TEXT = "\udcff"  # as Python has an argument of the byte ff
URL = "https://example.com/hook"
ACCEPTED = {"id": EVENT, "type": "order.created", "tenant": "default", "accepted_at": "2030-03-17T17:46:40Z", "deliveries": 1}


class Ended(NamedTuple):
    """How a verb ended, and what it said."""

    status: int
    out: str
    err: str


class Server:
    """The API, in a thread: answers what a test has written for a method and path; the last answer repeats."""

    def __init__(self) -> None:
        self.answers: dict[str, list[Reply]] = {}
        self.receiver = Receiver(self._reply)
        self._loop = asyncio.new_event_loop()
        self._leave = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def on(self, route: str, *documents: Any, status: int = 200) -> None:
        """Answer *documents* in turn to `METHOD /path`; bytes go out as they are."""
        self.answers[route] = [
            Reply(status=status, body=each if isinstance(each, bytes) else json.dumps(each).encode()) for each in documents
        ]

    @property
    def last(self) -> Received:
        """The request that came last."""
        return self.receiver.requests[-1]

    @property
    def query(self) -> dict[str, str]:
        """The query of the last request."""
        return dict(parse_qsl(urlsplit(self.last.path).query))

    @property
    def document(self) -> Any:
        """What the last request asked for."""
        return json.loads(self.last.body)

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(5)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._leave.set)
        self._thread.join(5)
        self._loop.close()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        async with self.receiver:
            self._ready.set()
            await self._leave.wait()

    def _reply(self, received: Received) -> Reply:
        replies = self.answers.get(f"{received.method} {received.path.partition('?')[0]}")
        if replies is None:
            return Reply(status=404, body=b'{"title":"Not found","status":404,"code":"not_found","detail":"Nothing is here."}')
        return replies.pop(0) if len(replies) > 1 else replies[0]


class Terminal(io.StringIO):
    """A text stream that is a terminal."""

    def isatty(self) -> bool:
        """It is."""
        return True


class Listening(Terminal):
    """A terminal that tells when something was written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = threading.Event()

    def write(self, text: str) -> int:
        """Keep *text*."""
        count = super().write(text)
        if text.endswith("\n"):
            self.written.set()
        return count


@pytest.fixture
def server() -> Iterator[Server]:
    """A server to be asked."""
    with Server() as server:
        yield server


_held: list[Lock] = []  # of what stands in for a daemon


@pytest.fixture(autouse=True)
def _no_daemon_stays() -> Iterator[None]:
    """What stands in for a daemon ends with the test."""
    yield
    while _held:
        _held.pop().release()


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The verbs run in an empty directory, without variables of ours; children find the package without an installation."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in [name for name in os.environ if name.startswith("HOOKENGINE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs a verb in this process."""

    def run(*argv: str) -> Ended:
        status = main(argv)
        return Ended(status, *capsys.readouterr())

    return run


@pytest.fixture
def ask(cli: Callable[..., Ended], server: Server) -> Callable[..., Ended]:
    """Runs a verb that asks the server."""
    return lambda *argv: cli(*argv, "--url", server.receiver.url, "--token", "hkt_x")


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    """Puts bytes on standard input."""
    return lambda content: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def page(*records: dict[str, Any], cursor: str | None = None) -> dict[str, Any]:
    """One page of a list."""
    return {"data": list(records), "next_cursor": cursor}


def running(data: Path, url: str, *, pid: int | None = None, token: str | None = "hkt_owner\n") -> None:
    """Makes *data* look as a daemon at *url* has it: our process, unless it is announced as *pid*."""
    data.mkdir(exist_ok=True)
    _held.append(Lock(data / "hooks.db"))
    _held[-1].acquire()
    (data / "daemon.json").write_text(json.dumps({"url": url, "pid": os.getpid() if pid is None else pid}))
    if token is not None:
        (data / "admin.token").write_text(token)


# Loading, help, usage


@pytest.mark.parametrize(
    "argv",
    [
        ["--help"],
        ["event", "--help"],
        ["event", "send", "--help"],
        ["event-type", "set", "--help"],
        ["tenant", "secret", "set", "--help"],
        ["token", "create", "--help"],
        ["--version"],
        ["serve", "-h"],
        ["tail", "-h"],
        ["openapi", "-h"],
        ["listen", "-h"],
        ["doctor", "-h"],
        ["db", "prune", "-h"],
        ["init", "-h"],
        ["backup", "-h"],
        ["bench", "-h"],
        ["sign", "-h"],
    ],
)
def test_help_loads_nothing_that_is_slow(argv: list[str]) -> None:
    """Help and version are shown without a server, an event loop, a table printer or a log library."""
    slow = (
        "aiohttp",
        "aiosqlite",
        "asyncio",
        "rich",
        "structlog",
        "msgspec",
        "orjson",
        "uvloop",
        "cryptography",
        "http.client",
    )
    script = f"import sys; from hookengine.cli import main; main({argv!r}); print([m for m in {slow!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert "[]" == done.stdout.splitlines()[-1]


def test_list_through_a_pipe_loads_no_table_printer(server: Server) -> None:
    """A verb whose output is no terminal does without rich and aiohttp."""
    server.on("GET /v1/events", page(ACCEPTED))
    script = (
        "import sys; from hookengine.cli import main; "
        f"main(['event', 'list', '--url', {server.receiver.url!r}]); "
        "print([m for m in ('aiohttp', 'rich', 'msgspec') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert [EVENT, "[]"] == [done.stdout.partition("\t")[0], done.stdout.splitlines()[-1]]


def test_module_is_the_command() -> None:
    """`python -m hookengine` runs the same verbs and hands their status to the shell."""
    version = subprocess.run([sys.executable, "-m", "hookengine", "--version"], capture_output=True, text=True, check=False)
    wrong = subprocess.run([sys.executable, "-m", "hookengine", "deliver"], capture_output=True, text=True, check=False)

    assert (0, f"hookengine {__version__}\n") == (version.returncode, version.stdout)
    assert (2, "") == (wrong.returncode, wrong.stdout)
    assert "Did you mean 'delivery'?" in wrong.stderr


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["event"],
        ["event", "send"],
        ["event", "send", "t", "--priority", "urgent"],
        ["event", "list", "--limit", "0"],
        ["event", "list", "--limit", "251"],
        ["delivery", "list", "--state", "lost"],
        ["subscription", "add"],
        ["subscription", "add", "https://e.example", "--max-concurrency", "many"],
        ["subscription", "add", "https://e.example", "--header", "no colon"],
        ["subscription", "add", "https://e.example", "--header", ": x"],
        ["subscription", "add", "https://e.example", "--header", "A: 1", "--header", "A: 2"],
        ["subscription", "add", "https://e.example", "--metadata", "novalue"],
        ["subscription", "add", "https://e.example", "--key-values", "{"],
        ["subscription", "add", "https://e.example", "--key-values", '{"a":1,"b":{"c":2,"c":2}}'],
        ["subscription", "add", "https://e.example", "--key-values", '{"a":1e400}'],
        ["subscription", "add", "https://e.example", "--key-values", '{"a":NaN}'],
        ["subscription", "add", "https://e.example", "--key-values", '{"a":"\\ud800"}'],
        ["subscription", "add", "https://e.example", "--batch", '{"max_events":' + "[" * 100_000],
        ["subscription", "add", "https://e.example", "--method", "PATCH"],
        ["subscription", "add", "https://e.example", "--basic", "nocolon"],
        ["subscription", "add", "https://e.example", "--auth", "{"],
        ["subscription", "add", "https://e.example", "--auth", "[]"],
        ["subscription", "add", "https://e.example", "--basic", "u:p", "--auth", "{}"],
        ["subscription", "add", "https://e.example", "--batch", "null"],
        ["subscription", "edit", SUB, "--auth", "{}", "--unset", "auth"],
        ["subscription", "add", "https://e.example", "--secret", "@missing"],
        ["subscription", "add", "https://e.example", "--secret", ""],
        ["subscription", "test", SUB, "{"],
        ["replay", "--dry-run", "--json"],
        ["replay", EVENT, "--subscription", SUB],
        ["replay", EVENT, "--since", "1h"],
        ["replay", EVENT, "--dry-run"],
        ["replay", "--subscription", SUB, "--to", SUB],
        ["replay", "--subscription", SUB, "--tenant", "x"],
        ["replay", "--subscription", SUB, "--idempotency-key", "a b"],
        ["subscription", "edit", SUB],
        ["subscription", "edit", SUB, "--name", "x", "--unset", "name"],
        ["subscription", "edit", SUB, "--unset", "url"],
        ["event", "list", "--url", "ftp://127.0.0.1"],
        ["event", "list", "--url", "127.0.0.1:8700"],
        ["event", "list", "--token", "a\nb"],
    ],
)
def test_usage_is_status_2(cli: Callable[..., Ended], server: Server, argv: list[str]) -> None:
    """What cannot be meant ends with 2, says why on stderr, and asks the server for nothing."""
    here = [] if "--url" in argv or len(argv) < 3 else ["--url", server.receiver.url]
    ended = cli(*argv, *here)

    assert (2, "") == (ended.status, ended.out)
    assert ended.err
    assert [] == server.receiver.requests


# Exit statuses


@pytest.mark.parametrize(
    ("status", "expected"),
    [(400, 1), (401, 4), (403, 4), (404, 5), (409, 6), (412, 6), (413, 1), (422, 1), (429, 1), (500, 1), (503, 1), (307, 1)],
)
def test_refusal_decides_the_status(server: Server, ask: Callable[..., Ended], status: int, expected: int) -> None:
    """Each kind of refusal has the exit status of the contract, and its words are on stderr."""
    server.on("GET /v1/events", {"title": "T", "status": status, "code": "c", "detail": "That is why."}, status=status)

    assert Ended(expected, "", "Error: That is why.\n") == ask("event", "list")


@pytest.mark.parametrize(
    "argv",
    [
        ["event", "list", "--tenant", NO_TEXT],
        ["event", "show", NO_TEXT],
        ["event", "send", NO_TEXT, "{}"],
        ["event", "send", "t", NO_TEXT],
        ["subscription", "list", "--cursor", NO_TEXT],
        ["subscription", "add", URL, "--header", f"X: {NO_TEXT}"],
        ["subscription", "add", URL, "--secret", NO_TEXT],
        ["subscription", "add", URL, "--auth", NO_TEXT],
        ["tenant", "secret", "set", NO_TEXT],
        ["serve", "--listen", NO_TEXT],
        ["listen", "0", "--forward-to", f"http://{NO_TEXT}/"],
        ["sign", "--secret", "whsec_x", "--header", f"X: {NO_TEXT}", "body"],
    ],
)
def test_argument_that_is_no_text_is_told(cli: Callable[..., Ended], server: Server, argv: list[str]) -> None:
    """Bytes that are no UTF-8 are a mistake of usage that is named as that, and nothing is asked."""
    running(Path("hookengine-data"), server.receiver.url)
    ended = cli(*argv)

    assert (2, "", 0) == (ended.status, ended.out, len(server.receiver.requests))
    assert "is not UTF-8" in ended.err


def test_path_may_be_of_any_bytes(cli: Callable[..., Ended], server: Server) -> None:
    """Names of files and directories are what the file system takes, and a command to be copied names the same."""
    missing = cli("event", "list", "--data", NO_TEXT)
    Path(NO_TEXT).write_bytes(b'{"id":1}')
    server.on("POST /v1/events", ACCEPTED, status=202)
    running(Path(f"{NO_TEXT}.d"), server.receiver.url)

    assert r"`hookengine serve --data $'\xff'`" in missing.err
    assert 0 == cli("event", "send", "t", f"@{NO_TEXT}", "--data", f"{NO_TEXT}.d").status
    assert {"type": "t", "data": {"id": 1}} == server.document


@pytest.mark.parametrize(
    "argv", [["event", "list"], ["doctor"], ["bench", "--count", "10", "--rounds", "1", "--only", "bare"]], ids=lambda a: a[0]
)
def test_deleted_working_directory_is_told(cli: Callable[..., Ended], tmp_path: Path, argv: list[str]) -> None:
    """Where relative paths lead nowhere any more, that is said in a sentence."""
    (tmp_path / "gone").mkdir()
    os.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    ended = cli(*argv)

    assert (1, "Error: the working directory has been deleted: go to another one\n") == (ended.status, ended.err)


@pytest.mark.parametrize("text", ["a", "a b", "it's", "a\nb", f"{NO_TEXT}/it's\\", "\x1b[31mé", ""])
def test_word_is_the_shells(text: str) -> None:
    """A word of a command to be copied drives no terminal, and is the same once a shell has read it."""
    word = shell_word(text)

    assert word.isprintable()
    assert os.fsencode(text) == subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True, check=True).stdout


def test_every_mistake_has_its_line(server: Server, ask: Callable[..., Ended]) -> None:
    """All errors of a problem document are named, by pointer or by parameter."""
    mistakes = [
        {"pointer": "/url", "code": "a", "detail": "must be https"},
        {"pointer": "", "code": "b", "detail": "must be an object"},
        {"parameter": "Idempotency-Key", "code": "c", "detail": "too\x1b[31m long"},
    ]
    server.on("POST /v1/subscriptions", {"detail": "Not valid.", "errors": mistakes}, status=422)
    ended = ask("subscription", "add", "http://e.example")

    assert (1, "") == (ended.status, ended.out)
    assert [
        "Error: Not valid.",
        "  /url: must be https",
        "  (whole): must be an object",
        r"  Idempotency-Key: too\x1b[31m long",
    ] == ended.err.splitlines()


def test_failed_save_time_test_says_what_the_endpoint_answered(server: Server, ask: Callable[..., Ended]) -> None:
    """The attempt in a refusal is told in a line."""
    problem = {"code": "endpoint_verification_failed", "detail": "The endpoint did not confirm.", "attempt": REFUSED}
    server.on("POST /v1/subscriptions", problem, status=422)

    assert "  the endpoint: 503 in 12 ms\n" in ask("subscription", "add", "http://e.example").err


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        pytest.param(["add", "http://127.0.0.1:9000"], True, id="http"),
        pytest.param(["add", "https://10.0.0.1/hook"], True, id="private"),
        pytest.param(["edit", SUB, "--endpoint", "https://localhost/hook"], True, id="edit"),
        pytest.param(["add", "ftp://127.0.0.1"], False, id="never"),
        pytest.param(["add", "https://169.254.169.254"], False, id="metadata"),
    ],
)
def test_operators_allowances_are_named(
    cli: Callable[..., Ended], server: Server, tmp_path: Path, argv: list[str], told: bool
) -> None:
    """Where the daemon of this machine refuses a URL that its operator may allow, the settings are named."""
    running(tmp_path / "hookengine-data", server.receiver.url)
    problem = {"detail": "Not valid.", "errors": [{"pointer": "/url", "code": "invalid_url", "detail": "no"}]}
    for route in ("POST /v1/subscriptions", f"PATCH /v1/subscriptions/{SUB}"):
        server.on(route, problem, status=422)
    here = cli("subscription", *argv)
    there = cli("subscription", *argv, "--url", server.receiver.url)

    assert ["Error: Not valid.", "  /url: no"] == here.err.splitlines()[:2]
    assert told == ("allow_networks, or for a try `hookengine serve --dev`" in here.err)
    assert Ended(1, "", "Error: Not valid.\n  /url: no\n") == there


def test_nobody_listening_is_status_3(cli: Callable[..., Ended]) -> None:
    """A server that is not there is told with its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    ended = cli("event", "list", "--url", url)

    assert (3, "", f"Error: {url} is not reached: Connection refused\n") == ended


@pytest.mark.parametrize("document", [b"<html>", [], {}, {"data": []}], ids=["html", "array", "empty", "half"])
def test_server_of_another_kind_is_status_3(server: Server, ask: Callable[..., Ended], document: Any) -> None:
    """An answer that no hookengine gives is told as such."""
    server.on("GET /v1/events", document)
    ended = ask("event", "list")

    assert (3, "") == (ended.status, ended.out)
    assert ended.err.startswith("Error: ")


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        pytest.param(errors.AlreadyRunning("x/hooks.db", 12), 75, "Error: x/hooks.db is in use by pid 12\n", id="running"),
        pytest.param(errors.DatabaseTooNew("hooks.db", 9, 1), 78, "Error: hooks.db has schema version 9; ", id="too_new"),
        pytest.param(errors.StorageFailed("fsync"), 70, "Error: fsync\n", id="storage"),
        pytest.param(
            errors.ConfigInvalid(
                "a.toml:1  server.listne  unknown\na.toml:2  store.x        unknown",
                mistakes=(
                    errors.Mistake(code="unknown", detail="unknown", parameter="a.toml:1  server.listne"),
                    errors.Mistake(code="unknown", detail="unknown", parameter="a.toml:2  store.x"),
                ),
            ),
            78,
            "a.toml:1  server.listne  unknown\na.toml:2  store.x        unknown\nError: the configuration has 2 mistakes\n",
            id="config",
        ),
        pytest.param(errors.HookEngineError("other"), 1, "Error: other\n", id="other"),
    ],
)
def test_error_of_the_engine_has_its_status(
    capsys: pytest.CaptureFixture[str], error: errors.HookEngineError, status: int, words: str
) -> None:
    """What the daemon cannot start or go on with ends with the status that sysexits.h has for it."""
    assert status == report(error)
    assert capsys.readouterr().err.startswith(words)


def test_reader_that_leaves_ends_the_verb_quietly(server: Server) -> None:
    """A pipe that is closed at the other end shows no traceback."""
    server.on("GET /v1/events", page(*[ACCEPTED] * 2000))
    command = [sys.executable, "-m", "hookengine", "event", "list", "--json", "--url", server.receiver.url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stderr
        child.stdout.close()

        assert b"" == child.stderr.read()
        assert 1 == child.wait(10)


def test_output_without_unicode_shows_an_escape(server: Server) -> None:
    """An output that cannot hold a letter gets its escape, and the verb goes on."""
    server.on("GET /v1/events/x", {"id": "x", "name": "☃", "data": {}, "deliveries": []})
    done = subprocess.run(
        [sys.executable, "-m", "hookengine", "event", "show", "x", "--url", server.receiver.url],
        capture_output=True,
        check=True,
        env=os.environ | {"PYTHONIOENCODING": "latin-1:strict"},
    )

    assert b"name\t\\u2603\n" in done.stdout


# Finding the server


def test_local_daemon_is_found_through_its_directory(cli: Callable[..., Ended], server: Server, tmp_path: Path) -> None:
    """Without options the daemon of ./hookengine-data is asked, with the owner's token."""
    running(tmp_path / "hookengine-data", server.receiver.url)
    server.on("GET /v1/events", page())

    assert 0 == cli("event", "list").status
    assert "Bearer hkt_owner" == server.last.header("Authorization")


def test_data_option_and_variable_name_the_directory(
    cli: Callable[..., Ended], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--data and HOOKENGINE_DATA lead to another daemon, and HOOKENGINE_TOKEN stands in for the owner's token."""
    running(tmp_path / "there", server.receiver.url, token=None)
    server.on("GET /v1/events", page())
    monkeypatch.setenv("HOOKENGINE_TOKEN", "hkt_mine")

    assert 0 == cli("event", "list", "--data", str(tmp_path / "there")).status
    monkeypatch.setenv("HOOKENGINE_DATA", str(tmp_path / "there"))
    assert 0 == cli("event", "list").status
    assert ["Bearer hkt_mine"] * 2 == [request.header("Authorization") for request in server.receiver.requests]


@pytest.mark.parametrize("shown", ["", "/", "/v1", "/v1/"])
def test_variables_name_the_server(
    cli: Callable[..., Ended], server: Server, monkeypatch: pytest.MonkeyPatch, shown: str
) -> None:
    """HOOKENGINE_URL and HOOKENGINE_TOKEN are as good as the options; the URL may be as the daemon shows it."""
    server.on("GET /v1/events", page())
    monkeypatch.setenv("HOOKENGINE_URL", server.receiver.url + shown)
    monkeypatch.setenv("HOOKENGINE_TOKEN", "hkt_env")

    assert 0 == cli("event", "list").status
    assert "Bearer hkt_env" == server.last.header("Authorization")


def test_owner_token_goes_to_the_local_daemon_only(cli: Callable[..., Ended], server: Server, tmp_path: Path) -> None:
    """A URL of one's own does not get the token that lies in the data directory."""
    running(tmp_path / "hookengine-data", "http://127.0.0.1:1")
    server.on("GET /v1/events", page())

    assert 0 == cli("event", "list", "--url", server.receiver.url).status
    assert server.last.header("Authorization") is None


def test_without_a_daemon_the_verb_says_how_to_start_one(cli: Callable[..., Ended]) -> None:
    """No daemon on the directory is a server that is not reached; whether the directory is the right one is seen."""
    here = Path.cwd() / "hookengine-data"
    elsewhere = cli("event", "list")
    here.mkdir()
    stopped = cli("event", "list")

    assert [(3, "")] * 2 == [ended[:2] for ended in (elsewhere, stopped)]
    assert f"Error: there is no directory {here}: name that of a daemon with --data, start one here with" in elsewhere.err
    assert f"Error: the daemon on {here} is stopped: start it with `hookengine serve`" in stopped.err


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1, 10**18, 10**30, 1, None])  # the last two are in use
def test_token_is_not_sent_where_the_daemon_has_died(
    cli: Callable[..., Ended], server: Server, tmp_path: Path, pid: int | None
) -> None:
    """What a killed daemon left does not lead the owner's token to whoever has its port now, be its pid in use again."""
    data = tmp_path / "hookengine-data"
    running(data, server.receiver.url, pid=pid)
    _held.pop().drop()
    (data / "hooks.db.lock").write_text(f"{os.getpid() if pid is None else pid}\n")
    ended = cli("event", "list")

    assert (3, []) == (ended.status, server.receiver.requests)
    assert "runs no more" in ended.err


def test_token_is_not_sent_while_the_next_daemon_starts(cli: Callable[..., Ended], server: Server, tmp_path: Path) -> None:
    """Who has the database is not who has been killed, and whose port may be somebody else's."""
    running(tmp_path / "hookengine-data", server.receiver.url, pid=os.getppid())
    ended = cli("event", "list")
    _held.pop().release()
    (tmp_path / "hookengine-data" / "hooks.db.lock").unlink()
    stopped = cli("event", "list")

    assert (3, 3, []) == (ended.status, stopped.status, server.receiver.requests)
    assert ("runs no more" in ended.err, "is stopped" in stopped.err) == (True, True)


def test_daemon_behind_a_link_is_found(cli: Callable[..., Ended], server: Server, tmp_path: Path) -> None:
    """A link to the database leads to its lock."""
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "hooks.db").symlink_to(tmp_path / "real.db")
    running(tmp_path / "linked", server.receiver.url)
    server.on("GET /v1/events", page())

    assert 0 == cli("event", "list", "--data", "linked").status


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"url": "x"}', '{"url": "http://127.0.0.1:1", "pid": "me"}', "\xff"])
def test_unreadable_announcement_is_status_3(cli: Callable[..., Ended], tmp_path: Path, content: str) -> None:
    """A daemon.json that no daemon wrote is told, without a traceback."""
    running(tmp_path / "hookengine-data", "")
    (tmp_path / "hookengine-data" / "daemon.json").write_text(content, encoding="latin-1")
    ended = cli("event", "list")

    assert 3 == ended.status
    assert "is not what a daemon writes" in ended.err


def test_missing_owner_token_is_status_4(cli: Callable[..., Ended], server: Server, tmp_path: Path) -> None:
    """Whoever cannot read the owner's token is not the owner."""
    running(tmp_path / "hookengine-data", server.receiver.url, token=None)
    ended = cli("event", "list")

    assert (4, []) == (ended.status, server.receiver.requests)
    assert "give a token with --token" in ended.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_directory_of_another_user_is_status_4(cli: Callable[..., Ended], tmp_path: Path) -> None:
    """A directory that may not be read is told as not allowed."""
    running(tmp_path / "hookengine-data", "http://127.0.0.1:1")
    for name in ("hooks.db.lock", "daemon.json"):
        (tmp_path / "hookengine-data" / name).chmod(0)
        ended = cli("event", "list")

        assert (4, True) == (ended.status, f"{name} cannot be read" in ended.err)


# Output


def test_json_is_the_document_as_it_came(server: Server, ask: Callable[..., Ended]) -> None:
    """--json shows the server's bytes, also where a parser would have changed them."""
    document = b'{"data":[{"n":12345678901234567890123, "x":1.10}],"next_cursor":"abc"}\n'
    server.on("GET /v1/events", document)

    assert Ended(0, document.decode(), "") == ask("event", "list", "--json")


def test_list_through_a_pipe_is_tab_separated(server: Server, ask: Callable[..., Ended]) -> None:
    """Programs get a record to a line, whole, and the way to the next page is told on stderr."""
    server.on("GET /v1/subscriptions", page(SUBSCRIPTION, cursor="abc"))
    ended = ask("subscription", "list")

    line = f"{SUB}\tactive\tdefault\t\thttps://example.com/hook\torder.*,user.created\tstandard\t0\n"
    assert Ended(0, line, "There are more: --cursor abc\n") == ended


def test_table_on_a_terminal_has_headings_and_no_borders(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person gets aligned columns, with ids whole however narrow the terminal is."""
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("COLUMNS", "20")
    with redirect_stdout(Terminal()) as shown:
        show_table(("id", "attempt_count"), [{"id": DLV, "attempt_count": 1}, {"id": "dlv_2", "attempt_count": 10}])

    lines = [line.rstrip() for line in shown.getvalue().splitlines()]
    assert [f"{'ID':<40}  ATTEMPT COUNT", f"{DLV}  1", f"{'dlv_2':<40}  10"] == lines


def test_document_on_a_terminal_drives_nothing() -> None:
    """What an endpoint answered is the same JSON on a terminal, but for what would move its cursor or turn its text around."""
    document = '{"a": "\x9b31m\u202eé\U000e0001",\n"b": 1}\n'
    with redirect_stdout(Terminal()) as shown:
        show_bytes(document.encode())

    assert '{"a": "\\u009b31m\\u202eé\\udb40\\udc01",\n"b": 1}\n' == shown.getvalue()
    assert json.loads(document) == json.loads(shown.getvalue())


def test_states_have_a_colour_unless_unwanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state is coloured on a terminal, and NO_COLOR ends that."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    shown = {}
    for no_color in ("", "1"):
        monkeypatch.setenv("NO_COLOR", no_color)
        with redirect_stdout(Terminal()) as out:
            show_table(("state",), [{"state": "failed"}])
        shown[no_color] = "\x1b[31m" in out.getvalue()

    assert {"": True, "1": False} == shown


def test_markup_and_escapes_of_others_do_nothing() -> None:
    """What a customer wrote reaches the terminal as text, whatever it would do there."""
    with redirect_stdout(Terminal()) as shown:
        show_table(("name",), [{"name": "[bold]x[/bold] :smile: \x1b]0;evil\x07 \u202e"}])

    assert r"[bold]x[/bold] :smile: \x1b]0;evil\x07 \u202e" in shown.getvalue()


def test_empty_list_says_so_to_a_person_only(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is nothing for a program, and a word on a terminal."""
    show_table(("id",), [])
    assert ("", "") == tuple(capsys.readouterr())

    with redirect_stdout(Terminal()) as shown:
        show_table(("id",), [])
    assert ("", "none\n") == (shown.getvalue(), capsys.readouterr().err)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ""),
        ("Zoë", "Zoë"),
        ("a\nb\tc", r"a\nb\tc"),
        (["a", "b"], "a,b"),
        ([{"a": 1}], '[{"a": 1}]'),
        ({"a": "é"}, '{"a": "é"}'),
        (True, "true"),
        (0, "0"),
        ("\ud800", r"\ud800"),
    ],
)
def test_cell_is_one_line(value: Any, expected: str) -> None:
    """A value is shown in one line, a missing one as nothing."""
    assert expected == cell(value)


def test_printable_keeps_what_can_be_seen() -> None:
    """Spaces and letters of all alphabets stay, controls and directions do not."""
    assert r"a b ☃ 漢 \x9b \u2028" == printable("a b ☃ 漢 \x9b \u2028")


@pytest.mark.parametrize(
    ("attempt", "expected"),
    [
        (ATTEMPT, "200 in 41 ms"),
        (REFUSED, "503 in 12 ms"),
        (
            {"outcome": "unreachable", "duration_ms": 3, "error": {"code": "connect_refused", "detail": "nobody"}},
            "connect_refused in 3 ms (nobody)",
        ),
        ({"outcome": "unreachable", "duration_ms": 3, "error": {"code": "reset", "detail": ""}}, "reset in 3 ms"),
        ({"outcome": "interrupted", "duration_ms": 3, "error": None}, "interrupted in 3 ms"),
    ],
)
def test_attempt_in_words(attempt: dict[str, Any], expected: str) -> None:
    """An attempt is told by its status, or by what kept it from one."""
    assert expected == describe_attempt(attempt)


# event


def test_event_is_explained(server: Server, ask: Callable[..., Ended]) -> None:
    """Each subscription has its line with the reason, and the next page is told of."""
    explained = {"subscription": SUB, "name": None, "url": "x", "delivered": False, "state": "failed", "reason": "Why."}
    server.on(f"GET /v1/events/{EVENT}/explain", {"event": EVENT, "subscriptions": [explained], "next_cursor": "c"})
    ended = ask("event", "explain", EVENT, "--subscription", SUB, "--limit", "1")

    assert Ended(0, f"{SUB}\tfalse\tfailed\tWhy.\n", "There are more: --cursor c\n") == ended
    assert {"subscription": SUB, "limit": "1"} == server.query
    server.on(f"GET /v1/events/{EVENT}/explain", {"event": EVENT, "subscriptions": [], "next_cursor": None})
    assert Ended(0, "", "") == ask("event", "explain", EVENT)
    assert {"event", "subscriptions", "next_cursor"} == json.loads(ask("event", "explain", EVENT, "--json").out).keys()


def test_event_is_sent_with_the_producers_bytes(server: Server, ask: Callable[..., Ended]) -> None:
    """The data goes into the request as it was typed, and the id is the only thing on stdout."""
    server.on("POST /v1/events", ACCEPTED, status=202)
    data = '{ "n": 1.10, "big": 12345678901234567890123, "s": "\\u00e9 ☃" }'
    ended = ask("event", "send", "order.created", data, "--tenant", "acme", "--id", "o-1", "--priority", "high")

    assert Ended(0, f"{EVENT}\n", "accepted, 1 delivery\n") == ended
    members = b'{"type": "order.created", "tenant": "acme", "id": "o-1", "priority": "high","data":'
    assert members + data.encode() + b"}" == server.last.body


@pytest.mark.parametrize(("count", "words"), [(0, "but no subscription wants it"), (2, "2 deliveries")])
def test_count_of_deliveries_is_told(server: Server, ask: Callable[..., Ended], count: int, words: str) -> None:
    """The person learns how many receivers the event has."""
    server.on("POST /v1/events", ACCEPTED | {"deliveries": count}, status=202)

    assert f"accepted, {words}\n" == ask("event", "send", "t").err
    assert {"type": "t", "data": {}} == server.document


def test_data_comes_from_a_file_or_standard_input(
    server: Server, ask: Callable[..., Ended], typed: Callable[[bytes], None], tmp_path: Path
) -> None:
    """@FILE and - stand for bytes that are sent as they are."""
    server.on("POST /v1/events", ACCEPTED, status=202)
    (tmp_path / "order.json").write_bytes(b'{"n": 1.0}\n')
    typed(b"[1,  2]")

    ask("event", "send", "t", "@order.json")
    assert server.last.body.endswith(b'"data":{"n": 1.0}\n}')
    ask("event", "send", "t", "-")
    assert server.last.body.endswith(b'"data":[1,  2]}')


@pytest.mark.parametrize(
    ("before", "after", "data"),
    [
        pytest.param("printf '[1,  2]' |", "", b"[1,  2]", id="pipe"),
        pytest.param("", "< order.json", b'{"n": 1.0}\n', id="file"),
        pytest.param("printf '[1,  2]' |", "'{}'", b"{}", id="given"),
        pytest.param("", "< /dev/null", b"{}", id="null"),
        pytest.param("true |", "", b"{}", id="empty"),
        pytest.param("", "<&-", b"{}", id="closed"),
    ],
)
def test_data_that_is_not_given_is_what_is_piped_in(server: Server, before: str, after: str, data: bytes) -> None:
    """Without an argument the data is standard input's, if that is a pipe or a file and holds something, else {}."""
    server.on("POST /v1/events", ACCEPTED, status=202)
    Path("order.json").write_bytes(b'{"n": 1.0}\n')
    command = f"{before} {sys.executable} -m hookengine event send t --url {server.receiver.url} {after}"
    subprocess.run(["/bin/sh", "-c", command], check=True, capture_output=True, timeout=PATIENCE)

    assert server.last.body.endswith(b'"data":%b}' % data)


def test_pipe_that_says_nothing_is_not_waited_for(server: Server) -> None:
    """A standard input that somebody left open holds no data, and whoever meant it is told how to say so."""
    server.on("POST /v1/events", ACCEPTED, status=202)
    reading, writing = os.pipe()
    try:
        command = [sys.executable, "-m", "hookengine", "event", "send", "t", "--url", server.receiver.url]
        done = subprocess.run(command, check=True, capture_output=True, stdin=reading, timeout=PATIENCE)
    finally:
        os.close(reading)
        os.close(writing)

    assert server.last.body.endswith(b'"data":{}}')
    assert b"Give - to wait for it." in done.stderr


def test_closed_standard_input_is_no_terminal(server: Server) -> None:
    """A verb that would ask a person does without a standard input."""
    server.on(f"DELETE /v1/subscriptions/{SUB}", b"", status=204)
    command = f"{sys.executable} -m hookengine subscription delete {SUB} --url {server.receiver.url} <&-"
    done = subprocess.run(["/bin/sh", "-c", command], check=False, capture_output=True, timeout=PATIENCE)

    assert (0, f"{SUB} is deleted\n".encode()) == (done.returncode, done.stderr)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="half"),
        pytest.param(b'1,"tenant":"other"', id="smuggled_member"),
        pytest.param(b'{}},{"a":{}', id="smuggled_event"),
        pytest.param(b"1 2", id="two_values"),
        pytest.param(b"NaN", id="nan"),
        pytest.param(b"-Infinity", id="infinity"),
        pytest.param(b'"\xff"', id="not_utf8"),
        pytest.param('{"a":1}'.encode("utf-16"), id="utf16"),
        pytest.param(b"\xef\xbb\xbf{}", id="byte_order_mark"),
        pytest.param(b"[" * 100_000 + b"]" * 100_000, id="deep"),
        pytest.param(b'"a\nb"', id="raw_newline"),
        pytest.param(b"01", id="leading_zero"),
    ],
)
def test_data_that_is_not_one_json_value_is_not_sent(
    server: Server, ask: Callable[..., Ended], typed: Callable[[bytes], None], data: bytes
) -> None:
    """Bytes that would become other members of the request, or none, are a mistake of usage."""
    typed(data)
    ended = ask("event", "send", "t", "-")

    assert (2, "", []) == (ended.status, ended.out, server.receiver.requests)
    assert "the data is " in ended.err


def test_numbers_longer_than_python_converts_are_sent() -> None:
    """A number of ten thousand digits is JSON."""
    digits = b"9" * 10_000

    assert b'{"type": "t","data":' + digits + b"}" == document({"type": "t", "id": None}, "data", digits)


def test_missing_file_is_a_mistake_of_usage(ask: Callable[..., Ended]) -> None:
    """A file that is not there is told with its name."""
    ended = ask("event", "send", "t", "@nowhere.json")

    assert 2 == ended.status
    assert "nowhere.json cannot be read: No such file or directory" in ended.err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10m", "2030-03-17T17:56:40.000Z"),
        ("500ms", "2030-03-17T17:46:40.500Z"),
        ("1d", "2030-03-18T17:46:40.000Z"),
        ("0s", "2030-03-17T17:46:40.000Z"),
        ("2h", "2030-03-17T19:46:40.000Z"),
        ("2031-01-01T00:00:00+01:00", "2031-01-01T00:00:00+01:00"),
        ("tomorrow", "tomorrow"),
    ],
)
def test_at_is_a_duration_from_now_or_a_time(text: str, expected: str) -> None:
    """A duration becomes a time; what is like none is for the server to judge."""
    assert expected == moment(text, now=NOON)


def test_at_goes_to_the_server(server: Server, ask: Callable[..., Ended]) -> None:
    """--at is the member deliver_at."""
    server.on("POST /v1/events", ACCEPTED, status=202)
    ask("event", "send", "t", "--at", "2031-01-01T00:00:00Z")

    assert "2031-01-01T00:00:00Z" == server.document["deliver_at"]


def test_event_has_every_member_of_the_api(server: Server, ask: Callable[..., Ended]) -> None:
    """What an event may have beside type and data has an option of its name; a duration counts to where its time is."""
    server.on("POST /v1/events", ACCEPTED, status=202)
    before = Clock().now()
    ask("event", "send", "t", *("--ordering-key", "o-1", "--to", f"{SUB},b", "--expires-at", "1h", "--occurred-at", "1h"))
    members = server.document
    ask("event", "send", "t", *("--deliver-at", NOON_TEXT, "--priority", "low", "--tenant", "acme", "--id", "x"))

    assert ("o-1", [SUB, "b"]) == (members["ordering_key"], members["subscriptions"])
    assert parse_time(members["occurred_at"]) + 3_600_000 <= parse_time(members["expires_at"]) - 3_600_000
    assert before + 3_600_000 <= parse_time(members["expires_at"])
    assert {"type", "data"} | {*members, *server.document} == set(EventInput.__struct_fields__)
    assert NOON_TEXT == server.document["deliver_at"]


def test_idempotency_key_is_a_header(server: Server, ask: Callable[..., Ended]) -> None:
    """The key goes out as the header of its name, and one that no header holds is a mistake of usage."""
    server.on("POST /v1/events", ACCEPTED, status=202)

    assert 0 == ask("event", "send", "t", "--idempotency-key", "k-1").status
    assert "k-1" == server.last.header("Idempotency-Key")
    assert [2] * 4 == [ask("event", "send", "t", "--idempotency-key", key).status for key in ("", "a\nb", "é", "x" * 256)]


def test_send_as_json_shows_the_answer(server: Server, ask: Callable[..., Ended]) -> None:
    """A program gets the document of the 202 and no words."""
    server.on("POST /v1/events", ACCEPTED, status=202)

    assert Ended(0, json.dumps(ACCEPTED) + "\n", "") == ask("event", "send", "t", "--json")


def test_events_are_listed_by_filter(server: Server, ask: Callable[..., Ended]) -> None:
    """Every filter is a member of the query, and what is not given is not sent."""
    server.on("GET /v1/events", page(ACCEPTED))
    ended = ask(
        "event", "list", "--type", "order.created", "--since", "2030-01-01T00:00:00Z", "--limit", "2", "--cursor", "c="
    )

    assert f"{EVENT}\torder.created\tdefault\t2030-03-17T17:46:40Z\t1\n" == ended.out
    assert {
        "type": "order.created",
        "since": "2030-01-01T00:00:00Z",
        "limit": "2",
        "cursor": "c=",
    } == server.query


def test_pattern_of_types_is_no_filter(server: Server, ask: Callable[..., Ended]) -> None:
    """A pattern would find nothing, and is refused."""
    ended = ask("event", "list", "--type", "order.*")

    assert (2, []) == (ended.status, server.receiver.requests)
    assert "Invalid value for '--type': a whole type is meant: no event's type has a * in it" in ended.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("99999999d", "a duration is at most 36500d, got '99999999d'"),
        *((text, f"expected a duration such as '500ms', '15s' or '24h', got '{text}'") for text in ("10 min", "1.5h", "-5m")),
    ],
)
def test_duration_that_is_none_is_told_as_one(server: Server, ask: Callable[..., Ended], text: str, words: str) -> None:
    """What was meant as a duration gets a duration's error, and not that of a time."""
    ended = ask("event", "list", "--since", text)

    assert (2, []) == (ended.status, server.receiver.requests)
    assert words in ended.err


def test_event_is_shown_with_its_bytes(server: Server, ask: Callable[..., Ended]) -> None:
    """The data is shown digit for digit, then the deliveries."""
    server.on(
        f"GET /v1/events/{EVENT}",
        b'{"id":"%b","type":"t","data":{"n": 1.10},"deliveries":[{"id":"%b","subscription":"%b","state":"held"}]}'
        % (EVENT.encode(), DLV.encode(), SUB.encode()),
    )

    assert f'id\t{EVENT}\ntype\tt\ndata\t{{"n": 1.10}}\n{DLV}\t{SUB}\theld\n' == ask("event", "show", EVENT).out
    assert ask("event", "show", EVENT, "--json").out.startswith('{"id":')


def test_event_of_a_tenant_is_shown(server: Server, ask: Callable[..., Ended]) -> None:
    """Where several tenants use an id, the tenant says which event is meant."""
    server.on(f"GET /v1/events/{EVENT}", b'{"id":"x","data":1,"deliveries":[]}')
    assert 0 == ask("event", "show", EVENT, "--tenant", "acme").status

    assert {"tenant": "acme"} == server.query


@pytest.mark.parametrize("verb", ["event", "delivery"])
def test_lists_take_durations(server: Server, ask: Callable[..., Ended], verb: str) -> None:
    """A duration counts back from now, as in other verbs."""
    server.on("GET /v1/events", page())
    server.on("GET /v1/deliveries", page())
    before = Clock().now()
    assert 0 == ask(verb, "list", "--since", "1h", "--until", "2030-01-01T00:00:00Z").status

    assert "2030-01-01T00:00:00Z" == server.query["until"]
    assert 0 <= parse_time(server.query["since"]) - (before - 3_600_000) < 60_000


@pytest.mark.parametrize("id_", ["../tokens", "a/b", "a?b=c", "a b", "é", "%2e"])
def test_id_stays_one_segment_of_the_path(server: Server, ask: Callable[..., Ended], id_: str) -> None:
    """Whatever is typed for an id, another resource is not asked for."""
    assert 5 == ask("event", "show", id_).status
    assert 3 == server.last.path.count("/")
    assert "?" not in server.last.path


# event send --wait


def follow_script(server: Server, *deliveries: dict[str, Any]) -> None:
    """One delivery goes through these states, one a look."""
    server.on("POST /v1/events", ACCEPTED, status=202)
    server.on("GET /v1/deliveries", *[page({k: v for k, v in each.items() if k != "attempts"}) for each in deliveries])
    server.on(
        f"GET /v1/deliveries/{DLV}", *[each for each in deliveries if each["attempt_count"] or each["state"] != "pending"]
    )


def test_wait_shows_each_attempt_to_the_end(server: Server, ask: Callable[..., Ended]) -> None:
    """A refused attempt and the one that succeeds have a line each, and the verb ends with 0."""
    follow_script(
        server,
        DELIVERY | {"state": "pending", "attempt_count": 0, "attempts": []},
        DELIVERY | {"state": "pending", "next_attempt_at": "2000-01-01T00:00:00Z", "attempts": [REFUSED]},
        DELIVERY | {"attempt_count": 2, "attempts": [REFUSED, ATTEMPT]},
    )
    ended = ask("event", "send", "order.created", "--wait")

    assert Ended(0, f"{EVENT}\n✗ {SUB} 503 in 12 ms, next try now\n✓ {SUB} 200 in 41 ms\n", "accepted, 1 delivery\n") == ended
    assert "tenant=default" in server.receiver.requests[1].path


@pytest.mark.parametrize(
    ("delivery", "line"),
    [
        pytest.param({"state": "failed", "attempts": [REFUSED]}, f"✗ {SUB} 503 in 12 ms, given up", id="failed"),
        pytest.param(
            {"state": "failed", "attempt_count": 0, "failed_label": "expired", "attempts": []},
            f"✗ {SUB} given up: expired",
            id="expired",
        ),
        pytest.param({"state": "cancelled", "attempt_count": 0, "attempts": []}, f"✗ {SUB} cancelled", id="cancelled"),
        pytest.param(
            {"state": "held", "attempt_count": 0, "attempts": []}, f"✗ {SUB} held: the subscription is disabled", id="held"
        ),
    ],
)
def test_wait_ends_with_1_unless_delivered(
    server: Server, ask: Callable[..., Ended], delivery: dict[str, Any], line: str
) -> None:
    """What ends otherwise than delivered, or cannot end by itself, is a failure with its reason."""
    follow_script(server, DELIVERY | delivery)
    ended = ask("event", "send", "order.created", "--wait")

    assert (1, [EVENT, line]) == (ended.status, ended.out.splitlines())


def test_wait_counts_every_page_of_deliveries(server: Server, ask: Callable[..., Ended]) -> None:
    """One failure among many pages decides the status, and each delivery is shown once."""
    other = "dlv_0193f5a0-0000-7000-8000-000000000009"
    server.on("POST /v1/events", ACCEPTED | {"deliveries": 2}, status=202)
    failed = DELIVERY | {"id": other, "state": "failed"}
    server.on("GET /v1/deliveries", page(DELIVERY, cursor="2"), page(failed))
    server.on(f"GET /v1/deliveries/{DLV}", DELIVERY | {"attempts": [ATTEMPT]})
    server.on(f"GET /v1/deliveries/{other}", failed | {"attempts": [REFUSED]})
    ended = ask("event", "send", "order.created", "--wait")

    assert (1, 3) == (ended.status, len(ended.out.splitlines()))
    assert "cursor=2" in server.receiver.requests[2].path


def test_wait_for_nobody_ends_at_once(server: Server, ask: Callable[..., Ended]) -> None:
    """An event that no subscription wants has nothing to wait for."""
    server.on("POST /v1/events", ACCEPTED | {"deliveries": 0}, status=202)

    assert 0 == ask("event", "send", "t", "--wait").status
    assert 1 == len(server.receiver.requests)


def test_wait_for_what_was_pruned_is_told(server: Server, ask: Callable[..., Ended]) -> None:
    """An event sent again, whose deliveries are past retention, is no success."""
    server.on("POST /v1/events", ACCEPTED, status=202)
    server.on("GET /v1/deliveries", page())
    ended = ask("event", "send", "t", "--wait")

    assert 1 == ended.status
    assert "no longer there" in ended.err


def test_wait_goes_on_while_one_is_pending_and_others_are_gone(server: Server, ask: Callable[..., Ended]) -> None:
    """A delivery that ended and was pruned counts as it ended, and in no other's place."""
    other = "dlv_0193f5a0-0000-7000-8000-000000000009"
    waiting = DELIVERY | {"id": other, "state": "pending", "attempt_count": 0}
    server.on("POST /v1/events", ACCEPTED | {"deliveries": 2}, status=202)
    server.on("GET /v1/deliveries", page(DELIVERY, waiting), page(waiting), page(waiting | {"state": "failed"}))
    server.on(f"GET /v1/deliveries/{DLV}", DELIVERY | {"attempts": [ATTEMPT]})
    server.on(f"GET /v1/deliveries/{other}", waiting | {"state": "failed", "attempt_count": 1, "attempts": [REFUSED]})
    ended = ask("event", "send", "order.created", "--wait")

    assert (1, [EVENT, f"✓ {SUB} 200 in 41 ms", f"✗ {SUB} 503 in 12 ms, given up"]) == (ended.status, ended.out.splitlines())


def test_wait_ends_with_0_where_a_failure_was_retried(server: Server, ask: Callable[..., Ended]) -> None:
    """What counts of a delivery is its last state, though it had failed, and was retried by hand while others were pending."""
    other = "dlv_0193f5a0-0000-7000-8000-000000000009"
    failed, waiting = DELIVERY | {"state": "failed"}, DELIVERY | {"id": other, "state": "pending", "attempt_count": 0}
    retried, delivered = DELIVERY | {"state": "pending"}, DELIVERY | {"attempt_count": 2}
    arrived = DELIVERY | {"id": other}
    server.on("POST /v1/events", ACCEPTED | {"deliveries": 2}, status=202)
    server.on("GET /v1/deliveries", page(failed, waiting), page(retried, waiting), page(delivered, arrived))
    server.on(
        f"GET /v1/deliveries/{DLV}",
        failed | {"attempts": [REFUSED]},
        retried | {"attempts": [REFUSED]},
        delivered | {"attempts": [REFUSED, ATTEMPT]},
    )
    server.on(f"GET /v1/deliveries/{other}", arrived | {"attempts": [ATTEMPT]})
    ended = ask("event", "send", "order.created", "--wait")

    assert 0 == ended.status
    assert [f"✗ {SUB} 503 in 12 ms, given up", *[f"✓ {SUB} 200 in 41 ms"] * 2] == ended.out.splitlines()[1:]


def test_wait_as_json_shows_the_event_at_its_end(server: Server, ask: Callable[..., Ended]) -> None:
    """A program gets one document, of the event with its deliveries, and the lines are on stderr."""
    follow_script(server, DELIVERY | {"attempts": [ATTEMPT]})
    server.on(f"GET /v1/events/{EVENT}", b'{"id":"x"}')

    assert Ended(0, '{"id":"x"}\n', f"✓ {SUB} 200 in 41 ms\n") == ask("event", "send", "t", "--wait", "--json")
    assert {"tenant": "default"} == server.query


def test_accepted_event_is_shown_whatever_comes_after(server: Server, ask: Callable[..., Ended]) -> None:
    """Who may send but not read gets the event's id, and hears that it is accepted, or would send it again."""
    server.on("POST /v1/events", ACCEPTED, status=202)
    server.on("GET /v1/deliveries", b'{"code":"forbidden","detail":"this needs the scope events:read"}', status=403)
    ended = ask("event", "send", "t", "--wait", "--json")

    assert (4, ACCEPTED) == (ended.status, json.loads(ended.out))
    assert f"Error: {EVENT} is accepted, but to follow it takes a token with events:read\n" == ended.err


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_accepted_event_is_shown_whatever_ends_the_waiting(server: Server, name: str, status: int) -> None:
    """A signal while it waits takes the event's id from nobody, and is the exit status that shells expect."""
    server.on("POST /v1/events", ACCEPTED, status=202)
    server.on("GET /v1/deliveries", page(DELIVERY | {"state": "pending", "attempt_count": 0}))
    script = (
        "import os, signal, sys; from hookengine.cli import main; connects = []\n"
        "def send(event, _):\n"
        "    if event == 'socket.connect' and not connects.append(event) and len(connects) == 2:\n"
        f"        os.kill(os.getpid(), signal.{name})\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # tests that run in the background ignore it
        "sys.addaudithook(send); sys.exit(main(sys.argv[1:]))"
    )
    argv = ["event", "send", "t", "{}", "--wait", "--json", "--url", server.receiver.url]
    ended = subprocess.run([sys.executable, "-c", script, *argv], capture_output=True, timeout=PATIENCE, check=False)

    assert (status, ACCEPTED) == (ended.returncode, json.loads(ended.stdout)), ended
    assert b"Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("delivery", "seen", "expected"),
    [
        pytest.param(
            {"state": "pending", "next_attempt_at": "2030-03-17T17:46:45.000Z", "attempts": [REFUSED]},
            0,
            [Line(False, f"{SUB} 503 in 12 ms, next try in 5 s")],
            id="retry",
        ),
        pytest.param(
            {"state": "pending", "next_attempt_at": "2030-03-17T19:46:40.000Z", "attempts": [REFUSED]},
            0,
            [Line(False, f"{SUB} 503 in 12 ms, next try in 2 h")],
            id="retry_much_later",
        ),
        pytest.param(
            {"state": "pending", "next_attempt_at": "2030-03-17T17:46:40.300Z", "attempts": [REFUSED]},
            0,
            [Line(False, f"{SUB} 503 in 12 ms, next try in 0.3 s")],
            id="retry_soon",
        ),
        pytest.param(
            {"state": "pending", "next_attempt_at": None, "attempts": [REFUSED]},
            0,
            [Line(False, f"{SUB} 503 in 12 ms")],
            id="now",
        ),
        pytest.param({"attempts": [ATTEMPT]}, 1, [], id="nothing_new"),
        pytest.param(
            {"attempts": [REFUSED, ATTEMPT | {"outcome": "interrupted"}, ATTEMPT], "attempt_count": 2},
            1,
            [Line(True, f"{SUB} 200 in 41 ms")],
            id="interrupted_ones_count_nothing",
        ),
    ],
)
def test_news_of_a_delivery(delivery: dict[str, Any], seen: int, expected: list[Line]) -> None:
    """What was shown before is not shown again, and a retry is told with its time."""
    assert expected == news(DELIVERY | delivery, seen, now=NOON)


# delivery


def test_deliveries_are_listed(server: Server, ask: Callable[..., Ended]) -> None:
    """A delivery is a line with its state, and the filters go into the query."""
    server.on("GET /v1/deliveries", page(DELIVERY))
    ended = ask("delivery", "list", "--subscription", SUB, "--event", EVENT, "--state", "failed")

    assert f"{DLV}\tdelivered\t1\t\torder.created\t{EVENT}\t{SUB}\n" == ended.out
    assert {"subscription": SUB, "event": EVENT, "state": "failed"} == server.query


def test_delivery_is_shown_with_its_attempts(server: Server, ask: Callable[..., Ended]) -> None:
    """A delivery has its members, then an attempt to a line."""
    server.on(f"GET /v1/deliveries/{DLV}", DELIVERY | {"attempts": [REFUSED]})
    ended = ask("delivery", "show", DLV)

    assert f"id\t{DLV}" == ended.out.splitlines()[0]
    assert "1\t2030-03-17T17:46:40.000Z\tauto\trefused\t503 in 12 ms" == ended.out.splitlines()[-1]
    assert ask("delivery", "show", DLV, "--json").out.startswith('{"id": ')


def test_delivery_is_shown_with_its_bodies(server: Server, ask: Callable[..., Ended]) -> None:
    """What was sent and answered has a line each, cut where it is long; where nothing is kept of it there is none."""
    sides = {"request": {"body": "x" * 401}, "response": {"body": "a\nb"}}
    attempts = [REFUSED, REFUSED | {"number": 2} | sides, REFUSED | {"number": 3, "request": {"body": None}}]
    server.on(f"GET /v1/deliveries/{DLV}", DELIVERY | {"attempts": attempts})

    lines = [f"2\trequest\t{'x' * 400} …", "2\tresponse\ta\\nb"]
    assert lines == ask("delivery", "show", DLV).out.splitlines()[-2:]


@pytest.mark.parametrize(("verb", "words"), [("retry", "is due now"), ("cancel", "is cancelled")])
def test_delivery_is_acted_on(server: Server, ask: Callable[..., Ended], verb: str, words: str) -> None:
    """Both actions are POSTs without a body, and a conflict is status 6."""
    server.on(f"POST /v1/deliveries/{DLV}/{verb}", DELIVERY, status=202)

    assert Ended(0, "", f"{DLV} {words}\n") == ask("delivery", verb, DLV)
    assert b"" == server.last.body
    assert json.dumps(DELIVERY) + "\n" == ask("delivery", verb, DLV, "--json").out

    server.on(f"POST /v1/deliveries/{DLV}/{verb}", {"detail": "It is delivered."}, status=409)
    assert Ended(6, "", "Error: It is delivered.\n") == ask("delivery", verb, DLV)


# subscription


def test_subscription_is_added_with_every_setting(
    server: Server, ask: Callable[..., Ended], typed: Callable[[bytes], None], tmp_path: Path
) -> None:
    """Each option is the API's member of its name, and the secret comes from where it cannot be seen."""
    server.on("POST /v1/subscriptions", SUBSCRIPTION | {"secret": "whsec_x"}, status=201)
    (tmp_path / "login").write_text("me:pass:word\n")
    typed(b"whsec_mine\r\n")
    options = (
        "--types order.*,user.created --tenant acme --name Acme --profile svix --secret - --basic @login --timeout 15s "
        "--retry-schedule 5s,5m --max-concurrency 4 --disable-after 10 --while-disabled skip --metadata team=a=b "
        '--method PUT --target-id 7 --key-values {"a":[1]}'
    )
    ended = ask("subscription", "add", "https://e.example/h", *options.split(), "--header", "X-Key:  v: w ")

    assert {
        "url": "https://e.example/h",
        "event_types": ["order.*", "user.created"],
        "tenant": "acme",
        "name": "Acme",
        "profile": "svix",
        "secret": "whsec_mine",
        "auth": {"type": "basic", "username": "me", "password": "pass:word"},
        "timeout": "15s",
        "retry_schedule": ["5s", "5m"],
        "max_concurrency": 4,
        "disable_after_failures": 10,
        "while_disabled": "skip",
        "metadata": {"team": "a=b"},
        "method": "PUT",
        "target_id": 7,
        "key_values": {"a": [1]},
        "headers": {"X-Key": "v: w"},
    } == server.document
    assert "secret\twhsec_x\n" in ended.out
    assert f"hookengine subscription secret {SUB}" in ended.err


@pytest.mark.parametrize("source", ["argument", "file", "input"])
def test_auth_is_the_apis_object(
    server: Server, ask: Callable[..., Ended], typed: Callable[[bytes], None], tmp_path: Path, source: str
) -> None:
    """What --auth brings, in the arguments or from where nobody sees it, is sent as it is, by add and by edit."""
    auth = {"type": "oauth2", "grant": "client_credentials", "scopes": ["a b"]}
    text = json.dumps(auth)
    (tmp_path / "auth.json").write_text(text)
    argument = {"argument": text, "file": "@auth.json", "input": "-"}[source]
    server.on("POST /v1/subscriptions", SUBSCRIPTION, status=201)
    server.on(f"PATCH /v1/subscriptions/{SUB}", SUBSCRIPTION)
    typed(text.encode())
    ask("subscription", "add", "https://e.example/h", "--auth", argument)
    assert {"url": "https://e.example/h", "auth": auth} == server.document

    typed(text.encode())
    ask("subscription", "edit", SUB, "--auth", argument)
    assert {"auth": auth} == server.document


def test_subscription_is_added_with_a_url_alone(server: Server, ask: Callable[..., Ended]) -> None:
    """What is not given is left to the server, and --json shows its answer and no words."""
    server.on("POST /v1/subscriptions", SUBSCRIPTION, status=201)

    assert Ended(0, json.dumps(SUBSCRIPTION) + "\n", "") == ask("subscription", "add", "https://e.example", "--json")
    assert {"url": "https://e.example"} == server.document


def test_secret_of_other_bytes_is_a_mistake_of_usage(ask: Callable[..., Ended], typed: Callable[[bytes], None]) -> None:
    """A secret that is no text is told, without a traceback."""
    typed(b"\xff\xfe")
    ended = ask("subscription", "add", "https://e.example", "--secret", "-")

    assert 2 == ended.status
    assert "not UTF-8" in ended.err


def test_url_of_the_server_is_no_change(server: Server, ask: Callable[..., Ended]) -> None:
    """Whoever names the endpoint's new URL with --url learns which option it is, and nothing is sent there."""
    ended = ask("subscription", "edit", SUB)

    assert (2, []) == (ended.status, server.receiver.requests)
    assert "nothing to change: name at least one option (--endpoint for the URL; --url is the server's)" in ended.err
    assert "--endpoint: --url is that of the server" in " ".join(ask("subscription", "edit", "--help").out.split())


@pytest.mark.parametrize("member", ["auth", "batch", "key_values"])
def test_null_is_no_change(server: Server, ask: Callable[..., Ended], member: str) -> None:
    """Whoever gives null to take a setting back learns which option does it, whatever else is given."""
    ended = ask("subscription", "edit", SUB, "--name", "x", f"--{member.replace('_', '-')}", "null")

    assert (2, []) == (ended.status, server.receiver.requests)
    assert f"--unset {member}" in " ".join(ended.err.split())


def test_defaults_are_those_of_a_new_one(ask: Callable[..., Ended]) -> None:
    """What edit says of an option promises no default where what is not given stays."""
    shown = " ".join(ask("subscription", "edit", "--help").out.split())

    assert "[default of a new one: the server's]" in shown
    assert "[default: the server's]" not in shown


def test_edit_sends_what_is_given(server: Server, ask: Callable[..., Ended]) -> None:
    """The patch holds the given options, null for those that go back to their default, and nothing else."""
    server.on(f"PATCH /v1/subscriptions/{SUB}", SUBSCRIPTION)
    ended = ask("subscription", "edit", SUB, "--endpoint", "https://new.example", "--retry-schedule", "", "--unset", "timeout")

    assert 0 == ended.status
    assert {"url": "https://new.example", "retry_schedule": [], "timeout": None} == server.document
    assert f"id\t{SUB}\n" in ended.out


@pytest.mark.parametrize(
    ("argv", "route", "document"),
    [
        (["show", SUB], f"GET /v1/subscriptions/{SUB}", None),
        (["enable", SUB], f"POST /v1/subscriptions/{SUB}/enable", None),
        (["disable", SUB], f"POST /v1/subscriptions/{SUB}/disable", None),
        (["secret", SUB], f"GET /v1/subscriptions/{SUB}/secret", None),
        (["rotate-secret", SUB], f"POST /v1/subscriptions/{SUB}/rotate-secret", {}),
        (
            ["rotate-secret", SUB, "--secret", "whsec_n", "--overlap", "1h"],
            f"POST /v1/subscriptions/{SUB}/rotate-secret",
            {"secret": "whsec_n", "overlap": "1h"},
        ),
    ],
)
def test_subscription_is_acted_on(
    server: Server, ask: Callable[..., Ended], argv: list[str], route: str, document: dict[str, Any] | None
) -> None:
    """Each verb asks its path and shows what came back."""
    server.on(route, {"secret": "whsec_s", "previous": []})

    assert Ended(0, "secret\twhsec_s\nprevious\t\n", "") == ask("subscription", *argv)
    assert (b"" if document is None else json.dumps(document).encode()) == server.last.body


@pytest.mark.parametrize(
    ("argv", "document"),
    [
        ([], b"{}"),
        (["--type", "order.created"], b'{"type": "order.created"}'),
        (['{"n": 1.10}'], b'{"data":{"n": 1.10}}'),
        (["--type", "a", "[1]"], b'{"type": "a","data":[1]}'),
    ],
)
def test_test_event_is_sent(server: Server, ask: Callable[..., Ended], argv: list[str], document: bytes) -> None:
    """What is given is sent as it is, and the attempt and the answer's body are shown."""
    server.on(f"POST /v1/subscriptions/{SUB}/test", ATTEMPT | {"response": {"body": "th\x1b[1manks"}})
    ended = ask("subscription", "test", SUB, *argv)

    assert Ended(0, "✓ 200 in 41 ms\nth\\x1b[1manks\n", "") == ended
    assert document == server.last.body


def test_test_event_that_is_refused_is_status_1(server: Server, ask: Callable[..., Ended]) -> None:
    """Scripts see whether the endpoint took it, with --json too."""
    server.on(f"POST /v1/subscriptions/{SUB}/test", REFUSED)

    assert Ended(1, "✗ 503 in 12 ms\n", "") == ask("subscription", "test", SUB)
    ended = ask("subscription", "test", SUB, "--json")
    assert (1, REFUSED) == (ended.status, json.loads(ended.out))


STATS: dict[str, Any] = {
    "subscription": SUB,
    "since": "2030-03-17T17:00:00.000Z",
    "deliveries": {"delivered": 5, "failed": 1, "cancelled": 0, "pending": 2, "held": 0, "failed_labels": {"expired": 1}},
    "attempts": {"total": 9, "status_codes": {"200": 5, "503": 4}, "error_codes": {"http_status": 4}},
    "latency_ms": {"p50": 40, "p95": 90, "p99": None},
    "consecutive_failures": 0,
    "last_success_at": None,
    "last_failure_at": None,
    "resumes_at": "2030-03-18T16:00:00.000Z",
}


def test_statistics_are_shown_in_lines(server: Server, ask: Callable[..., Ended]) -> None:
    """Each count has its line, and --json is the API's."""
    server.on(f"GET /v1/subscriptions/{SUB}/stats", STATS)
    lines = ask("subscription", "stats", SUB).out.splitlines()

    assert {} == server.query
    for line in (
        "delivered\t5",
        'failed_labels\t{"expired": 1}',
        "attempts\t9",
        'status_codes\t{"200": 5, "503": 4}',
        "p50_ms\t40",
        "p99_ms\t",
        "resumes_at\t2030-03-18T16:00:00.000Z",
    ):
        assert line in lines
    assert STATS == json.loads(ask("subscription", "stats", SUB, "--json").out)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("1h", "2030-03-17T16:46:40.000Z"),
        ("2030-01-01T00:00:00Z", "2030-01-01T00:00:00Z"),
        ("yesterday", "yesterday"),
    ],
)
def test_duration_counts_back(text: str | None, expected: str | None) -> None:
    """A range may begin so long ago; a time, and what is neither, goes to the server as it is."""
    assert expected == past(text, now=NOON)


def test_statistics_of_the_last_hours(server: Server, ask: Callable[..., Ended]) -> None:
    """The range goes into the query."""
    server.on(f"GET /v1/subscriptions/{SUB}/stats", STATS)
    ask("subscription", "stats", SUB, "--since", "2030-01-01T00:00:00Z")

    assert {"since": "2030-01-01T00:00:00Z"} == server.query


# replay


def test_event_is_replayed(server: Server, ask: Callable[..., Ended]) -> None:
    """The event's path is asked, and the number of new deliveries is on stdout."""
    server.on(f"POST /v1/events/{EVENT}/replay", ACCEPTED | {"deliveries": 3}, status=202)

    assert Ended(0, "3\n", "to be delivered again\n") == ask("replay", EVENT)
    assert ({}, {}) == (server.document, server.query)
    ask("replay", EVENT, "--to", f"{SUB}, sub_2", "--tenant", "acme", "--idempotency-key", "k")
    assert ({"subscriptions": [SUB, "sub_2"]}, {"tenant": "acme"}) == (server.document, server.query)
    assert "k" == server.last.header("Idempotency-Key")


def test_subscription_is_replayed(server: Server, ask: Callable[..., Ended]) -> None:
    """Filters go into the document; a dry run says that nothing is sent."""
    server.on(f"POST /v1/subscriptions/{SUB}/replay", {"count": 12}, status=202)

    assert Ended(0, "12\n", "to be delivered again\n") == ask("replay", "--subscription", SUB)
    assert {} == server.document
    since, until = "2030-01-01T00:00:00Z", "2030-01-02T00:00:00Z"
    filters = ["--states", "failed,cancelled", "--since", since, "--until", until, "--dry-run"]
    assert "would be delivered again\n" == ask("replay", "--subscription", SUB, *filters).err
    assert {"states": ["failed", "cancelled"], "since": since, "until": until, "dry_run": True} == server.document
    assert {"count": 12} == json.loads(ask("replay", "--subscription", SUB, "--json").out)


def test_work_that_takes_long_is_told_to_a_person() -> None:
    """Who sits at a terminal hears what is waited for."""
    with redirect_stderr(Listening()) as heard, working("Counting", after=0.0):
        assert heard.written.wait(20)

    assert "Counting …\n" == heard.getvalue()


def test_subscriptions_are_listed_by_state(server: Server, ask: Callable[..., Ended]) -> None:
    """The filters of the list go into the query."""
    server.on("GET /v1/subscriptions", page())
    ask("subscription", "list", "--state", "disabled", "--tenant", "a&b")

    assert {"state": "disabled", "tenant": "a&b"} == server.query


def test_delete_does_not_ask_a_program(server: Server, ask: Callable[..., Ended], typed: Callable[[bytes], None]) -> None:
    """Without a terminal a subscription is deleted at once, and --json has nothing to show."""
    server.on(f"DELETE /v1/subscriptions/{SUB}", b"", status=204)
    typed(b"")

    assert Ended(0, "", f"{SUB} is deleted\n") == ask("subscription", "delete", SUB)
    assert Ended(0, "", "") == ask("subscription", "delete", SUB, "--json")
    assert 5 == ask("subscription", "delete", "sub_other").status


@pytest.mark.parametrize(
    ("answer", "status", "asked"),
    [
        pytest.param(b"n\n", 1, 0, id="no"),
        pytest.param(b"\n", 1, 0, id="enter"),
        pytest.param(b"y\n", 0, 1, id="yes"),
        # The line end wakes a read that began just after the signal came.
        pytest.param(b"\x03\n", 130, 0, id="ctrl_c"),
    ],
)
def test_delete_asks_a_person(server: Server, answer: bytes, status: int, asked: int) -> None:
    """On a terminal a deletion is confirmed first, and anything but yes deletes nothing."""
    server.on(f"DELETE /v1/subscriptions/{SUB}", b"", status=204)

    ended = on_terminal(answer, "subscription", "delete", SUB, "--url", server.receiver.url)

    assert (status, asked) == (ended.status, len(server.receiver.requests))
    assert f"Delete {SUB} and cancel its pending deliveries? [y/N]" in ended.out


def test_yes_does_not_ask(server: Server) -> None:
    """--yes deletes on a terminal too, without a question."""
    server.on(f"DELETE /v1/subscriptions/{SUB}", b"", status=204)
    ended = on_terminal(b"", "subscription", "delete", SUB, "--yes", "--url", server.receiver.url)

    assert 0 == ended.status
    assert "[y/N]" not in ended.out


# Event types, tenants, tokens


EVENT_TYPE = b'{"type":"a","description":"A","example":{"n": 1.10},"deprecated":false}'
TOKEN: dict[str, Any] = {"user": "ann", "scopes": ["events:read"], "tenant": None, "expires_at": None}


@pytest.mark.parametrize(
    ("argv", "body"),
    [
        pytest.param(
            ["--description", "A", "--example", '{"n": 1.10}'],
            b'{"description": "A", "deprecated": false,"example":{"n": 1.10}}',
            id="example",
        ),
        pytest.param(
            ["--description", "", "--deprecated"], b'{"description": "", "deprecated": true,"example":null}', id="no example"
        ),
    ],
)
def test_event_type_is_set(server: Server, ask: Callable[..., Ended], argv: list[str], body: bytes) -> None:
    """The whole of it is sent, the example as it is, and what came back is shown, digits and all."""
    server.on("PUT /v1/event-types/order%2Fcreated", EVENT_TYPE)
    ended = ask("event-type", "set", "order/created", *argv)

    assert Ended(0, 'type\ta\ndescription\tA\nexample\t{"n": 1.10}\ndeprecated\tfalse\n', "") == ended
    assert body == server.last.body


@pytest.mark.parametrize("example", ["{", "1,2", "NaN", ""])
def test_example_that_is_not_one_json_value_is_not_sent(server: Server, ask: Callable[..., Ended], example: str) -> None:
    """It would become other members of the request."""
    ended = ask("event-type", "set", "a", "--description", "A", "--example", example)

    assert (2, "", []) == (ended.status, ended.out, server.receiver.requests)
    assert "the example is not JSON" in ended.err


def test_event_types_are_shown_and_listed(server: Server, ask: Callable[..., Ended]) -> None:
    """One with its example, a page of them with what they mean."""
    server.on("GET /v1/event-types/a", EVENT_TYPE)
    server.on("GET /v1/event-types", page({"type": "a", "deprecated": True, "description": "A", "example": 1}, cursor="c"))

    assert 'example\t{"n": 1.10}\n' in ask("event-type", "show", "a").out
    assert Ended(0, EVENT_TYPE.decode() + "\n", "") == ask("event-type", "show", "a", "--json")
    assert Ended(0, "a\ttrue\tA\n", "There are more: --cursor c\n") == ask("event-type", "list", "--limit", "1")
    assert {"limit": "1"} == server.query


CATALOGUE = b'{"order/created": {"description": "A", "example": {"n": 1.10}}, "b": {"description": ""}}'


def test_event_types_are_imported(server: Server, ask: Callable[..., Ended], typed: Callable[[bytes], None]) -> None:
    """Each type of a file is sent as it is written there, in its order, and what came back is listed."""
    server.on("PUT /v1/event-types/order%2Fcreated", EVENT_TYPE)
    server.on("PUT /v1/event-types/b", EVENT_TYPE)
    Path("types.json").write_bytes(CATALOGUE)

    assert Ended(0, "a\tfalse\tA\n" * 2, "") == ask("event-type", "import", "types.json")
    assert [b'{"description": "A", "example": {"n": 1.10}}', b'{"description": ""}'] == [
        request.body for request in server.receiver.requests
    ]
    typed(CATALOGUE)
    assert Ended(0, (EVENT_TYPE.decode() + "\n") * 2, "") == ask("event-type", "import", "-", "--json")


def test_event_types_that_are_refused_are_each_named(server: Server, ask: Callable[..., Ended]) -> None:
    """The mistakes of one type keep no other from being declared, and the exit status says that there were some."""
    problem = {"detail": "No.", "errors": [{"pointer": "/description", "code": "missing_member", "detail": "it is needed"}]}
    server.on("PUT /v1/event-types/order%2Fcreated", problem, status=422)
    server.on("PUT /v1/event-types/b", EVENT_TYPE)
    Path("types.json").write_bytes(CATALOGUE)

    assert Ended(1, "a\tfalse\tA\n", "order/created is not declared:\nError: No.\n  /description: it is needed\n") == ask(
        "event-type", "import", "types.json"
    )


@pytest.mark.parametrize("content", [b"", b"[]", b'{"a": ', b'{"\xff": {}}'], ids=["empty", "array", "half", "no UTF-8"])
def test_catalogue_that_is_no_object_is_not_sent(server: Server, ask: Callable[..., Ended], content: bytes) -> None:
    """What is no JSON object is a mistake in the command."""
    Path("types.json").write_bytes(content)
    ended = ask("event-type", "import", "types.json")

    assert (2, "", []) == (ended.status, ended.out, server.receiver.requests)
    assert "no JSON object of event types" in ended.err


@pytest.mark.parametrize(
    ("argv", "route", "document"),
    [
        (["show", "a b"], "GET /v1/tenants/a%20b", None),
        (["set", "acme"], "PUT /v1/tenants/acme", {}),
        (["set", "acme", "--plan", "pro"], "PUT /v1/tenants/acme", {"plan": "pro"}),
        (["secret", "show", "acme"], "GET /v1/tenants/acme/secret", None),
        (["secret", "set", "acme"], "PUT /v1/tenants/acme/secret", {}),
        (
            ["secret", "set", "acme", "--secret", "@secret.txt", "--overlap", "1h"],
            "PUT /v1/tenants/acme/secret",
            {"secret": "hush", "overlap": "1h"},
        ),
    ],
)
def test_tenant_is_acted_on(
    server: Server, ask: Callable[..., Ended], argv: list[str], route: str, document: dict[str, Any] | None
) -> None:
    """Each verb asks its path and shows what came back."""
    Path("secret.txt").write_text("hush\n")
    server.on(route, {"secret": "whsec_s", "previous": []})

    assert Ended(0, "secret\twhsec_s\nprevious\t\n", "") == ask("tenant", *argv)
    assert (b"" if document is None else json.dumps(document).encode()) == server.last.body


def test_tenants_are_listed(server: Server, ask: Callable[..., Ended]) -> None:
    """A page shows how much of its plan each tenant uses."""
    server.on("GET /v1/tenants", page({"tenant": "acme", "plan": "pro", "subscriptions": 2, "max_subscriptions": 3}))

    assert Ended(0, "acme\tpro\t2\t3\n", "") == ask("tenant", "list")


@pytest.mark.parametrize(
    ("argv", "document"),
    [
        pytest.param(["ann"], {"user": "ann"}, id="least"),
        pytest.param(
            ["ann", "--scope", "events:read", "--scope", "admin", "--tenant", "a", "--expires-at", "2031-01-01T00:00:00Z"],
            {"user": "ann", "scopes": ["events:read", "admin"], "tenant": "a", "expires_at": "2031-01-01T00:00:00Z"},
            id="most",
        ),
    ],
)
def test_token_is_created(server: Server, ask: Callable[..., Ended], argv: list[str], document: dict[str, Any]) -> None:
    """What is given is sent, and the token comes on standard output, with a word to the person."""
    server.on("POST /v1/tokens", TOKEN | {"token": "hke_x"}, status=201)
    ended = ask("token", "create", *argv)

    assert (0, document) == (ended.status, server.document)
    assert ended.out.endswith("token\thke_x\n")
    assert "shown this once" in ended.err
    assert "" == ask("token", "create", *argv, "--json").err


def test_token_for_a_while(server: Server, ask: Callable[..., Ended]) -> None:
    """A duration counts from now."""
    server.on("POST /v1/tokens", TOKEN, status=201)
    ask("token", "create", "ann", "--expires-at", "36500d")

    assert server.document["expires_at"].startswith("21")


def test_second_token_is_status_6(server: Server, ask: Callable[..., Ended]) -> None:
    """A conflict has its status, as everywhere; a scope that there is not is a mistake of usage."""
    server.on("POST /v1/tokens", {"code": "token_exists", "detail": "this user has one", "status": 409}, status=409)

    assert Ended(6, "", "Error: this user has one\n") == ask("token", "create", "ann")
    assert 2 == ask("token", "create", "ann", "--scope", "all").status


def test_tokens_are_listed(server: Server, ask: Callable[..., Ended]) -> None:
    """A page shows who has one, for what, and when it was used."""
    server.on("GET /v1/tokens", page(TOKEN | {"created_at": "c", "last_used_at": "l"}))

    assert Ended(0, "ann\tevents:read\t\tc\t\tl\n", "") == ask("token", "list")


DELETIONS = [
    (("token", "delete", "ann"), "tokens/ann", "Delete the token of ann?", "the token of ann is deleted"),
    (("tenant", "delete", "a"), "tenants/a", "Forget the plan and the signing secret of a?", "a is forgotten"),
    (("tenant", "secret", "delete", "a"), "tenants/a/secret", "then go out unsigned?", "the secret of a is deleted"),
    (("event-type", "delete", "a"), "event-types/a", "Delete the type a?", "a is declared no more"),
]


@pytest.mark.parametrize("deletion", DELETIONS)
def test_what_is_declared_is_deleted(
    server: Server, ask: Callable[..., Ended], typed: Callable[[bytes], None], deletion: tuple[tuple[str, ...], str, str, str]
) -> None:
    """A program is not asked, a person is, unless with --yes."""
    argv, path, question, done = deletion
    server.on(f"DELETE /v1/{path}", b"", status=204)
    typed(b"")
    url = ("--url", server.receiver.url)

    assert [Ended(0, "", f"{done}\n"), Ended(0, "", "")] == [ask(*argv), ask(*argv, "--json")]
    refused = on_terminal(b"n\n", *argv, *url)
    assert (1, True, 2) == (refused.status, f"{question} [y/N]" in refused.out, len(server.receiver.requests))
    assert 0 == on_terminal(b"", *argv, "--yes", *url).status


def test_no_color_holds_for_marks_too(server: Server) -> None:
    """On a terminal a tick is green, and with NO_COLOR or on one that knows no escapes it is not."""
    follow_script(server, DELIVERY | {"attempts": [ATTEMPT]})
    argv = ("event", "send", "t", "--wait", "--url", server.receiver.url)

    assert "\x1b[32m✓" in on_terminal(b"", *argv).out
    assert "\x1b[" not in on_terminal(b"", *argv, NO_COLOR="1").out
    assert "\x1b[" not in on_terminal(b"", *argv, TERM="dumb").out


@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_nothing_is_cut_off_on_a_terminal(server: Server, term: str) -> None:
    """A token, which is shown this once, is shown whole, and an id can be copied, whatever the terminal says that it is."""
    token = "hke_" + "0" * 64
    server.on("POST /v1/tokens", TOKEN | {"token": token})
    server.on("GET /v1/deliveries", page(*[DELIVERY] * 30))
    url = ("--url", server.receiver.url)

    assert token in on_terminal(b"", "token", "create", "ann", *url, TERM=term).out
    assert 30 == on_terminal(b"", "delivery", "list", *url, TERM=term).out.count(SUB)


def on_terminal(typed: bytes, *argv: str, **environ: str) -> Ended:
    """Run a verb as a child with a terminal of its own, type once it has asked, and return all that it showed."""
    ours, theirs = pty.openpty()
    script = (
        "import fcntl, signal, sys, termios; from hookengine.cli import main; "
        "signal.signal(signal.SIGINT, signal.default_int_handler); "  # tests that run in the background ignore it
        "fcntl.ioctl(0, termios.TIOCSCTTY, 0); sys.exit(main(sys.argv[1:]))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, *argv],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm"} | environ,
        start_new_session=True,  # so that the terminal can be its own, and Ctrl-C a signal
    ) as child:
        os.close(theirs)
        shown = b""
        while more := _read(ours):
            shown += more
            if typed and b"[y/N]" in shown:
                os.write(ours, typed)
                typed = b""
        os.close(ours)
        return Ended(child.wait(10), shown.decode(), "")


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # what Linux says when the other side has left
        return b""


# Following, and describing


STOPPING = Reply(status=503, body=b'{"title":"Unavailable","status":503,"code":"stopping","detail":"The engine is stopping."}')
ITEM: dict[str, Any] = {"id": "aaa-1", "kind": "attempt", "at": NOON_TEXT, "delivery": DELIVERY, "attempt": ATTEMPT}
CHANGE = {"id": SUB, "tenant": "acme", "change": "disabled", "disabled_reason": "gone"}


def sent(*items: dict[str, Any], comment: bytes = b": hookengine\n\n") -> Reply:
    """A stream with *items* in it that ends."""
    blocks = [f"id: {item['id']}\nevent: {item['kind']}\ndata: {json.dumps(item)}\n\n".encode() for item in items]
    return Reply(body=comment + b"".join(blocks))


def test_tail_shows_what_happens_and_goes_on(server: Server, ask: Callable[..., Ended]) -> None:
    """Each item is a line; where the stream ends it is asked for what came after the last item, until the server is gone."""
    server.answers["GET /v1/stream"] = [
        sent(ITEM, ITEM | {"id": "aaa-2", "attempt": REFUSED, "delivery": DELIVERY | {"state": "pending"}}),
        STOPPING,
    ]
    ended = ask("tail", "--types", "order.*, user.new", "--subscription", SUB)

    assert 1 == ended.status
    assert (
        f"✓ 17:46:40 order.created {DLV} → {SUB}  200 in 41 ms, delivered\n"
        f"✗ 17:46:40 order.created {DLV} → {SUB}  503 in 12 ms, pending\n"
    ) == ended.out
    assert ended.err.endswith("the stream has ended; trying to go on\nError: The engine is stopping.\n")
    assert {"types": "order.*, user.new", "subscription": SUB} == server.query
    assert "aaa-2" == server.last.header("Last-Event-ID")


def test_tail_as_json_is_a_line_for_each(server: Server, ask: Callable[..., Ended]) -> None:
    """A program gets the items as they came, and no comment."""
    server.answers["GET /v1/stream"] = [sent(ITEM, ITEM, comment=b": heartbeat\nid: aaa-0\n\n"), STOPPING]

    assert json.dumps(ITEM) + "\n" + json.dumps(ITEM) + "\n" == ask("tail", "--json").out


def test_tail_goes_on_from_a_heartbeat(server: Server, ask: Callable[..., Ended]) -> None:
    """What a filter passed over is not asked for again."""
    server.answers["GET /v1/stream"] = [sent(comment=b": heartbeat\nid: aaa-7\n\n"), STOPPING]

    assert 1 == ask("tail").status
    assert "aaa-7" == server.last.header("Last-Event-ID")


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(Reply(body=b""), id="nothing"),
        pytest.param(Reply(body=b"data: {\n\n"), id="no JSON"),
        pytest.param(Reply(body=b"data: []\n\n"), id="no object"),
        pytest.param(Reply(body=b'data: {"kind":"attempt","at":null}\n\n'), id="no item"),
    ],
)
def test_tail_of_another_kind_of_server(server: Server, ask: Callable[..., Ended], reply: Reply) -> None:
    """What is no stream of ours ends with status 3."""
    server.answers["GET /v1/stream"] = [reply]

    assert 3 == ask("tail").status


def test_tail_of_a_server_that_breaks_off(cli: Callable[..., Ended]) -> None:
    """A connection that breaks is made again once; nobody there is status 3."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]

        def serve_once() -> None:
            connection, _ = listening.accept()
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n: hookengine\n\n")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            listening.close()
            connection.close()

        thread = threading.Thread(target=serve_once)
        thread.start()
        ended = cli("tail", "--url", f"http://127.0.0.1:{port}", "--token", "x")
        thread.join()

    assert 3 == ended.status
    assert "trying to go on" in ended.err


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        pytest.param(ITEM | {"kind": "reset"}, (False, "17:46:40 what happened before this was missed"), id="reset"),
        pytest.param(
            {"kind": "subscription", "at": NOON_TEXT, "subscription": CHANGE},
            (False, f"17:46:40 subscription {SUB} disabled: gone"),
            id="disabled",
        ),
        pytest.param(
            {"kind": "subscription", "at": NOON_TEXT, "subscription": CHANGE | {"change": "enabled", "disabled_reason": None}},
            (True, f"17:46:40 subscription {SUB} enabled"),
            id="enabled",
        ),
        pytest.param(
            {"kind": "delivery", "at": NOON_TEXT, "delivery": DELIVERY | {"state": "cancelled"}},
            (False, f"17:46:40 order.created {DLV} → {SUB}  cancelled"),
            id="cancelled",
        ),
        pytest.param(
            {"kind": "delivery", "at": NOON_TEXT, "delivery": DELIVERY | {"state": "pending", "type": "a\x1b[2J"}},
            (True, f"17:46:40 a\\x1b[2J {DLV} → {SUB}  pending"),
            id="hostile",
        ),
    ],
)
def test_items_in_words(item: dict[str, Any], expected: tuple[bool, str]) -> None:
    """An item is a line with its time, and good news or not."""
    assert expected == describe(item)


def test_event_stream_is_read_as_the_standard_says() -> None:
    """Several data lines are one text, an unknown field and a comment are nothing, and what has not ended is no event."""
    lines = [b"event: x", b"data:a", b"data: b", b"odd", b"", b": c", b"id: 1", b"", b"data: lost"]

    assert [(None, b"a\nb"), ("1", None)] == list(events(lines))


def test_openapi_is_printed_without_a_server(cli: Callable[..., Ended]) -> None:
    """The document is that of the server, and needs none."""
    ended = cli("openapi")

    assert (0, "3.1.0") == (ended.status, json.loads(ended.out)["openapi"])
    assert routes.document().content.decode() + "\n" == ended.out
