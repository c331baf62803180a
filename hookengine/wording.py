"""How what was given is repeated to whoever gave it, in errors."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_LONGEST_ECHO = 100  # characters of the input that an error repeats

LONE_SURROGATE = "a lone surrogate is no character"
SURROGATE = re.compile(r"[\ud800-\udfff]")


def quoted(text: str) -> str:
    """*text* for an error: in quotes, its control characters escaped, and cut where it is long."""
    return f"'{''.join(char if char.isprintable() else repr(char)[1:-1] for char in _cut(text))}'"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """` - did you mean 'x'?`, or nothing where no name is like it."""
    close = difflib.get_close_matches(name, names, 1) if len(name) <= _LONGEST_ECHO else []
    return f" - did you mean {quoted(close[0])}?" if close else ""


def pointer(*parts: str | int) -> str:
    """The JSON pointer (RFC 6901) of *parts*; what is too long to repeat is cut, and what is no character replaced."""
    return "".join(f"/{SURROGATE.sub('�', _cut(str(part))).replace('~', '~0').replace('/', '~1')}" for part in parts)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_ECHO else text[: _LONGEST_ECHO - 1] + "…"
