"""What of a request is bounded before an engine sees it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmr_adapters.http.inference.body import decode_body
from dmr_adapters.http.inference.bounds import MAX_DEPTH, check_shape
from dmr_core.errors import InvalidRequestError


def decode(**fields: Any) -> None:
    decode_body(json.dumps({"model": "m", **fields}).encode())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 0),
        ("n", -1),
        ("n", 129),
        ("n", "1"),
        ("best_of", 1000),
        ("max_tokens", -3),
        ("max_tokens", 2**31),
        ("max_tokens", 10**40),
        ("max_completion_tokens", 2**31),
        ("n_predict", -100),
        ("n_predict", 2**63),
        ("top_logprobs", 129),
        ("top_logprobs", -1),
        ("logprobs", 1000),
        ("n_probs", 10**6),
        ("n_discard", -1),  # CVE-2026-21869
        ("n_keep", -2),
        ("id_slot", 1024),
        ("top_k", 2**31),
        ("mirostat", 3),
        ("dimensions", 0),
        ("seed", 2**64),
        ("temperature", 1e9),
        ("top_p", 1.01),
        ("min_p", -0.1),
        ("logit_bias", {str(number): 1 for number in range(1025)}),
        ("stop", ["x"] * 257),
        ("messages", [{}] * 16_385),
        ("tools", [{"a,b": ["c,d"]}] * 1025),
        ("documents", [","] * 16_385),
        ("lora", [1] * 65),
    ],
)
def test_what_no_engine_can_mean_is_refused_by_its_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        decode(**{name: value})

    assert caught.value.param == name
    assert name in caught.value.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 128),
        ("n", None),
        ("max_tokens", -1),
        ("max_tokens", 0),
        ("max_tokens", 2**31 - 1),
        ("max_tokens", 100.0),
        ("n_predict", -2),
        ("logprobs", True),
        ("logprobs", 5),
        ("top_k", -1),
        ("seed", -1),
        ("seed", 2**63 - 1),
        ("temperature", 0),
        ("temperature", 2.0),
        ("top_p", 1),
        ("logit_bias", {str(number): 1 for number in range(1024)}),
        ("logit_bias", [[1, 2], [3, -100]]),
        ("stop", None),
        ("stop", ",".join("x" * 2000)),
        ("stop", ["a,b,c" * 100] * 256),
        ("messages", [{"content": "a, b, c, " * 10}] * 16_384),
        ("input", list(range(200_000))),
        ("some_future_field", {"a": -1}),
    ],
)
def test_what_some_engine_may_offer_is_left_to_it(name: str, value: Any) -> None:
    decode(**{name: value})


@pytest.mark.parametrize("brackets", [(b"[", b"]"), (b'{"a":', b"}")])
def test_nesting_is_bounded(brackets: tuple[bytes, bytes]) -> None:
    opening, closing = brackets
    check_shape(opening * MAX_DEPTH + b"1" + closing * MAX_DEPTH)
    with pytest.raises(InvalidRequestError, match="nested deeper than 128 levels"):
        check_shape(opening * (MAX_DEPTH + 1) + b"1" + closing * (MAX_DEPTH + 1))


def test_a_request_of_nothing_but_brackets_is_refused_before_it_is_walked() -> None:
    with pytest.raises(InvalidRequestError, match="too many objects and arrays"):
        check_shape(b"[" + b"[]," * 1_000_000 + b"1]")


def test_a_million_fields_are_refused_before_they_are_decoded() -> None:
    with pytest.raises(InvalidRequestError, match="more than 1024 fields"):
        check_shape(json.dumps(dict.fromkeys(map(str, range(100_000)))).encode())


@given(st.text(alphabet='[{"\\x', max_size=20))
def test_brackets_in_strings_are_no_structure(text: str) -> None:
    """Whatever is escaped in them."""
    check_shape(json.dumps({"model": "m", "text": [text, "[" * 200, text, "\\", "{" * 200, '"']}).encode())


@given(st.recursive(st.text(alphabet='a[{"\\,', max_size=4), lambda inner: st.lists(inner, max_size=3), max_leaves=6))
def test_a_deep_value_is_found_behind_any_strings(value: Any) -> None:
    deep: Any = "x"
    for _ in range(MAX_DEPTH + 1):
        deep = [deep]
    with pytest.raises(InvalidRequestError):
        check_shape(json.dumps([value, deep]).encode())
