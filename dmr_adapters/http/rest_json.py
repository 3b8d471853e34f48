"""Bodies of the management API: our values as the reference's JSON, and requests as checked values."""

from __future__ import annotations

import html
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

import msgspec
import orjson
from starlette.responses import Response

from dmr_core.domain.acceleration import Accelerator, EngineProgram, Placement
from dmr_core.domain.encoding import config_document
from dmr_core.domain.engine_document import engine_document
from dmr_core.domain.gpu import CPU, Detection, GpuDevice
from dmr_core.domain.keep_alive import KeepAlive
from dmr_core.domain.model import Model
from dmr_core.domain.progress import Progress
from dmr_core.errors import InvalidRequestError
from dmr_core.plugins import PluginInfo
from dmr_core.services.backends import BackendView
from dmr_core.services.inference import ConfiguredModel
from dmr_core.services.scheduling.lease import RunnerView
from dmr_core.services.scheduling.state import Phase

__all__ = [
    "CreateBody",
    "InstallBody",
    "PushBody",
    "UnloadBody",
    "accelerator_json",
    "backend_json",
    "configured_json",
    "decode",
    "json_response",
    "model_json",
    "openai_model_json",
    "plugins_json",
    "progress_line",
    "runner_json",
    "unloaded_json",
]

_T = TypeVar("_T")

ZERO_TIME: Final = "0001-01-01T00:00:00Z"


class CreateBody(msgspec.Struct, rename={"bearer_token": "bearer-token"}):
    """``POST /models/create``; ``from`` is a keyword in Python, so the field is renamed."""

    source: str | None = msgspec.field(default=None, name="from")
    bearer_token: str | None = None


class PushBody(msgspec.Struct, rename={"bearer_token": "bearer-token"}):
    """``POST /models/{name}/push``."""

    bearer_token: str | None = None


class UnloadBody(msgspec.Struct):
    """``POST /engines/unload``."""

    all: bool | None = None
    backend: str | None = None
    models: list[str] | None = None


class InstallBody(msgspec.Struct):
    """``POST /engines/install-backend`` and ``/engines/uninstall-backend``."""

    backend: str | None = None
    version: str | None = None


def decode(body: bytes, kind: type[_T]) -> _T:
    """Read a request body.

    Raises:
        InvalidRequestError: it is no JSON, or a field has the wrong type; says which.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidRequestError(f"invalid request body: {exc}") from exc


def json_response(
    value: Any, status: int = 200, *, newline: bool = True, headers: Mapping[str, str] | None = None
) -> Response:
    """A JSON answer as the reference's server writes it: compact, a newline at the end, no charset."""
    content = orjson.dumps(value) + (b"\n" if newline else b"")
    return Response(content, status, headers=headers, media_type="application/json")


def model_json(model: Model) -> dict[str, Any]:
    """A model as ``GET /models`` lists it."""
    document: dict[str, Any] = {"id": str(model.id)}
    if model.tags:
        document["tags"] = list(model.tags)
    return {**document, "created": model.config.created_unix, "config": config_document(model.config)}


def openai_model_json(model: Model, name: str | None = None) -> dict[str, Any]:
    """A model in OpenAI's listing; ``name`` is what it was asked for by."""
    config = model.config
    extra = {
        "context_window": config.context_size,
        "architecture": config.architecture,
        "parameters": config.parameters,
        "quantization": config.quantization,
        "size": config.size,
    }
    return {
        "id": name or model.name,
        "object": "model",
        "created": config.created_unix,
        "owned_by": "docker",
        "dmr": {key: value for key, value in extra.items() if value},
    }


def runner_json(view: RunnerView, now: float, wall: float, default: KeepAlive) -> dict[str, Any]:
    """A runner as ``GET /engines/ps`` lists it; ``now`` is monotonic, ``wall`` the same moment by the clock."""
    loading = view.phase is Phase.LOADING
    idle = view.idle_since is not None
    document: dict[str, Any] = {
        "backend_name": view.key.backend,
        "model_name": view.alias,
        "mode": view.key.mode.value,
        "last_used": _time(wall - (now - view.idle_since)) if view.idle_since is not None else ZERO_TIME,
    }
    if not idle and not loading:
        document["in_use"] = True
    if loading:
        document["loading"] = True
    if view.keep_alive != default:
        document["keep_alive"] = str(view.keep_alive)
    if view.pid is not None:
        document["pid"] = view.pid
    if view.endpoint is not None and view.endpoint.socket is None:
        document["endpoint"] = str(view.endpoint)
    if view.footprint is not None:
        document["memory"] = view.footprint.resident
    if view.placement is not None:
        document["processor"] = str(view.placement)
        document["placement"] = _placement_json(view.placement)
    if view.warning:
        document["warning"] = view.warning
    return document


def unloaded_json(view: RunnerView) -> dict[str, Any]:
    """A runner that was told to go; ``stopped`` is whether it is gone already, or ends with its last answer."""
    return {
        "backend": view.key.backend,
        "model": view.alias,
        "mode": view.key.mode.value,
        "stopped": not view.leases,
    }


def configured_json(entry: ConfiguredModel) -> dict[str, Any]:
    """A stored configuration; the capital letters are the wire's own."""
    return {
        "Backend": entry.backend,
        "Model": entry.model.tags[0] if entry.model.tags else "",
        "ModelID": str(entry.model.id),
        "Mode": entry.mode.value,
        "Config": engine_document(entry.config),
    }


def backend_json(view: BackendView) -> dict[str, Any]:
    """A backend as ``GET /dmr/v1/backends`` lists it; ``share`` is ``null`` where nobody knows how far it is."""
    spec, state = view.backend.spec, view.state
    return {
        "name": spec.name,
        "summary": spec.summary,
        "state": state.phase.value,
        "status": view.status.state.value,
        "detail": view.status.detail,
        "program": _program_json(view.status.program) if view.status.program else None,
        "formats": sorted(known.value for known in spec.formats),
        "modes": sorted(mode.value for mode in spec.modes),
        "supported": view.here,
        "on_demand": spec.installs,
        "share": state.share,
        "attempts": state.attempts,
        "retry_in": round(view.retry_in, 1),
        "next": view.next_step,
    }


def plugins_json(plugins: tuple[PluginInfo, ...], detections: tuple[Detection, ...]) -> dict[str, Any]:
    """Every plugin, and what the detectors saw."""
    return {
        "plugins": [
            {
                "name": plugin.name,
                "distribution": plugin.distribution,
                "version": plugin.version,
                "state": plugin.state.value,
                "provides": list(plugin.provides),
                "error": plugin.error,
            }
            for plugin in plugins
        ],
        "detections": [
            {
                "variant": detection.variant,
                "devices": [_device_json(device) for device in detection.devices],
                "detail": detection.detail,
            }
            for detection in detections
        ],
    }


def accelerator_json(accelerator: Accelerator, detections: tuple[Detection, ...]) -> dict[str, Any]:
    """What engines are started for, and why; ``notes`` are what the detectors have to say, by variant."""
    return {
        "variant": accelerator.variant,
        "reason": accelerator.reason,
        "forced": accelerator.forced,
        "devices": [_device_json(device) for device in accelerator.devices],
        "notes": {found.variant: found.detail for found in detections if found.detail and found.variant != CPU},
    }


def _device_json(device: GpuDevice) -> dict[str, Any]:
    return {
        "index": device.index,
        "name": device.name,
        "memory_total": device.memory_total,
        "memory_free": device.memory_free,
        "memory_used": device.memory_used,
        "uuid": device.uuid,
        "bus": device.bus,
        "driver": device.driver,
        "architecture": device.architecture,
        "parent": device.parent,
        "shares_host_memory": device.shares_host_memory,
    }


def _program_json(program: EngineProgram) -> dict[str, str]:
    return {"path": program.path, "variant": program.variant, "reason": program.reason}


def _placement_json(placement: Placement) -> dict[str, Any]:
    return {
        "devices": list(placement.devices),
        "layers": placement.layers,
        "total_layers": placement.total_layers,
        "accelerated": placement.accelerated,
    }


def progress_line(line: Progress, *, escaped: bool) -> bytes:
    """A line of a progress stream; ``escaped`` is how clients that do not ask for JSON have always got it."""
    layer: dict[str, Any] = {"size": 0, "current": 0}
    if line.layer is not None:
        layer = {"id": str(line.layer.id), "size": line.layer.size, "current": line.layer.current}
    document: dict[str, Any] = {
        "type": line.kind.value,
        "message": line.message,
        "total": line.total,
        "layer": layer,
        "mode": line.mode.value,
    }
    if line.code is not None:
        document["code"] = line.code
    if line.share is not None:
        document["share"] = line.share
    text = orjson.dumps(document)
    if escaped:
        text = html.escape(text.decode()).replace("&quot;", "&#34;").replace("&#x27;", "&#39;").encode()
    return text + b"\n"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
