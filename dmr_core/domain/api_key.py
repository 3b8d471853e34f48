"""The one key that opens the service, and its hash, which is all that the service keeps of it.

A key is 32 random bytes (RFC 4086 asks for 16), so a plain SHA-256 says nothing about it: no salt, no stretching.
The file holds the hash alone, as ``sha256:HEX``; blank lines and lines that begin with ``#`` are passed over.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final, Self

import attrs

from dmr_core.errors import InvalidConfigurationError

__all__ = ["KEY_BYTES", "KEY_PREFIX", "ApiKeyHash", "key_document"]

KEY_BYTES: Final = 32
KEY_PREFIX: Final = "dmr_"
MAX_DOCUMENT: Final = 4096
"""Bytes of a key file that are read at most."""
_SCHEME: Final = "sha256:"
_DIGITS: Final = frozenset("0123456789abcdef")


@attrs.frozen(repr=False)
class ApiKeyHash:
    """The SHA-256 of a key."""

    digest: bytes

    @classmethod
    def of(cls, key: str) -> Self:
        """The hash of ``key``."""
        return cls(hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest())

    @classmethod
    def parse(cls, document: str) -> Self:
        """The hash in the text of a key file.

        Raises:
            InvalidConfigurationError: there is none, more than one, or something else; never quotes it: people put
                keys there.
        """
        lines = [line.strip() for line in document.splitlines()]
        values = [line for line in lines if line and not line.startswith("#")]
        if len(values) != 1:
            raise InvalidConfigurationError(f"expected one line sha256:HEX, found {len(values)}")
        digits = values[0].removeprefix(_SCHEME).lower()
        if digits == values[0].lower() or len(digits) != 64 or not _DIGITS.issuperset(digits):
            raise InvalidConfigurationError("it holds no hash of the form sha256:HEX")
        return cls(bytes.fromhex(digits))

    def opens(self, presented: bytes) -> bool:
        """Whether ``presented`` is the key; takes as long whatever it is."""
        return hmac.compare_digest(hashlib.sha256(presented).digest(), self.digest)

    def __str__(self) -> str:
        return _SCHEME + self.digest.hex()

    def __repr__(self) -> str:
        return "ApiKeyHash(…)"


def key_document(key: str) -> str:
    """The text of a key file for ``key``."""
    return f"# The hash of a dmr API key, for DMR_API_KEY_FILE. The key itself cannot be found out from it.\n{ApiKeyHash.of(key)}\n"
