"""What one commit holds: decided in memory, then written, then told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from hookengine import health as counters
from hookengine.errors import EventExists
from hookengine.models import (
    Broken,
    Delivery,
    DeliveryState,
    DisabledReason,
    Event,
    Health,
    Interrupted,
    Place,
    Subscription,
    SubscriptionState,
)
from hookengine.statistics import NO_ATTEMPT, bucket_of, hour_of
from hookengine.store import announcements, answers, registered, rows
from hookengine.store.announcements import DELIVERY_FAILED, SUBSCRIPTION_DISABLED, Announcer
from hookengine.store.commit import Commit
from hookengine.store.intake import Answer, Draft, Key, Receipt, Recorded, Result, accept

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from hookengine.clock import Clock
    from hookengine.matching import Index
    from hookengine.models import Attempt, Rules
    from hookengine.store.commit import Parts, Values
    from hookengine.store.intake import Line
    from hookengine.vault import Vault

# Names of their own: see `models`.
_FAILED, _PENDING = DeliveryState.FAILED, DeliveryState.PENDING
_ACTIVE = SubscriptionState.ACTIVE

EventName = tuple[str, str]  # (id, tenant)
Seen = tuple[bytes | None, Receipt]  # the digest of the request that brought an event, and its receipt


class RowNumbers:
    """The numbers of rows: each is given once, in the order of commits. A commit that fails leaves a gap."""

    def __init__(self, subscriptions: int, events: int, deliveries: int, exchanges: int) -> None:
        self.subscriptions = subscriptions
        self.events = events
        self.deliveries = deliveries
        self.exchanges = exchanges


class Batch:
    """
    Results and publications that are committed together.

    Reads the index and the counters and changes neither: what changes is in `health` and `disabled`, and takes effect when the
    commit has succeeded.
    """

    def __init__(self, *, now: int, clock: Clock, numbers: RowNumbers, index: Index, health: Mapping[int, Health]) -> None:
        self.accepted: list[tuple[Delivery, Event]] = []
        self.recorded: list[list[Recorded]] = []
        self.health: dict[int, Health] = {}
        self.disabled: dict[int, Subscription] = {}
        self._now = now
        self._clock = clock
        self._numbers = numbers
        self._index = index
        self._health_before = health
        self._known: answers.Known = {}
        self._seen: dict[EventName, Seen] = {}
        self._commit = Commit()
        self._lines: set[Line] = set()  # those in which somebody stands
        self._deletions: Mapping[int, int] = {}  # when subscriptions were deleted, of which there are results
        self._advanced: dict[Line, None] = {}
        self._announcer = Announcer(now=now, clock=clock, numbers=numbers, index=index, lines=self._lines)
        self._hour = hour_of(now)
        self._tallies: dict[Values, int] = {}  # by all columns of `statistics` but the last

    def know(
        self,
        known: answers.Known,
        seen: Mapping[EventName, Seen],
        lines: Iterable[Line] = (),
        deletions: Mapping[int, int] | None = None,
    ) -> None:
        """
        What earlier commits hold of the keys and event ids that are about to come, and in which lines somebody stands.

        *deletions* are of the subscriptions that are gone, and of which there are results.
        """
        self._known.update(known)
        self._seen.update(seen)
        self._lines.update(lines)
        self._deletions = deletions or {}

    def add_results(self, results: Sequence[Result]) -> None:
        """Record what became of a delivery, or of those of a batch, whose shared attempt is counted once."""
        if results[0].head is None:
            self.recorded.append([self._add(results[0])])
            return
        recorded: list[Recorded] = []
        exchange: int | None = None
        for result in _led_by_the_first(results):
            if not result.shares:
                recorded.append(self._add(result))
                continue
            counts = exchange is None
            if exchange is None:
                self._numbers.exchanges += 1
                exchange = self._numbers.exchanges
            recorded.append(self._add(result, counts=counts, exchange=exchange))
        self.recorded.append(recorded)

    def _add(self, result: Result, *, counts: bool = True, exchange: int | None = None) -> Recorded:
        """
        Record what became of a delivery, count it, and disable its subscription where that is due.

        What it shares is kept under the number *exchange*, by the one that counts.
        """
        after, attempt = result.after, result.attempt
        subscription = self.disabled.get(after.subscription) or self._index.get(after.subscription)
        # Its subscription was deleted while the attempt ran: it reads as cancelled since, and stays so. One that somebody had
        # cancelled before keeps that time.
        if subscription is None and result.before.finished_at is None:
            cancelled = {"state": DeliveryState.CANCELLED, "attempt_count": after.attempt_count, "failed_label": None}
            after = replace(result.before, **cancelled, finished_at=self._deletions.get(after.subscription, self._now))
        reason = None
        is_interrupted = attempt is not None and isinstance(attempt.outcome, Interrupted)
        if is_interrupted:
            self._commit.interrupted.append(after.seq)
        if attempt is not None:
            self._commit.attempts.add(*self._attempt_row(result, attempt, counts=counts, exchange=exchange))
            if subscription is not None and counts:
                reason = self._weigh(subscription, attempt, result.rules)
        if after is not result.before:
            self._commit.settled.add(*rows.settled_row(result.before, after))
            if after.line is not None and after.state is not _PENDING and _led(result.before):
                self._advanced[after.subscription, after.line] = None
            if subscription is not None and not is_interrupted:  # a deleted one's statistics are asked for by nobody
                self._count(result, counts=counts)
                if after.state is _FAILED and result.before.finished_at is None:
                    self._tell_failed(result, subscription)
        health = self._health(after.subscription)
        return Recorded(result=result, delivery=after, health=health, disabled=reason, counted=counts)

    def _weigh(self, subscription: Subscription, attempt: Attempt, rules: Rules) -> DisabledReason | None:
        """Count how *attempt* ended for its subscription, and disable that where it is due; the reason, if so."""
        ended_at = attempt.at + attempt.duration
        health = counters.count(self._health(subscription.seq), attempt.outcome, now=ended_at)
        self.health[subscription.seq] = health
        if subscription.state is not _ACTIVE:
            return None
        reason = counters.disables(health, attempt.outcome, rules, now=ended_at)
        if reason is not None:
            self._disable(_disabled(subscription, reason, now=ended_at), health)
        return reason

    def _attempt_row(self, result: Result, attempt: Attempt, *, counts: bool, exchange: int | None) -> Parts:
        content: Values = (None, None, None)
        if exchange is None:
            content = rows.exchanged(attempt, result.profile, self._commit)
        elif counts:
            self._commit.exchanges.append((exchange, *rows.exchanged(attempt, result.profile, self._commit)))
        return rows.attempt_row(result.after.seq, attempt, content, exchange)

    def add_publication(
        self, drafts: list[Draft], key: Key | None, render: Callable[[list[Receipt]], bytes] | None
    ) -> list[Receipt] | Answer:
        """Accept *drafts*, or tell how they were answered; adds nothing if it raises EventExists or IdempotencyMismatch."""
        if key is not None and (first := answers.answer(key, self._known)) is not None:
            return first
        self._check_ids(drafts)  # first: what is accepted stands in its line at once
        seen: dict[EventName, Seen] = {}
        receipts: list[Receipt] = []
        fresh: list[tuple[Receipt, Draft, list[Delivery]]] = []
        for draft in drafts:
            before = self._seen_before(draft, seen)
            if before is not None:
                receipts.append(before)
                continue
            event, deliveries = accept(
                draft, index=self._index, numbers=self._numbers, clock=self._clock, now=self._now, lines=self._lines
            )
            receipt = Receipt(event=event, deliveries=len(deliveries))
            receipts.append(receipt)
            fresh.append((receipt, draft, deliveries))
            if draft.id is not None:
                seen[draft.id, draft.tenant] = (draft.digest, receipt)
        self._seen.update(seen)
        for receipt, draft, deliveries in fresh:
            self._commit.events.add(*rows.event_row(receipt.event, receipt.deliveries, draft, self._commit))
            for delivery in deliveries:
                rows.add_delivery(delivery, self._commit)
                self.accepted.append((delivery, receipt.event))
        if key is not None and render is not None:
            answer = Answer(status=202, body=render(receipts))
            self._known[key.scope] = (key.digest, answer)
            answers.keep(key, answer, self._now, self._commit)
        return receipts

    @property
    def event_count(self) -> int:
        """New events in it."""
        return len(self._commit.events.rows)

    @property
    def advanced(self) -> list[Line]:
        """The lines whose heads have ended in it."""
        return list(self._advanced)

    def commit(self, vault: Vault) -> Commit:
        """All that was added, to be written."""
        commit = self._commit
        commit.health = [rows.health_row(seq, health) for seq, health in self.health.items()]
        commit.changed = [registered.changed_subscription_row(s, vault, commit) for s in self.disabled.values()]
        commit.statistics = [(*alike, count) for alike, count in self._tallies.items()]
        commit.advanced = list(self._advanced)
        return commit

    def _disable(self, subscription: Subscription, health: Health) -> None:
        self.disabled[subscription.seq] = subscription
        if self._announcer.wanted(SUBSCRIPTION_DISABLED, subscription):
            data = announcements.of_disabled(subscription, health)
            self.accepted += self._announcer.announce(self._commit, SUBSCRIPTION_DISABLED, data)

    def _tell_failed(self, result: Result, subscription: Subscription) -> None:
        if not self._announcer.wanted(DELIVERY_FAILED, subscription):
            return
        after = result.after
        data = announcements.of_failed(
            after.id,
            subscription,
            result.event,
            attempt_count=after.attempt_count,
            label=after.failed_label,
            attempt=result.attempt,
        )
        self.accepted += self._announcer.announce(self._commit, DELIVERY_FAILED, data)

    def _count(self, result: Result, *, counts: bool) -> None:
        """Count a result that changed its delivery, and its attempt where that *counts*: one row is for all that end alike."""
        after, attempt = result.after, result.attempt
        state, label, status_code, error_code, bucket = "", "", 0, "", NO_ATTEMPT
        if after.finished_at is not None and result.before.finished_at is None:
            state, label = after.state, after.failed_label or ""
        if attempt is not None and counts and not isinstance(attempt.outcome, Broken):  # which is nobody's attempt
            response, error = attempt.outcome.response, attempt.outcome.error
            status_code = 0 if response is None else response.status
            error_code = "" if error is None else error.code
            bucket = bucket_of(attempt.duration)
        elif not state:
            return
        alike = (after.subscription, self._hour, state, label, status_code, error_code, bucket)
        self._tallies[alike] = self._tallies.get(alike, 0) + 1

    def _health(self, subscription: int) -> Health:
        return self.health.get(subscription) or self._health_before.get(subscription) or Health()

    def _check_ids(self, drafts: list[Draft]) -> None:
        """Raise EventExists where one has the id of another event: of an earlier one, or of one of them."""
        digests: dict[EventName, bytes | None] = {}
        for draft in drafts:
            if draft.id is None:
                continue
            name = (draft.id, draft.tenant)
            before = self._seen.get(name)
            if digests.setdefault(name, draft.digest if before is None else before[0]) != draft.digest:
                raise EventExists(f"another event with the id {draft.id} was accepted before")

    def _seen_before(self, draft: Draft, mine: Mapping[EventName, Seen]) -> Receipt | None:
        if draft.id is None:
            return None
        name = (draft.id, draft.tenant)
        before = self._seen.get(name) or mine.get(name)
        return None if before is None else before[1]


def _led_by_the_first(results: Sequence[Result]) -> Iterator[Result]:
    """*results* of a batch, of which the first that goes on leads the others."""
    place = Place.LANE
    for result in results:
        after = result.after
        if after.state is not _PENDING or after.batch is None:
            yield result
            continue
        yield result if after.place is place else replace(result, after=replace(after, place=place))
        place = Place.FOLLOWING


def _led(before: Delivery) -> bool:
    """Whether somebody else leads its line once it has ended: it may have been cancelled, and then retried as the last."""
    return before.finished_at is None and before.place is Place.LANE


def _disabled(subscription: Subscription, reason: DisabledReason, *, now: int) -> Subscription:
    return replace(
        subscription,
        state=SubscriptionState.DISABLED,
        disabled_reason=reason,
        version=subscription.version + 1,
        updated_at=now,
    )
