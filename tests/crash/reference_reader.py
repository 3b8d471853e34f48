"""Reads a store as the reference runner does: what it lists, resolves and would refuse.

Written from the description of its behaviour, with the standard library alone. It is lenient where the reference is (``null``
lists, unknown fields, legacy tags) and strict where it is (every tag must parse, files are found by the names it makes).
"""

from __future__ import annotations

import json
import re
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import attrs

__all__ = ["ReferenceModel", "ReferenceView", "canonical", "read_as_reference"]

_ID: Final = re.compile(r"sha256:[0-9a-f]{64}")
_REPOSITORY: Final = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+|/)[a-z0-9]+)*")
_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


@attrs.frozen
class ReferenceModel:
    """A model that the reference lists. ``files`` as the index says; ``tags`` canonical, those that do not parse left out."""

    id: str
    tags: tuple[str, ...]
    files: tuple[str, ...]
    manifest: bytes
    config: bytes


@attrs.frozen
class ReferenceView:
    """What the reference sees. ``skipped`` are entries that it leaves out of its list, with why."""

    models: tuple[ReferenceModel, ...]
    skipped: tuple[str, ...]
    layout: bytes

    def find(self, name: str) -> ReferenceModel | None:
        """The model with a tag, or an ID."""
        wanted = canonical(name)
        return next((model for model in self.models if name == model.id or wanted in model.tags), None)


def canonical(text: str) -> str | None:
    """The canonical form of a tag (Stage B); ``None`` where it does not parse and is dropped."""
    text = text.partition("@sha256")[0]
    host, slash, rest = text.partition("/")
    if not slash or not ("." in host or ":" in host or host == "localhost"):
        host, rest = "docker.io", text
    host = {"index.docker.io": "docker.io", "registry-1.docker.io": "docker.io"}.get(host, host)
    name, _, tag = rest.partition(":")
    if host == "docker.io" and "/" not in name:
        name = f"ai/{name}"
    if not _REPOSITORY.fullmatch(name) and host != "huggingface.co":
        return None
    if not _TAG.fullmatch(tag or "latest"):
        return None
    return f"{host}/{name}:{tag or 'latest'}"


def read_as_reference(root: Path) -> ReferenceView:
    """List the store at ``root``.

    Raises:
        ValueError: the reference could not open it.
    """
    document = json.loads((root / "models.json").read_bytes())
    if not isinstance(document, dict):
        raise ValueError("models.json is no object")  # noqa: TRY004 - as for any other damage
    models, skipped = [], []
    for entry in document.get("models") or []:
        try:
            models.append(_model(root, entry))
        except (OSError, ValueError, KeyError) as exc:
            skipped.append(f"{entry.get('id')}: {exc!r}")
    return ReferenceView(tuple(models), tuple(skipped), (root / "layout.json").read_bytes())


def _model(root: Path, entry: dict[str, Any]) -> ReferenceModel:
    model_id = entry["id"]
    if not _ID.fullmatch(model_id):
        raise ValueError("not an ID")
    data = (root / "manifests" / "sha256" / model_id.removeprefix("sha256:")).read_bytes()
    if "sha256:" + sha256(data).hexdigest() != model_id:
        raise ValueError("its manifest is another")
    manifest = json.loads(data)
    config = _blob(root, manifest["config"]["digest"]).read_bytes()
    if "sha256:" + sha256(config).hexdigest() != manifest["config"]["digest"]:
        raise ValueError("its config is another")
    json.loads(config)
    for layer in manifest["layers"]:
        if _blob(root, layer["digest"]).stat().st_size != layer["size"]:
            raise ValueError(f"{layer['digest']} is not whole")
    tags = tuple(tag for tag in map(canonical, entry.get("tags") or ()) if tag is not None)
    return ReferenceModel(model_id, tags, tuple(entry.get("files") or ()), data, config)


def _blob(root: Path, digest: str) -> Path:
    if not _ID.fullmatch(digest):
        raise ValueError(f"unsupported hash: {digest!r}")
    return root / "blobs" / "sha256" / digest.removeprefix("sha256:")
