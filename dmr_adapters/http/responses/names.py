"""Names of responses and of what is in them: a prefix and 24 characters, about 124 bits that nobody can guess."""

from __future__ import annotations

import re
import secrets
import string
from typing import Final

__all__ = ["is_response_id", "new_id"]

_ALPHABET: Final = string.ascii_lowercase + string.digits
_LENGTH: Final = 24
_RESPONSE: Final = re.compile(r"resp_[A-Za-z0-9_-]{1,100}")


def new_id(prefix: str) -> str:
    """A new name, as in ``resp_k3v0…``."""
    return f"{prefix}_" + "".join(secrets.choice(_ALPHABET) for _ in range(_LENGTH))


def is_response_id(text: str) -> bool:
    """Whether it can be the name of a response at all."""
    return _RESPONSE.fullmatch(text) is not None
