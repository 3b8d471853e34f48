"""The argument vector of ``vllm serve``: pure, so that a table can test it.

A raw flag of a client wins over the typed setting that says the same; each flag is in the vector once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from dmr_backends_vllm.allowed_flags import CLIENT_FLAGS
from dmr_backends_vllm.shape import Shape, read_shape
from dmr_backends_vllm.surroundings import tensor_parallel
from dmr_core.domain.engine import EngineConfig, EngineMode
from dmr_core.domain.flags import ParsedFlag, latest
from dmr_core.domain.provenance import Claim, Source
from dmr_core.errors import InvalidConfigurationError, UnsupportedFormatError
from dmr_core.ports.engine import Argument, LaunchRequest

__all__ = ["check_config", "explained_arguments", "serve_arguments"]

_SECTION: Final = "vllm"
_CONTEXT: Final = ("context-size", "--max-model-len")
_SECTION_FLAGS: Final = (
    ("vllm.gpu-memory-utilization", "--gpu-memory-utilization"),
    ("vllm.hf-overrides", "--hf-overrides"),
)
_PARALLEL: Final = frozenset({"--tensor-parallel-size", "-tp", "--pipeline-parallel-size", "-pp"})
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


def serve_arguments(
    request: LaunchRequest, socket: Path, *, operators: Sequence[Argument] = (), devices: int = 0
) -> tuple[str, ...]:
    """Everything after ``vllm``. Raises as :func:`explained_arguments`."""
    explained = explained_arguments(request, socket, operators=operators, devices=devices)
    return tuple(word for one in explained for word in one.words)


def explained_arguments(
    request: LaunchRequest, socket: Path, *, operators: Sequence[Argument] = (), devices: int = 0
) -> tuple[Argument, ...]:
    """Everything after ``vllm``, with the reason for each flag.

    ``operators`` are flags of the operator, which those of clients win over; ``devices`` is how many accelerators there are.

    Raises:
        UnsupportedFormatError: the model has no safetensors weights, or the mode is not one of vLLM's.
        InvalidConfigurationError: the settings hold a flag that is not allowed.
    """
    bundle, config = request.bundle, request.config
    if bundle.safetensors is None:
        raise UnsupportedFormatError(f"safetensors path required by vLLM backend: {request.alias!r} has none")
    arguments = [_ours("serve", str(bundle.safetensors.parent)), _ours("--uds", str(socket), changes=True)]
    if bundle.chat_template is not None:
        template = Claim(str(bundle.chat_template), Source.ARTIFACT, "chat template")
        arguments.append(_argument("chat-template", "--chat-template", [template]))
    match request.mode:
        case EngineMode.COMPLETION:
            pass
        case EngineMode.EMBEDDING | EngineMode.RERANKING:
            pooling = Claim("pooling", Source.RUNNER, f"mode {request.mode}")
            arguments.append(_argument("--runner", "--runner", [pooling]))
        case _:
            raise UnsupportedFormatError(f'unsupported backend mode "{request.mode}"')
    if request.runs_code:
        allowed = Claim("true", Source.ENVIRONMENT, "DMR_TRUST_CODE")
        arguments.append(Argument(words=("--trust-remote-code",), claim=allowed, setting="trust-remote-code"))
    flags = latest(CLIENT_FLAGS.parse(config.runtime_flags))
    typed = _typed(request)
    decided = {use.flag.setting for use in flags if use.flag.setting}
    given = {name for use in flags for name in use.flag.names}
    arguments += [argument for argument in operators if argument.setting not in given]
    given |= {argument.setting for argument in operators}
    if devices > 1 and not given & _PARALLEL:
        arguments += _parallel(devices, read_shape(bundle.safetensors.parent))
    context, flag = _CONTEXT
    if context in typed and context not in decided:
        arguments.append(_argument(context, flag, typed[context]))
    arguments += [_raw(use, typed.get(use.flag.setting, [])) for use in flags]
    arguments += [
        _argument(name, flag, typed[name]) for name, flag in _SECTION_FLAGS if name in typed and name not in decided
    ]
    arguments += _speculative(request)
    # The first name is the one answers carry.
    names = (request.alias, str(request.model.id))
    return (*arguments, _ours("--served-model-name", *names, changes=True))


def _parallel(devices: int, shape: Shape) -> list[Argument]:
    count = tensor_parallel(devices, shape)
    if count == 1:
        return []
    claim = Claim(str(count), Source.RUNNER, f"{devices} devices, {shape.heads} attention heads")
    return [_argument("tensor-parallel-size", "--tensor-parallel-size", [claim])]


def _ours(*words: str, changes: bool = False) -> Argument:
    """What the runner cannot do without."""
    return Argument(words=words, claim=Claim(" ".join(words[1:]), Source.RUNNER), changes=changes)


def _argument(setting: str, flag: str, claims: Sequence[Claim]) -> Argument:
    *lost, won = claims
    return Argument(words=(flag, won.value), claim=won, setting=setting, overrode=tuple(reversed(lost)))


def _raw(use: ParsedFlag, lost: Sequence[Claim]) -> Argument:
    value = use.value if use.value is not None else "false" if use.off else "true"
    claim = Claim(value, Source.CONFIGURATION, "runtime-flags")
    name = use.flag.setting or use.flag.names[0]
    return Argument(words=use.words, claim=claim, setting=name, overrode=tuple(reversed(lost)))


def _typed(request: LaunchRequest) -> dict[str, list[Claim]]:
    """What typed settings say, and what the model was packaged with, the strongest last."""
    config, packaged = request.config, request.model.config.context_size
    sizes = [] if packaged is None or packaged <= 0 else [Claim(str(packaged), Source.ARTIFACT, "context_size")]
    if config.context_size is not None and config.context_size > 0 and "context-size" not in request.packaged:
        sizes.append(Claim(str(config.context_size), Source.CONFIGURATION))
    elif config.context_size == -1 and "context-size" not in request.packaged:
        sizes = []  # the model's own, which is what vLLM takes when it is told nothing
    typed = {_CONTEXT[0]: sizes} if sizes else {}
    words = _section_arguments(config.sections.get(_SECTION, {}))
    settings = {flag: name for name, flag in _SECTION_FLAGS}
    for flag, value in zip(words[::2], words[1::2], strict=True):
        typed[settings[flag]] = [Claim(value, Source.CONFIGURATION)]
    return typed


def _speculative(request: LaunchRequest) -> Iterator[Argument]:
    draft, speculative = request.draft, request.config.speculative
    if draft is None or draft.safetensors is None:
        return
    document: dict[str, Any] = {"model": str(draft.safetensors.parent)}
    if speculative is not None and speculative.num_tokens:
        document["num_speculative_tokens"] = speculative.num_tokens
    text = json.dumps(document)
    yield Argument(words=("--speculative-config", text), claim=Claim(text, Source.CONFIGURATION), setting="speculative")


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
