"""What searching finds: models that could be pulled, in words that are safe to show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import attrs

__all__ = ["MAX_DESCRIPTION", "MAX_NAME", "UNKNOWN_BACKEND", "SearchHit", "backends_of", "merged", "plain"]

UNKNOWN_BACKEND: Final = "unknown"
MAX_NAME: Final = 255
MAX_DESCRIPTION: Final = 50
_BACKENDS: Final = {".gguf": "llama.cpp", ".safetensors": "vllm", ".dduf": "diffusers"}


@attrs.frozen(kw_only=True)
class SearchHit:
    """A model that a hub has. ``size`` in bytes, 0 where unknown; ``updated_at`` as the hub writes it.

    ``reference`` is what to pull; ``name`` is the hub's own name for it. ``backend`` is the engines that could serve
    it, separated by ``", "``, as far as its files tell.
    """

    name: str
    reference: str
    source: str
    description: str = ""
    downloads: int = 0
    stars: int = 0
    official: bool = False
    updated_at: str = ""
    backend: str = UNKNOWN_BACKEND
    size: int = 0


def plain(text: str, limit: int) -> str:
    """``text`` as one line of at most ``limit`` characters that cannot drive a terminal.

    Whitespace of any kind becomes one space; what cannot be printed goes: control characters, and those that turn
    the direction of writing or take no room.
    """
    cut = text[: limit * 8]  # nobody needs the rest of a very long one
    line = " ".join("".join(each if each.isprintable() else " " if each.isspace() else "" for each in cut).split())
    return line if len(line) <= limit else line[: limit - 3].rstrip() + "..."


def backends_of(file_names: Iterable[str]) -> str:
    """The engines for files of these names, in one order; ``unknown`` where there are no weights among them."""
    endings = {name.lower()[name.rfind(".") :] for name in file_names if "." in name}
    found = [backend for ending, backend in _BACKENDS.items() if ending in endings]
    return ", ".join(found) or UNKNOWN_BACKEND


def merged(found: Sequence[Sequence[SearchHit]], limit: int) -> tuple[SearchHit, ...]:
    """The hits of all sources in the order of the sources, the most downloaded of each first, ``limit`` at most.

    No source is cut off by another that has more: each keeps its even share, and what one leaves the others take.
    """
    ordered = [sorted(hits, key=lambda hit: -hit.downloads) for hits in found]
    shares = [0] * len(ordered)
    left = limit
    while left > 0 and any(share < len(hits) for share, hits in zip(shares, ordered, strict=True)):
        for index, hits in enumerate(ordered):
            if left > 0 and shares[index] < len(hits):
                shares[index] += 1
                left -= 1
    return tuple(hit for share, hits in zip(shares, ordered, strict=True) for hit in hits[:share])
