"""Media elsewhere: refused in every dialect's words, however it is written."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dmr_adapters.http.inference.media import check_media
from dmr_core.errors import InvalidRequestError

DATA = "data:image/png;base64,iVBORw0KGgo="


def shapes(url: str) -> list[dict[str, Any]]:
    """One address as OpenAI, vLLM, Anthropic and Responses take it."""
    parts: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
        {"type": "image_url", "image_url": url},
        {"type": "audio_url", "audio_url": {"url": url}},
        {"type": "video_url", "video_url": {"url": url}},
        {"type": "image", "source": {"type": "url", "url": url}},
        {"type": "document", "source": {"type": "url", "url": url}},
        {"type": "tool_result", "content": [{"type": "image", "source": {"type": "url", "url": url}}]},
    ]
    bodies = [{"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}, part]}]} for part in parts]
    given: list[dict[str, Any]] = [{"type": "input_image", "image_url": url}, {"type": "input_file", "file_url": url}]
    bodies += [{"input": [{"role": "user", "content": [part]}]} for part in given]
    return [*bodies, {"query": {"content": [parts[0]]}, "documents": [{"content": [parts[0]]}]}]


def check(body: object, *, allow_remote: bool = False) -> None:
    check_media(json.dumps(body).encode(), allow_remote=allow_remote)


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data",
        "https://example.com/cat.png",
        " HTTPS://example.com/cat.png",
        "\thttp://example.com",
        "file:///etc/passwd",
        "FILE:/etc/passwd",
        "ftp://example.com/x",
        "gopher://example.com/x",
        "s3://bucket/x",
    ],
)
def test_addresses_are_refused_wherever_a_dialect_takes_them(url: str) -> None:
    for body in shapes(url):
        with pytest.raises(InvalidRequestError, match="data: URL") as caught:
            check(body)
        assert caught.value.param in body
        assert "example.com" not in caught.value.message  # nothing of the address goes into logs


@pytest.mark.parametrize("url", [DATA, "DATA:image/png;base64,AA", "iVBORw0KGgo="])
def test_data_within_the_request_is_fine(url: str) -> None:
    for body in shapes(url):
        check(body)


def test_the_operator_may_allow_the_web_and_never_files() -> None:
    for body in shapes("https://example.com/x"):
        check(body, allow_remote=True)
    for body in shapes("file:///etc/passwd"):
        with pytest.raises(InvalidRequestError, match="cannot be read from file:"):
            check(body, allow_remote=True)


@pytest.mark.parametrize(
    "text",
    [
        rb'{"messages":[{"content":[{"im\u0061ge_url":{"\u0075rl":"http:\/\/x"}}]}]}',
        rb'{"messages":[{"content":[{"image_\u0075\u0072\u006c":"http://x"}]}]}',
        rb'{"messages":[{"content":[{"image_url":"\u0068ttp://x"}]}]}',
        b'{"messages":[{"content":[{"image_url"  :\n\t"http://x"}]}]}',
        b'{"messages":[{"content":[{"image_url":{"url":"data:x","url":"http://x"}}]}]}',
        b'{"messages":[],"messages":[{"image_url":"http://x"}]}',
        rb'{"m\u0065ssages":[{"image_url":"http://x"}]}',
        b'{"messages":[' + b'{"image_url":"data:,"},' * 2000 + b'{"image_url":"http://x"}]}',
    ],
)
def test_an_address_cannot_be_hidden(text: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        check_media(text, allow_remote=False)


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": 'what is {"image_url": {"url": "http://x"}}?'}]},
        {"messages": [{"role": "user", "content": "see http://example.com/url"}]},
        {"messages": [{"tool_calls": [{"function": {"arguments": '{"url":"http://x"}'}}]}]},
        {"messages": [], "tools": [{"function": {"parameters": {"properties": {"url": {"default": "http://x"}}}}}]},
        {"messages": [], "tools": [{"server": {"url": "http://x"}}]},
        {"messages": [], "metadata": {"url": "https://example.com"}},
        {"prompt": '"url": "http://x"'},
        {"input": ["http://a", "http://b"]},
    ],
)
def test_words_are_no_media(body: dict[str, Any]) -> None:
    check(body)


@pytest.mark.parametrize("text", [b'{"url":"x', b'["url":"http://x"]', b'"url":"http://x"'])
def test_what_is_no_json_is_a_bad_request(text: bytes) -> None:
    with pytest.raises(InvalidRequestError):
        check_media(text, allow_remote=False)
