"""
A crash at each place where one can do harm: the rows K01 to K28 of the crash matrix.

A place is a failpoint of ours, a statement or a row of SQLite's, a byte of a file, or what the other side of a connection
sees.
"""

from __future__ import annotations

import ast
import asyncio
import re
import shutil
import signal
import socket
import sqlite3
from contextlib import asynccontextmanager, closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import pytest
from daemon import PATIENCE, Daemon
from launcher import Launched, Launcher
from load import Arrivals, Producers, endpoint, judge, left_by
from migrating import migrated

from hookengine.receiver import Received, Receiver, Reply
from hookengine.store.queries import migrations

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

PACKAGE = Path(__file__).parent.parent.parent / "hookengine"
EVENT = {"type": "order.created", "id": "event-1", "data": {"id": 1}}
LATER = (datetime.now(UTC) + timedelta(days=1)).isoformat()


def at(name: str, passage: int = 1) -> dict[str, Any]:
    """SIGKILL at a failpoint."""
    return {"kind": "at", "name": name, "passage": passage}


def at_statement(pattern: str, passage: int = 1, delay: float = 0.0) -> dict[str, Any]:
    """SIGKILL when a statement begins, or *delay* seconds later."""
    return {"kind": "at_statement", "pattern": pattern, "passage": passage, "delay": delay}


def at_row(table: str, passage: int = 1) -> dict[str, Any]:
    """SIGKILL within a commit."""
    return {"kind": "at_row", "table": table, "passage": passage}


def at_call(pattern: str, passage: int = 1) -> dict[str, Any]:
    """SIGKILL before a call into the system."""
    return {"kind": "at_call", "pattern": pattern, "passage": passage}


AT_SIZE = {"kind": "at_size"}
HALF_SENT = at("K09-written")
FILES = r"open|os\.(link|mkdir|remove|rename|truncate)"
INSERT = (
    "INSERT INTO events (seq, id, tenant, type, data, accepted_at, occurred_at, deliveries) VALUES (1, 1, 1, 1, 1, 1, 1, 0)"
)
NO_SETTING = "(?!PRAGMA (?!user_version =))"
LARGE = 8 << 20  # bytes: more than the kernel takes off a sender's hands at once


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    """Starts daemons quickly."""
    with Launcher() as launching:
        yield launching


async def tried(daemon: Daemon, method: str, path: str, body: Any = None, *, key: str | None = None) -> Any:
    """The answer, or None where the daemon ends without one."""
    try:
        return await daemon.ask(method, path, body, key=key)
    except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError):
        return None


# One event and its delivery, from the first byte of the request to the last row.


class One(NamedTuple):
    """
    A crash in the life of one event.

    *state* is what the crash leaves of its delivery, None where the event itself is not stored; *before* and *total* the
    requests of the endpoint until then, and until all is done; *attempts* those that count in the end.
    """

    fault: dict[str, Any]
    state: str | None
    before: int
    total: int
    attempts: int = 1
    answers: tuple[int, ...] = (200,)
    retries: int = 1
    ends: str = "delivered"


ONE = [
    pytest.param(One(at("K01-read", 2), None, 0, 1), id="K01 read, not parsed"),
    pytest.param(One(at("K02-checked"), None, 0, 1), id="K02 checked, not with the writer"),
    pytest.param(One(at("K03-staged"), None, 0, 1), id="K03 before the commit"),
    pytest.param(One(at_row("events"), None, 0, 1), id="K03 within the commit, before the event"),
    pytest.param(One(at_row("deliveries"), None, 0, 1), id="K03 within the commit, event without delivery"),
    pytest.param(One(at("K13-committed"), "pending", 0, 1), id="K05 committed, nobody told"),
    pytest.param(One(at("K05-unanswered"), "pending", 0, 1), id="K05 queued, not answered"),
    pytest.param(One(at("K07-taken"), "pending", 0, 1), id="K07 taken, no lookup yet"),
    pytest.param(One(at("K08-connected"), "pending", 0, 1), id="K08 connected, nothing sent"),
    pytest.param(One(at("K11-ended"), "pending", 1, 2), id="K11 answered, not recorded"),
    pytest.param(One(at("K03-staged", 2), "pending", 1, 2), id="K12 before the commit of the result"),
    pytest.param(One(at_row("attempts"), "pending", 1, 2), id="K12 within the commit of the result"),
    pytest.param(One(at("K13-committed", 2), "delivered", 1, 1), id="K13 recorded, slot not given back"),
    pytest.param(One(at("K11-ended"), "pending", 1, 2, answers=(503, 200)), id="K14 failed, not recorded"),
    pytest.param(One(at("K03-staged", 2), "pending", 1, 2, answers=(503, 200)), id="K15 before the retry's commit"),
    pytest.param(One(at_row("attempts"), "pending", 1, 2, answers=(503, 200)), id="K15 within the retry's commit"),
    pytest.param(
        One(at("K13-committed", 2), "pending", 1, 2, answers=(503, 200), attempts=2), id="K15 after the retry's commit"
    ),
    pytest.param(
        One(at("K03-staged", 3), "pending", 2, 3, answers=(503,), attempts=2, ends="failed"),
        id="K17 before it is given up",
    ),
    pytest.param(
        One(at_row("attempts", 2), "pending", 2, 3, answers=(503,), attempts=2, ends="failed"),
        id="K17 while it is given up",
    ),
    pytest.param(
        One(at("K13-committed", 3), "failed", 2, 2, answers=(503,), attempts=2, ends="failed"),
        id="K17 after it was given up",
    ),
]


@pytest.mark.parametrize("case", ONE)
async def test_one_event(case: One, tmp_path: Path, launcher: Launcher) -> None:
    """A crash leaves all of a step or nothing; asked for again, the event is stored once, and sent as often as it must be."""
    arrivals = Arrivals(answers=case.answers)
    async with Receiver(arrivals) as receiver, Daemon(tmp_path, case.fault, launcher=launcher) as daemon:
        id_ = await daemon.subscribe(receiver.url, retry_schedule=["1ms"] * case.retries)
        receiver.secret = (await daemon.ask("GET", f"/v1/subscriptions/{id_}/secret"))["secret"]
        await tried(daemon, "POST", "/v1/events", EVENT)
        assert -signal.SIGKILL == await daemon.ended()
        await arrivals.divide()
        with left_by(daemon) as db:
            assert (case.state is not None) == bool(db.execute("SELECT * FROM events").fetchall())
            assert [case.state] * (case.state is not None) == [
                state for (state,) in db.execute("SELECT state FROM deliveries")
            ]
        assert case.before == len(receiver.requests)
        await daemon.start()
        await daemon.ask("POST", "/v1/events", EVENT)
        await daemon.idle()
        [delivery] = (await daemon.ask("GET", "/v1/deliveries"))["data"]

    assert (case.ends, case.attempts) == (delivery["state"], delivery["attempt_count"])
    assert case.total == len(receiver.requests)
    assert all(request.verified for request in receiver.requests)
    assert {"event-1": 1} == {id_: len(bodies) for id_, bodies in arrivals.bodies.items()}


@pytest.mark.parametrize(("place", "stored"), [("K03-staged", 0), ("K13-committed", 1)])
async def test_idempotency_key(place: str, stored: int, tmp_path: Path, launcher: Launcher) -> None:
    """An event and the key that it was published with are stored together or not at all, and asked for again it is one."""
    event = {"type": "order.created", "data": 1}
    async with Daemon(tmp_path, at(place), launcher=launcher) as daemon:
        await tried(daemon, "POST", "/v1/events", event, key="key-1")
        assert -signal.SIGKILL == await daemon.ended()
        with left_by(daemon) as db:
            assert [(stored, stored)] == db.execute(
                "SELECT count(*), (SELECT count(*) FROM idempotency_keys) FROM events"
            ).fetchall()
        await daemon.start()
        answers = [await daemon.ask("POST", "/v1/events", event, key="key-1") for _ in range(2)]
        events = (await daemon.ask("GET", "/v1/events"))["data"]

    assert [answers[0]["id"]] == [each["id"] for each in events]
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    ("row", "size"),
    [("K04", 1), ("K04", 33), ("K04", 4_000), ("K04", 12_000), ("K12", 8_000), ("K12", 20_000), ("K15", 16_000)],
)
async def test_torn_write(row: str, size: int, tmp_path: Path, launcher: Launcher) -> None:
    """A crash in the middle of writing a commit to the WAL leaves nothing of it, be it of an event or of a result."""
    async with Daemon(tmp_path, AT_SIZE, launcher=launcher) as daemon:

        def answer(_: Received) -> int:
            if row != "K04" and len(receiver.requests) == 1:
                daemon.tear(size)
            return 503 if row == "K15" and len(receiver.requests) == 1 else 200

        async with Receiver(answer) as receiver:
            await daemon.subscribe(receiver.url, retry_schedule=["1ms"])
            if row == "K04":
                daemon.tear(size)
            await tried(daemon, "POST", "/v1/events", EVENT)
            assert -signal.SIGXFSZ == await daemon.ended()
            with left_by(daemon) as db:
                assert [] == db.execute("SELECT * FROM attempts").fetchall()
                assert ([] if row == "K04" else [("pending",)]) == db.execute("SELECT state FROM deliveries").fetchall()
            await daemon.start()
            await daemon.ask("POST", "/v1/events", EVENT)
            await daemon.idle()
            [delivery] = (await daemon.ask("GET", "/v1/deliveries"))["data"]

    assert ("delivered", 1) == (delivery["state"], delivery["attempt_count"])
    assert (1 if row == "K04" else 2) == len(receiver.requests)


async def test_crash_at_the_answer(tmp_path: Path, launcher: Launcher) -> None:
    """K06: an event whose producer has its 202 is delivered, though the daemon ends at that moment."""
    async with Daemon(tmp_path, launcher=launcher) as daemon, endpoint(daemon) as arrivals:
        await daemon.ask("POST", "/v1/events", EVENT)
        await daemon.kill()
        await daemon.start()
        await daemon.idle()

    assert {"event-1"} == arrivals.bodies.keys()


async def test_crash_before_the_answer_of_an_endpoint(tmp_path: Path, launcher: Launcher) -> None:
    """K10: a request that arrived whole, and was not answered, is made once more with the same id and bytes."""
    arrivals, arrived = Arrivals(), asyncio.Event()

    async def answer(request: Received) -> Reply:
        reply = arrivals(request)
        if request.number == 1:
            arrived.set()
            await asyncio.Event().wait()
        return reply

    async with Receiver(answer) as receiver, Daemon(tmp_path, launcher=launcher) as daemon:
        await daemon.subscribe(receiver.url)
        await daemon.ask("POST", "/v1/events", EVENT)
        async with asyncio.timeout(PATIENCE):
            await arrived.wait()
        await daemon.kill()
        await arrivals.divide()
        await daemon.start()
        await daemon.idle()

    assert [0, 1] == arrivals.repeats()
    assert [1] == [len(bodies) for bodies in arrivals.bodies.values()]


async def test_half_of_a_body(tmp_path: Path, launcher: Launcher) -> None:
    """K09: an endpoint that got a part of a request gets the whole of it later."""
    event = EVENT | {"data": "x" * LARGE}
    async with (
        reader_after() as (url, sizes, dead),
        Daemon(tmp_path, HALF_SENT, launcher=launcher, max_body=2 * LARGE) as daemon,
    ):
        await daemon.subscribe(url)
        await tried(daemon, "POST", "/v1/events", event)
        assert -signal.SIGKILL == await daemon.ended()
        dead.set()
        await daemon.start()
        await daemon.idle()

    first, second = sizes
    assert 0 < first < LARGE <= second


@asynccontextmanager
async def reader_after() -> AsyncIterator[tuple[str, list[int], asyncio.Event]]:
    """An endpoint that reads nothing before an event, and the bytes of each request that it got, whole or not."""
    sizes: list[int] = []
    event = asyncio.Event()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await event.wait()
        size = 0
        with suppress(ConnectionError):
            while size < LARGE and (part := await reader.read(65_536)):
                size += len(part)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        sizes.append(size)
        writer.close()

    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        server = await asyncio.start_server(take, sock=listening, limit=4_096)
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", sizes, event
        finally:
            server.close()


@pytest.mark.parametrize(
    ("place", "disabled", "total"),
    [
        pytest.param(at("K03-staged", 2), False, 2, id="K18 before"),
        pytest.param(at_row("attempts"), False, 2, id="K18 within"),
        pytest.param(at("K13-committed", 2), True, 1, id="K18 after"),
    ],
)
async def test_automatic_disabling(
    place: dict[str, Any], disabled: bool, total: int, tmp_path: Path, launcher: Launcher
) -> None:
    """A subscription that a 410 disables is disabled together with the record of the attempt, or neither has happened."""
    async with Receiver(410) as receiver, Daemon(tmp_path, place, launcher=launcher) as daemon:
        id_ = await daemon.subscribe(receiver.url)
        held = EVENT | {"id": "event-2", "deliver_at": LATER}
        await daemon.ask("POST", "/v1/events/batch", [EVENT, held])
        assert -signal.SIGKILL == await daemon.ended()
        with left_by(daemon) as db:
            found = db.execute(
                "SELECT state, consecutive_failures, (SELECT count(*) FROM attempts) FROM subscriptions, health"
            )
            assert [("disabled", 1, 1) if disabled else ("active", 0, 0)] == found.fetchall()
        await daemon.start()
        while (await daemon.ask("GET", f"/v1/subscriptions/{id_}"))["state"] != "disabled":
            pass
        found = (await daemon.ask("GET", "/v1/deliveries"))["data"]

    assert {("event-1", "held", 1), ("event-2", "held", 0)} == {
        (each["event"], each["state"], each["attempt_count"]) for each in found
    }
    assert total == len(receiver.requests)


# Subscriptions.


class Change(NamedTuple):
    """A request, and what it *changes* in what is `seen`."""

    method: str
    path: str
    body: Any
    changes: dict[str, Any]


CHANGES = [
    pytest.param(
        Change("POST", "", {"url": "http://127.0.0.1:9999", "event_types": ["other"]}, {"count": 2}), id="K19 create"
    ),
    pytest.param(Change("PATCH", "/{id}", {"name": "new"}, {"name": "new"}), id="K19 update"),
    pytest.param(Change("POST", "/{id}/rotate-secret", {}, {"secrets": 2}), id="K19 rotate"),
    pytest.param(Change("POST", "/{id}/disable", None, {"state": "disabled", "deliveries": ["held"]}), id="K19 disable"),
    pytest.param(
        Change(
            *("DELETE", "/{id}", None),
            {"count": 0, "name": None, "state": None, "secrets": 0, "deliveries": ["cancelled"]},
        ),
        id="K19 delete",
    ),
]


@pytest.mark.parametrize("place", ["K19-written", "K19-committed"])
@pytest.mark.parametrize("change", CHANGES)
async def test_change_of_a_subscription(change: Change, place: str, tmp_path: Path, launcher: Launcher) -> None:
    """A crash leaves a subscription as it was, or as it was to become, and what is deleted never delivers again."""
    async with Receiver() as receiver, Daemon(tmp_path, at(place, 2), launcher=launcher) as daemon:
        id_ = await daemon.subscribe(receiver.url, name="old")
        await daemon.ask("POST", "/v1/events", EVENT | {"deliver_at": LATER})
        before = await seen(daemon, id_)
        await tried(daemon, change.method, f"/v1/subscriptions{change.path.format(id=id_)}", change.body)
        assert -signal.SIGKILL == await daemon.ended()
        with left_by(daemon):
            pass
        await daemon.start()
        after = await seen(daemon, id_)
        await daemon.ask("POST", "/v1/events", EVENT | {"id": "event-2"})
        if after["state"] == "active":
            await receiver.wait(1, PATIENCE)
        await daemon.stop()

    assert before | (change.changes if place == "K19-committed" else {}) == after
    assert int(after["state"] == "active") == len(receiver.requests)


async def seen(daemon: Daemon, id_: str) -> dict[str, Any]:
    """What the API shows of the subscription with this id, and how many there are."""
    every = {each["id"]: each for each in (await daemon.ask("GET", "/v1/subscriptions"))["data"]}
    shown = every.get(id_, {})
    secret = await daemon.ask("GET", f"/v1/subscriptions/{id_}/secret") if shown else None
    deliveries = (await daemon.ask("GET", "/v1/deliveries"))["data"]
    return {
        "count": len(every),
        "name": shown.get("name"),
        "state": shown.get("state"),
        "secrets": 0 if secret is None else 1 + len(secret["previous"]),
        "deliveries": [each["state"] for each in deliveries],
    }


# Much at once.


@pytest.mark.parametrize(
    ("fault", "size"),
    [
        pytest.param(at_row("deliveries", 1), None, id="K20 first row"),
        pytest.param(at_row("deliveries", 7_000), None, id="K20 some row"),
        pytest.param(AT_SIZE, 1_000_000, id="K20 some page"),
        pytest.param(at("K13-committed"), None, id="K20 after"),
    ],
)
async def test_ten_thousand_deliveries(fault: dict[str, Any], size: int | None, tmp_path: Path, launcher: Launcher) -> None:
    """A crash within a commit of 10,000 deliveries leaves none of them, and one after it leaves all."""
    events = [{"type": "order.created", "id": f"event-{n}", "data": n, "deliver_at": LATER} for n in range(1_000)]
    async with Daemon(tmp_path, fault, launcher=launcher) as daemon:
        for n in range(10):
            await daemon.subscribe(f"http://127.0.0.1:9999/{n}")
        if size is not None:
            daemon.tear(size)
        await tried(daemon, "POST", "/v1/events/batch", events)
        assert (-signal.SIGKILL if size is None else -signal.SIGXFSZ) == await daemon.ended()
        with left_by(daemon) as db:
            counts = db.execute("SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM deliveries)").fetchall()
        await daemon.start()
        await daemon.ask("POST", "/v1/events/batch", events)
        await daemon.kill()
        with left_by(daemon) as db:
            assert [(10_000,)] == db.execute("SELECT count(*) FROM deliveries").fetchall()

    assert [(1_000, 10_000) if fault == at("K13-committed") else (0, 0)] == counts


@pytest.mark.parametrize("statement", ["INSERT INTO deliveries", "UPDATE replays", "DELETE FROM replays"])
async def test_replay(statement: str, tmp_path: Path, launcher: Launcher) -> None:
    """A replay that a crash cuts goes on after the next start, and makes each delivery once."""
    events = [{"type": "order.created", "id": f"event-{n}", "data": n} for n in range(600)]
    arrivals = Arrivals()
    async with Receiver(arrivals) as receiver, Daemon(tmp_path, at_statement(statement), launcher=launcher) as daemon:
        id_ = await daemon.subscribe(receiver.url, max_concurrency=100)
        await daemon.ask("POST", "/v1/events/batch", events)
        await daemon.idle()
        await daemon.ask("POST", f"/v1/subscriptions/{id_}/replay", {"states": ["delivered"]})
        assert -signal.SIGKILL == await daemon.ended()
        await arrivals.divide()
        with left_by(daemon):
            pass
        await daemon.start()
        await receiver.wait(1_200, PATIENCE)
        await daemon.idle()
        await daemon.kill()
        with left_by(daemon) as db:
            made = db.execute("SELECT count(*), sum(replay) FROM deliveries WHERE state = 'delivered'").fetchall()

    assert [(1_200, 600)] == made


# The file.


async def test_migration(tmp_path: Path, launcher: Launcher) -> None:
    """K21: a crash at any statement of the migrations leaves a whole file of some schema, and the next start goes on."""
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


async def finish(launched: Launched) -> int:
    """The exit status of a process, once it has ended."""
    async with asyncio.timeout(PATIENCE):
        await launched.stderr.read()
        return await launched.wait()


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
        daemon.configure(retention="1ms")
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


# Starting, stopping, and being inside another program.


async def test_first_start(tmp_path: Path, launcher: Launcher) -> None:
    """K25: first starts that crash before a file is made, opened, named or removed, ever later, hinder none that follows."""
    daemon = Daemon(tmp_path, launcher=launcher)
    crashes = 0
    await daemon.launch(at_call(FILES))
    while not await daemon.gets_ready():
        crashes += 1
        await daemon.launch(at_call(FILES, crashes + 1))
    await daemon.kill()
    async with daemon, endpoint(daemon) as arrivals:
        await daemon.ask("POST", "/v1/events", EVENT)
        await arrivals.until({"event-1"})

    assert crashes > 15


async def test_five_crashes_in_a_row(tmp_path: Path, launcher: Launcher) -> None:
    """K25: starts that crash, one after the other and wherever they are, lose nothing and repeat nothing."""
    events = [{"type": "order.created", "id": f"event-{n}", "data": n} for n in range(50)]
    places = (at("K25-opened"), at("K25-migrated"), at_statement("SELECT", 5), at("K25-built"), at("K07-taken"))
    arrivals = Arrivals()
    async with Receiver(arrivals) as receiver, Daemon(tmp_path, at("K05-unanswered"), launcher=launcher) as daemon:
        await daemon.subscribe(receiver.url)
        await tried(daemon, "POST", "/v1/events/batch", events)
        assert -signal.SIGKILL == await daemon.ended()
        for place in places:
            await daemon.launch(place)
            assert -signal.SIGKILL == await daemon.ended()
            with left_by(daemon):
                pass
        await daemon.start()
        await daemon.idle()

    assert {each["id"]: 1 for each in events} == arrivals.eras[0]


@pytest.mark.parametrize("place", ["K26-stopping", "K26-cut", "K26-drained"])
async def test_crash_while_stopping(place: str, tmp_path: Path, launcher: Launcher) -> None:
    """K26: a crash while the daemon drains loses nothing, and repeats at most what was in flight."""
    async with (
        Daemon(tmp_path, at(place), launcher=launcher, concurrency=8, drain="50ms") as daemon,
        endpoint(daemon, delay=0.1) as arrivals,
    ):
        producers = Producers(daemon)
        async with producers.running(4):
            await producers.until(20)
            daemon.signal(signal.SIGTERM)
            assert -signal.SIGKILL == await daemon.ended()
            await arrivals.divide()
            with left_by(daemon):
                pass
            await daemon.start()
        await daemon.idle()

    verdict = judge(producers, arrivals)
    assert (set(), set(), set()) == verdict[:3]
    assert 0 < verdict.repeats[1] <= 8


@pytest.mark.parametrize(
    ("way", "status"),
    [
        pytest.param("exits", 3, id="K27 os._exit"),
        pytest.param("raises", 1, id="K27 exception"),
        pytest.param("stops the loop", 1, id="K27 loop.stop"),
    ],
)
async def test_crash_of_the_host(way: str, status: int, tmp_path: Path, launcher: Launcher) -> None:
    """A program that the engine lives in loses nothing that was published, however it ends."""
    arrivals = Arrivals(delay=0.01)
    async with Receiver(arrivals) as receiver:
        host = await launcher.launch(str(tmp_path), receiver.url, way, program="host")
        said = (await host.stderr.read()).decode()
        accepted = {line.split()[1] for line in said.splitlines() if line.startswith("accepted ")}
        assert status == await finish(host), said
        await arrivals.divide()
        host = await launcher.launch(str(tmp_path), receiver.url, "waits", program="host")
        assert b"" == await host.stderr.read()
        assert 0 == await finish(host)

    assert len(accepted) >= 20
    assert accepted <= arrivals.bodies.keys()
    assert arrivals.repeats()[1] <= 8


@pytest.mark.parametrize("connection", [0, 1], ids=["K28 writer", "K28 reader"])
async def test_dead_thread(connection: int, tmp_path: Path, launcher: Launcher) -> None:
    """A daemon that loses a thread of SQLite's answers 503 and ends with 70 within two seconds; nothing is lost."""
    fault = {"kind": "loses_thread", "connection": connection, "orders": 150 if connection == 0 else 40}
    loop = asyncio.get_running_loop()
    async with Daemon(tmp_path, fault, launcher=launcher) as daemon, endpoint(daemon) as arrivals:
        producers = Producers(daemon)
        async with producers.running(4):
            while await tried(daemon, "GET", "/v1/deliveries?limit=1"):
                pass
            assert 70 == await daemon.ended(), daemon.said
            seconds = loop.time() - producers.accepted_at
            await daemon.start()
        await daemon.idle()

    verdict = judge(producers, arrivals)
    assert (set(), set(), set()) == verdict[:3]
    assert producers.refused == {503} or (connection == 1 and not producers.refused)
    assert seconds < 3


# Nothing is left out.


def texts(pattern: str) -> set[str]:
    """What *pattern* finds at the beginning of the texts in this file: of ids, arguments and docstrings of tests."""
    nodes = ast.walk(ast.parse(Path(__file__).read_text()))
    constants = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return {found[0] for text in constants if (found := re.match(pattern, text))}


def test_every_failpoint_is_reached() -> None:
    """Each failpoint of the package ends the daemon of a test here, and each that a test names is there."""
    calls = [
        node for path in PACKAGE.rglob("*.py") for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)
    ]
    names = {ast.literal_eval(call.args[0]) for call in calls if ast.unparse(call.func) == "failpoint"}

    assert texts(r"K\d\d-[a-z]+$") == names


def test_every_row_has_a_test() -> None:
    """Each row of the crash matrix, which has no K16, is the name of a case or begins the docstring of a test."""
    assert {f"K{number:02}" for number in range(1, 29) if number != 16} == texts(r"K\d\d(?=$|[ :])")
