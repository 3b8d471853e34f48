"""Looks at a store with nothing but the standard library: what is listed, what is wrong, what is left over.

Written from the layout's description and not from dmr's code, so that both cannot be wrong alike.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import attrs

__all__ = ["State", "bytes_here", "verify"]

_HEX: Final = re.compile(r"[0-9a-f]{64}")
_BLOCK: Final = 4096
_OURS: Final = frozenset({"lock", "ingest", "tmp", "leases", "quarantine", "removals", "reserve"})


@attrs.define
class State:
    """What a store holds. ``models`` maps IDs to tags, in the order of the index."""

    models: dict[str, tuple[str, ...]] = attrs.field(factory=dict)
    problems: list[str] = attrs.field(factory=list)
    leftovers: list[str] = attrs.field(factory=list)

    @property
    def tags(self) -> dict[str, str]:
        """Which model each tag is of."""
        return {tag: model_id for model_id, tags in self.models.items() for tag in tags}


def verify(root: Path, *, foreign: frozenset[str] = frozenset()) -> State:
    """Read everything, and hash everything. ``foreign`` are names in the root that are not the store's."""
    state = State()
    index = _index(root, state)
    needed: set[str] = set()
    for entry in index:
        model_id, tags = entry["id"], tuple(entry.get("tags") or ())
        if model_id in state.models:
            state.problems.append(f"{model_id} is listed twice")
        if double := set(tags) & set(state.tags):
            state.problems.append(f"tags of two models: {double}")
        state.models[model_id] = tags
        needed |= _model(root, entry, state)
    for path in sorted((root / "blobs" / "sha256").glob("*")):
        if not _HEX.fullmatch(path.name):
            state.leftovers.append(str(path.relative_to(root)))
        elif sha256(path.read_bytes()).hexdigest() != path.name:
            state.problems.append(f"blob {path.name} holds something else")
        elif path.name not in needed:
            state.leftovers.append(str(path.relative_to(root)))
    listed = {model_id.removeprefix("sha256:") for model_id in state.models}
    for kind in ("manifests", "bundles"):
        state.leftovers.extend(
            str(path.relative_to(root))
            for path in sorted((root / kind / "sha256").glob("*"))
            if path.name not in listed
        )
    for name in ("ingest", "tmp", "leases", "removals"):
        state.leftovers.extend(str(path.relative_to(root)) for path in sorted((root / ".dmr" / name).glob("*")))
    allowed = {"blobs", "manifests", "bundles", ".dmr", "layout.json", "models.json"} | foreign
    state.problems.extend(f"stray {name}" for name in sorted(os.listdir(root)) if name not in allowed)
    ours = root / ".dmr"
    if ours.exists():
        state.problems.extend(f"stray .dmr/{path.name}" for path in ours.iterdir() if path.name not in _OURS)
    return state


def bytes_here(root: Path, name: str, content: bytes) -> int:
    """How many bytes of a blob are on the disk, complete or not, wherever they are in a partial file."""
    if (root / "blobs" / "sha256" / name).exists():
        return len(content)
    best = 0
    for path in (root / ".dmr" / "ingest" / name, root / "blobs" / "sha256" / f"{name}.incomplete"):
        if path.exists():
            data = path.read_bytes()
            equal = 0
            for start in range(0, len(data), _BLOCK):
                block = data[start : start + _BLOCK]
                equal += len(block) if block == content[start : start + len(block)] else 0
            best = max(best, equal)
    return best


def _index(root: Path, state: State) -> list[Any]:
    layout, index = root / "layout.json", root / "models.json"
    if layout.exists() and json.loads(layout.read_bytes()) != {"version": "1.0.0"}:
        state.problems.append("layout.json was changed")
    if not index.exists():
        return []
    try:
        return json.loads(index.read_bytes())["models"] or []
    except (ValueError, KeyError) as exc:
        state.problems.append(f"models.json is unreadable: {exc!r}")
        return []


def _model(root: Path, entry: Any, state: State) -> set[str]:
    """Check one model; the blobs it needs."""
    name = entry["id"].removeprefix("sha256:")
    try:
        data = (root / "manifests" / "sha256" / name).read_bytes()
    except FileNotFoundError:
        state.problems.append(f"the manifest of {name} is missing")
        return set()
    if sha256(data).hexdigest() != name:
        state.problems.append(f"the manifest {name} holds something else")
        return set()
    manifest = json.loads(data)
    blobs = [*manifest["layers"], manifest["config"]]
    if entry["files"] != [blob["digest"] for blob in blobs]:
        state.problems.append(f"the files of {name} are not those of its manifest")
    for blob in blobs:
        path = root / "blobs" / "sha256" / blob["digest"].removeprefix("sha256:")
        if not path.is_file():
            state.problems.append(f"blob {path.name} of {name} is missing")
        elif path.stat().st_size != blob["size"]:
            state.problems.append(f"blob {path.name} of {name} has {path.stat().st_size} bytes")
    state.problems.extend(_bundle(root, name, {blob["digest"].removeprefix("sha256:") for blob in blobs}))
    return {blob["digest"].removeprefix("sha256:") for blob in blobs}


def _bundle(root: Path, name: str, blobs: set[str]) -> Iterator[str]:
    """A bundle with its config is one that engines read: every file of it is a whole blob."""
    bundle = root / "bundles" / "sha256" / name
    if not bundle.exists():
        return
    if not (bundle / "config.json").is_file():
        yield f"the bundle {name} is half made"
        return
    json.loads((bundle / "config.json").read_bytes())
    for path in (bundle / "model").rglob("*"):
        if path.is_file() and sha256(path.read_bytes()).hexdigest() not in blobs:
            yield f"{path.relative_to(root)} is not a blob of its model"
