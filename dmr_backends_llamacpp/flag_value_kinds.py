"""What the values of llama-server's flags may be, for those that clients may set.

Ranges are those of the bundled server and of llama.cpp's own parser, whichever is narrower, so that what passes here
starts.
"""

from __future__ import annotations

from typing import Final

from dmr_core.domain.flag_kinds import Choice, Integer, Json, Kind, Number, Pattern, Several, Text

__all__ = ["KINDS", "NATIVE_HELP"]

_CACHE: Final = Choice(("f32", "f16", "bf16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"))
_THREADS: Final = Integer(-1, 512)
_LAYERS: Final = Integer(0, words=("auto", "all", "-1", "-2"))
_EXPERTS: Final = Integer(0, 10_000)
_DEVICES: Final = Several(Pattern(r"[A-Za-z][A-Za-z0-9_]{0,63}", "the name of a device such as CUDA0, or none"))
_PLACES: Final = Several(
    Pattern(r"[^=,\s]{1,256}=[A-Za-z0-9_]{1,64}", "PATTERN=BUFFER, such as blk.0.ffn=CPU"), most=64
)
_SHARE: Final = Number(0, 1)
_ANY: Final = Number()
_COUNT: Final = Integer(0)
_SAMPLERS: Final = Choice(
    (
        *("penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature", "infill"),
        "adaptive_p",
    )
)
_SPECULATION: Final = Choice(
    (
        *("none", "draft-simple", "draft-eagle3", "draft-mtp", "draft-dflash", "draft-dspark", "ngram-simple"),
        *("ngram-map-k", "ngram-map-k4v", "ngram-mod", "ngram-cache"),
    )
)


def _placement() -> dict[str, Kind]:
    """Where and how threads run, for generation, batches, and both again for a draft model."""
    kinds = {
        "cpu-mask": Pattern(
            r"(?:0x)?0*[1-9A-Fa-f][0-9A-Fa-f]{0,127}", "a hexadecimal mask of processors, such as 0xff"
        ),
        "cpu-range": Pattern(r"[0-9]{1,3}-[0-9]{0,3}|-[0-9]{1,3}", "a range of processors, such as 0-3"),
        "cpu-strict": Choice(("0", "1")),
        "prio": Choice(("-1", "0", "1", "2", "3")),
        "poll": Integer(0, 100),
    }
    return {
        f"{prefix}{name}{infix}": kind
        for name, kind in kinds.items()
        for prefix in ("--", "--spec-draft-")
        for infix in ("", "-batch")
    }


def _ngram() -> dict[str, Kind]:
    kinds: dict[str, Kind] = {f"--spec-ngram-mod-{name}": Integer(0, 1024) for name in ("n-match", "n-max", "n-min")}
    for kind in ("simple", "map-k", "map-k4v"):
        for name in ("size-n", "size-m", "min-hits"):
            kinds[f"--spec-ngram-{kind}-{name}"] = Integer(1, 1024)
    return kinds


KINDS: Final[dict[str, Kind]] = {
    "--image-min-tokens": Integer(1),
    "--image-max-tokens": Integer(1),
    "--webui-config": Json(),
    "--threads-http": Integer(-1, 4096),
    "--slot-prompt-similarity": _SHARE,
    "--sleep-idle-seconds": Integer(-1),
    "--pooling": Choice(("none", "mean", "cls", "last", "rank")),
    "--chat-template": Text("a chat template, or the name of a built-in one,"),
    "--chat-template-kwargs": Json(),
    "--reasoning-format": Choice(("none", "auto", "deepseek", "deepseek-legacy")),
    "--reasoning-budget": Integer(-1),
    "--ctx-size": Integer(0, words=("-1",)),
    "--n-predict": Integer(-2),
    "--batch-size": Integer(1),
    "--ubatch-size": Integer(1),
    "--parallel": Integer(1, 4096, words=("-1",)),
    "--keep": Integer(-1),
    "--cache-type-k": _CACHE,
    "--cache-type-v": _CACHE,
    "--cache-ram": Integer(-1),
    "--cache-reuse": _COUNT,
    "--rope-scaling": Choice(("none", "linear", "yarn")),
    "--rope-scale": Number(0, above=True),
    "--rope-freq-base": Number(0),
    "--rope-freq-scale": Number(0),
    "--yarn-orig-ctx": _COUNT,
    "--yarn-ext-factor": _ANY,
    "--yarn-attn-factor": _ANY,
    "--yarn-beta-slow": _ANY,
    "--yarn-beta-fast": _ANY,
    "--threads": _THREADS,
    "--threads-batch": _THREADS,
    **_placement(),
    "--gpu-layers": _LAYERS,
    "--split-mode": Choice(("none", "layer", "row", "tensor")),
    "--tensor-split": Several(Number(0)),
    "--main-gpu": Integer(0, 15),
    "--n-cpu-moe": _EXPERTS,
    "--flash-attn": Choice(("on", "off", "auto")),
    "--fit": Choice(("on", "off")),
    "--fit-target": Several(_COUNT),
    "--fit-ctx": _COUNT,
    "--device": _DEVICES,
    "--temp": Number(0),
    "--top-k": Integer(-1),
    "--top-p": _SHARE,
    "--min-p": _SHARE,
    "--top-nsigma": _ANY,
    "--seed": Integer(0, 2**32 - 1, words=("-1",)),
    "--samplers": Several(_SAMPLERS, ";"),
    "--typical": _SHARE,
    "--xtc-probability": _SHARE,
    "--xtc-threshold": _SHARE,
    "--repeat-last-n": Integer(-1),
    "--repeat-penalty": Number(0),
    "--presence-penalty": _ANY,
    "--frequency-penalty": _ANY,
    "--dry-multiplier": Number(0),
    "--dry-base": Number(1),
    "--dry-allowed-length": _COUNT,
    "--dry-penalty-last-n": Integer(-1),
    "--dynatemp-range": Number(0),
    "--dynatemp-exp": _ANY,
    "--mirostat": Integer(0, 2),
    "--mirostat-lr": Number(0),
    "--mirostat-ent": Number(0),
    "--grammar": Text("a grammar"),
    "--json-schema": Json(schema=True),
    "--spec-type": Several(_SPECULATION),
    "--spec-draft-n-max": _COUNT,
    "--spec-draft-n-min": _COUNT,
    "--spec-draft-p-min": _SHARE,
    "--spec-draft-p-split": _SHARE,
    "--spec-draft-device": _DEVICES,
    "--spec-draft-ngl": _LAYERS,
    "--spec-draft-type-k": _CACHE,
    "--spec-draft-type-v": _CACHE,
    "--spec-draft-threads": _THREADS,
    "--spec-draft-threads-batch": _THREADS,
    "--spec-draft-override-tensor": _PLACES,
    "--spec-draft-n-cpu-moe": _EXPERTS,
    **_ngram(),
}
"""By one of the flag's spellings."""

NATIVE_HELP: Final = {
    "--device": "devices to use (native llama-server only)",
    "--top-nsigma": "top-n-sigma sampling, -1 for none (native llama-server only)",
    "--spm-infill": "suffix before prefix when filling in (native llama-server only)",
    "--ctx-size-draft": "tokens of context of the draft (older native llama-server only)",
}
"""What flags do that the bundled server does not have."""
