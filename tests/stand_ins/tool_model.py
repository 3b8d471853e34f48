"""A model whose every answer is one call of a tool: real weights for a real engine, and two transitions in them.

Attention and MLP are zero, so that what comes next depends on the last token alone: after the newline that ends a prompt comes
a token whose text is the whole call, and after that the end. It has the demo model's tokenizer.
"""

from __future__ import annotations

import json
import struct
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

__all__ = ["ARGUMENTS", "TOOL", "write_tool_model"]

TOOL: Final = "choose"
ARGUMENTS: Final = {"city": "Bonn"}

_HIDDEN, _HEADS, _KEYS, _INNER = 128, 4, 2, 128
_NEWLINE, _END, _CALL = 201, 2, 512
_CALL_TEXT: Final = f"<tool_call>\n{json.dumps({'name': TOOL, 'arguments': ARGUMENTS})}\n</tool_call>"
_STEEP: Final = 4.0  # times the root of the width: far above every other logit, which is 0
_TEMPLATE: Final = (
    "{%- for message in messages -%}<|im_start|>{{ message['role'] }}\n{{ message['content'] or '' }}<|im_end|>\n"
    "{% endfor -%}{%- if add_generation_prompt -%}<|im_start|>assistant\n{% endif -%}"
)


def write_tool_model(directory: Path) -> None:
    """Write the model into ``directory``, as safetensors."""
    demo = files("dmr_cli.demo") / "model" / "safetensors"
    directory.mkdir(parents=True)
    config = json.loads((demo / "config.json").read_text())
    changes = {
        "vocab_size": _CALL + 1,
        "num_hidden_layers": 1,
        "intermediate_size": _INNER,
        "tie_word_embeddings": False,
    }
    _write(directory / "config.json", {**config, **changes})
    tokenizer = json.loads((demo / "tokenizer.json").read_text())
    traits = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    tokenizer["added_tokens"].append({"id": _CALL, "content": _CALL_TEXT, **traits})
    _write(directory / "tokenizer.json", tokenizer)
    settings = json.loads((demo / "tokenizer_config.json").read_text())
    _write(directory / "tokenizer_config.json", {**settings, "chat_template": _TEMPLATE})
    for name in ("special_tokens_map.json", "generation_config.json"):
        (directory / name).write_bytes((demo / name).read_bytes())
    _write_weights(directory / "model.safetensors")


def _write(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document))


def _write_weights(path: Path) -> None:
    embedding = [[0.0, 0.0, 1.0]] * (_CALL + 1)
    embedding[_NEWLINE], embedding[_CALL] = [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]
    head = [[0.0, 0.0, 0.0]] * (_CALL + 1)
    head[_CALL], head[_END] = [_STEEP, 0.0, 0.0], [0.0, _STEEP, _STEEP]
    layer = "model.layers.0."
    tensors = {
        "model.embed_tokens.weight": _rows(embedding),
        "lm_head.weight": _rows(head),
        "model.norm.weight": _constant(1.0, _HIDDEN),
        f"{layer}input_layernorm.weight": _constant(1.0, _HIDDEN),
        f"{layer}post_attention_layernorm.weight": _constant(1.0, _HIDDEN),
    }
    width = _HIDDEN // _HEADS
    shapes = {
        "self_attn.q_proj": (_HIDDEN, _HIDDEN),
        "self_attn.k_proj": (_KEYS * width, _HIDDEN),
        "self_attn.v_proj": (_KEYS * width, _HIDDEN),
        "self_attn.o_proj": (_HIDDEN, _HIDDEN),
        "mlp.gate_proj": (_INNER, _HIDDEN),
        "mlp.up_proj": (_INNER, _HIDDEN),
        "mlp.down_proj": (_HIDDEN, _INNER),
    }
    for name, shape in shapes.items():
        tensors[f"{layer}{name}.weight"] = _constant(0.0, *shape)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for name, (tensor_shape, content) in tensors.items():
        header[name] = {"dtype": "F16", "shape": tensor_shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def _constant(value: float, *shape: int) -> tuple[list[int], bytes]:
    count = 1
    for length in shape:
        count *= length
    return list(shape), struct.pack("<e", value) * count


def _rows(beginnings: list[list[float]]) -> tuple[list[int], bytes]:
    """A matrix whose rows begin with these, and are zero from there."""
    rest = _HIDDEN - 3
    return [len(beginnings), _HIDDEN], b"".join(struct.pack("<3e", *row) + bytes(2 * rest) for row in beginnings)
