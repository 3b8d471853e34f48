"""Prometheus' text format, version 0.0.4: read pages nobody vouches for, and write them as one.

The format is that of https://prometheus.io/docs/instrumenting/exposition_formats/. A page is read line by line, and
what is not a well-formed line of it is left out, so whatever an engine says, the page made of it can be read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import attrs

__all__ = ["Family", "Sample", "TooManySamplesError", "family", "merge", "parse", "relabel"]

Labels = tuple[tuple[str, str], ...]

_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_OPENING: Final = re.compile(r"[ \t]*{")
_CLOSING: Final = re.compile(r"[ \t]*}")
_LABEL: Final = re.compile(r'[ \t]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"([^"\\]*(?:\\.[^"\\]*)*)"[ \t]*')
# A timestamp may follow; it is left out, as the figures are those of this moment.
_VALUE: Final = re.compile(r"[ \t]+([^ \t]+)(?:[ \t]+[+-]?[0-9]{1,20})?[ \t]*")
_NUMBER: Final = re.compile(
    r"[+-]?(?:[0-9]{1,400}(?:\.[0-9]{0,400})?|\.[0-9]{1,400})(?:e[+-]?[0-9]{1,9})?|[+-]?inf|nan",
    re.IGNORECASE | re.ASCII,
)
_ESCAPE: Final = re.compile(r"\\(.)")
_UNPRINTABLE: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_MOST_LABELS: Final = 64
_EXPORTED: Final = "exported_"
_INTERNAL: Final = "__"  # label names that begin so are Prometheus' own

# What the names of a family's samples end with. Anything else is no type of this format.
_SUFFIXES: Final[Mapping[str, tuple[str, ...]]] = {
    "counter": ("",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
    "summary": ("", "_sum", "_count"),
    "untyped": ("",),
}


class TooManySamplesError(ValueError):
    """A page has more samples than it may."""


@attrs.frozen
class Sample:
    """One figure. ``value`` is text that is a number in this format."""

    name: str
    labels: Labels
    value: str


@attrs.define
class Family:
    """Samples that mean the same. ``kind`` is a type of the format."""

    name: str
    kind: str = "untyped"
    help: str = ""
    samples: list[Sample] = attrs.field(factory=list)

    @property
    def sample_names(self) -> tuple[str, ...]:
        """Names its samples may have."""
        return tuple(self.name + suffix for suffix in _SUFFIXES[self.kind])


def family(name: str, kind: str, text: str, samples: Iterable[tuple[Mapping[str, str], float]]) -> Family:
    """A family of figures of our own."""
    made = [Sample(name, tuple(labels.items()), _number(value)) for labels, value in samples]
    return Family(name, kind, text, made)


def parse(page: str, *, limit: int = 10_000) -> dict[str, Family]:
    """The families of a page by name, in its order.

    Raises:
        TooManySamplesError: it has more than ``limit`` samples.
    """
    found: dict[str, Family] = {}
    owner: dict[str, Family] = {}  # of a sample's name, as far as a TYPE line told
    count = 0
    for raw in page.split("\n"):
        line = raw.strip(" \t\r")
        if line.startswith("#"):
            _read_comment(line, found, owner)
        elif line and (sample := _read_sample(line)) is not None:
            count += 1
            if count > limit:
                raise TooManySamplesError(f"more than {limit} samples")
            home = owner.get(sample.name) or found.setdefault(sample.name, Family(sample.name))
            if sample.name in home.sample_names:
                home.samples.append(sample)
    return found


def relabel(families: Iterable[Family], labels: Mapping[str, str], *, reserved: str) -> list[Family]:
    """The same families with ``labels`` on every sample.

    A label of the same name that was there is kept as ``exported_…``, as Prometheus does it. Families whose name
    begins with ``reserved``, and those without samples, are left out.
    """
    return [
        attrs.evolve(entry, samples=[attrs.evolve(s, labels=_labelled(s.labels, labels)) for s in entry.samples])
        for entry in families
        if entry.samples and not entry.name.startswith(reserved)
    ]


def merge(pages: Iterable[Iterable[Family]]) -> str:
    """One page of several. Families of one name become one, whose help and type are the first's.

    A family whose type is another one elsewhere, or whose samples would pass for another family's, is left out with
    a note; a sample that is there twice is kept once.
    """
    merged: dict[str, Family] = {}
    owner: dict[str, str] = {}
    notes: dict[str, None] = {}  # a set that keeps its order
    for page in pages:
        for entry in page:
            known = merged.get(entry.name)
            kind = entry.kind if known is None else known.kind
            taken = next((owner[name] for name in entry.sample_names if owner.get(name, entry.name) != entry.name), "")
            if entry.kind != kind:
                notes[f"# Left out: {entry.name} as a {entry.kind}, because it is a {kind} elsewhere"] = None
            elif taken:
                notes[f"# Left out: {entry.name}, whose samples would pass for those of {taken}"] = None
            elif known is None:
                merged[entry.name] = attrs.evolve(entry, samples=list(entry.samples))
                owner.update(dict.fromkeys(entry.sample_names, entry.name))
            else:
                known.samples.extend(entry.samples)
    lines: list[str] = []
    for entry in merged.values():
        lines += _lines(entry)
    return "".join(f"{line}\n" for line in [*lines, *notes])


# --- reading ----------------------------------------------------------------------------------------


def _read_comment(line: str, found: dict[str, Family], owner: dict[str, Family]) -> None:
    words = line[1:].split(None, 2)
    if len(words) < 2 or words[0] not in ("HELP", "TYPE") or not _NAME.fullmatch(words[1]):
        return
    name, rest = words[1], words[2] if len(words) == 3 else ""
    entry = found.setdefault(name, Family(name))
    if words[0] == "HELP":
        entry.help = entry.help or _clean(_unescape(rest))
    elif not entry.samples and entry.kind == "untyped" and rest in _SUFFIXES:
        entry.kind = rest
        for sample_name in entry.sample_names:
            owner.setdefault(sample_name, entry)


def _read_sample(line: str) -> Sample | None:
    name = _NAME.match(line)
    if name is None:
        return None
    labels: dict[str, str] = {}
    position = name.end()
    opening = _OPENING.match(line, position)
    if opening is not None:
        end = _read_labels(line, opening.end(), labels)
        if end is None:
            return None
        # A space is optional here, as it is to Prometheus.
        line, position = f" {line[end:]}", 0
    value = _VALUE.fullmatch(line, position)
    if value is None or not _NUMBER.fullmatch(value[1]) or not _is_whole(name[0], labels):
        return None
    return Sample(name[0], tuple(labels.items()), _canonical(value[1]))


def _read_labels(line: str, position: int, labels: dict[str, str]) -> int | None:
    """Read ``a="b",…}`` into ``labels``; the place after it, or ``None`` if it is not well formed."""
    while True:
        pair = _LABEL.match(line, position)
        if pair is None:
            closing = _CLOSING.match(line, position)
            return closing.end() if closing else None
        if pair[1] in labels or pair[1].startswith(_INTERNAL) or len(labels) == _MOST_LABELS:
            return None
        labels[pair[1]] = _clean(_unescape(pair[2]))
        position = pair.end()
        if line.startswith("}", position):
            return position + 1
        if not line.startswith(",", position):
            return None
        position += 1


def _is_whole(name: str, labels: Mapping[str, str]) -> bool:
    """Whether the labels that carry numbers do."""
    bound = labels.get("le") if name.endswith("_bucket") else labels.get("quantile")
    return bound is None or _NUMBER.fullmatch(bound) is not None


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda found: {"\\": "\\", '"': '"', "n": "\n"}.get(found[1], found[0]), text)


def _clean(text: str) -> str:
    """Without what could move a terminal's cursor, or break a line for some reader."""
    return _UNPRINTABLE.sub("\ufffd", text)


def _canonical(value: str) -> str:
    lowered = value.lower()
    if lowered.endswith("inf"):
        return "-Inf" if lowered.startswith("-") else "+Inf"
    return "NaN" if lowered == "nan" else value


# --- writing ----------------------------------------------------------------------------------------


def _labelled(old: Labels, new: Mapping[str, str]) -> Labels:
    taken = {name for name, _ in old} | set(new)
    kept: list[tuple[str, str]] = []
    for name, value in old:
        free = name
        if name in new:
            while free in taken:
                free = _EXPORTED + free
            taken.add(free)
        kept.append((free, value))
    return (*kept, *new.items())


def _lines(entry: Family) -> Sequence[str]:
    lines = [f"# HELP {entry.name} {_escape(entry.help)}"] if entry.help else []
    lines.append(f"# TYPE {entry.name} {entry.kind}")
    seen: set[tuple[str, frozenset[tuple[str, str]]]] = set()
    for sample in entry.samples:
        series = sample.name, frozenset(sample.labels)
        if series in seen:
            continue
        seen.add(series)
        labels = ",".join(f'{name}="{_escape(value, quote=True)}"' for name, value in sample.labels)
        lines.append(f"{sample.name}{{{labels}}} {sample.value}" if labels else f"{sample.name} {sample.value}")
    return lines


def _escape(text: str, *, quote: bool = False) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    return text.replace('"', '\\"') if quote else text


def _number(value: float) -> str:
    return _canonical(repr(float(value)))
