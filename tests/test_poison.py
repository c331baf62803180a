"""Rows that somebody edited by hand, in every table: they are told of and given up, and everything else goes on."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import engines
import pytest
from api import Api, serving
from patience import PATIENCE
from storage import NOW, draft, opened, write

from hookengine.access import Principal, Scope, Token
from hookengine.matching import OURS
from hookengine.models import AccessToken, Batching, OAuth2, Ordering, Secret, SigningSecret
from hookengine.receiver import Receiver
from hookengine.store import changes, registry, replays
from hookengine.store.announcements import DELIVERY_FAILED
from hookengine.store.intake import Replay

if TYPE_CHECKING:
    from pathlib import Path

OAUTH2 = OAuth2(grant="client_credentials", token_url="https://a.example", client_id="me", client_secret=Secret("x"))

# Subscriptions of the prepared file with waiting deliveries of their own.
PLAIN, OTHER, FIFO, BATCHED = range(1, 5)

# Each edit is of a row of its own; those of deliveries and events end as failed.
DELIVERIES = {
    "trigger": "trigger = 'whim'",
    "no UTF-8": "trigger = CAST(x'ff' AS TEXT)",
    "due_at": "due_at = 'soon'",
    "created_at": "created_at = 'then'",
    "attempt_count": "attempt_count = 'many'",
    "step": "step = 1.5",
    "expires_at": "expires_at = 'never'",
    "priority": "priority = 7",
    "priority in words": "priority = 'high'",
    "place": "place = 9",
    "state": "state = 'whim'",
}
MORE_DELIVERIES = DELIVERIES | {
    "id": "id = CAST(id AS BLOB)",
    "state is the first of all": "state = ''",
    "state is between others": "state = 'held'",
    "state is no text": "state = x'ff'",
    "follows nobody": "place = 2, batch = NULL, line = NULL",
    "due_at beyond all": "due_at = 9223372036854775807",
    "line is no text": "place = 2, line = x'ff'",
    "batch is no number": "place = 2, batch = 'oops'",
}
EVENTS = {
    "data": "data = x'7b6f6f7073'",
    "data is text": "data = '{}'",
    "data is empty": "data = x''",
    "data is no UTF-8": "data = x'22ff22'",
    "data is nested too deep": "data = CAST(printf('%.20000c', '[') || printf('%.20000c', ']') AS BLOB)",
    "time": "occurred_at = 'then'",
    "type": "type = x'00'",
    "tenant": "tenant = x'ff'",
}
# What belongs to a subscription that nothing is sent to, or to nobody, and what the log says of it.
ELSEWHERE = {
    "replay": ("UPDATE replays SET states = 'oops' WHERE subscription = {n}", "the replay in row {r}"),
    "replay of states there are not": (
        "UPDATE replays SET states = '[\"lost\"]' WHERE subscription = {n}",
        "the replay in row {r}",
    ),
    "replay cursor": ("UPDATE replays SET cursor = 'here' WHERE subscription = {n}", "the replay in row {r}"),
    "settings": ("UPDATE subscriptions SET settings = x'7b' WHERE seq = {n}", "subscription sub_{n} (row {n})"),
    "settings are text": ("UPDATE subscriptions SET settings = '[]' WHERE seq = {n}", "subscription sub_{n} (row {n})"),
    "url": (
        "UPDATE subscriptions SET settings = json_set(CAST(settings AS TEXT), '$.url', NULL) WHERE seq = {n}",
        "subscription sub_{n} (row {n})",
    ),
    "url is a number": (
        "UPDATE subscriptions SET settings = json_set(CAST(settings AS TEXT), '$.url', 7) WHERE seq = {n}",
        "subscription sub_{n} (row {n})",
    ),
    "rate limit": (
        "UPDATE subscriptions SET settings = json_set(CAST(settings AS TEXT), '$.rate_limit', '31 Feb') WHERE seq = {n}",
        "subscription sub_{n} (row {n})",
    ),
    "max_concurrency": (
        "UPDATE subscriptions SET settings = json_set(CAST(settings AS TEXT), '$.max_concurrency', 0) WHERE seq = {n}",
        "subscription sub_{n} (row {n})",
    ),
    "retry schedule": (
        (
            "UPDATE subscriptions SET settings = json_set(CAST(settings AS TEXT), '$.retry_schedule', json('[\"1s\"]'))"
            " WHERE seq = {n}"
        ),
        "subscription sub_{n} (row {n})",
    ),
    "max_concurrency beyond all": (
        "UPDATE subscriptions SET settings = json_set(CAST(settings AS TEXT), '$.max_concurrency', 1 << 62) WHERE seq = {n}",
        "subscription sub_{n} (row {n})",
    ),
    "number beyond all": (
        (
            "UPDATE subscriptions SET settings = json_set(CAST(settings AS TEXT), '$.target_id',"
            " json('9999999999999999999999')) WHERE seq = {n}"
        ),
        "subscription sub_{n} (row {n})",
    ),
    "batch of none": (
        (
            "UPDATE subscriptions SET settings = json_set(CAST(settings AS TEXT), '$.batch', json_object('max_events', 0))"
            " WHERE seq = {n}"
        ),
        "subscription sub_{n} (row {n})",
    ),
    "settings nested too deep": (
        "UPDATE subscriptions SET settings = printf('%.9000c', '[') WHERE seq = {n}",
        "subscription sub_{n} (row {n})",
    ),
    "id": ("UPDATE subscriptions SET id = x'ff' WHERE seq = {n}", "(row {n})"),
    "ciphertext": ("UPDATE subscriptions SET sealed = x'01020304' WHERE seq = {n}", "subscription sub_{n} (row {n})"),
    "ciphertext is text": ("UPDATE subscriptions SET sealed = 'oops' WHERE seq = {n}", "subscription sub_{n} (row {n})"),
    "ciphertext of another": (
        "UPDATE subscriptions SET sealed = (SELECT sealed FROM subscriptions WHERE seq = 1) WHERE seq = {n}",
        "subscription sub_{n} (row {n})",
    ),
    "times of a subscription": (
        "UPDATE subscriptions SET created_at = 'then' WHERE seq = {n}",
        "subscription sub_{n} (row {n})",
    ),
    "counters": (
        "UPDATE health SET consecutive_failures = 'many' WHERE subscription = {n}",
        "the counters of sub_{n} (row {n})",
    ),
    "tenant ciphertext": ("UPDATE tenants SET sealed = x'00' WHERE name = 'tenant{n}'", "the tenant tenant{n}"),
    "tenant ciphertext is text": ("UPDATE tenants SET sealed = 'oops' WHERE name = 'tenant{n}'", "the tenant tenant{n}"),
    "tenant time": ("UPDATE tenants SET created_at = 'then' WHERE name = 'tenant{n}'", "the tenant tenant{n}"),
    "access token": ("UPDATE access_tokens SET sealed = x'00' WHERE subscription = {n}", "the access token of sub_{n}"),
    "access token is text": (
        "UPDATE access_tokens SET sealed = 'oops' WHERE subscription = {n}",
        "the access token of sub_{n}",
    ),
    "token scopes": ("UPDATE tokens SET scopes = '[\"root\"]' WHERE user = 'user{n}'", "the token of user{n}"),
    "token expiry": ("UPDATE tokens SET expires_at = 'never' WHERE user = 'user{n}'", "the token of user{n}"),
    # Of these nobody needs to hear: nothing is lost by them.
    "settings of another row": (
        "UPDATE subscriptions SET settings = json_set(CAST(settings AS TEXT), '$.seq', 1, '$.id', 'sub_1') WHERE seq = {n}",
        None,
    ),
    "key of a delivery beyond all": ("UPDATE deliveries SET seq = 9223372036854775807 WHERE seq = 48", None),
    "key of an exchange beyond all": ("INSERT INTO exchanges (seq) VALUES (9223372036854775807)", None),
    "last turn": ("INSERT INTO meta VALUES ('last_turn', 'oops')", None),
    "description is no text": ("INSERT INTO event_types VALUES (9, 't9', x'ff', NULL, 0, 0, 0)", None),
    "far off": ("UPDATE deliveries SET created_at = 1 << 62 WHERE seq = 2", None),
    "paces": ("INSERT INTO meta VALUES ('paces', 'oops')", None),
    "enabling": ("INSERT INTO meta VALUES ('enabling:oops', 'then')", None),
    "event type time": ("UPDATE event_types SET created_at = 'then'", None),
    "event type example": ("UPDATE event_types SET example = 'oops'", None),
    "health of nobody": ("INSERT INTO health (subscription) VALUES (99)", None),
    "delivery of nobody": (
        (
            "INSERT INTO deliveries (seq, id, event, subscription, state, priority, due_at, created_at)"
            " VALUES (99, 'dlv_99', 98, 97, 'pending', 1, 0, 0)"
        ),
        "delivery dlv_99 (row 99)",
    ),
}


async def prepare(folder: Path, url: str, *, idle: int = 1) -> None:
    """A file with something in every table: twelve deliveries waiting for each of four subscriptions, none for the *idle*."""
    async with opened(folder, gathers=lambda one: one.batch is not None) as place:
        change = place.store.writer.change
        busy: dict[int, dict[str, Any]] = {
            PLAIN: {},
            OTHER: {},
            FIFO: {"ordering": Ordering.FIFO},
            BATCHED: {"profile": "clevertap", "batch": Batching(max_events=5, max_wait=1)},
        }
        for n, settings in busy.items():
            await place.subscribe(id=f"sub_{n}", url=url, event_types=(f"t{n}",), **settings)
        for n in range(BATCHED + 1, BATCHED + 1 + idle):
            made = await place.subscribe(id=f"sub_{n}", url=url, tenant=f"tenant{n}", auth=OAUTH2)
            await change(registry.set_tenant_secrets(f"tenant{n}", lambda _, __: (SigningSecret(value=Secret("whsec_x")),)))
            await change(changes.keep_access_token(made.seq, OAUTH2, AccessToken(value=Secret("t"))))
            await change(replays.add_replay(made.id, None, Replay(subscription=n, states=("failed",), newest=0), 0))
            by = Principal(user=f"user{n}", scopes=frozenset({Scope.ADMIN}))
            await change(registry.add_token(Token(seq=0, principal=by, digest=b"%d" % n, created_at=NOW)))
        for n, name in ((PLAIN, "plain"), (OTHER, "other"), (FIFO, "line"), (BATCHED, "batch")):
            await place.publish(*(draft(id=f"{name}-{i}", type=f"t{n}", digest=b"x") for i in range(1, 13)))
    write(folder / "hooks.db", f"INSERT INTO event_types VALUES (1, 't1', 'One', '1', 0, {NOW}, {NOW})")


async def until_done(api: Api) -> dict[str, str]:
    """The states by event, of the four subscriptions that something is sent to, once none of them waits."""
    for name in ("plain", "other", "line", "batch"):
        for number in range(1, 13):
            await api.engine.wait(f"{name}-{number}", PATIENCE)
    found = (await api("GET", "/v1/deliveries?limit=250")).json["data"]
    return {each["event"]: each["state"] for each in found}


async def everything(api: Api) -> list[tuple[str, int]]:
    """The paths that do not answer 200, of the lists of the API and of whatever they name; with what they answer."""
    paths = ["/metrics", "/v1/tokens", "/readyz"]
    for name in ("events", "deliveries", "subscriptions", "event-types", "tenants"):
        answer = await api("GET", f"/v1/{name}?limit=250")
        assert 200 == answer.status, (name, answer.body)
        paths += [f"/v1/{name}/{each.get('id') or each.get('type') or each['tenant']}" for each in answer.json["data"]]
    paths += [f"{path}/stats" for path in paths if path.startswith("/v1/subscriptions/")]
    answers = [(path, await api("GET", path)) for path in paths]
    return [(path, answer.status) for path, answer in answers if answer.status != 200]


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The faults that were logged."""
    return [
        record.getMessage() for record in caplog.records if record.name == "hookengine" and record.msg.startswith("fault ")
    ]


@pytest.mark.parametrize(("first", "name"), [(1, "plain"), (25, "line"), (37, "batch")], ids=["alone", "lines", "batches"])
@pytest.mark.row("F37")
async def test_deliveries_are_given_up_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture, first: int, name: str) -> None:
    """A delivery whose row cannot be read ends as failed, with its name in the log, and all others arrive."""
    spoiled = dict(enumerate(DELIVERIES.values(), first + 1))
    async with Receiver() as receiver:
        await prepare(tmp_path, receiver.url)
        for seq, edit in spoiled.items():
            write(tmp_path / "hooks.db", f"UPDATE deliveries SET {edit} WHERE seq = {seq}")
        async with serving(tmp_path) as api:
            states = await until_done(api)

            failed = {f"{name}-{seq - first + 1}": "failed" for seq in spoiled}
            assert failed == {event: state for event, state in states.items() if state != "delivered"}
            assert [] == await everything(api)
    assert sorted(spoiled) == sorted(int(line.partition("(row ")[2].partition(")")[0]) for line in told(caplog))


@pytest.mark.parametrize("edit", MORE_DELIVERIES.values(), ids=MORE_DELIVERIES.keys())
async def test_delivery_is_given_up_where_it_is_the_only_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, edit: str
) -> None:
    """So it is where nothing else waits for its subscription: it is counted and announced, and what comes later arrives."""
    async with Receiver() as receiver:
        async with opened(tmp_path, gathers=lambda one: one.batch is not None) as place:
            await place.subscribe(id="ops", url=receiver.url, tenant=OURS, event_types=(DELIVERY_FAILED,))
            await place.subscribe(url=receiver.url)
            await place.subscribe(url=receiver.url, profile="clevertap", batch=Batching(max_events=2, max_wait=1))
            await place.publish(draft(id="spoiled", digest=b"x"))
        write(tmp_path / "hooks.db", f"UPDATE deliveries SET {edit}")
        async with serving(tmp_path) as api:
            event = await api.publish(tenant="acme")
            fresh = await api.engine.wait(event["id"], PATIENCE)
            spoiled = await api.engine.wait("spoiled", PATIENCE)  # after a commit, or it may read as the row has it

            assert (["failed"] * 2, ["delivered"] * 2) == ([each.state for each in spoiled], [each.state for each in fresh])
            stats = [await api.engine.stats(each.subscription) for each in spoiled]
            assert [(1, {"internal error": 1})] * 2 == [
                (each.deliveries.failed, each.deliveries.failed_labels) for each in stats
            ]
            announced = [await api.engine.event(each.id) for each in (await api.engine.events(tenant=OURS)).data]
            data = [json.loads(each.data) for each in announced]
            given_up = {(each.subscription, "spoiled", "internal error") for each in spoiled}
            assert given_up == {(each["subscription"], each["event"], each["failed_label"]) for each in data}
            assert all(each["delivery"].startswith("dlv_") for each in data)
            metrics = (await api("GET", "/metrics")).body.decode()
            assert 'hookengine_deliveries_finished_total{state="failed"} 2.0' in metrics
    assert 2 == len(told(caplog))


@pytest.mark.row("F37")
async def test_events_are_given_up_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An event whose row cannot be read is never sent: its delivery fails, with the row's name in the log."""
    spoiled = dict(enumerate(EVENTS.values(), 2))
    async with Receiver() as receiver:
        await prepare(tmp_path, receiver.url)
        for seq, edit in spoiled.items():
            write(tmp_path / "hooks.db", f"UPDATE events SET {edit} WHERE seq = {seq}")
        async with serving(tmp_path) as api:
            states = await until_done(api)

            failed = {f"plain-{seq}": "failed" for seq in spoiled}
            assert failed == {event: state for event, state in states.items() if state != "delivered"}
            assert [] == await everything(api)
            explained = [await api("GET", f"/v1/events/plain-{seq}/explain") for seq in spoiled]
            assert {"storage_corrupt"} == {answer.json["code"] for answer in explained}
        assert not failed.keys() & {request.header("webhook-id") for request in receiver.requests}
    assert [f"event plain-{seq} (row {seq})" for seq in spoiled] == [
        name for seq in spoiled for line in told(caplog) if (name := f"event plain-{seq} (row {seq})") in line
    ]


@pytest.mark.row("F37")
async def test_other_rows_keep_nothing_up(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever other rows hold, the engine starts, names each of them once, delivers, accepts, and answers."""
    numbered = [
        (script.replace("{n}", str(n)), where and where.format(n=n, r=n - BATCHED))
        for n, (script, where) in enumerate(ELSEWHERE.values(), BATCHED + 1)
    ]
    named = [where for _, where in numbered if where is not None]
    async with Receiver() as receiver:
        await prepare(tmp_path, receiver.url, idle=len(numbered))
        write(tmp_path / "hooks.db", "PRAGMA foreign_keys = OFF;" + ";".join(script for script, _ in numbered))
        async with serving(tmp_path) as api:
            states = await until_done(api)
            event = await api.publish("t1", tenant="acme")
            [fresh] = await api.engine.wait(event["id"], PATIENCE)

            assert {"delivered"} == {*states.values(), fresh.state}
            assert [] == await everything(api)
            async with asyncio.timeout(PATIENCE):
                while len(told(caplog)) < len(named):  # replays come one at a time, those that are spoiled first
                    await api("GET", "/v1/events?limit=1")
        lines = told(caplog)
    assert named == [where for where in named if 1 == len([line for line in lines if where in line])]
    assert len(lines) == len(named)


@pytest.mark.row("F37")
@pytest.mark.parametrize(
    ("edit", "failed"),
    [
        pytest.param("place = 0", {}, id="two heads"),
        pytest.param("batch = 123456789", {"line-2": "failed"}, id="in a batch as well"),
        pytest.param("place = 1", {"line-2": "failed"}, id="gathered as well"),
        pytest.param("due_at = 200000000000000", {"line-2": "failed"}, id="due in the year 8307"),
    ],
)
async def test_lines_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture, edit: str, failed: dict[str, str]) -> None:
    """Whatever is done to one delivery of a line, the others arrive once, in their order, and what is given up is named."""
    async with Receiver() as receiver:
        await prepare(tmp_path, receiver.url)
        write(tmp_path / "hooks.db", f"UPDATE deliveries SET {edit} WHERE seq = 26")
        async with serving(tmp_path) as api:
            states = await until_done(api)

        assert failed == {event: state for event, state in states.items() if state != "delivered"}
        ids = [request.header("webhook-id") for request in receiver.requests]
        assert [f"line-{n}" for n in range(1, 13) if f"line-{n}" not in failed] == [
            id_ for id_ in ids if (id_ or "").startswith("line")
        ]
    assert len(failed) == len([line for line in told(caplog) if "(row 26)" in line])


@pytest.mark.row("F37")
async def test_batch_takes_nothing_of_others(tmp_path: Path) -> None:
    """A delivery that was put into the batch of another subscription goes to its own, by itself; two heads go once."""
    async with Receiver() as receiver:
        await prepare(tmp_path, receiver.url)
        write(
            tmp_path / "hooks.db",
            "UPDATE deliveries SET place = 2, batch = 37 WHERE seq IN (2, 39); UPDATE deliveries SET place = 0, batch = 37"
            " WHERE seq IN (37, 38)",
        )
        async with serving(tmp_path) as api:
            states = await until_done(api)
            attempts = api.rows("SELECT count(*) FROM attempts GROUP BY delivery")

        assert {"delivered"} == set(states.values())
        assert 1 == [request.header("webhook-id") for request in receiver.requests].count("plain-2")
        assert [(1,)] * 48 == attempts


@pytest.mark.row("F37")
async def test_who_follows_nobody_leads(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where the head of a line was edited away, the next one leads, named in the log, and all arrive in their order."""
    async with Receiver() as receiver:
        await prepare(tmp_path, receiver.url)
        write(tmp_path / "hooks.db", "UPDATE deliveries SET line = 'elsewhere' WHERE seq = 25")
        async with serving(tmp_path) as api:
            states = await until_done(api)

        assert {"delivered"} == set(states.values())
        ids = [request.header("webhook-id") for request in receiver.requests]
        assert [f"line-{n}" for n in range(2, 13)] == [
            id_ for id_ in ids if id_ and id_.startswith("line") and id_ != "line-1"
        ]
    [line] = told(caplog)
    assert "(row 26) followed nobody; now it leads" in line


@pytest.mark.row("F37")
@pytest.mark.parametrize(
    "edit", ["statistics SET state = x'ff'", "statistics SET count = 'many'", "idempotency_keys SET status = 'x'"]
)
async def test_what_needs_the_row_names_it(tmp_path: Path, edit: str) -> None:
    """A request that needs a spoiled count or answer is told that it cannot be read."""
    key = {"Idempotency-Key": "k"}
    async with Receiver() as receiver, serving(tmp_path) as api:
        made = await api.subscribe(receiver.url)
        event = await api.made("/v1/events", {"type": "a", "data": 1}, headers=key)
        await api.engine.wait(event["id"], PATIENCE)
        await engines.edit(tmp_path, f"UPDATE {edit}")
        stats = await api("GET", f"/v1/subscriptions/{made['id']}/stats")
        again = await api("POST", "/v1/events", {"type": "a", "data": 1}, headers=key)

    spoiled, whole = (stats, again) if "statistics" in edit else (again, stats)
    assert (500, "storage_corrupt") == (spoiled.status, spoiled.json["code"])
    assert whole.status in {200, 202}


@pytest.mark.row("F37")
async def test_event_is_repeated_whatever_its_row_says(tmp_path: Path) -> None:
    """Who publishes an event again is answered as the first time, with what can be read of a row that was edited."""
    async with serving(tmp_path) as api:
        again = {"type": "a", "data": 1, "id": "again"}
        first = await api.made("/v1/events", again)
        await engines.edit(tmp_path, "UPDATE events SET type = x'61ff'")
        answer = await api("POST", "/v1/events", again)

    assert (202, first["id"], "a\\xff") == (answer.status, answer.json["id"], answer.json["type"])


@pytest.mark.row("F37")
async def test_counts_do_not_overflow(tmp_path: Path) -> None:
    """Counts beyond all are shown as many."""
    async with Receiver() as receiver, serving(tmp_path) as api:
        made = await api.subscribe(receiver.url)
        for _ in range(2):
            event = await api.publish()
            await api.engine.wait(event["id"], PATIENCE)
        edits = (
            "UPDATE statistics SET count = 9223372036854775807;"
            "INSERT INTO statistics SELECT subscription, hour - 1, state, label, status_code, error_code, bucket, count"
            " FROM statistics"
        )
        await engines.edit(tmp_path, edits)

        assert 200 == (await api("GET", f"/v1/subscriptions/{made['id']}/stats?since=1970-01-01T00:00:00Z")).status


async def test_spoiled_attempts_are_shown(tmp_path: Path) -> None:
    """Of an attempt whose request, answer or times cannot be read, the rest is shown."""
    async with Receiver() as receiver:
        await prepare(tmp_path, receiver.url)
        async with serving(tmp_path) as api:
            await until_done(api)
            [spoiled] = (await api("GET", "/v1/deliveries?event=plain-2")).json["data"]
            for edit in (
                "trigger = x'ff'", "number = x'ff'", "error_code = x'ff', error_detail = x'ff'", "request = 'oops'",
                "request = '[1]'", "response = x'ff'", "body = 'text'", "at = 'then'", "request = NULL"
            ):  # fmt: skip
                await engines.edit(tmp_path, f"UPDATE attempts SET {edit} WHERE delivery = 2")
                answer = await api("GET", f"/v1/deliveries/{spoiled['id']}")

                assert (200, 200) == (answer.status, answer.json["attempts"][0]["status_code"]), edit


async def test_unreadable_delivery_cannot_be_changed(tmp_path: Path) -> None:
    """Who asks for a change of a row that cannot be read is told which row that is, and nothing of the inside."""
    async with Receiver() as receiver:
        await prepare(tmp_path, receiver.url)
        write(tmp_path / "hooks.db", "UPDATE deliveries SET trigger = 'whim' WHERE seq = 2")
        async with serving(tmp_path) as api:
            await until_done(api)
            [spoiled] = (await api("GET", "/v1/deliveries?event=plain-2")).json["data"]
            answer = await api("POST", f"/v1/deliveries/{spoiled['id']}/retry")

    assert (500, "storage_corrupt") == (answer.status, answer.json["code"])
    assert f"delivery {spoiled['id']} (row 2)" in answer.json["detail"]
