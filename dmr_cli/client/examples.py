"""Examples at the end of a command's ``--help``."""

from __future__ import annotations

__all__ = ["examples"]


def examples(*lines: str) -> str:
    """An epilog that click leaves as it is written."""
    return "\b\n" + "\n".join(["Examples:", *(f"  {line}" for line in lines)])
