"""`hookengine.cli`: verbs against a real server on loopback whose answers each test writes."""

from __future__ import annotations

import asyncio
import io
import json
import os
import pty
import socket
import subprocess
import sys
import threading
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import parse_qsl, urlsplit

import pytest

from hookengine import __version__, errors
from hookengine.cli import main
from hookengine.cli.event import deliver_at, event_body
from hookengine.cli.exits import report
from hookengine.cli.following import Line, news
from hookengine.cli.output import cell, describe_attempt, printable, show_table
from hookengine.receiver import Received, Receiver, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parent.parent
EVENT = "evt_0193f5a0-0000-7000-8000-000000000001"
SUB = "sub_0193f5a0-0000-7000-8000-000000000002"
DLV = "dlv_0193f5a0-0000-7000-8000-000000000003"
NOON = 1_900_000_000_000  # 2030-03-17T17:46:40Z

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


@pytest.fixture
def server() -> Iterator[Server]:
    """A server to be asked."""
    with Server() as server:
        yield server


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
    """Makes *data* look as a daemon at *url* leaves it."""
    data.mkdir(exist_ok=True)
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
        ["--version"],
        ["serve", "-h"],
        ["listen", "-h"],
        ["doctor", "-h"],
        ["db", "prune", "-h"],
        ["init", "-h"],
        ["backup", "-h"],
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
    wrong = subprocess.run([sys.executable, "-m", "hookengine", "evnt"], capture_output=True, text=True, check=False)

    assert (0, f"hookengine {__version__}\n") == (version.returncode, version.stdout)
    assert (2, "") == (wrong.returncode, wrong.stdout)
    assert "Did you mean 'event'?" in wrong.stderr


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
        ["subscription", "add", "https://e.example", "--basic", "nocolon"],
        ["subscription", "add", "https://e.example", "--secret", "@missing"],
        ["subscription", "add", "https://e.example", "--secret", ""],
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


def test_variables_name_the_server(cli: Callable[..., Ended], server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """HOOKENGINE_URL and HOOKENGINE_TOKEN are as good as the options."""
    server.on("GET /v1/events", page())
    monkeypatch.setenv("HOOKENGINE_URL", server.receiver.url)
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
    """No daemon on the directory is a server that is not reached."""
    ended = cli("event", "list")

    assert (3, "") == (ended.status, ended.out)
    assert "no daemon runs on hookengine-data: start one with `hookengine serve`" in ended.err


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1, 10**30])
def test_token_is_not_sent_where_the_daemon_has_died(
    cli: Callable[..., Ended], server: Server, tmp_path: Path, pid: int
) -> None:
    """A file that a killed daemon left behind does not lead the owner's token to whoever has its port now."""
    running(tmp_path / "hookengine-data", server.receiver.url, pid=pid)
    ended = cli("event", "list")

    assert (3, []) == (ended.status, server.receiver.requests)
    assert "runs no more" in ended.err


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
    (tmp_path / "hookengine-data" / "daemon.json").chmod(0)

    assert 4 == cli("event", "list").status


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

    assert b'{"type": "t","data":' + digits + b"}" == event_body({"type": "t"}, digits)


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
        ("1.5h", "1.5h"),
        ("-5m", "-5m"),
        ("tomorrow", "tomorrow"),
        ("999999999999999d", "999999999999999d"),
    ],
)
def test_at_is_a_duration_from_now_or_a_time(text: str, expected: str) -> None:
    """A duration becomes a time; all else is for the server to judge."""
    assert expected == deliver_at(text, now=NOON)


def test_at_goes_to_the_server(server: Server, ask: Callable[..., Ended]) -> None:
    """--at is the member deliver_at."""
    server.on("POST /v1/events", ACCEPTED, status=202)
    ask("event", "send", "t", "--at", "2031-01-01T00:00:00Z")

    assert "2031-01-01T00:00:00Z" == server.document["deliver_at"]


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
    ended = ask("event", "list", "--type", "order.*", "--since", "2030-01-01T00:00:00Z", "--limit", "2", "--cursor", "c=")

    assert f"{EVENT}\torder.created\tdefault\t2030-03-17T17:46:40Z\t1\n" == ended.out
    assert {
        "type": "order.*",
        "since": "2030-01-01T00:00:00Z",
        "limit": "2",
        "cursor": "c=",
    } == server.query


def test_event_is_shown_with_its_bytes(server: Server, ask: Callable[..., Ended]) -> None:
    """The data is shown digit for digit, then the deliveries."""
    server.on(
        f"GET /v1/events/{EVENT}",
        b'{"id":"%b","type":"t","data":{"n": 1.10},"deliveries":[{"id":"%b","subscription":"%b","state":"held"}]}'
        % (EVENT.encode(), DLV.encode(), SUB.encode()),
    )

    assert f'id\t{EVENT}\ntype\tt\ndata\t{{"n": 1.10}}\n{DLV}\t{SUB}\theld\n' == ask("event", "show", EVENT).out
    assert ask("event", "show", EVENT, "--json").out.startswith('{"id":')


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


def test_wait_as_json_shows_the_event_at_its_end(server: Server, ask: Callable[..., Ended]) -> None:
    """A program gets one document, of the event with its deliveries, and the lines are on stderr."""
    follow_script(server, DELIVERY | {"attempts": [ATTEMPT]})
    server.on(f"GET /v1/events/{EVENT}", b'{"id":"x"}')

    assert Ended(0, '{"id":"x"}\n', f"✓ {SUB} 200 in 41 ms\n") == ask("event", "send", "t", "--wait", "--json")


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
        "--retry-schedule 5s,5m --max-concurrency 4 --disable-after 10 --while-disabled skip --metadata team=a=b"
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
        "headers": {"X-Key": "v: w"},
    } == server.document
    assert "secret\twhsec_x\n" in ended.out
    assert f"hookengine subscription secret {SUB}" in ended.err


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


def test_no_color_holds_for_marks_too(server: Server) -> None:
    """On a terminal a tick is green, and with NO_COLOR it is not."""
    follow_script(server, DELIVERY | {"attempts": [ATTEMPT]})
    argv = ("event", "send", "t", "--wait", "--url", server.receiver.url)

    assert "\x1b[32m✓" in on_terminal(b"", *argv).out
    assert "\x1b[" not in on_terminal(b"", *argv, NO_COLOR="1").out


def on_terminal(typed: bytes, *argv: str, **environ: str) -> Ended:
    """Run a verb as a child with a terminal of its own, type once it has asked, and return all that it showed."""
    ours, theirs = pty.openpty()
    script = (
        "import fcntl, sys, termios; from hookengine.cli import main; "
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
