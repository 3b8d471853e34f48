"""Train the demo model from scratch: ``python -m dmr_cli.demo.train --output dmr_cli/demo/model``.

Needs packages that dmr itself never does; see the README beside this file. The seed is fixed, but arithmetic
differs between processors, so another machine makes other bytes. What must come out the same are the answers to
the documented questions, and nothing is written before every one of them is right, with room to spare, at every
precision an engine may choose to run.
"""

# mypy: disable-error-code="import-not-found, no-any-return, no-untyped-call, untyped-decorator"
# (torch is not installed where the types are checked)

from __future__ import annotations

import argparse
import copy
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from dmr_cli.demo.conversations import END_OF_TURN, Corpus, documented_questions, read_corpus, render_chat
from dmr_cli.demo.gguf_file import write_gguf
from dmr_cli.demo.llama import Llama, Shape
from dmr_cli.demo.safetensors_directory import write_safetensors_directory
from dmr_cli.demo.tokenizer import train_tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tokenizers import Tokenizer
    from torch import Tensor

    from dmr_cli.demo.conversations import Piece

__all__ = ["main"]

_SEED = 20261122
_STEPS = 600
_WARM_UP = 0.05
_PEAK_RATE = 4e-3
_ROW = 512
_IGNORED = -100
_NARROWEST_LEAD = 3.0
_SYSTEMS = (None, "You are a helpful assistant.")
_LONGEST_ANSWER = 200


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, check, write; the exit status says whether the answers were right."""
    parser = argparse.ArgumentParser(description="Train the demo model from scratch.")
    parser.add_argument("--output", type=Path, required=True, help="directory to write demo.gguf and safetensors/ to")
    parser.add_argument("--steps", type=int, default=_STEPS)
    options = parser.parse_args(arguments)

    started = time.monotonic()
    torch.manual_seed(_SEED)
    corpus = read_corpus()
    tokenizer = train_tokenizer(corpus.texts())
    model = Llama(Shape(vocab_size=tokenizer.get_vocab_size()))
    print(f"{sum(parameter.numel() for parameter in model.parameters())} parameters")
    _train(model, tokenizer, corpus, steps=options.steps)

    model.half().float()  # from here on the numbers are the ones that will be written
    mistakes = _mistakes(model, tokenizer)
    for mistake in mistakes:
        print(mistake, file=sys.stderr)
    if mistakes:
        return 1
    options.output.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    write_gguf(options.output / "demo.gguf", state, model.shape, tokenizer)
    write_safetensors_directory(options.output / "safetensors", state, model.shape, tokenizer)
    print(f"written to {options.output} after {time.monotonic() - started:.0f} s")
    return 0


def _train(model: Llama, tokenizer: Tokenizer, corpus: Corpus, *, steps: int) -> None:
    """AdamW on whole rounds of the corpus, each in fresh wordings and settings."""
    chance = random.Random(_SEED)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=_PEAK_RATE, total_steps=steps, pct_start=_WARM_UP, cycle_momentum=False
    )
    for step in range(steps):
        encoded = [_encoded(document, tokenizer) for document in corpus.round(chance)]
        tokens, targets, mask = _packed([document for document in encoded if len(document[0]) <= _ROW])
        logits = model(tokens, mask)
        loss = functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=_IGNORED)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 25 == 0 or step == steps - 1:
            print(f"step {step:4d}  rows {len(tokens)}  loss {loss.item():.4f}", flush=True)


def _encoded(document: list[Piece], tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """A document as tokens, and what each of them should be followed by (or that nobody asks)."""
    tokens: list[int] = []
    learned: list[bool] = []
    for piece in document:
        encoded = tokenizer.encode(piece.text).ids
        tokens += encoded
        learned += [piece.learned] * len(encoded)
    following = zip(tokens[1:], learned[1:], strict=True)
    return tokens, [*(token if asked else _IGNORED for token, asked in following), _IGNORED]


def _packed(documents: list[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor, Tensor]:
    """Lay documents into as few rows as first-fit finds, each seeing only itself.

    Rotary positions are relative, so a document in the middle of a row is the same as one at its start.
    """
    rows: list[list[tuple[list[int], list[int]]]] = []
    room: list[int] = []
    for document in sorted(documents, key=lambda document: -len(document[0])):
        size = len(document[0])
        row = next((index for index, left in enumerate(room) if left >= size), None)
        if row is None:
            rows.append([])
            room.append(_ROW)
            row = len(rows) - 1
        rows[row].append(document)
        room[row] -= size
    tokens = torch.zeros(len(rows), _ROW, dtype=torch.long)
    targets = torch.full((len(rows), _ROW), _IGNORED)
    owner = torch.full((len(rows), _ROW), -1)
    for index, row_documents in enumerate(rows):
        start = 0
        for number, (ids, wanted) in enumerate(row_documents):
            span = slice(start, start + len(ids))
            tokens[index, span] = torch.tensor(ids)
            targets[index, span] = torch.tensor(wanted)
            owner[index, span] = number
            start += len(ids)
    same = owner.unsqueeze(1) == owner.unsqueeze(2)
    return tokens, targets, same & torch.ones(_ROW, _ROW, dtype=torch.bool).tril()


def _mistakes(model: Llama, tokenizer: Tokenizer) -> list[str]:
    """Ask every documented question at every precision; an answer must be right and no token a close call."""
    stop = tokenizer.token_to_id(END_OF_TURN)
    found = []
    for dtype in (torch.float16, torch.bfloat16):
        engine = copy.deepcopy(model).to(dtype).float()
        for question, expected in documented_questions():
            for system in _SYSTEMS:
                prompt = "".join(piece.text for piece in render_chat([(question, "")], system=system)[:-2])
                ids, lead = engine.greedy(tokenizer.encode(prompt).ids, stop=stop, limit=_LONGEST_ANSWER)
                answer = tokenizer.decode(ids[:-1])
                print(f"{dtype}  lead {lead:5.2f}  {question!r} -> {answer!r}")
                if ids[-1] != stop or answer != expected or lead < _NARROWEST_LEAD:
                    found.append(f"{question!r} at {dtype}, system {system!r}: {answer!r}, narrowest lead {lead:.2f}")
    return found


if __name__ == "__main__":
    sys.exit(main())
