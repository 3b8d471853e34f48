"""What llama.cpp prints when it fails, and what that means.

The lines are those of llama-server, whose own words for the same failure change with its version, and of our own
``dmr-llama-server``. Two of the causes are texts that clients of the reference know.
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
_UPDATE: Final = "Update llama.cpp (`dmr status` shows which one is used), or use another build of the model."
_CONFIGURE: Final = "Correct it with `dmr configure MODEL`, or in LLAMA_ARGS if it stands there."


def _out_of_memory(pattern: str, cause: str) -> Rule:
    return Rule(re.compile(pattern), EngineOutOfMemoryError, cause, MORE_MEMORY)


def _corrupt(pattern: str, what: str) -> Rule:
    return Rule(re.compile(pattern), ModelCorruptError, f"failed to load model: {what}", _PULL_AGAIN)


def _version(pattern: str, what: str) -> Rule:
    return Rule(re.compile(pattern), EngineVersionError, f"failed to load model: {what}", _UPDATE)


def _flag(pattern: str, cause: str) -> Rule:
    return Rule(re.compile(pattern, re.MULTILINE), EngineFlagError, cause, _CONFIGURE)


# The first that is found decides. Memory first: a load that fails for want of it also says "failed to load model".
# Versions before damage: of a version it does not know, llama.cpp says in the next line that it cannot read the file.
_RULES: Final = (
    _out_of_memory(
        r"cudaMalloc failed: out of memory|CUDA error: out of memory|hipMalloc failed: out of memory",
        "not enough GPU memory to load the model (CUDA)",
    ),
    _out_of_memory(r"failed to allocate buffer, size = +[\d.]+ MiB", "not enough GPU memory to load the model (Metal)"),
    _out_of_memory(
        r"ErrorOutOfDeviceMemory|OutOfDeviceMemoryError|ggml_vulkan: Device memory allocation of size \d+ failed",
        "not enough GPU memory to load the model (Vulkan)",
    ),
    _out_of_memory(
        r"std::bad_alloc|insufficient memory \(attempted|unable to allocate \S+ buffer|failed to allocate buffer of size"
        r"|failed to allocate (?:compute|KV|kv|CPU|memory)|[Cc]annot allocate memory|\bMemoryError\b",
        "not enough memory to load the model",
    ),
    _version(
        r"unknown model architecture: '(?P<name>[^']*)'", "this llama.cpp does not know its architecture '{name}'"
    ),
    _version(
        r"GGUF file is version (?P<file>\d+) but this software only supports up to version (?P<known>\d+)",
        "its file is GGUF version {file}, and this llama.cpp reads up to version {known}",
    ),
    _version(r"(?P<name>GGUFv\d+) is no longer supported", "its file is {name}, too old for this llama.cpp"),
    _version(
        r"tensor '(?P<tensor>[^']*)' (?:of type \d+ \([^)]*\) )?has invalid ggml type (?P<kind>\d+)",
        "this llama.cpp does not know the quantisation (type {kind}) of its tensor '{tensor}'",
    ),
    _version(
        r"unknown (?:pre-)?tokenizer(?: type)?: '(?P<name>[^']*)'",
        "this llama.cpp does not know its tokenizer '{name}'",
    ),
    _corrupt(
        r"tensor '(?P<tensor>[^']*)' data is not within the file bounds",
        "its file is cut off or damaged (tensor '{tensor}' lies beyond its end)",
    ),
    _corrupt(r"not a GGUF file|invalid magic", "its file is damaged or no GGUF file at all"),
    _corrupt(
        r"failed to read (?P<part>key-value pairs|tensor info|tensor data|header|magic)"
        r"|model is corrupted or incomplete|unexpectedly reached end of file|read error: (?P<why>[^\n]*)",
        "its file is cut off or damaged ({part}{why})",
    ),
    _corrupt(
        r"tensor '(?P<tensor>[^']*)' not found|missing tensor '(?P<lost>[^']*)'", "tensor '{tensor}{lost}' is missing"
    ),
    _corrupt(r"failed to load model '[^']*': (?P<why>No such file[^\n]*|Permission denied|Is a directory)", "{why}"),
    _flag(
        r"^error: (?:unknown|invalid|unrecognized) argument:? '?(?P<flag>-[\w-]+)",
        "this llama.cpp does not know the flag {flag}",
    ),
    _flag(
        r"^error while handling argument \"(?P<flag>-[\w-]+)\": (?P<why>[^\n]*)",
        "llama.cpp refused the flag {flag}: {why}",
    ),
    _flag(r"^error: (?P<flag>--?[a-z][\w-]*): (?P<why>[^\n]*)", "llama.cpp refused the flag {flag}: {why}"),
    Rule(
        re.compile(
            r"no kernel image is available for execution|device kernel image is invalid|invalid device function"
        ),
        EngineUnusableError,
        "this build of llama.cpp has no kernels for the accelerator",
        "Use a build for its architecture (`dmr plugins --json` shows it; Pascal and Volta need CUDA 12), or DMR_OVERRIDE_GPU=cpu.",
    ),
    _flag(
        r"invalid device: (?P<flag>[\w]+)",
        "this llama.cpp has no device {flag}",
    ),
    Rule(
        re.compile(r"No module named '(?P<module>[\w.]+)'"),
        EngineUnusableError,
        "llama.cpp cannot run: the Python package {module} is missing",
        "Install it again: `pip install --force-reinstall dmr-backend-llamacpp`.",
    ),
    Rule(
        re.compile(r"cannot listen on (?P<where>[^\n]*)"),
        EngineExitedError,
        "llama.cpp cannot listen on {where}",
        "Ask again: it is given another address.",
    ),
    Rule(
        re.compile(r"exiting due to model loading error|failed to load model"),
        EngineExitedError,
        "failed to load model",
        "The end of its output says why.",
    ),
)


def explain(failure: EngineExitedError) -> EngineExitedError:
    """The same failure, with its cause and a next step where llama.cpp's last lines tell them."""
    return diagnose(failure, _RULES)
