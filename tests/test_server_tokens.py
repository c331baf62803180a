"""Tokens over HTTP: made once, shown once, one for each user, and what they open."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from api import Api, serving

from hookengine.clock import Clock
from hookengine.times import format_time, parse_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from api import Answer

pytestmark = pytest.mark.asyncio(loop_scope="module")

DEFAULT = ["events:read", "events:write", "subscriptions:read", "subscriptions:write"]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """One server for all tests here: each uses users of its own."""
    async with serving(tmp_path_factory.mktemp("tokens")) as made:
        yield made


async def create(api: Api, user: str, **members: Any) -> Any:
    """A new token, as it was answered."""
    return await api.made("/v1/tokens", {"user": user, **members})


async def listed(api: Api, user: str) -> Any:
    """The token of *user* as it reads now; None without one."""
    found = [each for each in (await api("GET", "/v1/tokens?limit=250")).json["data"] if each["user"] == user]
    return found[0] if found else None


# What ClearFeed's document says of its personal access tokens.


async def test_not_present_by_default(tmp_path: Path) -> None:
    """The document says: a token is not generated automatically for users, it must be manually created."""
    async with serving(tmp_path) as api:
        assert {"data": [], "next_cursor": None} == (await api("GET", "/v1/tokens")).json
        made = await create(api, "ann")

        assert ["ann"] == [each["user"] for each in (await api("GET", "/v1/tokens")).json["data"]]
        assert 200 == (await api("GET", "/v1/events", token=made["token"])).status


async def test_one_token_per_user(api: Api) -> None:
    """The document says: at any given point in time, only one token is available per user."""
    made = await create(api, "one")
    answer = await api("POST", "/v1/tokens", {"user": "one"})

    assert (409, "token_exists") == (answer.status, answer.json["code"])
    assert 200 == (await api("GET", "/v1/events", token=made["token"])).status
    answers = await asyncio.gather(*(api("POST", "/v1/tokens", {"user": "one-of-many"}) for _ in range(8)))
    assert [201] + [409] * 7 == sorted(each.status for each in answers)


async def test_deletion_and_regeneration(api: Api) -> None:
    """The document says: if a token is misplaced, it can be deleted and a new one can be generated."""
    first = await create(api, "again")
    assert 204 == (await api("DELETE", "/v1/tokens/again")).status
    assert 401 == (await api("GET", "/v1/events", token=first["token"])).status
    second = await create(api, "again")

    assert first["token"] != second["token"]
    assert [401, 200] == [(await api("GET", "/v1/events", token=each["token"])).status for each in (first, second)]


async def test_bearer_header(api: Api) -> None:
    """The document says: include the token in the Authorization header, as `Bearer YOUR_PERSONAL_ACCESS_TOKEN`."""
    token = (await create(api, "bearer"))["token"]

    async def ask(**headers: str) -> Answer:
        return await api("GET", "/v1/events", token="none", headers=headers)

    assert 200 == (await ask(Authorization=f"Bearer {token}")).status
    for wrong in (f"Basic {token}", token, f"Token {token}", f"Bearer {token[:-1]}"):
        assert 401 == (await ask(Authorization=wrong)).status
    assert 401 == (await api("GET", f"/v1/events?token={token}", token="none")).status


# Making and showing.


async def test_least_token(api: Api) -> None:
    """A user is enough: the token opens all that is not the operator's, of every tenant, for ever."""
    before = Clock().now()
    answer = await api("POST", "/v1/tokens", {"user": "least@example.com"})
    made = answer.json
    token = made.pop("token")

    assert (201, True, 68) == (answer.status, token.startswith("hke_"), len(token))
    assert ("least@example.com", DEFAULT, None, None, None) == tuple(
        made[name] for name in ("user", "scopes", "tenant", "expires_at", "last_used_at")
    )
    assert before <= parse_time(made["created_at"]) <= Clock().now()
    assert made == await listed(api, "least@example.com")


async def test_token_is_shown_once(api: Api) -> None:
    """Neither the list nor the file has the text of a token."""
    token = (await create(api, "once"))["token"]

    texts = [(await api("GET", "/v1/tokens?limit=250")).body, *(file.read_bytes() for file in api.folder.glob("hooks.db*"))]
    assert [] == [text for text in texts if token.encode() in text or token.removeprefix("hke_").encode() in text]
    assert [(32,)] == api.rows("SELECT length(digest) FROM tokens WHERE user = 'once'")


async def test_every_member(api: Api) -> None:
    """What is said reads as it was said, scopes in the documented order and once."""
    later = Clock().now() + 3_600_000
    made = await create(
        api, "most", scopes=["subscriptions:read", "events:read", "events:read"], tenant="acme", expires_at=format_time(later)
    )

    assert (["events:read", "subscriptions:read"], "acme", later) == (
        made["scopes"],
        made["tenant"],
        parse_time(made["expires_at"]),
    )


async def test_pages_of_tokens(api: Api) -> None:
    """Pages lead to each other, newest first."""
    for number in range(3):
        await create(api, f"page-{number}")
    first = (await api("GET", "/v1/tokens?limit=2")).json
    second = (await api("GET", f"/v1/tokens?limit=1&cursor={first['next_cursor']}")).json

    assert ["page-2", "page-1", "page-0"] == [each["user"] for each in first["data"] + second["data"]]
    assert 422 == (await api("GET", "/v1/tokens?user=x")).status


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param({}, [("/user", "missing_member")], id="nobody"),
        pytest.param([], [("", "invalid_type")], id="array"),
        pytest.param(
            {"user": "a b", "scopes": ["event:read"], "tenant": "", "expires_at": "soon", "x": 1},
            [
                ("/user", "invalid_value"),
                ("/scopes/0", "invalid_value"),
                ("/tenant", "invalid_value"),
                ("/expires_at", "invalid_value"),
                ("/x", "unknown_member"),
            ],
            id="everything",
        ),
        pytest.param({"user": "a", "expires_at": "2020-01-01T00:00:00Z"}, [("/expires_at", "invalid_value")], id="over"),
        pytest.param({"user": "a", "tenant": "b", "scopes": ["admin"]}, [("/scopes", "unbound_scope")], id="bound admin"),
    ],
)
async def test_mistakes(api: Api, body: Any, expected: list[tuple[str, str]]) -> None:
    """Every mistake is named, and nothing is stored."""
    before = api.rows("SELECT * FROM tokens")
    answer = await api("POST", "/v1/tokens", body)

    assert (422, expected) == (answer.status, answer.places)
    assert before == api.rows("SELECT * FROM tokens")


async def test_key_where_none_is_kept(api: Api) -> None:
    """A repetition could not be answered: the token is kept nowhere."""
    answer = await api("POST", "/v1/tokens", {"user": "keyed"}, headers={"Idempotency-Key": "x"})

    assert (400, "idempotency_key_not_supported") == (answer.status, answer.json["code"])
    assert await listed(api, "keyed") is None


@pytest.mark.parametrize("user", ["nobody", "a%2Fb", "%ff", "a%00", "%25", "%C3%A9", "a" * 3000])
async def test_delete_of_nobody(api: Api, user: str) -> None:
    """A user without a token is just not found, however it is written."""
    answer = await api("DELETE", f"/v1/tokens/{user}")

    assert (404, "token_not_found") == (answer.status, answer.json["code"])


async def test_odd_users_can_be_deleted(api: Api) -> None:
    """Every user that can have a token can be named in a path, percent-encoded or not."""
    for user, path in (("a+b@x.y:z-_", "a+b@x.y:z-_"), ("c+d", "c%2Bd"), ("0", "%30")):
        await create(api, user)
        assert 204 == (await api("DELETE", f"/v1/tokens/{path}")).status


# What they open.


async def test_operators_business(api: Api) -> None:
    """Tokens are made, seen and deleted by whoever has admin, and by nobody else."""
    plain = (await create(api, "plain"))["token"]
    admin = (await create(api, "admin", scopes=["admin"]))["token"]
    asked: list[tuple[str, str, Any]] = [
        ("GET", "/v1/tokens", None),
        ("POST", "/v1/tokens", {"user": "third"}),
        ("DELETE", "/v1/tokens/third", None),
    ]

    assert [403] * 3 == [(await api(*each, token=plain)).status for each in asked]
    assert [200, 201, 204] == [(await api(*each, token=admin)).status for each in asked]


async def test_scopes_open_what_they_name(api: Api) -> None:
    """A token that may only publish reads nothing."""
    token = (await create(api, "publisher", scopes=["events:write"]))["token"]

    assert 202 == (await api("POST", "/v1/events", {"type": "a", "data": 1}, token=token)).status
    for path in ("/v1/events", "/v1/subscriptions", "/v1/deliveries", "/v1/event-types"):
        assert 403 == (await api("GET", path, token=token)).status


async def test_bound_token_sees_its_tenant_only(api: Api) -> None:
    """What it makes is its tenant's, what it lists is, and another tenant may not be named."""
    token = (await create(api, "bound", tenant="bound-1"))["token"]
    await api.subscribe(tenant="bound-2")
    made = await api.made("/v1/subscriptions", {"url": "http://127.0.0.1:8099/"}, token=token)

    assert "bound-1" == made["tenant"]
    assert [made["id"]] == [each["id"] for each in (await api("GET", "/v1/subscriptions", token=token)).json["data"]]
    for method, path, body in (
        ("POST", "/v1/events", {"type": "a", "data": 1, "tenant": "bound-2"}),
        ("GET", "/v1/events?tenant=bound-2", None),
    ):
        assert 403 == (await api(method, path, body, token=token)).status


async def test_expired_token(api: Api) -> None:
    """A token opens until its time has come, and says then that it has; another is made once it is deleted."""
    clock, soon = Clock(), Clock().now() + 150
    token = (await create(api, "brief", expires_at=format_time(soon)))["token"]
    statuses = set()
    while clock.now() < soon:
        answer = await api("GET", "/v1/events", token=token)
        statuses.add(answer.status)
    answer = await api("GET", "/v1/events", token=token)

    assert 200 in statuses
    assert (401, "unauthorized", "Bearer") == (answer.status, answer.json["code"], answer.headers["WWW-Authenticate"])
    assert "expired" in answer.json["detail"]
    assert 409 == (await api("POST", "/v1/tokens", {"user": "brief"})).status
    await api("DELETE", "/v1/tokens/brief")
    assert 201 == (await api("POST", "/v1/tokens", {"user": "brief"})).status


async def test_last_use(tmp_path: Path) -> None:
    """When a token was used is shown at once, without a write on the way, and outlasts a restart."""
    async with serving(tmp_path) as api:
        token = (await create(api, "ann"))["token"]
        assert (await listed(api, "ann"))["last_used_at"] is None
        before = Clock().now()
        await api("GET", "/v1/tokens", token=token)  # refused, but by somebody who got in
        shown = await listed(api, "ann")
        assert before <= parse_time(shown["last_used_at"]) <= Clock().now()
        assert [(None,)] == api.rows("SELECT last_used_at FROM tokens")
    async with serving(tmp_path) as api:
        assert shown == await listed(api, "ann")
        assert 200 == (await api("GET", "/v1/events", token=token)).status


async def test_owner_is_in_no_list(api: Api) -> None:
    """The token in `admin.token` is nobody's, and a user of that name is somebody else."""
    made = await create(api, "owner", scopes=["events:read"])

    assert (await listed(api, "owner"))["last_used_at"] is None
    assert 403 == (await api("GET", "/v1/tokens", token=made["token"])).status
    assert 204 == (await api("DELETE", "/v1/tokens/owner")).status
    assert 200 == (await api("GET", "/v1/tokens")).status
