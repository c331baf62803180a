"""Who hears of what happened: those who wait for an event, the log, and the metrics."""

from __future__ import annotations

import asyncio
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import structlog
from msgspec.structs import replace
from structlog.testing import CapturingLogger

from hookengine.metrics import Metrics
from hookengine.models import (
    Accepted,
    Attempt,
    AttemptError,
    BasicAuth,
    Broken,
    Delivery,
    DeliveryState,
    DisabledReason,
    ErrorCode,
    Interrupted,
    Outcome,
    Refused,
    Request,
    Response,
    Secret,
    SigningSecret,
    Subscription,
    SubscriptionState,
    Trigger,
    Unreachable,
)
from hookengine.observers import (
    AttemptsFinished,
    Committed,
    DeliveryOverruled,
    Fault,
    Finished,
    Happening,
    KeyChanged,
    LocalTrouble,
    LogObserver,
    MetricsObserver,
    NotConfigured,
    ProxyInUse,
    ReplayProgress,
    StorageTrouble,
    SubscriptionChanged,
    Waiters,
    host_logger,
)

DOCUMENT = Path(__file__).parent.parent / "docs" / "logging.md"

SUBSCRIPTION = Subscription(
    seq=7,
    id="sub_7",
    tenant="acme",
    url="https://example.com/hush-path",
    event_types=("*",),
    profile="standard",
    headers=(("x-api-key", Secret("hush-header")),),
    auth=BasicAuth(username="ana", password=Secret("hush-password")),
    secrets=(SigningSecret(value=Secret("whsec_hush")),),
    created_at=0,
    updated_at=0,
)
DISABLED = replace(SUBSCRIPTION, state=SubscriptionState.DISABLED, disabled_reason=DisabledReason.GONE)
DELIVERY = Delivery(seq=3, id="dlv_3", event=2, subscription=7, due_at=0, created_at=0, attempt_count=1)
ERROR = AttemptError(code=ErrorCode.HTTP_STATUS, detail="500")
ANSWER = Response(status=500, headers=(("set-cookie", "hush-cookie"),), body=b"hush-body", truncated=False)

RETRIED = {"delivery": "dlv_3", "subscription": "sub_7", "state": "pending", "attempt_count": 1}
TRIED = RETRIED | {"duration_ms": 12}


def finished(
    outcome: Outcome | None, *, state: DeliveryState = DeliveryState.PENDING, deleted: bool = False
) -> AttemptsFinished:
    """An attempt that ended with *outcome*, or a delivery that expired without one."""
    attempt = None
    if outcome is not None:
        request = Request(
            method="POST", url="https://example.com/hush-path", headers=(("authorization", "Basic hush"),), body=b"hush-data"
        )
        attempt = Attempt(number=1, at=0, duration=12, trigger=Trigger.AUTO, outcome=outcome, request=request)
    return AttemptsFinished([Finished(replace(DELIVERY, state=state), attempt, None if deleted else SUBSCRIPTION)])


def changed(before: Subscription | None, after: Subscription | None) -> SubscriptionChanged:
    """A change of a subscription."""
    return SubscriptionChanged(before=before, after=after)


def logged(happening: Happening) -> list[tuple[str, str, dict[str, Any]]]:
    """The lines that *happening* writes: name, level, fields."""
    captured = CapturingLogger()
    logger = structlog.wrap_logger(captured, processors=[], wrapper_class=structlog.make_filtering_bound_logger(0))
    LogObserver(logger)(happening)
    return [(call.kwargs.pop("event"), call.method_name, call.kwargs) for call in captured.calls]


def documented() -> set[tuple[str, str, frozenset[str]]]:
    """Name, level and fields of each row of the table in the documentation."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \|([^|]*)\|", DOCUMENT.read_text(), re.MULTILINE)
    return {(name, level, frozenset(re.findall(r"`(\w+)`", fields))) for name, level, fields in rows}


LINES: dict[str, tuple[Happening, tuple[str, str, dict[str, Any]]]] = {
    "accepted": (
        finished(Accepted(response=ANSWER), state=DeliveryState.DELIVERED),
        ("attempt_accepted", "debug", TRIED | {"state": "delivered"}),
    ),
    "refused": (
        finished(Refused(error=ERROR, response=ANSWER)),
        ("attempt_failed", "warning", TRIED | {"error": "http_status", "status_code": 500}),
    ),
    "refused without an answer that can be read": (
        finished(Refused(error=AttemptError(code=ErrorCode.MALFORMED_RESPONSE, detail="no HTTP"))),
        ("attempt_failed", "warning", TRIED | {"error": "malformed_response", "status_code": None}),
    ),
    "unreachable and given up": (
        finished(Unreachable(error=AttemptError(code=ErrorCode.TLS_EXPIRED, detail="x")), state=DeliveryState.FAILED),
        ("attempt_failed", "warning", TRIED | {"error": "tls_expired", "status_code": None, "state": "failed"}),
    ),
    "parked": (
        finished(Broken(error=AttemptError(code=ErrorCode.INTERNAL_ERROR, detail="KeyError")), state=DeliveryState.FAILED),
        ("attempt_failed", "warning", TRIED | {"error": "internal_error", "status_code": None, "state": "failed"}),
    ),
    "cut by a stop": (finished(Interrupted()), ("attempt_interrupted", "debug", TRIED | {"error": None})),
    "cut by a fault of this machine": (
        finished(Interrupted(error=AttemptError(code=ErrorCode.LOCAL_NETWORK, detail="x"))),
        ("attempt_interrupted", "debug", TRIED | {"error": "local_network"}),
    ),
    "subscription deleted meanwhile": (
        finished(Accepted(response=ANSWER), state=DeliveryState.CANCELLED, deleted=True),
        ("attempt_accepted", "debug", TRIED | {"state": "cancelled", "subscription": None}),
    ),
    "expired": (
        finished(None, state=DeliveryState.FAILED),
        ("delivery_expired", "warning", RETRIED | {"state": "failed"}),
    ),
    "expired while it waited": (
        DeliveryOverruled(
            subscription=SUBSCRIPTION, delivery=replace(DELIVERY, state=DeliveryState.FAILED, failed_label="expired")
        ),
        ("delivery_expired", "warning", RETRIED | {"state": "failed"}),
    ),
    "overruled": (
        DeliveryOverruled(subscription=SUBSCRIPTION, delivery=replace(DELIVERY, state=DeliveryState.CANCELLED)),
        ("delivery_overruled", "debug", {"delivery": "dlv_3", "state": "cancelled"}),
    ),
    "created": (changed(None, SUBSCRIPTION), ("subscription_created", "info", {"subscription": "sub_7"})),
    "deleted": (changed(SUBSCRIPTION, None), ("subscription_deleted", "info", {"subscription": "sub_7"})),
    "enabled": (changed(DISABLED, SUBSCRIPTION), ("subscription_enabled", "info", {"subscription": "sub_7"})),
    "disabled": (
        changed(SUBSCRIPTION, DISABLED),
        ("subscription_disabled", "warning", {"subscription": "sub_7", "reason": "gone"}),
    ),
    "replay begun": (
        ReplayProgress(subscription=SUBSCRIPTION, count=5, finished=False),
        ("replay_started", "info", {"subscription": "sub_7", "count": 5}),
    ),
    "replay finished": (
        ReplayProgress(subscription=SUBSCRIPTION, count=4, finished=True),
        ("replay_finished", "info", {"subscription": "sub_7", "count": 4}),
    ),
    "storage fails": (StorageTrouble(error="disk full"), ("storage_unavailable", "error", {"error": "disk full"})),
    "storage works again": (StorageTrouble(error=None), ("storage_recovered", "info", {})),
    "this machine": (
        LocalTrouble(error="local_resources: no file descriptors", pause=100),
        ("local_trouble", "warning", {"error": "local_resources: no file descriptors", "pause_ms": 100}),
    ),
    "proxy": (
        ProxyInUse(url="http://proxy.internal:3128"),
        ("proxy_in_use", "warning", {"url": "http://proxy.internal:3128"}),
    ),
    "key changed": (KeyChanged(count=3), ("key_changed", "info", {"resealed": 3})),
    "profile that is not there": (
        NotConfigured(where="subscription sub_7", error="no profile 'acme': its deliveries wait"),
        ("not_configured", "warning", {"where": "subscription sub_7", "error": "no profile 'acme': its deliveries wait"}),
    ),
    "fault": (
        Fault(where="delivery dlv_3", error="KeyError('x')"),
        ("fault", "error", {"where": "delivery dlv_3", "error": "KeyError('x')"}),
    ),
}


# The log.


@pytest.mark.parametrize(("happening", "line"), LINES.values(), ids=LINES.keys())
def test_everything_that_happens_is_one_line(happening: Happening, line: tuple[str, str, dict[str, Any]]) -> None:
    """What happened is told with its documented name, level and fields."""
    assert [line] == logged(happening)


def test_lines_are_those_of_the_documentation() -> None:
    """Every line that is written is in the table of docs/logging.md with its level and fields, and no other is."""
    written = {(name, level, frozenset(fields)) for _, (name, level, fields) in LINES.values()}

    assert documented() == written


@pytest.mark.parametrize("happening", [happening for happening, _ in LINES.values()], ids=LINES.keys())
def test_no_line_holds_a_secret(happening: Happening) -> None:
    """Secrets, credentials, bodies and URLs do not get into the log, and its values are plain: any renderer can print them."""
    lines = logged(happening)

    assert "hush" not in f"{lines!r} {lines}"
    assert {str, int, type(None)} >= {type(value) for _, _, fields in lines for value in fields.values()}


def test_changed_settings_are_no_line() -> None:
    """A subscription whose state stays as it is makes no noise."""
    assert [] == logged(changed(SUBSCRIPTION, replace(SUBSCRIPTION, url="https://example.com/new", version=2)))


@pytest.mark.parametrize(
    ("level", "happening", "written"),
    [
        pytest.param(logging.INFO, LINES["accepted"][0], 0, id="healthy engine is quiet"),
        pytest.param(logging.DEBUG, LINES["accepted"][0], 1, id="unless it is asked"),
        pytest.param(logging.INFO, LINES["disabled"][0], 1, id="news are not lost"),
        pytest.param(logging.ERROR, LINES["disabled"][0], 0, id="host wants errors only"),
    ],
)
def test_host_decides_what_is_written(
    caplog: pytest.LogCaptureFixture, level: int, happening: Happening, written: int
) -> None:
    """Embedded, the level of the standard library's logger `hookengine` decides."""
    with caplog.at_level(level, logger="hookengine"):
        LogObserver(host_logger())(happening)

    assert written == len(caplog.records)


def test_host_gets_a_message_and_its_fields(caplog: pytest.LogCaptureFixture) -> None:
    """A host that prints messages sees the fields, and one that keeps records finds them by name."""
    with caplog.at_level(logging.INFO, logger="hookengine"):
        LogObserver(host_logger())(LINES["refused"][0])

    [record] = caplog.records
    expected = (
        "attempt_failed error='http_status' status_code=500 delivery='dlv_3' subscription='sub_7' state='pending' "
        "attempt_count=1 duration_ms=12"
    )
    assert (expected, logging.WARNING, "hookengine") == (record.getMessage(), record.levelno, record.name)
    assert TRIED | {"error": "http_status", "status_code": 500} == {
        name: getattr(record, name) for name in [*TRIED, "error", "status_code"]
    }


def test_message_of_a_hostile_text_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    """What came from outside cannot begin a line of its own, move the cursor, or be taken for a format."""
    with caplog.at_level(logging.INFO, logger="hookengine"):
        LogObserver(host_logger())(Fault(where="a\nb", error="\x1b[2J %s %(x)s"))

    assert "fault where='a\\nb' error='\\x1b[2J %s %(x)s'" == caplog.records[0].getMessage()


def test_commits_are_no_line() -> None:
    """What happens all the time is counted, not logged."""
    assert [] == logged(Committed(events=1, deliveries=1))


# What is counted.


def counted(*happenings: Happening) -> dict[str, float]:
    """The metrics that *happenings* move, by name and label, without the durations."""
    metrics = Metrics()
    metrics.known([SUBSCRIPTION])
    observer = MetricsObserver(metrics)
    before = _numbers(metrics)
    for happening in happenings:
        observer(happening)
    return {name: value for name, value in _numbers(metrics).items() if before.get(name) != value and "duration" not in name}


def _numbers(metrics: Metrics) -> dict[str, float]:
    samples = [sample for family in metrics.collect() for sample in family.samples]
    return {" ".join([sample.name.removeprefix("hookengine_"), *sample.labels.values()]): sample.value for sample in samples}


ACCEPTED = Accepted(response=ANSWER)
CANCELLED = replace(DELIVERY, state=DeliveryState.CANCELLED)


@pytest.mark.parametrize(
    ("happenings", "expected"),
    [
        pytest.param(
            [finished(ACCEPTED, state=DeliveryState.DELIVERED)],
            {"attempts_total accepted ": 1, "deliveries_finished_total delivered": 1},
            id="delivered",
        ),
        pytest.param(
            [AttemptsFinished([*finished(Refused(error=ERROR)).finished, *finished(ACCEPTED).finished])],
            {"attempts_total refused http_status": 1, "attempts_total accepted ": 1},
            id="two of one commit",
        ),
        pytest.param([finished(Refused(error=ERROR))], {"attempts_total refused http_status": 1}, id="to be tried again"),
        pytest.param(
            [finished(Refused(error=ERROR), state=DeliveryState.FAILED)],
            {"attempts_total refused http_status": 1, "deliveries_finished_total failed": 1},
            id="given up",
        ),
        pytest.param(
            [finished(None, state=DeliveryState.FAILED)], {"deliveries_finished_total failed": 1}, id="expired untried"
        ),
        pytest.param(
            [DeliveryOverruled(subscription=SUBSCRIPTION, delivery=CANCELLED)],
            {"deliveries_finished_total cancelled": 1},
            id="cancelled by hand",
        ),
        pytest.param(
            [
                DeliveryOverruled(subscription=SUBSCRIPTION, delivery=CANCELLED),
                AttemptsFinished([replace(finished(ACCEPTED, deleted=True).finished[0], delivery=CANCELLED, had_ended=True)]),
            ],
            {"attempts_total accepted ": 1, "deliveries_finished_total cancelled": 1},
            id="cancelled in flight, and its subscription deleted, once",
        ),
        pytest.param(
            [changed(SUBSCRIPTION, None), finished(ACCEPTED, state=DeliveryState.CANCELLED, deleted=True)],
            {"attempts_total accepted ": 1, "deliveries_finished_total cancelled": 1, "subscriptions active": 0},
            id="deleted in flight",
        ),
        pytest.param([DeliveryOverruled(subscription=SUBSCRIPTION, delivery=DELIVERY)], {}, id="retried by hand"),
        pytest.param(
            [changed(SUBSCRIPTION, DISABLED)],
            {"subscriptions active": 0, "subscriptions disabled": 1, "subscriptions_disabled_total gone": 1},
            id="disabled",
        ),
        pytest.param(
            [Committed(events=2, deliveries=3)],
            {"commits_total": 1, "events_accepted_total": 2, "deliveries_created_total": 3},
            id="commit",
        ),
        pytest.param(
            [StorageTrouble(error="disk full")], {"storage_troubles_total": 1, "storage_available": 0}, id="storage fails"
        ),
        pytest.param(
            [StorageTrouble(error="disk full"), StorageTrouble(error=None)],
            {"storage_troubles_total": 1},
            id="and works again",
        ),
        pytest.param([LocalTrouble(error="x", pause=100)], {"local_troubles_total": 1}, id="this machine"),
        pytest.param([Fault(where="x", error="y")], {"faults_total": 1}, id="fault"),
        pytest.param([NotConfigured(where="x", error="y")], {}, id="not configured"),
    ],
)
def test_everything_that_happens_is_counted_once(happenings: list[Happening], expected: dict[str, float]) -> None:
    """What happened moves the metrics that say so, and no other."""
    assert expected == counted(*happenings)


# Those who wait.


@pytest.mark.parametrize(
    ("happening", "first", "second"),
    [
        pytest.param(finished(Interrupted()), True, False, id="attempt"),
        pytest.param(finished(None), True, False, id="expiry"),
        pytest.param(DeliveryOverruled(subscription=SUBSCRIPTION, delivery=DELIVERY), True, False, id="overruled"),
        pytest.param(
            DeliveryOverruled(subscription=SUBSCRIPTION, delivery=replace(DELIVERY, event=99)),
            False,
            False,
            id="of another event",
        ),
        pytest.param(changed(SUBSCRIPTION, DISABLED), True, True, id="subscription disabled"),
        pytest.param(changed(SUBSCRIPTION, None), True, True, id="subscription deleted"),
        pytest.param(StorageTrouble(error=None), False, False, id="storage"),
        pytest.param(LocalTrouble(error="x", pause=1), False, False, id="machine"),
        pytest.param(Fault(where="x", error="y"), True, True, id="fault"),
    ],
)
def test_waiters_are_woken_by_what_concerns_them(happening: Happening, first: bool, second: bool) -> None:
    """Who waits for an event hears of its deliveries, and of what changes how others read: a subscription, a spoiled row."""
    waiters = Waiters()
    with waiters.watch(2) as mine, waiters.watch(5) as another:
        waiters(happening)

        assert (first, second) == (mine.is_set(), another.is_set())


def test_all_who_wait_for_one_event_are_woken() -> None:
    """Two callers may wait for the same event."""
    waiters = Waiters()
    with waiters.watch(2) as first, waiters.watch(2) as second:
        waiters(finished(Interrupted()))

        assert (True, True) == (first.is_set(), second.is_set())


def test_who_waits_no_more_leaves_nothing_behind() -> None:
    """A caller that was cancelled is forgotten, and the others are not."""
    waiters = Waiters()
    with waiters.watch(2) as staying:
        with pytest.raises(asyncio.CancelledError), waiters.watch(2) as leaving:
            raise asyncio.CancelledError
        waiters(finished(Interrupted()))

        assert (True, False) == (staying.is_set(), leaving.is_set())
    assert {} == waiters._waiting
    waiters(finished(Interrupted()))


async def test_waiting_task_goes_on() -> None:
    """A task that waits for the flag runs once something happened, and can wait again."""
    waiters = Waiters()
    heard: asyncio.Queue[str] = asyncio.Queue()

    async def wait() -> None:
        with waiters.watch(2) as flag:
            for told in ("waits", "first", "second"):
                heard.put_nowait(told)
                await flag.wait()
                flag.clear()

    async with asyncio.timeout(5):
        task = asyncio.create_task(wait())
        for told in ("waits", "first", "second"):
            assert told == await heard.get()
            waiters(finished(Interrupted()))
        await task
