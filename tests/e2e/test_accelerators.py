"""``require`` end to end: a detector of GPUs that are a file, and engines that print what real ones print."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from tests.e2e.conftest import Daemon, daemon_environment, gone
from tests.e2e.test_plugins import PLUGINS, install
from tests.stand_ins import llama_output as output
from tests.stand_ins.standin_install import install_standin, reconfigure_standin

VERSION = "version: 9284 (afcda09d1)"
ARCH = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
LAYOUT = "com.docker.llama-server.native.linux"


@attrs.define
class GpuDaemon(Daemon):
    """A daemon on a machine with as many GPUs as it is told, and one engine."""

    @property
    def gpus(self) -> Path:
        return self.root / "gpus.json"

    def has(self, *devices: str, detail: str = "") -> None:
        self.gpus.write_text(json.dumps({"devices": devices, "detail": detail}))

    def engine(self, directory: str = "engine", **config: Any) -> Path:
        """The engine of these words, and the only one."""
        self.environment["LLAMA_SERVER_PATH"] = str(self.root / "engine")
        return install_standin(self.root / directory, version=VERSION, **config)

    def begin(self, **environment: str) -> None:
        self.environment.update(environment)
        self.start()
        self.cli("pull", "dmr/demo")

    def run(self) -> tuple[int, str]:
        done = self.cli("run", "dmr/demo", "hi", check=False)
        assert b"Traceback" not in done.stderr
        return done.returncode, done.stderr.decode() if done.returncode else done.stdout.decode()

    def json(self, *arguments: str) -> Any:
        return json.loads(self.cli(*arguments, "--json").stdout)

    def settings(self) -> dict[str, dict[str, Any]]:
        explained = self.json("configure", "show", "--explain", "dmr/demo")
        return {setting["name"]: setting for setting in explained["settings"]}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[GpuDaemon]:
    """With one GPU, on which everything is said to be."""
    site = tmp_path / "site"
    site.mkdir()
    install(PLUGINS / "accelerator", site)
    environment = daemon_environment(tmp_path)
    search = [str(site), *([environment["PYTHONPATH"]] if environment.get("PYTHONPATH") else [])]
    made = GpuDaemon(
        tmp_path,
        {
            **environment,
            "PYTHONPATH": ":".join(search),
            "DMR_DISABLED_PLUGINS": "gpu-cuda",
            "DMR_STANDIN_GPU": str(tmp_path / "gpus.json"),
        },
    )
    made.has("NVIDIA H100 80GB HBM3")
    try:
        yield made
    finally:
        made.stop()
    assert made.engines() == []


def chat(daemon: Daemon) -> tuple[int, dict[str, Any]]:
    import urllib.error
    import urllib.request

    body = json.dumps({"model": "dmr/demo", "messages": [{"role": "user", "content": "hi"}]}).encode()
    request = urllib.request.Request(
        f"{daemon.url}/v1/chat/completions", body, {"content-type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def test_a_model_that_is_where_it_must_be_answers_and_ps_says_where(daemon: GpuDaemon) -> None:
    daemon.engine(verbose=output.cuda())
    daemon.begin()
    daemon.cli("configure", "--require", "all-layers", "dmr/demo")

    assert daemon.run() == (0, "hi\n")
    (runner,) = daemon.json("ps")
    assert runner["processor"] == "CUDA0 (5 of 5 layers)"
    assert runner["placement"] == {"devices": ["CUDA0"], "layers": 5, "total_layers": 5, "accelerated": True}
    assert "warning" not in runner
    assert b"CUDA0 (5 of 5 layers)" in daemon.cli("ps").stdout
    assert daemon.settings()["require"]["value"] == "all-layers"
    assert daemon.settings()["accelerator"] == {
        "name": "accelerator",
        "value": "cuda",
        "source": "runner",
        "by": "detected",
        "overrode": [],
    }


@pytest.mark.parametrize(
    ("required", "printed", "said"),
    [
        ("gpu", output.ON_CPU, "put it on the CPU: it was probably not built for cuda"),
        (
            "gpu",
            output.DRIVER_TOO_OLD,
            "CUDA driver version is insufficient for CUDA runtime version. The driver is older",
        ),
        ("gpu", output.NO_LIBRARY, "cannot load the library libcudart.so.13. Install the runtime"),
        ("gpu", output.ONLY_SAYS_SO, "put it on the CPU"),
        ("gpu", "", "does not tell where it computes"),
        ("all-layers", output.cuda(20, 33), "put 20 of 33 layers on CUDA0: the rest did not fit"),
    ],
    ids=["built-for-cpu", "driver", "library", "no-buffer", "silent", "partly"],
)
def test_falling_back_to_the_cpu_is_an_error_with_its_cause(
    daemon: GpuDaemon, required: str, printed: str, said: str
) -> None:
    daemon.engine(message=printed)
    daemon.begin()
    daemon.cli("configure", "--require", required, "dmr/demo")

    code, told = daemon.run()
    assert code == 1
    assert f"'dmr/demo' requires a GPU (require: {required})" in told
    assert said in told
    status, answer = chat(daemon)
    assert (502, "engine_not_accelerated") == (status, answer["error"]["code"])
    assert "dmr configure --require none dmr/demo" in answer["error"]["message"]
    assert daemon.json("ps") == []
    assert daemon.engines() == []


def test_what_was_required_once_need_not_be_for_ever(daemon: GpuDaemon) -> None:
    daemon.engine(message=output.ON_CPU)
    daemon.begin()
    daemon.cli("configure", "--require", "gpu", "dmr/demo")
    assert daemon.run()[0] == 1
    daemon.cli("configure", "--require", "none", "dmr/demo")

    assert daemon.run() == (0, "hi\n")


def test_a_gpu_that_is_not_used_is_warned_of_in_ps_and_status(daemon: GpuDaemon) -> None:
    daemon.engine(message=output.NO_DEVICE)
    daemon.begin()
    assert daemon.run() == (0, "hi\n")

    warning = "llama.cpp computes on the CPU although there is NVIDIA H100 80GB HBM3 (cuda): llama.cpp could not initialise CUDA"
    (runner,) = daemon.json("ps")
    assert ("CPU", True) == (runner["processor"], runner["warning"].startswith(warning))
    assert f"Warning: dmr/demo: {warning}" in daemon.cli("ps").stderr.decode()
    assert f"Warning: dmr/demo: {warning}" in daemon.cli("status").stderr.decode()
    assert daemon.json("status")["warnings"] == [
        {"model": "dmr/demo", "backend": "llama.cpp", "text": runner["warning"]}
    ]


def test_what_a_detector_finds_odd_about_a_gpu_is_a_warning_of_status(daemon: GpuDaemon) -> None:
    daemon.has("Tesla P40", detail="Tesla P40 has compute capability 6.1, for which CUDA 13 has no kernels.")
    daemon.engine()
    daemon.begin()
    done = daemon.cli("status")

    assert b"Tesla P40" in done.stdout
    assert b"Warning: cuda: Tesla P40 has compute capability 6.1" in done.stderr
    assert "no kernels" in daemon.json("status")["accelerator"]["notes"]["cuda"]


def test_a_gpu_that_went_away_since_the_start_is_found_out(daemon: GpuDaemon) -> None:
    daemon.engine(message=output.ON_CPU)
    daemon.begin()
    daemon.cli("configure", "--require", "gpu", "dmr/demo")
    daemon.has(detail="The NVIDIA driver cannot be used: the container's control group denies the device.")

    assert "the detector says now: The NVIDIA driver cannot be used: the container's control group" in daemon.run()[1]


def test_without_a_gpu_the_real_engine_is_not_even_started(daemon: GpuDaemon) -> None:
    daemon.has(detail="There is an NVIDIA GPU at 0000:19:00.0, but no /dev/nvidia0: install its driver.")
    daemon.begin()
    assert daemon.run()[0] == 0
    daemon.cli("configure", "--require", "gpu", "dmr/demo")

    code, told = daemon.run()
    assert code == 1
    assert "there is none that can be used" in told
    assert "no /dev/nvidia0: install its driver" in told
    status, answer = chat(daemon)
    assert (412, "accelerator_missing") == (status, answer["error"]["code"])
    assert gone(daemon.engines())  # the one from before may still be on its way out
    assert b"there is none that can be used" in daemon.cli("why", "dmr/demo").stdout


def test_the_server_that_came_with_dmr_says_that_it_is_for_the_cpu(daemon: GpuDaemon) -> None:
    daemon.begin()
    (program,) = [one["program"] for one in daemon.json("status")["details"] if one["name"] == "llama.cpp"]
    assert "it came with dmr and is built for the CPU" in program["reason"]
    assert daemon.run()[0] == 0
    assert "built for the CPU" in daemon.json("ps")[0]["warning"]
    daemon.cli("configure", "--require", "gpu", "dmr/demo")

    code, told = daemon.run()
    assert code == 1
    assert "llama.cpp cannot use it: it came with dmr and is built for the CPU" in told
    assert chat(daemon)[0] == 502


def test_override_keeps_every_model_on_the_cpu_and_says_so(daemon: GpuDaemon) -> None:
    started = daemon.root / "starts"
    daemon.engine(message=output.ON_CPU, starts=str(started))
    daemon.begin(DMR_OVERRIDE_GPU="cpu")
    assert daemon.run()[0] == 0

    (start,) = [json.loads(line) for line in started.read_text().splitlines()]
    argv = start["argv"]
    assert argv[argv.index("--device") + 1] == "none"
    assert "warning" not in daemon.json("ps")[0]
    assert daemon.settings()["--device"]["by"] == "DMR_OVERRIDE_GPU=cpu"
    assert (daemon.settings()["accelerator"]["source"], daemon.settings()["accelerator"]["value"]) == (
        "environment",
        "cpu",
    )
    assert b"DMR_OVERRIDE_GPU=cpu" in daemon.cli("status").stdout
    daemon.cli("configure", "--require", "gpu", "dmr/demo")
    assert "DMR_OVERRIDE_GPU=cpu keeps every model on the CPU" in daemon.run()[1]


def test_the_build_for_the_accelerator_is_run_and_status_and_explain_say_which(daemon: GpuDaemon) -> None:
    """``LLAMA_SERVER_PATH`` names a directory with builds for several accelerators, as the reference's images have them."""
    cuda, cpu = (f"engine/{LAYOUT}.{variant}.{ARCH}/bin" for variant in ("cuda", "cpu"))
    daemon.engine(cpu, message=output.ON_CPU)
    program = daemon.engine(cuda, verbose=output.cuda())
    daemon.begin()
    assert daemon.run() == (0, "hi\n")

    (listed,) = [one["program"] for one in daemon.json("status")["details"] if one["name"] == "llama.cpp"]
    assert listed == {
        "path": str(program),
        "variant": "cuda",
        "reason": "it is the build for cuda, which is used here",
    }
    shown = daemon.cli("status").stdout.decode()
    assert str(program) in shown
    assert "NVIDIA H100 80GB HBM3" in shown
    assert daemon.settings()["program"]["value"] == str(program)
    assert "the build for cuda" in daemon.settings()["program"]["by"]
    assert daemon.json("ps")[0]["processor"] == "CUDA0 (5 of 5 layers)"


@pytest.mark.parametrize(("version", "asked"), [(VERSION, True), ("version: 8000 (0123abcd)", False)])
def test_servers_are_asked_to_tell_where_they_put_a_model_but_not_those_that_would_tell_prompts(
    daemon: GpuDaemon, version: str, asked: bool
) -> None:
    started = daemon.root / "starts"
    program = daemon.engine(message=output.OLD)
    reconfigure_standin(program, message=output.OLD, starts=str(started), version=version)
    daemon.begin()
    assert daemon.run()[0] == 0

    (start,) = [json.loads(line) for line in started.read_text().splitlines()]
    assert asked is ("--verbosity" in start["argv"])
    assert daemon.json("ps")[0]["processor"] == "CUDA0 (62 of 62 layers)"


def test_configure_takes_only_what_can_be_required(daemon: GpuDaemon) -> None:
    daemon.begin()
    done = daemon.cli("configure", "--require", "always", "dmr/demo", check=False)
    assert done.returncode == 2
    assert b"'gpu', 'all-layers', 'none'" in done.stderr
