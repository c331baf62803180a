"""What a SIGKILL does to batches: what was put together stays together."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING

from daemon import Daemon
from load import Producers

from hookengine.receiver import Received, Receiver, Reply

if TYPE_CHECKING:
    from pathlib import Path


async def test_composition_outlives_kills(tmp_path: Path) -> None:
    """Three SIGKILLs under load: nothing is lost, and no event is ever in two different requests."""
    sent: defaultdict[bytes, int] = defaultdict(int)

    def answer(request: Received) -> Reply:
        if b"is_test" in request.body:
            return Reply()
        sent[request.body] += 1
        return Reply(delay=0.02, status=200 if request.number % 3 else 500)

    async with Daemon(tmp_path, concurrency=32) as daemon, Receiver(answer) as receiver:
        settings = {"profile": "clevertap", "batch": {"max_events": 7, "max_wait": "50ms"}, "retry_schedule": ["50ms"] * 20}
        id_ = await daemon.subscribe(receiver.url, **settings)
        producers = Producers(daemon)
        async with producers.running():
            for _ in range(3):
                await producers.until(300)
                await daemon.kill()
                await daemon.start()
            await producers.until(300)
        while (await daemon.ask("GET", f"/v1/subscriptions/{id_}/stats"))["deliveries"]["pending"]:
            pass
        assert 0 == (await daemon.stop())[0]

    where: defaultdict[str, set[bytes]] = defaultdict(set)
    for body in sent:
        for event in json.loads(body)["profiles"]:
            where[event["id"]].add(body)
    assert producers.accepted <= where.keys()
    assert {1} == {len(bodies) for bodies in where.values()}
    assert max(sent.values()) > 1  # some went again
    assert len(sent) < len(where)
