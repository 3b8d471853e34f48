"""Which mode a configuration is for, from what it says and from its flags."""

from __future__ import annotations

import json

import pytest

from dmr_adapters.http.configure_body import ConfigureBody
from dmr_core.domain.engine import EngineMode
from dmr_core.errors import InvalidConfigurationError

COMPLETION, EMBEDDING, RERANKING = EngineMode.COMPLETION, EngineMode.EMBEDDING, EngineMode.RERANKING


def read(said: str | None, flags: tuple[str, ...]) -> ConfigureBody:
    return ConfigureBody.read(json.dumps({"model": "m", "mode": said, "runtime-flags": flags}).encode())


@pytest.mark.parametrize(
    ("said", "flags", "mode"),
    [
        (None, (), COMPLETION),
        (None, ("--embedding",), EMBEDDING),
        (None, ("-c", "1", "--embeddings"), EMBEDDING),
        (None, ("--rerank",), RERANKING),
        (None, ("--reranking", "--embeddings"), RERANKING),
        (None, ("--embeddings", "--reranking"), RERANKING),
        ("embedding", (), EMBEDDING),
        ("embedding", ("--embeddings",), EMBEDDING),
        ("reranking", ("--embeddings",), RERANKING),
        ("Reranking", ("--rerank",), RERANKING),
        ("completion", ("-c", "1"), COMPLETION),
    ],
)
def test_the_mode_is_what_was_said_or_what_the_flags_imply(
    said: str | None, flags: tuple[str, ...], mode: EngineMode
) -> None:
    assert mode is read(said, flags).mode


@pytest.mark.parametrize(
    ("said", "flags"),
    [("completion", ("--embeddings",)), ("embedding", ("--rerank",)), ("completion", ("--reranking", "--embedding"))],
)
def test_a_mode_that_the_flags_contradict_is_refused(said: str, flags: tuple[str, ...]) -> None:
    with pytest.raises(InvalidConfigurationError, match=f"mode '{said}' contradicts the runtime flags") as caught:
        read(said, flags)
    assert caught.value.param == "mode"
