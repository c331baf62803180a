"""A crash at each step in the life of an event: rows K01 to K18 of the crash matrix; and whether each row has its test."""

from __future__ import annotations

import ast
import asyncio
import re
import signal
import socket
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from daemon import Daemon
from load import EVENT, LATER, Arrivals, endpoint, left_by, tried
from patience import PATIENCE
from places import AT_SIZE, at, at_row

from hookengine.receiver import Received, Receiver, Reply

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from launcher import Launcher

HERE = Path(__file__).parent
PACKAGE = HERE.parent.parent / "hookengine"
LARGE = 8 << 20  # bytes: more than the kernel takes off a sender's hands at once


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


@pytest.mark.row("K04")
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


@pytest.mark.row("K06")
async def test_crash_at_the_answer(tmp_path: Path, launcher: Launcher) -> None:
    """An event whose producer has its 202 is delivered, though the daemon ends at that moment."""
    async with Daemon(tmp_path, launcher=launcher) as daemon, endpoint(daemon) as arrivals:
        await daemon.ask("POST", "/v1/events", EVENT)
        await daemon.kill()
        await daemon.start()
        await daemon.idle()

    assert {"event-1"} == arrivals.bodies.keys()


@pytest.mark.row("K10")
async def test_crash_before_the_answer_of_an_endpoint(tmp_path: Path, launcher: Launcher) -> None:
    """A request that arrived whole, and was not answered, is made once more with the same id and bytes."""
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


@pytest.mark.row("K09")
async def test_half_of_a_body(tmp_path: Path, launcher: Launcher) -> None:
    """An endpoint that got a part of a request gets the whole of it later."""
    event = EVENT | {"data": "x" * LARGE}
    async with (
        reader_after() as (url, sizes, dead),
        Daemon(tmp_path, at("K09-written"), launcher=launcher, tables=f"[server]\nmax_body = {2 * LARGE}") as daemon,
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


def texts(pattern: str) -> set[str]:
    """What *pattern* finds at the beginning of texts in the tests of crashes: of ids, arguments and docstrings."""
    nodes = [node for path in HERE.glob("test_crash*.py") for node in ast.walk(ast.parse(path.read_text()))]
    constants = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return {found[0] for text in constants if (found := re.match(pattern, text))}


def test_every_failpoint_is_reached() -> None:
    """Each failpoint of the package ends the process of a test, and each that a test names is there."""
    sources = [source for path in PACKAGE.rglob("*.py") if "failpoint(" in (source := path.read_text())]
    calls = [node for source in sources for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    names = {ast.literal_eval(call.args[0]) for call in calls if ast.unparse(call.func) == "failpoint"}

    assert texts(r"K\d\d-[a-z]+$") == names
