"""Which flags of ``vllm serve`` a client may set, and what each takes.

The names the reference allows, under their current spelling, with the ``--no-`` twins vLLM gives its switches. Left
out are ``--served-model-name``, which carries the name that answers must have, and two that vLLM removed.
``--load-format`` is limited to what reads local safetensors: ``pt`` and ``npcache`` unpickle, others fetch.
"""

from __future__ import annotations

from typing import Final

from dmr_core.domain.flag_kinds import Choice, Integer, Kind, Number, Pattern
from dmr_core.domain.flags import Flag, FlagTable

__all__ = ["CLIENT_FLAGS"]

_TOKENS: Final = r"[0-9]{1,12}|[0-9]{1,9}(?:\.[0-9]{1,6})?[kKmMgG]"
_NAME: Final = r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.)){0,127}"
# Flags of vLLM that are near an allowed one; they take paths, addresses, keys or code, or are the runner's to set.
_OTHERS: Final = (
    *("--host", "--port", "--uds", "--api-key", "--model", "--tokenizer", "--tokenizer-revision", "--code-revision"),
    *("--trust-remote-code", "--download-dir", "--config", "--config-format", "--chat-template", "--middleware"),
    *("--root-path", "--ssl-keyfile", "--ssl-certfile", "--hf-token", "--hf-config-path", "--hf-overrides"),
    *("--model-loader-extra-config", "--allowed-local-media-path", "--worker-cls", "--worker-extension-cls"),
)
_GONE: Final = "vLLM no longer has it"


def _switch(name: str, text: str) -> Flag:
    return Flag(names=(f"--{name}",), off_names=(f"--no-{name}",), help=text)


def _value(kind: Kind, text: str, *names: str, setting: str = "") -> Flag:
    return Flag(names=names, kind=kind, help=text, setting=setting)


CLIENT_FLAGS: Final = FlagTable(
    "vllm",
    (
        _value(Integer(1, 1024), "tokens in a block of the cache", "--block-size"),
        _switch("disable-custom-all-reduce", "reduce over GPUs with NCCL alone"),
        Flag(names=("--disable-log-stats",), help="log no statistics"),
        _value(
            Choice(("auto", "bfloat16", "float", "float16", "float32", "half")), "type of weights and sums", "--dtype"
        ),
        _switch("enable-chunked-prefill", "mix parts of long prompts with answers"),
        _switch("enable-prefix-caching", "reuse the beginnings of prompts"),
        _switch("enforce-eager", "no CUDA graphs"),
        _value(
            Number(0, 1),
            "share of the GPU's memory to use",
            "--gpu-memory-utilization",
            setting="vllm.gpu-memory-utilization",
        ),
        _value(
            Choice(("auto", "bfloat16", "float16", "fp8", "fp8_ds_mla", "fp8_e4m3", "fp8_e5m2", "fp8_inc")),
            "type of the cache",
            "--kv-cache-dtype",
        ),
        _value(
            Choice(("auto", "safetensors", "fastsafetensors", "bitsandbytes", "mistral", "sharded_state", "dummy")),
            "how the weights are read",
            "--load-format",
        ),
        _value(Integer(-1), "most log probabilities a request may ask for, -1 for all", "--max-logprobs"),
        _value(
            Pattern(f"{_TOKENS}|auto|-1", "a number of tokens such as 8192 or 8k, auto or -1"),
            "tokens of context",
            "--max-model-len",
            setting="context-size",
        ),
        _value(
            Pattern(_TOKENS, "a number of tokens such as 8192 or 8k"),
            "most tokens in one step",
            "--max-num-batched-tokens",
        ),
        _value(Integer(1), "most sequences in one step", "--max-num-seqs"),
        _value(Integer(1, 1024), "stages to split the layers into", "--pipeline-parallel-size", "-pp"),
        _value(
            Pattern(_NAME, "the name of a method such as awq or fp8"),
            "how the weights are quantized",
            "--quantization",
            "-q",
        ),
        _value(
            Pattern(_NAME, "a branch, tag or commit"),
            "revision of the model, without effect on a local one",
            "--revision",
        ),
        _value(Integer(0, 2**32 - 1), "seed", "--seed"),
        _value(Integer(1, 1024), "GPUs that share each layer", "--tensor-parallel-size", "-tp"),
        _value(
            Choice(("auto", "hf", "slow", "mistral", "deepseek_v32")), "which tokenizer is used", "--tokenizer-mode"
        ),
    ),
    withheld={
        "--served-model-name": "the model runner sets it to the name that clients use",
        "--swap-space": _GONE,
        "--use-v2-block-manager": _GONE,
        **dict.fromkeys(_OTHERS, ""),
    },
)
"""The flags that runtime flags may hold."""
