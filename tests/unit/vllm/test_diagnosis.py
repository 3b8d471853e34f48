"""The texts of vLLM and of what it is built on, and what they mean."""

from __future__ import annotations

import pytest

from dmr_backends_vllm.diagnosis import explain
from dmr_core.errors import EngineExitedError


@pytest.mark.parametrize(
    ("printed", "code", "cause"),
    [
        (
            "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of",
            "engine_out_of_memory",
            "not enough GPU memory to load the model (CUDA)",
        ),
        (
            (
                "ValueError: Free memory on device cuda:0 (1.5/79.1 GiB) on startup is less than desired GPU memory "
                "utilization (0.9, 71.2 GiB)."
            ),
            "engine_out_of_memory",
            "less is free than vLLM was told to use",
        ),
        (
            (
                "ValueError: To serve at least one request with the models's max seq len (131072), (16.00 GiB KV cache is "
                "needed, which is larger than the available KV cache memory (3.10 GiB)."
            ),
            "engine_out_of_memory",
            "its KV cache does not fit",
        ),
        (
            "ValueError: No available memory for the cache blocks. Try increasing",
            "engine_out_of_memory",
            "nothing is left",
        ),
        (
            "RuntimeError: [enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried",
            "engine_out_of_memory",
            "not enough memory to load the model",
        ),
        ("RuntimeError: No CUDA GPUs are available", "engine_unusable", "No CUDA GPUs are available"),
        ("RuntimeError: Failed to infer device type, please set", "engine_unusable", "Failed to infer device type"),
        ("ModuleNotFoundError: No module named 'vllm'", "engine_unusable", "the Python package vllm is missing"),
        (
            "Value error, Model architectures ['FooForCausalLM'] are not supported for now. Supported architectures:",
            "engine_version",
            "does not know the model's architecture ['FooForCausalLM']",
        ),
        (
            (
                "ValueError: The checkpoint you are trying to load has model type `foo9` but Transformers does not "
                "recognize this architecture."
            ),
            "engine_version",
            "architecture 'foo9'",
        ),
        (
            "safetensors_rust.SafetensorError: Error while deserializing header: HeaderTooLarge",
            "model_corrupt",
            "its file is cut off or damaged (HeaderTooLarge)",
        ),
        (
            "SafetensorError: incomplete metadata, file not fully covered",
            "model_corrupt",
            "damaged (incomplete metadata, file not fully covered)",
        ),
        (
            "Value error, User-specified max_model_len (9999) is greater than the derived max_model_len (512)",
            "engine_bad_flag",
            "the context size 9999 is more than the model was made for",
        ),
        ("vllm: error: unrecognized arguments: --bad-flag 3", "engine_bad_flag", "does not know the flag --bad-flag 3"),
        (
            "api_server.py: error: argument --dtype: invalid choice: 'x'",
            "engine_bad_flag",
            "refused the flag --dtype: invalid choice: 'x'",
        ),
    ],
)
def test_a_failure_is_explained(printed: str, code: str, cause: str) -> None:
    traceback = 'Traceback (most recent call last):\n  File "core.py", line 1, in run\n'
    ending = "\nRuntimeError: Engine core initialization failed. See root cause above."
    found = explain(EngineExitedError("vllm", 1, traceback + printed + ending))

    assert found.code == code
    assert cause in found.cause
    assert found.remedy


def test_what_is_not_known_stays_unexplained() -> None:
    unknown = EngineExitedError("vllm", 1, "RuntimeError: something else")
    assert explain(unknown) is unknown
