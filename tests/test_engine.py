"""The engine's life from start to stop, in one process and in several, and the Python API."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiosqlite.core
import pytest
import structlog
from engines import LOOPBACK, Gate, Journal, blocked_writer, edit, engine, rows, running
from interrupts import interrupt, run
from patience import PATIENCE
from storage import Faulty, io_error

from hookengine.client import Client
from hookengine.clock import Clock
from hookengine.config import Config, Plan
from hookengine.engine import DATABASE, Engine
from hookengine.errors import (
    AlreadyRunning,
    ConfigInvalid,
    DatabaseTooNew,
    EventNotFound,
    Invalid,
    KeyUnusable,
    StartError,
    Stopping,
    StorageFailed,
)
from hookengine.receiver import Receiver
from hookengine.store import database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

ROOT = Path(__file__).parent.parent

# What a program has before its own lines: an engine on the file that is its argument.
PREAMBLE = f"""
import asyncio, os, sys
from pathlib import Path
sys.path.insert(0, {str(ROOT)!r})
from hookengine.engine import Engine
engine = Engine(Path(sys.argv[1]))
"""


@pytest.fixture
def complaints() -> Iterator[list[str]]:
    """What asyncio says of exceptions that nobody took; to be looked at after the loop has let go of everything."""
    handler = _Lines()
    logging.getLogger("asyncio").addHandler(handler)
    yield handler.lines
    logging.getLogger("asyncio").removeHandler(handler)


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def open_things() -> set[Path | threading.Thread | asyncio.Task[Any]]:
    """What the descriptors of this process stand for, its threads and tasks; what was there before may end meanwhile."""
    gc.collect()
    files = [each.readlink() for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    return {*files, *threading.enumerate(), *asyncio.all_tasks()}


async def program(folder: Path, lines: str) -> asyncio.subprocess.Process:
    """A Python program that has made an `engine` of the file in *folder* and goes on with *lines*."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PREAMBLE + lines, str(folder / DATABASE)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


async def ended(process: asyncio.subprocess.Process) -> tuple[int | None, str, str]:
    """Its exit status and what it said, once it has ended by itself, which must be soon."""
    try:
        async with asyncio.timeout(PATIENCE):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    return process.returncode, out.decode(), err.decode()


# Start and stop


async def test_everything_is_given_back(tmp_path: Path) -> None:
    """After a stop there are the descriptors, threads and tasks of before the start, also with the API served."""
    made = engine(tmp_path, serve="127.0.0.1:0")
    before = open_things()
    await made.start()
    async with Receiver() as receiver:
        await made.subscribe(receiver.url)
        event = await made.publish("order.created", {"id": 1})
        await made.wait(event.id, PATIENCE)
        await asyncio.to_thread(Client(str(made.url)).request, "GET", "/readyz")
    assert open_things() - before
    await made.stop()
    await asyncio.get_running_loop().shutdown_default_executor()

    assert set() == open_things() - before


async def test_nothing_exists_before_the_start(tmp_path: Path) -> None:
    """An engine that is only made has no file, no descriptor and no thread, and says that it does not run."""
    before = open_things()
    made = engine(tmp_path)

    assert set() == open_things() - before
    assert not (tmp_path / DATABASE).exists()
    assert f"<Engine {tmp_path / DATABASE} stopped>" == repr(made)
    assert tmp_path / DATABASE == made.path
    with pytest.raises(RuntimeError, match=r"call start\(\) first"):
        await made.publish("order.created", {})
    await made.wait_stopped()
    await made.stop()


async def test_path_is_of_the_directory_in_which_the_engine_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program may go to other directories: the files are found, and watched, where the engine was made."""
    names = ("made", "started", "running")
    for name in names:
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "made")
    made = Engine(DATABASE)
    monkeypatch.chdir(tmp_path / "started")
    async with made:
        monkeypatch.chdir(tmp_path / "running")
        await made.publish("order.created", {})
        assert made._running.store._whereabouts.lost() is None

    assert tmp_path / "made" / DATABASE == made.path
    assert [True, False, False] == [(tmp_path / name / DATABASE).exists() for name in names]
    assert [[], []] == [list((tmp_path / name).iterdir()) for name in names[1:]]


async def test_context_manager_starts_and_stops(tmp_path: Path) -> None:
    """The engine runs inside `async with`, and not after it."""
    async with engine(tmp_path) as made:
        assert "running" in repr(made)
        assert made.is_new
        assert made.url is None
        await made.publish("order.created", {})

    assert "stopped" in repr(made)
    with pytest.raises(RuntimeError):
        await made.publish("order.created", {})


@pytest.mark.row("F49")
async def test_start_twice_is_refused(running_engine: Engine) -> None:
    """A second start is a programmer's mistake, and does no harm."""
    with pytest.raises(RuntimeError, match="started already"):
        await running_engine.start()

    await running_engine.publish("order.created", {})


@pytest.mark.row("F49")
async def test_stop_twice_and_start_again(tmp_path: Path) -> None:
    """Two stops at once and one after are one, and the engine can be started again."""
    made = engine(tmp_path)
    for _ in range(2):
        await made.start()
        await made.publish("order.created", {})
        await asyncio.gather(made.stop(), made.stop(), made.wait_stopped())
        await made.stop()

    assert [(2,)] == rows(tmp_path, "SELECT count(*) FROM events")
    async with made:
        assert not made.is_new


async def test_stop_during_the_start(tmp_path: Path) -> None:
    """A stop that overtakes the start ends it in order."""
    made = engine(tmp_path)
    before = open_things()
    starting = asyncio.create_task(made.start())
    await asyncio.sleep(0)
    await made.stop()
    await starting

    assert set() == open_things() - before


@pytest.mark.parametrize("ticks", [1, 2, 3, 5, 8, 13, 21, 34])
async def test_cancelled_start_leaves_nothing_open(tmp_path: Path, complaints: list[str], ticks: int) -> None:
    """A start that is cancelled, wherever it is, closes what it opened; the next one works."""
    made = engine(tmp_path, serve="127.0.0.1:0")
    before = open_things()
    starting = asyncio.create_task(made.start())
    for _ in range(ticks):
        await asyncio.sleep(0)
    starting.cancel()
    with suppress(asyncio.CancelledError):
        await starting
        await made.stop()  # it was ready before
    del starting

    assert set() == open_things() - before
    assert [] == complaints
    async with made:
        await made.publish("order.created", {})


async def test_start_that_is_cancelled_twice_and_fails(tmp_path: Path, complaints: list[str], running_engine: Engine) -> None:
    """Whoever does not even wait for the end of the start that they cancelled leaves no error that nobody has seen."""
    made = Engine(running_engine.path)
    starting = asyncio.create_task(made.start())
    for _ in range(2):
        await asyncio.sleep(0)
        starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert made._supervisor is not None
    await asyncio.wait([made._supervisor], timeout=PATIENCE)
    del made, starting
    gc.collect()

    assert [] == complaints


@pytest.mark.parametrize("cancelled", [False, True])
async def test_start_right_after_one_that_failed(tmp_path: Path, cancelled: bool) -> None:
    """A start before the caller of the one that failed has woken up is not undone by that, and is stopped as any other."""
    (tmp_path / DATABASE).mkdir()
    made = engine(tmp_path)
    failing = asyncio.create_task(made.start())
    await asyncio.sleep(0)
    first = made._supervisor
    assert first is not None
    async with asyncio.timeout(PATIENCE):
        while not first.done():  # noqa: ASYNC110  # whoever waits for it is woken too late
            await asyncio.sleep(0)
    (tmp_path / DATABASE).rmdir()
    if cancelled:
        failing.cancel()
    await made.start()
    with pytest.raises(asyncio.CancelledError if cancelled else StartError):
        await failing
    await made.publish("order.created", {})
    await made.stop()

    assert "stopped" in repr(made)
    async with running(tmp_path) as other:
        assert 1 == len((await other.events()).data)


async def spoil_schema(folder: Path) -> None:
    """A file of a later version."""
    async with running(folder):
        pass
    await edit(folder, "PRAGMA user_version = 999")
    await asyncio.get_running_loop().shutdown_default_executor()


async def spoil_key(folder: Path) -> None:
    """A file without its key."""
    async with running(folder):
        pass
    (folder / "secret.key").unlink()


async def spoil_file(folder: Path) -> None:
    """A file that is no database."""
    (folder / DATABASE).write_bytes(b"no database" * 1000)


async def spoil_table(folder: Path) -> None:
    """A database that lacks a table."""
    async with running(folder):
        pass
    await edit(folder, "DROP TABLE meta")
    await asyncio.get_running_loop().shutdown_default_executor()


async def remove_folder(folder: Path) -> None:
    """No place for a file."""
    folder.rmdir()  # noqa: ASYNC240  # nothing else runs


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        pytest.param(spoil_schema, DatabaseTooNew, id="newer schema"),
        pytest.param(spoil_key, KeyUnusable, id="no key"),
        pytest.param(spoil_file, StartError, id="no database"),
        pytest.param(spoil_table, StartError, id="no table"),
        pytest.param(remove_folder, StartError, id="no folder"),
    ],
)
async def test_start_that_fails_leaves_nothing_open(
    tmp_path: Path, complaints: list[str], spoil: Any, expected: type[StartError]
) -> None:
    """What keeps the engine from starting comes out of `start()`, once, and nothing stays open."""
    folder = tmp_path / "data"
    folder.mkdir()
    await spoil(folder)
    made = engine(folder, serve="127.0.0.1:0")
    before = open_things()
    with pytest.raises(expected):
        await made.start()

    assert set() == open_things() - before
    assert [] == complaints
    with pytest.raises(RuntimeError, match=r"call start\(\) first"):
        await made.publish("order.created", {})


@pytest.mark.parametrize("content", [b"", b"\n", "hke_é\n".encode(), b"two words\n", b"x" * 257])
async def test_token_file_without_a_token_is_named(tmp_path: Path, content: bytes) -> None:
    """A start that would leave an engine that nobody can ask says which file is wrong, and does not write over it."""
    file = tmp_path / "admin.token"
    file.write_bytes(content)
    with pytest.raises(StartError, match=r"admin\.token holds no token: delete it"):
        await engine(tmp_path, serve="127.0.0.1:0").start()

    assert content == file.read_bytes()
    file.unlink()
    async with Engine(tmp_path / DATABASE, serve="127.0.0.1:0"):
        assert file.read_bytes().startswith(b"hke_")


async def test_start_needs_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another program writes, an engine starts, also on a clock that has gone back."""
    async with running(tmp_path) as made:
        await made.subscribe("http://127.0.0.1:8080/", event_types=["never"])
        await made.publish("a", 1)
    monkeypatch.setattr(database, "_BUSY", 0.05)
    monkeypatch.setattr(Clock, "now", lambda _: int(time.time() * 1000) - 86_400_000)
    with closing(sqlite3.connect(tmp_path / DATABASE, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        async with running(tmp_path) as made:
            assert 1 == len((await made.events()).data)
            other.execute("ROLLBACK")
            await made.publish("b", 1)


async def test_port_in_use_leaves_nothing_open(tmp_path: Path, complaints: list[str]) -> None:
    """A listener that cannot be had is named, and the file is free for the next engine."""
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        before = open_things()
        with pytest.raises(StartError, match=f"127.0.0.1:{port}"):
            await engine(tmp_path, serve=f"127.0.0.1:{port}").start()

        assert set() == open_things() - before
        assert [] == complaints
    async with running(tmp_path):
        pass


async def test_plan_that_is_configured_no_more_is_told(tmp_path: Path) -> None:
    """Whoever takes a plan out of the configuration hears at the start that tenants are on it, each plan once."""
    config = Config(plans={"free": Plan(max_subscriptions=1), "pro": Plan()})
    async with Engine(tmp_path / DATABASE, config=config) as made:
        for tenant, plan in (("a", "pro"), ("b", "pro"), ("c", "free"), ("d", None)):
            await made.set_tenant(tenant, plan=plan)
    journal = Journal()
    async with Engine(tmp_path / DATABASE, config=Config(plans={"free": Plan()}), logger=journal.logger):
        [line] = journal.all("not_configured")

    assert ("tenants", "no plan 'pro', which some are on: no limit") == (line["where"], line["error"])
    assert [] == journal.all("fault")


async def test_unreadable_subscription_is_told_and_left_alone(tmp_path: Path) -> None:
    """A row whose secrets do not open is told as a fault, and the others are served."""
    async with Receiver() as receiver:
        async with running(tmp_path) as made:
            lost = await made.subscribe(receiver.url + "/lost")
            await made.subscribe(receiver.url + "/found")
        await edit(tmp_path, f"UPDATE subscriptions SET sealed = x'00' WHERE id = '{lost.id}'")
        async with running(tmp_path, journal := Journal()) as made:
            [fault] = journal.all("fault")
            event = await made.publish("order.created", {})
            await made.wait(event.id, PATIENCE)

    assert lost.id in fault["error"]
    assert ["/found"] == [request.path for request in receiver.requests]


async def test_first_event_after_the_start_is_delivered(tmp_path: Path) -> None:
    """What is published in the very moment of a start goes as well."""
    async with Receiver() as receiver:
        async with running(tmp_path) as made:
            await made.subscribe(receiver.url)
        for _ in range(5):
            async with running(tmp_path) as made:
                event = await made.publish("order.created", {})
                [delivery] = await made.wait(event.id, PATIENCE)
                assert "delivered" == delivery.state


async def test_host_program_is_left_alone(tmp_path: Path) -> None:
    """No signal handler, no logger and no structlog setting is touched."""

    def host() -> tuple[Any, ...]:
        root = logging.getLogger()
        handlers = [signal.getsignal(number) for number in signal.valid_signals()]
        ours = logging.getLogger("hookengine")
        return handlers, list(root.handlers), root.level, list(ours.handlers), ours.level, structlog.is_configured()

    before = host()
    async with Engine(tmp_path / DATABASE, serve="127.0.0.1:0") as made:
        await made.publish("order.created", {})
        assert before == host()

    assert before == host()


async def test_log_goes_to_the_hosts_logger(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without a logger of its own the engine logs into `hookengine` of the standard library."""
    caplog.set_level(logging.INFO, "hookengine")
    async with Engine(tmp_path / DATABASE, config=Config(security=LOOPBACK)) as made:
        sub = await made.subscribe("http://127.0.0.1:8099")

    assert any("subscription_created" in record.message and sub.id in record.message for record in caplog.records)


async def test_observer_that_raises_does_no_harm(tmp_path: Path) -> None:
    """A logger that fails does not keep events from being delivered, nor others from hearing of it."""

    def fail(*_: object) -> Any:
        raise OSError("the log's disk is full")

    logger = structlog.wrap_logger(None, processors=[fail], wrapper_class=structlog.make_filtering_bound_logger(0))
    async with Receiver() as receiver, Engine(tmp_path / DATABASE, config=Config(security=LOOPBACK), logger=logger) as made:
        await made.subscribe(receiver.url)
        event = await made.publish("order.created", {})
        [delivery] = await made.wait(event.id, PATIENCE)

    assert "delivered" == delivery.state


# Several engines


async def test_two_engines_on_two_files(tmp_path: Path) -> None:
    """Engines of one process know nothing of each other's events."""
    async with AsyncExitStack() as stack:
        receivers = [await stack.enter_async_context(Receiver()) for _ in range(2)]
        engines = []
        for name, receiver in zip("ab", receivers, strict=True):
            (tmp_path / name).mkdir()
            engines.append(await stack.enter_async_context(running(tmp_path / name)))
            await engines[-1].subscribe(receiver.url)
        events = [await made.publish("order.created", {"in": n}) for n, made in enumerate(engines)]
        for made, event in zip(engines, events, strict=True):
            await made.wait(event.id, PATIENCE)
        with pytest.raises(EventNotFound):
            await engines[0].event(events[1].id)

        assert [1, 1] == [len(receiver.requests) for receiver in receivers]


@pytest.mark.row("F15", "F49")
async def test_second_engine_in_the_process_is_refused(tmp_path: Path, running_engine: Engine) -> None:
    """A second engine on the file, also by another name of it, is refused at once with our pid; the first goes on."""
    (tmp_path / "link.db").symlink_to(tmp_path / DATABASE)
    for name in (DATABASE, "link.db"):
        with pytest.raises(AlreadyRunning) as refused:
            await Engine(tmp_path / name).start()
        assert os.getpid() == refused.value.pid

    await running_engine.publish("order.created", {})


@pytest.mark.row("F15")
async def test_second_engine_on_the_same_address_is_refused_as_such(tmp_path: Path) -> None:
    """Of an engine that serves on the address too it is told that it has the file, not that the address is taken."""
    async with Engine(tmp_path / DATABASE, serve="127.0.0.1:0") as first:
        address = str(first.url).removeprefix("http://")
        with pytest.raises(AlreadyRunning) as refused:
            await Engine(tmp_path / DATABASE, serve=address).start()
        for path in (tmp_path / "other.db", tmp_path / "none" / "other.db"):
            with pytest.raises(StartError, match=f"cannot listen on {address}"):
                await Engine(path, serve=address).start()

    assert os.getpid() == refused.value.pid


@pytest.mark.row("F15")
async def test_second_engine_in_another_process_is_refused(tmp_path: Path) -> None:
    """The owner's pid is told to whoever comes second, in either process, and a killed owner's file is free at once."""
    owner = await program(
        tmp_path,
        """
async def main():
    await engine.start()
    print("ready", flush=True)
    await engine.wait_stopped()
asyncio.run(main())
""",
    )
    try:
        assert owner.stdout is not None
        async with asyncio.timeout(PATIENCE):
            assert b"ready\n" == await owner.stdout.readline()
        with pytest.raises(AlreadyRunning) as refused:
            await engine(tmp_path).start()
        assert owner.pid == refused.value.pid
    finally:
        owner.kill()
        await owner.communicate()
    async with running(tmp_path) as made:
        await made.publish("order.created", {})
        second = await program(
            tmp_path,
            """
try:
    asyncio.run(engine.start())
except Exception as error:
    print(type(error).__name__, error.pid)
""",
        )
        assert (0, f"AlreadyRunning {os.getpid()}\n") == (await ended(second))[:2]


@pytest.mark.row("F16")
async def test_fork_is_told_to_make_its_own(tmp_path: Path) -> None:
    """In a fork of the process that started it, an engine refuses every use; in the parent it goes on."""
    forked = await program(
        tmp_path,
        """
async def main():
    await engine.start()
    if (child := os.fork()) == 0:
        said = []
        for use in (lambda: engine.publish("a", 1), engine.start, engine.stop, engine.wait_stopped):
            try:
                use().send(None)  # in a fork there is no running loop
            except RuntimeError as error:
                said.append("fork" in str(error))
        os._exit(0 if said == [True] * 4 else 1)
    _, status = os.waitpid(child, 0)
    await engine.publish("a", 1)
    await engine.stop()
    print(os.waitstatus_to_exitcode(status))
asyncio.run(main())
""",
    )

    assert (0, "0\n") == (await ended(forked))[:2]


@pytest.mark.row("F16")
async def test_fork_may_leave_the_block(tmp_path: Path) -> None:
    """A fork that ends inside `async with` ends as it wants to."""
    forked = await program(
        tmp_path,
        """
async def main():
    async with engine:
        if (child := os.fork()) == 0:
            sys.exit(3)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
        os._exit(0)  # the child has closed its event loop, and with it what the two have in common
asyncio.run(main())
""",
    )

    assert (0, "3\n") == (await ended(forked))[:2]


@pytest.mark.row("F16")
@pytest.mark.parametrize("spoil", ["", "os.mkdir(sys.argv[1])"], ids=["its loop", "a start that failed"])
async def test_fork_may_start_what_has_ended(tmp_path: Path, spoil: str) -> None:
    """An engine that has ended with its event loop, or that could not start, belongs to nobody: a fork may start it."""
    forked = await program(
        tmp_path,
        f"""
async def main():
    async with engine:
        await engine.publish("a", 1)
{spoil}
try:
    asyncio.run(engine.start())
except Exception:
    os.rmdir(sys.argv[1])
if (child := os.fork()) == 0:
    asyncio.run(main())
    os._exit(0)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status))
""",
    )

    assert (0, "0\n") == (await ended(forked))[:2]


async def test_loop_that_was_closed_is_told(tmp_path: Path) -> None:
    """Of an engine whose event loop was closed under it is said just that: there is no loop to hand a stop to."""
    forgetful = await program(
        tmp_path,
        """
loop = asyncio.new_event_loop()
loop.run_until_complete(engine.start())
loop.close()
for ending in (engine.stop, engine.wait_stopped):
    try:
        asyncio.run(ending())
    except RuntimeError as error:
        print(error)
os._exit(0)
""",
    )

    told = "the event loop that the engine ran in was closed before stop(): its file is taken until this process ends\n"
    assert (0, 2 * told) == (await ended(forgetful))[:2]


async def test_loop_of_another_thread_is_told_where_it_runs(tmp_path: Path) -> None:
    """A call from another thread's event loop is refused before anything is done; handed over to the engine's own it works."""
    async with Engine(tmp_path / DATABASE) as made:
        loop = asyncio.get_running_loop()
        with pytest.raises(RuntimeError, match="run_coroutine_threadsafe"):
            await asyncio.to_thread(lambda: asyncio.run(made.publish("a", 1)))
        for ending in (made.stop, made.wait_stopped):
            with pytest.raises(RuntimeError, match="run_coroutine_threadsafe"):
                await asyncio.to_thread(asyncio.run, ending())
        event = await asyncio.to_thread(lambda: asyncio.run_coroutine_threadsafe(made.publish("a", 2), loop).result(PATIENCE))

        assert [event.id] == [each.id for each in (await made.events()).data]


@pytest.mark.parametrize("config", [{}, {"delivery": {}}, "hookengine.toml"], ids=repr)
def test_configuration_that_is_none_is_told_at_once(tmp_path: Path, config: Any) -> None:
    """What is no Config would be the defaults, or a fault in the middle of the start."""
    with pytest.raises(TypeError, match="config is a Config"):
        Engine(tmp_path / DATABASE, config=config)


def test_stop_after_the_end_of_its_loop(tmp_path: Path) -> None:
    """An event loop that ends takes the engine with it: a stop from the next one has nothing to do, and it starts there."""
    made = Engine(tmp_path / DATABASE)
    asyncio.run(made.start())
    asyncio.run(made.stop())

    async def again() -> None:
        async with made:
            assert [] == (await made.events()).data

    asyncio.run(again())


async def test_waiting_for_one_of_two_with_an_id(tmp_path: Path) -> None:
    """Tenants choose their ids by themselves: which event is waited for is said by its tenant."""
    async with Engine(tmp_path / DATABASE, config=Config(security=LOOPBACK)) as made, Receiver(script=[503]) as receiver:
        await made.subscribe(receiver.url, tenant="a")
        await made.publish("x", 1, id="same", tenant="a")
        await made.publish("x", 2, id="same", tenant="b")

        assert [] == await made.wait("same", PATIENCE) == await made.wait("same", PATIENCE, tenant="b")
        with pytest.raises(TimeoutError):
            await made.wait("same", 0.05, tenant="a")
        with pytest.raises(EventNotFound):
            await made.wait("same", PATIENCE, tenant="c")


@pytest.mark.row("F16")
@pytest.mark.parametrize("end", ["await engine.stop()", "os.kill(os.getpid(), signal.SIGKILL)"], ids=["stop", "kill"])
async def test_fork_does_not_keep_the_lock(tmp_path: Path, end: str) -> None:
    """A child of the process that started an engine lives on, as workers do; the next engine starts all the same."""
    forked = await program(
        tmp_path,
        f"""
import signal
async def main():
    await engine.start()
    if (child := os.fork()) == 0:
        os.close(1), os.close(2), signal.alarm({PATIENCE})
        signal.pause()
    print(child, flush=True)
    {end}
asyncio.run(main())
""",
    )
    assert forked.stdout is not None
    child = int(await forked.stdout.readline())
    try:
        await forked.wait()
        async with Engine(tmp_path / "hooks.db"):
            os.kill(child, 0)  # it is there
    finally:
        os.kill(child, signal.SIGKILL)


# The end of the loop, of the process, of the storage


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param("asyncio.new_event_loop().run_until_complete(main())", id="loop left alone"),
        pytest.param("asyncio.run(main())", id="asyncio.run"),
        pytest.param("loop = asyncio.new_event_loop(); loop.run_until_complete(main()); loop.close()", id="loop closed"),
        pytest.param("asyncio.run(main(boom=True))", id="exception"),
        pytest.param("import uvloop; uvloop.run(main())", id="uvloop"),
    ],
)
@pytest.mark.row("F47", "F48")
async def test_process_ends_without_a_stop(tmp_path: Path, lines: str) -> None:
    """A program that forgets to stop ends all the same, says nothing of threads, and what it published is there."""
    forgetful = await program(
        tmp_path,
        f"""
async def main(boom=False):
    await engine.start()
    await engine.publish("order.created", {{"id": 1}})
    if boom:
        raise SystemExit("boom")
{lines}
print("end", flush=True)
""",
    )
    status, out, err = await ended(forgetful)

    assert (1, "", True) == (status, out, "boom" in err) if "boom" in lines else (0, "end\n") == (status, out)
    # Of a loop that is closed under its work, each of aiosqlite's two threads may complain once.
    assert err.count("Traceback") <= 2 * ("close()" in lines)
    async with running(tmp_path) as made:
        assert 1 == len((await made.events()).data)


@pytest.mark.parametrize(
    ("task", "told"),
    [
        pytest.param("Writer.run", StorageFailed("the writer was cut by KeyboardInterrupt()"), id="writer"),
        pytest.param("Store.failed", RuntimeError("the engine was cut by KeyboardInterrupt()"), id="watch"),
        pytest.param("Dispatcher.run", RuntimeError("the engine was cut by KeyboardInterrupt()"), id="dispatcher"),
        pytest.param("Maintenance._follow", RuntimeError("upkeep was cut by KeyboardInterrupt()"), id="upkeep"),
    ],
)
def test_interrupt_is_raised_once(tmp_path: Path, complaints: list[str], task: str, told: Exception) -> None:
    """Ctrl-C in a loop that the host runs itself ends the engine in order, wherever it lands; `stop` raises no second one."""
    made = Engine(tmp_path / DATABASE)

    async def work() -> None:
        await made.start()
        await made.publish("order.created", {})
        await interrupt(task)
        await made.wait_stopped()

    async def again() -> None:
        async with made:
            assert 1 == len((await made.events()).data)

    with closing(asyncio.new_event_loop()) as loop:
        ends = [run(loop, each()) for each in (work, lambda: made.publish("order.created", {}), made.stop, made.stop)]
        assert (0, None) == run(loop, again())

    assert [(1, repr(told)), (0, repr(told)), (0, repr(told)), (0, "None")] == [(cuts, repr(end)) for cuts, end in ends]
    gc.collect()
    assert [] == complaints


def test_interrupt_of_a_start_is_raised_once(tmp_path: Path, complaints: list[str]) -> None:
    """Ctrl-C in the midst of a start leaves nothing open, and whoever waits for the start hears of it as an error."""
    made = Engine(tmp_path / DATABASE)

    async def work() -> None:
        starting = asyncio.create_task(made.start())
        while "hookengine-writer" not in {each.get_name() for each in asyncio.all_tasks()}:  # noqa: ASYNC110  # it tells nobody
            await asyncio.sleep(0)
        await interrupt("Engine._supervise")
        await starting

    async def again() -> None:
        async with made:
            await made.publish("order.created", {})

    with closing(asyncio.new_event_loop()) as loop:
        cuts, end = run(loop, work())
        assert (0, None) == run(loop, again())

    assert (1, "RuntimeError('the engine was cut by KeyboardInterrupt()')") == (cuts, repr(end))
    gc.collect()
    assert [] == complaints


async def test_commit_outlives_a_cancelled_publisher(running_engine: Engine) -> None:
    """An event whose publisher was cancelled while it was being stored is stored all the same, and delivered."""
    async with Receiver() as receiver:
        await running_engine.subscribe(receiver.url)
        async with blocked_writer(running_engine):
            publishing = asyncio.create_task(running_engine.publish("order.created", {"id": 1}))
            await asyncio.sleep(0)
            publishing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await publishing
        await receiver.wait(1, PATIENCE)

    assert 1 == len((await running_engine.events()).data)


@pytest.mark.row("F46")
async def test_cancelled_callers_leave_the_store_whole(running_engine: Engine) -> None:
    """A crowd of publishers, cancelled wherever they are, leaves whole events behind and a store that works."""
    async with Receiver() as receiver:
        await running_engine.subscribe(receiver.url)
        for ticks in range(60):
            calls = [asyncio.create_task(running_engine.publish("order.created", {"n": ticks})) for _ in range(3)]
            calls.append(asyncio.create_task(running_engine.deliveries(limit=1)))  # type: ignore[arg-type]  # another kind of task
            for _ in range(ticks % 12):
                await asyncio.sleep(0)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        last = await running_engine.publish("order.created", {"n": -1})
        await running_engine.wait(last.id, PATIENCE)
        assert [] == (await running_engine.deliveries(state="failed")).data
    stored = [event.deliveries for event in (await running_engine.events(limit=250)).data]

    assert {1} == set(stored)


async def test_failed_sync_ends_the_engine(tmp_path: Path, complaints: list[str]) -> None:
    """After a sync that failed, publishers and those who wait hear StorageFailed, also later; a new start works."""
    made = engine(tmp_path)
    before = open_things()
    await made.start()
    await made.publish("order.created", {"n": 1})
    watching = asyncio.create_task(made.wait_stopped())
    Faulty(made._running).error = io_error("SQLITE_IOERR_FSYNC")  # type: ignore[arg-type]  # it has a store, which is all that is asked
    with pytest.raises(StorageFailed):
        await made.publish("order.created", {"n": 2})
    with pytest.raises(StorageFailed):
        await watching
    for _ in range(2):
        with pytest.raises(StorageFailed):
            await made.publish("order.created", {"n": 3})
    with pytest.raises(StorageFailed):
        await made.stop()

    assert set() == open_things() - before
    assert [] == complaints
    async with made:
        await made.publish("order.created", {"n": 4})


@pytest.mark.alone
@pytest.mark.parametrize("stopping", [False, True], ids=["running", "stopping"])
@pytest.mark.parametrize("connection", [0, 1, 2], ids=["writer", "reader", "viewer"])
async def test_dead_thread_ends_the_engine(connection: int, stopping: bool, tmp_path: Path, complaints: list[str]) -> None:
    """When a thread of SQLite's dies, the engine and whoever waits hear of it within two seconds, and a new start works."""
    gate = Gate()
    async with Receiver(gate) as receiver:
        made = engine(tmp_path)
        before = open_things()
        await made.start()
        await made.subscribe(receiver.url)
        event = await made.publish("order.created", {"n": 1})
        await gate.arrived()
        db = made._running.store._connections[connection]
        begun = asyncio.get_running_loop().time()
        db._tx.put_nowait((None, lambda: aiosqlite.core._STOP_RUNNING_SENTINEL))
        waits_for: tuple[Callable[[], Coroutine[Any, Any, Any]], ...] = (
            lambda: made.publish("order.created", {"n": 2}),
            made._running.store.reader.heads,
            lambda: made.delivery("dlv_1"),
        )
        asked = asyncio.create_task(waits_for[connection]())
        await asyncio.sleep(0)
        if stopping:
            async with asyncio.timeout(PATIENCE):
                with suppress(StorageFailed):
                    await made.stop(drain=0)
        else:
            with pytest.raises(StorageFailed):
                await made.wait_stopped()
            with pytest.raises(StorageFailed):
                await made.publish("order.created", {"n": 3})
        with pytest.raises(StorageFailed):
            await asked
        assert asyncio.get_running_loop().time() - begun < 2
        assert [] == complaints
        assert {type(each) for each in open_things() - before} <= {type(Path())}  # the receiver has some open
        gate.open()
        with suppress(StorageFailed):
            await made.stop()
        async with made:
            await made.wait(event.id, PATIENCE)


async def test_failed_sync_cuts_what_is_in_flight(tmp_path: Path) -> None:
    """An engine whose storage has failed sends nothing on, and its attempts are made again after the next start."""
    gate = Gate()
    async with Receiver(gate) as receiver:
        made = engine(tmp_path)
        await made.start()
        await made.subscribe(receiver.url)
        event = await made.publish("order.created", {"n": 1})
        await gate.arrived()
        Faulty(made._running).error = io_error("SQLITE_IOERR_FSYNC")  # type: ignore[arg-type]  # as above
        with pytest.raises(StorageFailed):
            await made.publish("order.created", {"n": 2})
        with pytest.raises(StorageFailed):
            await made.wait_stopped()
        assert not [task for task in asyncio.all_tasks() if "Dispatcher" in repr(task)]
        gate.open()
        async with made:
            [delivery] = await made.wait(event.id, PATIENCE)

    assert ("delivered", 2) == (delivery.state, len(receiver.requests))


async def test_failed_sync_during_the_drain_is_told(tmp_path: Path) -> None:
    """A stop whose results could not be stored for good does not pretend to have been clean."""
    gate = Gate()
    async with Receiver(gate) as receiver:
        made = engine(tmp_path)
        await made.start()
        await made.subscribe(receiver.url)
        await made.publish("order.created", {"n": 1})
        await made.publish("order.created", {"n": 2}, deliver_at=datetime.now(UTC) + timedelta(hours=1))
        await gate.arrived()
        stopping = asyncio.create_task(made.stop(drain=PATIENCE))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        Faulty(made._running).error = io_error("SQLITE_IOERR_FSYNC")  # type: ignore[arg-type]  # as above
        gate.open()
        with pytest.raises(StorageFailed):
            await stopping


async def test_nothing_is_accepted_during_the_drain(tmp_path: Path) -> None:
    """While attempts end, publishing and changing are refused as stopping, and questions are answered."""
    gate = Gate()
    async with Receiver(gate) as receiver:
        made = engine(tmp_path)
        await made.start()
        sub = await made.subscribe(receiver.url)
        event = await made.publish("order.created", {"n": 1})
        await gate.arrived()
        stopping = asyncio.create_task(made.stop(drain=PATIENCE))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for refused in (made.publish("a", 1), made.disable(sub.id), made.subscribe(receiver.url)):
            with pytest.raises(Stopping):
                await refused
        assert event.id == (await made.event(event.id)).id
        gate.open()
        [delivery] = await made.wait(event.id, PATIENCE)
        await stopping

    assert "delivered" == delivery.state


# As a daemon


async def test_from_file_makes_its_folder(tmp_path: Path) -> None:
    """The data directory is its owner's alone, and the API is served with the owner's token, which stays."""
    config = tmp_path / "config.toml"
    config.write_text('[server]\nlisten = "127.0.0.1:0"\n')
    data = tmp_path / "deep" / "data"
    tokens = []
    for _ in range(2):
        async with Engine.from_file(config, data=data) as made:
            tokens.append((data / "admin.token").read_text().strip())
            answer = await asyncio.to_thread(Client(str(made.url), tokens[-1]).request, "GET", "/v1/events")
            assert [] == answer.json()["data"]

    assert tokens[0] == tokens[1]
    assert [0o700, 0o600, 0o600] == [stat.S_IMODE((data / name).stat().st_mode) for name in (".", "admin.token", "secret.key")]


async def test_from_file_without_one_has_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a file the environment and the defaults hold; a finished Config is taken as it is."""
    monkeypatch.setenv("HOOKENGINE_SERVER_LISTEN", "127.0.0.1:0")
    async with Engine.from_file(None, data=tmp_path / "a") as made:
        assert str(made.url).startswith("http://127.0.0.1:")

    assert "8700" in str(Engine.from_file(Config(), data=tmp_path / "b")._serve)


def test_from_file_says_what_is_wrong(tmp_path: Path) -> None:
    """A mistake in the file is told before anything starts, and so is a directory that cannot be made."""
    config = tmp_path / "config.toml"
    config.write_text("[delivery]\nconcurency = 3\n")
    with pytest.raises(ConfigInvalid, match="concurency"):
        Engine.from_file(config, data=tmp_path / "data")
    with pytest.raises(StartError, match="cannot be made"):
        Engine.from_file(None, data=config / "data")


async def test_requests_do_not_lead_back(tmp_path: Path) -> None:
    """The address that the engine itself serves is no receiver, under any of its names, even where loopback is allowed."""
    async with running_server(tmp_path) as served:
        assert served.url is not None
        port = served.url.rpartition(":")[2]
        for host in ("127.0.0.1", "[::ffff:127.0.0.1]"):
            with pytest.raises(Invalid) as refused:
                await served.subscribe(f"http://{host}:{port}/")
            assert ["invalid_url"] == [mistake.code for mistake in refused.value.mistakes]
        made = await served.subscribe(f"http://localhost:{port}/")
        attempt = await served.test(made.id)

    assert attempt.error is not None
    assert ("unreachable", "self_connection") == (attempt.outcome, attempt.error.code)


@asynccontextmanager
async def running_server(folder: Path) -> AsyncIterator[Engine]:
    """An engine at work that serves its API."""
    made = engine(folder, serve="127.0.0.1:0")
    await made.start()
    try:
        yield made
    finally:
        await made.stop(drain=0)
