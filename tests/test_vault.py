"""Secrets at rest: what opens, what does not, and where the key comes from."""

from __future__ import annotations

import base64
import os
import resource
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hookengine.clock import Clock
from hookengine.errors import KeyUnusable, StartError, StorageCorrupt
from hookengine.vault import KEY_SIZE, KEY_VARIABLE, Vault, find_keys, write_private

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

KEY = bytes(range(32))
OTHER_KEY = bytes(range(32, 64))
THIRD_KEY = bytes(range(64, 96))
TEXT = b'{"secrets":["whsec_aaaa"]}'
CONTEXT = "sub_1"

new_bytes = Clock().new_bytes


def in_base64(*keys: bytes) -> str:
    """Keys as the environment has them."""
    return ",".join(base64.b64encode(key).decode() for key in keys)


@contextmanager
def full_disk() -> Iterator[None]:
    """No file can grow: the system's own limit, which fails like a full disk, with an error from write()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# Sealing and opening.


@given(st.binary(max_size=200), st.text(max_size=50))
def test_what_was_sealed_opens(text: bytes, context: str) -> None:
    """Every text, sealed for any context, comes back as it was."""
    vault = Vault([KEY], new_bytes)

    assert text == vault.open(vault.seal(text, context), context)


def test_sealed_texts_are_neither_plain_nor_alike() -> None:
    """A sealed text shows nothing of the text, not even that the same was sealed before."""
    vault = Vault([KEY], new_bytes)
    sealed = {vault.seal(TEXT, CONTEXT) for _ in range(100)}

    assert 100 == len(sealed)
    assert not any(b"whsec_" in each or KEY[:4] in each for each in sealed)


def test_nonces_come_from_the_caller() -> None:
    """The vault takes the randomness that it is given: 12 bytes for each sealing."""
    asked = []

    def counted(count: int) -> bytes:
        asked.append(count)
        return bytes(count)

    vault = Vault([KEY], counted)

    assert vault.seal(TEXT, CONTEXT) == vault.seal(TEXT, CONTEXT)
    assert [12, 12] == asked


@given(st.text(max_size=20), st.text(max_size=20))
def test_nothing_opens_in_another_context(context: str, other: str) -> None:
    """A sealed text that somebody copied into another row does not open there."""
    vault = Vault([KEY], new_bytes)
    sealed = vault.seal(TEXT, context)
    if context == other:
        other += "x"

    with pytest.raises(StorageCorrupt):
        vault.open(sealed, other)


def test_nothing_opens_with_another_key() -> None:
    """A database without its key is of no use."""
    sealed = Vault([KEY], new_bytes).seal(TEXT, CONTEXT)

    with pytest.raises(StorageCorrupt, match=r"^the secrets of sub_1 were sealed with another key$"):
        Vault([OTHER_KEY], new_bytes).open(sealed, CONTEXT)


@given(st.binary(max_size=40), st.data())
def test_one_flipped_bit_is_noticed(text: bytes, data: st.DataObject) -> None:
    """A bit that the disk got wrong, wherever it is, is an error that names the row."""
    vault = Vault([KEY], new_bytes)
    sealed = bytearray(vault.seal(text, CONTEXT))
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    sealed[bit // 8] ^= 1 << bit % 8

    with pytest.raises(StorageCorrupt, match="sub_1"):
        vault.open(bytes(sealed), CONTEXT)


@pytest.mark.parametrize("length", range(len(Vault([KEY], new_bytes).seal(TEXT, CONTEXT))))
def test_a_cut_text_is_noticed(length: int) -> None:
    """A sealed text that lost its end, wherever that was, is an error that names the row."""
    vault = Vault([KEY], new_bytes)
    sealed = vault.seal(TEXT, CONTEXT)

    with pytest.raises(StorageCorrupt, match="sub_1"):
        vault.open(sealed[:length], CONTEXT)


@given(st.binary(max_size=100))
def test_what_was_never_sealed_does_not_open(sealed: bytes) -> None:
    """Any bytes at all end as the one error."""
    with pytest.raises(StorageCorrupt):
        Vault([KEY], new_bytes).open(sealed, CONTEXT)


def test_error_does_not_hold_the_text() -> None:
    """What is said of a text that does not open names its row and nothing of its content."""
    vault = Vault([KEY], new_bytes)
    with pytest.raises(StorageCorrupt) as raised:
        vault.open(vault.seal(TEXT, CONTEXT)[:-1], CONTEXT)

    assert "the secrets of sub_1 do not open" == str(raised.value)
    assert raised.value.__suppress_context__


def test_keys_can_be_changed() -> None:
    """With several keys the first one seals and each of them opens; without the old one, what it sealed stays shut."""
    old = Vault([KEY], new_bytes)
    both = Vault([OTHER_KEY, KEY], new_bytes)
    new = Vault([OTHER_KEY], new_bytes)
    before, after = old.seal(b"before", CONTEXT), both.seal(b"after", CONTEXT)

    assert (b"before", b"after") == (both.open(before, CONTEXT), both.open(after, CONTEXT))
    assert b"after" == new.open(after, CONTEXT)
    for vault, sealed in ((new, before), (old, after)):
        with pytest.raises(StorageCorrupt):
            vault.open(sealed, CONTEXT)


def test_order_of_keys_matters_to_sealing_only() -> None:
    """A key that was added at the end opens, and seals nothing yet."""
    sealed = Vault([KEY, OTHER_KEY], new_bytes).seal(TEXT, CONTEXT)

    assert TEXT == Vault([KEY], new_bytes).open(sealed, CONTEXT)
    assert TEXT == Vault([THIRD_KEY, OTHER_KEY, KEY], new_bytes).open(sealed, CONTEXT)


def test_check_value_tells_the_right_key() -> None:
    """The check value is accepted by each vault that has its key, and by no other."""
    value = Vault([KEY], new_bytes).check_value()

    Vault([KEY], new_bytes).check(value)
    Vault([OTHER_KEY, KEY], new_bytes).check(value)
    with pytest.raises(KeyUnusable, match="the encryption key does not open this database"):
        Vault([OTHER_KEY], new_bytes).check(value)


@pytest.mark.parametrize("damage", [b"", b"\x01", b"\x02" + bytes(40)], ids=["empty", "cut", "another version"])
def test_damaged_check_value_is_no_key_error_of_another_kind(damage: bytes) -> None:
    """A check value that cannot be read at all is refused like one of another key."""
    with pytest.raises(KeyUnusable):
        Vault([KEY], new_bytes).check(damage)


def test_vault_does_not_show_its_keys() -> None:
    """The repr tells how many keys there are."""
    vault = Vault([KEY, OTHER_KEY], new_bytes)

    assert "<Vault keys=2>" == repr(vault)


# Where the key comes from.


def test_new_database_gets_a_key(tmp_path: Path) -> None:
    """The first start makes a key of 32 random bytes and keeps it; the next one finds it."""
    path = tmp_path / "secret.key"
    [made] = find_keys(path, None, may_create=True, new_bytes=new_bytes)

    assert KEY_SIZE == len(made)
    assert in_base64(made) + "\n" == path.read_text()
    assert [made] == find_keys(path, None, may_create=True, new_bytes=new_bytes)
    assert [made] == find_keys(path, None, may_create=False, new_bytes=new_bytes)


def test_keys_of_two_databases_differ(tmp_path: Path) -> None:
    """Every database has its own key."""
    first, second = (find_keys(tmp_path / name, None, may_create=True, new_bytes=new_bytes) for name in ("a", "b"))

    assert first != second


def test_old_database_never_gets_a_new_key(tmp_path: Path) -> None:
    """Where the key of a database is missing the start fails and leaves no key behind, which would hide what happened."""
    with pytest.raises(KeyUnusable, match=r"secret\.key is missing"):
        find_keys(tmp_path / "secret.key", None, may_create=False, new_bytes=new_bytes)

    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("may_create", [True, False])
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\n", id="blank"),
        pytest.param(b"not base64!", id="no base64"),
        pytest.param(in_base64(KEY[:31]).encode(), id="31 bytes"),
        pytest.param(in_base64(KEY + b"x").encode(), id="33 bytes"),
        pytest.param(KEY, id="not encoded"),
        pytest.param("ключ".encode(), id="non-ASCII"),
        pytest.param(in_base64(KEY, KEY).encode(), id="two keys"),
        pytest.param(base64.b64encode(KEY)[:22] + b"\n" + base64.b64encode(KEY)[22:], id="folded"),
    ],
)
def test_malformed_key_file_is_refused_and_kept(tmp_path: Path, content: bytes, may_create: bool) -> None:
    """What is no key is named as that, not repeated, and never written over: it may be the key of another database."""
    path = tmp_path / "secret.key"
    path.write_bytes(content)
    with pytest.raises(KeyUnusable) as refused:
        find_keys(path, None, may_create=may_create, new_bytes=new_bytes)

    assert f"{path} is not an encryption key: expected 32 bytes in base64" == str(refused.value)
    assert content == path.read_bytes()


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param(" ", id="blank"),
        pytest.param("hunter2", id="a word"),
        pytest.param(in_base64(KEY[:16]), id="16 bytes"),
        pytest.param(KEY.hex(), id="in hex"),
        pytest.param(in_base64(KEY) + ",", id="comma at the end"),
        pytest.param(in_base64(KEY) + ",hunter2", id="second one wrong"),
        pytest.param("ключ", id="non-ASCII"),
    ],
)
def test_malformed_key_in_the_environment_is_refused(tmp_path: Path, text: str) -> None:
    """A key that was given wrong is never taken for none, and the error names the variable and not the value."""
    with pytest.raises(KeyUnusable) as refused:
        find_keys(tmp_path / "secret.key", text, may_create=True, new_bytes=new_bytes)

    assert f"{KEY_VARIABLE} is not an encryption key: expected 32 bytes in base64" == str(refused.value)
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        pytest.param(in_base64(KEY), [KEY], id="one"),
        pytest.param(in_base64(OTHER_KEY, KEY), [OTHER_KEY, KEY], id="two"),
        pytest.param(f" {in_base64(KEY)} ,\n{in_base64(OTHER_KEY)}\n", [KEY, OTHER_KEY], id="with spaces"),
    ],
)
def test_given_keys_come_before_the_file(tmp_path: Path, text: str, keys: list[bytes]) -> None:
    """Keys from the environment are taken in their order, and the file is neither read nor made."""
    path = tmp_path / "secret.key"

    assert keys == find_keys(path, text, may_create=True, new_bytes=new_bytes)
    assert not path.exists()


def test_file_may_hold_several_keys(tmp_path: Path) -> None:
    """While a key is being changed the file has a line for each, in their order."""
    path = tmp_path / "secret.key"
    path.write_text(f"{in_base64(OTHER_KEY)}\n{in_base64(KEY)}\n")

    assert [OTHER_KEY, KEY] == find_keys(path, None, may_create=False, new_bytes=new_bytes)


@pytest.mark.parametrize("head", ["\n", "# made in 2026, für uns\n", "  # a comment\n\n", "\ufeff", "\ufeff# a comment\r\n"])
def test_file_may_have_comments(tmp_path: Path, head: str) -> None:
    """Empty lines, comments and a byte order mark beside the keys are no keys."""
    path = tmp_path / "secret.key"
    path.write_text(f"{head}{in_base64(OTHER_KEY)}\n\n{in_base64(KEY)}\n# end\n", encoding="utf-8")

    assert [OTHER_KEY, KEY] == find_keys(path, None, may_create=False, new_bytes=new_bytes)


def test_unreadable_key_is_an_error_of_the_start(tmp_path: Path) -> None:
    """A key file that the system will not read ends the start with its name and the system's reason."""
    path = tmp_path / "secret.key"
    path.mkdir()

    with pytest.raises(KeyUnusable, match=r"secret\.key cannot be read: Is a directory"):
        find_keys(path, None, may_create=True, new_bytes=new_bytes)


# Private files.


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_private_file_is_its_owners_alone(tmp_path: Path, umask: int) -> None:
    """Nobody else can read the file, whatever the umask says."""
    path = tmp_path / "admin.token"
    before = os.umask(umask)
    try:
        write_private(path, b"hke_1\n")
    finally:
        os.umask(before)

    assert (0o600, b"hke_1\n") == (stat.S_IMODE(path.stat().st_mode), path.read_bytes())
    assert [path] == list(tmp_path.iterdir())


def test_private_file_is_synced_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The content is on disk before the name is, and then the name: a power cut leaves all of it or nothing."""
    path = tmp_path / "secret.key"
    synced: list[tuple[bool, int, bool]] = []
    fsync: Callable[[int], None] = os.fsync

    def watched(descriptor: int) -> None:
        fsync(descriptor)
        about = os.fstat(descriptor)
        synced.append((stat.S_ISDIR(about.st_mode), about.st_ino, path.exists()))

    monkeypatch.setattr(os, "fsync", watched)
    write_private(path, b"content")

    assert [(False, path.stat().st_ino, False), (True, tmp_path.stat().st_ino, True)] == synced


def test_start_on_a_full_disk_can_be_repeated(tmp_path: Path) -> None:
    """Where the key cannot be written the start fails with the reason, and the next one makes it as if it were the first."""
    path = tmp_path / "secret.key"
    with full_disk(), pytest.raises(StartError, match=r"secret\.key cannot be made: File too large"):
        find_keys(path, None, may_create=True, new_bytes=new_bytes)

    assert not path.exists()
    assert KEY_SIZE == len(find_keys(path, None, may_create=True, new_bytes=new_bytes)[0])
    assert [path] == list(tmp_path.iterdir())


def test_private_file_needs_its_folder(tmp_path: Path) -> None:
    """A folder that is not there is an error of the start, with the file's name."""
    with pytest.raises(StartError, match=r"admin\.token cannot be made: No such file or directory"):
        write_private(tmp_path / "missing" / "admin.token", b"x")
