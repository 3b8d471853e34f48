"""The files of the demo model are whole and agree with each other; what it says is checked in the integration tests."""

from __future__ import annotations

import ast
import json
import math
import struct
from pathlib import Path
from typing import Any

import pytest

import dmr_cli.demo

HOME = Path(dmr_cli.demo.__file__).parent
GGUF = HOME / "model" / "demo.gguf"
SAFETENSORS = HOME / "model" / "safetensors"
MEBIBYTE = 1 << 20


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_weights() -> tuple[dict[str, Any], int]:
    """The header of the weights, and how many bytes follow it."""
    raw = (SAFETENSORS / "model.safetensors").read_bytes()
    (length,) = struct.unpack_from("<Q", raw)
    return json.loads(raw[8 : 8 + length]), len(raw) - 8 - length


def test_documented_questions_are_distinct_pairs_of_one_line_texts() -> None:
    entries = read_json(HOME / "questions.json")

    assert 7 <= len(entries) <= 10
    assert len({entry["question"] for entry in entries}) == len(entries)
    for entry in entries:
        assert set(entry) == {"question", "answer"}
        assert all(text and text == text.strip() and "\n" not in text for text in entry.values())


def test_written_answers_are_the_documented_ones() -> None:
    """A corpus that teaches another answer would only fail at the end of a training."""
    lines = (HOME / "corpus" / "conversations.jsonl").read_text(encoding="utf-8").splitlines()
    taught = {
        wording: entry["answer"] for entry in map(json.loads, lines) if "ask" in entry for wording in entry["ask"]
    }
    sums_are_not_written_out = {"What is 2 + 3?": "2 + 3 = 5."}

    documented = {entry["question"]: entry["answer"] for entry in read_json(HOME / "questions.json")}

    assert documented == {question: (taught | sums_are_not_written_out)[question] for question in documented}


def test_no_wording_is_taught_two_answers() -> None:
    lines = (HOME / "corpus" / "conversations.jsonl").read_text(encoding="utf-8").splitlines()
    wordings = [wording for entry in map(json.loads, lines) for wording in entry.get("ask", ())]

    assert sorted(set(wordings)) == sorted(wordings)


@pytest.mark.parametrize("path", [GGUF, SAFETENSORS / "model.safetensors"], ids=lambda path: path.name)
def test_weights_take_one_to_three_megabytes(path: Path) -> None:
    assert MEBIBYTE < path.stat().st_size < 3 * MEBIBYTE


def test_gguf_is_a_little_endian_file_of_version_three() -> None:
    assert struct.pack("<4sI", b"GGUF", 3) == GGUF.read_bytes()[:8]


def test_both_variants_carry_the_same_chat_template() -> None:
    template = read_json(SAFETENSORS / "tokenizer_config.json")["chat_template"].encode()
    key = b"tokenizer.chat_template"
    string_type = 8
    field = struct.pack("<Q", len(key)) + key + struct.pack("<IQ", string_type, len(template)) + template

    assert GGUF.read_bytes().count(field) == 1


def test_safetensors_hold_half_precision_tensors_without_gaps() -> None:
    header, payload_size = read_weights()
    tensors = [tensor for name, tensor in header.items() if name != "__metadata__"]

    assert {tensor["dtype"] for tensor in tensors} == {"F16"}
    spans = sorted(tuple(tensor["data_offsets"]) for tensor in tensors)
    assert [0, *(end for _, end in spans)] == [*(start for start, _ in spans), payload_size]
    assert all(
        tensor["data_offsets"][1] - tensor["data_offsets"][0] == 2 * math.prod(tensor["shape"]) for tensor in tensors
    )


def test_configuration_fits_the_weights() -> None:
    header, _ = read_weights()
    config = read_json(SAFETENSORS / "config.json")

    assert config["architectures"] == ["LlamaForCausalLM"]
    assert header["model.embed_tokens.weight"]["shape"] == [config["vocab_size"], config["hidden_size"]]
    assert sum(name.endswith("q_proj.weight") for name in header) == config["num_hidden_layers"]
    assert len(read_json(SAFETENSORS / "tokenizer.json")["model"]["vocab"]) == config["vocab_size"]


def test_package_itself_imports_nothing() -> None:
    """Whoever asks where the files are must not pay for, or need, what trained them."""
    tree = ast.parse((HOME / "__init__.py").read_text(encoding="utf-8"))

    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
