"""Media and secrets taken out of texts and JSON."""

from __future__ import annotations

import base64
import json
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmr_core.domain.redaction import redact_body, redact_json, redact_text, shorten

MEDIA = base64.b64encode(random.Random(7).randbytes(3000)).decode()
SECRETS = (
    "sk-proj-abcDEF1234567890xyz",
    "hf_abcdefghijklmnopqrstuv",
    "nvapi-abcdefghijklmnopqrstuv",
    "github_pat_11ABCDEFG0123456789",
    "AKIAABCDEFGHIJKLMNOP",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Authorization: Bearer abc.def-ghi", "Authorization: Bearer ***"),
        ("authorization: Basic dXNlcjpwYXNz", "authorization: Basic ***"),
        ("use Bearer abcdefghijkl please", "use Bearer *** please"),
        ("\\nBearer abcdefghijkl\\nhf_abcdefghijklmnopqrstuv", "\\nBearer ***\\n***"),
        ("API_KEY=hunter22 make", "API_KEY=*** make"),
        ("NGC_API_KEY: hunter22", "NGC_API_KEY: ***"),
        ('{\\"password\\": \\"hunter22\\"}', '{\\"password\\": \\"***\\"}'),
        ("postgres://me:hunter22@db/x", "postgres://me:***@db/x"),
        ("https://h/x?api_key=hunter22&n=1#top", "https://h/x?api_key=***&n=1#top"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----!", "***!"),
        ("-----BEGIN PRIVATE KEY-----\nMIIE cut", "***"),
        *((f"it is {secret}, ok", "it is ***, ok") for secret in SECRETS),
    ],
)
def test_secrets_are_hidden(text: str, expected: str) -> None:
    assert expected == redact_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "max_tokens: 1000, token: Hello",
        "https://example.com/" + "some/long_path-of/names/" * 40 + "cat.png?width=100&height=100",
        "see https://example.com/a?b=c, and s3://bucket/" + "key" * 100,
        "/usr/lib/" + "python3/site-packages/" * 20,
        "a-very-long-slug-" * 30,
        "sha256:" + "0123456789abcdef" * 4,
        "data: hello",
        "data:text/plain,hello%20there",
        "sk-learn is a library",
    ],
)
def test_ordinary_texts_and_urls_stay_whole(text: str) -> None:
    assert text == redact_text(text)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            {"image_url": {"url": f"data:image/png;base64,{MEDIA}"}},
            {"image_url": {"url": "data:image/png;base64,...[truncated 4000 chars]"}},
        ),
        ({"image_url": {"url": MEDIA}}, {"image_url": {"url": "...[truncated 4000 chars]"}}),
        ({"image_url": {"url": "https://h/" + "a" * 300}}, {"image_url": {"url": "https://h/" + "a" * 300}}),
        (
            {"input_audio": {"data": "A" * 101, "format": "wav"}},
            {"input_audio": {"data": "...[truncated 101 chars]", "format": "wav"}},
        ),
        ({"source": {"type": "base64", "data": "A" * 100}}, {"source": {"type": "base64", "data": "A" * 100}}),
        ({"file": {"file_data": MEDIA}}, {"file": {"file_data": "...[truncated 4000 chars]"}}),
        ({"images": [MEDIA, "x"]}, {"images": ["...[truncated 4000 chars]", "x"]}),
        ({"content": f"look: {MEDIA} there"}, {"content": "look: ...[truncated 4000 chars] there"}),
        ({"api-key": "a b c", "x_password": ["p", "q"]}, {"api-key": "***", "x_password": ["***", "***"]}),
        ({"properties": {"password": {"type": "string"}}}, {"properties": {"password": {"type": "string"}}}),
        ({"logprobs": [{"token": "Hello", "logprob": -0.1}]}, {"logprobs": [{"token": "Hello", "logprob": -0.1}]}),
    ],
)
def test_members_are_judged_by_their_names(value: object, expected: object) -> None:
    assert expected == redact_json(value)


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
def test_json_that_was_cut_off_is_redacted_as_text(keep: float) -> None:
    body = json.dumps(
        {"api_key": 'secret"inside', "content": [{"image_url": {"url": f"data:a/b;base64,{MEDIA}"}, "data": MEDIA}]}
    )
    shown = redact_body(body[: int(len(body) * keep)])

    assert "inside" not in shown
    assert MEDIA[:60] not in shown


def test_base64_in_lines_is_media_too() -> None:
    lines = base64.encodebytes(random.Random(8).randbytes(900)).decode()

    assert MEDIA[:40] not in redact_text(f"data:image/png;base64,{MEDIA[:76]}\n{MEDIA}")
    assert len(redact_text(f"here:\n{lines}")) < 60


def test_a_name_that_occurs_twice_hides_nothing() -> None:
    assert "first" not in redact_body('{"password": "first", "password": {}}')


@given(st.binary(max_size=400))
def test_no_bytes_break_it(content: bytes) -> None:
    text = content.decode("utf-8", "replace")
    redact_body(text)
    redact_body('{"messages": "' + text)


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(_JSON, st.binary(min_size=80, max_size=600), st.sampled_from(SECRETS), st.text(" \n,;é", max_size=3))
def test_neither_media_nor_secrets_survive_anywhere(value: object, media: bytes, secret: str, gap: str) -> None:
    payload = base64.b64encode(media).decode()
    body = json.dumps(
        {
            "before": value,
            "messages": [
                {
                    "content": [
                        {"image_url": {"url": f"data:image/png;base64,{payload}"}},
                        {"source": {"data": payload}},
                    ]
                },
                {
                    "content": f"x {gap}{secret}{gap} y",
                    "Authorization": payload,
                    "arguments": json.dumps({"api_key": secret}),
                },
            ],
        }
    )
    for shown in (redact_body(body), redact_body(body[:-2])):
        assert payload not in shown
        assert secret not in shown


@pytest.mark.parametrize(
    "unit",
    ["a", "a_", "ab-cd_ef ", "data:", "\\/", "-----BEGIN PRIVATE KEY-----", "ab://", "A" * 59 + "\n", '"', "api_key "],
)
def test_the_cost_is_linear_in_the_length(unit: str) -> None:
    def cost(size: int) -> float:
        text = unit * (size // len(unit))
        started = time.process_time()
        redact_body('{"content": "' + text)
        return time.process_time() - started

    small = min(cost(50_000) for _ in range(3))
    assert min(cost(400_000) for _ in range(2)) < 24 * max(small, 0.004)


def test_windows_do_not_cut_secrets() -> None:
    """Wherever a secret lies in a long text."""
    for offset in range(8100, 8300, 7):
        for lead in ("word ", "x\n"):
            text = (lead * 8300)[:offset] + " Bearer abcdefghijklmnop " + MEDIA * 20 + " tail"
            shown = redact_text(text)
            assert "abcdefghijklmnop" not in shown
            assert MEDIA[:64] not in shown
            assert shown.endswith(" tail")


def test_shorten_says_what_is_missing() -> None:
    assert "abc" == shorten("abc", 3)
    assert "ab...[truncated 2 chars]" == shorten("abcd", 2)
