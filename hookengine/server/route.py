"""A route as one record: what aiohttp serves and what /openapi.json says of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, get_origin

from aiohttp import web
from msgspec import Meta, Struct

from hookengine import views
from hookengine.paging import MOST_ROWS
from hookengine.server import wire
from hookengine.server.wire import EVENT_STREAM, JSON

if TYPE_CHECKING:
    from hookengine.access import Scope
    from hookengine.errors import RequestError

PAGED = {"limit": Annotated[int, Meta(ge=1, le=MOST_ROWS)], "cursor": str}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Body(Struct, frozen=True):
    """What a request may hold; *partial*: any members of the type, as a merge patch has them."""

    type: Any
    media_types: tuple[str, ...] = (JSON,)
    optional: bool = False
    partial: bool = False


class Route(Struct, frozen=True):
    """
    One method of one path.

    `name` is the method of the Python API that does the same. Errors that follow from the rest, such as those of a body,
    need not be listed. An Idempotency-Key is taken where `keyed`, If-Match and ETag where `versioned`.
    """

    method: str
    path: str
    handler: Handler
    name: str
    summary: str
    scope: Scope | None  # None: no token is needed
    body: Body | None = None
    query: Mapping[str, Any] = {}  # types by name
    status: int = 200
    answer: Any = None  # its type; None: there is no body
    media_type: str = JSON
    others: Mapping[int, Any] = {}  # further answers in JSON that are no problems
    errors: tuple[type[RequestError], ...] = ()
    keyed: bool = False
    versioned: bool = False

    @property
    def parameters(self) -> Mapping[str, Any]:
        """The types of those that its query may have: `query` does not name those that every list has."""
        return {**self.query, **PAGED} if get_origin(self.answer) is views.Page else self.query

    @property
    def refuses_parameters(self) -> bool:
        """Whether any parameter is a mistake: what has some tells of those that there are not together with all else."""
        return self.scope is not None and not self.parameters and self.media_type == JSON

    def served(self) -> web.RouteDef:
        """What aiohttp needs to know of it."""
        # HEAD of a stream would go on for ever without a byte.
        head = {"allow_head": self.media_type != EVENT_STREAM} if self.method == "GET" else {}
        return web.route(self.method, self.path, self.handler, expect_handler=wire.expect, **head)
