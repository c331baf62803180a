"""`hookengine backup` and `hookengine db`, on real files, while a daemon has them and when none does."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from patience import PATIENCE
from storage import DAY, DELIVERED, SetClock, draft, opened, result, rows, write
from storage import files as stored
from verbs import Ended, Terminal, alone

from hookengine import engine as engines
from hookengine.cli import files, main
from hookengine.cli.progress import progress
from hookengine.clock import Clock
from hookengine.engine import Engine
from hookengine.errors import KeyUnusable
from hookengine.store import inspection
from hookengine.store.queries import migrations

if TYPE_CHECKING:
    from collections.abc import Callable

DATA = Path("hookengine-data")


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The verbs run in an empty directory."""
    alone(monkeypatch, tmp_path)


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    """A data directory with one event delivered forty days ago, as a daemon has left it."""
    folder = tmp_path / DATA
    folder.mkdir()
    clock = SetClock(Clock().now() - 40 * DAY)
    async with opened(folder, clock=clock) as place:
        await place.subscribe()
        [delivery] = await place.deliver(draft(data=b'"%s"' % (b"x" * 100_000)))
        await place.record(result(delivery, DELIVERED, at=clock.time))
    return folder


@pytest.fixture
async def crashed(tmp_path: Path) -> Path:
    """A data directory with one event, which is in the WAL only, as a daemon has left it that was killed."""
    (tmp_path / "running").mkdir()
    folder = tmp_path / DATA
    folder.mkdir(mode=0o700)
    async with opened(tmp_path / "running") as place:
        await place.publish()
        for name, content in stored(tmp_path / "running").items():
            (folder / name).write_bytes(content)
    (folder / "hooks.db.lock").write_bytes(b"")
    return folder


def test_database_has_the_engines_name() -> None:
    """What the verbs look for is what the engine makes."""
    assert engines.DATABASE == files.DATABASE


@pytest.mark.parametrize("verb", [["backup", "out.db"], ["db", "info"], ["db", "check"], ["db", "prune"]])
def test_no_database_is_status_5(cli: Callable[..., Ended], verb: list[str]) -> None:
    """Where there is no database nothing is made, and what would make one is named."""
    ended = cli(*verb)

    assert (5, "") == (ended.status, ended.out)
    assert "Error: hookengine-data holds no database: `hookengine init` or `hookengine serve` makes one" in ended.err
    assert [] == list(Path().iterdir())


def test_database_that_cannot_be_read_is_status_4(cli: Callable[..., Ended]) -> None:
    """A name that leads nowhere is told as that."""
    DATA.mkdir()
    (DATA / "hooks.db").symlink_to("hooks.db")

    assert Ended(4, "", "Error: hookengine-data/hooks.db cannot be read by this user\n") == cli("db", "info")


@pytest.mark.parametrize(
    ("verb", "status", "of_empty"),
    [
        (["db", "info"], 5, 1),
        (["db", "check"], 5, 1),
        (["db", "prune", "--older-than", "1d", "--yes"], 5, 78),
        (["backup", "out.db"], 5, 1),
        (["doctor"], 1, 1),
        (["serve", "--listen", "127.0.0.1:0"], 78, 78),
        (["init"], 78, 6),
    ],
)
def test_what_a_database_left_is_kept(
    cli: Callable[..., Ended], crashed: Path, verb: list[str], status: int, of_empty: int
) -> None:
    """Where its WAL is there and the database is not, or is empty, no verb loses anything; put back, all is there again."""
    database = crashed / "hooks.db"
    database.rename("away.db")
    before = stored(crashed)
    ended = [cli(*verb)]
    assert before == stored(crashed)
    database.touch()
    ended.append(cli(*verb))

    assert [status, of_empty] == [each.status for each in ended]
    words = [f"{DATA}/hooks.db {what}, but there is " for what in ("is not there", "is empty")]
    assert [True, verb != ["init"]] == [each in ended.out + ended.err for each, ended in zip(words, ended, strict=True)]
    assert "docs/backup.md" not in ended[1].out
    assert before | {"hooks.db": b""} == stored(crashed)
    Path("away.db").replace(database)
    assert [(1,)] == rows(database, "SELECT count(*) FROM events")


# backup


@pytest.mark.usefixtures("data")
def test_backup_says_that_it_holds_no_key(cli: Callable[..., Ended]) -> None:
    """The copy is made, and the person hears that the key is to be kept apart."""
    ended = cli("backup", "out.db")

    assert (0, "") == (ended.status, ended.out)
    assert re.search(
        r"out\.db is made, \d+\.\d KiB\.\n.*does not hold the key\. Without hookengine-data/secret\.key", ended.err
    )


@pytest.mark.usefixtures("data")
def test_backup_in_json(cli: Callable[..., Ended]) -> None:
    """For programs, the copy's path and size."""
    found = json.loads(cli("backup", "out.db", "--json").out)

    assert {"path": "out.db", "size": Path("out.db").stat().st_size} == found


@pytest.mark.usefixtures("data")
def test_backup_does_not_overwrite_unless_told(cli: Callable[..., Ended]) -> None:
    """What exists is a conflict, 6; --force replaces a file but no directory."""
    Path("out.db").write_bytes(b"precious")
    refused = cli("backup", "out.db")
    kept = Path("out.db").read_bytes()

    assert (6, "Error: out.db exists; --force replaces a file\n", b"precious") == (refused.status, refused.err, kept)
    assert 0 == cli("backup", "out.db", "--force").status
    assert "Error: . is a directory: name a file in it\n" == cli("backup", ".", "--force").err


# A backup that gets a signal when all is copied, but has no name yet.
SIGNALLED = """
import os, signal, sys
from hookengine.cli import main

def send(event, _):
    if event == "os.link":
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))

signal.signal(signal.SIGHUP, getattr(signal, sys.argv[2]))
sys.addaudithook(send)
sys.exit(main(["backup", "out.db"]))
"""


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize(
    ("name", "handling", "status", "made"),
    [
        ("SIGINT", "SIG_DFL", 130, False),
        ("SIGTERM", "SIG_DFL", 143, False),
        ("SIGHUP", "SIG_DFL", 129, False),
        pytest.param("SIGHUP", "SIG_IGN", 0, True, id="as nohup has it"),
    ],
)
def test_backup_that_is_ended_leaves_nothing(name: str, handling: str, status: int, *, made: bool) -> None:
    """Whoever ends it, by which signal ever, finds no half copy, and the exit status that a shell expects."""
    command = [sys.executable, "-c", SIGNALLED, name, handling]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)

    assert (status, "") == (ended.returncode, ended.stdout), ended
    assert "Traceback" not in ended.stderr
    assert ["out.db"] * made == [path.name for path in Path().glob("out.db*")]


@pytest.mark.row("F44")
async def test_backup_of_a_running_daemon_is_restored_with_its_key(tmp_path: Path) -> None:
    """As docs/backup.md says: an engine starts on the copy with the key beside it, and is refused with 78 without."""
    original, restored = tmp_path / DATA, tmp_path / "restored"
    restored.mkdir()
    async with Engine.from_file(None, data=original) as engine:
        made = await engine.subscribe("https://example.com/hook")
        assert 0 == await asyncio.to_thread(main, ["backup", str(restored / "hooks.db")])
    with pytest.raises(KeyUnusable) as refused:
        await Engine.from_file(None, data=restored).start()
    (restored / "secret.key").write_bytes((original / "secret.key").read_bytes())

    assert 78 == refused.value.exit_status
    async with Engine.from_file(None, data=restored) as again:
        assert made.id == (await again.subscription(made.id)).id
        assert made.secret == (await again.secret(made.id)).secret


# db info and check


@pytest.mark.usefixtures("data")
def test_info_counts_what_is_there(cli: Callable[..., Ended]) -> None:
    """Members first, then a line for each table and each state."""
    lines = [line.split("\t") for line in cli("db", "info").out.splitlines()]

    assert [["path", "hookengine-data/hooks.db"], ["schema_version", str(len(migrations()))]] == lines[:2]
    assert [["wal_size", "0 B"], ["oldest_pending", ""]] == [
        line for line in lines if line[0] in {"wal_size", "oldest_pending"}
    ]
    assert ["events", "", "1"] in lines
    assert ["deliveries", "delivered", "1"] in lines
    assert ["subscriptions", "active", "1"] in lines


async def test_info_in_json_while_a_daemon_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same as one object, of a file in use; times are RFC 3339."""
    async with Engine.from_file(None, data=tmp_path / DATA) as engine:
        await engine.publish("order.created", {})
        capsys.readouterr()
        assert 0 == await asyncio.to_thread(main, ["db", "info", "--json"])
        found = json.loads(capsys.readouterr().out)

    assert (1, {}, None) == (found["rows"]["events"], found["deliveries"], found["oldest_pending"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", found["newest_event"])
    assert found["wal_size"] > 0


@pytest.mark.usefixtures("data")
def test_check_of_a_sound_file_is_0(cli: Callable[..., Ended]) -> None:
    """Each check that passes has its line."""
    assert Ended(0, "✓ integrity\n✓ references\n✓ key\n✓ subscriptions\n✓ tenants\n", "") == cli("db", "check")


@pytest.mark.usefixtures("data")
def test_check_says_what_is_wrong(cli: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that does not fit is exit 1, with its words below the check; the key in the environment is the one that counts."""
    monkeypatch.setenv("HOOKENGINE_ENCRYPTION_KEY", "A" * 43 + "=")
    ended, as_json = cli("db", "check"), cli("db", "check", "--json")

    assert (1, "✗ key") == (ended.status, ended.out.splitlines()[2])
    assert ended.out.splitlines()[3].startswith("  the encryption key does not open this database")
    assert (1, ["integrity", "references", "key"]) == (as_json.status, [each["check"] for each in json.loads(as_json.out)])


def test_check_of_an_older_file_says_so(cli: Callable[..., Ended], data: Path) -> None:
    """A file that the next start brings up to date is sound, and that it does is a line, and a note for programs."""
    write(data / "hooks.db", f"PRAGMA user_version = {len(migrations()) - 1}")
    ended, as_json = cli("db", "check"), json.loads(cli("db", "check", "--json").out)
    note = f"version {len(migrations()) - 1}, brought up to date at the next start"

    assert (0, f"✓ schema {note}") == (ended.status, ended.out.splitlines()[0])
    assert [{"check": "schema", "problems": [], "note": note}, {"check": "integrity", "problems": [], "note": ""}] == as_json[
        :2
    ]


def test_other_file_is_told_in_a_sentence(cli: Callable[..., Ended]) -> None:
    """A file that is no database ends with 1 and no traceback."""
    DATA.mkdir()
    (DATA / "hooks.db").write_bytes(b"x" * 4096)
    ended = cli("db", "check")

    assert Ended(1, "", "Error: hookengine-data/hooks.db cannot be read: file is not a database\n") == ended


# db prune


def test_prune_deletes_what_the_retention_lets_go(cli: Callable[..., Ended], data: Path) -> None:
    """By the configuration nothing younger than its retention goes; what is older does, and the file is smaller."""
    config = Path("config.toml")
    config.write_text('[store]\nretention = "50d"\n')
    kept = json.loads(cli("db", "prune", "--json", "--config", str(config)).out)
    size = (data / "hooks.db").stat().st_size
    config.write_text("")
    done = cli("db", "prune", "--config", str(config))

    assert {"deliveries": 0, "events": 0, "freed": 0} == kept
    assert re.fullmatch(r"1 deliveries and 1 events are deleted; the file is \d+\.\d KiB smaller\.\n", done.err)
    assert (data / "hooks.db").stat().st_size < size
    assert {} == inspection.summary(data / "hooks.db").deliveries


@pytest.mark.usefixtures("data")
def test_prune_by_age_asks_a_person(cli: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    """A time of one's own is asked about at a terminal, with the count; --yes does not ask."""
    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    refused = cli("db", "prune", "--older-than", "1d")
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    nothing = cli("db", "prune", "--older-than", "365d")
    done = json.loads(cli("db", "prune", "--older-than", "1d", "--yes", "--json").out)

    assert (1, "Delete 1 deliveries that ended more than 1d ago? [y/N]: ") == (refused.status, refused.err.rstrip("\n"))
    assert 0 == nothing.status
    assert 1 == done["deliveries"]


@pytest.mark.usefixtures("data")
def test_prune_by_the_default_is_confirmed(cli: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing names the daemon's retention, which may be longer, a person is asked, and a program needs --yes."""
    refused = cli("db", "prune")
    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    asked = cli("db", "prune")
    monkeypatch.setenv("HOOKENGINE_STORE_RETENTION", "365d")
    kept = json.loads(cli("db", "prune", "--json").out)
    monkeypatch.delenv("HOOKENGINE_STORE_RETENTION")
    done = json.loads(cli("db", "prune", "--yes", "--json").out)

    words = (
        "1 deliveries that ended more than 30d ago, which is the default of store.retention: --config names the daemon's file"
    )
    assert 2 == refused.status
    assert f"Error: --yes is needed to delete {words}\n" in refused.err
    assert (1, f"Delete {words}? [y/N]: ") == (asked.status, asked.err.rstrip("\n"))
    assert (0, 1) == (kept["deliveries"], done["deliveries"])


async def test_prune_leaves_a_running_daemon_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """While a daemon owns the file it is 75."""
    async with Engine.from_file(None, data=tmp_path / DATA):
        status = await asyncio.to_thread(main, ["db", "prune", "--yes"])

    assert 75 == status
    assert "is in use by pid" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "status"),
    [(["db", "prune", "--older-than", "long"], 2), (["db", "prune", "--config", "none.toml"], 78), (["db"], 2)],
)
def test_usage_and_configuration(cli: Callable[..., Ended], argv: list[str], status: int) -> None:
    """A wrong duration is 2, a configuration that cannot be read 78."""
    assert status == cli(*argv).status


# Progress


def test_short_work_shows_no_progress() -> None:
    """Within a second nothing is shown, on a terminal or elsewhere."""
    for stream in (Terminal(), Terminal()):
        with redirect_stderr(stream), progress("working", SetClock()) as advance:
            advance(1, 2)

        assert "" == stream.getvalue()


def test_long_work_shows_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a second there is a bar on stderr, and it is taken away at the end."""
    monkeypatch.setenv("TERM", "xterm")
    clock, out, err = SetClock(), Terminal(), Terminal()
    with redirect_stdout(out), redirect_stderr(err), progress("working", clock) as advance:
        clock.time += 1000
        advance(1, 4)
        advance(2, 4)

    assert "" == out.getvalue()
    assert "working" in err.getvalue()


def test_long_work_says_a_line_now_and_then_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal there is a line every five seconds, with the share where that is known."""
    clock = SetClock()
    with progress("working", clock) as advance:
        for step, done in enumerate((0, 0, 25, 50, 75)):
            clock.time += 2500
            advance(done, 0 if step == 4 else 100)

    assert "working: 0 %\nworking: 25 %\nworking …\n" == capsys.readouterr().err


def test_sizes_have_units() -> None:
    """Bytes are shown in the unit that makes them short."""
    assert ["0 B", "1023 B", "1.0 KiB", "1.5 MiB", "4.0 GiB", "2048.0 TiB"] == [
        files.size(count) for count in (0, 1023, 1024, 3 << 19, 4 << 30, 1 << 51)
    ]


@pytest.mark.usefixtures("data")
@pytest.mark.parametrize(
    "name",
    [
        "secret.key",
        "admin.token",
        "daemon.json",
        "hooks.db-wal",
        "hooks.db-shm",
        "hooks.db.lock",
        "hooks.db.reserve",
        "hooks.db",
    ],
)
def test_backup_replaces_nothing_of_the_engines(cli: Callable[..., Ended], name: str) -> None:
    """Whatever the engine keeps beside the database stays, also with --force."""
    before = {file: file.read_bytes() for file in DATA.iterdir() if file.name in {"secret.key", "admin.token", "hooks.db"}}
    ended = cli("backup", str(DATA / name), "--force")

    assert 6 == ended.status, ended
    assert before == {file: file.read_bytes() for file in before}


@pytest.mark.usefixtures("data")
def test_backup_replaces_files_only(cli: Callable[..., Ended]) -> None:
    """A pipe, or a link to something, is not what --force replaces; a place that cannot be is told in a sentence."""
    os.mkfifo("pipe")
    Path("link").symlink_to("elsewhere")
    Path("file").write_bytes(b"")
    for name, status in (("pipe", 6), ("link", 6), ("file/x", 1), ("x" * 250, 1)):
        ended = cli("backup", name, "--force")
        assert (status, True) == (ended.status, ended.err.startswith("Error: ")), ended

    assert [True, True, 0] == [Path("pipe").is_fifo(), Path("link").is_symlink(), Path("file").stat().st_size]
