"""The pages that describe the API: Swagger UI from the package itself, so that nothing is asked of anybody else."""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from pathlib import Path

from aiohttp import web

from hookengine.server import wire

_FOLDER = Path(__file__).parent / "static"

# By path, so that no path can lead to another file.
FILES = {
    "/docs": ("docs.html", "text/html"),
    "/docs/docs.js": ("docs.js", "text/javascript"),
    "/docs/swagger-ui-bundle.js": ("swagger-ui-bundle.js", "text/javascript"),
    "/docs/swagger-ui.css": ("swagger-ui.css", "text/css"),
    "/docs/favicon-32x32.png": ("favicon-32x32.png", "image/png"),
}

# Nothing inline, nothing from elsewhere; the stylesheet's own icons are data: URLs.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Asset:
    """Something that is the same for everybody until the next version."""

    def __init__(self, content: bytes, media_type: str) -> None:
        self.content = content
        self.media_type = media_type
        self.tag = f'"{sha256(content).hexdigest()[:32]}"'


@cache
def file(path: str) -> Asset:
    """What is served at *path*; read once."""
    name, media_type = FILES[path]
    return Asset((_FOLDER / name).read_bytes(), media_type)


def asset(request: web.Request, found: Asset) -> web.Response:
    """*found*, or that the client has it already (RFC 9110, 13.1.2)."""
    headers = {
        "ETag": found.tag,
        "Cache-Control": "no-cache",  # kept, and asked for again: an upgrade is seen at once
        "Content-Security-Policy": _POLICY,
        "Cross-Origin-Resource-Policy": "same-origin",
    }
    known = {tag.strip().removeprefix("W/") for tag in request.headers.get("If-None-Match", "").split(",")}
    if known & {found.tag, "*"}:
        return web.Response(status=304, headers=headers)
    charset = None if found.media_type == "image/png" else "utf-8"
    return web.Response(body=found.content, content_type=found.media_type, charset=charset, headers=headers)


def table() -> list[web.RouteDef]:
    """A route to each file."""
    return [web.get(path, show, expect_handler=wire.expect) for path in FILES]


async def show(request: web.Request) -> web.Response:
    """GET /docs, and what that page is made of."""
    return asset(request, file(request.path))
