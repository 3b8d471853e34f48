"""Reading GGUF headers, good, odd and hostile ones."""

from __future__ import annotations

import struct
import time
import tracemalloc
from collections.abc import Iterable
from pathlib import Path

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmr_adapters.package_source.gguf import read_gguf
from dmr_adapters.package_source.gguf_metadata import gguf_metadata
from dmr_adapters.package_source.quantization import (
    UNKNOWN_TYPE,
    quantization_name,
    tensor_bytes,
    voted_file_type,
)
from dmr_core.errors import InvalidRequestError, MalformedArtifactError

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)
CODES = {U8: "B", I8: "b", U16: "H", I16: "h", U32: "I", I32: "i", F32: "f", BOOL: "?", U64: "Q", I64: "q", F64: "d"}
Q4_K, Q6_K = 12, 14


@attrs.frozen
class Writer:
    """Writes GGUF in any version and byte order, right or wrong."""

    version: int = 3
    order: str = "<"
    magic: bytes = b"GGUF"

    def length(self, value: int) -> bytes:
        return struct.pack(self.order + ("I" if self.version == 1 else "Q"), value)

    def u32(self, value: int) -> bytes:
        return struct.pack(self.order + "I", value)

    def text(self, value: str | bytes) -> bytes:
        raw = value.encode() if isinstance(value, str) else value
        return self.length(len(raw)) + raw

    def scalar(self, kind: int, value: object) -> bytes:
        if kind == STRING:
            assert isinstance(value, str | bytes)
            return self.text(value)
        return struct.pack(self.order + CODES[kind], value)

    def pair(self, key: str, kind: int, value: object) -> bytes:
        return self.text(key) + self.u32(kind) + self.scalar(kind, value)

    def array(self, key: str, kind: int, values: Iterable[object]) -> bytes:
        items = [self.scalar(kind, value) for value in values]
        return self.text(key) + self.u32(ARRAY) + self.u32(kind) + self.length(len(items)) + b"".join(items)

    def tensor(self, name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
        dims = b"".join(map(self.length, shape))
        return self.text(name) + self.u32(len(shape)) + dims + self.u32(kind) + struct.pack(self.order + "Q", offset)

    def file(
        self,
        pairs: Iterable[bytes] = (),
        tensors: Iterable[bytes] = (),
        data: int = 0,
        alignment: int = 32,
    ) -> bytes:
        pairs, tensors = list(pairs), list(tensors)
        head = self.magic + self.u32(self.version) + self.length(len(tensors)) + self.length(len(pairs))
        head += b"".join(pairs) + b"".join(tensors)
        return head + bytes(-len(head) % alignment) + bytes(data)


W = Writer()


def sample(writer: Writer = W, **more: bytes) -> bytes:
    return writer.file(
        [
            writer.pair("general.architecture", STRING, "llama"),
            writer.pair("general.file_type", U32, 15),
            writer.pair("llama.context_length", U32, 8192),
            *more.values(),
        ],
        [
            writer.tensor("token_embd.weight", (256, 4), Q4_K, 0),
            writer.tensor("blk.0.ffn.weight", (256, 8), Q6_K, 576),
        ],
        data=576 + 1680,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.gguf"


@pytest.mark.parametrize(
    "writer",
    [
        Writer(1),
        Writer(2),
        Writer(3),
        Writer(1, ">"),
        Writer(2, ">"),
        Writer(3, ">"),
        Writer(3, ">", magic=b"FUGG"),
    ],
    ids=str,
)
def test_every_version_and_byte_order_reads_the_same(path: Path, writer: Writer) -> None:
    path.write_bytes(sample(writer))

    metadata = gguf_metadata([path])

    assert (metadata.parameters, metadata.size) == ("3.07K", "2.20KiB")
    assert (metadata.architecture, metadata.quantization, metadata.context_size) == ("llama", "MOSTLY_Q4_K_M", 8192)
    assert metadata.raw == {
        "general.architecture": "llama",
        "general.file_type": "15",
        "llama.context_length": "8192",
    }
    assert read_gguf(path).version == writer.version


def test_values_are_spelled_as_the_reference_spells_them(path: Path) -> None:
    path.write_bytes(
        W.file(
            [
                W.pair("i8", I8, -5),
                W.pair("u64", U64, 2**64 - 1),
                W.pair("f32", F32, 10000.0),
                W.pair("f64", F64, 1e-5),
                W.pair("nan", F32, float("nan")),
                W.pair("inf", F64, float("-inf")),
                W.pair("yes", BOOL, True),
                W.pair("text", STRING, "\n trimmed\t\u3000"),
                W.pair("bytes", STRING, b"caf\xe9 \xe2\x82"),
                W.array("ints", I32, [1, 2, 3]),
                W.array("bools", BOOL, [True, False]),
                W.array("texts", STRING, ["a ", "b"]),
                W.array("fifty", U8, range(50)),
                W.array("fifty-one", U8, range(51)),
                W.array("many", STRING, ["x"] * 51),
                W.text("nested")
                + W.u32(ARRAY)
                + W.u32(ARRAY)
                + W.length(1)
                + W.u32(STRING)
                + W.length(1)
                + W.text("x"),
                W.pair("last", U8, 1),
            ]
        )
    )

    assert gguf_metadata([path]).raw == {
        "i8": "-5",
        "u64": "18446744073709551615",
        "f32": "10000.000000",
        "f64": "0.000010",
        "nan": "NaN",
        "inf": "-Inf",
        "yes": "true",
        "text": "trimmed",
        "bytes": "caf\ufffd \ufffd\ufffd",
        "ints": "1, 2, 3",
        "bools": "true, false",
        "texts": "a, b",
        "fifty": ", ".join(map(str, range(50))),
        "nested": "",
        "last": "1",
    }


@pytest.mark.parametrize(
    ("pairs", "tensor", "architecture", "context"),
    [
        ({"general.architecture": "llama"}, "blk.0.w", "llama", 64),
        ({"general.architecture": "clip"}, "v.blk.0", "clip", None),
        ({"general.architecture": "llama", "general.type": "adapter"}, "blk.0", "llama", None),
        ({"general.architecture": "controlvector", "controlvector.model_hint": "qwen2"}, "direction.1", "qwen2", None),
        ({"general.type": "imatrix"}, "x", "imatrix", None),
        ({"general.architecture": "flux"}, "double_blocks.0.weight", "diffusion", None),
        ({"general.architecture": "sd3"}, "x", "llama", 64),
        ({}, "model.diffusion_model.x", "diffusion", None),
        ({}, "x", "llama", 64),
        ({"general.architecture": "t5"}, "encoder.x", "t5", None),
    ],
)
def test_architecture_and_context_size(
    path: Path, pairs: dict[str, str], tensor: str, architecture: str, context: int | None
) -> None:
    named = pairs.get("general.architecture", "llama")
    path.write_bytes(
        W.file(
            [
                *(W.pair(key, STRING, value) for key, value in pairs.items()),
                W.pair(f"{named}.context_length", U32, 64),
            ],
            [W.tensor(tensor, (1,), 0, 0)],
            data=4,
        )
    )

    metadata = gguf_metadata([path])

    assert (metadata.architecture, metadata.context_size) == (architecture, context)


@pytest.mark.parametrize(
    ("kind", "value"), [(U32, 0), (U32, 2**31), (I32, -1), (STRING, "8192"), (BOOL, True), (F32, 1.0)]
)
def test_a_context_length_that_makes_no_sense_is_none(path: Path, kind: int, value: object) -> None:
    path.write_bytes(W.file([W.pair("llama.context_length", kind, value)]))

    assert gguf_metadata([path]).context_size is None


def test_well_known_keys_of_the_wrong_type_are_passed_over(path: Path) -> None:
    path.write_bytes(
        W.file([W.pair("general.architecture", U32, 1), W.pair("general.file_type", STRING, "x")], [], data=0)
    )

    metadata = gguf_metadata([path])

    assert (metadata.architecture, metadata.quantization) == ("llama", "Unknown")


def test_a_tensor_type_nobody_knows_costs_nothing_else(path: Path) -> None:
    path.write_bytes(
        W.file([W.pair("general.architecture", STRING, "llama")], [W.tensor("blk.0.weight", (256,), 4711, 0)], data=64)
    )

    metadata = gguf_metadata([path])

    assert (metadata.architecture, metadata.parameters, metadata.quantization) == ("llama", "256", "Unknown")


def test_shards_are_one_model(tmp_path: Path) -> None:
    paths = [tmp_path / f"m-0000{number}-of-00002.gguf" for number in (1, 2)]
    for number, path in enumerate(paths):
        path.write_bytes(
            W.file(
                [W.pair("general.file_type", U32, 10 + number), W.pair("split.no", U16, number)],
                [W.tensor("a", (1000,), 8, 0)],
                data=1088,
            )
        )

    metadata = gguf_metadata(paths)

    assert (metadata.parameters, metadata.size, metadata.quantization) == ("2K", "2.12KiB", "MOSTLY_Q3_K_S")
    assert metadata.raw == {"general.file_type": "11"}


def test_files_that_are_no_shards_are_not_one_model(tmp_path: Path) -> None:
    first, second = tmp_path / "a.gguf", tmp_path / "b.gguf"
    first.write_bytes(sample())
    second.write_bytes(b"not looked at")

    assert gguf_metadata([first, second]).parameters == "3.07K"


def test_an_alignment_of_its_own_moves_the_data(path: Path) -> None:
    head = [W.pair("general.alignment", U32, 4096)]
    path.write_bytes(W.file(head, [W.tensor("a.weight", (256,), 0, 0)], data=1024, alignment=4096))

    header = read_gguf(path)

    assert (header.data_start, header.data_size) == (4096, 1024)


def test_the_size_lacks_a_whole_alignment_where_the_data_follows_at_once(path: Path) -> None:
    for length in range(32):
        pairs, tensors = [W.pair("k" * (1 + length), STRING, "")], [W.tensor("a.weight", (256,), 0, 0)]
        content = W.file(pairs, tensors, data=2048, alignment=1)
        path.write_bytes(content)
        end = len(content) - 2048

        assert read_gguf(path).data_size == 2048 - (32 - end % 32)


def test_strings_too_long_for_a_config_are_left_out(path: Path) -> None:
    long, half = "x" * (2 << 20), "y" * (600 << 10)
    path.write_bytes(
        W.file([W.pair(key, STRING, value) for key, value in (("a", long), ("b", half), ("c", half), ("d", "kept"))])
    )

    assert set(gguf_metadata([path]).raw) == {"b"}


# --- refusals -----------------------------------------------------------------------------------------


def text_of(path: Path) -> str:
    with pytest.raises(MalformedArtifactError) as caught:
        read_gguf(path)
    assert repr(str(path)) in caught.value.message
    return caught.value.message


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "at byte 0: 4 more bytes should follow, but the file ends at byte 0"),
        (b"GGML" + bytes(20), "at byte 0: it begins with b'GGML', not with b'GGUF'"),
        (b"GGUF" + struct.pack("<I", 4), "at byte 4: version 4 is not supported (supported: 1, 2, 3)"),
        (b"FUGG" + struct.pack("<I", 3), "at byte 4: version 3 is not supported"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 40, 0), "at byte 8: 1099511627776 tensors, at most"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 40), "at byte 16: 1099511627776 metadata entries"),
        (W.file([W.length(1 << 60)]), "at byte 24: 1152921504606846976 bytes in the name of a metadata entry"),
        (W.file([W.text("k") + W.u32(99)]), "unknown metadata type 99"),
        (W.file([W.text("k") + W.u32(ARRAY) + W.u32(99) + W.length(1)]), "unknown metadata type 99"),
        (W.file([W.text("k") + W.u32(ARRAY) + W.u32(99) + W.length(99)]), "unknown metadata type 99"),
        (W.file([W.text("k") + W.u32(STRING) + W.length(1 << 62)]), "but the file ends at byte 64"),
        (W.file([W.text("k") + W.u32(ARRAY) + W.u32(U64) + W.length(1 << 62)]), "but the file ends at"),
        (W.file([W.text("k") + W.u32(ARRAY) + W.u32(STRING) + W.length(1 << 20)]), "but the file ends at"),
        (W.file([W.text("k") + W.u32(ARRAY) + W.u32(STRING) + W.length(1 << 62)]), "elements of variable length"),
        (W.file([W.text("k") + W.u32(ARRAY) + (W.u32(ARRAY) + W.length(1)) * 20]), "nested more than 8 deep"),
        (W.file([W.pair("general.alignment", U32, 0)]), "general.alignment is 0, it must be a power of two"),
        (W.file([W.pair("general.alignment", U32, 24)]), "general.alignment is 24"),
        (W.file([W.pair("general.alignment", STRING, "32")]), "general.alignment is '32'"),
        (W.file([], [W.tensor("t", (1,) * 5, 0, 0)]), "5 dimensions of a tensor, at most 4"),
        (W.file([], [W.tensor("t", (2**62, 4), 0, 0)]), "tensor 't' has 18446744073709551616 elements"),
        (W.file([], [W.tensor("t", (1,), 0, 10**9)], data=64), "tensor 't' reaches to byte 1000000065, but"),
    ],
)
def test_what_breaks_the_format_is_refused_with_its_place(path: Path, content: bytes, complaint: str) -> None:
    path.write_bytes(content)

    assert complaint in text_of(path)


def test_a_file_without_its_last_byte_is_cut_off(path: Path) -> None:
    whole = sample()
    path.write_bytes(whole[:-1])

    assert f"at byte {len(whole) - 1}: tensor 'blk.0.ffn.weight' reaches to byte {len(whole)}" in text_of(path)


def test_a_file_cut_off_anywhere_is_refused(path: Path) -> None:
    whole = sample()
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        text_of(path)


def test_a_missing_file_is_no_malformed_file(path: Path) -> None:
    with pytest.raises(InvalidRequestError, match=r"cannot read .*m\.gguf") as caught:
        read_gguf(path)
    assert not isinstance(caught.value, MalformedArtifactError)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    writer=st.sampled_from([Writer(1), Writer(2, ">"), Writer(3)]),
    changes=st.lists(
        st.tuples(st.integers(0, 330), st.binary(min_size=1, max_size=8) | st.just(b"\xff" * 8)), min_size=1, max_size=4
    ),
    end=st.integers(0, 4000),
)
def test_any_mutation_is_read_or_refused(
    tmp_path: Path, writer: Writer, changes: list[tuple[int, bytes]], end: int
) -> None:
    nested = writer.text("n") + writer.u32(ARRAY) + writer.u32(ARRAY) + writer.length(2)
    nested += (writer.u32(U8) + writer.length(1) + b"\1") * 2
    data = bytearray(sample(writer, tokens=writer.array("t", STRING, ["x"] * 60), nested=nested))
    for at, replacement in changes:
        data[at : at + len(replacement)] = replacement
    path = tmp_path / "mutated.gguf"
    path.write_bytes(data[:end])
    complaint = complaint_about(path)

    assert complaint is None or ("mutated.gguf" in complaint and "at byte" in complaint)


def complaint_about(path: Path) -> str | None:
    try:
        gguf_metadata([path])
    except MalformedArtifactError as exc:
        return exc.message
    return None


def vocabulary(path: Path, tokens: int) -> None:
    """A header as large models have it, in front of a gibibyte that is not there."""
    names = [f"token{number}" for number in range(tokens)]
    merges = [f"{number} {number}" for number in range(tokens)]
    head = W.file(
        [
            W.pair("general.architecture", STRING, "qwen3"),
            W.array("tokenizer.ggml.tokens", STRING, names),
            W.array("tokenizer.ggml.token_type", I32, [1] * tokens),
            W.array("tokenizer.ggml.scores", F32, [1.0] * tokens),
            W.array("tokenizer.ggml.merges", STRING, merges),
        ],
        [W.tensor(f"blk.{number}.weight", (4096, 64), 1, number * 524288) for number in range(1000)],
    )
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + 1000 * 524288)


def test_a_large_vocabulary_takes_a_moment_and_little_memory(path: Path) -> None:
    vocabulary(path, 150_000)

    started = time.perf_counter()
    gguf_metadata([path])
    elapsed = time.perf_counter() - started
    tracemalloc.start()
    try:
        gguf_metadata([path])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert elapsed < 1  # measured: 0.05 s; the rest is patience with a busy machine
    assert peak < 4 * 1024 * 1024


def test_lengths_in_a_hostile_header_allocate_nothing(path: Path) -> None:
    """The file really is as long as it claims, but sparse: only our own limits can help."""
    head = W.file([W.text("k") + W.u32(STRING) + W.length(8 << 30)])
    with path.open("wb") as file:
        file.write(head)
        file.truncate(9 << 30)
    tracemalloc.start()
    try:
        read_gguf(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 4 * 1024 * 1024


# --- names of quantizations ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file_type", "name"),
    [
        (0, "MOSTLY_F32"),
        (1, "MOSTLY_F16"),
        (7, "MOSTLY_Q8_0"),
        (11, "MOSTLY_Q3_K_S"),
        (15, "MOSTLY_Q4_K_M"),
        (18, "MOSTLY_Q6_K"),
        (19, "MOSTLY_IQ2_XXS"),
        (32, "MOSTLY_BF16"),
        (38, "MOSTLY_MXFP4"),
        (40, "GGUFFileType(40)"),
        (1024, "GGUFFileType(1024)"),
        (-1, "GGUFFileType(-1)"),
        (39, "Unknown"),
        (None, "Unknown"),
    ],
)
def test_file_types_have_names(file_type: int | None, name: str) -> None:
    assert quantization_name(file_type, {}) == name


F32_, F16_, Q5_K, Q3_K, Q2_K, Q8_0, IQ2_XS, IQ4_XS, IQ2_S, IQ3_S, IQ3_XXS = 0, 1, 13, 11, 10, 8, 17, 23, 22, 21, 18


@pytest.mark.parametrize(
    ("votes", "name"),
    [
        ({F32_: 10}, "F32"),
        ({F32_: 10, F16_: 5}, "F16"),
        ({Q4_K: 10, Q6_K: 2}, "Q4_K_M"),
        ({Q4_K: 10, Q6_K: 1}, "Q4_K_S"),
        ({Q4_K: 10, Q3_K: 2}, "Q3_K_M"),
        ({Q5_K: 10, Q6_K: 2}, "Q5_K_M"),
        ({Q5_K: 10}, "Q5_K_S"),
        ({Q3_K: 10, Q8_0: 1}, "Q3_K_L"),
        ({Q3_K: 10, Q5_K: 2}, "Q3_K_L"),
        ({Q3_K: 10, Q5_K: 2, Q4_K: 2}, "Q3_K_M"),
        ({Q3_K: 10, Q5_K: 1}, "Q3_K_S"),
        ({Q2_K: 10, Q3_K: 3, Q5_K: 1}, "Q2_K_S"),
        ({Q2_K: 10, Q5_K: 3, Q3_K: 1}, "Q2_K"),
        ({IQ2_XS: 10, IQ4_XS: 2}, "IQ2_S"),
        ({IQ2_XS: 10}, "IQ2_XS"),
        ({IQ2_S: 10}, "IQ2_M"),
        ({IQ3_S: 10, IQ3_XXS: 2}, "IQ3_XS"),
        ({IQ3_S: 10}, "IQ3_S"),
        ({F16_: 3, Q8_0: 3}, "F16"),
        ({24: 10}, None),
        ({UNKNOWN_TYPE: 10}, None),
        ({}, None),
    ],
)
def test_the_majority_of_tensors_names_the_file(votes: dict[int, int], name: str | None) -> None:
    assert voted_file_type(votes) == name
    assert quantization_name(None, votes) == ("Unknown" if name is None else f"MOSTLY_{name}")


def test_only_tensors_that_tell_have_a_vote(path: Path) -> None:
    tensors = [
        W.tensor("blk.0.ffn", (1,), F16_, 0),
        W.tensor("rope_freqs", (1,), Q8_0, 0),
        W.tensor("z", (1,), Q8_0, 0),
    ]
    path.write_bytes(W.file([], tensors, data=64))

    assert gguf_metadata([path]).quantization == "MOSTLY_F16"


def test_of_a_diffusion_model_weights_alone_have_a_vote(path: Path) -> None:
    tensors = [
        W.tensor("double_blocks.0.weight", (1,), F16_, 0),
        W.tensor("a_norm", (1,), Q8_0, 0),
        W.tensor("b_norm", (1,), Q8_0, 0),
    ]
    path.write_bytes(W.file([], tensors, data=64))

    assert gguf_metadata([path]).quantization == "MOSTLY_F16"


@pytest.mark.parametrize(
    ("kind", "elements", "size"), [(0, 3, 12), (Q4_K, 256, 144), (Q4_K, 257, 288), (4711, 1, None)]
)
def test_tensors_take_whole_blocks(kind: int, elements: int, size: int | None) -> None:
    assert tensor_bytes(kind, elements) == size
