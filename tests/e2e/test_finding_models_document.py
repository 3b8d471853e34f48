"""The examples of ``docs/finding-models.md`` are run as they stand, against hubs and a registry made for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Daemon
from tests.e2e.test_readme import ROOT, blocks, matches
from tests.stand_ins.registry_kinds import known_registry
from tests.stand_ins.search_hubs import SearchHubs, search_hubs
from tests.stand_ins.stock_package import from_gguf


def _fill(hubs: SearchHubs) -> None:
    made = {"description": "Solid LLaMA 3 update", "pull_count": 250_312, "star_count": 112}
    hubs.repositories = [{"name": "llama3.2", "namespace": "ai", **made}]
    told = {"pipeline_tag": "text-generation", "lastModified": "2026-01-15T12:00:00.000Z"}
    hubs.models = [
        {
            "id": "example/Llama-3.2-1B-GGUF",
            "downloads": 1_200_000,
            "likes": 310,
            "tags": ["gguf", "llama-3.2"],
            **told,
        },
        {"id": "example/Llama-3.2-1B", "downloads": 903_100, "likes": 41, **told},
    ]
    hubs.files = {
        "example/Llama-3.2-1B-GGUF": [{"rfilename": "m-Q4_K_M.gguf", "size": 2_080_000_000}],
        "example/Llama-3.2-1B": [{"rfilename": "model.safetensors", "size": 2_470_000_000}],
    }


@pytest.mark.registry
def test_the_examples_are_as_they_are_written(daemon: Daemon, tmp_path: Path) -> None:
    with known_registry("plain", tmp_path / "registry") as registry, search_hubs() as hubs:
        _fill(hubs)
        (tmp_path / "llama.gguf").write_bytes(bytes(2_020_000))
        model = from_gguf(tmp_path / "llama.gguf", licenses=[], context_size=2048, schema="docker")
        registry.seed("ai/llama3.2", "latest", [*model.layers, model.config], model.manifest)
        daemon.environment |= {
            "DEFAULT_REGISTRY": registry.host,
            "DMR_DOCKER_HUB_URL": hubs.url,
            "HF_ENDPOINT": hubs.url,
        }
        daemon.start()
        environment = {
            **daemon.environment,
            "PATH": f"{Path(sys.executable).parent}:{daemon.environment['PATH']}",
            "MODEL_RUNNER_HOST": daemon.url,
        }
        commands = blocks((ROOT / "docs" / "finding-models.md").read_text())
        assert len(commands) == 6
        for command, documented in commands:
            done = subprocess.run(
                ["bash", "-c", command],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=60,
                check=False,
            )
            assert done.returncode == 0, done.stdout
            assert matches(documented, done.stdout), f"$ {command}\n{done.stdout}"
