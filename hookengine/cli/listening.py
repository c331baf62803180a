"""What `hookengine listen` does: the receiver, its answers, and a few words for each request."""

from __future__ import annotations

import asyncio
import errno
import json
import signal
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import aiohttp
import click
from aiohttp import hdrs
from yarl import URL

from hookengine.cli.api import naming
from hookengine.cli.exits import CliError
from hookengine.cli.output import printable, say, shell_word
from hookengine.cli.verdict import advice
from hookengine.clock import Clock
from hookengine.inputs import DEFAULT_TENANT
from hookengine.profiles import PROFILES
from hookengine.receiver import Receiver, Reply
from hookengine.schemes import SCHEMES
from hookengine.signing_keys import new_secret
from hookengine.times import format_time

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from hookengine.receiver import Received, Step

_KEPT = 1  # requests: what was shown is not needed again
_PATIENCE = aiohttp.ClientTimeout(total=60, connect=5)  # with the server that requests are passed on to

# Of one connection, and not of the message: RFC 9110, 7.6.1. The length is that of what we send ourselves.
_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "content-length"}
)


class Plan(NamedTuple):
    """What to listen for, and what to answer."""

    port: int
    profile: str
    secrets: list[str]
    typed: str | None  # the secret as it was given: maybe the name of a file
    statuses: Sequence[int]
    delay: float  # s
    fail_rate: float
    forward_to: str | None
    public_url: str | None
    subscription: str | None
    as_json: bool
    data: Path


async def run(plan: Plan) -> None:
    """Listen until SIGINT or SIGTERM."""
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, told.set)
    await listen(plan, told)


async def listen(plan: Plan, told: asyncio.Event) -> None:
    """Listen until *told* to stop; raises CliError where that cannot be done."""
    clock = Clock()
    known = plan.secrets
    if not known and plan.subscription is None and SCHEMES.get(plan.profile):
        known = [new_secret(clock.new_bytes(32))]
    journal = Journal(plan.profile, as_json=plan.as_json, done=told.set)
    async with AsyncExitStack() as stack:
        passed_on = None
        if plan.forward_to is not None:
            # What the request lacks is not added, and an answer is passed back in the coding that it came in.
            session = aiohttp.ClientSession(
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=(hdrs.USER_AGENT, hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE),
                timeout=_PATIENCE,
            )
            passed_on = Forwarder(await stack.enter_async_context(session), plan.forward_to)
        receiver = Receiver(
            script(plan.statuses, delay=plan.delay, fail_rate=plan.fail_rate, forward=passed_on, random=clock.random),
            secret=known or None,
            profile=plan.profile,
            port=plan.port,
            public_url=plan.public_url,
            keep=_KEPT,
            on_arrival=journal.arrived,
            on_request=journal.answered,
            on_gone=journal.gone,
        )
        try:
            await stack.enter_async_context(receiver)
        except OSError as error:
            raise CliError(_not_listening(plan.port, error)) from error
        for line in greeting(plan, receiver.url, known):
            say(line)
        await told.wait()


def greeting(plan: Plan, url: str, known: Sequence[str]) -> list[str]:
    """Where it listens, and what to do next."""
    lines = [f"Listening on {url}  (Ctrl-C to quit)"]
    if plan.forward_to is not None:
        lines.append(f"Requests are passed on to {printable(plan.forward_to)}")
    if plan.subscription is not None:
        lines.append(
            f"for {printable(plan.subscription)}: {printable(plan.public_url or '')}, profile {printable(plan.profile)}"
        )
        if not known:
            lines.append("It has no secret, so nothing can be verified.")
        return lines
    secret = ["--secret", plan.typed or known[0]] if known else []
    words = ["hookengine", "subscription", "add", plan.public_url or f"{url}/"]
    words += ["--profile", plan.profile] if plan.profile != "standard" else []
    lines.append("Subscribe it (the daemon must run with --dev):")
    if PROFILES[plan.profile].uses_tenants_secret:
        lines.append(f"  {_command('hookengine', 'tenant', 'secret', 'set', DEFAULT_TENANT, *secret)}{naming(plan.data)}")
        secret = []
    return [*lines, f"  {_command(*words, *secret)}{naming(plan.data)}"]


def _command(*words: str) -> str:
    return " ".join(map(shell_word, words))


def _not_listening(port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is in use by another program: give another port, or 0 for any free one"
    if error.errno == errno.EACCES:
        return f"port {port} is for the system's own programs: give one from 1024 on, or 0 for any free one"
    return f"cannot listen on port {port}: {error.strerror or error}"


# What it answers.


def script(
    statuses: Sequence[int],
    *,
    delay: float,
    fail_rate: float,
    forward: Callable[[Received], Any] | None,
    random: Callable[[], float],
) -> list[Step]:
    """The steps of the receiver: *statuses* in turn, or what *forward* gets; some fail, all wait for *delay* seconds."""
    failure = Reply(status=500, delay=delay)

    async def passed_on(received: Received) -> Reply:
        assert forward is not None  # noqa: S101  # see below
        if random() < fail_rate:
            return failure
        reply: Reply = await forward(received)
        return Reply(status=reply.status, headers=reply.headers, body=reply.body, delay=delay)

    def step(status: int) -> Step:
        reply = Reply(status=status, delay=delay)
        return (lambda _: failure if random() < fail_rate else reply) if fail_rate else reply

    return [passed_on] if forward is not None else [step(status) for status in statuses]


class Forwarder:
    """
    Passes requests on as they came, and the answers back.

    A target without a path gets the path of the request; one with a path gets all requests there.
    """

    def __init__(self, session: aiohttp.ClientSession, target: str) -> None:
        self._session = session
        self._target = URL(target, encoded=True)
        if self._target.raw_path != "/" and target.endswith("?") and not self._target.raw_query_string:
            self._target = _with_target(self._target, f"{self._target.raw_path}?")

    async def __call__(self, received: Received) -> Reply:
        """The other server's answer; 502 where it gives none."""
        headers = [(name, value) for name, value in received.headers if name.lower() not in _HOP_BY_HOP]
        try:
            async with self._session.request(
                received.method, self._url(received.path), headers=headers, data=received.body, allow_redirects=False
            ) as answer:
                back = [(name, value) for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP]
                return Reply(status=answer.status, headers=tuple(back), body=await answer.read())
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            say(f"{self._target.origin()} gave no answer: {printable(str(error) or type(error).__name__)}")
            return Reply(status=502, body=b"The server that requests are passed on to gave no answer.\n")

    def _url(self, path: str) -> URL:
        if self._target.raw_path != "/" or self._target.raw_query_string:
            return self._target
        return _with_target(self._target.origin(), path)


def _with_target(url: URL, target: str) -> URL:
    """*url* with a request target as it is, also with a query that is empty, which yarl would leave out."""
    return url.with_path(target, encoded=True)


# What it says.


class Journal:
    """Shows what arrives and what it is answered; *done* is called when nobody reads it any more."""

    def __init__(self, profile: str, *, as_json: bool, done: Callable[[], None]) -> None:
        self._headers = carriers(profile)
        self._signs = bool(SCHEMES.get(profile))
        self._as_json = as_json
        self._done = done
        self._advised: set[str] = set()  # reasons for which it was said what to do

    def arrived(self, received: Received) -> None:
        """A request is there."""
        if self._as_json:
            return
        names = names_of(received, self._headers)
        words = [f"--> {received.method} {received.path}", *filter(None, names), f"{len(received.body)} B"]
        mark = click.style("✓ verified", fg="green") if received.verified else click.style("✗ not verified", fg="red")
        if not self._signs:
            mark = click.style("· not signed, as its profile has it", fg="yellow")
        self._show(f"{self._at(received)}  {printable('  '.join(words))}  {mark}")
        if not received.verified and self._signs:
            reason = received.reason or ""
            self._show(f"          {printable(received.detail or '')}")
            if reason not in self._advised:
                self._advised.add(reason)
                say(f"          {advice(reason)}")

    def answered(self, received: Received, reply: Reply) -> None:
        """It gets its answer."""
        self._end(received, reply.status, str(reply.status))

    def gone(self, received: Received) -> None:
        """It gets none."""
        self._end(received, None, "no answer: the sender did not wait for it")

    def _end(self, received: Received, status: int | None, words: str) -> None:
        if self._as_json:
            self._show(json.dumps(document(received, names_of(received, self._headers), status)))
        else:
            self._show(f"{self._at(received)}  <-- {words}")

    def _at(self, received: Received) -> str:
        time = datetime.fromtimestamp(received.at / 1000, UTC).astimezone()
        return f"{time:%H:%M:%S}  #{received.number}"

    def _show(self, line: str) -> None:
        try:
            click.echo(line)
        except OSError:  # what it is piped into has ended
            self._done()


class Names(NamedTuple):
    """What an event is called, where the request says."""

    type: str | None
    id: str | None


def carriers(profile: str) -> dict[str, str]:
    """Which headers of *profile* carry the event's type and id: name by template."""
    found = {template: header for header, template in PROFILES[profile].headers} if profile in PROFILES else {}
    ids = [scheme.id_header for scheme in SCHEMES.get(profile, ()) if scheme.id_header is not None]
    return found | ({"{id}": ids[0]} if ids else {})


def names_of(received: Received, headers: Mapping[str, str]) -> Names:
    """Type and id of the event in a request: from the *headers* that carry them, else from the body."""
    body: Any = None
    with suppress(ValueError, RecursionError):
        body = json.loads(received.body)

    def name(variable: str, member: str) -> str | None:
        if variable in headers and (text := received.header(headers[variable])) is not None:
            return text
        found = body.get(member) if isinstance(body, dict) else None
        return found if isinstance(found, str) else None

    return Names(name("{type}", "type"), name("{id}", "id"))


def document(received: Received, names: Names, status: int | None) -> dict[str, Any]:
    """A request and its answer as JSON; what is no UTF-8 in the body is escaped."""
    return {
        "number": received.number,
        "at": format_time(received.at),
        "method": received.method,
        "path": received.path,
        "headers": received.headers,
        "body": received.body.decode(errors="backslashreplace"),
        "size": len(received.body),
        "type": names.type,
        "id": names.id,
        "verified": received.verified,
        "reason": received.reason,
        "detail": received.detail,
        "status": status,
    }
