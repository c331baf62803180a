"""Where on loopback a receiver listens, and the ways in which scenarios call it."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, NamedTuple

from hookengine.bench.cases import Way
from hookengine.bench.certificates import Certificate, issue
from hookengine.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

HOSTS = tuple(f"127.0.0.{number}" for number in range(1, 101))


class Site(NamedTuple):
    """Where a receiver listens, with TLS also at the first host."""

    folder: Path  # of the receiver's files
    hosts: tuple[str, ...]  # addresses
    certificate: Certificate
    missing: Mapping[Way, str]  # the ways that this machine does not have, each with the reason


class Destination(NamedTuple):
    """What a scenario calls."""

    urls: Sequence[str]
    variables: Mapping[str, str] = {}  # of the process that calls them


def site(folder: Path, hosts: tuple[str, ...] = HOSTS) -> Site:
    """All *hosts*, or only the first where others are not there: macOS has 127.0.0.1 alone."""
    reason = _absence(hosts)
    certificate = issue(folder, hosts[0], now=Clock().now())
    if reason is None:
        return Site(folder, hosts, certificate, {})
    return Site(folder, hosts[:1], certificate, {Way.HOSTS: reason})


def destinations(found: Site, urls: Mapping[Way, Sequence[str]]) -> dict[Way, Destination]:
    """What the scenarios call at *urls*; OpenSSL's own variable names the authority that a process trusts."""
    variables = {Way.TLS: {"SSL_CERT_FILE": str(found.certificate.authority)}}
    return {way: Destination(urls[way], variables.get(way, {})) for way in Way if way not in found.missing}


def _absence(hosts: Sequence[str]) -> str | None:
    """Why not all of *hosts* can be listened on, if so."""
    for host in hosts:
        try:
            socket.create_server((host, 0)).close()
        except OSError as error:
            return f"this machine has no {host}: {os.strerror(error.errno or 0)}"
    return None
