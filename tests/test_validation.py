"""Input becomes Structs, or every mistake in it is named."""

from __future__ import annotations

import math
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from hookengine.errors import Invalid, Mistake
from hookengine.models import Secret
from hookengine.times import Duration, Time
from hookengine.validation import Draft, Problems, decoder


class Colour(Enum):
    """An enumeration."""

    RED = "red"
    BLUE = "blue"


class Basic(Struct, frozen=True, forbid_unknown_fields=True, tag="basic", tag_field="type"):
    """One of two tagged Structs."""

    username: str
    password: Secret


class OAuth(Struct, frozen=True, forbid_unknown_fields=True, tag="oauth2", tag_field="type"):
    """The other one."""

    token_url: str
    scopes: tuple[str, ...] = ()


class Range(Struct, frozen=True, forbid_unknown_fields=True):
    """A rule of its own."""

    low: int
    high: int = 10

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError("low is above high")


class Even(int):
    """A type that is written as a text."""

    @classmethod
    def parse(cls, text: str) -> Even:
        """Even numbers only."""
        if int(text) % 2:
            raise ValueError(f"{text} is odd")
        return cls(text)


def half(text: str) -> int:
    """A `parse` that is no classmethod."""
    return int(text) // 2


class Wanted(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A member of each kind."""

    type: Annotated[str, Meta(pattern=r"^[a-z.]+\Z", extra={"expected": "a type such as order.created"})]
    renamed: str = "r"
    text: Annotated[str, Meta(min_length=2, max_length=4)] | None = None
    priority: Literal["high", "low"] = "low"
    colour: Colour = Colour.RED
    level: Annotated[int, Meta(ge=1, le=9)] = 1
    flag: bool = False
    number: int = 0
    ratio: float | None = 0.5
    timeout: Duration | UnsetType | None = UNSET
    at: Annotated[Time, Meta(description="when")] | UnsetType = UNSET
    even: Even = Even(2)
    halved: Annotated[int, Meta(extra={"parse": half})] = 5
    types: Annotated[tuple[Annotated[str, Meta(max_length=3)], ...], Meta(min_length=1, max_length=3)] = ("*",)
    set: frozenset[int] = frozenset()
    pair: tuple[int, str] = (1, "a")
    headers: dict[Annotated[str, Meta(max_length=3)], str] = {}
    metadata: dict[str, Any] = {}
    anything: Any = None
    auth: Basic | OAuth | None = None
    basic: Basic | None = None
    range: Range | UnsetType = UNSET
    either: int | str = 1
    option: Literal["auto"] | Annotated[int, Meta(ge=0)] = "auto"
    data: Raw | UnsetType = UNSET


class Hot(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """A Struct that msgspec alone can judge."""

    type: str
    data: Raw
    priority: Literal["high", "low"] = "low"
    deliver_at: Time | None = None
    level: Annotated[int, Meta(gt=0, lt=9)] = 1
    even: Annotated[Even, Meta(description="even")] | None = None
    secret: Secret | None = None
    names: tuple[Annotated[str, Meta(max_length=3)], ...] = ()


def converted(type_: type[Struct], raw: Any, at: str = "") -> tuple[Draft[Any], list[Mistake]]:
    """The draft of *raw* and the mistakes in it."""
    problems = Problems()
    return problems.convert(type_, raw, at), problems.mistakes


def found(raw: Any, at: str = "") -> list[tuple[str | None, str]]:
    """Pointers and codes of the mistakes in *raw*, taken for a Wanted."""
    return [(mistake.pointer, mistake.code) for mistake in converted(Wanted, raw, at)[1]]


def test_everything_valid() -> None:
    """Each kind of member is converted."""
    raw = {
        "type": "a.b",
        "renamed": "x",
        "text": None,
        "priority": "high",
        "colour": "blue",
        "level": 9,
        "flag": True,
        "number": -5,
        "ratio": 1,
        "timeout": "5s",
        "at": "1970-01-01T00:00:01Z",
        "even": "4",
        "halved": "8",
        "types": ["a", "b"],
        "set": [1, 2, 1],
        "pair": [2, "b"],
        "headers": {"a": "b"},
        "metadata": {"a": [1, 2.5, None, {"b": True}, "c", 2**64 - 1]},
        "anything": ("x",),
        "auth": {"type": "oauth2", "token_url": "u", "scopes": ["s"]},
        "basic": {"type": "basic", "username": "u", "password": "p"},
        "range": {"low": 1},
        "either": "x",
        "option": 3,
        "data": Raw(b"1"),
    }
    problems = Problems()

    wanted = problems.require(problems.convert(Wanted, raw))

    assert ("a.b", None, "high", Colour.BLUE) == (wanted.type, wanted.text, wanted.priority, wanted.colour)
    assert (9, True, -5, 1.0) == (wanted.level, wanted.flag, wanted.number, wanted.ratio)
    assert (5000, 1000, 4, 4) == (wanted.timeout, wanted.at, wanted.even, wanted.halved)
    assert (("a", "b"), frozenset({1, 2}), (2, "b")) == (wanted.types, wanted.set, wanted.pair)
    assert ({"a": "b"}, raw["metadata"], ["x"]) == (wanted.headers, wanted.metadata, wanted.anything)
    assert OAuth(token_url="u", scopes=("s",)) == wanted.auth
    assert Basic(username="u", password=Secret("p")) == wanted.basic
    assert isinstance(wanted.basic, Basic)
    assert Secret is type(wanted.basic.password)
    assert (Range(low=1), "x", 3) == (wanted.range, wanted.either, wanted.option)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        pytest.param("type", 5, [("/type", "invalid_type")], id="I34-type"),
        pytest.param("type", None, [("/type", "invalid_type")], id="null"),
        pytest.param("type", "A B", [("/type", "invalid_value")], id="I37-pattern"),
        pytest.param("type", "a\n", [("/type", "invalid_value")], id="I37-newline"),
        pytest.param("text", "x", [("/text", "invalid_value")], id="short"),
        pytest.param("text", "xxxxx", [("/text", "invalid_value")], id="long"),
        pytest.param("text", 1, [("/text", "invalid_type")], id="optional"),
        pytest.param("priority", "hgih", [("/priority", "invalid_value")], id="I78-literal"),
        pytest.param("priority", 2**63, [("/priority", "invalid_type")], id="I78-number"),
        pytest.param("colour", "green", [("/colour", "invalid_value")], id="enum"),
        pytest.param("colour", [], [("/colour", "invalid_type")], id="enum-array"),
        pytest.param("level", 0, [("/level", "invalid_value")], id="below"),
        pytest.param("level", 10, [("/level", "invalid_value")], id="above"),
        pytest.param("level", True, [("/level", "invalid_type")], id="I34-bool-is-no-int"),
        pytest.param("level", 1.5, [("/level", "invalid_type")], id="I78-float"),
        pytest.param("level", "1", [("/level", "invalid_type")], id="text-is-no-int"),
        pytest.param("flag", 1, [("/flag", "invalid_type")], id="int-is-no-bool"),
        pytest.param("flag", "true", [("/flag", "invalid_type")], id="text-is-no-bool"),
        pytest.param("number", 2**63, [("/number", "invalid_value")], id="more-than-64-bits"),
        pytest.param("number", -(2**63) - 1, [("/number", "invalid_value")], id="less-than-64-bits"),
        pytest.param("number", math.inf, [("/number", "invalid_type")], id="I06-int"),
        pytest.param("ratio", math.inf, [("/ratio", "invalid_value")], id="I06-float"),
        pytest.param("ratio", math.nan, [("/ratio", "invalid_value")], id="nan"),
        pytest.param("timeout", "soon", [("/timeout", "invalid_value")], id="duration"),
        pytest.param("timeout", 5, [("/timeout", "invalid_type")], id="duration-number"),
        pytest.param("at", "now", [("/at", "invalid_value")], id="time"),
        pytest.param("at", None, [("/at", "invalid_type")], id="time-null"),
        pytest.param("even", "3", [("/even", "invalid_value")], id="parse"),
        pytest.param("even", "x", [("/even", "invalid_value")], id="own-type"),
        pytest.param("halved", "x", [("/halved", "invalid_value")], id="own-function"),
        pytest.param("types", [], [("/types", "invalid_value")], id="too-few"),
        pytest.param("types", ["a"] * 4, [("/types", "invalid_value")], id="I44-too-many"),
        pytest.param("types", ["a", 1, "aaaa"], [("/types/1", "invalid_type"), ("/types/2", "invalid_value")], id="elements"),
        pytest.param("types", "abc", [("/types", "invalid_type")], id="text-is-no-array"),
        pytest.param("types", {"a": 1}, [("/types", "invalid_type")], id="object-is-no-array"),
        pytest.param("set", [1, "x"], [("/set/1", "invalid_type")], id="set"),
        pytest.param("pair", [1], [("/pair", "invalid_value")], id="tuple"),
        pytest.param(
            "headers", {"a": 1, "/~c": 2}, [("/headers/a", "invalid_type"), ("/headers/~1~0c", "invalid_type")], id="values"
        ),
        pytest.param("headers", {"long": "x"}, [("/headers/long", "invalid_value")], id="name"),
        pytest.param("headers", [], [("/headers", "invalid_type")], id="array-is-no-object"),
        pytest.param(
            "metadata",
            {"a": [1, math.inf], "b": 2**64},
            [("/metadata/a/1", "invalid_value"), ("/metadata/b", "invalid_value")],
            id="I06-any",
        ),
        pytest.param(
            "metadata",
            {"a": object(), "b": {1: 2}},
            [("/metadata/a", "invalid_type"), ("/metadata/b", "invalid_type")],
            id="no-json",
        ),
        pytest.param("anything", b"x", [("/anything", "invalid_type")], id="bytes"),
        pytest.param("auth", "x", [("/auth", "invalid_type")], id="tagged-text"),
        pytest.param("auth", {"token_url": "u"}, [("/auth/type", "missing_member")], id="no-tag"),
        pytest.param("auth", {"type": "oauth"}, [("/auth/type", "invalid_value")], id="unknown-tag"),
        pytest.param("auth", {"type": []}, [("/auth/type", "invalid_type")], id="tag-of-another-type"),
        pytest.param(
            "auth",
            {"type": "oauth2", "token_ulr": "u", "scopes": [1]},
            [("/auth/token_ulr", "unknown_member"), ("/auth/scopes/0", "invalid_type"), ("/auth/token_url", "missing_member")],
            id="inside-tagged",
        ),
        pytest.param(
            "basic",
            {"username": 1},
            [("/basic/type", "missing_member"), ("/basic/username", "invalid_type"), ("/basic/password", "missing_member")],
            id="one-tagged",
        ),
        pytest.param(
            "basic",
            {"type": "basik", "username": "u", "password": "p"},
            [("/basic/type", "invalid_value")],
            id="one-tagged-unknown",
        ),
        pytest.param("range", {"low": 11}, [("/range", "invalid_value")], id="rule-of-a-struct"),
        pytest.param(
            "range", {"low": "x", "hihg": 1}, [("/range/low", "invalid_type"), ("/range/hihg", "unknown_member")], id="nested"
        ),
        pytest.param("range", None, [("/range", "invalid_type")], id="nested-null"),
        pytest.param("either", [], [("/either", "invalid_type")], id="union"),
        pytest.param("option", "x", [("/option", "invalid_value")], id="mixed-union"),
        pytest.param("option", -1, [("/option", "invalid_value")], id="mixed-union-bound"),
        pytest.param("tpye", 1, [("/tpye", "unknown_member")], id="I35"),
        pytest.param("", 1, [("/", "unknown_member")], id="empty-name"),
        pytest.param("type", "\ud83d", [("/type", "invalid_value")], id="half-a-character"),
        pytest.param("types", ["a", "\udc00"], [("/types/1", "invalid_value")], id="half-in-an-array"),
        pytest.param(
            "metadata",
            {"a": ["\udc00"], "\ud83d": 1},
            [("/metadata/a/0", "invalid_value"), ("/metadata/�", "invalid_value")],
            id="half-under-any",
        ),
        pytest.param(
            "basic",
            {"type": "basic", "username": "\ud83d", "password": "p"},
            [("/basic/username", "invalid_value")],
            id="half-in-a-struct",
        ),
    ],
)
def test_each_mistake_is_found(name: str, value: Any, expected: list[tuple[str, str]]) -> None:
    """A wrong member is reported with its code, and its pointer, alone."""
    assert expected == found({"type": "a", name: value})


@pytest.mark.parametrize("raw", [None, 5, "x", [], [{}], True, b"x"])
def test_no_object(raw: Any) -> None:
    """What is no object at all is one mistake, at the pointer given."""
    assert [("/7", "invalid_type")] == found(raw, "/7")


def test_all_at_once() -> None:
    """All mistakes are named in the order of the input, what is missing at the end, where it would be."""
    raw = {"prioritty": 1, "level": 0, "range": {"high": "x"}, "types": ["ok", 5]}

    assert [
        ("/3/prioritty", "unknown_member"),
        ("/3/level", "invalid_value"),
        ("/3/range/high", "invalid_type"),
        ("/3/range/low", "missing_member"),
        ("/3/types/1", "invalid_type"),
        ("/3/type", "missing_member"),
    ] == found(raw, "/3")


@pytest.mark.parametrize(
    ("raw", "detail"),
    [
        pytest.param({"type": 5}, "expected a string, got an integer", id="type"),
        pytest.param({"type": "A"}, "expected a type such as order.created", id="expected"),
        pytest.param({}, "'type' is missing", id="missing"),
        pytest.param({"type": "a", "levle": 1}, "unknown member 'levle' - did you mean 'level'?", id="unknown"),
        pytest.param({"type": "a", "zzzz": 1}, "unknown member 'zzzz'", id="unlike"),
        pytest.param({"type": "a", "level": 0}, "expected an integer >= 1", id="bound"),
        pytest.param({"type": "a", "priority": "hgih"}, "expected one of 'high', 'low' - did you mean 'high'?", id="choice"),
        pytest.param({"type": "a", "colour": "x"}, "expected one of 'red', 'blue'", id="enum"),
        pytest.param({"type": "a", "either": None}, "expected an integer or a string, got null", id="union"),
        pytest.param({"type": "a", "types": []}, "expected an array of length >= 1", id="length"),
        pytest.param({"type": "a", "timeout": 5}, "expected a string, got an integer", id="duration"),
        pytest.param({"type": "a", "range": None}, "expected an object, got null", id="object"),
        pytest.param({"type": "a", "option": "\x00" * 5000}, "this value is not allowed here", id="no-echo"),
    ],
)
def test_sentences(raw: Any, detail: str) -> None:
    """Details speak of JSON, not of Python, and suggest what was meant."""
    assert [detail] == [mistake.detail for mistake in converted(Wanted, raw)[1]]


@pytest.mark.parametrize("value", ["\x1b" * 9999, "x" * 9999])
@pytest.mark.parametrize("name", ["priority", "colour", "timeout", "at", "type", "either", "option", "auth"])
def test_little_is_repeated(name: str, value: str) -> None:
    """Neither values nor names are repeated at length or unescaped."""
    for raw in ({"type": "a", name: value}, {"type": "a", value: 1}, {"type": "a", "headers": {value: 1}}):
        for mistake in converted(Wanted, raw)[1]:
            assert mistake.detail.isprintable()
            assert value[:101] not in mistake.detail + (mistake.pointer or "")
            assert len(mistake.detail) < 600


def test_what_is_valid_can_be_looked_at() -> None:
    """A draft gives valid members and defaults while others are wrong, and None for those."""
    draft, mistakes = converted(Wanted, {"level": 3, "priority": "no", "text": "ab", "nope": 1})

    assert ["/priority", "/nope", "/type"] == [mistake.pointer for mistake in mistakes]
    assert (3, "ab", "r", {}) == (draft.get("level"), draft.get("text"), draft.get("renamed"), draft.get("metadata"))
    assert (None, None, None) == (draft.get("priority"), draft.get("type"), draft.get("timeout"))
    assert draft.whole is None


def test_a_whole_draft() -> None:
    """A draft without mistakes answers as the Struct does, without UNSET."""
    draft, mistakes = converted(Hot, {"type": "a", "data": Raw(b"1")})

    assert [] == mistakes
    assert ("a", "low", None) == (draft.get("type"), draft.get("priority"), draft.get("deliver_at"))
    assert draft.whole is not None


def test_mistakes_of_meaning_are_added() -> None:
    """A caller's own mistakes are raised together with those of form."""
    problems = Problems()
    draft = problems.convert(Wanted, {"type": "a", "level": 0})
    problems.add("/type", "reserved_type", "not yours")

    with pytest.raises(Invalid) as caught:
        problems.require(draft)

    assert ["/level", "/type"] == [mistake.pointer for mistake in caught.value.mistakes]
    assert 422 == caught.value.status


def test_nothing_wrong() -> None:
    """Without mistakes nothing is raised."""
    Problems().raise_if_any()


class Text(str):
    """A text of a class of its own, as libraries have them for names and for HTML."""

    __slots__ = ()

    def __str__(self) -> str:
        return "something else"


class Whole(int):
    """A number of a class of its own."""


class Part(float):
    """Another one."""


def kinds(value: Any) -> list[type]:
    """The classes of all that is in *value*."""
    if isinstance(value, Struct):
        return [kind for name in value.__struct_fields__ for kind in kinds(getattr(value, name))]
    if isinstance(value, dict):
        return [kind for pair in value.items() for part in pair for kind in kinds(part)]
    return [kind for part in value for kind in kinds(part)] if isinstance(value, tuple | list) else [type(value)]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"type": Text("a.b")}, {"type": "a.b"}),
        ({"type": "a", "text": Text("abc"), "types": [Text("x"), "y"]}, {"text": "abc", "types": ("x", "y")}),
        ({"type": "a", "headers": {Text("a"): Text("b")}}, {"headers": {"a": "b"}}),
        ({"type": "a", "priority": Text("high"), "timeout": Text("5s")}, {"priority": "high", "timeout": 5000}),
        (
            {"type": "a", "basic": {Text("type"): Text("basic"), "username": Text("u"), "password": Text("p")}},
            {"basic": Basic(username="u", password=Secret("p"))},
        ),
        ({"type": "a", "metadata": {Text("a"): [Text("b"), {Text("c"): Text("d")}]}}, {"metadata": {"a": ["b", {"c": "d"}]}}),
        ({"type": "a", "metadata": {"a": Whole(5), "b": Part(1.5)}}, {"metadata": {"a": 5, "b": 1.5}}),
        ({"type": "a", "anything": Text("a")}, {"anything": "a"}),
    ],
)
def test_values_of_other_classes(raw: Any, expected: dict[str, Any]) -> None:
    """A text or a number is taken for what it says; its class does not get in, because not all that prints JSON takes it."""
    draft, mistakes = converted(Wanted, raw)

    assert [] == mistakes
    assert expected == {name: getattr(draft.whole, name) for name in expected}
    assert not {Text, Whole, Part} & set(kinds(draft.whole))


@pytest.mark.parametrize(
    "raw",
    [
        {"type": "a", "data": Raw(b"1")},
        {"type": "a", "data": Raw(b"1"), "deliverAt": "1970-01-01T00:00:00Z", "even": "2", "level": 8},
        {"type": "a", "data": Raw(b"1"), "deliverAt": Time(5), "secret": Secret("p"), "names": ("a",)},
        {"type": "a", "data": Raw(b"1"), "deliverAt": UNSET, "secret": "p", "names": ["a", "b"]},
        {"type": "a", "data": Raw(b"1"), "deliverAt": None, "secret": None},
        {"type": "a", "data": Raw(b"1"), "even": "3"},
        {"type": "a", "data": Raw(b"1"), "even": 4},
        {"type": "a", "data": Raw(b"1"), "level": 9},
        {"type": "a", "data": Raw(b"1"), "names": ["long", 5]},
        {"type": "a", "data": Raw(b"1"), "deliver_at": None},
        {"type": "a"},
        [],
    ],
)
def test_the_fast_way_agrees(raw: Any) -> None:
    """What msgspec alone takes, the collector takes too, with the same result; what it refuses has a mistake."""

    class Slow(Hot, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
        extra: Any = None

    fast, fast_mistakes = converted(Hot, raw)
    slow, slow_mistakes = converted(Slow, raw)

    assert fast_mistakes == slow_mistakes
    assert (fast.whole is None) == bool(fast_mistakes)
    for name in Hot.__struct_fields__:
        assert repr(fast.get(name)).partition(" at 0x")[0] == repr(slow.get(name)).partition(" at 0x")[0]


def test_structs_pass_as_they_are() -> None:
    """Keyword arguments may hold Structs of the type asked for."""
    basic = Basic(username="u", password=Secret("p"))
    oauth = OAuth(token_url="u")

    assert [] == found({"type": "a", "auth": basic, "basic": basic, "range": Range(low=1), "timeout": Duration(5)})
    assert [] == found({"type": "a", "halved": 6, "ratio": None})
    assert [] == found(Wanted(type="a", auth=oauth))
    assert [("/basic", "invalid_type")] == found({"type": "a", "auth": oauth, "basic": oauth})


def test_endless_input() -> None:
    """An object that holds itself ends in a mistake."""
    endless: list[Any] = []
    endless.append(endless)
    loop: dict[str, Any] = {}
    loop["x"] = loop

    ((at, code), (_, other)) = found({"type": "a", "anything": endless, "metadata": loop})

    assert ("/anything" + "/0" * 64, "invalid_value", "invalid_value") == (at, code, other)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param({f"k{i}": i for i in range(100_000)}, id="members"),
        pytest.param({"type": "a", "set": ["x"] * 100_000}, id="elements"),
        pytest.param({"type": "a", "headers": {f"{i:03}": i for i in range(100_000)}}, id="values"),
    ],
)
def test_a_thousand_mistakes_are_enough(raw: Any) -> None:
    """A flood of mistakes ends after a thousand, and the error says so."""
    problems = Problems()
    problems.convert(Wanted, raw)

    with pytest.raises(Invalid, match="Only the first 1000") as caught:
        problems.raise_if_any()
    assert 1000 == len(caught.value.mistakes)


class Halved(Struct):
    """A Struct that only its own function can read."""

    value: Annotated[int, Meta(ge=0, le=9, extra={"parse": half})]


class Alone(Struct):
    """A Struct with a tagged one in it."""

    basic: Basic


def test_what_msgspec_does_not_know() -> None:
    """A function of ours and the tag of a single Struct hold also where msgspec would take the input."""
    assert Halved(value=2) == converted(Halved, {"value": "4"})[0].whole
    assert ["/basic/type"] == [m.pointer for m in converted(Alone, {"basic": {"username": "u", "password": "p"}})[1]]


class Lenient(Struct):
    """A Struct that ignores what it does not know."""

    a: Any = None


def test_unknown_members_may_be_allowed() -> None:
    """Whether unknown members are mistakes is the Struct's decision."""
    draft, mistakes = converted(Lenient, {"a": 1, "b": 2})

    assert ([], Lenient(a=1)) == (mistakes, draft.whole)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=2) | st.just(UNSET),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from([*Wanted.__struct_fields__, "low", "username", "x"]) | st.integers(), inner, max_size=4
            )
        ),
    )
)
def test_any_input_is_converted_or_refused(raw: Any) -> None:
    """Whatever comes, there is a Struct or at least one mistake, never both, and no other error."""
    draft, mistakes = converted(Wanted, raw)

    assert (draft.whole is None) == bool(mistakes)


class _Loose(Struct):
    """What msgspec alone would admit infinity to."""

    number: float


def test_decoder_is_for_what_is_exact() -> None:
    """Nothing is decoded at once of which msgspec admits what `convert` would refuse."""
    with pytest.raises(TypeError, match="a _Loose is right"):
        decoder(_Loose)
