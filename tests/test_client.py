"""`hookengine.client` against servers that say exactly what a test tells them."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from hookengine.client import Answer, ApiError, Client, ServerNotReached
from hookengine.errors import HookEngineError, Mistake

if TYPE_CHECKING:
    from collections.abc import Iterator

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Wire:
    """A server of one thread that reads one request to its end, says *answer* and closes."""

    def __init__(self, answer: bytes, *, read: bool = True) -> None:
        self.answer = answer
        self.read = read
        self.heard: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening, and wait for the thread."""
        with socket.socket() as last:  # what wakes an `accept` that nobody called for
            last.connect_ex(self._listener.getsockname())
        self._listener.close()
        self._thread.join(5)

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            if self.read:
                self.heard.append(_read_request(connection))
            if self.heard != [b""]:
                connection.sendall(self.answer)


def _read_request(connection: socket.socket) -> bytes:
    heard = b""
    while b"\r\n\r\n" not in heard:
        if not (more := connection.recv(65536)):
            return heard
        heard += more
    head, _, body = heard.partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


@contextmanager
def answering(answer: bytes, *, read: bool = True) -> Iterator[Wire]:
    """A server that says *answer* to the first request."""
    wire = Wire(answer, read=read)
    try:
        yield wire
    finally:
        wire.close()


def refusing_url() -> str:
    """The URL of a port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def problem(status: int, body: bytes) -> bytes:
    """An answer of *status* with *body*."""
    return b"HTTP/1.1 %d No\r\nContent-Type: application/problem+json\r\nContent-Length: %d\r\n\r\n%b" % (
        status,
        len(body),
        body,
    )


def test_request_carries_token_query_and_exact_body() -> None:
    """The bytes of a body go out as they are, with the token, the media type and the query members that are set."""
    with answering(OK) as server:
        Client(server.url, "hkt_secret").request(
            "POST", "/v1/events", query={"a": "x y&", "limit": 5, "none": None}, body=b'{"data":1.10}', headers={"X-Own": "1"}
        )
    head, _, body = server.heard[0].partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")

    assert "POST /v1/events?a=x+y%26&limit=5 HTTP/1.1" == lines[0]
    assert {"Authorization: Bearer hkt_secret", "Content-Type: application/json", "X-Own: 1"} <= set(lines)
    assert b'{"data":1.10}' == body


def test_request_without_token_or_body_names_neither() -> None:
    """Without a token nothing is authorised, and without a body there is no media type."""
    with answering(OK) as server:
        Client(server.url).request("GET", "/v1/events")

    assert b"authorization" not in server.heard[0].lower()
    assert b"content-type" not in server.heard[0].lower()


def test_post_without_body_has_a_length() -> None:
    """An action without a body says so, rather than leaving the server to wait for one."""
    with answering(OK) as server:
        Client(server.url).request("POST", "/v1/deliveries/dlv_1/retry")

    assert b"content-length: 0" in server.heard[0].lower()


def test_given_media_type_replaces_the_default() -> None:
    """A caller's Content-Type is the only one."""
    with answering(OK) as server:
        Client(server.url).request("PATCH", "/x", body=b"{}", headers={"Content-Type": "application/merge-patch+json"})

    assert b"application/merge-patch+json" in server.heard[0]
    assert b"application/json" not in server.heard[0].replace(b"Accept: application/json", b"")


@pytest.mark.parametrize("given", [("content-type", "text/x"), ("AUTHORIZATION", "Basic eA=="), ("accept", "text/x")])
def test_given_header_replaces_ours_in_whatever_letters(given: tuple[str, str]) -> None:
    """A name has no case: a header of the caller's goes out once, as it was given."""
    name, value = given
    with answering(OK) as server:
        Client(server.url, "hkt_secret").request("POST", "/x", body=b"{}", headers={name: value})
    sent = [line.split(": ", 1) for line in server.heard[0].partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]]

    assert [[name, value]] == [line for line in sent if line[0].lower() == name.lower()]


def test_query_goes_behind_that_of_the_path() -> None:
    """A path with a query of its own keeps it, and what else is asked follows it."""
    with answering(OK) as server:
        Client(server.url).request("GET", "/v1/events?limit=1", query={"tenant": "acme"})

    assert b"GET /v1/events?limit=1&tenant=acme HTTP/1.1" == server.heard[0].split(b"\r\n")[0]


def test_base_path_of_the_url_is_kept() -> None:
    """A server behind a path prefix is asked under it."""
    with answering(OK) as server:
        Client(server.url + "/hooks/").request("GET", "/v1/events")

    assert server.heard[0].startswith(b"GET /hooks/v1/events HTTP/1.1\r\n")


def test_answer_has_status_headers_and_exact_body() -> None:
    """An answer keeps the body's bytes, and its header names are in lower case."""
    with answering(b'HTTP/1.1 202 Accepted\r\nETag: "3"\r\nContent-Length: 11\r\n\r\n{"n": 1.10}') as server:
        answer = Client(server.url).request("GET", "/x")

    assert (202, '"3"', b'{"n": 1.10}') == (answer.status, answer.headers["etag"], answer.body)
    assert {"n": 1.1} == answer.json()


def test_chunked_answer_is_read_whole() -> None:
    """A body without a length is put together from its chunks."""
    with answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n[\r\n1\r\n]\r\n0\r\n\r\n") as server:
        assert [] == Client(server.url).request("GET", "/x").json()


def test_204_has_an_empty_body() -> None:
    """An answer without content is a success."""
    with answering(b"HTTP/1.1 204 No Content\r\n\r\n") as server:
        assert b"" == Client(server.url).request("DELETE", "/x").body


@pytest.mark.parametrize("body", [b"<html>", b"\xff", b"[" * 100_000, b""], ids=["html", "bytes", "deep", "empty"])
def test_success_that_is_no_json_is_not_our_server(body: bytes) -> None:
    """A body that cannot be read as JSON says that another program answers there."""
    with pytest.raises(ServerNotReached, match="not JSON"):
        Answer(status=200, headers={}, body=body).json()


def test_problem_becomes_an_api_error_with_every_mistake() -> None:
    """A problem document is told whole: status, code, detail and each of its errors."""
    body = (
        b'{"title":"Invalid","status":422,"code":"invalid","detail":"two mistakes","errors":['
        b'{"pointer":"/url","code":"bad_url","detail":"must be https"},'
        b'{"parameter":"limit","code":"range","detail":"too big"}]}'
    )
    with answering(problem(422, body)) as server, pytest.raises(ApiError) as raised:
        Client(server.url).request("POST", "/v1/subscriptions", body=b"{}")

    assert (422, "invalid", "two mistakes") == (raised.value.status, raised.value.code, raised.value.detail)
    assert raised.value.mistakes == (
        Mistake(code="bad_url", detail="must be https", pointer="/url"),
        Mistake(code="range", detail="too big", parameter="limit"),
    )
    assert "two mistakes" == raised.value.problem["detail"]


@pytest.mark.parametrize(
    ("body", "detail", "code"),
    [
        pytest.param(b"<html>", "the server answered 502 No", "http_502", id="html"),
        pytest.param(b"", "the server answered 502 No", "http_502", id="empty"),
        pytest.param(b"[1]", "the server answered 502 No", "http_502", id="array"),
        pytest.param(b"{}", "the server answered 502", "http_502", id="object"),
        pytest.param(b"[" * 100_000, "the server answered 502 No", "http_502", id="deep"),
        pytest.param(b'{"title":"T","detail":7,"code":[],"errors":{}}', "T", "http_502", id="types"),
        pytest.param(b'{"detail":"D","errors":[1,{"pointer":2}]}', "D", "http_502", id="errors"),
    ],
)
def test_refusal_without_a_proper_problem_is_still_told(body: bytes, detail: str, code: str) -> None:
    """Whatever a proxy puts into its refusal, the caller gets an ApiError with its status."""
    with answering(problem(502, body)) as server, pytest.raises(ApiError) as raised:
        Client(server.url).request("GET", "/x")

    assert (502, detail, code) == (raised.value.status, raised.value.detail, raised.value.code)
    assert all(isinstance(mistake, Mistake) for mistake in raised.value.mistakes)


def test_redirect_is_not_followed() -> None:
    """The token goes to no other address than the one given."""
    with (
        answering(OK) as elsewhere,
        answering(b"HTTP/1.1 307 Go\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % elsewhere.url.encode()) as server,
        pytest.raises(ApiError, match="307"),
    ):
        Client(server.url, "hkt_secret").request("GET", "/x")

    assert [b""] == elsewhere.heard


def test_refused_connection_is_server_not_reached() -> None:
    """Nobody listening is told with the address and the reason."""
    url = refusing_url()
    with pytest.raises(ServerNotReached, match=f"{url} is not reached: .*refused") as raised:
        Client(url).request("GET", "/x")

    assert isinstance(raised.value, HookEngineError)
    assert "server_not_reached" == raised.value.code


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="closed"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="other_protocol"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{}", id="truncated"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"X: %b\r\n" % (b"y" * 70_000), id="long_header"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", id="bad_chunk"),
    ],
)
def test_broken_answer_is_server_not_reached(answer: bytes) -> None:
    """An answer that is cut or is no HTTP says that the request may have been done."""
    with answering(answer) as server, pytest.raises(ServerNotReached, match="may or may not be done"):
        Client(server.url).request("POST", "/x", body=b"{}")


def test_silent_server_ends_at_the_timeout() -> None:
    """A server that accepts and says nothing is not waited for longer than the timeout."""
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ServerNotReached, match="timed out"):
        Client(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.05).request("GET", "/x")


def test_https_to_a_plain_server_is_server_not_reached() -> None:
    """A failed TLS handshake is told as a server that is not reached."""
    with answering(OK, read=False) as server, pytest.raises(ServerNotReached, match="is not reached"):
        Client(server.url.replace("http:", "https:")).request("GET", "/x")


def test_answer_given_before_the_body_was_read_is_heard() -> None:
    """A server that refuses a large body early and closes is heard, although the rest of the body could not be sent."""
    with (
        answering(problem(413, b'{"detail":"too large"}'), read=False) as server,
        pytest.raises(ApiError, match="too large"),
    ):
        Client(server.url).request("POST", "/x", body=b"x" * 30_000_000)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8700",
        "ftp://127.0.0.1",
        "file:///etc/passwd",
        "http://",
        "http://:8700",
        "http://user:pw@127.0.0.1",
        "http://127.0.0.1/?a=1",
        "http://127.0.0.1/#x",
        "http://127.0.0.1:port",
        "http://127.0.0.1:99999",
        "http://[::1",
        "http://127.0.0.1/a b",
        "http://127.0.0.1/\r\nX: y",
        f"http://{'a' * 64}.example",
        "http://bücher.example",
    ],
)
def test_url_that_is_no_server_is_a_value_error(url: str) -> None:
    """Only http and https addresses that can be called are taken, when the client is made."""
    with pytest.raises(ValueError):  # noqa: PT011  # each kind of mistake has its own words
        Client(url)


@pytest.mark.parametrize("token", ["", "a b", "a\r\nX-Evil: 1", "tokén"])
def test_token_that_no_header_can_carry_is_refused_without_naming_it(token: str) -> None:
    """A token that would break the header is a ValueError whose words do not hold it."""
    with pytest.raises(ValueError, match=r"^a token is made of visible ASCII characters$"):
        Client("http://127.0.0.1:1", token)


@pytest.mark.parametrize("path", ["", "v1", "/a b", "/é", "/a\r\nX: y"])
def test_path_that_is_not_encoded_is_a_value_error(path: str) -> None:
    """A path that would break the request line is refused before anything is sent."""
    with pytest.raises(ValueError, match="a path starts with /"):
        Client("http://127.0.0.1:1").request("GET", path)


def test_repr_does_not_hold_the_token() -> None:
    """A client in a traceback shows its address only."""
    assert "<Client http://127.0.0.1:1>" == repr(Client("http://127.0.0.1:1/", "hkt_secret"))


def test_ipv6_server_is_asked() -> None:
    """An IPv6 address in brackets is an address like any other."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        url = f"http://[::1]:{listener.getsockname()[1]}"
    with pytest.raises(ServerNotReached, match="is not reached"):
        Client(url).request("GET", "/x")


def test_client_needs_the_standard_library_only() -> None:
    """Importing the client loads no package but our own errors."""
    script = (
        "import sys, hookengine.client; "
        "print([m for m in ('aiohttp', 'msgspec', 'orjson', 'structlog', 'rich', 'click') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert "[]" == done.stdout.strip()


# Answers that go on.


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_stream_is_read_line_by_line() -> None:
    """Lines come whole, however they were cut into chunks, until the server ends the answer."""
    with answering(CHUNKED + b"4\r\nid: \r\n8\r\n1\ndata: \r\n4\r\nx\r\n\n\r\n0\r\n\r\n") as server:
        found = list(Client(server.url, "hkt_x").stream("/v1/stream", query={"types": "a"}, headers={"Last-Event-ID": "7"}))
    head = server.heard[0].split(b"\r\n")

    assert [b"id: 1", b"data: x", b""] == found
    assert b"GET /v1/stream?types=a HTTP/1.1" == head[0]
    assert {b"Authorization: Bearer hkt_x", b"Last-Event-ID: 7"} <= set(head)


def test_refused_stream_is_an_error() -> None:
    """A stream that is refused raises what the server said, as any request does."""
    with answering(problem(429, b'{"code":"overloaded"}')) as server, pytest.raises(ApiError) as refused:
        next(Client(server.url).stream("/v1/stream"))

    assert (429, "overloaded") == (refused.value.status, refused.value.code)


def test_stream_gives_the_line_that_the_server_leaves_open() -> None:
    """What comes behind the last end of a line is a line too."""
    with answering(CHUNKED + b"5\r\na\n\nbc\r\n0\r\n\r\n") as server:
        assert [b"a", b"", b"bc"] == list(Client(server.url).stream("/v1/stream"))


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(CHUNKED + b"4\r\nid: \r\n8\r\n1", id="in the middle"),
        pytest.param(CHUNKED + b"4\r\nid:\n\r\n", id="between two chunks"),
        pytest.param(CHUNKED, id="before the first chunk"),
        pytest.param(b"", id="before it begins"),
    ],
)
def test_stream_that_breaks_off(answer: bytes) -> None:
    """A connection that breaks is told from an answer that ends."""
    with answering(answer) as server, pytest.raises(ServerNotReached, match="has gone"):
        list(Client(server.url).stream("/v1/stream"))


def test_stream_of_nobody() -> None:
    """A server that is not there is not reached."""
    with pytest.raises(ServerNotReached, match="is not reached"):
        next(Client(refusing_url()).stream("/v1/stream"))


def test_path_of_a_stream() -> None:
    """What HTTP cannot carry is the caller's mistake."""
    with pytest.raises(ValueError, match="percent-encoded"):
        next(Client("http://127.0.0.1:1").stream("v1/stream"))


def test_long_integer_is_no_fault_of_the_answer() -> None:
    """Data may hold integers that Python does not read: they come as texts."""
    answer = Answer(status=200, headers={}, body=b'{"a":' + b"1" * 5000 + b',"b":-2}')

    assert {"a": "1" * 5000, "b": -2} == answer.json()
