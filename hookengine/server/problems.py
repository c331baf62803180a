"""Errors as `application/problem+json` (RFC 9457), whatever raised them."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any, TypeVar

from aiohttp import HttpVersion10, web
from msgspec import UNSET, Struct, UnsetType

from hookengine import views  # noqa: TC001  # msgspec reads it
from hookengine.errors import (
    EndpointVerificationFailed,
    Malformed,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
    RequestError,
    StorageCorrupt,
    StorageFailed,
    StorageUnavailable,
    Unauthorized,
    UnsupportedMediaType,
)
from hookengine.server.wire import dump

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from logging import Logger

    from hookengine.errors import Mistake

AnyResponse = TypeVar("AnyResponse", bound=web.StreamResponse)

MEDIA_TYPE = "application/problem+json"

_EXPECTED = (RequestError, StorageCorrupt, StorageFailed, web.HTTPException)

BEGUN = web.RequestKey("begun", bool)  # set once an answer that goes on has begun: there is no place for another

# On every answer: what is stored is other people's, and must not be taken for a page of ours. A version would help attackers.
SAFE = {
    "Server": "hookengine",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}

# What Malformed calls itself where it can say more.
MALFORMED_CODES = (
    "malformed",
    "duplicate_key",
    "idempotency_key_not_supported",
    "incomplete_body",
    "invalid_encoding",
    "invalid_idempotency_key",
    "invalid_json",
    "json_too_deep",
    "unsupported_version",
)

# Of requests that no route gets to see, and of our own faults: status, and what it says.
OTHER_CODES = {
    "bad_request": (400, "The request is no HTTP that can be read."),
    "expectation_failed": (417, "Another expectation than 100-continue."),
    "internal_error": (500, "A fault of hookengine's: the log has the details."),
    "internal_server_error": (500, "The same, before a route was found."),
    "storage_corrupt": (500, "A stored row that this needs cannot be read; `detail` names it."),
    "request_timeout": (408, "The body did not arrive in 30 s."),
}

# Python has these names of RFC 9110 from 3.13 on, and older ones before.
_RENAMED = {413: "Content Too Large", 414: "URI Too Long", 416: "Range Not Satisfiable", 422: "Unprocessable Content"}
_BY_STATUS: dict[int, type[RequestError]] = {
    404: NotFound,
    405: MethodNotAllowed,
    413: PayloadTooLarge,
    415: UnsupportedMediaType,
}


class MistakeShown(Struct, frozen=True, kw_only=True):
    """One thing wrong with a request: `pointer` (RFC 6901) is where in the body, `parameter` a query parameter or header."""

    code: str
    detail: str
    pointer: str | UnsetType = UNSET
    parameter: str | UnsetType = UNSET


class Problem(Struct, frozen=True, kw_only=True):
    """Why a request was not done (RFC 9457); programs go by `code`."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    errors: list[MistakeShown] | UnsetType = UNSET
    attempt: views.Attempt | UnsetType = UNSET  # the test that kept a subscription from being saved
    token_answer: views.TokenAnswer | UnsetType = UNSET  # where that test got no access token


def problem(error: RequestError) -> web.Response:
    """The answer that tells of *error*."""
    tested = _tested(error) if isinstance(error, EndpointVerificationFailed) else {}
    return _problem(error.status, error.code, error.detail, error.mistakes, _headers(error), **tested)


def problem_of(refused: web.HTTPException) -> web.Response:
    """The answer for what aiohttp refuses, without its words: they repeat what the client sent."""
    return problem_of_status(refused.status, {name: refused.headers[name] for name in ("Allow",) if name in refused.headers})


def problem_of_status(status: int, headers: dict[str, str] | None = None) -> web.Response:
    """The answer for a status alone."""
    kind = _BY_STATUS.get(status)
    if kind is not None:
        return _problem(status, kind.code, kind().detail, (), headers or {})
    return _problem(status, title(status).lower().replace(" ", "_"), HTTPStatus(status).description, (), headers or {})


def title(status: int) -> str:
    """What a status is called (RFC 9110, section 15), whatever version of Python runs."""
    return _RENAMED.get(status) or HTTPStatus(status).phrase


def internal_error() -> web.Response:
    """The answer for a fault of ours: nothing of it is told."""
    return _problem(500, "internal_error", "Something went wrong here; the log has the details.", (), {})


@web.middleware
async def tell_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Whatever a handler raises becomes an answer."""
    try:
        _check_line(request)
        response = await handler(request)
    except Exception as error:
        if BEGUN in request and not isinstance(error, _EXPECTED):  # the connection tells of it, by its end
            raise
        response = answer_to(error, request.app.logger)
    return finished(response)


def answer_to(error: Exception, log: Logger) -> web.Response:
    """The answer that tells of *error*; faults of ours go into *log*."""
    match error:
        case RequestError():
            return problem(error)
        case StorageCorrupt():
            log.error("request_failed", exc_info=error)
            return _problem(500, error.code, error.detail, (), {})
        case StorageFailed():
            return problem(StorageUnavailable(error.detail))
        case web.HTTPException():
            return problem_of(error)
        case _:
            log.error("request_failed", exc_info=error)
            return internal_error()


def finished(response: AnyResponse) -> AnyResponse:
    """*response* with what every answer has."""
    if response.status in {413, 503}:
        response.force_close()
    for name, value in SAFE.items():
        response.headers.setdefault(name, value)
    return response


def _check_line(request: web.Request) -> None:
    if request.version < HttpVersion10:  # whose answers have neither status nor headers
        raise Malformed("send HTTP/1.1", code="unsupported_version")
    if request.method == "CONNECT":  # it names no path of ours, so that no route can say which methods it takes
        raise MethodNotAllowed


def _headers(error: RequestError) -> dict[str, str]:
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = ""
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, UnsupportedMediaType):
        headers["Accept-Encoding"] = "identity"
    return headers


def _tested(error: EndpointVerificationFailed) -> dict[str, Any]:
    told = {"attempt": error.attempt, "token_answer": error.token_answer}
    return {name: value for name, value in told.items() if value is not None}


def _problem(
    status: int,
    code: str,
    detail: str,
    mistakes: tuple[Mistake, ...],
    headers: dict[str, str],
    **further: Any,
) -> web.Response:
    told = Problem(
        type=f"urn:hookengine:problem:{code}",
        title=title(status),
        status=status,
        code=code,
        detail=detail,
        errors=[_mistake(mistake) for mistake in mistakes] if mistakes else UNSET,
        **further,
    )
    return web.Response(status=status, body=dump(told), content_type=MEDIA_TYPE, headers=headers)


def _mistake(mistake: Mistake) -> MistakeShown:
    return MistakeShown(
        pointer=UNSET if mistake.pointer is None else mistake.pointer,
        parameter=(mistake.parameter or "") if mistake.pointer is None else UNSET,
        code=mistake.code,
        detail=mistake.detail,
    )
