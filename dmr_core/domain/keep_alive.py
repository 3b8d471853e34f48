"""How long an idle model stays loaded, in the notation of Go durations.

The wire format is the reference's: ``"5m0s"``, ``"0s"``, and ``"-1"`` for ever
(Go ``time.Duration.String`` and ``time.ParseDuration``).
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Final

import attrs

from dmr_core.errors import InvalidConfigurationError

__all__ = ["DEFAULT_KEEP_ALIVE", "KeepAlive"]

_UNITS: Final = {
    "h": 3_600_000_000_000,
    "m": 60_000_000_000,
    "s": 1_000_000_000,
    "ms": 1_000_000,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ns": 1,
}
_TERM: Final = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(h|ms|m|s|us|µs|μs|ns)")
_MAX_NANOSECONDS: Final = 2**63 - 1


@attrs.frozen(order=True)
class KeepAlive:
    """Idle time before unloading, in ``seconds``; infinity pins the model."""

    seconds: float

    @classmethod
    def forever(cls) -> KeepAlive:
        """Never unload for being idle."""
        return cls(math.inf)

    @property
    def is_forever(self) -> bool:
        """Whether this pins the model."""
        return math.isinf(self.seconds)

    @classmethod
    def parse(cls, text: str) -> KeepAlive:
        """Parse a Go duration, ``"0"``, or any negative duration (for ever).

        Raises:
            InvalidConfigurationError: ``text`` is none of these, or longer than about 292 years.
        """
        stripped = text.strip()
        if stripped == "0":
            return cls(0.0)
        negative = stripped.startswith("-")
        body = stripped[1:] if stripped[:1] in ("+", "-") else stripped
        if negative and body.isdigit():
            return cls.forever()
        nanoseconds = _nanoseconds(body)
        if nanoseconds is None or nanoseconds > _MAX_NANOSECONDS:
            raise InvalidConfigurationError(
                f"invalid keep_alive duration {text!r}: use a duration such as '10m' or '1h30m', '0' to unload at once, "
                "or '-1' to keep the model loaded",
                param="keep_alive",
            )
        return cls.forever() if negative else cls(nanoseconds / 1e9)

    def __str__(self) -> str:
        if self.is_forever:
            return "-1"
        return _go_duration(self.seconds)


DEFAULT_KEEP_ALIVE: Final = KeepAlive(300.0)
"""For models and services nobody said anything about; the reference's."""


def _nanoseconds(body: str) -> int | None:
    total, position = 0, 0
    for term in _TERM.finditer(body):
        if term.start() != position:
            return None
        total += int(Decimal(term[1]) * _UNITS[term[2]])
        position = term.end()
    return total if body and position == len(body) else None


def _go_duration(seconds: float) -> str:
    nanoseconds = round(seconds * 1e9)
    if nanoseconds == 0:
        return "0s"
    if nanoseconds < 1_000_000_000:
        for unit, scale in (("ms", 1_000_000), ("µs", 1_000), ("ns", 1)):
            if nanoseconds >= scale:
                return f"{Decimal(nanoseconds) / scale:f}{unit}"
    minutes, rest = divmod(nanoseconds, 60_000_000_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{Decimal(rest) / 1_000_000_000:f}s"
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text
