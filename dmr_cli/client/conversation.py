"""What has been said so far, and the next answer to it."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from dmr_cli.client import chat
from dmr_cli.client.api import Api
from dmr_cli.client.speaker import Speaker
from dmr_cli.client.terminal import write

__all__ = ["Conversation"]


class Conversation:
    """A system message, the turns, and a model that goes on with them."""

    def __init__(self, api: Api, model: str, *, system: str = "", settings: Mapping[str, float] | None = None) -> None:
        self.model = model
        self.system = system
        self._api = api
        self._settings = dict(settings or {})
        self._turns: list[chat.Message] = []
        self._speaker = Speaker()

    def ask(self, prompt: str) -> None:
        """Print the answer to ``prompt`` and remember both; a turn that fails is forgotten."""
        pieces = chat.stream(self._api, self.model, self._messages(prompt), self._settings, _notice)
        try:
            answer = self._speaker.say(pieces)
        finally:
            pieces.close()
        self._turns += [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]

    def complete(self, prompt: str) -> object:
        """The whole answer to ``prompt`` as the service gives it; printed by nobody, not remembered."""
        return chat.complete(self._api, self.model, self._messages(prompt), self._settings)

    def clear(self) -> None:
        """Forget the turns; the system message stays."""
        self._turns.clear()

    def _messages(self, prompt: str) -> list[chat.Message]:
        system: list[chat.Message] = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *self._turns, {"role": "user", "content": prompt}]


def _notice(text: str) -> None:
    write(text + "\n", sys.stderr)
