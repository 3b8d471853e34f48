"""What llama.cpp's server is started with, as a table; and what nobody may add to it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import pytest

from dmr_backends_llamacpp.allowed_flags import ALLOWED_FLAGS
from dmr_backends_llamacpp.arguments import base_arguments, check_config, server_arguments
from dmr_backends_llamacpp.defaults import DEFAULT_ARGUMENTS
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


def argv(request: LaunchRequest, base: tuple[str, ...]) -> tuple[str, ...]:
    """The argument vector, but for the prompt cache, which has a test of its own."""
    words = list(server_arguments(request, base, SOCKET))
    place = words.index("--cache-ram")
    return (*words[:place], *words[place + 2 :])


def flags(*words: str) -> EngineConfig:
    return EngineConfig(runtime_flags=words)


def section(**values: Any) -> EngineConfig:
    return EngineConfig(sections={"llamacpp": {name.replace("_", "-"): value for name, value in values.items()}})


DRAFT = Bundle(root=Path("/models/draft"), gguf=Path("/models/draft/model/model.gguf"))
EMBEDDING_CLS = ("--embeddings", "--jinja", "--pooling", "cls")
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
            EMBEDDING_CLS,
        ),
        ({"mode": EngineMode.EMBEDDING, "config": flags("--pooling=cls")}, EMBEDDING_CLS),
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
        ({"config": flags("--temp", "0.5", "--threads=4")}, ("--jinja", "--temp", "0.5", "--threads", "4")),
        (
            {"config": flags("--chat-template-kwargs", '{"a":"b=c"}', "--top-k=-1")},
            ("--jinja", "--chat-template-kwargs", '{"a":"b=c"}', "--top-k", "-1"),
        ),
        ({"config": flags("--seed", "-1", "-v")}, ("--jinja", "--seed", "-1", "-v")),
        ({"config": flags("--temp", "1", "--temperature", "2")}, ("--jinja", "--temperature", "2")),
        ({"config": flags("--mmap", "--no-mmap")}, ("--jinja", "--no-mmap")),
        ({"config": flags("--no-jinja")}, ("--no-jinja",)),
        ({"config": flags("-ngl", "1")}, ("--jinja", "-ngl", "1")),
        ({"config": attrs.evolve(flags("-c", "8"), context_size=4096)}, ("--jinja", "-c", "8")),
        (
            {"config": attrs.evolve(section(reasoning_budget=9), runtime_flags=("--reasoning-budget", "-1"))},
            ("--jinja", "--reasoning-budget", "-1"),
        ),
        (
            {
                "bundle": attrs.evolve(BUNDLE, chat_template=ROOT / "t"),
                "config": flags("--chat-template", "chatml"),
            },
            ("--jinja", "--chat-template", "chatml"),
        ),
        (
            {"bundle": attrs.evolve(BUNDLE, mmproj=ROOT / "m"), "config": flags("--no-mmproj")},
            ("--jinja", "--no-mmproj"),
        ),
        (
            {"bundle": attrs.evolve(BUNDLE, mmproj=ROOT / "m"), "config": flags("--no-mmproj", "--mmproj-auto")},
            ("--mmproj", "/models/bundle/m", "--jinja", "--mmproj-auto"),
        ),
        ({"mode": EngineMode.EMBEDDING, "config": flags("--embedding", "--pooling", "cls")}, EMBEDDING_CLS),
        ({"mode": EngineMode.RERANKING, "config": flags("--rerank")}, ("--embeddings", "--reranking", "--jinja")),
        ({"config": flags("--embeddings")}, ("--jinja",)),
        (
            {
                "draft": DRAFT,
                "config": EngineConfig(
                    speculative=Speculative(draft_model="d", num_tokens=4), runtime_flags=("--draft-max", "9")
                ),
            },
            (*DRAFT_HEAD, "--draft-max", "9"),
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
                *("--mmproj", "/models/bundle/m", "--jinja", "-v"),
            ),
        ),
    ],
)
def test_a_request_becomes_an_argument_vector(changes: dict[str, Any], rest: tuple[str, ...]) -> None:
    base = () if "-ngl" in rest else ("-ngl", "999")

    assert (*base, *HEAD, *rest) == argv(request(**changes), ("-ngl", "999"))


@pytest.mark.parametrize(
    ("base", "changes", "expected"),
    [
        (("--no-jinja",), {}, ("--no-jinja", *HEAD)),
        (("--jinja",), {}, ("--jinja", *HEAD)),
        (("--new", "x"), {}, ("--new", "x", *HEAD, "--jinja")),
        (("--pooling", "cls"), {"mode": EngineMode.EMBEDDING}, ("--pooling", "cls", *HEAD, "--embeddings", "--jinja")),
        (("-c", "1"), {"config": EngineConfig(context_size=2)}, (*HEAD, "--ctx-size", "2", "--jinja")),
        (("-t", "1"), {"config": flags("--threads", "2")}, (*HEAD, "--jinja", "--threads", "2")),
        (("--metrics",), {"config": flags("--no-metrics")}, (*HEAD, "--jinja", "--no-metrics")),
    ],
)
def test_what_the_operator_said_stands_until_a_setting_says_otherwise(
    base: tuple[str, ...], changes: dict[str, Any], expected: tuple[str, ...]
) -> None:
    assert expected == argv(request(**changes), base)


@pytest.mark.parametrize(
    ("weights", "base", "words", "expected"),
    [
        (1 << 20, (), (), "16"),
        (1 << 30, (), (), "256"),
        (1 << 40, (), (), "512"),
        (1 << 30, ("--cache-ram", "8192"), (), "8192"),
        (1 << 30, ("-cram", "-1"), (), "-1"),
        (1 << 30, (), ("--cache-ram", "7"), "7"),
    ],
)
def test_the_prompt_cache_is_bounded_by_the_models_size_unless_somebody_says_otherwise(
    weights: int, base: tuple[str, ...], words: tuple[str, ...], expected: str
) -> None:
    model = attrs.evolve(request().model, manifest_size=weights)
    given = server_arguments(request(model=model, config=flags(*words)), base, SOCKET)
    (value,) = [value for name, value in pairwise(given) if name in ("--cache-ram", "-cram")]
    assert value == expected


def test_a_flag_that_is_not_allowed_never_reaches_the_engine() -> None:
    """Settings may come from a file that somebody edited; what is started is checked again."""
    with pytest.raises(InvalidConfigurationError, match='runtime flag "--log-file" is not allowed'):
        server_arguments(request(config=flags("--log-file", "x")), (), SOCKET)


def test_a_model_that_says_how_to_pool_is_not_overruled() -> None:
    config = ModelConfig(format="gguf", gguf={"bert.pooling_type": "2"})
    model = Model(id=ARTIFACT.id, tags=(), manifest=ARTIFACT.manifest, config=config)
    given = argv(request(model=model, mode=EngineMode.EMBEDDING), ())

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
    assert len(ALLOWED_FLAGS) == 246
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
        ("--seed", "-1"),
        ("--grammar", 'root ::= "/" | "\\\\"\n'),
        ("--json-schema", '{"pattern": "^\\\\d+/$"}'),
        ("--ctx_size", "4096"),
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
        *("--hf-repo", "-hf", "--alias", "--nonsense", "--", "-", "--ctx-", "--override-tensor"),
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
    ["/etc/passwd", "--temp=/dev/zero", "..\\x", "--device=C:\\x", "http://example.org", "a/b"],
)
def test_no_word_may_hold_a_path(word: str) -> None:
    for words in ((word,), ("--mlock", word)) if word.startswith("-") else ((word,), ("-v", word), ("--temp", word)):
        with pytest.raises(InvalidConfigurationError) as caught:
            check_config(flags(*words))
        shown = word.replace("\\", "\\\\")
        assert caught.value.message == f"invalid runtime flag \"{shown}\": paths are not allowed (contains '/' or '\\')"
        assert caught.value.param == "runtime-flags"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--ctxsize", "1"), 'is not allowed for backend "llama.cpp": did you mean "--ctx-size"?'),
        (("--TEMP", "1"), 'did you mean "--temp"?'),
        (("--control-vector-layer-range", "1", "2"), "it does nothing without --control-vector"),
        (("--temp",), 'runtime flag "--temp" needs a value: a number of at least 0'),
        (
            ("--temp", "--mlock"),
            "needs a value: a number of at least 0; \"--mlock\" is none: value cannot start with '-'",
        ),
        (("--mlock=1",), 'runtime flag "--mlock" takes no value, and "1" was given'),
        (("--mlock", "1"), 'runtime flag "--mlock" takes no value, and "1" follows it'),
        (
            ("--pooling", "max"),
            'invalid value "max" for runtime flag "--pooling": use one of none, mean, cls, last, rank',
        ),
        (("-c", "many"), 'invalid value "many" for runtime flag "-c": use an integer of at least 0, or -1'),
        (("--json-schema", '{"a": [{"$ref": "https://example.org/s"}]}'), "in which every $ref begins with '#'"),
        (("--chat-template-kwargs", "[1]"), "use a JSON object"),
    ],
)
def test_a_refusal_says_what_is_wrong_and_what_is_allowed(words: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(InvalidConfigurationError) as caught:
        check_config(flags(*words))
    assert complaint in caught.value.message


def test_a_flag_that_the_bundled_server_lacks_is_refused_before_it_is_started() -> None:
    check_config(flags("--device", "CUDA0"))
    with pytest.raises(
        InvalidConfigurationError, match="--device is a llama-server flag that the bundled server cannot"
    ):
        check_config(flags("--device", "CUDA0"), bundled=True)


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
        ("--x='a b'c", ("--x", "a bc")),
        ("--x ''", ("--x", "")),
        ("--x '' -v", ("--x", "", "-v")),
        ("--ctx_size=1 -c 2", ("-c", "2")),
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
        ("-v --model", "--model"),
        ("--model=x", "--model"),
        ("--api-key k", "--api-key"),
        ("--api_key k", "--api_key"),
        ("--api-key-file=f", "--api-key-file"),
        ("--ssl-key-file f", "--ssl-key-file"),
        ("-hf ai/x", "-hf"),
        ("--rerank", "--rerank"),
        ("--new --port 80", "--port"),
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


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("--ctx-size", 'runtime flag "--ctx-size" needs a value'),
        ("-v -t --mlock", 'runtime flag "-t" needs a value'),
        ("4096", 'runtime flags begin with the value "4096"'),
        ("--mlock 1", 'runtime flag "--mlock" takes no value'),
        ("--help", "LLAMA_ARGS cannot hold --help: the server would print something and end"),
        ("--new=--model", "value cannot start with '-' unless followed by a digit"),
    ],
)
def test_what_no_server_would_start_with_is_found_when_the_service_starts(text: str, complaint: str) -> None:
    for bundled in (False, True):
        with pytest.raises(InvalidConfigurationError, match=re.escape(complaint)) as caught:
            base_arguments(text, bundled=bundled and not text.startswith("--new"))
        assert "LLAMA_ARGS" in caught.value.message


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "--ctx-sizes 1",
            "LLAMA_ARGS holds --ctx-sizes, which is no flag of llama-server that dmr knows; did you mean ",
        ),
        ("--ctx-size many", "--ctx-size: expected an integer from 0"),
        ("--log-file x", "--log-file is a llama-server flag that the bundled server cannot apply"),
        ("--lora /nowhere/a.gguf", "--lora: expected paths of existing files"),
    ],
)
def test_the_bundled_servers_own_parser_reads_the_operators_arguments_first(text: str, complaint: str) -> None:
    with pytest.raises(InvalidConfigurationError, match=f"invalid LLAMA_ARGS: .*{re.escape(complaint)}"):
        base_arguments(text, bundled=True)


def test_a_native_server_newer_than_the_table_is_given_what_it_may_know() -> None:
    said: list[str] = []

    assert base_arguments("--brand-new 1 --spicy -c 2", warn=said.append) == ("--brand-new", "1", "--spicy", "-c", "2")
    assert [line.split(",")[0] for line in said] == ["LLAMA_ARGS holds --brand-new", "LLAMA_ARGS holds --spicy"]
