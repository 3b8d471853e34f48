"""What a llama.cpp server says of itself, and what it is started with for that."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmr_backends_llamacpp.engine import LlamaCppEngine
from dmr_backends_llamacpp.program import Facts, Programs
from dmr_backends_llamacpp.runtime import Runtime
from dmr_core.domain.acceleration import GpuRequirement
from dmr_core.domain.digest import Digest
from dmr_core.domain.engine import EngineConfig
from dmr_core.domain.model import Bundle, Model
from dmr_core.domain.provenance import Source
from dmr_core.ports.backend import EngineContext
from dmr_core.ports.engine import LaunchRequest
from dmr_core.testing.contracts.samples import build_artifact, layer_of
from dmr_core.testing.fakes.process import FakeProcessSupervisor, ProcessScript

CUDA = (
    "ggml_cuda_init: found 2 CUDA devices (Total VRAM: 162158 MiB):\nversion: 9284 (afcda09d1)\nbuilt with GNU 11.4.0\n"
)


def runtime(program: Path) -> Runtime:
    return Runtime(command=(str(program),), origin="PATH", native=True)


def programs(program: Path, output: str) -> tuple[Programs, FakeProcessSupervisor]:
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    processes = FakeProcessSupervisor(scripts={str(program): ProcessScript(output=output, exits=0)})
    return Programs(processes), processes


@pytest.mark.parametrize(
    ("output", "facts"),
    [
        (CUDA, Facts(commit="afcda09d1", build=9284, variant="cuda")),
        (CUDA.replace("CUDA", "ROCm"), Facts(commit="afcda09d1", build=9284, variant="rocm")),
        (
            (
                "load_backend: loaded RPC backend from /app/libggml-rpc.so\n"
                "load_backend: loaded Vulkan backend from /app/libggml-vulkan.so\nversion: 8000 (0123abcd)\n"
            ),
            Facts(commit="0123abcd", build=8000, variant="vulkan"),
        ),
        ("ggml_cuda_init: found 0 CUDA devices\nversion: 1 (x)\n", Facts(commit="x", build=1)),
        ("version: 0 (unknown)\n", Facts()),
        ("segfault", Facts()),
    ],
)
async def test_version_build_and_accelerator_are_what_it_prints(tmp_path: Path, output: str, facts: Facts) -> None:
    asked, _ = programs(tmp_path / "llama-server", output)

    assert await asked.ask(runtime(tmp_path / "llama-server")) == facts


async def test_a_program_is_asked_once_and_again_when_it_was_replaced(tmp_path: Path) -> None:
    program = tmp_path / "llama-server"
    asked, processes = programs(program, CUDA)
    for _ in range(3):
        await asked.ask(runtime(program))
    assert len(processes.started) == 1

    program.write_text("#!/bin/sh\n# another build\n")
    assert asked.known(runtime(program)) is None
    await asked.ask(runtime(program))
    assert len(processes.started) == 2


def launch(directory: Path, config: EngineConfig) -> LaunchRequest:
    artifact = build_artifact([layer_of(b"GGUF")])
    model = Model(id=Digest.of(b"x"), tags=("m",), manifest=artifact.manifest, config=artifact.config)
    bundle = Bundle(root=directory, gguf=directory / "model.gguf")
    return LaunchRequest(model=model, bundle=bundle, alias="m", config=config)


@pytest.mark.parametrize(
    ("variant", "forced", "output", "config", "flags"),
    [
        ("cpu", False, CUDA, EngineConfig(), {}),
        ("cuda", False, CUDA, EngineConfig(), {"--verbosity": "4"}),
        ("cpu", False, CUDA, EngineConfig(require=GpuRequirement.GPU), {"--verbosity": "4"}),
        ("cpu", False, CUDA, EngineConfig(require=GpuRequirement.NONE), {}),
        ("cuda", False, CUDA.replace("9284", "9180"), EngineConfig(), {}),
        ("cuda", False, CUDA, EngineConfig(runtime_flags=("--verbose",)), {"--verbose": None}),
        ("cpu", True, CUDA, EngineConfig(), {"--device": "none"}),
        ("cpu", True, CUDA, EngineConfig(runtime_flags=("--device", "CUDA1")), {"--device": "CUDA1"}),
    ],
)
async def test_the_accelerator_asks_for_flags_that_others_may_say_differently(
    tmp_path: Path, variant: str, forced: bool, output: str, config: EngineConfig, flags: dict[str, str | None]
) -> None:
    program = tmp_path / "llama-server"
    _, processes = programs(program, output)
    context = EngineContext(
        processes=processes, environment={"LLAMA_SERVER_PATH": str(program)}, variant=variant, forced=forced
    )
    engine = LlamaCppEngine.create(context)
    running = await engine.start(launch(tmp_path, config))

    words = running.argv
    found: dict[str, str | None] = {
        word: words[index + 1] for index, word in enumerate(words) if word in ("--verbosity", "--device")
    }
    found |= {"--verbose": None} if "--verbose" in words else {}
    assert flags == found
    told = engine.arguments(launch(tmp_path, config))
    assert [one.claim.source for one in told if one.words[0] == "--verbosity"] in ([], [Source.RUNNER])
    assert len([word for one in told for word in one.words]) == len(words)
