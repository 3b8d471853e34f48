"""The document of OpenAPI 3.1 (https://spec.openapis.org/oas/v3.1.1.html), made of the table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from dmr_adapters.http.edge.paths import DESKTOP_PREFIX
from dmr_adapters.http.openapi import anthropic, inference, management, ollama, responses
from dmr_adapters.http.openapi.operation import Operation, Query
from dmr_adapters.http.openapi.schemas import SCHEMAS

__all__ = ["document", "operations"]

_PARAMETERS: Final = re.compile(r"\{(\w+)\}")
_REASONS: Final = {
    400: "The request is wrong; says what",
    401: "The key is missing or wrong",
    403: "A page of another origin, or a host name that is not this service's",
    404: "There is no such thing",
    408: "The request did not go on",
    409: "It contradicts what is there",
    412: "An engine must be installed first",
    413: "The body is too large",
    422: "Nothing here can serve this model",
    429: "Too many requests, to clients that know no 503",
    500: "A bug",
    502: "An engine or a registry failed",
    503: "Not now; Retry-After says when",
    504: "It took too long",
    507: "There is not enough memory or disk",
}


def operations(*, metrics: bool = True) -> Iterator[Operation]:
    """The whole table; ``metrics`` is whether ``/metrics`` is served."""
    yield from inference.operations()
    yield from responses.operations()
    yield from anthropic.operations()
    yield from ollama.operations()
    yield from management.operations(metrics=metrics)


def document(version: str, table: Iterable[Operation], *, keyed: bool) -> dict[str, Any]:
    """The document; ``keyed`` is whether every operation asks for the key."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in table:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    schemes = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "apiKey": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    }
    made: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "dmr",
            "version": version,
            "description": "Pull, serve and use AI models. Every path also answers below "
            f"{DESKTOP_PREFIX}; HEAD is answered wherever GET is.",
        },
        "servers": [{"url": "/"}, {"url": DESKTOP_PREFIX, "description": "As Docker Desktop's proxy has it"}],
        "paths": dict(sorted(paths.items())),
        "components": {"schemas": SCHEMAS, "securitySchemes": schemes},
    }
    return {**made, "security": [{"bearer": []}, {"apiKey": []}]} if keyed else made


def _operation(operation: Operation) -> dict[str, Any]:
    replies = {str(answer.status): _response(answer.about, answer.content) for answer in operation.answers}
    for status in operation.errors:
        replies.setdefault(str(status), _response(_REASONS[status], operation.refusal))
    parameters = [_parameter(Query(name, required=True), "path") for name in _PARAMETERS.findall(operation.path)]
    parameters += [_parameter(query, "query") for query in operation.query]
    parameters += [_parameter(header, "header") for header in operation.headers]
    made: dict[str, Any] = {
        "operationId": _identifier(operation),
        "tags": [operation.tag],
        "summary": operation.summary,
        "parameters": parameters,
        "responses": replies,
    }
    if operation.body:
        made["requestBody"] = {"required": operation.body_required, "content": _content(operation.body)}
    return made


def _response(about: str, content: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {"description": about, "content": _content(content)} if content else {"description": about}


def _content(content: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {kind: {"schema": schema} if schema else {} for kind, schema in content.items()}


def _parameter(query: Query, place: str) -> dict[str, Any]:
    made: dict[str, Any] = {"name": query.name, "in": place, "required": query.required, "schema": {"type": query.kind}}
    return {**made, "description": query.about} if query.about else made


def _identifier(operation: Operation) -> str:
    words = re.findall(r"[a-zA-Z0-9]+", operation.path.replace("{", "by-"))
    return "_".join([operation.method.lower(), *words])
