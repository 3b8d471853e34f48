"""The index document, ``models.json``, as a value.

It is shared with the reference runner and with other versions of dmr, so a change touches exactly
what it is about: unknown fields, entries that cannot be read and tags in older spellings stay as
they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
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
class _Facts:
    """What is read off a record, once: ``tags`` are its tags in order, ``None`` for one that cannot be read."""

    id: Digest | None
    tags: tuple[str | None, ...]

    @classmethod
    def of(cls, record: Any) -> _Facts:
        return cls(_id_of(record), tuple(map(_canonical, _tags_of(record))))


@attrs.frozen
class Index:
    """The whole document. Every change returns a new index, or the same one when nothing changes.

    A change takes time in proportion to the number of records, but reads only the ones it touches:
    with ten thousand models the tags of all of them would take a tenth of a second.
    """

    document: Mapping[str, Any] = attrs.field(factory=dict)
    records: tuple[Any, ...] = ()
    _facts: tuple[_Facts, ...] = attrs.field(init=False, eq=False, repr=False)

    @_facts.default
    def _read(self) -> tuple[_Facts, ...]:
        return tuple(map(_Facts.of, self.records))

    @classmethod
    def parse(cls, data: bytes) -> Index:
        """Read the document; ``models`` and ``tags`` may be ``null``.

        Raises:
            ValueError: it is not an index.
        """
        return cls(*_load(data))

    def reparse(self, data: bytes) -> Index:
        """As :meth:`parse`; records that are here already are not read again.

        Raises:
            ValueError: it is not an index.
        """
        document, records = _load(data)
        here = {record["id"]: number for number, record in enumerate(self.records) if self._facts[number].id}
        shared, facts = [], []
        for record in records:
            name = record.get("id") if isinstance(record, dict) else None
            number = here.get(name) if isinstance(name, str) else None
            if number is not None and self.records[number] == record:
                shared.append(self.records[number])
                facts.append(self._facts[number])
            else:
                shared.append(record)
                facts.append(_Facts.of(record))
        return _index(document, shared, facts)

    def encode(self) -> bytes:
        """The document as the reference writes it: two spaces, no newline at the end."""
        return orjson.dumps({**self.document, "models": list(self.records)}, option=orjson.OPT_INDENT_2)

    def entries(self) -> Iterator[IndexEntry]:
        """Every model, in order. The first entry with an ID or a tag has it."""
        ids: set[Digest] = set()
        taken: set[str] = set()
        for facts in self._facts:
            if facts.id is None or facts.id in ids:
                continue
            tags = tuple(dict.fromkeys(tag for tag in facts.tags if tag and tag not in taken))
            ids.add(facts.id)
            taken.update(tags)
            yield IndexEntry(facts.id, tags)

    def __contains__(self, model_id: Digest) -> bool:
        return any(facts.id == model_id for facts in self._facts)

    def with_model(self, model_id: Digest, files: tuple[Digest, ...]) -> Index:
        """Add a model at the end, untagged, unless it is here. ``files`` are layers, then the config."""
        if model_id in self:
            return self
        record = {"id": str(model_id), "tags": [], "files": [str(digest) for digest in files]}
        return _index(self.document, (*self.records, record), (*self._facts, _Facts.of(record)))

    def without_model(self, model_id: Digest) -> Index:
        """Drop a model."""
        kept = [number for number, facts in enumerate(self._facts) if facts.id != model_id]
        if len(kept) == len(self.records):
            return self
        return _index(self.document, map(self.records.__getitem__, kept), map(self._facts.__getitem__, kept))

    def with_tag(self, model_id: Digest, canonical: str) -> Index:
        """Give a tag to a model, taking it from every other one. Nothing happens if there is no such model."""
        holder = next((number for number, facts in enumerate(self._facts) if facts.id == model_id), None)
        if holder is None:
            return self
        changes: dict[int, Any] = {number: record for number, record in self._untagged(canonical) if number != holder}
        if canonical not in self._facts[holder].tags:
            record = self.records[holder]
            changes[holder] = {**record, "tags": [*_tags_of(record), canonical]}
        return self._changed(changes)

    def without_tag(self, canonical: str) -> Index:
        """Take a tag away from whoever has it, however it is spelled there."""
        return self._changed(dict(self._untagged(canonical)))

    def with_hub_names(self) -> Index:
        """Spell out ``hf.co`` in tags, as the reference does when it starts."""
        renamed = ((number, _with_hub_names(record)) for number, record in enumerate(self.records))
        return self._changed({number: record for number, record in renamed if record is not self.records[number]})

    def needed_without(self, model_id: Digest, digests: Iterable[Digest]) -> frozenset[Digest]:
        """Those of ``digests`` that the other entries name, in whatever field, whether or not they can be read."""
        others = [record for record, facts in zip(self.records, self._facts, strict=True) if facts.id != model_id]
        named = set(_DIGEST.findall(orjson.dumps(others)))
        return frozenset(digest for digest in digests if digest.hex.encode() in named)

    def files_of(self, model_id: Digest) -> frozenset[Digest]:
        """The blobs that the entry of a model lists."""
        entries = zip(self.records, self._facts, strict=True)
        return _digests_in([record.get("files") for record, facts in entries if facts.id == model_id])

    def _untagged(self, canonical: str) -> Iterator[tuple[int, Any]]:
        """Every record with this tag as it is without it, and its number."""
        for number, facts in enumerate(self._facts):
            if canonical in facts.tags:
                tags = zip(_tags_of(self.records[number]), facts.tags, strict=True)
                yield number, {**self.records[number], "tags": [tag for tag, read in tags if read != canonical]}

    def _changed(self, changes: Mapping[int, Any]) -> Index:
        """This index with other records in some places."""
        if not changes:
            return self
        records, facts = list(self.records), list(self._facts)
        for number, record in changes.items():
            records[number], facts[number] = record, _Facts.of(record)
        return _index(self.document, records, facts)


def _index(document: Mapping[str, Any], records: Iterable[Any], facts: Iterable[_Facts]) -> Index:
    """An index whose records have been read."""
    index = Index(document)
    object.__setattr__(index, "records", tuple(records))
    object.__setattr__(index, "_facts", tuple(facts))
    return index


def _load(data: bytes) -> tuple[dict[str, Any], tuple[Any, ...]]:
    document = orjson.loads(data)
    if document is None:
        return {}, ()
    try:
        orjson.dumps(document)
    except TypeError as exc:  # it reads what is nested deeper than it writes
        raise ValueError(str(exc)) from exc
    if not isinstance(document, dict):
        raise ValueError("expected an object")  # noqa: TRY004 - one error for one condition
    records = document.get("models")
    if records is not None and not isinstance(records, list):
        raise ValueError("expected a list in 'models'")
    return document, tuple(records or ())


def _digests_in(value: Any) -> frozenset[Digest]:
    return frozenset(Digest(found.decode()) for found in set(_DIGEST.findall(orjson.dumps(value))))


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


def _with_hub_names(record: Any) -> Any:
    tags = _tags_of(record)
    if not any(isinstance(tag, str) and tag.startswith(_OLD_HUB) for tag in tags):
        return record
    renamed: list[Any] = []
    for tag in tags:
        name = _HUB + tag.removeprefix(_OLD_HUB) if isinstance(tag, str) and tag.startswith(_OLD_HUB) else tag
        if not isinstance(name, str) or name not in renamed:
            renamed.append(name)
    return {**record, "tags": renamed}


def _canonical(tag: Any) -> str | None:
    if not isinstance(tag, str):
        return None
    # Short spellings date from versions without other default registries: they mean Docker Hub.
    try:
        return parse_reference(tag, ReferencePolicy()).canonical
    except InvalidReferenceError:
        return None
