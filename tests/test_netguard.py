"""Tests of hookengine.netguard; no test here can connect to anything but loopback, even if the guard were broken."""

from __future__ import annotations

import asyncio
import errno
import random
import socket
import struct
from functools import partial
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from hypothesis import example, given, settings
from hypothesis import strategies as st
from yarl import URL

from hookengine.models import ErrorCode
from hookengine.netguard import (
    AddressBlocked,
    Policy,
    SelfConnection,
    UrlRefused,
    admit,
    never_opened,
    socket_factory,
    vet_url,
)
from hookengine.resolver import LookupFailed, Resolver

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import AddrInfoType

STRICT = Policy()
PLAIN = Policy(allow_http=True)

PUBLIC = "1.1.1.1"
ALSO_PUBLIC = "2606:4700:4700::1111"


def opening(*networks: str, **more: Any) -> Policy:
    """A policy with these networks allowed."""
    return Policy(allow_http=True, allow_networks=tuple(map(ip_network, networks)), **more)


def reason_for(url: str, policy: Policy) -> str | None:
    """Why *url* is refused, None where it is not."""
    try:
        vet_url(url, policy)
    except UrlRefused as refused:
        return refused.reason
    return None


# The registries, as far as they are not one range with its neighbour, written down apart from the module under test.
REGISTRY_V4 = """
    0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 192.31.196.0/24
    192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 192.175.48.0/24 198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 240.0.0.0/4
    224.0.0.0/4 168.63.129.16/32
"""
REGISTRY_V6 = "2001::/23 2001:db8::/32 2002::/16 2620:4f:8000::/48 3fff::/20"


def first_and_last(cidr: str, bits: int) -> tuple[int, int]:
    """The range of a block, reckoned from its text without ipaddress's networks."""
    text, _, length = cidr.partition("/")
    packed = socket.inet_pton(socket.AF_INET if bits == 32 else socket.AF_INET6, text)
    first = int.from_bytes(packed, "big")
    return first, first + 2 ** (bits - int(length)) - 1


FORBIDDEN_V4 = [first_and_last(cidr, 32) for cidr in REGISTRY_V4.split()]
FORBIDDEN_V6 = [
    (0, (0x2000 << 112) - 1),
    (0x4000 << 112, 2**128 - 1),
    *(first_and_last(cidr, 128) for cidr in REGISTRY_V6.split()),
]
EDGES_V4 = [edge for first, last in FORBIDDEN_V4 for edge in (first - 1, first, last, last + 1) if 0 <= edge < 2**32]
EDGES_V6 = [edge for first, last in FORBIDDEN_V6 for edge in (first - 1, first, last, last + 1) if 0 <= edge < 2**128]


def is_refused(address: str, policy: Policy) -> bool:
    """Whether *address* may not be dialled."""
    try:
        admit(address, 443, policy)
    except AddressBlocked:
        return True
    return False


def forbidden(bits: int, ranges: list[tuple[int, int]]) -> bool:
    """Whether the independent table refuses the address with these bits."""
    return any(first <= bits <= last for first, last in ranges)


def isatap(bits: int) -> bool:
    """Whether the interface identifier is one of ISATAP's."""
    return bits.to_bytes(16, "big")[9:12] == b"\x00\x5e\xfe" and bits.to_bytes(16, "big")[8] in (0, 2)


WRAPPINGS: dict[str, Callable[[int], int]] = {
    "mapped": lambda v4: 0xFFFF << 32 | v4,
    "compatible": lambda v4: v4,
    "siit": lambda v4: 0xFFFF << 48 | v4,
    "isatap_local": lambda v4: 0x5EFE << 32 | v4,
    "isatap_link": lambda v4: 0xFE80 << 112 | 0x5EFE << 32 | v4,
    "isatap_global": lambda v4: 0x2606_4700 << 96 | 0x5EFE << 32 | v4,
    "isatap_unique": lambda v4: 0x2606_4700 << 96 | 0x0200_5EFE << 32 | v4,
    "nat64": lambda v4: 0x0064_FF9B << 96 | v4,
    "nat64_local": lambda v4: 0x0064_FF9B_0001 << 80 | v4,
    "nat64_local_48": lambda v4: 0x0064_FF9B_0001 << 80 | (v4 >> 16) << 64 | (v4 & 0xFFFF) << 40,
    "6to4": lambda v4: 0x2002 << 112 | v4 << 80 | 1,
    "teredo_client": lambda v4: 0x2001 << 112 | 0x0808_0808 << 64 | (v4 ^ 0xFFFF_FFFF),
    "teredo_server": lambda v4: 0x2001 << 112 | v4 << 64 | (0x0808_0808 ^ 0xFFFF_FFFF),
}
METADATA = [
    "169.254.169.254",
    "169.254.170.2",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "fe80::a9fe:a9fe",
    "fd00:42::42",
    "fd00:100::100:200",
    "fd00:a9fe:a9fe::1",
    "fd00:c1::a9fe:a9fe",
    "fd00:ec2::23",
    "fd00:ec2::254",
    "fd20:ce::254",
]


class OfflineLoop(asyncio.SelectorEventLoop):
    """An event loop whose connects are written down and refused: no test can send a packet, whatever the guard does."""

    def __init__(self) -> None:
        super().__init__()
        self.dials: list[str] = []

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:  # noqa: ARG002  # the loop's signature
        """Refuse *address*."""
        self.dials.append(address[0])
        raise ConnectionRefusedError(errno.ECONNREFUSED, "refused by the test")


class Unguarded(AbstractResolver):
    """A resolver that lies: it answers what it is told to, and judges nothing."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET) -> list[ResolveResult]:
        """All addresses, as given."""
        self.asked.append(host)
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in self.addresses
        ]

    async def close(self) -> None:
        """Nothing to close."""


def entries(*addresses: str) -> list[tuple[int, int, int, str, tuple[Any, ...]]]:
    """What getaddrinfo returns for a name with these addresses."""
    return [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, 0, 0, 0))
        if ":" in address
        else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0))
        for address in addresses
    ]


def guarded(policy: Policy, *addresses: str) -> Resolver:
    """Our resolver, over a DNS in which every name has these addresses."""
    return Resolver(partial(admit, policy=policy), lookup=lambda *_, **__: entries(*addresses))


def ended_with(
    url: str, resolver: AbstractResolver, policy: Policy, *, requests: int = 1, **options: Any
) -> tuple[list[Exception], list[str]]:
    """How requests over a guarded connector end, and which addresses they tried to connect to."""

    async def scenario() -> list[Exception]:
        connector = aiohttp.TCPConnector(resolver=resolver, socket_factory=socket_factory(policy), **options)
        failures = []
        async with aiohttp.ClientSession(connector=connector) as session:
            for _ in range(requests):
                try:
                    await session.post(vet_url(url, policy), allow_redirects=False)
                except Exception as error:  # noqa: BLE001  # which one is what the tests ask
                    failures.append(error)
        await resolver.close()
        return failures

    loop = OfflineLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(scenario()), loop.dials


# The matrix: row ids are those of the security research; a reason of None lets the URL pass.
ROWS = [
    pytest.param("http://127.0.0.1/", "special:127.0.0.0/8", id="S001"),
    pytest.param("http://127.1/", "legacy_ipv4_literal", id="S002"),
    pytest.param("http://127.0.1/", "legacy_ipv4_literal", id="S003"),
    pytest.param("http://2130706433/", "legacy_ipv4_literal", id="S004"),
    pytest.param("http://0x7f000001/", "legacy_ipv4_literal", id="S005"),
    pytest.param("http://0x7f.0.0.1/", "legacy_ipv4_literal", id="S006"),
    pytest.param("http://0177.0.0.1/", "legacy_ipv4_literal", id="S007"),
    pytest.param("http://017700000001/", "legacy_ipv4_literal", id="S008"),
    pytest.param("http://0/", "legacy_ipv4_literal", id="S009"),
    pytest.param("http://0.0.0.0/", "special:0.0.0.0/8", id="S010"),
    pytest.param("http://127.0.0.1./", "noncanonical_ipv4", id="S011"),
    pytest.param("http://127.000.000.001/", "legacy_ipv4_literal", id="S012"),
    pytest.param("http://127.0.0.1%00.example.com/", "hostname_syntax", id="S013"),
    pytest.param("http://127\u30020\u30020\u30021/", "non_ascii_url", id="S014"),
    pytest.param("http://1\uff127.0.0.1/", "non_ascii_url", id="S016"),
    pytest.param("http://\u24dbocalhost/", "non_ascii_url", id="S017"),
    pytest.param("http://localhost/", "single_label", id="S018"),
    pytest.param("http://LOCALHOST./", "single_label", id="S019"),
    pytest.param("http://foo.localhost/", "reserved_name:localhost", id="S020"),
    pytest.param("http://localhost.localdomain/", "reserved_name:localdomain", id="S021"),
    pytest.param("http://ip6-localhost/", "single_label", id="S022"),
    pytest.param("http://[::1]/", "not_global_unicast_v6", id="S023"),
    pytest.param("http://[0:0:0:0:0:0:0:1]/", "not_global_unicast_v6", id="S024"),
    pytest.param("http://[::]/", "not_global_unicast_v6", id="S025"),
    pytest.param("http://[::ffff:127.0.0.1]/", "not_global_unicast_v6", id="S026"),
    pytest.param("http://[::ffff:7f00:1]/", "not_global_unicast_v6", id="S027"),
    pytest.param("http://[0:0:0:0:0:ffff:7f00:1]/", "not_global_unicast_v6", id="S028"),
    pytest.param("http://[::127.0.0.1]/", "not_global_unicast_v6", id="S029"),
    pytest.param("http://[64:ff9b::7f00:1]/", "not_global_unicast_v6", id="S032"),
    pytest.param("http://[64:ff9b::a9fe:a9fe]/", "not_global_unicast_v6", id="S033"),
    pytest.param("http://[64:ff9b:1::7f00:1]/", "not_global_unicast_v6", id="S034"),
    pytest.param("http://[2002:7f00:1::1]/", "special:2002::/16", id="S035"),
    pytest.param("http://[2002:a9fe:a9fe::1]/", "special:2002::/16", id="S036"),
    pytest.param("http://[fe80::1]/", "not_global_unicast_v6", id="S038"),
    pytest.param("http://[fe80::1%25eth0]/", "zone_id", id="S039"),
    pytest.param("http://[fe80::1%eth0]/", "zone_id", id="S040"),
    pytest.param("http://[::1%25lo]/", "zone_id", id="S041"),
    pytest.param("http://[fc00::1]/", "not_global_unicast_v6", id="S042"),
    pytest.param("http://[fd00:ec2::254]/latest/meta-data/", "not_global_unicast_v6", id="S043"),
    pytest.param("http://[fd20:ce::254]/", "not_global_unicast_v6", id="S044"),
    pytest.param("http://[fec0::1]/", "not_global_unicast_v6", id="S045"),
    pytest.param("http://[ff02::1]/", "not_global_unicast_v6", id="S046"),
    pytest.param("http://[2001:db8::1]/", "special:2001:db8::/32", id="S047"),
    pytest.param("http://[3fff::1]/", "special:3fff::/20", id="S048"),
    pytest.param("http://[100::1]/", "not_global_unicast_v6", id="S049"),
    pytest.param("http://[5f00::1]/", "not_global_unicast_v6", id="S050"),
    pytest.param("http://[2606:4700:4700::1111]/", None, id="S051"),
    pytest.param("http://169.254.169.254/latest/meta-data/", "special:169.254.0.0/16", id="S052"),
    pytest.param("http://0xA9FEA9FE/", "legacy_ipv4_literal", id="S053"),
    pytest.param("http://0251.0376.0251.0376/", "legacy_ipv4_literal", id="S055"),
    pytest.param("http://169.254.170.2/v2/credentials", "special:169.254.0.0/16", id="S056"),
    pytest.param("http://100.100.100.200/", "special:100.64.0.0/10", id="S057"),
    pytest.param("http://168.63.129.16/", "cloud_metadata", id="S058"),
    pytest.param("http://metadata.google.internal/", "reserved_name:internal", id="S060"),
    pytest.param("http://metadata/", "single_label", id="S061"),
    pytest.param("http://10.0.0.1/", "special:10.0.0.0/8", id="S062"),
    pytest.param("http://172.16.0.1/", "special:172.16.0.0/12", id="S063"),
    pytest.param("http://172.31.255.255/", "special:172.16.0.0/12", id="S064"),
    pytest.param("http://172.32.0.1/", None, id="S065"),
    pytest.param("http://192.168.1.1/", "special:192.168.0.0/16", id="S066"),
    pytest.param("http://100.64.0.1/", "special:100.64.0.0/10", id="S067"),
    pytest.param("http://192.0.0.8/", "special:192.0.0.0/24", id="S068"),
    pytest.param("http://192.0.2.1/", "special:192.0.2.0/24", id="S069"),
    pytest.param("http://192.88.99.1/", "special:192.88.99.0/24", id="S070"),
    pytest.param("http://198.18.0.1/", "special:198.18.0.0/15", id="S071"),
    pytest.param("http://203.0.113.1/", "special:203.0.113.0/24", id="S072"),
    pytest.param("http://224.0.0.1/", "special:224.0.0.0/4", id="S073"),
    pytest.param("http://239.255.255.250/", "special:224.0.0.0/4", id="S074"),
    pytest.param("http://240.0.0.1/", "special:240.0.0.0/4", id="S075"),
    pytest.param("http://255.255.255.255/", "special:240.0.0.0/4", id="S076"),
    pytest.param("http://1.1.1.1/", None, id="S077"),
    pytest.param("https://8.8.8.8:8443/", None, id="S078"),
    pytest.param("http://8.8.8.8:22/", "port", id="S079"),
    pytest.param("http://8.8.8.8:25/", "port", id="S080"),
    pytest.param("http://8.8.8.8:0/", "port", id="S081"),
    pytest.param("http://8.8.8.8:65536/", "parse:ValueError", id="S082"),
    pytest.param("http://8.8.8.8:6379/", None, id="S083"),
    pytest.param("http://hooks.acme.com@127.0.0.1/", "userinfo", id="S084"),
    pytest.param("http://127.0.0.1@hooks.acme.com/", "userinfo", id="S085"),
    pytest.param("http://user:pass@hooks.acme.com/", "userinfo", id="S086"),
    pytest.param("http://127.0.0.1#@hooks.acme.com/", "userinfo", id="S088"),
    pytest.param("http://hooks.acme.com\\@127.0.0.1/", "control_or_space_or_backslash", id="S089"),
    pytest.param("http://127.0.0.1\\@hooks.acme.com/", "control_or_space_or_backslash", id="S090"),
    pytest.param("http:///127.0.0.1/", "no_host", id="S091"),
    pytest.param("http:/127.0.0.1/", "no_host", id="S092"),
    pytest.param("//127.0.0.1/", "scheme", id="S093"),
    pytest.param("http://127.0.0.1:80@hooks.acme.com:81/", "userinfo", id="S094"),
    pytest.param("http://127.0.0.1 @hooks.acme.com/", "control_or_space_or_backslash", id="S095"),
    pytest.param("http://hooks.acme.com:80:22/", "parse:ValueError", id="S096"),
    pytest.param("http://[::1/", "parse:ValueError", id="S097"),
    pytest.param("http://[127.0.0.1]/", "parse:ValueError", id="S098"),
    pytest.param("http://hooks.acme.com%0d%0aX:1/", "port", id="S099"),
    pytest.param("http://%31%32%37%2e%30%2e%30%2e%31/", "hostname_syntax", id="S101"),
    pytest.param("http://xn--/", "hostname_syntax", id="S102"),
    pytest.param("http://xn--bcher-kva.com/", None, id="S103"),
    pytest.param("http://ex\u200dample.com/", "non_ascii_url", id="S105"),
    pytest.param("http://127.0.0.1.nip.io/", None, id="S106"),
    pytest.param("http://localtest.me/", None, id="S107"),
    pytest.param("http://hooks.acme.com./", None, id="S108"),
    pytest.param("http://hooks..acme.com/", "hostname_syntax", id="S109"),
    pytest.param("http://a_b.acme.com/", None, id="S110"),
    pytest.param("http://hooks.acme.123/", "numeric_tld", id="S112"),
    pytest.param("http://kubernetes.default.svc/", None, id="S113"),
    pytest.param("http://kubernetes.default.svc.cluster.local/", "reserved_name:local", id="S114"),
    pytest.param("http://redis/", "single_label", id="S115"),
    pytest.param("ftp://hooks.acme.com/", "scheme", id="S116"),
    pytest.param("file:///etc/passwd", "scheme", id="S117"),
    pytest.param("gopher://127.0.0.1:6379/_x", "scheme", id="S118"),
    pytest.param("unix:///var/run/docker.sock", "scheme", id="S119"),
    pytest.param("http+unix://%2Fvar%2Frun%2Fdocker.sock/x", "scheme", id="S120"),
    pytest.param("javascript:alert(1)", "scheme", id="S121"),
    pytest.param("data:text/plain,x", "scheme", id="S122"),
    pytest.param("HTTPS://HOOKS.ACME.COM/Path", None, id="S123"),
    pytest.param("https://hooks.acme.com/a?b=c", None, id="S124"),
]


@pytest.mark.parametrize(("url", "reason"), ROWS)
def test_matrix(url: str, reason: str | None) -> None:
    """Every row of the matrix has its verdict and its reason."""
    assert reason == reason_for(url, PLAIN)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        pytest.param("https://1.2.3.0x4/", "legacy_ipv4_literal", id="hex_part"),
        pytest.param("https://0x/", "legacy_ipv4_literal", id="bare_0x"),
        pytest.param("https://08.1.1.1/", "legacy_ipv4_literal", id="not_octal"),
        pytest.param("https://256.1.1.1/", "legacy_ipv4_literal", id="octet_too_large"),
        pytest.param("https://0X7F.1/", "legacy_ipv4_literal", id="upper_case_hex"),
        pytest.param("https://127.1./", "legacy_ipv4_literal", id="short_with_dot"),
        pytest.param("https://1.1.1.1./", "noncanonical_ipv4", id="public_with_dot"),
        pytest.param("https://1.2.3.4.5/", "numeric_tld", id="five_parts"),
        pytest.param("https://hooks.acme.0x1f/", "numeric_tld", id="hex_tld"),
        pytest.param("https://127.0.0.1../", "hostname_syntax", id="two_dots"),
        pytest.param("https://.acme.com/", "hostname_syntax", id="empty_first_label"),
        pytest.param("https://./", "hostname_syntax", id="root"),
        pytest.param("https://-a.acme.com/", "hostname_syntax", id="leading_hyphen"),
        pytest.param("https://a-.acme.com/", "hostname_syntax", id="trailing_hyphen"),
        pytest.param(f"https://{'a' * 64}.com/", "hostname_syntax", id="label_of_64"),
        pytest.param(f"https://{'a' * 63}.com/", None, id="label_of_63"),
        pytest.param(f"https://{'a.' * 125}com/", None, id="name_of_253"),
        pytest.param(f"https://{'a.' * 125}comm/", "hostname_syntax", id="name_of_254"),
        pytest.param("https://xn--a.com/", "hostname_syntax", id="not_punycode"),
        pytest.param("https://xn--strae-oqa.de/", None, id="idna_2008"),
        pytest.param("https://xn--ls8h.la/", None, id="emoji"),
        pytest.param("https://hooks.acme.com*/", "hostname_syntax", id="star"),
        pytest.param("https://[fe80::1%]/", "zone_id", id="empty_zone"),
        pytest.param("https://[::g]/", "parse:ValueError", id="not_ipv6"),
        pytest.param("https://[v1.fe80]/", "parse:ValueError", id="ip_future_without_colon"),
        pytest.param("https://[v1.a:b]/", "parse:ValueError", id="ip_future"),
        pytest.param("https://hooks.acme.com:+443/", "parse:ValueError", id="signed_port"),
        pytest.param("https://hooks.acme.com:4_43/", "parse:ValueError", id="port_with_underscore"),
        pytest.param("https://hooks.acme.com:-1/", "parse:ValueError", id="negative_port"),
        pytest.param("https://hooks.acme.com:x/", "parse:ValueError", id="port_of_letters"),
        pytest.param("https://hooks.acme.com:/", None, id="empty_port"),
        pytest.param("https://hooks.acme.com:0443/", None, id="padded_port"),
        pytest.param("https://:443/", "no_host", id="port_alone"),
        pytest.param("https://?x", "no_host", id="query_alone"),
        pytest.param("https:hooks.acme.com", "no_host", id="no_slashes"),
        pytest.param("https://", "no_host", id="scheme_alone"),
        pytest.param("", "scheme", id="empty"),
        pytest.param("hooks.acme.com", "scheme", id="no_scheme"),
        pytest.param("https://@hooks.acme.com/", "userinfo", id="empty_userinfo"),
        pytest.param("https://hooks.acme.com#@b/", "userinfo", id="at_behind_hash"),
        pytest.param("https://hooks.acme.com/a@b?c=@", None, id="at_in_path"),
        pytest.param("https://hooks.acme.com/#a", "fragment", id="fragment"),
        pytest.param("https://hooks.acme.com/#", "fragment", id="empty_fragment"),
        pytest.param(" https://hooks.acme.com/", "control_or_space_or_backslash", id="leading_space"),
        pytest.param("https://hooks.acme.com/\n", "control_or_space_or_backslash", id="trailing_newline"),
        pytest.param("https://hooks.acme.com/a\tb", "control_or_space_or_backslash", id="tab"),
        pytest.param("https://hooks.acme.com/\x00", "control_or_space_or_backslash", id="nul"),
        pytest.param("https://hooks.acme.com/\x7f", "control_or_space_or_backslash", id="del"),
        pytest.param("https://hooks.acme.com/\u00e9", "non_ascii_url", id="non_ascii_path"),
        pytest.param("https://hooks.acme.com:\u0664/", "non_ascii_url", id="arabic_port"),
        pytest.param("https://hooks.acme.com/".ljust(2048, "a"), None, id="longest"),
        pytest.param("https://hooks.acme.com/".ljust(2049, "a"), "too_long", id="too_long"),
        pytest.param("https://acme.home.arpa/", "reserved_name:home.arpa", id="home_arpa"),
        pytest.param("https://nas.LAN./", "reserved_name:lan", id="lan"),
        pytest.param("https://notlocal/", "single_label", id="not_local"),
        pytest.param("https://acme.notlocal/", None, id="suffix_of_a_label"),
        pytest.param("https://local.acme.com/", None, id="reserved_label_inside"),
        pytest.param("https://example.com/hook", None, id="example"),
        pytest.param("https://[2606:4700:4700::1111]:8443/", None, id="ipv6_with_port"),
        pytest.param("https://[2606:4700::5efe:7f00:1]/", "isatap", id="isatap"),
    ],
)
def test_more_urls(url: str, reason: str | None) -> None:
    """Cases beside the rows follow the same rules."""
    assert reason == reason_for(url, STRICT)


def test_refusal_says_why() -> None:
    """A refusal has a sentence for users, never the default one of another reason, and repeats nothing of the URL."""
    refused = [
        ("https://hooks.acme.com:22/", "port"),
        ("https://127.1/", "old form"),
        ("https://10.0.0.1/", "not a public one"),
        ("https://a.internal/", "reserved"),
        ("https://acme.com:x/", "parsed"),
    ]
    for url, words in refused:
        with pytest.raises(UrlRefused, match=words) as caught:
            vet_url(url, STRICT)
        assert url not in caught.value.detail
        assert caught.value.detail.endswith(".")


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("https://hooks.acme.com:22/", ErrorCode.INVALID_URL),
        ("https://127.0.0.1/", ErrorCode.BLOCKED_ADDRESS),
        ("https://127.0.0.1:8700/", ErrorCode.SELF_CONNECTION),
        ("https://[::1]:8701/", ErrorCode.BLOCKED_ADDRESS),
    ],
)
def test_refusal_has_the_error_of_an_attempt(url: str, error: ErrorCode) -> None:
    """A refused URL tells what an attempt on it reports."""
    with pytest.raises(UrlRefused) as caught:
        vet_url(url, Policy(own_addresses=(("127.0.0.1", 8700), ("::1", 8700))))

    assert error == caught.value.error


def test_http_only_where_allowed() -> None:
    """Without `allow_http` the URL must be https."""
    assert reason_for("http://hooks.acme.com/", STRICT) == "scheme"
    assert reason_for("http://hooks.acme.com/", PLAIN) is None
    assert reason_for("HTTPS://hooks.acme.com/", STRICT) is None


@pytest.mark.parametrize(
    "url",
    [
        "https://hooks.acme.com/a/%2e%2e/admin?u=http%3A%2F%2Fy&%zz&+",
        "https://hooks.acme.com/../..//x",
        "https://HOOKS.acme.com?q={a|b}",
        "https://hooks.acme.com:443/%7Euser",
    ],
)
def test_nothing_is_rewritten(url: str) -> None:
    """Path and query are dialled in the bytes in which they were given."""
    authority, slash, rest = url.removeprefix("https://").partition("/" if "/" in url[8:] else "?")

    assert f"/{'' if slash == '/' else '?'}{rest}" == vet_url(url, STRICT).raw_path_qs
    assert authority.partition(":")[0] == vet_url(url, STRICT).raw_host


@pytest.mark.parametrize(
    ("port", "allowed", "passes"),
    [
        (443, (), True),
        (6379, (), True),
        (10080, (), False),
        (6667, (), False),
        (0, (), False),
        (443, (8443,), False),
        (8443, (8443,), True),
        (22, (22,), True),
    ],
)
def test_ports(port: int, allowed: tuple[int, ...], passes: bool) -> None:
    """Without a list of ports all but the bad ones pass; with one, exactly those."""
    refused = reason_for(f"https://hooks.acme.com:{port}/", Policy(allow_ports=frozenset(allowed)))

    assert (None if passes else "port") == refused


@pytest.mark.parametrize("name", ["redis", "localhost", "hooks.internal", "printer.local", "a.localhost"])
def test_private_names_pass_where_networks_are_allowed(name: str) -> None:
    """With `allow_networks` names are not judged by their ending, their spelling and their ports still are."""
    policy = opening("10.0.0.0/8")

    assert reason_for(f"http://{name}/", STRICT) is not None
    assert reason_for(f"http://{name}/", policy) is None
    assert reason_for(f"http://{name}:25/", policy) == "port"
    assert reason_for(f"http://{name}..x/", policy) == "hostname_syntax"
    assert reason_for(f"http://{name}.1/", policy) == "numeric_tld"


@pytest.mark.row("SR43")
@settings(deadline=None, max_examples=1000)
@given(st.integers(0, 2**32 - 1) | st.sampled_from(EDGES_V4))
@example(0xA8_3F_81_10)
def test_ipv4_is_judged_as_the_registry_says(bits: int) -> None:
    """Any IPv4 address has the verdict of an independently written table."""
    assert forbidden(bits, FORBIDDEN_V4) == is_refused(str(IPv4Address(bits)), STRICT)


@pytest.mark.row("SR43")
@settings(deadline=None, max_examples=1000)
@given(st.integers(0, 2**128 - 1) | st.integers(0x2000 << 112, (0x4000 << 112) - 1) | st.sampled_from(EDGES_V6))
def test_ipv6_is_judged_as_the_registry_says(bits: int) -> None:
    """Any IPv6 address outside global unicast, or in its special blocks, is refused, and no other."""
    assert (forbidden(bits, FORBIDDEN_V6) or isatap(bits)) == is_refused(str(IPv6Address(bits)), STRICT)


@pytest.mark.row("SR43")
def test_many_addresses_are_judged_as_the_registry_says() -> None:
    """A large sample, and all edges of the blocks, agree with the independent table."""
    chance = random.Random(43)
    sample_v4 = [*EDGES_V4, *(chance.getrandbits(32) for _ in range(20_000))]
    sample_v6 = [*EDGES_V6, *(0x2 << 124 | chance.getrandbits(124) for _ in range(10_000))]
    wrong = [bits for bits in sample_v4 if forbidden(bits, FORBIDDEN_V4) != is_refused(str(IPv4Address(bits)), STRICT)]
    wrong += [bits for bits in sample_v6 if forbidden(bits, FORBIDDEN_V6) != is_refused(str(IPv6Address(bits)), STRICT)]

    assert [] == wrong


@pytest.mark.row("SR44")
@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS)
def test_wrapped_ipv4_never_passes(wrap: Callable[[int], int]) -> None:
    """An IPv6 address that wraps any IPv4 address is refused, also where the IPv4 side of it is opened."""
    everything_v4 = opening("0.0.0.0/0")

    @settings(deadline=None, max_examples=256)
    @given(st.integers(0, 2**32 - 1) | st.sampled_from(EDGES_V4))
    def refused(v4: int) -> None:
        address = str(IPv6Address(wrap(v4)))

        assert is_refused(address, STRICT)
        assert is_refused(address, everything_v4)

    refused()


@pytest.mark.row("SR44")
@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS)
def test_wrapped_ipv4_is_not_opened_with_all_of_ipv6(wrap: Callable[[int], int]) -> None:
    """With all of IPv6 allowed, a wrapped IPv4 address passes only if it passes by itself."""
    everything_v6 = opening("::/0")

    @settings(deadline=None, max_examples=256)
    @given(st.integers(0, 2**32 - 1) | st.sampled_from(EDGES_V4))
    def judged(v4: int) -> None:
        address = IPv6Address(wrap(v4))

        if forbidden(v4, FORBIDDEN_V4) and address != IPv6Address("::1"):
            assert is_refused(str(address), everything_v6)

    judged()


def test_wrapped_public_address_passes_where_its_prefix_is_allowed() -> None:
    """A network behind NAT64 can allow its prefix; private addresses behind it stay refused."""
    policy = opening("64:ff9b::/96")

    assert not is_refused("64:ff9b::8.8.8.8", policy)
    assert is_refused("64:ff9b::10.0.0.1", policy)


@pytest.mark.row("SR28")
@pytest.mark.parametrize("address", METADATA)
def test_metadata_never_opens(address: str) -> None:
    """No network opens the addresses from which a machine gets its credentials."""
    bits = ip_address(address)
    for policy in (STRICT, opening("0.0.0.0/0", "::/0"), opening(str(ip_network(address)))):
        assert is_refused(address, policy)
        with pytest.raises(AddressBlocked):
            admit(address, 80, policy)
        if isinstance(bits, IPv4Address):
            for wrap in WRAPPINGS.values():
                assert is_refused(str(IPv6Address(wrap(int(bits)))), policy)


@pytest.mark.parametrize(
    ("network", "closed"),
    [
        ("169.254.0.0/16", True),
        ("169.254.7.0/24", True),
        ("169.254.0.0/15", False),  # the half of it
        ("fe80::/10", True),
        ("fd00:ec2::254/128", True),
        ("fd00:ec2::/32", False),
        ("0.0.0.0/8", True),
        ("10.0.0.0/8", False),
        ("::a9fe:0/112", False),  # which is another family's
    ],
)
def test_networks_that_stay_closed(network: str, closed: bool) -> None:
    """What lies wholly in a network that never opens is known before anything is dialled, with why."""
    reason = never_opened(ip_network(network))

    assert closed == (reason is not None)


@pytest.mark.parametrize("address", ["0.0.0.0", "0.1.2.3", "::", "64:ff9b:1::1.1.1.1", "fe80::1", "169.254.0.1"])
def test_unjudgeable_networks_never_open(address: str) -> None:
    """Link-local addresses, and those that mean this host or cannot be judged, stay refused with everything allowed."""
    assert is_refused(address, opening("0.0.0.0/0", "::/0"))


@pytest.mark.parametrize(
    ("address", "networks", "passes"),
    [
        pytest.param("10.1.2.3", ["10.0.0.0/8"], True, id="SR27"),
        pytest.param("169.254.169.254", ["10.0.0.0/8"], False, id="SR28-link_local"),
        pytest.param("::ffff:169.254.169.254", ["10.0.0.0/8"], False, id="SR28-mapped"),
        pytest.param("fd00:ec2::254", ["10.0.0.0/8", "fd00::/8"], False, id="SR28-aws"),
        pytest.param("11.0.0.1", ["10.0.0.0/8"], True, id="public_all_the_same"),
        pytest.param("192.168.1.1", ["10.0.0.0/8"], False, id="other_private"),
        pytest.param("::ffff:10.1.2.3", ["10.0.0.0/8"], False, id="mapped_private"),
        pytest.param("::ffff:10.1.2.3", ["::ffff:0:0/96"], False, id="mapped_without_v4"),
        pytest.param("::ffff:10.1.2.3", ["::ffff:0:0/96", "10.0.0.0/8"], True, id="mapped_asked_for"),
        pytest.param("127.0.0.1", ["127.0.0.0/8"], True, id="loopback"),
        pytest.param("::1", ["::1/128"], True, id="loopback_v6"),
        pytest.param("::1", ["127.0.0.0/8"], False, id="loopback_v6_by_v4"),
        pytest.param("fd00::1", ["fd00::/8"], True, id="unique_local"),
        pytest.param("fd00::1%eth0", ["fd00::/8"], False, id="zone"),
        pytest.param("127.1", ["127.0.0.0/8"], False, id="old_form"),
        pytest.param("", ["0.0.0.0/0", "::/0"], False, id="empty"),
        pytest.param("localhost", ["127.0.0.0/8"], False, id="name"),
    ],
)
def test_allowed_networks(address: str, networks: list[str], passes: bool) -> None:
    """Allowed networks open what they hold, and nothing else by accident."""
    assert passes != is_refused(address, opening(*networks))


@pytest.mark.parametrize(
    ("own", "address", "port", "ours"),
    [
        (("127.0.0.1", 8700), "127.0.0.1", 8700, True),
        (("127.0.0.1", 8700), "127.0.0.1", 8701, False),
        (("127.0.0.1", 8700), "127.0.0.2", 8700, False),
        (("127.0.0.1", 8700), "::ffff:127.0.0.1", 8700, True),
        (("::1", 8700), "0:0:0:0:0:0:0:1", 8700, True),
        (("8.8.4.4", 8700), "8.8.4.4", 8700, True),
        (("0.0.0.0", 8700), "127.0.0.1", 8700, True),
        (("0.0.0.0", 8700), "127.9.9.9", 8700, True),
        (("0.0.0.0", 8700), "127.0.0.1", 8701, False),
        (("0.0.0.0", 8700), "8.8.8.8", 8700, False),
        (("::", 8700), "::1", 8700, True),
        (("::", 8700), "127.0.0.1", 8700, True),
        (("::", 8700), "2606:4700:4700::1111", 8700, False),
    ],
)
def test_own_listener(own: tuple[str, int], address: str, port: int, ours: bool) -> None:
    """A dial to our own listener is told from other refusals, whatever is allowed and however the address is written."""
    policy = opening("127.0.0.0/8", "::1/128", "::ffff:0:0/96", own_addresses=(own,))

    found = None
    try:
        admit(address, port, policy)
    except AddressBlocked as blocked:
        found = blocked.error
    host = f"[{address}]" if ":" in address else address

    assert (ErrorCode.SELF_CONNECTION if ours else None) == found
    assert ("self_connection" if ours else None) == reason_for(f"http://{host}:{port}/", policy)


def test_own_addresses_are_addresses() -> None:
    """A name for our own listener is refused when the policy is made, not at every dial."""
    with pytest.raises(ValueError, match="localhost"):
        Policy(own_addresses=(("localhost", 8700),))


def addr_info(address: str, port: int = 80) -> AddrInfoType:
    """What aiohttp gives a socket factory."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port, 0, 0) if ":" in address else (address, port)


@pytest.mark.parametrize("address", [PUBLIC, ALSO_PUBLIC])
def test_factory_makes_sockets(address: str) -> None:
    """For an address that may be called, the factory makes the socket that aiohttp would make."""
    family, kind, protocol, *_ = addr_info(address)
    with socket_factory(STRICT)(addr_info(address)) as made:
        assert (family, kind, protocol) == (made.family, made.type, made.proto)
        assert made.gettimeout() == 0


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1", "10.0.0.1", "127.1", "hooks.acme.com", ""])
def test_factory_refuses(address: str) -> None:
    """For any other the factory raises an error of ours, with a text that tells nothing."""
    with pytest.raises(AddressBlocked) as caught:
        socket_factory(STRICT)(addr_info(address))

    assert str(AddressBlocked()) == str(caught.value)
    assert not isinstance(caught.value, OSError)
    assert ErrorCode.BLOCKED_ADDRESS == caught.value.error


def test_factory_refuses_other_families() -> None:
    """A path, and an integer that would be read as an address, are no addresses."""
    for family, peer in ((socket.AF_UNIX, "/run/x.sock"), (socket.AF_INET, (0x01010101, 80)), (socket.AF_INET, (b"1111", 80))):
        with pytest.raises(AddressBlocked):
            socket_factory(STRICT)((family, socket.SOCK_STREAM, 0, "", peer))  # type: ignore[arg-type]  # that is the point


def test_factory_tells_our_own_listener() -> None:
    """A dial to our own listener has an error of its own."""
    with pytest.raises(SelfConnection):
        socket_factory(opening("127.0.0.0/8", own_addresses=(("127.0.0.1", 8700),)))(addr_info("127.0.0.1", 8700))


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(["127.0.0.1"], id="SR01"),
        pytest.param(["169.254.169.254"], id="SR02"),
        pytest.param(["::1"], id="SR03-loopback"),
        pytest.param(["::ffff:127.0.0.1"], id="SR03-mapped"),
        pytest.param(["64:ff9b::7f00:1"], id="SR03-nat64"),
        pytest.param([PUBLIC, "127.0.0.1"], id="SR04"),
        pytest.param(["127.0.0.1", PUBLIC], id="SR05"),
        pytest.param(["fd00::1", PUBLIC], id="SR17"),
        pytest.param(["10.0.0.1", "10.0.0.2"], id="all_private"),
        pytest.param([f"8.8.{n >> 8}.{n & 255}" for n in range(999)] + ["127.0.0.1"], id="private_last_of_many"),
    ],
)
def test_one_forbidden_address_refuses_the_answer(answer: list[str]) -> None:
    """A name with any forbidden address is blocked before anything is dialled, with happy eyeballs on."""
    failures, dials = ended_with("http://hooks.acme.com/", guarded(PLAIN, *answer), PLAIN, use_dns_cache=False)

    assert [AddressBlocked] == [type(failure) for failure in failures]
    assert [] == dials


@pytest.mark.row("SR07")
@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "169.254.169.254"])
def test_rebinding(address: str) -> None:
    """An address that was never judged, because the answer changed or the resolver lies, is blocked at the connect."""
    failures, dials = ended_with("http://hooks.acme.com/", Unguarded(address), PLAIN)

    assert [AddressBlocked] == [type(failure) for failure in failures]
    assert [] == dials


@pytest.mark.row("SR18")
@pytest.mark.parametrize(
    ("answer", "dialled"),
    [
        pytest.param(["10.0.0.1", PUBLIC], [], id="forbidden_first"),
        pytest.param([PUBLIC, "10.0.0.1"], [PUBLIC], id="forbidden_second"),
        pytest.param(["10.0.0.1", "10.0.0.2"], [], id="forbidden_both"),
    ],
)
def test_refusal_ends_the_dialling(answer: list[str], dialled: list[str]) -> None:
    """Without happy eyeballs, what the factory raises arrives as it is, and no further address is tried."""
    failures, dials = ended_with("http://hooks.acme.com/", Unguarded(*answer), PLAIN, happy_eyeballs_delay=None)

    assert [AddressBlocked] == [type(failure) for failure in failures]
    assert dialled == dials


@pytest.mark.row("SR18")
@pytest.mark.parametrize("answer", [["10.0.0.1", PUBLIC], [PUBLIC, "10.0.0.1"], ["10.0.0.1", "10.0.0.2"]])
def test_happy_eyeballs_dials_nothing_forbidden(answer: list[str]) -> None:
    """With happy eyeballs and a lying resolver the error may be lost, yet nothing forbidden is dialled."""
    failures, dials = ended_with("http://hooks.acme.com/", Unguarded(*answer), PLAIN)

    assert len(failures) == 1
    assert {PUBLIC} >= set(dials)


@pytest.mark.row("SR19")
def test_cached_answers_are_judged_at_every_dial() -> None:
    """An answer out of aiohttp's cache meets the factory like a fresh one."""
    resolver = Unguarded("10.0.0.1")
    failures, dials = ended_with("http://hooks.acme.com/", resolver, PLAIN, requests=3, ttl_dns_cache=60)

    assert [AddressBlocked] * 3 == [type(failure) for failure in failures]
    assert ["hooks.acme.com"] == resolver.asked
    assert [] == dials


@pytest.mark.parametrize(
    ("url", "networks"),
    [
        pytest.param("http://10.1.2.3/", ["10.0.0.0/8"], id="SR27-literal"),
        pytest.param("http://hooks.acme.com/", ["10.0.0.0/8"], id="SR27-name"),
    ],
)
def test_allowed_network_is_dialled(url: str, networks: list[str]) -> None:
    """An address in an allowed network is dialled, here at a loop that refuses every connect."""
    policy = opening(*networks)
    failures, dials = ended_with(url, guarded(policy, "10.1.2.3"), policy, use_dns_cache=False)

    assert [aiohttp.ClientConnectorError] == [type(failure) for failure in failures]
    assert ["10.1.2.3"] == dials


@pytest.mark.row("SR28")
@pytest.mark.parametrize("address", ["169.254.169.254", "::ffff:169.254.169.254", "fd00:ec2::254"])
def test_name_with_metadata_address_in_allowed_network(address: str) -> None:
    """A private name passes the first gate where networks are allowed; metadata stays blocked at the second."""
    policy = opening("10.0.0.0/8", "fd00::/8")
    failures, dials = ended_with("http://metadata.google.internal/", guarded(policy, address), policy)

    assert [AddressBlocked] == [type(failure) for failure in failures]
    assert [] == dials


async def test_real_listener() -> None:
    """Over real sockets, a loopback listener is reached where loopback is allowed, and sees no connection where not."""
    accepted = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal accepted
        accepted += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        writer.close()

    async def post(policy: Policy) -> int:
        resolver = guarded(policy, "127.0.0.1")
        connector = aiohttp.TCPConnector(resolver=resolver, socket_factory=socket_factory(policy), use_dns_cache=False)
        try:
            async with aiohttp.ClientSession(connector=connector) as session, session.post(url) as response:
                return response.status
        finally:
            await resolver.close()

    async with asyncio.timeout(5), await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        own = server.sockets[0].getsockname()
        url = URL(f"http://hooks.acme.com:{own[1]}/", encoded=True)
        with pytest.raises(AddressBlocked):
            await post(PLAIN)
        with pytest.raises(SelfConnection):
            await post(opening("127.0.0.0/8", own_addresses=(own,)))
        assert accepted == 0

        assert await post(opening("127.0.0.0/8")) == 204
        assert accepted == 1


PIECES = st.sampled_from(
    [
        *"htps:/@#?[]%.0127xXfe\\ \t\n-_",
        "http://",
        "https://",
        "127.0.0.1",
        "::1",
        "%25",
        "acme.com",
        "localhost",
        ":80",
        "\u3002",
    ]
)
URLS = st.text(max_size=40) | st.lists(PIECES, max_size=12).map("".join)
HOSTS = st.builds(
    "{}://{}{}{}{}".format,
    st.sampled_from(["https", "http", "HTTP", "ftp"]),
    st.sampled_from(["", "", "", "a@", ".", "%", "["]),
    st.sampled_from(
        ["hooks.acme.com", "8.8.8.8", "127.0.0.1", "[2606:4700::1]", "HOOKS.ACME.COM", "[::1]", "0x8.8", "a_b.co"]
    ),
    st.sampled_from(["", "", "", ".", ":80", ":0443", "]", "%41", "x", "[", "\\"]),
    st.sampled_from(["", "/", "?a", "/@b", "/a%2e%2e/b", "#c", "//"]),
)


@pytest.mark.row("SR45")
def test_what_is_vetted_is_what_is_dialled() -> None:
    """Any text is refused with an error of ours, or its host is the one that aiohttp looks up or dials."""
    seen: list[str] = []

    def lookup(host: str, *_: Any, **__: Any) -> Any:
        seen.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "not known")

    def note(addr_info: AddrInfoType) -> socket.socket:
        seen.append(addr_info[4][0])
        raise AddressBlocked

    async def dial(url: URL) -> str:
        resolver = Resolver(partial(admit, policy=PLAIN), lookup=lookup)
        connector = aiohttp.TCPConnector(resolver=resolver, socket_factory=note, use_dns_cache=False)
        seen.clear()
        async with aiohttp.ClientSession(connector=connector) as session:
            with pytest.raises((AddressBlocked, LookupFailed)):
                await session.post(url)
        await resolver.close()
        (host,) = seen
        return host

    with asyncio.Runner(loop_factory=OfflineLoop) as runner:

        @settings(deadline=None, max_examples=400)
        @given(URLS | HOSTS)
        @example("https://hooks.acme.com./")
        @example("http://[2606:4700:0:0:0:0:0:1111]:8080/x?y")
        def same(text: str) -> None:
            try:
                url = vet_url(text, PLAIN)
            except UrlRefused:
                return
            assert url.host is not None
            assert (url.raw_host or "").lower() == runner.run(dial(url)).lower()

        same()


@pytest.mark.row("SR45")
def test_mutated_urls_are_refused_or_pass() -> None:
    """No change of a character in any row makes the gate raise another error, or yarl read another host than we did."""
    chance = random.Random(45)
    letters = [*map(chr, range(128)), "\u3002", "\uff0f", "\u2100", "\u200d", "\ud800"]
    texts = [str(row.values[0]) for row in ROWS]
    for _ in range(20_000):
        text = chance.choice(texts)
        at = chance.randrange(len(text))
        changed = text[:at] + chance.choice(letters) + text[at + chance.randrange(2) :]
        try:
            url = vet_url(changed, PLAIN)
        except UrlRefused:
            continue
        assert url.host is not None
        assert url.raw_host is not None
        assert url.raw_host.lower() in changed.lower()
        assert url.user is None


def test_the_table_of_the_test_has_all_blocks_as_ranges() -> None:
    """The independent table is reckoned right, at least for two blocks known by heart."""
    assert first_and_last("172.16.0.0/12", 32) == struct.unpack("!II", bytes([172, 16, 0, 0, 172, 31, 255, 255]))
    assert first_and_last("2001:db8::/32", 128)[1] == int(IPv6Address("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"))
