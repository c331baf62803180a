"""What requests with an Idempotency-Key were answered, so that a repetition gets the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hookengine.errors import IdempotencyMismatch
from hookengine.store import rows
from hookengine.store.intake import Answer
from hookengine.store.queries import sql

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from hookengine.store.commit import Commit
    from hookengine.store.intake import Key
    from hookengine.store.transaction import Transaction

KEY_LIFETIME = 24 * 3_600_000  # ms that a key is kept

Scope = tuple[str, str, str, str]
Known = dict[Scope, tuple[bytes, Answer]]  # with the digests of the requests that were answered so


def wanted(keys: Iterable[Key], now: int) -> tuple[str, int]:
    """The values of `sql.known_keys` that ask for *keys*."""
    return (rows.json_text([key.scope for key in keys]), now - KEY_LIFETIME)


def known(found: Iterable[Any]) -> Known:
    """The rows that `sql.known_keys` has *found*."""
    return {tuple(row[:4]): (row[4], Answer(status=row[5], body=row[6])) for row in found}


def answer(key: Key, known: Mapping[Scope, tuple[bytes, Answer]]) -> Answer | None:
    """What the first request with *key* was answered; raises IdempotencyMismatch for other bytes."""
    digest, first = known.get(key.scope, (key.digest, None))
    if digest != key.digest:
        raise IdempotencyMismatch
    return first


async def find(tx: Transaction, key: Key) -> Answer | None:
    """The same, by what is stored."""
    return answer(key, known(await tx.fetch(sql.known_keys, wanted([key], tx.now))))


def keep(key: Key, answer: Answer, now: int, commit: Commit) -> None:
    """Put into *commit* what *key* is answered from now on; a use of it whose time is over makes room."""
    commit.spent_keys.append((*key.scope, now - KEY_LIFETIME))
    commit.keys.append((*key.scope, commit.place(key.digest), answer.status, commit.place(answer.body), now))
