"""What one commit writes, as the one statement that it is (commit.sql)."""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    import aiosqlite

    from hookengine.models import Response

Values = tuple[Any, ...]
Parts = tuple[Values, Values]  # of a row of `Rows`: its own columns, and those that many have alike
Extent = tuple[int, int]  # where bytes begin, counted from 1 as SQLite does, and how many they are

SCRIPT = (files(__package__) / "commit.sql").read_text(encoding="utf-8")

_TABLES = (
    *("settled", "interrupted", "exchanges", "attempts", "health", "changed", "events", "deliveries", "lined", "advanced"),
    *("spent_keys", "keys", "statistics"),
)


class Rows:
    """Rows of a table with many: what they have alike stands once, as a kind, because SQLite takes long to read it."""

    __slots__ = ("kinds", "rows")

    def __init__(self) -> None:
        self.rows: list[Values] = []  # each ends with the position of its kind
        self.kinds: dict[Values, int] = {}

    def add(self, own: Values, alike: Values) -> None:
        """A row of its *own* columns and those that many have *alike*."""
        self.rows.append(own + (self.kinds.setdefault(alike, len(self.kinds)),))  # noqa: RUF005  # half the time of a star


class Commit:
    """
    The rows of one commit by table, in the forms of `rows`.

    JSON takes them to SQLite. Bytes, which JSON cannot hold, stand one behind the other beside it; a row has their place.
    """

    __slots__ = (*_TABLES, "_bytes", "_size", "responses")

    def __init__(self) -> None:
        self.settled = Rows()
        self.interrupted: list[int] = []  # deliveries whose last attempt makes room, if it was interrupted too
        self.exchanges: list[Values] = []
        self.attempts = Rows()
        self.health: list[Values] = []
        self.changed: list[Values] = []  # subscriptions
        self.events = Rows()
        self.deliveries = Rows()
        self.lined: list[Values] = []  # those of `deliveries` that have a turn
        self.advanced: list[Values] = []  # lines whose heads have ended
        self.spent_keys: list[Values] = []  # earlier uses of `keys`, if their time is over
        self.keys: list[Values] = []
        self.statistics: list[Values] = []
        self.responses: dict[int, tuple[Response, Extent | None, Extent | None]] = {}  # by `id`; where head and body stand
        self._bytes: list[bytes] = []
        self._size = 0

    def place(self, content: bytes | None) -> Extent | None:
        """Keep *content*, and say where."""
        if content is None:
            return None
        start = self._size + 1
        self._bytes.append(content)
        self._size += len(content)
        return start, len(content)

    def bytes_at(self, place: Extent | None) -> bytes | None:
        """What is kept at *place*."""
        return None if place is None else b"".join(self._bytes)[place[0] - 1 : sum(place) - 1]

    def values(self) -> list[str | bytes | None]:
        """
        The values of `sql.commit`.

        Raises TypeError for what JSON does not hold: text with surrogates, numbers beyond 64 bits.
        """
        values: list[str | bytes | None] = []
        for name in _TABLES:
            rows: list[Any] | Rows = getattr(self, name)
            values += (_json(rows.rows), _json(list(rows.kinds))) if isinstance(rows, Rows) else (_json(rows),)
        values.append(b"".join(self._bytes))
        return values


def _json(rows: list[Any]) -> str | None:
    return orjson.dumps(rows).decode() if rows else None


async def prepare(db: aiosqlite.Connection) -> None:
    """Let `sql.commit` be executed on *db*, whose schema is the present one, with what is temporary in memory from now on."""
    await db.execute("PRAGMA temp_store = MEMORY")
    await db.executescript(SCRIPT)
