"""JSON texts of ours are read strictly, and what is a producer's is kept."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import time
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from hookengine.errors import Invalid, Malformed
from hookengine.jsontext import DEEPEST, read_json, read_objects

MEBIBYTE = 1 << 20

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
# Characters that bring a random text near to JSON.
FRAGMENTS = st.lists(
    st.sampled_from(
        [*'{}[],:" \n\t0123456789.eE+-', '"a"', '"data"', r"\u", r"\ud83d", r"\ude00", r"\"", r"\\", "null", "tru", "é"]
    ),
    max_size=24,
).map("".join)


def refused(raw: bytes, **options: Any) -> Malformed:
    """The error that *raw* meets."""
    with pytest.raises(Malformed) as caught:
        read_json(raw, **options)
    return caught.value


def plain(value: Any) -> Any:
    """*value* with what was kept as bytes."""
    return {name: bytes(each) if isinstance(each, Raw) else each for name, each in value.items()}


def nested(levels: int) -> bytes:
    """An array of so many levels, with short ones beside the deep one."""
    return b"[[]," * (levels - 1) + b"[]" + b"]" * (levels - 1)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        pytest.param(b"", "invalid_json", id="I02"),
        pytest.param(b" \n", "invalid_json", id="I02-blank"),
        pytest.param(b'{"a":', "invalid_json", id="I03"),
        pytest.param(b'{"a":"b', "invalid_json", id="I03-string"),
        pytest.param(b'{"a":1,}', "invalid_json", id="I04-object"),
        pytest.param(b'{"a":[1,]}', "invalid_json", id="I04-array"),
        pytest.param(b'{"a":1/**/}', "invalid_json", id="I04-comment"),
        pytest.param(b"{'a':1}", "invalid_json", id="I04-quotes"),
        pytest.param(b"{}{}", "invalid_json", id="I04-two"),
        pytest.param(b'{"a":NaN}', "invalid_json", id="I05-nan"),
        pytest.param(b'{"a":Infinity}', "invalid_json", id="I05-infinity"),
        pytest.param(b'{"data":-Infinity}', "invalid_json", id="I05-minus-infinity"),
        pytest.param(rb'{"a":"\ud800"}', "invalid_json", id="I13-high"),
        pytest.param(rb'{"a":"\udc00"}', "invalid_json", id="I13-low"),
        pytest.param(rb'{"data":["\ud800\u0041"]}', "invalid_json", id="I13-in-data"),
        pytest.param(rb'{"\ud83d\ude00\ude00":1}', "invalid_json", id="I13-in-name"),
        pytest.param(b'{"a":"\xff"}', "invalid_encoding", id="I14-byte"),
        pytest.param(b'{"data":"\xc0\xaf"}', "invalid_encoding", id="I14-overlong-in-data"),
        pytest.param(b'{"a":"\xed\xa0\x80"}', "invalid_encoding", id="I14-surrogate"),
        pytest.param(b'\xef\xbb\xbf{"a":1}', "invalid_encoding", id="I14-bom"),
        pytest.param('{"a":1}'.encode("utf-16"), "invalid_encoding", id="I14-utf-16"),
        pytest.param('{"a":1}'.encode("utf-16-le"), "invalid_encoding", id="I14-utf-16-le"),
        pytest.param('{"a":1}'.encode("utf-32-be"), "invalid_encoding", id="I14-utf-32-be"),
        pytest.param(b'{"a":"\x00"}', "invalid_json", id="I16-nul"),
        pytest.param(b'{"data":"\x1f"}', "invalid_json", id="I16-control-in-data"),
        pytest.param(b'{"data":01}', "invalid_json", id="number-with-zero-first"),
        pytest.param(b'{"data":+1}', "invalid_json", id="number-with-plus"),
        pytest.param(b'{"data":.5}', "invalid_json", id="number-without-integer"),
        pytest.param(rb'{"data":"\x41"}', "invalid_json", id="unknown-escape"),
        pytest.param(b'{"a":1}\x00', "invalid_json", id="nul-at-the-end"),
        pytest.param(b'{"a":' + nested(65) + b"}", "json_too_deep", id="I17"),
        pytest.param(b'{"data":' + nested(254) + b"}", "json_too_deep", id="I17-data"),
        pytest.param(nested(1024), "json_too_deep", id="I18"),
        pytest.param(b"[" * 100_000 + b"]" * 100_000, "json_too_deep", id="I18-100000"),
        pytest.param(b'{"data":' * 66 + b"1" + b"}" * 66, "json_too_deep", id="objects"),
        pytest.param(b'{"a":1,"a":1}', "duplicate_key", id="twice"),
        pytest.param(b'{"a":1,"data":2,"a":3}', "duplicate_key", id="twice-around-data"),
        pytest.param(b'{"data":1, "data":1}', "duplicate_key", id="data-twice"),
        pytest.param(rb'{"data":1,"\u0064ata":1}', "duplicate_key", id="twice-by-escape"),
        pytest.param(b'{"data":1,"":1,"":2}', "duplicate_key", id="empty-name-twice"),
        pytest.param(b'{"auth":{"type":1,"type":2}}', "duplicate_key", id="twice-inside"),
        pytest.param(b'{"data":{},"metadata":[{"data":{"a":1,"a":2}}]}', "duplicate_key", id="data-of-another-object"),
        pytest.param(b'[{"a":1,"a":2}]', "duplicate_key", id="in-an-array"),
    ],
)
def test_refused(raw: bytes, code: str) -> None:
    """What is no JSON of ours is refused with its code, and nothing but Malformed comes out."""
    assert code == refused(raw).code


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"1e400", id="I06"),
        pytest.param(b"18446744073709551616", id="I08"),
        pytest.param(b"9007199254740993", id="I09"),
        pytest.param(b"9" * 4000, id="I10"),
        pytest.param(b"-" + b"9" * 9000, id="I10-more"),
        pytest.param(b'{"a":1,"a":2}', id="I11"),
        pytest.param(rb'"\u0000\u00e9\ud83d\ude00\/"', id="I15"),
        pytest.param(rb'"\\ud800"', id="escaped-backslash"),
        pytest.param('{ "é" :\n\t[ 1.10 ,{ } ] }'.encode(), id="spacing"),
        pytest.param(b'"[[[["', id="brackets-in-a-string"),
        pytest.param(rb'"\\\"[\\"', id="quotes-in-a-string"),
        pytest.param(nested(DEEPEST - 1), id="I17-64"),
        pytest.param(b"null", id="null"),
        pytest.param(b'""', id="empty"),
    ],
)
def test_data_is_kept(data: bytes) -> None:
    """What a producer sends as data comes back byte for byte, wherever it stands."""
    assert {"type": "a b", "data": data} == plain(read_json(b'{"type": "a b", "data":  ' + data + b"\n}"))
    assert {"data": data, "n": [1]} == plain(read_json(b'\t{"data":' + data + b' ,"n":[1]}\r\n'))
    assert {"data": data} == plain(read_json(rb'{"\u0064ata":' + data + b"}"))


@given(JSON, JSON, st.booleans(), st.sampled_from([None, 1]))
def test_any_json_is_kept_and_read(data: Any, other: Any, ascii_only: bool, indent: int | None) -> None:
    """Whatever JSON is sent, data is kept and the other members have their values."""
    text = json.dumps(data, ensure_ascii=ascii_only, indent=indent)
    raw = f'{{"x y": {json.dumps(other, ensure_ascii=ascii_only)}, "data": {text}}}'

    assert {"x y": other, "data": text.encode()} == plain(read_json(raw.encode()))


def oracle(raw: str) -> Any:
    """What the standard library makes of *raw*, or None where it is none of ours."""

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ValueError
        return dict(pairs)

    def constant(name: str) -> None:
        raise ValueError(name)

    try:
        value = json.loads(raw, object_pairs_hook=members, parse_constant=constant)
        json.dumps(value, ensure_ascii=False).encode()
    except ValueError:
        return None
    return [value]


@given(FRAGMENTS)
def test_same_grammar_as_the_standard_library(raw: str) -> None:
    """Texts near to JSON are taken or refused as by Python's parser, once that refuses lone surrogates and NaN."""
    try:
        found = [read_json(raw.encode(), kept=frozenset())]
    except Malformed:
        found = None

    assert oracle(raw) == found


@given(st.binary(max_size=64))
def test_any_bytes(raw: bytes) -> None:
    """Whatever bytes come, they are read or Malformed, alone, as a batch and as lines."""
    for read in (read_json, partial(read_objects, most=9), partial(read_objects, ndjson=True, most=9)):
        with contextlib.suppress(Malformed, Invalid):
            read(raw)


@given(st.recursive(st.just([]), lambda inner: st.lists(inner, max_size=4), max_leaves=40), st.integers(55, 67))
def test_depth(tree: Any, levels: int) -> None:
    """A text is refused exactly when an array in it stands deeper than 64 levels in an object of ours."""

    def depth(node: Any) -> int:
        return 1 + max(map(depth, node), default=0)

    for _ in range(levels - depth(tree)):
        tree = [[], tree, [[]]]
    raw = json.dumps(tree).encode()

    if depth(tree) > DEEPEST:
        assert "json_too_deep" == refused(raw).code
    else:
        assert tree == read_json(raw)


@pytest.mark.parametrize(
    ("raw", "detail"),
    [
        pytest.param(b'{"a":\n  01}', "line 2, column 4: invalid number", id="second line"),
        pytest.param('{"é":x}'.encode(), "line 1, column 6: invalid character", id="characters, not bytes"),
        pytest.param(b'{"a":\n', "line 2, column 1: the text ends too early", id="end"),
        pytest.param(rb'{"a":"\\\ud800"}', "line 1, column 9: a lone surrogate escape", id="surrogate"),
        pytest.param(b'{"a":1,"a":2}', "the member 'a' is named twice", id="twice"),
        pytest.param(b"\xff", "byte 0 is not UTF-8", id="encoding"),
    ],
)
def test_details_say_where(raw: bytes, detail: str) -> None:
    """The detail says where the mistake is."""
    assert detail == refused(raw).detail


def test_details_repeat_little() -> None:
    """A name that is there twice is cut and escaped in the error."""
    name = "\\u0007" + "x" * 10_000

    detail = refused(f'{{"{name}":1,"{name}":2}}'.encode()).detail

    assert len(detail) < 150
    assert detail.isprintable()


@pytest.mark.parametrize("raw", [b'"x"', b" 5 ", b"null", b"[1, {}]", b"true", b"-0.5"])
def test_other_than_objects(raw: bytes) -> None:
    """What is no object is read too, for the caller to refuse."""
    assert json.loads(raw) == read_json(raw)


def test_numbers_out_of_range() -> None:
    """Numbers that nothing holds come back as such, in bounded time, not as an error and not rounded."""
    value = read_json(b'{"a":1e400,"b":' + b"9" * 400_000 + b',"c":[18446744073709551615],"d":-' + b"9" * 30 + b"}")

    assert float("inf") == value["a"]
    assert value["b"] > 2**64
    assert [2**64 - 1] == value["c"]
    assert value["d"] < -(2**63)


def test_kept_members_are_the_callers_choice() -> None:
    """Other members than data can be kept."""
    assert {"example": b"[1 ]", "data": [1]} == plain(read_json(b'{"example":[1 ],"data":[1]}', kept=frozenset({"example"})))


def test_kept_bytes_do_not_hold_the_body() -> None:
    """What is kept is a copy, so that a cached payload does not keep its whole request in memory."""
    body = b'{"data":"x","pad":"' + b"y" * 4096 + b'"}'
    before = sys.getrefcount(body)

    kept = read_json(body)["data"]

    assert before == sys.getrefcount(body)
    assert b'"x"' == bytes(kept)


def repeated(unit: bytes) -> bytes:
    """An array of 1 MiB."""
    return b"[" + b",".join([unit] * (MEBIBYTE // (len(unit) + 1))) + b"]"


@pytest.mark.alone
@pytest.mark.parametrize(
    "bomb",
    [
        pytest.param(b'{"data":' + repeated(b"[]") + b"}", id="I32"),
        pytest.param(b'{"event_types":' + repeated(b"[]") + b"}", id="I32-ours"),
        pytest.param(b'{"\\u0074ype":1,"data":' + repeated(b"[]") + b"}", id="I32-escaped-name"),
        pytest.param(b'{"data":' + repeated(b"[" * 60 + b"]" * 60) + b"}", id="steep"),
        pytest.param(b'{"data":' + repeated(b'""') + b"}", id="strings"),
        pytest.param(b'{"data":' + repeated(rb'"\\"') + b"}", id="escapes"),
        pytest.param(json.dumps({f"k{i}": i for i in range(80_000)}).encode(), id="I33"),
        pytest.param(b'{"data":' + b"9" * MEBIBYTE + b"}", id="digits"),
    ],
)
def test_bombs(bomb: bytes) -> None:
    """A mebibyte of anything costs a few times what Python's own parser takes for it, however it is made."""
    spent = []
    for read in (json.loads if b"9" * 5000 not in bomb else json.JSONDecoder(parse_int=str).decode, read_json):
        text: Any = bomb if read is read_json else bomb.decode()
        start = time.process_time()
        read(text)
        spent.append(time.process_time() - start)

    assert spent[1] < 8 * spent[0] + 0.1


@pytest.mark.parametrize("ndjson", [False, True])
def test_batches(ndjson: bool) -> None:
    """Elements of an array and lines of NDJSON are read alike, data kept."""
    objects = [b'{"type":"a","data":{"x":1, "x":2}}', b'{"data": 1e400 }', b"5", b"{}"]
    raw = b"\r\n".join([*objects, b""]) if ndjson else b" [" + b" ,\n".join(objects) + b"] "

    first, second, third, last = read_objects(raw, ndjson=ndjson, most=1000)

    assert {"type": "a", "data": b'{"x":1, "x":2}'} == plain(first)
    assert {"data": b"1e400"} == plain(second)
    assert (5, {}) == (third, last)


@pytest.mark.parametrize(("raw", "ndjson"), [(b"[]", False), (b" [ ] ", False), (b"", True), (b"\n\n", True)])
def test_empty_batches(raw: bytes, ndjson: bool) -> None:
    """A batch may be empty, for the caller to refuse."""
    assert [] == read_objects(raw, ndjson=ndjson, most=1000)


@pytest.mark.parametrize(
    ("raw", "ndjson", "code"),
    [
        pytest.param(b"", False, "invalid_json", id="empty array"),
        pytest.param(b"[{},]", False, "invalid_json", id="comma"),
        pytest.param(b'[{"a":1,"a":2}]', False, "duplicate_key", id="twice"),
        pytest.param(b'[{"data":"\xff"}]', False, "invalid_encoding", id="encoding"),
        pytest.param(b"[" + nested(66) + b"]", False, "json_too_deep", id="deep"),
        pytest.param(b"[" * 5000 + b"]" * 5000, False, "json_too_deep", id="very deep"),
        pytest.param(b'{"a":1}\n{"a":', True, "invalid_json", id="line"),
        pytest.param(b"{}\n\n{}", True, "invalid_json", id="blank line"),
        pytest.param(b"{}{}", True, "invalid_json", id="two on a line"),
        pytest.param(b'{"a":1,"a":2}\n', True, "duplicate_key", id="twice on a line"),
        pytest.param(b"{}\n" + nested(66), True, "json_too_deep", id="deep line"),
        pytest.param(b"{}\n" + b"[" * 5000 + b"]" * 5000, True, "json_too_deep", id="very deep line"),
        pytest.param(b'{}, "' + b"]" * 9, False, "invalid_json", id="neither"),
        pytest.param(b"[" + b"1," * 2000, False, "invalid_json", id="too many, and broken"),
    ],
)
def test_refused_batches(raw: bytes, ndjson: bool, code: str) -> None:
    """Batches obey the same grammar."""
    with pytest.raises(Malformed) as caught:
        read_objects(raw, ndjson=ndjson, most=1000)

    assert code == caught.value.code


def test_lines_are_counted() -> None:
    """The detail of a bad line has its number in the whole text."""
    with pytest.raises(Malformed) as caught:
        read_objects(b"{}\n{}\n{]\n{}", ndjson=True, most=1000)

    assert re.match(r"line 3, column 2: ", caught.value.detail)


@pytest.mark.parametrize("ndjson", [False, True])
def test_number_of_elements(ndjson: bool) -> None:
    """As many elements as asked for are read; one more is refused before all are in memory."""

    def raw(count: int) -> bytes:
        return b"\n".join([b"{}"] * count) if ndjson else b"[" + b",".join([b"{}"] * count) + b"]"

    assert 1000 == len(read_objects(raw(1000), ndjson=ndjson, most=1000))
    with pytest.raises(Invalid) as caught:
        read_objects(raw(1001), ndjson=ndjson, most=1000)
    assert [("too_many_elements", "")] == [(mistake.code, mistake.pointer) for mistake in caught.value.mistakes]
    assert 2 == len(read_objects(raw(2), ndjson=ndjson, most=2))


@pytest.mark.parametrize("raw", [b"{}", b'"x"', b"null", b"5"])
def test_no_array(raw: bytes) -> None:
    """A batch that is JSON but no array is invalid, not malformed."""
    with pytest.raises(Invalid) as caught:
        read_objects(raw, most=1000)

    assert ["invalid_type"] == [mistake.code for mistake in caught.value.mistakes]
