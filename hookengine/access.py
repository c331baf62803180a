"""Who may do what: bearer tokens, scopes, and the tenant that a token is bound to."""

from __future__ import annotations

from enum import StrEnum
from hashlib import sha256
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from hookengine.errors import Forbidden, Unauthorized

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

TOKEN_PREFIX = "hke_"  # noqa: S105  # lets secret scanners find tokens of ours
LONGEST_TOKEN = 256


class Scope(StrEnum):
    """What a token opens."""

    EVENTS_READ = "events:read"
    EVENTS_WRITE = "events:write"
    SUBSCRIPTIONS_READ = "subscriptions:read"
    SUBSCRIPTIONS_WRITE = "subscriptions:write"
    ADMIN = "admin"  # all of it


_ADMIN = Scope.ADMIN  # a name of its own: see `models`

DEFAULT_SCOPES = frozenset(Scope) - {Scope.ADMIN}


class Principal(Struct, frozen=True, kw_only=True, gc=False):
    """Who asks; bound to one tenant, or to none, and up to `expires_at` (ms since the epoch) or for ever."""

    user: str
    scopes: frozenset[Scope]
    tenant: str | None = None
    expires_at: int | None = None

    def require(self, scope: Scope) -> None:
        """Raise Forbidden unless *scope* is among its scopes."""
        if scope not in self.scopes and _ADMIN not in self.scopes:
            raise Forbidden(f"this needs the scope {scope}")

    @property
    def may_have_ours(self) -> bool:
        """Whether it may hear of what befalls all tenants, and so have subscriptions of the engine's own, and their secret."""
        return self.tenant is None and _ADMIN in self.scopes


class Token(Struct, frozen=True, kw_only=True, gc=False):
    """What is kept of a token: whom it stands for, and a digest by which it is found."""

    seq: int
    principal: Principal
    digest: bytes
    created_at: int
    last_used_at: int | None = None  # as it is stored


class Tokens:
    """
    The tokens that were given out, found by digest and by user, who has one at most.

    Changed by the writer alone, when a change commits; any request may `use` one, which only remembers when.
    """

    def __init__(self, tokens: Iterable[Token] = ()) -> None:
        self.principals: dict[bytes, Principal] = {}  # by digest: what `authenticate` looks in
        self._by_user: dict[str, Token] = {}
        self._used: dict[str, int] = {}  # by user: the last use, if it is later than the stored one
        for token in tokens:
            self.put(token)

    def __iter__(self) -> Iterator[Token]:
        return iter(self._by_user.values())

    def of(self, user: str) -> Token | None:
        """The token of *user*."""
        return self._by_user.get(user)

    def admit(self, key: bytes, principal: Principal) -> None:
        """Let *principal* in, whose token has the digest *key* and is not stored; before the first request."""
        self.principals[key] = principal

    def put(self, token: Token) -> None:
        """Let *token* open what it opens."""
        self.principals[token.digest] = token.principal
        self._by_user[token.principal.user] = token

    def remove(self, user: str) -> None:
        """Let the token of *user* open nothing any more."""
        del self.principals[self._by_user.pop(user).digest]
        self._used.pop(user, None)

    def use(self, principal: Principal, now: int) -> None:
        """Remember that *principal* has asked; the owner, who has no token here, leaves no trace."""
        token = self._by_user.get(principal.user)
        if token is not None and token.principal is principal:
            self._used[principal.user] = now

    def last_used_at(self, user: str) -> int | None:
        """When the token of *user* was last used."""
        return self._used.get(user, self._by_user[user].last_used_at)

    def unwritten(self, every: int) -> list[tuple[str, int]]:
        """Who has used a token, and when, where the stored time is at least *every* ms older."""
        return [
            (user, at)
            for user, at in self._used.items()
            if (before := self._by_user[user].last_used_at) is None or at - before >= every
        ]

    def written(self, uses: Iterable[tuple[str, int]]) -> None:
        """Note that *uses*, as `unwritten` gave them, are stored."""
        for user, at in uses:
            self._by_user[user] = replace(self._by_user[user], last_used_at=at)
            if self._used[user] == at:
                del self._used[user]


OWNER = Principal(user="(owner)", scopes=frozenset({Scope.ADMIN}))  # whoever can read admin.token, or embeds the engine


def digest(token: str) -> bytes:
    """What is kept of a token: it has 256 random bits, so one plain hash is enough."""
    return sha256(token.encode("utf-8", "surrogatepass")).digest()


def authenticate(authorization: str | None, tokens: Mapping[bytes, Principal], *, now: int) -> Principal:
    """
    The principal behind an Authorization header (RFC 6750, 2.1), looked up by digest, so that nothing secret is compared.

    Raises Unauthorized, with the same words for an unknown and for a malformed token. That one has expired is told: whoever
    sends it had it whole.
    """
    scheme, _, rest = (authorization or "").partition(" ")
    token = rest.lstrip(" ")
    principal = tokens.get(digest(token)) if token and len(token) <= LONGEST_TOKEN else None
    if scheme.lower() != "bearer" or principal is None:
        raise Unauthorized("send a valid token as 'Authorization: Bearer <token>'")
    if principal.expires_at is not None and principal.expires_at <= now:
        raise Unauthorized("this token has expired: have a new one made")
    return principal
