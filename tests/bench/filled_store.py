"""A model store with many models, written straight to the disk as the reference lays it out.

Weights are a few bytes each: nothing here reads them. Manifests and configs are of the size that packaged models have.
"""

from __future__ import annotations

import json
from pathlib import Path

from dmr_adapters.model_store.layout import LAYOUT_VERSION, StoreLayout
from dmr_core.domain.artifact import CONFIG_V01, Descriptor, LayerType, Manifest, ModelConfig
from dmr_core.domain.digest import Digest
from dmr_core.domain.encoding import encode_config, encode_manifest, file_annotations

__all__ = ["fill_store", "name_of"]

_CREATED = "2025-06-15T12:00:00Z"


def name_of(number: int) -> str:
    """The tag of a model."""
    return f"bench/model-{number:05}:Q4_K_M"


def fill_store(root: Path, count: int) -> None:
    """Make a store of ``count`` models at ``root``, each with one tag."""
    layout = StoreLayout(root)
    for directory in (layout.blobs, layout.manifests):
        directory.mkdir(parents=True)
    layout.layout_document.write_text(json.dumps({"version": LAYOUT_VERSION}))
    entries = [_write_model(layout, number) for number in range(count)]
    layout.index_document.write_text(json.dumps({"models": entries}, indent=2))


def _write_model(layout: StoreLayout, number: int) -> dict[str, object]:
    weights = b"weights %d" % number
    layer, config = Digest.of(weights), encode_config(_config(number, Digest.of(weights)))
    annotations = file_annotations(f"model-{number:05}.gguf", mode=0o644, size=len(weights), mtime=_CREATED)
    manifest = encode_manifest(
        Manifest(
            config=Descriptor(media_type=CONFIG_V01, digest=Digest.of(config), size=len(config)),
            layers=(Descriptor(media_type=LayerType.GGUF, digest=layer, size=len(weights), annotations=annotations),),
        )
    )
    layout.blob(layer).write_bytes(weights)
    layout.blob(Digest.of(config)).write_bytes(config)
    layout.manifest(Digest.of(manifest)).write_bytes(manifest)
    return {
        "id": str(Digest.of(manifest)),
        "tags": [f"docker.io/{name_of(number)}"],
        "files": [str(layer), str(Digest.of(config))],
    }


def _config(number: int, layer: Digest) -> ModelConfig:
    """About a kilobyte, as a small language model has it."""
    return ModelConfig(
        format="gguf",
        quantization="MOSTLY_Q4_K_M",
        parameters="361.82M",
        architecture="llama",
        size="256.35MiB",
        context_size=8192,
        created=_CREATED,
        diff_ids=(str(layer),),
        gguf={
            "general.architecture": "llama",
            "general.basename": "smollm2",
            "general.file_type": "15",
            "general.finetune": "8k-lc100k-mix1-ep2",
            "general.languages": "en",
            "general.license": "apache-2.0",
            "general.name": f"Model number {number}",
            "general.organization": "Example Organisation",
            "general.quantization_version": "2",
            "general.size_label": "360M",
            "general.type": "model",
            "llama.attention.head_count": "15",
            "llama.attention.head_count_kv": "5",
            "llama.attention.layer_norm_rms_epsilon": "0.000010",
            "llama.block_count": "32",
            "llama.context_length": "8192",
            "llama.embedding_length": "960",
            "llama.feed_forward_length": "2560",
            "llama.rope.dimension_count": "64",
            "llama.rope.freq_base": "100000.000000",
            "llama.vocab_size": "49152",
            "tokenizer.ggml.bos_token_id": "1",
            "tokenizer.ggml.eos_token_id": "2",
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": "smollm",
        },
    )
