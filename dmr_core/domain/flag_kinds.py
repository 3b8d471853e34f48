"""What the value of an engine's flag may be.

A kind decides by the text alone: no file is opened and nothing is resolved. Only :class:`Text` and :class:`Json` are
prose, which an engine reads as it stands and never opens; no value of another kind may hold a slash or a backslash, so
none can name a file or an address.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Final

import attrs

__all__ = ["Choice", "Integer", "Json", "Kind", "Number", "Pattern", "Several", "Text"]

_INTEGER: Final = re.compile(r"-?[0-9]{1,19}")
_NUMBER: Final = re.compile(r"-?(?:[0-9]{1,40}(?:\.[0-9]{0,40})?|\.[0-9]{1,40})(?:[eE][+-]?[0-9]{1,2})?")
_SINGLE_MAX: Final = 3.4e38  # engines hold these in single precision, and fail to start outside it
_SINGLE_MIN: Final = 1.2e-38
_INT32: Final = 2**31 - 1


class Kind(ABC):
    """The type of a flag's value. ``prose`` says that it is text to be read, ``limit`` its length in UTF-8 bytes."""

    prose: ClassVar[bool] = False
    limit: ClassVar[int] = 1024

    @property
    @abstractmethod
    def expected(self) -> str:
        """What is allowed, to go after "use"."""

    @abstractmethod
    def accepts(self, text: str) -> bool:
        """Whether ``text`` is such a value."""


@attrs.frozen
class Integer(Kind):
    """A decimal integer in a range; a word of ``words`` may stand in for it."""

    low: int = -_INT32 - 1
    high: int = _INT32
    words: tuple[str, ...] = attrs.field(default=(), kw_only=True)

    @property
    def expected(self) -> str:
        """See :class:`Kind`."""
        return _either(f"an integer{_range(self.low, self.high, -_INT32 - 1, _INT32)}", self.words)

    def accepts(self, text: str) -> bool:
        """See :class:`Kind`."""
        return text in self.words or (bool(_INTEGER.fullmatch(text)) and self.low <= int(text) <= self.high)


@attrs.frozen
class Number(Kind):
    """A finite decimal number in a range; ``above`` excludes ``low`` itself."""

    low: float = -_SINGLE_MAX
    high: float = _SINGLE_MAX
    above: bool = attrs.field(default=False, kw_only=True)

    @property
    def expected(self) -> str:
        """See :class:`Kind`."""
        if self.above:
            return f"a number greater than {self.low:g}"
        return f"a number{_range(self.low, self.high, -_SINGLE_MAX, _SINGLE_MAX)}"

    def accepts(self, text: str) -> bool:
        """See :class:`Kind`."""
        if not _NUMBER.fullmatch(text):
            return False
        value = float(text)
        if value and abs(value) < _SINGLE_MIN:
            return False
        return self.low <= value <= self.high and not (self.above and value == self.low)


@attrs.frozen
class Choice(Kind):
    """One of a few words."""

    words: tuple[str, ...]

    @property
    def expected(self) -> str:
        """See :class:`Kind`."""
        return f"one of {', '.join(self.words)}" if len(self.words) > 1 else self.words[0]

    def accepts(self, text: str) -> bool:
        """See :class:`Kind`."""
        return text in self.words


@attrs.frozen
class Pattern(Kind):
    """A short text of a given shape, told to people as ``expected``."""

    shape: str
    told: str

    @property
    def expected(self) -> str:
        """See :class:`Kind`."""
        return self.told

    def accepts(self, text: str) -> bool:
        """See :class:`Kind`."""
        return re.fullmatch(self.shape, text, re.ASCII) is not None


@attrs.frozen
class Several(Kind):
    """One to ``most`` values of another kind, between separators."""

    each: Kind
    separator: str = ","
    most: int = attrs.field(default=16, kw_only=True)

    @property
    def expected(self) -> str:
        """See :class:`Kind`."""
        return f"at most {self.most} values separated by '{self.separator}', each {self.each.expected}"

    def accepts(self, text: str) -> bool:
        """See :class:`Kind`."""
        parts = text.split(self.separator)
        return len(parts) <= self.most and all(self.each.accepts(part) for part in parts)


@attrs.frozen
class Text(Kind):
    """Text of the user's own, such as a grammar or a template."""

    told: str = "text"

    prose: ClassVar[bool] = True
    limit: ClassVar[int] = 64 * 1024  # Linux takes 128 KiB in one word of an argument vector

    @property
    def expected(self) -> str:
        """See :class:`Kind`."""
        return f"{self.told} of at most {self.limit // 1024} KiB"

    def accepts(self, text: str) -> bool:
        """See :class:`Kind`."""
        return bool(text)


@attrs.frozen
class Json(Kind):
    """A JSON document: any, or an object. ``schema`` refuses a ``$ref`` that leaves it, which an engine might fetch."""

    schema: bool = attrs.field(default=False, kw_only=True)

    prose: ClassVar[bool] = True
    limit: ClassVar[int] = 64 * 1024

    @property
    def expected(self) -> str:
        """See :class:`Kind`."""
        if self.schema:
            return "a JSON schema, in which every $ref begins with '#'"
        return "a JSON object"

    def accepts(self, text: str) -> bool:
        """See :class:`Kind`."""
        try:
            document = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError):
            return False
        return _refers_inward(document) if self.schema else isinstance(document, dict)


def _refuse(constant: str) -> None:
    raise ValueError(constant)  # NaN and Infinity are Python's, not JSON's


def _refers_inward(document: Any) -> bool:
    pending = [document]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            target = value.get("$ref")
            if isinstance(target, str) and not target.startswith("#"):
                return False
            pending += value.values()
        elif isinstance(value, list):
            pending += value
    return True


def _either(first: str, words: tuple[str, ...]) -> str:
    return ", or ".join((first, *words))


def _range(low: float, high: float, lowest: float, highest: float) -> str:
    def shown(bound: float) -> str:
        return str(bound) if isinstance(bound, int) else f"{bound:g}"

    if low == lowest and high == highest:
        return ""
    if high == highest:
        return f" of at least {shown(low)}"
    return f" of at most {shown(high)}" if low == lowest else f" from {shown(low)} to {shown(high)}"
