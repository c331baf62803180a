"""
Which URLs and addresses may be called, and the socket factory that holds every dial to it.

There are two gates. `vet_url` judges the text when a subscription is saved and before every attempt; `admit` judges an
address, for the resolver's answers and, in the socket factory, at the moment of the connect. A host that is a name passes
the first gate on its spelling alone and always meets the second.
"""

from __future__ import annotations

import re
import socket
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING

from msgspec import Struct
from yarl import URL

from hookengine.errors import HookEngineError
from hookengine.models import ErrorCode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aiohttp import AddrInfoType

_Address = IPv4Address | IPv6Address
_Network = IPv4Network | IPv6Network

LONGEST_URL = 2048  # characters
_LONGEST_NAME = 253  # characters without the closing dot: RFC 1035, 2.3.4, less the length octets

_SENTENCES = {
    "non_ascii_url": "The URL has characters outside ASCII: write the host in its xn-- form and percent-encode the rest.",
    "too_long": f"The URL is longer than {LONGEST_URL} characters.",
    "control_or_space_or_backslash": "The URL has a space, a control character or a backslash: percent-encode it.",
    "scheme": "The URL must start with https://, or with http:// where the operator allows it.",
    "no_host": "The URL names no host.",
    "userinfo": "The URL has a user name or password before its host: give them as `auth`.",
    "fragment": "The URL has a fragment, which is never sent: leave out the # and what follows.",
    "parse": "The URL cannot be parsed: its host or port is malformed.",
    "port": "The URL's port is one that may not be called.",
    "zone_id": "The URL's IPv6 address has a zone, which means something on one machine only.",
    "hostname_syntax": "The URL's host is not a host name: labels of letters, digits, - and _, up to 63 characters each.",
    "legacy_ipv4_literal": "The URL's host is an IPv4 address in an old form: write four plain decimal numbers.",
    "noncanonical_ipv4": "The URL's host is an IPv4 address with a closing dot: leave the dot out.",
    "numeric_tld": "The URL's host ends in a number but is not an IPv4 address.",
    "single_label": "The URL's host has no dot, so it is a name of a private network: give the full name.",
    "reserved_name": "The URL's host is under a name that is reserved for private networks.",
    "self_connection": "The URL leads back to this server.",
}
_ADDRESS_SENTENCE = "The URL's address is not a public one."


class UrlRefused(HookEngineError):
    """
    The URL must not be called.

    `reason` is stable. `error` is what an attempt reports: invalid_url, or blocked_address and self_connection where the
    host is an address.
    """

    code = "url_refused"

    def __init__(self, reason: str, error: ErrorCode = ErrorCode.INVALID_URL) -> None:
        super().__init__(_SENTENCES.get(reason.partition(":")[0], _ADDRESS_SENTENCE))
        self.reason = reason
        self.error = error


class AddressBlocked(HookEngineError):
    """
    The address must not be called.

    Not an OSError, which aiohttp would take for one failed address among several and go on to the next. The text is constant:
    it must not tell what a name resolves to inside this network.
    """

    code = "address_blocked"
    error = ErrorCode.BLOCKED_ADDRESS


class SelfConnection(AddressBlocked):
    """The address is this server's own."""

    error = ErrorCode.SELF_CONNECTION


class Policy(Struct, frozen=True, kw_only=True, gc=False):
    """
    What the operator allows, and where this server listens.

    `own_addresses` are the addresses that the listener is bound to, never names; one of 0.0.0.0 or :: stands for all of
    this machine's.
    """

    allow_http: bool = False
    allow_networks: tuple[_Network, ...] = ()
    allow_ports: frozenset[int] = frozenset()  # empty: all but those that browsers refuse
    own_addresses: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        for host, _ in self.own_addresses:
            ip_address(host)  # a ValueError here is better than one at every dial


class _Block(Struct, frozen=True, gc=False):
    network: _Network
    source: str
    reason: str
    opens: bool  # whether `allow_networks` can open it


def _special(network: str, source: str, *, opens: bool = True) -> _Block:
    return _Block(ip_network(network), source, f"special:{network}", opens)


def _metadata(network: str, source: str) -> _Block:
    return _Block(ip_network(network), source, "cloud_metadata", opens=False)


# What may not be called, in the order of the reasons given. "IANA" are the special-purpose registries of RFC 6890, taken
# whole: also their few reachable blocks are relays and anycast services, not receivers. `ipaddress` knows most of them, but
# `is_global` is no guard: it passes multicast and ::127.0.0.1, and its verdicts differ between Python versions. IPv6 outside
# 2000::/3 is refused without being listed; such rows are here because they do not open.
_BLOCKS = (
    _special("0.0.0.0/8", "IANA, RFC 791: this network; Linux connects to itself", opens=False),
    _special("10.0.0.0/8", "IANA, RFC 1918: private use"),
    _special("100.64.0.0/10", "IANA, RFC 6598: shared address space"),
    _special("127.0.0.0/8", "IANA, RFC 1122: loopback"),
    _special("169.254.0.0/16", "IANA, RFC 3927: link local, and most clouds' metadata", opens=False),
    _special("172.16.0.0/12", "IANA, RFC 1918: private use"),
    _special("192.0.0.0/24", "IANA, RFC 6890: protocol assignments"),
    _special("192.0.2.0/24", "IANA, RFC 5737: documentation"),
    _special("192.31.196.0/24", "IANA, RFC 7535: AS112"),
    _special("192.52.193.0/24", "IANA, RFC 7450: automatic multicast tunneling"),
    _special("192.88.99.0/24", "IANA, RFC 7526: 6to4 relays, deprecated"),
    _special("192.168.0.0/16", "IANA, RFC 1918: private use"),
    _special("192.175.48.0/24", "IANA, RFC 7534: AS112"),
    _special("198.18.0.0/15", "IANA, RFC 2544: benchmarking"),
    _special("198.51.100.0/24", "IANA, RFC 5737: documentation"),
    _special("203.0.113.0/24", "IANA, RFC 5737: documentation"),
    _special("224.0.0.0/4", "RFC 5771: multicast"),
    _special("240.0.0.0/4", "IANA, RFC 1112: reserved, with the broadcast address"),
    _special("::/128", "IANA, RFC 4291: unspecified; Linux connects to itself", opens=False),
    _special("64:ff9b:1::/48", "IANA, RFC 8215: local NAT64; where it holds the IPv4 address is not known", opens=False),
    _special("2001::/23", "IANA, RFC 2928: protocol assignments, with Teredo"),
    _special("2001:db8::/32", "IANA, RFC 3849: documentation"),
    _special("2002::/16", "IANA, RFC 3056: 6to4"),
    _special("2620:4f:8000::/48", "IANA, RFC 7534: AS112"),
    _special("3fff::/20", "IANA, RFC 9637: documentation"),
    _special("fe80::/10", "IANA, RFC 4291: link local", opens=False),
    _metadata("100.100.100.200/32", "Alibaba Cloud"),
    _metadata("168.63.129.16/32", "Azure's wire server, in public space"),
    _metadata("192.0.0.192/32", "Oracle Cloud"),
    _metadata("fd00:42::42/128", "Scaleway"),
    _metadata("fd00:100::100:200/128", "Alibaba Cloud"),
    _metadata("fd00:a9fe:a9fe::1/128", "Akamai (Linode)"),
    _metadata("fd00:c1::a9fe:a9fe/128", "Oracle Cloud"),
    _metadata("fd00:ec2::23/128", "AWS: EKS pod identity"),
    _metadata("fd00:ec2::254/128", "AWS: instance metadata"),
    _metadata("fd20:ce::254/128", "Google Cloud"),
)
_GLOBAL_UNICAST = IPv6Network("2000::/3")  # RFC 4291, 2.4, and all that IANA has given out
_IPV6_LOOPBACK = IPv6Address("::1")

# Where an IPv6 address holds an IPv4 address: how far right it stands, and whether its bits are turned.
_WRAPPINGS = (
    (IPv6Network("::/96"), 0, False),  # IPv4-compatible: RFC 4291, 2.5.5.1
    (IPv6Network("::ffff:0:0/96"), 0, False),  # IPv4-mapped: RFC 4291, 2.5.5.2
    (IPv6Network("::ffff:0:0:0/96"), 0, False),  # IPv4-translated (SIIT): RFC 2765, 2.1
    (IPv6Network("64:ff9b::/96"), 0, False),  # NAT64: RFC 6052, 2.1
    (IPv6Network("2002::/16"), 80, False),  # 6to4: RFC 3056, 2
    (IPv6Network("2001::/32"), 64, False),  # Teredo, the server: RFC 4380, 4
    (IPv6Network("2001::/32"), 0, True),  # Teredo, the client
)
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)  # the upper half of the interface identifier: RFC 5214, 6.1

# The Fetch standard's "bad ports" (https://fetch.spec.whatwg.org/#port-blocking), and 0.
_BAD_PORTS = frozenset({
    0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104, 109, 110, 111,
    113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515, 526, 530, 531, 532, 540, 548,
    554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665,
    6666, 6667, 6668, 6669, 6679, 6697, 10080,
})  # fmt: skip

# Names that mean something inside a network only. RFC 6761 asks software to treat `example` and `test` like any other name.
_RESERVED_NAMES = (
    "alt",  # RFC 9476
    "home.arpa",  # RFC 8375
    "internal",  # reserved by ICANN's board in 2024
    "invalid",  # RFC 6761, 6.4
    "local",  # RFC 6762
    "localhost",  # RFC 6761, 6.3
    "onion",  # RFC 7686
    *("corp", "home", "intranet", "lan", "localdomain", "private"),  # in wide use: RFC 6762, appendix G, and hosts files
)

_SHAPE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(?://([^/?]*))?")
_UNSAFE = re.compile(r"[\x00-\x20\x7f\\]")
_AUTHORITY = re.compile(r"(?:\[[^\[\]]*:[^\[\]]*\]|[^:\[\]]*)(?::[0-9]*)?")
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")  # what the URL standard and inet_aton(3) take for a part of an IPv4 address


def vet_url(url: str, policy: Policy) -> URL:
    """
    *url* as the object to dial, with nothing in it rewritten.

    Raises UrlRefused. A host that is a name has yet to resolve to addresses that `admit` lets pass. With `allow_networks`
    private names are wanted, so names are not judged by what they are reserved for.
    """
    if not url.isascii():
        raise UrlRefused("non_ascii_url")
    if len(url) > LONGEST_URL:
        raise UrlRefused("too_long")
    if _UNSAFE.search(url):
        raise UrlRefused("control_or_space_or_backslash")
    shape = _SHAPE.match(url)
    if shape is None or shape[1].lower() not in (("https", "http") if policy.allow_http else ("https",)):
        raise UrlRefused("scheme")
    # Parsers differ in whether a # ends the authority, so an @ behind one counts as well.
    if "@" in (shape[2] or ""):
        raise UrlRefused("userinfo")
    if "#" in url:
        raise UrlRefused("fragment")
    parsed, host, port = _parse(url)
    if port not in policy.allow_ports if policy.allow_ports else port in _BAD_PORTS:
        raise UrlRefused("port")
    literal = _literal(host)
    if literal is None:
        _vet_name(host, policy)
    elif _leads_back(literal, port, policy):
        raise UrlRefused("self_connection", ErrorCode.SELF_CONNECTION)
    elif reason := _refusal(literal, policy):
        raise UrlRefused(reason, ErrorCode.BLOCKED_ADDRESS)
    return parsed


def never_opened(network: _Network) -> str | None:
    """The network that keeps all of *network* closed, whatever `allow_networks` says, and why; None where none does."""
    for block in _BLOCKS:
        around = block.network
        if not block.opens and network.network_address in around and network.prefixlen >= around.prefixlen:
            return f"{around} ({block.source})"
    return None


def admit(address: str, port: int, policy: Policy) -> None:
    """Raise AddressBlocked, or SelfConnection, unless *address* may be dialled at *port*."""
    try:
        parsed = _read(address)
    except ValueError:
        raise AddressBlocked from None
    if _leads_back(parsed, port, policy):
        raise SelfConnection
    if _refusal(parsed, policy):
        raise AddressBlocked


def socket_factory(policy: Policy) -> Callable[[AddrInfoType], socket.socket]:
    """
    What TCPConnector calls for every dial, also of an address that was written into the URL or cached.

    The sockets are what aiohttp makes itself. With several addresses and happy eyeballs on, aiohappyeyeballs swallows what a
    factory raises and goes on: nothing forbidden is dialled, but the error is lost. So a resolver must admit answers whole.
    """

    def make_socket(addr_info: AddrInfoType) -> socket.socket:
        family, kind, protocol, _, peer = addr_info
        # str, because ip_address takes integers and bytes for addresses too.
        admit(str(peer[0]), peer[1], policy)
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made

    return make_socket


def _parse(url: str) -> tuple[URL, str, int]:
    """What will be dialled, as read by yarl, which aiohttp dials from; *url* is known to be ASCII with an http scheme."""
    try:
        parsed = URL(url, encoded=True)
        host, port, shown = parsed.raw_host, parsed.port, parsed.host
    except UnicodeError:
        # `URL.host` decodes xn-- labels; whoever reads it later must not meet one that cannot be.
        raise UrlRefused("hostname_syntax") from None
    except ValueError:
        raise UrlRefused("parse:ValueError") from None
    if host is None or port is None or shown is None:
        raise UrlRefused("no_host")
    # yarl reads a port with int(), which takes "+443" and "4_43".
    if not _AUTHORITY.fullmatch(parsed.raw_authority):
        raise UrlRefused("parse:ValueError")
    return parsed, host, port


def _literal(host: str) -> _Address | None:
    """The address that *host* is, or None if it is to be looked up; raises UrlRefused for what is neither."""
    if ":" in host:
        if "%" in host:
            raise UrlRefused("zone_id")
        try:
            return IPv6Address(host)
        except ValueError:
            raise UrlRefused("parse:ValueError") from None
    name = host.lower().removesuffix(".")
    parts = name.split(".")
    if not _NUMBER.fullmatch(parts[-1]):
        return None
    # From here on libc, other parsers and we may disagree about what address it is, unless it is written the one plain way.
    if len(parts) > 4 or not all(map(_NUMBER.fullmatch, parts)):  # an IPv4 address has four parts
        raise UrlRefused("numeric_tld")
    try:
        address = IPv4Address(name)
    except ValueError:
        raise UrlRefused("legacy_ipv4_literal") from None
    if host != name:
        raise UrlRefused("noncanonical_ipv4")
    return address


def _vet_name(host: str, policy: Policy) -> None:
    name = host.lower().removesuffix(".")
    if len(name) > _LONGEST_NAME or not _NAME.fullmatch(name):
        raise UrlRefused("hostname_syntax")
    if policy.allow_networks:
        return
    if "." not in name:
        raise UrlRefused("single_label")
    for reserved in _RESERVED_NAMES:
        if name == reserved or name.endswith(f".{reserved}"):
            raise UrlRefused(f"reserved_name:{reserved}")


def _read(address: str) -> _Address:
    if "%" in address:
        # The zone would make it another address than the one in `own_addresses`; only link-local ones need it.
        raise ValueError(address)
    return ip_address(address)


@lru_cache(maxsize=1024)  # it is asked before and at every dial, of which it would be a tenth
def _refusal(address: _Address, policy: Policy) -> str | None:
    """Why *address* may not be dialled; an IPv6 address that wraps a forbidden IPv4 address is never opened."""
    reason = _default_refusal(address)
    if reason is None or (
        any(address in network for network in policy.allow_networks)
        and all(block.opens for block in _BLOCKS if address in block.network)
        and all(_refusal(wrapped, policy) is None for wrapped in _wrapped(address))
    ):
        return None
    return reason


def _default_refusal(address: _Address) -> str | None:
    if isinstance(address, IPv6Address):
        if address not in _GLOBAL_UNICAST:
            return "not_global_unicast_v6"
        if _is_isatap(address):
            return "isatap"
    return next((block.reason for block in _BLOCKS if address in block.network), None)


def _wrapped(address: _Address) -> Iterator[IPv4Address]:
    if isinstance(address, IPv4Address) or address == _IPV6_LOOPBACK:
        return
    bits = int(address)
    for network, shift, turned in _WRAPPINGS:
        if address in network:
            yield IPv4Address((bits >> shift ^ (0xFFFF_FFFF if turned else 0)) & 0xFFFF_FFFF)
    if _is_isatap(address):
        yield IPv4Address(bits & 0xFFFF_FFFF)


def _is_isatap(address: IPv6Address) -> bool:
    return int(address) >> 32 & 0xFFFF_FFFF in _ISATAP


def _leads_back(address: _Address, port: int, policy: Policy) -> bool:
    """Whether *address* at *port* is our own listener, also when it is wrapped."""
    listening = [ip_address(host) for host, own_port in policy.own_addresses if own_port == port]
    if not listening:
        return False
    names = (address, *_wrapped(address))
    return any(name in listening for name in names) or (
        any(own.is_unspecified for own in listening) and any(map(_is_of_this_machine, names))
    )


def _is_of_this_machine(address: _Address) -> bool:
    """Only an address of this machine can be bound; that sends nothing, and needs no list of interfaces."""
    family = socket.AF_INET if isinstance(address, IPv4Address) else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True
