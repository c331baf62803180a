"""What 200,000 waiting deliveries cost: disk."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from daemon import Daemon, silent

from hookengine.bench.backlog import HOUR, fill
from hookengine.clock import Clock
from hookengine.engine import DATABASE
from hookengine.receiver import Receiver

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.alone

BACKLOG = int(os.environ.get("BACKLOG", "200000"))  # `make soak` has more
ALLOWANCE = 60 << 20  # bytes of memory


@pytest.mark.parametrize("due", [pytest.param(False, id="waiting"), pytest.param(True, id="due")])
async def test_backlog_costs_disk_alone(tmp_path: Path, due: bool) -> None:
    """With 200,000 deliveries a start is ready as soon as an empty one, takes little more memory, and sends what is due."""
    (tmp_path / "empty").mkdir()
    async with silent() as url, Receiver() as receiver, Daemon(tmp_path / "empty") as empty, Daemon(tmp_path) as daemon:
        for each in (empty, daemon):
            subscription = await each.subscribe(receiver.url if due else url)
            await each.stop()
        now = Clock().now()
        due_at = now + (-HOUR if due else HOUR)
        fill(daemon.data / DATABASE, subscription, BACKLOG, due_at=due_at, accepted_at=now - HOUR)
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
