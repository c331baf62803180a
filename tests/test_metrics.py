"""What is counted, how it is written down, and that it stays where it belongs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace
from prometheus_client import REGISTRY
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from hookengine import __version__
from hookengine.metrics import BUCKETS, Metrics, Present
from hookengine.models import (
    Accepted,
    Attempt,
    AttemptError,
    Broken,
    DeliveryState,
    DisabledReason,
    ErrorCode,
    Interrupted,
    Outcome,
    Refused,
    Response,
    Subscription,
    SubscriptionState,
    Trigger,
    Unreachable,
)

DOCUMENT = Path(__file__).parent.parent / "docs" / "metrics.md"
ANSWER = Response(status=200, headers=(), body=b"", truncated=False)
ACTIVE = Subscription(
    seq=1,
    id="sub_1",
    tenant="acme",
    url="https://x.example/",
    event_types=("*",),
    profile="standard",
    created_at=0,
    updated_at=0,
)
GONE = replace(ACTIVE, state=SubscriptionState.DISABLED, disabled_reason=DisabledReason.GONE)


def attempt(outcome: Outcome, duration: int = 12) -> Attempt:
    """An attempt that took *duration* ms."""
    return Attempt(number=1, at=0, duration=duration, trigger=Trigger.AUTO, outcome=outcome, request=None)


def error(code: ErrorCode) -> AttemptError:
    """Why an attempt did not succeed."""
    return AttemptError(code=code, detail="hush")


def samples(metrics: Metrics) -> dict[str, float]:
    """Every line that is not a comment, as a scraper reads it."""
    return {
        sample.name + "".join(f" {name}={value}" for name, value in sorted(sample.labels.items())): sample.value
        for family in read_text(metrics.text("")[0].decode())
        for sample in family.samples
    }


def moved(metrics: Metrics, before: dict[str, float]) -> dict[str, float]:
    """The lines that are not as *before*, without the histogram's."""
    return {name: value for name, value in samples(metrics).items() if before.get(name) != value and "duration" not in name}


def test_every_metric_is_documented() -> None:
    """The table in the documentation has each metric with its type and labels, and no other."""
    metrics = Metrics()
    metrics.attempted(attempt(Accepted(response=ANSWER)))
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|([^|]*)\|", DOCUMENT.read_text(), re.MULTILINE)
    shown = {
        (
            family.name + ("_total" if family.type == "counter" else ""),
            family.type,
            frozenset(family.samples[0].labels) - {"le"},
        )
        for family in metrics.collect()
    }

    assert {(name, kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows} == shown


def test_what_there_is_before_anything_happened() -> None:
    """All but the attempts is there from the start, so that a rate is right from the first event on."""
    found = samples(Metrics())

    assert {"hookengine_storage_available", f"hookengine_info version={__version__}"} == {
        name for name, value in found.items() if value
    }
    assert 0 == found["hookengine_deliveries_finished_total state=failed"]
    assert 0 == found["hookengine_subscriptions state=active"]


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        pytest.param(Accepted(response=ANSWER), "error= outcome=accepted", id="accepted"),
        pytest.param(Refused(error=error(ErrorCode.HTTP_STATUS)), "error=http_status outcome=refused", id="refused"),
        pytest.param(
            Unreachable(error=error(ErrorCode.TIMEOUT_CONNECT)), "error=timeout_connect outcome=unreachable", id="unreachable"
        ),
        pytest.param(Interrupted(), "error= outcome=interrupted", id="stopped"),
        pytest.param(Interrupted(error=error(ErrorCode.LOCAL_NETWORK)), "error=local_network outcome=interrupted", id="local"),
        pytest.param(Broken(error=error(ErrorCode.INTERNAL_ERROR)), "error=internal_error outcome=interrupted", id="broken"),
    ],
)
def test_attempt_has_outcome_and_error(outcome: Outcome, expected: str) -> None:
    """Every way for an attempt to end has its line, with the name that users see."""
    metrics = Metrics()
    before = samples(metrics)
    metrics.attempted(attempt(outcome))
    metrics.attempted(attempt(outcome))

    assert {f"hookengine_attempts_total {expected}": 2} == moved(metrics, before)


@pytest.mark.parametrize(
    ("duration", "bound"),
    [(0, "0.005"), (5, "0.005"), (6, "0.01"), (15_000, "15.0"), (300_000, "301.0"), (10**9, "+Inf")],
)
def test_duration_is_in_its_bucket(duration: int, bound: str) -> None:
    """A duration counts in the first bucket whose bound it does not pass, and in all above it."""
    metrics = Metrics()
    metrics.attempted(attempt(Accepted(response=ANSWER), duration))
    found = samples(metrics)
    bounds = [*(str(each / 1000) for each in BUCKETS), "+Inf"]
    counts = [found[f"hookengine_attempt_duration_seconds_bucket le={each} outcome=accepted"] for each in bounds]

    assert [0] * bounds.index(bound) + [1] * (len(bounds) - bounds.index(bound)) == counts
    assert 1 == found["hookengine_attempt_duration_seconds_count outcome=accepted"]
    assert duration / 1000 == found["hookengine_attempt_duration_seconds_sum outcome=accepted"]


def test_commits_and_what_is_in_them() -> None:
    """A commit counts once, whatever it holds."""
    metrics = Metrics()
    before = samples(metrics)
    metrics.committed(3, 5)
    metrics.committed(0, 0)

    expected = {
        "hookengine_commits_total": 2,
        "hookengine_events_accepted_total": 3,
        "hookengine_deliveries_created_total": 5,
    }
    assert expected == moved(metrics, before)


def test_deliveries_by_final_state() -> None:
    """Each final state is counted by itself."""
    metrics = Metrics()
    before = samples(metrics)
    for state in (DeliveryState.DELIVERED, DeliveryState.DELIVERED, DeliveryState.CANCELLED):
        metrics.finished(state)

    expected = {
        "hookengine_deliveries_finished_total state=delivered": 2,
        "hookengine_deliveries_finished_total state=cancelled": 1,
    }
    assert expected == moved(metrics, before)


def test_subscriptions_by_state() -> None:
    """What was there at the start, made, changed, enabled and deleted adds up; disabled counts what was active before."""
    metrics = Metrics()
    metrics.known([ACTIVE, ACTIVE, GONE])
    before = samples(metrics)
    assert (2, 1) == (before["hookengine_subscriptions state=active"], before["hookengine_subscriptions state=disabled"])

    changes = ((None, ACTIVE), (ACTIVE, ACTIVE), (ACTIVE, GONE), (GONE, GONE), (GONE, ACTIVE), (ACTIVE, None), (None, GONE))
    for old, new in changes:
        metrics.changed(old, new)

    expected = {"hookengine_subscriptions state=disabled": 2, "hookengine_subscriptions_disabled_total reason=gone": 1}
    assert expected == moved(metrics, before)


def test_troubles() -> None:
    """Trouble with the storage is seen while it lasts, and each kind is counted."""
    metrics = Metrics()
    before = samples(metrics)
    metrics.storage(works=False)
    metrics.held_off()
    metrics.fault()
    during = moved(metrics, before)
    metrics.storage(works=True)

    counted = {
        "hookengine_storage_troubles_total": 1,
        "hookengine_local_troubles_total": 1,
        "hookengine_faults_total": 1,
    }
    assert counted | {"hookengine_storage_available": 0} == during
    assert counted == moved(metrics, before)


def test_what_is_read_and_not_counted() -> None:
    """The present state is looked at when somebody asks."""
    metrics = Metrics()
    before = samples(metrics)
    metrics.look = lambda: Present(in_flight=1, window=2, window_limit=3, waiting=4, paused=True)

    expected = {
        "hookengine_attempts_in_flight": 1,
        "hookengine_window_deliveries": 2,
        "hookengine_window_limit": 3,
        "hookengine_events_waiting": 4,
        "hookengine_paused": 1,
    }
    assert expected == moved(metrics, before)


def test_lines_are_few() -> None:
    """With every outcome and error that there is, the lines stay within what any Prometheus takes."""
    metrics = Metrics()
    for code in ErrorCode:
        for kind in (Refused, Unreachable, Interrupted, Broken):
            metrics.attempted(attempt(kind(error=error(code))))

    assert len(samples(metrics)) < 200


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        pytest.param("", "text/plain", id="none"),
        pytest.param("*/*", "text/plain", id="curl"),
        pytest.param(
            "application/openmetrics-text; version=1.0.0, text/plain;q=0.5", "application/openmetrics-text", id="new"
        ),
        pytest.param("application/openmetrics-text; version=\udcff", "text/plain", id="no text"),
    ],
)
def test_both_formats_can_be_read(accept: str, media_type: str) -> None:
    """A scraper gets the format that it asks for, and Prometheus's own parser reads it."""
    metrics = Metrics()
    metrics.attempted(attempt(Accepted(response=ANSWER)))

    text, answered = metrics.text(accept)

    assert media_type == answered.partition(";")[0]
    read = read_openmetrics if media_type.startswith("application") else read_text
    assert {family.name for family in metrics.collect()} == {
        family.name.removesuffix("_total") for family in read(text.decode())
    }


def test_two_engines_count_apart() -> None:
    """Each has a registry of its own, and none is the global one."""
    one, other = Metrics(), Metrics()
    one.fault()

    assert (1, 0) == tuple(samples(each)["hookengine_faults_total"] for each in (one, other))
    assert one.registry is not other.registry
    assert [] == [family.name for family in REGISTRY.collect() if family.name.startswith("hookengine")]


def test_global_registry_is_left_alone() -> None:
    """Importing the engine adds nothing to what the host program counts, and changes no setting of it."""
    program = (
        "import prometheus_client as p; from prometheus_client import metrics as m; "
        "before = set(p.REGISTRY._collector_to_names), m._use_created; import hookengine.engine, hookengine.metrics as h; "
        "h.Metrics(); assert before == (set(p.REGISTRY._collector_to_names), m._use_created)"
    )

    assert 0 == subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode
