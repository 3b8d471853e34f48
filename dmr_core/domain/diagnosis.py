"""From how an engine ended, and what it printed last, to a cause and a next step."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterable, Mapping
from typing import Final

import attrs

from dmr_core.errors import (
    EngineCrashedError,
    EngineExitedError,
    EngineKilledError,
    EngineOutOfMemoryError,
    EngineUnusableError,
)

__all__ = ["MORE_MEMORY", "Rule", "diagnose", "explain_end", "out_of_memory"]

MORE_MEMORY: Final = (
    "Use a smaller model, quantisation or context size, or make room: `dmr ps` shows what is loaded and "
    "`dmr unload` takes it out."
)
"""What to do where memory ran out."""

_LINES: Final = 80
"""Only so many last lines say why an engine ended; what stands before may be a trouble it got over."""

_SHELL: Final = 128
"""A shell, and many a wrapper script, exits with this plus the number of the signal that ended its child."""

_OUTSIDE: Final = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
"""What is sent by somebody; every other signal that ends a process is its own doing."""

_FAULTS: Final[Mapping[int, str]] = {
    signal.SIGSEGV: "it accessed memory that is not its own",
    signal.SIGABRT: "it stopped itself, mostly because a check inside it failed",
    signal.SIGBUS: "a file it had mapped could not be read: the model's file shrank, or the disk failed or is full",
    signal.SIGFPE: "it divided by zero",
    signal.SIGTRAP: "it ran into a trap",
    signal.SIGSYS: "a sandbox forbids a system call it needs",
    signal.SIGXCPU: "it used up the CPU time it is allowed (ulimit -t)",
    signal.SIGXFSZ: "it wrote a file larger than it is allowed to (ulimit -f)",
}


@attrs.frozen
class Rule:
    r"""Output that tells a cause. ``cause`` and ``remedy`` may use the pattern's named groups as ``{name}``.

    Example::

        Rule(re.compile(r"unknown argument: (?P<flag>\S+)"), EngineFlagError, "refused {flag}", "Remove {flag}.")
    """

    pattern: re.Pattern[str]
    kind: type[EngineExitedError]
    cause: str
    remedy: str


def diagnose(failure: EngineExitedError, rules: Iterable[Rule]) -> EngineExitedError:
    """The same failure as the first of ``rules`` whose pattern is found in its last lines explains it.

    A failure that is explained already, or whose process was ended from outside, is returned as it is: what such a
    process printed is not why it ended.
    """
    if type(failure) is not EngineExitedError or failure.cause or _signal(failure.returncode) in _OUTSIDE:
        return failure
    lines = "\n".join(failure.tail.splitlines()[-_LINES:])
    for rule in rules:
        found = rule.pattern.search(lines)
        if found is not None:
            said = {name: " ".join((text or "").split()) for name, text in found.groupdict().items()}
            return rule.kind(
                failure.backend,
                failure.returncode,
                failure.tail,
                cause=rule.cause.format(**said),
                remedy=rule.remedy.format(**said),
            )
    return failure


def explain_end(failure: EngineExitedError) -> EngineExitedError:
    """What can be told of any program: a missing library, a foreign processor, a signal."""
    explained = diagnose(failure, _LOADER)
    if type(explained) is not EngineExitedError or explained.cause:
        return explained
    number = _signal(failure.returncode)
    if number is None:
        return failure
    how = f"{failure.backend} was killed by signal {number:d} ({_name(number)})"
    if number == signal.SIGILL:
        return EngineUnusableError(
            failure.backend,
            failure.returncode,
            failure.tail,
            cause=f"{how}: its program is built for another processor than this machine's",
            remedy="Install a build for this CPU (one without AVX2 or AVX-512, say).",
        )
    if number == signal.SIGKILL:
        return EngineKilledError(
            failure.backend,
            failure.returncode,
            failure.tail,
            cause=f"{how}, probably by the kernel because memory ran out, or by hand",
            remedy=f"`dmesg` and the container's events tell which. If it was memory: {MORE_MEMORY}",
        )
    if number in _OUTSIDE:
        return EngineKilledError(
            failure.backend,
            failure.returncode,
            failure.tail,
            cause=f"{how} by another program or by hand",
            remedy="Ask again to start it anew.",
        )
    fault = _FAULTS.get(number, "it crashed")
    return EngineCrashedError(
        failure.backend,
        failure.returncode,
        failure.tail,
        cause=f"{how}: {fault}",
        remedy="Ask again to start it anew; if it happens again, report it to the engine's makers with the output.",
    )


def out_of_memory(backend: str, returncode: int | None, tail: str) -> EngineOutOfMemoryError:
    """The kernel said that it killed this engine because memory ran out."""
    return EngineOutOfMemoryError(
        backend,
        returncode,
        tail,
        cause=f"the kernel killed {backend} because memory ran out, the machine's or that its container may use",
        remedy=MORE_MEMORY,
    )


def _signal(returncode: int | None) -> int | None:
    if returncode is None:
        return None
    if returncode < 0:
        return -returncode
    number = returncode - _SHELL
    return number if number in _FAULTS or number in (signal.SIGKILL, signal.SIGTERM, signal.SIGILL) else None


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "real-time"


_LOADER: Final = (
    Rule(
        re.compile(r"error while loading shared libraries: (?P<library>[^\s:]+)|Library not loaded: (?P<dylib>\S+)"),
        EngineUnusableError,
        "the engine's program cannot run: the shared library {library}{dylib} is missing",
        "Install the package that has it, or set LD_LIBRARY_PATH to where it is and start the service again.",
    ),
    Rule(
        re.compile(r"version [`'](?P<symbol>(?:GLIBC|GLIBCXX|CXXABI)_[\w.]+)' not found"),
        EngineUnusableError,
        "the engine's program cannot run: it was built for a newer system, one with {symbol}",
        "Install a build for this system, or run the service in its container image.",
    ),
    Rule(
        re.compile(r"Exec format error|[Cc]annot execute binary file|bad CPU type in executable"),
        EngineUnusableError,
        "the engine's program cannot run: it is built for another kind of processor",
        "Install a build for this machine (`uname -m` shows which).",
    ),
)
