"""What the service of maintenance adds to the port: nothing in use goes, and what is gone is forgotten."""

from __future__ import annotations

import re

import pytest

from dmr_core.domain.store_report import Collected, Collection, GarbageKind
from dmr_core.errors import PreconditionError
from dmr_core.services.maintenance import UnmaintainedStore, _listed


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["one"], "'one' is"),
        (["one", "two"], "'one', 'two' are"),
        (["a", "b", "c", "d", "e"], "'a', 'b', 'c' and 2 more are"),
    ],
)
def test_models_that_answer_are_named_but_not_all_of_many(names: list[str], text: str) -> None:
    assert _listed(names) == text


async def test_a_store_of_somebody_else_is_left_to_them() -> None:
    maintenance = UnmaintainedStore()
    for work in (maintenance.collect(), maintenance.check(), maintenance.clear(), maintenance.usage()):
        with pytest.raises(PreconditionError, match=re.escape("somebody else")):
            await work


def test_a_collection_adds_up() -> None:
    collection = Collection(
        dry_run=True,
        collected=(
            Collected(kind=GarbageKind.BLOB, count=2, size=10),
            Collected(kind=GarbageKind.PARTIAL, count=1, size=5),
        ),
    )
    assert (collection.count, collection.size) == (3, 15)
    assert collection.of(GarbageKind.BLOB).count == 2
    assert collection.of(GarbageKind.MODEL) == Collected(kind=GarbageKind.MODEL, count=0, size=0)
