"""Over HTTP, end to end: another process posts events to the API until every delivery is recorded as delivered."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hookengine.bench.embedded import WIDTH, local_engine, recorded
from hookengine.bench.scenario import arguments, command, environment, figures, print_figures
from hookengine.clock import cpu_time
from hookengine.engine import TOKEN_FILE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


async def ingest(url: str, count: int, directory: Path, *, batch: int = 1) -> dict[str, float]:
    """What *count* deliveries take from the first request of the producer to the last record; the CPU time is the engine's."""
    async with local_engine(directory, serve="127.0.0.1:0") as engine:
        subscription = await engine.subscribe(url, max_concurrency=WIDTH)
        cpu = cpu_time()
        began = await post(str(engine.url), (directory / TOKEN_FILE).read_text().strip(), count, batch)
        await recorded(engine, subscription, count)
        return figures(count, began, cpu)


async def post(url: str, token: str, count: int, batch: int) -> float:
    """Let a producer post everything, and return when it began, by the clock that all processes read."""
    producer = await asyncio.create_subprocess_exec(
        *command("producer", "--url", url, "--count", str(count), "--batch", str(batch)),
        stdout=asyncio.subprocess.PIPE,
        env=environment(HOOKENGINE_TOKEN=token),
    )
    began, _ = await producer.communicate()
    if producer.returncode:
        raise RuntimeError("the producer failed")
    return float(began)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the scenario with the flags of *argv*, by default the process's own."""
    parser = arguments(__doc__)
    parser.add_argument("--batch", type=int, default=1, help="events in one request")
    options = parser.parse_args(argv)
    [url] = options.url
    print_figures(ingest(url, options.count, options.directory, batch=options.batch))


if __name__ == "__main__":
    main()
