"""Secrets at rest: AES-256-GCM, and the key that opens them."""

from __future__ import annotations

import base64
import os
from hashlib import sha256
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hookengine.errors import KeyUnusable, StartError, StorageCorrupt

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEY_VARIABLE = "HOOKENGINE_ENCRYPTION_KEY"
KEY_SIZE = 32

_VERSION = b"\x01"
_NONCE_SIZE = 12  # NIST SP 800-38D, 8.2.2: 96 random bits
_MARK_SIZE = 4
_CHECK_TEXT = b"hookengine"
_CHECK_CONTEXT = "check"


class Vault:
    """
    Seals and opens texts; what is sealed for one context does not open in another.

    The first key seals, every key opens, so that keys can be changed.
    """

    def __init__(self, keys: list[bytes], new_bytes: Callable[[int], bytes]) -> None:
        self._new_bytes = new_bytes
        self._ciphers = {_mark(key): AESGCM(key) for key in keys}
        self._sealing = _mark(keys[0])

    def __repr__(self) -> str:
        return f"<Vault keys={len(self._ciphers)}>"

    def seal(self, text: bytes, context: str) -> bytes:
        """*text* encrypted, and bound to *context* (the row and column that it belongs to)."""
        nonce = self._new_bytes(_NONCE_SIZE)
        body = self._ciphers[self._sealing].encrypt(nonce, text, context.encode())
        return self.head + nonce + body

    @property
    def head(self) -> bytes:
        """How begins what is sealed with the first key."""
        return _VERSION + self._sealing

    def open(self, sealed: bytes, context: str) -> bytes:
        """What was sealed; raises StorageCorrupt if it was changed, moved, or sealed with a key that is not here."""
        try:
            mark, nonce, body = sealed[1:5], sealed[5:17], sealed[17:]
            cipher = self._ciphers.get(mark)
            if sealed[:1] != _VERSION or cipher is None:
                raise StorageCorrupt(f"the secrets of {context} were sealed with another key")
            return cipher.decrypt(nonce, body, context.encode())
        except (AttributeError, InvalidTag, TypeError, ValueError):  # cut within the nonce; or it, or its id, is no such thing
            raise StorageCorrupt(f"the secrets of {context} do not open") from None

    def check_value(self) -> bytes:
        """A value to keep in the database, by which a later start knows that its key is the right one."""
        return self.seal(_CHECK_TEXT, _CHECK_CONTEXT)

    def check(self, value: bytes) -> None:
        """Raise KeyUnusable unless *value* was made by `check_value` with one of these keys."""
        try:
            self.open(value, _CHECK_CONTEXT)
        except StorageCorrupt:
            raise KeyUnusable("the encryption key does not open this database: start with the key it was made with") from None


def find_keys(path: Path, given: str | None, *, may_create: bool, new_bytes: Callable[[int], bytes]) -> list[bytes]:
    """
    The keys in *given* (base64, comma between several), else those in the file at *path* (a line each, beside comments).

    A key is made only where *may_create* says that the database is new. Raises KeyUnusable if there is none, or it is no key,
    and StartError if it cannot be written.
    """
    if given is not None:
        return [_decode(text, KEY_VARIABLE) for text in given.split(",")]
    try:
        lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
        texts = [text for line in lines if not line.lstrip().startswith("#") for text in line.split()]
        return [_decode(text, str(path)) for text in texts or [""]]
    except FileNotFoundError:
        if not may_create:
            raise KeyUnusable(f"the encryption key {path} is missing, and this database was made with one") from None
    except OSError as error:
        raise KeyUnusable(f"the encryption key {path} cannot be read: {error.strerror}") from error
    key = new_bytes(KEY_SIZE)
    write_private(path, base64.b64encode(key) + b"\n")
    return [key]


def write_private(path: Path, content: bytes) -> None:
    """
    Make a file that only its owner can read (0600), whole or not at all, synced to disk together with its name.

    Raises StartError if that cannot be done.
    """
    draft = path.with_name(f"{path.name}.new")
    try:
        draft.unlink(missing_ok=True)  # left by a start that was cut
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        draft.rename(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise StartError(f"{path} cannot be made: {error.strerror}") from error


def _decode(text: str, source: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except ValueError:
        key = b""
    if len(key) != KEY_SIZE:
        raise KeyUnusable(f"{source} is not an encryption key: expected {KEY_SIZE} bytes in base64")
    return key


def _mark(key: bytes) -> bytes:
    """A name for *key* that does not tell it."""
    return sha256(b"hookengine key mark\x00" + key).digest()[:_MARK_SIZE]
