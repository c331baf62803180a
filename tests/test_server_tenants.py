"""Tenants over HTTP: plans and their limits, and the secrets that sign for a whole tenant."""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from api import Api, serving
from engines import edit, running
from patience import PATIENCE

from hookengine.clock import Clock
from hookengine.config import Plan
from hookengine.engine import Engine
from hookengine.errors import Invalid
from hookengine.receiver import Receiver
from hookengine.signing import verify
from hookengine.times import parse_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.asyncio(loop_scope="module")

URL = "http://127.0.0.1:8099/hook"  # nobody listens there
PLANS = {
    "pro": Plan(max_subscriptions=3),
    "business": Plan(max_subscriptions=20),
    "none": Plan(max_subscriptions=0),
    "all": Plan(),
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Api]:
    """One server for all tests here: each uses tenants of its own."""
    async with serving(tmp_path_factory.mktemp("tenants"), plans=PLANS) as made:
        yield made


async def put(api: Api, tenant: str, plan: str | None = None) -> Any:
    """A tenant on a plan, as it was answered."""
    answer = await api("PUT", f"/v1/tenants/{tenant}", {"plan": plan})
    assert answer.status in {200, 201}, answer.body
    return answer.json


async def subscribing(api: Api, tenant: str, **members: Any) -> int:
    """The status of an attempt to subscribe."""
    return (await api("POST", "/v1/subscriptions", {"url": URL, "tenant": tenant, **members})).status


# Tenants.


async def test_tenant_and_its_plan(api: Api) -> None:
    """A tenant is made by the first PUT, changed by the next, and reads with what its plan allows."""
    before = Clock().now()
    answers = [
        await api("PUT", "/v1/tenants/clarife", body) for body in ({}, {"plan": "pro"}, {"plan": "pro"}, {"plan": None})
    ]

    assert [201, 200, 200, 200] == [answer.status for answer in answers]
    assert [None, "pro", "pro", None] == [answer.json["plan"] for answer in answers]
    assert [None, 3, 3, None] == [answer.json["max_subscriptions"] for answer in answers]
    assert 1 == len({answer.json["created_at"] for answer in answers})
    assert answers[1].body == answers[2].body
    shown = (await api("GET", "/v1/tenants/clarife")).json
    assert answers[3].json == shown
    assert {"tenant", "plan", "subscriptions", "max_subscriptions", "created_at", "updated_at"} == shown.keys()
    assert before <= parse_time(shown["created_at"]) <= parse_time(shown["updated_at"]) <= Clock().now()


async def test_tenants_need_not_be_declared(api: Api) -> None:
    """Who was never named as a tenant can do everything, and is no tenant that is shown."""
    for _ in range(4):
        await api.subscribe(tenant="undeclared")
    answer = await api("GET", "/v1/tenants/undeclared")

    assert (404, "tenant_not_found") == (answer.status, answer.json["code"])
    assert 4 == (await put(api, "undeclared"))["subscriptions"]


async def test_pages_of_tenants(api: Api) -> None:
    """Pages lead to each other, newest first, and a change does not move a tenant."""
    for name in ("page-1", "page-2", "page-3"):
        await put(api, name)
    await put(api, "page-1", "pro")
    first = (await api("GET", "/v1/tenants?limit=2")).json
    second = (await api("GET", f"/v1/tenants?limit=1&cursor={first['next_cursor']}")).json

    assert ["page-3", "page-2", "page-1"] == [each["tenant"] for each in first["data"] + second["data"]]


@pytest.mark.parametrize(
    ("tenant", "body", "expected"),
    [
        pytest.param("a", {"plan": "pros"}, [("/plan", "unknown_plan")], id="unknown plan"),
        pytest.param("a", {"plan": ""}, [("/plan", "unknown_plan")], id="empty plan"),
        pytest.param("a", {"plan": 3}, [("/plan", "invalid_type")], id="number"),
        pytest.param("a", {"name": "A"}, [("/name", "unknown_member")], id="unknown member"),
        pytest.param("hookengine", {}, [("tenant", "reserved_tenant")], id="ours"),
        pytest.param("a%20b", {"plan": "x"}, [("tenant", "invalid_value"), ("/plan", "unknown_plan")], id="both"),
        pytest.param("a%2Fb", {}, [("tenant", "invalid_value")], id="slash"),
        pytest.param("a%00", {}, [("tenant", "invalid_value")], id="NUL"),
        pytest.param("%ff", {}, [("tenant", "invalid_value")], id="no UTF-8"),
        pytest.param("%C3%A9", {}, [("tenant", "invalid_value")], id="not of our letters"),
        pytest.param("a" * 65, {}, [("tenant", "invalid_value")], id="long"),
        pytest.param("%25", {}, [("tenant", "invalid_value")], id="percent"),
    ],
)
async def test_mistakes(api: Api, tenant: str, body: Any, expected: list[tuple[str, str]]) -> None:
    """Every mistake is named, in the path too, and nothing is stored."""
    before = api.rows("SELECT * FROM tenants")
    answer = await api("PUT", f"/v1/tenants/{tenant}", body)

    assert (422, expected) == (answer.status, answer.places)
    assert before == api.rows("SELECT * FROM tenants")


async def test_unknown_plan_has_a_suggestion(api: Api, tmp_path: Path) -> None:
    """Which plans there are is told, and that there are none where there are none."""
    answer = await api("PUT", "/v1/tenants/a", {"plan": "busines"})
    assert "did you mean 'business'?" in answer.json["errors"][0]["detail"]
    async with serving(tmp_path) as bare:
        answer = await bare("PUT", "/v1/tenants/a", {"plan": "pro"})

    assert "the configuration has no plans" == answer.json["errors"][0]["detail"]


# Limits.


async def test_plan_limits_subscriptions(api: Api) -> None:
    """Beyond the plan's number a subscription is refused with what the plan is, and other tenants do not notice."""
    await put(api, "limited", "pro")
    made = [await api.subscribe(tenant="limited") for _ in range(3)]
    before = api.counts()
    answer = await api("POST", "/v1/subscriptions", {"url": URL, "tenant": "limited"})

    assert (409, "subscription_limit_reached") == (answer.status, answer.json["code"])
    assert "the plan 'pro' lets the tenant limited have 3 subscriptions" == answer.json["detail"]
    assert before == api.counts()
    assert 3 == (await api("GET", "/v1/tenants/limited")).json["subscriptions"]
    assert 201 == await subscribing(api, "unlimited")
    await api("DELETE", f"/v1/subscriptions/{made[0]['id']}")
    assert [201, 409] == [await subscribing(api, "limited") for _ in range(2)]


async def test_many_at_once_do_not_pass(api: Api) -> None:
    """Requests that come together are counted one after the other."""
    await put(api, "rush", "pro")
    statuses = await asyncio.gather(*(subscribing(api, "rush") for _ in range(12)))

    assert [201] * 3 + [409] * 9 == sorted(statuses)


async def test_disabled_ones_count(api: Api) -> None:
    """Whoever disables a subscription has it still."""
    await put(api, "disabled", "pro")
    for _ in range(3):
        await api.subscribe(tenant="disabled", state="disabled")

    assert 409 == await subscribing(api, "disabled")


async def test_smaller_plan_removes_nothing(api: Api) -> None:
    """What there is stays and works, and there is no more until there is less; a larger plan helps at once."""
    made = [await api.subscribe(tenant="shrinking") for _ in range(4)]
    await put(api, "shrinking", "pro")
    shown = (await api("GET", "/v1/tenants/shrinking")).json

    assert (4, 3) == (shown["subscriptions"], shown["max_subscriptions"])
    assert 4 == (await api.publish(tenant="shrinking"))["deliveries"]
    assert 200 == (await api("PATCH", f"/v1/subscriptions/{made[0]['id']}", {"name": "x"})).status
    assert 200 == (await api("POST", f"/v1/subscriptions/{made[0]['id']}/disable")).status
    assert 200 == (await api("POST", f"/v1/subscriptions/{made[0]['id']}/enable")).status
    assert 409 == await subscribing(api, "shrinking")
    await put(api, "shrinking", "business")
    assert 201 == await subscribing(api, "shrinking")


@pytest.mark.parametrize(("plan", "status"), [("none", 409), ("all", 201), (None, 201)])
async def test_limits_of_nothing_and_without_end(api: Api, plan: str | None, status: int) -> None:
    """A plan may allow none at all, or any number."""
    await put(api, f"plan-{plan}", plan)

    assert status == await subscribing(api, f"plan-{plan}")


async def test_default_tenant_may_have_a_plan(tmp_path: Path) -> None:
    """Those who name no tenant are one as well."""
    async with serving(tmp_path, plans=PLANS) as api:
        await put(api, "default", "none")

        assert 409 == (await api("POST", "/v1/subscriptions", {"url": URL})).status


async def test_repetition_is_no_further_subscription(api: Api) -> None:
    """With an Idempotency-Key the first answer comes again, though the plan is full by now."""
    await put(api, "again", "pro")
    first, *others = [
        await api("POST", "/v1/subscriptions", {"url": URL, "tenant": "again"}, headers={"Idempotency-Key": f"again-{key}"})
        for key in (1, 2, 3, 1, 4)
    ]

    assert [201, 201, 201, 409] == [answer.status for answer in others]
    assert first.headers["Location"] == others[2].headers["Location"]


async def test_plan_outlasts_a_restart(tmp_path: Path) -> None:
    """A tenant's plan, and what it has of it, are there again; a plan that is configured no more limits nobody."""
    async with serving(tmp_path, plans=PLANS) as api:
        await put(api, "acme", "pro")
        for _ in range(3):
            await api.subscribe(tenant="acme")
    async with serving(tmp_path, plans=PLANS) as api:
        assert 409 == await subscribing(api, "acme")
    async with serving(tmp_path) as api:
        shown = (await api("GET", "/v1/tenants/acme")).json
        assert ("pro", None) == (shown["plan"], shown["max_subscriptions"])
        assert 201 == await subscribing(api, "acme")


async def test_deleted_tenant(api: Api) -> None:
    """Plan and secret are forgotten; subscriptions and tokens stay and go on."""
    await put(api, "leaving", "pro")
    for _ in range(3):
        await api.subscribe(tenant="leaving")
    await api("PUT", "/v1/tenants/leaving/secret")
    token = (await api.made("/v1/tokens", {"user": "leaving", "tenant": "leaving"}))["token"]

    assert [204, 404] == [(await api("DELETE", "/v1/tenants/leaving")).status for _ in range(2)]
    assert 404 == (await api("GET", "/v1/tenants/leaving/secret")).status
    assert 3 == (await api.publish(tenant="leaving"))["deliveries"]
    assert 3 == len((await api("GET", "/v1/subscriptions", token=token)).json["data"])
    assert 201 == await subscribing(api, "leaving")


# Secrets.


async def test_first_secret_is_made(api: Api) -> None:
    """Until it is set there is none; then it is `whsec_` and 32 random bytes, and reads as it was answered."""
    missing = await api("GET", "/v1/tenants/signing/secret")
    answer = await api("PUT", "/v1/tenants/signing/secret")
    made = answer.json

    assert (404, "tenant_secret_not_found") == (missing.status, missing.json["code"])
    assert (200, {"secret", "previous"}, []) == (answer.status, made.keys(), made["previous"])
    assert 32 == len(base64.b64decode(made["secret"].removeprefix("whsec_"), validate=True))
    assert made == (await api("GET", "/v1/tenants/signing/secret")).json
    assert None is (await api("GET", "/v1/tenants/signing")).json["plan"]
    assert made["secret"] == str(api.engine._running.store.memory.tenant_secrets("signing")[0].value)


async def test_secret_rotates(api: Api) -> None:
    """Each PUT puts a new secret in front; the one before is kept for a day, or as said, which is then the most of all."""
    before = Clock().now()
    bodies: list[Any] = [{"secret": "first secret"}, None, {"overlap": "1h"}, {"secret": "last", "overlap": "0s"}]
    first, second, third, last = [(await api("PUT", "/v1/tenants/rotating/secret", body)).json for body in bodies]

    assert ("first secret", []) == (first["secret"], first["previous"])
    assert ["first secret"] == [old["secret"] for old in second["previous"]]
    assert [second["secret"], "first secret"] == [old["secret"] for old in third["previous"]]
    hours = [(parse_time(old["expires_at"]) - before) // 3_600_000 for old in third["previous"]]
    assert [1, 1] == hours  # and some milliseconds
    assert ("last", []) == (last["secret"], last["previous"])


async def test_the_same_secret_again_is_no_rotation(api: Api) -> None:
    """A PUT that is repeated, as after a lost answer, changes nothing."""
    for body in ({"secret": "mine"}, {"secret": "mine", "overlap": "1h"}, {"secret": "mine", "overlap": "0s"}):
        await api("PUT", "/v1/tenants/same/secret", {"secret": "old"})
        first = await api("PUT", "/v1/tenants/same/secret", body)

        assert first.body == (await api("PUT", "/v1/tenants/same/secret", body)).body


async def test_our_own_tenant_may_sign(api: Api) -> None:
    """What the engine itself announces can be signed by a tenant's secret, which only an unbound admin sets."""
    writer = (await api.made("/v1/tokens", {"user": "ours", "scopes": ["subscriptions:write"]}))["token"]
    refused = await api("PUT", "/v1/tenants/hookengine/secret", {"secret": "mine"}, token=writer)
    answer = await api("PUT", "/v1/tenants/hookengine/secret", {"secret": "mine"})

    assert (422, [("tenant", "reserved_tenant")]) == (refused.status, refused.places)
    assert (200, "mine") == (answer.status, answer.json["secret"])
    assert 204 == (await api("DELETE", "/v1/tenants/hookengine/secret")).status
    assert 422 == (await api("PUT", "/v1/tenants/hookengine", {})).status


async def test_what_is_ours_is_for_unbound_admins(api: Api) -> None:
    """Whoever may not make a subscription of the engine's own tenant may not have, change, test or delete one either."""
    writer = (await api.made("/v1/tokens", {"user": "writer", "scopes": ["subscriptions:write"]}))["token"]
    await api("PUT", "/v1/tenants/hookengine/secret", {"secret": "mine"})
    made = await api.subscribe(tenant="hookengine", state="disabled")
    path = f"/v1/subscriptions/{made['id']}"
    asked = [
        *(("GET", f"{path}/secret"), ("POST", f"{path}/rotate-secret"), ("POST", f"{path}/test"), ("DELETE", path)),
        *(("POST", f"{path}/enable"), ("POST", f"{path}/disable")),
        *(("GET", "/v1/tenants/hookengine/secret"), ("DELETE", "/v1/tenants/hookengine/secret")),
    ]
    refused = [await api(method, path, token=writer) for method, path in asked]

    assert [(403, "forbidden")] * len(asked) == [(answer.status, answer.json["code"]) for answer in refused]
    assert 422 == (await api("PATCH", path, {"name": "x"}, token=writer)).status
    assert (made["id"], 1) == ((seen := (await api("GET", path)).json)["id"], seen["version"])
    assert "mine" == (await api("GET", "/v1/tenants/hookengine/secret")).json["secret"]
    assert 204 == (await api("DELETE", path)).status


async def test_deleted_secret(api: Api) -> None:
    """Neither the secret nor those before it sign, and a new one has none before it."""
    for _ in range(2):
        await api("PUT", "/v1/tenants/unsigning/secret")
    await put(api, "unsigning", "pro")

    assert [204, 404] == [(await api("DELETE", "/v1/tenants/unsigning/secret")).status for _ in range(2)]
    assert () == api.engine._running.store.memory.tenant_secrets("unsigning")
    assert "pro" == (await api("GET", "/v1/tenants/unsigning")).json["plan"]
    assert [] == (await api("PUT", "/v1/tenants/unsigning/secret")).json["previous"]


async def test_secrets_are_sealed(api: Api) -> None:
    """A secret is in no list and not readable in the file."""
    await api("PUT", "/v1/tenants/sealed/secret", {"secret": "very-secret-text"})

    texts = [(await api("GET", path)).body for path in ("/v1/tenants", "/v1/tenants/sealed")]
    texts += [file.read_bytes() for file in api.folder.glob("hooks.db*")]
    assert [] == [text for text in texts if b"very-secret-text" in text]


@pytest.mark.parametrize(
    ("tenant", "body", "expected"),
    [
        pytest.param("a", {"secret": ""}, [("/secret", "invalid_secret")], id="empty"),
        pytest.param("a", {"secret": "a\u0000"}, [("/secret", "invalid_secret")], id="not printable"),
        pytest.param(
            "a", {"secret": 5, "overlap": "x"}, [("/secret", "invalid_type"), ("/overlap", "invalid_value")], id="both"
        ),
        pytest.param("a", {"overlap": "-1h"}, [("/overlap", "invalid_value")], id="overlap"),
        pytest.param("a", {"previous": []}, [("/previous", "unknown_member")], id="unknown member"),
        pytest.param("a%2F..", {}, [("tenant", "invalid_value")], id="path"),
    ],
)
async def test_mistakes_in_secrets(api: Api, tenant: str, body: Any, expected: list[tuple[str, str]]) -> None:
    """Every mistake is named, and nothing is stored."""
    before = api.rows("SELECT * FROM tenants")
    answer = await api("PUT", f"/v1/tenants/{tenant}/secret", body)

    assert (422, expected) == (answer.status, answer.places)
    assert before == api.rows("SELECT * FROM tenants")
    assert b"a\\u0000" not in answer.body


async def test_secret_takes_no_idempotency_key(api: Api) -> None:
    """A key would promise that a repetition does not rotate again."""
    answer = await api("PUT", "/v1/tenants/a/secret", headers={"Idempotency-Key": "x"})

    assert (400, "idempotency_key_not_supported") == (answer.status, answer.json["code"])


async def test_secret_signs_from_the_next_request_on(api: Api) -> None:
    """Without a secret requests go unsigned; then each is signed with the one that is there, rotated or made anew."""
    async with Receiver() as receiver:
        made = await api.subscribe(receiver.url, profile="clearfeed", tenant="workspace")
        assert None is made["secret"]
        secrets: list[str | None] = []
        for number, (method, body) in enumerate(
            [("GET", None), ("PUT", {"secret": "first"}), ("PUT", {"secret": "second"}), ("DELETE", None), ("PUT", None)]
        ):
            await api(method, "/v1/tenants/workspace/secret", body)
            accepted = await api.publish("request.created", {"n": number}, tenant="workspace")
            await api.engine.wait(accepted["id"], PATIENCE)
            request = receiver.requests[-1]
            signs = [str(each.value) for each in api.engine._running.store.memory.tenant_secrets("workspace")][:1]
            assert bool(signs) == (request.header("X-CF-Signature") is not None)
            for secret in signs:
                verify(request.body, dict(request.headers), secret, profile="clearfeed", url=receiver.url)
            secrets += signs or [None]

    assert [None, "first", "second", None] == secrets[:4]
    assert str(secrets[4]).startswith("whsec_")


async def test_nothing_goes_out_unsigned_for_an_unreadable_secret(tmp_path: Path) -> None:
    """What a secret that does not open should have signed waits for a new one, and is signed by that."""
    async with Receiver() as receiver:
        async with serving(tmp_path) as api:
            await api.subscribe(receiver.url, profile="clearfeed", tenant="acme")
            await api.subscribe(receiver.url + "/other", profile="clearfeed", tenant="other")
            await api("PUT", "/v1/tenants/acme/secret")
        await edit(tmp_path, "UPDATE tenants SET sealed = x'00'")
        async with serving(tmp_path) as api:
            assert 404 == (await api("GET", "/v1/tenants/acme/secret")).status
            waiting = (await api.publish(tenant="acme"))["id"]
            await api.engine.wait((await api.publish(tenant="other"))["id"], PATIENCE)
            assert 3 == len(receiver.requests)  # two tests of the saves, and the other tenant's
            assert "cannot be read: set a new one" in (await api.engine.explain(waiting)).subscriptions[0].reason
            await api("PUT", "/v1/tenants/acme/secret", {"secret": "mended"})
            assert ["delivered"] == [each.state for each in await api.engine.wait(waiting, PATIENCE)]
            request = receiver.requests[-1]

        verify(request.body, dict(request.headers), "mended", profile="clearfeed", url=receiver.url)


async def test_secret_must_fit_profiles_of_ones_own(tmp_path: Path) -> None:
    """Where a profile of the configuration decodes the tenant's secret, a text that is no key is refused by its name."""
    (tmp_path / "config.toml").write_text(
        '[server]\nlisten = "127.0.0.1:0"\n[profiles.acme]\nextends = "standard"\nsecret_scope = "tenant"\n'
    )
    async with Engine.from_file(tmp_path / "config.toml", data=tmp_path) as engine:
        with pytest.raises(Invalid, match="the profile 'acme' cannot sign with it"):
            await engine.set_tenant_secret("a", secret="just a text")

        assert (await engine.set_tenant_secret("a")).secret.startswith("whsec_")


async def test_profile_must_fit_the_secret_that_is_there(tmp_path: Path) -> None:
    """A tenant's secret may be older than a profile: a subscription that it could not sign for is refused."""
    (tmp_path / "config.toml").write_text(
        '[server]\nlisten = "127.0.0.1:0"\n[profiles.acme]\nextends = "standard"\nsecret_scope = "tenant"\n'
    )
    async with running(tmp_path) as engine:
        await engine.set_tenant_secret("a", secret="just a text")
    async with Engine.from_file(tmp_path / "config.toml", data=tmp_path) as engine:
        made = await engine.subscribe("https://example.com/", tenant="a", event_types=["never"])
        for asked in (
            engine.subscribe("https://example.com/", tenant="a", profile="acme"),
            engine.update_subscription(made.id, profile="acme"),
        ):
            with pytest.raises(Invalid, match="/profile: set the tenant another secret, because here the secret"):
                await asked
        await engine.set_tenant_secret("a", overlap="0s")

        assert "acme" == (await engine.update_subscription(made.id, profile="acme")).profile


# Who may.


async def test_tenants_are_the_operators(api: Api) -> None:
    """Plans are changed and read by the operator alone, also one's own."""
    token = (await api.made("/v1/tokens", {"user": "customer", "tenant": "customer"}))["token"]
    await put(api, "customer", "pro")

    statuses = [
        (await api(method, path, body, token=token)).status
        for method, path, body in (
            ("GET", "/v1/tenants", None),
            ("GET", "/v1/tenants/customer", None),
            ("PUT", "/v1/tenants/customer", {"plan": "all"}),
            ("DELETE", "/v1/tenants/customer", None),
        )
    ]

    assert [403] * 4 == statuses
    assert 3 == (await api("GET", "/v1/tenants/customer")).json["max_subscriptions"]


async def test_secrets_are_the_tenants_own(api: Api) -> None:
    """Whoever may change a tenant's subscriptions may have its secret; another tenant's is not there."""
    token = (await api.made("/v1/tokens", {"user": "signer", "tenant": "signer"}))["token"]
    reader = (await api.made("/v1/tokens", {"user": "reader", "scopes": ["subscriptions:read"]}))["token"]
    made = (await api("PUT", "/v1/tenants/signer/secret", token=token)).json
    await api("PUT", "/v1/tenants/stranger/secret")

    assert made == (await api("GET", "/v1/tenants/signer/secret", token=token)).json
    for method in ("PUT", "GET", "DELETE"):
        assert 404 == (await api(method, "/v1/tenants/stranger/secret", token=token)).status
        assert 403 == (await api(method, "/v1/tenants/signer/secret", token=reader)).status
    assert [] == (await api("GET", "/v1/tenants/stranger/secret")).json["previous"]
    assert 204 == (await api("DELETE", "/v1/tenants/signer/secret", token=token)).status


async def test_tenant_needs_no_body(api: Api) -> None:
    """All members of a tenant may be left out, so its body may."""
    answer = await api("PUT", "/v1/tenants/plain")

    assert (201, None) == (answer.status, answer.json["plan"])
