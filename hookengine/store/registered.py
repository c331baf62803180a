"""Subscriptions, tenants and tokens to rows and back, with what is secret in them sealed: `rows` has what is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import orjson

from hookengine import models
from hookengine.access import Principal, Scope, Token
from hookengine.errors import StorageCorrupt
from hookengine.models import Secret
from hookengine.store.rows import SPOILED, json_text
from hookengine.times import interval

if TYPE_CHECKING:
    from sqlite3 import Row

    from hookengine.store.commit import Commit, Values
    from hookengine.vault import Vault

_SEALED = ("headers", "auth", "secrets")
_COLUMNS = ("seq", "id", "tenant", "state", "disabled_reason", "version", "created_at", "updated_at")
_OPEN = tuple(n for n in models.Subscription.__struct_fields__ if n not in _SEALED and n not in _COLUMNS)

_MOST = 1 << 40  # of what an edited number may be: in ms thirty years, so that sums stay within what SQLite holds


def changed_subscription_row(s: models.Subscription, vault: Vault, commit: Commit) -> Values:
    """A row of `Commit.changed`."""
    settings, sealed = _subscription(s, vault)
    place = commit.place
    return (s.seq, place(settings), place(sealed), s.state, s.disabled_reason, s.version, s.updated_at)


def new_subscription_row(s: models.Subscription, vault: Vault) -> Values:
    """The values of `insert_subscription`."""
    return (s.seq, s.id, s.tenant, *_subscription(s, vault), s.state, s.disabled_reason, s.version, s.created_at, s.updated_at)


def _subscription(s: models.Subscription, vault: Vault) -> tuple[bytes, bytes]:
    """The settings, and what of them is sealed."""
    settings = msgspec.json.encode({name: getattr(s, name) for name in _OPEN})
    sealed = msgspec.json.encode({name: getattr(s, name) for name in _SEALED}, enc_hook=str)
    return settings, vault.seal(sealed, s.id)


def subscription(row: Row, vault: Vault) -> models.Subscription:
    """A subscription from the columns of `subscriptions`; raises StorageCorrupt, naming the row."""
    try:
        fields: dict[str, Any] = orjson.loads(row["settings"])
        orjson.dumps(fields)  # what cannot be written would spoil the list that it is in
        fields |= msgspec.json.decode(vault.open(row["sealed"], row["id"]))
        fields |= {name: row[name] for name in _COLUMNS}  # last: whose settings they are is not theirs to say
        if fields["auth"] is not None:
            fields["auth"].setdefault("type", "basic")  # at first there was no other one, and it was not said
        return _checked(msgspec.convert(fields, models.Subscription, dec_hook=_secret))
    except SPOILED as error:
        raise StorageCorrupt(f"subscription {row['id']} (row {row['seq']}) cannot be read: {error}") from error


def _checked(s: models.Subscription) -> models.Subscription:
    """*s*; raises ValueError for numbers with which it could not be served."""
    if s.rate_limit is not None:
        interval(s.rate_limit)
    least = [(s.max_concurrency, 1), (s.timeout, 1), *((delay, 0) for delay in s.retry_schedule or ())]
    if s.batch is not None:
        least += [(s.batch.max_events, 1), (s.batch.max_wait, 0)]
    if not all(number is None or low <= number <= _MOST for number, low in least):
        raise ValueError("max_concurrency, timeout, retry_schedule or batch is out of range")
    return s


def access_token_row(s: models.Subscription, token: models.AccessToken, vault: Vault) -> Values:
    """The values of `save_access_token`."""
    return (s.seq, vault.seal(msgspec.json.encode(token, enc_hook=str), _access_token_context(s)))


def access_token(row: Row, s: models.Subscription, vault: Vault) -> models.AccessToken:
    """The access token of *s* from the columns of `access_tokens`; raises StorageCorrupt, naming the subscription."""
    try:
        fields = msgspec.json.decode(vault.open(row["sealed"], _access_token_context(s)))
        return msgspec.convert(fields, models.AccessToken, dec_hook=_secret)
    except SPOILED as error:
        raise StorageCorrupt(f"the access token of {s.id} cannot be read: {error}") from error


def _access_token_context(s: models.Subscription) -> str:
    return f"access token:{s.id}"


def sealed_secrets(t: models.Tenant, vault: Vault) -> bytes:
    """The secrets of a tenant as they are stored."""
    return vault.seal(msgspec.json.encode(t.secrets, enc_hook=str), _tenant_context(t.name))


def tenant(row: Row, vault: Vault) -> models.Tenant:
    """A tenant from the columns of `tenants`; raises StorageCorrupt, naming it, where its secrets cannot be read."""
    fields = {name: row[name] for name in ("seq", "name", "plan", "created_at", "updated_at")}
    if row["sealed"] is None:
        return models.Tenant(**fields)
    try:
        secrets = msgspec.json.decode(vault.open(row["sealed"], _tenant_context(row["name"])))
        return msgspec.convert(fields | {"secrets": secrets}, models.Tenant, dec_hook=_secret)
    except SPOILED as error:
        raise StorageCorrupt(f"the secrets of the tenant {row['name']} cannot be read: {error}") from error


def _tenant_context(name: str) -> str:
    return f"tenant:{name}"


def token_row(t: Token) -> tuple[Any, ...]:
    """The values of `insert_token`."""
    by = t.principal
    return (by.user, t.digest, json_text(sorted(by.scopes)), by.tenant, t.created_at, by.expires_at)


def token(row: Row) -> Token:
    """A token from the columns of `tokens`; raises StorageCorrupt, naming its user."""
    try:
        principal = Principal(
            user=row["user"],
            scopes=frozenset(map(Scope, orjson.loads(row["scopes"]))),
            tenant=row["tenant"],
            expires_at=None if row["expires_at"] is None else row["expires_at"] + 0,  # a time that can be compared
        )
    except (TypeError, ValueError) as error:
        raise StorageCorrupt(f"the token of {row['user']} (row {row['seq']}) cannot be read: {error}") from error
    return Token(
        seq=row["seq"],
        principal=principal,
        digest=row["digest"],
        created_at=row["created_at"],
        last_used_at=row["last_used_at"],
    )


def _secret(wanted: type, value: Any) -> Any:
    if wanted is Secret and isinstance(value, str):
        return Secret(value)
    raise TypeError
