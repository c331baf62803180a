"""What can be asked of the file, on a connection that cannot write."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from hookengine import models, views
from hookengine.errors import IdempotencyMismatch, Stopping, StorageCorrupt
from hookengine.lanes import FROM_THE_START, NOTHING_ON_DISK
from hookengine.store import answers, listing, rows
from hookengine.store.clock_jumps import PACES
from hookengine.store.listing import BEFORE_ALL
from hookengine.store.queries import sql
from hookengine.store.replays import next_page

if TYPE_CHECKING:
    from collections.abc import Iterable
    from sqlite3 import Row

    import aiosqlite

    from hookengine.lanes import Mark
    from hookengine.statistics import Tally
    from hookengine.store.intake import Answer, Key, Receipt, Replay
    from hookengine.store.listing import Slice

_COUNTED_AT_ONCE = 500  # deliveries, in about 3 ms
_MOST_TOLD = 10_000  # deliveries of a page that is explained
_MOST_ATTEMPTS = 250  # of a delivery that is shown; who retries by hand can make any number


class Reading:
    """A connection that only reads; once it is closed, whoever asks hears that the engine stops."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self.connection = connection

    async def execute_fetchall(self, statement: str, parameters: Any = ()) -> Iterable[Row]:
        """All rows that *statement* finds."""
        try:
            return await self.connection.execute_fetchall(statement, parameters)
        except (sqlite3.ProgrammingError, ValueError):  # of sqlite3 and of aiosqlite
            if self.connection._connection is None:  # noqa: SLF001  # it tells nobody
                raise Stopping from None
            raise


class Reader:
    """
    Reads, in the order asked; sees every commit that was told before.

    There are two: nobody who looks at a list stands before what a delivery or a publication needs. None of what they read is
    one long statement (see `listing`).
    """

    def __init__(self, db: Reading) -> None:
        self._db = db

    async def heads(self) -> dict[int, list[Mark | None]]:
        """For each subscription with waiting deliveries, the first of them by priority."""
        marks: dict[int, list[Mark | None]] = {}
        for row in await self._db.execute_fetchall(sql.heads):
            # What is no time is found from the start on, and given up.
            mark = (row["due_at"], row["seq"]) if isinstance(row["due_at"], int) else FROM_THE_START
            marks.setdefault(row["subscription"], list(NOTHING_ON_DISK))[row["priority"]] = mark
        return marks

    async def gatherers(self) -> set[int]:
        """The subscriptions with deliveries that wait to be put into a batch."""
        return {row["subscription"] for row in await self._db.execute_fetchall(sql.gatherers)}

    async def has_paces(self) -> bool:
        """Whether a clean stop has kept how subscriptions are paced."""
        return bool(list(await self._db.execute_fetchall(sql.meta, (PACES,))))

    async def newest_moment(self) -> int:
        """When the last event was accepted, attempt began or subscription was enabled, in ms since the epoch."""
        (row,) = await self._db.execute_fetchall(sql.newest_moment)
        return row["newest"] if isinstance(row["newest"], int) else 0

    async def members(self, batches: list[int]) -> tuple[dict[int, list[models.Delivery]], list[rows.Unreadable]]:
        """What still goes with each of *batches*, in the order of its request; and the rows that cannot be read."""
        found = await self._db.execute_fetchall(sql.members, (rows.json_text(batches),))
        readable, unreadable = rows.deliveries(sorted(found, key=itemgetter("seq")))
        members: dict[int, list[models.Delivery]] = {}
        for delivery in readable:
            members.setdefault(delivery.batch or 0, []).append(delivery)
        return members, unreadable

    async def events_of(self, exchange: int) -> list[models.Event]:
        """The events of a request that deliveries shared, in its order."""
        found: list[models.Event] = []
        shared = await self._db.execute_fetchall(sql.events_of_exchange, (exchange,))
        for row in sorted(shared, key=itemgetter("delivery")):
            with suppress(StorageCorrupt):
                found.append(rows.event(tuple(row)[1:]))
        return found

    async def events_by_seq(self, seqs: Iterable[int]) -> tuple[dict[int, models.Event], list[StorageCorrupt]]:
        """The events with these keys, in one statement: one read each costs twenty times as much; and what cannot be read."""
        events: dict[int, models.Event] = {}
        unreadable: list[StorageCorrupt] = []
        for row in await self._db.execute_fetchall(sql.events_by_seq, (rows.json_text(list(seqs)),)):
            try:
                events[row["seq"]] = rows.event(tuple(row))
            except StorageCorrupt as error:
                unreadable.append(error)
        return events, unreadable

    async def events(self, part: Slice, *, type: str | None = None) -> tuple[list[views.Event], int | None]:
        """A page of events, and the key to go on from."""
        found, after = await listing.events(self._db, part, type=type)
        return [rows.event_view(row) for row in found], after

    async def event(self, id: str, tenant: str | None) -> views.EventDetail | None:
        """One event with its data and deliveries."""
        row = await self._one(sql.show_event, {"id": id, "tenant": tenant})
        if row is None:
            return None
        went = await self._db.execute_fetchall(sql.deliveries_of_event, (row["seq"],))
        event = rows.event_view(row)
        return views.EventDetail(
            id=event.id,
            type=event.type,
            tenant=event.tenant,
            accepted_at=event.accepted_at,
            occurred_at=event.occurred_at,
            ordering_key=event.ordering_key,
            data=rows.json_or_null(row["data"]) or b"",  # the column cannot be NULL
            deliveries=[views.EventDelivery(id=d["id"], subscription=d["subscription"], state=d["state"]) for d in went],
        )

    async def event_key(self, id: str, tenant: str | None) -> int | None:
        """The key of an event."""
        row = await self._one(sql.show_event, {"id": id, "tenant": tenant})
        return None if row is None else row["seq"]

    async def event_keys(self, id: str, tenant: str | None) -> list[int]:
        """The keys of all events with this id: each tenant may have one."""
        return [row["seq"] for row in await self._db.execute_fetchall(sql.event_keys, {"id": id, "tenant": tenant})]

    async def explained(self, id: str, tenant: str | None) -> tuple[models.Event, bool] | None:
        """One event as the engine sees it, and whether it named its subscriptions."""
        row = await self._one(sql.event_to_replay, {"id": id, "tenant": tenant})
        return None if row is None else (rows.event(tuple(row)), bool(row["chosen"]))

    async def deliveries_to(self, event: int, subscriptions: list[int]) -> dict[int, list[rows.Went]]:
        """What the event with this key made for each, newest first."""
        found: dict[int, list[rows.Went]] = {}
        values = {"event": event, "subscriptions": rows.json_text(subscriptions), "limit": _MOST_TOLD}
        for row in await self._db.execute_fetchall(sql.deliveries_to, values):
            went = rows.Went(id=row["id"], state=row["state"], replay=bool(row["replay"]))
            found.setdefault(row["subscription_seq"], []).append(went)
        return found

    async def deleted_receivers(
        self, event: int, *, before: int, limit: int, subscription: str | None = None
    ) -> list[rows.Receiver]:
        """The subscriptions that the event with this key went to, and that were deleted since, newest first."""
        values = {"event": event, "before": before, "limit": limit, "subscription": subscription}
        return [rows.receiver(row) for row in await self._db.execute_fetchall(sql.deleted_receivers, values)]

    async def newest_delivery(self) -> int:
        """The greatest key of a delivery."""
        (row,) = await self._db.execute_fetchall(sql.last_keys)
        return int(row["deliveries"])

    async def count_replayable(self, replay: Replay) -> int:
        """How many deliveries *replay* makes, counted in pages: what else is read does not wait for all of them."""
        count = 0
        while True:
            passed = list(await self._db.execute_fetchall(*next_page(replay, _COUNTED_AT_ONCE)))
            count += sum(1 for row in passed if row["wanted"])
            if len(passed) < _COUNTED_AT_ONCE:
                return count
            replay = replace(replay, cursor=passed[-1]["seq"])

    async def deliveries_of(self, event: int) -> list[views.Delivery]:
        """The deliveries of the event with this key, in the order they were made."""
        return [rows.delivery_view(row) for row in await self._db.execute_fetchall(sql.deliveries_of_event, (event,))]

    async def deliveries(
        self, part: Slice, *, state: str | None = None, subscription: int | None = None, events: list[int] | None = None
    ) -> tuple[list[views.Delivery], int | None]:
        """A page of deliveries, and the key to go on from."""
        found, after = await listing.deliveries(self._db, part, state=state, subscription=subscription, events=events)
        return [rows.delivery_view(row) for row in found], after

    async def delivery(self, id: str, tenant: str | None) -> tuple[views.Delivery, int, int] | None:
        """One delivery as it reads, its key, and its event's."""
        row = await self._one(sql.show_delivery, {"id": id, "tenant": tenant})
        return None if row is None else (rows.delivery_view(row), row["seq"], row["event_seq"])

    async def attempts(self, delivery: int) -> list[rows.StoredAttempt]:
        """The last attempts of the delivery with this key, oldest first."""
        found = list(await self._db.execute_fetchall(sql.attempts_of_delivery, (delivery, _MOST_ATTEMPTS)))
        return [rows.stored_attempt(row) for row in reversed(found)]

    async def names(self, deliveries: Iterable[int]) -> dict[int, rows.Names]:
        """What deliveries with these keys are called by; without those pruned."""
        wanted = rows.json_text(list(deliveries))
        return {
            seq: rows.Names(event=event, subscription=subscription, tenant=tenant, type=type_)
            for seq, event, subscription, tenant, type_ in await self._db.execute_fetchall(sql.names_of_deliveries, (wanted,))
        }

    async def answer(self, key: Key, *, now: int) -> Answer | None:
        """What a request with *key*, and the same bytes, was answered; None also where its time is over."""
        with suppress(IdempotencyMismatch):
            return await self.answered(key, now=now)
        return None

    async def answered(self, key: Key, *, now: int) -> Answer | None:
        """The same, but raises IdempotencyMismatch for other bytes."""
        return answers.answer(key, answers.known(await self._db.execute_fetchall(sql.known_keys, answers.wanted([key], now))))

    async def receipts(self, asked: list[tuple[str, str]]) -> dict[tuple[str, str], tuple[bytes | None, Receipt]]:
        """What was answered for events with these ids and tenants, with the digests of their requests."""
        return dict(map(rows.receipt, await self._db.execute_fetchall(sql.known_events, (rows.json_text(asked),))))

    async def subscription_key(self, id: str, tenant: str | None) -> int | None:
        """The key of a subscription, also of a deleted one."""
        row = await self._one(sql.subscription_key, {"id": id, "tenant": tenant})
        return None if row is None else row["seq"]

    async def event_types(self, part: Slice) -> tuple[list[views.EventType], int | None]:
        """A page of event types, and the key to go on from."""
        values = {"before": part.before, "limit": part.limit + 1}
        found, after = listing.cut(list(await self._db.execute_fetchall(sql.list_event_types, values)), part)
        return [rows.event_type_view(row) for row in found], after

    async def event_type(self, type: str) -> views.EventType | None:
        """One event type."""
        row = await self._one(sql.show_event_type, {"type": type})
        return None if row is None else rows.event_type_view(row)

    async def statistics(self, subscription: int, *, since: int, until: int | None = None) -> list[Tally]:
        """How the attempts and deliveries of the subscription with this key ended, in the hours from *since* to *until*."""
        values = (subscription, since, BEFORE_ALL if until is None else until)
        return [rows.tally(row) for row in await self._db.execute_fetchall(sql.statistics_of, values)]

    async def pending(self, subscription: int, *, most: int) -> int:
        """How many deliveries of the subscription with this key wait; *most* stands for that and more."""
        values = {"subscriptions": rows.json_text([subscription]), "most": most}
        (row,) = await self._db.execute_fetchall(sql.count_pending, values)
        return int(row["count"])

    async def _one(self, statement: str, values: dict[str, Any]) -> Row | None:
        # In one step: a caller that is cancelled between two would leave an open cursor, and with it an old snapshot.
        found = list(await self._db.execute_fetchall(statement, values))
        return found[0] if found else None
