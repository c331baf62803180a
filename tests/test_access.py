"""Who gets in, and what they may do."""

from __future__ import annotations

import pytest

from hookengine.access import DEFAULT_SCOPES, OWNER, TOKEN_PREFIX, Principal, Scope, Token, Tokens, authenticate, digest
from hookengine.errors import Forbidden, Unauthorized

TOKEN = TOKEN_PREFIX + "5e0f" * 16
ANA = Principal(user="ana", scopes=frozenset({Scope.EVENTS_READ}), tenant="acme")
TOKENS = {digest(TOKEN): ANA, digest(""): OWNER, digest("x" * 10_240): OWNER}


def refusal(authorization: str | None) -> str:
    """What is said to a header that does not get in."""
    with pytest.raises(Unauthorized) as refused:
        authenticate(authorization, TOKENS, now=0)
    return str(refused.value)


@pytest.mark.parametrize(
    "authorization",
    [
        pytest.param(f"Bearer {TOKEN}", id="as usual"),
        pytest.param(f"bearer {TOKEN}", id="scheme in lower case"),
        pytest.param(f"BEARER {TOKEN}", id="scheme in upper case"),
        pytest.param(f"Bearer   {TOKEN}", id="RFC 6750, 2.1: 1*SP"),
    ],
)
def test_a_known_token_gets_in(authorization: str) -> None:
    """A token that was given out is its principal, with the scheme in any case."""
    assert ANA == authenticate(authorization, TOKENS, now=0)


I54 = {
    "I54 no header": None,
    "I54 empty header": "",
    "I54 scheme alone": "Bearer",
    "I54 empty token": "Bearer ",
    "I54 spaces for a token": "Bearer    ",
    "I54 wrong scheme": f"Basic {TOKEN}",
    "I54 no scheme": TOKEN,
    "I54 scheme without space": f"Bearer{TOKEN}",
    "I54 tab": f"Bearer\t{TOKEN}",
    "I54 unknown token": f"Bearer {TOKEN_PREFIX}{'0' * 64}",
    "I54 token in another case": f"Bearer {TOKEN.upper()}",
    "I54 more than a token": f"Bearer {TOKEN} {TOKEN}",
    "I54 two headers joined": f"Bearer {TOKEN}, Bearer {TOKEN}",
    "I54 part of a token": f"Bearer {TOKEN[:-1]}",
    "I54 10 KB token": "Bearer " + "x" * 10_240,
    "I54 non-ASCII": "Bearer töken",
    "I54 bytes that are no UTF-8": "Bearer " + b"\xff\xfe".decode("utf-8", "surrogateescape"),
    "I54 lone surrogate": "Bearer \ud800",
    "I54 NUL": "Bearer \x00",
}


@pytest.mark.parametrize("authorization", I54.values(), ids=I54.keys())
def test_others_stay_out_with_the_same_words(authorization: str | None) -> None:
    """Whatever is wrong with a header, the answer is the same, so that nobody learns which tokens exist."""
    said = refusal(authorization)

    assert "send a valid token as 'Authorization: Bearer <token>'" == said


def test_longest_token_is_looked_up() -> None:
    """The bound on length admits every token that could be given out."""
    longest = "y" * 256

    assert OWNER is authenticate(f"Bearer {longest}", {digest(longest): OWNER}, now=0)


@pytest.mark.parametrize(("now", "gets_in"), [(999, True), (1_000, False), (10**15, False)])
def test_expired_token_stays_out(now: int, *, gets_in: bool) -> None:
    """A token opens until its time has come, and then says why it does not."""
    short = Principal(user="ana", scopes=frozenset(), expires_at=1_000)
    if gets_in:
        assert short is authenticate(f"Bearer {TOKEN}", {digest(TOKEN): short}, now=now)
    else:
        with pytest.raises(Unauthorized, match="this token has expired"):
            authenticate(f"Bearer {TOKEN}", {digest(TOKEN): short}, now=now)


def test_no_tokens_let_nobody_in() -> None:
    """Before a token was made, none is valid."""
    with pytest.raises(Unauthorized):
        authenticate(f"Bearer {TOKEN}", {}, now=0)


def test_digest_does_not_hold_the_token() -> None:
    """What is kept of a token is SHA-256, the same on every machine and in every version."""
    assert 32 == len(digest(TOKEN))
    assert "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" == digest("abc").hex()


def test_digests_differ_also_beyond_text() -> None:
    """No two texts have one digest, also where a header had bytes that are no UTF-8."""
    texts = ["", "a", "A", "ä", "\udcff", "\udcfe", "\ud800", "\\udcff"]

    assert len(texts) == len({digest(text) for text in texts})


@pytest.mark.parametrize("held", Scope)
@pytest.mark.parametrize("asked", Scope)
def test_scopes_open_what_they_name(held: Scope, asked: Scope) -> None:
    """A scope opens itself and nothing else; admin opens everything."""
    principal = Principal(user="u", scopes=frozenset({held}))

    if held in {asked, Scope.ADMIN}:
        principal.require(asked)
    else:
        with pytest.raises(Forbidden, match=f"this needs the scope {asked}$"):
            principal.require(asked)


def test_no_scope_opens_nothing() -> None:
    """A token without scopes gets in and may do nothing."""
    for scope in Scope:
        with pytest.raises(Forbidden):
            Principal(user="u", scopes=frozenset()).require(scope)


def test_scopes_are_those_of_the_contract() -> None:
    """The names of scopes, which users write down, do not change."""
    names = {"events:read", "events:write", "subscriptions:read", "subscriptions:write", "admin"}

    assert names == {str(scope) for scope in Scope}


def test_owner_may_do_everything_everywhere() -> None:
    """The owner has every scope and is bound to no tenant."""
    for scope in Scope:
        OWNER.require(scope)

    assert OWNER.tenant is None


def test_principal_is_frozen() -> None:
    """Nobody gains a scope while a request runs."""
    with pytest.raises(AttributeError):
        ANA.tenant = None  # type: ignore[misc]  # what must fail


# The tokens that were given out.


def token(user: str, *, text: str | None = None, last_used_at: int | None = None) -> Token:
    """What is kept of a token."""
    return Token(
        seq=1,
        principal=Principal(user=user, scopes=DEFAULT_SCOPES),
        digest=digest(text or user),
        created_at=0,
        last_used_at=last_used_at,
    )


def test_default_scopes_are_the_first_four() -> None:
    """Without a word about scopes, a token opens everything but what is the operator's."""
    assert set(Scope) - DEFAULT_SCOPES == {Scope.ADMIN}


def test_tokens_are_found_by_digest_and_user() -> None:
    """What is put opens, and what is removed opens no more."""
    ana, bob = token("ana"), token("bob")
    tokens = Tokens([ana])
    tokens.put(bob)

    assert ana.principal is authenticate("Bearer ana", tokens.principals, now=0)
    assert ([ana, bob], bob, None) == (list(tokens), tokens.of("bob"), tokens.of("eve"))
    tokens.remove("ana")
    assert ([bob], {bob.digest: bob.principal}) == (list(tokens), tokens.principals)


def test_owner_has_no_stored_token() -> None:
    """Who is admitted gets in, is none of those who were given a token, and leaves no trace."""
    tokens = Tokens([token("ana")])
    tokens.admit(digest("of_a_file"), OWNER)
    tokens.use(OWNER, 90)

    assert OWNER is authenticate("Bearer of_a_file", tokens.principals, now=0)
    assert (["ana"], []) == ([each.principal.user for each in tokens], tokens.unwritten(1))


def test_uses_are_remembered() -> None:
    """The last use is known at once, and given to be written only when the written one is old enough."""
    tokens = Tokens([token("ana"), token("bob", last_used_at=50), token("eve")])
    ana, bob = (tokens.of(user).principal for user in ("ana", "bob"))  # type: ignore[union-attr]  # they are there
    for now, principal in ((90, ana), (100, ana), (100, bob)):
        tokens.use(principal, now)

    assert [100, 100, None] == [tokens.last_used_at(user) for user in ("ana", "bob", "eve")]
    assert [("ana", 100)] == tokens.unwritten(51)
    assert [("ana", 100), ("bob", 100)] == tokens.unwritten(50)
    tokens.use(bob, 110)  # while the write runs
    tokens.written([("ana", 100), ("bob", 100)])
    assert ([("bob", 110)], []) == (tokens.unwritten(0), tokens.unwritten(11))
    assert [100, 110] == [tokens.last_used_at(user) for user in ("ana", "bob")]


def test_use_of_what_is_no_token_here_leaves_no_trace() -> None:
    """The owner is nobody's namesake, and whoever asked with a token that is gone by now used no other."""
    tokens = Tokens([token("owner"), token("ana")])
    before = tokens.of("ana")
    assert before is not None
    tokens.use(before.principal, 1)
    tokens.remove("ana")
    tokens.put(token("ana", text="another"))
    for principal in (OWNER, before.principal, Principal(user="eve", scopes=frozenset())):
        tokens.use(principal, 5)

    assert [] == tokens.unwritten(0)
    assert [None, None] == [tokens.last_used_at(user) for user in ("owner", "ana")]
