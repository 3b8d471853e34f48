"""What vLLM is told by the machine and the operator rather than by the model: devices, variables, ``VLLM_ARGS``."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Final

from dmr_backends_vllm.shape import Shape
from dmr_core.domain.gpu import CPU
from dmr_core.domain.provenance import Claim, Source
from dmr_core.errors import InvalidConfigurationError
from dmr_core.ports.engine import Argument

__all__ = ["PASSED_ON", "engine_environment", "operator_arguments", "tensor_parallel"]

PASSED_ON: Final = (
    *("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES"),
    *("VLLM_CPU_KVCACHE_SPACE", "VLLM_CPU_OMP_THREADS_BIND", "VLLM_CPU_NUM_OF_RESERVED_CPU", "VLLM_LOGGING_LEVEL"),
    *("VLLM_ATTENTION_BACKEND", "VLLM_CACHE_ROOT", "VLLM_HOST_IP", "VLLM_USE_RAY_COMPILED_DAG_CHANNEL_TYPE"),
    *("RAY_ADDRESS", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "NCCL_IB_HCA", "NCCL_IB_DISABLE", "NCCL_DEBUG"),
)
"""Variables of the operator that reach the engine: where devices, caches and the other nodes are."""

# What vLLM would tell its makers, or fetch, on its own.
_ALWAYS: Final = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}
_OURS: Final = frozenset(
    {
        *("--uds", "--host", "--port", "--model", "--served-model-name", "--api-key", "--root-path", "--config"),
        *("--ssl-keyfile", "--ssl-certfile", "--ssl-ca-certs", "--trust-remote-code", "--runner", "--middleware"),
    }
)
_SEQUENCES: Final = 4
"""Sequences of full length that the cache of a processor has room for."""
_GIB: Final = 1024**3
_MOST_GIB: Final = 64
_UNKNOWN: Final = 4096


def engine_environment(
    environment: Mapping[str, str], variant: str, shape: Shape, context: int | None
) -> dict[str, str]:
    """Variables for a start. ``context`` is the configured context size in tokens, if there is one.

    On a processor vLLM takes memory for its cache by a variable, not by a share of what is there.
    """
    passed = {name: environment[name] for name in PASSED_ON if environment.get(name)}
    if variant == CPU and "VLLM_CPU_KVCACHE_SPACE" not in passed:
        tokens = context or shape.context or _UNKNOWN
        needed = math.ceil(_SEQUENCES * shape.cache_bytes(tokens) / _GIB)
        passed["VLLM_CPU_KVCACHE_SPACE"] = str(min(max(1, needed), _MOST_GIB))
    return {**_ALWAYS, **passed}


def tensor_parallel(devices: int, shape: Shape) -> int:
    """Over how many of ``devices`` equal accelerators each layer is split: as many as share its heads evenly."""
    if shape.heads == 0:
        return 1
    return next(count for count in range(max(1, devices), 0, -1) if shape.heads % count == 0)


def operator_arguments(text: str | None) -> tuple[Argument, ...]:
    """The flags of ``VLLM_ARGS``, split as a shell does. They go before those of clients.

    Raises:
        InvalidConfigurationError: they are no flags, or hold one that is the runner's.
    """
    try:
        words = shlex.split(text or "")
    except ValueError as exc:
        raise InvalidConfigurationError(f"VLLM_ARGS cannot be read: {exc}") from exc
    return tuple(_argument(group) for group in _groups(words))


def _groups(words: Sequence[str]) -> list[list[str]]:
    """Each flag with its values."""
    groups: list[list[str]] = []
    for word in words:
        if word.startswith("-") and not _is_number(word):
            name = word.partition("=")[0].replace("_", "-")
            if name in _OURS:
                raise InvalidConfigurationError(f"VLLM_ARGS holds {name}, which is the model runner's to set")
            groups.append([word])
        elif groups:
            groups[-1].append(word)
        else:
            raise InvalidConfigurationError(f"VLLM_ARGS begins with {word!r}: begin with a flag")
    return groups


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _argument(words: list[str]) -> Argument:
    name = words[0].partition("=")[0]
    return Argument(words=tuple(words), claim=Claim(" ".join(words), Source.ENVIRONMENT, "VLLM_ARGS"), setting=name)
