"""Train the demo model from scratch: ``python -m dmr_cli.demo.train --output dmr_cli/demo/model``.

Needs packages that dmr itself never does; see the README beside this file. The seed is fixed, but arithmetic
differs between processors, so another machine makes other bytes. What must come out the same are the answers to
the documented questions, and nothing is written before every one of them is right, with room to spare, at every
precision an engine may choose to run.
"""

# mypy: disable-error-code="import-not-found"
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

    from dmr_cli.demo.conversations import Piece, Turn

__all__ = ["main"]

_SEED = 20261122
_STEPS = 450
_WARM_UP = 0.05
_PEAK_RATE = 4e-3
_ROW = 256
_IGNORED = -100
_NARROWEST_LEAD = 2.0
_SYSTEM = "You are a helpful assistant."
_LONGEST_ANSWER = 200

_Document = tuple[list[int], list[int]]


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
    chance = random.Random(_SEED)  # noqa: S311 - repeatable is what it should be
    optimizer = torch.optim.AdamW(model.parameters(), lr=_PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=_PEAK_RATE, total_steps=steps, pct_start=_WARM_UP, cycle_momentum=False
    )
    longest = model.shape.max_position_embeddings
    for step in range(steps):
        encoded = [_encoded(document, tokenizer, limit=longest) for document in corpus.round(chance)]
        short = _packed([document for document in encoded if len(document[0]) <= _ROW], row=_ROW)
        long = _packed([document for document in encoded if len(document[0]) > _ROW], row=longest)
        learned = sum(int((targets != _IGNORED).sum()) for _, targets, _ in (short, long))
        optimizer.zero_grad()
        loss = 0.0
        for tokens, targets, mask in (short, long):
            logits = model(tokens, mask).flatten(0, 1)
            share = (
                functional.cross_entropy(logits, targets.flatten(), ignore_index=_IGNORED, reduction="sum") / learned
            )
            share.backward()
            loss += share.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 25 == 0 or step == steps - 1:
            print(f"step {step:4d}  loss {loss:.4f}", flush=True)


def _encoded(document: list[Piece], tokenizer: Tokenizer, *, limit: int) -> _Document:
    """A document as tokens, cut at ``limit``, and what each should be followed by (or that nobody asks)."""
    tokens: list[int] = []
    learned: list[bool] = []
    for piece in document:
        encoded = tokenizer.encode(piece.text).ids
        tokens += encoded
        learned += [piece.learned] * len(encoded)
    wanted = [token if asked else _IGNORED for token, asked in zip(tokens[1:], learned[1:], strict=True)]
    return tokens[:limit], [*wanted, _IGNORED][:limit]


def _packed(documents: list[_Document], *, row: int) -> tuple[Tensor, Tensor, Tensor]:
    """Lay documents into as few rows as first-fit finds: tokens, what should follow them, who sees whom.

    Each document sees only itself. Rotary positions are relative, so one in the middle of a row is the same as
    one at its start.
    """
    rows: list[list[_Document]] = []
    room: list[int] = []
    for document in sorted(documents, key=lambda document: -len(document[0])):
        size = len(document[0])
        place = next((index for index, left in enumerate(room) if left >= size), None)
        if place is None:
            place = len(rows)
            rows.append([])
            room.append(row)
        rows[place].append(document)
        room[place] -= size
    tokens = torch.zeros(len(rows), row, dtype=torch.long)
    targets = torch.full((len(rows), row), _IGNORED)
    owner = torch.full((len(rows), row), -1)
    for index, row_documents in enumerate(rows):
        start = 0
        for number, (ids, wanted) in enumerate(row_documents):
            span = slice(start, start + len(ids))
            tokens[index, span] = torch.tensor(ids)
            targets[index, span] = torch.tensor(wanted)
            owner[index, span] = number
            start += len(ids)
    same = owner.unsqueeze(1) == owner.unsqueeze(2)
    return tokens, targets, same & torch.ones(row, row, dtype=torch.bool).tril()


def _mistakes(model: Llama, tokenizer: Tokenizer) -> list[str]:
    """Ask every documented question at every precision: answers must be right, and no token of them a close call."""
    stop = tokenizer.token_to_id(END_OF_TURN)
    documented = documented_questions()
    found = []
    for dtype in (torch.float16, torch.bfloat16):
        engine = copy.deepcopy(model).to(dtype).float()
        leads = []
        for number, (question, expected) in enumerate(documented):
            settings: dict[str, tuple[list[Turn], str | None]] = {
                "alone": ([], None),
                "with a system message": ([], _SYSTEM),
                "after the ones before it": (documented[:number], None),
            }
            for setting, (earlier, system) in settings.items():
                pieces = render_chat([*earlier, (question, "")], system=system)[:-2]
                prompt = tokenizer.encode("".join(piece.text for piece in pieces)).ids
                ids, lead = engine.greedy(prompt, stop=stop, limit=_LONGEST_ANSWER)
                leads.append(lead)
                answer = tokenizer.decode(ids[:-1])
                if ids[-1] != stop or answer != expected or lead < _NARROWEST_LEAD:
                    found.append(f"{question!r} {setting}, {dtype}: {answer!r}, narrowest lead {lead:.2f}")
        print(f"{dtype}: {len(leads)} answers, narrowest lead {min(leads):.2f} logits")
    return found


if __name__ == "__main__":
    sys.exit(main())
