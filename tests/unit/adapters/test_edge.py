"""Paths, hosts, origins and the dialect of a path: the pure parts of what stands before the routes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmr_adapters.http.edge.body_limit import CONTROL_BODY, body_limit
from dmr_adapters.http.edge.dialect import Dialect, dialect_of
from dmr_adapters.http.edge.hosts import HostPolicy
from dmr_adapters.http.edge.origins import OriginPolicy
from dmr_adapters.http.edge.paths import clean_path


@pytest.mark.parametrize(
    ("path", "cleaned"),
    [
        ("/", "/"),
        ("//", "/"),
        ("/models", "/models"),
        ("/models/", "/models"),
        ("//models//ai/x///tag", "/models/ai/x/tag"),
        ("/v1/./models", "/v1/models"),
        ("/healthz/../models", "/models"),
        ("/../../etc/passwd", "/etc/passwd"),
        ("/models/ai/x/..", "/models/ai"),
        ("/models/.hidden/...x", "/models/.hidden/...x"),
        ("/exp/vDD4.40", "/"),
        ("/exp/vDD4.40/", "/"),
        ("/exp/vDD4.40/models/ai/x", "/models/ai/x"),
        ("/exp/vDD4.40//v1/models/", "/v1/models"),
        ("/exp/vDD4.40x/models", "/exp/vDD4.40x/models"),
        ("/exp/vDD4.40/exp/vDD4.40/models", "/exp/vDD4.40/models"),
        ("/x/../exp/vDD4.40/models", "/models"),
    ],
)
def test_every_path_has_one_spelling(path: str, cleaned: str) -> None:
    assert cleaned == clean_path(path)


@given(st.lists(st.sampled_from(["", ".", "..", "models", "exp", "vDD4.40", "a.b", "..."]), max_size=8))
def test_a_cleaned_path_has_nothing_left_to_climb(segments: list[str]) -> None:
    cleaned = clean_path("/" + "/".join(segments))

    assert cleaned.startswith("/")
    assert not {"", ".", ".."} & set(cleaned[1:].split("/")) or cleaned == "/"


@pytest.mark.parametrize(
    ("host", "loopback", "beyond", "keyed_beyond"),
    [
        ("localhost", True, True, True),
        ("LOCALHOST:12434", True, True, True),
        ("localhost.", True, True, True),
        ("127.0.0.1:1", True, True, True),
        ("[::1]:1", True, True, True),
        ("0.0.0.0", True, True, True),
        ("host.docker.internal:12434", True, True, True),
        ("192.0.2.7:12434", False, True, True),
        ("[2001:db8::1]", False, True, True),
        ("model-runner:12434", False, True, True),
        ("evil.example", False, False, True),
        ("localhost.evil.example", False, False, True),
        ("127.0.0.1.evil.example", False, False, True),
        ("evil.internal", False, False, True),
        ("", False, False, True),
        ("[", False, False, True),
        ("localhost@evil.example", False, False, True),
    ],
)
def test_rebound_names_are_known_by_not_being_ours(host: str, loopback: bool, beyond: bool, keyed_beyond: bool) -> None:
    assert loopback == HostPolicy(loopback=True, keyed=False).allows(host)
    assert loopback == HostPolicy(loopback=True, keyed=True).allows(host)
    assert beyond == HostPolicy(loopback=False, keyed=False).allows(host)
    assert keyed_beyond == HostPolicy(loopback=False, keyed=True).allows(host)


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("llm.example", True),
        ("LLM.example:443", True),
        ("a.box.example", True),
        ("a.b.box.example", True),
        ("box.example", False),
        ("xbox.example", False),
        ("evil.example", False),
    ],
)
@pytest.mark.parametrize("keyed", [False, True])
def test_the_operator_names_more_hosts(host: str, allowed: bool, keyed: bool) -> None:
    for loopback in (False, True):
        policy = HostPolicy(extra=("llm.example", "*.box.example"), loopback=loopback, keyed=keyed)
        assert allowed == policy.allows(host)
    assert HostPolicy(extra=("*",), loopback=True, keyed=keyed).allows(host)


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost", True),
        ("http://localhost:3000", True),
        ("https://127.0.0.1:8443", True),
        ("http://[::1]:3000", True),
        ("HTTP://LOCALHOST:3000", True),
        ("https://app.example", True),
        ("https://app.example:444", False),
        ("http://app.example", False),
        ("http://dev.example", True),
        ("http://dev.example:5173", True),
        ("https://dev.example:5173", False),
        ("http://dev.example:", False),
        ("http://dev.example:5173x", False),
        ("http://dev.example:5173.evil.example", False),
        ("http://dev.example.evil.example", False),
        ("http://localhost.evil.example", False),
        ("http://evil.example#localhost", False),
        ("http://localhost:3000@evil.example", False),
        ("ftp://localhost", False),
        ("tauri://localhost", False),
        ("null", False),
        ("file://", False),
        ("", False),
    ],
)
def test_origins_are_compared_whole(origin: str, allowed: bool) -> None:
    policy = OriginPolicy(("https://app.example/", "http://dev.example:*"))

    assert allowed == policy.allows(origin)
    assert OriginPolicy(("https://x", "*")).allows(origin)


def test_null_may_be_named() -> None:
    assert OriginPolicy(("null",)).allows("null")


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/v1/chat/completions", Dialect.OPENAI),
        ("/engines/v1/chat/completions", Dialect.OPENAI),
        ("/engines/llama.cpp/v1/embeddings", Dialect.OPENAI),
        ("/rerank", Dialect.OPENAI),
        ("/v1/models", Dialect.OPENAI),
        ("/engines/v1/models/ai/x", Dialect.OPENAI),
        ("/v1/messages", Dialect.ANTHROPIC),
        ("/anthropic/v1/messages/count_tokens", Dialect.ANTHROPIC),
        ("/anthropic/anything", Dialect.ANTHROPIC),
        ("/api/chat", Dialect.OLLAMA),
        ("/responses", Dialect.RESPONSES),
        ("/engines/vllm/v1/responses/resp_1/input_items", Dialect.RESPONSES),
        ("/models", Dialect.PLAIN),
        ("/models/ai/responses", Dialect.PLAIN),
        ("/models/x/v1/chat/completions", Dialect.PLAIN),
        ("/engines/ps", Dialect.PLAIN),
        ("/", Dialect.PLAIN),
    ],
)
def test_a_path_says_which_dialect_its_errors_are_in(path: str, dialect: Dialect) -> None:
    assert dialect is dialect_of(path)


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/v1/chat/completions", 5000),
        ("/engines/_configure", 5000),
        ("/api/chat", 5000),
        ("/models/create", CONTROL_BODY),
        ("/models/ai/x/repackage", CONTROL_BODY),
        ("/dmr/v1/store/prune", CONTROL_BODY),
        ("/models/load", None),
        ("/api/blobs/sha256:00", None),
    ],
)
def test_each_route_has_its_limit(path: str, limit: int | None) -> None:
    assert limit == body_limit(path, 5000)
