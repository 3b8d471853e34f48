"""The index document, ``models.json``, as a value.

It is shared with the reference runner and with other versions of dmr, so a change touches exactly
what it is about: unknown fields, entries that cannot be read and tags in older spellings stay as
they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final

import attrs
import orjson

from dmr_core.domain.digest import Digest
from dmr_core.domain.reference import ReferencePolicy, parse_reference
from dmr_core.errors import InvalidReferenceError, InvalidRequestError

__all__ = ["Index", "IndexEntry"]

_DIGEST: Final = re.compile(rb"sha256:([0-9a-f]{64})")
_OLD_HUB: Final = "hf.co/"
_HUB: Final = "huggingface.co/"


@attrs.frozen
class IndexEntry:
    """A model of the index; ``tags`` are canonical, and no other entry has them."""

    id: Digest
    tags: tuple[str, ...]


@attrs.frozen
class Index:
    """The whole document. Every change returns a new index, or the same one when nothing changes."""

    document: Mapping[str, Any] = attrs.field(factory=dict)
    records: tuple[Any, ...] = ()

    @classmethod
    def parse(cls, data: bytes) -> Index:
        """Read the document; ``models`` and ``tags`` may be ``null``.

        Raises:
            ValueError: it is not an index.
        """
        document = orjson.loads(data)
        if document is None:
            return cls()
        if not isinstance(document, dict):
            raise ValueError("expected an object")  # noqa: TRY004 - one error for one condition
        records = document.get("models")
        if records is not None and not isinstance(records, list):
            raise ValueError("expected a list in 'models'")
        return cls(document, tuple(records or ()))

    def encode(self) -> bytes:
        """The document as the reference writes it: two spaces, no newline at the end."""
        return orjson.dumps({**self.document, "models": list(self.records)}, option=orjson.OPT_INDENT_2)

    def entries(self) -> Iterator[IndexEntry]:
        """Every model, in order. The first entry with an ID or a tag has it."""
        ids: set[Digest] = set()
        taken: set[str] = set()
        for record in self.records:
            model_id = _id_of(record)
            if model_id is None or model_id in ids:
                continue
            tags = tuple(dict.fromkeys(tag for tag in map(_canonical, _tags_of(record)) if tag and tag not in taken))
            ids.add(model_id)
            taken.update(tags)
            yield IndexEntry(model_id, tags)

    def __contains__(self, model_id: Digest) -> bool:
        return any(_id_of(record) == model_id for record in self.records)

    def with_model(self, model_id: Digest, files: tuple[Digest, ...]) -> Index:
        """Add a model at the end, untagged, unless it is here. ``files`` are layers, then the config."""
        if model_id in self:
            return self
        record = {"id": str(model_id), "tags": [], "files": [str(digest) for digest in files]}
        return attrs.evolve(self, records=(*self.records, record))

    def without_model(self, model_id: Digest) -> Index:
        """Drop a model."""
        return self._replaced(tuple(record for record in self.records if _id_of(record) != model_id))

    def with_tag(self, model_id: Digest, canonical: str) -> Index:
        """Give a tag to a model, taking it from every other one. Nothing happens if there is no such model."""
        holder = next((record for record in self.records if _id_of(record) == model_id), None)
        if holder is None:
            return self
        return self._replaced(
            tuple(
                _with_tag(record, canonical) if record is holder else _without_tag(record, canonical)
                for record in self.records
            )
        )

    def without_tag(self, canonical: str) -> Index:
        """Take a tag away from whoever has it, however it is spelled there."""
        return self._replaced(tuple(_without_tag(record, canonical) for record in self.records))

    def with_hub_names(self) -> Index:
        """Spell out ``hf.co`` in tags, as the reference does when it starts."""
        return self._replaced(tuple(_with_hub_names(record) for record in self.records))

    def digests_needed_without(self, model_id: Digest) -> frozenset[Digest]:
        """Every digest that the other entries name, in whatever field, whether or not they can be read."""
        others = [record for record in self.records if _id_of(record) != model_id]
        return frozenset(Digest(found.decode()) for found in _DIGEST.findall(orjson.dumps(others)))

    def files_of(self, model_id: Digest) -> frozenset[Digest]:
        """The blobs that the entry of a model lists."""
        listed = [record.get("files") for record in self.records if _id_of(record) == model_id]
        return frozenset(Digest(found.decode()) for found in _DIGEST.findall(orjson.dumps(listed)))

    def _replaced(self, records: tuple[Any, ...]) -> Index:
        unchanged = len(records) == len(self.records) and all(map(_is, records, self.records))
        return self if unchanged else attrs.evolve(self, records=records)


def _is(left: object, right: object) -> bool:
    return left is right


def _id_of(record: Any) -> Digest | None:
    text = record.get("id") if isinstance(record, dict) else None
    if not isinstance(text, str):
        return None
    try:
        return Digest.parse(text)
    except InvalidRequestError:
        return None


def _tags_of(record: Any) -> list[Any]:
    tags = record.get("tags") if isinstance(record, dict) else None
    return tags if isinstance(tags, list) else []


def _with_tag(record: dict[str, Any], canonical: str) -> dict[str, Any]:
    tags = _tags_of(record)
    return record if canonical in map(_canonical, tags) else {**record, "tags": [*tags, canonical]}


def _without_tag(record: Any, canonical: str) -> Any:
    tags = _tags_of(record)
    kept = [tag for tag in tags if _canonical(tag) != canonical]
    return record if len(kept) == len(tags) else {**record, "tags": kept}


def _with_hub_names(record: Any) -> Any:
    tags = _tags_of(record)
    if not any(isinstance(tag, str) and tag.startswith(_OLD_HUB) for tag in tags):
        return record
    renamed = [
        _HUB + tag.removeprefix(_OLD_HUB) if isinstance(tag, str) and tag.startswith(_OLD_HUB) else tag for tag in tags
    ]
    return {**record, "tags": list(dict.fromkeys(renamed))}


def _canonical(tag: Any) -> str | None:
    return _parse_tag(tag) if isinstance(tag, str) else None


@lru_cache(maxsize=4096)
def _parse_tag(tag: str) -> str | None:
    # Short spellings date from versions without other default registries: they mean Docker Hub.
    try:
        return parse_reference(tag, ReferencePolicy()).canonical
    except InvalidReferenceError:
        return None
