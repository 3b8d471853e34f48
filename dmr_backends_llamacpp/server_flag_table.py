"""Every flag of llama-server that the bundled server knows: what it takes, where it lands, or why it is refused."""

from __future__ import annotations

from dmr_backends_llamacpp.server_flag_values import (
    DEVICE_LIMIT,
    EnumValue,
    Flag,
    Pairs,
    choice,
    cpu_mask,
    cpu_range,
    file_lines,
    file_text,
    fit_targets,
    json_object,
    json_text,
    kwargs,
    lora_paths,
    lora_scaled,
    names,
    number,
    sampler_letters,
    sampler_names,
    several,
    switch_value,
    tensor_split,
    text,
    texts,
    whole,
)

__all__ = ["FLAGS"]

_KV_TYPES = choice(
    {
        name: EnumValue("ggml_type", f"GGML_TYPE_{name.upper()}")
        for name in ("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1")
    },
    "TYPE",
)
_RANK = EnumValue("llama_pooling_type", "LLAMA_POOLING_TYPE_RANK")
_POOLING = choice(
    {
        name: EnumValue("llama_pooling_type", f"LLAMA_POOLING_TYPE_{name.upper()}")
        for name in ("none", "mean", "cls", "last", "rank")
    }
)
_ROPE_SCALING = choice(
    {
        name: EnumValue("llama_rope_scaling_type", f"LLAMA_ROPE_SCALING_TYPE_{name.upper()}")
        for name in ("none", "linear", "yarn")
    }
)
_SPLIT = choice(
    {
        name: EnumValue("llama_split_mode", f"LLAMA_SPLIT_MODE_{name.upper()}")
        for name in ("none", "layer", "row", "tensor")
    }
)
_FLASH = switch_value(
    *(EnumValue("llama_flash_attn_type", f"LLAMA_FLASH_ATTN_TYPE_{name}") for name in ("ENABLED", "DISABLED", "AUTO"))
)
_LOAD = choice(
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
_LAZY = switch_value(*(EnumValue("llama_lazy_mode", f"LLAMA_LAZY_MODE_{name}") for name in ("ON", "OFF", "AUTO")))
_NUMA = choice(
    {
        name: EnumValue("ggml_numa_strategy", f"GGML_NUMA_STRATEGY_{name.upper()}")
        for name in ("distribute", "isolate", "numactl")
    }
)
_REASONING_FORMAT = choice(
    {
        name: EnumValue("common_reasoning_format", f"COMMON_REASONING_FORMAT_{name.upper().replace('-', '_')}")
        for name in ("none", "auto", "deepseek", "deepseek-legacy")
    }
)
_SPECULATION = {
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
_PRIORITY = choice(
    {
        word: EnumValue("ggml_sched_priority", f"GGML_SCHED_PRIO_{member}")
        for word, member in (("-1", "LOW"), ("0", "NORMAL"), ("1", "MEDIUM"), ("2", "HIGH"), ("3", "REALTIME"))
    },
    "N",
)
_GPU_LAYERS = whole(0, words={"auto": -1, "all": -2, "-1": -1, "-2": -2})
_THREADS = whole(-1, 512)
_YES_NO = switch_value(on=True, off=False)
_EXPERTS = r"\.ffn_(up|down|gate|gate_up)_(ch|)exps"


def _thinking(state: int, *arguments: tuple[str, str]) -> Pairs:
    return Pairs((("enable_reasoning", state), ("default_template_kwargs", arguments)))


def _both(first: str, second: str, value: object) -> Pairs:
    return Pairs(((first, value), (second, value)))


def _preserved(answer: str) -> Pairs:
    return Pairs(
        (("preserve_reasoning_specified", True), ("default_template_kwargs", (("preserve_reasoning", answer),)))
    )


def _cpu_flags(group: str, path: str, infix: str, letters: str) -> tuple[Flag, ...]:
    """The placement flags of one pool of threads: generation, batches, and both again for the draft model."""
    spelled = {
        what: ((f"--spec-draft-{what}{infix}", f"--{what}{infix}-draft") if "draft" in path else (f"--{what}{infix}",))
        for what in ("cpu-mask", "cpu-range", "cpu-strict", "prio", "poll")
    }
    return (
        Flag(group, (f"-C{letters}", *spelled["cpu-mask"]), f"{path}.cpus", "processors to run on", cpu_mask()),
        Flag(group, (f"-Cr{letters}", *spelled["cpu-range"]), f"{path}.cpus", "processors to run on", cpu_range()),
        Flag(group, spelled["cpu-strict"], f"{path}.strict_cpu", "one thread to one processor", _YES_NO),
        Flag(group, spelled["prio"], f"{path}.priority", "priority of the threads, -1 (low) to 3", _PRIORITY),
        Flag(group, spelled["poll"], f"{path}.poll", "how much to spin while waiting, in percent", whole(0, 100)),
    )


def _ngram_flags() -> tuple[Flag, ...]:
    mod = tuple(
        Flag(_D, (f"--spec-ngram-mod-{name}",), f"speculative.ngram_mod.{field}", "n-gram drafting", whole(0, 1024))
        for name, field in (("n-match", "n_match"), ("n-max", "n_max"), ("n-min", "n_min"))
    )
    maps = tuple(
        Flag(
            _D,
            (f"--spec-ngram-{kind}-{name}",),
            f"speculative.ngram_{kind.replace('-', '_')}.{name.replace('-', '_')}",
            "n-gram drafting",
            whole(1, 1024),
        )
        for kind in ("simple", "map-k", "map-k4v")
        for name in ("size-n", "size-m", "min-hits")
    )
    return mod + maps


def _refused(reason: str, *groups: tuple[str, ...], takes_value: bool = True) -> tuple[Flag, ...]:
    reader = text() if takes_value else None
    return tuple(Flag("", spellings, "", "", reader, refused=reason) for spellings in groups)


_M, _S, _C, _E, _G, _D, _L = "Model", "Server", "Context", "Execution", "Sampling", "Drafting", "Log"
_NO_FIELD = (
    "is a llama-server flag that the bundled server cannot apply; set LLAMA_SERVER_PATH to a native llama-server"
)
_NO_TOOLS = (
    "is refused: it lets a model act on this machine; set LLAMA_SERVER_PATH to a native llama-server to allow it"
)
_NO_NETWORK = "is refused: the bundled server downloads nothing; pull the model first and give its path with --model"

FLAGS: tuple[Flag, ...] = (
    Flag(_M, ("-m", "--model"), "model.path", "the model, a GGUF file", text("FILE")),
    Flag(_M, ("-a", "--alias"), "model_alias", "names of the model, in answers the first in alphabetical order", names()),
    Flag(_M, ("--tags",), "model_tags", "tags of the model, for information", names()),
    Flag(_M, ("--lora",), "lora_adapters", "LoRA adapters", lora_paths()),
    Flag(_M, ("--lora-scaled",), "lora_adapters", "LoRA adapters with a scale each", lora_scaled()),
    Flag(_M, ("--lora-init-without-apply",), "lora_init_without_apply", "load adapters without applying them"),
    Flag(_M, ("-mm", "--mmproj"), "mmproj.path", "the projector of a model that sees or hears", text("FILE")),
    Flag(_M, ("--mmproj-auto",), "no_mmproj", "use the projector if there is one", on=False,
         off_spellings=("--no-mmproj", "--no-mmproj-auto"), off=True),
    Flag(_M, ("--mmproj-offload",), "mmproj_use_gpu", "run the projector on a GPU", off_spellings=("--no-mmproj-offload",)),
    Flag(_M, ("-mmdev", "--mmproj-device"), "mmproj_device", "the device of the projector", text("DEVICE")),
    Flag(_M, ("--image-min-tokens",), "image_min_tokens", "least tokens of an image", whole(1)),
    Flag(_M, ("--image-max-tokens",), "image_max_tokens", "most tokens of an image", whole(1)),
    Flag(_M, ("--mtmd-batch-max-tokens",), "mtmd_batch_max_tokens", "most image tokens in a batch", whole(1)),
    Flag(_M, ("--video-fps",), "video_fps", "frames a second taken from a video", number(above=0)),
    Flag(_M, ("--video-timestamp-interval",), "video_timestamp_interval_ms", "milliseconds between time stamps", whole(0)),
    Flag(_M, ("--video-ffmpeg-dir",), "video_ffmpeg_bin_dir", "where ffmpeg and ffprobe are", text("DIR")),
    Flag(_M, ("--media-path",), "media_path", "where file:// URLs of media may point", text("DIR", directory=True)),
    Flag(_M, ("--check-tensors",), "check_tensors", "check the weights for invalid values"),
    Flag(_M, ("-lm", "--load-mode"), "load_mode", "how the weights are read", _LOAD),
    Flag(_M, ("-lzm", "--lazy-mode"), "lazy_mode", "read some tensors on demand", _LAZY),
    Flag(_M, ("--mmap",), "@mmap", "map the weights into memory", off_spellings=("--no-mmap",)),
    Flag(_M, ("--mlock",), "@mlock", "keep the weights in memory"),
    Flag(_M, ("-dio", "--direct-io"), "@direct_io", "read the weights past the page cache",
         off_spellings=("-ndio", "--no-direct-io")),
    Flag(_M, ("--offline",), "", "no effect: nothing is ever downloaded"),

    Flag(_S, ("--host",), "hostnames", "addresses, or paths of unix sockets ending in .sock", texts("HOST,...", ",")),
    Flag(_S, ("--port",), "port", "port, 0 for a free one (default: 8080)", whole(0, 65535)),
    Flag(_S, ("--reuse-port",), "reuse_port", "let several sockets bind the port"),
    Flag(_S, ("--api-prefix",), "api_prefix", "prefix of every path", text("PREFIX", "/")),
    Flag(_S, ("--api-key",), "api_keys", "keys that requests must show", texts("KEY,...", ",")),
    Flag(_S, ("--api-key-file",), "api_keys", "a file with keys, one a line", file_lines("keys")),
    Flag(_S, ("--ssl-key-file",), "ssl_file_key", "private key for TLS", text("FILE")),
    Flag(_S, ("--ssl-cert-file",), "ssl_file_cert", "certificate for TLS", text("FILE")),
    Flag(_S, ("--path",), "public_path", "static files to serve", text("DIR")),
    Flag(_S, ("--cors-origins",), "cors_origins", "origins that browsers may ask from (default: localhost)", text("ORIGINS")),
    Flag(_S, ("--cors-methods",), "cors_methods", "methods that browsers may use", text("METHODS")),
    Flag(_S, ("--cors-headers",), "cors_headers", "headers that browsers may send", text("HEADERS")),
    Flag(_S, ("--cors-credentials",), "cors_credentials", "let browsers send credentials",
         off_spellings=("--no-cors-credentials",)),
    Flag(_S, ("--webui", "--ui"), "ui", "the web interface (default: off)", off_spellings=("--no-webui", "--no-ui")),
    Flag(_S, ("--webui-config", "--ui-config"), "ui_config_json", "settings of the web interface", json_text()),
    Flag(_S, ("--webui-config-file", "--ui-config-file"), "ui_config_json", "the same, from a file", json_text(from_file=True)),
    Flag(_S, ("-to", "--timeout"), "@timeout", "seconds to wait while reading and writing", whole(0, 2**31 - 1)),
    Flag(_S, ("--sse-ping-interval",), "sse_ping_interval", "seconds between pings in a stream, -1 for none", whole(-1)),
    Flag(_S, ("--threads-http",), "n_threads_http", "threads that serve requests", whole(-1, 4096)),
    Flag(_S, ("--metrics",), "endpoint_metrics", "serve /metrics", off_spellings=("--no-metrics",)),
    Flag(_S, ("--props",), "endpoint_props", "let POST /props change settings", off_spellings=("--no-props",)),
    Flag(_S, ("--slots",), "endpoint_slots", "serve /slots", off_spellings=("--no-slots",)),
    Flag(_S, ("--slot-save-path",), "slot_save_path", "where slots may be saved", text("DIR", directory=True)),
    Flag(_S, ("-sps", "--slot-prompt-similarity"), "slot_prompt_similarity", "likeness that keeps a prompt's slot", number(0, 1)),
    Flag(_S, ("--sleep-idle-seconds",), "sleep_idle_seconds", "seconds without work before unloading, -1 never", whole(-1)),
    Flag(_S, ("--embeddings", "--embedding"), "embedding", "serve embeddings"),
    Flag(_S, ("--rerank", "--reranking"), "", "serve reranking",
         on=Pairs((("embedding", True), ("pooling_type", _RANK)))),
    Flag(_S, ("--pooling",), "pooling_type", "how embeddings are pooled", _POOLING),
    Flag(_S, ("--embd-normalize",), "embd_normalize", "norm of embeddings, -1 for none", whole(-1)),
    Flag(_S, ("--jinja",), "use_jinja", "render chat templates with Jinja (default: on)", off_spellings=("--no-jinja",)),
    Flag(_S, ("--chat-template",), "chat_template", "a chat template, or the name of a built-in one", text("TEMPLATE")),
    Flag(_S, ("--chat-template-file",), "chat_template", "the same, from a file", file_text("a chat template")),
    Flag(_S, ("--chat-template-kwargs",), "default_template_kwargs", "arguments of the chat template", json_object()),
    Flag(_S, ("--skip-chat-parsing",), "force_pure_content_parser", "answer with content alone",
         off_spellings=("--no-skip-chat-parsing",)),
    Flag(_S, ("--prefill-assistant",), "prefill_assistant", "go on from a last message of the assistant",
         off_spellings=("--no-prefill-assistant",)),
    Flag(_S, ("--reasoning-format",), "reasoning_format", "where thoughts are put", _REASONING_FORMAT),
    Flag(_S, ("-rea", "--reasoning"), "", "whether to think", switch_value(
        _thinking(1, ("enable_thinking", "true")), _thinking(0, ("enable_thinking", "false")), _thinking(-1))),
    Flag(_S, ("--reasoning-effort",), "default_template_kwargs", "how hard to think", kwargs("reasoning_effort")),
    Flag(_S, ("--reasoning-budget",), "sampling.reasoning_budget_tokens", "tokens to think, -1 for any number", whole(-1)),
    Flag(_S, ("--reasoning-budget-message",), "sampling.reasoning_budget_message", "said when they are spent", text()),
    Flag(_S, ("--reasoning-preserve",), "", "keep thoughts in the history", on=_preserved("true"),
         off_spellings=("--no-reasoning-preserve",), off=_preserved("false")),
    Flag(_S, ("-sp", "--special"), "special", "show special tokens"),
    Flag(_S, ("-r", "--reverse-prompt"), "antiprompt", "stop at this text", texts()),
    Flag(_S, ("-e", "--escape"), "", "no effect on a server", off_spellings=("--no-escape",)),
    Flag(_S, ("--warmup",), "warmup", "try the model before serving", off_spellings=("--no-warmup",)),

    Flag(_C, ("-c", "--ctx-size"), "n_ctx", "tokens of context, 0 or -1 for the model's own", whole(0, 2**31 - 1, words={"-1": 0})),
    Flag(_C, ("-n", "--predict", "--n-predict"), "n_predict", "tokens to predict at most, -1 for any number", whole(-2)),
    Flag(_C, ("-b", "--batch-size"), "n_batch", "logical batch", whole(1, 2**31 - 1)),
    Flag(_C, ("-ub", "--ubatch-size"), "n_ubatch", "physical batch", whole(1, 2**31 - 1)),
    Flag(_C, ("-np", "--parallel"), "n_parallel", "slots, -1 for automatic", whole(1, 4096, words={"-1": -1})),
    Flag(_C, ("--keep",), "n_keep", "tokens kept of the first prompt, -1 for all", whole(-1)),
    Flag(_C, ("--swa-full",), "swa_full", "a full cache for sliding windows"),
    Flag(_C, ("-kvu", "--kv-unified"), "kv_unified", "one cache for all slots", off_spellings=("-no-kvu", "--no-kv-unified")),
    Flag(_C, ("--kv-unified-per-slot",), "kv_unified_per_slot", "context limit of a slot", whole(0)),
    Flag(_C, ("-ctk", "--cache-type-k"), "cache_type_k", "type of the cache of keys", _KV_TYPES),
    Flag(_C, ("-ctv", "--cache-type-v"), "cache_type_v", "type of the cache of values", _KV_TYPES),
    Flag(_C, ("-ctxcp", "--ctx-checkpoints", "--swa-checkpoints"), "n_ctx_checkpoints", "checkpoints of a slot", whole(0)),
    Flag(_C, ("-cms", "--checkpoint-min-step"), "checkpoint_min_step", "tokens between checkpoints", whole(0)),
    Flag(_C, ("-cram", "--cache-ram"), "cache_ram_mib", "MiB of cached prompts, -1 for no limit", whole(-1)),
    Flag(_C, ("--cache-prompt",), "cache_prompt", "reuse prompts", off_spellings=("--no-cache-prompt",)),
    Flag(_C, ("--cache-reuse",), "n_cache_reuse", "least tokens to reuse by shifting", whole(0)),
    Flag(_C, ("--cache-idle-slots",), "cache_idle_slots", "cache the prompts of idle slots",
         off_spellings=("--no-cache-idle-slots",)),
    Flag(_C, ("--context-shift",), "ctx_shift", "shift a full context", off_spellings=("--no-context-shift",)),
    Flag(_C, ("-cb", "--cont-batching"), "cont_batching", "continuous batching", off_spellings=("-nocb", "--no-cont-batching")),
    Flag(_C, ("-dt", "--defrag-thold"), "", "no effect: gone from llama.cpp", number()),
    Flag(_C, ("--rope-scaling",), "rope_scaling_type", "how positions are scaled", _ROPE_SCALING),
    Flag(_C, ("--rope-scale",), "@rope_scale", "factor by which context grows", number(above=0)),
    Flag(_C, ("--rope-freq-base",), "rope_freq_base", "base frequency", number(0)),
    Flag(_C, ("--rope-freq-scale",), "rope_freq_scale", "frequency scale", number(0)),
    Flag(_C, ("--yarn-orig-ctx",), "yarn_orig_ctx", "context the model was trained with", whole(0)),
    *(Flag(_C, (f"--yarn-{name}",), f"yarn_{name.replace('-', '_')}", "YaRN", number())
      for name in ("ext-factor", "attn-factor", "beta-slow", "beta-fast")),

    Flag(_E, ("-t", "--threads"), "cpuparams.n_threads", "threads, -1 for automatic", _THREADS),
    Flag(_E, ("-tb", "--threads-batch"), "cpuparams_batch.n_threads", "threads for prompts", _THREADS),
    *_cpu_flags(_E, "cpuparams", "", ""),
    *_cpu_flags(_E, "cpuparams_batch", "-batch", "b"),
    Flag(_E, ("-ngl", "--gpu-layers", "--n-gpu-layers"), "n_gpu_layers", "layers on the GPU", _GPU_LAYERS),
    Flag(_E, ("-sm", "--split-mode"), "split_mode", "how GPUs share the model", _SPLIT),
    Flag(_E, ("-ts", "--tensor-split"), "tensor_split", "share of each GPU", tensor_split()),
    Flag(_E, ("-mg", "--main-gpu"), "main_gpu", "the first GPU", whole(0, DEVICE_LIMIT - 1)),
    Flag(_E, ("-ot", "--override-tensor"), "tensor_buft_overrides", "where tensors are kept", texts("PATTERN=BUFFER,...", ",")),
    Flag(_E, ("-cmoe", "--cpu-moe"), "tensor_buft_overrides", "keep experts on the CPU", on=(f"{_EXPERTS}=CPU",)),
    Flag(_E, ("-ncmoe", "--n-cpu-moe"), "@experts", "keep the experts of the first layers on the CPU", whole(0, 10_000)),
    Flag(_E, ("-fa", "--flash-attn"), "flash_attn_type", "flash attention", _FLASH),
    Flag(_E, ("-fit", "--fit"), "fit_params", "fit what is not given to the memory of the device (default: on)", _YES_NO),
    Flag(_E, ("-fitt", "--fit-target"), "fit_params_target", "margins to leave when fitting", fit_targets()),
    Flag(_E, ("-fitc", "--fit-ctx"), "fit_params_min_ctx", "least context when fitting", whole(0)),
    Flag(_E, ("-kvo", "--kv-offload"), "no_kv_offload", "cache on the GPU", on=False,
         off_spellings=("-nkvo", "--no-kv-offload"), off=True),
    Flag(_E, ("--repack",), "no_extra_bufts", "repack weights", on=False, off_spellings=("-nr", "--no-repack"), off=True),
    Flag(_E, ("--no-host",), "no_host", "bypass host buffers"),
    Flag(_E, ("--op-offload",), "no_op_offload", "host operations on the GPU", on=False, off_spellings=("--no-op-offload",), off=True),
    Flag(_E, ("--numa",), "numa", "placement on NUMA machines", _NUMA),
    Flag(_E, ("--perf",), "", "internal timings", on=_both("no_perf", "sampling.no_perf", value=False),
         off_spellings=("--no-perf",), off=_both("no_perf", "sampling.no_perf", value=True)),

    Flag(_G, ("--temp", "--temperature"), "sampling.temp", "temperature", number(0), mark="TEMP"),
    Flag(_G, ("--top-k",), "sampling.top_k", "0 for all", whole(), mark="TOP_K"),
    Flag(_G, ("--top-p",), "sampling.top_p", "1 for all", number(), mark="TOP_P"),
    Flag(_G, ("--min-p",), "sampling.min_p", "0 for all", number(), mark="MIN_P"),
    Flag(_G, ("-s", "--seed"), "sampling.seed", "-1 for a random one", whole(0, 2**32 - 1, words={"-1": 2**32 - 1})),
    Flag(_G, ("--samplers",), "sampling.samplers", "samplers in order", sampler_names(), mark="SAMPLERS"),
    Flag(_G, ("--sampler-seq", "--sampling-seq"), "sampling.samplers", "the same in letters", sampler_letters(), mark="SAMPLERS"),
    Flag(_G, ("--typical", "--typical-p"), "sampling.typ_p", "typical sampling, 1 for none", number()),
    Flag(_G, ("--xtc-probability",), "sampling.xtc_probability", "XTC", number(), mark="XTC_PROBABILITY"),
    Flag(_G, ("--xtc-threshold",), "sampling.xtc_threshold", "XTC", number(), mark="XTC_THRESHOLD"),
    Flag(_G, ("--repeat-last-n",), "sampling.penalty_last_n", "tokens to look back", whole(-1), mark="PENALTY_LAST_N"),
    Flag(_G, ("--repeat-penalty",), "sampling.penalty_repeat", "1 for none", number(), mark="PENALTY_REPEAT"),
    Flag(_G, ("--presence-penalty",), "sampling.penalty_present", "0 for none", number()),
    Flag(_G, ("--frequency-penalty",), "sampling.penalty_freq", "0 for none", number()),
    Flag(_G, ("--dry-multiplier",), "sampling.dry_multiplier", "DRY, 0 for none", number()),
    Flag(_G, ("--dry-base",), "sampling.dry_base", "DRY", number(1)),
    Flag(_G, ("--dry-allowed-length",), "sampling.dry_allowed_length", "DRY", whole()),
    Flag(_G, ("--dry-penalty-last-n",), "sampling.dry_penalty_last_n", "DRY", whole(-1)),
    Flag(_G, ("--adaptive-target",), "sampling.adaptive_target", "adaptive-p, negative for none", number(high=1)),
    Flag(_G, ("--adaptive-decay",), "sampling.adaptive_decay", "adaptive-p", number(0, 0.99)),
    Flag(_G, ("--dynatemp-range",), "sampling.dynatemp_range", "dynamic temperature, 0 for none", number()),
    Flag(_G, ("--dynatemp-exp",), "sampling.dynatemp_exponent", "dynamic temperature", number()),
    Flag(_G, ("--mirostat",), "sampling.mirostat", "0 for none", whole(0, 2), mark="MIROSTAT"),
    Flag(_G, ("--mirostat-lr",), "sampling.mirostat_eta", "learning rate", number(), mark="MIROSTAT_ETA"),
    Flag(_G, ("--mirostat-ent",), "sampling.mirostat_tau", "target entropy", number(), mark="MIROSTAT_TAU"),
    Flag(_G, ("--ignore-eos",), "sampling.ignore_eos", "go on after the end"),
    Flag(_G, ("--grammar",), "@grammar", "a grammar for answers", text("GRAMMAR")),
    Flag(_G, ("--grammar-file",), "@grammar", "the same, from a file", file_text("a grammar")),
    Flag(_G, ("-j", "--json-schema"), "@json_schema", "a schema for answers", json_text()),
    Flag(_G, ("-jf", "--json-schema-file"), "@json_schema", "the same, from a file", json_text(from_file=True)),
    Flag(_G, ("-bs", "--backend-sampling"), "sampling.backend_sampling", "sample on the device"),

    Flag(_D, ("-md", "--model-draft", "--spec-draft-model"), "speculative.draft.mparams.path", "the draft model", text("FILE")),
    Flag(_D, ("--spec-type",), "speculative.types", "kinds of drafting", several(_SPECULATION, "TYPE,...")),
    Flag(_D, ("--spec-draft-n-max", "--draft", "--draft-n", "--draft-max", "--draft-n-max"), "speculative.draft.n_max",
         "tokens to draft at most", whole(0)),
    Flag(_D, ("--spec-draft-n-min", "--draft-min", "--draft-n-min"), "speculative.draft.n_min", "tokens to draft at least", whole(0)),
    Flag(_D, ("--spec-draft-p-min", "--draft-p-min"), "speculative.draft.p_min", "least probability", number(0, 1)),
    Flag(_D, ("--spec-draft-p-split", "--draft-p-split"), "speculative.draft.p_split", "probability of a split", number(0, 1)),
    Flag(_D, ("--spec-draft-sampling",), "speculative.draft.probabilistic", "how drafts are sampled",
         choice({"greedy": False, "probabilistic": True})),
    Flag(_D, ("--spec-draft-backend-sampling",), "speculative.draft.backend_sampling", "sample drafts on the device",
         off_spellings=("--no-spec-draft-backend-sampling",)),
    Flag(_D, ("--spec-draft-device", "-devd", "--device-draft"), "speculative.draft.devices", "devices of the draft", text("DEVICE,...")),
    Flag(_D, ("--spec-draft-ngl", "-ngld", "--gpu-layers-draft", "--n-gpu-layers-draft"), "speculative.draft.n_gpu_layers",
         "layers of the draft on the GPU", _GPU_LAYERS),
    Flag(_D, ("--spec-draft-type-k", "-ctkd", "--cache-type-k-draft"), "speculative.draft.cache_type_k", "cache of keys", _KV_TYPES),
    Flag(_D, ("--spec-draft-type-v", "-ctvd", "--cache-type-v-draft"), "speculative.draft.cache_type_v", "cache of values", _KV_TYPES),
    Flag(_D, ("--spec-draft-threads", "-td", "--threads-draft"), "speculative.draft.cpuparams.n_threads", "threads", _THREADS),
    Flag(_D, ("--spec-draft-threads-batch", "-tbd", "--threads-batch-draft"), "speculative.draft.cpuparams_batch.n_threads",
         "threads for prompts", _THREADS),
    *_cpu_flags(_D, "speculative.draft.cpuparams", "", "d"),
    *_cpu_flags(_D, "speculative.draft.cpuparams_batch", "-batch", "bd"),
    Flag(_D, ("--spec-draft-override-tensor", "-otd", "--override-tensor-draft"), "speculative.draft.tensor_buft_overrides",
         "where tensors are kept", texts("PATTERN=BUFFER,...", ",")),
    Flag(_D, ("--spec-draft-cpu-moe", "-cmoed", "--cpu-moe-draft"), "speculative.draft.tensor_buft_overrides",
         "keep experts on the CPU", on=(f"{_EXPERTS}=CPU",)),
    Flag(_D, ("--spec-draft-n-cpu-moe", "--spec-draft-ncmoe", "-ncmoed", "--n-cpu-moe-draft"), "@experts_draft",
         "keep the experts of the first layers on the CPU", whole(0, 10_000)),
    *_ngram_flags(),
    Flag(_D, ("-lcs", "--lookup-cache-static"), "speculative.ngram_cache.lookup_cache_static", "n-grams to start from", text("FILE")),
    Flag(_D, ("-lcd", "--lookup-cache-dynamic"), "speculative.ngram_cache.lookup_cache_dynamic", "n-grams learnt", text("FILE")),

    Flag(_L, ("-v", "--verbose", "--log-verbose"), "verbosity", "log everything", on=5),
    Flag(_L, ("-lv", "--verbosity", "--log-verbosity"), "verbosity", "1 errors, 2 warnings, 3 information, 5 all", whole()),
    Flag(_L, ("--log-disable",), "verbosity", "log nothing", on=-1),

    *_refused(_NO_FIELD, ("-dev", "--device"), ("--rpc",), ("--override-kv",), ("--control-vector",),
              ("--control-vector-scaled",), ("--control-vector-layer-range",), ("-l", "--logit-bias"),
              ("--top-nsigma", "--top-n-sigma"), ("--dry-sequence-breaker",), ("--moe-cache-mib",),
              ("-ncffn", "--n-cpu-ffn"), ("--log-file",), ("--log-colors",), ("--log-prompts-dir",),
              ("--spec-synth-len",), ("--spec-synth-rates",), ("--models-dir",), ("--models-preset",), ("--models-max",)),
    *_refused(_NO_FIELD, ("--spm-infill",), ("--log-prefix", "--no-log-prefix"), ("--log-timestamps", "--no-log-timestamps"),
              ("--models-autoload", "--no-models-autoload"), ("-cl", "--cache-list"),
              ("--completion-bash",), ("--spec-default",), takes_value=False),
    *_refused(_NO_TOOLS, ("--tools",), ("--tools-runtime",), ("--mcp-servers-config",), ("--mcp-servers-json",)),
    Flag("", ("-ag", "--agent"), "", "", off_spellings=("-no-ag", "--no-agent"), refused=_NO_TOOLS),
    Flag("", ("--ui-mcp-proxy", "--webui-mcp-proxy"), "", "", off_spellings=("--no-ui-mcp-proxy", "--no-webui-mcp-proxy"),
         refused=_NO_TOOLS),
    Flag("", ("--log-jsonl",), "", "", off_spellings=("--no-log-jsonl",), refused=_NO_FIELD),
    *_refused(_NO_NETWORK, ("-mu", "--model-url"), ("-dr", "--docker-repo"), ("-hf", "-hfr", "--hf-repo"), ("-hff", "--hf-file"),
              ("-hft", "--hf-token"), ("-mmu", "--mmproj-url"), ("--spec-draft-hf", "-hfd", "-hfrd", "--hf-repo-draft")),
    *_refused(_NO_NETWORK, ("--embd-gemma-default",), ("--fim-qwen-1.5b-default",), ("--fim-qwen-3b-default",),
              ("--fim-qwen-7b-default",), ("--fim-qwen-7b-spec",), ("--fim-qwen-14b-spec",), ("--fim-qwen-30b-default",),
              ("--gpt-oss-20b-default",), ("--gpt-oss-120b-default",), ("--vision-gemma-4b-default",),
              ("--vision-gemma-12b-default",), takes_value=False),
)  # fmt: skip
