"""Where a model is, read from what llama-server prints."""

from __future__ import annotations

import pytest

from dmr_backends_llamacpp.placement import PlacementReader
from dmr_core.domain.acceleration import GpuRequirement, Placement
from tests.stand_ins import llama_output as output

GPU, ALL = GpuRequirement.GPU, GpuRequirement.ALL_LAYERS


def read(text: str, *argv: str, bundled: bool = False) -> Placement | None:
    return PlacementReader(argv=("llama-server", *argv), bundled=bundled)(text)


def placed(text: str, *argv: str, bundled: bool = False) -> Placement:
    placement = read(text, *argv, bundled=bundled)
    assert placement is not None
    return placement


@pytest.mark.parametrize(
    ("text", "devices", "layers", "shown"),
    [
        (output.cuda(), ("CUDA0",), (5, 5), "CUDA0 (5 of 5 layers)"),
        (output.cuda(20, 33), ("CUDA0",), (20, 33), "CUDA0 (20 of 33 layers)"),
        (output.cuda(devices=2), ("CUDA0", "CUDA1"), (5, 5), "CUDA0, CUDA1 (5 of 5 layers)"),
        (output.rocm(), ("ROCm0",), (5, 5), "ROCm0 (5 of 5 layers)"),
        (output.OLD, ("CUDA0",), (62, 62), "CUDA0 (62 of 62 layers)"),
        (output.DRAFT, ("CUDA0",), (45, 46), "CUDA0 (45 of 46 layers)"),
        (output.USUAL, ("CUDA0",), (None, None), "CUDA0"),
        (output.cuda(0, 33), (), (0, 33), "CPU"),
        (output.ON_CPU, (), (None, None), "CPU"),
        (output.USUAL_CPU, (), (None, None), "CPU"),
        (output.ONLY_SAYS_SO, (), (0, 19), "CPU"),
    ],
)
def test_devices_and_layers_are_those_of_the_buffers(
    text: str, devices: tuple[str, ...], layers: tuple[int | None, int | None], shown: str
) -> None:
    placement = placed(text)

    assert (devices, *layers) == (placement.devices, placement.layers, placement.total_layers)
    assert shown == str(placement)
    assert placement.accelerated is bool(devices)


def test_nothing_is_known_before_it_is_said() -> None:
    assert read("") is None
    assert read("0.00.014.543 I srv          init: listening on unix:///x.sock\n") is None


@pytest.mark.parametrize(
    ("text", "meets"),
    [
        (output.cuda(), {GPU, ALL}),
        (output.cuda(20, 33), {GPU}),
        (output.USUAL, {GPU}),
        (output.ON_CPU, set()),
        (output.ONLY_SAYS_SO, set()),
    ],
)
def test_what_is_required_is_met_by_what_was_said(text: str, meets: set[GpuRequirement]) -> None:
    assert meets | {GpuRequirement.NONE} == {required for required in GpuRequirement if placed(text).meets(required)}


@pytest.mark.parametrize(
    ("text", "cause", "remedy"),
    [
        (output.DRIVER_TOO_OLD, "could not initialise CUDA: CUDA driver version is insufficient", "update the driver"),
        (output.NO_DEVICE, "no CUDA-capable device is detected", "CUDA_VISIBLE_DEVICES"),
        (output.NO_LIBRARY, "cannot load the library libcudart.so.13", "LD_LIBRARY_PATH"),
        (
            "ggml_cuda_init: failed to initialize ROCm: OS call failed or operation not supported\n" + output.ON_CPU,
            "could not initialise ROCm: OS call failed",
            "control group",
        ),
        (
            "ggml_cuda_init: failed to initialize CUDA: unknown error\n" + output.ON_CPU,
            "could not initialise CUDA: unknown error",
            "suspend",
        ),
        ("CUDA error: no kernel image is available for execution\n" + output.ON_CPU, "no kernels", "Pascal"),
        (
            "warning: no usable GPU found, --gpu-layers option will be ignored\n" + output.ON_CPU,
            "found no GPU it could use",
            "LLAMA_SERVER_PATH",
        ),
        (output.ON_CPU, "", ""),
    ],
)
def test_the_reason_is_the_most_telling_line(text: str, cause: str, remedy: str) -> None:
    placement = placed(text)

    assert not placement.accelerated
    assert cause in placement.cause
    assert remedy in placement.remedy
    assert bool(cause) == bool(placement.cause)


def test_a_warning_beside_a_gpu_that_is_used_means_nothing() -> None:
    placement = placed("warning: no usable GPU found, --gpu-layers option will be ignored\n" + output.cuda())

    assert (True, "") == (placement.accelerated, placement.cause)


@pytest.mark.parametrize("flags", [("-ngl", "0"), ("--gpu-layers", "0"), ("--device", "none")])
def test_who_asks_for_the_cpu_gets_it_without_a_word(flags: tuple[str, ...]) -> None:
    for text in (output.ON_CPU, output.cuda(0, 33), output.USUAL, ""):
        placement = placed(text, *flags)
        assert (False, True, "") == (placement.accelerated, placement.chosen, placement.cause)


def test_the_bundled_server_needs_no_output_to_be_known() -> None:
    placement = placed("", bundled=True)

    assert not placement.accelerated
    assert "built for the CPU" in placement.cause
    assert "LLAMA_SERVER_PATH" in placement.remedy


def test_what_is_kept_as_evidence_is_bounded() -> None:
    flood = "".join(f"ggml_cuda_init: failed to initialize CUDA: {number} {'x' * 9000}\n" for number in range(1000))
    placement = placed(flood + output.ON_CPU)

    assert len(placement.evidence) == 12
    assert max(map(len, placement.evidence)) <= 300
    assert len(placement.cause) < 400


@pytest.mark.parametrize(
    "piece",
    ["x", "failed to initialize ", "failed to initialize a: ", "libcuda", "load_backend: failed to load ", "- a "],
)
def test_output_made_to_keep_patterns_busy_does_not(piece: str) -> None:
    """A line as long as all that is kept of a program's output. It takes milliseconds; minutes if a pattern goes back over it."""
    assert read(piece * (131_072 // len(piece)) + "\n") is None
    assert not placed(piece * (131_072 // len(piece)) + "\n" + output.ON_CPU).accelerated
