"""
Profiles from the configuration: `[profiles.NAME]` tables, each of which extends a profile that there is.

A key is a field of ProfileTable. Its type says what is allowed, its Meta what it means. To add one, add a field.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta, Struct
from msgspec.structs import asdict, replace

from hookengine.envelopes import ENVELOPES
from hookengine.models import Batching
from hookengine.profiles import HEADER_NAME, PROFILES, Profile, check_template
from hookengine.schemes import Algorithm, Encoding, KeyForm, Moment, Scheme
from hookengine.signing_keys import misfit, new_secret
from hookengine.times import Duration
from hookengine.wording import did_you_mean, pointer, quoted

if TYPE_CHECKING:
    from hookengine.models import Rules
    from hookengine.validation import Draft, Problems

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_PRINTABLE = re.compile(r"[ -~]{0,2048}")
_LONGEST_DELAY = 30 * 86_400_000  # ms

# What HTTP itself sets (RFC 9112), where two opinions on where a message ends or goes are request smuggling, and credentials,
# which subscriptions have: theirs are encrypted and hidden.
_RESERVED = frozenset({
    *("accept-encoding", "authorization", "connection", "content-encoding", "content-length", "content-type", "cookie"),
    *("date", "expect", "host", "keep-alive", "proxy-authorization", "proxy-connection", "te", "trailer"),
    *("transfer-encoding", "upgrade"),
})  # fmt: skip


def _envelope(text: str) -> str:
    if text not in ENVELOPES:
        raise ValueError(f"expected one of {', '.join(map(quoted, ENVELOPES))}{did_you_mean(text, ENVELOPES)}")
    return text


def _header_name(text: str) -> str:
    if not HEADER_NAME.fullmatch(text):
        raise ValueError("expected 1 to 64 characters of a header name (RFC 9110, 5.6.2)")
    if text.lower() in _RESERVED:
        raise ValueError(f"{quoted(text)} is set by HTTP itself, or is a subscription's to have")
    return text


def _printable(text: str) -> str:
    if not _PRINTABLE.fullmatch(text):
        raise ValueError("expected at most 2048 printable ASCII characters")
    return text


def _template(text: str) -> str:
    check_template(_printable(text))
    return text


def _timeout(text: str) -> Duration:
    duration = Duration.parse(text)
    if not 100 <= duration <= 300_000:  # ms
        raise ValueError("expected 100ms to 5m")
    return duration


def _wait(text: str) -> Duration:
    duration = Duration.parse(text)
    if duration > 3_600_000:  # ms
        raise ValueError("expected at most 1h")
    return duration


def _delay(text: str) -> Duration:
    duration = Duration.parse(text)
    if duration > _LONGEST_DELAY:
        raise ValueError("expected at most 30d")
    return duration


_HeaderName = Annotated[str, Meta(extra={"parse": _header_name})]
_Printable = Annotated[str, Meta(extra={"parse": _printable})]
_Code = Annotated[int, Meta(ge=200, le=599)]
_Wait = Annotated[Duration, Meta(extra={"parse": _wait})]
_Codes = Annotated[list[_Code], Meta(max_length=100)]


class SignatureTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One signature: the fields of `schemes.Scheme`."""

    header: Annotated[_HeaderName, Meta(description="The header that holds the signature.", examples=["X-Acme-Signature"])]
    value: Annotated[
        _Printable,
        Meta(
            description="What the header holds: items with `separator` between them, one with `{signature}`, another maybe"
            " with `{timestamp}`.",
            examples=["t={timestamp},v1={signature}"],
        ),
    ]
    signed: Annotated[
        str,
        Meta(
            max_length=2048,
            description="What is signed, of `{id} {timestamp} {method} {url} {body}`.",
            examples=["{timestamp}.{body}"],
        ),
    ]
    algorithm: Annotated[Algorithm, Meta(description="The algorithm.")] = "hmac-sha256"
    encoding: Annotated[Encoding, Meta(description="How the signature is written.")] = "hex"
    key: Annotated[
        KeyForm, Meta(description="`utf8`: the key is the secret's characters; `base64`: what they hold, behind `prefix`.")
    ] = "utf8"
    prefix: Annotated[_Printable, Meta(description="How the secrets that this signature takes begin.")] = ""
    public_prefix: Annotated[
        _Printable | None, Meta(description="How the public keys of `ed25519` begin.", examples=["whpk_"])
    ] = None
    timestamp: Annotated[
        Moment, Meta(description="`attempt`: when the request is sent; `event`: when the event occurred.")
    ] = "attempt"
    separator: Annotated[
        _Printable, Meta(description="What stands between the items of `value`, and nowhere in one.", examples=[","])
    ] = ""
    several: Annotated[
        bool, Meta(description="While a secret rotates, the header holds a signature for each; else the new one signs alone.")
    ] = False
    id_header: Annotated[
        _HeaderName | None, Meta(description="The header that holds the event's id.", examples=["X-Acme-Id"])
    ] = None
    timestamp_header: Annotated[
        _HeaderName | None, Meta(description="The header that holds the timestamp.", examples=["X-Acme-Timestamp"])
    ] = None

    def __post_init__(self) -> None:
        self.scheme()  # raises ValueError where the fields do not fit together

    def scheme(self) -> Scheme:
        """The same, as `sign` and `verify` take it."""
        return Scheme(**asdict(self))


class BatchInput(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """
    When a request with several events goes: once it has `max_events`, or the first of them has waited for `max_wait`.

    What is left out is as the profile has it, or else 100 events and 1 s.
    """

    max_events: Annotated[int, Meta(ge=1, le=1000)] | None = None
    max_wait: _Wait | None = None

    def batching(self) -> Batching:
        """The same as the engine has it."""
        return Batching(max_events=self.max_events, max_wait=None if self.max_wait is None else int(self.max_wait))


class ProfileTable(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One profile: what it extends, and what it has in place of what that has."""

    extends: Annotated[
        str, Meta(description="The profile that it is like: one of hookengine's, or of this file.", examples=["standard"])
    ]
    method: Annotated[
        Literal["POST", "PUT", "DELETE", "GET"] | None,
        Meta(description="The method, unless the subscription says otherwise.", examples=["PUT"]),
    ] = None
    content_type: Annotated[
        Annotated[
            str,
            Meta(max_length=200, pattern=r"^[!-~]+/[!-~]([ -~]*[!-~])?\Z", extra={"expected": "a type such as 'text/plain'"}),
        ]
        | None,
        Meta(description="The Content-Type.", examples=["application/json; charset=utf-8"]),
    ] = None
    envelope: Annotated[
        Annotated[str, Meta(extra={"parse": _envelope})] | None,
        Meta(description=f"How the body is made: {', '.join(f'`{name}`' for name in ENVELOPES)}.", examples=["data"]),
    ] = None
    headers: Annotated[
        Annotated[dict[_HeaderName, Annotated[str, Meta(extra={"parse": _template})]], Meta(max_length=32)] | None,
        Meta(
            description="Further headers, of `{id} {type} {timestamp} {attempt} {retry} {method} {url} {tenant}`; `attempt`"
            " counts from 1, `retry` from 0 and anew for a retry by hand.",
            examples=[{"X-Acme-Event": "{type}", "X-Acme-Retry": "{retry}"}],
        ),
    ] = None
    success: Annotated[
        Literal["2xx"] | Annotated[list[_Code], Meta(min_length=1, max_length=100)] | None,
        Meta(
            description='The status codes that count as delivered: `"2xx"`, or a list.',
            examples=[[200, 202]],
            extra={"expected": "'2xx', or a list of codes from 200 to 599"},
        ),
    ] = None
    timeout: Annotated[
        Annotated[Duration, Meta(extra={"parse": _timeout})] | None,
        Meta(description="How long one attempt may take.", examples=["5s"]),
    ] = None
    retry_schedule: Annotated[
        Annotated[list[Annotated[Duration, Meta(extra={"parse": _delay})]], Meta(max_length=50)] | None,
        Meta(
            description="The delays between attempts; after the last the delivery is given up.", examples=[["10s", "5m", "1h"]]
        ),
    ] = None
    jitter: Annotated[
        Annotated[float, Meta(ge=0, le=1)] | None,
        Meta(description="A delay grows by up to this part of itself, at random.", examples=[0.2]),
    ] = None
    gone: Annotated[_Codes | None, Meta(description="Codes that disable the subscription at once.", examples=[[404, 410]])] = (
        None
    )
    throttle: Annotated[_Codes | None, Meta(description="Codes that halve the attempts at a time.", examples=[[429, 503]])] = (
        None
    )
    retry_after: Annotated[_Codes | None, Meta(description="Codes whose `Retry-After` is obeyed.", examples=[[429]])] = None
    breaker: Annotated[
        bool | None,
        Meta(description="After 10 failures running, one attempt at a time, with growing pauses.", examples=[False]),
    ] = None
    verify_on_save: Annotated[
        Annotated[int, Meta(ge=0, le=599)] | None,
        Meta(
            description="A subscription is saved only if a test request is answered with this code; 0: no test is made.",
            examples=[200],
        ),
    ] = None
    disable_after_failures: Annotated[
        Annotated[int, Meta(ge=0, le=1_000_000)] | None,
        Meta(description="Failures running, over all deliveries, that disable the subscription; 0: none do.", examples=[20]),
    ] = None
    disable_after: Annotated[
        Duration | None,
        Meta(description="How long one unbroken run of failures lasts until it disables; `0s`: none does.", examples=["2d"]),
    ] = None
    secret_scope: Annotated[
        Literal["subscription", "tenant"] | None,
        Meta(description="Whose secret signs: each subscription has its own, or the tenant has one.", examples=["tenant"]),
    ] = None
    batch: Annotated[
        BatchInput | None,
        Meta(
            description="When a request with several events goes, which only `clevertap`'s envelope can hold, as"
            ' `{ max_events = 100, max_wait = "1s" }`: once it has so many, or the first has waited so long. With'
            " `max_events = 1` each event has a request of its own.",
        ),
    ] = None
    failed_label: Annotated[
        Annotated[str, Meta(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*\Z", extra={"expected": "one line"})] | None,
        Meta(description="The words shown when a delivery is given up; an empty text: none.", examples=["Not delivered"]),
    ] = None
    signatures: Annotated[
        Annotated[list[SignatureTable], Meta(max_length=8)] | None,
        Meta(description="The signatures, in place of all that it would have: `[[profiles.NAME.signatures]]`, below."),
    ] = None


class Profiles(Mapping[str, Profile]):
    """All profiles that an engine knows: hookengine's, then those of its configuration."""

    def __init__(self, own: Mapping[str, Profile] | None = None) -> None:
        self._all = {**PROFILES, **(own or {})}

    def __getitem__(self, name: str) -> Profile:
        return self._all[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)

    def __repr__(self) -> str:
        return f"<Profiles {' '.join(self._all)}>"


def read(problems: Problems, tables: Any, at: str) -> Profiles:
    """The profiles of *tables* by name, in whatever order they build on each other; those that are wrong are left out."""
    if not isinstance(tables, Mapping):
        problems.convert(ProfileTable, tables, at)  # says that it is no table
        return Profiles()
    reading = _Reading(problems, {str(name): table for name, table in tables.items()}, at)
    return Profiles({name: profile for name in map(str, tables) if (profile := reading.profile(name)) is not None})


class _Reading:
    """The tables while they are made into profiles, each after the one that it extends."""

    def __init__(self, problems: Problems, tables: Mapping[str, Any], at: str) -> None:
        self._problems = problems
        self._at = at
        self._drafts: dict[str, Draft[ProfileTable]] = {}
        self._made: dict[str, Profile | None] = {}
        for name, table in tables.items():
            self._check_name(name)
            self._drafts[name] = problems.convert(ProfileTable, table, self._place(name))

    def profile(self, name: str, heirs: tuple[str, ...] = ()) -> Profile | None:
        """The profile *name*, for the *heirs* that extend it one after the other; None where something is wrong."""
        if name not in self._drafts:
            return PROFILES[name]
        if name not in self._made:
            base = self._base(name, (*heirs, name))
            before = len(self._problems.mistakes)
            draft = self._drafts[name]
            made = None if base is None else self._checked(_extended(name, base, draft), draft)
            is_right = draft.whole is not None and len(self._problems.mistakes) == before and name not in PROFILES
            self._made[name] = made if is_right else None
        return self._made[name]

    def _base(self, name: str, heirs: tuple[str, ...]) -> Profile | None:
        wanted = self._drafts[name].get("extends")
        if wanted is None:
            return None
        place = self._place(name, "extends")
        if wanted in heirs:
            circle = " extends ".join((*heirs[heirs.index(wanted) :], wanted))
            self._problems.add(place, "circular_profile", f"a profile cannot build on itself: {circle}")
            return None
        if wanted not in self._drafts and wanted not in PROFILES:
            known = [each for each in (*PROFILES, *self._drafts) if each != name]
            names = ", ".join(map(quoted, known))
            self._problems.add(place, "unknown_profile", f"expected one of {names}{did_you_mean(wanted, known)}")
            return None
        return self.profile(wanted, heirs)

    def _place(self, *parts: str) -> str:
        return self._at + pointer(*parts)

    def _check_name(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            self._problems.add(self._place(name), "invalid_value", "expected a name of letters, digits, _ and -")
        elif name in PROFILES:
            self._problems.add(
                self._place(name), "reserved_profile", f"hookengine has a profile {quoted(name)}: choose another name"
            )

    def _checked(self, profile: Profile, draft: Draft[ProfileTable]) -> Profile:
        """*profile*, once what is wrong between its fields is named, each at the first of them that the table has."""

        def wrong(detail: str, *keys: str) -> None:
            key = next((key for key in keys if draft.get(key) is not None), "extends")
            self._problems.add(self._place(profile.name, key), "invalid_value", detail)

        envelope = profile.envelope
        if profile.method == "GET" and not envelope.addressed:
            wrong(f"GET carries no body, and the envelope {quoted(envelope.name)} is one", "method", "envelope")
        if profile.batch is not None and envelope.make_batch is None:
            wrong(f"the envelope {quoted(envelope.name)} holds one event", "batch", "envelope")
        for name in _named_twice(profile):
            wrong(f"the header {quoted(name)} is there twice", "headers", "signatures")
        for header, schemes in _by_header(profile).items():
            if len(schemes) > 1 and not _share(schemes):
                detail = (
                    f"signatures share the header {quoted(header)} only with `several`, one `separator`, and one item each"
                )
                wrong(detail, "signatures")
        if profile.schemes and (why := misfit(profile.schemes, new_secret(bytes(32)))) is not None:
            wrong(f"none of them can sign with the secrets that hookengine makes (whsec_…): {why}", "signatures")
        return profile


def _extended(name: str, base: Profile, draft: Draft[ProfileTable]) -> Profile:
    """*base* with what the table *name* has in place of it, as far as that is valid."""
    given = {field: value for field in ProfileTable.__struct_fields__ if (value := draft.get(field)) is not None}
    changes: dict[str, Any] = {key: given[key] for key in ("method", "content_type", "secret_scope") if key in given}
    if "envelope" in given:
        changes["envelope"] = envelope = ENVELOPES[given["envelope"]]
        if envelope.make_batch is None:  # what the base says of batches was of its own envelope
            changes["batch"] = None
    if "batch" in given:
        changes["batch"] = given["batch"].batching()
    if "headers" in given:
        changes["headers"] = tuple(given["headers"].items())
    if "signatures" in given:
        changes["schemes"] = tuple(signature.scheme() for signature in given["signatures"])
    if "verify_on_save" in given:
        changes["verify_on_save"] = given["verify_on_save"] or None
    return replace(base, name=name, rules=_rules(base.rules, given), **changes)


def _rules(base: Rules, given: Mapping[str, Any]) -> Rules:
    changes: dict[str, Any] = {key: given[key] for key in ("jitter", "breaker") if key in given}
    changes |= {key: frozenset(given[key]) for key in ("gone", "throttle", "retry_after") if key in given}
    # TOML has no null: zero and the empty text take back what the base has.
    changes |= {key: given[key] or None for key in ("disable_after_failures", "disable_after", "failed_label") if key in given}
    if "success" in given:
        changes["success"] = None if given["success"] == "2xx" else frozenset(given["success"])
    if "timeout" in given:
        changes["timeout"] = int(given["timeout"])
    if "retry_schedule" in given:
        changes["retry_schedule"] = tuple(map(int, given["retry_schedule"]))
    return replace(base, **changes)


def _by_header(profile: Profile) -> dict[str, list[Scheme]]:
    found: dict[str, list[Scheme]] = {}
    for scheme in profile.schemes:
        found.setdefault(scheme.header.lower(), []).append(scheme)
    return found


def _share(schemes: list[Scheme]) -> bool:
    """Whether the signatures of *schemes* can stand side by side in one header, and be told apart from what is around."""
    first = schemes[0].separator
    return all(each.several and each.separator == first and each.separator not in each.value for each in schemes)


def _named_twice(profile: Profile) -> list[str]:
    """The headers that the profile would send twice: signatures may share theirs, and an id or a timestamp has one form."""
    signing = {scheme.header.lower() for scheme in profile.schemes}
    beside = {
        name.lower() for scheme in profile.schemes for name in (scheme.id_header, scheme.timestamp_header) if name is not None
    }
    names = [*signing, *beside, *(name.lower() for name, _ in profile.headers)]
    return sorted({name for name in names if names.count(name) > 1})
