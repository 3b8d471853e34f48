"""What the demo model learns: the written conversations, and the small variations of them a person may type.

The corpus has three kinds of entry, one JSON object a line: ``ask`` (several wordings of one question) with its
``answer``, ``turns`` (a conversation whose later questions need the earlier ones), and ``prompt`` with its
``continuation`` (bare text, for the completions endpoint). Sums are the one thing not written out by hand.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

__all__ = [
    "CHAT_TEMPLATE",
    "END_OF_TEXT",
    "END_OF_TURN",
    "START_OF_TURN",
    "Corpus",
    "Piece",
    "Turn",
    "documented_questions",
    "read_corpus",
    "render_chat",
]

START_OF_TURN = "<|im_start|>"
END_OF_TURN = "<|im_end|>"
END_OF_TEXT = "<|endoftext|>"

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + (message['content'] | trim) + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
"""ChatML. Content is trimmed, so that a stray newline after a question cannot change its answer."""

_HOME = Path(__file__).parent
_DECLINED = "I am only a tiny demo model, so I do not know that."
_LARGEST_ADDEND = 10
_SUMS_PER_ROUND = 24
_LONG_CHATS_PER_ROUND = 2
_WORDINGS_PER_TURN = 8
_LONG_CHAT_TURNS = 36
_SUM_WORDINGS = (
    "What is {a} + {b}?",
    "What is {a} + {b}?",
    "What is {a}+{b}?",
    "What's {a} + {b}?",
    "What is {a} plus {b}?",
    "How much is {a} + {b}?",
    "How much is {a} plus {b}?",
    "Add {a} and {b}.",
    "And {a} + {b}?",
    "{a} + {b}",
    "{a}+{b}",
    "{a} + {b} =",
)
_OPENINGS = ("Hello! ", "Hi, ", "Hey, ", "Please tell me: ")
_USUAL_SYSTEM = "You are a helpful assistant."
_OTHER_SYSTEMS = (
    "You are a helpful assistant",
    "You are a friendly chat bot.",
    "You are an AI assistant. Answer the questions of the user.",
    "Be brief.",
    "Answer in one sentence.",
    "Be helpful and polite. Do not make things up.",
    "You are dmr, a tiny model.",
    "Talk like a pirate.",
)
_HISTORY_LENGTHS = (0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 4)

Turn = tuple[str, str]
"""A question and its answer."""


@dataclass(frozen=True)
class Piece:
    """A stretch of text, and whether the model is asked to produce it or merely sees it."""

    text: str
    learned: bool


@dataclass(frozen=True)
class Corpus:
    """Everything written for the model, sorted by kind."""

    questions: tuple[tuple[tuple[str, ...], str], ...]
    conversations: tuple[tuple[Turn, ...], ...]
    completions: tuple[Turn, ...]

    def texts(self) -> list[str]:
        """Every string once, for the tokenizer to learn its merges from."""
        asked = [text for wordings, answer in self.questions for text in (*wordings, answer)]
        told = [text for turns in self.conversations for turn in turns for text in turn]
        bare = [prompt + continuation for prompt, continuation in self.completions]
        return [*asked, *told, *bare, *_SUM_WORDINGS, *_OPENINGS, _USUAL_SYSTEM, *_OTHER_SYSTEMS]

    def round(self, random: Random) -> list[list[Piece]]:
        """One training round: every question in one wording, every conversation, some sums, in random settings."""
        documents = [
            self._in_setting([(_reworded(random.choice(wordings), random), answer)], random)
            for wordings, answer in self.questions
        ]
        documents += [
            self._in_setting([(_reworded(random.choice(wordings), random), answer)], random)
            for wordings, answer in self.questions
            for _ in range(len(wordings) // _WORDINGS_PER_TURN)
        ]
        documents += [self._in_setting([_sum(random)], random) for _ in range(_SUMS_PER_ROUND)]
        documents += [
            self._in_setting([(_reworded(question, random), answer) for question, answer in turns], random)
            for turns in self.conversations
        ]
        documents += [
            render_chat([self._unrelated_turn(random) for _ in range(_LONG_CHAT_TURNS)])
            for _ in range(_LONG_CHATS_PER_ROUND)
        ]
        documents += [
            [Piece(prompt, learned=False), Piece(continuation + END_OF_TEXT, learned=True)]
            for prompt, continuation in self.completions
        ]
        return documents

    def _in_setting(self, turns: list[Turn], random: Random) -> list[Piece]:
        """Put a conversation behind unrelated earlier turns and a system message, or behind neither."""
        history = [self._unrelated_turn(random) for _ in range(random.choice(_HISTORY_LENGTHS))]
        chance = random.random()
        system = _USUAL_SYSTEM if chance < 0.3 else random.choice(_OTHER_SYSTEMS) if chance < 0.45 else None
        return render_chat([*history, *turns], system=system)

    def _unrelated_turn(self, random: Random) -> Turn:
        if random.random() < 0.15:
            return _sum(random)
        wordings, answer = random.choice(self.questions)
        return _reworded(random.choice(wordings), random), answer


def read_corpus() -> Corpus:
    """Read the conversations that lie beside this module."""
    lines = (_HOME / "corpus" / "conversations.jsonl").read_text(encoding="utf-8").splitlines()
    entries = [json.loads(line) for line in lines]
    return Corpus(
        questions=tuple((tuple(entry["ask"]), entry["answer"]) for entry in entries if "ask" in entry),
        conversations=tuple(
            tuple((question, answer) for question, answer in entry["turns"]) for entry in entries if "turns" in entry
        ),
        completions=tuple((entry["prompt"], entry["continuation"]) for entry in entries if "prompt" in entry),
    )


def documented_questions() -> list[Turn]:
    """The questions the manual prints, with the answers it promises."""
    entries = json.loads((_HOME / "questions.json").read_text(encoding="utf-8"))
    return [(entry["question"], entry["answer"]) for entry in entries]


def render_chat(turns: list[Turn], *, system: str | None = None) -> list[Piece]:
    """Lay a conversation out as :data:`CHAT_TEMPLATE` does; only what the assistant says is learned."""
    pieces = [] if system is None else [Piece(f"{START_OF_TURN}system\n{system}{END_OF_TURN}\n", learned=False)]
    for question, answer in turns:
        asked = f"{START_OF_TURN}user\n{question}{END_OF_TURN}\n{START_OF_TURN}assistant\n"
        pieces += [
            Piece(asked, learned=False),
            Piece(answer + END_OF_TURN, learned=True),
            Piece("\n", learned=False),
        ]
    return pieces


def _reworded(question: str, random: Random) -> str:
    """Now and then type the question another way: politely, without capitals, in capitals, without a full stop."""
    if question.endswith("?") and random.random() < 0.06:
        question = random.choice(_OPENINGS) + question
    if random.random() < 0.2:
        question = question.lower()
    elif random.random() < 0.08:
        question = question.upper()
    if random.random() < 0.15:
        question = question.rstrip(".!?") or question
    return question


def _sum(random: Random) -> Turn:
    """A sum the model can know, or now and then one that is too large for it."""
    a, b = random.randint(0, _LARGEST_ADDEND), random.randint(0, _LARGEST_ADDEND)
    answer = f"{a} + {b} = {a + b}."
    if random.random() < 0.15:
        a, b = random.sample((a, random.randint(_LARGEST_ADDEND + 1, 999)), 2)
        answer = _DECLINED
    return _reworded(random.choice(_SUM_WORDINGS).format(a=a, b=b), random), answer
