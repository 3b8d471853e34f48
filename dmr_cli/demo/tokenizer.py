"""The demo model's tokenizer: byte-level BPE, small enough that its embedding table stays a tenth of the weights.

It is GPT-2's scheme to the letter, pattern included, because that is the one scheme that transformers and
llama.cpp split alike without either needing a rule of its own.
"""

# mypy: disable-error-code="import-not-found, no-any-return"
# (tokenizers is not installed where the types are checked)

from __future__ import annotations

import json
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from dmr_cli.demo.conversations import END_OF_TEXT, END_OF_TURN, START_OF_TURN

__all__ = ["CONTROL_TOKENS", "VOCABULARY_SIZE", "merges", "train_tokenizer", "vocabulary"]

CONTROL_TOKENS = (END_OF_TEXT, START_OF_TURN, END_OF_TURN)
VOCABULARY_SIZE = 512


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Learn merges from ``texts``; any byte string can be encoded, whatever it was trained on."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def vocabulary(tokenizer: Tokenizer) -> list[str]:
    """Every token in the order of its number."""
    numbers: dict[str, int] = tokenizer.get_vocab(with_added_tokens=True)
    return sorted(numbers, key=lambda token: numbers[token])


def merges(tokenizer: Tokenizer) -> list[str]:
    """The merges as GGUF writes them: the two parts with a space between."""
    state: dict[str, Any] = json.loads(tokenizer.to_str())
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in state["model"]["merges"]]
