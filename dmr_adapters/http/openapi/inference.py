"""Operations that engines answer, under every prefix they are reached by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from dmr_adapters.http.openapi.operation import ANY_JSON, Answer, Operation, Query, answers, json_of, ref

__all__ = ["operations"]

_PREFIXES: Final = ("", "/engines", "/engines/{backend}")
_REFUSAL: Final = json_of(ref("OpenAIError"), "text/plain")
_ANTHROPIC: Final = json_of(ref("AnthropicError"))
_ANSWER: Final = (Answer(200, "The engine's answer", {**json_of(ANY_JSON), "text/event-stream": {"type": "string"}}),)
_HEADERS: Final = (
    Query("X-Preload-Only", about="true loads the model and asks it nothing"),
    Query("DMR-Strict", about="Refuse what the engine would ignore, and answers that break their schema"),
)
# path -> request, and what it is for
_ROUTES: Final = {
    "/v1/chat/completions": ("ChatRequest", "Chat with a model"),
    "/v1/completions": ("CompletionRequest", "Continue a text"),
    "/v1/embeddings": ("EmbeddingRequest", "Turn texts into vectors"),
    "/v1/images/generations": ("ImageRequest", "Make images"),
    "/rerank": ("RerankRequest", "Order documents by their relevance to a query"),
    "/score": ("RerankRequest", "Score pairs of texts"),
    "/v1/rerank": ("RerankRequest", "Order documents by their relevance to a query"),
    "/v1/score": ("RerankRequest", "Score pairs of texts"),
}


_MESSAGES: Final = {
    "/v1/messages": "Chat with a model, as Anthropic has it",
    "/v1/messages/count_tokens": "Count the tokens of a chat, as Anthropic has it",
}


def operations() -> Iterator[Operation]:
    """Inference, OpenAI's listing of models, and Anthropic's messages."""
    for prefix in ("/anthropic", *_PREFIXES):
        for path, summary in _MESSAGES.items():
            yield Operation(
                method="POST",
                path=prefix + path,
                tag="anthropic",
                summary=summary,
                body=json_of(ref("MessagesRequest")),
                headers=_HEADERS[1:],
                answers=_ANSWER,
                refusal=_ANTHROPIC,
            )
    for prefix in _PREFIXES:
        for path, (request, summary) in _ROUTES.items():
            yield Operation(
                method="POST",
                path=prefix + path,
                tag="inference",
                summary=summary,
                body=json_of(ref(request)),
                headers=_HEADERS,
                answers=_ANSWER,
                refusal=_REFUSAL,
            )
        yield Operation(
            method="GET",
            path=f"{prefix}/v1/models",
            tag="inference",
            summary="List the models in the store, as OpenAI has it",
            answers=answers(json_of(ref("OpenAIModelList"))),
            refusal=_REFUSAL,
        )
        yield Operation(
            method="GET",
            path=f"{prefix}/v1/models/{{name}}",
            tag="inference",
            summary="Show a model, as OpenAI has it",
            answers=answers(json_of(ref("OpenAIModel"))),
            refusal=_REFUSAL,
        )
