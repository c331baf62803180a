"""
What the documents of ClearFeed, Clarife and CleverTap say, tried from outside.

A daemon, endpoints, and of the documents the payloads and the code for receivers, as they are printed (tests/oracles).
docs/providers.md says of every statement which test holds it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import hostile
import pytest
import pytest_asyncio
from authorization import CLIENT_ID, CLIENT_SECRET, TokenServer, basic_credentials
from certificates import Authority, server_context
from daemon import Daemon
from node import Node
from patience import PATIENCE

from hookengine.clock import Clock
from hookengine.receiver import Received, Receiver, Reply
from hookengine.times import format_time, parse_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from hookengine.receiver import Script

pytestmark = pytest.mark.asyncio(loop_scope="module")

ORACLES = Path(__file__).parent.parent / "oracles"
CREATED, UPDATED, CLARIFE, CLEVERTAP = (
    json.loads((ORACLES / f"{name}.json").read_text())
    for name in ("clearfeed-created", "clearfeed-updated", "clarife-updated", "clevertap-test")
)
PLANS = {"pro": 3, "business": 20}  # Clarife's
TABLES = "".join(f"[plans.{name}]\nmax_subscriptions = {count}\n" for name, count in PLANS.items())
ADDRESSED: dict[str, Any] = {"target_id": CLEVERTAP["targetId"], "key_values": CLEVERTAP["key_values"]}
CLARIFE_TYPES = [
    *(f"document.{what}" for what in ("created", "updated", "deleted")),
    *(f"project.{what}" for what in ("created", "updated", "deleted")),
    *(f"folder.{what}" for what in ("created", "updated", "deleted")),
    "media.uploaded",
    *(f"generation.{what}" for what in ("started", "completed", "failed")),
    *(f"share.{what}" for what in ("created", "updated", "deleted")),
]
HANGS = Reply(delay=2 * PATIENCE)
TOLERANCE = 0.3  # s
LONGEST = 80.0  # s that a schedule is followed for


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def daemon(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Daemon]:
    """One for all tests here: each uses tenants of its own. So many attempts at a time let one endpoint have 200 of them."""
    async with Daemon(tmp_path_factory.mktemp("daemon"), concurrency=1024, tables=TABLES) as made:
        yield made


@pytest.fixture(scope="module")
def ask_node(find_program: Callable[[str], str]) -> Callable[[str, list[Any]], Any]:
    """What a script of tests/oracles says to each of some questions; beside the loop, which goes on."""

    def ask(script: str, questions: list[Any]) -> list[Any]:
        with Node(find_program("node"), script) as node:
            return node.ask_all(questions)

    return lambda script, questions: asyncio.to_thread(ask, script, questions)


def for_clearfeed(requests: Iterable[Received], url: str, secret: str) -> list[dict[str, Any]]:
    """What ClearFeed's code is asked about *requests* to *url*."""
    return [
        {
            "secret": secret,
            "verb": request.method,
            "url": url,
            "body": request.body.decode(),
            "timestamp": request.header("X-CF-Timestamp"),
            "signature": request.header("X-CF-Signature"),
        }
        for request in requests
    ]


def for_clarife(requests: Iterable[Received], secret: str) -> list[dict[str, Any]]:
    """What Clarife's code is asked about *requests*."""
    return [
        {"body": request.body.decode(), "signature": request.header("X-Clarife-Signature"), "secret": secret}
        for request in requests
    ]


def answer_to(server: TokenServer) -> Callable[[Received], int]:
    """What an endpoint that wants a token of *server* answers."""
    return lambda request: 200 if server.guard(request) == 204 else 401


async def publish(daemon: Daemon, type: str, data: Any, **members: Any) -> Any:  # the member's name
    """An event, as it was accepted."""
    return await daemon.ask("POST", "/v1/events", {"type": type, "data": data, **members})


async def until(daemon: Daemon, path: str, **members: Any) -> Any:
    """What is at *path*, once it has *members*."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found = await daemon.ask("GET", path)
            if members.items() <= found.items():
                return found


def printed(request: Received) -> str:
    """The members of a body, in their order, with the producer's own spaces set aside."""
    return json.dumps(json.loads(request.body))


def seconds(moment: str) -> float:
    """A time of the API's in seconds since the epoch."""
    return parse_time(moment) / 1000


# What takes long: it goes on beside the other tests, and is looked at by the last ones.


class Followed(NamedTuple):
    """What came of one event for one endpoint."""

    requests: list[Received]  # without the one that the saving took
    delivery: Any  # with its attempts
    stats: Any  # of its subscription
    url: str
    secret: str | None  # of its tenant

    @property
    def pauses(self) -> list[float]:
        """The seconds between its requests, as the endpoint saw them."""
        return [(after.at - before.at) / 1000 for before, after in pairwise(self.requests)]


async def follow(daemon: Daemon, profile: str, script: Script, *, requests: int, attempts: int) -> Followed:
    """Publish an event for an endpoint that does as *script* says, until so many *requests* came and *attempts* ended."""
    async with Receiver(script) as receiver:
        tenant = f"{profile}-{receiver.url.rpartition(':')[2]}"
        secret = (await daemon.ask("PUT", f"/v1/tenants/{tenant}/secret"))["secret"] if profile == "clearfeed" else None
        id_ = await daemon.subscribe(receiver.url, profile=profile, tenant=tenant)
        tests = len(receiver.requests)
        await publish(daemon, "request.created", {}, tenant=tenant)
        arrived = (await receiver.wait(tests + requests, LONGEST))[tests:]
        [made] = (await daemon.ask("GET", f"/v1/deliveries?subscription={id_}"))["data"]
        delivery = await until(daemon, f"/v1/deliveries/{made['id']}", attempt_count=attempts)
        stats = await daemon.ask("GET", f"/v1/subscriptions/{id_}/stats")
        return Followed(arrived, delivery, stats, receiver.url, secret)


@pytest_asyncio.fixture(loop_scope="module", scope="module", autouse=True)
async def schedules(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, asyncio.Task[Followed]]]:
    """Endpoints that fail, each on its provider's own schedule, on a daemon that nothing else disturbs."""
    async with Daemon(tmp_path_factory.mktemp("schedules")) as daemon:
        scenarios = {
            "clarife": follow(daemon, "clarife", 500, requests=4, attempts=4),
            "clarife, hanging": follow(daemon, "clarife", HANGS, requests=2, attempts=1),
            "clearfeed": follow(daemon, "clearfeed", [200, 500], requests=3, attempts=3),
            "clevertap": follow(daemon, "clevertap", [200, 500], requests=3, attempts=3),
            "clevertap, hanging": follow(daemon, "clevertap", [200, HANGS], requests=2, attempts=1),
        }
        tasks = {name: asyncio.create_task(scenario) for name, scenario in scenarios.items()}
        yield tasks
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)


# Saving.


@pytest.mark.parametrize("profile", ["clearfeed", "clarife", "clevertap"])
async def test_https_is_required(tmp_path: Path, profile: str) -> None:
    """Without `allow_http` a URL must begin with https, when it is saved and when it is changed; one that does is called."""
    authority = Authority(tmp_path)
    trusted = tmp_path / "authority.pem"
    trusted.write_text(authority.pem)
    tls = server_context(authority.issue("127.0.0.1"))
    async with (
        hostile.receiver(hostile.healthy, tls=tls) as receiver,
        Daemon(tmp_path, allow_http=False, trusting=trusted) as daemon,
    ):
        url = receiver.url.replace("http:", "https:")
        plain = await daemon.answer("POST", "/v1/subscriptions", {"url": receiver.url, "profile": profile})
        made = await daemon.subscribe(url, profile=profile)
        changed = await daemon.answer("PATCH", f"/v1/subscriptions/{made}", {"url": receiver.url})
        await publish(daemon, "request.created", {})
        async with asyncio.timeout(PATIENCE):
            await receiver.reached(2 if profile != "clarife" else 1)
        shown = await daemon.ask("GET", f"/v1/subscriptions/{made}")

    for status, problem in (plain, changed):
        assert (422, [("/url", "invalid_url")]) == (status, [(each["pointer"], each["code"]) for each in problem["errors"]])
        assert "https" in problem["errors"][0]["detail"]
    assert url == shown["url"]


@pytest.mark.parametrize("profile", ["clearfeed", "clevertap"])
async def test_nothing_but_200_saves(daemon: Daemon, profile: str) -> None:
    """An endpoint that answers its test with anything but 200 is not saved, with what it answered, and leaves nothing."""
    tenant = f"saving-{profile}"
    statuses = [201, 202, 204, 302, 404, 500]
    async with Receiver([*statuses, 200]) as receiver:
        wanted = {"url": receiver.url, "profile": profile, "tenant": tenant}
        refused = [await daemon.answer("POST", "/v1/subscriptions", wanted) for _ in statuses]
        listed = await daemon.ask("GET", f"/v1/subscriptions?tenant={tenant}")
        saved, _ = await daemon.answer("POST", "/v1/subscriptions", wanted)

    assert {(422, "endpoint_verification_failed")} == {(status, problem["code"]) for status, problem in refused}
    assert statuses == [problem["attempt"]["status_code"] for _, problem in refused]
    assert ([], 201, 7) == (listed["data"], saved, len(receiver.requests))


@pytest.mark.parametrize("profile", ["clearfeed", "clevertap"])
async def test_nothing_but_200_saves_a_change(daemon: Daemon, profile: str) -> None:
    """A change of URL, method, headers, credentials or profile needs a 200 of its own, without which all stays as it was."""
    other = {"clearfeed": "clevertap", "clevertap": "clearfeed"}[profile]
    async with Receiver([200, *[204, 200] * 5]) as receiver:
        path = f"/v1/subscriptions/{await daemon.subscribe(receiver.url, profile=profile, tenant='changing')}"
        for change in (
            {"url": f"{receiver.url}/other"},
            {"method": "PUT"},
            {"headers": {"X-Key": "k"}},
            {"auth": {"type": "basic", "username": "u", "password": "p"}},
            {"profile": other},
        ):
            before = await daemon.ask("GET", path)
            status, problem = await daemon.answer("PATCH", path, change)
            assert (422, "endpoint_verification_failed", 204) == (status, problem["code"], problem["attempt"]["status_code"])
            assert before == await daemon.ask("GET", path)
            assert 200 == (await daemon.answer("PATCH", path, change))[0]

    assert 11 == len(receiver.requests)


@pytest.mark.parametrize("plan", PLANS)
async def test_plan_is_full(daemon: Daemon, plan: str) -> None:
    """A tenant gets as many subscriptions as its plan has, also where two come at once for the last place, and no more."""
    await daemon.ask("PUT", f"/v1/tenants/{plan}", {"plan": plan})
    wanted = {"url": "http://127.0.0.1:8099/", "profile": "clarife", "tenant": plan}
    for _ in range(PLANS[plan] - 1):
        await daemon.subscribe(**wanted)
    both = await asyncio.gather(*[daemon.answer("POST", "/v1/subscriptions", wanted) for _ in range(2)])
    status, problem = await daemon.answer("POST", "/v1/subscriptions", wanted)

    assert [201, 409] == sorted(status for status, _ in both)
    assert (409, "subscription_limit_reached") == (status, problem["code"])


async def test_token_of_a_user(daemon: Daemon) -> None:
    """There is none until it is made, one for each user, and once it is deleted it opens nothing and another can be made."""
    path = "/v1/tokens/ann@example.com"
    before = await daemon.ask("GET", "/v1/tokens")
    unknown, _ = await daemon.answer("GET", "/v1/events", token="YOUR_PERSONAL_ACCESS_TOKEN")
    first = (await daemon.ask("POST", "/v1/tokens", {"user": "ann@example.com"}))["token"]
    second = await daemon.answer("POST", "/v1/tokens", {"user": "ann@example.com"})
    opened, _ = await daemon.answer("GET", "/v1/events", token=first)
    await daemon.ask("DELETE", path)
    closed, _ = await daemon.answer("GET", "/v1/events", token=first)
    again = (await daemon.ask("POST", "/v1/tokens", {"user": "ann@example.com"}))["token"]
    reopened, _ = await daemon.answer("GET", "/v1/events", token=again)
    listed = await daemon.ask("GET", "/v1/tokens")

    assert ([], 401) == (before["data"], unknown)
    assert (409, "token_exists") == (second[0], second[1]["code"])
    assert (200, 401, 200) == (opened, closed, reopened)
    assert ["ann@example.com"] == [each["user"] for each in listed["data"]]
    assert first != again
    assert again not in json.dumps(listed)


# ClearFeed.


@pytest.mark.parametrize("example", [CREATED, UPDATED], ids=["created", "updated"])
async def test_clearfeed_event(daemon: Daemon, ask_node: Any, example: Any) -> None:
    """The event that is printed arrives as it is printed, with the three headers, and the printed code accepts it."""
    tenant = f"clearfeed-{example['sub_type']}"
    secret = (await daemon.ask("PUT", f"/v1/tenants/{tenant}/secret"))["secret"]
    async with Receiver() as receiver:
        url = f"{receiver.url}/events?from=clearfeed"
        type_ = f"{example['type']}.{example['sub_type']}"
        await daemon.subscribe(url, profile="clearfeed", tenant=tenant, event_types=[type_])
        data = {name: value for name, value in example.items() if name not in {"id", "type", "sub_type"}}
        before = Clock().now() // 1000
        other = await publish(daemon, "request.other", data, tenant=tenant)
        await publish(daemon, type_, data, tenant=tenant, id=example["id"])
        ping, event = await receiver.wait(2)
    changed = [question | {"body": question["body"] + " "} for question in for_clearfeed([event], url, secret)]
    verdicts = await ask_node("clearfeed.mjs", for_clearfeed([ping, event], url, secret) + changed)

    assert 0 == other["deliveries"]
    assert (json.dumps(example), "POST") == (printed(event), event.method)
    assert re.fullmatch("[0-9a-f]{64}", event.header("X-CF-Signature") or "")
    assert before <= int(event.header("X-CF-Timestamp") or 0) <= event.at // 1000
    assert "0" == event.header("X-CF-Retry-Count")
    assert [True, True, False] == verdicts


async def test_clearfeed_event_without_an_id(daemon: Daemon) -> None:
    """Where the producer gives no id, the event gets one of the printed form, which is the same for all subscriptions."""
    async with Receiver() as receiver:
        for _ in range(2):
            await daemon.subscribe(receiver.url, profile="clearfeed", tenant="clearfeed-id")
        await publish(daemon, "request.created", {"source": "slack_event"}, tenant="clearfeed-id")
        bodies = [json.loads(request.body) for request in (await receiver.wait(4))[2:]]

    assert ["id", "type", "sub_type", "source"] == list(bodies[0])
    assert bodies[0] == bodies[1]
    assert re.fullmatch("[0-9a-f]{32}", bodies[0]["id"])


async def test_clearfeed_secret_is_an_option(daemon: Daemon, ask_node: Any) -> None:
    """Requests are unsigned until the workspace has a secret; then an event and its retries, counted from 0 to 3, verify."""
    async with Receiver([200, 200, 500]) as receiver:
        path = "/v1/tenants/workspace/secret"
        id_ = await daemon.subscribe(
            receiver.url, profile="clearfeed", tenant="workspace", retry_schedule=["0s", "1ms", "1ms"]
        )
        await publish(daemon, "request.created", {}, tenant="workspace")
        await receiver.wait(2)
        status, _ = await daemon.answer("GET", path)
        secret = (await daemon.ask("PUT", path))["secret"]
        shown = await daemon.ask("GET", path)
        own = await daemon.ask("GET", f"/v1/subscriptions/{id_}/secret")
        await publish(daemon, "request.updated", {}, tenant="workspace")
        *unsigned, first, second, third, fourth = await receiver.wait(6)
    tries = [first, second, third, fourth]
    verdicts = await ask_node("clearfeed.mjs", for_clearfeed(tries, receiver.url, secret))

    assert [None, None] == [request.header("X-CF-Signature") for request in unsigned]
    assert (404, secret, None) == (status, shown["secret"], own["secret"])
    assert ["0", "1", "2", "3"] == [request.header("X-CF-Retry-Count") for request in tries]
    assert (1, 1) == (len({request.header("X-CF-Timestamp") for request in tries}), len({request.body for request in tries}))
    assert [True] * 4 == verdicts


async def test_clearfeed_code_refuses_what_is_old(daemon: Daemon, ask_node: Any) -> None:
    """What occurred more than five minutes ago is sent and signed, and the printed code refuses it for its age alone."""
    secret = (await daemon.ask("PUT", "/v1/tenants/clearfeed-old/secret"))["secret"]
    async with Receiver() as receiver:
        await daemon.subscribe(receiver.url, profile="clearfeed", tenant="clearfeed-old")
        for age in (310_000, 290_000):
            occurred_at = format_time(Clock().now() - age)
            await publish(daemon, "request.created", {"age": age}, tenant="clearfeed-old", occurred_at=occurred_at)
        _, *requests = await receiver.wait(3)
    requests.sort(key=lambda request: int(request.header("X-CF-Timestamp") or 0))
    verdicts = await ask_node("clearfeed.mjs", for_clearfeed(requests, receiver.url, secret))

    assert [310_000, 290_000] == [json.loads(request.body)["age"] for request in requests]
    assert [None, True] == verdicts


# Clarife.


async def test_clarife_event(daemon: Daemon, ask_node: Any) -> None:
    """The event that is printed arrives as it is printed, signed with the subscription's own secret as printed code has it."""
    async with Receiver() as first, Receiver() as second:
        made = [
            await daemon.ask("POST", "/v1/subscriptions", {"url": url, "profile": "clarife", "tenant": "clarife-event"})
            for url in (first.url, second.url)
        ]
        kept = {name: CLARIFE[name] for name in ("id", "type", "data")}
        await daemon.ask("POST", "/v1/events", kept | {"tenant": "clarife-event", "occurred_at": CLARIFE["created_at"]})
        [request], [other] = await first.wait(1), await second.wait(1)
    questions = for_clarife([request], made[0]["secret"]) + for_clarife([other], made[1]["secret"])
    swapped = for_clarife([request], made[1]["secret"])
    verdicts = await ask_node("clarife.mjs", questions + swapped)

    assert (json.dumps(CLARIFE, separators=(",", ":")), "POST") == (request.body.decode(), request.method)
    found = re.fullmatch("t=([0-9]+),v1=[0-9a-f]{64}", request.header("X-Clarife-Signature") or "")
    assert found is not None
    assert abs(int(found[1]) - request.at // 1000) <= 1
    assert [True, True, False] == verdicts


async def test_clarife_test_event(daemon: Daemon, ask_node: Any) -> None:
    """A test event goes out on demand, says in its id that it is one, has its type's example, and verifies like any."""
    await daemon.ask("PUT", "/v1/event-types/document.updated", {"description": "changed", "example": CLARIFE["data"]})
    async with Receiver(202) as receiver:
        wanted = {"url": receiver.url, "profile": "clarife", "tenant": "clarife-test"}
        made = await daemon.ask("POST", "/v1/subscriptions", wanted)
        path = f"/v1/subscriptions/{made['id']}/test"
        attempts = [await daemon.ask("POST", path, body) for body in (None, {"type": "document.updated"})]
        stored = await daemon.ask("GET", "/v1/events?tenant=clarife-test")
    plain, typed = [json.loads(request.body) for request in receiver.requests]
    verdicts = await ask_node("clarife.mjs", for_clarife(receiver.requests, made["secret"]))

    assert [("test", 202)] * 2 == [(attempt["trigger"], attempt["status_code"]) for attempt in attempts]
    assert ("hookengine.test", True) == (plain["type"], plain["data"]["test"])
    assert ("document.updated", CLARIFE["data"]) == (typed["type"], typed["data"])
    assert all(body["id"].startswith("test_") for body in (plain, typed))
    assert ([True, True], []) == (verdicts, stored["data"])


async def test_clarife_takes_2xx_only(daemon: Daemon) -> None:
    """Whatever is not 2xx is tried again, a redirect and a 410 too, and any 2xx delivers."""
    statuses = [302, 400, 410, 503, 204]
    async with Receiver(statuses) as receiver:
        wanted: dict[str, Any] = {"profile": "clarife", "tenant": "clarife-2xx", "retry_schedule": ["0s"] * 5}
        id_ = await daemon.subscribe(receiver.url, **wanted)
        await publish(daemon, "document.updated", {}, tenant="clarife-2xx")
        await receiver.wait(5)
        [made] = (await daemon.ask("GET", f"/v1/deliveries?subscription={id_}"))["data"]
        delivery = await until(daemon, f"/v1/deliveries/{made['id']}", state="delivered")

    assert statuses == [attempt["status_code"] for attempt in delivery["attempts"]]


async def test_clarife_event_types(daemon: Daemon) -> None:
    """All sixteen types can be declared and are listed, and a subscription gets those that it chose."""
    for type_ in CLARIFE_TYPES:
        await daemon.ask("PUT", f"/v1/event-types/{type_}", {"description": type_})
    listed = [each["type"] for each in (await daemon.ask("GET", "/v1/event-types"))["data"]]
    async with Receiver() as receiver, Receiver() as everything:
        chosen = ["document.deleted", "generation.*"]
        await daemon.subscribe(receiver.url, profile="clarife", tenant="clarife-types", event_types=chosen)
        await daemon.subscribe(everything.url, profile="clarife", tenant="clarife-types")
        for type_ in CLARIFE_TYPES:
            await publish(daemon, type_, {}, tenant="clarife-types")
        await everything.wait(16)
        got = {json.loads(request.body)["type"] for request in await receiver.wait(4)}

    assert (16, set()) == (len(CLARIFE_TYPES), set(CLARIFE_TYPES) - set(listed))
    assert {"document.deleted", "generation.started", "generation.completed", "generation.failed"} == got


async def test_clarife_deactivates(daemon: Daemon) -> None:
    """
    Ten consecutive failures over any deliveries deactivate a subscription, a success between starts the count again, and so
    does switching it on; who asked for them is told by operational events, which make no further ones.
    """
    script = [*[500] * 9, 200, *[500] * 10, 200]
    async with Receiver(script) as failing, Receiver() as ours, Receiver(500) as deaf:
        await daemon.subscribe(ours.url, tenant="hookengine", event_types=["hookengine.*"], max_concurrency=1)
        once: dict[str, Any] = {"retry_schedule": [], "disable_after_failures": 1}
        lost = await daemon.subscribe(deaf.url, tenant="hookengine", event_types=["hookengine.*"], **once)
        id_ = await daemon.subscribe(failing.url, profile="clarife", tenant="clarife-off", max_concurrency=1)
        path = f"/v1/subscriptions/{id_}"
        for _ in range(20):
            await publish(daemon, "document.updated", {}, tenant="clarife-off")
        off = await until(daemon, path, state="disabled")
        arrived = len(failing.requests)
        deliveries = (await daemon.ask("GET", f"/v1/deliveries?subscription={id_}"))["data"]
        await until(daemon, f"/v1/subscriptions/{lost}", state="disabled")
        on = await daemon.ask("POST", f"{path}/enable")
        await failing.wait(arrived + 19)  # what was held
        told = [json.loads(request.body) for request in await ours.wait(2)]
        own = await daemon.ask("GET", "/v1/events?tenant=hookengine")

    assert ("failures", 10, 20) == (off["disabled_reason"], off["consecutive_failures"], arrived)
    assert ["delivered", *["held"] * 19] == sorted(each["state"] for each in deliveries)
    assert ("active", None, 0) == (on["state"], on["disabled_reason"], on["consecutive_failures"])
    assert [("hookengine.subscription.disabled", id_), ("hookengine.subscription.enabled", id_)] == [
        (event["type"], event["data"]["subscription"]) for event in told
    ]
    assert ("failures", 10) == (told[0]["data"]["reason"], told[0]["data"]["consecutive_failures"])
    assert (2, 1) == (len(own["data"]), len(deaf.requests))


# CleverTap.


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE", "PUT"])
async def test_clevertap_profiles(daemon: Daemon, method: str) -> None:
    """A webhook is tested with the printed payload and then gets profiles in its form, together; with GET none."""
    tenant = f"clevertap-{method.lower()}"
    async with Receiver() as receiver:
        await daemon.subscribe(receiver.url, profile="clevertap", tenant=tenant, method=method, name="Leavers", **ADDRESSED)
        events = [{"type": "user.left", "data": profile, "tenant": tenant} for profile in CLEVERTAP["profiles"]]
        await daemon.ask("POST", "/v1/events/batch", events)
        requests = await receiver.wait(6 if method == "GET" else 2)
    bodies = [CLEVERTAP, {name: value for name, value in CLEVERTAP.items() if name != "is_test"}]

    assert {method} == {request.method for request in receiver.requests}
    if method == "GET":
        assert ["/?key=value&is_test=true", *["/?key=value"] * 5] == [each.path for each in requests]
        assert {b""} == {request.body for request in receiver.requests}
    else:
        assert [json.dumps(body) for body in bodies] == [printed(request) for request in requests]


async def test_clevertap_credentials(daemon: Daemon) -> None:
    """A webhook sends no credentials, headers of its own, or user name and password as Basic, from its test on."""
    basic = {"type": "basic", "username": "YOUR_USERNAME", "password": "YOUR_PASSWORD"}
    ways: list[dict[str, Any]] = [{}, {"headers": {"X-Token": "a token"}}, {"auth": basic}]
    seen = []
    for number, way in enumerate(ways):
        tenant = f"clevertap-credentials-{number}"
        async with Receiver() as receiver:
            await daemon.subscribe(receiver.url, profile="clevertap", tenant=tenant, **way)
            await publish(daemon, "user.left", {}, tenant=tenant)
            seen += [(each.header("X-Token"), each.header("Authorization")) for each in await receiver.wait(2)]

    expected = "Basic " + base64.b64encode(b"YOUR_USERNAME:YOUR_PASSWORD").decode()
    assert [(None, None)] * 2 + [("a token", None)] * 2 + [(None, expected)] * 2 == seen


@pytest.mark.parametrize("grant", ["client_credentials", "password"])
async def test_clevertap_oauth2(daemon: Daemon, grant: str) -> None:
    """The token is got with the client's id and secret in the header, used, and renewed by a refresh token if there is one."""
    tenant = f"clevertap-{grant}"
    async with TokenServer() as server, Receiver(answer_to(server)) as receiver:
        auth = server.auth(grant=grant, scopes=["profile"], client_auth="header")
        id_ = await daemon.subscribe(receiver.url, profile="clevertap", tenant=tenant, auth=auth)
        await publish(daemon, "user.left", {}, tenant=tenant)
        await receiver.wait(2)
        server.revoke()
        await publish(daemon, "user.left", {}, tenant=tenant)
        requests = await receiver.wait(4)  # one with the token that ended, and the same again
        shown = json.dumps(await daemon.ask("GET", f"/v1/subscriptions/{id_}"))

    of_test, first, second = server.forms
    assert of_test == first
    assert (grant, "profile") == (first["grant_type"], first["scope"])
    assert [grant == "password"] * 2 == ["username" in first, "password" in first]
    assert ("refresh_token" if grant == "password" else grant) == second["grant_type"]
    assert {f"{quote(CLIENT_ID, safe='')}:{quote(CLIENT_SECRET, safe='')}"} == {
        basic_credentials(each) for each in server.requests
    }
    tokens = [f"Bearer {issued.access_token}" for issued in server.issued]
    assert [tokens[0], tokens[1], tokens[1], tokens[2]] == [request.header("Authorization") for request in requests]
    assert "hush-" not in shown


async def test_clevertap_fields_of_the_token(daemon: Daemon) -> None:
    """Where the token's member has another name, the failed save tells which there are, and once it is mapped it is used."""
    answer = {"jwt": "the-token", "next": "another", "ttl": "3600"}
    async with TokenServer() as server, Receiver() as receiver:
        server.fault = Reply(headers=(("content-type", "application/json"),), body=json.dumps(answer).encode())
        wanted: dict[str, Any] = {"url": receiver.url, "profile": "clevertap", "tenant": "clevertap-fields"}
        status, problem = await daemon.answer("POST", "/v1/subscriptions", wanted | {"auth": server.auth()})
        fields = {"access_token": "jwt", "refresh_token": "next", "expires_in": "ttl"}
        saved, _ = await daemon.answer("POST", "/v1/subscriptions", wanted | {"auth": server.auth(fields=fields)})

    assert (422, {"status_code": 200, "fields": list(answer)}) == (status, problem["token_answer"])
    assert (201, ["Bearer the-token"]) == (saved, [request.header("Authorization") for request in receiver.requests])


async def test_clevertap_token_is_renewed_once(daemon: Daemon) -> None:
    """Of 200 deliveries under way at once whose token has expired, one asks for another, and none is sent with the old one."""
    released = asyncio.Event()

    async def slowly(request: Received) -> Reply:
        await released.wait()
        reply: Reply = server.create_token_response(request)
        return reply

    async with TokenServer(expires_in=1) as server, Receiver(answer_to(server)) as receiver:
        wanted: dict[str, Any] = {"profile": "clevertap", "tenant": "clevertap-200", "max_concurrency": 200}
        wanted["batch"] = {"max_events": 1}
        id_ = await daemon.subscribe(receiver.url, auth=server.auth(), **wanted)
        events = [{"type": "user.left", "data": {"n": n}, "tenant": "clevertap-200"} for n in range(200)]
        await daemon.ask("POST", "/v1/events/batch", events)  # each success lets one more be under way at a time
        last = (await receiver.wait(201, PATIENCE))[-1]
        while Clock().now() <= last.at + 1000:
            await until(daemon, f"/v1/subscriptions/{id_}", consecutive_failures=0)
        before = len(server.requests)
        server.revoke()
        server.expires_in = 3600
        server.fault = slowly
        await daemon.ask("POST", "/v1/events/batch", events)
        async with asyncio.timeout(PATIENCE):
            while await daemon.metric("hookengine_attempts_in_flight") < 200:
                pass
        released.set()
        requests = (await receiver.wait(401, PATIENCE))[201:]

    assert before + 1 == len(server.requests)
    assert {f"Bearer {server.issued[-1].access_token}"} == {request.header("Authorization") for request in requests}
    assert 401 == len(receiver.requests)


# What has gone on meanwhile, the shortest first.


async def test_clarife_waits_ten_seconds(schedules: dict[str, asyncio.Task[Followed]]) -> None:
    """An endpoint that does not answer has 10 s, and the retry comes 1 s later."""
    found = await schedules["clarife, hanging"]
    [attempt] = found.delivery["attempts"]

    assert [pytest.approx(11, abs=TOLERANCE)] == found.pauses
    assert "timeout_response" == attempt["error"]["code"]
    assert pytest.approx(10_000, abs=1000 * TOLERANCE) == attempt["duration_ms"]


async def test_clevertap_waits_five_seconds(schedules: dict[str, asyncio.Task[Followed]]) -> None:
    """An endpoint that does not answer has 5 s, and the first retry comes 5 s later."""
    found = await schedules["clevertap, hanging"]
    [attempt] = found.delivery["attempts"]

    assert [pytest.approx(10, abs=TOLERANCE)] == found.pauses
    assert pytest.approx(5000, abs=1000 * TOLERANCE) == attempt["duration_ms"]


async def test_clevertap_retries(schedules: dict[str, asyncio.Task[Followed]]) -> None:
    """A delivery that is refused is tried again twice, and is then "Webhook Dispatch Failed" wherever it is shown."""
    found = await schedules["clevertap"]
    label = "Webhook Dispatch Failed"

    assert [pytest.approx(pause, abs=TOLERANCE) for pause in (5, 30)] == found.pauses
    assert ("failed", label) == (found.delivery["state"], found.delivery["failed_label"])
    assert (1, {label: 1}) == (found.stats["deliveries"]["failed"], found.stats["deliveries"]["failed_labels"])
    assert {"500": 3} == found.stats["attempts"]["status_codes"]


async def test_clearfeed_retries(schedules: dict[str, asyncio.Task[Followed]], ask_node: Any) -> None:
    """A delivery that is refused is tried again after 10 s, 60 s and 180 s, and the printed code accepts each try."""
    found = await schedules["clearfeed"]
    assert found.secret is not None
    verdicts = await ask_node("clearfeed.mjs", for_clearfeed(found.requests, found.url, found.secret))
    last = found.delivery["attempts"][-1]

    assert [pytest.approx(pause, abs=TOLERANCE) for pause in (10, 60)] == found.pauses
    assert ["0", "1", "2"] == [request.header("X-CF-Retry-Count") for request in found.requests]
    assert 1 == len({request.header("X-CF-Timestamp") for request in found.requests})
    assert [True] * 3 == verdicts
    assert "pending" == found.delivery["state"]
    assert pytest.approx(180, abs=TOLERANCE) == seconds(found.delivery["next_attempt_at"]) - seconds(last["at"])


async def test_clarife_retries(schedules: dict[str, asyncio.Task[Followed]]) -> None:
    """A delivery that is refused is tried again after 1 s, 10 s and 60 s, and is failed after that, with the same event."""
    found = await schedules["clarife"]

    assert [pytest.approx(pause, abs=TOLERANCE) for pause in (1, 10, 60)] == found.pauses
    assert ("failed", 4) == (found.delivery["state"], found.delivery["attempt_count"])
    assert 1 == len({request.body for request in found.requests})
    assert (1, {"500": 4}, 4) == (
        found.stats["deliveries"]["failed"],
        found.stats["attempts"]["status_codes"],
        found.stats["consecutive_failures"],
    )
