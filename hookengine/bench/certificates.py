"""The certificate that a receiver shows, and the authority that vouches for it: made for one run, trusted by nobody else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hookengine.vault import write_private

if TYPE_CHECKING:
    from pathlib import Path

_DAY = timedelta(days=1)
_SIGNS = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


class Certificate(NamedTuple):
    """Files in PEM."""

    shown: Path
    key: Path
    authority: Path  # the certificate of who issued it


def issue(folder: Path, address: str, *, now: int) -> Certificate:
    """
    A certificate for a server at an IP *address*, good for a day before and after *now* (ms since the epoch).

    It passes the strict checks that Python makes from 3.13 on (RFC 5280, 4.2.1). The authority's key is kept nowhere.
    """
    ours, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = _named("hookengine bench authority")
    identity = x509.SubjectKeyIdentifier.from_public_key(ours.public_key())
    authority = (
        _builder(issuer, issuer, ours, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_SIGNS, critical=True)
        .add_extension(identity, critical=False)
        .sign(ours, hashes.SHA256())
    )
    shown = (
        _builder(_named("hookengine bench receiver"), issuer, key, now)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identity), critical=False)
        .sign(ours, hashes.SHA256())
    )
    files = Certificate(folder / "receiver.pem", folder / "receiver.key", folder / "authority.pem")
    files.shown.write_bytes(shown.public_bytes(serialization.Encoding.PEM))
    files.authority.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    write_private(files.key, key.private_bytes(serialization.Encoding.PEM, pkcs8, plain))
    return files


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: int) -> x509.CertificateBuilder:
    at = datetime.fromtimestamp(now / 1000, UTC)
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    return made.serial_number(x509.random_serial_number()).not_valid_before(at - _DAY).not_valid_after(at + _DAY)
