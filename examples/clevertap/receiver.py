"""
A destination for CleverTap's webhooks, and an authorization server that gives tokens for it.

    python receiver.py [--status CODE] [--delay SECONDS]

On port 9000 (or $PORT). Destinations: /hook takes every request, /key those with the right X-Api-Key, /basic those with the
right user and password, /oauth those with an access token of the authorization server. That is POST /token (the grant
client_credentials), POST /login (the grant password; its answer names things in its own way and has no expiry), POST /refresh,
and POST /revoke, which ends all access tokens. Each request is printed. --status and --delay are the destinations'.
"""

from __future__ import annotations

import argparse
import asyncio
import hmac
import os
import secrets
from base64 import b64encode
from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import quote

from aiohttp import web

API_KEY = "a key of ours"
USER = "clevertap:wide open"
CLIENT_ID, CLIENT_SECRET = "hookengine", "not a real secret"
RESOURCE_OWNER = ("ana@example.com", "not a real password")


@dataclass
class Desk:
    """What the authorization server has given out, and how the destinations answer."""

    status: int
    delay: float
    access_tokens: set[str] = field(default_factory=set)
    refresh_tokens: set[str] = field(default_factory=set)

    def new_access_token(self) -> str:
        """One that opens /oauth until it is revoked."""
        token = f"at_{secrets.token_urlsafe(16)}"
        self.access_tokens.add(token)
        return token

    def new_refresh_token(self) -> str:
        """One that POST /refresh takes once."""
        token = f"rt_{secrets.token_urlsafe(16)}"
        self.refresh_tokens.add(token)
        return token


DESK = web.AppKey("DESK", Desk)


def say(request: web.Request, status: int, words: str) -> None:
    """Print what came and how it is answered."""
    print(f"{request.method} {request.path_qs} → {status}  {words}".rstrip(), flush=True)


def basic(credentials: str) -> str:
    """The Authorization header of the document's "Basic Authentication"."""
    return "Basic " + b64encode(credentials.encode()).decode()


async def destination(request: web.Request) -> web.Response:
    """Answer a webhook, or refuse one without the credentials that its path asks for."""
    desk = request.app[DESK]
    given = request.headers.get("Authorization", "")
    genuine = {
        "/hook": True,
        "/key": hmac.compare_digest(request.headers.get("X-Api-Key", ""), API_KEY),
        "/basic": hmac.compare_digest(given, basic(USER)),
        "/oauth": given.removeprefix("Bearer ") in desk.access_tokens,
    }[request.path]
    status = desk.status if genuine else 401
    late = f"after {desk.delay:g} s " if desk.delay else ""
    say(request, status, f"{late}{given} {await request.text()}".strip())
    await asyncio.sleep(desk.delay)
    return web.Response(status=status)


async def token(request: web.Request) -> web.Response:
    """The grant client_credentials; the client is in the header: "Send Basic Authentication in Header" (RFC 6749, 2.3.1)."""
    asked = await form(request)
    client = basic(f"{CLIENT_ID}:{quote(CLIENT_SECRET)}")
    if not hmac.compare_digest(request.headers.get("Authorization", ""), client):
        return refusal(request, "invalid_client")
    say(request, 200, f"{asked['grant_type']}, scope {asked['scope']}")
    return web.json_response({"access_token": request.app[DESK].new_access_token(), "expires_in": 3600})


async def login(request: web.Request) -> web.Response:
    """The grant password: client and user are in the form."""
    asked = await form(request)
    if not is_client(asked):
        return refusal(request, "invalid_client")
    if (asked["username"], asked["password"]) != RESOURCE_OWNER:
        return refusal(request, "invalid_grant")
    say(request, 200, f"{asked['grant_type']} of {asked['username']}")
    return own_naming(request.app[DESK])


async def refresh(request: web.Request) -> web.Response:
    """
    A new access token for a refresh token, which is used up by it.

    The access token before it comes along: "Send Bearer Authentication in Header".
    """
    asked, desk = await form(request), request.app[DESK]
    if not is_client(asked):
        return refusal(request, "invalid_client")
    if asked["refresh_token"] not in desk.refresh_tokens:
        return refusal(request, "invalid_grant")
    desk.refresh_tokens.remove(asked["refresh_token"])
    say(request, 200, f"{request.headers.get('Authorization')} {asked['grant_type']} {asked['refresh_token']}")
    return own_naming(desk)


async def revoke(request: web.Request) -> web.Response:
    """End all access tokens, as whoever runs such a server may."""
    request.app[DESK].access_tokens.clear()
    say(request, 200, "")
    return web.Response()


async def form(request: web.Request) -> dict[str, str]:
    """The texts of the form that came; one that is missing is empty."""
    given = {name: text for name, text in (await request.post()).items() if isinstance(text, str)}
    return defaultdict(str, given)


def is_client(asked: dict[str, str]) -> bool:
    """Whether the form comes from the client that is known here."""
    return asked["client_id"] == CLIENT_ID and hmac.compare_digest(asked["client_secret"], CLIENT_SECRET)


def own_naming(desk: Desk) -> web.Response:
    """An answer that names things in its own way, and does not say how long they are valid: both are to be mapped."""
    return web.json_response({"token": desk.new_access_token(), "renewal": desk.new_refresh_token()})


def refusal(request: web.Request, error: str) -> web.Response:
    """The error of RFC 6749, 5.2."""
    say(request, 400, error)
    return web.json_response({"error": error}, status=400)


def main() -> None:
    """Serve until it is stopped."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--status", type=int, default=200)
    parser.add_argument("--delay", type=float, default=0)
    app = web.Application()
    app[DESK] = Desk(**vars(parser.parse_args()))
    for path in ("/hook", "/key", "/basic", "/oauth"):
        app.router.add_route("*", path, destination)
    for handler in (token, login, refresh, revoke):
        app.router.add_post(f"/{handler.__name__}", handler)
    port = int(os.environ.get("PORT", "9000"))
    say_so = partial(print, f"Listening on http://127.0.0.1:{port}", flush=True)
    web.run_app(app, host="127.0.0.1", port=port, print=lambda *_: say_so())


if __name__ == "__main__":
    main()
