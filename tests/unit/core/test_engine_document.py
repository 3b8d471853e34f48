"""Engine settings as JSON: what is written is read again, what is wrong is named, and changes merge."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmr_core.domain.engine import EngineConfig, Speculative
from dmr_core.domain.engine_document import engine_document, merged, read_engine_document
from dmr_core.domain.keep_alive import KeepAlive
from dmr_core.errors import InvalidConfigurationError

FULL = {
    "context-size": 4096,
    "runtime-flags": ["--temp", "0.5"],
    "speculative": {"draft_model": "ai/x", "num_tokens": 5, "min_acceptance_rate": 0.5},
    "keep_alive": "10m0s",
    "max-concurrency": 4,
    "vllm": {"hf-overrides": {"k": 1}},
    "llamacpp": {"reasoning-budget": -1},
}


def test_every_key_is_read_and_written() -> None:
    config = read_engine_document(FULL)
    assert config == EngineConfig(
        context_size=4096,
        runtime_flags=("--temp", "0.5"),
        speculative=Speculative(draft_model="ai/x", num_tokens=5, min_acceptance_rate=0.5),
        keep_alive=KeepAlive(600.0),
        concurrency=4,
        sections={"vllm": {"hf-overrides": {"k": 1}}, "llamacpp": {"reasoning-budget": -1}},
    )
    assert engine_document(config) == FULL
    assert read_engine_document({}) == EngineConfig()


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({"context-size": 0}, "context-size"),
        ({"context-size": -2}, "context-size"),
        ({"context-size": 2**31}, "context-size"),
        ({"context-size": True}, "context-size"),
        ({"context-size": "4096"}, "context-size"),
        ({"runtime-flags": "--temp 1"}, "runtime-flags"),
        ({"runtime-flags": [1]}, "runtime-flags"),
        ({"keep_alive": 5}, "keep_alive"),
        ({"keep_alive": "soon"}, "keep_alive"),
        ({"max-concurrency": 0}, "max-concurrency"),
        ({"speculative": "ai/x"}, "speculative"),
        ({"speculative": {"draft": "ai/x"}}, "speculative.draft"),
        ({"speculative": {"draft_model": 1}}, "speculative.draft_model"),
        ({"speculative": {"draft_model": "x", "num_tokens": -1}}, "speculative.num_tokens"),
        ({"speculative": {"draft_model": "x", "min_acceptance_rate": 2}}, "speculative.min_acceptance_rate"),
        ({"context_size": 4096}, "context_size"),
        ({"llamacpp": 5}, "llamacpp"),
    ],
)
def test_what_is_wrong_is_named(document: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidConfigurationError) as caught:
        read_engine_document(document)
    assert caught.value.param == named
    assert named in caught.value.message


# The examples of RFC 7396, appendix A, as far as both sides are objects.
@pytest.mark.parametrize(
    ("document", "change", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_changes_merge(document: dict[str, Any], change: dict[str, Any], result: dict[str, Any]) -> None:
    before = repr(document)
    assert merged(document, change) == result
    assert repr(document) == before


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*FULL, "other"]), json_values, max_size=5))
def test_whatever_is_sent_is_read_or_refused(document: dict[str, Any]) -> None:
    try:
        config = read_engine_document(document)
    except InvalidConfigurationError:
        return
    assert read_engine_document(engine_document(config)) == config
