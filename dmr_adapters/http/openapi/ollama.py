"""Operations of Ollama's API."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from dmr_adapters.http.openapi.operation import ANY_JSON, Answer, Operation, Query, answers, json_of, ref, text

__all__ = ["operations"]

_REFUSAL: Final = json_of(ref("OllamaError"))
_LINES: Final = (
    Answer(200, "The answer, in lines unless stream is false", {**json_of(ANY_JSON), "application/x-ndjson": {}}),
)
_STRICT: Final = (
    Query("DMR-Strict", about="Refuse what the engine would ignore, and answers that break their schema"),
)
# path -> request, and what it is for
_ANSWERING: Final = {
    "/api/chat": ("OllamaChat", "Chat with a model, as Ollama has it"),
    "/api/generate": ("OllamaGenerate", "Continue a prompt, as Ollama has it"),
    "/api/embed": ("OllamaEmbed", "Turn texts into vectors, as Ollama has it"),
    "/api/embeddings": ("OllamaEmbeddings", "Turn a text into a vector, as Ollama once had it"),
}
_MODELS: Final = {
    ("POST", "/api/show"): ("OllamaName", "Show a model"),
    ("POST", "/api/copy"): ("OllamaCopy", "Give a model another name"),
    ("DELETE", "/api/delete"): ("OllamaName", "Remove a name, and a model with its last one"),
    ("POST", "/api/pull"): ("OllamaTransfer", "Pull a model, with progress in lines"),
    ("POST", "/api/push"): ("OllamaTransfer", "Push a model, with progress in lines"),
    ("POST", "/api/create"): ("OllamaCreate", "Make a model of files that were sent, or of another model"),
}
_LISTS: Final = {
    "/api/version": "Tell which version of Ollama's API this is like",
    "/api/tags": "List the models in the store",
    "/api/ps": "List the models that are loaded",
}


def operations() -> Iterator[Operation]:
    """All of them."""
    for path, (request, summary) in _ANSWERING.items():
        yield _operation("POST", path, summary, request, headers=_STRICT)
    for (method, path), (request, summary) in _MODELS.items():
        yield _operation(method, path, summary, request)
    for path, summary in _LISTS.items():
        yield Operation(
            method="GET",
            path=path,
            tag="ollama",
            summary=summary,
            answers=answers(json_of({"type": "object"})),
            refusal=_REFUSAL,
        )
    yield Operation(
        method="GET", path="/api", tag="ollama", summary="Say that it runs", answers=answers(text()), refusal=_REFUSAL
    )
    yield Operation(
        method="POST",
        path="/api/blobs/{digest}",
        tag="ollama",
        summary="Send a file that a model is going to be made of",
        body={"application/octet-stream": {}},
        body_required=False,
        answers=(Answer(200, "It was here already"), Answer(201, "It is here, and is what its digest says")),
        refusal=_REFUSAL,
    )


def _operation(method: str, path: str, summary: str, request: str, *, headers: tuple[Query, ...] = ()) -> Operation:
    return Operation(
        method=method,
        path=path,
        tag="ollama",
        summary=summary,
        body=json_of(ref(request)),
        headers=headers,
        answers=answers() if path == "/api/copy" else _LINES,
        refusal=_REFUSAL,
    )
