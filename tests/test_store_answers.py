"""What requests with an Idempotency-Key were answered."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from hookengine.errors import IdempotencyMismatch
from hookengine.store import Answer, Key, answers
from hookengine.store.answers import KEY_LIFETIME

KEY = Key(tenant="acme", method="POST", path="/v1/events", key="k", digest=b"d")
ANSWER = Answer(status=202, body=b"first")
ROW = (*KEY.scope, b"d", 202, b"first")


def test_rows_are_what_is_known() -> None:
    """A row has the scope of its key, the digest of its request, and the answer."""
    assert {KEY.scope: (b"d", ANSWER)} == answers.known([ROW])


def test_repetition_gets_the_first_answer() -> None:
    """Of a key that is not known nothing is answered; of one that is, what the first request got, if it has the same bytes."""
    known = answers.known([ROW])

    assert ANSWER == answers.answer(KEY, known)
    assert answers.answer(replace(KEY, path="/v1/other"), known) is None
    with pytest.raises(IdempotencyMismatch):
        answers.answer(replace(KEY, digest=b"other"), known)


def test_what_is_asked_for() -> None:
    """All keys at once, as far as they are younger than a day."""
    assert ('[["acme","POST","/v1/events","k"]]', 5) == answers.wanted([KEY], KEY_LIFETIME + 5)
