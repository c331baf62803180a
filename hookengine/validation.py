"""
From untrusted input to frozen Structs: JSON texts are read strictly, and every mistake in them is reported at once.

`read_json` and `read_objects` split a text into members; `Problems` makes Structs of them, and of keyword arguments and TOML
tables alike. What is written as a text but means something else is a type with a `parse` classmethod, such as `Duration`.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import lru_cache
from types import NoneType, UnionType
from typing import Annotated, Any, Generic, Literal, NoReturn, TypeVar, Union, cast, get_args, get_origin

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, ValidationError

from hookengine.errors import Invalid, Malformed, Mistake

S = TypeVar("S", bound=Struct)

DEEPEST = 64  # levels of arrays and objects in a JSON text
LONGEST_DURATION = 36_500 * 86_400_000  # ms

_LONGEST_ECHO = 100  # characters of the input that an error repeats
_MOST_MISTAKES = 1000
_MOST_SUGGESTIONS = 100  # each costs about 0.1 ms
_KEPT = frozenset({"data"})

_DURATION = re.compile(r"0*([0-9]{1,13})(ms|s|m|h|d)")
_UNITS = {"d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}  # largest first
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:([0-9]{2})(?:\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})?")
_LONGEST_TIME = 64  # characters
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_YEAR = 9998  # an overlap or an offset may be added to a time without leaving what datetime can hold
_END_OF_TIME = (datetime(_LAST_YEAR + 1, 1, 1, tzinfo=UTC) - _EPOCH) // timedelta(milliseconds=1)


class Wrong(ValueError):
    """What a `parse` raises that has a code of its own; any other ValueError is `invalid_value`."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code


def parse_duration(text: str) -> int:
    """The milliseconds of `<whole number><ms|s|m|h|d>`, at most 36500 days; a ValueError says what is wrong."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"expected a duration such as '500ms', '15s' or '24h', got {quoted(text)}")
    duration = int(match[1]) * _UNITS[match[2]]
    if duration > LONGEST_DURATION:
        raise ValueError(f"a duration is at most {format_duration(LONGEST_DURATION)}, got {quoted(text)}")
    return duration


def format_duration(ms: int) -> str:
    """*ms* in the largest unit that is whole."""
    unit = next(unit for unit, size in _UNITS.items() if ms % size == 0)
    return f"{ms // _UNITS[unit]}{unit}"


def parse_time(text: str) -> int:
    """
    The milliseconds since the epoch of an RFC 3339 time, in the years 1970 to 9998; what is finer is cut off.

    A ValueError says what is wrong.
    """
    match = _TIME.fullmatch(text) if len(text) <= _LONGEST_TIME else None
    if match is None:
        raise ValueError(f"expected a time such as '2026-11-22T02:10:00Z', got {quoted(text)}")
    if match[2] is None:
        raise ValueError("the time needs a zone: Z, or an offset such as +02:00")
    if match[1] == "60":
        raise ValueError("leap seconds cannot be represented: give second 59 or the next minute")
    try:
        time = datetime.fromisoformat(text.upper())
    except ValueError:
        raise ValueError(f"there is no such time as {quoted(text)}") from None
    ms = (time - _EPOCH) // timedelta(milliseconds=1)
    if not 0 <= ms < _END_OF_TIME:
        raise ValueError(f"the time must be in the years 1970 to {_LAST_YEAR}")
    return ms


def format_time(ms: int) -> str:
    """*ms* since the epoch as RFC 3339 in UTC, with milliseconds."""
    second, rest = divmod(ms, 1000)
    return f"{_second(second)}.{rest:03d}Z"


@lru_cache(maxsize=1024)
def _second(second: int) -> str:
    return (_EPOCH + timedelta(seconds=second)).isoformat()[:19]


class Duration(int):
    """Milliseconds, written as a duration."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Duration:
        """As `parse_duration`."""
        return cls(parse_duration(text))


class Time(int):
    """Milliseconds since the epoch, written as an RFC 3339 time."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Time:
        """As `parse_time`."""
        return cls(parse_time(text))


def quoted(text: str) -> str:
    """*text* for an error: in quotes, its control characters escaped, and cut where it is long."""
    shown = text if len(text) <= _LONGEST_ECHO else text[: _LONGEST_ECHO - 1] + "…"
    return "'" + "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in shown) + "'"


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """` - did you mean 'x'?`, or nothing where no name is like it."""
    close = difflib.get_close_matches(name, names, 1) if len(name) <= _LONGEST_ECHO else []
    return f" - did you mean {quoted(close[0])}?" if close else ""


def pointer(*parts: str | int) -> str:
    """The JSON pointer (RFC 6901) of *parts*; what is longer than an error may repeat is cut."""
    return "".join(f"/{_cut(str(part)).replace('~', '~0').replace('/', '~1')}" for part in parts)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_ECHO else text[: _LONGEST_ECHO - 1] + "…"


class _Repeated(Exception):  # noqa: N818  # no error of its own: the way out of json's parser
    """An object has a member twice."""


_OBJECT = msgspec.json.Decoder(dict[str, Raw])
_SYNTAX = msgspec.json.Decoder(Raw)
_OFFSET = re.compile(r"JSON is malformed: (.*) \(byte ([0-9]+)\)")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_WHITESPACE = b" \t\r\n"
_TO_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_TOO_MANY_OPEN = b"[" * (DEEPEST + 1)
# Sizes in the order that is fast for both flat and steep texts.
_SIBLINGS = tuple(b"]" * levels + b"[" * levels for levels in (1, 1, 1, 32, 16, 8, 4, 2, 1))


def read_json(raw: bytes, *, kept: frozenset[str] = _KEPT) -> Any:
    """
    The value of a JSON text (RFC 8259) of ours: of an object, its members, those in *kept* as the bytes they are.

    Raises Malformed with the code invalid_encoding, invalid_json, json_too_deep or duplicate_key. Integers beyond 64 bits and
    floats beyond doubles come back as some integer beyond 64 bits and as infinity, which `Problems` refuses.
    """
    _check_encoding(raw)
    try:
        value = _read(raw, kept)
    except msgspec.DecodeError as error:
        _refuse_syntax(error, raw)
    except RecursionError:
        _refuse_depth()
    _check_depth(raw)
    return value


def read_objects(raw: bytes, *, ndjson: bool = False, most: int = 1000, kept: frozenset[str] = _KEPT) -> list[Any]:
    """
    The elements of a JSON array, or the lines of an NDJSON text, each as `read_json` would give it.

    Raises Malformed as `read_json` does, and Invalid where it is no array or has more than *most* elements.
    """
    _check_encoding(raw)
    try:
        elements = _lines(raw, most) if ndjson else _elements(raw, most)
        _check_depth(raw)
        return [_read(element, kept) for element in elements]
    except msgspec.DecodeError as error:
        _refuse_syntax(error, raw)
    except RecursionError:
        _refuse_depth()


def _elements(raw: bytes, most: int) -> list[bytes]:
    try:
        array = _array_of(most).decode(raw)
    except ValidationError as error:
        _SYNTAX.decode(raw)
        if "at most" in str(error):
            raise Invalid(mistakes=(_too_many(most),)) from None
        raise Invalid(mistakes=(Mistake(code="invalid_type", detail=_words(str(error)), pointer=""),)) from None
    return [bytes(element) for element in msgspec.structs.astuple(array) if element is not UNSET]


@lru_cache(maxsize=8)
def _array_of(most: int) -> msgspec.json.Decoder[Any]:
    # A list's length is checked when all of it is in memory; an array-like Struct refuses the first element too many.
    members = [(f"m{i}", Raw | UnsetType, UNSET) for i in range(most)]
    return msgspec.json.Decoder(msgspec.defstruct("Elements", members, array_like=True, forbid_unknown_fields=True))


def _lines(raw: bytes, most: int) -> list[bytes]:
    lines = raw.rstrip(_WHITESPACE).split(b"\n", most)
    if len(lines) > most:
        raise Invalid(mistakes=(_too_many(most),))
    if lines == [b""]:
        return []
    for number, line in enumerate(lines):
        try:
            _SYNTAX.decode(line)
        except msgspec.DecodeError as error:
            _refuse_syntax(error, line, first_line=number + 1)
    return lines


def _too_many(most: int) -> Mistake:
    return Mistake(code="too_many_elements", detail=f"expected at most {most} elements", pointer="")


def _read(raw: bytes, kept: frozenset[str]) -> Any:
    try:
        members = _OBJECT.decode(raw)
    except ValidationError:  # no object
        _SYNTAX.decode(raw)
        return _value(raw, "")
    # Every member takes its key, its value, two quotes, a colon and a comma. If the text is longer, a member is there twice, or
    # a key is written with escapes.
    content = b"".join((*members.values(), "".join(members).encode()))
    if len(raw.translate(None, _WHITESPACE)) != len(content.translate(None, _WHITESPACE)) + (4 * len(members) + 1 or 2):
        _check_names(raw)
    return {name: Raw(bytes(value)) if name in kept else _value(value, name) for name, value in members.items()}
