"""Schemas of bodies, JSON Schema 2020-12 as OpenAPI 3.1 has it. Requests name what dmr itself reads; engines take more."""

from __future__ import annotations

from typing import Any, Final

from dmr_core.domain.engine import EngineMode

__all__ = ["SCHEMAS"]

_STRING: Final = {"type": "string"}
_INTEGER: Final = {"type": "integer"}
_NUMBER: Final = {"type": "number"}
_BOOLEAN: Final = {"type": "boolean"}
_STRINGS: Final = {"type": "array", "items": _STRING}
_OBJECT: Final = {"type": "object"}
_MODE: Final = {"type": "string", "enum": [mode.value for mode in EngineMode]}


def _object(required: str = "", /, **properties: Any) -> dict[str, Any]:
    """An object that may have more than these properties; the ``required`` ones are separated by spaces."""
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    return {**schema, "required": required.split()} if required else schema


def _array(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _nullable(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _within(least: float, most: float, kind: str = "integer") -> dict[str, Any]:
    return _nullable({"type": kind, "minimum": least, "maximum": most})


_KEEP_ALIVE: Final = {
    "description": "How long to keep the model loaded: a duration such as 30m, seconds, 0, or -1 for ever",
    "anyOf": [_STRING, _NUMBER, {"type": "null"}],
}
_SAMPLING: Final[dict[str, Any]] = {
    "model": {**_STRING, "description": "A model in the store, by any of its names"},
    "keep_alive": _KEEP_ALIVE,
    "stream": _nullable(_BOOLEAN),
    "n": _within(1, 128),
    "max_tokens": _within(-2, 2**31 - 1),
    "temperature": _within(-100, 100, "number"),
    "top_p": _within(0, 1, "number"),
    "seed": _nullable(_INTEGER),
    "stop": {"anyOf": [_STRING, _STRINGS, {"type": "null"}]},
}

_OLLAMA: Final[dict[str, Any]] = {
    "model": {**_STRING, "description": "A model in the store, by any of its names"},
    "keep_alive": _KEEP_ALIVE,
    "stream": {**_nullable(_BOOLEAN), "description": "Lines as they come, unless it is false"},
    "options": _nullable(_OBJECT),
    "think": {"anyOf": [_BOOLEAN, _STRING, {"type": "null"}]},
    "format": {"anyOf": [{"const": "json"}, _OBJECT, {"type": "null"}], "description": "json, or a JSON schema"},
}

SCHEMAS: Final[dict[str, dict[str, Any]]] = {
    # --- errors
    "OpenAIError": _object(
        "error",
        error=_object(
            "message type code param",
            message=_STRING,
            type=_STRING,
            code=_nullable(_STRING),
            param=_nullable(_STRING),
        ),
    ),
    "AnthropicError": _object(
        "type error", type={"const": "error"}, error=_object("type message", type=_STRING, message=_STRING)
    ),
    "OllamaError": _object("error", error=_STRING),
    # --- Ollama
    "OllamaChat": _object("model", messages=_nullable(_array(_OBJECT)), tools=_nullable(_array(_OBJECT)), **_OLLAMA),
    "OllamaGenerate": _object(
        "model",
        prompt=_nullable(_STRING),
        suffix=_nullable(_STRING),
        system=_nullable(_STRING),
        template=_nullable(_STRING),
        raw=_nullable(_BOOLEAN),
        images=_nullable(_STRINGS),
        context=_nullable(_array(_INTEGER)),
        **_OLLAMA,
    ),
    "OllamaEmbed": _object(
        "model input",
        model=_STRING,
        input={"anyOf": [_STRING, _STRINGS]},
        truncate=_nullable(_BOOLEAN),
        keep_alive=_KEEP_ALIVE,
    ),
    "OllamaEmbeddings": _object("model", model=_STRING, prompt=_nullable(_STRING), keep_alive=_KEEP_ALIVE),
    "OllamaName": _object("model", model=_STRING),
    "OllamaCopy": _object("source destination", source=_STRING, destination=_STRING),
    "OllamaTransfer": _object("model", model=_STRING, stream=_nullable(_BOOLEAN)),
    "OllamaCreate": _object(
        "model",
        **{"from": _nullable(_STRING), "model": _STRING, "files": _nullable(_OBJECT), "system": _nullable(_STRING)},
        template=_nullable(_STRING),
        parameters=_nullable(_OBJECT),
        stream=_nullable(_BOOLEAN),
    ),
    # --- inference
    "ChatRequest": _object("model messages", messages=_array(_OBJECT), tools=_nullable(_array(_OBJECT)), **_SAMPLING),
    "CompletionRequest": _object(
        "model prompt", prompt={"anyOf": [_STRING, _array({"anyOf": [_STRING, _INTEGER]})]}, **_SAMPLING
    ),
    "EmbeddingRequest": _object(
        "model input",
        model=_STRING,
        keep_alive=_KEEP_ALIVE,
        input={"anyOf": [_STRING, _array({"anyOf": [_STRING, _INTEGER, _array(_INTEGER)]})]},
        dimensions=_within(1, 65_536),
    ),
    "RerankRequest": _object("model", model=_STRING, keep_alive=_KEEP_ALIVE, query={}, documents=_array({})),
    "ImageRequest": _object("model prompt", model=_STRING, keep_alive=_KEEP_ALIVE, prompt=_STRING, n=_within(1, 128)),
    "MessagesRequest": _object(
        "model messages",
        model=_STRING,
        keep_alive=_KEEP_ALIVE,
        messages=_array(_OBJECT),
        max_tokens=_within(-2, 2**31 - 1),
        stream=_nullable(_BOOLEAN),
    ),
    "ResponseRequest": _object(
        "model",
        model=_STRING,
        input={"anyOf": [_STRING, _array(_OBJECT), {"type": "null"}]},
        instructions=_nullable(_STRING),
        previous_response_id=_nullable(_STRING),
        tools=_nullable(_array(_OBJECT)),
        tool_choice={"anyOf": [_STRING, _OBJECT, {"type": "null"}]},
        max_output_tokens=_within(1, 2**31 - 1),
        temperature=_within(0, 2, "number"),
        top_p=_within(0, 1, "number"),
        stream=_nullable(_BOOLEAN),
        background=_nullable(_BOOLEAN),
        store=_nullable(_BOOLEAN),
        text=_nullable(_OBJECT),
        reasoning=_nullable(_OBJECT),
        metadata=_nullable({"type": "object", "additionalProperties": _STRING}),
        truncation=_nullable({"type": "string", "enum": ["auto", "disabled"]}),
        keep_alive=_KEEP_ALIVE,
    ),
    "Response": _object(
        "id object status model output",
        id=_STRING,
        object={"const": "response"},
        created_at=_INTEGER,
        status={"enum": ["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]},
        model=_STRING,
        output=_array(_object("id type", id=_STRING, type=_STRING)),
        output_text=_STRING,
        error=_nullable(_object("code message", code=_STRING, message=_STRING)),
        usage=_nullable(_OBJECT),
    ),
    "ResponseItems": _object(
        "object data has_more",
        object={"const": "list"},
        data=_array(_OBJECT),
        first_id=_nullable(_STRING),
        last_id=_nullable(_STRING),
        has_more=_BOOLEAN,
    ),
    "ResponseDeleted": _object("id object deleted", id=_STRING, object={"const": "response"}, deleted={"const": True}),
    "AnthropicModel": _object(
        "type id display_name created_at", type={"const": "model"}, id=_STRING, display_name=_STRING, created_at=_STRING
    ),
    "AnthropicModelList": _object(
        "data has_more first_id last_id",
        data=_array(_ref("AnthropicModel")),
        has_more=_BOOLEAN,
        first_id=_nullable(_STRING),
        last_id=_nullable(_STRING),
    ),
    "OpenAIModel": _object(
        "id object created owned_by", id=_STRING, object={"const": "model"}, created=_INTEGER, owned_by=_STRING
    ),
    "OpenAIModelList": _object("object data", object={"const": "list"}, data=_array(_ref("OpenAIModel"))),
    # --- models
    "Model": _object("id created config", id=_STRING, tags=_STRINGS, created=_INTEGER, config=_OBJECT),
    "ModelList": _array(_ref("Model")),
    "RemoteModel": _object("created config", id=_STRING, created=_INTEGER, config=_OBJECT),
    "Removal": _array(_object(Untagged=_STRING, Deleted=_STRING)),
    "CreateRequest": _object(
        "from", **{"from": {**_STRING, "description": "What to pull"}, "bearer-token": _nullable(_STRING)}
    ),
    "PushRequest": _object(**{"bearer-token": _nullable(_STRING)}),
    "RepackageRequest": _object("target", target=_STRING, context_size=_nullable(_INTEGER)),
    "Repackaged": _object("message source target id", message=_STRING, source=_STRING, target=_STRING, id=_STRING),
    "Tagged": _object("message target", message=_STRING, target=_STRING),
    "Progress": _object(
        "type message total layer mode",
        type={"type": "string", "enum": ["progress", "success", "error", "warning"]},
        message=_STRING,
        total=_INTEGER,
        layer=_OBJECT,
        mode=_STRING,
    ),
    # --- engines
    "Runner": _object(
        "backend_name model_name mode last_used",
        backend_name=_STRING,
        model_name=_STRING,
        mode=_STRING,
        last_used=_STRING,
        processor=_STRING,
        placement=_OBJECT,
        warning=_STRING,
    ),
    "Runners": _array(_ref("Runner")),
    "Statuses": {"type": "object", "additionalProperties": _STRING},
    "BackendRequest": _object("backend", backend=_STRING, version=_nullable(_STRING)),
    "UnloadRequest": _object(all=_nullable(_BOOLEAN), backend=_nullable(_STRING), models=_nullable(_STRINGS)),
    "Unloaded": _object("unloaded_runners runners", unloaded_runners=_INTEGER, runners=_array(_OBJECT)),
    "ConfigureRequest": {
        **_object(
            "model",
            model=_STRING,
            mode=_nullable({"type": "string"}),
            reset=_nullable(_BOOLEAN),
            keep_alive=_nullable(_STRING),
            **{
                "context-size": _nullable(_INTEGER),
                "runtime-flags": _nullable(_STRINGS),
                "raw-runtime-flags": _nullable(_STRING),
                "require": _nullable({"type": "string", "enum": ["none", "gpu", "all-layers"]}),
            },
        ),
        "description": "Settings of a model, merged with those it has (RFC 7396); null takes one back",
    },
    "Configured": _array(_object("Backend Model ModelID Mode Config", Mode=_MODE, Config=_OBJECT)),
    "Forgotten": _object("forgotten", forgotten=_INTEGER),
    "DiskUsage": _object(
        "models_disk_usage default_backend_disk_usage", models_disk_usage=_INTEGER, default_backend_disk_usage=_INTEGER
    ),
    "Records": _array(_object("count model config records", count=_INTEGER, model=_STRING, records=_array(_OBJECT))),
    # --- ours
    "Backends": _object(
        "backends accelerator warnings",
        backends=_array(_object("name state status", name=_STRING)),
        accelerator=_object("variant reason devices", variant=_STRING, reason=_STRING, devices=_array(_OBJECT)),
        warnings=_array(_object("model backend text", model=_STRING, backend=_STRING, text=_STRING)),
    ),
    "Plugins": _object("plugins detections", plugins=_array(_OBJECT), detections=_array(_OBJECT)),
    "PruneRequest": _object(dry_run=_BOOLEAN, all=_BOOLEAN, partials_older_than=_nullable(_NUMBER)),
    "CheckRequest": _object(repair=_BOOLEAN, quick=_BOOLEAN),
    "Hits": _object("hits warnings", hits=_array(_OBJECT), warnings=_STRINGS),
    "Health": _object("status checks", status=_STRING, checks={"type": "object", "additionalProperties": _STRING}),
    "Version": _object("version", version=_STRING),
}
