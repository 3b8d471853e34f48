"""Operations on models, engines and the service itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from dmr_adapters.http.openapi.operation import ANY_JSON, Answer, Operation, Query, answers, json_of, ref, text

__all__ = ["operations"]

_LINES: Final = (Answer(200, "Lines of progress", {"text/plain": {"type": "string"}, "application/json": ANY_JSON}),)
_MODEL: Final = Query("model", about="The model's name")
_MODE: Final = Query("mode", about="completion, embedding, reranking or image-generation")
_ANY_METHOD: Final = ("GET", "POST", "PUT", "DELETE", "PATCH")
_CONFIGURE: Final = ("/engines/_configure", "/engines/{backend}/_configure")


def operations(*, metrics: bool) -> Iterator[Operation]:
    """All of them; ``metrics`` is whether ``/metrics`` is there."""
    yield from _service(metrics=metrics)
    yield from _models()
    yield from _engines()
    yield from _ours()


def _service(*, metrics: bool) -> Iterator[Operation]:
    for method in _ANY_METHOD:
        yield Operation(method=method, path="/", tag="service", summary="Say that it runs", answers=answers(text()))
        yield Operation(
            method=method,
            path="/version",
            tag="service",
            summary="Tell the version",
            answers=answers(json_of(ref("Version"))),
        )
    yield Operation(
        method="GET",
        path="/openapi.json",
        tag="service",
        summary="This document",
        answers=answers(json_of({"type": "object"})),
    )
    yield Operation(
        method="GET", path="/healthz", tag="service", summary="Say that the process lives", answers=answers(text())
    )
    yield Operation(
        method="GET",
        path="/readyz",
        tag="service",
        summary="Say whether requests can be answered",
        answers=(*answers(json_of(ref("Health"))), Answer(503, "Not now, and why", json_of(ref("Health")))),
        errors=(400, 403),
    )
    yield Operation(
        method="GET",
        path="/logs",
        tag="service",
        summary="What the service and its engines said lately",
        query=(Query("follow", about="Go on as there is more"), Query("no-engines", about="Leave out the engines")),
        answers=answers(text()),
    )
    if metrics:
        yield Operation(
            method="GET", path="/metrics", tag="service", summary="Figures for Prometheus", answers=answers(text())
        )


def _models() -> Iterator[Operation]:
    def on(method: str, path: str, summary: str, good: tuple[Answer, ...], **more: object) -> Operation:
        return Operation(method=method, path=path, tag="models", summary=summary, answers=good, **more)  # type: ignore[arg-type]  # its own fields

    yield on("GET", "/models", "List the models in the store", answers(json_of(ref("ModelList"))))
    yield on("POST", "/models/create", "Pull a model", _LINES, body=json_of(ref("CreateRequest")))
    yield on(
        "POST",
        "/models/load",
        "Take in a model from a tar archive",
        answers(text()),
        body={"application/x-tar": {"type": "string", "format": "binary"}},
    )
    yield on("DELETE", "/models/purge", "Remove every model", answers())
    yield on(
        "GET",
        "/models/{name}",
        "Show a model",
        answers(json_of({"anyOf": [ref("Model"), ref("RemoteModel")]})),
        query=(Query("remote", about="Ask its registry, not the store"),),
    )
    yield on(
        "DELETE",
        "/models/{name}",
        "Remove a model, or one of its names",
        answers(json_of(ref("Removal"))),
        query=(Query("force", about="Also when it is in use"),),
    )
    yield on(
        "GET",
        "/models/{name}/export",
        "Get a model as a tar archive",
        answers({"application/x-tar": {"type": "string", "format": "binary"}}),
    )
    yield on(
        "POST",
        "/models/{name}/tag",
        "Give a model another name",
        answers(json_of(ref("Tagged")), 201),
        query=(Query("repo", about="The other name", required=True), Query("tag", about="Its tag", required=True)),
    )
    yield on(
        "POST",
        "/models/{name}/push",
        "Upload a model to its registry",
        _LINES,
        body=json_of(ref("PushRequest")),
        body_required=False,
    )
    yield on(
        "POST",
        "/models/{name}/repackage",
        "Make a variant of a model",
        answers(json_of(ref("Repackaged")), 201),
        body=json_of(ref("RepackageRequest")),
    )


def _engines() -> Iterator[Operation]:
    def on(method: str, path: str, summary: str, good: tuple[Answer, ...], **more: object) -> Operation:
        return Operation(method=method, path=path, tag="engines", summary=summary, answers=good, **more)  # type: ignore[arg-type]  # its own fields

    yield on("GET", "/engines/status", "The engines' states in words", answers(json_of(ref("Statuses"))))
    yield on("GET", "/engines/ps", "List the models in memory", answers(json_of(ref("Runners"))))
    yield on("GET", "/engines/df", "How much disk the models take", answers(json_of(ref("DiskUsage"))))
    yield on(
        "GET",
        "/engines/requests",
        "What models were asked lately, and answered",
        answers({**json_of(ref("Records")), **text("text/event-stream")}),
        query=(_MODEL, Query("include_existing", about="Of a stream: begin with those that are over")),
    )
    body = json_of(ref("BackendRequest"))
    lines = {**_LINES[0].content, "application/x-ndjson": ANY_JSON}
    installed = (Answer(200, "Done; progress to who accepts JSON", lines),)
    yield on("POST", "/engines/install-backend", "Install an engine", installed, body=body)
    yield on("POST", "/engines/uninstall-backend", "Remove an engine", answers(), body=body)
    yield on(
        "POST",
        "/engines/unload",
        "Take models out of memory",
        answers(json_of(ref("Unloaded"))),
        body=json_of(ref("UnloadRequest")),
    )
    yield on(
        "GET",
        "/engines/_configure",
        "Show the settings of models",
        answers(json_of(ref("Configured"))),
        query=(_MODEL,),
    )
    forgotten = answers(json_of(ref("Forgotten")))
    changed = (Answer(202, "Stored; the model is being loaded with them"), *forgotten)
    for path in _CONFIGURE:
        for method in ("POST", "PATCH"):
            yield on(method, path, "Set how a model is loaded", changed, body=json_of(ref("ConfigureRequest")))
        yield on("DELETE", path, "Forget the settings of a model", forgotten, query=(_MODEL, _MODE))


def _ours() -> Iterator[Operation]:
    def on(path: str, summary: str, schema: object, *query: Query) -> Operation:
        good = answers(json_of(schema))  # type: ignore[arg-type]  # a schema or a reference to one
        return Operation(method="GET", path=path, tag="dmr", summary=summary, answers=good, query=query)

    required = Query("model", about="The model's name", required=True)
    anything = {"type": "object"}
    yield on("/dmr/v1/backends", "Everything known of the engines", ref("Backends"))
    yield on("/dmr/v1/plugins", "The plugins, and what the detectors saw", ref("Plugins"))
    yield on("/dmr/v1/documents", "Manifest and config of a model", anything, required)
    yield on("/dmr/v1/store", "Where the store is", anything, Query("nonce", about="32 hex digits", required=True))
    yield on("/dmr/v1/store/usage", "Where the bytes of the disk are", anything)
    limit = Query("limit", "integer", "At most so many")
    yield on(
        "/dmr/v1/search",
        "Search the hubs",
        ref("Hits"),
        Query("term", about="Words"),
        limit,
        Query("source", about="all"),
    )
    yield on("/dmr/v1/why", "Why a model is, or is not, in memory", anything, required, _MODE)
    yield on("/dmr/v1/explain", "How a model would be loaded", anything, required, _MODE, Query("backend"))
    yield Operation(
        method="POST",
        path="/dmr/v1/store/prune",
        tag="dmr",
        summary="Remove what no model needs",
        answers=answers(json_of(anything)),
        body=json_of(ref("PruneRequest")),
        body_required=False,
    )
    yield Operation(
        method="POST",
        path="/dmr/v1/store/check",
        tag="dmr",
        summary="Read the store, and repair it",
        answers=answers(text("application/x-ndjson")),
        body=json_of(ref("CheckRequest")),
        body_required=False,
    )
