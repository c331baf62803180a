"""What answers and errors mean, each by itself."""

from __future__ import annotations

import errno
import inspect
import ssl

import aiohttp
import pytest
from aiohttp import client_exceptions, http_exceptions
from aiohttp.client_reqrep import ConnectionKey, RequestInfo
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from hookengine.exchange import Phase
from hookengine.models import Accepted, ErrorCode, Refused, Response, Rules
from hookengine.netguard import AddressBlocked, SelfConnection, UrlRefused
from hookengine.resolver import LookupFailed
from hookengine.verdicts import error_code, sentence, verdict
from hookengine.wire import HeadTooLarge, TooManyInformational

KEY = ConnectionKey("hooks.acme.example", 443, True, True, None, None, None)
INFO = RequestInfo(URL("https://hooks.acme.example/"), "POST", CIMultiDictProxy(CIMultiDict()), URL())


def answer(status: int, *headers: tuple[str, str]) -> Response:
    """An answer without a body."""
    return Response(status=status, headers=headers, body=b"", truncated=False)


@pytest.mark.parametrize(
    ("status", "headers", "code"),
    [
        pytest.param(200, (), None, id="200"),
        pytest.param(299, (), None, id="299"),
        pytest.param(199, (), ErrorCode.HTTP_STATUS, id="199"),
        pytest.param(101, (), ErrorCode.HTTP_STATUS, id="101"),
        pytest.param(302, (("LOCATION", "/"),), ErrorCode.REDIRECT_NOT_FOLLOWED, id="302"),
        pytest.param(308, (("location", ""),), ErrorCode.REDIRECT_NOT_FOLLOWED, id="308"),
        pytest.param(302, (), ErrorCode.HTTP_STATUS, id="302 to nowhere"),
        pytest.param(201, (("location", "/new"),), None, id="201 with Location"),
        pytest.param(410, (("location", "/"),), ErrorCode.HTTP_STATUS, id="410 with Location"),
        pytest.param(500, (), ErrorCode.HTTP_STATUS, id="500"),
        pytest.param(0, (), ErrorCode.HTTP_STATUS, id="0"),
    ],
)
def test_verdict(status: int, headers: tuple[tuple[str, str], ...], code: ErrorCode | None) -> None:
    """The status decides; a redirect is one that names a place."""
    outcome = verdict(answer(status, *headers), Rules())

    assert code is (outcome.error.code if isinstance(outcome, Refused) else None)
    assert outcome.response is not None
    assert status == outcome.response.status


@pytest.mark.parametrize(
    ("success", "status", "accepted"),
    [
        pytest.param(frozenset({200}), 204, False, id="204 is not 200"),
        pytest.param(frozenset({410}), 410, True, id="410 by rule"),
        pytest.param(frozenset({302}), 302, True, id="redirect by rule"),
        pytest.param(frozenset({101, 600}), 101, False, id="101 whatever the rule"),
        pytest.param(frozenset({101, 600}), 600, False, id="600 whatever the rule"),
    ],
)
def test_verdict_follows_the_rule(success: frozenset[int], status: int, accepted: bool) -> None:
    """The success rule decides among the statuses that HTTP knows."""
    outcome = verdict(answer(status, ("location", "/")), Rules(success=success))

    assert accepted is isinstance(outcome, Accepted)


def refused_certificate(verify_code: int) -> ssl.SSLCertVerificationError:
    """What ssl raises for a certificate."""
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = verify_code, "self-signed certificate"
    return error


def connecting(error: OSError) -> aiohttp.ClientConnectorError:
    """How aiohttp wraps what happens on the way to a connection."""
    return aiohttp.ClientConnectorError(KEY, error)


DISCONNECTED, MALFORMED = ErrorCode.DISCONNECTED, ErrorCode.MALFORMED_RESPONSE
REDIRECTED, UNTRUSTED = ErrorCode.REDIRECT_NOT_FOLLOWED, ErrorCode.TLS_UNTRUSTED

# One of each that aiohttp can raise, in the phase of the connect.
AIOHTTP: dict[type[Exception], tuple[Exception, ErrorCode]] = {
    type(error): (error, code)
    for error, code in (
        (aiohttp.ClientError(), DISCONNECTED),
        (aiohttp.ClientConnectionError("Connector is closed."), DISCONNECTED),
        (aiohttp.ClientConnectionResetError("Cannot write to closing transport"), ErrorCode.RESET),
        (aiohttp.ClientOSError(errno.ECONNRESET, "reset"), ErrorCode.RESET),
        (connecting(OSError(errno.ECONNREFUSED, "refused")), ErrorCode.CONNECT_REFUSED),
        (aiohttp.ClientConnectorDNSError(KEY, OSError(None, "no answer")), ErrorCode.DNS_TEMPORARY),
        (aiohttp.ClientProxyConnectionError(KEY, OSError(errno.ECONNREFUSED, "refused")), ErrorCode.PROXY_ERROR),
        (
            client_exceptions.UnixClientConnectorError("/x", KEY, OSError(errno.ECONNREFUSED, "refused")),
            ErrorCode.CONNECT_REFUSED,
        ),
        (aiohttp.ClientSSLError(KEY, ssl.SSLError(1, "alert")), ErrorCode.TLS_PROTOCOL),
        (aiohttp.ClientConnectorSSLError(KEY, ssl.SSLError(1, "alert")), ErrorCode.TLS_PROTOCOL),
        (aiohttp.ClientConnectorCertificateError(KEY, refused_certificate(10)), ErrorCode.TLS_EXPIRED),
        (aiohttp.ServerFingerprintMismatch(b"a", b"b", "h", 1), UNTRUSTED),
        (aiohttp.ServerConnectionError(), DISCONNECTED),
        (aiohttp.ServerDisconnectedError(), DISCONNECTED),
        (aiohttp.ServerTimeoutError(), ErrorCode.TIMEOUT_CONNECT),
        (aiohttp.ConnectionTimeoutError(), ErrorCode.TIMEOUT_CONNECT),
        (aiohttp.SocketTimeoutError(), ErrorCode.TIMEOUT_CONNECT),
        (aiohttp.ClientPayloadError(), MALFORMED),
        (aiohttp.UploadAbortedError(), DISCONNECTED),
        (aiohttp.InvalidURL("x"), ErrorCode.INVALID_URL),
        (aiohttp.InvalidUrlClientError("x"), ErrorCode.INVALID_URL),
        (aiohttp.NonHttpUrlClientError("x"), ErrorCode.INVALID_URL),
        (aiohttp.RedirectClientError("x"), REDIRECTED),
        (aiohttp.InvalidUrlRedirectClientError("x"), REDIRECTED),
        (aiohttp.NonHttpUrlRedirectClientError("x"), REDIRECTED),
        (aiohttp.TooManyRedirects(INFO, ()), REDIRECTED),
        (aiohttp.ClientResponseError(INFO, (), status=400), MALFORMED),
        (aiohttp.ContentTypeError(INFO, ()), MALFORMED),
        (aiohttp.WSServerHandshakeError(INFO, ()), MALFORMED),
        (aiohttp.ClientHttpProxyError(INFO, ()), ErrorCode.PROXY_ERROR),
        (http_exceptions.HttpProcessingError(), MALFORMED),
        (http_exceptions.BadHttpMessage("x"), MALFORMED),
        (http_exceptions.HttpBadRequest("x"), MALFORMED),
        (http_exceptions.PayloadEncodingError("x"), MALFORMED),
        (http_exceptions.ContentEncodingError("x"), MALFORMED),
        (http_exceptions.TransferEncodingError("x"), MALFORMED),
        (http_exceptions.ContentLengthError("x"), MALFORMED),
        (http_exceptions.DecompressSizeError("x"), MALFORMED),
        (http_exceptions.LineTooLong(b"x", 8190), ErrorCode.RESPONSE_HEADER_TOO_LARGE),
        (http_exceptions.InvalidHeader("x"), MALFORMED),
        (http_exceptions.BadStatusLine("x"), MALFORMED),
        (http_exceptions.BadHttpMethod("x"), MALFORMED),
        (http_exceptions.InvalidURLError("x"), MALFORMED),
    )
}
AIOHTTP_CLASSES: set[type[Exception]] = {
    found
    for module in (client_exceptions, http_exceptions)
    for _, found in inspect.getmembers(module, inspect.isclass)
    if issubclass(found, aiohttp.ClientError | http_exceptions.HttpProcessingError)
}


@pytest.mark.parametrize("kind", sorted(AIOHTTP_CLASSES, key=str), ids=lambda kind: kind.__name__)
def test_exception_of_aiohttp(kind: type[Exception]) -> None:
    """Each exception that aiohttp's client knows has a code of its own choosing, none falls through."""
    error, code = AIOHTTP[kind]

    assert code is error_code(error, Phase.CONNECT, tls=False)
    assert sentence(code, error, "hooks.acme.example").endswith(".")


PHASES = list(Phase)
WAITING = [ErrorCode.TIMEOUT_CONNECT, ErrorCode.TIMEOUT_SEND, ErrorCode.TIMEOUT_RESPONSE]
SEVERAL = "Multiple exceptions: [Errno {}] Connect call failed ('2001:db8::1', 443, 0, 0), [Errno {}] Connect call failed"


@pytest.mark.parametrize(
    ("error", "codes"),
    [
        pytest.param(TimeoutError(), WAITING, id="timeout"),
        pytest.param(aiohttp.ClientOSError(errno.ETIMEDOUT, "x"), WAITING, id="kernel's timeout"),
        pytest.param(connecting(OSError(errno.ETIMEDOUT, "x")), WAITING, id="kernel's timeout, connecting"),
        pytest.param(UrlRefused("scheme"), [ErrorCode.INVALID_URL] * 3, id="URL"),
        pytest.param(UrlRefused("x", ErrorCode.BLOCKED_ADDRESS), [ErrorCode.BLOCKED_ADDRESS] * 3, id="URL with address"),
        pytest.param(AddressBlocked(), [ErrorCode.BLOCKED_ADDRESS] * 3, id="address"),
        pytest.param(SelfConnection(), [ErrorCode.SELF_CONNECTION] * 3, id="ourselves"),
        pytest.param(LookupFailed(ErrorCode.DNS_NXDOMAIN), [ErrorCode.DNS_NXDOMAIN] * 3, id="lookup"),
        pytest.param(TooManyInformational(), [ErrorCode.TOO_MANY_INFORMATIONAL] * 3, id="1xx"),
        pytest.param(HeadTooLarge(), [ErrorCode.RESPONSE_HEADER_TOO_LARGE] * 3, id="head"),
        pytest.param(refused_certificate(9), [ErrorCode.TLS_NOT_YET_VALID] * 3, id="not yet valid"),
        pytest.param(refused_certificate(64), [ErrorCode.TLS_HOSTNAME] * 3, id="address mismatch"),
        pytest.param(refused_certificate(18), [UNTRUSTED] * 3, id="self-signed"),
        pytest.param(ssl.SSLEOFError(8, "EOF"), [ErrorCode.TLS_PROTOCOL] * 3, id="EOF in TLS"),
        *(
            pytest.param(connecting(OSError(number, "x")), [code] * 3, id=errno.errorcode[number])
            for number, code in {
                errno.EMFILE: ErrorCode.LOCAL_RESOURCES,
                errno.ENFILE: ErrorCode.LOCAL_RESOURCES,
                errno.ENOBUFS: ErrorCode.LOCAL_RESOURCES,
                errno.ENOMEM: ErrorCode.LOCAL_RESOURCES,
                errno.EADDRNOTAVAIL: ErrorCode.LOCAL_RESOURCES,
                errno.ENETUNREACH: ErrorCode.LOCAL_NETWORK,
                errno.ENETDOWN: ErrorCode.LOCAL_NETWORK,
                errno.EPIPE: ErrorCode.DISCONNECTED,
            }.items()
        ),
        *(
            pytest.param(
                connecting(OSError(number, "x")),
                [ErrorCode.CONNECT_REFUSED, *[ErrorCode.RESET] * 2],
                id=errno.errorcode[number],
            )
            for number in (errno.EHOSTUNREACH, errno.EACCES, errno.EPERM, errno.EAFNOSUPPORT)
        ),
        pytest.param(OSError("odd"), [ErrorCode.CONNECT_REFUSED, ErrorCode.RESET, ErrorCode.RESET], id="no number"),
        pytest.param(
            connecting(OSError(SEVERAL.format(errno.ENETUNREACH, errno.ECONNREFUSED))),
            [ErrorCode.CONNECT_REFUSED, ErrorCode.RESET, ErrorCode.RESET],
            id="one address out of reach, one refused",
        ),
        pytest.param(
            connecting(OSError(SEVERAL.format(errno.ENETUNREACH, errno.ENETDOWN))),
            [ErrorCode.LOCAL_NETWORK] * 3,
            id="all addresses out of reach",
        ),
        pytest.param(MemoryError(), [ErrorCode.LOCAL_RESOURCES] * 3, id="memory"),
        pytest.param(ValueError(), [ErrorCode.INTERNAL_ERROR] * 3, id="ValueError"),
        pytest.param(RecursionError(), [ErrorCode.INTERNAL_ERROR] * 3, id="RecursionError"),
    ],
)
def test_error_code(error: Exception, codes: list[ErrorCode]) -> None:
    """An exception has one name in each phase."""
    assert codes == [error_code(error, phase, tls=False) for phase in PHASES]


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(connecting(ConnectionResetError()), id="FIN"),
        pytest.param(connecting(OSError(errno.ECONNRESET, "x")), id="RST"),
        pytest.param(connecting(ConnectionAbortedError()), id="given up"),
        pytest.param(connecting(BrokenPipeError(errno.EPIPE, "x")), id="while writing"),
    ],
)
def test_connection_lost_in_handshake(error: Exception) -> None:
    """What breaks before a request is on its way broke in TLS, if there is TLS."""
    assert ErrorCode.TLS_PROTOCOL is error_code(error, Phase.CONNECT, tls=True)
    assert error_code(error, Phase.CONNECT, tls=False) in {ErrorCode.RESET, DISCONNECTED}
    assert error_code(error, Phase.ANSWER, tls=True) in {ErrorCode.RESET, DISCONNECTED}
