"""How attempts are counted, and what the counts come to."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from hookengine.statistics import BOUNDS, HOUR, NO_ATTEMPT, Summary, Tally, bucket_of, hour_of


def tally(**fields: Any) -> Tally:
    """One attempt that was accepted within 50 ms, unless *fields* say otherwise."""
    given: dict[str, Any] = {"state": "delivered", "label": "", "status_code": 200, "error_code": "", "bucket": 10, "count": 1}
    return Tally(**(given | fields))


@pytest.mark.parametrize(("time", "expected"), [(0, 0), (1, 0), (HOUR - 1, 0), (HOUR, HOUR), (5 * HOUR + 7, 5 * HOUR)])
def test_hour(time: int, expected: int) -> None:
    """Hours are those of UTC, and begin with their first millisecond."""
    assert expected == hour_of(time)


@pytest.mark.parametrize(
    ("duration", "expected"),
    [(0, 0), (1, 0), (2, 1), (4, 3), (300_000, len(BOUNDS) - 1), (300_001, len(BOUNDS)), (10**12, len(BOUNDS))],
)
def test_bucket(duration: int, expected: int) -> None:
    """A bucket holds what takes as long as its bound, and more than the one before; there is one for the rest."""
    assert expected == bucket_of(duration)


def test_bounds_grow() -> None:
    """No bucket is empty by construction, and each is at most as wide as its lower bound."""
    assert sorted(set(BOUNDS)) == list(BOUNDS)
    assert [] == [(low, high) for low, high in pairwise(BOUNDS[:-1]) if high > 2 * low]


def test_kinds_of_counts_are_apart() -> None:
    """Endings, labels, status codes and error codes are counted each by itself; what is not an attempt is not among them."""
    summary = Summary(
        [
            tally(count=5),
            tally(state="", status_code=503, error_code="http_status", count=3),
            tally(state="failed", label="given up", status_code=503, error_code="http_status"),
            tally(state="failed", label="expired", status_code=0, bucket=NO_ATTEMPT, count=2),
            tally(state="", status_code=0, error_code="timeout_response"),
        ]
    )

    assert {"delivered": 5, "failed": 3, "cancelled": 0} == summary.states
    assert {"given up": 1, "expired": 2} == summary.labels
    assert {"200": 5, "503": 4} == summary.status_codes
    assert {"http_status": 4, "timeout_response": 1} == summary.error_codes
    assert 10 == summary.attempts


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        pytest.param({}, (None, None, None), id="none"),
        pytest.param({0: 1}, (0, 1, 1), id="one at once"),
        pytest.param({10: 100}, (45, 50, 50), id="all in one"),
        pytest.param({10: 90, 26: 10}, (46, 8600, 9880), id="a slow tenth"),
        pytest.param({10: 50, 11: 50}, (50, 68, 70), id="just half"),
        pytest.param({len(BOUNDS): 3}, (300_000, 300_000, 300_000), id="beyond"),
    ],
)
def test_percentiles(counts: dict[int, int], expected: tuple[int | None, ...]) -> None:
    """A percentile lies where that share of the attempts had ended, within the bucket in proportion."""
    summary = Summary([tally(bucket=bucket, count=count) for bucket, count in counts.items()])

    assert expected == tuple(summary.percentile(share) for share in (0.5, 0.95, 0.99))


def test_percentile_is_as_exact_as_its_bucket() -> None:
    """Of a thousand attempts of 1 to 1,000 ms, each percentile is found within a few percent."""
    counts: dict[int, int] = {}
    for duration in range(1, 1001):
        counts[bucket_of(duration)] = counts.get(bucket_of(duration), 0) + 1
    summary = Summary([tally(bucket=bucket, count=count) for bucket, count in counts.items()])

    for share in (0.5, 0.95, 0.99):
        assert abs((summary.percentile(share) or 0) - 1000 * share) <= 10
