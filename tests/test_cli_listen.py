"""`hookengine listen`, asked over loopback."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from verbs import Ended, alone
from yarl import URL

from hookengine.cli import listening
from hookengine.cli import main as run_verb
from hookengine.cli.api import DEFAULT_DATA
from hookengine.cli.listen import look_up
from hookengine.cli.listening import Journal, Names, Plan, carriers, document, greeting, listen, names_of
from hookengine.clock import Clock
from hookengine.engine import Engine
from hookengine.receiver import Received, Receiver, Reply
from hookengine.schemes import SCHEMES
from hookengine.signing import sign

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
BODY = b'{"type":"order.created","data":{"n":1.10}}'
HERE = "http://127.0.0.1:9000"


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The verbs run in an empty directory."""
    alone(monkeypatch, tmp_path)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """A client that sends requests, with nothing of its own in them."""
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        yield session


def plan(**changes: Any) -> Plan:
    """What `hookengine listen 0` does by itself, but for *changes*."""
    given: dict[str, Any] = {
        "port": 0,
        "profile": "standard",
        "secrets": [SECRET],
        "typed": SECRET,
        "statuses": [200],
        "delay": 0.0,
        "fail_rate": 0.0,
        "forward_to": None,
        "public_url": None,
        "subscription": None,
        "as_json": False,
        "data": DEFAULT_DATA,
    }
    return Plan(**(given | changes))


def signed(secret: str = SECRET) -> dict[str, str]:
    """The headers of a request of the standard profile."""
    now = Clock().now() // 1000
    made = sign(
        SCHEMES["standard"], [secret], id="evt_1", timestamp=now, body=BODY, method="POST", url="", event_timestamp=now
    )
    return dict(made)


def received(**changes: Any) -> Received:
    """A request that has arrived."""
    given: dict[str, Any] = {
        "number": 1,
        "at": 1_700_000_000_000,
        "method": "POST",
        "path": "/hook",
        "headers": (("webhook-id", "evt_1"),),
        "body": BODY,
        "verified": True,
    }
    return Received(**(given | changes))


@asynccontextmanager
async def listener(capsys: pytest.CaptureFixture[str], **changes: Any) -> AsyncIterator[str]:
    """The URL of a running `listen`, whose greeting was read off; it is told to stop at the end, and does."""
    told = asyncio.Event()
    running = asyncio.create_task(listen(plan(**changes), told))
    said = ""
    async with asyncio.timeout(10):
        while "Listening on" not in said:
            await asyncio.sleep(0)
            said += capsys.readouterr().err
            if running.done():
                await running
    try:
        yield said.split()[2]
    finally:
        told.set()
        async with asyncio.timeout(10):
            await running


# What it says of a request.


async def test_signature_is_judged(capsys: pytest.CaptureFixture[str], http: aiohttp.ClientSession) -> None:
    """A request is shown with method, path, type, id, size and verdict, and then its answer."""
    async with listener(capsys) as url:
        await http.post(f"{url}/hook?a=1", data=BODY, headers=signed())
    shown = capsys.readouterr().out.splitlines()

    assert re.fullmatch(r"..:..:..  #1  --> POST /hook\?a=1  order\.created  evt_1  42 B  ✓ verified", shown[0])
    assert re.fullmatch(r"..:..:..  #1  <-- 200", shown[1])


async def test_refusal_is_explained_and_advised_once(capsys: pytest.CaptureFixture[str], http: aiohttp.ClientSession) -> None:
    """Each refusal says why; what to do is said for the first of a kind."""
    async with listener(capsys) as url:
        for headers in (signed(OTHER), signed(OTHER), {}):
            await http.post(url, data=BODY, headers=headers)
    ended = capsys.readouterr()

    assert ["no signature fits", "no signature fits", "the header webhook-signature"] == [
        re.split(r":| is", line.strip())[0] for line in ended.out.splitlines()[1::3]
    ]
    assert 3 == ended.out.count("✗ not verified")
    assert ["Compare the secret", "Is it the sender's"] == [line.strip()[:18] for line in ended.err.splitlines()]


def test_what_nobody_signs_is_not_called_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    """A request of a profile that signs nothing is shown as that, and not as refused."""
    journal = Journal("clevertap", as_json=False, done=lambda: None)
    journal.arrived(received(verified=False, reason="no_secret", detail="the receiver has no secret to verify with"))
    [line] = capsys.readouterr().out.splitlines()

    assert line.endswith("· not signed, as its profile has it")


async def test_subscription_without_a_secret_gets_its_tenants(
    capsys: pytest.CaptureFixture[str], http: aiohttp.ClientSession
) -> None:
    """Who named a subscription that has no secret is told where it gets one, and not to name it."""
    async with listener(capsys, subscription="sub_1", profile="clearfeed", secrets=[]) as url:
        await http.post(url, data=BODY)

    assert "`hookengine tenant secret set TENANT`" in (shown := capsys.readouterr().err)
    assert "--subscription" not in shown


async def test_terminal_is_not_driven_by_a_request(capsys: pytest.CaptureFixture[str]) -> None:
    """Control characters of a sender are shown as escapes."""
    journal = Journal("standard", as_json=False, done=lambda: None)
    journal.arrived(received(body=b'{"type":"a\\u001b[2J"}', verified=False, reason="no_match", detail="x\x1b"))
    shown = capsys.readouterr().out

    assert r"a\x1b[2J" in shown
    assert "\x1b[2J" not in shown


async def test_request_in_json(capsys: pytest.CaptureFixture[str], http: aiohttp.ClientSession) -> None:
    """For programs each request is an object on a line, with its headers, body, verdict and answer."""
    async with listener(capsys, as_json=True, statuses=[503]) as url:
        await http.post(f"{url}/hook", data=BODY + b"\xff", headers=signed())
    [line] = capsys.readouterr().out.splitlines()
    shown = json.loads(line)

    assert BODY.decode() + "\\xff" == shown["body"]
    assert {"method": "POST", "path": "/hook", "size": 43, "id": "evt_1", "verified": False, "reason": "no_match"}.items() <= (
        shown.items()
    )
    assert (503, ["webhook-id", "evt_1"]) == (shown["status"], next(h for h in shown["headers"] if h[0] == "webhook-id"))


@pytest.mark.parametrize("as_json", [False, True])
async def test_sender_who_does_not_wait(
    capsys: pytest.CaptureFixture[str], http: aiohttp.ClientSession, *, as_json: bool
) -> None:
    """A request whose sender leaves before the answer is shown as that."""
    shown = ""
    async with listener(capsys, as_json=as_json, delay=60) as url, asyncio.timeout(10):
        with pytest.raises(TimeoutError):
            await http.post(url, data=BODY, timeout=aiohttp.ClientTimeout(total=0.2))
        while ("no answer" if not as_json else '"status": null') not in shown:
            await asyncio.sleep(0)
            shown += capsys.readouterr().out

    assert shown


@pytest.mark.parametrize(
    ("profile", "changes", "expected"),
    [
        ("standard", {}, ("order.created", "evt_1")),
        ("standard", {"headers": ()}, ("order.created", None)),
        ("standard", {"body": b"no JSON"}, (None, "evt_1")),
        ("standard", {"body": b"[" * 100_000}, (None, "evt_1")),
        ("standard", {"body": b'{"type": 1}'}, (None, "evt_1")),
        ("clarife", {"body": b'{"id":"evt_2","type":"a.b"}'}, ("a.b", "evt_2")),
        ("of our own", {"body": b'["type"]'}, (None, None)),
    ],
)
def test_event_is_named(profile: str, changes: dict[str, Any], expected: tuple[str | None, str | None]) -> None:
    """Type and id come from the profile's headers, else from the body, and may be missing."""
    assert expected == names_of(received(**changes), carriers(profile))


def test_headers_of_a_profile_name_the_event() -> None:
    """A header that carries the type or the id is read, and where it is missing, the body."""
    headers = (("X-Topic", "a.b"),)

    assert ("a.b", None) == names_of(received(headers=headers), {"{type}": "x-topic", "{id}": "x-id"})
    assert {"{id}": "webhook-id", "{attempt}": "webhook-attempt"} == carriers("standard")


def test_nothing_is_lost_of_a_request_in_json() -> None:
    """The object has every member, also where there is nothing to say."""
    shown = document(received(body=b""), Names(None, "evt_1"), 200)

    assert ("2023-11-14T22:13:20.000Z", "", 0, None, "evt_1") == tuple(
        shown[name] for name in ("at", "body", "size", "type", "id")
    )


async def test_closed_pipe_ends_it() -> None:
    """When what reads the lines has gone, there is nothing more to do."""

    class Closed:
        def write(self, _: str) -> None:
            raise BrokenPipeError

    done: list[bool] = []
    journal = Journal("standard", as_json=False, done=lambda: done.append(True))
    before, sys.stdout = sys.stdout, Closed()
    try:
        journal.answered(received(), Reply())
    finally:
        sys.stdout = before

    assert [True] == done


# What it answers.


async def statuses(http: aiohttp.ClientSession, url: str, count: int) -> list[int]:
    """What *count* requests in turn are answered."""
    found = []
    for _ in range(count):
        async with http.post(url, data=BODY) as answer:
            found.append(answer.status)
    return found


async def test_statuses_are_answered_in_turn(capsys: pytest.CaptureFixture[str], http: aiohttp.ClientSession) -> None:
    """A script of statuses repeats its last."""
    async with listener(capsys, statuses=[500, 429, 200]) as url:
        assert [500, 429, 200, 200] == await statuses(http, url, 4)


async def test_part_of_the_requests_fails() -> None:
    """By the fail rate, chance answers 500, and the script goes on for the others."""
    chances = iter([0.29, 0.31, 0.0, 0.9])
    steps = listening.script([201], delay=0, fail_rate=0.3, forward=None, random=lambda: next(chances))
    step: Any = steps[0]

    assert [500, 201, 500, 201] == [step(received()).status for _ in range(4)]


async def test_delay_is_of_every_answer() -> None:
    """The delay belongs to the scripted answers, the failures and the forwarded ones."""

    async def other(_: Received) -> Reply:
        return Reply(status=202)

    plain: Any = listening.script([200], delay=2, fail_rate=0, forward=None, random=lambda: 0.5)[0]
    failing: Any = listening.script([200], delay=2, fail_rate=1, forward=other, random=lambda: 0.5)[0]
    passed: Any = listening.script([200], delay=2, fail_rate=0, forward=other, random=lambda: 0.5)[0]
    replies = [plain, await failing(received()), await passed(received())]

    assert [(200, 2), (500, 2), (202, 2)] == [(reply.status, reply.delay) for reply in replies]


async def test_request_is_passed_on_as_it_came(capsys: pytest.CaptureFixture[str], http: aiohttp.ClientSession) -> None:
    """Method, target, headers and bytes reach the other server, and its answer comes back with status, headers and bytes."""
    coded = gzip.compress(b"hello")
    answer = Reply(status=418, headers=(("Content-Encoding", "gzip"), ("X-A", "1"), ("X-A", "2")), body=coded)
    async with Receiver(answer, secret=SECRET) as target, listener(capsys, forward_to=target.url) as url:
        async with http.put(URL(f"{url}/a%2Fb?c=%7E", encoded=True), data=BODY, headers=signed() | {"X-Own": "é"}) as response:
            found = (response.status, response.headers.getall("X-A"), await response.read())
        [request] = target.requests

    assert (418, ["1", "2"], coded) == found
    assert ("PUT", "/a%2Fb?c=%7E", BODY, True, "é") == (
        request.method,
        request.path,
        request.body,
        request.verified,
        request.header("x-own"),
    )
    assert url.removeprefix("http://") == request.header("host")


async def test_target_with_a_path_gets_all_requests_there(
    capsys: pytest.CaptureFixture[str], http: aiohttp.ClientSession
) -> None:
    """A path that is given for the other server takes the place of the request's; a redirect is passed back, not followed."""
    answer = Reply(status=302, headers=(("Location", "/elsewhere"),))
    async with Receiver(answer) as target, listener(capsys, forward_to=f"{target.url}/hook?x=1") as url:
        response = await http.post(f"{url}/any", data=BODY, allow_redirects=False)

    assert (302, ["/hook?x=1"]) == (response.status, [request.path for request in target.requests])


@pytest.mark.parametrize("path", ["/a?", "/?", "/a??", "/a?b&", "//a", "/"])
async def test_empty_query_is_passed_on(capsys: pytest.CaptureFixture[str], path: str) -> None:
    """What was asked for stays as it is, the query that is empty too, as does that of the other server's URL."""
    async with Receiver(secret=SECRET) as target, Receiver() as other, aiohttp.ClientSession() as http:
        async with listener(capsys, forward_to=target.url) as url:
            await http.post(URL(url).with_path(path, encoded=True), data=BODY, headers=signed())
        async with listener(capsys, forward_to=other.url + path) as url:
            await http.post(f"{url}/else", data=BODY)

    assert path == target.requests[0].path
    assert ("/else" if path in {"/", "/?"} else path) == other.requests[0].path


async def test_target_that_is_down_is_502(capsys: pytest.CaptureFixture[str], http: aiohttp.ClientSession) -> None:
    """Where the other server gives no answer, the sender gets 502 and the terminal says why."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    async with listener(capsys, forward_to=f"http://127.0.0.1:{port}") as url:
        assert [502] == await statuses(http, url, 1)

    assert f"http://127.0.0.1:{port} gave no answer: " in capsys.readouterr().err


# How it starts and ends.


@pytest.mark.parametrize(
    ("changes", "secret", "expected"),
    [
        pytest.param({}, SECRET, ["http://127.0.0.1:9000/", "--secret", SECRET], id="given"),
        pytest.param({"typed": "@file"}, SECRET, ["http://127.0.0.1:9000/", "--secret", "@file"], id="file"),
        pytest.param({"typed": None}, OTHER, ["http://127.0.0.1:9000/", "--secret", OTHER], id="made"),
        pytest.param(
            {"profile": "clevertap", "typed": None}, None, ["http://127.0.0.1:9000/", "--profile", "clevertap"], id="unsigned"
        ),
        pytest.param(
            {"public_url": "https://t.example/x", "profile": "github", "typed": None},
            OTHER,
            ["https://t.example/x", "--profile", "github", "--secret", OTHER],
            id="tunnel",
        ),
    ],
)
def test_greeting_has_the_command_to_subscribe(changes: dict[str, Any], secret: str | None, expected: list[str]) -> None:
    """The line to copy names HERE, profile and secret as they are needed."""
    lines = greeting(plan(**changes), HERE, [secret] if secret else [])

    assert f"Listening on {HERE}  (Ctrl-C to quit)" == lines[0]
    assert ["hookengine", "subscription", "add", *expected] == shlex.split(lines[-1])


def test_greeting_where_the_secret_is_the_tenant_s(tmp_path: Path) -> None:
    """A profile that signs with the secret of a tenant has that set first: the subscription takes none."""
    lines = greeting(plan(profile="clearfeed", typed=None, data=tmp_path), HERE, [SECRET])
    data = ["--data", str(tmp_path)]

    assert [
        ["hookengine", "tenant", "secret", "set", "default", "--secret", SECRET, *data],
        ["hookengine", "subscription", "add", f"{HERE}/", "--profile", "clearfeed", *data],
    ] == [shlex.split(line) for line in lines[-2:]]


def test_greeting_for_a_subscription_asks_for_nothing(tmp_path: Path) -> None:
    """With a subscription there is nothing to add, and it is said where it has no secret or requests are passed on."""
    chosen = plan(subscription="sub_1", public_url=f"{HERE}/hook", forward_to="http://127.0.0.1:3000")
    other = greeting(plan(data=tmp_path, typed=None), HERE, [])

    assert [
        "Requests are passed on to http://127.0.0.1:3000",
        "for sub_1: http://127.0.0.1:9000/hook, profile standard",
        "It has no secret, so nothing can be verified.",
    ] == greeting(chosen, HERE, [])[1:]
    assert 3 == len(greeting(chosen, HERE, [SECRET]))
    assert ["--data", str(tmp_path)] == shlex.split(other[-1])[-2:]


async def test_secret_is_made_where_none_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a secret the printed command has a fresh one, for a profile that signs."""
    told = asyncio.Event()
    told.set()
    await listen(plan(secrets=[], typed=None), told)
    await listen(plan(secrets=[], typed=None, profile="clevertap"), told)
    said = capsys.readouterr().err

    assert 1 == len(re.findall(r"--secret whsec_[A-Za-z0-9+/=]{44}$", said, re.MULTILINE))


def test_secret_that_nobody_could_sign_with_is_told(cli: Callable[..., Ended]) -> None:
    """A secret of another form than the profile's would make every request a forged one."""
    ended = cli("listen", "0", "--secret", "short")

    assert (2, True) == (ended.status, "--secret: the secret does not begin with whsec_" in ended.err)


def test_port_in_use_is_told(cli: Callable[..., Ended]) -> None:
    """A port that another program has ends with 1 and a sentence."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = cli("listen", str(port))

    assert (
        Ended(1, "", f"Error: port {port} is in use by another program: give another port, or 0 for any free one\n") == ended
    )


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (PermissionError(13, "no"), "port 80 is for the system's own programs"),
        (OSError("odd"), "cannot listen on port 80: odd"),
    ],
)
def test_other_reasons_not_to_listen_are_told(error: OSError, expected: str) -> None:
    """A port of the system, and anything else, has its words."""
    assert listening._not_listening(80, error).startswith(expected)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_signal_ends_it_with_0(number: signal.Signals) -> None:
    """The process ends cleanly when it is told to, also with a request that waits for its answer."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "hookengine", "listen", "0", "--delay", "1m"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"NO_COLOR": "1"},
    )
    assert process.stderr is not None
    assert process.stdout is not None
    async with asyncio.timeout(20):
        url = (await process.stderr.readline()).decode().split()[2]
        _, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        assert b"POST /" in await process.stdout.readline()
        process.send_signal(number)
        await process.communicate()
        writer.close()

    assert 0 == process.returncode


@pytest.mark.parametrize(
    "argv",
    [
        ["70000"],
        ["--status", "soon"],
        ["--status", "99"],
        ["--status", "200,"],
        ["--delay", "2"],
        ["--fail-rate", "2"],
        ["--fail-rate", "nan"],
        ["--forward-to", "127.0.0.1:3000"],
        ["--forward-to", "http://[::1"],
        ["--forward-to", "http://127.0.0.1:3000", "--status", "500"],
        ["--subscription", "sub_1", "--secret", SECRET],
        ["--profile", "nobody"],
    ],
)
def test_usage_is_status_2(cli: Callable[..., Ended], argv: list[str]) -> None:
    """What cannot be meant ends with 2 before anything listens."""
    ended = cli("listen", *argv)

    assert (2, "") == (ended.status, ended.out)


def test_subscription_needs_a_daemon(cli: Callable[..., Ended]) -> None:
    """Without a daemon to ask, a subscription's secret is out of reach: 3."""
    assert 3 == cli("listen", "0", "--subscription", "sub_1").status


# Against the daemon.


async def test_secret_is_taken_from_the_subscription(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HERE, profile and secrets, the old one too, are the subscription's own."""
    async with Engine(tmp_path / "hooks.db", serve="127.0.0.1:0") as engine:
        monkeypatch.setenv("HOOKENGINE_URL", str(engine.url))
        monkeypatch.setenv("HOOKENGINE_TOKEN", (tmp_path / "admin.token").read_text().strip())
        made = await engine.subscribe("https://example.com/hook", profile="svix", secret=OTHER)
        await engine.rotate_secret(made.id, secret=SECRET)
        known = await asyncio.to_thread(look_up, made.id, tmp_path)

    assert ("https://example.com/hook", "svix", [SECRET, OTHER]) == known


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ((200, {"secret": SECRET, "previous": []}), [SECRET]),
        ((404, {"title": "Not found"}), []),
        ((403, {"title": "Not allowed"}), None),
    ],
)
async def test_secret_may_be_the_tenants(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, answer: tuple[int, dict[str, Any]], expected: list[str] | None
) -> None:
    """Where the profile signs with the tenant's secret, that is asked for; it may be missing, or out of reach."""
    documents = {
        "/v1/subscriptions/sub_1": (200, {"url": HERE, "profile": "clearfeed", "tenant": "a/b"}),
        "/v1/subscriptions/sub_1/secret": (200, {"secret": None, "previous": []}),
        "/v1/tenants/a%2Fb/secret": answer,
    }

    def reply(request: Received) -> Reply:
        status, found = documents[request.path]
        return Reply(status=status, body=json.dumps(found).encode())

    async with Receiver(reply) as api:
        monkeypatch.setenv("HOOKENGINE_URL", api.url)
        if expected is None:
            assert 4 == await asyncio.to_thread(run_verb, ["listen", "0", "--subscription", "sub_1"])
        else:
            assert expected == (await asyncio.to_thread(look_up, "sub_1", tmp_path)).secrets


async def test_profile_of_the_configuration_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A profile that only the daemon knows cannot be verified: the verb says so in place of refusing every request."""
    documents = {
        "/v1/subscriptions/sub_1": {"url": HERE, "profile": "mine", "tenant": "default"},
        "/v1/subscriptions/sub_1/secret": {"secret": SECRET, "previous": []},
    }
    async with Receiver(lambda request: Reply(body=json.dumps(documents[request.path]).encode())) as api:
        monkeypatch.setenv("HOOKENGINE_URL", api.url)
        assert 2 == await asyncio.to_thread(run_verb, ["listen", "0", "--subscription", "sub_1"])

    assert "the profile mine is one of the daemon's configuration" in capsys.readouterr().err
