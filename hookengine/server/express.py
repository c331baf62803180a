"""Single events, past what aiohttp does around a handler: that takes as long as accepting one (docs/performance.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from aiohttp import HttpVersion11, web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import RawRequestMessage

from hookengine.access import Scope
from hookengine.failpoints import failpoint
from hookengine.presentation import shown_event
from hookengine.server import asked
from hookengine.server.events import accepted_event
from hookengine.server.problems import answer_to, finished
from hookengine.server.wire import JSON, read_event

if TYPE_CHECKING:
    import asyncio

    from aiohttp.streams import StreamReader

    from hookengine.server.heads import Head
    from hookengine.store import Receipt

_PATH = "/v1/events"
_TYPES = {JSON, f"{JSON}; charset=utf-8"}


class Express:
    """
    Takes requests that publish one event, as plain as nearly all of them are; decides nothing that the route does not.

    What is special about a request, or wrong with it, is for the route to find: nothing was done then.
    """

    def __init__(self, app: web.Application) -> None:
        self._logger = app.logger
        self._service = app[asked.SERVICE]
        self._tokens = app[asked.TOKENS]
        self._publishing = app[asked.PUBLISHING]
        self._largest = app[asked.LIMITS][0]
        self._head = _head(finished(web.Response(status=202, content_type=JSON)))

    def take(self, message: object, body: StreamReader, now: float) -> asyncio.Future[list[Receipt]] | None:
        """What will be once the event is on disk; None where the request is not for here. *now* is the loop's time."""
        if not isinstance(message, RawRequestMessage) or message.path != _PATH or message.method != "POST":
            return None
        headers = message.headers
        if (
            not (body.is_eof() and 0 < body.total_bytes <= self._largest)
            or message.version != HttpVersion11
            or message.should_close
            or message.upgrade  # after which the parser waits for aiohttp's handler
            or headers.get("Content-Type") not in _TYPES
            or "Expect" in headers
            or "Content-Encoding" in headers
            or "Idempotency-Key" in headers
        ):
            return None
        # Not taken out: the route may have to read it.
        return self._accept(headers.get("Authorization"), b"".join(body._buffer), now)  # noqa: SLF001

    def take_alike(self, head: Head, data: bytes, now: float) -> asyncio.Future[list[Receipt]] | None:
        """The same where *data* is all of a request with the *head* of one that was taken."""
        content = head.body(data)
        if content is None or not 0 < len(content) <= self._largest:
            return None
        return self._accept(head.authorization, content, now)

    def _accept(self, authorization: str | None, content: bytes, now: float) -> asyncio.Future[list[Receipt]] | None:
        try:
            by = self._service.identify(authorization, self._tokens)
            by.require(Scope.EVENTS_WRITE)
            if self._publishing.wait(by.user, now):
                return None
            failpoint("K01-read")
            accepted = self._service.hand_in(by, read_event(content))
        except Exception:  # noqa: BLE001  # whatever it is, the route meets it too, and answers it
            return None
        self._publishing.count(by.user, now)
        return accepted

    def answer(self, accepted: asyncio.Future[list[Receipt]]) -> tuple[bytes, bool]:
        """What the client is sent, once that is done, and whether its connection ends with it."""
        try:
            [receipt] = accepted.result()
            return _message(self._head, accepted_event(shown_event(receipt))), False
        except Exception as error:  # noqa: BLE001  # each has its answer
            response = finished(answer_to(error, self._logger))
            return _message(_head(response), cast("bytes", response.body)), response.keep_alive is False


def _head(response: web.Response) -> bytes:
    """What all answers like *response* begin with, as aiohttp writes it to a client of HTTP/1.1."""
    lines = [f"HTTP/1.1 {response.status} {response.reason}"]
    lines += [f"{name}: {value}" for name, value in response.headers.items()]
    if response.keep_alive is False:
        lines.append("Connection: close")
    return "\r\n".join(lines).encode()


def _message(head: bytes, body: bytes) -> bytes:
    return b"%b\r\nContent-Length: %d\r\nDate: %b\r\n\r\n%b" % (head, len(body), rfc822_formatted_time().encode(), body)
