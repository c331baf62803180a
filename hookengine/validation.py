"""
From JSON values, keyword arguments and TOML tables to frozen Structs, with every mistake in them reported at once.

Field types are those that msgspec knows. What is written as a text but means something else is a type with a `parse`
classmethod, such as `times.Duration`, or is annotated with `Meta(extra={"parse": function})`; `extra={"expected": "a …"}`
words what a pattern asks for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from functools import lru_cache
from types import NoneType, UnionType
from typing import Annotated, Any, Generic, Literal, TypeVar, Union, cast, get_args, get_origin

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, ValidationError

from hookengine.errors import Invalid, Mistake
from hookengine.wording import LONE_SURROGATE, SURROGATE, did_you_mean, pointer, quoted

S = TypeVar("S", bound=Struct)

_MOST_MISTAKES = 1000
_MOST_SUGGESTIONS = 100  # each costs about 0.1 ms
_DEEPEST = 64  # levels of arrays and objects under Any, as in a JSON text


_ARRAYS = (list, tuple)
_NOTHING: Mapping[str, Any] = {}


class _Bad:
    """In place of a value that is wrong; *rest* is a Draft of it, or the right members of an array or of another object."""

    __slots__ = ("rest",)

    def __init__(self, rest: Any = None) -> None:
        self.rest = rest


_BAD: Any = _Bad()  # of which nothing is right


def _is_bad(value: Any) -> bool:
    return isinstance(value, _Bad)


class Draft(Generic[S]):
    """An S as far as it is valid."""

    __slots__ = ("_wrong", "fields", "type", "whole")

    def __init__(self, type_: type[S], whole: S | None, values: Mapping[str, Any] = _NOTHING) -> None:
        self.type = type_
        self.whole = whole  # None: something in it is wrong
        self.fields: Any = whole  # as attributes, None where it is wrong or missing
        self._wrong = _NOTHING  # what of these is right, by field
        if whole is None:
            self._wrong = {name: value.rest for name, value in values.items() if _is_bad(value)}
            self.fields = _Valid({name: value for name, value in values.items() if name not in self._wrong})

    def get(self, name: str) -> Any:
        """The value of field *name*, or its default; None where it is wrong, missing or UNSET."""
        value = getattr(self.fields, name)
        return None if value is UNSET else value

    def items(self, name: str) -> Iterable[tuple[Any, Any]]:
        """The members of the array or object in field *name* by position or name, without those that are wrong."""
        value = self._wrong.get(name) if name in self._wrong else self.get(name)
        if value is None or isinstance(value, Draft):
            return ()
        return value.items() if isinstance(value, Mapping) else enumerate(value)

    def nested(self, name: str, type_: type[Struct]) -> Any:
        """The fields of the *type_* in field *name*, None where they are wrong or missing; None if there is no such."""
        value = self._wrong.get(name) if name in self._wrong else self.get(name)
        if isinstance(value, Draft):
            return value.fields if value.type is type_ else None
        return value if isinstance(value, type_) else None


class _Valid:
    """What of a Struct's fields is valid; everything else is None."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update(values)

    def __getattr__(self, _: str) -> None:
        return None


class Problems:
    """
    The mistakes found in one input, gathered so that they are raised together.

    A caller converts, looks at what is valid for mistakes of meaning, adds those, and then asks for the whole.
    """

    __slots__ = ("mistakes",)

    def __init__(self) -> None:
        self.mistakes: list[Mistake] = []

    def add(self, pointer: str, code: str, detail: str) -> None:
        """Note a mistake; those beyond a thousand are dropped."""
        if not self._is_full:
            self.mistakes.append(Mistake(code=code, detail=detail, pointer=pointer))

    def has(self, pointer: str) -> bool:
        """Whether there is a mistake at *pointer*."""
        return any(mistake.pointer == pointer for mistake in self.mistakes)

    def raise_if_any(self) -> None:
        """Raise Invalid with every mistake, if there are any."""
        if self.mistakes:
            detail = f"Only the first {_MOST_MISTAKES} mistakes are named." if self._is_full else None
            raise Invalid(detail, mistakes=tuple(self.mistakes))

    def require(self, draft: Draft[S]) -> S:
        """What *draft* holds, once nothing is wrong; else as `raise_if_any`."""
        self.raise_if_any()
        assert draft.whole is not None  # noqa: S101  # else its mistakes are here
        return draft.whole

    def convert(self, type_: type[S], raw: Any, pointer: str = "") -> Draft[S]:
        """
        A *type_* of *raw*, a mapping of member names to JSON values; *pointer* is where *raw* is.

        A value of UNSET counts as absent.
        """
        whole = _at_once(type_, raw)
        return self._struct(type_, raw, pointer) if whole is _BAD else Draft(type_, whole)

    @property
    def _is_full(self) -> bool:
        return len(self.mistakes) >= _MOST_MISTAKES

    def _struct(self, type_: type[S], raw: Any, at: str) -> Draft[S]:
        if isinstance(raw, type_):
            return Draft(type_, raw)
        if not isinstance(raw, Mapping):
            self.add(at, "invalid_type", f"expected an object, got {_kind(raw)}")
            return Draft(type_, None)
        fields, config, before = _fields(type_), type_.__struct_config__, len(self.mistakes)
        values: dict[str, Any] = {}
        given = {name: value for name, value in raw.items() if value is not UNSET and name != config.tag_field}
        for name, value in given.items():
            if field := fields.get(name):
                values[field.name] = self._value(field.type, value, at + pointer(name))
            elif config.forbid_unknown_fields:
                self._unknown(name, fields, at)
        for name, field in fields.items():
            if field.required and name not in given:
                values[field.name] = _BAD
                self.add(at + pointer(name), "missing_member", f"{quoted(name)} is missing")
        if len(self.mistakes) == before and not self._is_full:
            try:
                return Draft(type_, type_(**values))
            except ValueError as error:  # from __post_init__
                self.add(at, "invalid_value", str(error))
        defaults = {field.name: _default(field) for field in fields.values() if field.name not in values}
        return Draft(type_, None, defaults | values)

    def _unknown(self, name: Any, known: Iterable[str], at: str) -> None:
        if self._is_full:
            return
        suggestion = did_you_mean(str(name), known) if len(self.mistakes) < _MOST_SUGGESTIONS else ""
        self.add(at + pointer(name), "unknown_member", f"unknown member {quoted(str(name))}{suggestion}")

    def _value(self, hint: Any, raw: Any, at: str) -> Any:
        if self._is_full:
            return _BAD
        raw = _bare_text(raw)
        value = _at_once(hint, raw)
        if value is not _BAD:
            return value
        bare, metas = _bare(hint)
        origin, arguments = get_origin(bare) or bare, get_args(bare)
        if parse := _parser(bare, metas):
            value = self._parsed(parse, bare, raw, at)
        elif bare is Any:
            value = self._anything(raw, at)
        elif origin in (Union, UnionType):
            value = self._union(hint, metas, arguments, raw, at)
        elif _is_struct(origin):
            value = self._one_of([origin], raw, at)
        elif origin in (list, set, frozenset) or (origin is tuple and Ellipsis in arguments):
            value = self._array(origin, metas, arguments[0], raw, at)
        elif origin in (dict, Mapping):
            value = self._object(metas, arguments, raw, at)
        else:
            value = self._leaf(hint, raw, at)
        return value

    def _parsed(self, parse: Callable[[str], Any], bare: Any, raw: Any, at: str) -> Any:
        if not isinstance(raw, str):
            if isinstance(raw, bare):
                return raw
            self.add(at, "invalid_type", f"expected a string, got {_kind(raw)}")
            return _BAD
        try:
            return parse(raw)
        except ValueError as error:
            self.add(at, "invalid_value", str(error))
            return _BAD

    def _union(self, hint: Any, metas: tuple[Meta, ...], options: tuple[Any, ...], raw: Any, at: str) -> Any:
        if raw is None and NoneType in options:
            return None
        others = [option for option in options if option not in (NoneType, UnsetType)]
        if len(others) == 1:
            return self._value(_annotated(others[0], metas), raw, at)
        if not all(map(_is_struct, others)):
            return self._leaf(hint, raw, at)
        return self._one_of(others, raw, at)

    def _one_of(self, structs: list[type[Struct]], raw: Any, at: str) -> Any:
        """The Struct that *raw* is by its tag."""
        member = structs[0].__struct_config__.tag_field
        if member is None or not isinstance(raw, Mapping):
            struct = next((struct for struct in structs if isinstance(raw, struct)), structs[0])
            draft = self._struct(struct, raw, at)
            return _Bad(draft) if draft.whole is None else draft.whole
        by_tag = {struct.__struct_config__.tag: struct for struct in structs}
        tag = _BAD
        if member in raw:
            tag = self._leaf(Literal[tuple(by_tag)], raw[member], at + pointer(member))
        else:
            self.add(at + pointer(member), "missing_member", f"{quoted(member)} is missing")
        if tag is _BAD and len(structs) > 1:
            return _BAD
        draft = self._struct(by_tag.get(tag, structs[0]), raw, at)
        return _Bad(draft) if draft.whole is None or tag is _BAD else draft.whole

    def _array(self, origin: Any, metas: tuple[Meta, ...], item: Any, raw: Any, at: str) -> Any:
        elements = self._leaf(_annotated(list[Any], metas), raw, at)
        if elements is _BAD:
            return _BAD
        values = [self._value(item, element, f"{at}/{i}") for i, element in enumerate(elements)]
        right = {i: value for i, value in enumerate(values) if not _is_bad(value)}
        return origin(values) if len(right) == len(values) else _Bad(right)

    def _object(self, metas: tuple[Meta, ...], hints: tuple[Any, ...], raw: Any, at: str) -> Any:
        members = self._leaf(_annotated(dict[Any, Any], metas), raw, at)
        if members is _BAD:
            return _BAD
        values = {}
        for name, value in members.items():
            if self._is_full:
                return _BAD
            below = at + pointer(name)
            values[self._value(hints[0], name, below)] = self._value(hints[1], value, below)
        right = {name: value for name, value in values.items() if not _is_bad(name) and not _is_bad(value)}
        return values if len(right) == len(values) else _Bad(right)

    def _anything(self, raw: Any, at: str, level: int = 0) -> Any:
        """*raw* if it can be printed as JSON."""
        raw = _bare_text(raw)
        match raw:
            case None | bool() | str() | Raw() if is_plain(raw):
                return raw
            case str():
                self.add(at, "invalid_value", LONE_SURROGATE)
            case int() if -(2**63) <= raw < 2**64:
                return int(raw)
            case float() if math.isfinite(raw):
                return float(raw)
            case int() | float():
                self.add(at, "invalid_value", "the number is out of range")
            case list() | tuple() if level < _DEEPEST:
                values = [self._anything(value, f"{at}/{i}", level + 1) for i, value in enumerate(raw)]
                return _BAD if any(value is _BAD for value in values) else values
            case Mapping() if level < _DEEPEST and all(isinstance(name, str) for name in raw):
                members = {
                    self._leaf(str, name, at + pointer(name)): self._anything(value, at + pointer(name), level + 1)
                    for name, value in raw.items()
                }
                return _BAD if _BAD in members or any(value is _BAD for value in members.values()) else members
            case list() | tuple() | Mapping() if level >= _DEEPEST:
                self.add(at, "invalid_value", f"more than {_DEEPEST} levels of arrays and objects")
            case _:
                self.add(at, "invalid_type", f"expected a JSON value, got {_kind(raw)}")
        return _BAD

    def _leaf(self, hint: Any, raw: Any, at: str) -> Any:
        raw = _bare_text(raw)
        if isinstance(raw, str) and not is_plain(raw):
            self.add(at, "invalid_value", LONE_SURROGATE)
            return _BAD
        try:
            value = msgspec.convert(raw, hint, dec_hook=_decode)
        except ValidationError as error:
            self.add(at, *_explained(error, hint, raw))
            return _BAD
        if (type(value) is int and not -(2**63) <= value < 2**63) or (type(value) is float and not math.isfinite(value)):
            self.add(at, "invalid_value", "the number is out of range")
            return _BAD
        return value


def _at_once(hint: Any, raw: Any) -> Any:
    """*raw* converted where msgspec alone can tell that it is right, or _BAD: of what is wrong it names one mistake only."""
    if _is_exact(hint) and is_plain(raw):  # else msgspec would try to print it
        try:
            return msgspec.convert(raw, hint, dec_hook=_decode)
        except ValidationError:
            return _BAD
    return _BAD


def _bare_text(raw: Any) -> Any:
    """*raw*, as a text without a class of its own if it is one: not all that prints JSON takes others."""
    return str.__str__(raw) if isinstance(raw, str) and type(raw) is not str else raw


def is_plain(raw: Any) -> bool:
    """Whether all texts in *raw* are bare, and can be written as UTF-8: a str can hold half of a surrogate pair."""
    if isinstance(raw, str):
        return type(raw) is str and (raw.isascii() or SURROGATE.search(raw) is None)
    if type(raw) is dict or isinstance(raw, Mapping):  # it is asked of every event, and of most the first will do
        for part in (*raw, *raw.values()):  # the usual parts at once, because a call takes as long as all else here
            if type(part) is not Raw and not (type(part) is str and part.isascii()) and not is_plain(part):
                return False
        return True
    return not isinstance(raw, _ARRAYS) or all(map(is_plain, raw))


_NAMES = {
    "str": "a string",
    "int": "an integer",
    "float": "a number",
    "bool": "a boolean",
    "null": "null",
    "array": "an array",
    "object": "an object",
}


def _kind(raw: Any) -> str:
    try:
        msgspec.convert(raw, NoneType)
    except ValidationError as error:
        return _words(str(error)).partition(", got ")[2]
    return "null"


def _words(message: str) -> str:
    """A message of msgspec's in the words of JSON."""

    def named(found: re.Match[str]) -> str:
        return " or ".join(_NAMES.get(name, name) for name in found[1].split(" | "))

    sentence = re.sub(r"`([^`]*)`", named, message.partition(" - at ")[0])
    return sentence[0].lower() + sentence[1:]


def _explained(error: ValidationError, hint: Any, raw: Any) -> tuple[str, str]:
    """The code and the sentence for what msgspec refused."""
    message = str(error)
    if message.startswith("Expected ") and ", got `" in message:
        return "invalid_type", _words(message)
    bare, metas = _bare(hint)
    if choices := _choices(bare):
        named = ", ".join(quoted(choice) if isinstance(choice, str) else str(choice) for choice in choices)
        suggestion = did_you_mean(raw, filter(lambda choice: isinstance(choice, str), choices)) if isinstance(raw, str) else ""
        return "invalid_value", f"expected one of {named}{suggestion}"
    for meta in metas:
        if expected := (meta.extra or {}).get("expected"):
            return "invalid_value", f"expected {expected}"
    # "Invalid ..." repeats the input, however long.
    return "invalid_value", _words(message) if message.startswith("Expected ") else "this value is not allowed here"


def _choices(bare: Any) -> list[Any]:
    if get_origin(bare) is Literal:
        return list(get_args(bare))
    return [member.value for member in bare] if isinstance(bare, type) and issubclass(bare, Enum) else []


def _parser(bare: Any, metas: tuple[Meta, ...]) -> Callable[[str], Any] | None:
    for meta in metas:
        if parse := (meta.extra or {}).get("parse"):
            return cast("Callable[[str], Any]", parse)
    # A plain subclass of str, such as `Secret`, is made of any text.
    return getattr(bare, "parse", bare if _is_kind_of_text(bare) else None)


def _is_kind_of_text(bare: Any) -> bool:
    return isinstance(bare, type) and issubclass(bare, str) and bare is not str and not issubclass(bare, Enum)


def _decode(type_: Any, value: Any) -> Any:
    """What msgspec does with a type that it does not know."""
    parse = _parser(type_, ())
    if isinstance(value, type_) or parse is None or not isinstance(value, str):
        return value  # which msgspec refuses unless it is a *type_*
    return parse(value)


def decoder(type_: type[S]) -> msgspec.json.Decoder[S]:
    """Makes a *type_* of JSON texts, where `Problems.convert` would find nothing wrong with it; else a ValidationError."""
    if not _is_exact(type_):
        raise TypeError(f"msgspec alone does not tell whether a {type_.__name__} is right")
    return msgspec.json.Decoder(type_, dec_hook=_decode)


def _bare(hint: Any) -> tuple[Any, tuple[Meta, ...]]:
    if get_origin(hint) is Annotated:
        return hint.__origin__, tuple(meta for meta in hint.__metadata__ if isinstance(meta, Meta))
    return hint, ()


def _annotated(hint: Any, metas: tuple[Meta, ...]) -> Any:
    return Annotated[(hint, *metas)] if metas else hint


def _is_struct(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Struct) and not hasattr(hint, "parse")


@lru_cache(maxsize=256)
def _fields(type_: type[Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    return {field.encode_name: field for field in msgspec.structs.fields(type_)}


def _default(field: msgspec.structs.FieldInfo) -> Any:
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()


@lru_cache(maxsize=256)
def _is_exact(hint: Any) -> bool:
    """Whether msgspec alone tells right from wrong: it admits numbers, and things under Any, that no store or JSON holds."""
    bare, metas = _bare(hint)
    if any("parse" in (meta.extra or {}) for meta in metas):
        return False
    if bare is int:
        lower = any(meta.ge is not None or meta.gt is not None for meta in metas)
        return lower and any(meta.le is not None or meta.lt is not None for meta in metas)
    if _is_struct(bare):
        # Of a Struct that stands alone msgspec does not ask for the tag.
        return bare.__struct_config__.tag is None and all(_is_exact(field.type) for field in _fields(bare).values())
    if get_origin(bare) is Literal:
        return True
    return bare not in (Any, float) and all(map(_is_exact, get_args(bare)))
