"""What NVIDIA's management library knows, as JSON on standard output: a program, run as a child of the detector.

It is a process of its own because the library may hang for ever in the driver, or crash. It needs nothing but the standard
library, so that it starts in milliseconds: ``python -I -S nvml.py --seconds 8 [--dev /dev] [--library PATH ...]``.
Structures and codes are those of NVIDIA's ``nvml.h`` (NVML API reference).
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

__all__ = ["LIBRARIES", "main", "read"]

LIBRARIES: Final = (
    "libnvidia-ml.so.1",  # wherever the loader looks, LD_LIBRARY_PATH included
    "/usr/local/nvidia/lib64/libnvidia-ml.so.1",  # Kubernetes nodes that mount the driver
    "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1",
    "/usr/lib/aarch64-linux-gnu/libnvidia-ml.so.1",
    "/usr/lib64/libnvidia-ml.so.1",
    "/usr/lib/wsl/lib/libnvidia-ml.so.1",
    "/run/opengl-driver/lib/libnvidia-ml.so.1",  # NixOS
)

_TEXT: Final = 96
_MOST_DEVICES: Final = 256
_NODES: Final = ("nvidiactl", "nvidia0", "nvidia-uvm")


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class _MemoryV2(ctypes.Structure):
    """As ``nvidia-smi`` counts: what the driver keeps for itself is neither free nor used."""

    _fields_ = (
        ("version", ctypes.c_uint),
        ("total", ctypes.c_ulonglong),
        ("reserved", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong),
        ("used", ctypes.c_ulonglong),
    )


class _Pci(ctypes.Structure):
    _fields_ = (
        ("legacy", ctypes.c_char * 16),
        ("domain", ctypes.c_uint),
        ("bus", ctypes.c_uint),
        ("device", ctypes.c_uint),
        ("device_id", ctypes.c_uint),
        ("subsystem_id", ctypes.c_uint),
        ("address", ctypes.c_char * 32),
    )


class _Failure(Exception):  # noqa: N818 - not an error of ours
    def __init__(self, call: str, code: int, text: str) -> None:
        super().__init__(call, code, text)
        self.call, self.code, self.text = call, code, text

    def json(self) -> dict[str, Any]:
        return {"call": self.call, "code": self.code, "text": self.text}


class _Library:
    """The library's calls: each returns 0, or a code that becomes a failure."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def __contains__(self, name: str) -> bool:
        return hasattr(self._library, name)

    def __call__(self, name: str, *arguments: Any) -> None:
        try:
            function = getattr(self._library, name)
        except AttributeError:
            raise _Failure(name, 13, "Function Not Found") from None  # as the library itself calls it
        code = int(function(*arguments))
        if code:
            raise _Failure(name, code, self._text(code))

    def number(self, name: str, *arguments: Any) -> int:
        value = ctypes.c_uint()
        self(name, *arguments, ctypes.byref(value))
        return value.value

    def text(self, name: str, *arguments: Any) -> str:
        buffer = ctypes.create_string_buffer(_TEXT)
        self(name, *arguments, buffer, ctypes.c_uint(_TEXT))
        return buffer.value.decode("utf-8", "replace")

    def handle(self, name: str, *arguments: Any) -> ctypes.c_void_p:
        handle = ctypes.c_void_p()
        self(name, *arguments, ctypes.byref(handle))
        return handle

    def _text(self, code: int) -> str:
        with suppress(Exception):
            function = self._library.nvmlErrorString
            function.restype = ctypes.c_char_p
            return str(function(code).decode("utf-8", "replace"))
        return f"error {code}"


def read(library: Any) -> dict[str, Any]:
    """Everything, from an open library. What cannot be read is left out, and named under ``errors``."""
    call = _Library(library)
    try:
        call("nvmlInit_v2")
    except _Failure as failure:
        return {"error": failure.json()}
    try:
        found: dict[str, Any] = {"driver": "", "devices": []}
        with suppress(_Failure):
            found["driver"] = call.text("nvmlSystemGetDriverVersion")
        try:
            count = min(call.number("nvmlDeviceGetCount_v2"), _MOST_DEVICES)
        except _Failure as failure:
            return {**found, "error": failure.json()}
        found["devices"] = [_device(call, index) for index in range(count)]
        return found
    finally:
        with suppress(_Failure):
            call("nvmlShutdown")


def _device(call: _Library, index: int) -> dict[str, Any]:
    found: dict[str, Any] = {"index": index, "errors": []}
    try:
        handle = call.handle("nvmlDeviceGetHandleByIndex_v2", ctypes.c_uint(index))
    except _Failure as failure:
        found["errors"].append(failure.json())
        return found
    _describe(call, handle, found)
    with _noted(found):
        pci = _Pci()
        call("nvmlDeviceGetPciInfo_v3", handle, ctypes.byref(pci))
        found["bus"] = pci.address.decode("ascii", "replace")
    with _noted(found):
        major, minor = ctypes.c_int(), ctypes.c_int()
        call("nvmlDeviceGetCudaComputeCapability", handle, ctypes.byref(major), ctypes.byref(minor))
        found["compute"] = f"{major.value}.{minor.value}"
    with suppress(_Failure):  # older GPUs know no such mode
        now, pending = ctypes.c_uint(), ctypes.c_uint()
        call("nvmlDeviceGetMigMode", handle, ctypes.byref(now), ctypes.byref(pending))
        found["mig"] = now.value == 1
    if found.get("mig"):
        found["instances"] = _instances(call, handle, found)
    return found


def _instances(call: _Library, handle: ctypes.c_void_p, found: dict[str, Any]) -> list[dict[str, Any]]:
    instances = []
    with _noted(found):
        for position in range(min(call.number("nvmlDeviceGetMaxMigDeviceCount", handle), _MOST_DEVICES)):
            with suppress(_Failure):  # a free place
                part = call.handle("nvmlDeviceGetMigDeviceHandleByIndex", handle, ctypes.c_uint(position))
                instance: dict[str, Any] = {"index": position, "errors": []}
                _describe(call, part, instance)
                instances.append(instance)
    return instances


def _describe(call: _Library, handle: ctypes.c_void_p, found: dict[str, Any]) -> None:
    with _noted(found):
        found["name"] = call.text("nvmlDeviceGetName", handle)
    with _noted(found):
        found["uuid"] = call.text("nvmlDeviceGetUUID", handle)
    with _noted(found):
        memory = _memory(call, handle)
        found["memory"] = {"total": memory.total, "free": memory.free, "used": memory.used}


def _memory(call: _Library, handle: ctypes.c_void_p) -> _Memory | _MemoryV2:
    if "nvmlDeviceGetMemoryInfo_v2" in call:
        newer = _MemoryV2(version=ctypes.sizeof(_MemoryV2) | 2 << 24)
        with suppress(_Failure):  # then what the first version says is what there is to say
            call("nvmlDeviceGetMemoryInfo_v2", handle, ctypes.byref(newer))
            return newer
    older = _Memory()
    call("nvmlDeviceGetMemoryInfo", handle, ctypes.byref(older))
    return older


class _noted:  # noqa: N801 - reads like contextlib's
    """Keeps a failure with what could be read."""

    def __init__(self, found: dict[str, Any]) -> None:
        self._found = found

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, failure: BaseException | None, trace: object) -> bool:
        if isinstance(failure, _Failure):
            self._found["errors"].append(failure.json())
            return True
        return False


def _access(dev: str) -> dict[str, str]:
    """Why device files cannot be opened: EPERM is a control group's refusal, EACCES a file mode's."""
    refused = {}
    for name in _NODES:
        try:
            os.close(os.open(f"{dev}/{name}", os.O_RDWR | os.O_CLOEXEC))
        except OSError as exc:
            refused[name] = errno.errorcode.get(exc.errno or 0, "")
    return refused


def main(arguments: Sequence[str]) -> int:
    """Print what there is. Dies by itself after ``--seconds``, and with its parent."""
    given: dict[str, list[str]] = {"--library": [], "--dev": ["/dev"], "--seconds": ["10"]}
    for option, value in zip(arguments[::2], arguments[1::2], strict=True):
        given[option].append(value)
    signal.alarm(int(given["--seconds"][-1]) + 1)
    with suppress(Exception):  # Linux alone has it
        ctypes.CDLL(None).prctl(1, int(signal.SIGKILL))  # PR_SET_PDEATHSIG
    missing = ""
    for name in given["--library"] or LIBRARIES:
        try:
            library = ctypes.CDLL(name)
        except OSError as exc:
            missing = missing or str(exc)
            continue
        found = {"library": name, **read(library)}
        if "error" in found:
            found["refused"] = _access(given["--dev"][-1])
        break
    else:
        found = {"library": None, "missing": missing}
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
