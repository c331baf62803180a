"""What 200,000 waiting deliveries cost: disk."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from daemon import Daemon, silent

from hookengine.clock import Clock
from hookengine.receiver import Receiver

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.alone

BACKLOG = 200_000
ALLOWANCE = 60 << 20  # bytes of memory
HOUR = 3_600_000


def fill(data: Path, due_at: int) -> None:
    """Put events with a delivery each into the file, as if they had been accepted earlier."""
    numbers = f"WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {BACKLOG})"
    accepted_at = Clock().now() - HOUR
    with closing(sqlite3.connect(data / "hooks.db")) as db:
        (subscription,) = db.execute("SELECT max(seq) FROM subscriptions").fetchone()
        db.execute(
            f"{numbers} INSERT INTO events (seq, id, tenant, type, data, accepted_at, occurred_at, deliveries)"
            " SELECT n, 'event-' || n, 'default', 'order.created', CAST(printf('{\"pad\":\"%0500d\"}', n) AS BLOB),"
            f" {accepted_at}, {accepted_at}, 1 FROM n"
        )
        db.execute(
            f"{numbers} INSERT INTO deliveries (seq, id, event, subscription, state, priority, due_at, created_at)"
            f" SELECT n, 'delivery-' || n, n, {subscription}, 'pending', 1, {due_at} + n, {accepted_at} FROM n"
        )
        db.commit()


@pytest.mark.parametrize("due", [pytest.param(False, id="waiting"), pytest.param(True, id="due")])
async def test_backlog_costs_disk_alone(tmp_path: Path, due: bool) -> None:
    """With 200,000 deliveries a start is ready as soon as an empty one, takes little more memory, and sends what is due."""
    (tmp_path / "empty").mkdir()
    async with silent() as url, Receiver() as receiver, Daemon(tmp_path / "empty") as empty, Daemon(tmp_path) as daemon:
        for each in (empty, daemon):
            await each.subscribe(receiver.url if due else url)
            await each.stop()
        fill(daemon.data, Clock().now() + (-HOUR if due else HOUR))
        seconds: dict[Daemon, float] = {}
        memory: dict[Daemon, int] = {}
        for each in (daemon, empty) * 2:  # the better of two, because others use this machine, too
            seconds[each] = min(await each.start(), seconds.get(each, 60.0))
            if each is daemon and due:
                await receiver.wait(len(receiver.requests) + 1_000, 30)
            memory[each] = each.memory()
            await each.kill()

    more = memory[daemon] - memory[empty]
    print(  # noqa: T201  # shown with -s
        f"ready after {seconds[daemon]:.2f} s, empty after {seconds[empty]:.2f} s; {more / (1 << 20):.1f} MiB more"
    )
    assert seconds[daemon] <= 2 * seconds[empty]
    assert more <= ALLOWANCE
