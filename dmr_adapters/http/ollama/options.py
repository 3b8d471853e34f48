"""Ollama's options as fields of an engine's request. Pure.

Names and meanings are those of Ollama's ``docs/modelfile.md`` ("Valid Parameters and Values"); the bounds are those of
:mod:`dmr_adapters.http.inference.bounds`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from dmr_core.errors import InvalidRequestError

__all__ = ["OPTIONS", "Option", "Translated", "context_wanted", "translate_options"]

_INT32: Final = 2**31 - 1


@attrs.frozen
class Option:
    """An option: the engine's names for it, the first that the engine honours counting, and the bounds of its value."""

    fields: tuple[str, ...]
    least: float = -100
    most: float = 100
    whole: bool = False


def _count(*fields: str, least: int = 0) -> Option:
    return Option(fields, least, _INT32, whole=True)


def _share(field: str) -> Option:
    return Option((field,), 0, 1)


OPTIONS: Final[Mapping[str, Option]] = {
    "temperature": Option(("temperature",)),
    "top_p": _share("top_p"),
    "min_p": _share("min_p"),
    "typical_p": Option(("typical_p",)),
    "top_k": _count("top_k", least=-1),
    "seed": Option(("seed",), -(2**63), 2**63 - 1, whole=True),
    "num_predict": _count("max_tokens", "n_predict", least=-2),
    "num_keep": _count("n_keep", least=-1),
    "repeat_last_n": _count("repeat_last_n", least=-1),
    "repeat_penalty": Option(("repeat_penalty", "repetition_penalty")),
    "presence_penalty": Option(("presence_penalty",)),
    "frequency_penalty": Option(("frequency_penalty",)),
    "mirostat": Option(("mirostat",), 0, 2, whole=True),
    "mirostat_tau": Option(("mirostat_tau",)),
    "mirostat_eta": Option(("mirostat_eta",)),
}
"""Options of one number. ``stop`` and ``num_ctx`` are looked at by themselves; all others are load-time tuning of Ollama's
own engine (``num_gpu``, ``num_batch``, ``use_mmap`` …), which dmr's settings do for a model, not for a request."""

_OURS: Final = frozenset({"num_ctx", "keep_alive"})
_MOST_STOPS: Final = 256


@attrs.define(eq=False)
class Translated:
    """Fields for the engine, and the options that have no place in them."""

    fields: dict[str, Any] = attrs.field(factory=dict)
    ignored: list[str] = attrs.field(factory=list)


def translate_options(options: Mapping[str, Any], takes: Callable[[str], bool]) -> Translated:
    """What ``options`` mean to an engine; ``takes`` says whether it honours a field.

    Raises:
        InvalidRequestError: a value has the wrong type or is out of bounds; says which.
    """
    made = Translated()
    for name, value in options.items():
        if value is None or name in _OURS:
            continue
        if name == "stop":
            _put(made, name, ("stop",), _stops(value), takes)
        elif name in OPTIONS:
            option = OPTIONS[name]
            number = _number(value, name, option)
            if name == "num_predict" and number < 0:
                continue  # without a bound, which is what engines do where nothing is said
            _put(made, name, option.fields, number, takes)
        else:
            made.ignored.append(f"options.{name}")
    return made


def context_wanted(options: Mapping[str, Any]) -> int | None:
    """Tokens of context that are asked for (``num_ctx``).

    Raises:
        InvalidRequestError: it is no number of tokens.
    """
    value = options.get("num_ctx")
    if value is None:
        return None
    return int(_number(value, "num_ctx", _count("", least=0))) or None


def _put(made: Translated, name: str, fields: tuple[str, ...], value: Any, takes: Callable[[str], bool]) -> None:
    field = next((field for field in fields if takes(field)), None)
    if field is None:
        made.ignored.append(f"options.{name}")
    else:
        made.fields[field] = value


def _number(value: Any, name: str, option: Option) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong(name, f"it must be a number, got {type(value).__name__}")
    if not option.least <= value <= option.most:
        raise _wrong(name, f"it must be from {option.least:g} to {option.most:g}")
    if option.whole:
        if value != int(value):
            raise _wrong(name, "it must be a whole number")
        return int(value)
    return value


def _stops(value: Any) -> list[str]:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(stop, str) for stop in stops):
        raise _wrong("stop", "it must be a text or a list of texts")
    if len(stops) > _MOST_STOPS:
        raise _wrong("stop", f"more than {_MOST_STOPS} texts")
    return stops


def _wrong(name: str, reason: str) -> InvalidRequestError:
    return InvalidRequestError(f"invalid option {name!r}: {reason}", param=f"options.{name}")
