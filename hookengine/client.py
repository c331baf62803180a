"""A small HTTP client of our own API on the standard library, for the command line and for scripts."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlencode, urlsplit

from hookengine.errors import HookEngineError, Mistake

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_VISIBLE = re.compile(r"[\x21-\x7e]+")


class ServerNotReached(HookEngineError):
    """No answer came from the server."""

    code = "server_not_reached"


class ApiError(HookEngineError):
    """
    The server answered, but not with success.

    `problem` is its document (RFC 9457), empty where the answer held none; `mistakes` are the document's `errors`.
    """

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        title = _text(problem.get("title")) or f"the server answered {status}"
        super().__init__(_text(problem.get("detail")) or title)
        self.status = status
        self.problem = problem
        self.code = _text(problem.get("code")) or f"http_{status}"  # type: ignore[misc]  # the server's code, not a class's
        self.mistakes = _mistakes(problem.get("errors"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the server answered with success."""

    status: int
    headers: Mapping[str, str]  # names in lower case; of a repeated header the last
    body: bytes

    def json(self) -> Any:
        """The body as a value; raises `ServerNotReached` where it is no JSON, since it is not our server then."""
        try:
            return json.loads(self.body, parse_int=_integer)
        except (ValueError, RecursionError) as error:
            raise ServerNotReached(f"the answer is not JSON ({error}): is this the address of a hookengine?") from error


def _integer(digits: str) -> int | str:
    """A number; as the text that it is where Python takes no longer ones, as data of events may have them."""
    try:
        return int(digits)
    except ValueError:
        return digits


class Client:
    """
    One server's API, with one token.

    Each request has a connection of its own, so a client may be shared by threads. Nothing is retried and no redirect is
    followed: a redirect is an `ApiError`. A *url*, *token*, path or header that HTTP cannot carry is a `ValueError`.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout: float = 30.0) -> None:
        self.url = url.rstrip("/")
        self._target = _split(self.url)
        # The message names no value: it is a secret.
        if token is not None and not _VISIBLE.fullmatch(token):
            raise ValueError("a token is made of visible ASCII characters")
        self._token = token
        self._timeout = timeout  # seconds, of the connect and of each wait for bytes

    def __repr__(self) -> str:
        return f"<Client {self.url}>"

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str | int | None] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Answer:
        """
        Send one request to *path* (`/v1/events`), and return the answer if it is a success.

        *query* goes behind what *path* asks already; a member that is None is left out. *headers* take the place of ours, of
        which one says that a *body* is JSON. A *timeout* takes the place of the client's.
        Raises `ServerNotReached` without an answer and `ApiError` for every status but 2xx.
        """
        target = self._target_of(path, query)
        connection = self._connect(self._timeout if timeout is None else timeout)
        try:
            response, content = _exchange(connection, method, target, body, self._headers(body, headers or {}))
        except (OSError, HTTPException) as error:
            raise ServerNotReached(
                f"{self.url} gave no answer ({_reason(error)}); what was asked may or may not be done"
            ) from error
        finally:
            connection.close()
        if response.status not in range(200, 300):
            raise ApiError(response.status, _problem(response, content))
        fields = {name.lower(): value for name, value in response.getheaders()}
        return Answer(status=response.status, headers=fields, body=content)

    def stream(
        self, path: str, *, query: Mapping[str, str | int | None] | None = None, headers: Mapping[str, str] | None = None
    ) -> Iterator[bytes]:
        """
        The lines of an answer to GET that goes on, without their ends, as they come; over when the server ends it.

        Raises as `request` does, and `ServerNotReached` also where nothing comes for the timeout.
        """
        target = self._target_of(path, query)
        connection = self._connect(self._timeout)
        try:
            connection.request("GET", target, headers=self._headers(None, headers or {}))
            response = connection.getresponse()
            if response.status not in range(200, 300):
                raise ApiError(response.status, _problem(response, response.read()))
            yield from _lines(response)
        except (OSError, HTTPException) as error:
            raise ServerNotReached(f"{self.url} has gone ({_reason(error)})") from error
        finally:
            connection.close()

    def _target_of(self, path: str, query: Mapping[str, str | int | None] | None) -> str:
        if not path.startswith("/") or not _VISIBLE.fullmatch(path):
            raise ValueError(f"a path starts with / and is percent-encoded, got {path!r}")
        pairs = [(name, value) for name, value in (query or {}).items() if value is not None]
        mark = "&" if "?" in path else "?"
        return self._target.path + path + (mark + urlencode(pairs) if pairs else "")

    def _connect(self, timeout: float) -> HTTPConnection:
        kind = HTTPSConnection if self._target.scheme == "https" else HTTPConnection
        connection = kind(self._target.hostname or "", self._target.port, timeout=timeout)
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            raise ServerNotReached(f"{self.url} is not reached: {_reason(error)}") from error
        return connection

    def _headers(self, body: bytes | None, given: Mapping[str, str]) -> dict[str, str]:
        headers = {"Accept": "application/json", "Connection": "close"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        named = {name.lower() for name in given}  # names have no case: RFC 9110, section 5.1
        return {name: value for name, value in headers.items() if name.lower() not in named} | dict(given)


def _split(url: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"the server's URL must be http:// or https:// with a host, got {url!r}")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("the server's URL takes no user name, query or fragment")
    if not _VISIBLE.fullmatch(url):
        raise ValueError(f"the server's URL must be visible ASCII characters, got {url!r}")
    # `port` raises a ValueError of its own, and the codec a UnicodeError, which is one too.
    _ = parts.port, parts.hostname.encode("idna")
    return parts


def _exchange(
    connection: HTTPConnection, method: str, target: str, body: bytes | None, headers: Mapping[str, str]
) -> tuple[HTTPResponse, bytes]:
    # A server may refuse a body before it has read all of it: the answer then waits behind the failed write.
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.request(method, target, body=body, headers=headers)
    response = connection.getresponse()
    return response, response.read()


def _lines(response: HTTPResponse) -> Iterator[bytes]:
    rest = b""
    # Not `readline`, which takes a connection that is cut between two chunks for the end.
    while part := response.read1(65536):
        *lines, rest = (rest + part).split(b"\n")
        yield from (line.rstrip(b"\r") for line in lines)
    if rest:
        yield rest


def _reason(error: OSError | HTTPException) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _problem(response: HTTPResponse, content: bytes) -> dict[str, Any]:
    """What a refusal says of itself; an answer that is no problem document, as a proxy gives, is told by its status line."""
    with suppress(ValueError, RecursionError):
        document = json.loads(content)
        if isinstance(document, dict):
            return document
    return {"title": f"the server answered {response.status} {response.reason}".rstrip()}


def _mistakes(errors: Any) -> tuple[Mistake, ...]:
    if not isinstance(errors, list):
        return ()
    return tuple(
        Mistake(
            code=_text(entry.get("code")) or "invalid",
            detail=_text(entry.get("detail")) or "",
            pointer=_text(entry.get("pointer")),
            parameter=_text(entry.get("parameter")),
        )
        for entry in errors
        if isinstance(entry, dict)
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
