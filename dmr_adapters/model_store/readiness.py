"""Whether the store can be read and written now."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

from dmr_adapters.model_store.layout import StoreLayout

__all__ = ["store_problem"]


async def store_problem(root: Path) -> str:
    """What keeps the store at ``root`` from being read or written, ``""`` when nothing does.

    It reads the index and writes a byte, as permissions and file systems do not tell what would really happen.
    """
    return await asyncio.to_thread(_try, root)


def _try(root: Path) -> str:
    layout = StoreLayout(root.absolute())
    try:
        with layout.index_document.open("rb") as index:
            index.read(1)
    except OSError as exc:
        return f"cannot read {str(layout.index_document)!r}: {exc.strerror or exc}"
    try:
        with tempfile.TemporaryFile(dir=layout.temporary) as file:  # without a name, where the system can
            os.write(file.fileno(), b".")
    except OSError as exc:
        return f"cannot write to {str(layout.temporary)!r}: {exc.strerror or exc}"
    return ""
