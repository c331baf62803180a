"""A crash amid work on the database file as a whole: rows K21 to K24 of the crash matrix."""

from __future__ import annotations

import shutil
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from daemon import Daemon
from launcher import Launcher, finish
from load import EVENT, LATER, left_by
from migrating import migrated
from places import at, at_call, at_statement

from hookengine.receiver import Receiver
from hookengine.store.queries import migrations

INSERT = (
    "INSERT INTO events (seq, id, tenant, type, data, accepted_at, occurred_at, deliveries) VALUES (1, 1, 1, 1, 1, 1, 1, 0)"
)
NO_SETTING = "(?!PRAGMA (?!user_version =))"


@pytest.mark.row("K21")
@pytest.mark.row("F43")
async def test_migration(tmp_path: Path, launcher: Launcher) -> None:
    """A crash at any statement of the migrations leaves a whole file of some schema, and the next start goes on."""
    old = tmp_path / "old.db"
    newest = len(migrations())
    with closing(sqlite3.connect(old, isolation_level=None)) as db:
        db.executescript(f"{migrations()[0]} PRAGMA user_version = 1;")
        db.execute(INSERT)
    passage, versions, status = 0, set(), -1
    while status:
        passage += 1
        folder = tmp_path / str(passage)
        folder.mkdir()
        path = Path(shutil.copy(old, folder))
        order = at_statement(NO_SETTING, passage)
        status = await finish(await launcher.launch(str(path), program="migrating", faults=(order,)))
        assert status in {0, -signal.SIGKILL}
        versions.add(version_of(path))
        await migrated(path)
        assert newest == version_of(path)

    assert set(range(1, newest + 1)) == versions


def version_of(path: Path) -> int:
    """The version of the schema of a whole file that has kept its event."""
    with closing(sqlite3.connect(path)) as db:
        assert [("ok",)] == db.execute("PRAGMA integrity_check").fetchall()
        assert [(1,)] == db.execute("SELECT seq FROM events").fetchall()
        return int(db.execute("PRAGMA user_version").fetchone()[0])


@pytest.mark.parametrize(
    "place",
    [
        pytest.param(at("K22-half"), id="K22 half"),
        pytest.param(at_statement("DELETE FROM attempts"), id="K22 begun"),
        pytest.param(at_statement("DELETE FROM events", 1), id="K22 events"),
        pytest.param(at_statement("DELETE FROM statistics", 1), id="K22 last"),
    ],
)
async def test_retention(place: dict[str, Any], tmp_path: Path, launcher: Launcher) -> None:
    """A crash amid the deletion of old history leaves no half of it, and takes nothing that is unfinished."""
    events = [{"type": "order.created", "data": n} for n in range(20)]
    waiting = [each | {"deliver_at": LATER} for each in events[:5]]
    async with Receiver() as receiver, Daemon(tmp_path, launcher=launcher) as daemon:
        await daemon.subscribe(receiver.url)
        await daemon.ask("POST", "/v1/events/batch", events + waiting)
        while len((await daemon.ask("GET", "/v1/deliveries?state=delivered"))["data"]) < 20:
            pass
        await daemon.kill()
        daemon.configure(tables='[store]\nretention = "1ms"')
        await daemon.launch(place)
        assert -signal.SIGKILL == await daemon.ended()
        with left_by(daemon) as db:
            assert [(25, 25)] == db.execute("SELECT (SELECT count(*) FROM events), count(*) FROM deliveries").fetchall()
        await daemon.start()
        while len((await daemon.ask("GET", "/v1/deliveries"))["data"]) > 5:
            pass
        await daemon.kill()
        with left_by(daemon) as db:
            assert [("pending", 5)] == db.execute("SELECT state, count(*) FROM deliveries").fetchall()
            assert [(5, 0)] == db.execute("SELECT count(*), (SELECT count(*) FROM attempts) FROM events").fetchall()


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(at("K26-drained"), id="K23 before"),
        *(pytest.param(at_statement("PRAGMA wal_checkpoint", delay=ms / 1_000), id=f"{ms} ms") for ms in (0, 1, 3)),
        pytest.param(at("K23-folded"), id="K23 after"),
    ],
)
async def test_checkpoint(fault: dict[str, Any], tmp_path: Path, launcher: Launcher) -> None:
    """A crash while the WAL is folded into the file loses nothing of either."""
    events = [{"type": "order.created", "id": f"event-{n}", "data": "x" * 20_000} for n in range(100)]
    async with Daemon(tmp_path, fault, launcher=launcher) as daemon:
        await daemon.ask("POST", "/v1/events/batch", events)
        daemon.signal(signal.SIGTERM)
        assert await daemon.ended() in {-signal.SIGKILL, -signal.SIGALRM}
        with left_by(daemon) as db:
            assert [(100, 2_000_000 + 200)] == db.execute("SELECT count(*), sum(length(data)) FROM events").fetchall()
        await daemon.start()
        assert 0 == (await daemon.stop())[0]


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        pytest.param(at("K24-copied"), False, id="K24 copied"),
        pytest.param(at_call("os.(link|rename)"), False, id="K24 not named"),
        pytest.param(at("K24-named"), True, id="K24 named"),
    ],
)
async def test_backup(fault: dict[str, Any], named: bool, tmp_path: Path, launcher: Launcher) -> None:
    """A crash of a backup leaves the daemon at work and no part of a copy under the name of the whole; the next works."""
    copy = tmp_path / "copy.db"
    async with Daemon(tmp_path, launcher=launcher) as daemon:
        await daemon.ask("POST", "/v1/events", EVENT)
        command = ("backup", str(copy), "--data", str(daemon.data))
        assert -signal.SIGKILL == await finish(await launcher.launch(*command, faults=(fault,)))
        assert named == copy.exists()
        await daemon.ask("POST", "/v1/events", EVENT | {"id": "event-2"})
        assert 0 == await finish(await launcher.launch(*command, *(["--force"] if named else [])))
    with closing(sqlite3.connect(copy)) as db:
        assert [("ok",)] == db.execute("PRAGMA integrity_check").fetchall()
        assert [("event-1",), ("event-2",)] == db.execute("SELECT id FROM events ORDER BY seq").fetchall()
