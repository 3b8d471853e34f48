"""Why no NVIDIA GPU can be used, and what to do about it."""

from __future__ import annotations

from typing import Final

from dmr_adapters.gpu.nvidia_gpu import NvidiaReport

__all__ = ["trouble"]

_STEPS: Final = {
    4: "this user may not use it: see the owner and mode of /dev/nvidia*",  # NVML_ERROR_NO_PERMISSION
    8: "a power cable of the GPU is not connected",  # NVML_ERROR_INSUFFICIENT_POWER
    9: "the kernel module is not loaded: run `modprobe nvidia`, and see `dmesg` if that fails",  # NVML_ERROR_DRIVER_NOT_LOADED
    15: "a GPU fell off the bus: see `dmesg` for Xid messages, and restart the machine",  # NVML_ERROR_GPU_IS_LOST
    18: (  # NVML_ERROR_LIB_RM_VERSION_MISMATCH
        "the library and the kernel module are of different versions, as after an upgrade of the driver: restart the machine, "
        "or unload and load the module (`rmmod nvidia_uvm nvidia_drm nvidia_modeset nvidia; modprobe nvidia`); in a container, "
        "restart that"
    ),
}
"""By the library's return code (``nvmlReturn_t``)."""

_DENIED: Final = (
    "the container's control group denies the device: start it with `--gpus all` (Docker), a CDI device or the device plugin; if it "
    "worked before, `systemctl daemon-reload` on the host took it away: restart the container"
)
_MODE: Final = "this user may not open it: see the owner and mode of /dev/nvidia*"
_GONE: Final = "the kernel module behind the device file is not loaded: run `modprobe nvidia`"
_BY_ERRNO: Final = {"EPERM": _DENIED, "EACCES": _MODE, "ENODEV": _GONE, "ENXIO": _GONE}


def trouble(report: NvidiaReport) -> str:
    """What stands in the way where the library could be loaded, and then refused."""
    fault = report.fault
    if fault is None:
        return ""
    for file in ("nvidiactl", "nvidia0", "nvidia-uvm"):
        refusal = report.refused.get(file, "")
        if refusal in _BY_ERRNO:
            return f"The NVIDIA driver cannot be used: /dev/{file}: {_BY_ERRNO[refusal]}."
    if "nvidiactl" in report.refused and report.refused["nvidiactl"] == "ENOENT":
        return "The NVIDIA driver cannot be used: /dev/nvidiactl is missing: run `nvidia-modprobe`, or give it to the container."
    step = _STEPS.get(fault.code, "see `dmesg` for NVRM messages, and whether `nvidia-smi` says more")
    return f"The NVIDIA driver cannot be used ({fault.text.rstrip('.')}): {step}."
