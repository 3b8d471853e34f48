"""Which of llama-server's flags may be given to it, by a client and by the operator, and what each takes.

The names for clients are those that the reference allows, less four that would break the contract between runner and
engine (``--api-key``, ``--api-prefix``, ``--timeout``, ``-to``) and one whose two values no table of pairs can hold and
which does nothing alone. Whatever is not listed is refused, above all everything that takes a path, a URL, an address,
a key or code. How a flag is spelled, whether it takes a value and what it sets is the server's own table.
"""

from __future__ import annotations

from typing import ClassVar, Final

import attrs

from dmr_backends_llamacpp.flag_value_kinds import KINDS, NATIVE_HELP
from dmr_backends_llamacpp.server_flag_table import FLAGS as SERVER_FLAGS
from dmr_backends_llamacpp.server_flag_values import Flag as ServerFlag
from dmr_core.domain.flag_kinds import Kind
from dmr_core.domain.flags import Flag, FlagTable

__all__ = ["ALLOWED_FLAGS", "CLIENT_FLAGS", "CONTROLLED", "EXITING", "OPERATOR_FLAGS"]

_BACKEND: Final = "llama.cpp"
_SHORT: Final = (
    "-C -Cb -Cbd -Cd -Cr -Crb -Crd -b -bs -c -cb -cd -cmoe -cmoed -cram -ctk -ctkd -ctv -ctvd -dev -devd -dio "
    "-fa -fit -fitc -fitt -j -kvo -kvu -mg -n -ncmoe -ncmoed -ndio -ngl -ngld -nkvo -nocb -np -nr -otd -s -sm "
    "-sps -t -tb -tbd -td -ts -ub -v "
)
_LONG: Final = (
    "--backend-sampling --batch-size --cache-prompt --cache-ram --cache-reuse --cache-type-k "
    "--cache-type-k-draft --cache-type-v --cache-type-v-draft --chat-template --chat-template-kwargs "
    "--check-tensors --cont-batching --context-shift --cpu-mask --cpu-mask-batch "
    "--cpu-mask-batch-draft --cpu-mask-draft --cpu-moe --cpu-moe-draft --cpu-range --cpu-range-batch "
    "--cpu-range-draft --cpu-strict --cpu-strict-batch --cpu-strict-batch-draft --cpu-strict-draft --ctx-size "
    "--ctx-size-draft --device --device-draft --direct-io --draft-max --draft-min --draft-n-max --draft-n-min "
    "--draft-p-min --draft-p-split --dry-allowed-length --dry-base --dry-multiplier --dry-penalty-last-n "
    "--dynatemp-exp --dynatemp-range --embedding --embeddings --fit --fit-ctx --fit-target --flash-attn "
    "--frequency-penalty --gpu-layers --gpu-layers-draft --grammar --ignore-eos --image-max-tokens "
    "--image-min-tokens --jinja --json-schema --keep --kv-offload --kv-unified --lora-init-without-apply "
    "--main-gpu --metrics --min-p --mirostat --mirostat-ent --mirostat-lr --mlock --mmap --mmproj-auto "
    "--mmproj-offload --n-cpu-moe --n-cpu-moe-draft --n-gpu-layers --n-gpu-layers-draft --n-predict "
    "--no-cache-prompt --no-cont-batching --no-context-shift --no-direct-io --no-host --no-jinja "
    "--no-kv-offload --no-metrics --no-mmap --no-mmproj --no-mmproj-auto --no-mmproj-offload --no-op-offload "
    "--no-perf --no-prefill-assistant --no-repack --no-slots --no-spec-draft-backend-sampling --no-warmup "
    "--no-webui --op-offload --override-tensor-draft --parallel --perf --poll --poll-batch --poll-batch-draft "
    "--poll-draft --pooling --predict --prefill-assistant --presence-penalty --prio --prio-batch "
    "--prio-batch-draft --prio-draft --props --reasoning-budget --reasoning-format --repack --repeat-last-n "
    "--repeat-penalty --rerank --reranking --rope-freq-base --rope-freq-scale --rope-scale --rope-scaling "
    "--samplers --seed --sleep-idle-seconds --slot-prompt-similarity --slots --spec-draft-backend-sampling "
    "--spec-draft-cpu-mask --spec-draft-cpu-mask-batch --spec-draft-cpu-moe --spec-draft-cpu-range "
    "--spec-draft-cpu-strict --spec-draft-cpu-strict-batch --spec-draft-device --spec-draft-n-cpu-moe "
    "--spec-draft-n-max --spec-draft-n-min --spec-draft-ncmoe --spec-draft-ngl --spec-draft-override-tensor "
    "--spec-draft-p-min --spec-draft-p-split --spec-draft-poll --spec-draft-poll-batch --spec-draft-prio "
    "--spec-draft-prio-batch --spec-draft-threads --spec-draft-threads-batch --spec-draft-type-k "
    "--spec-draft-type-v --spec-ngram-map-k-min-hits --spec-ngram-map-k-size-m --spec-ngram-map-k-size-n "
    "--spec-ngram-map-k4v-min-hits --spec-ngram-map-k4v-size-m --spec-ngram-map-k4v-size-n "
    "--spec-ngram-mod-n-match --spec-ngram-mod-n-max --spec-ngram-mod-n-min --spec-ngram-simple-min-hits "
    "--spec-ngram-simple-size-m --spec-ngram-simple-size-n --spec-type --split-mode --spm-infill --swa-full "
    "--temp --temperature --tensor-split --threads --threads-batch --threads-batch-draft --threads-draft "
    "--threads-http --top-k --top-nsigma --top-p --typical --ubatch-size --verbose --warmup --webui "
    "--webui-config --xtc-probability --xtc-threshold --yarn-attn-factor --yarn-beta-fast --yarn-beta-slow "
    "--yarn-ext-factor --yarn-orig-ctx "
)
ALLOWED_FLAGS: Final = frozenset((_SHORT + _LONG).split())

# The typed settings that say the same as a flag.
_SETTINGS: Final = {
    "--ctx-size": "context-size",
    "--embeddings": "mode",
    "--reranking": "mode",
    "--reasoning-budget": "llamacpp.reasoning-budget",
    "--spec-draft-n-max": "speculative.num_tokens",
    "--spec-draft-p-min": "speculative.min_acceptance_rate",
}
# Settings that add up over several uses, by where they land in the server.
_COLLECTING: Final = ("default_template_kwargs", "lora_adapters", "antiprompt", ".cpus", "tensor_buft_overrides")
# What the operator cannot set either: the model and its companions, where the server listens, who may ask, the mode.
_CONTROLLED: Final = (
    "--model --alias --host --port --api-key --api-key-file --api-prefix --ssl-key-file --ssl-cert-file --embeddings "
    "--rerank --mmproj --mmproj-url --model-url --model-draft --docker-repo --hf-repo --hf-file --hf-token "
    "--spec-draft-hf --models-dir --models-preset --models-max --models-autoload --embd-gemma-default "
    "--fim-qwen-1.5b-default --fim-qwen-3b-default --fim-qwen-7b-default --fim-qwen-7b-spec --fim-qwen-14b-spec "
    "--fim-qwen-30b-default --gpt-oss-20b-default --gpt-oss-120b-default --vision-gemma-4b-default "
    "--vision-gemma-12b-default"
)
EXITING: Final = frozenset(
    {"-h", "--help", "--usage", "--version", "--list-devices", "-cl", "--cache-list", "--completion-bash"}
)
"""Flags at which the server prints something and ends."""


@attrs.frozen
class _Anything(Kind):
    """What the operator says, who may name files: only that there is a value is checked."""

    prose: ClassVar[bool] = True
    limit: ClassVar[int] = 64 * 1024

    @property
    def expected(self) -> str:
        """See :class:`Kind`."""
        return "a value"

    def accepts(self, text: str) -> bool:
        """See :class:`Kind`."""
        return bool(text)


def _entry(flag: ServerFlag, allowed: frozenset[str] | None) -> Flag | None:
    """The server's flag as the table has it, under the names that are ``allowed``, or all; ``None`` if there are none."""
    names = tuple(name for name in flag.spellings if allowed is None or name in allowed)
    off_names = tuple(name for name in flag.off_spellings if allowed is None or name in allowed)
    if not names and not off_names:
        return None
    kind: Kind | None = None
    if flag.reader is not None:
        kind = _Anything() if allowed is None else next(KINDS[name] for name in names if name in KINDS)
    return Flag(
        names=names,
        kind=kind,
        off_names=off_names,
        slot=flag.path or flag.spellings[0],
        collects=flag.path.endswith(_COLLECTING),
        setting=next((_SETTINGS[name] for name in names if name in _SETTINGS), ""),
        help=flag.help or NATIVE_HELP.get(names[-1], ""),
    )


# Native servers before the summer of 2026 have it, the bundled one does not.
_OLD: Final = Flag(names=("-cd", "--ctx-size-draft"), kind=KINDS["--ctx-size"], help=NATIVE_HELP["--ctx-size-draft"])
_NOT_ALONE: Final = "it does nothing without --control-vector, which takes a path and is not allowed"

OPERATOR_FLAGS: Final = FlagTable(
    _BACKEND, (*(entry for flag in SERVER_FLAGS if (entry := _entry(flag, None)) is not None), _OLD)
)
"""Every flag the server has, with its arity; what ``LLAMA_ARGS`` is read against."""

CLIENT_FLAGS: Final = FlagTable(
    _BACKEND,
    (*(entry for flag in SERVER_FLAGS if (entry := _entry(flag, ALLOWED_FLAGS)) is not None), _OLD),
    withheld={
        **dict.fromkeys(OPERATOR_FLAGS.names - ALLOWED_FLAGS, ""),
        "--control-vector-layer-range": _NOT_ALONE,
    },
)
"""The flags that runtime flags may hold."""

CONTROLLED: Final = frozenset(
    name
    for controlled in _CONTROLLED.split()
    for flag in (OPERATOR_FLAGS.find(controlled),)
    if flag is not None
    for name in (*flag.names, *flag.off_names)
)
"""Flags that the runner sets by itself, in every spelling."""
