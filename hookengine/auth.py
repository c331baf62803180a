"""
How requests prove who sends them, beside the signature: basic (RFC 7617), or a bearer token (RFC 6750) got by OAuth 2.0.

oauthlib writes and reads the messages of RFC 6749. Whoever sends them runs `renew`, which yields requests and takes the
answers to them.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from contextlib import suppress
from html import escape
from itertools import groupby, islice
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, quote_plus

import orjson
from msgspec.structs import replace

from hookengine.models import HIDDEN, AccessToken, Request, Secret, SecretBytes, TokenAnswer

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from hookengine.models import BasicAuth, OAuth2, Outcome, Response

# What a request has in the place of its token until it is sent.
UNSET_TOKEN = ("authorization", Secret("Bearer"))

_LONGEST_MARGIN = 30_000  # ms before its end that a token is not used any more: the endpoint has to see it in time
_LONGEST_LIFETIME = 10 * 365 * 86_400  # s
_MOST_FIELDS = 50
_LONGEST_FIELD = 100  # characters
_SHORTEST = 8  # characters of a credential that is looked for
# What encoders of JSON write as numbers, beside what is not ASCII: those of Python and PHP, of Go and Ruby, and of .NET.
_ESCAPING = ("", "&<>", "&<>'\"+`")
_ESCAPE = re.compile(r"\\(?:u([0-9a-f]{4})|.)")
# What is looked for of one request: some twenty credentials, or the longest token. Headers are 8 KiB of any words, of which
# all spellings would be megabytes, and a second's search in each answer.
_MOST_SPELLINGS = 256
_MOST_CHARACTERS = 131_072
_MOST_KEPT = 8 * 1024 * 1024  # bytes, of all requests
_BEGINNING = 12  # characters of one that are not shown either, where the rest was cut off

# More than RFC 6750, 2.1 admits, and still one word of a header.
_TOKEN = re.compile(r"[!-~]{1,12000}")

# The errors of RFC 6749, 5.2. These words are ours: of what the server says nothing is repeated.
_REFUSALS = {
    "invalid_client": "it does not accept the client's id and secret, or the way in which they are sent",
    "invalid_grant": "it does not accept the user name and the password",
    "invalid_scope": "it does not give these scopes",
    "unauthorized_client": "it does not let this client use this grant",
    "unsupported_grant_type": "it does not know this grant",
}


class NoToken(Exception):
    """The token server's answer holds no token that can be used; the text is for users, and repeats no value of it."""

    def __init__(self, detail: str, answer: TokenAnswer) -> None:
        super().__init__(detail)
        self.answer = answer


def basic(auth: BasicAuth) -> tuple[str, Secret]:
    """The Authorization header of RFC 7617, with UTF-8 as its section 2.1 advises."""
    return _basic(auth.username, auth.password)


def bearing(request: Request, token: AccessToken, *, timeout: int) -> Request:
    """*request* with *token* in it, to be sent within *timeout* ms."""
    header = _bearer(token)
    headers = tuple([header if name == UNSET_TOKEN[0] else (name, value) for name, value in request.headers])
    return replace(request, headers=headers, timeout=timeout, authorization=None)


class Concealer:
    """
    Hides the credentials that endpoints repeat.

    It keeps the spellings of those that it was asked about last, because it is asked after every attempt.
    """

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, ...], _Spellings | None] = OrderedDict()
        self._size = 0  # of those that are kept

    def conceal(self, outcome: Outcome, request: Request, *, beside: Sequence[tuple[str, str]] = ()) -> Outcome:
        """
        *outcome* with `***` wherever a credential of *request* is repeated, or of the headers that were sent *beside* it: as
        it was sent, a word of it, the password in it, in the spellings of JSON, URLs and HTML, and where it is cut off.

        So it is not stored in the clear. What is shorter than 8 characters is left: it would make an answer unreadable. Of
        headers with hundreds of words, most are found only whole and as they were sent.
        """
        sent = [value for name, value in request.headers if name.lower() in request.hidden]
        spellings = self._spellings((*sent, *(value for _, value in beside)))
        if spellings is None:
            return outcome
        if outcome.error is not None:  # it may quote what could not be read
            error = replace(outcome.error, detail=_hidden(outcome.error.detail, spellings))
            outcome = replace(outcome, error=error)
        answer = outcome.response
        if answer is not None:
            headers = tuple((_hidden(name, spellings), _hidden(value, spellings)) for name, value in answer.headers)
            body = _hidden(answer.body.decode("utf-8", "surrogateescape"), spellings).encode("utf-8", "surrogateescape")
            outcome = replace(outcome, response=replace(answer, headers=headers, body=body))
        return outcome

    def _spellings(self, sent: tuple[str, ...]) -> _Spellings | None:
        if sent in self._kept:
            self._kept.move_to_end(sent)
            return self._kept[sent]
        spellings = self._kept[sent] = _spellings(sent)
        self._size += _size(sent, spellings)
        while self._size > _MOST_KEPT:
            self._size -= _size(*self._kept.popitem(last=False))
        return spellings


class _Spellings(NamedTuple):
    texts: list[str]  # sorted
    beginning: re.Pattern[str]


def _spellings(sent: tuple[str, ...]) -> _Spellings | None:
    """How what was *sent* may be repeated; None where there is nothing that could be found."""
    found = {value for value in sent if len(value) >= _SHORTEST}
    size = sum(map(len, found))
    for text in islice(_repeatable(sent), _MOST_SPELLINGS):
        more = _spelled(text) - found
        size += sum(map(len, more))
        if len(found) + len(more) > _MOST_SPELLINGS or size > _MOST_CHARACTERS:
            break
        found |= more
    if not found:
        return None
    return _Spellings(sorted(found), re.compile(_any_of(sorted({each[:_BEGINNING] for each in found}))))


def _size(sent: tuple[str, ...], spellings: _Spellings | None) -> int:
    """About how many bytes it takes to keep *spellings* of what was *sent*."""
    texts = [] if spellings is None else spellings.texts
    return sum(map(len, sent)) + sum(map(len, texts)) + 250 * len(texts) + 1000


def _repeatable(sent: tuple[str, ...]) -> Iterator[str]:
    """What was *sent*, the passwords and the words in it; what has the most words, and is rather a text, comes last."""
    for value in sorted(sent, key=lambda value: value.count(" ")):
        yield value
        if value.startswith("Basic "):
            with suppress(ValueError):  # another's scheme of this name
                yield b64decode(value[6:]).decode().partition(":")[2]
        yield from value.split(" ")


def _spelled(text: str) -> set[str]:
    """*text* in all spellings in which it is long enough to be looked for."""
    escaped = orjson.dumps(text).decode()[1:-1]
    found = {
        text,
        text.upper(),
        text.lower(),
        escaped,
        escaped.replace("/", "\\/"),
        escape(text),
        escape(text, quote=False),
    }
    found |= {quote(text), quote(text, safe=""), quote_plus(text)}
    found |= {_as_json(text, escaping, case) for escaping in _ESCAPING for case in ("04x", "04X")}
    return {each for each in found if len(each) >= _SHORTEST}


def _as_json(text: str, escaping: str, case: str) -> str:
    """*text* within a JSON text that has all but ASCII, and the characters *escaping*, as numbers."""
    written = json.dumps(text)[1:-1]
    if not text.isascii():
        written = _ESCAPE.sub(lambda each: f"\\u{int(each[1], 16):{case}}" if each[1] else each[0], written)
    for char in escaping:
        written = written.replace(json.dumps(char)[1:-1], f"\\u{ord(char):{case}}")
    return written


def _any_of(texts: list[str]) -> str:
    """A pattern for the longest of *texts*, which are sorted; it looks at a place of a text once for all that begin alike."""
    if len(texts) == 1:
        return re.escape(texts[0])
    if texts[0] == "":
        return f"(?:{_any_of(texts[1:])})?"
    branches = [re.escape(first) + _any_of([each[1:] for each in alike]) for first, alike in groupby(texts, itemgetter(0))]
    return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"


def _hidden(text: str, spellings: _Spellings) -> str:
    """*text* with `***` in place of each of *spellings*, also where only a long beginning of it is there."""
    parts, at = [], 0
    while found := spellings.beginning.search(text, at):
        place, end = found.span()
        parts += [text[at:place], HIDDEN]
        at = place + _longest(text, place, spellings.texts) if end - place == _BEGINNING else end
    return "".join(parts) + text[at:] if parts else text


def _longest(text: str, at: int, spellings: list[str]) -> int:
    """How many characters of *text* from *at* on are those of a spelling: one of the two between which they would stand."""
    place = bisect_right(spellings, text[at:])
    return max([_agree(text, at, each) for each in spellings[max(0, place - 1) : place + 1]])


def _agree(text: str, at: int, spelling: str) -> int:
    """How many characters of *text* from *at* on are of *spelling*, if its beginning is: doubling, then halving, tells."""
    if not text.startswith(spelling[:_BEGINNING], at):
        return 0
    size = _BEGINNING
    while 2 * size < len(spelling) and text.startswith(spelling[: 2 * size], at):
        size *= 2
    longer = range(size + 1, min(2 * size, len(spelling)) + 1)
    return size + bisect_left(longer, True, key=lambda more: not text.startswith(spelling[:more], at))


def renew(oauth2: OAuth2, token: AccessToken | None, *, now: int) -> Generator[Request, Response | None, AccessToken | None]:
    """
    Yields requests, is sent the answer to each, and returns a new access token in place of *token*; None without an answer.

    The refresh token is tried first; where it is not accepted any more, or nobody answers, the grant is. Raises NoToken.
    """
    if token is not None and token.refresh_token is not None:
        answer = yield _refresh_request(oauth2, token, token.refresh_token)
        with suppress(NoToken):  # it has expired, or is revoked
            if answer is not None:
                return _read(oauth2, answer, token.refresh_token, now=now)
    answer = yield _grant_request(oauth2)
    return None if answer is None else _read(oauth2, answer, None, now=now)


def _grant_request(oauth2: OAuth2) -> Request:
    from oauthlib.oauth2 import BackendApplicationClient, LegacyApplicationClient  # noqa: PLC0415  # 0.1 s, for few

    given: dict[str, Any] = {"scope": list(oauth2.scopes), **_credentials(oauth2)}
    if oauth2.grant == "password":
        client = LegacyApplicationClient(oauth2.client_id)
        body = client.prepare_request_body(oauth2.username or "", oauth2.password or "", **given)
    else:
        body = BackendApplicationClient(oauth2.client_id).prepare_request_body(**given)
    headers = [_basic_of(oauth2)] if oauth2.client_auth == "header" else []
    return _token_request(oauth2.token_url, headers, body)


def _refresh_request(oauth2: OAuth2, token: AccessToken, refresh_token: str) -> Request:
    from oauthlib.oauth2 import Client  # noqa: PLC0415  # as above

    given: dict[str, Any] = _credentials(oauth2)
    if given:
        given["client_id"] = oauth2.client_id  # which only the clients of grants put there by themselves
    body = Client(oauth2.client_id).prepare_refresh_body(refresh_token=refresh_token, **given)
    headers = {"header": [_basic_of(oauth2)], "body": [], "bearer": [_bearer(token)]}[oauth2.client_auth]
    return _token_request(oauth2.refresh_url or oauth2.token_url, headers, body)


def _credentials(oauth2: OAuth2) -> dict[str, Any]:
    """What of the client stands in the body of a request, in oauthlib's words."""
    return {} if oauth2.client_auth == "header" else {"include_client_id": True, "client_secret": oauth2.client_secret}


def _token_request(url: str, headers: Sequence[tuple[str, str]], body: str) -> Request:
    form = ("content-type", "application/x-www-form-urlencoded")
    return Request(
        method="POST",
        url=url,
        headers=(form, ("accept", "application/json"), *headers),
        body=SecretBytes(body.encode("ascii")),
        hidden=frozenset({"authorization"}),
    )


def _read(oauth2: OAuth2, response: Response, refresh_token: Secret | None, *, now: int) -> AccessToken:
    members = _members(response.body)
    asked_with = _spellings(tuple([each for each in (oauth2.client_secret, oauth2.password, refresh_token) if each]))
    names = [*(members or ())][:_MOST_FIELDS]
    if asked_with is not None:
        names = [_hidden(name, asked_with) for name in names]
    answer = TokenAnswer(status_code=response.status, fields=tuple([name[:_LONGEST_FIELD] for name in names]))
    detail, read = _message(oauth2, response, members)
    if detail is None:
        detail = _unusable(read)
    if detail is not None:
        raise NoToken(f"No access token came about: the token server answered {response.status}; {detail}.", answer)
    renewed = read.get("refresh_token")
    if isinstance(renewed, str) and renewed:
        refresh_token = Secret(renewed)  # else the one before stays valid (RFC 6749, section 6)
    lifetime = oauth2.expires_in
    if "expires_in" in read:
        lifetime = read["expires_in"] * 1000
    renew_at = None if lifetime is None else now + lifetime - min(lifetime // 10, _LONGEST_MARGIN)
    return AccessToken(value=Secret(read["access_token"]), refresh_token=refresh_token, renew_at=renew_at)


def _message(oauth2: OAuth2, response: Response, members: dict[str, Any] | None) -> tuple[str | None, dict[str, Any]]:
    """What is wrong with an answer, if anything, and what oauthlib reads in it."""
    if members is None:
        if not 200 <= response.status <= 299:
            return "redirects are not followed" if response.header("location") else "that is a refusal", {}
        return "that is cut short, or too long" if response.truncated else "that is no JSON object", {}
    names = oauth2.fields
    standard = {
        "access_token": members.get(names.access_token),
        "refresh_token": members.get(names.refresh_token),
        "expires_in": _seconds(members.get(names.expires_in)),
        "token_type": members.get("token_type") or "Bearer",  # some leave it out, or empty
        "error": members.get("error") or None,  # some print it empty beside a token
    }
    given = {name: value for name, value in standard.items() if value is not None}
    if not 200 <= response.status <= 299:
        given.setdefault("error", "")
    return _parsed(oauth2.client_id, given)


def _parsed(client_id: str, given: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
    from oauthlib.oauth2 import Client, MissingTokenError, OAuth2Error  # noqa: PLC0415  # as above

    try:
        return None, dict(Client(client_id).parse_request_body_response(orjson.dumps(given).decode()))
    except MissingTokenError:
        return "the access token is missing", {}
    except OAuth2Error as error:
        return _REFUSALS.get(str(error.error), "that is a refusal"), {}


def _unusable(read: dict[str, Any]) -> str | None:
    if not isinstance(read["access_token"], str):
        return "the access token is no text"
    if _TOKEN.fullmatch(read["access_token"]) is None:
        return "the access token cannot stand in a header"
    if str(read.get("token_type", "bearer")).lower() != "bearer":
        return "the access token is of another type than bearer"
    return None


def _members(body: bytes) -> dict[str, Any] | None:
    try:
        members = orjson.loads(bytes(body))  # it takes no SecretBytes
    except orjson.JSONDecodeError:
        return None
    return members if isinstance(members, dict) else None


def _seconds(lifetime: Any) -> int | None:
    """A lifetime, also one that is written as a text; one that is no number above 0 says as little as none."""
    try:
        seconds = int(float(lifetime))
    except (TypeError, ValueError, OverflowError):
        return None
    return min(seconds, _LONGEST_LIFETIME) if seconds > 0 else None


def _bearer(token: AccessToken) -> tuple[str, Secret]:
    return "authorization", Secret(f"Bearer {token.value}")


def _basic_of(oauth2: OAuth2) -> tuple[str, Secret]:
    """The client's id and secret, encoded as in a form before they are joined (RFC 6749, 2.3.1)."""
    # A space as %20, which every decoder reads; + is left alone by some.
    return _basic(quote(oauth2.client_id, safe=""), quote(oauth2.client_secret, safe=""))


def _basic(username: str, password: str) -> tuple[str, Secret]:
    return "authorization", Secret("Basic " + b64encode(f"{username}:{password}".encode()).decode("ascii"))
