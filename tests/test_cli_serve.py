"""`hookengine serve`, `demo` and `check-config`, with the real engine."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pty
import queue
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from select import select
from typing import TYPE_CHECKING, Any

import pytest
from patience import PATIENCE

from hookengine.cli import daemon, demonstration, main
from hookengine.cli.api import DEFAULT_DATA
from hookengine.cli.config import load
from hookengine.cli.logs import Outlet, make_logger, never_waiting, relaying
from hookengine.cli.serve import greeting
from hookengine.client import Client
from hookengine.engine import Engine
from hookengine.profiles import PROFILES
from hookengine.receiver import Receiver, Reply
from hookengine.signing_keys import new_secret

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An empty directory, none of our variables, and the signal handlers of before afterwards."""
    for name in [name for name in os.environ if name.startswith("HOOKENGINE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    numbers = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT)
    before = [signal.getsignal(number) for number in numbers]
    yield
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    """A daemon's engine that has not started, on ./data and a free port."""
    return Engine.from_file(load(None, environ={}, listen="127.0.0.1:0", dev=True), data=tmp_path / "data")


@contextmanager
def signalled(at: str, number: signal.Signals) -> Iterator[list[str]]:
    """Sends this process a signal once it has said *at* on stderr; what it said is in the list afterwards."""
    reading, writing = os.pipe()
    said: list[str] = []

    def listen() -> None:
        with open(reading, encoding="utf-8") as lines:  # noqa: PTH123  # a descriptor
            for line in lines:
                said.append(line.rstrip("\n"))
                if at in line:
                    os.kill(os.getpid(), number)

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    with open(writing, "w", encoding="utf-8", buffering=1) as stderr, redirect_stderr(stderr):  # noqa: PTH123
        yield said
    listener.join(5)


async def ready(engine: Engine, data: Path) -> asyncio.Task[None]:
    """The engine's run as a daemon, once it is ready."""
    greeted = asyncio.Event()
    running = asyncio.create_task(daemon.run_daemon(engine, data, greeted.set))
    async with asyncio.timeout(10):
        await greeted.wait()
    return running


# The daemon


async def test_daemon_says_where_it_is_while_it_runs(engine: Engine, tmp_path: Path) -> None:
    """The announcement leads to the running API, and is gone after a stop."""
    running = await ready(engine, tmp_path / "data")
    announcement = json.loads((tmp_path / "data" / "daemon.json").read_text())
    token = (tmp_path / "data" / "admin.token").read_text().strip()

    assert {"url": engine.url, "pid": os.getpid()} == announcement
    answer = await asyncio.to_thread(Client(announcement["url"], token).request, "GET", "/v1/events")
    assert [] == answer.json()["data"]

    os.kill(os.getpid(), signal.SIGTERM)
    async with asyncio.timeout(10):
        await running
    assert [] == list((tmp_path / "data").glob("daemon.json*"))


async def test_first_signal_lets_an_attempt_end(engine: Engine, tmp_path: Path) -> None:
    """An attempt in flight is answered and recorded before the process ends."""
    answer = asyncio.Event()

    async def held(_: Any) -> int:
        await answer.wait()
        return 200

    async with Receiver(held) as receiver:
        running = await ready(engine, tmp_path / "data")
        await engine.subscribe(receiver.url)
        event = await engine.publish("order.created", {})
        await receiver.wait(1)
        os.kill(os.getpid(), signal.SIGINT)
        stopped, _ = await asyncio.wait({running}, timeout=0.1)
        answer.set()
        async with asyncio.timeout(10):
            await running

    assert set() == stopped
    async with engine:
        assert ["delivered"] == [delivery.state for delivery in (await engine.event(event.id)).deliveries]


async def test_second_signal_ends_the_drain(engine: Engine, tmp_path: Path) -> None:
    """An endpoint that never answers does not keep the process when it is told twice."""
    async with Receiver(Reply(delay=60)) as receiver:
        running = await ready(engine, tmp_path / "data")
        await engine.subscribe(receiver.url)
        await engine.publish("order.created", {})
        await receiver.wait(1)
        async with asyncio.timeout(10):
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait({running}, timeout=0.1)
            os.kill(os.getpid(), signal.SIGTERM)
            await running


async def test_signal_during_the_start_stops_after_it(engine: Engine, tmp_path: Path) -> None:
    """A process that is told to stop while it starts stops cleanly, not halfway."""
    running = asyncio.create_task(daemon.run_daemon(engine, tmp_path / "data", lambda: None))
    await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGTERM)

    async with asyncio.timeout(10):
        await running


@pytest.mark.row("F26")
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGPIPE, signal.SIGUSR1, signal.SIGUSR2])
async def test_other_signals_do_not_stop_it(engine: Engine, tmp_path: Path, number: signal.Signals) -> None:
    """A closed terminal, and signals that it has no use for, leave the daemon at work."""
    running = await ready(engine, tmp_path / "data")
    os.kill(os.getpid(), number)
    await engine.publish("order.created", {})

    assert not running.done()
    await engine.stop()
    await running


@pytest.mark.row("F26")
def test_quit_is_a_stop() -> None:
    """SIGQUIT, as a terminal sends it, ends the daemon in order, which says so."""
    with signalled("Ready.", signal.SIGQUIT) as said:
        assert 0 == main(["serve", "--data", "here", "--listen", "127.0.0.1:0", "--dev"])

    assert said[-1].startswith("Stopping")


async def answer() -> int:
    """Something to run."""
    await asyncio.sleep(0)
    return 7


def test_loop_runs_with_and_without_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where uvloop is missing, asyncio's own loop does."""
    assert 7 == daemon.run_loop(answer())
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert 7 == daemon.run_loop(answer())


# serve


def test_serve_greets_and_stops_with_0() -> None:
    """The verb says where everything is, and ends well on SIGTERM."""
    with signalled("Ready.", signal.SIGTERM) as said:
        assert 0 == main(["serve", "--data", "here", "--listen", "127.0.0.1:0", "--dev"])

    assert f"data here/hooks.db (new)  ·  pid {os.getpid()}" in said[0]
    assert said[1].startswith("├─ API   http://127.0.0.1:")
    assert f"└─ Docs  {said[1].split()[-1].removesuffix('/v1')}/docs" == said[2]
    assert "Ready. Ctrl-C drains and stops." in said
    assert said[-1].startswith("Stopping")


def test_serve_as_a_process_takes_events_and_ends_with_0() -> None:
    """A daemon of its own is found by the verbs through its directory, and a second one there, on any address, is 75."""
    command = [sys.executable, "-m", "hookengine"]
    with subprocess.Popen([*command, "serve", "--listen", "127.0.0.1:0"], stderr=subprocess.PIPE, encoding="utf-8") as child:
        try:
            assert child.stderr
            assert any(line.startswith("Ready.") for line in child.stderr)
            sent = subprocess.run([*command, "event", "send", "t", "--id", "o-1", "--wait"], capture_output=True, check=False)
            address = json.loads(Path("hookengine-data/daemon.json").read_text())["url"].removeprefix("http://")
            others = [
                subprocess.run([*command, "serve", "--listen", each], capture_output=True, check=False, text=True, timeout=10)
                for each in ("127.0.0.1:0", address)
            ]
            child.send_signal(signal.SIGTERM)

            assert (0, b"o-1\n", b"accepted, but no subscription wants it\n") == (sent.returncode, sent.stdout, sent.stderr)
            words = f"Error: {Path('hookengine-data/hooks.db').absolute()} is in use by pid {child.pid}\n"
            assert [(75, words)] * 2 == [(each.returncode, each.stderr) for each in others]
            assert 0 == child.wait(10)
        finally:
            child.kill()
    assert 3 == subprocess.run([*command, "event", "list"], capture_output=True, check=False).returncode


def test_serve_on_an_address_of_others_is_78(capsys: pytest.CaptureFixture[str]) -> None:
    """Where the address is another program's, the option that gives another is named."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        status = main(["serve", "--listen", address])

    words = f"Error: {address} is in use: give another with --listen, or 127.0.0.1:0 for any free port\n"
    assert (78, words) == (status, capsys.readouterr().err)


@pytest.mark.parametrize("redirections", ["2>/dev/full", "0<&- 1>&- 2>&-"], ids=["full", "closed"])
def test_serve_needs_no_standard_streams(redirections: str) -> None:
    """A daemon that is started without a stderr, or with one that takes nothing, works, and none of its files stands in."""
    command = f"exec {sys.executable} -m hookengine serve --data here --listen 127.0.0.1:0 {redirections}"
    announcement = Path("here/daemon.json")
    with subprocess.Popen(["/bin/sh", "-c", command]) as child:
        try:
            while not announcement.exists():
                assert child.poll() is None
            opened = [str(Path(f"/proc/{child.pid}/fd/{number}").readlink()) for number in range(3)]
            child.send_signal(signal.SIGTERM)

            assert 0 == child.wait(10)
        finally:
            child.kill()
    assert not [name for name in opened if "here" in name]


def test_serve_stops_when_nobody_reads_its_words() -> None:
    """A daemon whose terminal is gone ends as well on SIGTERM as any."""
    command = [sys.executable, "-m", "hookengine", "serve", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8") as child:
        try:
            assert child.stderr
            assert any(line.startswith("Ready.") for line in child.stderr)
            child.stderr.close()
            child.send_signal(signal.SIGTERM)

            assert 0 == child.wait(10)
        finally:
            child.kill()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param("[server]\nlistne = 1\n[store]\nretention = 3\n", "2 mistakes", id="mistakes"),
        pytest.param("[server]\nlistne = 1\n", "1 mistake\n", id="mistake"),
        pytest.param("[", "1 mistake\n", id="no_toml"),
        pytest.param('[profiles.acme]\nextends = "githbu"\njitter = 2\n', "2 mistakes", id="profile"),
        pytest.param(None, "bad.toml cannot be read: No such file or directory", id="missing"),
    ],
)
@pytest.mark.parametrize(
    "argv", [["serve", "--config", "bad.toml"], ["check-config", "bad.toml"], ["check-config", "--config", "bad.toml"]]
)
def test_bad_configuration_is_status_78(
    capsys: pytest.CaptureFixture[str], argv: list[str], content: str | None, words: str
) -> None:
    """A configuration that cannot be used is told with every mistake, and nothing is started or made."""
    if content is not None:
        Path("bad.toml").write_text(content)

    assert 78 == main(argv)
    assert words in capsys.readouterr().err
    assert not DEFAULT_DATA.exists()


def test_bad_listen_address_is_status_78(capsys: pytest.CaptureFixture[str]) -> None:
    """A flag is checked like the file, and named as the flag."""
    assert 78 == main(["serve", "--listen", "nowhere"])
    assert "server.listen" in capsys.readouterr().err


def test_greeting_fits_the_data_directory() -> None:
    """The lines to try work as they stand, also for a directory whose name holds a space."""
    usual = greeting("http://h:1", DEFAULT_DATA, fresh=False, dev=False, pid=5)
    other = greeting("http://h:1", Path("/my data"), fresh=True, dev=True, pid=5)

    assert "--data" not in usual
    assert "(new)" not in usual
    assert "hookengine subscription add https://example.com/hook\n" in usual
    assert "hookengine listen 9000 " in other
    assert "--wait --data '/my data'\n" in other
    assert """curl -H "Authorization: Bearer $(cat '/my data/admin.token')" http://h:1/v1/events""" in other
    assert "(--dev)" in other


# check-config


def test_check_config_shows_values_and_where_they_are_from(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each option has its value in force and its source."""
    Path("c.toml").write_text('[store]\nretention = "7d"\n')
    monkeypatch.setenv("HOOKENGINE_DELIVERY_CONCURRENCY", "32")

    assert 0 == main(["check-config", "c.toml"])
    lines = capsys.readouterr().out.splitlines()
    assert 'store.retention\t"7d"\tc.toml:2' in lines
    assert "delivery.concurrency\t32\tHOOKENGINE_DELIVERY_CONCURRENCY" in lines
    assert 'server.listen\t"127.0.0.1:8700"\tdefault' in lines
    assert "security.proxy\t\tdefault" in lines


def test_proxy_password_is_not_shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that may hold a password reads ***."""
    monkeypatch.setenv("HOOKENGINE_SECURITY_PROXY", "http://me:hunter2@proxy.example:3128")

    assert 0 == main(["check-config"])
    shown = capsys.readouterr()
    assert "hunter2" not in shown.out + shown.err
    assert "***" in shown.out


# Logs


def fail(secret: str) -> None:
    """Raises, with a secret among the local variables."""
    raise ValueError(f"no {len(secret)}")


def test_json_lines_hold_the_event_and_the_traceback() -> None:
    """A line is one JSON object with level and time, and a traceback in it shows no variables."""
    secret = "whsec-x"
    stream = StringIO()
    logger = make_logger("info", "json", stream, colors=False)
    logger.debug("unwanted")
    logger.info("attempt_finished", n=1, path=Path("x"))
    try:
        fail(secret)
    except ValueError:
        logger.exception("fault")
    first, second = [json.loads(line) for line in stream.getvalue().splitlines()]

    assert {"event": "attempt_finished", "level": "info", "n": 1, "path": "x"} == {
        k: v for k, v in first.items() if k != "timestamp"
    }
    assert first["timestamp"].endswith("Z")
    assert "ValueError: no 7" in second["exception"]
    assert "whsec-x" not in stream.getvalue()


def test_faults_of_requests_are_lines_like_others() -> None:
    """What the server and libraries log in the standard library's way has level, time and form of the daemon's own lines."""
    stream = StringIO()
    with relaying(make_logger("info", "json", stream, colors=False)):
        try:
            fail("whsec-x")
        except ValueError:
            logging.getLogger("hookengine.server").exception("request_failed")
        logging.getLogger("asyncio").warning("slow: %s", "\x1b[1m")
        logging.getLogger("asyncio").info("nothing")
    logging.getLogger("asyncio").warning("afterwards")

    failed, slow = map(json.loads, stream.getvalue().splitlines())
    assert ("request_failed", "error", "hookengine.server") == (failed["event"], failed["level"], failed["logger"])
    assert failed["exception"].endswith("ValueError: no 7")
    assert (r"slow: \x1b[1m", "warning", "asyncio") == (slow["event"], slow["level"], slow["logger"])
    assert "timestamp" in failed


def test_console_lines_hold_no_escapes_and_no_variables() -> None:
    """What a receiver answered cannot drive the terminal, and a traceback does not show secrets."""
    secret = "whsec-x"
    stream = StringIO()
    logger = make_logger("warning", "console", stream, colors=False)
    logger.info("unwanted")
    logger.warning("attempt_failed", detail="\x1b[31mred")
    try:
        fail(secret)
    except ValueError:
        logger.exception("fault")
    shown = stream.getvalue()

    assert r"detail='\x1b[31mred'" in shown
    assert "\x1b" not in shown
    assert "ValueError: no 7" in shown
    assert "unwanted" not in shown
    assert "whsec-x" not in shown


@pytest.mark.parametrize(("term", "coloured"), [("xterm", True), ("dumb", False)])
def test_log_has_colours_where_a_terminal_shows_them(term: str, *, coloured: bool) -> None:
    """On a terminal that knows no escapes the lines have none."""
    ours, theirs = pty.openpty()
    environ = os.environ | {"TERM": term, "HOOKENGINE_SECURITY_PROXY": "http://127.0.0.1:9"}  # of which there is a line
    command = [sys.executable, "-m", "hookengine", "serve", "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stderr=theirs, env=environ) as child:
        try:
            os.close(theirs)
            shown = b""
            while b"Ready." not in shown:
                shown += os.read(ours, 4096)
            child.send_signal(signal.SIGTERM)

            assert (True, coloured) == (b"proxy_in_use" in shown, b"\x1b[" in shown)
            assert 0 == child.wait(PATIENCE)
        finally:
            child.kill()
            os.close(ours)


# demo


def test_demo_shows_every_delivery_and_ends_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    """All profiles' deliveries and tests arrive and verify, and the failing endpoint is tried again and recovers."""
    assert 0 == main(["demo"])
    shown = capsys.readouterr().out.splitlines()

    assert "✓ 30 of 30 deliveries arrived; of 32 requests 30 verified, 2 authenticated" == shown[-1]
    assert 30 == sum(line.startswith("✓ verified") for line in shown)
    assert {"clevertap"} == {line.split()[2] for line in shown if line.startswith("✓ authenticated")}
    assert ["503", "503", "200", "200", "200"] == [line.split()[-1] for line in shown if "initech" in line]
    assert PROFILES.keys() == {line.split()[2] for line in shown[:-1]}
    assert {sample.type for sample in demonstration.SAMPLES} | {"(test)"} == {line.split()[4] for line in shown[:-1]}


def test_demo_stays_open_when_asked() -> None:
    """With --keep it serves until Ctrl-C, and its directory is gone afterwards."""
    with signalled("stays open", signal.SIGINT) as said:
        assert 0 == main(["demo", "--keep"])
    data = Path(said[-1].rpartition("--data ")[2])

    assert data.name.startswith("hookengine-demo-")
    assert not data.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
@pytest.mark.parametrize(("flags", "at"), [([], "hookengine is at"), (["--keep"], "stays open")], ids=["", "keep"])
def test_demo_that_is_ended_leaves_nothing(number: signal.Signals, flags: list[str], at: str, tmp_path: Path) -> None:
    """Its directory, with keys and tokens, is gone whichever signal ends it; only with --keep is that how it should end."""
    script = (
        "import signal, sys; from hookengine.cli import main; "
        "signal.signal(signal.SIGINT, signal.default_int_handler); "  # tests that run in the background ignore it
        "sys.exit(main(sys.argv[1:]))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, "demo", *flags],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        said = next(line for line in process.stderr if at in line)
        process.send_signal(number)
        _, err = process.communicate(timeout=PATIENCE)

    assert str(tmp_path) in said
    assert (0 if flags else 128 + number) == process.returncode, err
    assert "Traceback" not in err
    assert [] == list(tmp_path.iterdir())


async def test_demo_does_not_wait_for_ever(capsys: pytest.CaptureFixture[str]) -> None:
    """A delivery that does not end is told, and is no success."""
    page = Reply(body=b'{"data": [{"state": "pending"}, {"state": "delivered"}], "next_cursor": null}')
    async with Receiver(page) as receiver:
        states = await demonstration._ended(Client(receiver.url), patience=0.3)

    assert ["pending", "delivered"] == states
    assert "have not ended" in capsys.readouterr().err
    assert not demonstration._verdict(states, [])
    assert "✗ 1 of 2 deliveries arrived" in capsys.readouterr().out


async def test_demo_says_why_a_request_does_not_verify(capsys: pytest.CaptureFixture[str]) -> None:
    """A request with another signature is marked, with the reason, and no success."""
    async with demonstration._receiver(demonstration.SCENES[0], new_secret(bytes(32))) as receiver:
        await asyncio.to_thread(Client(receiver.url).request, "POST", "/", body=b"{}")

    assert "✗ not verified: missing_header  standard  acme" in capsys.readouterr().out
    assert not demonstration._verdict(["delivered"] * 30, receiver.requests)


async def test_demo_says_that_a_password_is_missing() -> None:
    """A request of the profile that signs nothing counts with its password only."""
    scene = next(scene for scene in demonstration.SCENES if scene.profile == "clevertap")
    async with demonstration._receiver(scene, new_secret(bytes(32))) as receiver:
        await asyncio.to_thread(Client(receiver.url).request, "POST", "/", body=b"{}")

    assert not demonstration._verdict(["delivered"] * 30, receiver.requests)


def test_demo_that_fails_ends_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that gives up on a delivery makes the demo a failure."""
    monkeypatch.setattr(demonstration, "SCENES", (demonstration.Scene("broken", "standard", [503]),))
    monkeypatch.setattr(demonstration, "_RETRIES", [])

    assert 1 == main(["demo"])


@pytest.mark.row("F41")
def test_writers_of_log_lines_never_wait() -> None:
    """What nobody reads is dropped and counted, what came before it is whole, and an end waits no longer than it says."""
    reading, writing = os.pipe()
    told: queue.SimpleQueue[int] = queue.SimpleQueue()
    with open(writing, "w", encoding="utf-8") as pipe, never_waiting(pipe) as (stream, outlet):  # noqa: PTH123  # a descriptor
        assert outlet is not None
        outlet.on_dropped = told.put
        for n in range(100):
            stream.write(f"{n:09}\n" * 1_000)
            while n == 9 and select([], [writing], [], 0)[1]:
                pass  # until the pipe is full: before, the thread could tell of what is dropped in two parts
        outlet.finish(0.05)
        content = b""
        while told.empty():
            content += os.read(reading, 65_536)
        dropped = told.get()
        while len(content) < (100 - dropped) * 10_000:
            content += os.read(reading, 65_536)
    os.close(reading)
    lines = content.split()
    assert 0 < dropped < 100
    assert len(lines) == (100 - dropped) * 1_000
    assert lines == [b"%09d" % n for n in range(100 - dropped) for _ in range(1_000)]


def test_drops_are_told_though_others_fill_the_room() -> None:
    """What is told of dropped lines is not dropped itself, and does not take the room of what comes: all are accounted for."""
    reading, writing = os.pipe()
    outlet = Outlet(writing)
    line, written = b"x" * 999 + b"\n", []

    def fill(count: int = 1_000) -> None:
        for _ in range(count):
            outlet.write(line)
        written.append(count)

    def tell(dropped: int) -> None:
        if len(written) < 5:
            other = threading.Thread(target=fill)
            other.start()
            other.join()
        outlet.write(b"%0999d\n" % dropped)

    def end() -> None:
        outlet.finish(PATIENCE)
        os.close(writing)

    outlet.on_dropped = tell
    fill(200)
    while select([], [writing], [], 0)[1]:
        pass  # until the pipe is full: before, the thread could tell of what is dropped in two parts
    fill()
    ending = threading.Thread(target=end)
    ending.start()
    with open(reading, "rb") as pipe:  # noqa: PTH123  # a descriptor
        lines = pipe.read().splitlines(keepends=True)
    ending.join()
    told = [int(each) for each in lines if each != line]

    kept = lines.count(line)
    assert sum(written) == kept + sum(told)
    assert kept > 3 * 256  # what came before, and twice what there is room for: after each telling others have it


def test_stream_in_memory_is_written_at_once() -> None:
    """Where there is no descriptor nothing can wait."""
    memory = StringIO()
    with never_waiting(memory) as (stream, outlet):
        assert (memory, None) == (stream, outlet)
