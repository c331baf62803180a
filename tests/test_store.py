"""The store as a whole: opened, owned, closed."""

from __future__ import annotations

import asyncio
import base64
import os
import random
import sqlite3
import stat
import sys
import threading
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from patience import PATIENCE
from storage import (
    DELIVERED,
    Faulty,
    Recorder,
    SetClock,
    draft,
    drafts,
    files,
    have_ended,
    io_error,
    opened,
    result,
    rows,
    write,
)

from hookengine.errors import AlreadyRunning, DatabaseTooNew, KeyUnusable, StartError, StorageFailed
from hookengine.models import Accepted, BasicAuth, Request, Response, Secret, SigningSecret
from hookengine.store import Store, database
from hookengine.store.queries import migrations
from hookengine.vault import find_keys

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ROOT = Path(__file__).parent.parent
OLD_KEY, NEW_KEY = (base64.b64encode(byte * 32).decode() for byte in (b"o", b"n"))

# Another process: it opens the store, says how that went, and holds it until its input ends.
OTHER_PROCESS = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, "tests")
from storage import Recorder, SetClock
from hookengine.errors import StartError
from hookengine.store import Store

async def main():
    store = Store(Path(sys.argv[1]), clock=SetClock())
    try:
        await store.open(Recorder())
    except StartError as error:
        print(error.code, error.exit_status, error.pid, flush=True)
        return
    print("open", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await store.close()

asyncio.run(main())
"""


async def other_process(path: Path) -> tuple[asyncio.subprocess.Process, str]:
    """A process that tries to open the store, and what it says."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", OTHER_PROCESS, str(path)),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE):
        return process, (await process.stdout.readline()).decode().strip()


def store_at(path: Path, **settings: Any) -> Store:
    """A store that is not open."""
    return Store(path, clock=SetClock(), **settings)


# Opening and closing.


async def test_first_start_makes_everything(tmp_path: Path) -> None:
    """A database and a key, both for the owner alone, and the store says that it is new."""
    async with opened(tmp_path) as place:
        assert place.store.is_new
        assert 0o600 == stat.S_IMODE((tmp_path / "secret.key").stat().st_mode)
        assert 32 == len(base64.b64decode((tmp_path / "secret.key").read_bytes().strip(), validate=True))
    async with opened(tmp_path) as place:
        assert not place.store.is_new


async def test_closing_folds_the_log_back(tmp_path: Path) -> None:
    """After a clean stop the file alone holds everything, and nothing of the store is left running."""
    threads = set(threading.enumerate())
    async with opened(tmp_path) as place:
        await place.publish(*drafts(100))

    assert {"hooks.db", "hooks.db.lock", "hooks.db.reserve", "secret.key"} == set(files(tmp_path))
    assert [(100,)] == rows(place.path, "SELECT count(*) FROM events")
    assert have_ended(set(threading.enumerate()) - threads)


async def test_closing_that_is_cut_lets_the_next_in(tmp_path: Path) -> None:
    """Where the end of the event loop cancels a close, the connections are closed and the lock is given back all the same."""
    threads = set(threading.enumerate())
    store = store_at(tmp_path / "hooks.db")
    await store.open(Recorder())
    closing = asyncio.create_task(store.close())
    async with asyncio.timeout(PATIENCE):
        while store.reader._db.connection._connection is not None:  # noqa: ASYNC110  # it tells nobody
            await asyncio.sleep(0)
    closing.cancel()
    with suppress(asyncio.CancelledError):
        await closing

    async with opened(tmp_path) as place:
        await place.publish(draft())
    assert have_ended(set(threading.enumerate()) - threads)


async def test_closing_twice_does_no_harm(tmp_path: Path) -> None:
    """The second close finds nothing to do, also before an open."""
    store = store_at(tmp_path / "hooks.db")
    await store.close()
    await store.open(Recorder())
    await store.close()
    await store.close()
    await store.open(Recorder())
    await store.close()


async def test_failed_tells_how_the_writer_ended(tmp_path: Path) -> None:
    """It returns when the store is closed, raises what ended the writer, and may be asked by several who go away."""
    async with opened(tmp_path) as place:
        first, second = asyncio.create_task(place.store.failed()), asyncio.create_task(place.store.failed())
        await asyncio.sleep(0)
        first.cancel()
        await place.publish()
        await place.store.close()
        await second
    async with opened(tmp_path) as place:
        watching = asyncio.create_task(place.store.failed())
        Faulty(place).error = io_error("SQLITE_IOERR_FSYNC")
        for raises in (place.publish(), watching, place.publish()):
            with pytest.raises(StorageFailed, match="the storage failed: disk I/O error"):
                await raises


async def test_log_that_cannot_be_folded_back_stays(tmp_path: Path) -> None:
    """A reader of another program that keeps the log in use does not keep the store from closing."""
    async with opened(tmp_path) as place:
        await place.publish()
        await place.store.writer._writing.db.execute("PRAGMA busy_timeout = 1")
        other = sqlite3.connect(place.path, isolation_level=None)
        other.execute("BEGIN")
        other.execute("SELECT * FROM events").fetchall()
        await place.publish()
    other.close()

    assert [(2,)] == rows(place.path, "SELECT count(*) FROM events")


async def test_what_was_committed_is_there_after_a_kill(tmp_path: Path) -> None:
    """Files as they lie while the store is open are what a killed process leaves: another start reads all of them."""
    copy = tmp_path / "copy"
    copy.mkdir()
    async with opened(tmp_path) as place:
        await place.subscribe()
        await place.deliver(*drafts(3))
        for name in ("hooks.db", "hooks.db-wal", "secret.key"):
            (copy / name).write_bytes((tmp_path / name).read_bytes())
    async with opened(copy) as place:
        assert [None, (place.clock.time, 1), None] == (await place.store.reader.heads())[1]
        assert [4] == [delivery.seq for delivery in await place.deliver()]


@pytest.mark.parametrize("seed", range(6))
async def test_start_that_is_cut_leaves_nothing_open(tmp_path: Path, seed: int) -> None:
    """A cancelled start gives the file and its threads back, and the next one goes on from wherever it stopped."""
    chance = random.Random(seed)
    before = set(threading.enumerate())
    for _ in range(5):
        store = store_at(tmp_path / "hooks.db")
        task = asyncio.create_task(store.open(Recorder()))
        await asyncio.wait([task], timeout=chance.random() * 0.01)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await store.close()  # for a start that was quicker
    async with opened(tmp_path) as place:
        await place.publish()
    assert have_ended(set(threading.enumerate()) - before)


# The owner.


async def test_one_store_per_file_and_process(tmp_path: Path) -> None:
    """A second store on the file is refused at once with our own pid, and the first goes on."""
    async with opened(tmp_path) as place:
        with pytest.raises(AlreadyRunning, match=f"in use by pid {os.getpid()}$"):
            await store_at(place.path).open(Recorder())
        await place.publish()


async def test_two_files_in_one_process(tmp_path: Path) -> None:
    """Two stores on two files do not know of each other."""
    (tmp_path / "other").mkdir()
    async with opened(tmp_path) as one, opened(tmp_path / "other") as other:
        await one.publish(draft(id="one", digest=b""))
        await other.publish(draft(id="other", digest=b""))

        assert [("one",)] == one.rows("SELECT id FROM events")
        assert [("other",)] == other.rows("SELECT id FROM events")


async def test_another_process_is_refused(tmp_path: Path) -> None:
    """It is told the owner's pid, and ends as one that is already running."""
    async with opened(tmp_path) as place:
        process, said = await other_process(place.path)
        await process.communicate()

        assert f"already_running 75 {os.getpid()}" == said
        await place.publish()


async def test_file_of_a_killed_owner_is_free(tmp_path: Path) -> None:
    """While another process has the file we are refused with its pid; the moment it is killed, we are not."""
    process, said = await other_process(tmp_path / "hooks.db")
    try:
        assert "open" == said
        with pytest.raises(AlreadyRunning) as caught:
            await store_at(tmp_path / "hooks.db").open(Recorder())
        assert process.pid == caught.value.pid
    finally:
        process.kill()
        await process.communicate()
    async with opened(tmp_path) as place:
        await place.publish()


# What cannot be opened.


def _no_folder(path: Path) -> Path:
    return path / "missing" / "hooks.db"


def _file_as_folder(path: Path) -> Path:
    (path / "file").write_bytes(b"")
    return path / "file" / "hooks.db"


def _folder_as_file(path: Path) -> Path:
    (path / "hooks.db").mkdir()
    return path / "hooks.db"


def _no_database(path: Path) -> Path:
    (path / "hooks.db").write_bytes(b"no database" * 100)
    return path / "hooks.db"


def _link_to_itself(path: Path) -> Path:
    (path / "hooks.db.lock").symlink_to("hooks.db.lock")
    return path / "hooks.db"


def _foreign_tables(path: Path) -> Path:
    write(path / "hooks.db", "CREATE TABLE events (something_else)")
    return path / "hooks.db"


def _half_a_schema(path: Path) -> Path:
    write(path / "hooks.db", "PRAGMA user_version = 1")
    return path / "hooks.db"


def _key_is_a_folder(path: Path) -> Path:
    (path / "secret.key").mkdir()
    return path / "hooks.db"


@pytest.mark.parametrize(
    "spoil",
    [
        _no_folder,
        _file_as_folder,
        _folder_as_file,
        _no_database,
        _link_to_itself,
        _foreign_tables,
        _half_a_schema,
        _key_is_a_folder,
    ],
)
async def test_what_cannot_be_opened_is_named(tmp_path: Path, spoil: Callable[[Path], Path]) -> None:
    """Every way in which the files are not usable is a StartError with the path, and leaves no thread and no lock."""
    path = spoil(tmp_path)
    threads = set(threading.enumerate())
    for _ in range(2):
        with pytest.raises(StartError, match=str(tmp_path)) as caught:
            await store_at(path).open(Recorder())
        assert 78 == caught.value.exit_status
    assert have_ended(set(threading.enumerate()) - threads)


@pytest.mark.parametrize(
    ("name", "named"),
    [
        pytest.param(":memory:", "':memory:' is no file", id="no file"),
        pytest.param("/none/:memory:", "':memory:' is no file", id="no file, of the directory"),
        pytest.param("", "a directory: name a file", id="nothing"),
        pytest.param(".", "a directory: name a file", id="directory"),
        pytest.param("/", "a directory: name a file", id="root"),
    ],
)
async def test_what_is_no_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, named: str) -> None:
    """What cannot be the name of a database is a StartError that says why, and nothing is made for it."""
    monkeypatch.chdir(tmp_path)

    with pytest.raises(StartError, match=named):
        await Store(Path(name), clock=SetClock()).open(Recorder())
    assert {} == files(tmp_path)


@pytest.mark.parametrize("name", ["file:hooks.db", "file:hooks.db?mode=memory", "hooks.db#x", "h%6Foks.db", "-hooks.db"])
async def test_a_name_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A path is a path, also one that SQLite could take for a URI: what is accepted lies in that file, which is ours alone."""
    monkeypatch.chdir(tmp_path)
    store = Store(Path(name), clock=SetClock())
    await store.open(Recorder())
    await store.close()

    assert {"secret.key", name, f"{name}.lock"} == set(files(tmp_path))
    assert {0o600} == {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / name, tmp_path / f"{name}.lock")}
    assert b"SQLite format 3\0" == (tmp_path / name).read_bytes()[:16]


@pytest.mark.parametrize("mode", ["DELETE", "WAL"])
@pytest.mark.parametrize(
    "script",
    [
        pytest.param("CREATE TABLE users (name)", id="without a version"),
        pytest.param("CREATE VIEW users AS SELECT 1", id="without a table"),
        pytest.param("CREATE TABLE users (name); CREATE TABLE meta (x); PRAGMA user_version = 3", id="with one of ours"),
        pytest.param("CREATE TABLE users (name); PRAGMA user_version = 2000", id="with a later one"),
    ],
)
async def test_file_of_another_program_stays_as_it_is(tmp_path: Path, script: str, mode: str) -> None:
    """A start on it is refused with that reason before anything of it is changed, also while the other program has it open."""
    path = tmp_path / "hooks.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute(f"PRAGMA journal_mode = {mode}")
        other.executescript(script)
        before = files(tmp_path)
        with pytest.raises(StartError, match="is no database of hookengine"):
            await store_at(path).open(Recorder())
        before.pop("hooks.db-shm", None)  # has the marks of its readers
        assert before == {name: content for name, content in files(tmp_path).items() if name != "hooks.db-shm"}


async def test_first_start_that_was_cut_before_the_schema(tmp_path: Path) -> None:
    """A file with nothing in it but its first page is taken for one that a start has just made."""
    write(tmp_path / "hooks.db", "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL")
    assert (tmp_path / "hooks.db").stat().st_size
    async with opened(tmp_path) as place:
        await place.publish()


async def test_transaction_that_was_cut_before_the_wal(tmp_path: Path) -> None:
    """A journal that a crash has left, as a change of the journal's mode does, is played back, and the start goes on."""
    (tmp_path / "cut").mkdir()
    async with opened(tmp_path) as place:
        await place.publish()
    with closing(sqlite3.connect(tmp_path / "hooks.db", isolation_level=None)) as other:
        other.executescript("PRAGMA journal_mode = DELETE; PRAGMA cache_size = 1; BEGIN; DELETE FROM events")
        other.execute("INSERT INTO meta VALUES ('large', ?)", (bytes(1 << 20),))
        for name in ("hooks.db", "hooks.db-journal", "secret.key"):
            (tmp_path / "cut" / name).write_bytes((tmp_path / name).read_bytes())
    async with opened(tmp_path / "cut") as place:
        assert [(1,)] == place.rows("SELECT count(*) FROM events")
        assert [] == place.rows("SELECT * FROM meta WHERE name = 'large'")


async def _first_page(path: Path) -> None:
    write(path, "PRAGMA journal_mode = WAL")


async def _last_schema(path: Path) -> None:
    write(path, f"PRAGMA journal_mode = WAL; {''.join(migrations()[:-1])} PRAGMA user_version = {len(migrations()) - 1}")


async def _last_key(path: Path) -> None:
    async with opened(path.parent, encryption_key=OLD_KEY):
        pass


@pytest.mark.parametrize(
    ("make", "mode"),
    [
        pytest.param(_first_page, "EXCLUSIVE", id="to look at it"),
        pytest.param(_last_schema, "NORMAL", id="to change the schema"),
        pytest.param(_last_key, "NORMAL", id="to change the key"),
    ],
)
async def test_start_that_needs_the_lock_may_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Awaitable[None]], mode: str
) -> None:
    """Where another program keeps the lock for long a start ends as what passes by itself does, and a later one goes well."""
    monkeypatch.setattr(database, "_BUSY", 0.05)
    path, keys = tmp_path / "hooks.db", f"{NEW_KEY},{OLD_KEY}"
    await make(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute(f"PRAGMA locking_mode = {mode}")
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StartError, match=f"{path}.* locked") as caught:
            await store_at(path, encryption_key=keys).open(Recorder())
    async with opened(tmp_path, encryption_key=keys) as place:
        await place.publish()

    assert 75 == caught.value.exit_status


@pytest.mark.row("F08")
async def test_damaged_file_is_refused(tmp_path: Path) -> None:
    """A page that says nonsense ends the start, and is not repaired."""
    async with opened(tmp_path) as place:
        for _ in range(100):
            await place.subscribe()
    ((root,),) = rows(place.path, "SELECT rootpage FROM sqlite_master WHERE name = 'subscriptions'")
    content = bytearray(place.path.read_bytes())
    content[4096 * (root - 1) : 4096 * (root - 1) + 64] = b"\xff" * 64
    place.path.write_bytes(content)

    with pytest.raises(StartError, match="cannot be used: database disk image is malformed"):
        await store_at(place.path).open(Recorder())
    assert b"\xff" * 64 in place.path.read_bytes()


async def test_newer_file_is_refused(tmp_path: Path) -> None:
    """A file of a later version is not touched, and the lock is free again."""
    async with opened(tmp_path):
        pass
    write(tmp_path / "hooks.db", "PRAGMA user_version = 7777")

    for _ in range(2):
        with pytest.raises(DatabaseTooNew, match="version 7777; this hookengine knows versions up to"):
            await store_at(tmp_path / "hooks.db").open(Recorder())


@pytest.mark.row("F37")
async def test_subscription_that_cannot_be_read_is_left_alone(tmp_path: Path) -> None:
    """A start steps over it, says which it is, and serves the others."""
    async with opened(tmp_path) as place:
        bad, good = await place.subscribe(), await place.subscribe()
        await place.deliver()
    write(place.path, "UPDATE subscriptions SET settings = '{' WHERE seq = 1")
    before = rows(place.path, "SELECT * FROM subscriptions WHERE seq = 1")
    async with opened(tmp_path) as place:
        (error,) = place.store.unreadable
        assert str(error).startswith(f"subscription {bad.id} (row 1) cannot be read")
        assert [good] == list(place.store.memory.index)
        assert {good.seq} == set(place.store.memory.health)
        assert [good.seq] == [delivery.subscription for delivery in await place.deliver()]
        assert before == place.rows("SELECT * FROM subscriptions WHERE seq = 1")
        assert 3 == (await place.subscribe()).seq


# The key.


@pytest.mark.row("F38")
async def test_missing_key_is_not_made_anew(tmp_path: Path) -> None:
    """A database whose key is gone is not started, and no key is put in its place."""
    async with opened(tmp_path):
        pass
    (tmp_path / "secret.key").unlink()

    with pytest.raises(KeyUnusable, match=f"the encryption key {tmp_path}/secret.key is missing"):
        await store_at(tmp_path / "hooks.db").open(Recorder())
    assert not (tmp_path / "secret.key").exists()


@pytest.mark.row("F38")
async def test_wrong_key_is_refused(tmp_path: Path) -> None:
    """A key that does not open the check value is not used, and the right one still is."""
    async with opened(tmp_path):
        pass
    right = (tmp_path / "secret.key").read_bytes()
    (tmp_path / "secret.key").write_bytes(base64.b64encode(bytes(32)))
    for _ in range(2):
        with pytest.raises(KeyUnusable, match="does not open this database"):
            await store_at(tmp_path / "hooks.db").open(Recorder())
    (tmp_path / "secret.key").write_bytes(right)
    async with opened(tmp_path) as place:
        await place.publish()


@pytest.mark.row("F38")
async def test_no_key_at_all_is_refused(tmp_path: Path) -> None:
    """A file that holds something else is named."""
    async with opened(tmp_path):
        pass
    (tmp_path / "secret.key").write_text("password")

    with pytest.raises(KeyUnusable, match=r"secret\.key is not an encryption key"):
        await store_at(tmp_path / "hooks.db").open(Recorder())


async def test_given_key_is_used(tmp_path: Path) -> None:
    """A key that is given makes no file, and opens what it sealed."""
    key = base64.b64encode(b"k" * 32).decode()
    async with opened(tmp_path, encryption_key=key) as place:
        one = await place.subscribe(secrets=(SigningSecret(value=Secret("whsec_x")),))
    assert not (tmp_path / "secret.key").exists()
    async with opened(tmp_path, encryption_key=key) as place:
        assert [one] == list(place.store.memory.index)
    with pytest.raises(KeyUnusable, match=r"secret\.key is missing"):
        await store_at(tmp_path / "hooks.db").open(Recorder())


async def test_start_that_ended_after_making_the_key_begins_again(tmp_path: Path) -> None:
    """A key without a database is taken, because nothing was stored with it yet."""
    clock = SetClock()
    keys = find_keys(tmp_path / "secret.key", None, may_create=True, new_bytes=clock.new_bytes)
    async with opened(tmp_path) as place:
        await place.subscribe()

        assert keys == find_keys(tmp_path / "secret.key", None, may_create=False, new_bytes=clock.new_bytes)


@pytest.mark.parametrize("suffix", ["-wal", "-shm", ".reserve"])
@pytest.mark.parametrize("what", ["is not there", "is empty"])
async def test_what_a_database_left_is_no_new_one(tmp_path: Path, what: str, suffix: str) -> None:
    """Where a file that only a database has beside it is there, though empty, and the database is not, none is made."""
    left = tmp_path / f"hooks.db{suffix}"
    left.touch()
    if what == "is empty":
        (tmp_path / "hooks.db").touch()
    before = files(tmp_path)
    with pytest.raises(StartError, match=f"{what}, but there is {left}: put the database back, or take that away"):
        await store_at(tmp_path / "hooks.db").open(Recorder())
    (tmp_path / "hooks.db.lock").unlink()
    assert before == files(tmp_path)
    left.unlink()
    async with opened(tmp_path) as place:
        assert place.store.is_new


async def test_start_that_ended_before_the_key_begins_again(tmp_path: Path) -> None:
    """A database without a check value has stored nothing, and gets its key now."""
    async with opened(tmp_path):
        pass
    (tmp_path / "secret.key").unlink()
    write(tmp_path / "hooks.db", "DELETE FROM meta")
    async with opened(tmp_path) as place:
        await place.subscribe()
    async with opened(tmp_path) as place:
        assert 1 == len(place.store.memory.index)


# What must not be in the files.


async def test_credentials_are_in_no_file(tmp_path: Path) -> None:
    """Secrets, header values and passwords are readable neither in the database nor in its log, and gone with a deletion."""
    request = Request(
        method="POST",
        url="https://receiver.example/",
        headers=(("X-Api-Key", "hunter2-header"), ("authorization", "Basic hunter2-basic"), ("content-type", "visible-type")),
        body=b"{}",
        hidden=frozenset({"x-api-key", "authorization"}),
    )
    answer = Accepted(response=Response(status=200, headers=(), body=b"visible-answer", truncated=False))
    async with opened(tmp_path) as place:
        one = await place.subscribe(
            headers=(("X-Api-Key", Secret("hunter2-header")),),
            auth=BasicAuth(username="hunter2-user", password=Secret("hunter2-password")),
            secrets=(
                SigningSecret(value=Secret("whsec_hunter2-new")),
                SigningSecret(value=Secret("whsec_hunter2-old"), expires_at=1),
            ),
        )
        await place.edit(one, name="visible-name")
        (delivery,) = await place.deliver(draft(data=b'"visible-data"'))
        await place.record(result(delivery, answer, request=request))
        while_open = files(tmp_path)

    assert "hooks.db-wal" in while_open
    for content in (b"".join(while_open.values()), b"".join(files(tmp_path).values())):
        assert b"hunter2" not in content
        assert base64.b64encode(b"hunter2")[:8] not in content
        for word in (b"visible-name", b"visible-data", b"visible-type", b"visible-answer"):
            assert word in content


async def test_rows_survive_the_store(tmp_path: Path) -> None:
    """Numbers go on after a restart, so that none is given twice."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        first = await place.deliver(*drafts(2))
        await place.record(result(first[0], DELIVERED))
    async with opened(tmp_path) as place:
        await place.subscribe()
        second = await place.deliver()

    assert [(1, 1, 1), (2, 2, 1), (3, 3, 1), (4, 3, 2)] == [(d.seq, d.event, d.subscription) for d in first + second]
