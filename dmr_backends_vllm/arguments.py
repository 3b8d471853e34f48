"""The argument vector of ``vllm serve``: pure, so that a table can test it.

A raw flag of a client wins over the typed setting that says the same; each flag is in the vector once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from dmr_backends_vllm.allowed_flags import CLIENT_FLAGS
from dmr_core.domain.engine import EngineConfig, EngineMode
from dmr_core.domain.flags import latest, render
from dmr_core.errors import InvalidConfigurationError, UnsupportedFormatError
from dmr_core.ports.engine import LaunchRequest

__all__ = ["check_config", "serve_arguments"]

_SECTION: Final = "vllm"
_KEY: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def check_config(config: EngineConfig) -> None:
    """Refuse what this engine cannot honour or must not be told.

    Raises:
        InvalidConfigurationError: names the flag or setting.
    """
    foreign = sorted(set(config.sections) - {_SECTION})
    if foreign:
        raise InvalidConfigurationError(f"settings for {foreign[0]!r} do not apply to the vllm backend")
    CLIENT_FLAGS.parse(config.runtime_flags)
    _section_arguments(config.sections.get(_SECTION, {}))


def serve_arguments(request: LaunchRequest, socket: Path) -> tuple[str, ...]:
    """Everything after ``vllm``.

    Raises:
        UnsupportedFormatError: the model has no safetensors weights, or the mode is not one of vLLM's.
        InvalidConfigurationError: the settings hold a flag that is not allowed.
    """
    bundle, config = request.bundle, request.config
    if bundle.safetensors is None:
        raise UnsupportedFormatError(f"safetensors path required by vLLM backend: {request.alias!r} has none")
    words = ["serve", str(bundle.safetensors.parent), "--uds", str(socket)]
    if bundle.chat_template is not None:
        words += ["--chat-template", str(bundle.chat_template)]
    match request.mode:
        case EngineMode.COMPLETION | EngineMode.RERANKING:
            pass
        case EngineMode.EMBEDDING:
            words += ["--runner", "pooling"]
        case _:
            raise UnsupportedFormatError(f'unsupported backend mode "{request.mode}"')
    flags = latest(CLIENT_FLAGS.parse(config.runtime_flags))
    decided = {use.flag.setting for use in flags}
    if config.context_size is not None and config.context_size > 0 and "context-size" not in decided:
        words += ["--max-model-len", str(config.context_size)]
    words += render(flags)
    section = config.sections.get(_SECTION, {})
    words += _section_arguments({name: value for name, value in section.items() if f"vllm.{name}" not in decided})
    if request.draft is not None and request.draft.safetensors is not None:
        speculative: dict[str, Any] = {"model": str(request.draft.safetensors.parent)}
        if config.speculative is not None and config.speculative.num_tokens:
            speculative["num_speculative_tokens"] = config.speculative.num_tokens
        words += ["--speculative-config", json.dumps(speculative)]
    # The first name is the one answers carry.
    words += ["--served-model-name", request.alias, str(request.model.id)]
    return tuple(words)


def _section_arguments(section: Mapping[str, Any]) -> list[str]:
    unknown = sorted(set(section) - {"hf-overrides", "gpu-memory-utilization"})
    if unknown:
        raise InvalidConfigurationError(f"unknown setting vllm.{unknown[0]}")
    words: list[str] = []
    share = section.get("gpu-memory-utilization")
    if share is not None:
        if not isinstance(share, int | float) or isinstance(share, bool) or not 0 <= share <= 1:
            raise InvalidConfigurationError(f"vllm.gpu-memory-utilization is {share!r}: use a number from 0 to 1")
        words += ["--gpu-memory-utilization", f"{share:g}"]
    overrides = section.get("hf-overrides")
    if overrides:
        if not isinstance(overrides, dict):
            raise InvalidConfigurationError(f"vllm.hf-overrides is {overrides!r}: use an object")
        _check_overrides(overrides, "")
        words += ["--hf-overrides", json.dumps(overrides, sort_keys=True, separators=(",", ":"))]
    return words


def _check_overrides(value: Any, where: str) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            if not _KEY.fullmatch(key):
                raise InvalidConfigurationError(
                    f'invalid hf_overrides {"nested " if where else ""}key "{key}"{f" in {where!r}" if where else ""}: must '
                    "contain only alphanumeric characters and underscores, and start with a letter or underscore"
                )
            _check_overrides(inner, key)
    elif isinstance(value, list):
        for inner in value:
            _check_overrides(inner, where)
