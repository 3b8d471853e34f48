from __future__ import annotations

import pytest

from dmr_core.domain.artifact import Format, LayerType
from dmr_core.domain.files import FileKind, Shard, classify, layer_type, modelpack_layer_type, weights_format


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("model.gguf", FileKind.GGUF),
        ("sub/MODEL.GGUF", FileKind.GGUF),
        ("model.safetensors", FileKind.SAFETENSORS),
        ("flux.dduf", FileKind.DDUF),
        ("license.gguf", FileKind.GGUF),
        ("chat.jinja", FileKind.CHAT_TEMPLATE),
        ("chat_template.json", FileKind.CHAT_TEMPLATE),
        ("LICENSE", FileKind.LICENSE),
        ("Licence.txt", FileKind.LICENSE),
        ("COPYING", FileKind.LICENSE),
        ("NOTICE.md", FileKind.LICENSE),
        ("license/README.md", FileKind.CONFIG),
        ("config.json", FileKind.CONFIG),
        ("vocab.txt", FileKind.CONFIG),
        ("bpe.vocab", FileKind.CONFIG),
        ("tokenizer.model", FileKind.CONFIG),
        ("spiece.model", FileKind.UNKNOWN),
        ("model.safetensors.index.json", FileKind.CONFIG),
        ("modeling.py", FileKind.UNKNOWN),
        ("gguf", FileKind.UNKNOWN),
    ],
)
def test_the_first_rule_that_matches_the_base_name_wins(path: str, kind: FileKind) -> None:
    assert classify(path) is kind


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("a.gguf", LayerType.GGUF),
        ("a.safetensors", LayerType.SAFETENSORS),
        ("a.dduf", LayerType.DDUF),
        ("a.jinja", LayerType.CHAT_TEMPLATE),
        ("LICENSE", LayerType.LICENSE),
        ("config.json", LayerType.MODEL_FILE),
        ("a.py", LayerType.MODEL_FILE),
    ],
)
def test_every_file_has_a_layer_type(path: str, expected: LayerType) -> None:
    assert layer_type(path) is expected


def test_only_weights_have_a_format() -> None:
    assert weights_format("a/b.SafeTensors") is Format.SAFETENSORS
    assert weights_format("b.json") is None


@pytest.mark.parametrize(
    ("media_type", "path", "expected"),
    [
        (LayerType.GGUF, "x", LayerType.PACK_WEIGHT),
        (LayerType.MMPROJ, None, LayerType.PACK_WEIGHT),
        (LayerType.PACK_WEIGHT_SAFETENSORS, None, LayerType.PACK_WEIGHT),
        (LayerType.CHAT_TEMPLATE, None, LayerType.PACK_CONFIG),
        (LayerType.MODEL_FILE, "README.md", LayerType.PACK_CONFIG),
        (LayerType.LICENSE, None, LayerType.PACK_DOC),
        ("application/x-other", "a.gguf", LayerType.PACK_WEIGHT),
        ("application/x-other", "README.md", LayerType.PACK_DOC),
        ("application/x-other", "LICENSE", LayerType.PACK_DOC),
        ("application/x-other", "a.json", LayerType.PACK_CONFIG),
        ("application/x-other", None, LayerType.PACK_CONFIG),
    ],
)
def test_layers_become_modelpack_layers(media_type: str, path: str | None, expected: LayerType) -> None:
    assert modelpack_layer_type(media_type, path) is expected


def test_a_shard_knows_its_siblings() -> None:
    shard = Shard.of("m-00002-of-00003.gguf")

    assert shard == Shard(prefix="m", number=2, total=3, suffix=".gguf")
    assert shard.names == ("m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf")
    assert shard.is_consistent


@pytest.mark.parametrize("name", ["m.gguf", "m-2-of-3.gguf", "m-00001-of-00003", "m-00001-of-000003.gguf"])
def test_other_names_are_no_shards(name: str) -> None:
    assert Shard.of(name) is None


@pytest.mark.parametrize("name", ["m-00000-of-00003.gguf", "m-00004-of-00003.gguf", "m-00000-of-00000.gguf"])
def test_a_shard_outside_its_set_is_inconsistent(name: str) -> None:
    shard = Shard.of(name)

    assert shard is not None
    assert not shard.is_consistent
