"""Which files of a Hub repository a reference means."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmr_core.domain.artifact import CONFIG_V01, CONFIG_V02, Format, LayerType
from dmr_core.domain.digest import Digest
from dmr_core.domain.hub_quantization import preferred_projector, quantization_in, quantized, select_quantized
from dmr_core.domain.hub_reference import HubReference
from dmr_core.domain.hub_repository import HubFile
from dmr_core.domain.hub_selection import (
    Selection,
    choose_format,
    safetensors_index,
    select_gguf,
    select_safetensors,
    shards_listed,
)
from dmr_core.domain.paths import RelativePath
from dmr_core.errors import MalformedArtifactError, RemoteModelNotFoundError, UnsupportedFormatError


def files(*paths: str) -> list[HubFile]:
    return [
        HubFile(path=RelativePath.parse(path), size=len(path), git_oid="0" * 40, sha256=Digest.of(path.encode()))
        for path in paths
    ]


def reference(tag: str = "latest") -> HubReference:
    return HubReference.of("Org/M", tag)


def selected(tag: str, *paths: str) -> list[str]:
    """What a tag selects, as paths in the repository."""
    listed = files(*paths)
    wanted = reference(tag)
    select = select_gguf(listed, wanted) if choose_format(listed, wanted) is Format.GGUF else None
    return [file.file.path.text for file in (select or select_safetensors(listed, wanted, None)).files]


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("m-Q4_K_M", "Q4_K_M"),
        ("m.Q4_K_M", "Q4_K_M"),
        ("m_q4_k_m", "Q4_K_M"),
        ("q4_k_m", "Q4_K_M"),
        ("m-UD-Q4_K_XL", "UD-Q4_K_XL"),
        ("m.i1-IQ2_XXS", "i1-IQ2_XXS"),
        ("m-Q4_0_4_4", "Q4_0_4_4"),
        ("m-Q4_K_M-imat", "Q4_K_M"),
        ("m-Q4_K_M_imatrix", "Q4_K_M"),
        ("m-TQ1_0", "TQ1_0"),
        ("m-MXFP4_MOE", "MXFP4_MOE"),
        ("m-mxfp4", "MXFP4"),
        ("m-fp16", "FP16"),
        ("m-bf16", "BF16"),
        ("m-f16.Q6_K", "Q6_K"),
        ("Phi-3-mini-4k-instruct-q4", "Q4"),
        ("Qwen3-8B", ""),
        ("FAQ4_me", ""),
        ("model", ""),
    ],
)
def test_a_name_tells_how_a_file_is_quantized(name: str, label: str) -> None:
    assert quantization_in(name) == label


@pytest.mark.parametrize(
    ("tag", "paths", "chosen"),
    [
        # The reference's table (its outcome in brackets where ours is another).
        ("latest", ["m-Q2_K.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf"], ["m-Q4_K_M.gguf"]),
        ("latest", ["m-Q2_K.gguf", "m-Q8_0.gguf"], ["m-Q8_0.gguf"]),  # [m-Q2_K: the first by name]
        ("Q4_K_M", ["m-Q4_K_M.gguf", "m-UD-Q4_K_M.gguf"], ["m-Q4_K_M.gguf"]),  # [both]
        ("UD-Q4_K_M", ["m-Q4_K_M.gguf", "m-UD-Q4_K_M.gguf"], ["m-UD-Q4_K_M.gguf"]),
        ("BF16", ["BF16/m-00001-of-00002.gguf", "BF16/m-00002-of-00002.gguf", "m-Q4_K_M.gguf"],
         ["BF16/m-00001-of-00002.gguf", "BF16/m-00002-of-00002.gguf"]),  # [m-Q4_K_M]
        ("latest", ["z-Q2_K.gguf", "model.safetensors"], ["model.safetensors"]),
        # A quantization named in a mixed repository is a GGUF's.
        ("Q2_K", ["z-Q2_K.gguf", "model.safetensors"], ["z-Q2_K.gguf"]),
        ("gguf", ["z-Q2_K.gguf", "model.safetensors"], ["z-Q2_K.gguf"]),
        ("safetensors", ["z-Q2_K.gguf", "model.safetensors"], ["model.safetensors"]),
        ("latest", ["z-Q2_K.gguf", "unet/model.safetensors"], ["z-Q2_K.gguf"]),
        ("latest", ["z-Q2_K.gguf", "adapter_model.safetensors"], ["z-Q2_K.gguf"]),
        # Case does not matter, neither of tags nor of extensions.
        ("q4_k_m", ["M-Q4_K_M.GGUF", "M-Q8_0.gguf"], ["M-Q4_K_M.GGUF"]),
        ("main", ["m-Q4_K_M.gguf", "m-Q8_0.gguf"], ["m-Q4_K_M.gguf"]),
        ("f16", ["m-fp16.gguf", "m-bf16.gguf"], ["m-fp16.gguf"]),
        # The bare type means its only variant, said aloud by the label in the progress.
        ("Q4_K_XL", ["m-UD-Q4_K_XL.gguf", "m-UD-Q2_K_XL.gguf"], ["m-UD-Q4_K_XL.gguf"]),
        ("Q4_K", ["m-Q4_K.gguf", "m-Q4_K_M.gguf"], ["m-Q4_K.gguf"]),
        # A file may be named too, or what sets it apart from others.
        ("m-it-Q4_0", ["m-it-Q4_0.gguf", "m-pt-Q4_0.gguf"], ["m-it-Q4_0.gguf"]),
        ("it", ["m-it-Q4_0.gguf", "m-pt-Q4_0.gguf"], ["m-it-Q4_0.gguf"]),
        ("latest", ["model.gguf"], ["model.gguf"]),
        ("latest", ["m-Q4_K_M.gguf", "m-UD-Q4_K_M.gguf", "m-IQ4_XS.gguf"], ["m-Q4_K_M.gguf"]),
        ("latest", ["m-UD-Q3_K_XL.gguf", "m-UD-Q4_K_XL.gguf"], ["m-UD-Q4_K_XL.gguf"]),
        ("latest", ["m-BF16.gguf", "m-Q5_K_S.gguf", "m-Q6_K.gguf", "m.gguf"], ["m-Q5_K_S.gguf"]),
        # Neither statistics nor what is hidden is a model; a name may mention them.
        ("latest", ["m.imatrix.gguf", ".cache/m-Q4_K_M.gguf", "m-Q8_0.gguf"], ["m-Q8_0.gguf"]),
        ("latest", ["m-imatrix-Q4_K_M.gguf"], ["m-imatrix-Q4_K_M.gguf"]),
        ("latest", ["m-00007-of-00002.gguf"], ["m-00007-of-00002.gguf"]),  # a name like any other
    ],
)  # fmt: skip
def test_a_tag_selects_exactly_what_it_names(tag: str, paths: list[str], chosen: list[str]) -> None:
    assert selected(tag, *paths) == chosen


@pytest.mark.parametrize(
    ("tag", "paths", "words"),
    [
        ("Q3_K_XL", ["m-Q4_K_M.gguf", "m-Q8_0.gguf"], "no quantization 'Q3_K_XL'; it has Q4_K_M, Q8_0"),  # [Q4_K_M]
        ("Q4", ["m-Q4_K_M.gguf", "m-Q4_0.gguf", "m-Q8_0.gguf"],
         "'Q4' is not the whole name of a quantization: give one of Q4_K_M, Q4_0"),  # [both]
        ("Q4", ["m-Q4_K_M.gguf"], "give one of Q4_K_M"),
        ("Q4_K_M", ["model.gguf"], "no quantization 'Q4_K_M'; it has model"),  # [model.gguf]
        ("Q4_K_M", ["model.safetensors"], "safetensors only, so there is no quantization to choose"),
        ("safetensors", ["m-Q4_K_M.gguf"], "GGUF files only"),
        ("Q4_0", ["a-Q4_0.gguf", "b-Q4_0.gguf"], "'Q4_0' names 2 models there: .* of a-Q4_0, b-Q4_0"),
        ("latest", ["a-Q4_0.gguf", "b-Q4_0.gguf"], "holds 2 models: give the name of one as the tag, hf.co/Org/M:NAME"),
        ("latest", ["a/m.gguf", "b/m.gguf"], "of a/m.gguf, b/m.gguf"),
        ("Q4_K_XL", ["m-UD-Q4_K_XL.gguf", "m.i1-Q4_K_XL.gguf"], "names 2 models"),
        ("K_M", ["m-Q4_K_M.gguf"], "no quantization 'K_M'"),
        ("Q9_Z", [f"m{n}-Q{n % 8 + 1}_{n}.gguf" for n in range(40)], "and 10 more"),
    ],
)  # fmt: skip
def test_nothing_takes_the_place_of_what_was_asked_for(tag: str, paths: list[str], words: str) -> None:
    with pytest.raises(RemoteModelNotFoundError, match=words):
        selected(tag, *paths)


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        ([], "it is empty"),
        (["README.md"], "no model weight files .* found in repository 'Org/M'$"),
        (["pytorch_model.bin"], "PyTorch files"),
        (["unet/a.safetensors"], "'unet/a.safetensors' is not the weights of a whole model"),
        (["mmproj-F16.gguf"], "no model weight files"),
        (["adapter_model.safetensors"], "no model weight files"),
    ],
)
def test_a_repository_without_weights_says_what_it_has(paths: list[str], words: str) -> None:
    with pytest.raises(UnsupportedFormatError, match=words):
        choose_format(files(*paths), reference())


@pytest.mark.parametrize("tag", ["latest", "Q4_K_M"])
def test_a_missing_shard_is_an_error(tag: str) -> None:
    shards = [f"m-Q4_K_M-0000{number}-of-00003.gguf" for number in (1, 3)]
    with pytest.raises(MalformedArtifactError, match=r"2 of 3 shards, 'm-Q4_K_M-00002-of-00003\.gguf' is missing"):
        selected(tag, *shards)


def gguf(tag: str, *paths: str) -> Selection:
    return select_gguf(files(*paths), reference(tag))


def test_a_gguf_brings_projector_template_and_licences() -> None:
    selection = gguf(
        "latest", "m-Q4_K_M.gguf", "mmproj-F16.gguf", "LICENSE", "chat_template.jinja", "config.json", "README.md",
        "docs/LICENSE", "tokenizer_config.json", "m.safetensors",
    )  # fmt: skip
    assert selection.config_type == CONFIG_V01
    assert [(file.name.text, file.media_type) for file in selection.files] == [
        ("m-Q4_K_M.gguf", LayerType.GGUF),
        ("LICENSE", LayerType.LICENSE),
        ("chat_template.jinja", LayerType.CHAT_TEMPLATE),
        ("mmproj-F16.gguf", LayerType.MMPROJ),
    ]
    assert [file.name.text for file in selection.weights] == ["m-Q4_K_M.gguf"]
    assert selection.notes == ("Selected Q4_K_M quantization",)


def test_of_two_templates_the_usual_name_is_taken() -> None:
    names = [file.name.text for file in gguf("latest", "m.gguf", "a.jinja", "chat_template.jinja").files]
    assert names == ["m.gguf", "chat_template.jinja"]


@pytest.mark.parametrize(
    ("paths", "notes"),
    [
        (["m-Q4_K_M.gguf", "m-Q8_0.gguf"], ("Selected Q4_K_M quantization (default)",)),
        (["m.gguf"], ()),
        (["m.gguf", "m-Q9_9.gguf"], ("Selected Q9_9 quantization (default)",)),
        (["a-F32.gguf", "mmproj-m-Q8_0.gguf", "mmproj-m-BF16.gguf"],
         ("Selected F32 quantization", "Selected projector mmproj-m-BF16.gguf")),
    ],
)  # fmt: skip
def test_what_was_chosen_is_said(paths: list[str], notes: Sequence[str]) -> None:
    assert gguf("latest", *paths).notes == notes


def test_an_unlabelled_choice_is_called_by_its_name() -> None:
    assert gguf("first", "first.gguf", "m-Q4_0.gguf").notes == ("Selected first",)


@pytest.mark.parametrize(
    ("beside", "projectors", "chosen"),
    [
        ("m.gguf", ["mmproj-BF16.gguf", "mmproj-F16.gguf", "mmproj-F32.gguf"], "mmproj-F16.gguf"),
        ("m.gguf", ["mmproj-F32.gguf", "mmproj-BF16.gguf"], "mmproj-BF16.gguf"),
        ("m.gguf", ["mmproj-model-q4_0.gguf", "mmproj-Q8_0.gguf"], "mmproj-Q8_0.gguf"),
        ("a/m.gguf", ["mmproj-F16.gguf", "a/mmproj-Q8_0.gguf"], "a/mmproj-Q8_0.gguf"),
        ("a/m.gguf", ["mmproj-F16.gguf"], "mmproj-F16.gguf"),
    ],
)
def test_the_projector_is_f16_before_others(beside: str, projectors: list[str], chosen: str) -> None:
    found = preferred_projector(files(*projectors), files(beside)[0])
    assert found is not None
    assert found.path.text == chosen


# --- safetensors -------------------------------------------------------------------------------------


def test_safetensors_come_with_everything_an_engine_reads() -> None:
    taken = [
        "1_Pooling/config.json", "2_Dense/model.safetensors", "LICENSE", "README.md",
        "additional_chat_templates/tool.jinja", "chat_template.jinja", "config.json", "merges.txt", "model.safetensors",
        "qwen.tiktoken", "spiece.model", "tokenizer.model", "vocab.json",
    ]  # fmt: skip
    left = [
        ".gitattributes", "model.safetensors.index.json", "modeling_m.py", "onnx/model.onnx", "original/params.json",
        "picture.png", "pytorch_model.bin", "pytorch_model.bin.index.json", "unet/a.safetensors", "adapter_x.safetensors",
    ]  # fmt: skip
    runnable = ["modeling_m.py", "pytorch_model.bin", "unet/a.safetensors", "adapter_x.safetensors"]
    selection = select_safetensors(files(*left, *taken), reference(), None)
    assert selection.config_type == CONFIG_V02
    assert [file.name.text for file in selection.files] == taken
    assert selection.notes == (f"Left out, as duplicates or because loading them runs code: {', '.join(runnable)}",)
    assert selection.size == sum(map(len, taken))


def test_an_index_decides_which_shards_are_the_model() -> None:
    shards = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    others = ["model-00001-of-00001.safetensors", "model.safetensors.index.json", "m-Q4_0.gguf"]
    listed = files(*shards, *others)
    selection = select_safetensors(listed, reference(), frozenset(shards))
    assert [file.name.text for file in selection.files] == [*shards, "model.safetensors.index.json"]
    assert "a quantization, selects those" in selection.notes[1]
    found = safetensors_index(listed)
    assert found is not None
    with pytest.raises(MalformedArtifactError, match=r"lists 3 files, and 'zzz\.safetensors' is not"):
        select_safetensors(listed, reference(), frozenset([*shards, "zzz.safetensors"]))


@pytest.mark.parametrize(
    ("paths", "chosen"),
    [
        (["model.safetensors", "consolidated.safetensors"], ["model.safetensors"]),
        (["model.safetensors", "model-00001-of-00002.safetensors"], ["model.safetensors"]),
        (["consolidated.safetensors", "params.json"], ["consolidated.safetensors", "params.json"]),
        (["a.safetensors", "b.safetensors"], ["a.safetensors", "b.safetensors"]),
        (["m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"],
         ["m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors"]),
    ],
)  # fmt: skip
def test_without_an_index_names_decide(paths: list[str], chosen: list[str]) -> None:
    assert selected("latest", *paths) == chosen


def test_without_an_index_a_missing_shard_is_an_error() -> None:
    with pytest.raises(MalformedArtifactError, match=r"'m-00002-of-00002\.safetensors' is missing"):
        selected("latest", "m-00001-of-00002.safetensors")


def test_many_left_out_are_counted() -> None:
    notes = select_safetensors(files("model.safetensors", *(f"{n}.bin" for n in range(9))), reference(), None).notes
    assert notes[0].endswith("0.bin, 1.bin, 2.bin, 3.bin, 4.bin and 4 more")


def test_an_index_names_each_shard_once() -> None:
    content = json.dumps({"metadata": {}, "weight_map": {"a": "x.safetensors", "b": "x.safetensors"}}).encode()
    assert shards_listed(content) == {"x.safetensors"}


@pytest.mark.parametrize(
    "document",
    [
        b"", b"[]", b"\xff", b"[" * 100_000, {}, {"weight_map": []}, {"weight_map": {}}, {"weight_map": {"a": 1}},
        {"weight_map": {"a": ["x"]}}, {"weight_map": {"a": "../x"}}, {"weight_map": {"a": "a//x"}},
        {"weight_map": {"a": ""}},
    ],
)  # fmt: skip
def test_what_is_no_index_is_refused(document: Any) -> None:
    content = document if isinstance(document, bytes) else json.dumps(document).encode()
    with pytest.raises(MalformedArtifactError):
        shards_listed(content)


_PART = st.text(alphabet="QqIi4_KkMm-.8ab/0", min_size=1, max_size=20)


@given(st.lists(_PART, max_size=8), st.text(alphabet="Q4_KM-ab8", max_size=8))
def test_whatever_the_names_a_selection_is_part_of_the_repository(names: list[str], tag: str) -> None:
    """Whatever a hub lists there is an answer or a refusal, and an answer consists of whole groups of its files."""
    listed = []
    for name in dict.fromkeys(names):
        try:
            listed += files(RelativePath.parse(f"x{name.replace('..', '.')}.gguf").text)
        except MalformedArtifactError:
            continue
    choices = quantized(listed)
    try:
        chosen = select_quantized(choices, reference(tag)) if choices else None
    except (RemoteModelNotFoundError, MalformedArtifactError):
        return
    assert chosen is None or chosen in choices
