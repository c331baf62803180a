"""Test requests: one to a subscription's endpoint, of which nothing stays."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from hookengine import profiles, views
from hookengine.access import Principal, Scope
from hookengine.attempting import broken_by
from hookengine.envelopes import TEST_DATA, TEST_TYPE
from hookengine.errors import TooManyTests
from hookengine.inputs import TrialInput
from hookengine.models import Attempt, AttemptError, Broken, ErrorCode, Event, Outcome, Request, Rules, Subscription, Trigger
from hookengine.presentation import shown_attempt
from hookengine.service.operations import Operations
from hookengine.serving import hindrance
from hookengine.store import as_stored
from hookengine.validation import Problems

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MOST_TESTS = 16  # at once, so that they never take the connections that deliveries need
MOST_OF_TENANT = MOST_TESTS // 2  # so that endpoints that hang leave other tenants theirs
MOST_OF_ONE = 2  # for one subscription, so that an endpoint that hangs leaves the others theirs


class Trials(Operations):
    """Requests that go the way of a delivery, but leave nothing behind."""

    async def _try(self, subscription: Subscription, event: Event, now: int, rules: Rules | None = None) -> Attempt:
        """One attempt, with the *rules* of the subscription where no others are given."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        request, outcome = await self._send(subscription, event, now, rules)
        return Attempt(
            number=1,
            at=now,
            duration=round((loop.time() - begun) * 1000),
            trigger=Trigger.TEST,
            outcome=outcome,
            request=request,
        )

    async def _send(
        self, subscription: Subscription, event: Event, now: int, rules: Rules | None
    ) -> tuple[Request | None, Outcome]:
        request, why = None, hindrance(subscription, self._profiles, self._store.memory)
        if why is not None:
            return None, Broken(error=AttemptError(code=ErrorCode.INTERNAL_ERROR, detail=f"{why}: its deliveries wait"))
        try:
            profile = profiles.for_tests(self._profiles[subscription.profile])
            rules = rules or profiles.rules(profile, subscription)
            request = profiles.build(
                profile,
                subscription,
                [event],
                secrets=self._store.memory.secrets(subscription, of_tenant=profile.uses_tenants_secret),
                attempt=1,
                retry=0,
                now=now,
                timeout=rules.timeout,
            )
            return request, await self._sender.attempt(request, rules)
        except Exception as error:  # noqa: BLE001  # as with a delivery: whatever is wrong is how the attempt ended
            return request, broken_by(error)

    def _shown(self, attempt: Attempt, event: Event, subscription: Subscription) -> views.Attempt:
        profile = self._profiles.get(subscription.profile)
        spoken = {} if profile is None else {subscription.profile: profiles.for_tests(profile)}
        return shown_attempt(as_stored(attempt, subscription.profile), [event], subscription, spoken)

    @contextmanager
    def _under_way(self, tenant: str, endpoint: int | str, most: int) -> Iterator[None]:
        """Count a test of *endpoint* by *tenant*, of which *most* may be under way; raises TooManyTests."""
        test = (tenant, endpoint)
        of_tenant = sum(count for (whose, _), count in self._tests.items() if whose == tenant)
        if self._tests.total() >= MOST_TESTS or of_tenant >= MOST_OF_TENANT or self._tests[test] >= most:
            raise TooManyTests
        self._tests[test] += 1
        try:
            yield
        finally:
            self._tests[test] -= 1
            if not self._tests[test]:
                del self._tests[test]


class TrialOperations(Trials):
    """Of test events."""

    async def test(self, by: Principal, id: str, given: Mapping[str, Any]) -> views.Attempt:
        """
        Send a test event to a subscription's endpoint now, once, also while it is disabled; the attempt, however it ended.

        It goes the way of a delivery, but nothing is stored and no counter moves. As far as the profile carries them, its id
        begins with `test_`; where nothing else is given its type is `hookengine.test` and its data the type's example, or a
        word that it is a test. Raises TooManyTests.
        """
        self._require(by, Scope.SUBSCRIPTIONS_WRITE, changing=True)
        problems = Problems()
        draft = problems.convert(TrialInput, given)
        subscription = self._subscription(by, id)
        self._check_ours(by, subscription.tenant)
        wanted = problems.require(draft)
        type_ = wanted.type or TEST_TYPE
        now = self._clock.now()
        event = Event(
            seq=0,
            id=self._clock.new_id("test"),
            tenant=subscription.tenant,
            type=type_,
            data=await self._example(type_) if wanted.data is UNSET else bytes(wanted.data),
            accepted_at=now,
            occurred_at=now,
        )
        with self._under_way(subscription.tenant, subscription.seq, MOST_OF_ONE):
            attempt = await self._try(subscription, event, now)
        return self._shown(attempt, event, subscription)

    async def _example(self, type: str) -> bytes:
        """What a test event of *type* carries where nothing is given."""
        declared = await self._store.reader.event_type(type) if type in self._store.memory.event_types else None
        return TEST_DATA if declared is None or declared.example is None else declared.example
