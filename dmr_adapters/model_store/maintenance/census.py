"""What is in the store's directories, by what it is. Names that are not the store's own are foreign, and left alone."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

from dmr_adapters.model_store.layout import StoreLayout
from dmr_core.domain.digest import Digest

__all__ = ["Census", "Found", "files_below", "take_census", "take_leftovers"]

_HEX: Final = re.compile(r"[0-9a-f]{64}")
_REFERENCE_PARTIAL: Final = re.compile(r"([0-9a-f]{64})\.incomplete")
_JOURNAL: Final = re.compile(r"([0-9a-f]{64})\.parts")
_REFERENCE_TEMPORARY: Final = re.compile(r"(?:[0-9a-f]{64}|models\.json|layout\.json)\.tmp-.+")
_OWN_ROOTS: Final = frozenset({"blobs", "manifests", "bundles", ".dmr", "layout.json", "models.json"})


@attrs.frozen
class Found:
    """A file or directory, and what it was when it was looked at."""

    path: Path
    status: os.stat_result

    @property
    def identity(self) -> tuple[int, int, int, int]:
        """Changes whenever the content may have."""
        return _identity(self.status)

    def is_unchanged(self) -> bool:
        """Whether the same file is still there, as it was."""
        try:
            return _identity(self.path.lstat()) == self.identity
        except OSError:
            return False


@attrs.define
class Census:
    """Everything there is, by digest where the name is one.

    ``partials`` and ``journals`` are ours, ``reference_partials`` and ``strays`` (temporary files) the reference runner's.
    """

    blobs: dict[Digest, Found] = attrs.field(factory=dict)
    manifests: dict[Digest, Found] = attrs.field(factory=dict)
    bundles: dict[Digest, Found] = attrs.field(factory=dict)
    partials: dict[Digest, Found] = attrs.field(factory=dict)
    journals: dict[Digest, Found] = attrs.field(factory=dict)
    reference_partials: dict[Digest, Found] = attrs.field(factory=dict)
    strays: list[Found] = attrs.field(factory=list)
    temporary: list[Found] = attrs.field(factory=list)
    quarantine: list[Found] = attrs.field(factory=list)
    foreign: list[Found] = attrs.field(factory=list)


def take_census(layout: StoreLayout) -> Census:
    """Look into every directory of the store."""
    census = Census()
    for found in _entries(layout.root):
        if _REFERENCE_TEMPORARY.fullmatch(found.path.name):
            census.strays.append(found)
        elif found.path.name not in _OWN_ROOTS:
            census.foreign.append(found)
    _sort(layout.blobs, census.blobs, census, directories=False)
    _sort(layout.manifests, census.manifests, census, directories=False)
    _sort(layout.bundles, census.bundles, census, directories=True)
    return _with_leftovers(layout, census)


def take_leftovers(layout: StoreLayout) -> Census:
    """What is unfinished, and nothing else: quick, however many models there are."""
    census = Census()
    for found in _entries(layout.blobs, suffix=".incomplete"):
        if match := _REFERENCE_PARTIAL.fullmatch(found.path.name):
            census.reference_partials[Digest(match[1])] = found
    return _with_leftovers(layout, census)


def _with_leftovers(layout: StoreLayout, census: Census) -> Census:
    for found in _entries(layout.ingest):
        name = found.path.name
        if _HEX.fullmatch(name):
            census.partials[Digest(name)] = found
        elif match := _JOURNAL.fullmatch(name):
            census.journals[Digest(match[1])] = found
        else:
            census.foreign.append(found)
    census.temporary.extend(_entries(layout.temporary))
    census.quarantine.extend(_entries(layout.quarantine))
    return census


def files_below(directory: Path) -> Iterator[Found]:
    """Every file below ``directory``, links as themselves; what is gone meanwhile is left out."""
    for parent, _, names in os.walk(directory):
        for name in names:
            path = Path(parent, name)
            try:
                yield Found(path, path.lstat())
            except OSError:
                continue


def _sort(directory: Path, by_digest: dict[Digest, Found], census: Census, *, directories: bool) -> None:
    for found in _entries(directory):
        name, is_directory = found.path.name, stat.S_ISDIR(found.status.st_mode)
        if _HEX.fullmatch(name) and is_directory == directories:
            by_digest[Digest(name)] = found
        elif (match := _REFERENCE_PARTIAL.fullmatch(name)) and by_digest is census.blobs and not is_directory:
            census.reference_partials[Digest(match[1])] = found
        elif _REFERENCE_TEMPORARY.fullmatch(name) and not is_directory:
            census.strays.append(found)
        else:
            census.foreign.append(found)


def _entries(directory: Path, *, suffix: str = "") -> Iterator[Found]:
    try:
        with os.scandir(directory) as entries:
            listed = sorted((entry for entry in entries if entry.name.endswith(suffix)), key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in listed:
        try:
            yield Found(Path(entry.path), entry.stat(follow_symlinks=False))
        except FileNotFoundError:
            continue


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
