"""What vLLM prints when it fails, and what that means.

The texts are those of vLLM, PyTorch, Transformers, safetensors and argparse.
"""

from __future__ import annotations

import re
from typing import Final

from dmr_core.domain.diagnosis import MORE_MEMORY, Rule, diagnose
from dmr_core.errors import (
    EngineExitedError,
    EngineFlagError,
    EngineOutOfMemoryError,
    EngineUnusableError,
    EngineVersionError,
    ModelCorruptError,
)

__all__ = ["explain"]

_PULL_AGAIN: Final = "Remove it and get it again: `dmr rm MODEL`, then `dmr pull MODEL`."
_UPDATE: Final = "Update vLLM, or use another model."
_CONFIGURE: Final = "Correct it with `dmr configure MODEL`."
_SMALLER_CONTEXT: Final = (
    "Set a smaller context size (`dmr configure MODEL --context-size N`), or raise --gpu-memory-utilization."
)

# The first that is found decides; vLLM's processes repeat each other's errors in the tracebacks below them.
_RULES: Final = (
    Rule(
        re.compile(r"Free memory on device (?P<device>[^\n]*?) on startup is less than desired GPU memory utilization"),
        EngineOutOfMemoryError,
        "not enough GPU memory to load the model (CUDA): less is free than vLLM was told to use",
        "Free some (`dmr ps`, `nvidia-smi`), or set a lower --gpu-memory-utilization.",
    ),
    Rule(
        re.compile(r"larger than the (?:available KV cache memory|maximum number of tokens that can be stored in KV)"),
        EngineOutOfMemoryError,
        "not enough GPU memory for the model's context: its KV cache does not fit",
        _SMALLER_CONTEXT,
    ),
    Rule(
        re.compile(r"No available memory for the cache blocks"),
        EngineOutOfMemoryError,
        "not enough GPU memory for the model's context: nothing is left beside its weights",
        _SMALLER_CONTEXT,
    ),
    Rule(
        re.compile(r"CUDA out of memory|CUDA error: out of memory|HIP out of memory"),
        EngineOutOfMemoryError,
        "not enough GPU memory to load the model (CUDA)",
        MORE_MEMORY,
    ),
    Rule(
        re.compile(r"can't allocate memory|[Cc]annot allocate memory|^MemoryError", re.MULTILINE),
        EngineOutOfMemoryError,
        "not enough memory to load the model",
        MORE_MEMORY,
    ),
    Rule(
        re.compile(
            r"(?P<why>No CUDA GPUs are available|Found no NVIDIA driver on your system|Failed to infer device type"
            r"|libcuda\.so\.1: cannot open shared object file|CUDA driver version is insufficient)"
        ),
        EngineUnusableError,
        "vLLM finds no GPU it can use: {why}",
        "Check the driver with `nvidia-smi`, and that the container may use the GPU; or use the llama.cpp backend.",
    ),
    Rule(
        re.compile(r"No module named '(?P<module>[\w.]+)'"),
        EngineUnusableError,
        "vLLM cannot run: the Python package {module} is missing where it is installed",
        "Install vLLM again.",
    ),
    Rule(
        re.compile(r"Model architectures (?P<names>\[[^\]\n]*\]) (?:are not supported|failed to be inspected)"),
        EngineVersionError,
        "this vLLM does not know the model's architecture {names}",
        _UPDATE,
    ),
    Rule(
        re.compile(r"model type `(?P<name>[^`\n]*)` but Transformers does not recognize this architecture"),
        EngineVersionError,
        "this vLLM does not know the model's architecture '{name}'",
        _UPDATE,
    ),
    Rule(
        re.compile(r"Unknown quantization method: (?P<name>[^\n.]*)"),
        EngineVersionError,
        "this vLLM does not know the model's quantisation '{name}'",
        _UPDATE,
    ),
    Rule(
        re.compile(
            r"(?:SafetensorError: (?:Error while deserializing header: )?|Error while deserializing header: )(?P<why>[^\n]*)"
            r"|(?P<kind>HeaderTooLarge|HeaderTooSmall|InvalidHeaderDeserialization|MetadataIncompleteBuffer)"
        ),
        ModelCorruptError,
        "failed to load model: its file is cut off or damaged ({why}{kind})",
        _PULL_AGAIN,
    ),
    Rule(
        re.compile(r"User-specified max_model_len \((?P<wanted>\d+)\) is greater than the derived max_model_len"),
        EngineFlagError,
        "the context size {wanted} is more than the model was made for",
        _SMALLER_CONTEXT.partition(",")[0] + ".",
    ),
    Rule(
        re.compile(r"error: unrecognized arguments?: (?P<flags>[^\n]*)"),
        EngineFlagError,
        "this vLLM does not know the flag {flags}",
        _CONFIGURE,
    ),
    Rule(
        re.compile(r"error: argument (?P<flag>-[\w/-]+): (?P<why>[^\n]*)"),
        EngineFlagError,
        "vLLM refused the flag {flag}: {why}",
        _CONFIGURE,
    ),
)


def explain(failure: EngineExitedError) -> EngineExitedError:
    """The same failure, with its cause and a next step where vLLM's last lines tell them."""
    return diagnose(failure, _RULES)
