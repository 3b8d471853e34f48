"""The index as a value: a change touches what it is about, and reads no more than that."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dmr_adapters.model_store.index import Index, IndexEntry
from dmr_core.domain.digest import Digest
from dmr_core.domain.reference import parse_reference

A, B, C = (Digest(letter * 64) for letter in "abc")
ONE, TWO = "docker.io/ai/one:latest", "docker.io/ai/two:latest"


def record(model_id: Digest, *tags: Any, **more: Any) -> dict[str, Any]:
    return {"id": str(model_id), "tags": list(tags), "files": [], **more}


def index(*records: Any, **more: Any) -> Index:
    return Index.parse(json.dumps({"models": list(records), **more}).encode())


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tags that are parsed from now on."""
    seen: list[str] = []

    def parse(text: str, policy: Any) -> Any:
        seen.append(text)
        return parse_reference(text, policy)

    monkeypatch.setattr("dmr_adapters.model_store.index.parse_reference", parse)
    return seen


def test_the_first_entry_with_an_id_or_a_tag_has_it() -> None:
    found = index(record(A, "ai/one", ONE), record(B, ONE, "two"), record(A, TWO), 7, {"id": 1}, record(C, 5, None))

    assert tuple(found.entries()) == (IndexEntry(A, (ONE,)), IndexEntry(B, (TWO,)), IndexEntry(C, ()))


def test_a_tag_leaves_every_other_model_however_it_is_spelled() -> None:
    tagged = index(record(A, "ai/one", 5), record(B, TWO)).with_tag(B, ONE)

    assert tagged.records == (record(A, 5), record(B, TWO, ONE))
    assert tagged.with_tag(B, ONE) is tagged
    assert tagged.with_tag(C, ONE) is tagged
    assert tagged.without_tag(ONE).records == (record(A, 5), record(B, TWO))
    assert tagged.without_tag("docker.io/ai/other:latest") is tagged


def test_a_model_comes_once_and_goes_with_all_its_entries() -> None:
    both = index(record(A), record(B), record(A)).with_model(A, ()).with_model(C, (C,))

    assert [entry.id for entry in both.entries()] == [A, B, C]
    assert both.files_of(C) == {C}
    assert [entry.id for entry in both.without_model(A).entries()] == [B, C]
    assert both.without_model(Digest("d" * 64)) is both


def test_what_another_entry_names_anywhere_is_needed() -> None:
    whole = index(record(A, files=[str(A), str(B)]), record(B, files=[str(C)], note=f"see {A}"), f"{B}")

    assert whole.needed_without(A, (A, B, C, Digest("d" * 64))) == {A, B, C}
    assert whole.needed_without(B, (A, B, C)) == {A, B}


def test_a_change_reads_only_the_tags_it_touches(parsed: list[str]) -> None:
    whole = index(record(A, ONE), record(B, TWO), record(C, "three"))
    parsed.clear()

    changed = whole.with_tag(B, "docker.io/ai/four:latest").with_model(Digest("d" * 64), ()).without_model(C)
    entries = tuple(changed.entries())

    assert [entry.id for entry in entries] == [A, B, Digest("d" * 64)]
    assert parsed == [TWO, "docker.io/ai/four:latest"]


def test_what_another_program_left_as_it_was_is_not_read_again(parsed: list[str]) -> None:
    whole = index(record(A, ONE), record(B, TWO))
    other = index(record(C, "three"), record(A, ONE), record(B, TWO, "four"), {"id": []}, 7, version=2)
    parsed.clear()

    reparsed = whole.reparse(other.encode())

    assert parsed == ["three", TWO, "four"]
    assert reparsed == other
    assert tuple(reparsed.entries()) == tuple(other.entries())


def test_old_hub_names_are_spelled_out_among_tags_of_any_kind() -> None:
    renamed = index(record(A, "hf.co/a/b", [], [], "huggingface.co/a/b")).with_hub_names()

    assert renamed.records == (record(A, "huggingface.co/a/b", [], []),)
    assert renamed.with_hub_names() is renamed


@pytest.mark.parametrize("text", ["[]", '{"models": 7}', "{", '{"more": ' + "[" * 500 + "]" * 500 + "}"])
def test_what_is_no_index_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Index.parse(text.encode())
    with pytest.raises(ValueError, match=r"."):
        index(record(A)).reparse(text.encode())
