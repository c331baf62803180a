"""A real store on a temporary file, who listens to it, and the records that go in."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import asynccontextmanager, closing, contextmanager
from inspect import signature
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from msgspec.structs import replace
from patience import PATIENCE

from hookengine import retry
from hookengine.clock import Clock
from hookengine.errors import SubscriptionNotFound
from hookengine.models import (
    Accepted,
    AccessToken,
    Attempt,
    AttemptError,
    Delivery,
    ErrorCode,
    Interrupted,
    OAuth2,
    Refused,
    Request,
    Response,
    Rules,
    Secret,
    SigningSecret,
    Subscription,
    Trigger,
    Unreachable,
)
from hookengine.store import Draft, Receipt, Recorded, Result, Store, changes
from hookengine.store.commit import SCRIPT, Commit, Rows
from hookengine.store.intake import UnderWay
from hookengine.store.queries import migrations, sql

if TYPE_CHECKING:
    import threading
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
    from pathlib import Path

    from hookengine.gathering import Compose, Composed
    from hookengine.lanes import Mark
    from hookengine.models import Event, Outcome
    from hookengine.scheduler import Refill
    from hookengine.store import Transaction

NOW = 1_700_000_000_000  # when the clock of a test starts
MINUTE = 60_000
HOUR = 60 * MINUTE
DAY = 24 * HOUR

OAUTH2 = OAuth2(grant="client_credentials", token_url="https://a.example", client_id="c", client_secret=Secret("s"))
OTHER_OAUTH2 = replace(OAUTH2, scopes=("x",))
ACCESS_TOKEN = AccessToken(value=Secret("a"), refresh_token=Secret("r"), renew_at=NOW)
RULES = Rules(retry_schedule=(10 * MINUTE, HOUR))
DELIVERED = Accepted(response=Response(status=204, headers=(("server", "x"),), body=b"", truncated=False))
NO_ANSWER = Unreachable(error=AttemptError(code=ErrorCode.TIMEOUT_RESPONSE, detail="no answer in 15 s"))
INTERRUPTED = Interrupted(error=AttemptError(code=ErrorCode.LOCAL_NETWORK, detail="no route"))
GONE = Refused(
    error=AttemptError(code=ErrorCode.HTTP_STATUS, detail="410"),
    response=Response(status=410, headers=(), body=b"bye", truncated=False),
)


class SetClock(Clock):
    """A clock that stands where it is set."""

    def __init__(self, time: int = NOW) -> None:
        super().__init__()
        self.time = time

    def now(self) -> int:
        """The time that was set."""
        return self.time


class Recorder:
    """A listener that keeps what it is told, in order, and may be asked to look at the same moment."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []
        self.changed_since: dict[int, Delivery] = {}
        self.in_flight: list[int] = []
        self.batches_in_flight: list[int] = []
        self.commits: list[tuple[int, int]] = []  # new events and deliveries of each
        self.look: Callable[[str], None] = lambda _: None
        self._more = asyncio.Event()

    def current(self, delivery: Delivery) -> Delivery:
        """As it was taken, or as a test has it changed."""
        return self.changed_since.get(delivery.seq, delivery)

    def under_way(self) -> UnderWay:
        """What a test has in flight."""
        return UnderWay(self.in_flight, self.batches_in_flight)

    def committed(self, events: int, deliveries: int) -> None:
        """A commit."""
        self.commits.append((events, deliveries))

    def accepted(self, deliveries: Sequence[tuple[Delivery, Event | None]]) -> None:
        """New deliveries are committed."""
        self._keep("accepted", list(deliveries))

    def recorded(self, results: list[list[Recorded]]) -> None:
        """Results are committed."""
        self._keep("recorded", [recorded for group in results for recorded in group])

    def unrecorded(self, results: Sequence[Result], error: Exception) -> None:
        """A result, or those of a batch, cannot be stored."""
        self._keep("unrecorded", (*results, error))

    def promoted(self, delivery: Delivery) -> None:
        """Another delivery leads its batch."""
        self._keep("promoted", delivery)

    def composed(self, asked: Compose, composed: Composed | None) -> None:
        """What became of batches that were asked for."""
        self._keep("composed", (asked, composed))

    def unreadable(self, where: str, error: Exception) -> None:
        """A row cannot be read."""
        self._keep("unreadable", (where, error))

    def changed(self, before: Subscription | None, after: Subscription | None) -> None:
        """A subscription was made, changed or deleted."""
        self._keep("changed", (before, after))

    def signed_anew(self, tenant: str) -> None:
        """Keep it."""
        self._keep("signed_anew", tenant)

    def overruled(self, before: Delivery, after: Delivery) -> None:
        """A delivery was changed by hand or by upkeep."""
        self._keep("overruled", (before, after))

    def replaying(self, subscription: Subscription, count: int, *, finished: bool) -> None:
        """A replay has begun, or is finished."""
        self._keep("replaying", (subscription.seq, count, finished))

    def refilled(self, refill: Refill, deliveries: list[Delivery], mark: Mark | None) -> None:
        """The answer to a refill."""
        self._keep("refilled", (refill, deliveries, mark))

    def storage(self, error: Exception | None) -> None:
        """Commits fail, or work again."""
        self._keep("storage", error)

    def room(self, lack: Exception | None) -> None:
        """New events find no room, or find some again."""
        self._keep("room", lack)

    def all(self, name: str) -> list[Any]:
        """All that was told under *name*, oldest first."""
        return [what for told, what in self.told if told == name]

    async def until(self, name: str, count: int = 1) -> list[Any]:
        """Wait until something was told *count* times; all of it."""
        async with asyncio.timeout(PATIENCE):
            while len(self.all(name)) < count:
                self._more.clear()
                await self._more.wait()
        return self.all(name)

    @property
    def deliveries(self) -> list[Delivery]:
        """All that were accepted, oldest first."""
        return [delivery for batch in self.all("accepted") for delivery, _ in batch]

    def _keep(self, name: str, what: Any) -> None:
        self.told.append((name, what))
        self.look(name)
        self._more.set()


class Opened(Struct, frozen=True, kw_only=True):
    """An open store with its listener and its clock."""

    store: Store
    listener: Recorder
    clock: SetClock
    path: Path

    async def subscribe(self, **settings: Any) -> Subscription:
        """A new subscription, of everything unless *settings* say otherwise."""
        made = await self.store.writer.change(changes.add_subscription(subscription(self.clock, **settings)))
        assert isinstance(made, Subscription)
        return made

    async def publish(self, *drafts: Draft) -> list[Receipt]:
        """The receipts of *drafts*, or of one."""
        receipts = await self.store.writer.publish(list(drafts) or [draft()])
        assert isinstance(receipts, list)
        return receipts

    async def deliver(self, *drafts: Draft) -> list[Delivery]:
        """The deliveries that *drafts*, or one, make."""
        known = {delivery.event for delivery in self.listener.deliveries}
        new = {each.event.seq: each.deliveries for each in await self.publish(*drafts) if each.event.seq not in known}
        while True:
            made = [delivery for delivery in self.listener.deliveries if delivery.event in new]
            if len(made) >= sum(new.values()):
                return made
            await self.listener.until("accepted", len(self.listener.all("accepted")) + 1)

    async def record(self, *results: Result) -> list[Recorded]:
        """Record *results* together, and wait until they are stored."""
        before = len(self.listener.all("recorded"))
        for each in results:
            self.store.writer.record(each)
        await self.listener.until("recorded", before + 1)
        return [recorded for batch in self.listener.all("recorded")[before:] for recorded in batch]

    async def refill(self, refill: Refill) -> tuple[list[Delivery], Mark | None]:
        """The rows that *refill* brings, and the mark after them."""
        before = len(self.listener.all("refilled"))
        self.store.writer.refill(refill)
        asked, deliveries, mark = (await self.listener.until("refilled", before + 1))[-1]
        assert refill == asked
        return deliveries, mark

    async def compose(self, asked: Compose) -> Composed:
        """What becomes of the batches that are *asked* for."""
        before = len(self.listener.all("composed"))
        self.store.writer.compose(asked)
        told, answer = (await self.listener.until("composed", before + 1))[-1]
        composed: Composed = answer
        assert (asked, True) == (told, composed is not None)
        return composed

    async def edit(self, subscription: Subscription, **settings: Any) -> Subscription:
        """*subscription* with other *settings*."""
        return await edit(self.store, subscription, **settings)

    def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """What *statement* gives on a connection of its own: only what is committed."""
        return rows(self.path, statement, *values)


@asynccontextmanager
async def opened(folder: Path, *, clock: SetClock | None = None, **settings: Any) -> AsyncIterator[Opened]:
    """The store in *folder*, open, with other *settings* of Store."""
    clock = clock or SetClock()
    path = folder / "hooks.db"
    listener = Recorder()
    store = Store(path, clock=clock, **settings)
    await store.open(listener)
    try:
        yield Opened(store=store, listener=listener, clock=clock, path=path)
    finally:
        await store.close()


@asynccontextmanager
async def traced(place: Opened) -> AsyncIterator[list[str]]:
    """The statements that the writer's connection executes meanwhile."""
    statements: list[str] = []
    await place.store.writer._writing.db.set_trace_callback(statements.append)
    try:
        yield statements
    finally:
        await place.store.writer._writing.db.set_trace_callback(None)  # type: ignore[arg-type]  # sqlite3 takes None, aiosqlite's hint does not


class Faulty:
    """A write connection whose commits fail while `error` is set: a real disk cannot be made to fail a sync."""

    def __init__(self, place: Opened) -> None:
        self.error: Exception | None = None
        self._db = place.store.writer._writing.db
        place.store.writer._writing.db = self  # type: ignore[assignment]  # it behaves as one

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    async def commit(self) -> None:
        """Commit, or raise."""
        if (error := self.error) is not None:
            raise error
        await self._db.commit()

    @property
    def _conn(self) -> FaultyConnection:
        return FaultyConnection(self, self._db._conn)


class FailingInTurn(Faulty):
    """A write connection whose next commits fail, each with one of *errors*, or not where that is None."""

    def __init__(self, place: Opened, *errors: Exception | None) -> None:
        self._errors = list(errors)
        super().__init__(place)

    @property
    def error(self) -> Exception | None:
        """What the next commit fails with."""
        return self._errors.pop(0) if self._errors else None

    @error.setter
    def error(self, _: Exception | None) -> None:
        """There is one for each."""


class FaultyConnection:
    """What `Faulty` has in its thread."""

    def __init__(self, faulty: Faulty, connection: sqlite3.Connection) -> None:
        self._faulty = faulty
        self._connection = connection

    def execute(self, statement: str, values: Sequence[Any]) -> sqlite3.Cursor:
        """Execute *statement*, or raise where it is a commit in itself."""
        if statement == sql.commit and (error := self._faulty.error) is not None:
            raise error
        return self._connection.execute(statement, values)


# A result with it needs more room than a disk that is full by `limit_pages` has.
LARGE_ANSWER = Accepted(response=Response(status=200, headers=(), body=b"x" * 100_000, truncated=False))


def io_error(name: str) -> sqlite3.OperationalError:
    """What sqlite3 raises with the extended result code *name*."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = name
    return error


async def all_of(*jobs: Awaitable[Any]) -> list[Any]:
    """What became of each, errors too; none may hang."""
    async with asyncio.timeout(PATIENCE):
        return await asyncio.gather(*jobs, return_exceptions=True)


async def refuse(_: Transaction) -> None:
    """A change that cannot be done."""
    raise SubscriptionNotFound


async def limit_pages(place: Opened, pages: int | None) -> None:
    """Let the file grow by *pages* at most; None lifts the limit."""
    db = place.store.writer._writing.db
    ((used,),) = await db.execute_fetchall("PRAGMA page_count")
    await db.execute_fetchall(f"PRAGMA max_page_count = {2**30 if pages is None else used + pages}")


async def edit(store: Store, subscription: Subscription, **settings: Any) -> Subscription:
    """*subscription* with other *settings*."""

    def change(current: Subscription, _: int) -> Subscription:
        fields = {name: getattr(current, name) for name in current.__struct_fields__}
        return Subscription(**(fields | settings))

    return await store.writer.change(changes.edit_subscription(subscription.id, None, change))


def rows(path: Path, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    """What *statement* gives on a connection of its own."""
    with closing(sqlite3.connect(path)) as db:
        return db.execute(statement, values).fetchall()


def write(path: Path, script: str) -> None:
    """Change a file behind the store's back, against what the schema demands too."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA ignore_check_constraints = ON")
        db.executescript(script)


def files(folder: Path) -> dict[str, bytes]:
    """What is in *folder*."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def have_ended(threads: set[threading.Thread]) -> bool:
    """Whether *threads* have ended, or do so now: a connection's is told to a moment before it does."""
    for thread in threads:
        thread.join(PATIENCE)
    return not any(thread.is_alive() for thread in threads)


def subscription(clock: Clock, **settings: Any) -> Subscription:
    """A subscription that is not stored yet."""
    given: dict[str, Any] = {
        "seq": 0,
        "id": clock.new_id("sub"),
        "tenant": "acme",
        "url": "https://receiver.example/hook",
        "event_types": ("*",),
        "profile": "standard",
        "secrets": (SigningSecret(value=Secret("whsec_" + "A" * 44)),),
        "created_at": clock.now(),
        "updated_at": clock.now(),
    }
    return Subscription(**(given | settings))


def draft(**settings: Any) -> Draft:
    """An event that fits `subscription`."""
    return Draft(**({"tenant": "acme", "type": "order.created", "data": b'{"n":1}'} | settings))


def drafts(count: int, **settings: Any) -> list[Draft]:
    """The same draft, *count* times."""
    return [draft(**settings)] * count


def attempt(
    outcome: Outcome, *, at: int = NOW, number: int = 1, duration: int = 20, request: Request | None = None
) -> Attempt:
    """One try."""
    return Attempt(number=number, at=at, duration=duration, trigger=Trigger.AUTO, outcome=outcome, request=request)


def result(
    before: Delivery, outcome: Outcome, *, at: int = NOW, rules: Rules = RULES, request: Request | None = None
) -> Result:
    """What *outcome* makes of a delivery by its *rules*."""
    after = retry.settle(before, outcome, rules, now=at + 20, rand=0.0)
    made = attempt(outcome, at=at, number=before.attempt_count + 1, request=request)
    return Result(before=before, after=after, attempt=made, rules=rules, profile="standard")


@contextmanager
def database() -> Iterator[sqlite3.Connection]:
    """An empty database of the present version, in which foreign keys are not checked."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        for script in migrations():
            db.executescript(script)
        db.executescript(SCRIPT)
        db.row_factory = sqlite3.Row
        yield db


def commit(db: sqlite3.Connection, table: str, form: Callable[..., Any], *values: Any) -> None:
    """Write the one row that *form* makes of *values* into *table*."""
    one = Commit()
    made = form(*values, one) if "commit" in signature(form).parameters else form(*values)
    rows_of = getattr(one, table)
    rows_of.add(*made) if isinstance(rows_of, Rows) else rows_of.append(made)
    db.execute(sql.commit, one.values())
