"""The bytes of a request, as one HTTP/1.1 message that nobody can take for another."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from aiohttp import encode_basic_auth, hdrs
from aiohttp.client_reqrep import ClientRequest
from msgspec import Struct
from yarl import URL

from hookengine import __version__
from hookengine.models import Secret

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

USER_AGENT = f"hookengine/{__version__}"

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VISIBLE = re.compile(r"[!-~]+")

# Ours to set. But for the first they decide where a message ends or goes (RFC 9112, sections 6 and 9): two opinions on that
# are request smuggling.
_OWNED = frozenset({
    *("accept-encoding", "connection", "content-length", "expect", "host", "keep-alive", "proxy-connection", "te", "trailer"),
    *("transfer-encoding", "upgrade"),
})  # fmt: skip
_BODILESS = frozenset({"GET"})


class Unsendable(ValueError):
    """The request cannot be written as one unambiguous HTTP message; the text holds no values."""


class Proxy(Struct, frozen=True):
    """An HTTP proxy that all requests go through (RFC 9110, section 3.7)."""

    url: URL  # without credentials
    headers: tuple[tuple[str, Secret], ...] = ()

    @classmethod
    def of(cls, text: str) -> Proxy:
        """The one that the URL *text* names, which may hold a user and a password."""
        url = URL(text)
        if url.user is None and url.password is None:
            return cls(url)
        credentials = Secret(encode_basic_auth(url.user or "", url.password or "", "utf-8"))
        return cls(url.with_user(None), ((hdrs.PROXY_AUTHORIZATION, credentials),))


class Target:
    """
    Where a URL points: what the pool needs for a connection, and what the head of a request says of it.

    Not frozen data: it holds aiohttp's own request object, of which the pool reads the origin, and the way through *proxy*.
    """

    __slots__ = ("headers", "host", "key", "origin", "path")

    def __init__(self, url: URL, loop: asyncio.AbstractEventLoop, proxy: Proxy | None = None) -> None:
        if proxy is None:
            self.origin = ClientRequest("GET", url.origin(), loop=loop)
        else:
            self.origin = ClientRequest("GET", url.origin(), loop=loop, proxy=proxy.url, proxy_headers=dict(proxy.headers))
        self.key = self.origin.connection_key  # the same for all URLs of one origin
        self.host = url.host_port_subcomponent or ""
        self.path = url.raw_path_qs
        self.headers: tuple[tuple[str, str], ...] = ()  # of every request
        if proxy is not None and url.scheme == "http":  # what has TLS goes through a tunnel, whose other end is the receiver
            self.path = f"http://{self.host}{self.path}"  # absolute-form: RFC 9112, section 3.2.2
            self.headers = proxy.headers
        for part in (self.host, self.path):
            if _VISIBLE.fullmatch(part) is None:
                raise Unsendable("the URL cannot stand in the head of a request")


def compose(method: str, target: Target, headers: Sequence[tuple[str, str]], body: bytes) -> bytes:
    """
    The bytes of a request.

    Raises Unsendable where a name, a value or the body would let the receiver see another message than the one meant.
    """
    if target.headers:
        headers = (*headers, *target.headers)
    names, values = zip(*headers, strict=True) if headers else ((), ())
    template, lines = _template(method, names)
    if method not in _BODILESS:
        values += (len(body),)
    elif body:
        raise Unsendable(f"{method} carries no body")
    head = template % (target.path, target.host, *values)
    if head.count("\r") != lines or head.count("\n") != lines or "\0" in head:
        raise Unsendable("a header value holds a line break or NUL")
    try:
        return head.encode("latin-1") + body
    except UnicodeEncodeError:
        raise Unsendable("a header value has characters outside Latin-1") from None


@lru_cache(maxsize=1024)
def _template(method: str, names: tuple[str, ...]) -> tuple[str, int]:
    """The head of a request with `%s` for what changes between requests, and its number of lines."""
    for name in (method, *names):
        if _TOKEN.fullmatch(name) is None:
            raise Unsendable(f"not a token: {name[:100]!r}")
    given = {name.lower() for name in names}
    if owned := given & _OWNED:
        raise Unsendable(f"{min(owned)} is not the caller's to set")
    lines = [f"{method} %s HTTP/1.1", "Host: %s"]
    if "user-agent" not in given:
        lines.append(f"User-Agent: {USER_AGENT}")
    lines.append("Accept-Encoding: identity")
    lines += [name.replace("%", "%%") + ": %s" for name in names]
    if method not in _BODILESS:
        lines.append("Content-Length: %d")
    lines += ["", ""]
    return "\r\n".join(lines), len(lines) - 1
