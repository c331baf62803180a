"""The bytes of a request."""

from __future__ import annotations

import pytest
from hostile import aim

from hookengine.message import Unsendable, compose

UNSAFE_BYTES = "\r\n\0"


@pytest.mark.parametrize(
    ("url", "host", "path"),
    [
        pytest.param("https://hooks.acme.example", "hooks.acme.example", "/", id="bare"),
        pytest.param("https://hooks.acme.example:443/a", "hooks.acme.example", "/a", id="default port"),
        pytest.param("http://hooks.acme.example:443/a", "hooks.acme.example:443", "/a", id="other port"),
        pytest.param("https://h.example/a%2F%2e%2e/b?x=%20&y=+", "h.example", "/a%2F%2e%2e/b?x=%20&y=+", id="as written"),
        pytest.param("https://h.example?x=1", "h.example", "/?x=1", id="query only"),
        pytest.param("http://[::1]:8080/", "[::1]:8080", "/", id="IPv6"),
    ],
)
async def test_target(url: str, host: str, path: str) -> None:
    """A URL's parts go on the wire as they are written."""
    target = aim(url)

    assert (host, path) == (target.host, target.path)


@pytest.mark.parametrize("url", ["http://h.example/a b", "http://h.example/\r\nX: 1", "http://h.example/\u20ac"])
async def test_target_that_breaks_the_head(url: str) -> None:
    """A path that would end the request line early is refused without being quoted."""
    with pytest.raises(Unsendable, match="the URL cannot stand"):
        aim(url)


async def test_compose() -> None:
    """Our headers come first, then the caller's in order, then the length and the body as it is."""
    target = aim("http://h.example/p?q=%25")

    head, _, body = compose("POST", target, (("X-A", "1"), ("x-%d", "\xe9"), ("User-Agent", "mine")), b"\0\r\n").partition(
        b"\r\n\r\n"
    )

    assert [
        b"POST /p?q=%25 HTTP/1.1",
        b"Host: h.example",
        b"Accept-Encoding: identity",
        b"X-A: 1",
        b"x-%d: \xe9",
        b"User-Agent: mine",
        b"Content-Length: 3",
    ] == head.split(b"\r\n")
    assert b"\0\r\n" == body


async def test_get_has_no_body() -> None:
    """GET says nothing of a length, other methods say 0."""
    target = aim("http://h.example/")

    assert b"content-length" not in compose("GET", target, (), b"").lower()
    assert compose("GET", target, (), b"").endswith(b"identity\r\n\r\n")
    assert compose("DELETE", target, (), b"").endswith(b"Content-Length: 0\r\n\r\n")


OWNED = ["Host", "content-length", "TRANSFER-ENCODING", "Connection", "Expect", "TE", "Trailer", "Upgrade", "Accept-Encoding"]


@pytest.mark.parametrize(
    ("method", "headers", "body"),
    [
        *(pytest.param("POST", ((name, "x"),), b"", id=f"I42-{name}") for name in OWNED),
        *(
            pytest.param("POST", ((name, "x"),), b"", id=f"I39-{name!r}")
            for name in ("", "X A", "X:A", "X\r\nA", "\xe9", "X\tA")
        ),
        *(pytest.param("POST", (("X-A", f"a{byte}b"),), b"", id=f"I40-{byte!r}") for byte in UNSAFE_BYTES),
        pytest.param("POST", (("X-A", "a\r\nContent-Length: 0"),), b"x", id="smuggled length"),
        pytest.param("POST", (("X-A", "\u20ac"),), b"", id="beyond Latin-1"),
        pytest.param("PO\r\nST", (), b"", id="method"),
        pytest.param("", (), b"", id="no method"),
        pytest.param("GET", (), b"x", id="GET with a body"),
    ],
)
async def test_ambiguous_request(method: str, headers: tuple[tuple[str, str], ...], body: bytes) -> None:
    """What two parsers could read in two ways is never made."""
    target = aim("http://h.example/")

    for _ in range(2):  # a refusal is not remembered as anything else
        with pytest.raises(Unsendable):
            compose(method, target, headers, body)
