"""Output recorded from llama.cpp, and what it means."""

from __future__ import annotations

import pytest

from dmr_backends_llamacpp.diagnosis import explain
from dmr_core.errors import EngineExitedError

_GAVE_UP = """\
0.00.003.768 E llama_model_load_from_file_impl: failed to load model
0.00.003.450 E common_fit_params: encountered an error while trying to fit params to free device memory: failed to load model
0.00.003.793 E srv    load_model: failed to load model, 'model.gguf'
0.00.004.155 E srv          init: exiting due to model loading error
error: failed to load model 'model.gguf': the lines above say why"""


@pytest.mark.parametrize(
    ("printed", "code", "cause"),
    [
        (
            (
                "0.00.003.580 E llama_model_load: error loading model: tensor 'blk.1.ffn_down.weight' data is not within "
                "the file bounds, model is corrupted or incomplete"
            ),
            "model_corrupt",
            "its file is cut off or damaged (tensor 'blk.1.ffn_down.weight' lies beyond its end)",
        ),
        ("E gguf_init_from_reader: failed to read key-value pairs", "model_corrupt", "damaged (key-value pairs)"),
        ("error: failed to load model 'm.gguf': not a GGUF file", "model_corrupt", "no GGUF file at all"),
        ("gguf_init_from_file_impl: invalid magic characters: 'XXXX', expected 'GGUF'", "model_corrupt", "no GGUF"),
        (
            "error loading model: check_tensor_dims: tensor 'blk.0.attn_q.weight' not found",
            "model_corrupt",
            "tensor 'blk.0.attn_q.weight' is missing",
        ),
        ("error: failed to load model 'gone.gguf': No such file or directory", "model_corrupt", "No such file"),
        (
            "E llama_model_load: error loading model: unknown model architecture: 'zzzzz'",
            "engine_version",
            "this llama.cpp does not know its architecture 'zzzzz'",
        ),
        (
            (
                "E gguf_init_from_reader: this GGUF file is version 9 but this software only supports up to version 3\n"
                "E gguf_init_from_reader: failed to read header"
            ),
            "engine_version",
            "its file is GGUF version 9, and this llama.cpp reads up to version 3",
        ),
        (
            (
                "gguf_init_from_reader: GGUFv1 is no longer supported, please use a more up-to-date version\n"
                "E gguf_init_from_reader: failed to read header"
            ),
            "engine_version",
            "its file is GGUFv1, too old",
        ),
        (
            (
                "E gguf_init_from_reader: tensor 'token_embd.weight' has invalid ggml type 99. should be in [0, 43)\n"
                "E gguf_init_from_reader: failed to read tensor info"
            ),
            "engine_version",
            "the quantisation (type 99) of its tensor 'token_embd.weight'",
        ),
        (
            "error loading model: error loading model vocabulary: unknown tokenizer: 'gpt9'",
            "engine_version",
            "tokenizer 'gpt9'",
        ),
        (
            "error loading model vocabulary: unknown pre-tokenizer type: 'new-one'",
            "engine_version",
            "tokenizer 'new-one'",
        ),
        (
            "0.00.637.399 E llama_init_from_model: failed to initialize the context: std::bad_alloc",
            "engine_out_of_memory",
            "not enough memory to load the model",
        ),
        (
            "ggml_aligned_malloc: insufficient memory (attempted to allocate 8192.00 MB)",
            "engine_out_of_memory",
            "not enough memory to load the model",
        ),
        (
            (
                "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 4437.80 MiB on device 0: cudaMalloc failed: "
                "out of memory"
            ),
            "engine_out_of_memory",
            "not enough GPU memory to load the model (CUDA)",
        ),
        (
            "ggml_metal_buffer_init: error: failed to allocate buffer, size =  4437.80 MiB",
            "engine_out_of_memory",
            "not enough GPU memory to load the model (Metal)",
        ),
        (
            "ggml_vulkan: Device memory allocation of size 4653056 failed.",
            "engine_out_of_memory",
            "not enough GPU memory to load the model (Vulkan)",
        ),
        ("error: no matter", "engine_exited", "failed to load model"),
    ],
)
def test_a_load_that_failed_is_explained(printed: str, code: str, cause: str) -> None:
    found = explain(EngineExitedError("llama.cpp", 1, f"{printed}\n{_GAVE_UP}"))

    assert found.code == code
    assert cause in found.cause
    assert found.remedy
    if "memory" not in cause:
        assert found.cause.startswith("failed to load model")


@pytest.mark.parametrize(
    ("printed", "cause"),
    [
        ("error: unknown argument: --bad-flag", "this llama.cpp does not know the flag --bad-flag"),
        ("error: invalid argument: --bad-flag", "this llama.cpp does not know the flag --bad-flag"),
        (
            "error: --ctx-size: expected an integer from 0 to 2147483647, or -1, not 'abc'",
            "llama.cpp refused the flag --ctx-size: expected an integer from 0 to 2147483647, or -1, not 'abc'",
        ),
        ('error while handling argument "-ngl": stoi', "llama.cpp refused the flag -ngl: stoi"),
    ],
)
def test_a_refused_flag_is_named(printed: str, cause: str) -> None:
    found = explain(EngineExitedError("llama.cpp", 2, printed))

    assert (found.code, found.cause) == ("engine_bad_flag", cause)


def test_an_installation_without_its_engine_is_unusable() -> None:
    found = explain(EngineExitedError("llama.cpp", 1, "ModuleNotFoundError: No module named 'xllamacpp'"))
    assert (found.code, found.cause) == (
        "engine_unusable",
        "llama.cpp cannot run: the Python package xllamacpp is missing",
    )


def test_an_end_without_a_word_stays_unexplained() -> None:
    silent = EngineExitedError("llama.cpp", 1)
    assert explain(silent) is silent
