"""The changes that run alone in their transaction: of subscriptions, and of deliveries by hand."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING

from msgspec.structs import replace

from hookengine import health as counters
from hookengine import retry
from hookengine.errors import (
    DeliveryNotFound,
    DeliveryStateConflict,
    PreconditionFailed,
    StorageCorrupt,
    SubscriptionDisabled,
    SubscriptionLimitReached,
    SubscriptionNotFound,
)
from hookengine.models import (
    AccessToken,
    Delivery,
    DeliveryState,
    DisabledReason,
    Health,
    OAuth2,
    Place,
    Subscription,
    SubscriptionState,
    Trigger,
)
from hookengine.statistics import hour_of
from hookengine.store import announcements, answers, batches, lines, registered, rows
from hookengine.store.announcements import DELIVERY_FAILED, SUBSCRIPTION_DISABLED, SUBSCRIPTION_ENABLED
from hookengine.store.commit import Commit
from hookengine.store.intake import Answer, Key, line_of
from hookengine.store.queries import sql

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from hookengine.store.memory import Memory
    from hookengine.store.transaction import Transaction

ENABLING = "enabling:"  # and the key of a subscription: since when it is, while some of its retries still wait
CANCELLING = "cancelling:"  # and the key of a deleted subscription: since when it is, while some of its rows may be pending
_LAST_TURN = "last_turn"


def add_subscription(
    subscription: Subscription,
    key: Key | None = None,
    render: Callable[[Subscription], bytes] | None = None,
    *,
    limits: Mapping[str, int | None] | None = None,
) -> Callable[[Transaction], Awaitable[Subscription | Answer]]:
    """
    Store *subscription* under a new key, as made now; a repetition with *key* gets the first one's Answer.

    *limits* are, by plan, how many subscriptions a tenant may have; raises SubscriptionLimitReached where its plan is full.
    """

    async def step(tx: Transaction) -> Subscription | Answer:
        if key is not None and (answer := await answers.find(tx, key)) is not None:
            return answer
        check_limit(tx.memory, subscription.tenant, limits or {})
        new = replace(subscription, seq=tx.new_subscription(), created_at=tx.now, updated_at=tx.now)
        await tx.run(sql.insert_subscription, registered.new_subscription_row(new, tx.vault))
        commit = Commit()
        commit.health.append(rows.health_row(new.seq, Health()))
        if key is not None and render is not None:
            answer = Answer(status=201, body=render(new))
            answers.keep(key, answer, tx.now, commit)
        await tx.write(commit)
        tx.put(new, Health())
        return new

    return step


def edit_subscription(
    id: str,
    tenant: str | None,
    edit: Callable[[Subscription, int], Subscription],
    *,
    versions: frozenset[int] | None = None,
    enable: bool = False,
) -> Callable[[Transaction], Awaitable[Subscription]]:
    """
    Let *edit* change the subscription as it is now; raises PreconditionFailed unless it has one of *versions*.

    A state that *edit* changes takes its consequences: enabling starts the counters anew and lets what was held go. With
    *enable* so it does where the subscription is active, and has failed.
    """

    async def step(tx: Transaction) -> Subscription:
        before = subscription_of(tx.memory, id, tenant, versions)
        edited = edit(before, tx.now)
        health = tx.memory.health_of(before.seq)
        starts_anew = enable and bool(health.consecutive_failures)
        if edited == before and not starts_anew:
            return before
        if edited.state is not before.state or starts_anew:
            if edited.state is SubscriptionState.ACTIVE:
                edited = replace(edited, disabled_reason=None)
                health = counters.enabled(health, now=tx.now)
                await tx.run(sql.set_meta, (f"{ENABLING}{before.seq}", tx.now))
            else:
                edited = replace(edited, disabled_reason=DisabledReason.MANUAL)
        if edited.auth != before.auth:
            await _drop_access_token(tx, before.seq)
        after = replace(edited, version=before.version + 1, updated_at=tx.now)
        commit = Commit()
        commit.health.append(rows.health_row(before.seq, health))
        commit.changed.append(registered.changed_subscription_row(after, tx.vault, commit))
        if after.state is not before.state:
            _announce_state(tx, commit, after, health)
        await tx.write(commit)
        tx.put(after, health)
        return after

    return step


def delete_subscription(
    id: str,
    tenant: str | None,
    *,
    versions: frozenset[int] | None = None,
) -> Callable[[Transaction], Awaitable[None]]:
    """One row now; its deliveries read as cancelled from then on, and upkeep rewrites them."""

    async def step(tx: Transaction) -> None:
        subscription = subscription_of(tx.memory, id, tenant, versions)
        await tx.run(sql.delete_subscription, (tx.now, tx.now, subscription.seq))
        await tx.run(sql.drop_meta, (f"{ENABLING}{subscription.seq}",))
        await tx.run(sql.set_meta, (f"{CANCELLING}{subscription.seq}", tx.now))
        await tx.run(sql.drop_replays, (subscription.seq,))
        await _drop_access_token(tx, subscription.seq)
        tx.drop(subscription)

    return step


def keep_access_token(subscription: int, auth: OAuth2, token: AccessToken) -> Callable[[Transaction], Awaitable[None]]:
    """Keep what *auth* gave, unless the subscription has another one by now."""

    async def step(tx: Transaction) -> None:
        current = tx.memory.index.get(subscription)
        if current is None or current.auth != auth:
            return
        await tx.run(sql.save_access_token, registered.access_token_row(current, token, tx.vault))

        def follow() -> None:
            tx.memory.access_tokens[subscription] = token

        tx.after.append(follow)

    return step


async def _drop_access_token(tx: Transaction, subscription: int) -> None:
    await tx.run(sql.drop_access_token, (subscription,))  # also one that could not be read, and so is not in memory

    def follow() -> None:
        tx.memory.access_tokens.pop(subscription, None)

    tx.after.append(follow)


def retry_delivery(id: str, tenant: str | None) -> Callable[[Transaction], Awaitable[None]]:
    """Make a delivery due now, with its whole schedule again."""

    async def step(tx: Transaction) -> None:
        before, subscription = await _delivery(tx, id, tenant)
        if subscription is None or before.state is DeliveryState.DELIVERED:
            state = DeliveryState.CANCELLED if before.state is DeliveryState.PENDING else before.state
            raise DeliveryStateConflict(f"the delivery is {state}" + ("" if subscription else " and its subscription deleted"))
        if subscription.state is SubscriptionState.DISABLED:
            raise SubscriptionDisabled(f"the subscription is disabled ({subscription.disabled_reason}): enable it first")
        place, line, turn = await _turn_of(tx, before)
        ((attempt_count,),) = await tx.fetch(sql.retry_delivery, (tx.now, place, line, turn, before.seq))
        after = replace(
            before,
            state=DeliveryState.PENDING,
            due_at=tx.now,
            step=0,
            trigger=Trigger.MANUAL,
            finished_at=None,
            failed_label=None,
            expires_at=None,
            attempt_count=attempt_count,
            place=place,
            batch=None,
            line=line,
        )
        tx.overrule(before, after)
        await batches.leave(tx, before)

    return step


async def _turn_of(tx: Transaction, before: Delivery) -> tuple[Place, str | None, int | None]:
    """Where a delivery stands that is retried by hand: who waits for its turn keeps it, who has ended begins as the last."""
    ((_, key),) = await tx.fetch(sql.ordering_keys, (rows.json_text([before.event]),))
    line = line_of(before.subscription, key, tx.memory.index)
    if before.state is DeliveryState.PENDING and before.line is not None:
        if before.place is Place.FOLLOWING:
            raise DeliveryStateConflict("the delivery waits for its turn: one that was accepted before it goes first")
        ((turn,),) = await tx.fetch(sql.turn, (before.seq,))
        return Place.LANE, before.line, turn
    if line is None or before.state is DeliveryState.PENDING:
        return Place.LANE, None, None
    await tx.find_standing([line])
    turn = tx.new_turn()
    await tx.run(sql.set_meta, (_LAST_TURN, turn))  # it is no delivery's key: after a restart those who come get later ones
    return Place.FOLLOWING if line in tx.lines else Place.LANE, line[1], turn


def cancel_delivery(id: str, tenant: str | None) -> Callable[[Transaction], Awaitable[None]]:
    """Give up a delivery that waits or is held."""

    async def step(tx: Transaction) -> None:
        before, subscription = await _delivery(tx, id, tenant)
        if subscription is None or before.state is not DeliveryState.PENDING:
            state = DeliveryState.CANCELLED if before.state is DeliveryState.PENDING else before.state
            raise DeliveryStateConflict(f"the delivery is {state}")
        await tx.run(sql.cancel_delivery, (tx.now, before.seq))
        commit = Commit()
        commit.statistics.append(rows.ended_row(before.subscription, hour_of(tx.now), 1, DeliveryState.CANCELLED))
        await tx.write(commit)
        tx.overrule(before, replace(before, state=DeliveryState.CANCELLED, finished_at=tx.now))
        await batches.leave(tx, before)
        await lines.leave(tx, before)

    return step


def park(deliveries: list[int]) -> Callable[[Transaction], Awaitable[set[int]]]:
    """
    Give up the deliveries with these keys, whose rows cannot be read, and let the next of their batches and lines lead.

    The result is the keys of those that had not ended already.
    """

    async def step(tx: Transaction) -> set[int]:
        found = await tx.fetch(sql.park, (tx.now, retry.INTERNAL_ERROR, rows.json_text(deliveries)))
        parked = [rows.parked(row, tx.now) for row in found]
        for before in parked:
            failed = {"state": DeliveryState.FAILED, "finished_at": tx.now, "failed_label": retry.INTERNAL_ERROR}
            tx.overrule(before, replace(before, **failed))
        commit = Commit()
        await give_up(tx, commit, parked, retry.INTERNAL_ERROR)
        await tx.write(commit)
        for subscription, batch, line, *_ in found:
            await lead(tx, subscription, batch, line)
        return {before.seq for before in parked}

    return step


async def give_up(tx: Transaction, commit: Commit, deliveries: list[Delivery], label: str) -> None:
    """Count and announce with *commit* that *deliveries* were given up without an attempt."""
    known = [(s, delivery) for delivery in deliveries if (s := tx.memory.index.get(delivery.subscription)) is not None]
    for seq, count in Counter(subscription.seq for subscription, _ in known).items():
        commit.statistics.append(rows.ended_row(seq, hour_of(tx.now), count, DeliveryState.FAILED, label))
    told = [(subscription, delivery) for subscription, delivery in known if tx.announcer.wanted(DELIVERY_FAILED, subscription)]
    if not told:
        return
    wanted = rows.json_text([delivery.event for _, delivery in told])
    events = {}
    for row in await tx.fetch(sql.events_by_seq, (wanted,)):
        with suppress(StorageCorrupt):
            events[row[0]] = rows.event(row)
    for subscription, delivery in told:
        data = announcements.of_failed(
            delivery.id,
            subscription,
            events.get(delivery.event),
            attempt_count=delivery.attempt_count,
            label=label,
        )
        tx.announce(commit, DELIVERY_FAILED, data)


async def lead(tx: Transaction, subscription: int, batch: int | None, line: str | None) -> None:
    """See to it that somebody leads this batch or line, or both."""
    if batch is not None:
        tx.promote(await tx.fetch(sql.promote, {"batch": batch, "subscription": subscription}))
    if line is not None:
        tx.promote(await tx.fetch(sql.next_in_line, (subscription, line)))


def subscription_of(
    memory: Memory,
    id: str,
    tenant: str | None,
    versions: frozenset[int] | None = None,
) -> Subscription:
    """The subscription with this id; raises SubscriptionNotFound, and PreconditionFailed unless it has one of *versions*."""
    subscription = memory.index.by_id(id)
    if subscription is None or tenant not in (None, subscription.tenant):
        raise SubscriptionNotFound
    if versions is not None and subscription.version not in versions:
        raise PreconditionFailed
    return subscription


def check_limit(memory: Memory, tenant: str, limits: Mapping[str, int | None]) -> None:
    """
    Raise SubscriptionLimitReached where the plan of *tenant* is full.

    In a transaction, no other change can come between the count and what is added.
    """
    known = memory.tenants.get(tenant)
    plan = None if known is None else known.plan
    limit = None if plan is None else limits.get(plan)
    if limit is not None and memory.index.count(tenant) >= limit:
        count = f"{limit} subscription{'' if limit == 1 else 's'}"
        raise SubscriptionLimitReached(f"the plan '{plan}' lets the tenant {tenant} have {count}")


def _announce_state(tx: Transaction, commit: Commit, subscription: Subscription, health: Health) -> None:
    if subscription.state is SubscriptionState.ACTIVE:
        type_, data = SUBSCRIPTION_ENABLED, announcements.of_enabled(subscription)
    else:
        type_, data = SUBSCRIPTION_DISABLED, announcements.of_disabled(subscription, health)
    if tx.announcer.wanted(type_, subscription):
        tx.announce(commit, type_, data)


async def _delivery(tx: Transaction, id: str, tenant: str | None) -> tuple[Delivery, Subscription | None]:
    found = await tx.fetch(sql.delivery, (id, tenant, tenant))
    if not found:
        raise DeliveryNotFound
    delivery = rows.delivery(found[0])
    return delivery, tx.memory.index.get(delivery.subscription)
