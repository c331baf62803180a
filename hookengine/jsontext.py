"""JSON texts of ours, read strictly: split into members, with what a producer sent as `data` kept byte for byte."""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
from msgspec import UNSET, Raw, UnsetType, ValidationError

from hookengine.errors import Invalid, Malformed, Mistake

if TYPE_CHECKING:
    from msgspec.json import Decoder

DEEPEST = 65  # levels of arrays and objects: the object of ours, and 64 in a member of it

_KEPT = frozenset({"data"})
_LONGEST_ECHO = 100  # characters of the input that an error repeats
_OBJECT = msgspec.json.Decoder(dict[str, Raw])
_SCALAR = msgspec.json.Decoder(str | int | float | bool | None)
_SYNTAX = msgspec.json.Decoder(Raw)
_OFFSET = re.compile(r"JSON is malformed: (.*) \(byte ([0-9]+)\)")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_BLANKS = b" \t\r\n"
_TO_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_LONGEST_INTEGER = 25  # characters; more than 64 bits hold
_LONE_SURROGATE = re.compile(rb"\\u[dD](?:[89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..\\u[dD])[c-fC-F])", re.DOTALL)
# Sizes in the order that is fast for both flat and steep texts.
_SIBLINGS = tuple(b"]" * levels + b"[" * levels for levels in (1, 1, 1, 32, 16, 8, 4, 2, 1))


def read_json(raw: bytes, *, kept: frozenset[str] = _KEPT, decoder: Decoder[Any] | None = None) -> Any:
    """
    The value of a JSON text (RFC 8259) of ours: of an object, its members, those in *kept* as the bytes they are.

    With a *decoder* that is what it makes of the object, if it can. What it decodes has no objects in its members, whose own
    members would not be looked at, but for those in *kept*.

    Raises Malformed with the code invalid_encoding, invalid_json, json_too_deep or duplicate_key. Integers beyond 64 bits and
    floats beyond doubles come back as some integer beyond 64 bits and as infinity, which `Problems` refuses.
    """
    _check_encoding(raw)
    try:
        value = _read(raw, kept, decoder)
    except msgspec.DecodeError as error:
        _refuse_syntax(error, raw)
    except RecursionError:
        _refuse_depth(DEEPEST)
    _check_depth(raw, DEEPEST)
    return value


def check_json(raw: bytes) -> None:
    """Raise Malformed, as `read_json` would, unless *raw* is one JSON value that may be the data of an event."""
    _check_encoding(raw)
    try:
        _SYNTAX.decode(raw)
    except msgspec.DecodeError as error:
        _refuse_syntax(error, raw)
    except RecursionError:
        _refuse_depth(DEEPEST - 1)
    _check_depth(raw, DEEPEST - 1)


def read_objects(
    raw: bytes,
    *,
    ndjson: bool = False,
    most: int,
    kept: frozenset[str] = _KEPT,
    decoder: Decoder[Any] | None = None,
) -> list[Any]:
    """
    The elements of a JSON array, or the lines of an NDJSON text, each as `read_json` would give it.

    Raises Malformed as `read_json` does, and Invalid where it is no array or has more than *most* elements.
    """
    _check_encoding(raw)
    deepest = DEEPEST if ndjson else DEEPEST + 1  # the array around them
    try:
        elements = _lines(raw, most) if ndjson else _elements(raw, most)
        _check_depth(raw, deepest)
        return [_read(element, kept, decoder) for element in elements]
    except msgspec.DecodeError as error:
        _refuse_syntax(error, raw)
    except RecursionError:
        _refuse_depth(deepest)


def _elements(raw: bytes, most: int) -> list[bytes]:
    try:
        array = _array_of(most).decode(raw)
    except ValidationError as error:
        _SYNTAX.decode(raw)
        if "at most" in str(error):
            _refuse_number(most)
        raise Invalid(mistakes=(Mistake(code="invalid_type", detail="expected an array", pointer=""),)) from None
    elements = msgspec.structs.astuple(array)
    count = elements.index(UNSET) if UNSET in elements else len(elements)
    return [bytes(element) for element in elements[:count]]


@lru_cache(maxsize=8)
def _array_of(most: int) -> msgspec.json.Decoder[Any]:
    # A list's length is checked when all of it is in memory; an array-like Struct refuses the first element too many.
    members = [(f"m{i}", Raw | UnsetType, UNSET) for i in range(most)]
    return msgspec.json.Decoder(msgspec.defstruct("Elements", members, array_like=True, forbid_unknown_fields=True))


def _lines(raw: bytes, most: int) -> list[bytes]:
    lines = raw.rstrip(_BLANKS).split(b"\n", most)
    if len(lines) > most:
        _refuse_number(most)
    if lines == [b""]:
        return []
    for number, line in enumerate(lines):
        try:
            _SYNTAX.decode(line)
        except msgspec.DecodeError as error:
            _refuse_syntax(error, line, first_line=number + 1)
    return lines


def _read(raw: bytes, kept: frozenset[str], decoder: Decoder[Any] | None) -> Any:
    try:
        members = _OBJECT.decode(raw)
    except ValidationError:  # no object
        _SYNTAX.decode(raw)
        return _value(raw)
    if kept.isdisjoint(members):
        return _value(raw)
    # Beside key and value, each member takes two quotes, a colon, and a comma or (once) the closing brace. A text longer than
    # that has a member twice, whose first value is lost here, or a key written with escapes; or blanks between them.
    content = b"".join((*members.values(), "".join(members).encode()))
    framing = 4 * len(members) + 1
    is_longer = len(raw) > len(content) + framing
    if is_longer and len(raw.translate(None, _BLANKS)) > len(content.translate(None, _BLANKS)) + framing:
        _members(_PAIRS.raw_decode(str(raw, "utf-8").lstrip())[0])
    if decoder is not None:
        try:  # of every event, and `suppress` takes as long as the decoding
            return decoder.decode(raw)
        except ValidationError:  # whoever looks at the members says what is wrong with them
            pass
    return {name: Raw(bytes(value)) if name in kept else _value(value) for name, value in members.items()}


def _value(raw: bytes | Raw) -> Any:
    try:
        return _SCALAR.decode(raw)
    except ValidationError:  # an array, an object, or a number out of range
        text = str(raw, "utf-8").lstrip()
    try:
        return _VALUES.raw_decode(text)[0]
    except ValueError:  # an integer of more digits than int() takes
        return _VALUES_CUT.raw_decode(text)[0]


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise Malformed(f"the member {twice[:_LONGEST_ECHO]!r} is named twice", code="duplicate_key")
    return members


def _integer(digits: str) -> int:
    return int(digits[:_LONGEST_INTEGER])  # which is still too large


_VALUES = json.JSONDecoder(object_pairs_hook=_members)
_VALUES_CUT = json.JSONDecoder(object_pairs_hook=_members, parse_int=_integer)  # slower
_PAIRS = json.JSONDecoder(object_pairs_hook=list, parse_int=str, parse_float=str)


def _check_encoding(raw: bytes) -> None:
    if raw.isascii():
        return
    if raw.startswith(_BYTE_ORDER_MARK):
        raise Malformed("the text starts with a byte order mark: send UTF-8 without one", code="invalid_encoding")
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        raise Malformed(f"byte {error.start} is not UTF-8", code="invalid_encoding") from None


def _check_depth(raw: bytes, deepest: int) -> None:
    """Refuse a text, known to be valid JSON, with more than *deepest* levels."""
    if raw.count(b"[") + raw.count(b"{") <= deepest:
        return
    outside = b"".join(raw.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')[::2])
    brackets = outside.translate(_TO_SQUARE, _NO_BRACKETS)
    # Joining two siblings into one, `[..][..]` to `[....]`, leaves the depth as it is; what cannot be joined is `[[[..]]]`.
    too_many_open = b"[" * (deepest + 1)
    while too_many_open not in brackets:
        if b"][" not in brackets:
            return
        for siblings in _SIBLINGS:
            brackets = brackets.replace(siblings, b"")
    _refuse_depth(deepest)


def _refuse_number(most: int) -> NoReturn:
    mistake = Mistake(code="too_many_elements", detail=f"expected at most {most} elements", pointer="")
    raise Invalid(mistakes=(mistake,)) from None


def _refuse_depth(deepest: int) -> NoReturn:
    raise Malformed(f"the text has more than {deepest} levels of arrays and objects", code="json_too_deep") from None


def _refuse_syntax(error: msgspec.DecodeError, raw: bytes, first_line: int = 1) -> NoReturn:
    if b"\0" in raw[:4]:
        raise Malformed("the text is UTF-16 or UTF-32: send UTF-8", code="invalid_encoding") from None
    if lone := _LONE_SURROGATE.search(raw.replace(rb"\\", b"  ")):
        offset, what = lone.start(), "a lone surrogate escape"
    elif malformed := _OFFSET.fullmatch(str(error)):
        offset, what = int(malformed[2]), malformed[1]
    else:
        offset, what = len(raw), "the text ends too early"
    line = first_line + raw.count(b"\n", 0, offset)
    column = len(raw[raw.rfind(b"\n", 0, offset) + 1 : offset].decode(errors="replace")) + 1
    raise Malformed(f"line {line}, column {column}: {what}", code="invalid_json") from None
