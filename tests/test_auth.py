"""Basic authentication as RFC 7617 writes it."""

from __future__ import annotations

import pytest

from hookengine.auth import basic
from hookengine.models import BasicAuth, Secret


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
