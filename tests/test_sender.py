"""Attempts and their outcomes; the hostile receivers are in test_sender_hostile.py and test_sender_tls.py."""

from __future__ import annotations

import asyncio
import errno
import inspect
import socket
import ssl
import threading
from functools import partial
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any, cast

import aiohttp
import hostile
import pytest
from aiohttp import http_exceptions
from aiohttp.client_reqrep import ConnectionKey, RequestInfo
from hostile import answers, on_both_loops, receiver, response
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from hookengine import sender as sender_module
from hookengine.exchange import HeadTooLarge, Phase, TooManyInformational
from hookengine.models import (
    Accepted,
    Broken,
    ErrorCode,
    Interrupted,
    Outcome,
    Refused,
    Request,
    Response,
    Rules,
    Secret,
    Unreachable,
)
from hookengine.netguard import AddressBlocked, Policy, SelfConnection, UrlRefused, admit
from hookengine.resolver import LookupFailed, Resolver
from hookengine.sender import Sender, error_code, has_ipv4_route, verdict

if TYPE_CHECKING:
    from collections.abc import Callable

LOOPBACK = Policy(allow_http=True, allow_networks=(ip_network("127.0.0.0/8"), ip_network("::1/128")))
KEY = ConnectionKey("hooks.acme.example", 443, True, True, None, None, None)
INFO = RequestInfo(URL("https://hooks.acme.example/"), "POST", CIMultiDictProxy(CIMultiDict()), URL())


def request(url: str, *, method: str = "POST", body: bytes = b"{}", timeout: int = 5000, **headers: str) -> Request:
    """A delivery."""
    return Request(method=method, url=url, headers=tuple(headers.items()), body=body, timeout=timeout)


def answer(status: int, *headers: tuple[str, str]) -> Response:
    """An answer without a body."""
    return Response(status=status, headers=headers, body=b"", truncated=False)


def ending(outcome: Outcome) -> tuple[type[Outcome], ErrorCode | None]:
    """The kind of an outcome and its error code."""
    error = None if isinstance(outcome, Accepted) else outcome.error
    return type(outcome), error.code if error else None


def looking_up(found: Callable[[str], list[str]]) -> Resolver:
    """A resolver for which *found* answers in place of libc."""

    def lookup(host: str, port: int, **_: Any) -> list[tuple[int, int, int, str, tuple[Any, ...]]]:
        kinds = [(socket.AF_INET6 if ":" in address else socket.AF_INET, address) for address in found(host)]
        return [(kind, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port)) for kind, address in kinds]

    return Resolver(partial(admit, policy=LOOPBACK), lookup=lookup)


def failing_with(number: int) -> Resolver:
    """A resolver for which libc answers with an error."""

    def fail(_host: str) -> list[str]:
        raise socket.gaierror(number, "so says libc")

    return looking_up(fail)


# --- what an answer means ---


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

    assert code is ending(outcome)[1]
    assert status == cast("Accepted | Refused", outcome).response.status  # type: ignore[union-attr]  # both have one here


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
