"""Searching without a service, in the answer's own form."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import attrs

from dmr_cli.server.bootstrap import open_search
from dmr_cli.server.settings import read_settings

__all__ = ["search"]


def search(term: str, limit: int, source: str) -> dict[str, Any]:
    """What ``GET /dmr/v1/search`` would answer.

    Raises:
        DmrError: every hub failed, or a setting is wrong.
    """
    return asyncio.run(_search(term, limit, source))


async def _search(term: str, limit: int, source: str) -> dict[str, Any]:
    async with open_search(read_settings(os.environ)) as service:
        outcome = await service.search(term, limit=limit, source=source)
    return {"hits": [attrs.asdict(hit) for hit in outcome.hits], "warnings": list(outcome.warnings)}
