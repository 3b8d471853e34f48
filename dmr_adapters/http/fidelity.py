"""What became of the fields of a request: which were ignored, which were changed, and what stands in for them.

Told in headers of the answer, or, to who asked for strictness (``DMR-Strict: 1``), by a refusal.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final
from urllib.parse import quote

import attrs
import msgspec

from dmr_adapters.http.services import Services
from dmr_core.errors import UnsupportedFieldError

__all__ = ["DMR_STRICT", "INERT", "Fidelity", "Honoured", "ignored_fields", "is_strict"]

DMR_STRICT: Final = b"dmr-strict"
"""The request's header that turns what would be ignored into an error. Any value but ``0`` and ``false`` counts."""

INERT: Final = frozenset(
    {
        # dmr's own; engines pass over it.
        "keep_alive",
        # Say who asks, or how a hosted service is to bill, cache or keep it: none is about the answer.
        *("user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "service_tier"),
    }
)
"""Fields that no engine has to honour for the answer to be what was asked for."""

_MAX_NAMES: Final = 32
_MAX_NAME: Final = 64
_NAME_SAFE: Final = "._-[]"
_NULL: Final = msgspec.Raw(b"null")


@attrs.define(eq=False)
class Fidelity:
    """What is known of one request. ``clamped`` has for each field what became of it.

    ``emulated`` names what dmr does in the engine's place, which may be slower, or come out a little otherwise.
    """

    ignored: list[str] = attrs.field(factory=list)
    clamped: dict[str, str] = attrs.field(factory=dict)
    emulated: list[str] = attrs.field(factory=list)

    def headers(self) -> list[tuple[bytes, bytes]]:
        """``DMR-Ignored``, ``DMR-Clamped`` and ``DMR-Emulated``, each where there is something to tell.

        Lists of names, separated by commas. Whatever is not a plain character of a name is percent-encoded (RFC 3986,
        section 2.1): clients choose these names. Of more than 32 the rest are counted.
        """
        found = []
        if self.ignored:
            found.append((b"dmr-ignored", _list(map(_name, self.ignored), len(self.ignored))))
        if self.clamped:
            pairs = (f"{_name(field)}={_name(now)}" for field, now in self.clamped.items())
            found.append((b"dmr-clamped", _list(pairs, len(self.clamped))))
        if self.emulated:
            found.append((b"dmr-emulated", _list(map(_name, self.emulated), len(self.emulated))))
        return found

    def insist(self) -> None:
        """Nothing may be ignored or clamped; emulation is fine, it does what was asked.

        Raises:
            UnsupportedFieldError: names what would be.
        """
        wrong = [*self.ignored, *self.clamped]
        if not wrong:
            return
        shown = ", ".join(repr(name[:_MAX_NAME]) for name in wrong[:_MAX_NAMES])
        does = "would be ignored" if self.ignored else "would be changed"
        if self.ignored and self.clamped:
            does = "would be ignored or changed"
        raise UnsupportedFieldError(
            f"{shown} {does} by the engine that serves this model: leave it out, or ask without DMR-Strict",
            param=wrong[0][:_MAX_NAME],
        )


class Honoured:
    """Which fields each engine honours, looked up once for each path."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._known: dict[tuple[str, str], frozenset[str] | None] = {}

    def fields(self, backend: str, path: str) -> frozenset[str] | None:
        """Fields ``backend`` honours on ``path``, with those nobody has to; ``None`` where that is not known."""
        try:
            return self._known[backend, path]
        except KeyError:
            capabilities = self._services.backends.get(backend).spec.capabilities
            fields = capabilities().honoured(path) if capabilities is not None else None
            self._known[backend, path] = found = None if fields is None else fields | INERT
            return found


def ignored_fields(fields: dict[str, msgspec.Raw], honoured: Collection[str]) -> list[str]:
    """Fields of a body that nobody honours. One that is ``null`` is not there."""
    return [name for name, value in fields.items() if name not in honoured and value != _NULL]


def is_strict(value: bytes) -> bool:
    """Whether a value of the header asks for strictness."""
    return value.strip().lower() not in (b"", b"0", b"false")


def _name(text: str) -> str:
    return quote(text[:_MAX_NAME], safe=_NAME_SAFE, errors="replace")


def _list(names: Iterable[str], count: int) -> bytes:
    shown = [name for name, _ in zip(names, range(_MAX_NAMES), strict=False)]
    if count > _MAX_NAMES:
        shown.append(f"+{count - _MAX_NAMES}")
    return ", ".join(shown).encode("ascii")
