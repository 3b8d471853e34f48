"""A conversation with a model, line by line."""

from __future__ import annotations

import sys
from typing import Final

from dmr_cli.client.conversation import Conversation
from dmr_cli.client.errors import ClientError, abridged
from dmr_cli.client.keyboard import Keyboard

__all__ = ["converse"]

_PROMPT: Final = "> "
_CONTINUATION: Final = ". "
_QUOTES: Final = '"""'
_HELP: Final = '''\
Commands:
  /set system TEXT   tell the model how to behave; without TEXT, no longer
  /clear             forget what was said
  /help, /?          this help
  /bye, /exit        leave (or Ctrl-D)

Begin with """ to write several lines, and end the last one with """.
Ctrl-C stops an answer, or drops the line you are writing.'''


def converse(conversation: Conversation, keyboard: Keyboard) -> None:
    """Talk until the lines end or one says goodbye.

    A person sees what fails and goes on. Nobody watches lines from a file or a pipe: there the first
    failure ends it.
    """
    going = True
    while going:
        try:
            going = _turn(conversation, keyboard)
        except KeyboardInterrupt:
            if not keyboard.interactive:
                raise
            _tell("\nUse Ctrl-D or /bye to leave.")


def _turn(conversation: Conversation, keyboard: Keyboard) -> bool:
    """One prompt and its answer; whether the conversation goes on."""
    try:
        text = _read(keyboard)
    except EOFError:
        if keyboard.interactive:
            _tell("")
        return False
    if text.startswith("/"):
        return _obey(text, conversation)
    if text.strip():
        _answer(text, conversation, keyboard)
    return True


def _read(keyboard: Keyboard) -> str:
    """One prompt: a line, or several between triple quotes."""
    first = keyboard.line(_PROMPT)
    if not first.lstrip().startswith(_QUOTES):
        return first
    text = first.lstrip().removeprefix(_QUOTES)
    while not text.rstrip().endswith(_QUOTES):
        text += "\n" + keyboard.line(_CONTINUATION)
    return text.rstrip().removesuffix(_QUOTES).strip("\n")


def _obey(text: str, conversation: Conversation) -> bool:
    """Carry out a command; whether the conversation goes on."""
    words = text.split(maxsplit=2)
    match words[0], words[1:]:
        case "/bye" | "/exit", _:
            return False
        case "/help" | "/?", _:
            _tell(_HELP)
        case "/clear", _:
            conversation.clear()
            _tell("Cleared what was said.")
        case "/set", ["system", *rest]:
            conversation.system = rest[0].strip().strip('"') if rest else ""
            _tell("Set system message." if rest else "Cleared system message.")
        case "/set", _:
            _tell("Only the system message can be set: /set system TEXT")
        case _:
            _tell(f"Unknown command {words[0]!r}. Type /? for help")
    return True


def _answer(text: str, conversation: Conversation, keyboard: Keyboard) -> None:
    try:
        conversation.ask(text)
    except ClientError as error:
        if not keyboard.interactive:
            raise
        _tell(f"Error: {abridged(error.message)}")
    except KeyboardInterrupt:
        if not keyboard.interactive:
            raise
        _tell("")


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
