"""``/dmr/v1/store`` and ``DELETE /models/purge``: looking after the model store."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Final

import msgspec
import orjson
from starlette.requests import Request
from starlette.responses import Response

from dmr_adapters.http.asgi import read_body
from dmr_adapters.http.errors import message_of, plain_text, status_of
from dmr_adapters.http.leaving import ClosingResponse
from dmr_adapters.http.rest_json import decode, json_response
from dmr_adapters.http.services import Services
from dmr_core.domain.store_document import check_document, collection_document, usage_document
from dmr_core.domain.store_report import CheckProgress, CheckReport
from dmr_core.errors import DmrError, InvalidRequestError, PreconditionError

__all__ = ["StoreApi"]

_log: Final = logging.getLogger("dmr.http")
_MAX_BODY: Final = 64 * 1024


class PruneBody(msgspec.Struct):
    """``POST /dmr/v1/store/prune``; ages in seconds."""

    dry_run: bool = False
    all: bool = False
    partials_older_than: float | None = None


class CheckBody(msgspec.Struct):
    """``POST /dmr/v1/store/check``."""

    repair: bool = False
    quick: bool = False


class StoreApi:
    """Handlers that look after the store."""

    def __init__(self, services: Services) -> None:
        self._maintenance = services.management().maintenance

    async def purge(self, _request: Request) -> Response:
        """``DELETE /models/purge``: remove every model. An empty 200, as the reference answers."""
        try:
            await self._maintenance.purge()
        except DmrError as exc:
            # The reference knows one status for whatever goes wrong here.
            status = 500 if isinstance(exc, PreconditionError) else status_of(exc)
            return plain_text(f"error while purging models: {exc.message}", status)
        return Response(status_code=200)

    async def prune(self, request: Request) -> Response:
        """``POST /dmr/v1/store/prune``: remove what no model needs, or with ``dry_run`` say what that would be."""
        body = await _body(request, PruneBody)
        age = body.partials_older_than
        if age is not None and not age >= 0:
            raise InvalidRequestError(
                "partials_older_than is a number of seconds, 0 or more", param="partials_older_than"
            )
        collection = await self._maintenance.prune(everything=body.all, dry_run=body.dry_run, partials_older_than=age)
        return json_response(collection_document(collection))

    async def check(self, request: Request) -> Response:
        """``POST /dmr/v1/store/check``: lines of JSON, ``progress`` as often as there is some, and one ``report`` or ``error``."""
        body = await _body(request, CheckBody)
        events = self._maintenance.check(repair=body.repair, deep=not body.quick)
        return ClosingResponse(_lines(events), media_type="application/x-ndjson", headers={"cache-control": "no-cache"})

    async def usage(self, _request: Request) -> Response:
        """``GET /dmr/v1/store/usage``: where the bytes of the disk are."""
        return json_response(usage_document(await self._maintenance.usage()))


async def _body(request: Request, kind: type[Any]) -> Any:
    content = await read_body(request.receive, _MAX_BODY)
    return decode(content, kind) if content.strip() else kind()


async def _lines(events: AsyncGenerator[CheckProgress | CheckReport, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(events) as following:
        yield _line({"type": "progress", "done": 0, "total": 0, "doing": ""})
        try:
            async for event in following:
                if isinstance(event, CheckReport):
                    yield _line({"type": "report", **check_document(event)})
                else:
                    progress = {"done": event.done, "total": event.total, "doing": event.doing}
                    yield _line({"type": "progress", **progress})
        except DmrError as exc:
            yield _line({"type": "error", "message": exc.message, "code": exc.code})
        except Exception as exc:  # a bug: the stream has begun, so it can only be told in it
            _log.exception("unexpected error in a check")
            yield _line({"type": "error", "message": message_of(exc), "code": "internal_error"})


def _line(document: dict[str, Any]) -> bytes:
    return orjson.dumps(document) + b"\n"
