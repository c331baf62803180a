"""Looking at a real file from outside, while a store has it and when none does."""

from __future__ import annotations

import asyncio
import ctypes
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from patience import PATIENCE
from storage import (
    ACCESS_TOKEN,
    DAY,
    DELIVERED,
    NO_ANSWER,
    NOW,
    OAUTH2,
    drafts,
    edit,
    files,
    io_error,
    opened,
    result,
    rows,
    write,
)

from hookengine.errors import DatabaseTooNew, StorageCorrupt, StorageUnavailable
from hookengine.models import DisabledReason, Secret, SigningSecret, SubscriptionState
from hookengine.store import changes, inspection, registry
from hookengine.store.inspection import examine, summary
from hookengine.store.queries import migrations

if TYPE_CHECKING:
    from pathlib import Path

SECRET = SigningSecret(value=Secret("whsec_x"))
DISABLED = {"state": SubscriptionState.DISABLED, "disabled_reason": DisabledReason.MANUAL}


def wrong(path: Path, *, encryption_key: str | None = None) -> dict[str, list[str]]:
    """The checks that find something."""
    found = examine(path, encryption_key=encryption_key, tick=lambda: None)
    return {each.check: each.problems for each in found if each.problems}


async def test_everything_is_counted_while_a_store_has_the_file(tmp_path: Path) -> None:
    """Sizes, rows by table, states as they read, and the oldest work are told of a file in use."""
    async with opened(tmp_path) as place:
        active = await place.subscribe()
        other = await place.subscribe()
        gone = await place.subscribe()
        [first, *_] = await place.deliver(*drafts(1))
        await place.record(result(first, DELIVERED))
        place.clock.time = NOW + DAY
        await place.deliver(*drafts(2))
        await place.store.writer.change(changes.delete_subscription(gone.id, None))
        await edit(place.store, other, **DISABLED)
        found = summary(place.path)

        assert (len(migrations()), NOW + DAY, NOW + DAY) == (found.schema_version, found.oldest_pending, found.newest)
        assert {"cancelled": 3, "delivered": 1, "held": 3, "pending": 2} == found.deliveries
        assert {"active": 1, "deleted": 1, "disabled": 1} == found.subscriptions
        assert {"events": 3, "deliveries": 9, "attempts": 1, "subscriptions": 3, "health": 3}.items() <= found.rows.items()
        assert place.path.stat().st_size == found.size
        assert found.wal_size > 0
        assert active.seq == first.subscription


async def test_empty_file_has_nothing_old(tmp_path: Path) -> None:
    """A new database has no times, and no WAL once it is closed."""
    async with opened(tmp_path) as place:
        pass
    found = summary(place.path)

    assert (None, None, 0, {}) == (found.oldest_pending, found.newest, found.wal_size, found.deliveries)


async def test_link_leads_to_the_wal(tmp_path: Path) -> None:
    """The WAL is the one beside the file, wherever a link to that is."""
    async with opened(tmp_path) as place:
        await place.publish()
        link = tmp_path / "folder" / "link.db"
        link.parent.mkdir()
        link.symlink_to(place.path)

        assert summary(place.path).wal_size == summary(link).wal_size > 0


async def test_looking_leaves_nothing(tmp_path: Path) -> None:
    """Beside a file that was closed nothing stays, not even while others look, nor what a look of before has left."""
    async with opened(tmp_path) as place:
        await place.publish()
    before = files(tmp_path)
    with inspection.opened(place.path):
        summary(place.path)
        assert before != files(tmp_path)
    assert before == files(tmp_path)
    (tmp_path / "hooks.db-wal").touch()
    summary(place.path)

    assert before == files(tmp_path)


async def test_looking_while_a_store_comes_and_goes(tmp_path: Path) -> None:
    """A store that starts and stops meanwhile finds its files, what is looked at is of one moment, and nothing stays."""
    async with opened(tmp_path) as place:
        await place.publish()
    before = sorted(files(tmp_path))
    with inspection.opened(place.path) as db:
        db.execute("BEGIN")
        counts = [db.execute("SELECT count(*) FROM events").fetchone()[0]]
        async with opened(tmp_path) as again:
            await again.publish(*drafts(100))
            summary(place.path)
            counts.append(db.execute("SELECT count(*) FROM events").fetchone()[0])
            db.execute("COMMIT")
            await again.publish()
        counts.append(db.execute("SELECT count(*) FROM events").fetchone()[0])

    assert [1, 1, 102] == counts
    assert before == sorted(files(tmp_path))


# What a process says of the file that it is told.
LOOK = """
import sys
from pathlib import Path
from hookengine.store.inspection import summary
print(summary(Path(sys.argv[1])).rows["events"], "events")
"""


def give_up_rights() -> None:
    """Let root be asked like others, from the next program on: CAP_DAC_OVERRIDE is 1, and PR_CAPBSET_DROP 24."""
    ctypes.CDLL(None).prctl(24, 1)


async def look(path: Path) -> str:
    """What is said of a file whose folder cannot be written."""
    path.parent.chmod(0o500)
    try:
        ended = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", LOOK, str(path)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            preexec_fn=give_up_rights,
        )
    finally:
        path.parent.chmod(0o700)
    return (ended.stdout or ended.stderr).splitlines()[-1]


async def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """A file is read there, in use or not, as long as nothing has to be made for that; else that is said."""
    async with opened(tmp_path) as place:
        await place.publish()
        in_use = await look(place.path)
        crashed = tmp_path / "crashed"
        crashed.mkdir()
        for name in ("hooks.db", "hooks.db-wal"):
            (crashed / name).write_bytes((tmp_path / name).read_bytes())
    closed = await look(place.path)
    (tmp_path / "hooks.db-wal").touch()
    empty = await look(place.path)
    with inspection.opened(place.path):
        looked_at = await look(place.path)

    assert ["1 events"] * 4 == [in_use, closed, empty, looked_at]
    assert (await look(crashed / "hooks.db")).endswith(
        f"StorageUnavailable: {crashed}/hooks.db cannot be read: to read its WAL,"
        f" files have to be made in {crashed}, which cannot be written"
    )


async def test_looking_changes_nothing(tmp_path: Path) -> None:
    """A WAL that a crash left stays for the next start to read."""
    async with opened(tmp_path) as place:
        crashed = tmp_path / "crashed"
        crashed.mkdir()
        for name in ("hooks.db", "hooks.db-wal"):
            (crashed / name).write_bytes((tmp_path / name).read_bytes())
    before = {name: (crashed / name).read_bytes() for name in ("hooks.db", "hooks.db-wal")}
    summary(crashed / "hooks.db")

    assert before == {name: (crashed / name).read_bytes() for name in before}
    assert place.path != crashed


@pytest.mark.parametrize(
    ("script", "error", "words"),
    [
        ("PRAGMA user_version = 99", DatabaseTooNew, "has schema version 99"),
        ("PRAGMA user_version = 0", StorageCorrupt, "is no database of hookengine"),
    ],
)
async def test_other_schema_is_refused(tmp_path: Path, script: str, error: type[Exception], words: str) -> None:
    """A file of a newer hookengine, or of another program, is not guessed about."""
    async with opened(tmp_path) as place:
        pass
    write(place.path, script)

    with pytest.raises(error, match=words):
        summary(place.path)


@pytest.mark.parametrize("script", ["", "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL"])
def test_first_start_that_was_cut_is_told(tmp_path: Path, script: str) -> None:
    """What it has left, with or without a first page, is ours, and what lies beside it stays."""
    path = tmp_path / "hooks.db"
    write(path, script)
    if not script:
        path.with_name("hooks.db-journal").write_bytes(bytes(512))
    before = files(tmp_path)

    with pytest.raises(StorageUnavailable, match="holds nothing yet: its first start was cut, and the next one ends it"):
        summary(path)
    assert before == files(tmp_path)


def test_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """Any other file is told from a database."""
    path = tmp_path / "hooks.db"
    path.write_bytes(b"x" * 4096)

    with pytest.raises(StorageCorrupt, match="file is not a database"):
        summary(path)


async def test_full_disk_is_no_damage(tmp_path: Path) -> None:
    """A file that cannot be read for want of room is not called unreadable for good."""
    async with opened(tmp_path) as place:
        pass

    with pytest.raises(StorageUnavailable, match="cannot be read: the disk is full"), inspection.opened(place.path):
        raise io_error("SQLITE_IOERR_SHMSIZE")


async def test_whole_file_passes_every_check(tmp_path: Path) -> None:
    """A file in use, with a subscription whose secrets open, has nothing wrong; the work is told of."""
    ticks: list[int] = []
    async with opened(tmp_path) as place:
        await place.subscribe()
        await place.publish(*drafts(1000))
        found = examine(place.path, encryption_key=None, tick=lambda: ticks.append(1))

    assert [("integrity", []), ("references", []), ("key", []), ("subscriptions", []), ("tenants", [])] == [
        (each.check, each.problems) for each in found
    ]
    assert ticks


@pytest.mark.parametrize("version", range(1, len(migrations())))
async def test_older_file_is_whole(tmp_path: Path, version: int) -> None:
    """What an older schema does not have yet is not missed; that a start brings it up to date is said, and damage too."""
    async with opened(tmp_path) as place:
        made = await place.subscribe()
    (tmp_path / "older").mkdir()
    path = tmp_path / "older" / "hooks.db"
    (tmp_path / "older" / "secret.key").write_bytes((tmp_path / "secret.key").read_bytes())
    tables = ("meta", "subscriptions", "health")
    older = "".join(migrations()[:version]) + f"PRAGMA user_version = {version}; ATTACH '{place.path}' AS now;"
    write(path, older + "".join(f"INSERT INTO main.{name} SELECT * FROM now.{name};" for name in tables))
    found = examine(path, encryption_key=None, tick=lambda: None)

    assert (version, {"active": 1}) == (summary(path).schema_version, summary(path).subscriptions)
    assert {f"version {version}, brought up to date at the next start", ""} == {each.note for each in found}
    assert ["schema", "integrity", "references", "key", "subscriptions", *["tenants"] * (version > 1)] == [
        each.check for each in found
    ]
    assert {} == wrong(path)
    write(path, "UPDATE subscriptions SET sealed = x'01'; DROP TABLE IF EXISTS access_tokens")
    problem = "no such table: access_tokens" if version > 3 else f"subscription {made.id} (row 1) cannot be read: "
    assert wrong(path)["subscriptions"][0].startswith(problem)


async def test_missing_row_is_found(tmp_path: Path) -> None:
    """Rows that name others that are not there are counted by table."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        await place.publish(*drafts(2))
    write(place.path, "DELETE FROM events")

    assert {"references": ["2 rows of deliveries name rows of events that are not there"]} == wrong(place.path)


async def test_damaged_page_is_found(tmp_path: Path) -> None:
    """A page of an index that was overwritten is told by SQLite's own check."""
    async with opened(tmp_path) as place:
        await place.subscribe()
        [delivery] = await place.deliver(*drafts(1))
        await place.record(result(delivery, NO_ANSWER))
    [(page, page_size)] = rows(
        place.path,
        "SELECT rootpage, (SELECT page_size FROM pragma_page_size) FROM sqlite_schema WHERE name = 'attempts_of_delivery'",
    )
    with place.path.open("r+b") as file:
        file.seek((page - 1) * page_size)
        file.write(b"\xff" * page_size)

    assert ["integrity"] == list(wrong(place.path))


async def test_damaged_schema_is_found_by_every_check(tmp_path: Path) -> None:
    """Where SQLite cannot go on, each check says so and the others are still tried."""
    async with opened(tmp_path) as place:
        pass
    write(place.path, "PRAGMA writable_schema = ON; UPDATE sqlite_schema SET sql = 'x' WHERE name = 'meta';")

    assert ["integrity", "references", "key"] == list(wrong(place.path))


async def test_wrong_key_is_found(tmp_path: Path) -> None:
    """A key of another database, a missing one and a missing check value each have their words."""
    async with opened(tmp_path) as place:
        pass
    other = "A" * 43 + "="
    found = [wrong(place.path, encryption_key=other)]
    (tmp_path / "secret.key").unlink()
    found.append(wrong(place.path))
    write(place.path, "DELETE FROM meta")
    found.append(wrong(place.path, encryption_key=other))

    assert [["key"]] * 3 == [list(each) for each in found]
    assert ["does not open", "is missing", "no check value"] == [
        next(words for words in ("does not open", "is missing", "no check value") if words in each["key"][0]) for each in found
    ]


async def test_subscription_that_cannot_be_read_is_found(tmp_path: Path) -> None:
    """Each subscription's secrets are tried with the key."""
    async with opened(tmp_path) as place:
        made = await place.subscribe()
    write(place.path, "UPDATE subscriptions SET sealed = x'01'")

    [problem] = wrong(place.path)["subscriptions"]
    assert problem.startswith(f"subscription {made.id} (row 1) cannot be read: ")


async def test_other_secrets_that_do_not_open_are_found(tmp_path: Path) -> None:
    """Tenants' secrets and the access tokens of endpoints are tried with the key, too."""
    async with opened(tmp_path) as place:
        made = await place.subscribe(auth=OAUTH2)
        await place.store.writer.change(changes.keep_access_token(made.seq, OAUTH2, ACCESS_TOKEN))
        await place.store.writer.change(registry.set_tenant_secrets("acme", lambda _, __: (SECRET,)))
        assert {} == wrong(place.path)
    write(place.path, "UPDATE tenants SET sealed = x'01'; UPDATE access_tokens SET sealed = x'01';")

    found = wrong(place.path)
    assert ["subscriptions", "tenants"] == list(found)
    assert found["subscriptions"][0].startswith(f"the access token of {made.id} cannot be read: ")
    assert found["tenants"][0].startswith("the secrets of the tenant acme cannot be read: ")


async def test_connection_cannot_write(tmp_path: Path) -> None:
    """What looks at a file has no way to change it."""
    async with opened(tmp_path) as place:
        pass

    with pytest.raises(StorageCorrupt, match="readonly"), inspection.opened(place.path) as db, closing(db.cursor()) as cursor:
        cursor.execute("DELETE FROM meta")
