"""The document of OpenAPI 3.1, made of the routes and of the types that their handlers use."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec
import orjson

from hookengine import __version__, views
from hookengine.errors import (
    Forbidden,
    IdempotencyMismatch,
    Invalid,
    Malformed,
    PayloadTooLarge,
    PreconditionFailed,
    RateLimited,
    RequestError,
    Stopping,
    StorageUnavailable,
    Unauthorized,
    UnsupportedMediaType,
)
from hookengine.server.problems import MALFORMED_CODES, MEDIA_TYPE, OTHER_CODES, Problem, title
from hookengine.server.wire import EVENT_STREAM, JSON, NDJSON
from hookengine.times import Duration, Rate, Time

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from hookengine.server.route import Body, Route

_REFERENCE = "#/components/schemas/{name}"

_PAGE_NAME = (r"Page_(\w+)_$", r"\1Page")  # as msgspec calls Page[Event], and as others can
_PLAIN = (("$ref", *_PAGE_NAME), ("title", r"^Page\[(\w+)\]$", r"\1Page"), ("pattern", r"\\Z$", "$"))

_MEANINGS = {
    "type": "Only events of exactly this type.",
    "tenant": "Only this tenant's; a token that is bound to a tenant sees no other.",
    "since": "Made then or later.",
    "until": "Made before.",
    "limit": "At most so many; 50 if it is not given.",
    "cursor": "Go on where the page before ended: its next_cursor.",
    "state": "Only in this state.",
    "event": "Only of the event with this id.",
    "subscription": "Only of the subscription with this id.",
    "types": "Only what is about events of these types: exact, order.*, or *, with commas between them.",
}

_DESCRIPTION = """\
Takes events and turns them into signed HTTP requests to everybody who subscribed. Times are RFC 3339 in UTC with milliseconds;
durations are a whole number with ms, s, m, h or d. Every error is `application/problem+json` and names every mistake. An
`Idempotency-Key` makes it safe to send a request again."""


def printed(routes: Sequence[Route]) -> bytes:
    """The document as text."""
    return orjson.dumps(describe(routes), option=orjson.OPT_INDENT_2)


def describe(routes: Sequence[Route]) -> dict[str, Any]:
    """The document."""
    schemas, components = _schemas(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _Operation(route, schemas).described()
    components["Problem"]["properties"]["code"]["enum"] = codes()
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "hookengine",
            "version": __version__,
            "description": _DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "A token; what it opens are its scopes."}
            },
        },
    }


def codes() -> list[str]:
    """What a problem may be called."""
    return sorted({code for kind in _subclasses(RequestError) for code in _codes_of(kind)} | OTHER_CODES.keys())


class _Operation:
    """What is said of one route."""

    def __init__(self, route: Route, schemas: Mapping[Any, dict[str, Any]]) -> None:
        self._route = route
        self._schemas = schemas

    def described(self) -> dict[str, Any]:
        route = self._route
        said: dict[str, Any] = {"operationId": route.name, "summary": route.summary, "tags": [_tag(route.path)]}
        if parameters := self._parameters():
            said["parameters"] = parameters
        if route.body is not None:
            said["requestBody"] = self._body(route.body)
        said["responses"] = dict(sorted(self._responses().items()))
        said["security"] = [] if route.scope is None else [{"bearer": [route.scope.value]}]
        return said

    def _parameters(self) -> list[dict[str, Any]]:
        route = self._route
        found = [_parameter("path", name, {"type": "string"}, required=True) for name in re.findall(r"{(\w+)}", route.path)]
        for name, type_ in route.parameters.items():
            found.append(_parameter("query", name, self._schemas[type_], description=_MEANINGS[name]))
        if route.keyed:
            key = {"type": "string", "pattern": "^[!-~]{1,255}$"}
            description = "Sent again with the same one, a request does nothing more."
            found.append(_parameter("header", "Idempotency-Key", key, description=description))
        if route.versioned:
            description = "An ETag of the subscription: it is changed only if it still has that one."
            found.append(_parameter("header", "If-Match", {"type": "string"}, description=description))
        if route.media_type == EVENT_STREAM:
            description = "Go on from behind this item; what is no longer known is told by an item of the kind reset."
            found.append(_parameter("header", "Last-Event-ID", {"type": "string"}, description=description))
        return found

    def _body(self, body: Body) -> dict[str, Any]:
        schema = self._schemas[body.type]
        if body.partial:
            schema = {"$ref": _REFERENCE.format(name=_patch_of(body.type))}
        lines = {"type": "string", "description": "The same objects, one to a line."}
        content = {media: {"schema": lines if media == NDJSON else schema} for media in body.media_types}
        return {"required": not body.optional, "content": content}

    def _responses(self) -> dict[str, Any]:
        route = self._route
        found = {str(route.status): self._success()}
        for status, type_ in route.others.items():
            found[str(status)] = {
                "description": title(status),
                "content": {JSON: {"schema": self._schemas[type_]}},
            }
        for status, names in _errors_of(route).items():
            problem: dict[str, Any] = {
                "description": f"{title(status)}: {', '.join(f'`{name}`' for name in names)}",
                "content": {MEDIA_TYPE: {"schema": {"$ref": _REFERENCE.format(name="Problem")}}},
            }
            if status in {429, 503}:
                problem["headers"] = {"Retry-After": _header("Seconds.", {"type": "string"})}
            found[str(status)] = problem
        return found

    def _success(self) -> dict[str, Any]:
        route = self._route
        answered: dict[str, Any] = {"description": title(route.status)}
        if route.media_type == EVENT_STREAM:
            item = _REFERENCE.format(name=route.answer.__name__)
            answered["content"] = {EVENT_STREAM: {"schema": {"type": "string", "description": f"Each `data` is a {item}."}}}
        elif route.answer is not None:
            answered["content"] = {route.media_type: {"schema": self._schemas[route.answer]}}
        headers = {}
        if route.answer is views.Subscription:
            headers["ETag"] = _header("The version of its settings.", {"type": "string"})
        if route.status == 201:
            headers["Location"] = _header("Where it is.", {"type": "string"})
        if route.keyed:
            headers["Idempotent-Replayed"] = _header("`true` on a first answer that is given again.", {"const": "true"})
        if headers:
            answered["headers"] = headers
        return answered


def _errors_of(route: Route) -> dict[int, list[str]]:
    """The codes of problems, by status."""
    kinds: list[type[RequestError]] = list(route.errors)
    if route.scope is not None:
        kinds += [Unauthorized, Forbidden, RateLimited]
        if route.method != "GET":
            kinds += [Stopping, StorageUnavailable]
    if route.body is not None:
        kinds += [Malformed, PayloadTooLarge, UnsupportedMediaType, Invalid]
    if route.parameters or route.refuses_parameters:
        kinds += [Invalid]
    if route.keyed:
        kinds += [IdempotencyMismatch]
    if route.versioned:
        kinds += [PreconditionFailed]
    found: dict[int, list[str]] = {}
    for kind in dict.fromkeys(kinds):
        found.setdefault(kind.status, []).extend(_codes_of(kind))
    return found


def _codes_of(kind: type[RequestError]) -> Iterable[str]:
    return MALFORMED_CODES if kind is Malformed else (kind.code,)


def _subclasses(kind: type[RequestError]) -> Iterable[type[RequestError]]:
    for each in kind.__subclasses__():
        yield each
        yield from _subclasses(each)


def _schemas(routes: Sequence[Route]) -> tuple[dict[Any, dict[str, Any]], dict[str, Any]]:
    """The schema of each type that a route names, and what these refer to."""
    types = [type_ for route in routes for type_ in _types_of(route)]
    made, components = msgspec.json.schema_components([*types, Problem], schema_hook=_schema_of_ours, ref_template=_REFERENCE)
    components = {re.sub(*_PAGE_NAME, name): _portable(component) for name, component in components.items()}
    for body in (route.body for route in routes):
        if body is not None and body.partial:
            whole = components[body.type.__name__]
            components[_patch_of(body.type)] = {key: value for key, value in whole.items() if key != "required"} | {
                "title": _patch_of(body.type),
                "description": "Some of the members; null takes one back to its default.",
            }
    return dict(zip(types, map(_portable, made), strict=False)), components


def _types_of(route: Route) -> Iterable[Any]:
    if route.body is not None:
        yield route.body.type
    yield from route.parameters.values()
    if route.answer is not None:
        yield route.answer
    yield from route.others.values()


def _patch_of(type_: type) -> str:
    return f"{type_.__name__.removesuffix('Input')}Patch"


def _schema_of_ours(type_: type) -> dict[str, Any]:
    """What msgspec does not know."""
    if type_ is Duration:
        return {"type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$", "examples": ["500ms", "15s", "24h"]}
    if type_ is Rate:
        return {"type": "string", "pattern": "^[1-9][0-9]{0,5}/(s|m|h|d)$", "examples": ["10/s", "600/m"]}
    if type_ is Time:
        return {"type": "string", "format": "date-time", "examples": ["2026-11-22T02:10:00Z"]}
    raise NotImplementedError


def _portable(schema: Any) -> Any:
    """*schema* for readers that are not Python: its patterns, and JSON text that is kept as bytes."""
    if isinstance(schema, list):
        return [_portable(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("contentEncoding") == "base64":
        return {"description": "Any JSON value, as the producer wrote it."}
    portable = {name: _portable(each) for name, each in schema.items() if (name, each) != ("default", None)}
    # A text under one of these names is a keyword's; a member of an object that is called so has a schema.
    for keyword, pattern, plain in _PLAIN:
        if isinstance(text := schema.get(keyword), str):
            portable[keyword] = re.sub(pattern, plain, text)
    return portable


def _tag(path: str) -> str:
    parts = path.strip("/").split("/")
    return parts[1] if parts[0] == "v1" else "engine"


def _parameter(
    place: str, name: str, schema: Mapping[str, Any], *, required: bool = False, description: str | None = None
) -> dict[str, Any]:
    said: dict[str, Any] = {"name": name, "in": place, "required": required, "schema": schema}
    return said if description is None else said | {"description": description}


def _header(description: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {"description": description, "schema": schema}
