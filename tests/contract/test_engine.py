"""Engines keep the promises of the port. ``tests/e2e/test_plugins_document.py`` asks the same of the guide's."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dmr_adapters.process.supervisor import PosixProcessSupervisor
from dmr_backends_llamacpp.engine import LlamaCppEngine
from dmr_core.ports.backend import EngineContext
from dmr_core.ports.engine import Engine, LaunchRequest
from dmr_core.ports.process import ProcessSupervisor
from dmr_core.testing.contracts.engine import EngineContract
from tests.stand_ins.standin_install import install_standin

DEMO = Path(__file__).parents[2] / "dmr_cli/demo/model/demo.gguf"


class _Supervised(EngineContract):
    @asynccontextmanager
    async def supervisor(self) -> AsyncIterator[ProcessSupervisor]:
        with tempfile.TemporaryDirectory(prefix="dmr-") as base:
            async with await PosixProcessSupervisor.open(Path(base)) as processes:
                yield processes


class TestLlamaCpp(_Supervised):
    def engine(self, processes: ProcessSupervisor) -> Engine:
        return LlamaCppEngine.create(EngineContext(processes=processes))

    def request(self, directory: Path, alias: str) -> LaunchRequest:
        made = super().request(directory, alias)
        assert made.bundle.gguf is not None
        made.bundle.gguf.write_bytes(DEMO.read_bytes())
        return made


class TestNativeLlamaServer(_Supervised):
    """A program of the operator's, on a machine with a GPU: it is asked for its version, and where it put the model."""

    @pytest.fixture(autouse=True)
    def _program(self, tmp_path: Path) -> None:
        self.program = install_standin(tmp_path / "program", version="version: 9284 (afcda09d1)")

    def engine(self, processes: ProcessSupervisor) -> Engine:
        environment = {"LLAMA_SERVER_PATH": str(self.program)}
        return LlamaCppEngine.create(EngineContext(processes=processes, environment=environment, variant="cuda"))
