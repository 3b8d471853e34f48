"""Code that a model brings along: found by looking at its files, never by running anything.

Engines written in Python may run what a model directory holds: modules that ``auto_map`` names (Transformers), that
``model_file`` names (MLX), and whatever a pickle says when it is read. Their own switches against that were got round more
than once (CVE-2025-66448, CVE-2026-5843), so nothing of the kind reaches an engine unless somebody allowed that model.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any, Final

import attrs

__all__ = ["MAX_DOCUMENT", "ModelFile", "code_in", "is_document"]

MAX_DOCUMENT: Final = 4 * 1024 * 1024
"""Bytes of a settings document. Those of real models have a few thousand."""

_DATA: Final = frozenset({"tokenizer.json", "vocab.json", "added_tokens.json"})
_INDEX: Final = ".index.json"
_CODE: Final = frozenset(
    {".py", ".pyc", ".pyo", ".pyd", ".pyw", ".pyx", ".pyz", ".so", ".dll", ".dylib", ".egg", ".whl", ".pth", ".sh"}
)
_PICKLES: Final = frozenset(
    {".bin", ".pt", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill", ".npy", ".npz", ".h5", ".keras"}
)
_CODE_KEYS: Final = frozenset({"auto_map", "model_file", "custom_pipelines", "custom_code", "trust_remote_code"})


@attrs.frozen(kw_only=True)
class ModelFile:
    """A file of a model. ``document`` is its text where it is a settings document, ``None`` for one that is too long."""

    path: str
    document: bytes | None = None


def is_document(path: str) -> bool:
    """Whether a file is one that engines read settings from, as against a vocabulary or a list of tensors."""
    name = PurePosixPath(path).name.lower()
    return name.endswith(".json") and name not in _DATA and not name.endswith(_INDEX)


def code_in(files: Iterable[ModelFile]) -> tuple[str, ...]:
    """What in ``files`` is code or names code, one sentence each; empty for a model that is nothing but data."""
    return tuple(found for file in files for found in _findings(file))


def _findings(file: ModelFile) -> list[str]:
    suffixes = {suffix.lower() for suffix in PurePosixPath(file.path).suffixes[-2:]}
    if suffixes & _CODE:
        return [f"{file.path} is a program"]
    if suffixes & _PICKLES:
        return [f"{file.path} may be a pickle, which is a program"]
    if not is_document(file.path):
        return []
    if file.document is None:
        return [f"{file.path} is too long to be looked through"]
    keys: set[str] = set()
    try:
        json.loads(file.document, object_pairs_hook=lambda pairs: _note(pairs, keys))
    except (ValueError, RecursionError):
        return [f"{file.path} is not JSON that could be looked through"]
    return [f"{file.path} names code ({key})" for key in sorted(keys)]


def _note(pairs: list[tuple[str, Any]], keys: set[str]) -> dict[str, Any]:
    """Every object of a document, its repeated keys included."""
    keys.update(key for key, value in pairs if key in _CODE_KEYS and value not in (None, False, "", {}, []))
    return dict(pairs)
