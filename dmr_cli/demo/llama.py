"""The Llama architecture, as small as it goes: what transformers, vLLM and llama.cpp all know how to run.

Parameter names and tensor layouts are those of ``LlamaForCausalLM`` in transformers, so the state of this module
*is* the checkpoint; rotary positions are applied to the two halves of a head, which is transformers' convention.
"""

# mypy: disable-error-code="import-not-found, misc, no-any-return, untyped-decorator"
# (torch is not installed where the types are checked, so everything that comes from it is Any)

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Llama", "Shape"]


@dataclass(frozen=True)
class Shape:
    """The sizes that make a Llama; the field names are those of a transformers ``config.json``."""

    vocab_size: int
    hidden_size: int = 128
    intermediate_size: int = 352
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    max_position_embeddings: int = 1024
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0

    @property
    def head_dim(self) -> int:
        """How wide one attention head is."""
        return self.hidden_size // self.num_attention_heads


class _Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        key_value_size = shape.num_key_value_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.hidden_size, shape.hidden_size, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, key_value_size, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, key_value_size, bias=False)
        self.o_proj = nn.Linear(shape.hidden_size, shape.hidden_size, bias=False)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        rows, length, _ = hidden.shape
        split = (rows, length, -1, self.shape.head_dim)
        query = _rotate(self.q_proj(hidden).view(split).transpose(1, 2), cos, sin)
        key = _rotate(self.k_proj(hidden).view(split).transpose(1, 2), cos, sin)
        value = self.v_proj(hidden).view(split).transpose(1, 2)
        repeats = self.shape.num_attention_heads // self.shape.num_key_value_heads
        mixed = functional.scaled_dot_product_attention(
            query,
            key.repeat_interleave(repeats, dim=1),
            value.repeat_interleave(repeats, dim=1),
            attn_mask=mask,
        )
        return self.o_proj(mixed.transpose(1, 2).reshape(rows, length, -1))


class _FeedForward(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.up_proj = nn.Linear(shape.hidden_size, shape.intermediate_size, bias=False)
        self.down_proj = nn.Linear(shape.intermediate_size, shape.hidden_size, bias=False)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.down_proj(functional.silu(self.gate_proj(hidden)) * self.up_proj(hidden))


class _Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)
        self.self_attn = _Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)
        self.mlp = _FeedForward(shape)

    def forward(self, hidden: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        hidden = hidden + self.self_attn(self.input_layernorm(hidden), cos, sin, mask)
        return hidden + self.mlp(self.post_attention_layernorm(hidden))


class _Body(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList([_Layer(shape) for _ in range(shape.num_hidden_layers)])
        self.norm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)


class Llama(nn.Module):
    """A decoder whose output layer is its embedding table: at this size a second table would not pay."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = _Body(shape)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.03)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Logits for ``tokens`` (rows x length); ``mask`` (rows x length x length) says who sees whom."""
        cos, sin = _rotation(tokens.shape[1], self.shape)
        hidden = self.model.embed_tokens(tokens)
        for layer in self.model.layers:
            hidden = layer(hidden, cos, sin, mask.unsqueeze(1))
        return functional.linear(self.model.norm(hidden), self.model.embed_tokens.weight)

    @torch.no_grad()
    def greedy(self, tokens: list[int], *, stop: int, limit: int) -> tuple[list[int], float]:
        """The likeliest continuation up to ``stop``, and the narrowest lead any of its tokens had."""
        answer: list[int] = []
        narrowest = float("inf")
        while len(answer) < limit:
            row = torch.tensor([tokens + answer])
            mask = torch.ones(1, row.shape[1], row.shape[1], dtype=torch.bool).tril()
            best = self(row, mask)[0, -1].topk(2)
            narrowest = min(narrowest, float(best.values[0] - best.values[1]))
            answer.append(int(best.indices[0]))
            if answer[-1] == stop:
                break
        return answer, narrowest


def _rotation(length: int, shape: Shape) -> tuple[Tensor, Tensor]:
    frequencies = shape.rope_theta ** (-torch.arange(0, shape.head_dim, 2) / shape.head_dim)
    angles = torch.outer(torch.arange(length).float(), frequencies).repeat(1, 2)
    return angles.cos(), angles.sin()


def _rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat((-second, first), dim=-1) * sin
