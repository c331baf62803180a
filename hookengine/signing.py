"""Signature schemes as data, the table of all profiles' schemes, and how to sign and verify with them."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
from binascii import a2b_base64, b2a_base64, unhexlify
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import ceil
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from hookengine.errors import VerificationError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import ModuleType

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

    Values = tuple[str, str, str, str, str]  # as _VARIABLES names them
    Maker = Callable[[Values, bytes], str]
    Fill = Callable[..., str]  # str.format of a template, called with values

Algorithm = Literal["hmac-sha256", "hmac-sha1", "hmac-sha512", "ed25519"]
Encoding = Literal["hex", "base64"]
KeyForm = Literal["utf8", "base64"]
Moment = Literal["attempt", "event"]
Headers = Mapping[str, str] | Iterable[tuple[str | bytes, str | bytes]]

_VARIABLES = ("id", "attempt", "event", "method", "url", "signatures")
_SYMMETRIC, _PRIVATE, _PUBLIC = "whsec_", "whsk_", "whpk_"
_ENCODERS: dict[Encoding, Callable[[bytes], str]] = {
    "hex": bytes.hex,
    "base64": lambda raw: b2a_base64(raw, newline=False).decode("ascii"),
}
_DIGESTS = {"hmac-sha256": "sha256", "hmac-sha1": "sha1", "hmac-sha512": "sha512"}
_KEY_BYTES = range(24, 65)  # Standard Webhooks 1.0.0, "Signature scheme"
_NEW_KEY_BYTES = 32
_SEED_BYTES = 32  # of an Ed25519 private key: RFC 8032, 5.1.5
_TEXT_SECRET_CHARACTERS = 512
_TIMESTAMP_DIGITS = 15
_MAX_SIGNATURES = 100  # in one header: bounds what a hostile one costs
_MAX_HINT_BODY = 65_536


class _Item(NamedTuple):
    """What stands around a variable in one item of a header's value."""

    head: str
    tail: str

    def find(self, items: list[str]) -> list[str]:
        """What *items* have in the variable's place; those of another form are skipped."""
        head, tail = self
        fitting = [each for each in items if each.startswith(head) and each.endswith(tail)]
        return [each[len(head) : len(each) - len(tail)] for each in fitting if len(each) >= len(head) + len(tail)]


class _Templates(NamedTuple):
    """Those of a scheme, compiled: `signed` is cut where the body goes, `value` takes the joined signatures last."""

    message: Callable[[Values, bytes], bytes]  # the bytes that are signed
    value: Fill
    bare: bool
    signature: _Item
    timestamp: _Item | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheme:
    """
    One way of signing a request.

    `signed` is what the signature covers, of `{id} {timestamp} {method} {url} {body}`. `value` is what `header` holds: items
    with `separator` between them, one of them with `{signature}`, another maybe with `{timestamp}`. With `several` the
    signature's item stands once for each secret; otherwise the newest secret signs alone. Raises ValueError where the
    fields do not fit together.
    """

    header: str
    value: str
    signed: str
    algorithm: Algorithm = "hmac-sha256"
    encoding: Encoding = "hex"
    key: KeyForm = "utf8"  # the secret's characters, or what follows `prefix`, decoded
    prefix: str = ""  # of the secrets that this scheme takes
    public_prefix: str | None = None  # of the public keys that verify what an Ed25519 secret signed
    timestamp: Moment = "attempt"
    separator: str = ""
    several: bool = False
    id_header: str | None = None
    timestamp_header: str | None = None
    templates: _Templates = field(init=False, repr=False, compare=False)
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, known in (("algorithm", Algorithm), ("encoding", Encoding), ("key", KeyForm), ("timestamp", Moment)):
            if getattr(self, name) not in get_args(known):
                raise ValueError(f"{name} is one of {', '.join(get_args(known))}")
        if self.algorithm == "ed25519" and self.key != "base64":
            raise ValueError("the key of ed25519 is base64")
        if self.several and not self.separator:
            raise ValueError("several signatures in one header need a separator")
        object.__setattr__(self, "templates", _compile(self))
        object.__setattr__(self, "_hash", hash((self.header, self.value, self.signed, self.prefix)))

    def __hash__(self) -> int:
        return self._hash  # made once, because every signing looks its schemes up

    def takes(self, secret: str) -> bool:
        """Whether a secret of this form signs with this scheme."""
        return secret.startswith(self.prefix)

    def takes_public(self, key: str) -> bool:
        """Whether a public key of this form verifies what was signed with this scheme."""
        return self.public_prefix is not None and key.startswith(self.public_prefix)


def _compile(scheme: Scheme) -> _Templates:
    signed = _variables(scheme.signed, {"id", "timestamp", "method", "url", "body"})
    if signed.count("body") != 1:
        raise ValueError(f"signed has {{body}} once: {scheme.signed}")
    if "id" in signed and scheme.id_header is None:
        raise ValueError("the id is signed, but id_header does not say which header carries it")
    items: dict[str, _Item] = {}
    for item in _items(scheme, scheme.value):
        for name in _variables(item, {"signature", "timestamp"}):
            head, _, tail = item.partition(f"{{{name}}}")
            if name in items or "{" in head + tail:
                raise ValueError(f"value has each variable once, in an item of its own: {scheme.value}")
            items[name] = _Item(head, tail)
    if "signature" not in items:
        raise ValueError(f"value has {{signature}}: {scheme.value}")
    if "timestamp" in items and len(items["timestamp"].find(_items(scheme, scheme.value))) > 1:
        raise ValueError(f"in value, nothing tells the timestamp from what is beside it: {scheme.value}")
    if "timestamp" in signed and scheme.timestamp_header is None and "timestamp" not in items:
        raise ValueError("the timestamp is signed, but neither timestamp_header nor value says where it is")
    before, after = scheme.signed.split("{body}")
    value = scheme.value.replace("{signature}".join(items["signature"]), "{signatures}")
    return _Templates(
        message=_message(_fill(before, scheme), _fill(after, scheme) if after else None),
        value=_fill(value, scheme),
        bare=value == "{signatures}",
        signature=items["signature"],
        timestamp=items.get("timestamp"),
    )


def _variables(template: str, known: set[str]) -> list[str]:
    names = re.findall(r"\{([a-z]+)\}", template)
    if not known.issuperset(names) or not len(names) == template.count("{") == template.count("}"):
        raise ValueError(f"a template has no braces but those of {', '.join(sorted(known))}: {template}")
    return names


def _message(before: Fill, after: Fill | None) -> Callable[[Values, bytes], bytes]:
    # Servers hand on header bytes that are no UTF-8 as surrogates; no two texts may become the same bytes.
    if after is None:
        return lambda values, body: before(*values).encode("utf-8", "surrogatepass") + body
    return lambda values, body: (
        before(*values).encode("utf-8", "surrogatepass") + body + after(*values).encode("utf-8", "surrogatepass")
    )


def _fill(template: str, scheme: Scheme) -> Fill:
    places = {name: f"{{{place}}}" for place, name in enumerate(_VARIABLES)}
    places["timestamp"] = places[scheme.timestamp]
    return re.sub(r"\{([a-z]+)\}", lambda found: places[found[1]], template).format


def _items(scheme: Scheme, value: str) -> list[str]:
    return value.split(scheme.separator) if scheme.separator else [value]


def _standard_webhooks(brand: str) -> tuple[Scheme, ...]:
    symmetric = Scheme(
        header=f"{brand}-signature",
        value="v1,{signature}",
        signed="{id}.{timestamp}.{body}",
        encoding="base64",
        key="base64",
        prefix=_SYMMETRIC,
        separator=" ",
        several=True,
        id_header=f"{brand}-id",
        timestamp_header=f"{brand}-timestamp",
    )
    asymmetric = replace(symmetric, value="v1a,{signature}", algorithm="ed25519", prefix=_PRIVATE, public_prefix=_PUBLIC)
    return symmetric, asymmetric


SCHEMES: Mapping[str, tuple[Scheme, ...]] = MappingProxyType(
    {
        "standard": _standard_webhooks("webhook"),
        "svix": _standard_webhooks("svix"),
        "clearfeed": (
            Scheme(
                header="X-CF-Signature",
                value="{signature}",
                signed="{method}{url}{body}{timestamp}",
                timestamp="event",
                timestamp_header="X-CF-Timestamp",
            ),
        ),
        "clarife": (
            Scheme(header="X-Clarife-Signature", value="t={timestamp},v1={signature}", signed="{body}", separator=","),
        ),
        "clevertap": (),
        "github": (Scheme(header="X-Hub-Signature-256", value="sha256={signature}", signed="{body}"),),
        "stripe": (
            Scheme(
                header="Stripe-Signature",
                value="t={timestamp},v1={signature}",
                signed="{timestamp}.{body}",
                separator=",",
                several=True,
            ),
        ),
        "slack": (
            Scheme(
                header="X-Slack-Signature",
                value="v0={signature}",
                signed="v0:{timestamp}:{body}",
                timestamp_header="X-Slack-Request-Timestamp",
            ),
        ),
        "shopify": (Scheme(header="X-Shopify-Hmac-Sha256", value="{signature}", signed="{body}", encoding="base64"),),
    }
)


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
    unsigned. Raises ValueError for a secret that cannot sign.
    """
    values = (id, str(timestamp), str(event_timestamp), method, url)
    return tuple([(header, make(values, body)) for header, make in _plan(tuple(schemes), tuple(secrets))])


@lru_cache(maxsize=4096)
def _plan(schemes: tuple[Scheme, ...], secrets: tuple[str, ...]) -> tuple[tuple[str, Maker], ...]:
    """The headers that requests carry, each with what makes its value."""
    for secret in secrets if schemes else ():
        check_secret(schemes, secret)
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
    place = _VARIABLES.index(variable)
    return lambda values, _: values[place]


def _joined(scheme: Scheme, makers: list[Maker]) -> Maker:
    fill, separator = scheme.templates.value, scheme.separator
    if scheme.templates.bare and len(makers) == 1:
        return makers[0]  # the usual case, without the templates
    return lambda values, body: fill(*values, separator.join([make(values, body) for make in makers]))


def _maker(scheme: Scheme, secret: str) -> Maker:
    """What makes a signature as it stands in the header, such as `v1,…`."""
    head, tail = scheme.templates.signature
    message, sign, encode = scheme.templates.message, _signer(scheme, secret), _ENCODERS[scheme.encoding]
    return lambda values, body: head + encode(sign(message(values, body))) + tail


def verify(
    body: bytes,
    headers: Headers,
    secret: str | list[str],
    *,
    profile: str | Sequence[Scheme] = "standard",
    method: str = "POST",
    url: str | None = None,
    tolerance: float = 300,
    now: float | None = None,
) -> None:
    """
    Return if the request was signed with one of the secrets, else raise VerificationError.

    *body* is what arrived, before anything parsed it. Header names are found in any case, also in bytes, as ASGI has them.
    Ed25519 signatures are verified with the public key or with the secret. *url* is needed where the profile signs it, as
    the sender knows it. *tolerance* and *now* are seconds, *now* since the epoch. Raises ValueError for a body that is no
    bytes and for a *url* that is missing; a secret or profile that nobody could use is a VerificationError.
    """
    if not isinstance(body, bytes):
        raise ValueError("the body is the bytes that arrived: text or JSON may differ")  # noqa: TRY004  # one class for all misuse
    schemes = SCHEMES.get(profile) if isinstance(profile, str) else profile
    if schemes is None:
        raise VerificationError("unknown_profile", f"no profile has this name; known are {', '.join(SCHEMES)}")
    if not schemes:
        raise VerificationError("unsigned_profile", "requests of this profile carry no signature: authenticate them otherwise")
    if url is None and any("{url}" in scheme.signed for scheme in schemes):
        raise ValueError("this profile signs the URL: pass url, as the sender knows it")
    secrets = _known_secrets(schemes, secret)
    found = _by_name(headers)
    at = time.time() if now is None else now

    wanted = [scheme for scheme in schemes if any(_fits(scheme, each) for each in secrets)]
    present = [scheme for scheme in wanted if scheme.header.lower() in found]
    if not present:
        raise _unsigned(wanted[0], found)
    claims = [_claim(scheme, found, method, url or "") for scheme in present]
    for claim in claims:
        if claim.timestamp is not None:
            _check_age(claim.timestamp, at, tolerance)
    if not _hold(claims, secrets, body):
        raise _refusal(claims, schemes, found, secrets, body)


def check_secret(profile: str | Sequence[Scheme], secret: str) -> None:
    """Raise ValueError, with a sentence for the user, unless requests can be signed with *secret*."""
    schemes = SCHEMES.get(profile) if isinstance(profile, str) else profile
    if schemes is None:
        raise ValueError(f"no profile has this name; known are {', '.join(SCHEMES)}")
    if not schemes:
        raise ValueError("this profile signs nothing, so that it takes no secret")
    _check_form(schemes, secret)
    fitting = [scheme for scheme in schemes if scheme.takes(secret)]
    if not fitting:
        raise ValueError("this is a public key: it verifies signatures but cannot make them")
    for scheme in fitting:
        _signer(scheme, secret)


def new_secret(random: bytes) -> str:
    """A secret made of 32 random bytes, fit for every profile."""
    if len(random) != _NEW_KEY_BYTES:
        raise ValueError(f"a new secret is made of {_NEW_KEY_BYTES} bytes, not {len(random)}")
    return _SYMMETRIC + b2a_base64(random, newline=False).decode("ascii")


def public_key(secret: str) -> str | None:
    """The public key that verifies what an Ed25519 secret signs; None for secrets that are none."""
    if not secret.startswith(_PRIVATE):
        return None
    try:
        raw = _private_key(secret.removeprefix(_PRIVATE)).public_key().public_bytes_raw()
    except ValueError:
        return None  # a profile whose key is the secret's characters takes such a text
    return _PUBLIC + b2a_base64(raw, newline=False).decode("ascii")


class _Claim(NamedTuple):
    """What a request says about its signature by one scheme."""

    scheme: Scheme
    signatures: list[str]
    timestamp: str | None
    values: Values

    def holds(self, secret: str, body: bytes) -> bool:
        """Whether one of the signatures is by *secret*, or by the secret of that public key."""
        if self.scheme.algorithm == "ed25519":
            public, message = _verifying_key(self.scheme, secret), self.scheme.templates.message(self.values, body)
            return any(_ed25519_verifies(public, each, message, self.scheme.encoding) for each in self.signatures)
        expected = _maker(self.scheme, secret)(self.values, body).encode()
        head, tail = self.scheme.templates.signature
        candidates = [(head + each + tail).encode("utf-8", "surrogatepass") for each in self.signatures]
        compared = [hmac.compare_digest(expected, each) for each in candidates]
        return any(compared)


def _claim(scheme: Scheme, found: Mapping[str, list[str]], method: str, url: str) -> _Claim:
    *_, signature, stamp = scheme.templates
    items = _items(scheme, _one(found, scheme.header))
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
    return any(claim.holds(secret, body) for claim in claims for secret in secrets if _fits(claim.scheme, secret))


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
        if any(other.templates.signature.find(_items(other, value)) for other, value in others):
            return VerificationError("no_match", f"the signatures in {scheme.header} are of another kind than the secret")
        return VerificationError("malformed_signature", f"{scheme.header} holds no signature of the form {scheme.value}")
    for original, words in _originals(body):
        if _hold([claim for claim in claims if claim.scheme.algorithm != "ed25519"], secrets, original):
            return VerificationError("no_match", f"the signature fits the body {words}: something changed it on the way")
    return VerificationError(
        "no_match", f"no signature fits: another secret, or a part of {scheme.signed} is not as the sender signed it"
    )


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
            _check_form(schemes, each)
            for scheme in schemes:
                if scheme.takes_public(each):
                    _verifying_key(scheme, each)
                elif scheme.takes(each):
                    _signer(scheme, each)
        except ValueError as error:
            raise VerificationError("invalid_secret", str(error)) from None
    return secrets


def _fits(scheme: Scheme, secret: str) -> bool:
    return scheme.takes(secret) or scheme.takes_public(secret)


def _check_form(schemes: Sequence[Scheme], secret: str) -> None:
    if not secret:
        raise ValueError("the secret is empty")
    if secret != secret.strip():
        raise ValueError("the secret begins or ends with white space")
    if not any(_fits(scheme, secret) for scheme in schemes):
        raise ValueError(f"the secret does not begin with {' or '.join(scheme.prefix for scheme in schemes)}")


def _signer(scheme: Scheme, secret: str) -> Callable[[bytes], bytes]:
    """What signs a message; raises ValueError where *secret* holds no key."""
    encoded = secret.removeprefix(scheme.prefix)
    if scheme.algorithm == "ed25519":
        return _private_key(encoded).sign
    key = _decoded_key(encoded) if scheme.key == "base64" else _text_key(secret)
    return _keyed(key, _DIGESTS[scheme.algorithm])


def _keyed(key: bytes, digest: str) -> Callable[[bytes], bytes]:
    """
    HMAC (RFC 2104, section 2), where the key's part of the work is done once.

    hmac.digest would do it every time, and lets go of the interpreter's lock, for which a busy event loop then has to queue; a
    copy of an `hmac.HMAC` takes half as long again (docs/performance.md).
    """
    size = hashlib.new(digest).block_size
    key = (key if len(key) <= size else hashlib.new(digest, key).digest()).ljust(size, b"\0")
    inner, outer = (hashlib.new(digest, bytes(byte ^ pad for byte in key)) for pad in (0x36, 0x5C))

    def signed(message: bytes) -> bytes:
        within, around = inner.copy(), outer.copy()
        within.update(message)
        around.update(within.digest())
        return around.digest()

    return signed


def _text_key(secret: str) -> bytes:
    if len(secret) > _TEXT_SECRET_CHARACTERS:
        raise ValueError(f"the secret is longer than {_TEXT_SECRET_CHARACTERS} characters")
    if not secret.isprintable():
        raise ValueError("the secret has characters that cannot be printed")
    return secret.encode()


def _decoded_key(encoded: str) -> bytes:
    key = _decoded(encoded)
    if len(key) not in _KEY_BYTES:
        raise ValueError(f"the secret holds {len(key)} bytes; {_KEY_BYTES[0]} to {_KEY_BYTES[-1]} are needed")
    return key


def _decoded(encoded: str) -> bytes:
    try:
        return a2b_base64(encoded, strict_mode=True)
    except ValueError:
        raise ValueError("what follows the secret's prefix is not base64: A-Z, a-z, 0-9, + and /, padded with =") from None


def _private_key(encoded: str) -> Ed25519PrivateKey:
    """The key of a seed, or of a seed with its public key behind it."""
    raw = _decoded(encoded)
    seed, public = raw[:_SEED_BYTES], raw[_SEED_BYTES:]
    if len(seed) != _SEED_BYTES or len(public) not in {0, _SEED_BYTES}:
        raise ValueError(f"an Ed25519 secret holds 32 or 64 bytes, this one {len(raw)}")
    key: Ed25519PrivateKey = _ed25519().Ed25519PrivateKey.from_private_bytes(seed)
    if public and public != key.public_key().public_bytes_raw():
        raise ValueError("the second half of the Ed25519 secret is not the public key of the first")
    return key


def _verifying_key(scheme: Scheme, secret: str) -> Ed25519PublicKey:
    if not scheme.takes_public(secret):
        return _private_key(secret.removeprefix(scheme.prefix)).public_key()
    raw = _decoded(secret.removeprefix(scheme.public_prefix or ""))
    if len(raw) != _SEED_BYTES:
        raise ValueError(f"an Ed25519 public key holds 32 bytes, this one {len(raw)}")
    key: Ed25519PublicKey = _ed25519().Ed25519PublicKey.from_public_bytes(raw)
    return key


def _ed25519() -> ModuleType:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415  # only Ed25519 needs the package
    except ImportError:
        raise ImportError("Ed25519 signatures need the package cryptography", name="cryptography") from None
    return ed25519


def _ed25519_verifies(public: Ed25519PublicKey, signature: str, message: bytes, encoding: Encoding) -> bool:
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415  # as above

    try:
        public.verify(unhexlify(signature) if encoding == "hex" else a2b_base64(signature, strict_mode=True), message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode("latin-1")
