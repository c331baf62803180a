"""What is done with tokens of the API: none until one is made, one for each user, deleted and made again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from hookengine import access, inputs
from hookengine.access import DEFAULT_SCOPES, TOKEN_PREFIX, Principal, Scope, Token
from hookengine.inputs import TokenInput
from hookengine.paging import Query, newest, page
from hookengine.presentation import shown_token
from hookengine.service.operations import Operations
from hookengine.store import registry
from hookengine.validation import Problems

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hookengine import views


class TokenOperations(Operations):
    """Of tokens."""

    def identify(self, authorization: str | None, tokens: Mapping[bytes, Principal]) -> Principal:
        """Who asks with this Authorization header, of those in *tokens*; its use is noted. Raises Unauthorized."""
        now = self._clock.now()
        principal = access.authenticate(authorization, tokens, now=now)
        self._store.memory.tokens.use(principal, now)
        return principal

    async def tokens(self, by: Principal, query: Mapping[str, Any]) -> views.Page[views.Token]:
        """A page of tokens, newest first."""
        self._require(by, Scope.ADMIN)
        tokens = self._store.memory.tokens
        found, after = newest(tokens, Query(query, set()).slice(None))
        return page([shown_token(each, tokens.last_used_at(each.principal.user)) for each in found], after)

    async def create_token(self, by: Principal, given: Mapping[str, Any]) -> views.Token:
        """A new token, which is shown this once: only its digest is kept."""
        self._require(by, Scope.ADMIN, changing=True)
        problems = Problems()
        draft = problems.convert(TokenInput, given)
        now = self._clock.now()
        inputs.check_token(problems, draft, now=now)
        wanted = problems.require(draft)
        text = TOKEN_PREFIX + self._clock.new_bytes(32).hex()
        principal = Principal(
            user=wanted.user,
            scopes=DEFAULT_SCOPES if wanted.scopes is None else frozenset(map(Scope, wanted.scopes)),
            tenant=wanted.tenant,
            expires_at=None if wanted.expires_at is None else int(wanted.expires_at),
        )
        token = Token(seq=0, principal=principal, digest=access.digest(text), created_at=now)
        made = await self._store.writer.change(registry.add_token(token))
        return replace(shown_token(made, None), token=text)

    async def delete_token(self, by: Principal, user: str) -> None:
        """Let the token of *user* open nothing any more; another may be made then."""
        self._require(by, Scope.ADMIN, changing=True)
        await self._store.writer.change(registry.delete_token(user))
