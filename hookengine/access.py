"""Who may do what: bearer tokens, scopes, and the tenant that a token is bound to."""

from __future__ import annotations

from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING

from msgspec import Struct

from hookengine.errors import Forbidden, Unauthorized

if TYPE_CHECKING:
    from collections.abc import Mapping

TOKEN_PREFIX = "hke_"  # noqa: S105  # lets secret scanners find tokens of ours
_LONGEST_TOKEN = 256


class Scope(StrEnum):
    """What a token opens."""

    EVENTS_READ = "events:read"
    EVENTS_WRITE = "events:write"
    SUBSCRIPTIONS_READ = "subscriptions:read"
    SUBSCRIPTIONS_WRITE = "subscriptions:write"
    ADMIN = "admin"  # all of it


class Principal(Struct, frozen=True, kw_only=True, gc=False):
    """Who asks; bound to one tenant, or to none."""

    user: str
    scopes: frozenset[Scope]
    tenant: str | None = None

    def require(self, scope: Scope) -> None:
        """Raise Forbidden unless *scope* is among its scopes."""
        if scope not in self.scopes and Scope.ADMIN not in self.scopes:
            raise Forbidden(f"this needs the scope {scope}")


OWNER = Principal(user="owner", scopes=frozenset({Scope.ADMIN}))  # whoever can read admin.token, or embeds the engine


def digest(token: str) -> bytes:
    """What is kept of a token: it has 256 random bits, so one plain hash is enough."""
    return sha256(token.encode("utf-8", "surrogatepass")).digest()


def authenticate(authorization: str | None, tokens: Mapping[bytes, Principal]) -> Principal:
    """
    The principal behind an Authorization header (RFC 6750, 2.1), looked up by digest, so that nothing secret is compared.

    Raises Unauthorized, with the same words for an unknown and for a malformed token.
    """
    scheme, _, rest = (authorization or "").partition(" ")
    token = rest.lstrip(" ")
    principal = tokens.get(digest(token)) if token and len(token) <= _LONGEST_TOKEN else None
    if scheme.lower() != "bearer" or principal is None:
        raise Unauthorized("send a valid token as 'Authorization: Bearer <token>'")
    return principal
