"""Write the trained weights as a directory that transformers and vLLM load as it is."""

# mypy: disable-error-code="import-not-found"
# (numpy and tokenizers are not installed where the types are checked)

from __future__ import annotations

import json
import struct
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from dmr_cli.demo.conversations import CHAT_TEMPLATE, END_OF_TEXT, END_OF_TURN
from dmr_cli.demo.tokenizer import CONTROL_TOKENS

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from tokenizers import Tokenizer

    from dmr_cli.demo.llama import Shape

__all__ = ["write_safetensors_directory"]

_ALIGNMENT = 8


def write_safetensors_directory(
    directory: Path, state: dict[str, NDArray[np.float32]], shape: Shape, tokenizer: Tokenizer
) -> None:
    """Write ``state`` in half precision, beside the configuration and the tokenizer that go with it."""
    directory.mkdir(parents=True, exist_ok=True)
    start, stop = tokenizer.token_to_id(END_OF_TEXT), tokenizer.token_to_id(END_OF_TURN)
    ends = {"bos_token_id": start, "eos_token_id": stop, "pad_token_id": start}
    _write_json(
        directory / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            **asdict(shape),
            "head_dim": shape.head_dim,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": True,
            "torch_dtype": "float16",
            **ends,
        },
    )
    _write_json(directory / "generation_config.json", {**ends, "eos_token_id": [stop, start], "do_sample": False})
    _write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": END_OF_TEXT,
            "eos_token": END_OF_TURN,
            "pad_token": END_OF_TEXT,
            "add_bos_token": False,
            "additional_special_tokens": list(CONTROL_TOKENS[1:]),
            "clean_up_tokenization_spaces": False,
            "model_max_length": shape.max_position_embeddings,
            "chat_template": CHAT_TEMPLATE,
        },
    )
    _write_json(
        directory / "special_tokens_map.json",
        {"bos_token": END_OF_TEXT, "eos_token": END_OF_TURN, "pad_token": END_OF_TEXT},
    )
    tokenizer.save(str(directory / "tokenizer.json"))
    _write_weights(directory / "model.safetensors", state)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _write_weights(path: Path, state: dict[str, NDArray[np.float32]]) -> None:
    """The format is a length, a JSON header and the bytes: not worth a dependency."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    payload = b""
    for name, tensor in state.items():
        data = tensor.astype("<f2").tobytes()
        header[name] = {
            "dtype": "F16",
            "shape": list(tensor.shape),
            "data_offsets": [len(payload), len(payload) + len(data)],
        }
        payload += data
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % _ALIGNMENT)
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + payload)
