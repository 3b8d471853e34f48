"""Checking a store without a service: after a crash people look before they start anything."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dmr_cli.server.management import build_maintenance
from dmr_cli.server.settings import read_settings
from dmr_core.domain.store_document import check_document
from dmr_core.domain.store_report import CheckProgress

__all__ = ["check_here"]


def check_here(path: Path | None, *, repair: bool, quick: bool, progress: Callable[[int, int], None]) -> dict[str, Any]:
    """Check the store at ``path``, or where the settings say; the report, as the service would send it.

    ``progress`` is told how many bytes of how many were read. Running services keep on working meanwhile.

    Raises:
        DmrError: there is no store, or it cannot be locked or written.
    """

    def watch(seen: CheckProgress) -> None:
        progress(seen.done, seen.total)

    place = path or read_settings(os.environ).models_path
    report = asyncio.run(build_maintenance(place).check(repair=repair, deep=not quick, progress=watch))
    return check_document(report)
