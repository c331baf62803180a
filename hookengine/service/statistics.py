"""What is asked of statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hookengine.access import Principal, Scope
from hookengine.errors import Invalid, Mistake
from hookengine.models import SubscriptionState
from hookengine.paging import Query
from hookengine.presentation import shown_stats
from hookengine.service.operations import Operations
from hookengine.statistics import Summary, hour_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hookengine import views

DEFAULT_RANGE = 24 * 3_600_000  # ms until now
_MOST_PENDING = 10_000  # counted


class StatisticsOperations(Operations):
    """Of statistics."""

    async def stats(self, by: Principal, id: str, query: Mapping[str, Any]) -> views.Stats:
        """
        What became of the deliveries of one subscription, by default in the last day; whole hours.

        What is counted comes from rows that are kept by the hour, and from the index of what waits.
        """
        self._require(by, Scope.EVENTS_READ)
        part = Query(query, {"since", "until"}, paged=False).slice(by.tenant)
        begin = self._clock.now() - DEFAULT_RANGE if part.since is None else part.since
        if part.until is not None and part.until <= begin:
            detail = "until must lie after since, which is a day ago unless given"
            raise Invalid(mistakes=(Mistake(parameter="until", code="invalid_value", detail=detail),))
        subscription = self._subscription(by, id)
        since = hour_of(begin)
        summary = Summary(await self._store.viewer.statistics(subscription.seq, since=since, until=part.until))
        waiting = await self._store.viewer.pending(subscription.seq, most=_MOST_PENDING)
        resume_at = self._resume_at(subscription.seq)
        return shown_stats(
            subscription,
            self._store.memory.health_of(subscription.seq),
            summary,
            since=since,
            pending=waiting if subscription.state is SubscriptionState.ACTIVE else 0,
            held=waiting if subscription.state is SubscriptionState.DISABLED else 0,
            resumes_at=resume_at if resume_at > self._clock.now() else None,
        )
