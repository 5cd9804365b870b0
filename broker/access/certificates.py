"""X.509: whether certificates are usable, and new ones for a trial."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from broker.errors import UnusableFileError

_SKEW: Final = timedelta(minutes=5)
"""By how much the clock of a client may be behind ours."""
_Key: TypeAlias = ec.EllipticCurvePrivateKey


@dataclass(frozen=True, slots=True)
class Material:
    """What a server shows, and whom it trusts, in PEM.

    Args:
        certificate: its own, and those between it and the root.
        key: of the first of them.
        client_ca: whose certificates callers must have; None asks for none.
        not_after: when the certificate expires.
    """

    certificate: bytes
    key: bytes
    client_ca: bytes | None
    not_after: datetime


def material(contents: Sequence[bytes], paths: Sequence[Path], now: datetime) -> Material:
    """Check what was read: certificate, key and, if there is a third, the client CA.

    Raises:
        UnusableFileError: gRPC would refuse it, or every client.
    """
    leaf = _certificates(contents[0], paths[0])[0]
    try:
        key = _public(serialization.load_pem_private_key(contents[1], password=None).public_key())
    except TypeError:
        raise UnusableFileError(f"{paths[1]}: the key has a password; take it off") from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UnusableFileError(f"{paths[1]}: is no private key in PEM: {error}") from None
    if key != leaf.key:
        raise UnusableFileError(f"{paths[1]}: is not the key of the certificate in {paths[0]}")
    if leaf.not_after <= now:
        raise UnusableFileError(
            f"{paths[0]}: the certificate has expired at {leaf.not_after:%Y-%m-%d %H:%M} UTC; no "
            "client would take it"
        )
    client_ca = contents[2] if len(contents) > 2 else None
    if client_ca is not None:
        _certificates(client_ca, paths[2])
    return Material(contents[0], contents[1], client_ca, leaf.not_after)


@dataclass(frozen=True, slots=True)
class _Read:
    """What counts of a certificate."""

    key: bytes
    not_after: datetime


def _certificates(content: bytes, path: Path) -> list[_Read]:
    try:
        return [
            _Read(_public(found.public_key()), found.not_valid_after_utc)
            for found in x509.load_pem_x509_certificates(content)
        ]
    except (ValueError, UnsupportedAlgorithm) as error:
        raise UnusableFileError(f"{path}: is no certificate in PEM: {error}") from None


def _public(key: object) -> bytes:
    encoded: bytes = key.public_bytes(  # type: ignore[attr-defined]  # every public key has it
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return encoded


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key, in PEM."""

    certificate: bytes
    key: bytes


def new_authority(name: str, *, now: datetime, days: int) -> Issued:
    """A certificate authority for one broker."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _subject(name)
    builder = (
        _builder(subject, subject, key, now, days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
    )
    return _signed(builder, key, key)


def new_server(authority: Issued, hosts: Sequence[str], *, now: datetime, days: int) -> Issued:
    """The certificate of a server that is reached under these names and addresses."""
    return _issue(authority, hosts[0], [_host(host) for host in hosts], now=now, days=days)


def new_client(authority: Issued, name: str, *, now: datetime, days: int) -> Issued:
    """The certificate of a caller, with its name as the common name.

    Raises:
        ValueError: the name is too long for one.
    """
    return _issue(authority, name, [], now=now, days=days)


def _issue(
    authority: Issued,
    name: str,
    alternatives: Sequence[x509.GeneralName],
    *,
    now: datetime,
    days: int,
) -> Issued:
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    issuer_key = serialization.load_pem_private_key(authority.key, password=None)
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP256R1())
    # Only a server has names that it is reached under.
    purpose = ExtendedKeyUsageOID.SERVER_AUTH if alternatives else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        _builder(_subject(name), issuer.subject, key, now, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
    )
    if alternatives:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
    return _signed(builder, key, issuer_key)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: _Key, now: datetime, days: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now.astimezone(UTC) - _SKEW)
        .not_valid_after(now.astimezone(UTC) + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _signed(builder: x509.CertificateBuilder, key: _Key, issuer_key: _Key) -> Issued:
    certificate = builder.sign(issuer_key, hashes.SHA256())
    return Issued(
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        key_cert_sign=signs,
        crl_sign=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _host(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)
