"""Which layout a store has."""

from __future__ import annotations

import logging
import re
from typing import Any, Final

import orjson

from dmr_adapters.model_store.layout import LAYOUT_VERSION, StoreLayout
from dmr_core.errors import PreconditionError

__all__ = ["check_version"]

_log: Final = logging.getLogger(__name__)
_VERSION: Final = re.compile(r"(\d{1,9})\.")
_MAJOR: Final = int(LAYOUT_VERSION.partition(".")[0])


def check_version(layout: StoreLayout) -> None:
    """Refuse a store of a newer layout.

    Raises:
        PreconditionError: says which.
    """
    try:
        document: Any = orjson.loads(layout.layout_document.read_bytes())
    except FileNotFoundError:
        return
    except (OSError, orjson.JSONDecodeError) as exc:
        # Nothing but this check reads it, neither here nor in the reference.
        _log.warning("ignoring %s: %s", layout.layout_document, exc)
        return
    version = document.get("version") if isinstance(document, dict) else None
    found = _VERSION.match(version) if isinstance(version, str) else None
    if found and int(found[1]) > _MAJOR:
        raise PreconditionError(
            f"the model store at {str(layout.root)!r} has layout {version}, and this dmr knows {LAYOUT_VERSION}:"
            " upgrade dmr, or set MODELS_PATH to another directory"
        )
