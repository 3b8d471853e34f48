"""Values that nobody may see: neither a log, nor an error, nor who looks at what a service holds in memory."""

from __future__ import annotations

import attrs

__all__ = ["Login", "Secret"]


@attrs.frozen(repr=False, str=False)
class Secret:
    """A key or token. Shown as ``***`` wherever it is printed; :meth:`reveal` is for whom it is meant."""

    _value: str

    def reveal(self) -> str:
        """The value itself."""
        return self._value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __repr__(self) -> str:
        return "Secret(***)"

    def __str__(self) -> str:
        return "***"


@attrs.frozen
class Login:
    """What to log in to ``registry`` with, and to no other. An ``identity_token`` stands for both of the others."""

    registry: str
    username: str = ""
    password: Secret = attrs.field(factory=lambda: Secret(""))
    identity_token: Secret = attrs.field(factory=lambda: Secret(""))
