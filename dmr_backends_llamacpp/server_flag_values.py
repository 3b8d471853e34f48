"""What one flag of ``dmr-llama-server`` is, and how its text becomes a value.

Everything here is pure but for the readers that open a file named on the command line. Plain named tuples, not attrs:
this code runs before every start of an engine, and importing attrs would take longer than all of it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import NamedTuple

__all__ = [
    "EnumValue",
    "Flag",
    "Pairs",
    "Reader",
    "choice",
    "cpu_mask",
    "cpu_range",
    "file_lines",
    "file_text",
    "fit_targets",
    "json_object",
    "json_text",
    "kwargs",
    "lora_paths",
    "lora_scaled",
    "names",
    "number",
    "sampler_letters",
    "sampler_names",
    "several",
    "switch_value",
    "tensor_split",
    "text",
    "texts",
    "whole",
]

MIB = 1024 * 1024
CPU_LIMIT = 512  # GGML_MAX_N_THREADS
DEVICE_LIMIT = 16  # llama.cpp's limit in this build; a shorter list is broadcast or padded by its reader

_TRUE = frozenset({"on", "enabled", "true", "1"})
_FALSE = frozenset({"off", "disabled", "false", "0"})
_AUTO = frozenset({"auto", "-1"})
_SAMPLERS = {
    "e": "penalties",
    "d": "dry",
    "s": "top_n_sigma",
    "k": "top_k",
    "y": "typ_p",
    "p": "top_p",
    "m": "min_p",
    "x": "xtc",
    "t": "temperature",
    "i": "infill",
    "a": "adaptive_p",
}


class EnumValue(NamedTuple):
    """A member of one of xllamacpp's enumerations, by name so that nothing is imported to say it."""

    enum: str
    member: str


class Pairs(NamedTuple):
    """A value that lands in several fields at once."""

    items: tuple[tuple[str, object], ...]


class Reader(NamedTuple):
    """Turns the text after a flag into a value; ``read`` raises ValueError for text it does not accept."""

    read: Callable[[str], object]
    expected: str
    metavar: str


class Flag(NamedTuple):
    """One flag of llama-server: how it is spelled, what it takes and where its value lands.

    Attributes:
        group: The heading it is listed under.
        spellings: Every spelling that takes the value or, without a reader, switches ``on``.
        path: Where the value lands, a dotted path below ``CommonParams``; empty when it has no effect on a server.
        help: One line for ``--help``.
        reader: What follows the flag; none for a switch.
        on: What a switch sets.
        off_spellings: The ``--no-`` twins.
        off: What these set.
        mark: The member of ``common_params_sampling_config`` that says the user chose, not the model's file.
        refused: Why it cannot be given to the bundled server; empty for every flag that can. Its ``--no-`` twins, where
            it has any, ask for what the bundled server does anyway and are accepted.
    """

    group: str
    spellings: tuple[str, ...]
    path: str
    help: str
    reader: Reader | None = None
    on: object = True
    off_spellings: tuple[str, ...] = ()
    off: object = False
    mark: str = ""
    refused: str = ""


def whole(low: int | None = None, high: int | None = None, *, words: Mapping[str, int] | None = None) -> Reader:
    """An integer in a range, or one of a few words that stand for one."""
    words = words or {}

    def read(given: str) -> int:
        if given in words:
            return words[given]
        value = int(given)
        _check_range(value, low, high)
        return value

    expected = f"an integer{_range_text(low, high)}"
    return Reader(read, ", or ".join([expected, *words]), "N")


def number(low: float | None = None, high: float | None = None, *, above: float | None = None) -> Reader:
    """A finite decimal number in a range; ``above`` is a bound that is itself excluded."""

    def read(given: str) -> float:
        value = float(given)
        if value - value != 0.0:  # not a number, or infinite
            raise ValueError(given)
        _check_range(value, low, high)
        if above is not None and value <= above:
            raise ValueError(given)
        return value

    bound = f" greater than {above:g}" if above is not None else _range_text(low, high)
    return Reader(read, f"a number{bound}", "N")


def choice(members: Mapping[str, object], metavar: str = "") -> Reader:
    """One of a few words."""

    def read(given: str) -> object:
        if given not in members:
            raise ValueError(given)
        return members[given]

    return Reader(read, f"one of {', '.join(members)}", metavar or "|".join(members))


def several(members: Mapping[str, object], metavar: str) -> Reader:
    """A few words out of a list, in the order given."""

    def read(given: str) -> tuple[object, ...]:
        words = given.split(",")
        if not set(words) <= set(members):
            raise ValueError(given)
        return tuple(members[word] for word in words)

    return Reader(read, f"words separated by commas, of {', '.join(members)}", metavar)


def switch_value(on: object, off: object, auto: object = None) -> Reader:
    """``on`` or ``off`` in any of llama-server's spellings, and ``auto`` where a third value is given for it."""

    def read(given: str) -> object:
        if given in _TRUE:
            return on
        if given in _FALSE:
            return off
        if auto is not None and given in _AUTO:
            return auto
        raise ValueError(given)

    return Reader(read, "on, off or auto" if auto is not None else "on or off", "on|off|auto" if auto else "on|off")


def text(metavar: str = "TEXT", prefix: str = "", *, directory: bool = False) -> Reader:
    """Any text that is not empty; a directory gets the trailing separator that llama.cpp expects of it."""

    def read(given: str) -> str:
        if not given or not given.startswith(prefix):
            raise ValueError(given)
        return given.rstrip("/") + "/" if directory else given

    return Reader(read, f"text that starts with {prefix!r}" if prefix else f"a value ({metavar})", metavar)


def names(metavar: str = "NAME,...") -> Reader:
    """A comma-separated list, as a set would hold it."""

    def read(given: str) -> frozenset[str]:
        parts = frozenset(part.strip() for part in given.split(","))
        if "" in parts:
            raise ValueError(given)
        return parts

    return Reader(read, "names separated by commas", metavar)


def texts(metavar: str = "TEXT", separator: str | None = None) -> Reader:
    """One text, or several between separators, to be collected over every use of the flag."""

    def read(given: str) -> tuple[str, ...]:
        parts = tuple(given.split(separator)) if separator else (given,)
        if "" in parts:
            raise ValueError(given)
        return parts

    return Reader(read, f"values separated by {separator!r}" if separator else "a value", metavar)


def file_text(of: str) -> Reader:
    """The text of a file, read now: the server is only ever given contents."""
    return Reader(_contents, f"a readable file with {of}", "FILE")


def file_lines(of: str) -> Reader:
    """The lines of a file, without blank ones and comments."""

    def read(given: str) -> tuple[str, ...]:
        lines = (line.strip() for line in _contents(given).splitlines())
        return tuple(line for line in lines if line and not line.startswith("#"))

    return Reader(read, f"a readable file with {of}", "FILE")


def json_text(*, from_file: bool = False) -> Reader:
    """A JSON document, kept as text."""

    def read(given: str) -> str:
        content = _contents(given) if from_file else given
        json.loads(content)
        return content

    return Reader(read, "a readable file with JSON" if from_file else "JSON", "FILE" if from_file else "JSON")


def json_object() -> Reader:
    """A JSON object, as pairs of a key and the JSON text of its value."""

    def read(given: str) -> tuple[tuple[str, str], ...]:
        parsed = json.loads(given)
        if not isinstance(parsed, dict):
            raise ValueError(given)  # noqa: TRY004 - what a reader raises for any text that it does not accept
        return tuple((key, json.dumps(value)) for key, value in parsed.items())

    return Reader(read, "a JSON object", "JSON")


def kwargs(key: str) -> Reader:
    """A text that becomes one argument of the chat template."""
    return Reader(lambda given: ((key, json.dumps(given)),) if given != "default" else (), "a word", "WORD")


def lora_paths() -> Reader:
    """Adapters at full strength, as pairs of a path and a scale."""

    def read(given: str) -> tuple[tuple[str, float], ...]:
        return tuple((_existing(part), 1.0) for part in given.split(","))

    return Reader(read, "paths of existing files, separated by commas", "FILE,...")


def lora_scaled() -> Reader:
    """Adapters with a scale each, as ``FILE:SCALE``."""

    def read(given: str) -> tuple[tuple[str, float], ...]:
        pairs = [part.rpartition(":") for part in given.split(",")]
        return tuple((_existing(path), float(scale)) for path, _, scale in pairs)

    return Reader(read, "FILE:SCALE of existing files, separated by commas", "FILE:SCALE,...")


def fit_targets() -> Reader:
    """Margins per device in MiB, as bytes; a single one counts for every device."""

    def read(given: str) -> tuple[int, ...]:
        sizes = tuple(int(part) * MIB for part in given.replace("/", ",").split(","))
        if min(sizes) < 0 or len(sizes) > DEVICE_LIMIT:
            raise ValueError(given)
        return sizes * DEVICE_LIMIT if len(sizes) == 1 else sizes + (1024 * MIB,) * (DEVICE_LIMIT - len(sizes))

    return Reader(read, f"at most {DEVICE_LIMIT} sizes in MiB, separated by commas", "MIB,...")


def tensor_split() -> Reader:
    """The share of each device, in any unit."""

    def read(given: str) -> tuple[float, ...]:
        shares = tuple(float(part) for part in given.replace("/", ",").split(","))
        if not all(0 <= share < float("inf") for share in shares) or len(shares) > DEVICE_LIMIT:
            raise ValueError(given)
        return shares

    return Reader(read, f"at most {DEVICE_LIMIT} numbers separated by commas", "N,...")


def sampler_names() -> Reader:
    """Samplers by name; llama.cpp would drop one it does not know with a line in the log."""

    def read(given: str) -> str:
        chosen = [part.strip().replace("-", "_") for part in given.split(";")]
        if not set(chosen) <= set(_SAMPLERS.values()):
            raise ValueError(given)
        return ";".join(chosen)

    return Reader(read, f"samplers separated by ';', of {', '.join(_SAMPLERS.values())}", "NAME;...")


def sampler_letters() -> Reader:
    """Samplers by letter, in order."""

    def read(given: str) -> str:
        if not given or not set(given) <= set(_SAMPLERS):
            raise ValueError(given)
        return ";".join(_SAMPLERS[letter] for letter in given)

    return Reader(read, f"letters of {''.join(_SAMPLERS)}", "LETTERS")


def cpu_mask() -> Reader:
    """The processors of a hexadecimal mask."""

    def read(given: str) -> tuple[int, ...]:
        mask = int(given, 16)
        if mask <= 0 or mask >> CPU_LIMIT:
            raise ValueError(given)
        return tuple(cpu for cpu in range(CPU_LIMIT) if mask >> cpu & 1)

    return Reader(read, "a hexadecimal mask of processors", "HEX")


def cpu_range() -> Reader:
    """The processors from one to another, both included; either end may be left out."""

    def read(given: str) -> tuple[int, ...]:
        first, dash, last = given.partition("-")
        cpus = tuple(range(int(first or 0), int(last or CPU_LIMIT - 1) + 1))
        if not dash or not cpus or cpus[-1] >= CPU_LIMIT:
            raise ValueError(given)
        return cpus

    return Reader(read, f"a range of processors such as 0-3, below {CPU_LIMIT}", "FIRST-LAST")


def _contents(path: str) -> str:
    with open(path, encoding="utf-8") as file:  # noqa: PTH123 - importing pathlib costs milliseconds
        return file.read()


def _existing(path: str) -> str:
    if not os.path.isfile(path):  # noqa: PTH113 - as above
        raise ValueError(path)
    return path


def _check_range(value: float, low: float | None, high: float | None) -> None:
    if (low is not None and value < low) or (high is not None and value > high):
        raise ValueError(value)


def _range_text(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f" from {low:g} to {high:g}" if high < MIB else f" from {low} to {high}"
    if low is not None:
        return f" of at least {low:g}"
    return f" of at most {high:g}" if high is not None else ""
