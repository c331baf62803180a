"""Opens the file that is its argument as the engine does, and closes it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from hookengine.store import commit
from hookengine.store.database import close, migrate, open_writer


def main() -> None:
    """The whole program."""
    asyncio.run(migrated(Path(sys.argv[1])))


async def migrated(path: Path) -> None:
    """Open the file at *path* and close it."""
    db = await open_writer(path, synchronous="full")
    try:
        await migrate(db, path)
        await commit.prepare(db)
    finally:
        await close(db)
