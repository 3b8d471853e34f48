"""Where llama.cpp put a model, from what it prints while it loads.

The lines are those of ``load_tensors`` (before 2025 ``llm_load_tensors``): how many layers are on accelerators, and how large each
buffer is, by the name of its device. The buffers decide: builds are known that say "offloaded 19/19 layers to GPU" and have nothing
but a CPU buffer. Since build 9181 (May 2026) servers print them at verbosity 4; what they print without, ``device_info``, tells
which devices there are but not how many layers went there. "no usable GPU found" says nothing alone: builds since 9031 print it
beside GPUs that they use.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

import attrs

from dmr_core.domain.acceleration import Placement
from dmr_core.domain.gpu import CPU

__all__ = ["TELLING_BUILD", "PlacementReader"]

TELLING_BUILD: Final = 9181
"""From here on ``--verbosity 4`` is what prints the lines; to builds before it, that is for debugging, prompts included."""

_OFFLOADED: Final = re.compile(r"offloaded (?P<layers>\d{1,5})/(?P<total>\d{1,5}) layers to GPU")
_BUFFER: Final = re.compile(r"load_tensors: +(?P<device>\S{1,64}) +(?:model )?buffer size = +(?P<size>[\d.]{1,12}) MiB")
_SECTION: Final = "loading model tensors, this can take a while"
_DEVICE_INFO: Final = re.compile(
    r"- (?P<device>\w{1,32}) +: [^\n]{1,200}\(\d{1,9} MiB, \d{1,9} MiB free\)\s*$", re.MULTILINE
)
_HOST: Final = re.compile(r"CPU.*|.*_Host|AMX.*|BLAS.*|Host", re.IGNORECASE)
_LAYER_FLAGS: Final = frozenset({"-ngl", "--gpu-layers", "--n-gpu-layers"})
_DEVICE_FLAGS: Final = frozenset({"-dev", "--device"})
_EVIDENCE: Final = re.compile(
    r"(?:offloaded \d+/\d+ layers|buffer size =|using device |failed to initialize|failed to load|cannot open shared object"
    r"|no usable GPU|compiled without GPU|no kernel image|device_info)"
)
_MOST_EVIDENCE: Final = 12
_LONGEST_LINE: Final = 300
_LIBRARIES: Final = r"lib(?:cuda|cudart|cublas\w{0,32}|nccl|amdhip64|hipblas\w{0,32}|rocblas|rocm\w{0,32}|mus\w{1,32}|mublas|ascendcl|vulkan)"


@attrs.frozen
class _Why:
    """Output that tells why a model is on the CPU. Both texts may use the pattern's groups."""

    pattern: re.Pattern[str]
    cause: str
    remedy: str


_REASONS: Final = (
    _Why(
        re.compile(
            r"failed to initialize (?P<api>\w{1,32}): (?P<text>[^\n]{0,200}driver version is insufficient[^\n]{0,200}|[^\n]{0,200}forward compat[^\n]{0,200})"
        ),
        "llama.cpp could not initialise {api}: {text}",
        "The driver is older than the {api} it was built with: update the driver, or use a build for an older {api}.",
    ),
    _Why(
        re.compile(
            r"failed to initialize (?P<api>\w{1,32}): (?P<text>[^\n]{0,200}no [\w-]{1,32} ?-?capable device[^\n]{0,200})"
        ),
        "llama.cpp could not initialise {api}: {text}",
        "The device is hidden from it or was taken away: see CUDA_VISIBLE_DEVICES and its kin, whether the container was started "
        "with the GPU, and what `dmr plugins` says.",
    ),
    _Why(
        re.compile(
            r"failed to initialize (?P<api>\w{1,32}): (?P<text>[^\n]{0,200}(?:not permitted|OS call failed|permission)[^\n]{0,200})",
            re.IGNORECASE,
        ),
        "llama.cpp could not initialise {api}: {text}",
        "The control group or the mode of the device files denies it: start the container with the GPU again "
        "(`systemctl daemon-reload` on the host takes it away), or add the user to the group of the device.",
    ),
    _Why(
        re.compile(r"failed to initialize (?P<api>\w{1,32}): (?P<text>[^\n]{1,200})"),
        "llama.cpp could not initialise {api}: {text}",
        "After a suspend, load the driver's module anew (`rmmod nvidia_uvm && modprobe nvidia_uvm`); else `dmesg` tells more.",
    ),
    _Why(
        re.compile(rf"(?P<library>{_LIBRARIES}[\w.-]{{0,60}}\.so[\w.]{{0,20}}): cannot open shared object file"),
        "llama.cpp cannot load the library {library}",
        "Install the runtime that has it, or set LD_LIBRARY_PATH to where it is and start the service again.",
    ),
    _Why(
        re.compile(r"load_backend: failed to (?:load|find)[^\n]{0,300}?(?P<library>libggml-(?!cpu)\w{1,32}\.so)"),
        "llama.cpp cannot load its backend {library}",
        "Use a build whose libraries belong together, and keep them beside the program.",
    ),
    _Why(
        re.compile(r"no kernel image is available|invalid device function|PTX was compiled with an unsupported"),
        "this build of llama.cpp has no kernels for the device",
        "Use a build for the device's architecture (`dmr plugins --json` shows it); Pascal and Volta need CUDA 12.",
    ),
    _Why(
        re.compile(r"compiled without GPU support|not compiled with GPU offload support|no usable GPU found"),
        "llama.cpp found no GPU it could use: it was built without support for it, or cannot see it",
        "`dmr status` shows which program it is; set LLAMA_SERVER_PATH to a build for this accelerator.",
    ),
)


@attrs.frozen(kw_only=True)
class PlacementReader:
    """Reads the output of one server: ``argv`` is what it was started as, ``bundled`` whether it is the wheel's."""

    argv: tuple[str, ...]
    bundled: bool = False
    variant: str = CPU

    def __call__(self, output: str) -> Placement | None:
        """Where the model is; ``None`` if the output does not say so (yet)."""
        if self.bundled:
            return Placement(
                cause="the llama.cpp server that comes with dmr is built for the CPU",
                remedy="Install a llama-server built for the accelerator, and set LLAMA_SERVER_PATH to it (docs/gpu.md).",
            )
        sections = [section for section in map(_Section.read, output.split(_SECTION)) if section.counts]
        chosen = _kept_on_cpu(self.argv)
        if sections:
            devices = tuple(dict.fromkeys(device for section in sections for device in section.devices))
            counted = [section.layers for section in sections if section.layers is not None]
            layers = sum(layers for layers, _ in counted) if counted else None
            total = sum(total for _, total in counted) if counted else None
        else:
            seen = [found["device"] for found in _DEVICE_INFO.finditer(output)]
            if not seen and not chosen:
                return None
            devices = () if chosen else tuple(device for device in seen if not _HOST.fullmatch(device))
            layers = total = None
        if not devices:
            layers = 0 if total is not None else None
        cause, remedy = ("", "") if chosen or (devices and layers != 0) else _why(output)
        return Placement(
            devices=devices,
            layers=layers,
            total_layers=total,
            cause=cause,
            remedy=remedy,
            chosen=chosen,
            evidence=tuple(_evidence(output)),
        )


@attrs.frozen
class _Section:
    """One model's load: there is another for a draft model, and a dry one, without bytes, for fitting."""

    devices: tuple[str, ...]
    layers: tuple[int, int] | None
    bytes: bool

    @property
    def counts(self) -> bool:
        return self.bytes

    @classmethod
    def read(cls, text: str) -> _Section:
        offloaded = [(int(found["layers"]), int(found["total"])) for found in _OFFLOADED.finditer(text)]
        buffers = [(found["device"], _size(found["size"])) for found in _BUFFER.finditer(text)]
        devices = tuple(_device(name) for name, size in buffers if size > 0 and not _HOST.fullmatch(name))
        return cls(devices, offloaded[-1] if offloaded else None, any(size > 0 for _, size in buffers))


def _size(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def _device(buffer: str) -> str:
    """The device a buffer is on: ``CUDA0`` of ``CUDA0_Split``, ``Metal`` of ``Metal_Mapped``."""
    return re.split(r"[_-](?:Mapped|Split|REPACK|Private)", buffer)[0]


def _kept_on_cpu(argv: Sequence[str]) -> bool:
    """Whether its flags say so; each is in the vector once."""
    return any(
        (flag in _LAYER_FLAGS and value == "0") or (flag in _DEVICE_FLAGS and value == "none")
        for flag, value in pairwise(argv)
    )


def _why(output: str) -> tuple[str, str]:
    for reason in _REASONS:
        if found := reason.pattern.search(output):
            said = {name: " ".join(text.split())[:200] for name, text in found.groupdict().items()}
            return reason.cause.format(**said), reason.remedy.format(**said)
    return "", ""


def _evidence(output: str) -> Iterator[str]:
    # Line by line: what a model has in its metadata is printed too, and may be made to keep a pattern busy.
    lines = (line.strip()[:_LONGEST_LINE] for line in output.splitlines() if _EVIDENCE.search(line))
    yield from list(dict.fromkeys(lines))[:_MOST_EVIDENCE]
