"""Repackaging changes what was asked and keeps the rest, whatever it is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmr_core.domain.artifact import CONFIG_MODELPACK, CONFIG_V01, CONFIG_V02, Descriptor, LayerType
from dmr_core.domain.digest import Digest
from dmr_core.domain.encoding import go_json
from dmr_core.domain.repackage import Changes, Schema, repackage
from dmr_core.errors import InvalidRequestError, MalformedArtifactError

WEIGHTS, TEMPLATE, ADAPTER = (Digest.of(content) for content in (b"weights", b"template", b"adapter"))

_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)
_extra = st.dictionaries(st.text().map(lambda key: "x-" + key), _values, max_size=4)


def layer(digest: Digest, media_type: str, path: str, **extra: Any) -> dict[str, Any]:
    annotations = {"org.cncf.model.filepath": path, "org.example.kept": "yes"}
    return {"mediaType": media_type, "size": 7, "digest": str(digest), "annotations": annotations, **extra}


def model(
    config_type: str = CONFIG_V02, config: Any = None, *layers: dict[str, Any], **extra: Any
) -> tuple[bytes, bytes]:
    document = config or {
        "config": {"format": "gguf", "context_size": 2048},
        "descriptor": {"created": "2025-06-15T12:00:00Z"},
        "rootfs": {"type": "rootfs", "diff_ids": [str(WEIGHTS)]},
    }
    config_bytes = go_json(document).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": config_type, "size": len(config_bytes), "digest": str(Digest.of(config_bytes))},
        "layers": list(layers) or [layer(WEIGHTS, LayerType.GGUF.value, "model.gguf")],
        **extra,
    }
    return go_json(manifest).encode(), config_bytes


def changed(documents: tuple[bytes, bytes], changes: Changes) -> tuple[Any, Any]:
    manifest, config = repackage(*documents, changes)
    described = json.loads(manifest)["config"]
    assert (described["size"], described["digest"]) == (len(config), str(Digest.of(config)))
    return json.loads(manifest), json.loads(config)


@given(_extra, _extra, _extra, _extra, _extra, _extra)
def test_what_nobody_knows_survives_a_new_context_size(
    top: Any, inner: Any, descriptor: Any, rootfs: Any, manifest_extra: Any, layer_extra: Any
) -> None:
    document = {
        "config": {"format": "gguf", "context_size": 2048, **inner},
        "descriptor": descriptor,
        "rootfs": {"type": "rootfs", "diff_ids": [str(WEIGHTS)], **rootfs},
        **top,
    }
    strange = layer(TEMPLATE, "application/x-strange", "strange.bin", **layer_extra)
    documents = model(CONFIG_V02, document, strange, annotations={"a": "b"}, artifactType="x/y", **manifest_extra)

    manifest, config = changed(documents, Changes(context_size=4096))

    before_manifest, before_config = map(json.loads, documents)
    before_config["config"]["context_size"] = 4096
    assert config == before_config
    before_manifest["config"] = manifest["config"]
    assert manifest == before_manifest
    assert manifest["config"]["mediaType"] == CONFIG_V02


@pytest.mark.parametrize("changes", [Changes(), Changes(context_size=2048), Changes(schema=Schema.DOCKER)])
def test_nothing_to_change_changes_no_byte(changes: Changes) -> None:
    documents = model()
    spaced = json.dumps(json.loads(documents[0]), indent=3).encode(), documents[1]

    assert repackage(*spaced, changes) == spaced


def test_layers_are_added_with_their_diff_ids_and_a_template_takes_the_place_of_another() -> None:
    old, new = Digest.of(b"old"), TEMPLATE
    document = {"config": {}, "descriptor": {}, "rootfs": {"type": "rootfs", "diff_ids": [str(old), str(WEIGHTS)]}}
    template = LayerType.CHAT_TEMPLATE.value
    documents = model(
        CONFIG_V01, document, layer(old, template, "old.jinja"), layer(WEIGHTS, LayerType.GGUF.value, "m.gguf")
    )
    added = (
        Descriptor(media_type=template, digest=new, size=8),
        Descriptor(media_type=LayerType.LORA.value, digest=ADAPTER, size=9),
    )

    manifest, config = changed(documents, Changes(layers=added))

    expected = [str(WEIGHTS), str(new), str(ADAPTER)]
    assert [entry["digest"] for entry in manifest["layers"]] == expected
    assert config["rootfs"]["diff_ids"] == expected


def test_a_layer_that_is_there_already_is_not_added_again() -> None:
    documents = model()
    same = Descriptor(
        media_type=LayerType.GGUF.value, digest=WEIGHTS, size=7, annotations={"org.cncf.model.filepath": "model.gguf"}
    )

    assert repackage(*documents, Changes(layers=(same,))) == documents


def test_docker_to_cncf_and_back_keeps_types_files_and_strange_keys() -> None:
    document = {
        "config": {"format": "gguf", "parameters": "3 B", "architecture": "llama", "size": "3 B", "x": 1},
        "descriptor": {"created": "2025-06-15T12:00:00Z", "y": 2},
        "rootfs": {"type": "rootfs", "diff_ids": [str(WEIGHTS), str(TEMPLATE)]},
        "z": 3,
    }
    layers = (
        layer(WEIGHTS, LayerType.GGUF.value, "model.gguf"),
        layer(TEMPLATE, LayerType.LICENSE.value, "LICENSE"),
    )
    documents = model(CONFIG_V01, document, *layers)

    packed = repackage(*documents, Changes(schema=Schema.CNCF))
    manifest, config = map(json.loads, packed)
    again, config_again = changed(packed, Changes(schema=Schema.DOCKER))

    assert (manifest["config"]["mediaType"], list(manifest)[2]) == (CONFIG_MODELPACK, "artifactType")
    assert config["modelfs"] == {"type": "layers", "diffIds": [str(WEIGHTS), str(TEMPLATE)]}
    assert (config["config"]["x"], config["descriptor"]["y"], config["z"]) == (1, 2, 3)
    assert config_again == document
    assert again["layers"] == list(layers)
    assert again["config"]["mediaType"] == CONFIG_V01
    assert "artifactType" not in again


@pytest.mark.parametrize("size", [0, -1, 2**31, 2**64])
def test_a_context_size_that_no_reader_can_take_in_is_refused(size: int) -> None:
    with pytest.raises(InvalidRequestError, match="out of range"):
        repackage(*model(), Changes(context_size=size))


def test_a_context_size_has_no_place_in_a_modelpack() -> None:
    packed = repackage(*model(), Changes(schema=Schema.CNCF))

    with pytest.raises(InvalidRequestError, match="not supported with --format cncf"):
        repackage(*packed, Changes(context_size=4096))


def test_a_modelpack_has_no_place_for_an_adapter() -> None:
    adapter = Descriptor(media_type=LayerType.LORA.value, digest=ADAPTER, size=9)

    with pytest.raises(InvalidRequestError, match="no place for LoRA"):
        repackage(*model(), Changes(schema=Schema.CNCF, layers=(adapter,)))


@pytest.mark.parametrize("number", ["1e400", "NaN", "[" * 100_000])
def test_what_cannot_be_kept_is_refused(number: str) -> None:
    manifest, _ = model()

    with pytest.raises(MalformedArtifactError, match="kept"):
        repackage(manifest, b'{"x":' + number.encode() + b"}", Changes(context_size=1))
