"""
What an engine counts, and how Prometheus reads it.

Plain numbers, because an attempt is counted on the event loop: prometheus-client's own counters take a lock each and ten
times as long. That library says how they are written down. Each engine has a registry of its own; the global one is left
alone, and no label takes more values than there are states and codes.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from msgspec import Struct
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder

from hookengine import __version__
from hookengine.models import FINAL_STATES, OUTCOME_NAMES, DeliveryState, DisabledReason, SubscriptionState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from prometheus_client.metrics_core import Metric

    from hookengine.models import Attempt, ErrorCode, Subscription

# The last is the longest timeout that a subscription may have; with a margin, because the engine's own part is in it.
BUCKETS = (5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 15_000, 30_000, 60_000, 120_000, 301_000)  # ms


class Present(Struct, frozen=True, kw_only=True):
    """What is read off the engine when somebody asks."""

    in_flight: int = 0
    window: int = 0
    window_limit: int = 0
    waiting: int = 0  # events, for their commit
    paused: bool = False


class _Histogram:
    """Durations of the attempts with one outcome."""

    __slots__ = ("buckets", "total")

    def __init__(self) -> None:
        self.buckets = [0] * (len(BUCKETS) + 1)  # not cumulative; the last is beyond all bounds
        self.total = 0  # ms

    def family(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulative buckets, and the sum in seconds."""
        bounds = [*(repr(bound / 1000) for bound in BUCKETS), "+Inf"]
        count, cumulative = 0, []
        for bound, here in zip(bounds, self.buckets, strict=True):
            count += here
            cumulative.append((bound, float(count)))
        return cumulative, self.total / 1000


class Metrics:
    """The numbers of one engine; *look* tells those that are not counted but read."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self.look: Callable[[], Present] = Present
        self._commits = 0
        self._events = 0
        self._created = 0  # deliveries
        self._finished = dict.fromkeys(FINAL_STATES, 0)
        self._attempts: dict[tuple[str, ErrorCode | None], int] = {}
        self._durations = {outcome: _Histogram() for outcome in OUTCOME_NAMES.values()}
        self._subscriptions = dict.fromkeys(SubscriptionState, 0)
        self._disabled = dict.fromkeys(DisabledReason, 0)
        self._storage_works = True
        self._storage_troubles = 0
        self._local_troubles = 0
        self._faults = 0

    def committed(self, events: int, deliveries: int) -> None:
        """A commit, with so many new events and deliveries in it."""
        self._commits += 1
        self._events += events
        self._created += deliveries

    def attempted(self, attempt: Attempt) -> None:
        """An attempt ended."""
        outcome = attempt.outcome
        kind = OUTCOME_NAMES[type(outcome)]
        error = None if outcome.error is None else outcome.error.code
        key = (kind, error)
        self._attempts[key] = self._attempts.get(key, 0) + 1
        histogram = self._durations[kind]
        histogram.buckets[bisect_left(BUCKETS, attempt.duration)] += 1
        histogram.total += attempt.duration

    def finished(self, state: DeliveryState) -> None:
        """A delivery came to an end."""
        self._finished[state] += 1

    def known(self, subscriptions: Iterable[Subscription]) -> None:
        """Those that there are at the start."""
        for subscription in subscriptions:
            self._subscriptions[subscription.state] += 1

    def changed(self, before: Subscription | None, after: Subscription | None) -> None:
        """A subscription was made, changed or deleted."""
        if before is not None:
            self._subscriptions[before.state] -= 1
        if after is not None:
            self._subscriptions[after.state] += 1
            was_active = before is not None and before.state is SubscriptionState.ACTIVE
            if was_active and after.disabled_reason is not None:
                self._disabled[after.disabled_reason] += 1

    def storage(self, *, works: bool) -> None:
        """Commits fail or new events find no room, or both is over."""
        self._storage_works = works
        self._storage_troubles += not works

    def held_off(self) -> None:
        """This machine kept requests from going out."""
        self._local_troubles += 1

    def fault(self) -> None:
        """A fault of ours, or a row that cannot be read."""
        self._faults += 1

    def text(self, accept: str) -> tuple[bytes, str]:
        """All of it as a scraper that accepts *accept* reads it, and the media type."""
        encode, media_type = choose_encoder(accept if accept.isascii() else "")
        return encode(self.registry), media_type

    def collect(self) -> Iterable[Metric]:
        """What prometheus-client asks a collector for."""
        return [*self._counted(), *self._labelled(), *self._read(self.look())]

    def _counted(self) -> Iterable[Metric]:
        yield CounterMetricFamily("hookengine_commits", "Commits of the database.", self._commits)
        yield CounterMetricFamily("hookengine_events_accepted", "Events accepted.", self._events)
        yield CounterMetricFamily(
            "hookengine_deliveries_created", "Deliveries that accepted events and replays made.", self._created
        )
        yield CounterMetricFamily(
            "hookengine_storage_troubles", "Times that commits began to fail, or room to run out.", self._storage_troubles
        )
        yield CounterMetricFamily(
            "hookengine_local_troubles", "Pauses because this machine could not send.", self._local_troubles
        )
        yield CounterMetricFamily("hookengine_faults", "Faults of hookengine's own, and unreadable rows.", self._faults)

    def _labelled(self) -> Iterable[Metric]:
        finished = CounterMetricFamily("hookengine_deliveries_finished", "Deliveries that came to an end.", labels=("state",))
        for state, count in self._finished.items():
            finished.add_metric((state.value,), count)
        attempts = CounterMetricFamily("hookengine_attempts", "Attempts that ended.", labels=("outcome", "error"))
        for (outcome, error), count in self._attempts.items():
            attempts.add_metric((outcome, "" if error is None else error.value), count)
        durations = HistogramMetricFamily(
            "hookengine_attempt_duration_seconds", "How long attempts took.", labels=("outcome",)
        )
        for outcome, histogram in self._durations.items():
            buckets, total = histogram.family()
            durations.add_metric((outcome,), buckets, total)
        subscriptions = GaugeMetricFamily("hookengine_subscriptions", "Subscriptions that there are.", labels=("state",))
        for status, count in self._subscriptions.items():
            subscriptions.add_metric((status.value,), count)
        disabled = CounterMetricFamily(
            "hookengine_subscriptions_disabled", "Subscriptions that were disabled.", labels=("reason",)
        )
        for reason, count in self._disabled.items():
            disabled.add_metric((reason.value,), count)
        return finished, attempts, durations, subscriptions, disabled

    def _read(self, present: Present) -> Iterable[Metric]:
        info = GaugeMetricFamily("hookengine_info", "Always 1; the label says what runs.", labels=("version",))
        info.add_metric((__version__,), 1)
        yield info
        yield GaugeMetricFamily("hookengine_attempts_in_flight", "Deliveries that hold a slot.", present.in_flight)
        yield GaugeMetricFamily("hookengine_window_deliveries", "Deliveries waiting in memory.", present.window)
        yield GaugeMetricFamily("hookengine_window_limit", "The most that may wait in memory.", present.window_limit)
        yield GaugeMetricFamily("hookengine_events_waiting", "Events waiting for their commit.", present.waiting)
        yield GaugeMetricFamily("hookengine_paused", "1 while nothing is taken to be sent.", present.paused)
        yield GaugeMetricFamily(
            "hookengine_storage_available", "1 while commits work and new events find room.", self._storage_works
        )
