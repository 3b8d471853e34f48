"""How strictly flags are read depends on the server that would run."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from dmr_backends_llamacpp.engine import LlamaCppEngine
from dmr_backends_llamacpp.plugin import dmr_backends
from dmr_core.domain.engine import EngineConfig
from dmr_core.errors import InvalidConfigurationError
from dmr_core.ports.backend import EngineContext
from dmr_core.testing.fakes.process import FakeProcessSupervisor

DEVICE = EngineConfig(runtime_flags=("--device", "CUDA0"))


def engine(**environment: str) -> LlamaCppEngine:
    return LlamaCppEngine.create(EngineContext(processes=FakeProcessSupervisor(), environment=environment))


@pytest.fixture
def native(tmp_path: Path) -> str:
    program = tmp_path / "llama-server"
    program.touch(mode=0o755)
    return str(tmp_path)


def test_without_a_native_server_everything_is_read_as_the_bundled_one_does() -> None:
    with pytest.raises(InvalidConfigurationError, match=r"invalid LLAMA_ARGS: .*--brand-new"):
        engine(PATH="", LLAMA_ARGS="--brand-new 1")
    with pytest.raises(
        InvalidConfigurationError, match="--device is a llama-server flag that the bundled server cannot"
    ):
        engine(PATH="").check(DEVICE)


def test_a_native_server_is_trusted_with_flags_that_we_do_not_know(
    native: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        made = engine(LLAMA_SERVER_PATH=native, LLAMA_ARGS="--brand-new 1 --mlock")

    assert made.base == ("--brand-new", "1", "--mlock")
    assert "LLAMA_ARGS holds --brand-new" in caplog.text
    made.check(DEVICE)
    with pytest.raises(InvalidConfigurationError, match="LLAMA_ARGS cannot override --model"):
        engine(LLAMA_SERVER_PATH=native, LLAMA_ARGS="--brand-new 1 --model x")


def test_a_server_that_is_missing_leaves_the_settings_for_later(tmp_path: Path) -> None:
    made = engine(LLAMA_SERVER_PATH=str(tmp_path), LLAMA_ARGS="--device CUDA0")

    assert made.base == ("--device", "CUDA0")


def test_the_plugin_hands_over_the_table_that_the_engine_checks_with() -> None:
    (spec,) = dmr_backends()
    assert spec.flags is not None
    words = ("--ctx-size", "4096", "-c", "8", "--rerank", "--reasoning-budget=0")

    decided = spec.flags().settings_from_flags(words)

    assert {name: use.words for name, use in decided.items()} == {
        "context-size": ("-c", "8"),
        "mode": ("--rerank",),
        "llamacpp.reasoning-budget": ("--reasoning-budget", "0"),
    }
