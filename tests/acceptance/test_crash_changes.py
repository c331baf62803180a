"""A crash amid changes of subscriptions and work of many rows: rows K19 and K20 of the crash matrix."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from daemon import Daemon
from load import EVENT, LATER, Arrivals, left_by, tried
from patience import PATIENCE
from places import AT_SIZE, at, at_row, at_statement

from hookengine.receiver import Receiver

if TYPE_CHECKING:
    from pathlib import Path

    from launcher import Launcher


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


@pytest.mark.parametrize(
    ("fault", "before", "total"),
    [
        pytest.param(at_statement("UPDATE deliveries SET place"), 0, 1, id="before it is composed"),
        pytest.param(at("K07-taken"), 0, 1, id="composed, not sent"),
        pytest.param(at("K11-ended"), 1, 2, id="answered, not recorded"),
        pytest.param(at_row("attempts", 2), 1, 2, id="within the commit of its results"),
        pytest.param(at("K13-committed", 2), 1, 1, id="recorded"),
    ],
)
async def test_batch(fault: dict[str, Any], before: int, total: int, tmp_path: Path, launcher: Launcher) -> None:
    """Deliveries that share a request are repeated together, byte for byte, or not at all."""
    events = [{"type": "campaign.sent", "id": f"event-{n}", "data": {"n": n}} for n in range(3)]
    async with Receiver() as receiver, Daemon(tmp_path, fault, launcher=launcher) as daemon:
        await daemon.subscribe(receiver.url, profile="clevertap", batch={"max_events": 3, "max_wait": "1h"})
        receiver.requests.clear()  # of the test when it was saved
        await tried(daemon, "POST", "/v1/events/batch", events)
        assert -signal.SIGKILL == await daemon.ended()
        assert before == len(receiver.requests)
        with left_by(daemon) as db:
            assert [(0 if total > before else 3,)] == db.execute("SELECT count(*) FROM attempts").fetchall()
        await daemon.start()
        await daemon.idle()
        found = (await daemon.ask("GET", "/v1/deliveries"))["data"]

    assert [("delivered", 1)] * 3 == [(each["state"], each["attempt_count"]) for each in found]
    assert total == len(receiver.requests)
    assert 1 == len({request.body for request in receiver.requests})
