"""What everything that is written works with: one transaction at a time, undone whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from storage import io_error, opened

from hookengine.errors import StorageFailed
from hookengine.store.queries import sql

if TYPE_CHECKING:
    from pathlib import Path


async def test_roll_back_undoes_what_was_begun(tmp_path: Path) -> None:
    """What was written is gone, another transaction can begin, and where none has begun there is nothing to do."""
    async with opened(tmp_path) as place:
        writing = place.store.writer._writing
        for _ in range(2):
            await writing.begin()
            await writing.db.execute(sql.set_meta, ("x", b"x"))
            await writing.roll_back(ValueError("of no interest"))
            assert not writing.db.in_transaction
        await writing.roll_back(ValueError("of no interest"))
        assert [("vault_check",)] == place.rows("SELECT name FROM meta")


@pytest.mark.parametrize("name", ["SQLITE_IOERR_FSYNC", "SQLITE_IOERR_DIR_FSYNC", "SQLITE_CORRUPT_INDEX", "SQLITE_NOTADB"])
async def test_nothing_is_undone_after_what_is_fatal(tmp_path: Path, name: str) -> None:
    """After an error with which nobody knows what is on disk, nothing is undone and no more written."""
    async with opened(tmp_path) as place:
        writing = place.store.writer._writing
        await writing.begin()
        with pytest.raises(StorageFailed):
            await writing.roll_back(io_error(name))
        assert writing.db.in_transaction
