"""The words that flags of ``dmr-llama-server`` choose from, and the members of xllamacpp's enumerations they name."""

from __future__ import annotations

from dmr_backends_llamacpp.server_flag_values import EnumValue, Pairs, choice, switch_value, whole

__all__ = [
    "EXPERTS",
    "FLASH",
    "GPU_LAYERS",
    "KV_TYPES",
    "LAZY",
    "LOAD",
    "NUMA",
    "POOLING",
    "PRIORITY",
    "RANK",
    "REASONING_FORMAT",
    "ROPE_SCALING",
    "SPECULATION",
    "SPLIT",
    "THREADS",
    "YES_NO",
    "both",
    "preserved",
    "thinking",
]

KV_TYPES = choice(
    {
        name: EnumValue("ggml_type", f"GGML_TYPE_{name.upper()}")
        for name in ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
    },
    "TYPE",
)
RANK = EnumValue("llama_pooling_type", "LLAMA_POOLING_TYPE_RANK")
POOLING = choice(
    {
        name: EnumValue("llama_pooling_type", f"LLAMA_POOLING_TYPE_{name.upper()}")
        for name in ("none", "mean", "cls", "last", "rank")
    }
)
ROPE_SCALING = choice(
    {
        name: EnumValue("llama_rope_scaling_type", f"LLAMA_ROPE_SCALING_TYPE_{name.upper()}")
        for name in ("none", "linear", "yarn")
    }
)
SPLIT = choice(
    {
        name: EnumValue("llama_split_mode", f"LLAMA_SPLIT_MODE_{name.upper()}")
        for name in ("none", "layer", "row", "tensor")
    }
)
FLASH = switch_value(
    *(EnumValue("llama_flash_attn_type", f"LLAMA_FLASH_ATTN_TYPE_{name}") for name in ("ENABLED", "DISABLED", "AUTO"))
)
LOAD = choice(
    {
        word: EnumValue("llama_load_mode", f"LLAMA_LOAD_MODE_{member}")
        for word, member in (
            ("auto", "AUTO"),
            ("none", "NONE"),
            ("mmap", "MMAP"),
            ("mlock", "MLOCK"),
            ("mmap+mlock", "MMAP_MLOCK"),
            ("dio", "DIRECT_IO"),
        )
    },
    "MODE",
)
LAZY = switch_value(*(EnumValue("llama_lazy_mode", f"LLAMA_LAZY_MODE_{name}") for name in ("ON", "OFF", "AUTO")))
NUMA = choice(
    {
        name: EnumValue("ggml_numa_strategy", f"GGML_NUMA_STRATEGY_{name.upper()}")
        for name in ("distribute", "isolate", "numactl")
    }
)
REASONING_FORMAT = choice(
    {
        name: EnumValue("common_reasoning_format", f"COMMON_REASONING_FORMAT_{name.upper().replace('-', '_')}")
        for name in ("none", "auto", "deepseek", "deepseek-legacy")
    }
)
SPECULATION = {
    name: EnumValue("common_speculative_type", f"COMMON_SPECULATIVE_TYPE_{name.upper().replace('-', '_')}")
    for name in (
        "none",
        "draft-simple",
        "draft-eagle3",
        "draft-mtp",
        "draft-dflash",
        "draft-dspark",
        "ngram-simple",
        "ngram-map-k",
        "ngram-map-k4v",
        "ngram-mod",
        "ngram-cache",
    )
}
PRIORITY = choice(
    {
        word: EnumValue("ggml_sched_priority", f"GGML_SCHED_PRIO_{member}")
        for word, member in (("-1", "LOW"), ("0", "NORMAL"), ("1", "MEDIUM"), ("2", "HIGH"), ("3", "REALTIME"))
    },
    "N",
)
GPU_LAYERS = whole(0, words={"auto": -1, "all": -2, "-1": -1, "-2": -2})
THREADS = whole(-1, 512)
YES_NO = switch_value(on=True, off=False)
EXPERTS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"


def thinking(state: int, *arguments: tuple[str, str]) -> Pairs:
    """Whether to think, and the arguments that tell the template so."""
    return Pairs((("enable_reasoning", state), ("default_template_kwargs", arguments)))


def both(first: str, second: str, value: object) -> Pairs:
    """One value for two fields."""
    return Pairs(((first, value), (second, value)))


def preserved(answer: str) -> Pairs:
    """Whether earlier thoughts stay in the history."""
    return Pairs(
        (("preserve_reasoning_specified", True), ("default_template_kwargs", (("preserve_reasoning", answer),)))
    )
