"""Changes that run alone: subscriptions, deliveries by hand, access tokens of endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace
from storage import (
    ACCESS_TOKEN,
    DAY,
    DELIVERED,
    HOUR,
    MINUTE,
    NO_ANSWER,
    NOW,
    OAUTH2,
    OTHER_OAUTH2,
    Opened,
    draft,
    drafts,
    opened,
    result,
    subscription,
)

from hookengine.errors import (
    DeliveryNotFound,
    DeliveryStateConflict,
    IdempotencyMismatch,
    PreconditionFailed,
    SubscriptionDisabled,
    SubscriptionNotFound,
)
from hookengine.models import (
    Delivery,
    DeliveryState,
    DisabledReason,
    Health,
    OAuth2,
    Secret,
    Subscription,
    SubscriptionState,
    Trigger,
)
from hookengine.store import Answer, Key, changes

if TYPE_CHECKING:
    from pathlib import Path


KEY = Key(tenant="acme", method="POST", path="/v1/subscriptions", key="k", digest=b"d")
RETENTION = 30 * DAY
ACTIVE, DISABLED = SubscriptionState.ACTIVE, SubscriptionState.DISABLED


def name_of(made: Subscription) -> bytes:
    """The answer that a request for a new subscription gets."""
    return made.id.encode()


async def add(place: Opened, one: Subscription, key: Key = KEY) -> Subscription | Answer:
    """Add a subscription with a key."""
    return await place.store.writer.change(changes.add_subscription(one, key, name_of))


async def fail(place: Opened, made: list[Delivery], *, at: int = NOW) -> list[Delivery]:
    """Let the first attempt of each fail; what waits for a retry then."""
    return [recorded.delivery for recorded in await place.record(*(result(delivery, NO_ANSWER, at=at) for delivery in made))]


def shown(place: Opened) -> list[str]:
    """How the deliveries read."""
    return [state for (state,) in place.rows("SELECT state FROM deliveries_shown ORDER BY seq")]


# Subscriptions.


async def test_subscription_is_added(tmp_path: Path) -> None:
    """It is stored under the next key, known to the index, told, and has no counts yet."""
    async with opened(tmp_path) as place:
        first, second = await place.subscribe(), await place.subscribe()

        assert [1, 2] == [first.seq, second.seq]
        assert [(None, first), (None, second)] == place.listener.all("changed")
        assert [first, second] == list(place.store.memory.index)
        assert {1: Health(), 2: Health()} == place.store.memory.health
        assert [(first.id,), (second.id,)] == place.rows("SELECT id FROM subscriptions ORDER BY seq")
    async with opened(tmp_path) as place:
        assert [first, second] == list(place.store.memory.index)


async def test_subscription_is_as_old_as_its_commit(tmp_path: Path) -> None:
    """It is made when it is stored, and not when it was asked for: events may have been committed between."""
    async with opened(tmp_path) as place:
        asked = subscription(place.clock)
        place.clock.time += 5
        made = await add(place, asked)

        assert isinstance(made, Subscription)
        assert (NOW + 5, NOW + 5) == (made.created_at, made.updated_at)
        assert [(NOW + 5, NOW + 5)] == place.rows("SELECT created_at, updated_at FROM subscriptions")


async def test_subscription_with_a_key_is_added_once(tmp_path: Path) -> None:
    """The repetition gets what the first was answered; other bytes are refused."""
    async with opened(tmp_path) as place:
        made = await add(place, subscription(place.clock))
        assert isinstance(made, Subscription)

        assert Answer(status=201, body=made.id.encode()) == await add(place, subscription(place.clock))
        with pytest.raises(IdempotencyMismatch):
            await add(place, subscription(place.clock), replace(KEY, digest=b"other"))
        assert isinstance(await add(place, subscription(place.clock), replace(KEY, key="other")), Subscription)
        assert 2 == len(place.store.memory.index)


async def test_key_of_a_subscription_is_free_after_a_day(tmp_path: Path) -> None:
    """After 24 hours the key makes another subscription."""
    async with opened(tmp_path) as place:
        await add(place, subscription(place.clock))
        place.clock.time += DAY

        assert isinstance(await add(place, subscription(place.clock), replace(KEY, digest=b"other")), Subscription)
        assert [(NOW + DAY,)] == place.rows("SELECT created_at FROM idempotency_keys")


async def test_edit_makes_a_new_version(tmp_path: Path) -> None:
    """The change is applied to the subscription as it is, stored, and told with what was before."""
    async with opened(tmp_path) as place:
        before = await place.subscribe()
        place.clock.time += 5
        after = await place.edit(before, url="https://new.example/", headers=(("a", Secret("b")),))

        assert (2, NOW + 5, NOW) == (after.version, after.updated_at, after.created_at)
        assert (before, after) == place.listener.all("changed")[-1]
        assert [after] == list(place.store.memory.index)
    async with opened(tmp_path) as place:
        assert [after] == list(place.store.memory.index)


async def test_edit_that_changes_nothing_is_none(tmp_path: Path) -> None:
    """The version stays, and nobody is told."""
    async with opened(tmp_path) as place:
        before = await place.subscribe()

        assert before is await place.edit(before, url=before.url, state=ACTIVE)
        assert 1 == len(place.listener.all("changed"))


VERSIONS = pytest.mark.parametrize(
    ("versions", "fits"),
    [
        pytest.param(None, True, id="any"),
        pytest.param(frozenset({1}), True, id="the one"),
        pytest.param(frozenset({0, 1, 5}), True, id="one of several"),
        pytest.param(frozenset({0, 2}), False, id="others"),
        pytest.param(frozenset(), False, id="none"),
    ],
)


@VERSIONS
async def test_edit_of_a_version(tmp_path: Path, versions: frozenset[int] | None, *, fits: bool) -> None:
    """With versions given, only those are changed, even where the change would be none."""
    async with opened(tmp_path) as place:
        one = await place.subscribe()
        step = changes.edit_subscription(one.id, None, lambda current, _: current, versions=versions)
        if fits:
            assert one == await place.store.writer.change(step)
        else:
            with pytest.raises(PreconditionFailed):
                await place.store.writer.change(step)


@VERSIONS
async def test_deleting_of_a_version(tmp_path: Path, versions: frozenset[int] | None, *, fits: bool) -> None:
    """With versions given, only those are deleted."""
    async with opened(tmp_path) as place:
        one = await place.subscribe()
        step = changes.delete_subscription(one.id, None, versions=versions)
        if fits:
            await place.store.writer.change(step)
        else:
            with pytest.raises(PreconditionFailed):
                await place.store.writer.change(step)

        assert ([] if fits else [one]) == list(place.store.memory.index)


async def test_edit_is_told_the_time(tmp_path: Path) -> None:
    """What an edit decides may depend on now."""
    async with opened(tmp_path) as place:
        one = await place.subscribe()
        place.clock.time += 7
        step = changes.edit_subscription(one.id, "acme", lambda current, now: replace(current, name=str(now)))

        assert str(NOW + 7) == (await place.store.writer.change(step)).name


@pytest.mark.parametrize(("known", "tenant"), [(False, None), (True, "other")], ids=["unknown", "of another tenant"])
async def test_subscription_that_is_not_there(tmp_path: Path, tenant: str | None, *, known: bool) -> None:
    """An unknown id and one of another tenant are the same."""
    async with opened(tmp_path) as place:
        id_ = (await place.subscribe()).id if known else "sub_unknown"
        with pytest.raises(SubscriptionNotFound):
            await place.store.writer.change(changes.edit_subscription(id_, tenant, lambda current, _: current))
        with pytest.raises(SubscriptionNotFound):
            await place.store.writer.change(changes.delete_subscription(id_, tenant))


async def test_disabling_by_hand(tmp_path: Path) -> None:
    """The reason is `manual`, the counters stay, and what waits reads as held."""
    async with opened(tmp_path) as place:
        one = await place.subscribe()
        made = await place.deliver(*drafts(2))
        await fail(place, made[:1])
        after = await place.edit(one, state=DISABLED)

        assert (DISABLED, DisabledReason.MANUAL) == (after.state, after.disabled_reason)
        assert 1 == place.store.memory.health[one.seq].consecutive_failures
        assert ["held", "held"] == shown(place)
        assert [] == place.listener.all("overruled")


async def test_reason_of_a_disabling_stays(tmp_path: Path) -> None:
    """Another edit of a disabled subscription does not take its reason for its own."""
    async with opened(tmp_path) as place:
        one = await place.subscribe(state=DISABLED, disabled_reason=DisabledReason.GONE)

        assert DisabledReason.GONE is (await place.edit(one, name="x")).disabled_reason


async def test_enabling_starts_anew(tmp_path: Path) -> None:
    """The run of failures is over, the reason gone, the last success remembered, in rows and in memory alike."""
    async with opened(tmp_path) as place:
        one = await place.subscribe()
        first, second = await place.deliver(*drafts(2))
        await place.record(result(first, DELIVERED))
        await fail(place, [second])
        disabled = await place.edit(one, state=DISABLED)
        place.clock.time += HOUR
        after = await place.edit(disabled, state=ACTIVE)

        expected = Health(last_success_at=NOW + 20, last_failure_at=NOW + 20, enabled_at=NOW + HOUR)
        assert (ACTIVE, None) == (after.state, after.disabled_reason)
        assert {one.seq: expected} == place.store.memory.health
    async with opened(tmp_path) as place:
        assert {one.seq: expected} == place.store.memory.health


async def test_deleting_is_one_row(tmp_path: Path) -> None:
    """Its secrets go, its deliveries read as cancelled though none was written, and it is not there any more."""
    async with opened(tmp_path) as place:
        one = await place.subscribe()
        await place.deliver(*drafts(3))
        before = place.rows("SELECT * FROM deliveries")
        await place.store.writer.change(changes.delete_subscription(one.id, None))

        assert before == place.rows("SELECT * FROM deliveries")
        assert ["cancelled"] * 3 == shown(place)
        assert [(NOW, b"")] == place.rows("SELECT deleted_at, sealed FROM subscriptions")
        assert (one, None) == place.listener.all("changed")[-1]
        assert (0, {}) == (len(place.store.memory.index), place.store.memory.health)
        with pytest.raises(SubscriptionNotFound):
            await place.store.writer.change(changes.delete_subscription(one.id, None))
        assert [] == await place.deliver()
    async with opened(tmp_path) as place:
        assert 0 == len(place.store.memory.index)
        assert 2 == (await place.subscribe()).seq


# Deliveries by hand.


async def in_state(place: Opened, state: str) -> Delivery:
    """A delivery that reads as *state*, tried twice where it can be, as its row has it."""
    one = await place.subscribe()
    (delivery,) = await place.deliver(draft(expires_at=NOW + DAY))
    if state not in {"fresh", "deleted"}:
        (delivery,) = await fail(place, [delivery])
        before = delivery
        if state == "failed":
            delivery = replace(delivery, state=DeliveryState.FAILED, finished_at=NOW, failed_label="x")
        elif state == "delivered":
            delivery = replace(delivery, state=DeliveryState.DELIVERED, finished_at=NOW)
        elif state == "cancelled":
            delivery = replace(delivery, state=DeliveryState.CANCELLED, finished_at=NOW)
        await place.record(replace(result(before, DELIVERED), after=delivery))
    if state in {"held", "failed and disabled"}:
        await place.edit(one, state=DISABLED)
    if state == "deleted":
        await place.store.writer.change(changes.delete_subscription(one.id, None))
    place.listener.told.clear()
    place.clock.time += MINUTE
    return delivery


@pytest.mark.parametrize("state", ["fresh", "pending", "failed", "cancelled"])
async def test_retry_by_hand(tmp_path: Path, state: str) -> None:
    """The same delivery is due now, with its whole schedule and no time limit; what it cost so far stays counted."""
    async with opened(tmp_path) as place:
        before = await in_state(place, state)
        await place.store.writer.change(changes.retry_delivery(before.id, "acme"))

        ((attempts,),) = place.rows("SELECT count(*) FROM attempts")  # one of them was not counted when it ended
        after = replace(
            before,
            attempt_count=attempts,
            state=DeliveryState.PENDING,
            due_at=NOW + MINUTE,
            step=0,
            trigger=Trigger.MANUAL,
            expires_at=None,
            finished_at=None,
            failed_label=None,
        )
        assert [("overruled", (before, after))] == place.listener.told
        assert {1: [None, (NOW + MINUTE, 1), None]} == await place.store.reader.heads()
        columns = "state, due_at, step, attempt_count, trigger, expires_at, finished_at, failed_label"
        assert [("pending", NOW + MINUTE, 0, attempts, "manual", None, None, None)] == place.rows(
            f"SELECT {columns} FROM deliveries"
        )


@pytest.mark.parametrize(
    ("state", "error", "said"),
    [
        ("delivered", DeliveryStateConflict, "the delivery is delivered"),
        ("held", SubscriptionDisabled, r"the subscription is disabled \(manual\): enable it first"),
        ("deleted", DeliveryStateConflict, "the delivery is cancelled and its subscription deleted"),
    ],
)
async def test_retry_that_cannot_be(tmp_path: Path, state: str, error: type[Exception], said: str) -> None:
    """What was delivered, is held, or belongs to nobody, stays as it is."""
    async with opened(tmp_path) as place:
        delivery = await in_state(place, state)
        before = place.rows("SELECT * FROM deliveries")
        with pytest.raises(error, match=f"^{said}$"):
            await place.store.writer.change(changes.retry_delivery(delivery.id, None))

        assert before == place.rows("SELECT * FROM deliveries")
        assert [] == place.listener.told


@pytest.mark.parametrize("state", ["fresh", "pending", "held"])
async def test_cancel_by_hand(tmp_path: Path, state: str) -> None:
    """What waits or is held ends as cancelled, now."""
    async with opened(tmp_path) as place:
        before = await in_state(place, state)
        await place.store.writer.change(changes.cancel_delivery(before.id, "acme"))

        after = replace(before, state=DeliveryState.CANCELLED, finished_at=NOW + MINUTE)
        assert [("overruled", (before, after))] == place.listener.told
        assert [("cancelled", NOW + MINUTE)] == place.rows("SELECT state, finished_at FROM deliveries")
        assert [(before.subscription, "cancelled", -1, 1)] == place.rows(
            "SELECT subscription, state, bucket, count FROM statistics WHERE state <> ''"
        )


@pytest.mark.parametrize("state", ["delivered", "failed", "cancelled", "deleted"])
async def test_cancel_that_cannot_be(tmp_path: Path, state: str) -> None:
    """What has ended stays as it ended."""
    reads = "cancelled" if state == "deleted" else state
    async with opened(tmp_path) as place:
        delivery = await in_state(place, state)
        before = place.rows("SELECT * FROM deliveries")
        with pytest.raises(DeliveryStateConflict, match=f"^the delivery is {reads}$"):
            await place.store.writer.change(changes.cancel_delivery(delivery.id, None))

        assert before == place.rows("SELECT * FROM deliveries")
        assert [] == place.listener.told


@pytest.mark.parametrize("change", [changes.retry_delivery, changes.cancel_delivery])
@pytest.mark.parametrize(("known", "tenant"), [(False, None), (True, "other")], ids=["unknown", "of another tenant"])
async def test_delivery_that_is_not_there(tmp_path: Path, change: Any, tenant: str | None, *, known: bool) -> None:
    """An unknown id and one of another tenant are the same."""
    async with opened(tmp_path) as place:
        id_ = (await in_state(place, "pending")).id if known else "dlv_unknown"
        with pytest.raises(DeliveryNotFound):
            await place.store.writer.change(change(id_, tenant))


# Access tokens of endpoints.


@pytest.mark.parametrize("auth", [None, OTHER_OAUTH2], ids=["none", "another"])
async def test_access_token_goes_with_its_auth(tmp_path: Path, auth: OAuth2 | None) -> None:
    """A change of `auth` takes the token out of file and memory, and so does the subscription's end."""
    async with opened(tmp_path) as place:
        for change in ("edit", "delete"):
            made = await place.subscribe(auth=OAUTH2)
            await place.store.writer.change(changes.keep_access_token(made.seq, OAUTH2, ACCESS_TOKEN))
            await place.edit(made, name="the same auth")
            assert 1 == len(place.rows("SELECT * FROM access_tokens"))
            if change == "edit":
                await place.edit(made, auth=auth)
            else:
                await place.store.writer.change(changes.delete_subscription(made.id, None))
            await place.store.writer.change(changes.keep_access_token(made.seq, OAUTH2, ACCESS_TOKEN))

            assert ([], {}) == (place.rows("SELECT * FROM access_tokens"), place.store.memory.access_tokens)
