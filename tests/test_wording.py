"""How errors repeat what was given."""

from __future__ import annotations

import pytest

from hookengine.wording import did_you_mean, pointer, quoted


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        pytest.param((), "", id="whole"),
        pytest.param(("a", 0, "b"), "/a/0/b", id="path"),
        pytest.param(("a/b", "m~n", "~1", ""), "/a~1b/m~0n/~01/", id="RFC 6901"),
        pytest.param(("x" * 101,), "/" + "x" * 99 + "…", id="cut"),
    ],
)
def test_pointers(parts: tuple[str | int, ...], expected: str) -> None:
    """Pointers are those of RFC 6901, and repeat no long input."""
    assert expected == pointer(*parts)


def test_quoting() -> None:
    """Control characters are escaped and long texts cut."""
    assert r"'a\x00\r\n\x1b[31m\u202e é'" == quoted("a\x00\r\n\x1b[31m\u202e é")
    assert len(quoted("\x00" * 100_000)) < 500
    assert "'" + "x" * 99 + "…'" == quoted("x" * 5000)


def test_suggestions() -> None:
    """A name that is near is suggested, one that is not is not, and a huge one is not even compared."""
    assert " - did you mean 'listen'?" == did_you_mean("listne", ["listen", "max_body"])
    assert "" == did_you_mean("zzz", ["listen"])
    assert "" == did_you_mean("a" * 101, ["a" * 100])
