"""Writes the documents that derive from the code: `make docs`. tests/test_documents.py fails where one is not up to date."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hookengine import config, errors, verdicts
from hookengine.cli.exits import Exit
from hookengine.errors import HookEngineError, Malformed, RequestError
from hookengine.models import ErrorCode
from hookengine.server.problems import MALFORMED_CODES, OTHER_CODES

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parent.parent

# What is said of a mistake in a request; tests/test_documents.py finds every code that there is in the sources.
MISTAKES = {
    "circular_profile": "a profile of the configuration that extends itself in the end",
    "conflicting_auth": "`auth`, and an `Authorization` header of your own beside it",
    "conflicting_ordering": "a `batch` with more than one event, beside `ordering` `fifo`, which sends each by itself",
    "duplicate_header": "a header that is there twice, in other letters",
    "hidden_value": "`***`, which only stands for a value",
    "immutable_member": "a member that cannot be changed",
    "invalid_header_name": "a name that no header can have (RFC 9110, 5.6.2)",
    "invalid_header_value": "a value that no header can have",
    "invalid_secret": "a secret that the profile cannot sign with",
    "invalid_toml": "a configuration that is no TOML",
    "invalid_type": "another kind of JSON value than the one expected",
    "invalid_url": "a URL that may not or cannot be called",
    "invalid_value": "a value out of range, or not of the form expected",
    "missing_member": "a member that is needed",
    "reserved_header": "a header that hookengine or HTTP itself sets",
    "reserved_profile": "a profile of the configuration with the name of a built-in one",
    "reserved_tenant": "the engine's own tenant `hookengine`: its subscriptions and secret take an unbound token with admin",
    "reserved_type": "a type whose first word is `hookengine`, the engine's own: `hookengine-x` and `hookengine/x` too",
    "too_large": "more bytes or elements than are taken",
    "too_late": "a `deliver_at` more than 365 days ahead",
    "too_many_elements": "more events in one batch than are taken",
    "unbound_scope": "the scope `admin` in a token that is bound to a tenant",
    "unknown_event_type": "an event type that is not declared, where they must be",
    "unknown_member": "a member that there is not",
    "unknown_parameter": "a query parameter that there is not",
    "unknown_plan": "a plan that the configuration does not have",
    "unknown_profile": "a profile that there is not",
    "unknown_subscription": "the id of no subscription of the tenant",
    "unknown_variable": "a variable of the environment that is nearly one that there is, or one of a template that is none",
    "unusable_secret": "a profile that cannot sign with the secret that the subscription or its tenant has",
    "unused_member": "a member that the profile, or the grant of OAuth 2.0, does not send",
}

# Of attempts, where `verdicts` has no sentence that is always the same.
ATTEMPTS = {
    ErrorCode.AUTH_FAILED: "No access token came about: docs/authentication.md.",
    ErrorCode.BLOCKED_ADDRESS: "The name leads to an address that may not be called.",
    ErrorCode.DNS_NO_ADDRESS: "The name has no address.",
    ErrorCode.DNS_NXDOMAIN: "There is no such name.",
    ErrorCode.HTTP_STATUS: "The endpoint answered, but not with success.",
    ErrorCode.INTERNAL_ERROR: "A fault of hookengine's, or a stored row that cannot be read: the delivery is given up. "
    "Of a test also: why no request can be made, and deliveries wait.",
    ErrorCode.SELF_CONNECTION: "The URL leads to hookengine itself.",
}

EXITS: dict[int, str] = {
    Exit.OK: "done",
    Exit.FAILED: "the operation failed",
    Exit.USAGE: "the command line cannot be read",
    Exit.NOT_REACHED: "the server was not reached",
    Exit.NOT_ALLOWED: "the token does not allow it",
    Exit.NOT_FOUND: "there is no such thing",
    Exit.CONFLICT: "something is in the way",
    70: "the storage failed",
    75: "another engine has the database, or another program its lock",
    78: "the configuration, the database or the key cannot be used",
    129: "ended by SIGHUP, as a terminal that closes sends it",
    Exit.INTERRUPTED: "stopped with Ctrl-C",
    143: "ended by SIGTERM",
}


def errors_page() -> str:
    """`docs/errors.md`."""
    return "\n".join([
        "# Errors",
        "",
        "Codes are stable: programs may rely on them; texts may change.",
        "",
        "## Problems",
        "",
        "Over HTTP an error is `application/problem+json` (RFC 9457) with `type`, `title`, `status`, `code`, `detail`, and",
        "`errors`, which names every mistake: `{pointer, code, detail}`, with `parameter` in place of `pointer` for query and",
        "headers. In Python it is the class, with the same `code`, `detail` and `mistakes`.",
        "",
        *_table(("code", "status", "class", "says"), _problems()),
        "",
        "## Mistakes",
        "",
        "What the members of `errors` are called.",
        "",
        *_table(("code", "names"), ((f"`{code}`", meaning) for code, meaning in sorted(MISTAKES.items()))),
        "",
        "## Attempts",
        "",
        "Why an attempt did not succeed. `unreachable` and `refused` count as failures; `interrupted` is our own fault, a",
        "stop, or a turn by a rate limit that came too late: it counts for nothing.",
        "",
        *_table(("code", "outcome", "says"), ((f"`{c}`", _outcome(c), _said(c)) for c in sorted(ErrorCode))),
        "",
        "## Exit statuses",
        "",
        *_table(("status", "says"), ((str(int(status)), meaning) for status, meaning in EXITS.items())),
        "",
    ])  # fmt: skip


def _table(head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _problems() -> Iterator[tuple[str, ...]]:
    found = {cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, HookEngineError)}
    for cls in sorted(found, key=lambda cls: (getattr(cls, "status", 999), cls.code)):
        status = str(cls.status) if issubclass(cls, RequestError) else ""
        codes = MALFORMED_CODES if cls is Malformed else (cls.code,)
        says = (cls.__doc__ or "").strip().partition("\n")[0]
        yield ", ".join(f"`{code}`" for code in codes), status, f"`{cls.__name__}`", says
    for code, (answered, says) in OTHER_CODES.items():
        yield f"`{code}`", str(answered), "", says


def _outcome(code: ErrorCode) -> str:
    if code in verdicts.REFUSALS:
        return "`refused`"
    if code is ErrorCode.DNS_TEMPORARY:
        return "`unreachable`; `interrupted` while no other name gets an answer either"
    if code is ErrorCode.PROXY_ERROR:
        return (
            "`unreachable` where the proxy refuses the request, or hangs before its tunnel stands: an attempt is spent, and no"
            " counter moves; `interrupted` where it refuses connections, is not found or shows no valid certificate: none is"
            " spent"
        )
    return "`interrupted`" if code in {*verdicts.OURS, ErrorCode.INTERNAL_ERROR} else "`unreachable`"


def _said(code: ErrorCode) -> str:
    sentence = ATTEMPTS.get(code) or verdicts.SENTENCES[code].format(host="the endpoint")
    return sentence[0].upper() + sentence[1:]


FILES = {
    "config.example.toml": config.example,
    "docs/configuration.md": config.reference,
    "docs/errors.md": errors_page,
}

if __name__ == "__main__":
    for name, content in FILES.items():
        (ROOT / name).write_text(content(), encoding="utf-8")
