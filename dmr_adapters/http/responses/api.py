"""``/v1/responses`` and what is below it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import nullcontext
from typing import Any, Final

import orjson
from starlette.requests import Request
from starlette.responses import Response

from dmr_adapters.http.asgi import ClientGoneError, read_body
from dmr_adapters.http.errors import error_response, not_found_text
from dmr_adapters.http.event_stream import EventStream
from dmr_adapters.http.fidelity import DMR_STRICT, Fidelity, is_strict
from dmr_adapters.http.inference.app import InferenceApp
from dmr_adapters.http.responses.answering import StreamedAnswer, whole_answer
from dmr_adapters.http.responses.assembly import Assembly
from dmr_adapters.http.responses.call import ChatCall, encode
from dmr_adapters.http.responses.chat import chat_body
from dmr_adapters.http.responses.conversation import earlier_items, turn_items
from dmr_adapters.http.responses.document import new_document
from dmr_adapters.http.responses.fidelity import fidelity_of
from dmr_adapters.http.responses.items import chat_messages, input_items
from dmr_adapters.http.responses.names import is_response_id, new_id
from dmr_adapters.http.responses.request import CreateRequest, decode_request
from dmr_adapters.http.responses.runs import BackgroundRuns, Run, abandoned, replayed
from dmr_adapters.http.responses.turn import Turn
from dmr_adapters.http.services import Services
from dmr_core.domain.engine import EngineMode
from dmr_core.errors import (
    BackendNotFoundError,
    InvalidRequestError,
    ModelNotFoundError,
    PreviousResponseError,
    ResponseNotFoundError,
)
from dmr_core.ports.response_store import KeptResponse

__all__ = ["ResponsesApi"]

_PAGE, _MAX_PAGE = 20, 100
_CHAIN_FACTOR: Final = 2
"""How much longer a conversation may be in the store than a request: items there have names, states and thoughts."""


class ResponsesApi:
    """Handlers of the Responses API. Close it before the store of responses."""

    def __init__(self, services: Services, inference: InferenceApp) -> None:
        self._services = services
        self._inference = inference
        self._runs = BackgroundRuns()
        self._store = services.responses
        self._limit = services.settings.max_body

    async def aclose(self) -> None:
        """Give up what is done in the background."""
        await self._runs.aclose()

    async def create(self, request: Request) -> Response:
        """``POST /v1/responses``."""
        return await self._guarded(self._create, request)

    async def get(self, request: Request) -> Response:
        """``GET /v1/responses/{id}[?stream=true[&starting_after=N]]``."""
        return await self._guarded(self._get, request)

    async def delete(self, request: Request) -> Response:
        """``DELETE /v1/responses/{id}``; one that is being worked on is cancelled first."""
        return await self._guarded(self._delete, request)

    async def cancel(self, request: Request) -> Response:
        """``POST /v1/responses/{id}/cancel``."""
        return await self._guarded(self._cancel, request)

    async def input_items(self, request: Request) -> Response:
        """``GET /v1/responses/{id}/input_items``: everything the response is the answer to, earlier turns included."""
        return await self._guarded(self._input_items, request)

    async def _guarded(self, handler: Callable[[Request], Awaitable[Response]], request: Request) -> Response:
        try:
            return await handler(request)
        except ClientGoneError:
            raise
        except ModelNotFoundError as exc:
            return error_response(exc, openai=True, message=not_found_text(exc.reference))
        except BackendNotFoundError as exc:
            return error_response(exc, openai=True, message="backend not found")
        except Exception as exc:
            return error_response(exc, openai=True)

    # --- making one

    async def _create(self, request: Request) -> Response:
        body = await read_body(request.receive, self._limit)
        wanted = decode_request(body)
        fidelity = fidelity_of(body, wanted)
        if _is_strict(request, default=self._services.settings.strict):
            fidelity.insist()
        turn = await self._turn(wanted, fidelity, request)
        if wanted.background:
            await self._known(wanted, request.path_params.get("backend"))
            run = await self._runs.start(turn)
            if wanted.stream:
                return EventStream(run.events(-1), nullcontext())
            return _json(run.document())
        if wanted.stream:
            return StreamedAnswer(turn)
        return await whole_answer(turn, request.receive)

    async def _turn(self, wanted: CreateRequest, fidelity: Fidelity, request: Request) -> Turn:
        services, items = self._services, input_items(wanted.input)
        earlier = await self._earlier(wanted.previous_response_id)
        messages = chat_messages([*earlier, *items])
        if not messages and not wanted.instructions:
            raise InvalidRequestError("input is required", param="input")
        document = new_document(wanted, new_id("resp"), services.clock.time())
        stored = wanted.store is not False and self._store is not None
        document["store"] = stored
        if wanted.background and not stored:
            raise InvalidRequestError(
                "background: this service stores no responses (DMR_RESPONSES_TTL)", param="background"
            )
        encode(document)  # before anybody works on it, it is known that it can be sent
        encode(items)
        backend = request.path_params.get("backend")
        if backend is not None:
            services.backends.get(backend)
        return Turn(
            request=wanted,
            body=chat_body(wanted, messages),
            items=items,
            assembly=Assembly(document, logprobs=wanted.wants_logprobs),
            call=ChatCall(self._inference, request.scope, backend, self._limit),
            store=self._store if stored else None,
            clock=services.clock,
            fidelity=fidelity,
        )

    async def _earlier(self, previous_id: str | None) -> list[dict[str, Any]]:
        if previous_id is None:
            return []
        if self._store is None:
            raise PreviousResponseError(
                "previous_response_id: this service stores no responses (DMR_RESPONSES_TTL); send the conversation as input",
                param="previous_response_id",
            )
        return await earlier_items(self._store, previous_id, _CHAIN_FACTOR * self._limit)

    async def _known(self, wanted: CreateRequest, backend: str | None) -> None:
        """A model that does not exist is told at once, not by a run that fails."""
        assert wanted.model  # noqa: S101 - decode_request looked
        try:
            self._services.inference.plan(wanted.model, EngineMode.COMPLETION, backend)
        except ModelNotFoundError:
            await self._services.catalog.refresh(wanted.model)
            self._services.inference.plan(wanted.model, EngineMode.COMPLETION, backend)

    # --- looking after those that are there

    async def _get(self, request: Request) -> Response:
        run, kept = await self._find(request)
        if request.query_params.get("stream") not in ("true", "1"):
            return _json(run.document()) if run is not None else _kept_json(kept, self._services.clock.time())
        after = _number(request, "starting_after", -1, 0, 2**53)
        events: AsyncGenerator[bytes, None]
        if run is not None:
            events = run.events(after)
        elif kept is not None and kept.events:
            events = replayed(kept, after)
        else:
            raise InvalidRequestError(
                "stream: only a response that was created with background can be streamed again", param="stream"
            )
        return EventStream(events, nullcontext())

    async def _delete(self, request: Request) -> Response:
        name = request.path_params["id"]
        run, _ = await self._find(request)
        if run is not None:
            await run.cancel()
        if self._store is not None:
            await self._store.remove(name)
        return _json({"id": name, "object": "response", "deleted": True})

    async def _cancel(self, request: Request) -> Response:
        run, kept = await self._find(request)
        if run is not None:
            await run.cancel()
            return _json(run.document())
        response = _kept_json(kept, self._services.clock.time())
        if not orjson.loads(response.body).get("background"):
            raise InvalidRequestError("only a response that was created with background can be cancelled")
        return response

    async def _input_items(self, request: Request) -> Response:
        run, kept = await self._find(request)
        previous = run.turn.request.previous_response_id if run is not None else kept.previous_id if kept else None
        own = run.turn.items if run is not None else turn_items(kept) if kept else []
        items = [*await self._earlier(previous), *own]
        return _json(_page(items, request))

    async def _find(self, request: Request) -> tuple[Run | None, KeptResponse | None]:
        """The run of the response that is asked for, or what is kept of it; one of the two is there."""
        name = request.path_params["id"]
        run = self._runs.find(name)
        kept = None
        if run is None and self._store is not None and is_response_id(name):
            kept = await self._store.find(name)
        if run is None and kept is None:
            raise ResponseNotFoundError(name)
        return run, kept


def _is_strict(request: Request, *, default: bool) -> bool:
    given = request.headers.get(DMR_STRICT.decode())
    return default if given is None else is_strict(given.encode("latin-1"))


def _page(items: list[dict[str, Any]], request: Request) -> dict[str, Any]:
    """A page of a list (OpenAI API reference, "List input items"): the newest first, unless asked otherwise."""
    limit = _number(request, "limit", _PAGE, 1, _MAX_PAGE)
    order, after = request.query_params.get("order", "desc"), request.query_params.get("after")
    if order not in ("asc", "desc"):
        raise InvalidRequestError("order: use asc or desc", param="order")
    if order == "desc":
        items.reverse()
    if after is not None:
        places = [number for number, item in enumerate(items) if item.get("id") == after]
        if not places:
            raise InvalidRequestError(f"after: there is no item {after[:100]!r}", param="after")
        items = items[places[-1] + 1 :]
    page = items[:limit]
    return {
        "object": "list",
        "data": page,
        "first_id": page[0].get("id") if page else None,
        "last_id": page[-1].get("id") if page else None,
        "has_more": len(items) > limit,
    }


def _number(request: Request, name: str, default: int, least: int, most: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or not least <= int(text[:20]) <= most:
        raise InvalidRequestError(f"{name}: expected a number from {least} to {most}", param=name)
    return int(text)


def _kept_json(kept: KeptResponse | None, now: float) -> Response:
    assert kept is not None  # noqa: S101 - it was found
    if not abandoned(kept, now):
        return Response(kept.document + b"\n", media_type="application/json")
    document = orjson.loads(kept.document)
    error = {"code": "server_error", "message": "the service that worked on it ended before it was complete"}
    return _json({**document, "status": "failed", "error": error})


def _json(value: object) -> Response:
    return Response(encode(value) + b"\n", media_type="application/json")
