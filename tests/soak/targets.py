"""What is asked during a soak: models on engines, and questions whose answers are known."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any, Final

import attrs

__all__ = ["FAILING", "REAL", "REAL_MODELS", "STUBBORN", "TARGETS", "WILLING", "Target", "chat_template", "questions"]

REAL: Final = "llama.cpp"
WILLING: Final = "standin"
STUBBORN: Final = "stubborn"
FAILING: Final = "failing"
REAL_MODELS: Final = ("soak/one", "soak/two", "soak/three")
DEMO: Final = Path(str(resources.files("dmr_cli.demo")))
_EMBEDDED: Final = ("the capital of France", "a very small file")


@attrs.frozen
class Target:
    """One model on one engine. ``embeds`` are texts to embed with it; a ``failing`` one never comes up."""

    backend: str
    model: str
    embeds: tuple[str, ...] = ()
    failing: bool = False

    @property
    def name(self) -> str:
        """For people and for tables."""
        return f"{self.backend}/{self.model}"

    def path(self, route: str) -> str:
        """The path of one of OpenAI's routes on this engine."""
        return f"/engines/{self.backend}/v1/{route}"


TARGETS: Final = (
    Target(REAL, "soak/one", embeds=_EMBEDDED),
    Target(REAL, "soak/two"),
    Target(REAL, "soak/three"),
    Target(WILLING, "soak/one", embeds=_EMBEDDED),
    Target(WILLING, "soak/two"),
    Target(STUBBORN, "soak/three"),
    Target(FAILING, "soak/one", failing=True),
)


def questions() -> tuple[tuple[str, str], ...]:
    """What the demo model was trained on: questions, and the one greedy answer to each."""
    entries: list[dict[str, Any]] = json.loads((DEMO / "questions.json").read_text(encoding="utf-8"))
    return tuple((entry["question"], entry["answer"]) for entry in entries)


def chat_template(shift: int) -> str:
    """A template that makes every model of these weights give answers of its own: it asks the question ``shift`` on.

    So an answer that came from the wrong model is a wrong answer, not only one with a wrong name.
    """
    asked = [question for question, _ in questions()]
    other = {question: asked[(place + shift) % len(asked)] for place, question in enumerate(asked)}
    return (
        f"{{%- set other = {json.dumps(other)} -%}}"
        "{%- for message in messages -%}"
        "{{- '<|im_start|>' + message['role'] + '\\n' + other[message['content'] | trim] + '<|im_end|>\\n' -}}"
        "{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
    )
