"""Which subscriptions are served, and how: against a real store and the real scheduler."""

from __future__ import annotations

import sqlite3
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, Any

import pytest
from msgspec.structs import replace
from storage import DELIVERED, HOUR, NOW, RULES, Opened, draft, edit, opened, result

from hookengine.errors import StartError
from hookengine.gathering import Gathering
from hookengine.health import OWN_PAUSE
from hookengine.lanes import FROM_THE_START
from hookengine.models import (
    AttemptError,
    DisabledReason,
    ErrorCode,
    Health,
    Interrupted,
    Priority,
    Rank,
    Refused,
    Response,
    Standing,
    Subscription,
    SubscriptionState,
    Tenant,
)
from hookengine.observers import NotConfigured
from hookengine.profiles import PROFILES
from hookengine.scheduler import Refill, Scheduler
from hookengine.serving import Serving, pace
from hookengine.store import clock_jumps

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from hookengine.observers import Happening

UNTRIED = Standing(width=1, rank=Rank.UNTRIED)
TRUSTED = Standing(width=5, rank=Rank.TRUSTED)
REASON = AttemptError(code=ErrorCode.HTTP_STATUS, detail="429")
LIMITED = Refused(response=Response(status=429, headers=(), body=b"", truncated=False), error=REASON)
NAMELESS = Interrupted(error=AttemptError(code=ErrorCode.DNS_TEMPORARY, detail="nobody knows"), keeps_nobody_else=True)


class Served:
    """What is served of a store."""

    def __init__(self, place: Opened) -> None:
        self.place = place
        self.scheduler = Scheduler(concurrency=100, queue_size=1_000)
        self.told: list[Happening] = []
        self.serving = Serving(
            scheduler=self.scheduler,
            gathering=Gathering(),
            clock=place.clock,
            profiles=PROFILES,
            observe=self.told.append,
        )

    async def subscribe(self, **settings: Any) -> Subscription:
        """A new subscription, which is served as a dispatcher does it."""
        made = await self.place.subscribe(**settings)
        self.serving.change(made.seq, None, made)
        return made

    def change(self, before: Subscription, **settings: Any) -> Subscription:
        """The same, changed."""
        after = replace(before, **settings)
        self.place.store.memory.index.put(after)
        self.serving.change(after.seq, before, after)
        return after

    def standing(self, subscription: Subscription) -> Standing | None:
        """What it may have."""
        return self.scheduler.standing(subscription.seq)

    def asks(self) -> list[Refill]:
        """What is to be fetched from the disk."""
        return self.scheduler.refills(NOW)


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[Served]:
    """What is served of an empty store."""
    async with opened(folder) as place:
        made = Served(place)
        await made.serving.open(place.store)
        yield made


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        pytest.param(None, 0.0, id="no limit"),
        pytest.param("1000/s", 1.02, id="a fiftieth more"),
        pytest.param("10/s", 102.0, id="ten a second"),
        pytest.param("1/m", 60_020.0, id="20 ms more at most"),
    ],
)
async def test_pace(tmp_path: Path, rate: str | None, expected: float) -> None:
    """From one request to the next it is a little longer than the limit says."""
    async with opened(tmp_path) as place:
        assert expected == pytest.approx(pace(await place.subscribe(rate_limit=rate)))


async def test_start_opens_the_lanes_of_those_that_are_active(tmp_path: Path) -> None:
    """After a start each has what its counters give, and what waits on disk is asked for; who is disabled has no lane."""
    async with opened(tmp_path) as place:
        active, idle, disabled = [await place.subscribe(event_types=types) for types in (("a",), ("b",), ("c",))]
        await place.deliver(draft(type="a"))
        await edit(place.store, disabled, state=SubscriptionState.DISABLED, disabled_reason=DisabledReason.MANUAL)
    async with served(tmp_path) as made:
        assert [UNTRIED, UNTRIED, None] == [made.standing(each) for each in (active, idle, disabled)]
        assert [(active.seq, Priority.NORMAL)] == [ask[:2] for ask in made.asks()]


async def test_who_is_not_served_has_no_target(tmp_path: Path) -> None:
    """A deleted, a disabled and one whose profile is not there: of the last it is told."""
    async with served(tmp_path) as made:
        active = await made.subscribe()
        disabled = made.change(await made.subscribe(), state=SubscriptionState.DISABLED, disabled_reason=DisabledReason.MANUAL)
        strange = await made.subscribe(profile="acme")
        targets = [made.serving.served(seq) for seq in (active.seq, disabled.seq, strange.seq, 99)]

        assert [active, None, None, None] == [None if target is None else target.subscription for target in targets]
        assert [None, None] == [made.standing(disabled), made.standing(strange)]
        error = "no profile 'acme': its deliveries wait"
        assert {NotConfigured(where=f"subscription {strange.id}", error=error)} == {*made.told}


async def test_target_is_what_the_subscription_is_now(tmp_path: Path) -> None:
    """It is made once, and anew after a change."""
    async with served(tmp_path) as made:
        before = await made.subscribe(timeout=1_000)
        first, second = made.serving.served(before.seq), made.serving.served(before.seq)
        after = made.change(before, timeout=2_000)
        third = made.serving.served(before.seq)

        assert first is second
        assert first is not None
        assert third is not None
        assert [(before, 1_000), (after, 2_000)] == [(each.subscription, each.rules.timeout) for each in (first, third)]


async def test_disabled_and_enabled(tmp_path: Path) -> None:
    """Its lane is closed meanwhile; then everything is read from the disk, of each priority."""
    async with served(tmp_path) as made:
        active = await made.subscribe()
        assert [] == made.asks()
        disabled = made.change(active, state=SubscriptionState.DISABLED, disabled_reason=DisabledReason.MANUAL)
        assert made.standing(active) is None
        made.change(disabled, state=SubscriptionState.ACTIVE, disabled_reason=None)

        assert UNTRIED == made.standing(active)
        assert [(active.seq, priority, FROM_THE_START) for priority in Priority] == [ask[:3] for ask in made.asks()]


async def test_deleted_has_no_pace_to_keep(tmp_path: Path) -> None:
    """The pace of one that is disabled is kept for when it is enabled; that of a deleted one is forgotten."""
    async with served(tmp_path) as made:
        first, second = [await made.subscribe(rate_limit="1/m") for _ in range(2)]
        made.change(first, state=SubscriptionState.DISABLED, disabled_reason=DisabledReason.MANUAL)
        made.serving.change(second.seq, second, None)

        assert {first.seq} == made.scheduler.paces().keys()


@pytest.mark.parametrize(
    ("earned", "expected"),
    [
        pytest.param(replace(TRUSTED, width=3), replace(TRUSTED, width=3), id="trusted"),
        pytest.param(replace(UNTRIED, resume_at=NOW + 9), UNTRIED, id="untried"),
        pytest.param(Standing(width=1, rank=Rank.FAILING), UNTRIED, id="failing"),
    ],
)
async def test_changed_settings_keep_what_was_earned(tmp_path: Path, earned: Standing, expected: Standing) -> None:
    """Who is trusted keeps the width that was earned; for others it is the counters that say it anew."""
    async with served(tmp_path) as made:
        before = await made.subscribe(max_concurrency=5)
        made.scheduler.open(before.seq, earned, max_concurrency=5, now=NOW)
        made.change(before, max_concurrency=4)

        assert expected == made.standing(before)


async def test_opened_anew(tmp_path: Path) -> None:
    """All that is served is read from the disk again, and nothing earned is lost."""
    async with served(tmp_path) as made:
        one, other = await made.subscribe(max_concurrency=5), await made.subscribe(profile="acme")
        made.scheduler.open(one.seq, TRUSTED, max_concurrency=5, now=NOW)
        made.serving.open_anew()

        assert [TRUSTED, None] == [made.standing(each) for each in (one, other)]
        assert {(one.seq, FROM_THE_START)} == {(ask.subscription, ask.mark) for ask in made.asks()}


async def test_room_for_batches(tmp_path: Path) -> None:
    """As many as it may have at once, without those that wait and could go no later; none for one that is not there."""
    async with served(tmp_path) as made:
        one = await made.subscribe(max_concurrency=5)
        high, low = await made.place.deliver(draft(priority=Priority.HIGH), draft(priority=Priority.LOW))
        for delivery in (high, low):
            made.scheduler.push(delivery, now=NOW)

        assert [(4, 4, 3), (0, 0, 0)] == [made.serving.room(seq) for seq in (one.seq, 99)]


async def test_no_priority_is_kept_out_by_those_before_it(tmp_path: Path) -> None:
    """In a lane that others fill a priority of which nothing is due has room for one, so that it can be overtaken there."""
    async with served(tmp_path) as made:
        one = await made.subscribe(max_concurrency=1)
        rooms = []
        for priority in (Priority.HIGH, Priority.NORMAL, Priority.LOW):
            [delivery] = await made.place.deliver(draft(priority=priority))
            made.scheduler.push(delivery, now=NOW)
            rooms.append(made.serving.room(one.seq))

        assert [(0, 1, 1), (0, 0, 1), (0, 0, 0)] == rooms


@pytest.mark.parametrize(
    ("before", "outcome", "failures", "expected"),
    [
        pytest.param(TRUSTED, DELIVERED, 0, None, id="it has all that there is"),
        pytest.param(replace(TRUSTED, width=3), DELIVERED, 0, replace(TRUSTED, width=4), id="one more"),
        pytest.param(UNTRIED, DELIVERED, 0, replace(TRUSTED, width=2), id="trusted from now on"),
        pytest.param(replace(TRUSTED, width=4), LIMITED, 1, replace(TRUSTED, width=2), id="half after a 429"),
        pytest.param(TRUSTED, NAMELESS, 0, replace(TRUSTED, resume_at=NOW + OWN_PAUSE), id="its name is not resolved"),
    ],
)
async def test_earned(tmp_path: Path, before: Standing, outcome: Any, failures: int, expected: Standing | None) -> None:
    """A result and the counters after it say what the lane may have from now on; None where that is what it has."""
    async with served(tmp_path) as made:
        one = await made.subscribe(max_concurrency=5)
        [delivery] = await made.place.deliver()
        made.scheduler.open(one.seq, before, max_concurrency=5, now=NOW)
        counted = Health(consecutive_failures=failures, last_success_at=NOW - 1)
        rules = replace(RULES, throttle=frozenset({429}))

        assert expected == made.serving.earned(one, result(delivery, outcome, rules=rules), NOW, counted)


async def test_nothing_is_earned_without_an_attempt_or_a_lane(tmp_path: Path) -> None:
    """A delivery that expired, one of a deleted subscription and one of a closed lane change nothing."""
    async with served(tmp_path) as made:
        one = await made.subscribe()
        [delivery] = await made.place.deliver()
        ended = result(delivery, DELIVERED)

        assert made.serving.earned(one, replace(ended, attempt=None), NOW) is None
        assert made.serving.earned(None, ended, NOW) is None
        made.change(one, state=SubscriptionState.DISABLED, disabled_reason=DisabledReason.MANUAL)
        assert made.serving.earned(one, ended, NOW) is None


async def test_who_cannot_be_signed_for_any_more_has_no_lane(tmp_path: Path) -> None:
    """A lane is closed with what keeps its requests from being made, said once, and opened with what ends that."""
    async with served(tmp_path) as made:
        fine = await made.subscribe()
        broken = made.change(fine, profile="acme")
        assert (None, 1) == (made.standing(broken), len(made.told))
        assert [] == made.asks()

        made.change(broken, profile="standard")
        assert UNTRIED == made.standing(fine)


async def test_secret_of_a_tenant_opens_its_own_lanes_only(tmp_path: Path) -> None:
    """Of a tenant whose secret is set anew those are served again that it could not sign for; nobody else is looked at."""
    async with served(tmp_path) as made:
        memory = made.place.store.memory
        for tenant in ("acme", "other"):
            memory.tenants[tenant] = Tenant(seq=1, name=tenant, created_at=NOW, updated_at=NOW, readable=False)
        waiting = [await made.subscribe(profile="clearfeed", tenant=tenant) for tenant in ("acme", "other")]
        await made.subscribe(profile="gone")
        served_one = await made.subscribe()
        assert [None, None] == [made.standing(each) for each in waiting]
        target = made.serving.served(served_one.seq)
        made.told.clear()

        memory.tenants["acme"] = replace(memory.tenants["acme"], readable=True)
        memory.tenants["other"] = replace(memory.tenants["other"], readable=True)
        made.serving.signed_anew("acme")

        assert [UNTRIED, None] == [made.standing(each) for each in waiting]
        assert [] == made.told
        assert target is made.serving.served(served_one.seq)


async def test_limit_of_one_that_waits_is_kept(tmp_path: Path) -> None:
    """What keeps a subscription from being served at the start does not let it go faster afterwards."""
    async with opened(tmp_path) as place:
        strange = await place.subscribe(profile="acme", rate_limit="1/h")
        await place.store.writer.change(clock_jumps.keep_paces({strange.seq: NOW + HOUR}))
    async with served(tmp_path) as made:
        assert {strange.seq: NOW + HOUR} == made.scheduler.paces()
        made.change(strange, profile="standard")
        assert {strange.seq: NOW + HOUR} == made.scheduler.paces()


async def test_limit_that_was_taken_off_is_kept_over_a_start(tmp_path: Path) -> None:
    """Who gets a limit again after a restart goes on from the last request by the one before; a record is used once."""
    async with opened(tmp_path) as place:
        made_before = await place.subscribe()
        await place.store.writer.change(clock_jumps.keep_paces({made_before.seq: NOW + HOUR}))
    async with served(tmp_path) as made:
        assert UNTRIED == made.standing(made_before)
        limited = made.change(made_before, rate_limit="1/h")
        assert {limited.seq: NOW + HOUR} == made.scheduler.paces()
    async with served(tmp_path) as made:
        assert {} == made.scheduler.paces()


async def test_record_that_cannot_be_taken_ends_the_start(tmp_path: Path) -> None:
    """Kept for a later start it would be of another time: while another program has the lock there is none, as over others."""
    async with opened(tmp_path) as place:
        limited = await place.subscribe(rate_limit="1/h")
        await place.store.writer.change(clock_jumps.keep_paces({limited.seq: NOW + HOUR}))
        await place.store.writer._writing.db.execute("PRAGMA busy_timeout = 1")
        with closing(sqlite3.connect(tmp_path / "hooks.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StartError, match="database is locked") as caught:
                await Served(place).serving.open(place.store)

    assert 75 == caught.value.exit_status
