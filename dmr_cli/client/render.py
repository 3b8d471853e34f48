"""How results look: tables, sizes, times and JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Final

from dmr_cli.client.terminal import clean, is_terminal

__all__ = ["duration", "echo", "echo_json", "echo_table", "size", "table", "width"]

_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB")
_SEPARATOR: Final = "  "
_MINUTE: Final = 60
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR


def echo(text: str) -> None:
    """Print one result."""
    print(clean(text) if is_terminal(sys.stdout) else text)


def echo_json(value: object) -> None:
    """Print a result for programs: indented, readable in every script, nothing escaped for HTML."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    echo(text.encode("utf-8", "backslashreplace").decode("utf-8"))  # a lone surrogate cannot be encoded


def echo_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; with no rows, its headings alone."""
    for line in table(headings, rows):
        print(line)


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of left-aligned columns, two spaces apart, nothing after the last.

    A table is for people, so cells never carry control sequences, wherever they go; tabs become four
    spaces and a cell of several lines spans as many rows.
    """
    body = [[_cell(value) for value in row] for row in rows]
    grid: list[list[list[str]]] = [[[heading] for heading in headings], *body]
    widths = [max(width(line) for row in grid for line in row[column]) for column in range(len(headings))]
    lines: list[str] = []
    for row in grid:
        for index in range(max(len(cell) for cell in row)):
            texts = [cell[index] if index < len(cell) else "" for cell in row]
            padded = [text + " " * (space - width(text)) for text, space in zip(texts, widths, strict=True)]
            lines.append(_SEPARATOR.join(padded).rstrip(" "))
    return lines


def _cell(value: object) -> list[str]:
    text = "" if value is None else clean(str(value))
    return text.replace("\t", "    ").split("\n") if text else [""]


def width(text: str) -> int:
    """How many columns ``text`` takes on a terminal."""
    if text.isascii():
        return len(text)
    import unicodedata  # noqa: PLC0415 - a name outside ASCII is rare

    columns = 0
    for character in text:
        if unicodedata.combining(character) or unicodedata.category(character) in ("Mn", "Me", "Cf"):
            continue
        columns += 2 if unicodedata.east_asian_width(character) in ("W", "F") else 1
    return columns


def size(count: float) -> str:
    """``1536`` is ``1.54kB``: powers of 1000, two decimals."""
    value = float(count)
    unit = 0
    while value >= 1000 and unit < len(_UNITS) - 1:
        value /= 1000
        unit += 1
    return f"{value:.2f}{_UNITS[unit]}"


def duration(seconds: float) -> str:
    """A span of time the way people say it: ``About an hour``, ``3 weeks``."""
    if seconds < 1:
        return "Less than a second"
    if seconds < _MINUTE:
        return _plural(int(seconds), "second")
    if seconds < _HOUR:
        minutes = int(seconds / _MINUTE)
        return "About a minute" if minutes == 1 else _plural(minutes, "minute")
    hours = int(seconds / _HOUR + 0.5)
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return _plural(hours, "hour")
    for limit, length, name in ((14, 1, "day"), (60, 7, "week"), (730, 30, "month")):
        if hours < limit * 24:
            return _plural(hours // 24 // length, name)
    return _plural(int(seconds / _DAY / 365), "year")


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
