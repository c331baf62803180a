"""What one commit holds, decided in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace
from storage import DELIVERED, GONE, HOUR, NO_ANSWER, NOW, RULES, SetClock, attempt, draft, result, subscription

from hookengine.errors import EventExists, HookEngineError, IdempotencyMismatch
from hookengine.matching import Index
from hookengine.models import (
    AttemptError,
    Broken,
    Delivery,
    DeliveryState,
    DisabledReason,
    ErrorCode,
    Event,
    Health,
    Interrupted,
    Ordering,
    Place,
    Priority,
    Rules,
    Subscription,
    SubscriptionState,
    WhileDisabled,
)
from hookengine.store.answers import KEY_LIFETIME
from hookengine.store.batch import Batch, RowNumbers
from hookengine.store.commit import Rows
from hookengine.store.intake import Answer, Draft, Key, Receipt, Result
from hookengine.vault import Vault

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hookengine.models import Outcome

CLOCK = SetClock()
VAULT = Vault([bytes(32)], CLOCK.new_bytes)
KEY = Key(tenant="acme", method="POST", path="/v1/events", key="k", digest=b"d")
FAULT = AttemptError(code=ErrorCode.LOCAL_NETWORK, detail="no route")


def batch(*subscriptions: Subscription, health: Mapping[int, Health] | None = None) -> Batch:
    """An empty batch over an index of *subscriptions*."""
    numbers = RowNumbers(subscriptions=9, events=100, deliveries=200, exchanges=300)
    return Batch(now=NOW, clock=CLOCK, numbers=numbers, index=Index(subscriptions), health=health or {})


def sub(seq: int = 1, **settings: Any) -> Subscription:
    """A stored subscription."""
    return subscription(CLOCK, seq=seq, **settings)


def delivery(seq: int = 5, **fields: Any) -> Delivery:
    """A delivery of subscription 1 that waits for its first attempt."""
    given: dict[str, Any] = {"seq": seq, "id": f"dlv_{seq}", "event": 1, "subscription": 1, "due_at": 1, "created_at": 1}
    return Delivery(**(given | fields))


def written(made: Batch, table: str) -> list[Any]:
    """The rows that the batch has for *table*."""
    rows: Any = getattr(made.commit(VAULT), table)
    if not isinstance(rows, Rows):
        return list(rows)
    kinds = list(rows.kinds)
    return [(*own, *kinds[kind]) for *own, kind in rows.rows]


def accept(made: Batch, *drafts: Draft, key: Key | None = None, answer: bytes = b"{}") -> list[Receipt] | Answer:
    """Add a publication of *drafts*."""
    return made.add_publication(list(drafts), key, lambda _: answer)


# Publications.


def test_event_reaches_each_subscription_that_matches() -> None:
    """Every matching subscription gets a delivery with the next key, and the event tells how many."""
    made = batch(sub(1), sub(2, event_types=("order.*",)), sub(3, event_types=("user.*",)), sub(4, tenant="other"))

    (receipt,) = _receipts(accept(made, draft(priority=Priority.HIGH, expires_at=NOW + 5)))

    assert (101, NOW, NOW, 2) == (receipt.event.seq, receipt.event.accepted_at, receipt.event.occurred_at, receipt.deliveries)
    assert [(201, 1), (202, 2)] == [(d.seq, d.subscription) for d, _ in made.accepted]
    assert {(101, Priority.HIGH, NOW, NOW, NOW + 5)} == {
        (d.event, d.priority, d.due_at, d.created_at, d.expires_at) for d, _ in made.accepted
    }
    assert [(101, 2)] == [(row[0], row[8]) for row in written(made, "events")]
    assert [201, 202] == [row[0] for row in written(made, "deliveries")]


def test_event_that_nobody_wants_is_stored() -> None:
    """No match is no mistake."""
    made = batch()

    (receipt,) = _receipts(accept(made, draft()))

    assert 0 == receipt.deliveries
    assert 1 == len(written(made, "events"))
    assert [] == made.accepted


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param({}, NOW, id="none"),
        pytest.param({"deliver_at": NOW - 1}, NOW, id="past"),
        pytest.param({"deliver_at": NOW + HOUR}, NOW + HOUR, id="future"),
    ],
)
def test_deliver_at_is_never_before_the_acceptance(given: dict[str, int], expected: int) -> None:
    """A time in the past is now."""
    made = batch(sub())
    accept(made, draft(**given))

    assert [expected] == [d.due_at for d, _ in made.accepted]


def test_times_and_names_of_the_producer_are_kept() -> None:
    """What the producer says of an event is in its row."""
    made = batch()

    (receipt,) = _receipts(accept(made, draft(id="mine", occurred_at=5, ordering_key="k", data=b" 1 ", digest=b"x")))

    assert Event(
        seq=101,
        id="mine",
        tenant="acme",
        type="order.created",
        data=b" 1 ",
        accepted_at=NOW,
        occurred_at=5,
        ordering_key="k",
    ) == (receipt.event)
    assert [(b" 1 ", b"x")] == [
        (made.commit(VAULT).bytes_at(row[2]), made.commit(VAULT).bytes_at(row[9])) for row in written(made, "events")
    ]


@pytest.mark.parametrize(("while_disabled", "expected"), [(WhileDisabled.HOLD, 1), (WhileDisabled.SKIP, 0)])
def test_disabled_subscription_holds_or_skips(while_disabled: WhileDisabled, expected: int) -> None:
    """What a disabled subscription would have got is made only if it holds."""
    disabled = sub(state=SubscriptionState.DISABLED, disabled_reason=DisabledReason.MANUAL, while_disabled=while_disabled)

    (receipt,) = _receipts(accept(batch(disabled), draft()))

    assert expected == receipt.deliveries


def test_only_names_exactly_who_gets_it() -> None:
    """Chosen subscriptions get the event whatever their types; those of another tenant do not."""
    chosen, other = sub(1, event_types=("user.*",)), sub(2, tenant="other")
    made = batch(chosen, other, sub(3))

    accept(made, draft(only=frozenset({chosen.id, other.id, "sub_unknown"})))

    assert [1] == [d.subscription for d, _ in made.accepted]


@pytest.mark.parametrize("split", [False, True], ids=["within one array", "within one batch"])
def test_repeated_id_gets_the_first_receipt(split: bool) -> None:
    """The same id with the same digest is one event, wherever the repetition comes from."""
    made = batch(sub())
    one = draft(id="mine", digest=b"x")
    arrays = [[one], [one]] if split else [[one, one]]

    receipts = [receipt for array in arrays for receipt in _receipts(accept(made, *array))]

    assert 2 == len(receipts)
    assert receipts[0] is receipts[1]
    assert 1 == len(written(made, "events")) == len(made.accepted)


@pytest.mark.parametrize("known", [False, True], ids=["within one array", "of an earlier commit"])
def test_reused_id_refuses_the_whole_array(known: bool) -> None:
    """The same id with another digest adds nothing of its array, and leaves no trace in the batch."""
    made = batch(sub())
    first = draft(id="mine", digest=b"x")
    if known:
        event = Event(seq=1, id="mine", tenant="acme", type="a", data=b"", accepted_at=1, occurred_at=1)
        made.know({}, {("mine", "acme"): (b"x", Receipt(event=event, deliveries=3))})

    with pytest.raises(EventExists, match="another event with the id mine"):
        accept(made, draft(id="new", digest=b"n"), first, draft(id="mine", digest=b"y"), key=KEY)

    assert [None] * 17 + [b""] == made.commit(VAULT).values()
    assert [] == made.accepted
    (receipt,) = _receipts(accept(made, draft(id="new", digest=b"other")))
    assert 1 == receipt.deliveries


@pytest.mark.parametrize("known", [False, True], ids=["within one array", "of an earlier commit"])
def test_refused_array_stands_in_no_line(known: bool) -> None:
    """With fifo, who comes after an array that was refused leads the line."""
    made = batch(sub(ordering=Ordering.FIFO))
    first = draft(id="mine", digest=b"x", ordering_key="k")
    if known:
        event = Event(seq=1, id="mine", tenant="acme", type="a", data=b"", accepted_at=1, occurred_at=1)
        made.know({}, {("mine", "acme"): (b"x", Receipt(event=event, deliveries=1))})
    with pytest.raises(EventExists):
        accept(made, draft(ordering_key="k"), first, draft(id="mine", digest=b"y", ordering_key="k"))

    accept(made, draft(ordering_key="k"), draft(ordering_key="k"))

    assert [Place.LANE, Place.FOLLOWING] == [delivery.place for delivery, _ in made.accepted]


def test_id_is_unique_per_tenant() -> None:
    """Two tenants may use one id."""
    made = batch()
    accept(made, draft(id="mine", digest=b"x"), draft(id="mine", digest=b"y", tenant="other"))

    assert 2 == len(written(made, "events"))


def test_known_id_brings_what_was_answered() -> None:
    """An id of an earlier commit brings that event's receipt."""
    made = batch(sub())
    event = Event(seq=1, id="mine", tenant="acme", type="a", data=b"", accepted_at=1, occurred_at=1)
    before = Receipt(event=event, deliveries=3)
    made.know({}, {("mine", "acme"): (b"x", before)})

    assert [before] == accept(made, draft(id="mine", digest=b"x"))
    assert [] == made.accepted


def test_first_use_of_a_key_is_answered_and_kept() -> None:
    """The first request with a key gets its receipts, and what was rendered of them is stored."""
    made = batch(sub())

    assert 1 == len(_receipts(accept(made, draft(), key=KEY, answer=b"first")))
    ((*scope, digest, status, answer, created_at),) = written(made, "keys")
    assert (list(KEY.scope), 202, NOW) == (scope, status, created_at)
    assert (b"d", b"first") == (made.commit(VAULT).bytes_at(digest), made.commit(VAULT).bytes_at(answer))
    assert [(*KEY.scope, NOW - KEY_LIFETIME)] == written(made, "spent_keys")


@pytest.mark.parametrize("known", [False, True], ids=["of this batch", "of an earlier commit"])
def test_repeated_key_gets_the_first_answer(known: bool) -> None:
    """Same bytes get the answer of the first and make no event."""
    made = batch(sub())
    if known:
        made.know({KEY.scope: (b"d", Answer(status=202, body=b"first"))}, {})
    else:
        accept(made, draft(), key=KEY, answer=b"first")
    events = len(written(made, "events"))

    assert Answer(status=202, body=b"first") == accept(made, draft(), key=KEY, answer=b"second")
    with pytest.raises(IdempotencyMismatch):
        accept(made, draft(), key=replace(KEY, digest=b"other"))
    assert events == len(written(made, "events"))


@pytest.mark.parametrize("field", ["tenant", "method", "path", "key"])
def test_keys_of_other_scopes_are_other_keys(field: str) -> None:
    """A key belongs to its tenant, method and path."""
    made = batch()
    accept(made, draft(), key=KEY)

    assert not isinstance(accept(made, draft(), key=replace(KEY, **{field: "other"}, digest=b"other")), Answer)


def test_refused_publication_does_not_use_up_its_key() -> None:
    """Only what succeeded is kept: the key can be used again after a refusal."""
    made = batch()
    accept(made, draft(id="mine", digest=b"x"))
    with pytest.raises(EventExists):
        accept(made, draft(id="mine", digest=b"y"), key=KEY)

    assert not isinstance(accept(made, draft(), key=KEY), Answer)


def test_key_without_an_answer_to_keep_is_not_stored() -> None:
    """Where nothing is rendered nothing can be repeated."""
    made = batch()
    made.add_publication([draft()], KEY, None)

    assert [] == written(made, "keys")


# Results.


def test_result_settles_counts_and_is_told() -> None:
    """A success writes its delivery, its attempt and the counters, and tells all three."""
    made = batch(sub())
    one = result(delivery(), DELIVERED)
    made.add_results([one])

    ((recorded,),) = made.recorded
    assert (one, one.after, None) == (recorded.result, recorded.delivery, recorded.disabled)
    assert recorded.health == made.health[1] == Health(last_success_at=NOW + 20)
    assert [(5, 1, Place.LANE, 0)] == [(*row[:2], *row[-2:]) for row in written(made, "settled")]
    assert [("accepted", 204)] == [row[6:8] for row in written(made, "attempts")]
    assert [(1, 0, NOW + 20, None, None, None)] == written(made, "health")


def test_counters_go_on_from_those_before() -> None:
    """Failures of one batch add to those of the rows and to each other, and are written once."""
    made = batch(sub(), health={1: Health(consecutive_failures=4, failing_since=7)})
    for seq in (5, 6):
        made.add_results([result(delivery(seq), NO_ANSWER)])

    assert [5, 6] == [recorded.health.consecutive_failures for (recorded,) in made.recorded]
    assert [(1, 6, None, NOW + 20, 7, None)] == written(made, "health")


def test_other_subscriptions_counters_stay() -> None:
    """What happened to one subscription does not touch another."""
    made = batch(sub(1), sub(2), health={2: Health(consecutive_failures=4)})
    made.add_results([result(delivery(), DELIVERED)])

    assert {1} == set(made.health)


@pytest.mark.parametrize(
    ("outcome", "rules", "reason"),
    [
        pytest.param(NO_ANSWER, replace(RULES, disable_after_failures=2), DisabledReason.FAILURES, id="too many failures"),
        pytest.param(NO_ANSWER, replace(RULES, disable_after=HOUR), DisabledReason.FAILURES, id="failing too long"),
        pytest.param(GONE, replace(RULES, gone=frozenset({410})), DisabledReason.GONE, id="gone"),
    ],
)
def test_failure_disables_in_the_same_commit(outcome: Any, rules: Rules, reason: DisabledReason) -> None:
    """The failure that is one too many disables the subscription with a new version, once, and tells who did it."""
    before = sub(version=3)
    made = batch(before, health={1: Health(consecutive_failures=1, failing_since=NOW - 2 * HOUR)})
    for seq in (5, 6):
        made.add_results([result(delivery(seq), outcome, rules=rules)])

    assert [reason, None] == [recorded.disabled for (recorded,) in made.recorded]
    disabled = made.disabled[1]
    assert (SubscriptionState.DISABLED, reason, 4, NOW + 20) == (
        disabled.state,
        disabled.disabled_reason,
        disabled.version,
        disabled.updated_at,
    )
    ((seq, _, _, state, stored, version, _),) = written(made, "changed")
    assert ("disabled", reason, 4, 1) == (state, stored, version, seq)


def test_disabled_subscription_is_not_disabled_again() -> None:
    """An attempt that ends after the disabling is counted, and changes neither reason nor version."""
    before = sub(state=SubscriptionState.DISABLED, disabled_reason=DisabledReason.MANUAL)
    made = batch(before)
    made.add_results([result(delivery(), GONE, rules=replace(RULES, gone=frozenset({410})))])

    assert {} == made.disabled
    assert 1 == made.health[1].consecutive_failures


def test_success_never_disables() -> None:
    """A run of failures that ends with a success is over."""
    made = batch(sub(), health={1: Health(consecutive_failures=99, failing_since=0)})
    made.add_results([result(delivery(), DELIVERED, rules=replace(RULES, disable_after_failures=1, disable_after=1))])

    assert {} == made.disabled


@pytest.mark.parametrize("outcome", [Interrupted(), Interrupted(error=FAULT), Broken(error=FAULT)])
def test_our_own_faults_move_no_counter(outcome: Any) -> None:
    """What is not the endpoint's doing leaves its counters, and disables nothing."""
    before = Health(consecutive_failures=99, failing_since=1)
    made = batch(sub(), health={1: before})
    made.add_results([result(delivery(), outcome, rules=replace(RULES, disable_after_failures=1))])

    assert before == made.recorded[0][0].health
    assert {} == made.disabled


def test_interrupted_attempt_replaces_one_before_it() -> None:
    """An interrupted attempt leaves its delivery as it is, and takes the row of the one before."""
    made = batch(sub())
    made.add_results([result(delivery(), Interrupted())])

    assert [] == written(made, "settled")
    assert [5] == written(made, "interrupted")
    assert ["interrupted"] == [row[6] for row in written(made, "attempts")]


def test_expired_delivery_has_no_attempt() -> None:
    """What ends without an attempt is settled and told, and counts for nothing."""
    made = batch(sub())
    before = delivery()
    after = replace(before, state=DeliveryState.FAILED, finished_at=NOW, failed_label="expired")
    made.add_results([Result(before=before, after=after, attempt=None, rules=RULES)])

    assert [] == written(made, "attempts")
    assert [] == written(made, "health")
    assert 1 == len(written(made, "settled"))
    assert (after, Health()) == (made.recorded[0][0].delivery, made.recorded[0][0].health)


@pytest.mark.parametrize("outcome", [DELIVERED, NO_ANSWER], ids=["success", "failure"])
def test_attempt_of_a_deleted_subscription_is_recorded_and_stays_cancelled(outcome: Any) -> None:
    """The attempt is history, the delivery is cancelled since the deleting, and nothing is counted."""
    made = batch()
    made.know({}, {}, deletions={1: NOW - 5})
    made.add_results([result(delivery(), outcome)])

    ((recorded,),) = made.recorded
    assert (DeliveryState.CANCELLED, NOW - 5) == (recorded.delivery.state, recorded.delivery.finished_at)
    assert ["cancelled"] == [row[4] for row in written(made, "settled")]
    assert 1 == len(written(made, "attempts"))
    assert {} == made.health


def test_delivery_that_was_cancelled_before_its_subscription_was_deleted() -> None:
    """It stays cancelled since then; that there was an attempt is all that is new."""
    made = batch()
    before = delivery(state=DeliveryState.CANCELLED, finished_at=3)
    after = replace(before, attempt_count=1)
    made.add_results([Result(before=before, after=after, attempt=attempt(DELIVERED), rules=RULES)])

    assert [[after]] == [[recorded.delivery for recorded in group] for group in made.recorded]


def test_delivery_that_was_cancelled_meanwhile_is_not_settled() -> None:
    """A result that changes nothing of its delivery records the attempt alone."""
    made = batch(sub())
    before = delivery(state=DeliveryState.CANCELLED, finished_at=3)
    made.add_results([Result(before=before, after=before, attempt=attempt(DELIVERED), rules=RULES)])

    assert [] == written(made, "settled")
    assert 1 == len(written(made, "attempts"))


def _receipts(answer: list[Receipt] | Answer | HookEngineError) -> list[Receipt]:
    assert isinstance(answer, list)
    return answer


# Statistics.


def test_results_that_end_alike_are_one_row() -> None:
    """Of the results of a commit, those of one subscription with the same ending and time taken are counted in one row."""
    made = batch(sub(1), sub(2))
    hour = NOW - NOW % HOUR
    for seq, whose, outcome in (
        (5, 1, DELIVERED),
        (6, 1, DELIVERED),
        (7, 2, DELIVERED),
        (8, 1, NO_ANSWER),
        (9, 1, GONE),
    ):
        made.add_results([result(delivery(seq, subscription=whose), outcome)])

    assert [
        (1, hour, "delivered", "", 204, "", 7, 2),
        (2, hour, "delivered", "", 204, "", 7, 1),
        (1, hour, "", "", 0, "timeout_response", 7, 1),
        (1, hour, "", "", 410, "http_status", 7, 1),
    ] == written(made, "statistics")


@pytest.mark.parametrize(
    ("outcome", "rules", "expected"),
    [
        pytest.param(NO_ANSWER, Rules(failed_label="x"), ("failed", "x", 0, "timeout_response", 7), id="given up"),
        pytest.param(NO_ANSWER, Rules(), ("failed", "", 0, "timeout_response", 7), id="given up without a label"),
        pytest.param(Broken(error=FAULT), RULES, ("failed", "internal error", 0, "", -1), id="our fault"),
        pytest.param(Interrupted(error=FAULT), RULES, None, id="interrupted"),
    ],
)
def test_what_an_ending_counts_as(outcome: Outcome, rules: Rules, expected: tuple[Any, ...] | None) -> None:
    """A delivery that is given up counts with its label; what is not the endpoint's counts as no attempt, or not at all."""
    made = batch(sub())
    made.add_results([result(delivery(), outcome, rules=rules)])

    assert ([] if expected is None else [expected]) == [row[2:7] for row in written(made, "statistics")]


def test_expired_delivery_counts_without_an_attempt() -> None:
    """What ended before an attempt was made is among the endings only."""
    made = batch(sub())
    before = delivery(expires_at=1)
    after = replace(before, state=DeliveryState.FAILED, finished_at=NOW, failed_label="expired")
    made.add_results([Result(before=before, after=after, attempt=None, rules=RULES)])

    assert [("failed", "expired", 0, "", -1, 1)] == [row[2:] for row in written(made, "statistics")]


def test_ending_is_counted_once() -> None:
    """The attempt of a delivery that was cancelled meanwhile counts, its ending was counted before."""
    made = batch(sub())
    before = delivery(state=DeliveryState.CANCELLED, finished_at=5)
    after = replace(before, attempt_count=1)
    made.add_results([Result(before=before, after=after, attempt=attempt(DELIVERED), rules=RULES)])

    assert [("", "", 204, "", 7, 1)] == [row[2:] for row in written(made, "statistics")]


def test_deleted_subscription_has_no_statistics() -> None:
    """What ends after its subscription is gone is counted nowhere: nobody can ask for it."""
    made = batch()
    made.add_results([result(delivery(), DELIVERED)])

    assert [] == written(made, "statistics")


def test_failed_delivery_is_announced_once() -> None:
    """What had ended before, as by its time, is told of no second time when its attempt ends."""
    ours = sub(2, tenant="hookengine", event_types=("hookengine.*",))
    made = batch(sub(), ours)
    ended = delivery(state=DeliveryState.FAILED, finished_at=1, failed_label="expired")
    made.add_results([Result(before=ended, after=replace(ended, attempt_count=1), attempt=attempt(NO_ANSWER), rules=RULES)])
    assert [] == made.accepted

    waited = delivery(6)
    failed = replace(waited, state=DeliveryState.FAILED, finished_at=2, failed_label="x", attempt_count=1)
    made.add_results([Result(before=waited, after=failed, attempt=attempt(NO_ANSWER), rules=RULES)])
    assert 1 == len(made.accepted)
