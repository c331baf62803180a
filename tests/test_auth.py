"""Basic authentication as RFC 7617 writes it, and the messages of OAuth 2.0 as RFC 6749 does."""

from __future__ import annotations

import traceback
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import orjson
import pytest

from hookengine.auth import UNSET_TOKEN, NoToken, basic, bearing, renew
from hookengine.models import (
    AccessToken,
    BasicAuth,
    OAuth2,
    Request,
    Response,
    Secret,
    TokenFields,
)

if TYPE_CHECKING:
    from collections.abc import Generator

NOW = 1_700_000_000_000
TOKEN = AccessToken(value=Secret("hush-access"), refresh_token=Secret("hush-refresh"), renew_at=NOW)
GRANTED = {"access_token": "2YotnFZFEjr1zCsicMWpAA", "token_type": "Bearer", "expires_in": 3600}


def oauth2(**settings: Any) -> OAuth2:
    """How tokens are got."""
    given: dict[str, Any] = {
        "grant": "client_credentials",
        "token_url": "https://auth.example/token",
        "client_id": "s6BhdRkqt3",
        "client_secret": Secret("gX1fBat3bV"),
    }
    if settings.get("grant") == "password":
        given |= {"username": "johndoe", "password": Secret("A3ddj3w")}
    return OAuth2(**(given | settings))


def answer(body: Any, status: int = 200, *headers: tuple[str, str], truncated: bool = False) -> Response:
    """What a token server answers."""
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    return Response(status=status, headers=headers, body=content, truncated=truncated)


def asked(request: Request) -> tuple[str, str | None, dict[str, str]]:
    """Where a request goes, the credentials in its head, and its form."""
    headers = dict(request.headers)
    assert ("POST", "application/x-www-form-urlencoded", "application/json") == (
        request.method,
        headers["content-type"],
        headers["accept"],
    )
    form = parse_qsl(request.body.decode("ascii"), keep_blank_values=True, strict_parsing=True)
    return request.url, headers.get("authorization"), dict(form)


def given(steps: Generator[Request, Response | None, AccessToken | None], *answers: Response | None) -> AccessToken:
    """The token that comes of *answers*, when each is asked for."""
    next(steps)
    for each in answers[:-1]:
        steps.send(each)
    with pytest.raises(StopIteration) as end:
        steps.send(answers[-1])
    token: AccessToken = end.value.value
    return token


def refusal(body: Any, status: int = 200, *headers: tuple[str, str], **settings: Any) -> NoToken:
    """Why such an answer gives no token."""
    steps = renew(oauth2(**settings), None, now=NOW)
    next(steps)
    with pytest.raises(NoToken) as refused:
        steps.send(answer(body, status, *headers))
    return refused.value


@pytest.mark.parametrize(
    ("username", "password", "credentials"),
    [
        pytest.param("Aladdin", "open sesame", "QWxhZGRpbjpvcGVuIHNlc2FtZQ==", id="RFC 7617, 2"),
        pytest.param("test", "123£", "dGVzdDoxMjPCow==", id="RFC 7617, 2.1: UTF-8"),
        pytest.param("", "", "Og==", id="both empty"),
        pytest.param("api", "a:b", "YXBpOmE6Yg==", id="colon in the password"),
    ],
)
def test_basic_is_as_in_the_rfc(username: str, password: str, credentials: str) -> None:
    """User name and password become the header of the RFC's own examples."""
    header = basic(BasicAuth(username=username, password=Secret(password)))

    assert ("authorization", f"Basic {credentials}") == header


def test_long_credentials_stay_in_one_line() -> None:
    """Base64 is not folded, which would end the header."""
    _, value = basic(BasicAuth(username="u", password=Secret("p" * 500)))

    assert "\n" not in value


def test_header_does_not_show_itself() -> None:
    """The credentials, which anybody can decode, are absent from the repr."""
    assert "('authorization', '***')" == repr(basic(BasicAuth(username="u", password=Secret("p"))))


RFC_BASIC = "Basic czZCaGRSa3F0MzpnWDFmQmF0M2JW"  # of RFC 6749, 4.4.2
IN_BODY = {"client_id": "s6BhdRkqt3", "client_secret": "gX1fBat3bV"}


@pytest.mark.parametrize(
    ("settings", "header", "form"),
    [
        pytest.param({}, RFC_BASIC, {"grant_type": "client_credentials"}, id="RFC 6749, 4.4.2"),
        pytest.param(
            {"grant": "password"},
            RFC_BASIC,
            {"grant_type": "password", "username": "johndoe", "password": "A3ddj3w"},
            id="RFC 6749, 4.3.2",
        ),
        pytest.param({"client_auth": "body"}, None, {"grant_type": "client_credentials", **IN_BODY}, id="body"),
        pytest.param({"client_auth": "bearer"}, None, {"grant_type": "client_credentials", **IN_BODY}, id="bearer"),
        pytest.param(
            {"grant": "password", "client_auth": "body", "password": Secret("ä&= +"), "scopes": ("a:b", "c")},
            None,
            {"grant_type": "password", "username": "johndoe", "password": "ä&= +", "scope": "a:b c", **IN_BODY},
            id="password, body, scopes",
        ),
    ],
)
def test_request_for_a_token(settings: dict[str, Any], header: str | None, form: dict[str, str]) -> None:
    """Without a refresh token the grant is used, as the RFC's own examples do it."""
    request = next(renew(oauth2(**settings), None, now=NOW))

    assert ("https://auth.example/token", header, form) == asked(request)


def test_id_and_secret_are_encoded_before_they_are_joined() -> None:
    """A colon in the client's id, and what a form's decoder would change, arrive as they are (RFC 6749, 2.3.1)."""
    request = next(renew(oauth2(client_id="a:b", client_secret=Secret("c+d %/é")), None, now=NOW))

    assert basic(BasicAuth(username="a%3Ab", password=Secret("c%2Bd%20%25%2F%C3%A9"))) in request.headers


@pytest.mark.parametrize(
    ("settings", "header", "form"),
    [
        pytest.param({"client_auth": "header"}, RFC_BASIC, {}, id="header"),
        pytest.param({"client_auth": "body"}, None, IN_BODY, id="body"),
        pytest.param({"client_auth": "bearer"}, "Bearer hush-access", IN_BODY, id="bearer"),
    ],
)
@pytest.mark.parametrize("grant", ["client_credentials", "password"])
def test_request_for_a_refresh(grant: str, settings: dict[str, Any], header: str | None, form: dict[str, str]) -> None:
    """A refresh token is used first, at its own URL, and asks for no scope anew (RFC 6749, section 6)."""
    how = oauth2(grant=grant, refresh_url="https://auth.example/refresh", scopes=("a",), **settings)
    request = next(renew(how, TOKEN, now=NOW))

    expected = {"grant_type": "refresh_token", "refresh_token": "hush-refresh"} | form
    assert ("https://auth.example/refresh", header, expected) == asked(request)


def test_refresh_goes_to_the_token_url_where_there_is_no_other() -> None:
    """Without a URL of its own, a refresh is asked for where tokens are."""
    request = next(renew(oauth2(), TOKEN, now=NOW))

    assert "https://auth.example/token" == request.url


def test_refresh_without_an_answer_falls_back_to_the_grant() -> None:
    """Where nobody answers to a refresh token the grant is tried; without an answer to that, there is no token."""
    assert GRANTED["access_token"] == given(renew(oauth2(), TOKEN, now=NOW), None, answer(GRANTED)).value

    steps = renew(oauth2(), TOKEN, now=NOW)
    next(steps)
    steps.send(None)
    with pytest.raises(StopIteration) as end:
        steps.send(None)
    assert end.value.value is None


@pytest.mark.parametrize(
    "refused",
    [
        pytest.param(answer({"error": "invalid_grant"}, 400), id="as the RFC says"),
        pytest.param(answer(b"<html>", 500), id="as some do"),
        pytest.param(answer({}), id="without a token"),
    ],
)
def test_refused_refresh_falls_back_to_the_grant(refused: Response) -> None:
    """Whatever is answered to a refresh token that is no token, the grant is tried."""
    steps = renew(oauth2(grant="password"), TOKEN, now=NOW)
    next(steps)
    request = steps.send(refused)

    assert "password" == asked(request)[2]["grant_type"]
    assert GRANTED["access_token"] == given(renew(oauth2(), TOKEN, now=NOW), refused, answer(GRANTED)).value


@pytest.mark.parametrize(
    ("renewed", "kept"),
    [
        pytest.param({"refresh_token": "next"}, "next", id="a new one"),
        pytest.param({}, "hush-refresh", id="none: the one before is still valid"),
        pytest.param({"refresh_token": ""}, "hush-refresh", id="empty"),
        pytest.param({"refresh_token": None}, "hush-refresh", id="null"),
    ],
)
def test_refresh_token_is_replaced_where_there_is_a_new_one(renewed: dict[str, Any], kept: str) -> None:
    """A refresh may give a new refresh token, and need not (RFC 6749, section 6)."""
    token = given(renew(oauth2(), TOKEN, now=NOW), answer(GRANTED | renewed))

    assert kept == token.refresh_token


def test_grant_does_not_keep_the_refused_refresh_token() -> None:
    """After the grant there is the refresh token that it gave, or none."""
    token = given(renew(oauth2(), TOKEN, now=NOW), answer({}, 400), answer(GRANTED))

    assert token.refresh_token is None


@pytest.mark.parametrize(
    ("expires_in", "fixed", "after"),
    [
        pytest.param(3600, None, 3_570_000, id="30 s before its end"),
        pytest.param("3600", None, 3_570_000, id="a text"),
        pytest.param(3600.0, None, 3_570_000, id="a fraction"),
        pytest.param("3600.5", None, 3_570_000, id="a fraction as a text"),
        pytest.param("1e999", 600_000, 570_000, id="beyond all numbers"),
        pytest.param("nan", 600_000, 570_000, id="none of the numbers"),
        pytest.param(0, 600_000, 570_000, id="nothing: as if nobody said"),
        pytest.param(10, None, 9_000, id="a short one: a tenth before"),
        pytest.param(10, 600_000, 9_000, id="the answer goes before the setting"),
        pytest.param(None, 600_000, 570_000, id="the setting"),
        pytest.param("soon", 600_000, 570_000, id="no number, and the setting"),
        pytest.param(None, None, None, id="nobody says"),
        pytest.param("soon", None, None, id="no number"),
        pytest.param([1], None, None, id="no number either"),
        pytest.param(1e300, None, 10 * 365 * 86_400_000 - 30_000, id="for ever"),
        pytest.param(-5, 600_000, 570_000, id="before it began: as if nobody said"),
    ],
)
def test_token_is_renewed_shortly_before_it_expires(expires_in: Any, fixed: int | None, after: int | None) -> None:
    """The answer says how long a token is valid, or the setting does; it is used no longer than that."""
    token = given(renew(oauth2(expires_in=fixed), None, now=NOW), answer(GRANTED | {"expires_in": expires_in}))

    assert after == (None if token.renew_at is None else token.renew_at - NOW)


def test_fields_may_have_other_names() -> None:
    """Token, refresh token and expiry are read from the members that are named."""
    fields = TokenFields(access_token="jwt", refresh_token="next", expires_in="ttl")
    told = {"jwt": "a", "next": "b", "ttl": 100, "access_token": "no", "refresh_token": "no", "expires_in": 9}
    token = given(renew(oauth2(fields=fields), None, now=NOW), answer(told))

    assert AccessToken(value=Secret("a"), refresh_token=Secret("b"), renew_at=NOW + 90_000) == token


@pytest.mark.parametrize(
    "told",
    [
        pytest.param({"access_token": "a"}, id="without a type"),
        pytest.param({"access_token": "a", "token_type": "bearer"}, id="in small letters"),
        pytest.param({"access_token": "a", "token_type": "BEARER", "scope": "other"}, id="with another scope"),
        pytest.param({"access_token": "a", "token_type": "", "error": ""}, id="with empty ones"),
        pytest.param({"access_token": "a", "token_type": None, "error": False}, id="with void ones"),
        pytest.param({"access_token": "a", "error": None, "expires_at": "x", "more": {"b": [1]}}, id="with more"),
    ],
)
def test_lenient_where_it_does_no_harm(told: dict[str, Any]) -> None:
    """What servers leave out or add is no mistake of the user's."""
    assert "a" == given(renew(oauth2(), None, now=NOW), answer(told, 201)).value


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        pytest.param({"error": "invalid_client"}, 401, "client's id and secret", id="invalid_client"),
        pytest.param({"error": "invalid_grant"}, 400, "user name and the password", id="invalid_grant"),
        pytest.param({"error": "invalid_scope"}, 400, "scopes", id="invalid_scope"),
        pytest.param({"error": "unauthorized_client"}, 400, "this client", id="unauthorized_client"),
        pytest.param({"error": "unsupported_grant_type"}, 400, "this grant", id="unsupported_grant_type"),
        pytest.param({"error": "invalid_client"}, 200, "client's id and secret", id="an error with 200"),
        pytest.param({"error": "hush"}, 400, "that is a refusal", id="an error of its own"),
        pytest.param({"error": {"hush": 1}}, 400, "that is a refusal", id="an error that is no text"),
        pytest.param(GRANTED, 500, "that is a refusal", id="a token with 500"),
        pytest.param(b"hush", 503, "that is a refusal", id="503"),
        pytest.param(b"hush", 200, "no JSON object", id="no JSON"),
        pytest.param(b"access_token=hush&token_type=bearer", 200, "no JSON object", id="a form"),
        pytest.param(b"\xff", 200, "no JSON object", id="no UTF-8"),
        pytest.param(b"[" * 16_000, 200, "no JSON object", id="deep"),
        pytest.param(["hush"], 200, "no JSON object", id="an array"),
        pytest.param({"token": "hush"}, 200, "the access token is missing", id="no token"),
        pytest.param({"access_token": None}, 200, "the access token is missing", id="null"),
        pytest.param({"access_token": ["hush"]}, 200, "no text", id="a list"),
        pytest.param({"access_token": ""}, 200, "cannot stand in a header", id="empty"),
        pytest.param({"access_token": "hush\r\nx: y"}, 200, "cannot stand in a header", id="two lines"),
        pytest.param({"access_token": "hush\u00e9"}, 200, "cannot stand in a header", id="beyond ASCII"),
        pytest.param({"access_token": "h" * 12_001}, 200, "cannot stand in a header", id="long"),
        pytest.param({"access_token": "hush", "token_type": "mac"}, 200, "another type than bearer", id="mac"),
        pytest.param({"access_token": "hush", "token_type": 7}, 200, "another type than bearer", id="no type"),
    ],
)
def test_what_gives_no_token(body: Any, status: int, sentence: str) -> None:
    """Each is told in words of ours; of the answer there are the status and the names of its members, and no value."""
    refused = refusal(body, status)

    assert sentence in str(refused)
    assert str(refused).startswith(f"No access token came about: the token server answered {status}; ")
    assert (status, tuple(body) if isinstance(body, dict) else ()) == (refused.answer.status_code, refused.answer.fields)
    assert "hush" not in f"{refused!r}{refused.answer}{''.join(traceback.format_exception(refused))}"


def test_redirect_and_cut_answer() -> None:
    """A redirect is told as such, and so is an answer that was too long to be read."""
    steps = renew(oauth2(), None, now=NOW)
    next(steps)
    with pytest.raises(NoToken, match="answered 200; that is cut short, or too long"):
        steps.send(answer(b'{"access_token": "a', truncated=True))

    assert "answered 307; redirects are not followed" in str(refusal(b"", 307, ("Location", "https://x.example/")))


def test_names_of_members_are_bounded() -> None:
    """An answer of many members, or of long ones, does not become a long error."""
    fields = refusal({f"{'x' * 500}{n}": n for n in range(60)}).answer.fields

    assert (50, 100) == (len(fields), max(map(len, fields)))


def test_request_with_a_token() -> None:
    """The token takes the place that was kept for it, and the request asks for no other."""
    built = Request(method="POST", url="https://x.example/", headers=(("a", "b"), UNSET_TOKEN), body=b"{}")
    request = bearing(built, TOKEN, timeout=70)

    assert ((("a", "b"), ("authorization", "Bearer hush-access")), 70, None) == (
        request.headers,
        request.timeout,
        request.authorization,
    )


@pytest.mark.parametrize("client_auth", ["header", "body", "bearer"])
@pytest.mark.parametrize("token", [pytest.param(None, id="grant"), pytest.param(TOKEN, id="refresh")])
def test_nothing_shows_itself(token: AccessToken | None, client_auth: str) -> None:
    """No secret is in the repr of a request for a token, of how it is got, or of the token."""
    how = oauth2(grant="password", client_auth=client_auth)
    request = next(renew(how, token, now=NOW))
    shown = f"{request!r} {how!r} {given(renew(how, token, now=NOW), answer(GRANTED))!r} {TOKEN!r}"

    for secret in ("gX1fBat3bV", "A3ddj3w", "hush", "czZCaGRSa3", GRANTED["access_token"]):
        assert str(secret) not in shown
    assert frozenset({"authorization"}) == request.hidden
