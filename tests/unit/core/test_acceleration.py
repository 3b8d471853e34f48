"""Whether a model computes where it is required to: before the start, and after it."""

from __future__ import annotations

import pytest

from dmr_core.domain.acceleration import (
    Accelerator,
    EngineProgram,
    GpuRequirement,
    Placement,
    choose_accelerator,
)
from dmr_core.domain.engine import EngineConfig
from dmr_core.domain.engine_document import engine_document, read_engine_document
from dmr_core.domain.gpu import Detection, GpuDevice
from dmr_core.errors import AcceleratorMissingError, EngineNotAcceleratedError, InvalidConfigurationError
from dmr_core.services.acceleration import AccelerationService

GPU, ALL, NONE = GpuRequirement.GPU, GpuRequirement.ALL_LAYERS, GpuRequirement.NONE
H100 = GpuDevice(index=0, name="NVIDIA H100", memory_total=80 << 30)
PROCESSOR = Detection(variant="cpu", devices=(GpuDevice(index=0, name="AMD EPYC"),))
NO_CUDA = Detection(variant="cuda", detail="There is an NVIDIA GPU at 0000:19:00.0, but no /dev/nvidia0.")
CUDA = Detection(variant="cuda", devices=(H100, H100))
ROCM = Detection(variant="rocm", devices=(GpuDevice(index=0, name="AMD Instinct MI300X"),))
PRIORITIES = {"cpu": 0, "rocm": 30, "cuda": 40}
ON_GPU = Placement(devices=("CUDA0",), layers=33, total_layers=33)
PARTLY = Placement(devices=("CUDA0",), layers=20, total_layers=33)
UNCOUNTED = Placement(devices=("CUDA0",))
ON_CPU = Placement(layers=0, total_layers=33, evidence=("load_tensors: offloaded 0/33 layers to GPU",))


def service(*detections: Detection, override: str | None = None, now: Detection | None = None) -> AccelerationService:
    seen = (PROCESSOR, *detections)

    async def look() -> tuple[Detection, ...]:
        return (now or detections[0],)

    accelerator = choose_accelerator(seen, PRIORITIES, override)
    return AccelerationService(accelerator=accelerator, detections=seen, look=look)


# --- which accelerator ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seen", "override", "variant", "forced", "reason"),
    [
        ((PROCESSOR,), None, "cpu", False, "no accelerator was detected"),
        ((), None, "cpu", False, "no detector saw a device"),
        ((PROCESSOR, NO_CUDA), None, "cpu", False, "no accelerator was detected"),
        ((PROCESSOR, CUDA), None, "cuda", False, "detected"),
        ((PROCESSOR, ROCM, CUDA), None, "cuda", False, "detected, and preferred to rocm; DMR_OVERRIDE_GPU chooses"),
        ((PROCESSOR, ROCM, CUDA), "rocm", "rocm", True, "DMR_OVERRIDE_GPU=rocm"),
        ((PROCESSOR, CUDA), "cpu", "cpu", True, "DMR_OVERRIDE_GPU=cpu"),
        ((PROCESSOR, NO_CUDA), "cuda", "cuda", True, "although its detector saw no device: There is an NVIDIA GPU"),
    ],
)
def test_the_best_that_was_seen_is_chosen_unless_the_operator_chooses(
    seen: tuple[Detection, ...], override: str | None, variant: str, forced: bool, reason: str
) -> None:
    chosen = choose_accelerator(seen, PRIORITIES, override)

    assert (variant, forced) == (chosen.variant, chosen.forced)
    assert reason in chosen.reason


def test_what_a_failed_plugin_saw_is_not_chosen() -> None:
    assert choose_accelerator((PROCESSOR, CUDA), {"cpu": 0}).variant == "cpu"


def test_a_variant_nobody_detects_is_refused_with_those_there_are() -> None:
    with pytest.raises(InvalidConfigurationError, match="DMR_OVERRIDE_GPU='metal': use one of cpu, cuda"):
        choose_accelerator((PROCESSOR, CUDA), PRIORITIES, "metal")


def test_devices_are_counted_by_name() -> None:
    assert choose_accelerator((CUDA,), PRIORITIES).names == "2 x NVIDIA H100"


# --- the setting ------------------------------------------------------------------------------------


@pytest.mark.parametrize("required", GpuRequirement)
def test_the_setting_survives_its_document(required: GpuRequirement) -> None:
    config = read_engine_document({"require": required.value})

    assert required is config.require
    assert engine_document(config) == {"require": required.value}


@pytest.mark.parametrize("value", ["GPU!", "", True, 1, ["gpu"], {"gpu": 1}])
def test_anything_else_is_refused_with_what_it_may_be(value: object) -> None:
    with pytest.raises(InvalidConfigurationError, match="use one of 'none', 'gpu', 'all-layers'") as refused:
        read_engine_document({"require": value})
    assert refused.value.param == "require"


def test_only_a_requirement_that_is_given_up_needs_no_new_start() -> None:
    none, gpu, every = EngineConfig(), EngineConfig(require=GPU), EngineConfig(require=ALL)

    assert none.launches_like(gpu)
    assert EngineConfig(require=NONE).launches_like(every)
    assert not gpu.launches_like(none)
    assert not every.launches_like(gpu)


# --- before the start -------------------------------------------------------------------------------


@pytest.mark.parametrize("required", [None, NONE])
def test_what_requires_nothing_is_always_admitted(required: GpuRequirement | None) -> None:
    service(NO_CUDA).admit("m", required, "llama.cpp", EngineProgram(path="x", variant="cpu"))


@pytest.mark.parametrize("required", [GPU, ALL])
def test_without_a_device_nothing_is_started_and_the_detectors_say_why(required: GpuRequirement) -> None:
    with pytest.raises(AcceleratorMissingError) as refused:
        service(NO_CUDA).admit("smollm2", required, "llama.cpp", None)

    for words in (f"'smollm2' requires a GPU (require: {required})", NO_CUDA.detail, "dmr plugins", "--require none"):
        assert words in refused.value.message


def test_who_keeps_engines_off_the_gpu_is_told_that_it_is_that() -> None:
    with pytest.raises(AcceleratorMissingError, match="DMR_OVERRIDE_GPU=cpu keeps every model on the CPU"):
        service(CUDA, override="cpu").admit("m", GPU, "llama.cpp", None)


def test_a_program_for_the_cpu_is_not_started_in_vain() -> None:
    program = EngineProgram(path="dmr-llama-server", variant="cpu", reason="it came with dmr")
    with pytest.raises(EngineNotAcceleratedError) as refused:
        service(CUDA).admit("m", GPU, "llama.cpp", program)

    for words in ("2 x NVIDIA H100 (cuda)", "it came with dmr", "Install a build for cuda"):
        assert words in refused.value.message


@pytest.mark.parametrize("program", [None, EngineProgram(path="x"), EngineProgram(path="x", variant="cuda")])
def test_what_may_be_able_to_is_started(program: EngineProgram | None) -> None:
    service(CUDA).admit("m", ALL, "llama.cpp", program)
    service(NO_CUDA, override="cuda").admit("m", ALL, "llama.cpp", program)


# --- after it ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("required", "placement"),
    [(GPU, ON_GPU), (GPU, PARTLY), (GPU, UNCOUNTED), (ALL, ON_GPU), (None, ON_GPU), (NONE, PARTLY), (None, None)],
)
async def test_what_is_as_required_is_not_spoken_of(required: GpuRequirement, placement: Placement | None) -> None:
    assert await service(CUDA).verify("m", required, "llama.cpp", placement) == ""


@pytest.mark.parametrize(
    ("required", "placement", "said"),
    [
        (GPU, ON_CPU, "put it on the CPU"),
        (ALL, PARTLY, "put 20 of 33 layers on CUDA0: the rest did not fit"),
        (ALL, UNCOUNTED, "does not tell how many layers"),
        (GPU, None, "does not tell where it computes"),
        (GPU, Placement(chosen=True), "its settings ask for that"),
    ],
)
async def test_what_is_not_as_required_is_an_error(
    required: GpuRequirement, placement: Placement | None, said: str
) -> None:
    with pytest.raises(EngineNotAcceleratedError) as refused:
        await service(CUDA).verify("m", required, "llama.cpp", placement)

    assert said in refused.value.message
    assert "`dmr configure --require none m`" in refused.value.message


async def test_the_engines_own_words_come_first_and_its_lines_last() -> None:
    placement = Placement(cause="the driver is too old", remedy="Update it.", evidence=("ggml_cuda_init: failed",))
    gone = Detection(variant="cuda", detail="The driver is gone.")
    with pytest.raises(EngineNotAcceleratedError) as refused:
        await service(CUDA, now=gone).verify("m", GPU, "llama.cpp", placement)

    assert "the driver is too old. Update it. Or:" in refused.value.message
    assert "gone" not in refused.value.message
    assert refused.value.message.endswith("Verbose output:\nggml_cuda_init: failed")


@pytest.mark.parametrize("required", [GPU, None])
async def test_a_gpu_that_went_away_is_told_by_its_detector(required: GpuRequirement | None) -> None:
    gone = Detection(variant="cuda", detail="The container's control group denies the device.")
    look = service(CUDA, now=gone)
    if required is None:
        said = await look.verify("m", required, "llama.cpp", ON_CPU)
    else:
        with pytest.raises(EngineNotAcceleratedError) as refused:
            await look.verify("m", required, "llama.cpp", ON_CPU)
        said = refused.value.message

    assert "the detector says now: The container's control group denies the device" in said


async def test_a_gpu_that_is_not_used_is_warned_of_even_where_none_is_required() -> None:
    warning = await service(CUDA).verify("m", None, "llama.cpp", ON_CPU)

    assert warning.startswith("llama.cpp computes on the CPU although there is 2 x NVIDIA H100 (cuda): it was probably")


@pytest.mark.parametrize("placement", [Placement(chosen=True), None, PARTLY])
async def test_nobody_is_warned_of_what_was_chosen_or_is_not_known(placement: Placement | None) -> None:
    assert await service(CUDA).verify("m", None, "llama.cpp", placement) == ""


@pytest.mark.parametrize("override", [None, "cpu"])
async def test_nobody_is_warned_where_there_is_no_gpu_to_be_used(override: str | None) -> None:
    there = service(NO_CUDA) if override is None else service(CUDA, override=override)

    assert await there.verify("m", None, "llama.cpp", ON_CPU) == ""


async def test_a_detector_that_does_not_answer_delays_a_load_that_needs_no_gpu_only_so_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import asyncio

    monkeypatch.setattr("dmr_core.services.acceleration._PATIENCE", 0.01)

    async def never() -> tuple[Detection, ...]:
        await asyncio.Event().wait()
        raise AssertionError

    accelerator = Accelerator(variant="cuda", devices=(H100,))
    hangs = AccelerationService(accelerator=accelerator, look=never)
    assert "computes on the CPU" in await hangs.verify("m", None, "llama.cpp", ON_CPU)
