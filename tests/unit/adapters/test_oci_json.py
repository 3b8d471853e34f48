"""OCI documents are read as the core's values, or refused by name; nothing else happens."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmr_adapters.oci_json import MAX_DOCUMENT, MAX_LAYERS, decode_config, decode_manifest
from dmr_core.domain.artifact import (
    ANNOTATION_FILEPATH,
    CONFIG_MODELPACK,
    CONFIG_V01,
    MANIFEST_MEDIA_TYPE,
    MODELPACK_ARTIFACT_TYPE,
    Descriptor,
    LayerType,
    Manifest,
    ModelConfig,
)
from dmr_core.domain.digest import Digest
from dmr_core.domain.encoding import encode_config, encode_manifest, encode_modelpack_config
from dmr_core.errors import MalformedArtifactError, UnsupportedFormatError

_A, _B = Digest("a" * 64), Digest("b" * 64)
_CONFIG = {"mediaType": CONFIG_V01, "size": 7, "digest": str(_A)}
_LAYER = {"mediaType": LayerType.GGUF, "size": 9, "digest": str(_B)}


def _manifest(**changes: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "config": _CONFIG, "layers": [_LAYER], **changes}).encode()


class TestManifest:
    def test_what_we_write_reads_back(self) -> None:
        manifest = Manifest(
            config=Descriptor(media_type=CONFIG_MODELPACK, digest=_A, size=7),
            layers=(
                Descriptor(
                    media_type=LayerType.PACK_WEIGHT,
                    digest=_B,
                    size=2**40,
                    annotations={ANNOTATION_FILEPATH: "w/<model>.gguf"},
                ),
            ),
            artifact_type=MODELPACK_ARTIFACT_TYPE,
            annotations={"x": "y"},
        )
        assert decode_manifest(encode_manifest(manifest)) == manifest

    def test_missing_and_null_fields_take_their_defaults(self) -> None:
        expected = Manifest(
            config=Descriptor(media_type=CONFIG_V01, digest=_A, size=7),
            layers=(Descriptor(media_type=LayerType.GGUF, digest=_B, size=9),),
        )
        assert decode_manifest(_manifest()) == expected
        nulls = {"mediaType": None, "artifactType": None, "annotations": None, "subject": None}
        assert decode_manifest(_manifest(**nulls, layers=[{**_LAYER, "annotations": None, "urls": None}])) == expected
        assert decode_manifest(_manifest(mediaType="")).media_type == MANIFEST_MEDIA_TYPE

    def test_unknown_fields_are_ignored(self) -> None:
        assert decode_manifest(_manifest(subject={"any": [1]}, layers=[{**_LAYER, "data": 7}])) == decode_manifest(
            _manifest()
        )

    @pytest.mark.parametrize(
        ("changes", "complaint"),
        [
            ({"config": None}, r"required field missing @ \$.config"),
            ({"config": []}, "expected an object, found a list"),
            ({"layers": None}, r"required field missing @ \$.layers"),
            ({"layers": "abc"}, "expected a list, found a string"),
            ({"layers": [None]}, r"expected an object, found null @ \$.layers\[0\]"),
            ({"layers": [{**_LAYER, "digest": None}]}, r"required field missing @ \$.layers\[0\].digest"),
            ({"layers": [{**_LAYER, "digest": 4}]}, "expected a digest, found a number"),
            ({"layers": [{**_LAYER, "digest": "sha512:" + "a" * 128}]}, "unsupported hash"),
            ({"layers": [{**_LAYER, "digest": "sha256:../../etc/passwd"}]}, "invalid digest"),
            ({"layers": [{**_LAYER, "size": -1}]}, "expected a size in bytes, found -1"),
            ({"layers": [{**_LAYER, "size": 2**63}]}, "expected a size in bytes"),
            ({"layers": [{**_LAYER, "size": "9"}]}, "expected a size in bytes"),
            ({"layers": [{**_LAYER, "size": True}]}, "expected a size in bytes, found True"),
            ({"layers": [{**_LAYER, "size": 9.0}]}, "expected a size in bytes, found 9.0"),
            ({"layers": [{**_LAYER, "mediaType": 5}]}, "expected a string, found a number"),
            ({"layers": [{**_LAYER, "annotations": {"a": 5}}]}, "expected a string at 'a', found a number"),
            ({"layers": [{**_LAYER, "annotations": []}]}, "expected an object, found a list"),
            ({"mediaType": 5}, "expected a string, found a number"),
            ({"artifactType": {}}, "expected a string, found an object"),
            ({"layers": [_LAYER] * (MAX_LAYERS + 1)}, "at most 10000 entries, found 10001"),
        ],
    )
    def test_what_is_wrong_is_named(self, changes: dict[str, Any], complaint: str) -> None:
        with pytest.raises(MalformedArtifactError, match=complaint):
            decode_manifest(_manifest(**changes))

    def test_many_problems_are_not_all_listed(self) -> None:
        with pytest.raises(MalformedArtifactError, match=r"found a number @ \$.layers\[1\]$"):
            decode_manifest(_manifest(layers=[_LAYER, *[7] * 100]))
        wrong = dict.fromkeys(
            ("format", "quantization", "parameters", "architecture", "size", "gguf", "safetensors"), 7
        )
        with pytest.raises(MalformedArtifactError, match=r"and 2 more$"):
            decode_config(json.dumps({"config": wrong}).encode())

    @pytest.mark.parametrize(
        "changes",
        [
            {"config": {**_CONFIG, "digest": "x" * 100_000}},
            {"config": {**_CONFIG, "mediaType": "x" * 256}},
            {"artifactType": "x" * 100_000},
            {"layers": [{**_LAYER, "annotations": {"k" * 100_000: 7}}]},
        ],
    )
    def test_what_is_too_long_is_refused_and_not_quoted_whole(self, changes: dict[str, Any]) -> None:
        with pytest.raises(MalformedArtifactError) as caught:
            decode_manifest(_manifest(**changes))
        assert len(caught.value.message) < 500

    def test_a_document_of_too_many_values_is_not_even_read(self) -> None:
        tracemalloc.start()
        try:
            with pytest.raises(MalformedArtifactError, match="more than 524288 values"):
                decode_manifest(b'{"x":[' + b"{}," * 1_100_000 + b"{}]}")
            assert tracemalloc.get_traced_memory()[1] < 8 * 1024 * 1024
        finally:
            tracemalloc.stop()

    @pytest.mark.parametrize(
        "document",
        [
            {"mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []},
            {"mediaType": "application/vnd.docker.distribution.manifest.list.v2+json", "manifests": []},
            {"schemaVersion": 2, "manifests": [{"digest": str(_A)}]},
        ],
    )
    def test_indexes_are_refused_by_name(self, document: dict[str, Any]) -> None:
        with pytest.raises(UnsupportedFormatError, match="index of several manifests"):
            decode_manifest(json.dumps(document).encode())

    @pytest.mark.parametrize("data", [b"", b"{", b"null", b"[]", b'"x"', b"\xff", b"[" * 100_000, b'{"a":NaN}'])
    def test_what_is_no_object_is_refused(self, data: bytes) -> None:
        for decode in (decode_manifest, decode_config):
            with pytest.raises(MalformedArtifactError):
                decode(data)

    def test_documents_are_bounded(self) -> None:
        for decode in (decode_manifest, decode_config):
            with pytest.raises(MalformedArtifactError, match="at most 8388608 are allowed"):
                decode(b" " * (MAX_DOCUMENT + 1))


class TestConfig:
    def test_what_we_write_reads_back(self) -> None:
        config = ModelConfig(
            format="gguf",
            quantization="MOSTLY_Q4_K_M",
            parameters="361.82 M",
            architecture="llama",
            size="256.35 MiB",
            gguf={"general.architecture": "llama", "tokenizer.chat_template": "<|im_start|>"},
            safetensors={"tensor_count": "1"},
            diffusers={"layout": "dduf"},
            context_size=4096,
            created="2025-06-15T12:00:00Z",
            diff_ids=(str(_A), str(_B)),
        )
        assert decode_config(encode_config(config)) == config

    @pytest.mark.parametrize(
        "document",
        [
            {},
            {"config": None, "descriptor": None, "rootfs": None},
            {"config": {}, "descriptor": {}, "rootfs": {"type": "layers"}},
            {"config": {"format": None, "gguf": None, "context_size": None}, "rootfs": {"diff_ids": None}},
            {
                "config": {"format_version": "1"},
                "files": [{"diffID": "x", "type": "y"}],
                "descriptor": {"created": None},
            },
        ],
    )
    def test_old_and_sparse_configs_are_tolerated(self, document: dict[str, Any]) -> None:
        assert decode_config(json.dumps(document).encode()) == ModelConfig()

    def test_null_entries_of_maps_are_dropped(self) -> None:
        assert decode_config(b'{"config":{"gguf":{"a":null,"b":"c"}}}').gguf == {"b": "c"}

    def test_a_modelpack_config_is_mapped(self) -> None:
        document = {
            "descriptor": {"createdAt": "2025-06-15T12:00:00Z", "family": "qwen", "licenses": ["MIT"]},
            "modelfs": {"type": "layers", "diffIds": [str(_A)]},
            "config": {
                "architecture": "transformer",
                "format": "GGUF",
                "paramSize": "8b",
                "quantization": "Q4",
                "capabilities": {"reasoning": True},
                "context_size": 17,
            },
        }
        assert decode_config(json.dumps(document).encode()) == ModelConfig(
            format="gguf",
            parameters="8b",
            size="8b",
            quantization="Q4",
            architecture="transformer",
            created="2025-06-15T12:00:00Z",
            diff_ids=(str(_A),),
        )

    def test_a_modelpack_config_we_write_reads_back(self) -> None:
        config = ModelConfig(format="gguf", parameters="8b", size="8b", architecture="llama", diff_ids=(str(_A),))
        assert decode_config(encode_modelpack_config(config)) == config

    @pytest.mark.parametrize(
        "document", [{"modelfs": None}, {"descriptor": {"createdAt": None}}, {"config": {"paramSize": ""}}]
    )
    def test_any_key_of_modelpack_tells_the_schema(self, document: dict[str, Any]) -> None:
        config = document.get("config") or {}
        marked = {**document, "config": {**config, "format": "GGUF", "context_size": 5}}
        decoded = decode_config(json.dumps(marked).encode())
        assert (decoded.format, decoded.context_size) == ("gguf", None)

    @pytest.mark.parametrize(
        ("document", "complaint"),
        [
            ({"config": {"size": 5}}, r"expected a string, found a number @ \$.config.size"),
            ({"config": {"context_size": "4096"}}, "expected a 32-bit number, found 4096"),
            ({"config": {"context_size": True}}, "expected a 32-bit number, found True"),
            ({"config": {"context_size": 2**31}}, "expected a 32-bit number, found 2147483648"),
            ({"config": {"gguf": {"a": True}}}, "expected a string at 'a', found a boolean"),
            ({"config": 5}, "expected an object, found a number"),
            ({"rootfs": {"diff_ids": "abc"}}, "expected a list, found a string"),
            ({"rootfs": {"diff_ids": [None]}}, r"expected a string, found null @ \$.rootfs.diff_ids\[0\]"),
            ({"modelfs": {"diffIds": 5}}, "expected a list, found a number"),
        ],
    )
    def test_what_is_wrong_is_named(self, document: dict[str, Any], complaint: str) -> None:
        with pytest.raises(MalformedArtifactError, match=complaint):
            decode_config(json.dumps(document).encode())


_KEYS = st.sampled_from(
    [
        "config",
        "layers",
        "manifests",
        "mediaType",
        "digest",
        "size",
        "annotations",
        "artifactType",
        "descriptor",
        "rootfs",
        "diff_ids",
        "modelfs",
        "diffIds",
        "created",
        "createdAt",
        "format",
        "gguf",
        "context_size",
        "paramSize",
    ]
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8) | st.just(str(_A)),
    lambda children: (
        st.lists(children, max_size=4) | st.dictionaries(_KEYS | st.text(max_size=4), children, max_size=6)
    ),
    max_leaves=20,
)


class TestHostileInput:
    @given(st.binary())
    def test_arbitrary_bytes_are_decoded_or_refused(self, data: bytes) -> None:
        _decode_or_refuse(data)

    @given(_JSON)
    def test_arbitrary_json_is_decoded_or_refused(self, document: Any) -> None:
        _decode_or_refuse(json.dumps(document).encode())

    @given(_KEYS, _JSON, _KEYS, _JSON)
    def test_a_damaged_manifest_is_decoded_or_refused(self, key: str, value: Any, inner: str, other: Any) -> None:
        _decode_or_refuse(_manifest(**{key: value, "layers": [{**_LAYER, inner: other}]}))


def _decode_or_refuse(data: bytes) -> None:
    for decode in (decode_manifest, decode_config):
        try:
            decoded = decode(data)
        except (MalformedArtifactError, UnsupportedFormatError):
            continue
        assert isinstance(decoded, Manifest | ModelConfig)
