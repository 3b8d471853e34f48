"""Content digests, as a type with one parser.

A digest names files and URLs, so a raw string never stands in for one. Only ``sha256`` with 64
lower-case hex digits is accepted (OCI image-spec, descriptor.md "Digests"; the reference runner
accepts exactly the same).
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

import attrs

from dmr_core.errors import InvalidRequestError

__all__ = ["Digest"]

_HEX: Final = re.compile(r"[0-9a-f]{64}")
_PREFIX: Final = "sha256:"
_SHORT: Final = 12


@attrs.frozen(order=True, repr=False)
class Digest:
    """A sha256 digest. ``hex`` is 64 lower-case hexadecimal digits."""

    hex: str = attrs.field()

    @hex.validator
    def _check(self, _attribute: object, value: str) -> None:
        if not _HEX.fullmatch(value):
            raise InvalidRequestError(f"invalid digest {value!r}: expected 64 lower-case hexadecimal digits")

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Parse ``sha256:<64 hex>``.

        Raises:
            InvalidRequestError: another algorithm, another length, upper case, or anything else.
        """
        if not text.startswith(_PREFIX):
            raise InvalidRequestError(f"unsupported hash: {text!r}: expected sha256:<64 hexadecimal digits>")
        return cls(text[len(_PREFIX) :])

    @classmethod
    def of(cls, data: bytes) -> Digest:
        """Digest of ``data``."""
        return cls(hashlib.sha256(data).hexdigest())

    @property
    def short(self) -> str:
        """The first twelve digits, as people see a model ID."""
        return self.hex[:_SHORT]

    def __str__(self) -> str:
        return _PREFIX + self.hex

    def __repr__(self) -> str:
        return f"Digest({self.hex!r})"
