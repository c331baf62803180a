"""Secrets and the keys in them: good ones, bad ones, new ones."""

from __future__ import annotations

import base64
import hmac
from typing import Any

import pytest
from interpreters import fresh
from vectors import BODY, ED_PUBLIC, ED_SECRET, ED_SEED, GITHUB_SECRET, KEY, OTHER_SECRET, SECRET, SIGNING_PROFILES

from hookengine.schemes import SCHEMES
from hookengine.signing_keys import _keyed, check_secret, misfit, new_secret, public_key


@pytest.mark.parametrize(
    ("profile", "secret"),
    [
        ("standard", SECRET),
        ("svix", OTHER_SECRET),
        ("standard", "whsec_" + base64.b64encode(b"k" * 64).decode()),
        ("standard", ED_SECRET),
        ("standard", ED_SEED),
        ("github", "x"),
        ("github", GITHUB_SECRET),
        ("slack", "ключ"),
        ("stripe", SECRET),
        ("shopify", "x" * 512),
        (SCHEMES["svix"], SECRET),
    ],
)
def test_good_secrets(profile: Any, secret: str) -> None:
    """Secrets that the profile can sign with are admitted."""
    check_secret(profile, secret)


@pytest.mark.parametrize(
    ("profile", "secret", "expected"),
    [
        ("standard", "", "the secret is empty"),
        ("standard", f" {SECRET}", "begins or ends with white space"),
        ("standard", f"{SECRET}\n", "begins or ends with white space"),
        ("standard", "plain", "does not begin with whsec_ or whsk_"),
        ("svix", SECRET[6:], "does not begin with whsec_ or whsk_"),
        ("standard", SECRET.upper(), "does not begin with whsec_ or whsk_"),
        ("standard", ED_PUBLIC, "this is a public key"),
        ("standard", "whsec_", "holds 0 bytes; 24 to 64 are needed"),
        ("standard", "whsec_" + base64.b64encode(b"k" * 23).decode(), "holds 23 bytes"),
        ("standard", "whsec_" + base64.b64encode(b"k" * 65).decode(), "holds 65 bytes"),
        ("standard", f"whsec_{KEY}".rstrip("="), "not base64"),
        ("standard", "whsec_" + base64.urlsafe_b64encode(b"\xff" * 32).decode(), "not base64"),
        ("standard", f"whsec_{KEY[:20]} {KEY[20:]}", "not base64"),
        ("standard", "whsec_é", "not base64"),
        ("standard", "whsk_" + base64.b64encode(b"k" * 31).decode(), "32 or 64 bytes, this one 31"),
        ("standard", "whsk_" + base64.b64encode(b"k" * 48).decode(), "32 or 64 bytes, this one 48"),
        ("standard", "whsk_" + base64.b64encode(b"k" * 65).decode(), "32 or 64 bytes, this one 65"),
        ("standard", "whsk_" + base64.b64encode(b"k" * 64).decode(), "second half"),
        ("github", "", "the secret is empty"),
        ("github", "x" * 513, "longer than 512"),
        ("github", "a\x00b", "cannot be printed"),
        ("github", "a\ud800b", "cannot be printed"),
        ("github", "shh ", "begins or ends with white space"),
        ("clevertap", SECRET, "signs nothing"),
        ("acme", SECRET, "no profile has this name"),
    ],
)
def test_bad_secrets(profile: str, secret: str, expected: str) -> None:
    """A secret that the profile cannot sign with is refused with a sentence that names why, and without the secret."""
    with pytest.raises(ValueError, match=expected) as caught:
        check_secret(profile, secret)

    assert len(secret) < 6 or secret[5:] not in str(caught.value)


def test_new_secret() -> None:
    """A new secret is `whsec_` and the base64 of its 32 bytes, and every profile that signs takes it."""
    secret = new_secret(b"k" * 32)

    assert f"whsec_{KEY}" == secret
    for profile in SIGNING_PROFILES:
        check_secret(profile, secret)


@pytest.mark.parametrize("count", [0, 24, 31, 33])
def test_new_secret_needs_32_bytes(count: int) -> None:
    """A secret of less is not made by mistake."""
    with pytest.raises(ValueError, match=f"32 bytes, not {count}"):
        new_secret(bytes(count))


@pytest.mark.parametrize(
    ("secret", "expected"),
    [(ED_SECRET, ED_PUBLIC), (ED_SEED, ED_PUBLIC), (SECRET, None), (ED_PUBLIC, None), ("plain", None), ("whsk_plain", None)],
)
def test_public_key(secret: str, expected: str | None) -> None:
    """An Ed25519 secret has a public key, no other secret has."""
    assert expected == public_key(secret)


def test_missing_package_is_named() -> None:
    """Without cryptography, Ed25519 ends with an error that names it."""
    code = f"""
from hookengine.signing_keys import public_key
try:
    public_key({ED_SECRET!r})
except ImportError as error:
    print(error, error.name)
"""
    assert "Ed25519 signatures need the package cryptography cryptography" == fresh(code, "-S")


@pytest.mark.parametrize("digest", ["sha1", "sha256", "sha512"])
@pytest.mark.parametrize("length", [1, 63, 64, 65, 127, 128, 129, 512])
def test_hmac_of_any_key(digest: str, length: int) -> None:
    """The keyed hash is Python's own, for keys shorter than a block, as long as one, and longer."""
    key = bytes(range(256))[-length:] * (1 + length // 257)
    signed = _keyed(key, digest)

    for message in (b"", b"a", BODY * 1000):
        assert hmac.digest(key, message, digest) == signed(message) == signed(message)


def test_misfit_says_what_the_check_says() -> None:
    """A secret that fits has nothing to be said of it; of another there is the sentence of the check."""
    schemes = SCHEMES["standard"]
    assert misfit(schemes, SECRET) is None
    with pytest.raises(ValueError, match="begin") as caught:
        check_secret(schemes, "plain")
    assert str(caught.value) == misfit(schemes, "plain")
