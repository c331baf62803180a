"""What becomes of an attempt that our own code breaks; what becomes of all others is in test_dispatcher."""

from __future__ import annotations

import pytest

from hookengine.attempting import broken_by
from hookengine.models import AttemptError, Broken, ErrorCode
from hookengine.signing_keys import UnusableSecret


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        pytest.param(
            UnusableSecret("a secret of svix begins with whsec_"), "a secret of svix begins with whsec_", id="for users"
        ),
        pytest.param(KeyError("hunter2"), "KeyError", id="with a value in it"),
    ],
)
def test_only_words_that_are_for_users_are_told(error: Exception, expected: str) -> None:
    """The text of an error is told where it was written for users; of any other only the kind."""
    assert Broken(error=AttemptError(code=ErrorCode.INTERNAL_ERROR, detail=expected)) == broken_by(error)
