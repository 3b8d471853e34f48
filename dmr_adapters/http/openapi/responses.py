"""Operations of the Responses API, under every prefix it is reached by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from dmr_adapters.http.openapi.operation import Answer, Operation, Query, answers, json_of, ref

__all__ = ["operations"]

_PREFIXES: Final = ("", "/v1", "/engines", "/engines/v1", "/engines/{backend}/v1")
_REFUSAL: Final = json_of(ref("OpenAIError"))
_ONE: Final[Mapping[str, Any]] = json_of(ref("Response"))
_STREAM: Final = {"text/event-stream": {"type": "string"}}
_PAGE: Final = (
    Query("limit", "integer", "1 to 100; 20 unless given"),
    Query("order", about="desc, the newest first, or asc"),
    Query("after", about="The ID of the item that the page begins behind"),
)
_WATCH: Final = (
    Query("stream", about="true watches a background response"),
    Query("starting_after", "integer", "The sequence number of the last event that is known"),
)


def operations() -> Iterator[Operation]:
    """Making responses, and looking after those that are there."""
    for prefix in _PREFIXES:
        one = f"{prefix}/responses/{{id}}"
        yield _operation(
            "POST",
            f"{prefix}/responses",
            "Make a response",
            (Answer(200, "The response, or its events", {**_ONE, **_STREAM}),),
            headers=(Query("DMR-Strict", about="Refuse what would be ignored"),),
            body=json_of(ref("ResponseRequest")),
        )
        yield _operation("GET", one, "Show a response", (Answer(200, "Done", {**_ONE, **_STREAM}),), query=_WATCH)
        yield _operation("DELETE", one, "Forget a response", answers(json_of(ref("ResponseDeleted"))))
        yield _operation("POST", f"{one}/cancel", "Stop a background response", answers(_ONE))
        yield _operation(
            "GET",
            f"{one}/input_items",
            "List what a response is the answer to",
            answers(json_of(ref("ResponseItems"))),
            query=_PAGE,
        )


def _operation(method: str, path: str, summary: str, good: tuple[Answer, ...], **fields: Any) -> Operation:
    return Operation(
        method=method, path=path, tag="responses", summary=summary, answers=good, refusal=_REFUSAL, **fields
    )
