"""The words of the table: an operation, what it takes, and what it may answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

__all__ = ["ANY_JSON", "ERRORS", "NO_BODY", "Answer", "Operation", "Query", "answers", "json_of", "ref", "text"]

Schema = Mapping[str, Any]

ANY_JSON: Final[Schema] = {}
NO_BODY: Final[Mapping[str, Schema]] = {}
ERRORS: Final = (400, 401, 403, 404, 408, 409, 412, 413, 422, 429, 500, 502, 503, 504, 507)
"""Every status that a condition may become; see the table in ``dmr_adapters.http.errors``."""


def ref(name: str) -> Schema:
    """A schema of :mod:`dmr_adapters.http.openapi.schemas`."""
    return {"$ref": f"#/components/schemas/{name}"}


def json_of(schema: Schema, *more: str) -> Mapping[str, Schema]:
    """JSON of this schema, and content of other types without one."""
    return {"application/json": schema, **dict.fromkeys(more, ANY_JSON)}


def text(*types: str) -> Mapping[str, Schema]:
    """Text; of these types instead of plain text."""
    return {kind: {"type": "string"} for kind in types or ("text/plain",)}


@attrs.frozen
class Query:
    """A parameter in the query. ``kind`` is a JSON type."""

    name: str
    kind: str = "string"
    about: str = ""
    required: bool = False


@attrs.frozen
class Answer:
    """What one status comes with: schemas by content type."""

    status: int
    about: str
    content: Mapping[str, Schema] = NO_BODY


@attrs.frozen(kw_only=True)
class Operation:
    """One method on one path; ``{name}`` of a model may hold slashes.

    ``body`` is the request's, schemas by content type. ``errors`` are the statuses of refusals, in ``refusal``'s shape.
    """

    method: str
    path: str
    tag: str
    summary: str
    answers: tuple[Answer, ...]
    query: tuple[Query, ...] = ()
    headers: tuple[Query, ...] = ()
    body: Mapping[str, Schema] = NO_BODY
    body_required: bool = True
    errors: tuple[int, ...] = ERRORS
    refusal: Mapping[str, Schema] = attrs.field(factory=text)


def answers(content: Mapping[str, Schema] = NO_BODY, status: int = 200, about: str = "Done") -> tuple[Answer, ...]:
    """One good answer."""
    return (Answer(status, about, content),)
