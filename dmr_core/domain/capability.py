"""What of a request an engine honours: the fields it reads on each of its paths, and the dialects it speaks."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import attrs

__all__ = ["Capabilities", "Dialect", "TokenCounter"]


class Dialect(StrEnum):
    """The form requests and answers have. What an engine does not speak is translated for it to ``OPENAI``."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    RESPONSES = "responses"
    OLLAMA = "ollama"


class TokenCounter(StrEnum):
    """How an engine tells how many tokens a chat has, without generating any.

    ``TEMPLATE``: ``POST /apply-template`` gives the prompt and ``POST /tokenize`` its tokens (llama.cpp);
    ``TOKENIZE``: ``POST /tokenize`` takes the chat and gives their ``count`` (vLLM).
    """

    TEMPLATE = "template"
    TOKENIZE = "tokenize"


@attrs.frozen(kw_only=True)
class Capabilities:
    """The fields at the top of a body that an engine honours, by the path of its API (``/v1/chat/completions``).

    A field the engine refuses with an error of its own is honoured in this sense: the client hears of it. A path that is
    not listed is one of which nothing is known, so nothing is said about it. ``values`` has, for a path, fields of which
    only some values are honoured: those, as JSON without spaces.
    """

    fields: Mapping[str, frozenset[str]] = attrs.field(factory=dict)
    values: Mapping[str, Mapping[str, frozenset[bytes]]] = attrs.field(factory=dict)
    counter: TokenCounter | None = None

    def honoured(self, path: str) -> frozenset[str] | None:
        """The fields of a path; ``None`` where they are not known."""
        return self.fields.get(path)

    def honoured_values(self, path: str) -> Mapping[str, frozenset[bytes]]:
        """Of the fields of a path, those of which only some values are honoured."""
        return self.values.get(path, {})
