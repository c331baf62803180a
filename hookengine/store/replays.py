"""Making deliveries again: of one event at once, of a subscription in steps."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from hookengine.errors import EventNotFound, Overloaded, StorageCorrupt
from hookengine.models import DeliveryState, Priority, SubscriptionState
from hookengine.store import answers, rows
from hookengine.store.changes import subscription_of
from hookengine.store.commit import Commit
from hookengine.store.intake import Answer, Key, Receipt, Replay, line_of
from hookengine.store.queries import sql
from hookengine.store.upkeep import STEP

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from hookengine.models import Delivery, Event
    from hookengine.store.intake import Line
    from hookengine.store.transaction import Transaction

MOST_UNFINISHED = 100  # replays of one subscription: those of all are gone through for each turn


def replay_event(
    id: str,
    tenant: str | None,
    only: Collection[str] | None = None,
    *,
    key: Key | None = None,
    render: Callable[[Receipt], bytes] | None = None,
) -> Callable[[Transaction], Awaitable[Receipt | Answer]]:
    """
    New deliveries of an event to those that match now, or to *only* those, whatever their types.

    The Receipt counts these deliveries; a repetition with *key* gets the first one's Answer. Raises EventNotFound.
    """

    async def step(tx: Transaction) -> Receipt | Answer:
        if key is not None and (answer := await answers.find(tx, key)) is not None:
            return answer
        found = await tx.fetch(sql.event_to_replay, {"id": id, "tenant": tenant})
        if not found:
            raise EventNotFound
        event = rows.event(found[0])
        takers = tx.memory.index.match(event.tenant, event.type, only)
        where = {taker.seq: line_of(taker.seq, event.ordering_key, tx.memory.index) for taker in takers}
        await tx.find_standing(line for line in where.values() if line is not None)
        made = [tx.new_replay(event.seq, taker.seq, Priority.NORMAL, where[taker.seq]) for taker in takers]
        receipt = Receipt(event=event, deliveries=len(made))
        await _insert(tx, made, event)
        if key is not None and render is not None:
            await _keep(tx, key, render(receipt))
        return receipt

    return step


def add_replay(
    id: str,
    tenant: str | None,
    replay: Replay,
    count: int,
    *,
    key: Key | None = None,
    render: Callable[[int], bytes] | None = None,
) -> Callable[[Transaction], Awaitable[int | Answer]]:
    """
    Begin *replay*, of the subscription with this id, which will make *count* deliveries; with *key*, once.

    Raises Overloaded where too many of it have not finished.
    """

    async def step(tx: Transaction) -> int | Answer:
        if key is not None and (answer := await answers.find(tx, key)) is not None:
            return answer
        subscription = subscription_of(tx.memory, id, tenant)
        [(unfinished,)] = await tx.fetch(sql.unfinished_replays, (subscription.seq,))
        if unfinished >= MOST_UNFINISHED:
            way = "wait for one of them" if subscription.state is SubscriptionState.ACTIVE else "enable it, and they go on"
            raise Overloaded(f"{unfinished} replays of this subscription have not finished: {way}.")
        await tx.run(sql.insert_replay, rows.replay_values(replay) | {"now": tx.now})
        if key is not None and render is not None:
            await _keep(tx, key, render(count))
        tx.after.append(lambda: tx.listener.replaying(subscription, count, finished=False))
        return count

    return step


async def replay_some(tx: Transaction) -> int:
    """
    Look at some of the deliveries that a replay has yet to come to, and make again those that it takes; 0 when none is left.

    They have low priority: what is new goes first to an endpoint that has much to catch up with.
    """
    for row in await tx.fetch(sql.next_replay):
        try:
            replay = rows.replay(row)
        except StorageCorrupt as error:  # those behind it have their turns
            await tx.run(sql.drop_replay, (row[0],))
            tx.after.append(partial(tx.listener.unreadable, "a replay", error))
            return 1
        passed = await tx.fetch(*next_page(replay, STEP))
        events = [event for _, event, wanted in passed if wanted]
        where = await _lines(tx, replay.subscription, events)
        made = [tx.new_replay(event, replay.subscription, Priority.LOW, where.get(event)) for event in events]
        await _insert(tx, made)
        count = replay.made + len(made)
        if len(passed) < STEP:
            await tx.run(sql.drop_replay, (replay.seq,))
            _finished(tx, replay, count)
        else:
            await tx.run(sql.move_replay, (passed[-1][0], count, replay.seq))
        await tx.run(sql.pass_turn, (tx.now, replay.subscription))
        return 1
    return 0


def next_page(replay: Replay, limit: int) -> tuple[str, dict[str, Any]]:
    """The statement that gives the next *limit* deliveries that *replay* comes to, with its values."""
    passes_delivered = DeliveryState.DELIVERED in replay.states
    statement = sql.replayable if passes_delivered else sql.replayable_given_up
    return statement, rows.replay_values(replay) | {"cursor": replay.cursor, "limit": limit}


async def _lines(tx: Transaction, subscription: int, events: list[int]) -> dict[int, Line | None]:
    """Where new deliveries of *events* stand, by event."""
    if subscription not in tx.memory.index.fifo:
        return {}
    found = await tx.fetch(sql.ordering_keys, (rows.json_text(events),))
    where = {event: line_of(subscription, key, tx.memory.index) for event, key in found}
    await tx.find_standing(line for line in where.values() if line is not None)
    return where


async def _insert(tx: Transaction, made: list[Delivery], event: Event | None = None) -> None:
    await tx.run(sql.insert_replays, (rows.json_text([rows.replay_row(delivery) for delivery in made]),))
    if turns := [rows.turn_row(delivery) for delivery in made if delivery.line is not None]:
        await tx.run(sql.line_up, (rows.json_text(turns),))
    if made:
        tx.after.append(lambda: tx.listener.accepted([(delivery, event) for delivery in made]))


async def _keep(tx: Transaction, key: Key, body: bytes) -> None:
    commit = Commit()
    answers.keep(key, Answer(status=202, body=body), tx.now, commit)
    await tx.write(commit)


def _finished(tx: Transaction, replay: Replay, count: int) -> None:
    subscription = tx.memory.index.get(replay.subscription)
    if subscription is not None:  # it may be unreadable
        tx.after.append(lambda: tx.listener.replaying(subscription, count, finished=True))
