"""``/engines``: OpenAI's model listing, and the administration of engines."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from dmr_adapters.http.asgi import read_body
from dmr_adapters.http.background import BackgroundTasks
from dmr_adapters.http.configure_body import ConfigureBody
from dmr_adapters.http.errors import error_response, is_stock_cli, not_found_text, plain_text, status_of
from dmr_adapters.http.listing import ModelListing
from dmr_adapters.http.rest_json import (
    UnloadBody,
    configured_json,
    decode,
    json_response,
    openai_model_json,
    plugins_json,
    runner_json,
    unloaded_json,
)
from dmr_adapters.http.services import Services
from dmr_core.domain.engine import EngineMode
from dmr_core.errors import (
    BackendNotFoundError,
    BodyTooLargeError,
    DmrError,
    InvalidReferenceError,
    InvalidRequestError,
    ModelNotFoundError,
    RunnerActiveError,
)

__all__ = ["EnginesApi"]

_PRELOAD_TIMEOUT: Final = 600.0
_BUSY: Final = "runner already active"
"""All that the stock CLI is told of a runner that would have to be restarted."""
_MEASURE_TIMEOUT: Final = 1.0


class EnginesApi:
    """Handlers of ``/engines`` and of ``/v1/models``."""

    def __init__(self, services: Services, background: BackgroundTasks) -> None:
        self._services = services
        self._background = background
        self._listing = ModelListing(services.catalog, openai_model_json, b'{"object":"list","data":[', b"]}\n")

    # --- OpenAI's listing

    async def models(self, request: Request) -> Response:
        """``GET /engines/[{backend}/]v1/models``."""
        if (refusal := self._unknown_backend(request)) is not None:
            return refusal
        return await self._listing.answer(request)

    async def model(self, request: Request) -> Response:
        """``GET /engines/[{backend}/]v1/models/{name}``."""
        if (refusal := self._unknown_backend(request)) is not None:
            return refusal
        name = request.path_params["name"]
        try:
            return json_response(openai_model_json(await self._services.catalog.find_fresh(name), name))
        except ModelNotFoundError as exc:
            return error_response(exc, openai=not _stock(request), message=not_found_text(name))
        except DmrError as exc:
            return error_response(exc, openai=not _stock(request))

    def _unknown_backend(self, request: Request) -> Response | None:
        name = request.path_params.get("backend")
        if name is None:
            return None
        try:
            self._services.backends.get(name)
        except BackendNotFoundError as exc:
            return error_response(exc, openai=not _stock(request), message="backend not found")
        return None

    # --- administration

    async def ps(self, _request: Request) -> Response:
        """``GET /engines/ps``."""
        with suppress(TimeoutError):  # an older figure is better than a late answer
            async with asyncio.timeout(_MEASURE_TIMEOUT):
                await self._services.scheduler.measure()
        clock, default = self._services.clock, self._services.settings.keep_alive
        now, wall = clock.monotonic(), clock.time()
        return json_response([runner_json(view, now, wall, default) for view in self._services.scheduler.runners()])

    async def df(self, _request: Request) -> Response:
        """``GET /engines/df``. Engines come with their plugins' packages, so their share is 0."""
        used = await self._services.catalog.disk_usage()
        return json_response({"models_disk_usage": used, "default_backend_disk_usage": 0})

    async def unload(self, request: Request) -> Response:
        """``POST /engines/unload``; answers once the engines that were idle are gone."""
        try:
            body = decode(await read_body(request.receive, self._services.settings.max_body), UnloadBody)
        except BodyTooLargeError:
            return plain_text("request too large", 400)
        except InvalidRequestError as exc:
            return plain_text(exc.message.replace("invalid request body", "invalid request"), 400)
        inference, scheduler = self._services.inference, self._services.scheduler
        chosen = inference.unload(
            models=tuple(body.models or ()), backend=body.backend or "", everything=bool(body.all)
        )
        await scheduler.settled(view.id for view in chosen if not view.leases)
        return json_response({"unloaded_runners": len(chosen), "runners": [unloaded_json(view) for view in chosen]})

    async def configure(self, request: Request) -> Response:
        """``POST`` or ``PATCH /engines/[{backend}/]_configure``: store settings, then load the model with them in the background.

        A body with ``reset`` is what :meth:`reset` is, and answered alike.
        """
        try:
            body = ConfigureBody.read(await read_body(request.receive, self._services.settings.max_body))
            await self._services.catalog.find_fresh(body.model)
            if body.draft:
                with suppress(
                    ModelNotFoundError, InvalidReferenceError
                ):  # whether it may be missing is not decided here
                    await self._services.catalog.find_fresh(body.draft)
            backend = request.path_params.get("backend")
            if body.reset:
                count = await self._services.inference.reset(body.model, body.only, backend)
                return json_response({"forgotten": count})
            plan = await self._services.inference.configure(body.model, body.mode, backend, body.change)
        except BackendNotFoundError:
            return plain_text("backend not found", 404)
        except ModelNotFoundError as exc:
            return plain_text(not_found_text(exc.reference), 404)
        except RunnerActiveError as exc:
            return plain_text(_BUSY if _stock(request) else exc.message, status_of(exc))
        except DmrError as exc:
            return plain_text(exc.message, 400 if isinstance(exc, BodyTooLargeError) else status_of(exc))
        self._background.start(
            self._services.inference.preload(plan), f"preload-{plan.alias}", timeout=_PRELOAD_TIMEOUT
        )
        return Response(status_code=202)

    async def configured(self, request: Request) -> Response:
        """``GET /engines/_configure[?model=…]``."""
        entries = self._services.inference.configured(request.query_params.get("model"))
        return json_response([configured_json(entry) for entry in entries])

    async def reset(self, request: Request) -> Response:
        """``DELETE /engines/[{backend}/]_configure?model=…[&mode=…]``: forget settings."""
        name, mode = request.query_params.get("model"), request.query_params.get("mode")
        try:
            if not name:
                raise InvalidRequestError("model is required", param="model")
            await self._services.catalog.find_fresh(name)
            count = await self._services.inference.reset(
                name, EngineMode.parse(mode) if mode else None, request.path_params.get("backend")
            )
        except ModelNotFoundError as exc:
            return plain_text(not_found_text(exc.reference), 404)
        except DmrError as exc:
            return plain_text(exc.message, status_of(exc))
        return json_response({"forgotten": count})

    async def plugins(self, _request: Request) -> Response:
        """``GET /dmr/v1/plugins``."""
        return json_response(plugins_json(self._services.plugins(), self._services.detections))


def _stock(request: Request) -> bool:
    return is_stock_cli(request.headers.get("user-agent", ""))
