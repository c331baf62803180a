"""What secrets hold: keys, checked, made, and as what signs and verifies with them."""

from __future__ import annotations

import hashlib
from binascii import a2b_base64, b2a_base64, unhexlify
from typing import TYPE_CHECKING

from hookengine.schemes import PRIVATE, PUBLIC, SCHEMES, SYMMETRIC

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

    from hookengine.schemes import Encoding, Scheme

_DIGESTS = {"hmac-sha256": "sha256", "hmac-sha1": "sha1", "hmac-sha512": "sha512"}
_KEY_BYTES = range(24, 65)  # Standard Webhooks 1.0.0, "Signature scheme"
_NEW_KEY_BYTES = 32
_SEED_BYTES = 32  # of an Ed25519 private key: RFC 8032, 5.1.5
_TEXT_SECRET_CHARACTERS = 512


class UnusableSecret(ValueError):
    """Requests cannot be signed with a secret; the text is for users, and repeats nothing of it."""


def check_secret(profile: str | Sequence[Scheme], secret: str) -> None:
    """Raise ValueError, with a sentence for the user, unless requests can be signed with *secret*."""
    schemes = SCHEMES.get(profile) if isinstance(profile, str) else profile
    if schemes is None:
        raise ValueError(f"no profile has this name; known are {', '.join(SCHEMES)}")
    if not schemes:
        raise ValueError("this profile signs nothing, so that it takes no secret")
    check_form(schemes, secret)
    fitting = [scheme for scheme in schemes if scheme.takes(secret)]
    if not fitting:
        raise ValueError("this is a public key: it verifies signatures but cannot make them")
    for scheme in fitting:
        signer(scheme, secret)


def misfit(schemes: Sequence[Scheme], secret: str) -> str | None:
    """Why requests cannot be signed with *secret*, as `check_secret` says it; None where they can."""
    try:
        check_secret(schemes, secret)
    except ValueError as error:
        return str(error)
    return None


def new_secret(random: bytes) -> str:
    """A secret made of 32 random bytes, fit for every profile."""
    if len(random) != _NEW_KEY_BYTES:
        raise ValueError(f"a new secret is made of {_NEW_KEY_BYTES} bytes, not {len(random)}")
    return SYMMETRIC + b2a_base64(random, newline=False).decode("ascii")


def public_key(secret: str) -> str | None:
    """The public key that verifies what an Ed25519 secret signs; None for secrets that are none."""
    if not secret.startswith(PRIVATE):
        return None
    try:
        raw = _private_key(secret.removeprefix(PRIVATE)).public_key().public_bytes_raw()
    except ValueError:
        return None  # a profile whose key is the secret's characters takes such a text
    return PUBLIC + b2a_base64(raw, newline=False).decode("ascii")


def check_form(schemes: Sequence[Scheme], secret: str) -> None:
    """Raise ValueError unless *secret* is a secret or public key of the form that one of *schemes* takes."""
    if not secret:
        raise ValueError("the secret is empty")
    if secret != secret.strip():
        raise ValueError("the secret begins or ends with white space")
    if not any(scheme.fits(secret) for scheme in schemes):
        raise ValueError(f"the secret does not begin with {' or '.join(scheme.prefix for scheme in schemes)}")


def signer(scheme: Scheme, secret: str) -> Callable[[bytes], bytes]:
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


def verifying_key(scheme: Scheme, secret: str) -> Ed25519PublicKey:
    """The key of a public key, or of the secret that it belongs to; raises ValueError where there is none in it."""
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


def ed25519_verifies(public: Ed25519PublicKey, signature: str, message: bytes, encoding: Encoding) -> bool:
    """Whether *signature*, as it stands in a header, is one of *message*."""
    from cryptography.exceptions import InvalidSignature  # noqa: PLC0415  # as above

    try:
        public.verify(unhexlify(signature) if encoding == "hex" else a2b_base64(signature, strict_mode=True), message)
    except (InvalidSignature, ValueError):
        return False
    return True
