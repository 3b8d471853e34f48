"""Write the trained weights as one GGUF file that llama.cpp runs as it is."""

# mypy: disable-error-code="import-not-found"
# (gguf and numpy are not installed where the types are checked)

from __future__ import annotations

from typing import TYPE_CHECKING

import gguf
import numpy as np

from dmr_cli.demo.conversations import CHAT_TEMPLATE, END_OF_TEXT, END_OF_TURN
from dmr_cli.demo.tokenizer import CONTROL_TOKENS, merges, vocabulary

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from tokenizers import Tokenizer

    from dmr_cli.demo.llama import Shape

__all__ = ["write_gguf"]

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def write_gguf(path: Path, state: dict[str, NDArray[np.float32]], shape: Shape, tokenizer: Tokenizer) -> None:
    """Write ``state`` to ``path``: matrices in half precision, norms in single, as llama.cpp expects them."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("dmr demo")
    writer.add_description("A tiny chat model trained from scratch, to try dmr without downloading anything")
    writer.add_license("Apache-2.0")
    writer.add_languages(["en"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_context_length(shape.max_position_embeddings)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_block_count(shape.num_hidden_layers)
    writer.add_head_count(shape.num_attention_heads)
    writer.add_head_count_kv(shape.num_key_value_heads)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.rms_norm_eps)
    writer.add_vocab_size(shape.vocab_size)
    _add_tokenizer(writer, tokenizer)
    for name, tensor in state.items():
        writer.add_tensor(_renamed(name), _laid_out(name, tensor, shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    tokens = vocabulary(tokenizer)
    control, normal = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([control if token in CONTROL_TOKENS else normal for token in tokens])
    writer.add_token_merges(merges(tokenizer))
    writer.add_bos_token_id(tokenizer.token_to_id(END_OF_TEXT))
    writer.add_eos_token_id(tokenizer.token_to_id(END_OF_TURN))
    writer.add_pad_token_id(tokenizer.token_to_id(END_OF_TEXT))
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _renamed(name: str) -> str:
    parts = name.split(".")
    if parts[1] == "layers":
        return f"blk.{parts[2]}.{_NAMES['.'.join(parts[3:-1])]}.weight"
    return f"{_NAMES['.'.join(parts[:-1])]}.weight"


def _laid_out(name: str, tensor: NDArray[np.float32], shape: Shape) -> NDArray[np.float32] | NDArray[np.float16]:
    if tensor.ndim == 1:
        return tensor
    if ".q_proj." in name:
        tensor = _interleaved(tensor, shape.num_attention_heads)
    elif ".k_proj." in name:
        tensor = _interleaved(tensor, shape.num_key_value_heads)
    return tensor.astype(np.float16)


def _interleaved(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Reorder a head's rows: transformers rotates its halves against each other, llama.cpp its neighbours."""
    return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
