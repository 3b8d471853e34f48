"""Certificates that the service makes for itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import attrs
import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID

from dmr_adapters.tls.authority import LOCAL_NAMES, RENEW_BEFORE, Identity, issue

NOW = datetime(2026, 7, 1, tzinfo=UTC)
DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def identity() -> Identity:
    return issue(LOCAL_NAMES, NOW)


def test_they_are_what_clients_of_the_reference_expect(identity: Identity) -> None:
    authority = x509.load_pem_x509_certificate(identity.authority)
    server = x509.load_pem_x509_certificate(identity.server)
    server.verify_directly_issued_by(authority)

    def named(name: x509.Name, what: x509.ObjectIdentifier) -> str | bytes:
        return name.get_attributes_for_oid(what)[0].value

    assert named(authority.subject, NameOID.COMMON_NAME) == "Docker Model Runner CA"
    assert named(authority.subject, NameOID.ORGANIZATIONAL_UNIT_NAME) == "Self-Signed CA"
    assert named(server.subject, NameOID.COMMON_NAME) == "localhost"
    assert (server.not_valid_after_utc - NOW, authority.not_valid_after_utc - NOW) == (365 * DAY, 3650 * DAY)
    assert server.not_valid_before_utc == NOW - timedelta(hours=1)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "docker-model-runner"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1", "0.0.0.0", "::"]
    assert authority.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 1
    for document in (identity.authority_key, identity.server_key):
        assert document.startswith(b"-----BEGIN EC PRIVATE KEY-----")


def test_a_certificate_is_used_until_a_month_before_its_end(identity: Identity) -> None:
    last = NOW + 365 * DAY - RENEW_BEFORE

    assert identity.serves(LOCAL_NAMES, NOW)
    assert identity.serves(LOCAL_NAMES, last)
    assert not identity.serves(LOCAL_NAMES, last + DAY)


def test_another_name_asks_for_another_certificate_of_the_same_authority(identity: Identity) -> None:
    names = (*LOCAL_NAMES, "llm.example", "192.0.2.7")
    assert not identity.serves(names, NOW)
    renewed = issue(names, NOW, identity)

    assert renewed.serves(names, NOW)
    assert renewed.authority == identity.authority
    assert renewed.server != identity.server


def test_an_authority_near_its_end_is_replaced(identity: Identity) -> None:
    late = NOW + 3400 * DAY

    assert issue(LOCAL_NAMES, late, identity).authority != identity.authority
    assert issue(LOCAL_NAMES, late, identity).serves(LOCAL_NAMES, late)


@pytest.mark.parametrize("field", ["authority", "authority_key", "server", "server_key"])
@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_what_does_not_belong_together_is_made_again(identity: Identity, field: str, damage: bytes | None) -> None:
    """``None``: the document of somebody else."""
    other = damage if damage is not None else getattr(issue(LOCAL_NAMES, NOW), field)
    damaged = attrs.evolve(identity, **{field: other})

    assert not (damaged.serves(LOCAL_NAMES, NOW) and damaged.authority_serves(NOW))
    assert issue(LOCAL_NAMES, NOW, damaged).serves(LOCAL_NAMES, NOW)


def test_keys_are_not_shown(identity: Identity) -> None:
    assert "PRIVATE" not in repr(identity)
