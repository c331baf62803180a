"""The certificate of a run is one that strict clients take, for its server alone."""

from __future__ import annotations

import ssl
import stat
from typing import TYPE_CHECKING

import pytest
from certificates import server_context

from hookengine.bench.certificates import issue
from hookengine.clock import Clock

if TYPE_CHECKING:
    from pathlib import Path

DAY = 24 * 3_600_000  # ms


def strict(authority: Path | None) -> ssl.SSLContext:
    """What a client of Python 3.13 verifies with, which has no other *authority*."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    if authority is not None:
        context.load_verify_locations(authority)
    return context


def shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, address: str) -> None:
    """Open a TLS connection in memory to a server at *address*; raises SSLError."""
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    asking = client.wrap_bio(back, there, server_hostname=address)
    answering = server.wrap_bio(there, back, server_side=True)
    waiting = [asking, answering]
    for _ in range(10):
        for side in waiting.copy():
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            waiting.remove(side)
    assert [] == waiting


def test_certificate_passes_strict_checks(tmp_path: Path) -> None:
    """A client that trusts the authority accepts the server, and the key is for its owner only."""
    made = issue(tmp_path, "127.0.0.1", now=Clock().now())

    shake_hands(strict(made.authority), server_context((made.shown, made.key)), "127.0.0.1")

    assert 0o600 == stat.S_IMODE(made.key.stat().st_mode)


@pytest.mark.parametrize(
    ("address", "trusts", "age", "reason"),
    [
        pytest.param("127.0.0.2", True, 0, "IP address mismatch", id="another address"),
        pytest.param("127.0.0.1", False, 0, "unable to get local issuer", id="unknown authority"),
        pytest.param("127.0.0.1", True, 2, "certificate has expired", id="an old run"),
        pytest.param("127.0.0.1", True, -2, "not yet valid", id="a run to come"),
    ],
)
def test_certificate_is_refused(address: str, trusts: bool, age: int, reason: str, tmp_path: Path) -> None:
    """Elsewhere, at another time and to who does not know the authority, the certificate is worth nothing."""
    made = issue(tmp_path, "127.0.0.1", now=Clock().now() - age * DAY)

    with pytest.raises(ssl.SSLCertVerificationError, match=reason):
        shake_hands(strict(made.authority if trusts else None), server_context((made.shown, made.key)), address)
