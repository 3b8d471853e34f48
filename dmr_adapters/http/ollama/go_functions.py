"""Functions of Go's templates (Go, ``text/template``, "Functions"), and those that Ollama adds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

__all__ = ["FUNCTIONS"]


def _compare(test: Callable[[Any, Any], bool]) -> Callable[..., bool]:
    def compare(one: Any, other: Any) -> bool:
        return type(one) is type(other) and test(one, other)

    return compare


def _index(value: Any, key: Any) -> Any:
    if isinstance(value, Mapping):
        return value.get(key)
    return value[key] if isinstance(value, list | str) and isinstance(key, int) and 0 <= key < len(value) else None


def _slice(value: Any, begin: Any, end: Any = None) -> Any:
    return value[begin:end] if isinstance(value, list | str) and isinstance(begin, int) else value


FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "eq": lambda one, *others: any(one == other for other in others),
    "ne": lambda one, other: one != other,
    "lt": _compare(lambda one, other: one < other),
    "le": _compare(lambda one, other: one <= other),
    "gt": _compare(lambda one, other: one > other),
    "ge": _compare(lambda one, other: one >= other),
    "not": lambda value: not value,
    "len": lambda value: len(value) if isinstance(value, list | str | Mapping) else 0,
    "index": _index,
    "slice": _slice,
    "json": lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":")),
    "currentDate": lambda: "",
}
