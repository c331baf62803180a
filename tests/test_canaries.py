"""Twelve secrets, planted wherever one can be given, and looked for wherever something is written or shown."""

from __future__ import annotations

import ast
import asyncio
import base64
import logging
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from api import Api
from authorization import CLIENT_SECRET, PASSWORD, TokenServer
from engines import LOOPBACK, Journal
from patience import PATIENCE
from storage import files

from hookengine.config import Config
from hookengine.engine import DATABASE, TOKEN_FILE, Engine
from hookengine.models import AccessToken, BasicAuth, Request, Secret, SecretBytes, SigningSecret
from hookengine.receiver import Received, Receiver
from hookengine.vault import KEY_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(__file__).parent.parent / "hookengine"
KEY = b"canary-of-the-encryption-key-32b"
SIGNING = "whsec_" + base64.b64encode(b"canary-of-the-signing-secret").decode()
ROTATED = "whsec_" + base64.b64encode(b"canary-of-the-rotated-secret").decode()
TENANT = "canary-of-the-tenant-secret-of-clearfeed"
GIVEN = {
    "encryption key": base64.b64encode(KEY).decode(),
    "signing secret": SIGNING,
    "rotated secret": ROTATED,
    "tenant secret": TENANT,
    "header value": "canary-of-the-header",
    "basic password": "canary-of-the-basic-password",
    "client secret": CLIENT_SECRET,
    "oauth password": PASSWORD,
}


def forms(secret: str) -> set[bytes]:
    """A secret as it is, what it stands for, and as base64 would hide it, wherever in a text that begins."""
    found = {secret.encode()}
    if secret.startswith("whsec_"):
        found.add(base64.b64decode(secret.removeprefix("whsec_")))
    plain = set(found)
    for each in plain:
        for shift in range(3):
            hidden = base64.b64encode(b"x" * shift + each)
            found.add(hidden[4 : -4 if len(hidden) > 16 else None])
    return found | {base64.b64decode(GIVEN["encryption key"])} if secret == GIVEN["encryption key"] else found


def leaks(secrets: dict[str, str], places: dict[str, bytes]) -> list[tuple[str, str]]:
    """Which of *secrets* is in which of *places*."""
    return [
        (name, place)
        for name, secret in secrets.items()
        for place, content in places.items()
        if any(form in content for form in forms(secret))
    ]


@pytest.fixture
def own_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start engines with the planted encryption key."""
    monkeypatch.setenv(KEY_VARIABLE, GIVEN["encryption key"])


async def plant(api: Api, receiver: Receiver, server: TokenServer) -> list[Any]:
    """Give every secret to the API; the subscriptions that have them."""
    basic = {"type": "basic", "username": "ana", "password": GIVEN["basic password"]}
    one = await api.subscribe(receiver.url, secret=SIGNING, headers={"X-Api-Key": GIVEN["header value"]}, auth=basic)
    await api.made(f"/v1/subscriptions/{one['id']}/rotate-secret", {"secret": ROTATED})
    two = await api.subscribe(receiver.url, auth=server.auth(grant="password"))
    await api("PUT", "/v1/tenants/acme/secret", {"secret": TENANT})
    three = await api.subscribe(receiver.url, tenant="acme", profile="clearfeed")
    return [one, two, three]


async def answers(api: Api, subscriptions: list[Any]) -> dict[str, bytes]:
    """What everything answers that shows no secret by its contract, and what is told of wrong requests."""
    listed = ["events", "deliveries", "subscriptions", "event-types", "tenants", "tokens"]
    paths = [f"/v1/{name}" for name in listed] + [
        "/metrics",
        "/openapi.json",
        "/livez",
        "/readyz",
        "/docs",
        "/v1/tenants/acme",
    ]
    for name in ("events", "deliveries", "subscriptions"):
        paths += [f"/v1/{name}/{each['id']}" for each in (await api("GET", f"/v1/{name}?limit=250")).json["data"]]
    paths += [f"/v1/subscriptions/{each['id']}/stats" for each in subscriptions]
    paths += [f"{path}/explain" for path in paths if path.startswith("/v1/events/")]
    found = {path: await api("GET", path) for path in paths}
    assert {200} == {answer.status for answer in found.values()}, [p for p, a in found.items() if a.status != 200]
    for each in subscriptions:
        path = f"/v1/subscriptions/{each['id']}"
        found[f"test {path}"] = await api("POST", f"{path}/test", {})
        found[f"patch {path}"] = await api("PATCH", path, {"name": "n"})
        found[f"disable {path}"] = await api("POST", f"{path}/disable")
        found[f"enable {path}"] = await api("POST", f"{path}/enable")
    return {path: answer.body for path, answer in found.items()}


async def refusals(api: Api) -> dict[str, bytes]:
    """What is answered where a secret is given wrongly."""
    url = "https://example.com/"
    header, password = GIVEN["header value"], GIVEN["basic password"]
    wrong: dict[str, Any] = {
        "secret": {"url": url, "secret": SIGNING + "!"},
        "secret too long": {"url": url, "secret": SIGNING * 50},
        "secret of another type": {"url": url, "secret": [SIGNING]},
        "header": {"url": url, "headers": {"X-Api-Key": header + "\x01"}},
        "header list": {"url": url, "headers": {"X-Api-Key": [header]}},
        "reserved header": {"url": url, "headers": {"Authorization": header, "Host": header}},
        "password": {"url": url, "auth": {"type": "basic", "username": "a:b", "password": password + "\x00"}},
        "password of another type": {"url": url, "auth": {"type": "basic", "username": "a", "password": [password]}},
        "client secret": {"url": url, "auth": {"type": "oauth2", "client_secret": CLIENT_SECRET + "\x01", "grant": "x"}},
        "userinfo": {"url": f"https://ana:{password}@example.com/"},
        "userinfo of a proxy": {"url": url, "auth": {"type": "oauth2", "token_url": f"https://ana:{password}@x.example/"}},
        "malformed": b'{"url": "https://example.com/", "secret": "' + SIGNING.encode() + b'",,',
        "twice": b'{"secret": "' + SIGNING.encode() + b'", "secret": "' + SIGNING.encode() + b'"}',
    }
    found = {name: await api("POST", "/v1/subscriptions", body) for name, body in wrong.items()}
    assert not [name for name, answer in found.items() if not 400 <= answer.status <= 499], found
    other = {
        "tenant secret": await api("PUT", "/v1/tenants/acme/secret", {"secret": [TENANT]}),
        "token": await api("GET", "/v1/events", token=GIVEN["basic password"]),
        "token in the query": await api("GET", f"/v1/events?token={api.token}"),
    }
    return {name: answer.body for name, answer in (found | other).items()}


async def streamed(api: Api, publish: Any) -> bytes:
    """What the live stream tells while *publish* runs."""
    headers = {"Authorization": f"Bearer {api.token}"}
    async with aiohttp.ClientSession(headers=headers) as session, session.get(f"{api.engine.url}/v1/stream") as stream:
        await publish
        told = b""
        async with asyncio.timeout(PATIENCE):
            while told.count(b"event: attempt") < 3:
                told += await stream.content.readany()
        return told


def own_texts(engine: Engine) -> dict[str, bytes]:
    """How the parts of an engine and its records show themselves."""
    parts = engine._running
    writer, memory = parts.store.writer, parts.store.memory
    shown = [engine, parts.store, writer, writer._writing.vault, parts.dispatcher, parts.dispatcher._sender, parts.service]
    shown += [*memory.index, *memory.tenants.values(), *memory.access_tokens.values(), memory.tokens, memory.health]
    shown += [*parts.dispatcher._serving._served.values(), vars(parts.dispatcher._sender._bearers)]
    return {f"repr {number}": f"{each!r} {each}".encode() for number, each in enumerate(shown)}


@pytest.mark.usefixtures("own_key")
async def test_no_canary_is_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No planted secret is in any log, answer, stream, metric, text of a record, or byte of the data directory."""
    caplog.set_level(logging.DEBUG)
    journal = Journal()
    places: dict[str, bytes] = {}

    def once_refused(request: Received) -> int:
        """Every access token is refused until there is a second one."""
        return 401 if (request.header("authorization") or "").endswith("hush-access-1") else 200

    async with TokenServer() as server, Receiver(once_refused) as receiver:
        engine = Engine(tmp_path / DATABASE, config=Config(security=LOOPBACK), serve="127.0.0.1:0", logger=journal.logger)
        async with engine, aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
            api = Api(engine, tmp_path, session)
            subscriptions = await plant(api, receiver, server)
            made = await api.made("/v1/tokens", {"user": "ann"})

            async def publish() -> None:
                await api.publish(data={"n": 1})
                await api.publish(data={"n": 1}, tenant="acme")

            places["stream"] = await streamed(api, publish())
            places |= await answers(api, subscriptions) | await refusals(api) | own_texts(engine)
            secrets = GIVEN | {"admin token": api.token, "api token": made["token"]}
            places |= {f"{name}, open": content for name, content in files(tmp_path).items() if name != TOKEN_FILE}
        issued = server.issued[-1]
        places |= {name: content for name, content in files(tmp_path).items() if name != TOKEN_FILE}
    secrets |= {"access token": issued.access_token, "refresh token": str(issued.refresh_token)}
    places["journal"] = repr(journal.lines).encode()
    # Every library's, at debug level, but for that of the token server, which is the test's own.
    records = [record for record in caplog.records if not record.name.startswith("authlib")]
    places["log"] = "\n".join(f"{record.getMessage()} {record.__dict__!r}" for record in records).encode()

    assert 12 == len(secrets)
    assert any(request.header("x-api-key") == GIVEN["header value"] for request in receiver.requests)
    assert {"hooks.db, open", "hooks.db-wal, open", "hooks.db"} <= places.keys()
    assert [] == leaks(secrets, places)


def test_a_canary_that_is_there_is_found() -> None:
    """The search has teeth: it finds a secret in the middle of other bytes, decoded, and in base64 at any offset."""
    texts = {f"at {n}": base64.b64encode(b"x" * n + GIVEN["header value"].encode() + b"tail") for n in range(3)}
    texts |= {"plain": f"a{SIGNING}b".encode(), "decoded": b"-canary-of-the-signing-secret-", "clean": b"canary"}

    assert {"at 0", "at 1", "at 2", "plain", "decoded"} == {place for _, place in leaks(GIVEN, texts)}


def test_no_canary_is_in_what_the_commands_say(tmp_path: Path) -> None:
    """A start that fails, a check of the file and a diagnosis name neither the key nor the token that they were given."""
    environment = os.environ | {KEY_VARIABLE: GIVEN["encryption key"] + "!", "HOOKENGINE_TOKEN": "hkt_canary-of-the-token"}
    said = b""
    for arguments in (
        ["serve", "--data", str(tmp_path / "data"), "--listen", "127.0.0.1:0"],
        ["db", "check", "--data", str(tmp_path / "data")],
        ["doctor", "--data", str(tmp_path / "data")],
    ):
        ended = subprocess.run(
            [sys.executable, "-m", "hookengine", *arguments],
            capture_output=True,
            env=environment,
            timeout=PATIENCE,
            check=False,
        )
        said += ended.stdout + ended.stderr

    assert b"is not an encryption key" in said
    assert [] == leaks(GIVEN | {"token": "hkt_canary-of-the-token"}, {"said": said})


def test_records_do_not_show_their_secrets_in_tracebacks() -> None:
    """A traceback that shows local variables, as some hosts' do, shows no secret that a record of ours holds."""

    def fail(secret: SigningSecret, auth: BasicAuth, token: AccessToken, headers: Any, body: SecretBytes) -> None:
        raise ValueError(len(headers), secret.expires_at, auth.username, token.renew_at, len(body))

    canary = Secret("canary-of-a-traceback")
    try:
        fail(
            SigningSecret(value=canary),
            BasicAuth(username="ana", password=canary),
            AccessToken(value=canary, refresh_token=canary),
            (("x", canary),),
            SecretBytes(canary.encode()),
        )
    except ValueError as error:
        shown = "".join(traceback.TracebackException.from_exception(error, capture_locals=True).format())

    assert "capture" not in shown.partition("fail(")[0]
    assert "canary-of" not in shown.replace('Secret("canary-of-a-traceback")', "")


# How secrets are compared.

_SECRET_NAMES = ("secret", "signature", "token", "password", "mac")
_NOT_SECRETS = {"token_url", "token_type", "secret_scope", "has_token"}


def comparisons(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Comparisons by `==` and `!=` of two values of which one is called like a secret; constants are none."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Compare) or not isinstance(node.ops[0], ast.Eq | ast.NotEq):
            continue
        sides = [node.left, node.comparators[0]]
        if any(isinstance(side, ast.Constant) for side in sides):
            continue
        names = [ast.unparse(side).rpartition(".")[2].strip("()[]").lower() for side in sides]
        if any(name not in _NOT_SECRETS and any(word in name for word in _SECRET_NAMES) for name in names):
            yield node.lineno, ast.unparse(node)


# Each compares what the same person gave before and gives now, or decides nothing that a stranger could measure.
KNOWN = {
    "auth.py": {"name == UNSET_TOKEN[0]"},  # of headers
    "subscribing.py": {"each.value != secret"},
    "signing_keys.py": {"secret != secret.strip()"},
    "store/registry.py": {"secrets != before.secrets"},
}


@pytest.mark.parametrize("path", sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")))
def test_secrets_are_not_compared_by_equality(path: str) -> None:
    """What is called like a secret is compared in constant time, or by way of its hash."""
    found = {text for _, text in comparisons(ast.parse((PACKAGE / path).read_text()))}

    assert KNOWN.get(path, set()) == found


def test_comparisons_are_found() -> None:
    """The search has teeth."""
    source = "a.token == b\nsecrets != before.secrets\nx == y\ntoken == 'x'\nexpected_signature == given"

    assert [1, 2, 5] == [line for line, _ in comparisons(ast.parse(source))]


def test_requests_do_not_show_their_credentials() -> None:
    """The text of a request does not have the values of headers that hold credentials."""
    request = Request(method="POST", url="u", headers=(("X", Secret("canary")),), body=b"", hidden=frozenset({"x"}))

    assert "canary" not in repr(request)
