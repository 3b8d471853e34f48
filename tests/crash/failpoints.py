"""Dying at the n-th change of the disk.

The calls by which a program changes what is below a directory are counted, and at one of them the process
kills itself: before the call, in the middle of a write, or right after. The program under test knows nothing of it:
what is replaced are the functions of ``os`` and ``io`` that it calls, in a process of its own.
"""

from __future__ import annotations

import fcntl
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

__all__ = ["Failpoints", "When"]

_TWO_PATHS: Final = ("rename", "replace", "link", "symlink")
_ONE_PATH: Final = ("unlink", "remove", "mkdir", "rmdir", "chmod", "truncate", "utime")
_PAGE: Final = 4096  # the kernel copies pages: a signal does not stop it within one
_DESCRIPTOR: Final = ("fsync", "fdatasync", "ftruncate", "fchmod", "posix_fallocate", "sendfile")


class When(StrEnum):
    """When to die at a call; a call that writes no bytes has no middle and is done then."""

    BEFORE = "before"
    MIDDLE = "middle"
    AFTER = "after"


class Failpoints:
    """Counts the calls that change something below ``root``, and kills the process at number ``at``; 0 is never."""

    def __init__(self, root: Path, at: int, when: When) -> None:
        self.names: list[str] = []
        self._root = os.path.realpath(root)
        self._at = at
        self._when = when
        self._turn = threading.Lock()

    def install(self) -> None:
        """Replace the functions, in this process and for good."""
        for name in _TWO_PATHS:
            self._replace(name, lambda args, kwargs: [_path(args[1], kwargs.get("dst_dir_fd"))])
        for name in _ONE_PATH:
            self._replace(name, lambda args, kwargs: [_path(args[0], kwargs.get("dir_fd"))])
        for name in _DESCRIPTOR:
            self._replace(name, lambda args, kwargs: [_path(args[0], None)])
        self._replace("open", _created)
        for name in ("write", "pwrite"):
            self._replace(name, lambda args, kwargs: [_path(args[0], None)], _half_a_buffer)
        for name in ("writev", "pwritev"):
            self._replace(name, lambda args, kwargs: [_path(args[0], None)], _half_of_buffers)
        fcntl.ioctl = self._watched("ioctl", fcntl.ioctl, lambda args, kwargs: [_path(args[0], None)], None)
        self._replace_reserve()
        self._replace_files()

    def step(self, name: str, path: str, act: Callable[[], Any], middle: Callable[[], Any] | None) -> Any:
        """Do ``act``, a change of ``path``, unless this is where to die."""
        if path != self._root and not path.startswith(self._root + os.sep):
            return act()
        with self._turn:
            self.names.append(name)
            deadly = len(self.names) == self._at
        if not deadly:
            return act()
        if self._when is When.AFTER or (self._when is When.MIDDLE and middle is None):
            act()
        elif self._when is When.MIDDLE and middle is not None:
            middle()
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)  # until the signal is there: this thread must not go on meanwhile
        raise AssertionError("a killed process lives")

    def _replace(
        self, name: str, paths: Callable[[Any, Any], list[str]], halve: Callable[[Any], Any] | None = None
    ) -> None:
        setattr(os, name, self._watched(name, getattr(os, name), paths, halve))

    def _watched(self, name: str, call: Any, paths: Callable[[Any, Any], list[str]], halve: Any) -> Any:
        def watched(*args: Any, **kwargs: Any) -> Any:
            for path in paths(args, kwargs):
                middle = None if halve is None else lambda: call(*halve(args), **kwargs)
                return self.step(name, path, lambda: call(*args, **kwargs), middle)
            return call(*args, **kwargs)

        return watched

    def _replace_reserve(self) -> None:
        """``fallocate`` is called through ctypes, in a function that several modules have imported."""
        from dmr_adapters.model_store import kernel

        real = kernel.reserve
        watched = self._watched("fallocate", real, lambda args, kwargs: [_path(args[0], None)], None)
        for module in list(sys.modules.values()):
            for name, value in list(vars(module).items()) if hasattr(module, "__dict__") else ():
                if value is real:
                    setattr(module, name, watched)

    def _replace_files(self) -> None:
        """Files opened by Python write without asking ``os``."""
        real, points = io.open, self

        class File(io.FileIO):
            def write(self, data: Any, /) -> Any:
                view, write = memoryview(data).cast("B"), super().write
                path = _path(self.fileno(), None)
                return points.step("write", path, lambda: write(view), lambda: write(view[: _half(len(view))]))

        def opened(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **kwargs: Any) -> Any:
            if "b" not in mode or not set(mode) & set("wxa+"):
                return real(file, mode, buffering, *args, **kwargs)
            path = _path(file, None)
            make = (lambda: File(file, mode)) if not kwargs.get("opener") else None
            if make is None:
                return real(file, mode, buffering, *args, **kwargs)
            raw = make() if isinstance(file, int) else self.step("open", path, make, None)
            if buffering == 0:
                return raw
            return io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)

        io.open = opened


def _path(subject: Any, directory: int | None) -> str:
    """The path that an argument means; empty where there is none."""
    try:
        if isinstance(subject, int):
            return os.readlink(f"/proc/self/fd/{subject}")
        text = os.fsdecode(subject)
        if directory is not None:
            return os.path.join(os.readlink(f"/proc/self/fd/{directory}"), text)
        return os.path.join(os.path.realpath(os.path.dirname(text) or "."), os.path.basename(text))
    except (OSError, TypeError):
        return ""


def _created(args: Any, kwargs: Any) -> list[str]:
    flags = args[1] if len(args) > 1 else kwargs.get("flags", 0)
    if not flags & (os.O_CREAT | os.O_TRUNC):
        return []
    return [_path(args[0], kwargs.get("dir_fd"))]


def _half_a_buffer(args: Any) -> Any:
    view = memoryview(args[1]).cast("B")
    return (args[0], view[: _half(len(view))], *args[2:])


def _half_of_buffers(args: Any) -> Any:
    data = b"".join(bytes(buffer) for buffer in args[1])
    return (args[0], [data[: _half(len(data))]], *args[2:])


def _half(length: int) -> int:
    """Half of a write, as far as a kill can cut it: short ones are whole."""
    return length // 2 // _PAGE * _PAGE or length
