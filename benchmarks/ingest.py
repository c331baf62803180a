"""Over HTTP, end to end: another process posts events to the API until every delivery is recorded as delivered."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

from embedded import check_delivered, recorded, subscribed
from scenario import arguments, measure

PRODUCER = Path(__file__).with_name("producer.py")


async def ingest(url: str, count: int, batch: int) -> float:
    """The seconds from the first request of the producer to the last recorded delivery."""
    async with subscribed(url, serve="127.0.0.1:0") as engine:
        assert engine.url is not None
        token = (engine.path.parent / "admin.token").read_text().strip()
        producer = await asyncio.create_subprocess_exec(
            *(sys.executable, PRODUCER, "--url", engine.url, "--count", str(count), "--batch", str(batch)),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "HOOKENGINE_TOKEN": token},
        )
        started, _ = await producer.communicate()
        if producer.returncode:
            raise RuntimeError("the producer failed")
        await recorded(engine)
        # Both processes read the same clock of the machine.
        seconds = time.monotonic() - float(started)
        await check_delivered(engine, count)
    return seconds


if __name__ == "__main__":
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, default=1, help="events in one request")
    options = parser.parse_args()
    measure(ingest(options.url, options.count, options.batch), count=options.count)
