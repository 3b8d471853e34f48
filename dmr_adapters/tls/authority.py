"""A certificate authority of one machine: it signs one server certificate, and clients trust it by its file.

Contents as the reference makes them, so that its CLI trusts ours: ECDSA on P-256, an authority for ten years, a server
for one, all names in the subject alternative name (RFC 6125). What differs: an authority that is still good is kept when
the server's certificate is renewed, so that whoever copied it need not do it again.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Final

import attrs
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["LOCAL_NAMES", "RENEW_BEFORE", "Identity", "issue"]

LOCAL_NAMES: Final = ("localhost", "docker-model-runner", "127.0.0.1", "::1", "0.0.0.0", "::")  # noqa: S104 - names
RENEW_BEFORE: Final = timedelta(days=30)
_AUTHORITY_LIFE: Final = timedelta(days=3650)
_SERVER_LIFE: Final = timedelta(days=365)
_CLOCK_SKEW: Final = timedelta(hours=1)
_ORGANIZATION: Final = "Docker Model Runner"


@attrs.frozen(kw_only=True, repr=False)
class Identity:
    """Four PEM documents: the authority and the server, each with its key."""

    authority: bytes
    authority_key: bytes
    server: bytes
    server_key: bytes

    def serves(self, names: Collection[str], now: datetime) -> bool:
        """Whether it is whole, has a month to live, and is for all of ``names``."""
        try:
            authority = x509.load_pem_x509_certificate(self.authority)
            server = x509.load_pem_x509_certificate(self.server)
            server.verify_directly_issued_by(authority)
            matched = _is_key_of(self.server_key, server)
            known = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
            return False
        soon = now + RENEW_BEFORE
        alive = min(server.not_valid_after_utc, authority.not_valid_after_utc) >= soon
        return matched and alive and all(general in known for general in _general_names(names))

    def authority_serves(self, now: datetime) -> bool:
        """Whether the authority is whole and outlives another server certificate."""
        try:
            authority = x509.load_pem_x509_certificate(self.authority)
            return _is_key_of(self.authority_key, authority) and authority.not_valid_after_utc >= now + _SERVER_LIFE
        except (ValueError, TypeError):
            return False


def issue(names: Collection[str], now: datetime, former: Identity | None = None) -> Identity:
    """An identity for ``names``, signed by the authority of ``former`` where that is still good."""
    if former is not None and former.authority_serves(now):
        authority = x509.load_pem_x509_certificate(former.authority)
        signing = serialization.load_pem_private_key(former.authority_key, None)
        assert isinstance(signing, ec.EllipticCurvePrivateKey)  # noqa: S101 - it is the key of the certificate
        key_document = former.authority_key
    else:
        signing = ec.generate_private_key(ec.SECP256R1())
        authority, key_document = _authority(signing, now), _key_document(signing)
    key = ec.generate_private_key(ec.SECP256R1())
    return Identity(
        authority=authority.public_bytes(serialization.Encoding.PEM),
        authority_key=key_document,
        server=_server(key, names, now, authority, signing).public_bytes(serialization.Encoding.PEM),
        server_key=_key_document(key),
    )


def _authority(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    name = _name("Self-Signed CA", "Docker Model Runner CA")
    builder = _builder(name, name, key.public_key(), now, _AUTHORITY_LIFE)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return builder.add_extension(identifier, critical=False).sign(key, hashes.SHA256())


def _server(
    key: ec.EllipticCurvePrivateKey,
    names: Collection[str],
    now: datetime,
    authority: x509.Certificate,
    signing: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    builder = _builder(_name("Server", "localhost"), authority.subject, key.public_key(), now, _SERVER_LIFE)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(_general_names(names)), critical=False)
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key())
    return builder.add_extension(issuer, critical=False).sign(signing, hashes.SHA256())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, life: timedelta
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number())
    return builder.not_valid_before(now - _CLOCK_SKEW).not_valid_after(now + life)


def _name(unit: str, common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANIZATION),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            x509.NameAttribute(NameOID.COMMON_NAME, common),
        ]
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_encipherment=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_names(names: Collection[str]) -> list[x509.GeneralName]:
    found: list[x509.GeneralName] = []
    for name in dict.fromkeys(names):
        try:
            found.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            found.append(x509.DNSName(name))
    return found


def _is_key_of(document: bytes, certificate: x509.Certificate) -> bool:
    key = serialization.load_pem_private_key(document, None)
    return isinstance(key, ec.EllipticCurvePrivateKey) and key.public_key() == certificate.public_key()


def _key_document(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
