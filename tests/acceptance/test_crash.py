"""What SIGKILLs at random moments leave, under load."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from contextlib import closing
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from daemon import Daemon
from load import Producers, Verdict, endpoint, judge, left_by
from patience import PATIENCE
from places import at

from hookengine.clock import Clock
from hookengine.receiver import Received, Receiver, Reply

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from launcher import Launcher

CONCURRENCY = 32
KILLS = int(os.environ.get("KILLS", "30"))  # `make soak` has more
SEED = int(os.environ.get("SEED", "1"))
_OF_ONE_FILE = 30  # kills, then the next file: the check of a large one takes long


class Kill(NamedTuple):
    """How a run ends: by its *faults*, or *seconds* after *events* more were accepted, or after its launch."""

    events: int = 0
    seconds: float = 0.0
    faults: tuple[dict[str, Any], ...] = ()


# What events and deliveries pass, again and again.
PLACES = (
    *("K01-read", "K02-checked", "K03-staged", "K05-unanswered", "K07-taken", "K08-connected", "K09-written", "K11-ended"),
    "K13-committed",
)


def at_random(rng: Random) -> Kill:
    """One in six falls into the start, two at a place that is passed under load, the others anywhere."""
    match rng.randrange(6):
        case 0:
            return Kill(seconds=rng.uniform(0, 0.15))
        case 1 | 2:
            return Kill(faults=(at(rng.choice(PLACES), rng.randint(1, 50)),))
        case _:
            return Kill(events=rng.randint(1, 60), seconds=rng.uniform(0, 0.03))


async def campaign(folder: Path, launcher: Launcher, kills: Iterable[Kill]) -> tuple[Verdict, Producers]:
    """The verdict on a daemon that works under load, is ended by each of *kills*, and last is left to finish what it has."""
    async with (
        Daemon(folder, concurrency=CONCURRENCY, launcher=launcher) as daemon,
        endpoint(daemon, delay=0.02, refuses=20) as arrivals,
    ):
        producers = Producers(daemon, pad=500)
        async with producers.running():
            await daemon.kill()
            for kill in kills:
                await _suffer(daemon, producers, kill)
                await arrivals.divide()
                with left_by(daemon):
                    pass
            await daemon.start()
            await producers.until(50)
        await daemon.idle()
        assert 0 == (await daemon.stop())[0]
    with closing(sqlite3.connect(daemon.data / "hooks.db")) as db:
        stored = {id_ for (id_,) in db.execute("SELECT id FROM events")}
        states = db.execute("SELECT state, count(*) FROM deliveries GROUP BY state").fetchall()
    assert [("delivered", len(stored))] == states
    return judge(producers, arrivals), producers


async def _suffer(daemon: Daemon, producers: Producers, kill: Kill) -> None:
    if kill.faults:
        await daemon.start(*kill.faults)
        assert -signal.SIGKILL == await daemon.ended()
        return
    if kill.events:
        await daemon.start()
        await producers.until(kill.events)
    else:
        await daemon.launch()
    assert not await daemon.ended_within(kill.seconds), daemon.said
    await daemon.kill()


@pytest.mark.parametrize("part", range(-(-KILLS // _OF_ONE_FILE)))
async def test_nothing_accepted_is_lost(part: int, tmp_path: Path, launcher: Launcher) -> None:
    """SIGKILLs at random moments lose nothing, repeat at most what was in flight, byte for byte, and leave a whole file."""
    rng = Random(f"{SEED} {part}")
    count = min(_OF_ONE_FILE, KILLS - part * _OF_ONE_FILE)
    print(f"SEED={SEED}, part {part}: {count} kills")  # noqa: T201  # shown where it fails, and with -s

    verdict, producers = await campaign(tmp_path, launcher, (at_random(rng) for _ in range(count)))

    repeated = sum(verdict.repeats)
    print(f"accepted {len(producers.accepted)}, recovered {len(verdict.recovered)}, repeated {repeated}")  # noqa: T201
    assert set() == verdict.lost
    assert set() == verdict.unexpected
    assert set() == verdict.altered
    assert max(verdict.repeats) <= CONCURRENCY
    assert verdict.repeats[0] == 0 < repeated
    assert verdict.recovered


@pytest.mark.parametrize(
    ("variant", "place"),
    [("answers_before_it_commits", "K03-staged"), ("marks_before_it_sends", "K08-connected")],
)
async def test_harness_has_teeth(variant: str, place: str, tmp_path: Path, launcher: Launcher) -> None:
    """A daemon that answers before its commit, or marks what it has not sent, loses events, and the harness says so."""
    faults = [({"kind": variant}, at(place, passage)) for passage in (3, 5)]

    verdict, _ = await campaign(tmp_path, launcher, [Kill(faults=each) for each in faults])

    assert verdict.lost


async def test_pause_of_a_breaker_outlives_a_kill(tmp_path: Path) -> None:
    """An endpoint whose breaker is open is left in peace by the next start, too, until the pause is over."""
    at: list[int] = []
    failed, again = asyncio.Event(), asyncio.Event()

    def answer(request: Received) -> Reply:
        at.append(request.at)
        if len(at) == 10:
            failed.set()
        if len(at) > 10:
            again.set()
        return Reply(status=200 if len(at) > 10 else 500)

    async with Daemon(tmp_path) as daemon, Receiver(answer) as receiver:
        id_ = await daemon.subscribe(receiver.url, retry_schedule=["1ms"] * 20)
        await daemon.ask("POST", "/v1/events", {"type": "order.created", "data": 1})
        async with asyncio.timeout(PATIENCE):
            await failed.wait()
            while (await daemon.ask("GET", f"/v1/subscriptions/{id_}"))["consecutive_failures"] < 10:
                pass
        await daemon.kill()
        await daemon.start()
        started = Clock().now()
        async with asyncio.timeout(PATIENCE):
            await again.wait()

    assert started <= at[10]
    assert at[10] - at[9] >= 5_000
