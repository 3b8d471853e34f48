"""Ollama's options as an engine's fields."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmr_adapters.http.inference.bounds import check_fields
from dmr_adapters.http.ollama.options import OPTIONS, Translated, context_wanted, translate_options
from dmr_core.errors import InvalidRequestError

NAMES = [*OPTIONS, "stop", "num_gpu", "num_ctx", "nonsense"]
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=True),
    st.text(),
    st.lists(st.text() | st.integers(), max_size=4),
)


@given(st.dictionaries(st.sampled_from(NAMES), VALUES))
def test_whatever_is_said_is_translated_named_or_refused(options: dict[str, Any]) -> None:
    refused = None
    made = Translated()
    try:
        made = translate_options(options, lambda _field: True)
    except InvalidRequestError as exc:
        refused = exc.param or "nothing"
    if refused is not None:
        assert refused.removeprefix("options.") in options
        return
    ignored = {name.removeprefix("options.") for name in made.ignored}
    assert ignored == {name for name in ("num_gpu", "nonsense") if options.get(name) is not None}
    # What gets through is within the bounds of every other route.
    check_fields({name: msgspec.Raw(msgspec.json.encode(value)) for name, value in made.fields.items()})


def test_every_option_has_its_field() -> None:
    options = {"temperature": 0.5, "num_predict": 5, "num_keep": 2, "repeat_penalty": 1.1, "typical_p": 1, "stop": "x"}
    made = translate_options(options, lambda _field: True)
    assert made.fields == {
        "temperature": 0.5,
        "max_tokens": 5,
        "n_keep": 2,
        "repeat_penalty": 1.1,
        "typical_p": 1,
        "stop": ["x"],
    }


def test_what_an_engine_does_not_honour_is_named() -> None:
    made = translate_options({"mirostat": 1, "repeat_penalty": 1.1}, {"repetition_penalty"}.__contains__)
    assert (made.fields, made.ignored) == ({"repetition_penalty": 1.1}, ["options.mirostat"])


@pytest.mark.parametrize("value", [-1, -2])
def test_no_bound_on_the_answer_is_none(value: int) -> None:
    assert translate_options({"num_predict": value}, lambda _field: True).fields == {}


def test_the_context_that_is_wanted() -> None:
    assert [context_wanted(options) for options in ({}, {"num_ctx": None}, {"num_ctx": 0}, {"num_ctx": 4096.0})] == [
        None,
        None,
        None,
        4096,
    ]
    with pytest.raises(InvalidRequestError, match="num_ctx"):
        context_wanted({"num_ctx": -5})
