"""The key's hash, and the file it is kept in."""

from __future__ import annotations

import hashlib

import pytest

from dmr_core.domain.api_key import ApiKeyHash, key_document
from dmr_core.errors import InvalidConfigurationError


def test_a_key_opens_what_its_hash_closes() -> None:
    closed = ApiKeyHash.parse(key_document("dmr_secret"))

    assert closed.opens(b"dmr_secret")
    assert not closed.opens(b"dmr_secret ")
    assert not closed.opens(b"")
    assert not closed.opens(str(closed).encode())


def test_the_document_holds_the_hash_alone() -> None:
    document = key_document("dmr_secret")

    assert "sha256:" + hashlib.sha256(b"dmr_secret").hexdigest() in document
    assert "dmr_secret" not in document


@pytest.mark.parametrize(
    "document",
    [
        "",
        "# nothing but words\n",
        "dmr_a-key-in-the-clear",
        "sha256:",
        "sha256:" + "0" * 63,
        "sha256:" + "0" * 65,
        "sha256:" + "g" * 64,
        "0" * 64,
        f"sha256:{'0' * 64}\nsha256:{'1' * 64}",
    ],
)
def test_anything_else_is_refused_and_not_quoted(document: str) -> None:
    with pytest.raises(InvalidConfigurationError) as caught:
        ApiKeyHash.parse(document)

    assert "dmr_a-key" not in caught.value.message


def test_a_hash_in_capitals_with_blank_lines_is_fine() -> None:
    assert ApiKeyHash.parse(f"\n# note\n\n  sha256:{'AB' * 32}  \n") == ApiKeyHash(b"\xab" * 32)


def test_the_hash_is_not_shown_where_settings_are() -> None:
    assert repr(ApiKeyHash.of("x")) == "ApiKeyHash(…)"
