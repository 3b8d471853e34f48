"""What llama.cpp's server is started with, as a table; and what nobody may add to it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from dmr_backends_llamacpp.allowed_flags import ALLOWED_FLAGS
from dmr_backends_llamacpp.arguments import DEFAULT_ARGUMENTS, base_arguments, check_config, server_arguments
from dmr_core.domain.artifact import ModelConfig
from dmr_core.domain.engine import EngineConfig, EngineMode, Speculative
from dmr_core.domain.model import Bundle, Model
from dmr_core.errors import InvalidConfigurationError, UnsupportedFormatError
from dmr_core.ports.engine import LaunchRequest
from dmr_core.testing.contracts.model_store import build_artifact, layer_of

ROOT = Path("/models/bundle")
WEIGHTS = ROOT / "model" / "model.gguf"
ARTIFACT = build_artifact([layer_of(b"weights")])
BUNDLE = Bundle(root=ROOT, gguf=WEIGHTS)
SOCKET = Path("/run/dmr/llama-1.sock")
HEAD = ("--model", str(WEIGHTS), "--host", str(SOCKET), "--alias", "one")


def request(**changes: Any) -> LaunchRequest:
    model = Model(id=ARTIFACT.id, tags=(), manifest=ARTIFACT.manifest, config=ModelConfig(format="gguf"))
    return attrs.evolve(LaunchRequest(model=model, bundle=BUNDLE, alias="one"), **changes)


def flags(*words: str) -> EngineConfig:
    return EngineConfig(runtime_flags=words)


def section(**values: Any) -> EngineConfig:
    return EngineConfig(sections={"llamacpp": {name.replace("_", "-"): value for name, value in values.items()}})


DRAFT = Bundle(root=Path("/models/draft"), gguf=Path("/models/draft/model/model.gguf"))
DRAFT_HEAD = ("--jinja", "--model-draft", "/models/draft/model/model.gguf")


@pytest.mark.parametrize(
    ("changes", "rest"),
    [
        ({}, ("--jinja",)),
        (
            {"bundle": attrs.evolve(BUNDLE, chat_template=ROOT / "model" / "template.jinja")},
            ("--chat-template-file", "/models/bundle/model/template.jinja", "--jinja"),
        ),
        (
            {"bundle": attrs.evolve(BUNDLE, mmproj=ROOT / "model" / "model.mmproj")},
            ("--mmproj", "/models/bundle/model/model.mmproj", "--jinja"),
        ),
        ({"mode": EngineMode.EMBEDDING}, ("--embeddings", "--pooling", "mean", "--jinja")),
        (
            {"mode": EngineMode.EMBEDDING, "config": flags("--pooling", "cls")},
            ("--embeddings", "--pooling", "cls", "--jinja"),
        ),
        (
            {"mode": EngineMode.EMBEDDING, "config": flags("--pooling=cls")},
            ("--embeddings", "--pooling", "cls", "--jinja"),
        ),
        ({"mode": EngineMode.RERANKING}, ("--embeddings", "--reranking", "--jinja")),
        (
            {
                "mode": EngineMode.RERANKING,
                "bundle": attrs.evolve(BUNDLE, chat_template=ROOT / "model" / "template.jinja"),
            },
            ("--embeddings", "--reranking", "--jinja"),
        ),
        ({"config": EngineConfig(context_size=4096)}, ("--ctx-size", "4096", "--jinja")),
        ({"config": EngineConfig(context_size=-1)}, ("--ctx-size", "0", "--jinja")),
        ({"config": EngineConfig(context_size=0)}, ("--jinja",)),
        ({"config": section(reasoning_budget=0)}, ("--reasoning-budget", "0", "--jinja")),
        ({"config": section(reasoning_budget=-1)}, ("--reasoning-budget", "-1", "--jinja")),
        ({"config": section(reasoning_budget=None)}, ("--jinja",)),
        ({"config": flags("--temp", "0.5", "--threads=4")}, ("--temp", "0.5", "--threads", "4", "--jinja")),
        (
            {"config": flags("--chat-template-kwargs", '{"a":"b=c"}', "--top-k=-1")},
            ("--chat-template-kwargs", '{"a":"b=c"}', "--top-k", "-1", "--jinja"),
        ),
        (
            {"config": flags("--chat-template-kwargs={a=b}", "-1", "-5=x")},
            ("--chat-template-kwargs", "{a=b}", "-1", "-5=x", "--jinja"),
        ),
        ({"draft": DRAFT}, ("--jinja",)),
        ({"draft": DRAFT, "config": EngineConfig(speculative=Speculative(draft_model="d"))}, DRAFT_HEAD),
        (
            {
                "draft": DRAFT,
                "config": EngineConfig(
                    speculative=Speculative(draft_model="d", num_tokens=4, min_acceptance_rate=0.755)
                ),
            },
            (*DRAFT_HEAD, "--spec-draft-n-max", "4", "--spec-draft-p-min", "0.76"),
        ),
        (
            {
                "draft": attrs.evolve(DRAFT, gguf=None),
                "config": EngineConfig(speculative=Speculative(draft_model="d")),
            },
            ("--jinja",),
        ),
        (
            {
                "bundle": attrs.evolve(BUNDLE, mmproj=ROOT / "m", chat_template=ROOT / "t"),
                "config": attrs.evolve(section(reasoning_budget=9), context_size=8, runtime_flags=("-v",)),
            },
            (
                *("--chat-template-file", "/models/bundle/t", "--reasoning-budget", "9", "--ctx-size", "8"),
                *("-v", "--mmproj", "/models/bundle/m", "--jinja"),
            ),
        ),
    ],
)
def test_a_request_becomes_an_argument_vector(changes: dict[str, Any], rest: tuple[str, ...]) -> None:
    assert ("-ngl", "999", *HEAD, *rest) == server_arguments(request(**changes), ("-ngl", "999"), SOCKET)


def test_a_model_that_says_how_to_pool_is_not_overruled() -> None:
    config = ModelConfig(format="gguf", gguf={"bert.pooling_type": "2"})
    model = Model(id=ARTIFACT.id, tags=(), manifest=ARTIFACT.manifest, config=config)
    given = server_arguments(request(model=model, mode=EngineMode.EMBEDDING), (), SOCKET)

    assert (*HEAD, "--embeddings", "--jinja") == given


def test_weights_that_are_no_gguf_are_refused() -> None:
    with pytest.raises(UnsupportedFormatError, match=r"GGUF file required by llama\.cpp backend: 'one' has none"):
        server_arguments(request(bundle=Bundle(root=ROOT)), (), SOCKET)


def test_images_are_not_made_by_llama_cpp() -> None:
    with pytest.raises(UnsupportedFormatError, match='unsupported backend mode "image-generation"'):
        server_arguments(request(mode=EngineMode.IMAGE_GENERATION), (), SOCKET)


# --- what a client may add --------------------------------------------------------------------------


def test_every_allowed_flag_is_a_whole_flag() -> None:
    """The list is wrapped text; a flag broken in two would allow nonsense and refuse the flag."""
    assert [flag for flag in ALLOWED_FLAGS if not flag.startswith("-") or flag.endswith("-")] == []
    assert len(ALLOWED_FLAGS) == 247
    assert {"--ctx-size", "--cache-type-k-draft", "--rope-scale", "--no-jinja", "--spec-draft-poll-batch"} < (
        ALLOWED_FLAGS
    )


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--temp", "0.5"),
        ("--temp=0.5",),
        ("--ctx-size", "4096", "-ngl", "10", "--no-mmap"),
        ("--top-k", "-1"),
        ("--top-k=-1",),
        ("--reasoning-budget=-1",),
        ("--grammar", "root ::= [a-z]+"),
        ("--chat-template-kwargs={}",),
    ],
)
def test_what_is_listed_may_be_added(words: tuple[str, ...]) -> None:
    check_config(flags(*words))


@pytest.mark.parametrize(
    "name",
    [
        *("--log-file", "--model", "-m", "--host", "--port", "--lora", "--lora-scaled", "--mmproj", "-mm", "--rpc"),
        *("--api-key", "--api-key-file", "--api-prefix", "--timeout", "-to", "--path", "--slot-save-path"),
        *("--grammar-file", "--json-schema-file", "-jf", "--chat-template-file", "--control-vector", "-md", "-mmu"),
        *("--model-draft", "--models-dir", "--ssl-key-file", "--ssl-cert-file", "--prompt-file", "--mmproj-url"),
        *("--hf-repo", "-hf", "--alias", "--nonsense", "--", "-", "--TEMP", "--temp ", "--ctx-"),
    ],
)
def test_what_is_not_listed_is_refused_by_name(name: str) -> None:
    for word in (name, f"{name}=1"):
        with pytest.raises(InvalidConfigurationError) as caught:
            check_config(flags("--temp", "1", word))
        assert caught.value.message == f'runtime flag "{name}" is not allowed for backend "llama.cpp"'
        assert caught.value.param == "runtime-flags"


@pytest.mark.parametrize(
    "word",
    ["/etc/passwd", "--log-file=/tmp/x", "--temp=/dev/zero", "..\\x", "--grammar=C:\\x", "http://example.org", "a/b"],
)
def test_no_word_may_hold_a_path(word: str) -> None:
    with pytest.raises(InvalidConfigurationError) as caught:
        check_config(flags("--temp", word))
    assert caught.value.message == f"invalid runtime flag {word!r}: paths are not allowed (contains '/' or '\\')"
    assert caught.value.param == "runtime-flags"


@pytest.mark.parametrize("word", ["--temp=--host", "--temp=-m", "--temp=-"])
def test_a_value_cannot_be_another_flag(word: str) -> None:
    with pytest.raises(InvalidConfigurationError) as caught:
        check_config(flags(word))
    assert caught.value.message == (f"invalid flag \"{word}\": value cannot start with '-' unless followed by a digit")


@pytest.mark.parametrize(
    ("sections", "complaint"),
    [
        ({"vllm": {}}, "settings for 'vllm' do not apply to the llama.cpp backend"),
        ({"llamacpp": {}, "zz": {}, "aa": {}}, "settings for 'aa' do not apply"),
        ({"llamacpp": {"reasoning": 1}}, r"unknown setting llamacpp\.reasoning: there is only reasoning-budget"),
        ({"llamacpp": {"reasoning-budget": "1"}}, r"llamacpp\.reasoning-budget is '1': use -1 for unlimited"),
        ({"llamacpp": {"reasoning-budget": True}}, "is True: use -1"),
        ({"llamacpp": {"reasoning-budget": 1.5}}, r"is 1\.5: use -1"),
        ({"llamacpp": {"reasoning-budget": -2}}, "is -2: use -1"),
        ({"llamacpp": {"reasoning-budget": 2**31}}, "is 2147483648: use -1"),
    ],
)
def test_a_setting_that_cannot_be_honoured_is_refused(sections: Mapping[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidConfigurationError, match=complaint):
        check_config(EngineConfig(sections=sections))


# --- LLAMA_ARGS -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, ("-ngl", "999", "--metrics")),
        ("", DEFAULT_ARGUMENTS),
        (" \t\n", DEFAULT_ARGUMENTS),
        ("--verbose --jinja -ngl 999 --ctx-size 2048", ("--verbose", "--jinja", "-ngl", "999", "--ctx-size", "2048")),
        ("  -v\t\n-t  4 ", ("-v", "-t", "4")),
        ("--grammar 'a b' -v", ("--grammar", "a b", "-v")),
        ('--grammar "a b"', ("--grammar", "a b")),
        ("--grammar 'a b\"", ("--grammar", "a b")),
        ("--x='a b'c", ("--x=a bc",)),
        ("--x ''", ("--x", "")),
        ("--x '' -v", ("--x", "", "-v")),
        ("--log-file /tmp/x", ("--log-file", "/tmp/x")),
    ],
)
def test_the_operators_arguments_replace_the_defaults(text: str | None, words: tuple[str, ...]) -> None:
    assert words == base_arguments(text)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("-v --model x.gguf", "--model"),
        ("-m x.gguf", "-m"),
        ("--host=0.0.0.0", "--host"),
        ("--port 80", "--port"),
        ("--alias a", "--alias"),
        ("-a b", "-a"),
        ("--embeddings", "--embeddings"),
        ("--embedding", "--embedding"),
        ("'--mmproj' x", "--mmproj"),
        ("-mm x", "-mm"),
    ],
)
def test_what_the_runner_sets_is_not_the_operators_to_set(text: str, name: str) -> None:
    with pytest.raises(InvalidConfigurationError) as caught:
        base_arguments(text)
    assert caught.value.message == f"LLAMA_ARGS cannot override {name}, which is controlled by the model runner"


@pytest.mark.parametrize("text", ["'", "-v 'open", '-v "a b'])
def test_a_quote_that_is_never_closed_is_refused(text: str) -> None:
    with pytest.raises(InvalidConfigurationError, match="invalid LLAMA_ARGS: a quote is never closed"):
        base_arguments(text)
