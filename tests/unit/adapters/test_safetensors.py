"""Reading safetensors headers, good, odd and hostile ones."""

from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmr_adapters.package_source.safetensors import read_safetensors, safetensors_metadata
from dmr_core.errors import InvalidRequestError, MalformedArtifactError


def tensor(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def content(header: object, data: int = 0) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + bytes(data)


SAMPLE: dict[str, Any] = {
    "__metadata__": {"format": "pt"},
    "a": tensor("BF16", [4, 8], 0, 64),
    "b": tensor("BF16", [], 64, 66),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.safetensors"


def put(path: Path, header: object, data: int = 0) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content(header, data))
    return path


def config(directory: Path, document: object) -> None:
    raw = document if isinstance(document, bytes) else json.dumps(document).encode()
    (directory / "config.json").write_bytes(raw)


def test_a_file_says_what_it_holds(path: Path) -> None:
    metadata = safetensors_metadata([put(path, SAMPLE, 66)])

    assert (metadata.parameters, metadata.quantization) == ("33.00", "BF16")
    assert metadata.size == f"{path.stat().st_size}.00B"
    assert (metadata.architecture, metadata.context_size) == ("", None)
    assert metadata.raw == {"format": "pt", "tensor_count": "2"}


def test_all_shards_count(tmp_path: Path) -> None:
    first = put(tmp_path / "1.safetensors", {"a": tensor("F32", [1000], 0, 4000)}, 4000)
    second = put(tmp_path / "2.safetensors", {"b": tensor("F16", [500], 0, 1000)}, 1000)

    metadata = safetensors_metadata([first, second])

    assert (metadata.parameters, metadata.quantization, metadata.raw["tensor_count"]) == ("1.50K", "mixed", "2")


def test_a_tensor_named_twice_counts_once(tmp_path: Path) -> None:
    paths = [put(tmp_path / f"{number}.safetensors", SAMPLE, 66) for number in (1, 2)]

    metadata = safetensors_metadata(paths)

    assert (metadata.parameters, metadata.raw["tensor_count"]) == ("33.00", "2")


def test_the_metadata_of_the_first_shard_is_kept(tmp_path: Path) -> None:
    first = put(tmp_path / "1.safetensors", {"__metadata__": {"format": "pt", "n": 5}})
    second = put(tmp_path / "2.safetensors", {"__metadata__": {"format": "mlx"}})

    metadata = safetensors_metadata([first, second])

    assert (metadata.raw, metadata.quantization) == ({"format": "pt", "tensor_count": "0"}, "unknown")


def test_metadata_that_is_no_object_is_passed_over(path: Path) -> None:
    assert safetensors_metadata([put(path, {"__metadata__": None})]).raw == {"tensor_count": "0"}


def test_metadata_too_long_for_a_config_is_left_out(path: Path) -> None:
    put(path, {"__metadata__": {"log": "x" * (2 << 20), "format": "pt"}})

    assert safetensors_metadata([path]).raw == {"format": "pt", "tensor_count": "0"}


@pytest.mark.parametrize(
    ("metadata", "document", "architecture"),
    [
        ({"architecture": "Own"}, {"architectures": ["Other"]}, "Own"),
        ({}, {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}, "LlamaForCausalLM"),
        ({}, {"architectures": [], "model_type": "llama"}, "llama"),
        ({}, {"architectures": None, "text_config": {"model_type": "gemma3_text"}}, "gemma3_text"),
        ({}, {"architectures": [5], "text_config": "none"}, ""),
        ({}, [], ""),
        ({}, b"{", ""),
        ({}, b"[" * 100_000, ""),
        ({}, b'{"model_type":"\xff"}', ""),
    ],
)
def test_the_architecture_is_found_in_the_config(
    path: Path, metadata: dict[str, str], document: object, architecture: str
) -> None:
    put(path, {"__metadata__": metadata})
    config(path.parent, document)

    assert safetensors_metadata([path]).architecture == architecture


@pytest.mark.parametrize(
    ("document", "size"),
    [
        ({"max_position_embeddings": 2048, "n_ctx": 5}, 2048),
        ({"max_position_embeddings": 0, "n_ctx": 1024}, 1024),
        ({"max_position_embeddings": 2**31, "n_positions": 512}, 512),
        ({"max_position_embeddings": 2048.0, "max_length": True, "model_max_length": 7}, 7),
        ({"text_config": {"max_position_embeddings": 131072}}, 131072),
        ({"llm_config": {"max_position_embeddings": 4096}}, 4096),
        ({"thinker_config": {"text_config": {"max_position_embeddings": 32768}}}, 32768),
        ({"n_ctx": 9, "text_config": {"max_position_embeddings": 131072}}, 9),
        ({"max_position_embeddings": "2048"}, None),
        ({"text_config": [1]}, None),
    ],
)
def test_the_context_size_is_found_in_the_config(path: Path, document: object, size: int | None) -> None:
    put(path, {})
    config(path.parent, document)

    assert safetensors_metadata([path]).context_size == size


def test_the_first_config_beside_any_file_is_used(tmp_path: Path) -> None:
    paths = [put(tmp_path / name / "m.safetensors", {}) for name in ("one", "two", "three")]
    config(tmp_path / "two", {"n_ctx": 2})
    config(tmp_path / "three", {"n_ctx": 3})

    assert safetensors_metadata(paths).context_size == 2


def test_a_config_takes_little_more_memory_than_its_bytes(path: Path) -> None:
    put(path, SAMPLE, 66)
    config(path.parent, b'{"x":[' + b"[]," * 4_000_000 + b'[]],"n_ctx":5,"model_type":[' + b"{}," * 30_000 + b"{}]}")
    tracemalloc.start()
    try:
        metadata = safetensors_metadata([path])
        assert tracemalloc.get_traced_memory()[1] < 32 * 1024 * 1024
    finally:
        tracemalloc.stop()

    assert (metadata.architecture, metadata.context_size) == ("", 5)


def test_a_config_beyond_reason_is_not_read(path: Path) -> None:
    put(path, {})
    config(path.parent, b'{"n_ctx":1}' + b" " * (17 << 20))

    assert safetensors_metadata([path]).context_size is None


def test_an_unknown_dtype_is_believed(path: Path) -> None:
    put(path, {"a": tensor("NEW4", [8], 0, 3)}, 3)

    assert safetensors_metadata([path]).quantization == "NEW4"


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (b"", "at byte 0: 8 more bytes should follow"),
        (struct.pack("<Q", 1 << 40) + b"{}", "at byte 0: a header of 1099511627776 bytes, at most 104857600"),
        (struct.pack("<Q", 100) + b"{}", "at byte 8: 100 more bytes should follow, but the file ends at byte 10"),
        (content(b"[]"), "at byte 8: the header is not a JSON object"),
        (content(b"{"), "not a JSON object"),
        (content(b'{"\xff":1}'), "not a JSON object"),
        (content(b'{"a":' * 100_000), "not a JSON object"),
        (content({"a": 5}), "tensor 'a': Expected `object`"),
        (content({"a": {"dtype": "F32", "shape": [1]}}), "missing required field `data_offsets`"),
        (content({"a": tensor("F32", [-1], 0, 0)}), "tensor 'a': impossible shape"),
        (content({"a": tensor("F32", [1] * 33, 0, 4)}), "impossible shape with 33 dimensions"),
        (content({"a": tensor("F32", [2**40, 2**40], 0, 4)}), "1208925819614629174706176 elements"),
        (content({"a": tensor("F32", [1], 4, 0)}), "1 elements at bytes 4 to 0"),
        (content({"a": tensor("F32", [2], 0, 4)}, 4), "2 elements of F32 do not take 4 bytes"),
        (content({"a": tensor("F32", [2], 0, 8)}, 7), "it reaches to byte 77, but the file ends at byte 76"),
    ],
)
def test_what_breaks_the_format_is_refused_with_its_place(path: Path, raw: bytes, complaint: str) -> None:
    path.write_bytes(raw)

    with pytest.raises(MalformedArtifactError) as caught:
        read_safetensors(path)

    assert complaint in caught.value.message
    assert repr(str(path)) in caught.value.message


def test_a_missing_file_is_no_malformed_file(path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"cannot read .*m\.safetensors"):
        read_safetensors(path)


@pytest.mark.parametrize("entry", [b'"%d":1', b'"%d":{}'])
def test_more_tensors_than_any_model_has_are_refused(path: Path, entry: bytes) -> None:
    for count in (300_000, 2_000_000):
        put(path, b"{" + b",".join(entry % number for number in range(count)) + b"}")
        with pytest.raises(MalformedArtifactError, match=r"tensors|Expected|missing"):
            read_safetensors(path)


def test_too_many_tensors_over_all_shards_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmr_adapters.package_source.safetensors._MAX_TENSORS", 3)
    paths = []
    for number in (1, 2):
        header = {f"{number}.{letter}": tensor("U8", [0], 0, 0) for letter in "ab"}
        paths.append(put(tmp_path / f"{number}.safetensors", header))

    with pytest.raises(MalformedArtifactError, match=r"2\.safetensors.* more than 3 tensors"):
        safetensors_metadata(paths)


def test_a_hundred_thousand_tensors_cost_little(path: Path) -> None:
    header = {f"model.layers.{number}.weight": tensor("U8", [1], number, number + 1) for number in range(100_000)}
    put(path, header, 100_000)
    size = path.stat().st_size
    tracemalloc.start()
    try:
        assert len(read_safetensors(path).tensors) == 100_000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 10 * size


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.integers(0, 250), st.binary(min_size=1, max_size=6)), min_size=1, max_size=4),
    end=st.integers(0, 400),
)
def test_any_mutation_is_read_or_refused(tmp_path: Path, changes: list[tuple[int, bytes]], end: int) -> None:
    data = bytearray(content(SAMPLE, 66))
    for at, replacement in changes:
        data[at : at + len(replacement)] = replacement
    path = tmp_path / "mutated.safetensors"
    path.write_bytes(data[:end])
    complaint = complaint_about(path)

    assert complaint is None or ("mutated.safetensors" in complaint and "at byte" in complaint)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    header=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["a", "__metadata__", "dtype", "shape", "data_offsets"]), inner, max_size=4
            )
        ),
    )
)
def test_any_json_is_read_or_refused(tmp_path: Path, header: object) -> None:
    complaint = complaint_about(put(tmp_path / "any.safetensors", header, 10))

    assert complaint is None or "at byte 8" in complaint


def complaint_about(path: Path) -> str | None:
    try:
        safetensors_metadata([path])
    except MalformedArtifactError as exc:
        return exc.message
    return None
