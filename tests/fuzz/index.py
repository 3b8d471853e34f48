"""The index of a store, which other programs write too."""

from __future__ import annotations

from dmr_adapters.model_store.index import Index
from dmr_core.domain.digest import Digest

__all__ = ["target"]

_OTHER = Digest("e" * 64)
_TAG = "docker.io/ai/tagged:latest"


def target(data: bytes) -> None:
    """Parse and change; a change touches what it is about, and what was read once reads the same again."""
    try:
        index = Index.parse(data)
    except ValueError:
        return
    entries = tuple(index.entries())
    tags = [tag for entry in entries for tag in entry.tags]
    assert len(set(tags)) == len(tags)
    assert len({entry.id for entry in entries}) == len(entries)
    assert tuple(Index.parse(index.encode()).entries()) == entries
    assert tuple(index.reparse(index.encode()).entries()) == entries
    assert index.with_tag(Digest("d" * 64), _TAG) is index or Digest("d" * 64) in index
    changed = index.with_model(_OTHER, (_OTHER,)).with_tag(_OTHER, _TAG).with_hub_names()
    assert next(entry for entry in changed.entries() if _TAG in entry.tags).id == _OTHER
    assert tuple(Index.parse(changed.encode()).entries()) == tuple(changed.entries())
    for entry in entries[:8]:
        without = changed.without_model(entry.id)
        assert entry.id not in without
        assert tuple(Index.parse(without.encode()).entries()) == tuple(without.entries())
        assert changed.needed_without(entry.id, [_OTHER]) == ({_OTHER} if entry.id != _OTHER else set())
        changed.files_of(entry.id)
    assert all(_TAG not in entry.tags for entry in changed.without_tag(_TAG).entries())
