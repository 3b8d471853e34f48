"""What became of the fields of a request: which were ignored, which were changed, and what stands in for them.

Told in headers of the answer, or, to who asked for strictness (``DMR-Strict: 1``), by a refusal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import quote

import attrs
import msgspec

from dmr_adapters.http.services import Services
from dmr_core.domain.capability import Capabilities
from dmr_core.errors import UnsupportedFieldError

__all__ = ["DMR_STRICT", "INERT", "Fidelity", "Honoured", "HonouredFields", "is_strict"]

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
_SPACE: Final = re.compile(rb"[ \t\r\n]+")  # values that are compared have none in their strings


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


@attrs.define(eq=False)
class Honoured:
    """What an engine honours on a path. ``fields`` is ``None`` where that is not known; else it has also those nobody
    has to honour, and lacks those of which only some ``values`` are honoured.
    """

    fields: frozenset[str] | None = None
    values: Mapping[str, frozenset[bytes]] = attrs.field(factory=dict)

    def ignored(self, fields: Mapping[str, msgspec.Raw]) -> list[str]:
        """Fields of a body that have no effect. One that is ``null`` is not there. Mostly one comparison of two sets."""
        if self.fields is None or self.fields.issuperset(fields):
            return []
        return [
            name
            for name, value in fields.items()
            if name not in self.fields
            and value != _NULL
            and not (name in self.values and _SPACE.sub(b"", bytes(value)) in self.values[name])
        ]

    def takes(self, name: str) -> bool:
        """Whether a field is honoured, in some value at least."""
        return self.fields is None or name in self.fields or name in self.values


class HonouredFields:
    """What each engine honours, looked up once for each path."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._known: dict[tuple[str, str], Honoured] = {}

    def of(self, backend: str, path: str) -> Honoured:
        """What ``backend`` honours on ``path``."""
        try:
            return self._known[backend, path]
        except KeyError:
            self._known[backend, path] = found = self._look(backend, path)
            return found

    def _look(self, backend: str, path: str) -> Honoured:
        told = self._services.backends.get(backend).spec.capabilities
        capabilities = told() if told is not None else Capabilities()
        fields = capabilities.honoured(path)
        if fields is None:
            return Honoured()
        values = capabilities.honoured_values(path)
        return Honoured((fields | INERT) - values.keys(), values)


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
