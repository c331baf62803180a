"""How requests are signed, and how signatures are verified, by whatever scheme."""

from __future__ import annotations

import hmac
import json
import time
from binascii import b2a_base64
from collections.abc import Iterable, Mapping
from functools import lru_cache
from math import ceil, inf
from typing import TYPE_CHECKING, Any, NamedTuple

from hookengine.errors import VerificationError
from hookengine.schemes import SCHEMES, VARIABLES, Scheme, items_of
from hookengine.signing_keys import UnusableSecret, check_form, check_secret, ed25519_verifies, signer, verifying_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from hookengine.schemes import Encoding, Values

    Maker = Callable[[Values, bytes], str]

__all__ = ["SCHEMES", "Headers", "Scheme", "sign", "verify"]  # with what is of use to who verifies

Headers = Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]]

_ENCODERS: dict[Encoding, Callable[[bytes], str]] = {
    "hex": bytes.hex,
    "base64": lambda raw: b2a_base64(raw, newline=False).decode("ascii"),
}
_TIMESTAMP_DIGITS = 15
_LATEST = 10**_TIMESTAMP_DIGITS  # s since the epoch
_MAX_SIGNATURES = 100  # in one header: bounds what a hostile one costs
_MAX_HINT_BODY = 65_536


def sign(
    schemes: Sequence[Scheme],
    secrets: Sequence[str],
    *,
    id: str,  # the wire's own word
    timestamp: int,
    body: bytes,
    method: str,
    url: str,
    event_timestamp: int,
) -> tuple[tuple[str, str], ...]:
    """
    The headers to send: id, timestamp and signatures, as *schemes* have them.

    Times are Unix seconds, of the attempt and of the event. Secrets come newest first; without any the request goes
    unsigned. Raises UnusableSecret.
    """
    values = (id, str(timestamp), str(event_timestamp), method, url)
    return tuple([(header, make(values, body)) for header, make in _plan(tuple(schemes), tuple(secrets))])


# Making one takes 20 us, five times as long as signing with it. What is kept are secrets, also of subscriptions that are gone:
# so there is room for those that send at the same time, and not for all that there ever were.
@lru_cache(maxsize=1024)
def _plan(schemes: tuple[Scheme, ...], secrets: tuple[str, ...]) -> tuple[tuple[str, Maker], ...]:
    """The headers that requests carry, each with what makes its value."""
    for secret in secrets if schemes else ():
        try:
            check_secret(schemes, secret)
        except ValueError as error:
            raise UnusableSecret(str(error)) from error
    plan: dict[str, Maker] = {}
    signed: dict[str, list[Maker]] = {}
    for scheme in schemes:
        if scheme.id_header is not None:
            plan[scheme.id_header] = _value_of("id")
        if scheme.timestamp_header is not None:
            plan[scheme.timestamp_header] = _value_of(scheme.timestamp)
        fitting = [secret for secret in secrets if scheme.takes(secret)]
        makers = [_maker(scheme, secret) for secret in (fitting if scheme.several else fitting[:1])]
        if makers:
            # Schemes of one profile may share a header.
            signed.setdefault(scheme.header, []).extend(makers)
            plan[scheme.header] = _joined(scheme, signed[scheme.header])
    return tuple(plan.items())


def _value_of(variable: str) -> Maker:
    place = VARIABLES.index(variable)
    return lambda values, _: values[place]


def _joined(scheme: Scheme, makers: list[Maker]) -> Maker:
    fill, separator = scheme.templates.value, scheme.separator
    if scheme.templates.bare and len(makers) == 1:
        return makers[0]  # the usual case, without the templates
    return lambda values, body: fill(*values, separator.join([make(values, body) for make in makers]))


def _maker(scheme: Scheme, secret: str) -> Maker:
    """What makes a signature as it stands in the header, such as `v1,…`."""
    head, tail = scheme.templates.signature
    message, sign, encode = scheme.templates.message, signer(scheme, secret), _ENCODERS[scheme.encoding]
    return lambda values, body: head + encode(sign(message(values, body))) + tail


def verify(
    body: bytes,
    headers: Headers,
    secret: str | list[str],
    *,
    profile: str | Iterable[Scheme] = "standard",
    method: str = "POST",
    url: str | None = None,
    tolerance: float = 300,
    now: float | None = None,
) -> None:
    """
    Return if the request was signed with one of the secrets, else raise VerificationError.

    *body* is what arrived, before anything parsed it. Header names are found in any case, also in bytes, as ASGI has them.
    Ed25519 signatures are verified with the public key or with the secret. *url* is needed where the profile signs it, as
    the sender knows it. *tolerance* and *now* are seconds, *now* since the epoch. Raises ValueError for arguments of
    another type, such as a body that is no bytes, and for a *url* that is missing; a secret or profile that nobody could use
    is a VerificationError.
    """
    _check_arguments(body, secret, method=method, url=url, tolerance=tolerance, now=now)
    schemes = _schemes_of(profile)
    if schemes is None:
        raise VerificationError("unknown_profile", f"no profile has this name; known are {', '.join(SCHEMES)}")
    if not schemes:
        raise VerificationError("unsigned_profile", "requests of this profile carry no signature: authenticate them otherwise")
    if url is None and any("{url}" in scheme.signed for scheme in schemes):
        raise ValueError("this profile signs the URL: pass url, as the sender knows it")
    secrets = _known_secrets(schemes, secret)
    found = _by_name(headers)
    at = time.time() if now is None else now

    wanted = [scheme for scheme in schemes if any(scheme.fits(each) for each in secrets)]
    present = [scheme for scheme in wanted if scheme.header.lower() in found]
    if not present:
        raise _unsigned(wanted[0], found)
    claims = [_claim(scheme, found, method, url or "") for scheme in present]
    for claim in claims:
        if claim.timestamp is not None:
            _check_age(claim.timestamp, at, tolerance)
    if not _hold(claims, secrets, body):
        raise _refusal(claims, schemes, found, secrets, body)


def _schemes_of(profile: object) -> tuple[Scheme, ...] | None:
    """Those of a profile, None where no profile has this name; raises ValueError for what is neither a name nor schemes."""
    if isinstance(profile, str):
        return SCHEMES.get(profile)
    schemes = tuple(profile) if isinstance(profile, Iterable) and not isinstance(profile, bytes) else (None,)
    if not all(isinstance(each, Scheme) for each in schemes):
        raise ValueError("a profile is the name of one, or its schemes")
    return schemes


def _check_arguments(body: object, secret: object, *, method: object, url: object, tolerance: object, now: object) -> None:
    """Raise ValueError for what nobody could mean: a receiver that is wrong must not take each request for a forged one."""
    wrong = None
    if not isinstance(body, bytes):
        wrong = "the body is the bytes that arrived: text or JSON may differ"
    elif secret is not None and not isinstance(secret, Iterable):
        wrong = "a secret is text"
    elif not isinstance(method, str):
        wrong = "a method is text"
    elif url is not None and not isinstance(url, str):
        wrong = "a URL is text, as the sender knows it"
    elif not _is_time(tolerance, 0, inf):
        wrong = "tolerance is a number of seconds, none below 0"
    elif now is not None and not _is_time(now, -_LATEST, _LATEST):
        wrong = "now is a number of seconds since the epoch"
    if wrong is not None:
        raise ValueError(wrong)


def _is_time(value: Any, least: int, most: float) -> bool:
    try:
        return bool(least <= value <= most)  # which NaN is not
    except (TypeError, ArithmeticError):
        return False


class _Claim(NamedTuple):
    """What a request says about its signature by one scheme."""

    scheme: Scheme
    signatures: list[str]
    timestamp: str | None
    values: Values

    def holds(self, secret: str, body: bytes) -> bool:
        """Whether one of the signatures is by *secret*, or by the secret of that public key."""
        if self.scheme.algorithm == "ed25519":
            public, message = verifying_key(self.scheme, secret), self.scheme.templates.message(self.values, body)
            return any(ed25519_verifies(public, each, message, self.scheme.encoding) for each in self.signatures)
        expected = _maker(self.scheme, secret)(self.values, body).encode()
        head, tail = self.scheme.templates.signature
        candidates = [(head + each + tail).encode("utf-8", "surrogatepass") for each in self.signatures]
        compared = [hmac.compare_digest(expected, each) for each in candidates]
        return any(compared)


def _claim(scheme: Scheme, found: Mapping[str, list[str]], method: str, url: str) -> _Claim:
    *_, signature, stamp = scheme.templates
    items = items_of(scheme, _one(found, scheme.header))
    signatures = signature.find(items)
    if len(signatures) > _MAX_SIGNATURES:
        raise VerificationError("malformed_signature", f"{scheme.header} holds more than {_MAX_SIGNATURES} signatures")
    stamps = set(stamp.find(items)) if stamp is not None else set()
    if scheme.timestamp_header is not None:
        stamps.add(_one(found, scheme.timestamp_header))
    if len(stamps) != int(stamp is not None or scheme.timestamp_header is not None):
        raise VerificationError("malformed_signature", f"{scheme.header} is not of the form {scheme.value}")
    timestamp = stamps.pop() if stamps else None
    id_ = _one(found, scheme.id_header) if scheme.id_header is not None else ""
    return _Claim(scheme, signatures, timestamp, (id_, timestamp or "", timestamp or "", method, url))


def _check_age(timestamp: str, now: float, tolerance: float) -> None:
    if not (timestamp.isascii() and timestamp.isdigit() and len(timestamp) <= _TIMESTAMP_DIGITS):
        raise VerificationError("invalid_timestamp", "the timestamp is not a whole number of seconds since the epoch")
    age = now - int(timestamp)
    if abs(age) <= tolerance:
        return
    if age < 0:
        raise VerificationError(
            "timestamp_too_new", f"the timestamp is {_span(-age)} ahead of this clock; {_span(tolerance)} are allowed"
        )
    raise VerificationError("timestamp_too_old", f"the timestamp is {_span(age)} old; {_span(tolerance)} are allowed")


def _span(seconds: float) -> str:
    """A duration in its two largest units."""
    words, rest = [], ceil(seconds)
    for size, unit in ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")):
        count, rest = divmod(rest, size)
        if count:
            words.append(f"{count} {unit}{'s' if count > 1 else ''}")
    return " ".join(words[:2]) or "0 seconds"


def _hold(claims: list[_Claim], secrets: list[str], body: bytes) -> bool:
    return any(claim.holds(secret, body) for claim in claims for secret in secrets if claim.scheme.fits(secret))


def _unsigned(scheme: Scheme, found: Mapping[str, list[str]]) -> VerificationError:
    others = (profile for profile, rows in SCHEMES.items() if any(row.header.lower() in found for row in rows))
    hint = "".join(f"; there is one of the profile {profile}" for profile in others)
    return VerificationError("missing_header", f"the header {scheme.header} is missing{hint}")


def _refusal(
    claims: list[_Claim], schemes: Sequence[Scheme], found: Mapping[str, list[str]], secrets: list[str], body: bytes
) -> VerificationError:
    """Why no signature fits, as far as it can be told."""
    scheme = claims[0].scheme
    if not any(claim.signatures for claim in claims):
        others = [(other, value) for other in schemes for value in found.get(other.header.lower(), ())]
        if any(other.templates.signature.find(items_of(other, value)) for other, value in others):
            return VerificationError("no_match", f"the signatures in {scheme.header} are of another kind than the secret")
        return VerificationError("malformed_signature", f"{scheme.header} holds no signature of the form {scheme.value}")
    for original, words in _originals(body):
        if _hold([claim for claim in claims if claim.scheme.algorithm != "ed25519"], secrets, original):
            return VerificationError("no_match", f"the signature fits the body {words}: something changed it on the way")
    detail = f"no signature fits: another secret, or a part of {scheme.signed} is not as the sender signed it"
    if "{url}" in scheme.signed:
        detail += f"; the URL was taken to be {claims[0].values[-1]!r}"
    return VerificationError("no_match", detail)


def _originals(body: bytes) -> Iterator[tuple[bytes, str]]:
    """What *body* may have been before it was printed again, with a word for each."""
    if len(body) > _MAX_HINT_BODY:
        return
    if body.endswith(b"\n"):
        yield body.rstrip(b"\r\n"), "without its final newline"
    yield body + b"\n", "with a final newline"
    try:
        document = json.loads(body)
        yield json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode(), "in compact form"
    except (ValueError, RecursionError):
        return


def _by_name(headers: Headers) -> dict[str, list[str]]:
    """All values of each header, by its name in lower case."""
    found: dict[str, list[str]] = {}
    # Not by type: the headers of http.server and of several frameworks are no Mapping.
    pairs: Any = headers.items() if hasattr(headers, "items") else headers
    try:
        for name, value in pairs:
            if isinstance(name, str | bytes) and isinstance(value, str | bytes):
                found.setdefault(_text(name).lower(), []).append(_text(value).strip(" \t"))
    except (TypeError, ValueError):
        raise ValueError("headers are a mapping, or pairs of a name and a value") from None
    return found


def _one(found: Mapping[str, list[str]], name: str) -> str:
    """The value of header *name*."""
    values = set(found.get(name.lower(), ()))
    if len(values) > 1:
        # A framework hands on the first or the last: what was verified must be what the receiver then reads.
        raise VerificationError("repeated_header", f"the header {name} is there more than once, with different values")
    if values <= {""}:
        raise VerificationError("missing_header", f"the header {name} is missing or empty")
    return values.pop()


def _known_secrets(schemes: Sequence[Scheme], secret: str | list[str]) -> list[str]:
    """The secrets to verify with, each of them checked."""
    secrets = [secret] if isinstance(secret, str) else list(secret or ())
    if not secrets:
        raise VerificationError("invalid_secret", "no secret was given")
    if not all(isinstance(each, str) for each in secrets):
        raise ValueError("a secret is text")
    for each in secrets:
        try:
            check_form(schemes, each)
            for scheme in schemes:
                if scheme.takes_public(each):
                    verifying_key(scheme, each)
                elif scheme.takes(each):
                    signer(scheme, each)
        except ValueError as error:
            raise VerificationError("invalid_secret", str(error)) from None
    return secrets


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
