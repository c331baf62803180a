"""JSON as JavaScript prints it, checked against node."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from node import Node

from hookengine.javascript import stringify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LARGEST = "1.7976931348623157e308"


@pytest.fixture(scope="module")
def node(find_program: Callable[[str], str]) -> Iterator[Node]:
    """One node for all cases."""
    with Node(find_program("node"), "stringify.mjs") as process:
        yield process


NUMBERS = [
    *("0", "-0", "0.0", "-0.0", "-0e5", "1.0", "1.10", "-1.50", "0.1", "1e0", "1E2", "1e+2", "100e-2", "3.0e0"),
    *("1e20", "1e21", "1e22", "123456789e12", "1.2345678901234567e20", "1.2345678901234567e21", "-1e21", "-1.5e300"),
    *("1e-4", "1e-5", "1e-6", "1e-7", "1.5e-5", "1.5e-6", "1.5e-7", "-1.25e-6", "1e-10", "123e-9", "0.00001", "0.0000001"),
    *("5e-324", "-5e-324", "4e-324", "2e-324", "1e-400", "-1e-400", "2.2250738585072014e-308", "2.225073858507201e-308"),
    *(LARGEST, f"-{LARGEST}", "1.7976931348623158e308", "0.30000000000000004", "9007199254740991", "9007199254740992"),
    *(
        "-9007199254740992",
        "9007199254740994",
        "9007199254740993.0",
        "1e15",
        "1e16",
        "123456789012345680",
        "72057594037927936",
        "-72057594037927952",
        "1000000000000000",
    ),
    *("999999999999999", "-999999999999999", "18446744073709551616", "9223372036854775808", "-9223372036854775808"),
    *("100000000000000000000", "1000000000000000000000", "10000000000000000000000", "9.5367431640625e-7", "1" + "0" * 22),
    *("0." + "0" * 400 + "1", "1" + "0" * 50 + "e-50", "0.1" + "0" * 400, "2.5", "1e23", "9007199254740993e0"),
]
TEXTS = [
    *NUMBERS,
    *('""', '"a"', '"\\u0000\\u0001\\u001f"', '"\\b\\t\\n\\f\\r"', '"\\u000b"', '"\x7f"', '"\\u007f"', '"\\/"', '"</script>"'),
    *(
        '"\\u2028\\u2029"',
        '"\u2028\u2029"',
        '"\\ud83d\\ude00"',
        '"😀"',
        '"\\u00e9é"',
        '"\\\\\\""',
        '"\\uFFFF\\ufffe"',
        '"\ufeff"',
    ),
    *("null", "true", "false", " [ ] ", "{ }", "\n[1 , 2]\t", '{"a" : {} , "b":[ ]}', "[[],{},[{}]]", "[" * 64 + "]" * 64),
    *('{"b":1,"a":2}', '{"10":1,"9":2,"a":3,"1":4}', '{"a":1,"2":2,"1":3}', '{"01":1,"1":2,"0":3,"00":4,"-1":5,"-0":6}'),
    '{"4294967294":1,"4294967295":2,"4294967296":3,"1":4}',
    '{"b":1,"4294967295":1,"4294967294":1,"9999999999":1,"99999999999":1}',
    *('{"1.5":1,"1":2,"1e3":3,"+1":4," 1":5,"1 ":6,"":7}', '{"\\u0031":1,"a":2,"0":3}', '{"\u0661":1,"1":2}'),
    *('{"a":1,"b":2,"a":3}', '{"1":1,"0":2,"1":3}', '{"a":{"x":1},"a":{"y":2}}', '{"a":1,"\\u0061":2}'),
    *(
        '{"__proto__":1,"a":2}',
        '{"__proto__":{"x":1}}',
        '{"toJSON":1}',
        '{"constructor":1,"length":2}',
        '{"é":1,"😀":2,"\\u2028":3}',
    ),
    '{"5":{"b":1,"3":[{"2":1,"1":2}]},"a":[{"z":1,"7":2}]}',
]


def test_hand_made_texts(node: Node) -> None:
    """Numbers, strings and keys in every form come out as node prints them."""
    expected = node.ask_all(TEXTS)

    assert expected == [stringify(text.encode()).decode() for text in TEXTS]


@pytest.mark.parametrize(
    "text",
    [
        *(
            "9007199254740993",
            "-9007199254740993",
            "12345678901234567890123",
            "100000000000000000000001",
            "1" * 400,
            "-" + "9" * 5000,
        ),
        *(
            "1e309",
            "-1E+400",
            "1.0e999",
            "1.7976931348623159e308",
            "1" + "0" * 309,
            "1" * 4301 + ".5",
            "99999999999999999999999",
        ),
        '{"a":[9007199254740993,1e400]}',
    ],
)
def test_what_no_double_holds_keeps_its_digits(text: str) -> None:
    """Integers that no double equals and numbers beyond the largest double are printed as the producer wrote them."""
    assert text == stringify(text.encode()).decode()


def test_spacing_goes_around_what_is_kept() -> None:
    """Kept digits stand in minified text like all others."""
    assert b'{"a":[9007199254740993,1E400,1]}' == stringify(b' { "a" : [ 9007199254740993 , 1E400, 1.0 ] } ')


def double(bits: int) -> float:
    """The double of 64 bits."""
    return float(struct.unpack("<d", bits.to_bytes(8, "little"))[0])


doubles = st.integers(0, 2**64 - 1).map(double).filter(lambda number: abs(number) < float("inf"))
literals = st.one_of(
    doubles.map(repr),
    st.floats(1e-5, 1e16).map(repr),
    doubles.map("{:.17e}".format),
    st.floats(1e-9, 1e23).map(repr),
    st.integers(-(2**53), 2**53).map(str),
    st.integers(-(2**900), 2**900).map(float).map(lambda whole: str(int(whole))),
    st.builds(
        "{}{}.{}e{}".format, st.sampled_from(["", "-"]), st.integers(0, 10**20), st.integers(0, 10**25), st.integers(-350, 280)
    ),
)
names = st.one_of(
    st.integers(0, 20).map(str),
    st.integers(2**32 - 4, 2**32 + 2).map(str),
    st.sampled_from(["a", "b", "__proto__", "01", "-1", "", "1.0", "\\u0031", "\\u0061"]),
    st.text(max_size=3).map(lambda text: json.dumps(text)[1:-1]),
).map('"{}"'.format)
strings = st.one_of(st.text(), st.text(st.characters(max_codepoint=0x2F)))
scalars = st.one_of(
    literals,
    strings.map(json.dumps),
    strings.map(lambda text: json.dumps(text, ensure_ascii=False)),
    st.sampled_from(["null", "true", "false", "[]", "{ }"]),
)
texts = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda items: f"[ {' ,'.join(items)}]")
        | st.lists(st.tuples(names, inner).map(": ".join), max_size=8).map(lambda members: f"{{{', '.join(members)}\n}}")
    ),
    max_leaves=15,
)


@given(cases=st.lists(texts, min_size=1, max_size=8))
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_made_up_texts(node: Node, cases: list[str]) -> None:
    """Whatever JavaScript can hold is printed as node prints it."""
    assert node.ask_all(cases) == [stringify(case.encode()).decode() for case in cases]


@given(number=doubles)
@settings(max_examples=300)
def test_numbers_come_back(number: float) -> None:
    """Every double is printed so that it is read as the same one."""
    assert number == float(stringify(repr(number).encode()))


@given(text=texts)
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_printed_once_is_printed_for_good(text: str) -> None:
    """What was printed is printed the same again: the receiver sees the bytes that were signed."""
    once = stringify(text.encode())

    assert once == stringify(once)
