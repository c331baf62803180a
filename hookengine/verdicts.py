"""What became of a request: what an answer means, and what an error is called, in a code and a sentence."""

from __future__ import annotations

import errno
import re
import ssl
import traceback
from pathlib import PurePath
from typing import TYPE_CHECKING

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError

from hookengine.exchange import Phase
from hookengine.message import Unsendable
from hookengine.models import Accepted, AttemptError, ErrorCode, Refused
from hookengine.netguard import AddressBlocked, UrlRefused
from hookengine.resolver import WAITING, LookupFailed
from hookengine.wire import HeadTooLarge, TooManyInformational

if TYPE_CHECKING:
    from hookengine.models import Response, Rules

_PREVIEW = 100  # characters of what could not be parsed

# How aiohttp's parser begins the message of an error about a size.
_OVERSIZE = ("Got more than", "Too many headers")

REFUSALS = frozenset({
    ErrorCode.HTTP_STATUS,
    ErrorCode.REDIRECT_NOT_FOLLOWED,
    ErrorCode.MALFORMED_RESPONSE,
    ErrorCode.RESPONSE_HEADER_TOO_LARGE,
    ErrorCode.TOO_MANY_INFORMATIONAL,
})  # fmt: skip

_TIMEOUTS = {
    Phase.CONNECT: ErrorCode.TIMEOUT_CONNECT,
    Phase.SEND: ErrorCode.TIMEOUT_SEND,
    Phase.ANSWER: ErrorCode.TIMEOUT_RESPONSE,
}

# Surely this machine's. What a firewall or a router says of one destination (EACCES, EPERM, EHOSTUNREACH) is not: one URL
# could then hold up everybody's deliveries.
_LOCAL_ERRNOS = {
    errno.EMFILE: ErrorCode.LOCAL_RESOURCES,
    errno.ENFILE: ErrorCode.LOCAL_RESOURCES,
    errno.ENOBUFS: ErrorCode.LOCAL_RESOURCES,
    errno.ENOMEM: ErrorCode.LOCAL_RESOURCES,
    errno.EADDRNOTAVAIL: ErrorCode.LOCAL_RESOURCES,  # all ports are taken, towards this address: see `lacks_ports`
    errno.ENETUNREACH: ErrorCode.LOCAL_NETWORK,
    errno.ENETDOWN: ErrorCode.LOCAL_NETWORK,
}
OURS = frozenset(_LOCAL_ERRNOS.values())
_ERRNOS = {
    errno.ECONNRESET: ErrorCode.RESET,
    errno.ECONNABORTED: ErrorCode.RESET,
    errno.EPIPE: ErrorCode.DISCONNECTED,
    errno.ENOTCONN: ErrorCode.DISCONNECTED,
    errno.ESHUTDOWN: ErrorCode.DISCONNECTED,
    **_LOCAL_ERRNOS,
}
# How aiohappyeyeballs tells of several addresses that failed in different ways.
_ERRNO_IN_TEXT = re.compile(r"\[Errno (\d+)\]")

# X509_V_ERR_* of OpenSSL; all others are about whom to trust.
_VERIFY_CODES = {
    9: ErrorCode.TLS_NOT_YET_VALID,
    10: ErrorCode.TLS_EXPIRED,
    62: ErrorCode.TLS_HOSTNAME,
    64: ErrorCode.TLS_HOSTNAME,  # an address in place of a name
}

# The first match counts. From the fourth on they are never raised on our way, but belong to aiohttp's family.
_KINDS: tuple[tuple[type[Exception], ErrorCode], ...] = (
    (TooManyInformational, ErrorCode.TOO_MANY_INFORMATIONAL),
    (HeadTooLarge, ErrorCode.RESPONSE_HEADER_TOO_LARGE),
    (MemoryError, ErrorCode.LOCAL_RESOURCES),
    (aiohttp.ServerFingerprintMismatch, ErrorCode.TLS_UNTRUSTED),
    (aiohttp.ClientHttpProxyError, ErrorCode.PROXY_ERROR),
    (aiohttp.TooManyRedirects, ErrorCode.REDIRECT_NOT_FOLLOWED),
    (aiohttp.RedirectClientError, ErrorCode.REDIRECT_NOT_FOLLOWED),
    (aiohttp.ClientResponseError, ErrorCode.MALFORMED_RESPONSE),
    (aiohttp.ClientPayloadError, ErrorCode.MALFORMED_RESPONSE),
    (aiohttp.InvalidURL, ErrorCode.INVALID_URL),
    (aiohttp.NonHttpUrlClientError, ErrorCode.INVALID_URL),
    (aiohttp.ClientError, ErrorCode.DISCONNECTED),
    (Exception, ErrorCode.INTERNAL_ERROR),
)

SENTENCES = {
    ErrorCode.TIMEOUT_CONNECT: "No connection to {host} came about in time.",
    ErrorCode.TIMEOUT_SEND: "{host} did not take the whole request in time.",
    ErrorCode.TIMEOUT_RESPONSE: "{host} did not answer in time.",
    ErrorCode.CONNECT_REFUSED: "{host} refuses connections or is out of reach.",
    ErrorCode.RESET: "{host} reset the connection before it answered.",
    ErrorCode.DISCONNECTED: "{host} closed the connection before it answered.",
    ErrorCode.TLS_EXPIRED: "The certificate of {host} has expired.",
    ErrorCode.TLS_NOT_YET_VALID: "The certificate of {host} is not valid yet.",
    ErrorCode.TLS_HOSTNAME: "The certificate of {host} is made out to another name.",
    ErrorCode.TLS_UNTRUSTED: "The certificate of {host} is not trusted.",
    ErrorCode.TLS_PROTOCOL: "No TLS connection with {host} came about.",
    ErrorCode.PROXY_ERROR: "The proxy did not let the request through.",
    ErrorCode.DNS_TEMPORARY: "{host} could not be looked up now.",
    ErrorCode.INVALID_URL: "The URL cannot be called.",
    ErrorCode.REDIRECT_NOT_FOLLOWED: "{host} redirects, which is not followed.",
    ErrorCode.MALFORMED_RESPONSE: "The answer cannot be read as HTTP/1.1.",
    ErrorCode.RESPONSE_HEADER_TOO_LARGE: "The answer has a header over 8190 bytes, more than 128 of them, or no end of them.",
    ErrorCode.TOO_MANY_INFORMATIONAL: "More than 8 interim (1xx) responses came before the answer.",
    ErrorCode.LOCAL_NETWORK: "This machine has no network, or no name server that answers.",
    ErrorCode.LOCAL_RESOURCES: "This machine is short of file descriptors, ports or memory.",
}
# aiohttp's parser takes what follows an answer for the next one.
_SURPLUS = "(or more came than the answer announced: a body on 204, a Content-Length too small)"
_UNPRINTABLE = re.compile(r"[^ -~]")
_HINTS = {
    "WRONG_VERSION_NUMBER": "it seems to speak plain HTTP on this port",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "it demands a client certificate",
    "UNSUPPORTED_PROTOCOL": "it offers nothing newer than TLS 1.1",
    "TLSV1_ALERT_PROTOCOL_VERSION": "it offers nothing newer than TLS 1.1",
}


def verdict(response: Response, rules: Rules) -> Accepted | Refused:
    """What an answer means: its status decides alone (Standard Webhooks 1.0.0, delivery)."""
    status = response.status
    if 200 <= status <= 599 and rules.succeeds(status):
        return Accepted(response=response)
    code, detail = ErrorCode.HTTP_STATUS, f"The endpoint answered {status}."
    if 300 <= status <= 399 and response.header("location"):
        code, detail = ErrorCode.REDIRECT_NOT_FOLLOWED, f"The endpoint answered {status}; redirects are not followed."
    return Refused(error=AttemptError(code=code, detail=detail), response=response)


def error_code(error: Exception, phase: Phase, *, tls: bool) -> ErrorCode:
    """What *error*, in an attempt that had come to *phase*, is called."""
    if isinstance(error, UrlRefused | AddressBlocked | LookupFailed):
        return error.error
    cause = _cause(error)
    match cause:
        case ssl.SSLCertVerificationError():
            code = _VERIFY_CODES.get(getattr(cause, "verify_code", 0), ErrorCode.TLS_UNTRUSTED)
        case ssl.SSLError():
            code = ErrorCode.TLS_PROTOCOL
        case HttpProcessingError():
            oversize = cause.message.startswith(_OVERSIZE)
            code = ErrorCode.RESPONSE_HEADER_TOO_LARGE if oversize else ErrorCode.MALFORMED_RESPONSE
        case TimeoutError():
            waited_for_lookup = WAITING in getattr(cause.__cause__, "__notes__", ())
            code = ErrorCode.DNS_TEMPORARY if waited_for_lookup else _TIMEOUTS[phase]
        case aiohttp.ClientProxyConnectionError():
            code = ErrorCode.PROXY_ERROR
        case aiohttp.ClientConnectorDNSError():
            code = ErrorCode.DNS_TEMPORARY
        case OSError():
            code = _errno_code(cause, phase, tls=tls)
        case _:
            code = next(code for kind, code in _KINDS if isinstance(cause, kind))
    return code


def lacks_ports(error: Exception) -> bool:
    """
    Whether this machine has no port left towards an address, for one to another is no matter of ports towards the first.

    Linux says so also of all addresses of IPv6, where that is switched off.
    """
    cause = _cause(error)
    return isinstance(cause, OSError) and errno.EADDRNOTAVAIL in _numbers(cause)


def sentence(code: ErrorCode, error: Exception, host: str) -> str:
    """A sentence for users; it never holds an address that a name stands for, nor a value of ours."""
    cause = _cause(error)
    match cause:
        case UrlRefused():
            return cause.detail
        case AddressBlocked() | LookupFailed() if code is cause.error:
            return f"{host}: {cause.detail}"
        case Unsendable():
            return f"The request cannot be sent: {cause}"
        case ssl.SSLCertVerificationError() if code is ErrorCode.TLS_UNTRUSTED:
            reason = getattr(cause, "verify_message", "")
        case ssl.SSLError() if code is ErrorCode.TLS_PROTOCOL:
            known = getattr(cause, "reason", None) or "the handshake failed"  # set by OpenSSL's own errors only
            reason = _HINTS.get(known, known.lower().replace("_", " "))
        case HttpProcessingError() if code is ErrorCode.MALFORMED_RESPONSE:
            reason = _UNPRINTABLE.sub("?", " ".join(cause.message.split())[:_PREVIEW].removesuffix(" ^"))
            if "Expected HTTP/" in reason:
                reason += f" {_SURPLUS}"
        case _:
            reason = ""
    if code is ErrorCode.INTERNAL_ERROR:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} in {PurePath(frame.filename).name}, line {frame.lineno}"
    said = SENTENCES[code].format(host=host)
    return f"{said.removesuffix('.')}: {reason}." if reason else said


def _errno_code(error: OSError, phase: Phase, *, tls: bool) -> ErrorCode:
    connecting = phase is Phase.CONNECT
    unknown = ErrorCode.CONNECT_REFUSED if connecting else ErrorCode.RESET
    numbers = _numbers(error)
    if isinstance(error, ConnectionResetError | ConnectionAbortedError):
        numbers = [errno.ECONNRESET]  # asyncio raises them without a number
    codes = [_TIMEOUTS[phase] if number == errno.ETIMEDOUT else _ERRNOS.get(number, unknown) for number in numbers]
    # Of several addresses one that was tried says more than one that this machine has no way to.
    code = next((code for code in codes if code not in OURS), codes[0] if codes else unknown)
    # Before a connection stands nothing but TLS exchanges bytes that could be cut off.
    lost = code in {ErrorCode.RESET, ErrorCode.DISCONNECTED}
    return ErrorCode.TLS_PROTOCOL if tls and connecting and lost else code


def _numbers(error: OSError) -> list[int]:
    """Its errno; of several addresses those of all."""
    return [error.errno] if error.errno else [int(number) for number in _ERRNO_IN_TEXT.findall(str(error))]


def _cause(error: Exception) -> Exception:
    """What aiohttp wrapped because it happened on the way to a connection."""
    kept = aiohttp.ClientConnectorDNSError | aiohttp.ClientProxyConnectionError
    return error.os_error if isinstance(error, aiohttp.ClientConnectorError) and not isinstance(error, kept) else error
