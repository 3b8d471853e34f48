"""Operations of Anthropic's dialect that no engine answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from dmr_adapters.http.openapi.operation import Operation, Query, answers, json_of, ref

__all__ = ["operations"]

_REFUSAL: Final = json_of(ref("AnthropicError"))
_PAGE: Final = (
    Query("limit", "integer", "How many, 1 to 1000"),
    Query("after_id", about="The last of the page before"),
    Query("before_id", about="The first of the page after"),
)


def operations() -> Iterator[Operation]:
    """The models there are."""
    yield Operation(
        method="GET",
        path="/anthropic/v1/models",
        tag="anthropic",
        summary="List the models in the store, as Anthropic has it",
        query=_PAGE,
        answers=answers(json_of(ref("AnthropicModelList"))),
        refusal=_REFUSAL,
    )
    yield Operation(
        method="GET",
        path="/anthropic/v1/models/{name}",
        tag="anthropic",
        summary="Show a model, as Anthropic has it",
        answers=answers(json_of(ref("AnthropicModel"))),
        refusal=_REFUSAL,
    )
