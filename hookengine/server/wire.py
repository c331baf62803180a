"""Requests to values and values to answers."""

from __future__ import annotations

import asyncio
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import orjson
from aiohttp import web

from hookengine import views
from hookengine.errors import (
    Invalid,
    Malformed,
    Mistake,
    PayloadTooLarge,
    PreconditionFailed,
    StorageCorrupt,
    UnsupportedMediaType,
)
from hookengine.failpoints import failpoint
from hookengine.inputs import EVENT_DECODER, MOST_EVENTS
from hookengine.jsontext import read_json, read_objects
from hookengine.service import RequestKey, request_digest
from hookengine.times import format_time
from hookengine.validation import Problems

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hookengine.store import Answer

Body = TypeVar("Body", bytes, bytearray)

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
NDJSON = "application/x-ndjson"
EVENT_STREAM = "text/event-stream"

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_QUOTED = r'"[\x21\x23-\x7e]*"'
_TAG = re.compile(r'(W/)?"([\x21\x23-\x7e]*)"')  # a comma may stand in one
_TAGS = re.compile(rf"[ \t]*(?:W/)?{_QUOTED}(?:[ \t]*,[ \t]*(?:W/)?{_QUOTED})*[ \t]*")
_VERSION = re.compile(r"[1-9][0-9]{0,17}")


class Nothing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of an action that takes no members."""


async def expect(request: web.Request) -> None:
    """
    Refuse expectations but `100-continue`, which `read_body` answers.

    So a client is asked for its body only when it will be read (RFC 9110, 10.1.1).
    """
    if request.headers["Expect"].lower() != "100-continue":
        raise web.HTTPExpectationFailed


async def read_body(
    request: web.Request,
    *media_types: str,
    limit: int,
    patience: float,
    required: bool = True,
    coming: Callable[[int], None] | None = None,
) -> bytes:
    """
    The body, unless its type, coding or size is not taken; a body that is too large is refused before it is read.

    *coming* is called with the number of bytes of each part, and may refuse it. Raises UnsupportedMediaType, PayloadTooLarge,
    Malformed, and HTTPRequestTimeout for one that takes too long.
    """
    if request.headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise UnsupportedMediaType("send the body without a Content-Encoding")
    announced = request.content_length
    if announced is not None and announced > limit:
        raise PayloadTooLarge(f"the body has {announced} bytes; at most {limit} are taken")
    if "Expect" in request.headers:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # of the answer proper
    try:
        if request.content.is_eof():  # all of it is here, as of nearly every event: a timer would cost 15 µs
            content = _no_more_than(limit, request.content.read_nowait())
            if coming is not None:
                coming(len(content))
        else:
            async with asyncio.timeout(patience):
                content = await _read(request, limit, coming)
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    except (web.RequestPayloadError, ConnectionError):
        raise Malformed("the body is cut short or not framed as announced", code="incomplete_body") from None
    failpoint("K01-read")
    if content or required:
        _check_media_type(request, media_types)
    return content


async def _read(request: web.Request, limit: int, coming: Callable[[int], None] | None) -> bytes:
    content = bytearray()
    async for chunk in request.content.iter_any():
        if coming is not None:
            coming(len(chunk))
        content += chunk
        _no_more_than(limit, content)
    return bytes(content)


def _no_more_than(limit: int, content: Body) -> Body:
    if len(content) > limit:
        raise PayloadTooLarge(f"the body has more than the {limit} bytes that are taken")
    return content


def _check_media_type(request: web.Request, media_types: tuple[str, ...]) -> None:
    given = request.headers.get("Content-Type", "")
    try:
        charset = (request.charset or "utf-8").lower()
        wanted = request.content_type in media_types and charset in {"utf-8", "utf8"}
    except Exception:  # noqa: BLE001  # aiohttp reads it with a parser for mail, which may raise anything
        wanted = False
    if not given or not wanted:
        raise UnsupportedMediaType(f"send {' or '.join(media_types)} in UTF-8")


def read_object(body: bytes, *, optional: bool = False, kept: frozenset[str] = frozenset({"data"})) -> dict[str, Any]:
    """The members of an object of ours, those in *kept* as the bytes they are."""
    if optional and not body.strip():
        return {}
    value = read_json(body, kept=kept)
    if not isinstance(value, dict):
        raise Invalid(mistakes=(Mistake(pointer="", code="invalid_type", detail="expected an object"),))
    return value


def read_nothing(body: bytes) -> None:
    """Raise Invalid for a body with members, of an action that takes none."""
    problems = Problems()
    problems.require(problems.convert(Nothing, read_object(body, optional=True)))


def read_event(body: bytes) -> Any:
    """An event, or where something is wrong with it what it is in its place."""
    return read_json(body, decoder=EVENT_DECODER)


def read_events(body: bytes, *, ndjson: bool) -> list[Any]:
    """The same for the elements of an array, or for lines."""
    return read_objects(body, ndjson=ndjson, most=MOST_EVENTS, decoder=EVENT_DECODER)


def read_key(request: web.Request, body: bytes) -> RequestKey | None:
    """The Idempotency-Key; raises Malformed for one that is none."""
    given = request.headers.getall("Idempotency-Key", [])
    if not given:
        return None
    if len(given) > 1 or not _KEY.fullmatch(given[0]):
        raise Malformed(
            code="invalid_idempotency_key",
            mistakes=(
                Mistake(
                    parameter="Idempotency-Key",
                    code="invalid_value",
                    detail="expected one key of 1 to 255 visible ASCII characters",
                ),
            ),
        )
    return RequestKey(method=request.method, path=request.path, key=given[0], digest=request_digest(body))


def refuse_key(request: web.Request) -> None:
    """Raise Malformed for an Idempotency-Key where none is kept: a repetition would not be noticed."""
    if "Idempotency-Key" in request.headers:
        raise Malformed("Idempotency-Key is not taken here", code="idempotency_key_not_supported")


def read_versions(request: web.Request) -> frozenset[int] | None:
    """The versions that If-Match names (RFC 9110, 13.1.1), None for any; a weak one never matches."""
    given = request.headers.getall("If-Match", ["*"])
    if given == ["*"]:
        return None
    named = ",".join(given)
    if not _TAGS.fullmatch(named):
        raise PreconditionFailed("If-Match is not a list of entity tags")
    return frozenset(int(tag) for weak, tag in _TAG.findall(named) if not weak and _VERSION.fullmatch(tag))


def answer(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """*value*, a view or a plain structure with views in it, as JSON."""
    return web.Response(body=dump(value), status=status, headers=headers, content_type=JSON)


def repeated(first: Answer) -> web.Response:
    """The first answer again; raises StorageCorrupt where somebody has edited what was kept of it."""
    status: Any = first.status
    body: Any = first.body
    if not (isinstance(status, int) and status in range(200, 600) and isinstance(body, bytes)):
        raise StorageCorrupt("the answer that was kept for this Idempotency-Key cannot be read")
    return web.Response(body=body, status=status, headers={"Idempotent-Replayed": "true"}, content_type=JSON)


def tag(subscription: views.Subscription) -> dict[str, str]:
    """The headers that name the version of a subscription's settings."""
    return {"ETag": f'"{subscription.version}"'}


def dump(value: Any) -> bytes:
    """JSON text: times in milliseconds, absent members left out, a producer's data as it was."""
    return orjson.dumps(value, default=_plain, option=orjson.OPT_PASSTHROUGH_DATETIME)


def _plain(value: Any) -> Any:
    match value:
        case msgspec.Struct():
            members = msgspec.structs.asdict(value)
            omits = value.__struct_config__.omit_defaults
            if not omits and msgspec.UNSET not in members.values():
                return members
            absent = (msgspec.UNSET, None) if omits else (msgspec.UNSET,)
            return {name: member for name, member in members.items() if member not in absent}
        case datetime():
            return format_time(round(value.timestamp() * 1000))
        case views.JsonText():
            return orjson.Fragment(bytes(value))  # it takes no subclass
        case bytes():  # where a text was, in a row that somebody edited
            return value.decode("utf-8", "backslashreplace")
        case _:
            raise TypeError
