"""``GET /api/tags`` and ``GET /api/ps``."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response

from dmr_adapters.http.ollama.context import context_of
from dmr_adapters.http.ollama.lines import rfc3339
from dmr_adapters.http.ollama.names import ZERO_TIME, details_of
from dmr_adapters.http.rest_json import json_response
from dmr_adapters.http.services import Services
from dmr_core.domain.model import Model
from dmr_core.services.inference import Plan
from dmr_core.services.scheduling.lease import RunnerView

__all__ = ["ListingApi", "modified"]

_MEASURE_TIMEOUT: Final = 1.0


class ListingApi:
    """What is in the store, and what is loaded."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def tags(self, _request: Request, _content: bytes) -> Response:
        """``GET /api/tags``: one entry per tag."""
        await self._services.catalog.refresh()
        models = self._services.catalog.list()
        times = await modified(self._services, models)
        listed = [
            {
                "name": tag,
                "model": tag,
                "modified_at": time,
                "size": model.size,
                "digest": model.id.hex,
                "details": details_of(model),
            }
            for model, time in zip(models, times, strict=True)
            for tag in model.tags or (str(model.id),)
        ]
        return json_response({"models": listed})

    async def ps(self, _request: Request, _content: bytes) -> Response:
        """``GET /api/ps``."""
        with suppress(TimeoutError):  # an older figure is better than a late answer
            async with asyncio.timeout(_MEASURE_TIMEOUT):
                await self._services.scheduler.measure()
        return json_response({"models": [self._runner(view) for view in self._services.scheduler.runners()]})

    def _runner(self, view: RunnerView) -> dict[str, Any]:
        model = self._services.catalog.by_id(view.key.model_id)
        device = view.footprint.device if view.footprint is not None else view.needs.device
        host = view.footprint.resident if view.footprint is not None else view.needs.host
        entry: dict[str, Any] = {
            "name": view.alias,
            "model": view.alias,
            "size": host + device,
            "digest": view.key.model_id.hex,
            "details": details_of(model) if model is not None else {},
            "expires_at": self._expiry(view),
            "size_vram": device,
        }
        if model is not None:
            context = context_of(self._services, Plan(view.key, view.alias), model)
            if context is not None:
                entry["context_length"] = context
        return entry

    def _expiry(self, view: RunnerView) -> str:
        """When the runner goes, if nobody asks it anything before; never, while it is busy or pinned."""
        if view.idle_since is None or view.keep_alive.is_forever:
            return ZERO_TIME
        clock = self._services.clock
        left = view.idle_since + view.keep_alive.seconds - clock.monotonic()
        try:
            return rfc3339(clock.time() + max(0.0, left))
        except (OverflowError, ValueError, OSError):
            return ZERO_TIME  # further away than calendars go


async def modified(services: Services, models: tuple[Model, ...]) -> list[str]:
    """When each model came into this store; where that is not known, when it was made."""
    paths = [services.store.blob_file(model.manifest.config.digest) for model in models]
    found = await asyncio.to_thread(lambda: [_changed(path) for path in paths])
    return [rfc3339(time) if time is not None else _made(model) for model, time in zip(models, found, strict=True)]


def _changed(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None


def _made(model: Model) -> str:
    return rfc3339(model.config.created_unix) if model.config.created_unix else ZERO_TIME
