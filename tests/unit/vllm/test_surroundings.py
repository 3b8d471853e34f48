"""What the machine and the operator tell vLLM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest

from dmr_backends_vllm.arguments import serve_arguments
from dmr_backends_vllm.placement import read_placement
from dmr_backends_vllm.shape import Shape, read_shape
from dmr_backends_vllm.surroundings import engine_environment, operator_arguments, tensor_parallel
from dmr_core.domain.acceleration import GpuRequirement
from dmr_core.domain.engine import EngineConfig
from dmr_core.domain.model import Bundle
from dmr_core.errors import InvalidConfigurationError
from dmr_core.ports.engine import LaunchRequest
from tests.unit.vllm.test_arguments import MODEL

SHAPE = Shape(heads=32, kv_heads=8, head_size=128, layers=32, context=8192)


def words(request: LaunchRequest, **more: Any) -> tuple[str, ...]:
    return serve_arguments(request, Path("/s.sock"), **more)


@pytest.fixture
def request_for(tmp_path: Path) -> LaunchRequest:
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 12}))
    return LaunchRequest(
        model=MODEL, bundle=Bundle(root=tmp_path, safetensors=tmp_path / "model.safetensors"), alias="one"
    )


def test_nothing_is_sent_or_fetched_and_unknown_variables_stay_here() -> None:
    made = engine_environment({"SECRET": "x", "RAY_ADDRESS": "head:6379"}, "cuda", Shape(), None)
    assert made == {
        **dict.fromkeys(("VLLM_NO_USAGE_STATS", "DO_NOT_TRACK", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"), "1"),
        "RAY_ADDRESS": "head:6379",
    }


@pytest.mark.parametrize(
    ("variables", "shape", "context", "space"),
    [
        ({}, Shape(), None, "1"),
        ({}, SHAPE, None, "4"),  # 4 sequences of 8,192 tokens, 128 KiB each
        ({}, SHAPE, 1024, "1"),
        ({}, SHAPE, 10_000_000, "64"),
        ({"VLLM_CPU_KVCACHE_SPACE": "9"}, SHAPE, None, "9"),
    ],
)
def test_the_cache_of_a_processor_has_room_for_some_sequences(
    variables: dict[str, str], shape: Shape, context: int | None, space: str
) -> None:
    assert engine_environment(variables, "cpu", shape, context)["VLLM_CPU_KVCACHE_SPACE"] == space


@pytest.mark.parametrize(("devices", "heads", "count"), [(8, 32, 8), (3, 32, 2), (8, 12, 6), (5, 7, 1), (4, 0, 1)])
def test_layers_are_split_over_as_many_devices_as_share_the_heads_evenly(devices: int, heads: int, count: int) -> None:
    assert tensor_parallel(devices, Shape(heads=heads)) == count


def test_a_choice_of_the_client_or_the_operator_wins_over_the_devices(request_for: LaunchRequest) -> None:
    assert words(request_for, devices=8)[-5:-3] == ("--tensor-parallel-size", "6")
    assert "--tensor-parallel-size" not in words(request_for, devices=1)
    config = EngineConfig(runtime_flags=("-tp", "2"))
    assert "6" not in words(attrs.evolve(request_for, config=config), devices=8)
    operators = operator_arguments("-pp 2 --distributed-executor-backend ray")
    chosen = words(request_for, devices=8, operators=operators)
    assert "6" not in chosen
    assert ("-pp", "2", "--distributed-executor-backend", "ray") == chosen[4:8]


def test_a_clients_flag_stands_in_for_the_operators(request_for: LaunchRequest) -> None:
    config = EngineConfig(runtime_flags=("--dtype", "half"))
    operators = operator_arguments("--dtype float --enforce-eager")
    chosen = words(attrs.evolve(request_for, config=config), operators=operators)
    assert chosen.count("--dtype") == 1
    assert "float" not in chosen
    assert "--enforce-eager" in chosen


@pytest.mark.parametrize(
    "text", ["--host 0.0.0.0", "--api_key=x", "--uds=/x", "--trust-remote-code", "model", "--dtype 'half"]
)
def test_flags_that_are_the_runners_are_refused_to_the_operator_too(text: str) -> None:
    with pytest.raises(InvalidConfigurationError, match="VLLM_ARGS"):
        operator_arguments(text)


def test_code_of_a_model_runs_where_that_was_allowed_only(request_for: LaunchRequest) -> None:
    assert "--trust-remote-code" not in words(request_for)
    assert "--trust-remote-code" in words(attrs.evolve(request_for, runs_code=True))


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"num_attention_heads": -1, "num_hidden_layers": true, "hidden_size": "8"}', "[" * 100_000]
)
def test_a_strange_config_has_no_shape(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    assert read_shape(tmp_path) == Shape()


def test_the_shape_of_a_model_that_sees_is_that_of_its_text_part(tmp_path: Path) -> None:
    inner = {"num_attention_heads": 8, "hidden_size": 512, "num_hidden_layers": 2, "max_position_embeddings": 64}
    (tmp_path / "config.json").write_text(json.dumps({"text_config": inner, "num_attention_heads": 3}))
    assert read_shape(tmp_path) == Shape(heads=8, kv_heads=8, head_size=64, layers=2, context=64)


def test_where_the_model_is_is_read_off_the_output() -> None:
    line = "INFO core.py:133] Initializing a V1 LLM engine with config: device_config={}, more\n"
    assert read_placement("nothing yet", layers=4, offloaded=False) is None
    on_cpu = read_placement(line.format("cpu"), layers=4, offloaded=False)
    on_gpu = read_placement(line.format("cuda"), layers=4, offloaded=False)
    in_part = read_placement(line.format("cuda"), layers=4, offloaded=True)
    assert on_cpu is not None
    assert not on_cpu.meets(GpuRequirement.GPU)
    assert on_gpu is not None
    assert on_gpu.meets(GpuRequirement.ALL_LAYERS)
    assert in_part is not None
    assert in_part.meets(GpuRequirement.GPU)
    assert not in_part.meets(GpuRequirement.ALL_LAYERS)
