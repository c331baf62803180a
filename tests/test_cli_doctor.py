"""`hookengine init` and `hookengine doctor`, against real files, the real engine, and a server whose answers a test writes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import resource
import shlex
import socket
import stat
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from patience import PATIENCE
from storage import write
from verbs import Ended, alone

from hookengine.cli import examination, main
from hookengine.cli.daemon import announced
from hookengine.cli.examination import Asked, Check, examine
from hookengine.cli.remedies import REMEDIES, remedy
from hookengine.config import Config, example, for_development
from hookengine.engine import Engine
from hookengine.models import ErrorCode
from hookengine.receiver import Received, Receiver, Reply
from hookengine.times import format_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

DATA = Path("hookengine-data")
MACHINE = ("disk", "file descriptors", "names")
NOW = 1_800_000_000_000  # 2027-01-15T08:00:00Z


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The verbs run in an empty directory."""
    alone(monkeypatch, tmp_path)


# init


def test_init_makes_what_a_daemon_needs(cli: Callable[..., Ended]) -> None:
    """Configuration, database, key and token are there and private, and the next command is said."""
    ended = cli("init", "site")
    made = {path.relative_to("site").as_posix(): stat.S_IMODE(path.stat().st_mode) for path in Path("site").rglob("*")}

    assert (0, "") == (ended.status, ended.out)
    assert {"config.toml": 0o600, "hookengine-data": 0o700} | {
        f"hookengine-data/{name}": 0o600 for name in ("hooks.db", "secret.key", "admin.token")
    } == {name: mode for name, mode in made.items() if not name.endswith(".lock")}
    assert example() == Path("site/config.toml").read_text()
    serve = shlex.split(ended.err.splitlines()[3])
    assert ["hookengine", "serve", "--config", "site/config.toml", "--data", "site/hookengine-data"] == serve
    assert "Keep a copy of secret.key" in ended.err


def test_init_here_needs_no_data_option(cli: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    """In the present directory the data are where the daemon looks; with the key in the environment there is no file of it."""
    monkeypatch.setenv("HOOKENGINE_ENCRYPTION_KEY", "A" * 43 + "=")
    ended = cli("init")

    assert "  hookengine serve --config config.toml" == ended.err.splitlines()[3]
    assert "secret.key" not in ended.err
    assert not (DATA / "secret.key").exists()


@pytest.mark.parametrize("existing", ["config.toml", "hookengine-data/hooks.db"])
def test_init_changes_nothing_that_exists(cli: Callable[..., Ended], existing: str) -> None:
    """A configuration or a database that is there is a conflict, and nothing is made beside it."""
    DATA.mkdir()
    Path(existing).write_text("precious")
    before = sorted(Path().rglob("*"))

    assert Ended(6, "", f"Error: {existing} exists, and nothing was changed\n") == cli("init")
    assert ("precious", before) == (Path(existing).read_text(), sorted(Path().rglob("*")))


def test_init_that_fails_leaves_nothing(cli: Callable[..., Ended]) -> None:
    """A folder that takes no files, and data that cannot be made, are told in a sentence, and may be tried again."""
    Path("taken").mkdir()
    (Path("taken") / DATA).touch()
    closed, taken = cli("init", "/proc/self"), cli("init", "taken")

    assert (78, 78) == (closed.status, taken.status)
    assert closed.err.startswith("Error: the data directory /proc/self/hookengine-data cannot be made: ")
    assert "the data directory taken/hookengine-data cannot be made" in taken.err
    assert [DATA.name] == [path.name for path in Path("taken").iterdir()]


# An init that gets a signal when it opens a file of that name.
SIGNALLED = """
import os, signal, sys
from hookengine.cli import main

def send(event, arguments):
    if event in {"open", "sqlite3.connect"} and os.path.basename(str(arguments[0])).startswith(sys.argv[2]):
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))

signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that run in the background ignore it
sys.addaudithook(send)
sys.exit(main(["init", "new/site"]))
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("at", ["hooks.db", "admin.token", "config.toml"])
def test_init_that_is_ended_may_be_tried_again(cli: Callable[..., Ended], name: str, at: str) -> None:
    """Whichever signal ends it, and wherever, nothing of it stays in the way of the next."""
    command = [sys.executable, "-c", SIGNALLED, name, at]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)

    assert {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129}[name] == ended.returncode, ended
    assert "Traceback" not in ended.stderr
    assert [] == list(Path().iterdir())
    assert 0 == cli("init", "new/site").status


def test_init_that_is_ended_leaves_what_is_others() -> None:
    """Only what it has made itself is taken away: files and directories of before stay."""
    (Path("new/site") / DATA).mkdir(parents=True)
    (Path("new/site") / DATA / "notes").write_text("precious")
    before = sorted(Path().rglob("*"))
    command = [sys.executable, "-c", SIGNALLED, "SIGTERM", "admin.token"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)

    assert (143, before) == (ended.returncode, sorted(Path().rglob("*"))), ended


# An init beside which somebody puts a thing of that name in its place just before it does.
QUICKER = """
import os, sys
from hookengine.cli import main

def put(event, arguments):
    if event in {"open", "os.mkdir"} and str(arguments[0]) == f"site/{sys.argv[1]}":
        os.rename(f"other/{sys.argv[1]}", f"site/{sys.argv[1]}")

sys.addaudithook(put)
sys.exit(main(["init", "site"]))
"""


@pytest.mark.parametrize(("name", "said"), [("hookengine-data", "hookengine-data/hooks.db"), ("config.toml", "config.toml")])
def test_init_changes_nothing_of_whoever_is_quicker(cli: Callable[..., Ended], name: str, said: str) -> None:
    """What another makes meanwhile is a conflict as well, and stays."""
    cli("init", "other")
    Path("site").mkdir()
    command = [sys.executable, "-c", QUICKER, name]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)

    assert (6, f"Error: site/{said} exists, and nothing was changed\n") == (ended.returncode, ended.stderr)
    assert [name] == [path.name for path in Path("site").iterdir()]
    assert (Path("site") / said).stat().st_size


# An init on a disk that is full when the configuration comes.
FULL = """
import errno, os, sys
from hookengine.cli import main

def fail(event, arguments):
    if event == "open" and str(arguments[0]) == "site/config.toml":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

sys.addaudithook(fail)
sys.exit(main(["init", "site"]))
"""


def test_init_without_space_for_the_configuration_leaves_nothing() -> None:
    """Where the last file cannot be made the others go too, and what is wrong is said in a sentence."""
    ended = subprocess.run([sys.executable, "-c", FULL], capture_output=True, text=True, timeout=PATIENCE, check=False)

    assert (1, "Error: site/config.toml cannot be made: No space left on device\n") == (ended.returncode, ended.stderr)
    assert [] == list(Path().iterdir())


# doctor: this machine


def bad(checks: list[Check] | Any) -> dict[str, Check]:
    """The checks that found something, by name, but for what is the matter of the machine that runs this."""
    return {check.name: check for check in checks if not check.ok and check.name not in MACHINE}


async def test_sound_set_up_is_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With a running daemon every check of the set-up passes, each on its line."""
    async with daemon(tmp_path):
        status = await asyncio.to_thread(main, ["doctor"])
    shown = capsys.readouterr().out.splitlines()

    # What is wrong with the machine that runs this is not what this is about.
    machine = [line for line in shown if line[2:].startswith(MACHINE)]
    assert [] == [line for line in shown if line[0] != "✓" and line not in machine]
    assert status == any(line.startswith("✗") for line in machine)
    assert ["configuration", "data directory", "files", "key", "disk", "file descriptors", "names", "clock", "daemon"] == [
        line[2:].partition(":")[0] for line in shown
    ]


def test_nothing_there_is_1(cli: Callable[..., Ended]) -> None:
    """Without data directory and daemon both are named, and what makes them; in JSON each check is an object."""
    ended = cli("doctor", "sub_1", "--json")
    found = {each["name"]: each for each in json.loads(ended.out)}

    assert (1, ["data directory", "daemon", "subscription"]) == (
        ended.status,
        [name for name, each in found.items() if not each["ok"] and name not in MACHINE],
    )
    assert "hookengine init" in found["data directory"]["advice"]
    assert not DATA.exists()


def test_advice_stands_below_what_is_wrong(cli: Callable[..., Ended]) -> None:
    """For people, what to do is a line of its own."""
    lines = cli("doctor").out.splitlines()

    assert "  `hookengine init` or `hookengine serve` makes it; another one is named with --data." == lines[2]


def test_mistakes_of_the_configuration_are_named(cli: Callable[..., Ended]) -> None:
    """Each mistake in the file is a finding, and the other checks go on."""
    Path("config.toml").write_text('[server]\nlistne = "x"\n[log]\nlevel = "loud"\n')
    lines = [line for line in cli("doctor", "--config", "config.toml").out.splitlines() if "configuration" in line]

    assert ["✗ configuration: config.toml:2 server.listne", "✗ configuration: config.toml:4 log.level"] == [
        " ".join(line.split()[:4]) for line in lines
    ]


def test_files_that_others_can_read_are_found(tmp_path: Path) -> None:
    """Directory and files that are open to others are named, with the command that closes them."""
    tmp_path.chmod(0o755)
    (tmp_path / "secret.key").touch(0o600)
    (tmp_path / "hooks.db").touch(0o644)
    (tmp_path / "hooks.db").chmod(0o644)
    found = bad(examination.directory(tmp_path))

    assert (f"chmod 700 {tmp_path}", f"chmod 600 {tmp_path}/hooks.db") == (
        found["data directory"].advice,
        found["files"].advice,
    )
    assert "open to others: hooks.db" == found["files"].detail


def test_directory_of_another_user_is_found(tmp_path: Path) -> None:
    """A directory that cannot be written is told; an empty private one is fine."""
    assert [True] == [check.ok for check in examination.directory(private(tmp_path / "mine"))]
    assert "may not write" in bad(examination.directory(Path("/proc/self")))["data directory"].detail


def private(folder: Path) -> Path:
    """A new directory for nobody else."""
    folder.mkdir(mode=0o700)
    return folder


async def test_key_and_database_are_tried(tmp_path: Path) -> None:
    """A key that does not fit, a newer database and a damaged one each have their words."""
    async with daemon(tmp_path):
        pass
    path = tmp_path / DATA / "hooks.db"
    checks = [examination.database(path, None)[0], examination.database(path, "A" * 43 + "=")[0]]
    write(path, "PRAGMA user_version = 99")
    checks.append(examination.database(path, None)[0])
    path.write_bytes(b"x" * 4096)
    checks.append(examination.database(path, None)[0])

    assert [("key", True), ("key", False), ("database", False), ("database", False)] == [
        (check.name, check.ok) for check in checks
    ]
    assert ["Put the key", "", "`hookengine"] == [
        " ".join(check.advice.split()[: len(want.split())])
        for check, want in zip(checks[1:], ["Put the key", "", "`hookengine"], strict=True)
    ]


def test_disk_is_measured_where_the_data_will_be(tmp_path: Path) -> None:
    """The space is that of the nearest directory that exists; of a database that a link leads to, that of its own."""
    asked: list[Path] = []

    def usage(path: Path) -> tuple[int, int, int]:
        asked.append(path)
        return 8 << 30, 0, 1 << 30

    check = examination.disk(tmp_path / "a" / "b", usage)
    linked, real = private(tmp_path / "linked"), private(tmp_path / "real")
    (real / "real.db").touch()
    (linked / "hooks.db").symlink_to(real / "real.db")
    examination.disk(linked, usage)
    (linked / "hooks.db").unlink()
    (linked / "hooks.db").symlink_to("hooks.db")
    examination.disk(linked, usage)

    assert (True, "1.0 GiB free", [tmp_path, real, linked]) == (check.ok, check.detail, asked)


@pytest.mark.parametrize(
    ("total", "free", "words"),
    [
        pytest.param(8 << 30, 400 << 20, "Below 256.0 MiB nothing is accepted: ", id="soon"),
        pytest.param(8 << 30, 200 << 20, "Nothing is accepted: ", id="now"),
        pytest.param(1 << 30, 200 << 20, "Below 51.2 MiB nothing is accepted: ", id="soon on a small disk"),
        pytest.param(1 << 30, 50 << 20, "Nothing is accepted: ", id="now on a small disk"),
    ],
)
def test_little_space_is_told_by_what_it_leads_to(tmp_path: Path, total: int, free: int, words: str) -> None:
    """That nothing is accepted is said where the engine's own limit is passed, and before that what the limit is."""
    check = examination.disk(tmp_path, lambda _: (total, total - free, free))

    assert not check.ok
    assert check.advice.startswith(words)


def test_file_descriptors_are_counted() -> None:
    """The limit has to cover all attempts and what else is open; without a limit there is enough."""
    found = [examination.descriptors(limit, 256) for limit in (255, 983, 984, resource.RLIM_INFINITY)]

    assert [False, False, True, True] == [check.ok for check in found]
    assert "Raise it to 984" in found[0].advice


def test_limit_is_that_of_the_daemon(tmp_path: Path) -> None:
    """A process's own limit is read from the system; without a daemon, or such a file, it is ours."""
    ours = resource.getrlimit(resource.RLIMIT_NOFILE)[0]

    assert [ours, ours, ours] == [examination.open_files_limit(pid) for pid in (None, os.getpid(), -1)]
    (tmp_path / "daemon.json").write_text('{"pid": 7}')
    assert (7, None) == (examination.daemon_pid(tmp_path), examination.daemon_pid(tmp_path / "none"))


@pytest.mark.parametrize(
    ("addresses", "ok"), [(["127.0.0.1", "::1"], True), (["::1%lo"], True), (["192.0.2.1"], False), ([], False), (None, False)]
)
def test_localhost_leads_to_this_machine(addresses: list[str] | None, *, ok: bool) -> None:
    """Only loopback addresses are right, and a lookup that fails is told."""

    def lookup(*_: Any, **__: Any) -> list[Any]:
        if addresses is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(None, None, None, "", (address, 80)) for address in addresses]

    assert ok == examination.resolver(lookup).ok


@pytest.mark.parametrize(
    ("newest", "server", "expected"),
    [
        (None, None, None),
        (NOW - 1000, NOW + 30_000, None),
        (NOW + 120_000, None, "the last event was accepted at 2027-01-15T08:02:00.000Z"),
        (None, NOW - 61_000, "the server's says 2027-01-15T07:58:59.000Z"),
    ],
)
def test_clock_is_compared(newest: int | None, server: int | None, expected: str | None) -> None:
    """A clock that went back, or differs from the server's, is not right."""
    check = examination.clock(NOW, newest, server)

    assert (expected is None) == check.ok
    assert (expected or "") in check.detail
    assert not examination.clock(0, None, None).ok


# doctor: the daemon and a subscription


@asynccontextmanager
async def daemon(folder: Path, config: Config | None = None) -> AsyncIterator[Engine]:
    """A daemon on ./hookengine-data, which has announced itself."""
    config = for_development(config or Config())
    engine = Engine(private(folder / DATA) / "hooks.db", config=config, serve="127.0.0.1:0")
    async with engine:
        with announced(folder / DATA, str(engine.url)):
            yield engine


async def checks(folder: Path, *, subscription: str | None, url: str | None = None, file: Path | None = None) -> list[Check]:
    """What doctor finds."""
    asked = Asked(file=file, data=folder / DATA, url=url, token="hkt_x" if url else None, subscription=subscription, dev=True)
    return await asyncio.to_thread(lambda: list(examine(asked)))


async def test_healthy_subscription_has_nothing_wrong(tmp_path: Path) -> None:
    """A subscription that has nothing to do, and one that succeeded, pass every check."""
    async with daemon(tmp_path) as engine, Receiver() as receiver:
        made = await engine.subscribe(receiver.url)
        idle = await checks(tmp_path, subscription=made.id)
        event = await engine.publish("order.created", {})
        await engine.wait(event.id, timeout=10)
        busy = await checks(tmp_path, subscription=made.id)

    assert ({}, {}) == (bad(idle), bad(busy))
    assert ["URL", "profile", "state", "failures", "next attempt"] == [check.name for check in busy[-5:]]
    assert ("nothing was sent yet", "none; it last succeeded") == (idle[-2].detail, busy[-2].detail[:23])
    assert "nothing is pending" == busy[-1].detail


async def test_what_a_batch_gathers_is_pending(tmp_path: Path) -> None:
    """An event that waits for others to share its request is told of, though no time is set for it yet."""
    async with daemon(tmp_path) as engine, Receiver() as receiver:
        made = await engine.subscribe(receiver.url, profile="clevertap", batch={"max_events": 2, "max_wait": "1h"})
        await engine.publish("rating.low", {})
        found = await checks(tmp_path, subscription=made.id)

    assert {} == bad(found)
    assert found[-1].detail.startswith("1 pending, waiting for a batch ")


async def test_failing_subscription_is_explained(tmp_path: Path) -> None:
    """The run of failures, the last answers with what to do, and the next attempt are told."""
    async with daemon(tmp_path) as engine, Receiver(401) as receiver:
        made = await engine.subscribe(receiver.url)
        await engine.publish("order.created", {})
        async with asyncio.timeout(10):
            while not (await engine.subscription(made.id)).consecutive_failures:
                await engine.events(limit=1)  # which lets the loop go on
        found = await checks(tmp_path, subscription=made.id)
    wrong = bad(found)

    assert ["failures", "failure"] == list(wrong)
    assert "1 running, and it never succeeded" == wrong["failures"].detail
    assert "order.created at " in wrong["failure"].detail
    assert "401 in " in wrong["failure"].detail
    assert "other credentials" in wrong["failure"].advice
    assert found[-1].detail.startswith("1 pending, the next in ")


async def test_failures_behind_newer_deliveries_are_explained(tmp_path: Path) -> None:
    """Where more newer ones wait than are looked at, it is told how many attempts failed in which way, and what to do."""
    async with daemon(tmp_path) as engine, Receiver(401) as receiver:
        made = await engine.subscribe(receiver.url, disable_after_failures=3)
        await engine.publish_batch([{"type": "order.created", "data": n} for n in range(3)])
        async with asyncio.timeout(PATIENCE):
            while (await engine.subscription(made.id)).state != "disabled":
                await engine.events(limit=1)  # which lets the loop go on
        await engine.publish_batch([{"type": "order.created", "data": n} for n in range(60)])
        wrong = bad(await checks(tmp_path, subscription=made.id))

    assert ["state", "failures", "failure"] == list(wrong)
    assert wrong["failure"].detail.startswith("401 in 3 of 3 attempts since ")
    assert "other credentials" in wrong["failure"].advice


@pytest.mark.parametrize(
    ("codes", "statuses", "expected"),
    [
        pytest.param(
            {"http_status": 5, "timeout_response": 7},
            {"200": 90, "500": 4, "404": 1},
            [("timeout_response in 7", "takes too long"), ("500 in 4", "its log says why"), ("404 in 1", "at this path")],
            id="most first",
        ),
        pytest.param(
            {"http_status": 1, "redirect_not_followed": 2, "reset": 3, "self_connection": 4},
            {"301": 2, "404": 1},
            [
                ("self_connection in 4", "this server"),
                ("reset in 3", "cut it off"),
                ("redirect_not_followed in 2", "leads to"),
            ],
            id="three at most",
        ),
        pytest.param({"http_status": 2}, {"200": 2}, [("http_status in 2", "its log says why")], id="refused with 200"),
        pytest.param({"reset": 1}, {"409": 5}, [("reset in 1", "cut it off")], id="accepted with 409"),
    ],
)
def test_failures_are_counted(codes: dict[str, int], statuses: dict[str, int], expected: list[tuple[str, str]]) -> None:
    """A refusal goes by its status, and all else by its code: the most frequent first, each with what to do."""
    attempts = {"total": 99, "status_codes": statuses, "error_codes": codes}
    found = examination.counted_failures({"since": "2027-01-15T08:00:00.000Z", "attempts": attempts})

    assert [f"{words} of 99 attempts since 2027-01-15T08:00:00.000Z" for words, _ in expected] == [
        each.detail for each in found
    ]
    assert all(advice in each.advice for (_, advice), each in zip(expected, found, strict=True))


async def test_what_the_rate_limit_holds_back_does_not_go_now(tmp_path: Path) -> None:
    """An event that is due, and waits for the limit, is said to wait for that."""
    async with daemon(tmp_path) as engine, Receiver() as receiver:
        made = await engine.subscribe(receiver.url, rate_limit="1/m")
        await engine.wait((await engine.publish("order.created", {})).id, timeout=PATIENCE)
        await engine.publish("order.created", {})
        found = await checks(tmp_path, subscription=made.id)

    assert {} == bad(found)
    assert re.fullmatch(r"1 pending, the next in [0-9.]+ s at the earliest: .*its rate limit.*", found[-1].detail)


@pytest.mark.parametrize(
    ("due", "more", "resumes_in", "gathers", "expected"),
    [
        ([300, 600, None], False, None, False, ", the next in 5 min"),
        ([-5], False, None, False, ", the next now"),
        ([-5, 300], False, 240, False, ", the next in 4 min at the earliest"),
        ([300], False, 240, False, ", the next in 5 min"),
        # There are older ones than these.
        ([300], True, None, False, ""),
        ([300], True, 240, False, ", the next in 4 min at the earliest"),
        ([-5, 300], True, None, False, ", the next now"),
        ([None], True, None, True, ""),
        ([None], True, 240, False, ", the next in 4 min at the earliest"),
        # Nothing has a time.
        ([None], False, None, True, ", waiting for a batch to be full, or to have waited long enough"),
        ([None], False, None, False, ", waiting for their turn"),
    ],
)
def test_next_attempt_is_told_as_far_as_it_is_known(
    due: list[int | None], more: bool, resumes_in: int | None, gathers: bool, expected: str
) -> None:
    """It is the first of those that wait, but not before the subscription goes on; nothing is said for those not looked at."""
    page = {"data": [{"next_attempt_at": after(each)} for each in due], "next_cursor": "more" if more else None}
    when = examination.next_attempt(page, after(resumes_in), gathers=gathers, now=NOW)

    assert expected == when.partition(":")[0]


def after(seconds: int | None) -> str | None:
    """The time so long after NOW."""
    return None if seconds is None else format_time(NOW + seconds * 1000)


async def test_disabled_subscription_says_why(tmp_path: Path) -> None:
    """The reason is in words, with the command that enables it; a URL that the configuration forbids is named."""
    async with daemon(tmp_path) as engine:
        made = await engine.subscribe("http://127.0.0.1:9000")
        await engine.disable(made.id)
        asked = Asked(file=None, data=tmp_path / DATA, url=None, token=None, subscription=made.id, dev=False)
        wrong = bad(await asyncio.to_thread(lambda: list(examine(asked))))

    assert ["URL", "state"] == list(wrong)
    assert "must start with https://" in wrong["URL"].detail
    assert "disabled: it was disabled by hand" == wrong["state"].detail
    assert f"hookengine subscription enable {made.id}" in wrong["state"].advice


async def test_profile_that_is_not_configured_is_found(tmp_path: Path) -> None:
    """A subscription whose profile this configuration does not have waits: with the daemon's own it is known."""
    tables: Any = {"acme": {"extends": "github"}}
    async with daemon(tmp_path, Config(profiles=tables)) as engine:
        made = await engine.subscribe("http://127.0.0.1:9000", profile="acme", secret="s")
        wrong = bad(await checks(tmp_path, subscription=made.id))
        file = tmp_path / "config.toml"
        file.write_text('[profiles.acme]\nextends = "github"\n')
        right = bad(await checks(tmp_path, subscription=made.id, file=file))

    assert {} == right
    assert ["profile"] == list(wrong)
    assert "there is no profile acme" == wrong["profile"].detail
    assert "name it with --config" in wrong["profile"].advice


async def test_what_keeps_all_back_is_found(tmp_path: Path) -> None:
    """Where no request can be made, because there is no secret for instance, what is pending waits for that."""
    unsigned: Any = {"acme": {"extends": "github", "signatures": []}}
    private(tmp_path / DATA)
    config = for_development(Config(profiles=unsigned))
    async with Engine(tmp_path / DATA / "hooks.db", config=config) as engine:
        made = await engine.subscribe("http://127.0.0.1:9000", profile="acme")
    file = tmp_path / "config.toml"
    file.write_text('[profiles.acme]\nextends = "github"\n')
    signed: Any = {"acme": {"extends": "github"}}
    config = for_development(Config(profiles=signed))
    async with Engine(tmp_path / DATA / "hooks.db", config=config, serve="127.0.0.1:0") as engine:
        with announced(tmp_path / DATA, str(engine.url)):
            await engine.publish("order.created", {"n": 1})
            wrong = bad(await checks(tmp_path, subscription=made.id, file=file))

    assert ["next attempt"] == list(wrong)
    assert "1 pending, none goes: it has no secret, rotate it" == wrong["next attempt"].detail


async def test_unknown_subscription_is_5(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong id is told after the other checks."""
    async with daemon(tmp_path):
        status = await asyncio.to_thread(main, ["doctor", "sub_1"])
    ended = capsys.readouterr()

    assert (5, "Error: No subscription has this id.\n") == (status, ended.err)
    assert "✓ daemon" in ended.out


@pytest.mark.parametrize(
    ("status", "expected"),
    [(401, "the token is not known: no"), (403, "may not read"), (503, "it is not ready: no"), (418, "it refused: no")],
)
async def test_server_that_refuses_is_explained(tmp_path: Path, status: int, expected: str) -> None:
    """A server elsewhere is asked with the token that was given; this machine's files are then left out."""
    async with Receiver(Reply(status=status, body=b'{"detail": "no"}')) as server:
        found = await checks(tmp_path, subscription=None, url=server.url)

    assert ["configuration", "names", "clock", "daemon"] == [check.name for check in found]
    assert expected in found[-1].detail


async def test_server_that_is_not_ready_says_why(tmp_path: Path) -> None:
    """The reason that /readyz gives is shown."""
    async with Receiver(Reply(status=503, body=b'{"status": "unavailable", "reason": "the disk is full"}')) as server:
        found = await checks(tmp_path, subscription=None, url=server.url)

    assert "it is not ready: the disk is full" == found[-1].detail


async def test_server_that_is_down_or_no_url_is_told(tmp_path: Path) -> None:
    """No answer, and an address that cannot be one, are findings and no errors."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    down = await checks(tmp_path, subscription=None, url=f"http://127.0.0.1:{port}")
    wrong = await checks(tmp_path, subscription=None, url="ftp://127.0.0.1")

    assert [False, False] == [down[-1].ok, wrong[-1].ok]
    assert "is not reached" in down[-1].detail


async def test_clock_of_the_server_is_read(tmp_path: Path) -> None:
    """A server whose date is far off is found; one without a date that can be read is not judged."""
    headers = {"sound": "x", "off": "Thu, 01 Jan 2026 00:00:00 GMT"}
    oks = {}
    for name, date in headers.items():
        async with Receiver(Reply(headers=(("Date", date),), body=b"{}")) as server:
            found = await checks(tmp_path, subscription=None, url=server.url)
            oks[name] = {check.name: check.ok for check in found}["clock"]

    assert {"sound": True, "off": False} == oks


async def test_only_endpoint_failures_are_shown(tmp_path: Path) -> None:
    """An attempt that a stop cut is no failure of the endpoint, and a long list says that there is more."""
    delivery = {
        "id": "dlv_1",
        "event": "evt_1",
        "state": "pending",
        "attempt_count": 1,
        "type": "a.b",
        "next_attempt_at": None,
    }
    answers: dict[str, Any] = {
        "/readyz": {},
        "/v1/subscriptions": {},
        "/v1/subscriptions/sub_1": {
            "id": "sub_1",
            "tenant": "default",
            "url": "http://127.0.0.1:9000",
            "profile": "github",
            "state": "active",
            "consecutive_failures": 2,
            "last_success_at": "2027-01-15T08:00:00Z",
        },
        "/v1/deliveries": {
            "data": [delivery, delivery | {"next_attempt_at": "2999-01-15T08:00:00Z"}],
            "next_cursor": "more",
        },
        "/v1/events/evt_1/explain": {"subscriptions": [{"reason": "Its event type * takes in a.b; the delivery is pending."}]},
        "/v1/deliveries/dlv_1": {"attempts": [{"outcome": "interrupted"}]},
        "/v1/subscriptions/sub_1/stats": {
            "since": "2027-01-15T07:00:00Z",
            "attempts": {"total": 0, "status_codes": {}, "error_codes": {}},
            "resumes_at": None,
        },
    }

    def reply(request: Received) -> Reply:
        return Reply(body=json.dumps(answers[request.path.partition("?")[0]]).encode())

    async with Receiver(reply) as server:
        found = await checks(tmp_path, subscription="sub_1", url=server.url)

    assert ["URL", "profile", "state", "failures", "next attempt"] == [check.name for check in found[-5:]]
    assert "2 running, since it last succeeded, at 2027-01-15T08:00:00Z" == found[-2].detail
    assert "2 or more pending" == found[-1].detail


# What to do about a failure.


def test_every_error_code_has_a_remedy() -> None:
    """Whatever an attempt reports, there is a sentence on what to do."""
    assert {code.value for code in ErrorCode} == set(REMEDIES)


def test_remedy_looks_at_the_status() -> None:
    """A status that says more has words of its own."""
    refused = {"status_code": 404, "error": {"code": "http_status"}}

    assert "at this path" in remedy(refused)
    assert REMEDIES["http_status"] == remedy(refused | {"status_code": 500})
    assert REMEDIES["reset"] == remedy({"error": {"code": "reset"}})
    assert "" == remedy({})
