"""Subscriptions over HTTP: what is taken and shown, what never is, and what their changes entail."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from api import Answer, Api, serving
from engines import Gate
from patience import PATIENCE
from standardwebhooks.webhooks import Webhook

from hookengine.clock import Clock
from hookengine.receiver import Receiver
from hookengine.times import format_time, parse_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.asyncio(loop_scope="module")

URL = "http://127.0.0.1:8099/hook"  # nobody listens there
LATER = format_time(Clock().now() + 86_400_000)
MERGE_PATCH = "application/merge-patch+json"
SECRET = "whsec_" + base64.b64encode(bytes(32)).decode()
OTHER_SECRET = "whsec_" + base64.b64encode(bytes([1]) * 24).decode()
PRIVATE_KEY = "whsk_" + base64.b64encode(bytes(32)).decode()

# Every member in its order, as it reads by default.
DEFAULTS: dict[str, Any] = {
    "name": None,
    "url": URL,
    "event_types": ["*"],
    "profile": "standard",
    "method": None,
    "headers": {},
    "auth": None,
    "timeout": None,
    "retry_schedule": None,
    "disable_after_failures": None,
    "while_disabled": "hold",
    "max_concurrency": 8,
    "rate_limit": None,
    "ordering": "none",
    "batch": None,
    "target_id": 0,
    "key_values": {},
    "metadata": {},
    "state": "active",
    "disabled_reason": None,
    "consecutive_failures": 0,
    "last_success_at": None,
    "last_failure_at": None,
}
SET = {
    "name": "Orders",
    "event_types": ["order.*", "user.created"],
    "profile": "svix",
    "method": "PUT",
    "timeout": "90s",
    "retry_schedule": ["500ms", "60s", "24h", "36h"],
    "disable_after_failures": 5,
    "while_disabled": "skip",
    "max_concurrency": 3,
    "metadata": {"team": {"name": "é", "n": [1, None, 2.5]}},
    "state": "disabled",
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """One server for all tests here: each uses subscriptions of its own."""
    async with serving(tmp_path_factory.mktemp("subscriptions")) as made:
        yield made


async def refused(api: Api, method: str, path: str, body: Any, **more: Any) -> Answer:
    """The answer to what must not be done, after which nothing has changed in the store."""
    statement = "SELECT id, version, settings, sealed, state, deleted_at FROM subscriptions"
    before = api.rows(statement)
    answer = await api(method, path, body, **more)
    assert 400 <= answer.status <= 499, answer.body
    assert before == api.rows(statement)
    return answer


def path_of(subscription: Any) -> str:
    """Where it is."""
    return f"/v1/subscriptions/{subscription['id']}"


async def shown(api: Api, subscription: Any) -> Any:
    """As it reads now."""
    return (await api("GET", path_of(subscription))).json


# Making and showing.


async def test_least_subscription(api: Api) -> None:
    """A URL is enough: all else has its default, and the secret is shown this once."""
    before = Clock().now()
    answer = await api("POST", "/v1/subscriptions", {"url": URL})
    made = answer.json

    assert (201, f"/v1/subscriptions/{made['id']}", '"1"') == (
        answer.status,
        answer.headers["Location"],
        answer.headers["ETag"],
    )
    assert DEFAULTS == {name: value for name, value in made.items() if name in DEFAULTS}
    assert {"id", "tenant", "created_at", "updated_at", "version", "secret"} == made.keys() - DEFAULTS.keys()
    assert (True, "default") == (made["id"].startswith("sub_"), made["tenant"])
    assert before <= parse_time(made["created_at"]) <= Clock().now()
    assert 32 == len(base64.b64decode(made.pop("secret").removeprefix("whsec_"), validate=True))
    assert made == await shown(api, made)
    assert made in (await api("GET", "/v1/subscriptions?limit=250")).json["data"]


async def test_every_member(api: Api) -> None:
    """What is set reads as it was written, durations in their largest whole unit."""
    made = await api.subscribe(URL, **SET)

    expected = SET | {"timeout": "90s", "retry_schedule": ["500ms", "1m", "1d", "36h"], "disabled_reason": "manual"}
    assert expected == {name: made[name] for name in expected}


@pytest.mark.parametrize(
    "name", [name for name in DEFAULTS if name != "url" and name in SET] + ["headers", "auth", "secret", "tenant"]
)
async def test_null_is_the_default(api: Api, name: str) -> None:
    """A member that is null is as if it were not there."""
    made = await api.subscribe(URL, **{name: None})

    assert DEFAULTS == {each: made[each] for each in DEFAULTS}
    assert made["secret"].startswith("whsec_")


async def test_credentials_are_never_shown(api: Api) -> None:
    """Header values read `***`, the password does not read at all, and the secret only where it is asked for."""
    auth = {"type": "basic", "username": "ann", "password": "pass-word-1"}
    made = await api.subscribe(URL, headers={"X-Api-Key": "key-value-1"}, auth=auth, secret=SECRET, name="credentials")

    texts = [
        (await api("GET", path_of(made))).body,
        (await api("GET", "/v1/subscriptions?limit=250")).body,
        (await api("PATCH", path_of(made), {"name": "credentials 2"})).body,
        (await api("POST", f"{path_of(made)}/disable")).body,
        (await api("POST", f"{path_of(made)}/enable")).body,
    ]

    assert ({"X-Api-Key": "***"}, {"type": "basic", "username": "ann"}, SECRET) == (
        made["headers"],
        made["auth"],
        made["secret"],
    )
    for text in texts:
        assert b"credentials" in text
        assert [] == [secret for secret in (b"key-value-1", b"pass-word-1", SECRET.encode(), b'"secret"') if secret in text]
    stored = b"".join(file.read_bytes() for file in api.folder.glob("hooks.db*"))
    assert [] == [secret for secret in (b"key-value-1", b"pass-word-1", SECRET.encode()) if secret in stored]


async def test_repetition_lacks_the_secret(api: Api) -> None:
    """A repetition with an Idempotency-Key is the same subscription, but does not tell its secret again."""
    key = {"Idempotency-Key": "sub-1"}
    first = await api("POST", "/v1/subscriptions", {"url": URL}, headers=key)
    again = await api("POST", "/v1/subscriptions", {"url": URL}, headers=key)
    other = await refused(api, "POST", "/v1/subscriptions", {"url": URL, "name": "x"}, headers=key)

    assert (201, first.headers["ETag"], "true", first.headers["Location"]) == (
        again.status,
        again.headers["ETag"],
        again.headers["Idempotent-Replayed"],
        again.headers["Location"],
    )
    assert {name: value for name, value in first.json.items() if name != "secret"} == again.json
    assert (422, "idempotency_mismatch") == (other.status, other.json["code"])


async def test_key_at_the_same_time(api: Api) -> None:
    """Many requests with one key make one subscription."""
    answers = await asyncio.gather(
        *(api("POST", "/v1/subscriptions", {"url": URL}, headers={"Idempotency-Key": "many"}) for _ in range(20))
    )

    assert [201] * 20 == [answer.status for answer in answers]
    assert 1 == len({answer.json["id"] for answer in answers})
    assert 1 == sum("secret" in answer.json for answer in answers)


@pytest.mark.parametrize("action", ["enable", "disable", "rotate-secret"])
async def test_key_where_none_is_kept(api: Api, action: str) -> None:
    """An Idempotency-Key on any other POST is refused: it would promise what is not kept."""
    made = await api.subscribe()

    answer = await refused(api, "POST", f"{path_of(made)}/{action}", None, headers={"Idempotency-Key": "x"})

    assert (400, "idempotency_key_not_supported") == (answer.status, answer.json["code"])


# Refusing.


RESERVED = (
    "Host",
    "Content-Length",
    "Transfer-Encoding",
    "TE",
    "Trailer",
    "Connection",
    "Keep-Alive",
    "Upgrade",
    "Expect",
    "Content-Encoding",
    "Content-Type",
    "Accept-Encoding",
    "Cookie",
    "Proxy-Authorization",
    "Proxy-X",
    "Sec-Fetch-Site",
    ":authority",
    "webhook-id",
    "webhook-x",
    "Webhook-Signature",
    "Date",
    "Via",
    "Forwarded",
    "X-Forwarded-For",
    "X-Forwarded-Host",
    "X-Real-IP",
    "Metadata-Flavor",
    "x-aws-ec2-metadata-token",
    "X-Metadata-Token",
    "X-HTTP-Method-Override",
    "HOST",
    "content-Disposition",
)
WRONG = [
    pytest.param({"url": None}, [("/url", "invalid_type")], id="I34-null"),
    pytest.param({"url": 5}, [("/url", "invalid_type")], id="I34-number"),
    pytest.param({"url": "http://["}, [("/url", "invalid_url")], id="no URL"),
    pytest.param({"url": "ftp://example.com/"}, [("/url", "invalid_url")], id="another scheme"),
    pytest.param({"url": "http://169.254.169.254/"}, [("/url", "invalid_url")], id="metadata"),
    pytest.param({"url": "https://user:word@example.com/"}, [("/url", "invalid_url")], id="credentials in the URL"),
    pytest.param({"event_types": []}, [("/event_types", "invalid_value")], id="no types"),
    pytest.param({"event_types": ["a"] * 101}, [("/event_types", "invalid_value")], id="I44"),
    pytest.param({"event_types": ["a" * 131]}, [("/event_types/0", "invalid_value")], id="I44-long"),
    pytest.param(
        {"event_types": ["a", "*.b", 3, "a.*.b", "a*", ""]},
        [(f"/event_types/{i}", "invalid_type" if i == 2 else "invalid_value") for i in range(1, 6)],
        id="I45",
    ),
    pytest.param({"event_types": ["(a+)+$"]}, [("/event_types/0", "invalid_value")], id="I45-regex"),
    pytest.param({"event_types": "a"}, [("/event_types", "invalid_type")], id="text for a list"),
    pytest.param({"name": "a\0b"}, [("/name", "invalid_value")], id="I15"),
    pytest.param({"name": "a" * 201}, [("/name", "invalid_value")], id="long name"),
    pytest.param({"tenant": "a b"}, [("/tenant", "invalid_value")], id="tenant"),
    pytest.param({"profile": "standart"}, [("/profile", "unknown_profile")], id="profile"),
    pytest.param({"profile": ""}, [("/profile", "unknown_profile")], id="empty profile"),
    pytest.param({"secret": "short"}, [("/secret", "invalid_secret")], id="secret without prefix"),
    pytest.param({"secret": "whsec_AAAA"}, [("/secret", "invalid_secret")], id="short secret"),
    pytest.param({"secret": ""}, [("/secret", "invalid_secret")], id="empty secret"),
    pytest.param({"method": "PATCH"}, [("/method", "invalid_value")], id="method"),
    pytest.param({"method": "post"}, [("/method", "invalid_value")], id="method in small letters"),
    pytest.param({"headers": []}, [("/headers", "invalid_type")], id="headers"),
    pytest.param({"headers": {"X-A": 1}}, [("/headers/X-A", "invalid_type")], id="header number"),
    *(
        pytest.param({"headers": {name: "x"}}, [(f"/headers/{shown}", "invalid_header_name")], id=f"I39-{id_}")
        for id_, name, shown in (
            ("space", "X A", "X A"),
            ("colon", "X:A", "X:A"),
            ("empty", "", ""),
            ("unicode", "X-é", "X-é"),
            ("long", "X" * 65, "X" * 65),
            ("slash", "X/A~", "X~1A~0"),
            ("newline", "X-A\n", "X-A\n"),
        )
    ),
    pytest.param({"headers": {"X" * 300: "x"}}, [("/headers/" + "X" * 99 + "…", "invalid_header_name")], id="I39-300"),
    *(
        pytest.param({"headers": {"X-A": value}}, [("/headers/X-A", "invalid_header_value")], id=f"I40-{id_}")
        for id_, value in (
            ("CR", "a\rb"),
            ("LF", "a\nb"),
            ("last LF", "a\n"),
            ("NUL", "a\0"),
            ("ESC", "a\x1b"),
            ("DEL", "a\x7f"),
            ("unicode", "é"),
            ("long", "a" * 2049),
        )
    ),
    pytest.param({"headers": {f"X-{i}": "x" for i in range(33)}}, [("/headers", "too_large")], id="I40-33 headers"),
    pytest.param({"headers": {f"X-{i}": "x" * 2000 for i in range(5)}}, [("/headers", "too_large")], id="I40-8 KB"),
    *(
        pytest.param({"headers": {name: "x"}}, [(f"/headers/{name}", "reserved_header")], id=f"I42-{name}")
        for name in RESERVED
    ),
    pytest.param(
        {"headers": {"svix-id": "x"}, "profile": "svix"}, [("/headers/svix-id", "reserved_header")], id="I42-of a profile"
    ),
    pytest.param(
        {"headers": {"X-A": "1", "x-a": "2", "X-a": "3"}},
        [("/headers/x-a", "duplicate_header"), ("/headers/X-a", "duplicate_header")],
        id="I43",
    ),
    pytest.param({"headers": {"X-A": "***"}}, [("/headers/X-A", "hidden_value")], id="hidden header"),
    pytest.param({"auth": {"type": "basic", "username": "a"}}, [("/auth/password", "missing_member")], id="no password"),
    pytest.param({"auth": {"username": "a", "password": "b"}}, [("/auth/type", "missing_member")], id="no type"),
    pytest.param(
        {"auth": {"type": "digest", "username": "a", "password": "b"}}, [("/auth/type", "invalid_value")], id="auth type"
    ),
    pytest.param(
        {"auth": {"type": "basic", "username": "a:b", "password": "c\n", "x": 1}},
        [("/auth/username", "invalid_value"), ("/auth/password", "invalid_value"), ("/auth/x", "unknown_member")],
        id="all of auth",
    ),
    pytest.param(
        {"auth": {"type": "basic", "username": "a", "password": "b"}, "headers": {"authorization": "x"}},
        [("/headers/authorization", "conflicting_auth")],
        id="two credentials",
    ),
    pytest.param({"timeout": 15}, [("/timeout", "invalid_type")], id="timeout number"),
    pytest.param({"timeout": "15"}, [("/timeout", "invalid_value")], id="timeout without a unit"),
    pytest.param({"timeout": "1.5s"}, [("/timeout", "invalid_value")], id="timeout fraction"),
    pytest.param({"timeout": "99ms"}, [("/timeout", "invalid_value")], id="timeout short"),
    pytest.param({"timeout": "301s"}, [("/timeout", "invalid_value")], id="timeout long"),
    pytest.param(
        {"retry_schedule": ["1s", "31d", "x"]},
        [("/retry_schedule/1", "invalid_value"), ("/retry_schedule/2", "invalid_value")],
        id="schedule",
    ),
    pytest.param({"retry_schedule": ["1s", "31d"]}, [("/retry_schedule/1", "invalid_value")], id="schedule long"),
    pytest.param({"retry_schedule": ["1s"] * 51}, [("/retry_schedule", "invalid_value")], id="51 retries"),
    pytest.param({"disable_after_failures": 0}, [("/disable_after_failures", "invalid_value")], id="never"),
    pytest.param({"disable_after_failures": True}, [("/disable_after_failures", "invalid_type")], id="I34-true"),
    pytest.param({"batch": {"max_events": 3}}, [("/batch", "unused_member")], id="batch of a profile without"),
    pytest.param(
        {"profile": "clevertap", "batch": {"max_events": 1001, "max_wait": "61m", "most": 1}},
        [("/batch/max_events", "invalid_value"), ("/batch/max_wait", "invalid_value"), ("/batch/most", "unknown_member")],
        id="batch",
    ),
    pytest.param(
        {"profile": "clevertap", "ordering": "fifo", "batch": {"max_events": 2}},
        [("/batch/max_events", "conflicting_ordering")],
        id="batch with fifo",
    ),
    pytest.param({"ordering": "lifo"}, [("/ordering", "invalid_value")], id="ordering"),
    *(
        pytest.param({"rate_limit": rate}, [("/rate_limit", "invalid_value")], id=f"rate {rate}")
        for rate in ("10", "0/s", "1.5/s", "10/ms", "-1/s", "10 / s", "9999999/s", "10/S", "")
    ),
    pytest.param({"rate_limit": 10}, [("/rate_limit", "invalid_type")], id="rate number"),
    pytest.param({"max_concurrency": 2**64}, [("/max_concurrency", "invalid_value")], id="2^64"),
    pytest.param({"max_concurrency": 1.5}, [("/max_concurrency", "invalid_type")], id="fraction"),
    pytest.param({"max_concurrency": 1001}, [("/max_concurrency", "invalid_value")], id="1001"),
    pytest.param({"while_disabled": "wait"}, [("/while_disabled", "invalid_value")], id="while_disabled"),
    pytest.param({"state": "held"}, [("/state", "invalid_value")], id="state"),
    pytest.param({"metadata": [1]}, [("/metadata", "invalid_type")], id="metadata"),
    pytest.param({"metadata": {"a": "x" * 16384}}, [("/metadata", "too_large")], id="large metadata"),
    pytest.param({"metadata": {"a": 2**64}}, [("/metadata/a", "invalid_value")], id="I08-ours"),
    pytest.param(
        {"id": "sub_1", "urll": 1, "data": {}},
        [("/id", "unknown_member"), ("/urll", "unknown_member"), ("/data", "unknown_member")],
        id="I35",
    ),
    pytest.param(
        {"url": "x", "event_types": ["a b"], "timeout": "1", "nme": "x", "headers": {"Host": "x", "Y Z": "x"}},
        [
            ("/url", "invalid_url"),
            ("/event_types/0", "invalid_value"),
            ("/timeout", "invalid_value"),
            ("/nme", "unknown_member"),
            ("/headers/Host", "reserved_header"),
            ("/headers/Y Z", "invalid_header_name"),
        ],
        id="all at once",
    ),
]


CHANGEABLE = [row for row in WRONG if isinstance(row.values[0], dict) and not {"tenant", "secret"} & row.values[0].keys()]


@pytest.mark.parametrize(("members", "places"), WRONG)
async def test_invalid(api: Api, members: dict[str, Any], places: list[tuple[str, str]]) -> None:
    """Every mistake is named with its place."""
    answer = await refused(api, "POST", "/v1/subscriptions", {"url": URL} | members)

    assert (422, sorted(places)) == (answer.status, sorted(answer.places))
    assert b"x" * 101 not in answer.body


@pytest.mark.parametrize(("members", "places"), CHANGEABLE)
async def test_invalid_patch(api: Api, members: dict[str, Any], places: list[tuple[str, str]]) -> None:
    """What must not be made must not become either."""
    made = await api.subscribe()
    if members.get("url", 0) is None:  # a null takes a member away
        places = [("/url", "missing_member")]

    answer = await refused(api, "PATCH", path_of(made), members)

    assert (422, sorted(places)) == (answer.status, sorted(answer.places))


@pytest.mark.parametrize(
    ("body", "places"),
    [
        pytest.param(b'{"url":"https://example.com/","metadata":{"a":1e400}}', [("/metadata/a", "invalid_value")], id="I06"),
        pytest.param(
            b'{"url":"https://example.com/","max_concurrency":1e400}', [("/max_concurrency", "invalid_type")], id="I06-integer"
        ),
        pytest.param(
            b'{"url":"https://example.com/","metadata":{"a":%s}}' % (b"9" * 5000), [("/metadata/a", "invalid_value")], id="I10"
        ),
        pytest.param(b"{}", [("/url", "missing_member")], id="I36"),
        pytest.param(b"[]", [("", "invalid_type")], id="I20-array"),
        pytest.param(b'"x"', [("", "invalid_type")], id="I20-string"),
    ],
)
async def test_invalid_texts(api: Api, body: bytes, places: list[tuple[str, str]]) -> None:
    """Numbers that we cannot hold, and what is no object, are named too."""
    answer = await refused(api, "POST", "/v1/subscriptions", body)

    assert (422, places) == (answer.status, answer.places)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        pytest.param(b'{"url":"a","url":"b"}', "duplicate_key", id="member twice"),
        pytest.param(b'{"url":"a","metadata":{"x":1,"x":2}}', "duplicate_key", id="twice further down"),
        pytest.param(b'{"url":"a","headers":{"X-A":"1","X-A":"2"}}', "duplicate_key", id="I43-same letters"),
        pytest.param(b"[" * 20_000, "json_too_deep", id="I18"),
        pytest.param(b'{"url":"\\ud800"}', "invalid_json", id="I13"),
    ],
)
async def test_malformed(api: Api, body: bytes, code: str) -> None:
    """In objects of ours a member is named once, however deep it is."""
    answer = await refused(api, "POST", "/v1/subscriptions", body)

    assert (400, code) == (answer.status, answer.json["code"])


# Changing.


@pytest.mark.parametrize("content_type", [MERGE_PATCH, "application/json"])
async def test_patch(api: Api, content_type: str) -> None:
    """A patch changes what it names and nothing else."""
    made = await api.subscribe(URL, metadata={"a": 1, "b": {"c": 2, "d": 3}}, event_types=["a", "b"])
    patch = {"name": "new", "metadata": {"b": {"c": None, "e": 4}}, "event_types": ["c"]}

    answer = await api("PATCH", path_of(made), patch, content_type=content_type)

    expected = made | {
        "name": "new",
        "metadata": {"a": 1, "b": {"d": 3, "e": 4}},
        "event_types": ["c"],
        "version": 2,
        "updated_at": answer.json["updated_at"],
    }
    del expected["secret"]
    assert (200, expected, '"2"') == (answer.status, answer.json, answer.headers["ETag"])
    assert expected == await shown(api, made)


@pytest.mark.parametrize("name", [name for name in SET if name not in {"state", "profile"}])
async def test_null_resets(api: Api, name: str) -> None:
    """Null takes a member back to its default."""
    made = await api.subscribe(URL, **{name: SET[name]})

    assert DEFAULTS[name] == (await api("PATCH", path_of(made), {name: None})).json[name]


async def test_hidden_headers_are_kept(api: Api) -> None:
    """Whoever sends back what was shown keeps the values; other values replace them, null takes them away."""
    async with Receiver() as receiver:
        made = await api.subscribe(receiver.url, headers={"X-A": " one ", "X-B": "two", "X-C": "3"}, tenant="kept")

        await api(
            "PATCH", path_of(made), {"headers": (await shown(api, made))["headers"] | {"X-B": "new", "X-C": None, "X-D": "4"}}
        )
        await api.publish(tenant="kept")

        [request] = await receiver.wait(1)
        assert ("one", "new", None, "4") == tuple(request.header(f"X-{letter}") for letter in "ABCD")
    wrong = await refused(api, "PATCH", path_of(made), {"headers": {"X-E": "***"}})
    assert [("/headers/X-E", "hidden_value")] == wrong.places


async def test_patch_keeps_the_password(api: Api) -> None:
    """The password that is not shown stays when the user name changes."""
    async with Receiver() as receiver:
        auth = {"type": "basic", "username": "ann", "password": "word"}
        made = await api.subscribe(receiver.url, auth=auth, tenant="password")

        answer = await api("PATCH", path_of(made), {"auth": {"username": "bob"}})
        await api.publish(tenant="password")

        [request] = await receiver.wait(1)
        assert {"type": "basic", "username": "bob"} == answer.json["auth"]
        assert "Basic " + base64.b64encode(b"bob:word").decode() == request.header("Authorization")


@pytest.mark.parametrize("patch", [{"tenant": "other"}, {"tenant": None}, {"secret": SECRET}, {"secret": None}])
async def test_what_cannot_change(api: Api, patch: dict[str, Any]) -> None:
    """The tenant never changes, and the secret only by rotation."""
    made = await api.subscribe(URL, tenant="fixed")

    answer = await refused(api, "PATCH", path_of(made), patch | {"urll": 1})

    assert {(f"/{next(iter(patch))}", "immutable_member"), ("/urll", "unknown_member")} == set(answer.places)


async def test_unknown_member_is_told_also_as_null(api: Api) -> None:
    """Whoever takes back a setting hears where there is none of that name; what is shown beside the settings is none."""
    made = await api.subscribe(URL, rate_limit="5/s")
    answer = await refused(api, "PATCH", path_of(made), {"ratelimit": None, "created_at": None, "name": None})

    assert [("/created_at", "unknown_member"), ("/ratelimit", "unknown_member")] == sorted(answer.places)


async def test_same_tenant_is_no_change(api: Api) -> None:
    """Naming the tenant that it has is fine."""
    made = await api.subscribe(URL, tenant="fixed")

    assert (200, 1) == ((answer := await api("PATCH", path_of(made), {"tenant": "fixed"})).status, answer.json["version"])


async def test_other_profile(api: Api) -> None:
    """A subscription may change its profile and keeps its secret."""
    made = await api.subscribe(URL, secret=PRIVATE_KEY)

    assert "svix" == (await api("PATCH", path_of(made), {"profile": "svix"})).json["profile"]
    assert PRIVATE_KEY == (await api("GET", f"{path_of(made)}/secret")).json["secret"]


async def test_empty_patch(api: Api) -> None:
    """A patch that changes nothing is no new version."""
    made = await api.subscribe()

    answer = await api("PATCH", path_of(made), {})

    assert (200, 1, made["updated_at"]) == (answer.status, answer.json["version"], answer.json["updated_at"])


# Versions.


CHANGES = [
    ("PATCH", "", {"name": "x"}),
    ("POST", "/disable", None),
    ("POST", "/enable", None),
    ("POST", "/rotate-secret", None),
    ("DELETE", "", None),
]


@pytest.mark.row("I70")
@pytest.mark.parametrize(("method", "action", "body"), CHANGES, ids=["PATCH", "disable", "enable", "rotate", "DELETE"])
@pytest.mark.parametrize(
    ("if_match", "status"),
    [
        pytest.param('"1"', 412, id="old"),
        pytest.param('"2"', 200, id="present"),
        pytest.param('"1", "2"', 200, id="list"),
        pytest.param(' "x" ,"2"', 200, id="list with others"),
        pytest.param('"a,b" , "2"', 200, id="list with a comma in one"),
        pytest.param('"1,2"', 412, id="comma in the only one"),
        pytest.param('"1", "3"', 412, id="list of others"),
        pytest.param("*", 200, id="any"),
        pytest.param('W/"2"', 412, id="weak"),
        pytest.param("2", 412, id="no quotes"),
        pytest.param('"02"', 412, id="other text"),
        pytest.param("", 412, id="empty"),
        pytest.param('"2', 412, id="half"),
        pytest.param('"2", x', 412, id="half a list"),
        pytest.param('"' + "9" * 5000 + '"', 412, id="5,000 digits"),
    ],
)
async def test_if_match(  # noqa: PLR0917  # a table and its fixture
    api: Api, method: str, action: str, body: Any, if_match: str, status: int
) -> None:
    """A change that names a version is made only of that one."""
    made = await api.subscribe(state="disabled" if action == "/enable" else None)
    before = (await api("PATCH", path_of(made), {"metadata": {"n": 1}})).json

    answer = await api(method, path_of(made) + action, body, headers={"If-Match": if_match})

    if status == 412:
        assert (412, "precondition_failed") == (answer.status, answer.json["code"])
        assert before == await shown(api, made)
    elif method == "DELETE":
        assert 204 == answer.status
    else:
        assert 200 == answer.status
        assert '"3"' == (await api("GET", path_of(made))).headers["ETag"]


@pytest.mark.row("I70")
async def test_concurrent_patches(api: Api) -> None:
    """Of many changes of one version exactly one is made; without a version all are."""
    made = await api.subscribe()
    matching = await asyncio.gather(
        *(api("PATCH", path_of(made), {"metadata": {str(n): n}}, headers={"If-Match": '"1"'}) for n in range(50))
    )
    await asyncio.gather(*(api("PATCH", path_of(made), {"metadata": {f"k{n}": n}}) for n in range(50)))
    after = await shown(api, made)

    assert [200] + [412] * 49 == sorted(answer.status for answer in matching)
    assert (52, 51) == (after["version"], len(after["metadata"]))


async def test_counters_are_no_version(api: Api) -> None:
    """What deliveries do to the counters changes no ETag."""
    async with Receiver([500, 200]) as receiver:
        made = await api.subscribe(receiver.url, retry_schedule=[], tenant="counters")
        for _ in range(2):
            accepted = await api.publish(tenant="counters")
            await api.engine.wait(accepted["id"], PATIENCE)
            answer = await api("GET", path_of(made))
            assert '"1"' == answer.headers["ETag"]

    assert (0, True, True) == (
        answer.json["consecutive_failures"],
        answer.json["last_failure_at"] is not None,
        answer.json["last_success_at"] >= answer.json["last_failure_at"],
    )


# Enabling and disabling.


@pytest.mark.parametrize("way", ["action", "patch", "action with an empty object"])
async def test_disable_and_enable(api: Api, way: str) -> None:
    """Disabled by hand it says so, enabled again it does not; twice is no further version."""
    made = await api.subscribe()

    async def set_state(state: str) -> Answer:
        if way == "patch":
            return await api("PATCH", path_of(made), {"state": state})
        action = "enable" if state == "active" else "disable"
        return await api("POST", f"{path_of(made)}/{action}", None if way == "action" else {})

    found = [await set_state(state) for state in ("disabled", "disabled", "active", "active")]

    assert [
        (200, "disabled", "manual", '"2"'),
        (200, "disabled", "manual", '"2"'),
        (200, "active", None, '"3"'),
        (200, "active", None, '"3"'),
    ] == [(answer.status, answer.json["state"], answer.json["disabled_reason"], answer.headers["ETag"]) for answer in found]


async def test_null_state_is_active(api: Api) -> None:
    """Null takes the state back to its default, too."""
    made = await api.subscribe(state="disabled")

    assert "active" == (await api("PATCH", path_of(made), {"state": None})).json["state"]


@pytest.mark.parametrize("way", ["action", "patch"])
async def test_enabling_flushes(api: Api, way: str) -> None:
    """Enabled by either way, the counters start anew and what was held is delivered, what was to wait still waits."""
    tenant = f"flush-{way}"
    async with Receiver([500, 200]) as receiver:
        made = await api.subscribe(receiver.url, tenant=tenant, retry_schedule=["1h"], disable_after_failures=1)
        first = await api.publish(tenant=tenant)
        await receiver.wait(1)
        async with asyncio.timeout(PATIENCE):
            while (before := await shown(api, made))["state"] == "active":
                pass
        second = await api.publish(tenant=tenant)
        later = await api.publish(tenant=tenant, deliver_at=LATER)
        held = (await api("GET", f"/v1/deliveries?tenant={tenant}&state=held")).json["data"]
        if way == "action":
            enabled = (await api("POST", f"{path_of(made)}/enable")).json
        else:
            enabled = (await api("PATCH", path_of(made), {"state": "active", "name": "again"})).json
        for event in (first, second):
            await api.engine.wait(event["id"], PATIENCE)
        waiting = (await api("GET", f"/v1/deliveries?tenant={tenant}&state=pending")).json["data"]

    assert ("failures", 1) == (before["disabled_reason"], before["consecutive_failures"])
    assert [later["id"], second["id"], first["id"]] == [delivery["event"] for delivery in held]
    assert {None} == {delivery["next_attempt_at"] for delivery in held}
    assert ("active", None, 0) == (enabled["state"], enabled["disabled_reason"], enabled["consecutive_failures"])
    assert [(later["id"], LATER)] == [(each["event"], each["next_attempt_at"]) for each in waiting]
    assert 3 == len(receiver.requests)


async def test_skipping(api: Api) -> None:
    """A disabled subscription that skips gets nothing of what comes meanwhile."""
    await api.subscribe(tenant="skip", while_disabled="skip", state="disabled")

    assert 0 == (await api.publish(tenant="skip"))["deliveries"]


@pytest.mark.parametrize("action", ["enable", "disable"])
@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{}", 200, None),
        (b"  ", 200, None),
        (b'{"force":true}', 422, "invalid"),
        (b"[]", 422, "invalid"),
        (b"{", 400, "invalid_json"),
        (b'{"a":1,"a":2}', 400, "duplicate_key"),
    ],
)
async def test_body_of_an_action(api: Api, action: str, body: bytes, status: int, code: str | None) -> None:
    """An action takes no members, and says so."""
    made = await api.subscribe()

    answer = await api("POST", f"{path_of(made)}/{action}", body)

    assert (status, code) == (answer.status, answer.json.get("code"))
    if b"force" in body:
        assert [("/force", "unknown_member")] == answer.places


@pytest.mark.parametrize("content_type", ["text/plain", None, "application/octet-stream"])
async def test_no_body_has_no_type(api: Api, content_type: str | None) -> None:
    """Without a body it does not matter what it would have been."""
    made = await api.subscribe()

    answer = await api("POST", f"{path_of(made)}/disable", b"", content_type=content_type)

    assert 200 == answer.status


# Deleting.


async def test_delete(api: Api) -> None:
    """A deleted subscription is gone, twice is 404, and its history stays readable as cancelled."""
    made = await api.subscribe(tenant="deleted", state="disabled")
    event = await api.publish(tenant="deleted")

    answer = await api("DELETE", path_of(made))

    assert (204, b"") == (answer.status, answer.body)
    cancelled = (await api("GET", "/v1/deliveries?tenant=deleted&state=cancelled")).json["data"]
    assert [(event["id"], made["id"])] == [(delivery["event"], delivery["subscription"]) for delivery in cancelled]
    assert cancelled == (await api("GET", f"/v1/deliveries?subscription={made['id']}")).json["data"]
    assert cancelled[0]["finished_at"] is not None
    for method, action, body in [*CHANGES, ("GET", "", None), ("GET", "/secret", None)]:
        gone = await api(method, path_of(made) + action, body)
        assert (404, "subscription_not_found") == (gone.status, gone.json["code"])
    assert [] == (await api("GET", "/v1/subscriptions?tenant=deleted")).json["data"]
    assert 0 == (await api.publish(tenant="deleted"))["deliveries"]


@pytest.mark.row("I69")
async def test_delete_during_a_delivery(api: Api) -> None:
    """A running attempt ends and is recorded; the state stays cancelled."""
    gate = Gate()
    async with Receiver(gate) as receiver:
        made = await api.subscribe(receiver.url, tenant="running")
        event = await api.publish(tenant="running")
        await gate.arrived()
        await api("DELETE", path_of(made))
        gate.open(200)
        [found] = (await api("GET", f"/v1/deliveries?event={event['id']}")).json["data"]
        async with asyncio.timeout(PATIENCE):
            while not (shown := (await api("GET", f"/v1/deliveries/{found['id']}")).json)["attempts"]:
                pass

    assert ("cancelled", ["accepted"]) == (shown["state"], [attempt["outcome"] for attempt in shown["attempts"]])


# Secrets.


async def test_secret(api: Api) -> None:
    """The secret can be asked for, and is the one that was told."""
    made = await api.subscribe()

    answer = await api("GET", f"{path_of(made)}/secret")

    assert (200, {"secret": made["secret"], "previous": []}) == (answer.status, answer.json)


async def test_public_key(api: Api) -> None:
    """With an Ed25519 key its public half is told too."""
    made = await api.subscribe(secret=PRIVATE_KEY)

    answer = await api("GET", f"{path_of(made)}/secret")

    assert ["secret", "previous", "public_key"] == list(answer.json)
    assert answer.json["public_key"].startswith("whpk_")


@pytest.mark.row("I72")
async def test_rotation(api: Api) -> None:
    """After a rotation both secrets verify until the overlap is over."""
    async with Receiver() as receiver:
        made = await api.subscribe(receiver.url, tenant="rotation")
        before = Clock().now()
        rotated = await api("POST", f"{path_of(made)}/rotate-secret", {"secret": OTHER_SECRET, "overlap": "2h"})
        await api.publish(tenant="rotation")
        [request] = await receiver.wait(1)
    headers = dict(request.headers)
    for secret in (made["secret"], OTHER_SECRET):
        Webhook(secret).verify(request.body, {name.lower(): value for name, value in headers.items()})

    [previous] = rotated.json["previous"]
    assert (200, OTHER_SECRET, made["secret"]) == (rotated.status, rotated.json["secret"], previous["secret"])
    assert before + 7_200_000 <= parse_time(previous["expires_at"]) <= Clock().now() + 7_200_000
    assert rotated.json == (await api("GET", f"{path_of(made)}/secret")).json
    assert '"2"' == (await api("GET", path_of(made))).headers["ETag"]


async def test_rotation_without_a_body(api: Api) -> None:
    """A rotation makes a secret of its own, and keeps the one before for a day, or till another asks for less."""
    made = await api.subscribe()

    first = (await api("POST", f"{path_of(made)}/rotate-secret")).json
    second = (await api("POST", f"{path_of(made)}/rotate-secret", {})).json
    third = (await api("POST", f"{path_of(made)}/rotate-secret", {"overlap": "0s"})).json

    assert 4 == len({made["secret"], first["secret"], second["secret"], third["secret"]})
    assert [first["secret"], made["secret"]] == [each["secret"] for each in second["previous"]]
    assert [] == third["previous"]
    ahead = parse_time(first["previous"][0]["expires_at"]) - Clock().now()
    assert 86_340_000 < ahead <= 86_400_000


@pytest.mark.parametrize(
    ("body", "places"),
    [
        ({"secret": "x"}, [("/secret", "invalid_secret")]),
        ({"secret": 1}, [("/secret", "invalid_type")]),
        ({"overlap": "soon"}, [("/overlap", "invalid_value")]),
        ({"overlap": 3}, [("/overlap", "invalid_type")]),
        (
            {"overlap": "-1s", "secret": "whsec_", "x": 1},
            [("/secret", "invalid_secret"), ("/overlap", "invalid_value"), ("/x", "unknown_member")],
        ),
        ([], [("", "invalid_type")]),
    ],
)
async def test_invalid_rotation(api: Api, body: Any, places: list[tuple[str, str]]) -> None:
    """Every mistake of a rotation is named, and nothing rotates."""
    made = await api.subscribe()

    answer = await refused(api, "POST", f"{path_of(made)}/rotate-secret", body)

    assert (422, sorted(places)) == (answer.status, sorted(answer.places))


# Lists.


async def test_lists(api: Api) -> None:
    """Subscriptions are found by tenant and state, newest first, a page at a time."""
    made = [await api.subscribe(tenant="listed", state=state) for state in ("active", "disabled", "active", "active")]
    await api.subscribe(tenant="unlisted")

    async def found(query: str) -> tuple[list[int], str | None]:
        page = (await api("GET", f"/v1/subscriptions?tenant=listed&{query}")).json
        return [[each["id"] for each in made].index(each["id"]) for each in page["data"]], page["next_cursor"]

    assert ([3, 2, 1, 0], None) == await found("")
    assert ([3, 2, 0], None) == await found("state=active")
    assert ([1], None) == await found("state=disabled")
    first, cursor = await found("limit=3")
    await api.subscribe(tenant="listed")
    assert ([3, 2, 1], ([0], None)) == (first, await found(f"limit=3&cursor={cursor}"))


@pytest.mark.parametrize(
    ("query", "places"),
    [("state=held", ["state"]), ("since=2026-01-01T00:00:00Z", ["since"]), ("limit=0&name=x", ["limit", "name"])],
)
async def test_wrong_parameters(api: Api, query: str, places: list[str]) -> None:
    """Every mistake in a query is named by its parameter."""
    answer = await api("GET", f"/v1/subscriptions?{query}")

    assert (422, sorted(places)) == (answer.status, sorted(place for place, _ in answer.places))


class Text(str):
    """A text of a class of its own, as libraries have them for names and for HTML."""

    __slots__ = ()


async def test_texts_of_other_classes(tmp_path: Path) -> None:
    """What a program gives the engine in texts of another class is shown over HTTP like any other."""
    async with serving(tmp_path) as api:
        given: dict[str, Any] = {
            "name": Text("n"),
            "tenant": Text("t"),
            "headers": {Text("X-A"): Text("b")},
            "metadata": {"a": Text("b")},
        }
        made = await api.engine.subscribe(Text("http://127.0.0.1:8099/hook"), **given)
        listed = await api("GET", "/v1/subscriptions")

        assert 200 == listed.status
        [shown] = listed.json["data"]
        assert (made.id, "n", "t", {"X-A": "***"}, {"a": "b"}) == tuple(
            shown[name] for name in ("id", "name", "tenant", "headers", "metadata")
        )
