"""What stands above events: told from what only looks like it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hookengine.server.heads import Head, alone, begins_behind, head_of

HEAD = b"POST /v1/events HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nX: y\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "size", "expected"),
    [
        pytest.param(HEAD + b"12345", 5, HEAD, id="one request"),
        pytest.param(HEAD + b"12345", 4, None, id="more than the parser saw"),
        pytest.param(HEAD + b"12345" + HEAD, 5, None, id="two requests"),
        pytest.param(HEAD + b"1\r\n\r\n", 5, HEAD, id="an empty line in the body"),
        pytest.param(HEAD.replace(b"x\r\n", b"x\n") + b"12345", 5, None, id="a lone line feed"),
        pytest.param(b"\r\n\r\n" + HEAD + b"12345", 5, None, id="empty lines before"),
        pytest.param(HEAD.replace(b"\r\n", b"\n") + b"12345", 5, None, id="no end"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 0, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", id="no body"),
    ],
)
def test_what_came_alone(data: bytes, size: int, expected: bytes | None) -> None:
    """The head is found where the bytes are one request, and no more."""
    assert expected == alone(data, size)


@pytest.mark.parametrize(
    ("data", "size", "expected"),
    [
        pytest.param(HEAD + b"12345", 5, False, id="one request"),
        pytest.param(HEAD + b"12345" + HEAD + b"1234", 4, False, id="two, the last one cut in its body"),
        pytest.param(HEAD + b"12345P", 5, True, id="a byte more"),
        pytest.param(HEAD + b"1\r\n\r\nPOST", 5, True, id="an empty line in the body"),
        pytest.param(HEAD + b"GET /", 0, True, id="behind a head"),
        pytest.param(HEAD + b"\r\n", 0, False, id="an empty line is none"),
        pytest.param(HEAD.replace(b"\r", b""), 0, False, id="lone line feeds"),
        pytest.param(b"\n", 0, False, id="the last of a head"),
        pytest.param(b"\r\n12345", 5, False, id="the last of a head, and a body"),
        pytest.param(b"2345", 4, False, id="the last of a body"),
        pytest.param(b"2345GET", 4, True, id="the last of a body, and more"),
        pytest.param(HEAD + b"5\r\n12345\r\n0\r\n\r\n", 5, False, id="chunks"),
        pytest.param(HEAD + b"5\r\n12345\r\n0\r\n\r\nGET", 5, True, id="chunks and more"),
        pytest.param(b"", 5, False, id="nothing"),
    ],
)
def test_what_begins_behind_a_request(data: bytes, size: int, *, expected: bool) -> None:
    """A request that ends where the bytes end has nothing behind it."""
    assert expected == begins_behind(data, size)


@pytest.mark.parametrize("name", [b"Content-Length: ", b"content-length:", b"CONTENT-LENGTH:\t "])
def test_head_without_the_length(name: bytes) -> None:
    """A head is cut in two at the number of bytes, however the field is written."""
    before, behind = b"POST / HTTP/1.1\r\n" + name, b"\r\nX: y\r\n\r\n"

    assert Head(before, behind, "Bearer a") == head_of(before + b"123" + behind, "Bearer a")


@pytest.mark.parametrize(
    "field", [b"X: Content-Length: 5", b"X-Content-Length: 5", b"Content-Length: 5 ", b"Content-Length: +5"]
)
def test_head_that_tells_no_length(field: bytes) -> None:
    """Where no line is the length alone, there is nothing to remember."""
    assert head_of(b"POST / HTTP/1.1\r\n" + field + b"\r\n\r\n", None) is None


@given(length=st.binary(max_size=12) | st.integers(0, 30).map(lambda n: b"%d" % n), body=st.binary(max_size=30))
def test_body_below_a_head(length: bytes, body: bytes) -> None:
    """It is what follows a head with exactly that length, in nothing but digits."""
    head = head_of(HEAD, None)
    assert head is not None
    said = length.isdigit() and b"\r" not in length and len(length) <= 9 and int(length) == len(body)

    assert (body if said else None) == head.body(head.before + length + head.behind + body)


def test_length_of_thousands_of_digits_is_none() -> None:
    """What Python would not read as a number is no length, and raises nothing."""
    head = head_of(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n", None)
    assert head is not None
    for digits in (b"1" * 5_000, b"0" * 4_999 + b"2", b"0" * 12 + b"2"):
        assert head.body(b"POST / HTTP/1.1\r\nContent-Length: " + digits + b"\r\n\r\n{}") is None
