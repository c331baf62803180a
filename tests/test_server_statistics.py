"""Statistics over HTTP: what is counted, over which time, and what is shown of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest
import pytest_asyncio
from api import Api, serving
from engines import edit
from patience import PATIENCE

from hookengine.clock import Clock
from hookengine.health import BREAKER_LONGEST_PAUSE
from hookengine.receiver import Receiver
from hookengine.statistics import HOUR, hour_of
from hookengine.times import format_time, parse_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOTHING: dict[str, Any] = {
    "deliveries": {"delivered": 0, "failed": 0, "cancelled": 0, "pending": 0, "held": 0, "failed_labels": {}},
    "attempts": {"total": 0, "status_codes": {}, "error_codes": {}},
    "latency_ms": {"p50": None, "p95": None, "p99": None},
    "consecutive_failures": 0,
    "last_success_at": None,
    "last_failure_at": None,
    "resumes_at": None,
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """One server for all tests here: each uses a tenant of its own."""
    async with serving(tmp_path_factory.mktemp("statistics")) as made:
        yield made


async def stats(api: Api, subscription: Any, query: str = "") -> Any:
    """The statistics of a subscription."""
    answer = await api("GET", f"/v1/subscriptions/{subscription['id']}/stats{query}")
    assert 200 == answer.status, answer.body
    return answer.json


async def test_fresh_subscription(api: Api) -> None:
    """Where nothing happened yet every count is there, and nothing is made up; the range is the last day in whole hours."""
    made = await api.subscribe(tenant="fresh")
    before = Clock().now()
    shown = await stats(api, made)

    assert NOTHING | {"subscription": made["id"], "since": shown["since"]} == shown
    assert shown["since"] in {format_time(hour_of(now - 24 * HOUR)) for now in (before, Clock().now())}


async def test_counts(api: Api) -> None:
    """Endings, status codes, error codes and times of the attempts are counted, with the counters as they stand."""
    async with Receiver([200, 500, 200]) as receiver:
        made = await api.subscribe(receiver.url, tenant="counts", retry_schedule=[])
        for _ in range(3):
            event = await api.publish(tenant="counts")
            await api.engine.wait(event["id"], PATIENCE)
    shown = await stats(api, made)

    assert {"delivered": 2, "failed": 1, "cancelled": 0, "pending": 0, "held": 0, "failed_labels": {}} == shown["deliveries"]
    assert {"total": 3, "status_codes": {"200": 2, "500": 1}, "error_codes": {"http_status": 1}} == shown["attempts"]
    assert 0 <= shown["latency_ms"]["p50"] <= shown["latency_ms"]["p95"] <= shown["latency_ms"]["p99"] <= PATIENCE * 1000
    subscription = (await api("GET", f"/v1/subscriptions/{made['id']}")).json
    assert 0 == shown["consecutive_failures"]
    for name in ("last_success_at", "last_failure_at"):
        assert subscription[name] == shown[name]


async def test_rate_limit_is_told(api: Api) -> None:
    """After a request it is known until when the limit lets no other go; who is disabled waits for no time."""
    async with Receiver() as receiver:
        made = await api.subscribe(receiver.url, tenant="limited", rate_limit="1/m")
        before = await stats(api, made)
        event = await api.publish(tenant="limited")
        await api.engine.wait(event["id"], PATIENCE)
    after = await stats(api, made)
    await api.made(f"/v1/subscriptions/{made['id']}/disable", None)

    assert [None, None] == [before["resumes_at"], (await stats(api, made))["resumes_at"]]
    since_the_request = parse_time(after["last_success_at"]) + 60_020 - parse_time(after["resumes_at"])
    assert 0 <= since_the_request <= PATIENCE * 1000


async def test_rest_after_failures_is_told(tmp_path: Path) -> None:
    """While the breaker is open it is known until when, also after a start."""
    async with Receiver(500) as receiver:
        async with serving(tmp_path) as api:
            made = await api.subscribe(receiver.url, retry_schedule=[])
            event = await api.publish()
            await api.engine.wait(event["id"], PATIENCE)
            before = await stats(api, made)
        await edit(tmp_path, "UPDATE health SET consecutive_failures = 20")
        async with serving(tmp_path) as api:
            after = await stats(api, made)

    assert None is before["resumes_at"]
    assert BREAKER_LONGEST_PAUSE == parse_time(after["resumes_at"]) - parse_time(after["last_failure_at"])


@pytest.mark.parametrize("state", ["pending", "held"])
async def test_what_waits_counts_now(api: Api, state: str) -> None:
    """What waits is pending or held as the subscription is now, and counts as cancelled once it is."""
    made = await api.subscribe(tenant=f"waits-{state}", state="disabled" if state == "held" else "active")
    later = format_time(Clock().now() + HOUR)
    for _ in range(3):
        await api.publish(tenant=made["tenant"], deliver_at=later)
    [delivery, *_] = (await api("GET", f"/v1/deliveries?subscription={made['id']}")).json["data"]
    await api.made(f"/v1/deliveries/{delivery['id']}/cancel", None)

    assert NOTHING["deliveries"] | {state: 2, "cancelled": 1} == (await stats(api, made))["deliveries"]


async def test_range(api: Api) -> None:
    """A time counts as its whole hour; hours before it are left out."""
    made = await api.subscribe(tenant="range")
    await api.publish(tenant="range", deliver_at=format_time(Clock().now() + HOUR))
    [delivery] = (await api("GET", f"/v1/deliveries?subscription={made['id']}")).json["data"]
    await api.made(f"/v1/deliveries/{delivery['id']}/cancel", None)
    now = Clock().now()
    [(hour,)] = api.rows(
        "SELECT hour FROM statistics JOIN subscriptions AS s ON s.seq = subscription WHERE s.id = ?", made["id"]
    )

    assert hour in {hour_of(now), hour_of(now - 60_000)}
    for since, count in ((hour + HOUR - 1, 1), (hour + HOUR, 0), (0, 1)):
        shown = await stats(api, made, f"?since={format_time(since)}")
        assert (format_time(hour_of(since)), count) == (shown["since"], shown["deliveries"]["cancelled"])
    for until, count in ((hour, 0), (hour + 1, 1), (hour + HOUR, 1)):
        shown = await stats(api, made, f"?since={format_time(0)}&until={format_time(until)}")
        assert count == shown["deliveries"]["cancelled"]


@pytest.mark.parametrize(("since", "until"), [(0, 0), (HOUR, HOUR - 1), (None, -25 * HOUR)])
async def test_range_that_ends_before_it_begins(api: Api, since: int | None, until: int) -> None:
    """A range that holds nothing is the asker's mistake, as it is for a replay, also where its begin is not given."""
    made = await api.subscribe(tenant="backwards")
    now = Clock().now()
    given = {name: format_time(now + time) for name, time in (("since", since), ("until", until)) if time is not None}
    stats_of = await api("GET", f"/v1/subscriptions/{made['id']}/stats?{urlencode(given)}")

    assert (422, [("until", "invalid_value")]) == (stats_of.status, stats_of.places)
    if since is not None:
        assert 422 == (await api("POST", f"/v1/subscriptions/{made['id']}/replay", given)).status


async def test_refused(api: Api) -> None:
    """Unknown ids, deleted subscriptions and wrong parameters are told as everywhere."""
    made = await api.subscribe(tenant="gone")
    wrong = await api("GET", f"/v1/subscriptions/{made['id']}/stats?since=yesterday&limit=3&tenant=x")
    await api("DELETE", f"/v1/subscriptions/{made['id']}")

    expected = [("limit", "unknown_parameter"), ("tenant", "unknown_parameter"), ("since", "invalid_value")]
    assert (422, expected) == (wrong.status, wrong.places)
    for unknown in (made["id"], "sub_none"):
        assert 404 == (await api("GET", f"/v1/subscriptions/{unknown}/stats")).status
