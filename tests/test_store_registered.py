"""Subscriptions and access tokens to rows and back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest
from msgspec.structs import asdict, replace
from storage import NOW, SetClock, commit, database, subscription

from hookengine.errors import StorageCorrupt
from hookengine.models import (
    AccessToken,
    BasicAuth,
    Batching,
    DisabledReason,
    OAuth2,
    Ordering,
    Secret,
    SigningSecret,
    SubscriptionState,
    TokenFields,
    WhileDisabled,
)
from hookengine.store import registered
from hookengine.store.queries import sql
from hookengine.vault import Vault

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator

    from hookengine import models

CLOCK = SetClock()
VAULT = Vault([bytes(32)], CLOCK.new_bytes)


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    """An empty database of the present version."""
    with database() as db:
        yield db


def through(db: sqlite3.Connection, one: models.Subscription) -> models.Subscription:
    """A subscription as it comes back."""
    db.execute(sql.insert_subscription, registered.new_subscription_row(one, VAULT))
    return registered.subscription(db.execute(sql.subscriptions).fetchone(), VAULT)


FULL = subscription(
    CLOCK,
    seq=7,
    event_types=("order.*", "käse"),
    name="N",
    method="PUT",
    headers=(("X-Api-Key", Secret("hunter2")), ("x-ä", Secret("ö"))),
    auth=BasicAuth(username="u", password=Secret("pass word")),
    secrets=(SigningSecret(value=Secret("whsec_new")), SigningSecret(value=Secret("whsec_old"), expires_at=NOW)),
    timeout=1,
    retry_schedule=(1, 2**40),
    disable_after_failures=3,
    rate_limit="10/s",
    ordering=Ordering.FIFO,
    batch=Batching(max_events=7),
    while_disabled=WhileDisabled.SKIP,
    max_concurrency=1,
    target_id=-(2**63),
    key_values={"b": [True, {"c": None}]},
    metadata={"a": [1, 2.5, None, {"b": "\x00ü"}]},
    state=SubscriptionState.DISABLED,
    disabled_reason=DisabledReason.GONE,
    version=5,
)


@pytest.mark.parametrize("one", [subscription(CLOCK, seq=1), FULL], ids=["defaults", "everything set"])
def test_subscription_comes_back_as_it_went(db: sqlite3.Connection, one: models.Subscription) -> None:
    """Every setting and every secret survives, with its type."""
    back = through(db, one)

    assert one == back
    assert all(type(value) is Secret for _, value in back.headers)
    assert all(type(secret.value) is Secret for secret in back.secrets)
    assert back.auth is None or (isinstance(back.auth, BasicAuth) and type(back.auth.password) is Secret)


def test_oauth2_comes_back_as_it_went(db: sqlite3.Connection) -> None:
    """How access tokens are got survives, and so do the types of its secrets."""
    given = OAuth2(
        grant="password",
        token_url="https://auth.example/token",
        client_id="c",
        client_secret=Secret("hunter2-secret"),
        username="u",
        password=Secret("hunter2-password"),
        scopes=("a", "b"),
        client_auth="bearer",
        fields=TokenFields(access_token="jwt"),
        expires_in=1000,
    )
    back = through(db, subscription(CLOCK, seq=7, auth=given)).auth

    assert given == back
    assert isinstance(back, OAuth2)
    assert (Secret, Secret) == (type(back.client_secret), type(back.password))


def test_auth_from_before_there_were_types_is_basic(db: sqlite3.Connection) -> None:
    """Rows of earlier versions do not say what type of `auth` they hold."""
    through(db, FULL)
    sealed = msgspec.json.decode(VAULT.open(db.execute(sql.subscriptions).fetchone()["sealed"], FULL.id))
    assert "basic" == sealed["auth"].pop("type")
    db.execute("UPDATE subscriptions SET sealed = ?", (VAULT.seal(msgspec.json.encode(sealed), FULL.id),))

    assert FULL == registered.subscription(db.execute(sql.subscriptions).fetchone(), VAULT)


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(AccessToken(value=Secret("a")), id="least"),
        pytest.param(AccessToken(value=Secret("a"), refresh_token=Secret("r"), renew_at=NOW), id="whole"),
    ],
)
def test_access_token_comes_back_as_it_went(db: sqlite3.Connection, token: AccessToken) -> None:
    """A token survives with the types of its secrets, for the one subscription that it was got for."""
    one = through(db, FULL)
    db.execute(sql.save_access_token, registered.access_token_row(one, AccessToken(value=Secret("before")), VAULT))
    db.execute(sql.save_access_token, registered.access_token_row(one, token, VAULT))
    [row] = db.execute(sql.access_tokens).fetchall()
    back = registered.access_token(row, one, VAULT)

    assert token == back
    assert Secret is type(back.value)
    with pytest.raises(StorageCorrupt, match=r"the access token of sub_other cannot be read"):
        registered.access_token(row, replace(one, id="sub_other"), VAULT)


def test_every_setting_is_stored(db: sqlite3.Connection) -> None:
    """A setting that differs from its default is not lost: none is forgotten in the columns."""
    plain = subscription(CLOCK, seq=7)

    assert {name for name, value in asdict(FULL).items() if value == getattr(plain, name)} == {
        *("seq", "tenant", "url", "profile", "created_at", "updated_at")
    }
    assert FULL == through(db, FULL)


def test_updated_subscription_comes_back(db: sqlite3.Connection) -> None:
    """What an edit changes is written over what was there."""
    through(db, subscription(CLOCK, seq=7))
    after = replace(FULL, id=db.execute("SELECT id FROM subscriptions").fetchone()["id"])
    commit(db, "changed", registered.changed_subscription_row, after, VAULT)

    assert after == registered.subscription(db.execute(sql.subscriptions).fetchone(), VAULT)


def test_secrets_are_only_in_the_sealed_column(db: sqlite3.Connection) -> None:
    """Header values, passwords and signing secrets cannot be read without the key."""
    through(db, FULL)
    columns = tuple(db.execute("SELECT * FROM subscriptions").fetchone())
    readable = b"".join(value if isinstance(value, bytes) else str(value).encode() for value in columns)

    assert not [secret for secret in (b"hunter2", b"pass word", b"whsec_new", b"whsec_old") if secret in readable]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param("settings = '{'", "", id="cut JSON"),
        pytest.param("settings = x'22ff22'", "", id="not UTF-8"),
        pytest.param("settings = '[[1]]'", "", id="not an object, pairs that are none"),
        pytest.param("settings = '\"ab\"'", "", id="not an object, but a text"),
        pytest.param("settings = '5'", "", id="a number"),
        pytest.param("settings = json_remove(settings, '$.url')", "missing required field `url`", id="no URL"),
        pytest.param("settings = json_set(settings, '$.url', NULL)", "url", id="null URL"),
        pytest.param("settings = json_set(settings, '$.while_disabled', 'later')", "later", id="unknown enum"),
        pytest.param("settings = json_set(settings, '$.timeout', 'soon')", "timeout", id="another type"),
        pytest.param("sealed = x''", "sealed with another key", id="no secrets"),
        pytest.param("sealed = 5", "", id="sealed is a number"),
        pytest.param("sealed = 'text'", "", id="sealed is a text"),
        pytest.param("sealed = substr(sealed, 1, 9)", "", id="sealed is cut in its nonce"),
        pytest.param("sealed = substr(sealed, 1, 20)", "do not open", id="sealed is cut"),
        pytest.param("sealed = CAST(x'02' || substr(sealed, 2) AS BLOB)", "", id="another version"),
        pytest.param("id = 'sub_other'", "do not open", id="moved to another row"),
    ],
)
def test_row_that_cannot_be_read_is_named(db: sqlite3.Connection, change: str, said: str) -> None:
    """Whatever is wrong with a row, the error says which row it is, and is one that a start can step over."""
    through(db, subscription(CLOCK, seq=7))
    db.execute(f"UPDATE subscriptions SET {change}")
    row = db.execute(sql.subscriptions).fetchone()

    with pytest.raises(StorageCorrupt, match=rf"subscription {row['id']} \(row 7\) cannot be read: .*{said}"):
        registered.subscription(row, VAULT)


def test_row_of_another_key_is_named(db: sqlite3.Connection) -> None:
    """What was sealed with a key that is not here is not guessed at."""
    through(db, subscription(CLOCK, seq=7))
    other = Vault([b"x" * 32], CLOCK.new_bytes)

    with pytest.raises(StorageCorrupt, match="sealed with another key"):
        registered.subscription(db.execute(sql.subscriptions).fetchone(), other)


def test_secret_of_another_type_is_named(db: sqlite3.Connection) -> None:
    """A value that opens but is no text is not taken for a secret."""
    one = subscription(CLOCK, seq=7)
    through(db, one)
    sealed = VAULT.seal(b'{"headers": [["a", 5]], "auth": null, "secrets": []}', one.id)
    db.execute("UPDATE subscriptions SET sealed = ?", (sealed,))

    with pytest.raises(StorageCorrupt, match=rf"subscription {one.id} \(row 7\) cannot be read"):
        registered.subscription(db.execute(sql.subscriptions).fetchone(), VAULT)
