"""What to do about an attempt that failed, in words for whoever keeps the endpoint or this machine."""

from __future__ import annotations

from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_HOST = "Is the endpoint's host up, and does its firewall let this machine in?"
_SERVER = "The endpoint's server cut it off: its log, or that of the proxy before it, says why."
_CERTIFICATE = "The endpoint's certificate is to be renewed or replaced, with all certificates of its chain."
_HTTP = "What answers there does not speak HTTP as it should: is it the right port?"
_MACHINE = "The fault is on this machine: no attempt was spent, and it goes on by itself once that is mended."

# By error code.
REMEDIES = {
    "timeout_connect": _HOST,
    "timeout_send": "The endpoint reads too slowly: is its server overloaded?",
    "timeout_response": "It takes too long: let it answer first and work afterwards, or give it a longer --timeout.",
    "connect_refused": "Nothing listens there: is the endpoint's server running, and on this port?",
    "reset": _SERVER,
    "disconnected": _SERVER,
    "dns_nxdomain": "The host name does not exist: is the URL right, and was its domain renewed?",
    "dns_temporary": "The name server gave no answer: does this machine resolve other names?",
    "dns_no_address": "The host name exists but has no address: its DNS entry lacks an A or AAAA record.",
    "tls_expired": _CERTIFICATE,
    "tls_not_yet_valid": "The endpoint's certificate is not valid yet: is this machine's clock right?",
    "tls_hostname": "The endpoint's certificate is for another host name: is the URL's host right?",
    "tls_untrusted": _CERTIFICATE,
    "tls_protocol": "There is no TLS there, or a version that is too old: is it the right port?",
    "blocked_address": "The host leads to a private address. security.allow_networks opens networks that may be called.",
    "self_connection": "The URL leads back to this server.",
    "invalid_url": "The daemon may not call the URL: start it with --dev or [security] allow_http and allow_networks, "
    "or give another with `hookengine subscription edit ID --endpoint URL`.",
    "auth_failed": "No access token was to be had: are the client id, the secret and the token URL right?",
    "proxy_error": "The proxy in security.proxy refused or gave no answer.",
    "http_status": "The endpoint refused it: its log says why.",
    "redirect_not_followed": "Redirects are not followed: subscribe the URL that it leads to.",
    "malformed_response": _HTTP,
    "response_header_too_large": _HTTP,
    "too_many_informational": _HTTP,
    "local_network": _MACHINE,
    "local_resources": _MACHINE,
    "internal_error": "The request cannot be made, or hookengine has a fault: of that the log has more, please report it.",
}

# By status code, more closely than `http_status`.
_STATUSES = {
    400: "The endpoint does not understand the request: does it expect another profile?",
    401: "The endpoint wants other credentials, has another secret than `hookengine subscription secret ID` shows, "
    "or verifies the body after it has parsed it (docs/receiving.md).",
    403: "The endpoint forbids it: does it verify with another secret, or does a firewall before it block this machine?",
    404: "The endpoint's host has nothing at this path: is the URL right?",
    405: "The endpoint does not take this method at this path: is the URL right?",
    410: "The endpoint said that it is gone for good.",
    413: "The endpoint does not take requests of this size.",
    429: "The endpoint gets more than it can take: let fewer come at a time with --max-concurrency.",
}


# Of a URL that is refused when it is saved, to whoever has the daemon on this machine.
ALLOWANCE = (
    "The daemon's operator may allow it: [security] allow_http and allow_networks, or for a try `hookengine serve --dev`."
)


def is_allowable(url: str) -> bool:
    """Whether *url* may be called where the operator allows http and private networks."""
    # Imported here, since few verbs need it, and those only when they fail.
    from hookengine.netguard import Policy, UrlRefused, vet_url  # noqa: PLC0415

    try:
        vet_url(url, Policy(allow_http=True, allow_networks=(ip_network("0.0.0.0/0"), ip_network("::/0"))))
    except UrlRefused:
        return False
    return True


def remedy(attempt: Mapping[str, Any]) -> str:
    """What to do about *attempt*, an Attempt of the API that failed."""
    status, error = attempt.get("status_code"), attempt.get("error") or {}
    if error.get("code") == "http_status" and status in _STATUSES:
        return _STATUSES[status]
    return REMEDIES.get(error.get("code", ""), "")
