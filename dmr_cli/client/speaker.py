"""Prints an answer while it comes: the answer on stdout, what the model thinks on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Final, TextIO

from dmr_cli.client.chat import Piece
from dmr_cli.client.terminal import ControlFilter, is_terminal

__all__ = ["Speaker"]

_DIM: Final = "\x1b[2m"
_PLAIN: Final = "\x1b[0m"


class Speaker:
    """Says answers, one after another."""

    def say(self, pieces: Iterable[Piece]) -> str:
        """Print the pieces as they come and a line end after the last; the answer, without the thoughts.

        What was printed stays when the pieces end in an error.
        """
        answer: list[str] = []
        voices = {False: _Voice(sys.stdout, dim=False), True: _Voice(sys.stderr, dim=True)}
        thinking = False
        try:
            for piece in pieces:
                if thinking and not piece.reasoning:
                    voices[True].end()
                thinking = piece.reasoning
                voices[piece.reasoning].say(piece.text)
                if not piece.reasoning:
                    answer.append(piece.text)
        except BaseException:
            voices[True].end()
            voices[False].end()
            raise
        voices[True].end()
        voices[False].end(always=True)
        return "".join(answer)


class _Voice:
    """One stream; knows whether its last line is still open."""

    def __init__(self, stream: TextIO, *, dim: bool) -> None:
        self._stream = stream
        self._filter = ControlFilter() if is_terminal(stream) else None
        self._dim = dim and self._filter is not None
        self._open = False

    def say(self, text: str) -> None:
        if self._filter:
            text = self._filter.feed(text)
        self._open = self._open or bool(text)  # first: Ctrl-C may come between any two lines
        self._stream.write(f"{_DIM}{text}{_PLAIN}" if self._dim else text)
        self._stream.flush()

    def end(self, *, always: bool = False) -> None:
        if self._open or always:
            self._stream.write("\n")
            self._stream.flush()
        self._open = False
