"""A real authorization server for a test: authlib's, behind a receiver on loopback; and endpoints that ask it."""

from __future__ import annotations

import base64
from itertools import count
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qsl

import orjson
from authlib.oauth2 import rfc6749, rfc6750  # type: ignore[import-untyped]  # authlib has no types
from authlib.oauth2.rfc6749 import grants  # type: ignore[import-untyped]  # as above
from authlib.oauth2.rfc6749.errors import InvalidGrantError  # type: ignore[import-untyped]  # as above
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload, OAuth2Request  # type: ignore[import-untyped]  # as above
from msgspec import Struct

from hookengine.models import OAuth2, Secret
from hookengine.receiver import Receiver, Reply

if TYPE_CHECKING:
    from types import TracebackType

    from hookengine.receiver import Received, Step

CLIENT_ID = "shop:7 %"
CLIENT_SECRET = "hush-secret +/=&~%"
USERNAME = "ana@example.com"
PASSWORD = "hush-password é&="
SCOPES = ("hooks:write", "profile")
JSON = (("content-type", "application/json"),)


class Issued(Struct):
    """A token as the server remembers it."""

    access_token: str
    refresh_token: str | None
    scope: str
    valid: bool = True
    refreshes: bool = True

    def check_client(self, client: Client) -> bool:
        """There is one client only."""
        return client.get_client_id() == CLIENT_ID

    def get_scope(self) -> str:
        """What it is for."""
        return self.scope


class Client:
    """The one client that the server knows, as authlib asks for it."""

    def get_client_id(self) -> str:
        """Its id."""
        return CLIENT_ID

    def get_allowed_scope(self, scope: str | None) -> str:
        """Of what it asks for, what it gets."""
        return " ".join(each for each in (scope or "").split() if each in SCOPES)

    def check_client_secret(self, secret: str) -> bool:
        """Whether it is this one."""
        return secret == CLIENT_SECRET

    def check_endpoint_auth_method(self, method: str, _endpoint: str) -> bool:
        """It must authenticate, in the header or in the body."""
        return method in {"client_secret_basic", "client_secret_post"}

    def check_grant_type(self, _grant_type: str) -> bool:
        """It may use every grant."""
        return True


METHODS = ["client_secret_basic", "client_secret_post"]


class ByClient(grants.ClientCredentialsGrant):  # type: ignore[misc]  # as above
    """The grant client_credentials."""

    TOKEN_ENDPOINT_AUTH_METHODS = METHODS


class ByPassword(grants.ResourceOwnerPasswordCredentialsGrant):  # type: ignore[misc]  # as above
    """The grant password."""

    TOKEN_ENDPOINT_AUTH_METHODS = METHODS

    def authenticate_user(self, username: str, password: str) -> str:
        """The one user, by the one password."""
        if (username, password) != (USERNAME, PASSWORD):
            raise InvalidGrantError("there is no such user")
        return username


class ByRefreshToken(grants.RefreshTokenGrant):  # type: ignore[misc]  # as above
    """A refresh: each gives a new refresh token, and ends the tokens before."""

    TOKEN_ENDPOINT_AUTH_METHODS = METHODS
    INCLUDE_NEW_REFRESH_TOKEN = True

    def authenticate_refresh_token(self, refresh_token: str) -> Issued | None:
        """Those that were given and not used or revoked."""
        issued: list[Issued] = self.server.issued
        return next((each for each in issued if each.refresh_token == refresh_token and each.refreshes), None)

    def authenticate_user(self, _token: Issued) -> str:
        """There is one."""
        return USERNAME

    def revoke_old_credential(self, token: Issued) -> None:
        """It is used."""
        token.valid = token.refreshes = False


class _Asked(OAuth2Request):  # type: ignore[misc]  # as above
    @property
    def form(self) -> dict[str, str]:
        form: dict[str, str] = self.payload.data
        return form


class TokenServer(rfc6749.AuthorizationServer):  # type: ignore[misc]  # as above
    """
    authlib's server on loopback, for as long as `async with` lasts.

    Tokens are valid until `revoke`, whatever `expires_in` says. *fault* answers in its place while it is set; *refreshing*
    says whether the grant password gives refresh tokens.
    """

    def __init__(self, *, expires_in: int = 3600, refreshing: bool = True) -> None:
        super().__init__(scopes_supported=list(SCOPES))
        self.issued: list[Issued] = []
        self.expires_in = expires_in
        self.fault: Step | None = None
        self._numbers = count(1)
        for grant in (ByClient, ByPassword, ByRefreshToken):
            self.register_grant(grant)
        generator = rfc6750.BearerTokenGenerator(
            access_token_generator=lambda **_: f"hush-access-{next(self._numbers)}",
            refresh_token_generator=(lambda **_: f"hush-refresh-{next(self._numbers)}") if refreshing else None,
            expires_generator=lambda *_: self.expires_in,
        )
        self.register_token_generator("default", generator)
        self._receiver = Receiver(self._answer)

    async def __aenter__(self) -> Self:
        await self._receiver.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._receiver.__aexit__(kind, error, trace)

    @property
    def url(self) -> str:
        """Where tokens are given."""
        return f"{self._receiver.url}/token"

    @property
    def requests(self) -> list[Received]:
        """What arrived."""
        return self._receiver.requests

    @property
    def forms(self) -> list[dict[str, str]]:
        """The forms that arrived."""
        return [form(request) for request in self.requests]

    def revoke(self) -> None:
        """End every token."""
        for each in self.issued:
            each.valid = False

    def revoke_refresh_tokens(self) -> None:
        """End every refresh token."""
        for each in self.issued:
            each.refreshes = False

    def guard(self, request: Received) -> int:
        """The step of an endpoint that wants a valid token of this server's."""
        known = {f"Bearer {each.access_token}" for each in self.issued if each.valid}
        return 204 if request.header("authorization") in known else 401

    def auth(self, **settings: Any) -> dict[str, Any]:
        """The `auth` of a subscription, to send to the API."""
        given = {
            "type": "oauth2",
            "grant": "client_credentials",
            "token_url": self.url,
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
        }
        if settings.get("grant") == "password":
            given |= {"username": USERNAME, "password": PASSWORD}
        return given | settings

    def oauth2(self, **settings: Any) -> OAuth2:
        """The same as a record."""
        given = self.auth(**settings)
        del given["type"]
        secrets: dict[str, Any] = {name: Secret(given[name]) for name in ("client_secret", "password") if name in given}
        return OAuth2(**(given | secrets))

    async def _answer(self, request: Received) -> Reply | int:
        fault = self.fault
        if fault is None:
            answer: Reply = self.create_token_response(request)
            return answer
        if not callable(fault):
            return fault
        step = fault(request)
        return step if isinstance(step, int | Reply) else await step

    # What authlib asks of its host.

    def query_client(self, client_id: str) -> Client | None:
        """The client with this id."""
        return Client() if client_id == CLIENT_ID else None

    def save_token(self, token: dict[str, Any], _request: object) -> None:
        """Remember what was given."""
        self.issued.append(Issued(token["access_token"], token.get("refresh_token"), token.get("scope", "")))

    def create_oauth2_request(self, request: Received) -> OAuth2Request:
        """The request as authlib has it; it would refuse one without TLS."""
        asked = _Asked("POST", "https://server.example/token", headers={"Authorization": request.header("authorization")})
        asked.payload = BasicOAuth2Payload(form(request))
        return asked

    def handle_response(self, status: int, body: dict[str, Any], headers: list[tuple[str, str]]) -> Reply:
        """The answer as the receiver has it."""
        return Reply(status=status, headers=tuple(headers), body=orjson.dumps(body))

    def send_signal(self, *_: object, **__: object) -> None:
        """Nobody listens."""


def form(request: Received) -> dict[str, str]:
    """The form that a request carries."""
    assert request.header("content-type") == "application/x-www-form-urlencoded"
    return dict(parse_qsl(request.body.decode("ascii"), keep_blank_values=True, strict_parsing=True))


def basic_credentials(request: Received) -> str:
    """What a request's Basic header holds."""
    scheme, _, credentials = (request.header("authorization") or "").partition(" ")
    assert scheme == "Basic"
    return base64.b64decode(credentials).decode()
