"""
How requests prove who sends them, beside the signature: basic (RFC 7617), or a bearer token (RFC 6750) got by OAuth 2.0.

oauthlib writes and reads the messages of RFC 6749. Whoever sends them runs `renew`, which yields requests and takes the
answers to them.
"""

from __future__ import annotations

import re
from base64 import b64encode
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson
from msgspec.structs import replace

from hookengine.concealing import hidden, spellings_of
from hookengine.models import AccessToken, Request, Secret, SecretBytes, TokenAnswer

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from hookengine.models import BasicAuth, OAuth2, Response

# What a request has in the place of its token until it is sent.
UNSET_TOKEN = ("authorization", Secret("Bearer"))

_LONGEST_MARGIN = 30_000  # ms before its end that a token is not used any more: the endpoint has to see it in time
_LONGEST_LIFETIME = 10 * 365 * 86_400  # s
_MOST_FIELDS = 50
_LONGEST_FIELD = 100  # characters

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
    asked_with = spellings_of(tuple([each for each in (oauth2.client_secret, oauth2.password, refresh_token) if each]))
    names = [*(members or ())][:_MOST_FIELDS]
    if asked_with is not None:
        names = [hidden(name, asked_with) for name in names]
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
