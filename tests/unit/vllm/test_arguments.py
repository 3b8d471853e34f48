"""What ``vllm serve`` is started with, as a table; and what nobody may add to it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from dmr_backends_vllm.arguments import check_config, serve_arguments
from dmr_core.domain.artifact import LayerType, ModelConfig
from dmr_core.domain.engine import EngineConfig, EngineMode, Speculative
from dmr_core.domain.model import Bundle, Model
from dmr_core.errors import InvalidConfigurationError, UnsupportedFormatError
from dmr_core.ports.engine import LaunchRequest
from dmr_core.testing.contracts.model_store import build_artifact, layer_of

ROOT = Path("/models/bundle")
ARTIFACT = build_artifact([layer_of(b"weights", LayerType.SAFETENSORS)])
MODEL = Model(id=ARTIFACT.id, tags=(), manifest=ARTIFACT.manifest, config=ModelConfig(format="safetensors"))
BUNDLE = Bundle(root=ROOT, safetensors=ROOT / "model" / "model-00001-of-00002.safetensors")
DRAFT = Bundle(root=Path("/models/draft"), safetensors=Path("/models/draft/model/model.safetensors"))
SOCKET = Path("/run/dmr/vllm-1.sock")
HEAD = ("serve", "/models/bundle/model", "--uds", str(SOCKET))
TAIL = ("--served-model-name", "one", str(ARTIFACT.id))


def flags(*words: str) -> EngineConfig:
    return EngineConfig(runtime_flags=words)


def section(**values: Any) -> EngineConfig:
    return EngineConfig(sections={"vllm": {name.replace("_", "-"): value for name, value in values.items()}})


@pytest.mark.parametrize(
    ("changes", "middle"),
    [
        ({}, ()),
        ({"mode": EngineMode.RERANKING}, ("--runner", "pooling")),
        ({"mode": EngineMode.EMBEDDING}, ("--runner", "pooling")),
        (
            {"bundle": attrs.evolve(BUNDLE, chat_template=ROOT / "model" / "template.jinja")},
            ("--chat-template", "/models/bundle/model/template.jinja"),
        ),
        ({"config": EngineConfig(context_size=4096)}, ("--max-model-len", "4096")),
        ({"config": EngineConfig(context_size=-1)}, ()),
        ({"config": EngineConfig(context_size=0)}, ()),
        ({"config": flags("--dtype=half", "-tp", "2")}, ("--dtype", "half", "-tp", "2")),
        ({"config": attrs.evolve(flags("--max-model-len", "8k"), context_size=9)}, ("--max-model-len", "8k")),
        (
            {
                "config": attrs.evolve(
                    section(gpu_memory_utilization=0.5), runtime_flags=("--gpu-memory-utilization=1",)
                )
            },
            ("--gpu-memory-utilization", "1"),
        ),
        (
            {"config": flags("--enable-prefix-caching", "--no-enable-prefix-caching")},
            ("--no-enable-prefix-caching",),
        ),
        ({"config": section(gpu_memory_utilization=0.9)}, ("--gpu-memory-utilization", "0.9")),
        ({"config": section(gpu_memory_utilization=1)}, ("--gpu-memory-utilization", "1")),
        ({"config": section(gpu_memory_utilization=None)}, ()),
        (
            {"config": section(hf_overrides={"z": 1, "a": {"b": [True, {"c": None}]}})},
            ("--hf-overrides", '{"a":{"b":[true,{"c":null}]},"z":1}'),
        ),
        ({"config": section(hf_overrides={})}, ()),
        ({"draft": DRAFT}, ("--speculative-config", json.dumps({"model": "/models/draft/model"}))),
        (
            {"draft": DRAFT, "config": EngineConfig(speculative=Speculative(draft_model="d", num_tokens=5))},
            ("--speculative-config", json.dumps({"model": "/models/draft/model", "num_speculative_tokens": 5})),
        ),
        ({"draft": attrs.evolve(DRAFT, safetensors=None)}, ()),
        (
            {
                "mode": EngineMode.EMBEDDING,
                "bundle": attrs.evolve(BUNDLE, chat_template=ROOT / "t"),
                "draft": DRAFT,
                "config": attrs.evolve(section(gpu_memory_utilization=0.5), context_size=8, runtime_flags=("-q", "x")),
            },
            (
                *("--chat-template", "/models/bundle/t", "--runner", "pooling", "--max-model-len", "8", "-q", "x"),
                *("--gpu-memory-utilization", "0.5", "--speculative-config", '{"model": "/models/draft/model"}'),
            ),
        ),
    ],
)
def test_a_request_becomes_an_argument_vector(changes: dict[str, Any], middle: tuple[str, ...]) -> None:
    request = attrs.evolve(LaunchRequest(model=MODEL, bundle=BUNDLE, alias="one"), **changes)

    assert (*HEAD, *middle, *TAIL) == serve_arguments(request, SOCKET)


def test_weights_that_are_no_safetensors_are_refused() -> None:
    request = LaunchRequest(model=MODEL, bundle=Bundle(root=ROOT), alias="one")
    with pytest.raises(UnsupportedFormatError, match="safetensors path required by vLLM backend: 'one' has none"):
        serve_arguments(request, SOCKET)


def test_images_are_not_made_by_vllm() -> None:
    request = LaunchRequest(model=MODEL, bundle=BUNDLE, alias="one", mode=EngineMode.IMAGE_GENERATION)
    with pytest.raises(UnsupportedFormatError, match='unsupported backend mode "image-generation"'):
        serve_arguments(request, SOCKET)


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--dtype", "half"),
        ("--max-logprobs=-1",),
        ("--max-logprobs", "-1"),
        ("-tp", "2", "--enforce-eager"),
        ("--revision", "v1.2-rc.1"),
        ("--tensor_parallel_size", "2"),
    ],
)
def test_what_is_listed_may_be_added(words: tuple[str, ...]) -> None:
    check_config(flags(*words))


@pytest.mark.parametrize(
    "name",
    [
        *("--model", "--host", "--port", "--uds"),
        *("--chat-template", "--trust-remote-code", "--download-dir", "--api-key", "--ssl-keyfile", "--middleware"),
        *("--config", "--tokenizer", "-O", "--", "-"),
    ],
)
def test_what_is_not_listed_is_refused_by_name(name: str) -> None:
    for word in (name, f"{name}=1"):
        with pytest.raises(InvalidConfigurationError) as caught:
            check_config(flags("--dtype", "half", word))
        assert caught.value.message == f'runtime flag "{name}" is not allowed for backend "vllm"'
        assert caught.value.param == "runtime-flags"


@pytest.mark.parametrize("word", ["/etc/passwd", "--revision=../x", "--load-format=a\\b", "https://example.org"])
def test_no_word_may_hold_a_path(word: str) -> None:
    with pytest.raises(InvalidConfigurationError) as caught:
        check_config(flags(*(("--revision", word) if not word.startswith("-") else (word,))))
    shown = word.replace("\\", "\\\\")
    assert caught.value.message == f"invalid runtime flag \"{shown}\": paths are not allowed (contains '/' or '\\')"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--served-model-name", "x"), 'backend "vllm": the model runner sets it to the name that clients use'),
        (("--swap-space", "4"), 'backend "vllm": vLLM no longer has it'),
        (("--use-v2-block-manager",), "vLLM no longer has it"),
        (("--dtypes", "half"), 'did you mean "--dtype"?'),
        (("--load-format", "pt"), "use one of auto, safetensors"),
        (("--load-format", "npcache"), 'invalid value "npcache"'),
        (("--revision", "a..b"), "use a branch, tag or commit"),
        (("--seed", "-1"), "use an integer from 0 to 4294967295"),
        (("--seed=-x",), "value cannot start with '-' unless followed by a digit"),
        (("--max-num-seqs",), "needs a value: an integer of at least 1"),
        (("value",), 'begin with the value "value"'),
    ],
)
def test_a_refusal_says_what_is_wrong_and_what_is_allowed(words: tuple[str, ...], complaint: str) -> None:
    with pytest.raises(InvalidConfigurationError) as caught:
        check_config(flags(*words))
    assert complaint in caught.value.message


@pytest.mark.parametrize(
    ("sections", "complaint"),
    [
        ({"llamacpp": {}}, "settings for 'llamacpp' do not apply to the vllm backend"),
        ({"vllm": {"other": 1}}, r"unknown setting vllm\.other"),
        ({"vllm": {"gpu-memory-utilization": 1.1}}, r"vllm\.gpu-memory-utilization is 1\.1: use a number from 0 to 1"),
        ({"vllm": {"gpu-memory-utilization": -0.1}}, r"is -0\.1"),
        ({"vllm": {"gpu-memory-utilization": float("nan")}}, "is nan"),
        ({"vllm": {"gpu-memory-utilization": True}}, "is True"),
        ({"vllm": {"gpu-memory-utilization": "0.5"}}, r"is '0\.5'"),
        ({"vllm": {"hf-overrides": [1]}}, r"vllm\.hf-overrides is \[1\]: use an object"),
        ({"vllm": {"hf-overrides": {"a-b": 1}}}, 'invalid hf_overrides key "a-b": must contain only'),
        ({"vllm": {"hf-overrides": {"ok": {"1x": 1}}}}, "invalid hf_overrides nested key \"1x\" in 'ok'"),
        ({"vllm": {"hf-overrides": {"ok": [[{"__x y": 1}]]}}}, 'nested key "__x y"'),
        ({"vllm": {"hf-overrides": {"": 1}}}, 'key ""'),
    ],
)
def test_a_setting_that_cannot_be_honoured_is_refused(sections: Mapping[str, Any], complaint: str) -> None:
    with pytest.raises(InvalidConfigurationError, match=complaint):
        check_config(EngineConfig(sections=sections))
