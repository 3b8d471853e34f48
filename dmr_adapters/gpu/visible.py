"""Which devices a variable such as ``CUDA_VISIBLE_DEVICES`` leaves visible.

The rules are CUDA's (CUDA C++ Programming Guide, "CUDA Environment Variables"), which HIP, ROCr, MUSA and CANN follow: numbers or
unambiguous beginnings of UUIDs, in the order in which programs shall see the devices. The first entry that names nothing
ends the list, so ``-1`` hides all; an entry given twice leaves none.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

__all__ = ["Selection", "select_visible"]


@attrs.frozen
class Selection:
    """``kept`` are positions in what there was, in the order programs see them; ``broken`` is the entry that ended the list."""

    kept: tuple[int, ...]
    broken: str = ""


def select_visible(value: str | None, uuids: Sequence[str]) -> Selection:
    """What ``value`` leaves of devices with these UUIDs (empty where one has none); all of them where it is ``None``."""
    if value is None:
        return Selection(tuple(range(len(uuids))))
    kept: list[int] = []
    entries = [entry.strip() for entry in value.split(",")] if value.strip() else []
    for entry in entries:
        position = _position(entry, uuids)
        if position is None:
            return Selection(tuple(kept), entry or "an empty entry")
        if position in kept:
            return Selection((), entry)
        kept.append(position)
    return Selection(tuple(kept))


def _position(entry: str, uuids: Sequence[str]) -> int | None:
    if entry.isascii() and entry.isdigit():
        return int(entry) if len(entry) < 6 and int(entry) < len(uuids) else None
    found = [position for position, uuid in enumerate(uuids) if entry and uuid.casefold().startswith(entry.casefold())]
    return found[0] if len(found) == 1 else None
