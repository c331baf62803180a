"""
The matrix of hostile receivers as data: what each does, and what must come of an attempt at it.

Run as a program it is all of them, in a process of its own: what they burn is then not measured as the engine's.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from contextlib import AsyncExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

import hostile
from hostile import answers, receiver, response

from hookengine.models import ErrorCode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hostile import Behaviour

MALFORMED, TOO_LARGE = ErrorCode.MALFORMED_RESPONSE, ErrorCode.RESPONSE_HEADER_TOO_LARGE
STATUS, REDIRECT = ErrorCode.HTTP_STATUS, ErrorCode.REDIRECT_NOT_FOLLOWED
NO_ANSWER, NOT_TAKEN = ErrorCode.TIMEOUT_RESPONSE, ErrorCode.TIMEOUT_SEND
RESET, GONE = ErrorCode.RESET, ErrorCode.DISCONNECTED


class Row(NamedTuple):
    """What a receiver does, and what must come of it."""

    id: str
    behaviour: Behaviour
    code: ErrorCode | None = None  # None: accepted
    answer: bytes | None = None  # the kept body, where there is an answer
    truncated: bool = False
    requests: int = 1  # that the receiver reads
    timeout: int = 5000
    size: int = 500  # of the request's body


def said(row_id: str, answer: bytes, code: ErrorCode | None = None, body: bytes | None = None) -> Row:
    """A row whose receiver reads one request and sends *answer* in one segment."""
    return Row(row_id, answers(answer), code, body)


def head(text: str) -> bytes:
    """Lines with the line ends of HTTP, and the empty line that ends a head."""
    return text.replace("\n", "\r\n").encode() + b"\r\n\r\n"


FINAL = response("200 OK")
BIG = 8 << 20

ROWS = [
    said("R01", hostile.OK, body=b"ok"),
    said("R02", head("HTTP/1.1 204 No Content"), body=b""),
    said("R02-length", head("HTTP/1.1 204 No Content\nContent-Length: 0"), body=b""),
    said("R03", head("HTTP/1.1 204 No Content") + b"body", MALFORMED),
    said("R04-304", head("HTTP/1.1 304 Not Modified"), STATUS, b""),
    said("R04-300", response("300 Multiple Choices"), STATUS, b""),
    said("R04-302", response("302 Found"), STATUS, b""),
    Row("R05", hostile.silent, NO_ANSWER, timeout=200),
    Row("R06", hostile.unread, NOT_TAKEN, requests=0, timeout=400, size=BIG),
    Row("R06-1MiB", hostile.unread, NOT_TAKEN, requests=0, timeout=400, size=1 << 20),
    Row("R08", hostile.slow_headers, NO_ANSWER, timeout=400),
    Row("R09", hostile.slow_body, None, truncated=True, timeout=600),
    said("R14", response("200 OK", "Content-Encoding: gzip", b"not gzip"), body=b"not gzip"),
    said("R15", response("200 OK", "Content-Encoding: x-own", b"data"), body=b"data"),
    said("R16", response("200 OK", "Content-Encoding: gzip, gzip, br", b"data"), body=b"data"),
    said("R17", head("HTTP/1.1 200 OK\nX-Long: " + "x" * 200_000), TOO_LARGE),
    said("R17-name", head("HTTP/1.1 200 OK\nX" + "x" * 10_000 + ": 1"), TOO_LARGE),
    said("R17-fits", response("200 OK", "X-Long: " + "x" * 8000), body=b""),
    said("R18", head("HTTP/1.1 200 OK\n" + "X-Many: 1\n" * 5000), TOO_LARGE),
    said("R18-fits", response("200 OK", "X-Many: 1\n" * 120), body=b""),
    said("R19-long", head("HTTP/1.1 200 OK" + ("\nX-Long: " + "x" * 8000) * 100), TOO_LARGE),
    said("R22-100", head("HTTP/1.1 100 Continue") + FINAL, body=b""),
    said("R22-103", head("HTTP/1.1 103 Early Hints\nLink: </a>; rel=preload") + FINAL, body=b""),
    said("R22-eight", head("HTTP/1.1 102 Processing") * 8 + FINAL, body=b""),
    said("R21-nine", head("HTTP/1.1 102 Processing") * 9 + FINAL, ErrorCode.TOO_MANY_INFORMATIONAL),
    said("R23", head("HTTP/1.1 101 Switching Protocols\nUpgrade: x\nConnection: upgrade"), STATUS, b""),
    Row("R24", hostile.reset_at_once, RESET),
    Row("R25", hostile.reset_in_head, RESET),
    Row("R26", hostile.reset_in_body, None, b"x" * 50, truncated=True),
    Row("R27", hostile.finish_before_response, GONE),
    Row("R29", hostile.half_close_after_response, None, b"ok"),
    Row("R30", hostile.early_response, None, b"ok", requests=0, size=BIG),
    Row("R32", hostile.cut_body, None, b"short", truncated=True),
    said("R33", head("HTTP/1.1 200 OK\nContent-Length: 2") + b"too much", MALFORMED),
    said("R34-negative", head("HTTP/1.1 200 OK\nContent-Length: -1"), MALFORMED),
    said("R34-huge", head("HTTP/1.1 200 OK\nContent-Length: " + "9" * 40), MALFORMED),
    said("R34-twice", head("HTTP/1.1 200 OK\nContent-Length: 2\nContent-Length: 3") + b"ok", MALFORMED),
    said("R34-chunked", head("HTTP/1.1 200 OK\nContent-Length: 2\nTransfer-Encoding: chunked") + b"ok", MALFORMED),
    said("R35-size", head("HTTP/1.1 200 OK\nTransfer-Encoding: chunked") + b"zz\r\nok\r\n0\r\n\r\n", MALFORMED),
    Row("R35-cut", hostile.cut_chunk, None, truncated=True),
    Row("R35-later", hostile.bad_chunk_later, None, b"ok", truncated=True, timeout=10_000),
    said("R36-302", response("302 Found", "Location: /again"), REDIRECT, b""),
    said("R36-307", response("307 Temporary Redirect", "Location: http://127.0.0.1:1/"), REDIRECT, b""),
    said("R36-bad", response("301 Moved Permanently", "Location: ::::"), REDIRECT, b""),
    Row("R37-banner", hostile.banner, MALFORMED, requests=0),
    said("R37-banner-late", b"SSH-2.0-OpenSSH_9.2\r\n", MALFORMED),
    said("R37-binary", bytes(range(256)) * 4, MALFORMED),
    said("R37-http09", b"<html>hello</html>", MALFORMED),
    said("R37-version-2", head("HTTP/2.0 200 OK\nContent-Length: 2") + b"ok", MALFORMED),
    said("R37-version-09", head("HTTP/0.9 200 OK\nContent-Length: 2") + b"ok", MALFORMED),
    said("R37-http2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", MALFORMED),
    Row("R38", hostile.until_close, None, b"hello"),
    said("R39-999", response("999 Odd"), STATUS, b""),
    said("R39-000", response("000 Odd"), STATUS, b""),
    said("R39-2000", response("2000 Odd"), MALFORMED),
    said("R40-reason", head("HTTP/1.1 200\nContent-Length: 2") + b"ok", body=b"ok"),
    said("R40-lf", b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", body=b"ok"),
    said("R41", head("HTTP/1.1 200 OK\nX-Nul: a\0b\nContent-Length: 0"), MALFORMED),
    said("R43", response("200 OK", "", b"\x1b]0;owned\x07\n[error] fake"), body=b"\x1b]0;owned\x07\n[error] fake"),
    said("R44-utf8", response("200 OK", "", b"\xff\xfe"), body=b"\xff\xfe"),
    said("R44-charset", response("200 OK", "Content-Type: text/html; charset=../../etc", b"ok"), body=b"ok"),
    said("R46-401", response("401 Unauthorized", 'WWW-Authenticate: Digest realm="x", nonce="y"'), STATUS, b""),
    said("R46-407", response("407 Proxy Authentication Required", "Proxy-Authenticate: Basic"), STATUS, b""),
    said("R80-204", head("HTTP/1.1 204 No Content\nTransfer-Encoding: chunked") + b"0\r\n\r\n", MALFORMED),
    said("R80-503", response("503 Wait", "Retry-After: 1\nRetry-After: 2, 3"), STATUS, b""),
    Row("R68", hostile.reads_slowly, NOT_TAKEN, requests=0, timeout=400, size=1 << 20),
]


# Those that send without end.
FLOODS = [
    Row("R10", hostile.endless_body),
    Row("R11", hostile.endless_chunks),
    Row("R11-tiny", hostile.tiny_chunks),
    Row("R11-extension", hostile.endless_chunk_extension),
    Row("R13", hostile.gzip_bomb),
    Row("R19", hostile.endless_headers, TOO_LARGE),
    Row("R20", hostile.endless_status_line, TOO_LARGE),
    Row("R21", hostile.informational_flood, ErrorCode.TOO_MANY_INFORMATIONAL),
    Row("R48-flood", hostile.response_flood),
]


@contextmanager
def all_receivers() -> Iterator[dict[str, str]]:
    """The URLs of all of them, and of one that is healthy, by id, in another process."""
    with subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            ports = json.loads(process.stdout.readline())
            yield {id_: f"http://127.0.0.1:{port}/hook" for id_, port in ports.items()}
        finally:
            process.kill()


async def _main() -> None:
    behaviours = {"healthy": hostile.healthy} | {each.id: each.behaviour for each in (*ROWS, *FLOODS)}
    async with AsyncExitStack() as stack:
        ports = {id_: (await stack.enter_async_context(receiver(each))).port for id_, each in behaviours.items()}
        sys.stdout.write(f"{json.dumps(ports)}\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main())
