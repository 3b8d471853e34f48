"""An engine's answer in Ollama's words."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmr_adapters.http.ollama.lines import AnswerLines, Kind, Times, figures, rfc3339
from dmr_adapters.http.ollama.messages import image_url, translate_messages
from dmr_adapters.http.ollama.names import thinks
from dmr_adapters.http.ollama.pieces import Piece, Usage, piece_of, usage_of
from dmr_adapters.http.ollama.request import Message, ToolCall
from dmr_adapters.http.ollama.transfer import progress_document
from dmr_adapters.http.ollama.vectors import limit_in, read_vectors, shortened
from dmr_core.domain.digest import Digest
from dmr_core.domain.progress import LayerProgress, Progress, ProgressKind, TransferMode
from dmr_core.errors import InvalidRequestError, UpstreamError

WORDS = [
    "choices",
    "delta",
    "message",
    "text",
    "content",
    "tool_calls",
    "function",
    "arguments",
    "index",
    "usage",
    "timings",
    "logprobs",
    "finish_reason",
    "prompt_tokens",
    "prompt_ms",
    "top_logprobs",
    "stop",
    "name",
    "id",
]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(WORDS),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)
DIGEST = Digest("a" * 64)


@given(st.lists(JSON, max_size=5), st.booleans())
def test_whatever_an_engine_sends_becomes_lines_or_an_error_of_the_engine(documents: list[Any], chat: bool) -> None:
    lines = AnswerLines(Kind(chat=chat), "m")
    try:
        said = [line for document in documents for line in lines.feed(piece_of(document), 0.0)]
        usage = next(filter(None, map(usage_of, documents)), None)
        said.append(lines.end(0.0, figures(Times(1, 0, 0.5, 0.5), usage)))
    except UpstreamError:
        return
    found = [json.loads(line) for line in said]
    assert [one["done"] for one in found] == [False] * (len(found) - 1) + [True]
    assert all(("message" in one) is chat and ("response" in one) is not chat for one in found)
    assert all(isinstance(value, int) and value >= 0 for key, value in found[-1].items() if key.endswith("_duration"))


@given(st.integers(0, 16))
def test_calls_are_whole_however_they_are_cut(cut: int) -> None:
    text = '{"city": "Bonn"}'
    lines = AnswerLines(Kind(chat=True), "m")
    said: list[Any] = []
    for number, part in enumerate((text[:cut], text[cut:])):
        function = {"arguments": part, **({"name": "f"} if number == 0 else {})}
        said += lines.feed(Piece(calls=({"index": 0, "function": function},)), 0.0)
    said += lines.feed(Piece(reason="tool_calls"), 0.0)
    (line,) = said
    assert json.loads(line)["message"]["tool_calls"] == [
        {"function": {"index": 0, "name": "f", "arguments": {"city": "Bonn"}}}
    ]


def test_figures_are_the_engines_where_it_tells_them() -> None:
    times = Times(total=1.0, load=0.25, prompt=0.5, answer=0.125)
    assert figures(times, None) == {
        "total_duration": 1_000_000_000,
        "load_duration": 250_000_000,
        "prompt_eval_duration": 500_000_000,
        "eval_duration": 125_000_000,
    }
    told = figures(times, Usage(prompt=3, answer=2, prompt_ms=1.5, answer_ms=float("inf")))
    assert (told["prompt_eval_duration"], told["eval_duration"], told["prompt_eval_count"]) == (1_500_000, 0, 3)


def test_usage_of_llamacpps_timings_alone() -> None:
    found = usage_of({"timings": {"prompt_n": 1, "cache_n": 14, "predicted_n": 3, "prompt_ms": 0.5, "predicted_ms": 2}})
    assert found == Usage(prompt=15, answer=3, prompt_ms=0.5, answer_ms=2)
    assert usage_of({"choices": []}) is None


def test_times_are_rfc_3339() -> None:
    assert rfc3339(0) == "1970-01-01T00:00:00.000000Z"


def test_results_find_their_calls() -> None:
    def call(name: str, **more: Any) -> ToolCall:
        return msgspec.convert({"function": {"name": name, "arguments": msgspec.Raw(b"{}")}, **more}, ToolCall)

    made = translate_messages(
        [
            Message("assistant", tool_calls=[call("a"), call("b"), call("c", id="mine")]),
            Message("tool", "B", tool_name="b"),
            Message("tool", "C", tool_call_id="mine"),
            Message("tool", "A"),
            Message("tool", "nobody asked"),
        ]
    )
    assert [one["id"] for one in made[0]["tool_calls"]] == ["call_0", "call_1", "mine"]
    assert [one["tool_call_id"] for one in made[1:]] == ["call_1", "mine", "call_0", "call_0"]


@pytest.mark.parametrize(("raw", "text"), [(b'{"a":1}', '{"a":1}'), (b'"{\\"a\\":1}"', '{"a":1}'), (b"null", "{}")])
def test_arguments_are_text_to_engines(raw: bytes, text: str) -> None:
    body = b'{"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":' + raw + b"}}]}"
    (made,) = translate_messages([msgspec.json.decode(body, type=Message)])
    assert made["tool_calls"][0]["function"]["arguments"] == text
    with pytest.raises(InvalidRequestError):
        translate_messages([msgspec.json.decode(body.replace(raw, b"[1]"), type=Message)])


@pytest.mark.parametrize(
    ("image", "begin"),
    [
        ("/9j/4A", "data:image/jpeg;"),
        ("iVBORw", "data:image/png;"),
        ("R0lG", "data:image/gif;"),
        (" UklG", "data:image/webp;"),
        ("xx", "data:image/jpeg;"),
        ("http://x", "http://x"),
    ],
)
def test_images(image: str, begin: str) -> None:
    assert image_url(image).startswith(begin)


def test_vectors() -> None:
    assert shortened([3.0, 4.0, 9.0], 2) == [0.6, 0.8]
    assert shortened([0.0, 0.0], 1) == [0.0]
    assert read_vectors(b'{"data":[{"index":1,"embedding":[2]},{"index":0,"embedding":[1]}]}').all() == [[1.0], [2.0]]
    for content in (b"{}", b"[", b'{"data":[{"embedding":"x"}]}'):
        with pytest.raises(UpstreamError):
            read_vectors(content)
    assert limit_in("input (3 tokens) is too large to process. increase ... (current batch size: 512)") == 512
    assert limit_in("exceeds the available context size (1024 tokens)") == 1024
    assert limit_in("something else 512") is None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (Progress(kind=ProgressKind.SUCCESS, message="x", mode=TransferMode.PULL), {"status": "success"}),
        (Progress(kind=ProgressKind.PROGRESS, message="Waiting", mode=TransferMode.PULL), {"status": "Waiting"}),
        (Progress(kind=ProgressKind.WARNING, message="careful", mode=TransferMode.PULL), {"status": "careful"}),
        (Progress(kind=ProgressKind.ERROR, message="no", mode=TransferMode.PULL), {"error": "no"}),
        (
            Progress(kind=ProgressKind.PROGRESS, message="", mode=TransferMode.PUSH, layer=LayerProgress(DIGEST, 9, 4)),
            {"status": "pushing aaaaaaaaaaaa", "digest": str(DIGEST), "total": 9, "completed": 4},
        ),
        (
            Progress(kind=ProgressKind.PROGRESS, message="", mode=TransferMode.PULL, layer=LayerProgress(DIGEST, 9, 0)),
            {"status": "pulling aaaaaaaaaaaa", "digest": str(DIGEST), "total": 9},
        ),
    ],
)
def test_progress(line: Progress, expected: dict[str, Any]) -> None:
    assert progress_document(line) == expected


def test_templates_that_know_thoughts() -> None:
    assert thinks("{% if enable_thinking %}")
    assert not thinks("{{ messages }}")
