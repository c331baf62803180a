"""What `hookengine doctor` checks, one finding after the other."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import socket
import stat
from contextlib import suppress
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from hookengine.cli.api import Api, find_server
from hookengine.cli.config import load
from hookengine.cli.exits import CliError
from hookengine.cli.files import DAEMON, DATABASE, KEY, TOKEN, absolute, size
from hookengine.cli.following import waiting
from hookengine.cli.output import describe_attempt
from hookengine.cli.remedies import remedy
from hookengine.client import ApiError, ServerNotReached
from hookengine.clock import Clock
from hookengine.config import Config
from hookengine.errors import ConfigInvalid, DatabaseTooNew, HookEngineError, KeyUnusable, StorageUnavailable
from hookengine.netguard import UrlRefused, vet_url
from hookengine.store import inspection, space
from hookengine.store.whereabouts import Files
from hookengine.times import format_time

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

_LEAST_FREE = 512 << 20  # bytes: some days of a few events a second
_OTHER_FILES = 600  # descriptors beside those of attempts: connections of the API, the database, the log
_OLDEST = 1_767_225_600_000  # 2026-01-01: this program is younger
_SKEW = 60_000  # ms; receivers allow for five minutes
_SHOWN = 3  # failures of a subscription

_DISABLED = {
    "manual": "it was disabled by hand",
    "failures": "it was disabled because it kept failing",
    "gone": "its endpoint said that it is gone (410)",
}


class Check(NamedTuple):
    """What one check found, and where something is wrong, what to do."""

    name: str
    ok: bool
    detail: str
    advice: str = ""


class Asked(NamedTuple):
    """What to examine."""

    file: Path | None
    data: Path
    url: str | None
    token: str | None
    subscription: str | None
    dev: bool


def examine(asked: Asked) -> Iterator[Check]:
    """Every check in turn; raises ApiError for a subscription that is not there."""
    checks, config = configuration(asked.file, dev=asked.dev)
    yield from checks
    now, newest = Clock().now(), None
    if asked.url is None:
        yield from directory(asked.data)
        if there(asked.data / DATABASE) or Files(absolute(asked.data) / DATABASE).left_behind() is not None:
            check, newest = database(asked.data / DATABASE, os.environ.get("HOOKENGINE_ENCRYPTION_KEY"))
            yield check
        yield disk(asked.data, shutil.disk_usage)
        yield descriptors(open_files_limit(daemon_pid(asked.data)), config.delivery.concurrency)
    yield resolver(socket.getaddrinfo)
    check, api, server_time = daemon(asked)
    yield clock(now, newest, server_time)
    yield check
    if asked.subscription is not None:
        yield from (
            subscription(api, asked.subscription, config, now=now)
            if api is not None
            else [Check("subscription", False, "it is known to the daemon only, which gave no answer")]
        )


# This machine and its files.


def configuration(file: Path | None, *, dev: bool) -> tuple[list[Check], Config]:
    """Whether file and environment are valid, and the configuration, where they are not the defaults."""
    source = "the environment and defaults" if file is None else str(file)
    try:
        return [Check("configuration", True, f"{source}: valid")], load(file, environ=os.environ, dev=dev)
    except ConfigInvalid as error:
        lines = error.detail.splitlines()
        return [Check("configuration", False, " ".join(line.split())) for line in lines], Config()


def directory(data: Path) -> Iterator[Check]:
    """Whether the data directory is there, ours and private, and so what is in it."""
    try:
        held = data.stat()
    except OSError as error:
        advice = "`hookengine init` or `hookengine serve` makes it; another one is named with --data."
        yield Check("data directory", False, f"{data}: {error.strerror}", advice)
        return
    if not os.access(data, os.R_OK | os.W_OK | os.X_OK):
        yield Check("data directory", False, f"{data}: this user may not write there", "Run as the user of the daemon.")
    elif loose := stat.S_IMODE(held.st_mode) & 0o077:
        yield Check("data directory", False, f"{data}: open to others ({loose:03o})", f"chmod 700 {data}")
    else:
        yield Check("data directory", True, f"{data}: there, and private")
    files = [path for name in (DATABASE, KEY, TOKEN) if there(path := data / name)]
    open_ones = [path for path in files if stat.S_IMODE(path.stat().st_mode) & 0o077]
    if open_ones:
        names = ", ".join(path.name for path in open_ones)
        yield Check("files", False, f"open to others: {names}", f"chmod 600 {' '.join(map(str, open_ones))}")
    elif files:
        yield Check("files", True, f"private: {', '.join(path.name for path in files)}")


def there(path: Path) -> bool:
    """Whether something is at *path*, as far as this user may see."""
    return os.access(path, os.F_OK)


def database(path: Path, encryption_key: str | None) -> tuple[Check, int | None]:
    """Whether the key opens the database, and when it took its last event."""
    try:
        with inspection.opened(path) as db:
            inspection.unlock(db, path, encryption_key)
            return Check("key", True, "it opens the database"), inspection.newest_event(db)
    except KeyUnusable as error:
        advice = "Put the key that it was made with back: secret.key, or HOOKENGINE_ENCRYPTION_KEY."
        return Check("key", False, error.detail, advice), None
    except (DatabaseTooNew, StorageUnavailable) as error:
        return Check("database", False, error.detail), None
    except HookEngineError as error:
        return Check("database", False, error.detail, "`hookengine db check` says more; docs/backup.md how to restore."), None


def disk(data: Path, usage_of: Callable[[Path], tuple[int, int, int]]) -> Check:
    """Whether there is space for what comes, where the database is, or will be."""
    file = data / DATABASE
    folder = file.resolve().parent if there(file) else absolute(data)
    place = next(path for path in (folder, *folder.parents) if there(path))
    total, _, free = usage_of(place)
    least = space.least(total)
    if free >= _LEAST_FREE:
        return Check("disk", True, f"{size(free)} free")
    words = "Nothing is accepted" if free < least else f"Below {size(least)} nothing is accepted"
    return Check("disk", False, f"{size(free)} free", f"{words}: make space, or let store.retention be shorter.")


def daemon_pid(data: Path) -> int | None:
    """The process of the daemon, as it has announced itself."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        return int(json.loads((data / DAEMON).read_bytes())["pid"])
    return None


def open_files_limit(pid: int | None) -> int:
    """How many files process *pid* may have open, where the system tells; else how many we may."""
    with suppress(OSError):
        found = re.search(r"Max open files +(\d+)", _limits(pid))
        if found:
            return int(found[1])
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _limits(pid: int | None) -> str:
    if pid is None:
        return ""
    with open(f"/proc/{pid}/limits", encoding="ascii") as file:  # noqa: PTH123  # a name of the system, no path of ours
        return file.read()


def descriptors(limit: int, concurrency: int) -> Check:
    """Whether the daemon may open a connection for each of its attempts, beside half as many that rest."""
    needed = concurrency + concurrency // 2 + _OTHER_FILES
    if limit == resource.RLIM_INFINITY or limit >= needed:
        return Check("file descriptors", True, "enough")
    advice = f"Raise it to {needed} (`ulimit -n`, or LimitNOFILE= of systemd), or let delivery.concurrency be less."
    return Check("file descriptors", False, f"{limit} may be open, {needed} may be needed", advice)


def resolver(lookup: Callable[..., Sequence[Any]]) -> Check:
    """Whether names are looked up at all; asks for `localhost` only, which leaves this machine alone."""
    try:
        found = {str(answer[4][0]) for answer in lookup("localhost", 80, type=socket.SOCK_STREAM)}
    except OSError as error:
        return Check("names", False, f"localhost is not resolved: {error.strerror or error}", "Look at /etc/hosts.")
    foreign = sorted(text for text in found if not ip_address(text.partition("%")[0]).is_loopback)
    if foreign or not found:
        return Check("names", False, f"localhost leads to {', '.join(foreign) or 'nothing'}", "Look at /etc/hosts.")
    return Check("names", True, f"localhost is {', '.join(sorted(found))}")


def clock(now: int, newest: int | None, server_time: int | None) -> Check:
    """Whether the clock may be right, by what was accepted before and by the server's own."""
    detail, advice = format_time(now), "Let the clock be set by NTP: receivers refuse signatures that are minutes off."
    if now < _OLDEST:
        return Check("clock", False, f"{detail} was before this program was made", advice)
    if newest is not None and newest > now + _SKEW:
        return Check("clock", False, f"{detail}, but the last event was accepted at {format_time(newest)}", advice)
    if server_time is not None and abs(server_time - now) > _SKEW:
        return Check("clock", False, f"{detail}, but the server's says {format_time(server_time)}", advice)
    return Check("clock", True, detail)


# The daemon, and a subscription in it.


def daemon(asked: Asked) -> tuple[Check, Api | None, int | None]:
    """Whether the server answers, is ready and lets us in; its API where it does; and its clock."""
    try:
        client = find_server(asked.url, asked.token, asked.data)
        answer = client.request("GET", "/readyz")
        client.request("GET", "/v1/subscriptions", query={"limit": 1})
    except (CliError, click.UsageError) as error:
        return Check("daemon", False, error.message), None, None
    except ServerNotReached as error:
        return Check("daemon", False, error.detail, "Is it running, and is this its address?"), None, None
    except ApiError as error:
        words = {401: "the token is not known", 403: "the token may not read subscriptions", 503: "it is not ready"}
        reason = error.problem.get("reason") or error.detail  # what /readyz gives, which is no problem document
        return Check("daemon", False, f"{words.get(error.status, 'it refused')}: {reason}"), None, None
    moment = None
    with suppress(ValueError, KeyError):
        moment = int(parsedate_to_datetime(answer.headers["date"]).timestamp() * 1000)
    return Check("daemon", True, f"{client.url} is ready"), Api(client, as_json=False), moment


def subscription(api: Api, id: str, config: Config, *, now: int) -> Iterator[Check]:
    """Whether a subscription gets what it should, and if not, why."""
    found = api.read(api.get(api.path("subscriptions", id)), "id", "tenant", "url", "profile", "state", "consecutive_failures")
    yield url(found["url"], config)
    yield profile(found["profile"], config)
    yield state(found)
    # From the hour of the last failure on: that one is in it, however long ago it was.
    query = {"since": found.get("last_failure_at")}
    stats = api.read(api.get(api.path("subscriptions", id, "stats"), **query), "since", "attempts", "resumes_at")
    yield from failures(api, found, stats)
    pending = api.read(api.get("/v1/deliveries", subscription=id, state="pending", limit=250), "data", "next_cursor")
    count = f"{len(pending['data'])}{' or more' if pending['next_cursor'] else ''} pending"
    if pending["data"] and (why := hindrance(api, found, pending["data"][0]["event"])):
        yield Check("next attempt", False, f"{count}, none goes: {why}", "It is about the profile as the daemon has it.")
        return
    known = config.profiles.get(found["profile"])
    gathers = found.get("ordering") != "fifo" and bool(found.get("batch") or (known is not None and known.batch))
    when = next_attempt(pending, stats["resumes_at"], gathers=gathers, now=now)
    yield Check("next attempt", True, f"{count}{when}" if pending["data"] else "nothing is pending")


def next_attempt(pending: Mapping[str, Any], resumes_at: str | None, *, gathers: bool, now: int) -> str:
    """When the first of those goes that are *pending*, as far as a page of the newest tells."""
    is_whole = pending["next_cursor"] is None
    due = min((each["next_attempt_at"] for each in pending["data"] if each["next_attempt_at"]), default=None)
    if due is not None and not is_whole and due > format_time(now):
        due = None  # an older one may go before
    if resumes_at is not None and (due is None or due < resumes_at):
        why = "a rest after failures, or its rate limit, lasts until then"
        return f", the next {waiting(resumes_at, now)} at the earliest: {why}"
    if due is not None:
        return f", the next {waiting(due, now)}"
    if not is_whole:
        return ""
    return f", waiting for {'a batch to be full, or to have waited long enough' if gathers else 'their turn'}"


def hindrance(api: Api, found: Mapping[str, Any], event: str) -> str:
    """Why an *event* that is pending cannot go to the subscription that was *found*; nothing where it can."""
    path, query = api.path("events", event, "explain"), {"tenant": found["tenant"], "subscription": found["id"]}
    explained = api.read(api.get(path, **query), "subscriptions")["subscriptions"]
    return "".join(each.get("hindrance", "") for each in explained)


def url(text: str, config: Config) -> Check:
    """Whether the URL may be called, by its spelling; the addresses of a name are judged at each attempt."""
    try:
        vet_url(text, config.security.policy())
    except UrlRefused as error:
        advice = "That is by this configuration: if the daemon has another, name it with --config, or add --dev."
        return Check("URL", False, f"{text}: {error.detail}", advice)
    return Check("URL", True, f"{text} may be called")


def profile(name: str, config: Config) -> Check:
    """Whether there is what says how its requests look; without it they wait."""
    if name in config.profiles:
        return Check("profile", True, name)
    advice = (
        "That is by this configuration: if the daemon has another, name it with --config. "
        "Else deliveries wait until the profile is back, or the subscription has another."
    )
    return Check("profile", False, f"there is no profile {name}", advice)


def state(found: Mapping[str, Any]) -> Check:
    """Whether it is active."""
    if found["state"] == "active":
        return Check("state", True, "active")
    reason = _DISABLED.get(found.get("disabled_reason") or "", "")
    advice = f"Once the cause is mended: hookengine subscription enable {found['id']}"
    return Check("state", False, f"{found['state']}: {reason}", advice)


def failures(api: Api, found: Mapping[str, Any], stats: Mapping[str, Any]) -> Iterator[Check]:
    """Its unbroken run of failures, and the newest of them in words."""
    count = found["consecutive_failures"]
    success = found.get("last_success_at")
    since = f"since it last succeeded, at {success}" if success else "and it never succeeded"
    if not count:
        yield Check("failures", True, f"none; it last succeeded at {success}" if success else "nothing was sent yet")
        return
    yield Check("failures", False, f"{count} running, {since}")
    yield from newest_failures(api, found["id"]) or counted_failures(stats)


def newest_failures(api: Api, id: str) -> list[Check]:
    """How the last attempts failed at its newest deliveries."""
    listed = api.read(api.get("/v1/deliveries", subscription=id, limit=50), "data")
    failing = [each for each in listed["data"] if each["attempt_count"] and each["state"] != "delivered"]
    checks = []
    for each in failing[:_SHOWN]:
        attempts = api.read(api.get(api.path("deliveries", each["id"])), "attempts")["attempts"]
        if bad := [attempt for attempt in attempts if attempt["outcome"] in {"refused", "unreachable"}]:
            words = f"{each['type']} at {bad[-1]['at']}: {describe_attempt(bad[-1])}"
            checks.append(Check("failure", False, words, remedy(bad[-1])))
    return checks


def counted_failures(stats: Mapping[str, Any]) -> list[Check]:
    """How most attempts failed: what is known where the newest deliveries wait behind those that fail."""
    codes, statuses = dict(stats["attempts"]["error_codes"]), {}
    if "http_status" in codes:  # a redirect has a code of its own
        statuses = {status: number for status, number in stats["attempts"]["status_codes"].items() if status[0] not in "23"}
    if statuses:
        del codes["http_status"]
    most = sorted((codes | statuses).items(), key=lambda way: -way[1])[:_SHOWN]
    return [
        Check(
            "failure",
            False,
            f"{way} in {number} of {stats['attempts']['total']} attempts since {stats['since']}",
            remedy(
                {"status_code": int(way), "error": {"code": "http_status"}} if way in statuses else {"error": {"code": way}}
            ),
        )
        for way, number in most
    ]
