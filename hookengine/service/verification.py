"""The test that saving a subscription takes, where its profile demands one: its endpoint has to answer as agreed."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from msgspec.structs import replace

from hookengine import profiles
from hookengine.errors import EndpointVerificationFailed, Stopping
from hookengine.models import Accepted, Event, Interrupted, Subscription
from hookengine.presentation import shown_token_answer
from hookengine.service.trials import MOST_OF_TENANT, Trials

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from hookengine.models import Attempt
    from hookengine.profiles import Profile
    from hookengine.store import Key

_MOST_OF_ONE_URL = MOST_OF_TENANT // 2  # so that an endpoint that hangs leaves the others theirs


class Verification(Trials):
    """Of subscriptions that are to be saved."""

    def _tested(self, subscription: Subscription) -> tuple[object, ...] | None:
        """What its test is a test of: another value needs a test of its own. None where the profile demands none."""
        profile = self._profiles.get(subscription.profile)
        if profile is None or profile.verify_on_save is None:
            return None
        return subscription.url, subscription.method, subscription.headers, subscription.auth, subscription.profile

    async def _verify(self, subscription: Subscription) -> None:
        """
        Raise EndpointVerificationFailed unless the endpoint answers the test that the profile demands.

        The request goes the way of a delivery, within the profile's timeout even if the subscription's is longer. Raises also
        TooManyTests, and Stopping where the test was cut.
        """
        profile = self._profiles[subscription.profile]
        assert profile.verify_on_save is not None  # noqa: S101  # else there is nothing to test: `_tested` says so
        ping, now = profile.envelope.ping, self._clock.now()
        event = Event(
            seq=0,
            id=self._clock.new_id(ping.id_prefix),
            tenant=subscription.tenant,
            type=ping.type,
            data=ping.data,
            accepted_at=now,
            occurred_at=now,
        )
        rules = profiles.rules(profile, subscription)
        rules = replace(rules, success=frozenset({profile.verify_on_save}), timeout=min(rules.timeout, profile.rules.timeout))
        with self._under_way(subscription.tenant, subscription.url, _MOST_OF_ONE_URL):
            attempt = await self._try(subscription, event, now, rules)
        if isinstance(attempt.outcome, Accepted):
            return
        if self._refusing and isinstance(attempt.outcome, Interrupted):
            raise Stopping
        raise EndpointVerificationFailed(
            _words(profile, attempt),
            attempt=self._shown(attempt, event, subscription),
            token_answer=shown_token_answer(attempt.outcome),
        )

    @asynccontextmanager
    async def _in_turn(self, key: Key | None) -> AsyncIterator[None]:
        """Let requests with the same *key* wait for each other, so that a repetition finds the first one's answer."""
        if key is None:
            yield
            return
        lock, users = self._keys_in_use.get(key.scope, (asyncio.Lock(), 0))
        self._keys_in_use[key.scope] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            lock, users = self._keys_in_use.pop(key.scope)
            if users > 1:
                self._keys_in_use[key.scope] = lock, users - 1


def _words(profile: Profile, attempt: Attempt) -> str:
    expected = f"the profile '{profile.name}' lets a subscription be saved if its endpoint answers {profile.verify_on_save}"
    response, error = attempt.outcome.response, attempt.outcome.error
    if response is not None:
        return f"{expected}, and this one answered {response.status}"
    return f"{expected}, but no answer came" if error is None else f"{expected}: {error.detail}"
