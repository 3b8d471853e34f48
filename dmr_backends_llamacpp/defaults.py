"""What llama.cpp is told where the operator says nothing."""

from __future__ import annotations

from typing import Final

__all__ = ["DEFAULT_ARGUMENTS"]

DEFAULT_ARGUMENTS: Final = ("-ngl", "999", "--metrics")
